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
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

import trio
from session_processes import (
    Load,
    commits,
    echo_process,
    echoes,
    fsyncs,
    solver_process,
    traders_process,
)

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

WIDTH: Final = 56
IDLE_BOUND: Final = 300 * 10**6


LOADS: Final = (Load(1, 1000), Load(10, 150), Load(100, 20), Load(1000, 4))
SYNCED_LOADS: Final = (Load(1, 200), Load(10, 30), Load(100, 5))
QUICK_LOADS: Final = (Load(1, 4), Load(3, 2))


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
