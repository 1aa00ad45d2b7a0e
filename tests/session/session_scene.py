"""A solver and a trader in one process: real keys, journals, rulebook, commitments and tree.

The chain is a ledger in memory with the contract's rules for notes (a real LeanIMT, each
nullifier once, inputs equal outputs), so that no proof and no node is needed here; with a real
chain the same sessions are tested end to end elsewhere.

This file is long because nearly every test of sessions builds on this one scene: chain, peers, wire
and lives.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import trio
from trio.testing import memory_stream_pair

from psymm._core import LeanIMT
from psymm.chain.deployment import TokenInfo
from psymm.custody.errors import FundsTooLow
from psymm.custody.notes import Note, random_blinding, sole_custody
from psymm.custody.planning import Signatures
from psymm.custody.sending import SendTerms
from psymm.custody.settlement import Payee, PlannedSettlement
from psymm.errors import CollateralMissing, CollateralSpent, Disconnected, PSymmError
from psymm.journal.writer import Journal, open_journal
from psymm.messages import (
    ChainFact,
    ExecType,
    ExecutionReport,
    MarketDataRequest,
    MarketDataSnapshotFullRefresh,
    Message,
    NewOrderSingle,
    OrdType,
    PositionEffect,
    QuoteRequest,
    Resume,
    Side,
    decode_text,
    encode_text,
)
from psymm.nursery import open_block_nursery
from psymm.rulebook import Account
from psymm.session.protocol import Effects, Event, FrameReceived, FrameSent, SessionStatus
from psymm.session.protocol.chain_facts import ChainView, Fact, Mined, custody_of
from psymm.session.runtime.ledger import RulebookLedger
from psymm.session.runtime.party import LocalParty, journal_secret
from psymm.session.runtime.runner import SessionRunner
from psymm.session.runtime.settlement import SettlementFlow
from psymm.session.runtime.solver import SolverServer
from psymm.session.runtime.trader import Backoff, ConnectionLost, TraderSession
from psymm.session.runtime.transport import Socket, over_streams
from psymm.terms import (
    UNIT,
    ChainRef,
    CollateralTerms,
    Instrument,
    Limits,
    Rates,
    Tariff,
    Terms,
    Timeouts,
)
from psymm.transcript.agreement import SOLVER, CustodyAgreement
from psymm.transcript.resumption import challenge_for
from psymm.typed_message import TypedMessage
from psymm.wallet import KeyWallet, Wallet

CHAIN_ID = 31337
PSYMM = "0x5FbDB2315678afecb367f032d93F642f64180aa3"
REGISTRY = "0xe7f1725E7734CE288F8367e1Bb143E90bb3F0512"
TOKEN = "0x9fE46736679d2D9a65F0992F2272dE9f3c7fa6e0"
SECOND = 1_000_000_000
START_NS = 1_790_000_000 * SECOND
T = TypeVar("T")


def make_terms(**changes: Any) -> Terms:
    rates = Rates(cva=UNIT // 200, lf=UNIT // 200, mm=UNIT // 50)

    def instrument(symbol: str, tick: int) -> Instrument:
        return Instrument(
            symbol=symbol,
            tick=tick,
            lot=UNIT // 1000,
            min_notional=UNIT,
            max_notional=1_000_000 * UNIT,
            max_leverage=20 * UNIT,
            trader=rates,
            solver=rates,
            open_fee=UNIT // 2000,
            feed=symbol,
        )

    given: dict[str, Any] = {
        "chain": ChainRef(id=CHAIN_ID, psymm=PSYMM, registry=REGISTRY),
        "collateral": CollateralTerms(
            token=TOKEN,
            decimals=6,
            trader_minimum=100_000_000,
            solver_minimum=100_000_000,
            trader_reserve=100_000,
            solver_reserve=100_000,
        ),
        "instruments": (instrument("BTC-USD", UNIT // 10), instrument("ETH-USD", UNIT // 100)),
        "timeouts": Timeouts(),
        "end_date": START_NS + 365 * 86_400 * SECOND,
        "tariff": Tariff(relayer_cap=50_000),
        "limits": Limits(),
    }
    return Terms(**(given | changes))


class SceneClock:
    """Starts at START_NS and follows trio's clock, so a MockClock moves it."""

    def __init__(self) -> None:
        self._began = trio.current_time()
        self.offset_ns = 0

    def now_ns(self) -> int:
        return START_NS + int((trio.current_time() - self._began) * 1e9) + self.offset_ns


@dataclass
class LedgerChain:
    """Notes as the contract keeps them."""

    tree: LeanIMT = field(default_factory=LeanIMT)
    spent: dict[bytes, Mined] = field(default_factory=dict)
    facts: list[Fact] = field(default_factory=list)
    block: int = 1
    moved: trio.Event = field(default_factory=trio.Event)

    def insert(self, *commitments: bytes) -> None:
        for commitment in commitments:
            assert self.tree.index_of(commitment) is None, "a commitment has one life"
            self.tree.insert(commitment)
        self.block += 1

    def occupy(self, commitment: bytes) -> None:
        """Somebody deposits into exactly this commitment."""
        self.insert(commitment)
        self.facts.append(Fact(self.block, bytes([self.block % 256]) * 32, (), (commitment,)))

    def settle(self, settlement: PlannedSettlement) -> Mined:
        call = settlement.call
        at = self.spent.get(call.nullifiers[0])
        if at is not None:
            return at
        for note in settlement.plan.inputs:
            assert self.tree.proof(self.tree.index_of(note.commitment) or 0).verify()
            assert note.nullifier not in self.spent
        self.insert(*call.commitments)
        mined = Mined(self.block, bytes([self.block % 256]) * 32)
        self.spent.update(dict.fromkeys(call.nullifiers, mined))
        self.facts.append(Fact(mined.block, mined.transaction, call.nullifiers, call.commitments))
        self.moved.set()
        self.moved = trio.Event()
        return mined


class ChainCollateral:
    """Custody of one party on that chain."""

    def __init__(self, chain: LedgerChain, wallet: Wallet, clock: SceneClock) -> None:
        self.chain = chain
        self.wallet = wallet
        self.clock = clock
        self.funded: dict[bytes, list[Note]] = {}
        self.paid: list[Note] = []
        self.moves = 0
        self.checked: list[tuple[int, str | None]] = []
        # Why `check` and `fund` fail, if they do, and how much `check_funds` finds.
        self.unready: PSymmError | None = None
        self.unable: PSymmError | None = None
        self.funds = 1 << 100
        self.insert_notes = True
        self.shown: Callable[[list[Note]], list[Note]] = lambda notes: notes
        self.offer = SendTerms()
        self.looked_up = 0
        self.wanted: list[Note] = []

    async def check(
        self, agreement: CustodyAgreement, amount: int, symbol: str | None, now_ns: int
    ) -> None:
        await trio.lowlevel.checkpoint()
        self.checked.append((amount, symbol))
        if self.unready is not None:
            raise self.unready

    async def check_funds(self, terms: Terms, amount: int) -> None:
        await trio.lowlevel.checkpoint()
        if amount > self.funds:
            raise FundsTooLow(terms.collateral.token, amount, self.funds, 0)

    async def fund(
        self, agreement: CustodyAgreement, lane: int, token: str, amount: int
    ) -> Sequence[Note]:
        await trio.lowlevel.checkpoint()
        if self.unable is not None:
            raise self.unable
        custody = custody_of(agreement)
        if custody.id not in self.funded:
            note = Note(custody, token, amount, random_blinding())
            if self.insert_notes:
                self.chain.insert(note.commitment)
            self.funded[custody.id] = self.shown([note])
            self.moves += 1
        return self.funded[custody.id]

    async def verify(self, agreement: CustodyAgreement, notes: Sequence[Note]) -> None:
        await trio.lowlevel.checkpoint()
        for note in notes:
            if self.chain.tree.index_of(note.commitment) is None:
                raise CollateralMissing(commitment=note.commitment)
            if note.nullifier in self.chain.spent:
                raise CollateralSpent(commitment=note.commitment)

    async def payee(self, token: str, amount: int) -> Payee:
        await trio.lowlevel.checkpoint()
        note = Note(sole_custody(self.wallet.public_key), token, amount, random_blinding())
        self.wanted.append(note)
        return Payee(note.inner, bytes(256))

    async def relayer(self, token: str, cap: int) -> SendTerms:
        await trio.lowlevel.checkpoint()
        return self.offer

    async def sign(self, settlement: PlannedSettlement) -> bytes:
        return await self.wallet.sign_typed(settlement.call.message(CHAIN_ID, PSYMM))

    async def sign_payee(self, message: TypedMessage) -> bytes:
        return await self.wallet.sign_typed(message)

    async def settle(self, settlement: PlannedSettlement, signatures: Signatures) -> Mined:
        await trio.lowlevel.checkpoint()
        signatures.check(settlement.custody, settlement.call.digest(CHAIN_ID, PSYMM))
        return self.chain.settle(settlement)

    async def look_up(self, cited: ChainFact) -> ChainView:
        await trio.lowlevel.checkpoint()
        self.looked_up += 1
        found = [
            fact
            for fact in self.chain.facts
            if cited.nullifier in fact.spent or cited.commitment in fact.inserted
        ]
        return ChainView(self.chain.block, self.chain.block, found[0] if found else None)

    async def wait_spent(self, settlement: PlannedSettlement) -> Mined | None:
        while settlement.call.nullifiers[0] not in self.chain.spent:
            left = settlement.call.deadline - self.clock.now_ns() / SECOND
            with trio.move_on_after(max(left, 0)) as late:
                await self.chain.moved.wait()
            if late.cancelled_caught:
                return None
        return self.chain.spent[settlement.call.nullifiers[0]]

    def worth(self) -> int:
        return sum(
            note.amount
            for note in self.wanted
            if self.chain.tree.index_of(note.commitment) is not None
        )


async def in_place(work: Callable[..., T], *args: Any) -> T:
    """Runs what would run in a thread: trio's mock clock cannot see that a thread is busy."""
    await trio.lowlevel.checkpoint()
    return work(*args)


@asynccontextmanager
async def party(
    wallet: Wallet, chain: LedgerChain, clock: SceneClock, path: Path
) -> AsyncGenerator[LocalParty, None]:
    async with open_journal(path, run_sync=in_place) as journal:
        await journal.unlock(wallet.address, await journal_secret(wallet, CHAIN_ID, PSYMM))
        yield LocalParty(
            wallet,
            journal,
            ChainCollateral(chain, wallet, clock),
            clock,
            CHAIN_ID,
            PSYMM,
            REGISTRY,
            tokens=(TokenInfo(TOKEN, "USDT", 6),),
        )


class Listener:
    """Hears a session's events and lets a test wait for them."""

    def __init__(self) -> None:
        self.events: list[Event | ConnectionLost] = []
        self._more = trio.Event()
        self.also: list[Callable[[Event], None]] = []

    def __call__(self, event: Event | ConnectionLost) -> None:
        self.events.append(event)
        if not isinstance(event, ConnectionLost):
            for each in self.also:
                each(event)
        self._more.set()
        self._more = trio.Event()

    async def until(self, test: Callable[[Event | ConnectionLost], T | None], after: int = 0) -> T:
        seen = after
        while True:
            for event in self.events[seen:]:
                found = test(event)
                if found is not None and found is not False:
                    return found
            seen = len(self.events)
            await self._more.wait()

    async def message(self, kind: type[T], after: int = 0) -> T:
        def found(event: Event | ConnectionLost) -> T | None:
            if isinstance(event, FrameReceived) and isinstance(event.entry.message, kind):
                return event.entry.message
            return None

        return await self.until(found, after)

    async def state(self, state: SessionStatus) -> None:
        def found(event: Event | ConnectionLost) -> bool | None:
            return getattr(event, "status", None) is state or None

        await self.until(found)


def found(effects: Effects, kind: type[T]) -> T:
    """The first effect of a kind; there must be one."""
    return next(effect for effect in effects if isinstance(effect, kind))


class Desk:
    """The solver's application in these tests: hears everything, answers what it is told to."""

    def __init__(self, amount: int = 5_000_000_000) -> None:
        self.amount = amount
        self.ends: list[SessionRunner] = []
        self.listeners: list[Listener] = []
        self.begun = trio.Event()
        self.snapshots: list[MarketDataSnapshotFullRefresh] = []

    async def prices(self, request: MarketDataRequest) -> list[MarketDataSnapshotFullRefresh]:
        await trio.lowlevel.checkpoint()
        return self.snapshots

    def collateral_for(self, trader: str, introduced: int) -> int:
        return self.amount

    def session(self, runner: SessionRunner) -> Callable[[Event], None]:
        listener = Listener()
        self.ends.append(runner)
        self.listeners.append(listener)
        self.begun.set()
        return listener


class Wire:
    """A socket that a test can look into, bend and cut."""

    def __init__(self, inner: Socket) -> None:
        self.inner = inner
        self.sent: list[str | bytes] = []
        self.bend: Callable[[str | bytes], Sequence[str | bytes]] = lambda message: [message]

    async def send(self, message: str | bytes) -> None:
        self.sent.append(message)
        for each in self.bend(message):
            await self.inner.send(each)

    async def receive(self) -> str | bytes:
        return await self.inner.receive()

    @property
    def unread_bytes(self) -> int:
        return self.inner.unread_bytes

    def allow(self, small_frames: int) -> None:
        self.inner.allow(small_frames)

    async def aclose(self, code: int = 1000, reason: str = "") -> None:
        await self.inner.aclose(code, reason)


async def proven(socket: Socket, runner: SessionRunner, heads: Resume | None = None) -> Resume:
    """An end's heads, or others, signed over the challenge that its peer tells on a connection."""
    custody = runner.agreement.custody
    await socket.send(encode_text(challenge_for(custody, bytes(32))))
    asked = decode_text(await socket.receive())
    assert isinstance(asked, Resume)
    assert asked.challenge is not None
    assert (asked.trader_seq, asked.solver_seq, asked.signature) == (0, 0, None)
    prover = runner.protocol.resume_signer(runner.clock.now_ns())
    assert prover is not None
    return prover.sign(runner.agreement, asked.challenge, heads or runner.protocol.heads())


class Scene:
    """Both parties, their journals, and how to connect them."""

    def __init__(
        self,
        nursery: trio.Nursery,
        chain: LedgerChain,
        clock: SceneClock,
        trader: LocalParty,
        solver: LocalParty,
        terms: Terms,
    ) -> None:
        self.nursery = nursery
        self.chain = chain
        self.clock = clock
        self.trader = trader
        self.solver = solver
        self.terms = terms
        self.desk = Desk()
        self.server = SolverServer(solver, terms, b"\x07" * 32, self.desk)
        self.heard = Listener()
        self.client = self.new_client()
        self.wires: list[Wire] = []
        self.reachable = True

    def new_client(self, **given: Any) -> TraderSession:
        arguments: dict[str, Any] = {"collateral": 2_000_000_000} | given
        return TraderSession(
            self.trader,
            self.dial,
            self.heard,
            expected=self.solver.wallet.public_key,
            endpoint="memory",
            backoff=Backoff(0.2, 5.0),
            **arguments,
        )

    @asynccontextmanager
    async def dial(self) -> AsyncGenerator[Socket, None]:
        if not self.reachable:
            raise Disconnected("nobody listens", endpoint="memory")
        near, far = memory_stream_pair()
        async with open_block_nursery() as nursery:
            client, served = await over_streams(nursery, near, far)
            nursery.start_soon(self.server.connection, served)
            wire = Wire(client)
            self.wires.append(wire)
            try:
                yield wire
            finally:
                with trio.CancelScope(shield=True):
                    await wire.aclose()
                nursery.cancel_scope.cancel()

    async def open(self) -> None:
        """Serve, connect, and wait until both sides trade."""
        await self.nursery.start(self.server.run)
        await self.nursery.start(self.client.run)
        await self.heard.state(SessionStatus.TRADING)
        await self.desk.listeners[0].state(SessionStatus.TRADING)

    @property
    def near(self) -> SessionRunner:
        assert self.client.runner is not None
        return self.client.runner

    @property
    def far(self) -> SessionRunner:
        return self.desk.ends[0]

    def account(self, runner: SessionRunner) -> Account:
        assert isinstance(runner.protocol.state.rulebook, RulebookLedger)
        return runner.protocol.state.rulebook.account

    async def agreed(self) -> Account:
        """Wait until each side has all frames of the other, and compare their accounts."""

        def same(_: object) -> bool | None:
            near, far = self.near.protocol.record, self.far.protocol.record
            return True if all(near.head(lane) == far.head(lane) for lane in (0, 1)) else None

        async def either(listener: Listener, done: trio.CancelScope) -> None:
            await listener.until(same)
            done.cancel()

        if same(None) is None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(either, self.heard, nursery.cancel_scope)
                nursery.start_soon(either, self.desk.listeners[0], nursery.cancel_scope)
        near, far = self.account(self.near), self.account(self.far)
        assert near.hash == far.hash
        return near

    async def order(
        self,
        cl_ord_id: str,
        *,
        symbol: str = "BTC-USD",
        side: Side = Side.BUY,
        quantity: int = UNIT // 100,
        price: int = 50_000 * UNIT,
        position_id: bytes | None = None,
        expires_in_s: int = 30,
    ) -> NewOrderSingle:
        order = NewOrderSingle(
            cl_ord_id=cl_ord_id,
            symbol=symbol,
            side=side,
            order_qty=quantity,
            ord_type=OrdType.LIMIT,
            position_effect=PositionEffect.OPEN if position_id is None else PositionEffect.CLOSE,
            expire_time=self.clock.now_ns() + expires_in_s * SECOND,
            price=price,
            position_id=position_id,
        )
        await self.near.send(order)
        await self.desk.listeners[0].until(
            lambda event: (
                True if isinstance(event, FrameReceived) and event.entry.message == order else None
            )
        )
        return order

    async def report(self, exec_id: str, order: NewOrderSingle, **given: Any) -> None:
        arguments: dict[str, Any] = {
            "exec_id": exec_id,
            "cl_ord_id": order.cl_ord_id,
            "exec_type": ExecType.TRADE,
        }
        if given.get("exec_type", ExecType.TRADE) is ExecType.TRADE:
            arguments |= {"last_px": order.price, "last_qty": order.order_qty}
        await self.far.send(ExecutionReport(**(arguments | given)))

    def settling(
        self, runner: SessionRunner, listener: Listener
    ) -> tuple[SettlementFlow, list[Exception]]:
        failures: list[Exception] = []

        def account() -> Account:
            assert isinstance(runner.protocol.state.rulebook, RulebookLedger)
            return runner.protocol.state.rulebook.projected

        settlement_flow = SettlementFlow(runner, self.terms, self.nursery, account, failures.append)
        listener.also.append(settlement_flow.on_event)
        return settlement_flow, failures

    def both_settle(self) -> tuple[SettlementFlow, SettlementFlow]:
        """Both sides can settle, the trader's first; what fails by itself is not looked at."""
        near, _ = self.settling(self.near, self.heard)
        far, _ = self.settling(self.far, self.desk.listeners[0])
        return near, far


@asynccontextmanager
async def scene(
    path: Path, *, trader_wallet: KeyWallet | None = None, **changes: Any
) -> AsyncGenerator[Scene, None]:
    """A scene whose tasks end with the block."""
    clock, chain = SceneClock(), LedgerChain()
    async with (
        party(trader_wallet or KeyWallet.generate(), chain, clock, path / "trader.db") as trader,
        party(KeyWallet.generate(), chain, clock, path / "solver.db") as solver,
        open_block_nursery() as nursery,
    ):
        yield Scene(nursery, chain, clock, trader, solver, make_terms(**changes))
        nursery.cancel_scope.cancel()


class Lives:
    """The same two parties over several lives of their processes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.wallets: tuple[Wallet, Wallet] = (KeyWallet.generate(), KeyWallet.generate())
        self.chain = LedgerChain()
        self.clock = SceneClock()
        self.funds: dict[int, ChainCollateral] = {}

    @asynccontextmanager
    async def process(self) -> AsyncGenerator[Scene, None]:
        """One life of both, with nothing running yet."""
        async with (
            party(self.wallets[0], self.chain, self.clock, self.path / "trader.db") as trader,
            party(self.wallets[1], self.chain, self.clock, self.path / "solver.db") as solver,
            open_block_nursery() as nursery,
        ):
            parties = [self.with_funds(0, trader), self.with_funds(1, solver)]
            yield Scene(nursery, self.chain, self.clock, *parties, make_terms())
            nursery.cancel_scope.cancel()

    async def live(self, *, open_first: bool, work: Callable[[Scene], object]) -> None:
        async with self.process() as stage:
            if not open_first:
                (custody,) = await stage.trader.journal.custodies()
                stage.client = stage.new_client(resume=custody)
            await stage.nursery.start(stage.server.run)
            await stage.nursery.start(stage.client.run)
            await work(stage)  # type: ignore[misc]

    def with_funds(self, lane: int, made: LocalParty) -> LocalParty:
        """Money outlives processes; so does what was put up."""
        assert isinstance(made.collateral, ChainCollateral)
        funds = self.funds.setdefault(lane, made.collateral)
        return LocalParty(
            made.wallet,
            made.journal,
            funds,
            made.clock,
            made.chain_id,
            made.contract,
            made.registry,
            tokens=made.tokens,
        )


async def verified(journal: Journal, custody: bytes) -> int:
    """The journal's frames verify from the first to the last; how many there are."""
    from psymm.session.runtime.party import read_record

    held = await journal.custody(custody)
    return len(await read_record(journal, held.agreement))


__all__ = ["SOLVER", "Awaitable", "FrameSent", "Message", "QuoteRequest"]
