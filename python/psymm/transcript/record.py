"""The record of one custody in memory: core transcript, session keys in force, messages decoded.

The one way a frame enters: `append`, which takes it whole or not at all. What a payload means is
decided here once; whether the rulebook allows it is decided above. Frames that a checkpoint in
force counts may leave again (`truncate_to`); their digests stay.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from psymm._core import (
    Frame,
    Head,
    JsonError,
    SecretKey,
    Transcript,
    TranscriptStart,
    sign_frame,
)
from psymm.messages import Logon, Message, SessionKeyChange, decode, encode, is_exact
from psymm.transcript.agreement import SOLVER, TRADER, CustodyAgreement
from psymm.transcript.checkpoint import BaseSnapshot, Point, base_snapshot
from psymm.transcript.delegation import Delegation, DelegationRefused, delegation_in


@dataclass(frozen=True, slots=True)
class RecordedFrame:
    """A frame on the record. message: None where the payload is not the vocabulary's, then
    `bad_payload` names why."""

    frame: Frame
    digest: bytes
    message: Message | None
    bad_payload: JsonError | None = field(default=None)


class Record:
    """All frames of one custody, in the order of their arrival here; or all since a checkpoint.

    starts_at: where. Raises CheckpointRefused if it does not stand.
    """

    def __init__(self, agreement: CustodyAgreement, starts_at: BaseSnapshot | None = None) -> None:
        self.agreement = agreement
        self.starts_at = starts_at
        self._delegations: tuple[list[Delegation], list[Delegation]] = ([], [])
        self._ruling: tuple[list[int], list[int]] = ([], [])
        self._entries: list[RecordedFrame] = []
        self._lanes: tuple[list[RecordedFrame], list[RecordedFrame]] = ([], [])
        self._before = (0, 0)
        self._earlier: dict[tuple[int, int], RecordedFrame] = {}
        self._proven = [(1, b""), (1, b"")]
        start: TranscriptStart | None = None
        if starts_at is not None:
            start, known = starts_at.check(agreement)
            self._before = starts_at.point.seqs
            for lane, (since, delegation) in enumerate(known):
                self._delegations[lane].append(delegation)
                self._ruling[lane].append(since)
        self._transcript = Transcript(agreement.domain, agreement.custody, start)
        self.heads = [self._transcript.head(TRADER), self._transcript.head(SOLVER)]
        """By lane: seq, peerSeq and sendingTime of its last frame."""

    @property
    def frames(self) -> int:
        """How many frames both lanes have, those that left memory included."""
        return self.head(TRADER).seq + self.head(SOLVER).seq

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[RecordedFrame]:
        return iter(self._entries)

    def head(self, lane: int) -> Head:
        """Of a lane's last frame; see `heads`."""
        return self.heads[lane]

    def digest(self, lane: int, seq: int) -> bytes:
        """Digest of a frame held, or known from before the checkpoint; for seq 0 the custody's id.
        Raises IndexError."""
        if seq == 0:
            return self.agreement.custody
        if seq > self._before[lane]:
            return self._lanes[lane][seq - self._before[lane] - 1].digest
        first, digests = self._proven[lane]
        if 0 <= seq - first < len(digests) // 32:
            return digests[32 * (seq - first) : 32 * (seq - first) + 32]
        return self._transcript.digest(lane, seq)

    def knows(self, lane: int, seq: int) -> bool:
        """Whether a frame that is or was on the record has its digest here still."""
        try:
            self.digest(lane, seq)
        except IndexError:
            return False
        return True

    def entry(self, lane: int, seq: int) -> RecordedFrame | None:
        """The frame held with this number, or None."""
        held, at = self._lanes[lane], seq - self._before[lane]
        if at < 1:
            return self._earlier.get((lane, seq))
        return held[at - 1] if at <= len(held) else None

    @property
    def before(self) -> Sequence[RecordedFrame]:
        """Frames from before the checkpoint that a session must still know, in order."""
        return tuple(self._earlier.values())

    def compacted(self, lane: int) -> int:
        """The highest frame of a lane that the checkpoint counts at which this starts_at: up to
        there the journal has them, or nobody here. 0 where this begins with the first of all."""
        return self._before[lane]

    def starts_ns(self, lane: int) -> int:
        """The sendingTime of a lane's last frame before those held; 0 where none is."""
        if self.starts_at is None:
            return 0
        raw = self.starts_at.trader if lane == TRADER else self.starts_at.solver[-1]
        return Frame.parse(raw).sending_time

    def delegation(self, lane: int) -> Delegation | None:
        """The one in force for the lane's next frame, or None before its Logon."""
        known = self._delegations[lane]
        return known[-1] if known else None

    def delegations(self, lane: int) -> Sequence[Delegation]:
        """All of a lane's, in the order of their frames."""
        return tuple(self._delegations[lane])

    def ruled_since(self, lane: int) -> int:
        """The frame that brought the lane's key in force; 0 before its Logon."""
        ruling = self._ruling[lane]
        return ruling[-1] if ruling else 0

    def signer(self, lane: int, seq: int) -> Delegation | None:
        """The delegation in force at a frame that is held, or None."""
        at = bisect_right(self._ruling[lane], seq)
        return self._delegations[lane][at - 1] if at else None

    def without(self, lane: int, seq: int) -> Record:
        """A new record: this one less a lane's frames from `seq` on, in the order that it had.

        Every frame is checked again. Raises TranscriptError where a frame that stays covers one
        that goes.
        """
        left = Record(self.agreement, self.starts_at)
        left._earlier = dict(self._earlier)
        left._proven = [self._digests(lane) for lane in (TRADER, SOLVER)]
        for entry in self._entries:
            if entry.frame.lane != lane or entry.frame.seq < seq:
                left.append(entry.frame)
        return left

    def append(self, frame: Frame) -> RecordedFrame:
        """Take a frame, ours or the peer's.

        Raises TranscriptError (codes of the core; `ahead` where a frame it covers is not here
        yet), FrameError, DelegationRefused; then nothing has changed.
        """
        return self._append(frame, *_decoded(frame))

    def _append(
        self, frame: Frame, message: Message | None, bad: JsonError | None = None
    ) -> RecordedFrame:
        lane, follows = frame.lane, frame.seq == self.heads[frame.lane].seq + 1
        delegation: Delegation | None = None
        if (
            isinstance(message, (Logon, SessionKeyChange))
            and frame.custody == self.agreement.custody
            and follows
            and (frame.seq == 1) == isinstance(message, Logon)
        ):
            delegation = delegation_in(self.agreement, frame, message)
            frame.verify(self.agreement.domain, delegation.public_key)
            self._transcript.set_key(lane, frame.seq, delegation.public_key)
        elif follows:
            known = self._delegations[lane]
            if known:
                try:
                    known[-1].check_frame(frame)
                except DelegationRefused:
                    # Its key's holder is to blame only if the frame is its own and right else.
                    self._transcript.check(frame)
                    raise
        digest = self._transcript.append(frame)
        self.heads[lane] = self._transcript.head(lane)
        if delegation is not None:
            self._delegations[lane].append(delegation)
            self._ruling[lane].append(frame.seq)
        entry = RecordedFrame(frame, digest, message, bad)
        self._entries.append(entry)
        self._lanes[lane].append(entry)
        return entry

    def truncate_to(
        self, point: Point, known: Callable[[RecordedFrame], bool]
    ) -> list[RecordedFrame]:
        """Hold no more than the frames after those that a checkpoint in force counts, and of these
        the ones for which `known` says so; returns all that it counts. All digests and keys stay.
        The account is not for us to hold: `starts_at` has none.

        Raises CheckpointRefused where a frame that a record needs to begin there is not held;
        nothing has changed then.
        """
        head = self.entry(TRADER, point.trader_seq)
        covered = 0 if head is None else head.frame.peer_seq
        places = {(lane, since) for lane in (TRADER, SOLVER) for since in self._ruling[lane]}
        places.add((TRADER, point.trader_seq))
        places.update((SOLVER, seq) for seq in range(covered + 1, point.solver_seq + 1))
        found = (self.entry(lane, seq) for lane, seq in sorted(places))
        frames = [entry.frame for entry in found if entry is not None]
        self.starts_at = base_snapshot(point, b"", frames)
        for lane, held in enumerate(self._lanes):
            del held[: point.seqs[lane] - self._before[lane]]
        self._before = point.seqs
        gone = [one for one in self._entries if one.frame.seq <= point.seqs[one.frame.lane]]
        self._entries = [one for one in self._entries if one.frame.seq > point.seqs[one.frame.lane]]
        self._earlier.update(((one.frame.lane, one.frame.seq), one) for one in gone if known(one))
        return gone

    def know(self, lane: int, before: Sequence[tuple[Frame, bytes]]) -> None:
        """Know the digests of a lane's frames that the journal has from before the beginning, the
        highest being the lane's last there. Each is proven by the frame after it; from the first
        that is not, no more are known."""
        digests: list[bytes] = []
        expected = self._transcript.digest(lane, self._before[lane])
        seq = self._before[lane]
        for frame, digest in reversed(before):
            if (frame.lane, frame.seq, digest) != (lane, seq, expected):
                break
            digests.append(digest)
            expected, seq = frame.previous, seq - 1
        self._proven[lane] = seq + 1, b"".join(reversed(digests))

    def _digests(self, lane: int) -> tuple[int, bytes]:
        """All that are known of a lane's frames up to the base_snapshot: the first of them, and
        they, one after the other."""
        digests: list[bytes] = []
        seq = self._before[lane]
        while seq and self.knows(lane, seq):
            digests.append(self.digest(lane, seq))
            seq -= 1
        return seq + 1, b"".join(reversed(digests))

    def retain(self, frame: Frame) -> None:
        """Know a frame from before the checkpoint, which was checked when it was journalled."""
        message, bad = _decoded(frame)
        entry = RecordedFrame(frame, frame.digest(self.agreement.domain), message, bad)
        self._earlier[frame.lane, frame.seq] = entry

    def sign(
        self,
        key: SecretKey,
        lane: int,
        message: Message,
        now_ns: int,
        *,
        covers: int | None = None,
    ) -> RecordedFrame:
        """Sign the lane's next frame and append it.

        covers: peerSeq; None for all of the other lane that is held. The sendingTime is `now_ns`,
        or the lane's last where the clock went back. Raises JsonError for a message that the
        vocabulary cannot carry, DelegationRefused where the key has run out; nothing is signed
        then.
        """
        other = 1 - lane
        mine = self.heads[lane]
        peer_seq = self.heads[other].seq if covers is None else covers
        payload = encode(message)
        frame = sign_frame(
            key,
            self.agreement.domain,
            self.agreement.custody,
            lane,
            mine.seq + 1,
            self.digest(lane, mine.seq),
            peer_seq,
            self.digest(other, peer_seq),
            max(now_ns, mine.sending_time),
            payload,
        )
        # What was encoded here need not be decoded, unless its bytes might say something else.
        return self._append(frame, message if is_exact(message) else decode(payload))

    def keys(self) -> list[tuple[int, int, bytes]]:
        """(lane, first frame, public key) of every key known, as the core's verifiers take
        them."""
        return [
            (known.lane, since, known.public_key)
            for ruling, lane in zip(self._ruling, self._delegations, strict=True)
            for since, known in zip(ruling, lane, strict=True)
        ]

    @staticmethod
    def decoded(frame: Frame) -> Message | None:
        """What a frame's payload says, None where it is not the vocabulary's."""
        return _decoded(frame)[0]


def _decoded(frame: Frame) -> tuple[Message | None, JsonError | None]:
    try:
        return decode(frame.payload), None
    except JsonError as bad:
        return None, bad


__all__ = ["DelegationRefused", "Record", "RecordedFrame"]
