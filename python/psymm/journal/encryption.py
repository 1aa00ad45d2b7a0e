"""Encryption of a journal's secrets: AES-256-GCM under a key that only the wallet can derive.

Each ciphertext is bound to its place in the journal, so one cannot be swapped for another.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from psymm.transcript.agreement import JournalledOpening


def encrypted_under(seal: AESGCM, bound_to: bytes, plain: bytes) -> bytes:
    """Nonce (12 bytes), ciphertext, tag. It decrypts only with the same place, `bound_to`."""
    nonce = secrets.token_bytes(12)
    return nonce + seal.encrypt(nonce, plain, bound_to)


def decrypted_under(seal: AESGCM, bound_to: bytes, sealed: bytes) -> bytes:
    """The plaintext. Raises InvalidTag for another key or place, and for damage."""
    # The library would call a cut nonce a wrong argument of ours.
    if len(sealed) < 12:
        raise InvalidTag
    return seal.decrypt(sealed[:12], sealed[12:], bound_to)


def encrypted_openings(
    seal: AESGCM, custody: bytes, notes: Sequence[JournalledOpening]
) -> list[tuple[bytes, bytes, int, bytes]]:
    """Rows of `openings`.

    A plaintext is blinding (32 bytes), token (20), amount (16, big-endian), and the token's
    checksummed text.
    """
    return [
        (
            custody,
            note.commitment,
            note.lane,
            encrypted_under(
                seal,
                custody + note.commitment,
                note.blinding
                + bytes.fromhex(note.token[2:])
                + note.amount.to_bytes(16)
                + note.token.encode(),
            ),
        )
        for note in notes
    ]


def opening_rows(base: sqlite3.Connection, custody: bytes) -> list[tuple[bytes, int, bytes]]:
    """Commitment, lane and sealed opening of a custody's notes."""
    return base.execute(
        "SELECT commitment, lane, sealed FROM openings WHERE custody = ?", (custody,)
    ).fetchall()


def decrypted_openings(
    seal: AESGCM, custody: bytes, rows: Sequence[tuple[bytes, int, bytes]]
) -> list[JournalledOpening]:
    """The openings in `opening_rows`. Raises InvalidTag."""
    notes = []
    for commitment, lane, sealed in rows:
        plain = decrypted_under(seal, custody + commitment, sealed)
        notes.append(
            JournalledOpening(
                commitment=commitment,
                lane=lane,
                blinding=plain[:32],
                amount=int.from_bytes(plain[52:68]),
                token=plain[68:].decode(),
            )
        )
    return notes
