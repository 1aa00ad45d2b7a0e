"""`psymm transcript show`: a custody's history in words, from a file or a journal, also live."""

from __future__ import annotations

import os
import signal
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from mmap import ACCESS_READ, mmap
from pathlib import Path
from stat import S_ISREG
from typing import TYPE_CHECKING, Final

import click
import trio

from psymm.cli.custodies import LANES, chosen
from psymm.cli.data_dir import DataDir
from psymm.cli.exit_status import CommandError, Exit
from psymm.cli.options import Command, home_option, json_option
from psymm.cli.output import Screen, Value
from psymm.cli.streams import output_failure
from psymm.errors import TranscriptFileError, printable
from psymm.storage import translate_errors

if TYPE_CHECKING:
    from psymm.journal.codec import JournalledCustody
    from psymm.journal.reader import JournalReader
    from psymm.session.runtime.reading import FrameRead, Reading, Ruled
    from psymm.terms import Terms
    from psymm.transcript.agreement import CustodyAgreement

_MOST_SHOWN: Final = 65_536
_MOST_WORDS: Final = 400
_SEQ_DIGITS: Final = 20


@dataclass(frozen=True, slots=True)
class Bound:
    """One end of what is shown: a seq of either lane, or a time in nanoseconds."""

    seq: int | None = None
    at_ns: int | None = None


class _BoundType(click.ParamType[Bound]):
    name = "bound"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> Bound:
        text = str(value)
        if text.isascii() and text.isdigit() and len(text) <= _SEQ_DIGITS:
            return Bound(seq=int(text))
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            self.fail(f"{text!r} is neither a seq nor a time such as 2026-11-21T15:04:05", param)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        since = moment - datetime(1970, 1, 1, tzinfo=UTC)
        whole = since.days * 86_400 + since.seconds
        return Bound(at_ns=(whole * 1_000_000 + since.microseconds) * 1_000)


@dataclass(frozen=True, slots=True)
class Selection:
    """Which frames are shown."""

    lane: int | None
    types: frozenset[str]
    first: Bound
    last: Bound
    order: str | None

    def takes(self, read: FrameRead) -> bool:
        frame = read.frame
        if self.lane is not None and frame.lane != self.lane:
            return False
        if self.first.seq is not None and frame.seq < self.first.seq:
            return False
        if self.last.seq is not None and frame.seq > self.last.seq:
            return False
        if self.first.at_ns is not None and frame.sending_time < self.first.at_ns:
            return False
        if self.last.at_ns is not None and frame.sending_time > self.last.at_ns:
            return False
        if self.order is not None and self.order not in read.about:
            return False
        if not self.types:
            return True
        message = read.message
        return message is not None and bool(
            self.types & {message.MSG_TYPE.lower(), type(message).__name__.lower()}
        )


@click.command(cls=Command)
@json_option
@home_option
@click.option(
    "--custody", metavar="HEX", help="A custody of this home's journal: id, or its start."
)
@click.option("--follow", is_flag=True, help="Keep printing new frames, until interrupted.")
@click.option("--lane", type=click.Choice(LANES), help="Only this lane's frames.")
@click.option(
    "--type",
    "types",
    multiple=True,
    metavar="TYPE",
    help="Only this MsgType, by code or name: D, NewOrderSingle. May be repeated.",
)
@click.option("--from", "first", type=_BoundType(), metavar="SEQ|TIME", help="From here on.")
@click.option("--to", "last", type=_BoundType(), metavar="SEQ|TIME", help="Up to here.")
@click.option(
    "--order",
    metavar="ID",
    help="Only frames about this order: cancels, replacements, reports, rejects.",
)
@click.option("--raw", is_flag=True, help="Also print each payload as sent, and all bytes as hex.")
@click.argument(
    "file", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=False
)
def show(
    screen: Screen,
    home: DataDir,
    custody: str | None,
    follow: bool,
    lane: str | None,
    types: tuple[str, ...],
    first: Bound | None,
    last: Bound | None,
    order: str | None,
    raw: bool,
    file: Path | None,
) -> None:
    """Prints every frame of FILE, or of --custody in the journal: its sender, time, content, and
    outcome.

    A daemon may run; --follow keeps printing what it writes. A trader's frame takes effect with the
    solver's frame that covers it, and its outcome is printed there. FILE is not verified here; use
    psymm transcript verify. Control characters in the parties' texts are escaped. Times are UTC;
    without a zone, --from and --to are too.
    """
    if (file is None) == (custody is None):
        raise CommandError("usage", "Give a FILE, or --custody of the journal.", Exit.USAGE)
    if file is not None and follow:
        raise CommandError("usage", "--follow is for a journal.", Exit.USAGE)
    selection = Selection(
        lane=None if lane is None else LANES.index(lane),
        types=frozenset(one.lower() for one in types),
        first=first or Bound(),
        last=last or Bound(),
        order=order,
    )
    printer = _Printer(screen, selection, raw)
    if file is not None:
        _show_file(printer, file)
        return
    trio.run(partial(_show_journal, printer, home, custody or "", follow))


# --- where frames come from ---------------------------------------------------------------------


def _show_file(printer: _Printer, file: Path) -> None:
    from psymm.session.runtime.reading import Reading
    from psymm.session.runtime.report import account_of, check_openings, known_facts
    from psymm.terms import Terms, TermsError
    from psymm.transcript.file import open_file

    with mapped(file) as raw:
        parsed = open_file(raw)
        try:
            starts_at = parsed.starts_at
            check_openings(parsed)
            terms = Terms.parse(parsed.agreement.terms)
            reading = Reading(
                parsed.agreement,
                known_facts(parsed)[0],
                None if starts_at is None else account_of(parsed, starts_at, terms),
            )
        except TermsError as bad:
            raise TranscriptFileError("bad-terms", str(bad), offset=0) from None
        printer.agreement(parsed.agreement, reading.terms)
        for _, frame in parsed.each():
            printer.frame(reading.read(frame))
        printer.end(parsed.agreement, reading)


async def _show_journal(printer: _Printer, home: DataDir, start: str, follow: bool) -> None:
    from psymm.journal.reader import open_journal_reader

    async with open_journal_reader(home.journal) as journal:
        held = await chosen(journal, start)
        reading = await _reading(journal, held)
        printer.agreement(held.agreement, reading.terms)
        if not follow:
            await _read_all(printer, journal, held, reading)
    if follow:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_until_signal, nursery.cancel_scope)
            await _follow(printer, home.journal, held, reading)
    printer.end(held.agreement, reading)


async def _read_all(
    printer: _Printer, journal: JournalReader, held: JournalledCustody, reading: Reading
) -> None:
    from psymm._core import Frame
    from psymm.journal.tail import read_frames

    async with aclosing(read_frames(journal, held.agreement.custody)) as frames:
        async for one in frames:
            printer.frame(reading.read(Frame.parse(one.raw)))
    printer.journal(held)


async def _follow(printer: _Printer, path: Path, held: JournalledCustody, reading: Reading) -> None:
    from psymm._core import Frame
    from psymm.journal.codec import JournalledFrame
    from psymm.journal.tail import tail

    facts = 0
    async with aclosing(tail(path, held.agreement.custody)) as found:
        async for one in found:
            if isinstance(one, JournalledFrame):
                printer.frame(reading.read(Frame.parse(one.raw)))
            else:
                printer.journal(one)
            # A frame may cite a fact that the daemon has not stored yet. It is ruled once the fact
            # is there.
            if reading.waits_for_chain:
                facts = await _learn_facts(printer, path, held, reading, facts)


async def _learn_facts(
    printer: _Printer, path: Path, held: JournalledCustody, reading: Reading, known: int
) -> int:
    from psymm.journal.reader import open_journal_reader
    from psymm.session.runtime.collateral import kept_facts
    from psymm.session.runtime.reading import chain_facts

    async with open_journal_reader(path) as journal:
        facts = await kept_facts(journal, held.agreement.custody)
    if len(facts) > known:
        printer.rulings(reading.learn_facts(chain_facts(facts)))
    return len(facts)


async def _until_signal(scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            scope.cancel()


async def _reading(journal: JournalReader, held: JournalledCustody) -> Reading:
    from psymm.session.runtime.base_account import first_account
    from psymm.session.runtime.collateral import kept_facts
    from psymm.session.runtime.reading import Reading, chain_facts
    from psymm.terms import Terms

    agreement = held.agreement
    facts = chain_facts(await kept_facts(journal, agreement.custody))
    account = await first_account(journal, agreement.custody, Terms.parse(agreement.terms))
    return Reading(agreement, facts, account)


# --- how they are printed -----------------------------------------------------------------------


class _Printer:
    def __init__(self, screen: Screen, selection: Selection, raw: bool) -> None:
        self._screen = screen
        self._selection = selection
        self._raw = raw
        self._frames = 0
        self._shown: OrderedDict[tuple[int, int], None] = OrderedDict()
        self._count = 0
        self._unruled = ""
        self._day = ""

    def agreement(self, agreement: CustodyAgreement, terms: Terms) -> None:
        from psymm.messages.formatting import format_duration

        t_ns = terms.timeouts.acknowledgement
        text = (
            f"custody  0x{agreement.custody.hex()}",
            f"chain    {agreement.chain_id}, contract {agreement.contract}",
            f"trader   {agreement.wallet_address(0)}",
            f"solver   {agreement.wallet_address(1)}",
            f"terms    0x{agreement.terms_hash.hex()}",
            f"T        {format_duration(t_ns)}: how long either party can hold a frame back",
        )
        for line in text:
            self._screen.say(line)
        if self._screen.as_json:
            self._screen.event("opening", "", **_identity(agreement), acknowledgementNs=str(t_ns))

    def journal(self, held: JournalledCustody) -> None:
        """The custody's state in the journal."""
        reason = f": {held.reason}" if held.reason else ""
        self._screen.event(
            "journal", f"journal: {held.state}{reason}", state=held.state, reason=held.reason
        )

    def frame(self, read: FrameRead) -> None:
        """Print a frame, and the rulings that it causes for frames that were printed."""
        from psymm.messages.formatting import format_timestamp

        if output_failure() is not None:
            # As when piped to `head`: nobody reads the rest.
            raise click.exceptions.Exit(0)
        frame = read.frame
        self._frames += 1
        if self._selection.takes(read):
            self._count += 1
            self._shown[frame.lane, frame.seq] = None
            # Bounded, because --follow has no end. A ruling on a frame from longer ago is not
            # shown.
            while len(self._shown) > _MOST_SHOWN:
                self._shown.popitem(last=False)
            day, _, at = format_timestamp(frame.sending_time).partition("T")
            if day != self._day:
                self._day = day
                self._screen.say(day)
            self._screen.event("frame", self._line(read, at[:-1]), **self._fields(read))
        self.rulings(read.rulings, by=(frame.lane, frame.seq))
        if read.stage:
            self._screen.event("state", f"{'':>6}state: {read.stage}", state=read.stage)
        if read.unruled and read.unruled != self._unruled:
            self._unruled = read.unruled
            why = _UNRULED.get(read.unruled, "")
            place = "here" if read.unruled == "before-checkpoint" else "from here on"
            self._screen.event(
                "unruled",
                f"{'':>6}not ruled {place}: {read.unruled}{why}",
                code=read.unruled,
                lane=LANES[frame.lane],
                seq=frame.seq,
            )

    def rulings(self, rulings: tuple[Ruled, ...], by: tuple[int, int] | None = None) -> None:
        """Print the rulings on frames that were printed."""
        mine = [one for one in rulings if (one.lane, one.seq) in self._shown]
        if self._screen.as_json:
            for one in mine:
                self._screen.event("ruling", "", **_ruling(one, by))
            return
        effective = [one for one in mine if one.outcome == "in-effect" and not one.again]
        names = [f"{LANES[one.lane]} {one.seq}" for one in effective if (one.lane, one.seq) != by]
        if names:
            self._screen.event("ruling", f"{'':>6}takes effect: {', '.join(names)}")
        for one in mine:
            if one not in effective:
                self._screen.event("ruling", f"{'':>6}{_verdict(one)}")

    def end(self, agreement: CustodyAgreement, reading: Reading) -> None:
        pending = reading.pending
        account = reading.account
        words = f"{self._frames} frames" + (
            "" if self._count == self._frames else f", {self._count} of them shown"
        )
        if pending:
            words += f"; pending: trader {', '.join(str(seq) for seq in pending)}"
        self._screen.result(
            words + ".",
            **_identity(agreement),
            frames=self._frames,
            shown=self._count,
            pending=list(pending),
            account=None if account is None else account.hash,
        )

    def _line(self, read: FrameRead, at: str) -> str:
        frame = read.frame
        side = "trader →" if frame.lane == 0 else "← solver"
        name = "?" if read.message is None else type(read.message).__name__
        words = read.words if len(read.words) <= _MOST_WORDS else read.words[:_MOST_WORDS] + "…"
        line = (
            f"{read.index:>5} {at} {side} {frame.seq:>4} covers {frame.peer_seq:<4} "
            f"{name:<18} {words}"
        )
        if not self._raw:
            return line
        payload = printable(frame.payload.decode("utf-8", "backslashreplace"), lines=False)
        return f"{line} | {payload} | 0x{frame.raw.hex()}"

    def _fields(self, read: FrameRead) -> dict[str, Value]:
        from psymm.messages.formatting import format_timestamp

        frame = read.frame
        fields: dict[str, Value] = {
            "index": read.index,
            "lane": LANES[frame.lane],
            "seq": frame.seq,
            "covers": frame.peer_seq,
            "sendingTime": str(frame.sending_time),
            "time": format_timestamp(frame.sending_time),
            "msgType": None if read.message is None else read.message.MSG_TYPE,
            "name": None if read.message is None else type(read.message).__name__,
            "words": read.words,
            "payload": frame.payload.decode("utf-8", "backslashreplace"),
        }
        if read.rejects is not None:
            fields["rejects"] = {"lane": LANES[read.rejects[0]], "seq": read.rejects[1]}
        if self._raw:
            fields["raw"] = frame.raw
        return fields


_UNRULED: Final = {
    "before-checkpoint": " (the account of the checkpoint counts it already)",
    "facts-behind": " (what it cites of the chain is not in the journal yet)",
    "frame-out-of-order": " (the record lacks its first frames, or has a gap)",
}


def _identity(agreement: CustodyAgreement) -> dict[str, Value]:
    return {
        "custody": agreement.custody,
        "chainId": agreement.chain_id,
        "contract": agreement.contract,
        "trader": agreement.wallet_address(0),
        "solver": agreement.wallet_address(1),
        "termsHash": agreement.terms_hash,
    }


def _ruling(one: Ruled, by: tuple[int, int] | None) -> dict[str, Value]:
    return {
        "lane": LANES[one.lane],
        "seq": one.seq,
        "outcome": one.outcome,
        "rule": one.rule,
        "why": one.why,
        "legalTime": str(one.legal_time),
        "again": one.again,
        "by": None if by is None else {"lane": LANES[by[0]], "seq": by[1]},
    }


def _verdict(one: Ruled) -> str:
    from psymm.messages.formatting import format_timestamp

    name = f"{LANES[one.lane]} {one.seq}"
    if one.outcome == "violation":
        return f"{name} changes nothing: {one.why}"
    if one.outcome == "late":
        at = format_timestamp(one.legal_time)
        return f"{name} is reversed: it was covered late and counts from {at}: {one.why}"
    return f"{name} is in effect, counting from {format_timestamp(one.legal_time)}"


@contextmanager
def mapped(file: Path) -> Iterator[bytes | mmap]:
    """A file's bytes, mapped; read if it cannot be mapped, such as a pipe or an empty file."""
    with translate_errors(file), file.open("rb") as opened:
        state = os.fstat(opened.fileno())
        if not S_ISREG(state.st_mode) or state.st_size == 0:
            mapped: mmap | None = None
            whole = opened.read()
        else:
            mapped = mmap(opened.fileno(), 0, access=ACCESS_READ)
    if mapped is None:
        yield whole
        return
    with mapped:
        yield mapped
