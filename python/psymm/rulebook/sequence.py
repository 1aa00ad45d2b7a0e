"""The linear order and legal time: frames of two lanes become one account.

The order. The solver's lane sequences. A solver frame takes effect at its place in its lane. A
trader frame takes effect just before the first solver frame that covers it, and is pending until
then. So the account after a solver frame depends only on the frames before it in this order. The
two sides see frames arrive in different orders, and still compute the same account.

Legal time (``spec.md`` 2). A trader frame takes effect when it is covered, so its legal time is
known then. A solver frame takes effect before it is covered, so it first gets its own sendingTime.
It is decided when the first trader frame that covers it takes effect. If it was late, the replay
returns to the account just before it, and judges every frame from there again with the legal times
now known. For this, an ``Event`` keeps the account before each solver frame that is not covered
yet. Nothing before those frames ever changes.

One solver frame may put many trader frames into effect, and each may decide solver frames. All of
these decisions come first, followed by a single pass that judges again; only then do the trader
frames take effect in order. The result is the same as deciding one by one: an account depends on
the legal times of the frames before it, not on when each became known. A solver frame more than 128
ahead of the trader's cover has no legal time at all (``spec.md`` 67). So the work for each frame is
bounded in any order and for any lateness.

Covers ahead of time (``spec.md`` 66). A frame may state that it covers a frame dated further ahead
of it than the skew. Its signer cannot have seen that frame, so it covers only what it can have
seen, and it is a violation. The first later frame that can have seen it decides. So dating a cover
back cannot make the covered frame late.

Covers by wallet. A trader whose journal was restored signs no frames. Its wallet covers instead, in
the UPY that names its payee, which the solver puts on its own lane. From then on the solver's
frames up to the named one count as sent in time, no matter when frames cover them
(``Replay._wallet_covers``). Both sides have agreed to them, so none can become void.

Checkpoints. A checkpoint names the account after the last solver frame that the trader covers; that
account is final. ``Replay.at_checkpoint`` continues from it, and must give the same result as the
whole history. Two conditions ensure this. No state of checkpoints changes between the named frame
and the UCP that names it (``checkpoint.agree`` refuses otherwise). No frame after the named one was
ever judged on an account that changed later, or by a date of a frame before it (``Named.firm``).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from psymm.messages import (
    Checkpoint,
    JsonError,
    Message,
    SettlementOutput,
    encode,
)
from psymm.rulebook import checkpoint
from psymm.rulebook.account import Account, Lane
from psymm.rulebook.checkpoint import Named
from psymm.rulebook.events import Event, Fault, Ruling, fault_of, is_fault
from psymm.rulebook.inputs import ChainFacts, ReplayInputs, RuledFrame, VerifiedFrame, has_come
from psymm.rulebook.rules import NO_TIME, beyond, judge
from psymm.rulebook.value import replace
from psymm.rulebook.violation import FrameOutOfOrder, Violation
from psymm.terms import Terms


@dataclass(frozen=True, slots=True)
class Replay:
    """The state of a replay after some frames. Immutable: ``step`` returns a new one.

    Attributes:
        inputs: the custody's id and wallets.
        terms: its terms.
        facts: what is known of the chain.
        account: the account after the last solver frame.
        pending: the trader's frames that no solver frame covers yet.
        named: the account that a UCP may name now.
        disputed: the last account for which a frame named another hash.
        _rejected: the faults of solver frames, decided by the trader's covers.
        _events: the frames in effect from the first undecided solver frame on.
        _trader_covers: the last solver frame that a trader frame in effect covers.
        _wallet_covers: the last solver frame that the trader's wallet covers.
        _start: the checkpoint's account if the replay began at one.
        _offered: the accounts of checkpoints that are in force, offered, or may be again.
    """

    inputs: ReplayInputs
    terms: Terms
    facts: ChainFacts
    account: Account
    pending: tuple[RuledFrame, ...] = ()
    named: Named = field(default=checkpoint.UNKNOWN, repr=False)
    disputed: Account | None = field(default=None, repr=False)
    _rejected: tuple[Fault, ...] = ()
    _events: tuple[Event, ...] = field(default=(), repr=False)
    _trader_covers: int = 0
    _wallet_covers: int = 0
    _start: Account | None = field(default=None, repr=False)
    _offered: tuple[Account, ...] = field(default=(), repr=False)

    @staticmethod
    def start(inputs: ReplayInputs, terms: Terms, facts: ChainFacts | None = None) -> Replay:
        """A replay before the first frame."""
        account = Account(custody=inputs.custody, terms=terms)
        return Replay(inputs, terms, facts or ChainFacts(), account)

    @staticmethod
    def at_checkpoint(
        inputs: ReplayInputs, terms: Terms, account: Account, facts: ChainFacts | None = None
    ) -> Replay:
        """A replay from the account of a checkpoint in force.

        ``step`` then takes the solver's frames after ``account.solver_seq`` and the trader's after
        ``account.trader_seq``.
        """
        return Replay(
            inputs,
            terms,
            facts or ChainFacts(),
            account,
            _trader_covers=account.trader_covers,
            _start=account,
            _offered=(account,),
        )

    @property
    def faults(self) -> tuple[Fault, ...]:
        """The faults since the checkpoint in force."""
        return (*self._rejected, *(fault_of(refusal) for refusal in self.account.refusals))

    @property
    def agreed(self) -> Account | None:
        """The account of the checkpoint in force; None before the first."""
        last = self.account.checkpoint
        found = (a for a in self._offered if last is not None and a.solver_seq == last.solver_seq)
        return next(found, None)

    @property
    def offered(self) -> Account | None:
        """The account that the unanswered UCP names; None without one."""
        offer = self.account.offer
        found = (a for a in self._offered if offer is not None and a.solver_seq == offer.solver_seq)
        return next(found, None)

    def with_facts(self, facts: ChainFacts) -> Replay:
        """The same replay with newer facts of the chain, for the frames to come."""
        return replace(self, facts=facts)

    @property
    def decided(self) -> int:
        """The last solver frame whose legal time is final, by trader frames or by the wallet.

        Nothing can change the outcome of this frame and of those before it.
        """
        return max(self._trader_covers, self._wallet_covers)

    @property
    def heads(self) -> tuple[int, int]:
        """The last seq of the trader's and of the solver's lane, pending frames included."""
        last = self.pending[-1].seq if self.pending else self.account.trader_seq
        return last, self.account.solver_seq

    def step(self, frame: VerifiedFrame) -> tuple[Replay, tuple[Ruling, ...]]:
        """Take the next frame of either lane.

        Returns the new replay and the rulings that the frame caused, in this order: rulings that a
        late frame changed, the trader frames that it covers, itself. A trader frame causes none: it
        is pending.

        Raises FrameOutOfOrder or FactsBehind.
        """
        return self.step_entry(RuledFrame.read(frame))

    def step_entry(
        self, entry: RuledFrame, ahead: Projection | None = None
    ) -> tuple[Replay, tuple[Ruling, ...]]:
        """``step`` for a frame that is already decoded.

        Args:
            entry: the frame.
            ahead: the result of ``look_ahead()`` on this replay, if known. If the frame covers all
                pending frames in time, that result is reused and nothing is judged twice.
        """
        trader_head, solver_head = self.heads
        own, other = (
            (trader_head, solver_head) if entry.lane is Lane.TRADER else (solver_head, trader_head)
        )
        # The core has checked links and dates already; only the place is checked here.
        if entry.seq != own + 1:
            raise FrameOutOfOrder(lane=int(entry.lane), seq=entry.seq, expected=own + 1)
        if entry.peer_seq > other:
            raise FrameOutOfOrder(lane=int(entry.lane), seq=entry.seq, covers=entry.peer_seq)
        entry = self._seen(entry)
        if entry.lane is Lane.TRADER:
            return replace(self, pending=(*self.pending, entry)), ()
        # The projection assumed exactly this, so take its result.
        if ahead is not None and self._covers_all_in_time(entry):
            told = list(ahead.rulings)
            return ahead.replay._apply(entry, entry.sending_time, told), tuple(told)
        # Trader frames first: they take effect just before the frame that covers them.
        covered = tuple(t for t in self.pending if t.seq <= entry.peer_seq)
        at = replace(self, pending=self.pending[len(covered) :])
        at, rulings = at._take(covered, entry.sending_time)
        return at._apply(entry, entry.sending_time, rulings), tuple(rulings)

    def _seen(self, entry: RuledFrame) -> RuledFrame:
        """The entry, covering no more than its signer can have seen then (``spec.md`` 66)."""
        if entry.lane is Lane.TRADER:
            floor = self.pending[-1].peer_seq if self.pending else self._trader_covers
            sent = self._sent_at
        else:
            floor, sent = self.account.trader_seq, self._pending_at
        skew = self.terms.timeouts.skew
        if entry.peer_seq <= floor or has_come(sent(entry.peer_seq), entry.sending_time, skew):
            return entry
        # Dates in a lane never decrease, so a binary search finds the last frame it can have seen.
        seen = bisect_left(
            range(floor + 1, entry.peer_seq),
            True,
            key=lambda seq: not has_come(sent(seq), entry.sending_time, skew),
        )
        return replace(entry, peer_seq=floor + seen, unseen=entry.peer_seq)

    def _pending_at(self, seq: int) -> int:
        """The sendingTime of a pending trader frame."""
        return self.pending[seq - self.pending[0].seq].sending_time

    def _sent_at(self, seq: int) -> int:
        """The sendingTime of a solver frame that no trader frame in effect covers."""
        events = self._events
        if events and events[-1].entry.lane is Lane.SOLVER and events[-1].entry.seq == seq:
            return events[-1].entry.sending_time  # The usual case: it is the last one.
        after = bisect_left(events, seq, key=lambda event: event.before.solver_seq)
        return events[after - 1].entry.sending_time if after else NO_TIME

    def projected(self) -> Account:
        """The account if a solver frame covered all pending trader frames now, in time."""
        return self.look_ahead().replay.account

    def look_ahead(self) -> Projection:
        """The replay if a solver frame covered all pending trader frames now, in time."""
        if not self.pending:
            return Projection(self, (), self)
        # None: each frame counts as covered at its own time, so none of them is late.
        at, rulings = replace(self, pending=())._take(self.pending, None)
        return Projection(at, tuple(rulings), self)

    def _covers_all_in_time(self, entry: RuledFrame) -> bool:
        for pending in self.pending:
            if pending.seq > entry.peer_seq:
                return False
            if self._legal_time(pending, entry.sending_time) != pending.sending_time:
                return False
        return True

    def preview(
        self, lane: Lane, message: Message, sending_time: int, *, peer_seq: int | None = None
    ) -> Violation | None:
        """The violation if this lane signed the message now; None if it would be in order.

        A solver message gets its final ruling, unless its frame turns out to be late. A trader
        message is judged after the trader's pending frames and as covered in time; the solver may
        still act first. A message with a value out of range is ``malformed``. Changes nothing.

        Args:
            lane: the sender's.
            message: what it would sign.
            sending_time: of the frame, nanoseconds.
            peer_seq: what the frame would cover; by default every frame of the other lane.

        Raises FactsBehind as ``step`` does.
        """
        try:
            size = len(encode(message))
        except JsonError as error:
            return Violation("malformed", (("code", error.code),))
        other = self.heads[lane.other]
        entry = RuledFrame(
            lane,
            self.heads[lane] + 1,
            other if peer_seq is None else peer_seq,
            sending_time,
            size,
            message,
        )
        return self.dry_run(entry).violation

    def dry_run(self, entry: RuledFrame, ahead: Projection | None = None) -> DryRun:
        """The ruling of a lane's next frame, and the replay after it.

        Keep the result, and the frame need not be judged again when it is signed.

        Args:
            entry: the frame.
            ahead: as for ``step_entry``.

        Raises as ``step`` does.
        """
        if entry.lane is Lane.SOLVER:
            at, rulings = self.step_entry(entry, ahead)
            return DryRun(entry, Projection(at, rulings, at), rulings[-1].violation)
        # A trader frame takes effect after all pending ones, so judge it on top of them.
        before = self.look_ahead() if ahead is None else ahead
        after = before.and_then(entry)
        return DryRun(entry, after, after.rulings[-1].violation)

    def _take(
        self, entries: Sequence[RuledFrame], covered_at: int | None
    ) -> tuple[Replay, list[Ruling]]:
        """Put trader frames into effect, and decide the solver frames that they cover.

        Args:
            entries: the frames, in order.
            covered_at: the sendingTime of the solver frame that covers them; None: each in time.
        """
        rulings: list[Ruling] = []
        at, decided = self._decide(entries, rulings)
        undecided = at._events
        for entry, (named, shaken) in zip(entries, decided, strict=True):
            covers = max(at._trader_covers, entry.peer_seq)
            # If all solver frames are decided, no frame before this one is ever judged again.
            kept = at._events if undecided else ()
            at = replace(at, named=named, _trader_covers=covers, _events=kept)
            limit = entry.sending_time if covered_at is None else covered_at
            at = at._apply(entry, self._legal_time(entry, limit), rulings, shaken=shaken)
        return at, rulings

    def _legal_time(self, entry: RuledFrame, covered_at: int) -> int:
        """The legal time of a frame first covered at ``covered_at`` (``spec.md`` 2)."""
        # What the wallet covered counts as in time.
        if entry.lane is Lane.SOLVER and entry.seq <= self._wallet_covers:
            return entry.sending_time
        # In time if covered or noticed within T; otherwise the earlier of cover and notice.
        limit = entry.sending_time + self.terms.timeouts.acknowledgement
        if covered_at <= limit:
            return entry.sending_time
        noticed = self.facts.noticed.get((int(entry.lane), entry.seq))
        if noticed is None:
            return covered_at
        return entry.sending_time if noticed <= limit else min(covered_at, noticed)

    def _decide(
        self, entries: Sequence[RuledFrame], rulings: list[Ruling]
    ) -> tuple[Replay, list[tuple[Named, bool]]]:
        """Decide the legal time of the solver frames that these trader frames cover first.

        Solver frames covered before are no longer among the events. If some were late, all events
        from the first late one on are judged again, once.

        Returns:
            The replay with the account after that.
            For each trader frame: what a UCP may name there, and whether a later trader frame of
                ``entries`` finds a late solver frame (the ruling is then "shaken").
        """
        events = list(self._events)
        faults = self._rejected
        at = end = 0
        covered: list[int] = []  # for each trader frame: the end of the events that it covers
        late: list[int] = []  # for each trader frame: the first event it finds late, or -1
        for entry in entries:
            late.append(-1)
            while at < len(events):
                event = events[at]
                if event.entry.lane is Lane.SOLVER:
                    if event.entry.seq > entry.peer_seq:
                        break
                    # By the first ruling: the sender could not know of lateness found later.
                    if event.first is not None and is_fault(event, entry):
                        faults = (*faults, Fault(event.entry.seq, event.first))
                    legal = self._legal_time(event.entry, entry.sending_time)
                    # A frame beyond the 128 keeps NO_TIME (``spec.md`` 67).
                    if legal != event.legal_time != NO_TIME:
                        events[at] = replace(event, legal_time=legal)
                        late[-1] = at if late[-1] < 0 else late[-1]
                    end = at + 1
                at += 1
            covered.append(end)
        shaken_to = max((i + 1 for i, event in enumerate(events) if event.shaken), default=0)
        # All lateness is known now, so one pass judges again everything that depends on it.
        account = self._apply_again(events, {i for i in late if i >= 0}, rulings)
        decided = self._decided(entries, events, account, covered, late, shaken_to)
        # Events before `at` are decided: they never change again and need not be kept.
        rest = replace(self, account=account, _rejected=faults, _events=tuple(events[at:]))
        return rest, decided

    def _take_in_time(self, entry: RuledFrame) -> tuple[Replay, list[Ruling]] | None:
        """``_take`` for one trader frame in time, without a second judgement.

        None if it finds a late solver frame. That is rare, and needs the full ``_take``.
        """
        events, faults = self._events, self._rejected
        at = end = 0
        for event in events:
            if event.entry.lane is Lane.SOLVER:
                if event.entry.seq > entry.peer_seq:
                    break
                legal = self._legal_time(event.entry, entry.sending_time)
                if legal != event.legal_time != NO_TIME:
                    return None
                if event.first is not None and is_fault(event, entry):
                    faults = (*faults, Fault(event.entry.seq, event.first))
                end = at + 1
            at += 1
        named, covers = self.named, self._trader_covers
        # Firm, unless a frame after the named one was judged on an account that changed later, or
        # covers what its signer cannot have seen. See ``_decided``.
        if entry.peer_seq > covers:
            covers, firm = entry.peer_seq, True
            for event in events[end:]:
                if event.shaken or (event.entry.unseen and event.entry.lane is Lane.TRADER):
                    firm = False
            named = self._named(covers, events, self.account, end, firm=firm)
        taken = replace(
            self, named=named, _trader_covers=covers, _rejected=faults, _events=events[at:]
        )
        rulings: list[Ruling] = []
        return taken._apply(entry, entry.sending_time, rulings), rulings

    def _apply_again(self, events: list[Event], late: set[int], rulings: list[Ruling]) -> Account:
        """Judge the events again from the first late one on; return the account after them.

        Adds a ruling for each frame whose violation or legal time changed.
        """
        if not late:
            return self.account
        first = min(late)
        # The account before the first late frame is right: nothing before it was late.
        account = events[first].before
        for i in range(first, len(events)):
            event, before = events[i], account
            account, violation = judge(
                account, event.entry, event.legal_time, self.inputs, self.facts, event.named
            )
            if violation != event.violation or i in late:
                legal = event.legal_time or account.clock
                said = event.entry.message
                rulings.append(
                    Ruling(event.entry.lane, event.entry.seq, said, legal, violation, again=True)
                )
            # The first late one itself was judged on a right account; all after it were not.
            shaken = event.shaken or i > first
            events[i] = replace(event, before=before, violation=violation, shaken=shaken)
        return account

    def _decided(
        self,
        entries: Sequence[RuledFrame],
        events: Sequence[Event],
        account: Account,
        covered: Sequence[int],
        late: Sequence[int],
        shaken_to: int,
    ) -> list[tuple[Named, bool]]:
        """What a UCP may name at each trader frame; see ``_decide`` for the result.

        An account is firm for a trader frame under two conditions. No frame after the account was
        judged before a late frame ahead of it was found. No frame after it states a cover of what
        its signer cannot have seen: a replay that begins at the account lacks the dates to tell.
        """
        decided: list[tuple[Named, bool]] = []
        named, covers, found = self.named, self._trader_covers, 0
        last_late = max((n for n, first in enumerate(late) if first >= 0), default=-1)
        for n, entry in enumerate(entries):
            # 1: a late event was found, so all events after it are shaken. 2: the trader frames
            # before this one in `entries` are shaken, too.
            found = max(found, 1 if late[n] >= 0 else 0, 2 if late[n] >= 0 and n else 0)
            if entry.peer_seq > covers:
                covers, end = entry.peer_seq, covered[n]
                firm = shaken_to <= end and found < (1 if end < len(events) else 2)
                between = (*(event.entry for event in events[end:]), *entries[:n])
                firm = firm and not any(one.unseen for one in between if one.lane is Lane.TRADER)
                named = self._named(covers, events, account, end, firm=firm)
            decided.append((named, last_late > n))
        return decided

    def _named(
        self, covers: int, events: Sequence[Event], account: Account, end: int, *, firm: bool
    ) -> Named:
        """The account after solver frame ``covers``, which a trader frame has just covered.

        It is the last of the events up to ``end``.
        """
        if self._start is not None and covers == self._start.solver_seq:
            return Named(self._start, True)
        if not end or events[end - 1].entry.seq != covers:
            # It lies before the checkpoint at which this replay began.
            return checkpoint.UNKNOWN
        return Named(events[end].before if end < len(events) else account, firm)

    def _apply(
        self, entry: RuledFrame, legal_time: int, rulings: list[Ruling], *, shaken: bool = False
    ) -> Replay:
        # More than 128 uncovered: the frame moves no clock and is never decided (``spec.md`` 67).
        if entry.lane is Lane.SOLVER and beyond(self.account, entry):
            legal_time = NO_TIME
        account, violation = judge(
            self.account, entry, legal_time, self.inputs, self.facts, self.named
        )
        rulings.append(
            Ruling(entry.lane, entry.seq, entry.message, legal_time or account.clock, violation)
        )
        event = Event(entry, legal_time, self.account, violation, violation, self.named, shaken)
        after = replace(self, account=account, _events=(*self._events, event))
        said = entry.message
        # A valid UPY of the trader's wallet covers the solver's frames up to the one it names.
        if violation is None and isinstance(said, SettlementOutput) and said.ref_seq_num:
            after = replace(after, _wallet_covers=max(self._wallet_covers, said.ref_seq_num))
        if isinstance(entry.message, Checkpoint):
            return after._checkpointed(self.account, violation)
        return after

    def _checkpointed(self, before: Account, violation: Violation | None) -> Replay:
        """After a UCP: keep the accounts that matter for checkpoints, and drop older ones."""
        if violation is not None:
            # Keep our account for comparison: the two sides disagree about its hash.
            disputed = self.offered or self.named.account
            wrong = violation.name == "wrong-checkpoint"
            return replace(self, disputed=disputed) if wrong else self
        offer, agreed = self.account.offer, self.account.checkpoint
        if offer is not None and offer != before.offer and self.named.account is not None:
            return replace(self, _offered=(*self._offered, self.named.account))
        if agreed is None or agreed == before.checkpoint:
            return self
        # Undecided events may be judged again from before this UCP. Then the previous checkpoint
        # is in force, so keep its account until the oldest event is past it.
        oldest = (self._events[0].before if self._events else self.account).checkpoint
        since = 0 if oldest is None else oldest.solver_seq
        return replace(
            self,
            _offered=tuple(a for a in self._offered if a.solver_seq >= since),
            _rejected=tuple(f for f in self._rejected if f.seq > agreed.solver_seq),
        )


@dataclass(frozen=True, slots=True)
class Projection:
    """A replay in which all pending trader frames count as covered now, in time."""

    replay: Replay
    """The replay after them; nothing is pending."""
    rulings: tuple[Ruling, ...]
    """Their rulings."""
    since: Replay
    """The real replay, in which they are pending."""

    def and_then(self, entry: RuledFrame) -> Projection:
        """The projection with one more trader frame pending."""
        entry = self.since._seen(entry)
        since = replace(self.since, pending=(*self.since.pending, entry))
        # Judged on top of the projection, so each pending frame is judged only once.
        taken = self.replay._take_in_time(entry)
        if taken is None:
            return since.look_ahead()
        return Projection(taken[0], (*self.rulings, *taken[1]), since)


@dataclass(frozen=True, slots=True)
class DryRun:
    """The outcome of a frame that has not been signed."""

    entry: RuledFrame
    after: Projection
    """A solver frame: the replay after it. A trader frame: the projection with it pending."""
    violation: Violation | None


def replay(
    inputs: ReplayInputs,
    terms: Terms,
    frames: Iterable[VerifiedFrame],
    facts: ChainFacts | None = None,
) -> Account:
    """The account after all ``frames``.

    Each lane's frames must be in sequence, and every frame must come after the one it covers; the
    order is free otherwise. Trader frames that no solver frame covers are pending and do not count.
    Raises as ``Replay.step`` does.
    """
    at = Replay.start(inputs, terms, facts)
    for frame in frames:
        at, _ = at.step(frame)
    return at.account
