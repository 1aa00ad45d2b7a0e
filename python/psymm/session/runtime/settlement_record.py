"""What the record of a custody says about its settlement, seen from one lane. It only reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from psymm.errors import NotNow
from psymm.messages import Heartbeat, SettlementOutput
from psymm.rulebook import Account, Lane
from psymm.rulebook.account import NamedPayee
from psymm.session.protocol import NO_BUSINESS
from psymm.session.runtime.runner import SessionRunner
from psymm.transcript.agreement import SOLVER, TRADER


class SettlementRecord:
    """Payees, proposals and covers on the record of `runner`, and its account now."""

    def __init__(self, runner: SessionRunner, account: Callable[[], Account]) -> None:
        self._runner = runner
        self._account = account

    def is_alive(self, seq: int) -> bool:
        alive = self._runner.protocol.proposal
        return alive is not None and alive[0] != self._runner.lane and alive[1].frame.seq == seq

    def theirs_is_alive(self) -> bool:
        alive = self._runner.protocol.proposal
        return alive is not None and alive[0] != self._runner.lane

    def payee(self, lane: int) -> NamedPayee | None:
        """On the record now. The account's clock stands still between frames: with a proposal whose
        time is over by ours, its payees go."""
        account = self._account()
        over = account.alive is not None and self._runner.protocol.proposal is None
        return None if over else account.payee(Lane(lane))

    def their_payee(self, payouts: tuple[int, int]) -> NamedPayee | Literal["proposes"] | None:
        """The peer's payee for what our proposal would pay it; or it proposes itself: it has, or
        its payee is made for less, and of two that begin at once the solver goes on."""
        lane, theirs = self._runner.lane, self.payee(1 - self._runner.lane)
        if self.theirs_is_alive():
            return "proposes"
        if theirs is None or theirs.amount == payouts[1 - lane]:
            return theirs
        return "proposes" if lane == TRADER else None

    @property
    def all_covered(self) -> bool:
        """The solver's frames take effect where they stand; the trader's once they are covered."""
        record = self._runner.protocol.record
        covered = record.head(SOLVER).peer_seq
        sent = range(covered + 1, record.head(TRADER).seq + 1)
        pending = [record.entry(TRADER, seq) for seq in sent]
        return self._runner.lane == SOLVER or all(
            entry is not None and isinstance(entry.message, Heartbeat | SettlementOutput)
            for entry in pending
        )

    @property
    def decided(self) -> bool:
        """Whether the trader covers what the solver did: until then a fill may still turn out to
        be late and void, so whoever holds a signature over an account that rests on it may choose
        until the deadline. A trader whose journal was restored covers with its wallet; nobody's
        word that it is restored counts for a cover."""
        protocol = self._runner.protocol
        seqs = range(protocol.decided + 1, protocol.record.head(SOLVER).seq + 1)
        return all(
            entry is None or isinstance(entry.message, (*NO_BUSINESS, SettlementOutput))
            for entry in (protocol.record.entry(SOLVER, seq) for seq in seqs)
        )

    def flat_payouts(self) -> tuple[int, int]:
        account = self._account()
        if not account.flat:
            raise NotNow(
                "a settlement is signed on a flat account only: close positions, cancel orders",
                positions=len(account.positions),
                orders=len(account.orders),
            )
        return account.payouts
