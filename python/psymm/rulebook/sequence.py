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

A checkpoint names the account after the last solver frame that the trader covers, which is final.
``Replay.at_checkpoint`` goes on from there, and gives what the whole history gives: nothing of
checkpoints changes between the frame that is named and the UCP that names it (``Account`` holds
all of their state, and ``checkpoint.agree`` refuses else), and no frame after the one named was
ever ruled on an account that turned out not to be (``Named.firm``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from psymm.messages import Checkpoint, JsonError, Message, Reject, encode
from psymm.rulebook import checkpoint
from psymm.rulebook.account import Account, CheckpointRefusal, Lane
from psymm.rulebook.checkpoint import Named
from psymm.rulebook.inputs import ChainFacts, Entry, Holding, Opening, VerifiedFrame
from psymm.rulebook.rules import advance, rule
from psymm.rulebook.value import replace
from psymm.rulebook.violation import FrameOutOfOrder, Refused, Violation, violated
from psymm.terms import Terms


@dataclass(frozen=True, slots=True)
class Ruling:
    """What became of a frame. ``again``: it was ruled before, and this replaces that, because a
    frame that it rested on turned out to be late."""

    lane: Lane
    seq: int
    message: Message | None
    legal_time: int
    violation: Violation | None
    again: bool = False


@dataclass(frozen=True, slots=True)
class Fault:
    """A solver frame that broke a rule and that the trader's first covering frame rejects; or a
    frame of either lane that refuses a right checkpoint."""

    seq: int
    violation: Violation
    lane: Lane = Lane.SOLVER


@dataclass(frozen=True, slots=True)
class _Event:
    """A frame that took effect, with the account before it and how it was ruled: last, and at
    first, when its sender could still have known better. ``shaken``: these may differ, since a
    frame before it was late. ``named``: what a UCP may name there."""

    entry: Entry
    legal_time: int
    before: Account
    violation: Violation | None
    first: Violation | None
    named: Named
    shaken: bool = False


@dataclass(frozen=True, slots=True)
class Replay:
    """Frames so far, ruled. A value: ``step`` gives a new one and leaves this one as it is.

    ``account`` is the account after the last solver frame. ``pending`` holds the trader's frames
    that no solver frame covers yet. ``named`` is the account that a UCP may name now. ``disputed``
    is the last account that a frame gave another hash for.
    """

    opening: Opening
    terms: Terms
    facts: ChainFacts
    account: Account
    pending: tuple[Entry, ...] = ()
    named: Named = field(default=checkpoint.UNKNOWN, repr=False)
    disputed: Account | None = field(default=None, repr=False)
    _rejected: tuple[Fault, ...] = ()
    _events: tuple[_Event, ...] = field(default=(), repr=False)
    _trader_covers: int = 0
    _start: Account | None = field(default=None, repr=False)
    _offered: tuple[Account, ...] = field(default=(), repr=False)

    @staticmethod
    def start(opening: Opening, terms: Terms, facts: ChainFacts | None = None) -> Replay:
        """Before the first frame."""
        account = Account(custody=opening.custody, terms=terms)
        return Replay(opening, terms, facts or ChainFacts(), account)

    @staticmethod
    def at_checkpoint(
        opening: Opening, terms: Terms, account: Account, facts: ChainFacts | None = None
    ) -> Replay:
        """From the account of a checkpoint in force. ``step`` then takes the solver's frames after
        ``account.solver_seq`` and the trader's after ``account.trader_seq``."""
        return Replay(
            opening,
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
        return (*self._rejected, *(_fault(refusal) for refusal in self.account.refusals))

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

    def learn(self, commitment: bytes, token: str, amount: int) -> Replay:
        """Know what a note holds, as its verified opening says. Token: checksummed address."""
        notes = {**self.opening.notes, commitment: Holding(token, amount)}
        return replace(self, opening=Opening(self.opening.custody, notes))

    def with_facts(self, facts: ChainFacts) -> Replay:
        """Know more of the chain."""
        return replace(self, facts=facts)

    @property
    def heads(self) -> tuple[int, int]:
        """The last seq seen of the trader's and of the solver's lane."""
        last = self.pending[-1].seq if self.pending else self.account.trader_seq
        return last, self.account.solver_seq

    def step(self, frame: VerifiedFrame) -> tuple[Replay, tuple[Ruling, ...]]:
        """The next frame of either lane.

        Gives what took effect with it, in order: rulings that a late frame changed first, then
        trader frames that it covers, then itself. A trader frame rules nothing yet: it is pending.

        Raises FrameOutOfOrder, OpeningUnknown or FactsBehind, and then nothing has changed.
        """
        return self.step_entry(Entry.read(frame))

    def step_entry(
        self, entry: Entry, ahead: Ahead | None = None
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
        if entry.lane is Lane.TRADER:
            return replace(self, pending=(*self.pending, entry)), ()
        if ahead is not None and self._covers_all_in_time(entry):
            told = list(ahead.rulings)
            return ahead.replay._apply(entry, entry.sending_time, told), tuple(told)
        covered = tuple(t for t in self.pending if t.seq <= entry.peer_seq)
        at = replace(self, pending=self.pending[len(covered) :])
        rulings: list[Ruling] = []
        for trader_entry in covered:
            at = at._decide(trader_entry, rulings)
            legal = at._legal_time(trader_entry, entry.sending_time)
            at = at._apply(trader_entry, legal, rulings)
        return at._apply(entry, entry.sending_time, rulings), tuple(rulings)

    def projected(self) -> Account:
        """The account as it will be if the pending trader frames are covered now, in time."""
        return self.look_ahead().replay.account

    def look_ahead(self) -> Ahead:
        """As if the pending trader frames were covered now, in time."""
        return Ahead(self, ()).and_then(*self.pending)

    def _covers_all_in_time(self, entry: Entry) -> bool:
        return all(
            t.seq <= entry.peer_seq and self._legal_time(t, entry.sending_time) == t.sending_time
            for t in self.pending
        )

    def preview(
        self,
        lane: Lane,
        message: Message,
        sending_time: int,
        *,
        peer_seq: int | None = None,
    ) -> Violation | None:
        """Whether a message would be in order if this lane signed it now; None if it would.

        For the solver this is what the rules will say, unless its frame comes to be late; it is
        judged as covering ``peer_seq`` (by default every trader frame seen). The trader's is judged
        behind its own pending frames and as covered in time; the solver may still do something
        first. A message with a value out of its range is ``malformed``. Signs nothing, changes
        nothing. Raises OpeningUnknown or FactsBehind as ``step`` does.
        """
        try:
            size = len(encode(message))
        except JsonError as error:
            return Violation("malformed", (("code", error.code),))
        other = self.heads[lane.other]
        entry = Entry(
            lane,
            self.heads[lane] + 1,
            other if peer_seq is None else peer_seq,
            sending_time,
            size,
            message,
        )
        return self.forecast(entry).violation

    def forecast(self, entry: Entry, ahead: Ahead | None = None) -> Forecast:
        """What ``preview`` says of a lane's next frame, and what comes of it. ahead: as for
        ``step_entry``. Raises as ``step`` does."""
        if entry.lane is Lane.SOLVER:
            at, rulings = self.step_entry(entry, ahead)
            return Forecast(entry, Ahead(at, rulings), rulings[-1].violation)
        before = self.look_ahead() if ahead is None else ahead
        after = before.and_then(entry)
        return Forecast(entry, after, after.rulings[-1].violation)

    def _taken(self, entries: Iterable[Entry]) -> tuple[Replay, tuple[Ruling, ...]]:
        """These trader frames in effect, each at its own time, with what their covering decides."""
        at = self
        rulings: list[Ruling] = []
        for entry in entries:
            at = at._decide(entry, rulings)
            at = at._apply(entry, entry.sending_time, rulings)
        return at, tuple(rulings)

    def _legal_time(self, entry: Entry, covered_at: int) -> int:
        """The legal time of a frame whose first covering frame was sent at ``covered_at``."""
        limit = entry.sending_time + self.terms.timeouts.acknowledgement
        noticed = self.facts.noticed.get((int(entry.lane), entry.seq))
        if covered_at <= limit or (noticed is not None and noticed <= limit):
            return entry.sending_time
        return covered_at if noticed is None else min(covered_at, noticed)

    def _decide(self, trader_entry: Entry, rulings: list[Ruling]) -> Replay:
        """The legal time of the solver frames that ``trader_entry`` is the first to cover. Those
        covered before are no longer among the events."""
        events = list(self._events)
        first_late: int | None = None
        faults = self._rejected
        for i, event in enumerate(events):
            seq = event.entry.seq
            if event.entry.lane is Lane.TRADER or seq > trader_entry.peer_seq:
                continue
            if event.first is not None and _rejects(trader_entry, seq):
                faults = (*faults, Fault(seq, event.first))
            legal = self._legal_time(event.entry, trader_entry.sending_time)
            if legal != event.legal_time:
                events[i] = replace(event, legal_time=legal)
                first_late = i if first_late is None else first_late
        account = self.account
        if first_late is not None:
            account = events[first_late].before
            for i in range(first_late, len(events)):
                event = events[i]
                before = account
                account, violation = _ruled(
                    account, event.entry, event.legal_time, self.opening, self.facts, event.named
                )
                if violation != event.violation or i == first_late:
                    rulings.append(_ruling(event.entry, event.legal_time, violation, again=True))
                events[i] = replace(
                    event,
                    before=before,
                    violation=violation,
                    shaken=event.shaken or i > first_late,
                )
        covers = max(self._trader_covers, trader_entry.peer_seq)
        named = (
            self.named if covers == self._trader_covers else self._named(covers, events, account)
        )
        uncovered = next(
            (
                i
                for i, event in enumerate(events)
                if event.entry.lane is Lane.SOLVER and event.entry.seq > covers
            ),
            len(events),
        )
        return replace(
            self,
            account=account,
            named=named,
            _rejected=faults,
            _events=tuple(events[uncovered:]),
            _trader_covers=covers,
        )

    def _named(self, covers: int, events: Sequence[_Event], account: Account) -> Named:
        """The account after solver frame ``covers``, which the trader has just come to cover."""
        if self._start is not None and covers == self._start.solver_seq:
            return Named(self._start, True)
        for i, event in enumerate(events):
            if event.entry.lane is Lane.SOLVER and event.entry.seq == covers:
                after = events[i + 1].before if i + 1 < len(events) else account
                return Named(after, not any(later.shaken for later in events[i + 1 :]))
        return checkpoint.UNKNOWN

    def _apply(self, entry: Entry, legal_time: int, rulings: list[Ruling]) -> Replay:
        account, violation = _ruled(
            self.account, entry, legal_time, self.opening, self.facts, self.named
        )
        rulings.append(_ruling(entry, legal_time, violation))
        event = _Event(entry, legal_time, self.account, violation, violation, self.named)
        after = replace(self, account=account, _events=(*self._events, event))
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
class Ahead:
    """A replay whose pending trader frames are taken as covered in time: what they decided of the
    solver's frames stays decided, none is pending, and ``rulings`` are theirs."""

    replay: Replay
    rulings: tuple[Ruling, ...]

    def and_then(self, *entries: Entry) -> Ahead:
        """With further trader frames."""
        at, rulings = self.replay._taken(entries)
        return Ahead(replace(at, pending=()), (*self.rulings, *rulings))


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a frame would come to. after: for the solver's, the replay after it; for the trader's,
    what lies ahead with it among the pending."""

    entry: Entry
    after: Ahead
    violation: Violation | None


def _ruled(
    account: Account,
    entry: Entry,
    legal_time: int,
    opening: Opening,
    facts: ChainFacts,
    named: Named,
) -> tuple[Account, Violation | None]:
    """The account after a frame, and its violation if it is one."""
    placed = advance(account, entry, legal_time)
    try:
        return checkpoint.overdue(rule(placed, entry, opening, facts, named), entry), None
    except Refused as refused:
        return checkpoint.overdue(placed, entry), refused.violation


def _fault(refusal: CheckpointRefusal) -> Fault:
    found = violated("checkpoint-refused", ref_seq=refusal.ref_seq).violation
    return Fault(refusal.seq, found, refusal.lane)


def _ruling(
    entry: Entry, legal_time: int, violation: Violation | None, *, again: bool = False
) -> Ruling:
    return Ruling(entry.lane, entry.seq, entry.message, legal_time, violation, again)


def _rejects(entry: Entry, seq: int) -> bool:
    return isinstance(entry.message, Reject) and entry.message.ref_seq_num == seq


def replay(
    opening: Opening,
    terms: Terms,
    frames: Iterable[VerifiedFrame],
    facts: ChainFacts | None = None,
) -> Account:
    """The account after ``frames``, in any order in which each lane's are in sequence and every
    frame comes after the one it covers. Trader frames that no solver frame covers are pending and
    do not count. Raises as ``Replay.step`` does."""
    at = Replay.start(opening, terms, facts)
    for frame in frames:
        at, _ = at.step(frame)
    return at.account
