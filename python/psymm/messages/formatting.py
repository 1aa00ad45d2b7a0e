"""Messages on the record in words, for people who read a transcript.

`format_message` says what a message does and the fields that matter for it; nothing decides by
these words. What a peer wrote (ids, symbols, texts) stands in them as it is, so who shows them on a
terminal must make it printable. No message holds a secret, so neither do its words.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

from psymm._core import JsonError, format_decimal
from psymm.messages.enums import (
    CollAsgnRespType,
    ExecType,
    OrdType,
    PositionEffect,
    QuoteCancelType,
    SettlementKind,
    Side,
)
from psymm.messages.record import (
    BusinessMessageReject,
    ChainFact,
    Checkpoint,
    CollateralAssignment,
    CollateralRequest,
    CollateralResponse,
    ExecutionReport,
    ForceAction,
    Funding,
    Heartbeat,
    Leg,
    Liquidation,
    Logon,
    Logout,
    NewOrderMultileg,
    NewOrderSingle,
    OraclePrice,
    OrderCancelReject,
    OrderCancelReplaceRequest,
    OrderCancelRequest,
    Quote,
    QuoteCancel,
    QuoteRequest,
    QuoteRequestReject,
    QuoteResponse,
    Reject,
    SessionKeyChange,
    Settlement,
    SettlementAcceptance,
    SettlementOutput,
)
from psymm.messages.wire import Message

_LANES: Final = ("trader", "solver")
_SECOND: Final = 1_000_000_000


def format_message(message: Message, lane: int, at_ns: int, decimals: int = 0) -> str:
    """What a message says. lane: its sender's. at_ns: its frame's sendingTime, which spans are
    counted from. decimals: the collateral token's; amounts are in whole tokens then.
    """
    return ", ".join(part for part in _parts(message, lane, at_ns, decimals) if part)


def format_timestamp(at_ns: int) -> str:
    """A time as ISO 8601 in UTC with all nine digits: 2026-11-21T15:04:05.000000007Z."""
    whole, rest = divmod(at_ns, _SECOND)
    return f"{datetime.fromtimestamp(whole, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"


def format_duration(ns: int) -> str:
    """A span in seconds, minutes, hours or days, whichever is shorter to read: `30 s`, `1.5 h`."""
    for unit, name in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if abs(ns) >= 2 * unit * _SECOND:
            return f"{_number(ns * 100 // (unit * _SECOND), 2)} {name}"
    return f"{_number(ns // 1_000_000, 3)} s" if abs(ns) >= 1_000_000 else f"{ns} ns"


def orders_of(message: Message | None) -> tuple[str, ...]:
    """The ids of the orders that a message is about, its own first."""
    found = (getattr(message, name, None) for name in ("cl_ord_id", "orig_cl_ord_id"))
    return tuple(one for one in found if isinstance(one, str))


def _parts(message: Message, lane: int, at_ns: int, decimals: int) -> Iterable[str]:
    """The words, cut where commas go; what is empty is left out."""
    match message:
        case Logon():
            return (
                f"terms {_short(message.terms_hash)}",
                *_key(message, at_ns),
                f"heartbeat every {message.heart_bt_int} s",
                _notes("puts up", len(message.notes)),
            )
        case SessionKeyChange():
            return _key(message, at_ns)
        case Logout():
            return ("ends its business", _quoted(message.text))
        case Reject():
            what = "" if message.ref_msg_type is None else f" (MsgType {message.ref_msg_type})"
            return (
                f"rejects {_LANES[1 - lane]} {message.ref_seq_num}{what}: {message.violation}",
                _quoted(message.text),
            )
        case BusinessMessageReject():
            which = "" if message.ref_seq_num is None else f" of {_LANES[1 - lane]}"
            which += "" if message.ref_seq_num is None else f" {message.ref_seq_num}"
            return (
                f"does not serve MsgType {message.ref_msg_type}{which}: "
                f"{_name(message.business_reject_reason)}",
                _quoted(message.text),
            )
        case Heartbeat():
            return ("covers, says nothing more",)
        case QuoteRequest():
            side = "buying or selling" if message.side is None else _trade(message.side, "ing")
            return (
                f"{message.quote_req_id}: a quote for {side} "
                f"{_decimal(message.order_qty)} {message.symbol}",
                _until("open for", message.expire_time, at_ns),
            )
        case Quote():
            answers = "" if message.quote_req_id is None else f"answers {message.quote_req_id}"
            return (
                f"{message.quote_id}: {message.symbol} "
                f"{_priced('bid', message.bid_px, message.bid_size)}"
                f"{' / ' if message.bid_px is not None and message.offer_px is not None else ''}"
                f"{_priced('offer', message.offer_px, message.offer_size)}",
                answers,
                _until("valid for", message.valid_until_time, at_ns),
            )
        case QuoteRequestReject():
            return (
                f"will not quote {message.quote_req_id}: "
                f"{_name(message.quote_request_reject_reason)}",
                _quoted(message.text),
            )
        case QuoteCancel():
            what = {
                QuoteCancelType.ALL: "all quotes",
                QuoteCancelType.SYMBOL: f"all quotes of {message.symbol}",
                QuoteCancelType.QUOTE: f"quote {message.quote_id}",
            }[message.quote_cancel_type]
            return (f"withdraws {what}",)
        case QuoteResponse():
            return (f"passes on quote {message.quote_id}",)
        case NewOrderSingle():
            return _order(message, at_ns)
        case NewOrderMultileg():
            return (
                f"{message.cl_ord_id}: {_decimal(message.order_qty)} times "
                + " and ".join(_leg(leg) for leg in message.no_legs),
                "" if message.quote_id is None else f"quote {message.quote_id}",
                _until("expires in", message.expire_time, at_ns),
            )
        case OrderCancelRequest():
            return (f"{message.cl_ord_id}: cancel {message.orig_cl_ord_id}",)
        case OrderCancelReplaceRequest():
            return (
                f"{message.cl_ord_id}: replace {message.orig_cl_ord_id} by "
                f"{_decimal(message.order_qty)} at {_decimal(message.price)}",
                _until("expires in", message.expire_time, at_ns),
            )
        case OrderCancelReject():
            return (
                f"refuses {message.cl_ord_id}, to {_name(message.cxl_rej_response_to)} "
                f"{message.orig_cl_ord_id}: {_name(message.cxl_rej_reason)}",
                _quoted(message.text),
            )
        case ExecutionReport():
            return _report(message)
        case ForceAction():
            return (
                f"{message.cl_ord_id}: forces the {message.force_kind.value} of "
                f"{message.orig_cl_ord_id}",
                *(f"{one.symbol} at {_decimal(one.price)}" for one in message.prices),
            )
        case CollateralRequest():
            amount = "more" if message.amount is None else _tokens(message.amount, decimals)
            return (
                f"{message.coll_req_id}: asks the other side to put up {amount}: "
                f"{_name(message.coll_asgn_reason)}",
                _quoted(message.text),
            )
        case CollateralAssignment():
            return (_notes("puts up", len(message.notes)), _name(message.coll_asgn_reason))
        case CollateralResponse():
            if message.coll_asgn_resp_type is CollAsgnRespType.ACCEPTED:
                return (_notes("accepts", len(message.commitments)),)
            reason = message.coll_asgn_reject_reason
            return (
                "refuses the collateral" + ("" if reason is None else f": {_name(reason)}"),
                _quoted(message.text),
            )
        case Checkpoint():
            return (
                f"account {_short(message.account_hash)} after solver {message.solver_seq}, "
                f"which covers trader {message.trader_seq}",
            )
        case SettlementOutput():
            whose = (
                "the other side's payee, as its wallet signed it" if message.signature else "payee"
            )
            covers = (
                ""
                if message.ref_seq_num is None
                else f", which covers solver {message.ref_seq_num}"
            )
            return (f"names {whose} for {_tokens(message.amount, decimals)}{covers}",)
        case Settlement():
            return _settlement(message, at_ns, decimals)
        case SettlementAcceptance():
            return (f"signs what {_LANES[1 - lane]} {message.ref_seq_num} proposes",)
        case OraclePrice():
            return (_price(message, at_ns), f"{len(message.signatures)} signers")
        case Funding():
            return (
                f"{message.symbol} at rate {_decimal(message.rate)} for the epoch "
                f"{format_timestamp(message.epoch)}",
                _price(message, at_ns),
            )
        case Liquidation():
            return (
                f"liquidates the {_LANES[int(message.lane)]}",
                *(f"{one.symbol} at {_decimal(one.price)}" for one in message.prices),
            )
        case ChainFact():
            cited = message.nullifier if message.commitment is None else message.commitment
            kind = "nullifier" if message.commitment is None else "commitment"
            return (
                f"{kind} {_short(cited or b'')} was {message.fact_kind.value} in block "
                f"{message.block_number}, transaction {_short(message.transaction_hash)}",
            )
        case _:
            return ()


def _order(message: NewOrderSingle, at_ns: int) -> Iterable[str]:
    price = "" if message.price is None else f" at {_decimal(message.price)}"
    if message.ord_type is OrdType.MARKET:
        price = " at the market" + ("" if message.price is None else f", no worse than{price[3:]}")
    closes = "" if message.position_id is None else f"position {_short(message.position_id)}"
    return (
        f"{message.cl_ord_id}: {message.side.name} {_decimal(message.order_qty)} "
        f"{message.symbol}{price}",
        "" if message.quote_id is None else f"quote {message.quote_id}",
        f"closes {closes}" if message.position_effect is PositionEffect.CLOSE else "",
        _until("expires in", message.expire_time, at_ns),
    )


def _report(message: ExecutionReport) -> Iterable[str]:
    done = {
        ExecType.NEW: "locks",
        ExecType.CANCELED: "cancels",
        ExecType.REPLACED: "replaces",
        ExecType.REJECTED: "declines",
        ExecType.EXPIRED: "states as expired",
        ExecType.TRADE: "fills",
    }[message.exec_type]
    traded = ""
    if message.exec_type is ExecType.TRADE and message.last_qty and message.last_px:
        traded = f": {_decimal(message.last_qty)} at {_decimal(message.last_px)}"
    old = "" if message.orig_cl_ord_id is None else f" (was {message.orig_cl_ord_id})"
    return (
        f"{message.exec_id}: {done} {message.cl_ord_id}{old}{traded}",
        "" if message.leaves_qty is None else f"{_decimal(message.leaves_qty)} left",
        "" if message.ord_rej_reason is None else _name(message.ord_rej_reason),
        _quoted(message.text),
    )


def _settlement(message: Settlement, at_ns: int, decimals: int) -> Iterable[str]:
    payouts = ""
    if message.trader_payout is not None and message.solver_payout is not None:
        payouts = (
            f"{_tokens(message.trader_payout, decimals)} to the trader and "
            f"{_tokens(message.solver_payout, decimals)} to the solver"
        )
    elif message.amount is not None:
        payouts = _tokens(message.amount, decimals)
    name = {
        SettlementKind.SETTLE: "proposes to settle",
        SettlementKind.RELEASE: "proposes to release",
        SettlementKind.MERGE: "proposes to merge two notes",
    }[message.ust_kind]
    return (
        f"{name}{': ' if payouts else ''}{payouts}",
        f"relayer's fee {_tokens(message.fee, decimals)}" if message.fee else "no relayer's fee",
        _until("alive for", message.deadline * _SECOND, at_ns),
    )


def _key(message: Logon | SessionKeyChange, at_ns: int) -> Iterable[str]:
    return (
        f"session key {_short(message.session_public_key)} for frames {message.from_seq} to "
        f"{message.to_seq}",
        _until("valid for", message.expiry, at_ns),
    )


def _leg(leg: Leg) -> str:
    price = "" if leg.leg_price is None else f" at {_decimal(leg.leg_price)}"
    return f"{leg.leg_side.name} {_decimal(leg.leg_qty)} {leg.leg_symbol}{price}"


def _price(message: OraclePrice | Funding, at_ns: int) -> str:
    age = format_duration(at_ns - message.timestamp)
    return f"{message.symbol} at {_decimal(message.price)}, {age} old"


def _priced(what: str, price: int | None, size: int | None) -> str:
    if price is None:
        return ""
    return f"{what} {_decimal(price)}" + ("" if size is None else f" for {_decimal(size)}")


def _until(what: str, end_ns: int | None, at_ns: int) -> str:
    if end_ns is None:
        return ""
    if end_ns < at_ns:
        return f"{what} no time: it was over {format_duration(at_ns - end_ns)} before"
    return f"{what} {format_duration(end_ns - at_ns)}"


def _trade(side: Side, ending: str) -> str:
    return ("buy" if side is Side.BUY else "sell") + ending


def _notes(does: str, count: int) -> str:
    return f"{does} {count} note{'' if count == 1 else 's'}" if count else ""


def _name(value: StrEnum) -> str:
    return value.name.lower().replace("_", " ")


def _quoted(text: str | None) -> str:
    return "" if text is None else f'"{text}"'


def _short(raw: bytes) -> str:
    return f"0x{raw[:4].hex()}…{raw[-2:].hex()}"


def _decimal(scaled: int) -> str:
    try:
        return format_decimal(scaled)
    except JsonError:
        return str(scaled)


def _tokens(units: int, decimals: int) -> str:
    return _number(units, decimals)


def _number(units: int, decimals: int) -> str:
    sign, (whole, rest) = "-" if units < 0 else "", divmod(abs(units), 10**decimals)
    digits = f"{rest:0{decimals}d}".rstrip("0") if decimals else ""
    return f"{sign}{whole}.{digits}" if digits else f"{sign}{whole}"


__all__ = ["format_duration", "format_message", "format_timestamp", "orders_of"]
