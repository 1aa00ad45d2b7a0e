"""All that one end of a session knows, as data without behaviour.

`SessionState` outlives connections; `ConnectionState` is made new with each. Nothing here survives
the process: after a restart it is rebuilt from the journal's frames, openings, keys and facts.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from psymm._core import Frame, SecretKey
from psymm.errors import (
    AccountsDiffer,
    BehindUnproved,
    CollateralRefused,
    ForkUnproved,
    LogonRefused,
    PeerBehind,
    PSymmError,
)
from psymm.messages import (
    ChainFact,
    CollateralResponse,
    Logon,
    NoteRef,
    Reject,
    Resume,
    SessionKeyChange,
    Settlement,
    SettlementAcceptance,
)
from psymm.rulebook import Account
from psymm.session.protocol.budget import SECOND, PeerRate
from psymm.session.protocol.chain_facts import Mined, Note
from psymm.session.protocol.rulebook import Rulebook
from psymm.session.protocol.status import SessionStatus
from psymm.transcript.checkpoint import Point
from psymm.transcript.delegation import JournalledRevocation
from psymm.transcript.heads import Heads, Health
from psymm.transcript.record import Record, RecordedFrame
from psymm.transcript.resumption import ResumeSigner

AGAIN_NS: Final = SECOND
"""Between two answers of one kind that cost us frames: a peer that asks faster is not answered."""


class HeadSync(StrEnum):
    """How far a connection has come towards agreement about the heads of both lanes."""

    UNPROVEN = "unproven"
    """Nothing proves who the peer is. Only resumes and heartbeats are heard."""
    PROVEN = "proven"
    """The peer proved that it is the custody's party. Frames are taken; none is signed."""
    SYNCED = "synced"
    """Heads agree. Only now is anything signed."""
    DISPUTED = "disputed"
    """Heads differ. The connection stays open a moment for frames that prove who is wrong."""


class Verification(StrEnum):
    """Where the peer's notes are on their way to being accepted."""

    AWAITED = "awaited"
    """Not opened, or opened and not yet asked of the chain."""
    RUNNING = "running"
    """Our chain is asked."""
    REFUSED = "refused"
    """They will not do; the peer is yet to be told, or was."""


@dataclass(slots=True)
class Dispute:
    """Two hashes for an account of the same frames."""

    ours: Account
    their_hash: bytes = b""
    """Of the account whose parts arrive, empty before the first."""
    parts: dict[int, bytes] = field(default_factory=dict)
    count: int = 0
    named: bool = False


@dataclass(slots=True)
class GapFill:
    """A gap in the peer's lane that it was asked to fill."""

    due: int | None = None
    """When it is asked again, nanoseconds; None where no gap is open."""
    until: int = 0
    """The highest number seen beyond the gap."""
    begin: int = 0
    tries: int = 0


@dataclass(slots=True, eq=False)
class ConnectionState:
    """What is known of one connection. All of it ends with the connection."""

    challenge: bytes
    """Ours: 32 random bytes of this connection."""
    opened: int
    """When it began, nanoseconds."""
    last_sent: int
    last_heard: int
    progress: int
    """When the two last came closer to agreement."""
    sync: HeadSync = HeadSync.UNPROVEN
    closing: PSymmError | None = None
    """Why it is being ended; nothing more is read then."""
    peer_challenge: bytes | None = None
    shown_heads: Resume | None = None
    """Ours, as last shown."""
    peer_heads: Resume | None = None
    """The peer's, as last proven."""
    peer_behind: PeerBehind | None = None
    """Why it is left where the peer does not come to agree."""
    dispute: ForkUnproved | BehindUnproved | None = None
    """What the peer's heads would prove if they were signed."""
    dispute_until: int = 0
    frames_fetched: int = 0
    """Frames of the peer, or lost ones of either lane, that came before heads agreed."""
    frames_repeated: int = 0
    sent_again_at: list[int] = field(default_factory=lambda: [-AGAIN_NS, -AGAIN_NS])
    """By lane: when what the peer's heads lack was last sent again."""
    sent_again_to: list[int] = field(default_factory=lambda: [0, 0])
    asked_from: list[int] = field(default_factory=lambda: [0, 0])
    """By lane: the highest start of a resend that the peer asked for."""
    malformed: int = 0
    test_sent: int | None = None
    """When the peer was last asked for a sign of life that is still missing."""
    uncovered_since: int | None = None
    """Since when a frame of the peer that we may cover is not covered."""
    gap: GapFill = field(default_factory=GapFill)
    recovery_due: int | None = None
    """When frames that our journal lost are asked for again."""
    recovery_tries: int = 0
    wake_at: int = 0
    """No deadline is due before; lowered by whoever arms one (`arm`)."""
    openings_sent: bool = False
    peer_openings: tuple[Note, ...] | None = field(default=None, repr=False)
    """Of the peer's notes, as shown on this connection and found in order."""
    openings_awaited_since: int | None = None
    revoked_waiting: list[Frame] = field(default_factory=list)
    """Frames of the peer's revoked key; the wallet's next key may build on them."""
    own_shown: dict[int, Frame] = field(default_factory=dict)
    """Frames of our lane that we lack, shown by the peer while our key is compromised."""
    own_shown_bytes: int = 0
    checkpoint_asked: bool = False
    final_asked: int | None = None
    """Our frame of which the peer was asked whether it has come."""
    final_since: int | None = None

    @property
    def proven(self) -> bool:
        return self.sync is not HeadSync.UNPROVEN

    @property
    def synced(self) -> bool:
        return self.sync is HeadSync.SYNCED


def arm(connection: ConnectionState, due: int) -> None:
    """Something falls due then, nanoseconds; see `deadlines`."""
    if due < connection.wake_at:
        connection.wake_at = due


@dataclass(slots=True)
class LifecycleState:
    """What the frames say about the custody itself. Pairs are by lane."""

    logons: list[Logon | None] = field(default_factory=lambda: [None, None])
    logouts: list[bool] = field(default_factory=lambda: [False, False])
    listed: tuple[dict[bytes, NoteRef], dict[bytes, NoteRef]] = field(
        default_factory=lambda: ({}, {})
    )
    """A lane's notes, by commitment."""
    listed_at: list[int] = field(default_factory=lambda: [0, 0])
    """The lane's frame that listed the last of them."""
    accepted: tuple[set[bytes], set[bytes]] = field(default_factory=lambda: (set(), set()))
    """Commitments of a lane's notes that the other lane accepted."""
    accepted_at: list[int] = field(default_factory=lambda: [0, 0])
    """The other lane's frame that accepted the last of them, 0 before."""
    trading_open: bool = False
    """Both acceptances are in the linear order. It stays so."""
    turned_down: list[CollateralResponse | None] = field(default_factory=lambda: [None, None])
    """The other lane's refusal of a lane's notes."""
    rejected: set[int] = field(default_factory=set)
    """The peer's frames that our Rejects name."""
    proposal: tuple[int, RecordedFrame, Settlement] | None = None
    """The settlement proposal that is alive: its lane, its frame, what it says."""
    acceptance: SettlementAcceptance | None = None
    offered: list[Settlement] = field(default_factory=list)
    """Every proposal that our wallet signed and that may still be mined."""
    spent: set[bytes] = field(default_factory=set)
    settled: ChainFact | None = None
    """The citation that ended the custody."""


@dataclass(slots=True)
class KeyState:
    """Both lanes' session keys."""

    key: SecretKey | None
    """Ours: in force, or for our Logon. None where nothing may be signed, or where the record does
    not say yet which of `kept` it is."""
    logon: Logon | None
    """Ours, where it is still to be signed."""
    kept: dict[bytes, SecretKey] = field(default_factory=dict, repr=False)
    """All that our journal holds, by public key."""
    revoked: dict[tuple[int, str], JournalledRevocation] = field(default_factory=dict)
    """By lane and address. A revoked key loses what we had not covered when we learned of it, from
    `cut` on; what we covered binds."""
    next_key: tuple[SecretKey, SessionKeyChange] | None = None
    proving: ResumeSigner | None = None
    """A key that signs no frame, and proves who we are where no other can."""
    due_for: int = 0
    """The frame that brought the key whose `due_at` this is."""
    due_at: int | None = None
    """Our number from which on the next key is due."""
    signs_until: int = 0
    """Nanoseconds: the expiry of our key in force; 0 where it may not sign (`keys.note_limits`)."""
    signs_to: int = 0
    """The last number that our key in force may sign; 0 where it may not."""


@dataclass(slots=True)
class CollateralState:
    """Both sides' notes, with what they hold, by commitment."""

    notes: dict[bytes, Note] = field(repr=False)
    peer_notes: dict[bytes, Note] = field(repr=False)
    """Those of the peer that were verified on chain, now or before a restart."""
    announced: int
    """What the peer introduced, token units."""
    verified: set[bytes] = field(default_factory=set)
    verification: Verification = Verification.AWAITED
    refusal: CollateralRefused | None = None
    """Why the peer's notes will not do; None again once it was told so."""
    funding: bool = False
    """Our own notes are being made."""


@dataclass(slots=True)
class RecoveryState:
    """Frames of either lane that our journal has lost."""

    health: Health
    newest: Heads | None
    """The heads that the journal knew to be its newest. Reaching them makes it complete."""
    spare: dict[tuple[int, int], Frame] = field(default_factory=dict)
    """Frames that wait for others before them, by lane and number."""
    spare_bytes: int = 0


@dataclass(slots=True)
class CheckpointState:
    point: Point | None = None
    """The checkpoint in force."""
    target: list[int] = field(default_factory=lambda: [0, 0])
    """By lane: frames that the application, or the peer, wants compacted."""
    asked_at: int = 0
    """When a request of the peer was last heeded."""
    offer_at: int = 0
    """Frames held at which the next is offered by itself."""
    differs: AccountsDiffer | None = None
    seen_dispute: Account | None = None
    dispute: Dispute | None = None


@dataclass(slots=True)
class FinalAckState:
    """Whether the solver has all that its trader signed in a custody that has ended."""

    acknowledged: int = 0
    """The highest frame of our lane that the peer is known to have, beyond what it covers."""
    told: bool = False


@dataclass(frozen=True, slots=True)
class SessionParams:
    """What a session reads of the terms. Spans in nanoseconds, amounts in token units."""

    token: str
    terms_hash: bytes
    heartbeat_s: int
    acknowledge_ns: int
    skew_ns: int
    minimum_collateral: int
    frames_per_second: int
    checkpoint_frames: int
    """So many frames held may make a checkpoint due; with fewer, no limit of the terms is near."""
    response_timeout_ns: int = 20 * SECOND
    """How long a Logon, a resume or a resend may stay unanswered."""

    @property
    def cover_after_ns(self) -> int:
        """A frame left uncovered this long is covered by a Heartbeat frame: well below T."""
        return min(self.acknowledge_ns // 4, SECOND)


@dataclass(slots=True, eq=False, weakref_slot=True)
class SessionState:
    """One end of a custody's session."""

    lane: int
    """Ours: 0 trader, 1 solver."""
    params: SessionParams
    record: Record
    rulebook: Rulebook | None
    """None where a journal is repaired: nothing is judged then, and nothing is signed."""
    keys: KeyState
    collateral: CollateralState
    recovery: RecoveryState
    rate: PeerRate
    now: int
    """Our clock when it was last looked at, nanoseconds."""
    status: SessionStatus = SessionStatus.LOGON
    error: PSymmError | None = None
    """What stopped the session. Nothing is signed any more."""
    lifecycle: LifecycleState = field(default_factory=LifecycleState)
    checkpoints: CheckpointState = field(default_factory=CheckpointState)
    final_ack: FinalAckState = field(default_factory=FinalAckState)
    held: deque[RecordedFrame] = field(default_factory=deque)
    """Frames of the peer that are held back, in order; the first is why the others wait."""
    held_told: int = 0
    """The frame held back that was last told of; told again on each connection."""
    rejects: list[Reject] = field(default_factory=list)
    """Rejects to be signed, in the order in which their violations were found."""
    void: set[int] = field(default_factory=set)
    """The peer's frames that are violations."""
    bad_logon: LogonRefused | None = None
    """Why the peer's Logon is a violation."""
    mined: tuple[Mined, int] | None = None
    """Where the settlement was mined, and when we learned it: it is to be cited."""
    business_ns: int = 0
    """The latest sendingTime of business among frames that are not held any more."""
    peer_restored: bool = False
    """The peer's journal says that it is a backup."""
    clock_behind: bool = False
    """Our clock is behind our own lane's last frame by more than the skew."""
    resent_at: list[int] = field(default_factory=lambda: [-AGAIN_NS, -AGAIN_NS])
    """By lane: when the peer's request for a resend was last answered, whatever the connection."""
    connection: ConnectionState | None = None
    malformed: int = 0
    resends_asked: int = 0
    frames_resent: int = 0

    peer: int = field(init=False)
    """The other lane."""
    attention: bool = True
    """More than business may be due: steps, a checkpoint, another status. Set by whatever changes
    what these rest on; cleared once nothing but business goes on (`dispatch._leave`)."""

    def __post_init__(self) -> None:
        self.peer = 1 - self.lane

    @property
    def synced(self) -> bool:
        """Heads agree on the connection; only then is anything signed."""
        connection = self.connection
        return connection is not None and connection.sync is HeadSync.SYNCED and self.error is None
