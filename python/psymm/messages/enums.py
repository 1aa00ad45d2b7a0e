"""The enumerated values of the vocabulary, with FIX's codes where FIX has the field."""

from __future__ import annotations

from enum import StrEnum


class Side(StrEnum):
    """Side (54), as the trader trades: BUY opens a long or closes a short."""

    BUY = "1"
    SELL = "2"


class OrdType(StrEnum):
    """OrdType (40)."""

    MARKET = "1"
    LIMIT = "2"
    PREVIOUSLY_QUOTED = "D"


class PositionEffect(StrEnum):
    """PositionEffect (77)."""

    OPEN = "O"
    CLOSE = "C"


class ExecType(StrEnum):
    """ExecType (150): what an ExecutionReport does to its order."""

    NEW = "0"
    """Locks the order: the solver's last look, until the order's ExpireTime."""
    CANCELED = "4"
    """Accepts a cancel request."""
    REPLACED = "5"
    """Accepts a replace request."""
    REJECTED = "8"
    """Declines the order, or what is left of it."""
    EXPIRED = "C"
    """States that the order's ExpireTime has passed."""
    TRADE = "F"
    """Fills the order, in full or in part."""


class OrdRejReason(StrEnum):
    """OrdRejReason (103)."""

    BROKER_OPTION = "0"
    UNKNOWN_SYMBOL = "1"
    MARKET_CLOSED = "2"
    EXCEEDS_LIMIT = "3"
    TOO_LATE = "4"
    UNKNOWN_ORDER = "5"
    DUPLICATE_ORDER = "6"
    INCORRECT_QUANTITY = "13"
    PRICE_OUT_OF_BAND = "16"
    OTHER = "99"


class CxlRejResponseTo(StrEnum):
    """CxlRejResponseTo (434)."""

    CANCEL = "1"
    REPLACE = "2"


class CxlRejReason(StrEnum):
    """CxlRejReason (102)."""

    TOO_LATE = "0"
    UNKNOWN_ORDER = "1"
    BROKER_OPTION = "2"
    ALREADY_PENDING = "3"
    OTHER = "99"


class QuoteRequestRejectReason(StrEnum):
    """QuoteRequestRejectReason (658)."""

    UNKNOWN_SYMBOL = "1"
    MARKET_CLOSED = "2"
    EXCEEDS_LIMIT = "3"
    TOO_LATE = "4"
    INVALID_PRICE = "5"
    NOT_AUTHORIZED = "6"
    NO_QUOTES = "9"
    OTHER = "99"


class QuoteCancelType(StrEnum):
    """QuoteCancelType (298)."""

    SYMBOL = "1"
    ALL = "4"
    QUOTE = "5"


class QuoteRespType(StrEnum):
    """QuoteRespType (694). To hit a quote, send an order; there is no other way."""

    PASS = "6"  # noqa: S105


class SessionRejectReason(StrEnum):
    """SessionRejectReason (373)."""

    REQUIRED_TAG_MISSING = "1"
    TAG_NOT_DEFINED = "2"
    UNDEFINED_TAG = "3"
    VALUE_INCORRECT = "5"
    INCORRECT_FORMAT = "6"
    INVALID_MSG_TYPE = "11"
    OTHER = "99"


class BusinessRejectReason(StrEnum):
    """BusinessRejectReason (380)."""

    OTHER = "0"
    UNKNOWN_ID = "1"
    UNKNOWN_SECURITY = "2"
    UNSUPPORTED_MESSAGE = "3"
    NOT_AVAILABLE = "4"
    FIELD_MISSING = "5"
    NOT_AUTHORIZED = "6"
    THROTTLED = "8"


class SecurityListRequestType(StrEnum):
    """SecurityListRequestType (559)."""

    SYMBOL = "0"
    ALL = "4"


class SecurityRequestResult(StrEnum):
    """SecurityRequestResult (560)."""

    VALID = "0"
    INVALID = "1"
    NONE_FOUND = "2"


class SubscriptionRequestType(StrEnum):
    """SubscriptionRequestType (263)."""

    SNAPSHOT = "0"
    SUBSCRIBE = "1"
    UNSUBSCRIBE = "2"


class MDEntryType(StrEnum):
    """MDEntryType (269)."""

    BID = "0"
    OFFER = "1"
    TRADE = "2"
    INDEX = "3"


class MDUpdateAction(StrEnum):
    """MDUpdateAction (279)."""

    NEW = "0"
    CHANGE = "1"
    DELETE = "2"


class PosReqType(StrEnum):
    """PosReqType (724)."""

    POSITIONS = "0"


class PosReqResult(StrEnum):
    """PosReqResult (728)."""

    VALID = "0"
    INVALID = "1"
    NONE_FOUND = "2"


class CollAsgnReason(StrEnum):
    """CollAsgnReason (895)."""

    INITIAL = "0"
    SCHEDULED = "1"
    TIME_WARNING = "2"
    MARGIN_DEFICIENCY = "3"
    MARGIN_EXCESS = "4"


class CollAsgnRespType(StrEnum):
    """CollAsgnRespType (905)."""

    ACCEPTED = "1"
    REJECTED = "3"


class CollAsgnRejectReason(StrEnum):
    """CollAsgnRejectReason (906), with our own reasons from 100 on."""

    INSUFFICIENT = "3"
    OTHER = "99"
    NOT_IN_TREE = "100"
    SPENT = "101"
    WRONG_CUSTODY = "102"
    WRONG_TOKEN = "103"  # noqa: S105
    WRONG_OPENING = "104"


class SettlementKind(StrEnum):
    """What a UST proposes."""

    SETTLE = "settle"
    """Ends the custody: both parties' notes in, two sole-custody notes out."""
    RELEASE = "release"
    """Pays an amount out of one lane's collateral; the rest stays."""
    MERGE = "merge"
    """Merges two notes of the custody into one."""


class ForceKind(StrEnum):
    """What a UFC forces."""

    CANCEL = "cancel"
    CLOSE = "close"


class FactKind(StrEnum):
    """The kind of chain fact that a UCF cites."""

    SPENT = "spent"
    """A nullifier was spent in that transaction."""
    INSERTED = "inserted"
    """A commitment was inserted in that transaction."""


class JournalStatus(StrEnum):
    """What a journal may do if it is not the newest of its custody."""

    RESTORED = "restored"
    """A backup, or repaired. Its owner signs no frames, only settlements with the wallet."""


class LaneCode(StrEnum):
    """A lane, as payloads name it."""

    TRADER = "0"
    SOLVER = "1"
