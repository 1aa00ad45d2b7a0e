"""The viewing secret, and what is derived from it: blindings and sealed memos.

The viewing secret shows every note of its wallet and can spend none.

    viewing secret  HKDF-SHA256 of one signature by the wallet, or by the secrets key of a wallet
                    whose signatures differ each time (psymm.wallet.derive_secret)
    blinding        HKDF-Expand-SHA256(viewing secret, "pSymm blinding 1" ‖ chain id (8) ‖
                    contract (20) ‖ custody id (32) ‖ counter (8)), 64 bytes, mod the field
    memo key        HKDF-Expand-SHA256(viewing secret, "pSymm memo 1" ‖ chain id ‖ contract), 32

A memo is 256 bytes that look random to everybody else: a random nonce (12), 228 bytes of content
encrypted with AES-256-GCM, tag (16). The additional data is chain id (8) ‖ contract (20).

    content offset  bytes
    0               1   version, 1
    1               1   kind: 0 sole, 1 bilateral
    2              20   token
    22             16   amount
    38              8   counter
    46             32   salt                 these four are zero in a sole custody
    78             32   terms hash
    110            64   other party's public key
    174             1   own lane: 0 trader, 1 solver
    175            53   zero
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from psymm._core import FIELD_MODULUS
from psymm.chain.addresses import checksummed
from psymm.chain.calls import MEMO_BYTES
from psymm.custody.errors import MemoInvalid, NoteInvalid
from psymm.custody.notes import TRADER, Custody, Note, sole_custody
from psymm.typed_message import TypedMessage
from psymm.wallet import Wallet, derive_secret

CONTENT_BYTES: Final = 228
_NONCE_BYTES: Final = 12
_VERSION: Final = 1
_USED: Final = 175
PURPOSE: Final = (
    "Opens everything this wallet owns in pSymm to whoever holds it. Sign it in pSymm only."
)


@dataclass(frozen=True, slots=True)
class MemoContent:
    """The content of a memo: what its author needs to find the note again."""

    custody: Custody
    token: str
    amount: int
    counter: int
    lane: int


@dataclass(frozen=True, slots=True)
class ViewingKey:
    """Everything derived from a viewing secret, for one wallet on one contract.

    Attributes:
        public_key: the wallet's, 64 bytes.
        contract: the pool's checksummed address.
    """

    secret: bytes = field(repr=False)
    public_key: bytes
    chain_id: int
    contract: str
    _memos: AESGCM = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if len(self.secret) != 32:
            raise NoteInvalid("viewing secret", "must be 32 bytes")
        key = HKDFExpand(SHA256(), 32, b"pSymm memo 1" + self._place).derive(self.secret)
        object.__setattr__(self, "_memos", AESGCM(key))

    @property
    def sole(self) -> Custody:
        return sole_custody(self.public_key)

    @property
    def check(self) -> bytes:
        """32 bytes by which a file of notes recognises the viewing secret; they reveal nothing
        about it."""
        return HKDFExpand(SHA256(), 32, b"pSymm store 1" + self._place).derive(self.secret)

    @property
    def _place(self) -> bytes:
        return self.chain_id.to_bytes(8, "big") + bytes.fromhex(self.contract[2:])

    def blinding(self, custody_id: bytes, counter: int) -> bytes:
        """The blinding of the counter-th note.  A counter is never used twice."""
        info = b"pSymm blinding 1" + self._place + custody_id + counter.to_bytes(8, "big")
        # Twice the field's length, so that the remainder is as good as uniform.
        wide = HKDFExpand(SHA256(), 64, info).derive(self.secret)
        return (int.from_bytes(wide, "big") % FIELD_MODULUS).to_bytes(32, "big")

    def note(self, custody: Custody, token: str, amount: int, counter: int) -> Note:
        return Note(custody, token, amount, self.blinding(custody.id, counter))

    def seal(self, note: Note, counter: int) -> bytes:
        """The memo of our own note, 256 bytes.  Raises NoteInvalid if we are no party to it."""
        lane = note.custody.lane_of(self.public_key)
        sole = note.custody.is_sole
        content = b"".join(
            (
                bytes([_VERSION, 0 if sole else 1]),
                bytes.fromhex(note.token[2:]),
                note.amount.to_bytes(16, "big"),
                counter.to_bytes(8, "big"),
                note.custody.salt,
                note.custody.terms_hash,
                bytes(64) if sole else note.custody.other(self.public_key),
                bytes([lane]),
            )
        ).ljust(CONTENT_BYTES, b"\0")
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._memos.encrypt(nonce, content, self._place)

    def open(self, memo: bytes) -> MemoContent | None:
        """A memo's content; None if it was not made with this key.

        Raises MemoInvalid for a wrong length, and for invalid content under this key.
        """
        if len(memo) != MEMO_BYTES:
            raise MemoInvalid(f"a memo is {MEMO_BYTES} bytes, not {len(memo)}")
        try:
            content = self._memos.decrypt(memo[:_NONCE_BYTES], memo[_NONCE_BYTES:], self._place)
        except InvalidTag:
            return None
        if content[0] != _VERSION:
            raise MemoInvalid(f"version {content[0]} of a memo is not known here")
        if content[1] > 1 or content[174] > 1 or any(content[_USED:]):
            raise MemoInvalid("its content has an impossible value")
        lane = content[174]
        try:
            if content[1] == 0:
                if any(content[46:175]):
                    raise MemoInvalid("a sole custody's memo names another party")
                custody = self.sole
            else:
                other = content[110:174]
                pair = (self.public_key, other) if lane == TRADER else (other, self.public_key)
                custody = Custody(*pair, terms_hash=content[78:110], salt=content[46:78])
                if custody.is_sole:
                    raise MemoInvalid("a bilateral custody's memo names one party twice")
        except NoteInvalid as bad:
            raise MemoInvalid(str(bad)) from None
        return MemoContent(
            custody=custody,
            token=checksummed("token", "0x" + content[2:22].hex()),
            amount=int.from_bytes(content[22:38], "big"),
            counter=int.from_bytes(content[38:46], "big"),
            lane=lane,
        )

    def find(self, commitment: bytes, memo: bytes) -> tuple[Note, int] | None:
        """The note of a leaf with its counter, if it is this wallet's.

        Anybody can copy a memo to another leaf, so the note counts only if it gives the leaf's
        commitment.  Never raises for what others wrote.
        """
        try:
            content = self.open(memo)
        except MemoInvalid:
            return None
        if content is None:
            return None
        note = self.note(content.custody, content.token, content.amount, content.counter)
        return (note, content.counter) if note.commitment == commitment else None


async def viewing_key(wallet: Wallet, chain_id: int, contract: str) -> ViewingKey:
    """Ask the wallet for its signature, twice, and derive its viewing key for one contract.

    Raises UnsteadySigner if the two signatures differ: its notes could not be found again. Such a
    wallet needs a secrets key; see `psymm.wallet.CallbackWallet`.
    """
    message = TypedMessage(
        chain_id, contract, "ViewingSecret", (("purpose", "string"),), {"purpose": PURPOSE}
    )
    secret = await derive_secret(wallet, message, "viewing secret 1")
    return ViewingKey(secret, wallet.public_key, chain_id, contract)
