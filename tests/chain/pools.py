"""A node's pool that works like geth's: a transaction that pays too little for the next block waits
in it.

anvil throws such a transaction out, which is another habit of real nodes; `KeepingPool` hands a
transaction on to anvil only once the next block's price lets it in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import trio
from eth_account.typed_transactions.typed_transaction import TypedTransaction
from hexbytes import HexBytes

from psymm._core import keccak256
from psymm.chain.devnet import Devnet
from psymm.chain.errors import RpcError
from psymm.chain.nodes import Node
from psymm.chain.rpc import Rpc

SEND = "eth_sendRawTransaction"


@dataclass(frozen=True)
class Given:
    """A transaction as a node got it."""

    raw: str
    hash: str
    nonce: int
    max_wei: int
    tip_wei: int
    does: tuple[object, ...]
    """Everything but nonce and fees."""


def read(raw: str) -> Given:
    fields = TypedTransaction.from_bytes(HexBytes(raw)).as_dict()
    return Given(
        raw,
        "0x" + keccak256(bytes(HexBytes(raw))).hex(),
        fields["nonce"],
        fields["maxFeePerGas"],
        fields["maxPriorityFeePerGas"],
        (fields["to"], fields["value"], fields["data"], fields["gas"]),
    )


class KeepingPool(Rpc):
    """One account's transactions, one for each nonce.

    bump: percent by which a replacement must pay more.  leaves_out: is asked for each transaction
    whether no block may have it.
    """

    def __init__(
        self, url: str, *, bump: int = 10, leaves_out: Callable[[Given], bool] | None = None
    ) -> None:
        super().__init__(url)
        self.forget()
        self._bump = bump
        self._leaves_out = leaves_out or (lambda _: False)

    def forget(self) -> None:
        self.kept: dict[int, Given] = {}
        self.given: list[Given] = []
        self.taken, self.replaced = trio.Event(), trio.Event()

    @property
    def versions(self) -> list[Given]:
        """The transactions that were handed over, each once."""
        return list({one.hash: one for one in self.given}.values())

    async def raw_result(self, node: Node, method: str, params: Sequence[Any]) -> Any:
        if method == SEND:
            self._take(read(params[0]))
        for one in list(self.kept.values()):
            if not self._leaves_out(one):
                try:
                    await super().raw_result(node, SEND, [one.raw])
                except RpcError as refused:
                    if "nonce too low" in refused.message:
                        del self.kept[one.nonce]
        if method == SEND:
            return read(params[0]).hash
        answer = await super().raw_result(node, method, params)
        if method == "eth_getTransactionByHash" and answer is None:
            return next((shown(one) for one in self.kept.values() if one.hash == params[0]), answer)
        if method == "eth_getTransactionCount" and params[1] == "pending":
            return hex(max(int(answer, 16), *(nonce + 1 for nonce in self.kept), 0))
        return answer

    def _take(self, one: Given) -> None:
        self.given.append(one)
        held = self.kept.get(one.nonce)
        if held is not None and held.hash == one.hash:
            raise RpcError(SEND, -32000, "already known")
        if held is not None and any(
            100 * new < (100 + self._bump) * old
            for new, old in ((one.max_wei, held.max_wei), (one.tip_wei, held.tip_wei))
        ):
            raise RpcError(SEND, -32000, "replacement transaction underpriced")
        self.kept[one.nonce] = one
        self.taken.set()
        if held is not None:
            self.replaced.set()


def shown(one: Given) -> dict[str, object]:
    to, value, data, gas = one.does
    return {
        "hash": one.hash,
        "from": "0x" + "11" * 20,
        "to": "0x" + bytes(HexBytes(to)).hex(),  # type: ignore[arg-type]
        "nonce": hex(one.nonce),
        "blockNumber": None,
        "input": "0x" + bytes(HexBytes(data)).hex(),  # type: ignore[arg-type]
        "value": hex(value),  # type: ignore[call-overload]
        "gas": hex(gas),  # type: ignore[call-overload]
    }


async def mine_at(net: Devnet, base_fee_wei: int, blocks: int = 1) -> None:
    """Blocks with this base fee."""
    for _ in range(blocks):
        await net.rpc.call("anvil_setNextBlockBaseFeePerGas", hex(base_fee_wei))
        await net.mine()


async def mining_at(net: Devnet, base_fee_wei: int) -> None:
    """Make such blocks until cancelled."""
    while True:
        await mine_at(net, base_fee_wei)
        await trio.sleep(0.02)
