"""Everything that commands print: text for a person, or JSON lines for a program.

With --json everything for a program is on standard output, one JSON object in each line; the last
line is the result or `{"error": …}`. Without it, the same things are sentences. In both, prompts,
progress and logs go to standard error.

Amounts of tokens and wei are decimal strings in JSON, because they exceed 2^53; bytes are 0x hex.

All text passes through `printable`, so a peer's, file's or node's text cannot move the cursor,
colour the screen or reverse a line.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, TextIO

import click

from psymm.cli.exit_status import CommandError, Exit
from psymm.cli.streams import is_interactive, output_failure
from psymm.errors import format_amount as format_amount
from psymm.errors import printable

Value = str | int | float | bool | None | bytes | Mapping[str, "Value"] | Sequence["Value"]


class Screen:
    """Where a command prints.

    Args:
        as_json: JSON lines instead of sentences.
        out: None: standard output.
    """

    def __init__(self, as_json: bool, out: TextIO | None = None) -> None:
        self.as_json = as_json
        self._out = out

    def say(self, text: str) -> None:
        """A line for a person only."""
        if not self.as_json:
            self._write(text)

    def event(self, name: str, text: str, /, **fields: Value) -> None:
        """Something happened during the command: `{"event": name, …}`, or the sentence."""
        if self.as_json:
            self._write_json({"event": name, **fields})
        else:
            self._echo(printable(text, lines=False))

    def result(self, text: str, /, **fields: Value) -> None:
        """The command's result: one JSON object, or the text."""
        if self.as_json:
            self._write_json(fields)
        elif text:
            self._write(text)

    def error(self, code: str, message: str, exit: Exit, values: Mapping[str, Value]) -> None:
        """The command's error. A person gets it on standard error; so does a program if standard
        output cannot be written."""
        if self.as_json:
            body: dict[str, Value] = {"code": code, "message": message, "exit": int(exit)}
            if values:
                body["values"] = dict(values)
            self._write_json({"error": body})
        if not self.as_json or output_failure() is not None:
            click.echo(printable(f"error: {message} [{code}]", lines=False), err=True)

    def table(self, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Aligned columns for a person; nothing with --json, because `result` has the same data."""
        if self.as_json:
            return
        lines = [list(header), *[list(row) for row in rows]]
        widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
        for line in lines:
            cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
            self._write("  ".join(cells).rstrip())

    def _write_json(self, body: Mapping[str, Value]) -> None:
        line = json_line(jsonable(body))
        try:
            line.encode(getattr(self._stream, "encoding", None) or "utf-8")
        except UnicodeEncodeError:
            # JSON's own escapes keep the value; a replacement character would change it.
            line = json.dumps(jsonable(body), separators=(",", ":"))
        self._echo(line)

    def _write(self, text: str) -> None:
        self._echo(printable(text))

    def _echo(self, text: str) -> None:
        click.echo(text, file=self._stream)
        self._stream.flush()

    @property
    def _stream(self) -> TextIO:
        return self._out if self._out is not None else sys.stdout


def json_line(body: object) -> str:
    """One line of JSON without characters that control a terminal."""
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    if text.isprintable():
        return text
    # Unprintable characters can only be inside strings, where JSON has escapes for them.
    return "".join(one if one.isprintable() else json.dumps(one)[1:-1] for one in text)


def jsonable(value: Value) -> object:
    """`value` with bytes as 0x hex, ready for `json.dumps`."""
    if isinstance(value, bytes | bytearray | memoryview):
        return "0x" + bytes(value).hex()
    if isinstance(value, str | bool | int | float) or value is None:
        return value
    if isinstance(value, Mapping):
        return {str(key): jsonable(inner) for key, inner in value.items()}
    return [jsonable(inner) for inner in value]


@dataclass(frozen=True)
class Cost:
    """The expected cost of a move, shown before it is made.

    Attributes:
        gas: units of gas that this wallet pays; 0 if a relayer sends the move.
        gas_price_wei: wei per unit now.
        seconds: the approximate time, with proofs and confirmations.
        fee: a relayer's fee in words, with its token; None if there is none.
    """

    gas: int
    gas_price_wei: int
    seconds: float
    fee: str | None = None

    def sentence(self) -> str:
        """`gas about 812,345 at 1.0 gwei (0.0008 ETH), about 6 s`."""
        parts = []
        if self.gas:
            coin = self.gas * self.gas_price_wei / 10**18
            parts.append(
                f"gas about {self.gas:,} at {self.gas_price_wei / 10**9:.3g} gwei ({coin:.6f} ETH)"
            )
        else:
            parts.append("no gas of yours")
        if self.fee is not None:
            parts.append(f"relayer's fee {self.fee}")
        parts.append(f"about {self.seconds:.0f} s")
        return ", ".join(parts)

    def fields(self) -> dict[str, Value]:
        """The same for a program."""
        return {
            "gas": self.gas,
            "gasPriceWei": str(self.gas_price_wei),
            "seconds": round(self.seconds, 1),
            "relayerFee": self.fee,
        }


def confirm_cost(screen: Screen, action: str, cost: Cost, yes: bool) -> None:
    """Show what `action` costs and ask for confirmation before money moves.

    With `yes` it only shows the cost. Raises CommandError `not-confirmed` (exit 1) if the user
    declines, and `confirmation-needed` (exit 2) if there is no terminal.
    """
    screen.event("cost", f"{action}: {cost.sentence()}", action=action, **cost.fields())
    if yes:
        return
    if not is_interactive():
        from psymm.cli.typed import again

        raise CommandError(
            "confirmation-needed",
            f"Money would move, and there is no terminal to confirm it. Next: {again('--yes')}.",
            Exit.USAGE,
        )
    if output_failure() is not None:
        raise CommandError(
            "cost-not-shown",
            "The cost could not be written to standard output, so nothing was sent.",
        )
    with _asking():
        agreed = click.confirm("Go on?", err=True)
    if not agreed:
        raise CommandError("not-confirmed", "Nothing was sent.", Exit.REFUSED)


@contextmanager
def _asking() -> Iterator[None]:
    """Inside, a signal ends the question at once. Otherwise trio would handle it only after the
    answer, because nothing else runs while the user types."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        for one in before:
            signal.signal(one, signal.default_int_handler)
        yield
    finally:
        for one, handler in before.items():
            if handler is not None:
                signal.signal(one, handler)


_MOST_DIGITS: Final = 78
"""The digits of 2^256, the most that a token can count."""


def parse_amount(text: str, decimals: int) -> int:
    """Token units of a plain decimal such as `1000.5`.

    Raises CommandError `bad-amount` (exit 2) for zero, and unless the text is digits with at most
    `decimals` of them after one point.
    """
    whole, point, fraction = text.partition(".")
    digits = whole + fraction
    if (
        # `isdigit` alone also accepts the digits of other scripts.
        not whole.isascii()
        or not digits.isascii()
        or not whole.isdigit()
        or (point and not fraction.isdigit())
        or len(whole) > _MOST_DIGITS
    ):
        raise CommandError(
            "bad-amount", f"{text!r} is not an amount; write it like 1000.5.", Exit.USAGE
        )
    if len(fraction) > decimals:
        raise CommandError(
            "bad-amount",
            f"{text} has {len(fraction)} digits after the point; the token has {decimals}.",
            Exit.USAGE,
        )
    units = int(digits + "0" * (decimals - len(fraction)))
    if units == 0:
        raise CommandError("bad-amount", "The amount must not be zero.", Exit.USAGE)
    return units


def plain(number: Decimal | None) -> str:
    """A decimal in its shortest form without an exponent; `-` for None."""
    return "-" if number is None else f"{number.normalize():f}"
