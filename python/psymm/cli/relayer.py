"""`psymm relayer`: runs a relayer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click
import trio

from psymm.cli.daemon import Ready, cannot_listen, run_daemon, stdin_option
from psymm.cli.data_dir import DataDir
from psymm.cli.exit_status import CommandError, Exit, holds
from psymm.cli.listing import enter_registry
from psymm.cli.logs import start_logging
from psymm.cli.options import (
    Command,
    deployment_option,
    home_option,
    json_option,
    listen_option,
    password_option,
    rpc_option,
    yes_option,
)
from psymm.cli.output import Screen, parse_amount
from psymm.cli.password import ask_password
from psymm.cli.tls import ServerTls, endpoint_of, plain_option, server_tls_options
from psymm.storage import StorageError

if TYPE_CHECKING:
    from psymm.chain.deployment import Deployment
    from psymm.cli.chain_context import ChainContext
    from psymm.relayer.config import TokenPrice


@click.command(cls=Command)
@json_option
@home_option
@password_option
@deployment_option
@rpc_option
@yes_option
@listen_option(9200)
@server_tls_options
@plain_option
@click.option(
    "--fee",
    "fees",
    multiple=True,
    required=True,
    metavar="TOKEN=AMOUNT",
    help="Accept fees in this token, and ask this much for a move. May be repeated.",
)
@click.option(
    "--fee-per-eth",
    "rates",
    multiple=True,
    metavar="TOKEN=AMOUNT",
    help="Also charge the expected gas, at this much of the token for one ETH.",
)
@click.option("--queue", type=click.IntRange(min=1), default=64, show_default=True)
@click.option("--register", is_flag=True, help="Register in the registry once it listens.")
@stdin_option
def relayer(
    screen: Screen,
    home: DataDir,
    password_fd: int | None,
    deployment_file: Path | None,
    rpc_url: str | None,
    yes: bool,
    listen: tuple[str, int],
    endpoint: str | None,
    tls: ServerTls | None,
    plain: bool,
    fees: tuple[str, ...],
    rates: tuple[str, ...],
    queue: int,
    register: bool,
    until_stdin_closes: bool,
) -> None:
    """Sends other people's finished moves for a fee, until a signal ends it.

    The wallet in --home pays the gas and gets the fees. Calls under way survive a restart.
    """
    start_logging(screen.as_json)
    from psymm.cli.chain_context import expect_ready

    certificate = None if tls is None else tls.certificate()
    deployment = expect_ready(home, deployment_file, rpc_url)
    prices = _prices(deployment, fees, rates)
    password = ask_password(password_fd)

    async def service(ready: Ready) -> None:
        from psymm.cli.chain_context import open_chain_context, open_wallet
        from psymm.relayer.config import RelayerConfig
        from psymm.relayer.service import RelayerService
        from psymm.relayer.store import Store

        wallet = await open_wallet(home, password)
        async with (
            _note_waiting_calls(home, deployment, wallet.address),
            open_chain_context(home, deployment_file, rpc_url) as context,
        ):
            taken = await _still_listed(screen, context, prices)
            config = RelayerConfig(prices=taken, queue=queue)
            store = await trio.to_thread.run_sync(
                Store,
                home.relayer,
                context.chain.chain_id,
                context.deployment.psymm,
                wallet.address,
            )
            with store:
                served = RelayerService(context.chain, context.pool, wallet, store, config)
                async with trio.open_nursery() as nursery:
                    try:
                        port = await nursery.start(partial(served.serve, *listen, tls=certificate))
                    except* OSError as errors:
                        raise cannot_listen(listen, errors) from None
                    # The service follows its calls. The outbox has the rest: the registry entry.
                    if context.chain.outbox is not None:
                        nursery.start_soon(context.chain.outbox.follow, context.chain, wallet)
                    where = endpoint or endpoint_of(listen, port, tls)
                    if register:
                        await enter_registry(
                            screen, context.registry, wallet, "relayer", where, yes, plain=plain
                        )
                    ready(where, account=wallet.address)

    run_daemon(screen, "relayer", service, until_stdin_closes)


@asynccontextmanager
async def _note_waiting_calls(
    home: DataDir, deployment: Deployment, relayer: str
) -> AsyncIterator[None]:
    """If the chain does not answer, add a note with the number of calls under way."""
    from psymm.chain.errors import ChainDown
    from psymm.relayer.errors import RelayerStoreError
    from psymm.relayer.store import Store

    try:
        yield
    except BaseException as error:
        if home.relayer.exists() and holds(error, ChainDown):
            with suppress(RelayerStoreError, StorageError):
                owner = (deployment.chain_id, deployment.psymm, relayer)
                with Store(home.relayer, *owner) as store:
                    count = len(store.under_way())
                error.add_note(f"{count} calls are under way; the next start continues them.")
        raise


async def _still_listed(
    screen: Screen, context: ChainContext, prices: dict[str, TokenPrice]
) -> dict[str, TokenPrice]:
    """The prices of tokens that are unchanged since they were listed; the others are reported.
    Raises TokenChanged if none is left."""
    from psymm.chain.errors import TokenChanged

    taken = dict(prices)
    for token in prices:
        try:
            await context.deployment.expect_token(context.chain, token)
        except TokenChanged as changed:
            del taken[token]
            if not taken:
                raise
            screen.event("token-changed", f"not accepted: {changed}", **changed.facts)
    return taken


def _prices(
    deployment: Deployment, fees: tuple[str, ...], rates: tuple[str, ...]
) -> dict[str, TokenPrice]:
    from psymm.relayer.config import TokenPrice

    flat = _amounts(deployment, "--fee", fees)
    per_eth = _amounts(deployment, "--fee-per-eth", rates)
    strange = set(per_eth) - set(flat)
    if strange:
        raise CommandError("usage", "--fee-per-eth names a token that --fee does not.", Exit.USAGE)
    return {token: TokenPrice(units, per_eth.get(token, 0)) for token, units in flat.items()}


def _amounts(deployment: Deployment, option: str, texts: tuple[str, ...]) -> dict[str, int]:
    found: dict[str, int] = {}
    for text in texts:
        name, sign, amount = text.partition("=")
        if not sign:
            raise CommandError("usage", f"Write {option} like pUSD=0.05, not {text!r}.", Exit.USAGE)
        token = deployment.token(name)
        if token.address in found:
            raise CommandError("usage", f"{option} names {token.symbol} twice.", Exit.USAGE)
        found[token.address] = parse_amount(amount, token.decimals)
    return found
