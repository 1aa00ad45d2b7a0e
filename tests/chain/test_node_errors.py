"""What nodes say, in the words of geth, erigon, nethermind, besu, reth, anvil, Infura, Alchemy."""

from __future__ import annotations

import pytest

from psymm.chain.errors import RpcError
from psymm.chain.node_errors import NodeErrorKind as Kind
from psymm.chain.node_errors import classify

SEND, CALL, LOGS = "eth_sendRawTransaction", "eth_call", "eth_getLogs"

WORDINGS = [
    (SEND, -32000, "already known", Kind.KNOWN),
    (SEND, -32000, "ALREADY_EXISTS: already known", Kind.KNOWN),
    (SEND, -32010, "AlreadyKnown", Kind.KNOWN),
    (SEND, -32000, "Known transaction", Kind.KNOWN),
    (SEND, -32003, "transaction already imported", Kind.KNOWN),
    (SEND, -32000, "existing tx with same hash", Kind.KNOWN),
    (SEND, -32000, "nonce too low: next nonce 5, tx nonce 3", Kind.NONCE_USED),
    (SEND, -32001, "Nonce too low", Kind.NONCE_USED),
    (SEND, -32010, "OldNonce, Current nonce: 5, nonce of rejected tx: 3", Kind.NONCE_USED),
    (SEND, -32010, "OwnNonceAlreadyUsed", Kind.NONCE_USED),
    (SEND, -32000, "replacement transaction underpriced", Kind.NONCE_HELD),
    (SEND, -32000, "could not replace existing tx", Kind.NONCE_HELD),
    (SEND, -32010, "ReplacementNotAllowed", Kind.NONCE_HELD),
    (SEND, -32000, "INTERNAL_ERROR: could not replace existing tx", Kind.NONCE_HELD),
    (SEND, -32000, "transaction underpriced: gas tip cap 1, minimum needed 25", Kind.FEE),
    (SEND, -32000, "max fee per gas less than block base fee: address 0x, maxFeePerGas: 1",
     Kind.FEE),
    (SEND, -32010, "FeeTooLow, MaxFeePerGas too low.", Kind.FEE),
    (SEND, -32010, "FeeTooLowToCompete", Kind.FEE),
    (SEND, -32009, "Gas price below configured minimum gas price", Kind.FEE),
    (SEND, -32009, "Gas price below current base fee", Kind.FEE),
    (SEND, -32000, "insufficient funds for gas * price + value: balance 0", Kind.COIN),
    (SEND, -32010, "InsufficientFunds, Account balance: 0", Kind.COIN),
    (SEND, -32004, "Upfront cost exceeds account balance", Kind.COIN),
    (SEND, -32003, "Insufficient funds for gas * price + value", Kind.COIN),
    (SEND, -32000, "intrinsic gas too low", Kind.OUT_OF_GAS),
    (SEND, -32000, "txpool is full", Kind.NOT_ANSWERED),
    (SEND, -32006, "Nonce too high", Kind.NOT_ANSWERED),
    (SEND, -32000, "invalid sender", Kind.REFUSED),
    (SEND, -32005, "Transaction gas limit exceeds block gas limit", Kind.REFUSED),
    (SEND, -32000, "tx fee (2.00 ether) exceeds the configured cap (1.00 ether)", Kind.REFUSED),
    (CALL, 3, "execution reverted: rate limit exceeded", Kind.REVERTED),
    (CALL, -32015, "VM execution error: Reverted 0x", Kind.REVERTED),
    (CALL, -32000, "out of gas", Kind.OUT_OF_GAS),
    (CALL, -32000, "header not found", Kind.NOT_ANSWERED),
    (CALL, -32000, "header for hash not found", Kind.NOT_ANSWERED),
    (CALL, -32001, "block not found: canonical hash 0x12", Kind.NOT_ANSWERED),
    (CALL, -39001, "Unknown block", Kind.NOT_ANSWERED),
    (CALL, -32000, "World state unavailable", Kind.PRUNED),
    (CALL, -32602, "BlockOutOfRangeError: block height is 5 but requested was 6",
     Kind.NOT_ANSWERED),
    (CALL, -32000, "missing trie node 12ab (path ) state 0x is not available", Kind.PRUNED),
    (CALL, -32601, "the method eth_call does not exist/is not available", Kind.REFUSED),
    (CALL, -32602, "invalid argument 1: hex string without 0x prefix", Kind.REFUSED),
    ("eth_getTransactionReceipt", -32000, "transaction indexing is in progress",
     Kind.NOT_ANSWERED),
    ("eth_blockNumber", -32005, "daily request count exceeded, request rate limited",
     Kind.NOT_ANSWERED),
    ("eth_blockNumber", -32005, "project ID request rate exceeded", Kind.NOT_ANSWERED),
    ("eth_blockNumber", 429, "Your app has exceeded its compute units per second capacity",
     Kind.NOT_ANSWERED),
    (LOGS, 429, "Your app has exceeded its compute units per second capacity", Kind.NOT_ANSWERED),
    (LOGS, -32005, "project ID request rate exceeded", Kind.NOT_ANSWERED),
    (LOGS, -32000, "block range extends beyond current head block", Kind.NOT_ANSWERED),
    (LOGS, -32005, "query returned more than 10000 results. Try with this block range [0x1, 0x2]",
     Kind.RANGE),
    (LOGS, -32600, "under the Free tier plan, you can make eth_getLogs requests with up to a 10 "
     "block range", Kind.RANGE),
    (LOGS, -32602, "Log response size exceeded. You can make requests with up to a 2K block range",
     Kind.RANGE),
    (LOGS, -32602, "query exceeds max block range 100000", Kind.RANGE),
    (LOGS, -32602, "query exceeds max results 20000, retry with the range 1-2", Kind.RANGE),
    (LOGS, -32005, "Requested range exceeds maximum RPC range limit", Kind.RANGE),
    (LOGS, -32000, "exceed maximum block range: 5000", Kind.RANGE),
]  # fmt: skip


@pytest.mark.parametrize(("method", "number", "message", "meaning"), WORDINGS)
def test_a_nodes_words_mean_what_that_node_means(
    method: str, number: int, message: str, meaning: Kind
) -> None:
    assert classify(method, number, message) is meaning
    assert RpcError(method, number, message).kind is meaning


def test_a_contracts_own_refusal_is_one_whatever_it_says() -> None:
    assert classify(CALL, -32000, "header not found", {"data": "0x12345678"}) is Kind.REVERTED
    assert classify(CALL, -32000, "header not found", "0x") is Kind.NOT_ANSWERED


def test_only_the_first_part_of_a_message_is_read() -> None:
    # The patterns take time by the square of what they read: read whole, this would take hours.
    assert classify(CALL, -32000, "state " * 1_000_000 + "pruned") is Kind.REFUSED
    assert classify(CALL, -32000, "state pruned" + " " * 1_000_000) is Kind.PRUNED
