"""The collateral of both sides: ours listed and opened to the peer, the peer's checked, verified on
chain by the runtime, and accepted or refused.

What must come next is derived from the record, so a process that died between two steps goes on
from its journal. The order, for either side's notes:

    listed (a frame: the trader's Logon, the solver's AY) → opened (a text) → in order → verified on
    chain (`VerifyCollateral`) → accepted or refused (a frame: AZ)

The solver signs nothing before the trader's notes are verified (`spec.md` 68), and funds its own
only then (`FundCollateral`).
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

# --- what the peer and the chain say -------------------------------------------------------------


def on_openings(s: SessionState, out: Effects, message: NoteOpenings, now: int) -> None:
    """The peer opens its notes: what can be checked without a chain is checked here.

    A text binds nobody (somebody between may have changed it). Openings that do not give the
    commitments that the peer's frames list end the connection, on the next of which they are
    shown again. Those that give them are the peer's own: what is wrong with such a note is refused
    for good.
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
    """Raises CollateralRefused for notes that will not do."""
    listed = s.lifecycle.listed[s.peer]
    if len(notes) > 1:
        # Before ours is funded: the rulebook lets us accept one, and settles no more.
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
    """Whether the peer accepts a note of ours as holding what it does not: nobody but us can tell,
    so our Reject is what takes it off the account (`spec.md` 64)."""
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
    """Our chain, prover or funds failed us: they are asked for again."""
    s.collateral.funding = False
    if s.collateral.verification is Verification.RUNNING:
        s.collateral.verification = Verification.AWAITED


def on_refused(s: SessionState, refusal: CollateralRefused) -> None:
    """The peer's notes will not do."""
    s.collateral.verification = Verification.REFUSED
    s.collateral.refusal = refusal


# --- steps ---------------------------------------------------------------------------------------


def send_openings(s: SessionState, out: Effects, now: int) -> bool:
    """Show the openings of our notes: the trader's with its Logon, since the solver signs nothing
    before its chain has them (`spec.md` 68); the solver's once the trader has covered the frame
    that lists them. True where something was done."""
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
    """Answer for the peer's notes, or list ours. True where a frame was signed."""
    life, collateral = s.lifecycle, s.collateral
    if collateral.refusal is not None and not life.accepted_at[s.peer]:
        # Said once on the record; the stop below ends the session with it.
        refusal, collateral.refusal = collateral.refusal, None
        _turn_down(s, out, refusal, now)
        stop(s, out, refusal)
        return False
    step_verify(s, out)
    return _trader_step(s, out, now) if s.lane == TRADER else _solver_step(s, out, now)


def _trader_step(s: SessionState, out: Effects, now: int) -> bool:
    life = s.lifecycle
    if s.record.heads[TRADER].peer_seq < life.listed_at[SOLVER] <= coverable(s):
        sign(s, out, Heartbeat(), now)  # The solver opens its notes once they are covered.
        return True
    if peer_verified(s) and not life.accepted_at[SOLVER]:
        _accept(s, out, now)
        return True
    return False


def _solver_step(s: SessionState, out: Effects, now: int) -> bool:
    life, collateral = s.lifecycle, s.collateral
    if peer_verified(s) and not collateral.notes and not collateral.funding:
        # Money moves from here on; marked first, so that it moves once.
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
        sign(s, out, Heartbeat(), now)  # The trader's acceptance takes effect once covered.
        return True
    return False


def step_verify(s: SessionState, out: Effects) -> None:
    """Have the peer's notes checked on chain, once they are opened: all that it listed, else the
    chain would be asked for the same ones without an end."""
    shown = None if s.connection is None else s.connection.peer_openings
    if (
        shown is not None
        and {note.commitment for note in shown} >= set(s.lifecycle.listed[s.peer])
        and s.collateral.verification is not Verification.RUNNING
        and not s.lifecycle.accepted_at[s.peer]
        and not peer_verified(s)
    ):
        # Marked before it is asked: the next step must not ask the chain a second time.
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
    """Note since when the peer's openings are waited for: they are texts, which the network may
    have lost, and come again on the next connection."""
    if s.connection is None:
        return
    if not _awaits_openings(s):
        s.connection.openings_awaited_since = None
    elif s.connection.openings_awaited_since is None:
        s.connection.openings_awaited_since = now
        arm(s.connection, now + s.params.response_timeout_ns)


def _awaits_openings(s: SessionState) -> bool:
    """The peer's frames list notes that it has not opened on this connection."""
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
    """The solver's notes; the trader's are in its Logon."""
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
    """What the peer's refusal of our collateral is, as our error."""
    for kind, reason in _REASONS.items():
        if answer.coll_asgn_reject_reason is reason:
            return kind(f"the peer refused our collateral: {answer.text or reason.name}")
    return PeerRefused(f"the peer refused our collateral: {answer.text or 'no reason given'}")
