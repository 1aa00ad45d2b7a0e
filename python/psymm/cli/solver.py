"""`psymm solver`: runs a market maker."""

from __future__ import annotations

import time
from pathlib import Path

import click
import trio

from psymm.cli.daemon import Ready, cannot_listen, run_daemon, stdin_option
from psymm.cli.home import Home
from psymm.cli.listing import enter_registry
from psymm.cli.logs import start_logging
from psymm.cli.options import (
    Command,
    deployment_option,
    home_option,
    json_option,
    listen_option,
    metrics_option,
    password_option,
    rpc_option,
    yes_option,
)
from psymm.cli.output import Screen, format_amount
from psymm.cli.password import ask_password
from psymm.cli.purse import SendingOptions, open_purse, sending_options


@click.command(cls=Command)
@json_option
@home_option
@password_option
@deployment_option
@rpc_option
@yes_option
@sending_options
@listen_option(9100)
@metrics_option
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    required=True,
    help="Terms, prices and style (TOML; the module psymm.cli.market says which keys).",
)
@click.option("--register", is_flag=True, help="Enter the registry once it answers.")
@stdin_option
def solver(
    screen: Screen,
    home: Home,
    password_fd: int | None,
    deployment_file: Path | None,
    rpc_url: str | None,
    yes: bool,
    sending: SendingOptions,
    listen: tuple[str, int],
    endpoint: str | None,
    metrics: tuple[str, int] | None,
    config: Path,
    register: bool,
    until_stdin_closes: bool,
) -> None:
    """Quotes, fills and settles by itself, around the prices of its configuration.

    What it puts up for traders comes out of its sole custody (psymm deposit). Sessions survive a
    restart: every frame is in the journal before it is sent.
    """
    start_logging(screen.as_json)
    password = ask_password(password_fd)

    async def service(ready: Ready) -> None:
        from psymm.api.dealer import dealing
        from psymm.cli.maker import Maker
        from psymm.cli.market import load_market
        from psymm.session.metrics import Metrics
        from psymm.session.scrape import serve_metrics

        async with open_purse(home, deployment_file, rpc_url, password) as purse:
            market = load_market(config, purse.site.deployment, time.time_ns())
            token = purse.token(market.terms.collateral.token)
            senders = purse.senders(sending, token)
            await purse.vault.resume(purse.wallet, senders)
            balance = await purse.vault.balance(token.address)
            screen.event(
                "funds",
                f"{format_amount(balance.available, token.decimals)} {token.symbol} in custody, "
                f"{format_amount(market.put_up, token.decimals)} for each trader",
                available=str(balance.available),
                putUp=str(market.put_up),
            )
            async with (
                dealing(
                    purse.wallet, purse.vault, purse.site.registry, senders, home.journal
                ) as dealer,
                trio.open_nursery() as nursery,
            ):
                # The prover needs seconds to start; a trader should not have to wait for it.
                if purse.vault.prover is not None:
                    nursery.start_soon(purse.vault.prover.start)
                maker = Maker(dealer, market, screen)
                try:
                    port = await nursery.start(maker.serve, *listen)
                except* OSError as errors:
                    raise cannot_listen(listen, errors) from None
                scraped = None
                if metrics is not None:
                    figures = Metrics(await maker.server(), dealer.journal)
                    try:
                        scraped = await nursery.start(serve_metrics, figures.text, *metrics)
                    except* OSError as errors:
                        raise cannot_listen(metrics, errors, "--metrics") from None
                where = endpoint or f"ws://{listen[0]}:{port}/"
                if register:
                    await enter_registry(
                        screen, purse.site.registry, purse.wallet, "solver", where, yes
                    )
                ready(
                    where,
                    account=purse.wallet.address,
                    termsHash=market.terms.hash,
                    acknowledgementNs=str(market.terms.timeouts.acknowledgement),
                    metricsPort=scraped,
                )

    run_daemon(screen, "solver", service, until_stdin_closes)
