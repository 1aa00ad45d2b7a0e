"""The session protocol, sans-IO: what one end of a custody does about what it hears.

Theory of operation. `SessionProtocol` (`dispatch`) is given texts, frames, ticks and commands, and
returns `Effects`: one ordered list of what to store, send and tell. It reads no clock, opens no
socket and writes no file, so it can be driven by trio, by asyncio, or by a test in memory.

    dispatch    each input finds its handler; then all steps that are due are taken
    state       all that is known: `SessionState`, and `ConnectionState` for as long as one lasts
    effects     what a handler wants done; their order is the durability contract
    frames      a frame of the peer, from the wire onto the record
    ruling      from the record into effect: held back, judged, applied, told
    signing     the only place that signs, with all that forbids it
    resume      proving oneself, comparing heads, agreeing
    deadlines   one table of what falls due

Calls go one way: `dispatch → frames, resume, logon → ruling → checkpoints, collateral, holding,
rejects → signing → lifecycle, keys → state`. A handler `on_x(state, effects, …)` keeps no reference
to either, and never calls `dispatch`.

States. A session's `SessionStatus` follows from the frames on the record. A connection's `HeadSync`
says what may be heard and signed on it. Notes of the peer go through `Verification`.

Durable when: see `effects`.
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
