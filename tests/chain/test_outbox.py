"""A registry entry or a revocation that a reorganisation took is sent again, as the same bytes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from pools import mine_at

from psymm.chain.deployment import Deployment, deploy
from psymm.chain.devnet import Devnet
from psymm.chain.errors import Reverted, TransactionPending
from psymm.chain.outbox import SETTLED, Outbox, OutboxInvalid
from psymm.chain.registry import Registry, Role
from psymm.chain.transactions import Chain
from psymm.cli.chain_context import open_chain_context
from psymm.cli.data_dir import DataDir
from psymm.wallet import KeyWallet

pytestmark = pytest.mark.chain

ENDPOINT = "ws://10.0.0.1:9000/"
KEY = "0x" + "11" * 20


class Place:
    """A chain for one test, and a home whose programs start and end."""

    def __init__(self, net: Devnet, put: Deployment, owner: KeyWallet, home: Path) -> None:
        self.net, self.put, self.owner, self.file = net, put, owner, home / "outbox.sqlite"

    def program(self) -> tuple[Chain, Registry, Outbox]:
        """A new account."""
        outbox = Outbox(self.file)
        chain = Chain(self.net.rpc, self.net.chain.chain_id, poll_s=0.05, outbox=outbox)
        return chain, self.put.party_registry(chain), outbox

    async def go_back(self, blocks: int) -> None:
        """The node drops the transactions of these blocks instead of putting them back into its
        pool."""
        await self.net.rpc.call("evm_setAutomine", False)
        await self.net.rpc.call("anvil_reorg", blocks, [])
        await self.net.rpc.call("anvil_dropAllTransactions")
        await self.net.rpc.call("evm_setAutomine", True)


@pytest.fixture
async def place(own_devnet: Devnet, tmp_path: Path) -> Place:
    deployer, owner = await own_devnet.new_account(), await own_devnet.new_account()
    put = await deploy(own_devnet.chain, deployer)
    await own_devnet.mine(8)  # out of reach of what follows
    return Place(own_devnet, put, owner, tmp_path)


async def test_what_a_reorganisation_took_is_sent_again_in_its_order_by_another_program(
    place: Place,
) -> None:
    _, registry, _ = place.program()
    owner = place.owner
    entered = await registry.register(owner, Role.SOLVER, ENDPOINT, owner.public_key)
    revoked = await registry.revoke_key(owner, KEY, 7)
    await place.go_back(3)
    chain, registry, outbox = place.program()
    assert await registry.get(Role.SOLVER, owner.address) is None
    assert await registry.revocation(owner.address, KEY) is None
    await outbox.rebroadcast(chain)
    found = await registry.get(Role.SOLVER, owner.address)
    assert found is not None
    assert found.endpoint == ENDPOINT
    revocation = await registry.revocation(owner.address, KEY)
    assert revocation is not None
    assert revocation.from_seq == 7
    for receipt in (entered, revoked):
        assert await chain.mined(receipt.tx_hash) is not None
    assert await chain.count(owner.address, "latest") == 2


async def test_the_next_command_hands_it_over_again(place: Place, tmp_path: Path) -> None:
    place.put.save(tmp_path / "d.json")
    home, owner = DataDir(tmp_path / "home"), place.owner
    async with open_chain_context(home, tmp_path / "d.json", place.net.url) as site:
        await site.registry.revoke_key(owner, KEY, 7)
    await place.go_back(2)
    async with open_chain_context(home, None, None) as site:
        assert await site.registry.revocation(owner.address, KEY) is not None


async def test_what_is_deep_is_forgotten_and_what_is_not_stays(place: Place) -> None:
    chain, registry, outbox = place.program()
    await registry.revoke_key(place.owner, KEY, 7)
    await place.net.mine(SETTLED - 2)
    await outbox.rebroadcast(chain)
    assert len(await outbox.entries(chain.chain_id)) == 1
    await place.net.mine()
    await outbox.rebroadcast(chain)
    assert await outbox.entries(chain.chain_id) == {}


async def test_what_certainly_does_not_happen_is_not_kept(place: Place) -> None:
    chain, registry, outbox = place.program()
    with pytest.raises(Reverted):
        await registry.remove(place.owner, Role.SOLVER)
    remove = registry.abi.function("remove").encode(int(Role.SOLVER))
    with pytest.raises(Reverted):
        await chain.transact(place.owner, registry.address, remove, gas_limit=200_000)
    assert await chain.count(place.owner.address, "latest") == 1
    assert await outbox.entries(chain.chain_id) == {}


async def test_what_nothing_confirms_yet_is_taken_up_by_the_next_program(place: Place) -> None:
    chain, registry, outbox = place.program()
    await place.net.rpc.call("evm_setAutomine", False)
    data = registry.abi.function("revokeKey").encode(KEY, 7)
    with pytest.raises(TransactionPending) as pending:
        await chain.transact(place.owner, registry.address, data, timeout_s=0.5)
    await place.net.rpc.call("anvil_dropAllTransactions")
    await place.net.rpc.call("evm_setAutomine", True)
    chain, registry, outbox = place.program()
    await outbox.rebroadcast(chain)
    await place.net.mine()  # The node mines by itself, but may answer before that.
    assert await chain.mined(pending.value.tx_hash) is not None
    assert await registry.revocation(place.owner.address, KEY) is not None


async def test_a_nonce_of_what_was_lost_is_given_to_nothing_else(place: Place) -> None:
    """Continuing moves fills gaps among an account's nonces; this is not a gap."""
    chain, registry, _ = place.program()
    await registry.revoke_key(place.owner, KEY, 7)
    await place.go_back(2)
    chain, registry, _ = place.program()
    await chain.fill_nonce(place.owner, 0)
    assert await registry.revocation(place.owner.address, KEY) is not None


async def test_a_fee_that_became_too_low_is_raised_for_the_moves_that_wait_behind_it(
    place: Place,
) -> None:
    chain, registry, outbox = place.program()
    await place.net.rpc.call("evm_setAutomine", False)
    data = registry.abi.function("revokeKey").encode(KEY, 7)
    with pytest.raises(TransactionPending):
        await chain.transact(place.owner, registry.address, data, timeout_s=0.5)
    ((first,),) = (await outbox.entries(chain.chain_id)).values()
    asked = 2 * first.prepared.fees.max_wei
    await mine_at(place.net, asked)
    chain, registry, _ = place.program()
    await chain.fill_nonce(place.owner, 0)
    await mine_at(place.net, asked)
    assert await registry.revocation(place.owner.address, KEY) is not None
    assert await chain.count(place.owner.address, "latest") == 1
    ((*versions,),) = (await outbox.entries(chain.chain_id)).values()
    assert versions[0].tx_hash == first.tx_hash
    assert await chain.mined(versions[-1].tx_hash) is not None


async def test_a_file_of_another_kind_is_named_and_stays(place: Place) -> None:
    place.file.write_bytes(b"not a database, but somebody's notes" * 40)
    before = place.file.read_bytes()
    _, registry, _ = place.program()
    with pytest.raises(OutboxInvalid, match=r"outbox\.sqlite"):
        await registry.revoke_key(place.owner, KEY, 7)
    assert place.file.read_bytes() == before
    assert await place.net.chain.count(place.owner.address, "pending") == 0
