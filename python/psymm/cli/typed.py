"""The command that was typed, for showing it again with more words."""

from __future__ import annotations

import os
import shlex
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import click

TYPED: Final = __name__
"""Where click's context has the words that were typed."""
_LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")


def command(*words: str | Path) -> str:
    """`psymm …` as a shell takes it, in letters that this terminal has."""
    return " ".join(["psymm", *map(_quoted, words)])


def _quoted(word: str | Path) -> str:
    text = str(word)
    with suppress(UnicodeEncodeError):
        text.encode(getattr(sys.stderr, "encoding", None) or "ascii")
        if text.isprintable():
            return shlex.quote(text)
    # A path is bytes, and not each is a letter, here or anywhere.
    plain = (
        chr(one) if 32 <= one < 127 and one not in b"\\'" else f"\\x{one:02x}"
        for one in os.fsencode(text)
    )
    return f"$'{''.join(plain)}'"


def typed(*more: str) -> str | None:
    """The command that runs now, with more words. None where an address was typed that may be a
    key."""
    context = click.get_current_context(silent=True)
    words = () if context is None else context.meta.get(TYPED, ())
    if not words or any("://" in one and not local(one.partition("=")[2] or one) for one in words):
        return None
    return command(*words, *more)


def again(*more: str) -> str:
    """How to repeat the command that runs now with more words."""
    return typed_or(f"the same command with {' '.join(more)}", *more)


LATER: Final = "Once the chain answers, go on with"


def later() -> str:
    """The way out where the chain does not answer: what a command did is kept, and it takes up
    what was under way."""
    return f"Nothing is lost. {LATER} {typed_or('the same command')}."


def typed_or(words: str, *more: str) -> str:
    """The command that runs now, with more words; where it cannot be shown, the first ones."""
    shown = typed(*more)
    return words if shown is None else f"`{shown}`"


def local(url: str) -> bool:
    if len(url.split()) != 1:
        return False  # several nodes, of which one may be another's
    parts = urlsplit(url)
    try:
        _ = parts.port
    except ValueError:
        return False
    bare = not parts.username and not parts.query and parts.path in ("", "/")
    return parts.hostname in _LOOPBACK and bare
