"""The record of one custody in memory: core transcript, session keys in force, messages decoded.

The one way a frame enters: `check` says whether it may, `append` does it. What a payload means is
decided here once; whether the rulebook allows it is decided above.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from psymm._core import Frame, Head, JsonError, SecretKey, Transcript, sign_frame
from psymm.messages import Logon, Message, SessionKeyChange, decode, encode
from psymm.transcript.delegation import Delegation, DelegationRefused, delegation_in
from psymm.transcript.opening import Opening


@dataclass(frozen=True, slots=True)
class Entry:
    """A frame on the record. message: None where the payload is not the vocabulary's, then
    `bad_payload` names why."""

    frame: Frame
    digest: bytes
    message: Message | None
    bad_payload: JsonError | None = field(default=None)


class Record:
    """All frames of one custody, in the order of their arrival here."""

    def __init__(self, opening: Opening) -> None:
        self.opening = opening
        self._transcript = Transcript(opening.domain, opening.custody)
        self._delegations: tuple[list[Delegation], list[Delegation]] = ([], [])
        self._ruling: tuple[list[int], list[int]] = ([], [])
        self._entries: list[Entry] = []
        self._lanes: tuple[list[Entry], list[Entry]] = ([], [])

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries)

    def head(self, lane: int) -> Head:
        return self._transcript.head(lane)

    def digest(self, lane: int, seq: int) -> bytes:
        """Digest of a frame held; for seq 0 the custody's id. Raises IndexError."""
        if seq == 0:
            return self.opening.custody
        return self._lanes[lane][seq - 1].digest

    def entry(self, lane: int, seq: int) -> Entry | None:
        """The frame held with this number, or None."""
        held = self._lanes[lane]
        return held[seq - 1] if 1 <= seq <= len(held) else None

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
        left = Record(self.opening)
        for entry in self._entries:
            if entry.frame.lane != lane or entry.frame.seq < seq:
                left.append(entry.frame)
        return left

    def append(self, frame: Frame) -> Entry:
        """Take a frame, ours or the peer's.

        Raises TranscriptError (codes of the core; `ahead` where a frame it covers is not here
        yet), FrameError, DelegationRefused; then nothing has changed.
        """
        message, bad = _decoded(frame)
        delegation: Delegation | None = None
        if (
            isinstance(message, Logon | SessionKeyChange)
            and frame.custody == self.opening.custody
            and frame.seq == len(self._lanes[frame.lane]) + 1
            and (frame.seq == 1) == isinstance(message, Logon)
        ):
            delegation = delegation_in(self.opening, frame, message)
            frame.verify(self.opening.domain, delegation.public_key)
            self._transcript.set_key(frame.lane, frame.seq, delegation.public_key)
        else:
            in_force = self.delegation(frame.lane)
            if in_force is not None and frame.seq == len(self._lanes[frame.lane]) + 1:
                in_force.check_frame(frame)
        digest = self._transcript.append(frame)
        if delegation is not None:
            self._delegations[frame.lane].append(delegation)
            self._ruling[frame.lane].append(frame.seq)
        entry = Entry(frame, digest, message, bad)
        self._entries.append(entry)
        self._lanes[frame.lane].append(entry)
        return entry

    def sign(
        self,
        key: SecretKey,
        lane: int,
        message: Message,
        now_ns: int,
        *,
        covers: int | None = None,
    ) -> Entry:
        """Sign the lane's next frame and append it.

        covers: peerSeq; None for all of the other lane that is held. The sendingTime is `now_ns`,
        or the lane's last where the clock went back. Raises JsonError for a message that the
        vocabulary cannot carry, DelegationRefused where the key has run out; nothing is signed
        then.
        """
        other = 1 - lane
        mine = self.head(lane)
        peer_seq = self.head(other).seq if covers is None else covers
        frame = sign_frame(
            key,
            self.opening.domain,
            self.opening.custody,
            lane,
            mine.seq + 1,
            self.digest(lane, mine.seq),
            peer_seq,
            self.digest(other, peer_seq),
            max(now_ns, mine.sending_time),
            encode(message),
        )
        return self.append(frame)

    def keys(self) -> list[tuple[int, int, bytes]]:
        """(lane, first frame, public key) of every key, as the core's verifiers take them."""
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


__all__ = ["DelegationRefused", "Entry", "Record"]
