"""Deposits and withdrawals of tokens with the habits of real ones, with real proofs."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from psymm.chain.contracts import ERC20, Token
from psymm.chain.deployment import Deployment
from psymm.chain.devnet import Devnet
from psymm.chain.errors import PermitMissing, TokenUnfit
from psymm.custody.moves import Vault
from psymm.custody.sending import DirectSender
from psymm.wallet import KeyWallet

sys.path.insert(0, str(Path(__file__).parent.parent / "chain"))

from odd_tokens import do, put_token

pytestmark = pytest.mark.chain

Wallets = Callable[..., Awaitable[KeyWallet]]
Vaults = Callable[..., Awaitable[Vault]]
Direct = Callable[[], Awaitable[list[DirectSender]]]

TETHER = ("NOTHING_RETURNED", "APPROVES_VIA_ZERO")


async def sent_by(devnet: Devnet, wallet: KeyWallet) -> int:
    return await devnet.rpc.eth.get_transaction_count(wallet.address, "pending")


@pytest.mark.proofs
async def test_odd_tokens_go_in_and_come_out_to_the_unit(
    devnet: Devnet,
    deployment: Deployment,
    funded_wallet: Wallets,
    vault: Vaults,
    direct: Direct,
) -> None:
    alice, senders = await funded_wallet(units=0), await direct()
    its = await vault(alice)
    for habits, decimals in (
        (TETHER, 6),
        (("SYMBOL_IS_BYTES32",), 18),
        (("NO_SYMBOL", "PACKED_BALANCE"), 8),
        (("PHANTOM",), 0),
    ):
        payee = KeyWallet.generate()
        address = await put_token(devnet, *habits, decimals=decimals)
        await do(devnet, address, "mint", alice.address, 1_000)
        token = Token(devnet.chain, address)
        # An allowance that is left over is replaced, where a token wants zero first.
        allow = ERC20.function("approve").encode(deployment.portal, 3)
        await devnet.chain.transact(alice, address, allow)
        await its.deposit(alice, address, 1_000)
        assert await token.balance(alice.address) == 0
        assert await token.allowance(alice.address, deployment.portal) == 0
        await its.withdraw(address, 400, payee.address, senders)
        assert await token.balance(payee.address) == 400
        assert await token.balance(deployment.portal) == 600
        assert (await its.balance(address)).available == 600


@pytest.mark.parametrize(
    ("habit", "reason"),
    [
        ("TAKES_FEE", "of 500 units it moved 495"),
        ("FEE_ON_THE_WAY_OUT", "withdrawal pays another amount"),
        ("PAUSED", "'paused'"),
        ("RETURNS_FALSE", "returns false"),
    ],
)
@pytest.mark.parametrize("permit", [False, True], ids=["approve", "permit"])
async def test_a_deposit_that_cannot_be_right_is_refused_before_anything_is_signed(
    devnet: Devnet,
    funded_wallet: Wallets,
    vault: Vaults,
    habit: str,
    reason: str,
    permit: bool,
) -> None:
    address = await put_token(devnet, habit)
    alice = await funded_wallet(units=0)
    await do(devnet, address, "mint", alice.address, 500)
    its = await vault(alice)
    with pytest.raises(TokenUnfit, match=reason):
        await its.deposit(alice, address, 500, permit=permit)
    assert await sent_by(devnet, alice) == 0
    assert await its.store.moves() == []


async def test_a_deposit_with_a_permit_that_the_token_does_not_take_says_so(
    devnet: Devnet, funded_wallet: Wallets, vault: Vaults
) -> None:
    address = await put_token(devnet, *TETHER)
    alice = await funded_wallet(units=0)
    await do(devnet, address, "mint", alice.address, 500)
    its = await vault(alice)
    with pytest.raises(PermitMissing, match="without a permit"):
        await its.deposit(alice, address, 500, permit=True)
    assert await sent_by(devnet, alice) == 0


async def test_who_is_barred_deposits_nothing_and_is_paid_nothing_before_anything_is_signed(
    devnet: Devnet, funded_wallet: Wallets, vault: Vaults, direct: Direct
) -> None:
    address = await put_token(devnet, *TETHER)
    alice, mallory = await funded_wallet(units=0), await funded_wallet(units=0)
    for wallet in (alice, mallory):
        await do(devnet, address, "mint", wallet.address, 500)
    await do(devnet, address, "bar", mallory.address, True)
    theirs = await vault(mallory)
    with pytest.raises(TokenUnfit, match="'barred'"):
        await theirs.deposit(mallory, address, 500)
    assert await sent_by(devnet, mallory) == 0
    its = await vault(alice)
    await its.deposit(alice, address, 500)
    before = await its.store.moves()
    with pytest.raises(TokenUnfit, match=f"refuses to pay {mallory.address} .*'barred'"):
        await its.withdraw(address, 200, mallory.address, await direct())
    assert (await its.balance(address)).available == 500
    assert await its.store.moves() == before
