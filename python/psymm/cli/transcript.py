"""`psymm transcript`: list, export, show and verify the signed history of custodies."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import click
import trio

from psymm.cli.exits import CommandError, Exit
from psymm.cli.home import Home
from psymm.cli.options import Group, home_option, json_option, password_option
from psymm.cli.output import Screen, Value, format_amount
from psymm.cli.password import ask_password

if TYPE_CHECKING:
    from psymm._core import Frame
    from psymm.session.report import Report
    from psymm.transcript.journal import JournalReader

_LANES = ("trader", "solver")
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group(cls=Group)
def transcript() -> None:
    """The signed history of custodies: list, export, show, verify."""


@transcript.command("list")
@json_option
@home_option
def list_custodies(screen: Screen, home: Home) -> None:
    """Lists the custodies in this home's journal. Works beside a running daemon."""
    trio.run(_list, screen, home)


async def _list(screen: Screen, home: Home) -> None:
    from psymm.transcript.journal import open_journal_reader

    async with open_journal_reader(home.journal) as journal:
        held = await journal.custodies()
    screen.table(
        ("custody", "lane", "state", "frames"),
        [
            ("0x" + one.opening.custody.hex(), _LANES[one.lane], one.state, str(one.frames))
            for one in held
        ],
    )
    screen.result(
        "" if held else "The journal holds no custody.",
        custodies=[
            {
                "custody": one.opening.custody,
                "lane": _LANES[one.lane],
                "state": one.state,
                "reason": one.reason,
                "frames": one.frames,
            }
            for one in held
        ],
    )


@transcript.command("export")
@json_option
@home_option
@password_option
@click.option("--custody", required=True, metavar="HEX", help="The custody's id, or its start.")
@click.option(
    "--openings",
    is_flag=True,
    help="With the notes' openings, so that the account can be computed from the file alone; "
    "needs the password, and no daemon that holds the journal.",
)
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
def export_file(
    screen: Screen,
    home: Home,
    password_fd: int | None,
    custody: str,
    openings: bool,
    file: Path,
) -> None:
    """Writes one custody's whole record to FILE. Whoever has it sees all that was traded."""
    password = ask_password(password_fd) if openings else None
    trio.run(partial(_export, screen, home, custody, password, file))


@asynccontextmanager
async def _open(home: Home, password: str | None) -> AsyncIterator[JournalReader]:
    """The journal: to be read beside a daemon, or unlocked where there is a password."""
    from psymm.session.party import journal_secret
    from psymm.transcript.journal import open_journal, open_journal_reader
    from psymm.wallet import load_keystore

    if password is None:
        async with open_journal_reader(home.journal) as reader:
            yield reader
        return
    wallet = await load_keystore(home.keystore, password)
    async with open_journal(home.journal, create=False) as journal:
        held = await journal.custodies()
        if held:
            opening = held[0].opening
            secret = await journal_secret(wallet, opening.chain_id, opening.contract)
            await journal.unlock(wallet.address, secret)
        yield journal


async def _export(
    screen: Screen, home: Home, custody: str, password: str | None, file: Path
) -> None:
    from psymm.transcript.file import export

    async with _open(home, password) as journal:
        start = custody.lower().removeprefix("0x")
        fits = [
            one.opening.custody
            for one in await journal.custodies()
            if one.opening.custody.hex().startswith(start)
        ]
        if len(fits) != 1:
            raise CommandError(
                "no-such-custody",
                f"{len(fits)} custodies of the journal begin with {custody}; "
                "`psymm transcript list` shows them.",
                Exit.USAGE,
            )
        frames = await export(journal, fits[0], file)
    screen.result(
        f"{frames} frames of 0x{fits[0].hex()} in {file}.",
        custody=fits[0],
        frames=frames,
        file=str(file),
    )


@transcript.command()
@json_option
@click.argument("file", type=_FILE)
def show(screen: Screen, file: Path) -> None:
    """Prints every frame of FILE: who, when, what it covers, what it says. Verifies nothing."""
    from psymm.transcript.file import parse_file

    parsed = parse_file(_read(file))
    opening = parsed.opening
    screen.say(f"custody  0x{opening.custody.hex()}")
    screen.say(f"chain    {opening.chain_id}, contract {opening.contract}")
    screen.say(f"trader   {opening.wallet_address(0)}")
    screen.say(f"solver   {opening.wallet_address(1)}")
    screen.say(f"terms    0x{opening.terms_hash.hex()}")
    for index, frame in enumerate(parsed.frames):
        screen.event(
            "frame",
            _line(index, frame),
            index=index,
            lane=_LANES[frame.lane],
            seq=frame.seq,
            covers=frame.peer_seq,
            sendingTime=str(frame.sending_time),
            payload=frame.payload.decode(errors="replace"),
        )
    screen.result(
        f"{len(parsed.frames)} frames.",
        custody=opening.custody,
        chainId=opening.chain_id,
        contract=opening.contract,
        trader=opening.wallet_address(0),
        solver=opening.wallet_address(1),
        termsHash=opening.terms_hash,
        frames=len(parsed.frames),
    )


@transcript.command()
@json_option
@click.argument("file", type=_FILE)
def verify(screen: Screen, file: Path) -> None:
    """Verifies FILE: delegations, hash chain, every signature, and the rulebook's account.

    Needs no chain, no Node and no trust in whoever gave the file. Exit code 0 only if every frame
    stands. What notes hold comes from the file's openings, each checked against its commitment;
    chain events are taken from the file, or else as the frames cite them.
    """
    from psymm.session.report import verify_bytes

    raw = _read(file)
    began = perf_counter()
    report = verify_bytes(raw)
    verified = report.verified
    seconds = perf_counter() - began
    rate = (
        f", {verified.frames / seconds:,.0f} frames/s with the replay"
        if seconds > 0 and verified.frames
        else ""
    )
    heads = " ".join(
        f"{name} {head.seq} 0x{head.digest.hex()}"
        for name, head in zip(_LANES, verified.heads, strict=True)
    )
    screen.say(f"signatures, hash chain, delegations: all {verified.frames} frames stand{rate}")
    screen.say(f"heads    {heads}")
    account = _account(screen, report)
    screen.result(
        "",
        ok=True,
        custody=report.opening.custody,
        termsHash=report.opening.terms_hash,
        frames=verified.frames,
        heads={
            name: {"seq": head.seq, "digest": head.digest}
            for name, head in zip(_LANES, verified.heads, strict=True)
        },
        **account,
    )


def _account(screen: Screen, report: Report) -> dict[str, Value]:
    """The rulebook's account at the end of a transcript, as far as the file lets one compute it."""
    from psymm.rulebook import Lane, balances

    broken: list[Value] = [
        {
            "lane": _LANES[line.ruling.lane],
            "seq": line.ruling.seq,
            "code": line.ruling.violation.name,
            "message": str(line.ruling.violation),
        }
        for line in report.violations
        if line.ruling is not None and line.ruling.violation is not None
    ]
    account = report.account
    if account is None:
        screen.say("account  not shown: the file was exported without the notes' openings")
        return {"account": None, "violations": broken}
    decimals = account.terms.collateral.decimals
    sides: dict[str, Value] = {}
    for lane in Lane:
        view = balances(account, lane)
        name = _LANES[lane]
        units = view.payout_units - account.collateral(lane)
        sides[name] = {
            "collateral": str(account.collateral(lane)),
            "payout": str(view.payout_units),
            "gain": str(units),
        }
        screen.say(
            f"{name:<8} put up {view.collateral}, "
            f"{'was' if account.ended else 'would be'} paid {view.payout}, "
            f"gain {format_amount(units, decimals)}"
        )
    screen.say(f"account  0x{account.hash.hex()}, {len(broken)} violations")
    return {
        "account": account.hash,
        "settled": account.ended,
        "flat": account.flat,
        "sides": sides,
        "violations": broken,
    }


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise CommandError(
            "no-file", f"{file} cannot be read: {error.strerror}.", Exit.JOURNAL
        ) from None


def _line(index: int, frame: Frame) -> str:
    moment = datetime.fromtimestamp(frame.sending_time / 1e9, UTC).strftime("%H:%M:%S.%f")[:-3]
    side = "trader →" if frame.lane == 0 else "← solver"
    return (
        f"{index:>5} {moment} {side} {frame.seq:>4} covers {frame.peer_seq:<4} "
        f"{_said(frame.payload)}"
    )


def _said(payload: bytes) -> str:
    """A payload for a person: its type, then its fields without JSON's signs."""
    try:
        body = json.loads(payload)
    except (ValueError, RecursionError):
        return ascii(payload[:80])
    if not isinstance(body, dict):
        return ascii(payload[:80])
    fields = (f"{name}={_short(value)}" for name, value in body.items() if name != "MsgType")
    return f"{_short(body.get('MsgType', '?')):<3} " + " ".join(fields)


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
    text = "".join(one if one.isprintable() else "?" for one in text)
    return text if len(text) <= 44 else text[:20] + "…" + text[-8:]
