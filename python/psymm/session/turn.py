"""What a session's engine wants done after an input: a turn, and the events in it.

The order is the contract: whoever drives an engine makes `fetched` durable first (frames of either
lane that the journal had lost), then `standing`, then `opened` and `facts`, then `entries`, in
their order, and keeps `checkpoints`; then sends `repeats` and `sends` in theirs; then hands out
`events`. If `hang_up` is set, it closes the connection last, with that reason. `opened` and `facts`
come first because `entries` rest on them: an accepted note cannot be settled without its opening,
and the peer does not show that again. What is `aside` is taken off the disk before `entries` go on
it: these may use the same numbers. Turns keep their order among each other in all of this.

One thing may be heard earlier: that the peer asks or offers something, `Offered`. It saves a wait
for the disk in every answer, and nothing rests on it that a crash could take away:

- What is signed upon it comes behind it in the journal, in the same commit or a later one, and is
  sent after that. So nobody is ever shown an answer to a frame that we do not hold.
- If the process dies before the commit, neither the frame nor an answer was kept or sent. The peer
  shows the frame again on resuming, and it is offered again. If it never does, it has withdrawn
  what it offered, which it may do at any time: a quote until it is hit, a request until it is
  answered, an order until it is filled.
- It is told of nothing else. A fill, a cancel, a Reject, a Logout, anything that takes effect by
  itself, is heard as `Received` and never before it is durable: an application may act on it
  elsewhere, and must not find after a crash that it cannot prove it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from psymm._core import Frame
from psymm.errors import AccountsDiffer, PSymmError
from psymm.messages import Message, NewOrderSingle, Quote, QuoteRequest, QuoteRequestReject, Reject
from psymm.rulebook import Account
from psymm.session.collateral import Note
from psymm.transcript.checkpoint import Point
from psymm.transcript.heads import Standing
from psymm.transcript.record import Entry
from psymm.transcript.rows import JournalledRevocation


class State(StrEnum):
    """Where a custody's session stands."""

    LOGON = "logon"
    VERIFYING = "verifying"
    TRADING = "trading"
    SETTLING = "settling"
    CLOSED = "closed"
    STOPPED = "stopped"


_OFFERS: Final = (NewOrderSingle, Quote, QuoteRequest, QuoteRequestReject)
"""Messages by which the peer asks or offers and takes nothing: until it is answered, its sender
may withdraw it, or let it lapse."""


@dataclass(frozen=True, slots=True)
class Violation:
    """A rule that a frame breaks. rule: its stable name."""

    lane: int
    rule: str
    detail: str
    seq: int | None = None


@dataclass(frozen=True, slots=True)
class StateChanged:
    state: State


@dataclass(frozen=True, slots=True)
class Received:
    """A frame of the peer is on the record, durable. violation: set where it changes nothing."""

    entry: Entry
    violation: Violation | None = None


@dataclass(frozen=True, slots=True)
class Offered:
    """The peer asks or offers something: the frame is verified, in order and on the record, and on
    its way to the disk. `Received` follows once it is durable. Answer it if you like; do nothing
    else upon it, since it can still be lost."""

    entry: Entry


@dataclass(frozen=True, slots=True)
class HeldBack:
    """A frame of the peer is on the record and dated too far ahead: it and all after it change
    nothing before its time. `Received` follows then, for each."""

    entry: Entry
    error: PSymmError


@dataclass(frozen=True, slots=True)
class CitationWaits:
    """A frame of the peer cites of the chain what our own view of it does not have yet. It and all
    after it change nothing until `Engine.chain_says`."""

    entry: Entry


@dataclass(frozen=True, slots=True)
class OwnClockBehind:
    """Our clock lies behind our own lane's last frame by more than the skew: nothing is signed
    until it has caught up."""

    error: PSymmError


@dataclass(frozen=True, slots=True)
class Signed:
    """A frame of ours is on the record, durable and on its way."""

    entry: Entry


@dataclass(frozen=True, slots=True)
class Said:
    """A text of the peer that the application may care about. It binds nobody."""

    message: Message


@dataclass(frozen=True, slots=True)
class VerifyCollateral:
    """The peer opened these notes; their openings give their commitments. Check the chain, then
    call `collateral_verified` or `collateral_refused`."""

    notes: tuple[Note, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class FundCollateral:
    """The peer's collateral stands; put up ours, then call `collateral_funded`."""


@dataclass(frozen=True, slots=True)
class PeerRestored:
    """The peer's journal is a backup: it signs no more frames, and covers none of ours. It can
    settle by its wallet's signature."""


@dataclass(frozen=True, slots=True)
class Resumed:
    """Heads agree on this connection. repeated: our frames sent again; received: theirs."""

    repeated: int
    received: int


@dataclass(frozen=True, slots=True)
class HeadsDiffer:
    """The peer showed heads that contradict our record. That is no proof: nothing is signed on this
    connection, which is left with `error` and tried again. Where the peer shows signed frames that
    prove it, `Stopped` follows."""

    error: PSymmError


@dataclass(frozen=True, slots=True)
class PeerRejected:
    """The peer's Reject of a frame of ours."""

    reject: Reject
    rejected: Entry | None


@dataclass(frozen=True, slots=True)
class CheckpointInForce:
    """Both sides have signed this checkpoint; it is kept, and frames before it may go."""

    point: Point


@dataclass(frozen=True, slots=True)
class Disagreed:
    """After the same frames the two sides' accounts differ, first in `field`. Trading goes on.
    What is `theirs` is the peer's word."""

    field: str
    ours: str
    theirs: str
    error: AccountsDiffer


@dataclass(frozen=True, slots=True)
class KeyRefused:
    """A frame that the peer's revoked session key signed: not on the record, no party's word."""

    seq: int
    error: PSymmError


@dataclass(frozen=True, slots=True)
class SetAside:
    """Frames of the peer are off the record: its wallet revoked their key before we covered them.
    What they did to the account is undone; the journal keeps them as evidence."""

    entries: tuple[Entry, ...]
    error: PSymmError


@dataclass(frozen=True, slots=True)
class KeyDue:
    """When the next session key is due may have changed: look again."""


@dataclass(frozen=True, slots=True)
class KeyChanged:
    """Our next session key is in force: its UKY is durable and on its way."""

    public_key: bytes


@dataclass(frozen=True, slots=True)
class Adopted:
    """A frame of our own lane that we did not sign: our session key was another's, and the peer
    covered the frame before it could know. It binds us."""

    entry: Entry


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
    """No business since then, for as long as the terms allow. flat: a settlement is offered now;
    else something is open, and the custody stays as it is."""

    since_ns: int
    flat: bool


@dataclass(frozen=True, slots=True)
class Repeat:
    """Frames of a lane that a checkpoint counts, `first` to `last`: the journal has them, unless
    they were pruned, and they are sent again as far as one answer goes."""

    lane: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Counted:
    """A frame of the peer's that a checkpoint counts, by its number: the journal has it, unless it
    was pruned."""

    seq: int


@dataclass(frozen=True, slots=True)
class Funding:
    """The trader's: everything was checked, the custody is in the journal, and its collateral moves
    from here on. amount: token units."""

    custody: bytes
    amount: int


Event = (
    StateChanged
    | Funding
    | Offered
    | Received
    | HeldBack
    | CitationWaits
    | OwnClockBehind
    | Signed
    | Said
    | VerifyCollateral
    | FundCollateral
    | PeerRestored
    | Resumed
    | HeadsDiffer
    | PeerRejected
    | KeyRefused
    | SetAside
    | Adopted
    | KeyDue
    | KeyChanged
    | KeyFailing
    | CheckpointInForce
    | Disagreed
    | Stopped
    | Delivered
    | Idle
)


@dataclass(slots=True)
class Turn:
    entries: list[Entry] = field(default_factory=list)
    repeats: list[Repeat] = field(default_factory=list)
    sends: list[str | Entry] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    opened: list[tuple[int, tuple[Note, ...]]] = field(default_factory=list)
    evidence: list[tuple[Frame | Counted, Frame]] = field(default_factory=list)
    facts: list[str] = field(default_factory=list)
    aside: list[Entry] = field(default_factory=list)
    revoked: tuple[JournalledRevocation, ...] | None = None
    fetched: list[Entry] = field(default_factory=list)
    standing: Standing | None = None
    checkpoints: list[tuple[Point, Account]] = field(default_factory=list)
    stop: PSymmError | None = None
    hang_up: PSymmError | None = None

    def offers(self) -> list[Offered]:
        """What may be heard before it is durable."""
        return [
            Offered(event.entry)
            for event in self.events
            if type(event) is Received
            and event.violation is None
            and type(event.entry.message) in _OFFERS
        ]

    @property
    def plain(self) -> bool:
        """Whether it holds nothing but frames, texts, and what is heard of them."""
        if self.aside or self.revoked is not None or self.fetched or self.standing is not None:
            return False
        if self.checkpoints or self.opened or self.evidence or self.facts or self.repeats:
            return False
        if self.stop or self.hang_up:
            return False
        return all(type(event) is not StateChanged for event in self.events)

    def __bool__(self) -> bool:
        return bool(
            self.entries
            or self.fetched
            or self.standing
            or self.repeats
            or self.sends
            or self.events
            or self.opened
            or self.evidence
            or self.facts
            or self.aside
            or self.revoked is not None
            or self.checkpoints
            or self.stop
            or self.hang_up
        )
