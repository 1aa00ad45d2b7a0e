"""The processes of the session bench: a solver, its traders, and what there is beneath them."""

from __future__ import annotations

import json
import os
import resource
import secrets
import sqlite3
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter, process_time, time_ns
from typing import Any, Final, NoReturn

import trio
from trio_websocket import ConnectionClosed, WebSocketRequest, open_websocket_url, serve_websocket

from psymm.api import (
    BUY,
    IncomingOrder,
    IncomingQuoteRequest,
    Session,
    Solver,
    connect,
    scaled,
)
from psymm.chain.deployment import TokenInfo
from psymm.custody.notes import Note, random_blinding
from psymm.custody.planning import Signatures
from psymm.custody.sending import SendTerms
from psymm.custody.settlement import Payee, PlannedSettlement
from psymm.errors import SettlementRefused
from psymm.journal.writer import open_journal
from psymm.session.protocol.chain_facts import Mined, custody_of
from psymm.session.runtime.clock import SystemClock
from psymm.session.runtime.party import LocalParty, journal_secret
from psymm.terms import ChainRef, CollateralTerms, Instrument, Limits, Rates, Tariff, Terms
from psymm.transcript.agreement import CustodyAgreement
from psymm.typed_message import TypedMessage
from psymm.wallet import KeyWallet

CHAIN_ID: Final = 31337
PSYMM: Final = "0x5FbDB2315678afecb367f032d93F642f64180aa3"
REGISTRY: Final = "0xe7f1725E7734CE288F8367e1Bb143E90bb3F0512"
TOKEN: Final = "0x9fE46736679d2D9a65F0992F2272dE9f3c7fa6e0"  # noqa: S105
UNIT: Final = 10**6
SYMBOL: Final = "BTC-USD"
YEAR_NS: Final = 365 * 86_400 * 10**9
CONNECTING: Final = 16
"""Sessions that are being opened at one time."""
FRAME_BYTES: Final = (364, 423, 481, 361)
"""The four messages of a trade as ours are on the wire: what the bare echo sends."""
SIZES: Final[dict[str, Any]] = {"message_queue_size": 32, "receive_buffer_size": 64 * 1024}
"""trio-websocket's own defaults are slower; these are ours."""


@dataclass(frozen=True)
class Load:
    """sessions: at once. trades: of each, that are counted; as many again, at most ten, warm up."""

    sessions: int
    trades: int


class OnItsWord:
    """Collateral without a chain: notes are what their openings say."""

    async def check(
        self, agreement: CustodyAgreement, amount: int, symbol: str | None, now_ns: int
    ) -> None:
        await trio.lowlevel.checkpoint()

    async def check_funds(self, terms: Terms, amount: int) -> None:
        await trio.lowlevel.checkpoint()

    async def fund(
        self, agreement: CustodyAgreement, lane: int, token: str, amount: int
    ) -> Sequence[Note]:
        await trio.lowlevel.checkpoint()
        return [Note(custody_of(agreement), token, amount, random_blinding())]

    async def verify(self, agreement: CustodyAgreement, notes: Sequence[Note]) -> None:
        await trio.lowlevel.checkpoint()

    async def payee(self, token: str, amount: int) -> Payee:
        _no_chain()

    async def relayer(self, token: str, cap: int) -> SendTerms:
        _no_chain()

    async def sign(self, settlement: PlannedSettlement) -> bytes:
        _no_chain()

    async def sign_payee(self, message: TypedMessage) -> bytes:
        _no_chain()

    async def settle(self, settlement: PlannedSettlement, signatures: Signatures) -> Mined:
        _no_chain()

    async def wait_spent(self, settlement: PlannedSettlement) -> Mined | None:
        _no_chain()


def _no_chain() -> NoReturn:
    raise SettlementRefused("there is no chain in this bench")


class Maker(Solver):
    """Quotes one price and fills at once."""

    async def on_quote_request(self, request: IncomingQuoteRequest) -> None:
        await request.quote(bid=50_000, ask=50_000)

    async def on_order(self, order: IncomingOrder) -> None:
        await order.fill()


def make_terms() -> Terms:
    rates = Rates(cva=scaled("0.005"), lf=scaled("0.005"), mm=scaled("0.02"))
    return Terms(
        chain=ChainRef(id=CHAIN_ID, psymm=PSYMM, registry=REGISTRY),
        collateral=CollateralTerms(
            token=TOKEN, decimals=6, trader_minimum=UNIT, solver_minimum=UNIT
        ),
        instruments=(
            Instrument(
                symbol=SYMBOL,
                feed=SYMBOL,
                tick=scaled("0.1"),
                lot=scaled("0.001"),
                min_notional=scaled(1),
                max_notional=scaled(1_000_000),
                max_leverage=scaled(20),
                trader=rates,
                solver=rates,
            ),
        ),
        end_date=(time_ns() // YEAR_NS + 2) * YEAR_NS,
        tariff=Tariff(relayer_cap=0),
        # A lone session trades faster here than terms would let it.
        limits=Limits(frames_per_second=10_000),
    )


@asynccontextmanager
async def party_of(place: Path, wallet: KeyWallet) -> AsyncGenerator[LocalParty, None]:
    async with open_journal(place) as journal:
        await journal.unlock(wallet.address, await journal_secret(wallet, CHAIN_ID, PSYMM))
        tokens = (TokenInfo(TOKEN, "USDT", 6),)
        clock = SystemClock()
        yield LocalParty(
            wallet, journal, OnItsWord(), clock, CHAIN_ID, PSYMM, REGISTRY, tokens=tokens
        )


def resident_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def say(**words: object) -> None:
    print(json.dumps(words), flush=True)


async def lines() -> AsyncGenerator[str, None]:
    """What the process above writes to us, line by line."""
    stream, held = trio.lowlevel.FdStream(os.dup(0)), b""
    async with stream:
        while received := await stream.receive_some():
            held += received
            while b"\n" in held:
                line, held = held.split(b"\n", 1)
                yield line.decode().strip()


async def solver_process(place: Path) -> None:
    """Serve until the standard input ends; each line on it is answered by what was used so far."""
    wallet = KeyWallet.generate()
    async with party_of(place / "solver.db", wallet) as party, trio.open_nursery() as nursery:
        maker = Maker(party, make_terms(), collateral=5_000)
        port = await nursery.start(maker.serve, "127.0.0.1", 0)
        say(port=port, key=wallet.public_key.hex())
        async for _ in lines():
            journal = party.journal.statistics()
            say(
                cpu_s=process_time(),
                resident=resident_bytes(),
                commits=journal.commits,
                writes=journal.writes,
                sessions=len(maker.sessions),
            )
        nursery.cancel_scope.cancel()


async def traders_process(place: Path, port: int, key: bytes, load: Load) -> None:
    """Open all sessions, say so, and trade once told to."""
    wallet = KeyWallet.generate()
    opening = trio.CapacityLimiter(CONNECTING)
    sessions: list[Session] = []
    all_open, over = trio.Event(), trio.Event()

    async def hold(party: LocalParty) -> None:
        await opening.acquire_on_behalf_of(token := object())
        try:
            async with connect(
                party,
                f"ws://127.0.0.1:{port}/",
                expected=key,
                collateral=2_000,
                decimals=6,
            ) as session:
                opening.release_on_behalf_of(token)
                sessions.append(session)
                if len(sessions) == load.sessions:
                    all_open.set()
                await over.wait()
        finally:
            if token in opening.statistics().borrowers:
                opening.release_on_behalf_of(token)

    async with party_of(place / "traders.db", wallet) as party, trio.open_nursery() as nursery:
        for _ in range(load.sessions):
            nursery.start_soon(hold, party)
        await all_open.wait()
        say(open=len(sessions))
        async for line in lines():
            if line == "trade":
                say(**await measure(party, sessions, load.trades))
            else:
                break
        over.set()


async def measure(party: LocalParty, sessions: Sequence[Session], trades: int) -> dict[str, object]:
    times: list[float] = []
    # Few sessions trade hundreds of times a second each; many wait for each other.
    patience_s = 2.0 if len(sessions) <= 10 else 30.0
    async with trio.open_nursery() as nursery:
        for session in sessions:
            nursery.start_soon(trade, session, min(trades, 10), [], patience_s)
    journal = party.journal.statistics()
    began, cpu = perf_counter(), process_time()
    async with trio.open_nursery() as nursery:
        for session in sessions:
            nursery.start_soon(trade, session, trades, times, patience_s)
    took = perf_counter() - began
    after = party.journal.statistics()
    return {
        "seconds": took,
        "times": times,
        "cpu_s": process_time() - cpu,
        "commits": after.commits - journal.commits,
        "writes": after.writes - journal.writes,
    }


async def trade(session: Session, trades: int, times: list[float], patience_s: float = 30) -> None:
    """patience_s: how long a request lives. So many of a session are alive at once."""
    for _ in range(trades):
        began = perf_counter()
        quote = await session.request_quote(SYMBOL, "0.01", None, timeout_s=patience_s)
        if session.positions:
            order = await session.close(session.positions[0], quote=quote)
        else:
            order = await session.order(BUY, SYMBOL, "0.01", quote=quote)
        result = await order.result()
        times.append(perf_counter() - began)
        if result.status != "filled":
            raise SystemExit(f"the order ended as {result.status}: {result.reason}")


async def echo_process() -> None:
    async def echo(request: WebSocketRequest) -> None:
        connection = await request.accept()
        with suppress(ConnectionClosed):
            while True:
                await connection.send_message(await connection.get_message())

    async with trio.open_nursery() as nursery:
        serve = partial(serve_websocket, echo, "127.0.0.1", 0, None, **SIZES)
        server = await nursery.start(serve)
        say(port=server.port)
        async for _ in lines():
            pass
        nursery.cancel_scope.cancel()


async def echoes(port: int, rounds: int) -> list[float]:
    """Seconds that the four messages of a trade take to an echo and back, one after the other."""
    messages = [secrets.token_bytes(size) for size in FRAME_BYTES]
    times: list[float] = []
    async with open_websocket_url(f"ws://127.0.0.1:{port}/", **SIZES) as connection:
        for _ in range(rounds):
            began = perf_counter()
            for message in messages:
                await connection.send_message(message)
                await connection.get_message()
            times.append(perf_counter() - began)
    return times


def fsyncs(place: Path, rounds: int) -> list[float]:
    """Seconds of four fsyncs, each of a page that was just written."""
    times, page = [], secrets.token_bytes(4096)
    with (place / "fsync").open("wb", buffering=0) as file:
        for _ in range(rounds):
            began = perf_counter()
            for _ in range(4):
                file.write(page)
                os.fsync(file.fileno())
            times.append(perf_counter() - began)
    return times


def commits(place: Path, rounds: int) -> list[float]:
    """Seconds of four SQLite commits of one frame each, synchronised as the journal's are."""
    times, frame = [], secrets.token_bytes(450)
    base = sqlite3.connect(place / "commits.db", isolation_level=None)
    try:
        base.execute("PRAGMA journal_mode = WAL")
        base.execute("PRAGMA synchronous = FULL")
        base.execute("CREATE TABLE frames (place INTEGER PRIMARY KEY, raw BLOB)")
        for _ in range(rounds):
            began = perf_counter()
            for _ in range(4):
                base.execute("BEGIN IMMEDIATE")
                base.execute("INSERT INTO frames (raw) VALUES (?)", (frame,))
                base.execute("COMMIT")
            times.append(perf_counter() - began)
    finally:
        base.close()
    return times
