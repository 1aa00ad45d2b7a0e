"""Checkpoints, as one side of a session makes them: offered in good time, answered at once.

A checkpoint is a pair of UCP frames, an offer and an answer. Both name the frames that they count,
and the hash of the account after these frames.

    offered     one side signs a UCP
    answered    the other side signs a UCP for the same frames
    in force    each lane covers the other's UCP (`take_effect`): the account is stored
                (`StoreCheckpoint`), and the frames that it counts leave memory (`compact`)

The rulebook's account says what is due, so a process that died between two UCPs continues from its
journal. A side offers a checkpoint

- once a lane has used half of what the terms allow between two checkpoints (`spec.md` 13),
- once memory holds many frames, or
- when its application asks for one.

If the two sides name different hashes for the same frames, each sends the other its account as
texts. We then report the first field that differs. That binds nobody, and trading goes on.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import Final

from psymm._core import keccak256
from psymm.errors import AccountsDiffer, CheckpointRefused
from psymm.messages import AccountPart, Checkpoint, CheckpointRequest, Heartbeat, Reject
from psymm.rulebook import Account, AccountRefused, first_difference
from psymm.session.protocol.effects import CheckpointInForce, Disagreed, Effects, StoreCheckpoint
from psymm.session.protocol.lifecycle import NO_BUSINESS
from psymm.session.protocol.rulebook import Rulebook
from psymm.session.protocol.signing import coverable, send_text, sign
from psymm.session.protocol.state import AGAIN_NS, Dispute, SessionState
from psymm.session.protocol.status import SessionStatus
from psymm.transcript.agreement import SOLVER, TRADER
from psymm.transcript.checkpoint import Point
from psymm.transcript.record import RecordedFrame
from psymm.transcript.retained import RETAINED, retains

log = logging.getLogger(__name__)

PART_BYTES: Final = 65_536
MOST_PARTS: Final = 64
"""Most parts of an account that are sent or accepted: 4 MiB in total."""
MOST_HELD: Final = 4_096
"""Frames in memory at which a checkpoint is offered: about 5 MB."""


# --- what is wanted ------------------------------------------------------------------------------


def request(s: SessionState) -> tuple[int, int]:
    """Ask for a checkpoint that counts everything on the record now.

    It need not count trailing Heartbeats and UCPs. Returns the trader's and the solver's last frame
    that it has to count; `counts` says whether the checkpoint in force does.
    """
    target = s.checkpoints.target
    for entry in s.record:
        # Heartbeats and UCPs change no account. If they had to be counted, each checkpoint would
        # make another one due.
        if not isinstance(entry.message, Heartbeat | Checkpoint):
            target[entry.frame.lane] = max(target[entry.frame.lane], entry.frame.seq)
    if s.connection is not None:
        s.connection.checkpoint_asked = False
    return target[TRADER], target[SOLVER]


def counts(s: SessionState, target: tuple[int, int]) -> bool:
    """Whether the checkpoint in force counts these frames."""
    point = s.checkpoints.point
    return point is not None and all(
        counted >= seq for counted, seq in zip(point.seqs, target, strict=True)
    )


def on_requested(s: SessionState, now: int) -> None:
    """The peer asks for a checkpoint. At most one request a second counts."""
    if now - s.checkpoints.asked_at >= AGAIN_NS:
        s.checkpoints.asked_at = now
        request(s)


def is_wanted(s: SessionState) -> bool:
    """Whether a requested checkpoint is not in force yet."""
    trader, solver = s.checkpoints.target
    return bool(trader or solver) and not counts(s, (trader, solver))


# --- what is due ---------------------------------------------------------------------------------


def advance(s: SessionState, out: Effects, now: int) -> None:
    """Sign the UCP that is due, if any. Heads agree and our Logon is on the record."""
    rulebook = s.rulebook
    if rulebook is None:
        return
    # A checkpoint that came into force may remove the reason for the next offer.
    take_effect(s, out)
    answer = rulebook.answer_due(s.lane)
    # An open offer is answered first: while one is open, the rulebook accepts no other.
    if answer is not None:
        if coverable(s) >= answer[1]:
            sign(s, out, answer[0], now)
        return
    if not (is_wanted(s) or _many_held(s) or rulebook.near_limit):
        return
    if s.status is not SessionStatus.TRADING or rulebook.offer_stands():
        return
    offer = _offer(s, rulebook)
    # A trader's checkpoint counts only frames that the trader covers, so cover them first.
    if offer is None and s.lane == TRADER and s.record.heads[TRADER].peer_seq < coverable(s):
        sign(s, out, Heartbeat(), now)
        offer = _offer(s, rulebook)
    if offer is None:
        _ask(s, out, now)
    elif coverable(s) >= offer[1]:
        sign(s, out, offer[0], now, covers=offer[1])
        # If the peer does not answer, wait for many more frames before the next offer.
        s.checkpoints.offer_at = len(s.record) + MOST_HELD


def _many_held(s: SessionState) -> bool:
    """Whether memory holds so many frames that a checkpoint is worth its cost."""
    held = len(s.record)
    return held >= MOST_HELD and held >= s.checkpoints.offer_at


def _offer(s: SessionState, rulebook: Rulebook) -> tuple[Checkpoint, int] | None:
    """The UCP that we can offer, if it counts what was requested or a limit is near."""
    offer = rulebook.offer_due(s.lane)
    if offer is None:
        return None
    trader, solver = s.checkpoints.target
    suffices = offer[0].trader_seq >= trader and offer[0].solver_seq >= solver
    return offer if suffices or rulebook.near_limit else None


def _ask(s: SessionState, out: Effects, now: int) -> None:
    """As the solver, ask the trader for a checkpoint.

    A checkpoint counts what the trader covers. A trader need not cover a Heartbeat, so the solver
    can only ask for it, once on each connection.
    """
    connection = s.connection
    if s.lane == SOLVER and connection and not connection.checkpoint_asked and is_wanted(s):
        connection.checkpoint_asked = True
        send_text(s, out, CheckpointRequest(solver_seq=s.record.heads[SOLVER].seq), now)


def take_effect(s: SessionState, out: Effects) -> None:
    """Store and report a checkpoint that has come into force."""
    if s.rulebook is None:
        return
    point, account = s.rulebook.point, s.rulebook.agreed
    if point is None or account is None or point == s.checkpoints.point:
        return
    s.checkpoints.point = point
    s.checkpoints.offer_at = 0
    compact(s, point)
    # Stored before it is reported. If the process dies first, the frames on disk give it again.
    out += (StoreCheckpoint(point, account), CheckpointInForce(point))


def compact(s: SessionState, point: Point) -> None:
    """Drop from memory the frames that the checkpoint in force counts.

    The peer has them all. If its journal lost some, we resend them from ours.
    """
    if s.record.starts_at is not None and s.record.starts_at.point == point:
        return
    try:
        gone = s.record.truncate_to(point, partial(_is_retained, s))
    except CheckpointRefused:
        return  # The record cannot be cut here. The next checkpoint may fit.
    for entry in gone:
        # Idle time is measured from the last business, which must survive its frame.
        if not isinstance(entry.message, NO_BUSINESS):
            s.business_ns = max(s.business_ns, entry.frame.sending_time)
    s.void = {seq for seq in s.void if seq > point.seqs[s.peer]}
    if s.rulebook is not None:
        s.rulebook.compact()


def _is_retained(s: SessionState, entry: RecordedFrame) -> bool:
    """Whether a session must keep this frame for its whole life.

    Nobody needs a frame of the peer that had no effect, or our Reject of it.
    """
    if entry.frame.lane == s.lane:
        return isinstance(entry.message, RETAINED)
    return entry.frame.seq not in s.lifecycle.rejected and retains(entry.message)


# --- disagreement --------------------------------------------------------------------------------


def compare(s: SessionState, out: Effects, now: int) -> None:
    """Show our account if a frame of the peer named another hash for it."""
    account = None if s.rulebook is None else s.rulebook.disputed
    if account is not None and account is not s.checkpoints.seen_dispute:
        s.checkpoints.seen_dispute = account
        _show_account(s, out, account, now)


def on_rejected(
    s: SessionState, out: Effects, reject: Reject, rejected: RecordedFrame | None, now: int
) -> None:
    """The peer rejects a frame of ours. If it is a wrong UCP, show our account."""
    if reject.violation != "wrong-checkpoint" or rejected is None or s.rulebook is None:
        return
    ours = rejected.message
    if isinstance(ours, Checkpoint):
        account = s.rulebook.account_at(ours.solver_seq, ours.trader_seq)
        if account is not None:
            _show_account(s, out, account, now)


def _show_account(s: SessionState, out: Effects, account: Account, now: int) -> None:
    # Once for each account; otherwise both sides would resend theirs forever.
    dispute = s.checkpoints.dispute
    if dispute is not None and dispute.ours.hash == account.hash:
        return
    s.checkpoints.dispute = Dispute(account)
    content = account.document()
    pieces = [content[at : at + PART_BYTES] for at in range(0, len(content), PART_BYTES)]
    if len(pieces) > MOST_PARTS:
        log.warning("account-not-shown", extra={"bytes": len(content)})
        return
    for number, piece in enumerate(pieces, 1):
        part = AccountPart(
            solver_seq=account.solver_seq,
            trader_seq=account.trader_seq,
            account_hash=account.hash,
            part=number,
            parts=len(pieces),
            content=piece,
        )
        send_text(s, out, part, now)


def on_account_part(s: SessionState, out: Effects, part: AccountPart, now: int) -> None:
    """A part of the peer's account. Ignored unless our account for the same frames differs."""
    if s.checkpoints.dispute is None and s.rulebook is not None:
        account = s.rulebook.account_at(part.solver_seq, part.trader_seq)
        if account is None or account.hash == part.account_hash:
            return
        # The peer noticed the difference first: it needs our account, too.
        _show_account(s, out, account, now)
    dispute = s.checkpoints.dispute
    if dispute is None or dispute.named or dispute.ours.hash == part.account_hash:
        return
    if dispute.ours.seqs != (part.trader_seq, part.solver_seq):
        return
    if not 1 <= part.part <= part.parts <= MOST_PARTS:
        return
    if dispute.their_hash != part.account_hash or dispute.count != part.parts:
        dispute.their_hash, dispute.count, dispute.parts = part.account_hash, part.parts, {}
    dispute.parts[part.part] = part.content
    if len(dispute.parts) == dispute.count:
        _name_difference(s, out, dispute)


def _name_difference(s: SessionState, out: Effects, dispute: Dispute) -> None:
    content = b"".join(dispute.parts[number] for number in sorted(dispute.parts))
    dispute.parts = {}
    # Parts are unsigned texts, so check them against the hash that they claim.
    if keccak256(content) != dispute.their_hash:
        return
    try:
        found = first_difference(dispute.ours.document(), content)
    except AccountRefused as refused:
        name, ours, theirs = "", "", str(refused)
    else:
        if found is None:
            return
        name, ours, theirs = found.field, found.ours, found.theirs
    # The peer wrote these values. No control character of theirs may reach a terminal.
    dispute.named = True
    s.checkpoints.differs = AccountsDiffer(
        field=ascii(name)[1:-1],
        ours=ascii(ours)[1:-1],
        theirs=ascii(theirs)[1:-1],
        trader_seq=dispute.ours.trader_seq,
        solver_seq=dispute.ours.solver_seq,
    )
    out.append(Disagreed(name, ours, theirs, s.checkpoints.differs))
