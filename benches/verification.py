"""The core's verification beside its peers, in one table.

    make bench                      everything; the first run makes its inputs, some minutes
    make bench QUICK=1              everything once: shows that it runs, no more
    make bench FULL=0               without the million
    make bench ONLY='few recover'   some sections: transcript, few, distinct, recover, keccak,
                                    digests, poseidon2, tree, memory, python
    make bench WRITE=1              and puts the table into benches/README.md
    make bench-stages               where a transcript's time goes, in cycles a frame

Two programs measure: `benches/verification` (Rust: the core and the crates that are its peers, in
one process) and this one (what Python users call).  Each runs its contenders turn by turn on
inputs that are all distinct, and gives medians with the spread of the middle half.

This file is long because every contender that the table shows is measured here, beside the inputs
that all of them get.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import random
import re
import shutil
import statistics
import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import coincurve
from eth_account import Account
from eth_account.messages import SignableMessage

from psymm import _core

REPO = Path(__file__).resolve().parents[1]
README = REPO / "benches" / "README.md"
BEGIN, END = "<!-- verification: begin -->", "<!-- verification: end -->"
MEBIBYTE = 1 << 20
#: What a million frames may take beside their file.
MEMORY_BOUND = 256 * 10**6

#: The flags that the peers are built with; each peer is taken from where it is fastest.
BUILDS = {
    "default": ("", "-O3"),
    "v3": ("-C target-cpu=x86-64-v3 -C target-feature=+adx", "-O3 -march=x86-64-v3 -madx"),
    "native": ("-C target-cpu=native", "-O3 -march=native"),
}


# --- building and running the Rust side ---------------------------------------------------------


def build(place: Path, builds: Sequence[str]) -> list[Path]:
    """The bench's program and the shared objects of the peers, all up to date."""
    cargo = ["cargo", "build", "--release", "--quiet"]
    subprocess.run([*cargo, "-p", "psymm-verification-bench"], cwd=REPO, check=True)
    objects = []
    for name in builds:
        rust, c = BUILDS[name]
        target = REPO / "target" / "peers" / name
        subprocess.run(
            [*cargo, "--target-dir", str(target)],
            cwd=REPO / "benches" / "peers",
            env={**os.environ, "RUSTFLAGS": rust, "CFLAGS": c},
            check=True,
        )
        place.mkdir(parents=True, exist_ok=True)
        objects.append(place / f"{name}.so")
        shutil.copyfile(target / "release" / "libpeers.so", objects[-1])
    return objects


def ask(*arguments: str) -> dict[str, Any]:
    """What the Rust program measured; it tells its progress on standard error."""
    program = REPO / "target" / "release" / "verification-bench"
    answer = subprocess.run([program, *arguments], check=True, stdout=subprocess.PIPE)
    measured: dict[str, Any] = json.loads(answer.stdout)
    return measured


# --- measuring Python ---------------------------------------------------------------------------

DOMAIN = _core.domain_separator(1, bytes(20))
TYPE_HASH = _core.keccak256(
    b"Message(bytes32 custody,uint8 lane,uint64 seq,bytes32 previous,uint64 peerSeq,"
    b"bytes32 peerDigest,uint64 sendingTime,bytes32 payload)"
)


@dataclass(frozen=True)
class Inputs:
    """A transcript, and its signatures in every form that a contender takes."""

    custody: bytes
    data: bytes
    keys: list[bytes]
    lanes: list[int]
    digests: list[bytes]
    signatures: list[bytes]
    struct_hashes: list[bytes]

    @property
    def size(self) -> int:
        return len(self.digests)


def make_inputs(size: int, seed: int) -> Inputs:
    rng = random.Random(seed)
    secrets = [_core.SecretKey.from_bytes(rng.randbytes(32)) for _ in range(2)]
    # Below BN254's modulus, as custody ids are.
    custody = bytes([0]) + rng.randbytes(31)
    seqs, heads, time = [0, 0], [custody, custody], 1_790_000_000_000_000_000
    frames, struct_hashes = [], []
    for _ in range(size):
        lane = rng.randrange(2)
        time += rng.randrange(1, 10**7)
        payload = rng.randbytes(150).hex().encode()
        peer = 1 - lane
        fields = (lane, seqs[lane] + 1, heads[lane], seqs[peer], heads[peer], time, payload)
        frame = _core.sign_frame(secrets[lane], DOMAIN, custody, *fields)
        seqs[lane] += 1
        heads[lane] = frame.digest(DOMAIN)
        words = (lane, frame.seq, frame.previous, frame.peer_seq, frame.peer_digest, time)
        encoded = [word if isinstance(word, bytes) else word.to_bytes(32) for word in words]
        struct = TYPE_HASH + custody + b"".join(encoded) + _core.keccak256(payload)
        struct_hashes.append(_core.keccak256(struct))
        frames.append(frame)
    return Inputs(
        custody,
        b"".join(frame.raw for frame in frames),
        [secret.public_key for secret in secrets],
        [frame.lane for frame in frames],
        [frame.digest(DOMAIN) for frame in frames],
        [frame.signature for frame in frames],
        struct_hashes,
    )


Work = Callable[[], object]
Contender = Callable[[Inputs], Work]


def our_transcript(threads: int) -> Contender:
    def prepare(inputs: Inputs) -> Work:
        keys = [(lane, 1, key) for lane, key in enumerate(inputs.keys)]
        return lambda: _core.verify_transcript(
            inputs.data, DOMAIN, inputs.custody, keys, threads=threads
        )

    return prepare


def our_batch(threads: int) -> Contender:
    def prepare(inputs: Inputs) -> Work:
        arguments = [b"".join(part) for part in (inputs.keys, inputs.digests, inputs.signatures)]

        def work() -> None:
            assert _core.verify_batch(*arguments, inputs.lanes, threads=threads) == []

        return work

    return prepare


def our_recovery(inputs: Inputs) -> Work:
    digests, signatures = b"".join(inputs.digests), b"".join(inputs.signatures)
    return lambda: _core.recover_batch(digests, signatures, threads=1)


def our_verify(inputs: Inputs) -> Work:
    def work() -> None:
        for digest, signature, lane in zip(
            inputs.digests, inputs.signatures, inputs.lanes, strict=True
        ):
            assert _core.verify(digest, signature, inputs.keys[lane])

    return work


def coincurve_verify(inputs: Inputs) -> Work:
    keys = [coincurve.PublicKey(b"\x04" + key) for key in inputs.keys]
    ders = [to_der(signature) for signature in inputs.signatures]

    def work() -> None:
        for der, digest, lane in zip(ders, inputs.digests, inputs.lanes, strict=True):
            assert keys[lane].verify(der, digest, None)

    return work


def coincurve_recover(inputs: Inputs) -> Work:
    compact = [one[:64] + bytes([one[64] - 27]) for one in inputs.signatures]

    def work() -> None:
        for signature, digest in zip(compact, inputs.digests, strict=True):
            coincurve.PublicKey.from_signature_and_message(signature, digest, None)

    return work


def eth_account_recover_hash(inputs: Inputs) -> Work:
    def work() -> None:
        for digest, signature in zip(inputs.digests, inputs.signatures, strict=True):
            Account._recover_hash(digest, signature=signature)

    return work


def eth_account_recover_message(inputs: Inputs) -> Work:
    messages = [SignableMessage(b"\x01", DOMAIN, one) for one in inputs.struct_hashes]

    def work() -> None:
        for message, signature in zip(messages, inputs.signatures, strict=True):
            Account.recover_message(message, signature=signature)

    return work


def to_der(signature: bytes) -> bytes:
    """The form that coincurve's `verify` takes."""

    def number(of: bytes) -> bytes:
        digits = of.lstrip(b"\0")
        digits = b"\0" + digits if digits[0] & 0x80 else digits
        return b"\x02" + bytes([len(digits)]) + digits

    body = number(signature[:32]) + number(signature[32:64])
    return b"\x30" + bytes([len(body)]) + body


CONTENDERS: dict[str, Contender] = {
    "psymm verify_transcript, 1 thread": our_transcript(1),
    "psymm verify_transcript, 2 threads": our_transcript(2),
    "psymm verify_batch, 1 thread": our_batch(1),
    "psymm verify_batch, 2 threads": our_batch(2),
    "psymm recover_batch, 1 thread": our_recovery,
    "psymm verify, one by one": our_verify,
    "coincurve verify": coincurve_verify,
    "coincurve recover": coincurve_recover,
    "eth-account recover_hash": eth_account_recover_hash,
    "eth-account recover_message": eth_account_recover_message,
}


def check_peers() -> None:
    """All name the same signers before any is timed."""
    inputs = make_inputs(4, seed=0)
    for at, (digest, signature) in enumerate(zip(inputs.digests, inputs.signatures, strict=True)):
        key = inputs.keys[inputs.lanes[at]]
        compact = signature[:64] + bytes([signature[64] - 27])
        recovered = coincurve.PublicKey.from_signature_and_message(compact, digest, None)
        assert recovered.format(compressed=False)[1:] == key
        message = SignableMessage(b"\x01", DOMAIN, inputs.struct_hashes[at])
        addresses = {
            _core.address_of(key),
            Account._recover_hash(digest, signature=signature),
            Account.recover_message(message, signature=signature),
        }
        assert len(addresses) == 1, addresses


def measure_python(quick: bool) -> dict[str, Any]:
    check_peers()
    columns = [1, 16] if quick else [1, 256, 4096]
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTENDERS}
    for size in columns:
        print(f"From Python: {size}", file=sys.stderr)
        together = max(1, 64 // size)
        sets = [
            [make_inputs(size, seed=size * 1000 + at * together + one) for one in range(together)]
            for at in range(2 if quick else 4)
        ]
        prepared = {
            name: [[contender(inputs) for inputs in group] for group in sets]
            for name, contender in CONTENDERS.items()
        }
        times = turn_by_turn(prepared, seconds=0 if quick else 30)
        for name, taken in times.items():
            rows[name].append(cell([one / (size * together) for one in taken]))
    return {
        "title": "From Python (coincurve and eth-account have the digests, or hash 66 bytes)",
        "per": "frame or signature",
        "columns": [str(size) for size in columns],
        "rows": [{"name": name, "cells": cells} for name, cells in rows.items()],
        "ratios": [
            {
                "name": "verify_transcript, one thread, against coincurve verify",
                "slow": ["coincurve verify"],
                "fast": "psymm verify_transcript, 1 thread",
                "target": None,
            },
            {
                "name": "verify_batch, one thread, against coincurve verify",
                "slow": ["coincurve verify"],
                "fast": "psymm verify_batch, 1 thread",
                "target": None,
            },
            {
                "name": "verify_batch, one thread, against eth-account recover_hash",
                "slow": ["eth-account recover_hash"],
                "fast": "psymm verify_batch, 1 thread",
                "target": None,
            },
        ],
    }


def turn_by_turn(prepared: dict[str, list[list[Work]]], seconds: float) -> dict[str, list[int]]:
    """Nanoseconds of each turn; in each round every contender runs once, another first."""
    names = list(prepared)
    times: dict[str, list[int]] = {name: [] for name in names}
    began, effects = perf_counter_ns(), -1
    while effects < 1 or (effects < 101 and perf_counter_ns() - began < seconds * 10**9):
        effects += 1
        for at in range(len(names)):
            name = names[(at + effects) % len(names)]
            groups = prepared[name]
            started = perf_counter_ns()
            for work in groups[effects % len(groups)]:
                work()
            taken = perf_counter_ns() - started
            # The first round warms up.
            if effects:
                times[name].append(taken)
    return times


def cell(times: list[float]) -> dict[str, Any]:
    times = sorted(times)
    last = len(times) - 1
    return {
        "lower_ns": times[round(last * 0.25)],
        "median_ns": statistics.median(times),
        "upper_ns": times[round(last * 0.75)],
        "rounds": len(times),
        "sampled": False,
    }


# --- the table ----------------------------------------------------------------------------------


def in_words(nanoseconds: float) -> str:
    for unit, size in (("s", 1e9), ("ms", 1e6), ("µs", 1e3)):
        if nanoseconds >= size:
            return f"{three_digits(nanoseconds / size)} {unit}"
    return f"{three_digits(nanoseconds)} ns"


def three_digits(number: float) -> str:
    return f"{number:.{0 if number >= 100 else 1 if number >= 10 else 2}f}"


def in_cell(one: dict[str, Any] | None) -> str:
    if one is None:
        return "–"
    spread = (one["upper_ns"] - one["lower_ns"]) / 2 / one["median_ns"]
    return f"{'~' if one['sampled'] else ''}{in_words(one['median_ns'])} ±{spread:.0%}"


def ratios_of(section: dict[str, Any]) -> list[tuple[dict[str, Any], list[float | None]]]:
    """Each ratio of a section, column by column: the fastest of the slow over the fast."""
    cells = {row["name"]: row["cells"] for row in section["rows"]}
    found = []
    for ratio in section["ratios"]:
        values: list[float | None] = []
        for at in range(len(section["columns"])):
            slow = [cells[name][at] for name in ratio["slow"] if cells[name][at]]
            fast = cells[ratio["fast"]][at]
            medians = [one["median_ns"] for one in slow]
            values.append(min(medians) / fast["median_ns"] if medians and fast else None)
        found.append((ratio, values))
    return found


def section_lines(section: dict[str, Any], width: int) -> list[str]:
    lines = [f"{section['title']} (time a {section['per']})"]
    lines.append("".ljust(width) + "".join(f"{name:>19}" for name in section["columns"]))
    for row in section["rows"]:
        name = f"  {row['name']}".ljust(width)
        lines.append(name + "".join(f"{in_cell(one):>19}" for one in row["cells"]))
    for ratio, values in ratios_of(section):
        target = f" (target {ratio['target']:g})" if ratio["target"] else ""
        name = f"  × {ratio['name']}{target}".ljust(width)
        shown = [f"{value:.2f} ×" if value else "–" for value in values]
        lines.append(name + "".join(f"{value:>19}" for value in shown))
    return [*lines, ""]


def memory_lines(rows: list[dict[str, Any]]) -> list[str]:
    if not rows:
        return []
    lines = ["Memory of a process that maps a transcript's file and verifies it (MiB)"]
    for row in rows:
        beside = row["peak_resident_bytes"] - row["file_backed_bytes"]
        verdict = "within" if beside <= MEMORY_BOUND else "NOT within"
        lines.append(
            f"  {row['frames']} frames, threads {row['threads']}: file "
            f"{row['file_bytes'] / MEBIBYTE:.1f}, peak resident "
            f"{row['peak_resident_bytes'] / MEBIBYTE:.1f}, of which not file-backed "
            f"{beside / MEBIBYTE:.1f}: {verdict} the file plus 256 MB"
        )
    return [*lines, ""]


def target_lines(sections: list[dict[str, Any]]) -> list[str]:
    lines = []
    for section in sections:
        for ratio, values in ratios_of(section):
            last = [value for value in values if value is not None][-1:]
            if not ratio["target"] or not last:
                continue
            verdict = "reached" if last[0] >= ratio["target"] else "NOT reached"
            column = section["columns"][len(values) - 1]
            lines.append(
                f"  {section['title']}, {ratio['name']}, at {column}: {last[0]:.2f} × of "
                f"{ratio['target']:g}: {verdict}"
            )
    return ["Targets", *lines, ""] if lines else []


def table(measured: dict[str, Any]) -> str:
    sections = measured["sections"]
    names = [f"  {row['name']}" for section in sections for row in section["rows"]]
    names += [
        f"  × {ratio['name']} (target 1.8)" for section in sections for ratio in section["ratios"]
    ]
    width = max(map(len, names), default=0) + 1
    lines = [f"{name}: {value}" for name, value in measured["machine"].items()]
    lines.append("")
    if measured["quick"]:
        lines += ["QUICK: everything ran once, no figure here means anything.", ""]
    for section in sections:
        lines += section_lines(section, width)
    lines += memory_lines(measured["memory"])
    if not measured["quick"]:
        lines += target_lines(sections)
    lines.append(
        "Medians; ± is half the spread of the middle half of all rounds. ~ is a sample of 4096, "
        "told a signature."
    )
    if measured["peer_builds"]:
        chosen = ", ".join(f"{name} {where}" for name, where in measured["peer_builds"])
        lines.append(f"Peers, each from the build in which it is fastest: {chosen}.")
    return "\n".join(lines) + "\n"


# --- the machine --------------------------------------------------------------------------------


def machine() -> dict[str, str]:
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "processor": processor(),
        "load before": " ".join(f"{load:.2f}" for load in os.getloadavg()),
        "compilers": ", ".join(first_line(one) for one in ("rustc", "cc", "node")),
        "core": "built as the wheel is: any x86-64, instructions chosen at run time, "
        "overflow checks on",
        "peers": peer_versions(),
        "peers' builds": "opt-level=3, lto=fat, no overflow checks, and "
        + "; ".join(f"{name}: {flags[0] or 'any x86-64'}" for name, flags in BUILDS.items()),
        "Python": f"{platform.python_version()}, coincurve {version('coincurve')}, "
        f"eth-account {version('eth-account')} on coincurve",
    }


def processor() -> str:
    facts = dict(re.findall(r"^([\w ]+?)\s*: (.*)$", read("/proc/cpuinfo"), re.MULTILINE))
    cpus = Path("/sys/devices/system/cpu").glob("cpu*/topology/thread_siblings_list")
    siblings = {read(path) for path in cpus}
    if not siblings:
        topology = "whether they share cores is not told"
    elif any("," in one or "-" in one for one in siblings):
        topology = "some are threads of one core"
    else:
        topology = "each a core of its own"
    if "hypervisor" in facts.get("flags", ""):
        topology += " as far as the hypervisor tells"
    governor = read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") or "not told"
    name = facts.get("model name", platform.machine())
    family = "/".join(facts.get(key, "?") for key in ("cpu family", "model", "stepping"))
    return (
        f"{name} (family/model/stepping {family}), {os.cpu_count()} processors, {topology}, "
        f"governor {governor}"
    )


def read(path: str | Path) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def first_line(program: str) -> str:
    found = shutil.which(program)
    if not found:
        return f"no {program}"
    said = subprocess.run([found, "--version"], capture_output=True, text=True, check=True)
    line = said.stdout.splitlines()[0]
    return line if program in line else f"{program} {line}"


def peer_versions() -> str:
    lock = tomllib.loads((REPO / "benches" / "peers" / "Cargo.lock").read_text())
    versions = {package["name"]: package for package in lock["package"]}
    names = sorted(one.split(" ")[0] for one in versions["psymm-bench-peers"]["dependencies"])
    bb = json.loads((REPO / "node" / "package.json").read_text())["dependencies"]["@aztec/bb.js"]
    told = [f"{name} {versions[name]['version']}" for name in names]
    return ", ".join([*told, f"Barretenberg {bb}"])


# --- the command --------------------------------------------------------------------------------


def write_readme(text: str) -> None:
    page = README.read_text()
    before, rest = page.split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    README.write_text(f"{before}{BEGIN}\n```\n{text}```\n{END}{after}")


def stages(place: Path, words: Sequence[str]) -> None:
    measured = ask("stages", str(place), *words)
    clock = measured["gigahertz"]
    print(f"{measured['frames']} frames of 300-byte payload, one thread, {clock:.2f} GHz\n")
    print(f"{'a frame':50}{'ns':>10}{'cycles':>10}")
    for one in measured["stages"]:
        print(f"{one['stage']:50}{one['ns']:>10.0f}{one['cycles']:>10.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("sections", nargs="*", help="which sections; all if none is named")
    parser.add_argument("--quick", action="store_true", help="everything once, unmeasured")
    parser.add_argument("--small", action="store_true", help="without the million")
    parser.add_argument("--write", action="store_true", help="put the table into the README")
    parser.add_argument("--build", action="store_true", help="only build what is measured")
    parser.add_argument("--stages", action="store_true", help="a transcript's time by stage")
    parser.add_argument("--place", type=Path, default=REPO / "build" / "bench")
    chosen = parser.parse_args()
    words = [word for word in ("quick", "small") if getattr(chosen, word)]
    builds = [] if chosen.stages else ["default"] if chosen.quick else list(BUILDS)
    objects = build(chosen.place, builds)
    if chosen.build:
        return
    if chosen.stages:
        stages(chosen.place, words)
        return
    measured: dict[str, Any] = {
        "machine": machine(),
        "quick": chosen.quick,
        "peer_builds": [],
    }
    rust = [name for name in chosen.sections if name != "python"]
    if rust or not chosen.sections:
        paths = ",".join(map(str, objects))
        measured |= ask("measure", paths, str(chosen.place), *words, *rust)
    measured.setdefault("sections", [])
    measured.setdefault("memory", [])
    if "python" in chosen.sections or not chosen.sections:
        measured["sections"].append(measure_python(chosen.quick))
    text = table(measured)
    print(text, end="")
    (chosen.place / "verification.json").write_text(json.dumps(measured, indent=2) + "\n")
    if chosen.write:
        write_readme(text)


if __name__ == "__main__":
    main()
