"""The account while frames are judged: it changes in place, and every change can be undone.

The rules assign to its fields (``account.clock = …``) and change its tables by ``put`` and
``drop``. Each change adds its old value to an undo log. So a rule changes the account as it goes
along; if it then finds a violation, ``rules.judge`` undoes what it did. ``sequence`` undoes frames
in the same way: those that rest on a frame that was late, and those that were only tried.

A mark is a place in the log: its length at a moment. After ``forget`` has trimmed the old end of
the log, its caller lowers the marks that it keeps. The log reaches back to the oldest frame that
may still be undone, and so it stays short.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, TypeVar

from psymm.rulebook.books import TABLES, Account, Books

K = TypeVar("K")
V = TypeVar("V")

_ABSENT: Final = object()


class LiveAccount(Books):
    """The account of a replay. Only the rules change it."""

    log: list[tuple[dict[Any, Any], Any, Any]]
    """(table or fields, key, old value) of each change, the oldest first."""

    def __init__(self, start: Account) -> None:
        fields = self.__dict__
        fields.update(start.__dict__)
        for name in TABLES:
            fields[name] = dict(fields[name])
        fields.pop("_made", None)
        fields.pop("hash", None)
        fields["log"] = []

    def __setattr__(self, name: str, value: object) -> None:
        fields = self.__dict__
        old = fields[name]
        if old is not value:
            self.log.append((fields, name, old))
            fields[name] = value

    def assign(self, **values: object) -> None:
        """Set several fields: the same as assigning to each, and faster."""
        fields, log = self.__dict__, self.log
        for name, value in values.items():
            log.append((fields, name, fields[name]))
            fields[name] = value

    def put(self, table: Mapping[K, V], key: K, value: V) -> None:
        """Set an entry of one of the account's tables."""
        held: dict[K, V] = table  # type: ignore[assignment]
        self.log.append((held, key, held.get(key, _ABSENT)))
        held[key] = value

    def drop(self, table: Mapping[K, V], key: K) -> None:
        """Remove an entry of one of the account's tables, if it is there."""
        held: dict[K, V] = table  # type: ignore[assignment]
        if key in held:
            self.log.append((held, key, held.pop(key)))

    # --- undoing ---------------------------------------------------------------------------

    def undo_to(self, mark: int) -> None:
        """Undo every change since ``mark``."""
        log = self.log
        for _ in range(len(log) - mark):
            held, key, old = log.pop()
            if old is _ABSENT:
                del held[key]
            else:
                held[key] = old

    def forget(self, mark: int) -> None:
        """Trim the log: nothing from before ``mark`` will be undone. Lower all marks by it."""
        del self.log[:mark]

    # --- reading it ------------------------------------------------------------------------

    def snapshot(self, mark: int | None = None) -> Account:
        """The account as it is now, or as it was at ``mark``. It never changes."""
        fields = self.__dict__
        made = {name: value for name, value in fields.items() if name != "log"}
        for name in TABLES:
            made[name] = dict(made[name])
        if mark is not None:
            for held, key, old in reversed(self.log[mark:]):
                copy = made
                if held is not fields:
                    copy = made[next(name for name in TABLES if fields[name] is held)]
                if old is _ABSENT:
                    del copy[key]
                else:
                    copy[key] = old
        for name in TABLES:
            made[name] = MappingProxyType(made[name])
        account = Account.__new__(Account)
        account.__dict__.update(made, _made=True)
        return account

    def was(self, mark: int, name: str) -> Any:
        """The value that a field had at ``mark``."""
        for held, key, old in self.log[mark:]:
            if held is self.__dict__ and key == name:
                return old
        return self.__dict__[name]
