#!/usr/bin/env python
"""Makes the pool of real proofs that the contract tests draw on: build/pool.json.

    python contracts/pool/make_pool.py

The pool is one small world, the same on every machine: a few wallets, their custodies and notes in
three tokens, and moves of these notes, each proved by node/prover.mjs for the addresses at which
contracts/test/World.sol deploys. It has four parts:

    prefix   deposits and CTCs that every test runs first, in order; all other roots build on these
    loose    CTCs and CTAs of notes of the prefix, valid in any order, but for those that spend the
             same note: of these the first wins
    chain    moves that each spend what the one before made, valid in their order and only if
             nothing else comes between
    hostile  CTAs of notes in the token that turns hostile

pool.json holds the names of all moves for people, and everything for Solidity in one ABI blob:
(Entry[] prefix, Entry[] loose, Entry[] chain, Entry[] hostile, Note[] notes).

A proof takes seconds, so each is kept under build/proofs by the hash of its inputs and the
circuit's key; a second run proves nothing. Keys and blindings here are published test values.

This file is long because the pool is one world: each move spends notes that another one makes.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from eth_abi.abi import encode

from psymm._core import (
    FIELD_MODULUS,
    LeanIMT,
    SecretKey,
    domain_separator,
    keccak256,
    poseidon2_hash,
)

REPO: Final = Path(__file__).resolve().parents[2]
OUT: Final = REPO / "build" / "pool.json"
PROOFS: Final = REPO / "build" / "proofs"
CIRCUITS: Final = REPO / "python" / "psymm" / "artifacts" / "circuits"

CHAIN_ID: Final = 31337
START: Final = 1_800_000_000
"""Block time at which the tests start, in seconds."""
DEPLOYER: Final = bytes.fromhex("00000000000000000000000000000000000d0001")
MAX_DEPTH: Final = 32
ATC, CTC, CTA = 0, 1, 2

CTC_TYPE: Final = (
    b"CustodyToCustody(bytes32 nullifier0,bytes32 nullifier1,bytes32 commitment0,"
    b"bytes32 commitment1,address relayer,address feeToken,uint256 fee,bytes32 memos,"
    b"uint256 deadline)"
)
CTA_TYPE: Final = (
    b"CustodyToAddress(bytes32 nullifier0,bytes32 nullifier1,bytes32 change,address token,"
    b"uint256 amount,address recipient,address relayer,uint256 fee,bytes32 memos,"
    b"uint256 deadline)"
)
CALL_ABI: Final = {
    ATC: "(address,uint256,uint256,bytes)",
    CTC: "(uint256,uint256[2],uint256[2],address,address,uint256,uint256,bytes,bytes,bytes)",
    CTA: "(uint256,uint256[2],uint256,address,uint256,address,address,uint256,uint256,bytes,bytes)",
}
ENTRY_ABI: Final = "(uint8,string,bytes)[]"
NOTE_ABI: Final = "(uint256,uint256,address,uint256)[]"


def word(value: int) -> bytes:
    return value.to_bytes(32, "big")


def number(value: bytes) -> int:
    return int.from_bytes(value, "big")


def hashed(*inputs: int) -> int:
    return number(poseidon2_hash([word(one) for one in inputs]))


def test_bytes(label: str) -> bytes:
    return keccak256(f"pSymm test pool: {label}".encode())


def test_field(label: str) -> int:
    return number(test_bytes(label)) % FIELD_MODULUS


def test_address(label: str) -> bytes:
    return test_bytes(label)[12:]


def test_memo(label: str) -> bytes:
    return b"".join(test_bytes(f"memo {label} {i}") for i in range(8))


def created(sender: bytes, nonce: int) -> bytes:
    """Where CREATE puts a contract, for nonces from 1 to 127."""
    return keccak256(b"\xd6\x94" + sender + bytes([nonce]))[12:]


# In the order in which World.sol deploys.
PSYMM: Final = created(DEPLOYER, 2)
TOKENS: Final = {"A": created(DEPLOYER, 3), "B": created(DEPLOYER, 4), "H": created(DEPLOYER, 5)}
DOMAIN: Final = domain_separator(CHAIN_ID, PSYMM)


@dataclass(frozen=True)
class Custody:
    name: str
    trader: SecretKey
    solver: SecretKey
    terms: bytes
    salt: int

    @property
    def id(self) -> int:
        return hashed(_key(self.trader), _key(self.solver), *_halves(self.terms), self.salt)


def _halves(value: bytes) -> tuple[int, int]:
    return number(value[:16]), number(value[16:])


def _key(secret: SecretKey) -> int:
    public = secret.public_key
    return hashed(*_halves(public[:32]), *_halves(public[32:]))


@dataclass(frozen=True)
class Note:
    custody: Custody
    token: str
    amount: int
    blinding: int

    @property
    def inner(self) -> int:
        return hashed(self.custody.id, self.blinding)

    @property
    def commitment(self) -> int:
        return hashed(self.inner, number(TOKENS[self.token]), self.amount)

    @property
    def nullifier(self) -> int:
        return hashed(self.commitment, self.blinding, 1)


class Prover:
    """node/prover.mjs, started when the first proof is missing."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._keys = {name: (CIRCUITS / f"{name}.vk").read_bytes() for name in ("ctc", "cta")}
        self.made = 0
        self.kept = 0

    def prove(self, circuit: str, inputs: dict[str, Any]) -> bytes:
        text = json.dumps(inputs, sort_keys=True)
        name = hashlib.sha256(self._keys[circuit] + text.encode()).hexdigest()
        place = PROOFS / name
        if place.exists():
            self.kept += 1
            return place.read_bytes()
        answer = self._ask({"id": self.made, "circuit": circuit, "inputs": inputs})
        if "error" in answer:
            raise SystemExit(f"the prover refused a {circuit}: {answer['error']}")
        proof = bytes.fromhex(answer["proof"][2:])
        draft = place.with_suffix(f".{os.getpid()}")
        draft.write_bytes(proof)
        draft.replace(place)
        self.made += 1
        print(f"  proof {self.made} ({circuit}) in {answer['prove_ms']} ms", flush=True)
        return proof

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        if self._process is None:
            crs = os.environ.get("CRS_PATH", str(REPO / "build" / "crs" / "dev"))
            self._process = subprocess.Popen(
                ["node", str(REPO / "node" / "prover.mjs"), "--circuits", str(CIRCUITS)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "CRS_PATH": crs},
            )
            ready = self._read()
            if not ready.get("ready"):
                raise SystemExit(f"the prover did not start: {ready}")
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process is not None and self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("the prover ended")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.wait()


@dataclass(frozen=True)
class Entry:
    kind: int
    name: str
    call: tuple[Any, ...]

    def encoded(self) -> tuple[int, str, bytes]:
        return self.kind, self.name, encode([CALL_ABI[self.kind]], [self.call])


@dataclass
class World:
    """A tree and its moves. Moves are applied to the tree only where the caller says so."""

    prover: Prover
    leaves: list[int] = field(default_factory=list)
    notes: dict[int, Note] = field(default_factory=dict)
    made: int = 0

    def note(self, custody: Custody, token: str, amount: int, label: str = "") -> Note:
        self.made += 1
        note = Note(custody, token, amount, test_field(f"blinding {self.made} {label}"))
        self.notes[note.commitment] = note
        return note

    def deposit(self, note: Note) -> Entry:
        name = f"ATC {note.amount} {note.token} to {note.custody.name}"
        memo = test_memo(f"deposit {note.commitment}")
        entry = Entry(ATC, name, (_hex(TOKENS[note.token]), note.amount, note.inner, memo))
        self.leaves.append(note.commitment)
        return entry

    def ctc(
        self,
        name: str,
        spent: Sequence[Note],
        made: Sequence[Note],
        *,
        relayer: bytes | None = None,
        deadline: int = START + 30 * 86_400,
        size: int | None = None,
        apply: bool = False,
    ) -> Entry:
        """Spends one or two notes for two; what is missing in the sum is the relayer's fee.
        size: prove under the root that the tree had with so many leaves."""
        inputs = self._inputs(spent, size)
        first = inputs.spent[0]
        fee = sum(one.amount for one in inputs.spent) - sum(one.amount for one in made)
        fee_token = number(TOKENS[first.token]) if fee else 0
        assert (relayer is None) == (fee == 0)
        memos = [test_memo(f"{name} {i}") for i in range(2)]
        digest = self._digest(
            CTC_TYPE,
            *(one.nullifier for one in inputs.spent),
            *(one.commitment for one in made),
            number(relayer or b""),
            fee_token,
            fee,
            number(keccak256(memos[0] + memos[1])),
            deadline,
        )
        proof = self.prover.prove(
            "ctc",
            {
                **inputs.common(digest),
                "commitment0": hex(made[0].commitment),
                "commitment1": hex(made[1].commitment),
                "fee_token": hex(fee_token),
                "fee": hex(fee),
                "token": hex(number(TOKENS[first.token])),
                "out_inner": [hex(one.inner) for one in made],
                "out_amount": [hex(one.amount) for one in made],
            },
        )
        if apply:
            self.leaves.extend(one.commitment for one in made)
        call = (
            inputs.root,
            [one.nullifier for one in inputs.spent],
            [one.commitment for one in made],
            _hex(relayer or bytes(20)),
            _hex(TOKENS[first.token] if fee else bytes(20)),
            fee,
            deadline,
            memos[0],
            memos[1],
            proof,
        )
        return Entry(CTC, name, call)

    def cta(
        self,
        name: str,
        spent: Sequence[Note],
        amount: int,
        *,
        recipient: bytes,
        relayer: bytes | None = None,
        fee: int = 0,
        deadline: int = START + 30 * 86_400,
        size: int | None = None,
        apply: bool = False,
    ) -> tuple[Entry, Note]:
        """Takes `amount` out of one or two notes; gives the entry and the change."""
        inputs = self._inputs(spent, size)
        first = inputs.spent[0]
        assert (relayer is None) == (fee == 0)
        change = self.note(
            first.custody, first.token, sum(one.amount for one in inputs.spent) - amount, name
        )
        memo = test_memo(name)
        token = number(TOKENS[first.token])
        digest = self._digest(
            CTA_TYPE,
            *(one.nullifier for one in inputs.spent),
            change.commitment,
            token,
            amount,
            number(recipient),
            number(relayer or b""),
            fee,
            number(keccak256(memo)),
            deadline,
        )
        proof = self.prover.prove(
            "cta",
            {
                **inputs.common(digest),
                "change": hex(change.commitment),
                "token": hex(token),
                "amount": hex(amount),
                "change_blinding": hex(change.blinding),
                "change_amount": hex(change.amount),
            },
        )
        if apply:
            self.leaves.append(change.commitment)
        call = (
            inputs.root,
            [one.nullifier for one in inputs.spent],
            change.commitment,
            _hex(TOKENS[first.token]),
            amount,
            _hex(recipient),
            _hex(relayer or bytes(20)),
            fee,
            deadline,
            memo,
            proof,
        )
        return Entry(CTA, name, call), change

    def _inputs(self, spent: Sequence[Note], size: int | None) -> Inputs:
        tree = LeanIMT([word(leaf) for leaf in self.leaves[:size]])
        first = spent[0]
        both = [*spent]
        if len(both) == 1:
            # An empty note, worth nothing and in no tree.
            both.append(self.note(first.custody, first.token, 0, "empty"))
        proofs = [tree.proof(self.leaves.index(one.commitment)) for one in spent]
        return Inputs(both, number(tree.root), proofs, len(spent) == 1)

    @staticmethod
    def _digest(kind: bytes, *values: int) -> bytes:
        struct = keccak256(keccak256(kind) + b"".join(word(value) for value in values))
        return keccak256(b"\x19\x01" + DOMAIN + struct)


@dataclass(frozen=True)
class Inputs:
    """What both circuits ask of the notes that are spent."""

    spent: list[Note]
    root: int
    proofs: list[Any]
    empty1: bool

    def common(self, digest: bytes) -> dict[str, Any]:
        custody = self.spent[0].custody
        paths = [
            (len(one.siblings), one.index, [hex(number(sibling)) for sibling in one.siblings])
            for one in self.proofs
        ]
        if self.empty1:
            paths.append((0, 0, []))
        high, low = _halves(digest)
        terms_high, terms_low = _halves(custody.terms)
        return {
            "root": hex(self.root),
            "nullifier0": hex(self.spent[0].nullifier),
            "nullifier1": hex(self.spent[1].nullifier),
            "digest_hi": hex(high),
            "digest_lo": hex(low),
            "trader_x": list(custody.trader.public_key[:32]),
            "trader_y": list(custody.trader.public_key[32:]),
            "solver_x": list(custody.solver.public_key[:32]),
            "solver_y": list(custody.solver.public_key[32:]),
            "terms_hi": hex(terms_high),
            "terms_lo": hex(terms_low),
            "salt": hex(custody.salt),
            "trader_signature": list(custody.trader.sign(digest)[:64]),
            "solver_signature": list(custody.solver.sign(digest)[:64]),
            "in_blinding": [hex(one.blinding) for one in self.spent],
            "in_amount": [hex(one.amount) for one in self.spent],
            "empty1": self.empty1,
            "path_length": [path[0] for path in paths],
            "path_index": [path[1] for path in paths],
            "path_siblings": [path[2] + ["0x0"] * (MAX_DEPTH - path[0]) for path in paths],
        }


def _hex(address: bytes) -> str:
    return "0x" + address.hex()


@dataclass(frozen=True)
class Pool:
    parts: dict[str, list[Entry]]
    notes: list[Note]


def make(prover: Prover) -> Pool:
    world = World(prover)
    wallets = [SecretKey.from_bytes(test_bytes(f"wallet {i}")) for i in range(6)]
    sole = [Custody(f"sole {i}", key, key, bytes(32), 0) for i, key in enumerate(wallets)]
    terms = test_bytes("terms")
    pairs = [
        Custody("pair 0-1", wallets[0], wallets[1], terms, test_field("salt 0")),
        Custody("pair 2-3", wallets[2], wallets[3], terms, test_field("salt 1")),
    ]
    relayers = [test_address("relayer 0"), test_address("relayer 1")]
    chance = random.Random("pSymm")

    # Prefix: what everybody has.
    prefix: list[Entry] = []
    groups: dict[str, list[Note]] = {}
    for custody, token, count in (
        (sole[0], "A", 4), (sole[1], "A", 4), (pairs[0], "A", 5), (pairs[1], "B", 5),
        (sole[4], "B", 3), (sole[5], "H", 3),
    ):  # fmt: skip
        for _ in range(count):
            unit = 10**18 if token == "B" else 10**6
            note = world.note(
                custody, token, chance.randrange(100, 10_000) * unit + chance.randrange(unit)
            )
            prefix.append(world.deposit(note))
            groups.setdefault(f"{custody.name} {token}", []).append(note)

    def split(total: int, fee: int = 0) -> tuple[int, int]:
        part = chance.randrange(0, total - fee + 1)
        return part, total - fee - part

    for owner, into in ((sole[0], pairs[0]), (sole[1], pairs[0])):
        # Each funds the pair with one of its notes through a relayer, as a session does.
        source = groups[f"{owner.name} A"].pop()
        fee = 250_000
        funded = source.amount // 2
        made = [
            world.note(into, "A", funded),
            world.note(owner, "A", source.amount - funded - fee),
        ]
        prefix.append(
            world.ctc(
                f"fund {into.name} from {owner.name}",
                [source],
                made,
                relayer=relayers[0],
                apply=True,
            )
        )
        groups[f"{into.name} A"].append(made[0])
        groups[f"{owner.name} A"].append(made[1])
    grown = len(world.leaves)

    # Loose: of notes of the prefix, some of them wanted twice.
    loose: list[Entry] = []
    choices: Iterator[str] = iter(
        [group for _ in range(20) for group in groups if not group.endswith("H")]
    )
    for turn in range(48):
        group = groups[next(choices)]
        spent = chance.sample(group, 2 if turn % 3 else 1)
        total = sum(one.amount for one in spent)
        relayer = relayers[turn % 2] if turn % 4 else None
        fee = chance.randrange(1, total // 10) if relayer else 0
        deadline = START + (3_600 if turn % 8 == 5 else 30 * 86_400)
        size = grown
        if all(world.leaves.index(one.commitment) < 24 for one in spent) and turn % 5 == 0:
            size = 24  # A root of long ago: every root counts for ever.
        token, custody = spent[0].token, spent[0].custody
        if turn % 5 < 3:
            parts = split(total, fee)
            homes = (custody, sole[chance.randrange(6)])
            made = [world.note(home, token, part) for home, part in zip(homes, parts, strict=True)]
            name = f"loose {turn}: CTC of {len(spent)} {token} in {custody.name}"
            loose.append(
                world.ctc(name, spent, made, relayer=relayer, deadline=deadline, size=size)
            )
        else:
            amount = total if turn % 10 == 4 else chance.randrange(1, total)
            if relayer and turn % 10 == 8:
                amount = fee  # All of it for the relayer.
            fee = min(fee, amount)
            name = f"loose {turn}: CTA of {len(spent)} {token} in {custody.name}"
            entry, _ = world.cta(
                name, spent, amount, recipient=test_address(f"recipient {turn}"), relayer=relayer,
                fee=fee, deadline=deadline, size=size,
            )  # fmt: skip
            loose.append(entry)

    hostile: list[Entry] = []
    for turn, note in enumerate(groups["sole 5 H"][:2]):
        entry, _ = world.cta(
            f"hostile {turn}", [note], note.amount // 2, recipient=test_address(f"hostile {turn}"),
            relayer=relayers[0] if turn else None, fee=5 if turn else 0,
        )  # fmt: skip
        hostile.append(entry)

    # Chain: settle, withdraw a part, merge, withdraw the rest, each from what the last one made.
    chain: list[Entry] = []
    both = groups["pair 0-1 A"][:2]
    total = both[0].amount + both[1].amount
    paid = [world.note(sole[0], "A", total - total // 3 - 99), world.note(sole[1], "A", total // 3)]
    chain.append(world.ctc("chain 0: settle", both, paid, relayer=relayers[1], apply=True))
    entry, rest = world.cta(
        "chain 1: withdraw a part", [paid[0]], paid[0].amount // 2,
        recipient=test_address("fresh 1"), relayer=relayers[0], fee=7, apply=True,
    )  # fmt: skip
    chain.append(entry)
    merged = [
        world.note(sole[0], "A", rest.amount + groups["sole 0 A"][0].amount),
        world.note(sole[0], "A", 0),
    ]
    chain.append(world.ctc("chain 2: merge", [rest, groups["sole 0 A"][0]], merged, apply=True))
    entry, _ = world.cta(
        "chain 3: withdraw all",
        merged,
        merged[0].amount,
        recipient=test_address("fresh 2"),
        apply=True,
    )
    chain.append(entry)
    entry, _ = world.cta(
        "chain 4: the other withdraws", [paid[1]], paid[1].amount,
        recipient=test_address("fresh 3"), relayer=relayers[1], fee=paid[1].amount, apply=True,
    )  # fmt: skip
    chain.append(entry)
    return Pool(
        {"prefix": prefix, "loose": loose, "chain": chain, "hostile": hostile},
        list(world.notes.values()),
    )


def main() -> None:
    started = time.monotonic()
    PROOFS.mkdir(parents=True, exist_ok=True)
    prover = Prover()
    try:
        pool = make(prover)
    finally:
        prover.close()
    notes = [
        (one.commitment, one.nullifier, _hex(TOKENS[one.token]), one.amount) for one in pool.notes
    ]
    blob = encode(
        [*[ENTRY_ABI] * 4, NOTE_ABI],
        [*([entry.encoded() for entry in part] for part in pool.parts.values()), notes],
    )
    draft = OUT.with_suffix(f".{os.getpid()}")
    draft.write_text(
        json.dumps(
            {
                "moves": {
                    name: [entry.name for entry in part] for name, part in pool.parts.items()
                },
                "psymm": _hex(PSYMM),
                "abi": "0x" + blob.hex(),
            }
        )
    )
    draft.replace(OUT)
    seconds = time.monotonic() - started
    print(
        f"{OUT.relative_to(REPO)}: {prover.made} proofs made, {prover.kept} kept, {seconds:.0f} s"
    )


if __name__ == "__main__":
    main()
