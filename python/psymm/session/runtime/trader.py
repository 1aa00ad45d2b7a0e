"""The trader's side of a session's life: meet, fund, log on, and come back after every break."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from random import Random
from typing import Final

import trio

from psymm._core import JsonError, address_of
from psymm.errors import (
    AttemptEnded,
    BadIntroduction,
    BadOpening,
    ClocksDiffer,
    Disconnected,
    HandshakeRefused,
    PeerRefused,
    PeerSilent,
    PeerViolation,
    PSymmError,
    ServerBusy,
    SessionClosed,
)
from psymm.journal.codec import JournalledCustody
from psymm.messages import (
    BusinessMessageReject,
    BusinessRejectReason,
    Heartbeat,
    Introduction,
    MarketDataRequest,
    MarketDataSnapshotFullRefresh,
    MDEntryType,
    MDEntryTypeRef,
    Message,
    SubscriptionRequestType,
    SymbolRef,
    TermsDocument,
    TestRequest,
    decode_text,
    encode_text,
)
from psymm.nursery import open_block_nursery
from psymm.session.protocol import (
    Delivered,
    Event,
    FundingStarted,
    SessionStatus,
    Stopped,
    TextReceived,
)
from psymm.session.runtime.handshake import Introduced, conclude_handshake, fresh_nonce, introduce
from psymm.session.runtime.left import LeftOpen, left_of, left_open
from psymm.session.runtime.party import LocalParty, accept_terms, load_session
from psymm.session.runtime.preflight import Wanted, check_before_funding, check_clocks
from psymm.session.runtime.runner import RunnerStatistics, SessionRunner
from psymm.session.runtime.transport import Socket, dial
from psymm.terms import Terms
from psymm.transcript.agreement import SOLVER, TRADER

log = logging.getLogger(__name__)

ANSWER_S: Final = 20.0
STEADY_S: Final = 10.0
"""A connection that stood this long with heads agreed was a good one: the next wait is short."""
FIRST_BACKOFF_S: Final = 0.25
LAST_BACKOFF_S: Final = 30.0

_FINAL: Final = (BusinessRejectReason.UNKNOWN_ID, BusinessRejectReason.NOT_AUTHORIZED)
"""Refusals that asking again does not change."""
_PASSING: Final = (BusinessRejectReason.NOT_AVAILABLE, BusinessRejectReason.THROTTLED)
"""Refusals that say that they pass; they are asked again for as long as our own side wants."""
_REFUSES: Final = ("UHI", "URS", "A", "session")
"""What a refusal of us as a party names; others name one message, or noise."""
_FINALS: Final = 2
"""So many final refusals in a row end the attempt: one alone may be of what the network
malformed."""
_REFUSALS: Final = 3
"""A solver that has signed nothing yet, refuses us so many times in a row, and does not say that
it passes, means it."""

Dialer = Callable[[], AbstractAsyncContextManager[Socket]]


def dialer(
    endpoint: str,
    tls: ssl.SSLContext | None = None,
    *,
    plain: bool = False,
    private: bool = True,
) -> Dialer:
    """How to reach an endpoint, again and again. plain, private: see `dial`."""
    return lambda: dial(endpoint, tls, plain=plain, private=private)


@dataclass(frozen=True, slots=True)
class HandshakeResult:
    """The handshake is over: terms and custody are known, nothing is funded yet.

    clock_off_ns: how far the peer's clock lies outside of the time that its answer took by ours,
    above 0 where it is ahead. A round trip can hide no more than itself.
    """

    introduced: Introduced
    terms: Terms
    clock_off_ns: int = 0

    def check_time(self, now_ns: int) -> None:
        """Whether what the solver signed may still be funded against. Raises BadIntroduction."""
        if self.introduced.signed is not None:
            self.introduced.signed.check_time(now_ns, self.terms.timeouts.skew)


@dataclass(frozen=True, slots=True)
class ConnectionLost:
    """The connection is gone; it is tried again in `retry_s` seconds."""

    reason: PSymmError
    retry_s: float


@dataclass(frozen=True, slots=True)
class TraderStatistics:
    """losses: how often a connection went or a try to connect failed. failures: how many tries in
    a row had come to nothing at the last loss. runner: None before the custody is funded."""

    losses: int
    failures: int
    runner: RunnerStatistics | None


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waits between attempts: doubling with jitter, from `first_s` to `last_s`."""

    first_s: float = FIRST_BACKOFF_S
    last_s: float = LAST_BACKOFF_S
    # Spreads out clients that lost one server together; guards nothing.
    random: Random = field(default_factory=Random, repr=False)

    def wait_s(self, failures: int) -> float:
        ceiling: float = min(self.last_s, self.first_s * 2.0 ** min(failures, 16))
        return ceiling * (0.5 + self.random.random() / 2)


async def converse(
    socket: Socket,
    said: Message,
    *wanted: type[Message],
    keep: Callable[[Message], None] | None = None,
) -> list[Message]:
    """Say something on a connection without a session and wait for one text of each kind.

    Raises PeerRefused with the peer's words, PeerSilent after ANSWER_S, Disconnected.
    Cancelled: raises Cancelled; the answers may still come.
    """
    found: dict[type[Message], Message] = {}
    await socket.send(encode_text(said))
    with trio.move_on_after(ANSWER_S):
        while len(found) < len(wanted):
            raw = await socket.receive()
            try:
                message = decode_text(raw)
            except JsonError as bad:
                raise PeerRefused(f"the peer's answer is not the vocabulary's: {bad}") from None
            if isinstance(message, TestRequest):
                await socket.send(encode_text(Heartbeat(test_req_id=message.test_req_id)))
            elif isinstance(message, BusinessMessageReject):
                raise refusal(message)
            elif type(message) in wanted:
                found[type(message)] = message
            elif keep is not None:
                keep(message)
        return [found[kind] for kind in wanted]
    raise PeerSilent("the peer did not answer", waited_s=ANSWER_S)


def refusal(said: BusinessMessageReject) -> PeerRefused:
    """A peer's no. By its reason's kind, not by its words, it may pass or not; a peer that lies
    here can make us stop, which it could do by being silent."""
    reason = said.business_reject_reason
    words = said.text or "the peer gave no reason"
    return PeerRefused(words, final=reason in _FINAL, passing=reason in _PASSING)


async def shake_hands(
    party: LocalParty, socket: Socket, expected: bytes | None, collateral: int, nonce: bytes
) -> HandshakeResult:
    """Introduce ourselves and learn the terms. collateral: token units; 0 looks around, and what
    is shown then binds nobody. With collateral the solver has signed all of it (`spec.md` 61).

    expected: the solver's public key by the registry. Raises WrongParty, TermsRefused,
    BadIntroduction, HandshakeRefused, PeerRefused, PeerSilent, Disconnected; nothing was funded.
    Cancelled: raises Cancelled; nobody keeps anything.
    """
    ours = introduce(party.wallet.public_key, nonce, collateral)
    asked_ns = party.clock.now_ns()
    theirs, document = await converse(socket, ours, Introduction, TermsDocument)
    answered_ns = party.clock.now_ns()
    assert isinstance(theirs, Introduction)  # noqa: S101
    assert isinstance(document, TermsDocument)  # noqa: S101
    introduced = conclude_handshake(
        ours,
        theirs,
        document,
        chain_id=party.chain_id,
        contract=party.contract,
        expected=expected,
    )
    terms = accept_terms(party, document.terms)
    if collateral and collateral < terms.minimum(TRADER):
        raise HandshakeRefused(
            "the terms ask for more collateral",
            ours=collateral,
            minimum=terms.minimum(TRADER),
        )
    if theirs.sending_time is None:
        raise HandshakeRefused("the peer does not say what time it has")
    off_ns = max(0, theirs.sending_time - answered_ns) - max(0, asked_ns - theirs.sending_time)
    handshake = HandshakeResult(introduced, terms, off_ns)
    handshake.check_time(answered_ns)
    if collateral:
        check_clocks(off_ns, terms)
    return handshake


async def ask_price(socket: Socket, symbol: str) -> MarketDataSnapshotFullRefresh:
    """The solver's indicative prices on a connection without a session. Raises as `converse`."""
    (said,) = await converse(socket, market_data("1", [symbol]), MarketDataSnapshotFullRefresh)
    assert isinstance(said, MarketDataSnapshotFullRefresh)  # noqa: S101
    return said


def market_data(request: str, symbols: Sequence[str]) -> MarketDataRequest:
    """A question for bid and offer of some symbols. request: its id, which the answers name."""
    return MarketDataRequest(
        md_req_id=request,
        subscription_request_type=SubscriptionRequestType.SNAPSHOT,
        market_depth=1,
        no_md_entry_types=(
            MDEntryTypeRef(md_entry_type=MDEntryType.BID),
            MDEntryTypeRef(md_entry_type=MDEntryType.OFFER),
        ),
        no_related_sym=tuple(SymbolRef(symbol=symbol) for symbol in symbols),
    )


class TraderSession:
    """A trader's custody with one solver, across connections and restarts.

    on_event: called with every event and `ConnectionLost`, see `SessionRunner`. expected: the
    solver's key, without which nothing is funded. resume: a custody of the journal to take up again
    instead of handshake anew. wanted: what is checked before anything is funded.
    """

    def __init__(
        self,
        party: LocalParty,
        dial_peer: Dialer,
        on_event: Callable[[Event | ConnectionLost], None],
        *,
        expected: bytes | None = None,
        collateral: int = 0,
        endpoint: str = "",
        resume: JournalledCustody | None = None,
        backoff: Backoff | None = None,
        wanted: Wanted | None = None,
    ) -> None:
        self.runner: SessionRunner | None = None
        self._wanted = wanted or Wanted()
        self._refusals = self._finals = 0
        self._party = party
        self._dial = dial_peer
        self._on_event = on_event
        self._expected = expected if resume is None else resume.agreement.solver
        self._collateral = collateral
        self._endpoint = endpoint
        self._custody = resume
        self._backoff = backoff or Backoff()
        self._left = trio.Event()
        self._delivers: PSymmError | None = None
        self._losses = self._failures = 0

    def statistics(self) -> TraderStatistics:
        end = None if self.runner is None else self.runner.statistics()
        return TraderStatistics(self._losses, self._failures, end)

    async def run(
        self, *, task_status: trio.TaskStatus[SessionRunner] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Meet, fund, log on and serve, reconnecting until the session closes or stops.

        One that has closed is over once the solver is known to have all that we signed, or could
        not be brought it in as long as a session waits for an answer (`Journal.undelivered` names
        it then). Of a custody that had ended before, nothing but that is done.

        Before anything is funded all is checked that can be (`preflight`). A refusal that trying
        again would not change ends it with AttemptEnded, once there is a custody; a lost connection
        and a solver that is busy are tried again.

        Reports the end once it exists (funded, frames replayed). Raises what handshake, checking
        and funding raise, JournalError, and the error that stopped the session. Returns when it
        closed. Cancelled: raises Cancelled; the journal can resume it.
        """
        async with open_block_nursery() as nursery:
            socket_first: Dialer = self._dial
            if self._custody is None or (
                self._custody.frames == 0 and self._custody.health == "complete"
            ):
                async with socket_first() as socket:
                    runner = await self._begin(socket)
                    await self._start(nursery, runner, task_status)
                    reason = await runner.attach(socket, fresh=self._fresh(runner))
            else:
                runner = await load_session(self._party, self._custody, self._hear)
                if runner.protocol.ended:
                    self._delivers = SessionClosed("the custody has ended")
                    if not runner.protocol.final_ack_owed:
                        held = runner.protocol.acknowledged
                        runner.journal.mark_delivered(runner.agreement.custody, held)
                await self._start(nursery, runner, task_status)
                reason = Disconnected("not connected yet")
            await self._keep_up(runner, reason)
            nursery.cancel_scope.cancel()
        if runner.protocol.error is not None:
            raise runner.protocol.error

    def leave(self, reason: PSymmError) -> None:
        """Cover what the solver did, close the connection and do not come back; the custody stays
        as it is. One that has ended is left once the solver has what we signed last, or does not
        take it."""
        self._left.set()
        self._delivers = reason
        if self.runner is not None and not (
            self.runner.attached and self.runner.protocol.final_ack_owed
        ):
            self.runner.part(reason)

    def left_open(self) -> LeftOpen | None:
        """What stays open if nothing more is done here; None where there is no custody yet, or it
        has ended."""
        if self.runner is not None:
            return None if self.runner.protocol.ended else left_open(self.runner)
        if self._custody is None:
            return None
        return left_of(self._custody)

    def _hear(self, event: Event) -> None:
        self._on_event(event)
        if isinstance(event, TextReceived) and isinstance(event.message, BusinessMessageReject):
            self._turned_down(event.message)
        if isinstance(event, Delivered) and self._delivers is not None and self.runner is not None:
            self.runner.disconnect(self._delivers)

    async def _start(
        self,
        nursery: trio.Nursery,
        runner: SessionRunner,
        task_status: trio.TaskStatus[SessionRunner],
    ) -> None:
        self.runner = runner
        await nursery.start(runner.run)
        task_status.started(runner)

    @staticmethod
    def _fresh(runner: SessionRunner) -> bool:
        return runner.protocol.record.frames == 0

    async def _begin(self, socket: Socket) -> SessionRunner:
        """Meet (or meet again, for a custody that was funded but never logged on) and fund."""
        try:
            return await self._handshake_and_fund(socket)
        except (HandshakeRefused, PeerRefused, BadOpening) as refused:
            if self._custody is None:
                raise
            raise AttemptEnded(refused, self._custody.agreement.custody) from refused

    async def _handshake_and_fund(self, socket: Socket) -> SessionRunner:
        party, journal = self._party, self._party.journal
        known = self._custody
        if self._expected is None:
            # Whoever answers could sign with a key of its own.
            raise HandshakeRefused(
                "nobody says whose key is to answer: give the solver's public key"
            )
        nonce = fresh_nonce() if known is None else known.nonce
        amount = self._collateral if known is None else known.ours
        handshake = await shake_hands(party, socket, self._expected, amount, nonce)
        agreement = handshake.introduced.agreement
        if known is not None:
            _same_handshake(known, handshake.introduced)
        orders, shown = self._wanted.orders, None
        if orders and orders[0].price is None:
            shown = await ask_price(socket, orders[0].symbol)
        await check_before_funding(
            party,
            handshake.introduced,
            handshake.terms,
            self._wanted,
            shown,
        )
        if known is None:
            await journal.open_custody(
                agreement,
                TRADER,
                party.clock.now_ns(),
                endpoint=self._endpoint,
                nonce=nonce,
                ours=amount,
                announced_collateral=handshake.introduced.collaterals[1],
                introduction=handshake.introduced.signed,
            )
            known = await journal.custody(agreement.custody)
        elif handshake.introduced.signed is not None:
            await journal.keep_introduction(agreement.custody, handshake.introduced.signed)
        # Checks and the journal may have taken their time; nothing is funded on words that no
        # longer bind.
        handshake.check_time(party.clock.now_ns())
        await journal.set_state(agreement.custody, "funding")
        self._custody = known = await journal.custody(agreement.custody)
        self._on_event(FundingStarted(agreement.custody, amount))
        async with open_block_nursery() as nursery:
            # As in a session, never more than one a second: the terms may say a nanosecond.
            beat_s = max(1.0, handshake.terms.timeouts.heartbeat / 1e9)
            nursery.start_soon(_keep_alive, socket, beat_s)
            notes = tuple(
                await party.collateral.fund(
                    agreement, TRADER, handshake.terms.collateral.token, amount
                )
            )
            nursery.cancel_scope.cancel()
        runner = await load_session(party, known, self._hear, notes=notes)
        await runner.keep_openings(TRADER, notes)
        return runner

    def _turned_down(self, said: BusinessMessageReject) -> None:
        """The solver has not resumed, or not begun, and refuses us as a party: nothing comes of
        waiting on this connection."""
        runner = self.runner
        if runner is None or said.ref_msg_type not in _REFUSES:
            return
        if not runner.protocol.synced or runner.protocol.record.head(SOLVER).seq == 0:
            runner.disconnect(refusal(said))

    def _expect_no_refusal(self, runner: SessionRunner, reason: PSymmError) -> None:
        """Raises AttemptEnded where trying again would not change what ended the last try."""
        if not isinstance(reason, PeerRefused | HandshakeRefused | BadOpening):
            self._refusals = self._finals = 0
            return
        if isinstance(reason, PeerRefused):
            final, passing = reason.final, reason.passing
        else:
            # A clock may be set, and an introduction signed again.
            final, passing = not isinstance(reason, ClocksDiffer | BadIntroduction), False
        # Not counted together: noise on the line brings either kind now and then.
        self._finals = self._finals + 1 if final else 0
        self._refusals += not passing
        unanswered = not runner.protocol.record.head(SOLVER).seq
        if self._finals < _FINALS and not (unanswered and self._refusals >= _REFUSALS):
            return
        raise AttemptEnded(reason, runner.agreement.custody) from reason

    async def _keep_up(self, runner: SessionRunner, reason: PSymmError) -> None:
        failures = 0
        closed_at: float | None = None
        while not self._left.is_set() and runner.protocol.status is not SessionStatus.STOPPED:
            if runner.protocol.status is SessionStatus.CLOSED:
                closed_at = trio.current_time() if closed_at is None else closed_at
                given_up = (
                    trio.current_time() - closed_at
                    >= runner.protocol.params.response_timeout_ns / 1e9
                )
                if given_up or not runner.protocol.final_ack_owed:
                    return
            self._expect_no_refusal(runner, reason)
            wait_s = self._backoff.wait_s(failures)
            self._losses, self._failures = self._losses + 1, failures
            log.warning(
                "reconnecting",
                extra={
                    "custody": "0x" + runner.agreement.custody.hex(),
                    "code": reason.code,
                    "failures": failures,
                },
            )
            if isinstance(reason, ServerBusy):
                asked = reason.values.get("retry_after_s", 0)
                wait_s += asked if isinstance(asked, int) else 0
            self._on_event(ConnectionLost(reason, wait_s))
            with trio.move_on_after(wait_s):
                await self._left.wait()
                return
            try:
                async with self._dial() as socket:
                    if runner.protocol.record.head(SOLVER).seq == 0:
                        # The solver keeps nothing before it has our Logon; remind it who we are.
                        await self._remind(socket, runner)
                    before, began = runner.protocol.record.frames, trio.current_time()
                    reason = await runner.attach(socket, fresh=False)
                    # Standing is not enough: a server that accepts and drops at once is down.
                    steady = runner.was_synced and trio.current_time() - began >= STEADY_S
                    grown = runner.protocol.record.frames > before
                    failures = 0 if steady or grown else failures + 1
            except (
                Disconnected,
                PeerRefused,
                PeerSilent,
                PeerViolation,
                HandshakeRefused,
                BadOpening,
            ) as refused:
                reason, failures = refused, failures + 1

    async def _remind(self, socket: Socket, runner: SessionRunner) -> None:
        assert self._custody is not None  # noqa: S101
        handshake = await shake_hands(
            self._party, socket, self._expected, self._custody.ours, self._custody.nonce
        )
        _same_handshake(self._custody, handshake.introduced)


def _same_handshake(known: JournalledCustody, again: Introduced) -> None:
    """A solver that is met again is held to what it signed. Raises HandshakeRefused."""
    if known.agreement != again.agreement:
        raise HandshakeRefused(
            "the solver does not remember this handshake: its terms or its key changed",
            custody=known.agreement.custody,
            now=again.agreement.custody,
            solver=address_of(again.agreement.solver),
        )
    if again.collaterals[1] < known.announced_collateral:
        raise HandshakeRefused(
            "the solver puts up less than it has signed; the journal keeps what it signed",
            custody=known.agreement.custody,
            signed=known.announced_collateral,
            now=again.collaterals[1],
        )


async def _keep_alive(socket: Socket, beat_s: float) -> None:
    """While we fund, the peer hears that we are there. A lost connection is found by the reader
    that comes after."""
    while True:
        try:
            await socket.send(encode_text(Heartbeat()))
        except (Disconnected, PeerViolation):
            return
        await trio.sleep(beat_s)


__all__ = [
    "Backoff",
    "ConnectionLost",
    "Dialer",
    "HandshakeResult",
    "Stopped",
    "TraderSession",
    "TraderStatistics",
    "converse",
    "dialer",
    "shake_hands",
]
