"""`psymm solver`: runs a market maker; `psymm solver kill` and `revive` are its emergency brake.

The order of a start: configuration, password, chain and notes, the terms shown, earlier moves, the
journal, the funds shown, the signal for the kill switch, the port, the metrics, the registry, the
ready line. So what is wrong shows before anybody can trade, and a trader that finds the solver in
the registry can reach it.

The end: at the first signal `leave` withdraws the quotes and tells the traders; then tasks are
cancelled. Every frame was in the journal before it was sent, so the next start continues.

The kill switch is a file next to the journal. It works without the process, and across restarts.
"""

from __future__ import annotations

import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click
import trio

from psymm.cli.chain_context import expect_ready
from psymm.cli.daemon import Ready, cannot_listen, run_daemon, stdin_option
from psymm.cli.data_dir import DataDir
from psymm.cli.exit_status import CommandError, Exit, holds
from psymm.cli.funds import Funds, SendingOptions, open_business, open_funds, sending_options
from psymm.cli.listing import enter_registry
from psymm.cli.logs import start_logging
from psymm.cli.options import (
    Group,
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
from psymm.cli.remedies import example_config, home_words
from psymm.cli.tls import ServerTls, endpoint_of, server_tls_options
from psymm.cli.typed import command, typed
from psymm.errors import JournalError
from psymm.storage import StorageError

if TYPE_CHECKING:
    from psymm.chain.deployment import TokenInfo
    from psymm.cli.maker import Maker
    from psymm.cli.market import Market
    from psymm.journal.codec import JournalledCustody
    from psymm.session.runtime.protection import KillSwitch


@click.group(cls=Group, invoke_without_command=True)
@json_option
@home_option
@password_option
@deployment_option
@rpc_option
@yes_option
@sending_options
@listen_option(9100)
@server_tls_options
@click.option(
    "--connections",
    type=click.IntRange(min=1),
    default=1024,
    show_default=True,
    help="The most connections at once.",
)
@click.option(
    "--per-address",
    type=click.IntRange(min=1),
    default=64,
    show_default=True,
    help="The most connections from one address; loopback (a local proxy) is not limited.",
)
@click.option(
    "--disk-floor",
    type=click.IntRange(min=0),
    default=256,
    show_default=True,
    metavar="MIB",
    help="With less free disk than this no new trader is accepted; open sessions continue.",
)
@click.option(
    "--keep-quotes",
    is_flag=True,
    help="Keep quotes when a connection is lost, instead of cancelling them on resuming.",
)
@metrics_option
@click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Terms, prices and style (TOML; the module psymm.cli.market says which keys).",
)
@click.option("--register", is_flag=True, help="Register in the registry once it listens.")
@stdin_option
@click.pass_context
def solver(
    context: click.Context,
    screen: Screen,
    home: DataDir,
    password_fd: int | None,
    deployment_file: Path | None,
    rpc_url: str | None,
    yes: bool,
    sending: SendingOptions,
    listen: tuple[str, int],
    endpoint: str | None,
    tls: ServerTls | None,
    connections: int,
    per_address: int,
    disk_floor: int,
    keep_quotes: bool,
    metrics: tuple[str, int] | None,
    config: Path | None,
    register: bool,
    until_stdin_closes: bool,
) -> None:
    """Runs a market maker that quotes, fills and settles around the prices of its configuration.

    Its collateral comes from its sole custody (psymm deposit). Sessions survive a restart: every
    frame is in the journal before it is sent. SIGTERM and SIGINT shut it down gracefully: callbacks
    end, quotes are withdrawn, and traders learn that it will be back. SIGUSR1 turns the kill switch
    on, like `psymm solver kill`.
    """
    if context.invoked_subcommand is not None:
        return
    if config is None:
        example = Path("maker.toml")
        raise CommandError(
            "usage",
            f"Give a configuration with --config. For an example: `{example_config(example)}`.",
            Exit.USAGE,
        )
    certificate = None if tls is None else tls.certificate()
    if not config.exists():
        raise CommandError(
            "no-config", f"{config} does not exist. Next: `{example_config(config)}`.", Exit.USAGE
        )
    from psymm.cli.market import load_market

    deployment = expect_ready(home, deployment_file, rpc_url)
    market = load_market(config, deployment, time.time_ns())
    start_logging(screen.as_json)
    password = ask_password(password_fd)

    makers: list[Maker] = []
    started = typed() or command("solver", "--config", config, *home_words(home))

    async def service(ready: Ready) -> None:
        from psymm.cli.maker import Maker
        from psymm.session.runtime.metrics import Metrics
        from psymm.session.runtime.metrics_server import serve_metrics
        from psymm.sockets.admission import AdmissionLimits

        async with (
            _note_open_custodies(home),
            open_funds(home, deployment_file, rpc_url, password) as funds,
        ):
            token = funds.token(market.terms.collateral.token)
            _say_terms(screen, market)
            async with (
                open_business(screen, funds, sending, token, home.journal) as client,
                trio.open_nursery() as nursery,
            ):
                await _say_funds(screen, home, funds, token, market)
                maker = Maker(
                    client,
                    market,
                    screen,
                    cancel_on_disconnect=not keep_quotes,
                    limits=AdmissionLimits(connections=connections, per_address=per_address),
                    disk_floor=disk_floor << 20,
                )
                makers.append(maker)
                killed = maker.kill_switch.reason
                if killed is not None:
                    screen.event("killed", f"the kill switch is on: {killed}", reason=killed)
                # Before it listens: SIGUSR1 must work from the first quote on.
                await nursery.start(_kill_on_signal, maker, screen)
                try:
                    port = await nursery.start(partial(maker.serve, *listen, tls=certificate))
                except* OSError as errors:
                    raise cannot_listen(listen, errors) from None
                scraped = None
                if metrics is not None:
                    figures = Metrics(await maker.server(), client.journal)
                    try:
                        scraped = await nursery.start(serve_metrics, figures.text, *metrics)
                    except* OSError as errors:
                        raise cannot_listen(metrics, errors, "--metrics") from None
                where = endpoint or endpoint_of(listen, port, tls)
                if register:
                    await enter_registry(
                        screen,
                        funds.context.registry,
                        funds.wallet,
                        "solver",
                        where,
                        yes,
                        plain=sending.plain,
                    )
                ready(
                    where,
                    account=funds.wallet.address,
                    termsHash=market.terms.hash,
                    acknowledgementNs=str(market.terms.timeouts.acknowledgement),
                    metricsPort=scraped,
                )

    async def leave() -> None:
        from psymm.cli.left import report
        from psymm.session.runtime.left import left_of
        from psymm.transcript.agreement import SOLVER

        for maker in makers:
            # Before `leave`, which ends the sessions.
            accounts = {key: session.projected for key, session in maker.sessions.items()}
            await maker.leave()
            rows = [
                row
                for row in await maker.party.journal.custodies()
                if row.lane == SOLVER and row.state not in ("handshake", "closed")
            ]
            report(
                screen,
                "left-open",
                [left_of(row, accounts.get(row.agreement.custody)) for row in rows],
                lambda _custody: started,
            )

    run_daemon(screen, "solver", service, until_stdin_closes, leave)


@asynccontextmanager
async def _note_open_custodies(home: DataDir) -> AsyncIterator[None]:
    """If the chain does not answer, add a note with the number of open custodies."""
    from psymm.chain.errors import ChainDown

    try:
        yield
    except BaseException as error:
        if holds(error, ChainDown):
            with trio.CancelScope(shield=True), suppress(JournalError, StorageError):
                held = len(await _held(home))
                shown = command("solver", "status", *home_words(home))
                if held:
                    error.add_note(f"{held} custodies stay open: `{shown}`.")
        raise


async def _held(home: DataDir) -> list[JournalledCustody]:
    """The open custodies. Raises JournalError, StorageError."""
    from psymm.journal.reader import open_journal_reader
    from psymm.transcript.agreement import SOLVER

    async with open_journal_reader(home.journal) as journal:
        rows = [row for row in await journal.custodies() if row.lane == SOLVER]
    return [row for row in rows if row.state not in ("handshake", "closed")]


def _say_terms(screen: Screen, market: Market) -> None:
    """Show the terms that every trader is offered, from the solver's point of view."""
    from psymm.api.words import own_terms_in_words

    words = own_terms_in_words(market.terms, market.collateral)
    if screen.as_json:
        screen.event("terms", "", termsHash=market.terms.hash, words=words)
        return
    screen.say(f"your terms 0x{market.terms.hash.hex()}:")
    for line in words:
        screen.event("terms", f"  {line}")


async def _say_funds(
    screen: Screen, home: DataDir, funds: Funds, token: TokenInfo, market: Market
) -> None:
    """Show the available collateral, and how to add more if it is not enough for one trader."""
    from psymm.api.client import most_fee
    from psymm.chain.errors import TokenChanged

    try:
        await funds.context.deployment.expect_token(funds.context.chain, token.address)
    except TokenChanged as changed:
        # Not an error: open custodies can be settled without moving the token.
        screen.event("token-changed", f"no new trader is accepted: {changed}", **changed.facts)

    available = (await funds.vault.balance(token.address)).available
    screen.event(
        "funds",
        f"{format_amount(available, token.decimals)} {token.symbol} in custody, "
        f"{format_amount(market.collateral, token.decimals)} for each trader",
        available=str(available),
        collateral=str(market.collateral),
    )
    lacking = market.collateral + most_fee(market.terms, market.collateral) - available
    if lacking > 0:
        more = command("deposit", format_amount(lacking, token.decimals), *home_words(home))
        screen.event(
            "funds-low",
            "with a relayer's fee that is not enough for one trader, so new traders are refused "
            f"until there is more. Next, in another terminal: `{more}`.",
            lacking=str(lacking),
        )


async def _kill_on_signal(
    maker: Maker,
    screen: Screen,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    with trio.open_signal_receiver(signal.SIGUSR1) as signals:
        task_status.started()
        async for _number in signals:
            maker.kill("SIGUSR1")
            screen.event("killed", "SIGUSR1: no quote and no fill until revived", reason="SIGUSR1")


@solver.command()
@json_option
@home_option
@click.option("--reason", default="by hand", show_default=True, help="Also shown to traders.")
def kill(screen: Screen, home: DataDir, reason: str) -> None:
    """Turns on the kill switch of the home's solver, whether it runs or not.

    Within half a second all quotes are withdrawn and all waiting requests are declined. No quote
    and no fill is signed until `psymm solver revive`, even after restarts. Traders can still
    cancel, settle and force their closes.
    """
    switch = _switch_of(home)
    switch.kill(reason)
    screen.result(f"Killed: {switch.reason}.", killed=True, reason=switch.reason)


@solver.command()
@json_option
@home_option
def status(screen: Screen, home: DataDir) -> None:
    """Shows the kill switch and the open custodies. The solver may run."""
    trio.run(_status, screen, home)


async def _status(screen: Screen, home: DataDir) -> None:
    from psymm.journal.reader import open_journal_reader
    from psymm.session.runtime.left import left_of
    from psymm.transcript.agreement import SOLVER, TRADER

    async with open_journal_reader(home.journal) as journal:
        rows = [row for row in await journal.custodies() if row.lane == SOLVER]
    held = [row for row in rows if row.state not in ("handshake", "closed")]
    reason = _switch_of(home).reason
    screen.table(
        ("custody", "trader", "state", "put up", "frames"),
        [
            (
                "0x" + row.agreement.custody.hex()[:16] + "…",
                row.agreement.wallet_address(TRADER),
                row.state,
                format_amount(row.ours, left_of(row).decimals),
                str(row.frames),
            )
            for row in held
        ],
    )
    killed = "" if reason is None else f" The kill switch is on: {reason}."
    screen.result(
        f"{len(held)} custodies are open, {len(rows) - len(held)} have ended.{killed}",
        open=[
            {
                "custody": row.agreement.custody,
                "trader": row.agreement.wallet_address(TRADER),
                "state": row.state,
                "collateral": str(row.ours),
                "frames": row.frames,
            }
            for row in held
        ],
        ended=len(rows) - len(held),
        killed=reason,
    )


@solver.command()
@json_option
@home_option
def revive(screen: Screen, home: DataDir) -> None:
    """Lets the home's solver quote and fill again."""
    switch = _switch_of(home)
    was = switch.reason
    switch.revive()
    screen.result(
        "It was not killed." if was is None else f"Revived; it was killed: {was}.",
        killed=False,
        reason=was,
    )


def _switch_of(home: DataDir) -> KillSwitch:
    from psymm.session.runtime.protection import kill_switch_of

    if not home.path.is_dir():
        raise CommandError("home", f"{home.path} is not the home of a party.", Exit.USAGE)
    return kill_switch_of(home.journal)
