"""One frame against one account: who may send it, when, and which rule applies.

``judge`` is the only entry point. ``advance`` is what every frame does, even one that breaks a
rule: it uses its seq, moves the clock and expires what is out of time. ``rule`` is what its message
does.
"""

from __future__ import annotations

from typing import Final

from psymm import messages as m
from psymm.rulebook import checkpoint, collateral, oracle, orders, quotes, settlement
from psymm.rulebook.account import Lane, OrderStatus
from psymm.rulebook.books import Books
from psymm.rulebook.inputs import FRAME_BYTES, ChainFacts, ReplayInputs, RuledFrame, has_come
from psymm.rulebook.live_account import LiveAccount
from psymm.rulebook.totals import first_expiry
from psymm.rulebook.violation import RuleBroken, Violation, refuse, violated
from psymm.terms import CLOSING_BYTES

_TRADERS: Final = (
    m.QuoteRequest,
    m.QuoteResponse,
    m.NewOrderSingle,
    m.NewOrderMultileg,
    m.OrderCancelRequest,
    m.OrderCancelReplaceRequest,
    m.ForceAction,
)
_SOLVERS: Final = (
    m.Quote,
    m.QuoteRequestReject,
    m.QuoteCancel,
    m.OrderCancelReject,
    m.ExecutionReport,
)
_HARMLESS: Final = (m.Heartbeat, m.Reject, m.BusinessMessageReject, m.CollateralRequest)
"""Messages that change nothing, so that only the state of their own lane can forbid them."""
_WHILE_FROZEN: Final = (
    *_HARMLESS,
    m.Logout,
    m.SettlementAcceptance,
    m.ChainFact,
    m.SessionKeyChange,
    m.Checkpoint,
)
_AT_LIMIT: Final = (
    m.Heartbeat,
    m.Reject,
    m.Logout,
    m.Checkpoint,
    m.SettlementOutput,
    m.Settlement,
    m.SettlementAcceptance,
    m.ChainFact,
    m.SessionKeyChange,
    m.OraclePrice,
    m.Funding,
    m.Liquidation,
    m.ForceAction,
)
"""What a lane at its limit may still send (``spec.md`` 10). Heartbeats, because a checkpoint counts
only what is covered; payees, because a settlement needs them."""
NO_TIME: Final = 0
"""The legal time of a frame that does not move the clock."""
MOST_UNCOVERED: Final = 128
"""Most uncovered solver frames (``spec.md`` 67).

Beyond them only Heartbeats are valid, and no frame moves the clock."""
_NOT_YET: Final = (m.NewOrderMultileg, m.Funding, m.Liquidation)


def judge(
    account: LiveAccount,
    entry: RuledFrame,
    legal_time: int,
    inputs: ReplayInputs,
    facts: ChainFacts,
    named: checkpoint.Named,
) -> Violation | None:
    """Judge one frame; the account then is the one after it.

    A frame that breaks a rule keeps its seq and moves the clock, and changes nothing else. This is
    all that a replay knows of the rules.

    Args:
        account: the account before the frame.
        entry: the frame.
        legal_time: as ``sequence`` decided it; ``NO_TIME`` leaves the clock alone.
        inputs: the custody's id and wallets.
        facts: what is known of the chain.
        named: what a UCP may name here.

    Raises FactsBehind if the facts do not suffice; the caller then undoes what the frame did.
    """
    noticed = facts.noticed.get((int(entry.lane), entry.seq)) if facts.noticed else None
    violation: Violation | None = None
    # The lane is full, so the frame does not exist: nobody must keep, cover or show it.
    whole = entry.size + FRAME_BYTES
    if account.bytes_sent[entry.lane] > CLOSING_BYTES and is_beyond_limits(
        account, entry.lane, whole
    ):
        return violated("lane-full", lane=entry.lane.name.lower()).violation
    if noticed is not None and not has_come(
        entry.sending_time, noticed, account.terms.timeouts.skew
    ):
        # Noticed on chain before its own date could come, so it is void (``spec.md`` 2). Its date
        # must not move the clock.
        advance(account, entry, NO_TIME)
        violation = violated("dated-ahead", sent=entry.sending_time, seen=noticed).violation
    else:
        advance(account, entry, legal_time)
        advanced = len(account.log)
        try:
            rule(account, entry, inputs, facts, named)
        except RuleBroken as refused:
            account.undo_to(advanced)
            violation = refused.violation
    # After every frame, valid or not: each one shows whether its lane leaves an offer unanswered.
    if account.offer is not None:
        checkpoint.overdue(account, entry)
    return violation


def is_beyond_limits(account: Books, lane: Lane, size: int) -> bool:
    """Whether a frame of so many bytes is beyond all that its lane may send (``spec.md`` 10)."""
    last, most = account.checkpoint, account.terms.limits.bytes + CLOSING_BYTES
    counted = 0 if last is None else last.bytes_sent[lane]
    return account.bytes_sent[lane] - counted + size > most


def advance(account: LiveAccount, entry: RuledFrame, legal_time: int) -> None:
    """Let a frame take its place: seq, byte counts, clock, and what the clock expires.

    The clock is the maximum of all legal times so far, so it never goes back.
    """
    trader, solver = account.bytes_sent
    clock = max(account.clock, legal_time)
    if entry.lane is Lane.TRADER:
        account.assign(
            trader_seq=entry.seq,
            trader_covers=entry.peer_seq,
            bytes_sent=(trader + entry.size + FRAME_BYTES, solver),
            clock=clock,
        )
    else:
        account.assign(
            solver_seq=entry.seq,
            bytes_sent=(trader, solver + entry.size + FRAME_BYTES),
            clock=clock,
        )
    # Before the message is judged: what has expired by now can no longer be hit or filled.
    if clock > account.next_expiry:
        _expire(account, clock)
    if account.alive is not None:
        settlement.release_freeze(account)


def _expire(account: LiveAccount, clock: int) -> None:
    """Drop quotes, requests and orders whose time is before the clock."""
    for request in list(account.requests.values()):
        if request.expire_time < clock:
            account.drop(account.requests, request.quote_req_id)
    for quote in list(account.quotes.values()):
        if quote.valid_until < clock:
            account.drop(account.quotes, quote.quote_id)
    for order in list(account.orders.values()):
        if order.expire_time < clock:
            orders.end_order(account, order, OrderStatus.EXPIRED)
    account.next_expiry = first_expiry(account)


def rule(  # noqa: C901
    account: LiveAccount,
    entry: RuledFrame,
    inputs: ReplayInputs,
    facts: ChainFacts,
    named: checkpoint.Named,
) -> None:
    """Do what the frame's message does. Raises RuleBroken if it is a violation."""
    # Complex because every message of the vocabulary has its case; each is one call.
    said = entry.message
    if said is None:
        refuse("malformed", code=entry.malformed)
    # It claims to cover a frame that its signer cannot have seen (``spec.md`` 66).
    if entry.unseen:
        refuse("covers-ahead", stated=entry.unseen, seen=entry.peer_seq)
    uncovered = entry.seq - account.trader_covers if entry.lane is Lane.SOLVER else 0
    if uncovered > MOST_UNCOVERED and not isinstance(said, m.Heartbeat):
        refuse("too-many-uncovered", covered=account.trader_covers, most=MOST_UNCOVERED)
    # Permission first: a message that the lane may not send now must not be looked at further.
    _admit(account, entry, said)
    match said:
        case m.Logon():
            collateral.log_on(account, entry, said)
        case m.Logout():
            collateral.log_out(account, entry, said)
        case m.SessionKeyChange():
            collateral.change_key(account, entry, said)
        case m.CollateralAssignment():
            collateral.assign(account, entry, said)
        case m.CollateralResponse():
            collateral.respond(account, entry, said)
        case m.QuoteRequest():
            quotes.ask(account, said)
        case m.QuoteRequestReject():
            quotes.decline_request(account, said)
        case m.Quote():
            quotes.quote(account, entry, said)
        case m.QuoteCancel():
            quotes.withdraw(account, said)
        case m.QuoteResponse():
            quotes.pass_on(account, entry, said)
        case m.NewOrderSingle():
            orders.send(account, entry, said)
            # Payees were named for the flat account, which an order ends.
            if account.trader_payee or account.solver_payee:
                settlement.forget_payees(account)
        case m.OrderCancelRequest():
            orders.ask_cancel(account, said)
        case m.OrderCancelReplaceRequest():
            orders.ask_replace(account, said)
        case m.OrderCancelReject():
            orders.refuse_request(account, said)
        case m.ExecutionReport():
            orders.report(account, entry, said)
        case m.ForceAction():
            orders.force(account, said)
        case m.OraclePrice():
            oracle.take_price(account, said)
        case m.SettlementOutput():
            settlement.name_payee(account, entry, said, inputs)
        case m.Settlement():
            settlement.propose(account, entry, said, inputs)
        case m.SettlementAcceptance():
            settlement.accept(account, entry, said)
        case m.ChainFact():
            settlement.cite(account, entry, said, facts)
        case m.Checkpoint():
            checkpoint.agree(account, entry, said, named)
        case m.Reject():
            collateral.disown(account, entry, said)
            checkpoint.rejected(account, entry, said)
        case _ if isinstance(said, _HARMLESS):
            pass
        case _:
            refuse("not-yet-in-force", msg_type=said.MSG_TYPE)


def _admit(account: Books, entry: RuledFrame, said: m.Message) -> None:
    """Check that this lane may send this kind of message now. Raises RuleBroken."""
    lane = entry.lane
    if isinstance(said, _SOLVERS if lane is Lane.TRADER else _TRADERS):
        refuse("wrong-lane", msg_type=said.MSG_TYPE, lane=lane.name.lower())
    # The Logon brings the key and the notes that the checks below need.
    if isinstance(said, m.Logon):
        return
    if not account.logged_on[lane]:
        refuse("not-logged-on", lane=lane.name.lower())
    # A frame beyond the key's range is void, but its lane may still bring the next key.
    key = account.keys[lane][-1]
    outside = entry.seq > key.to_seq or entry.sending_time > key.expiry
    if outside and not isinstance(said, m.SessionKeyChange):
        refuse("session-key-expired", seq=entry.seq, to_seq=key.to_seq, expiry=key.expiry)
    if isinstance(said, m.Reject | m.BusinessMessageReject):
        named = said.ref_seq_num
        if named is not None and not 1 <= named <= entry.peer_seq:
            refuse("unknown-frame", ref_seq_num=named, covered=entry.peer_seq)
    # A settled custody has nothing left to change.
    if account.ended and not isinstance(said, (*_HARMLESS, m.Logout)):
        refuse("custody-ended", msg_type=said.MSG_TYPE)
    # A signed settlement is an option on the account as it is, so nothing may change the account.
    if account.alive is not None and not isinstance(said, _WHILE_FROZEN):
        refuse("frozen", msg_type=said.MSG_TYPE, deadline=_deadline(account))
    # At the limit only what lets the lane checkpoint or end is allowed (``spec.md`` 10).
    limits = account.terms.limits
    # No lane is there before it has sent so much in all.
    if entry.seq > limits.frames or account.bytes_sent[lane] > limits.bytes:
        frames, sent = account.since_checkpoint(lane)
        if (frames > limits.frames or sent > limits.bytes) and not isinstance(said, _AT_LIMIT):
            refuse("lane-at-limit", frames=frames, bytes=sent)
    if isinstance(said, _NOT_YET):
        refuse("not-yet-in-force", msg_type=said.MSG_TYPE)
    if isinstance(said, (*_TRADERS, *_SOLVERS)) and not account.trading_open:
        refuse("trading-not-open", msg_type=said.MSG_TYPE)
    if isinstance(said, m.QuoteRequest | m.Quote) and any(account.logged_out):
        _check_closes(account, said)


def _check_closes(account: Books, said: m.QuoteRequest | m.Quote) -> None:
    """After a Logout a quote is allowed only to close what is open in its symbol (`spec.md` 63)."""
    if not any(position.symbol == said.symbol for position in account.positions.values()):
        refuse("logged-out", msg_type=said.MSG_TYPE)


def _deadline(account: Books) -> int | None:
    alive = account.settlement
    return None if alive is None else alive.deadline_s
