"""What a node's answer must hold, by method, and whether it answers what was asked.

web3 turns answers into Python's values and is generous about it: "12" is 18 to it, a hash that is
too long is cut. So each answer is held against its shape first, and only the members that are
named here are passed on, each in one spelling, so that two nodes' answers
can be compared. What is wrong is a ValueError, what is not there yet a `NotThere`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

Shape: TypeAlias = Callable[[Any], Any]

MAX_NUMBER: Final = (1 << 63) - 1
"""The highest block number, time of a block or nonce: what files and deadlines hold."""
MAX_RESULT_BYTES: Final = 128 * 1024
"""Of what a call returns; a page of the registry is half of it. Its parts may be named any number
of times each, so it can decode to the square of its length."""

# The standard has no leading zeros, some nodes do; the number is the same.
_QUANTITY: Final = re.compile(r"0x[0-9a-f]{1,64}", re.IGNORECASE)
_BYTES: Final = re.compile(r"0x([0-9a-f]{2})*", re.IGNORECASE)


class NotThere(Exception):
    """The node does not have what was asked for, or not yet."""


class TooLong(Exception):
    """An answer of the right kind that is longer than any that is asked for."""


def quantity(found: Any) -> str:
    if not isinstance(found, str) or not _QUANTITY.fullmatch(found):
        raise ValueError("a number was expected")
    return hex(int(found, 16))


def height(found: Any) -> str:
    if int(quantity(found), 16) > MAX_NUMBER:
        raise ValueError("no chain has such a block")
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


def maybe(shape: Shape) -> Shape:
    """A member that may be null or missing."""
    return lambda found: None if found is None else shape(found)


def optional(shape: Shape) -> Shape:
    """A member that is left out where it is null or missing."""
    return lambda found: _LEFT_OUT if found is None else shape(found)


_LEFT_OUT: Final = object()


def listed(shape: Shape) -> Shape:
    def check(found: Any) -> list[Any]:
        if not isinstance(found, list):
            raise ValueError("a list was expected")
        return [shape(one) for one in found]

    return check


def record(members: Mapping[str, Shape], what: str) -> Shape:
    def check(found: Any) -> dict[str, Any]:
        if not isinstance(found, dict):
            raise ValueError(f"{what} was expected")
        checked = {name: shape(found.get(name)) for name, shape in members.items()}
        return {name: value for name, value in checked.items() if value is not _LEFT_OUT}

    return check


def _kept(found: Any) -> Any:
    if found is not None and found is not False:
        raise ValueError("a log of a block that was thrown away")
    return _LEFT_OUT


def _status(found: Any) -> str:
    if found not in ("0x0", "0x1"):
        raise ValueError("neither success nor failure")
    return str(found)


_LOG: Final = record(
    {
        "address": address,
        "topics": listed(word),
        "data": raw,
        "blockNumber": height,
        "blockHash": word,
        "transactionHash": word,
        "logIndex": quantity,
        "removed": _kept,
    },
    "a log",
)
_TRANSACTION: Final = record(
    {
        "hash": word,
        "from": address,
        "to": maybe(address),
        "nonce": height,
        "blockNumber": maybe(height),
        "input": raw,
        "value": quantity,
        "gas": quantity,
        "type": optional(quantity),
        "chainId": optional(quantity),
        "gasPrice": optional(quantity),
        "maxFeePerGas": optional(quantity),
        "maxPriorityFeePerGas": optional(quantity),
        "r": optional(quantity),
        "s": optional(quantity),
        "v": optional(quantity),
        "yParity": optional(quantity),
    },
    "a transaction",
)


def _transactions(found: Any) -> Any:
    if found is None:
        return _LEFT_OUT
    return listed(lambda one: word(one) if isinstance(one, str) else _TRANSACTION(one))(found)


_BLOCK: Final = record(
    {
        "number": height,
        "hash": word,
        "parentHash": word,
        "timestamp": height,
        "baseFeePerGas": optional(quantity),
        "transactions": _transactions,
    },
    "a block",
)
_RECEIPT: Final = record(
    {
        "transactionHash": word,
        "blockNumber": height,
        "blockHash": word,
        "from": address,
        "to": maybe(address),
        "contractAddress": maybe(address),
        "gasUsed": quantity,
        "effectiveGasPrice": optional(quantity),
        "status": _status,
        "logs": listed(_LOG),
    },
    "a receipt",
)
_ACCESS: Final = record(
    {"accessList": listed(record({"address": address, "storageKeys": listed(word)}, "a place"))},
    "an access list",
)


def _block(params: Sequence[Any], found: Any) -> Any:
    if found is None:
        raise NotThere("it does not have that block, yet")
    block = _BLOCK(found)
    if params[0].startswith("0x") and int(block["number"], 16) != int(params[0], 16):
        raise ValueError("another block than asked")
    return block


def _mined(params: Sequence[Any], found: Any) -> Any:
    if found is None:
        return None
    if (
        not isinstance(found, dict)
        or str(found.get("transactionHash")).lower() != params[0].lower()
    ):
        raise ValueError("the receipt of another transaction")
    return _RECEIPT(found)


def _by_hash(params: Sequence[Any], found: Any) -> Any:
    if found is None:
        return None
    _expect_hash(found, "hash", params[0], "another transaction than asked")
    return _TRANSACTION(found)


def _expect_hash(found: Any, member: str, asked: str, otherwise: str) -> None:
    if not isinstance(found, dict) or str(found.get(member)).lower() != asked.lower():
        raise ValueError(otherwise)


def _logs(params: Sequence[Any], found: Any) -> Any:
    wanted = params[0]
    logs = listed(_LOG)(found)
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
    return logs


def _match(found: Sequence[str], wanted: Sequence[Any]) -> bool:
    """Whether a log's topics are of those that were asked for."""
    return len(found) >= len(wanted) and all(
        one is None or topic in ([one] if isinstance(one, str) else one)
        for topic, one in zip(found, wanted, strict=False)
    )


def _result(params: Sequence[Any], found: Any) -> Any:
    result = raw(found)
    if len(result) > 2 + 2 * MAX_RESULT_BYTES:
        raise TooLong(f"more than {MAX_RESULT_BYTES} bytes")
    return result


def _plain(shape: Shape) -> Callable[[Sequence[Any], Any], Any]:
    return lambda _, found: shape(found)


_BY_METHOD: Final[Mapping[str, Callable[[Sequence[Any], Any], Any]]] = {
    "eth_blockNumber": _plain(height),
    "eth_call": _result,
    "eth_chainId": _plain(quantity),
    "eth_createAccessList": _plain(_ACCESS),
    "eth_estimateGas": _plain(quantity),
    "eth_getBalance": _plain(quantity),
    "eth_getBlockByNumber": _block,
    "eth_getCode": _plain(raw),
    "eth_getLogs": _logs,
    "eth_getStorageAt": _plain(word),
    "eth_getTransactionByHash": _by_hash,
    "eth_getTransactionCount": _plain(height),
    "eth_getTransactionReceipt": _mined,
    "eth_maxPriorityFeePerGas": _plain(quantity),
}


def checked(method: str, params: Sequence[Any], found: Any) -> Any:
    """What a method answered, without what nobody reads.

    Raises ValueError where it is not what the protocol allows or not what was asked for, NotThere
    where the node has no such thing, TooLong. The answer of another method stays as it is.
    """
    check = _BY_METHOD.get(method)
    return found if check is None else check(params, found)
