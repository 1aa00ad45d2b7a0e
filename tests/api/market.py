"""A solver class and what connects a trader's API to it in memory."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from psymm.api import (
    IncomingOrder,
    IncomingQuoteRequest,
    Prices,
    Session,
    Solver,
    SolverSession,
    connect,
)
from psymm.chain.registry import RegistryEntry, Role
from psymm.errors import PSymmError

sys.path.insert(0, str(Path(__file__).parent.parent / "session"))

from session_scene import TOKEN, ChainCollateral, Scene, scene


class Maker(Solver):
    """Quotes 10 around a price, fills as it is told to."""

    manner = "fill"

    async def on_prices(self, symbol: str) -> Prices:
        return Prices(bid="49990", ask="50010")

    async def on_quote_request(self, request: IncomingQuoteRequest) -> None:
        if request.quantity > 1:
            await request.reject("too much")
        else:
            await request.quote(bid="49990", ask="50010", valid_s=60)

    async def on_order(self, order: IncomingOrder) -> None:
        if self.manner == "fill":
            await order.fill()
        elif self.manner == "halves":
            half = order.leaves / 2
            await order.fill(quantity=half)
            await trio.sleep(1)
            await order.fill()
        elif self.manner == "decline":
            await order.decline("not now")
        elif self.manner == "lock":
            await order.lock()
        elif self.manner == "raise":
            raise RuntimeError("a bug in the callback")

    async def on_failure(self, session: SolverSession, error: PSymmError) -> None:
        self.failures = [*getattr(self, "failures", []), error]


class Market:
    def __init__(self, stage: Scene, maker: Maker, session: Session) -> None:
        self.stage = stage
        self.maker = maker
        self.session = session

    @property
    def far(self) -> SolverSession:
        (session,) = self.maker.sessions.values()
        return session

    async def agreed(self) -> None:
        """Both accounts are the same once each has what the other sent."""
        await trio.sleep(5)
        near, far = self.session.runner.protocol.record, self.far.runner.protocol.record
        assert [near.head(lane) for lane in (0, 1)] == [far.head(lane) for lane in (0, 1)]
        assert self.session.account.hash == self.far.account.hash

    @property
    def trader_funds(self) -> ChainCollateral:
        assert isinstance(self.stage.trader.collateral, ChainCollateral)
        return self.stage.trader.collateral

    @property
    def solver_funds(self) -> ChainCollateral:
        assert isinstance(self.stage.solver.collateral, ChainCollateral)
        return self.stage.solver.collateral


def entry_of(stage: Scene) -> RegistryEntry:
    wallet = stage.solver.wallet
    return RegistryEntry(wallet.address, Role.SOLVER, "ws://memory", wallet.public_key, 0)


@asynccontextmanager
async def market(
    path: Path,
    *,
    maker: type[Maker] = Maker,
    solver: dict[str, Any] | None = None,
    terms: dict[str, Any] | None = None,
    **given: Any,
) -> AsyncGenerator[Market, None]:
    """solver: more arguments of the maker; terms: what differs in them; given: of `connect`."""
    async with scene(path, **(terms or {})) as stage:
        made = maker(stage.solver, stage.terms, collateral=5_000, **(solver or {}))
        made.run_callbacks(stage.nursery)
        stage.server = await made.server()
        await stage.nursery.start(stage.server.run)
        arguments: dict[str, Any] = {
            "collateral": 2_000,
            "decimals": 6,
            "token": TOKEN,
        } | given
        async with connect(stage.trader, entry_of(stage), dial=stage.dial, **arguments) as session:
            yield Market(stage, made, session)
