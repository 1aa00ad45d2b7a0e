"""How signers agree (`spec.md` 41): one root of a moment each, within the tolerance, or none."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psymm._core import SecretKey, domain_separator
from psymm.oracle.agreement import (
    PATIENCE,
    Agreement,
    AgreementEffect,
    Ballot,
    Countersignature,
    Proposal,
    RoundAgreed,
    RoundRefused,
    SignerConvicted,
    SignRound,
    Tolerance,
)
from psymm.oracle.rounds import OracleRound, RoundLeaf, SignedRound, SignerSet, round_digest

DOMAIN = domain_separator(31337, bytes(19) + b"\x01")
STEP = 10**9
START = 1_790_604_800 * STEP
ONE = 10**18
# In the order of their addresses, so that the first proposes at START.
KEYS = sorted(
    (SecretKey.from_bytes(bytes(31) + bytes([n + 1])) for n in range(5)),
    key=lambda key: key.address,
)
TOLERANCE = Tolerance(ONE // 100, 10**14)
EPOCH = START - 3600 * STEP


def reading(at: int, price: int = 100 * ONE, *, rate: int = 0, more: str = "") -> OracleRound:
    leaves = [RoundLeaf("BTC", price), RoundLeaf("BTC", rate, EPOCH)]
    return OracleRound.of(at, leaves + [RoundLeaf(feed, ONE) for feed in more])


def ballot_of(key: SecretKey, made: OracleRound, *, whole: bool) -> Ballot:
    signature = key.sign(round_digest(DOMAIN, made.root, made.timestamp))
    if whole:
        return Proposal(SignedRound(made, (signature,)))
    return Countersignature(made.timestamp, made.root, signature)


def signer(number: int, many: int = 3, threshold: int = 2, begins: int = START) -> Agreement:
    signers = SignerSet(tuple(key.address for key in KEYS[:many]), threshold)
    return Agreement(KEYS[number].address, DOMAIN, signers, TOLERANCE, STEP, begins)


def proposer(at: int, many: int = 3) -> int:
    return at // STEP % many


def first_of(many: int = 3) -> int:
    """A moment whose first proposer is signer 0."""
    return START + (-(START // STEP) % many) * STEP


AT = first_of()


def one(effects: list[AgreementEffect]) -> AgreementEffect:
    (found,) = effects
    return found


# --- the ordinary way -------------------------------------------------------------------------


def test_the_first_proposes_the_second_countersigns_and_the_round_is_agreed() -> None:
    first, second = signer(0), signer(1)
    first.begin(AT, reading(AT, 100 * ONE))
    second.begin(AT, reading(AT, 100 * ONE + 5))
    proposed = one(first.advance(AT))
    assert proposed == SignRound(reading(AT, 100 * ONE), proposed=True)
    proposal = ballot_of(KEYS[0], proposed.round, whole=True)
    assert first.signed(AT, proposal.root, proposal.signature) == []
    assert second.advance(AT) == []
    countersigned = one(second.receive(proposal, AT))
    assert countersigned == SignRound(proposed.round, proposed=False)
    answer = ballot_of(KEYS[1], proposed.round, whole=False)
    expected = RoundAgreed(SignedRound(proposed.round, (proposal.signature, answer.signature)))
    assert second.signed(AT, answer.root, answer.signature) == [expected]
    assert first.receive(answer, AT) == [expected]
    assert first.advance(AT + STEP // 2) == second.advance(AT + STEP // 2) == []


def test_proposers_take_turns() -> None:
    one_of = signer(0)
    orders = [one_of.proposers(AT + step * STEP) for step in range(3)]
    assert [order[0] for order in orders] == [key.address for key in KEYS[:3]]
    assert all(sorted(order) == [key.address for key in KEYS[:3]] for order in orders)


def test_if_the_first_is_silent_the_next_proposes_after_a_slot() -> None:
    second = signer(1)
    second.begin(AT, reading(AT))
    slot = second.next_due(AT) - AT
    assert second.advance(AT + slot - 1) == []
    assert one(second.advance(AT + slot)) == SignRound(reading(AT), proposed=True)
    assert second.advance(AT + 2 * slot) == []


def test_a_proposal_before_its_slot_waits_for_it() -> None:
    third = signer(2)
    third.begin(AT, reading(AT))
    early = ballot_of(KEYS[1], reading(AT, 101 * ONE), whole=True)
    assert third.receive(early, AT) == []
    assert third.receive(ballot_of(KEYS[0], reading(AT), whole=True), AT) == [
        SignRound(reading(AT), proposed=False)
    ]


def test_a_ballot_from_a_clock_that_is_a_little_ahead_is_kept() -> None:
    second = signer(1)
    proposal = ballot_of(KEYS[0], reading(AT), whole=True)
    assert second.receive(proposal, AT - STEP // 2) == []
    second.begin(AT, reading(AT))
    assert one(second.advance(AT)) == SignRound(reading(AT), proposed=False)


def test_next_due_is_the_next_slot_or_moment() -> None:
    mine = signer(0)
    for now in (AT, AT + 1, AT + STEP // 4, AT + STEP - 1):
        due = mine.next_due(now)
        assert now < due <= AT + STEP
        assert due % STEP % (STEP // 4) == 0


# --- what it does not sign --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("theirs", "why"),
    [
        (reading(AT, 101 * ONE + 1), "BTC"),
        (reading(AT, 99 * ONE - 1), "BTC"),
        (reading(AT, rate=10**14 + 1), "BTC"),
        (reading(AT, more="X"), "X"),
        (OracleRound.of(AT, [RoundLeaf("BTC", 100 * ONE)]), "lacks"),
        (OracleRound.of(AT, [RoundLeaf("BTC", 1, EPOCH), RoundLeaf("BTC", 1, EPOCH + 1)]), "BTC"),
    ],
    ids=["high", "low", "rate", "unknown-feed", "missing-feed", "other-epoch"],
)
def test_it_signs_no_round_that_differs_from_its_own(theirs: OracleRound, why: str) -> None:
    second = signer(1)
    second.begin(AT, reading(AT))
    refused = one(second.receive(ballot_of(KEYS[0], theirs, whole=True), AT))
    assert isinstance(refused, RoundRefused)
    assert refused.signer == KEYS[0].address
    assert why in refused.reason
    # It is said once, and then our own proposal takes its turn.
    assert second.advance(AT) == []
    slot = second.next_due(AT) - AT
    assert one(second.advance(AT + slot)) == SignRound(reading(AT), proposed=True)


@pytest.mark.parametrize("price", [101 * ONE, 99 * ONE])
def test_it_signs_at_the_tolerance(price: int) -> None:
    second = signer(1)
    second.begin(AT, reading(AT, rate=-(10**14)))
    assert isinstance(
        one(second.receive(ballot_of(KEYS[0], reading(AT, price), whole=True), AT)), SignRound
    )


def test_without_prices_of_its_own_it_signs_nothing() -> None:
    second = signer(1)
    second.begin(AT, None)
    assert second.receive(ballot_of(KEYS[0], reading(AT), whole=True), AT) == []
    assert second.advance(AT + STEP - 1) == []


def test_rule_41_it_signs_one_root_of_a_moment() -> None:
    third = signer(2)
    third.begin(AT, reading(AT))
    slot = third.next_due(AT) - AT
    assert isinstance(
        one(third.receive(ballot_of(KEYS[0], reading(AT), whole=True), AT)), SignRound
    )
    other = ballot_of(KEYS[1], reading(AT, 100 * ONE + 1), whole=True)
    assert third.receive(other, AT + slot) == []
    assert third.advance(AT + 3 * slot) == []


def test_moments_are_signed_in_rising_order_alone() -> None:
    third = signer(2)
    third.begin(AT + STEP, reading(AT + STEP))
    late = ballot_of(KEYS[1], reading(AT + STEP), whole=True)
    assert isinstance(one(third.receive(late, AT + STEP)), SignRound)
    third.begin(AT, reading(AT))
    assert third.receive(ballot_of(KEYS[0], reading(AT), whole=True), AT + STEP) == []


def test_it_signs_no_moment_from_before_its_start() -> None:
    """Its disk may be an older copy; its clock is not."""
    second = signer(1, begins=AT + 1)
    second.begin(AT, reading(AT))
    assert second.receive(ballot_of(KEYS[0], reading(AT), whole=True), AT + 2) == []
    second.begin(AT + STEP, reading(AT + STEP))
    assert isinstance(one(second.advance(AT + STEP)), SignRound)


def test_a_round_that_is_known_is_not_signed_again() -> None:
    first = signer(0)
    first.begin(AT, reading(AT))
    first.agreed(AT)
    assert first.advance(AT + STEP - 1) == []


@pytest.mark.parametrize("off", [-(PATIENCE + 1) * STEP, 2 * STEP, 1])
def test_ballots_of_another_time_or_off_the_grid_change_nothing(off: int) -> None:
    second = signer(1)
    made = OracleRound(AT + off, reading(AT).leaves)
    second.begin(AT, reading(AT))
    assert second.receive(ballot_of(KEYS[0], made, whole=True), AT) == []
    assert second._moments.keys() == {AT}


def test_strangers_and_our_own_echo_change_nothing() -> None:
    second = signer(1)
    second.begin(AT, reading(AT))
    for key in (KEYS[4], KEYS[1]):
        assert second.receive(ballot_of(key, reading(AT), whole=True), AT) == []
    junk = Proposal(SignedRound(reading(AT), (bytes(65),)))
    assert second.receive(junk, AT) == []


def test_moments_are_forgotten() -> None:
    second = signer(1)
    for step in range(20):
        at = AT + step * STEP
        second.begin(at, reading(at))
        second.receive(ballot_of(KEYS[0], reading(at), whole=True), at)
        second.advance(at)
    assert len(second._moments) <= PATIENCE + 2


# --- equivocation -----------------------------------------------------------------------------


@pytest.mark.parametrize("whole", [True, False])
def test_two_roots_of_one_signer_convict_it(whole: bool) -> None:
    third = signer(2)
    third.begin(AT, reading(AT))
    a, b = (ballot_of(KEYS[1], reading(AT, 100 * ONE + n), whole=whole) for n in range(2))
    assert third.receive(a, AT) == []
    assert one(third.receive(b, AT)) == SignerConvicted(
        KEYS[1].address, AT, (a.root, b.root), (a.signature, b.signature)
    )
    # From then on it counts for nothing.
    later = AT + STEP
    third.begin(later, reading(later))
    assert third.receive(ballot_of(KEYS[1], reading(later), whole=True), later) == []


def test_a_convicted_signer_completes_no_round() -> None:
    first = signer(0)
    first.begin(AT, reading(AT))
    mine = one(first.advance(AT))
    first.receive(ballot_of(KEYS[1], reading(AT, 1 * ONE), whole=False), AT)
    first.receive(ballot_of(KEYS[1], mine.round, whole=False), AT)
    signature = KEYS[0].sign(round_digest(DOMAIN, mine.round.root, AT))
    assert first.signed(AT, mine.round.root, signature) == []


# --- any network, any liars -------------------------------------------------------------------


@dataclass
class Party:
    """An honest signer in a simulated network, whose votes are its disk."""

    number: int
    many: int
    threshold: int
    price: int
    agreement: Agreement
    votes: dict[int, bytes] = field(default_factory=dict)
    agreed: dict[int, bytes] = field(default_factory=dict)
    readings: dict[int, OracleRound] = field(default_factory=dict)

    def perform(self, effects: list[AgreementEffect]) -> list[Ballot]:
        sent: list[Ballot] = []
        for effect in effects:
            if isinstance(effect, SignRound):
                at, root = effect.round.timestamp, effect.round.root
                assert at > max(self.votes, default=0), "one root, in rising order"
                assert TOLERANCE.refuses(self.readings[at], effect.round) is None
                self.votes[at] = root
                made = ballot_of(KEYS[self.number], effect.round, whole=effect.proposed)
                sent.append(made)
                sent += self.perform(self.agreement.signed(at, root, made.signature))
            elif isinstance(effect, RoundAgreed):
                assert self.agreed.setdefault(effect.signed.timestamp, effect.signed.root) == (
                    effect.signed.root
                )
                signers = SignerSet(tuple(key.address for key in KEYS[: self.many]), self.threshold)
                effect.signed.check(DOMAIN, signers)
        return sent


def simulate(
    dice: random.Random, many: int, threshold: int, liars: int, lost: float, steps: int
) -> list[Party]:
    """Honest signers and liars, over a network that delays, reorders and loses ballots. Honest
    ones restart now and then."""

    def made(number: int, begins: int) -> Agreement:
        return signer(number, many, threshold, begins)

    honest = [
        Party(n, many, threshold, 100 * ONE + dice.randrange(ONE // 3), made(n, START))
        for n in range(many - liars)
    ]
    flying: list[tuple[int, int, Ballot]] = []
    now = START
    for tick in range(steps * 8):
        now = START + tick * (STEP // 8)
        for party in honest:
            if dice.random() < 0.01:
                begins = max([now, *(at + 1 for at in party.votes)])
                party.agreement = made(party.number, begins)
            at = now // STEP * STEP
            if at not in party.readings:
                party.readings[at] = reading(at, party.price)
            party.agreement.begin(at, party.readings[at])
            flying += spread(dice, party.perform(party.agreement.advance(now)), honest, now, lost)
        for number in range(many - liars, many):
            # A liar proposes something to some, something else to others, and signs everything.
            for party in honest:
                at = (now // STEP - dice.randrange(2)) * STEP
                told = reading(at, 100 * ONE + dice.randrange(3) * ONE // 4)
                whole = ballot_of(KEYS[number], told, whole=dice.random() < 0.7)
                if dice.random() < 0.3:
                    flying.append((now, party.number, whole))
        for entry in [entry for entry in flying if entry[0] <= now]:
            flying.remove(entry)
            _, to, ballot = entry
            party = honest[to]
            effects = party.agreement.receive(ballot, now)
            flying += spread(dice, party.perform(effects), honest, now, lost)
    return honest


def spread(
    dice: random.Random, ballots: list[Ballot], honest: list[Party], now: int, lost: float
) -> list[tuple[int, int, Ballot]]:
    return [
        (now + dice.randrange(STEP) * (dice.random() < 0.2), party.number, ballot)
        for ballot in ballots
        for party in honest
        if dice.random() >= lost
    ]


@settings(max_examples=30)
@given(st.randoms(use_true_random=False), st.sampled_from([(1, 1), (2, 2), (3, 2), (4, 3), (5, 3)]))
def test_rule_41_honest_signers_never_agree_on_two_roots(
    dice: random.Random, shape: tuple[int, int]
) -> None:
    many, threshold = shape
    # Two roots of a moment need 2m − n signers who sign both; here there is one fewer.
    liars = min(2 * threshold - many - 1, many - 1)
    honest = simulate(dice, many, threshold, liars, lost=0.2, steps=6)
    roots: dict[int, bytes] = {}
    for party in honest:
        for at, root in party.agreed.items():
            assert roots.setdefault(at, root) == root


@settings(max_examples=30)
@given(st.randoms(use_true_random=False))
def test_one_liar_of_three_makes_no_honest_signer_sign_twice(dice: random.Random) -> None:
    """Two of three cannot bar two roots if one signs both; still no honest one signs twice, nor
    any value beyond its tolerance (asserted in `Party`)."""
    simulate(dice, 3, 2, liars=1, lost=0.1, steps=6)


@pytest.mark.parametrize("many", range(1, 6))
def test_without_faults_every_moment_is_agreed(many: int) -> None:
    threshold = many // 2 + 1
    honest = [
        Party(n, many, threshold, 100 * ONE + n, signer(n, many, threshold)) for n in range(many)
    ]
    for step in range(4):
        at = START + step * STEP
        waiting: list[Ballot] = []
        for party in honest:
            party.readings[at] = reading(at, party.price)
            party.agreement.begin(at, party.readings[at])
            waiting += party.perform(party.agreement.advance(at))
        while waiting:
            ballot = waiting.pop(0)
            for party in honest:
                waiting += party.perform(party.agreement.receive(ballot, at))
    assert all(len(party.agreed) == 4 for party in honest)
