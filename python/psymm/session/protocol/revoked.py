"""Frames that a revoked key signed: the wallet's next key decides whether they bind (`spec.md` 38).

A revocation voids the frames of a key from a number on, except those that the other lane had
covered before it learned of the revocation.

The peer's frames. Those on the record leave it (`revoke_from`); the journal keeps them as evidence.
Those that still arrive wait in memory (`refuse`). If the wallet's next key builds on them, they
bind after all and are recorded (`endorsed`).

Our frames. A thief may have signed frames of our lane that we never saw. The peer shows them to us
(`show`). They bind us once a signed frame of the peer covers them (`import_covered`).

Durable when: `StoreRevocations` comes before any frame leaves the record. What waits or was shown
belongs to the connection; a new connection fetches it again.
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
"""Most bytes of a revoked key's frames that wait in memory for the next key."""
MOST_SHOWN_BYTES: Final = 1 << 26
"""Most bytes of frames of our own lane that the peer may show on one connection."""

# --- the peer's ----------------------------------------------------------------------------------


def refuse(
    s: SessionState,
    connection: ConnectionState,
    out: Effects,
    frame: Frame,
    error: KeyRevoked,
    now: int,
) -> None:
    """Refuse a frame that does not bind its party. The sender learns why; its number stays free.

    Frames that continue the lane wait in memory. They were probably sent before the revocation was
    known. If the wallet's next key builds on them, they bind after all.
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
    # A new frame with this number replaces the old one and all that built on it.
    del waiting[after:]
    waiting.append(frame)
    out.append(KeyRefused(frame.seq, error))
    send_reject(s, out, now, "frame", str(error))


def endorsed(
    s: SessionState, connection: ConnectionState, out: Effects, frame: Frame, now: int
) -> list[Frame] | None:
    """Whether a frame endorses the revoked frames that wait.

    Returns:
        The waiting frames and this one, to be recorded in order, if this is the UKY of the
            wallet's next key. It names the last frame's digest, and so endorses them all.
        An empty list if this is one more frame of the revoked key: nothing is to be recorded.
        None if it is neither.
    """
    head, waiting = s.record.heads[s.peer].seq, connection.revoked_waiting
    if not waiting or frame.seq - head - 1 > len(waiting):
        return None
    revoked = keys.refuses(s, frame)
    if revoked is not None:
        refuse(s, connection, out, frame, revoked, now)
        return []
    # Each frame must name the digest of the one before it; only then does the UKY endorse all.
    chain = waiting[: frame.seq - head - 1]
    digests = [one.digest(s.record.agreement.domain) for one in chain]
    if [one.previous for one in (*chain[1:], frame)] != digests:
        return None
    # A UKY is signed by the key that it delegates. Any other frame endorses nothing.
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
    """Learn the session keys that each wallet revoked.

    Frames that the peer's revoked key signed and we have not covered leave the record.

    Args:
        ours: fromSeq by address, of every key that our wallet revoked.
        theirs: the same for the peer's wallet.
    """
    # Floor 1: our frames are void from fromSeq on, until the peer shows which it had covered.
    new = keys.learn(s.keys, s.lane, ours, 1)
    floor = s.record.heads[s.lane].peer_seq + 1
    if keys.learn(s.keys, s.peer, theirs, floor) or new:
        # Stored before frames leave: after a crash between, they must not count as valid again.
        out.append(StoreRevocations(tuple(s.keys.revoked.values())))
        void = keys.void_from(s, s.peer)
        if void is not None and s.error is None:
            revoke_from(s, out, void, now)
        out.append(KeyDue())


def revoke_from(s: SessionState, out: Effects, seq: int, now: int) -> None:
    """Remove the peer's frames from `seq` on, as if they had never arrived."""
    gone = tuple(
        entry for entry in s.record if entry.frame.lane == s.peer and entry.frame.seq >= seq
    )
    s.attention = True
    error = KeyRevoked(lane=s.peer, seq=seq, frames=len(gone))
    # Rebuild all that is derived from frames, as after a restart.
    before, s.lifecycle = s.lifecycle, LifecycleState()
    s.record = s.record.without(s.peer, seq)
    s.rejects = [one for one in s.rejects if one.ref_seq_num < seq]
    s.held = type(s.held)(one for one in s.held if one.frame.seq < seq)
    s.void = {one for one in s.void if one < seq}
    again = s.rulebook is not None and not s.rulebook.drop(s.peer, seq)
    # If the rulebook could not undo the effects, it starts again: all frames left arrive anew.
    if again:
        # `read_record` decides anew which frames are held back.
        s.held.clear()
    read_record(s, out, arrive=again, now=now)
    # The frames alone do not say what has expired or was voided by the chain.
    lifecycle.keep_expired(s.lifecycle, before)
    if s.connection is not None:
        s.connection.peer_openings = None
        s.connection.gap.due = None
        s.connection.uncovered_since = None
        if is_uncovered(s):
            await_cover(s, s.connection, now)
    out += (RevokeFrames(gone), FramesRevoked(gone, error))
    # The peer still counts on these frames, so a new connection must agree on heads again.
    disconnect(s, out, error)


def read_record(s: SessionState, out: Effects, *, arrive: bool, now: int) -> None:
    """Apply every frame of the record to the lifecycle, in order.

    Args:
        arrive: the rulebook has seen none of the frames, so each arrives there, too.
    """
    # Frames before the checkpoint that a session must still know. The rulebook has its account.
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
        # `hold` was not asked here: the frame was held back before, and stays so.
        if theirs and s.held and entry.frame.seq >= s.held[0].frame.seq:
            continue
        if theirs and arrive and (entry.bad_payload or isinstance(entry.message, lifecycle.READ)):
            # Judged as on arrival: a violation has no effect after a restart, either.
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
    # Frames beyond the limit are dropped; we ask for them again.
    connection.own_shown_bytes += len(frame.raw)
    if connection.own_shown_bytes <= MOST_SHOWN_BYTES:
        connection.own_shown[frame.seq] = frame


def import_covered(
    s: SessionState, connection: ConnectionState, out: Effects, frame: Frame, now: int
) -> bool:
    """Import the frames of our compromised key that the peer's signed frame covers.

    They bind us (`spec.md` 38). We cannot see here whether the peer covered them before it learned
    of the revocation; a court judges that by the notice of its cover. Returns False if the frame
    does not cover what we were shown, or if no key of ours is compromised.
    """
    record, shown = s.record, connection.own_shown
    head, last = record.heads[s.lane].seq, shown.get(frame.peer_seq)
    if (
        not keys.compromised(s)
        or last is None
        # The cover names a digest: the frames shown must be the very ones that it covers.
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
    # True also after a stop: the caller checks `s.error`.
    return True
