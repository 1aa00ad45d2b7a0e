"""A disk that fills up in the middle of a deposit: what could not be recorded is not sent."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from psymm.chain.contracts import Token
from psymm.chain.deployment import Deployment
from psymm.chain.devnet import Devnet
from psymm.custody.moves import Vault, open_vault
from psymm.storage import DiskFull
from psymm.wallet import KeyWallet

pytestmark = pytest.mark.chain

AMOUNT = 7


def fill(vault: Vault, room: int) -> None:
    """From now on the file of notes grows by `room` pages at most."""
    database = vault.store._database
    (pages,) = database.execute("PRAGMA page_count").fetchone()
    database.execute(f"PRAGMA max_page_count = {pages + room}")


async def until_full(vault: Vault, wallet: KeyWallet, token: str) -> None:
    for _ in range(39):
        await vault.deposit(wallet, token, AMOUNT)


@pytest.mark.parametrize("room", [0, 1, 2])
async def test_every_deposit_is_on_chain_and_recorded_or_neither(
    devnet: Devnet, deployment: Deployment, token: str, funded_wallet, tmp_path: Path, room: int
) -> None:
    wallet = await funded_wallet(units=40 * AMOUNT)
    funds = Token(devnet.chain, token)
    vault = await open_vault(wallet, deployment, devnet.chain, home=tmp_path)
    async with vault:
        await vault.deposit(wallet, token, AMOUNT)
        await trio.to_thread.run_sync(fill, vault, room)
        with pytest.raises(DiskFull):
            await until_full(vault, wallet, token)
    async with await open_vault(wallet, deployment, devnet.chain, home=tmp_path) as vault:
        await vault.resume()
        spent = 40 * AMOUNT - await funds.balance(wallet.address)
        balance = await vault.balance(token)
        assert balance.available == spent
        assert 0 < spent < 40 * AMOUNT
        await vault.deposit(wallet, token, AMOUNT)
        assert (await vault.balance(token)).available == spent + AMOUNT
