"""One life of a trader or a solver in the crash storm: a forked process on real parts.

Real journal and notes on disk, a real TCP WebSocket, a real node behind JSON-RPC, real proofs. A
life does what its phase asks for, tells the supervisor how it stands, and is killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import os
import signal
import time
import traceback
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from random import Random
from typing import Any, Final

import trio
from storm_load import HARMLESS, Maker, flatten, standing, storm_terms, trade
from storm_points import Reaper, instrument

from psymm._core import SecretKey, keccak256
from psymm.api import Session, VaultCollateral, connect, deliver_ended
from psymm.chain.deployment import Deployment
from psymm.chain.registry import RegistryEntry, Role
from psymm.chain.revocations import RevocationWatch
from psymm.chain.rpc import Rpc
from psymm.chain.transactions import Chain
from psymm.custody.moves import Vault, open_vault
from psymm.custody.prover import Prover
from psymm.custody.sending import DirectSender, Sender, SendTerms
from psymm.custody.settlement import Payee, PlannedSettlement
from psymm.custody.stored import FAILED
from psymm.errors import PSymmError
from psymm.imports import recursion_limit_kept
from psymm.journal.writer import open_journal
from psymm.relayer.sender import RelayerSender
from psymm.session.protocol import CheckpointInForce, Event, Stopped
from psymm.session.runtime.clock import SystemClock
from psymm.session.runtime.party import LocalParty, journal_secret
from psymm.session.runtime.trader import Backoff, ConnectionLost
from psymm.terms import ChainRef
from psymm.transcript.agreement import TRADER
from psymm.wallet import KeyWallet

UNIT: Final = 10**6
YEAR_NS: Final = 365 * 86_400 * 10**9
DEPOSIT: Final = 5_000 * UNIT
PUT_UP: Final = 1_000
LATE: Final = (
    "eth_account.typed_transactions.typed_transaction",
    "eth_hash.backends.pycryptodome",
    "httpx",
    "web3.providers.async_base",
)
CONNECTING: Final = HARMLESS | {"peer-refused", "chain-down", "no-relayer", "transaction-pending"}
"""Codes with which a connection may fail while the other side dies all the time."""


@dataclass(frozen=True)
class Place:
    """What both sides and the supervisor share: files, the node, ports."""

    home: Path
    rpc: str
    deployment: Deployment
    port: int
    custodies: int
    seed: int

    def wallet(self, name: str) -> KeyWallet:
        return KeyWallet(SecretKey.from_bytes(keccak256(f"{self.seed}/{name}".encode())))

    def recipient(self, name: str) -> str:
        return self.wallet(f"{name}'s funds").address


@dataclass(frozen=True)
class Task:
    """What one life is for. round: from 1. offset_s: how far the clocks were set forward."""

    side: str
    life: int
    phase: str
    round: int
    calm: bool
    point: str
    occurrence: int
    offset_s: int

    @property
    def aims_at_key(self) -> bool:
        """This life is to die where it keeps a session key, so it must change keys."""
        return self.point.startswith("keep_session_key")


class Teller:
    """Lines of JSON to the supervisor. A line is written whole or not at all."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __call__(self, **said: Any) -> None:
        os.write(self._descriptor, json.dumps(said).encode() + b"\n")


class _Faults(logging.Handler):
    """What the product logs as an error is a fault of the storm."""

    def __init__(self, tell: Teller) -> None:
        super().__init__(logging.ERROR)
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            text += "\n" + "".join(traceback.format_exception(record.exc_info[1]))[-2500:]
        self._tell(fault=text)


class OpenedLate:
    """A session's `Collateral` whose vault is opened when it is first asked for."""

    def __init__(self, place: Place, task: Task, stack: AsyncExitStack) -> None:
        self._place, self._task, self._stack = place, task, stack
        self._opening = trio.Lock()
        self._opened: tuple[Vault, tuple[Sender, ...], VaultCollateral] | None = None

    async def open(self) -> tuple[Vault, tuple[Sender, ...], VaultCollateral]:
        async with self._opening:
            if self._opened is None:
                place, wallet = self._place, self._place.wallet(self._task.side)
                deployment = place.deployment
                node = await self._stack.enter_async_context(Rpc(place.rpc))
                prover = await self._stack.enter_async_context(Prover())
                chain = Chain(node, deployment.chain_id, poll_s=0.05)
                pool = deployment.pool(chain)
                vault = await self._stack.enter_async_context(
                    await open_vault(
                        wallet,
                        deployment,
                        chain,
                        home=place.home / self._task.side,
                        prover=prover,
                    )
                )
                direct = DirectSender(pool, wallet)
                senders: tuple[Sender, ...] = (direct,)
                if self._task.side == "trader":
                    registry = deployment.party_registry(chain)

                    async def listed() -> list[RegistryEntry]:
                        return [entry async for entry in registry.list(Role.RELAYER)]

                    senders = (*RelayerSender(pool, listed).senders(None), direct)
                await vault.resume(senders)
                self._opened = (vault, senders, VaultCollateral(vault, senders))
            return self._opened

    async def check(self, opening: Any, amount: int, symbol: str | None, now_ns: int) -> None:
        await (await self.open())[2].check(opening, amount, symbol, now_ns)

    async def check_funds(self, terms: Any, amount: int) -> None:
        await (await self.open())[2].check_funds(terms, amount)

    async def fund(self, opening: Any, lane: int, token: str, amount: int) -> Any:
        return await (await self.open())[2].fund(opening, lane, token, amount)

    async def verify(self, opening: Any, notes: Any) -> None:
        await (await self.open())[2].verify(opening, notes)

    async def payee(self, token: str, amount: int) -> Payee:
        return await (await self.open())[2].payee(token, amount)

    async def look_up(self, cited: Any) -> Any:
        return await (await self.open())[2].look_up(cited)

    async def relayer(self, token: str, cap: int) -> SendTerms:
        return await (await self.open())[2].relayer(token, cap)

    async def sign(self, settlement: PlannedSettlement) -> bytes:
        return await (await self.open())[2].sign(settlement)

    async def sign_payee(self, message: Any) -> bytes:
        return await (await self.open())[2].sign_payee(message)

    async def settle(self, settlement: PlannedSettlement, signatures: Any) -> Any:
        return await (await self.open())[2].settle(settlement, signatures)

    async def wait_spent(self, settlement: PlannedSettlement) -> Any:
        return await (await self.open())[2].wait_spent(settlement)


# --- being born ---------------------------------------------------------------------------------


def import_all() -> None:
    """Import what the product imports only when it is needed: that takes longer than a life."""
    with recursion_limit_kept():
        for name in LATE:
            import_module(name)


def live(place: Place, task: Task, descriptor: int) -> None:
    """Live in this process, which was forked for it. Never returns."""
    tell = Teller(descriptor)
    try:
        with contextlib.suppress(OSError, AttributeError):
            # Where the kernel offers it: an orphan dies with the supervisor.
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)
        logging.basicConfig(handlers=[_Faults(tell)], force=True)
        reaper = Reaper(lambda point: tell(hit=point), task.point, task.occurrence)
        tap = os.open(place.home / task.side / "tap", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        instrument(reaper, lambda message: _write(tap, len(message).to_bytes(4) + message))
        _set_forward(task.offset_s)
        trio.run(_life, place, task, tell)
        tell(fault="a life ended by itself")
    except BaseException as failed:
        tell(fault="".join(traceback.format_exception(failed))[-3500:])
    finally:
        os._exit(1)


def _set_forward(offset_s: int) -> None:
    """Set this process's time of day forward, as the chain's is."""
    seconds, nanoseconds = time.time, time.time_ns
    time.time = lambda: seconds() + offset_s
    time.time_ns = lambda: nanoseconds() + offset_s * 10**9


def _write(descriptor: int, data: bytes) -> None:
    os.write(descriptor, data)


async def _life(place: Place, task: Task, tell: Teller) -> None:
    wallet = place.wallet(task.side)
    deployment = place.deployment
    async with AsyncExitStack() as stack:
        journal = await stack.enter_async_context(
            open_journal(place.home / task.side / "journal.db")
        )
        await journal.unlock(
            wallet.address, await journal_secret(wallet, deployment.chain_id, deployment.psymm)
        )
        collateral = OpenedLate(place, task, stack)
        node = await stack.enter_async_context(Rpc(place.rpc))
        watch = RevocationWatch(
            deployment.party_registry(Chain(node, deployment.chain_id, poll_s=0.05)),
            deployment.first_block,
            file=place.home / task.side / "revocations.json",
            poll_s=0.2,
        )
        party = LocalParty(
            wallet,
            journal,
            collateral,
            SystemClock(),
            deployment.chain_id,
            deployment.psymm,
            deployment.registry,
            watch,
            tokens=deployment.tokens,
        )
        tell(born=True)
        async with trio.open_nursery() as nursery:
            await nursery.start(watch.run)
            if task.phase == "open":
                await _deposit(place, task, collateral)
            if task.phase == "withdraw":
                nursery.start_soon(_withdraw, place, task, collateral, tell)
            work = _Trader if task.side == "trader" else _Solver
            await work(place, task, party, tell).run()


async def _deposit(place: Place, task: Task, collateral: OpenedLate) -> None:
    """One deposit for each round, however often we are killed in it."""
    vault, _, _ = await collateral.open()
    token = place.deployment.tokens[0].address
    begun = [
        move
        for move in await vault.store.moves()
        if move.kind == "deposit" and move.status != FAILED
    ]
    if len(begun) < task.round:
        await vault.deposit(place.wallet(task.side), token, DEPOSIT)


async def _withdraw(place: Place, task: Task, collateral: OpenedLate, tell: Teller) -> None:
    """One withdrawal, of a sum that only it has, to an address that only it uses."""
    vault, senders, _ = await collateral.open()
    token = place.deployment.tokens[0].address

    async def begun() -> bool:
        return any(
            move.purpose == "withdraw" and move.status != FAILED
            for move in await vault.store.moves()
        )

    if not await begun():
        await vault.withdraw(token, 123 * UNIT, place.recipient(task.side), senders, max_fee=UNIT)
    while await vault.resume(senders):  # noqa: ASYNC110
        await trio.sleep(0.2)
    tell(withdrawn=True)


class _Trader:
    """K custodies with one solver, each in a session of its own."""

    def __init__(self, place: Place, task: Task, party: LocalParty, tell: Teller) -> None:
        self.place, self.task, self.party, self.tell = place, task, party, tell
        self.sessions: dict[int, Session] = {}
        self.assigned: dict[int, bytes] = {}
        self.done: Counter[str] = Counter()
        self.taking = trio.Lock()

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(deliver_ended, self.party, backoff=Backoff(0.02, 0.1)))
            for index in range(self.place.custodies):
                nursery.start_soon(self.keep, index)
            nursery.start_soon(self.report)

    async def report(self) -> None:
        while True:
            journal = self.party.journal
            closed = {
                held.agreement.custody.hex()
                for held in await journal.custodies()
                if held.state == "closed"
            }
            # What has ended is done with once its solver has the last frame.
            closed -= {held.agreement.custody.hex() for held in await journal.undelivered()}
            self.tell(
                health={
                    session.custody.hex(): standing(session.runner)
                    for session in self.sessions.values()
                },
                closed=sorted(closed),
                done=dict(self.done),
            )
            await trio.sleep(0.1)

    def heard(self, event: Event | ConnectionLost) -> None:
        if isinstance(event, Stopped) and event.error.code not in CONNECTING:
            self.tell(fault=f"the trader's session stopped: {event.error!r}")
        if isinstance(event, CheckpointInForce):
            self.done["checkpoints"] += 1

    async def keep(self, index: int) -> None:
        """Hold one session, whatever happens to it, until its custody is closed."""
        while True:
            async with AsyncExitStack() as stack:
                try:
                    async with self.taking:
                        custody = await self.custody(index)
                        if custody is None and self.task.phase != "open":
                            return
                        session = await stack.enter_async_context(
                            connect(
                                self.party,
                                f"ws://127.0.0.1:{self.place.port}/",
                                expected=self.place.wallet("solver").public_key,
                                collateral=PUT_UP,
                                resume=custody,
                                decimals=6,
                                on_event=self.heard,
                                backoff=Backoff(0.02, 0.1),
                                timeout_s=300,
                            )
                        )
                        self.assigned[index] = session.custody
                        self.sessions[index] = session
                    await self.work(index, session)
                except PSymmError as refused:
                    self.done[refused.code] += 1
                    if refused.code not in CONNECTING:
                        raise
            await trio.sleep(0.03)

    async def custody(self, index: int) -> Any:
        """The custody of the journal that this session goes on with; None to meet anew."""
        alive = {
            held.agreement.custody: held
            for held in await self.party.journal.custodies()
            if held.lane == TRADER and held.state not in ("closed", "stopped")
        }
        if self.assigned.get(index) in alive:
            return alive[self.assigned[index]]
        taken = set(self.assigned.values())
        free = [held for key, held in alive.items() if key not in taken]
        if index in self.assigned:
            return None  # its own is closed
        if free:
            self.assigned[index] = free[0].agreement.custody
            return free[0]
        return None

    async def work(self, index: int, session: Session) -> None:
        task = self.task
        if task.phase in ("trade", "open") and not task.calm:
            if task.aims_at_key:
                # Twice: the first may take a key that an earlier life had kept.
                await session.rotate_key()
                await session.rotate_key()
            await trade(session, Random(f"{self.place.seed}/{task.life}/{index}"), self.done)
        elif task.phase == "settle":
            await session.settle()
            await trio.sleep_forever()
        else:
            await flatten(session)
            await trio.sleep_forever()


class _Solver:
    """The solver, on its port."""

    def __init__(self, place: Place, task: Task, party: LocalParty, tell: Teller) -> None:
        deployment = place.deployment
        terms = storm_terms(
            ChainRef(id=deployment.chain_id, psymm=deployment.psymm, registry=deployment.registry),
            deployment.tokens[0].address,
            # One date for every life: the terms must stay the same.
            (time.time_ns() // YEAR_NS + 2) * YEAR_NS,
        )
        self.place, self.task, self.tell, self.party = place, task, tell, party
        self.maker = Maker(
            party,
            terms,
            collateral=PUT_UP,
            random=Random(f"{place.seed}/{task.life}/maker"),
            calm=task.calm or task.phase == "settle",
            rotations=1.0 if task.aims_at_key else 0.03,
        )

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(self.maker.serve, "127.0.0.1", self.place.port))
            self.tell(serving=True)
            while True:
                for error in self.maker.lasting:
                    if error.code not in CONNECTING:
                        self.tell(fault=f"the solver's session: {error!r}")
                self.maker.lasting.clear()
                self.tell(
                    health={
                        custody.hex(): standing(session.runner)
                        for custody, session in self.maker.sessions.items()
                    },
                    closed=[
                        held.agreement.custody.hex()
                        for held in await self.party.journal.custodies()
                        if held.state == "closed"
                    ],
                    done=dict(self.maker.failures),
                )
                await trio.sleep(0.1)
