"""Session keys as an application sees them."""

from __future__ import annotations

from pathlib import Path

import trio
from market import market
from rogue import forge
from trio.testing import MockClock

from psymm._core import address_of
from psymm.api import BUY
from psymm.messages import ExecType, ExecutionReport, encode


async def test_both_applications_rotate_their_keys_with_an_order_under_way(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with market(tmp_path) as trading:
        trading.maker.manner = "halves"
        order = await trading.session.order(BUY, "BTC-USD", "0.02", price=50000)
        before = trading.session.account.keys
        await trading.session.rotate_key()
        await trading.far.rotate_key()
        assert (await order.result()).status == "filled"
        await trading.agreed()
        after = trading.session.account.keys
        assert [len(lane) for lane in after] == [len(lane) + 1 for lane in before]
        assert trading.session.losses == 0


async def test_a_fill_that_a_revoked_key_signed_is_no_fill_any_more(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with market(tmp_path) as trading:
        trading.maker.manner = "nothing"
        session, far = trading.session, trading.far
        order = await session.order(BUY, "BTC-USD", "0.01", price=50000, expires_in_s=600)
        await trading.agreed()
        fill = ExecutionReport(
            exec_id="thief",
            cl_ord_id=order.cl_ord_id,
            exec_type=ExecType.TRADE,
            last_px=50_000 * 10**18,
            last_qty=10**16,
        )
        stolen = forge(far.runner, encode(fill))
        far.runner._connection.put(stolen.raw)  # type: ignore[union-attr]
        while not order.fills:  # noqa: ASYNC110
            await trio.sleep(0.01)
        known = far.runner.protocol.record.delegation(1)
        assert known is not None
        now = session.party.clock.now_ns()
        revoked = {address_of(known.public_key): stolen.seq}
        session.runner.perform(session.runner.protocol.revocations_learned({}, revoked, now))
        await trio.sleep(0.1)
        assert order.fills == ()
        assert not session.account.positions


async def test_a_solver_hears_that_a_revoked_key_was_used(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with market(tmp_path) as trading:
        near, far = trading.session.runner, trading.far.runner
        known = near.protocol.record.delegation(0)
        assert known is not None
        seq = near.protocol.record.head(0).seq + 1
        far.perform(far.protocol.revocations_learned({}, {address_of(known.public_key): seq}, 0))
        await trading.session.order(BUY, "BTC-USD", "0.01", price=50000)
        await trio.sleep(1)
        assert [error.code for error in trading.maker.failures] == ["key-revoked"]
