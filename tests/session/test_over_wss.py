"""A whole session over real sockets and TLS: it trades, survives a renewal, and is left well."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import trio
from session_scene import Scene, scene

sys.path.insert(0, str(Path(__file__).parent.parent / "api"))
sys.path.insert(0, str(Path(__file__).parent.parent / "sockets"))

from certificates import Authority
from market import Maker, entry_of

from psymm.api import BUY, connect
from psymm.errors import PeerLeft, ServerBusy, TlsRefused
from psymm.session.protocol import Resumed
from psymm.session.runtime.trader import Backoff, ConnectionLost, dialer
from psymm.session.runtime.transport import dial
from psymm.sockets.admission import AdmissionLimits
from psymm.sockets.tls import Certificate, client_context


async def until(test: object, within_s: float = 600) -> None:
    with trio.fail_after(within_s):
        while not test():  # type: ignore[operator]  # noqa: ASYNC110
            await trio.sleep(0.02)


async def served(stage: Scene, certificate: Certificate, **given: object) -> tuple[Maker, str]:
    maker = Maker(stage.solver, stage.terms, collateral=5_000, **given)  # type: ignore[arg-type]

    async def serve(*, task_status: trio.TaskStatus[int]) -> None:
        await maker.serve("127.0.0.1", 0, tls=certificate, task_status=task_status)

    return maker, f"wss://127.0.0.1:{await stage.nursery.start(serve)}"


async def test_a_session_over_wss_trades_on_through_a_restart_of_its_solver(
    tmp_path: Path,
) -> None:
    authority = Authority(tmp_path)
    files = authority.issue("solver")
    heard: list[object] = []
    async with scene(tmp_path) as stage:
        maker, endpoint = await served(stage, Certificate(files.chain, files.key))
        where = [endpoint]
        trust = client_context(authority.file)
        async with connect(
            stage.trader,
            entry_of(stage),
            dial=lambda: dialer(where[0], trust)(),
            collateral=2_000,
            decimals=6,
            on_event=heard.append,
            backoff=Backoff(0.05, 0.2),
        ) as session:
            order = await session.order(BUY, "BTC-USD", "0.01", price=50_000)
            assert (await order.result()).status == "filled"
            await maker.leave("a restart")
            await until(lambda: any(isinstance(one, ConnectionLost) for one in heard))
            (lost,) = [one for one in heard if isinstance(one, ConnectionLost)][:1]
            assert isinstance(lost.reason, PeerLeft)
            seen = len(heard)
            _, where[0] = await served(stage, Certificate(files.chain, files.key))
            await until(lambda: any(isinstance(one, Resumed) for one in heard[seen:]))
            order = await session.order(BUY, "BTC-USD", "0.01", price=50_000)
            assert (await order.result()).status == "filled"
            assert len(session.positions) == 2


async def test_a_solver_that_cannot_prove_itself_is_not_met(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    files = authority.issue("expired", days=(-9, -1))
    async with scene(tmp_path) as stage:
        _, endpoint = await served(stage, Certificate(files.chain, files.key))
        with pytest.raises(TlsRefused, match="expired"):
            async with connect(
                stage.trader,
                endpoint,
                tls=client_context(authority.file),
                collateral=2_000,
                decimals=6,
            ):
                raise AssertionError("a session began")
        assert not await stage.trader.journal.custodies()


async def test_a_leaving_solver_answers_503_and_ends_its_service(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    files = authority.issue("solver")
    trust = client_context(authority.file)
    async with scene(tmp_path) as stage:
        maker, endpoint = await served(
            stage, Certificate(files.chain, files.key), limits=AdmissionLimits(connections=9)
        )
        server = await maker.server()
        server.turn_away("leaving now")
        with pytest.raises(ServerBusy, match="leaving now"):
            async with dial(endpoint, trust):
                raise AssertionError("let in")
        assert server.statistics().admission.refused == 1
