"""A solver's callbacks are called as soon as it is asked, once for each thing asked."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import trio
from market import market
from trio.testing import MockClock

from psymm.api import BUY, IncomingQuoteRequest


async def test_a_request_is_answered_while_it_is_on_its_way_to_the_disk_and_once(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with market(tmp_path) as trading:
        asked: list[str] = []
        inner = trading.maker.on_quote_request

        async def counted(request: IncomingQuoteRequest) -> None:
            asked.append(request.request.quote_req_id)
            await inner(request)

        trading.maker.on_quote_request = counted  # type: ignore[method-assign]
        journal: Any = trading.maker.party.journal
        held: list[Any] = []
        journal.write_soon = lambda *write: held.append(write)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trading.session.request_quote, "BTC-USD", "0.01", BUY)
            await trio.sleep(1)
            assert len(asked) == 1
            del journal.write_soon
            for write in held:
                journal.write_soon(*write)
        assert len(asked) == 1
        quote = await trading.session.request_quote("BTC-USD", "0.01", BUY)
        assert len(asked) == 2
        order = await trading.session.order(BUY, "BTC-USD", "0.01", quote=quote)
        result = await order.result()
        assert (result.status, result.filled) == ("filled", Decimal("0.01"))
        await trading.agreed()
