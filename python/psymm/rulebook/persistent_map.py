"""An immutable mapping that shares what did not change.

An account is a new value after every frame. What is open at one time is small, and its tables are
copied whole: one bucket. The ids ever used and the orders ever ended grow with the custody, so
their tables are split into many buckets, of which a change copies one, and they are hashed bucket
by bucket, so that a hash after every frame costs what changed. Keys fall into buckets by CRC-32 and
not by Python's salted hash, so that all processes agree.
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
"""Buckets of a table that grows with the custody."""


class PersistentMap(Generic[K, V]):
    """A mapping; ``put`` and ``without`` give a new one and leave this one as it is."""

    __slots__ = ("_buckets", "_digests", "_size")

    def __init__(self, buckets: int = 1) -> None:
        self._buckets: tuple[dict[K, V], ...] = ({},) * buckets
        self._digests: list[bytes | None] = [None] * buckets  # filled when asked for
        self._size = 0

    @staticmethod
    def of(items: Iterable[tuple[K, V]], buckets: int = 1) -> PersistentMap[K, V]:
        """A table of many items at once."""
        made: PersistentMap[K, V] = PersistentMap(buckets)
        filled: list[dict[K, V]] = [{} for _ in range(buckets)]
        for key, value in items:
            filled[made._bucket(key)][key] = value
        made._buckets = tuple(filled)
        made._size = sum(map(len, filled))
        return made

    def get(self, key: K) -> V | None:
        return self._buckets[self._bucket(key)].get(key)

    def __getitem__(self, key: K) -> V:
        return self._buckets[self._bucket(key)][key]

    def __contains__(self, key: K) -> bool:
        return key in self._buckets[self._bucket(key)]

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[K]:
        return (key for bucket in self._buckets for key in bucket)

    def items(self) -> Iterator[tuple[K, V]]:
        return (item for bucket in self._buckets for item in bucket.items())

    def values(self) -> Iterator[V]:
        if len(self._buckets) == 1:
            return iter(self._buckets[0].values())
        return (value for bucket in self._buckets for value in bucket.values())

    def put(self, key: K, value: V) -> PersistentMap[K, V]:
        at = self._bucket(key)
        bucket = self._buckets[at].copy()
        bucket[key] = value
        return self._with(at, bucket)

    def without(self, key: K) -> PersistentMap[K, V]:
        at = self._bucket(key)
        bucket = self._buckets[at].copy()
        bucket.pop(key, None)
        return self._with(at, bucket)

    @property
    def grows(self) -> bool:
        """Whether it is one of those that grow with the custody."""
        return len(self._buckets) > 1

    def digest(self) -> bytes:
        """keccak256 over the buckets' own: each keccak256 of its entries as canonical JSON, an
        object from key to ``str(value)``, keys sorted. Only for keys and values that are text."""
        for at, bucket in enumerate(self._buckets):
            if self._digests[at] is None:
                plain = {str(key): str(value) for key, value in bucket.items()}
                text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
                self._digests[at] = keccak256(text.encode())
        return keccak256(b"".join(each or b"" for each in self._digests))

    def _bucket(self, key: K) -> int:
        if len(self._buckets) == 1:
            return 0
        return zlib.crc32(key.encode() if isinstance(key, str) else key) % len(self._buckets)

    def _with(self, at: int, bucket: dict[K, V]) -> PersistentMap[K, V]:
        made: PersistentMap[K, V] = PersistentMap.__new__(PersistentMap)
        made._size = self._size - len(self._buckets[at]) + len(bucket)
        if len(self._buckets) == 1:
            made._buckets, made._digests = (bucket,), [None]
            return made
        made._buckets = self._buckets[:at] + (bucket,) + self._buckets[at + 1 :]  # noqa: RUF005
        made._digests = self._digests.copy()
        made._digests[at] = None
        return made

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PersistentMap) and dict(self.items()) == dict(other.items())

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Table({dict(self.items())!r})"
