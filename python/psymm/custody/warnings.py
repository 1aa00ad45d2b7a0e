"""What would give the owner of a withdrawal away: amounts, addresses and timing.

The proofs hide which notes move.  What they cannot hide is what the owner chooses: an amount that
only one deposit explains, an address that is known, a moment when nobody else moved.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from psymm.chain.contracts import Pool
from psymm.chain.sync import TreeSync
from psymm.custody.notes import Note

FEW: Final = 8
"""Below this many others to hide among, a move hides little."""


@dataclass(frozen=True, slots=True)
class Warned:
    """One way in which a planned withdrawal gives its owner away.  code is for programs."""

    code: str
    text: str


@dataclass(frozen=True, slots=True)
class PublicMoves:
    """What everybody sees of a token: deposits and withdrawals, in the chain's order."""

    deposits: tuple[tuple[str, int, int], ...]
    withdrawals: tuple[tuple[str, int, int], ...]
    """(account, amount, block) each; of a withdrawal, amount is what left, fee and all."""


async def public_moves(pool: Pool, token: str, first_block: int, last_block: int) -> PublicMoves:
    """Read the deposits and withdrawals of a token from the chain."""
    deposited, withdrawn = pool.abi.event("Deposited"), pool.abi.event("Withdrawn")
    padded = bytes(12) + bytes.fromhex(token[2:])
    deposits: list[tuple[str, int, int]] = []
    withdrawals: list[tuple[str, int, int]] = []
    async for log in pool.chain.logs(
        pool.address, [[deposited.topic, withdrawn.topic], padded], first_block, last_block
    ):
        if log.topics[0] == deposited.topic:
            values = pool.values("Deposited", log)
            deposits.append((str(values["from"]), int(values["amount"]), log.block))
        else:
            values = pool.values("Withdrawn", log)
            withdrawals.append((str(values["recipient"]), int(values["amount"]), log.block))
    return PublicMoves(tuple(deposits), tuple(withdrawals))


def withdrawal_warnings(
    parts: Sequence[tuple[str, int]],
    *,
    own: Sequence[str],
    notes: Sequence[Note],
    seen: PublicMoves,
    tree: TreeSync,
    decimals: int,
) -> list[Warned]:
    """What a planned withdrawal, in parts, would give away.  Empty: nothing that is known here.

    parts: (recipient, amount in token units) each.  own: addresses that others know or can guess
    to be the owner's.  notes: the owner's unspent sole notes of the token.  seen: what is public.
    """
    warned: list[Warned] = []
    mine = {address.lower() for address in own}
    depositors = {account.lower() for account, _, _ in seen.deposits}
    recipients = Counter(account.lower() for account, _, _ in seen.withdrawals)
    deposit_amounts = Counter(amount for _, amount, _ in seen.deposits)
    total = sum(amount for _, amount in parts)
    addresses = [recipient.lower() for recipient, _ in parts]

    for recipient, amount in parts:
        known = recipient.lower()
        if known in mine:
            warned.append(
                Warned("own-address", f"{recipient} is known to be yours; use a fresh address")
            )
        elif known in depositors:
            warned.append(
                Warned("depositor", f"{recipient} has deposited here itself; use a fresh address")
            )
        elif recipients[known]:
            warned.append(
                Warned(
                    "used-address",
                    f"{recipient} was paid from here before, which joins the two payments",
                )
            )
        if deposit_amounts[amount]:
            warned.append(
                Warned(
                    "amount-of-deposit",
                    f"{amount} is exactly what was deposited {deposit_amounts[amount]} times; "
                    "withdraw another amount",
                )
            )
        if _digits(amount, decimals) > 3:
            warned.append(
                Warned(
                    "odd-amount",
                    f"{amount} has so many digits that it can be recognised; "
                    "withdraw round amounts and leave the rest",
                )
            )
    if deposit_amounts[total] and len(parts) > 1:
        warned.append(
            Warned("sum-of-deposit", f"the parts add up to {total}, exactly what was deposited")
        )
    if notes and total == sum(note.amount for note in notes):
        warned.append(
            Warned("everything", "all at once leaves nothing, so the parts add up to what you own")
        )
    if len(set(addresses)) < len(addresses):
        warned.append(Warned("same-address", "two parts go to one address, which joins them"))
    newest = max(
        (leaf.position for note in notes if (leaf := tree.leaf(note.commitment))), default=None
    )
    if newest is not None and len(tree) - 1 - newest < FEW:
        warned.append(
            Warned(
                "too-soon",
                f"only {len(tree) - 1 - newest} notes were made since yours; "
                "wait until others have moved",
            )
        )
    others = len(depositors - mine)
    if others < FEW:
        warned.append(
            Warned("few-owners", f"only {others} others have deposited this token so far")
        )
    if len(parts) > 1:
        warned.append(
            Warned("in-a-row", "parts sent one right after another can be joined; let time pass")
        )
    return warned


def _digits(amount: int, decimals: int) -> int:
    """How many digits of an amount carry news: all but zeros at the end."""
    text = str(amount).rstrip("0")
    whole = amount // 10**decimals
    return len(text) if amount % 10**decimals or whole == 0 else len(str(whole).rstrip("0"))
