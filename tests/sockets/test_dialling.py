"""Which endpoints are dialled: the registry is no weapon against anybody's network."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from psymm.errors import BadEndpoint, HandshakeFailed, PrivateAddress
from psymm.session.runtime.transport import dial
from psymm.sockets.dialling import AT_ONCE, IN_ALL, ask_each
from psymm.sockets.endpoints import (
    MAX_ADDRESSES,
    may_dial,
    parse_endpoint,
    private_allowed,
    resolve,
)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.9.9.9", "10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1",
        "100.64.0.1", "100.127.255.255", "192.0.0.8", "198.18.0.1", "203.0.113.5",
        "::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::a00:1", "2002:7f00:1::", "2002:c0a8:101::1", "2001::1", "fc00::1", "fd12::1",
        "::127.0.0.1", "2001:db8::1",
    ],
)  # fmt: skip
def test_a_machine_of_a_local_network_is_not_public(address: str) -> None:
    assert not may_dial(address, private=False)


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0." + "0", "0.1.2.3", "169.254.169.254", "169.254.0.1", "224.0.0.1", "239.1.1.1",
        "240.0.0.1", "255.255.255.255", "::", "fe80::1", "fe80::1%lo", "ff02::1", "::ffff:0.0.0.0",
        "::ffff:169.254.169.254", "64:ff9b::e000:1", "100.100.100.200", "fd00:ec2::254",
    ],
)  # fmt: skip
def test_what_is_no_peer_anywhere_is_dialled_in_no_case(address: str) -> None:
    assert not may_dial(address, private=True)
    assert not may_dial(address, private=False)


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_the_public_internet_is_dialled(address: str) -> None:
    assert may_dial(address, private=False)


def test_local_networks_are_dialled_on_the_development_chain_and_where_the_user_says_so() -> None:
    assert private_allowed(31_337, None)
    assert not private_allowed(1, None)
    assert private_allowed(1, True)
    assert not private_allowed(31_337, False)


@pytest.mark.parametrize(
    "endpoint",
    [
        "ws://127.0.0.1:1/", "ws://[::1]:1/", "ws://localhost:1/", "ws://2130706433:1/",
        "ws://0x7f000001:1/", "ws://127.1:1/", "ws://0177.0.0.1:1/", "ws://[::ffff:127.0.0.1]:1/",
    ],
)  # fmt: skip
async def test_an_entry_that_leads_to_the_callers_own_machine_is_refused_by_name(
    endpoint: str,
) -> None:
    with pytest.raises(PrivateAddress, match="--private-endpoints"):
        async with dial(endpoint, private=False):
            pass


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://a", "ws://", "ws://u@a/", "ws://a/x", "ws://a/?q", "ws://a/#f", "ws://a:0/",
        "ws://a b/", "ws://a\n/", "ws://\x1b[2J/", "ws://" + "a" * 300, "ws://[fe80::1%25lo]/",
        "ws://a/../", "ws://a:80:80/", "ws://[::1", "ws:/a", "", "ws://\ud800/",
    ],
)  # fmt: skip
async def test_an_endpoint_is_scheme_host_and_port_and_nothing_else(endpoint: str) -> None:
    with pytest.raises(BadEndpoint) as bad:
        async with dial(endpoint, private=False):
            pass
    assert str(bad.value).isprintable(), "it is shown to people"


class Names(trio.abc.HostnameResolver):
    """A resolver that answers differently each time it is asked."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked = 0

    async def getaddrinfo(self, host: Any, port: Any, *_: Any) -> Any:
        answer = self.answers[min(self.asked, len(self.answers) - 1)]
        self.asked += 1
        return [(0, 0, 0, "", (address, port)) for address in answer]

    async def getnameinfo(self, sockaddr: Any, flags: int) -> Any:
        raise NotImplementedError


@pytest.fixture
async def names() -> Names:
    made = Names(["93.184.216.34"], ["127.0.0.1"])
    trio.socket.set_custom_hostname_resolver(made)
    return made


async def test_a_name_is_resolved_once_and_what_was_checked_is_what_is_dialled(
    names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    dialled: list[object] = []

    async def opens(host: object, _port: int) -> trio.SocketStream:
        dialled.append(host)
        raise OSError("on purpose")

    monkeypatch.setattr(trio, "open_tcp_stream", opens)
    with pytest.raises(Exception, match="on purpose"):
        async with dial("wss://rebinds.example/", private=False):
            pass
    assert dialled == ["93.184.216.34"]
    assert names.asked == 1


async def test_a_name_that_leads_here_among_others_is_refused(names: Names) -> None:
    names.answers = [["93.184.216.34", "10.0.0.1"]]
    with pytest.raises(PrivateAddress, match=r"10\.0\.0\.1"):
        await resolve(parse_endpoint("wss://mixed.example/"), plain=False, private=False)


async def test_a_name_with_a_thousand_addresses_is_no_list_of_targets(names: Names) -> None:
    names.answers = [[f"93.184.{at // 250}.{at % 250}" for at in range(1000)]]
    found = await resolve(parse_endpoint("wss://many.example/"), plain=False, private=False)
    assert len(found) == MAX_ADDRESSES


async def test_a_redirect_is_not_followed() -> None:
    heard: list[bytes] = []

    async def elsewhere(stream: trio.SocketStream) -> None:
        heard.append(await stream.receive_some())
        await stream.send_all(
            b"HTTP/1.1 302 Found\r\nLocation: ws://127.0.0.1:1/steal\r\nContent-Length: 0\r\n\r\n"
        )
        await trio.sleep(1)

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listeners[0].socket.getsockname()[1]
        nursery.start_soon(trio.serve_listeners, elsewhere, listeners)
        with pytest.raises(HandshakeFailed, match="302"):
            async with dial(f"ws://127.0.0.1:{port}"):
                pass
        nursery.cancel_scope.cancel()
    (request,) = heard
    head = request.split(b"\r\n")
    assert head[0] == b"GET / HTTP/1.1"
    names = {line.partition(b":")[0].lower() for line in head[1:] if line}
    assert names == {
        b"host", b"upgrade", b"connection", b"sec-websocket-key", b"sec-websocket-version"
    }, "whoever is dialled learns nothing but a handshake"  # fmt: skip


async def test_of_ten_thousand_entries_few_are_asked_at_once_and_few_in_all(
    autojump_clock: trio.testing.MockClock,
) -> None:
    now = most = 0
    asked: list[int] = []

    async def ask(entry: int) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        asked.append(entry)
        await trio.sleep(5)
        now -= 1

    left = await ask_each(range(10_000), ask)
    assert most == AT_ONCE == 16
    assert sorted(asked) == list(range(IN_ALL))
    assert IN_ALL == 64
    assert list(left) == list(range(64, 10_000))


async def test_nobody_else_is_asked_once_there_is_enough(
    autojump_clock: trio.testing.MockClock,
) -> None:
    asked: list[int] = []

    async def ask(entry: int) -> None:
        await trio.sleep(1)
        asked.append(entry)

    left = await ask_each(range(40), ask, enough=lambda: len(asked) >= 3)
    # Two may be begun before the third answer is there.
    assert len(asked) <= AT_ONCE + 2
    assert sorted([*asked, *left]) == list(range(40))


async def test_names_that_resolve_for_ever_take_no_more_threads_than_their_own() -> None:
    slow = SlowNames()
    trio.socket.set_custom_hostname_resolver(slow)

    async def give_up_soon(at: int) -> None:
        with trio.move_on_after(0.01):
            await resolve(parse_endpoint(f"wss://slow{at}.example/"), plain=False, private=False)

    for round_ in range(4):
        async with trio.open_nursery() as nursery:
            for at in range(16):
                nursery.start_soon(give_up_soon, 16 * round_ + at)
    assert slow.running == 16, "though nobody waits for them, they keep their places"
    slow.go_on.set()


class SlowNames(Names):
    """A name server that does not answer; like a thread, a look-up here ends in its own time."""

    def __init__(self) -> None:
        super().__init__(["93.184.216.34"])
        self.running = 0
        self.go_on = trio.Event()

    async def getaddrinfo(self, host: Any, port: Any, *rest: Any) -> Any:
        self.running += 1
        await self.go_on.wait()
        return await super().getaddrinfo(host, port, *rest)
