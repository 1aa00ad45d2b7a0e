"""`psymm deploy`: deploys the contracts and writes the file that other commands read."""

from __future__ import annotations

import os
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click
import trio

from psymm.cli.data_dir import DataDir
from psymm.cli.exit_status import CommandError, Exit
from psymm.cli.options import (
    Command,
    deployment_option,
    home_option,
    json_option,
    password_option,
    rpc_option,
    yes_option,
)
from psymm.cli.output import Cost, Screen, confirm_cost
from psymm.cli.password import ask_password

if TYPE_CHECKING:
    from psymm.chain.deployment import Deployment, TokenInfo
    from psymm.chain.errors import TokenChanged

_TRANSACTIONS = 5


@click.command(cls=Command)
@json_option
@home_option
@password_option
@deployment_option
@rpc_option
@yes_option
@click.option("--token", "tokens", multiple=True, metavar="ADDRESS", help="List this ERC-20.")
@click.option(
    "--test-token",
    default=None,
    metavar="SYMBOL:DECIMALS",
    help="Deploy a token that anybody can mint. Development chains only.",
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    default=None,
    help="Also write the file here. [default: only deployment.json in the home]",
)
@click.option("--check", "only_check", is_flag=True, help="Only compare a deployment to its chain.")
def deploy(
    screen: Screen,
    home: DataDir,
    password_fd: int | None,
    deployment_file: Path | None,
    rpc_url: str | None,
    yes: bool,
    tokens: tuple[str, ...],
    test_token: str | None,
    out: Path | None,
    only_check: bool,
) -> None:
    """Deploys pSymm and checks the result: verifiers, reference string, addresses.

    The contracts have no owner and no proxy, so they never change. Before anything is sent, the
    chain, the node, each token's transfers and the wallet's coins are checked. If the command fails
    half-way, repeat it: it continues with what was sent. In a home with a deployment it adds tokens
    to the list, or lists a changed token as it is now.

    With --check nothing is sent: the file is compared with the code on chain and with this package.
    A listed token that has changed is reported as a finding; only operations in that token are
    refused.
    """
    if only_check:
        trio.run(_check, screen, home, deployment_file, rpc_url)
        return
    if deployment_file is not None:
        raise CommandError("usage", "--deployment goes with --check; use --out.", Exit.USAGE)
    trio.run(_deploy, screen, home, password_fd, rpc_url, yes, tokens, _test_token(test_token), out)


def _test_token(text: str | None) -> TokenInfo | None:
    from psymm.chain.addresses import ZERO_ADDRESS
    from psymm.chain.contracts import MOST_DECIMALS, fit_symbol
    from psymm.chain.deployment import TokenInfo

    if text is None:
        return None
    symbol, _, decimals = text.partition(":")
    known = {str(count) for count in range(MOST_DECIMALS + 1)}
    if not (symbol.isascii() and symbol.isalnum() and fit_symbol(symbol)) or decimals not in known:
        raise CommandError(
            "usage", "Write --test-token like pUSD:6, with at most 18 decimals.", Exit.USAGE
        )
    return TokenInfo(ZERO_ADDRESS, symbol, int(decimals))


async def _deploy(
    screen: Screen,
    home: DataDir,
    password_fd: int | None,
    rpc_url: str | None,
    yes: bool,
    tokens: tuple[str, ...],
    test_token: TokenInfo | None,
    out: Path | None,
) -> None:
    from psymm.chain.deployment import changed_tokens, deploy
    from psymm.chain.rpc import Rpc
    from psymm.chain.transactions import Chain
    from psymm.cli.chain_context import expect_wallet, node_url, open_wallet, remember_node
    from psymm.cli.remedies import next_commands

    expect_wallet(home)
    url = node_url(home, rpc_url)
    if out is not None:
        _expect_writable(out)
    wallet = await open_wallet(home, ask_password(password_fd))
    async with AsyncExitStack() as opened:
        # The chain's id is not known yet, so this part gets the remedies that do not depend on it.
        with next_commands(home, url, rpc_url, None, None):
            rpc = await opened.enter_async_context(Rpc(url))
            chain = Chain(rpc, await rpc.chain_id())
        opened.enter_context(next_commands(home, url, rpc_url, chain.chain_id, None))
        price = (await chain.fees()).max_wei
        action = f"Deploying pSymm to chain {chain.chain_id} from {wallet.address}"
        sent: list[str] = []

        def deployed(name: str, address: str, used: int) -> None:
            sent.append(name)
            screen.event(
                "deployed",
                f"  {name:<14} {address}  {used:,} gas",
                contract=name,
                address=address,
                gasUsed=used,
            )

        def agree(gas: int) -> None:
            # The record of what is sent will be here, so the directory must be usable before
            # anything is paid.
            home.prepare()
            confirm_cost(screen, action, Cost(gas, price, 15.0 * _TRANSACTIONS), yes)

        deployment = await deploy(
            chain,
            wallet,
            tokens=tokens,
            test_token=test_token,
            file=home.deployment,
            agree=agree,
            progress=deployed,
        )
        changed = await changed_tokens(chain, deployment)
    remember_node(home, rpc_url, replace=True)
    if out is not None:
        deployment.save(out)
    done = "Deployed and checked" if sent else "The contracts were deployed already; checked"
    _show(screen, deployment, changed, out or home.deployment, done)


def _expect_writable(out: Path) -> None:
    """Raises CommandError if `out` cannot be written: better before the gas is paid than after."""
    place = out.parent
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise CommandError("usage", f"--out: {place} is not a writable directory.", Exit.USAGE)


async def _check(
    screen: Screen, home: DataDir, deployment_file: Path | None, rpc_url: str | None
) -> None:
    from psymm.chain.deployment import changed_tokens
    from psymm.cli.chain_context import open_chain_context

    async with open_chain_context(home, deployment_file, rpc_url) as context:
        changed = await changed_tokens(context.chain, context.deployment)
        _show(screen, context.deployment, changed, deployment_file or home.deployment, "Checked")


def _show(
    screen: Screen,
    deployment: Deployment,
    changed: list[TokenChanged],
    path: Path,
    done: str,
) -> None:
    for one in changed:
        screen.event("finding", f"finding: {one}", code=one.code, **one.facts)
    listed = ", ".join(f"{one.symbol} {one.address}" for one in deployment.tokens) or "none"
    screen.result(
        f"{done}: chain {deployment.chain_id}, reference string {deployment.crs}\n"
        f"  pSymm     {deployment.psymm}\n"
        f"  portal    {deployment.portal}\n"
        f"  registry  {deployment.registry}\n"
        f"  tokens    {listed}\n"
        f"  file      {path}",
        file=str(path),
        deployment=deployment.to_json(),
        findings=[{"code": one.code, **one.facts} for one in changed],
    )
