"""Immutable mappings: each frame gives a new account, which shares what did not change.

A `SmallMap` holds what is open at one time. It is small, so a change copies it whole. A
`PersistentMap` holds what grows with the custody: used ids and ended orders. It is split into
buckets; a change copies one bucket, and a hash recomputes only changed buckets. CRC-32 assigns keys
to buckets, because Python's own hash is salted and differs between processes.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator
from typing import Final, Generic, TypeVar

from psymm._core import keccak256

K = TypeVar("K", bound=str | bytes)
V = TypeVar("V")
MANY: Final = 256
"""Buckets of a `PersistentMap`."""


class SmallMap(dict[K, V]):
    """A mapping of a few entries. Never modify it: `put` and `without` return a new one.

    It is a `dict`, so that reading it costs no Python call.
    """

    __slots__ = ()

    def put(self, key: K, value: V) -> SmallMap[K, V]:
        made = SmallMap(self)
        made[key] = value
        return made

    def without(self, key: K) -> SmallMap[K, V]:
        made = SmallMap(self)
        made.pop(key, None)
        return made


class PersistentMap(Generic[K, V]):
    """A mapping of many entries. ``put`` returns a new one."""

    __slots__ = ("_buckets", "_digests", "_size")

    def __init__(self, items: Iterable[tuple[K, V]] = (), buckets: int = MANY) -> None:
        filled: list[dict[K, V]] = [{} for _ in range(buckets)]
        for key, value in items:
            filled[_place(key, buckets)][key] = value
        self._buckets = tuple(filled)
        self._digests: list[bytes | None] = [None] * buckets  # filled when asked for
        self._size = sum(map(len, filled))

    def get(self, key: K) -> V | None:
        return self._buckets[_place(key, len(self._buckets))].get(key)

    def __contains__(self, key: K) -> bool:
        return key in self._buckets[_place(key, len(self._buckets))]

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[K]:
        return (key for bucket in self._buckets for key in bucket)

    def items(self) -> Iterator[tuple[K, V]]:
        return (item for bucket in self._buckets for item in bucket.items())

    def put(self, key: K, value: V) -> PersistentMap[K, V]:
        at = _place(key, len(self._buckets))
        return self._with(at, {**self._buckets[at], key: value})

    def added(self, key: K, value: V) -> PersistentMap[K, V] | None:
        """The mapping with a new key; None if the key exists."""
        at = _place(key, len(self._buckets))
        bucket = self._buckets[at]
        return None if key in bucket else self._with(at, {**bucket, key: value})

    def _with(self, at: int, bucket: dict[K, V]) -> PersistentMap[K, V]:
        buckets = self._buckets
        made: PersistentMap[K, V] = PersistentMap.__new__(PersistentMap)
        made._size = self._size - len(buckets[at]) + len(bucket)
        made._buckets = buckets[:at] + (bucket,) + buckets[at + 1 :]  # noqa: RUF005
        made._digests = self._digests.copy()
        made._digests[at] = None
        return made

    def digest(self) -> bytes:
        """keccak256 over the digests of all buckets, for text keys and values.

        A bucket's digest is keccak256 of its entries as canonical JSON: an object from key to
        ``str(value)``, keys sorted.
        """
        for at, bucket in enumerate(self._buckets):
            if self._digests[at] is None:
                plain = {str(key): str(value) for key, value in bucket.items()}
                text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
                self._digests[at] = keccak256(text.encode())
        return keccak256(b"".join(each or b"" for each in self._digests))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PersistentMap) and dict(self.items()) == dict(other.items())

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"PersistentMap({dict(self.items())!r})"


def _place(key: str | bytes, buckets: int) -> int:
    return zlib.crc32(key.encode() if isinstance(key, str) else key) % buckets
