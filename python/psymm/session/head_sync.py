"""HeadSync: on each connection both sides prove who they are, show the heads of both lanes, bring
each other what is lacking, and sign nothing until the heads agree.

One connection, in order (`spec.md` 69):

    1. Each side tells its challenge, 32 random bytes of this connection (URS with Challenge).
    2. The trader, which dialled, signs its heads over the solver's challenge (URS).
    3. The solver verifies that, and only then signs its own heads over the trader's challenge.
    4. `proven`: the peer's heads are verified. Only from here on is a frame taken, brought or asked
       for, and only now do heads mean anything. Whatever else comes before is noise.
    5. `synced`: the heads agree. Only from here on is a frame signed.

So a resume takes two round trips, and the solver says nothing of a custody to who proves nothing.
A connection on which the two have just met begins at 5: neither side has a history to show. Where
the trader holds no frame of the solver's, and the solver says (unsigned) that it holds nothing, the
trader begins anew likewise: there is nothing to keep private.

A key counts while the wallet's delegation has not run out, no revocation of it is known, and no
later key of the same lane is on the record: a key that was stolen after it was changed proves
nothing. Heads that are proven may still be lies. Where no two honest journals can have both sides'
heads, the frames themselves are shown, and what is signed stops whom it proves wrong.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Protocol

from psymm.errors import (
    BehindUnproved,
    ForkUnproved,
    KeyRevoked,
    PeerBehind,
    ResumeRefused,
)
from psymm.messages import JournalStatus, Resume
from psymm.session.budget import SECOND
from psymm.session.context import ProtocolContext
from psymm.session.effects import HeadsDiffer, PeerRestored, Resumed
from psymm.session.gap_fill import GapFill
from psymm.session.keys import SessionKeys
from psymm.session.recovery import Recovery
from psymm.transcript.agreement import SOLVER, TRADER
from psymm.transcript.resumption import challenge_for, check_resume, nothing_yet

DISPUTE_NS: Final = 5 * SECOND
"""How long a connection on which heads differ stays open for the frames that prove who is wrong."""


class HeadSyncContext(ProtocolContext, Protocol):
    """The protocol, as its resuming knows it."""

    keys: SessionKeys

    def heads(self) -> Resume:
        """Ours, as a resume says them, unsigned."""
        ...


class HeadSync:
    """Of one connection, but for peer_restored. proven: the peer proved that it is the custody's
    party. synced: heads agree. theirs: the heads that the peer said last. fetched: frames of the
    peer that came before that, but for `Recovery`'s.

    dispute: what its heads would prove if they were signed, and when the connection is left over
    it. peer_behind: why it is left where the peer does not come to agree. peer_restored: whether
    its journal says that it is a backup.
    """

    def __init__(self, protocol: HeadSyncContext, gap_fill: GapFill, recovery: Recovery) -> None:
        self._protocol = protocol
        self._gap_fill = gap_fill
        self._recovery = recovery
        self.proven = self.synced = False
        self.theirs: Resume | None = None
        self.fetched = 0
        self.dispute: tuple[ForkUnproved | BehindUnproved, int] | None = None
        self.peer_behind: PeerBehind | None = None
        self.peer_restored = False
        self._said: Resume | None = None
        self._challenge = bytes(32)
        self._their_challenge: bytes | None = None
        self._repeated = 0
        self._brought_at = [-SECOND, -SECOND]
        self._brought_to = [0, 0]

    def reconnected(self, challenge: bytes, *, fresh: bool) -> None:
        """A new connection stands. challenge: ours for it. fresh: the two have met on it, and there
        is nothing to resume."""
        self.proven = self.synced = fresh
        self._challenge = challenge
        self._their_challenge = None
        self.theirs = self._said = None
        self.fetched = self._repeated = 0
        self.dispute = self.peer_behind = None
        self._brought_to = [0, 0]

    def disconnected(self) -> None:
        """Nothing is signed until the next connection has resumed."""
        self.proven = self.synced = False

    @property
    def challenged(self) -> bool:
        """The peer told its challenge on this connection."""
        return self._their_challenge is not None

    def ask(self, now: int) -> None:
        """Tell our challenge."""
        self._protocol.queue_text(
            challenge_for(self._protocol.record.agreement.custody, self._challenge), now
        )

    def announce_heads(self, now: int) -> None:
        """Show ours, and remember that we did."""
        if self.show_heads(now):
            self._said = self._protocol.heads()

    def show_heads(self, now: int) -> bool:
        """Sign our heads over the peer's challenge. The solver shows them to who has proved itself,
        and the trader, which must begin, to whom it dialled. False where that cannot be yet."""
        protocol = self._protocol
        if self._their_challenge is None or not (self.proven or protocol.lane == TRADER):
            return False
        prover = protocol.keys.prover(protocol.record, now)
        if prover is None:
            return False
        heads = protocol.heads()
        protocol.queue_text(
            prover.sign(protocol.record.agreement, self._their_challenge, heads), now
        )
        return True

    def proves(self, theirs: Resume, challenge: bytes, now: int) -> None:
        """Whether these heads are signed over `challenge` by a key that counts. Changes nothing.
        Raises ResumeRefused."""
        protocol = self._protocol
        key = check_resume(
            protocol.record.agreement,
            protocol.peer,
            challenge,
            theirs,
            now - protocol.params.skew_ns,
        )
        revoked = protocol.keys.revocation(protocol.peer, key)
        if revoked is not None:
            raise ResumeRefused("the session key was revoked", key=revoked.key)
        # A wallet may delegate a key a second time: what counts is whether another is in force now.
        known = [one.public_key for one in protocol.record.delegations(protocol.peer)]
        if key in known and key != known[-1]:
            raise ResumeRefused("another session key has followed the one that signed this")

    def receive(self, theirs: Resume, now: int) -> bool:
        """The peer tells its challenge, or shows its heads; True where these are proven."""
        protocol = self._protocol
        if theirs.custody != protocol.record.agreement.custody:
            protocol.report_malformed(now, "URS", "wrong-custody: this connection serves another")
            return False
        if theirs.challenge is not None:
            # The first is the connection's; one that comes again is of another connection.
            if self._their_challenge is None:
                self._their_challenge = theirs.challenge
                if self._said is None and not self.synced:
                    self.announce_heads(now)
            return False
        if protocol.error is None and self._begins_anew(theirs):
            self.proven = self.synced = True
            self._repeated += self._gap_fill.resend(1, 0, now, protocol.lane)
            protocol.effects.events.append(Resumed(self._repeated, 0))
            return False
        try:
            self.proves(theirs, self._challenge, now)
        except ResumeRefused as refused:
            protocol.report_malformed(now, "URS", str(refused))
            return False
        self.proven = True
        if protocol.error is not None:
            protocol.queue_business_reject(now, "URS", str(protocol.error))
            protocol.disconnect(protocol.error)
            return False
        if self._said is None and not self.synced and self.dispute is None:
            self.announce_heads(now)
        self._compare(theirs, now)
        return True

    def _begins_anew(self, theirs: Resume) -> bool:
        """The solver says that it holds nothing of the custody, and we hold nothing of its."""
        protocol = self._protocol
        return (
            protocol.lane == TRADER
            and not self.proven
            and protocol.record.head(SOLVER).seq == 0
            and theirs == nothing_yet(protocol.record.agreement.custody)
        )

    def _compare(self, theirs: Resume, now: int) -> None:
        """What follows from heads that the peer signed."""
        protocol = self._protocol
        views = (
            (theirs.trader_seq, theirs.trader_digest),
            (theirs.solver_seq, theirs.solver_digest),
        )
        for lane, (seq, _) in enumerate(views):
            held = protocol.record.head(lane).seq
            if seq <= held and not protocol.record.knows(lane, seq):
                protocol.disconnect(
                    PeerBehind(
                        "the peer's heads lie before a checkpoint that it signed",
                        theirs=seq,
                        shown=held,
                    )
                )
                return
        if self.dispute is not None:
            return
        differing = [
            (lane, seq)
            for lane, (seq, digest) in enumerate(views)
            if seq <= protocol.record.head(lane).seq and protocol.record.digest(lane, seq) != digest
        ]
        if differing:
            lane, seq = differing[0]
            self._differ(
                ForkUnproved(
                    custody=theirs.custody,
                    lane=lane,
                    seq=seq,
                    ours=protocol.record.digest(lane, seq),
                    theirs=views[lane][1],
                ),
                differing,
                now,
            )
            return
        restored = theirs.journal_status is JournalStatus.RESTORED
        if restored and not self.peer_restored:
            protocol.effects.events.append(PeerRestored())
        self.peer_restored = restored
        seq, head = views[protocol.lane][0], protocol.record.head(protocol.lane).seq
        if self._recovery.health != "complete":
            self.theirs = theirs
            self._repeated += self._bring(protocol.lane, seq + 1, now)
            self._recovery.merge(now)
            if self._recovery.due is None:
                self._recovery.ask(self.theirs, now)
            return
        if seq > head and protocol.keys.compromised(protocol.record):
            # What the peer covered is shown to us and imported; what it did not, it lets go of
            # once it knows of the revocation. Until both are done, nothing is signed.
            if self.synced:
                protocol.disconnect(KeyRevoked("frames of ours that we did not sign", theirs=seq))
            return
        if seq > head:
            self._differ(
                BehindUnproved(custody=theirs.custody, theirs=seq, ours=head),
                [(protocol.lane, head)],
                now,
            )
            return
        if self.synced:
            self._show_again(seq, views[protocol.peer][0], now)
            return
        self._approach(theirs, now)

    def _show_again(self, covered: int, announced: int, now: int) -> None:
        """Heads on a connection where they agreed already: what either side lost is sent again.
        covered: the last frame of ours that the peer has; announced: the last of its own."""
        protocol, gap_fill = self._protocol, self._gap_fill
        held = protocol.record.head(protocol.peer).seq
        if announced > held:
            gap_fill.until = max(gap_fill.until, announced)
            gap_fill.ask(held + 1, now)
        # The peer asks again on a live connection: it lost something; show it.
        gap_fill.resend_at_most(covered + 1, 0, now, protocol.lane)

    def _approach(self, theirs: Resume, now: int) -> None:
        """Bring what the peer's heads, which contradict nothing, say that it lacks."""
        protocol, view = self._protocol, self._view(theirs)
        announced = theirs.solver_seq if protocol.peer == SOLVER else theirs.trader_seq
        held = protocol.record.head(protocol.peer).seq
        if announced < held:
            # Frames of its own lane that it lacks.
            self._bring(protocol.peer, announced + 1, now)
        if self.theirs is None or view != self._view(self.theirs):
            self._repeated += self._bring(protocol.lane, view[0] + 1, now)
        elif _bare(theirs) == _bare(self.theirs) and self._said != protocol.heads():
            self.announce_heads(now)  # so much came of what it sends again; the rest, please
        self.theirs = theirs
        if announced < held:
            # Its own journal is older than what it signed. It finds out from our heads, and may
            # ask us for what it lost while we wait for it to resume.
            self.peer_behind = PeerBehind(theirs=announced, shown=held)

    def try_sync(self, now: int) -> None:
        """Agree, where heads do."""
        protocol, theirs = self._protocol, self.theirs
        if not self.synced and self._said is None and self.dispute is None:
            self.announce_heads(now)
        if self.synced or theirs is None or self.dispute is not None:
            return
        ours = protocol.heads()
        announced = theirs.solver_seq if protocol.peer == SOLVER else theirs.trader_seq
        if protocol.record.head(protocol.peer).seq < announced:
            return
        whole = self._recovery.health == "complete"
        if not whole and protocol.record.head(protocol.lane).seq < self._view(theirs)[0]:
            return
        if self._said != ours:
            self.announce_heads(now)
        if _bare(theirs) == _bare(ours):
            self.synced = True
            self.peer_behind = None
            protocol.effects.events.append(
                Resumed(self._repeated, self.fetched + self._recovery.taken)
            )
            self._recovery.finished()

    def only_void(self) -> bool:
        """All that the peer lacks is what our revoked key signed: it waits for a key that builds
        on it. Ours is the longer record, so the next number is free."""
        protocol, theirs = self._protocol, self.theirs
        if (
            theirs is None
            or self.dispute is not None
            or not protocol.keys.compromised(protocol.record)
        ):
            return False
        ours = protocol.heads()
        others = (
            (theirs.trader_seq, theirs.trader_digest) == (ours.trader_seq, ours.trader_digest)
            if protocol.peer == TRADER
            else (theirs.solver_seq, theirs.solver_digest) == (ours.solver_seq, ours.solver_digest)
        )
        return others and self._view(theirs)[0] < protocol.record.head(protocol.lane).seq

    def _differ(
        self, error: ForkUnproved | BehindUnproved, places: Iterable[tuple[int, int]], now: int
    ) -> None:
        """Heads that no two honest journals can have. A text proves nothing, so it stops nothing:
        nothing more is signed on this connection, we show our frames at those places (of a lane and
        a number each), and it is left once the peer has had the time to show its own. What either
        side shows is signed, and stops whom it proves wrong."""
        self.synced = False
        self.dispute = error, now + DISPUTE_NS
        self._protocol.effects.events.append(HeadsDiffer(error))
        for lane, seq in places:
            if seq:
                self._gap_fill.resend(seq, seq, now, lane)

    def _bring(self, lane: int, begin: int, now: int) -> int:
        """Send what the peer's heads say that it lacks of a lane; returns how many frames.

        What was brought on this connection is brought again at most once a second, whatever heads
        it shows.
        """
        if begin <= self._brought_to[lane] and now - self._brought_at[lane] < SECOND:
            return 0
        count = self._gap_fill.resend(begin, 0, now, lane)
        if count:
            self._brought_at[lane] = now
            self._brought_to[lane] = max(self._brought_to[lane], begin + count - 1)
        return count

    def _view(self, heads: Resume) -> tuple[int, bytes]:
        """What heads say of our lane."""
        if self._protocol.lane == TRADER:
            return heads.trader_seq, heads.trader_digest
        return heads.solver_seq, heads.solver_digest


def _bare(heads: Resume) -> tuple[int, bytes, int, bytes]:
    return heads.trader_seq, heads.trader_digest, heads.solver_seq, heads.solver_digest


__all__ = ["HeadSync"]
