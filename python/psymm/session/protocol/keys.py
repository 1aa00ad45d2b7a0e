"""Session keys of both lanes: which one signs, when the next is due, which are revoked.

A key may be revoked from a frame number on. Its later frames are void, except those that the other
lane had covered when it learned of the revocation (`spec.md` 38). A void frame binds after all if a
later key of the same lane builds on it by naming its digest: that is the wallet's consent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress

from psymm._core import Frame, FrameError, SecretKey, address_of
from psymm.errors import JournalCorrupt, KeyRevoked, NotNow, SessionKeyEnded
from psymm.messages import Logon, Message, SessionKeyChange
from psymm.session.protocol.state import KeyState, SessionState
from psymm.transcript.delegation import DelegationRefused, JournalledRevocation, delegation_in
from psymm.transcript.record import Record
from psymm.transcript.resumption import ResumeSigner


def revocation(keys: KeyState, lane: int, public_key: bytes) -> JournalledRevocation | None:
    """The known revocation of a lane's key, or None."""
    return keys.revoked.get((lane, address_of(public_key))) if keys.revoked else None


# --- our own -------------------------------------------------------------------------------------


def choose(s: SessionState) -> None:
    """Choose the kept key that is in force, now that the record is complete."""
    known = s.record.delegation(s.lane)
    if known is not None:
        s.keys.key = s.keys.kept.get(known.public_key)


def ended(s: SessionState, now: int) -> NotNow | None:
    """Why our key cannot sign our next frame now; None where it can, or before our Logon."""
    known = s.record.delegation(s.lane)
    if known is None:
        return None
    revoked = revocation(s.keys, s.lane, known.public_key)
    if revoked is not None:
        return KeyRevoked(
            "our session key was revoked by our wallet; the next one has not come yet",
            key=revoked.key,
            from_seq=revoked.from_seq,
        )
    head = s.record.heads[s.lane]
    if max(now, head.sending_time) > known.expiry:
        return SessionKeyEnded("our session key has expired", expiry=known.expiry, now=now)
    if head.seq >= known.to_seq:
        return SessionKeyEnded(
            "our session key has no number left", to_seq=known.to_seq, last=head.seq
        )
    return None


def due(s: SessionState) -> tuple[int, int] | None:
    """When the next key is due: a time in nanoseconds, and a frame number of ours.

    That is the last third of the key's time, or the last eighth of its numbers, the earlier of the
    two. None before our Logon.
    """
    known = s.record.delegation(s.lane)
    if known is None:
        return None
    if revocation(s.keys, s.lane, known.public_key) is not None:
        return 0, 0
    since = s.record.ruled_since(s.lane)
    first = s.record.entry(s.lane, since)
    began = known.expiry if first is None else first.frame.sending_time
    return (
        known.expiry - (known.expiry - began) // 3,
        known.to_seq - (known.to_seq - since) // 8,
    )


def number_due(s: SessionState) -> bool:
    """Whether our last frame has the number from which the next key is due."""
    if s.attention:
        note_limits(s)
    return s.record.heads[s.lane].seq == s.keys.due_at


def note_limits(s: SessionState) -> None:
    """Cache the limits of our key in force, and when the next one is due.

    For one key these never change. A new key arrives only while `SessionState.attention` is set.
    """
    keys, known = s.keys, s.record.delegation(s.lane)
    ruled = s.record.ruled_since(s.lane)
    if keys.due_for != ruled:
        found = due(s)
        keys.due_for, keys.due_at = ruled, None if found is None else found[1]
    # 0 means: use the full check (`signing.refuses_to_sign`). Set below only for a usable key.
    keys.signs_until = keys.signs_to = 0
    if known is None or keys.key is None or s.recovery.health != "complete":
        return
    if revocation(keys, s.lane, known.public_key) is None:
        keys.signs_until, keys.signs_to = known.expiry, known.to_seq


def prover(s: SessionState, now: int) -> ResumeSigner | None:
    """The key that proves who we are on a new connection, or None.

    In this order: the key in force, the next key, the key that signs only resumes.
    """
    keys, lane = s.keys, s.lane
    found: list[ResumeSigner] = []
    brings: Message | None = keys.logon
    if s.record.delegation(lane) is not None:
        held = s.record.entry(lane, s.record.ruled_since(lane))
        brings = None if held is None else held.message
    if keys.key is not None and isinstance(brings, Logon | SessionKeyChange):
        found.append(ResumeSigner.of(keys.key, lane, brings))
    if keys.next_key is not None:
        found.append(ResumeSigner.of(keys.next_key[0], lane, keys.next_key[1]))
    if keys.proving is not None:
        found.append(keys.proving)
    for one in found:
        key, delegation = one.key.public_key, one.delegation
        usable = delegation.public_key == key and now <= delegation.expiry
        if usable and revocation(keys, lane, key) is None:
            return one
    return None


def take_next(s: SessionState, now: int) -> tuple[SecretKey, SessionKeyChange] | None:
    """The next key, if its delegation is valid for our next frame.

    Otherwise it is dropped, and another is due.
    """
    if s.keys.next_key is None:
        return None
    head, change = s.record.heads[s.lane], s.keys.next_key[1]
    holds = change.from_seq <= head.seq + 1 <= change.to_seq
    in_time = max(now, head.sending_time) <= change.expiry
    if holds and in_time and revocation(s.keys, s.lane, change.session_public_key) is None:
        return s.keys.next_key
    # Its numbers or its time ran out while heads did not agree.
    s.keys.next_key = None
    return None


def compromised(s: SessionState) -> bool:
    """Whether our wallet revoked the key in force. A thief may then have signed in our lane."""
    known = s.record.delegation(s.lane)
    return known is not None and revocation(s.keys, s.lane, known.public_key) is not None


# --- revocations ---------------------------------------------------------------------------------


def learn(keys: KeyState, lane: int, found: Mapping[str, int], floor: int) -> bool:
    """Set a lane's revoked keys. True if anything changed.

    Args:
        keys: the state to change.
        lane: whose keys.
        found: fromSeq by address, of every revoked key of the lane.
        floor: the first frame that may become void. For the peer's lane that is the first that we
            have not covered. For ours it is 1: we do not know what the peer had covered in time.
    """
    before = dict(keys.revoked)
    for whose, key in before:
        # `found` is complete: a reorganisation of the chain has undone this revocation.
        if whose == lane and key not in found:
            del keys.revoked[whose, key]
    for key, from_seq in found.items():
        known = keys.revoked.get((lane, key))
        if known is None or known.from_seq != from_seq:
            # Frames below the floor bind, no matter when the key was revoked (`spec.md` 38).
            cut = max(from_seq, floor)
            # A wider revocation must not bring frames back that the first one made void.
            if known is not None and known.from_seq > from_seq:
                cut = min(cut, known.cut)
            keys.revoked[lane, key] = JournalledRevocation(lane, key, from_seq, cut)
    return keys.revoked != before


def void_from(s: SessionState, lane: int) -> int | None:
    """The first recorded frame of a lane that its revoked key in force signed in vain, or None."""
    known = s.record.delegation(lane)
    revoked = None if known is None else revocation(s.keys, lane, known.public_key)
    if revoked is None:
        return None
    first = max(revoked.cut, s.record.ruled_since(lane))
    return first if first <= s.record.heads[lane].seq else None


def refuses(s: SessionState, frame: Frame) -> KeyRevoked | None:
    """The error if the expected signer of the lane's next frame was revoked for its number.

    The expected signer is the key that the frame brings, else the key in force. No signature is
    checked.
    """
    # Revocations are rare, so skip the decoding below when the lane has none.
    if not any(lane == frame.lane for lane, _ in s.keys.revoked):
        return None
    delegated = delegated_key(s.record, frame)
    known = s.record.delegation(frame.lane)
    key = delegated if delegated is not None or known is None else known.public_key
    return None if key is None else _refusal(s.keys, frame, key)


def refuses_signer(s: SessionState, frame: Frame) -> KeyRevoked | None:
    """The error if the actual signer of a frame was revoked for its number.

    Checks signatures, so it also finds a key that is not in force.
    """
    if not any(lane == frame.lane for lane, _ in s.keys.revoked):
        return None
    key = signer(s.record, frame)
    return None if key is None else _refusal(s.keys, frame, key)


def signed_by_different_keys(s: SessionState, shown: Frame) -> bool:
    """Whether two different keys signed this frame and the recorded one, and one is revoked."""
    ruling = s.record.signer(shown.lane, shown.seq)
    pair = None if ruling is None else ruling.public_key, signer(s.record, shown)
    return pair[0] != pair[1] and any(
        key is not None and revocation(s.keys, shown.lane, key) is not None for key in pair
    )


def _refusal(keys: KeyState, frame: Frame, key: bytes) -> KeyRevoked | None:
    revoked = revocation(keys, frame.lane, key)
    if revoked is None or frame.seq < revoked.cut:
        return None
    return KeyRevoked(lane=frame.lane, seq=frame.seq, key=revoked.key, from_seq=revoked.cut)


# --- whose signature -----------------------------------------------------------------------------


def signer(record: Record, frame: Frame) -> bytes | None:
    """The key that signed a frame, among those that the lane's wallet delegated for its number.

    Considers the delegations on the record and the one in the frame itself. None if no key fits.
    """
    candidates = [
        known.public_key
        for known in reversed(record.delegations(frame.lane))
        if known.from_seq <= frame.seq <= known.to_seq
    ]
    delegated = delegated_key(record, frame)
    for key in candidates if delegated is None else [delegated, *candidates]:
        with suppress(FrameError):
            frame.verify(record.agreement.domain, key)
            return key
    return None


def delegated_key(record: Record, frame: Frame) -> bytes | None:
    """The key that a frame delegates, or None."""
    message = record.decoded(frame)
    if isinstance(message, Logon | SessionKeyChange):
        with suppress(DelegationRefused):
            return delegation_in(record.agreement, frame, message).public_key
    return None


def key_in_force(
    record: Record, lane: int, kept: Sequence[tuple[int, SecretKey]]
) -> SecretKey | None:
    """The kept key that signs the lane's next frame, by the record's delegations.

    Before the Logon it is the first kept key, or None if there is none. Raises JournalCorrupt if
    the frames name a key that was not kept.
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
