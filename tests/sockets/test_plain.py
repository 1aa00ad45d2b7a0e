"""ws:// stays on this machine unless asked for (spec.md 61), whatever a name stands for."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from psymm.cli import run
from psymm.errors import PlainRefused, Unreachable
from psymm.relayer.errors import RelayerDead
from psymm.relayer.sender import _conversation
from psymm.session.runtime.transport import WebSocket, dial, listen
from psymm.sockets.dialling import check_plain

ELSEWHERE = "192.0.2.1"  # RFC 5737: nobody's


class Names(trio.abc.HostnameResolver):
    """Says in turn what each look-up finds; the last answer stays."""

    def __init__(self, *answers: tuple[str, ...]) -> None:
        self.answers = list(answers)
        self.asked = 0

    async def getaddrinfo(self, host: Any, port: Any, *rest: Any) -> Any:
        self.asked += 1
        found = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return [
            (
                trio.socket.AF_INET6 if ":" in one else trio.socket.AF_INET,
                trio.socket.SOCK_STREAM,
                6,
                "",
                (one, port, 0, 0) if ":" in one else (one, port),
            )
            for one in found
        ]

    async def getnameinfo(self, sockaddr: Any, flags: int) -> Any:
        raise NotImplementedError


@pytest.fixture
def names() -> Any:
    def use(*answers: tuple[str, ...]) -> Names:
        made = Names(*answers)
        trio.socket.set_custom_hostname_resolver(made)
        return made

    return use


async def say_hello(socket: WebSocket) -> None:
    await socket.send("hello")


@asynccontextmanager
async def greeter() -> AsyncGenerator[int, None]:
    async with trio.open_nursery() as nursery:
        yield await nursery.start(listen, "127.0.0.1", 0, say_hello)
        nursery.cancel_scope.cancel()


async def hear(endpoint: str, **given: Any) -> object:
    async with dial(endpoint, **given) as socket:
        return await socket.receive()


@pytest.mark.parametrize(
    "endpoint",
    [
        f"ws://{ELSEWHERE}:9100/",
        "ws://10.0.0.1:9100/",
        "ws://[2001:db8::1]:9100/",
        "ws://[::ffff:192.0.2.1]:9100/",
    ],
)
async def test_a_plain_endpoint_of_another_machine_is_refused_before_a_byte_is_sent(
    endpoint: str,
) -> None:
    with pytest.raises(PlainRefused, match="wss://"):
        await hear(endpoint)
    with pytest.raises(PlainRefused):
        await check_plain(endpoint, False)
    await check_plain(endpoint, True)


async def test_loopback_needs_no_tls() -> None:
    async with greeter() as port:
        assert await hear(f"ws://127.0.0.1:{port}/") == "hello"
    await check_plain("ws://127.0.0.1:9100/", False)
    await check_plain("ws://[::1]:9100/", False)
    await check_plain("wss://solver.example:9100/", False)


@pytest.mark.parametrize(
    "found", [(ELSEWHERE,), ("127.0.0.1", ELSEWHERE), (ELSEWHERE, "127.0.0.1")]
)
async def test_every_address_of_a_name_is_loopback_or_it_is_refused(
    names: Any, found: tuple[str, ...]
) -> None:
    names(found)
    with pytest.raises(PlainRefused, match=ELSEWHERE.replace(".", r"\.")):
        await hear("ws://solver.example:9100/")


async def test_what_was_checked_is_what_is_dialled(names: Any) -> None:
    async with greeter() as port:
        # A name server that answers differently the second time.
        known = names(("127.0.0.1",), (ELSEWHERE,))
        assert await hear(f"ws://solver.example:{port}/") == "hello"
        assert known.asked == 1


async def test_asked_for_it_goes_anywhere(names: Any) -> None:
    async with greeter() as port:
        names(("127.0.0.1",))
        assert await hear(f"ws://solver.example:{port}/", plain=True) == "hello"


async def test_a_name_that_nobody_has_is_unreachable() -> None:
    with pytest.raises(Unreachable):
        await check_plain("ws://no-such-host.invalid:9100/", False)


async def test_a_plain_relayer_elsewhere_counts_as_dead_and_hears_nothing() -> None:
    with pytest.raises(RelayerDead, match="plain-refused"):
        async with _conversation(f"ws://{ELSEWHERE}:9200/", 5, None, False, True):
            raise AssertionError("it was dialled")


def test_no_entry_for_a_plain_endpoint_elsewhere_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = ["--role", "solver", "--endpoint", f"ws://{ELSEWHERE}:1/", "--home", str(tmp_path)]
    assert run(["registry", "register", *entry, "--json", "--password-fd", "0"]) != 0
    said = capsys.readouterr()
    assert "plain-refused" in said.out + said.err
