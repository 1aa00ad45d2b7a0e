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

from collections.abc import Mapping, Sequence
from secrets import token_bytes
from typing import Final

from psymm._core import Frame, JsonError, SecretKey
from psymm.errors import (
    CollateralRefused,
    FloodingPeer,
    NotNow,
    PSymmError,
)
from psymm.messages import (
    AccountPart,
    BusinessMessageReject,
    CheckpointRequest,
    Heartbeat,
    Logout,
    Message,
    NoteOpenings,
    ResendRequest,
    Resume,
    SessionKeyChange,
    Settlement,
    TestRequest,
    decode_text,
)
from psymm.session.protocol import (
    checkpoints,
    collateral,
    deadlines,
    facts,
    final_ack,
    frames,
    gaps,
    keys,
    lifecycle,
    resume,
    revoked,
    ruling,
    signing,
)
from psymm.session.protocol import (
    logon as log_on,
)
from psymm.session.protocol.chain_facts import ChainView, Citation, Fact, Mined, Note
from psymm.session.protocol.effects import (
    Effects,
    KeyChanged,
    OwnClockBehind,
    StoreOpenings,
    TextReceived,
)
from psymm.session.protocol.state import (
    ConnectionState,
    HeadSync,
    SessionState,
    arm,
)
from psymm.session.protocol.status import SessionStatus
from psymm.session.protocol.views import FrameBatch, SessionView
from psymm.transcript.checkpoint import Point
from psymm.transcript.record import RecordedFrame
from psymm.transcript.resumption import ResumeSigner

_UNPROVEN: Final = (BusinessMessageReject, Heartbeat, Resume, TestRequest)
"""What is heard of a peer that has not proved itself on the connection."""


class SessionProtocol(SessionView):
    """One end of a custody's session. Its state is read through `SessionView`, and changed through
    the methods here only."""

    def __init__(self, state: SessionState) -> None:
        super().__init__(state)
        self._owed: Effects = []
        """Of an input that raised; they come with the next input's."""
        state.business_ns = max(state.record.starts_ns(lane) for lane in (0, 1))
        ignored: Effects = []  # There is no connection yet, and nothing new to tell or store.
        revoked.read_record(state, ignored, arrive=True, now=state.now)
        state.status = lifecycle.status_of(state)
        head = state.record.heads[state.lane].seq
        state.final_ack.told = 0 < head <= state.final_ack.acknowledged

    def begin_at(self, point: Point) -> None:
        """This checkpoint is stored: nothing before it is held."""
        self.state.checkpoints.point = point
        checkpoints.compact(self.state, point)

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
        s, out = self.state, self._enter(now, steps=True)
        if s.connection is None or s.error is not None:
            return self._leave(out)
        # Silence and disputes first: a connection that is being ended takes no more steps.
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
            signing.check_message(s, message, now)
            entry = signing.sign(s, out, message, now)
        except Exception:
            # Whatever the application's message is: what was released may have signed a Reject.
            # Nothing is lost: these effects go first when the next input is entered.
            self._owed += self._leave(out)
            raise
        self._advance(out, now)
        return entry, self._leave(out)

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
        out = self._enter(now, steps=True)
        target = checkpoints.request(self.state)
        self._advance(out, now)
        return target, self._leave(out)

    def log_out(self, reason: str, now: int) -> Effects:
        """Open nothing more, for good: a Logout frame. What is open can still be closed and the
        custody settled, on this connection and on later ones. Raises NotNow, SessionClosed."""
        signing.must_sign(self.state, now)
        out = self._enter(now, steps=True)
        if not self.state.lifecycle.logouts[self.state.lane]:
            signing.sign(self.state, out, Logout(text=reason or None), now)
        return self._finish(out, now)

    # --- what was asked of the runtime -----------------------------------------------------------

    def collateral_funded(self, notes: Sequence[Note], now: int) -> Effects:
        """Our notes are in the tree; they are listed, and the peer's accepted, when it can be."""
        out = self._enter(now, steps=True)
        collateral.on_funded(self.state, tuple(notes))
        out.append(StoreOpenings(self.state.lane, tuple(notes)))
        return self._finish(out, now)

    def collateral_verified(self, notes: Sequence[Note], now: int) -> Effects:
        """The chain has the peer's notes, unspent."""
        out = self._enter(now, steps=True)
        collateral.on_verified(self.state, tuple(notes))
        out.append(StoreOpenings(self.state.peer, tuple(notes)))
        return self._finish(out, now)

    def collateral_failed(self) -> Effects:
        """Our chain, prover or funds failed us: they are asked again on the next connection."""
        self.state.attention = True
        collateral.on_failed(self.state)
        return self._leave([])

    def collateral_refused(self, error: CollateralRefused, now: int) -> Effects:
        """The peer's notes will not do: it is told why on the record, and the session stops."""
        out = self._enter(now, steps=True)
        collateral.on_refused(self.state, error)
        return self._finish(out, now)

    def key_delegated(self, key: SecretKey, change: SessionKeyChange, now: int) -> Effects:
        """Our next session key, already stored, with its delegation: its UKY is signed as soon as
        heads agree."""
        out = self._enter(now, steps=True)
        self.state.keys.next_key = (key, change)
        return self._finish(out, now)

    def revocations_learned(
        self, ours: Mapping[str, int], theirs: Mapping[str, int], now: int
    ) -> Effects:
        """Know the session keys that each wallet revoked, all of them, fromSeq by address.

        What the peer's revoked key signed and we have not covered leaves the record.
        """
        out = self._enter(now, steps=True)
        revoked.on_learned(self.state, out, ours, theirs, now)
        return self._finish(out, now)

    def output_occupied(self, fact: Fact, commitment: bytes, now: int) -> Effects:
        """Our own chain has an output that a settlement would make: we cite it, and nothing that
        would pay into it is alive any more."""
        out = self._enter(now, steps=True)
        facts.on_occupied(self.state, out, fact, commitment, now)
        return self._finish(out, now)

    def settlement_mined(self, mined: Mined, now: int) -> Effects:
        """The settlement is on chain: the rulebook learns it, and we cite it, which closes the
        custody. Where heads do not agree now, it is cited once they do."""
        out = self._enter(now, steps=True)
        facts.on_mined(self.state, out, mined, now)
        return self._finish(out, now)

    def chain_says(self, cited: Citation, view: ChainView, now: int) -> Effects:
        """What our own chain says of the frame that waits for it (`cited`). A citation that it does
        not bear out is false for good; one that it has not reached waits on."""
        out = self._enter(now, steps=True)
        facts.on_view(self.state, out, cited, view)
        return self._finish(out, now)

    def proposal_fell(self, proposal: Settlement, now: int) -> Effects:
        """A proposal of the peer's that we did not sign rested on a frame that turned out to be
        late, and is void: trading may go on."""
        out = self._enter(now, steps=True)
        lifecycle.forget_unsigned(self.state.lifecycle, proposal)
        return self._finish(out, now)

    def proposal_expired(self, now: int) -> Effects:
        """What is past its deadline by now did not happen on chain: trading may go on."""
        out = self._enter(now, steps=True)
        lifecycle.expire(self.state.lifecycle, now)
        return self._finish(out, now)

    # --- the three steps of every input ----------------------------------------------------------

    def _enter(self, now: int, *, heard: bool = False, steps: bool = False) -> Effects:
        """Look at the clock. It may have been set back: what is timed by it begins anew then.

        heard: the peer sent something. steps: more than business may be due after this input.
        """
        s, connection = self.state, self.state.connection
        out, self._owed = self._owed, []
        if steps:
            s.attention = True
        if connection is not None:
            if now < s.now:
                _set_back(connection, now)
            if heard:
                connection.last_heard, connection.test_sent = now, None
        s.now = now
        # Our own lane may lie ahead of our clock: the process ran elsewhere, or the clock was set.
        if s.clock_behind or s.record.heads[s.lane].sending_time > now:
            self._look_at_clock(out, now)
        return out

    def _finish(self, out: Effects, now: int) -> Effects:
        self._advance(out, now)
        return self._leave(out)

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
        # The order of what follows matters. First what was held back takes effect: it may change
        # every answer below.
        ruling.release(s, out, now)
        if s.error is not None or connection is None:
            return
        # Heads must agree before anything is signed; frames that came just now may have made them.
        if not connection.synced:
            resume.try_sync(s, connection, out, now)
        # A new key goes first of all that is signed: the one in force may sign nothing any more.
        if s.recovery.health == "complete" and (
            connection.synced or resume.lacks_only_void(s, connection)
        ):
            self._change_key(out, now)
        if signing.may_sign(s, now) and signing.within_limit(s):
            # A Reject must be the first frame of ours to cover what it rejects: before any other
            # step.
            ruling.flush_rejects(s, out, now)
            while s.error is None and log_on.step(s, out, now):
                pass
            collateral.await_openings(s, now)
            if s.lifecycle.logons[s.lane] is not None and signing.may_sign(s, now):
                # The checkpoint last: it counts what was signed above, and reads the status.
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
            # Frames of business that follow skip all of this until something sets it again.
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
