"""Quote requests and quotes.

A quote lives until it is hit, withdrawn, declined or expired. A quote request lives until it is
refused, expired, or served: the hit of a quote that answers it ends it, with all its other quotes.

Ids. A QuoteReqID or QuoteID must differ only from what is alive of its kind (``spec.md`` 11). So a
message of the trader means the live quote only if its frame covers that quote's frame: an older
quote may have had the same name.
"""

from __future__ import annotations

from psymm.messages import (
    Quote,
    QuoteCancel,
    QuoteCancelType,
    QuoteRequest,
    QuoteRequestReject,
    QuoteResponse,
)
from psymm.rulebook.account import LiveQuote, OpenRequest
from psymm.rulebook.checks import check_id, check_price, check_quantity, instrument_of
from psymm.rulebook.inputs import RuledFrame
from psymm.rulebook.live_account import LiveAccount
from psymm.rulebook.violation import decimal, refuse


def ask(account: LiveAccount, said: QuoteRequest) -> None:
    """R: a request is open for at most as long as a quote may live."""
    instrument = instrument_of(account, said.symbol)
    check_quantity(instrument, said.order_qty)
    longest = account.clock + account.terms.timeouts.quote_life
    expire = longest if said.expire_time is None else min(said.expire_time, longest)
    if expire < account.clock:
        refuse("expired", expire_time=expire, clock=account.clock)
    if len(account.requests) >= account.terms.limits.open_quotes:
        refuse("too-many-quotes", open=len(account.requests))
    check_id(said.quote_req_id)
    # A request that has ended may leave its name to another, but not while its quotes live.
    if said.quote_req_id in account.requests or any(
        live.request_id == said.quote_req_id for live in account.quotes.values()
    ):
        refuse("duplicate-id", kind="QuoteReqID", id=said.quote_req_id)
    request = OpenRequest(
        quote_req_id=said.quote_req_id,
        symbol=said.symbol,
        quantity=said.order_qty,
        expire_time=expire,
        side=said.side,
    )
    account.put(account.requests, said.quote_req_id, request)
    if expire < account.next_expiry:
        account.next_expiry = expire


def decline_request(account: LiveAccount, said: QuoteRequestReject) -> None:
    """AG: the request ends."""
    if said.quote_req_id not in account.requests:
        refuse("unknown-quote-request", quote_req_id=said.quote_req_id)
    account.drop(account.requests, said.quote_req_id)


def quote(account: LiveAccount, entry: RuledFrame, said: Quote) -> None:
    """S: a quote lives until it is hit, withdrawn, declined, or expires."""
    instrument = instrument_of(account, said.symbol)
    if said.quote_req_id is not None:
        request = account.requests.get(said.quote_req_id)
        if request is None or request.symbol != said.symbol:
            refuse("unknown-quote-request", quote_req_id=said.quote_req_id)
    if said.bid_px is None and said.offer_px is None:
        refuse("quote-without-price", quote_id=said.quote_id)
    for price in (said.bid_px, said.offer_px):
        if price is not None:
            check_price(instrument, price)
    # A crossed quote could be hit on both sides for a certain profit.
    if said.bid_px is not None and said.offer_px is not None and said.bid_px > said.offer_px:
        refuse("quote-crossed", bid=decimal(said.bid_px), offer=decimal(said.offer_px))
    for size, price in ((said.bid_size, said.bid_px), (said.offer_size, said.offer_px)):
        if size is not None:
            check_quantity(instrument, size)
            if price is None:
                refuse("field-not-allowed", field="a size without its price")
    if said.valid_until_time < account.clock:
        refuse("expired", valid_until_time=said.valid_until_time, clock=account.clock)
    if said.valid_until_time > account.clock + account.terms.timeouts.quote_life:
        refuse("life-too-long", valid_until_time=said.valid_until_time, clock=account.clock)
    if len(account.quotes) >= account.terms.limits.open_quotes:
        refuse("too-many-quotes", open=len(account.quotes))
    check_id(said.quote_id)
    if said.quote_id in account.quotes:
        refuse("duplicate-id", kind="QuoteID", id=said.quote_id)
    live = LiveQuote(
        quote_id=said.quote_id,
        seq=entry.seq,
        symbol=said.symbol,
        valid_until=said.valid_until_time,
        request_id=said.quote_req_id,
        bid_price=said.bid_px,
        offer_price=said.offer_px,
        bid_size=said.bid_size,
        offer_size=said.offer_size,
    )
    account.put(account.quotes, said.quote_id, live)
    if said.valid_until_time < account.next_expiry:
        account.next_expiry = said.valid_until_time


def hit(account: LiveAccount, quote: LiveQuote) -> None:
    """D: a quote can be hit only once, and so can all that answer one request.

    Otherwise served requests and passed-over quotes would pile up until they expire, and a trader
    that asks often would meet the limit of what may be open.
    """
    account.drop(account.quotes, quote.quote_id)
    if quote.request_id is None:
        return
    account.drop(account.requests, quote.request_id)
    for other in list(account.quotes.values()):
        if other.request_id == quote.request_id:
            account.drop(account.quotes, other.quote_id)


def withdraw(account: LiveAccount, said: QuoteCancel) -> None:
    """Z: withdraw the named quotes. A quote that was hit before stays hit."""
    match said.quote_cancel_type:
        case QuoteCancelType.ALL:
            names = list(account.quotes)
        case QuoteCancelType.SYMBOL:
            if said.symbol is None:
                refuse("missing-field", field="Symbol")
            names = [name for name, q in account.quotes.items() if q.symbol == said.symbol]
        case QuoteCancelType.QUOTE:
            if said.quote_id is None:
                refuse("missing-field", field="QuoteID")
            # A quote that was hit or has expired may be named: the messages crossed.
            names = [said.quote_id]
    for name in names:
        account.drop(account.quotes, name)


def pass_on(account: LiveAccount, entry: RuledFrame, said: QuoteResponse) -> None:
    """AJ: the trader declines a quote, which ends. One that has ended does not change."""
    live = account.quotes.get(said.quote_id)
    if live is not None and live.seq <= entry.peer_seq:
        account.drop(account.quotes, said.quote_id)
