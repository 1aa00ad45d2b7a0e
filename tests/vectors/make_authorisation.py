#!/usr/bin/env python
"""Makes authorisation.json: whole calls of PSymm with digest and signature by eth-account.

    python tests/vectors/make_authorisation.py

The moves of design.md section 5 as the contract gets them, memos and all, under the domain of the
contract that contracts/test/World.sol deploys, and on another chain. frame.json has the other
messages that are signed. The secret keys in here are published; never use them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final

from eth_account import Account
from eth_account.messages import _hash_eip191_message, encode_typed_data
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak

OUT: Final = Path(__file__).with_name("authorisation.json")

DEPLOYER: Final = bytes.fromhex("00000000000000000000000000000000000d0001")
# Its third contract, as RLP of (deployer, nonce 2) says.
PSYMM: Final = to_checksum_address(keccak(b"\xd6\x94" + DEPLOYER + b"\x02")[12:])

DOMAIN_TYPE: Final = [
    {"name": "name", "type": "string"},
    {"name": "version", "type": "string"},
    {"name": "chainId", "type": "uint256"},
    {"name": "verifyingContract", "type": "address"},
]


def _type(text: str) -> list[dict[str, str]]:
    return [dict(zip(("type", "name"), one.split(" "), strict=True)) for one in text.split(",")]


TYPES: Final = {
    "CustodyToCustody": _type(
        "bytes32 nullifier0,bytes32 nullifier1,bytes32 commitment0,bytes32 commitment1,"
        "address relayer,address feeToken,uint256 fee,bytes32 memos,uint256 deadline"
    ),
    "CustodyToAddress": _type(
        "bytes32 nullifier0,bytes32 nullifier1,bytes32 change,address token,uint256 amount,"
        "address recipient,address relayer,uint256 fee,bytes32 memos,uint256 deadline"
    ),
}


def value(label: str) -> bytes:
    return bytes(keccak(text=f"pSymm vector: {label}"))


def hexed(data: bytes) -> str:
    return "0x" + data.hex()


def address(label: str) -> str:
    return str(to_checksum_address(value(label)[12:]))


def field(label: str) -> bytes:
    """A value below BN254's modulus."""
    return bytes([value(label)[0] & 0x1F]) + value(label)[1:]


def memo(label: str) -> bytes:
    return b"".join(value(f"{label} {i}") for i in range(8))


def shown(fields: dict[str, Any]) -> dict[str, str]:
    return {
        name: hexed(one) if isinstance(one, bytes) else str(one) for name, one in fields.items()
    }


def signed(kind: str, message: dict[str, Any], key: bytes, chain_id: int) -> dict[str, Any]:
    """digest and signature (r ‖ s ‖ v) of a message under this chain's domain."""
    typed = {
        "types": {"EIP712Domain": DOMAIN_TYPE, kind: TYPES[kind]},
        "primaryType": kind,
        "domain": {
            "name": "pSymm",
            "version": "1",
            "chainId": chain_id,
            "verifyingContract": PSYMM,
        },
        "message": message,
    }
    signable = encode_typed_data(full_message=typed)
    signature = Account.sign_message(signable, key)
    return {
        "chainId": chain_id,
        "domainSeparator": hexed(bytes(signable.header)),
        "digest": hexed(bytes(_hash_eip191_message(signable))),
        "signature": hexed(bytes(signature.signature)),
    }


def make() -> dict[str, Any]:
    secrets = [value(f"key {i}") for i in range(2)]
    accounts = [Account.from_key(secret) for secret in secrets]
    keys = [
        {
            "secret": hexed(secret),
            "address": account.address,
            "publicKey": hexed(bytes(account._key_obj.public_key.to_bytes())),
        }
        for secret, account in zip(secrets, accounts, strict=True)
    ]
    ctc, cta = [], []
    for i, chain_id in enumerate((31337, 31337, 1)):
        free = i == 0
        zero = "0x" + "00" * 20
        memos = [memo(f"ctc {i} {j}") for j in range(2)]
        fields = {
            **{name: field(f"ctc {name} {i}") for name in ("nullifier0", "nullifier1")},
            **{name: field(f"ctc {name} {i}") for name in ("commitment0", "commitment1")},
            "relayer": zero if free else address(f"relayer {i}"),
            "feeToken": zero if free else address(f"token {i}"),
            "fee": 0 if free else 2**128 - 1 if i == 1 else 250_000,
            "deadline": 1_800_000_300 if i else 2**256 - 1,
        }
        message = {**fields, "memos": keccak(memos[0] + memos[1])}
        ctc.append(
            {
                **shown(fields),
                "memo0": hexed(memos[0]),
                "memo1": hexed(memos[1]),
                "signer": i % 2,
                **signed("CustodyToCustody", message, secrets[i % 2], chain_id),
            }
        )
        fields = {
            **{name: field(f"cta {name} {i}") for name in ("nullifier0", "nullifier1", "change")},
            "token": address(f"token {i}"),
            "amount": 2**128 - 1 if i == 1 else 1_000_000 + i,
            "recipient": address(f"recipient {i}"),
            "relayer": zero if free else address(f"relayer {i}"),
            "fee": 0 if free else 7,
            "deadline": 1_800_000_300,
        }
        message = {**fields, "memos": keccak(memos[0])}
        cta.append(
            {
                **shown(fields),
                "memo": hexed(memos[0]),
                "signer": i % 2,
                **signed("CustodyToAddress", message, secrets[i % 2], chain_id),
            }
        )
    return {
        "about": "Moves of PSymm, signed with eth-account; see make_authorisation.py",
        "verifyingContract": PSYMM,
        "keys": keys,
        "ctc": ctc,
        "cta": cta,
    }


if __name__ == "__main__":
    OUT.write_text(json.dumps(make(), indent=1, ensure_ascii=True) + "\n")
    print(f"{OUT.name} written")
    sys.exit(0)
