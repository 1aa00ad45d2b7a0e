"""A session's state, new or out of a journal, and the protocol on it."""

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
    """A session, new or out of a journal; the rulebook has seen no frame of the record yet.

    key: ours, in force or for our Logon; None where nothing may be signed.
    logon: ours, where it is still to be signed.
    kept: all session keys of ours that the journal holds.
    health, newest, spare: of a journal that lost frames: its newest heads, and loose frames.
    announced: what the peer introduced, token units.
    acknowledged: of a custody that had ended, our highest frame that the peer is known to have.
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
