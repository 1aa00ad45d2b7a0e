"""`psymm key`: a wallet revokes a session key on chain, or anybody submits its signed
revocation."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import trio
from test_commands import KEY, PASSWORD, Ran, psymm

from psymm._core import SecretKey
from psymm.chain.deployment import Deployment
from psymm.chain.devnet import CHAIN_ID
from psymm.chain.registry import Revocation
from psymm.chain.rpc import Rpc
from psymm.chain.transactions import Chain
from psymm.wallet import KeyWallet, save_keystore

pytestmark = [pytest.mark.chain]

OTHER = "5" * 64


class Wallet:
    """A home with a keystore and coin to pay for gas."""

    def __init__(self, path: Path, key: str, url: str, deployment: Deployment) -> None:
        self.home, self.url, self.deployment = path / key[:4], url, deployment
        wallet = KeyWallet(SecretKey.from_bytes(bytes.fromhex(key)))
        self.home.mkdir(mode=0o700)
        trio.run(
            partial(save_keystore, self.home / "keystore.json", wallet.key, PASSWORD, scrypt_cost=2)
        )
        self.address = wallet.address
        self.file = path / "deployment.json"
        deployment.save(self.file)

        async def fund() -> None:
            async with Rpc(url) as rpc:
                await rpc.call("anvil_setBalance", self.address, hex(10**20))

        trio.run(fund)

    def run(self, *arguments: str) -> Ran:
        return psymm(
            "key", *arguments, "--json", "--yes", "--home", str(self.home),
            "--deployment", str(self.file), "--rpc", self.url, "--password-fd", "{0}",
            secrets=(PASSWORD,),
        )  # fmt: skip

    def revocation(self, key: str) -> Revocation | None:
        async def read() -> Revocation | None:
            async with Rpc(self.url) as rpc:
                registry = self.deployment.party_registry(Chain(rpc, CHAIN_ID))
                return await registry.revocation(self.address, key)

        return trio.run(read)


@pytest.fixture
def wallet(tmp_path: Path, devnet_url: str, deployment: Deployment) -> Wallet:
    return Wallet(tmp_path, KEY, devnet_url, deployment)


def test_a_key_is_revoked_by_its_address_where_the_journal_is_lost(wallet: Wallet) -> None:
    key = SecretKey.generate().address
    ran = wallet.run("revoke", "--key", key)
    assert ran.code == 0, ran
    assert (ran.last["key"], ran.last["fromSeq"]) == (key, 1)
    found = wallet.revocation(key)
    assert found is not None
    assert found.from_seq == 1


def test_another_wallet_brings_what_the_owner_signed(
    wallet: Wallet, tmp_path: Path, devnet_url: str, deployment: Deployment
) -> None:
    payer = Wallet(tmp_path, OTHER, devnet_url, deployment)
    key = SecretKey.generate().address
    signed = wallet.run("revoke", "--key", key, "--from-seq", "7", "--sign")
    assert signed.code == 0, signed
    assert wallet.revocation(key) is None
    said = ("--wallet", wallet.address, "--key", key, "--from-seq")
    bent = payer.run("submit", *said, "6", "--signature", str(signed.last["signature"]))
    assert (bent.code, bent.last["error"]["code"]) == (2, "signature")  # type: ignore[index]
    submitted = payer.run("submit", *said, "7", "--signature", str(signed.last["signature"]))
    assert submitted.code == 0, submitted
    found = wallet.revocation(key)
    assert found is not None
    assert found.from_seq == 7


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ((), 2),
        (("--custody", "00", "--key", "0x" + "1" * 40), 2),
        (("--key", "0x12"), 1),
        (("--key", "0x" + "1" * 40, "--from-seq", "0"), 2),
    ],
)
def test_a_key_that_is_none_is_refused_before_anything_is_sent(
    wallet: Wallet, arguments: tuple[str, ...], code: int
) -> None:
    assert wallet.run("revoke", *arguments).code == code


def test_the_wallets_own_key_is_not_revoked_as_a_session_key(wallet: Wallet) -> None:
    ran = wallet.run("revoke", "--key", wallet.address)
    error = ran.last["error"]
    assert isinstance(error, dict)
    assert (ran.code, error["code"]) == (1, "wallets-own-key")
