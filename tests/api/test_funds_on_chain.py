"""What a client's own chain, notes and senders say before anything is funded, on a real chain."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from test_chain import terms_on

from psymm.api.client import VaultCollateral, check_token
from psymm.chain.addresses import checksummed
from psymm.chain.calls import Call
from psymm.chain.deployment import Deployment
from psymm.chain.devnet import Devnet
from psymm.chain.tokens import read_token
from psymm.chain.transactions import Receipt
from psymm.custody.errors import FeeTooHigh, FundsTooLow
from psymm.custody.moves import Vault
from psymm.custody.sending import DirectSender, SendTerms
from psymm.errors import ClocksDiffer, TokenDiffers
from psymm.relayer.errors import NoRelayer
from psymm.session.protocol.chain_facts import custody_of
from psymm.terms import Terms
from psymm.transcript.agreement import CustodyAgreement
from psymm.wallet import KeyWallet

pytestmark = pytest.mark.chain

Wallets = Callable[..., Awaitable[KeyWallet]]
Vaults = Callable[..., Awaitable[Vault]]


def opening_of(terms: Terms, wallet: KeyWallet, salt: int = 3) -> CustodyAgreement:
    return CustodyAgreement(
        terms.chain.id,
        terms.chain.psymm,
        wallet.public_key,
        KeyWallet.generate().public_key,
        terms.document,
        bytes([0] * 31 + [salt]),
    )


class Asking:
    """A relayer that asks for a fee, once it may answer, and sends nothing."""

    def __init__(self, fee: int = 0, error: Exception | None = None) -> None:
        self.fee, self.error = fee, error
        self.asked, self.may_answer = trio.Event(), trio.Event()
        self.may_answer.set()

    async def terms(self, kind: str, token: str) -> SendTerms:
        self.asked.set()
        await self.may_answer.wait()
        if self.error is not None:
            raise self.error
        return SendTerms("0x" + "11" * 20, self.fee) if self.fee else SendTerms()

    async def send(self, kind: str, call: Call) -> Receipt:
        raise AssertionError("nothing is sent by a check")


def coded(symbol: bytes | None, decimals: int = 6) -> bytes:
    """A contract with decimals(), and a symbol() of 32 bytes or none."""
    give = bytes.fromhex("60005260206000f3")
    head = bytes.fromhex("60003560e01c")
    first = len(head) + 2 * 10 + 5
    number = b"\x5b\x60" + bytes([decimals]) + give
    text = b"" if symbol is None else b"\x5b\x7f" + symbol.ljust(32, b"\0") + give
    second = first + len(number)
    jumps = b"".join(
        bytes.fromhex(f"8063{selector}1460{at:02x}57")
        for selector, at in (("313ce567", first), ("95d89b41" if text else "00000001", second))
    )
    return head + jumps + bytes.fromhex("60006000fd") + number + text


@pytest.mark.parametrize(
    ("symbol", "shown"), [(b"OLD", "OLD"), (None, ""), (b"\xff" * 32, "")], ids=str
)
async def test_a_token_with_an_old_symbol_or_none_is_named_and_accepted(
    devnet: Devnet, deployment: Deployment, symbol: bytes | None, shown: str
) -> None:
    address = checksummed("token", "0x" + "ab" * 19 + "01")
    await devnet.chain.rpc.call("anvil_setCode", address, "0x" + coded(symbol).hex())
    assert (await read_token(devnet.chain, address)).symbol == shown
    terms = terms_on(deployment)
    terms = replace(terms, collateral=replace(terms.collateral, token=address))
    await check_token(devnet.chain, terms, None)
    await check_token(devnet.chain, terms, shown or "WHATEVER")
    if shown:
        with pytest.raises(TokenDiffers, match="named=NEW"):
            await check_token(devnet.chain, terms, "NEW")


async def test_a_token_that_is_not_what_the_terms_say_is_refused(
    devnet: Devnet, deployment: Deployment
) -> None:
    terms = terms_on(deployment)

    def other(**changes: object) -> Terms:
        return replace(terms, collateral=replace(terms.collateral, **changes))  # type: ignore[arg-type]

    await check_token(devnet.chain, terms, deployment.tokens[0].symbol)
    with pytest.raises(TokenDiffers, match="no contract"):
        await check_token(devnet.chain, other(token=KeyWallet.generate().address), None)
    with pytest.raises(TokenDiffers, match="chain=6, terms=8"):
        await check_token(devnet.chain, other(decimals=8), None)
    with pytest.raises(TokenDiffers, match="it is not an ERC-20 with decimals"):
        await check_token(devnet.chain, other(token=deployment.poseidon2), None)
    with pytest.raises(TokenDiffers, match="symbol"):
        await check_token(devnet.chain, terms, "USDC")


async def test_own_funds_a_fee_and_the_time_are_checked_before_anything_is_written(
    tmp_path: Path, devnet: Devnet, deployment: Deployment, funded_wallet: Wallets, vault: Vaults
) -> None:
    terms, wallet = terms_on(deployment), await funded_wallet()
    opened = await vault(wallet, tmp_path)
    await opened.deposit(wallet, terms.collateral.token, 2_000_000_000)
    agreement = opening_of(terms, wallet)
    now = (await devnet.chain.block()).timestamp_s * 10**9

    async def check(sender: Asking, amount: int = 1_900_000_000, now_ns: int = now) -> None:
        await VaultCollateral(opened, [sender]).check(agreement, amount, None, now_ns)

    moves = await opened.store.moves()
    await check(Asking(50_000))
    await check(Asking(), 2_000_000_000)
    with pytest.raises(FeeTooHigh):
        await check(Asking(50_001))
    with pytest.raises(FundsTooLow):
        await check(Asking(50_000), 2_000_000_000 - 49_999)
    with pytest.raises(NoRelayer):
        await check(Asking(error=NoRelayer()))
    with pytest.raises(ClocksDiffer, match="block"):
        await check(Asking(), now_ns=now - 601 * 10**9)
    assert await opened.store.moves() == moves


async def test_what_is_being_put_up_is_promised_to_nobody_else(
    tmp_path: Path, deployment: Deployment, funded_wallet: Wallets, vault: Vaults
) -> None:
    terms, wallet = terms_on(deployment), await funded_wallet()
    opened = await vault(wallet, tmp_path)
    token = terms.collateral.token
    await opened.deposit(wallet, token, 8_000_000_000)
    sender = Asking()
    sender.may_answer = trio.Event()
    collateral = VaultCollateral(opened, [sender])
    # Whoever asks uses nothing up.
    for _ in range(20):
        await collateral.check_funds(terms, 5_000_000_000)
    async with trio.open_nursery() as nursery:
        agreement = opening_of(terms, wallet)
        nursery.start_soon(collateral.fund, agreement, 0, token, 5_000_000_000)
        await sender.asked.wait()
        with pytest.raises(FundsTooLow):
            await collateral.check_funds(terms, 5_000_000_000)
        await collateral.check_funds(terms, 2_900_000_000)
        nursery.cancel_scope.cancel()
    await collateral.check_funds(terms, 5_000_000_000)


async def test_nothing_is_promised_in_a_token_that_is_no_longer_what_the_terms_say(
    tmp_path: Path, deployment: Deployment, funded_wallet: Wallets, vault: Vaults
) -> None:
    terms, wallet = terms_on(deployment), await funded_wallet()
    opened = await vault(wallet, tmp_path)
    await opened.deposit(wallet, terms.collateral.token, 1_000)
    await VaultCollateral(opened, [Asking()]).check_funds(terms, 1)
    before = replace(terms, collateral=replace(terms.collateral, decimals=8))
    with pytest.raises(TokenDiffers, match="chain=6, terms=8"):
        await VaultCollateral(opened, [Asking()]).check_funds(before, 1)


@pytest.mark.proofs
async def test_a_custody_that_is_funded_needs_no_funds_and_its_change_counts(
    tmp_path: Path,
    devnet: Devnet,
    deployment: Deployment,
    funded_wallet: Wallets,
    vault: Vaults,
    direct: Callable[[], Awaitable[list[DirectSender]]],
) -> None:
    terms, wallet = terms_on(deployment), await funded_wallet()
    opened = await vault(wallet, tmp_path)
    token = terms.collateral.token
    await opened.deposit(wallet, token, 8_000_000_000)
    (sender,) = await direct()
    handed, may_send = trio.Event(), trio.Event()

    class StoredNote:
        terms = sender.terms

        async def send(self, kind: str, call: Call) -> Receipt:
            handed.set()
            await may_send.wait()
            return await sender.send(kind, call)

    collateral = VaultCollateral(opened, [StoredNote()])
    agreement = opening_of(terms, wallet)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(collateral.fund, agreement, 0, token, 5_000_000_000)
        await handed.wait()
        await collateral.check_funds(terms, 2_500_000_000)
        with pytest.raises(FundsTooLow):
            await collateral.check_funds(terms, 3_000_000_001)
        may_send.set()
    now = (await devnet.chain.block()).timestamp_s * 10**9
    dead = VaultCollateral(opened, [Asking(error=NoRelayer())])
    await dead.check(agreement, 5_000_000_000, None, now)
    assert await opened.is_funding(custody_of(agreement))
    with pytest.raises(NoRelayer):
        await dead.check(opening_of(terms, wallet, 4), 1_000_000_000, None, now)
