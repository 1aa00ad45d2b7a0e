"""Messages off the record: WebSocket texts.

They are unsigned and bind nobody. One exception: a solver's introduction that answers a trader with
collateral is signed (`spec.md` 61). Texts carry introductions, resumes, terms, openings, indicative
prices, and reports that the rulebook can derive. Units are as in ``psymm.messages.record``.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated

from psymm.messages.enums import (
    JournalStatus,
    LaneCode,
    MDEntryType,
    MDUpdateAction,
    PosReqResult,
    PosReqType,
    SecurityListRequestType,
    SecurityRequestResult,
    Side,
    SubscriptionRequestType,
)
from psymm.messages.wire import (
    Address,
    Amount,
    Count,
    Digest,
    Document,
    Entries,
    Flow,
    GroupEntry,
    Id,
    Message,
    Nanoseconds,
    Note,
    Piece,
    Positive,
    PublicKey,
    Signature,
    Symbol,
    Units,
    Word,
    group_entry,
    message,
)

# --- parts -------------------------------------------------------------------------------------


@group_entry
class NoteOpeningEntry(GroupEntry):
    """A note's opening, from which its commitment follows. ``repr`` and logs omit the blinding."""

    commitment: Digest
    blinding: Digest = dataclasses.field(repr=False)
    token: Address
    amount: Units


@group_entry
class SymbolRef(GroupEntry):
    """One instrument of a request."""

    symbol: Symbol


@group_entry
class SecurityEntry(GroupEntry):
    """One instrument of a list."""

    symbol: Symbol
    security_type: Word
    min_price_increment: Positive
    round_lot: Positive
    security_desc: Note | None = None


@group_entry
class MDEntryTypeRef(GroupEntry):
    """One kind of entry that a request asks for."""

    md_entry_type: MDEntryType


@group_entry
class MDEntry(GroupEntry):
    """One price of a snapshot."""

    md_entry_type: MDEntryType
    md_entry_px: Positive
    md_entry_size: Positive | None = None


@group_entry
class MDChange(GroupEntry):
    """One change of an incremental refresh; a deletion carries no price."""

    md_update_action: MDUpdateAction
    md_entry_type: MDEntryType
    symbol: Symbol
    md_entry_px: Positive | None = None
    md_entry_size: Positive | None = None


# --- session -----------------------------------------------------------------------------------


@message("UHI", Flow.TEXT)
class Introduction(Message):
    """Introduces the sender, with a nonce for the custody's salt.

    ``Collateral`` is what the sender will put up, in token units. ``Version`` is text, so that an
    error can name an unknown one.

    A solver's answer to a trader that brings collateral is signed: ``Signature`` is made with
    ``IntroductionKey``, which the solver's wallet delegates with ``KeySignature``.
    ``psymm.transcript.introduction`` defines what they cover. ``SendingTime`` is the solver's
    clock, so that a trader notices a wrong clock before it funds.
    """

    version: Word
    public_key: PublicKey
    nonce: Digest = dataclasses.field(repr=False)
    terms_hash: Digest | None = None
    collateral: Units | None = None
    expiry: Nanoseconds | None = None
    introduction_key: PublicKey | None = None
    key_expiry: Nanoseconds | None = None
    key_signature: Signature | None = None
    signature: Signature | None = None
    sending_time: Nanoseconds | None = None


@message("URS", Flow.TEXT)
class Resume(Message):
    """The sender's heads, signed over the receiver's challenge (`spec.md` 69).

    The digest of seq 0 is the custody's id.

    With ``Challenge`` it only asks the receiver to sign its heads over these 32 random bytes; the
    heads in it mean nothing. Without ``Challenge``, unsigned and with both heads at 0, it says that
    the sender holds nothing of the custody.

    ``JournalStatus`` says that the sender's journal is not its newest: the sender takes frames of
    both lanes from the receiver, and signs none.

    ``SessionPublicKey`` made ``Signature``. ``FromSeq``, ``ToSeq``, ``Expiry`` and
    ``DelegationSignature`` are the wallet's delegation of that key. Its range is 0 to 0 if the key
    may sign no frames.
    """

    custody: Digest
    trader_seq: Count
    trader_digest: Digest
    solver_seq: Count
    solver_digest: Digest
    journal_status: JournalStatus | None = None
    challenge: Digest | None = None
    session_public_key: PublicKey | None = None
    from_seq: Count | None = None
    to_seq: Count | None = None
    expiry: Nanoseconds | None = None
    delegation_signature: Signature | None = None
    signature: Signature | None = None


@message("1", Flow.TEXT)
class TestRequest(Message):
    """Asks for a Heartbeat that repeats ``TestReqID``."""

    test_req_id: Id


@message("2", Flow.TEXT)
class ResendRequest(Message):
    """Asks for frames of ``Lane`` from ``BeginSeqNo`` to ``EndSeqNo``; 0 means no end.

    Without ``Lane`` it means the receiver's own. A side that has lost frames also asks for its own
    lane.
    """

    begin_seq_no: Count
    end_seq_no: Count
    lane: LaneCode | None = None


@message("UCQ", Flow.TEXT)
class CheckpointRequest(Message):
    """The solver asks the trader to cover its frame ``SolverSeq``.

    A checkpoint can then count that frame.
    """

    solver_seq: Count


@message("UCA", Flow.TEXT)
class AccountPart(Message):
    """A part of the sender's canonical account after the named frames. Parts count from 1.

    It is sent if the two sides' hashes differ.
    """

    solver_seq: Count
    trader_seq: Count
    account_hash: Digest
    part: Count
    parts: Count
    content: Piece


@message("UTM", Flow.TEXT)
class TermsDocument(Message):
    """The terms' bytes, exactly as they are hashed."""

    terms: Document


@message("UOP", Flow.TEXT)
class NoteOpenings(Message):
    """The openings of notes that the sender's frames list."""

    openings: Annotated[tuple[NoteOpeningEntry, ...], Entries(16, some=True)]


# --- reference ---------------------------------------------------------------------------------


@message("x", Flow.TEXT)
class SecurityListRequest(Message):
    """Asks for the instruments of the terms."""

    security_req_id: Id
    security_list_request_type: SecurityListRequestType
    symbol: Symbol | None = None


@message("y", Flow.TEXT)
class SecurityList(Message):
    """The instruments."""

    security_req_id: Id
    security_request_result: SecurityRequestResult
    no_related_sym: Annotated[tuple[SecurityEntry, ...], Entries(256)] = ()


@message("d", Flow.TEXT)
class SecurityDefinition(Message):
    """One instrument in full, as the terms have it."""

    security_req_id: Id
    security_request_result: SecurityRequestResult
    symbol: Symbol
    security_type: Word
    min_price_increment: Positive
    round_lot: Positive
    min_notional: Positive
    max_notional: Positive
    max_leverage: Positive
    fee_rate: Positive
    fee_receiver: LaneCode | None = None
    security_desc: Note | None = None


# --- indicative --------------------------------------------------------------------------------


@message("V", Flow.TEXT)
class MarketDataRequest(Message):
    """Asks for indicative prices, once or as they change. Depth 1 is the top of the book."""

    md_req_id: Id
    subscription_request_type: SubscriptionRequestType
    market_depth: Count
    no_md_entry_types: Annotated[tuple[MDEntryTypeRef, ...], Entries(8, some=True)]
    no_related_sym: Annotated[tuple[SymbolRef, ...], Entries(256, some=True)]


@message("W", Flow.TEXT)
class MarketDataSnapshotFullRefresh(Message):
    """Indicative prices of one instrument; they bind nobody."""

    md_req_id: Id
    symbol: Symbol
    transact_time: Nanoseconds | None = None
    no_md_entries: Annotated[tuple[MDEntry, ...], Entries(64)] = ()


@message("X", Flow.TEXT)
class MarketDataIncrementalRefresh(Message):
    """Changes since the last snapshot or refresh."""

    md_req_id: Id
    transact_time: Nanoseconds | None = None
    no_md_entries: Annotated[tuple[MDChange, ...], Entries(256)] = ()


# --- reports -----------------------------------------------------------------------------------


@message("AN", Flow.TEXT)
class RequestForPositions(Message):
    """Asks for the sender's view of the positions."""

    pos_req_id: Id
    pos_req_type: PosReqType
    symbol: Symbol | None = None


@message("AP", Flow.TEXT)
class PositionReport(Message):
    """One position as the sender's account has it. ``Side`` is the trader's."""

    pos_maint_rpt_id: Id
    pos_req_result: PosReqResult
    pos_req_id: Id | None = None
    position_id: Digest | None = None
    symbol: Symbol | None = None
    side: Side | None = None
    quantity: Positive | None = None
    avg_px: Positive | None = None
    settl_price: Positive | None = None


@message("BA", Flow.TEXT)
class CollateralReport(Message):
    """A lane's balances. The receiver can compare ``AccountHash`` with its own after these frames.

    ``TotalNetValue`` (900) is the equity and ``MarginExcess`` (899) what is available for orders,
    both of ``Lane``.
    """

    coll_rpt_id: Id
    lane: LaneCode
    trader_seq: Count
    solver_seq: Count
    account_hash: Digest
    allocated: Amount
    total_net_value: Amount
    locked: Positive
    pending: Positive
    margin_excess: Amount
