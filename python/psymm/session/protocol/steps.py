"""What comes before and after each input: the clock, and every step that is due.

Every input of a session passes the same three steps:

    1. `_enter` reads the clock.
    2. The input's handler changes the state and adds effects (`dispatch`).
    3. `_finish`: `_advance` takes every step that is due, and `_leave` reports a new status.

The next step is always derived from the record, never from the position in a script. So a process
that died at any point continues from its journal.
"""

from __future__ import annotations

from psymm.session.protocol import (
    checkpoints,
    collateral,
    final_ack,
    keys,
    lifecycle,
    logon,
    resume,
    ruling,
    signing,
)
from psymm.session.protocol.effects import Effects, KeyChanged, OwnClockBehind
from psymm.session.protocol.state import ConnectionState, SessionState, arm
from psymm.session.protocol.status import SessionStatus
from psymm.session.protocol.views import SessionView


class SessionSteps(SessionView):
    """One end of a session, with the steps that all of its inputs share."""

    def __init__(self, state: SessionState) -> None:
        super().__init__(state)
        self._owed: Effects = []
        """Effects of an input that raised. The next input returns them first."""

    def _enter(self, now: int, *, heard: bool = False, steps: bool = False) -> Effects:
        """Read the clock, and return the effects left over from an input that raised.

        The clock may have been set back; timers then restart from `now`.

        Args:
            now: our clock, nanoseconds.
            heard: the peer sent something.
            steps: more than business may be due after this input.
        """
        s, connection = self.state, self.state.connection
        out, self._owed = self._owed, []
        if steps:
            s.attention = True
        if connection is not None:
            if now < s.now:
                _set_back(connection, now)
            if heard:
                connection.last_heard, connection.test_sent = now, None
        s.now = now
        # Our lane may be ahead of our clock: the process ran on another host, or the clock was set
        # back. Frames signed now would be dated in the future (`spec.md` 66).
        if s.clock_behind or s.record.heads[s.lane].sending_time > now:
            self._look_at_clock(out, now)
        return out

    def _finish(self, out: Effects, now: int) -> Effects:
        """The third step; returns all effects of the input."""
        s = self.state
        if len(s.record.entries) >= s.params.checkpoint_frames or (
            s.rulebook is not None and s.rulebook.near_limit
        ):
            s.attention = True
        # While only business goes on, nothing is due. This is tested for every frame.
        if s.attention or s.rejects:
            self._advance(out, now)
            self._leave(out)
        return out

    def _look_at_clock(self, out: Effects, now: int) -> None:
        s = self.state
        behind = signing.clock_behind(s, now)
        if behind is not None and not s.clock_behind:
            out.append(OwnClockBehind(behind))
            if s.connection is not None:
                arm(s.connection, s.record.heads[s.lane].sending_time - s.params.skew_ns)
        s.clock_behind = behind is not None

    def _advance(self, out: Effects, now: int) -> None:
        """Take every step that is due, until none is. Safe to call at any time.

        The order matters: release, agree on heads, change the key, reject, step, checkpoint.
        """
        s, connection = self.state, self.state.connection
        if not s.attention:
            # Business only: no step can be due, but a Reject must still go out first.
            if s.rejects:
                ruling.flush_rejects(s, out, now)
            return
        # Held frames first: their effects may change every answer below.
        ruling.release(s, out, now)
        if s.error is not None or connection is None:
            return
        # Nothing is signed before heads agree. The frames of this input may have completed them.
        if not connection.synced:
            resume.try_sync(s, connection, out, now)
        # The key change comes before any other frame: the old key may already be unusable.
        if s.recovery.health == "complete" and (
            connection.synced or resume.lacks_only_void(s, connection)
        ):
            self._change_key(out, now)
        if signing.may_sign(s, now) and signing.within_limit(s):
            # A Reject must be our first frame to cover what it rejects, so it precedes all steps.
            ruling.flush_rejects(s, out, now)
            while s.error is None and logon.step(s, out, now):
                pass
            collateral.await_openings(s, now)
            if s.lifecycle.logons[s.lane] is not None and signing.may_sign(s, now):
                # The checkpoint comes last: it counts the frames signed above and reads the status.
                lifecycle.restate(s, out)
                checkpoints.advance(s, out, now)
                checkpoints.compare(s, out, now)
        if s.error is None and connection.synced:
            final_ack.advance(s, connection, out, now)

    def _change_key(self, out: Effects, now: int) -> None:
        """Sign the UKY of our next key."""
        s = self.state
        # A key needs a Logon to follow; a settled custody needs no key any more.
        if s.lifecycle.logons[s.lane] is None or s.lifecycle.settled is not None:
            return
        found = keys.take_next(s, now)
        if found is not None:
            # The UKY is the first frame under the new key: it is signed by the key it delegates.
            s.keys.key, s.keys.next_key = found[0], None
            signing.sign(s, out, found[1], now)
            out.append(KeyChanged(found[0].public_key))

    def _leave(self, out: Effects) -> Effects:
        s = self.state
        if s.attention:
            lifecycle.restate(s, out)
            checkpoints.take_effect(s, out)
            # False from here on: frames of business skip these steps until something sets it.
            s.attention = not self._only_business()
            keys.note_limits(s)
            if s.connection is not None:
                s.connection.wake_at = 0  # Any deadline may have changed.
        return out

    def _only_business(self) -> bool:
        """Whether no step is due or under way. Frames of business alone cannot change that."""
        s = self.state
        return (
            s.status is SessionStatus.TRADING
            and s.synced
            and not s.held
            and not s.keys.next_key
            and s.mined is None
            and s.lifecycle.logouts[0] == s.lifecycle.logouts[1]
            and s.rulebook is not None
            and not s.rulebook.waits
            and not checkpoints.is_wanted(s)
            and not s.rulebook.offer_stands()
            and s.rulebook.disputed is s.checkpoints.seen_dispute
            and len(s.record.entries) < s.params.checkpoint_frames
            and not s.rulebook.near_limit
        )


def _set_back(connection: ConnectionState, now: int) -> None:
    # Timestamps in the future would postpone every timeout by the amount the clock was set back.
    connection.last_sent = min(connection.last_sent, now)
    connection.last_heard = min(connection.last_heard, now)
    connection.progress = min(connection.progress, now)
    if connection.uncovered_since is not None:
        connection.uncovered_since = min(connection.uncovered_since, now)
