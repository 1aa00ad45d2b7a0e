"""`psymm notes`: the wallet's notes, from its files or from the chain alone."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click
import trio

from psymm.cli.chain_context import expect_ready
from psymm.cli.data_dir import DataDir
from psymm.cli.earlier import finish_earlier
from psymm.cli.funds import open_funds
from psymm.cli.options import (
    Command,
    deployment_option,
    home_option,
    json_option,
    password_option,
    rpc_option,
)
from psymm.cli.output import Screen, format_amount
from psymm.cli.password import ask_password
from psymm.storage import StorageError


@click.command(cls=Command)
@json_option
@home_option
@password_option
@deployment_option
@rpc_option
@click.option("--all", "show_all", is_flag=True, help="Also show spent and empty notes.")
@click.option(
    "--rebuild",
    is_flag=True,
    help="Find them on chain with the key alone, and leave the home's files unchanged.",
)
def notes(
    screen: Screen,
    home: DataDir,
    password_fd: int | None,
    deployment_file: Path | None,
    rpc_url: str | None,
    show_all: bool,
    rebuild: bool,
) -> None:
    """Lists this wallet's notes and how much of each token can be spent.

    Notes in a custody with another party can be spent only after its settlement.
    """
    expect_ready(home, deployment_file, rpc_url)
    password = ask_password(password_fd)
    try:
        trio.run(
            partial(_notes, screen, home, deployment_file, rpc_url, password, show_all, rebuild)
        )
    except* StorageError as refused:
        if not rebuild:
            refused.add_note(
                "`psymm notes --rebuild` reads them from the chain and writes nothing."
            )
        raise


async def _notes(
    screen: Screen,
    home: DataDir,
    deployment_file: Path | None,
    rpc_url: str | None,
    password: str,
    show_all: bool,
    rebuild: bool,
) -> None:
    def on_daemon() -> None:
        screen.event(
            "daemon-running",
            "a daemon runs on this home: notes are shown as they are on chain, without the "
            "daemon's moves under way",
        )

    async with open_funds(
        home,
        deployment_file,
        rpc_url,
        password,
        in_memory=rebuild,
        proving=False,
        on_daemon=on_daemon,
    ) as funds:
        if not rebuild:
            await finish_earlier(screen, funds)
        known = {one.address: one for one in funds.context.deployment.tokens}
        held = await funds.vault.store.notes()
        tokens = sorted({one.note.token for one in held} | set(known))
        balances = [await funds.vault.balance(token) for token in tokens]
        moves = await funds.vault.store.moves()
    coming = {made for move in moves if move.alive for made in move.outputs}
    # The outputs of a failed move stay "expected" for ever, so they are not shown.
    never = {made for move in moves if move.status == "failed" for made in move.outputs} - coming
    shown = [
        one
        for one in held
        if show_all
        or (
            one.mine
            and one.note.amount
            and one.status != "spent"
            and not (one.status == "expected" and one.note.commitment in never)
        )
    ]

    def amount(token: str, units: int) -> str:
        info = known.get(token)
        return f"{format_amount(units, info.decimals)} {info.symbol}" if info else f"{units} units"

    screen.table(
        ("commitment", "amount", "custody", "status"),
        [
            (
                "0x" + one.note.commitment.hex()[:16] + "…",
                amount(one.note.token, one.note.amount),
                "sole" if one.note.custody.is_sole else "0x" + one.note.custody.id.hex()[:8] + "…",
                one.status,
            )
            for one in shown
        ],
    )
    for balance in balances:
        screen.say(
            f"spendable: {amount(balance.token, balance.available)}, "
            f"under way: {amount(balance.token, balance.under_way)}"
        )
    screen.result(
        "",
        notes=[
            {
                "commitment": one.note.commitment,
                "token": one.note.token,
                "units": str(one.note.amount),
                "custody": one.note.custody.id,
                "sole": one.note.custody.is_sole,
                "mine": one.mine,
                "status": one.status,
                "block": one.block,
            }
            for one in shown
        ],
        balances=[
            {
                "token": one.token,
                "available": str(one.available),
                "underWay": str(one.under_way),
            }
            for one in balances
        ],
    )
