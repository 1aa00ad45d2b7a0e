"""IdleEnd: offers to settle a custody in which nothing happened for the terms' span.

The span counts from the last frame of business on the record, by the frame's own time. So it
survives restarts, and both sides count alike. If all business lies before the checkpoint at which
this process began, the span counts from that checkpoint.

The solver offers first and the trader a while later, so that two offers rarely cross. A custody
that is not flat cannot be settled: it is only reported and stays open.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import trio

from psymm.errors import PSymmError
from psymm.rulebook import Account
from psymm.session.protocol import NO_BUSINESS, SECOND, Idle, SessionStatus
from psymm.session.runtime.runner import SessionRunner
from psymm.terms import Terms
from psymm.transcript.agreement import TRADER

AFTER_YOU_S: Final = 300
"""Seconds that the trader leaves the first offer to the solver."""
AGAIN_S: Final = 3_600
"""Seconds until the next look, after an offer that failed or an account that was not flat."""
LOOK_S: Final = 60.0
"""The longest sleep, in seconds: the clock may be set."""


class IdleEnd:
    """Watches one custody; start `run` in a nursery.

    Args:
        account: The account, with frames that are not covered yet.
        settle: Offers a settlement.
        told: Receives `Idle` when the span has passed.
        failed: Receives the reason if an offer failed.
    """

    def __init__(
        self,
        runner: SessionRunner,
        terms: Terms,
        account: Callable[[], Account],
        settle: Callable[[], Awaitable[object]],
        told: Callable[[Idle], None],
        failed: Callable[[PSymmError], None],
    ) -> None:
        self._runner = runner
        self._span = terms.timeouts.idle_end
        self._account = account
        self._settle = settle
        self._told = told
        self._failed = failed
        self._seen = [0, 0]
        self._last = 0

    def last_business(self) -> int:
        """Sending time of the last frame of business, in nanoseconds; 0 before the first."""
        record = self._runner.protocol.record
        # A frame may have left memory before we saw it here; the protocol remembers its time.
        self._last = max(self._last, self._runner.protocol.state.business_ns)
        for lane in (0, 1):
            head = record.head(lane).seq
            for seq in range(self._seen[lane] + 1, head + 1):
                entry = record.entry(lane, seq)
                if entry is not None and not isinstance(entry.message, NO_BUSINESS):
                    self._last = max(self._last, entry.frame.sending_time)
            self._seen[lane] = head
        return self._last

    async def run(self) -> None:
        """Run until cancelled, or until the custody has ended. Cancelled: an offer that was signed
        stays signed, as for `SettlementFlow.settle`."""
        not_before = 0
        while self._runner.protocol.status not in (SessionStatus.CLOSED, SessionStatus.STOPPED):
            now = self._runner.clock.now_ns()
            due = max(self.last_business() + self._span, not_before)
            if self._runner.lane == TRADER:
                due += AFTER_YOU_S * SECOND
            if now < due:
                await trio.sleep(min((due - now) / SECOND, LOOK_S))
            elif (
                self._runner.protocol.synced
                and self._runner.protocol.status is SessionStatus.TRADING
            ):
                # Before the offer, which may fail: it must not be repeated at once.
                not_before = now + AGAIN_S * SECOND
                await self._offer()
            else:
                await trio.sleep(LOOK_S)

    async def _offer(self) -> None:
        flat = self._account().flat
        self._told(Idle(since_ns=self._last, flat=flat))
        if flat:
            try:
                await self._settle()
            except PSymmError as failed:
                self._failed(failed)
