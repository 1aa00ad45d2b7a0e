"""The catalogue of violations: what is wrong with a frame, and what its sender can do.

A violation by either lane changes nothing in the account; the frame keeps its seq.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

from psymm.errors import PSymmError, format_amount

CATALOGUE: Mapping[str, tuple[str, str]] = {
    "malformed": (
        "the payload is not a message of the vocabulary",
        "send it as the schema has it; `code` says what is wrong",
    ),
    "wrong-lane": ("this message is not for this lane to send", "let the other lane send it"),
    "not-logged-on": (
        "the lane has not logged on",
        "send Logon first; it is the lane's first message",
    ),
    "already-logged-on": ("the lane has logged on before", "change the session key with UKY"),
    "wrong-terms": ("Logon names other terms than the custody's", "log on with the custody's"),
    "bad-delegation": (
        "the session key's range or expiry does not include this frame",
        "sign a delegation that holds for it",
    ),
    "session-key-expired": (
        "the session key was not delegated for this seq or time",
        "send UKY with a new delegation",
    ),
    "logged-out": (
        "a lane has logged out; nothing new is opened",
        "cancel or close what is open, then settle",
    ),
    "custody-ended": ("the custody was settled on chain", "meet again for a new custody"),
    "frozen": (
        "a signed settlement is alive",
        "wait until it is mined and cited, or its deadline and the skew have passed",
    ),
    "lane-at-limit": (
        "the lane has sent its frames or bytes since the last checkpoint",
        "checkpoint, or settle",
    ),
    "lane-full": (
        "the lane has sent all that it ever may without a checkpoint; this frame does not exist",
        "settle by wallet signature, or leave by the court",
    ),
    "too-many-uncovered": (
        "the trader does not cover as many of the solver's frames as may be uncovered",
        "sign only Heartbeats until the trader covers more",
    ),
    "covers-ahead": (
        "the frame says that it covers one dated further ahead of it than the skew",
        "date frames truly, and cover a frame no sooner than its time less the skew",
    ),
    "dated-ahead": (
        "the frame was put on chain sooner than its own time less the skew",
        "date frames truly; it counts for nothing",
    ),
    "trading-not-open": (
        "both lanes' collateral is not yet accepted up to the terms' minimum",
        "assign collateral and wait for its CollateralResponse",
    ),
    "past-end-date": ("the terms' end date has passed", "close what is open, then settle"),
    "not-yet-in-force": (
        "this version of the rulebook does not rule this message",
        "do not send it; both sides read it and neither account changes",
    ),
    "duplicate-id": ("something alive of this kind has this id", "choose a fresh id"),
    "id-too-long": (
        "the id takes more than 64 bytes as JSON, which escapes some characters",
        "choose a shorter id",
    ),
    "unknown-symbol": ("the terms have no such instrument", "use a symbol of the terms"),
    "unknown-frame": (
        "the frame that is named is not one that this frame's sender had processed",
        "name a frame that your own covers",
    ),
    "missing-field": ("a field is needed in this case", "send it with `field`"),
    "field-not-allowed": ("a field has no meaning in this case", "leave `field` out"),
    "off-tick": ("the price is not a positive multiple of the tick", "round it to the tick"),
    "off-lot": ("the quantity is not a positive multiple of the lot", "round it to the lot"),
    "notional-out-of-bounds": (
        "the notional is outside the instrument's bounds",
        "change the quantity",
    ),
    "price-out-of-band": (
        "the price is too far from the oracle's",
        "move it into the terms' band",
    ),
    "price-stale": (
        "an oracle price in effect is older than its validity",
        "show a newer price (UPX); until then only cancels and closes are valid",
    ),
    "margin": ("a side would have less than its orders need", "send less, or add collateral"),
    "leverage": ("a side would be above the instrument's leverage", "send less"),
    "too-many-orders": ("the terms' limit of open orders is reached", "cancel one first"),
    "too-many-quotes": ("the terms' limit of open quotes or requests is reached", "cancel one"),
    "too-many-positions": ("the terms' limit of positions is reached", "close one first"),
    "expired": ("its time had passed when the frame took effect", "send it with a later time"),
    "life-too-long": ("the quote would live longer than the terms allow", "shorten its life"),
    "quote-without-price": ("the quote carries neither bid nor offer", "quote at least one"),
    "quote-crossed": ("the bid is above the offer", "quote a bid no higher than the offer"),
    "unknown-quote-request": (
        "no such quote request is open",
        "name one that is open, or leave it out",
    ),
    "unknown-quote": (
        "no such quote is alive: used, withdrawn, expired or never made",
        "ask for a new quote",
    ),
    "quote-mismatch": (
        "the order is not what was quoted",
        "order the quote's symbol, on a side it prices, at its price and within its size",
    ),
    "unknown-order": (
        "no such order is open: it has ended, or was never sent",
        "name the ClOrdID of an open order",
    ),
    "order-not-pending": ("the order is not pending", "only a pending order can be locked"),
    "already-pending": ("a request on this order is already open", "wait for its answer"),
    "nothing-pending": ("no such request is open on this order", "answer only what was asked"),
    "not-expired": ("the order's ExpireTime has not passed", "wait, decline or fill it"),
    "not-replaceable": (
        "closes and quoted orders cannot be replaced",
        "cancel the order and send another",
    ),
    "fill-over-quantity": ("the fill is above what is left", "fill at most LeavesQty"),
    "fill-worse-than-price": ("the fill is worse than the order's price", "fill no worse"),
    "wrong-quantities": (
        "CumQty or LeavesQty is not what the record gives",
        "state them right, or leave them out",
    ),
    "partial-market-close": ("a market close is filled whole", "fill all of it, or decline"),
    "unknown-position": ("no such position is open", "name an open PositionID"),
    "close-mismatch": (
        "the close does not fit its position",
        "use the position's symbol, the other side and at most its quantity",
    ),
    "close-pending": ("a close of this position is already open", "cancel that one first"),
    "cooldown": ("the cooldown has not passed", "wait until the clock is past it"),
    "note-listed": ("a note or its nullifier was listed before", "list each note once"),
    "note-not-listed": (
        "the note is not one that the other lane listed",
        "accept notes of the other lane only",
    ),
    "note-accepted": ("the note was accepted before", "accept each note once"),
    "note-wrong-token": ("the note is in another token than the terms'", "reject it"),
    "too-many-notes": (
        "this lane has a note already; a settlement spends one note of each lane, and"
        " merging notes is not in force yet",
        "put up one note of the whole amount",
    ),
    "unknown-note": (
        "the nullifier belongs to no note that was listed here",
        "cite only what this custody's notes are about",
    ),
    "unknown-signer": (
        "too few of the terms' oracle signers signed this price",
        "show the terms' threshold of distinct signers",
    ),
    "price-not-newer": ("a price at least as new is in effect", "show a newer price"),
    "price-from-ahead": ("the price's time is too far ahead", "wait, or show another"),
    "not-flat": (
        "positions or orders are open; a settlement is signed on a flat account only",
        "close and cancel first",
    ),
    "wrong-payout": ("the payouts are not the account's", "propose what the account gives"),
    "wrong-fee": (
        "the relayer's fee is above the terms' cap or the proposer's payout, or not stated as the"
        " contract wants it",
        "fee 0 with relayer and token 0, or a fee within both with the collateral token",
    ),
    "wrong-deadline": (
        "the deadline has passed, is too far, or is no multiple of 300 seconds",
        "round up to 300 seconds, within the terms' settlement deadline",
    ),
    "wrong-inputs": (
        "the settlement does not spend exactly the custody's notes",
        "merge until two are left, then spend both",
    ),
    "bad-inner": (
        "the payee's inner hash is zero or not below the field's modulus",
        "name one that a note can be made of",
    ),
    "same-payee": (
        "both payees have one inner hash",
        "name a fresh one; the chain takes each commitment once",
    ),
    "payee-missing": (
        "a lane has no payee on the record for the account as it is",
        "have both lanes send UPY, then propose",
    ),
    "wrong-payee": (
        "a lane's payee is made for another amount than this settlement would pay it",
        "send UPY with what the account gives, less the fee where its lane proposes",
    ),
    "wrong-output": (
        "the commitments or memos are not those of the payees on the record",
        "compute them from both payees and payouts, in either order",
    ),
    "wrong-signature": (
        "the signature is not the wallet's over what the frame says",
        "sign it with the wallet of the custody",
    ),
    "no-proposal": ("no such proposal of the other lane is alive", "accept the one alive"),
    "checkpoint-misplaced": (
        "the UCP names other frames than the last solver frame that the trader covers, with what"
        " that one covers; or one from before the last checkpoint came into force, or on which a"
        " settlement is alive",
        "name the account after that frame once it is covered, or answer the UCP that stands",
    ),
    "checkpoint-pending": (
        "a UCP stands unanswered",
        "the other lane answers it, by naming the same; then a new one may be sent",
    ),
    "wrong-checkpoint": (
        "the UCP names another account for frames at which the account is known",
        "compare the accounts field by field; one side has a fault",
    ),
    "checkpoint-refused": (
        "a right UCP was covered and then rejected, or not answered within T",
        "answer it, by naming the same",
    ),
    "false-citation": (
        "the chain does not say what the frame cites",
        "cite what the chain holds, with its block and transaction",
    ),
}


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken rule."""

    name: str
    """A key of ``CATALOGUE``, or the code of an unreadable payload."""
    values: tuple[tuple[str, str], ...] = ()
    """The values that broke it. Quantities are decimals in units of the instrument; prices,
    notionals and amounts in whole tokens of the collateral; times in nanoseconds."""

    @property
    def what(self) -> str:
        """What is wrong, for people."""
        return CATALOGUE[self.name][0]

    @property
    def remedy(self) -> str:
        """What its sender can do about it."""
        return CATALOGUE[self.name][1]

    def __str__(self) -> str:
        values = ", ".join(f"{key}={value}" for key, value in self.values)
        shown = f" ({values})" if values else ""
        if self.name not in CATALOGUE:
            return f"{self.name}{shown}"
        return f"{self.name}: {self.what}{shown}; {self.remedy}"


class RuleBroken(Exception):
    """Carries a violation from the rule that found it to the step that reports it."""

    def __init__(self, violation: Violation) -> None:
        super().__init__(violation.name)
        self.violation = violation


def violated(rule: str, /, **values: object) -> RuleBroken:
    """A violation with its values, ready to raise."""
    return RuleBroken(Violation(rule, tuple((key, _shown(value)) for key, value in values.items())))


def refuse(rule: str, /, **values: object) -> NoReturn:
    """Raise a violation: the frame breaks this rule."""
    raise violated(rule, **values)


def decimal(value: int) -> str:
    """An integer of any size, scaled by 10**18, as a decimal for people."""
    return format_amount(value, 18)


def _shown(value: object) -> str:
    return "0x" + value.hex() if isinstance(value, bytes) else str(value)


class RulebookError(PSymmError):
    """The rulebook lacks an input that it needs. Nothing was ruled, and nothing changed."""

    code = "rulebook"


class FrameOutOfOrder(RulebookError):
    code = "frame-out-of-order"
    what = "the frame is not its lane's next, or the frame that it covers is not here yet"
    remedy = "Give frames in an order that a transcript accepts"


class AccountRefused(RulebookError):
    """Bytes are not the account that they should be; ``reason`` says why."""

    code = "account-refused"
    what = "these bytes are not the account that was agreed"
    remedy = "Get the account again from where it was written; nothing was taken from this one"


class FactsBehind(RulebookError):
    code = "facts-behind"
    what = "a frame cites a block that the chain facts given do not reach"
    remedy = "Read the chain up to that block first"
