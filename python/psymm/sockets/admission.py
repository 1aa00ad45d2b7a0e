"""Who may connect: how many at once, how many from one address at once and a second, and what one
address may cost before any of its connections has proved whose it is (`spec.md` 68, 70).

An address is an IPv4 address or an IPv6 /64, which is what one peer has for itself. Many get an
IPv6 /48, which is 65,536 of these, so all addresses of a /48 together are limited too, to a few
times the share of one. Where the holder of most places loses one, a /48 is one holder. Loopback is
not limited by address unless asked for: behind a proxy on the same machine everybody is loopback.

A connection takes a place for its handshakes as soon as it is accepted, before a byte of it is
read. Where these places are all taken, the address that holds most of them loses its oldest one to
an address that holds fewer, and any address that has proved nothing loses one to an address that
has. After its handshakes a connection takes a stranger's place. A quarter of all places, and an
eighth of one address's, are kept from strangers: a connection that finds only those free has
PROVE_S to prove that it belongs to a known custody (`ConnectionSlot.keep`), and is closed if it
does not. Where strangers hold all places that a connection could take, the address with most of
them loses its oldest to an address with fewer: a few addresses keep nobody out.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final

import trio

from psymm.errors import FloodingPeer, TooManyConnections
from psymm.rate import TokenBucket

_REMEMBERED: Final = 4096
"""Addresses without a connection whose rates are remembered."""
PROVE_S: Final = 10.0
"""How long a connection in a kept place has to prove itself."""


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    """Limits for all peers and for each address.

    connections: at once, all peers; a quarter of them is kept for known custodies.
    per_address: strangers' connections at once from one address.
    per_second: new connections a second from one address, with `burst` at once.
    opening: connections in their handshakes at once, all peers.
    opening_per_address: the same from one address.
    noise_per_second: messages without sense a second from one address, with `noise` at once.
    bytes_per_second: bytes a second from one address's strangers, with `bytes_at_once` at once.
    checks_per_second: introductions that bring collateral and collateral checks on the chain a
        second for one address's strangers, with `checks` at once.
    addresses_per_network: how many times the share of one address an IPv6 /48 has.
    """

    connections: int = 1024
    per_address: int = 64
    per_second: float = 5.0
    burst: int = 64
    opening: int = 256
    opening_per_address: int = 16
    noise: int = 64
    noise_per_second: float = 0.5
    bytes_at_once: int = 1024 * 1024
    bytes_per_second: int = 64 * 1024
    checks: int = 16
    checks_per_second: float = 1.0
    addresses_per_network: int = 4
    limit_loopback: bool = False

    @property
    def kept(self) -> int:
        """Places that strangers do not get."""
        return self.connections // 4


@dataclass(frozen=True, slots=True)
class AdmissionStatistics:
    """standing, opening: now. admitted, refused: so far. addresses: with a connection now.
    known: standing connections that proved themselves."""

    standing: int
    opening: int
    admitted: int
    refused: int
    addresses: int
    known: int


@dataclass
class _Peer:
    """One address, or all of an IPv6 /48.

    limited: whether its limits are enforced.
    share: how many addresses' shares it has.
    network: the /48 that the address is in, in which all that it does is counted too.
    strangers: its connections that have not proved themselves.
    proved: one of them did.
    handshakes: oldest first.
    places: its strangers', oldest first.
    """

    limited: bool
    share: int
    arrivals: TokenBucket
    connections: TokenBucket
    noise: TokenBucket
    bytes: TokenBucket
    checks: TokenBucket
    network: _Peer | None = None
    standing: int = 0
    strangers: int = 0
    proved: bool = False
    handshakes: list[trio.CancelScope] = field(default_factory=list)
    places: list[ConnectionSlot] = field(default_factory=list)

    @property
    def present(self) -> bool:
        return bool(self.standing or self.handshakes)

    @property
    def counted(self) -> tuple[_Peer, ...]:
        """What its connections count for: the address itself, and its /48 if it has one."""
        return (self,) if self.network is None else (self, self.network)

    @property
    def widest(self) -> _Peer:
        """Who holds its places, where they are shared out."""
        return self if self.network is None else self.network


class ConnectionSlot:
    """A connection's place, for as long as it stands. `ConnectionSlot()` is one without limits.

    provisional: it is one of those kept for known custodies, and not proved yet.
    """

    def __init__(self, peer: _Peer | None = None, admission: Admission | None = None) -> None:
        self.provisional = False
        self.known = False
        self.scope = trio.CancelScope()
        self._peer = peer
        self._admission = admission

    def keep(self) -> None:
        """The connection belongs to a known custody: its place is safe from strangers."""
        if self._peer is not None and self._admission is not None and not self.known:
            for one in self._peer.counted:
                one.strangers -= 1
            self._peer.proved = True
            self.leave()
            self._admission.keep(provisional=self.provisional)
        self.known, self.provisional = True, False
        self.scope.deadline = float("inf")

    def leave(self) -> None:
        """It is no stranger's any more that may be taken from its address."""
        if self._peer is not None and self in self._peer.places:
            for one in self._peer.counted:
                one.places.remove(self)

    def read(self, size: int) -> None:
        """A message of `size` bytes is about to be parsed for a stranger. Raises FloodingPeer."""
        now = trio.current_time()
        # Both are charged, whichever is in debt.
        paid = [one.bytes.spend(size, now) for one in self._limited]
        if not all(paid):
            raise FloodingPeer("too many bytes from one address")

    def noise(self) -> None:
        """A message made no sense. Raises FloodingPeer where the address has sent too many, on
        whatever connections."""
        now = trio.current_time()
        paid = [one.noise.spend(1, now) for one in self._limited]
        if not all(paid):
            raise FloodingPeer("too much noise from one address")

    def check(self) -> None:
        """The chain is about to be asked for a stranger. Raises FloodingPeer."""
        now = trio.current_time()
        if not all(one.checks.take(1, now) for one in self._limited):
            raise FloodingPeer("too many collateral checks for one address")

    @property
    def _limited(self) -> tuple[_Peer, ...]:
        peer = self._peer
        return peer.counted if peer is not None and peer.limited else ()


class Admission:
    """Counts connections by address."""

    def __init__(self, limits: AdmissionLimits | None = None) -> None:
        self.limits = limits or AdmissionLimits()
        self._peers: OrderedDict[str, _Peer] = OrderedDict()
        self._networks: OrderedDict[str, _Peer] = OrderedDict()
        self._standing = self._opening = self._admitted = self._refused = 0
        self._known = self._provisional = 0
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
            self._known,
        )

    @contextmanager
    def opening(self, address: str) -> Iterator[None]:
        """A connection from `address` is in its handshakes for as long as the block, which is
        cancelled where another address needs the place more. Raises TooManyConnections."""
        peer = self._peer(address)
        try:
            self._admit_handshake(peer)
        except TooManyConnections:
            self._refused += 1
            self._forget()
            raise
        scope = trio.CancelScope()
        for one in peer.counted:
            one.handshakes.append(scope)
        self._opening += 1
        try:
            with scope:
                yield
        finally:
            self._opening -= 1
            _leave_handshake(peer, scope)
            self._forget()

    @contextmanager
    def standing(self, address: str) -> Iterator[ConnectionSlot]:
        """A connection from `address` for as long as the block. Raises TooManyConnections."""
        peer = self._peer(address)
        place = ConnectionSlot(peer, self)
        try:
            self._admit(peer, place)
        except TooManyConnections:
            self._refused += 1
            self._forget()
            raise
        self._admitted += 1
        self._standing += 1
        self._provisional += place.provisional
        for one in peer.counted:
            one.standing += 1
            one.strangers += 1
            one.places.append(place)
        try:
            with place.scope:
                yield place
        finally:
            self._standing -= 1
            place.leave()
            for one in peer.counted:
                one.standing -= 1
                one.strangers -= not place.known
            if place.known:
                self._known -= 1
            else:
                self._provisional -= place.provisional
            self._forget()

    def keep(self, *, provisional: bool) -> None:
        """A stranger's connection proved itself; see `ConnectionSlot.keep`."""
        self._known += 1
        self._provisional -= provisional

    def _admit_handshake(self, peer: _Peer) -> None:
        limits, now = self.limits, trio.current_time()
        for one in peer.counted if peer.limited else ():
            if not one.arrivals.take(1, now):
                raise TooManyConnections("too often from one address", per_second=limits.per_second)
            if min(one.noise.left(now), one.bytes.left(now)) < 0:
                raise TooManyConnections("too much noise from one address")
            most = limits.opening_per_address * one.share
            if len(one.handshakes) >= most:
                raise TooManyConnections("too many handshakes from one address", most=most)
        if self._opening < limits.opening:
            return
        others = [one for one in self._peers.values() if one.handshakes]
        if peer.proved:
            others = [one for one in others if not one.proved] or others
        greediest = max(
            others,
            key=lambda one: (len(one.widest.handshakes), len(one.handshakes)),
            default=peer,
        )
        held = len(peer.widest.handshakes)
        least = 0 if peer.proved and not greediest.proved else held + 1
        if len(greediest.widest.handshakes) <= least:
            raise TooManyConnections("all places for handshakes are taken", most=limits.opening)
        # It gives its place back at its next checkpoint; until then there is one more.
        oldest = greediest.handshakes[0]
        _leave_handshake(greediest, oldest)
        oldest.cancel()

    def _admit(self, peer: _Peer, place: ConnectionSlot) -> None:
        limits, now = self.limits, trio.current_time()
        if self._closed is not None:
            raise TooManyConnections(self._closed)
        crowded = False
        for one in peer.counted if peer.limited else ():
            most = limits.per_address * one.share
            if one.strangers >= most:
                raise TooManyConnections("too many from one address", most=most)
            if not one.connections.take(1, now):
                raise TooManyConnections("too often from one address", per_second=limits.per_second)
            crowded = crowded or one.strangers >= most - most // 8
        strangers = self._standing - self._known - self._provisional
        full = self._standing >= limits.connections
        if not crowded and not full and strangers < limits.connections - limits.kept:
            return
        if not crowded and self._take_from_greediest(peer, provisional=False):
            return
        full = full or self._provisional >= limits.kept
        if full and not self._take_from_greediest(peer, provisional=True):
            raise TooManyConnections("all places are taken", most=limits.connections)
        place.provisional = True
        place.scope.deadline = trio.current_time() + PROVE_S

    def _take_from_greediest(self, peer: _Peer, *, provisional: bool) -> bool:
        """Close the oldest stranger's connection, in a kept place or another, of the address that
        has most of them; False where none has two more than this one. It gives its place back at
        its next checkpoint; until then there is one more. Addresses of one /48 count together, and
        of these the one with most loses it."""

        def held(one: _Peer) -> list[ConnectionSlot]:
            return [place for place in one.places if place.provisional == provisional]

        others = [one for one in self._peers.values() if one.places and one is not peer]
        sizes = [(len(held(one.widest)), len(held(one)), one) for one in others]
        sizes = [one for one in sizes if one[1]]
        most, _, greediest = max(sizes, key=lambda one: one[:2], default=(0, 0, peer))
        if most <= len(held(peer.widest)) + 1:
            return False
        oldest = held(greediest)[0]
        oldest.leave()
        oldest.scope.cancel()
        return True

    def _peer(self, address: str) -> _Peer:
        block, network = block_of(address), network_of(address)
        peer = self._known_as(self._peers, block, 1)
        if network is not None:
            # While a connection of the address counts in it, this is the same one.
            share = self.limits.addresses_per_network
            peer.network = self._known_as(self._networks, network, share)
        return peer

    def _known_as(self, known: OrderedDict[str, _Peer], block: str, share: int) -> _Peer:
        limits, now = self.limits, trio.current_time()

        def bucket(per_second: float, most: float) -> TokenBucket:
            return TokenBucket(per_second * share, most * share, now)

        peer = known.get(block)
        if peer is None:
            peer = known[block] = _Peer(
                limits.limit_loopback or not _is_loopback(block),
                share,
                bucket(limits.per_second, limits.burst),
                bucket(limits.per_second, limits.burst),
                bucket(limits.noise_per_second, limits.noise),
                bucket(limits.bytes_per_second, limits.bytes_at_once),
                bucket(limits.checks_per_second, limits.checks),
            )
        known.move_to_end(block)
        return peer

    def _forget(self) -> None:
        """Addresses that have been away longest, once there are too many."""
        for known in (self._peers, self._networks):
            if len(known) <= _REMEMBERED + self._standing + self._opening:
                continue
            idle = [block for block, peer in known.items() if not peer.present]
            idle.sort(key=lambda block: known[block].proved)
            for block in idle[: len(idle) // 2]:
                del known[block]


def _leave_handshake(peer: _Peer, scope: trio.CancelScope) -> None:
    """It is no handshake any more that may be taken from its address."""
    if scope in peer.handshakes:
        for one in peer.counted:
            one.handshakes.remove(scope)


def block_of(address: str) -> str:
    """What one peer has for itself: an IPv4 address, an IPv6 /64."""
    parsed = _parsed(address)
    if parsed is None:
        return address
    if isinstance(parsed, IPv6Address) and not parsed.is_loopback:
        return str(ip_network((int(parsed), 64), strict=False))
    return str(parsed)


def network_of(address: str) -> str | None:
    """The IPv6 /48 that an address is in; None of any other address, and of loopback."""
    parsed = _parsed(address)
    if isinstance(parsed, IPv6Address) and not parsed.is_loopback:
        return str(ip_network((int(parsed), 48), strict=False))
    return None


def _parsed(address: str) -> IPv4Address | IPv6Address | None:
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return None
    mapped = parsed.ipv4_mapped if isinstance(parsed, IPv6Address) else None
    return parsed if mapped is None else mapped


def _is_loopback(block: str) -> bool:
    try:
        return ip_address(block).is_loopback
    except ValueError:
        return False
