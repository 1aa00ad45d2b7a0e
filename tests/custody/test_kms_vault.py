"""A wallet whose signatures differ each time owns notes, spends them, and finds them again."""

from __future__ import annotations

from pathlib import Path

import pytest
from kms_signer import kms_wallet

from psymm._core import SecretKey
from psymm.api import open_client
from psymm.chain.deployment import Deployment
from psymm.chain.devnet import Devnet
from psymm.custody.errors import StoreForeign
from psymm.custody.moves import open_vault
from psymm.custody.prover import Prover
from psymm.custody.recovery import recover
from psymm.wallet import KeyWallet, load_keystore, save_keystore

pytestmark = [pytest.mark.chain, pytest.mark.proofs]

KMS_KEY = 0x5EA1ED


async def test_a_key_services_notes_are_spent_and_found_again_with_its_secrets_key(
    devnet: Devnet,
    deployment: Deployment,
    token: str,
    prover: Prover,
    minting,
    direct,
    tmp_path: Path,
) -> None:
    file, home = tmp_path / "secrets.json", tmp_path / "home"
    await save_keystore(file, SecretKey.generate(), "pw", scrypt_cost=2)

    async def wallet():
        return kms_wallet(await load_keystore(file, "pw"), KMS_KEY)

    first = await wallet()
    await devnet.rpc.call("anvil_setBalance", first.address, hex(10**20))
    await minting(devnet, deployment, first.address, 100)
    async with open_client(first, deployment, devnet.url, home, direct=True) as client:
        # The wallet itself pays: approval, deposit and withdrawal are its transactions.
        await client.vault.deposit(first, token, 100)
        payee = KeyWallet.generate().address
        await client.withdraw(token, 40, payee)
        assert (await client.vault.balance(token)).available == 60

    # The same home in another life; nothing was kept of the first one's signatures.
    async with open_client(await wallet(), deployment, devnet.url, home) as client:
        assert (await client.vault.balance(token)).available == 60

    # All files lost but the secrets key's.
    vault, found = await recover(
        await wallet(), deployment, devnet.chain, home=tmp_path / "new", prover=prover
    )
    async with vault:
        assert found.balance(token) == 60

    stranger = kms_wallet(KeyWallet.generate(), KMS_KEY)
    with pytest.raises(StoreForeign):
        await open_vault(stranger, deployment, devnet.chain, home=home, prover=prover)
