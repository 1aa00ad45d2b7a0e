"""SettlementRecord: what the record says about a settlement, seen from one lane. It only reads."""

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
    """Payees, proposals and covers on the record of `runner`, and its current account."""

    def __init__(self, runner: SessionRunner, account: Callable[[], Account]) -> None:
        self._runner = runner
        self._account = account

    def alive_seq(self, lane: int) -> int | None:
        """The number of the frame in which the lane made the live proposal. None if the proposal is
        the other lane's, or if there is none."""
        alive = self._runner.protocol.proposal
        return None if alive is None or alive[0] != lane else alive[1].frame.seq

    def theirs_is_alive(self) -> bool:
        return self.alive_seq(1 - self._runner.lane) is not None

    def payee(self, lane: int) -> NamedPayee | None:
        """The lane's payee on the record now. The account's clock does not advance between frames.
        So if a proposal has expired by our clock, we drop its payees here."""
        account = self._account()
        over = account.alive is not None and self._runner.protocol.proposal is None
        return None if over else account.payee(Lane(lane))

    def their_payee(self, payouts: tuple[int, int]) -> NamedPayee | Literal["proposes"] | None:
        """The peer's payee for what our proposal would pay it. `proposes` if the peer proposes
        itself: it has done so, or its payee is for less and we are the trader. Of two sides that
        begin at once, the solver proposes."""
        lane, theirs = self._runner.lane, self.payee(1 - self._runner.lane)
        if self.theirs_is_alive():
            return "proposes"
        if theirs is None or theirs.amount == payouts[1 - lane]:
            return theirs
        return "proposes" if lane == TRADER else None

    @property
    def all_covered(self) -> bool:
        """Whether the account includes all that we sent. The solver's frames take effect at once,
        the trader's when they are covered."""
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
        """Whether the trader covers what the solver did. Until then a fill may still turn out late
        and void. A side that holds a signature over such an account could choose between the two
        until the deadline. A trader with a restored journal covers with its wallet; a mere claim to
        be restored covers nothing."""
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
