"""Format recorded messages for people: every field by its FIX name, in wire order.

One renderer works from the vocabulary's own field rules, so new messages need no code here. Values
that a peer chose (ids, symbols, texts) are not escaped: escape the result before printing it on a
terminal. No message contains a secret, so the result contains none.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from psymm._core import JsonError, format_decimal
from psymm.messages.wire import FieldRule, GroupEntry, Message, field_rules

_LANES: Final = ("trader", "solver")
_SECOND: Final = 1_000_000_000
_LONGEST_HEX: Final = 64
"""Longer hex values are left out: signatures and memos mean nothing to people. Bytes."""


def format_message(message: Message, lane: int, at_ns: int, decimals: int = 0) -> str:
    """A message's fields, such as `ClOrdID o1, Symbol BTC-USD, Side BUY`.

    Args:
        message: the message.
        lane: its sender's.
        at_ns: its frame's sendingTime, nanoseconds; other times are shown relative to it.
        decimals: of the collateral token; then amounts are in whole tokens.
    """
    return _Renderer(lane, at_ns, decimals).fields(message)


def format_timestamp(at_ns: int) -> str:
    """A time as ISO 8601 in UTC with all nine digits: 2026-11-21T15:04:05.000000007Z."""
    whole, rest = divmod(at_ns, _SECOND)
    return f"{datetime.fromtimestamp(whole, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"


def format_duration(ns: int) -> str:
    """A duration in the unit that reads best, from seconds to days: `30 s`, `1.5 h`."""
    for unit, name in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if abs(ns) >= 2 * unit * _SECOND:
            return f"{_number(ns * 100 // (unit * _SECOND), 2)} {name}"
    return f"{_number(ns // 1_000_000, 3)} s" if abs(ns) >= 1_000_000 else f"{ns} ns"


def orders_of(message: Message | None) -> tuple[str, ...]:
    """The ids of the orders that a message concerns, its own order first."""
    found = (getattr(message, name, None) for name in ("cl_ord_id", "orig_cl_ord_id"))
    return tuple(one for one in found if isinstance(one, str))


class _Renderer:
    """Renders the messages of one frame."""

    def __init__(self, lane: int, at_ns: int, decimals: int) -> None:
        self._lane = lane
        self._at_ns = at_ns
        self._decimals = decimals

    def fields(self, value: Message | GroupEntry) -> str:
        shown = ((rule, getattr(value, rule.attribute)) for rule in field_rules(type(value)))
        parts = ((rule.name, self._value(rule, held)) for rule, held in shown if held is not None)
        return ", ".join(f"{name} {text}" for name, text in parts if text)

    def _value(self, rule: FieldRule, held: Any) -> str:
        """A value as text; empty if it is left out."""
        if rule.entries is not None:
            return self._group(held)
        if rule.choices is not None:
            return str(held.name)
        kind = "" if rule.wire is None else rule.wire.kind
        match kind:
            case "decimal" | "udecimal":
                return _decimal(held)
            case "uint":
                return _number(held, self._decimals)
            case "hex" | "hexdata":
                return _short(held) if len(held) <= _LONGEST_HEX else ""
            case "int":
                return self._integer(rule.attribute, held)
        return f'"{held}"' if rule.attribute == "text" else str(held)

    def _integer(self, attribute: str, held: int) -> str:
        match attribute:
            case "ref_seq_num":
                return f"{_LANES[1 - self._lane]} {held}"
            case "heart_bt_int":
                return f"{held} s"
            case "deadline":
                return self._time(held * _SECOND)
            case "expiry" | "expire_time" | "valid_until_time" | "timestamp":
                return self._time(held)
            case "epoch":
                return format_timestamp(held)
        return str(held)

    def _time(self, time_ns: int) -> str:
        if time_ns < self._at_ns:
            return f"{format_duration(self._at_ns - time_ns)} before"
        return f"in {format_duration(time_ns - self._at_ns)}"

    def _group(self, entries: tuple[GroupEntry, ...]) -> str:
        shown = "; ".join(text for entry in entries if (text := self.fields(entry)))
        return f"{len(entries)} ({shown})" if shown else str(len(entries) or "")


def _short(raw: bytes) -> str:
    return f"0x{raw[:4].hex()}…{raw[-2:].hex()}"


def _decimal(scaled: int) -> str:
    try:
        return format_decimal(scaled)
    except JsonError:
        return str(scaled)


def _number(units: int, decimals: int) -> str:
    sign, (whole, rest) = "-" if units < 0 else "", divmod(abs(units), 10**decimals)
    digits = f"{rest:0{decimals}d}".rstrip("0") if decimals else ""
    return f"{sign}{whole}.{digits}" if digits else f"{sign}{whole}"


__all__ = ["format_duration", "format_message", "format_timestamp", "orders_of"]
