"""What a session knows, for those outside the protocol to read. Nothing here changes anything."""

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
from psymm.session.protocol.state import SessionParams, SessionState
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
    """Where in the message they end."""
    noise: FrameError | None
    """Why what follows is no frame; the message is over then."""


class SessionView:
    """One end of a custody's session, as it is seen."""

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
        """All frames of both lanes that are held."""
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
        """Heads agree on the connection; only then is anything signed."""
        return self.state.synced

    @property
    def health(self) -> Health:
        """Of our journal. Nothing is signed unless it is complete."""
        return self.state.recovery.health

    @property
    def notes(self) -> dict[bytes, Note]:
        """Our notes with what they hold, by commitment."""
        return self.state.collateral.notes

    @property
    def peer_notes(self) -> dict[bytes, Note]:
        """The peer's notes that were verified, with what they hold, by commitment."""
        return self.state.collateral.peer_notes

    @property
    def proposal(self) -> tuple[int, RecordedFrame, Settlement] | None:
        """The settlement proposal that is alive: its lane, its frame, what it says."""
        return self.state.lifecycle.proposal

    @property
    def acceptance(self) -> SettlementAcceptance | None:
        """The other side's acceptance of the proposal that is alive."""
        return self.state.lifecycle.acceptance

    @property
    def options(self) -> list[Settlement]:
        """What may still be mined; see `lifecycle.options`."""
        life = self.state.lifecycle
        return lifecycle.options(life) if life.offered or life.proposal else []

    @property
    def settled(self) -> ChainFact | None:
        """The citation of the settlement that was mined."""
        return self.state.lifecycle.settled

    @property
    def ended(self) -> bool:
        """The custody has ended, and nothing of the record waits to be ruled."""
        return lifecycle.ended(self.state)

    @property
    def dispute(self) -> PSymmError | None:
        """What the heads that the peer showed on this connection would prove, if they were signed.
        Nothing is signed on it any more."""
        return None if self.state.connection is None else self.state.connection.dispute

    @property
    def cited(self) -> Citation | None:
        """The frame that waits for our view of the chain, if one does."""
        # While only business goes on, none waits.
        return holding.cited(self.state) if self.state.attention else None

    @property
    def held_back(self) -> int:
        """Frames of the peer that are held back, see `holding`."""
        return len(self.state.held)

    @property
    def is_stranger(self) -> bool:
        """We are the solver, and no collateral of either side is known to be in the custody."""
        s = self.state
        known = s.collateral.peer_notes or collateral.ours_at_stake(s)
        return s.lane == SOLVER and not known

    @property
    def final_ack_owed(self) -> bool:
        """The custody has ended, and its solver may lack frames of ours."""
        return self.state.lifecycle.settled is not None and final_ack.is_owed(self.state)

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
        """The highest solver frame that the trader covers, by its frames here or by its wallet."""
        return 0 if self.state.rulebook is None else self.state.rulebook.decided

    @property
    def checkpoint(self) -> Point | None:
        """The checkpoint in force."""
        return self.state.checkpoints.point

    @property
    def accounts_differ(self) -> AccountsDiffer | None:
        """Where the two sides' accounts were found to differ."""
        return self.state.checkpoints.differs

    def checkpoint_counts(self, target: tuple[int, int]) -> bool:
        """Whether the checkpoint in force counts so many frames, the trader's and the solver's."""
        return checkpoints.counts(self.state, target)

    def expect_own_journal(self) -> None:
        """Raises SessionClosed, the error that stopped the session, or JournalRestored where
        nothing is ever signed again."""
        signing.expect_own_journal(self.state)

    def covers(self) -> int:
        """The highest peer frame that we may cover."""
        return signing.coverable(self.state)

    def heads(self) -> Resume:
        """Ours, as a resume states them, unsigned."""
        return our_heads(self.state)

    # --- session keys ----------------------------------------------------------------------------

    @property
    def next_key(self) -> bytes | None:
        """The public key that is to follow ours."""
        found = self.state.keys.next_key
        return None if found is None else found[0].public_key

    def key_due(self) -> tuple[int, int] | None:
        """From when on, nanoseconds, and from which number of ours on the next key is due."""
        return keys.due(self.state)

    def is_revoked(self, lane: int, public_key: bytes) -> bool:
        """Whether a lane's wallet is known to have revoked a key."""
        return keys.revocation(self.state.keys, lane, public_key) is not None

    def resume_signer(self, now: int) -> ResumeSigner | None:
        """What we can prove ourselves with on a new connection."""
        return keys.prover(self.state, now)

    # --- what the peer sends ----------------------------------------------------------------------

    def heads_proved(self, theirs: Resume, challenge: bytes, now: int) -> None:
        """Whether heads are signed by the peer over `challenge`. Raises ResumeRefused."""
        resume.check_proof(self.state, theirs, challenge, now)

    def batch_of(self, data: bytes, offset: int, most: int) -> FrameBatch:
        """The next frames of a binary message, at most `most`. Changes nothing."""
        found: list[Frame] = []
        while offset < len(data) and len(found) < most:
            try:
                found.append(Frame.parse(data, offset))
            except FrameError as bad:
                return FrameBatch(found, len(data), bad)
            offset += found[-1].length
        return FrameBatch(found, offset, None)

    def verifiable(self, batch: FrameBatch) -> tuple[bytes | None, list[Frame]]:
        """The key in force for the peer's lane, and the frames of a batch that continue the lane
        under it: what is worth verifying before it is received. Changes nothing."""
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
