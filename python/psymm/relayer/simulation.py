"""Simulating a call: whether the contract would accept it now.

Races. A note can be offered to several relayers, and only one of them is paid. So a call is
simulated when it is admitted and again just before it is broadcast, on the node's pending block: if
a move in the node's pool spends the same note, the call is refused and costs nothing. Moves that
the node does not see (another node's pool, a private order flow, the same moment) cannot be known;
then the call is mined and reverts.
"""

from __future__ import annotations

from psymm.chain.calls import Call
from psymm.chain.contracts import Pool
from psymm.chain.errors import NotAnswered, OutOfGas, Reverted, RpcError
from psymm.relayer.errors import AlreadySpent, WouldRevert


class Simulation:
    """Simulates calls of one pool.  sender: the account that would send them."""

    def __init__(self, pool: Pool, sender: str) -> None:
        self._pool = pool
        self._sender = sender

    async def simulate(self, call: Call) -> None:
        """Simulate a call after all moves in the node's pool.

        Raises AlreadySpent, WouldRevert and what reading the chain raises.
        """
        try:
            await self.simulate_on(call, "pending")
        except (RpcError, NotAnswered):
            # Not every node serves a pending block.
            await self.simulate_on(call, "latest")

    async def simulate_on(self, call: Call, block: str) -> None:
        for nullifier in call.nullifiers:
            if await self._pool.is_spent(nullifier, block):
                raise AlreadySpent(nullifier=nullifier)
        try:
            await self._pool.simulate_move(call, self._sender, block)
        except Reverted as refused:
            if block == "pending" and refused.error == "RootUnknown":
                # The pending state may be built on an older block than the client's root.
                return await self.simulate_on(call, "latest")
            raise WouldRevert(f"the contract refuses this call: {refused.error}") from None
        except OutOfGas:
            raise WouldRevert("the call runs out of gas") from None
        return None
