"""`connect`: meet a solver, put up collateral, and hold the session open.

`connect` runs a `TraderSession` in a nursery of its own. The session's events go through an
`EventCache` to the calls that wait for them.

States: `connect` yields when the session is trading or settling. Leaving its block closes the
connection; the custody stays as it is. After that, calls that sign or wait raise.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

import trio

from psymm.api.amounts import Number, scaled, token_units
from psymm.api.choosing import Offer, policy_for, show_tokens
from psymm.api.client import Client
from psymm.api.event_cache import EventCache
from psymm.api.policy import TraderPolicy
from psymm.api.trader import Session
from psymm.chain.registry import RegistryEntry
from psymm.chain.rpc import own_deadline
from psymm.errors import Disconnected, Leaving, PeerSilent, PSymmError, SessionClosed, TermsChanged
from psymm.journal.codec import JournalledCustody
from psymm.messages import Side
from psymm.nursery import open_block_nursery
from psymm.rulebook import Account
from psymm.session.protocol import Event, SessionStatus
from psymm.session.runtime.handshake import Introduced
from psymm.session.runtime.idle import IdleEnd
from psymm.session.runtime.ledger import RulebookLedger
from psymm.session.runtime.party import LocalParty
from psymm.session.runtime.preflight import NamedToken, PlannedOrder, Wanted
from psymm.session.runtime.runner import SessionRunner
from psymm.session.runtime.settlement import SettlementFlow
from psymm.session.runtime.trader import Backoff, ConnectionLost, Dialer, TraderSession, dialer
from psymm.session.runtime.transport import GOODBYE_S
from psymm.terms import Terms

log = logging.getLogger(__name__)


@asynccontextmanager
async def connect(
    client: Client | LocalParty,
    solver: Offer | RegistryEntry | str,
    *,
    collateral: Number = 0,
    policy: TraderPolicy | None = None,
    expected: bytes | None = None,
    resume: JournalledCustody | None = None,
    tls: ssl.SSLContext | None = None,
    plain: bool = False,
    dial: Dialer | None = None,
    on_event: Callable[[Event | ConnectionLost], None] | None = None,
    backoff: Backoff | None = None,
    decimals: int | None = None,
    token: str | None = None,
    orders: Sequence[PlannedOrder] = (),
    timeout_s: float = 600,
) -> AsyncGenerator[Session, None]:
    """Meet a solver, put up `collateral`, and trade when both sides have accepted.

    Before funding, `psymm.session.runtime.preflight` checks all that can be known: token, policy,
    promises, clocks, orders, own funds, relayer. If a check fails, nothing is kept.

    Leaving the block covers what the solver did, so that its fills count, and closes the
    connection: within six seconds, or at once if there is no connection. The custody stays as it is
    and can be resumed. An error that leaves it open has a note with its id and what is in it.

    Raises TokenUnnamed, WrongParty, BadIntroduction, TermsRefused and its subclasses (TokenDiffers,
    TermsChanged, PolicyRefused), HandshakeRefused and its subclasses (ClocksDiffer, OrderUnfit),
    PeerRefused, FundsTooLow, NoRelayer, FeeTooHigh, CollateralRefused and its subclasses,
    PeerSilent, Disconnected, and what funding raises; AttemptEnded if a custody exists already and
    trying again would not help.
    Cancelled: as leaving the block.

    Args:
        solver: An offer of `best_solver`, and we demand its terms by their hash; or an entry of the
            registry, and we demand its key; or an endpoint, with `expected`.
        collateral: Whole tokens.
        policy: What the terms must keep (`spec.md` 62). Default: `TraderPolicy()`.
        expected: The solver's public key, for an endpoint.
        resume: A custody of the journal to continue. It keeps the terms that it began with, and
            the policy is not checked again.
        plain: Also reach ws:// endpoints on other machines.
        on_event: Receives every event.
        decimals: The token's, if the policy does not say them.
        token: The collateral's symbol or address, if the policy does not say it. Token and decimals
            may both be left out if the deployment lists one token only.
        orders: What you mean to send; see `planned`.
        timeout_s: For handshake, funding and verifying together.
    """
    party = client.party if isinstance(client, Client) else client
    shown = solver.terms.hash if isinstance(solver, Offer) else None
    entry = solver.entry if isinstance(solver, Offer) else solver
    endpoint = entry if isinstance(entry, str) else entry.endpoint
    peer = expected if isinstance(entry, str) else entry.public_key
    # An endpoint that the caller names itself may be anywhere.
    near = party.dials_private or isinstance(entry, str)
    amount, wanted = 0, Wanted()
    if resume is None:
        policy, named = policy_for(party, policy, token, decimals)
        amount = token_units(collateral, named.decimals)
        wanted = Wanted(named, orders, partial(_accept, party, policy, shown))
    else:
        policy = None
        log.info(
            "terms-kept",
            extra={
                "custody": "0x" + resume.agreement.custody.hex(),
                "terms": "0x" + resume.agreement.terms_hash.hex(),
                "note": "a custody keeps the terms that it began with; the policy is not asked",
            },
        )
    events = EventCache(party.rounds.deadlines)
    if on_event is not None:
        events.listeners.append(on_event)
    trader = TraderSession(
        party,
        dial or dialer(endpoint, tls, plain=plain, private=near),
        events.on_event,
        expected=peer,
        collateral=amount,
        endpoint=endpoint,
        resume=resume,
        backoff=backoff,
        wanted=wanted,
    )
    try:
        async with _connected(party, trader, events, timeout_s) as session:
            session.policy = policy
            yield session
    except BaseException as error:
        show_tokens(party, error, wanted.token or _token_of(resume))
        # The user must learn of collateral that stays in a custody.
        left = trader.left_open()
        if left is not None:
            error.add_note(str(left))
        raise
    left = trader.left_open()
    if left is not None:
        log.warning("left-open", extra=left.fields())


@asynccontextmanager
async def _connected(
    party: LocalParty, client: TraderSession, events: EventCache, timeout_s: float
) -> AsyncGenerator[Session, None]:
    """The session of `connect`, from its first connection to its goodbye."""
    ended: list[Exception] = []
    finished = trio.Event()

    async def run(
        *, task_status: trio.TaskStatus[SessionRunner] = trio.TASK_STATUS_IGNORED
    ) -> None:
        try:
            await client.run(task_status=task_status)
        except Exception as failed:
            while isinstance(failed, ExceptionGroup):
                failed = failed.exceptions[0]
            # Before the session exists, `nursery.start` raises the error to the caller. Later, the
            # waiting calls do.
            if client.runner is None:
                raise failed from None
            ended.append(failed)
            events.failed = failed if isinstance(failed, PSymmError) else Disconnected(str(failed))
        finally:
            # It may have ended before the cache received any event.
            events.closed |= client.runner is not None and client.runner.protocol.ended
            finished.set()
        events.wake()

    opened: PSymmError | None = None
    async with open_block_nursery() as nursery:
        session: Session | None = None
        try:
            with own_deadline(), trio.fail_after(timeout_s):
                end = await nursery.start(run)
                session = Session(party, end, events)
                session._settlement_flow = events.settlement_flow = SettlementFlow(
                    end, session.terms, nursery, lambda: session_projected(end), cache_failed
                )
                idle = IdleEnd(
                    end,
                    session.terms,
                    lambda: session_projected(end),
                    session._settlement_flow.settle,
                    events.on_event,
                    cache_failed,
                )
                nursery.start_soon(idle.run)
                # A resumed custody may be settling already; then there is nothing to wait for.
                await events.until(
                    lambda: (
                        True
                        if end.protocol.status in (SessionStatus.TRADING, SessionStatus.SETTLING)
                        else None
                    ),
                    float("inf"),
                )
        except trio.TooSlowError:
            opened = PeerSilent("the session did not open in time", waited_s=timeout_s)
        except PSymmError as failed:
            opened = failed
        try:
            if opened is None and session is not None:
                yield session
        finally:
            # Without a connection there is nobody to say goodbye to.
            stands = client.runner is not None and client.runner.attached
            client.leave(Leaving())
            # Shielded while connected: a cancelled caller still covers the solver's fills.
            with trio.move_on_after(GOODBYE_S + 1 if stands else 0, shield=stands):
                await finished.wait()
            nursery.cancel_scope.cancel()
            # Calls that still wait on the session must learn that nothing more will come.
            events.failed = events.failed or SessionClosed("its block was left")
            events.wake()
    if opened is not None:
        raise opened


def planned(side: Side, symbol: str, quantity: Number, price: Number | None = None) -> PlannedOrder:
    """An order for `connect` to check before funding. price: the worst acceptable one; None: about
    what the solver shows. Raises as `scaled`."""
    return PlannedOrder(symbol, side, scaled(quantity), None if price is None else scaled(price))


def _token_of(resumed: JournalledCustody | None) -> NamedToken | None:
    if resumed is None:
        return None
    collateral = Terms.parse(resumed.agreement.terms).collateral
    return NamedToken(collateral.token, collateral.decimals)


def _accept(
    party: LocalParty,
    policy: TraderPolicy,
    shown: bytes | None,
    introduced: Introduced,
    terms: Terms,
) -> None:
    """Check a new handshake against the offer and the policy, before anything is kept or funded."""
    if shown is not None and terms.hash != shown:
        raise TermsChanged(shown=shown, now=terms.hash)
    ours, theirs = introduced.collaterals
    policy.check(terms, now_ns=party.clock.now_ns(), collateral=ours, solver_collateral=theirs)


def session_projected(runner: SessionRunner) -> Account:
    """The account with the trader's pending frames."""
    ledger = runner.protocol.state.rulebook
    if not isinstance(ledger, RulebookLedger):
        raise TypeError("a session runs on the rulebook")
    return ledger.projected


def cache_failed(error: PSymmError) -> None:
    """Does nothing: `settle` itself raises the refusals of a settlement to its caller."""
