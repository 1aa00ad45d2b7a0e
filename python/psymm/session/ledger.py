"""The rulebook beside a session: every frame stepped in order of arrival, every wish previewed.

A frame that cannot be ruled yet (it cites a block that our view of the chain has not reached)
waits, with all after it, until `learn_fact`; meanwhile nothing of business is signed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import replace

from psymm.custody.notes import Note
from psymm.messages import Message
from psymm.rulebook import (
    Account,
    ChainFacts,
    FactsBehind,
    Holding,
    Lane,
    OpeningUnknown,
    Place,
    Replay,
    RulebookError,
    Ruling,
)
from psymm.rulebook import Entry as RuledEntry
from psymm.rulebook import Opening as RuledOpening
from psymm.session.collateral import Fact
from psymm.session.turn import Violation
from psymm.terms import Terms
from psymm.transcript.opening import Opening
from psymm.transcript.record import Entry


class RulebookLedger:
    """The account of one custody as this process sees it."""

    def __init__(
        self,
        opening: Opening,
        terms: Terms,
        notes: Iterable[Note] = (),
        facts: ChainFacts | None = None,
    ) -> None:
        holdings = {note.commitment: Holding(note.token, note.amount) for note in notes}
        self._replay = Replay.start(
            RuledOpening(opening.custody, holdings), terms, facts or ChainFacts()
        )
        self._waiting: deque[Entry] = deque()
        self._ahead: Replay | None = None

    @property
    def account(self) -> Account:
        """After the last solver frame: the same on both sides."""
        return self._replay.account

    @property
    def projected(self) -> Account:
        """As it will be once the trader's frames still pending are covered in time."""
        return self._projection().account

    @property
    def heads(self) -> tuple[int, int]:
        return self._replay.heads

    @property
    def faults(self) -> tuple[tuple[int, str], ...]:
        """(seq, rule) of solver frames that broke a rule and were rejected in time."""
        return tuple((fault.seq, fault.violation.name) for fault in self._replay.faults)

    def arrived(self, entry: Entry) -> Sequence[Violation]:
        """See `Ledger.arrived`."""
        self._waiting.append(entry)
        return self._drain()

    def refuses(self, lane: int, message: Message, now_ns: int) -> Violation | None:
        """See `Ledger.refuses`."""
        if self._waiting:
            return Violation(lane, "facts-behind", "a chain fact that was cited is not seen yet")
        try:
            if lane == Lane.TRADER:
                broken = self._projection().preview(Lane.TRADER, message, now_ns)
            else:
                broken = self._replay.preview(Lane.SOLVER, message, now_ns)
        except RulebookError as unknown:
            return Violation(lane, unknown.code, str(unknown))
        return None if broken is None else Violation(lane, broken.name, str(broken))

    def drop(self, lane: int, seq: int) -> bool:
        """See `Ledger.drop`. The trader's frames have not taken effect yet, so they go by
        themselves; the solver's have, so all is ruled again."""
        self._ahead = None
        if lane == Lane.TRADER and not self._waiting:
            pending = tuple(one for one in self._replay.pending if one.seq < seq)
            self._replay = replace(self._replay, pending=pending)
            return True
        self._waiting.clear()
        self._replay = Replay.start(self._replay.opening, self._replay.terms, self._replay.facts)
        return False

    def _projection(self) -> Replay:
        """The replay as if all pending trader frames were in effect, kept from frame to frame:
        a burst of them costs one ruling each, not one for each pair."""
        if self._ahead is None:
            self._ahead = self._replay.ahead()
        return self._ahead

    def _project(self, entry: RuledEntry) -> None:
        if entry.lane is Lane.SOLVER or self._ahead is None:
            self._ahead = None
        else:
            self._ahead = replace(self._ahead, pending=(entry,)).ahead()

    def learn_notes(self, notes: Iterable[Note]) -> Sequence[Violation]:
        """Know what notes hold."""
        for note in notes:
            self._replay = self._replay.learn(note.commitment, note.token, note.amount)
        self._ahead = None
        return self._drain()

    def learn_fact(self, fact: Fact) -> Sequence[Violation]:
        """Know what one transaction did."""
        place, known = Place(fact.block, fact.transaction), self._replay.facts
        self._replay = self._replay.with_facts(
            ChainFacts(
                max(fact.block, known.block),
                {**known.spent, **dict.fromkeys(fact.spent, place)},
                {**known.inserted, **dict.fromkeys(fact.inserted, place)},
                known.noticed,
            )
        )
        self._ahead = None
        return self._drain()

    def _drain(self) -> Sequence[Violation]:
        broken: list[Violation] = []
        while self._waiting:
            entry = self._waiting[0]
            bad = entry.bad_payload
            ruled = RuledEntry(
                Lane(entry.frame.lane),
                entry.frame.seq,
                entry.frame.peer_seq,
                entry.frame.sending_time,
                len(entry.frame.payload),
                entry.message,
                None if bad is None else bad.code,
            )
            try:
                self._replay, rulings = self._replay.step_entry(ruled)
            except (FactsBehind, OpeningUnknown):
                break
            self._project(ruled)
            self._waiting.popleft()
            broken.extend(_violations(rulings))
        return broken


def _violations(rulings: Iterable[Ruling]) -> Iterable[Violation]:
    for ruling in rulings:
        # What was ruled again fell with another's late frame: nobody's fault, nothing to reject.
        if ruling.violation is not None and not ruling.again:
            yield Violation(
                int(ruling.lane), ruling.violation.name, str(ruling.violation), ruling.seq
            )
