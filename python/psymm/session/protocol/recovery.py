"""Recovery: fetch from the peer the frames of both lanes that our journal has lost.

Every frame is verified like any other. It is recorded only after the frames that it covers; one
that arrives earlier waits in `RecoveryState.spare`.

The journal's health (`Health`) says what we may do:

    recovering  the journal lost frames, but knows the heads that were its newest. Nothing is signed
                until both lanes reach them.
    complete    the heads are reached. We sign again.
    read-only   the peer holds frames of ours beyond those heads, so the journal is no better than a
                backup. We never sign again in this custody: we might sign a number twice.

`StoreHealth` makes each change durable before `HealthChanged` reports it. Fetched frames are stored
as `ImportFrame`.
"""

from __future__ import annotations

from typing import Final

from psymm._core import Frame, FrameError, TranscriptError
from psymm.errors import Forked, JournalBehind, PeerSilent
from psymm.messages import LaneCode, ResendRequest
from psymm.session.protocol import keys, lifecycle
from psymm.session.protocol.budget import MOST_RESENT, SECOND
from psymm.session.protocol.effects import (
    Effects,
    HealthChanged,
    ImportFrame,
    StoreEvidence,
    StoreHealth,
)
from psymm.session.protocol.gaps import RESEND_TRIES
from psymm.session.protocol.heads import head_of
from psymm.session.protocol.ruling import on_recorded, release_to
from psymm.session.protocol.signing import disconnect, report_malformed, send_text, stop
from psymm.session.protocol.state import ConnectionState, SessionState, arm
from psymm.transcript.agreement import SOLVER, TRADER
from psymm.transcript.delegation import DelegationRefused
from psymm.transcript.heads import Health
from psymm.transcript.record import RecordedFrame

MOST_SPARE_BYTES: Final = 64 * 1024 * 1024
"""Most bytes of fetched frames that wait for earlier ones."""


def fall_behind(s: SessionState, out: Effects, error: JournalBehind) -> None:
    """Our journal is behind what we signed: stop. A recovering journal becomes read-only."""
    # Frames of ours that we have not seen may bind us. Signing on would contradict them.
    if s.recovery.health == "recovering":
        _set_health(s, out, "read-only")
    stop(s, out, error)


def keep(s: SessionState, frame: Frame) -> None:
    """Keep a frame that may have to wait for earlier ones.

    A frame beyond the limits is dropped; `ask` requests it again.
    """
    recovery, key = s.recovery, (frame.lane, frame.seq)
    # Without this bound a peer could fill memory with frames of numbers that we never reach.
    near = frame.seq <= s.record.heads[frame.lane].seq + MOST_RESENT
    # Nothing is verified yet, so the newest copy counts: noise must not keep the real frame out.
    if key in recovery.spare:
        recovery.spare_bytes -= len(recovery.spare.pop(key).raw)
    if near and recovery.spare_bytes + len(frame.raw) <= MOST_SPARE_BYTES:
        recovery.spare[key] = frame
        recovery.spare_bytes += len(frame.raw)


def merge(s: SessionState, out: Effects, now: int) -> None:
    """Record all fetched frames that now follow, each after the frames that it covers."""
    # Either lane may wait for the other, so alternate until neither moves.
    moved = True
    while moved and s.error is None:
        by_trader = _take_next(s, out, TRADER, now)
        moved = _take_next(s, out, SOLVER, now) or by_trader
    _conclude(s, out)


def ask(s: SessionState, connection: ConnectionState, out: Effects, now: int) -> None:
    """Ask the peer for the frames of both lanes that its heads show and we lack.

    Repeats with growing delays, then disconnects.
    """
    theirs = connection.peer_heads
    if theirs is None:
        return
    lacking = [
        lane for lane in (TRADER, SOLVER) if head_of(theirs, lane)[0] > s.record.heads[lane].seq
    ]
    tries = 0 if connection.recovery_due is None else connection.recovery_tries
    if not lacking:
        connection.recovery_due = None
        return
    if tries >= RESEND_TRIES:
        connection.recovery_due = None
        disconnect(s, out, PeerSilent("the peer does not resend what we lack"))
        return
    connection.recovery_due, connection.recovery_tries = now + (2 << tries) * SECOND, tries + 1
    arm(connection, connection.recovery_due)
    for lane in lacking:
        begin = s.record.heads[lane].seq + 1
        asked = ResendRequest(begin_seq_no=begin, end_seq_no=0, lane=LaneCode(str(lane)))
        send_text(s, out, asked, now)


def _take_next(s: SessionState, out: Effects, lane: int, now: int) -> bool:
    """Record a lane's next frame, if it is here and the frames that it covers are recorded."""
    frame = s.recovery.spare.get((lane, s.record.heads[lane].seq + 1))
    if frame is None or s.error is not None:
        return False
    try:
        entry = s.record.append(frame)
    except (TranscriptError, FrameError, DelegationRefused) as bad:
        # "ahead": it covers frames of the other lane that are still missing. It keeps waiting.
        if not isinstance(bad, TranscriptError) or bad.code != "ahead":
            _drop(s, frame)
            _refuse(s, out, frame, bad, now)
        return False
    _drop(s, frame)
    _take(s, out, entry, now)
    return True


def _drop(s: SessionState, frame: Frame) -> None:
    s.recovery.spare_bytes -= len(s.recovery.spare.pop((frame.lane, frame.seq)).raw)


def _take(s: SessionState, out: Effects, entry: RecordedFrame, now: int) -> None:
    """A fetched frame was recorded: store it, check it against the known heads, apply it."""
    lane, seq = entry.frame.lane, entry.frame.seq
    if s.connection is not None:
        s.connection.frames_fetched += 1
        s.connection.progress = now
        if s.connection.recovery_due is not None:
            # The resend makes progress, so give it time, and count the tries anew.
            s.connection.recovery_due, s.connection.recovery_tries = now + 2 * SECOND, 0
            arm(s.connection, s.connection.recovery_due)
    out.append(ImportFrame(entry))
    if s.recovery.newest is not None:
        newest, digest = s.recovery.newest.of(lane)
        if lane == s.lane and seq > newest:
            # We signed beyond the heads that the journal called its newest. There may be more such
            # frames that nobody shows us, and nothing can repair that.
            _set_health(s, out, "read-only")
        # The journal kept the digest of its newest frame. A different frame with its number is a
        # fork.
        if seq == newest and digest != entry.digest:
            stop(s, out, Forked(custody=entry.frame.custody, lane=lane, seq=seq, ours=digest))
            return
    if lane != s.lane:
        on_recorded(s, out, entry, now)
        return
    # Our own frame covers these, so they bind us and wait no longer.
    release_to(s, out, entry.frame.peer_seq, now)
    lifecycle.apply(s, entry)
    if s.rulebook is not None:
        s.rulebook.arrived(entry)


def _refuse(s: SessionState, out: Effects, frame: Frame, bad: Exception, now: int) -> None:
    """Refuse a frame: noise if unsigned; if a delegated key signed it, the session stops."""
    code = getattr(bad, "code", "refused")
    if keys.signer(s.record, frame) is None:
        why = f"{code} in frame {frame.lane}/{frame.seq}: {bad}"
        report_malformed(s, out, now, "frame", why)
    else:
        contradict(s, out, frame, f"a signed frame contradicts the record: {code}")


def contradict(s: SessionState, out: Effects, frame: Frame, why: str) -> None:
    """A signed frame cannot follow its lane: stop, and keep it as evidence.

    The evidence includes the frame before it, if we still hold that.
    """
    held = s.record.entry(frame.lane, frame.seq - 1)
    if held is not None:
        out.append(StoreEvidence(held.frame, frame))
    stop(s, out, Forked(why, custody=frame.custody, lane=frame.lane, seq=frame.seq))


def _conclude(s: SessionState, out: Effects) -> None:
    """Set the journal to complete, once both lanes reach the heads that were its newest."""
    newest = s.recovery.newest
    if s.recovery.health != "recovering" or newest is None or s.error is not None:
        return
    if all(s.record.heads[lane].seq >= newest.of(lane)[0] for lane in (TRADER, SOLVER)):
        # Only the whole record says which of our keys is in force.
        keys.choose(s)
        _set_health(s, out, "complete")


def _set_health(s: SessionState, out: Effects, health: Health) -> None:
    s.recovery.health, s.attention = health, True
    out += (StoreHealth(health), HealthChanged(health))
