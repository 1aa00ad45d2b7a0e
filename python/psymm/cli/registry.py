"""`psymm registry`: the public list of parties."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import click
import trio

from psymm.cli.data_dir import DataDir
from psymm.cli.listing import REGISTRATION_GAS
from psymm.cli.options import (
    Group,
    deployment_option,
    home_option,
    json_option,
    password_option,
    rpc_option,
    yes_option,
)
from psymm.cli.output import Cost, Screen, confirm_cost
from psymm.cli.password import ask_password
from psymm.cli.tls import plain_option

ROLES = ("trader", "solver", "relayer", "validator", "oracle", "watcher")


@click.group(cls=Group)
def registry() -> None:
    """Parties, their roles, endpoints and keys, for everybody to read."""


def _writer(name: str, doing: str) -> click.Command:
    @registry.command(name, help=doing)
    @json_option
    @home_option
    @password_option
    @deployment_option
    @rpc_option
    @yes_option
    @click.option("--role", type=click.Choice(ROLES), required=True)
    @click.option("--endpoint", required=True, metavar="URL", help="ws:// or wss:// address.")
    @plain_option
    def write(
        screen: Screen,
        home: DataDir,
        password_fd: int | None,
        deployment_file: Path | None,
        rpc_url: str | None,
        yes: bool,
        role: str,
        endpoint: str,
        plain: bool,
    ) -> None:
        entry = partial(_write, screen, home, password_fd, deployment_file, rpc_url, yes, role)
        trio.run(partial(entry, endpoint, plain=plain))

    return write


_writer("register", "Registers this wallet with a role and an endpoint.")
_writer("update", "Changes this wallet's endpoint for a role.")


@registry.command()
@json_option
@home_option
@password_option
@deployment_option
@rpc_option
@yes_option
@click.option("--role", type=click.Choice(ROLES), required=True)
def remove(
    screen: Screen,
    home: DataDir,
    password_fd: int | None,
    deployment_file: Path | None,
    rpc_url: str | None,
    yes: bool,
    role: str,
) -> None:
    """Removes this wallet's entry for a role."""
    trio.run(partial(_write, screen, home, password_fd, deployment_file, rpc_url, yes, role, None))


async def _write(
    screen: Screen,
    home: DataDir,
    password_fd: int | None,
    deployment_file: Path | None,
    rpc_url: str | None,
    yes: bool,
    role: str,
    endpoint: str | None,
    *,
    plain: bool = False,
) -> None:
    from psymm.chain.registry import Role, checked_endpoint
    from psymm.cli.chain_context import (
        expect_coins,
        expect_ready,
        open_chain_context,
        open_wallet,
    )
    from psymm.sockets.dialling import check_plain

    if endpoint is not None:
        checked_endpoint(endpoint)
        await check_plain(endpoint, plain)
    expect_ready(home, deployment_file, rpc_url)
    wallet = await open_wallet(home, ask_password(password_fd))
    async with open_chain_context(home, deployment_file, rpc_url) as context:
        price = (await context.chain.fees()).max_wei
        action = f"Registering {wallet.address} as {role} at {endpoint}"
        if endpoint is None:
            action = f"Removing {wallet.address} as {role}"
        cost = Cost(REGISTRATION_GAS, price, 15.0)
        await expect_coins(context.chain, wallet.address, cost)
        confirm_cost(screen, action, cost, yes)
        kind = Role[role.upper()]
        if endpoint is None:
            receipt = await context.registry.remove(wallet, kind)
        else:
            receipt = await context.registry.register(wallet, kind, endpoint, wallet.public_key)
    screen.result(
        f"Done in transaction {receipt.tx_hash}, {receipt.gas_used:,} gas.",
        account=wallet.address,
        role=role,
        endpoint=endpoint,
        tx=receipt.tx_hash,
        gasUsed=receipt.gas_used,
    )


@registry.command("list")
@json_option
@home_option
@deployment_option
@rpc_option
@click.option("--role", type=click.Choice(ROLES), required=True)
def list_parties(
    screen: Screen, home: DataDir, deployment_file: Path | None, rpc_url: str | None, role: str
) -> None:
    """Lists the parties with a role; invalid entries are left out."""
    trio.run(partial(_list, screen, home, deployment_file, rpc_url, role))


async def _list(
    screen: Screen, home: DataDir, deployment_file: Path | None, rpc_url: str | None, role: str
) -> None:
    from psymm.chain.registry import Role
    from psymm.cli.chain_context import open_chain_context

    async with open_chain_context(home, deployment_file, rpc_url) as context:
        parties = [one async for one in context.registry.list(Role[role.upper()])]
    screen.table(
        ("account", "endpoint", "updated"),
        [
            (
                one.account,
                one.endpoint,
                datetime.fromtimestamp(one.updated_at, UTC).isoformat(" ", "seconds"),
            )
            for one in parties
        ],
    )
    screen.result(
        "" if parties else f"No {role} is registered.",
        parties=[
            {
                "account": one.account,
                "role": role,
                "endpoint": one.endpoint,
                "publicKey": one.public_key,
                "updatedAt": one.updated_at,
            }
            for one in parties
        ],
    )
