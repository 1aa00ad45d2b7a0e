"""RulebookLedger: connects a session to the rulebook.

It steps every frame in order of arrival, and checks every message before we sign it.

A frame may cite a chain fact that our journal has lost: a frame of ours, or one that we covered.
The rulebook cannot rule it without the fact. Then it waits, with all later frames, until
`learn_fact`; meanwhile we sign no business. A new citation of the peer's comes here only when it
can be ruled; see `Holding`.

State: `_replay`, which judges each message when we check it, and not again when its frame arrives.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from psymm.messages import ChainFact, Checkpoint, JsonError, Message, encode
from psymm.rulebook import (
    Account,
    ChainFacts,
    ChainPlace,
    FactsBehind,
    Lane,
    Replay,
    ReplayInputs,
    RulebookError,
    RuledFrame,
    Ruling,
    Violation,
    checkpoint,
)
from psymm.rulebook.account import LANES
from psymm.rulebook.books import Books
from psymm.rulebook.rules import is_beyond_limits
from psymm.rulebook.value import replace
from psymm.session.protocol.chain_facts import Citation, Fact
from psymm.terms import Terms
from psymm.transcript.agreement import CustodyAgreement
from psymm.transcript.checkpoint import Point
from psymm.transcript.record import RecordedFrame


class RulebookLedger:
    """The account of one custody, as this process sees it."""

    def __init__(
        self,
        agreement: CustodyAgreement,
        terms: Terms,
        facts: ChainFacts | None = None,
        starts_at: Account | None = None,
    ) -> None:
        """starts_at: The account of the checkpoint at which the record begins."""
        self._begins = starts_at
        self._point: Point | None = None
        self._agreed: Account | None = None
        self._replay = self._started(
            ReplayInputs(agreement.custody, (agreement.trader, agreement.solver)),
            terms,
            facts or ChainFacts(),
        )
        self._waiting: deque[RecordedFrame] = deque()
        self.near_limit = False

    @property
    def account(self) -> Account:
        """After the last solver frame. It is the same on both sides."""
        return self._replay.account

    @property
    def projected(self) -> Account:
        """As it will be if the trader's pending frames are covered in time."""
        return self._replay.projected()

    @property
    def latest(self) -> Books:
        """As judged last, perhaps with a message that was only checked; see `Replay.latest`."""
        return self._replay.latest

    @property
    def waits(self) -> bool:
        """Whether frames wait for a chain fact; see `Rulebook.waits`."""
        return bool(self._waiting)

    @property
    def cited(self) -> Citation | None:
        """The citation that the first waiting frame needs; see `Rulebook.cited`. That frame may be
        the solver's, which brings a citation of the trader's into effect."""
        if not self._waiting:
            return None
        first = self._waiting[0]
        places = [(int(one.lane), one.seq, one.message) for one in self._replay.pending]
        places.append((first.frame.lane, first.frame.seq, first.message))
        facts = self._replay.facts
        for lane, seq, said in places:
            if isinstance(said, ChainFact) and (lane, seq) not in facts.denied:
                spent = facts.spent.get(said.nullifier or b"")
                if spent is None and facts.inserted.get(said.commitment or b"") is None:
                    return Citation(lane, seq, said)
        return None

    def awaits(self, entry: RecordedFrame) -> bool:
        """Whether a frame would have to wait for a chain fact; see `Rulebook.awaits`."""
        frame = entry.frame
        if entry.message is None:
            return False
        broken = self.refuses(
            frame.lane,
            entry.message,
            frame.sending_time,
            len(frame.payload),
            covers=frame.peer_seq,
        )
        return broken is not None and broken.name == FactsBehind.code

    @property
    def trader_covers(self) -> int:
        """How far the trader covers the solver's frames; see `Rulebook.trader_covers`."""
        return self._replay.trader_covers

    @property
    def decided(self) -> int:
        """The last solver frame that is decided; see `Rulebook.decided`."""
        return self._replay.decided

    @property
    def heads(self) -> tuple[int, int]:
        return self._replay.heads

    @property
    def faults(self) -> tuple[tuple[int, str], ...]:
        """(seq, rule) of solver frames that broke a rule and were rejected in time."""
        return tuple((fault.seq, fault.violation.name) for fault in self._replay.faults)

    def arrived(self, entry: RecordedFrame) -> Sequence[Ruling]:
        """Step a frame that is on the record now; see `Rulebook.arrived`."""
        if not self._waiting:
            try:
                return self._step(entry)
            # Nothing has changed. This frame and all later ones wait for `learn_fact`, in order.
            except FactsBehind:
                pass
        self._waiting.append(entry)
        return ()

    def refuses(
        self,
        lane: int,
        message: Message,
        now_ns: int,
        size: int | None = None,
        *,
        covers: int | None = None,
    ) -> Violation | None:
        """The rule that a message would break, or None; see `Rulebook.refuses`."""
        # The waiting frames may change any answer, so we can judge no business now.
        if self._waiting:
            return Violation(FactsBehind.code)
        own = LANES[lane]
        heads = self._replay.heads
        try:
            entry = RuledFrame(
                own,
                heads[own] + 1,
                heads[1 - lane] if covers is None else covers,
                now_ns,
                len(encode(message)) if size is None else size,
                message,
            )
            return self._replay.dry_run(entry)
        except JsonError as error:
            return Violation("malformed", (("code", error.code),))
        except RulebookError as unknown:
            return Violation(unknown.code)

    def drop(self, lane: int, seq: int) -> bool:
        """Drop a lane's frames from `seq` on; see `Rulebook.drop`. The trader's have not taken
        effect yet, so they simply go. The solver's have, so all is ruled again."""
        if lane == Lane.TRADER and not self._waiting:
            self._replay.drop_pending(seq)
            return True
        self._waiting.clear()
        # The facts stay: they are the chain's, not the frames'.
        self._replay = self._started(self._replay.inputs, self._replay.terms, self._replay.facts)
        return False

    def _started(self, inputs: ReplayInputs, terms: Terms, facts: ChainFacts) -> Replay:
        if self._begins is None:
            return Replay.start(inputs, terms, facts)
        return Replay.at_checkpoint(inputs, terms, self._begins, facts)

    # --- checkpoints: see `psymm.session.protocol.rulebook.Rulebook` -----------------------

    @property
    def point(self) -> Point | None:
        return self._point

    @property
    def agreed(self) -> Account | None:
        return self._agreed

    def compact(self) -> None:
        """Begin at the agreed account from now on; see `Rulebook.compact`."""
        self._begins = self._agreed

    def _look_for_checkpoint(self) -> None:
        """A checkpoint is final when each lane covers the other's UCP: covered frames stay on the
        record, no matter which key is revoked."""
        replay = self._replay
        last = replay.checkpoint
        if last is None or (self._point is not None and last.said == self._point.said):
            return
        # Pending frames of the trader cover, too, before a solver's frame brings them into effect.
        agreed = replay.agreed
        if last.said[1] <= replay.trader_covers and agreed is not None:
            self._point = Point(last.account_hash, last.trader_seq, last.solver_seq, last.said)
            self._agreed = agreed

    @property
    def disputed(self) -> Account | None:
        return self._replay.disputed

    def is_full(self, lane: int, size: int) -> bool:
        return is_beyond_limits(self._replay.latest, LANES[lane], size)

    def answer_due(self, lane: int) -> tuple[Checkpoint, int] | None:
        if self._replay.offer is None and not self._names_checkpoint():
            return None
        account = self._replay.projected()
        said = checkpoint.answer(account, Lane(lane))
        if said is None or account.offer is None or self._waiting:
            return None
        return said, account.offer.seq

    def offer_due(self, lane: int) -> tuple[Checkpoint, int] | None:
        if self._waiting:
            return None
        replay = self._replay
        said = checkpoint.offer(replay.projected(), replay.named())
        if said is None:
            return None
        return said, replay.trader_covers if lane == Lane.TRADER else replay.heads[0]

    def offer_stands(self) -> bool:
        offer, point = self._replay.offer, self._replay.checkpoint
        if self._names_checkpoint():
            seen = self._replay.projected()
            offer, point = seen.offer, seen.checkpoint
        last = None if point is None else point.said
        return offer is not None or last != (self._point and self._point.said)

    def _names_checkpoint(self) -> bool:
        """Whether a pending frame may change which checkpoint is offered or in force."""
        return any(type(entry.message) is Checkpoint for entry in self._replay.pending)

    def account_at(self, solver_seq: int, trader_seq: int) -> Account | None:
        replay = self._replay
        # Only the accounts of checkpoints are kept: offered, named or disputed.
        known = (replay.offered_ahead(), replay.offered, replay.named().account, replay.disputed)
        for account in known:
            if account is not None and account.seqs == (trader_seq, solver_seq):
                return account
        return None

    def _step(self, recorded: RecordedFrame) -> Sequence[Ruling]:
        """Step the next frame. Raises as `Replay.step_entry`; then nothing has changed.

        Returns the violations. We leave out what was ruled again because of another frame that was
        late: that is nobody's fault, so there is nothing to reject.
        """
        frame, bad = recorded.frame, recorded.bad_payload
        entry = RuledFrame(
            LANES[frame.lane],
            frame.seq,
            frame.peer_seq,
            frame.sending_time,
            len(frame.payload),
            recorded.message,
            None if bad is None else bad.code,
        )
        # Check it before it is pending: it may have to wait for its fact.
        if entry.lane is Lane.TRADER and isinstance(entry.message, ChainFact):
            self._replay.dry_run(entry)
        rulings = self._replay.step_entry(entry)
        # All of this for each frame, so without a call where nothing has changed.
        account = self._replay.latest
        limits, last = account.terms.limits, account.checkpoint
        (trader_bytes, solver_bytes) = account.bytes_sent
        trader, solver = account.trader_seq, account.solver_seq
        if last is not None:
            # After a trader frame too: it may cover the solver's UCP.
            if self._point is None or self._point.said != last.said:
                self._look_for_checkpoint()
            trader, solver = trader - last.trader_seq, solver - last.solver_seq
            trader_bytes -= last.bytes_sent[0]
            solver_bytes -= last.bytes_sent[1]
        self.near_limit = (
            2 * trader >= limits.frames
            or 2 * solver >= limits.frames
            or 2 * trader_bytes >= limits.bytes
            or 2 * solver_bytes >= limits.bytes
        )
        for one in rulings:
            if one.violation is not None:
                return [one for one in rulings if one.violation is not None and not one.again]
        return ()

    def occupied(self, commitment: bytes) -> bool:
        """Whether an output is in the tree though no note was spent for it; see
        `Rulebook.occupied`."""
        facts = self._replay.facts
        place = facts.inserted.get(commitment)
        notes = self._replay.account.notes.values()
        return place is not None and all(facts.spent.get(one.nullifier) != place for one in notes)

    def learn_fact(self, fact: Fact) -> Sequence[Ruling]:
        """Learn what one transaction did, or that our chain does not have what a frame cites."""
        place, known = ChainPlace(fact.block, fact.transaction), self._replay.facts
        self._replay.learn(
            replace(
                known,
                spent={**known.spent, **dict.fromkeys(fact.spent, place)},
                inserted={**known.inserted, **dict.fromkeys(fact.inserted, place)},
                denied=known.denied if fact.denied is None else known.denied | {fact.denied},
            )
        )
        return self._drain()

    def _drain(self) -> Sequence[Ruling]:
        """Step the waiting frames as far as the known facts allow. Returns the violations."""
        broken: list[Ruling] = []
        while self._waiting:
            try:
                rulings = self._step(self._waiting[0])
            except FactsBehind:
                break
            self._waiting.popleft()
            broken.extend(rulings)
        return broken
