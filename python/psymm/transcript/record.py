"""The record of one custody in memory: core transcript, session keys in force, decoded messages.

Theory of operation. The core's `Transcript` decides alone whether a frame follows: it has all keys
and digests since the beginning, and checks number, link, time and signature. Around it are the
frames themselves, in order of arrival and by lane, and the delegations that brought the keys. Five
operations change a record, and each does all or nothing:

    append        a frame, ours or the peer's, joins its lane. Its payload is decoded, once
    sign          makes our lane's next frame and appends it
    truncate_to   frames that a checkpoint in force counts leave memory; their digests and keys stay
    know, retain  learn about frames from before the beginning, from the journal

What a message means is for the rulebook. What happens to a refused frame is for the session.

Durable: nothing. The session stores each appended frame (`StoreFrame`) before it sends one or acts
on one.
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
    TranscriptError,
    TranscriptStart,
    sign_frame,
)
from psymm.messages import Logon, Message, SessionKeyChange, decode, encode, is_exact
from psymm.transcript.agreement import SOLVER, TRADER, CustodyAgreement
from psymm.transcript.checkpoint import BaseSnapshot, Point, base_snapshot
from psymm.transcript.delegation import Delegation, DelegationRefused, delegation_in


@dataclass(frozen=True, slots=True)
class RecordedFrame:
    """A frame on the record."""

    frame: Frame
    digest: bytes
    message: Message | None
    """None if the payload is malformed."""
    bad_payload: JsonError | None = field(default=None)
    """Why the payload is malformed."""


class Record:
    """All frames of one custody in order of arrival, or all since the checkpoint `starts_at`.

    Raises CheckpointRefused if the record cannot begin at `starts_at`.
    """

    def __init__(self, agreement: CustodyAgreement, starts_at: BaseSnapshot | None = None) -> None:
        self.agreement = agreement
        self.starts_at = starts_at
        self._delegations: tuple[list[Delegation], list[Delegation]] = ([], [])
        # The seqs of the frames that brought the delegations, at the same places.
        self._ruling: tuple[list[int], list[int]] = ([], [])
        self.entries: list[RecordedFrame] = []
        """The frames that memory holds, in order of arrival. Read only."""
        self._lanes: tuple[list[RecordedFrame], list[RecordedFrame]] = ([], [])
        # By lane, how many frames are before the beginning. So a frame's place in `_lanes` is seq −
        # _before.
        self._before = (0, 0)
        # Frames from before the beginning whose content still counts (`retained.py`).
        self._earlier: dict[tuple[int, int], RecordedFrame] = {}
        # By lane, digests from before the beginning, which the core does not have: the first one's
        # seq, and all in a row.
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
        """By lane: seq, digest, peerSeq and sendingTime of the last frame."""

    @property
    def frames(self) -> int:
        """How many frames both lanes have, including those that left memory."""
        return self.head(TRADER).seq + self.head(SOLVER).seq

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[RecordedFrame]:
        return iter(self.entries)

    def head(self, lane: int) -> Head:
        """A lane's head; see `heads`."""
        return self.heads[lane]

    def digest(self, lane: int, seq: int) -> bytes:
        """The digest of a frame in memory, or of a known one from before the checkpoint.

        For seq 0 it is the custody's id. Raises IndexError for an unknown frame.
        """
        if seq == 0:
            return self.agreement.custody
        if seq > self._before[lane]:
            return self._lanes[lane][seq - self._before[lane] - 1].digest
        first, digests = self._proven[lane]
        if 0 <= seq - first < len(digests) // 32:
            return digests[32 * (seq - first) : 32 * (seq - first) + 32]
        return self._transcript.digest(lane, seq)

    def knows(self, lane: int, seq: int) -> bool:
        """Whether the digest of a frame that is or was on the record is still known."""
        try:
            self.digest(lane, seq)
        except IndexError:
            return False
        return True

    def entry(self, lane: int, seq: int) -> RecordedFrame | None:
        """The frame with this number, if it is in memory; else None."""
        held, at = self._lanes[lane], seq - self._before[lane]
        if at < 1:
            return self._earlier.get((lane, seq))
        return held[at - 1] if at <= len(held) else None

    @property
    def before(self) -> Sequence[RecordedFrame]:
        """Frames from before the checkpoint that a session must still know, in order."""
        return tuple(self._earlier.values())

    def compacted(self, lane: int) -> int:
        """The last frame of a lane that the checkpoint at the beginning counts; 0 without one.

        Up to here only the journal may have the frames.
        """
        return self._before[lane]

    def starts_ns(self, lane: int) -> int:
        """The sendingTime of a lane's last frame before the beginning; 0 if there is none."""
        if self.starts_at is None:
            return 0
        raw = self.starts_at.trader if lane == TRADER else self.starts_at.solver[-1]
        return Frame.parse(raw).sending_time

    def delegation(self, lane: int) -> Delegation | None:
        """The delegation in force for the lane's next frame; None before its Logon."""
        known = self._delegations[lane]
        return known[-1] if known else None

    def delegations(self, lane: int) -> Sequence[Delegation]:
        """All delegations of a lane, in the order of their frames."""
        return tuple(self._delegations[lane])

    def ruled_since(self, lane: int) -> int:
        """The frame that brought the lane's key now in force; 0 before its Logon."""
        ruling = self._ruling[lane]
        return ruling[-1] if ruling else 0

    def signer(self, lane: int, seq: int) -> Delegation | None:
        """The delegation in force at a frame in memory, or None."""
        at = bisect_right(self._ruling[lane], seq)
        return self._delegations[lane][at - 1] if at else None

    def without(self, lane: int, seq: int) -> Record:
        """A new record without a lane's frames from `seq` on, in the same order.

        Every frame is checked again. Raises TranscriptError if a remaining frame covers a removed
        one.
        """
        # Made anew, because the core removes nothing. It starts without the digests from before,
        # and a later frame may still cover one of those.
        left = Record(self.agreement, self.starts_at)
        left._earlier = dict(self._earlier)
        left._proven = [self._digests(lane) for lane in (TRADER, SOLVER)]
        for entry in self.entries:
            if entry.frame.lane != lane or entry.frame.seq < seq:
                left.append(entry.frame)
        return left

    def append(self, frame: Frame, message: Message | None = None) -> RecordedFrame:
        """Append a frame, ours or the peer's. If it raises, nothing has changed.

        Raises TranscriptError (codes of the core; `ahead` if it covers a frame that is not here
        yet), FrameError, DelegationRefused.

        Args:
            frame: the frame.
            message: what its payload is known to give, for one that we have just encoded.
        """
        bad: JsonError | None = None
        if message is None:
            try:
                message = decode(frame.payload)
            except JsonError as unfit:
                bad = unfit
        lane, follows = frame.lane, frame.seq == self.heads[frame.lane].seq + 1
        delegation: Delegation | None = None
        if (
            # A Logon elsewhere than at a lane's first frame, or a UKY as that, brings no key. It is
            # an ordinary frame under the key in force, and is judged as one.
            isinstance(message, (Logon, SessionKeyChange))
            and frame.custody == self.agreement.custody
            and follows
            and (frame.seq == 1) == isinstance(message, Logon)
        ):
            # A frame that carries a key is signed by that key. So the core must know it before it
            # can judge the frame.
            delegation = delegation_in(self.agreement, frame, message)
            frame.verify(self.agreement.domain, delegation.public_key)
            self._transcript.set_key(lane, frame.seq, delegation.public_key)
        elif follows:
            known = self._delegations[lane]
            # The test is repeated here, because the call would be made for every frame.
            if known and not (
                known[-1].from_seq <= frame.seq <= known[-1].to_seq
                and frame.sending_time <= known[-1].expiry
            ):
                try:
                    known[-1].check_frame(frame)
                except DelegationRefused:
                    # Blame the holder of the key only if the frame is valid otherwise: the core's
                    # error comes first.
                    self._transcript.check(frame)
                    raise
        # The core appends or raises. Nothing above has changed this record, the new key apart.
        try:
            digest = self._transcript.append(frame)
        except TranscriptError:
            if delegation is not None:
                # The key came with the frame and goes with it. Otherwise the lane's next frame
                # under the old key would pass for unsigned, and after a refused Logon another
                # frame could begin the lane.
                self._transcript.forget_keys(lane, frame.seq)
            raise
        self.heads[lane] = self._transcript.head(lane)
        if delegation is not None:
            self._delegations[lane].append(delegation)
            self._ruling[lane].append(frame.seq)
        entry = RecordedFrame(frame, digest, message, bad)
        self.entries.append(entry)
        self._lanes[lane].append(entry)
        return entry

    def truncate_to(
        self, point: Point, known: Callable[[RecordedFrame], bool]
    ) -> list[RecordedFrame]:
        """Drop the frames that a checkpoint in force counts, and return them.

        Frames for which `known` is true stay known (`before`). All digests and keys stay. The new
        `starts_at` has no account: a record does not hold it.

        Raises CheckpointRefused if a frame that a record needs to begin there is not in memory;
        then nothing has changed.
        """
        head = self.entry(TRADER, point.trader_seq)
        covered = 0 if head is None else head.frame.peer_seq
        # The frames that a base snapshot contains; `checkpoint.py` lists them.
        places = {(lane, since) for lane in (TRADER, SOLVER) for since in self._ruling[lane]}
        places.add((TRADER, point.trader_seq))
        places.update((SOLVER, seq) for seq in range(covered + 1, point.solver_seq + 1))
        found = (self.entry(lane, seq) for lane, seq in sorted(places))
        frames = [entry.frame for entry in found if entry is not None]
        # Raises before anything changes.
        self.starts_at = base_snapshot(point, b"", frames)
        # Nothing below can fail, so the record is never cut half.
        counted = point.seqs
        for lane, held in enumerate(self._lanes):
            del held[: counted[lane] - self._before[lane]]
        self._before = counted
        gone: list[RecordedFrame] = []
        kept: list[RecordedFrame] = []
        for one in self.entries:
            (gone if one.frame.seq <= counted[one.frame.lane] else kept).append(one)
        self.entries = kept
        self._earlier.update(((one.frame.lane, one.frame.seq), one) for one in gone if known(one))
        return gone

    def know(self, lane: int, before: Sequence[tuple[Frame, bytes]]) -> None:
        """Learn digests of a lane's frames from before the beginning, from the journal.

        `before` ends with the lane's last frame there. Each digest is proven by the frame after it;
        the first one that is not proven ends the list.
        """
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
        """The known digests before the beginning: the first frame's number, and all in a row."""
        digests: list[bytes] = []
        seq = self._before[lane]
        while seq and self.knows(lane, seq):
            digests.append(self.digest(lane, seq))
            seq -= 1
        return seq + 1, b"".join(reversed(digests))

    def retain(self, frame: Frame) -> None:
        """Keep a frame from before the checkpoint. It was checked when it was journalled."""
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

        The sendingTime is `now_ns`, or that of the lane's last frame if the clock went back. Raises
        JsonError for a message that the vocabulary cannot carry, DelegationRefused if the key has
        ended; then nothing is signed.

        Args:
            key: the session key in force, or the one that the message delegates.
            lane: ours.
            message: the payload.
            now_ns: our clock, nanoseconds.
            covers: peerSeq; None for the other lane's head.
        """
        other = 1 - lane
        mine, theirs = self.heads[lane], self.heads[other]
        peer_seq = theirs.seq if covers is None else covers
        payload = encode(message)
        # Signed is not sent. A frame that `_append` refuses never leaves this process, so its
        # number is still free. Once it is appended, no other frame may have that number (`spec.md`
        # 37).
        frame = sign_frame(
            key,
            self.agreement.domain,
            self.agreement.custody,
            lane,
            mine.seq + 1,
            mine.digest,
            peer_seq,
            theirs.digest if peer_seq == theirs.seq else self.digest(other, peer_seq),
            max(now_ns, mine.sending_time),
            payload,
        )
        # Skip decoding if the bytes would certainly give the same message.
        return self.append(frame, message if is_exact(message) else decode(payload))

    def keys(self) -> list[tuple[int, int, bytes]]:
        """(lane, first frame, public key) of every known key, as the core's verifiers take them."""
        return [
            (known.lane, since, known.public_key)
            for ruling, lane in zip(self._ruling, self._delegations, strict=True)
            for since, known in zip(ruling, lane, strict=True)
        ]

    @staticmethod
    def decoded(frame: Frame) -> Message | None:
        """A frame's message; None if the payload is malformed."""
        return _decoded(frame)[0]


def _decoded(frame: Frame) -> tuple[Message | None, JsonError | None]:
    try:
        return decode(frame.payload), None
    except JsonError as bad:
        return None, bad


__all__ = ["DelegationRefused", "Record", "RecordedFrame"]
