"""One end of a custody's session, without input or output: texts, frames, timers and commands go
in, an `Effects` comes out.

What must happen next is derived from the record (`_advance`), never from a script that ran once,
so a process that died anywhere goes on from its journal. Our lane is signed only while the heads
of both sides are known to agree. Nothing here raises because of what the peer sent.

What is a subject by itself is a part with its own state (see `context`); here each frame, text,
wish and tick finds its way to the part that it is for, and what comes of it into the `Effects`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from secrets import token_bytes
from typing import Final

from psymm._core import Frame, FrameError, JsonError, SecretKey, TranscriptError
from psymm.errors import (
    CheckpointRefused,
    ClockBehind,
    CollateralRefused,
    Equivocation,
    FloodingPeer,
    Forked,
    JournalBehind,
    JournalRestored,
    KeyRevoked,
    LaneAtLimit,
    LogonRefused,
    NotNow,
    OverBudget,
    PeerSilent,
    PeerViolation,
    PSymmError,
    Refused,
    SessionClosed,
    clip,
)
from psymm.messages import (
    AccountPart,
    BusinessMessageReject,
    BusinessRejectReason,
    ChainFact,
    CheckpointRequest,
    CollateralResponse,
    FactKind,
    Heartbeat,
    JournalStatus,
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
    encode_text,
)
from psymm.rulebook.inputs import has_come
from psymm.rulebook.rules import MOST_UNCOVERED
from psymm.session.budget import EARLY_BYTES, EARLY_FRAMES, PeerRate
from psymm.session.checkpoints import Checkpoints
from psymm.session.collateral import ChainView, Citation, Fact, Mined, Note
from psymm.session.collateral_exchange import CollateralExchange
from psymm.session.effects import (
    CompactedFrame,
    Effects,
    Event,
    FrameReceived,
    FrameSent,
    FramesRevoked,
    FrameViolation,
    KeyChanged,
    KeyDue,
    OwnClockBehind,
    OwnFrameImported,
    PeerRejected,
    SessionStatus,
    StateChanged,
    Stopped,
    TextReceived,
)
from psymm.session.final_ack import FinalAck
from psymm.session.gap_fill import GapFill
from psymm.session.head_sync import HeadSync
from psymm.session.holding import Holding
from psymm.session.keys import SessionKeys, delegated_key, signer
from psymm.session.lifecycle import NO_BUSINESS, READ, Lifecycle
from psymm.session.logon_sequence import LogonSequence
from psymm.session.params import Ledger, SessionParams
from psymm.session.recovery import Recovery
from psymm.session.rejects import Rejects
from psymm.session.revoked import RevokedFrames
from psymm.transcript.agreement import SOLVER, TRADER
from psymm.transcript.checkpoint import Point
from psymm.transcript.codec import JournalledRevocation
from psymm.transcript.delegation import DelegationRefused
from psymm.transcript.heads import Heads, Health
from psymm.transcript.pruning import retains
from psymm.transcript.record import Record, RecordedFrame

SECOND: Final = 1_000_000_000
MALFORMED_LIMIT: Final = 8
"""Malformed texts or frames that one connection may carry before it is closed."""

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
    """Frames of one message. end: where in it they end; where what follows is no frame, that is
    `noise` and the message is over."""

    frames: Sequence[Frame]
    end: int
    noise: FrameError | None


class SessionProtocol:
    """lane: ours. key: our session key. announced_collateral: what the peer introduced, token
    units.

    health, newest, rescued: what the journal says of a custody that has lost frames. While it is
    not whole, frames of both lanes are fetched from the peer, each verified as any frame is, and
    nothing is signed. It becomes whole when the heads that it knew to be its newest are reached; a
    restored one never does. key: None where none may be used.

    delivered: of a custody that had ended, our highest frame that the peer is known to have.
    business_ns: the latest sendingTime of business among frames that are not held any more.
    now: by our clock, nanoseconds; what the peer dated ahead of it is held back.

    Made anew from the journal's record after a restart; `record` may already hold frames, which
    `ledger` has not seen yet.
    """

    def __init__(
        self,
        record: Record,
        ledger: Ledger,
        lane: int,
        key: SecretKey | None,
        params: SessionParams,
        *,
        health: Health = "complete",
        newest: Heads | None = None,
        rescued: Iterable[Frame] = (),
        announced_collateral: int = 0,
        notes: Iterable[Note] = (),
        peer_notes: Iterable[Note] = (),
        logon: Logon | None,
        stopped: PSymmError | None = None,
        kept: Iterable[SecretKey] = (),
        revoked: Iterable[JournalledRevocation] = (),
        delivered: int | None = None,
        now: int,
    ) -> None:
        self.record = record
        self.ledger = ledger
        self.lane, self.peer = lane, 1 - lane
        self.params = params
        self.state = SessionStatus.LOGON
        self.error: PSymmError | None = stopped
        self.lifecycle = Lifecycle(lane, params.skew_ns)
        self.malformed = self.resends_asked = self.frames_resent = 0
        self.keys = SessionKeys(lane, key, revoked, kept, logon)
        self._broken: set[int] = set()
        self.business_ns = max(record.starts_ns(TRADER), record.starts_ns(SOLVER))
        self.effects = Effects()
        self.collateral_exchange = CollateralExchange(self, notes, peer_notes, announced_collateral)
        self.logon_sequence = LogonSequence(self, self.collateral_exchange, logon)
        self.rejects = Rejects(self, ledger)
        self.revoked = RevokedFrames(self)
        self.gap_fill = GapFill(self)
        self.holding = Holding(self, ledger)
        self.recovery = Recovery(self, ledger, health, newest, rescued)
        self.head_sync = HeadSync(self, self.gap_fill, self.recovery)
        self.checkpoints = Checkpoints(self, ledger)
        self.final_ack = FinalAck(self, delivered)
        # of this connection
        self._connected = False
        self._malformed = 0
        self.last_sent = self._last_heard = self.since = 0
        self._test: int | None = None
        self._uncovered_since: int | None = None
        self._rate = PeerRate(params.frames_per_second)
        self._now = now
        self._behind = False
        self._read_record()
        self._restate()
        self.effects = Effects()

    def _read_record(self, *, arrive: bool = True) -> None:
        """Note every frame of the record; `arrive`: the ledger has seen none of them yet."""
        before = self.record.before
        void = {
            entry.message.ref_seq_num
            for entry in before
            if entry.frame.lane == self.lane and isinstance(entry.message, Reject)
        }
        for entry in before:
            if entry.frame.lane == self.lane or entry.frame.seq not in void:
                self.apply(entry)
        for entry in self.record:
            theirs = entry.frame.lane == self.peer
            if theirs and arrive and self.holding.keeps(entry, self._now):
                continue
            first = self.holding.first
            if theirs and first is not None and entry.frame.seq >= first:
                continue
            if (
                theirs
                and arrive
                and (entry.bad_payload is not None or isinstance(entry.message, READ))
            ):
                # As when it came: a violation has no effect after a restart either.
                self._read(entry, self._judge(entry))
                continue
            if not theirs or entry.frame.seq not in self._broken:
                self.apply(entry)
            if arrive:
                for broken in self.ledger.arrived(entry):
                    self.rejects.queue(entry, broken)
        self.rejects.drop_signed()

    # --- connection -------------------------------------------------------------------------

    @property
    def synced(self) -> bool:
        """Heads agree on the connection that stands; only then is anything signed."""
        return self.head_sync.synced and self.error is None

    @property
    def dispute(self) -> PSymmError | None:
        """What the heads that the peer showed on this connection would prove, if they were signed.
        Nothing is signed on it any more."""
        dispute = self.head_sync.dispute
        return None if dispute is None else dispute[0]

    def heads(self) -> Resume:
        """Ours, as a resume says them."""
        trader, solver = self.record.head(TRADER).seq, self.record.head(SOLVER).seq
        return Resume(
            custody=self.record.agreement.custody,
            trader_seq=trader,
            trader_digest=self.record.digest(TRADER, trader),
            solver_seq=solver,
            solver_digest=self.record.digest(SOLVER, solver),
            journal_status=JournalStatus.RESTORED if self.recovery.health == "read-only" else None,
        )

    def show_heads(self, now: int) -> None:
        """Show ours, where the peer proved itself."""
        self.head_sync.show_heads(now)

    def connected(self, now: int, *, fresh: bool, challenge: bytes | None = None) -> Effects:
        """A connection to the peer stands. fresh: the handshake happened on it just now and neither
        side can have frames, so there is nothing to resume. challenge: the one that the peer was
        told on it already; None draws one and tells it."""
        self._connected = True
        ours = token_bytes(32) if challenge is None else challenge
        self.head_sync.reconnected(ours, fresh=fresh and self.record.frames == 0)
        self.recovery.reconnected()
        self.gap_fill.reconnected()
        self.revoked.reconnected()
        self.holding.reconnected()
        self.collateral_exchange.reconnected()
        self.checkpoints.reconnected()
        self.final_ack.reconnected()
        self._malformed = 0
        self._test = None
        self._now = now
        self.last_sent = self._last_heard = self.since = now
        self._uncovered_since = now if self.uncovered() else None
        self._advance(now)
        if challenge is None:
            self.head_sync.ask(now)
        return self._take()

    def disconnected(self) -> Effects:
        """The connection is gone. Nothing is signed until the next one has resumed."""
        self._connected = False
        self.head_sync.disconnected()
        self.final_ack.reconnected()
        return self._take()

    # --- what the peer sends ----------------------------------------------------------------

    def receive_text(self, text: str, now: int) -> Effects:
        """A WebSocket text of the peer."""
        self._heard(now)
        if not self._rate.text(len(text), now):
            self.disconnect(FloodingPeer(frames_per_second=self.params.frames_per_second))
            return self._take()
        try:
            message = decode_text(text)
        except JsonError as bad:
            self.report_malformed(now, "text", f"{bad.code} at byte {bad.offset}")
            return self._take()
        if self.error is None and not self.head_sync.proven and not isinstance(message, _UNPROVEN):
            self.report_malformed(now, message.MSG_TYPE, "resume first: nothing proves who you are")
        elif self.error is None or isinstance(message, Resume):
            self._text(message, now)
            self._advance(now)
        return self._take()

    def receive_binary(self, data: bytes, now: int) -> Effects:
        """A WebSocket binary message of the peer: frames back to back, each judged by itself."""
        return self.receive_batch(self.parse_batch(data, 0, len(data)), now)

    def parse_batch(self, data: bytes, offset: int, most: int) -> FrameBatch:
        """The next frames of a message, at most `most`. Changes nothing."""
        frames: list[Frame] = []
        while offset < len(data) and len(frames) < most:
            try:
                frames.append(Frame.parse(data, offset))
            except FrameError as bad:
                return FrameBatch(frames, len(data), bad)
            offset += frames[-1].length
        return FrameBatch(frames, offset, None)

    def awaited(self, part: FrameBatch) -> tuple[bytes | None, list[Frame]]:
        """The key in force for the peer's lane, and the frames of a part that continue the lane
        under it: what is worth verifying before it is received. Changes nothing."""
        ruling = self.record.delegation(self.peer)
        found: list[Frame] = []
        seq = self.record.head(self.peer).seq
        for frame in part.frames if ruling is not None else ():
            seq += 1
            if (
                frame.lane != self.peer
                or frame.seq != seq
                or frame.custody != self.record.agreement.custody
                # From a key change on, another key rules.
                or frame.payload.startswith(_KEY_CHANGE)
            ):
                break
            found.append(frame)
        return None if ruling is None else ruling.public_key, found

    def receive_batch(self, part: FrameBatch, now: int) -> Effects:
        """Frames of the peer, each judged by itself, and the noise behind them if there is any."""
        self._heard(now)
        self.holding.release(now)
        if not self.head_sync.proven:
            self.report_malformed(now, "frame", "resume first: nothing proves who you are")
            return self._take()
        for frame in part.frames:
            if self.error is not None or self.effects.disconnect is not None:
                break
            if not self._within_rate(frame, now):
                self.disconnect(FloodingPeer(frames_per_second=self.params.frames_per_second))
                break
            self.receive_frame(frame, now)
        else:
            if part.noise is not None and self.error is None:
                self.report_malformed(
                    now, "frame", f"{part.noise.code} at byte {part.noise.offset}"
                )
        if self.error is None:
            self._advance(now)
        return self._take()

    # --- time -------------------------------------------------------------------------------

    def tick(self, now: int) -> Effects:
        """Do what has fallen due."""
        self._keep_time(now)
        if not self._connected or self.error is not None:
            return self._take()
        dispute = self.head_sync.dispute
        if dispute is not None and now >= dispute[1]:
            self.disconnect(dispute[0])
        beat = self.params.heartbeat_s * SECOND
        if now - self._last_heard >= beat * 5 // 2:
            self.disconnect(PeerSilent(silent_s=(now - self._last_heard) / SECOND))
        elif now - self._last_heard >= beat * 3 // 2 and self._test is None:
            self._test = now
            self.queue_text(TestRequest(test_req_id=str(now)), now)
        if not self.head_sync.synced and now - self.since >= self.params.response_timeout_ns:
            self.disconnect(
                self.head_sync.peer_behind or PeerSilent("the peer did not resume in time")
            )
        elif (
            self.head_sync.synced
            and self.lifecycle.logons[self.lane] is not None
            and self.lifecycle.logons[self.peer] is None
            and now - self.since >= self.params.response_timeout_ns
        ):
            self.disconnect(PeerSilent("the peer did not log on in time"))
        elif self.final_ack.due is not None and now >= self.final_ack.due:
            self.disconnect(PeerSilent("the peer did not take our last frames in time"))
        elif self.collateral_exchange.due is not None and now >= self.collateral_exchange.due:
            self.disconnect(PeerSilent("the peer did not open its notes in time"))
        if self.gap_fill.due is not None and now >= self.gap_fill.due:
            self.gap_fill.ask_again(now)
        if self.recovery.due is not None and now >= self.recovery.due:
            self.recovery.ask(self.head_sync.theirs, now)
        self._advance(now)
        if self._uncovered_since is not None:
            due = now - self._uncovered_since >= self.params.cover_after_ns
            if due or self._many_uncovered():
                self._cover(now)
        if now - self.last_sent >= beat:
            self.queue_text(Heartbeat(), now)
        return self._take()

    def next_tick(self, now: int) -> int:
        """When `tick` should next be called, nanoseconds; never more than a heartbeat away."""
        beat = self.params.heartbeat_s * SECOND
        due = [self.last_sent + beat, self._last_heard + beat * 3 // 2]
        if self._test is not None:
            due.append(self._last_heard + beat * 5 // 2)
        if not self.head_sync.synced or None in self.lifecycle.logons:
            due.append(self.since + self.params.response_timeout_ns)
        if self.head_sync.dispute is not None:
            due.append(self.head_sync.dispute[1])
        if self.gap_fill.due is not None:
            due.append(self.gap_fill.due)
        if self.recovery.due is not None:
            due.append(self.recovery.due)
        if self.final_ack.due is not None:
            due.append(self.final_ack.due)
        if self.collateral_exchange.due is not None:
            due.append(self.collateral_exchange.due)
        if self._behind:
            due.append(self.record.head(self.lane).sending_time - self.params.skew_ns)
        if self._uncovered_since is not None and self.may_sign(now):
            many = self._many_uncovered()
            due.append(self._uncovered_since + (0 if many else self.params.cover_after_ns))
        if self.holding.due is not None and self.holding.due > now:
            due.append(self.holding.due)
        return min(max(min(due), now + SECOND // 100), now + beat)

    # --- what our own side wants ------------------------------------------------------------

    def expect_open(self) -> None:
        """Raises SessionClosed, or the error that stopped the session."""
        if self.error is not None:
            raise self.error
        if self.state is SessionStatus.CLOSED:
            raise SessionClosed(custody=self.record.agreement.custody)

    def expect_own_journal(self) -> None:
        """As `expect_open`; raises JournalRestored too, where nothing is ever signed again."""
        self.expect_open()
        if self.recovery.health == "read-only":
            raise JournalRestored(custody=self.record.agreement.custody)

    def send(self, message: Message, now: int) -> tuple[RecordedFrame, Effects]:
        """Sign a message of the application and put it on the record.

        Raises NotNow before trading or while heads do not agree, Refused where our own rulebook
        would call it a violation, SessionClosed, or the error that stopped the session; nothing
        is signed then.
        """
        self.holding.release(now)
        self._must_sign(now)
        if self.state in (SessionStatus.LOGON, SessionStatus.VERIFYING):
            raise NotNow("collateral is not yet accepted by both sides", state=self.state)
        broken = self.ledger.refuses(self.lane, message, now)
        if broken is not None:
            refusal = LaneAtLimit if broken.rule == LaneAtLimit.code else Refused
            raise refusal(broken.detail, rule=broken.rule, message=message.MSG_TYPE)
        if self.lifecycle.options and not isinstance(message, _BESIDE_OPTIONS):
            # The rulebook's clock may be past its deadline before the chain is, and a proposal that
            # the record refused binds us on chain all the same.
            raise NotNow("a settlement that we may have signed can still be mined")
        entry = self.sign(message, now)
        self._advance(now)
        return entry, self._take()

    def request_checkpoint(self, now: int) -> tuple[tuple[int, int], Effects]:
        """Make a checkpoint as soon as it can be; see `Checkpoints.request`. Raises SessionClosed,
        or the error that stopped the session."""
        self.expect_open()
        wanted = self.checkpoints.request()
        self._advance(now)
        return wanted, self._take()

    def uncoverable(self, now: int) -> int:
        """Frames of the peer that are held back, see `Holding`."""
        return len(self.holding)

    def send_text(self, message: Message, now: int) -> Effects:
        """Send a text. Raises NotNow without a connection."""
        if not self._connected:
            raise NotNow("there is no connection")
        self.queue_text(message, now)
        return self._take()

    def collateral_funded(self, notes: Sequence[Note], now: int) -> Effects:
        """Our notes are in the tree; they are listed, and the peer's accepted, when it can be."""
        self.collateral_exchange.funded(notes)
        self.effects.opened.append((self.lane, tuple(notes)))
        self._advance(now)
        return self._take()

    def collateral_verified(self, notes: Sequence[Note], now: int) -> Effects:
        """The chain has the peer's notes, unspent."""
        self.collateral_exchange.verified(notes)
        self.effects.opened.append((self.peer, tuple(notes)))
        self._advance(now)
        return self._take()

    def collateral_failed(self) -> Effects:
        """Our chain, prover or funds failed us: it is asked for again on the next connection."""
        self.collateral_exchange.failed()
        return self._take()

    def collateral_refused(self, error: CollateralRefused, now: int) -> Effects:
        """The peer's notes will not do: it is told why on the record, and the session stops."""
        self.collateral_exchange.refused(error)
        self._advance(now)
        return self._take()

    def set_next_key(self, key: SecretKey, change: SessionKeyChange, now: int) -> Effects:
        """Our next session key, already kept, with its delegation: its UKY is signed as soon as
        heads agree."""
        self.keys.next_key = (key, change)
        self._advance(now)
        return self._take()

    def learn_revocations(
        self, ours: Mapping[str, int], theirs: Mapping[str, int], now: int
    ) -> Effects:
        """Know the session keys that each wallet revoked, all of them, fromSeq by address.

        What the peer's revoked key signed and we have not covered leaves the record.
        """
        new = self.keys.learn(self.lane, ours, 1)
        floor = self.record.head(self.lane).peer_seq + 1
        if self.keys.learn(self.peer, theirs, floor) or new:
            self.effects.revocations = self.keys.revoked
            void = self.keys.void_from(self.record, self.peer)
            if void is not None and self.error is None:
                self._revoke_from(void, now)
            self.effects.events.append(KeyDue())
            self._advance(now)
        return self._take()

    def log_out(self, reason: str, now: int) -> Effects:
        """Open nothing more, for good: a Logout frame. What is open can still be closed and the
        custody settled, on this connection and on later ones. Raises NotNow, SessionClosed."""
        self._must_sign(now)
        if not self.lifecycle.logouts[self.lane]:
            self.sign(Logout(text=reason or None), now)
        self._advance(now)
        return self._take()

    def leave(self, reason: PSymmError, now: int) -> Effects:
        """Leave the connection, and mean to come back. What the peer did is covered before: a fill
        that is covered late is void (`spec.md` 2), and nobody knows when we are back."""
        if self.uncovered():
            self._cover(now)
        self.disconnect(reason)
        return self._take()

    def _cover(self, now: int) -> None:
        """Sign a Heartbeat that covers all that came, if that is more than is covered already."""
        base = self.lifecycle.logons[self.lane] is not None
        more = self.covers(now) > self.record.head(self.lane).peer_seq
        if base and more and self.may_sign(now):
            self.sign(Heartbeat(), now)

    def apply(self, entry: RecordedFrame) -> None:
        """How far the custody has come with a frame that is in effect, ours or theirs."""
        self.lifecycle.apply(entry)
        said = entry.message
        if (
            isinstance(said, ChainFact)
            and said.commitment is not None
            and self.ledger.occupied(said.commitment)
        ):
            self.lifecycle.forget_output(said.commitment)

    def output_occupied(self, fact: Fact, commitment: bytes, now: int) -> Effects:
        """Our own chain has an output that a settlement would make: we cite it, and nothing that
        would pay into it is alive any more."""
        if not self.ledger.occupied(commitment):
            self.rejects.queue_all(self.ledger.learn_fact(fact))
            self.effects.facts.append(fact.to_json())
        if self.may_sign(now):
            said = ChainFact(
                fact_kind=FactKind.INSERTED,
                block_number=fact.block,
                transaction_hash=fact.transaction,
                commitment=commitment,
            )
            if self.ledger.refuses(self.lane, said, now) is None:
                self.sign(said, now)
        self._advance(now)
        return self._take()

    def settlement_mined(self, mined: Mined, now: int) -> Effects:
        """The settlement is on chain: the rulebook learns it, and we cite it, which closes the
        custody. Where heads do not agree now, it is cited once they do."""
        if self.lifecycle.proposal is not None:
            said = self.lifecycle.proposal[2]
            fact = Fact(
                mined.block,
                mined.transaction,
                (said.nullifier0, said.nullifier1),
                (said.commitment0, said.commitment1),
            )
            self.rejects.queue_all(self.ledger.learn_fact(fact))
            self.effects.facts.append(fact.to_json())
            self.logon_sequence.mined(mined, now)
        self._advance(now)
        return self._take()

    def chain_says(self, cited: Citation, view: ChainView, now: int) -> Effects:
        """What our own chain says of the frame that waits for it (`Holding.cited`). A citation that
        it does not bear out is false for good; one that it has not reached waits on."""
        if self.holding.cited == cited:
            said, place = cited.said, (cited.lane, cited.seq)
            true = view.settles(said)
            fact = view.fact if true else Fact(view.head, said.transaction_hash, (), (), place)
            if true is not None and fact is not None:
                self.rejects.queue_all(self.ledger.learn_fact(fact))
                self.effects.facts.append(fact.to_json())
        self._advance(now)
        return self._take()

    # --- frames -----------------------------------------------------------------------------

    def receive_frame(self, frame: Frame, now: int, *, endorsed: bool = False) -> None:
        """A frame of the peer. endorsed: the wallet's next key builds on it."""
        if frame.custody != self.record.agreement.custody:
            self.report_malformed(now, "frame", "wrong-custody: this connection serves another")
            return
        if self.recovery.health != "complete" and frame.seq > self.record.head(frame.lane).seq:
            self.recovery.keep(frame)
            self.recovery.merge(now)
            return
        if frame.lane == self.lane:
            self._own_frame(frame, now)
            return
        head = self.record.head(self.peer).seq
        if frame.seq <= head:
            self._again(frame, now)
            return
        full = self.holding.full()
        if full is not None:
            self.disconnect(full)
            return
        if frame.seq > head + 1:
            if not self.revoked.receive_beyond(frame, now):
                self.gap_fill.found(frame, now)
            return
        if not self._room_for(frame):
            self.disconnect(
                OverBudget(
                    "too many frames before collateral was accepted",
                    frames=EARLY_FRAMES,
                    bytes=EARLY_BYTES,
                )
            )
            return
        revoked = None if endorsed else self.keys.refuses(self.record, frame)
        if revoked is not None:
            self.revoked.refuse(frame, revoked, now)
            return
        try:
            entry = self.record.append(frame)
        except (TranscriptError, FrameError, DelegationRefused) as bad:
            self._unfit(frame, bad, now)
            return
        if self.gap_fill.due is not None:
            self.gap_fill.came(frame.seq, now)
        if not self.head_sync.synced:
            self.head_sync.fetched += 1
        self.effects.entries.append(entry)
        self.arrived(entry, now)

    def _room_for(self, frame: Frame) -> bool:
        """Whether a custody whose collateral is not accepted on both sides may hold this frame
        too, and the Rejects that are owed (`spec.md` 68)."""
        if all(self.lifecycle.accepted_at):
            return True
        frames = self.record.frames + len(self.rejects.queued)
        held = sum(len(entry.frame.raw) for entry in self.record)
        return frames < EARLY_FRAMES and held + len(frame.raw) <= EARLY_BYTES

    @property
    def strangers(self) -> bool:
        """We are the solver, and no collateral of either side is known to be in the custody."""
        collateral_exchange = self.collateral_exchange
        return (
            self.lane == SOLVER
            and not collateral_exchange.peer_notes
            and not collateral_exchange.ours_at_stake
        )

    def arrived(self, entry: RecordedFrame, now: int) -> None:
        """A frame of the peer is on the record."""
        if not self.holding.keeps(entry, now):
            self.judged(entry, now)

    def judged(self, entry: RecordedFrame, now: int, *, waited: bool = False) -> None:
        """A frame of the peer takes effect, as far as it is in order. waited: it was held back, so
        its cover is due at once."""
        if not isinstance(entry.message, Heartbeat) and self._uncovered_since is None:
            self._uncovered_since = now - self.params.cover_after_ns if waited else now
        broken = self._judge(entry)
        self._read(entry, broken)
        self.effects.events.append(FrameReceived(entry, broken))
        if isinstance(entry.message, Reject):
            rejected = self.record.entry(self.lane, entry.message.ref_seq_num)
            self.effects.events.append(PeerRejected(entry.message, rejected))
            self.checkpoints.rejected(entry.message, rejected, now)
        if self.rejects.queued:
            self.rejects.flush(now)

    def _judge(self, entry: RecordedFrame) -> FrameViolation | None:
        """The violation that a frame of the peer is, by the rulebook or by what we know of our own
        notes; answered by a Reject."""
        broken = self.rejects.judge(entry)
        if broken is None and isinstance(entry.message, CollateralResponse):
            broken = self.collateral_exchange.misstated(entry.message)
            if broken is not None:
                self.rejects.queue(entry, broken)
        return broken

    def _read(self, entry: RecordedFrame, broken: FrameViolation | None) -> None:
        """Note a frame of the peer, unless it is a violation. Its first Logon is noted all the
        same, so that it is refused as what it is and not waited for."""
        if broken is not None:
            if entry.frame.seq != 1 or not isinstance(entry.message, Logon):
                self._broken.add(entry.frame.seq)
                return
            self.logon_sequence.bad_logon = LogonRefused(broken.detail, rule=broken.rule)
        self.apply(entry)

    def _again(self, frame: Frame, now: int) -> None:
        """A frame whose number is taken: the same again, or proof that its signer lies."""
        if self._is_the_same(frame):
            return
        held = self.record.entry(self.peer, frame.seq)
        first = self.record.digest(self.peer, frame.seq)
        digest = frame.digest(self.record.agreement.domain)
        if not self._signed_by(frame):
            self.report_malformed(now, "frame", "bad-signature on a number that is taken")
        elif digest != first:
            self.effects.evidence.append(
                (CompactedFrame(frame.seq) if held is None else held.frame, frame)
            )
            if self.keys.signed_by_different_keys(self.record, frame):
                # Two hands, one of them a thief's: what we hold stands, and the pair is kept.
                self.report_malformed(now, "frame", "key-revoked: another frame has this number")
                return
            self.stop(
                Equivocation(
                    custody=frame.custody,
                    lane=frame.lane,
                    seq=frame.seq,
                    first=first,
                    second=digest,
                )
            )

    def _unfit(self, frame: Frame, bad: Exception, now: int) -> None:
        """The peer's next frame does not fit. Unsigned, it is noise; signed, it is its signer's
        fault and the end: nothing can follow it."""
        code = getattr(bad, "code", "refused")
        if isinstance(bad, DelegationRefused):
            self.report_malformed(now, "frame", str(bad))
            if frame.seq == 1:
                self.disconnect(LogonRefused(str(bad)))
            return
        void = self.keys.void(self.record, frame)
        if void is not None:
            self.revoked.refuse(frame, void, now)
            return
        # A key that another has followed is in force no more, whatever it was delegated for.
        if code in ("bad-signature", "no-key") or not self._signed_by(frame):
            self.report_malformed(now, "frame", f"{code} in frame {frame.lane}/{frame.seq}: {bad}")
            return
        if code == "ahead" and self.revoked.import_own_frame(frame, now):
            return
        if code == "ahead":
            self.recovery.fall_behind(
                JournalBehind(
                    "the peer's signed frame covers frames of ours that we do not hold",
                    custody=frame.custody,
                    covered=frame.peer_seq,
                    held=self.record.head(self.lane).seq,
                )
            )
            return
        self.contradicts(frame, f"the peer signed a frame that contradicts the record: {code}")

    def contradicts(self, frame: Frame, why: str) -> None:
        """A signed frame that cannot follow what its lane holds: the end, and evidence beside the
        frame that it was to follow."""
        held = self.record.entry(frame.lane, frame.seq - 1)
        if held is not None:
            self.effects.evidence.append((held.frame, frame))
        self.stop(Forked(why, custody=frame.custody, lane=frame.lane, seq=frame.seq))

    def _own_frame(self, frame: Frame, now: int) -> None:
        """A frame of our own lane comes back: one we hold, or proof that our journal is old."""
        beyond = frame.seq > self.record.head(self.lane).seq
        if not beyond and self._is_the_same(frame):
            return
        if not self._ours(frame):
            self.report_malformed(now, "frame", "wrong-lane: this lane is ours")
            return
        if beyond and self.keys.compromised(self.record):
            self.revoked.show(frame)
            return
        self.recovery.fall_behind(
            JournalBehind(
                "the peer shows a frame that our key signed and our journal lacks",
                custody=frame.custody,
                seq=frame.seq,
                held=self.record.head(self.lane).seq,
            )
        )

    def _is_the_same(self, frame: Frame) -> bool:
        """Whether a frame whose number is taken is the one that took it: byte for byte, or by its
        digest where a checkpoint counts it. What our journal no longer knows is taken to be."""
        record = self.record
        held = record.entry(frame.lane, frame.seq)
        if held is not None:
            return frame.raw == held.frame.raw
        if not record.knows(frame.lane, frame.seq):
            return True
        return record.digest(frame.lane, frame.seq) == frame.digest(record.agreement.domain)

    def _ours(self, frame: Frame) -> bool:
        """Signed by the key of ours that is in force at its number, or by one that it brings. A
        former key proves nothing beyond the frames that it ruled."""
        ruling = self.record.signer(self.lane, frame.seq)
        keys = [delegated_key(self.record, frame), None if ruling is None else ruling.public_key]
        found = signer(self.record, frame)
        return found is not None and found in keys

    def _signed_by(self, frame: Frame) -> bool:
        """By a key that the wallet of its lane delegated for that number."""
        return signer(self.record, frame) is not None

    # --- what a checkpoint counts -----------------------------------------------------------

    def truncate_to(self, point: Point) -> None:
        """A checkpoint is in force: the frames that it counts leave memory. The peer has them all;
        for a peer whose journal lost some, ours has them."""
        if self.record.starts_at is not None and self.record.starts_at.point == point:
            return
        try:
            gone = self.record.truncate_to(point, self._outlives)
        except CheckpointRefused:
            return  # The next one may do.
        for one in gone:
            if not isinstance(one.message, NO_BUSINESS):
                self.business_ns = max(self.business_ns, one.frame.sending_time)
        self._broken = {seq for seq in self._broken if seq > point.seqs[self.peer]}
        self.ledger.begin()

    def _outlives(self, entry: RecordedFrame) -> bool:
        """Must a session know this frame for as long as it lives? One of the peer's that has no
        effect, and our Reject of it, nobody need know."""
        if entry.frame.lane == self.lane:
            void = isinstance(entry.message, Reject)
        else:
            void = entry.frame.seq in self.lifecycle.rejected
        return not void and retains(entry.message)

    # --- revoked keys -----------------------------------------------------------------------

    def import_own_frame(self, entry: RecordedFrame) -> None:
        """A frame of our lane that we did not sign is on the record: it is our word."""
        self.holding.release_to(entry.frame.peer_seq, self._now)
        self.apply(entry)
        self.effects.entries.append(entry)
        self.effects.events.append(OwnFrameImported(entry))
        for broken in self.ledger.arrived(entry):
            self.rejects.queue(entry, broken)

    def _revoke_from(self, seq: int, now: int) -> None:
        """Take the peer's frames from `seq` on off the record, as if they had never come."""
        gone = [entry for entry in self.record if entry.frame.lane == self.peer]
        gone = [entry for entry in gone if entry.frame.seq >= seq]
        error = KeyRevoked(lane=self.peer, seq=seq, frames=len(gone))
        self.record = self.record.without(self.peer, seq)
        before, self.lifecycle = self.lifecycle, Lifecycle(self.lane, self.params.skew_ns)
        self.rejects.revoke_from(seq)
        self.holding.revoke_from(seq)
        self._broken = {broken for broken in self._broken if broken < seq}
        again = not self.ledger.drop(self.peer, seq)
        if again:
            self.holding.frames.clear()
        self._read_record(arrive=again)
        self.lifecycle.keep_expired(before)
        self.collateral_exchange.forget_shown()
        self.gap_fill.forget()
        self._uncovered_since = now if self.uncovered() else None
        self.effects.revoked.extend(gone)
        self.effects.events.append(FramesRevoked(tuple(gone), error))
        # Whoever is there counts on what is gone: heads must agree anew.
        self.disconnect(error)

    # --- texts ------------------------------------------------------------------------------

    def _text(self, message: Message, now: int) -> None:
        match message:
            case Heartbeat():
                self.final_ack.answered(message.test_req_id)
            case TestRequest():
                self.queue_text(Heartbeat(test_req_id=message.test_req_id), now)
            case Resume():
                if message.challenge is not None and not self.head_sync.challenged:
                    self._rate.pardon()  # Every connection begins with one.
                if self.head_sync.receive(message, now):
                    self.final_ack.shown(message)
            case ResendRequest():
                self.gap_fill.answer(message, now)
            case NoteOpenings():
                self.collateral_exchange.opened(message, now)
            case CheckpointRequest():
                self.checkpoints.requested(now)
            case AccountPart():
                self.checkpoints.shown(message, now)
            case _:
                self.effects.events.append(TextReceived(message))

    # --- how far the custody has come -------------------------------------------------------

    def _restate(self) -> None:
        state = (
            SessionStatus.STOPPED if self.error is not None else self.lifecycle.state(self.record)
        )
        if state is SessionStatus.CLOSED and not self.ended:
            state = SessionStatus.SETTLING
        if state is not self.state:
            self.state = state
            self.effects.events.append(StateChanged(state))

    @property
    def ended(self) -> bool:
        """The custody has ended, and nothing of the record waits to be ruled: a settlement that the
        peer cites is no more than its word until our own chain has it."""
        return self.lifecycle.over and not self.ledger.waits

    @property
    def health(self) -> Health:
        """Of our journal. Nothing is signed unless it is whole."""
        return self.recovery.health

    @property
    def peer_restored(self) -> bool:
        """Whether the peer's journal says that it is a backup."""
        return self.head_sync.peer_restored

    @property
    def notes(self) -> dict[bytes, Note]:
        """Our notes with what they hold, by commitment."""
        return self.collateral_exchange.notes

    @property
    def peer_notes(self) -> dict[bytes, Note]:
        """The peer's notes that were verified, with what they hold, by commitment."""
        return self.collateral_exchange.peer_notes

    @property
    def proposal(self) -> tuple[int, RecordedFrame, Settlement] | None:
        """The proposal to settle that is alive: its lane, its entry, itself."""
        return self.lifecycle.proposal

    @property
    def acceptance(self) -> SettlementAcceptance | None:
        """The other side's word on the proposal that is alive."""
        return self.lifecycle.acceptance

    @property
    def settled(self) -> ChainFact | None:
        """What cites the settlement that was mined."""
        return self.lifecycle.settled

    @property
    def options(self) -> list[Settlement]:
        """What may still be mined; see `Lifecycle.options`."""
        return self.lifecycle.options

    def proposal_voided(self, said: Settlement, now: int) -> Effects:
        """A proposal of the peer's that we did not sign rested on a frame that turned out to be
        late, and is void: trading may go on."""
        self.lifecycle.forget_unsigned(said)
        self._advance(now)
        return self._take()

    def proposal_expired(self, now: int) -> Effects:
        """What is past its deadline by now did not happen on chain: trading may go on."""
        self.lifecycle.expire(now)
        self._advance(now)
        return self._take()

    def _advance(self, now: int) -> None:
        """Take every step that is due, until none is. Safe to call at any time."""
        self._keep_time(now)
        self.holding.release(now)
        if self.error is not None or not self._connected:
            self._restate()
            return
        if not self.head_sync.synced:
            self.head_sync.try_sync(now)
        if self.recovery.health == "complete" and (
            self.head_sync.synced or self.head_sync.only_void()
        ):
            self._change_key(now)
        if self.may_sign(now) and self.within_limit():
            if self.rejects.queued:
                self.rejects.flush(now)
            while self.error is None and self.logon_sequence.step(now):
                pass
            self.collateral_exchange.await_openings(now)
            if self.lifecycle.logons[self.lane] is not None and self.may_sign(now):
                self._restate()
                self.checkpoints.advance(now)
                self.checkpoints.compare(now)
        if self.error is None and self.head_sync.synced:
            self.final_ack.advance(now)
        self._restate()

    def _change_key(self, now: int) -> None:
        """Sign the UKY of the key that is to come: before anything else, since the one in force
        may sign nothing any more."""
        if self.lifecycle.logons[self.lane] is None or self.lifecycle.settled is not None:
            return
        next_key = self.keys.take(self.record, now)
        if next_key is not None:
            self.keys.key, self.keys.next_key = next_key[0], None
            self.sign(next_key[1], now)
            self.effects.events.append(KeyChanged(next_key[0].public_key))

    # --- signing and sending ----------------------------------------------------------------

    def may_sign(self, now: int) -> bool:
        """Whether anything may be signed now, if it is due."""
        return (
            self.head_sync.synced
            and self._connected
            and self.error is None
            and self.keys.ended(self.record, now) is None
            and self._clock_behind(now) is None
            and self.recovery.health == "complete"
            and self.keys.key is not None
        )

    def _must_sign(self, now: int) -> None:
        self.expect_own_journal()
        if not self._connected:
            raise NotNow("there is no connection")
        if self.recovery.health != "complete" or self.keys.key is None:
            raise NotNow("frames that our journal lost are still to be fetched")
        if not self.head_sync.synced:
            raise NotNow("the heads of both sides do not agree yet")
        behind = self._clock_behind(now)
        if behind is not None:
            raise behind
        ended = self.keys.ended(self.record, now)
        if ended is not None:
            raise ended

    def _clock_behind(self, now: int) -> ClockBehind | None:
        """Why nothing may be signed at this time: our lane would be dated with a time that stands
        still, or is ahead of the present (`spec.md` 66)."""
        last = self.record.head(self.lane).sending_time
        if has_come(last, now, self.params.skew_ns):
            return None
        return ClockBehind(
            last_ns=last,
            now_ns=now,
            ahead_s=(last - now) // SECOND,
            skew_s=self.params.skew_ns / SECOND,
        )

    def within_limit(self) -> bool:
        """Whether a frame other than a Heartbeat may be signed: the solver signs none while the
        trader leaves too many uncovered (`spec.md` 67)."""
        if self.lane == TRADER:
            return True
        return self.record.head(SOLVER).seq + 1 - self.ledger.trader_covers <= MOST_UNCOVERED

    def _many_uncovered(self) -> bool:
        """Whether the solver may soon have to wait for a cover of ours."""
        uncovered = self.covers(self._now) - self.record.head(self.lane).peer_seq
        return self.lane == TRADER and uncovered >= MOST_UNCOVERED // 2

    def _keep_time(self, now: int) -> None:
        """Our clock may have been set back: what is timed by it begins anew then."""
        if now < self._now:
            self.last_sent = min(self.last_sent, now)
            self._last_heard = min(self._last_heard, now)
            self.since = min(self.since, now)
            if self._uncovered_since is not None:
                self._uncovered_since = min(self._uncovered_since, now)
        self._now = now
        behind = self._clock_behind(now)
        if behind is not None and not self._behind:
            self.effects.events.append(OwnClockBehind(behind))
        self._behind = behind is not None

    def covers(self, now: int) -> int:
        """The highest peer frame that we may cover: none that is held back."""
        first = self.holding.first
        return self.record.head(self.peer).seq if first is None else first - 1

    def sign(self, message: Message, now: int, *, covers: int | None = None) -> RecordedFrame:
        """Sign what the rulebook is known to take: our lane's next frame. covers: its peerSeq, by
        default as far as `covers` goes."""
        if self.recovery.health != "complete" or self.keys.key is None:
            raise JournalRestored(custody=self.record.agreement.custody)
        entry = self.record.sign(
            self.keys.key,
            self.lane,
            message,
            now,
            covers=self.covers(now) if covers is None else covers,
        )
        self.apply(entry)
        self.effects.entries.append(entry)
        self.effects.sends.append(entry)
        self.effects.events.append(FrameSent(entry))
        if self.keys.number_due(self.record):
            self.effects.events.append(KeyDue())
        self.last_sent = now
        self._uncovered_since = now if self.uncovered() else None
        for broken in self.ledger.arrived(entry):
            self.rejects.queue(entry, broken)
        return entry

    def uncovered(self) -> bool:
        """Is there a frame of the peer, more than a Heartbeat, that we may cover and have not?"""
        head = self.covers(self._now)
        for seq in range(self.record.head(self.lane).peer_seq + 1, head + 1):
            entry = self.record.entry(self.peer, seq)
            if entry is not None and not isinstance(entry.message, Heartbeat):
                return True
        return False

    def queue_text(self, message: Message, now: int) -> None:
        """Say a text on the connection that stands."""
        if self._connected:
            self.effects.sends.append(encode_text(message))
            self.last_sent = now

    def queue_business_reject(self, now: int, kind: str, why: str) -> None:
        """Say in a text why something of the peer's has no effect. kind: its MsgType, or what it
        is."""
        self.queue_text(
            BusinessMessageReject(
                ref_msg_type=kind,
                business_reject_reason=BusinessRejectReason.OTHER,
                text=clip(why),
            ),
            now,
        )

    def report_malformed(self, now: int, kind: str, why: str) -> None:
        """Noise changes nothing: it is named to the peer, and cut off if it persists."""
        self._malformed += 1
        self.malformed += 1
        self.queue_business_reject(now, kind, why)
        if self._malformed >= MALFORMED_LIMIT:
            self.disconnect(PeerViolation("the peer keeps sending what is not valid", last=why))

    def _heard(self, now: int) -> None:
        self._keep_time(now)
        self._last_heard = now
        self._test = None

    def _within_rate(self, frame: Frame, now: int) -> bool:
        # A resume brings the peer's frames again, and may show us our own that we lack.
        asked_for = not self.head_sync.synced or (
            frame.lane == self.peer and frame.seq <= self.gap_fill.until
        )
        repeated = asked_for and frame.seq > self.record.head(frame.lane).seq
        return self._rate.frame(now, repeated=repeated, size=len(frame.raw))

    def disconnect(self, error: PSymmError) -> None:
        """End the connection. The first reason is the one that is told."""
        if self.effects.disconnect is None:
            self.effects.disconnect = error

    def stop(self, error: PSymmError) -> None:
        """Sign nothing more in this custody. The journal keeps what happened."""
        if self.error is None:
            self.error = error
            self.effects.stop = error
            self.effects.events.append(Stopped(error))
            self.disconnect(error)
            self._restate()

    def _take(self) -> Effects:
        self._restate()
        self.checkpoints.look()
        effects, self.effects = self.effects, Effects()
        return effects


__all__ = ["Effects", "Event", "SessionProtocol", "SessionStatus"]
