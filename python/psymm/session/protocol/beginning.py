"""Build a session's state, new or from a journal, and the protocol on it."""

from __future__ import annotations

from collections.abc import Iterable

from psymm._core import Frame, SecretKey
from psymm.errors import (
    PSymmError,
)
from psymm.messages import (
    Logon,
)
from psymm.session.protocol import (
    recovery,
)
from psymm.session.protocol.budget import PeerRate
from psymm.session.protocol.chain_facts import Note
from psymm.session.protocol.dispatch import SessionProtocol
from psymm.session.protocol.rulebook import Rulebook
from psymm.session.protocol.state import (
    CollateralState,
    FinalAckState,
    KeyState,
    RecoveryState,
    SessionParams,
    SessionState,
)
from psymm.transcript.delegation import JournalledRevocation
from psymm.transcript.heads import Heads, Health
from psymm.transcript.record import Record


def begin_session(
    record: Record,
    rulebook: Rulebook | None,
    lane: int,
    params: SessionParams,
    *,
    now: int,
    key: SecretKey | None = None,
    logon: Logon | None = None,
    kept: Iterable[SecretKey] = (),
    revocations: Iterable[JournalledRevocation] = (),
    health: Health = "complete",
    newest: Heads | None = None,
    spare: Iterable[Frame] = (),
    announced: int = 0,
    notes: Iterable[Note] = (),
    peer_notes: Iterable[Note] = (),
    stopped: PSymmError | None = None,
    acknowledged: int = 0,
) -> SessionProtocol:
    """Begin a session, new or from a journal.

    Args:
        record: the frames of both lanes.
        rulebook: has seen no frame of the record yet; None while the journal is repaired.
        lane: ours, 0 trader, 1 solver.
        params: the values of the terms that a session uses.
        now: our clock, nanoseconds.
        key: our key in force, or the one for our Logon; None if nothing may be signed.
        logon: our Logon, if it is still to be signed.
        kept: all our session keys in the journal.
        revocations: all revoked keys in the journal, of both lanes.
        health: the journal's health.
        newest: the newest heads that a journal with lost frames knows of.
        spare: frames of such a journal that follow no frame on the record.
        announced: the collateral that the peer announced, token units.
        notes: our notes.
        peer_notes: the peer's notes that were verified before.
        stopped: the error that stopped the session before; it stays stopped.
        acknowledged: our highest frame that the peer is known to have, if the custody had ended.
    """
    state = SessionState(
        lane=lane,
        params=params,
        record=record,
        rulebook=rulebook,
        keys=KeyState(
            key,
            logon,
            {one.public_key: one for one in kept},
            {(one.lane, one.key): one for one in revocations},
        ),
        collateral=CollateralState(
            {note.commitment: note for note in notes},
            {note.commitment: note for note in peer_notes},
            announced,
        ),
        recovery=RecoveryState(health, newest),
        rate=PeerRate(params.frames_per_second),
        now=now,
        error=stopped,
        final_ack=FinalAckState(acknowledged),
    )
    for frame in spare:
        recovery.keep(state, frame)
    return SessionProtocol(state)
