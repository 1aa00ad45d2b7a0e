"""A transaction whose fee becomes too low is replaced: the same call and nonce at a higher fee."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import trio

sys.path.insert(0, str(Path(__file__).parent))

from pools import KeepingPool, mine_at, mining_at

from psymm.chain.devnet import Devnet
from psymm.chain.errors import TransactionPending, TransactionReplaced, TransactionUnderpriced
from psymm.chain.rpc import Rpc
from psymm.chain.transactions import Chain, PendingTransaction, Prepared, Sent
from psymm.errors import format_amount
from psymm.wallet import KeyWallet

pytestmark = pytest.mark.chain

LOOKS = 24
"""Enough for a node that lags, and for all raises up to the limit."""


@pytest.fixture
async def net(own_devnet: Devnet) -> Devnet:
    await own_devnet.rpc.call("evm_setAutomine", False)
    return own_devnet


class Payment:
    """Seven wei that one account sends another, and what was recorded of it."""

    def __init__(self, net: Devnet, chain: Chain, payer: KeyWallet) -> None:
        self.net, self.chain, self.payer = net, chain, payer
        self.payee = KeyWallet.generate().address
        self.recorded: list[Sent] = []

    async def record(self, sent: Sent) -> None:
        self.recorded.append(sent)

    async def send(self) -> Prepared:
        chain = self.chain
        plan = await chain.prepare(self.payer.address, self.payee, b"", value_wei=7)
        await chain.send(self.payer, plan, record=self.record)
        return plan

    def pending(self) -> PendingTransaction:
        return PendingTransaction(self.chain, self.recorded, signer=self.payer, record=self.record)

    async def expect_made_once(self, versions: Sequence[object]) -> None:
        assert await self.net.chain.balance(self.payee) == 7
        assert await self.net.chain.count(self.payer.address, "latest") == 1
        assert len({one.nonce for one in self.recorded}) == 1
        assert len(self.recorded) == len(versions)


async def paying(net: Devnet, rpc: Rpc, most_raised: int = 4) -> tuple[Payment, Prepared]:
    """A transaction that was handed over, and its purpose."""
    chain = Chain(rpc, 31337, poll_s=0.01, most_raised=most_raised)
    payment = Payment(net, chain, await net.new_account())
    return payment, await payment.send()


async def test_a_price_that_rises_above_the_fee_has_it_raised_and_the_payment_is_made_once(
    net: Devnet,
) -> None:
    async with KeepingPool(net.url) as rpc, trio.open_nursery() as nursery:
        payment, plan = await paying(net, rpc)
        nursery.start_soon(mining_at, net, 2 * plan.fees.max_wei)
        receipt = await payment.pending().wait()
        nursery.cancel_scope.cancel()
    first, *dearer = rpc.versions
    assert receipt.tx_hash in {one.hash for one in dearer}
    assert [one.tx_hash for one in payment.recorded] == [one.hash for one in rpc.versions]
    assert {(one.nonce, one.does) for one in dearer} == {(first.nonce, first.does)}
    for one, other in zip(rpc.versions, dearer, strict=False):
        assert 8 * other.max_wei >= 9 * one.max_wei
        assert 8 * other.tip_wei >= 9 * one.tip_wei
    assert max(one.max_wei for one in dearer) <= 4 * plan.fees.max_wei
    await payment.expect_made_once(rpc.versions)


async def test_a_pool_that_throws_out_what_pays_too_little_is_offered_more(net: Devnet) -> None:
    async with Rpc(net.url) as rpc, trio.open_nursery() as nursery:
        payment, plan = await paying(net, rpc)
        nursery.start_soon(mining_at, net, 2 * plan.fees.max_wei)
        receipt = await payment.pending().wait()
        nursery.cancel_scope.cancel()
        assert receipt.tx_hash != payment.recorded[0].tx_hash
        await payment.expect_made_once(payment.recorded)


async def test_a_replacement_that_is_refused_as_too_cheap_is_raised_again(net: Devnet) -> None:
    async with KeepingPool(net.url, bump=100) as rpc, trio.open_nursery() as nursery:
        payment, plan = await paying(net, rpc)
        nursery.start_soon(mining_at, net, plan.fees.max_wei + 1)
        receipt = await payment.pending().wait()
        nursery.cancel_scope.cancel()
    assert receipt.tx_hash == rpc.versions[-1].hash
    assert 2 * plan.fees.max_wei <= rpc.versions[-1].max_wei <= 4 * plan.fees.max_wei
    assert len(rpc.versions) > 2
    await payment.expect_made_once(rpc.versions)


@pytest.mark.parametrize("keeps", [True, False])
async def test_at_the_limit_it_says_what_is_offered_and_asked_and_waits_until_that_falls(
    net: Devnet, keeps: bool
) -> None:
    async with KeepingPool(net.url) if keeps else Rpc(net.url) as rpc:
        payment, plan = await paying(net, rpc, most_raised=3)
        asked, limit = 9 * plan.fees.max_wei, 3 * plan.fees.max_wei
        await mine_at(net, asked)
        pending = payment.pending()
        with pytest.raises(TransactionUnderpriced) as short:
            await pending.wait(looks=LOOKS)
        offered = payment.recorded[-1].prepared.fees.max_wei
        assert short.value.figures == {
            "offered_wei": offered, "base_fee_wei": asked, "limit_wei": limit, "nonce": 0,
        }  # fmt: skip
        assert plan.fees.max_wei < offered <= limit
        for name, shown in (("offered", offered), ("base_fee", asked), ("limit", limit)):
            assert f"{name}={format_amount(shown, 9)} gwei" in str(short.value)
        known = len(payment.recorded)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mining_at, net, plan.fees.max_wei)
            assert (await pending.wait()).tx_hash == payment.recorded[-1].tx_hash
            nursery.cancel_scope.cancel()
        await payment.expect_made_once(payment.recorded[:known])


async def test_blocks_that_go_by_without_it_have_its_fee_raised(net: Devnet) -> None:
    async with KeepingPool(net.url, leaves_out=lambda one: one == rpc.given[0]) as rpc:
        payment, plan = await paying(net, rpc)
        pending = payment.pending()
        with pytest.raises(TransactionPending):
            await pending.wait(looks=LOOKS)
        assert len(rpc.versions) == 1  # no block came, however long that was
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mining_at, net, plan.fees.max_wei // 3)
            receipt = await pending.wait()
            nursery.cancel_scope.cancel()
    assert receipt.tx_hash == rpc.versions[-1].hash != rpc.versions[0].hash
    await payment.expect_made_once(rpc.versions)


async def test_whichever_version_is_mined_is_the_payment(net: Devnet) -> None:
    """The node has put the first one into a block when the second arrives."""
    async with KeepingPool(net.url, leaves_out=lambda one: one != rpc.given[0]) as rpc:
        payment, plan = await paying(net, rpc)
        await mine_at(net, 2 * plan.fees.max_wei)
        with pytest.raises(TransactionPending):
            await payment.pending().wait(looks=LOOKS)
        assert len(payment.recorded) == len(rpc.versions) > 1
        first = rpc.versions[0]
        async with Rpc(net.url) as other:
            await mine_at(net, plan.fees.max_wei // 3)
            await other.call("eth_sendRawTransaction", first.raw)
            await mine_at(net, plan.fees.max_wei // 3)
        # A new process knows them by what was recorded.
        receipt = await payment.pending().wait()
        assert receipt.tx_hash == first.hash
        await payment.expect_made_once(rpc.versions)


async def test_another_programs_transaction_with_the_nonce_is_not_outbid(net: Devnet) -> None:
    async with KeepingPool(net.url) as rpc:
        payer = await net.new_account()
        payment = Payment(net, Chain(rpc, 31337, poll_s=0.01), payer)
        plan = await payment.send()
        other = Payment(net, Chain(rpc, 31337, poll_s=0.01, most_raised=4), payer)
        dear = await other.chain.prepare(payer.address, other.payee, b"", value_wei=7)
        fees = dear.fees.raised(0, dear.fees, other.chain.fee_limit(dear.fees))
        assert fees is not None
        theirs = Prepared(payer.address, other.payee, b"", 7, dear.gas_limit, fees)
        await other.chain.send(payer, theirs, nonce=0, record=other.record)
        await mine_at(net, 2 * plan.fees.max_wei)
        pending = payment.pending()
        with pytest.raises(TransactionPending):
            await pending.wait(looks=LOOKS)
        assert len(payment.recorded) == 1
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mining_at, net, plan.fees.max_wei // 3)
            with pytest.raises(TransactionReplaced) as replaced:
                await pending.wait()
            nursery.cancel_scope.cancel()
        assert replaced.value.by == other.recorded[0].tx_hash
        assert await net.chain.balance(payment.payee) == 0


async def test_without_a_signer_it_waits_and_says_so(net: Devnet) -> None:
    async with KeepingPool(net.url) as rpc:
        payment, plan = await paying(net, rpc)
        await mine_at(net, 2 * plan.fees.max_wei)
        with pytest.raises(TransactionUnderpriced) as short:
            await PendingTransaction(payment.chain, payment.recorded).wait(looks=LOOKS)
    assert short.value.figures["base_fee_wei"] == 2 * plan.fees.max_wei
    assert len(rpc.versions) == 1
