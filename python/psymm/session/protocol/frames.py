"""A frame that the peer sends: taken onto the record, or refused by what it is.

`receive` is the one way in. What it does with a frame, in this order:

    wrong custody → noise
    our journal has lost frames → recovery takes it
    our own lane → known, or our journal is behind, or a thief's (`revoked`)
    a number that is taken → the same frame again, or an equivocation
    beyond the next number → a gap, or a frame that follows revoked ones
    the next number → checked by the core, recorded, held back or judged (`ruling`)
"""

from __future__ import annotations

from typing import Final

from psymm._core import Frame, FrameError, TranscriptError
from psymm.errors import Equivocation, JournalBehind, LogonRefused, OverBudget
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
    """Take one frame of the peer. Raises nothing because of what it says."""
    if frame.custody != s.record.agreement.custody:
        report_malformed(s, out, now, "frame", "wrong-custody: this connection serves another")
    # While frames are lost, either lane is filled in its order, our own too.
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
    """The frame that continues the peer's lane. endorsed: the wallet's next key builds on it."""
    # Before collateral is accepted a stranger may cost us no more than this.
    if not s.lifecycle.trading_open and not has_room(s, frame):
        early = "too many frames before collateral was accepted"
        disconnect(s, out, OverBudget(early, frames=EARLY_FRAMES, bytes=EARLY_BYTES))
        return
    refused = keys.refuses(s, frame) if s.keys.revoked and not endorsed else None
    if refused is not None:
        revoked.refuse(s, connection, out, frame, refused, now)
        return
    try:
        entry = s.record.append(frame)
    except (TranscriptError, FrameError, DelegationRefused) as bad:
        # Nothing is on the record yet: the core checks number, link, time and signature at once.
        if _unfit(s, connection, out, frame, bad, now):
            # What it covers was imported just now.
            _next(s, connection, out, frame, now)
        return
    # From here on the frame is on the record and binds its sender.
    if connection.gap.due is not None:
        gaps.came(s, connection, frame.seq)
    if connection.sync is not HeadSync.SYNCED:
        connection.frames_fetched += 1
    # Stored before it is judged: what is signed because of it comes after it on disk.
    out.append(StoreFrame(entry))
    ruling.on_recorded(s, out, entry, now)


def _beyond(
    s: SessionState, connection: ConnectionState, out: Effects, frame: Frame, now: int
) -> None:
    """A frame after one that we lack, or after revoked ones that may yet count."""
    chain = revoked.endorsed(s, connection, out, frame, now)
    if chain is None:
        gaps.found(s, connection, out, frame)
        return
    for each in chain:
        if (full := holding.full(s)) is not None:
            disconnect(s, out, full)
            return
        if s.error is None and each.seq == s.record.heads[s.peer].seq + 1:
            _next(s, connection, out, each, now, endorsed=each is not frame)


def has_room(s: SessionState, frame: Frame) -> bool:
    """Whether a custody whose collateral is not accepted on both sides may hold this frame too,
    and the Rejects that are queued (`spec.md` 68)."""
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
    # Anybody could have written an unsigned frame: only a signed one proves anything.
    if keys.signer(s.record, frame) is None:
        report_malformed(s, out, now, "frame", "bad-signature on a number that is taken")
    elif digest != first:
        held = s.record.entry(s.peer, frame.seq)
        out.append(StoreEvidence(frame.seq if held is None else held.frame, frame))
        if keys.signed_by_different_keys(s, frame):
            # One of the two keys is a thief's: what we hold binds, and the pair is kept.
            why = "key-revoked: another frame has this number"
            report_malformed(s, out, now, "frame", why)
            return
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
    """The peer's next frame does not fit. Unsigned, it is noise; signed, it is its signer's fault
    and the end: nothing can follow it. True where it fits now."""
    code = getattr(bad, "code", "refused")
    if isinstance(bad, DelegationRefused):
        report_malformed(s, out, now, "frame", str(bad))
        if frame.seq == 1:
            disconnect(s, out, LogonRefused(str(bad)))
        return False
    # A revoked key may be a thief's: what it signs is nobody's fault.
    void = keys.refuses_signer(s, frame)
    if void is not None:
        revoked.refuse(s, connection, out, frame, void, now)
        return False
    # A key that another has followed is in force no more, whatever it was delegated for.
    if code in _UNSIGNED or keys.signer(s.record, frame) is None:
        why = f"{code} in frame {frame.lane}/{frame.seq}: {bad}"
        report_malformed(s, out, now, "frame", why)
        return False
    # The peer covers frames of ours that we lack: a thief signed them, or our journal is old.
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
    """A frame of our own lane comes back: one we hold, or proof that our journal is old."""
    beyond = frame.seq > s.record.heads[s.lane].seq
    if not beyond and _is_the_same(s, frame):
        return
    if not _is_ours(s, frame):
        report_malformed(s, out, now, "frame", "wrong-lane: this lane is ours")
    elif beyond and keys.compromised(s):
        revoked.show(connection, frame)
    else:
        behind = JournalBehind(
            "the peer shows a frame that our key signed and our journal lacks",
            custody=frame.custody,
            seq=frame.seq,
            held=s.record.heads[s.lane].seq,
        )
        recovery.fall_behind(s, out, behind)


def _is_the_same(s: SessionState, frame: Frame) -> bool:
    """Whether a frame whose number is taken is the one that took it: byte for byte, or by its
    digest where a checkpoint compacted it. What our journal no longer knows is taken to be."""
    held = s.record.entry(frame.lane, frame.seq)
    if held is not None:
        return frame.raw == held.frame.raw
    if not s.record.knows(frame.lane, frame.seq):
        return True
    return s.record.digest(frame.lane, frame.seq) == frame.digest(s.record.agreement.domain)


def _is_ours(s: SessionState, frame: Frame) -> bool:
    """Signed by the key of ours that is in force at its number, or by one that it delegates. A
    former key proves nothing beyond the frames that it ruled."""
    ruled = s.record.signer(s.lane, frame.seq)
    ours = [keys.delegated_key(s.record, frame), None if ruled is None else ruled.public_key]
    found = keys.signer(s.record, frame)
    return found is not None and found in ours
