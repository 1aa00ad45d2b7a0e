"""Earlier moves of a wallet: taken up before a command begins anything, reported, never repeated.

A command that ends while its transaction waits leaves a move under way. The next command waits for
it a little and says what became of it. Where that command asks for the same thing again, most
likely the same money is meant, so it says what became of the first and begins nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from psymm.cli.output import Screen, format_amount

if TYPE_CHECKING:
    from psymm.cli.funds import Funds
    from psymm.custody.moves import Vault
    from psymm.custody.sending import Sender
    from psymm.custody.store import Move


@dataclass(frozen=True)
class Asked:
    """What an earlier move was for. recipient: of a withdrawal, else empty."""

    purpose: str
    token: str
    units: int
    recipient: str = ""


async def finish_earlier(
    screen: Screen, funds: Funds, senders: Sequence[Sender] = ()
) -> dict[Asked, Move]:
    """Carry on with earlier moves and say how each ended or that it is under way. The deposits
    and withdrawals among them, by what they were for; those under way in front of those done.

    Deposits that were made beside a daemon are among them, unless another command is at that now.
    Raises what reading the chain and the files raises, never what an old move ended with.
    """
    from psymm.custody.errors import StoreLocked

    found = await _finish_earlier(screen, funds, funds.vault, senders)
    if funds.left_beside is not None:
        with suppress(StoreLocked):
            async with await funds.left_beside() as beside:
                found |= await _finish_earlier(screen, funds, beside, ())
            await funds.vault.refresh()  # what was mined meanwhile is in the tree now
    return found


async def _finish_earlier(
    screen: Screen, funds: Funds, vault: Vault, senders: Sequence[Sender]
) -> dict[Asked, Move]:
    alive = await vault.resume(senders)
    ended = await vault.ended()
    found: dict[Asked, Move] = {}
    for move in [*ended, *alive]:
        if move.purpose not in ("deposit", "fund", "withdraw"):
            continue
        asked = await _asked(vault, move)
        screen.event(
            "earlier-move",
            f"Earlier: {_words(funds, asked)} {_state(move)}.",
            purpose=move.purpose,
            status=move.status,
            tx=move.tx_hash,
            reason=move.reason,
        )
        if move.status != "failed":
            found[asked] = move
    await vault.acknowledge_ended()
    return found


def refuse_again(screen: Screen, funds: Funds, asked: Asked, move: Move) -> None:
    """End a command that asks for what an earlier move does. Returns where that one is done, with
    the command's result told; raises TransactionPending or MoveUnderWay where it is not."""
    from psymm.chain.errors import TransactionPending
    from psymm.custody.errors import MoveUnderWay

    if move.alive:
        if move.tx_hash is not None:
            raise TransactionPending(move.tx_hash, 0.0)
        raise MoveUnderWay(move.purpose, move.deadline)
    screen.result(
        f"{_words(funds, asked)} is done: it was sent by an earlier command. Nothing new was "
        "begun. To do the same once more, repeat the command.",
        earlier=True,
        purpose=asked.purpose,
        token=asked.token,
        units=str(asked.units),
        recipient=asked.recipient,
        tx=move.tx_hash,
    )


async def _asked(vault: Vault, move: Move) -> Asked:
    from psymm.chain.addresses import checksummed
    from psymm.chain.calls import CtaCall

    if move.purpose == "withdraw":
        call = move.call
        if isinstance(call, CtaCall):
            return Asked(
                move.purpose,
                checksummed("token", call.token),
                call.amount,
                checksummed("recipient", call.recipient),
            )
    notes = [(await vault.store.note(one)).note for one in move.outputs]
    # A funding makes two notes; what stays in the sole custody is its change.
    made = [note for note in notes if note.custody.is_sole == (move.purpose == "deposit")]
    return Asked(move.purpose, made[0].token, made[0].amount)


def _words(funds: Funds, asked: Asked) -> str:
    known = {one.address: one for one in funds.context.deployment.tokens}
    info = known.get(asked.token)
    amount = (
        f"{format_amount(asked.units, info.decimals)} {info.symbol}"
        if info
        else f"{asked.units} units"
    )
    if asked.purpose == "withdraw":
        return f"the withdrawal of {amount} to {asked.recipient}"
    return f"the {'deposit' if asked.purpose == 'deposit' else 'funding'} of {amount}"


def _state(move: Move) -> str:
    if move.status == "done":
        return "is done"
    if move.status == "failed":
        return f"failed and can no longer happen: {move.reason}"
    if move.tx_hash is not None:
        why = f": {move.reason}" if move.reason else ""
        return f"was sent as {move.tx_hash}, not confirmed yet{why}"
    return "is under way, not confirmed yet"
