"""How signers come to sign one root for each moment. Pure: calls go in, effects come out.

Each moment of the grid has an order of proposers, which rotates. The first proposes its own reading
at once; if that brings no agreement, the next does after a slot, and so on. A signer that has
signed nothing for the moment compares a proposal with its own reading. If it has the same feeds and
all values are within the tolerance, it countersigns. With a threshold of signatures the round is
agreed.

A signer keeps these promises even if its peers lie:

- It signs one root for a moment at most, and moments only in rising order. `SignRound` says what to
  sign; the caller makes that durable, then signs and sends. A restart knows the last moment.
- It signs no moment from before its start. So a signer whose disk was lost or put back to an older
  state signs no second root either.
- It signs no value that differs from its own by more than the tolerance, no feed that it cannot
  price itself, and no round that lacks a feed that it can price: an absence has legal force
  (`spec.md` 47).

A proposal is held until its proposer's slot has begun. Otherwise the fastest signer would always
be the proposer. A peer that signs two roots of one moment is convicted by its two signatures. It
counts for nothing from then on.

With m of n, two roots of one moment need 2m − n signers who sign both (`spec.md` 41).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from psymm._core import SignatureError, address_of, recover
from psymm.oracle.rounds import OracleRound, SignedRound, SignerSet, round_digest

PROPOSERS: Final = 4
"""How many signers may propose for one moment, one after another."""
PATIENCE: Final = 3
"""How many steps of the grid after its moment a round can still be agreed."""
_ONE: Final = 10**18


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far another signer's values may be from ours. 18 decimals.

    Attributes:
        price: a share of our price.
        rate: the difference between two funding rates.
    """

    price: int
    rate: int

    def refuses(self, own: OracleRound, theirs: OracleRound) -> str | None:
        """Why we do not sign their round, for the log; None if we do."""
        ours = {leaf.key: leaf for leaf in own.leaves}
        for leaf in theirs.leaves:
            known = ours.pop(leaf.key, None)
            if known is None:
                return f"we have no value for {leaf.feed}"
            # Both sides are multiplied out: a division would round the edge of the tolerance.
            off = abs(leaf.value - known.value)
            if off > self.rate if leaf.epoch else off * _ONE > known.value * self.price:
                return f"its value of {leaf.feed} is too far from ours"
        return next((f"it lacks {feed}" for feed, _ in ours), None)


@dataclass(frozen=True, slots=True)
class Countersignature:
    """One signer's signature of a root. signature: 65 bytes."""

    timestamp: int
    root: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class Proposal:
    """A whole round with the signature of its proposer, and no other."""

    signed: SignedRound

    @property
    def timestamp(self) -> int:
        return self.signed.timestamp

    @property
    def root(self) -> bytes:
        return self.signed.root

    @property
    def signature(self) -> bytes:
        return self.signed.signatures[0]


Ballot: TypeAlias = Proposal | Countersignature
"""What signers send each other."""


@dataclass(frozen=True, slots=True)
class SignRound:
    """Make durable that we sign this root, then sign it, send it, and call `Agreement.signed`.

    Attributes:
        proposed: it is our own reading, to be sent as a Proposal.
    """

    round: OracleRound
    proposed: bool


@dataclass(frozen=True, slots=True)
class RoundAgreed:
    """A threshold of signers signed this round."""

    signed: SignedRound


@dataclass(frozen=True, slots=True)
class RoundRefused:
    """We do not sign a peer's proposal."""

    signer: str
    timestamp: int
    reason: str


@dataclass(frozen=True, slots=True)
class SignerConvicted:
    """A signer signed two roots of one moment; both signatures prove it.

    Attributes:
        roots: two, 32 bytes each.
        signatures: of each root, 65 bytes.
    """

    signer: str
    timestamp: int
    roots: tuple[bytes, bytes]
    signatures: tuple[bytes, bytes]


AgreementEffect: TypeAlias = SignRound | RoundAgreed | RoundRefused | SignerConvicted


@dataclass(slots=True)
class _Moment:
    """What is known of one moment.

    Attributes:
        reading: our own values; None if we have none.
        rounds: proposed rounds by root, our own among them.
        proposers: the root that each signer proposed.
        signatures: the one root that each signer signed, and its signature.
        vote: the root that we sign.
        judged: signers whose proposal we have compared with our reading.
        agreed: the round is known, or cannot be agreed any more.
    """

    reading: OracleRound | None = None
    rounds: dict[bytes, OracleRound] = field(default_factory=dict)
    proposers: dict[str, bytes] = field(default_factory=dict)
    signatures: dict[str, tuple[bytes, bytes]] = field(default_factory=dict)
    vote: bytes | None = None
    judged: set[str] = field(default_factory=set)
    agreed: bool = False


class Agreement:
    """One signer's part in the agreement.

    Args:
        own: our address, one of the signers.
        domain: the deployment's domain separator, 32 bytes.
        grid_ns: the step of the grid.
        begins_ns: we sign no moment before it: the later of our start and just after the last
            moment that we have signed.
        convicted: signers known to have signed two roots of one moment.
    """

    def __init__(
        self,
        own: str,
        domain: bytes,
        signers: SignerSet,
        tolerance: Tolerance,
        grid_ns: int,
        begins_ns: int,
        convicted: Collection[str] = (),
    ) -> None:
        self._own = own
        self._domain = domain
        self._signers = signers
        self._order = sorted(signers.addresses)
        self._tolerance = tolerance
        self._grid_ns = grid_ns
        # One slot more than proposers: the last proposal has time for its signatures in the step.
        self._slot_ns = grid_ns // (min(len(self._order), PROPOSERS) + 1)
        self._begins_ns = begins_ns
        self._convicted = set(convicted)
        self._moments: dict[int, _Moment] = {}

    def proposers(self, timestamp: int) -> list[str]:
        """Who may propose for a moment, in order."""
        first = timestamp // self._grid_ns % len(self._order)
        return (self._order[first:] + self._order[:first])[:PROPOSERS]

    def begin(self, timestamp: int, reading: OracleRound | None) -> None:
        """A moment of the grid has come. reading: our own values; None if we have none."""
        moment = self._moments.setdefault(timestamp, _Moment())
        if moment.reading is None:
            moment.reading = reading

    def receive(self, ballot: Ballot, now_ns: int) -> list[AgreementEffect]:
        """A peer's ballot. One that is not a peer's, or of another time, changes nothing."""
        at, root, signature = ballot.timestamp, ballot.root, ballot.signature
        # Before the signature is recovered, which is the costly part: old ballots are free to send.
        if at % self._grid_ns or not self._is_open(at, now_ns):
            return []
        try:
            signer = address_of(recover(round_digest(self._domain, root, at), signature))
        except SignatureError:
            return []
        if signer == self._own or signer not in self._order or signer in self._convicted:
            return []
        moment = self._moments.setdefault(at, _Moment())
        # Kept also once the round is agreed: a second root still proves the fault.
        known, earlier = moment.signatures.setdefault(signer, (root, signature))
        if known != root:
            self._convicted.add(signer)
            # In every moment that is still open: a cheat's signature completes no round.
            for one in self._moments.values():
                one.signatures.pop(signer, None)
                one.proposers.pop(signer, None)
            return [SignerConvicted(signer, at, (known, root), (earlier, signature))]
        if isinstance(ballot, Proposal):
            moment.rounds[root] = ballot.signed.round
            moment.proposers[signer] = root
        return self.advance(now_ns)

    def agreed(self, timestamp: int) -> None:
        """The round of this moment is known from elsewhere; nothing more is signed for it."""
        self._moments.setdefault(timestamp, _Moment()).agreed = True

    def signed(self, timestamp: int, root: bytes, signature: bytes) -> list[AgreementEffect]:
        """Our signature, after it was durable."""
        moment = self._moments.get(timestamp)
        if moment is None or moment.vote != root:
            return []
        moment.signatures[self._own] = root, signature
        return list(self._count(timestamp, moment))

    def advance(self, now_ns: int) -> list[AgreementEffect]:
        """Take every step that is due by now."""
        effects: list[AgreementEffect] = []
        for at in sorted(self._moments):
            if at < now_ns - PATIENCE * self._grid_ns:
                del self._moments[at]
                continue
            moment = self._moments[at]
            # Counted before we vote: for a moment that is agreed already we need not sign.
            effects += self._count(at, moment)
            if not moment.agreed and at >= self._begins_ns:
                effects += self._vote(at, moment, now_ns)
        return effects

    def next_due(self, now_ns: int) -> int:
        """When `advance` may have something to do that no call brings: the start of a slot, or the
        next moment of the grid."""
        into = now_ns % self._grid_ns
        slot = (into // self._slot_ns + 1) * self._slot_ns
        return now_ns - into + min(slot, self._grid_ns)

    def _is_open(self, at: int, now_ns: int) -> bool:
        # A peer's clock may be ahead of ours by a step; its ballot is kept until we are there.
        return now_ns - PATIENCE * self._grid_ns <= at <= now_ns + self._grid_ns

    def _vote(self, at: int, moment: _Moment, now_ns: int) -> list[AgreementEffect]:
        effects: list[AgreementEffect] = []
        for place, signer in enumerate(self.proposers(at)):
            if moment.reading is None or now_ns < at + place * self._slot_ns:
                break
            root = moment.proposers.get(signer)
            if signer == self._own:
                effects.append(self._sign(at, moment, moment.reading, proposed=True))
                break
            if root is None or signer in moment.judged:
                continue
            # Judged once. Our reading of a moment never changes, so the answer would be the same.
            moment.judged.add(signer)
            reason = self._tolerance.refuses(moment.reading, moment.rounds[root])
            if reason is None:
                effects.append(self._sign(at, moment, moment.rounds[root], proposed=False))
                break
            effects.append(RoundRefused(signer, at, reason))
        return effects

    def _sign(
        self, at: int, moment: _Moment, chosen: OracleRound, *, proposed: bool
    ) -> AgreementEffect:
        moment.vote = chosen.root
        moment.rounds[chosen.root] = chosen
        # Moments are signed in rising order, so that one number says what may still be signed.
        self._begins_ns = at + 1
        return SignRound(chosen, proposed)

    def _count(self, at: int, moment: _Moment) -> list[AgreementEffect]:
        if moment.agreed:
            return []
        for root, agreed in moment.rounds.items():
            signatures = [
                moment.signatures[signer][1]
                for signer in self._order
                if moment.signatures.get(signer, (None,))[0] == root
            ]
            if len(signatures) >= self._signers.threshold:
                moment.agreed = True
                return [RoundAgreed(SignedRound(agreed, tuple(signatures)))]
        return []
