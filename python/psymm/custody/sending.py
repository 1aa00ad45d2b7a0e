"""Who takes a finished move to the chain: a relayer for a fee, or the party itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

from psymm.chain.addresses import ZERO_ADDRESS
from psymm.chain.calls import Call
from psymm.chain.contracts import Pool
from psymm.chain.transactions import Receipt, Sent, Signer

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
        """Raises like `Chain.transact`; a `record` is what lets a restart go on with the same
        bytes."""
        return await self.pool.chain.transact(
            self.signer,
            self.pool.address,
            self.pool.move_data(call),
            record=record,
            doing="the withdrawal" if kind == "cta" else "the move between custodies",
            depth=self._depth,
            timeout_s=self._timeout_s,
        )
