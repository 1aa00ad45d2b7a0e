"""Frames that a revoked key signed: the wallet's next key decides whether they bind.

The peer's wait in memory for the key that builds on them. Those of our own lane that a thief may
have signed are kept as the peer shows them, and bind us once its signed frame covers them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from psymm._core import Frame, FrameError, TranscriptError
from psymm.errors import Forked, KeyRevoked
from psymm.messages import Reject
from psymm.session.protocol import holding, keys, lifecycle, rejects, ruling
from psymm.session.protocol.effects import (
    Effects,
    FramesRevoked,
    KeyDue,
    KeyRefused,
    RevokeFrames,
    StoreRevocations,
)
from psymm.session.protocol.signing import (
    await_cover,
    disconnect,
    is_uncovered,
    report_malformed,
    send_reject,
    stop,
)
from psymm.session.protocol.state import ConnectionState, LifecycleState, SessionState
from psymm.transcript.delegation import DelegationRefused

MOST_WAITING_BYTES: Final = 1 << 20
"""What of a revoked key's frames waits in memory for the key that builds on them."""
MOST_SHOWN_BYTES: Final = 1 << 26
"""What the peer may show on one connection of frames of our own lane that we lack; we ask again."""

# --- the peer's ----------------------------------------------------------------------------------


def refuse(
    s: SessionState,
    connection: ConnectionState,
    out: Effects,
    frame: Frame,
    error: KeyRevoked,
    now: int,
) -> None:
    """A frame that does not bind its party: named to the sender, and its number stays free.

    Those that could come next wait in memory: if the wallet's next key builds on them, they bind
    after all; they were on their way when the revocation came.
    """
    after = frame.seq - s.record.heads[s.peer].seq - 1
    waiting = connection.revoked_waiting
    size = sum(len(one.raw) for one in waiting[:after])
    if (
        not 0 <= after <= len(waiting)
        or size + len(frame.raw) > MOST_WAITING_BYTES
        or keys.signer(s.record, frame) is None
    ):
        report_malformed(s, out, now, "frame", str(error))
        return
    del waiting[after:]
    waiting.append(frame)
    out.append(KeyRefused(frame.seq, error))
    send_reject(s, out, now, "frame", str(error))


def endorsed(
    s: SessionState, connection: ConnectionState, out: Effects, frame: Frame, now: int
) -> list[Frame] | None:
    """A frame right after those that wait: one more of them (then nothing is to be taken), or the
    UKY of the wallet's next key, which names the last one's digest and so endorses them all. They
    are returned, to be taken before it. None where it is neither."""
    head, waiting = s.record.heads[s.peer].seq, connection.revoked_waiting
    if not waiting or frame.seq - head - 1 > len(waiting):
        return None
    revoked = keys.refuses(s, frame)
    if revoked is not None:
        refuse(s, connection, out, frame, revoked, now)
        return []
    # The new key's frame names the digest of the last that waits, and so of them all.
    chain = waiting[: frame.seq - head - 1]
    digests = [one.digest(s.record.agreement.domain) for one in chain]
    if [one.previous for one in (*chain[1:], frame)] != digests:
        return None
    if keys.signer(s.record, frame) != keys.delegated_key(s.record, frame):
        return None
    connection.revoked_waiting = []
    return [*chain, frame]


def on_learned(
    s: SessionState,
    out: Effects,
    ours: Mapping[str, int],
    theirs: Mapping[str, int],
    now: int,
) -> None:
    """Know the session keys that each wallet revoked, all of them, fromSeq by address.

    What the peer's revoked key signed and we have not covered leaves the record.
    """
    new = keys.learn(s.keys, s.lane, ours, 1)
    floor = s.record.heads[s.lane].peer_seq + 1
    if keys.learn(s.keys, s.peer, theirs, floor) or new:
        # Stored before frames go: a restart must not take them for valid again.
        out.append(StoreRevocations(tuple(s.keys.revoked.values())))
        void = keys.void_from(s, s.peer)
        if void is not None and s.error is None:
            revoke_from(s, out, void, now)
        out.append(KeyDue())


def revoke_from(s: SessionState, out: Effects, seq: int, now: int) -> None:
    """Take the peer's frames from `seq` on off the record, as if they had never come."""
    gone = tuple(
        entry for entry in s.record if entry.frame.lane == s.peer and entry.frame.seq >= seq
    )
    s.attention = True
    error = KeyRevoked(lane=s.peer, seq=seq, frames=len(gone))
    # Derived anew from what is left, as after a restart.
    before, s.lifecycle = s.lifecycle, LifecycleState()
    s.record = s.record.without(s.peer, seq)
    s.rejects = [one for one in s.rejects if one.ref_seq_num < seq]
    s.held = type(s.held)(one for one in s.held if one.frame.seq < seq)
    s.void = {one for one in s.void if one < seq}
    again = s.rulebook is not None and not s.rulebook.drop(s.peer, seq)
    # The rulebook could not take back what has had its effect, so it begins again, and all that is
    # left arrives once more.
    if again:
        s.held.clear()
    read_record(s, out, arrive=again, now=now)
    lifecycle.keep_expired(s.lifecycle, before)
    if s.connection is not None:
        s.connection.peer_openings = None
        s.connection.gap.due = None
        s.connection.uncovered_since = None
        if is_uncovered(s):
            await_cover(s, s.connection, now)
    out += (RevokeFrames(gone), FramesRevoked(gone, error))
    # The peer counts on what is gone: heads must agree anew.
    disconnect(s, out, error)


def read_record(s: SessionState, out: Effects, *, arrive: bool, now: int) -> None:
    """Apply every frame of the record. arrive: the rulebook has seen none of them yet."""
    retained = s.record.before
    rejected = {
        entry.message.ref_seq_num
        for entry in retained
        if entry.frame.lane == s.lane and isinstance(entry.message, Reject)
    }
    for entry in retained:
        if entry.frame.lane == s.lane or entry.frame.seq not in rejected:
            lifecycle.apply(s, entry)
    for entry in s.record:
        theirs = entry.frame.lane == s.peer
        if theirs and arrive and holding.hold(s, out, entry, now):
            continue
        if theirs and s.held and entry.frame.seq >= s.held[0].frame.seq:
            continue
        if theirs and arrive and (entry.bad_payload or isinstance(entry.message, lifecycle.READ)):
            # As when it came: a violation has no effect after a restart either.
            ruling.read(s, entry, ruling.judge(s, entry))
            continue
        if not theirs or entry.frame.seq not in s.void:
            lifecycle.apply(s, entry)
        if arrive and s.rulebook is not None:
            rejects.queue_all(s, s.rulebook.arrived(entry))
    rejects.drop_signed(s)


# --- ours ----------------------------------------------------------------------------------------


def show(connection: ConnectionState, frame: Frame) -> None:
    """The peer shows a frame of our lane that we lack, while our key in force is revoked."""
    connection.own_shown_bytes += len(frame.raw)
    if connection.own_shown_bytes <= MOST_SHOWN_BYTES:
        connection.own_shown[frame.seq] = frame


def import_covered(
    s: SessionState, connection: ConnectionState, out: Effects, frame: Frame, now: int
) -> bool:
    """Take into our lane what our compromised key signed and the peer's signed frame covers. False
    where it does not cover what we were shown, or no key of ours is compromised."""
    record, shown = s.record, connection.own_shown
    head, last = record.heads[s.lane].seq, shown.get(frame.peer_seq)
    if (
        not keys.compromised(s)
        or last is None
        or last.digest(record.agreement.domain) != frame.peer_digest
        or any(seq not in shown for seq in range(head + 1, frame.peer_seq))
    ):
        return False
    for seq in range(head + 1, frame.peer_seq + 1):
        try:
            entry = record.append(shown.pop(seq))
        except (TranscriptError, FrameError, DelegationRefused) as bad:
            stop(s, out, Forked(f"the peer covers what does not follow: {bad}", seq=seq))
            return True
        ruling.import_own(s, out, entry, now)
    return True
