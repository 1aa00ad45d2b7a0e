"""The dispatcher: every input of a session enters here, and goes to its handler.

`SessionProtocol` is one end of a custody's session. It does no I/O: texts, frames, ticks and
commands go in, `Effects` come out. What comes before and after each input's handler is in `steps`.

We sign frames only while the heads of both sides are known to agree. Nothing here raises because of
what the peer sent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from secrets import token_bytes
from typing import Final

from psymm._core import JsonError, SecretKey
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
    lifecycle,
    resume,
    revoked,
    ruling,
    signing,
)
from psymm.session.protocol.chain_facts import ChainView, Citation, Fact, Mined, Note
from psymm.session.protocol.effects import Effects, StoreOpenings, TextReceived
from psymm.session.protocol.state import ConnectionState, HeadSync, SessionState
from psymm.session.protocol.steps import SessionSteps
from psymm.session.protocol.views import FrameBatch
from psymm.transcript.checkpoint import Point
from psymm.transcript.record import RecordedFrame
from psymm.transcript.resumption import ResumeSigner

_UNPROVEN: Final = (BusinessMessageReject, Heartbeat, Resume, TestRequest)
"""The messages we accept from a peer that has not proved itself on the connection."""

Expect = Callable[[], None]
"""Raises if a message no longer fits the account."""


class SessionProtocol(SessionSteps):
    """One end of a custody's session.

    Read its state through `SessionView`. Only the methods here change it.
    """

    def __init__(self, state: SessionState) -> None:
        super().__init__(state)
        state.business_ns = max(state.record.starts_ns(lane) for lane in (0, 1))
        # Replaying the journal yields effects that an earlier process already carried out.
        ignored: Effects = []
        revoked.read_record(state, ignored, arrive=True, now=state.now)
        state.status = lifecycle.status_of(state)
        head = state.record.heads[state.lane].seq
        state.final_ack.told = 0 < head <= state.final_ack.acknowledged

    def begin_at(self, point: Point) -> None:
        """Start from this stored checkpoint: memory holds no frame before it."""
        self.state.checkpoints.point = point
        checkpoints.compact(self.state, point)

    def set_proving_key(self, found: ResumeSigner) -> None:
        """Set a key that signs no frames, only resumes. It is used where no other key can be."""
        self.state.keys.proving = found

    # --- the connection --------------------------------------------------------------------------

    def connected(self, now: int, *, fresh: bool, challenge: bytes | None = None) -> Effects:
        """A connection to the peer is open.

        Args:
            now: our clock, nanoseconds.
            fresh: the custody was agreed on this connection, so there is nothing to resume.
            challenge: the challenge already sent to the peer; None draws a new one and sends it.
        """
        s, out = self.state, self._enter(now)
        connection = ConnectionState(
            token_bytes(32) if challenge is None else challenge, now, now, now, now
        )
        if fresh and s.record.frames == 0:
            # Neither side has a history, so there are no heads to compare.
            connection.sync = HeadSync.SYNCED
        # The new connection reports held frames again: the last one may have lost that text.
        s.connection, s.held_told, s.attention = connection, 0, True
        if signing.is_uncovered(s):
            signing.await_cover(s, connection, now)
        self._advance(out, now)
        if challenge is None:
            resume.ask(s, connection, out, now)
        return self._leave(out)

    def disconnected(self) -> Effects:
        """The connection is lost. We sign nothing until the next one has resumed."""
        self.state.attention = True
        self.state.connection = None
        return self._leave([])

    def leave(self, reason: PSymmError, now: int) -> Effects:
        """Disconnect, intending to come back later.

        Covers the peer's frames first. A frame covered too late is dated by its cover (`spec.md`
        2), which can void a fill, and nobody knows when we will be back.
        """
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
        # Decode only what is within the rate: decoding is the cost that the rate bounds.
        try:
            message = decode_text(text)
        except JsonError as bad:
            why = f"{bad.code} at byte {bad.offset}"
            signing.report_malformed(s, out, now, "text", why)
            return self._leave(out)
        if s.error is None and not connection.proven and not isinstance(message, _UNPROVEN):
            why = "resume first: nothing proves who you are"
            signing.report_malformed(s, out, now, message.MSG_TYPE, why)
        # A stopped session still answers a Resume: it tells a proven peer why it stopped.
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
        """A WebSocket binary message of the peer: frames back to back, each judged on its own."""
        return self.receive_batch(self.batch_of(data, 0, len(data)), now)

    def receive_batch(self, batch: FrameBatch, now: int) -> Effects:
        """Frames of the peer, each judged on its own, and any noise that follows them."""
        s, out = self.state, self._enter(now, heard=True)
        connection = s.connection
        if connection is None or connection.closing is not None:
            return self._leave(out)
        # Held frames come before these in the lane, so they must take effect first.
        if s.held:
            ruling.release(s, out, now)
        if connection.sync is HeadSync.UNPROVEN:
            why = "resume first: nothing proves who you are"
            signing.report_malformed(s, out, now, "frame", why)
            return self._leave(out)
        for frame in batch.frames:
            if s.error is not None or connection.closing is not None:
                break
            # A resume or a resend repeats frames, and may show us frames of our own that we lack.
            # They count against a rate of their own, but only if we really lack them.
            asked_for = connection.sync is not HeadSync.SYNCED or (
                frame.lane == s.peer and frame.seq <= connection.gap.until
            )
            repeated = asked_for and frame.seq > s.record.heads[frame.lane].seq
            if not s.rate.frame(now, repeated=repeated, size=len(frame.raw)):
                self._end_flood(out)
                break
            frames.receive(s, connection, out, frame, now)
        else:
            # Only after the whole batch: the valid frames before the noise bind their sender.
            if batch.noise is not None and s.error is None:
                why = f"{batch.noise.code} at byte {batch.noise.offset}"
                signing.report_malformed(s, out, now, "frame", why)
        return self._finish(out, now) if s.error is None else self._leave(out)

    def _end_flood(self, out: Effects) -> None:
        limit = self.state.params.frames_per_second
        signing.disconnect(self.state, out, FloodingPeer(frames_per_second=limit))

    # --- time ------------------------------------------------------------------------------------

    def tick(self, now: int) -> Effects:
        """Act on every deadline that has passed."""
        s, out = self.state, self._enter(now)
        connection, quiet = s.connection, not s.attention
        # While only business goes on, time makes no step due but those of the table.
        if connection is not None and quiet and deadlines.is_postponed(s, connection, now):
            return out
        s.attention = True
        if connection is None or s.error is not None:
            return self._leave(out)
        # Silence and disputes first: a connection that is being ended takes no more steps.
        deadlines.act(deadlines.BEFORE, s, connection, out, now)
        self._advance(out, now)
        deadlines.act(deadlines.AFTER, s, connection, out, now)
        return self._leave(out)

    def next_tick(self, now: int) -> int:
        """When to call `tick` next, nanoseconds. Never more than one heartbeat away."""
        return deadlines.next_due(self.state, self.state.connection, now)

    # --- commands of our own side ----------------------------------------------------------------

    def send(
        self, message: Message, now: int, expect: Expect | None = None
    ) -> tuple[RecordedFrame, Effects]:
        """Sign a message of the application and put it on the record.

        When it raises, it has signed nothing of this message.

        Args:
            message: what to sign.
            now: our clock, nanoseconds.
            expect: called just before it is signed; what it raises keeps it from being signed.

        Raises:
            NotNow: before trading, or while heads do not agree.
            Refused: our own rulebook would call the message a violation.
            SessionClosed: the custody has ended.
            PSymmError: the error that stopped the session.
        """
        s, out = self.state, self._enter(now)
        if s.held:
            ruling.release(s, out, now)
        try:
            # After the release, which may change the account, and in one step with the signature.
            if expect is not None:
                expect()
            signing.check_message(s, message, now)
            entry = signing.sign(s, out, message, now)
        except Exception:
            # Releasing held frames may already have signed a Reject, so its effects must not be
            # lost with the exception. The next input returns them first.
            self._owed += self._leave(out)
            raise
        return entry, self._finish(out, now)

    def send_text(self, message: Message, now: int) -> Effects:
        """Send a text. Raises NotNow without a connection."""
        if self.state.connection is None:
            raise NotNow("there is no connection")
        out = self._enter(now)
        signing.send_text(self.state, out, message, now)
        return self._leave(out)

    def request_checkpoint(self, now: int) -> tuple[tuple[int, int], Effects]:
        """Make a checkpoint as soon as possible; see `checkpoints.request`.

        Returns the target: the trader's and the solver's last frame that it has to count, and
        the effects. Raises SessionClosed, or the error that stopped the session.
        """
        signing.expect_open(self.state)
        out = self._enter(now, steps=True)
        target = checkpoints.request(self.state)
        self._advance(out, now)
        return target, self._leave(out)

    def log_out(self, reason: str, now: int) -> Effects:
        """Sign a Logout frame: from now on this custody opens nothing (`spec.md` 58, 63).

        What is open can still be closed and the custody settled, on this connection and on later
        ones. Raises NotNow, SessionClosed.
        """
        signing.must_sign(self.state, now)
        out = self._enter(now, steps=True)
        if not self.state.lifecycle.logouts[self.state.lane]:
            signing.sign(self.state, out, Logout(text=reason or None), now)
        return self._finish(out, now)

    # --- answers of the runtime ------------------------------------------------------------------

    def collateral_funded(self, notes: Sequence[Note], now: int) -> Effects:
        """Our notes are in the tree. We list them, and accept the peer's, as soon as possible."""
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
        """Our chain, prover or funding failed. The next connection tries again."""
        self.state.attention = True
        collateral.on_failed(self.state)
        return self._leave([])

    def collateral_refused(self, error: CollateralRefused, now: int) -> Effects:
        """The peer's notes are refused: a frame tells the peer why, and the session stops."""
        out = self._enter(now, steps=True)
        collateral.on_refused(self.state, error)
        return self._finish(out, now)

    def key_delegated(self, key: SecretKey, change: SessionKeyChange, now: int) -> Effects:
        """Our next session key is stored, with its delegation.

        The key's UKY is signed as soon as heads agree.
        """
        out = self._enter(now, steps=True)
        self.state.keys.next_key = (key, change)
        return self._finish(out, now)

    def revocations_learned(
        self, ours: Mapping[str, int], theirs: Mapping[str, int], now: int
    ) -> Effects:
        """Learn the session keys that each wallet revoked.

        Frames that the peer's revoked key signed and we have not covered leave the record.

        Args:
            ours: fromSeq by address, of every key that our wallet revoked.
            theirs: the same for the peer's wallet.
            now: our clock, nanoseconds.
        """
        out = self._enter(now, steps=True)
        revoked.on_learned(self.state, out, ours, theirs, now)
        return self._finish(out, now)

    def output_occupied(self, fact: Fact, commitment: bytes, now: int) -> Effects:
        """Our own chain already has an output that a settlement would create.

        We cite the fact. No settlement that creates this output can be mined any more.
        """
        out = self._enter(now, steps=True)
        facts.on_occupied(self.state, out, fact, commitment, now)
        return self._finish(out, now)

    def settlement_mined(self, mined: Mined, now: int) -> Effects:
        """The settlement is on chain: the rulebook learns it, and our citation closes the custody.

        Where heads do not agree now, we cite it once they do.
        """
        out = self._enter(now, steps=True)
        facts.on_mined(self.state, out, mined, now)
        return self._finish(out, now)

    def chain_says(self, cited: Citation, view: ChainView, now: int) -> Effects:
        """What our own chain says about the frame that waits for it (`cited`).

        A citation that the chain contradicts is false, finally. One that the chain has not reached
        keeps waiting (`spec.md` 65).
        """
        out = self._enter(now, steps=True)
        facts.on_view(self.state, out, cited, view)
        return self._finish(out, now)

    def proposal_fell(self, proposal: Settlement, now: int) -> Effects:
        """A settlement proposal of the peer is void, because a frame it relied on was late.

        We had not signed it, so trading may go on.
        """
        out = self._enter(now, steps=True)
        lifecycle.forget_unsigned(self.state.lifecycle, proposal)
        return self._finish(out, now)

    def proposal_expired(self, now: int) -> Effects:
        """Proposals past their deadline were not mined: trading may go on."""
        out = self._enter(now, steps=True)
        lifecycle.expire(self.state.lifecycle, now)
        return self._finish(out, now)
