"""Who may connect: how many at once, and how many from one address at once and a second.

An address is an IPv4 address or an IPv6 /64, which is what one peer has for itself. Loopback is
not limited by address unless asked for: behind a proxy on the same machine everybody is loopback.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Final

import trio

from psymm.errors import TooManyConnections

_REMEMBERED: Final = 4096
"""Addresses without a connection whose rate is remembered."""


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    """connections: at once, all peers. per_address: at once from one address. per_second: new
    ones from one address, with `burst` at once. opening: still in their handshakes, all peers."""

    connections: int = 1024
    per_address: int = 64
    per_second: float = 5.0
    burst: int = 64
    opening: int = 256
    limit_loopback: bool = False


@dataclass(frozen=True, slots=True)
class AdmissionStatistics:
    """standing, opening: now. admitted, refused: so far. addresses: with a connection now."""

    standing: int
    opening: int
    admitted: int
    refused: int
    addresses: int


@dataclass
class _Peer:
    standing: int
    left: float
    seen: float


class Admission:
    """Counts connections by address."""

    def __init__(self, limits: AdmissionLimits | None = None) -> None:
        self.limits = limits or AdmissionLimits()
        self._peers: OrderedDict[str, _Peer] = OrderedDict()
        self._standing = self._opening = self._admitted = self._refused = 0
        self._closed: str | None = None

    def close(self, reason: str) -> None:
        """Admit nobody any more."""
        self._closed = reason

    def statistics(self) -> AdmissionStatistics:
        return AdmissionStatistics(
            self._standing,
            self._opening,
            self._admitted,
            self._refused,
            sum(1 for peer in self._peers.values() if peer.standing),
        )

    @contextmanager
    def opening(self) -> Iterator[bool]:
        """A handshake is under way; gives False where there are too many already."""
        room = self._opening < self.limits.opening
        self._opening += 1
        try:
            yield room
        finally:
            self._opening -= 1

    @contextmanager
    def standing(self, address: str) -> Iterator[None]:
        """A connection from `address` for as long as the block. Raises TooManyConnections."""
        try:
            peer = self._admit(_block_of(address))
        except TooManyConnections:
            self._refused += 1
            raise
        self._admitted += 1
        self._standing += 1
        peer.standing += 1
        try:
            yield
        finally:
            self._standing -= 1
            peer.standing -= 1
            self._forget()

    def _admit(self, block: str) -> _Peer:
        limits = self.limits
        if self._closed is not None:
            raise TooManyConnections(self._closed)
        if self._standing >= limits.connections:
            raise TooManyConnections("all places are taken", most=limits.connections)
        now = trio.current_time()
        peer = self._peers.setdefault(block, _Peer(0, float(limits.burst), now))
        self._peers.move_to_end(block)
        if block == "loopback" and not limits.limit_loopback:
            return peer
        passed = now - peer.seen
        peer.left = min(float(limits.burst), peer.left + passed * limits.per_second)
        peer.seen = now
        if peer.standing >= limits.per_address:
            raise TooManyConnections("too many from one address", most=limits.per_address)
        if peer.left < 1:
            raise TooManyConnections("too often from one address", per_second=limits.per_second)
        peer.left -= 1
        return peer

    def _forget(self) -> None:
        idle = len(self._peers) - self._standing
        if idle <= _REMEMBERED:
            return
        for block in [one for one, peer in self._peers.items() if not peer.standing][: idle // 2]:
            del self._peers[block]


def _block_of(address: str) -> str:
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    if parsed.is_loopback:
        return "loopback"
    if isinstance(parsed, IPv6Address):
        return str(ip_network((int(parsed), 64), strict=False))
    return str(parsed)
