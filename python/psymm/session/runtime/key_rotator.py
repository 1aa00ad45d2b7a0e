"""Rotates a session's key in time: asks the wallet for the next delegation well before the key in
force ends, and keeps revocations known. What keys mean is `protocol.keys`.

A key is sealed in the journal before the wallet is asked, and signs its UKY itself; which key is in
force is what the frames say, so a process that dies anywhere between the two goes on with the right
one. A kept key that never came into force is taken for the next rotation.
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
"""How long a session key is delegated for; a custody outlives it with a UKY."""
PROVING_NS: Final = 86_400 * SECOND
"""How long a key that only proves who we are is delegated for."""
FIRST_RETRY_S: Final = 60.0
LAST_RETRY_S: Final = 3600.0
"""Between two requests to a wallet that refuses: doubling from the first to the last."""
SIGNER_S: Final = 300.0
"""How long a wallet may think before the application is told; it is not asked anew meanwhile."""
LOOK_AGAIN_S: Final = 3600.0
"""Between two looks at a clock that may be set."""


class Revocations(Protocol):
    """Session keys that wallets revoked on chain; one for all sessions of a process."""

    @property
    def version(self) -> int:
        """Changes whenever `of` may say something else than before."""
        ...

    def of(self, wallet: str, depth: int) -> Mapping[str, int]:
        """A wallet's revoked keys, as deep as `depth` demands: fromSeq by the key's address."""
        ...

    def listen(self, on_change: Callable[[], None]) -> Callable[[], None]:
        """Calls `on_change` whenever `version` changes, until what it returns is called.
        `on_change` does not block and does not raise."""
        ...


class NoChain:
    """Revocations where there is no chain to read: none is ever seen."""

    version = 0

    def of(self, wallet: str, depth: int) -> Mapping[str, int]:
        return {}

    def listen(self, on_change: Callable[[], None]) -> Callable[[], None]:
        return lambda: None


async def proving_key(
    wallet: Wallet, agreement: CustodyAgreement, lane: int, now: int
) -> ResumeSigner:
    """A key that can sign no frame, delegated by the wallet to prove itself for a day. Held in
    memory only. Raises WalletError. Cancelled: raises Cancelled."""
    key = SecretKey.generate()
    delegation = Delegation(lane, key.public_key, PROVES_ONLY, PROVES_ONLY, now + PROVING_NS)
    return ResumeSigner(key, delegation, await wallet.sign_typed(delegation.message(agreement)))


@dataclass
class _Attempt:
    done: trio.Event
    failed: PSymmError | None = None


class KeyRotator:
    """Rotates one end's session key in time, and keeps both lanes' revocations known.

    depth: how deep a revocation must be to count. span: how many numbers a key is delegated for.
    `run` must be running; the wallet is asked from a task of its own, so nothing waits for it.
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
        self._take: Callable[[Effects], None] = lambda effects: None
        self._tell: Callable[[Event], None] = lambda event: None
        self._nursery: trio.Nursery | None = None
        self._stopped = False
        self._attempt: _Attempt | None = None
        self._poked = trio.Event()
        self._in_force = b""
        self._seen = 0
        self._failures = 0
        self._retry_ns = 0

    def begin(self, take: Callable[[Effects], None], tell: Callable[[Event], None]) -> None:
        """Know what is revoked by now, before the first connection. take: what carries turns out;
        tell: hears events."""
        self._take, self._tell = take, tell
        self._learn()

    async def run(self, nursery: trio.Nursery) -> None:
        """Keep the keys, once begun; until cancelled. nursery: where the wallet is asked."""
        self._nursery, self._stopped = nursery, False
        stop = self._revocations.listen(self.poke)
        try:
            while True:
                poked = self._poked
                if self._seen != self._revocations.version:
                    self._learn()
                wait_s = self._wait_s()
                if wait_s <= 0 and self._attempt is None:
                    self._start(nursery)
                with trio.move_on_after(LOOK_AGAIN_S if self._attempt else wait_s):
                    await poked.wait()
        finally:
            self._nursery, self._stopped = None, True
            stop()

    async def rotate(self) -> None:
        """Put the next session key in force; returns once its UKY is durable and on its way, which
        takes a connection.

        Joins a rotation that is under way. Raises WalletError (the wallet refuses; the key in
        force stays), JournalError, SessionClosed, NotNow before the Logon, or the error that
        stopped the session. Cancelled: it goes on by itself.
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
        """Have something to prove ourselves with: asks the wallet only where no session key will
        do. Raises WalletError. Cancelled: raises Cancelled, the wallet may be asked again."""
        protocol = self._protocol
        now = self._clock.now_ns()
        if protocol.resume_signer(now) is None:
            agreement = protocol.record.agreement
            try:
                found = await proving_key(self._wallet, agreement, protocol.lane, now)
            except WalletError:
                raise
            except Exception as failed:
                # Whatever a signer of the application's raises.
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
        if self._protocol.health != "complete":
            return
        self._seen = self._revocations.version
        agreement, lane = self._protocol.record.agreement, self._protocol.lane
        ours, theirs = (
            self._revocations.of(agreement.wallet_address(whose), self._depth)
            for whose in (lane, 1 - lane)
        )
        self._take(self._protocol.revocations_learned(ours, theirs, self._clock.now_ns()))

    # --- rotation ---------------------------------------------------------------------------

    def _wait_s(self) -> float:
        """Seconds until the next rotation is to begin."""
        protocol, now = self._protocol, self._clock.now_ns()
        if protocol.health != "complete":
            return LOOK_AGAIN_S
        due = protocol.key_due()
        if due is None or protocol.error is not None or protocol.status is SessionStatus.CLOSED:
            return LOOK_AGAIN_S
        if protocol.next_key is not None:
            return LOOK_AGAIN_S
        when, number = due
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
        start_task(nursery, self._try, attempt)
        self._attempt = attempt
        return attempt

    async def _try(self, attempt: _Attempt) -> None:
        # Who waits is told so where the session ends meanwhile.
        attempt.failed = SessionClosed(custody=self._protocol.record.agreement.custody)
        try:
            await self._rotate()
        except PSymmError as failed:
            attempt.failed = failed
        except Exception as failed:
            # Whatever a signer of the application's raises; its words may hold what is not ours.
            attempt.failed = WalletError("the wallet's signer failed", error=type(failed).__name__)
        else:
            attempt.failed = None
        finally:
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
        protocol = self._protocol
        if protocol.next_key is None:
            key = await self._kept_key()
            change = await self._delegated(key)
            self._must_rotate()
            self._take(protocol.key_delegated(key, change, self._clock.now_ns()))
            brought = key.public_key
        else:
            brought = protocol.next_key
        while self._in_force != brought:
            await self._poked.wait()
            self._must_rotate()
            known = protocol.record.delegation(protocol.lane)
            signed = known is not None and known.public_key == brought
            if not signed and protocol.next_key is None:
                raise SessionKeyEnded("the delegation ran out before a connection came")

    async def _kept_key(self) -> SecretKey:
        """A key that the journal holds and no frame has named yet, made and kept if there is none.

        A record that begins at a checkpoint has forgotten the keys of before, and a former key may
        be a thief's by now: only what was kept after the last that is named is new.
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
        place = max([protocol.record.head(lane).seq + 1, *(place + 1 for place, _ in kept)])
        await self._journal.keep_session_key(custody, place, key)
        return key

    async def _delegated(self, key: SecretKey) -> SessionKeyChange:
        """The wallet's delegation of a key from our next frame on; tells the application where the
        wallet takes its time."""
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
