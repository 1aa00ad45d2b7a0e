"""A frame that the peer sends: recorded, or refused with a reason.

`receive` is the only entry point. It checks a frame in this order:

    wrong custody → noise
    our journal has lost frames → `recovery` keeps and merges it
    our own lane → known, or our journal is behind, or a thief signed it (`revoked`)
    a number that is taken → the same frame again, or an equivocation
    beyond the next number → a gap, or a frame that follows revoked ones
    the next number → checked by the core, recorded, held back or judged (`ruling`)

Unsigned input is noise and proves nothing: it is reported, and the connection ends if it persists.
Signed input binds its signer: a signed frame that contradicts the record stops the session. A frame
is stored (`StoreFrame`) before it is judged.
"""

from __future__ import annotations

from typing import Final

from psymm._core import Frame, FrameError, TranscriptError
from psymm.errors import Equivocation, JournalBehind, LogonRefused, OverBudget, PeerViolation
from psymm.session.protocol import gaps, holding, keys, recovery, revoked, ruling
from psymm.session.protocol.budget import EARLY_BYTES, EARLY_FRAMES
from psymm.session.protocol.effects import Effects, StoreEvidence, StoreFrame
from psymm.session.protocol.signing import disconnect, report_malformed, stop
from psymm.session.protocol.state import ConnectionState, HeadSync, SessionState
from psymm.transcript.delegation import DelegationRefused

_UNSIGNED: Final = ("bad-signature", "no-key")


def receive(
    s: SessionState, connection: ConnectionState, out: Effects, frame: Frame, now: int
) -> None:
    """Take one frame of the peer. Never raises because of its content."""
    if frame.custody != s.record.agreement.custody:
        report_malformed(s, out, now, "frame", "wrong-custody: this connection serves another")
    # While frames are missing, recovery fills both lanes in order, including our own.
    elif s.recovery.health != "complete" and frame.seq > s.record.heads[frame.lane].seq:
        recovery.keep(s, frame)
        recovery.merge(s, out, now)
    elif frame.lane == s.lane:
        _own(s, connection, out, frame, now)
    elif frame.seq <= s.record.heads[s.peer].seq:
        _again(s, out, frame, now)
    elif s.held and (full := holding.full(s)) is not None:
        disconnect(s, out, full)
    elif frame.seq > s.record.heads[s.peer].seq + 1:
        _beyond(s, connection, out, frame, now)
    else:
        _next(s, connection, out, frame, now)


def _next(
    s: SessionState,
    connection: ConnectionState,
    out: Effects,
    frame: Frame,
    now: int,
    *,
    endorsed: bool = False,
) -> None:
    """The frame that continues the peer's lane.

    Args:
        endorsed: a frame of the wallet's next key builds on this one, so a revocation of the key
            that signed it does not count against it (`spec.md` 38).
    """
    # A stranger costs us little until both sides have accepted collateral (`spec.md` 68).
    if not s.lifecycle.trading_open and not has_room(s, frame):
        early = "too many frames before collateral was accepted"
        disconnect(s, out, OverBudget(early, frames=EARLY_FRAMES, bytes=EARLY_BYTES))
        return
    # Beyond its limits the peer's lane has no frames: nothing of it is kept or covered.
    rulebook = s.rulebook
    if rulebook and rulebook.near_limit and rulebook.is_full(s.peer, len(frame.raw)):
        full = "the peer's lane has used all that it may send before a checkpoint"
        disconnect(s, out, PeerViolation(full, lane=s.peer))
        return
    refused = keys.refuses(s, frame) if s.keys.revoked and not endorsed else None
    if refused is not None:
        revoked.refuse(s, connection, out, frame, refused, now)
        return
    try:
        entry = s.record.append(frame)
    except (TranscriptError, FrameError, DelegationRefused) as bad:
        # The record is unchanged: the core checks number, link, time and signature before it adds.
        if _unfit(s, connection, out, frame, bad, now):
            # `_unfit` has imported the frames of ours that it covers, so it fits now.
            _next(s, connection, out, frame, now)
        return
    # From here on the frame is on the record and binds its sender.
    if connection.gap.due is not None:
        gaps.came(s, connection, frame.seq)
    if connection.sync is not HeadSync.SYNCED:
        connection.frames_fetched += 1
    # Stored before it is judged: any frame that we sign in answer comes after it on disk.
    out.append(StoreFrame(entry))
    ruling.on_recorded(s, out, entry, now)


def _beyond(
    s: SessionState, connection: ConnectionState, out: Effects, frame: Frame, now: int
) -> None:
    """A frame beyond a gap, or after revoked frames that may yet become binding."""
    chain = revoked.endorsed(s, connection, out, frame, now)
    if chain is None:
        gaps.found(s, connection, out, frame)
        return
    # `endorsed` forgot these frames. Each is taken only while it continues the lane: an earlier one
    # may have been refused, or may have stopped the session.
    for each in chain:
        if (full := holding.full(s)) is not None:
            disconnect(s, out, full)
            return
        if s.error is None and each.seq == s.record.heads[s.peer].seq + 1:
            _next(s, connection, out, each, now, endorsed=each is not frame)


def has_room(s: SessionState, frame: Frame) -> bool:
    """Whether the custody may hold one more frame.

    Limits apply until both sides have accepted collateral (`spec.md` 68). Queued Rejects count.
    """
    if s.lifecycle.accepted_at[0] and s.lifecycle.accepted_at[1]:
        return True
    held = sum(len(entry.frame.raw) for entry in s.record)
    few = s.record.frames + len(s.rejects) < EARLY_FRAMES
    return few and held + len(frame.raw) <= EARLY_BYTES


def _again(s: SessionState, out: Effects, frame: Frame, now: int) -> None:
    """A frame whose number is taken: the same again, or proof that its signer lies."""
    if _is_the_same(s, frame):
        return
    first = s.record.digest(s.peer, frame.seq)
    digest = frame.digest(s.record.agreement.domain)
    # Anyone can write an unsigned frame; only a signed one is evidence.
    if keys.signer(s.record, frame) is None:
        report_malformed(s, out, now, "frame", "bad-signature on a number that is taken")
    elif digest != first:
        held = s.record.entry(s.peer, frame.seq)
        out.append(StoreEvidence(frame.seq if held is None else held.frame, frame))
        if keys.signed_by_different_keys(s, frame):
            # A thief may hold one of the two keys. The frame we hold binds (`spec.md` 37); the
            # pair is kept as evidence for a case.
            why = "key-revoked: another frame has this number"
            report_malformed(s, out, now, "frame", why)
            return
        # One key signed both: proof of guilt without a vote (`spec.md` 37).
        both = Equivocation(
            custody=frame.custody, lane=frame.lane, seq=frame.seq, first=first, second=digest
        )
        stop(s, out, both)


def _unfit(
    s: SessionState,
    connection: ConnectionState,
    out: Effects,
    frame: Frame,
    bad: Exception,
    now: int,
) -> bool:
    """The core refused the peer's next frame.

    An unsigned frame is noise. A signed one is its signer's fault and stops the session, because
    nothing can follow it. Returns True if the frame fits now and should be tried again.
    """
    code = getattr(bad, "code", "refused")
    if isinstance(bad, DelegationRefused):
        report_malformed(s, out, now, "frame", str(bad))
        # Without a valid first delegation no later frame of the lane can verify.
        if frame.seq == 1:
            disconnect(s, out, LogonRefused(str(bad)))
        return False
    # A thief may hold a revoked key, so its frames are no fault of the party.
    void = keys.refuses_signer(s, frame)
    if void is not None:
        revoked.refuse(s, connection, out, frame, void, now)
        return False
    # A key that a later one replaced signs no frame any more, even within its delegated numbers.
    if code in _UNSIGNED or keys.signer(s.record, frame) is None:
        why = f"{code} in frame {frame.lane}/{frame.seq}: {bad}"
        report_malformed(s, out, now, "frame", why)
        return False
    # It covers frames of ours that we lack. Either a thief signed them with our compromised key,
    # which the peer has shown us and we now import, or our journal is behind.
    if code == "ahead" and revoked.import_covered(s, connection, out, frame, now):
        return s.error is None
    if code == "ahead":
        recovery.fall_behind(
            s,
            out,
            JournalBehind(
                "the peer's signed frame covers frames of ours that we do not hold",
                custody=frame.custody,
                covered=frame.peer_seq,
                held=s.record.heads[s.lane].seq,
            ),
        )
        return False
    why = f"the peer signed a frame that contradicts the record: {code}"
    recovery.contradict(s, out, frame, why)
    return False


def _own(
    s: SessionState, connection: ConnectionState, out: Effects, frame: Frame, now: int
) -> None:
    """A frame of our own lane comes back: one we hold, or proof that our journal is behind."""
    beyond = frame.seq > s.record.heads[s.lane].seq
    if not beyond and _is_the_same(s, frame):
        return
    if not _is_ours(s, frame):
        report_malformed(s, out, now, "frame", "wrong-lane: this lane is ours")
    elif beyond and keys.compromised(s):
        # Kept, not recorded: it binds us only once a signed frame of the peer covers it.
        revoked.show(connection, frame)
    else:
        # Our valid key signed it, so another copy of the journal is newer. Signing on would
        # equivocate.
        behind = JournalBehind(
            "the peer shows a frame that our key signed and our journal lacks",
            custody=frame.custody,
            seq=frame.seq,
            held=s.record.heads[s.lane].seq,
        )
        recovery.fall_behind(s, out, behind)


def _is_the_same(s: SessionState, frame: Frame) -> bool:
    """Whether the frame that holds this number already is this frame.

    Compares bytes, or digests where a checkpoint compacted the frame. A number that our journal no
    longer knows counts as the same.
    """
    held = s.record.entry(frame.lane, frame.seq)
    if held is not None:
        return frame.raw == held.frame.raw
    if not s.record.knows(frame.lane, frame.seq):
        return True
    return s.record.digest(frame.lane, frame.seq) == frame.digest(s.record.agreement.domain)


def _is_ours(s: SessionState, frame: Frame) -> bool:
    """Whether our key in force at this number signed it, or a key that the frame delegates.

    A former key proves nothing beyond the frames for which it was in force.
    """
    ruled = s.record.signer(s.lane, frame.seq)
    ours = [keys.delegated_key(s.record, frame), None if ruled is None else ruled.public_key]
    found = keys.signer(s.record, frame)
    return found is not None and found in ours
