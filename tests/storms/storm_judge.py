"""The judge of a crash storm: it keeps every frame it ever saw, and says what went wrong.

It reads both journals after each death, and what each process was about to put on the wire. It
holds that
- one (custody, lane, seq) has one digest and one form, for ever;
- what a process puts on the wire is in its journal;
- what the peer's journal holds of a lane is in that lane's own journal;
- in peace both journals hold the same frames, but for a solver's last cover (see `Judge.same`).
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Collection
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from psymm._core import Frame
from psymm.journal.rounds import frames_of
from psymm.messages import Heartbeat, encode
from psymm.transcript.agreement import SOLVER, CustodyAgreement

Key = tuple[bytes, int, int]
SIDES: Final = ("trader", "solver")
_HEARTBEAT: Final = encode(Heartbeat())


class StormFailed(Exception):
    """A guarantee was broken, or a side did what it must not; the text says where."""


@dataclass
class _Side:
    journal: Path
    tap: Path
    lane: int
    held: dict[Key, bytes] = field(default_factory=dict)
    read_to: dict[bytes, int] = field(default_factory=dict)
    tapped_to: int = 0
    owed: set[Key] = field(default_factory=set)


class Judge:
    """Reads files only; nothing that runs is asked for its word."""

    def __init__(self, home: Path) -> None:
        self.sides = {
            name: _Side(home / name / "journal.db", home / name / "tap", lane)
            for lane, name in enumerate(SIDES)
        }
        self.digests: dict[Key, bytes] = {}
        self.forms: dict[Key, int] = {}
        self.lanes: Counter[tuple[bytes, int]] = Counter()
        self.tapped = 0
        self._domains: dict[bytes, bytes] = {}
        self._heartbeats: set[Key] = set()

    def look(self) -> None:
        """Read what is new, receivers first, so that an author's journal is never behind."""
        for name in SIDES:
            self._read(name)
        for name in reversed(SIDES):
            self._read(name)
        for name in SIDES:
            self._listen(name)
        for name, side in self.sides.items():
            owed, side.owed = side.owed, set()
            if not owed <= side.held.keys():
                # Whoever is alive went on while we read: what others have of it is durable by now.
                self._read(name)
            missing = [key for key in owed if key not in side.held]
            if missing:
                raise StormFailed(f"the {name}'s journal lacks its own {_show(missing[0])}")

    def heads(self, name: str) -> dict[bytes, tuple[int, int]]:
        """The highest numbers of both lanes, of each custody in a side's journal."""
        found: dict[bytes, list[int]] = {}
        for custody, lane, seq in self.sides[name].held:
            heads = found.setdefault(custody, [0, 0])
            heads[lane] = max(heads[lane], seq)
        return {custody: (heads[0], heads[1]) for custody, heads in found.items()}

    def same(self, ended: Collection[str]) -> None:
        """Both journals hold the same frames of every custody. Raises StormFailed.

        A trader leaves an ended custody once it knows that its last frame has arrived. It waits for
        no cover of it. So the solver may hold one Heartbeat more, its last frame.

        Args:
            ended: the ids of ended custodies, in hexadecimal.
        """
        near, far = (self.sides[name] for name in SIDES)
        for key in near.held.keys() ^ far.held.keys():
            custody, lane, seq = key
            last = (custody, lane, seq + 1) not in far.held
            cover = lane == SOLVER and key in far.held and key in self._heartbeats and last
            if not cover or custody.hex() not in ended:
                raise StormFailed(f"one side holds {_show(key)} and the other does not")

    # --- reading ----------------------------------------------------------------------------

    @staticmethod
    def _open(path: Path) -> sqlite3.Connection:
        return sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None, timeout=20)

    def _read(self, name: str) -> None:
        side = self.sides[name]
        if not side.journal.exists():
            return
        with closing(self._open(side.journal)) as base:
            if not base.execute("SELECT 1 FROM sqlite_master WHERE name = 'rounds'").fetchone():
                return  # it died while it made its journal
            for row in base.execute(
                "SELECT custody, chain_id, contract, trader, solver, terms, salt FROM custodies"
            ):
                if row[0] not in self._domains:
                    self._domains[row[0]] = CustodyAgreement(*row[1:]).domain
            for custody, domain in self._domains.items():
                after = side.read_to.get(custody, 0)
                for held in frames_of(side.journal, base, custody, after, None):
                    lane, seq, digest, raw = held.lane, held.seq, held.digest, held.raw
                    side.read_to[custody] = held.arrival
                    frame = Frame.parse(raw)
                    if (frame.custody, frame.lane, frame.seq) != (custody, lane, seq):
                        raise StormFailed(f"the {name}'s journal misfiles {_show((custody, 0, 0))}")
                    if frame.digest(domain) != digest:
                        raise StormFailed(f"a digest is wrong: {_show((custody, lane, seq))}")
                    key = (custody, lane, seq)
                    self._see(key, digest, raw)
                    side.held[key] = digest
                    if frame.payload == _HEARTBEAT:
                        self._heartbeats.add(key)
                    if lane != side.lane:
                        self.sides[SIDES[lane]].owed.add(key)

    def _listen(self, name: str) -> None:
        side = self.sides[name]
        if not side.tap.exists():
            return
        with side.tap.open("rb") as tap:
            tap.seek(side.tapped_to)
            data = tap.read()
        offset = 0
        while len(data) - offset >= 4:
            length = int.from_bytes(data[offset : offset + 4])
            if len(data) - offset - 4 < length:
                break  # it is being written
            message = data[offset + 4 : offset + 4 + length]
            offset += 4 + length
            place = 0
            while place < len(message):
                frame = Frame.parse(message, place)
                place += len(frame.raw)
                domain = self._domains.get(frame.custody)
                if domain is None:
                    raise StormFailed(f"the {name} sends a frame of a custody it does not hold")
                key = (frame.custody, frame.lane, frame.seq)
                self._see(key, frame.digest(domain), frame.raw)
                self.tapped += 1
                if frame.lane != side.lane:
                    raise StormFailed(f"the {name} sends the other's {_show(key)}")
                if key not in side.held:
                    side.owed.add(key)
        side.tapped_to += offset

    def _see(self, key: Key, digest: bytes, raw: bytes) -> None:
        if self.digests.setdefault(key, digest) != digest:
            raise StormFailed(f"signed twice: two digests of {_show(key)}")
        if self.forms.setdefault(key, hash(raw)) != hash(raw):
            raise StormFailed(f"sent again in another form: {_show(key)}")


def _show(key: Key) -> str:
    custody, lane, seq = key
    return f"frame {SIDES[lane]}/{seq} of custody {custody.hex()[:12]}"
