"""The API a newcomer uses, both ends in one process, on a mock clock."""

from decimal import Decimal
from pathlib import Path

import pytest
import trio
from market import entry_of, market
from session_scene import proven
from trio.testing import MockClock

from psymm.api import BUY, SELL, best_solver, decimal_of, scaled
from psymm.errors import Declined, NotNow, Refused
from psymm.journal.export import export
from psymm.messages import Resume, decode_text, encode_text
from psymm.session.protocol import SessionStatus
from psymm.session.runtime.report import verify_file


async def test_a_quote_is_hit_and_filled_whole(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with market(tmp_path) as trading:
        session = trading.session
        quote = await session.request_quote("BTC-USD", "0.01", BUY)
        assert quote.ask == Decimal(50010)
        order = await session.order(BUY, "BTC-USD", "0.01", quote=quote)
        result = await order.result()
        assert (result.status, result.filled) == ("filled", Decimal("0.01"))
        assert result.average_price == Decimal(50010)
        await trading.agreed()


async def test_a_session_says_how_long_a_frame_can_be_held_back_and_what_went_over_it(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with market(tmp_path) as trading:
        session = trading.session
        assert session.acknowledgement_s == 10.0
        order = await session.order(BUY, "BTC-USD", "0.01", price=50010)
        await order.result()
        await trading.agreed()
        statistics = session.statistics()
        assert statistics.traffic.frames_out >= 4
        assert statistics.frames == statistics.traffic.frames_in + statistics.traffic.frames_out
        assert statistics.connected


async def test_fills_come_in_two_parts(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with market(tmp_path) as trading:
        trading.maker.manner = "halves"
        order = await trading.session.order(BUY, "BTC-USD", "0.02", price=50000)
        fills = [fill.quantity async for fill in order]
        assert fills == [Decimal("0.01"), Decimal("0.01")]
        assert (await order.result()).status == "filled"
        await trading.agreed()


async def test_a_declined_order_says_why(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with market(tmp_path) as trading:
        trading.maker.manner = "decline"
        order = await trading.session.order(SELL, "ETH-USD", "0.5", price=3000)
        result = await order.result()
        assert (result.status, result.reason, result.filled) == ("declined", "not now", 0)
        await trading.agreed()


async def test_a_callback_that_raises_declines_the_order_and_the_session_goes_on(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with market(tmp_path) as trading:
        trading.maker.manner = "raise"
        order = await trading.session.order(BUY, "BTC-USD", "0.01", price=50000)
        assert (await order.result()).status == "declined"
        trading.maker.manner = "fill"
        order = await trading.session.order(BUY, "BTC-USD", "0.01", price=50000)
        assert (await order.result()).status == "filled"


async def test_a_pending_order_is_cancelled_by_the_request_alone(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with market(tmp_path) as trading:
        trading.maker.manner = "wait"
        order = await trading.session.order(BUY, "BTC-USD", "0.01", price=50000)
        assert (await order.cancel()).status == "cancelled"
        await trading.agreed()


async def test_a_locked_order_is_cancelled_once_the_solver_agrees(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with market(tmp_path) as trading:
        trading.maker.manner = "lock"
        order = await trading.session.order(BUY, "BTC-USD", "0.01", price=50000)
        await trio.sleep(1)
        assert order.status is not None
        assert order.status.value == "locked"
        assert (await order.cancel()).status == "cancelled"
        await trading.agreed()


async def test_an_order_nobody_fills_expires(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with market(tmp_path) as trading:
        trading.maker.manner = "wait"
        order = await trading.session.order(BUY, "BTC-USD", "0.01", price=50000, expires_in_s=5)
        assert (await order.result()).status == "expired"


async def test_a_request_that_is_not_quoted_is_declined(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with market(tmp_path) as trading:
        with pytest.raises(Declined, match="too much"):
            await trading.session.request_quote("BTC-USD", 2, BUY)


async def test_an_order_beyond_margin_is_refused_before_it_is_signed(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with market(tmp_path) as trading:
        before = len(trading.session.runner.protocol.record)
        with pytest.raises(Refused, match="margin"):
            await trading.session.order(BUY, "BTC-USD", 2, price=50000)
        assert len(trading.session.runner.protocol.record) == before


async def test_a_position_is_closed_in_two_parts_and_settlement_pays_both(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with market(tmp_path) as trading:
        session = trading.session
        await (await session.order(BUY, "BTC-USD", "0.02", price=50000)).result()
        await (await session.order(SELL, "ETH-USD", "0.5", price=3000)).result()
        (btc,) = [held for held in session.positions if held.symbol == "BTC-USD"]
        (eth,) = [held for held in session.positions if held.symbol == "ETH-USD"]
        await (await session.close(btc, price=50500, quantity="0.01")).result()
        with pytest.raises(NotNow, match="flat"):
            await session.settle()
        (left,) = [held for held in session.positions if held.symbol == "BTC-USD"]
        await (await session.close(left, price=51000)).result()
        await (await session.close(eth, price=2990)).result()
        await trading.agreed()
        settled = await session.settle()
        # 0.01·500 + 0.01·1000 + 0.5·10, less the fees of 0.0005 on 1000 and 1500 notional
        assert settled.gain == Decimal("18.75")
        assert session.state is SessionStatus.CLOSED
        paid = trading.trader_funds.worth(), trading.solver_funds.worth()
        assert paid == (2_018_750_000, 4_981_250_000)


async def test_a_trader_that_resumes_what_has_ended_is_served_and_no_session_of_the_solvers(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with market(tmp_path) as trading:
        await trading.session.settle()
        stage = trading.stage
        await trio.sleep(5)
        await stage.wires[-1].inner.aclose()
        # As after the connection that ended it, or in the solver's next life.
        far = await stage.server.sessions.known(trading.session.custody)
        assert far is not None
        stage.server.sessions.gone(far)
        await trio.sleep(1)
        assert not stage.server.statistics().runners
        async with stage.dial() as socket:
            await socket.send(encode_text(await proven(socket, trading.session.runner)))
            answer = decode_text(await socket.receive())
            heads = trading.session.runner.protocol.heads()
            assert isinstance(answer, Resume)
            seqs = answer.trader_seq, answer.solver_seq
            assert seqs == (heads.trader_seq, heads.solver_seq)
            assert set(stage.server.statistics().runners) == {trading.session.custody}
            assert not trading.maker.sessions


async def test_indicative_prices_are_shown_during_a_session(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with market(tmp_path) as trading:
        shown = await trading.session.indicative("ETH-USD")
        assert (shown.bid, shown.ask) == (Decimal(49990), Decimal(50010))


async def test_a_lost_connection_is_waited_out_by_the_next_order(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with market(tmp_path) as trading:
        await trading.stage.wires[-1].inner.aclose()
        order = await trading.session.order(BUY, "BTC-USD", "0.01", price=50000, expires_in_s=60)
        assert (await order.result()).status == "filled"
        assert trading.session.losses == 1


async def test_requests_that_waited_out_a_lost_connection_together_are_each_answered(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with market(tmp_path) as trading:
        trading.stage.reachable = False
        await trading.stage.wires[-1].inner.aclose()
        await trio.sleep(1)
        assert not trading.session.runner.protocol.synced
        quotes: list[str] = []

        async def ask() -> None:
            quotes.append((await trading.session.request_quote("BTC-USD", "0.01")).quote_id)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            nursery.start_soon(ask)
            await trio.sleep(1)
            trading.stage.reachable = True
        assert len(set(quotes)) == 2


async def test_an_order_sent_while_the_solver_is_away_is_filled_when_it_is_back(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with market(tmp_path) as trading:
        stage = trading.stage
        stage.wires[-1].bend = lambda message: []
        order = await trading.session.order(BUY, "BTC-USD", "0.01", price=50000, expires_in_s=60)
        assert (await order.result()).status == "filled"
        assert trading.session.losses == 1


@pytest.mark.parametrize("by_quote", [False, True])
async def test_a_logout_forbids_opening_and_nothing_else(
    tmp_path: Path, autojump_clock: MockClock, by_quote: bool
) -> None:
    """`spec.md` 63: what is open is closed, at a limit or by a quote, and both are paid out."""
    async with market(tmp_path) as trading:
        session = trading.session
        quote = await session.request_quote("BTC-USD", "0.1", BUY)
        opened = await (await session.order(BUY, "BTC-USD", "0.1", quote=quote)).result()
        assert opened.status == "filled"
        await session.log_out("done for today")
        await trio.sleep(2)
        assert all(session.account.logged_out), "the solver logs out too"
        with pytest.raises(Refused, match="logged-out"):
            await session.order(BUY, "BTC-USD", "0.01", price=50000)
        (held,) = session.positions
        if by_quote:
            quote = await session.request_quote("BTC-USD", "0.1", SELL)
            closing = await session.close(held, quote=quote)
        else:
            closing = await session.close(held, price=49_000)
        assert (await closing.result()).status == "filled"
        with pytest.raises(Refused, match="logged-out"):
            await session.request_quote("BTC-USD", "0.1", BUY)
        settled = await session.settle()
        assert settled.mined.block
        assert session.state is SessionStatus.CLOSED


def test_amounts_come_out_in_their_shortest_form() -> None:
    assert [str(decimal_of(scaled(text))) for text in ("50", "0.010", "-1.5")] == [
        "50",
        "0.01",
        "-1.5",
    ]
    with pytest.raises(ValueError, match="decimal places"):
        scaled("0.1234567890123456789")


async def test_a_float_is_no_price() -> None:
    with pytest.raises(TypeError, match="float"):
        scaled(0.1)  # type: ignore[arg-type]


async def test_the_best_of_all_solvers_is_found_and_the_dead_are_named(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with market(tmp_path) as trading:
        stage = trading.stage
        entry = entry_of(stage)
        stage_dial = stage.dial
        ranking = await best_solver(
            stage.trader, [entry], "BTC-USD", BUY, dial=lambda _: stage_dial
        )
        assert ranking.best.price == Decimal(50010)
        stage.reachable = False
        ranking = await best_solver(
            stage.trader, [entry], "BTC-USD", BUY, dial=lambda _: stage_dial
        )
        assert [error.code for _, error in ranking.failures] == ["disconnected"]


async def test_the_transcript_of_a_settled_custody_verifies_to_the_same_account(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with market(tmp_path) as trading:
        session = trading.session
        await (await session.order(BUY, "BTC-USD", "0.02", price=50000)).result()
        (held,) = session.positions
        await (await session.close(held, price=49000)).result()
        await session.settle()
        journal = trading.stage.trader.journal
        path = tmp_path / "t.psymm"
        await export(journal, session.custody, path)
        report = verify_file(path)
        assert report.chain_facts == "file"
        assert report.violations == ()
        assert report.account is not None
        assert report.account.ended
        assert report.account.hash == session.account.hash
