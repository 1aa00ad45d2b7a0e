"""Makes frame.json: digests, signatures and frames as eth-account and coincurve compute them.

    python tests/vectors/make_frame.py

Nothing here is made by pSymm's own code: digests come from eth-account's typed data,
signatures from coincurve, R.y from the curve's equation in Python's integers, and the bytes of
a frame from ``struct``. So the file is an oracle for Rust, Python and Solidity alike.
Signatures are deterministic (RFC 6979), so the file is the same in every run.
"""

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

from coincurve import PrivateKey
from eth_account import Account
from eth_account.messages import encode_typed_data
from eth_utils.crypto import keccak

FIELD = 2**256 - 2**32 - 977
"""The modulus of secp256k1's coordinates."""


def fields(text: str) -> list[dict[str, str]]:
    return [dict(zip(("type", "name"), part.split(), strict=True)) for part in text.split(",")]


TYPES = {
    "Message": fields(
        "bytes32 custody,uint8 lane,uint64 seq,bytes32 previous,uint64 peerSeq,"
        "bytes32 peerDigest,uint64 sendingTime,bytes32 payload"
    ),
    "SessionKey": fields(
        "address wallet,address key,bytes32 custody,uint8 lane,uint64 fromSeq,uint64 toSeq,"
        "uint64 expiry"
    ),
    "CustodyToCustody": fields(
        "bytes32 nullifier0,bytes32 nullifier1,bytes32 commitment0,bytes32 commitment1,"
        "address relayer,address feeToken,uint256 fee,bytes32 memos,uint256 deadline"
    ),
    "CustodyToAddress": fields(
        "bytes32 nullifier0,bytes32 nullifier1,bytes32 change,address token,uint256 amount,"
        "address recipient,address relayer,uint256 fee,bytes32 memos,uint256 deadline"
    ),
}


def drawn(label: str) -> bytes:
    """Bytes that look random and are the same in every run."""
    return hashlib.sha256(f"pSymm vector {label}".encode()).digest()


def text(data: bytes) -> str:
    return "0x" + data.hex()


def typed(domain: dict[str, Any], primary: str, message: dict[str, Any]) -> tuple[bytes, bytes]:
    """The domain separator and the digest of a typed message."""
    signable = encode_typed_data(domain, {primary: TYPES[primary]}, message)
    return signable.header, keccak(b"\x19" + signable.version + signable.header + signable.body)


def plain(message: dict[str, Any]) -> dict[str, Any]:
    """As JSON holds it: bytes as hexadecimal, numbers as decimal strings."""
    return {
        name: text(value)
        if isinstance(value, bytes)
        else str(value)
        if isinstance(value, int)
        else value
        for name, value in message.items()
    }


def sign(secret: bytes, digest: bytes) -> tuple[bytes, bytes]:
    """r ‖ s ‖ v and R.y."""
    signature = PrivateKey(secret).sign_recoverable(digest, hasher=None)
    r, parity = int.from_bytes(signature[:32], "big"), signature[64]
    y = pow(r**3 + 7, (FIELD + 1) // 4, FIELD)
    assert y * y % FIELD == (r**3 + 7) % FIELD
    y = y if y % 2 == parity else FIELD - y
    return signature[:64] + bytes([27 + parity]), y.to_bytes(32, "big")


def main() -> None:
    secrets = [drawn("trader session key"), drawn("solver session key")]
    keys = [
        {
            "secret": text(secret),
            "publicKey": text(PrivateKey(secret).public_key.format(compressed=False)[1:]),
            "address": Account.from_key(secret).address,
        }
        for secret in secrets
    ]
    domains = []
    for chain_id, contract in [
        (31337, "0x5FbDB2315678afecb367f032d93F642f64180aa3"),
        (1, "0x" + "00" * 20),
        (2**64 - 1, "0xFFfFfFffFFfffFFfFFfFFFFFffFFFffffFfFFFfF"),
    ]:
        domain = {
            "name": "pSymm",
            "version": "1",
            "chainId": chain_id,
            "verifyingContract": contract,
        }
        header, _ = typed(domain, "SessionKey", session_key(0))
        domains.append({**domain, "chainId": str(chain_id), "separator": text(header)})

    separator = domains[0]["separator"]
    domain = {**domains[0], "chainId": 31337}
    del domain["separator"]
    custody = (int.from_bytes(drawn("custody"), "big") >> 3).to_bytes(32, "big")
    heads: list[tuple[int, bytes]] = [(0, custody), (0, custody)]
    start = 1_790_000_000_000_000_000
    script = [
        (0, b'{"MsgType":"A"}'),
        (1, b'{"MsgType":"A","HeartBtInt":"30"}'),
        (1, '{"MsgType":"0","Text":"naïve €"}'.encode()),
        (0, b""),
        (0, b"\x00\xff not JSON at all"),
        (1, b'{"MsgType":"8","Text":"' + b"x" * 277 + b'"}'),
        (0, b"p" * 1_000),
    ]
    frames = []
    for i, (lane, payload) in enumerate(script):
        seq, previous = heads[lane]
        peer_seq, peer_digest = heads[1 - lane]
        message: dict[str, Any] = {
            "custody": custody,
            "lane": lane,
            "seq": seq + 1,
            "previous": previous,
            "peerSeq": peer_seq,
            "peerDigest": peer_digest,
            "sendingTime": start + i * 1_000_000_007,
            "payload": keccak(payload),
        }
        _, digest = typed(domain, "Message", message)
        signature, r_y = sign(secrets[lane], digest)
        raw = (
            struct.pack(">B32sBQ32sQ32sQI", 1, *list(message.values())[:-1], len(payload))
            + payload
            + signature
            + r_y
        )
        heads[lane] = (seq + 1, digest)
        frames.append(
            {
                **plain({**message, "payload": payload}),
                "payloadHash": text(keccak(payload)),
                "digest": text(digest),
                "signature": text(signature),
                "rY": text(r_y),
                "raw": text(raw),
            }
        )

    authorisations = []
    for i in range(3):
        for primary, message in [
            ("SessionKey", session_key(i)),
            ("CustodyToCustody", custody_to_custody(i)),
            ("CustodyToAddress", custody_to_address(i)),
        ]:
            _, digest = typed(domain, primary, message)
            signature, _ = sign(secrets[i % 2], digest)
            authorisations.append(
                {
                    "type": primary,
                    "message": plain(message),
                    "digest": text(digest),
                    "signer": i % 2,
                    "signature": text(signature),
                }
            )

    file = {
        "about": "EIP-712 digests, signatures and frames by eth-account; see make_frame.py",
        "keys": keys,
        "domains": domains,
        "domain": separator,
        "custody": text(custody),
        "frames": frames,
        "authorisations": authorisations,
    }
    path = Path(__file__).with_name("frame.json")
    path.write_text(json.dumps(file, indent=1, ensure_ascii=False) + "\n")


def address(label: str) -> str:
    return str(Account.from_key(drawn(label)).address)


NOBODY = "0x" + "00" * 20


def session_key(i: int) -> dict[str, Any]:
    return {
        "wallet": address(f"wallet {i}"),
        "key": address(f"key {i}"),
        "custody": drawn(f"custody {i}"),
        "lane": i % 2,
        "fromSeq": [1, 77, 2**64 - 1][i],
        "toSeq": 2**64 - 1,
        "expiry": 1_790_000_000_000_000_000 + i,
    }


def custody_to_custody(i: int) -> dict[str, Any]:
    fee = [0, 250_000, 2**128 - 1][i]
    return {
        "nullifier0": drawn(f"nullifier 0 {i}"),
        "nullifier1": drawn(f"nullifier 1 {i}"),
        "commitment0": drawn(f"commitment 0 {i}"),
        "commitment1": drawn(f"commitment 1 {i}"),
        "relayer": address(f"relayer {i}") if fee else NOBODY,
        "feeToken": address(f"token {i}") if fee else NOBODY,
        "fee": fee,
        "memos": keccak(drawn(f"memo 0 {i}") * 8 + drawn(f"memo 1 {i}") * 8),
        "deadline": 1_790_000_100 + i,
    }


def custody_to_address(i: int) -> dict[str, Any]:
    fee = [0, 250_000, 2**128 - 1][i]
    return {
        "nullifier0": drawn(f"nullifier 2 {i}"),
        "nullifier1": drawn(f"nullifier 3 {i}"),
        "change": drawn(f"change {i}"),
        "token": address(f"token {i}"),
        "amount": [1, 10**12, 2**128 - 1][i],
        "recipient": address(f"recipient {i}"),
        "relayer": address(f"relayer {i}") if fee else NOBODY,
        "fee": fee,
        "memos": keccak(drawn(f"memo 2 {i}") * 8),
        "deadline": 1_790_000_100 + i,
    }


if __name__ == "__main__":
    main()
