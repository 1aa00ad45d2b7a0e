"""One end of a custody's session, without input or output: texts, frames, timers and wishes go
in, a `Turn` comes out.

What must happen next is derived from the record (`_advance`), never from a script that ran once,
so a process that died anywhere goes on from its journal. Our lane is signed only while the heads
of both sides are known to agree. Nothing here raises because of what the peer sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

from psymm._core import Frame, FrameError, JsonError, SecretKey, TranscriptError
from psymm.chain.abi import checksummed
from psymm.custody.errors import NoteInvalid
from psymm.errors import (
    BehindUnproved,
    CollateralForeign,
    CollateralMissing,
    CollateralNotListed,
    CollateralRefused,
    CollateralSpent,
    CollateralTooSmall,
    CollateralWrongToken,
    Equivocation,
    FloodingPeer,
    Forked,
    ForkUnproved,
    JournalBehind,
    JournalRestored,
    KeyRevoked,
    LaneAtLimit,
    LogonRefused,
    NotNow,
    PeerBehind,
    PeerRefused,
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
    CollAsgnReason,
    CollAsgnRejectReason,
    CollAsgnRespType,
    CollateralAssignment,
    CollateralResponse,
    CommitmentRef,
    FactKind,
    Heartbeat,
    JournalStatus,
    LaneCode,
    Logon,
    Logout,
    Message,
    NoteOpening,
    NoteOpenings,
    NoteRef,
    Reject,
    ResendRequest,
    Resume,
    SessionKeyChange,
    SessionRejectReason,
    Settlement,
    SettlementAcceptance,
    SettlementOutput,
    TestRequest,
    decode_text,
    encode_text,
)
from psymm.rulebook import Account
from psymm.session.budget import MOST_RESENT, MOST_RESENT_BYTES, PeerRate
from psymm.session.checkpoints import CheckpointLedger, Checkpoints
from psymm.session.collateral import Fact, Mined, Note, Payee, custody_of
from psymm.session.keys import SessionKeys, brought_key, signer
from psymm.session.turn import (
    Adopted,
    Event,
    FundCollateral,
    HeadsDiffer,
    KeyChanged,
    KeyDue,
    KeyRefused,
    PayeeShown,
    PeerRejected,
    PeerRestored,
    Received,
    Resumed,
    Said,
    SetAside,
    Signed,
    State,
    StateChanged,
    Stopped,
    Turn,
    VerifyCollateral,
    Violation,
)
from psymm.transcript.checkpoint import Point
from psymm.transcript.delegation import DelegationRefused
from psymm.transcript.heads import Heads, Standing
from psymm.transcript.opening import SOLVER, TRADER
from psymm.transcript.record import Entry, Record
from psymm.transcript.rows import JournalledRevocation

SECOND: Final = 1_000_000_000
GARBLED_LIMIT: Final = 8
"""Garbled texts or frames that one connection may carry before it is closed."""
RESEND_TRIES: Final = 5
MOST_WAITING_BYTES: Final = 1 << 20
"""What of a revoked key's frames waits in memory for the key that builds on them."""
MOST_SHOWN_BYTES: Final = 1 << 26
"""What the peer may show on one connection of frames of our own lane that we lack; we ask again."""
DISPUTE_NS: Final = 5 * SECOND
"""How long a connection on which heads differ stays open for the frames that prove who is wrong."""
MOST_SPARE_BYTES: Final = 64 * 1024 * 1024
"""Frames that were fetched and wait for others before them."""

_KEY_CHANGE: Final = b'{"MsgType":"UKY"'

_BESIDE_OPTIONS: Final = (
    BusinessMessageReject,
    ChainFact,
    Heartbeat,
    Logout,
    Reject,
    Settlement,
    SettlementAcceptance,
)
"""What we sign while a signed settlement can still be mined: it changes no account."""


_READ: Final = (
    ChainFact,
    CollateralAssignment,
    CollateralResponse,
    Logon,
    Logout,
    Settlement,
    SettlementAcceptance,
)
"""What `_note` reads of the peer: a violation among these has no effect."""


class Ledger(CheckpointLedger, Protocol):
    """The rulebook as a session needs it: fed every frame in order of arrival."""

    def arrived(self, entry: Entry) -> Sequence[Violation]:
        """A frame is on the record. Returns the violations of all frames that this one brought
        into effect, its own included."""
        ...

    def refuses(
        self,
        lane: int,
        message: Message,
        now_ns: int,
        size: int | None = None,
        *,
        covers: int | None = None,
    ) -> Violation | None:
        """Would this message, sent now after all that is on the record, break a rule? size: of its
        payload in bytes, where it has one already. covers: its peerSeq, by default all of the other
        lane that is on the record."""
        ...

    def drop(self, lane: int, seq: int) -> bool:
        """Forget a lane's frames from `seq` on, none of which the other lane covers. False where
        that is not all: then nothing has arrived, and every frame left is to arrive again."""
        ...

    def learn_notes(self, notes: Iterable[Note]) -> Sequence[Violation]:
        """Know what notes hold. Returns violations of frames that waited for it."""
        ...

    def learn_fact(self, fact: Fact) -> Sequence[Violation]:
        """Know what one transaction did. Returns violations of frames that waited for it."""
        ...


@dataclass(frozen=True, slots=True)
class Rules:
    """What a session reads of the terms. Spans in nanoseconds, amounts in token units."""

    token: str
    terms_hash: bytes
    heartbeat_s: int
    acknowledge_ns: int
    skew_ns: int
    minimum_collateral: int
    frames_per_second: int
    wait_ns: int = 20 * SECOND
    """How long a Logon, a resume, a resend or a Logout may stay unanswered."""

    @property
    def cover_after_ns(self) -> int:
        """A frame left uncovered this long is covered by a Heartbeat frame: well below T."""
        return min(self.acknowledge_ns // 4, SECOND)


@dataclass(frozen=True, slots=True)
class Part:
    """Frames of one message. end: where in it they end; where what follows is no frame, that is
    `noise` and the message is over."""

    frames: Sequence[Frame]
    end: int
    noise: FrameError | None


class Engine:
    """lane: ours. key: our session key. promised: what the peer introduced, token units.

    standing, newest, salvaged: what the journal says of a custody that has lost frames. While it is
    not whole, frames of both lanes are fetched from the peer, each verified as any frame is, and
    nothing is signed. It becomes whole when the heads that it knew to be its newest are reached; a
    restored one never does. key: None where none may be used.

    Made anew from the journal's record after a restart; `record` may already hold frames, which
    `ledger` has not seen yet.
    """

    def __init__(
        self,
        record: Record,
        ledger: Ledger,
        lane: int,
        key: SecretKey | None,
        rules: Rules,
        *,
        standing: Standing = "whole",
        newest: Heads | None = None,
        salvaged: Iterable[Frame] = (),
        promised: int = 0,
        notes: Iterable[Note] = (),
        peer_notes: Iterable[Note] = (),
        logon: Logon | None,
        stopped: PSymmError | None = None,
        kept: Iterable[SecretKey] = (),
        revoked: Iterable[JournalledRevocation] = (),
    ) -> None:
        self.record = record
        self.ledger = ledger
        self.lane = lane
        self.rules = rules
        self.state = State.LOGON
        self.error: PSymmError | None = stopped
        self.notes: dict[bytes, Note] = {note.commitment: note for note in notes}
        self.peer_notes: dict[bytes, Note] = {note.commitment: note for note in peer_notes}
        self.proposal: tuple[int, Entry, Settlement] | None = None
        self.acceptance: SettlementAcceptance | None = None
        self._offered: list[Settlement] = []
        self.settled: ChainFact | None = None
        self.garbled = self.resends_asked = self.frames_resent = 0
        self.standing: Standing = standing
        self.peer_restored = False
        self._newest = newest
        self._spare: dict[tuple[int, int], Frame] = {}
        self._spare_bytes = 0
        self._mined: Mined | None = None
        self._mined_at = 0
        self.keys = SessionKeys(lane, key, revoked, kept)
        self._logon = logon
        self._promised = promised
        self._logons: list[Logon | None] = [None, None]
        self._listed: tuple[dict[bytes, NoteRef], dict[bytes, NoteRef]] = ({}, {})
        self._listed_at: list[int] = [0, 0]
        self._accepted: tuple[set[bytes], set[bytes]] = (set(), set())
        self._accepted_at: list[int] = [0, 0]
        # Both, in the linear order: once so, it stays, unless frames are set aside.
        self._accepted_by_both = False
        self._turned_down: list[CollateralResponse | None] = [None, None]
        self._logouts: list[bool] = [False, False]
        self._logged_out_at = 0
        self._bad_logon: LogonRefused | None = None
        self._broken: set[int] = set()
        self._settling_from = 0
        self._owed: list[Reject] = []
        self._rejected: set[int] = set()
        self._turn = Turn()
        self._dead: tuple[int, bytes] | None = None
        self.checkpoints = Checkpoints(self, ledger)
        # of this connection
        self._connected = False
        self._synced = False
        self._said_heads: Resume | None = None
        self._their_heads: Resume | None = None
        self._repeated = 0
        self._fetched = 0
        self._resumed_said = False
        self._opened_said = False
        self._shown: tuple[Note, ...] | None = None
        self._verifying = False
        self._verified: set[bytes] = set()
        self._refusal: CollateralRefused | None = None
        self._funding = False
        self._garbled = 0
        self._shown_ours: dict[int, Frame] = {}
        self._shown_bytes = 0
        self._limbo: list[Frame] = []
        self._asked: tuple[int, int, int] | None = None
        self._last_sent = self._last_heard = self._since = 0
        self._resent_at = [-SECOND, -SECOND]
        self._resent_from = [0, 0]
        self._brought_at = [-SECOND, -SECOND]
        self._brought_to = [0, 0]
        self._dispute: tuple[PSymmError, int] | None = None
        self._fetch: tuple[int, int] | None = None
        self._peer_behind: PeerBehind | None = None
        self._test: int | None = None
        self._uncovered_since: int | None = None
        self._rate = PeerRate(rules.frames_per_second)
        self._gap_until = 0
        self._read_record()
        for frame in salvaged:
            self._keep_spare(frame)
        self._restate()
        self._turn = Turn()

    def _read_record(self, *, arrive: bool = True) -> None:
        """Note every frame of the record; `arrive`: the ledger has seen none of them yet."""
        for entry in self.record.before:
            self._note(entry)
        for entry in self.record:
            theirs = entry.frame.lane == self.peer
            if (
                theirs
                and arrive
                and (entry.bad_payload is not None or isinstance(entry.message, _READ))
            ):
                # As when it came: a violation has no effect after a restart either.
                self._read(entry, self._judge(entry, 0))
                continue
            if not theirs or entry.frame.seq not in self._broken:
                self._note(entry)
            if arrive:
                for broken in self.ledger.arrived(entry):
                    self._owe(entry, broken)
        self._owed = [owed for owed in self._owed if owed.ref_seq_num not in self._rejected]

    @property
    def _key(self) -> SecretKey | None:
        return self.keys.key

    # --- connection -------------------------------------------------------------------------

    @property
    def peer(self) -> int:
        return 1 - self.lane

    @property
    def synced(self) -> bool:
        """Heads agree on the connection that stands; only then is anything signed."""
        return self._synced and self.error is None

    @property
    def dispute(self) -> PSymmError | None:
        """What the heads that the peer showed on this connection would prove, if they were signed.
        Nothing is signed on it any more."""
        return None if self._dispute is None else self._dispute[0]

    def connected(self, now: int, *, fresh: bool) -> Turn:
        """A connection to the peer stands. fresh: the meeting happened on it just now and neither
        side can have frames, so there is nothing to resume."""
        self._connected = True
        self._synced = fresh and len(self.record) == 0
        self._said_heads = self._their_heads = None
        self._repeated = self._fetched = 0
        self._resumed_said = self._synced
        self._opened_said = False
        self.checkpoints.reconnected()
        self._shown = None
        self._shown_ours = {}
        self._shown_bytes = 0
        self._limbo = []
        self._garbled = 0
        self._asked = self._fetch = self._peer_behind = None
        self._resent_from = [0, 0]
        self._brought_to = [0, 0]
        self._dispute = None
        self._gap_until = 0
        self._test = None
        self._last_sent = self._last_heard = self._since = now
        self._uncovered_since = now if self._uncovered() else None
        if self.error is not None:
            self._say_reject(now, "URS", str(self.error))
            self._hang_up(self.error)
        elif not self._synced:
            self._say_heads(now)
        self._advance(now)
        return self._take()

    def disconnected(self) -> Turn:
        """The connection is gone. Nothing is signed until the next one has resumed."""
        self._connected = self._synced = False
        return self._take()

    # --- what the peer sends ----------------------------------------------------------------

    def receive_text(self, text: str, now: int) -> Turn:
        """A WebSocket text of the peer."""
        self._heard(now)
        if not self._rate.text(len(text), now):
            self._hang_up(FloodingPeer(frames_per_second=self.rules.frames_per_second))
            return self._take()
        try:
            message = decode_text(text)
        except JsonError as bad:
            self._garble(now, "text", f"{bad.code} at byte {bad.offset}")
            return self._take()
        if self.error is None:
            self._text(message, now)
            self._advance(now)
        return self._take()

    def receive_binary(self, data: bytes, now: int) -> Turn:
        """A WebSocket binary message of the peer: frames back to back, each judged by itself."""
        return self.receive_part(self.part_of(data, 0, len(data)), now)

    def part_of(self, data: bytes, offset: int, most: int) -> Part:
        """The next frames of a message, at most `most`. Changes nothing."""
        frames: list[Frame] = []
        while offset < len(data) and len(frames) < most:
            try:
                frames.append(Frame.parse(data, offset))
            except FrameError as bad:
                return Part(frames, len(data), bad)
            offset += frames[-1].length
        return Part(frames, offset, None)

    def awaited(self, part: Part) -> tuple[bytes | None, list[Frame]]:
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
                or frame.custody != self.record.opening.custody
                # From a key change on, another key rules.
                or frame.payload.startswith(_KEY_CHANGE)
            ):
                break
            found.append(frame)
        return None if ruling is None else ruling.public_key, found

    def receive_part(self, part: Part, now: int) -> Turn:
        """Frames of the peer, each judged by itself, and the noise behind them if there is any."""
        self._heard(now)
        for frame in part.frames:
            if self.error is not None or self._turn.hang_up is not None:
                break
            if not self._within_rate(frame, now):
                self._hang_up(FloodingPeer(frames_per_second=self.rules.frames_per_second))
                break
            self._frame(frame, now)
        else:
            if part.noise is not None and self.error is None:
                self._garble(now, "frame", f"{part.noise.code} at byte {part.noise.offset}")
        if self.error is None:
            self._advance(now)
        return self._take()

    # --- time -------------------------------------------------------------------------------

    def tick(self, now: int) -> Turn:
        """Do what has fallen due."""
        if not self._connected or self.error is not None:
            return self._take()
        if self._dispute is not None and now >= self._dispute[1]:
            self._hang_up(self._dispute[0])
        beat = self.rules.heartbeat_s * SECOND
        if now - self._last_heard >= beat * 5 // 2:
            self._hang_up(PeerSilent(silent_s=(now - self._last_heard) / SECOND))
        elif now - self._last_heard >= beat * 3 // 2 and self._test is None:
            self._test = now
            self._say(TestRequest(test_req_id=str(now)), now)
        if not self._synced and now - self._since >= self.rules.wait_ns:
            self._hang_up(self._peer_behind or PeerSilent("the peer did not resume in time"))
        elif (
            self._synced
            and self._logons[self.lane] is not None
            and self._logons[self.peer] is None
            and now - self._since >= self.rules.wait_ns
        ):
            self._hang_up(PeerSilent("the peer did not log on in time"))
        elif self._awaits_logout() and now - self._logout_since() >= self.rules.wait_ns:
            # The Logout stays on the record: it is answered when the peer resumes.
            self._hang_up(PeerSilent("the peer did not answer the Logout in time"))
        if self._asked is not None and now >= self._asked[1]:
            self._ask_again(now)
        if self._fetch is not None and now >= self._fetch[0]:
            self._fetch_missing(now)
        self._advance(now)
        if self._uncovered_since is not None and self._may_sign(now):
            due = now - self._uncovered_since >= self.rules.cover_after_ns
            if due and self._covers(now) > self.record.head(self.lane).peer_seq:
                self._sign(Heartbeat(), now)
        if now - self._last_sent >= beat:
            self._say(Heartbeat(), now)
        return self._take()

    def next_tick(self, now: int) -> int:
        """When `tick` should next be called, nanoseconds; never more than a heartbeat away."""
        beat = self.rules.heartbeat_s * SECOND
        due = [self._last_sent + beat, self._last_heard + beat * 3 // 2]
        if self._test is not None:
            due.append(self._last_heard + beat * 5 // 2)
        if not self._synced or None in self._logons:
            due.append(self._since + self.rules.wait_ns)
        if self._dispute is not None:
            due.append(self._dispute[1])
        if self._asked is not None:
            due.append(self._asked[1])
        if self._fetch is not None:
            due.append(self._fetch[0])
        if self._awaits_logout():
            due.append(self._logout_since() + self.rules.wait_ns)
        if self._uncovered_since is not None:
            due.append(max(self._uncovered_since + self.rules.cover_after_ns, self._coverable_at()))
        return min(max(min(due), now + SECOND // 100), now + beat)

    # --- what our own side wants ------------------------------------------------------------

    def send(self, message: Message, now: int) -> tuple[Entry, Turn]:
        """Sign a message of the application and put it on the record.

        Raises NotNow before trading or while heads do not agree, Refused where our own rulebook
        would call it a violation, SessionClosed, or the error that stopped the session; nothing
        is signed then.
        """
        self._must_sign(now)
        if self.state in (State.LOGON, State.VERIFYING):
            raise NotNow("collateral is not yet accepted by both sides", state=self.state)
        broken = self.ledger.refuses(self.lane, message, now)
        if broken is not None:
            refusal = LaneAtLimit if broken.rule == LaneAtLimit.code else Refused
            raise refusal(broken.detail, rule=broken.rule, message=message.MSG_TYPE)
        if self.options and not isinstance(message, _BESIDE_OPTIONS):
            # The rulebook's clock may be past its deadline before the chain is, and a proposal that
            # the record refused binds us on chain all the same.
            raise NotNow("a settlement that we may have signed can still be mined")
        entry = self._sign(message, now)
        self._advance(now)
        return entry, self._take()

    def want_checkpoint(self, now: int) -> tuple[tuple[int, int], Turn]:
        """Make a checkpoint as soon as it can be; see `Checkpoints.want`. Raises SessionClosed, or
        the error that stopped the session."""
        if self.error is not None:
            raise self.error
        if self.state is State.CLOSED:
            raise SessionClosed(custody=self.record.opening.custody)
        wanted = self.checkpoints.want()
        self._advance(now)
        return wanted, self._take()

    def uncoverable(self, now: int) -> int:
        """Frames of the peer that come from further ahead of our clock than the skew."""
        return self.record.head(self.peer).seq - self._covers(now)

    def say(self, message: Message, now: int) -> Turn:
        """Send a text. Raises NotNow without a connection."""
        if not self._connected:
            raise NotNow("there is no connection")
        self._say(message, now)
        return self._take()

    def collateral_funded(self, notes: Sequence[Note], now: int) -> Turn:
        """Our notes are in the tree; they are listed, and the peer's accepted, when it can be."""
        self._funding = False
        self.notes.update((note.commitment, note) for note in notes)
        self._owe_all(self.ledger.learn_notes(notes))
        self._turn.opened.append((self.lane, tuple(notes)))
        self._advance(now)
        return self._take()

    def collateral_verified(self, notes: Sequence[Note], now: int) -> Turn:
        """The chain has the peer's notes, unspent."""
        self._verifying = False
        self._verified.update(note.commitment for note in notes)
        self.peer_notes.update((note.commitment, note) for note in notes)
        self._owe_all(self.ledger.learn_notes(notes))
        self._turn.opened.append((self.peer, tuple(notes)))
        self._advance(now)
        return self._take()

    def collateral_failed(self) -> Turn:
        """Our chain, prover or funds failed us: it is asked for again on the next connection."""
        self._verifying = self._funding = False
        return self._take()

    def collateral_refused(self, error: CollateralRefused, now: int) -> Turn:
        """The peer's notes will not do: it is told why on the record, and the session stops."""
        self._verifying = False
        self._refusal = error
        self._advance(now)
        return self._take()

    def bring_key(self, key: SecretKey, change: SessionKeyChange, now: int) -> Turn:
        """Our next session key, already kept, with its delegation: its UKY is signed as soon as
        heads agree."""
        self.keys.coming = (key, change)
        self._advance(now)
        return self._take()

    def learn_revocations(
        self, ours: Mapping[str, int], theirs: Mapping[str, int], now: int
    ) -> Turn:
        """Know the session keys that each wallet revoked, all of them, fromSeq by address.

        What the peer's revoked key signed and we have not covered leaves the record.
        """
        new = self.keys.learn(self.lane, ours, 1)
        floor = self.record.head(self.lane).peer_seq + 1
        if self.keys.learn(self.peer, theirs, floor) or new:
            self._turn.revoked = self.keys.revoked
            void = self.keys.void_from(self.record, self.peer)
            if void is not None and self.error is None:
                self._set_aside(void, now)
            self._turn.events.append(KeyDue())
            self._advance(now)
        return self._take()

    def log_out(self, reason: str, now: int) -> Turn:
        """End the session for good: a Logout frame. Raises NotNow, SessionClosed."""
        self._must_sign(now)
        if not self._logouts[self.lane]:
            self._sign(Logout(text=reason or None), now)
            self._logged_out_at = now
        self._advance(now)
        return self._take()

    def settlement_mined(self, mined: Mined, now: int) -> Turn:
        """The settlement is on chain: the rulebook learns it, and we cite it, which closes the
        custody. Where heads do not agree now, it is cited once they do."""
        if self.proposal is not None:
            said = self.proposal[2]
            fact = Fact(
                mined.block,
                mined.transaction,
                (said.nullifier0, said.nullifier1),
                (said.commitment0, said.commitment1),
            )
            self._owe_all(self.ledger.learn_fact(fact))
            self._turn.facts.append(fact.to_json())
            self._mined, self._mined_at = mined, now
        self._advance(now)
        return self._take()

    # --- frames -----------------------------------------------------------------------------

    def _frame(self, frame: Frame, now: int, *, vouched: bool = False) -> None:
        """A frame of the peer. vouched: the wallet's next key builds on it."""
        if frame.custody != self.record.opening.custody:
            self._garble(now, "frame", "wrong-custody: this connection serves another")
            return
        if self.standing != "whole" and frame.seq > self.record.head(frame.lane).seq:
            self._keep_spare(frame)
            self._merge(now)
            return
        if frame.lane == self.lane:
            self._own_frame(frame, now)
            return
        head = self.record.head(self.peer).seq
        if frame.seq <= head:
            self._again(frame, now)
            return
        if frame.seq > head + 1:
            if not self._beyond_limbo(frame, now):
                if frame.seq > self._gap_until and self._signed_by(frame):
                    self._gap_until = frame.seq
                self._ask(head + 1, now)
            return
        revoked = None if vouched else self.keys.refuses(self.record, frame)
        if revoked is not None:
            self._refuse_revoked(frame, revoked, now)
            return
        try:
            entry = self.record.append(frame)
        except (TranscriptError, FrameError, DelegationRefused) as bad:
            self._unfit(frame, bad, now)
            return
        if self._asked is not None:
            # A resend under way is not asked for again at once, but one that stops short is.
            done = frame.seq >= self._gap_until
            self._asked = None if done else (frame.seq + 1, now + 2 * SECOND, 1)
        if not self._synced:
            self._fetched += 1
        self._turn.entries.append(entry)
        self._arrived(entry, now)

    def _arrived(self, entry: Entry, now: int) -> None:
        """A frame of the peer is on the record."""
        if not isinstance(entry.message, Heartbeat) and self._uncovered_since is None:
            self._uncovered_since = now
        broken = self._judge(entry, now)
        self._read(entry, broken)
        self._turn.events.append(Received(entry, broken))
        if isinstance(entry.message, Reject):
            rejected = self.record.entry(self.lane, entry.message.ref_seq_num)
            self._turn.events.append(PeerRejected(entry.message, rejected))
            self.checkpoints.rejected(entry.message, rejected, now)
        self._pay_owed(now)

    def _read(self, entry: Entry, broken: Violation | None) -> None:
        """Note a frame of the peer, unless it is a violation. Its first Logon is noted all the
        same, so that it is refused as what it is and not waited for."""
        if broken is not None:
            if entry.frame.seq != 1 or not isinstance(entry.message, Logon):
                self._broken.add(entry.frame.seq)
                return
            self._bad_logon = LogonRefused(broken.detail, rule=broken.rule)
        self._note(entry)

    def _judge(self, entry: Entry, now: int) -> Violation | None:
        """The violation that a peer's frame is, or None; answered by a Reject."""
        if entry.bad_payload is not None:
            bad = entry.bad_payload
            broken = Violation(
                self.peer, bad.code, f"{bad.code} at byte {bad.offset} of the payload"
            )
            self._owe(entry, broken)
            for other in self.ledger.arrived(entry):
                if other.seq not in (None, entry.frame.seq) or other.lane != self.peer:
                    self._owe(entry, other)
            return broken
        own: Violation | None = None
        if entry.message is not None and self.lane == SOLVER:
            frame = entry.frame
            own = self.ledger.refuses(
                self.peer,
                entry.message,
                frame.sending_time,
                len(frame.payload),
                covers=frame.peer_seq,
            )
            if own is not None and own.rule in _NOT_KNOWN_YET:
                own = None
            elif own is not None:
                self._owe(entry, own)
        for broken in self.ledger.arrived(entry):
            self._owe(entry, broken)
            if broken.lane == self.peer and broken.seq in (None, entry.frame.seq):
                own = broken
        return own

    def _owe(self, entry: Entry, broken: Violation) -> None:
        """Remember to reject a violation of the peer's; never a Reject itself (no endless talk)."""
        seq = entry.frame.seq if broken.seq is None else broken.seq
        if broken.lane != self.peer:
            return
        guilty = self.record.entry(self.peer, seq)
        if guilty is None or isinstance(guilty.message, Reject | Heartbeat):
            return
        if seq in self._rejected or any(owed.ref_seq_num == seq for owed in self._owed):
            return
        reason = {
            "unknown-message": SessionRejectReason.INVALID_MSG_TYPE,
            "missing-field": SessionRejectReason.REQUIRED_TAG_MISSING,
            "unknown-field": SessionRejectReason.UNDEFINED_TAG,
            "bad-enum": SessionRejectReason.VALUE_INCORRECT,
        }.get(broken.rule)
        if reason is None:
            bad = guilty.bad_payload is not None
            reason = SessionRejectReason.INCORRECT_FORMAT if bad else SessionRejectReason.OTHER
        self._owed.append(
            Reject(
                ref_seq_num=seq,
                violation=clip(broken.rule, 64),
                ref_msg_type=None if guilty.message is None else guilty.message.MSG_TYPE,
                session_reject_reason=reason,
                text=clip(broken.detail) or None,
            )
        )

    def _owe_all(self, violations: Iterable[Violation]) -> None:
        for broken in violations:
            if broken.seq is not None:
                entry = self.record.entry(broken.lane, broken.seq)
                if entry is not None:
                    self._owe(entry, broken)

    def _pay_owed(self, now: int) -> None:
        """Sign the Rejects that are owed, each the first frame of ours to cover its violation."""
        while self._owed and self._may_sign(now) and self._logons[self.lane] is not None:
            owed = self._owed[0]
            covers = max(owed.ref_seq_num, self.record.head(self.lane).peer_seq)
            if covers > self._covers(now):
                return
            self._owed.pop(0)
            self._sign(owed, now, covers=covers)

    def _again(self, frame: Frame, now: int) -> None:
        """A frame whose number is taken: the same again, or proof that its signer lies."""
        held = self.record.entry(self.peer, frame.seq)
        if held is None or frame.raw == held.frame.raw:
            return
        digest = frame.digest(self.record.opening.domain)
        if not self._signed_by(frame):
            self._garble(now, "frame", "bad-signature on a number that is taken")
        elif digest != held.digest:
            self._turn.evidence.append((held.frame, frame))
            if self._one_is_revoked(held.frame, frame):
                # Two hands, one of them a thief's: what we hold stands, and the pair is kept.
                self._garble(now, "frame", "key-revoked: another frame has this number")
                return
            self._stop(
                Equivocation(
                    custody=frame.custody,
                    lane=frame.lane,
                    seq=frame.seq,
                    first=held.digest,
                    second=digest,
                )
            )

    def _unfit(self, frame: Frame, bad: Exception, now: int) -> None:
        """The peer's next frame does not fit. Unsigned, it is noise; signed, it is its signer's
        fault and the end: nothing can follow it."""
        code = getattr(bad, "code", "refused")
        if isinstance(bad, DelegationRefused):
            self._garble(now, "frame", str(bad))
            if frame.seq == 1:
                self._hang_up(LogonRefused(str(bad)))
            return
        void = self.keys.void(self.record, frame)
        if void is not None:
            self._refuse_revoked(frame, void, now)
            return
        # A key that another has followed is in force no more, whatever it was delegated for.
        if code in ("bad-signature", "no-key") or not self._signed_by(frame):
            self._garble(now, "frame", f"{code} in frame {frame.lane}/{frame.seq}: {bad}")
            return
        if code == "ahead" and self._adopt(frame, now):
            return
        if code == "ahead":
            self._fall_behind(
                JournalBehind(
                    "the peer's signed frame covers frames of ours that we do not hold",
                    custody=frame.custody,
                    covered=frame.peer_seq,
                    held=self.record.head(self.lane).seq,
                )
            )
            return
        held = self.record.entry(self.peer, frame.seq - 1)
        if held is not None:
            self._turn.evidence.append((held.frame, frame))
        self._stop(
            Forked(
                f"the peer signed a frame that contradicts the record: {code}",
                custody=frame.custody,
                lane=frame.lane,
                seq=frame.seq,
            )
        )

    def _own_frame(self, frame: Frame, now: int) -> None:
        """A frame of our own lane comes back: one we hold, or proof that our journal is old."""
        held = self.record.entry(self.lane, frame.seq)
        if held is not None and held.frame.raw == frame.raw:
            return
        if held is None and frame.seq <= self.record.head(self.lane).seq:
            return  # from before the checkpoint that our record begins at
        if not self._ours(frame):
            self._garble(now, "frame", "wrong-lane: this lane is ours")
            return
        if held is None and self._key_was_stolen():
            self._shown_bytes += len(frame.raw)
            if self._shown_bytes <= MOST_SHOWN_BYTES:
                self._shown_ours[frame.seq] = frame
            return
        self._fall_behind(
            JournalBehind(
                "the peer shows a frame that our key signed and our journal lacks",
                custody=frame.custody,
                seq=frame.seq,
                held=self.record.head(self.lane).seq,
            )
        )

    def _ours(self, frame: Frame) -> bool:
        """Signed by the key of ours that is in force at its number, or by one that it brings. A
        former key proves nothing beyond the frames that it ruled."""
        ruling = self.record.signer(self.lane, frame.seq)
        keys = [brought_key(self.record, frame), None if ruling is None else ruling.public_key]
        found = signer(self.record, frame)
        return found is not None and found in keys

    def _signed_by(self, frame: Frame) -> bool:
        """By a key that the wallet of its lane delegated for that number."""
        return signer(self.record, frame) is not None

    # --- revoked keys -----------------------------------------------------------------------

    def _refuse_revoked(self, frame: Frame, error: KeyRevoked, now: int) -> None:
        """Not its party's word: named to whoever sent it, and its number stays free.

        Those that could come next wait in memory: if the wallet's next key builds on them, they
        were its party's after all, on their way when the revocation came.
        """
        after = frame.seq - self.record.head(self.peer).seq - 1
        waiting = sum(len(one.raw) for one in self._limbo[:after])
        if (
            not 0 <= after <= len(self._limbo)
            or waiting + len(frame.raw) > MOST_WAITING_BYTES
            or not self._signed_by(frame)
        ):
            self._garble(now, "frame", str(error))
            return
        del self._limbo[after:]
        self._limbo.append(frame)
        self._turn.events.append(KeyRefused(frame.seq, error))
        self._say_reject(now, "frame", str(error))

    def _beyond_limbo(self, frame: Frame, now: int) -> bool:
        """A frame right behind those that wait: one more of them, or the new key's UKY, which by
        `previous` makes them its party's word. False where it is neither."""
        if not self._limbo or frame.seq - self.record.head(self.peer).seq - 1 > len(self._limbo):
            return False
        revoked = self.keys.refuses(self.record, frame)
        if revoked is not None:
            self._refuse_revoked(frame, revoked, now)
            return True
        waiting = self._limbo[: frame.seq - self.record.head(self.peer).seq - 1]
        digests = [one.digest(self.record.opening.domain) for one in waiting]
        if [one.previous for one in (*waiting[1:], frame)] != digests or (
            signer(self.record, frame) != brought_key(self.record, frame)
        ):
            return False
        self._limbo = []
        for one in waiting:
            self._frame(one, now, vouched=True)
        self._frame(frame, now)
        return True

    def _one_is_revoked(self, held: Frame, shown: Frame) -> bool:
        """Of two frames with one number, did different keys sign, one of them revoked?"""
        keys = signer(self.record, held), signer(self.record, shown)
        return keys[0] != keys[1] and any(
            key is not None and self.keys.revocation(self.peer, key) is not None for key in keys
        )

    def _key_was_stolen(self) -> bool:
        """Our wallet revoked the key in force: frames of our lane that we lack may be a thief's."""
        known = self.record.delegation(self.lane)
        return known is not None and self.keys.revocation(self.lane, known.public_key) is not None

    def _adopt(self, frame: Frame, now: int) -> bool:
        """Take into our lane what our stolen key signed and the peer's signed frame covers, then
        that frame. False where it does not cover what we were shown, or nothing was stolen."""
        head, last = self.record.head(self.lane).seq, self._shown_ours.get(frame.peer_seq)
        if (
            not self._key_was_stolen()
            or last is None
            or last.digest(self.record.opening.domain) != frame.peer_digest
            or any(seq not in self._shown_ours for seq in range(head + 1, frame.peer_seq))
        ):
            return False
        for seq in range(head + 1, frame.peer_seq + 1):
            try:
                entry = self.record.append(self._shown_ours.pop(seq))
            except (TranscriptError, FrameError, DelegationRefused) as bad:
                self._stop(Forked(f"the peer covers what does not follow: {bad}", seq=seq))
                return True
            self._note(entry)
            self._turn.entries.append(entry)
            self._turn.events.append(Adopted(entry))
            for broken in self.ledger.arrived(entry):
                self._owe(entry, broken)
        self._frame(frame, now)
        return True

    def _set_aside(self, seq: int, now: int) -> None:
        """Take the peer's frames from `seq` on off the record, as if they had never come."""
        gone = [entry for entry in self.record if entry.frame.lane == self.peer]
        gone = [entry for entry in gone if entry.frame.seq >= seq]
        error = KeyRevoked(lane=self.peer, seq=seq, frames=len(gone))
        self.record = self.record.without(self.peer, seq)
        alive, offered = self.proposal, self._offered
        self._owed = [owed for owed in self._owed if owed.ref_seq_num < seq]
        self._broken = {broken for broken in self._broken if broken < seq}
        self._forget()
        self._read_record(arrive=not self.ledger.drop(self.peer, seq))
        self._offered = [one for one in self._offered if one in offered]
        if alive is None:
            self.proposal = self.acceptance = None
        self._shown = None
        self._asked = None
        self._uncovered_since = now if self._uncovered() else None
        self._turn.aside.extend(gone)
        self._turn.events.append(SetAside(tuple(gone), error))
        # Whoever is there counts on what is gone: heads must agree anew.
        self._hang_up(error)

    def _forget(self) -> None:
        """Everything that `_note` has read."""
        self.proposal = self.acceptance = self.settled = None
        self._offered = []
        self._logons = [None, None]
        self._listed, self._listed_at = ({}, {}), [0, 0]
        self._accepted, self._accepted_at = (set(), set()), [0, 0]
        self._accepted_by_both = False
        self._turned_down, self._logouts = [None, None], [False, False]
        self._rejected = set()

    def _only_void(self) -> bool:
        """All that the peer lacks is what our revoked key signed: it waits for a key that builds
        on it. Ours is the longer record, so the next number is free."""
        theirs = self._their_heads
        if theirs is None or self._dispute is not None or not self._key_was_stolen():
            return False
        ours = self._heads()
        others = (
            (theirs.trader_seq, theirs.trader_digest) == (ours.trader_seq, ours.trader_digest)
            if self.peer == TRADER
            else (theirs.solver_seq, theirs.solver_digest) == (ours.solver_seq, ours.solver_digest)
        )
        return others and self._view(theirs)[0] < self.record.head(self.lane).seq

    # --- what our journal has lost ----------------------------------------------------------

    def _fall_behind(self, error: JournalBehind) -> None:
        """Our journal is not the newest. One that was mended is no better than a backup then."""
        if self.standing == "mending":
            self.standing = self._turn.standing = "restored"
        self._stop(error)

    def _keep_spare(self, frame: Frame) -> None:
        """A frame that may have to wait for others. What is too much is asked for again."""
        key = (frame.lane, frame.seq)
        near = frame.seq <= self.record.head(frame.lane).seq + MOST_RESENT
        if key in self._spare:
            self._spare_bytes -= len(self._spare.pop(key).raw)
        if near and self._spare_bytes + len(frame.raw) <= MOST_SPARE_BYTES:
            self._spare[key] = frame
            self._spare_bytes += len(frame.raw)

    def _merge(self, now: int) -> None:
        """Take all fetched frames that follow: each after those that it covers."""
        moved = True
        while moved and self.error is None:
            moved = False
            for lane in (TRADER, SOLVER):
                frame = self._spare.get((lane, self.record.head(lane).seq + 1))
                if frame is None:
                    continue
                try:
                    entry = self.record.append(frame)
                except TranscriptError as bad:
                    if bad.code != "ahead":
                        self._drop_spare(frame)
                        self._unfit_fetched(frame, bad, now)
                    continue
                except (FrameError, DelegationRefused) as bad:
                    self._drop_spare(frame)
                    self._unfit_fetched(frame, bad, now)
                    continue
                moved = True
                self._drop_spare(frame)
                self._take_fetched(entry, now)
                if self.error is not None:
                    return
        self._conclude()

    def _drop_spare(self, frame: Frame) -> None:
        self._spare_bytes -= len(self._spare.pop((frame.lane, frame.seq)).raw)

    def _take_fetched(self, entry: Entry, now: int) -> None:
        lane, seq = entry.frame.lane, entry.frame.seq
        self._fetched += 1
        self._since = now
        self._fetch = None if self._fetch is None else (now + 2 * SECOND, 0)
        self._turn.fetched.append(entry)
        if self._newest is not None and lane == self.lane and seq > self._newest.of(lane)[0]:
            # Our word that those were the newest was wrong; then nothing makes it good again.
            self.standing = self._turn.standing = "restored"
        if self._newest is not None and self._newest.of(lane)[0] == seq:
            kept = self._newest.of(lane)[1]
            if kept != entry.digest:
                self._stop(Forked(custody=entry.frame.custody, lane=lane, seq=seq, ours=kept))
                return
        if lane != self.lane:
            self._arrived(entry, now)
            return
        self._note(entry)
        self.ledger.arrived(entry)

    def _unfit_fetched(self, frame: Frame, bad: Exception, now: int) -> None:
        """As for any frame: noise if nobody signed it, the end if a delegated key did."""
        code = getattr(bad, "code", "refused")
        if not self._signed_by(frame):
            self._garble(now, "frame", f"{code} in frame {frame.lane}/{frame.seq}: {bad}")
            return
        held = self.record.entry(frame.lane, frame.seq - 1)
        if held is not None:
            self._turn.evidence.append((held.frame, frame))
        self._stop(
            Forked(
                f"a signed frame contradicts the record: {code}",
                custody=frame.custody,
                lane=frame.lane,
                seq=frame.seq,
            )
        )

    def _conclude(self) -> None:
        """Whole again, once both heads that were the newest are reached."""
        if self.standing != "mending" or self._newest is None or self.error is not None:
            return
        if all(self.record.head(lane).seq >= self._newest.of(lane)[0] for lane in (0, 1)):
            self.keys.choose(self.record)
            self.standing = self._turn.standing = "whole"

    def _fetch_missing(self, now: int) -> None:
        """Ask the peer for what it says it has and we lack, of both lanes; again where it does not
        come."""
        theirs = self._their_heads
        if theirs is None:
            return
        lacking = [
            lane
            for lane, seq in ((TRADER, theirs.trader_seq), (SOLVER, theirs.solver_seq))
            if seq > self.record.head(lane).seq
        ]
        tries = 0 if self._fetch is None else self._fetch[1]
        if not lacking:
            self._fetch = None
            return
        if tries >= RESEND_TRIES:
            self._fetch = None
            self._hang_up(PeerSilent("the peer does not resend what we lack"))
            return
        self._fetch = (now + (2 << tries) * SECOND, tries + 1)
        for lane in lacking:
            begin = self.record.head(lane).seq + 1
            self._say(
                ResendRequest(begin_seq_no=begin, end_seq_no=0, lane=LaneCode(str(lane))), now
            )

    # --- gaps -------------------------------------------------------------------------------

    def _ask(self, begin: int, now: int) -> None:
        if self._asked is None or self._asked[0] != begin:
            self._asked = (begin, now + 2 * SECOND, 1)
            self.resends_asked += 1
            self._say(ResendRequest(begin_seq_no=begin, end_seq_no=0), now)

    def _ask_again(self, now: int) -> None:
        assert self._asked is not None  # noqa: S101
        begin, _, tries = self._asked
        if tries >= RESEND_TRIES:
            self._asked = None
            self._hang_up(PeerSilent("the peer does not resend what we lack", begin_seq=begin))
            return
        self._asked = (begin, now + (2 << tries) * SECOND, tries + 1)
        self.resends_asked += 1
        self._say(ResendRequest(begin_seq_no=begin, end_seq_no=0), now)

    def _answer_resend(self, asked: ResendRequest, now: int) -> None:
        """At most one answer a second for each lane, whoever asks."""
        lane = self.lane if asked.lane is None else int(asked.lane)
        if now - self._resent_at[lane] >= SECOND:
            self._resent_at[lane] = now
            sent = self._resend(asked.begin_seq_no, asked.end_seq_no, now, lane)
            if sent and asked.begin_seq_no > self._resent_from[lane]:
                # It gets further: it is given the time. One that asks for the same is not.
                self._resent_from[lane] = asked.begin_seq_no
                self._since = now

    def _resend(self, begin: int, end: int, now: int, lane: int | None = None) -> int:
        """Send frames begin…end again, byte for byte, ours unless `lane` is the peer's; returns
        how many."""
        lane = self.lane if lane is None else lane
        head = self.record.head(lane).seq
        last = head if end == 0 else min(end, head)
        count = size = 0
        for seq in range(max(begin, 1), last + 1):
            if count >= MOST_RESENT or size >= MOST_RESENT_BYTES:
                # Our heads after it say that there is more: the peer shows how far it came.
                self._say(self._heads(), now)
                break
            entry = self.record.entry(lane, seq)
            if entry is not None:
                self._turn.sends.append(entry)
                count += 1
                size += len(entry.frame.raw)
        if count:
            self._last_sent = now
            self.frames_resent += count
        return count

    # --- resuming ---------------------------------------------------------------------------

    def _heads(self) -> Resume:
        trader, solver = self.record.head(TRADER).seq, self.record.head(SOLVER).seq
        return Resume(
            custody=self.record.opening.custody,
            trader_seq=trader,
            trader_digest=self.record.digest(TRADER, trader),
            solver_seq=solver,
            solver_digest=self.record.digest(SOLVER, solver),
            journal_status=JournalStatus.RESTORED if self.standing == "restored" else None,
        )

    def _say_heads(self, now: int) -> None:
        self._said_heads = self._heads()
        self._say(self._said_heads, now)

    def _resume(self, theirs: Resume, now: int) -> None:
        if theirs.custody != self.record.opening.custody:
            self._garble(now, "URS", "wrong-custody: this connection serves another")
            return
        views = (
            (theirs.trader_seq, theirs.trader_digest),
            (theirs.solver_seq, theirs.solver_digest),
        )
        for lane, (seq, _) in enumerate(views):
            held = self.record.head(lane).seq
            if seq <= held and not self.record.knows(lane, seq):
                self._hang_up(
                    PeerBehind(
                        "the peer's heads lie before a checkpoint that it signed",
                        theirs=seq,
                        shown=held,
                    )
                )
                return
        if self._dispute is not None:
            return
        differing = [
            (lane, seq)
            for lane, (seq, digest) in enumerate(views)
            if seq <= self.record.head(lane).seq and self.record.digest(lane, seq) != digest
        ]
        if differing:
            lane, seq = differing[0]
            self._differ(
                ForkUnproved(
                    custody=theirs.custody,
                    lane=lane,
                    seq=seq,
                    ours=self.record.digest(lane, seq),
                    theirs=views[lane][1],
                ),
                differing,
                now,
            )
            return
        restored = theirs.journal_status is JournalStatus.RESTORED
        if restored and not self.peer_restored:
            self._turn.events.append(PeerRestored())
        self.peer_restored = restored
        seq, head = views[self.lane][0], self.record.head(self.lane).seq
        if self.standing != "whole":
            self._their_heads = theirs
            self._repeated += self._bring(self.lane, seq + 1, now)
            self._merge(now)
            if self._fetch is None:
                self._fetch_missing(now)
            return
        if seq > head and self._key_was_stolen():
            # What the peer covered is shown to us and adopted; what it did not, it lets go of
            # once it knows of the revocation. Until both are done, nothing is signed.
            if self._synced:
                self._hang_up(KeyRevoked("frames of ours that we did not sign", theirs=seq))
            return
        if seq > head:
            self._differ(
                BehindUnproved(custody=theirs.custody, theirs=seq, ours=head),
                [(self.lane, head)],
                now,
            )
            return
        if self._synced:
            if views[self.peer][0] > self.record.head(self.peer).seq:
                self._gap_until = max(self._gap_until, views[self.peer][0])
                self._ask(self.record.head(self.peer).seq + 1, now)
            # The peer asks again on a live connection: it lost something; show it.
            if now - self._resent_at[self.lane] >= SECOND:
                self._resent_at[self.lane] = now
                self._resend(seq + 1, 0, now)
            return
        if views[self.peer][0] < self.record.head(self.peer).seq:
            # Frames of its own lane that it lacks.
            self._bring(self.peer, views[self.peer][0] + 1, now)
        if self._their_heads is None or views[self.lane] != self._view(self._their_heads):
            self._repeated += self._bring(self.lane, seq + 1, now)
        elif theirs == self._their_heads and self._said_heads != self._heads():
            self._say_heads(now)  # so much came of what it sends again; the rest, please
        self._their_heads = theirs
        if views[self.peer][0] < self.record.head(self.peer).seq:
            # Its own journal is older than what it signed. It finds out from our heads, and may
            # ask us for what it lost while we wait for it to resume.
            self._peer_behind = PeerBehind(
                theirs=views[self.peer][0], shown=self.record.head(self.peer).seq
            )

    def _differ(
        self, error: ForkUnproved | BehindUnproved, places: Iterable[tuple[int, int]], now: int
    ) -> None:
        """Heads that no two honest journals can have. A text proves nothing, so it stops nothing:
        nothing more is signed on this connection, we show our frames at those places (of a lane and
        a number each), and it is left once the peer has had the time to show its own. What either
        side shows is signed, and stops whom it proves wrong."""
        self._synced = False
        self._dispute = error, now + DISPUTE_NS
        self._turn.events.append(HeadsDiffer(error))
        for lane, seq in places:
            if seq:
                self._resend(seq, seq, now, lane)

    def _bring(self, lane: int, begin: int, now: int) -> int:
        """Send what the peer's heads say that it lacks of a lane; returns how many frames.

        What was brought on this connection is brought again at most once a second, whatever heads
        it shows.
        """
        if begin <= self._brought_to[lane] and now - self._brought_at[lane] < SECOND:
            return 0
        count = self._resend(begin, 0, now, lane)
        if count:
            self._brought_at[lane] = now
            self._brought_to[lane] = max(self._brought_to[lane], begin + count - 1)
        return count

    def _view(self, heads: Resume) -> tuple[int, bytes]:
        if self.lane == TRADER:
            return heads.trader_seq, heads.trader_digest
        return heads.solver_seq, heads.solver_digest

    def _try_sync(self, now: int) -> None:
        theirs = self._their_heads
        if self._synced or theirs is None or self._dispute is not None:
            return
        ours = self._heads()
        announced = theirs.solver_seq if self.peer == SOLVER else theirs.trader_seq
        if self.record.head(self.peer).seq < announced:
            return
        if self.standing != "whole" and self.record.head(self.lane).seq < self._view(theirs)[0]:
            return
        if self._said_heads != ours:
            self._say_heads(now)
        if replace(theirs, journal_status=None) == replace(ours, journal_status=None):
            self._synced = True
            self._peer_behind = self._fetch = None

    # --- texts ------------------------------------------------------------------------------

    def _text(self, message: Message, now: int) -> None:
        match message:
            case Heartbeat():
                pass
            case TestRequest():
                self._say(Heartbeat(test_req_id=message.test_req_id), now)
            case Resume():
                self._resume(message, now)
            case ResendRequest():
                self._answer_resend(message, now)
            case NoteOpenings():
                self._openings(message)
            case SettlementOutput():
                self._payee(message, now)
            case CheckpointRequest():
                self.checkpoints.requested(now)
            case AccountPart():
                self.checkpoints.shown(message, now)
            case _:
                self._turn.events.append(Said(message))

    def _payee(self, message: SettlementOutput, now: int) -> None:
        try:
            self._turn.events.append(PayeeShown(Payee(message.inner, message.memo)))
        except NoteInvalid as bad:
            self._garble(now, "URO", str(bad))

    def _openings(self, message: NoteOpenings) -> None:
        """The peer opens its notes: what can be checked without a chain is checked here."""
        if self._verifying or self._refusal is not None:
            return
        custody = custody_of(self.record.opening)
        listed = self._listed[self.peer]
        notes: dict[bytes, Note] = {}
        try:
            for shown in message.openings:
                token = checksummed("token", "0x" + shown.token.hex())
                try:
                    note = Note(custody, token, shown.amount, shown.blinding)
                except NoteInvalid:
                    raise CollateralForeign(commitment=shown.commitment) from None
                if note.commitment != shown.commitment:
                    raise CollateralForeign(commitment=shown.commitment)
                if token != self.rules.token:
                    raise CollateralWrongToken(
                        commitment=shown.commitment, token=token, terms=self.rules.token
                    )
                reference = listed.get(note.commitment)
                if reference is None or reference.nullifier != note.nullifier:
                    raise CollateralNotListed(commitment=shown.commitment)
                notes[note.commitment] = note
            if set(notes) != set(listed):
                raise CollateralNotListed(listed=len(listed), shown=len(notes))
            worth = sum(note.amount for note in notes.values())
            asked = max(self._promised, self.rules.minimum_collateral)
            if worth < asked:
                raise CollateralTooSmall(worth=worth, asked=asked)
        except CollateralRefused as refused:
            self._refusal = refused
            return
        self._shown = tuple(notes.values())

    # --- the record's meaning for the session -----------------------------------------------

    def _note(self, entry: Entry) -> None:
        """Read a frame, ours or theirs, old or new, for what the session must know."""
        lane, seq = entry.frame.lane, entry.frame.seq
        match entry.message:
            case Logon() as logon:
                if self._logons[lane] is None:
                    self._logons[lane] = logon
                    self._list(lane, seq, logon.notes)
            case CollateralAssignment() as assigned:
                self._list(lane, seq, assigned.notes)
            case CollateralResponse() as answer:
                if answer.coll_asgn_resp_type is CollAsgnRespType.ACCEPTED:
                    listed = self._listed[1 - lane]
                    self._accepted[1 - lane].update(
                        ref.commitment for ref in answer.commitments if ref.commitment in listed
                    )
                    if self._all_accepted(1 - lane) and not self._accepted_at[1 - lane]:
                        self._accepted_at[1 - lane] = seq
                else:
                    self._turned_down[1 - lane] = answer
            case Logout():
                self._logouts[lane] = True
            case Reject() as reject:
                if lane == self.lane:
                    self._rejected.add(reject.ref_seq_num)
            case Settlement() as proposal:
                if lane == self.lane:
                    self._offered.append(proposal)
                if self._comes_first(entry):
                    self.proposal = (lane, entry, proposal)
                    self.acceptance = None
            case SettlementAcceptance() as accepted:
                if self.proposal is not None and (
                    self.proposal[0] != lane and self.proposal[1].frame.seq == accepted.ref_seq_num
                ):
                    self.acceptance = accepted
            case ChainFact(fact_kind=FactKind.SPENT) as fact:
                if self.proposal is not None and fact.nullifier in (
                    self.proposal[2].nullifier0,
                    self.proposal[2].nullifier1,
                ):
                    self.settled = fact

    def _comes_first(self, entry: Entry) -> bool:
        """Of two proposals that cross, the one that is first in the linear order stands: the
        solver's, unless it covers the trader's."""
        if self.proposal is None:
            return True
        lane, alive, said = self.proposal
        if entry.frame.sending_time > said.deadline * SECOND + self.rules.skew_ns:
            return True
        return (
            entry.frame.lane == SOLVER and lane == TRADER and entry.frame.peer_seq < alive.frame.seq
        )

    def _list(self, lane: int, seq: int, notes: Iterable[NoteRef]) -> None:
        for note in notes:
            self._listed[lane].setdefault(note.commitment, note)
            self._listed_at[lane] = seq

    def _all_accepted(self, lane: int) -> bool:
        return bool(self._listed[lane]) and self._accepted[lane] >= set(self._listed[lane])

    def _trading(self) -> bool:
        """Both AZ are in the linear order: the trader's once a solver frame covers it."""
        if not self._accepted_by_both:
            solvers_accepted_at = self._accepted_at[SOLVER]  # the trader's frame
            self._accepted_by_both = (
                bool(self._accepted_at[TRADER])
                and bool(solvers_accepted_at)
                and self.record.head(SOLVER).peer_seq >= solvers_accepted_at
            )
        return self._accepted_by_both

    def _restate(self) -> None:
        if self.error is not None:
            state = State.STOPPED
        elif self.settled is not None or all(self._logouts):
            state = State.CLOSED
        elif self.options:
            state = State.SETTLING
        elif self._trading():
            state = State.TRADING
        elif None not in self._logons:
            state = State.VERIFYING
        else:
            state = State.LOGON
        if state is not self.state:
            self.state = state
            self._turn.events.append(StateChanged(state))

    @property
    def options(self) -> list[Settlement]:
        """What may still be mined: the proposal that is alive, and whatever our wallet offered,
        even where the record refused it, since the peer holds the signature all the same."""
        return [*self._offered, *([] if self.proposal is None else [self.proposal[2]])]

    def proposal_expired(self, now: int) -> Turn:
        """What is past its deadline by now did not happen on chain: trading may go on."""
        if self.proposal is not None and now >= self.proposal[2].deadline * SECOND:
            self.proposal = self.acceptance = None
        self._offered = [one for one in self._offered if now < one.deadline * SECOND]
        self._advance(now)
        return self._take()

    def _advance(self, now: int) -> None:
        """Take every step that is due, until none is. Safe to call at any time."""
        if self.error is not None or not self._connected:
            self._restate()
            return
        self._try_sync(now)
        if self._synced and not self._resumed_said:
            self._resumed_said = True
            self._turn.events.append(Resumed(self._repeated, self._fetched))
        if self.standing == "whole" and (self._synced or self._only_void()):
            self._change_key(now)
        if self._may_sign(now):
            self._pay_owed(now)
            while self.error is None and self._step(now):
                pass
            if self._logons[self.lane] is not None and self._may_sign(now):
                self._restate()
                self.checkpoints.advance(now)
                self.checkpoints.compare(now)
            if self.error is None and all(self._logouts) and self.settled is None:
                self._hang_up(SessionClosed("both sides have logged out"))
        self._restate()

    def _change_key(self, now: int) -> None:
        """Sign the UKY of the key that is to come: before anything else, since the one in force
        may sign nothing any more."""
        if self._logons[self.lane] is None or self.settled is not None:
            return
        coming = self.keys.take(self.record, now)
        if coming is not None:
            self.keys.key, self.keys.coming = coming[0], None
            self._sign(coming[1], now)
            self._turn.events.append(KeyChanged(coming[0].public_key))

    def _step(self, now: int) -> bool:
        """One step towards trading, or out of it; False where nothing is due."""
        if not self._may_sign(now):
            return False
        mine, theirs = self._logons[self.lane], self._logons[self.peer]
        if mine is None:
            if self.lane == SOLVER:
                if theirs is None:
                    return False
                refusal = self._logon_refusal(theirs)
                if refusal is not None:
                    self._say_reject(now, "A", str(refusal))
                    self._stop(refusal)
                    return False
            if self._logon is None:
                return False
            self._sign(self._logon, now)
            self._turn.events.append(KeyDue())
            return True
        if theirs is None:
            return False
        if self.lane == TRADER:
            refusal = self._logon_refusal(theirs)
            if refusal is not None:
                self._stop(refusal)
                return False
        if self._turned_down[self.lane] is not None and not self._accepted_at[self.lane]:
            self._stop(_refusal_of(self._turned_down[self.lane]))
            return False
        if self._step_openings(now) or self._step_collateral(now):
            return True
        if self._logouts[self.peer] and not self._logouts[self.lane]:
            self._sign(Logout(), now)
            return True
        if self._mined is not None and self.settled is None and self.proposal is not None:
            return self._step_citation(self._mined, self.proposal[2], now)
        if self.settled is not None and self._uncovered() and self._covers(now):
            self._sign(Heartbeat(), now)
            return True
        return False

    def _step_citation(self, mined: Mined, said: Settlement, now: int) -> bool:
        """One of the two cites the settlement: the solver at once, since its frames take effect
        where they stand; the trader only where the solver leaves it undone."""
        if self.lane == TRADER and now < self._mined_at + self.rules.wait_ns // 2:
            return False
        self._sign(
            ChainFact(
                fact_kind=FactKind.SPENT,
                block_number=mined.block,
                transaction_hash=mined.transaction,
                nullifier=said.nullifier0,
            ),
            now,
        )
        return True

    def _step_openings(self, now: int) -> bool:
        """Show the openings of our notes once the peer has covered the frame that lists them."""
        listed_at = self._listed_at[self.lane]
        if (
            not listed_at
            or self._opened_said
            or self._accepted_at[self.lane]
            or self.record.head(self.peer).peer_seq < listed_at
        ):
            return False
        notes = [self.notes[key] for key in self._listed[self.lane] if key in self.notes]
        self._opened_said = True
        self._say(
            NoteOpenings(
                openings=tuple(
                    NoteOpening(
                        commitment=note.commitment,
                        blinding=note.blinding,
                        token=bytes.fromhex(note.token[2:]),
                        amount=note.amount,
                    )
                    for note in notes
                )
            ),
            now,
        )
        return True

    def _step_collateral(self, now: int) -> bool:
        if self._refusal is not None and not self._accepted_at[self.peer]:
            refusal, self._refusal = self._refusal, None
            self._sign(
                CollateralResponse(
                    coll_resp_id="1",
                    coll_asgn_resp_type=CollAsgnRespType.REJECTED,
                    coll_asgn_reject_reason=_REASONS.get(type(refusal), CollAsgnRejectReason.OTHER),
                    text=clip(str(refusal)),
                ),
                now,
            )
            self._stop(refusal)
            return False
        if (
            self._shown is not None
            and not self._verifying
            and not self._accepted_at[self.peer]
            and not self._peer_verified()
        ):
            self._verifying = True
            self._turn.events.append(VerifyCollateral(self._shown))
            return False
        if self.lane == SOLVER:
            if self._peer_verified() and not self.notes and not self._funding:
                self._funding = True
                self._turn.events.append(FundCollateral())
                return False
            if self.notes and not self._listed[SOLVER]:
                self._sign(
                    CollateralAssignment(
                        coll_asgn_id="1",
                        coll_asgn_reason=CollAsgnReason.INITIAL,
                        notes=_references(self.notes.values()),
                    ),
                    now,
                )
                return True
            if self._listed[SOLVER] and self._peer_verified() and not self._accepted_at[TRADER]:
                self._accept(now)
                return True
            if (
                0
                < self.record.head(SOLVER).peer_seq
                < self._accepted_at[SOLVER]
                <= self._covers(now)
            ):
                self._sign(Heartbeat(), now)
                return True
            return False
        if self.record.head(TRADER).peer_seq < self._listed_at[SOLVER] <= self._covers(now):
            self._sign(Heartbeat(), now)
            return True
        if self._peer_verified() and not self._accepted_at[SOLVER]:
            self._accept(now)
            return True
        return False

    def _peer_verified(self) -> bool:
        listed = self._listed[self.peer]
        return bool(listed) and self._verified >= set(listed)

    def _accept(self, now: int) -> None:
        self._sign(
            CollateralResponse(
                coll_resp_id="1",
                coll_asgn_resp_type=CollAsgnRespType.ACCEPTED,
                commitments=tuple(CommitmentRef(commitment=key) for key in self._listed[self.peer]),
            ),
            now,
        )

    def _logon_refusal(self, logon: Logon) -> LogonRefused | None:
        if logon.terms_hash != self.rules.terms_hash:
            return LogonRefused(
                "the Logon names other terms", theirs=logon.terms_hash, ours=self.rules.terms_hash
            )
        if not 1 <= logon.heart_bt_int <= 3600:
            return LogonRefused("HeartBtInt is out of range", heart_bt_int=logon.heart_bt_int)
        if self.peer == TRADER and not logon.notes:
            return LogonRefused("the trader's Logon lists no notes")
        return self._bad_logon

    # --- signing and sending ----------------------------------------------------------------

    def _may_sign(self, now: int) -> bool:
        return (
            self._synced
            and self._connected
            and self.error is None
            and self.keys.ended(self.record, now) is None
            and self.standing == "whole"
            and self._key is not None
        )

    def _must_sign(self, now: int) -> None:
        if self.error is not None:
            raise self.error
        if self.state is State.CLOSED:
            raise SessionClosed(custody=self.record.opening.custody)
        if self.standing == "restored":
            raise JournalRestored(custody=self.record.opening.custody)
        if not self._connected:
            raise NotNow("there is no connection")
        if self.standing != "whole" or self._key is None:
            raise NotNow("frames that our journal lost are still to be fetched")
        if not self._synced:
            raise NotNow("the heads of both sides do not agree yet")
        ended = self.keys.ended(self.record, now)
        if ended is not None:
            raise ended

    def _covers(self, now: int) -> int:
        """The highest peer frame that we may cover: none from further ahead than the skew."""
        highest = self.record.head(self.peer).seq
        floor = self.record.head(self.lane).peer_seq
        while highest > floor:
            entry = self.record.entry(self.peer, highest)
            if entry is None or entry.frame.sending_time <= now + self.rules.skew_ns:
                break
            highest -= 1
        return highest

    # --- for `Checkpoints` ------------------------------------------------------------------

    def covers(self, now: int) -> int:
        """See `_covers`."""
        return self._covers(now)

    def sign(self, message: Message, now: int, *, covers: int | None = None) -> Entry:
        """Sign what the rulebook is known to take."""
        return self._sign(message, now, covers=covers)

    def tell(self, message: Message, now: int) -> None:
        """Say a text on the connection that stands."""
        if self._connected:
            self._say(message, now)

    def add_event(self, event: Event) -> None:
        self._turn.events.append(event)

    def add_checkpoint(self, point: Point, account: Account, event: Event) -> None:
        self._turn.checkpoints.append((point, account))
        self._turn.events.append(event)

    def _sign(self, message: Message, now: int, *, covers: int | None = None) -> Entry:
        if self.standing != "whole" or self._key is None:
            raise JournalRestored(custody=self.record.opening.custody)
        entry = self.record.sign(
            self._key,
            self.lane,
            message,
            now,
            covers=self._covers(now) if covers is None else covers,
        )
        self._note(entry)
        self._turn.entries.append(entry)
        self._turn.sends.append(entry)
        self._turn.events.append(Signed(entry))
        if self.keys.number_due(self.record):
            self._turn.events.append(KeyDue())
        self._last_sent = now
        self._uncovered_since = now if self._uncovered() else None
        for broken in self.ledger.arrived(entry):
            self._owe(entry, broken)
        return entry

    def _coverable_at(self) -> int:
        """When the peer's next frame that we have not covered is within the skew."""
        entry = self.record.entry(self.peer, self.record.head(self.lane).peer_seq + 1)
        return 0 if entry is None else entry.frame.sending_time - self.rules.skew_ns

    def _awaits_logout(self) -> bool:
        return self._synced and self._logouts[self.lane] and not self._logouts[self.peer]

    def _logout_since(self) -> int:
        """Since when, on this connection, the peer could have answered our Logout."""
        return max(self._since, self._logged_out_at)

    def _uncovered(self) -> bool:
        """Is there a frame of the peer, more than a Heartbeat, that we have not covered?"""
        head = self.record.head(self.peer).seq
        for seq in range(self.record.head(self.lane).peer_seq + 1, head + 1):
            entry = self.record.entry(self.peer, seq)
            if entry is not None and not isinstance(entry.message, Heartbeat):
                return True
        return False

    def _say(self, message: Message, now: int) -> None:
        self._turn.sends.append(encode_text(message))
        self._last_sent = now

    def _say_reject(self, now: int, kind: str, why: str) -> None:
        self._say(
            BusinessMessageReject(
                ref_msg_type=kind,
                business_reject_reason=BusinessRejectReason.OTHER,
                text=clip(why),
            ),
            now,
        )

    def _garble(self, now: int, kind: str, why: str) -> None:
        """Noise changes nothing: it is named to the peer, and cut off if it persists."""
        self._garbled += 1
        self.garbled += 1
        self._say_reject(now, kind, why)
        if self._garbled >= GARBLED_LIMIT:
            self._hang_up(PeerViolation("the peer keeps sending what is not valid", last=why))

    def _heard(self, now: int) -> None:
        self._last_heard = now
        self._test = None

    def _within_rate(self, frame: Frame, now: int) -> bool:
        # A resume brings the peer's frames again, and may show us our own that we lack.
        asked_for = not self._synced or (frame.lane == self.peer and frame.seq <= self._gap_until)
        repeated = asked_for and frame.seq > self.record.head(frame.lane).seq
        return self._rate.frame(now, repeated=repeated)

    def _hang_up(self, error: PSymmError) -> None:
        if self._turn.hang_up is None:
            self._turn.hang_up = error

    def _stop(self, error: PSymmError) -> None:
        """Sign nothing more in this custody. The journal keeps what happened."""
        if self.error is None:
            self.error = error
            self._turn.stop = error
            self._turn.events.append(Stopped(error))
            self._hang_up(error)
            self._restate()

    def _take(self) -> Turn:
        self._restate()
        self.checkpoints.look()
        turn, self._turn = self._turn, Turn()
        return turn


# --- helpers of meaning -----------------------------------------------------------------------

_NOT_KNOWN_YET: Final = ("facts-behind", "opening-unknown")
"""What the ledger says where it cannot judge yet: no violation."""

_REASONS: Final[dict[type[CollateralRefused], CollAsgnRejectReason]] = {
    CollateralMissing: CollAsgnRejectReason.NOT_IN_TREE,
    CollateralSpent: CollAsgnRejectReason.SPENT,
    CollateralTooSmall: CollAsgnRejectReason.INSUFFICIENT,
    CollateralForeign: CollAsgnRejectReason.WRONG_OPENING,
    CollateralNotListed: CollAsgnRejectReason.WRONG_OPENING,
    CollateralWrongToken: CollAsgnRejectReason.WRONG_TOKEN,
}


def _refusal_of(answer: CollateralResponse | None) -> CollateralRefused | PeerRefused:
    """What the peer's refusal of our collateral is, as our error."""
    if answer is None:
        return PeerRefused("the peer refused our collateral")
    for kind, reason in _REASONS.items():
        if answer.coll_asgn_reject_reason is reason:
            return kind(f"the peer refused our collateral: {answer.text or reason.name}")
    return PeerRefused(f"the peer refused our collateral: {answer.text or 'no reason given'}")


def _references(notes: Iterable[Note]) -> tuple[NoteRef, ...]:
    return tuple(NoteRef(commitment=note.commitment, nullifier=note.nullifier) for note in notes)


__all__ = ["Engine", "Event", "Ledger", "Rules", "State", "Turn"]
