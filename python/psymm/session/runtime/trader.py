"""The trader's side of a session: handshake, funding, Logon, and reconnecting after every break.

The course of `TraderSession.run`:

1. New custody: dial, shake hands, check all that can be checked (`preflight`), fund, and attach.
   The Logon goes out on the same connection.
2. Known custody: load the session from the journal.
3. `_keep_up`: reconnect with growing waits until the custody has ended, the session stops, the
   application leaves, or the solver refuses us for good.

Who calls whom: the application starts `run` and may call `leave`. The runner reports events to
`_hear`, which passes them on and watches for refusals.

What is durable when: the journal keeps the agreement, our nonce and the solver's signature, and
then the state `funding`, before collateral moves. After a crash the same nonce gives the same
custody, and funding again finds what has already moved.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from random import Random
from typing import Final

import trio

from psymm._core import address_of
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
)
from psymm.nursery import open_block_nursery
from psymm.session.protocol import (
    Delivered,
    Event,
    FundingStarted,
    SessionStatus,
    TextReceived,
)
from psymm.session.runtime.conversation import ask_price, keep_alive, refusal, shake_hands
from psymm.session.runtime.handshake import Introduced, fresh_nonce
from psymm.session.runtime.left import LeftOpen, left_of, left_open
from psymm.session.runtime.party import LocalParty, load_session
from psymm.session.runtime.preflight import Wanted, check_before_funding
from psymm.session.runtime.runner import SessionRunner
from psymm.session.runtime.stats import RunnerStatistics
from psymm.session.runtime.transport import Socket, dial
from psymm.transcript.agreement import SOLVER, TRADER

log = logging.getLogger(__name__)

STEADY_S: Final = 10.0
"""Seconds. A connection that lived this long with heads agreed was a good one, so the next wait is
short."""
FIRST_BACKOFF_S: Final = 0.25
LAST_BACKOFF_S: Final = 30.0

_REFUSES: Final = ("UHI", "URS", "A", "session")
"""The subjects of a refusal that refuses us as a party. Others refuse one message, or noise."""
_FINALS: Final = 2
"""Final refusals in a row that end the attempt. A single one may answer a message that the network
malformed."""
_REFUSALS: Final = 3
"""A solver that has signed nothing yet, refuses us this many times in a row, and does not say that
it will pass, means it."""

Dialer = Callable[[], AbstractAsyncContextManager[Socket]]


def dialer(
    endpoint: str,
    tls: ssl.SSLContext | None = None,
    *,
    plain: bool = False,
    private: bool = True,
) -> Dialer:
    """How to reach an endpoint repeatedly. plain, private: as for `dial`."""
    return lambda: dial(endpoint, tls, plain=plain, private=private)


@dataclass(frozen=True, slots=True)
class ConnectionLost:
    """The connection is gone; we try again in `retry_s` seconds."""

    reason: PSymmError
    retry_s: float


@dataclass(frozen=True, slots=True)
class TraderStatistics:
    """What a trader session has been through.

    Attributes:
        losses: Connections lost and attempts to connect that failed.
        failures: Attempts in a row that had failed at the last loss.
        runner: None before the custody is funded.
    """

    losses: int
    failures: int
    runner: RunnerStatistics | None


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waits between attempts, in seconds: doubling with jitter, from `first_s` to `last_s`."""

    first_s: float = FIRST_BACKOFF_S
    last_s: float = LAST_BACKOFF_S
    # Spreads out clients that lost a server together. It protects nothing.
    random: Random = field(default_factory=Random, repr=False)

    def wait_s(self, failures: int) -> float:
        ceiling: float = min(self.last_s, self.first_s * 2.0 ** min(failures, 16))
        return ceiling * (0.5 + self.random.random() / 2)


class TraderSession:
    """A trader's custody with one solver, across connections and restarts.

    Args:
        on_event: Receives every event and `ConnectionLost`; see `SessionRunner`.
        expected: The solver's key. Without it we fund nothing.
        collateral: Token units; ignored with `resume`.
        resume: A custody of the journal to continue, instead of a new handshake.
        wanted: What to check before anything is funded.
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
        # Why to disconnect when the solver has our last frame, if we only wait for that.
        self._delivers: PSymmError | None = None
        self._losses = self._failures = 0

    def statistics(self) -> TraderStatistics:
        end = None if self.runner is None else self.runner.statistics()
        return TraderStatistics(self._losses, self._failures, end)

    async def run(
        self, *, task_status: trio.TaskStatus[SessionRunner] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Shake hands, fund, log on and serve; reconnect until the session closes or stops.

        A closed session is over when the solver is known to have all that we signed. We try to
        deliver it for as long as a session waits for an answer; after that `Journal.undelivered`
        names the custody. For a custody that had ended before, we only deliver.

        Before funding we check all that can be checked (`preflight`). A refusal that will not
        change raises AttemptEnded if there is a custody. We try again after a lost connection, or
        if the solver is busy.

        Reports the runner when it exists (funded, frames replayed). Returns when the session
        closed. Raises what handshake, checks and funding raise, JournalError, and the error that
        stopped the session.
        Cancelled: raises Cancelled; the journal can resume it.
        """
        async with open_block_nursery() as nursery:
            socket_first: Dialer = self._dial
            # Without frames we may not have funded or logged on yet, so shake hands first. A
            # journal that lost frames must not: the custody exists.
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
                # `_keep_up` makes the first connection.
                reason = Disconnected("not connected yet")
            await self._keep_up(runner, reason)
            nursery.cancel_scope.cancel()
        if runner.protocol.error is not None:
            raise runner.protocol.error

    def leave(self, reason: PSymmError) -> None:
        """Cover what the solver did, close the connection and do not reconnect. The custody stays
        as it is. If it has ended, leave when the solver has our last frame or does not take it."""
        self._left.set()
        self._delivers = reason
        # If the solver still lacks our last frame, `_hear` disconnects when it has it.
        if self.runner is not None and not (
            self.runner.attached and self.runner.protocol.final_ack_owed
        ):
            self.runner.part(reason)

    def left_open(self) -> LeftOpen | None:
        """What stays open if we do nothing more here; None if there is no custody yet, or if it has
        ended."""
        if self.runner is not None:
            return None if self.runner.protocol.ended else left_open(self.runner)
        if self._custody is None:
            return None
        return left_of(self._custody)

    def _hear(self, event: Event) -> None:
        # The application sees the event before we act on it.
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
        """Shake hands (again, for a custody that was funded but never logged on) and fund."""
        try:
            return await self._handshake_and_fund(socket)
        except (HandshakeRefused, PeerRefused, BadOpening) as refused:
            if self._custody is None:
                raise
            raise AttemptEnded(refused, self._custody.agreement.custody) from refused

    async def _handshake_and_fund(self, socket: Socket) -> SessionRunner:
        """Shake hands, check, journal, fund, in this order: no step is safe before the one above it
        is done. Raises as `run`."""
        party, journal = self._party, self._party.journal
        known = self._custody
        if self._expected is None:
            # Anyone who answers could sign with a key of its own.
            raise HandshakeRefused(
                "nobody says whose key is to answer: give the solver's public key"
            )
        # The same nonce and amount as before lead to the same custody.
        nonce = fresh_nonce() if known is None else known.nonce
        amount = self._collateral if known is None else known.ours
        handshake = await shake_hands(party, socket, self._expected, amount, nonce)
        agreement = handshake.introduced.agreement
        # Collateral may be in the custody of the first handshake; in no other must we fund.
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
        # The journal before the chain: collateral must never be in a custody that we do not know.
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
            # Keep the newer signature: the older one may have expired.
            await journal.keep_introduction(agreement.custody, handshake.introduced.signed)
        # The checks and the journal may have taken time. Do not fund on an introduction that has
        # expired.
        handshake.check_time(party.clock.now_ns())
        # From this state on, a restart assumes that collateral may have moved.
        await journal.set_state(agreement.custody, "funding")
        self._custody = known = await journal.custody(agreement.custody)
        self._on_event(FundingStarted(agreement.custody, amount))
        async with open_block_nursery() as nursery:
            # As in a session, at most one a second: the terms may say a nanosecond.
            beat_s = max(1.0, handshake.terms.timeouts.heartbeat / 1e9)
            nursery.start_soon(keep_alive, socket, beat_s)
            notes = tuple(
                await party.collateral.fund(
                    agreement, TRADER, handshake.terms.collateral.token, amount
                )
            )
            # Funded: from here on the session sends its own heartbeats.
            nursery.cancel_scope.cancel()
        # The Logon names these notes, so the session needs them before its first frame.
        runner = await load_session(party, known, self._hear, notes=notes)
        # Without the openings a restart could not settle.
        await runner.keep_openings(TRADER, notes)
        return runner

    def _turned_down(self, said: BusinessMessageReject) -> None:
        """The solver refuses us as a party before heads agree, or before it has signed anything.
        Waiting on this connection is useless."""
        runner = self.runner
        if runner is None or said.ref_msg_type not in _REFUSES:
            return
        # A refusal in a running session is about one message, so it changes nothing here.
        if not runner.protocol.synced or runner.protocol.record.head(SOLVER).seq == 0:
            runner.disconnect(refusal(said))

    def _expect_no_refusal(self, runner: SessionRunner, reason: PSymmError) -> None:
        """Raises AttemptEnded if trying again would not change what ended the last attempt."""
        if not isinstance(reason, PeerRefused | HandshakeRefused | BadOpening):
            self._refusals = self._finals = 0
            return
        if isinstance(reason, PeerRefused):
            final, passing = reason.final, reason.passing
        else:
            # A clock may be set right, and an introduction may be signed again.
            final, passing = not isinstance(reason, ClocksDiffer | BadIntroduction), False
        # Counted separately: noise on the line causes either kind now and then.
        self._finals = self._finals + 1 if final else 0
        self._refusals += not passing
        # A solver that has signed is bound, so its passing trouble is worth waiting for.
        unanswered = not runner.protocol.record.head(SOLVER).seq
        if self._finals < _FINALS and not (unanswered and self._refusals >= _REFUSALS):
            return
        raise AttemptEnded(reason, runner.agreement.custody) from reason

    async def _keep_up(self, runner: SessionRunner, reason: PSymmError) -> None:
        """Reconnect until there is no reason to. reason: why there is no connection now."""
        failures = 0
        closed_at: float | None = None
        while not self._left.is_set() and runner.protocol.status is not SessionStatus.STOPPED:
            # The custody has ended. Only our last frame keeps us here, and not for ever.
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
            # A busy server says how long to stay away.
            if isinstance(reason, ServerBusy):
                asked = reason.values.get("retry_after_s", 0)
                wait_s += asked if isinstance(asked, int) else 0
            self._on_event(ConnectionLost(reason, wait_s))
            # `leave` ends the wait at once.
            with trio.move_on_after(wait_s):
                await self._left.wait()
                return
            try:
                async with self._dial() as socket:
                    if runner.protocol.record.head(SOLVER).seq == 0:
                        # The solver keeps nothing before our Logon, so introduce ourselves again.
                        await self._remind(socket, runner)
                    # A connection was good if it lasted or brought frames.
                    before, began = runner.protocol.record.frames, trio.current_time()
                    reason = await runner.attach(socket, fresh=False)
                    # A connection alone is not enough: a server that accepts and drops is down.
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
                # Of the peer or the network. All else (journal, wallet) ends `run`.
                reason, failures = refused, failures + 1

    async def _remind(self, socket: Socket, runner: SessionRunner) -> None:
        assert self._custody is not None  # noqa: S101
        handshake = await shake_hands(
            self._party, socket, self._expected, self._custody.ours, self._custody.nonce
        )
        _same_handshake(self._custody, handshake.introduced)


def _same_handshake(known: JournalledCustody, again: Introduced) -> None:
    """Hold a solver to what it signed in an earlier handshake. Raises HandshakeRefused."""
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
