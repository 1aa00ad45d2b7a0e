"""`psymm trade`: finds solvers, chooses the best, puts up collateral, trades, and settles."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click
import trio

from psymm.cli.chain_context import expect_coins, expect_ready, token_of
from psymm.cli.choice import Choice
from psymm.cli.custodies import LANES, chosen
from psymm.cli.daemon import cancel_on_signal, stdin_option
from psymm.cli.data_dir import DataDir
from psymm.cli.exit_status import CommandError, Exit
from psymm.cli.funds import (
    BLOCK_S,
    PROOF_S,
    Funds,
    OpenFunds,
    SendingOptions,
    fee_line,
    open_business,
    open_funds,
    sending_options,
)
from psymm.cli.left import collect_left_open, note_left_open, report_open_on_failure
from psymm.cli.logs import start_logging
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
from psymm.cli.output import Cost, Screen, confirm_cost, format_amount, parse_amount, plain
from psymm.cli.password import ask_password
from psymm.cli.policy import load_policy
from psymm.cli.remedies import home_words, other_node_words
from psymm.cli.scenario import SLIPPAGE, Step, Trading, load_scenario, planned_orders, single_trades
from psymm.cli.tls import trusted
from psymm.cli.trade_report import report_at_end
from psymm.cli.typed import command

if TYPE_CHECKING:
    from psymm.api.choosing import Offer
    from psymm.api.orders import Indicative
    from psymm.api.policy import TraderPolicy
    from psymm.api.trader import Session, Settled
    from psymm.chain.deployment import TokenInfo
    from psymm.chain.registry import RegistryEntry
    from psymm.session.protocol import Event
    from psymm.session.runtime.left import LeftOpen
    from psymm.session.runtime.trader import ConnectionLost


def _share(_context: click.Context, _option: click.Parameter, text: str) -> Decimal:
    try:
        share = Decimal(text)
        if share.is_finite() and share >= 0:
            return share
    except InvalidOperation:
        pass
    raise click.BadParameter("write it like 0.05, which is 5 %")


@dataclass(frozen=True)
class TradeRequest:
    """The checked command line.

    Attributes:
        units: the collateral in token units; 0 if a custody is resumed.
        solver: the address of the chosen solver; None: the best.
        resume: the start of the id of a custody to resume.
        policy: the policy with the token and the symbols of the orders.
    """

    steps: list[Step]
    token: TokenInfo
    units: int
    solver: str | None
    resume: str | None
    settle: bool
    transcript: Path | None
    policy: TraderPolicy
    slippage: Decimal
    sending: SendingOptions
    yes: bool
    more: tuple[str | Path, ...]
    """Words of this command line that the resume command needs, too."""

    def resume_command(self, custody: bytes) -> str:
        """The command that resumes a custody."""
        return command("trade", "--resume", "0x" + custody.hex(), *self.more)

    @property
    def orders(self) -> list[Step]:
        return [step for step in self.steps if step.do == "order"]


@click.command(cls=Command)
@json_option
@home_option
@password_option
@deployment_option
@rpc_option
@yes_option
@sending_options
@click.option("--collateral", default=None, metavar="AMOUNT", help="The collateral to put up.")
@click.option("--token", default=None, help="Symbol or address. [default: the deployment's only]")
@click.option(
    "--scenario",
    "scenario_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    default=None,
    help="Trades as data (TOML; the module psymm.cli.scenario says which keys).",
)
@click.option("--buy", "buys", multiple=True, metavar="SYMBOL=QUANTITY", help="Buy at a quote.")
@click.option("--sell", "sells", multiple=True, metavar="SYMBOL=QUANTITY", help="Sell at a quote.")
@click.option(
    "--hold",
    type=click.FloatRange(min=0),
    default=0.0,
    metavar="SECONDS",
    callback=finite_seconds,
    help="How long to wait before closing.",
)
@click.option("--solver", default=None, metavar="ADDRESS", help="Use this solver, not the best.")
@click.option("--resume", default=None, metavar="CUSTODY", help="Resume a custody of the journal.")
@click.option(
    "--policy",
    "policy_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    default=None,
    help="Limits on terms (TOML; the module psymm.cli.policy says which keys). "
    "[default: policy.toml in the home, else the package's]",
)
@click.option(
    "--max-round-trip",
    "max_fees",
    default=None,
    metavar="SHARE",
    help="The highest fees for opening and closing together: 0.003 is 0.3 % of the notional.",
)
@click.option(
    "--slippage",
    default=str(SLIPPAGE),
    show_default=True,
    metavar="SHARE",
    callback=_share,
    help="How much worse a quote may be than the price shown before you agreed.",
)
@click.option("--no-settle", is_flag=True, help="Leave the custody open, for --resume.")
@click.option(
    "--transcript",
    type=click.Path(dir_okay=False, path_type=Path),
    default=None,
    help="Where to write the transcript. [default: transcripts/ in the home]",
)
@stdin_option
def trade(
    screen: Screen,
    home: DataDir,
    password_fd: int | None,
    deployment_file: Path | None,
    rpc_url: str | None,
    yes: bool,
    sending: SendingOptions,
    collateral: str | None,
    token: str | None,
    scenario_file: Path | None,
    buys: tuple[str, ...],
    sells: tuple[str, ...],
    hold: float,
    solver: str | None,
    resume: str | None,
    policy_file: Path | None,
    max_fees: str | None,
    slippage: Decimal,
    no_settle: bool,
    transcript: Path | None,
    until_stdin_closes: bool,
) -> None:
    """Runs a whole session: discovery, collateral, trades, settlement.

    Solvers in the registry are asked for terms and an indicative price. Those whose terms break the
    policy are reported and left out. Of the others the one with the best price after fees is
    chosen, and its cost is shown before anything moves. --yes agrees only within the policy.

    The collateral comes from this wallet's sole custody (psymm deposit) and the payout returns to
    it (psymm withdraw). A session that was interrupted can be resumed from the journal: see
    --resume.
    """
    if scenario_file is not None and (buys or sells):
        raise CommandError("usage", "Give --scenario, or --buy and --sell, not both.", Exit.USAGE)
    if resume is None and collateral is None:
        raise CommandError("usage", "Give the collateral to put up: --collateral.", Exit.USAGE)
    if scenario_file is not None:
        steps = load_scenario(scenario_file)
    else:
        steps = single_trades(buys, sells, hold) if buys or sells else []
    if not steps and resume is None:
        raise CommandError("usage", "Say what to trade: --scenario, --buy, --sell.", Exit.USAGE)
    from psymm.chain.addresses import checksummed

    if resume is not None and not re.fullmatch("(0x)?[0-9a-fA-F]{1,64}", resume):
        raise CommandError("usage", "--resume takes a custody's id, or its start.", Exit.USAGE)
    named = None if solver is None else checksummed("solver", solver)
    found = policy_file or (home.policy if home.policy.exists() else None)
    policy = load_policy(found, max_fees)
    info = token_of(expect_ready(home, deployment_file, rpc_url), token)
    if sending.max_fee is not None:
        parse_amount(sending.max_fee, info.decimals)
    request = TradeRequest(
        steps=steps,
        token=info,
        units=0 if resume is not None else parse_amount(collateral or "", info.decimals),
        solver=named,
        resume=resume,
        settle=not no_settle,
        transcript=transcript,
        policy=_policy(policy, steps, info),
        slippage=slippage,
        sending=sending,
        yes=yes,
        more=(
            *home_words(home),
            *(("--token", token) if token is not None else ()),
            *sending.words(),
            *other_node_words(home, rpc_url),
        ),
    )
    start_logging(screen.as_json, "warning")
    password = ask_password(password_fd)
    opening = partial(open_funds, home, deployment_file, rpc_url, password)

    screen.event("started", f"trader, PID {os.getpid()}", pid=os.getpid())

    def at_once() -> str:
        if custodies:
            shown = request.resume_command(custodies[-1])
            return f"Everything signed is kept. Go on with: `{shown}`"
        shown = command("transcript", "list", *home_words(home))
        return f"Everything signed is kept; `{shown}` shows the open custodies."

    custodies: list[bytes] = []
    with note_left_open(request.resume_command) as left:

        async def run() -> None:
            async with cancel_on_signal(until_stdin_closes, at_once):
                await _trade(screen, home, opening, request, custodies, left)

        trio.run(run)


async def _trade(
    screen: Screen,
    home: DataDir,
    opening: OpenFunds,
    request: TradeRequest,
    custodies: list[bytes],
    left: list[LeftOpen],
) -> None:
    from psymm.api.connecting import connect
    from psymm.api.ended import deliver_ended
    from psymm.terms import Terms

    info, sending = request.token, request.sending
    tls = trusted(sending.tls_ca)
    async with (
        report_open_on_failure(
            screen, home.journal, request.resume, left, request.resume_command
        ) as all_is_open,
        opening() as funds,
        open_business(screen, funds, sending, info, home.journal) as client,
        collect_left_open(screen, client.journal, request.resume, left, request.resume_command),
        trio.open_nursery() as nursery,
    ):
        all_is_open()
        # The last frame of an ended custody may not have reached its solver in an earlier run.
        delivering = partial(deliver_ended, client, tls=tls, plain=sending.plain)
        known = None
        amount = format_amount(request.units, info.decimals)
        choice = Choice(screen, client, request.policy, amount, tls, sending.plain)
        shown: Mapping[str, Indicative] = {}
        if request.resume is not None:
            known = await chosen(client.journal, request.resume, LANES.index("trader"))
            if known.state == "closed":
                await delivering()
                raise CommandError(
                    "session-closed",
                    "This custody is settled; there is nothing to resume.",
                )
            custodies.append(known.agreement.custody)
            entry = await client.solver(known.agreement.wallet_address(1))
            solver: Offer | RegistryEntry = entry
            units, policy = known.ours, None
            screen.event(
                "terms-kept",
                "the custody keeps its terms; the policy is not applied again",
                termsHash=known.agreement.terms_hash,
            )
            if request.orders:
                choice = replace(choice, collateral=format_amount(units, info.decimals))
                kept = Terms.parse(known.agreement.terms)
                shown = await choice.shown_again(entry, kept, request.steps)
                _confirm_orders(screen, request)
        else:
            units, policy = request.units, request.policy
            await funds.context.deployment.expect_token(funds.context.chain, info.address)
            solver, shown = await choice.make(request.steps, request.solver)
            await _confirm(screen, funds, request)
        await nursery.start(delivering)
        async with (
            report_at_end(screen, home, client.journal, request) as report,
            connect(
                client,
                solver,
                collateral=format_amount(units, info.decimals),
                policy=policy,
                orders=planned_orders(request.steps),
                resume=known,
                tls=tls,
                plain=sending.plain,
                on_event=partial(_on_event, screen, custodies),
            ) as session,
        ):
            report.session = session
            screen.event(
                "trading",
                f"trading in custody 0x{session.custody.hex()}",
                custody=session.custody,
                solver=session.solver,
            )
            screen.event(
                "holding-back",
                "either party can hold a frame back for at most T = "
                f"{session.acknowledgement_s:g} s; price it: psymm docs guarantees",
                acknowledgementNs=str(session.terms.timeouts.acknowledgement),
            )
            report.settled = await _session(screen, session, request, shown)
        nursery.cancel_scope.cancel()


async def _session(
    screen: Screen, session: Session, request: TradeRequest, shown: Mapping[str, Indicative]
) -> Settled | None:
    """Run the steps, then settle. None: the session is left open."""
    trading = Trading(session, screen, shown, request.slippage)
    await trading.run(request.steps)
    if not request.settle:
        return None
    await trading.close_all()
    screen.event("settling", "settling: both sign one move, which is proved and sent")
    return await session.settle()


def _policy(policy: TraderPolicy, steps: Sequence[Step], info: TokenInfo) -> TraderPolicy:
    """The policy with the command line's token and the symbols of its orders."""
    symbols = tuple(dict.fromkeys(one.symbol for one in steps if one.symbol))
    return replace(policy, token=info.address, decimals=info.decimals, symbols=symbols)


async def _confirm(screen: Screen, funds: Funds, request: TradeRequest) -> None:
    """Show the cost of putting up collateral and ask, after checking the funds for it."""
    from psymm.custody.errors import FundsTooLow

    info = request.token
    balance = await funds.vault.balance(info.address)
    if balance.available < request.units:
        raise FundsTooLow(info.address, request.units, balance.available, balance.under_way)
    fee = await fee_line(screen, funds, request.sending, "ctc", info)
    price = (await funds.context.chain.fees()).max_wei
    action = f"Putting up {format_amount(request.units, info.decimals)} {info.symbol}"
    # Our funding, the solver's, then the settlement: three proofs and three transactions.
    seconds = 3 * (PROOF_S + BLOCK_S)
    cost = Cost(0 if fee is not None else 2_400_000, price, seconds, fee)
    await expect_coins(funds.context.chain, funds.wallet.address, cost)
    confirm_cost(screen, action, cost, request.yes)


def _confirm_orders(screen: Screen, request: TradeRequest) -> None:
    """Ask before sending orders in a custody that already holds collateral."""
    listed = ", ".join(f"{one.side} {plain(one.quantity)} {one.symbol}" for one in request.orders)
    action = f"Ordering in that custody: {listed}"
    confirm_cost(screen, action, Cost(0, 0, BLOCK_S if request.settle else 0.0), request.yes)


def _on_event(screen: Screen, custodies: list[bytes], event: Event | ConnectionLost) -> None:
    from psymm.session.protocol import FundingStarted, Idle, Resumed, StatusChanged, Stopped
    from psymm.session.runtime.trader import ConnectionLost

    match event:
        case FundingStarted(custody):
            custodies.append(custody)
            screen.event(
                "funding",
                f"all is checked; collateral moves into custody 0x{custody.hex()}",
                custody=custody,
            )
        case StatusChanged(state):
            screen.event("state", f"session: {state.value}", state=state.value)
        case ConnectionLost(reason, retry_s):
            screen.event(
                "lost",
                f"connection lost: {reason}; trying again in {retry_s:.1f} s",
                code=reason.code,
            )
        case Resumed(repeated, received):
            screen.event("resumed", "heads agree", repeated=repeated, received=received)
        case Idle(_, flat):
            words = "a settlement is offered" if flat else "positions or orders keep it open"
            screen.event("idle", f"idle for long: {words}", flat=flat)
        case Stopped(error):
            screen.event("stopped", f"stopped: {error}", code=error.code)
        case _:
            pass
