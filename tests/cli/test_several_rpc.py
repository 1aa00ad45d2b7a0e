"""--rpc may be given more than once, and $PSYMM_RPC and the home hold several, too."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from test_commands import psymm

from psymm.chain.deployment import Deployment, deploy
from psymm.chain.devnet import CHAIN_ID, Devnet
from psymm.chain.rpc import Rpc
from psymm.chain.transactions import Chain

pytestmark = pytest.mark.chain

DEAD = "http://127.0.0.1:1/SECRET"


@pytest.fixture(scope="module")
def deployed(devnet_url: str) -> Deployment:
    async def put() -> Deployment:
        async with Rpc(devnet_url) as rpc:
            chain = Chain(rpc, CHAIN_ID, poll_s=0.05)
            return await deploy(chain, await Devnet(devnet_url, 0, 0, rpc, chain).new_account())

    return trio.run(put)


def test_a_command_goes_on_with_the_next_node_and_the_home_keeps_both(
    tmp_path: Path, devnet_url: str, deployed: Deployment
) -> None:
    file, home = tmp_path / "deployment.json", tmp_path / "home"
    deployed.save(file)
    listed = ("registry", "list", "--role", "solver", "--json", "--home", str(home))
    first = psymm(*listed, "--deployment", str(file), "--rpc", DEAD, "--rpc", devnet_url)
    assert first.code == 0, first
    assert psymm(*listed).code == 0
    assert (home / "rpc.url").stat().st_mode & 0o077 == 0


def test_where_two_must_agree_one_is_not_enough(
    tmp_path: Path, devnet_url: str, deployed: Deployment
) -> None:
    file = tmp_path / "deployment.json"
    deployed.save(file)
    listed = (
        "registry", "list", "--role", "solver", "--json", "--home", str(tmp_path / "home"),
        "--deployment", str(file), "--agree", "--rpc", devnet_url,
    )  # fmt: skip
    alone = psymm(*listed)
    assert alone.code == 2, alone
    down = psymm(*listed, "--rpc", DEAD)
    assert down.code != 0
    assert "SECRET" not in str(down)
    both = psymm(*listed, "--rpc", devnet_url.replace("127.0.0.1", "localhost"))
    assert both.code == 0, both
