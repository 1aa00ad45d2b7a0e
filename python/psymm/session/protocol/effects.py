"""Effects: what the session protocol wants done, as one ordered list.

The order is the durability contract. The runtime

1. writes all `Store` effects of a list to the journal, in order, in one commit: all or none;
2. then carries out the rest in order: sends, events, disconnects.

It carries out the lists of one session one after the other. So a frame is durable before it is sent
and before anybody acts on it. An opening is durable together with the frame that relies on it.

One event may precede the commit: a `ProvisionalFrame`, which says that the peer asks or offers
something. It saves one disk wait in every answer, and it is safe:

- The answer is written after the frame, in the same commit or a later one, and sent after that
  commit. Nobody sees an answer to a frame that we do not hold.
- If the process dies before the commit, neither the frame nor the answer was kept or sent. The peer
  resends the frame on resuming, or has withdrawn it, which it may do at any time.
- No other event is early. A fill, a cancel, a Reject or a Logout takes effect without an answer. An
  application may act on it elsewhere, and must be able to prove it after a crash.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from psymm._core import Frame
from psymm.errors import AccountsDiffer, PSymmError
from psymm.messages import Message, NewOrderSingle, Quote, QuoteRequest, QuoteRequestReject, Reject
from psymm.rulebook import Account, Violation
from psymm.session.protocol.chain_facts import Note
from psymm.session.protocol.status import SessionStatus
from psymm.transcript.checkpoint import Point
from psymm.transcript.delegation import JournalledRevocation
from psymm.transcript.heads import Health
from psymm.transcript.record import RecordedFrame

# --- stores --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StoreFrame:
    """Append a frame of either lane."""

    entry: RecordedFrame


@dataclass(frozen=True, slots=True)
class ImportFrame:
    """Append a frame of either lane that our journal had lost, as the peer showed it."""

    entry: RecordedFrame


@dataclass(frozen=True, slots=True)
class StoreHealth:
    """The journal is complete again, or turned out to be no better than a backup."""

    health: Health


@dataclass(frozen=True, slots=True)
class StoreOpenings:
    """Openings of a lane's notes. Stored before the frames that accept these notes."""

    lane: int
    notes: tuple[Note, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class StoreFact:
    """A fact that our chain has confirmed, as JSON."""

    fact: str


@dataclass(frozen=True, slots=True)
class StoreCheckpoint:
    """A checkpoint in force, with its account."""

    point: Point
    account: Account = field(repr=False)


@dataclass(frozen=True, slots=True)
class StoreRevocations:
    """All revoked session keys. Replaces those stored before."""

    revoked: tuple[JournalledRevocation, ...]


@dataclass(frozen=True, slots=True)
class RevokeFrames:
    """Remove the peer's last frames from the record, and keep them as evidence.

    Later frames may use the same numbers.
    """

    entries: tuple[RecordedFrame, ...]


@dataclass(frozen=True, slots=True)
class StoreEvidence:
    """Two frames of the peer with one number, or one that cannot follow the other."""

    first: Frame | int
    """Only its number if a checkpoint compacted the frame."""
    second: Frame


@dataclass(frozen=True, slots=True)
class StoreStatus:
    """The custody's status changed."""

    status: SessionStatus
    error: PSymmError | None
    """Why the session stopped; None if it did not."""


Store = (
    StoreFrame
    | ImportFrame
    | StoreHealth
    | StoreOpenings
    | StoreFact
    | StoreCheckpoint
    | StoreRevocations
    | RevokeFrames
    | StoreEvidence
    | StoreStatus
)

# --- sends ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SendText:
    text: str


@dataclass(frozen=True, slots=True)
class SendFrame:
    """A frame of the record: a new one of ours, or one of either lane again, byte for byte."""

    entry: RecordedFrame


@dataclass(frozen=True, slots=True)
class ResendCompacted:
    """Resend compacted frames `first` to `last` of a lane from the journal.

    Sends at most what one answer holds, and skips frames that were pruned.
    """

    lane: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Disconnect:
    """Close the connection, after everything sent before has gone out."""

    reason: PSymmError


# --- events --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StatusChanged:
    status: SessionStatus


@dataclass(frozen=True, slots=True)
class HealthChanged:
    """Our journal is complete again, or turned out to be no better than a backup."""

    health: Health


@dataclass(frozen=True, slots=True)
class FrameReceived:
    """A frame of the peer is on the record, durable."""

    entry: RecordedFrame
    violation: Violation | None = None
    """Set if the frame breaks a rule; then it changes nothing."""


@dataclass(frozen=True, slots=True)
class ProvisionalFrame:
    """The peer asks or offers something, and the frame is not durable yet.

    It is verified, in order and on the record. `FrameReceived` follows once it is durable. You may
    answer it, but must not act on it otherwise, because it can still be lost.
    """

    entry: RecordedFrame


@dataclass(frozen=True, slots=True)
class HeldBack:
    """A recorded frame of the peer is dated too far ahead of our clock (`spec.md` 66).

    It and all frames after it change nothing before its time. `FrameReceived` follows then, for
    each.
    """

    entry: RecordedFrame
    error: PSymmError


@dataclass(frozen=True, slots=True)
class CitationWaits:
    """A frame of the peer cites a fact that our view of the chain does not have yet.

    It and all frames after it change nothing until `SessionProtocol.chain_says`.
    """

    entry: RecordedFrame


@dataclass(frozen=True, slots=True)
class OwnClockBehind:
    """Our clock is behind our own last frame by more than the skew.

    We sign nothing until it has caught up.
    """

    error: PSymmError


@dataclass(frozen=True, slots=True)
class FrameSent:
    """A frame of ours is on the record, durable and on its way."""

    entry: RecordedFrame


@dataclass(frozen=True, slots=True)
class TextReceived:
    """A text of the peer for the application. It binds nobody."""

    message: Message


@dataclass(frozen=True, slots=True)
class VerifyCollateral:
    """The peer opened these notes, and the openings match their commitments.

    Check the chain, then call `collateral_verified` or `collateral_refused`.
    """

    notes: tuple[Note, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class FundCollateral:
    """The peer's collateral is good. Fund ours, then call `collateral_funded`."""


@dataclass(frozen=True, slots=True)
class PeerRestored:
    """The peer's journal is a backup: the peer signs no frames and covers none of ours.

    It can still settle by its wallet's signature.
    """


@dataclass(frozen=True, slots=True)
class Resumed:
    """Heads agree on this connection."""

    repeated: int
    """Frames that we sent again."""
    received: int
    """Frames that arrived before heads agreed."""


@dataclass(frozen=True, slots=True)
class HeadsDiffer:
    """The peer showed heads that contradict our record.

    That is no proof. We sign nothing on this connection, disconnect with `error` and try again. If
    the peer shows signed frames as proof, `Stopped` follows.
    """

    error: PSymmError


@dataclass(frozen=True, slots=True)
class PeerRejected:
    """The peer's Reject of a frame of ours."""

    reject: Reject
    rejected: RecordedFrame | None
    """Our frame; None if a checkpoint compacted it."""


@dataclass(frozen=True, slots=True)
class CheckpointInForce:
    """Both sides have signed this checkpoint. It is stored; frames before it may be pruned."""

    point: Point


@dataclass(frozen=True, slots=True)
class Disagreed:
    """The two sides' accounts after the same frames differ. Trading goes on."""

    field: str
    """The first field that differs."""
    ours: str
    theirs: str
    """Its value as the peer states it."""
    error: AccountsDiffer


@dataclass(frozen=True, slots=True)
class KeyRefused:
    """A frame of the peer's revoked session key. It is not recorded and binds nobody."""

    seq: int
    error: PSymmError


@dataclass(frozen=True, slots=True)
class FramesRevoked:
    """Frames of the peer left the record: its wallet revoked their key before we covered them.

    Their effects on the account are undone. The journal keeps them as evidence.
    """

    entries: tuple[RecordedFrame, ...]
    error: PSymmError


@dataclass(frozen=True, slots=True)
class KeyDue:
    """The due time of the next session key may have changed: read it again."""


@dataclass(frozen=True, slots=True)
class KeyChanged:
    """Our next session key is in force: its UKY is durable and on its way."""

    public_key: bytes


@dataclass(frozen=True, slots=True)
class OwnFrameImported:
    """A frame of our own lane that this process did not sign. It binds us.

    Our session key was compromised, and the peer covered the frame before it could know.
    """

    entry: RecordedFrame


@dataclass(frozen=True, slots=True)
class KeyFailing:
    """We could not get the next session key, and will try again.

    The key in force signs until `expiry` and `to_seq`. After that we sign nothing until the next
    one arrives.
    """

    error: PSymmError
    expiry: int
    """Nanoseconds."""
    to_seq: int
    """The last frame number that the key in force may sign."""


@dataclass(frozen=True, slots=True)
class Stopped:
    """This process signs nothing more in this custody."""

    error: PSymmError


@dataclass(frozen=True, slots=True)
class Delivered:
    """The custody has ended, and its solver has all of our frames. No reconnect is needed."""

    seq: int
    """Our last frame."""


@dataclass(frozen=True, slots=True)
class Idle:
    """There was no business for as long as the terms allow."""

    since_ns: int
    """The time of the last business, nanoseconds."""
    flat: bool
    """True: we now offer a settlement. False: something is open, so the custody stays as it is."""


@dataclass(frozen=True, slots=True)
class FundingStarted:
    """Trader only: all is checked, the custody is in the journal, and its collateral moves next."""

    custody: bytes
    amount: int
    """Token units."""


Event = (
    StatusChanged
    | HealthChanged
    | FundingStarted
    | ProvisionalFrame
    | FrameReceived
    | HeldBack
    | CitationWaits
    | OwnClockBehind
    | FrameSent
    | TextReceived
    | VerifyCollateral
    | FundCollateral
    | PeerRestored
    | Resumed
    | HeadsDiffer
    | PeerRejected
    | KeyRefused
    | FramesRevoked
    | OwnFrameImported
    | KeyDue
    | KeyChanged
    | KeyFailing
    | CheckpointInForce
    | Disagreed
    | Stopped
    | Delivered
    | Idle
)

Send = SendText | SendFrame | ResendCompacted
Effect = Store | Send | Event | Disconnect
Effects = list[Effect]

OFFERS: Final = (NewOrderSingle, Quote, QuoteRequest, QuoteRequestReject)
"""Messages that only ask or offer. Until we answer, the sender may withdraw one or let it lapse."""


def provisional(effects: Effects) -> list[ProvisionalFrame]:
    """The events that may be reported before the commit."""
    found: list[ProvisionalFrame] = []
    for effect in effects:
        if (
            type(effect) is FrameReceived
            and effect.violation is None
            and type(effect.entry.message) in OFFERS
        ):
            found.append(ProvisionalFrame(effect.entry))
    return found
