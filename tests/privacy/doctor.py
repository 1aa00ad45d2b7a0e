"""A run with a leak planted in it: the chain's own bytes, changed as a worse client would have.

Only what the parties themselves write is changed, and everywhere it stands, so that the observer
reads a doctored run exactly as it reads an honest one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from hashlib import sha256

from trading_floor import Pair, Party, Run

from psymm._core import FIELD_MODULUS, LeanIMT
from psymm.chain.calls import CtaCall, CtcCall
from psymm.custody.notes import Note, sole_custody
from psymm.observer import Move, Observation, sorted_out

Edit = Callable[["Doctor"], None]


class Doctor:
    """Edits transactions of a run by their place."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.seen = run.observation
        self.transactions = list(run.observation.transactions)

    def observation(self) -> Observation:
        times = [0] * len(self.transactions)
        for move in self.seen.moves:
            times[move.tx] = move.call.deadline - move.life_s
        return sorted_out(self.run.deployment, self.transactions, times, self.seen.terms)

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

    def change(self, tx: int, **values: object) -> None:
        self.transactions[tx] = replace(self.transactions[tx], **values)  # type: ignore[arg-type]

    def move(self, tx: int) -> Move:
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


# --- leaks --------------------------------------------------------------------------------------


def tagged_memos(doctor: Doctor, length: int = 32) -> None:
    """Every memo begins with a tag of its maker, so that its owner finds it fast."""
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
    for at, pair in enumerate(doctor.run.pairs):
        for one in (pair.trader, pair.solver):
            for _, tx in one.txs:
                for deposit in doctor.seen.deposits:
                    if deposit.tx == tx and deposit.permit_deadline is not None:
                        _later(doctor, tx, deposit.permit_deadline, 7 + at)
        for tx in {tx for one in (pair.trader, pair.solver) for _, tx in one.txs}:
            for move in doctor.seen.moves:
                if move.tx == tx:
                    _later(doctor, tx, move.call.deadline, 7 + at)


def _later(doctor: Doctor, tx: int, deadline: int, seconds: int) -> None:
    old, new = deadline.to_bytes(32, "big"), (deadline + seconds).to_bytes(32, "big")
    doctor.change(tx, data=doctor.transactions[tx].data.replace(old, new))


def odd_gas(doctor: Doctor) -> None:
    """What a pair does costs some gas that others' doings do not."""
    for at, pair in enumerate(doctor.run.pairs):
        for tx in {tx for one in (pair.trader, pair.solver) for _, tx in one.txs}:
            doctor.change(tx, gas_used=doctor.transactions[tx].gas_used + 3_000 * 2**at)


def own_tips(doctor: Doctor) -> None:
    """A pair's transactions all offer a tip of their own."""
    for at, pair in enumerate(doctor.run.pairs):
        for tx in {tx for one in (pair.trader, pair.solver) for _, tx in one.txs}:
            doctor.change(tx, tip_wei=1_000_000_001 + at)


def own_accounts(doctor: Doctor) -> None:
    """Everybody sends its funding itself."""
    for _, one in sides(doctor.run):
        for purpose, tx in one.txs:
            if purpose == "fund":
                doctor.change(tx, sender=one.address)


def marked_proofs(doctor: Doctor) -> None:
    """Fundings are sent from own accounts, and proofs of one custody share a word."""
    own_accounts(doctor)
    for at, pair in enumerate(doctor.run.pairs):
        for one in (pair.trader, pair.solver):
            for purpose, tx in one.txs:
                if purpose == "fund":
                    proof = doctor.move(tx).call.proof
                    new = proof[:640] + pad(f"proof {at}", 32) + proof[672:]
                    doctor.swap(tx, {proof: new})


def shared_roots(doctor: Doctor) -> None:
    """Fundings are sent from own accounts, and both of a pair are proved under one old root."""
    own_accounts(doctor)
    tree, roots = LeanIMT(), []
    for deposit in doctor.seen.deposits:
        tree.insert(deposit.commitment)
        roots.append(tree.root)
    for at, pair in enumerate(doctor.run.pairs):
        for one in (pair.trader, pair.solver):
            for purpose, tx in one.txs:
                if purpose == "fund":
                    doctor.swap(tx, {doctor.move(tx).call.root: roots[at]})


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
        for tx in {tx for one in (pair.trader, pair.solver) for _, tx in one.txs}:
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
