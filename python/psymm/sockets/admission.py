"""Admission: who may connect, and what an address may cost before it has proved itself (`spec.md`
68, 70).

Addresses: an address is an IPv4 address or an IPv6 /64, which is what one peer has to itself. Many
peers get an IPv6 /48, which is 65,536 of these. So all addresses of a /48 together are limited too,
to a few times the share of one. When we take a place from the largest holder, a /48 counts as one
holder. Loopback is not limited by address unless asked for: behind a proxy on the same machine,
everybody is loopback.

States of a connection:

1. Handshakes (`Admission.opening`). It takes a place as soon as it is accepted, before we read a
   byte. If these places are all taken, the address with most of them loses its oldest to an
   address with fewer. Any address that has proved nothing loses one to an address that has.
2. Stranger (`Admission.standing`). After its handshakes it takes a stranger's place.
3. Provisional. A quarter of all places, and an eighth of one address's, are kept from strangers. A
   connection that finds only those free has PROVE_S to prove that it belongs to a known custody.
   Otherwise it is closed.
4. Known (`ConnectionSlot.keep`). It has proved itself. Its place is safe.

If strangers hold all places that a connection could take, the address with most of them loses its
oldest to an address with fewer. So a few addresses cannot keep everybody else out.

A place is taken by cancelling its scope. The loser gives it back at its next checkpoint, so for a
moment there is one connection more than allowed.
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
"""Addresses without a connection whose rates we remember."""
PROVE_S: Final = 10.0
"""Seconds that a connection in a kept place has to prove itself."""


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    """Limits for all peers and for each address.

    Attributes:
        connections: Connections at once, all peers; a quarter is kept for known custodies.
        per_address: Strangers' connections at once from one address.
        per_second: New connections a second from one address.
        burst: New connections at once from one address.
        opening: Connections in their handshakes at once, all peers.
        opening_per_address: Connections in their handshakes at once from one address.
        noise: Meaningless messages at once from one address.
        noise_per_second: Meaningless messages a second from one address.
        bytes_at_once: Bytes at once from one address's strangers.
        bytes_per_second: Bytes a second from one address's strangers.
        checks: Introductions with collateral and collateral checks on the chain, at once, for one
            address's strangers.
        checks_per_second: The same, in a second.
        addresses_per_network: How many times the share of one address an IPv6 /48 has.
        limit_loopback: Whether loopback is limited by address, too.
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
    """What admission has counted.

    Attributes:
        standing: Connections past their handshakes now.
        opening: Connections in their handshakes now.
        admitted: Connections let in so far.
        refused: Connections refused so far.
        addresses: Addresses with a connection now.
        known: Connections now that have proved themselves.
    """

    standing: int
    opening: int
    admitted: int
    refused: int
    addresses: int
    known: int


@dataclass
class _Peer:
    """One address, or all of an IPv6 /48.

    Attributes:
        limited: Whether its limits are enforced.
        share: How many addresses' shares it has.
        network: The /48 of the address, which also counts all that the address does.
        strangers: Its connections that have not proved themselves.
        proved: Whether one of its connections has.
        handshakes: Oldest first.
        places: Its strangers' places, oldest first.
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
        """Where its connections count: the address itself, and its /48 if it has one."""
        return (self,) if self.network is None else (self, self.network)

    @property
    def widest(self) -> _Peer:
        """The holder of its places when we compare holders."""
        return self if self.network is None else self.network


class ConnectionSlot:
    """A connection's place for its lifetime. `ConnectionSlot()` has no limits.

    Attributes:
        provisional: The place is one of those kept for known custodies, and nothing is proved yet.
        known: The connection has proved itself.
        scope: Cancelled to close the connection.
    """

    def __init__(self, peer: _Peer | None = None, admission: Admission | None = None) -> None:
        self.provisional = False
        self.known = False
        self.scope = trio.CancelScope()
        self._peer = peer
        self._admission = admission

    def keep(self) -> None:
        """The connection belongs to a known custody: its place is now safe from strangers."""
        if self._peer is not None and self._admission is not None and not self.known:
            for one in self._peer.counted:
                one.strangers -= 1
            self._peer.proved = True
            # No longer among the places that `_take_from_greediest` may take.
            self.leave()
            self._admission.keep(provisional=self.provisional)
        self.known, self.provisional = True, False
        # A provisional place has a deadline of PROVE_S.
        self.scope.deadline = float("inf")

    def leave(self) -> None:
        """Remove the place from those that may be taken from its address."""
        if self._peer is not None and self in self._peer.places:
            for one in self._peer.counted:
                one.places.remove(self)

    def read(self, size: int) -> None:
        """We are about to parse a message of `size` bytes for a stranger. Raises FloodingPeer."""
        now = trio.current_time()
        # Charge address and network, even if one of them is already in debt.
        paid = [one.bytes.spend(size, now) for one in self._limited]
        if not all(paid):
            raise FloodingPeer("too many bytes from one address")

    def noise(self) -> None:
        """A message made no sense. Raises FloodingPeer if the address has sent too many, over all
        its connections."""
        now = trio.current_time()
        paid = [one.noise.spend(1, now) for one in self._limited]
        if not all(paid):
            raise FloodingPeer("too much noise from one address")

    def check(self) -> None:
        """We are about to ask the chain for a stranger. Raises FloodingPeer."""
        now = trio.current_time()
        if not all(one.checks.take(1, now) for one in self._limited):
            raise FloodingPeer("too many collateral checks for one address")

    @property
    def _limited(self) -> tuple[_Peer, ...]:
        peer = self._peer
        return peer.counted if peer is not None and peer.limited else ()


class Admission:
    """Counts connections by address, and decides who gets a place."""

    def __init__(self, limits: AdmissionLimits | None = None) -> None:
        self.limits = limits or AdmissionLimits()
        self._peers: OrderedDict[str, _Peer] = OrderedDict()
        self._networks: OrderedDict[str, _Peer] = OrderedDict()
        self._standing = self._opening = self._admitted = self._refused = 0
        self._known = self._provisional = 0
        self._closed: str | None = None

    def close(self, reason: str) -> None:
        """Admit nobody from now on."""
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
        """Count a connection from `address` in its handshakes, for as long as the block lasts. The
        block is cancelled if another address needs the place more. Raises TooManyConnections."""
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
        """Hold a connection's place for as long as the block lasts. Raises TooManyConnections."""
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
        """A stranger's connection has proved itself; see `ConnectionSlot.keep`."""
        self._known += 1
        self._provisional -= provisional

    def _admit_handshake(self, peer: _Peer) -> None:
        """Give a place for handshakes, from another address if need be. Raises
        TooManyConnections."""
        limits, now = self.limits, trio.current_time()
        for one in peer.counted if peer.limited else ():
            if not one.arrivals.take(1, now):
                raise TooManyConnections("too often from one address", per_second=limits.per_second)
            # An address in debt for noise or bytes must not start over with a new connection.
            if min(one.noise.left(now), one.bytes.left(now)) < 0:
                raise TooManyConnections("too much noise from one address")
            most = limits.opening_per_address * one.share
            if len(one.handshakes) >= most:
                raise TooManyConnections("too many handshakes from one address", most=most)
        if self._opening < limits.opening:
            return
        others = [one for one in self._peers.values() if one.handshakes]
        # First choice: an address that has proved nothing.
        if peer.proved:
            others = [one for one in others if not one.proved] or others
        greediest = max(
            others,
            key=lambda one: (len(one.widest.handshakes), len(one.handshakes)),
            default=peer,
        )
        held = len(peer.widest.handshakes)
        # Between equals, only a holder of at least two more loses one. Otherwise two addresses
        # could take places from each other for ever.
        least = 0 if peer.proved and not greediest.proved else held + 1
        if len(greediest.widest.handshakes) <= least:
            raise TooManyConnections("all places for handshakes are taken", most=limits.opening)
        # It gives its place back at its next checkpoint; until then there is one more.
        oldest = greediest.handshakes[0]
        _leave_handshake(greediest, oldest)
        oldest.cancel()

    def _admit(self, peer: _Peer, place: ConnectionSlot) -> None:
        """Give a place after the handshakes, from another address if need be. Raises
        TooManyConnections."""
        limits, now = self.limits, trio.current_time()
        if self._closed is not None:
            raise TooManyConnections(self._closed)
        # Crowded: only the last eighth of the address's own places is free.
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
        # First try a stranger's place from the largest holder. A kept place is the last resort.
        if not crowded and self._take_from_greediest(peer, provisional=False):
            return
        full = full or self._provisional >= limits.kept
        if full and not self._take_from_greediest(peer, provisional=True):
            raise TooManyConnections("all places are taken", most=limits.connections)
        place.provisional = True
        place.scope.deadline = trio.current_time() + PROVE_S

    def _take_from_greediest(self, peer: _Peer, *, provisional: bool) -> bool:
        """Close the oldest stranger's connection of the address that has most of them, in a kept
        place if `provisional`, else in another. False if no address has at least two more than this
        one. The place is free at the loser's next checkpoint. Addresses of one /48 count together;
        among them, the one with most loses."""

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
            # While a connection of the address counts in it, this finds the same object.
            share = self.limits.addresses_per_network
            peer.network = self._known_as(self._networks, network, share)
        return peer

    def _known_as(self, known: OrderedDict[str, _Peer], block: str, share: int) -> _Peer:
        """The record of an address or network, made if there is none. It becomes the last to be
        forgotten."""
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
        """Forget half of the idle addresses when there are too many. Those that have proved
        something go last."""
        for known in (self._peers, self._networks):
            if len(known) <= _REMEMBERED + self._standing + self._opening:
                continue
            # Oldest first. A flood of new addresses pushes out strangers before anybody who has
            # proved something.
            idle = [block for block, peer in known.items() if not peer.present]
            idle.sort(key=lambda block: known[block].proved)
            for block in idle[: len(idle) // 2]:
                del known[block]


def _leave_handshake(peer: _Peer, scope: trio.CancelScope) -> None:
    """Remove a handshake from those that may be taken from its address."""
    if scope in peer.handshakes:
        for one in peer.counted:
            one.handshakes.remove(scope)


def block_of(address: str) -> str:
    """What one peer has to itself: an IPv4 address or an IPv6 /64."""
    parsed = _parsed(address)
    if parsed is None:
        return address
    if isinstance(parsed, IPv6Address) and not parsed.is_loopback:
        return str(ip_network((int(parsed), 64), strict=False))
    return str(parsed)


def network_of(address: str) -> str | None:
    """The IPv6 /48 of an address; None for any other address, and for loopback."""
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
