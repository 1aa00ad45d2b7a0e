"""What can reveal the owner of a withdrawal: amounts, addresses and timing.

The proofs hide which notes move.  They cannot hide what the owner chooses: an amount that only one
deposit explains, a known address, a time when nobody else moved.
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
"""With fewer others than this to hide among, a move hides little."""


@dataclass(frozen=True, slots=True)
class PrivacyWarning:
    """One way in which a planned withdrawal can reveal its owner.

    Attributes:
        code: for programs.
        text: for people.
    """

    code: str
    text: str


@dataclass(frozen=True, slots=True)
class PublicMoves:
    """What everybody sees about a token: deposits and withdrawals, in the chain's order."""

    deposits: tuple[tuple[str, int, int], ...]
    withdrawals: tuple[tuple[str, int, int], ...]
    """(account, amount, block) each; a withdrawal's amount includes the fee."""


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
) -> list[PrivacyWarning]:
    """What a planned withdrawal could reveal.  Empty: no known problem.

    Args:
        parts: (recipient, amount in token units) each.
        own: addresses that others know, or can guess, to be the owner's.
        notes: the owner's unspent sole notes of the token.
        seen: the token's public deposits and withdrawals.
    """
    warned: list[PrivacyWarning] = []
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
                PrivacyWarning(
                    "own-address", f"{recipient} is known to be yours; use a fresh address"
                )
            )
        elif known in depositors:
            warned.append(
                PrivacyWarning(
                    "depositor", f"{recipient} has deposited here itself; use a fresh address"
                )
            )
        elif recipients[known]:
            warned.append(
                PrivacyWarning(
                    "used-address",
                    f"{recipient} was paid from here before, which links the two payments",
                )
            )
        if deposit_amounts[amount]:
            warned.append(
                PrivacyWarning(
                    "amount-of-deposit",
                    f"exactly {amount} was deposited {deposit_amounts[amount]} times; "
                    "withdraw another amount",
                )
            )
        if _digits(amount, decimals) > 3:
            warned.append(
                PrivacyWarning(
                    "odd-amount",
                    f"{amount} has so many digits that it can be recognised; "
                    "withdraw round amounts and leave the rest",
                )
            )
    if deposit_amounts[total] and len(parts) > 1:
        warned.append(
            PrivacyWarning(
                "sum-of-deposit", f"the parts add up to {total}, exactly what was deposited"
            )
        )
    if notes and total == sum(note.amount for note in notes):
        warned.append(
            PrivacyWarning("everything", "nothing is left, so the parts add up to all that you own")
        )
    if len(set(addresses)) < len(addresses):
        warned.append(
            PrivacyWarning("same-address", "two parts go to one address, which links them")
        )
    newest = max(
        (leaf.position for note in notes if (leaf := tree.leaf(note.commitment))), default=None
    )
    if newest is not None and len(tree) - 1 - newest < FEW:
        warned.append(
            PrivacyWarning(
                "too-soon",
                f"only {len(tree) - 1 - newest} notes were made since yours; "
                "wait until others have moved",
            )
        )
    others = len(depositors - mine)
    if others < FEW:
        warned.append(
            PrivacyWarning("few-owners", f"only {others} others have deposited this token so far")
        )
    if len(parts) > 1:
        warned.append(
            PrivacyWarning(
                "in-a-row", "parts sent right after one another can be linked; let time pass"
            )
        )
    return warned


def _digits(amount: int, decimals: int) -> int:
    """How many digits of an amount are significant: all except zeros at the end."""
    text = str(amount).rstrip("0")
    whole = amount // 10**decimals
    return len(text) if amount % 10**decimals or whole == 0 else len(str(whole).rstrip("0"))
