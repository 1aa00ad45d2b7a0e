"""Strict JSON for untrusted texts and files. (The core reads payloads of frames.)

Python's own reader accepts more than JSON: NaN, duplicate keys, UTF-16, half a surrogate pair. It
limits nesting only by the interpreter's recursion limit, which a dependency of eth-account raises
to 100,000. Then a few thousand brackets would crash the process instead of raising.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Final, NoReturn

MAX_NESTING: Final = 64


class KeyTwice(ValueError):
    """An object has a key twice."""

    def __init__(self, key: str) -> None:
        super().__init__(f"{key!a} occurs twice")
        self.key = key


def loads(text: bytes | bytearray | str, max_nesting: int = MAX_NESTING) -> Any:
    """The value of a JSON text.

    Raises ValueError if the text is not JSON in UTF-8 (a JSONDecodeError or UnicodeDecodeError has
    the position), is nested too deeply, or contains half a surrogate pair, a number beyond a float,
    or one with more digits than Python reads; KeyTwice for an object with a key twice.
    """
    raw = _encoded(text) if isinstance(text, str) else text
    decoded = text if isinstance(text, str) else text.decode()
    # Before the decoder sees it, which recurses as deep as the text says.
    _check_nesting(raw, max_nesting)
    found = _DECODER.decode(decoded)
    if _SURROGATE.search(raw):
        # Half a pair is not a character and could not be encoded again.
        _encoded(json.dumps(found, ensure_ascii=False))
    return found


def _encoded(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise ValueError("half a surrogate pair") from None


_OPEN: Final = b"[{"
_NOT_BRACKETS: Final = bytes(sorted(set(range(256)) - set(b"[]{}")))
# An unclosed string matches to the end, so the text is always scanned only once.
_STRING: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F]")


def _check_nesting(raw: bytes | bytearray, most: int) -> None:
    # Nearly every text ends here: so few brackets cannot nest too deeply. Only then are strings,
    # whose brackets do not count, taken out.
    brackets = raw.translate(None, _NOT_BRACKETS)
    if sum(brackets.count(one) for one in (b"[", b"{")) <= most:
        return
    depth = 0
    for sign in _STRING.sub(b"", raw).translate(None, _NOT_BRACKETS):
        depth += 1 if sign in _OPEN else -1
        if depth > most:
            raise ValueError(f"nested more than {most} deep")


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise KeyTwice(key)
            seen.add(key)
    return found


def _finite(text: str) -> float:
    found = float(text)
    if found in (float("inf"), float("-inf")):
        raise ValueError("a number beyond the range of a float")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_unique, parse_float=_finite, parse_constant=_no_constant
)
