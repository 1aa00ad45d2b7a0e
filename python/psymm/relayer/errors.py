"""Why a relayer refuses a call, and why a client gives up on relayers; one type for each.

The server sends a `RelayerRefusal`'s code, message and values, and the client raises the same type.
So the codes are part of the wire format.
"""

from __future__ import annotations

from typing import ClassVar

from psymm.errors import PSymmError


class RelayerError(PSymmError):
    """Base of every error of `psymm.relayer`."""

    code = "relayer"
    amounts = ("fee", "quote", "most")


class RelayerRefusal(RelayerError):
    """A relayer's refusal. known: by code, the type to raise for a refusal from the wire."""

    code = "refused"
    known: ClassVar[dict[str, type[RelayerRefusal]]] = {}

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        RelayerRefusal.known[cls.code] = cls


class BadRequest(RelayerRefusal):
    code = "bad-request"
    what = "the relayer does not know this request"
    remedy = "Compare the versions of the two programs"


class TooManyRequests(RelayerRefusal):
    code = "too-many-requests"
    what = "this address exceeds the relayer's limit for one peer"
    remedy = "Wait a little, or use another relayer"


class Busy(RelayerRefusal):
    code = "busy"
    what = "the relayer's queue is full"
    remedy = "Use another relayer, or try again later"


class OtherChain(RelayerRefusal):
    code = "other-chain"
    what = "this relayer serves another chain"


class OtherContract(RelayerRefusal):
    code = "other-contract"
    what = "this relayer serves another pSymm contract"


class OtherRelayer(RelayerRefusal):
    code = "other-relayer"
    what = "the call names another relayer"
    remedy = "Send it to the named relayer, or send it yourself"


class TokenRefused(RelayerRefusal):
    code = "token-refused"
    what = "this relayer does not accept fees in this token"


class FeeTooLow(RelayerRefusal):
    code = "fee-too-low"
    what = "the fee is below this relayer's quote"
    remedy = "Ask for terms again and sign the call with the new fee"


class DeadlineTooNear(RelayerRefusal):
    code = "deadline-too-near"
    what = "the deadline leaves too little time to be mined"
    remedy = "Sign the call again with a later deadline"


class DeadlineTooFar(RelayerRefusal):
    code = "deadline-too-far"
    what = "the deadline is further away than relayers accept"
    remedy = "Sign the call again with a nearer deadline"


class RelayerFault(RelayerRefusal):
    code = "relayer-fault"
    what = "the relayer failed with an internal error"
    remedy = "Use another relayer"


class AlreadySpent(RelayerRefusal):
    code = "already-spent"
    what = "a nullifier of this call is spent"
    remedy = "Find the move that spent it on chain; sending again does not help"


class Conflict(RelayerRefusal):
    code = "conflict"
    what = "another call with one of these nullifiers or commitments is under way"
    remedy = "Wait until that call is mined or its deadline has passed"


class WouldRevert(RelayerRefusal):
    code = "would-revert"
    what = "the contract refuses this call"


class DidRevert(RelayerRefusal):
    code = "did-revert"
    what = "the call was mined and reverted"
    remedy = "Check whether another move spent its nullifiers"


class ChainTrouble(RelayerRefusal):
    code = "chain-trouble"
    what = "the relayer cannot use its chain node at the moment"
    remedy = "Use another relayer, or try again later"


class RelayerOutOfGas(RelayerRefusal):
    code = "relayer-out-of-gas"
    what = "the relayer's wallet cannot pay for gas"
    remedy = "Use another relayer"


class Stale(RelayerRefusal):
    code = "stale"
    what = "the deadline passed before the call was mined"
    remedy = "Its notes are unspent; sign the call again with a later deadline"


class NoRelayer(RelayerError):
    """No relayer sent the move; `values` has each relayer's reason."""

    code = "no-relayer"
    what = "no relayer in the registry sent this move"
    remedy = "Try again later, or send it yourself (your wallet then shows as the sender)"


class RelayerDead(RelayerError):
    code = "relayer-dead"
    what = "the relayer does not answer"


class RelayerLied(RelayerError):
    code = "relayer-lied"
    what = "the relayer's answer contradicts the chain"


class SpentElsewhere(RelayerError):
    code = "spent-elsewhere"
    what = "another move spent a nullifier of this one"
    remedy = "Find that transaction on chain; this move can never be mined"


class RelayerStoreError(RelayerError):
    code = "relayer-store"
    what = "the relayer's file of sends cannot be used"


class RelayerConfigError(RelayerError):
    code = "relayer-config"
    what = "the relayer's configuration is invalid"
