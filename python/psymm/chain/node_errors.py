"""What a node's error means: one table, because every node software words its errors differently.

The number of a JSON-RPC error says little: geth uses -32000 for nearly all of them, besu one number
for several.  So the message decides.  The patterns match, in lower case, the messages of geth,
erigon, nethermind, besu, reth, anvil, and of the gateways of Infura and Alchemy.  A contract can
put any words into its revert reason, so reverts are recognised first.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Final


class NodeErrorKind(Enum):
    """What a node's error means for a request."""

    REVERTED = "a contract refused"
    OUT_OF_GAS = "the gas limit is too low"
    NOT_ANSWERED = "the node did not answer the question: it lags, is busy, or limits requests"
    PRUNED = "the node no longer has the state of a block that old"
    RANGE = "too many blocks or results at once"
    KNOWN = "the node has this very transaction already"
    NONCE_USED = "a mined transaction has the nonce"
    NONCE_HELD = "a waiting transaction has the nonce"
    FEE = "the fee is too low"
    COIN = "the sender cannot pay"
    REFUSED = "refused for another reason"


SEND: Final = "eth_sendRawTransaction"
_LOGS: Final = "eth_getLogs"
_MOST_READ: Final = 2_000
"""How much of a message is read, in characters. The patterns take time by the square of it, and a
node may send megabytes."""

_BUSY: Final = (
    r"rate.?limit|too many requests|request (count|rate)|requests per second|compute units"
    r"|throttl|capacity|quota|back ?off"
    r"|tim(ed ?|e)out|timed out|deadline exceeded|temporar|unavailable|unable to complete"
    r"|internal (server |json-?rpc )?error|something went wrong"
    r"|no backend|bad gateway|try again|retry later|overload|busy"
)
_LAGS: Final = (
    r"indexing|header (for hash )?not found|block (\S+ )?not found|block not found|unknown block"
    r"|hash not found|resource not found|blockoutofrange"
    r"|block height is \d+ but requested|beyond current head"
    r"|(cannot|could not|can't) find (the )?(header|block)|sync is still"
    r"|(still|is|node) sync|after last accepted block|ahead of (the )?(chain|head)"
)
# A lagging node has no state of a newer block; these words are about older ones.
_PRUNED: Final = (
    r"missing trie node|state .*(pruned|is not available|unavailable|already discarded)|world state"
    r"|historical state|no state available|required historical|old data not available"
)
_RANGE: Final = (
    r"\brange|results|response size|(too|so) (many|large|wide|big)|exceed|more than \d+|limit"
)

# The first row that fits decides. So "replacement transaction underpriced" is about the nonce,
# which a waiting transaction holds, and not about the fee.
_TABLE: Final = tuple(
    (method, re.compile(words), answer)
    for method, words, answer in (
        (SEND, r"already ?known|already.?exists|already imported|known transaction"
                r"|existing tx with same hash", NodeErrorKind.KNOWN),
        (SEND, r"replac|in.?flight transaction", NodeErrorKind.NONCE_HELD),
        (SEND, r"nonce (is )?too low|old ?nonce|nonce.?already.?used|nonce .*below",
         NodeErrorKind.NONCE_USED),
        # This node lacks the account's earlier transactions; others have them.
        (SEND, r"nonce (is )?too (high|distant|far)|nonce.?gap|noncetoofar",
         NodeErrorKind.NOT_ANSWERED),
        (SEND, r"pool is full|pool full|pool limit", NodeErrorKind.NOT_ANSWERED),
        (None, r"insufficient ?(funds|balance)|upfront cost exceeds", NodeErrorKind.COIN),
        (None, r"underpriced|fee ?too ?low|tip .*(minimum|below|too low)|less than block base fee"
               r"|below (current |the |block )*base ?fee|gas price (is )?(too low|below|less)"
               r"|below (configured |the )?minimum|priority fee .*(below|less|low|minimum)",
         NodeErrorKind.FEE),
        (None, r"out ?of ?gas|gas required exceeds|intrinsic gas", NodeErrorKind.OUT_OF_GAS),
        (_LOGS, r"beyond current head", NodeErrorKind.NOT_ANSWERED),
        # Gateways word rate limits and range limits alike. Blocks or results mean a range.
        (_LOGS, r"block range|range limit|response size|results|range is too|max(imum)? .*range",
         NodeErrorKind.RANGE),
        (None, _PRUNED, NodeErrorKind.PRUNED),
        (None, _BUSY, NodeErrorKind.NOT_ANSWERED),
        (None, _LAGS, NodeErrorKind.NOT_ANSWERED),
        (_LOGS, _RANGE, NodeErrorKind.RANGE),
    )
)  # fmt: skip


def classify(method: str, number: int, message: str, data: object = None) -> NodeErrorKind:
    """What a JSON-RPC error (its code, message and data) means for a request."""
    said = message[:_MOST_READ].lower()
    if "revert" in said or revert_data(data):
        return NodeErrorKind.REVERTED
    for only, words, answer in _TABLE:
        if only in (None, method) and words.search(said):
            return answer
    if number == 429 or (number == -32005 and method != SEND):
        return NodeErrorKind.NOT_ANSWERED  # EIP-1474: limit exceeded
    return NodeErrorKind.REFUSED


def revert_data(data: object) -> bytes | None:
    """A contract's revert data, from either place where nodes put it; None if there is none."""
    if isinstance(data, dict):
        data = data.get("data") or data.get("result")
    if isinstance(data, str) and data.startswith("0x"):
        try:
            return bytes.fromhex(data[2:])
        except ValueError:
            return None
    return None
