"""A checkpoint in force, as the transcript needs it: a place where a record can begin.

Both UCPs are signed and come after the frames that they name. So later frames prove what is here:
the hash in both UCPs proves the account's bytes, and the frames after the heads prove the heads.

A base snapshot contains

- the trader's head,
- the solver's frames from the first one that this head does not cover, because the trader's next
  frame may cover any of them,
- the frames that carry the delegations of the keys in force,
- the account's document.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Final

from psymm._core import Frame, FrameError, TranscriptError, TranscriptStart
from psymm.errors import CheckpointRefused
from psymm.messages import Checkpoint, JsonError, Logon, Message, SessionKeyChange, decode
from psymm.transcript.agreement import SOLVER, TRADER, CustodyAgreement
from psymm.transcript.delegation import Delegation, DelegationRefused, delegation_in

Ruling = tuple[int, Delegation]


@dataclass(frozen=True, slots=True)
class Point:
    """A checkpoint in force."""

    account_hash: bytes
    trader_seq: int
    """The trader's last frame that it counts."""
    solver_seq: int
    """The solver's last frame that it counts."""
    said: tuple[int, int]
    """The seqs of the trader's and of the solver's UCP."""

    @property
    def seqs(self) -> tuple[int, int]:
        return self.trader_seq, self.solver_seq


@dataclass(frozen=True)
class BaseSnapshot:
    """A place where a record can begin. Frames are raw."""

    point: Point
    account: bytes = field(repr=False)
    """The document of the rulebook's account."""
    carriers: tuple[bytes, bytes] = field(repr=False)
    """Frames that carry the keys in force: at the trader's head, and at the first of `solver`."""
    trader: bytes = field(repr=False)
    """The trader's head."""
    solver: tuple[bytes, ...] = field(repr=False)
    """The solver's frames up to its head, without a gap."""

    def counts(self, lane: int, seq: int) -> bool:
        """Whether the checkpoint counts this frame."""
        return seq <= self.point.seqs[lane]

    @cached_property
    def frames(self) -> tuple[Frame, ...]:
        """The solver's frames up to its head. Raises FrameError."""
        return tuple(_exactly(raw) for raw in self.solver)

    def check(self, agreement: CustodyAgreement) -> tuple[TranscriptStart, tuple[Ruling, Ruling]]:
        """Check everything that can be checked without later frames.

        Returns the core's start, and each lane's delegation in force with the frame that brought
        it. Raises CheckpointRefused if a frame is malformed, belongs elsewhere, does not link or is
        not signed by the key in force, or if a key was not delegated.
        """
        try:
            return self._checked(agreement)
        except (FrameError, TranscriptError, DelegationRefused) as bad:
            raise CheckpointRefused(str(bad), solver_seq=self.point.solver_seq) from None

    def _checked(
        self, agreement: CustodyAgreement
    ) -> tuple[TranscriptStart, tuple[Ruling, Ruling]]:
        # A snapshot may come out of a stranger's file, so nothing in it is believed: first the
        # places, then the links, then the delegations, then the signatures.
        trader, solver = _exactly(self.trader), self.frames
        if not solver:
            raise CheckpointRefused("the solver's head is missing")
        expected = [(TRADER, self.point.trader_seq)]
        first = self.point.solver_seq - len(solver) + 1
        expected += [(SOLVER, first + i) for i in range(len(solver))]
        for frame, place in zip((trader, *solver), expected, strict=True):
            if (frame.lane, frame.seq) != place or frame.custody != agreement.custody:
                raise CheckpointRefused(
                    "a frame is not the one that belongs there", lane=place[0], seq=place[1]
                )
        for before, after in pairwise(solver):
            if after.previous != before.digest(agreement.domain):
                raise CheckpointRefused("frames do not follow", lane=SOLVER, seq=after.seq)
        known = (
            # Each carrier is the one in force where its lane's kept frames begin. If one of them is
            # a UKY, the key changes on the way, and `_signed` returns the last.
            _carried(agreement, TRADER, self.carriers[TRADER], trader.seq),
            _carried(agreement, SOLVER, self.carriers[SOLVER], solver[0].seq),
        )
        in_force = (_signed(agreement, [trader], known[0]), _signed(agreement, solver, known[1]))
        keys = [(known.lane, since, known.public_key) for since, known in in_force]
        return TranscriptStart(agreement.domain, [trader], solver, keys), in_force


def _signed(agreement: CustodyAgreement, frames: Sequence[Frame], ruling: Ruling) -> Ruling:
    """Check the signatures of a lane's frames. Returns the delegation in force at the last."""
    since, known = ruling
    for frame in frames:
        message = _message(frame)
        if isinstance(message, SessionKeyChange):
            since, known = frame.seq, delegation_in(agreement, frame, message)
        known.check_frame(frame)
        frame.verify(agreement.domain, known.public_key)
    return since, known


def _exactly(raw: bytes) -> Frame:
    frame = Frame.parse(raw)
    if frame.length != len(raw):
        raise CheckpointRefused("there are bytes after a frame", lane=frame.lane, seq=frame.seq)
    return frame


def _carried(agreement: CustodyAgreement, lane: int, raw: bytes, head: int) -> Ruling:
    frame = _exactly(raw)
    message = _message(frame)
    if (
        frame.lane != lane
        or frame.custody != agreement.custody
        # A key is in force only from its carrier on.
        or frame.seq > head
        or not isinstance(message, Logon | SessionKeyChange)
        or (frame.seq == 1) != isinstance(message, Logon)
    ):
        raise CheckpointRefused("a frame that should carry a key does not", lane=lane)
    delegation = delegation_in(agreement, frame, message)
    frame.verify(agreement.domain, delegation.public_key)
    return frame.seq, delegation


def base_snapshot(point: Point, account: bytes, frames: Iterable[Frame]) -> BaseSnapshot:
    """Build a base snapshot from a custody's frames, given in their order.

    Frames that it does not need are ignored. Raises CheckpointRefused if one that it needs is
    missing.
    """
    carriers: tuple[list[Frame], list[Frame]] = ([], [])
    trader: Frame | None = None
    solver: list[Frame] = []
    for frame in frames:
        if frame.seq > point.seqs[frame.lane]:
            continue
        if may_be(frame.payload, _CARRIERS) and isinstance(
            _message(frame), Logon | SessionKeyChange
        ):
            carriers[frame.lane].append(frame)
        if frame.lane == SOLVER:
            solver.append(frame)
        elif frame.seq == point.trader_seq:
            trader = frame
    missing = CheckpointRefused("a frame that it needs is not here", solver_seq=point.solver_seq)
    if trader is None:
        raise missing
    needed = [frame for frame in solver if frame.seq > trader.peer_seq]
    if not needed or len(needed) != point.solver_seq - trader.peer_seq:
        raise missing
    # The carrier in force where each lane's kept frames begin is the last one up to there.
    first = (trader.seq, needed[0].seq)
    ruling = [[one for one in carriers[lane] if one.seq <= first[lane]] for lane in (0, 1)]
    if not all(ruling):
        raise missing
    return BaseSnapshot(
        point,
        account,
        (ruling[0][-1].raw, ruling[1][-1].raw),
        trader.raw,
        tuple(frame.raw for frame in needed),
    )


_CARRIERS: Final = frozenset((b"A", b"UKY"))
_MSG_TYPE: Final = re.compile(rb'\{"MsgType":"([^"\\]*)"')


def may_be(payload: bytes, msg_types: frozenset[bytes]) -> bool:
    """Whether a payload may be of one of these types.

    A cheap test. True also if the payload is not written in the usual form, which no rule requires:
    then only a parser can tell.
    """
    found = _MSG_TYPE.match(payload)
    return found is None or found[1] in msg_types


def check_agreed(point: Point, said: Sequence[Frame]) -> None:
    """Check that both UCPs are among these verified frames and name this point.

    Raises CheckpointRefused.
    """
    for lane, seq in enumerate(point.said):
        found = next((one for one in said if (one.lane, one.seq) == (lane, seq)), None)
        message = None if found is None else _message(found)
        if not isinstance(message, Checkpoint) or (
            message.account_hash,
            message.trader_seq,
            message.solver_seq,
        ) != (point.account_hash, point.trader_seq, point.solver_seq):
            raise CheckpointRefused(
                "the lane has not signed this checkpoint in the frame that should say it",
                lane=lane,
                seq=seq,
            )


def _message(frame: Frame) -> Message | None:
    try:
        return decode(frame.payload)
    except JsonError:
        return None
