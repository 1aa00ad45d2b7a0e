"""Custodies that have ended before their solver had the trader's last frame.

Nobody goes on with such a custody, so a trader that starts again brings what is left of it first:
else the solver's copy of it never ends.
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
    """Dial the solver of every custody that has ended and bring it the frames that it may lack;
    returns how many solvers have all now.

    Begin it before any session: of a custody that ends later, its own session takes care. Reports
    how many there are once that is known. Each is tried for as long as a session waits for an
    answer; what could not be brought then stays in `Journal.undelivered`. dial: how to reach
    the solver of a custody, by default where it was met. plain: by ws:// to other machines, too.
    Raises JournalError. Cancelled: raises Cancelled; what was not brought is brought next time.
    """
    party = client.party if isinstance(client, Client) else client
    owing = await party.journal.undelivered()
    task_status.started(len(owing))
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
    session = TraderSession(party, dial, lambda event: None, resume=custody, backoff=backoff)
    try:
        await session.run()
    except* (JournalError, StorageError):
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
