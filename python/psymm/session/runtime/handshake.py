"""Handshake: introductions as text, until both sides know the custody's opening.

The solver keeps nothing until the trader's Logon: its nonce is a keyed hash of who introduced
itself and how, so one introduction always gives one custody, a trader that lost the connection
while funding finds the same one again, and nobody can fill the solver's memory with greetings.

Who only looks around (no collateral) is answered without a signature: such terms and prices bind
nobody. A trader that brings collateral gets the whole handshake signed (`spec.md` 61), with an
introduction key that the solver's wallet delegates about once a week, so that a wallet in an HSM is
not asked for each stranger. The trader demands afterwards that the terms are those that it saw.
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
"""How long a wallet that did not delegate is left alone: strangers must not make us pester it."""
ASK_S: Final = 10.0
"""How long a stranger waits for the wallet where no key is in force."""


def fresh_nonce() -> bytes:
    """A random 248-bit nonce in 32 bytes, so that it is a field element."""
    return b"\0" + secrets.token_bytes(31)


@dataclass(frozen=True, slots=True)
class Introduced:
    """What a handshake agreed. collaterals: (trader's, solver's) promise in token units. signed:
    what the solver signed of it, None where the trader only looks around."""

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
    """An introduction key in memory. expiry: nanoseconds. signature: the wallet's."""

    key: SecretKey
    expiry: int
    signature: bytes


class IntroductionKeys:
    """The solver's introduction key: asked of its wallet at the start, and again once half of its
    life is over. The key lives in memory only; a restart asks once more."""

    def __init__(self, wallet: Wallet, clock: Clock, chain_id: int, contract: str) -> None:
        self._wallet = wallet
        self._clock = clock
        self._place = (chain_id, contract)
        self._held: DelegatedKey | None = None
        self._wanted, self._asked = trio.Event(), trio.Event()
        self._not_before = 0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Ask the wallet whenever a key is due, until cancelled. Reports once it was asked."""
        await self._ask()
        task_status.started()
        while True:
            await self._wanted.wait()
            self._wanted = trio.Event()
            await self._ask()
            self._asked.set()
            self._asked = trio.Event()

    async def get(self) -> DelegatedKey:
        """The key to sign an introduction with now. Strangers go on being answered under the key
        in force while the wallet takes its time over the next.

        Raises HandshakeRefused where the wallet does not delegate one; the log says why.
        Cancelled: raises Cancelled, the wallet is asked all the same.
        """
        if self._left_ns() < KEY_NS // 2:
            self._wanted.set()
        if self._left_ns() < INTRODUCTION_NS:
            with trio.move_on_after(ASK_S):
                await self._asked.wait()
        if self._held is None or self._left_ns() < INTRODUCTION_NS:
            raise SolverUnable("this solver cannot sign introductions now; try again later")
        return self._held

    def _left_ns(self) -> int:
        return 0 if self._held is None else self._held.expiry - self._clock.now_ns()

    async def _ask(self) -> None:
        now = self._clock.now_ns()
        if now < self._not_before:
            return
        key, expiry = SecretKey.generate(), now + KEY_NS
        message = key_message(*self._place, self._wallet.public_key, key.public_key, expiry)
        try:
            signature = await self._wallet.sign_typed(message)
        except Exception as failed:
            # Whatever stands behind the wallet: sessions go on, and so does the key in force.
            self._not_before = now + RETRY_NS
            code = failed.code if isinstance(failed, PSymmError) else type(failed).__name__
            log.error("introduction-key-failing", extra={"code": code})
            return
        self._held = DelegatedKey(key, expiry, signature)


@dataclass(frozen=True)
class Host:
    """The solver's side of every handshake. secret: 32 bytes that outlive restarts."""

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
        """Our introduction, the terms, and what was agreed by showing them. now_ns: our clock.

        key: signs it at `now_ns`; None leaves it unsigned, for who only looks around.
        Raises HandshakeRefused for an unknown version, a nonce out of range, or ourselves.
        """
        check_greeting(greeting)
        if greeting.public_key == self.public_key:
            raise HandshakeRefused(
                "a custody with oneself is none", wallet=address_of(self.public_key)
            )
        terms_hash = keccak256(self.terms)
        keyed = hmac.new(
            self.secret,
            # With what it brings: who repeats a trader's introduction with another amount meets
            # another custody, in which the trader's Logon serves for nothing.
            b"pSymm nonce"
            + greeting.public_key
            + greeting.nonce
            + terms_hash
            + (greeting.collateral or 0).to_bytes(32, "big"),
            sha256,
        ).digest()
        nonce = b"\0" + keyed[:31]
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
            # It must not outlive the key that signs it.
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
    """The trader's conclusion. expected: the solver's key in the registry, None to accept any.

    Where ours brings collateral, the solver has signed all of it; whether in time is asked before
    each funding. Raises WrongParty, TermsRefused, BadIntroduction, HandshakeRefused; nothing was
    funded then.
    """
    check_greeting(theirs)
    if expected is not None and theirs.public_key != expected:
        raise WrongParty(expected=address_of(expected), answered=address_of(theirs.public_key))
    if theirs.public_key == ours.public_key:
        raise HandshakeRefused("a custody with oneself is none")
    shown = keccak256(document.terms)
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
    """What a solver's introduction says was signed. Raises BadIntroduction where it is unsigned."""
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
    """What can be said of an introduction alone. Raises HandshakeRefused, BadOpening."""
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
