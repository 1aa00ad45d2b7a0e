"""What the session protocol wants done: one ordered list of effects.

The order is the durability contract. Whoever interprets a list

1. writes all of its `Store` effects to the journal, in order, in one commit: all or none;
2. then carries out the rest in order: sends, tells events, disconnects.

Lists of one session are carried out one after the other. So a frame is durable before it is sent
and before anybody acts on it, and an opening is durable together with the frame that rests on it.

One thing may be told before the commit: a `ProvisionalFrame`, that the peer asks or offers
something. It saves a wait for the disk in every answer, and it is safe:

- What is signed in answer is written after it, in the same commit or a later one, and sent after
  that commit. Nobody sees an answer to a frame that we do not hold.
- If the process dies before the commit, neither the frame nor the answer was kept or sent. The peer
  sends the frame again on resuming, or has withdrawn it, which it may do at any time.
- Nothing else is told early. A fill, a cancel, a Reject or a Logout takes effect by itself: an
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

# --- what is stored ------------------------------------------------------------------------------


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
    """Openings of a lane's notes. Frames that accept these notes follow."""

    lane: int
    notes: tuple[Note, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class StoreFact:
    """What the chain was seen to have done, as JSON."""

    fact: str


@dataclass(frozen=True, slots=True)
class StoreCheckpoint:
    """A checkpoint in force, with its account."""

    point: Point
    account: Account = field(repr=False)


@dataclass(frozen=True, slots=True)
class StoreRevocations:
    """All session keys that are revoked, in place of those stored before."""

    revoked: tuple[JournalledRevocation, ...]


@dataclass(frozen=True, slots=True)
class RevokeFrames:
    """Take the peer's last frames off the record, and keep them as evidence. Frames that follow
    may use the same numbers."""

    entries: tuple[RecordedFrame, ...]


@dataclass(frozen=True, slots=True)
class StoreEvidence:
    """Two frames of the peer with one number, or one that cannot follow the other.

    first: its number instead, where a checkpoint compacted it.
    """

    first: Frame | int
    second: Frame


@dataclass(frozen=True, slots=True)
class StoreStatus:
    """The custody's status changed. error: why, where it stopped."""

    status: SessionStatus
    error: PSymmError | None


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

# --- what is sent --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SendText:
    text: str


@dataclass(frozen=True, slots=True)
class SendFrame:
    """A frame of the record: a new one of ours, or one of either lane again, byte for byte."""

    entry: RecordedFrame


@dataclass(frozen=True, slots=True)
class ResendCompacted:
    """Send again what a checkpoint compacted: frames `first` to `last` of a lane, out of the
    journal, as many as one answer holds. Those that were pruned are skipped."""

    lane: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Disconnect:
    """End the connection, once what was sent before is out."""

    reason: PSymmError


# --- what is told: events ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StatusChanged:
    status: SessionStatus


@dataclass(frozen=True, slots=True)
class HealthChanged:
    """Our journal is complete again, or turned out to be no better than a backup."""

    health: Health


@dataclass(frozen=True, slots=True)
class FrameReceived:
    """A frame of the peer is on the record, durable. violation: set where it changes nothing."""

    entry: RecordedFrame
    violation: Violation | None = None


@dataclass(frozen=True, slots=True)
class ProvisionalFrame:
    """The peer asks or offers something: the frame is verified, in order and on the record, and on
    its way to the disk. `FrameReceived` follows once it is durable. Answer it if you like; do
    nothing else upon it, since it can still be lost."""

    entry: RecordedFrame


@dataclass(frozen=True, slots=True)
class HeldBack:
    """A frame of the peer is on the record and dated too far ahead: it and all after it change
    nothing before its time. `FrameReceived` follows then, for each."""

    entry: RecordedFrame
    error: PSymmError


@dataclass(frozen=True, slots=True)
class CitationWaits:
    """A frame of the peer cites of the chain what our own view of it does not have yet. It and all
    after it change nothing until `SessionProtocol.chain_says`."""

    entry: RecordedFrame


@dataclass(frozen=True, slots=True)
class OwnClockBehind:
    """Our clock is behind our own lane's last frame by more than the skew: nothing is signed until
    it has caught up."""

    error: PSymmError


@dataclass(frozen=True, slots=True)
class FrameSent:
    """A frame of ours is on the record, durable and on its way."""

    entry: RecordedFrame


@dataclass(frozen=True, slots=True)
class TextReceived:
    """A text of the peer that the application may care about. It binds nobody."""

    message: Message


@dataclass(frozen=True, slots=True)
class VerifyCollateral:
    """The peer opened these notes; their openings give their commitments. Check the chain, then
    call `collateral_verified` or `collateral_refused`."""

    notes: tuple[Note, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class FundCollateral:
    """The peer's collateral is good. Fund ours, then call `collateral_funded`."""


@dataclass(frozen=True, slots=True)
class PeerRestored:
    """The peer's journal is a backup: it signs no more frames, and covers none of ours. It can
    settle by its wallet's signature."""


@dataclass(frozen=True, slots=True)
class Resumed:
    """Heads agree on this connection.

    repeated: our frames that were sent again.
    received: frames of the peer that came.
    """

    repeated: int
    received: int


@dataclass(frozen=True, slots=True)
class HeadsDiffer:
    """The peer showed heads that contradict our record. That is no proof: nothing is signed on this
    connection, which ends with `error` and is tried again. Where the peer shows signed frames that
    prove it, `Stopped` follows."""

    error: PSymmError


@dataclass(frozen=True, slots=True)
class PeerRejected:
    """The peer's Reject of a frame of ours."""

    reject: Reject
    rejected: RecordedFrame | None


@dataclass(frozen=True, slots=True)
class CheckpointInForce:
    """Both sides have signed this checkpoint. It is stored, and frames before it may go."""

    point: Point


@dataclass(frozen=True, slots=True)
class Disagreed:
    """After the same frames the two sides' accounts differ, first in `field`. Trading goes on.
    `theirs` is what the peer says."""

    field: str
    ours: str
    theirs: str
    error: AccountsDiffer


@dataclass(frozen=True, slots=True)
class KeyRefused:
    """A frame that the peer's revoked session key signed: not on the record, and binds nobody."""

    seq: int
    error: PSymmError


@dataclass(frozen=True, slots=True)
class FramesRevoked:
    """Frames of the peer are off the record: its wallet revoked their key before we covered them.
    What they did to the account is undone; the journal keeps them as evidence."""

    entries: tuple[RecordedFrame, ...]
    error: PSymmError


@dataclass(frozen=True, slots=True)
class KeyDue:
    """When the next session key is due may have changed: look again."""


@dataclass(frozen=True, slots=True)
class KeyChanged:
    """Our next session key is in force: its UKY is durable and on its way."""

    public_key: bytes


@dataclass(frozen=True, slots=True)
class OwnFrameImported:
    """A frame of our own lane that this process did not sign: our session key was compromised, and
    the peer covered the frame before it could know. It binds us."""

    entry: RecordedFrame


@dataclass(frozen=True, slots=True)
class KeyFailing:
    """The next session key cannot be had, and is tried again. The one in force signs until
    `expiry` (nanoseconds) and frame `to_seq`; after that nothing is signed until one comes."""

    error: PSymmError
    expiry: int
    to_seq: int


@dataclass(frozen=True, slots=True)
class Stopped:
    """Nothing more is signed in this custody by this process."""

    error: PSymmError


@dataclass(frozen=True, slots=True)
class Delivered:
    """The custody has ended, and its solver is known to have all of our frames, the last being
    `seq`: there is nothing to come back for."""

    seq: int


@dataclass(frozen=True, slots=True)
class Idle:
    """No business since then, for as long as the terms allow.

    flat: a settlement is offered now; else something is open, and the custody stays as it is.
    """

    since_ns: int
    flat: bool


@dataclass(frozen=True, slots=True)
class FundingStarted:
    """The trader's: everything was checked, the custody is in the journal, and its collateral moves
    from here on. amount: token units."""

    custody: bytes
    amount: int


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
"""Messages by which the peer asks or offers and takes nothing: until it is answered, its sender
may withdraw it, or let it lapse."""


def provisional(effects: Effects) -> list[ProvisionalFrame]:
    """What may be told before it is durable."""
    found: list[ProvisionalFrame] = []
    for effect in effects:
        if (
            type(effect) is FrameReceived
            and effect.violation is None
            and type(effect.entry.message) in OFFERS
        ):
            found.append(ProvisionalFrame(effect.entry))
    return found
