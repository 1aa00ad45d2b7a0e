"""A trader's session: `async with connect(…) as session`, then quotes, orders, closes, settlement.

The session survives lost connections: what was signed is in the journal and is sent again. A call
that waits for an answer keeps waiting until its own time is up.

Who calls whom: `connecting.connect` makes a `Session`. The session's events go through
`event_cache.EventCache`, which keeps the answers and wakes the calls that wait for them. `Session`
and `orders.Order` are thin: they sign messages and read the account.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, TypeVar

from psymm.api.amounts import Number, decimal_of, scaled, tokens_of
from psymm.api.event_cache import EventCache
from psymm.api.orders import BUY, SELL, Fill, FirmQuote, Indicative, Order, indicative_of
from psymm.api.policy import TraderPolicy
from psymm.errors import Declined, Disconnected, NotNow, PeerSilent, PolicyRefused
from psymm.messages import (
    ExecType,
    NewOrderSingle,
    OrderCancelReject,
    OrdType,
    PositionEffect,
    QuoteRequest,
    QuoteRequestReject,
    Side,
)
from psymm.messages import Quote as QuoteMessage
from psymm.rulebook import Account, BalanceView, Lane, Position, PositionView, balances, positions
from psymm.session.protocol import SECOND, SessionStatus
from psymm.session.protocol.chain_facts import Mined
from psymm.session.runtime.conversation import market_data
from psymm.session.runtime.ledger import RulebookLedger
from psymm.session.runtime.party import LocalParty
from psymm.session.runtime.runner import SessionRunner
from psymm.session.runtime.settlement import SettlementFlow
from psymm.session.runtime.stats import RunnerStatistics
from psymm.terms import Terms
from psymm.transcript.checkpoint import Point

T = TypeVar("T")

QUOTE_S: Final = 10.0
SYNC_S: Final = 60.0
"""Seconds that `settle` waits for a lost connection."""


class Session:
    """A custody with one solver; `connect` makes it."""

    def __init__(self, party: LocalParty, runner: SessionRunner, events: EventCache) -> None:
        ledger = runner.protocol.state.rulebook
        if not isinstance(ledger, RulebookLedger):
            raise TypeError("a session runs on the rulebook")
        self.runner = runner
        self.terms = Terms.parse(runner.agreement.terms)
        self.party = party
        self.policy: TraderPolicy | None = None
        self._ledger = ledger
        self._events = events
        self._settlement_flow: SettlementFlow | None = None

    # --- looking ----------------------------------------------------------------------------

    @property
    def custody(self) -> bytes:
        return self.runner.agreement.custody

    @property
    def solver(self) -> str:
        """The solver's address."""
        return self.runner.agreement.wallet_address(Lane.SOLVER)

    @property
    def state(self) -> SessionStatus:
        return self.runner.protocol.status

    @property
    def account(self) -> Account:
        """After the solver's last frame. The solver's copy is the same."""
        return self._ledger.account

    @property
    def balances(self) -> BalanceView:
        """Our balances by the account, in the terms' words."""
        return balances(self.account, Lane.TRADER)

    @property
    def positions(self) -> tuple[PositionView, ...]:
        return positions(self.account, Lane.TRADER)

    @property
    def acknowledgement_s(self) -> float:
        """T of the terms, in seconds. For this long either side can hold a frame back and still
        have it count from when it says that it was sent. Price in what the market can do in that
        time."""
        return self.terms.timeouts.acknowledgement / SECOND

    def statistics(self) -> RunnerStatistics:
        """What went over this session's connections, and what is waiting."""
        return self.runner.statistics()

    @property
    def losses(self) -> int:
        """How often the connection was lost."""
        return self._events.losses

    def fills_of(self, cl_ord_id: str) -> tuple[Fill, ...]:
        """All fills of an order that are in the account, in order."""
        fills: list[Fill] = []
        for said in self._events.reports.get(cl_ord_id, ()):
            if said.exec_type is ExecType.TRADE:
                price, quantity = decimal_of(said.last_px or 0), decimal_of(said.last_qty or 0)
                fills.append(Fill(price, quantity, said.exec_id))
        return tuple(fills)

    def reason_of(self, cl_ord_id: str) -> str:
        for said in reversed(self._events.reports.get(cl_ord_id, ())):
            if said.text:
                return said.text
        return ""

    def cancel_refused(self, request: str) -> OrderCancelReject | None:
        return self._events.cancels.get(request)

    def next_id(self, kind: str) -> str:
        """An id that no earlier frame of ours has: it follows from our lane's head."""
        # Nothing waits between here and the signature, so no two calls get one id.
        return f"{kind}{self.runner.protocol.record.head(self.runner.lane).seq + 1}"

    async def next_change(
        self, found: Callable[[], T | None], *, until_ns: int | None = None
    ) -> T | None:
        """Wait until `found` returns something, or until the time has come (then None). Raises the
        error that stopped the session, SessionClosed. Cancelled: raises Cancelled."""
        return await self._events.until(found, self._seconds_to(until_ns))

    def _seconds_to(self, until_ns: int | None) -> float:
        if until_ns is None:
            return float("inf")
        return max(0.0, (until_ns - self.party.clock.now_ns()) / SECOND)

    # --- trading ----------------------------------------------------------------------------

    async def indicative(self, symbol: str, timeout_s: float = QUOTE_S) -> Indicative:
        """The solver's current prices. Raises PeerSilent, NotNow, and Declined if it shows two
        prices of one side. Cancelled: the answer is dropped."""
        request = f"v{self._events.count}"
        await self.runner.send_text(market_data(request, [symbol]))
        found = await self._events.until(
            lambda: self._events.snapshots.pop((request, symbol), None), timeout_s
        )
        if found is None:
            raise PeerSilent("no price came", symbol=symbol, waited_s=timeout_s)
        return indicative_of(found)

    async def request_quote(
        self,
        symbol: str,
        quantity: Number,
        side: Side | None = None,
        timeout_s: float = QUOTE_S,
    ) -> FirmQuote:
        """Ask for a firm quote.

        Raises Declined, PeerSilent, Refused, NotNow, and Disconnected if the connection is lost and
        does not come back within `timeout_s`.
        Cancelled: the request stays on the record, and its quote can still be hit.
        """
        if not self.runner.protocol.synced:
            await self._when_synced(timeout_s)
        request = self.next_id("r")
        # `post`, not `send`: an answer proves that the request was durable, so do not wait twice.
        self.runner.post(
            QuoteRequest(
                quote_req_id=request,
                symbol=symbol,
                order_qty=scaled(quantity),
                side=side,
                expire_time=self.party.clock.now_ns()
                # The rules give a request no longer than a quote.
                + min(int(timeout_s * SECOND), self.terms.timeouts.quote_life),
            ),
            alone=True,
        )
        answer = await self._events.until(lambda: self._events.quotes.get(request), timeout_s)
        if answer is None:
            raise PeerSilent("no quote came", symbol=symbol, waited_s=timeout_s)
        if isinstance(answer, QuoteRequestReject):
            raise Declined("the solver does not quote", reason=answer.text or "")
        assert isinstance(answer, QuoteMessage)  # noqa: S101
        return FirmQuote(
            quote_id=answer.quote_id,
            symbol=answer.symbol,
            quantity=Decimal(quantity),
            bid=None if answer.bid_px is None else decimal_of(answer.bid_px),
            ask=None if answer.offer_px is None else decimal_of(answer.offer_px),
            valid_until_ns=answer.valid_until_time,
        )

    async def order(
        self,
        side: Side,
        symbol: str,
        quantity: Number,
        *,
        price: Number | None = None,
        quote: FirmQuote | None = None,
        expires_in_s: float = 30,
    ) -> Order:
        """Send an order to open: at a limit `price`, or hitting a `quote`, or both. Returns when it
        is durable and on its way.

        Raises PolicyRefused if the policy names instruments and this is not one of them, Refused
        (margin, tick, an expired quote …), NotNow, SessionClosed, and Disconnected if the
        connection is lost and does not come back within `expires_in_s`. Then nothing was signed.
        Cancelled: it may be signed.
        """
        if self.policy is not None and self.policy.symbols and symbol not in self.policy.symbols:
            # We held only the named instruments to the policy's limits.
            raise PolicyRefused("symbol", symbol, ", ".join(self.policy.symbols))
        return await self._send(
            side, symbol, quantity, PositionEffect.OPEN, price, quote, None, expires_in_s
        )

    async def close(
        self,
        position: Position | PositionView | bytes,
        *,
        price: Number | None = None,
        quote: FirmQuote | None = None,
        quantity: Number | None = None,
        expires_in_s: float = 30,
    ) -> Order:
        """Send an order to close a position, or `quantity` of it. Raises as `order`."""
        key = _position_id(position)
        held = self.account.positions.get(key)
        if held is None:
            raise NotNow("no such position is open", position=key)
        return await self._send(
            SELL if held.side is BUY else BUY,
            held.symbol,
            decimal_of(held.quantity) if quantity is None else quantity,
            PositionEffect.CLOSE,
            price,
            quote,
            key,
            expires_in_s,
        )

    async def _send(
        self,
        side: Side,
        symbol: str,
        quantity: Number,
        effect: PositionEffect,
        price: Number | None,
        quote: FirmQuote | None,
        position: bytes | None,
        expires_in_s: float,
    ) -> Order:
        """Sign an order and return it; see `order` for what is raised."""
        if price is None and quote is None:
            raise ValueError("an order needs a price or a quote")
        # The hit names its price, so that it cannot mean another quote of the same id.
        if price is None and quote is not None:
            price = quote.ask if side is Side.BUY else quote.bid
        if not self.runner.protocol.synced:
            await self._when_synced(expires_in_s)
        order = NewOrderSingle(
            cl_ord_id=self.next_id("o"),
            symbol=symbol,
            side=side,
            order_qty=scaled(quantity),
            ord_type=OrdType.LIMIT if quote is None else OrdType.PREVIOUSLY_QUOTED,
            position_effect=effect,
            expire_time=self.party.clock.now_ns() + int(expires_in_s * SECOND),
            price=None if price is None else scaled(price),
            quote_id=None if quote is None else quote.quote_id,
            position_id=position,
        )
        await self.runner.send(order)
        return Order(self, order)

    async def _when_synced(self, within_s: float) -> None:
        """Wait for a lost connection to come back; nothing is signed in between."""
        synced = await self._events.until(lambda: self.runner.protocol.synced or None, within_s)
        if synced is None:
            lost = self._events.lost
            raise Disconnected(
                "the connection is lost and did not come back in time; nothing was signed",
                waited_s=within_s,
                reason="none" if lost is None else lost.code,
            )

    # --- ending -----------------------------------------------------------------------------

    async def settle(self) -> Settled:
        """Settle the flat account on chain: both sides are paid, or neither.

        Raises NotNow if something is open, SettlementRefused, PeerSilent, Disconnected, and what
        proving and sending raise.
        Cancelled: what was signed can be used until its deadline, and continues when the session is
        resumed.
        """
        if self._settlement_flow is None:
            raise NotNow("the session has ended")
        if not self.runner.protocol.synced:
            await self._when_synced(SYNC_S)
        mined = await self._settlement_flow.settle()
        payout = self.account.payouts[Lane.TRADER]
        # The end is on chain already. Give both sides a few heartbeats to say so on the record.
        await self._events.until(
            lambda: True if self.state is SessionStatus.CLOSED else None,
            float(self.terms.timeouts.heartbeat / SECOND) * 4,
            even_closed=True,
        )
        decimals = self.terms.collateral.decimals
        return Settled(
            payout=tokens_of(payout, decimals),
            gain=tokens_of(payout - self.account.collateral(Lane.TRADER), decimals),
            mined=mined,
        )

    async def checkpoint(self) -> Point:
        """Agree with the solver on the account, so that earlier frames need not be kept or shown.

        Returns the checkpoint when it is in force. It counts all that either side has sent by now,
        except Heartbeats. A session also makes one on its own, well before the terms' limits.
        Raises AccountsDiffer, SessionClosed, or the error that stopped the session. Waits as long
        as the solver does not answer. Cancelled: the checkpoint is still made.
        """
        return await self.runner.checkpoint()

    async def rotate_key(self) -> None:
        """Put a new session key in force. A session also does so on its own, well before the
        current key ends. Returns when that is on the record, which needs a connection.

        Raises WalletError (the wallet refuses; the current key stays), SessionClosed, or the error
        that stopped the session. Cancelled: the rotation continues.
        """
        await self.runner.rotate_key()

    async def log_out(self, reason: str = "") -> None:
        """Open nothing more, for good: orders that wait to open are cancelled. Positions can still
        be closed and the custody settled, now or after a resume. The solver logs out too. Raises
        NotNow, SessionClosed. Cancelled: it may be signed."""
        await self.runner.log_out(reason)


@dataclass(frozen=True, slots=True)
class Settled:
    """What a settlement paid.

    Attributes:
        payout: In whole tokens, before the relayer's fee.
        gain: What the payout exceeds our collateral by.
    """

    payout: Decimal
    gain: Decimal
    mined: Mined


def _position_id(position: Position | PositionView | bytes) -> bytes:
    if isinstance(position, bytes):
        return position
    if isinstance(position, PositionView):
        return bytes.fromhex(position.position_id[2:])
    return position.position_id
