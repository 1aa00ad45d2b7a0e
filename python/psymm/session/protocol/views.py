"""Read-only access to a session for code outside the protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from psymm._core import Frame, FrameError
from psymm.errors import AccountsDiffer, PSymmError
from psymm.messages import ChainFact, Resume, Settlement, SettlementAcceptance
from psymm.session.protocol import (
    checkpoints,
    collateral,
    final_ack,
    holding,
    keys,
    lifecycle,
    resume,
    signing,
)
from psymm.session.protocol.chain_facts import Citation, Note
from psymm.session.protocol.heads import our_heads
from psymm.session.protocol.state import HeadSync, SessionParams, SessionState
from psymm.session.protocol.status import SessionStatus
from psymm.transcript.agreement import SOLVER
from psymm.transcript.checkpoint import Point
from psymm.transcript.heads import Health
from psymm.transcript.record import Record, RecordedFrame
from psymm.transcript.resumption import ResumeSigner

_KEY_CHANGE: Final = b'{"MsgType":"UKY"'


@dataclass(frozen=True, slots=True)
class FrameBatch:
    """Frames of one binary message."""

    frames: Sequence[Frame]
    end: int
    """The offset in the message after the last frame."""
    noise: FrameError | None
    """Why the rest of the message is not a frame; None if it is. The rest is then ignored."""


class SessionView:
    """A read-only view of one end of a custody's session."""

    def __init__(self, state: SessionState) -> None:
        self.state = state

    @property
    def lane(self) -> int:
        """Ours: 0 trader, 1 solver."""
        return self.state.lane

    @property
    def peer(self) -> int:
        """The other lane."""
        return self.state.peer

    @property
    def params(self) -> SessionParams:
        return self.state.params

    @property
    def record(self) -> Record:
        """The frames of both lanes that memory holds."""
        return self.state.record

    @property
    def status(self) -> SessionStatus:
        return self.state.status

    @property
    def error(self) -> PSymmError | None:
        """What stopped the session."""
        return self.state.error

    @property
    def synced(self) -> bool:
        """Whether heads agree on the connection. Only then do we sign frames."""
        # As `SessionState.synced`: applications ask with every message.
        s = self.state
        connection = s.connection
        return connection is not None and connection.sync is HeadSync.SYNCED and s.error is None

    @property
    def health(self) -> Health:
        """Our journal's health. We sign nothing unless it is complete."""
        return self.state.recovery.health

    @property
    def notes(self) -> dict[bytes, Note]:
        """Our opened notes, by commitment."""
        return self.state.collateral.notes

    @property
    def peer_notes(self) -> dict[bytes, Note]:
        """The peer's opened and verified notes, by commitment."""
        return self.state.collateral.peer_notes

    @property
    def proposal(self) -> tuple[int, RecordedFrame, Settlement] | None:
        """The live settlement proposal: its lane, its frame and its content."""
        return self.state.lifecycle.proposal

    @property
    def acceptance(self) -> SettlementAcceptance | None:
        """The other side's acceptance of the live proposal."""
        return self.state.lifecycle.acceptance

    @property
    def options(self) -> list[Settlement]:
        """Settlements that may still be mined; see `lifecycle.options`."""
        life = self.state.lifecycle
        return lifecycle.options(life) if life.offered or life.proposal else []

    @property
    def settled(self) -> ChainFact | None:
        """The citation of the settlement that was mined."""
        return self.state.lifecycle.settled

    @property
    def ended(self) -> bool:
        """Whether the custody has ended and no recorded frame waits to be ruled."""
        return lifecycle.ended(self.state)

    @property
    def dispute(self) -> PSymmError | None:
        """What the peer's heads on this connection would prove if frames confirm them, or None.

        We sign nothing more on this connection.
        """
        return None if self.state.connection is None else self.state.connection.dispute

    @property
    def cited(self) -> Citation | None:
        """The frame that waits for our view of the chain, or None."""
        # During business no frame waits.
        return holding.cited(self.state) if self.state.attention else None

    @property
    def held_back(self) -> int:
        """How many frames of the peer are held back; see `holding`."""
        return len(self.state.held)

    @property
    def is_stranger(self) -> bool:
        """Whether we are the solver and know of no collateral in the custody."""
        s = self.state
        known = s.collateral.peer_notes or collateral.ours_at_stake(s)
        return s.lane == SOLVER and not known

    @property
    def final_ack_owed(self) -> bool:
        """Whether the custody has ended and its solver may lack frames of ours."""
        return final_ack.is_owed(self.state)

    @property
    def acknowledged(self) -> int:
        """The highest frame of our lane that the peer is known to have."""
        return final_ack.acknowledged(self.state)

    @property
    def peer_restored(self) -> bool:
        """Whether the peer's journal says that it is a backup."""
        return self.state.peer_restored

    @property
    def decided(self) -> int:
        """The highest solver frame that the trader covers, by its frames or by its wallet."""
        return 0 if self.state.rulebook is None else self.state.rulebook.decided

    @property
    def checkpoint(self) -> Point | None:
        """The checkpoint in force."""
        return self.state.checkpoints.point

    @property
    def accounts_differ(self) -> AccountsDiffer | None:
        """The reported difference between the two sides' accounts, or None."""
        return self.state.checkpoints.differs

    def checkpoint_counts(self, target: tuple[int, int]) -> bool:
        """Whether the checkpoint in force counts these frames, the trader's and the solver's."""
        return checkpoints.counts(self.state, target)

    def expect_own_journal(self) -> None:
        """Raises SessionClosed, the error that stopped the session, or JournalRestored.

        JournalRestored means that we never sign again.
        """
        signing.expect_own_journal(self.state)

    def covers(self) -> int:
        """The highest peer frame that we may cover."""
        return signing.coverable(self.state)

    def heads(self) -> Resume:
        """Our heads as a Resume, unsigned."""
        return our_heads(self.state)

    # --- session keys ----------------------------------------------------------------------------

    @property
    def next_key(self) -> bytes | None:
        """The public key of our next key, or None."""
        found = self.state.keys.next_key
        return None if found is None else found[0].public_key

    def key_due(self) -> tuple[int, int] | None:
        """When the next key is due: a time in nanoseconds, and a frame number of ours."""
        return keys.due(self.state)

    def is_revoked(self, lane: int, public_key: bytes) -> bool:
        """Whether a lane's wallet is known to have revoked a key."""
        return keys.revocation(self.state.keys, lane, public_key) is not None

    def resume_signer(self, now: int) -> ResumeSigner | None:
        """The key that can prove who we are on a new connection, or None."""
        return keys.prover(self.state, now)

    # --- what the peer sends ----------------------------------------------------------------------

    def heads_proved(self, theirs: Resume, challenge: bytes, now: int) -> None:
        """Check that the peer signed these heads over `challenge`. Raises ResumeRefused."""
        resume.check_proof(self.state, theirs, challenge, now)

    def batch_of(self, data: bytes, offset: int, most: int) -> FrameBatch:
        """Parse at most `most` frames of a binary message from `offset` on. Changes nothing."""
        found: list[Frame] = []
        while offset < len(data) and len(found) < most:
            try:
                found.append(Frame.parse(data, offset))
            except FrameError as bad:
                return FrameBatch(found, len(data), bad)
            offset += found[-1].length
        return FrameBatch(found, offset, None)

    def verifiable(self, batch: FrameBatch) -> tuple[bytes | None, list[Frame]]:
        """What is worth verifying before the batch is received. Changes nothing.

        Returns:
            The key in force for the peer's lane; None before its Logon.
            The frames of the batch that continue the lane under this key.
        """
        record, peer = self.state.record, self.state.peer
        ruling_key = record.delegation(peer)
        if ruling_key is None:
            return None, []
        found: list[Frame] = []
        seq = record.heads[peer].seq
        for frame in batch.frames:
            seq += 1
            if (
                frame.lane != peer
                or frame.seq != seq
                or frame.custody != record.agreement.custody
                # From a key change on, another key rules.
                or frame.payload.startswith(_KEY_CHANGE)
            ):
                break
            found.append(frame)
        return ruling_key.public_key, found
