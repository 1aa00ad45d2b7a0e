"""LeftOpen: custodies that stay open when a command, a session or a process ends.

Collateral in a bilateral custody comes out only by continuing with that custody. So we always tell
the user its id, what is in it, what is open, and how to continue.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Context, Decimal
from typing import Final

from psymm.journal.codec import JournalledCustody
from psymm.journal.reader import JournalReader
from psymm.journal.replayed import read_record
from psymm.rulebook import Account, Lane
from psymm.session.runtime.base_account import account_at
from psymm.session.runtime.collateral import kept_facts
from psymm.session.runtime.ledger import RulebookLedger
from psymm.session.runtime.runner import SessionRunner
from psymm.terms import Terms
from psymm.transcript.agreement import TRADER, CustodyAgreement

_EXACT: Final = Context(prec=60)


@dataclass(frozen=True, slots=True)
class LeftOpen:
    """A custody that has not ended.

    Attributes:
        lane: Ours.
        state: The journal's, or the session's.
        collateral: What our side puts up, in token units.
        accepted: Whether the account counts our collateral. Before that, it may be in the custody,
            on its way, or not sent. None if the account was not read.
        positions: Open positions; None if the account was not read.
        orders: Open orders; None if the account was not read.
    """

    custody: bytes
    lane: int
    state: str
    collateral: int
    token: str
    decimals: int
    accepted: bool | None = None
    positions: int | None = None
    orders: int | None = None

    @property
    def command(self) -> str:
        """The command that continues with it."""
        name = "psymm trade --resume" if self.lane == TRADER else "psymm solver, for"
        return f"{name} 0x{self.custody.hex()}"

    def fields(self) -> dict[str, str | int | None]:
        """The same, for a program."""
        return {
            "custody": "0x" + self.custody.hex(),
            "state": self.state,
            "collateral": str(self.collateral),
            "token": self.token,
            "positions": self.positions,
            "orders": self.orders,
            "resumeWith": self.command,
        }

    def __str__(self) -> str:
        tokens = Decimal(self.collateral).scaleb(-self.decimals, _EXACT).normalize(_EXACT)
        amount = f"{tokens:f} of {self.token}"
        if self.state == "funding" or self.accepted is False:
            said = f"{amount} of ours may lie in it or be on the way"
        else:
            said = f"{amount} of ours is in it"
        if self.positions is not None and self.orders is not None:
            said += f"; open: {self.positions} positions, {self.orders} orders"
        return (
            f"custody 0x{self.custody.hex()} stays open ({self.state}): {said}. "
            f"Go on with: {self.command}"
        )


def left_open(runner: SessionRunner) -> LeftOpen:
    """For a session in this process."""
    ledger = runner.protocol.state.rulebook
    account = ledger.projected if isinstance(ledger, RulebookLedger) else None
    return _of(
        runner.agreement,
        runner.lane,
        runner.protocol.status.value,
        runner.collateral_amount,
        account,
    )


def left_of(row: JournalledCustody, account: Account | None = None) -> LeftOpen:
    """From the journal's row, and the account if the caller has it."""
    return _of(row.agreement, row.lane, row.state, row.ours, account)


async def open_custodies(journal: JournalReader, lane: int) -> list[LeftOpen]:
    """All custodies at that lane into which collateral of ours may have gone and that have not
    ended. Oldest first, each with what is open in its account.

    Raises JournalCorrupt. Cancelled: raises Cancelled; nothing changed.
    """
    return [
        left_of(row, await account_of(journal, row))
        for row in await journal.custodies()
        if row.lane == lane and row.state not in ("handshake", "closed")
    ]


async def account_of(journal: JournalReader, row: JournalledCustody) -> Account:
    """The account after all frames of the journal. Raises JournalCorrupt. Cancelled: raises
    Cancelled."""
    agreement, terms = row.agreement, Terms.parse(row.agreement.terms)
    record = await read_record(journal, agreement)
    starts_at = None
    if record.starts_at is not None:
        starts_at = account_at(
            journal, agreement.custody, terms, record.starts_at.point, record.starts_at.account
        )
    ledger = RulebookLedger(agreement, terms, starts_at=starts_at)
    for fact in await kept_facts(journal, agreement.custody):
        ledger.learn_fact(fact)
    for entry in record:
        ledger.arrived(entry)
    return ledger.projected


def _of(
    agreement: CustodyAgreement, lane: int, state: str, amount: int, account: Account | None
) -> LeftOpen:
    collateral = Terms.parse(agreement.terms).collateral
    return LeftOpen(
        agreement.custody,
        lane,
        state,
        amount,
        collateral.token,
        collateral.decimals,
        None if account is None else account.collateral(Lane(lane)) > 0,
        None if account is None else len(account.positions),
        None if account is None else len(account.orders),
    )
