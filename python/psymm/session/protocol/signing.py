"""Sign a frame, send a text, disconnect, stop the session: the primitives of every handler.

No other module signs. All conditions for signing are here: a frame is signed only while `may_sign`
holds. A signed frame is recorded, applied, stored, sent and reported, in this order; then the
rulebook gets it.
"""

from __future__ import annotations

from typing import Final

from psymm.errors import (
    ClockBehind,
    JournalRestored,
    LaneAtLimit,
    NotNow,
    PeerViolation,
    PSymmError,
    Refused,
    SessionClosed,
    clip,
)
from psymm.messages import (
    BusinessMessageReject,
    BusinessRejectReason,
    ChainFact,
    Heartbeat,
    Logout,
    Message,
    Reject,
    Settlement,
    SettlementAcceptance,
    SettlementOutput,
    encode_text,
)
from psymm.rulebook.inputs import has_come
from psymm.rulebook.rules import MOST_UNCOVERED
from psymm.session.protocol import keys, lifecycle, rejects
from psymm.session.protocol.budget import SECOND
from psymm.session.protocol.effects import (
    Disconnect,
    Effects,
    FrameSent,
    KeyDue,
    SendFrame,
    SendText,
    Stopped,
    StoreFrame,
)
from psymm.session.protocol.state import ConnectionState, SessionState, arm
from psymm.session.protocol.status import SessionStatus
from psymm.transcript.agreement import SOLVER, TRADER
from psymm.transcript.record import RecordedFrame

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
"""Messages that we sign while a signed settlement may still be mined: none changes the account."""

LAST_BYTES: Final = 16_384
"""With less than this left of all that our lane may send, we sign nothing."""
MALFORMED_LIMIT: Final = 8
"""How many malformed texts or frames close a connection."""


# --- may we sign? --------------------------------------------------------------------------------


def signs_freely(s: SessionState, now: int) -> bool:
    """The fast check: True means that we may sign; False means that the full check decides.

    It holds during business only (`SessionState.attention`), with our clock and key in order.
    """
    head = s.record.heads[s.lane]
    return (
        not s.attention
        and s.error is None
        and head.sending_time <= now <= s.keys.signs_until
        and head.seq < s.keys.signs_to
    )


def refuses_to_sign(s: SessionState, now: int) -> PSymmError | None:
    """Why nothing may be signed now: a NotNow or a subclass. None if it may."""
    if s.connection is None:
        return NotNow("there is no connection")
    if s.recovery.health != "complete" or s.keys.key is None:
        return NotNow("frames that our journal lost are still to be fetched")
    if not s.synced:
        return NotNow("the heads of both sides do not agree yet")
    rulebook = s.rulebook
    if rulebook and rulebook.near_limit and rulebook.is_full(s.lane, LAST_BYTES):
        return LaneAtLimit("our lane has used all that it may send before a checkpoint")
    return clock_behind(s, now) or keys.ended(s, now)


def may_sign(s: SessionState, now: int) -> bool:
    """Whether we may sign a frame now."""
    return signs_freely(s, now) or (s.error is None and refuses_to_sign(s, now) is None)


def must_sign(s: SessionState, now: int) -> None:
    """Raises the reason why we may not sign now."""
    if signs_freely(s, now):
        return
    expect_own_journal(s)
    refusal = refuses_to_sign(s, now)
    if refusal is not None:
        raise refusal


def expect_open(s: SessionState) -> None:
    """Raises SessionClosed, or the error that stopped the session."""
    if s.error is not None:
        raise s.error
    if s.status is SessionStatus.CLOSED:
        raise SessionClosed(custody=s.record.agreement.custody)


def expect_own_journal(s: SessionState) -> None:
    """As `expect_open`; also raises JournalRestored if we never sign again."""
    expect_open(s)
    if s.recovery.health == "read-only":
        raise JournalRestored(custody=s.record.agreement.custody)


def clock_behind(s: SessionState, now: int) -> ClockBehind | None:
    """The error if our clock is behind our own lane by more than the skew, or None.

    A frame signed now could not be dated truly: dates in a lane never decrease (`spec.md` 66).
    """
    last = s.record.heads[s.lane].sending_time
    if last <= now or has_come(last, now, s.params.skew_ns):
        return None
    return ClockBehind(
        last_ns=last,
        now_ns=now,
        ahead_s=(last - now) // SECOND,
        skew_s=s.params.skew_ns / SECOND,
    )


def within_limit(s: SessionState) -> bool:
    """Whether a frame other than a Heartbeat may be signed.

    The solver signs none while the trader leaves too many uncovered (`spec.md` 67).
    """
    if s.lane == TRADER or s.rulebook is None:
        return True
    return s.record.heads[SOLVER].seq + 1 - s.rulebook.trader_covers <= MOST_UNCOVERED


def check_message(s: SessionState, message: Message, now: int) -> None:
    """Raises the reason why we may not sign this message of the application.

    Raises as `must_sign`; NotNow before trading or while a settlement may be mined; Refused if our
    own rulebook refuses the message.
    """
    if not signs_freely(s, now):
        must_sign(s, now)
    if s.status in (SessionStatus.LOGON, SessionStatus.VERIFYING) or s.rulebook is None:
        raise NotNow("collateral is not yet accepted by both sides", status=s.status)
    violation = s.rulebook.refuses(s.lane, message, now)
    if violation is not None:
        refusal = LaneAtLimit if violation.name == LaneAtLimit.code else Refused
        raise refusal(str(violation), rule=violation.name, message=message.MSG_TYPE)
    options = s.lifecycle.proposal is not None or s.lifecycle.offered
    if options and not isinstance(message, _BESIDE_OPTIONS):
        # Stricter than the rulebook: its clock may pass the deadline before the chain's does, and
        # a proposal that the record refused still binds us on chain.
        raise NotNow("a settlement that we may have signed can still be mined")


# --- covering ------------------------------------------------------------------------------------


def coverable(s: SessionState) -> int:
    """The highest peer frame that we may cover: the last one before any held frame."""
    return s.held[0].frame.seq - 1 if s.held else s.record.heads[s.peer].seq


def is_uncovered(s: SessionState) -> bool:
    """Whether a frame of the peer other than a Heartbeat waits for our cover."""
    for seq in range(s.record.heads[s.lane].peer_seq + 1, coverable(s) + 1):
        entry = s.record.entry(s.peer, seq)
        if entry is not None and type(entry.message) is not Heartbeat:
            return True
    return False


def many_uncovered(s: SessionState) -> bool:
    """Whether we are the trader and the solver comes near its limit (`spec.md` 67)."""
    if s.lane != TRADER:
        return False
    return coverable(s) - s.record.heads[s.lane].peer_seq >= MOST_UNCOVERED // 2


def await_cover(s: SessionState, connection: ConnectionState, since: int) -> None:
    """A frame of the peer waits for our cover since `since`: arm the deadline."""
    connection.uncovered_since = since
    early = s.lane == TRADER and many_uncovered(s)
    due = since if early else since + s.params.cover_after_ns
    if due < connection.wake_at:
        arm(connection, due)


def cover(s: SessionState, out: Effects, now: int) -> None:
    """Sign a Heartbeat that covers the peer's lane, if it covers anything new."""
    begun = s.lifecycle.logons[s.lane] is not None
    # Otherwise two sides could cover each other's Heartbeats forever.
    more = coverable(s) > s.record.heads[s.lane].peer_seq
    if begun and more and may_sign(s, now):
        sign(s, out, Heartbeat(), now)


# --- signing -------------------------------------------------------------------------------------


def sign(
    s: SessionState, out: Effects, message: Message, now: int, *, covers: int | None = None
) -> RecordedFrame:
    """Sign our lane's next frame. The caller knows that the rulebook accepts the message.

    Args:
        covers: its peerSeq; by default every peer frame that is not held back.
    """
    if s.recovery.health != "complete" or s.keys.key is None:
        raise JournalRestored(custody=s.record.agreement.custody)
    top = coverable(s)
    entry = s.record.sign(
        s.keys.key, s.lane, message, now, covers=top if covers is None else covers
    )
    # The order is the contract of `effects`: a frame is on disk before it is sent.
    if type(message) in lifecycle.APPLIED:
        lifecycle.apply(s, entry)
    out += (StoreFrame(entry), SendFrame(entry), FrameSent(entry))
    if keys.number_due(s):
        out.append(KeyDue())
    if s.connection is not None:
        s.connection.last_sent = now
        s.connection.uncovered_since = None
        # Most frames cover everything; a Reject covers only as much as it must.
        if entry.frame.peer_seq < top and is_uncovered(s):
            await_cover(s, s.connection, now)
    # As the solver, our frame puts pending trader frames into effect. One may be a violation.
    if s.rulebook is not None:
        for ruling in s.rulebook.arrived(entry):
            rejects.queue(s, ruling)
    return entry


# --- texts, endings ------------------------------------------------------------------------------


def send_text(s: SessionState, out: Effects, message: Message, now: int) -> None:
    """Send a text on the connection, if there is one."""
    if s.connection is not None:
        out.append(SendText(encode_text(message)))
        s.connection.last_sent = now


def send_reject(s: SessionState, out: Effects, now: int, kind: str, why: str) -> None:
    """Tell the peer in a text why its input has no effect.

    Args:
        kind: its MsgType, or "frame" or "text".
        why: the reason, for people.
    """
    send_text(
        s,
        out,
        BusinessMessageReject(
            ref_msg_type=kind,
            business_reject_reason=BusinessRejectReason.OTHER,
            text=clip(why),
        ),
        now,
    )


def report_malformed(s: SessionState, out: Effects, now: int, kind: str, why: str) -> None:
    """Report malformed input to the peer. It changes nothing; if it persists, we disconnect."""
    s.malformed += 1
    send_reject(s, out, now, kind, why)
    if s.connection is not None:
        s.connection.malformed += 1
        if s.connection.malformed >= MALFORMED_LIMIT:
            disconnect(s, out, PeerViolation("the peer keeps sending what is not valid", last=why))


def disconnect(s: SessionState, out: Effects, error: PSymmError) -> None:
    """Close the connection. The first reason counts."""
    # Later reasons are mostly consequences of the first.
    if s.connection is not None and s.connection.closing is None:
        s.connection.closing = error
        out.append(Disconnect(error))


def stop(s: SessionState, out: Effects, error: PSymmError) -> None:
    """Stop the session: we sign nothing more in this custody. The journal keeps the reason."""
    if s.error is None:
        s.error, s.attention = error, True
        out.append(Stopped(error))
        disconnect(s, out, error)
        lifecycle.restate(s, out)
