"""Delivers the last frames of custodies that ended before their solver had them.

Nobody continues with such a custody. So a trader that starts again first delivers what is left of
it; otherwise the solver's copy never ends.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable

import trio

from psymm.api.client import Client
from psymm.errors import JournalError, PSymmError
from psymm.journal.codec import JournalledCustody
from psymm.session.runtime.party import LocalParty
from psymm.session.runtime.trader import Backoff, Dialer, TraderSession, dialer
from psymm.storage import StorageError

log = logging.getLogger(__name__)


async def deliver_ended(
    client: Client | LocalParty,
    *,
    tls: ssl.SSLContext | None = None,
    plain: bool = False,
    dial: Callable[[JournalledCustody], Dialer] | None = None,
    backoff: Backoff | None = None,
    task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED,
) -> int:
    """Dial the solver of every custody that has ended and send it the frames that it may lack.
    Returns how many solvers now have all.

    Start it before any session; a custody that ends later is its own session's business. Reports
    how many custodies there are as soon as it knows. Each is tried for as long as a session waits
    for an answer. What could not be delivered by then stays in `Journal.undelivered`.
    Raises JournalError. Cancelled: raises Cancelled; the rest is delivered next time.

    Args:
        plain: Whether ws:// may go to other machines.
        dial: How to reach the solver of a custody; by default at its endpoint in the journal.
    """
    party = client.party if isinstance(client, Client) else client
    owing = await party.journal.undelivered()
    task_status.started(len(owing))
    # Each has a task of its own: a solver that does not answer delays no other.
    async with trio.open_nursery() as nursery:
        for custody in owing:
            near = party.dials_private
            reach = (
                dialer(custody.endpoint, tls, plain=plain, private=near)
                if dial is None
                else dial(custody)
            )
            nursery.start_soon(_deliver, party, custody, reach, backoff)
    left = {one.agreement.custody for one in await party.journal.undelivered()}
    return sum(one.agreement.custody not in left for one in owing)


async def _deliver(
    party: LocalParty, custody: JournalledCustody, dial: Dialer, backoff: Backoff | None
) -> None:
    """Deliver to one solver. Logs a failure; raises only for our own journal."""
    session = TraderSession(party, dial, lambda event: None, resume=custody, backoff=backoff)
    try:
        await session.run()
    except* (JournalError, StorageError):
        # Our own journal failed, so no other custody can be delivered either.
        raise
    except* PSymmError as refused:
        log.warning(
            "not-delivered",
            extra={
                "custody": "0x" + custody.agreement.custody.hex(),
                "code": getattr(refused.exceptions[0], "code", "refused"),
            },
        )


__all__ = ["deliver_ended"]
