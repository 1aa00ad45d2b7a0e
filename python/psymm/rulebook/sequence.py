"""One order and legal time: frames of two lanes become one account.

The solver's lane sequences. A solver frame takes effect where it stands in its lane; a trader
frame just before the first solver frame that covers it, and until then it is pending. So the
account after a solver frame depends on nothing but the frames before it, and both sides, who see
frames arrive in different orders, have the same one.

Legal time. A trader frame's is known where it takes effect, since the frame that covers it is at
hand. A solver frame takes effect before anybody has covered it, so it is first given its own
sendingTime. Where the first trader frame that covers it takes effect, it is decided: if it was
late, the account goes back to just before it, and everything from there on is applied again with
the legal time that it has. For that, the account before every solver frame that is not yet
covered is kept; what lies before them never changes.

A solver frame may bring many trader frames into effect, each of which decides others. All of that
is decided first and applied again once, then they take effect in their order: an account after a
frame depends on the legal times of those before it, not on when each came to be known. A solver
frame beyond 128 that the trader does not cover has no legal time to be decided (``spec.md`` 67),
so what is applied again stays bounded for each frame, whatever the order and lateness.

What nobody can have seen yet is not covered. A frame that says it covers one dated further ahead of
it than the skew covers only what is not, and is a violation: its date is behind, or it was signed
for a peer that dates ahead. The first frame that may have seen it decides (``spec.md`` 66). So to
date back a cover takes nothing from what it covers.

A trader whose journal was restored signs no frames, and covers with its wallet instead: in the UPY
that names its payee, which the solver puts on its own lane. From there on the solver's frames up to
the one that it names count as sent in time, whoever covers them when. So both have agreed to them,
and none that is covered late after it is void (``Replay._wallet_covers``).

A checkpoint names the account after the last solver frame that the trader covers, which is final.
``Replay.at_checkpoint`` goes on from there, and gives what the whole history gives: nothing of
checkpoints changes between the frame that is named and the UCP that names it (``Account`` holds
all of their state, and ``checkpoint.agree`` refuses else), and no frame after the one named was
ever ruled on an account that turned out not to be, or by a date in front of it (``Named.firm``).
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
    """Frames so far, ruled. A value: ``step`` gives a new one and leaves this one as it is.

    ``account`` is the account after the last solver frame. ``pending`` holds the trader's frames
    that no solver frame covers yet. ``named`` is the account that a UCP may name now. ``disputed``
    is the last account that a frame gave another hash for.
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
        """Before the first frame."""
        account = Account(custody=inputs.custody, terms=terms)
        return Replay(inputs, terms, facts or ChainFacts(), account)

    @staticmethod
    def at_checkpoint(
        inputs: ReplayInputs, terms: Terms, account: Account, facts: ChainFacts | None = None
    ) -> Replay:
        """From the account of a checkpoint in force. ``step`` then takes the solver's frames after
        ``account.solver_seq`` and the trader's after ``account.trader_seq``."""
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
        """The account that the UCP which stands unanswered names; None without one."""
        offer = self.account.offer
        found = (a for a in self._offered if offer is not None and a.solver_seq == offer.solver_seq)
        return next(found, None)

    def with_facts(self, facts: ChainFacts) -> Replay:
        """Know more of the chain."""
        return replace(self, facts=facts)

    @property
    def decided(self) -> int:
        """The last solver frame whose legal time is known, by the trader frames in effect or by the
        trader's wallet: nothing changes what became of it and of those before it."""
        return max(self._trader_covers, self._wallet_covers)

    @property
    def heads(self) -> tuple[int, int]:
        """The last seq seen of the trader's and of the solver's lane."""
        last = self.pending[-1].seq if self.pending else self.account.trader_seq
        return last, self.account.solver_seq

    def step(self, frame: VerifiedFrame) -> tuple[Replay, tuple[Ruling, ...]]:
        """The next frame of either lane.

        Gives what took effect with it, in order: rulings that a late frame changed first, then
        trader frames that it covers, then itself. A trader frame rules nothing yet: it is pending.

        Raises FrameOutOfOrder or FactsBehind, and then nothing has changed.
        """
        return self.step_entry(RuledFrame.read(frame))

    def step_entry(
        self, entry: RuledFrame, ahead: Projection | None = None
    ) -> tuple[Replay, tuple[Ruling, ...]]:
        """``step`` for a frame that is already decoded.

        ahead: what ``look_ahead()`` gives here, if it is at hand. Where this frame covers all that
        is pending, and in time, that is what happens, and nothing is ruled twice.
        """
        trader_head, solver_head = self.heads
        own, other = (
            (trader_head, solver_head) if entry.lane is Lane.TRADER else (solver_head, trader_head)
        )
        if entry.seq != own + 1:
            raise FrameOutOfOrder(lane=int(entry.lane), seq=entry.seq, expected=own + 1)
        if entry.peer_seq > other:
            raise FrameOutOfOrder(lane=int(entry.lane), seq=entry.seq, covers=entry.peer_seq)
        entry = self._seen(entry)
        if entry.lane is Lane.TRADER:
            return replace(self, pending=(*self.pending, entry)), ()
        # What was looked ahead is what now happens.
        if ahead is not None and self._covers_all_in_time(entry):
            told = list(ahead.rulings)
            return ahead.replay._apply(entry, entry.sending_time, told), tuple(told)
        covered = tuple(t for t in self.pending if t.seq <= entry.peer_seq)
        at = replace(self, pending=self.pending[len(covered) :])
        at, rulings = at._take(covered, entry.sending_time)
        return at._apply(entry, entry.sending_time, rulings), tuple(rulings)

    def _seen(self, entry: RuledFrame) -> RuledFrame:
        """The entry as covering no more than its signer may have seen at its time."""
        if entry.lane is Lane.TRADER:
            floor = self.pending[-1].peer_seq if self.pending else self._trader_covers
            sent = self._sent_at
        else:
            floor, sent = self.account.trader_seq, self._pending_at
        skew = self.terms.timeouts.skew
        if entry.peer_seq <= floor or has_come(sent(entry.peer_seq), entry.sending_time, skew):
            return entry
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
            return events[-1].entry.sending_time  # mostly it is the last
        after = bisect_left(events, seq, key=lambda event: event.before.solver_seq)
        return events[after - 1].entry.sending_time if after else NO_TIME

    def projected(self) -> Account:
        """The account as it will be if the pending trader frames are covered now, in time."""
        return self.look_ahead().replay.account

    def look_ahead(self) -> Projection:
        """As if the pending trader frames were covered now, in time."""
        if not self.pending:
            return Projection(self, (), self)
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
        """Whether a message would be in order if this lane signed it now; None if it would.

        For the solver this is what the rules will say, unless its frame comes to be late; it is
        judged as covering ``peer_seq`` (by default every trader frame seen). The trader's is judged
        behind its own pending frames and as covered in time; the solver may still do something
        first. A message with a value out of its range is ``malformed``. Signs nothing, changes
        nothing. Raises FactsBehind as ``step`` does.
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
        """What ``preview`` says of a lane's next frame, and what comes of it. ahead: as for
        ``step_entry``. Raises as ``step`` does."""
        if entry.lane is Lane.SOLVER:
            at, rulings = self.step_entry(entry, ahead)
            return DryRun(entry, Projection(at, rulings, at), rulings[-1].violation)
        before = self.look_ahead() if ahead is None else ahead
        after = before.and_then(entry)
        return DryRun(entry, after, after.rulings[-1].violation)

    def _take(
        self, entries: Sequence[RuledFrame], covered_at: int | None
    ) -> tuple[Replay, list[Ruling]]:
        """Trader frames take effect, covered at a time, or each in time; with what they decide."""
        rulings: list[Ruling] = []
        at, decided = self._decide(entries, rulings)
        undecided = at._events
        for entry, (named, shaken) in zip(entries, decided, strict=True):
            covers = max(at._trader_covers, entry.peer_seq)
            # Where all is decided, nothing before this frame is ever applied again.
            kept = at._events if undecided else ()
            at = replace(at, named=named, _trader_covers=covers, _events=kept)
            limit = entry.sending_time if covered_at is None else covered_at
            at = at._apply(entry, self._legal_time(entry, limit), rulings, shaken=shaken)
        return at, rulings

    def _legal_time(self, entry: RuledFrame, covered_at: int) -> int:
        """The legal time of a frame whose first covering frame was sent at ``covered_at``."""
        if entry.lane is Lane.SOLVER and entry.seq <= self._wallet_covers:
            return entry.sending_time
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
        """The legal time of the solver frames that these trader frames are the first to cover;
        those covered before are no longer among the events. What rested on late ones is applied
        again, once. Gives for each trader frame what a UCP may name there, and whether a late
        frame was yet to be found when it was at its turn."""
        events = list(self._events)
        faults = self._rejected
        at = end = 0
        covered: list[int] = []  # by each trader frame: up to which of the events
        late: list[int] = []  # by each: its first late one, or -1
        for entry in entries:
            late.append(-1)
            while at < len(events):
                event = events[at]
                if event.entry.lane is Lane.SOLVER:
                    if event.entry.seq > entry.peer_seq:
                        break
                    if event.first is not None and is_fault(event, entry):
                        faults = (*faults, Fault(event.entry.seq, event.first))
                    legal = self._legal_time(event.entry, entry.sending_time)
                    if legal != event.legal_time != NO_TIME:
                        events[at] = replace(event, legal_time=legal)
                        late[-1] = at if late[-1] < 0 else late[-1]
                    end = at + 1
                at += 1
            covered.append(end)
        shaken_to = max((i + 1 for i, event in enumerate(events) if event.shaken), default=0)
        # All lateness is known by now, so what rests on it is judged again only once.
        account = self._apply_again(events, {i for i in late if i >= 0}, rulings)
        decided = self._decided(entries, events, account, covered, late, shaken_to)
        rest = replace(self, account=account, _rejected=faults, _events=tuple(events[at:]))
        return rest, decided

    def _take_in_time(self, entry: RuledFrame) -> tuple[Replay, list[Ruling]] | None:
        """What ``_take`` gives for one trader frame in time; None where it decides that a solver
        frame was late, which is seldom, and costs more."""
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
        """The account after the events, from the first that is late on with its legal time."""
        if not late:
            return self.account
        first = min(late)
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
        """See ``_decide``. An account is firm for a trader frame if nothing after it was ruled
        before a late frame in front of that was found, and no frame after it says that it covers
        what it cannot have seen: a replay that begins there has not the dates to know it by."""
        decided: list[tuple[Named, bool]] = []
        named, covers, found = self.named, self._trader_covers, 0
        last_late = max((n for n, first in enumerate(late) if first >= 0), default=-1)
        for n, entry in enumerate(entries):
            # Trader frames ruled before this one found a late one are no firmer than events.
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
        """The account after solver frame ``covers``, the last of the events up to ``end``; a trader
        frame has just come to cover it."""
        if self._start is not None and covers == self._start.solver_seq:
            return Named(self._start, True)
        if not end or events[end - 1].entry.seq != covers:
            return checkpoint.UNKNOWN
        return Named(events[end].before if end < len(events) else account, firm)

    def _apply(
        self, entry: RuledFrame, legal_time: int, rulings: list[Ruling], *, shaken: bool = False
    ) -> Replay:
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
        if violation is None and isinstance(said, SettlementOutput) and said.ref_seq_num:
            after = replace(after, _wallet_covers=max(self._wallet_covers, said.ref_seq_num))
        if isinstance(entry.message, Checkpoint):
            return after._checkpointed(self.account, violation)
        return after

    def _checkpointed(self, before: Account, violation: Violation | None) -> Replay:
        """Keep the accounts that a UCP made matter, and let go of what came before."""
        if violation is not None:
            disputed = self.offered or self.named.account
            wrong = violation.name == "wrong-checkpoint"
            return replace(self, disputed=disputed) if wrong else self
        offer, agreed = self.account.offer, self.account.checkpoint
        if offer is not None and offer != before.offer and self.named.account is not None:
            return replace(self, _offered=(*self._offered, self.named.account))
        if agreed is None or agreed == before.checkpoint:
            return self
        # What is ruled again may lie before this UCP, and then asks for the checkpoint before.
        oldest = (self._events[0].before if self._events else self.account).checkpoint
        since = 0 if oldest is None else oldest.solver_seq
        return replace(
            self,
            _offered=tuple(a for a in self._offered if a.solver_seq >= since),
            _rejected=tuple(f for f in self._rejected if f.seq > agreed.solver_seq),
        )


@dataclass(frozen=True, slots=True)
class Projection:
    """A replay whose pending trader frames are taken as covered in time: what they decided of the
    solver's frames stays decided, none is pending, and ``rulings`` are theirs. ``since``: the
    replay with them pending."""

    replay: Replay
    rulings: tuple[Ruling, ...]
    since: Replay

    def and_then(self, entry: RuledFrame) -> Projection:
        """With one more trader frame."""
        entry = self.since._seen(entry)
        since = replace(self.since, pending=(*self.since.pending, entry))
        # Judged on top of what lies ahead already, so each pending frame is judged once.
        taken = self.replay._take_in_time(entry)
        if taken is None:
            return since.look_ahead()
        return Projection(taken[0], (*self.rulings, *taken[1]), since)


@dataclass(frozen=True, slots=True)
class DryRun:
    """What a frame would come to. after: for the solver's, the replay after it; for the trader's,
    what lies ahead with it among the pending."""

    entry: RuledFrame
    after: Projection
    violation: Violation | None


def replay(
    inputs: ReplayInputs,
    terms: Terms,
    frames: Iterable[VerifiedFrame],
    facts: ChainFacts | None = None,
) -> Account:
    """The account after ``frames``, in any order in which each lane's are in sequence and every
    frame comes after the one it covers. Trader frames that no solver frame covers are pending and
    do not count. Raises as ``Replay.step`` does."""
    at = Replay.start(inputs, terms, facts)
    for frame in frames:
        at, _ = at.step(frame)
    return at.account
