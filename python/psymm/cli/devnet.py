"""`psymm devnet`: a development chain on this machine, and coins and test tokens on it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
import trio

from psymm.cli.daemon import Ready, run_daemon, stdin_option
from psymm.cli.data_dir import DataDir
from psymm.cli.exit_status import CommandError, Exit
from psymm.cli.options import (
    Group,
    deployment_option,
    finite_seconds,
    home_option,
    json_option,
    password_option,
    rpc_option,
)
from psymm.cli.output import Screen, format_amount, parse_amount
from psymm.cli.password import ask_password
from psymm.cli.remedies import next_commands

if TYPE_CHECKING:
    from psymm.chain.deployment import TokenInfo


@click.group(cls=Group, invoke_without_command=True)
@json_option
@click.option("--port", type=click.IntRange(0, 65535), default=8545, show_default=True)
@click.option(
    "--block-time",
    type=click.FloatRange(min=0.1),
    default=None,
    metavar="SECONDS",
    callback=finite_seconds,
    help="Mine at this pace. [default: a block for each transaction]",
)
@click.option(
    "--state",
    type=click.Path(dir_okay=False, path_type=Path),
    default=None,
    help="A file that the chain's state is read from and written to.",
)
@stdin_option
@click.pass_context
def devnet(
    context: click.Context,
    screen: Screen,
    port: int,
    block_time: float | None,
    state: Path | None,
    until_stdin_closes: bool,
) -> None:
    """Runs a development chain (anvil, chain id 31337) until a signal ends it.

    Contracts built with the development reference string work on this chain id only.
    """
    if context.invoked_subcommand is not None:
        return
    from psymm.chain.devnet import open_devnet

    async def service(ready: Ready) -> None:
        async with open_devnet(port=port, block_time_s=block_time, state=state) as running:
            ready(running.url, chainId=running.chain.chain_id)
            await trio.sleep_forever()

    run_daemon(screen, "devnet", service, until_stdin_closes)


@devnet.command()
@json_option
@home_option
@password_option
@deployment_option
@rpc_option
@click.argument("address", required=False)
@click.option("--ether", default=None, metavar="N", help="Set the balance of the chain's coin.")
@click.option("--token", default=None, help="A test token of the deployment, symbol or address.")
@click.option("--amount", default=None, metavar="N", help="Mint this much of the token.")
def fund(
    screen: Screen,
    home: DataDir,
    password_fd: int | None,
    deployment_file: Path | None,
    rpc_url: str | None,
    address: str | None,
    ether: str | None,
    token: str | None,
    amount: str | None,
) -> None:
    """Gives ADDRESS, or the home's own wallet, new coins or test tokens.

    Development chains only. The password is asked for only if no ADDRESS is given.
    """
    if ether is None and amount is None:
        raise CommandError("usage", "Give --ether, or --token with --amount.", Exit.USAGE)
    if (token is None) != (amount is None):
        raise CommandError("usage", "--token and --amount go together.", Exit.USAGE)
    from psymm.chain.addresses import checksummed
    from psymm.cli.chain_context import expect_wallet, load_deployment, node_url, open_wallet

    wei = None if ether is None else 0 if ether == "0" else parse_amount(ether, 18)
    minted: tuple[TokenInfo, int] | None = None
    if token is not None and amount is not None:
        info = load_deployment(home, deployment_file, rpc_url).token(token)
        minted = (info, parse_amount(amount, info.decimals))
    url = node_url(home, rpc_url)
    if address is None:
        expect_wallet(home)
        to = trio.run(open_wallet, home, ask_password(password_fd)).address
    else:
        to = checksummed("address", address)
    with next_commands(home, url, rpc_url, None, None):
        trio.run(_fund, url, to, wei, minted)
    parts = []
    if wei is not None:
        parts.append(f"{format_amount(wei, 18)} ETH")
    if minted is not None:
        parts.append(f"{format_amount(minted[1], minted[0].decimals)} {minted[0].symbol}")
    screen.result(
        f"{to} was given {' and '.join(parts)}.",
        address=to,
        wei=None if wei is None else str(wei),
        token=token,
        units=None if minted is None else str(minted[1]),
    )


async def _fund(url: str, to: str, wei: int | None, minted: tuple[TokenInfo, int] | None) -> None:
    from psymm.chain.artifacts import artifact
    from psymm.chain.devnet import CHAIN_ID
    from psymm.chain.rpc import Rpc
    from psymm.chain.transactions import Chain
    from psymm.wallet import KeyWallet

    async with Rpc(url) as rpc:
        await rpc.expect_chain(CHAIN_ID)
        if wei is not None:
            await rpc.call("anvil_setBalance", to, hex(wei))
        if minted is not None:
            info, units = minted
            # Anybody may mint a test token. A throwaway wallet does it, so that our nonce stays.
            minter = KeyWallet.generate()
            await rpc.call("anvil_setBalance", minter.address, hex(10**18))
            await Chain(rpc, CHAIN_ID).transact(
                minter,
                info.address,
                artifact("TestToken").abi.function("mint").encode(to, units),
                doing="making test tokens",
            )
