"""The linear order and legal time: frames of two lanes become one account.

The order. The solver's lane sequences. A solver frame takes effect at its place in its lane. A
trader frame takes effect just before the first solver frame that covers it, and is pending until
then. So the account after a solver frame depends only on the frames before it in this order. The
two sides see frames arrive in different orders, and still compute the same account.

Legal time (``spec.md`` 2). A trader frame takes effect when it is covered, so its legal time is
known then. A solver frame takes effect before it is covered, so it first gets its own sendingTime.
It is decided when the first trader frame that covers it takes effect. If it was late, the replay
returns to the account just before it, and judges every frame from there again with the legal times
now known. For this, an ``Event`` keeps the place in the account's undo log before each frame that
may be judged again. Nothing before those frames ever changes, so the log is trimmed there.

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
(``wallet_covers``). Both sides have agreed to them, so none can become void.

Checkpoints. A checkpoint names the account after the last solver frame that the trader covers; that
account is final. ``Replay.at_checkpoint`` continues from it, and must give the same result as the
whole history. Two conditions ensure this. No state of checkpoints changes between the named frame
and the UCP that names it (``checkpoint.agree`` refuses otherwise). No frame after the named one was
ever judged on an account that changed later, or by a date of a frame before it (``Named.firm``).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from psymm.messages import Checkpoint, SettlementOutput
from psymm.rulebook import checkpoint
from psymm.rulebook.account import AgreedCheckpoint, CheckpointOffer, Lane
from psymm.rulebook.books import Account
from psymm.rulebook.checkpoint import NO_MARK, Named
from psymm.rulebook.events import Event, Fault, Ruling, is_fault
from psymm.rulebook.inputs import FRAME_BYTES, ChainFacts, ReplayInputs, RuledFrame
from psymm.rulebook.live_account import LiveAccount
from psymm.rulebook.rules import MOST_UNCOVERED, NO_TIME, judge
from psymm.rulebook.violation import FactsBehind, Violation
from psymm.terms import CLOSING_BYTES, Terms

_NEVER_UNDONE: Final = 2**64
_LONG: Final = 256
"""The length at which the undo log is trimmed."""


@dataclass(slots=True)
class SavedState:
    """What a sequence needs to return to where it was."""

    mark: int
    events: list[Event]
    """The list of events; since then, others were only added at its end."""
    many: int
    """How many events there were."""
    named: Named
    disputed: Account | None
    rejected: tuple[Fault, ...]
    trader_covers: int
    wallet_covers: int
    offered: tuple[Account, ...]
    base: bool
    """Whether no other saved state was in use then."""


class FrameSequence:
    """The frames in effect and the account after them.

    Attributes:
        inputs: the custody's id and wallets.
        terms: its terms.
        facts: what is known of the chain.
        account: the account after the last frame.
        events: the frames in effect from the first undecided solver frame on.
        named: what a UCP may name now.
        disputed: the last account for which a frame named another hash.
        rejected: the faults of solver frames, decided by the trader's covers.
        trader_covers: the last solver frame that a trader frame in effect covers.
        wallet_covers: the last solver frame that the trader's wallet covers.
        offered: the accounts of checkpoints that are in force, offered, or may be again.
    """

    def __init__(
        self,
        inputs: ReplayInputs,
        terms: Terms,
        facts: ChainFacts,
        start: Account | None,
    ) -> None:
        """start: the account of a checkpoint in force, to go on from there."""
        first = Account(custody=inputs.custody, terms=terms) if start is None else start
        self.inputs = inputs
        self.terms = terms
        self.facts = facts
        self.account = LiveAccount(first)
        self.events: list[Event] = []
        self.named = checkpoint.UNKNOWN
        self.disputed: Account | None = None
        self.rejected: tuple[Fault, ...] = ()
        self.trader_covers = first.trader_covers
        self.wallet_covers = 0
        self.offered: tuple[Account, ...] = () if start is None else (start,)
        self._start = start
        # The oldest mark to which the account was taken back since the last base `SavedState`.
        self._low = _NEVER_UNDONE

    def take(
        self, entries: Sequence[RuledFrame], covered_at: int | None, rulings: list[Ruling]
    ) -> None:
        """Put trader frames into effect, and decide the solver frames that they cover.

        Args:
            entries: the frames, in order.
            covered_at: the sendingTime of the solver frame that covers them; None: each in time.
            rulings: where to add theirs.
        """
        decided = self._decide(entries, rulings)
        undecided = bool(self.events)
        for entry, (named, shaken) in zip(entries, decided, strict=True):
            # If all solver frames are decided, no frame before this one is ever judged again.
            if not undecided:
                self.events = []
            self.named = named
            self.trader_covers = max(self.trader_covers, entry.peer_seq)
            limit = entry.sending_time if covered_at is None else covered_at
            self.apply(entry, self.legal_time(entry, limit), rulings, shaken=shaken)

    def legal_time(self, entry: RuledFrame, covered_at: int) -> int:
        """The legal time of a frame first covered at ``covered_at`` (``spec.md`` 2)."""
        # What the wallet covered counts as in time.
        if entry.lane is Lane.SOLVER and entry.seq <= self.wallet_covers:
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
    ) -> list[tuple[Named, bool]]:
        """Decide the legal time of the solver frames that these trader frames cover first.

        Solver frames covered before are no longer among the events. If some were late, all events
        from the first late one on are judged again, once.

        Returns, for each trader frame, what a UCP may name there, and whether a later trader frame
        of ``entries`` finds a late solver frame (the ruling is then "shaken").
        """
        events = list(self.events)
        faults = self.rejected
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
                    legal = self.legal_time(event.entry, entry.sending_time)
                    # A frame beyond the 128 keeps NO_TIME (``spec.md`` 67).
                    if legal != event.legal_time != NO_TIME:
                        events[at] = event._replace(legal_time=legal)
                        late[-1] = at if late[-1] < 0 else late[-1]
                    end = at + 1
                at += 1
            covered.append(end)
        shaken_to = max((i + 1 for i, event in enumerate(events) if event.shaken), default=0)
        # All lateness is known now, so one pass judges again everything that depends on it.
        self._apply_again(events, {i for i in late if i >= 0}, rulings)
        decided = self._decided(entries, events, covered, late, shaken_to)
        # Events before `at` are decided: they never change again and need not be kept.
        self.rejected, self.events = faults, events[at:]
        return decided

    def take_in_time(self, entry: RuledFrame, rulings: list[Ruling]) -> bool:
        """``_take`` for one trader frame in time, without a second judgement.

        False if it finds a late solver frame; then nothing has changed. That is rare, and needs the
        full ``_take``.
        """
        events, faults = self.events, self.rejected
        at = end = 0
        for event in events:
            if event.entry.lane is Lane.SOLVER:
                if event.entry.seq > entry.peer_seq:
                    break
                legal = self.legal_time(event.entry, entry.sending_time)
                if legal != event.legal_time != NO_TIME:
                    return False
                if event.first is not None and is_fault(event, entry):
                    faults = (*faults, Fault(event.entry.seq, event.first))
                end = at + 1
            at += 1
        named, covers = self.named, self.trader_covers
        # Firm, unless a frame after the named one was judged on an account that changed later, or
        # covers what its signer cannot have seen. See ``_decided``.
        if entry.peer_seq > covers:
            covers, firm = entry.peer_seq, True
            for event in events[end:]:
                if event.shaken or (event.entry.unseen and event.entry.lane is Lane.TRADER):
                    firm = False
            named = self._name(covers, events, end, firm=firm)
        self.named, self.trader_covers, self.rejected = named, covers, faults
        if at:
            self.events = events[at:]
        self.apply(entry, entry.sending_time, rulings)
        return True

    def _apply_again(self, events: list[Event], late: set[int], rulings: list[Ruling]) -> None:
        """Judge the events again from the first late one on.

        Adds a ruling for each frame whose violation or legal time changed.
        """
        if not late:
            return
        first, account = min(late), self.account
        # The account before the first late frame is right: nothing before it was late.
        account.undo_to(events[first].mark)
        self._low = min(self._low, len(account.log))
        for i in range(first, len(events)):
            event, mark = events[i], len(account.log)
            violation = judge(
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
            events[i] = event._replace(mark=mark, violation=violation, shaken=shaken)

    def _decided(
        self,
        entries: Sequence[RuledFrame],
        events: Sequence[Event],
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
        named, covers, found = self.named, self.trader_covers, 0
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
                named = self._name(covers, events, end, firm=firm)
            decided.append((named, last_late > n))
        return decided

    def _name(self, covers: int, events: Sequence[Event], end: int, *, firm: bool) -> Named:
        """The account after solver frame ``covers``, which a trader frame has just covered.

        It is the last of the events up to ``end``.
        """
        if self._start is not None and covers == self._start.solver_seq:
            return Named(NO_MARK, True, self._start)
        if not end or events[end - 1].entry.seq != covers:
            # It lies before the checkpoint at which this replay began.
            return checkpoint.UNKNOWN
        return Named(events[end].mark if end < len(events) else len(self.account.log), firm)

    def write_out(self, named: Named) -> None:
        """Make the snapshot that a UCP may name."""
        if named.account is None and named.mark != NO_MARK:
            named.account = self.account.snapshot(named.mark)

    def apply(
        self, entry: RuledFrame, legal_time: int, rulings: list[Ruling], *, shaken: bool = False
    ) -> None:
        """Judge a frame and keep it as an event. If it raises FactsBehind, nothing has changed."""
        account, named = self.account, self.named
        # More than 128 uncovered: the frame moves no clock and is never decided (``spec.md`` 67).
        if entry.lane is Lane.SOLVER and entry.seq - account.trader_covers > MOST_UNCOVERED:
            legal_time = NO_TIME
        said, mark = entry.message, len(account.log)
        if isinstance(said, Checkpoint):
            self.write_out(named)
        try:
            violation = judge(account, entry, legal_time, self.inputs, self.facts, named)
        except FactsBehind:
            account.undo_to(mark)
            raise
        rulings.append(Ruling(entry.lane, entry.seq, said, legal_time or account.clock, violation))
        # A frame beyond its lane's limits does not exist: nothing is kept of it (``spec.md`` 10).
        if violation is not None and violation.name == "lane-full":
            return
        self.events.append(
            Event(entry, legal_time, mark, account.solver_seq, violation, violation, named, shaken)
        )
        # A valid UPY of the trader's wallet covers the solver's frames up to the one it names.
        if violation is None and isinstance(said, SettlementOutput) and said.ref_seq_num:
            self.wallet_covers = max(self.wallet_covers, said.ref_seq_num)
        if isinstance(said, Checkpoint):
            self._checkpointed(mark, violation)

    def _checkpointed(self, before: int, violation: Violation | None) -> None:
        """After a UCP: keep the accounts that matter for checkpoints, and drop older ones.

        Args:
            before: the mark before the UCP.
            violation: the UCP's.
        """
        live, named = self.account, self.named.account
        if violation is not None:
            # Keep our account for comparison: the two sides disagree about its hash.
            if violation.name == "wrong-checkpoint":
                self.disputed = self.kept(live.offer) or named
            return
        offer, agreed = live.offer, live.checkpoint
        if offer is not None and offer != live.was(before, "offer") and named is not None:
            self.offered = (*self.offered, named)
            return
        if agreed is None or agreed == live.was(before, "checkpoint"):
            return
        # Undecided events may be judged again from before this UCP. Then the previous checkpoint
        # is in force, so keep its account until the oldest event is past it.
        oldest = live.was(self.events[0].mark, "checkpoint")
        since = 0 if oldest is None else oldest.solver_seq
        self.offered = tuple(a for a in self.offered if a.solver_seq >= since)
        self.rejected = tuple(f for f in self.rejected if f.seq > agreed.solver_seq)

    def kept(
        self, point: AgreedCheckpoint | CheckpointOffer | None, saved: SavedState | None = None
    ) -> Account | None:
        """The account of a checkpoint that is in force or offered, now or at a saved state."""
        offered = self.offered if saved is None else saved.offered
        found = (a for a in offered if point is not None and a.solver_seq == point.solver_seq)
        return next(found, None)

    def is_full(self, entry: RuledFrame, last: AgreedCheckpoint | None) -> bool:
        """Whether a solver frame is beyond its lane's limits, before what it would cover.

        last: the checkpoint in force then. A trader frame that is only projected may have brought a
            newer one into force in ``account``, and another replay may not project it.
        """
        lane, counted = entry.lane, 0 if last is None else last.bytes_sent[entry.lane]
        sent = self.account.bytes_sent[lane] - counted + entry.size + FRAME_BYTES
        return sent > self.terms.limits.bytes + CLOSING_BYTES

    def sent_at(self, saved: SavedState | None, seq: int) -> int:
        """The sendingTime of a solver frame that no trader frame in effect covers.

        saved: where to look, if not now.
        """
        events = self.events if saved is None else saved.events
        many = len(events) if saved is None else saved.many
        # Usually it is the last one.
        last = events[many - 1].entry if many else None
        if last is not None and last.lane is Lane.SOLVER and last.seq == seq:
            return last.sending_time
        found = bisect_left(events, seq, hi=many, key=lambda event: event.solver_seq)
        # A frame from before the checkpoint at which the replay began has no date here.
        if found == many or events[found].entry.lane is not Lane.SOLVER:
            return NO_TIME
        entry = events[found].entry
        return entry.sending_time if entry.seq == seq else NO_TIME

    # --- saving and restoring ---------------------------------------------------------------

    def save(self, *, base: bool) -> SavedState:
        if base:
            self._low = _NEVER_UNDONE
        return SavedState(
            len(self.account.log),
            self.events,
            len(self.events),
            self.named,
            self.disputed,
            self.rejected,
            self.trader_covers,
            self.wallet_covers,
            self.offered,
            base,
        )

    def in_log(self, saved: SavedState) -> bool:
        """Whether the undo log has the account of a saved state."""
        return not saved.base or self._low >= saved.mark

    def forget(self) -> None:
        """Trim the undo log, if it is long. No saved state may be in use."""
        if len(self.account.log) < _LONG:
            return
        # Nothing will be undone from before the named account and the first undecided frame.
        oldest = self.events[0].mark if self.events else len(self.account.log)
        if self.named.account is None and NO_MARK < self.named.mark < oldest:
            oldest = self.named.mark
        self.account.forget(oldest)
        self.events = [event._replace(mark=event.mark - oldest) for event in self.events]
        if self.named.mark != NO_MARK:
            self.named.mark -= oldest

    def restore(self, saved: SavedState) -> None:
        self.events = saved.events
        del self.events[saved.many :]
        self.named = saved.named
        self.disputed = saved.disputed
        self.rejected = saved.rejected
        self.trader_covers = saved.trader_covers
        self.wallet_covers = saved.wallet_covers
        self.offered = saved.offered
        if self.in_log(saved):
            self.account.undo_to(saved.mark)
            return
        # Events from before were judged again with other legal times: judge them as they were.
        self.account.undo_to(self._low)
        events = self.events = list(saved.events)
        for i in range(bisect_left(events, self._low, key=lambda event: event.mark), len(events)):
            event, mark = events[i], len(self.account.log)
            judge(self.account, event.entry, event.legal_time, self.inputs, self.facts, event.named)
            events[i] = event._replace(mark=mark)
        self._low = _NEVER_UNDONE
