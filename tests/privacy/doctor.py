"""A run with a leak planted in it: the chain's own bytes, changed as a worse client would have.

Only what the parties themselves write is changed, and everywhere it stands, so that the observer
reads a doctored run exactly as it reads an honest one.

What an honest run shows by the luck of its timing (two strangers that cite one root, a deadline or
a margin that only two have) could be as strong as a leak.  So each leak first clears such traces of
its own kind away; that it joins every pair then follows from how it is planted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from hashlib import sha256

from likenesses import FIRST_WRITE_GAS
from observer import Observation, ObservedMove, sorted_out
from trading_floor import Pair, Party, Run

from psymm._core import FIELD_MODULUS, LeanIMT
from psymm.chain.calls import CtaCall, CtcCall
from psymm.custody.notes import Note, sole_custody

Edit = Callable[["Doctor"], None]

A_DAY = 86_400
"""Longer than any run, so that deadlines so far apart have no time to live in common either."""


class Doctor:
    """Edits transactions of a run by their place."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.seen = run.observation
        self.transactions = list(run.observation.transactions)
        self.times_s = {move.tx: move.call.deadline - move.life_s for move in run.observation.moves}

    def observation(self) -> Observation:
        times_s = [self.times_s.get(tx, 0) for tx in range(len(self.transactions))]
        return sorted_out(self.run.deployment, self.transactions, times_s, self.seen.terms)

    def swap(self, tx: int, words: Mapping[bytes, bytes]) -> None:
        """Replace byte strings in a transaction's calldata and logs."""

        def edited(data: bytes) -> bytes:
            for old, new in words.items():
                data = data.replace(old, new)
            return data

        one = self.transactions[tx]
        logs = tuple(
            replace(log, topics=tuple(edited(topic) for topic in log.topics), data=edited(log.data))
            for log in one.logs
        )
        self.transactions[tx] = replace(one, data=edited(one.data), logs=logs)

    def read_again(self) -> None:
        """Let later edits find what earlier ones wrote."""
        self.seen = self.observation()

    def change(self, tx: int, **values: object) -> None:
        self.transactions[tx] = replace(self.transactions[tx], **values)  # type: ignore[arg-type]

    def move(self, tx: int) -> ObservedMove:
        (found,) = [move for move in self.seen.moves if move.tx == tx]
        return found

    def memos(self, party: Party, tx: int) -> list[bytes]:
        """The memos of a transaction that this party made."""
        own = {note.commitment for note in party.notes}
        for deposit in self.seen.deposits:
            if deposit.tx == tx:
                return [deposit.memo]
        call = self.move(tx).call
        if isinstance(call, CtaCall):
            return [call.memo]
        return [
            memo
            for commitment, memo in zip(call.commitments, call.memos, strict=True)
            if commitment in own
        ]


def pad(text: str, length: int) -> bytes:
    """Bytes that look random and are the same for the same text."""
    made = b"".join(sha256(f"{text} {at}".encode()).digest() for at in range(length // 32 + 1))
    return made[:length]


def sides(run: Run) -> list[tuple[Pair, Party]]:
    return [(pair, one) for pair in run.pairs for one in (pair.trader, pair.solver)]


def txs_of(pair: Pair) -> set[int]:
    return {tx for one in (pair.trader, pair.solver) for _, tx in one.txs}


def deadlines_of(doctor: Doctor) -> list[tuple[int, int]]:
    """Each transaction that has a deadline, a permit's or a move's, with it."""
    permits = [(one.tx, one.permit_deadline) for one in doctor.seen.deposits]
    return [
        *((tx, deadline) for tx, deadline in permits if deadline is not None),
        *((move.tx, move.call.deadline) for move in doctor.seen.moves),
    ]


def set_deadline(doctor: Doctor, tx: int, old: int, new: int) -> None:
    words = old.to_bytes(32, "big"), new.to_bytes(32, "big")
    doctor.change(tx, data=doctor.transactions[tx].data.replace(*words))


# --- honest traces, cleared ---------------------------------------------------------------------


def clear_words(doctor: Doctor) -> None:
    """Each proof shares nothing with another, and what a transaction that failed repeats of the one
    that was mined in its stead is gone."""
    for move in doctor.seen.moves:
        proof = move.call.proof
        doctor.swap(move.tx, {proof: pad(f"proof of {move.tx}", len(proof))})
    for tx, one in enumerate(doctor.transactions):
        if not one.succeeded:
            doctor.change(tx, data=one.data[:4] + pad(f"failed {tx}", len(one.data) - 4))
    doctor.read_again()


def clear_deadlines(doctor: Doctor) -> None:
    """No two deadlines are the same, nor two times to live; all are on full five minutes."""
    first = 300 * (min(move.call.deadline for move in doctor.seen.moves) // 300)
    for tx, deadline in deadlines_of(doctor):
        set_deadline(doctor, tx, deadline, first + A_DAY * (1 + tx))
    doctor.read_again()


def clear_gas(doctor: Doctor) -> None:
    """Gas is what the calldata and the first writes to the tree explain."""
    last_leaf = {tx: place for place, tx in enumerate(doctor.seen.leaves)}
    for tx, one in enumerate(doctor.transactions):
        zeros = one.data.count(0)
        gas = 100_000 + 4 * zeros + 16 * (len(one.data) - zeros)
        if tx in last_leaf:
            size = last_leaf[tx] + 1
            gas += FIRST_WRITE_GAS * (3 if size == 1 else size.bit_count() == 1)
        doctor.change(tx, gas_used=gas)


def clear_tips(doctor: Doctor) -> None:
    """All transactions offer one tip, leave one margin of gas and carry no ether."""
    for tx, one in enumerate(doctor.transactions):
        doctor.change(tx, tip_wei=1_000_000_000, gas_limit=2 * one.gas_used, value_wei=0)


def clear_roots(doctor: Doctor) -> None:
    """Every move has a root of its own, which was never the tree's."""
    for move in doctor.seen.moves:
        doctor.swap(move.tx, {move.call.root: bytes(1) + pad(f"root of {move.tx}", 31)})
    doctor.read_again()


# --- leaks --------------------------------------------------------------------------------------


def tagged_memos(doctor: Doctor, length: int = 32) -> None:
    """Every memo begins with a tag of its maker, so that its owner finds it fast."""
    clear_words(doctor)
    for _, one in sides(doctor.run):
        for _, tx in one.txs:
            for memo in doctor.memos(one, tx):
                new = pad("tag" + one.address, length) + memo[length:]
                doctor.swap(tx, {memo: new})


def short_tags(doctor: Doctor) -> None:
    """The same with eight bytes."""
    tagged_memos(doctor, 8)


def reused_nonces(doctor: Doctor) -> None:
    """One keystream for all memos of a wallet: what differs is what their contents differ in."""
    for _, one in sides(doctor.run):
        stream = pad("stream" + one.address, 256)
        for at, (_, tx) in enumerate(one.txs):
            for memo in doctor.memos(one, tx):
                content = bytes(30) + at.to_bytes(8, "big") + pad(f"{tx}", 90) + bytes(128)
                doctor.swap(tx, {memo: bytes(a ^ b for a, b in zip(stream, content, strict=True))})


def small_blindings(doctor: Doctor) -> None:
    """Blindings are plain counters."""
    words: dict[bytes, bytes] = {}
    for _, one in sides(doctor.run):
        for at, note in enumerate(one.notes):
            weak = Note(note.custody, note.token, note.amount, at.to_bytes(32, "big"))
            for name in ("commitment", "nullifier", "inner"):
                words.setdefault(getattr(note, name), getattr(weak, name))
    for tx in range(len(doctor.transactions)):
        doctor.swap(tx, words)


def own_deadlines(doctor: Doctor) -> None:
    """Deadlines not on full five minutes but a pair's own seconds after them, permits' too."""
    clear_deadlines(doctor)
    late = {tx: 7 + at for at, pair in enumerate(doctor.run.pairs) for tx in txs_of(pair)}
    for tx, deadline in deadlines_of(doctor):
        if tx in late:
            set_deadline(doctor, tx, deadline, deadline + late[tx])


def odd_gas(doctor: Doctor) -> None:
    """What a pair does costs some gas that others' doings do not, but for withdrawals: these show
    what a place in the tree costs, whoever holds it."""
    clear_gas(doctor)
    withdrawn = {move.tx for move in doctor.seen.withdrawals}
    for at, pair in enumerate(doctor.run.pairs):
        for tx in txs_of(pair) - withdrawn:
            doctor.change(tx, gas_used=doctor.transactions[tx].gas_used + 3_000 * 2**at)


def own_tips(doctor: Doctor) -> None:
    """A pair's transactions all offer a tip of their own."""
    clear_tips(doctor)
    for at, pair in enumerate(doctor.run.pairs):
        for tx in txs_of(pair):
            doctor.change(tx, tip_wei=1_000_000_001 + at)


def own_accounts(doctor: Doctor) -> None:
    """Everybody sends its funding itself."""
    for _, one in sides(doctor.run):
        for purpose, tx in one.txs:
            if purpose == "fund":
                doctor.change(tx, sender=one.address)


def marked_proofs(doctor: Doctor) -> None:
    """Fundings are sent from own accounts, and proofs of one custody share a word."""
    clear_words(doctor)
    own_accounts(doctor)
    for at, pair in enumerate(doctor.run.pairs):
        for one in (pair.trader, pair.solver):
            for purpose, tx in one.txs:
                if purpose == "fund":
                    proof = doctor.move(tx).call.proof
                    new = proof[:640] + pad(f"proof {at}", 32) + proof[672:]
                    doctor.swap(tx, {proof: new})


def shared_roots(doctor: Doctor) -> None:
    """Both fundings of a pair are proved under one old root, that of the trader's deposit, and the
    solver sends its own itself.

    So the deposit and the solver's funding are 1/2 alike.  How old a root is depends on when its
    funding was mined, and strangers' roots may be of an age: 1/2 alike at most.  But between a
    trader and another's solver that comes after the 1/2 from the deposit to the trader's funding,
    which the relayer sends.
    """
    clear_roots(doctor)
    tree, roots = LeanIMT(), {}
    for deposit in doctor.seen.deposits:
        tree.insert(deposit.commitment)
        roots[deposit.who] = tree.root
    for pair in doctor.run.pairs:
        for one in (pair.trader, pair.solver):
            for purpose, tx in one.txs:
                if purpose == "fund":
                    doctor.swap(tx, {doctor.move(tx).call.root: roots[pair.trader.address]})
                    if one is pair.solver:
                        doctor.change(tx, sender=one.address)


def neighbouring_blindings(doctor: Doctor) -> None:
    """The inner hashes of a pair's deposits are one apart."""
    inners = {deposit.tx: deposit.inner for deposit in doctor.seen.deposits}
    for pair in doctor.run.pairs:
        ours, theirs = (
            next(tx for purpose, tx in one.txs if purpose == "deposit")
            for one in (pair.trader, pair.solver)
        )
        near = (int.from_bytes(inners[ours], "big") + 1) % FIELD_MODULUS
        doctor.swap(theirs, {inners[theirs]: near.to_bytes(32, "big")})


def named_parties(doctor: Doctor) -> None:
    """Settlements' memos hold the trader's address and the solver's sole custody in the clear."""
    for pair in doctor.run.pairs:
        (tx,) = {tx for purpose, tx in pair.trader.txs if purpose == "settle"}
        call = doctor.move(tx).call
        assert isinstance(call, CtcCall)
        first, second = call.memos
        names = bytes.fromhex(pair.trader.address[2:]), sole_custody(pair.solver.public_key).id
        doctor.swap(
            tx, {first: names[0] + first[20:], second: second[:50] + names[1] + second[82:]}
        )


def trailing_bytes(doctor: Doctor) -> None:
    """A pair's calldata is followed by so many zeros."""
    for at, pair in enumerate(doctor.run.pairs):
        for tx in txs_of(pair):
            doctor.change(tx, data=doctor.transactions[tx].data + bytes(32 * (at + 1)))


LEAKS: dict[str, tuple[Edit, ...]] = {
    "shared words": (tagged_memos, short_tags),
    "memos": (reused_nonces, tagged_memos),
    "weak secrets": (small_blindings,),
    "deadlines": (own_deadlines,),
    "gas used": (odd_gas,),
    "senders and relayers": (own_tips,),
    "proofs": (marked_proofs,),
    "root ages": (shared_roots,),
    "near elements": (neighbouring_blindings,),
    "identities": (named_parties,),
    "shapes": (trailing_bytes,),
}
"""For each strategy what it must see."""
