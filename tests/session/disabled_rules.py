"""For each session script a way to turn off the rule that it tells of.

`test_disabled_rules.py` plays every script with its rule off, and the script must fail. An entry
replaces as little of the package as turns the rule off; what it replaces shows where the rule
lives. Rules are off from where the script begins (`G`), for those in FROM_THE_START from before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

import pytest
import trio
from psymm.session.collateral_exchange import CollateralExchange
from psymm.session.gap_fill import GapFill
from psymm.session.head_sync import HeadSync
from psymm.session.holding import Holding
from psymm.session.logon_sequence import LogonSequence
from psymm.session.rejects import Rejects

from psymm._core import Frame, JsonError
from psymm.errors import (
    ClockBehind,
    CollateralForeign,
    Equivocation,
    FloodingPeer,
    Forked,
    JournalBehind,
    PeerBehind,
    PeerSilent,
    PSymmError,
    ResumeRefused,
)
from psymm.messages import (
    BusinessMessageReject,
    BusinessRejectReason,
    Heartbeat,
    Logout,
    Message,
    Reject,
    decode,
)
from psymm.rulebook import orders, quotes, rules, settlement
from psymm.rulebook.account import OrderStatus
from psymm.rulebook.sequence import Replay
from psymm.session import handshake as handshake_module
from psymm.session import head_sync as head_sync_module
from psymm.session import protocol as protocol_module
from psymm.session import solver as solver_module
from psymm.session import trader as trader_module
from psymm.session.collateral import ChainView
from psymm.session.ledger import RulebookLedger
from psymm.session.protocol import (
    FrameViolation,
    Lifecycle,
    Resumed,
    SessionParams,
    SessionProtocol,
    SessionStatus,
)
from psymm.session.protocol.budget import PeerRate, _RateBucket
from psymm.session.runner import SessionRunner
from psymm.session.solver import SolverServer, _Reception
from psymm.session.trader import TraderSession
from psymm.transcript import record as record_module
from psymm.transcript.delegation import Delegation
from psymm.transcript.introduction import SignedIntroduction
from psymm.transcript.journal import Journal
from psymm.transcript.record import Record, RecordedFrame

Off = Callable[[pytest.MonkeyPatch], None]


# --- ways to turn a rule off --------------------------------------------------------------------


def put(owner: Any, name: str, stand_in: Any) -> Off:
    """Something else in its place."""
    return lambda patch: patch.setattr(owner, name, stand_in)


def nothing(owner: Any, name: str, returns: Any = None) -> Off:
    """It does nothing."""
    return put(owner, name, lambda *given, **named: returns)


def around(owner: Any, name: str, wrap: Callable[[Any], Any]) -> Off:
    """wrap(what was there) in its place."""
    return put(owner, name, wrap(getattr(owner, name)))


def all_of(*offs: Off) -> Off:
    def off(patch: pytest.MonkeyPatch) -> None:
        for each in offs:
            each(patch)

    return off


def _unless(test: Callable[..., bool]) -> Callable[[Any], Any]:
    return lambda was: lambda *given, **named: None if test(*given) else was(*given, **named)


def unnamed(*parts: str) -> Off:
    """What is not valid for one of these reasons is passed over in silence."""

    def silent(why: str) -> bool:
        return any(part in why for part in parts)

    async def quiet(self: _Reception, kind: str, why: str) -> None:
        if not silent(why):
            await spoken(self, kind, why)

    spoken = _Reception._noisy
    return all_of(
        around(
            SessionProtocol, "report_malformed", _unless(lambda self, now, kind, why: silent(why))
        ),
        put(_Reception, "_noisy", quiet),
    )


def proved(*parts: str) -> Off:
    """Heads prove their sender although they do not, for one of these reasons."""

    def lenient(was: Any) -> Any:
        def check(*given: Any, **named: Any) -> Any:
            try:
                return was(*given, **named)
            except ResumeRefused as refused:
                if not any(part in str(refused) for part in parts):
                    raise
                return bytes(64)

        return check

    return all_of(
        *(around(module, "check_resume", lenient) for module in (head_sync_module, solver_module)),
        around(HeadSync, "proves", lenient),
    )


def unproved(unless: Callable[[HeadSync, Any], bool]) -> Off:
    """Heads of that kind prove nothing."""

    def strict(was: Any) -> Any:
        def proves(self: HeadSync, theirs: Any, challenge: bytes, now: int) -> None:
            if not unless(self, theirs):
                raise ResumeRefused
            was(self, theirs, challenge, now)

        return proves

    return around(HeadSync, "proves", strict)


def goes_on(kind: type[PSymmError]) -> Off:
    """That error stops nothing."""
    return around(SessionProtocol, "stop", _unless(lambda self, error: isinstance(error, kind)))


def stays(kind: type[PSymmError]) -> Off:
    """For that reason no connection is closed."""
    return around(
        SessionProtocol, "disconnect", _unless(lambda self, error: isinstance(error, kind))
    )


def unsaid(kind: str) -> Off:
    """That text is never sent."""
    return around(
        SessionProtocol, "queue_text", _unless(lambda self, message, now: kind == message.MSG_TYPE)
    )


def allowed(rule: str) -> Off:
    """The session does not hear of that violation from the rulebook."""

    def arrived(was: Any) -> Any:
        def filtered(self: RulebookLedger, entry: Any) -> Sequence[FrameViolation]:
            return [broken for broken in was(self, entry) if rule not in broken.rule]

        return filtered

    def refuses(was: Any) -> Any:
        def filtered(self: RulebookLedger, *given: Any) -> FrameViolation | None:
            broken: FrameViolation | None = was(self, *given)
            return None if broken is not None and rule in broken.rule else broken

        return filtered

    return all_of(
        around(RulebookLedger, "arrived", arrived), around(RulebookLedger, "refuses", refuses)
    )


def accepted(code: str) -> Off:
    """A payload that is malformed in that way passes for a Heartbeat."""

    def lenient(payload: bytes) -> Message:
        try:
            return decode(payload)
        except JsonError as bad:
            if bad.code != code:
                raise
            return Heartbeat()

    return put(record_module, "decode", lenient)


class _AnyVersion:
    """Frames of every version are read as version 1."""

    @staticmethod
    def parse(data: bytes, offset: int = 0) -> Frame:
        return Frame.parse(data[:offset] + b"\x01" + data[offset + 1 :], offset)


def _unchecked(opening: Any, frame: Frame, message: Any) -> Delegation:
    return Delegation(frame.lane, message.session_public_key, frame.seq, 2**63, 2**63)


def _every_frame(self: SessionProtocol, frame: Frame, now: int) -> None:
    self.report_malformed(now, "frame", "this number is taken")


def _floor(self: SessionProtocol, now: int) -> int:
    return self.record.head(self.lane).peer_seq


def _one_more(was: Any) -> Any:
    return lambda self, now: min(was(self, now), _floor(self, now) + 1)


async def _kept_nowhere(*given: Any) -> None:
    await trio.lowlevel.checkpoint()


def _only_when_connected(was: Any) -> Any:
    def keeps(self: Holding, entry: RecordedFrame, now: int) -> bool:
        connected: bool = self._protocol._connected  # type: ignore[attr-defined]
        return connected and bool(was(self, entry, now))

    return keeps


def _needing_cover(was: Any) -> Any:
    def frame(self: SessionProtocol, came: Frame, now: int) -> None:
        was(self, came, now)
        self._uncovered_since = now

    return frame


def _no_sign_of_life(was: Any) -> Any:
    def sign(self: SessionProtocol, message: Message, now: int, **given: Any) -> Any:
        before = self.last_sent
        entry = was(self, message, now, **given)
        self.last_sent = before
        return entry

    return sign


def _covering_all(was: Any) -> Any:
    def sign(
        self: SessionProtocol, message: Message, now: int, *, covers: int | None = None
    ) -> Any:
        return was(self, message, now)

    return sign


def _paid_late(was: Any) -> Any:
    def frame(self: SessionProtocol, came: Frame, now: int) -> None:
        synced, self.head_sync.synced = self.head_sync.synced, False
        was(self, came, now)
        self.head_sync.synced = synced

    return frame


def _before_collateral(was: Any) -> Any:
    def send(self: SessionProtocol, message: Message, now: int) -> Any:
        state, self.state = self.state, SessionStatus.TRADING
        try:
            return was(self, message, now)
        finally:
            self.state = state

    return send


def _logout_unanswered(was: Any) -> Any:
    def step(self: LogonSequence, now: int) -> Any:
        logouts, peer = self._protocol.lifecycle.logouts, self._protocol.peer
        theirs, logouts[peer] = logouts[peer], False
        try:
            return was(self, now)
        finally:
            logouts[peer] = theirs

    return step


def _every_logout_answered(was: Any) -> Any:
    def frame(self: SessionProtocol, came: Frame, now: int) -> None:
        was(self, came, now)
        if isinstance(Record.decoded(came), Logout):
            self.sign(Logout(), now)

    return frame


def _no_longer_than_a_logon(was: Any) -> Any:
    def tick(self: SessionProtocol, now: int) -> Any:
        mine, theirs = (self.lifecycle.logouts[lane] for lane in (self.lane, self.peer))
        if mine and not theirs and now - self.since >= self.params.response_timeout_ns:
            self.disconnect(PeerSilent("the peer did not answer the Logout"))
        return was(self, now)

    return tick


def _owed_always(self: Rejects, entry: Any, broken: FrameViolation) -> None:
    if broken.lane == entry.frame.lane == self._protocol.peer:
        self.queued.append(Reject(ref_seq_num=entry.frame.seq, violation=broken.rule))


def _to_the_end(was: Any) -> Any:
    return lambda self, begin, end, now, lane: was(self, begin, 0, now, lane)


def _from_the_head(was: Any) -> Any:
    return lambda self, begin, end, now, lane: was(
        self, min(begin, self._protocol.record.head(lane).seq), 0, now, lane
    )


def _as_often_as_asked(was: Any) -> Any:
    def text(self: SessionProtocol, message: Message, now: int) -> None:
        self.gap_fill._resent_at = [-(10**18), -(10**18)]
        was(self, message, now)

    return text


def _rejects_answered(was: Any) -> Any:
    def text(self: SessionProtocol, message: Message, now: int) -> None:
        if isinstance(message, BusinessMessageReject):
            self.queue_business_reject(now, "j", "a reject")
        was(self, message, now)

    return text


def _heads_forgotten(was: Any) -> Any:
    def resume(self: HeadSync, theirs: Any, now: int) -> None:
        self.theirs = None
        was(self, theirs, now)

    return resume


def _nothing_owed(was: Any) -> Any:
    def begin(self: SessionProtocol, *given: Any, **named: Any) -> None:
        was(self, *given, **named)
        self.rejects.queued = []

    return begin


def _owed_anew(was: Any) -> Any:
    def begin(self: SessionProtocol, *given: Any, **named: Any) -> None:
        was(self, *given, **named)
        self.rejects.queued = [
            entry.message
            for entry in self.record
            if entry.frame.lane == self.lane and isinstance(entry.message, Reject)
        ]

    return begin


def _read_anyhow(self: SessionProtocol, entry: Any, broken: Any) -> None:
    self.lifecycle.apply(entry)


def _asks_once(was: Any) -> Any:
    def ask(self: Any, begin: int, now: int) -> None:
        if not getattr(self, "asked_before", False):
            self.asked_before = True
            was(self, begin, now)

    return ask


def _nothing_repeated(was: Any) -> Any:
    return lambda self, now, *, repeated, size: was(self, now, repeated=False, size=size)


def _spent_for_good(self: _RateBucket, cost: float, now: int) -> bool:
    self._left -= cost
    return self._left >= 0


def _heard_only(self: SessionProtocol, now: int) -> None:
    self._last_heard = now


def _time_must_move(was: Any) -> Any:
    def frame(self: SessionProtocol, came: Frame, now: int) -> None:
        if came.sending_time == self.record.head(self.peer).sending_time:
            self.report_malformed(now, "frame", "the time stands still")
        else:
            was(self, came, now)

    return frame


def _told_otherwise(*given: Any) -> Resumed:
    return Resumed(0, 0)


def _first_connection_keeps(was: Any) -> Any:
    async def attach(self: SessionRunner, *given: Any, **named: Any) -> Any:
        if self.attached:
            await trio.sleep_forever()
        return await was(self, *given, **named)

    return attach


def _unwound(status: OrderStatus) -> Callable[[Any], Any]:
    """A cancel or replacement undoes what its order became before."""

    def wrap(was: Any) -> Any:
        def ask(account: Any, said: Any) -> Any:
            after, name = was(account, said), said.orig_cl_ord_id
            if name not in account.ended_orders:
                return after
            positions = after.positions
            for held in list(positions.values()):
                if held.cl_ord_id == name:
                    positions = positions.without(held.position_id)
            ended = after.ended_orders.put(name, status)
            return replace(after, positions=positions, ended_orders=ended)

        return ask

    return wrap


def _hits_withdrawn(was: Any) -> Any:
    def withdraw(account: Any, said: Any) -> Any:
        after = was(account, said)
        for order in list(after.orders.values()):
            if order.quote_id == said.quote_id:
                after = orders.end_order(after, order, OrderStatus.CANCELLED)
        return after

    return withdraw


def _quote_kept(was: Any) -> Any:
    return lambda account, said: (account, was(account, said)[1])


def _stopping(self: HeadSync, error: Forked, places: Any, now: int) -> None:
    self._protocol.stop(error)


def _only_said(was: Any) -> Any:
    def differ(self: HeadSync, error: Forked, places: Any, now: int) -> None:
        was(self, error, places, now)
        self.dispute = None

    return differ


def _as_often_as_lacking(was: Any) -> Any:
    return lambda self, lane, begin, now: self._gap_fill.resend(begin, 0, now, lane)


def _bound(was: Any) -> Any:
    """An introduction that is not signed passes for one that is."""

    def signed(theirs: Any) -> SignedIntroduction:
        some = bytes(65)
        made: SignedIntroduction = was(
            replace(
                theirs,
                expiry=theirs.expiry or 1,
                introduction_key=theirs.introduction_key or bytes(64),
                key_expiry=theirs.key_expiry or 1,
                key_signature=theirs.key_signature or some,
                signature=theirs.signature or some,
            )
        )
        return made

    return signed


ANY_INTRODUCTION: Final = all_of(
    nothing(SignedIntroduction, "verify"), around(handshake_module, "_signed", _bound)
)
NO_CHANGE: Final = staticmethod(lambda account, said: account).__func__
NOTHING_HELD: Final = nothing(Holding, "_must_wait", False)
FORGOTTEN_HELD: Final = around(Holding, "keeps", _only_when_connected)
NO_CITATION_WAITS: Final = nothing(Holding, "_waits_for_fact", False)
NO_COVER: Final = put(SessionProtocol, "covers", _floor)
NO_DELEGATION_CHECK: Final = put(record_module, "delegation_in", _unchecked)
TWO_LOGOUTS_END_IT: Final = put(
    Lifecycle, "over", property(lambda self: self.settled is not None or all(self.logouts))
)
NO_RESEND: Final = nothing(GapFill, "resend", 0)
NO_ASKING: Final = nothing(GapFill, "ask")
NO_RATE: Final = all_of(nothing(PeerRate, "frame", True), nothing(PeerRate, "text", True))
NO_LOGON_CHECK: Final = nothing(LogonSequence, "_logon_refusal")
TEXTS_STOP: Final = put(HeadSync, "_differ", _stopping)
NO_SYNC: Final = nothing(HeadSync, "try_sync")
ANY_FIRST_FRAME: Final = nothing(solver_module, "check_first")
ANY_VERSION: Final = all_of(
    put(protocol_module, "Frame", _AnyVersion), put(solver_module, "Frame", _AnyVersion)
)
DUPLICATES_NAMED: Final = put(SessionProtocol, "_again", _every_frame)
LATE_CANCEL_WINS: Final = around(orders, "ask_cancel", _unwound(OrderStatus.CANCELLED))
LATE_REPLACE_WINS: Final = around(orders, "ask_replace", _unwound(OrderStatus.REPLACED))


FROM_THE_START: Final = frozenset({"logon-introduction-idle"})


async def _asleep(*given: Any) -> None:
    await trio.lowlevel.checkpoint()


def _proven_at_once(was: Any) -> Any:
    def reconnected(self: HeadSync, *given: Any, **named: Any) -> None:
        was(self, *given, **named)
        self.proven = True

    return reconnected


DISABLED: Final[dict[str, Off]] = {
    "collateral-second-note": allowed("too-many-notes"),
    "early-forgotten": put(SolverServer, "_forget_left_before", _asleep),
    "early-frames": nothing(SessionProtocol, "_room_for", True),
    "early-unsigned": put(CollateralExchange, "judged", True),
    "business-before-collateral": allowed("trading-not-open"),
    "business-covers": NO_COVER,
    "business-reject-on-record": NO_COVER,
    "business-same-id": allowed("id"),
    "business-wrong-lane": allowed("wrong-lane"),
    "cite-above-head": nothing(ChainView, "settles"),
    "cite-denied-restart": put(Journal, "keep_fact", _kept_nowhere),
    "cite-waits": NO_CITATION_WAITS,
    "flood-allowance-returns": put(_RateBucket, "take", _spent_for_good),
    "flood-frames": NO_RATE,
    "flood-in-one-message": nothing(PeerRate, "frame", True),
    "flood-resend-free": around(PeerRate, "frame", _nothing_repeated),
    "flood-resume-free": around(PeerRate, "frame", _nothing_repeated),
    "flood-test-requests": NO_RATE,
    "flood-texts": stays(FloodingPeer),
    "frame-wrong-custody": unnamed("wrong-custody"),
    "frame-wrong-key": unnamed("bad-signature"),
    "frame-wrong-lane": unnamed("wrong-lane"),
    "frame-wrong-version": ANY_VERSION,
    "malformed-empty": unnamed(""),
    "malformed-flip-header": unnamed("bad-signature"),
    "malformed-flip-lane-and-seq": unnamed("wrong-lane"),
    "malformed-flip-signature": unnamed("bad-r-y"),
    "malformed-in-the-middle": NO_ASKING,
    "malformed-limit": put(protocol_module, "MALFORMED_LIMIT", 10**6),
    "malformed-middle-form": NO_ASKING,
    "malformed-tail": unnamed(""),
    "malformed-texts-limit": put(protocol_module, "MALFORMED_LIMIT", 10**6),
    "malformed-truncated": unnamed("truncated"),
    "heartbeat-covers": put(SessionParams, "cover_after_ns", 10**18),
    "heartbeat-covers-sooner": put(SessionParams, "cover_after_ns", 10**9),
    "heartbeat-idle": unsaid("0"),
    "heartbeat-needs-no-cover": around(SessionProtocol, "receive_frame", _needing_cover),
    "heartbeat-not-after-traffic": around(SessionProtocol, "sign", _no_sign_of_life),
    "heartbeat-several-covered": around(SessionProtocol, "covers", _one_more),
    "introduction-collateral-changed": ANY_INTRODUCTION,
    "introduction-expiry-changed": ANY_INTRODUCTION,
    "introduction-far-ahead": nothing(SignedIntroduction, "check_time"),
    "introduction-key-expired": nothing(SignedIntroduction, "check_time"),
    "introduction-key-foreign": ANY_INTRODUCTION,
    "introduction-late": nothing(SignedIntroduction, "check_time"),
    "introduction-nonce-changed": ANY_INTRODUCTION,
    "introduction-terms-changed": ANY_INTRODUCTION,
    "introduction-unsigned": all_of(ANY_INTRODUCTION, nothing(SignedIntroduction, "check_time")),
    "key-change": put(record_module, "SessionKeyChange", Logout),
    "key-change-foreign": NO_DELEGATION_CHECK,
    "key-change-late-range": NO_DELEGATION_CHECK,
    "key-expires": nothing(Delegation, "check_frame"),
    "leaving-covers": nothing(SessionProtocol, "_cover"),
    "leaving-covers-nothing": around(SessionProtocol, "uncovered", lambda was: lambda self: True),
    "logon-delegation-ends-wallet": NO_DELEGATION_CHECK,
    "logon-delegation-expired": NO_DELEGATION_CHECK,
    "logon-delegation-other-wallet": NO_DELEGATION_CHECK,
    "logon-delegation-range": NO_DELEGATION_CHECK,
    "logon-frames-first": all_of(ANY_FIRST_FRAME, unnamed("no-key")),
    "logon-heartbeat-long": NO_LOGON_CHECK,
    "logon-heartbeat-zero": NO_LOGON_CHECK,
    "logon-introduction-idle": put(solver_module, "SILENT_S", 10.0**6),
    "logon-key-undelegated": NO_DELEGATION_CHECK,
    "logon-order": around(SessionProtocol, "send", _before_collateral),
    "logon-other-terms": NO_LOGON_CHECK,
    "logon-same-again": DUPLICATES_NAMED,
    "logon-text-before": unnamed("no session"),
    "logon-timeout": stays(PeerSilent),
    "logon-twice": allowed("already-logged-on"),
    "logon-without-notes": NO_LOGON_CHECK,
    "logon-wrong-custody": unnamed("custody"),
    "logon-wrong-key": unnamed("key in force", "bad-signature"),
    "logon-wrong-lane": all_of(ANY_FIRST_FRAME, unnamed("wrong-lane")),
    "logon-wrong-version": ANY_VERSION,
    "logout-answer-unsent-restart": TWO_LOGOUTS_END_IT,
    "logout-answered": TWO_LOGOUTS_END_IT,
    "logout-before-logon": all_of(ANY_FIRST_FRAME, unnamed("no-key")),
    "logout-both-restart": TWO_LOGOUTS_END_IT,
    "logout-crossing": around(SessionProtocol, "receive_frame", _every_logout_answered),
    "logout-frames-after": allowed("logged-out"),
    "logout-lost-answer": NO_RESEND,
    "logout-own-business-after": allowed("logged-out"),
    "logout-unanswered": around(SessionProtocol, "tick", _no_longer_than_a_logon),
    "logout-unsolicited": around(LogonSequence, "step", _logout_unanswered),
    "oversized-payload": unnamed("payload-too-long"),
    "openings-lost": stays(PeerSilent),
    "openings-other": stays(CollateralForeign),
    "own-frame-back": put(SessionProtocol, "_own_frame", _every_frame),
    "own-frame-unknown": goes_on(JournalBehind),
    "payload-bad-hex": accepted("bad-hex"),
    "payload-empty": accepted("not-object"),
    "payload-empty-field": accepted("empty-value"),
    "payload-empty-object": accepted("msgtype-not-first"),
    "payload-exponent": accepted("bad-decimal"),
    "payload-group-empty": accepted("bad-count"),
    "payload-group-not-list": accepted("not-a-list"),
    "payload-header-field": accepted("unknown-field"),
    "payload-integer-too-large": accepted("bad-integer"),
    "payload-lone-surrogate": accepted("lone-surrogate"),
    "payload-long-decimal": accepted("bad-decimal"),
    "payload-many-bad": all_of(
        around(SessionProtocol, "receive_frame", _paid_late),
        around(SessionProtocol, "sign", _covering_all),
    ),
    "payload-missing-field": accepted("missing-field"),
    "payload-msgtype-not-first": accepted("msgtype-not-first"),
    "payload-negative": accepted("bad-decimal"),
    "payload-nested": accepted("not-a-string"),
    "payload-not-json": accepted("not-json"),
    "payload-not-object": accepted("not-object"),
    "payload-not-utf8": accepted("not-utf8"),
    "payload-null": accepted("not-a-string"),
    "payload-number-not-string": accepted("not-a-string"),
    "payload-padded-decimal": accepted("bad-decimal"),
    "payload-padded-integer": accepted("bad-integer"),
    "payload-reject-after-restart": around(SessionProtocol, "__init__", _nothing_owed),
    "payload-rejected-once": around(SessionProtocol, "__init__", _owed_anew),
    "payload-repeated-field": accepted("duplicate-key"),
    "payload-repeated-msgtype": accepted("duplicate-key"),
    "payload-resume-type": accepted("unknown-message"),
    "payload-text-type": accepted("unknown-message"),
    "payload-too-long": accepted("too-long"),
    "payload-trailing": accepted("trailing-bytes"),
    "payload-unknown-field": accepted("unknown-field"),
    "payload-unknown-msgtype": accepted("unknown-message"),
    "payload-without-msgtype": accepted("msgtype-not-first"),
    "payload-wrong-enum": accepted("bad-enum"),
    "peer-silent": stays(PeerSilent),
    "peerdigest-other": goes_on(Forked),
    "peerseq-back": goes_on(Forked),
    "peerseq-beyond": goes_on(JournalBehind),
    "previous-other": goes_on(Forked),
    "race-both-send-at-once": put(quotes, "quote", NO_CHANGE),
    "race-cancel-before-fill-seen": LATE_CANCEL_WINS,
    "race-cancel-rest-after-part": put(orders, "ask_cancel", NO_CHANGE),
    "race-cancel-seen-first": put(orders, "ask_cancel", NO_CHANGE),
    "race-close-against-cancel": LATE_CANCEL_WINS,
    "race-decline-against-cancel": LATE_CANCEL_WINS,
    "race-expiry-fill-in-time": put(Replay, "_legal_time", lambda self, entry, covered: covered),
    "race-expiry-fill-late": put(
        Replay, "_legal_time", lambda self, entry, covered: entry.sending_time
    ),
    "race-expiry-order-late": put(rules, "_expire", lambda account: account),
    "race-fill-after-cancel-seen": put(orders, "_CANCELLING", ()),
    "race-fill-before-cancel-acknowledged": LATE_CANCEL_WINS,
    "race-quote-cancelled-while-hit": put(quotes, "withdraw", NO_CHANGE),
    "race-quote-hit-then-cancelled": around(quotes, "withdraw", _hits_withdrawn),
    "race-replace-against-fill": LATE_REPLACE_WINS,
    "race-replace-locked-against-fill": LATE_REPLACE_WINS,
    "race-replace-part-filled": put(orders, "ask_replace", NO_CHANGE),
    "race-replace-seen-first": put(orders, "ask_replace", NO_CHANGE),
    "race-two-orders-one-quote": around(orders, "_priced", _quote_kept),
    "race-two-parts-and-cancel": put(orders, "ask_cancel", NO_CHANGE),
    "refused-for-good": nothing(TraderSession, "_expect_no_refusal"),
    "refused-may-pass": all_of(
        put(trader_module, "_FINAL", tuple(BusinessRejectReason)),
        put(trader_module, "_PASSING", ()),
    ),
    "reject-malformed": nothing(Rejects, "queue"),
    "reject-not-rejected": put(Rejects, "queue", _owed_always),
    "reject-told": put(protocol_module, "PeerRejected", _told_otherwise),
    "resend-beyond-head": around(GapFill, "resend", _from_the_head),
    "resend-byte-for-byte": NO_RESEND,
    "resend-duplicates-inside": DUPLICATES_NAMED,
    "resend-empty": around(GapFill, "resend", _to_the_end),
    "resend-huge": NO_RESEND,
    "resend-huge-begin": around(GapFill, "resend", _from_the_head),
    "resend-mutual": NO_RESEND,
    "resend-out-of-order": NO_ASKING,
    "resend-part": around(GapFill, "resend", _to_the_end),
    "resend-too-frequent": around(SessionProtocol, "_text", _as_often_as_asked),
    "resend-without-end": unnamed("missing-field"),
    "restart-violation-stays": put(SessionProtocol, "_read", _read_anyhow),
    "resume-ahead": TEXTS_STOP,
    "resume-ahead-shown": goes_on(JournalBehind),
    "resume-before-logon": all_of(
        NO_SYNC, put(solver_module, "nothing_yet", lambda custody: Heartbeat())
    ),
    "resume-both-behind": NO_RESEND,
    "resume-end-behind": nothing(HeadSync, "announce_heads"),
    "resume-equal": NO_SYNC,
    "resume-flood": nothing(PeerRate, "text", True),
    "resume-forked": TEXTS_STOP,
    "resume-forked-below": TEXTS_STOP,
    "resume-forked-live": around(HeadSync, "_differ", _only_said),
    "resume-forked-ours": TEXTS_STOP,
    "resume-forked-shown": goes_on(Equivocation),
    "resume-frames-before-heads": nothing(SessionProtocol, "may_sign", True),
    "resume-malformed-heads": NO_SYNC,
    "resume-expired-key": proved("has expired"),
    "resume-lies": stays(PeerSilent),
    "resume-lies-often": around(HeadSync, "_bring", _as_often_as_lacking),
    "resume-live": NO_RESEND,
    "resume-new-key": unproved(
        lambda self, theirs: (
            theirs.session_public_key
            in [one.public_key for one in self._protocol.record.delegations(self._protocol.peer)]
        )
    ),
    "resume-nothing-before": all_of(
        around(HeadSync, "reconnected", _proven_at_once), unnamed("no session")
    ),
    "resume-nothing-signed-disconnected": nothing(SessionProtocol, "_must_sign"),
    "resume-old-key": proved("has followed"),
    "resume-other-custody": unnamed("wrong-custody"),
    "resume-other-wallet": proved("not delegated"),
    "resume-peer-behind": NO_RESEND,
    "resume-peer-forgot": stays(PeerBehind),
    "resume-reflected": proved("challenge", "not delegated"),
    "resume-replayed": proved("challenge"),
    "resume-restart": NO_RESEND,
    "resume-restart-unsent-logon": NO_SYNC,
    "resume-timeout": stays(PeerSilent),
    "resume-twice": all_of(
        around(HeadSync, "receive", _heads_forgotten),
        around(HeadSync, "_bring", _as_often_as_lacking),
    ),
    "resume-unknown-custody": unnamed("unknown-custody"),
    "resume-unsigned": proved("not signed"),
    "resume-wallet-key": unproved(lambda self, theirs: theirs.from_seq != 0),
    "seq-duplicate": DUPLICATES_NAMED,
    "seq-equivocation": goes_on(Equivocation),
    "seq-equivocation-after-resume": goes_on(Equivocation),
    "seq-gap-asked-again": nothing(GapFill, "ask_again"),
    "seq-gap-filled": NO_ASKING,
    "seq-gap-flood": nothing(PeerRate, "text", True),
    "seq-gap-partly-filled": nothing(GapFill, "ask_again"),
    "seq-gap-second": around(GapFill, "ask", _asks_once),
    "seq-too-high": NO_ASKING,
    "seq-too-low-noise": unnamed("number that is taken"),
    "seq-zero": unnamed("bad-seq"),
    "session-duplicate": around(SessionRunner, "attach", _first_connection_keeps),
    "settle-other-payouts": allowed("wrong-payout"),
    "settle-payee-covers": nothing(settlement, "_check_covers"),
    "settle-payee-for-more": allowed("wrong-payee"),
    "settle-payee-of-no-note": allowed("bad-inner"),
    "settle-payee-signed-by-another": allowed("wrong-signature"),
    "testrequest-again": put(SessionProtocol, "_heard", _heard_only),
    "testrequest-answered": unsaid("0"),
    "testrequest-when-silent": unsaid("1"),
    "testrequest-without-id": unnamed("missing-field"),
    "text-malformed": unnamed(""),
    "text-record-type": unnamed("unknown-message"),
    "text-reject-told": put(protocol_module, "TextReceived", _told_otherwise),
    "text-rejects-not-answered": around(SessionProtocol, "_text", _rejects_answered),
    "time-ahead": NOTHING_HELD,
    "time-ahead-and-business": NOTHING_HELD,
    "time-ahead-held": NOTHING_HELD,
    "time-ahead-logout": NOTHING_HELD,
    "time-ahead-restart": FORGOTTEN_HELD,
    "time-back": goes_on(Forked),
    "time-behind": NO_COVER,
    "time-far-ahead": NOTHING_HELD,
    "time-own-clock-back": nothing(SessionProtocol, "_clock_behind"),
    "time-own-clock-back-little": put(
        SessionProtocol,
        "_clock_behind",
        lambda self, now: ClockBehind() if now < self._now else None,
    ),
    "time-same": around(SessionProtocol, "receive_frame", _time_must_move),
    "violation-own-refused": nothing(RulebookLedger, "refuses"),
}

__all__ = ["DISABLED", "FROM_THE_START", "Off"]
