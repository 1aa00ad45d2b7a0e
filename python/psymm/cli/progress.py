"""Progress of long work on standard error: a bar on a terminal, otherwise a line every 2 s."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Final

import click

_BETWEEN_LINES_S: Final = 2.0

Advance = Callable[[int, int], None]


@contextmanager
def progress_bar(label: str, size_bytes: int, shown: bool | None = None) -> Iterator[Advance]:
    """Show the progress of work on frames: the share done, frames per second, the remaining time.

    The work calls the yielded function with the frames and bytes done so far.
    shown: None: only on a terminal; True: also elsewhere, as lines.
    """
    on_terminal = sys.stderr is not None and sys.stderr.isatty()
    if shown is False or (shown is None and not on_terminal):
        yield lambda _frames, _bytes: None
    elif on_terminal:
        with _bar(label, size_bytes) as advance:
            yield advance
    else:
        yield _lines(label, size_bytes)


@contextmanager
def _bar(label: str, size_bytes: int) -> Iterator[Advance]:
    began, done = monotonic(), 0
    with click.progressbar(
        length=max(size_bytes, 1),
        label=label,
        show_pos=False,
        item_show_func=lambda rate: rate,
        file=sys.stderr,
        update_min_steps=max(size_bytes // 1000, 1),
    ) as bar:

        def advance(frames: int, size: int) -> None:
            nonlocal done
            bar.update(size - done, _rate(frames, began))
            done = size

        yield advance


def _lines(label: str, size_bytes: int) -> Advance:
    began = last = monotonic()
    ended = False

    def advance(frames: int, size: int) -> None:
        nonlocal last, ended
        now = monotonic()
        if ended or (now - last < _BETWEEN_LINES_S and size < size_bytes):
            return
        last, ended = now, size >= size_bytes
        share = size / size_bytes if size_bytes else 1.0
        left = (now - began) * (1 / share - 1) if share else 0.0
        click.echo(
            f"{label} {share:4.0%}  {_rate(frames, began) or ''}  {left:.0f} s left", err=True
        )

    return advance


def _rate(frames: int, began: float) -> str | None:
    seconds = monotonic() - began
    return f"{frames / seconds:,.0f} frames/s" if seconds > 0 else None
