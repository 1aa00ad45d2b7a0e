"""The shape of a node's answer, by method, and whether it answers the question.

web3 converts answers leniently: it reads "12" as 18 and cuts a hash that is too long. So each
answer is checked against its shape first. Only the members listed here are passed on, each in one
spelling, so that two nodes' answers can be compared.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

Shape: TypeAlias = Callable[[Any], Any]

MAX_NUMBER: Final = (1 << 63) - 1
"""The highest block number, block time or nonce that our files and deadlines can hold."""
# The standard forbids leading zeros, but some nodes send them.
_QUANTITY: Final = re.compile(r"0x[0-9a-f]{1,64}", re.IGNORECASE)
_BYTES: Final = re.compile(r"0x([0-9a-f]{2})*", re.IGNORECASE)


def quantity(found: Any) -> str:
    if not isinstance(found, str) or not _QUANTITY.fullmatch(found):
        raise ValueError("a number was expected")
    return hex(int(found, 16))


def height(found: Any) -> str:
    if int(quantity(found), 16) > MAX_NUMBER:
        raise ValueError("a block number beyond any chain's")
    return quantity(found)


def raw(found: Any, length: int | None = None) -> str:
    if not isinstance(found, str) or not _BYTES.fullmatch(found):
        raise ValueError("bytes were expected")
    if length is not None and len(found) != 2 + 2 * length:
        raise ValueError(f"{length} bytes expected, {len(found) // 2 - 1} came")
    return found.lower()


def word(found: Any) -> str:
    return raw(found, 32)


def address(found: Any) -> str:
    return raw(found, 20)


def listed(shape: Shape) -> Shape:
    def check(found: Any) -> list[Any]:
        if not isinstance(found, list):
            raise ValueError("a list was expected")
        return [shape(one) for one in found]

    return check


def record(what: str, members: Mapping[str, Shape], optional: Mapping[str, Shape]) -> Shape:
    """An object.  optional: members that are left out if they are null or missing."""

    def check(found: Any) -> dict[str, Any]:
        if not isinstance(found, dict):
            raise ValueError(f"{what} was expected")
        there = [name for name in optional if found.get(name) is not None]
        checked = {name: shape(found.get(name)) for name, shape in members.items()}
        return checked | {name: optional[name](found[name]) for name in there}

    return check


def _kept(found: Any) -> bool:
    if found is not False:
        raise ValueError("a log of an abandoned block")
    return False


def _status(found: Any) -> str:
    if found not in ("0x0", "0x1"):
        raise ValueError("neither success nor failure")
    return str(found)


_LOG: Final = record(
    "a log",
    {
        "address": address,
        "topics": listed(word),
        "data": raw,
        "blockNumber": height,
        "blockHash": word,
        "transactionHash": word,
        "logIndex": quantity,
    },
    {"removed": _kept},
)
_TRANSACTION: Final = record(
    "a transaction",
    {
        "hash": word,
        "from": address,
        "nonce": height,
        "input": raw,
        "value": quantity,
        "gas": quantity,
    },
    {
        "to": address,
        "blockNumber": height,
        "type": quantity,
        "chainId": quantity,
        "gasPrice": quantity,
        "maxFeePerGas": quantity,
        "maxPriorityFeePerGas": quantity,
        "r": quantity,
        "s": quantity,
        "v": quantity,
        "yParity": quantity,
    },
)
_BLOCK: Final = record(
    "a block",
    {"number": height, "hash": word, "parentHash": word, "timestamp": height},
    {
        "baseFeePerGas": quantity,
        "transactions": listed(
            lambda one: word(one) if isinstance(one, str) else _TRANSACTION(one)
        ),
    },
)
_RECEIPT: Final = record(
    "a receipt",
    {
        "transactionHash": word,
        "blockNumber": height,
        "blockHash": word,
        "from": address,
        "gasUsed": quantity,
        "status": _status,
        "logs": listed(_LOG),
    },
    {"to": address, "contractAddress": address, "effectiveGasPrice": quantity},
)
_PLACE: Final = record("a place", {"address": address, "storageKeys": listed(word)}, {})


def _maybe(shape: Shape) -> Shape:
    return lambda found: None if found is None else shape(found)


SHAPES: Final[Mapping[str, Shape]] = {
    "eth_blockNumber": height,
    "eth_call": raw,
    "eth_chainId": quantity,
    "eth_createAccessList": record("an access list", {"accessList": listed(_PLACE)}, {}),
    "eth_estimateGas": quantity,
    "eth_getBalance": quantity,
    "eth_getBlockByNumber": _BLOCK,
    "eth_getCode": raw,
    "eth_getLogs": listed(_LOG),
    "eth_getStorageAt": word,
    "eth_getTransactionByHash": _maybe(_TRANSACTION),
    "eth_getTransactionCount": height,
    "eth_getTransactionReceipt": _maybe(_RECEIPT),
    "eth_maxPriorityFeePerGas": quantity,
    "eth_syncing": lambda found: found,
}
"""The methods that change nothing, so that they may be repeated."""


def checked(method: str, params: Sequence[Any], found: Any) -> Any:
    """An answer, checked, with only the members that we read.

    Raises ValueError if it breaks the protocol or answers another question.  The answer to a method
    that is not in SHAPES is returned unchanged.
    """
    answer = SHAPES.get(method, SHAPES["eth_syncing"])(found)
    match method:
        case "eth_getBlockByNumber" if params[0].startswith("0x"):
            if int(answer["number"], 16) != int(params[0], 16):
                raise ValueError("another block than asked")
        case "eth_getLogs":
            _expect_asked(params[0], answer)
        case "eth_getTransactionByHash" | "eth_getTransactionReceipt" if answer is not None:
            if answer.get("hash", answer.get("transactionHash")) != params[0].lower():
                raise ValueError("another transaction than asked")
    return answer


def _expect_asked(wanted: Mapping[str, Any], logs: Sequence[Mapping[str, Any]]) -> None:
    # Extra, repeated or moved logs are found here. One that is left out is not; for leaves, the
    # contract's own root shows it (`sync.py`).
    places = [(int(one["blockNumber"], 16), int(one["logIndex"], 16)) for one in logs]
    if places != sorted(set(places)):
        raise ValueError("logs out of order or twice")
    first, last = int(wanted["fromBlock"], 16), int(wanted["toBlock"], 16)
    whose, topics = wanted["address"], wanted.get("topics", ())
    addresses = [one.lower() for one in ([whose] if isinstance(whose, str) else whose)]
    for log, (number, _) in zip(logs, places, strict=True):
        asked = log["address"] in addresses and first <= number <= last
        if not (asked and _match(log["topics"], topics)):
            raise ValueError("a log that was not asked for")


def _match(found: Sequence[str], wanted: Sequence[Any]) -> bool:
    """Whether a log's topics match the filter."""
    return len(found) >= len(wanted) and all(
        one is None or topic in ([one] if isinstance(one, str) else one)
        for topic, one in zip(found, wanted, strict=False)
    )
