"""Reading a signed transaction back from its bytes, which are all that a file keeps of it."""

from __future__ import annotations

from psymm._core import SignatureError, address_of, recover
from psymm.addresses import checksum
from psymm.chain.signing import Fees, Prepared, Sent, hash_of
from psymm.imports import recursion_limit_kept


def read_signed(raw: bytes) -> Sent:
    """The EIP-1559 transaction in these signed bytes.  Raises ValueError."""
    with recursion_limit_kept():
        from eth_account.typed_transactions.typed_transaction import TypedTransaction
        from hexbytes import HexBytes
        from rlp.exceptions import RLPException  # type: ignore[import-untyped]

    try:
        transaction = TypedTransaction.from_bytes(HexBytes(raw))
        found = transaction.as_dict()
        r, s, parity = found["r"], found["s"], found["v"]
        signature = r.to_bytes(32, "big") + s.to_bytes(32, "big") + bytes([27 + parity])
        sender = address_of(recover(bytes(transaction.hash()), signature))
        fees = Fees(found["maxFeePerGas"], found["maxPriorityFeePerGas"])
    except (RLPException, SignatureError, LookupError, TypeError, OverflowError) as bad:
        raise ValueError(f"no signed transaction: {type(bad).__name__}") from None
    to = checksum(bytes(found["to"])) if found["to"] else None
    prepared = Prepared(sender, to, bytes(found["data"]), found["value"], found["gas"], fees)
    return Sent(hash_of(raw), sender, found["nonce"], raw, prepared)
