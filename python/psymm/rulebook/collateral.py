"""Logon, session keys, and notes: listed by one lane, accepted by name by the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from psymm.messages import (
    CollAsgnRespType,
    CollateralAssignment,
    CollateralResponse,
    Logon,
    Logout,
    NoteRef,
    Reject,
    SessionKeyChange,
)
from psymm.rulebook.account import Lane, NoteState, OrderStatus, SessionKey
from psymm.rulebook.inputs import RuledFrame
from psymm.rulebook.live_account import LiveAccount
from psymm.rulebook.orders import end_order
from psymm.rulebook.totals import put_note
from psymm.rulebook.value import replace
from psymm.rulebook.violation import refuse

MOST_NOTES: Final = 16
"""Most notes that a custody can list (``spec.md`` 11)."""


def log_on(account: LiveAccount, entry: RuledFrame, said: Logon) -> None:
    """A: log a lane on, with its first session key and its notes."""
    if account.logged_on[entry.lane]:
        refuse("already-logged-on", lane=entry.lane.name.lower())
    if said.terms_hash != account.terms.hash:
        refuse("wrong-terms", named=said.terms_hash, terms=account.terms.hash)
    _take_key(account, entry, said)
    list_notes(account, entry.lane, said.notes)
    account.logged_on = _set(account.logged_on, entry.lane)


def log_out(account: LiveAccount, entry: RuledFrame, _said: Logout) -> None:
    """5: from now on nothing opens (``spec.md`` 63). Opening orders are cancelled."""
    for order in list(account.orders.values()):
        if order.opens:
            end_order(account, order, OrderStatus.CANCELLED)
    account.logged_out = _set(account.logged_out, entry.lane)


def change_key(account: LiveAccount, entry: RuledFrame, said: SessionKeyChange) -> None:
    """UKY: the delegated key is in force from this frame on."""
    _take_key(account, entry, said)


def _take_key(account: LiveAccount, entry: RuledFrame, said: Logon | SessionKeyChange) -> None:
    if not said.from_seq <= entry.seq <= said.to_seq or said.expiry < entry.sending_time:
        refuse(
            "bad-delegation",
            seq=entry.seq,
            from_seq=said.from_seq,
            to_seq=said.to_seq,
            expiry=said.expiry,
        )
    key = SessionKey(
        public_key=said.session_public_key,
        from_seq=entry.seq,
        to_seq=said.to_seq,
        expiry=said.expiry,
    )
    trader, solver = account.keys
    if entry.lane is Lane.TRADER:
        account.keys = ((*trader[-1:], key), solver)
    else:
        account.keys = (trader, (*solver[-1:], key))


def _set(flags: tuple[bool, bool], lane: Lane) -> tuple[bool, bool]:
    return (True, flags[1]) if lane is Lane.TRADER else (flags[0], True)


def list_notes(account: LiveAccount, lane: Lane, refs: Sequence[NoteRef]) -> None:
    """List notes of a lane. Each note can be listed once."""
    # Two commitments with one nullifier are one note on chain, but would count twice here.
    nullifiers = {note.nullifier for note in account.notes.values()}
    for ref in refs:
        if ref.commitment in account.notes or ref.nullifier in nullifiers:
            refuse("note-listed", commitment=ref.commitment)
        if len(account.notes) >= MOST_NOTES:
            refuse("too-many-notes", commitment=ref.commitment)
        nullifiers.add(ref.nullifier)
        made = NoteState(commitment=ref.commitment, nullifier=ref.nullifier, lane=lane)
        put_note(account, made)


def assign(account: LiveAccount, entry: RuledFrame, said: CollateralAssignment) -> None:
    """AY: the sender lists its notes, if its Logon did not.

    A lane cannot list a second note: it could not be accepted (see ``respond``), and the other side
    would wait for it in vain.
    """
    has_one = any(note.lane is entry.lane and not note.spent for note in account.notes.values())
    list_notes(account, entry.lane, said.notes)
    if has_one:
        refuse("too-many-notes", commitment=said.notes[0].commitment)


def respond(account: LiveAccount, entry: RuledFrame, said: CollateralResponse) -> None:
    """AZ: accept the other lane's notes as collateral, at the stated amounts.

    One note for each lane, until merging is in force: a settlement has two inputs, so a further
    note would be stuck.
    """
    if said.coll_asgn_resp_type is CollAsgnRespType.REJECTED:
        if said.commitments:
            refuse("field-not-allowed", field="Commitments")
        return
    if not said.commitments:
        refuse("missing-field", field="Commitments")
    for ref in said.commitments:
        note = account.notes.get(ref.commitment)
        if note is None or note.lane is entry.lane:
            refuse("note-not-listed", commitment=ref.commitment)
        if note.accepted:
            refuse("note-accepted", commitment=ref.commitment)
        # A settlement could spend only one of two, and the other would be stuck.
        if any(each.accepted and each.lane is note.lane for each in account.notes.values()):
            refuse("too-many-notes", commitment=ref.commitment)
        if ref.token != bytes.fromhex(account.terms.collateral.token[2:]):
            refuse("note-wrong-token", commitment=ref.commitment, token=ref.token)
        put_note(account, replace(note, accepted=True, amount=ref.amount, accepted_in=entry.seq))


def disown(account: LiveAccount, entry: RuledFrame, said: Reject) -> None:
    """3: the lane that listed a note rejects its acceptance.

    Only that lane knows what the note holds. The note then counts for nothing, and may be accepted
    again (``spec.md`` 64).
    """
    # Too late once something rests on the amount: an order, a position, a payment, a settlement.
    if account.orders or account.positions or account.proposals:
        return
    if account.realised or account.fees or account.funding:
        return
    for note in list(account.notes.values()):
        if note.lane is entry.lane and note.accepted and note.accepted_in == said.ref_seq_num:
            put_note(account, replace(note, accepted=False, amount=0, accepted_in=0))
