"""The session protocol, sans-IO: one end of a custody's session.

Theory of operation. `SessionProtocol` (`dispatch`) takes texts, frames, ticks and commands, and
returns `Effects`: one ordered list of what to store, send and report. It reads no clock, opens no
socket and writes no file, so trio, asyncio or a test in memory can drive it.

    beginning   `begin_session`: a session, new or from a journal
    dispatch    sends each input to its handler
    steps       what every input shares: the clock, and then each step that is due
    views       read-only access to a session's state
    state       `SessionState`, and `ConnectionState` for as long as a connection lasts
    effects     what a handler wants done; their order is the durability contract
    frames      a frame of the peer, from the wire onto the record
    ruling      a frame of the peer, from the record into effect
    signing     the only module that signs, with all conditions that forbid it
    rulebook    the interface to the rulebook (`session.runtime.ledger` implements it)
    resume      prove identity, compare heads, agree
    logon, collateral, checkpoints, keys, facts, final_ack
                steps that an end takes unprompted, one module for each kind
    gaps, recovery, revoked
                frames that we lack, that our journal lost, that a revoked key signed
    holding     frames of the peer that must wait for a time or for the chain
    deadlines   one table of all timeouts

Calls go one way: `dispatch → frames, resume, logon → ruling → checkpoints, collateral, holding,
rejects → signing → lifecycle, keys → state`. A handler `on_x(state, effects, …)` keeps no reference
to either, and never calls `dispatch`.

States. A session's `SessionStatus` follows from the frames on the record. A connection's `HeadSync`
says what we may accept and sign on it. The peer's notes go through `Verification`. The journal's
`Health` says whether we may sign at all.

One frame. Ours: `send` → `signing.check_message` (the rulebook judges it) → `signing.sign`
(recorded; `StoreFrame`, `SendFrame`, `FrameSent`) → `Rulebook.arrived` (what was judged takes
effect). The peer's: `receive_batch` → `frames.receive` (recorded; `StoreFrame`) → `holding.hold` →
`ruling.take_effect` (judged, applied; `FrameReceived`). A frame is parsed, decoded, judged and
hashed once.

Business. During normal trading only the rulebook changes from frame to frame. Then
`SessionState.attention` is false, and the protocol skips steps, status and deadlines. Anything that
can change one of these sets it: any input except a frame of business, a held frame, an error, a new
health.

Durable when. All stores of one list of effects are one commit, before its sends and events
(`effects`). So a frame is on disk before it is sent, and a fill before the application sees it.
Only what was stored survives the process; everything else is derived from it again.
"""

from psymm.session.protocol.beginning import begin_session
from psymm.session.protocol.budget import SECOND
from psymm.session.protocol.dispatch import SessionProtocol
from psymm.session.protocol.effects import (
    CheckpointInForce,
    CitationWaits,
    Delivered,
    Disagreed,
    Disconnect,
    Effect,
    Effects,
    Event,
    FrameReceived,
    FrameSent,
    FramesRevoked,
    FundCollateral,
    FundingStarted,
    HeadsDiffer,
    HealthChanged,
    HeldBack,
    Idle,
    ImportFrame,
    KeyChanged,
    KeyDue,
    KeyFailing,
    KeyRefused,
    OwnClockBehind,
    OwnFrameImported,
    PeerRejected,
    PeerRestored,
    ProvisionalFrame,
    ResendCompacted,
    Resumed,
    RevokeFrames,
    SendFrame,
    SendText,
    StatusChanged,
    Stopped,
    StoreCheckpoint,
    StoreEvidence,
    StoreFact,
    StoreFrame,
    StoreHealth,
    StoreOpenings,
    StoreRevocations,
    StoreStatus,
    TextReceived,
    VerifyCollateral,
    provisional,
)
from psymm.session.protocol.keys import key_in_force, signer
from psymm.session.protocol.lifecycle import NO_BUSINESS
from psymm.session.protocol.rulebook import Rulebook
from psymm.session.protocol.state import (
    ConnectionState,
    HeadSync,
    SessionParams,
    SessionState,
)
from psymm.session.protocol.status import SessionStatus
from psymm.session.protocol.views import FrameBatch, SessionView

__all__ = [
    "NO_BUSINESS",
    "SECOND",
    "CheckpointInForce",
    "CitationWaits",
    "ConnectionState",
    "Delivered",
    "Disagreed",
    "Disconnect",
    "Effect",
    "Effects",
    "Event",
    "FrameBatch",
    "FrameReceived",
    "FrameSent",
    "FramesRevoked",
    "FundCollateral",
    "FundingStarted",
    "HeadSync",
    "HeadsDiffer",
    "HealthChanged",
    "HeldBack",
    "Idle",
    "ImportFrame",
    "KeyChanged",
    "KeyDue",
    "KeyFailing",
    "KeyRefused",
    "OwnClockBehind",
    "OwnFrameImported",
    "PeerRejected",
    "PeerRestored",
    "ProvisionalFrame",
    "ResendCompacted",
    "Resumed",
    "RevokeFrames",
    "Rulebook",
    "SendFrame",
    "SendText",
    "SessionParams",
    "SessionProtocol",
    "SessionState",
    "SessionStatus",
    "SessionView",
    "StatusChanged",
    "Stopped",
    "StoreCheckpoint",
    "StoreEvidence",
    "StoreFact",
    "StoreFrame",
    "StoreHealth",
    "StoreOpenings",
    "StoreRevocations",
    "StoreStatus",
    "TextReceived",
    "VerifyCollateral",
    "begin_session",
    "key_in_force",
    "provisional",
    "signer",
]
