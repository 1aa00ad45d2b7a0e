#!/usr/bin/env python
"""Makes introduction.json: what a solver signs before a trader funds, by eth-account.

    python tests/vectors/make_introduction.py

The two structs of `psymm.transcript.introduction` (spec.md 61), with digests and signatures. The
secret keys in here are published; never use them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final

import make_authorisation as base
from eth_account import Account

OUT: Final = Path(__file__).with_name("introduction.json")

base.TYPES["IntroductionKey"] = base._type("address wallet,address key,uint64 expiry")
base.TYPES["Introduction"] = base._type(
    "bytes32 custody,bytes32 termsHash,bytes32 traderNonce,bytes32 solverNonce,"
    "uint128 traderCollateral,uint128 solverCollateral,uint64 sendingTime,uint64 expiry"
)


def make() -> dict[str, Any]:
    secrets = {name: base.value(f"introduction {name}") for name in ("trader", "wallet", "key")}
    accounts = {name: Account.from_key(secret) for name, secret in secrets.items()}
    delegation = {
        "wallet": accounts["wallet"].address,
        "key": accounts["key"].address,
        "expiry": 1_790_604_800 * 10**9,
    }
    made = []
    for i, chain_id in enumerate((31337, 1)):
        terms = f'{{"schema":"psymm-terms/1","vector":"{i}"}}'.encode()
        nonces = [b"\0" + base.value(f"{side} nonce {i}")[1:] for side in ("trader", "solver")]
        # The custody's id is Poseidon2's; poseidon2.json has values of that. Here it is any word.
        introduction = {
            "custody": base.field(f"custody {i}"),
            "termsHash": base.keccak(terms),
            "traderNonce": nonces[0],
            "solverNonce": nonces[1],
            "traderCollateral": 2**128 - 1 if i else 2_000_000_000,
            "solverCollateral": 5_000_000_000,
            "sendingTime": 1_790_000_000 * 10**9 + i,
            "expiry": 1_790_000_600 * 10**9 + i,
        }
        made.append(
            {
                "chainId": chain_id,
                "introductionKey": base.shown(delegation)
                | base.signed("IntroductionKey", delegation, secrets["wallet"], chain_id),
                "introduction": base.shown(introduction)
                | base.signed("Introduction", introduction, secrets["key"], chain_id),
            }
        )
    return {
        "about": "Signed introductions by eth-account; see make_introduction.py",
        "verifyingContract": base.PSYMM,
        "keys": {
            name: {
                "secret": base.hexed(secrets[name]),
                "publicKey": base.hexed(bytes(account._key_obj.public_key.to_bytes())),
            }
            for name, account in accounts.items()
        },
        "introductions": made,
    }


if __name__ == "__main__":
    OUT.write_text(json.dumps(make(), indent=1, ensure_ascii=True) + "\n")
    print(f"{OUT.name} written")
    sys.exit(0)
