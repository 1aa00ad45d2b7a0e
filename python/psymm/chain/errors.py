"""What can go wrong between this package and a chain, one type for each.

Every error carries the values that caused it and says what the user can do.  None carries a key, a
signature, or the path or query of an RPC address, because providers put their customers' keys
there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from psymm.chain.node_errors import classify
from psymm.errors import PSymmError

_CLIP: Final = 200


class ChainError(PSymmError):
    """Base of every error of ``psymm.chain``."""

    code = "chain"


class ChainDown(ChainError):
    """The node did not answer, after all attempts of a read."""

    code = "chain-down"
    what = "the chain does not answer"
    remedy = "Check that the node runs and that its address is right, then try again"

    def __init__(self, endpoint: str, reason: str) -> None:
        self.endpoint = endpoint
        self.reason = reason
        super().__init__(endpoint=endpoint, reason=reason)


class NodeAddressInvalid(ChainDown):
    """A text is not a node's address.  The text is not shown, because it may hold a key."""

    code = "no-node-address"
    what = "the node's address is not a URL"
    remedy = "Write it like http://127.0.0.1:8545"

    def __init__(self, reason: str) -> None:
        super().__init__("(no address)", reason)
        self.values = {"reason": reason}


class NotAnswered(ChainDown):
    """The node answered, but not the question: it lags, is busy, limits requests, or sent a web
    page.  Asking again helps."""

    code = "chain-not-answered"
    what = "the node does not answer the question"
    remedy = "Try again in a while; if that does not help, use another node"


class StatePruned(NotAnswered):
    """The node has pruned the state of a block that old.  Asking again seldom helps."""

    code = "chain-state-pruned"
    what = "the node keeps no state of a block that old"
    remedy = "Add an archive node, which keeps all state (--rpc may be given more than once)"


class BadReply(ChainError):
    """The node's answer breaks the protocol."""

    code = "chain-bad-reply"
    what = "the node's answer is not what the protocol allows"
    remedy = "Use another node"

    def __init__(self, endpoint: str, method: str, reason: str) -> None:
        self.endpoint = endpoint
        self.method = method
        self.reason = reason
        super().__init__(endpoint=endpoint, method=method, reason=reason)


class NodesDisagree(BadReply):
    """Two nodes differ on something that every honest node answers alike."""

    code = "chain-nodes-disagree"
    what = "two nodes contradict each other"
    remedy = "One of them is wrong, or is on an abandoned branch. Find out which"

    def __init__(self, endpoint: str, other: str, method: str) -> None:
        super().__init__(f"{endpoint}, {other}", method, "their answers differ")


class ReplyTooLong(BadReply):
    """The node's answer is longer than any that we accept."""

    code = "chain-reply-too-long"


class RpcError(ChainError):
    """The node refused a request: JSON-RPC's error object in ``number``, ``message``, ``data``.

    Attributes:
        kind: what the error means (`node_errors.py`).
    """

    code = "chain-refused"
    what = "the node refused a request"

    def __init__(self, method: str, number: int, message: str, data: object = None) -> None:
        self.method = method
        self.number = number
        self.message = message
        self.data = data
        self.kind: Final = classify(method, number, message, data)
        super().__init__(method=method, number=number, message=clipped(message))


class WrongChain(ChainError):
    """The node serves another chain than the deployment or the transaction is for."""

    code = "wrong-chain"
    what = "the node serves another chain"
    remedy = "Use a node of the right chain, or another deployment file"

    def __init__(self, endpoint: str, expected: int, found: int) -> None:
        self.endpoint = endpoint
        self.expected = expected
        self.found = found
        super().__init__(endpoint=endpoint, expected=expected, found=found)


class Reverted(ChainError):
    """A contract refused.

    Attributes:
        error: the name of its custom error.
        values: the error's arguments.
    """

    code = "reverted"

    def __init__(
        self, doing: str, error: str, values: Mapping[str, Any], *, data: bytes = b""
    ) -> None:
        self.doing = doing
        self.error = error
        self.data = data
        super().__init__(f"{doing} was refused by the contract with {error}")
        # A node may give megabytes as a reason; numbers and short values keep their type.
        self.values = {
            key: clipped(value) if len(str(value)) > _CLIP else value
            for key, value in values.items()
        }


class OutOfGas(ChainError):
    """A transaction used all of its gas limit."""

    code = "out-of-gas"
    remedy = "Send it again with a higher limit"

    def __init__(self, doing: str, gas_limit: int) -> None:
        self.doing = doing
        self.gas_limit = gas_limit
        super().__init__(f"{doing} used all its gas", gas_limit=gas_limit)


class WalletWithoutGas(ChainError):
    """The sender cannot pay for the transaction in the chain's coin."""

    code = "wallet-without-gas"
    what = "the wallet cannot pay for the transaction"
    remedy = "Send some of the chain's coin to the wallet, or let a relayer send the move"

    def __init__(self, address: str, balance_wei: int, needed_wei: int) -> None:
        self.address = address
        self.balance_wei = balance_wei
        self.needed_wei = needed_wei
        super().__init__(address=address, balance_wei=balance_wei, needed_wei=needed_wei)


class AllowanceTooLow(ChainError):
    """The portal may not take as much of the token as the deposit needs."""

    code = "allowance-too-low"
    what = "the token's owner allows less than the deposit needs"
    remedy = "Approve the portal for that amount, or deposit with a permit"
    amounts = ("allowance", "needed")

    def __init__(self, token: str, owner: str, spender: str, allowance: int, needed: int) -> None:
        self.token = token
        self.owner = owner
        self.spender = spender
        self.allowance = allowance
        self.needed = needed
        super().__init__(
            token=token, owner=owner, spender=spender, allowance=allowance, needed=needed
        )


class TokenBalanceTooLow(ChainError):
    """The depositor holds less of the token than it wants to deposit."""

    code = "token-balance-too-low"
    what = "the depositor holds too little of the token"
    remedy = "Deposit less, or get more of the token first"
    amounts = ("balance", "needed")

    def __init__(self, token: str, owner: str, balance: int, needed: int) -> None:
        self.token = token
        self.owner = owner
        self.balance = balance
        self.needed = needed
        super().__init__(token=token, owner=owner, balance=balance, needed=needed)


class TokenUnfit(ChainError):
    """A token that pSymm cannot hold, or cannot hold for this wallet now."""

    code = "token-unfit"
    remedy = "Nothing was signed and nothing was sent. Use another token"

    def __init__(self, token: str, reason: str) -> None:
        self.token = token
        self.reason = reason
        super().__init__(f"the token {token} cannot be used: {reason}")


class TokenUnlisted(ChainError):
    """A token that the deployment does not list.  known: the listed ones."""

    code = "token-unlisted"
    what = "the deployment lists no such token"
    remedy = "Name a listed one by its symbol or address, or list it: psymm deploy --token ADDRESS"

    def __init__(self, token: str, known: str) -> None:
        super().__init__(token=token, known=known)


class TokenChanged(TokenUnfit):
    """A token that is no longer what the deployment lists.

    Args:
        symbol: as listed.
        field: what changed: `code`, `decimals`, `symbol` or `transfers`.
        before: the field's value when the token was listed.
        now: its value now.
    """

    code = "token-changed"
    remedy = (
        "Other tokens are not affected. If this is still the token that you want, list it as it is "
        "now: psymm deploy --token ADDRESS"
    )

    def __init__(self, token: str, symbol: str, field: str, before: str, now: str) -> None:
        super().__init__(token, f"{symbol} is no longer what was listed")
        self.field = field
        self.facts = {"token": token, "field": field, "before": before, "now": now}
        self.values = dict(self.facts)


class PermitMissing(ChainError):
    """A token that takes no EIP-2612 permit."""

    code = "permit-missing"
    remedy = "Nothing was signed. Deposit without a permit: the portal is then approved first"

    def __init__(self, token: str, reason: str) -> None:
        self.token = token
        self.reason = reason
        super().__init__(f"the token {token} takes no permit (EIP-2612): {reason}")


class ChainUnfit(ChainError):
    """A chain, or the node that serves it, lacks what the contracts or this program need."""

    code = "chain-unfit"
    what = "the chain, or the node that serves it, lacks what pSymm needs"
    remedy = "Nothing was sent. Use another node, or another chain"

    def __init__(self, endpoint: str, lacks: str, said: str = "") -> None:
        self.endpoint = endpoint
        self.lacks = lacks
        values = {"said": clipped(said)} if said else {}
        super().__init__(endpoint=endpoint, lacks=lacks, **values)


class FeeRefused(ChainError):
    """The node refuses this fee and every fee up to our limit.  Nothing was sent."""

    code = "fee-refused"
    what = "the node refuses the transaction's fee"
    remedy = "Try again when the chain is less busy, or use another node"

    def __init__(self, said: str, max_wei: int, tip_wei: int) -> None:
        self.said = said
        self.max_wei = max_wei
        self.tip_wei = tip_wei
        super().__init__(said=clipped(said), max_wei=max_wei, tip_wei=tip_wei)


class TransactionReplaced(ChainError):
    """Another transaction with this one's nonce is mined, so this one cannot be.

    Attributes:
        by: the hash of the other one; empty if it is not known.
    """

    code = "transaction-replaced"
    what = "another transaction of this wallet took the nonce"
    remedy = "Find out which program shares this wallet before sending again"

    def __init__(self, tx_hash: str, sender: str, nonce: int, by: str = "") -> None:
        self.tx_hash = tx_hash
        self.sender = sender
        self.nonce = nonce
        self.by = by
        super().__init__(
            transaction=tx_hash, sender=sender, nonce=nonce, **({"by": by} if by else {})
        )


class TransactionPending(ChainError):
    """A transaction was handed over, and nothing proves its fate yet.

    Attributes:
        reason: the node's last error, if it did not answer.
    """

    code = "transaction-pending"
    remedy = (
        "It may still be mined, so do not send the same again. The next command continues with it; "
        "`psymm notes` shows how it ended"
    )

    def __init__(self, tx_hash: str, waited_s: float, reason: str = "", **figures: int) -> None:
        self.tx_hash = tx_hash
        self.waited_s = waited_s
        self.reason = reason
        self.figures = figures
        super().__init__(
            f"sent as {tx_hash}, not confirmed yet",
            transaction=tx_hash,
            waited_s=f"{waited_s:g}",
            **({"reason": clipped(reason)} if reason else {}),
            **figures,
        )

    def after(self, waited_s: float) -> TransactionPending:
        """The same error with the total time waited."""
        return type(self)(self.tx_hash, waited_s, self.reason, **self.figures)


class TransactionUnderpriced(TransactionPending):
    """A transaction whose fee is too low for the newest blocks and is not raised further.

    Attributes:
        figures: `offered_wei`, the most that it pays; `base_fee_wei`, what the newest block asks;
            `limit_wei`, the most that may be offered (all wei per gas); and its `nonce`.
    """

    code = "transaction-underpriced"
    remedy = (
        "Its fee is too low for the newest blocks. It is mined once they ask less, so do not send "
        "the same again. The next command continues with it and offers more, up to the limit. "
        "Later transactions of this account wait for it. To cancel it, send 0 to yourself with "
        "this nonce at a higher fee, from the same wallet"
    )


class LyingNode(ChainError):
    """The node contradicts itself, so nothing that it says can be used."""

    code = "lying-node"
    remedy = "Use another node"

    def __init__(self, endpoint: str, about: str, expected: object, found: object) -> None:
        self.endpoint = endpoint
        self.about = about
        self.expected = expected
        self.found = found
        super().__init__(
            f"the node contradicts itself about {about}",
            endpoint=endpoint,
            expected=expected,
            found=found,
        )


class DeploymentInvalid(ChainError):
    """A deployment file, or a contract that it names, is not what it must be."""

    code = "deployment-invalid"
    remedy = "Get the file from the deployer of the contracts, or deploy them with `psymm deploy`"

    def __init__(self, field: str, reason: str) -> None:
        self.field = field
        self.reason = reason
        super().__init__(f"{field}: {reason}")


class ArtifactMissing(ChainError):
    """A compiled contract or circuit that belongs to the package is missing."""

    code = "artifact-missing"
    what = "a file that comes with the package is missing"
    remedy = "An installed wheel contains it; in a source checkout, run `make setup`"

    def __init__(self, path: str) -> None:
        self.path = path
        super().__init__(path=path)


class ToolsMissing(ChainError):
    """Node or one of its packages is not installed; only proving and the devnet need them."""

    code = "tools-missing"
    remedy = "Install Node 20 or later, then run `psymm tools install`"

    def __init__(self, missing: str, looked_in: tuple[str, ...] = ()) -> None:
        self.missing = missing
        self.looked_in = looked_in
        places = {"looked_in": ", ".join(looked_in)} if looked_in else {}
        super().__init__(f"{missing} is not installed", **places)


class DevnetFailed(ChainError):
    """The development chain did not start, or died."""

    code = "devnet-failed"
    what = "the development chain failed"

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason=reason)


class RegistrationInvalid(ChainError):
    """A registry entry, ours or one on chain, has a field that it must not have."""

    code = "registration-invalid"

    def __init__(self, field: str, found: object, reason: str) -> None:
        self.field = field
        self.found = found
        self.reason = reason
        super().__init__(f"{field}: {reason}", found=clipped(found))


class CallInvalid(ChainError):
    """A move's call, or a value for one, has the wrong form."""

    code = "call-invalid"

    def __init__(self, field: str, reason: str) -> None:
        self.field = field
        self.reason = reason
        super().__init__(f"{field}: {reason}")


class NotSynchronised(ChainError):
    """The tree did not show what was waited for in time."""

    code = "not-synchronised"
    what = "the chain does not show it yet"
    remedy = "Wait for more blocks; if that does not help, look up the transaction"

    def __init__(self, awaited: str, waited_s: float) -> None:
        self.awaited = awaited
        self.waited_s = waited_s
        super().__init__(awaited=awaited, waited_s=f"{waited_s:g}")


def clipped(value: object) -> str:
    """A value as text, cut to a fixed length."""
    text = "0x" + value.hex() if isinstance(value, bytes) else str(value)
    return text if len(text) <= _CLIP else text[: _CLIP - 1] + "…"
