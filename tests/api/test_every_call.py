"""Every call of the API, at every moment of a session's runner: it succeeds or raises a typed
error.

A call that comes after the end, one that waits through it, and one that begins at any step of the
scheduler while it goes on. None hangs, none shows a trader or a solver trio's own errors.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest
import trio
from market import Maker, entry_of
from trio.testing import MockClock

from psymm.api import (
    BUY,
    IncomingOrder,
    IncomingQuoteRequest,
    Order,
    Session,
    SolverSession,
    connect,
)
from psymm.errors import JournalError, PSymmError
from psymm.messages import (
    Heartbeat,
    MarketDataRequest,
    MDEntryType,
    MDEntryTypeRef,
    SubscriptionRequestType,
    SymbolRef,
)
from psymm.session.protocol import SECOND, Effects, SessionStatus
from psymm.session.runtime.runner import SessionRunner
from psymm.session.runtime.solver import SolverServer
from psymm.wallet import KeyWallet

sys.path.insert(0, str(Path(__file__).parent.parent / "session"))

from key_scene import Device
from rogue import forge
from session_scene import Scene, Wire, scene

STEPS = 24
"""How many steps of the scheduler an end takes at most, by far."""


class StageMaker(Maker):
    """Keeps what it is asked, so that it can be answered at any time."""

    manner = "wait"

    def __init__(self, *given: object, **named: object) -> None:
        super().__init__(*given, **named)  # type: ignore[arg-type]
        self.asked: list[IncomingQuoteRequest] = []
        self.orders: list[IncomingOrder] = []

    async def on_quote_request(self, request: IncomingQuoteRequest) -> None:
        self.asked.append(request)
        await super().on_quote_request(request)

    async def on_order(self, order: IncomingOrder) -> None:
        self.orders.append(order)
        await super().on_order(order)


@dataclass
class Held:
    """What the applications of both sides hold of one custody, and may go on using."""

    stage: Scene
    device: Device
    maker: StageMaker
    session: Session
    order: Order
    position: bytes
    far: SolverSession
    serving: trio.CancelScope
    served: trio.Event
    leave: trio.Event
    left: trio.Event

    @property
    def server(self) -> SolverServer:
        return self.stage.server

    @property
    def asked(self) -> IncomingQuoteRequest:
        return self.maker.asked[-1]

    @property
    def incoming(self) -> IncomingOrder:
        return self.maker.orders[-1]


@asynccontextmanager
async def held(path: Path) -> AsyncGenerator[Held, None]:
    """A custody that trades, with a position, an order that waits and a quote that stands. It is
    left, and its server ended, in tasks of their own."""
    device = Device(KeyWallet.generate())
    async with scene(path, trader_wallet=cast(KeyWallet, device)) as stage:
        maker = StageMaker(stage.solver, stage.terms, collateral=5_000)
        serving, served = trio.CancelScope(), trio.Event()

        async def serve(*, task_status: trio.TaskStatus[None]) -> None:
            try:
                with serving:
                    async with trio.open_nursery() as nursery:
                        maker.run_callbacks(nursery)
                        stage.server = await maker.server()
                        await nursery.start(stage.server.run)
                        task_status.started()
                        await trio.sleep_forever()
            except* JournalError:
                pass  # it ends a solver, as it says
            served.set()

        await stage.nursery.start(serve)
        leave, left = trio.Event(), trio.Event()

        async def trading(*, task_status: trio.TaskStatus[Session]) -> None:
            async with connect(
                stage.trader, entry_of(stage), dial=stage.dial, collateral=2_000, decimals=6
            ) as session:
                task_status.started(session)
                await leave.wait()
            left.set()

        session: Session = await stage.nursery.start(trading)
        maker.manner = "fill"
        await (await session.order(BUY, "BTC-USD", "0.01", price=50_000)).result()
        maker.manner = "wait"
        await session.request_quote("BTC-USD", "0.01", BUY)
        order = await session.order(BUY, "BTC-USD", "0.01", price=50_000, expires_in_s=600)
        await trio.sleep(1)
        (far,) = maker.sessions.values()
        (position,) = session.account.positions
        yield Held(
            stage, device, maker, session, order, position, far, serving, served, leave, left
        )


# --- the calls ----------------------------------------------------------------------------------

Call = Callable[[Held], Awaitable[object]]


async def fills(one: Held) -> object:
    return [fill async for fill in one.order]


async def look(one: Held) -> object:
    session, far = one.session, one.far
    await trio.lowlevel.checkpoint()
    return (
        session.custody, session.solver, session.state, session.account, session.balances,
        session.positions, session.acknowledgement_s, session.statistics(), session.losses,
        session.fills_of(one.order.cl_ord_id), session.reason_of(one.order.cl_ord_id),
        session.next_id("x"), one.order.status, one.order.fills, far.custody, far.trader,
        far.account, far.projected, far.statistics(), far.order(one.order.cl_ord_id),
        far.next_id("x"), one.incoming.leaves, one.incoming.price, one.maker.statistics(),
        one.server.statistics(),
    )  # fmt: skip


async def throw(one: Held) -> object:
    one.maker.kill("to see")
    await trio.lowlevel.checkpoint()
    one.maker.revive()
    return None


async def post(one: Held) -> object:
    await trio.lowlevel.checkpoint()
    return one.session.runner.post(Heartbeat())


ASKED = MarketDataRequest(
    md_req_id="1",
    subscription_request_type=SubscriptionRequestType.SNAPSHOT,
    market_depth=1,
    no_md_entry_types=(MDEntryTypeRef(md_entry_type=MDEntryType.BID),),
    no_related_sym=(SymbolRef(symbol="BTC-USD"),),
)
CALLS: dict[str, Call] = {
    "look": look,
    "indicative": lambda one: one.session.indicative("BTC-USD", 5),
    "request_quote": lambda one: one.session.request_quote("BTC-USD", "0.01", BUY, 5),
    "order": lambda one: one.session.order(BUY, "BTC-USD", "0.01", price=50_000, expires_in_s=5),
    "close": lambda one: one.session.close(one.position, price=50_000, expires_in_s=5),
    "result": lambda one: one.order.result(),
    "fills": fills,
    "cancel": lambda one: one.order.cancel(),
    "next_change": lambda one: one.session.next_change(
        lambda: None, until_ns=one.stage.clock.now_ns() + 60 * SECOND
    ),
    "settle": lambda one: one.session.settle(),
    "checkpoint": lambda one: one.session.checkpoint(),
    "rotate_key": lambda one: one.session.rotate_key(),
    "end.say": lambda one: one.session.runner.send_text(ASKED),
    "end.send": lambda one: one.session.runner.send(Heartbeat()),
    "end.post": post,
    "end.flush": lambda one: one.session.runner.flush(Effects()),
    "quote": lambda one: one.asked.quote(bid="49990", ask="50010"),
    "reject": lambda one: one.asked.reject("late"),
    "lock": lambda one: one.incoming.lock(),
    "fill": lambda one: one.incoming.fill(quantity="0.001"),
    "decline": lambda one: one.incoming.decline("late"),
    "far.checkpoint": lambda one: one.far.checkpoint(),
    "far.rotate_key": lambda one: one.far.rotate_key(),
    "kill, revive": throw,
    "server": lambda one: one.maker.server(),
    "server.known": lambda one: one.server.sessions.known(one.far.custody),
    "log_out": lambda one: one.session.log_out("the end"),
    "end.leave": lambda one: one.session.runner.leave("later"),
    "leave": lambda one: one.maker.leave(within_s=1),
}
WAITING = ("next_change", "result", "fills", "settle", "checkpoint", "rotate_key")
"""What can wait for long; also called before the end."""


async def outcome(name: str, one: Held, *, within_s: float = 3_000) -> str:
    """What became of a call: `done`, or the error's code. Fails for anything else."""
    try:
        with trio.move_on_after(within_s) as late:
            await CALLS[name](one)
    except PSymmError as refused:
        return refused.code
    except Exception as failed:
        raise AssertionError(f"{name} raised {failed!r}") from failed
    assert not late.cancelled_caught, f"{name} hangs"
    return "done"


# --- the ends -----------------------------------------------------------------------------------


async def leave_block(one: Held) -> None:
    one.leave.set()
    await one.left.wait()


async def log_out(one: Held) -> None:
    with suppress(PSymmError):  # some call got there first
        await one.session.log_out("done")
    await trio.sleep(5)


async def settle(one: Held) -> None:
    """Flat, and both are paid: the custody is over for good."""
    with suppress(PSymmError):
        await one.order.cancel()
        one.maker.manner = "fill"
        await (await one.session.close(one.position, price=49_000)).result()
        await one.session.settle()
    await trio.sleep(5)


async def stop_server(one: Held) -> None:
    one.serving.cancel()
    await one.served.wait()


async def server_leaves(one: Held) -> None:
    await one.maker.leave(within_s=1)
    one.serving.cancel()
    await one.served.wait()


async def equivocate(one: Held) -> None:
    """The solver's key signs two frames with one number, and the trader is shown both."""
    far = one.far.runner
    twin = forge(far, b'{"MsgType":"0"}', seq=far.protocol.record.head(1).seq, covers=1)
    if far._connection is not None:
        far._connection.put(twin.raw)
    await trio.sleep(5)


async def trader_journal_fails(one: Held) -> None:
    one.stage.trader.journal._broken = JournalError("the disk is full")
    with suppress(PSymmError):
        await one.session.runner.send(Heartbeat())
    await trio.sleep(5)


async def solver_journal_fails(one: Held) -> None:
    one.stage.solver.journal._broken = JournalError("the disk is full")
    with suppress(PSymmError):
        await one.far.runner.send(Heartbeat())
    await trio.sleep(5)


async def cut(one: Held) -> None:
    one.stage.reachable = False
    await one.stage.wires[-1].inner.aclose()
    await trio.sleep(5)


ENDS: dict[str, Callable[[Held], Awaitable[None]]] = {
    "the block is left": leave_block,
    "logged out": log_out,
    "settled": settle,
    "the server ends": stop_server,
    "the server leaves": server_leaves,
    "two frames with one number": equivocate,
    "the trader's journal fails": trader_journal_fails,
    "the solver's journal fails": solver_journal_fails,
    "the connection is cut": cut,
}
STATES = {"settled": SessionStatus.CLOSED, "two frames with one number": SessionStatus.STOPPED}
FINAL = (
    "settled",
    "the block is left",
    "two frames with one number",
    "the trader's journal fails",
)
"""Ends after which nothing more can come of the trader's session: nobody waits for it."""


@pytest.mark.parametrize("end", ENDS)
async def test_each_call_after_an_end_succeeds_or_says_why_not(
    tmp_path: Path, autojump_clock: MockClock, end: str
) -> None:
    async with held(tmp_path) as one:
        await ENDS[end](one)
        assert one.session.state is STATES.get(end, SessionStatus.TRADING)
        # What is settled stays connected until its block is left.
        assert (one.session.runner.over is not None) == (end in FINAL[1:])
        assert (one.far.runner.over is not None) == end.startswith(("the server", "the solver"))
        for name in CALLS:
            # A call that has to wait for a connection may wait; it can be cancelled at any time.
            with trio.move_on_after(120) as scope:
                await outcome(name, one)
            if end in FINAL and not name.startswith("far."):
                assert not scope.cancelled_caught, name


@pytest.mark.parametrize("end", FINAL[1:])
async def test_what_waits_when_a_session_ends_is_told_at_once(
    tmp_path: Path, autojump_clock: MockClock, end: str
) -> None:
    async with held(tmp_path) as one:
        # Nothing reaches the solver any more, and the wallet takes its time.
        one.stage.wires[-1].bend = lambda message: []
        one.device.thinks_s = 3_600
        async with trio.open_nursery() as nursery:
            told: dict[str, str] = {}

            async def wait(name: str) -> None:
                told[name] = await outcome(name, one)

            for name in WAITING:
                nursery.start_soon(wait, name)
            await trio.sleep(0.5)
            began = trio.current_time()
            await ENDS[end](one)
        assert trio.current_time() - began < 60
        assert all(code != "done" for code in told.values()), told


@pytest.mark.parametrize("end", ENDS)
async def test_a_call_at_any_step_of_an_end_succeeds_or_says_why_not(
    tmp_path: Path, autojump_clock: MockClock, end: str
) -> None:
    """All calls at once, at each step of the scheduler while the session ends."""
    for step in range(STEPS):
        path = tmp_path / str(step)
        path.mkdir()
        async with held(path) as one, trio.open_nursery() as nursery:

            async def call(name: str, one: Held = one) -> None:
                # What waits for a connection that never comes back is ended by its caller.
                with trio.move_on_after(120):
                    await outcome(name, one)

            nursery.start_soon(ENDS[end], one)
            for _ in range(step):
                await trio.lowlevel.checkpoint()
            for name in CALLS:
                if name != "leave":
                    nursery.start_soon(call, name)


async def test_each_call_before_a_session_is_open_says_so(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = Wire.send

    async def deaf(wire: Wire, message: str | bytes) -> None:
        if isinstance(message, str):
            await send(wire, message)

    monkeypatch.setattr(Wire, "send", deaf)  # our Logon gets nowhere
    async with scene(tmp_path) as stage:
        await stage.nursery.start(stage.server.run)
        runner: SessionRunner = await stage.nursery.start(stage.client.run)
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "send": lambda: runner.send(Heartbeat()),
            "say": lambda: runner.send_text(ASKED),
            "flush": lambda: runner.flush(Effects()),
            "checkpoint": runner.checkpoint,
            "rotate_key": runner.rotate_key,
            "log_out": lambda: runner.log_out("early"),
            "leave": lambda: runner.leave("early"),
        }
        for name, call in calls.items():
            for _ in range(2):  # while it waits for the Logon's answer, and after that
                with trio.move_on_after(60), suppress(PSymmError):
                    await call()
                assert runner.protocol.status is SessionStatus.LOGON, name
        assert runner.statistics().state is SessionStatus.LOGON
