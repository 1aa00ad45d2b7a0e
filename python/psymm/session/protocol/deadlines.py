"""What falls due by itself: one table, read by `tick` (what is due now?) and by `next_tick` (when
does the next fall due?).

Each row says when it is due, None where nothing is, and what is done then.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from psymm.errors import PeerSilent
from psymm.messages import Heartbeat, TestRequest
from psymm.session.protocol import gaps, holding, recovery
from psymm.session.protocol.budget import SECOND
from psymm.session.protocol.effects import Effects
from psymm.session.protocol.signing import (
    cover,
    disconnect,
    many_uncovered,
    may_sign,
    send_text,
)
from psymm.session.protocol.state import ConnectionState, SessionState

RESOLUTION_NS: Final = SECOND // 100
"""Two ticks are at least this far apart."""


@dataclass(frozen=True, slots=True)
class Deadline:
    """One row.

    due: when, nanoseconds; None where nothing is waited for.
    act: what is done once it is due; None where `advance`, which follows each tick, does it.
    """

    due: Callable[[SessionState, ConnectionState], int | None]
    act: Callable[[SessionState, ConnectionState, Effects, int], None] | None


def beat_ns(s: SessionState) -> int:
    """Between two signs of life."""
    return s.params.heartbeat_s * SECOND


# --- silence -------------------------------------------------------------------------------------


def _silent_at(s: SessionState, connection: ConnectionState) -> int:
    return connection.last_heard + beat_ns(s) * 5 // 2


def _end_silence(s: SessionState, connection: ConnectionState, out: Effects, now: int) -> None:
    disconnect(s, out, PeerSilent(silent_s=(now - connection.last_heard) / SECOND))


def _test_at(s: SessionState, connection: ConnectionState) -> int | None:
    if connection.test_sent is not None:
        return None
    return connection.last_heard + beat_ns(s) * 3 // 2


def _test(s: SessionState, connection: ConnectionState, out: Effects, now: int) -> None:
    connection.test_sent = now
    send_text(s, out, TestRequest(test_req_id=str(now)), now)


def _beat_at(s: SessionState, connection: ConnectionState) -> int:
    return connection.last_sent + beat_ns(s)


def _beat(s: SessionState, _connection: ConnectionState, out: Effects, now: int) -> None:
    send_text(s, out, Heartbeat(), now)


# --- what the peer owes --------------------------------------------------------------------------


def _agreement_at(s: SessionState, connection: ConnectionState) -> int | None:
    """Heads that agree."""
    return None if connection.synced else connection.progress + s.params.response_timeout_ns


def _no_agreement(s: SessionState, connection: ConnectionState, out: Effects, _now: int) -> None:
    late = PeerSilent("the peer did not resume in time")
    disconnect(s, out, connection.peer_behind or late)


def _logon_at(s: SessionState, connection: ConnectionState) -> int | None:
    logons = s.lifecycle.logons
    if not connection.synced or logons[s.lane] is None or logons[s.peer] is not None:
        return None
    return connection.progress + s.params.response_timeout_ns


def _no_logon(s: SessionState, _connection: ConnectionState, out: Effects, _now: int) -> None:
    disconnect(s, out, PeerSilent("the peer did not log on in time"))


def _final_at(s: SessionState, connection: ConnectionState) -> int | None:
    since = connection.final_since
    return None if since is None else since + s.params.response_timeout_ns


def _no_final(s: SessionState, _connection: ConnectionState, out: Effects, _now: int) -> None:
    disconnect(s, out, PeerSilent("the peer did not take our last frames in time"))


def _openings_at(s: SessionState, connection: ConnectionState) -> int | None:
    since = connection.openings_awaited_since
    return None if since is None else since + s.params.response_timeout_ns


def _no_openings(s: SessionState, _connection: ConnectionState, out: Effects, _now: int) -> None:
    disconnect(s, out, PeerSilent("the peer did not open its notes in time"))


def _dispute_at(_s: SessionState, connection: ConnectionState) -> int | None:
    return None if connection.dispute is None else connection.dispute_until


def _end_dispute(s: SessionState, connection: ConnectionState, out: Effects, _now: int) -> None:
    if connection.dispute is not None:
        disconnect(s, out, connection.dispute)


def _gap_at(_s: SessionState, connection: ConnectionState) -> int | None:
    return connection.gap.due


def _ask_again(s: SessionState, connection: ConnectionState, out: Effects, _now: int) -> None:
    gaps.ask_again(s, connection, out)


def _recovery_at(_s: SessionState, connection: ConnectionState) -> int | None:
    return connection.recovery_due


# --- what we owe ---------------------------------------------------------------------------------


def _cover_at(s: SessionState, connection: ConnectionState) -> int | None:
    since = connection.uncovered_since
    if since is None or not may_sign(s, s.now):
        return None
    return since if many_uncovered(s) else since + s.params.cover_after_ns


def _cover(s: SessionState, _connection: ConnectionState, out: Effects, now: int) -> None:
    cover(s, out, now)


def _clock_at(s: SessionState, _connection: ConnectionState) -> int | None:
    """When our clock has caught up with our own lane."""
    if not s.clock_behind:
        return None
    return s.record.heads[s.lane].sending_time - s.params.skew_ns


def _held_at(s: SessionState, _connection: ConnectionState) -> int | None:
    due = holding.due(s)
    return due if due is not None and due > s.now else None


BEFORE: Final = (
    Deadline(_dispute_at, _end_dispute),
    Deadline(_silent_at, _end_silence),
    Deadline(_test_at, _test),
    Deadline(_agreement_at, _no_agreement),
    Deadline(_logon_at, _no_logon),
    Deadline(_final_at, _no_final),
    Deadline(_openings_at, _no_openings),
    Deadline(_gap_at, _ask_again),
    Deadline(_recovery_at, recovery.ask),
)
"""Acted on before a tick takes the steps that are due."""

AFTER: Final = (
    Deadline(_cover_at, _cover),
    Deadline(_beat_at, _beat),
    Deadline(_clock_at, None),
    Deadline(_held_at, None),
)
"""Acted on after it: a step may have covered, or sent, what was due."""

ALL: Final = BEFORE + AFTER


def act(
    rows: tuple[Deadline, ...],
    s: SessionState,
    connection: ConnectionState,
    out: Effects,
    now: int,
) -> None:
    """Do what is due of these rows, in their order, until the connection is being ended."""
    for row in rows:
        if connection.closing is not None:
            return
        due = row.due(s, connection)
        if due is not None and now >= due and row.act is not None:
            row.act(s, connection, out, now)


def next_due(s: SessionState, connection: ConnectionState | None, now: int) -> int:
    """When `act` should next be called, nanoseconds; never more than a heartbeat away."""
    beat = beat_ns(s)
    if connection is None or connection.closing is not None:
        return now + beat
    soonest = now + beat
    for row in ALL:
        due = row.due(s, connection)
        if due is not None and due < soonest:
            soonest = due
    connection.wake_at = max(soonest, now + RESOLUTION_NS)
    return connection.wake_at


__all__ = ["AFTER", "BEFORE", "act", "next_due"]
