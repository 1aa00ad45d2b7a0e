"""The vocabulary of pSymm: FIX semantics in FIX's JSON encoding, typed, to and from bytes.

    record      messages that frames carry: signed, they bind their sender
    text        messages of WebSocket texts: unsigned, they bind nobody
    enums       the enumerated values
    wire        how a class declares a message, and the schema made from these classes
    formatting  messages as text for people

``decode`` and ``encode`` handle payloads of frames; ``decode_text`` and ``encode_text`` handle
WebSocket texts. The core's strict parser reads a payload by the schema that ``schema_definition``
gives as data. Every refusal is a ``psymm._core.JsonError`` with a ``code`` and an ``offset``.
Whether a well-formed message may be sent now is for the rulebook to decide.
"""

from __future__ import annotations

from psymm._core import JsonError, Schema
from psymm.messages.enums import (
    BusinessRejectReason,
    CollAsgnReason,
    CollAsgnRejectReason,
    CollAsgnRespType,
    CxlRejReason,
    CxlRejResponseTo,
    ExecType,
    FactKind,
    ForceKind,
    JournalStatus,
    LaneCode,
    MDEntryType,
    MDUpdateAction,
    OrdRejReason,
    OrdType,
    PositionEffect,
    PosReqResult,
    PosReqType,
    QuoteCancelType,
    QuoteRequestRejectReason,
    QuoteRespType,
    SecurityListRequestType,
    SecurityRequestResult,
    SessionRejectReason,
    SettlementKind,
    Side,
    SubscriptionRequestType,
)
from psymm.messages.record import (
    AcceptedNote,
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
    NoteRef,
    OraclePrice,
    OracleSignature,
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
    SymbolPrice,
)
from psymm.messages.text import (
    AccountPart,
    CheckpointRequest,
    CollateralReport,
    Introduction,
    MarketDataIncrementalRefresh,
    MarketDataRequest,
    MarketDataSnapshotFullRefresh,
    MDChange,
    MDEntry,
    MDEntryTypeRef,
    NoteOpeningEntry,
    NoteOpenings,
    PositionReport,
    RequestForPositions,
    ResendRequest,
    Resume,
    SecurityDefinition,
    SecurityEntry,
    SecurityList,
    SecurityListRequest,
    SymbolRef,
    TermsDocument,
    TestRequest,
)
from psymm.messages.wire import (
    Flow,
    GroupEntry,
    Message,
    from_mapping,
    is_exact,
    message_types,
    schema_definition,
    to_mapping,
)

__all__ = [
    "AcceptedNote",
    "AccountPart",
    "BusinessMessageReject",
    "BusinessRejectReason",
    "ChainFact",
    "Checkpoint",
    "CheckpointRequest",
    "CollAsgnReason",
    "CollAsgnRejectReason",
    "CollAsgnRespType",
    "CollateralAssignment",
    "CollateralReport",
    "CollateralRequest",
    "CollateralResponse",
    "CxlRejReason",
    "CxlRejResponseTo",
    "ExecType",
    "ExecutionReport",
    "FactKind",
    "Flow",
    "ForceAction",
    "ForceKind",
    "Funding",
    "GroupEntry",
    "Heartbeat",
    "Introduction",
    "JournalStatus",
    "JsonError",
    "LaneCode",
    "Leg",
    "Liquidation",
    "Logon",
    "Logout",
    "MDChange",
    "MDEntry",
    "MDEntryType",
    "MDEntryTypeRef",
    "MDUpdateAction",
    "MarketDataIncrementalRefresh",
    "MarketDataRequest",
    "MarketDataSnapshotFullRefresh",
    "Message",
    "NewOrderMultileg",
    "NewOrderSingle",
    "NoteOpeningEntry",
    "NoteOpenings",
    "NoteRef",
    "OraclePrice",
    "OracleSignature",
    "OrdRejReason",
    "OrdType",
    "OrderCancelReject",
    "OrderCancelReplaceRequest",
    "OrderCancelRequest",
    "PosReqResult",
    "PosReqType",
    "PositionEffect",
    "PositionReport",
    "Quote",
    "QuoteCancel",
    "QuoteCancelType",
    "QuoteRequest",
    "QuoteRequestReject",
    "QuoteRequestRejectReason",
    "QuoteRespType",
    "QuoteResponse",
    "Reject",
    "RequestForPositions",
    "ResendRequest",
    "Resume",
    "SecurityDefinition",
    "SecurityEntry",
    "SecurityList",
    "SecurityListRequest",
    "SecurityListRequestType",
    "SecurityRequestResult",
    "SessionKeyChange",
    "SessionRejectReason",
    "Settlement",
    "SettlementAcceptance",
    "SettlementKind",
    "SettlementOutput",
    "Side",
    "SubscriptionRequestType",
    "SymbolPrice",
    "SymbolRef",
    "TermsDocument",
    "TestRequest",
    "decode",
    "decode_text",
    "encode",
    "encode_text",
    "is_exact",
    "message_types",
    "schema_definition",
]


# Separate names instead of a table: an enum as a key costs a call for each look-up.
_RECORD, _RECORD_TYPES = Schema(schema_definition(Flow.RECORD)), message_types(Flow.RECORD)
_TEXT, _TEXT_TYPES = Schema(schema_definition(Flow.TEXT)), message_types(Flow.TEXT)


# A message is encoded once to be judged and once to be signed. Keep the last result, so that it
# is encoded only once.
_last: tuple[Message | None, bytes] = (None, b"")


def decode(payload: bytes) -> Message:
    """Decode a frame's payload.

    Raises JsonError (``code``, ``offset``) for bytes that are not one message of the record's
    vocabulary in its one valid form; never anything else.
    """
    mapping = _RECORD.parse(payload)
    message = from_mapping(_RECORD_TYPES[str(mapping["MsgType"])], mapping)
    # A contract rebuilds a checkpoint's payload from its values (`spec.md` 13).
    if type(message) is Checkpoint and encode(message) != payload:
        fault = JsonError("a checkpoint's fields are not in their one order")
        fault.code = "not-canonical"
        raise fault
    return message


def encode(message: Message) -> bytes:
    """Encode a payload canonically: MsgType first, then the schema's order, no whitespace.

    Raises JsonError if a value is out of its type's range, or if ``message`` may not be on the
    record (code ``unknown-message``).
    """
    global _last
    held, payload = _last
    # By identity: a message is frozen, and the one held here cannot be freed and its place reused.
    if held is not message:
        payload = _RECORD.encode({"MsgType": message.MSG_TYPE} | to_mapping(message))
        _last = message, payload
    return payload


def decode_text(text: str | bytes) -> Message:
    """Decode a WebSocket text. Raises JsonError, as ``decode`` does."""
    # With half a surrogate pair, plain `encode` would raise an error of its own. This way the core
    # refuses it like any other bad byte.
    payload = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    mapping = _TEXT.parse(payload)
    return from_mapping(_TEXT_TYPES[str(mapping["MsgType"])], mapping)


def encode_text(message: Message) -> str:
    """Encode a WebSocket text. Raises JsonError, as ``encode`` does."""
    return _TEXT.encode({"MsgType": message.MSG_TYPE} | to_mapping(message)).decode()
