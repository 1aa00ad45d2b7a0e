"""A whole round as text: JSON in exactly one valid form, so that equal rounds are equal texts.

    {"timestamp":"1700000000000000000",
     "leaves":[["BTC/USD","67012.5"],["BTC/USD","-0.0001","1699996800000000000"]],
     "signatures":["0x…"]}

without white space. A leaf of three is a funding rate and ends with its epoch. The root is not
in the text; the reader computes it. 256 prices take about 8 kB.
"""

from __future__ import annotations

import json
import re
from typing import Final

from psymm._core import JsonError, format_decimal, parse_decimal
from psymm.oracle.rounds.errors import LeafInvalid, RoundInvalid
from psymm.oracle.rounds.leaves import TIME_END, RoundLeaf
from psymm.oracle.rounds.signed import MOST_SIGNERS, SignedRound
from psymm.oracle.rounds.tree import MOST_LEAVES, OracleRound
from psymm.strict_json import loads

MOST_ROUND_BYTES: Final = 65_536
"""512 leaves at their longest and 16 signatures take 56 kB."""
_NESTING: Final = 3
_MOMENT: Final = re.compile("[1-9][0-9]{0,19}")
_SIGNATURE: Final = re.compile("0x[0-9a-f]{130}")


def encode_round(signed: SignedRound) -> str:
    """The text of a round."""
    return json.dumps(
        {
            "timestamp": str(signed.timestamp),
            "leaves": [_leaf_row(one) for one in signed.round.leaves],
            "signatures": ["0x" + one.hex() for one in signed.signatures],
        },
        separators=(",", ":"),
    )


def decode_round(text: str | bytes) -> SignedRound:
    """The round of a text. Nothing says yet that anybody signed it.

    Raises RoundInvalid, also for any text but the one that `encode_round` makes of the round;
    LeafInvalid for a leaf that no round can hold.
    """
    # A character has at least one byte, so this refuses a huge text before anything is copied.
    if len(text) > MOST_ROUND_BYTES:
        raise RoundInvalid("it is too long", most=MOST_ROUND_BYTES)
    try:
        spelled = text if isinstance(text, str) else text.decode()
        found = loads(spelled, _NESTING)
    except ValueError:
        raise RoundInvalid("it is not JSON") from None
    signed = _signed_round(found)
    if encode_round(signed) != spelled:
        raise RoundInvalid("it is not in the only valid form")
    return signed


def _signed_round(found: object) -> SignedRound:
    if not isinstance(found, dict) or found.keys() != {"timestamp", "leaves", "signatures"}:
        raise RoundInvalid("it has a timestamp, leaves and signatures")
    leaves = _list(found["leaves"], MOST_LEAVES, "leaves")
    signatures = _list(found["signatures"], MOST_SIGNERS, "signatures")
    return SignedRound(
        OracleRound(_moment(found["timestamp"], "timestamp"), tuple(map(_leaf, leaves))),
        tuple(map(_signature, signatures)),
    )


def _leaf_row(leaf: RoundLeaf) -> list[str]:
    row = [leaf.feed, format_decimal(leaf.value)]
    return [*row, str(leaf.epoch)] if leaf.epoch else row


def _leaf(row: object) -> RoundLeaf:
    match row:
        case [str(feed), str(value)]:
            return RoundLeaf(feed, _decimal(value, feed))
        case [str(feed), str(value), epoch]:
            return RoundLeaf(feed, _decimal(value, feed), _moment(epoch, "epoch"))
    raise RoundInvalid("a leaf is a feed, a value and, for a rate, an epoch")


def _decimal(text: str, feed: str) -> int:
    try:
        return parse_decimal(text)
    except JsonError:
        raise LeafInvalid(f"its value {text[:48]!a} is no decimal", feed=feed[:32]) from None


def _signature(text: object) -> bytes:
    if not isinstance(text, str) or not _SIGNATURE.fullmatch(text):
        raise RoundInvalid("a signature is 0x and 130 digits")
    return bytes.fromhex(text[2:])


def _moment(text: object, name: str) -> int:
    """A positive number of nanoseconds. Its text is at most 20 digits, so it cannot be huge."""
    if not isinstance(text, str) or not _MOMENT.fullmatch(text) or int(text) >= TIME_END:
        raise RoundInvalid(f"its {name} is no moment")
    return int(text)


def _list(value: object, most: int, name: str) -> list[object]:
    if not isinstance(value, list) or len(value) > most:
        raise RoundInvalid(f"its {name} are no list of at most {most}")
    return value
