"""`psymm transcript`: list, export, show and verify the signed history of custodies."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from mmap import mmap
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import click
import trio

from psymm.cli.custodies import LANES, chosen, custody_option
from psymm.cli.data_dir import DataDir
from psymm.cli.exit_status import CommandError, Exit
from psymm.cli.options import Group, home_option, json_option, password_option
from psymm.cli.output import Screen, Value, format_amount
from psymm.cli.password import ask_password
from psymm.cli.progress import progress_bar
from psymm.cli.show import mapped, show
from psymm.errors import TranscriptFileError

if TYPE_CHECKING:
    from psymm.journal.reader import JournalReader
    from psymm.journal.writer import Journal
    from psymm.session.runtime.report import Report
    from psymm.transcript.checkpoint import Point
    from psymm.transcript.file import TranscriptFile

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group(cls=Group)
def transcript() -> None:
    """The signed history of custodies: list, export, show, verify."""


@transcript.command("list")
@json_option
@home_option
def list_custodies(screen: Screen, home: DataDir) -> None:
    """Lists the custodies in this home's journal. A daemon may run."""
    trio.run(_list, screen, home)


async def _list(screen: Screen, home: DataDir) -> None:
    from psymm.journal.reader import open_journal_reader

    async with open_journal_reader(home.journal) as journal:
        held = await journal.custodies()
    screen.table(
        ("custody", "lane", "state", "frames"),
        [
            ("0x" + one.agreement.custody.hex(), LANES[one.lane], one.state, str(one.frames))
            for one in held
        ],
    )
    screen.result(
        "" if held else "The journal holds no custody.",
        custodies=[
            {
                "custody": one.agreement.custody,
                "lane": LANES[one.lane],
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
@custody_option
@click.option(
    "--openings",
    is_flag=True,
    help="Include the notes' openings, so that the account can be computed from the file alone; "
    "needs the password, and no running daemon.",
)
@click.option(
    "--since-checkpoint",
    "since",
    is_flag=True,
    help="Only the newest checkpoint in force and the frames after it.",
)
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
def export_file(
    screen: Screen,
    home: DataDir,
    password_fd: int | None,
    custody: str,
    openings: bool,
    since: bool,
    file: Path,
) -> None:
    """Writes a custody's whole record in the journal to FILE, which shows everything that was
    traded."""
    password = ask_password(password_fd) if openings else None
    trio.run(partial(_export, screen, home, custody, password, since, file))


@asynccontextmanager
async def _open(home: DataDir, password: str | None) -> AsyncIterator[JournalReader]:
    """The journal: read-only, while a daemon may run; unlocked if there is a password."""
    from psymm.journal.reader import open_journal_reader
    from psymm.journal.writer import open_journal

    if password is None:
        async with open_journal_reader(home.journal) as reader:
            yield reader
        return
    async with open_journal(home.journal, create=False) as journal:
        await unlock(journal, home, password)
        yield journal


async def unlock(journal: Journal, home: DataDir, password: str) -> None:
    """Unlock a home's journal with its keystore's password. Raises WrongPassword,
    JournalForeign."""
    from psymm.session.runtime.party import journal_secret
    from psymm.wallet import load_keystore

    wallet = await load_keystore(home.keystore, password)
    held = await journal.custodies()
    if held:
        agreement = held[0].agreement
        secret = await journal_secret(wallet, agreement.chain_id, agreement.contract)
        await journal.unlock(wallet.address, secret)


async def _export(
    screen: Screen, home: DataDir, custody: str, password: str | None, since: bool, file: Path
) -> None:
    from psymm.journal.export import export

    async with _open(home, password) as journal:
        key = (await chosen(journal, custody)).agreement.custody
        frames = await export(journal, key, file, since_checkpoint=since)
    screen.result(
        f"{frames} frames of 0x{key.hex()} in {file}.",
        custody=key,
        frames=frames,
        file=str(file),
    )


transcript.add_command(show)


@transcript.command()
@json_option
@click.option(
    "--threads",
    type=click.IntRange(0, 1024),
    default=0,
    show_default=True,
    metavar="N",
    help="How many threads verify signatures; 0: one for each core.",
)
@click.option(
    "--signatures-only",
    is_flag=True,
    help="Skip the rulebook: no account, no violations. For files of millions of frames, of which "
    "the rulebook takes about 100 µs each.",
)
@click.option(
    "--progress/--no-progress",
    default=None,
    help="Show progress on standard error. [default: only on a terminal]",
)
@click.argument("file", type=_FILE)
def verify(
    screen: Screen, threads: int, signatures_only: bool, progress: bool | None, file: Path
) -> None:
    """Verifies FILE: delegations, hash chain, every signature, and the rulebook's account.

    Needs no chain, no Node and no trust in the source of the file. Exit code 0 only if every frame
    is valid. The notes' amounts come from the file's openings, each checked against its commitment;
    chain events come from the file, or else as the frames cite them. An invalid frame is named with
    the bytes of the fault, and with the field if that is known. FILE must not change meanwhile.
    """
    with mapped(file) as raw:
        try:
            _verify(screen, raw, threads, signatures_only, progress)
        except TranscriptFileError as refused:
            raise _located(refused) from None


def _verify(
    screen: Screen, raw: bytes | mmap, threads: int, signatures_only: bool, shown: bool | None
) -> None:
    from psymm.session.runtime.report import replay, verify_signatures
    from psymm.transcript.file import open_file

    began = perf_counter()
    opened = open_file(raw)
    size = len(raw) - opened.start
    with progress_bar("signatures", size, shown) as advance:
        verified = verify_signatures(opened, threads=threads, progress=advance)
    seconds = perf_counter() - began
    rate = f", {verified.frames / seconds:,.0f} frames/s" if verified.frames else ""
    if opened.starts_at is not None:
        screen.say(f"starts   {_point(opened.starts_at.point)}; both lanes signed it")
    screen.say(f"signatures, hash chain, delegations: all {verified.frames:,} frames valid{rate}")
    for name, head in zip(LANES, verified.heads, strict=True):
        screen.say(f"{name:<8} head {head.seq} 0x{head.digest.hex()}")
    outcome: dict[str, Value]
    if signatures_only:
        screen.say(
            "not checked: the rulebook (margins, prices, fees, whether any frame breaks a rule) "
            "and chain facts; omit --signatures-only to check them"
        )
        outcome = {"account": None, "violations": None}
    else:
        with progress_bar("rulebook  ", size, shown) as advance:
            report = replay(opened, verified, progress=advance)
        outcome = _account(screen, report)
    checked = ["openings", "delegations", "chain", "signatures"]
    screen.result(
        "",
        ok=True,
        custody=opened.agreement.custody,
        termsHash=opened.agreement.terms_hash,
        checkpoint=_checkpoint(opened),
        frames=verified.frames,
        heads={
            name: {"seq": head.seq, "digest": head.digest}
            for name, head in zip(LANES, verified.heads, strict=True)
        },
        checked=checked if signatures_only else [*checked, "rulebook"],
        notChecked=["rulebook", "chain facts"] if signatures_only else [],
        **outcome,
    )


def _point(point: Point) -> str:
    return (
        f"at the checkpoint after trader {point.trader_seq} and solver {point.solver_seq}, account "
        f"0x{point.account_hash.hex()}"
    )


def _checkpoint(parsed: TranscriptFile) -> Value:
    if parsed.starts_at is None:
        return None
    point = parsed.starts_at.point
    return {
        "account": point.account_hash,
        "traderSeq": point.trader_seq,
        "solverSeq": point.solver_seq,
    }


def _located(refused: TranscriptFileError) -> CommandError:
    """The refusal with everything that is known about the place of the fault."""
    first, after = refused.span
    values: dict[str, str | int | float | bool | None] = {
        "reason": refused.reason,
        "frame": refused.frame,
        "offset": refused.offset,
        "from": first,
        "to": after,
    }
    lane, seq = refused.values.get("lane"), refused.values.get("seq")
    place = "the file's opening" if refused.frame is None else f"frame {refused.frame}"
    if isinstance(lane, int) and isinstance(seq, int):
        name = LANES[lane] if lane < len(LANES) else f"lane {lane}"
        values |= {"lane": name, "seq": seq}
        place += f" ({name} {seq})"
    where = f"The fault is in bytes {first} to {after - 1}"
    if isinstance(field := refused.values.get("field"), str):
        values["field"] = field
        where += f", {field}"
    return CommandError(
        refused.code,
        f"{place}, byte {refused.offset}: {refused.reason}: {refused.words}. {where}. Nothing "
        "after it was checked; get the file again from its source.",
        Exit.JOURNAL,
        **values,
    )


def _account(screen: Screen, report: Report) -> dict[str, Value]:
    """The rulebook's account at the end of a transcript, as far as the file is enough for it."""
    from psymm.rulebook import Lane, balances

    broken: list[Value] = [
        {
            "lane": LANES[line.ruling.lane],
            "seq": line.ruling.seq,
            "code": line.ruling.violation.name,
            "message": str(line.ruling.violation),
        }
        for line in report.violations
        if line.ruling is not None and line.ruling.violation is not None
    ]
    account = report.account
    decimals = account.terms.collateral.decimals
    sides: dict[str, Value] = {}
    for lane in Lane:
        view = balances(account, lane)
        name = LANES[lane]
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
