"""`psymm withdraw`: pays tokens out of the wallet's sole custody (CTA), in parts, to any
addresses."""

from __future__ import annotations

import secrets
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click
import trio

from psymm.cli.chain_context import expect_coins, expect_ready, token_of
from psymm.cli.data_dir import DataDir
from psymm.cli.earlier import MoveRequest, finish_earlier, report_repeated
from psymm.cli.exit_status import CommandError, Exit
from psymm.cli.funds import (
    BLOCK_S,
    PROOF_S,
    Funds,
    OpenFunds,
    SendingOptions,
    fee_line,
    open_funds,
    sending_options,
)
from psymm.cli.options import (
    Command,
    deployment_option,
    finite_seconds,
    home_option,
    json_option,
    password_option,
    rpc_option,
    yes_option,
)
from psymm.cli.output import Cost, Screen, Value, confirm_cost, format_amount, parse_amount
from psymm.cli.password import ask_password

if TYPE_CHECKING:
    from psymm.chain.deployment import TokenInfo
    from psymm.custody.stored import Move

_GAS = 1_200_000


@click.command(cls=Command)
@json_option
@home_option
@password_option
@deployment_option
@rpc_option
@yes_option
@sending_options
@click.option("--token", default=None, help="Symbol or address. [default: the deployment's only]")
@click.option(
    "--pause",
    type=click.FloatRange(min=0),
    default=0.0,
    metavar="SECONDS",
    callback=finite_seconds,
    help="Wait a random time up to this between two parts.",
)
@click.argument("parts", nargs=-1, required=True, metavar="ADDRESS=AMOUNT…")
def withdraw(
    screen: Screen,
    home: DataDir,
    password_fd: int | None,
    deployment_file: Path | None,
    rpc_url: str | None,
    yes: bool,
    sending: SendingOptions,
    token: str | None,
    pause: float,
    parts: tuple[str, ...],
) -> None:
    """Pays each AMOUNT to its ADDRESS; the last AMOUNT may be `rest`, for all that remains.

    Everybody sees recipients, amounts and times, but not who pays. The relayer's fee is taken from
    each amount. To stay private, use fresh addresses, common amounts, and time between the parts.
    Anything that could reveal you is shown before anything is sent.
    """
    info = token_of(expect_ready(home, deployment_file, rpc_url), token)
    wanted = _wanted(info, parts)
    if sending.max_fee is not None:
        parse_amount(sending.max_fee, info.decimals)
    password = ask_password(password_fd)
    opening = partial(open_funds, home, deployment_file, rpc_url, password)
    trio.run(_withdraw, screen, opening, sending, info, wanted, pause, yes)


async def _withdraw(
    screen: Screen,
    opening: OpenFunds,
    sending: SendingOptions,
    info: TokenInfo,
    wanted: list[tuple[str, int | None]],
    pause: float,
    yes: bool,
) -> None:
    async with opening() as funds:
        earlier = await finish_earlier(screen, funds, funds.senders(sending, info))
        if _is_repeated(screen, funds, info, wanted, earlier):
            return
        await funds.context.deployment.expect_token(funds.context.chain, info.address)
        parts = await _parts(funds, info, wanted)
        total = sum(units for _, units in parts)
        await _warn(screen, funds, info, parts)
        fee = await fee_line(screen, funds, sending, "cta", info)
        price = (await funds.context.chain.fees()).max_wei
        seconds = len(parts) * (PROOF_S + BLOCK_S + pause / 2)
        action = (
            f"Withdrawing {format_amount(total, info.decimals)} {info.symbol} "
            f"in {len(parts)} part{'s' if len(parts) > 1 else ''}"
        )
        cost = Cost(0 if fee is not None else _GAS * len(parts), price, seconds, fee)
        await expect_coins(funds.context.chain, funds.wallet.address, cost)
        confirm_cost(screen, action, cost, yes)

        done: list[Value] = []
        for at, (recipient, units) in enumerate(parts):
            if at and pause:
                # Unpredictable, because a pattern in time would link the parts.
                await trio.sleep(secrets.randbelow(int(pause * 1000) + 1) / 1000)
            moved = await funds.vault.withdraw(
                info.address, units, recipient, funds.senders(sending, info)
            )
            got = format_amount(units - moved.fee, info.decimals)
            tx = moved.receipt.tx_hash if moved.receipt is not None else None
            done.append(
                {
                    "recipient": recipient,
                    "units": str(units),
                    "fee": str(moved.fee),
                    "received": str(units - moved.fee),
                    "tx": tx,
                    "gasUsed": moved.receipt.gas_used if moved.receipt is not None else None,
                    "proveMs": moved.prove_ms,
                }
            )
            screen.event(
                "withdrawn",
                f"{recipient} got {got} {info.symbol}, "
                f"fee {format_amount(moved.fee, info.decimals)}",
                recipient=recipient,
                received=str(units - moved.fee),
                tx=tx,
            )
        balance = await funds.vault.balance(info.address)
        screen.result(
            f"In custody still: {format_amount(balance.available, info.decimals)} {info.symbol}.",
            parts=done,
            token=info.address,
            available=str(balance.available),
        )
        # After the result is printed; see `deposit`.
        await funds.vault.acknowledge_ended()


def _is_repeated(
    screen: Screen,
    funds: Funds,
    info: TokenInfo,
    wanted: list[tuple[str, int | None]],
    earlier: dict[MoveRequest, Move],
) -> bool:
    """Whether an earlier withdrawal is one of these parts; raises if it is under way.

    `rest` matches any amount, because the notes no longer show what it was then.
    """
    for recipient, units in wanted:
        like = [
            (asked, move)
            for asked, move in earlier.items()
            if (asked.purpose, asked.token, asked.recipient)
            == ("withdraw", info.address, recipient)
            and units in (None, asked.units)
        ]
        if like:
            report_repeated(screen, funds, *like[-1])
            return True
    return False


async def _warn(
    screen: Screen, funds: Funds, info: TokenInfo, parts: list[tuple[str, int]]
) -> None:
    """Show what in this withdrawal could reveal its owner."""
    from psymm.custody.warnings import public_moves, withdrawal_warnings

    deployment, vault = funds.context.deployment, funds.vault
    head = await funds.context.chain.rpc.block_number()
    seen = await public_moves(funds.context.pool, info.address, deployment.first_block, head)
    held = await vault.store.notes(token=info.address, status="unspent", custody=vault.view.sole.id)
    for one in withdrawal_warnings(
        parts,
        own=[funds.wallet.address],
        notes=[each.note for each in held],
        seen=seen,
        tree=vault.tree,
        decimals=info.decimals,
    ):
        screen.event("warning", f"privacy: {one.text}", code=one.code, warning=one.text)


def _wanted(info: TokenInfo, texts: tuple[str, ...]) -> list[tuple[str, int | None]]:
    """(recipient, units) of each part, with None for `rest`. Raises CommandError `usage`,
    `bad-amount` (exit 2), CallInvalid for an invalid address."""
    from psymm.chain.addresses import checksummed

    found: list[tuple[str, int | None]] = []
    for at, text in enumerate(texts):
        address, sign, amount = text.partition("=")
        if not sign:
            raise CommandError("usage", f"{text!r} is not ADDRESS=AMOUNT.", Exit.USAGE)
        rest = amount == "rest"
        if rest and at != len(texts) - 1:
            raise CommandError("usage", "Only the last part can be `rest`.", Exit.USAGE)
        units = None if rest else parse_amount(amount, info.decimals)
        found.append((checksummed("recipient", address), units))
    return found


async def _parts(
    funds: Funds, info: TokenInfo, wanted: list[tuple[str, int | None]]
) -> list[tuple[str, int]]:
    """The parts, with `rest` as what is spendable after the others. Raises FundsTooLow."""
    from psymm.custody.errors import FundsTooLow

    balance = await funds.vault.balance(info.address)
    named = sum(units or 0 for _, units in wanted)
    rest = balance.available - named
    if rest < 0:
        raise FundsTooLow(info.address, named, balance.available, balance.under_way)
    if rest == 0 and wanted[-1][1] is None:
        raise FundsTooLow(info.address, named + 1, balance.available, balance.under_way)
    return [(recipient, rest if units is None else units) for recipient, units in wanted]
