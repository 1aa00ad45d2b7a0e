"""Messages on the record: payloads of signed frames.

Times are integers in nanoseconds since the epoch, except ``Deadline``: it is in seconds, because a
contract reads it. Prices and quantities are integers scaled by 10**18. Values in the frame's header
(seq, peerSeq, sendingTime) have no field here.
"""

from __future__ import annotations

from typing import Annotated

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
    LaneCode,
    OrdRejReason,
    OrdType,
    PositionEffect,
    QuoteCancelType,
    QuoteRequestRejectReason,
    QuoteRespType,
    SessionRejectReason,
    SettlementKind,
    Side,
)
from psymm.messages.wire import (
    Address,
    Amount,
    Count,
    Digest,
    Entries,
    Flag,
    Flow,
    GroupEntry,
    Id,
    Memo,
    Message,
    Nanoseconds,
    Note,
    Positive,
    PublicKey,
    Seconds,
    Signature,
    Symbol,
    Units,
    Word,
    group_entry,
    message,
)

# --- parts -------------------------------------------------------------------------------------


@group_entry
class NoteRef(GroupEntry):
    """A note as frames name it. Its blinding never appears in a frame."""

    commitment: Digest
    nullifier: Digest


@group_entry
class AcceptedNote(GroupEntry):
    """An accepted note, with what it holds."""

    commitment: Digest
    token: Address
    amount: Units


@group_entry
class OracleSignature(GroupEntry):
    """One oracle signer's signature of a price."""

    signature: Signature


@group_entry
class Leg(GroupEntry):
    """One leg of a multileg order."""

    leg_symbol: Symbol
    leg_side: Side
    leg_qty: Positive
    leg_price: Positive | None = None


@group_entry
class SymbolPrice(GroupEntry):
    """An oracle price inside another message."""

    symbol: Symbol
    price: Positive
    timestamp: Nanoseconds
    signatures: Annotated[tuple[OracleSignature, ...], Entries(16, some=True)]


# --- session -----------------------------------------------------------------------------------


@message("A", Flow.RECORD)
class Logon(Message):
    """A lane's first frame: the terms, its session key and its notes.

    The delegation is ``SessionKey(wallet, key, custody, lane, fromSeq, toSeq, expiry)``, signed by
    the wallet. Wallet, custody and lane are not repeated: they are those of the custody and the
    frame. ``key`` is the address of ``SessionPublicKey``. HeartBtInt is in seconds.
    """

    terms_hash: Digest
    session_public_key: PublicKey
    from_seq: Count
    to_seq: Count
    expiry: Nanoseconds
    delegation_signature: Signature
    heart_bt_int: Seconds
    # A solver's is empty: it lists its notes with AY, once it has verified the trader's. At most 16
    # (`spec.md` 11).
    notes: Annotated[tuple[NoteRef, ...], Entries(16)] = ()


@message("5", Flow.RECORD)
class Logout(Message):
    """From now on nothing opens. What is open can be closed, and the custody settled."""

    text: Note | None = None


@message("3", Flow.RECORD)
class Reject(Message):
    """The frame ``RefSeqNum`` of the other lane is malformed or breaks a rule, named here."""

    ref_seq_num: Count
    violation: Word
    ref_msg_type: Word | None = None
    session_reject_reason: SessionRejectReason | None = None
    text: Note | None = None


@message("j", Flow.RECORD, Flow.TEXT)
class BusinessMessageReject(Message):
    """The message is valid, but its receiver does not serve it."""

    ref_msg_type: Word
    business_reject_reason: BusinessRejectReason
    ref_seq_num: Count | None = None
    business_reject_ref_id: Id | None = None
    text: Note | None = None


@message("0", Flow.RECORD, Flow.TEXT)
class Heartbeat(Message):
    """As a text: a sign of life. As a frame: a cover that needs no cover itself."""

    test_req_id: Id | None = None


@message("UKY", Flow.RECORD)
class SessionKeyChange(Message):
    """A new session key, in force from this frame on, which it signs. Delegation as in Logon."""

    session_public_key: PublicKey
    from_seq: Count
    to_seq: Count
    expiry: Nanoseconds
    delegation_signature: Signature


# --- quotes ------------------------------------------------------------------------------------


@message("R", Flow.RECORD)
class QuoteRequest(Message):
    """The trader asks for a quote; without a side, for both sides."""

    quote_req_id: Id
    symbol: Symbol
    order_qty: Positive
    side: Side | None = None
    expire_time: Nanoseconds | None = None


@message("S", Flow.RECORD)
class Quote(Message):
    """The solver quotes. A quote can be hit once.

    The order's legal time must not be later than ``ValidUntilTime``. Without a size the quantity is
    not limited.
    """

    quote_id: Id
    symbol: Symbol
    valid_until_time: Nanoseconds
    quote_req_id: Id | None = None
    bid_px: Positive | None = None
    offer_px: Positive | None = None
    bid_size: Positive | None = None
    offer_size: Positive | None = None


@message("AG", Flow.RECORD)
class QuoteRequestReject(Message):
    """The solver will not quote."""

    quote_req_id: Id
    quote_request_reject_reason: QuoteRequestRejectReason
    text: Note | None = None


@message("Z", Flow.RECORD)
class QuoteCancel(Message):
    """The solver withdraws one quote, those of a symbol, or all."""

    quote_cancel_type: QuoteCancelType
    quote_id: Id | None = None
    symbol: Symbol | None = None


@message("AJ", Flow.RECORD)
class QuoteResponse(Message):
    """The trader declines a quote, which ends it."""

    quote_resp_id: Id
    quote_id: Id
    quote_resp_type: QuoteRespType


# --- orders ------------------------------------------------------------------------------------


@message("D", Flow.RECORD)
class NewOrderSingle(Message):
    """The trader's order to open, or to close (part of) a position.

    A limit order carries ``Price``. A previously quoted one carries ``QuoteID``. A market order
    carries either: ``Price`` is then the worst price that it accepts. With both, they must agree.
    A close names its ``PositionID``.
    """

    cl_ord_id: Id
    symbol: Symbol
    side: Side
    order_qty: Positive
    ord_type: OrdType
    position_effect: PositionEffect
    expire_time: Nanoseconds
    price: Positive | None = None
    quote_id: Id | None = None
    position_id: Digest | None = None


@message("AB", Flow.RECORD)
class NewOrderMultileg(Message):
    """Several legs that are filled together or not at all."""

    cl_ord_id: Id
    order_qty: Positive
    expire_time: Nanoseconds
    no_legs: Annotated[tuple[Leg, ...], Entries(16, some=True)]
    quote_id: Id | None = None


@message("F", Flow.RECORD)
class OrderCancelRequest(Message):
    """The trader asks to cancel the order ``OrigClOrdID``."""

    cl_ord_id: Id
    orig_cl_ord_id: Id


@message("G", Flow.RECORD)
class OrderCancelReplaceRequest(Message):
    """The trader asks to replace price, quantity and life of the order ``OrigClOrdID``.

    ``OrderQty`` is the whole quantity, including what is filled already. After the replacement the
    order is known by ``ClOrdID``.
    """

    cl_ord_id: Id
    orig_cl_ord_id: Id
    order_qty: Positive
    price: Positive
    expire_time: Nanoseconds


@message("9", Flow.RECORD)
class OrderCancelReject(Message):
    """The solver refuses a cancel or replace request."""

    cl_ord_id: Id
    orig_cl_ord_id: Id
    cxl_rej_response_to: CxlRejResponseTo
    cxl_rej_reason: CxlRejReason
    text: Note | None = None


@message("8", Flow.RECORD)
class ExecutionReport(Message):
    """What the solver does with an order: see ``ExecType``.

    A trade carries ``LastPx`` and ``LastQty``. ``CumQty`` and ``LeavesQty`` are optional, because
    they follow from the record; if stated, they must be right.
    """

    exec_id: Id
    cl_ord_id: Id
    exec_type: ExecType
    orig_cl_ord_id: Id | None = None
    last_px: Positive | None = None
    last_qty: Positive | None = None
    cum_qty: Positive | None = None
    leaves_qty: Positive | None = None
    ord_rej_reason: OrdRejReason | None = None
    text: Note | None = None


@message("UFC", Flow.RECORD)
class ForceAction(Message):
    """The trader forces an unanswered cancel or an unfilled close."""

    force_kind: ForceKind
    cl_ord_id: Id
    orig_cl_ord_id: Id
    prices: Annotated[tuple[SymbolPrice, ...], Entries(1)] = ()


# --- collateral --------------------------------------------------------------------------------


@message("AX", Flow.RECORD)
class CollateralRequest(Message):
    """Asks the other side for more collateral."""

    coll_req_id: Id
    coll_asgn_reason: CollAsgnReason
    amount: Units | None = None
    text: Note | None = None


@message("AY", Flow.RECORD)
class CollateralAssignment(Message):
    """The sender lists notes as its lane's collateral."""

    coll_asgn_id: Id
    coll_asgn_reason: CollAsgnReason
    notes: Annotated[tuple[NoteRef, ...], Entries(16, some=True)]
    coll_req_id: Id | None = None


@message("AZ", Flow.RECORD)
class CollateralResponse(Message):
    """The sender accepts named notes that the other lane listed, or says why it refuses."""

    coll_resp_id: Id
    coll_asgn_resp_type: CollAsgnRespType
    coll_asgn_id: Id | None = None
    coll_asgn_reject_reason: CollAsgnRejectReason | None = None
    commitments: Annotated[tuple[AcceptedNote, ...], Entries(16)] = ()
    text: Note | None = None


# --- ours --------------------------------------------------------------------------------------


@message("UCP", Flow.RECORD)
class Checkpoint(Message):
    """The account's hash after solver frame ``SolverSeq``, which covers trader frame
    ``TraderSeq``; what it would pay then, and whether nothing is open.

    Positions count at the prices in effect. Its payload has one order of fields only, so that a
    contract can rebuild it from the values (`spec.md` 13, 22).
    """

    account_hash: Digest
    solver_seq: Count
    trader_seq: Count
    trader_payout: Units
    solver_payout: Units
    flat: Flag


@message("UPY", Flow.RECORD, Flow.TEXT)
class SettlementOutput(Message):
    """Where a settlement is to pay the sender (`spec.md` 64).

    ``Inner`` is H2(id of the sender's sole custody, blinding). ``Memo`` is encrypted. ``Amount`` is
    what the memo names, after the fee if the sender will propose. This is enough for a proof, but
    too little to notice when the note is spent.

    With ``Signature``, a wallet's over these values, it names the payee of that wallet's lane. A
    side that must not sign frames sends it as a text, and the other side puts it on the record
    unchanged.

    ``RefSeqNum`` is set only if the trader's wallet signs: it covers the solver's frames up to that
    one. They all count as sent in time, and no later cover can void one.
    """

    inner: Digest
    memo: Memo
    amount: Units
    ref_seq_num: Count | None = None
    signature: Signature | None = None


@message("UST", Flow.RECORD)
class Settlement(Message):
    """A proposed CTC with its sender's wallet signature over the CTC's digest.

    ``Memos`` is keccak256(memo0 ‖ memo1). ``Deadline`` is in seconds since the epoch. Without a
    relayer, ``Relayer``, ``FeeToken`` and ``Fee`` are zero. A settlement states both payouts
    before the fee; a release states ``Amount``, which leaves its sender's collateral.
    """

    ust_kind: SettlementKind
    nullifier0: Digest
    nullifier1: Digest
    commitment0: Digest
    commitment1: Digest
    memos: Digest
    relayer: Address
    fee_token: Address
    fee: Units
    deadline: Seconds
    signature: Signature
    trader_payout: Units | None = None
    solver_payout: Units | None = None
    amount: Units | None = None


@message("USA", Flow.RECORD, Flow.TEXT)
class SettlementAcceptance(Message):
    """The other wallet's signature over the CTC that the other lane's frame ``RefSeqNum`` proposes.

    A side that must not sign frames sends it as a text: the wallet's signature is what binds.
    """

    ref_seq_num: Count
    signature: Signature


@message("UPX", Flow.RECORD)
class OraclePrice(Message):
    """A price that the terms' oracle signers signed."""

    symbol: Symbol
    price: Positive
    timestamp: Nanoseconds
    signatures: Annotated[tuple[OracleSignature, ...], Entries(16, some=True)]


@message("UFR", Flow.RECORD)
class Funding(Message):
    """Funding of one instrument for one epoch, at an oracle price of its window."""

    symbol: Symbol
    epoch: Nanoseconds
    rate: Amount
    price: Positive
    timestamp: Nanoseconds
    signatures: Annotated[tuple[OracleSignature, ...], Entries(16, some=True)]


@message("ULQ", Flow.RECORD)
class Liquidation(Message):
    """The sender liquidates ``Lane`` at the prices shown."""

    lane: LaneCode
    prices: Annotated[tuple[SymbolPrice, ...], Entries(64, some=True)]


@message("UCF", Flow.RECORD)
class ChainFact(Message):
    """Cites something that happened on chain. A false citation is a fault."""

    fact_kind: FactKind
    block_number: Count
    transaction_hash: Digest
    nullifier: Digest | None = None
    commitment: Digest | None = None
