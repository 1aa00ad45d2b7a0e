"""``Replay``: step frames of two lanes, and try messages before they are signed.

Trying. ``dry_run`` judges a message before it is signed: it applies the frame to the account, and
undoes it when anything else comes. If the frame itself comes next, it is not judged again
(``_Trial``). A trader message is judged after the trader's pending frames, as if a solver frame
covered all of them now, in time (``_Ahead``). If the next solver frame does cover them so, what was
applied stays. Otherwise it is undone. So each frame is judged once, unless lanes cross.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from psymm.messages import JsonError, Message, encode
from psymm.rulebook.account import AgreedCheckpoint, CheckpointOffer, Lane
from psymm.rulebook.books import Account, Books
from psymm.rulebook.checkpoint import Named
from psymm.rulebook.events import Fault, Ruling, fault_of
from psymm.rulebook.inputs import (
    ChainFacts,
    ReplayInputs,
    RuledFrame,
    VerifiedFrame,
    has_come,
)
from psymm.rulebook.sequence import FrameSequence, SavedState
from psymm.rulebook.violation import FactsBehind, FrameOutOfOrder, Violation
from psymm.terms import CLOSING_BYTES, Terms


@dataclass(slots=True)
class _Ahead:
    """Pending trader frames that are applied as if they were covered now, in time."""

    saved: SavedState
    """Before the first of them."""
    rulings: list[Ruling]
    done: int
    """How many of the pending frames are applied."""


@dataclass(slots=True)
class _Trial:
    """A frame that is applied, and undone unless it comes next."""

    stated: RuledFrame
    entry: RuledFrame
    """It, covering no more than its signer can have seen."""
    saved: SavedState
    rulings: list[Ruling]
    on_top: bool
    """Whether it is applied on top of the projection; otherwise there is none."""
    rest: list[RuledFrame]
    """The trader frames that are pending after it."""


class Replay:
    """The state of a replay after some frames. ``step`` takes the next one."""

    def __init__(
        self,
        inputs: ReplayInputs,
        terms: Terms,
        facts: ChainFacts | None = None,
        start: Account | None = None,
    ) -> None:
        """start: the account of a checkpoint in force, to replay from there."""
        self._sequence = FrameSequence(inputs, terms, facts or ChainFacts(), start)
        self.latest: Books = self._sequence.account
        """The account as judged last, perhaps with pending frames and a frame that was only tried.

        It changes with the next step. For what need not be exact.
        """
        first = self._sequence.account.snapshot()
        # The trader's frames that no solver frame covers yet.
        self._pending: list[RuledFrame] = []
        self._heads = [first.trader_seq, first.solver_seq]
        self._ahead: _Ahead | None = None
        self._trial: _Trial | None = None
        # Snapshots, made when asked for.
        self._account: Account | None = first
        self._projected: Account | None = None

    @staticmethod
    def start(inputs: ReplayInputs, terms: Terms, facts: ChainFacts | None = None) -> Replay:
        """A replay before the first frame."""
        return Replay(inputs, terms, facts)

    @staticmethod
    def at_checkpoint(
        inputs: ReplayInputs, terms: Terms, account: Account, facts: ChainFacts | None = None
    ) -> Replay:
        """A replay from the account of a checkpoint in force.

        ``step`` then takes the solver's frames after ``account.solver_seq`` and the trader's after
        ``account.trader_seq``.
        """
        return Replay(inputs, terms, facts, account)

    @property
    def inputs(self) -> ReplayInputs:
        return self._sequence.inputs

    @property
    def terms(self) -> Terms:
        return self._sequence.terms

    @property
    def facts(self) -> ChainFacts:
        return self._sequence.facts

    # --- what came of it -------------------------------------------------------------------

    @property
    def account(self) -> Account:
        """The account after the last solver frame. A snapshot."""
        if self._account is None:
            saved = self._base()
            self._account = self._sequence.account.snapshot(None if saved is None else saved.mark)
        return self._account

    def projected(self) -> Account:
        """The account if a solver frame covered all pending trader frames now, in time.

        A snapshot. Raises FactsBehind.
        """
        self._undo_trial()
        if not self._pending:
            return self.account
        self._project()
        if self._projected is None:
            self._projected = self._sequence.account.snapshot()
        return self._projected

    @property
    def pending(self) -> tuple[RuledFrame, ...]:
        """The trader's frames that no solver frame covers yet."""
        return tuple(self._pending)

    @property
    def heads(self) -> tuple[int, int]:
        """The last seq of the trader's and of the solver's lane, pending frames included."""
        return self._heads[0], self._heads[1]

    @property
    def trader_covers(self) -> int:
        """The last solver frame that the trader covers, by pending frames, too."""
        if self._pending:
            return self._pending[-1].peer_seq
        return int(self._at_base("trader_covers"))

    @property
    def faults(self) -> tuple[Fault, ...]:
        """The faults since the checkpoint in force."""
        saved = self._base()
        rejected = self._sequence.rejected if saved is None else saved.rejected
        refusals = self.account.refusals
        return (*rejected, *(fault_of(refusal) for refusal in refusals))

    @property
    def agreed(self) -> Account | None:
        """The account of the checkpoint in force; None before the first."""
        return self._sequence.kept(self.checkpoint, self._base())

    @property
    def offered(self) -> Account | None:
        """The account that the unanswered UCP names; None without one."""
        return self._sequence.kept(self.offer, self._base())

    @property
    def checkpoint(self) -> AgreedCheckpoint | None:
        """The checkpoint in force."""
        last: AgreedCheckpoint | None = self._at_base("checkpoint")
        return last

    @property
    def offer(self) -> CheckpointOffer | None:
        """The UCP that is not answered yet."""
        offer: CheckpointOffer | None = self._at_base("offer")
        return offer

    def _at_base(self, name: str) -> Any:
        """A field of ``account``, without a snapshot of it."""
        saved, account = self._base(), self._sequence.account
        return account.was(len(account.log) if saved is None else saved.mark, name)

    @property
    def disputed(self) -> Account | None:
        """The last account for which a frame named another hash."""
        saved = self._base()
        return self._sequence.disputed if saved is None else saved.disputed

    @property
    def decided(self) -> int:
        """The last solver frame whose legal time is final, by trader frames or by the wallet.

        Pending trader frames count as covered now. Nothing can change the outcome of this frame
        and of those before it.
        """
        saved = self._base() or self._sequence
        covered = max((one.peer_seq for one in self._pending), default=0)
        return max(covered, saved.trader_covers, saved.wallet_covers)

    def named(self) -> Named:
        """The account that a UCP may name now, after the pending frames. Raises FactsBehind."""
        self._undo_trial()
        self._project()
        self._sequence.write_out(self._sequence.named)
        return self._sequence.named

    def offered_ahead(self) -> Account | None:
        """``offered``, after the pending frames."""
        self._undo_trial()
        self._project()
        return self._sequence.kept(self._sequence.account.offer)

    # --- taking frames ---------------------------------------------------------------------

    def learn(self, facts: ChainFacts) -> None:
        """Take newer facts of the chain, for the frames to come."""
        self._undo_trial()
        self._undo_ahead()
        self._sequence.facts = facts

    def drop_pending(self, seq: int) -> None:
        """Forget the trader's pending frames from ``seq`` on."""
        self._undo_trial()
        self._undo_ahead()
        self._pending = [one for one in self._pending if one.seq < seq]
        self._heads[0] = (
            self._pending[-1].seq if self._pending else self._sequence.account.trader_seq
        )

    def step(self, frame: VerifiedFrame) -> tuple[Ruling, ...]:
        """Take the next frame of either lane.

        Returns the rulings that the frame caused, in this order: rulings that a late frame changed,
        the trader frames that it covers, itself. A trader frame causes none: it is pending.

        Raises FrameOutOfOrder or FactsBehind; then nothing has changed.
        """
        return self.step_entry(RuledFrame.read(frame))

    def step_entry(self, entry: RuledFrame) -> tuple[Ruling, ...]:
        """``step`` for a frame that is already decoded."""
        if self._trial is not None:
            stated = self._trial.stated
            # It is the message that was tried just now, so it is not judged again.
            if stated.message is entry.message and stated[:5] == entry[:5]:
                return self._keep_trial()
            self._undo_trial()
        self._check_place(entry)
        if entry.lane is Lane.TRADER:
            self._pending.append(self._seen(entry))
            self._heads[0] = entry.seq
            self._projected = None
            return ()
        self._try_solvers(entry)
        return self._keep_trial()

    def dry_run(self, entry: RuledFrame) -> Violation | None:
        """The violation in a lane's next frame, or None. The frame is not taken.

        A solver frame gets its final ruling, unless it turns out to be late. A trader frame is
        judged after the trader's pending frames and as covered in time; the solver may still act
        first. If this very frame is stepped next, it is not judged again.

        Raises as ``step`` does.
        """
        if self._trial is not None:
            self._undo_trial()
        self._check_place(entry)
        tries = self._try_traders if entry.lane is Lane.TRADER else self._try_solvers
        return tries(entry).rulings[-1].violation

    def preview(
        self, lane: Lane, message: Message, sending_time: int, *, peer_seq: int | None = None
    ) -> Violation | None:
        """The violation if this lane signed the message now; None if it would be in order.

        As ``dry_run``. A message with a value out of range is ``malformed``.

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
        return self.dry_run(entry)

    def _check_place(self, entry: RuledFrame) -> None:
        # The core has checked links and dates already; only the place is checked here.
        expected = self._heads[entry.lane] + 1
        if entry.seq != expected:
            raise FrameOutOfOrder(lane=int(entry.lane), seq=entry.seq, expected=expected)
        if entry.peer_seq > self._heads[1 - entry.lane]:
            raise FrameOutOfOrder(lane=int(entry.lane), seq=entry.seq, covers=entry.peer_seq)

    def _seen(self, entry: RuledFrame) -> RuledFrame:
        """The entry, covering no more than its signer can have seen then (``spec.md`` 66)."""
        if entry.lane is Lane.TRADER:
            saved = self._base()
            covers = self._sequence.trader_covers if saved is None else saved.trader_covers
            floor = self._pending[-1].peer_seq if self._pending else covers
            sent: Callable[[int], int] = partial(self._sequence.sent_at, saved)
        else:
            floor = self._pending[0].seq - 1 if self._pending else self._heads[0]
            sent = self._pending_at
        skew = self._sequence.terms.timeouts.skew
        if entry.peer_seq <= floor or sent(entry.peer_seq) <= entry.sending_time:
            return entry
        if has_come(sent(entry.peer_seq), entry.sending_time, skew):
            return entry
        # Dates in a lane never decrease, so a binary search finds the last frame it can have seen.
        seen = bisect_left(
            range(floor + 1, entry.peer_seq),
            True,
            key=lambda seq: not has_come(sent(seq), entry.sending_time, skew),
        )
        return entry._replace(peer_seq=floor + seen, unseen=entry.peer_seq)

    def _pending_at(self, seq: int) -> int:
        """The sendingTime of a pending trader frame."""
        return self._pending[seq - self._pending[0].seq].sending_time

    # --- trying, projecting, undoing -------------------------------------------------------

    def _try_traders(self, stated: RuledFrame) -> _Trial:
        entry = self._seen(stated)
        if self._pending:
            self._project()
        saved = self._sequence.save(base=self._ahead is None)
        rulings: list[Ruling] = []
        on_top = True
        try:
            if not self._sequence.take_in_time(entry, rulings):
                # It finds a late solver frame, which changes what the pending frames rest on.
                self._undo_ahead()
                saved, on_top = self._sequence.save(base=True), False
                self._sequence.take([*self._pending, entry], None, rulings)
        except FactsBehind:
            self._sequence.restore(saved)
            raise
        self._trial = _Trial(stated, entry, saved, rulings, on_top, [])
        return self._trial

    def _try_solvers(self, stated: RuledFrame) -> _Trial:
        entry = self._seen(stated)
        rulings: list[Ruling] = []
        # A frame beyond its lane's limits does not exist, so it covers nothing.
        sent = self._sequence.account.bytes_sent[Lane.SOLVER]
        if sent > CLOSING_BYTES and self._sequence.is_full(entry, self.checkpoint):
            return self._try_nothing(stated, entry)
        # The projection assumes exactly this, so it can stay.
        on_top = self._covers_all_in_time(entry)
        rest: list[RuledFrame] = []
        if not on_top:
            self._undo_ahead()
        elif self._pending:
            self._project()
        saved = self._sequence.save(base=self._ahead is None)
        try:
            if not on_top:
                # Trader frames first: they take effect just before the frame that covers them.
                covered = [one for one in self._pending if one.seq <= entry.peer_seq]
                rest = self._pending[len(covered) :]
                self._sequence.take(covered, entry.sending_time, rulings)
            self._sequence.apply(entry, entry.sending_time, rulings)
        except FactsBehind:
            self._sequence.restore(saved)
            raise
        self._trial = _Trial(stated, entry, saved, rulings, on_top, rest)
        return self._trial

    def _try_nothing(self, stated: RuledFrame, entry: RuledFrame) -> _Trial:
        """A solver frame beyond its lane's limits."""
        self._undo_ahead()
        saved = self._sequence.save(base=True)
        rulings: list[Ruling] = []
        self._sequence.apply(entry, entry.sending_time, rulings)
        self._trial = _Trial(stated, entry, saved, rulings, False, self._pending)
        return self._trial

    def _keep_trial(self) -> tuple[Ruling, ...]:
        """Take the frame that was tried."""
        trial, ahead = self._trial, self._ahead
        if trial is None:
            raise AssertionError("nothing was tried")
        self._trial = self._projected = None
        entry = trial.entry
        self._heads[entry.lane] = entry.seq
        if entry.lane is Lane.TRADER:
            self._pending.append(entry)
            if trial.on_top and ahead is not None:
                ahead.rulings += trial.rulings
                ahead.done += 1
            else:
                self._ahead = _Ahead(trial.saved, trial.rulings, len(self._pending))
            return ()
        self._pending, self._ahead, self._account = trial.rest, None, None
        self._sequence.forget()
        if ahead is None:
            return tuple(trial.rulings)
        return (*ahead.rulings, *trial.rulings)

    def _undo_trial(self) -> None:
        trial = self._trial
        if trial is not None:
            self._trial = None
            self._sequence.restore(trial.saved)

    def _undo_ahead(self) -> None:
        ahead = self._ahead
        if ahead is not None:
            self._ahead = self._projected = None
            self._sequence.restore(ahead.saved)

    def _project(self) -> None:
        """Apply the pending frames as if a solver frame covered them now, in time."""
        pending = self._pending
        if not pending:
            return
        ahead = self._ahead
        if ahead is None:
            ahead = self._ahead = _Ahead(self._sequence.save(base=True), [], 0)
        try:
            while ahead.done < len(pending):
                if self._sequence.take_in_time(pending[ahead.done], ahead.rulings):
                    ahead.done += 1
                    continue
                # It finds a late solver frame: begin again, with all of them at once.
                self._sequence.restore(ahead.saved)
                ahead.saved = self._sequence.save(base=True)
                ahead.rulings.clear()
                self._sequence.take(pending, None, ahead.rulings)
                ahead.done = len(pending)
        except FactsBehind:
            self._undo_ahead()
            raise

    def _base(self) -> SavedState | None:
        """Where the account of the last solver frame is; None if it is the live one."""
        saved = None
        if self._ahead is not None:
            saved = self._ahead.saved
        elif self._trial is not None:
            saved = self._trial.saved
        if saved is not None and not self._sequence.in_log(saved):
            # It is not in the log any more.
            self._undo_trial()
            self._undo_ahead()
            return None
        return saved

    def _covers_all_in_time(self, entry: RuledFrame) -> bool:
        for pending in self._pending:
            if pending.seq > entry.peer_seq:
                return False
            if self._sequence.legal_time(pending, entry.sending_time) != pending.sending_time:
                return False
        return True


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
        at.step(frame)
    return at.account
