"""Frames that a revoked key signed: whose word they are is for the wallet's next key to say.

The peer's wait in memory for the key that builds on them. Those of our own lane that a thief may
have signed are kept as the peer shows them, and become our word once its signed frame covers them.
"""

from __future__ import annotations

from typing import Final, Protocol

from psymm._core import Frame, FrameError, TranscriptError
from psymm.errors import Forked, KeyRevoked
from psymm.session.context import ProtocolContext
from psymm.session.effects import KeyRefused
from psymm.session.keys import SessionKeys, delegated_key, signer
from psymm.transcript.delegation import DelegationRefused
from psymm.transcript.record import RecordedFrame

MOST_WAITING_BYTES: Final = 1 << 20
"""What of a revoked key's frames waits in memory for the key that builds on them."""
MOST_SHOWN_BYTES: Final = 1 << 26
"""What the peer may show on one connection of frames of our own lane that we lack; we ask again."""


class RevocationContext(ProtocolContext, Protocol):
    """The protocol, as its revoked frames know it."""

    keys: SessionKeys

    def receive_frame(self, frame: Frame, now: int, *, endorsed: bool = False) -> None:
        """A frame of the peer. endorsed: the wallet's next key builds on it."""
        ...

    def import_own_frame(self, entry: RecordedFrame) -> None:
        """A frame of our lane that we did not sign is on the record: it is our word."""
        ...


class RevokedFrames:
    """Of one connection."""

    def __init__(self, protocol: RevocationContext) -> None:
        self._protocol = protocol
        self._waiting: list[Frame] = []
        self._shown: dict[int, Frame] = {}
        self._shown_bytes = 0

    def reconnected(self) -> None:
        """Whatever counts is shown again."""
        self._waiting = []
        self._shown = {}
        self._shown_bytes = 0

    # --- the peer's -------------------------------------------------------------------------

    def refuse(self, frame: Frame, error: KeyRevoked, now: int) -> None:
        """Not its party's word: named to whoever sent it, and its number stays free.

        Those that could come next wait in memory: if the wallet's next key builds on them, they
        were its party's after all, on their way when the revocation came.
        """
        protocol = self._protocol
        after = frame.seq - protocol.record.head(protocol.peer).seq - 1
        waiting = sum(len(one.raw) for one in self._waiting[:after])
        if (
            not 0 <= after <= len(self._waiting)
            or waiting + len(frame.raw) > MOST_WAITING_BYTES
            or signer(protocol.record, frame) is None
        ):
            protocol.report_malformed(now, "frame", str(error))
            return
        del self._waiting[after:]
        self._waiting.append(frame)
        protocol.effects.events.append(KeyRefused(frame.seq, error))
        protocol.queue_business_reject(now, "frame", str(error))

    def receive_beyond(self, frame: Frame, now: int) -> bool:
        """A frame right behind those that wait: one more of them, or the new key's UKY, which by
        `previous` makes them its party's word. False where it is neither."""
        protocol = self._protocol
        head = protocol.record.head(protocol.peer).seq
        if not self._waiting or frame.seq - head - 1 > len(self._waiting):
            return False
        revoked = protocol.keys.refuses(protocol.record, frame)
        if revoked is not None:
            self.refuse(frame, revoked, now)
            return True
        waiting = self._waiting[: frame.seq - head - 1]
        digests = [one.digest(protocol.record.agreement.domain) for one in waiting]
        if [one.previous for one in (*waiting[1:], frame)] != digests or (
            signer(protocol.record, frame) != delegated_key(protocol.record, frame)
        ):
            return False
        self._waiting = []
        for one in waiting:
            protocol.receive_frame(one, now, endorsed=True)
        protocol.receive_frame(frame, now)
        return True

    # --- ours -------------------------------------------------------------------------------

    def show(self, frame: Frame) -> None:
        """The peer shows a frame of our lane that we lack, while our key in force is revoked."""
        self._shown_bytes += len(frame.raw)
        if self._shown_bytes <= MOST_SHOWN_BYTES:
            self._shown[frame.seq] = frame

    def import_own_frame(self, frame: Frame, now: int) -> bool:
        """Take into our lane what our stolen key signed and the peer's signed frame covers, then
        that frame. False where it does not cover what we were shown, or nothing was stolen."""
        protocol = self._protocol
        record = protocol.record
        head, last = record.head(protocol.lane).seq, self._shown.get(frame.peer_seq)
        if (
            not protocol.keys.compromised(record)
            or last is None
            or last.digest(record.agreement.domain) != frame.peer_digest
            or any(seq not in self._shown for seq in range(head + 1, frame.peer_seq))
        ):
            return False
        for seq in range(head + 1, frame.peer_seq + 1):
            try:
                entry = record.append(self._shown.pop(seq))
            except (TranscriptError, FrameError, DelegationRefused) as bad:
                protocol.stop(Forked(f"the peer covers what does not follow: {bad}", seq=seq))
                return True
            protocol.import_own_frame(entry)
        protocol.receive_frame(frame, now)
        return True


__all__ = ["RevokedFrames"]
