"""The session protocol, sans-IO: what one end of a custody does about what it hears.

Theory of operation. `SessionProtocol` (`dispatch`) is given texts, frames, ticks and commands, and
returns `Effects`: one ordered list of what to store, send and tell. It reads no clock, opens no
socket and writes no file, so it can be driven by trio, by asyncio, or by a test in memory.

    beginning   a session, new or out of a journal: `begin_session`
    dispatch    each input finds its handler; then all steps that are due are taken
    views       what a session knows, for others to read
    state       all that is known: `SessionState`, and `ConnectionState` for as long as one lasts
    effects     what a handler wants done; their order is the durability contract
    frames      a frame of the peer, from the wire onto the record
    ruling      from the record into effect: held back, judged, applied, told
    signing     the only place that signs, with all that forbids it
    rulebook    what is asked of the rulebook (`session.ledger` answers)
    resume      proving oneself, comparing heads, agreeing
    logon, collateral, checkpoints, keys, facts, final_ack
                the steps that an end takes by itself, one module for each kind
    gaps, recovery, revoked
                frames that we lack, that our journal lost, that a revoked key signed
    deadlines   one table of what falls due

Calls go one way: `dispatch → frames, resume, logon → ruling → checkpoints, collateral, holding,
rejects → signing → lifecycle, keys → state`. A handler `on_x(state, effects, …)` keeps no reference
to either, and never calls `dispatch`.

States. A session's `SessionStatus` follows from the frames on the record. A connection's `HeadSync`
says what may be heard and signed on it. Notes of the peer go through `Verification`. The journal's
`Health` says whether we may sign at all.

One frame. Ours: `send` → `signing.check_message` (the rulebook judges it) → `signing.sign`
(recorded; `StoreFrame`, `SendFrame`, `FrameSent`) → `Rulebook.arrived` (what was judged takes
effect). The peer's: `receive_batch` → `frames.receive` (recorded; `StoreFrame`) → `holding.hold` →
`ruling.take_effect` (judged, applied; `FrameReceived`). A frame is parsed, decoded, judged and
hashed once.

Business. While two trade, nothing but the rulebook changes from frame to frame. Then
`SessionState.attention` is false, and no step, status or deadline is looked at. What can change one
of these sets it: any input but a frame of business, a frame held back, an error, another health.

Durable when. All that a list of effects stores is one commit, and comes before what it sends and
tells (`effects`). So a frame is on disk before it is sent, and a fill before it is heard. Nothing
here survives the process but what was stored; all else is derived from it again.
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
