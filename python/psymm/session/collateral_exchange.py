"""The collateral of both sides, as one end of a session has it: ours listed and opened to the
peer, the peer's checked, verified on chain by whoever has one, and accepted or refused.

Nothing here waits, and nothing raises because of what the peer sent. What must come next is
derived from the record, so a process that died between two steps goes on from its journal.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
from psymm.session.collateral import Note, custody_of
from psymm.session.context import ProtocolContext
from psymm.session.effects import FrameViolation, FundCollateral, VerifyCollateral
from psymm.transcript.agreement import SOLVER, TRADER


class CollateralExchange:
    """notes, peer_notes: those known with what they hold, by commitment. announced_collateral: what
    the peer introduced, token units."""

    def __init__(
        self,
        protocol: ProtocolContext,
        notes: Iterable[Note],
        peer_notes: Iterable[Note],
        announced_collateral: int,
    ) -> None:
        self._protocol = protocol
        self.notes: dict[bytes, Note] = {note.commitment: note for note in notes}
        self.peer_notes: dict[bytes, Note] = {note.commitment: note for note in peer_notes}
        self._promised = announced_collateral
        self._opened_said = False
        self._shown: tuple[Note, ...] | None = None
        self._verifying = False
        self._verified: set[bytes] = set()
        self._refusal: CollateralRefused | None = None
        self._funding = False
        self._awaited_since: int | None = None

    def reconnected(self) -> None:
        """Openings are texts: they are shown again, by both."""
        self._awaited_since = None
        self._opened_said = False
        self._shown = None

    def forget_shown(self) -> None:
        """Frames of the peer left the record: what it showed opens them no more."""
        self._shown = None

    # --- what the peer and the chain say ----------------------------------------------------

    def opened(self, message: NoteOpenings, now: int) -> None:
        """The peer opens its notes: what can be checked without a chain is checked here.

        A text binds nobody (somebody between may have changed it). Openings that do not give the
        commitments that the peer's frames list end the connection, on the next of which they are
        shown again. Those that give them are the peer's own: what such a note is not good for is
        refused for good.
        """
        protocol = self._protocol
        listed = protocol.lifecycle.listed[protocol.peer]
        if not self._awaits_openings():
            return
        custody = custody_of(protocol.record.agreement)
        notes: dict[bytes, Note] = {}
        for shown in message.openings:
            token = checksummed("token", "0x" + shown.token.hex())
            with suppress(NoteInvalid):
                note = Note(custody, token, shown.amount, shown.blinding)
                notes[note.commitment] = note
        if set(notes) != set(listed):
            misfit = CollateralForeign(listed=len(listed), shown=len(message.openings))
            protocol.queue_business_reject(now, "A", str(misfit))
            protocol.disconnect(misfit)
            return
        try:
            if len(notes) > 1:
                # Before ours is put up: the rulebook lets us accept one, and settles no more.
                raise CollateralRefused("put up one note, not several", listed=len(notes))
            for commitment, note in notes.items():
                if note.token != protocol.params.token:
                    raise CollateralWrongToken(
                        commitment=commitment, token=note.token, terms=protocol.params.token
                    )
                if listed[commitment].nullifier != note.nullifier:
                    raise CollateralNotListed(commitment=commitment)
            worth = sum(note.amount for note in notes.values())
            asked = max(self._promised, protocol.params.minimum_collateral)
            if worth < asked:
                raise CollateralTooSmall(worth=worth, asked=asked)
        except CollateralRefused as refused:
            self._refusal = refused
            return
        self._shown = tuple(notes.values())

    def misstated(self, answer: CollateralResponse) -> FrameViolation | None:
        """Whether the peer accepts a note of ours as holding what it does not: nobody but us can
        tell, so our Reject is what takes it off the account (`spec.md` 64)."""
        for said in answer.commitments:
            note = self.notes.get(said.commitment)
            if note is not None and said.amount != note.amount:
                return FrameViolation(
                    self._protocol.peer,
                    "note-misstated",
                    f"our note holds {note.amount}, and the peer accepts it as {said.amount}",
                )
        return None

    def funded(self, notes: Sequence[Note]) -> None:
        """Our notes are in the tree."""
        self._funding = False
        self.notes.update((note.commitment, note) for note in notes)

    def verified(self, notes: Sequence[Note]) -> None:
        """The chain has the peer's notes, unspent."""
        self._verifying = False
        self._verified.update(note.commitment for note in notes)
        self.peer_notes.update((note.commitment, note) for note in notes)

    def failed(self) -> None:
        """Our chain, prover or funds failed us: they are asked for again."""
        self._verifying = self._funding = False

    def refused(self, error: CollateralRefused) -> None:
        """The peer's notes will not do."""
        self._verifying = False
        self._refusal = error

    # --- steps ------------------------------------------------------------------------------

    def step_openings(self, now: int) -> bool:
        """Show the openings of our notes: the trader's with its Logon, since the solver signs
        nothing before its chain has them (`spec.md` 68); the solver's once the trader has covered
        the frame that lists them. True where something was done."""
        protocol, life = self._protocol, self._protocol.lifecycle
        listed_at = life.listed_at[protocol.lane]
        if (
            not listed_at
            or self._opened_said
            or life.accepted_at[protocol.lane]
            or (
                protocol.lane == SOLVER and protocol.record.head(protocol.peer).peer_seq < listed_at
            )
        ):
            return False
        notes = [self.notes[key] for key in life.listed[protocol.lane] if key in self.notes]
        self._opened_said = True
        protocol.queue_text(
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

    def step(self, now: int) -> bool:
        """Answer for the peer's notes, or put up ours. True where a frame was signed."""
        protocol, life = self._protocol, self._protocol.lifecycle
        if self._refusal is not None and not life.accepted_at[protocol.peer]:
            refusal, self._refusal = self._refusal, None
            protocol.sign(
                CollateralResponse(
                    coll_resp_id="1",
                    coll_asgn_resp_type=CollAsgnRespType.REJECTED,
                    coll_asgn_reject_reason=_REASONS.get(type(refusal), CollAsgnRejectReason.OTHER),
                    text=clip(str(refusal)),
                ),
                now,
            )
            protocol.stop(refusal)
            return False
        self.step_verify()
        if protocol.lane == TRADER:
            if (
                protocol.record.head(TRADER).peer_seq
                < life.listed_at[SOLVER]
                <= protocol.covers(now)
            ):
                protocol.sign(Heartbeat(), now)
                return True
            if self._peer_verified() and not life.accepted_at[SOLVER]:
                self._accept(now)
                return True
            return False
        if self._peer_verified() and not self.notes and not self._funding:
            self._funding = True
            protocol.effects.events.append(FundCollateral())
            return False
        if self.notes and not life.listed[SOLVER]:
            self._list(now)
            return True
        if life.listed[SOLVER] and self._peer_verified() and not life.accepted_at[TRADER]:
            self._accept(now)
            return True
        covered = protocol.record.head(SOLVER).peer_seq
        if 0 < covered < life.accepted_at[SOLVER] <= protocol.covers(now):
            protocol.sign(Heartbeat(), now)
            return True
        return False

    def step_verify(self) -> None:
        """Have the peer's notes checked on chain, once they are opened: all that it listed, else
        the chain would be asked for the same ones without an end."""
        listed = self._protocol.lifecycle.listed[self._protocol.peer]
        if (
            self._shown is not None
            and {note.commitment for note in self._shown} >= set(listed)
            and not self._verifying
            and not self._protocol.lifecycle.accepted_at[self._protocol.peer]
            and not self._peer_verified()
        ):
            self._verifying = True
            self._protocol.effects.events.append(VerifyCollateral(self._shown))

    @property
    def judged(self) -> bool:
        """The peer's notes were verified on chain, or refused."""
        return self._refusal is not None or self._peer_verified()

    @property
    def ours_at_stake(self) -> bool:
        """Collateral of ours is in the custody, or on its way there."""
        return bool(self.notes) or self._funding

    @property
    def due(self) -> int | None:
        """When the peer's openings have been waited for too long, ns: they are texts, which the
        network may have lost, and come again on the next connection. None where nothing is due."""
        if self._awaited_since is None:
            return None
        return self._awaited_since + self._protocol.params.response_timeout_ns

    def await_openings(self, now: int) -> None:
        """Note since when the peer's openings are waited for."""
        if not self._awaits_openings():
            self._awaited_since = None
        elif self._awaited_since is None:
            self._awaited_since = now

    def _awaits_openings(self) -> bool:
        """The peer's frames list notes that it has not opened on this connection."""
        life, peer = self._protocol.lifecycle, self._protocol.peer
        return (
            bool(life.listed[peer])
            and not life.accepted_at[peer]
            and self._shown is None
            and not self._verifying
            and not self.judged
        )

    def _peer_verified(self) -> bool:
        listed = self._protocol.lifecycle.listed[self._protocol.peer]
        return bool(listed) and self._verified >= set(listed)

    def _list(self, now: int) -> None:
        """The solver's notes; the trader's are in its Logon."""
        self._protocol.sign(
            CollateralAssignment(
                coll_asgn_id="1",
                coll_asgn_reason=CollAsgnReason.INITIAL,
                notes=tuple(
                    NoteRef(commitment=note.commitment, nullifier=note.nullifier)
                    for note in self.notes.values()
                ),
            ),
            now,
        )

    def _accept(self, now: int) -> None:
        listed = self._protocol.lifecycle.listed[self._protocol.peer]
        self._protocol.sign(
            CollateralResponse(
                coll_resp_id="1",
                coll_asgn_resp_type=CollAsgnRespType.ACCEPTED,
                commitments=tuple(
                    AcceptedNote(
                        commitment=key,
                        token=bytes.fromhex(self.peer_notes[key].token[2:]),
                        amount=self.peer_notes[key].amount,
                    )
                    for key in listed
                ),
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


__all__ = ["CollateralExchange", "refusal_of"]
