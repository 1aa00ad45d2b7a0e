"""`psymm oracle`: runs one signer of a price oracle."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click
import trio

from psymm.cli.daemon import Ready, cannot_listen, run_daemon, stdin_option
from psymm.cli.data_dir import DataDir
from psymm.cli.exit_status import CommandError, Exit
from psymm.cli.logs import start_logging
from psymm.cli.options import (
    Command,
    deployment_option,
    home_option,
    json_option,
    listen_option,
    password_option,
)
from psymm.cli.output import Screen
from psymm.cli.password import ask_password
from psymm.cli.tls import (
    ServerTls,
    client_tls_option,
    endpoint_of,
    server_tls_options,
    trusted,
)

if TYPE_CHECKING:
    from psymm.cli.oracle_config import OracleSettings


@click.command(cls=Command)
@json_option
@home_option
@password_option
@deployment_option
@listen_option(9300)
@server_tls_options
@client_tls_option
@click.option(
    "--config",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Signers, tolerance and prices (TOML; for an example: psymm docs oracle.toml).",
)
@click.option(
    "--connections",
    type=click.IntRange(min=1),
    default=1024,
    show_default=True,
    help="The most connections at once; a quarter is kept for the other signers.",
)
@stdin_option
def oracle(
    screen: Screen,
    home: DataDir,
    password_fd: int | None,
    deployment_file: Path | None,
    listen: tuple[str, int],
    endpoint: str | None,
    tls: ServerTls | None,
    tls_ca: Path | None,
    plain: bool,
    config: Path,
    connections: int,
    until_stdin_closes: bool,
) -> None:
    """Signs one round of all prices each second, together with the other signers.

    The wallet in --home signs. It signs a round only if it has the same feeds as its own prices and
    each is within the tolerance, and never two rounds of one second, also after a crash. Whole
    rounds go to everybody who follows; all are kept in the home for `keep_days`.
    """
    start_logging(screen.as_json)
    from psymm.cli.chain_context import expect_wallet, load_deployment
    from psymm.cli.oracle_config import load_oracle

    certificate = None if tls is None else tls.certificate()
    expect_wallet(home)
    deployment = load_deployment(home, deployment_file)
    settings = load_oracle(config)
    if settings.board is not None and settings.socket is None and until_stdin_closes:
        raise CommandError(
            "usage",
            "Prices come from standard input, so its end cannot end the command: give "
            "source.socket in the configuration, or omit --until-stdin-closes.",
            Exit.USAGE,
        )
    password = ask_password(password_fd)

    async def service(ready: Ready) -> None:
        from psymm._core import domain_separator
        from psymm.cli.chain_context import open_wallet
        from psymm.oracle.service import OracleConfig, OracleService
        from psymm.oracle.store import OracleStore

        wallet = await open_wallet(home, password)
        if wallet.address not in settings.endpoints:
            raise CommandError(
                "not-a-signer",
                f"The wallet {wallet.address} is none of the signers in {config}.",
                Exit.USAGE,
            )
        made = OracleConfig(
            domain=domain_separator(deployment.chain_id, bytes.fromhex(deployment.psymm[2:])),
            signers=settings.signers,
            tolerance=settings.tolerance,
            peers={
                one: where for one, where in settings.endpoints.items() if one != wallet.address
            },
            grid_ns=settings.grid_ns,
            plain=plain,
            tls=trusted(tls_ca),
            connections=connections,
        )
        if deployment_file is not None:
            home.adopt_deployment(deployment_file)
        store = await trio.to_thread.run_sync(
            OracleStore,
            home.oracle,
            deployment.chain_id,
            deployment.psymm,
            wallet.address,
            settings.keep_s,
        )
        with store:
            signer = OracleService(wallet.key, made, store, settings.source)
            async with trio.open_nursery() as nursery:
                await _start_source(nursery, home, settings)
                try:
                    port = await nursery.start(partial(signer.serve, *listen, tls=certificate))
                except* OSError as errors:
                    raise cannot_listen(listen, errors) from None
                ready(endpoint or endpoint_of(listen, port, tls), account=wallet.address)

    run_daemon(screen, "oracle", service, until_stdin_closes)


async def _start_source(nursery: trio.Nursery, home: DataDir, settings: OracleSettings) -> None:
    """Start reading lines, if prices come as lines."""
    from psymm.oracle.feeding import read_lines, serve_lines

    board = settings.board
    if board is None:
        return
    if settings.socket is not None:
        await nursery.start(partial(serve_lines, home.path / settings.socket, board))
        return

    async def read() -> None:
        async with trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())) as stream:
            await read_lines(stream, board)

    nursery.start_soon(read)
