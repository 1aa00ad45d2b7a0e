"""Everything that one end of a session knows, as data without behaviour.

`SessionState` outlives connections; each connection gets a new `ConnectionState`. Nothing here
survives the process: a restart rebuilds it from the journal's frames, openings, keys and facts.

Times and spans are in nanoseconds. Pairs and lists of two are by lane: trader, solver.
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
"""The least time between two resends of one kind. We ignore a peer that asks faster."""


class HeadSync(StrEnum):
    """How far a connection has come towards agreeing on the heads of both lanes.

    UNPROVEN → PROVEN → SYNCED, or DISPUTED, which ends the connection.
    """

    UNPROVEN = "unproven"
    """The peer has not proved who it is. We accept only resumes and heartbeats."""
    PROVEN = "proven"
    """The peer proved that it is the custody's party. We accept frames, and sign none."""
    SYNCED = "synced"
    """Heads agree. Only now do we sign frames."""
    DISPUTED = "disputed"
    """Heads contradict each other. The connection stays open briefly, for frames as proof."""


class Verification(StrEnum):
    """How far the verification of the peer's notes has come."""

    AWAITED = "awaited"
    """Not opened, or opened and the chain not asked yet."""
    RUNNING = "running"
    """The runtime is asking our chain."""
    REFUSED = "refused"
    """The notes are refused. The refusal may still have to be signed."""


@dataclass(slots=True)
class Dispute:
    """The two sides have different account hashes for the same frames."""

    ours: Account
    their_hash: bytes = b""
    """The hash of the account whose parts arrive; empty before the first part."""
    parts: dict[int, bytes] = field(default_factory=dict)
    """The parts that have arrived, by number from 1."""
    count: int = 0
    """How many parts the peer announces."""
    named: bool = False
    """Whether the first difference has been reported."""


@dataclass(slots=True)
class GapFill:
    """A gap in the peer's lane that we asked it to fill."""

    due: int | None = None
    """When to ask again; None if no gap is open."""
    until: int = 0
    """The highest number seen beyond the gap."""
    begin: int = 0
    """The first number that we asked for."""
    tries: int = 0
    """How often we asked for it."""


@dataclass(slots=True, eq=False)
class ConnectionState:
    """The state of one connection. All of it ends with the connection."""

    challenge: bytes
    """Our challenge: 32 random bytes for this connection."""
    opened: int
    """When the connection began."""
    last_sent: int
    """When we last sent anything."""
    last_heard: int
    """When the peer last sent anything."""
    progress: int
    """When the two sides last came closer to agreement. The resume timeout counts from here."""
    sync: HeadSync = HeadSync.UNPROVEN
    closing: PSymmError | None = None
    """Why the connection is being closed; None while it is open. We then read nothing more."""
    peer_challenge: bytes | None = None
    """The challenge that we sign our heads over; None until the peer sends it."""
    shown_heads: Resume | None = None
    """Our heads, as last shown."""
    peer_heads: Resume | None = None
    """The peer's heads, as last proven."""
    peer_behind: PeerBehind | None = None
    """The disconnect reason if the peer never agrees: its journal is older than its frames."""
    dispute: ForkUnproved | BehindUnproved | None = None
    """What the peer's heads would prove if they were signed."""
    dispute_until: int = 0
    """When we disconnect because of `dispute`."""
    frames_fetched: int = 0
    """Frames of the peer, or lost ones of either lane, that arrived before heads agreed."""
    frames_repeated: int = 0
    """Our frames that were sent again before heads agreed."""
    sent_again_at: list[int] = field(default_factory=lambda: [-AGAIN_NS, -AGAIN_NS])
    """By lane: when we last resent what the peer's heads lack."""
    sent_again_to: list[int] = field(default_factory=lambda: [0, 0])
    """By lane: the highest number that we resent."""
    asked_from: list[int] = field(default_factory=lambda: [0, 0])
    """By lane: the highest start of a resend that the peer asked for."""
    malformed: int = 0
    """Malformed texts and frames on this connection."""
    test_sent: int | None = None
    """When we sent a TestRequest that the peer has not answered."""
    uncovered_since: int | None = None
    """Since when a frame of the peer waits for our cover; None if none does."""
    gap: GapFill = field(default_factory=GapFill)
    recovery_due: int | None = None
    """When to ask again for frames that our journal lost."""
    recovery_tries: int = 0
    """How often we asked for them without progress."""
    wake_at: int = 0
    """No deadline is due before this time. `arm` lowers it."""
    openings_sent: bool = False
    """Whether we showed our openings on this connection."""
    peer_openings: tuple[Note, ...] | None = field(default=None, repr=False)
    """The peer's notes, as opened on this connection and found in order."""
    openings_awaited_since: int | None = None
    """Since when we wait for the peer's openings; None if we do not."""
    revoked_waiting: list[Frame] = field(default_factory=list)
    """Frames of the peer's revoked key. The wallet's next key may build on them."""
    own_shown: dict[int, Frame] = field(default_factory=dict)
    """Frames of our lane that we lack, shown by the peer while our key is compromised."""
    own_shown_bytes: int = 0
    """The bytes of all frames shown so far."""
    checkpoint_asked: bool = False
    """Whether we, as the solver, asked the trader for a checkpoint."""
    final_asked: int | None = None
    """The frame of ours for which we asked the peer to confirm receipt; None if we did not."""
    final_since: int | None = None
    """Since when we wait for that confirmation."""

    @property
    def proven(self) -> bool:
        return self.sync is not HeadSync.UNPROVEN

    @property
    def synced(self) -> bool:
        return self.sync is HeadSync.SYNCED


def arm(connection: ConnectionState, due: int) -> None:
    """Make sure that the connection wakes at `due`, nanoseconds, or before; see `deadlines`."""
    if due < connection.wake_at:
        connection.wake_at = due


@dataclass(slots=True)
class LifecycleState:
    """What the frames say about the custody itself. Pairs are by lane, rebuilt on a restart."""

    logons: list[Logon | None] = field(default_factory=lambda: [None, None])
    logouts: list[bool] = field(default_factory=lambda: [False, False])
    listed: tuple[dict[bytes, NoteRef], dict[bytes, NoteRef]] = field(
        default_factory=lambda: ({}, {})
    )
    """The notes that a lane has listed, by commitment."""
    listed_at: list[int] = field(default_factory=lambda: [0, 0])
    """The lane's frame that listed the last of them."""
    accepted: tuple[set[bytes], set[bytes]] = field(default_factory=lambda: (set(), set()))
    """Commitments of a lane's notes that the other lane accepted."""
    accepted_at: list[int] = field(default_factory=lambda: [0, 0])
    """The other lane's frame that accepted the last of them, 0 before."""
    trading_open: bool = False
    """Whether both acceptances are in the linear order. Never becomes false again."""
    turned_down: list[CollateralResponse | None] = field(default_factory=lambda: [None, None])
    """The other lane's refusal of a lane's notes."""
    rejected: set[int] = field(default_factory=set)
    """The peer's frames that our Rejects name."""
    proposal: tuple[int, RecordedFrame, Settlement] | None = None
    """The live settlement proposal: its lane, its frame and its content."""
    acceptance: SettlementAcceptance | None = None
    """The other side's acceptance of the live proposal."""
    offered: list[Settlement] = field(default_factory=list)
    """Every proposal that our wallet signed and that may still be mined."""
    spent: set[bytes] = field(default_factory=set)
    """Nullifiers that citations on the record name as spent."""
    settled: ChainFact | None = None
    """The citation that ended the custody."""


@dataclass(slots=True)
class KeyState:
    """Both lanes' session keys."""

    key: SecretKey | None
    """Our key in force, or the one for our Logon. None if we may sign nothing, or if the record
    does not say yet which of `kept` is in force."""
    logon: Logon | None
    """Our Logon, if it is still to be signed."""
    kept: dict[bytes, SecretKey] = field(default_factory=dict, repr=False)
    """All our session keys in the journal, by public key."""
    revoked: dict[tuple[int, str], JournalledRevocation] = field(default_factory=dict)
    """By lane and address. Frames of a revoked key from `cut` on are void, except those that the
    other lane had covered when it learned of the revocation."""
    next_key: tuple[SecretKey, SessionKeyChange] | None = None
    """Our next key with its delegation, once it is stored and until its UKY is signed."""
    proving: ResumeSigner | None = None
    """A key that signs no frames. It proves who we are if no other key can."""
    due_for: int = 0
    """The frame that brought the key to which `due_at` belongs."""
    due_at: int | None = None
    """Our frame number from which the next key is due."""
    signs_until: int = 0
    """The expiry of our key in force; 0 if it may not sign (`keys.note_limits`)."""
    signs_to: int = 0
    """The last number that our key in force may sign; 0 if it may not sign."""


@dataclass(slots=True)
class CollateralState:
    """Both sides' opened notes, by commitment."""

    notes: dict[bytes, Note] = field(repr=False)
    peer_notes: dict[bytes, Note] = field(repr=False)
    """The peer's notes that were verified on chain, in this process or before a restart."""
    announced: int
    """The collateral that the peer announced in its introduction, token units."""
    verified: set[bytes] = field(default_factory=set)
    """Commitments of the peer's notes that this process verified."""
    verification: Verification = Verification.AWAITED
    refusal: CollateralRefused | None = None
    """Why the peer's notes are refused; None again once our frame says so."""
    funding: bool = False
    """The runtime is creating our own notes."""


@dataclass(slots=True)
class RecoveryState:
    """Frames of either lane that our journal has lost."""

    health: Health
    newest: Heads | None
    """The newest heads that the journal knows of. Reaching them makes it complete."""
    spare: dict[tuple[int, int], Frame] = field(default_factory=dict)
    """Fetched frames that wait for earlier ones, by lane and number."""
    spare_bytes: int = 0
    """The bytes of `spare`."""


@dataclass(slots=True)
class CheckpointState:
    """Which checkpoint is in force, which is wanted, and a disagreement about one."""

    point: Point | None = None
    """The checkpoint in force."""
    target: list[int] = field(default_factory=lambda: [0, 0])
    """By lane: the last frame that the application or the peer wants compacted."""
    asked_at: int = 0
    """When we last accepted a request of the peer."""
    offer_at: int = 0
    """The number of frames in memory at which we offer the next one without a request."""
    differs: AccountsDiffer | None = None
    """The difference that was reported last."""
    seen_dispute: Account | None = None
    """The rulebook's disputed account for which we last showed ours."""
    dispute: Dispute | None = None


@dataclass(slots=True)
class FinalAckState:
    """Whether the solver has all frames of its trader, in a custody that has ended."""

    acknowledged: int = 0
    """The highest frame of our lane that the peer is known to have. Covers are not counted here."""
    told: bool = False
    """Whether `Delivered` was reported."""


@dataclass(frozen=True, slots=True)
class SessionParams:
    """The values of the terms that a session uses."""

    token: str
    """The collateral token's address, checksummed."""
    terms_hash: bytes
    heartbeat_s: int
    """Seconds between two signs of life."""
    acknowledge_ns: int
    """T: within this time a frame must be covered to keep its own date (`spec.md` 1, 2)."""
    skew_ns: int
    """How far the two sides' clocks may differ."""
    minimum_collateral: int
    """Token units."""
    frames_per_second: int
    """How many frames a peer may send."""
    checkpoint_frames: int
    """With fewer frames in memory, no limit of the terms is near and no checkpoint is due."""
    response_timeout_ns: int = 20 * SECOND
    """How long a Logon, a resume or a resend may stay unanswered."""

    heartbeat_ns: int = field(init=False)
    cover_after_ns: int = field(init=False)
    """After this time a Heartbeat covers an uncovered frame of the peer: well below T."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "heartbeat_ns", self.heartbeat_s * SECOND)
        object.__setattr__(self, "cover_after_ns", min(self.acknowledge_ns // 4, SECOND))


@dataclass(slots=True, eq=False, weakref_slot=True)
class SessionState:
    """One end of a custody's session."""

    lane: int
    """Ours: 0 trader, 1 solver."""
    params: SessionParams
    record: Record
    rulebook: Rulebook | None
    """None while a journal is repaired: then nothing is judged and nothing is signed."""
    keys: KeyState
    collateral: CollateralState
    recovery: RecoveryState
    rate: PeerRate
    now: int
    """Our clock at the last input."""
    status: SessionStatus = SessionStatus.LOGON
    error: PSymmError | None = None
    """What stopped the session. We sign nothing any more."""
    lifecycle: LifecycleState = field(default_factory=LifecycleState)
    checkpoints: CheckpointState = field(default_factory=CheckpointState)
    final_ack: FinalAckState = field(default_factory=FinalAckState)
    held: deque[RecordedFrame] = field(default_factory=deque)
    """Frames of the peer that are held back, in order. The others wait because of the first."""
    held_told: int = 0
    """The held frame that we reported last. Each connection reports it again."""
    rejects: list[Reject] = field(default_factory=list)
    """Queued Rejects, in the order in which their violations were found."""
    void: set[int] = field(default_factory=set)
    """Numbers of the peer's frames that are violations."""
    bad_logon: LogonRefused | None = None
    """Why the peer's Logon is a violation."""
    mined: tuple[Mined, int] | None = None
    """Where the settlement was mined, and when we learned of it. We still have to cite it."""
    business_ns: int = 0
    """The latest sendingTime of business among frames that have left memory."""
    peer_restored: bool = False
    """The peer's journal says that it is a backup."""
    clock_behind: bool = False
    """Our clock is behind our own lane's last frame by more than the skew."""
    resent_at: list[int] = field(default_factory=lambda: [-AGAIN_NS, -AGAIN_NS])
    """By lane: when we last answered the peer's request for a resend, on any connection."""
    connection: ConnectionState | None = None
    """None while there is no connection."""
    malformed: int = 0
    """Malformed texts and frames, on all connections."""
    resends_asked: int = 0
    """Resends that we asked for."""
    frames_resent: int = 0
    """Frames that we sent again."""

    peer: int = field(init=False)
    """The other lane."""
    attention: bool = True
    """More than business may be due: a step, a checkpoint, a new status. Any change that these
    depend on must set it. `steps._leave` clears it while only business goes on."""

    def __post_init__(self) -> None:
        self.peer = 1 - self.lane

    @property
    def synced(self) -> bool:
        """Whether heads agree on the connection and nothing stopped the session.

        Only then do we sign frames.
        """
        connection = self.connection
        return connection is not None and connection.sync is HeadSync.SYNCED and self.error is None
