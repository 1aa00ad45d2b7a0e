"""The one module that dispatches: each input of a session finds its handler here.

`SessionProtocol` is one end of a custody's session, without input or output: texts, frames, ticks
and commands go in, `Effects` come out. Every input passes the same three steps:

    1. the clock is looked at (`_enter`),
    2. the input's handler changes the state and adds effects,
    3. all steps that are due are taken (`_advance`), and a new status is told (`_leave`).

What must happen next is derived from the record, never from a script that ran once, so a process
that died anywhere goes on from its journal. Our lane is signed only while the heads of both sides
are known to agree. Nothing here raises because of what the peer sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from secrets import token_bytes
from typing import Final

from psymm._core import Frame, FrameError, JsonError, SecretKey
from psymm.errors import (
    AccountsDiffer,
    CollateralRefused,
    FloodingPeer,
    LaneAtLimit,
    NotNow,
    PSymmError,
    Refused,
)
from psymm.messages import (
    AccountPart,
    BusinessMessageReject,
    ChainFact,
    CheckpointRequest,
    FactKind,
    Heartbeat,
    Logon,
    Logout,
    Message,
    NoteOpenings,
    Reject,
    ResendRequest,
    Resume,
    SessionKeyChange,
    Settlement,
    SettlementAcceptance,
    SettlementOutput,
    TestRequest,
    decode_text,
)
from psymm.session.chain_facts import ChainView, Citation, Fact, Mined, Note
from psymm.session.protocol import (
    checkpoints,
    collateral,
    deadlines,
    final_ack,
    frames,
    gaps,
    holding,
    keys,
    lifecycle,
    recovery,
    rejects,
    resume,
    revoked,
    ruling,
    signing,
)
from psymm.session.protocol import (
    logon as log_on,
)
from psymm.session.protocol.budget import PeerRate
from psymm.session.protocol.effects import (
    Effects,
    KeyChanged,
    KeyDue,
    OwnClockBehind,
    StoreFact,
    StoreOpenings,
    StoreRevocations,
    TextReceived,
)
from psymm.session.protocol.heads import our_heads
from psymm.session.protocol.rulebook import Rulebook
from psymm.session.protocol.state import (
    CollateralState,
    ConnectionState,
    FinalAckState,
    HeadSync,
    KeyState,
    RecoveryState,
    SessionParams,
    SessionState,
    arm,
)
from psymm.session.protocol.status import SessionStatus
from psymm.transcript.agreement import SOLVER
from psymm.transcript.checkpoint import Point
from psymm.transcript.delegation import JournalledRevocation
from psymm.transcript.heads import Heads, Health
from psymm.transcript.record import Record, RecordedFrame
from psymm.transcript.resumption import ResumeSigner

_KEY_CHANGE: Final = b'{"MsgType":"UKY"'

_BESIDE_OPTIONS: Final = (
    BusinessMessageReject,
    ChainFact,
    Heartbeat,
    Logout,
    Reject,
    Settlement,
    SettlementAcceptance,
    SettlementOutput,
)
"""What we sign while a signed settlement can still be mined: it changes no account."""

_UNPROVEN: Final = (BusinessMessageReject, Heartbeat, Resume, TestRequest)
"""What is heard of a peer that has not proved itself on the connection."""


@dataclass(frozen=True, slots=True)
class FrameBatch:
    """Frames of one binary message."""

    frames: Sequence[Frame]
    end: int
    """Where in the message they end."""
    noise: FrameError | None
    """Why what follows is no frame; the message is over then."""


class SessionProtocol:
    """One end of a custody's session.

    state: what it knows; read it, and change it through the methods here only.
    """

    def __init__(self, state: SessionState) -> None:
        self.state = state
        self._owed: Effects = []
        """Of an input that raised; they come with the next input's."""
        state.business_ns = max(state.record.starts_ns(lane) for lane in (0, 1))
        ignored: Effects = []  # There is no connection yet, and nothing new to tell or store.
        revoked.read_record(state, ignored, arrive=True, now=state.now)
        state.status = lifecycle.status_of(state)
        head = state.record.heads[state.lane].seq
        state.final_ack.told = 0 < head <= state.final_ack.acknowledged

    # --- what it knows ---------------------------------------------------------------------------

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

    def begin_at(self, point: Point) -> None:
        """This checkpoint is stored: nothing before it is held."""
        self.state.checkpoints.point = point
        checkpoints.compact(self.state, point)

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

    def set_proving_key(self, found: ResumeSigner) -> None:
        """A key that signs no frame, to prove ourselves where no other can."""
        self.state.keys.proving = found

    # --- the connection --------------------------------------------------------------------------

    def connected(self, now: int, *, fresh: bool, challenge: bytes | None = None) -> Effects:
        """A connection to the peer is there.

        fresh: the two met on it just now, so there is nothing to resume.
        challenge: the one that the peer was told on it already; None draws one and tells it.
        """
        s, out = self.state, self._enter(now)
        connection = ConnectionState(
            token_bytes(32) if challenge is None else challenge, now, now, now, now
        )
        if fresh and s.record.frames == 0:
            connection.sync = HeadSync.SYNCED
        s.connection, s.held_told, s.attention = connection, 0, True
        if signing.is_uncovered(s):
            signing.await_cover(s, connection, now)
        self._advance(out, now)
        if challenge is None:
            resume.ask(s, connection, out, now)
        return self._leave(out)

    def disconnected(self) -> Effects:
        """The connection is gone. Nothing is signed until the next one has resumed."""
        self.state.attention = True
        self.state.connection = None
        return self._leave([])

    def heads_proved(self, theirs: Resume, challenge: bytes, now: int) -> None:
        """Whether heads are signed by the peer over `challenge`. Raises ResumeRefused."""
        resume.check_proof(self.state, theirs, challenge, now)

    def leave(self, reason: PSymmError, now: int) -> Effects:
        """End the connection, and mean to come back. What the peer did is covered before: a fill
        that is covered late is void (`spec.md` 2), and nobody knows when we are back."""
        out = self._enter(now)
        if signing.is_uncovered(self.state):
            signing.cover(self.state, out, now)
        signing.disconnect(self.state, out, reason)
        return self._leave(out)

    # --- what the peer sends ---------------------------------------------------------------------

    def receive_text(self, text: str, now: int) -> Effects:
        """A WebSocket text of the peer."""
        s, out = self.state, self._enter(now, heard=True)
        connection = s.connection
        if connection is None or connection.closing is not None:
            return self._leave(out)
        if not s.rate.text(len(text), now):
            self._end_flood(out)
            return self._leave(out)
        try:
            message = decode_text(text)
        except JsonError as bad:
            why = f"{bad.code} at byte {bad.offset}"
            signing.report_malformed(s, out, now, "text", why)
            return self._leave(out)
        if s.error is None and not connection.proven and not isinstance(message, _UNPROVEN):
            why = "resume first: nothing proves who you are"
            signing.report_malformed(s, out, now, message.MSG_TYPE, why)
        elif s.error is None or isinstance(message, Resume):
            self._on_text(connection, out, message, now)
            self._advance(out, now)
        return self._leave(out)

    def _on_text(
        self, connection: ConnectionState, out: Effects, message: Message, now: int
    ) -> None:
        s = self.state
        s.attention = True
        match message:
            case Heartbeat():
                final_ack.on_heartbeat(s, connection, message.test_req_id)
            case TestRequest():
                answer = Heartbeat(test_req_id=message.test_req_id)
                signing.send_text(s, out, answer, now)
            case Resume():
                resume.on_resume(s, connection, out, message, now)
            case ResendRequest():
                gaps.answer(s, connection, out, message)
            case NoteOpenings():
                collateral.on_openings(s, out, message, now)
            case CheckpointRequest():
                checkpoints.on_requested(s, now)
            case AccountPart():
                checkpoints.on_account_part(s, out, message, now)
            case _:
                out.append(TextReceived(message))

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

    def receive_binary(self, data: bytes, now: int) -> Effects:
        """A WebSocket binary message of the peer: frames back to back, each judged by itself."""
        return self.receive_batch(self.batch_of(data, 0, len(data)), now)

    def receive_batch(self, batch: FrameBatch, now: int) -> Effects:
        """Frames of the peer, each judged by itself, and the noise after them if there is any."""
        s, out = self.state, self._enter(now, heard=True)
        connection = s.connection
        if connection is None or connection.closing is not None:
            return self._leave(out)
        if s.held:
            ruling.release(s, out, now)
        if connection.sync is HeadSync.UNPROVEN:
            why = "resume first: nothing proves who you are"
            signing.report_malformed(s, out, now, "frame", why)
            return self._leave(out)
        for frame in batch.frames:
            if s.error is not None or connection.closing is not None:
                break
            if not self._is_within_rate(connection, frame, now):
                self._end_flood(out)
                break
            frames.receive(s, connection, out, frame, now)
        else:
            if batch.noise is not None and s.error is None:
                why = f"{batch.noise.code} at byte {batch.noise.offset}"
                signing.report_malformed(s, out, now, "frame", why)
        if s.error is None:
            self._advance(out, now)
        return self._leave(out)

    def _is_within_rate(self, connection: ConnectionState, frame: Frame, now: int) -> bool:
        # A resume brings the peer's frames again, and may show us our own that we lack.
        s = self.state
        asked_for = connection.sync is not HeadSync.SYNCED or (
            frame.lane == s.peer and frame.seq <= connection.gap.until
        )
        repeated = asked_for and frame.seq > s.record.heads[frame.lane].seq
        return s.rate.frame(now, repeated=repeated, size=len(frame.raw))

    def _end_flood(self, out: Effects) -> None:
        limit = self.state.params.frames_per_second
        signing.disconnect(self.state, out, FloodingPeer(frames_per_second=limit))

    # --- time ------------------------------------------------------------------------------------

    def tick(self, now: int) -> Effects:
        """Do what has fallen due."""
        s, out = self.state, self._enter(now)
        self.state.attention = True
        if s.connection is None or s.error is not None:
            return self._leave(out)
        deadlines.act(deadlines.BEFORE, s, s.connection, out, now)
        self._advance(out, now)
        deadlines.act(deadlines.AFTER, s, s.connection, out, now)
        return self._leave(out)

    def next_tick(self, now: int) -> int:
        """When `tick` should next be called, nanoseconds; never more than a heartbeat away."""
        return deadlines.next_due(self.state, self.state.connection, now)

    # --- commands of our own side ----------------------------------------------------------------

    def send(self, message: Message, now: int) -> tuple[RecordedFrame, Effects]:
        """Sign a message of the application and put it on the record.

        Raises NotNow before trading or while heads do not agree, Refused where our own rulebook
        would call it a violation, SessionClosed, or the error that stopped the session; nothing
        is signed then.
        """
        s, out = self.state, self._enter(now)
        if s.held:
            ruling.release(s, out, now)
        try:
            self._check_send(message, now)
            entry = signing.sign(s, out, message, now)
        except Exception:
            # Whatever the application's message is: what was released may have signed a Reject.
            self._owed += self._leave(out)
            raise
        self._advance(out, now)
        return entry, self._leave(out)

    def _check_send(self, message: Message, now: int) -> None:
        s = self.state
        signing.must_sign(s, now)
        if s.status in (SessionStatus.LOGON, SessionStatus.VERIFYING) or s.rulebook is None:
            raise NotNow("collateral is not yet accepted by both sides", status=s.status)
        violation = s.rulebook.refuses(s.lane, message, now)
        if violation is not None:
            refusal = LaneAtLimit if violation.name == LaneAtLimit.code else Refused
            raise refusal(str(violation), rule=violation.name, message=message.MSG_TYPE)
        options = s.lifecycle.proposal is not None or s.lifecycle.offered
        if options and not isinstance(message, _BESIDE_OPTIONS):
            # The rulebook's clock may be past its deadline before the chain is, and a proposal that
            # the record refused binds us on chain all the same.
            raise NotNow("a settlement that we may have signed can still be mined")

    def send_text(self, message: Message, now: int) -> Effects:
        """Send a text. Raises NotNow without a connection."""
        if self.state.connection is None:
            raise NotNow("there is no connection")
        out = self._enter(now)
        signing.send_text(self.state, out, message, now)
        return self._leave(out)

    def request_checkpoint(self, now: int) -> tuple[tuple[int, int], Effects]:
        """Make a checkpoint as soon as it can be; see `checkpoints.request`. Raises SessionClosed,
        or the error that stopped the session."""
        signing.expect_open(self.state)
        out = self._enter(now)
        self.state.attention = True
        target = checkpoints.request(self.state)
        self._advance(out, now)
        return target, self._leave(out)

    def log_out(self, reason: str, now: int) -> Effects:
        """Open nothing more, for good: a Logout frame. What is open can still be closed and the
        custody settled, on this connection and on later ones. Raises NotNow, SessionClosed."""
        signing.must_sign(self.state, now)
        out = self._enter(now)
        self.state.attention = True
        if not self.state.lifecycle.logouts[self.state.lane]:
            signing.sign(self.state, out, Logout(text=reason or None), now)
        self._advance(out, now)
        return self._leave(out)

    # --- what was asked of the runtime -----------------------------------------------------------

    def collateral_funded(self, notes: Sequence[Note], now: int) -> Effects:
        """Our notes are in the tree; they are listed, and the peer's accepted, when it can be."""
        out = self._enter(now)
        self.state.attention = True
        collateral.on_funded(self.state, tuple(notes))
        out.append(StoreOpenings(self.state.lane, tuple(notes)))
        self._advance(out, now)
        return self._leave(out)

    def collateral_verified(self, notes: Sequence[Note], now: int) -> Effects:
        """The chain has the peer's notes, unspent."""
        out = self._enter(now)
        self.state.attention = True
        collateral.on_verified(self.state, tuple(notes))
        out.append(StoreOpenings(self.state.peer, tuple(notes)))
        self._advance(out, now)
        return self._leave(out)

    def collateral_failed(self) -> Effects:
        """Our chain, prover or funds failed us: they are asked again on the next connection."""
        self.state.attention = True
        collateral.on_failed(self.state)
        return self._leave([])

    def collateral_refused(self, error: CollateralRefused, now: int) -> Effects:
        """The peer's notes will not do: it is told why on the record, and the session stops."""
        out = self._enter(now)
        self.state.attention = True
        collateral.on_refused(self.state, error)
        self._advance(out, now)
        return self._leave(out)

    def key_delegated(self, key: SecretKey, change: SessionKeyChange, now: int) -> Effects:
        """Our next session key, already stored, with its delegation: its UKY is signed as soon as
        heads agree."""
        out = self._enter(now)
        self.state.attention = True
        self.state.keys.next_key = (key, change)
        self._advance(out, now)
        return self._leave(out)

    def revocations_learned(
        self, ours: Mapping[str, int], theirs: Mapping[str, int], now: int
    ) -> Effects:
        """Know the session keys that each wallet revoked, all of them, fromSeq by address.

        What the peer's revoked key signed and we have not covered leaves the record.
        """
        s, out = self.state, self._enter(now)
        self.state.attention = True
        new = keys.learn(s.keys, s.lane, ours, 1)
        floor = s.record.heads[s.lane].peer_seq + 1
        if keys.learn(s.keys, s.peer, theirs, floor) or new:
            out.append(StoreRevocations(tuple(s.keys.revoked.values())))
            void = keys.void_from(s, s.peer)
            if void is not None and s.error is None:
                revoked.revoke_from(s, out, void, now)
            out.append(KeyDue())
            self._advance(out, now)
        return self._leave(out)

    def output_occupied(self, fact: Fact, commitment: bytes, now: int) -> Effects:
        """Our own chain has an output that a settlement would make: we cite it, and nothing that
        would pay into it is alive any more."""
        s, out = self.state, self._enter(now)
        self.state.attention = True
        if s.rulebook is None:
            return self._leave(out)
        if not s.rulebook.occupied(commitment):
            self._learn(out, fact)
        if signing.may_sign(s, now):
            citation = ChainFact(
                fact_kind=FactKind.INSERTED,
                block_number=fact.block,
                transaction_hash=fact.transaction,
                commitment=commitment,
            )
            if s.rulebook.refuses(s.lane, citation, now) is None:
                signing.sign(s, out, citation, now)
        self._advance(out, now)
        return self._leave(out)

    def settlement_mined(self, mined: Mined, now: int) -> Effects:
        """The settlement is on chain: the rulebook learns it, and we cite it, which closes the
        custody. Where heads do not agree now, it is cited once they do."""
        s, out = self.state, self._enter(now)
        self.state.attention = True
        if s.lifecycle.proposal is not None:
            proposal = s.lifecycle.proposal[2]
            spent = (proposal.nullifier0, proposal.nullifier1)
            inserted = (proposal.commitment0, proposal.commitment1)
            self._learn(out, Fact(mined.block, mined.transaction, spent, inserted))
            s.mined = mined, now
        self._advance(out, now)
        return self._leave(out)

    def chain_says(self, cited: Citation, view: ChainView, now: int) -> Effects:
        """What our own chain says of the frame that waits for it (`cited`). A citation that it does
        not bear out is false for good; one that it has not reached waits on."""
        s, out = self.state, self._enter(now)
        self.state.attention = True
        if holding.cited(s) == cited:
            true = view.settles(cited.said)
            denied = Fact(view.head, cited.said.transaction_hash, (), (), (cited.lane, cited.seq))
            fact = view.fact if true else denied
            if true is not None and fact is not None:
                self._learn(out, fact)
        self._advance(out, now)
        return self._leave(out)

    def proposal_fell(self, proposal: Settlement, now: int) -> Effects:
        """A proposal of the peer's that we did not sign rested on a frame that turned out to be
        late, and is void: trading may go on."""
        out = self._enter(now)
        self.state.attention = True
        lifecycle.forget_unsigned(self.state.lifecycle, proposal)
        self._advance(out, now)
        return self._leave(out)

    def proposal_expired(self, now: int) -> Effects:
        """What is past its deadline by now did not happen on chain: trading may go on."""
        out = self._enter(now)
        self.state.attention = True
        lifecycle.expire(self.state.lifecycle, now)
        self._advance(out, now)
        return self._leave(out)

    def _learn(self, out: Effects, fact: Fact) -> None:
        if self.state.rulebook is not None:
            rejects.queue_all(self.state, self.state.rulebook.learn_fact(fact))
            out.append(StoreFact(fact.to_json()))

    # --- the three steps of every input ----------------------------------------------------------

    def _enter(self, now: int, *, heard: bool = False) -> Effects:
        """Look at the clock. It may have been set back: what is timed by it begins anew then."""
        s, connection = self.state, self.state.connection
        out, self._owed = self._owed, []
        if connection is not None:
            if now < s.now:
                _set_back(connection, now)
            if heard:
                connection.last_heard, connection.test_sent = now, None
        s.now = now
        if s.clock_behind or s.record.heads[s.lane].sending_time > now:
            self._look_at_clock(out, now)
        return out

    def _look_at_clock(self, out: Effects, now: int) -> None:
        s = self.state
        behind = signing.clock_behind(s, now)
        if behind is not None and not s.clock_behind:
            out.append(OwnClockBehind(behind))
            if s.connection is not None:
                arm(s.connection, s.record.heads[s.lane].sending_time - s.params.skew_ns)
        s.clock_behind = behind is not None

    def _advance(self, out: Effects, now: int) -> None:
        """Take every step that is due, until none is. Safe to call at any time."""
        s, connection = self.state, self.state.connection
        if len(s.record) >= s.params.checkpoint_frames:
            s.attention = True
        if not s.attention:
            if s.rejects:
                ruling.flush_rejects(s, out, now)
            return
        ruling.release(s, out, now)
        if s.error is not None or connection is None:
            return
        if not connection.synced:
            resume.try_sync(s, connection, out, now)
        if s.recovery.health == "complete" and (
            connection.synced or resume.lacks_only_void(s, connection)
        ):
            self._change_key(out, now)
        if signing.may_sign(s, now) and signing.within_limit(s):
            ruling.flush_rejects(s, out, now)
            while s.error is None and log_on.step(s, out, now):
                pass
            collateral.await_openings(s, now)
            if s.lifecycle.logons[s.lane] is not None and signing.may_sign(s, now):
                lifecycle.restate(s, out)
                checkpoints.advance(s, out, now)
                checkpoints.compare(s, out, now)
        if s.error is None and connection.synced:
            final_ack.advance(s, connection, out, now)

    def _change_key(self, out: Effects, now: int) -> None:
        """Sign the UKY of the next key: before anything else, since the one in force may sign
        nothing any more."""
        s = self.state
        if s.lifecycle.logons[s.lane] is None or s.lifecycle.settled is not None:
            return
        found = keys.take_next(s, now)
        if found is not None:
            s.keys.key, s.keys.next_key = found[0], None
            signing.sign(s, out, found[1], now)
            out.append(KeyChanged(found[0].public_key))

    def _leave(self, out: Effects) -> Effects:
        s = self.state
        if s.attention:
            lifecycle.restate(s, out)
            checkpoints.take_effect(s, out)
            s.attention = not self._only_business()
            keys.note_limits(s)
            if s.connection is not None:
                s.connection.wake_at = 0  # Any deadline may have changed.
        return out

    def _only_business(self) -> bool:
        """Nothing is due and no step is under way: what frames of business alone cannot change."""
        s = self.state
        return (
            s.status is SessionStatus.TRADING
            and s.synced
            and not s.held
            and not s.keys.next_key
            and s.mined is None
            and s.lifecycle.logouts[0] == s.lifecycle.logouts[1]
            and s.rulebook is not None
            and not s.rulebook.waits
            and not checkpoints.is_wanted(s)
            and not s.rulebook.offer_stands()
            and s.rulebook.disputed is s.checkpoints.seen_dispute
            and len(s.record) < s.params.checkpoint_frames
        )


def _set_back(connection: ConnectionState, now: int) -> None:
    connection.last_sent = min(connection.last_sent, now)
    connection.last_heard = min(connection.last_heard, now)
    connection.progress = min(connection.progress, now)
    if connection.uncovered_since is not None:
        connection.uncovered_since = min(connection.uncovered_since, now)


def begin_session(
    record: Record,
    rulebook: Rulebook | None,
    lane: int,
    params: SessionParams,
    *,
    now: int,
    key: SecretKey | None = None,
    logon: Logon | None = None,
    kept: Iterable[SecretKey] = (),
    revocations: Iterable[JournalledRevocation] = (),
    health: Health = "complete",
    newest: Heads | None = None,
    spare: Iterable[Frame] = (),
    announced: int = 0,
    notes: Iterable[Note] = (),
    peer_notes: Iterable[Note] = (),
    stopped: PSymmError | None = None,
    acknowledged: int = 0,
) -> SessionProtocol:
    """A session, new or out of a journal; the rulebook has seen no frame of the record yet.

    key: ours, in force or for our Logon; None where nothing may be signed.
    logon: ours, where it is still to be signed.
    kept: all session keys of ours that the journal holds.
    health, newest, spare: of a journal that lost frames: its newest heads, and loose frames.
    announced: what the peer introduced, token units.
    acknowledged: of a custody that had ended, our highest frame that the peer is known to have.
    """
    state = SessionState(
        lane=lane,
        params=params,
        record=record,
        rulebook=rulebook,
        keys=KeyState(
            key,
            logon,
            {one.public_key: one for one in kept},
            {(one.lane, one.key): one for one in revocations},
        ),
        collateral=CollateralState(
            {note.commitment: note for note in notes},
            {note.commitment: note for note in peer_notes},
            announced,
        ),
        recovery=RecoveryState(health, newest),
        rate=PeerRate(params.frames_per_second),
        now=now,
        error=stopped,
        final_ack=FinalAckState(acknowledged),
    )
    for frame in spare:
        recovery.keep(state, frame)
    return SessionProtocol(state)
