"""Session keys while a session lives: which one signs, when the next is due, which are revoked.

`SessionKeys` is the protocol's part, without input or output. `KeyRotator` is what waits: it asks
the wallet for the next delegation well before the key in force ends, and watches revocations.

A key is sealed in the journal before the wallet is asked, and signs its UKY itself; which key is in
force is what the frames say, so a process that dies anywhere between the two goes on with the right
one. A kept key that never came into force is taken for the next rotation.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import trio

from psymm._core import Frame, FrameError, SecretKey, address_of
from psymm.errors import (
    JournalCorrupt,
    KeyRevoked,
    NotNow,
    PSymmError,
    SessionClosed,
    SessionKeyEnded,
    WalletError,
)
from psymm.messages import Logon, Message, SessionKeyChange
from psymm.nursery import start_task
from psymm.session.clock import Clock
from psymm.session.effects import Effects, Event, KeyFailing, SessionStatus
from psymm.transcript.agreement import CustodyAgreement
from psymm.transcript.codec import JournalledRevocation
from psymm.transcript.delegation import Delegation, DelegationRefused, delegation_in
from psymm.transcript.journal import Journal
from psymm.transcript.record import Record
from psymm.transcript.resumption import PROVES_ONLY, ResumeSigner
from psymm.wallet import Wallet

if TYPE_CHECKING:
    from psymm.session.protocol import SessionProtocol

log = logging.getLogger(__name__)

SECOND: Final = 1_000_000_000
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


class SessionKeys:
    """What one end knows of both lanes' session keys. key: ours, in force or for our Logon; None
    where the record does not say yet which of `kept` it is, or where we may sign nothing. logon:
    ours, where it is still to be signed. proving: a key that signs no frame, delegated to prove
    ourselves where no other can.

    revoked: as the journal kept them. A key that is revoked from some seq on loses what we had not
    covered when we learnt of it, from there: its `cut`. What was covered stands.
    """

    def __init__(
        self,
        lane: int,
        key: SecretKey | None,
        revoked: Iterable[JournalledRevocation] = (),
        kept: Iterable[SecretKey] = (),
        logon: Logon | None = None,
    ) -> None:
        self.key = key
        self._logon = logon
        self.proving: ResumeSigner | None = None
        self._kept = {one.public_key: one for one in kept}
        self.next_key: tuple[SecretKey, SessionKeyChange] | None = None
        self._lane = lane
        self._due_for = 0
        self._due_at: int | None = None
        self._revoked = {(one.lane, one.key): one for one in revoked}

    @property
    def revoked(self) -> tuple[JournalledRevocation, ...]:
        return tuple(self._revoked.values())

    def revocation(self, lane: int, public_key: bytes) -> JournalledRevocation | None:
        """The revocation of a lane's key that is known, or None."""
        if not self._revoked:
            return None
        return self._revoked.get((lane, address_of(public_key)))

    # --- our own ----------------------------------------------------------------------------

    def choose(self, record: Record) -> None:
        """Take up the kept key that the record has in force, now that all of it is there."""
        known = record.delegation(self._lane)
        if known is not None:
            self.key = self._kept.get(known.public_key)

    def ended(self, record: Record, now: int) -> NotNow | None:
        """Why our key cannot sign our next frame now; None where it can, or before our Logon."""
        known = record.delegation(self._lane)
        if known is None:
            return None
        revoked = self.revocation(self._lane, known.public_key)
        if revoked is not None:
            return KeyRevoked(
                "our session key was revoked by our wallet; the next one has not come yet",
                key=revoked.key,
                from_seq=revoked.from_seq,
            )
        head = record.head(self._lane)
        if max(now, head.sending_time) > known.expiry:
            return SessionKeyEnded("our session key has expired", expiry=known.expiry, now=now)
        if head.seq >= known.to_seq:
            return SessionKeyEnded(
                "our session key has no number left", to_seq=known.to_seq, last=head.seq
            )
        return None

    def due(self, record: Record) -> tuple[int, int] | None:
        """From when on, nanoseconds, and from which number of ours on the next key is due: the
        last third of its time, the last eighth of its numbers. None before our Logon."""
        known = record.delegation(self._lane)
        if known is None:
            return None
        if self.revocation(self._lane, known.public_key) is not None:
            return 0, 0
        since = record.ruled_since(self._lane)
        first = record.entry(self._lane, since)
        began = known.expiry if first is None else first.frame.sending_time
        return (
            known.expiry - (known.expiry - began) // 3,
            known.to_seq - (known.to_seq - since) // 8,
        )

    def prover(self, record: Record, now: int) -> ResumeSigner | None:
        """What we prove ourselves with on a new connection: the key in force, else the one that is
        to follow it, else one that can do nothing but that; None where there is none now."""
        found: list[ResumeSigner] = []
        brings: Message | None = self._logon
        if record.delegation(self._lane) is not None:
            held = record.entry(self._lane, record.ruled_since(self._lane))
            brings = None if held is None else held.message
        if self.key is not None and isinstance(brings, Logon | SessionKeyChange):
            found.append(ResumeSigner.of(self.key, self._lane, brings))
        if self.next_key is not None:
            found.append(ResumeSigner.of(self.next_key[0], self._lane, self.next_key[1]))
        if self.proving is not None:
            found.append(self.proving)
        for one in found:
            key, delegation = one.key.public_key, one.delegation
            revoked = self.revocation(self._lane, key) is not None
            if delegation.public_key == key and now <= delegation.expiry and not revoked:
                return one
        return None

    def number_due(self, record: Record) -> bool:
        """Whether our last frame was the one from which on another key is due."""
        seq, ruled = record.head(self._lane).seq, record.ruled_since(self._lane)
        if self._due_for != ruled:
            due = self.due(record)
            self._due_for, self._due_at = ruled, None if due is None else due[1]
        return seq == self._due_at

    def take(self, record: Record, now: int) -> tuple[SecretKey, SessionKeyChange] | None:
        """The key that is to come, if its delegation holds for our next frame; else it is let go
        of, and another is due."""
        next_key, seq = self.next_key, record.head(self._lane).seq + 1
        if next_key is None:
            return None
        said = next_key[1]
        holds = said.from_seq <= seq <= said.to_seq
        in_time = max(now, record.head(self._lane).sending_time) <= said.expiry
        if holds and in_time and self.revocation(self._lane, said.session_public_key) is None:
            return next_key
        self.next_key = None
        return None

    # --- revocations ------------------------------------------------------------------------

    def learn(self, lane: int, found: Mapping[str, int], floor: int) -> bool:
        """Know a lane's revoked keys, all of them. floor: the first frame that the other lane has
        not covered. True where something is new."""
        before = dict(self._revoked)
        for (whose, key), _ in before.items():
            if whose == lane and key not in found:
                del self._revoked[whose, key]
        for key, from_seq in found.items():
            known = self._revoked.get((lane, key))
            if known is None or known.from_seq != from_seq:
                cut = max(from_seq, floor)
                if known is not None and known.from_seq > from_seq:
                    cut = min(cut, known.cut)
                self._revoked[lane, key] = JournalledRevocation(lane, key, from_seq, cut)
        return self._revoked != before

    def void_from(self, record: Record, lane: int) -> int | None:
        """The lane's first frame on the record that is not its party's word, or None.

        Only frames of the key in force: what a later key builds on, by naming its digest, the
        wallet has made its own.
        """
        known = record.delegation(lane)
        revoked = None if known is None else self.revocation(lane, known.public_key)
        if revoked is None:
            return None
        first = max(revoked.cut, record.ruled_since(lane))
        return first if first <= record.head(lane).seq else None

    def refuses(self, record: Record, frame: Frame) -> KeyRevoked | None:
        """The lane's next frame, where the key that is to have signed it (the one it brings, or
        else the one in force) was revoked for its number."""
        if not any(lane == frame.lane for lane, _ in self._revoked):
            return None
        brought = delegated_key(record, frame)
        known = record.delegation(frame.lane)
        key = brought if brought is not None or known is None else known.public_key
        return None if key is None else self._refusal(frame, key)

    def void(self, record: Record, frame: Frame) -> KeyRevoked | None:
        """A frame that a key signed which was revoked for its number, whichever is in force."""
        if not any(lane == frame.lane for lane, _ in self._revoked):
            return None
        key = signer(record, frame)
        return None if key is None else self._refusal(frame, key)

    def compromised(self, record: Record) -> bool:
        """Our wallet revoked the key in force: frames of our lane that we lack may be a thief's."""
        known = record.delegation(self._lane)
        return known is not None and self.revocation(self._lane, known.public_key) is not None

    def signed_by_different_keys(self, record: Record, shown: Frame) -> bool:
        """Did another key than that of the frame on the record sign this one with its number, and
        is one of the two revoked?"""
        ruling = record.signer(shown.lane, shown.seq)
        keys = None if ruling is None else ruling.public_key, signer(record, shown)
        return keys[0] != keys[1] and any(
            key is not None and self.revocation(shown.lane, key) is not None for key in keys
        )

    def _refusal(self, frame: Frame, key: bytes) -> KeyRevoked | None:
        revoked = self.revocation(frame.lane, key)
        if revoked is None or frame.seq < revoked.cut:
            return None
        return KeyRevoked(lane=frame.lane, seq=frame.seq, key=revoked.key, from_seq=revoked.cut)


def signer(record: Record, frame: Frame) -> bytes | None:
    """Which key signed a frame, of those that the lane's wallet delegated for its number, as far
    as the record and the frame itself show; None where it is none of them."""
    keys = [
        known.public_key
        for known in reversed(record.delegations(frame.lane))
        if known.from_seq <= frame.seq <= known.to_seq
    ]
    brought = delegated_key(record, frame)
    for key in keys if brought is None else [brought, *keys]:
        with suppress(FrameError):
            frame.verify(record.agreement.domain, key)
            return key
    return None


def delegated_key(record: Record, frame: Frame) -> bytes | None:
    """The key whose delegation a frame carries, or None."""
    message = record.decoded(frame)
    if isinstance(message, Logon | SessionKeyChange):
        with suppress(DelegationRefused):
            return delegation_in(record.agreement, frame, message).public_key
    return None


def key_in_force(
    record: Record, lane: int, kept: Sequence[tuple[int, SecretKey]]
) -> SecretKey | None:
    """The kept key that signs the lane's next frame, as the record's delegations have it; before
    the Logon the first one kept, None where there is none.

    Raises JournalCorrupt where the frames name a key that was not kept.
    """
    known = record.delegation(lane)
    if known is None:
        return kept[0][1] if kept else None
    for _, key in kept:
        if key.public_key == known.public_key:
            return key
    raise JournalCorrupt(
        "the session key in force is not in the journal",
        custody=record.agreement.custody,
        key=address_of(known.public_key),
    )


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
        if protocol.keys.prover(protocol.record, now) is None:
            agreement = protocol.record.agreement
            try:
                found = await proving_key(self._wallet, agreement, protocol.lane, now)
            except WalletError:
                raise
            except Exception as failed:
                # Whatever a signer of the application's raises.
                error = type(failed).__name__
                raise WalletError("the wallet's signer failed", error=error) from None
            protocol.keys.proving = found

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
        self._take(self._protocol.learn_revocations(ours, theirs, self._clock.now_ns()))

    # --- rotation ---------------------------------------------------------------------------

    def _wait_s(self) -> float:
        """Seconds until the next rotation is to begin."""
        protocol, now = self._protocol, self._clock.now_ns()
        if protocol.health != "complete":
            return LOOK_AGAIN_S
        due = protocol.keys.due(protocol.record)
        if due is None or protocol.error is not None or protocol.state is SessionStatus.CLOSED:
            return LOOK_AGAIN_S
        if protocol.keys.next_key is not None:
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
        if protocol.keys.next_key is None:
            key = await self._kept_key()
            change = await self._delegated(key)
            self._must_rotate()
            self._take(protocol.set_next_key(key, change, self._clock.now_ns()))
            brought = key.public_key
        else:
            brought = protocol.keys.next_key[0].public_key
        while self._in_force != brought:
            await self._poked.wait()
            self._must_rotate()
            known = protocol.record.delegation(protocol.lane)
            signed = known is not None and known.public_key == brought
            if not signed and protocol.keys.next_key is None:
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
            if place > last and not protocol.keys.revocation(lane, key.public_key):
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


__all__ = [
    "KEY_LIFE_NS",
    "KeyRotator",
    "NoChain",
    "Revocations",
    "SessionKeys",
    "delegated_key",
    "key_in_force",
    "proving_key",
    "signer",
]
