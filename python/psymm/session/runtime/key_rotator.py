"""KeyRotator: renews a session's key in time, and keeps known which keys are revoked.

What keys mean is in `protocol.keys`. The course of one rotation:

1. Take a key from the journal that no frame has named yet, or make one and keep it there.
2. Ask the wallet to delegate it, well before the current key ends.
3. Have the protocol sign the UKY, which the new key signs itself.
4. Wait until the UKY is durable. The new key is then in force.

What is durable when: the key, encrypted, before the wallet is asked. The frames say which key is
in force. So a process that dies between any two steps continues with the right key, and a kept key
that never came into force is used for the next rotation.

Who calls whom: the runner calls `begin`, `run`, `prove`, `poke` and `changed`. The rotator asks
the wallet in a task of its own (`_try`), so that a slow wallet delays nothing. One attempt runs at
a time; `rotate` joins it. A failed attempt is repeated after a wait that doubles.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

import trio

from psymm._core import SecretKey
from psymm.errors import (
    NotNow,
    PSymmError,
    SessionClosed,
    SessionKeyEnded,
    WalletError,
)
from psymm.journal.writer import Journal
from psymm.messages import SessionKeyChange
from psymm.nursery import start_task
from psymm.session.protocol import (
    SECOND,
    Effects,
    Event,
    KeyFailing,
    SessionProtocol,
    SessionStatus,
)
from psymm.session.runtime.clock import Clock
from psymm.transcript.agreement import CustodyAgreement
from psymm.transcript.delegation import Delegation
from psymm.transcript.resumption import PROVES_ONLY, ResumeSigner
from psymm.wallet import Wallet

log = logging.getLogger(__name__)

KEY_LIFE_NS: Final = 30 * 86_400 * SECOND
"""How long a session key is delegated for. A custody lives longer, with a UKY."""
PROVING_NS: Final = 86_400 * SECOND
"""How long a key that only proves who we are is delegated for."""
FIRST_RETRY_S: Final = 60.0
LAST_RETRY_S: Final = 3600.0
"""Seconds between two requests to a wallet that refuses, doubling from the first to the last."""
SIGNER_S: Final = 300.0
"""Seconds after which we report a wallet that has not answered. We do not ask it again meanwhile.
"""
LOOK_AGAIN_S: Final = 3600.0
"""Seconds between two looks at a clock that may be set."""


class Revocations(Protocol):
    """Session keys that wallets revoked on chain. One object for all sessions of a process."""

    @property
    def version(self) -> int:
        """Changes whenever `of` may give another answer than before."""
        ...

    def of(self, wallet: str, depth: int) -> Mapping[str, int]:
        """A wallet's revoked keys that are `depth` blocks deep: fromSeq by the key's address."""
        ...

    def listen(self, on_change: Callable[[], None]) -> Callable[[], None]:
        """Call `on_change` whenever `version` changes, until the caller calls the function that
        this returns. `on_change` must not block and must not raise."""
        ...


class NoChain:
    """Revocations without a chain to read: it never sees one."""

    version = 0

    def of(self, wallet: str, depth: int) -> Mapping[str, int]:
        return {}

    def listen(self, on_change: Callable[[], None]) -> Callable[[], None]:
        return lambda: None


async def proving_key(
    wallet: Wallet, agreement: CustodyAgreement, lane: int, now: int
) -> ResumeSigner:
    """A key that the wallet delegates for a day, to prove who we are and to sign no frame. It lives
    in memory only. Raises WalletError. Cancelled: raises Cancelled."""
    key = SecretKey.generate()
    delegation = Delegation(lane, key.public_key, PROVES_ONLY, PROVES_ONLY, now + PROVING_NS)
    return ResumeSigner(key, delegation, await wallet.sign_typed(delegation.message(agreement)))


@dataclass
class _Attempt:
    done: trio.Event
    failed: PSymmError | None = None


class KeyRotator:
    """Renews one side's session key in time, and keeps both lanes' revocations known.

    Nothing happens unless `run` is running.

    Args:
        depth: How many blocks deep a revocation must be to count.
        span: How many frame numbers a key is delegated for.
        life_ns: How long a key is delegated for.
    """

    def __init__(
        self,
        protocol: SessionProtocol,
        wallet: Wallet,
        journal: Journal,
        clock: Clock,
        revocations: Revocations,
        *,
        depth: int,
        span: int,
        life_ns: int = KEY_LIFE_NS,
    ) -> None:
        self._protocol = protocol
        self._wallet = wallet
        self._journal = journal
        self._clock = clock
        self._revocations = revocations
        self._depth = depth
        self._span = span
        self._life_ns = life_ns
        # What carries effects out and what receives events; `begin` sets both.
        self._take: Callable[[Effects], None] = lambda effects: None
        self._tell: Callable[[Event], None] = lambda event: None
        self._nursery: trio.Nursery | None = None
        # `run` has ended, which is not the same as not having begun.
        self._stopped = False
        self._attempt: _Attempt | None = None
        # Set and replaced whenever something changes that `run` or a rotation waits for.
        self._poked = trio.Event()
        self._in_force = b""
        # The version of the revocations that we told the protocol last.
        self._seen = 0
        self._failures = 0
        self._retry_ns = 0

    def begin(self, take: Callable[[Effects], None], tell: Callable[[Event], None]) -> None:
        """Learn what is revoked by now, before the first connection.

        Args:
            take: Carries effects out.
            tell: Receives events.
        """
        self._take, self._tell = take, tell
        self._learn()

    async def run(self, nursery: trio.Nursery) -> None:
        """Renew the key whenever it is due, until cancelled. nursery: where the wallet is asked."""
        self._nursery, self._stopped = nursery, False
        stop = self._revocations.listen(self.poke)
        try:
            while True:
                # Before we look: a poke that comes while we look must not be lost.
                poked = self._poked
                if self._seen != self._revocations.version:
                    self._learn()
                wait_s = self._wait_s()
                if wait_s <= 0 and self._attempt is None:
                    self._start(nursery)
                # While an attempt runs, its end pokes us.
                with trio.move_on_after(LOOK_AGAIN_S if self._attempt else wait_s):
                    await poked.wait()
        finally:
            self._nursery, self._stopped = None, True
            stop()

    async def rotate(self) -> None:
        """Put the next session key in force. Returns when its UKY is durable and on its way, which
        needs a connection.

        Joins a rotation in progress. Raises WalletError (the wallet refuses; the current key
        stays), JournalError, SessionClosed, NotNow before the Logon, or the error that stopped the
        session.
        Cancelled: the rotation continues.
        """
        self._must_rotate()
        if self._nursery is None:
            if self._stopped:
                raise SessionClosed(custody=self._protocol.record.agreement.custody)
            raise NotNow("the session is not running")
        attempt = self._attempt or self._start(self._nursery)
        await attempt.done.wait()
        if attempt.failed is not None:
            raise attempt.failed

    async def prove(self) -> None:
        """Have a key to prove ourselves with. Asks the wallet only if no session key will do.
        Raises WalletError. Cancelled: raises Cancelled; the wallet may be asked again."""
        protocol = self._protocol
        now = self._clock.now_ns()
        if protocol.resume_signer(now) is None:
            # Our key may have ended, or its journal be restored. Then we sign no frame, but must
            # still be able to resume.
            agreement = protocol.record.agreement
            try:
                found = await proving_key(self._wallet, agreement, protocol.lane, now)
            except WalletError:
                raise
            except Exception as failed:
                # The application's signer may raise anything.
                error = type(failed).__name__
                raise WalletError("the wallet's signer failed", error=error) from None
            protocol.set_proving_key(found)

    def poke(self) -> None:
        """Something changed that may make a key due, or that a rotation waits for."""
        self._poked.set()
        self._poked = trio.Event()

    def changed(self, public_key: bytes) -> None:
        """The UKY of this key is durable."""
        self._in_force = public_key
        self.poke()

    # --- revocations ------------------------------------------------------------------------

    def _learn(self) -> None:
        # Only a complete journal can say which frames a revocation voids.
        if self._protocol.health != "complete":
            return
        # Read the version first: a change that comes after it makes us look again.
        self._seen = self._revocations.version
        agreement, lane = self._protocol.record.agreement, self._protocol.lane
        ours, theirs = (
            self._revocations.of(agreement.wallet_address(whose), self._depth)
            for whose in (lane, 1 - lane)
        )
        self._take(self._protocol.revocations_learned(ours, theirs, self._clock.now_ns()))

    # --- rotation ---------------------------------------------------------------------------

    def _wait_s(self) -> float:
        """Seconds until the next rotation must begin."""
        protocol, now = self._protocol, self._clock.now_ns()
        if protocol.health != "complete":
            return LOOK_AGAIN_S
        due = protocol.key_due()
        if due is None or protocol.error is not None or protocol.status is SessionStatus.CLOSED:
            return LOOK_AGAIN_S
        # A key is delegated already and waits for a connection to sign its UKY.
        if protocol.next_key is not None:
            return LOOK_AGAIN_S
        when, number = due
        # Keys end by time and by frame number. The number is near: begin now.
        if protocol.record.head(protocol.lane).seq >= number:
            when = now
        return min((max(when, self._retry_ns) - now) / SECOND, LOOK_AGAIN_S)

    def _must_rotate(self) -> None:
        protocol = self._protocol
        protocol.expect_own_journal()
        if protocol.health == "recovering":
            raise NotNow("frames that our journal lost are still to be fetched")
        if protocol.record.delegation(protocol.lane) is None:
            raise NotNow("our Logon is not signed yet; it brings the first key")

    def _start(self, nursery: trio.Nursery) -> _Attempt:
        attempt = _Attempt(trio.Event())
        # One statement after the other without waiting, so two attempts can never start.
        start_task(nursery, self._try, attempt)
        self._attempt = attempt
        return attempt

    async def _try(self, attempt: _Attempt) -> None:
        """Run one attempt, and keep its result for all who wait for it."""
        # The result if the session ends meanwhile and cancels this task.
        attempt.failed = SessionClosed(custody=self._protocol.record.agreement.custody)
        try:
            await self._rotate()
        except PSymmError as failed:
            attempt.failed = failed
        except Exception as failed:
            # The application's signer may raise anything. Report the type only: the words may hold
            # secrets.
            attempt.failed = WalletError("the wallet's signer failed", error=type(failed).__name__)
        else:
            attempt.failed = None
        finally:
            # Clear it before waking the waiters: they may start the next attempt.
            self._attempt = None
            attempt.done.set()
        if attempt.failed is None:
            self._failures = self._retry_ns = 0
        else:
            wait_s = min(FIRST_RETRY_S * 2.0**self._failures, LAST_RETRY_S)
            self._failures += 1
            self._retry_ns = self._clock.now_ns() + int(wait_s * SECOND)
            self._failing(attempt.failed)
        self.poke()

    def _failing(self, error: PSymmError) -> None:
        known = self._protocol.record.delegation(self._protocol.lane)
        if known is not None:
            log.warning("key-not-changed", extra={"code": error.code})
            self._tell(KeyFailing(error, known.expiry, known.to_seq))

    async def _rotate(self) -> None:
        """Have a key delegated and wait until it is in force. Raises what stops that."""
        protocol = self._protocol
        # A delegated key from an interrupted rotation only needs its UKY.
        if protocol.next_key is None:
            key = await self._kept_key()
            change = await self._delegated(key)
            # The wallet may have taken hours. The session may have stopped since.
            self._must_rotate()
            self._take(protocol.key_delegated(key, change, self._clock.now_ns()))
            brought = key.public_key
        else:
            brought = protocol.next_key
        while self._in_force != brought:
            await self._poked.wait()
            self._must_rotate()
            # The delegation may run out unsigned, if no connection came in its time.
            known = protocol.record.delegation(protocol.lane)
            signed = known is not None and known.public_key == brought
            if not signed and protocol.next_key is None:
                raise SessionKeyEnded("the delegation ran out before a connection came")

    async def _kept_key(self) -> SecretKey:
        """A key that the journal holds and no frame has named yet. If there is none, make one and
        keep it.

        A record that begins at a checkpoint no longer knows earlier keys, and a thief may have one
        of those by now. So only keys that were kept after the last named one count as new.
        """
        protocol, lane = self._protocol, self._protocol.lane
        custody = protocol.record.agreement.custody
        kept = await self._journal.session_keys(custody)
        named = {known.public_key for known in protocol.record.delegations(lane)}
        last = max((place for place, key in kept if key.public_key in named), default=0)
        for place, key in kept:
            if place > last and not protocol.is_revoked(lane, key.public_key):
                return key
        key = SecretKey.generate()
        # `place` orders the keys. It must be above all of them, and above what we have signed.
        place = max([protocol.record.head(lane).seq + 1, *(place + 1 for place, _ in kept)])
        await self._journal.keep_session_key(custody, place, key)
        return key

    async def _delegated(self, key: SecretKey) -> SessionKeyChange:
        """The wallet's delegation of a key from our next frame on. Reports a wallet that takes its
        time."""
        protocol = self._protocol
        seq = protocol.record.head(protocol.lane).seq + 1
        delegation = Delegation(
            lane=protocol.lane,
            public_key=key.public_key,
            from_seq=seq,
            to_seq=seq + self._span,
            expiry=self._clock.now_ns() + self._life_ns,
        )
        async with trio.open_nursery() as nursery:
            # A wallet may need a person. Remind the application as long as it does.
            nursery.start_soon(self._remind)
            signature = await self._wallet.sign_typed(delegation.message(protocol.record.agreement))
            nursery.cancel_scope.cancel()
        return SessionKeyChange(
            session_public_key=key.public_key,
            from_seq=delegation.from_seq,
            to_seq=delegation.to_seq,
            expiry=delegation.expiry,
            delegation_signature=signature,
        )

    async def _remind(self) -> None:
        wait_s = SIGNER_S
        while True:
            await trio.sleep(wait_s)
            self._failing(WalletError("the wallet has not answered yet", waited_s=wait_s))
            wait_s *= 2


__all__ = ["KEY_LIFE_NS", "KeyRotator", "NoChain", "Revocations", "proving_key"]
