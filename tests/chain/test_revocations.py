"""Revoked session keys as read from the chain: by whom, from which frame, how deep, and reorganised
away."""

from __future__ import annotations

from pathlib import Path

import pytest

from psymm._core import SecretKey
from psymm.chain.deployment import Deployment, deploy
from psymm.chain.devnet import Devnet
from psymm.chain.errors import ChainDown, Reverted
from psymm.chain.registry import Registry
from psymm.chain.revocations import UNSETTLED, RevocationWatch
from psymm.chain.rpc import Rpc
from psymm.chain.transactions import Chain

pytestmark = pytest.mark.chain


def a_key() -> str:
    return SecretKey.generate().address


@pytest.fixture
def registry(devnet: Devnet, deployment: Deployment) -> Registry:
    return deployment.party_registry(devnet.chain)


async def own_registry(own_devnet: Devnet) -> tuple[Registry, int]:
    put = await deploy(own_devnet.chain, await own_devnet.new_account())
    return put.party_registry(own_devnet.chain), put.first_block


async def test_a_wallet_revokes_for_itself_or_by_a_signature_that_anyone_brings(
    devnet: Devnet, registry: Registry
) -> None:
    wallet, anyone = await devnet.new_account(), await devnet.new_account()
    first, second = a_key(), a_key()
    assert await registry.revocation(wallet.address, first) is None
    own = await registry.revoke_key(wallet, first, 7)
    message = registry.revocation_message(wallet.address, second, 9)
    signature = await wallet.sign_typed(message)
    relayed = await registry.revoke_key_for(anyone, wallet.address, second, 9, signature)
    for key, from_seq, receipt in ((first, 7, own), (second, 9, relayed)):
        found = await registry.revocation(wallet.address, key)
        assert found is not None
        assert (found.from_seq, found.block) == (from_seq, receipt.block)
    read = [one async for one in registry.revocations(own.block, relayed.block)]
    assert [(one.key, one.from_seq) for one in read] == [(first, 7), (second, 9)]
    assert own.gas_used < 50_000
    assert relayed.gas_used < 56_000


async def test_what_another_wallet_signed_revokes_nothing(
    devnet: Devnet, registry: Registry
) -> None:
    wallet, thief = await devnet.new_account(), await devnet.new_account()
    key = a_key()
    signature = await thief.sign_typed(registry.revocation_message(wallet.address, key, 1))
    with pytest.raises(Reverted) as refused:
        await registry.revoke_key_for(thief, wallet.address, key, 1, signature)
    assert refused.value.error == "NotSignedByWallet"
    assert await registry.revocation(wallet.address, key) is None


async def test_a_revocation_counts_once_it_is_deep_enough(own_devnet: Devnet) -> None:
    registry, first = await own_registry(own_devnet)
    wallet, key = await own_devnet.new_account(), a_key()
    watch = RevocationWatch(registry, first)
    await watch.advance()
    await registry.revoke_key(wallet, key, 5)
    await watch.advance()
    assert watch.of(wallet.address, 1) == {key: 5}
    assert watch.of(wallet.address, 4) == {}
    seen = watch.version
    await own_devnet.mine(3)
    await watch.advance()
    assert watch.version != seen, "a version changes for every reader of that depth"
    assert watch.of(wallet.address, 4) == {key: 5}
    assert watch.of(a_key(), 1) == {}


@pytest.mark.parametrize("mined", [1, 3 * UNSETTLED])
async def test_a_revocation_that_the_chain_took_back_is_forgotten(
    own_devnet: Devnet, mined: int
) -> None:
    registry, first = await own_registry(own_devnet)
    wallet, kept, lost = await own_devnet.new_account(), a_key(), a_key()
    await registry.revoke_key(wallet, kept, 3)
    before = await own_devnet.snapshot()
    await registry.revoke_key(wallet, kept, 2)
    await registry.revoke_key(wallet, lost, 5)
    await own_devnet.mine(mined)
    watch = RevocationWatch(registry, first)
    await watch.advance()
    assert watch.of(wallet.address, 1) == {kept: 2, lost: 5}
    await own_devnet.revert(before)
    await own_devnet.mine(mined + 4)
    await watch.advance()
    assert watch.of(wallet.address, 1) == {kept: 3}


async def test_one_question_a_block_serves_all(own_devnet: Devnet) -> None:
    registry, first = await own_registry(own_devnet)
    wallet = await own_devnet.new_account()
    for seq in range(1, 4):
        await registry.revoke_key(wallet, a_key(), seq)
    watch = RevocationWatch(registry, first)
    await watch.advance()
    asked: list[str] = []
    call = own_devnet.rpc.call

    async def counting(method: str, *arguments: object) -> object:
        asked.append(method)
        return await call(method, *arguments)

    own_devnet.rpc.call = counting  # type: ignore[method-assign]
    await watch.advance()
    assert asked == ["eth_getBlockByNumber"], "no new block, nothing to read"
    asked.clear()
    await own_devnet.mine()
    asked.clear()
    await watch.advance()
    assert asked == ["eth_getBlockByNumber", "eth_getLogs"]


async def test_a_restart_reads_only_what_is_new_and_no_file_is_believed_against_the_chain(
    own_devnet: Devnet, tmp_path: Path
) -> None:
    registry, first = await own_registry(own_devnet)
    wallet, early, late = await own_devnet.new_account(), a_key(), a_key()
    await registry.revoke_key(wallet, early, 3)
    before = await own_devnet.snapshot()
    await own_devnet.mine(3 * UNSETTLED)
    file = tmp_path / "revocations.json"
    await RevocationWatch(registry, first, file=file).advance()
    await registry.revoke_key(wallet, late, 4)
    asked: list[int] = []
    logs = own_devnet.chain.logs

    def counting(address: str, topics: object, start: int, last: int) -> object:
        asked.append(start)
        return logs(address, topics, start, last)  # type: ignore[arg-type]

    own_devnet.chain.logs = counting  # type: ignore[method-assign, assignment]
    again = RevocationWatch(registry, first, file=file)
    await again.advance()
    assert again.of(wallet.address, 1) == {early: 3, late: 4}
    assert min(asked) > first + UNSETTLED
    good = file.read_text()
    for bad in (
        "",
        "{",
        "[]",
        good.replace("[[", "[[7,"),
        good.replace(early, late),
        good[:-9],
        "[" * 99_000,
    ):
        file.write_text(bad)
        assert late in (await looked(registry, first, file)).of(wallet.address, 1)
    file.write_text(good)
    await own_devnet.revert(before)
    await own_devnet.mine(3 * UNSETTLED + 5)
    assert (await looked(registry, first, file)).of(wallet.address, 1) == {early: 3}


async def looked(registry: Registry, first: int, file: Path) -> RevocationWatch:
    watch = RevocationWatch(registry, first, file=file)
    await watch.advance()
    return watch


async def test_a_node_that_is_down_takes_nothing_away(devnet: Devnet, registry: Registry) -> None:
    wallet, key = await devnet.new_account(), a_key()
    await registry.revoke_key(wallet, key, 5)
    watch = RevocationWatch(registry, 0)
    await watch.advance()
    async with Rpc("http://127.0.0.1:9", read_attempts=1) as gone:
        watch._registry = Registry(Chain(gone, devnet.chain.chain_id), registry.address)
        with pytest.raises(ChainDown):
            await watch.advance()
    assert watch.of(wallet.address, 1) == {key: 5}
