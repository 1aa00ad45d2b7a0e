"""All timeouts of a session, in one table.

`tick` acts on the rows that are due; `next_tick` returns the earliest due time. Each row says when
it is due, None if it is not armed, and what to do then. Rows derive both from the state, so nothing
has to be cancelled. All times are in nanoseconds.

`next_due` notes its answer in `ConnectionState.wake_at`, and `arm` lowers that when an earlier
timeout starts. So the runtime reads the table only when the next due time may have changed. Frames
only postpone timeouts; a tick that comes too early for that finds so with `is_postponed`.
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

    Attributes:
        due: when, nanoseconds; None if nothing is waited for.
        act: what to do then; None if the steps of each tick do it (`steps`).
    """

    due: Callable[[SessionState, ConnectionState], int | None]
    act: Callable[[SessionState, ConnectionState, Effects, int], None] | None


# --- silence -------------------------------------------------------------------------------------


def _silent_at(s: SessionState, connection: ConnectionState) -> int:
    # A TestRequest goes out after 1.5 heartbeats of silence; the peer has one more to answer.
    return connection.last_heard + s.params.heartbeat_ns * 5 // 2


def _end_silence(s: SessionState, connection: ConnectionState, out: Effects, now: int) -> None:
    disconnect(s, out, PeerSilent(silent_s=(now - connection.last_heard) / SECOND))


def _test_at(s: SessionState, connection: ConnectionState) -> int | None:
    if connection.test_sent is not None:
        return None
    return connection.last_heard + s.params.heartbeat_ns * 3 // 2


def _test(s: SessionState, connection: ConnectionState, out: Effects, now: int) -> None:
    connection.test_sent = now
    send_text(s, out, TestRequest(test_req_id=str(now)), now)


def _beat_at(s: SessionState, connection: ConnectionState) -> int:
    return connection.last_sent + s.params.heartbeat_ns


def _beat(s: SessionState, _connection: ConnectionState, out: Effects, now: int) -> None:
    send_text(s, out, Heartbeat(), now)


# --- what we await of the peer -------------------------------------------------------------------


def _agreement_at(s: SessionState, connection: ConnectionState) -> int | None:
    """When heads must agree."""
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


# --- what the peer awaits of us ------------------------------------------------------------------


def _cover_at(s: SessionState, connection: ConnectionState) -> int | None:
    since = connection.uncovered_since
    if since is None or not may_sign(s, s.now):
        return None
    # Beyond its limit of uncovered frames the solver signs nothing but Heartbeats (`spec.md` 67),
    # so its trader covers early.
    return since if many_uncovered(s) else since + s.params.cover_after_ns


def _cover(s: SessionState, _connection: ConnectionState, out: Effects, now: int) -> None:
    cover(s, out, now)


def _clock_at(s: SessionState, _connection: ConnectionState) -> int | None:
    """When our clock catches up with our own lane."""
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
"""Rows for before the steps of a tick: a connection that closes takes no more steps."""

AFTER: Final = (
    Deadline(_cover_at, _cover),
    Deadline(_beat_at, _beat),
    Deadline(_clock_at, None),
    Deadline(_held_at, None),
)
"""Rows for after the steps: a step may have covered or sent what was due."""

ALL: Final = BEFORE + AFTER


def act(
    rows: tuple[Deadline, ...],
    s: SessionState,
    connection: ConnectionState,
    out: Effects,
    now: int,
) -> None:
    """Act on the rows that are due, in order, until one closes the connection."""
    for row in rows:
        if connection.closing is not None:
            return
        due = row.due(s, connection)
        if due is not None and now >= due and row.act is not None:
            row.act(s, connection, out, now)


def next_due(s: SessionState, connection: ConnectionState | None, now: int) -> int:
    """When to call `act` next, nanoseconds. Never more than one heartbeat away."""
    if connection is None or connection.closing is not None:
        return now + s.params.heartbeat_ns
    return _wake(connection, _soonest(s, connection, now), now)


def is_postponed(s: SessionState, connection: ConnectionState, now: int) -> bool:
    """Whether business has postponed all that was due; then `wake_at` is set anew.

    Frames that come and go postpone timeouts, but do not touch `wake_at`: it is a lower bound.
    """
    soonest = _soonest(s, connection, now)
    if soonest <= now or connection.closing is not None:
        return False
    _wake(connection, soonest, now)
    return True


def _soonest(s: SessionState, connection: ConnectionState, now: int) -> int:
    soonest = now + s.params.heartbeat_ns
    for row in ALL:
        due = row.due(s, connection)
        if due is not None and due < soonest:
            soonest = due
    return soonest


def _wake(connection: ConnectionState, soonest: int, now: int) -> int:
    connection.wake_at = max(soonest, now + RESOLUTION_NS)
    return connection.wake_at


__all__ = ["AFTER", "BEFORE", "act", "is_postponed", "next_due"]
