"""`psymm deposit`: moves tokens into the wallet's own sole custody (ATC)."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click
import trio

from psymm.cli.chain_context import expect_coins, expect_ready, token_of
from psymm.cli.data_dir import DataDir
from psymm.cli.earlier import MoveRequest, finish_earlier, report_repeated
from psymm.cli.funds import BLOCK_S, OpenFunds, open_funds
from psymm.cli.options import (
    Command,
    deployment_option,
    home_option,
    json_option,
    password_option,
    rpc_option,
    yes_option,
)
from psymm.cli.output import Cost, Screen, confirm_cost, format_amount, parse_amount
from psymm.cli.password import ask_password

if TYPE_CHECKING:
    from psymm.chain.deployment import TokenInfo

_GAS = 1_150_000
_APPROVAL_GAS = 50_000


@click.command(cls=Command)
@json_option
@home_option
@password_option
@deployment_option
@rpc_option
@yes_option
@click.option("--token", default=None, help="Symbol or address. [default: the deployment's only]")
@click.option("--permit", is_flag=True, help="Allow by signature (EIP-2612), without approving.")
@click.argument("amount")
def deposit(
    screen: Screen,
    home: DataDir,
    password_fd: int | None,
    deployment_file: Path | None,
    rpc_url: str | None,
    yes: bool,
    token: str | None,
    permit: bool,
    amount: str,
) -> None:
    """Moves AMOUNT of a token from this wallet's account into its own private custody.

    A daemon may run on this home; it can use the deposit as soon as it is on chain. Everybody sees
    the account, the token and the amount, but not what happens to it later. Deposit round amounts,
    and well before you use them, so that nobody can guess their purpose.
    """
    info = token_of(expect_ready(home, deployment_file, rpc_url), token)
    units = parse_amount(amount, info.decimals)
    password = ask_password(password_fd)

    def on_daemon() -> None:
        screen.event(
            "daemon-running", "a daemon runs on this home; it will find the deposit on chain"
        )

    opening = partial(
        open_funds, home, deployment_file, rpc_url, password, proving=False, on_daemon=on_daemon
    )
    trio.run(_deposit, screen, opening, info, units, permit, yes)


async def _deposit(
    screen: Screen, opening: OpenFunds, info: TokenInfo, units: int, permit: bool, yes: bool
) -> None:
    from psymm.chain.contracts import Token

    async with opening() as funds:
        earlier = await finish_earlier(screen, funds)
        asked = MoveRequest("deposit", info.address, units)
        if asked in earlier:
            report_repeated(screen, funds, asked, earlier[asked])
            return
        await funds.context.deployment.expect_token(funds.context.chain, info.address)
        erc20 = Token(funds.context.chain, info.address)
        # Only the balance. What is not allowed yet is approved by the deposit itself.
        await erc20.expect(funds.wallet.address, None, units)
        gas = _GAS if permit else _GAS + _APPROVAL_GAS
        price = (await funds.context.chain.fees()).max_wei
        cost = Cost(gas, price, BLOCK_S if permit else 2 * BLOCK_S)
        await expect_coins(funds.context.chain, funds.wallet.address, cost)
        action = f"Depositing {format_amount(units, info.decimals)} {info.symbol}"
        confirm_cost(screen, action, cost, yes)
        note = await funds.vault.deposit(funds.wallet, info.address, units, permit=permit)
        balance = await funds.vault.balance(info.address)
        screen.result(
            f"Deposited. In custody now: {format_amount(balance.available, info.decimals)} "
            f"{info.symbol}.",
            token=info.address,
            units=str(units),
            commitment=note.commitment,
            available=str(balance.available),
        )
        # After the result is printed. If this process dies before, the next command reports the
        # deposit.
        await funds.vault.acknowledge_ended()
