"""How a recorded frame of the peer takes effect: held back or judged, then applied and reported.

`frames` records a frame and adds its `StoreFrame`. Then, for each frame in order:

    1. `holding` may hold it back; the steps below then wait.
    2. The rulebook judges it. A violation queues a Reject.
    3. The lifecycle applies it, unless it is a violation.
    4. `FrameReceived` reports it. It follows `StoreFrame`, so the application sees durable frames.
    5. Queued Rejects are signed.
"""

from __future__ import annotations

from psymm.errors import LogonRefused
from psymm.messages import ChainFact, CollateralResponse, Heartbeat, Logon, Reject
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
    """A frame of the peer was recorded just now."""
    # Most frames are business of the past, which never waits: for these `hold` is not asked.
    business = entry.frame.sending_time <= now and type(entry.message) is not ChainFact
    if (business and not s.held) or not holding.hold(s, out, entry, now):
        take_effect(s, out, entry, now)


def take_effect(
    s: SessionState, out: Effects, entry: RecordedFrame, now: int, *, waited: bool = False
) -> None:
    """Let a frame of the peer take effect, unless it is a violation.

    Args:
        waited: the frame was held back, so its cover is due at once.
    """
    connection, message = s.connection, entry.message
    if connection is not None and type(message) is not Heartbeat:
        if connection.uncovered_since is None:
            await_cover(s, connection, now - s.params.cover_after_ns if waited else now)
        # The solver must stop signing at 128 uncovered frames (`spec.md` 67): cover them early.
        elif s.lane == TRADER and many_uncovered(s):
            arm(connection, now)
    # Judged before it is applied: a violation changes nothing.
    violation = (judge if type(message) is CollateralResponse else rejects.judge)(s, entry)
    if violation is not None or type(message) in lifecycle.APPLIED:
        read(s, entry, violation)
    # After its own `StoreFrame`: the application sees only durable frames.
    out.append(FrameReceived(entry, violation))
    if type(message) is Reject:
        rejected = s.record.entry(s.lane, message.ref_seq_num)
        out.append(PeerRejected(message, rejected))
        checkpoints.on_rejected(s, out, message, rejected, now)
    # At once, so that no other frame of ours covers the violation first.
    if s.rejects:
        flush_rejects(s, out, now)


def judge(s: SessionState, entry: RecordedFrame) -> Violation | None:
    """The violation in a frame of the peer, or None. Queues a Reject for it.

    The rulebook judges it; `collateral.misstated` adds what only we know about our own notes.
    """
    violation = rejects.judge(s, entry)
    if violation is None and type(entry.message) is CollateralResponse:
        violation = collateral.misstated(s, entry.message)
        if violation is not None:
            rejects.queue_for(s, entry, violation)
    return violation


def read(s: SessionState, entry: RecordedFrame, violation: Violation | None) -> None:
    """Apply a frame of the peer, unless it is a violation.

    A bad first Logon is applied anyway. So we refuse it with its reason, instead of waiting for a
    Logon that never comes.
    """
    if violation is not None:
        if entry.frame.seq != 1 or type(entry.message) is not Logon:
            # Remembered, because `revoked.read_record` may apply the record again.
            s.void.add(entry.frame.seq)
            return
        s.bad_logon = LogonRefused(str(violation), rule=violation.name)
    lifecycle.apply(s, entry)


def release(s: SessionState, out: Effects, now: int) -> None:
    """Let all held frames take effect that no longer have to wait."""
    # In lane order: if the first must wait, all after it must, too.
    while s.held and s.error is None:
        if holding.must_wait(s, s.held[0], now):
            holding.tell(s, out, now)
            return
        take_effect(s, out, s.held.popleft(), now, waited=True)


def release_to(s: SessionState, out: Effects, seq: int, now: int) -> None:
    """Let held frames up to `seq` take effect, because a frame of our own lane covers them."""
    while s.held and s.held[0].frame.seq <= seq:
        take_effect(s, out, s.held.popleft(), now)


def import_own(s: SessionState, out: Effects, entry: RecordedFrame, now: int) -> None:
    """A frame of our lane that this process did not sign was recorded. It binds us."""
    # Our own frame covers these, so they bind us, even if our clock has not reached their dates.
    release_to(s, out, entry.frame.peer_seq, now)
    lifecycle.apply(s, entry)
    s.attention = True  # The frame may carry another key of ours.
    out += (StoreFrame(entry), OwnFrameImported(entry))
    if s.rulebook is not None:
        rejects.queue_all(s, s.rulebook.arrived(entry))


def flush_rejects(s: SessionState, out: Effects, now: int) -> None:
    """Sign the queued Rejects, each as our first frame to cover its violation."""
    while s.rejects and may_sign(s, now) and within_limit(s):
        if s.lifecycle.logons[s.lane] is None:
            return
        reject = s.rejects[0]
        # It covers no more than it rejects: the next frame may be a violation that needs its own
        # Reject as first cover.
        covers = max(reject.ref_seq_num, s.record.heads[s.lane].peer_seq)
        if covers > coverable(s):
            return  # The guilty frame is held back: we cannot cover it yet.
        s.rejects.pop(0)
        sign(s, out, reject, now, covers=covers)
