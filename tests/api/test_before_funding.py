"""Whatever can be known before collateral moves is checked before it moves, and nothing is kept of
an attempt that fails there; once there is a custody, nobody is left without being told of it.

This file is long because each check before funding is shown with what it leaves behind, in one
market.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import trio
from market import Maker, entry_of
from session_scene import TOKEN, ChainCollateral, Scene, SceneClock, make_terms, scene
from trio.testing import MockClock

from psymm.api import BUY, PlannedOrder, Session, best_solver, connect
from psymm.chain.errors import ChainDown
from psymm.custody.notes import Note
from psymm.errors import (
    AttemptEnded,
    BadIntroduction,
    ClocksDiffer,
    Declined,
    Disconnected,
    HandshakeRefused,
    OrderUnfit,
    PeerRefused,
    PeerSilent,
    PSymmError,
    TokenDiffers,
)
from psymm.messages import (
    BusinessMessageReject,
    BusinessRejectReason,
    Heartbeat,
    Introduction,
    decode_text,
    encode_text,
)
from psymm.relayer.errors import NoRelayer
from psymm.session.protocol import SessionStatus
from psymm.session.runtime.preflight import which_clock
from psymm.session.runtime.trader import Backoff
from psymm.terms import UNIT, CollateralTerms, Terms, Timeouts

OTHER = "0x2260FAC5E5542a773Aa44fBCfeDf7C193bc2C599"


@dataclass
class Street:
    """A solver that serves, and a trader that has met nobody."""

    stage: Scene
    maker: Maker

    @asynccontextmanager
    async def trade(self, **given: Any) -> AsyncGenerator[Session, None]:
        stage = self.stage
        arguments: dict[str, Any] = {
            "collateral": 2_000,
            "decimals": 6,
            "token": TOKEN,
            "dial": stage.dial,
            "backoff": Backoff(0.1, 1),
        }
        async with connect(stage.trader, entry_of(stage), **(arguments | given)) as session:
            yield session

    async def refused(
        self, kind: type[BaseException], match: str | None = None, **given: Any
    ) -> None:
        """The attempt fails so, and nothing moved and nothing is kept."""
        with pytest.raises(kind, match=match):
            async with self.trade(**given):
                pass
        assert self.funds.moves == 0
        assert await self.stage.trader.journal.custodies() == []

    @property
    def funds(self) -> ChainCollateral:
        assert isinstance(self.stage.trader.collateral, ChainCollateral)
        return self.stage.trader.collateral

    @property
    def solver_funds(self) -> ChainCollateral:
        assert isinstance(self.stage.solver.collateral, ChainCollateral)
        return self.stage.solver.collateral


@asynccontextmanager
async def street(path: Path, **terms: Any) -> AsyncGenerator[Street, None]:
    async with scene(path, **terms) as stage:
        maker = Maker(stage.solver, stage.terms, collateral=5_000)
        maker.run_callbacks(stage.nursery)
        stage.server = await maker.server()
        await stage.nursery.start(stage.server.run)
        yield Street(stage, maker)


def order(symbol: str = "BTC-USD", quantity: int = UNIT // 100, **given: Any) -> PlannedOrder:
    return PlannedOrder(symbol, BUY, quantity, **given)


# --- each check ---------------------------------------------------------------------------------


async def test_terms_in_another_token_than_the_one_named_are_refused(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    wrong = CollateralTerms(token=OTHER, decimals=6, trader_minimum=1, solver_minimum=1)
    async with street(tmp_path, collateral=wrong) as at:
        await at.refused(TokenDiffers, OTHER)


async def test_terms_that_count_in_other_decimals_are_refused(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with street(tmp_path) as at:
        await at.refused(TokenDiffers, "decimals", decimals=8)


async def test_terms_with_a_heartbeat_of_a_moment_make_no_flood_while_we_fund(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with street(tmp_path, timeouts=Timeouts(heartbeat=10_000_000)) as at:
        fund = at.funds.fund

        async def slowly(*given: Any) -> Sequence[Note]:
            await trio.sleep(20)
            return await fund(*given)

        at.funds.fund = slowly  # type: ignore[method-assign]
        async with at.trade():
            beats = [one for one in at.stage.wires[0].sent if one == encode_text(Heartbeat())]
        assert 10 <= len(beats) <= 60


@pytest.mark.parametrize("ahead_s", [500, -500, 3, -3])
async def test_a_solver_with_another_time_of_day_is_refused_and_not_ranked(
    tmp_path: Path, autojump_clock: MockClock, ahead_s: int
) -> None:
    async with street(tmp_path) as at:
        wrong = SceneClock()
        wrong.offset_ns = ahead_s * 10**9
        at.stage.server._party = replace(at.stage.solver, clock=wrong)
        await at.refused(ClocksDiffer, f"by_s={ahead_s}")
        await at.refused(ClocksDiffer, "ahead of ours" if ahead_s > 0 else "behind ours")
        entry = entry_of(at.stage)
        ranking = await best_solver(
            at.stage.trader, [entry], "BTC-USD", BUY, dial=lambda _: at.stage.dial
        )
        assert [error.code for _, error in ranking.failures] == ["clocks-differ"]


@pytest.mark.parametrize(
    ("theirs_s", "block_s", "late_s", "wrong"),
    [
        (300.0, 295.0, 600.0, "our clock is behind"),
        (-300.0, -2.0, None, "the solver's clock is behind"),
        (3600.0, -5.0, 600.0, "the solver's clock is ahead"),
        (-3600.0, -3605.0, 600.0, "our clock is ahead"),
        (300.0, -200.0, None, "does not tell"),
        (30.0, -10.0, 600.0, "does not tell"),
    ],
)
def test_the_chains_newest_block_tells_which_clock_is_wrong_where_it_can(
    theirs_s: float, block_s: float, late_s: float | None, wrong: str
) -> None:
    assert wrong in which_clock(theirs_s, block_s, late_s)


@pytest.mark.parametrize("ahead_s", [3600, -3600])
async def test_a_clock_that_is_an_hour_off_is_named_before_anything_moves(
    tmp_path: Path, autojump_clock: MockClock, ahead_s: int
) -> None:
    async with street(tmp_path) as at:
        wrong = SceneClock()
        wrong.offset_ns = ahead_s * 10**9
        at.stage.trader = replace(at.stage.trader, clock=wrong)
        await at.refused(BadIntroduction, "clock or yours is wrong")


async def test_a_slow_answer_is_no_wrong_clock(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with street(tmp_path) as at:
        serve = at.stage.server.handshake

        async def slow(greeting: Introduction) -> Any:
            await trio.sleep(7)
            answer = await serve(greeting)
            await trio.sleep(7)
            return answer

        at.stage.server.handshake = slow  # type: ignore[method-assign]
        async with at.trade() as session:
            assert session.state is SessionStatus.TRADING


@pytest.mark.parametrize(
    ("planned", "rule", "values"),
    [
        (order(symbol="DOGE-USD"), "unknown-symbol", "symbol=DOGE-USD"),
        (order(quantity=UNIT // 4096), "off-lot", "quantity=0.000244140625, lot=0.001"),
        (
            order(quantity=UNIT // 1000, price=UNIT // 10),
            "notional-out-of-bounds",
            "=0.0001, least=",
        ),
        (order(quantity=21 * UNIT), "notional-out-of-bounds", r"notional=10\d{5}[.,]"),
        (order(quantity=2 * UNIT), "margin", r"short_by=\d{1,7}[.)]"),
        (order(quantity=UNIT), "leverage", r"notional=50\d{3}[.)]"),
        (order(price=50_000 * UNIT + 1), "off-tick", "price=50000.000000000000000001, tick="),
        (order(quantity=(UNIT // 1000) << 200), "malformed", "code="),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)
async def test_a_first_order_that_the_rules_would_refuse_is_refused_before(
    tmp_path: Path, autojump_clock: MockClock, planned: PlannedOrder, rule: str, values: str
) -> None:
    async with street(tmp_path) as at:
        # As people write sizes and prices, not in units of the wire.
        await at.refused(OrderUnfit, rf"rule={rule}, .*{values}", orders=[planned])


async def test_a_later_order_is_checked_by_what_no_account_changes(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with street(tmp_path) as at:
        await at.refused(OrderUnfit, "off-lot", orders=[order(), order(quantity=1)])
        async with at.trade(orders=[order(), order(quantity=UNIT)]) as session:
            assert session.state is SessionStatus.TRADING


async def test_without_a_price_a_first_order_cannot_be_checked(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with street(tmp_path) as at:

        async def none(symbol: str) -> None:
            return None

        at.maker.on_prices = none  # type: ignore[method-assign, assignment]
        await at.refused(Declined, "no price", orders=[order()])
        async with at.trade(orders=[order(price=50_000 * UNIT)]):
            pass


@pytest.mark.parametrize(
    "why", [NoRelayer(registry="it lists no relayer"), ChainDown("http://x", "refused")]
)
async def test_funds_relayer_and_chain_are_asked_before_anything_moves(
    tmp_path: Path, autojump_clock: MockClock, why: PSymmError
) -> None:
    async with street(tmp_path) as at:
        at.funds.unready = why
        await at.refused(type(why))
        assert at.funds.checked == [(2_000_000_000, "USDT")]


async def test_nothing_put_up_is_no_session(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with street(tmp_path) as at:
        await at.refused(HandshakeRefused, "needs collateral", collateral=0)


async def test_a_solver_promises_only_what_it_has_and_says_so_before_the_trader_funds(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with street(tmp_path) as at:
        at.solver_funds.funds = 4_999_999_999
        await at.refused(PeerRefused, "solver-funds-too-low")
        at.solver_funds.funds += 1
        async with at.trade() as session:
            assert session.state is SessionStatus.TRADING


async def test_a_promise_below_the_solvers_own_terms_is_refused(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with street(tmp_path) as at:
        at.maker.collateral_for = lambda trader, introduced: 1  # type: ignore[method-assign]
        await at.refused(HandshakeRefused, "promises less")


# --- what stays open ----------------------------------------------------------------------------


def notes(error: BaseException) -> str:
    return " ".join(getattr(error, "__notes__", ()))


async def test_a_funding_that_fails_leaves_a_custody_that_is_named_and_is_taken_up_once(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with street(tmp_path) as at:
        at.funds.unable = ChainDown("http://x", "refused")
        with pytest.raises(ChainDown) as caught:
            async with at.trade():
                pass
        (row,) = await at.stage.trader.journal.custodies()
        assert row.state == "funding"
        assert f"psymm trade --resume 0x{row.agreement.custody.hex()}" in notes(caught.value)
        assert "2000 of " + TOKEN in notes(caught.value)
        at.funds.unable = None
        async with at.trade(resume=row) as session:
            assert session.custody == row.agreement.custody
        assert at.funds.moves == 1


async def test_a_resume_does_not_fund_again_what_is_funded(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with street(tmp_path) as at:
        fund = at.funds.fund

        async def stopped_after(*given: Any) -> Sequence[Any]:
            await fund(*given)
            raise ChainDown("http://x", "it died behind the move")

        at.funds.fund = stopped_after  # type: ignore[method-assign]
        with pytest.raises(ChainDown):
            async with at.trade():
                pass
        at.funds.fund = fund  # type: ignore[method-assign]
        (row,) = await at.stage.trader.journal.custodies()
        async with at.trade(resume=row) as session:
            assert session.state is SessionStatus.TRADING
        assert at.funds.moves == 1


@pytest.mark.parametrize("why", [RuntimeError("a bug of the application"), Declined("no")])
async def test_an_error_of_the_application_names_what_it_leaves_open(
    tmp_path: Path, autojump_clock: MockClock, why: Exception
) -> None:
    async with street(tmp_path) as at:

        async def application() -> None:
            async with at.trade() as session:
                await (await session.order(BUY, "BTC-USD", "0.01", price=50_000)).result()
                raise why

        with pytest.raises(type(why)) as caught:
            await application()
        (row,) = await at.stage.trader.journal.custodies()
        assert row.agreement.custody.hex() in notes(caught.value)
        assert "open: 1 positions, 0 orders" in notes(caught.value)


async def test_a_settled_custody_is_not_called_open(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with street(tmp_path) as at:

        async def application() -> None:
            async with at.trade() as session:
                await session.settle()
                raise RuntimeError("afterwards")

        with pytest.raises(RuntimeError) as caught:
            await application()
        assert notes(caught.value) == ""


async def test_a_session_that_does_not_open_in_time_names_its_custody(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with street(tmp_path) as at:

        async def never(*_: Any) -> Sequence[Any]:
            await trio.sleep_forever()
            raise AssertionError

        at.solver_funds.fund = never  # type: ignore[method-assign]
        with pytest.raises(PeerSilent) as caught:
            async with at.trade(timeout_s=60):
                pass
        (row,) = await at.stage.trader.journal.custodies()
        assert row.agreement.custody.hex() in notes(caught.value)


# --- refusals that cannot change ----------------------------------------------------------------


async def test_other_terms_on_the_way_back_end_the_attempt_with_the_custody_named(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with street(tmp_path) as at:
        fund = at.funds.fund

        async def fund_then_change(*given: Any) -> Sequence[Any]:
            made = await fund(*given)
            host = at.stage.server._host
            at.stage.server._host = replace(host, terms=_others(at.stage.terms).document)
            await at.stage.wires[-1].aclose()
            return made

        at.funds.fund = fund_then_change  # type: ignore[method-assign]
        with pytest.raises(AttemptEnded, match="does not remember this handshake") as caught:
            async with at.trade():
                pass
        (row,) = await at.stage.trader.journal.custodies()
        assert caught.value.custody == row.agreement.custody
        assert isinstance(caught.value.reason, HandshakeRefused)
        assert "Nothing was funded" not in str(caught.value)
        assert len(at.stage.wires) == 3
        # The next command ends likewise, without a loop, and funds nothing.
        with pytest.raises(AttemptEnded) as again:
            async with at.trade(resume=row):
                pass
        assert at.funds.moves == 1
        assert "--resume 0x" + row.agreement.custody.hex() in notes(again.value)


def _others(terms: Terms) -> Terms:
    return make_terms(force_close_gap=terms.force_close_gap * 2)


@pytest.mark.parametrize(
    ("reason", "tries"),
    [
        (BusinessRejectReason.NOT_AUTHORIZED, 2),
        (BusinessRejectReason.UNKNOWN_ID, 2),
        (BusinessRejectReason.OTHER, 3),
    ],
)
@pytest.mark.parametrize("about", ["UHI", "A"])
async def test_a_solver_that_refuses_each_time_is_not_asked_for_ever(
    tmp_path: Path,
    autojump_clock: MockClock,
    reason: BusinessRejectReason,
    tries: int,
    about: str,
) -> None:
    async with street(tmp_path) as at:
        refusing = _Refusing(at, about, reason)
        with pytest.raises(AttemptEnded, match="not with you") as caught:
            async with at.trade(dial=refusing.dial):
                pass
        (row,) = await at.stage.trader.journal.custodies()
        assert caught.value.custody == row.agreement.custody
        assert refusing.refused == tries
        assert at.funds.moves == 1


async def test_a_refusal_that_says_it_passes_is_asked_again(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with street(tmp_path) as at:
        refusing = _Refusing(at, "A", BusinessRejectReason.NOT_AVAILABLE, most=9)
        async with at.trade(dial=refusing.dial) as session:
            assert session.state is SessionStatus.TRADING
        assert refusing.refused == 9


class _Refusing:
    """A solver that answers introductions until the trader has funded, and then refuses: the
    Logon, or whatever comes on each further connection."""

    def __init__(
        self, at: Street, about: str, reason: BusinessRejectReason, most: int = 1000
    ) -> None:
        self.at, self.about, self.reason, self.most = at, about, reason, most
        self.refused = 0

    @asynccontextmanager
    async def dial(self) -> AsyncGenerator[Any, None]:
        async with self.at.stage.dial() as socket:
            yield _Refuser(self, socket)


class _Refuser:
    def __init__(self, owner: _Refusing, socket: Any) -> None:
        self._owner, self._socket = owner, socket
        self._answers: list[str] = []
        self._said = trio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)

    async def send(self, message: str | bytes) -> None:
        owner = self._owner
        met = owner.at.funds.moves > 0
        greets = isinstance(message, str) and isinstance(decode_text(message), Introduction)
        due = isinstance(message, bytes) if owner.about == "A" else greets
        if owner.about == "UHI" and isinstance(message, bytes):
            await self._socket.aclose()
            return
        if met and due and owner.refused < owner.most:
            owner.refused += 1
            said = BusinessMessageReject(
                ref_msg_type=owner.about,
                business_reject_reason=owner.reason,
                text="not with you",
            )
            self._answers.append(encode_text(said))
            self._said.set()
            return
        await self._socket.send(message)

    async def receive(self) -> str | bytes:
        found: list[str | bytes] = []

        async def real(scope: trio.CancelScope) -> None:
            try:
                found.append(await self._socket.receive())
            finally:
                scope.cancel()

        async def own(scope: trio.CancelScope) -> None:
            await self._said.wait()
            scope.cancel()

        if not self._answers:
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(real, nursery.cancel_scope)
                    nursery.start_soon(own, nursery.cancel_scope)
            except* Disconnected:
                raise Disconnected() from None
        if found:
            return found[0]
        if not self._answers:
            raise Disconnected()
        self._said = trio.Event()
        return self._answers.pop(0)
