"""Sessions under load beside their peers, in one table.

    make bench-session              everything, some five minutes; the first run builds QuickFIX
    make bench-session QUICK=1      everything once and small: shows that it runs, no more
    make bench-session ONLY='psymm' some parts: floor, psymm, idle, quickfix, synced
    make bench-session WRITE=1      and puts the table into benches/README.md

A trade is QuoteRequest → Quote → NewOrderSingle → ExecutionReport, alternately opening and closing
a position. Each session has one under way and begins the next when it is filled. There are two
processes: one acceptor (a `psymm.api.Solver` with its callbacks; QuickFIX's SocketAcceptor) and one
that holds all initiators (`psymm.api.connect`; QuickFIX's SocketInitiator), on real sockets.

Ours: signed, chained, verified, ruled and margin-checked at both ends, and both journals in SQLite
with full synchronisation. The notes of a custody are taken on their word: no chain, no proof.
QuickFIX: FIX 4.4, data dictionary, Python callbacks, its FileStore, which flushes to the operating
system and does not synchronise; and once more with its store synchronised (`synced.c`). It knows
neither margin, nor account, nor signature.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import json
import os
import platform
import resource
import secrets
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from time import perf_counter, process_time, time_ns
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, NoReturn

import trio
from trio_websocket import (
    ConnectionClosed,
    WebSocketRequest,
    open_websocket_url,
    serve_websocket,
)

from psymm.api import (
    BUY,
    IncomingOrder,
    IncomingQuoteRequest,
    Session,
    Solver,
    TraderPolicy,
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

if TYPE_CHECKING:
    from collections.abc import Iterator

REPO: Final = Path(__file__).resolve().parents[1]
README: Final = REPO / "benches" / "README.md"
BEGIN, END = "<!-- sessions: begin -->", "<!-- sessions: end -->"
PEER_REQUIREMENTS: Final = REPO / "benches" / "peers-python" / "requirements.txt"
QUICKFIX_PEER: Final = REPO / "benches" / "peers-python" / "quickfix_peer.py"
PARTS: Final = ("floor", "psymm", "idle", "quickfix", "synced")
TITLES: Final = {
    "psymm": "pSymm",
    "quickfix": "QuickFIX, its Python",
    "synced": "QuickFIX, synchronised",
}

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
WIDTH: Final = 56
IDLE_BOUND: Final = 300 * 10**6


@dataclass(frozen=True)
class Load:
    """sessions: at once. trades: of each, that are counted; as many again, at most ten, warm up."""

    sessions: int
    trades: int


MOST_ALIVE: Final = 2_000
"""Requests of a session at once: it trades some hundred times a second."""
LOADS: Final = (Load(1, 1000), Load(10, 150), Load(100, 20), Load(1000, 4))
SYNCED_LOADS: Final = (Load(1, 200), Load(10, 30), Load(100, 5))
QUICK_LOADS: Final = (Load(1, 4), Load(3, 2))


# --- our two processes --------------------------------------------------------------------------


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
        maker = Maker(party, make_terms(MOST_ALIVE), collateral=5_000)
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
                policy=TraderPolicy(quotes=MOST_ALIVE),
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


# --- what there is beneath ----------------------------------------------------------------------


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


# --- processes ----------------------------------------------------------------------------------


class Child:
    """A process of this bench that answers each line with one."""

    def __init__(self, command: Sequence[str | Path], preload: Path | None) -> None:
        self._process = subprocess.Popen(
            [str(word) for word in command],
            env=os.environ if preload is None else {**os.environ, "LD_PRELOAD": str(preload)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def heard(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"a process of the bench ended: {self._process.wait()}")
        found: dict[str, Any] = json.loads(line)
        return found

    def ask(self, word: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()
        return self.heard()

    def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextmanager
def child(*command: str | Path, preload: Path | None = None) -> Iterator[Child]:
    started = Child(command, preload)
    try:
        yield started
    finally:
        started.end()


def ourselves(*words: object) -> list[str]:
    return [sys.executable, str(Path(__file__)), *map(str, words)]


# --- measuring ----------------------------------------------------------------------------------


def in_microseconds(times: Sequence[float]) -> dict[str, float]:
    ordered = sorted(times)
    last = len(ordered) - 1
    return {
        name: round(ordered[min(last, int(len(ordered) * share))] * 1e6, 1)
        for name, share in (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999))
    }


def measure_floor(quick: bool) -> dict[str, Any]:
    rounds = 5 if quick else 1000
    with child(*ourselves("echo")) as server, tempfile.TemporaryDirectory(dir=work()) as directory:
        port = server.heard()["port"]
        trio.run(echoes, port, rounds // 5)
        return {
            "four echoes": in_microseconds(trio.run(echoes, port, rounds)),
            "four fsyncs": in_microseconds(fsyncs(Path(directory), rounds)),
            "four commits": in_microseconds(commits(Path(directory), rounds)),
        }


def measure_ours(load: Load) -> dict[str, Any]:
    with (
        tempfile.TemporaryDirectory(dir=work()) as place,
        child(*ourselves("solver", place)) as solver,
    ):
        told = solver.heard()
        words = ("traders", place, told["port"], told["key"], load.sessions, load.trades)
        with child(*ourselves(*words)) as traders:
            traders.heard()
            # The warm-up is in the solver's figures too, so they are told a trade, not a second.
            before = solver.ask("")
            found = traders.ask("trade")
            after = solver.ask("")
    made = load.sessions * (load.trades + min(load.trades, 10))
    return row(load, found) | {
        "acceptor_cpu_us": round((after["cpu_s"] - before["cpu_s"]) / made * 1e6),
        "writes_per_commit": round(
            (after["writes"] - before["writes"]) / (after["commits"] - before["commits"]), 1
        ),
        "resident": after["resident"],
    }


def row(load: Load, found: dict[str, Any]) -> dict[str, Any]:
    made = load.sessions * load.trades
    return {
        "sessions": load.sessions,
        "trades": made,
        "trades_per_second": round(made / found["seconds"], 1),
        "initiator_cpu_us": round(found["cpu_s"] / made * 1e6),
        **in_microseconds(found["times"]),
    }


def measure_idle(quick: bool) -> dict[str, Any]:
    count, seconds = (3, 1.0) if quick else (1000, 30.0)
    with (
        tempfile.TemporaryDirectory(dir=work()) as place,
        child(*ourselves("solver", place)) as solver,
    ):
        told = solver.heard()
        empty = solver.ask("")["resident"]
        words = ("traders", place, told["port"], told["key"], count, 1)
        began = perf_counter()
        with child(*ourselves(*words)) as traders:
            traders.heard()
            opened = perf_counter() - began
            before, began = solver.ask(""), perf_counter()
            trio.run(trio.sleep, seconds)
            after, passed = solver.ask(""), perf_counter() - began
    return {
        "sessions": after["sessions"],
        "empty": empty,
        "resident": after["resident"],
        "cpu_share": (after["cpu_s"] - before["cpu_s"]) / passed,
        "opened_s": round(opened, 1),
    }


# --- QuickFIX -----------------------------------------------------------------------------------


def peer_python() -> Path:
    """QuickFIX in an environment of its own, built if it is not there: some minutes."""
    place = REPO / "build" / "bench-peers"
    python, stamp = place / "python" / "bin" / "python", place / "requirements.txt"
    wanted = PEER_REQUIREMENTS.read_text()
    if not stamp.exists() or stamp.read_text() != wanted:
        print("building QuickFIX, once", file=sys.stderr)
        place.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, "-m", "venv", place / "python"], check=True)
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "--require-hashes", "-r", PEER_REQUIREMENTS], check=True)
        stamp.write_text(wanted)
    return python


def synchronising() -> Path:
    """The shared object that makes QuickFIX's store durable."""
    made = REPO / "build" / "bench-peers" / "synced.so"
    source = PEER_REQUIREMENTS.with_name("synced.c")
    if not made.exists() or made.stat().st_mtime < source.stat().st_mtime:
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", made, source, "-ldl"], check=True)
    return made


def measure_quickfix(load: Load, preload: Path | None = None) -> dict[str, Any]:
    python = peer_python()
    server = (python, QUICKFIX_PEER, "acceptor")
    with (
        tempfile.TemporaryDirectory(dir=work()) as place,
        child(*server, place, str(load.sessions), preload=preload) as acceptor,
    ):
        port = acceptor.heard()["port"]
        words = ("initiator", place, str(load.sessions), str(port), str(load.trades))
        with child(python, QUICKFIX_PEER, *words, preload=preload) as initiator:
            initiator.heard()
            before = acceptor.ask("")
            found = initiator.ask("trade")
            after = acceptor.ask("")
    made = load.sessions * (load.trades + min(load.trades, 10))
    return row(load, found) | {
        "acceptor_cpu_us": round((after["cpu_s"] - before["cpu_s"]) / made * 1e6)
    }


# --- the table ----------------------------------------------------------------------------------


def load_verification() -> ModuleType:
    """The other bench, for what both say of the machine."""
    path = REPO / "benches" / "verification.py"
    spec = importlib.util.spec_from_file_location("verification_bench", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def machine(command: str) -> dict[str, str]:
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "command": command,
        "processor": load_verification().processor(),
        "load before": " ".join(f"{load:.2f}" for load in os.getloadavg()),
        "versions": ", ".join(
            [
                f"Python {platform.python_version()}",
                f"SQLite {sqlite3.sqlite_version}",
                *(f"{name} {version(name)}" for name in ("trio", "trio-websocket", "wsproto")),
                "QuickFIX " + PEER_REQUIREMENTS.read_text().split("quickfix==")[1].split()[0],
            ]
        ),
    }


def milliseconds(microseconds: float) -> str:
    return f"{microseconds / 1000:.2f} ms"


def table(measured: dict[str, Any]) -> str:
    out = [f"{name}: {value}" for name, value in measured["machine"].items()]
    out.append("")
    if measured["quick"]:
        out += ["QUICK: everything ran once, no figure here means anything.", ""]
    floor = measured.get("floor")
    if floor is not None:
        out += ["Beneath: two processes, one connection".ljust(WIDTH) + heading("p50 p99 p99.9")]
        for name, figures in floor.items():
            shown = [milliseconds(figures[each]) for each in ("p50", "p99", "p99.9")]
            out.append(f"  {name}".ljust(WIDTH) + cells(shown))
        out.append("")
    for name, title in TITLES.items():
        if name not in measured:
            continue
        columns = "trades/s p50 p99 p99.9 acceptor initiator writes/commit"
        out.append(f"{title}: a trade, at so many sessions".ljust(WIDTH) + heading(columns))
        for each in measured[name]:
            shown = [
                f"{each['trades_per_second']:.0f}",
                *(milliseconds(each[one]) for one in ("p50", "p99", "p99.9")),
                f"{each['acceptor_cpu_us']} µs",
                f"{each['initiator_cpu_us']} µs",
                str(each.get("writes_per_commit", "–")),
            ]
            label = f"  {each['sessions']} ({each['trades']} trades)"
            out.append(label.ljust(WIDTH) + cells(shown))
        out.append("")
    idle = measured.get("idle")
    if idle is not None:
        out += [
            f"Idle: {idle['sessions']} sessions on one solver process",
            f"  resident memory {idle['resident'] / 1e6:.0f} MB, of which "
            f"{idle['empty'] / 1e6:.0f} MB without a session",
            f"  CPU while idle {idle['cpu_share']:.1%} of one core; opening all took "
            f"{idle['opened_s']} s",
            "",
        ]
    if not measured["quick"]:
        out += targets(measured)
    out += [
        "acceptor, initiator: CPU time of that process, all threads, a trade.",
        "Notes of a custody are taken on their word here: no chain, no proofs.",
        "QuickFIX's FileStore flushes to the operating system and does not synchronise; ours does,",
        "and so does QuickFIX where it says so.",
    ]
    return "\n".join(out) + "\n"


def heading(names: str) -> str:
    return cells(names.split())


def cells(shown: Sequence[str]) -> str:
    return "".join(f"{one:>14}" for one in shown)


def targets(measured: dict[str, Any]) -> list[str]:
    said = []
    rows = {name: {one["sessions"]: one for one in measured.get(name, ())} for name in TITLES}
    floor, idle = measured.get("floor"), measured.get("idle")
    if floor is not None and 1 in rows["psymm"]:
        beneath = floor["four echoes"]["p50"] + floor["four fsyncs"]["p50"]
        ratio = rows["psymm"][1]["p50"] / beneath
        said.append(
            f"  p50 of a trade, one session: {ratio:.2f} × of four bare echoes and four fsyncs, "
            f"at most 2: {reached(ratio <= 2)}"
        )
    for peer, words in (("quickfix", "QuickFIX's Python"), ("synced", "the same, synchronised")):
        if 100 in rows["psymm"] and 100 in rows[peer]:
            ours, theirs = (rows[name][100]["trades_per_second"] for name in ("psymm", peer))
            said.append(
                f"  trades a second, 100 sessions: {ours:.0f}, {words} {theirs:.0f}: "
                f"{reached(ours > theirs)}"
            )
    if idle is not None:
        said.append(
            f"  {idle['sessions']} idle sessions: {idle['resident'] / 1e6:.0f} MB, below "
            f"{IDLE_BOUND / 1e6:.0f}: {reached(idle['resident'] < IDLE_BOUND)}"
        )
    return ["Targets", *said, ""] if said else []


def reached(it: bool) -> str:
    return "reached" if it else "NOT reached"


# --- the command --------------------------------------------------------------------------------


def work() -> Path:
    """On the disk that the repository is on, not in memory."""
    place = REPO / "build" / "bench"
    place.mkdir(parents=True, exist_ok=True)
    return place


def write_readme(text: str) -> None:
    page = README.read_text()
    before, rest = page.split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    README.write_text(f"{before}{BEGIN}\n```\n{text}```\n{END}{after}")


def run(parts: Sequence[str], quick: bool) -> dict[str, Any]:
    command = " ".join(["make bench-session", *(["QUICK=1"] if quick else [])])
    measured: dict[str, Any] = {"machine": machine(command), "quick": quick}
    loads = QUICK_LOADS if quick else LOADS
    if {"quickfix", "synced"} & {*parts}:
        peer_python()
    for part in parts:
        print(part, file=sys.stderr)
        if part == "floor":
            measured[part] = measure_floor(quick)
        elif part == "psymm":
            measured[part] = [measure_ours(load) for load in loads]
        elif part == "idle":
            measured[part] = measure_idle(quick)
        elif part == "quickfix":
            measured[part] = [measure_quickfix(load) for load in loads]
        else:
            chosen = QUICK_LOADS if quick else SYNCED_LOADS
            measured[part] = [measure_quickfix(load, synchronising()) for load in chosen]
    return measured


def main() -> None:
    match sys.argv[1:]:
        case ["solver", place]:
            trio.run(solver_process, Path(place))
            return
        case ["traders", place, port, key, sessions, trades]:
            load = Load(int(sessions), int(trades))
            trio.run(traders_process, Path(place), int(port), bytes.fromhex(key), load)
            return
        case ["echo"]:
            trio.run(echo_process)
            return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="all if none is named")
    parser.add_argument("--quick", action="store_true", help="everything once, unmeasured")
    parser.add_argument("--write", action="store_true", help="put the table into the README")
    chosen = parser.parse_args()
    measured = run(chosen.parts or PARTS, chosen.quick)
    text = table(measured)
    print(text, end="")
    (work() / "sessions.json").write_text(json.dumps(measured, indent=2) + "\n")
    if chosen.write:
        write_readme(text)


if __name__ == "__main__":
    main()
