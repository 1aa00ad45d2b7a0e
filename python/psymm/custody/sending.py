"""Who takes a finished move to the chain: a relayer for a fee, or the party itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

from psymm.chain.abi import ZERO_ADDRESS
from psymm.chain.calls import Call
from psymm.chain.contracts import Pool
from psymm.chain.errors import (
    BadReply,
    ChainDown,
    ChainError,
    OutOfGas,
    Reverted,
    RpcError,
    TransactionPending,
    TransactionReplaced,
)
from psymm.chain.transactions import Chain, Receipt, Sent, Signer

Record: TypeAlias = Callable[[Sent], Awaitable[None]]
"""Makes a signed transaction durable before a node sees it."""


@dataclass(frozen=True, slots=True)
class SendTerms:
    """What a sender asks for one move.  fee: token units; relayer: the address that gets it.

    No fee: relayer is the zero address.
    """

    relayer: str = ZERO_ADDRESS
    fee: int = 0


class Sender(Protocol):
    """Takes finished moves to the chain.  The relayer's client is one, DirectSender another."""

    async def terms(self, kind: str, token: str) -> SendTerms:
        """What a move of a kind ("ctc" or "cta") in a token costs.  Asked before it is signed."""
        ...

    async def send(self, kind: str, call: Call) -> Receipt:
        """Take a finished move to the chain and wait until it is mined.

        Raises a PSymmError if it was refused or its fate is unknown; either way it may still be
        mined until its deadline.  Cancelled: likewise.
        """
        ...


class DirectSender:
    """Sends moves from an account of one's own, which everybody sees and which pays the gas."""

    def __init__(self, pool: Pool, signer: Signer, *, depth: int = 1, timeout_s: float = 180.0):
        self.pool: Final = pool
        self.signer: Final = signer
        self._depth = depth
        self._timeout_s = timeout_s

    def __repr__(self) -> str:
        return f"DirectSender({self.signer.address})"

    async def terms(self, kind: str, token: str) -> SendTerms:
        return SendTerms()

    async def send(self, kind: str, call: Call, *, record: Record | None = None) -> Receipt:
        """Raises like `send_once`; a `record` is what lets a restart go on with the same bytes."""
        return await send_once(
            self.pool.chain,
            self.signer,
            self.pool.address,
            self.pool.move_data(call),
            record=record,
            doing="the withdrawal" if kind == "cta" else "the move between custodies",
            depth=self._depth,
            timeout_s=self._timeout_s,
        )


async def send_once(
    chain: Chain,
    signer: Signer,
    to: str,
    data: bytes,
    *,
    record: Record | None,
    doing: str,
    depth: int = 1,
    timeout_s: float = 180.0,
) -> Receipt:
    """Send one transaction and wait until it is `depth` blocks deep.

    Raises TransactionPending wherever the node may have the bytes and nothing proves their end.
    Every other error means that this transaction does not happen: it was never signed, the node
    refused it, it failed in a block, or another one took its nonce. A refused transaction's nonce
    goes to this account's next one, so of the two at most one can be mined.
    Cancelled: raises Cancelled; if `record` was called, the transaction may be mined.
    """
    prepared = await chain.prepare(signer.address, to, data, doing=doing)
    signed: list[Sent] = []

    async def keep(sent: Sent) -> None:
        if record is not None:
            await record(sent)
        signed.append(sent)

    try:
        sent = await chain.send(signer, prepared, record=keep)
    except ChainError as failed:
        if not signed or not _proves_nothing(failed):
            raise
        sent = signed[-1]
    return await wait_for_proof(chain, sent, depth=depth, timeout_s=timeout_s, doing=doing)


async def wait_for_proof(
    chain: Chain, sent: Sent, *, doing: str, depth: int = 1, timeout_s: float = 180.0
) -> Receipt:
    """Wait for a transaction that was handed over; the same bytes again where the node forgot it.

    Raises Reverted, OutOfGas or TransactionReplaced on proof, TransactionPending on anything else.
    Cancelled: raises Cancelled; the transaction lives on.
    """
    try:
        return await chain.wait(sent, depth=depth, timeout_s=timeout_s, doing=doing)
    except (Reverted, OutOfGas, TransactionReplaced, TransactionPending):
        raise
    except ChainError as failed:
        raise TransactionPending(sent.tx_hash, timeout_s) from failed


def _proves_nothing(failed: ChainError) -> bool:
    """Whether an error while bytes were handed over leaves open if the node took them."""
    if isinstance(failed, RpcError):
        return failed.method != "eth_sendRawTransaction"
    return isinstance(failed, ChainDown | BadReply | TransactionPending)
