"""Two sessions connected in memory: how to drive `psymm.session.protocol` yourself.

There is no event loop, socket, journal or clock here. Whoever drives a protocol with asyncio does
the same four things, with their own input and output:

1. Build each end with `begin_session`, from what the journal has.
2. Give it all that happens: `connected`, `receive_text`, `receive_binary`, `tick` once `next_tick`
   is due, `send` and the other commands, `disconnected`.
3. Carry out the effects that come back, in order (`ProtocolPair.perform`).
4. Answer what it asks for: `VerifyCollateral`, `FundCollateral`.

The same inputs give the same effects: challenges and keys are given, and nothing here is random.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

from session_scene import CHAIN_ID, PSYMM, START_NS, TOKEN, make_terms

from psymm._core import SecretKey, keccak256
from psymm.custody.notes import Note
from psymm.messages import Logon, Message, NoteRef, encode_text
from psymm.rulebook import Account
from psymm.session.protocol import (
    Disconnect,
    Effect,
    Effects,
    FundCollateral,
    ImportFrame,
    ResendCompacted,
    SendFrame,
    SendText,
    SessionProtocol,
    StoreFact,
    StoreFrame,
    StoreOpenings,
    VerifyCollateral,
    begin_session,
)
from psymm.session.protocol.chain_facts import Fact, custody_of
from psymm.session.protocol.effects import Store
from psymm.session.runtime.ledger import RulebookLedger
from psymm.session.runtime.party import params_of
from psymm.transcript.agreement import SOLVER, TRADER, CustodyAgreement
from psymm.transcript.delegation import Delegation
from psymm.transcript.record import Record, RecordedFrame
from psymm.transcript.resumption import challenge_for

E = TypeVar("E")

DAY_NS: Final = 86_400 * 10**9
AMOUNTS: Final = (2_000_000_000, 5_000_000_000)
"""What each side puts up, token units."""


def _key(number: int) -> SecretKey:
    return SecretKey.from_bytes(number.to_bytes(32, "big"))


WALLETS: Final = (_key(1), _key(2))
SESSION_KEYS: Final = (_key(3), _key(4))
TERMS: Final = make_terms()
AGREEMENT: Final = CustodyAgreement(
    CHAIN_ID,
    PSYMM,
    WALLETS[TRADER].public_key,
    WALLETS[SOLVER].public_key,
    TERMS.document,
    bytes(32),
)


def note_of(lane: int) -> Note:
    """The one note that a side puts up."""
    return Note(custody_of(AGREEMENT), TOKEN, AMOUNTS[lane], (lane + 5).to_bytes(32, "big"))


def logon_of(lane: int, now: int) -> Logon:
    """A side's Logon: its wallet delegates the session key. The trader's lists its note."""
    key, note = SESSION_KEYS[lane], note_of(lane)
    delegation = Delegation(lane, key.public_key, 1, 10**6, now + DAY_NS)
    return Logon(
        terms_hash=TERMS.hash,
        session_public_key=key.public_key,
        from_seq=delegation.from_seq,
        to_seq=delegation.to_seq,
        expiry=delegation.expiry,
        delegation_signature=WALLETS[lane].sign(delegation.message(AGREEMENT).digest()),
        heart_bt_int=5,
        notes=(NoteRef(commitment=note.commitment, nullifier=note.nullifier),)
        if lane == TRADER
        else (),
    )


def frames_in(stored: Iterable[Store]) -> list[RecordedFrame]:
    """The frames of both lanes that were stored, in order."""
    return [one.entry for one in stored if isinstance(one, StoreFrame | ImportFrame)]


def record_of(entries: Iterable[RecordedFrame]) -> Record:
    """A record read again from frames that were stored."""
    record = Record(AGREEMENT)
    for entry in entries:
        record.append(entry.frame)
    return record


def begin(lane: int, stored: Sequence[Store], now: int) -> SessionProtocol:
    """One end as its journal has it: new where nothing was stored."""
    record, rulebook = record_of(frames_in(stored)), RulebookLedger(AGREEMENT, TERMS)
    # The trader funds before its Logon; the solver once it is asked to.
    notes = {TRADER: [note_of(TRADER)] if lane == TRADER else [], SOLVER: []}
    for one in stored:
        match one:
            case StoreFact(fact):
                rulebook.learn_fact(Fact.from_json(fact))
            case StoreOpenings(whose, opened):
                notes[whose] = list(opened)
            case _:
                pass
    return begin_session(
        record,
        rulebook,
        lane,
        params_of(TERMS, lane),
        now=now,
        key=SESSION_KEYS[lane],
        logon=None if record.head(lane).seq else logon_of(lane, now),
        announced=AMOUNTS[1 - lane],
        notes=notes[lane],
        peer_notes=notes[1 - lane],
    )


@dataclass
class Side:
    """One end, and what became of its effects."""

    protocol: SessionProtocol
    stored: list[Store] = field(default_factory=list)
    """All that was stored, in order: its journal."""
    told: list[Effect] = field(default_factory=list)
    """Events, and why connections ended."""
    sent: deque[str | bytes] = field(default_factory=deque)
    """WebSocket messages on their way to the peer: texts, and binary ones of one frame each."""
    effects: Effects = field(default_factory=list)
    """All effects there were."""

    @property
    def lane(self) -> int:
        return self.protocol.lane

    @property
    def frames(self) -> list[RecordedFrame]:
        """What its journal holds of both lanes."""
        return frames_in(self.stored)

    @property
    def account(self) -> Account:
        rulebook = self.protocol.state.rulebook
        assert isinstance(rulebook, RulebookLedger)
        return rulebook.account

    def heard(self, kind: type[E]) -> list[E]:
        """The events of a kind that it was told."""
        return [one for one in self.told if isinstance(one, kind)]


class ProtocolPair:
    """A trader and a solver of one custody, connected by two queues."""

    def __init__(self) -> None:
        self.now = START_NS
        """The clock of both, nanoseconds."""
        self.trader, self.solver = (Side(begin(lane, [], self.now)) for lane in (TRADER, SOLVER))
        self._connections = 0

    @property
    def sides(self) -> tuple[Side, Side]:
        return self.trader, self.solver

    def other(self, side: Side) -> Side:
        return self.solver if side is self.trader else self.trader

    # --- effects ---------------------------------------------------------------------------------

    def perform(self, side: Side, effects: Effects) -> None:
        """Carry effects out. First all that is stored, in one commit; then the rest, in order."""
        side.effects += effects
        side.stored += [one for one in effects if isinstance(one, Store)]
        for effect in effects:
            match effect:
                case SendText(text):
                    side.sent.append(text)
                case SendFrame(entry):
                    side.sent.append(entry.frame.raw)
                case ResendCompacted(lane, first, last):
                    side.sent.extend(
                        entry.frame.raw
                        for entry in side.frames
                        if entry.frame.lane == lane and first <= entry.frame.seq <= last
                    )
                case _ if not isinstance(effect, Store):
                    side.told.append(effect)
        for effect in effects:
            self._answer(side, effect)

    def _answer(self, side: Side, effect: Effect) -> None:
        """What a runtime does meanwhile and reports when it is through; here at once."""
        match effect:
            case VerifyCollateral(notes):
                # A runtime asks its own chain whether it has these notes, unspent.
                self.perform(side, side.protocol.collateral_verified(notes, self.now))
            case FundCollateral():
                ours = [note_of(side.lane)]
                self.perform(side, side.protocol.collateral_funded(ours, self.now))
            case Disconnect():
                self.disconnect()
            case _:
                pass

    # --- the connection --------------------------------------------------------------------------

    def connect(self, *, fresh: bool = False) -> None:
        """A connection stands: each side tells its challenge, which proofs on it are signed over.

        fresh: the two have just met, so there is nothing to resume.
        """
        self._connections += 1
        for side in self.sides:
            challenge = keccak256(bytes([self._connections, side.lane]))
            side.sent.append(encode_text(challenge_for(AGREEMENT.custody, challenge)))
            effects = side.protocol.connected(self.now, fresh=fresh, challenge=challenge)
            self.perform(side, effects)

    def disconnect(self) -> None:
        """The connection is gone, with all that was on its way."""
        for side in self.sides:
            side.sent.clear()
            if side.protocol.state.connection is not None:
                self.perform(side, side.protocol.disconnected())

    def restart(self, side: Side) -> None:
        """A side's process dies, and comes again with what it stored."""
        self.disconnect()
        side.protocol = begin(side.lane, side.stored, self.now)

    def deliver(self) -> None:
        """Everything arrives that is on its way, and what is answered to it."""
        while self.trader.sent or self.solver.sent:
            for side in self.sides:
                if side.sent:
                    self.receive(self.other(side), side.sent.popleft())

    def receive(self, side: Side, message: str | bytes) -> None:
        """A WebSocket message arrives at a side."""
        protocol = side.protocol
        if isinstance(message, str):
            self.perform(side, protocol.receive_text(message, self.now))
        else:
            self.perform(side, protocol.receive_binary(message, self.now))

    # --- time ------------------------------------------------------------------------------------

    def pass_time(self, span_ns: int) -> None:
        """The clock moves on; each side is ticked when it wants to be, and everything arrives."""
        end = self.now + span_ns
        while self.now < end:
            self.now = min(end, *(side.protocol.next_tick(self.now) for side in self.sides))
            for side in self.sides:
                if side.protocol.state.connection is not None:
                    self.perform(side, side.protocol.tick(self.now))
            self.deliver()

    # --- commands --------------------------------------------------------------------------------

    def send(self, side: Side, message: Message) -> RecordedFrame:
        """A side's application signs a message. It is on its way then, see `deliver`."""
        entry, effects = side.protocol.send(message, self.now)
        self.perform(side, effects)
        return entry

    def trade(self) -> None:
        """The two meet, log on, and accept each other's collateral."""
        self.connect(fresh=True)
        self.deliver()
        self.pass_time(2 * 10**9)


__all__ = [
    "AGREEMENT",
    "AMOUNTS",
    "SESSION_KEYS",
    "TERMS",
    "WALLETS",
    "ProtocolPair",
    "Side",
    "note_of",
    "record_of",
]
