"""Shared by all rooms: a real chain with the real contracts, a real prover, wallets with money.

One anvil runs for a whole test session, or for each of its processes.  Tests share it, so each
takes fresh wallets and never turns the chain back; a test that must do that asks for `own_devnet`.

    devnet            the session's chain (psymm.chain.devnet.Devnet)
    own_devnet        a chain of this test alone
    deployment        the contracts on `devnet`, with one test token of 6 decimals
    token             that token's address
    prover            a running prover of this test
    funded_wallet     await funded_wallet(units=10**12) → KeyWallet with coin and tokens
    vault             await vault(wallet) → Vault of that wallet, with the prover
    direct            await direct() → [DirectSender] with an account of its own
    free_port         free_port() → a port that is this test's until it ends
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from pathlib import Path

import pytest
import trio
from hypothesis import HealthCheck, settings
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

import psymm.chain.reaper
from psymm.chain.artifacts import anvil_program, artifact
from psymm.chain.contracts import ERC20
from psymm.chain.deployment import Deployment, TokenInfo, deploy
from psymm.chain.devnet import CHAIN_ID, ETHER, Devnet, open_devnet
from psymm.chain.errors import ToolsMissing
from psymm.chain.rpc import Rpc
from psymm.chain.transactions import Chain
from psymm.custody.moves import Vault, open_vault
from psymm.custody.prover import Prover
from psymm.custody.sending import DirectSender
from psymm.wallet import KeyWallet

# How long an example takes says how busy the machine is.
settings.register_profile("psymm", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("psymm")

# A shell without job control starts its background jobs with SIGINT ignored, and so would every
# command be that a test interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

FundedWallet = Callable[..., Awaitable[KeyWallet]]
OpenVault = Callable[..., Awaitable[Vault]]
Direct = Callable[[], Awaitable[list[DirectSender]]]

HANGS_S = {"slow": 3_600, "": 1_200}
"""After so long a test hangs; on a busy machine, too, none needs a third of it."""
CLEANS_UP_S = 60
"""So long a test that hangs may take to end. After that the process is of no more use to others."""
HUNG = pytest.StashKey[str]()

ONE_RUN = ("capi", "privacy", "relayer", "wheel")
"""Rooms whose files share one costly fixture."""

LONGEST = (
    "tests/storms/test_storms.py",
    "tests/wheel/",
    "tests/privacy/",
    "tests/cli/test_demo.py",
    "tests/custody/test_trade_of_notes.py",
    "tests/relayer/",
    "tests/cli/test_trade.py",
    "tests/cli/test_deposit_again.py",
    "tests/api/test_every_call.py",
    "tests/cli/test_first_steps.py",
    "tests/custody/test_proofs.py",
    "tests/cli/test_faulty_node.py",
    "tests/capi/",
    "tests/readme/test_readme.py",
    "tests/custody/test_reorganisations.py",
)
"""What takes longest in one process, the longest first: a minute and more."""


class Together(LoadFileScheduling):
    """Where tests run in several processes, what shares its fixtures stays together: a file, or all
    of a room.

    Written by name: pytest 9.2 gives xdist 3.8's groups no effect, and nothing says so.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        room = Path(file).parts[1]
        return room if room in ONE_RUN else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One process more than there are processors: a third of the time tests wait, for blocks,
    disks and each other."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In several processes, start with what takes longest, so that none ends alone with it."""
    if hasattr(config, "workerinput"):

        def place(item: pytest.Item) -> int:
            found = (at for at, one in enumerate(LONGEST) if item.nodeid.startswith(one))
            return next(found, len(LONGEST))

        items.sort(key=place)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Together:
    return Together(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """A test that hangs fails by its name, with where it was, and the next one runs."""
    limit_s = HANGS_S["slow" if item.get_closest_marker("slow") else ""]

    def hung(_signal: int, _frame: object) -> None:
        text = f"{item.nodeid} hangs: it has run for {limit_s} s"
        if not trio.lowlevel.in_trio_run() or HUNG in item.stash:
            pytest.fail(text)
        # An exception out of trio's own loop would leave it unusable: no later test could run.
        # So have trio end the test as it does for Ctrl-C; `_hung_by_name` says which.
        item.stash[HUNG] = text
        signal.alarm(CLEANS_UP_S)
        signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGALRM, hung)
    signal.alarm(limit_s)
    try:
        return (yield)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def _hung_by_name(item: pytest.Item) -> Iterator[None]:
    try:
        yield
    except BaseException:
        if HUNG in item.stash:
            pytest.fail(item.stash[HUNG])
        raise


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    with _hung_by_name(item):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    with _hung_by_name(item):
        return (yield)


@pytest.fixture(scope="session")
def devnet_url() -> Iterator[str]:
    """The JSON-RPC address of the session's chain.  It dies with this process."""
    try:
        anvil = anvil_program()
    except ToolsMissing as missing:
        pytest.fail(str(missing))
    reaper = subprocess.Popen(
        [
            sys.executable,
            "-I",
            str(Path(psymm.chain.reaper.__file__)),
            "Listening on",
            str(anvil),
            "--host=127.0.0.1",
            "--port=0",
            f"--chain-id={CHAIN_ID}",
            "--accounts=1",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert reaper.stdout is not None
    assert reaper.stdin is not None
    heard = b""
    for line in reaper.stdout:
        heard += line
        found = re.search(rb"Listening on \S+:(\d+)", line)
        if found:
            break
    else:
        pytest.fail(f"anvil did not start: {heard.decode(errors='replace')}")
    yield f"http://127.0.0.1:{int(found[1])}"
    reaper.stdin.close()
    reaper.wait(10)
    reaper.stdout.close()


@pytest.fixture(scope="session")
def deployment(devnet_url: str) -> Deployment:
    async def put() -> Deployment:
        async with Rpc(devnet_url) as rpc:
            chain = Chain(rpc, CHAIN_ID, poll_s=0.05)
            deployer = KeyWallet.generate()
            await rpc.call("anvil_setBalance", deployer.address, hex(1_000 * ETHER))
            return await deploy(chain, deployer, test_token=TokenInfo("", "USDT", 6))

    return trio.run(put)


@pytest.fixture
async def devnet(devnet_url: str) -> AsyncIterator[Devnet]:
    async with Rpc(devnet_url) as rpc:
        port = int(devnet_url.rsplit(":", 1)[1])
        yield Devnet(devnet_url, port, 0, rpc, Chain(rpc, CHAIN_ID, poll_s=0.05))


@pytest.fixture
async def own_devnet() -> AsyncIterator[Devnet]:
    async with open_devnet() as mine:
        yield mine


@pytest.fixture
def token(deployment: Deployment) -> str:
    return deployment.tokens[0].address


@pytest.fixture
async def prover() -> AsyncIterator[Prover]:
    async with Prover() as running:
        yield running


@pytest.fixture
def funded_wallet(devnet: Devnet, deployment: Deployment) -> FundedWallet:
    async def make(*, units: int = 10**12, wei: int = 1_000 * ETHER) -> KeyWallet:
        wallet = await devnet.new_account(wei)
        if units:
            await mint(devnet, deployment, wallet.address, units)
        return wallet

    return make


@pytest.fixture
async def vault(devnet: Devnet, deployment: Deployment, prover: Prover) -> AsyncIterator[OpenVault]:
    async with AsyncExitStack() as opened:

        async def make(wallet: KeyWallet, home: Path | None = None, depth: int = 1) -> Vault:
            return await opened.enter_async_context(
                await open_vault(
                    wallet, deployment, devnet.chain, home=home, prover=prover, depth=depth
                )
            )

        yield make


@pytest.fixture
def direct(devnet: Devnet, deployment: Deployment) -> Direct:
    async def make() -> list[DirectSender]:
        return [DirectSender(deployment.pool(devnet.chain), await devnet.new_account())]

    return make


@pytest.fixture
def free_port() -> Iterator[Callable[[], int]]:
    """Ports for servers that must be known before they listen. Each stays bound, so that the
    system gives it to no other process; a server that sets SO_REUSEADDR can listen on it."""
    with ExitStack() as bound:

        def take() -> int:
            one = bound.enter_context(socket.socket())
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind(("127.0.0.1", 0))
            return int(one.getsockname()[1])

        yield take


@pytest.fixture
def minting() -> Callable[[Devnet, Deployment, str, int], Awaitable[None]]:
    """`mint`, for a test that deploys on a chain of its own."""
    return mint


@pytest.fixture
async def own_deployment(own_devnet: Devnet) -> tuple[Deployment, KeyWallet]:
    """Contracts on the test's own chain, and an owner of 100 units that the portal may take."""
    owner = await own_devnet.new_account()
    put = await deploy(own_devnet.chain, owner, test_token=TokenInfo("", "T", 6))
    await mint(own_devnet, put, owner.address, 100)
    allow = ERC20.function("approve").encode(put.portal, 100)
    await own_devnet.chain.transact(owner, put.tokens[0].address, allow)
    return put, owner


async def mint(devnet: Devnet, deployment: Deployment, to: str, units: int) -> None:
    """Give an address test tokens, from an account made for that."""
    minter = await devnet.new_account()
    await devnet.chain.transact(
        minter,
        deployment.tokens[0].address,
        artifact("TestToken").abi.function("mint").encode(to, units),
        doing="minting",
    )
