"""`psymm journal`: check the journal, back it up while a daemon runs, and repair it.

`check` and `backup` only read. `repair` has two steps, and needs the journal for itself:

    1. everything readable goes into a new file, with what the --from files add; the damaged file
       is kept
    2. what is still missing is fetched from the peers, for the custodies that may sign again

Each frame that comes is durable at once, so a repair that is cut short is simply run again.
`archive` and `prune` are in `cli/archive.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click
import trio

from psymm.cli.archive import archive_frames, prune_frames
from psymm.cli.chain_context import open_wallet
from psymm.cli.custodies import LANES
from psymm.cli.data_dir import DataDir
from psymm.cli.exit_status import CommandError, Exit
from psymm.cli.options import (
    Group,
    home_option,
    host_and_port,
    json_option,
    password_option,
    private_option,
)
from psymm.cli.output import Screen, Value
from psymm.cli.password import ask_password
from psymm.cli.tls import plain_option
from psymm.errors import (
    BehindUnproved,
    Forked,
    ForkUnproved,
    JournalError,
    Missing,
    PSymmError,
)
from psymm.storage import StorageError

if TYPE_CHECKING:
    from psymm.journal.codec import JournalledCustody
    from psymm.journal.inspection import CustodyReport, JournalReport
    from psymm.journal.repair import RepairedCustody, RepairResult
    from psymm.journal.writer import Journal
    from psymm.session.runtime.clock import Clock
    from psymm.transcript.heads import Health
    from psymm.wallet import Wallet

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_HEALTH = {
    "complete": "signs",
    "recovering": "signs again once its missing frames are fetched",
    "read-only": "never signs again; settles by wallet signature",
    None: "its opening is lost, so nothing of it could be recovered",
}


@click.group(cls=Group)
def journal() -> None:
    """The journal, which must never be lost: check, back up, repair, archive, prune."""


journal.add_command(archive_frames)
journal.add_command(prune_frames)

# --- check --------------------------------------------------------------------------------------


@journal.command()
@json_option
@home_option
@click.argument("file", type=_FILE, required=False)
def check(screen: Screen, home: DataDir, file: Path | None) -> None:
    """Shows what the home's journal, or FILE, holds, and whether it is complete.

    Checks every page, checksum, head and signature. Nothing is changed, and a daemon may run. Exit
    code 0 only if nothing is missing; otherwise the missing frames are named by custody, lane and
    number.
    """
    trio.run(_check, screen, file or home.journal)


async def _check(screen: Screen, file: Path) -> None:
    from psymm.journal.inspection import inspect
    from psymm.journal.reader import open_journal_reader
    from psymm.journal.replayed import verify_journal

    # `inspect` also reads a damaged file. The reader below opens only an intact one.
    report = await trio.to_thread.run_sync(inspect, file)
    for one in report.custodies:
        _show(screen, one)
    if not report.complete:
        raise CommandError(
            "journal-corrupt",
            _damage(file, report),
            Exit.JOURNAL,
            frames=report.frames,
            missing="; ".join(str(lack) for lack in report.missing),
            lost=report.lost,
        )
    async with open_journal_reader(file) as reader:
        frames = await verify_journal(reader)
    when = report.backup_ns
    said = (
        f"{len(report.custodies)} custodies, {frames} frames: complete, every signature is valid."
    )
    if when is not None:
        said += f" It is a backup, made {_timestamp(when)}."
    screen.result(
        said,
        ok=True,
        file=str(file),
        custodies=len(report.custodies),
        frames=frames,
        backupTime=None if when is None else str(when),
    )


def _show(screen: Screen, one: CustodyReport) -> None:
    lane = None if one.lane is None else LANES[one.lane]
    heads: dict[str, Value] = {
        name: {"seq": seq, "digest": digest}
        for name, (seq, digest) in zip(LANES, one.heads, strict=True)
    }
    state = None if one.row is None else str(one.row[10])
    ends = ", ".join(f"{name} {seq}" for name, (seq, _) in zip(LANES, one.heads, strict=True))
    screen.event(
        "custody",
        f"0x{one.custody.hex()}  {lane or '?'}, {state or '?'}, {one.health}: heads {ends}",
        custody=one.custody,
        lane=lane,
        state=state,
        health=one.health,
        heads=heads,
        frames=len(one.frames),
        missing=[_lack(lack) for lack in one.missing],
    )


def _lack(lack: Missing) -> dict[str, Value]:
    said: dict[str, Value] = {"custody": lack.custody, "what": lack.what}
    if lack.lane is not None:
        said |= {"lane": LANES[lack.lane], "from": lack.first, "to": lack.last}
    return said


def _damage(file: Path, report: JournalReport) -> str:
    said = f"{file} is damaged"
    if report.fault:
        said += f" ({report.fault})"
    if report.missing:
        said += ". Missing: " + "; ".join(str(lack) for lack in report.missing)
    if report.lost:
        said += f". {report.lost} frames are lost; only their count is known"
    return said + ". Stop the daemon, then run: psymm journal repair."


def _timestamp(when_ns: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(when_ns / 1e9))


# --- backup -------------------------------------------------------------------------------------


@journal.command()
@json_option
@home_option
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
def backup(screen: Screen, home: DataDir, file: Path) -> None:
    """Copies the journal to FILE, consistently, even while a daemon writes it.

    FILE is marked as a backup. It can be exported, shown and verified for a court, and it settles
    by wallet signature. But it never signs a frame in a custody that it holds, because the journal
    continues after the backup. An existing FILE is not overwritten. Back up the keystore and the
    notes, too.
    """
    from psymm.journal.backup import back_up

    now_ns = time.time_ns()
    made = back_up(home.journal, file, now_ns)
    for custody, heads in made.custodies:
        screen.event(
            "custody",
            f"0x{custody.hex()}  heads trader {heads.trader[0]}, solver {heads.solver[0]}",
            custody=custody,
            heads={
                name: {"seq": heads.of(lane)[0], "digest": heads.of(lane)[1]}
                for lane, name in enumerate(LANES)
            },
        )
    screen.result(
        f"{made.frames} frames of {len(made.custodies)} custodies in {file}.",
        file=str(file),
        time=str(now_ns),
        custodies=len(made.custodies),
        frames=made.frames,
    )


# --- repair -------------------------------------------------------------------------------------


@journal.command()
@json_option
@home_option
@password_option
@click.option(
    "--from",
    "sources",
    type=_FILE,
    multiple=True,
    metavar="FILE",
    help="Also take frames from this transcript, backup or other copy; may be repeated.",
)
@click.option("--offline", is_flag=True, help="Ask no peer; missing frames stay missing.")
@click.option(
    "--listen",
    default=None,
    metavar="HOST:PORT",
    callback=host_and_port,
    help="For a solver: the address to which its traders reconnect. Its daemon asks them, too, "
    "once it runs.",
)
@click.option(
    "--wait",
    type=click.FloatRange(min=1),
    default=120.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for the peers.",
)
@plain_option
@private_option
def repair(
    screen: Screen,
    home: DataDir,
    password_fd: int | None,
    sources: tuple[Path, ...],
    offline: bool,
    listen: tuple[str, int] | None,
    wait: float,
    plain: bool,
    private: bool | None,
) -> None:
    """Repairs a damaged journal as far as that is certain. Stop its daemon first.

    Everything readable goes into a new journal; the damaged file is kept next to it. Missing frames
    come from --from files and from the peer, which is asked for both lanes; each frame is verified.
    The peer shows them only to the custody's wallet, so the keystore's password is needed.

    A custody signs again only if its newest heads are known here and all frames up to them are
    present. Otherwise a peer that hides frames could get two signatures for one number. Any other
    custody is treated like one from a backup: it never signs a frame, and settles by wallet
    signature.
    """
    trio.run(
        partial(_repair, screen, home, password_fd, sources, offline, listen, wait, plain, private)
    )


async def _repair(
    screen: Screen,
    home: DataDir,
    password_fd: int | None,
    sources: Sequence[Path],
    offline: bool,
    listen: tuple[str, int] | None,
    wait_s: float,
    plain: bool,
    private: bool | None,
) -> None:
    from psymm.journal.repair import repair_journal
    from psymm.journal.writer import open_journal

    path = home.journal
    result = await trio.to_thread.run_sync(repair_journal, path, sources, time.time_ns())
    if result is not None:
        _show_repair(screen, result)
    async with open_journal(path, create=False) as journal:
        lacking = [one for one in await journal.custodies() if one.health == "recovering"]
        # The password is needed only for this: a peer shows frames to the custody's wallet alone.
        if lacking and not offline:
            wallet = await open_wallet(home, ask_password(password_fd))
            await _ask_peers(screen, journal, wallet, lacking, listen, wait_s, plain, private)
        held = await journal.custodies()
    lost = 0 if result is None else sum(one.health is None for one in result.custodies)
    left = [one.agreement.custody for one in held if one.health == "recovering"]
    restored = sum(one.health == "read-only" for one in held)
    if left or lost:
        raise CommandError(
            "still-missing",
            f"{len(left)} custodies still lack frames; {lost} have lost their opening. The frames "
            "that came are kept. Run this again when the peer can be reached, or give --from FILE.",
            Exit.JOURNAL,
            recovering=len(left),
            lost=lost,
            readOnly=restored,
        )
    if result is None and not lacking:
        screen.result("The journal is complete; nothing was changed.", ok=True, repaired=False)
        return
    screen.result(
        f"Repaired: {len(held) - restored} custodies sign again, {restored} never will.",
        ok=True,
        repaired=True,
        complete=len(held) - restored,
        readOnly=restored,
    )


def _show_repair(screen: Screen, result: RepairResult) -> None:
    screen.event(
        "damaged-file",
        f"The damaged file is kept as {result.damaged_file}.",
        file=str(result.damaged_file),
    )
    for one in result.custodies:
        _show_repaired(screen, one)


def _show_repaired(screen: Screen, one: RepairedCustody) -> None:
    said = f"0x{one.custody.hex()}  {one.frames} frames; {_HEALTH[one.health]}"
    if one.missing:
        said += ". Missing: " + "; ".join(str(lack) for lack in one.missing)
    screen.event(
        "custody",
        said,
        custody=one.custody,
        health=one.health,
        frames=one.frames,
        missing=[_lack(lack) for lack in one.missing],
    )


async def _ask_peers(
    screen: Screen,
    journal: Journal,
    wallet: Wallet,
    lacking: Sequence[JournalledCustody],
    listen: tuple[str, int] | None,
    wait_s: float,
    plain: bool,
    private: bool | None,
) -> None:
    from psymm.session.runtime.clock import SystemClock
    from psymm.session.runtime.peer_recovery import RecoveryServer
    from psymm.session.runtime.transport import listen as listen_on

    clock = SystemClock()
    left = {one.agreement.custody for one in lacking}
    done = trio.Event()

    def ended(custody: bytes, outcome: Health | PSymmError) -> None:
        if isinstance(outcome, PSymmError):
            screen.event(
                "not-yet",
                f"0x{custody.hex()}  {outcome}",
                custody=custody,
                code=outcome.code,
            )
            return
        left.discard(custody)
        screen.event(
            "repaired",
            f"0x{custody.hex()}  {_HEALTH[outcome]}",
            custody=custody,
            health=outcome,
        )
        if not left:
            done.set()

    # A trader can dial its solver. A solver cannot dial its traders, so it waits for them to
    # reconnect.
    served = [one for one in lacking if one.lane == 1]
    dialled = [one for one in lacking if one.lane == 0]
    with trio.move_on_after(wait_s):
        async with trio.open_nursery() as nursery:
            for one in dialled:
                nursery.start_soon(_dial, journal, one, clock, wallet, ended, plain, private)
            if served and listen is not None:
                server = RecoveryServer(journal, clock, wallet, ended)
                port = await nursery.start(partial(listen_on, *listen, server.connection))
                screen.event(
                    "listening",
                    f"Waiting at {listen[0]}:{port} for {len(served)} traders to reconnect.",
                    port=port,
                    custodies=len(served),
                )
                await done.wait()
                nursery.cancel_scope.cancel()


async def _dial(
    journal: Journal,
    custody: JournalledCustody,
    clock: Clock,
    wallet: Wallet,
    ended: Callable[[bytes, Health | PSymmError], None],
    plain: bool,
    private: bool | None,
) -> None:
    """Ask a trader's solver repeatedly, until it has sent everything or the time is up."""
    from psymm.session.runtime.peer_recovery import fetch_missing
    from psymm.session.runtime.trader import Backoff
    from psymm.session.runtime.transport import dial
    from psymm.sockets.endpoints import private_allowed
    from psymm.terms import Terms

    near = private_allowed(Terms.parse(custody.agreement.terms).chain.id, private)
    backoff, failures = Backoff(), 0
    while True:
        try:
            async with dial(custody.endpoint, plain=plain, private=near) as socket:
                # Read again each time: an earlier attempt may have brought some of the frames.
                held = await journal.custody(custody.agreement.custody)
                health = await fetch_missing(journal, held, socket, clock, wallet)
                ended(custody.agreement.custody, health)
                return
        # The trouble is on this machine, so asking the peer again would not help.
        except (JournalError, StorageError):
            raise
        except PSymmError as failed:
            ended(custody.agreement.custody, failed)
            # A peer that has proved a fork will not change its answer. One that only claims it is
            # asked again.
            unproved = isinstance(failed, ForkUnproved | BehindUnproved)
            if (isinstance(failed, Forked) and not unproved) or not custody.endpoint:
                return
        failures += 1
        await trio.sleep(backoff.wait_s(failures))
