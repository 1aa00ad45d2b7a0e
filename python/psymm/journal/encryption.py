"""What a journal keeps sealed: AES-256-GCM under a key that only the wallet can derive.

Each sealed value is bound to its place, so that none can stand in for another.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Sequence

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from psymm.transcript.agreement import JournalledOpening


def encrypted_under(seal: AESGCM, bound_to: bytes, plain: bytes) -> bytes:
    """nonce (12 bytes), ciphertext, tag. bound_to: the value's place; it opens nowhere else."""
    nonce = secrets.token_bytes(12)
    return nonce + seal.encrypt(nonce, plain, bound_to)


def decrypted_under(seal: AESGCM, bound_to: bytes, sealed: bytes) -> bytes:
    """What was sealed. Raises InvalidTag for another key or place, and for damage."""
    return seal.decrypt(sealed[:12], sealed[12:], bound_to)


def encrypted_openings(
    seal: AESGCM, custody: bytes, notes: Sequence[JournalledOpening]
) -> list[tuple[bytes, bytes, int, bytes]]:
    """Rows of `openings`. Inside a seal: blinding (32 bytes), token (20), amount (16, big-endian),
    and the token once more as it was written."""
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
