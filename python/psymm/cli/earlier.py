"""A wallet's earlier moves: continued before a new command starts, reported, never repeated.

A command that ends while its transaction waits leaves a move under way. The next command waits for
it a little and reports how it ended. If that command asks for the same move again, the user most
likely means the same money. So it reports the first move and starts nothing.
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
    from psymm.custody.stored import Move


@dataclass(frozen=True)
class MoveRequest:
    """What a move is for.  recipient: of a withdrawal, else empty."""

    purpose: str
    token: str
    units: int
    recipient: str = ""


async def finish_earlier(
    screen: Screen, funds: Funds, senders: Sequence[Sender] = ()
) -> dict[MoveRequest, Move]:
    """Continue earlier moves and report how each ended, or that it is under way.

    Returns the deposits, fundings and withdrawals that did not fail, by what they were for; a move
    under way takes precedence over a finished one. Deposits in the side vault are included, unless
    another command has it open. Raises what reading the chain and the files raises, never the error
    that ended an old move.
    """
    from psymm.custody.errors import StoreLocked

    found = await _finish_earlier(screen, funds, funds.vault, senders)
    if funds.open_side_vault is not None:
        with suppress(StoreLocked):
            async with await funds.open_side_vault() as side_vault:
                found |= await _finish_earlier(screen, funds, side_vault, ())
            await funds.vault.refresh()  # take in what was mined meanwhile
    return found


async def _finish_earlier(
    screen: Screen, funds: Funds, vault: Vault, senders: Sequence[Sender]
) -> dict[MoveRequest, Move]:
    alive = await vault.resume(senders)
    ended = await vault.ended()
    found: dict[MoveRequest, Move] = {}
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
    # After all were reported: a command that dies in between must not swallow one.
    await vault.acknowledge_ended()
    return found


def report_repeated(screen: Screen, funds: Funds, asked: MoveRequest, move: Move) -> None:
    """Report an earlier move as the result of a command that asks for the same.

    Raises TransactionPending or MoveUnderWay if the earlier move is not done.
    """
    from psymm.chain.errors import TransactionPending
    from psymm.custody.errors import MoveUnderWay

    if move.alive:
        if move.tx_hash is not None:
            raise TransactionPending(move.tx_hash, 0.0)
        raise MoveUnderWay(move.purpose, move.deadline)
    screen.result(
        f"{_words(funds, asked)} is done: an earlier command sent it. Nothing new was started. To "
        "do the same once more, repeat the command.",
        earlier=True,
        purpose=asked.purpose,
        token=asked.token,
        units=str(asked.units),
        recipient=asked.recipient,
        tx=move.tx_hash,
    )


async def _asked(vault: Vault, move: Move) -> MoveRequest:
    from psymm.chain.addresses import checksummed
    from psymm.chain.calls import CtaCall

    if move.purpose == "withdraw":
        call = move.call
        if isinstance(call, CtaCall):
            return MoveRequest(
                move.purpose,
                checksummed("token", call.token),
                call.amount,
                checksummed("recipient", call.recipient),
            )
    notes = [(await vault.store.note(one)).note for one in move.outputs]
    # A funding makes two notes; the one in the sole custody is its change.
    made = [note for note in notes if note.custody.is_sole == (move.purpose == "deposit")]
    return MoveRequest(move.purpose, made[0].token, made[0].amount)


def _words(funds: Funds, asked: MoveRequest) -> str:
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
