"""A frame of the peer on its way from the record into effect: held back, judged, applied, told.

The order for each frame: on the record (`StoreFrame`), then, unless it is held back, judged by the
rulebook, applied to the lifecycle unless it is a violation, told (`FrameReceived`), and at last the
Rejects that are queued are signed.
"""

from __future__ import annotations

from psymm.errors import LogonRefused
from psymm.messages import CollateralResponse, Heartbeat, Logon, Reject
from psymm.rulebook import Violation
from psymm.session.protocol import checkpoints, collateral, holding, lifecycle, rejects
from psymm.session.protocol.effects import (
    Effects,
    FrameReceived,
    OwnFrameImported,
    PeerRejected,
    StoreFrame,
)
from psymm.session.protocol.signing import (
    await_cover,
    coverable,
    many_uncovered,
    may_sign,
    sign,
    within_limit,
)
from psymm.session.protocol.state import SessionState, arm
from psymm.transcript.agreement import TRADER
from psymm.transcript.record import RecordedFrame


def on_recorded(s: SessionState, out: Effects, entry: RecordedFrame, now: int) -> None:
    """A frame of the peer is on the record."""
    if not holding.hold(s, out, entry, now):
        take_effect(s, out, entry, now)


def take_effect(
    s: SessionState, out: Effects, entry: RecordedFrame, now: int, *, waited: bool = False
) -> None:
    """A frame of the peer takes effect, as far as it is in order. waited: it was held back, so its
    cover is due at once."""
    connection, message = s.connection, entry.message
    if connection is not None and type(message) is not Heartbeat:
        if connection.uncovered_since is None:
            await_cover(s, connection, now - s.params.cover_after_ns if waited else now)
        elif s.lane == TRADER and many_uncovered(s):
            arm(connection, now)
    # Judged before it is applied: a violation changes nothing.
    violation = judge(s, entry)
    read(s, entry, violation)
    # Told after its own `StoreFrame`, so the application hears only what is durable.
    out.append(FrameReceived(entry, violation))
    if type(message) is Reject:
        rejected = s.record.entry(s.lane, message.ref_seq_num)
        out.append(PeerRejected(message, rejected))
        checkpoints.on_rejected(s, out, message, rejected, now)
    # At once, so that no other frame of ours is the first to cover the violation.
    if s.rejects:
        flush_rejects(s, out, now)


def judge(s: SessionState, entry: RecordedFrame) -> Violation | None:
    """The violation that a frame of the peer is, by the rulebook or by what we know of our own
    notes; a Reject is queued for it."""
    violation = rejects.judge(s, entry)
    if violation is None and type(entry.message) is CollateralResponse:
        violation = collateral.misstated(s, entry.message)
        if violation is not None:
            rejects.queue_for(s, entry, violation)
    return violation


def read(s: SessionState, entry: RecordedFrame, violation: Violation | None) -> None:
    """Apply a frame of the peer, unless it is a violation. Its first Logon is applied all the same,
    so that it is refused as what it is and not waited for."""
    if violation is not None:
        if entry.frame.seq != 1 or type(entry.message) is not Logon:
            # Remembered, since a restart, or a frame that is revoked, applies the record again.
            s.void.add(entry.frame.seq)
            return
        s.bad_logon = LogonRefused(str(violation), rule=violation.name)
    lifecycle.apply(s, entry)


def release(s: SessionState, out: Effects, now: int) -> None:
    """Have all frames take effect that need not wait any more."""
    while s.held and s.error is None:
        if holding.must_wait(s, s.held[0], now):
            holding.tell(s, out, now)
            return
        take_effect(s, out, s.held.popleft(), now, waited=True)


def release_to(s: SessionState, out: Effects, seq: int, now: int) -> None:
    """Have all frames take effect up to one that our own lane turns out to cover."""
    while s.held and s.held[0].frame.seq <= seq:
        take_effect(s, out, s.held.popleft(), now)


def import_own(s: SessionState, out: Effects, entry: RecordedFrame, now: int) -> None:
    """A frame of our lane that this process did not sign is on the record: it binds us."""
    # Our own frame covers these, so they bind, even where our clock is behind their dates.
    release_to(s, out, entry.frame.peer_seq, now)
    lifecycle.apply(s, entry)
    out += (StoreFrame(entry), OwnFrameImported(entry))
    if s.rulebook is not None:
        rejects.queue_all(s, s.rulebook.arrived(entry))


def flush_rejects(s: SessionState, out: Effects, now: int) -> None:
    """Sign the Rejects that are queued, each the first frame of ours to cover its violation."""
    while s.rejects and may_sign(s, now) and within_limit(s):
        if s.lifecycle.logons[s.lane] is None:
            return
        reject = s.rejects[0]
        # Covers no more than it rejects: what comes after may be a violation with a Reject of its
        # own.
        covers = max(reject.ref_seq_num, s.record.heads[s.lane].peer_seq)
        if covers > coverable(s):
            return
        s.rejects.pop(0)
        sign(s, out, reject, now, covers=covers)
