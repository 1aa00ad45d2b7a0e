#!/usr/bin/env python
"""Makes oracle.json: rounds of prices, their trees, proofs, digests and signatures.

    python tests/vectors/make_oracle.py

Nothing here is made by pSymm's own code: leaves are encoded by eth-abi, trees and paths come from
pymerkle (RFC 6962 without its prefixes), digests and signatures from eth-account. Python and
Solidity read the file. The secret keys in here are published; never use them.
"""

from __future__ import annotations

import json
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import make_authorisation as base
from eth_abi import encode
from eth_account import Account
from eth_utils.crypto import keccak
from pymerkle import InmemoryTree

OUT: Final = Path(__file__).with_name("oracle.json")
ONE: Final = 10**18
START_NS: Final = 1_790_604_800 * 10**9

base.TYPES["OracleRound"] = base._type("bytes32 root,uint64 timestamp")

SIZES: Final = (1, 2, 3, 4, 5, 7, 8, 13, 512)
SHOWN: Final = {512: (0, 1, 255, 256, 510, 511)}
"""Of the largest tree only these leaves are shown."""


def leaves(size: int) -> list[tuple[str, int, int]]:
    """Feed, epoch and value of sorted leaves. Every third feed has a funding rate, too."""
    found: list[tuple[str, int, int]] = []
    number = 0
    while len(found) < size:
        number += 1
        feed = "ETH/USD" if number == 1 else f"F{number:03}/USD"
        found.append((feed, 0, 10**38 - 1 if number == 2 else number * ONE + number))
        if number % 3 == 0 and len(found) < size:
            rate = -(10**38 - 1) if number == 3 else (-1) ** number * number * 10**13
            found.append((feed, START_NS - 8 * 3600 * 10**9, rate))
    return sorted(found, key=lambda one: (one[0].encode().ljust(32, b"\0"), one[1]))


def encoded(leaf: tuple[str, int, int]) -> bytes:
    feed, epoch, value = leaf
    types = ["bytes32", "uint64", "int256"]
    return bytes(encode(types, [feed.encode().ljust(32, b"\0"), epoch, value]))


def absent(size: int, rows: list[tuple[str, int, int]], shown: list[int]) -> list[dict[str, Any]]:
    """Feeds and epochs that are not there, with the indices of their neighbours, -1 for none."""
    found = [("A", 0, -1, 0), ("z", 0, size - 1, -1), ("ETH/USE", 0, 0, 1 if size > 1 else -1)]
    for before, after in pairwise(shown):
        if after == before + 1:
            feed, epoch, _ = rows[before]
            found.append((feed, epoch + 1, before, after))
    return [
        {
            "feed": feed,
            "feedWord": base.hexed(feed.encode().ljust(32, b"\0")),
            "epoch": str(epoch),
            "before": str(before),
            "after": str(after),
        }
        for feed, epoch, before, after in found
    ]


def make_round(number: int, size: int, secrets: list[bytes]) -> dict[str, Any]:
    rows = leaves(size)
    tree = InmemoryTree(algorithm="keccak_256", disable_security=True)
    for row in rows:
        tree.append_entry(encoded(row))
    shown = list(SHOWN.get(size, range(size)))
    proofs = [tree.prove_inclusion(index + 1) for index in shown]
    for proof, index in zip(proofs, shown, strict=True):
        proof.verify(keccak(encoded(rows[index])), tree.get_root(), security=False)
    timestamp = START_NS + number * 10**9
    message = {"root": tree.get_root(), "timestamp": timestamp}
    signed = [base.signed("OracleRound", message, one, (31337, 1)[number % 2]) for one in secrets]
    return {
        "size": str(size),
        "chainId": signed[0]["chainId"],
        "domainSeparator": signed[0]["domainSeparator"],
        "root": base.hexed(tree.get_root()),
        "timestamp": str(timestamp),
        "digest": signed[0]["digest"],
        "signatures": [one["signature"] for one in signed],
        "leaves": [
            {"feed": feed, "epoch": str(epoch), "value": str(value)} for feed, epoch, value in rows
        ],
        "proofs": [
            {
                "index": str(index),
                "feedWord": base.hexed(rows[index][0].encode().ljust(32, b"\0")),
                "epoch": str(rows[index][1]),
                "valueWord": base.hexed(encode(["int256"], [rows[index][2]])),
                "hash": base.hexed(keccak(encoded(rows[index]))),
                "siblings": [base.hexed(one) for one in proof.path[1:]],
                "directions": str(sum(bit << i for i, bit in enumerate(proof.rule[:-1]))),
            }
            for proof, index in zip(proofs, shown, strict=True)
        ],
        "absent": absent(size, rows, shown),
    }


def make() -> dict[str, Any]:
    secrets = [base.value(f"oracle {i}") for i in range(3)]
    return {
        "about": "Rounds of oracle prices, by pymerkle and eth-account; see make_oracle.py",
        "verifyingContract": base.PSYMM,
        "secrets": [base.hexed(one) for one in secrets],
        "signers": [Account.from_key(one).address for one in secrets],
        "rounds": [make_round(number, size, secrets) for number, size in enumerate(SIZES)],
    }


if __name__ == "__main__":
    OUT.write_text(json.dumps(make(), indent=1, ensure_ascii=True) + "\n")
    print(f"{OUT.name} written")
    sys.exit(0)
