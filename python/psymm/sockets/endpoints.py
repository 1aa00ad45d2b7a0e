"""Endpoints that we may dial: what may be written in one, and to which machine its name may lead.

Anybody can write an endpoint into the registry, and every client dials it. So an endpoint is a host
and a port and nothing else. It must lead to the public internet: an entry must not make clients
knock at services of their own machine or network.

We resolve a name here, once. We connect to the very addresses that we checked, so a name cannot
change its meaning in between (DNS rebinding).
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final
from urllib.parse import urlsplit

import trio

from psymm.errors import BadEndpoint, PlainRefused, PrivateAddress, Unreachable

MAX_ENDPOINT_BYTES: Final = 256
MAX_ADDRESSES: Final = 4
"""Addresses of one name that we try. A name with a thousand addresses is not a list of targets."""

_DEVELOPMENT_CHAIN: Final = 31_337

_RESOLVING: Final = 16
"""Names that we resolve at once. A resolver's thread cannot be cancelled. It keeps its place here
to its end, even if nobody waits for it any more. So hostile name servers cannot use up the threads
that write the journal."""
_resolving: Final = trio.lowlevel.RunVar[trio.CapacityLimiter]("psymm-resolving")

_Address = IPv4Address | IPv6Address

_NEVER: Final = tuple(
    ip_network(one)
    for one in (
        "0.0.0.0/8",  # "this machine": Linux connects it to loopback
        "169.254.0.0/16",  # link-local; clouds keep their credentials at 169.254.169.254
        "100.100.100.200/32",  # a cloud's metadata
        "192.0.0.192/32",  # another one's
        "224.0.0.0/3",  # multicast, reserved, broadcast
        "::/128",
        "fe80::/10",
        "fec0::/10",
        "ff00::/8",
        "fd00:ec2::/32",  # a cloud's metadata
    )
)
_PRIVATE: Final = tuple(
    ip_network(one)
    for one in (
        "10.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT
        "127.0.0.0/8",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "2001::/23",  # Teredo and other tunnels among them
        "2001:db8::/32",
        "3fff::/20",
    )
)
_PUBLIC_V6: Final = ip_network("2000::/3")
_CARRY_V4: Final = (
    # Networks whose addresses carry an IPv4 address, and how many bits from the right.
    (ip_network("::ffff:0:0/96"), 0),
    (ip_network("64:ff9b::/96"), 0),  # NAT64
    (ip_network("2002::/16"), 80),  # 6to4
)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A ws:// or wss:// address, parsed.

    Attributes:
        text: As it was written.
        secure: wss.
        netloc: Host and port as they were written, for the handshake.
    """

    text: str
    secure: bool
    host: str
    port: int
    netloc: str


def parse_endpoint(text: str) -> Endpoint:
    """Parse an endpoint: ws or wss, a host, an optional port, and at most a `/` after them.

    No user name, path, query or fragment; printable ASCII of at most 256 bytes. Raises BadEndpoint
    with the reason.
    """
    shown = text[:MAX_ENDPOINT_BYTES].encode("ascii", "backslashreplace").decode()
    shown = "".join(sign if sign.isprintable() else "?" for sign in shown)

    def bad(reason: str) -> BadEndpoint:
        return BadEndpoint(f"this is no endpoint: {reason}", endpoint=shown, reason=reason)

    if len(text.encode(errors="replace")) > MAX_ENDPOINT_BYTES:
        raise bad(f"it is over {MAX_ENDPOINT_BYTES} bytes")
    if not text.isascii() or not text.isprintable() or " " in text:
        raise bad("it holds signs that no address has")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise bad("it is no address") from None
    if parts.scheme not in ("ws", "wss"):
        raise bad("it must start with ws:// or wss://")
    if "@" in parts.netloc or "?" in text or "#" in text or parts.path not in ("", "/"):
        raise bad("it must be only scheme, host and port")
    host = parts.hostname or ""
    if not host or port == 0:
        raise bad("it needs a host, and a port above 0")
    literal = _literal(host)
    if (literal is None and not host[0].isalnum()) or "\\" in host or "%" in host:
        raise bad("that is no host")
    if literal is not None and literal.is_unspecified:
        raise bad("it names no machine")
    secure = parts.scheme == "wss"
    return Endpoint(text, secure, host, port or (443 if secure else 80), parts.netloc)


async def resolve(endpoint: Endpoint, *, plain: bool, private: bool) -> list[str]:
    """The addresses to connect to, at most MAX_ADDRESSES, as literals.

    Raises PlainRefused and PrivateAddress if any address of the name is one that we may not dial:
    another look-up could return just that one. Raises Unreachable if there is no such name.
    Cancelled: raises Cancelled.

    Args:
        plain: ws:// may leave this machine.
        private: Loopback and local networks are allowed.
    """
    literal = _literal(endpoint.host)
    found = [str(literal)] if literal is not None else await _look_up(endpoint)
    # Check all addresses, not only those that we will try.
    for address in found:
        if not (endpoint.secure or plain or _unwrapped(ip_address(address)).is_loopback):
            raise PlainRefused(endpoint=endpoint.text, address=address)
        if not may_dial(address, private=private):
            raise PrivateAddress(endpoint=endpoint.text, address=address)
    return found[:MAX_ADDRESSES]


def may_dial(address: str, *, private: bool) -> bool:
    """Whether an address is on the public internet; with `private`, also on this machine or
    network.

    Link-local, multicast and unspecified addresses, and those where clouds keep credentials, are
    never allowed.
    """
    parsed = _unwrapped(ip_address(address))
    if any(parsed in net for net in _NEVER) or getattr(parsed, "scope_id", None):
        return False
    if private:
        return True
    if isinstance(parsed, IPv6Address) and parsed not in _PUBLIC_V6:
        return False
    return not any(parsed in net for net in _PRIVATE)


def private_allowed(chain_id: int, asked: bool | None) -> bool:
    """Whether endpoints of a registry may lead to this machine or a local network.

    asked: What the user said. None: nothing; then only those of the development chain may.
    """
    return chain_id == _DEVELOPMENT_CHAIN if asked is None else asked


async def _look_up(endpoint: Endpoint) -> list[str]:
    """All addresses of a name. Raises Unreachable. Cancelled: the look-up continues and holds its
    place."""
    try:
        limiter = _resolving.get()
    except LookupError:
        limiter = trio.CapacityLimiter(_RESOLVING)
        _resolving.set(limiter)
    answers: list[str] = []
    failed: list[Exception] = []
    done = trio.Event()

    async def look_up() -> None:
        try:
            found = await trio.socket.getaddrinfo(
                endpoint.host, endpoint.port, type=trio.socket.SOCK_STREAM
            )
            answers.extend(str(answer[4][0]) for answer in found)
        except Exception as none:  # A system task must not raise: that would end the program.
            failed.append(none)
        finally:
            limiter.release_on_behalf_of(done)
            done.set()

    # A system task outlives a cancelled caller, and so holds its place until the thread is done.
    await limiter.acquire_on_behalf_of(done)
    trio.lowlevel.spawn_system_task(look_up)
    await done.wait()
    if failed:
        why = getattr(failed[0], "strerror", None) or str(failed[0])
        raise Unreachable(f"there is no such name: {why}", endpoint=endpoint.text) from None
    return list(dict.fromkeys(answers))


def _literal(host: str) -> _Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def _unwrapped(address: _Address) -> _Address:
    """The IPv4 address that an IPv6 address carries, if any; otherwise the address itself."""
    if isinstance(address, IPv6Address):
        for net, bits in _CARRY_V4:
            if address in net:
                return IPv4Address(int(address) >> bits & 0xFFFF_FFFF)
    return address
