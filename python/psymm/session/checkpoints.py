"""Checkpoints as one end of a session makes them: offered in good time, answered at once.

What is due is derived from the rulebook's account, as all else in a session, so a process that
died between two UCPs goes on from its journal. An end offers once a lane has used half of what the
terms allow it between two checkpoints, once it holds so many frames that memory is better used, or
when its application wants one. Where the two sides name different hashes for the same frames, each
shows the other its account, and the first field in which they differ is named; that binds nobody,
and trading goes on.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from psymm._core import keccak256
from psymm.errors import AccountsDiffer
from psymm.messages import (
    AccountPart,
    Checkpoint,
    CheckpointRequest,
    Heartbeat,
    Reject,
)
from psymm.rulebook import Account, AccountRefused, first_difference
from psymm.session.effects import CheckpointInForce, Disagreed, SessionStatus
from psymm.transcript.agreement import SOLVER, TRADER
from psymm.transcript.checkpoint import Point
from psymm.transcript.record import RecordedFrame

if TYPE_CHECKING:
    from psymm.session.protocol import SessionProtocol

log = logging.getLogger(__name__)

PART_BYTES: Final = 65_536
MOST_PARTS: Final = 64
"""Parts of an account that are sent or taken: 4 MiB in all."""
MOST_HELD: Final = 4_096
"""Frames in memory at which a checkpoint is offered: some 5 MB."""
_ASK_NS: Final = 1_000_000_000
"""Between two requests of a peer for a checkpoint that are heeded."""


class CheckpointLedger(Protocol):
    """The rulebook's side of it."""

    @property
    def point(self) -> Point | None:
        """The checkpoint in force, once each lane covers the other's UCP."""
        ...

    @property
    def agreed(self) -> Account | None:
        """The account of the checkpoint in force."""
        ...

    def begin(self) -> None:
        """What is ruled again is ruled from the checkpoint in force on: the frames that it counts
        arrive no more."""
        ...

    @property
    def disputed(self) -> Account | None:
        """The last account that a frame of the peer gave another hash for."""
        ...

    def near_limit(self) -> bool:
        """Has a lane used half of what it may send between two checkpoints?"""
        ...

    def ids(self) -> int:
        """How many ids the account has to name for good: what a checkpoint costs grows with
        them."""
        ...

    def answer_due(self, lane: int) -> tuple[Checkpoint, int] | None:
        """The UCP that we owe the peer's offer, and the frame that the offer is."""
        ...

    def offer_due(self, lane: int) -> tuple[Checkpoint, int] | None:
        """A UCP that would be a right offer now, and what our frame has to cover for it."""
        ...

    def offer_stands(self) -> bool:
        """Is an offer, of either side, unanswered, or answered by a frame yet to be covered?"""
        ...

    def account_at(self, solver_seq: int, trader_seq: int) -> Account | None:
        """The account that we have for what a UCP of ours names; None once it is settled."""
        ...


@dataclass(slots=True)
class _Dispute:
    """Two hashes for the same frames. theirs: None until the peer's is known."""

    ours: Account
    theirs: bytes
    parts: dict[int, bytes]
    of: int = 0
    done: bool = False


class Checkpoints:
    """The checkpoint part of a protocol. Nothing here raises because of what the peer sent."""

    def __init__(self, protocol: SessionProtocol, ledger: CheckpointLedger) -> None:
        self._protocol = protocol
        self._ledger = ledger
        self.point: Point | None = None
        self.differs: AccountsDiffer | None = None
        self._target = [0, 0]
        self._asked = False
        self._asked_at = 0
        self._offer_at = 0
        self._disputed: Account | None = None
        self._dispute: _Dispute | None = None

    # --- what the application wants ---------------------------------------------------------

    def request(self) -> tuple[int, int]:
        """Make a checkpoint as soon as it can be that counts all that is on the record now, but
        for Heartbeats and UCPs after the rest. Gives how far it has to count, the trader's and the
        solver's frames; `counts` says whether the one in force does."""
        target = self._target
        for entry in self._protocol.record:
            if not isinstance(entry.message, Heartbeat | Checkpoint):
                frame = entry.frame
                target[frame.lane] = max(target[frame.lane], frame.seq)
        self._asked = False
        return target[TRADER], target[SOLVER]

    def counts(self, target: tuple[int, int]) -> bool:
        """Whether the checkpoint in force counts these frames."""
        return self.point is not None and all(
            counted >= seq for counted, seq in zip(self.point.seqs, target, strict=True)
        )

    @property
    def _wanted(self) -> bool:
        return any(self._target) and not self.counts((self._target[TRADER], self._target[SOLVER]))

    def _suffices(self, said: Checkpoint) -> bool:
        return said.trader_seq >= self._target[TRADER] and said.solver_seq >= self._target[SOLVER]

    # --- what is due ------------------------------------------------------------------------

    def advance(self, now: int) -> None:
        """Sign the UCP that is due, if one is. Heads agree and our Logon is on the record."""
        protocol, ledger = self._protocol, self._ledger
        self.look()
        due = ledger.answer_due(protocol.lane)
        if due is not None:
            said, offer = due
            if protocol.covers(now) >= offer:
                protocol.sign(said, now)
            return
        if not (self._wanted or self._many() or ledger.near_limit()):
            return
        if protocol.state is not SessionStatus.TRADING or ledger.offer_stands():
            return
        due = self._offer()
        if due is None and protocol.lane == TRADER and self._uncovered(now):
            protocol.sign(Heartbeat(), now)
            due = self._offer()
        if due is None:
            self._ask(now)
        elif protocol.covers(now) >= due[1]:
            protocol.sign(due[0], now, covers=due[1])
            # Where it is not answered, it is not offered again with every frame.
            self._offer_at = len(protocol.record) + MOST_HELD

    def _many(self) -> bool:
        """Are so many frames held that a checkpoint is worth what it costs?"""
        held = len(self._protocol.record)
        return held >= MOST_HELD and held >= max(self._offer_at, self._ledger.ids() // 8)

    def _offer(self) -> tuple[Checkpoint, int] | None:
        """What we can offer, if it is what is wanted or a limit is near."""
        due = self._ledger.offer_due(self._protocol.lane)
        if due is None or self._suffices(due[0]) or self._ledger.near_limit():
            return due
        return None

    def _uncovered(self, now: int) -> bool:
        protocol = self._protocol
        return protocol.record.head(TRADER).peer_seq < protocol.covers(now)

    def _ask(self, now: int) -> None:
        """A checkpoint counts what the trader covers, and a trader need not cover a Heartbeat: the
        solver can only ask it to."""
        if self._protocol.lane == SOLVER and self._wanted and not self._asked:
            self._asked = True
            head = self._protocol.record.head(SOLVER).seq
            self._protocol.queue_text(CheckpointRequest(solver_seq=head), now)

    def requested(self, now: int) -> None:
        """The peer would like a checkpoint."""
        if now - self._asked_at >= _ASK_NS:
            self._asked_at = now
            self.request()

    def reconnected(self) -> None:
        """What was asked for on the last connection is asked for again."""
        self._asked = False

    def look(self) -> None:
        """Whether a checkpoint has come into force."""
        point, account = self._ledger.point, self._ledger.agreed
        if point is None or account is None or point == self.point:
            return
        self.point = point
        self._protocol.truncate_to(point)
        self._offer_at = 0
        effects = self._protocol.effects
        effects.checkpoints.append((point, account))
        effects.events.append(CheckpointInForce(point))

    # --- disagreement -----------------------------------------------------------------------

    def compare(self, now: int) -> None:
        """Show our account where the peer's frame named another hash for it."""
        account = self._ledger.disputed
        if account is not None and account is not self._disputed:
            self._disputed = account
            self._begin(account, now)

    def rejected(self, reject: Reject, said: RecordedFrame | None, now: int) -> None:
        """The peer rejects a frame of ours: of a UCP that it finds wrong, show our account."""
        if reject.violation != "wrong-checkpoint" or said is None:
            return
        ours = said.message
        if isinstance(ours, Checkpoint):
            account = self._ledger.account_at(ours.solver_seq, ours.trader_seq)
            if account is not None:
                self._begin(account, now)

    def _begin(self, account: Account, now: int) -> None:
        if self._dispute is not None and self._dispute.ours.hash == account.hash:
            return
        self._dispute = _Dispute(account, b"", {})
        content = account.canonical()
        pieces = [content[at : at + PART_BYTES] for at in range(0, len(content), PART_BYTES)]
        if len(pieces) > MOST_PARTS:
            log.warning("account-not-shown", extra={"bytes": len(content)})
            return
        for number, piece in enumerate(pieces, 1):
            self._protocol.queue_text(
                AccountPart(
                    solver_seq=account.solver_seq,
                    trader_seq=account.trader_seq,
                    account_hash=account.hash,
                    part=number,
                    parts=len(pieces),
                    content=piece,
                ),
                now,
            )

    def shown(self, part: AccountPart, now: int) -> None:
        """A part of the peer's account. It is looked at only where we have another for the same
        frames, or where that is what it claims and we hold one."""
        dispute = self._dispute
        if dispute is None:
            account = self._ledger.account_at(part.solver_seq, part.trader_seq)
            if account is None or account.hash == part.account_hash:
                return
            self._begin(account, now)
            dispute = self._dispute
        if dispute is None or dispute.done or dispute.ours.hash == part.account_hash:
            return
        if dispute.ours.seqs != (part.trader_seq, part.solver_seq):
            return
        if not 1 <= part.part <= part.parts <= MOST_PARTS:
            return
        if dispute.theirs != part.account_hash or dispute.of != part.parts:
            dispute.theirs, dispute.of, dispute.parts = part.account_hash, part.parts, {}
        dispute.parts[part.part] = part.content
        if len(dispute.parts) == dispute.of:
            self._name(dispute)

    def _name(self, dispute: _Dispute) -> None:
        content = b"".join(dispute.parts[number] for number in sorted(dispute.parts))
        dispute.parts = {}
        if keccak256(content) != dispute.theirs:
            return
        try:
            found = first_difference(dispute.ours.canonical(), content)
        except AccountRefused as refused:
            field, ours, theirs = "", "", str(refused)
        else:
            if found is None:
                return
            field, ours, theirs = found.field, found.ours, found.theirs
        dispute.done = True
        self.differs = AccountsDiffer(
            field=ascii(field)[1:-1],
            ours=ascii(ours)[1:-1],
            theirs=ascii(theirs)[1:-1],
            trader_seq=dispute.ours.trader_seq,
            solver_seq=dispute.ours.solver_seq,
        )
        self._protocol.effects.events.append(Disagreed(field, ours, theirs, self.differs))
