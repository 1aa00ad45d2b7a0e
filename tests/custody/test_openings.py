"""Collateral that is missing, spent, too small, or in another custody or token is refused."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import pytest

from psymm.chain.deployment import Deployment
from psymm.chain.devnet import Devnet
from psymm.chain.rpc import Rpc
from psymm.chain.sync import open_tree
from psymm.chain.transactions import Chain
from psymm.custody.moves import open_vault
from psymm.custody.notes import Custody
from psymm.custody.openings import verify_collateral, verify_opening
from psymm.custody.planning import Signatures, deadline_after
from psymm.custody.settlement import propose_settlement
from psymm.errors import (
    CollateralForeign,
    CollateralMissing,
    CollateralNotListed,
    CollateralSpent,
    CollateralTooSmall,
    CollateralWrongToken,
)

pytestmark = [pytest.mark.chain, pytest.mark.proofs]


class Overheard(Rpc):
    """A node that records its requests."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.asked = ""

    async def call(self, method: str, *params: object) -> Any:
        self.asked += json.dumps(params).lower()
        return await super().call(method, *params)


@pytest.fixture
async def opened() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


async def test_only_what_the_chain_bears_out_is_taken(
    devnet: Devnet, deployment: Deployment, token: str, funded_wallet, vault, direct, opened
) -> None:
    alice, bob = await funded_wallet(units=100), await funded_wallet(units=0)
    custody = Custody(alice.public_key, bob.public_key, b"\x11" * 32, b"\x02" * 32)
    trader, senders = await vault(alice), await direct()
    node = await opened.enter_async_context(Overheard(devnet.url))
    solver = await opened.enter_async_context(
        await open_vault(bob, deployment, Chain(node, deployment.chain_id))
    )
    await trader.deposit(alice, token, 100)
    note = (await trader.fund(custody, token, 60, senders)).note
    opening, listed = note.opening, [(note.commitment, note.nullifier)]

    assert await verify_opening(opening, custody, token, solver.tree) == note
    assert await verify_collateral([opening], listed, custody, token, 60, solver.tree) == [note]

    with pytest.raises(CollateralTooSmall):
        await verify_collateral([opening], listed, custody, token, 61, solver.tree)
    with pytest.raises(CollateralWrongToken):
        await verify_opening(opening, custody, deployment.registry, solver.tree)
    for changed in (replace(opening, amount=61), replace(opening, blinding=b"\x01" * 32)):
        with pytest.raises(CollateralForeign):
            await verify_opening(changed, custody, token, solver.tree)
    with pytest.raises(CollateralForeign):
        await verify_opening(opening, replace(custody, salt=bytes(32)), token, solver.tree)
    with pytest.raises(CollateralForeign):
        await verify_collateral(
            [opening], [(note.commitment, b"\x01" * 32)], custody, token, 60, solver.tree
        )
    imagined = trader.view.note(custody, token, 60, 12345)
    with pytest.raises(CollateralMissing):
        await verify_opening(imagined.opening, custody, token, solver.tree)
    for shown, promised in (
        ([opening], []),
        ([], listed),
        ([opening, opening], listed),
        ([opening], [*listed, (imagined.commitment, imagined.nullifier)]),
    ):
        with pytest.raises(CollateralNotListed):
            await verify_collateral(shown, promised, custody, token, 1, solver.tree)

    # Not deep enough yet is missing; spent counts from the first block that shows it.
    deep = await open_tree(deployment.pool(devnet.chain), deployment.first_block, depth=10_000)
    with pytest.raises(CollateralMissing):
        await verify_opening(opening, custody, token, deep)
    await deep.aclose()
    late = await open_tree(deployment.pool(devnet.chain), deployment.first_block, depth=4)
    await devnet.mine(4)
    assert await verify_opening(opening, custody, token, late) == note

    settlement = propose_settlement(
        [note],
        (await trader.settlements.payee(token, 30), await solver.settlements.payee(token, 30)),
        (30, 30),
        proposer=0, deadline=deadline_after(await trader.chain.now_s()),
    )  # fmt: skip
    signatures = Signatures(
        await trader.settlements.sign(settlement), await solver.settlements.sign(settlement)
    )
    await trader.settlements.settle(settlement, signatures, senders)
    assert late.spent_block(note.nullifier) is None
    for tree in (late, solver.tree):
        with pytest.raises(CollateralSpent):
            await verify_opening(opening, custody, token, tree)
    await late.aclose()

    # The node that the solver asks never hears which notes it cares about.
    await solver.settlements.await_mined(settlement)
    assert await solver.settlements.mined_in(settlement) is not None
    call = settlement.call
    for name in (note.commitment, *call.nullifiers, *call.commitments):
        assert name.hex() not in node.asked
