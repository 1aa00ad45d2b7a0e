"""A solver's statistics as Prometheus metrics, in the text exposition format 0.0.4.

Everything is read when it is scraped; nothing is counted twice for it. Labels have few values:
lanes, directions, states, queues, and reasons from closed sets. No custody, peer, symbol, price or
amount is ever a label or a value. So a reader of the metrics learns how much is going on, but not
what.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from psymm.histogram import Counts
from psymm.journal.writer import Journal
from psymm.session.protocol import SessionStatus
from psymm.session.runtime.solver import SolverServer
from psymm.transcript.verifying import MAX_BATCH, FrameVerifier

Labelled = Sequence[tuple[tuple[str, ...], float]]
"""Each value with the values of its labels."""

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """All metrics of one server.

    Args:
        journal: The server's.
        verifier: The one that its sessions share, if there is one.
    """

    def __init__(
        self, server: SolverServer, journal: Journal, verifier: FrameVerifier | None = None
    ) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Solver(server, journal, verifier))

    def text(self) -> bytes:
        """All metrics as they are now."""
        return generate_latest(self._registry)


class _Solver(Collector):
    def __init__(
        self, server: SolverServer, journal: Journal, verifier: FrameVerifier | None
    ) -> None:
        self._server = server
        self._journal = journal
        self._verifier = verifier

    def describe(self) -> Iterator[Metric]:
        yield from ()

    def collect(self) -> Iterator[Metric]:
        """All metrics, read now."""
        server, journal = self._server.statistics(), self._journal.statistics()
        traffic = server.traffic
        yield _counter(
            "psymm_frames",
            "Frames made durable, by the lane that signed them.",
            ("lane", "direction"),
            [(("trader", "in"), traffic.frames_in), (("solver", "out"), traffic.frames_out)],
        )
        for name, what, come, gone in (
            ("texts", "WebSocket texts.", traffic.texts_in, traffic.texts_out),
            ("bytes", "Bytes of WebSocket messages.", traffic.bytes_in, traffic.bytes_out),
        ):
            counts: Labelled = [(("in",), come), (("out",), gone)]
            yield _counter(f"psymm_{name}", what, ("direction",), counts)
        yield _counter(
            "psymm_rejects",
            "Reject frames, ours (out) and the traders' (in), by the rule that they name.",
            ("direction", "reason"),
            [
                *((("in", reason), n) for reason, n in traffic.rejects_received.items()),
                *((("out", reason), n) for reason, n in traffic.rejects_sent.items()),
            ],
        )
        for name, what, count in (
            ("malformed", "Texts and frames without effect: unreadable or out of place.",
             traffic.malformed),
            ("resend_requests", "Gaps for which a trader was asked to resend.",
             traffic.resends_asked),
            ("frames_resent", "Frames of ours sent again.", traffic.frames_resent),
            ("connections", "Connections that became a session's.", traffic.connections),
        ):  # fmt: skip
            yield _counter(f"psymm_{name}", what, (), [((), count)])
        yield _counter(
            "psymm_disconnects",
            "Connections of sessions that ended, by error code; disconnected: it simply went.",
            ("reason",),
            [((code,), n) for code, n in traffic.disconnects.items()],
        )
        yield _counter(
            "psymm_refused",
            "Peers refused before they had a session, by error code.",
            ("reason",),
            [((code,), n) for code, n in server.refused.items()],
        )
        yield _gauge(
            "psymm_connections_open", "Connections standing.", (), [((), server.connections)]
        )
        yield _gauge(
            "psymm_sessions",
            "Sessions in memory, connected or not.",
            ("state",),
            [((state.value,), server.states.get(state, 0)) for state in SessionStatus],
        )
        queues: list[tuple[tuple[str, ...], float]] = [
            (("journal",), journal.waiting),
            (("turns",), server.waiting),
            (("outgoing",), server.outgoing),
        ]
        if self._verifier is not None:
            queues.append((("verification",), self._verifier.statistics().waiting))
        yield _gauge("psymm_queue_depth", "What waits, by queue.", ("queue",), queues)
        yield _histogram(
            "psymm_journal_commit_seconds",
            "How long a commit takes until the disk has answered.",
            journal.commit_seconds,
        )
        yield _histogram(
            "psymm_journal_commit_writes",
            "Writes that one commit makes durable.",
            journal.commit_writes,
        )
        yield _gauge(
            "psymm_journal_up",
            "1 while the journal can be written.",
            (),
            [((), not journal.broken)],
        )
        yield _gauge(
            "psymm_acknowledgement_seconds",
            "T of the terms: for so long either side can hold a frame back.",
            (),
            [((), self._server.acknowledgement_s)],
        )
        if self._verifier is not None:
            yield from _verification(self._verifier)


def _verification(verifier: FrameVerifier) -> Iterator[Metric]:
    """The metrics of the shared frame verifier."""
    statistics = verifier.statistics()
    bounds = [1]
    while bounds[-1] < MAX_BATCH:
        bounds.append(bounds[-1] * 2)
    sizes = statistics.sizes
    counts = tuple(sizes.get(bound, 0) for bound in bounds)
    beyond = sum(sizes.values()) - sum(counts)
    yield _histogram(
        "psymm_verification_batch_size",
        "Frames whose signatures were verified together.",
        Counts(tuple(float(one) for one in bounds), (*counts, beyond), statistics.frames),
    )
    yield _counter(
        "psymm_verification_refused",
        "Frames that did not verify.",
        (),
        [((), statistics.refused)],
    )
    yield _gauge(
        "psymm_verification_keys_alone",
        "Session keys that are verified alone, since one spoiled a batch.",
        (),
        [((), statistics.spoilers)],
    )


def _counter(name: str, what: str, labels: tuple[str, ...], counts: Labelled) -> Metric:
    family = CounterMetricFamily(name, what, labels=labels)
    for values, count in sorted(counts):
        family.add_metric(values, count)
    return family


def _gauge(name: str, what: str, labels: tuple[str, ...], values: Labelled) -> Metric:
    family = GaugeMetricFamily(name, what, labels=labels)
    for names, value in sorted(values):
        family.add_metric(names, float(value))
    return family


def _histogram(name: str, what: str, counts: Counts) -> Metric:
    buckets: list[tuple[str, float]] = []
    so_far = 0
    for bound, count in zip((*counts.bounds, float("inf")), counts.counts, strict=True):
        so_far += count
        buckets.append(("+Inf" if bound == float("inf") else str(bound), float(so_far)))
    family = HistogramMetricFamily(name, what)
    family.add_metric((), buckets, counts.total)
    return family
