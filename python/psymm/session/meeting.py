"""Meeting: introductions as text, until both sides know the custody's opening.

The solver keeps nothing until the trader's Logon: its nonce is a keyed hash of who introduced
itself and how, so one introduction always gives one custody, a trader that lost the connection
while funding finds the same one again, and nobody can fill the solver's memory with greetings.
"""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

from psymm._core import address_of, keccak256
from psymm.errors import BadOpening, MeetingRefused, TermsRefused, WrongParty
from psymm.messages import Introduction, TermsDocument
from psymm.transcript.opening import Opening, salt_of

VERSION: Final = "1"


def fresh_nonce() -> bytes:
    """A random 248-bit nonce in 32 bytes, so that it is a field element."""
    return b"\0" + secrets.token_bytes(31)


@dataclass(frozen=True, slots=True)
class Introduced:
    """What a meeting agreed. collaterals: (trader's, solver's) promise in token units."""

    opening: Opening
    collaterals: tuple[int, int]


def introduce(public_key: bytes, nonce: bytes, collateral: int) -> Introduction:
    """The trader's first text. collateral: token units, 0 to look around only."""
    return Introduction(
        version=VERSION,
        public_key=public_key,
        nonce=nonce,
        collateral=collateral,
    )


@dataclass(frozen=True)
class Host:
    """The solver's side of every meeting. secret: 32 bytes that outlive restarts."""

    public_key: bytes
    chain_id: int
    contract: str
    terms: bytes = field(repr=False)
    secret: bytes = field(repr=False)

    def answer(
        self, greeting: Introduction, collateral: int
    ) -> tuple[Introduction, TermsDocument, Introduced]:
        """Our introduction, the terms, and what was agreed by showing them.

        Raises MeetingRefused for an unknown version, a nonce out of range, or ourselves.
        """
        _check(greeting)
        if greeting.public_key == self.public_key:
            raise MeetingRefused(
                "a custody with oneself is none", wallet=address_of(self.public_key)
            )
        terms_hash = keccak256(self.terms)
        keyed = hmac.new(
            self.secret,
            b"pSymm nonce" + greeting.public_key + greeting.nonce + terms_hash,
            sha256,
        ).digest()
        nonce = b"\0" + keyed[:31]
        opening = Opening(
            self.chain_id,
            self.contract,
            greeting.public_key,
            self.public_key,
            self.terms,
            salt_of(greeting.nonce, nonce),
        )
        said = Introduction(
            version=VERSION,
            public_key=self.public_key,
            nonce=nonce,
            terms_hash=terms_hash,
            collateral=collateral,
        )
        return (
            said,
            TermsDocument(terms=self.terms),
            Introduced(opening, (greeting.collateral or 0, collateral)),
        )


def met(
    ours: Introduction,
    theirs: Introduction,
    document: TermsDocument,
    *,
    chain_id: int,
    contract: str,
    expected: bytes | None,
) -> Introduced:
    """The trader's conclusion. expected: the solver's key in the registry, None to accept any.

    Raises WrongParty, TermsRefused, MeetingRefused; nothing was funded then.
    """
    _check(theirs)
    if expected is not None and theirs.public_key != expected:
        raise WrongParty(expected=address_of(expected), answered=address_of(theirs.public_key))
    if theirs.public_key == ours.public_key:
        raise MeetingRefused("a custody with oneself is none")
    shown = keccak256(document.terms)
    if theirs.terms_hash != shown:
        raise TermsRefused(
            "the terms shown are not those introduced",
            introduced=theirs.terms_hash or b"",
            shown=shown,
        )
    opening = Opening(
        chain_id,
        contract,
        ours.public_key,
        theirs.public_key,
        document.terms,
        salt_of(ours.nonce, theirs.nonce),
    )
    return Introduced(opening, (ours.collateral or 0, theirs.collateral or 0))


def _check(greeting: Introduction) -> None:
    if greeting.version != VERSION:
        raise MeetingRefused(
            "the peer speaks another version", theirs=greeting.version, ours=VERSION
        )
    if greeting.nonce[0]:
        raise MeetingRefused("the nonce is longer than 248 bits")
    try:
        address_of(greeting.public_key)
    except ValueError as bad:
        raise BadOpening(f"the public key is no point: {bad}") from None
