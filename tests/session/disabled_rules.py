"""For each session script a way to turn off the rule that it tells of.

`test_disabled_rules.py` plays every script with its rule off, and the script must fail. An entry
replaces as little of the package as turns the rule off; what it replaces shows where the rule
lives. Rules are off from where the script begins (`G`), for those in FROM_THE_START from before.

This file is long because every one of the 237 scripts has its place in one table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import trio
from everywhere import Off, after, all_of, around, before, instead, meanwhile, nothing, put, unless

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
from psymm.journal.committer import Change
from psymm.journal.writer import Journal
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
from psymm.session.protocol import (
    HeadSync,
    Resumed,
    SessionParams,
    SessionProtocol,
    SessionStatus,
    TextReceived,
    collateral,
    dispatch,
    frames,
    gaps,
    heads,
    holding,
    lifecycle,
    logon,
    rejects,
    resume,
    ruling,
    signing,
    views,
)
from psymm.session.protocol.budget import PeerRate
from psymm.session.protocol.chain_facts import ChainView
from psymm.session.runtime import conversation, reception, solver_sessions
from psymm.session.runtime import handshake as handshake_module
from psymm.session.runtime.ledger import RulebookLedger
from psymm.session.runtime.reception import Reception
from psymm.session.runtime.runner import SessionRunner
from psymm.session.runtime.solver_sessions import SolverSessions
from psymm.session.runtime.trader import TraderSession
from psymm.transcript import record as record_module
from psymm.transcript.delegation import Delegation
from psymm.transcript.introduction import SignedIntroduction

LONG_AGO: Final = -(10**18)


# --- kinds of rules -----------------------------------------------------------------------------


def unnamed(*parts: str) -> Off:
    """What is not valid for one of these reasons is passed over in silence."""

    def silent(why: str) -> bool:
        return any(part in why for part in parts)

    async def quiet(self: Reception, kind: str, why: str) -> None:
        if not silent(why):
            await spoken(self, kind, why)

    spoken = Reception._noisy
    return all_of(
        unless(signing, "report_malformed", lambda s, out, now, kind, why: silent(why)),
        put(Reception, "_noisy", quiet),
    )


def named(test: Callable[..., bool]) -> Off:
    """Such a frame, of a state and a frame, is noise."""

    def wrap(was: Any) -> Any:
        def receive(s: Any, connection: Any, out: Any, frame: Frame, now: int) -> None:
            if test(s, frame):
                signing.report_malformed(s, out, now, "frame", "this number is taken")
            else:
                was(s, connection, out, frame, now)

        return receive

    return around(frames, "receive", wrap)


def proved(*parts: str) -> Off:
    """Heads prove their sender although they do not, for one of these reasons."""

    def lenient(was: Any) -> Any:
        def check(*given: Any) -> Any:
            try:
                return was(*given)
            except ResumeRefused as refused:
                if not any(part in str(refused) for part in parts):
                    raise
                return bytes(64)

        return check

    return all_of(
        around(resume, "check_resume", lenient),
        around(reception, "check_resume", lenient),
        around(resume, "check_proof", lenient),
    )


def unproved(test: Callable[..., bool]) -> Off:
    """Such heads, of a state and a resume, prove nothing."""

    def refuse(s: Any, theirs: Any, *_: Any) -> None:
        if test(s, theirs):
            raise ResumeRefused

    return before(resume, "check_proof", refuse)


def goes_on(kind: type[PSymmError]) -> Off:
    """That error stops nothing."""
    return unless(signing, "stop", lambda s, out, error: isinstance(error, kind))


def stays(kind: type[PSymmError]) -> Off:
    """For that reason no connection is closed."""
    return unless(signing, "disconnect", lambda s, out, error: isinstance(error, kind))


def unsaid(kind: str) -> Off:
    """That text is never sent."""
    return unless(signing, "send_text", lambda s, out, message, now: kind == message.MSG_TYPE)


def allowed(rule: str) -> Off:
    """The session does not hear of that violation from the rulebook."""

    def refuses(was: Any) -> Any:
        def filtered(*given: Any, **named: Any) -> Any:
            found = was(*given, **named)
            return None if found is not None and rule in found.name else found

        return filtered

    def arrived(was: Any) -> Any:
        return lambda *given: [one for one in was(*given) if rule not in one.violation.name]

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


# --- what is done instead -----------------------------------------------------------------------


class AnyVersion:
    """Frames of every version are read as version 1."""

    @staticmethod
    def parse(data: bytes, offset: int = 0) -> Frame:
        return Frame.parse(data[:offset] + b"\x01" + data[offset + 1 :], offset)


def unchecked(agreement: Any, frame: Frame, message: Any) -> Delegation:
    return Delegation(frame.lane, message.session_public_key, frame.seq, 2**63, 2**63)


async def asleep(*given: Any) -> None:
    await trio.lowlevel.checkpoint()


def told_otherwise(*given: Any) -> Resumed:
    return Resumed(0, 0)


def floor(s: Any) -> int:
    return int(s.record.head(s.lane).peer_seq)


def needs_cover(_: None, s: Any, connection: Any, out: Any, frame: Frame, now: int) -> None:
    signing.await_cover(s, connection, now)


def log_out_too(_: None, s: Any, connection: Any, out: Any, frame: Frame, now: int) -> None:
    if isinstance(s.record.decoded(frame), Logout):
        signing.sign(s, out, Logout(), now)


def no_longer_than_a_logon(effects: Any, self: SessionProtocol, now: int) -> None:
    s, connection = self.state, self.state.connection
    mine, theirs = s.lifecycle.logouts[s.lane], s.lifecycle.logouts[s.peer]
    late = connection and now - connection.progress >= s.params.response_timeout_ns
    if mine and not theirs and late:
        signing.disconnect(s, effects, PeerSilent("the peer did not answer the Logout"))


def both_logged_out(was: Any) -> Any:
    def status_of(s: Any) -> SessionStatus:
        out = s.error is None and all(s.lifecycle.logouts)
        return SessionStatus.CLOSED if out else was(s)

    return status_of


def queue_always(s: Any, guilty: Any, violation: Any) -> None:
    s.rejects.append(Reject(ref_seq_num=guilty.frame.seq, violation=violation.name))


def forget_rejects(_: None, self: SessionProtocol, *given: Any) -> None:
    self.state.rejects = []


def reject_anew(_: None, self: SessionProtocol, *given: Any) -> None:
    self.state.rejects = [
        entry.message
        for entry in self.record
        if entry.frame.lane == self.lane and isinstance(entry.message, Reject)
    ]


def reject_rejects(effects: Any, self: SessionProtocol, text: str, now: int) -> None:
    for effect in list(effects):
        if isinstance(effect, TextReceived) and isinstance(effect.message, BusinessMessageReject):
            signing.send_reject(self.state, effects, now, "j", "a reject")


def ask_once(was: Any) -> Any:
    asked: list[Any] = []

    def ask(s: Any, *given: Any) -> None:
        if s not in asked:
            asked.append(s)
            was(s, *given)

    return ask


def answer_at_once(s: Any, *given: Any) -> None:
    s.resent_at[:] = [LONG_AGO, LONG_AGO]


def bring_at_once(s: Any, connection: Any, *given: Any) -> None:
    connection.sent_again_at[:] = [LONG_AGO, LONG_AGO]


def bring_and_forget(s: Any, connection: Any, *given: Any) -> None:
    bring_at_once(s, connection)
    connection.peer_heads = None


def dispute_nothing(_: None, s: Any, connection: Any, *given: Any) -> None:
    connection.dispute, connection.sync = None, HeadSync.PROVEN


def prove_nothing(_: Any, self: SessionProtocol, *given: Any) -> None:
    if not self.state.connection.proven:
        self.state.connection.sync = HeadSync.PROVEN


def no_skew(s: Any, now: int) -> ClockBehind | None:
    return ClockBehind() if now < s.record.head(s.lane).sending_time else None


def first_connection_keeps(was: Any) -> Any:
    async def attach(self: SessionRunner, *given: Any, **named: Any) -> Any:
        if self.attached:
            await trio.sleep_forever()
        return await was(self, *given, **named)

    return attach


def unwound(status: OrderStatus) -> Callable[[Any], Any]:
    """A cancel or replacement undoes what its order became before."""

    def wrap(was: Any) -> Any:
        def ask(account: Any, said: Any) -> Any:
            account, name = was(account, said), said.orig_cl_ord_id
            if name not in account.ended_orders:
                return account
            positions = account.positions
            for held in list(positions.values()):
                if held.cl_ord_id == name:
                    positions = positions.without(held.position_id)
            ended = account.ended_orders.put(name, status)
            return replace(account, positions=positions, ended_orders=ended)

        return ask

    return wrap


def hits_withdrawn(was: Any) -> Any:
    def withdraw(account: Any, said: Any) -> Any:
        account = was(account, said)
        for order in list(account.orders.values()):
            if order.quote_id == said.quote_id:
                account = orders.end_order(account, order, OrderStatus.CANCELLED)
        return account

    return withdraw


def bound(was: Any) -> Any:
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


# --- the rules ----------------------------------------------------------------------------------

NO_CHANGE: Final = staticmethod(lambda account, said: account).__func__
NO_RESEND: Final = nothing(gaps, "resend", 0)
TO_THE_END: Final = instead(
    gaps, "resend", lambda s, out, begin, end, lane: (s, out, begin, 0, lane)
)
FROM_THE_HEAD: Final = instead(
    gaps,
    "resend",
    lambda s, out, begin, end, lane: (s, out, min(begin, s.record.head(lane).seq), 0, lane),
)
ANY_INTRODUCTION: Final = all_of(
    nothing(SignedIntroduction, "verify"), around(handshake_module, "_signed", bound)
)
ANY_TIME: Final = nothing(SignedIntroduction, "check_time")
ANY_FIRST_FRAME: Final = nothing(solver_sessions, "check_first")
ANY_VERSION: Final = all_of(put(views, "Frame", AnyVersion), put(reception, "Frame", AnyVersion))
ANY_RATE: Final = all_of(nothing(PeerRate, "frame", True), nothing(PeerRate, "text", True))
NO_SYNC: Final = nothing(resume, "try_sync")
NO_LIMIT: Final = put(signing, "MALFORMED_LIMIT", 10**6)
UNREPEATED: Final = around(
    PeerRate,
    "frame",
    lambda was: lambda self, now, *, repeated, size: was(self, now, repeated=False, size=size),
)
NO_TIME_FOR_RATES: Final = all_of(
    instead(PeerRate, "text", lambda self, characters, now: (self, characters, 0)),
    around(PeerRate, "frame", lambda was: lambda self, now, **given: was(self, 0, **given)),
)
COVERS_ALL: Final = instead(
    signing, "sign", lambda s, out, message, now, **covers: (s, out, message, now)
)
ONE_MORE: Final = around(signing, "coverable", lambda was: lambda s: min(was(s), floor(s) + 1))
DIFFERING_STOPS: Final = put(
    resume,
    "open_dispute",
    lambda s, connection, out, error, places, now: signing.stop(s, out, error),
)
NO_FACT: Final = Change(lambda base: None)

FROM_THE_START: Final = frozenset({"logon-introduction-idle"})

_BY_REASON: Final[dict[Callable[[Any], Off], dict[Any, str]]] = {
    accepted: {
        "bad-hex": "payload-bad-hex",
        "not-object": "payload-empty payload-not-object",
        "empty-value": "payload-empty-field",
        "msgtype-not-first": "payload-empty-object payload-msgtype-not-first "
        "payload-without-msgtype",
        "bad-decimal": "payload-exponent payload-long-decimal payload-negative "
        "payload-padded-decimal",
        "bad-count": "payload-group-empty",
        "not-a-list": "payload-group-not-list",
        "unknown-field": "payload-header-field payload-unknown-field",
        "bad-integer": "payload-integer-too-large payload-padded-integer",
        "lone-surrogate": "payload-lone-surrogate",
        "missing-field": "payload-missing-field",
        "not-a-string": "payload-nested payload-null payload-number-not-string",
        "not-json": "payload-not-json",
        "not-utf8": "payload-not-utf8",
        "duplicate-key": "payload-repeated-field payload-repeated-msgtype",
        "unknown-message": "payload-resume-type payload-text-type payload-unknown-msgtype",
        "too-long": "payload-too-long",
        "trailing-bytes": "payload-trailing",
        "bad-enum": "payload-wrong-enum",
    },
    unnamed: {
        "": "malformed-empty malformed-tail text-malformed",
        "bad-signature": "frame-wrong-key malformed-flip-header",
        "bad-r-y": "malformed-flip-signature",
        "custody": "logon-wrong-custody",
        "missing-field": "resend-without-end testrequest-without-id",
        "no session": "logon-text-before",
        "number that is taken": "seq-too-low-noise",
        "payload-too-long": "oversized-payload",
        "bad-seq": "seq-zero",
        "truncated": "malformed-truncated",
        "unknown-custody": "resume-unknown-custody",
        "unknown-message": "text-record-type",
        "wrong-custody": "frame-wrong-custody resume-other-custody",
        "wrong-lane": "frame-wrong-lane malformed-flip-lane-and-seq",
    },
    allowed: {
        "already-logged-on": "logon-twice",
        "too-many-notes": "collateral-second-note",
        "trading-not-open": "business-before-collateral",
        "id": "business-same-id",
        "wrong-lane": "business-wrong-lane",
        "logged-out": "logout-frames-after logout-own-business-after",
        "wrong-payout": "settle-other-payouts",
        "wrong-payee": "settle-payee-for-more",
        "bad-inner": "settle-payee-of-no-note",
        "wrong-signature": "settle-payee-signed-by-another",
    },
    goes_on: {
        Equivocation: "resume-forked-shown seq-equivocation seq-equivocation-after-resume",
        Forked: "peerdigest-other peerseq-back previous-other time-back",
        JournalBehind: "own-frame-unknown peerseq-beyond resume-ahead-shown",
    },
    stays: {
        CollateralForeign: "openings-other",
        FloodingPeer: "flood-texts",
        PeerSilent: "logon-timeout openings-lost peer-silent resume-lies resume-timeout",
        PeerBehind: "resume-peer-forgot",
    },
    unsaid: {
        "0": "heartbeat-idle testrequest-answered",
        "1": "testrequest-when-silent",
    },
}

_ROWS: Final[tuple[tuple[Off, str], ...]] = (
    # What is not valid.
    (unnamed("key in force", "bad-signature"), "logon-wrong-key"),
    (all_of(ANY_FIRST_FRAME, unnamed("no-key")), "logon-frames-first logout-before-logon"),
    (all_of(ANY_FIRST_FRAME, unnamed("wrong-lane")), "logon-wrong-lane"),
    (ANY_VERSION, "frame-wrong-version logon-wrong-version"),
    (NO_LIMIT, "malformed-limit malformed-texts-limit"),
    (after(SessionProtocol, "receive_text", reject_rejects), "text-rejects-not-answered"),
    (put(dispatch, "TextReceived", told_otherwise), "text-reject-told"),
    # Introductions and Logons.
    (
        ANY_INTRODUCTION,
        "introduction-collateral-changed introduction-expiry-changed introduction-key-foreign "
        "introduction-nonce-changed introduction-terms-changed",
    ),
    (ANY_TIME, "introduction-far-ahead introduction-key-expired introduction-late"),
    (all_of(ANY_INTRODUCTION, ANY_TIME), "introduction-unsigned"),
    (put(reception, "SILENT_S", 10.0**6), "logon-introduction-idle"),
    (
        nothing(logon, "refuses_logon"),
        "logon-heartbeat-long logon-heartbeat-zero logon-other-terms logon-without-notes",
    ),
    (
        put(record_module, "delegation_in", unchecked),
        "key-change-foreign key-change-late-range logon-delegation-ends-wallet "
        "logon-delegation-expired logon-delegation-other-wallet logon-delegation-range "
        "logon-key-undelegated",
    ),
    (
        meanwhile(SessionProtocol, "send", lambda p, *_: p.state, "status", SessionStatus.TRADING),
        "logon-order",
    ),
    (put(record_module, "SessionKeyChange", Logout), "key-change"),
    (nothing(Delegation, "check_frame"), "key-expires"),
    (nothing(TraderSession, "_expect_no_refusal"), "refused-for-good"),
    (
        all_of(
            put(conversation, "_FINAL", tuple(BusinessRejectReason)),
            put(conversation, "_PASSING", ()),
        ),
        "refused-may-pass",
    ),
    # Collateral, and what costs a solver before there is any.
    (put(SolverSessions, "_forget_left_before", asleep), "early-forgotten"),
    (nothing(frames, "has_room", True), "early-frames"),
    (nothing(collateral, "is_judged", True), "early-unsigned"),
    (ANY_RATE, "flood-frames flood-test-requests"),
    (nothing(PeerRate, "frame", True), "flood-in-one-message"),
    (nothing(PeerRate, "text", True), "resume-flood seq-gap-flood"),
    (UNREPEATED, "flood-resend-free flood-resume-free"),
    (NO_TIME_FOR_RATES, "flood-allowance-returns"),
    # Numbers, gaps, resends.
    (
        named(lambda s, frame: frame.lane == s.peer and frame.seq <= s.record.head(s.peer).seq),
        "logon-same-again resend-duplicates-inside seq-duplicate",
    ),
    (named(lambda s, frame: frame.lane == s.lane), "own-frame-back"),
    (
        nothing(gaps, "ask"),
        "malformed-in-the-middle malformed-middle-form resend-out-of-order seq-gap-filled "
        "seq-too-high",
    ),
    (nothing(gaps, "ask_again"), "seq-gap-asked-again seq-gap-partly-filled"),
    (around(gaps, "ask", ask_once), "seq-gap-second"),
    (
        NO_RESEND,
        "logout-lost-answer resend-byte-for-byte resend-huge resend-mutual resume-both-behind "
        "resume-live resume-peer-behind resume-restart",
    ),
    (FROM_THE_HEAD, "resend-beyond-head resend-huge-begin"),
    (TO_THE_END, "resend-empty resend-part"),
    (before(gaps, "answer", answer_at_once), "resend-too-frequent"),
    # Business on the record, rejects, times.
    (put(signing, "coverable", floor), "business-covers business-reject-on-record time-behind"),
    (
        all_of(
            meanwhile(frames, "receive", lambda s, c, *_: c, "sync", HeadSync.PROVEN), COVERS_ALL
        ),
        "payload-many-bad",
    ),
    (after(SessionProtocol, "__init__", forget_rejects), "payload-reject-after-restart"),
    (after(SessionProtocol, "__init__", reject_anew), "payload-rejected-once"),
    (nothing(rejects, "queue_for"), "reject-malformed"),
    (put(rejects, "queue_for", queue_always), "reject-not-rejected"),
    (put(ruling, "PeerRejected", told_otherwise), "reject-told"),
    (
        put(ruling, "read", lambda s, entry, violation: lifecycle.apply(s, entry)),
        "restart-violation-stays",
    ),
    (nothing(RulebookLedger, "refuses"), "violation-own-refused"),
    (
        nothing(holding, "must_wait", False),
        "time-ahead time-ahead-and-business time-ahead-held time-ahead-logout time-far-ahead",
    ),
    (unless(holding, "hold", lambda s, *_: s.connection is None, False), "time-ahead-restart"),
    (nothing(signing, "clock_behind"), "time-own-clock-back"),
    (put(signing, "clock_behind", no_skew), "time-own-clock-back-little"),
    (
        named(lambda s, frame: frame.sending_time == s.record.head(s.peer).sending_time),
        "time-same",
    ),
    (nothing(RulebookLedger, "awaits", False), "cite-waits"),
    (nothing(ChainView, "settles"), "cite-above-head"),
    (nothing(Journal, "to_keep_fact", NO_FACT), "cite-denied-restart"),
    # Heartbeats, silence, leaving, Logouts.
    (put(SessionParams, "cover_after_ns", 10**18), "heartbeat-covers"),
    (put(SessionParams, "cover_after_ns", 10**9), "heartbeat-covers-sooner"),
    (after(frames, "receive", needs_cover), "heartbeat-needs-no-cover"),
    (
        meanwhile(signing, "sign", lambda s, *_: s.connection, "last_sent"),
        "heartbeat-not-after-traffic",
    ),
    (ONE_MORE, "heartbeat-several-covered"),
    (
        all_of(
            *(
                meanwhile(SessionProtocol, name, lambda p, *_: p.state.connection, "test_sent")
                for name in ("receive_text", "receive_batch")
            )
        ),
        "testrequest-again",
    ),
    (nothing(signing, "cover"), "leaving-covers"),
    (nothing(signing, "is_uncovered", True), "leaving-covers-nothing"),
    (
        around(lifecycle, "status_of", both_logged_out),
        "logout-answer-unsent-restart logout-answered logout-both-restart",
    ),
    (after(frames, "receive", log_out_too), "logout-crossing"),
    (after(SessionProtocol, "tick", no_longer_than_a_logon), "logout-unanswered"),
    (
        meanwhile(logon, "step", lambda s, *_: s.lifecycle, "logouts", [False, False]),
        "logout-unsolicited",
    ),
    (around(SessionRunner, "attach", first_connection_keeps), "session-duplicate"),
    # Resuming.
    (NO_SYNC, "resume-equal resume-malformed-heads resume-restart-unsent-logon"),
    (
        all_of(NO_SYNC, put(reception, "nothing_yet", lambda custody: Heartbeat())),
        "resume-before-logon",
    ),
    (DIFFERING_STOPS, "resume-ahead resume-forked resume-forked-below resume-forked-ours"),
    (after(resume, "open_dispute", dispute_nothing), "resume-forked-live"),
    (nothing(heads, "announce_heads"), "resume-end-behind"),
    (nothing(signing, "may_sign", True), "resume-frames-before-heads"),
    (nothing(signing, "must_sign"), "resume-nothing-signed-disconnected"),
    (
        all_of(after(SessionProtocol, "connected", prove_nothing), unnamed("no session")),
        "resume-nothing-before",
    ),
    (before(resume, "on_resume", bring_at_once), "resume-lies-often"),
    (before(resume, "on_resume", bring_and_forget), "resume-twice"),
    (proved("challenge"), "resume-replayed"),
    (proved("challenge", "not delegated"), "resume-reflected"),
    (proved("has expired"), "resume-expired-key"),
    (proved("has followed"), "resume-old-key"),
    (proved("not delegated"), "resume-other-wallet"),
    (proved("not signed"), "resume-unsigned"),
    (
        unproved(
            lambda s, theirs: (
                theirs.session_public_key
                not in [one.public_key for one in s.record.delegations(s.peer)]
            )
        ),
        "resume-new-key",
    ),
    (unproved(lambda s, theirs: theirs.from_seq == 0), "resume-wallet-key"),
    # Races, and the rulebook's word on a settlement.
    (put(quotes, "quote", NO_CHANGE), "race-both-send-at-once"),
    (
        around(orders, "ask_cancel", unwound(OrderStatus.CANCELLED)),
        "race-cancel-before-fill-seen race-close-against-cancel race-decline-against-cancel "
        "race-fill-before-cancel-acknowledged",
    ),
    (
        around(orders, "ask_replace", unwound(OrderStatus.REPLACED)),
        "race-replace-against-fill race-replace-locked-against-fill",
    ),
    (
        put(orders, "ask_cancel", NO_CHANGE),
        "race-cancel-rest-after-part race-cancel-seen-first race-two-parts-and-cancel",
    ),
    (put(orders, "ask_replace", NO_CHANGE), "race-replace-part-filled race-replace-seen-first"),
    (
        put(Replay, "_legal_time", lambda self, entry, covered: covered),
        "race-expiry-fill-in-time",
    ),
    (
        put(Replay, "_legal_time", lambda self, entry, covered: entry.sending_time),
        "race-expiry-fill-late",
    ),
    (put(rules, "_expire", lambda account, clock: account), "race-expiry-order-late"),
    (put(orders, "_CANCELLING", ()), "race-fill-after-cancel-seen"),
    (put(quotes, "withdraw", NO_CHANGE), "race-quote-cancelled-while-hit"),
    (around(quotes, "withdraw", hits_withdrawn), "race-quote-hit-then-cancelled"),
    (
        around(
            orders,
            "_priced",
            lambda was: lambda account, said: (account, was(account, said)[1]),
        ),
        "race-two-orders-one-quote",
    ),
    (nothing(settlement, "_check_covers"), "settle-payee-covers"),
)

DISABLED: Final = {name: off for off, names in _ROWS for name in names.split()} | {
    name: turned_off(reason)
    for turned_off, reasons in _BY_REASON.items()
    for reason, names in reasons.items()
    for name in names.split()
}

__all__ = ["DISABLED", "FROM_THE_START"]
