"""The exchange of collateral: each side lists and opens its notes, and checks the peer's.

The next step is derived from the record, so a process that died between two steps continues from
its journal. The steps, for the notes of either side:

    listed      a frame: the trader's Logon, the solver's AY
    opened      a text; checked here without the chain
    verified    the runtime checks the chain (`VerifyCollateral`)
    accepted    or refused, by a frame: AZ

The solver signs nothing before the trader's notes are verified (`spec.md` 68). Only then does it
fund its own (`FundCollateral`). Our openings are stored with the frames that rely on them.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from psymm.chain.addresses import checksummed
from psymm.custody.errors import NoteInvalid
from psymm.errors import (
    CollateralForeign,
    CollateralMissing,
    CollateralNotListed,
    CollateralRefused,
    CollateralSpent,
    CollateralTooSmall,
    CollateralWrongToken,
    PeerRefused,
    clip,
)
from psymm.messages import (
    AcceptedNote,
    CollAsgnReason,
    CollAsgnRejectReason,
    CollAsgnRespType,
    CollateralAssignment,
    CollateralResponse,
    Heartbeat,
    NoteOpeningEntry,
    NoteOpenings,
    NoteRef,
)
from psymm.rulebook import Violation
from psymm.session.protocol.chain_facts import Note, custody_of
from psymm.session.protocol.effects import Effects, FundCollateral, VerifyCollateral
from psymm.session.protocol.signing import (
    coverable,
    disconnect,
    send_reject,
    send_text,
    sign,
    stop,
)
from psymm.session.protocol.state import SessionState, Verification, arm
from psymm.transcript.agreement import SOLVER, TRADER

# --- input from the peer and the chain -----------------------------------------------------------


def on_openings(s: SessionState, out: Effects, message: NoteOpenings, now: int) -> None:
    """The peer opens its notes. Check what can be checked without a chain.

    A text binds nobody: it may have been changed on the way. So if the openings do not match the
    commitments that the peer's frames list, we only disconnect, and the next connection shows them
    again. If they match, they are the peer's own, and a defect in such a note is refused finally.
    """
    if not _awaits_openings(s) or s.connection is None:
        return
    listed, custody = s.lifecycle.listed[s.peer], custody_of(s.record.agreement)
    notes: dict[bytes, Note] = {}
    for shown in message.openings:
        token = checksummed("token", "0x" + shown.token.hex())
        with suppress(NoteInvalid):
            note = Note(custody, token, shown.amount, shown.blinding)
            notes[note.commitment] = note
    # A commitment hides its note, so only the right openings give it.
    if set(notes) != set(listed):
        misfit = CollateralForeign(listed=len(listed), shown=len(message.openings))
        send_reject(s, out, now, "A", str(misfit))
        disconnect(s, out, misfit)
        return
    try:
        _check(s, notes)
    except CollateralRefused as refusal:
        on_refused(s, refusal)
    else:
        s.connection.peer_openings = tuple(notes.values())


def _check(s: SessionState, notes: dict[bytes, Note]) -> None:
    """Raises CollateralRefused for notes that we cannot accept."""
    listed = s.lifecycle.listed[s.peer]
    if len(notes) > 1:
        # Refused here, before the solver funds: the rulebook accepts and settles one note only.
        raise CollateralRefused("put up one note, not several", listed=len(notes))
    for commitment, note in notes.items():
        if note.token != s.params.token:
            raise CollateralWrongToken(
                commitment=commitment, token=note.token, terms=s.params.token
            )
        if listed[commitment].nullifier != note.nullifier:
            raise CollateralNotListed(commitment=commitment)
    worth = sum(note.amount for note in notes.values())
    asked = max(s.collateral.announced, s.params.minimum_collateral)
    if worth < asked:
        raise CollateralTooSmall(worth=worth, asked=asked)


def misstated(s: SessionState, answer: CollateralResponse) -> Violation | None:
    """The violation if the peer accepts a note of ours at a wrong amount, or None.

    Only we know the amount, so our Reject is what removes it from the account (`spec.md` 64).
    """
    for accepted in answer.commitments:
        note = s.collateral.notes.get(accepted.commitment)
        if note is not None and accepted.amount != note.amount:
            return Violation(
                "note-misstated",
                (("holds", str(note.amount)), ("accepted-as", str(accepted.amount))),
            )
    return None


def on_funded(s: SessionState, notes: tuple[Note, ...]) -> None:
    """Our notes are in the tree."""
    s.collateral.funding = False
    s.collateral.notes.update((note.commitment, note) for note in notes)


def on_verified(s: SessionState, notes: tuple[Note, ...]) -> None:
    """The chain has the peer's notes, unspent."""
    s.collateral.verification = Verification.AWAITED
    s.collateral.verified.update(note.commitment for note in notes)
    s.collateral.peer_notes.update((note.commitment, note) for note in notes)


def on_failed(s: SessionState) -> None:
    """Our chain, prover or funding failed. The next step asks for it again."""
    s.collateral.funding = False
    if s.collateral.verification is Verification.RUNNING:
        s.collateral.verification = Verification.AWAITED


def on_refused(s: SessionState, refusal: CollateralRefused) -> None:
    """The peer's notes are refused; `step` signs the refusal."""
    s.collateral.verification = Verification.REFUSED
    s.collateral.refusal = refusal


# --- steps ---------------------------------------------------------------------------------------


def send_openings(s: SessionState, out: Effects, now: int) -> bool:
    """Show the openings of our notes; True if they were sent now.

    The trader shows them with its Logon: the solver signs nothing before it has verified them
    (`spec.md` 68). The solver shows them once the trader has covered the frame that lists them.
    """
    life, connection = s.lifecycle, s.connection
    listed_at = life.listed_at[s.lane]
    if not listed_at or connection is None or connection.openings_sent:
        return False
    if life.accepted_at[s.lane]:
        return False
    if s.lane == SOLVER and s.record.heads[s.peer].peer_seq < listed_at:
        return False
    connection.openings_sent = True
    notes = [s.collateral.notes[key] for key in life.listed[s.lane] if key in s.collateral.notes]
    send_text(
        s,
        out,
        NoteOpenings(
            openings=tuple(
                NoteOpeningEntry(
                    commitment=note.commitment,
                    blinding=note.blinding,
                    token=bytes.fromhex(note.token[2:]),
                    amount=note.amount,
                )
                for note in notes
            )
        ),
        now,
    )
    return True


def step(s: SessionState, out: Effects, now: int) -> bool:
    """Answer for the peer's notes, or list ours. True if a frame was signed."""
    life, collateral = s.lifecycle, s.collateral
    if collateral.refusal is not None and not life.accepted_at[s.peer]:
        # One refusal on the record is enough. The stop below ends the session.
        refusal, collateral.refusal = collateral.refusal, None
        _turn_down(s, out, refusal, now)
        stop(s, out, refusal)
        return False
    step_verify(s, out)
    return _trader_step(s, out, now) if s.lane == TRADER else _solver_step(s, out, now)


def _trader_step(s: SessionState, out: Effects, now: int) -> bool:
    life = s.lifecycle
    if s.record.heads[TRADER].peer_seq < life.listed_at[SOLVER] <= coverable(s):
        sign(s, out, Heartbeat(), now)  # The solver opens its notes once we cover their listing.
        return True
    if peer_verified(s) and not life.accepted_at[SOLVER]:
        _accept(s, out, now)
        return True
    return False


def _solver_step(s: SessionState, out: Effects, now: int) -> bool:
    life, collateral = s.lifecycle, s.collateral
    if peer_verified(s) and not collateral.notes and not collateral.funding:
        # Funding moves money, so mark it first: it must start only once.
        collateral.funding = True
        out.append(FundCollateral())
        return False
    if collateral.notes and not life.listed[SOLVER]:
        _list(s, out, now)
        return True
    if life.listed[SOLVER] and peer_verified(s) and not life.accepted_at[TRADER]:
        _accept(s, out, now)
        return True
    if 0 < s.record.heads[SOLVER].peer_seq < life.accepted_at[SOLVER] <= coverable(s):
        sign(s, out, Heartbeat(), now)  # Our cover puts the trader's acceptance into effect.
        return True
    return False


def step_verify(s: SessionState, out: Effects) -> None:
    """Ask the runtime to verify the peer's notes on chain, once all that it listed are opened.

    With only some of them opened, we would ask the chain for the same notes forever.
    """
    shown = None if s.connection is None else s.connection.peer_openings
    if (
        shown is not None
        and {note.commitment for note in shown} >= set(s.lifecycle.listed[s.peer])
        and s.collateral.verification is not Verification.RUNNING
        and not s.lifecycle.accepted_at[s.peer]
        and not peer_verified(s)
    ):
        # Marked first: the next step must not ask the chain a second time.
        s.collateral.verification = Verification.RUNNING
        out.append(VerifyCollateral(shown))


def is_judged(s: SessionState) -> bool:
    """The peer's notes were verified on chain, or refused."""
    return s.collateral.refusal is not None or peer_verified(s)


def ours_at_stake(s: SessionState) -> bool:
    """Collateral of ours is in the custody, or on its way there."""
    return bool(s.collateral.notes) or s.collateral.funding


def peer_verified(s: SessionState) -> bool:
    """The chain has all of the peer's notes."""
    listed = s.lifecycle.listed[s.peer]
    return bool(listed) and s.collateral.verified >= set(listed)


def await_openings(s: SessionState, now: int) -> None:
    """Start or clear the timeout for the peer's openings.

    Openings are texts, which the network may lose. The next connection brings them again.
    """
    if s.connection is None:
        return
    if not _awaits_openings(s):
        s.connection.openings_awaited_since = None
    elif s.connection.openings_awaited_since is None:
        s.connection.openings_awaited_since = now
        arm(s.connection, now + s.params.response_timeout_ns)


def _awaits_openings(s: SessionState) -> bool:
    """Whether the peer's frames list notes that it has not opened on this connection."""
    return (
        s.connection is not None
        and s.connection.peer_openings is None
        and bool(s.lifecycle.listed[s.peer])
        and not s.lifecycle.accepted_at[s.peer]
        and s.collateral.verification is not Verification.RUNNING
        and not is_judged(s)
    )


# --- frames --------------------------------------------------------------------------------------


def _list(s: SessionState, out: Effects, now: int) -> None:
    """List the solver's notes; the trader's are in its Logon."""
    notes = tuple(
        NoteRef(commitment=note.commitment, nullifier=note.nullifier)
        for note in s.collateral.notes.values()
    )
    sign(
        s,
        out,
        CollateralAssignment(
            coll_asgn_id="1", coll_asgn_reason=CollAsgnReason.INITIAL, notes=notes
        ),
        now,
    )


def _accept(s: SessionState, out: Effects, now: int) -> None:
    known = s.collateral.peer_notes
    accepted = tuple(
        AcceptedNote(
            commitment=key, token=bytes.fromhex(known[key].token[2:]), amount=known[key].amount
        )
        for key in s.lifecycle.listed[s.peer]
    )
    sign(
        s,
        out,
        CollateralResponse(
            coll_resp_id="1", coll_asgn_resp_type=CollAsgnRespType.ACCEPTED, commitments=accepted
        ),
        now,
    )


def _turn_down(s: SessionState, out: Effects, refusal: CollateralRefused, now: int) -> None:
    sign(
        s,
        out,
        CollateralResponse(
            coll_resp_id="1",
            coll_asgn_resp_type=CollAsgnRespType.REJECTED,
            coll_asgn_reject_reason=_REASONS.get(type(refusal), CollAsgnRejectReason.OTHER),
            text=clip(str(refusal)),
        ),
        now,
    )


_REASONS: Final[dict[type[CollateralRefused], CollAsgnRejectReason]] = {
    CollateralMissing: CollAsgnRejectReason.NOT_IN_TREE,
    CollateralSpent: CollAsgnRejectReason.SPENT,
    CollateralTooSmall: CollAsgnRejectReason.INSUFFICIENT,
    CollateralForeign: CollAsgnRejectReason.WRONG_OPENING,
    CollateralNotListed: CollAsgnRejectReason.WRONG_OPENING,
    CollateralWrongToken: CollAsgnRejectReason.WRONG_TOKEN,
}


def refusal_of(answer: CollateralResponse) -> CollateralRefused | PeerRefused:
    """The peer's refusal of our collateral, as an error."""
    for kind, reason in _REASONS.items():
        if answer.coll_asgn_reject_reason is reason:
            return kind(f"the peer refused our collateral: {answer.text or reason.name}")
    return PeerRefused(f"the peer refused our collateral: {answer.text or 'no reason given'}")
