"""`psymm deploy`: everything is checked before anything is sent, and nothing that was sent is
lost."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest
import trio
from test_commands import PASSWORD, Ran, psymm

from psymm.chain.deployment import Deployment
from psymm.chain.devnet import CHAIN_ID, Devnet
from psymm.chain.rpc import Rpc
from psymm.chain.transactions import Chain
from psymm.wallet import KeyWallet, save_keystore

sys.path.insert(0, str(Path(__file__).parent.parent / "chain"))

from odd_tokens import become, do, put_token

pytestmark = pytest.mark.chain


class Deployer:
    """A home with a wallet that can pay."""

    def __init__(self, path: Path, url: str) -> None:
        self.home, self.url = path / "home", url
        self.wallet = KeyWallet.generate()
        self.home.mkdir(mode=0o700)
        file = self.home / "keystore.json"
        trio.run(partial(save_keystore, file, self.wallet.key, PASSWORD, scrypt_cost=2))
        self.ask("anvil_setBalance", self.wallet.address, hex(10**20))

    def ask(self, method: str, *params: object) -> object:
        async def call() -> object:
            async with Rpc(self.url) as rpc:
                return await rpc.call(method, *params)

        return trio.run(call)

    def token(self, *habits: str, symbol: bytes = b"ODD", decimals: int = 6) -> str:
        made = partial(put_token, symbol=symbol, decimals=decimals)
        return str(self.with_devnet(made, *habits))

    def with_devnet(self, what: Callable[..., Awaitable[object]], *values: object) -> object:
        async def run() -> object:
            async with Rpc(self.url) as rpc:
                chain = Chain(rpc, CHAIN_ID, poll_s=0.05)
                return await what(Devnet(self.url, 0, 0, rpc, chain), *values)

        return trio.run(run)

    def deploy(self, *arguments: str) -> Ran:
        return self.run("deploy", *arguments)

    def run(self, *arguments: str) -> Ran:
        return psymm(
            *arguments, "--json", "--yes", "--home", str(self.home), "--rpc", self.url,
            "--password-fd", "{0}", secrets=(PASSWORD,),
        )  # fmt: skip

    @property
    def sent(self) -> int:
        return int(str(self.ask("eth_getTransactionCount", self.wallet.address, "pending")), 16)

    @property
    def files(self) -> list[str]:
        return sorted(os.listdir(self.home))


@pytest.fixture
def deployer(tmp_path: Path, devnet_url: str) -> Deployer:
    return Deployer(tmp_path, devnet_url)


def error_of(ran: Ran) -> tuple[object, int]:
    error = ran.last["error"]
    assert isinstance(error, dict)
    return error["code"], ran.code


def test_a_token_that_cannot_be_held_is_refused_by_name_and_leaves_the_home_as_it_was(
    deployer: Deployer,
) -> None:
    for token in (
        deployer.token("TAKES_FEE"),
        deployer.token(decimals=24),
        deployer.wallet.address,
    ):
        ran = deployer.deploy("--token", token)
        assert error_of(ran) == ("token-unfit", 1)
        assert token in ran.out
    assert deployer.sent == 0
    assert deployer.files == ["keystore.json"]


def test_a_file_that_cannot_be_written_is_known_before_money_moves(
    deployer: Deployer, tmp_path: Path
) -> None:
    ran = deployer.deploy("--out", str(tmp_path / "nowhere" / "deployment.json"))
    assert error_of(ran) == ("usage", 2)
    assert deployer.sent == 0
    assert deployer.files == ["keystore.json"]


def test_a_command_that_is_repeated_sends_nothing_again_and_adds_what_is_new(
    deployer: Deployer, tmp_path: Path
) -> None:
    tether = deployer.token("NOTHING_RETURNED", "APPROVES_VIA_ZERO", symbol=b"USDT")
    hostile = deployer.token(symbol=b"\x1b[31m\xe2\x80\xae", decimals=0)
    assert deployer.deploy("--token", tether).code == 0
    first, sent = Deployment.load(deployer.home / "deployment.json"), deployer.sent
    out = tmp_path / "out.json"
    ran = deployer.deploy("--token", tether, "--token", hostile, "--out", str(out))
    assert ran.code == 0, ran
    assert deployer.sent == sent
    more = Deployment.load(out)
    assert json.loads(out.read_text()) == ran.last["deployment"]
    assert more.psymm == first.psymm
    assert [(one.symbol, one.decimals) for one in more.tokens] == [
        ("USDT", 6),
        (hostile[:10], 0),
    ]
    assert "\x1b" not in ran.out + ran.err


def test_a_listed_token_that_changes_stops_what_uses_it_and_nothing_else(
    deployer: Deployer,
) -> None:
    changed, other = deployer.token(symbol=b"ONE"), deployer.token(symbol=b"TWO")
    assert deployer.deploy("--token", changed, "--token", other).code == 0
    for token in (changed, other):
        deployer.with_devnet(do, token, "mint", deployer.wallet.address, 10**9)
    sent = deployer.sent
    deployer.with_devnet(become, changed, deployer.token(decimals=8))
    ran = deployer.run("deploy", "--check")
    finding = {"code": "token-changed", "token": changed, "field": "decimals"}
    finding |= {"before": "6", "now": "8"}
    assert (ran.code, ran.last["findings"]) == (0, [finding])
    for words in (
        ("relayer", "--fee", "ONE=1"),
        ("trade", "--collateral", "5", "--buy", "X=1", "--token", "ONE"),
        ("withdraw", f"{deployer.wallet.address}=1", "--token", "ONE"),
        ("deposit", "5", "--token", "ONE"),
    ):
        ran = deployer.run(*words)
        assert error_of(ran) == ("token-changed", 1), words
    assert "before=6, now=8" in ran.out
    assert f"Next: `psymm deploy --token {changed} " in ran.out
    assert deployer.sent == sent
    assert error_of(deployer.run("deposit", "5", "--token", "THREE")) == ("token-unlisted", 2)
    assert deployer.run("deposit", "5", "--token", "TWO").code == 0
    # The token as it is now is listed by the same command.
    assert deployer.deploy("--token", changed).code == 0
    assert deployer.run("deposit", "5", "--token", "ONE").last["units"] == str(5 * 10**8)
