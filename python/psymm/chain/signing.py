"""A transaction before and after it is signed, and its fees.

A `Signer` sees one digest and returns one signature, so a key service or a device works as well as
a key in memory.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any, Protocol

from psymm._core import keccak256
from psymm.chain.errors import CallInvalid
from psymm.imports import recursion_limit_kept


class Signer(Protocol):
    """The account that sends and pays for transactions, such as `psymm.wallet.KeyWallet`."""

    @property
    def address(self) -> str:
        """Checksummed address."""
        ...

    def sign_digest(self, digest: bytes) -> bytes | Awaitable[bytes]:
        """65 bytes r ‖ s ‖ v over 32 bytes, low s, v 27 or 28; or an awaitable of them."""
        ...


@dataclass(frozen=True, slots=True)
class Fees:
    """Fees of one transaction, in wei per gas (EIP-1559)."""

    max_wei: int
    tip_wei: int

    def raised(self, attempt: int, least: Fees, most: Fees) -> Fees | None:
        """The fees of a replacement, between `least` and `most`.

        attempt: 0 offers a quarter more; 1, 2, … offer 2, 4, … times as much.  None if `most`
        leaves less room than the eighth that nodes demand of a replacement.
        """
        by, of = (5, 4) if attempt == 0 else (2**attempt, 1)
        max_wei = min(max(self.max_wei * by // of + 1, least.max_wei), most.max_wei)
        tip_wei = min(max(self.tip_wei * by // of + 1, least.tip_wei), most.tip_wei, max_wei)
        if 8 * max_wei < 9 * self.max_wei or 8 * tip_wei < 9 * self.tip_wei:
            return None
        return Fees(max_wei, tip_wei)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A transaction before it is signed; `most_wei` is the most that it can cost."""

    sender: str
    to: str | None
    data: bytes
    value_wei: int
    gas_limit: int
    fees: Fees

    @property
    def most_wei(self) -> int:
        return self.gas_limit * self.fees.max_wei + self.value_wei


@dataclass(frozen=True, slots=True)
class Sent:
    """A signed transaction.  raw: its bytes, as a node takes them."""

    tx_hash: str
    sender: str
    nonce: int
    raw: bytes
    prepared: Prepared


def hash_of(raw: bytes) -> str:
    """The hash of a signed transaction's bytes."""
    return "0x" + keccak256(raw).hex()


async def sign(signer: Signer, chain_id: int, nonce: int, prepared: Prepared) -> Sent:
    """Sign an EIP-1559 transaction.

    Raises CallInvalid if the signer returns no signature, and what the signer raises.  Cancelled:
    raises Cancelled; a signature made meanwhile is dropped.
    """
    with recursion_limit_kept():
        from eth_account.typed_transactions.typed_transaction import TypedTransaction

    fields: dict[str, Any] = {
        "type": 2,
        "chainId": chain_id,
        "nonce": nonce,
        "maxPriorityFeePerGas": prepared.fees.tip_wei,
        "maxFeePerGas": prepared.fees.max_wei,
        "gas": prepared.gas_limit,
        "to": prepared.to or b"",
        "value": prepared.value_wei,
        "data": prepared.data,
    }
    answer = signer.sign_digest(TypedTransaction.from_dict(fields).hash())
    signature = await answer if inspect.isawaitable(answer) else answer
    if len(signature) != 65 or signature[64] not in (27, 28):
        raise CallInvalid("signature", "a signature is 65 bytes, r ‖ s ‖ v with v 27 or 28")
    fields["r"] = int.from_bytes(signature[:32], "big")
    fields["s"] = int.from_bytes(signature[32:64], "big")
    fields["v"] = signature[64] - 27
    raw = TypedTransaction.from_dict(fields).encode()
    return Sent(hash_of(raw), signer.address, nonce, raw, prepared)
