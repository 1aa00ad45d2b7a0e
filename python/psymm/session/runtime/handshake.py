"""The handshake: introductions as text, until both sides know the custody's agreement.

The course: the trader introduces itself (`introduce`). The solver answers with its own
introduction and its terms (`Host.answer`). The trader checks both (`conclude_handshake`). The next
message is the trader's Logon, which is no longer part of the handshake.

What is durable when: the solver keeps nothing until the trader's Logon. Its nonce is a keyed hash
of the trader's introduction, so one introduction always leads to the same custody. A trader that
loses the connection while it funds finds the same custody again, and strangers cannot fill the
solver's memory. The trader keeps the agreement in its journal before it funds; `trader` does that.

Signed or not: a trader that brings no collateral only looks around. It gets an unsigned answer,
whose terms and prices bind nobody. A trader that brings collateral gets the whole handshake signed
(`spec.md` 61). The solver signs with an introduction key. Its wallet delegates a new one about
twice a week, so that a wallet in an HSM is not asked for each stranger. From then on the trader
holds the solver to the terms that it saw.
"""

from __future__ import annotations

import hmac
import logging
import secrets
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

import trio

from psymm._core import SecretKey, address_of, keccak256
from psymm.errors import (
    BadIntroduction,
    BadOpening,
    HandshakeRefused,
    PSymmError,
    SolverUnable,
    TermsRefused,
    WrongParty,
)
from psymm.messages import Introduction, TermsDocument
from psymm.session.runtime.clock import Clock
from psymm.transcript.agreement import CustodyAgreement, salt_of
from psymm.transcript.introduction import (
    INTRODUCTION_NS,
    KEY_NS,
    SignedIntroduction,
    introduction_message,
    key_message,
)
from psymm.wallet import Wallet

log = logging.getLogger(__name__)

VERSION: Final = "1"
RETRY_NS: Final = 30 * 10**9
"""Nanoseconds during which we do not ask a wallet again that did not delegate a key. Strangers must
not be able to make us pester it."""
ASK_S: Final = 10.0
"""Seconds that a stranger waits for the wallet when no key is in force."""


def fresh_nonce() -> bytes:
    """A random 248-bit nonce in 32 bytes, so that it is a field element."""
    return b"\0" + secrets.token_bytes(31)


@dataclass(frozen=True, slots=True)
class Introduced:
    """What a handshake agreed.

    Attributes:
        collaterals: What the trader and the solver promise, in token units.
        signed: What the solver signed of it; None if the trader only looks around.
    """

    agreement: CustodyAgreement
    collaterals: tuple[int, int]
    signed: SignedIntroduction | None = None


def introduce(public_key: bytes, nonce: bytes, collateral: int) -> Introduction:
    """The trader's first text. collateral: token units, 0 to look around only."""
    return Introduction(
        version=VERSION,
        public_key=public_key,
        nonce=nonce,
        collateral=collateral,
    )


@dataclass(frozen=True, slots=True)
class DelegatedKey:
    """An introduction key in memory.

    Attributes:
        expiry: Nanoseconds since the epoch.
        signature: The wallet's, over key and expiry.
    """

    key: SecretKey
    expiry: int
    signature: bytes


class IntroductionKeys:
    """The solver's introduction key.

    The wallet is asked at the start, and again when half of the key's life is over. The key lives
    in memory only; after a restart the wallet is asked again.
    """

    def __init__(self, wallet: Wallet, clock: Clock, chain_id: int, contract: str) -> None:
        self._wallet = wallet
        self._clock = clock
        self._place = (chain_id, contract)
        self._held: DelegatedKey | None = None
        # `get` sets `_wanted`; `run` sets `_asked` when the wallet has answered or refused.
        self._wanted, self._asked = trio.Event(), trio.Event()
        self._not_before = 0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Ask the wallet whenever a key is due, until cancelled. Reports started after the first
        request."""
        # Once before we serve, so that the first strangers need not wait.
        await self._ask()
        task_status.started()
        while True:
            await self._wanted.wait()
            # A new event before the request: a `get` that comes during it asks once more.
            self._wanted = trio.Event()
            await self._ask()
            # Wake all who wait, whether we got a key or not; each looks at `_held` itself.
            self._asked.set()
            self._asked = trio.Event()

    async def get(self) -> DelegatedKey:
        """The key to sign an introduction with now. While the wallet takes its time over the next
        key, strangers are still answered with the current one.

        Raises HandshakeRefused if the wallet does not delegate one; the log says why.
        Cancelled: raises Cancelled; the wallet is still asked.
        """
        # Renew early, without waiting: the old key is good for the other half of its life.
        if self._left_ns() < KEY_NS // 2:
            self._wanted.set()
        # The key must outlive the introduction that it signs. Only now must the stranger wait.
        if self._left_ns() < INTRODUCTION_NS:
            with trio.move_on_after(ASK_S):
                await self._asked.wait()
        # Look at the key itself: the wallet may have refused, or the wait may have run out.
        if self._held is None or self._left_ns() < INTRODUCTION_NS:
            raise SolverUnable("this solver cannot sign introductions now; try again later")
        return self._held

    def _left_ns(self) -> int:
        return 0 if self._held is None else self._held.expiry - self._clock.now_ns()

    async def _ask(self) -> None:
        """Ask the wallet to delegate a new key. Does not raise: the current key stays."""
        # A failed request is not repeated for RETRY_NS, however many strangers come.
        now = self._clock.now_ns()
        if now < self._not_before:
            return
        key, expiry = SecretKey.generate(), now + KEY_NS
        message = key_message(*self._place, self._wallet.public_key, key.public_key, expiry)
        try:
            signature = await self._wallet.sign_typed(message)
        except Exception as failed:
            # Any error of the wallet's backend. Sessions and the current key are not affected.
            self._not_before = now + RETRY_NS
            code = failed.code if isinstance(failed, PSymmError) else type(failed).__name__
            log.error("introduction-key-failing", extra={"code": code})
            return
        # Only a delegated key replaces the current one.
        self._held = DelegatedKey(key, expiry, signature)


@dataclass(frozen=True)
class Host:
    """The solver's side of every handshake.

    Attributes:
        terms: The terms' document.
        secret: 32 bytes that stay the same across restarts. They key the nonces.
    """

    public_key: bytes
    chain_id: int
    contract: str
    terms: bytes = field(repr=False)
    secret: bytes = field(repr=False)

    def answer(
        self,
        greeting: Introduction,
        collateral: int,
        key: DelegatedKey | None = None,
        now_ns: int = 0,
    ) -> tuple[Introduction, TermsDocument, Introduced]:
        """Our introduction, the terms, and what we agree to by showing them.

        Raises HandshakeRefused for an unknown version, a nonce out of range, or our own key.

        Args:
            collateral: What we promise, in token units.
            key: Signs the introduction; None leaves it unsigned, for a trader that looks around.
            now_ns: Our clock.
        """
        check_greeting(greeting)
        # Both lanes would have the same key: each side could sign for the other.
        if greeting.public_key == self.public_key:
            raise HandshakeRefused(
                "a custody with oneself is none", wallet=address_of(self.public_key)
            )
        terms_hash = keccak256(self.terms)
        keyed = hmac.new(
            self.secret,
            # The amount is part of the hash. If somebody replays a trader's introduction with
            # another amount, another custody results, and the trader's Logon does not fit it.
            b"pSymm nonce"
            + greeting.public_key
            + greeting.nonce
            + terms_hash
            + (greeting.collateral or 0).to_bytes(32, "big"),
            sha256,
        ).digest()
        # The first byte is 0, so that the nonce is a field element.
        nonce = b"\0" + keyed[:31]
        # Both nonces make the salt, so neither side alone chooses the custody's id.
        agreement = CustodyAgreement(
            self.chain_id,
            self.contract,
            greeting.public_key,
            self.public_key,
            self.terms,
            salt_of(greeting.nonce, nonce),
        )
        collaterals = (greeting.collateral or 0, collateral)
        signed = None
        if key is not None:
            # The introduction must not outlive the key that signs it.
            expiry = min(now_ns + INTRODUCTION_NS, key.expiry)
            nonces = (greeting.nonce, nonce)
            said = introduction_message(agreement, nonces, collaterals, now_ns, expiry)
            signed = SignedIntroduction(
                nonce=nonce,
                collateral=collateral,
                sending_time=now_ns,
                expiry=expiry,
                key=key.key.public_key,
                key_expiry=key.expiry,
                key_signature=key.signature,
                signature=key.key.sign(said.digest()),
            )
        return (
            _text_of(self.public_key, nonce, terms_hash, collateral, signed, now_ns),
            TermsDocument(terms=self.terms),
            Introduced(agreement, collaterals, signed),
        )


def conclude_handshake(
    ours: Introduction,
    theirs: Introduction,
    document: TermsDocument,
    *,
    chain_id: int,
    contract: str,
    expected: bytes | None,
) -> Introduced:
    """The trader's checks at the end of the handshake. Nothing is funded yet.

    If our introduction brings collateral, the solver has signed all of it. Whether the signature
    is still in time is checked before each funding, not here.
    Raises WrongParty, TermsRefused, BadIntroduction, HandshakeRefused.

    Args:
        expected: The solver's key in the registry; None accepts any.
    """
    check_greeting(theirs)
    if expected is not None and theirs.public_key != expected:
        raise WrongParty(expected=address_of(expected), answered=address_of(theirs.public_key))
    if theirs.public_key == ours.public_key:
        raise HandshakeRefused("a custody with oneself is none")
    shown = keccak256(document.terms)
    # The introduction is signed, the document is not: the hash ties them together.
    if theirs.terms_hash != shown:
        raise TermsRefused(
            "the terms shown are not those introduced",
            introduced=theirs.terms_hash or b"",
            shown=shown,
        )
    agreement = CustodyAgreement(
        chain_id,
        contract,
        ours.public_key,
        theirs.public_key,
        document.terms,
        salt_of(ours.nonce, theirs.nonce),
    )
    # Unsigned answers are fine for looking around. Collateral moves on signed ones only.
    signed = None
    if ours.collateral:
        signed = _signed(theirs)
        signed.verify(agreement, ours.nonce, ours.collateral)
    return Introduced(agreement, (ours.collateral or 0, theirs.collateral or 0), signed)


def _text_of(
    public_key: bytes,
    nonce: bytes,
    terms_hash: bytes,
    collateral: int,
    signed: SignedIntroduction | None,
    now_ns: int,
) -> Introduction:
    """The solver's introduction as a message; unsigned without `signed`."""
    return Introduction(
        version=VERSION,
        public_key=public_key,
        nonce=nonce,
        terms_hash=terms_hash,
        collateral=collateral,
        sending_time=now_ns,
        expiry=None if signed is None else signed.expiry,
        introduction_key=None if signed is None else signed.key,
        key_expiry=None if signed is None else signed.key_expiry,
        key_signature=None if signed is None else signed.key_signature,
        signature=None if signed is None else signed.signature,
    )


def _signed(theirs: Introduction) -> SignedIntroduction:
    """What a solver's introduction says was signed. Raises BadIntroduction if it is unsigned."""
    if (
        theirs.sending_time is None
        or theirs.expiry is None
        or theirs.introduction_key is None
        or theirs.key_expiry is None
        or theirs.key_signature is None
        or theirs.signature is None
    ):
        raise BadIntroduction("the solver's introduction is not signed")
    return SignedIntroduction(
        nonce=theirs.nonce,
        collateral=theirs.collateral or 0,
        sending_time=theirs.sending_time,
        expiry=theirs.expiry,
        key=theirs.introduction_key,
        key_expiry=theirs.key_expiry,
        key_signature=theirs.key_signature,
        signature=theirs.signature,
    )


def check_greeting(greeting: Introduction) -> None:
    """Check an introduction without context. Raises HandshakeRefused, BadOpening."""
    if greeting.version != VERSION:
        raise HandshakeRefused(
            "the peer speaks another version", theirs=greeting.version, ours=VERSION
        )
    if greeting.nonce[0]:
        raise HandshakeRefused("the nonce is longer than 248 bits")
    try:
        address_of(greeting.public_key)
    except ValueError as bad:
        raise BadOpening(f"the public key is no point: {bad}") from None
