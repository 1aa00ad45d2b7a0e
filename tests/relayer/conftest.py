"""One development chain for all tests of the relayer, and wallets with money on it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import trio

sys.path.insert(0, str(Path(__file__).parent.parent / "storms"))

from reorganisation_storm import ACCEPTS

from psymm.chain.addresses import ZERO_ADDRESS
from psymm.chain.artifacts import artifact
from psymm.chain.calls import Call
from psymm.chain.contracts import Pool
from psymm.chain.deployment import Deployment, TokenInfo, deploy
from psymm.chain.devnet import Devnet
from psymm.chain.registry import Registry, RegistryEntry, Role
from psymm.chain.rpc import Rpc
from psymm.chain.transactions import Chain, Receipt
from psymm.custody.moves import Vault, open_vault
from psymm.custody.prover import Prover
from psymm.custody.sending import SendTerms
from psymm.errors import PSymmError
from psymm.relayer.config import RelayerConfig, TokenPrice
from psymm.relayer.service import RelayerService
from psymm.relayer.store import Store
from psymm.wallet import KeyWallet

CHAIN_ID = 31337
FEE = 50_000


@dataclass(frozen=True)
class Place:
    """A development chain with the contracts on it."""

    url: str
    deployment: Deployment

    @property
    def token(self) -> str:
        return self.deployment.tokens[0].address


@pytest.fixture(scope="session")
def place() -> Iterator[Place]:
    with subprocess.Popen(
        [sys.executable, "-m", "psymm", "devnet", "--json", "--port", "0", "--until-stdin-closes"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as devnet:
        assert devnet.stdout is not None
        assert devnet.stdin is not None
        ready = json.loads(devnet.stdout.readline())
        assert ready["event"] == "ready", ready
        yield Place(ready["endpoint"], trio.run(_deployed, ready["endpoint"]))
        devnet.stdin.close()
        assert devnet.wait(10) == 0


@pytest.fixture
async def own_world(own_devnet: Devnet) -> World:
    """A chain for one test, with a verifier that accepts every proof."""
    deployment = await _deployed(own_devnet.url)
    await own_devnet.rpc.call("anvil_setCode", deployment.cta_verifier, ACCEPTS)
    return World(Place(own_devnet.url, deployment), own_devnet.chain)


async def _deployed(url: str) -> Deployment:
    async with open_world(Place(url, None)) as world:  # type: ignore[arg-type]
        owner = await world.wallet()
        return await deploy(world.chain, owner, test_token=TokenInfo(ZERO_ADDRESS, "pUSD", 6))


@dataclass(frozen=True)
class World:
    """The chain as one test uses it."""

    place: Place
    chain: Chain

    @property
    def pool(self) -> Pool:
        return self.place.deployment.pool(self.chain)

    @property
    def registry(self) -> Registry:
        return self.place.deployment.party_registry(self.chain)

    @property
    def token(self) -> str:
        return self.place.token

    async def wallet(self, ether: int = 10, units: int = 0) -> KeyWallet:
        made = KeyWallet.generate()
        await self.chain.rpc.call("anvil_setBalance", made.address, hex(ether * 10**18))
        if units:
            data = artifact("TestToken").abi.function("mint").encode(made.address, units)
            await self.chain.transact(made, self.token, data)
        return made

    async def listed(self) -> list[RegistryEntry]:
        return [one async for one in self.registry.list(Role.RELAYER)]

    async def mining(self, automatic: bool) -> None:
        await self.chain.rpc.call("evm_setAutomine", automatic)
        if automatic:
            await self.chain.rpc.call("anvil_mine", "0x1")


@asynccontextmanager
async def open_world(place: Place) -> AsyncIterator[World]:
    async with Rpc(place.url) as rpc:
        yield World(place, Chain(rpc, CHAIN_ID, poll_s=0.05))


@pytest.fixture
async def world(place: Place) -> AsyncIterator[World]:
    async with open_world(place) as opened:
        yield opened
        await opened.mining(True)


@dataclass
class Running:
    """A relayer that serves."""

    wallet: KeyWallet
    service: RelayerService
    endpoint: str
    _scope: trio.CancelScope

    def kill(self) -> None:
        self._scope.cancel()


@asynccontextmanager
async def running_relayer(
    world: World,
    path: Path,
    *,
    wallet: KeyWallet | None = None,
    register: bool = False,
    fee: int = FEE,
    **settings: float,
) -> AsyncIterator[Running]:
    """A relayer with its store at `path`, until the block ends."""
    owner = wallet or await world.wallet()
    config = RelayerConfig({world.token: TokenPrice(fee)}, **settings)  # type: ignore[arg-type]
    with Store(path, CHAIN_ID, world.pool.address, owner.address) as store:
        service = RelayerService(world.chain, world.pool, owner, store, config)
        async with trio.open_nursery() as nursery:
            port = await nursery.start(partial(service.serve, "127.0.0.1", 0))
            endpoint = f"ws://127.0.0.1:{port}/"
            if register:
                await world.registry.register(owner, Role.RELAYER, endpoint, owner.public_key)
            try:
                yield Running(owner, service, endpoint, nursery.cancel_scope)
            finally:
                nursery.cancel_scope.cancel()
                if register:
                    with trio.CancelScope(shield=True):
                        await world.registry.remove(owner, Role.RELAYER)


@asynccontextmanager
async def rich_vault(world: World, units: int = 10**9) -> AsyncIterator[Vault]:
    """A wallet with that much in its sole custody, able to prove."""
    owner = await world.wallet(units=units)
    async with (
        Prover() as prover,
        await open_vault(owner, world.place.deployment, world.chain, prover=prover) as vault,
    ):
        await vault.deposit(owner, world.token, units)
        yield vault


class _KeptError(PSymmError):
    code = "kept"


class Keeping:
    """A sender that keeps the finished call instead of sending it."""

    def __init__(self, relayer: str, fee: int = FEE) -> None:
        self._terms = SendTerms(relayer, fee)
        self.call: Call | None = None

    async def terms(self, kind: str, token: str) -> SendTerms:
        return self._terms

    async def send(self, kind: str, call: Call) -> Receipt:
        self.call = call
        raise _KeptError("on purpose")


async def finished_withdrawal(
    world: World, vault: Vault, relayer: str, recipient: str, units: int = 10**8, fee: int = FEE
) -> Call:
    """A proved CTA that names `relayer`, not sent."""
    keeping = Keeping(relayer, fee)
    with pytest.raises(_KeptError):
        await vault.withdraw(world.token, units, recipient, [keeping])
    assert keeping.call is not None
    return keeping.call
