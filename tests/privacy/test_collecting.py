"""What the observer collects is what the chain has, and its report says so."""

from __future__ import annotations

from dataclasses import replace

import pytest
from joining import join
from observer import observe

from psymm.chain.addresses import ZERO_ADDRESS
from psymm.chain.artifacts import artifact
from psymm.chain.deployment import TokenInfo, deploy
from psymm.chain.devnet import Devnet
from psymm.chain.errors import Reverted
from psymm.chain.registry import Role
from psymm.custody.moves import open_vault

pytestmark = [pytest.mark.chain]


async def test_deposits_entries_and_keys_are_read_off_the_chain(own_devnet: Devnet) -> None:
    chain = own_devnet.chain
    deployment = await deploy(
        chain, await own_devnet.new_account(), test_token=TokenInfo(ZERO_ADDRESS, "USDT", 6)
    )
    token = deployment.tokens[0].address
    registry = deployment.party_registry(chain)
    alice, bob, carol = [await own_devnet.new_account() for _ in range(3)]
    mint = artifact("TestToken").abi.function("mint")
    await chain.transact(carol, token, mint.encode(alice.address, 500))
    async with await open_vault(alice, deployment, chain) as vault:
        plain = await vault.deposit(alice, token, 200)
        signed = await vault.deposit(alice, token, 300, permit=True)
    await registry.register(bob, Role.SOLVER, "ws://127.0.0.1:4000/", bob.public_key)
    await registry.register(bob, Role.SOLVER, "ws://127.0.0.1:4001/", bob.public_key)
    await registry.register(carol, Role.RELAYER, "ws://127.0.0.1:4002/", carol.public_key)
    await registry.remove(carol, Role.RELAYER)

    seen = await observe(chain, deployment)
    assert [(one.who, one.amount, one.inner, one.commitment) for one in seen.deposits] == [
        (alice.address, 200, plain.inner, plain.commitment),
        (alice.address, 300, signed.inner, signed.commitment),
    ]
    assert [one.permit_deadline is not None for one in seen.deposits] == [False, True]
    assert [one.endpoint for one in seen.registry] == ["ws://127.0.0.1:4001/"]
    assert (seen.traders, seen.solvers) == ((alice.address,), (bob.address,))
    # A signature gives the key of whoever sent a transaction away.
    for wallet in (alice, bob, carol):
        assert seen.keys[wallet.address] == wallet.public_key
    report = "\n".join(seen.lines())
    assert f"{alice.address} 200 of {token}" in report
    assert f"solver {bob.address} ws://127.0.0.1:4001/" in report
    assert "2 deposits, 0 moves between custodies, 0 withdrawals, 1 entries" in report
    assert all(found.says_nothing for found in join(seen))

    # Reading only the blocks in which the contracts took part shows the same of them.
    part = await observe(chain, deployment, every_block=False)
    assert [one.commitment for one in part.deposits] == [one.commitment for one in seen.deposits]
    assert part.registry == seen.registry
    assert len(part.transactions) < len(seen.transactions)
    # And up to a block, what there was by then.
    first = seen.transactions[seen.deposits[0].tx].block
    early = await observe(chain, deployment, last_block=first)
    assert [one.amount for one in early.deposits] == [200]
    assert early.registry == ()


async def test_a_transaction_that_failed_is_kept_and_counts_for_nothing(
    own_devnet: Devnet,
) -> None:
    chain = own_devnet.chain
    deployment = await deploy(
        chain, await own_devnet.new_account(), test_token=TokenInfo(ZERO_ADDRESS, "USDT", 6)
    )
    poor = await own_devnet.new_account()
    pool = deployment.pool(chain)
    inner = (1).to_bytes(32, "big")
    data = pool.deposit_data(deployment.tokens[0].address, 5, inner, bytes(256))
    prepared = await chain.prepare(poor.address, pool.address, b"", gas_limit=500_000)
    failing = replace(prepared, data=data)
    sent = await chain.send(poor, failing)
    with pytest.raises(Reverted):
        await chain.wait(sent)
    seen = await observe(chain, deployment)
    (failed,) = [one for one in seen.transactions if one.tx_hash == sent.tx_hash]
    assert not failed.succeeded
    assert seen.deposits == ()
    assert seen.traders == ()
