"""wss: who cannot prove its name is not spoken to, and a renewed certificate needs no restart."""

from __future__ import annotations

import os
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio
from certificates import Authority, Files

from psymm.errors import (
    BadEndpoint,
    CertificateInvalid,
    Disconnected,
    HandshakeFailed,
    PSymmError,
    ServerBusy,
    TlsRefused,
    Unreachable,
)
from psymm.session.runtime.transport import WebSocket, dial, listen
from psymm.sockets.tls import Certificate, client_context, password_file, password_variable


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


async def echo(socket: WebSocket) -> None:
    try:
        while True:
            await socket.send(await socket.receive())
    except PSymmError:
        return


@asynccontextmanager
async def served(tls: Certificate | ssl.SSLContext | None) -> AsyncGenerator[int, None]:
    async def serve(*, task_status: trio.TaskStatus[int]) -> None:
        await listen("127.0.0.1", 0, echo, tls=tls, task_status=task_status)

    async with trio.open_nursery() as nursery:
        yield await nursery.start(serve)
        nursery.cancel_scope.cancel()


async def talk(endpoint: str, tls: ssl.SSLContext | None = None) -> None:
    with trio.fail_after(300):
        async with dial(endpoint, tls) as socket:
            await socket.send("hello")
            assert await socket.receive() == "hello"


def of(files: Files) -> Certificate:
    return Certificate(files.chain, files.key)


async def test_a_server_with_a_certificate_of_our_authority_is_spoken_to(
    authority: Authority,
) -> None:
    async with served(of(authority.issue("good"))) as port:
        await talk(f"wss://127.0.0.1:{port}", client_context(authority.file))


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("expired", "expired"),
        ("not yet", "not yet valid"),
        ("wrong host", "mismatch"),
        ("self-signed", "self-signed"),
    ],
)
async def test_a_certificate_that_proves_nothing_is_refused_by_name(
    authority: Authority, kind: str, words: str
) -> None:
    files = {
        "expired": lambda: authority.issue("old", days=(-30, -1)),
        "not yet": lambda: authority.issue("young", days=(10, 30)),
        "wrong host": lambda: authority.issue("other", address="192.0.2.1"),
        "self-signed": lambda: authority.issue("self", self_signed=True),
    }[kind]()
    async with served(of(files)) as port:
        with pytest.raises(TlsRefused, match=words):
            await talk(f"wss://127.0.0.1:{port}", client_context(authority.file))


async def test_the_systems_authorities_do_not_vouch_for_a_private_one(
    authority: Authority,
) -> None:
    async with served(of(authority.issue("good"))) as port:
        with pytest.raises(TlsRefused):
            await talk(f"wss://127.0.0.1:{port}")


async def test_tls_1_1_is_not_spoken(authority: Authority) -> None:
    old = client_context(authority.file)
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        old.minimum_version = ssl.TLSVersion.TLSv1
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    async with served(of(authority.issue("good"))) as port:
        with pytest.raises(TlsRefused):
            await talk(f"wss://127.0.0.1:{port}", old)


async def test_plain_ws_to_a_wss_port_is_named(authority: Authority) -> None:
    async with served(of(authority.issue("good"))) as port:
        with pytest.raises(HandshakeFailed, match="wss"):
            await talk(f"ws://127.0.0.1:{port}")


async def test_wss_to_a_plain_port_is_named(authority: Authority) -> None:
    async with served(None) as port:
        with pytest.raises(TlsRefused):
            await talk(f"wss://127.0.0.1:{port}", client_context(authority.file))


async def test_a_peer_that_fails_its_tls_handshake_ends_alone(authority: Authority) -> None:
    async with served(of(authority.issue("good"))) as port:
        for noise in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\x05hello", b""):
            stream = await trio.open_tcp_stream("127.0.0.1", port)
            if noise:
                await stream.send_all(noise)
            await stream.aclose()
        await talk(f"wss://127.0.0.1:{port}", client_context(authority.file))


async def test_a_renewed_certificate_serves_the_next_connection_and_the_old_one_goes_on(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("psymm.sockets.tls.LOOK_S", 0.0)
    files = authority.issue("server", days=(-30, 1))
    certificate = of(files)
    trust = client_context(authority.file)
    async with (
        served(certificate) as port,
        dial(f"wss://127.0.0.1:{port}", trust) as standing,
    ):
        renewed = authority.issue("renewed")
        os.replace(renewed.chain, files.chain)
        # Half way: chain and key do not fit, and the old pair goes on serving.
        await talk(f"wss://127.0.0.1:{port}", trust)
        assert certificate.renewals == 0
        os.replace(renewed.key, files.key)
        await talk(f"wss://127.0.0.1:{port}", trust)
        assert certificate.renewals == 1
        await standing.send("as before")
        assert await standing.receive() == "as before"


async def test_a_key_with_a_passphrase_is_opened_from_a_file_or_the_environment(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = authority.issue("sealed", password=b"correct horse")
    secret = tmp_path / "secret"
    secret.write_bytes(b"correct horse\n")
    monkeypatch.setenv("TEST_TLS_PASSWORD", "correct horse")
    for password in (password_file(secret), password_variable("TEST_TLS_PASSWORD")):
        Certificate(files.chain, files.key, password=password)
    secret.write_bytes(b"wrong\n")
    with pytest.raises(CertificateInvalid) as wrong:
        Certificate(files.chain, files.key, password=password_file(secret))
    assert "wrong" not in str(wrong.value).replace("wrong password", "")
    secret.write_bytes(b"x" * 2_000)
    with pytest.raises(CertificateInvalid, match="longer"):
        Certificate(files.chain, files.key, password=password_file(secret))
    with pytest.raises(CertificateInvalid, match="passphrase"):
        Certificate(files.chain, files.key)


async def test_files_that_hold_no_certificate_are_named(
    authority: Authority, tmp_path: Path
) -> None:
    good = authority.issue("good")
    other = authority.issue("other")
    with pytest.raises(CertificateInvalid, match="cannot be read"):
        Certificate(tmp_path / "missing", good.key)
    with pytest.raises(CertificateInvalid, match="cannot be used"):
        Certificate(good.chain, other.key)
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(CertificateInvalid):
        client_context(tmp_path / "empty")
    with pytest.raises(CertificateInvalid):
        client_context(tmp_path / "missing")


async def answering(text: bytes) -> tuple[int, trio.SocketListener]:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    return listener.socket.getsockname()[1], listener


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"HTTP/1.1 503 Busy\r\nRetry-After: 7\r\nContent-Length: 4\r\n\r\nbusy", ServerBusy),
        (b"HTTP/1.1 503 Busy\r\n\r\n", ServerBusy),
        (b"HTTP/1.1 404 Nothing\r\nContent-Length: 0\r\n\r\n", HandshakeFailed),
        (b"HTTP/1.1 200 Fine\r\nContent-Length: 999999\r\n\r\n" + bytes(70_000), Disconnected),
        (b"SSH-2.0-something\r\n", HandshakeFailed),
        (b"HTTP/1.1 101 X\r\nA: " + b"a" * 70_000, Disconnected),
        (b"", HandshakeFailed),
    ],
    ids=["503", "503 without a body", "404", "200 without end", "ssh", "endless header", "drop"],
)
async def test_a_server_that_opens_no_websocket_is_named_at_once(
    answer: bytes, kind: type[Exception]
) -> None:
    port, listener = await answering(answer)

    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some(4096)
        with suppress(trio.BrokenResourceError):
            await stream.send_all(answer)
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        with pytest.raises(kind) as failed:
            await talk(f"ws://127.0.0.1:{port}")
        if kind is ServerBusy:
            assert isinstance(failed.value, ServerBusy)
        if b"Retry-After" in answer:
            assert failed.value.values["retry_after_s"] == 7
        nursery.cancel_scope.cancel()


async def test_a_name_that_nobody_has_is_named() -> None:
    with pytest.raises(Unreachable):
        await talk("ws://no-such-host.invalid:9100")


@pytest.mark.parametrize(
    "endpoint", ["http://a", "ws://", "wss://[::1", "ws://a:99999", "nonsense"]
)
async def test_an_endpoint_that_is_none_is_named(endpoint: str) -> None:
    with pytest.raises(BadEndpoint):
        await talk(endpoint)
