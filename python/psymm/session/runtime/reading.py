"""Reads a transcript for people, frame by frame: what each says, and how the rulebook rules it.

It verifies nothing. Frames were verified when they came into the journal, or are by
`session.report`. Memory holds only the rulebook's account and what is not decided yet, so a
transcript can have any length, and can be read while it is being written.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Literal

from psymm._core import Frame, JsonError
from psymm.messages import Message, Reject, decode
from psymm.messages.formatting import format_message, orders_of
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
)
from psymm.session.protocol.chain_facts import Fact
from psymm.terms import Terms
from psymm.transcript.agreement import CustodyAgreement

MOST_REMEMBERED: Final = 65_536
"""Frames whose subject we remember, for later frames that name them."""

Outcome = Literal["in-effect", "violation", "late"]


@dataclass(frozen=True, slots=True)
class Ruled:
    """What became of a frame.

    Attributes:
        outcome: `late` if it changed nothing because it, or one that it rested on, came too late.
        rule: The violation's stable name; '' for none.
        again: It was ruled before, with another outcome.
    """

    lane: int
    seq: int
    outcome: Outcome
    rule: str
    why: str
    legal_time: int
    again: bool


@dataclass(frozen=True, slots=True)
class FrameRead:
    """A frame and its effect.

    Attributes:
        message: None if the payload is not of the vocabulary.
        about: The orders that it is about, by the first id of each.
        rejects: (lane, seq) of the frame that it rejects.
        rulings: In order, of the frames that take effect with it; its own comes last.
        unruled: Why it cannot be ruled here; '' if it can. A trader's frame has no ruling until a
            solver's frame covers it.
        stage: Set if the custody enters another stage.
    """

    index: int
    frame: Frame = field(repr=False)
    message: Message | None
    words: str
    about: frozenset[str]
    rejects: tuple[int, int] | None
    rulings: tuple[Ruled, ...]
    unruled: str
    stage: str


class Reading:
    """Reads one custody's frames in the order of their arrival.

    Args:
        starts_at: The account of the checkpoint at which the frames begin. Frames that it counts
            already are read but not ruled.
    """

    def __init__(
        self,
        agreement: CustodyAgreement,
        facts: ChainFacts | None = None,
        starts_at: Account | None = None,
    ) -> None:
        self.terms = Terms.parse(agreement.terms)
        ruled = ReplayInputs(agreement.custody, (agreement.trader, agreement.solver))
        known = facts or ChainFacts()
        self._replay = (
            Replay.start(ruled, self.terms, known)
            if starts_at is None
            else Replay.at_checkpoint(ruled, self.terms, starts_at, known)
        )
        self._counted = (0, 0) if starts_at is None else starts_at.seqs
        self._waiting: deque[RuledFrame] = deque()
        self._unruled = ""
        self._index = 0
        self._stage = "logon"
        self._about: OrderedDict[tuple[int, int], frozenset[str]] = OrderedDict()
        self._known_as: OrderedDict[str, str] = OrderedDict()

    @property
    def account(self) -> Account | None:
        """After the last frame; None if some frames could not be ruled."""
        return None if self._unruled or self._waiting else self._replay.account

    @property
    def pending(self) -> tuple[int, ...]:
        """Numbers of the trader's frames that no solver frame covers yet."""
        return tuple(entry.seq for entry in self._replay.pending)

    @property
    def waits_for_chain(self) -> bool:
        """Whether a frame cites an unknown fact. All later frames wait with it."""
        return bool(self._waiting)

    def learn_facts(self, facts: ChainFacts) -> tuple[Ruled, ...]:
        """Learn more of the chain; returns the rulings that waited for it."""
        if self._unruled:
            return ()
        self._replay.learn(facts)
        return tuple(self._drain())

    def read(self, frame: Frame) -> FrameRead:
        """Read the next frame. Raises nothing for what it says."""
        message, code, at = _decoded(frame)
        if message is None:
            words = f"no message: {code} at byte {at} of the payload"
        else:
            decimals = self.terms.collateral.decimals
            words = format_message(message, frame.lane, frame.sending_time, decimals)
        rejects = (1 - frame.lane, message.ref_seq_num) if isinstance(message, Reject) else None
        about = self._related(frame, message, rejects)
        rulings: list[Ruled] = []
        counted = frame.seq <= self._counted[frame.lane]
        if not self._unruled and not counted:
            self._waiting.append(
                RuledFrame(
                    Lane(frame.lane),
                    frame.seq,
                    frame.peer_seq,
                    frame.sending_time,
                    len(frame.payload),
                    message,
                    None if message is not None else code,
                )
            )
            rulings = self._drain()
        self._index += 1
        return FrameRead(
            index=self._index - 1,
            frame=frame,
            message=message,
            words=words,
            about=about,
            rejects=rejects,
            rulings=tuple(rulings),
            unruled="before-checkpoint"
            if counted
            else self._unruled or ("facts-behind" if self._waiting else ""),
            stage=self._changed_stage(),
        )

    def _drain(self) -> list[Ruled]:
        """Rule the waiting frames as far as the known facts allow."""
        found: list[Ruled] = []
        while self._waiting:
            try:
                rulings = self._replay.step_entry(self._waiting[0])
            except FactsBehind:
                # Without a limit, one citation of an unknown fact could fill memory.
                if len(self._waiting) < MOST_REMEMBERED:
                    break
                self._give_up("facts-behind")
            except RulebookError as unknown:
                # From here on we can only read, not rule.
                self._give_up(unknown.code)
            else:
                self._waiting.popleft()
                found += [_ruled(one) for one in rulings]
        return found

    def _give_up(self, code: str) -> None:
        self._unruled = code
        self._waiting.clear()

    def _related(
        self, frame: Frame, message: Message | None, rejects: tuple[int, int] | None
    ) -> frozenset[str]:
        """The orders that a frame is about; requests and replacements by the first one's id."""
        ids = orders_of(message)
        if rejects is not None:
            found = self._about.get(rejects, frozenset())
        else:
            first = ids[-1] if ids else ""
            first = self._known_as.get(first, first)
            for one in ids:
                self._known_as.setdefault(one, first)
            found = frozenset({first, *ids}) if ids else frozenset()
        self._about[frame.lane, frame.seq] = found
        while len(self._about) > MOST_REMEMBERED:
            self._about.popitem(last=False)
        while len(self._known_as) > MOST_REMEMBERED:
            self._known_as.popitem(last=False)
        return found

    def _changed_stage(self) -> str:
        stage = self._stage if self._unruled else _stage(self._replay.account)
        if stage == self._stage:
            return ""
        self._stage = stage
        return stage


def _stage(account: Account) -> str:
    if account.ended:
        return "closed"
    if account.alive is not None:
        return "settling"
    if account.trading_open:
        return "trading"
    return "verifying" if all(account.logged_on) else "logon"


def _ruled(ruling: Ruling) -> Ruled:
    broken = ruling.violation
    outcome: Outcome = "in-effect" if broken is None else "late" if ruling.again else "violation"
    return Ruled(
        lane=int(ruling.lane),
        seq=ruling.seq,
        outcome=outcome,
        rule="" if broken is None else broken.name,
        why="" if broken is None else str(broken),
        legal_time=ruling.legal_time,
        again=ruling.again,
    )


def _decoded(frame: Frame) -> tuple[Message | None, str, int]:
    try:
        return decode(frame.payload), "", 0
    except JsonError as bad:
        return None, bad.code, bad.offset


def chain_facts(facts: Iterable[Fact]) -> ChainFacts:
    """What the chain is known to have done, in the rulebook's form."""
    spent: dict[bytes, ChainPlace] = {}
    inserted: dict[bytes, ChainPlace] = {}
    denied: set[tuple[int, int]] = set()
    highest = 0
    for fact in facts:
        if fact.denied is not None:
            denied.add(fact.denied)
            continue
        place = ChainPlace(fact.block, fact.transaction)
        highest = max(highest, fact.block)
        spent.update(dict.fromkeys(fact.spent, place))
        inserted.update(dict.fromkeys(fact.inserted, place))
    return ChainFacts(highest, spent, inserted, denied=frozenset(denied))
