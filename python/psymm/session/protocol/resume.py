"""Resuming: on each connection both sides prove who they are and agree on the heads of both lanes.

Each side resends the frames that the other lacks. Nobody signs a frame until the heads agree.

One connection, in order (`spec.md` 69):

    1. Each side sends a challenge, 32 random bytes for this connection (URS with Challenge).
    2. The trader, which dialled, signs its heads over the solver's challenge (URS).
    3. The solver verifies that, and only then signs its own heads over the trader's challenge.
    4. `PROVEN`: the peer's heads are verified. Only now do we accept, resend or request frames,
       and only now do heads mean anything. Everything else before this is noise.
    5. `SYNCED`: the heads agree. Only now do we sign frames.

A resume takes two round trips. The solver reveals nothing about a custody to a peer that has proved
nothing. A connection on which the custody was just agreed starts at 5: neither side has a history.
The trader also starts at 5 if it holds no solver frame and the solver says, unsigned, that it holds
nothing: there is nothing to keep private.

A key proves its party while three things hold. The wallet's delegation has not expired. No
revocation of the key is known. No later key of the same lane is on the record: a key stolen after
it was replaced proves nothing.

Proven heads may still be false. If no two honest journals could have both sides' heads, the
connection is `DISPUTED`: each side shows the frames themselves, and a signed frame stops the side
that it proves wrong.

Nothing here is stored. A new connection compares heads again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from psymm.errors import BehindUnproved, ForkUnproved, KeyRevoked, PeerBehind, ResumeRefused
from psymm.messages import JournalStatus, Resume
from psymm.session.protocol import final_ack, gaps, keys, recovery
from psymm.session.protocol.budget import SECOND
from psymm.session.protocol.effects import Effects, HeadsDiffer, PeerRestored, Resumed
from psymm.session.protocol.heads import announce_heads, head_of, our_heads, same_heads
from psymm.session.protocol.signing import disconnect, report_malformed, send_reject, send_text
from psymm.session.protocol.state import AGAIN_NS, ConnectionState, HeadSync, SessionState, arm
from psymm.transcript.agreement import SOLVER, TRADER
from psymm.transcript.resumption import challenge_for, check_resume, nothing_yet

DISPUTE_NS: Final = 5 * SECOND
"""How long a disputed connection stays open for the frames that prove which side is wrong."""


def ask(s: SessionState, connection: ConnectionState, out: Effects, now: int) -> None:
    """Send our challenge."""
    send_text(s, out, challenge_for(s.record.agreement.custody, connection.challenge), now)


def check_proof(s: SessionState, theirs: Resume, challenge: bytes, now: int) -> None:
    """Check that a valid key of the peer signed these heads over `challenge`.

    Changes nothing. Raises ResumeRefused.
    """
    # The key's expiry is judged in the peer's favour: its clock may be behind ours by the skew.
    key = check_resume(s.record.agreement, s.peer, challenge, theirs, now - s.params.skew_ns)
    revoked = keys.revocation(s.keys, s.peer, key)
    if revoked is not None:
        raise ResumeRefused("the session key was revoked", key=revoked.key)
    # A wallet may delegate a key a second time, so compare with the key in force now.
    known = [one.public_key for one in s.record.delegations(s.peer)]
    if key in known and key != known[-1]:
        raise ResumeRefused("another session key has followed the one that signed this")


def on_resume(
    s: SessionState, connection: ConnectionState, out: Effects, theirs: Resume, now: int
) -> None:
    """The peer sends its challenge, or shows its heads."""
    if theirs.custody != s.record.agreement.custody:
        report_malformed(s, out, now, "URS", "wrong-custody: this connection serves another")
        return
    if theirs.challenge is not None:
        _on_challenge(s, connection, out, theirs.challenge, now)
        return
    # Unsigned, and still safe: we hold nothing of the solver's that a liar could make us lose.
    if s.error is None and _begins_anew(s, connection, theirs):
        connection.sync = HeadSync.SYNCED
        connection.frames_repeated += gaps.resend(s, out, 1, 0, s.lane)
        out.append(Resumed(connection.frames_repeated, 0))
        return
    try:
        check_proof(s, theirs, connection.challenge, now)
    except ResumeRefused as refused:
        report_malformed(s, out, now, "URS", str(refused))
        return
    if connection.sync is HeadSync.UNPROVEN:
        connection.sync = HeadSync.PROVEN
    # Only a proven peer learns why the session stopped.
    if s.error is not None:
        send_reject(s, out, now, "URS", str(s.error))
        disconnect(s, out, s.error)
        return
    # Before the comparison, which may disconnect: the peer needs our heads to judge for itself.
    if connection.shown_heads is None and connection.sync is HeadSync.PROVEN:
        announce_heads(s, out, now)
    _compare(s, connection, out, theirs, now)
    final_ack.on_heads(s, theirs)


def _on_challenge(
    s: SessionState, connection: ConnectionState, out: Effects, challenge: bytes, now: int
) -> None:
    """The first challenge is the connection's; ignore any later one.

    A second challenge belongs to another connection, and we sign nothing over it.
    """
    if connection.peer_challenge is None:
        s.rate.pardon()  # Every connection begins with one, so it costs the peer nothing.
        connection.peer_challenge = challenge
        if connection.shown_heads is None and not connection.synced:
            announce_heads(s, out, now)


def _begins_anew(s: SessionState, connection: ConnectionState, theirs: Resume) -> bool:
    """Whether the solver says that it holds nothing of the custody, and we hold no frame of it."""
    return (
        s.lane == TRADER
        and connection.sync is HeadSync.UNPROVEN
        and s.record.heads[SOLVER].seq == 0
        and theirs == nothing_yet(s.record.agreement.custody)
    )


# --- heads that the peer proved ------------------------------------------------------------------


def _compare(
    s: SessionState, connection: ConnectionState, out: Effects, theirs: Resume, now: int
) -> None:
    """Compare the heads that the peer signed with ours, and act on the difference."""
    if _is_before_checkpoint(s, out, theirs) or connection.sync is HeadSync.DISPUTED:
        return
    differing = [
        (lane, seq)
        for lane, (seq, digest) in enumerate(_both(theirs))
        if seq <= s.record.heads[lane].seq and s.record.digest(lane, seq) != digest
    ]
    # Both sides hold this number with different digests: a side signed twice, or lies.
    if differing:
        lane, seq = differing[0]
        fork = ForkUnproved(
            custody=theirs.custody,
            lane=lane,
            seq=seq,
            ours=s.record.digest(lane, seq),
            theirs=head_of(theirs, lane)[1],
        )
        open_dispute(s, connection, out, fork, differing, now)
        return
    restored = theirs.journal_status is JournalStatus.RESTORED
    if restored and not s.peer_restored:
        out.append(PeerRestored())
    s.peer_restored = restored
    covered, head = head_of(theirs, s.lane)[0], s.record.heads[s.lane].seq
    if s.recovery.health != "complete":
        connection.peer_heads = theirs
        _bring_ours(s, connection, out, covered, now)
        recovery.merge(s, out, now)
        if connection.recovery_due is None:
            recovery.ask(s, connection, out, now)
    elif covered > head and keys.compromised(s):
        # A thief signed frames of our lane. The peer shows us those it covered, and we import
        # them; it drops the others once it learns of the revocation. Until then we sign nothing.
        # A synced connection fetches nothing, so we start a new one, which compares heads first.
        if connection.synced:
            unknown = KeyRevoked("frames of ours that we did not sign", theirs=covered)
            disconnect(s, out, unknown)
    elif covered > head:
        behind = BehindUnproved(custody=theirs.custody, theirs=covered, ours=head)
        open_dispute(s, connection, out, behind, [(s.lane, head)], now)
    elif connection.synced:
        _show_again(s, connection, out, theirs)
    else:
        _approach(s, connection, out, theirs, now)


def _is_before_checkpoint(s: SessionState, out: Effects, theirs: Resume) -> bool:
    # Both sides signed the checkpoint, so a peer behind it has lost frames that it once held.
    for lane, (seq, _) in enumerate(_both(theirs)):
        held = s.record.heads[lane].seq
        if seq <= held and not s.record.knows(lane, seq):
            why = "the peer's heads lie before a checkpoint that it signed"
            disconnect(s, out, PeerBehind(why, theirs=seq, shown=held))
            return True
    return False


def _show_again(s: SessionState, connection: ConnectionState, out: Effects, theirs: Resume) -> None:
    """Heads on a connection that is already synced: ask for what we lack, resend what it lacks.

    The peer shows them after it cut an answer short (`gaps.resend`), or because it lost frames.
    """
    announced, held = head_of(theirs, s.peer)[0], s.record.heads[s.peer].seq
    if announced > held:
        connection.gap.until = max(connection.gap.until, announced)
        gaps.ask(s, connection, out, held + 1)
    # What it lacks of ours may only be on its way. A second copy does no harm.
    gaps.resend_at_most(s, out, head_of(theirs, s.lane)[0] + 1, 0, s.lane)


def _approach(
    s: SessionState, connection: ConnectionState, out: Effects, theirs: Resume, now: int
) -> None:
    """Send what the peer lacks by its heads, which contradict nothing."""
    announced, held = head_of(theirs, s.peer)[0], s.record.heads[s.peer].seq
    if announced < held:
        # The peer lacks frames of its own lane: its journal is a backup.
        _bring(s, connection, out, s.peer, announced + 1, now)
    before = connection.peer_heads
    if before is None or head_of(theirs, s.lane) != head_of(before, s.lane):
        _bring_ours(s, connection, out, head_of(theirs, s.lane)[0], now)
    elif same_heads(theirs, before) and connection.shown_heads != our_heads(s):
        # The peer repeats itself, so its resend has ended. Our newer heads ask for the rest.
        announce_heads(s, out, now)
    connection.peer_heads = theirs
    if announced < held:
        # Its journal is older than what it signed. It sees that in our heads, and may ask for the
        # lost frames while we wait for it to resume.
        connection.peer_behind = PeerBehind(theirs=announced, shown=held)


def try_sync(s: SessionState, connection: ConnectionState, out: Effects, now: int) -> None:
    """Mark the connection as synced, if the heads agree."""
    if connection.sync in (HeadSync.SYNCED, HeadSync.DISPUTED):
        return
    # The peer compares with the heads that we show, so show them before we agree.
    if connection.shown_heads is None:
        announce_heads(s, out, now)
    theirs = connection.peer_heads
    if theirs is None or s.record.heads[s.peer].seq < head_of(theirs, s.peer)[0]:
        return
    is_complete = s.recovery.health == "complete"
    if not is_complete and s.record.heads[s.lane].seq < head_of(theirs, s.lane)[0]:
        return
    ours = our_heads(s)
    # Frames arrived since we last showed ours. The peer must see the newest to agree with them.
    if connection.shown_heads != ours:
        announce_heads(s, out, now)
    if same_heads(theirs, ours):
        connection.sync = HeadSync.SYNCED
        connection.peer_behind = None
        connection.recovery_due = None
        out.append(Resumed(connection.frames_repeated, connection.frames_fetched))


def lacks_only_void(s: SessionState, connection: ConnectionState) -> bool:
    """Whether the peer lacks only frames that our revoked key signed.

    It will take them once our next key builds on them, so we may sign that key's UKY before heads
    agree. Our record is the longer one, so the next number is free.
    """
    theirs = connection.peer_heads
    if theirs is None or connection.sync is HeadSync.DISPUTED or not keys.compromised(s):
        return False
    others = head_of(theirs, s.peer) == head_of(our_heads(s), s.peer)
    return others and head_of(theirs, s.lane)[0] < s.record.heads[s.lane].seq


def open_dispute(
    s: SessionState,
    connection: ConnectionState,
    out: Effects,
    error: ForkUnproved | BehindUnproved,
    places: Iterable[tuple[int, int]],
    now: int,
) -> None:
    """The peer shows heads that no two honest journals could have.

    A text is no proof, so it does not stop the session. We sign nothing more on this connection,
    and show our frames at the differing places. We disconnect after `DISPUTE_NS`, so the peer has
    time to show its own. Frames are signed: they stop the side that they prove wrong.

    Args:
        error: what the heads would prove if frames confirm them.
        places: (lane, seq) of the frames to show.
    """
    connection.sync, s.attention = HeadSync.DISPUTED, True
    connection.dispute, connection.dispute_until = error, now + DISPUTE_NS
    arm(connection, connection.dispute_until)
    out.append(HeadsDiffer(error))
    for lane, seq in places:
        if seq:
            gaps.resend(s, out, seq, seq, lane)


def _bring_ours(
    s: SessionState, connection: ConnectionState, out: Effects, covered: int, now: int
) -> None:
    connection.frames_repeated += _bring(s, connection, out, s.lane, covered + 1, now)


def _bring(
    s: SessionState, connection: ConnectionState, out: Effects, lane: int, begin: int, now: int
) -> int:
    """Send what the peer lacks of a lane, from `begin` on. Returns how many frames.

    Frames sent on this connection are sent again at most once a second, for any heads it shows.
    Otherwise a few small texts would cost us megabytes.
    """
    recent = now - connection.sent_again_at[lane] < AGAIN_NS
    if begin <= connection.sent_again_to[lane] and recent:
        return 0
    count = gaps.resend(s, out, begin, 0, lane)
    if count:
        last = begin + count - 1
        connection.sent_again_at[lane] = now
        connection.sent_again_to[lane] = max(connection.sent_again_to[lane], last)
    return count


def _both(heads: Resume) -> list[tuple[int, bytes]]:
    return [head_of(heads, TRADER), head_of(heads, SOLVER)]
