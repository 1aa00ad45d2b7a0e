"""What is wrong with an oracle's round, its signers or its proofs."""

from __future__ import annotations

from psymm.errors import PSymmError


class OracleError(PSymmError):
    code = "oracle"


class LeafInvalid(OracleError):
    """A feed, epoch or value that no leaf can have."""

    code = "oracle-leaf"
    what = "this is no price and no funding rate"
    remedy = (
        "A feed is 1 to 32 printable ASCII characters without spaces; a price is above zero; at "
        "most 20 digits are before the point, and 18 after it"
    )


class RoundInvalid(OracleError):
    """A round that is malformed, unsorted, too large or off the grid."""

    code = "oracle-round"
    what = "this is no round of prices"
    remedy = "Nothing of it was used"


class ProofInvalid(OracleError):
    """A path that does not lead to the root, or two leaves that prove no absence."""

    code = "oracle-proof"
    what = "the proof does not show this of the round"
    remedy = "Take the proof from the whole round"


class SignersUnsound(OracleError):
    """Signers of whom two halves could sign two roots of one moment (`spec.md` 41)."""

    code = "oracle-signers"
    what = "these signers are unsound"
    remedy = "Name 1 to 16 different signers, and a threshold of more than half of them"


class TooFewSigners(OracleError):
    code = "oracle-signatures"
    what = "too few of the signers signed this round"
    remedy = "Nothing of it was used"
