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
    """A `psymm` command quoted for a shell, in characters that this terminal has."""
    return " ".join(["psymm", *map(_quoted, words)])


def _quoted(word: str | Path) -> str:
    text = str(word)
    with suppress(UnicodeEncodeError):
        text.encode(getattr(sys.stderr, "encoding", None) or "ascii")
        if text.isprintable():
            return shlex.quote(text)
    # A path may contain bytes that are no characters in this encoding, or in any.
    plain = (
        chr(one) if 32 <= one < 127 and one not in b"\\'" else f"\\x{one:02x}"
        for one in os.fsencode(text)
    )
    return f"$'{''.join(plain)}'"


def typed(*more: str) -> str | None:
    """The running command with more words; None if an address was typed that may contain a key."""
    context = click.get_current_context(silent=True)
    words = () if context is None else context.meta.get(TYPED, ())
    if not words or any("://" in one and not local(one.partition("=")[2] or one) for one in words):
        return None
    return command(*words, *more)


def again(*more: str) -> str:
    """How to repeat the running command with more words."""
    return typed_or(f"the same command with {' '.join(more)}", *more)


LATER: Final = "Once the chain answers, go on with"


def later() -> str:
    """The remedy if the chain does not answer: repeat the command, which continues what is under
    way."""
    return f"Nothing is lost. {LATER} {typed_or('the same command')}."


def typed_or(words: str, *more: str) -> str:
    """The running command with more words; `words` if the command cannot be shown."""
    shown = typed(*more)
    return words if shown is None else f"`{shown}`"


def local(url: str) -> bool:
    if len(url.split()) != 1:
        return False  # several nodes, of which one may be elsewhere
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return False
    bare = not parts.username and not parts.query and parts.path in ("", "/")
    return parts.hostname in _LOOPBACK and bare
