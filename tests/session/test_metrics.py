"""A live solver's metrics, read as Prometheus reads them; and what a client of that port can do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families
from rogue import sign_unchecked
from session_scene import SECOND, Scene, scene
from trio.testing import MockClock

from psymm._core import SecretKey, sign_frame
from psymm.messages import Reject, encode_text
from psymm.session.protocol import SessionStatus
from psymm.session.runtime.handshake import fresh_nonce, introduce
from psymm.session.runtime.metrics import Metrics
from psymm.session.runtime.metrics_server import MOST_CONNECTIONS, serve_metrics
from psymm.transcript.verifying import FrameVerifier

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def parsed(text: bytes) -> Samples:
    """By the reference parser; each sample once."""
    found: Samples = {}
    for family in text_string_to_metric_families(text.decode()):
        assert family.documentation
        assert family.type in ("counter", "gauge", "histogram")
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found
            found[key] = sample.value
    return found


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, tuple(sorted(labels.items()))]


def buckets(samples: Samples, name: str) -> list[tuple[float, float]]:
    found = [
        (float(dict(labels)["le"]), count)
        for (sample, labels), count in samples.items()
        if sample == f"{name}_bucket"
    ]
    return sorted(found)


async def exchange(port: int, raw: bytes) -> bytes:
    """Send and read to the end."""
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    async with stream:
        await stream.send_all(raw)
        said = b""
        with trio.fail_after(300):
            while True:
                try:
                    more = await stream.receive_some(65_536)
                except trio.BrokenResourceError:
                    return said
                if not more:
                    return said
                said += more


async def scrape(port: int) -> Samples:
    said = await exchange(port, b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
    head, _, body = said.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert b"text/plain; version=0.0.4" in head
    return parsed(body)


async def trading(stage: Scene) -> None:
    await stage.open()
    await stage.report("e1", await stage.order("o1"))
    await stage.agreed()


async def test_a_live_solver_is_scraped_and_its_figures_are_those_of_its_sessions(
    tmp_path: Path,
) -> None:
    async with scene(tmp_path) as stage:
        await trading(stage)
        text = Metrics(stage.server, stage.solver.journal).text
        port = await stage.nursery.start(serve_metrics, text, "127.0.0.1", 0)
        samples = await scrape(port)
        record = stage.far.protocol.record
        traffic = stage.far.statistics().traffic
        for lane, direction in (("trader", "in"), ("solver", "out")):
            count = value(samples, "psymm_frames_total", lane=lane, direction=direction)
            assert count == record.head(0 if lane == "trader" else 1).seq
        assert value(samples, "psymm_bytes_total", direction="in") == traffic.bytes_in
        assert value(samples, "psymm_sessions", state="trading") == 1
        assert value(samples, "psymm_sessions", state="stopped") == 0
        assert value(samples, "psymm_connections_open") == 1
        assert value(samples, "psymm_journal_up") == 1
        assert value(samples, "psymm_acknowledgement_seconds") == 10
        for queue in ("journal", "turns", "outgoing"):
            assert value(samples, "psymm_queue_depth", queue=queue) == 0
        # A journal's own commits may go on between the two looks.
        commits = stage.solver.journal.statistics().commits
        assert 0 < value(samples, "psymm_journal_commit_seconds_count") <= commits
        for name in ("psymm_journal_commit_seconds", "psymm_journal_commit_writes"):
            counts = [count for _, count in buckets(samples, name)]
            assert counts == sorted(counts)
            assert counts[-1] == value(samples, f"{name}_count")


async def test_neither_who_trades_nor_what_is_in_the_metrics(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with scene(tmp_path) as stage:
        await trading(stage)
        text = Metrics(stage.server, stage.solver.journal).text().decode()
        agreement = stage.far.agreement
        for hidden in (
            agreement.custody.hex()[:12],
            agreement.wallet_address(0)[2:14],
            agreement.wallet_address(1)[2:14],
            "BTC",
            "50000",
            "5e+09",
            "2e+09",
        ):
            assert hidden.lower() not in text.lower()


async def test_a_peer_can_make_no_label_of_its_own(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with scene(tmp_path) as stage:
        await trading(stage)
        seq = stage.far.protocol.record.head(1).seq
        for n in range(200):
            sign_unchecked(stage.near, Reject(ref_seq_num=seq, violation=f'x{n}"}} 1\n'))
        await trio.sleep(5)
        before = len(Metrics(stage.server, stage.solver.journal).text())
        samples = parsed(Metrics(stage.server, stage.solver.journal).text())
        assert value(samples, "psymm_rejects_total", direction="in", reason="other") == 200
        assert before < 20_000


async def test_a_refusal_before_a_session_is_counted_by_its_code(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with scene(tmp_path) as stage:
        await stage.nursery.start(stage.server.run)
        async with stage.dial() as socket:
            key = SecretKey.generate().public_key
            poor = introduce(key, fresh_nonce(), 1)
            await socket.send(encode_text(poor))
            await socket.receive()
        samples = parsed(Metrics(stage.server, stage.solver.journal).text())
        assert value(samples, "psymm_refused_total", reason="handshake-refused") == 1


async def test_verification_batches_are_a_histogram_of_their_sizes(tmp_path: Path) -> None:
    verifier = FrameVerifier()
    key = SecretKey.generate()
    domain, custody = bytes(32), bytes(32)
    frames = [
        sign_frame(key, domain, custody, 0, n, custody, 0, custody, n * SECOND, b"{}")
        for n in range(1, 8)
    ]
    await verifier.prefetch([(domain, key.public_key, frame) for frame in frames])
    async with scene(tmp_path) as stage:
        samples = parsed(Metrics(stage.server, stage.solver.journal, verifier).text())
    statistics = verifier.statistics()
    name = "psymm_verification_batch_size"
    assert value(samples, f"{name}_count") == statistics.batches == 1
    assert value(samples, f"{name}_sum") == 7
    counts = dict(buckets(samples, name))
    assert (counts[4.0], counts[8.0]) == (0, 1)
    assert counts[1024.0] == counts[float("inf")] == 1
    assert value(samples, "psymm_queue_depth", queue="verification") == 0


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"404"),
        (b"GET /metrics/../x HTTP/1.1\r\nHost: x\r\n\r\n", b"404"),
        (b"GET /metrics?x=1 HTTP/1.1\r\nHost: x\r\n\r\n", b"200"),
        (b"GET /metrics HTTP/1.0\r\n\r\n", b"200"),
        (b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n", b"405"),
        (b"HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n", b"405"),
        (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", b"400"),
        (b"GET /metrics HTTP/1.1\r\n\r\n", b"400"),
        (b"GET /" + b"a" * 20_000, b"431"),
        (b"", b""),
    ],
)
async def test_any_other_request_is_refused_and_the_next_scrape_works(
    raw: bytes, status: bytes
) -> None:
    async with trio.open_nursery() as nursery:
        port = await nursery.start(serve_metrics, lambda: b"up 1\n", "127.0.0.1", 0)
        if raw:
            said = await exchange(port, raw)
            assert said.split(b" ")[1] == status
            assert (said.endswith(b"up 1\n")) == (status == b"200")
        else:
            await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()
        again = await exchange(port, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        assert again.endswith(b"up 1\n")
        nursery.cancel_scope.cancel()


async def test_clients_that_send_nothing_are_few_and_not_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("psymm.session.runtime.metrics_server.REQUEST_S", 0.5)
    answer: Callable[[], bytes] = lambda: b"up 1\n"  # noqa: E731
    async with trio.open_nursery() as nursery:
        port = await nursery.start(serve_metrics, answer, "127.0.0.1", 0)
        idle = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(MOST_CONNECTIONS)]
        await trio.sleep(0.1)
        assert await exchange(port, b"") == b"", "one too many is closed at once"
        for stream in idle:
            with trio.fail_after(300):
                assert await stream.receive_some(1) == b""
        request = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
        assert (await exchange(port, request)).endswith(b"up 1\n")
        nursery.cancel_scope.cancel()


async def test_a_session_that_waits_for_nothing_shows_where_it_stands(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with scene(tmp_path) as stage:
        await trading(stage)
        await stage.near.log_out("done")
        await trio.sleep(3)
        samples = parsed(Metrics(stage.server, stage.solver.journal).text())
        states = [value(samples, "psymm_sessions", state=state.value) for state in SessionStatus]
        assert sum(states) == stage.server.statistics().sessions
        assert value(samples, "psymm_frames_total", lane="trader", direction="in") > 0
