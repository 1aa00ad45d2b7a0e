"""Resuming: on each connection both sides prove who they are, show the heads of both lanes, bring
each other what is lacking, and sign nothing until the heads agree.

One connection, in order (`spec.md` 69):

    1. Each side tells its challenge, 32 random bytes of this connection (URS with Challenge).
    2. The trader, which dialled, signs its heads over the solver's challenge (URS).
    3. The solver verifies that, and only then signs its own heads over the trader's challenge.
    4. `PROVEN`: the peer's heads are verified. Only from here on is a frame taken, sent again or
       asked for, and only now do heads mean anything. All else that comes before is noise.
    5. `SYNCED`: the heads agree. Only from here on is a frame signed.

So a resume takes two round trips, and the solver says nothing of a custody to a peer that proves
nothing. A connection on which the two have just met begins at 5: neither side has a history to
show. Where the trader holds no frame of the solver's, and the solver says (unsigned) that it holds
nothing, the trader begins anew likewise: there is nothing to keep private.

A key counts while the wallet's delegation has not run out, no revocation of it is known, and no
later key of the same lane is on the record: a key that was stolen after it was changed proves
nothing. Heads that are proven may still be lies. Where no two honest journals can have both sides'
heads (`DISPUTED`), the frames themselves are shown, and what is signed stops the one it proves
wrong.
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
"""How long a connection on which heads differ stays open for the frames that prove who is wrong."""


def ask(s: SessionState, connection: ConnectionState, out: Effects, now: int) -> None:
    """Tell our challenge."""
    send_text(s, out, challenge_for(s.record.agreement.custody, connection.challenge), now)


def check_proof(s: SessionState, theirs: Resume, challenge: bytes, now: int) -> None:
    """Whether these heads are signed over `challenge` by a key that counts. Changes nothing.
    Raises ResumeRefused."""
    key = check_resume(s.record.agreement, s.peer, challenge, theirs, now - s.params.skew_ns)
    revoked = keys.revocation(s.keys, s.peer, key)
    if revoked is not None:
        raise ResumeRefused("the session key was revoked", key=revoked.key)
    # A wallet may delegate a key a second time: what counts is whether another is in force now.
    known = [one.public_key for one in s.record.delegations(s.peer)]
    if key in known and key != known[-1]:
        raise ResumeRefused("another session key has followed the one that signed this")


def on_resume(
    s: SessionState, connection: ConnectionState, out: Effects, theirs: Resume, now: int
) -> None:
    """The peer tells its challenge, or shows its heads."""
    if theirs.custody != s.record.agreement.custody:
        report_malformed(s, out, now, "URS", "wrong-custody: this connection serves another")
        return
    if theirs.challenge is not None:
        _on_challenge(s, connection, out, theirs.challenge, now)
        return
    # Unsigned, and still safe: there is nothing of the solver's that we could lose.
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
    # Only a proven peer is told why the session stopped.
    if s.error is not None:
        send_reject(s, out, now, "URS", str(s.error))
        disconnect(s, out, s.error)
        return
    if connection.shown_heads is None and connection.sync is HeadSync.PROVEN:
        announce_heads(s, out, now)
    _compare(s, connection, out, theirs, now)
    final_ack.on_heads(s, theirs)


def _on_challenge(
    s: SessionState, connection: ConnectionState, out: Effects, challenge: bytes, now: int
) -> None:
    """The first is the connection's; one that comes again is of another connection."""
    if connection.peer_challenge is None:
        s.rate.pardon()  # Every connection begins with one.
        connection.peer_challenge = challenge
        if connection.shown_heads is None and not connection.synced:
            announce_heads(s, out, now)


def _begins_anew(s: SessionState, connection: ConnectionState, theirs: Resume) -> bool:
    """The solver says that it holds nothing of the custody, and we hold nothing of its."""
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
    """What follows from heads that the peer signed."""
    if _is_before_checkpoint(s, out, theirs) or connection.sync is HeadSync.DISPUTED:
        return
    differing = [
        (lane, seq)
        for lane, (seq, digest) in enumerate(_both(theirs))
        if seq <= s.record.heads[lane].seq and s.record.digest(lane, seq) != digest
    ]
    # Both sides hold this number with another digest: somebody signed twice, or lies.
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
        # What the peer covered is shown to us and imported; what it did not, it revokes once it
        # knows. Until both are done, nothing is signed.
        # While heads agree nothing is fetched; a new connection begins with the comparison.
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
    for lane, (seq, _) in enumerate(_both(theirs)):
        held = s.record.heads[lane].seq
        if seq <= held and not s.record.knows(lane, seq):
            why = "the peer's heads lie before a checkpoint that it signed"
            disconnect(s, out, PeerBehind(why, theirs=seq, shown=held))
            return True
    return False


def _show_again(s: SessionState, connection: ConnectionState, out: Effects, theirs: Resume) -> None:
    """Heads on a connection where they agreed already: what either side lost is sent again."""
    announced, held = head_of(theirs, s.peer)[0], s.record.heads[s.peer].seq
    if announced > held:
        connection.gap.until = max(connection.gap.until, announced)
        gaps.ask(s, connection, out, held + 1)
    # The peer asks again on a live connection: it lost something; show it.
    gaps.resend_at_most(s, out, head_of(theirs, s.lane)[0] + 1, 0, s.lane)


def _approach(
    s: SessionState, connection: ConnectionState, out: Effects, theirs: Resume, now: int
) -> None:
    """Bring what the peer's heads, which contradict nothing, say that it lacks."""
    announced, held = head_of(theirs, s.peer)[0], s.record.heads[s.peer].seq
    if announced < held:
        # Frames of its own lane that it lacks.
        _bring(s, connection, out, s.peer, announced + 1, now)
    before = connection.peer_heads
    if before is None or head_of(theirs, s.lane) != head_of(before, s.lane):
        _bring_ours(s, connection, out, head_of(theirs, s.lane)[0], now)
    elif same_heads(theirs, before) and connection.shown_heads != our_heads(s):
        announce_heads(s, out, now)  # so much came of what it sends again; the rest, please
    connection.peer_heads = theirs
    if announced < held:
        # Its own journal is older than what it signed. It finds out from our heads, and may ask us
        # for what it lost while we wait for it to resume.
        connection.peer_behind = PeerBehind(theirs=announced, shown=held)


def try_sync(s: SessionState, connection: ConnectionState, out: Effects, now: int) -> None:
    """Agree, where heads do."""
    if connection.sync in (HeadSync.SYNCED, HeadSync.DISPUTED):
        return
    # The peer compares with what we show, so it must see ours before either may agree.
    if connection.shown_heads is None:
        announce_heads(s, out, now)
    theirs = connection.peer_heads
    if theirs is None or s.record.heads[s.peer].seq < head_of(theirs, s.peer)[0]:
        return
    is_complete = s.recovery.health == "complete"
    if not is_complete and s.record.heads[s.lane].seq < head_of(theirs, s.lane)[0]:
        return
    ours = our_heads(s)
    # Frames came since: the peer agrees with our newest heads, or with none.
    if connection.shown_heads != ours:
        announce_heads(s, out, now)
    if same_heads(theirs, ours):
        connection.sync = HeadSync.SYNCED
        connection.peer_behind = None
        connection.recovery_due = None
        out.append(Resumed(connection.frames_repeated, connection.frames_fetched))


def lacks_only_void(s: SessionState, connection: ConnectionState) -> bool:
    """All that the peer lacks is what our revoked key signed: it waits for a key that builds on
    it. Ours is the longer record, so the next number is free."""
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
    """Heads that no two honest journals can have. A text proves nothing, so it stops nothing:
    nothing more is signed on this connection, we show our frames at those places (of a lane and a
    number each), and it is left once the peer has had the time to show its own. What either side
    shows is signed, and stops the one it proves wrong."""
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
    """Send what the peer's heads say that it lacks of a lane; returns how many frames.

    What was sent on this connection is sent again at most once a second, whatever heads it shows.
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
