"""The same API on a real chain, with real proofs, over real WebSockets."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
import trio
from market import Maker
from session_scene import make_terms

from psymm.api import BUY, Client, best_solver, connect, open_client_on
from psymm.api.client import VaultCollateral
from psymm.chain.calls import Call
from psymm.chain.deployment import Deployment
from psymm.chain.devnet import Devnet
from psymm.chain.registry import Role
from psymm.chain.transactions import Receipt
from psymm.custody.errors import FeeTooHigh
from psymm.custody.moves import Vault
from psymm.custody.sending import DirectSender, SendTerms
from psymm.journal.export import export
from psymm.session.runtime.report import verify_file
from psymm.terms import ChainRef, Terms
from psymm.transcript.agreement import CustodyAgreement
from psymm.wallet import KeyWallet


def terms_on(deployment: Deployment) -> Terms:
    plain = make_terms()
    return make_terms(
        chain=ChainRef(
            id=deployment.chain_id, psymm=deployment.psymm, registry=deployment.registry
        ),
        collateral=replace(plain.collateral, token=deployment.tokens[0].address),
        end_date=time.time_ns() + 365 * 86_400 * 10**9,
    )


@pytest.mark.chain
@pytest.mark.proofs
@pytest.mark.slow
async def test_two_dealers_trade_and_settle_on_a_real_chain(
    tmp_path: Path,
    devnet: Devnet,
    deployment: Deployment,
    funded_wallet: Callable[..., Awaitable[KeyWallet]],
    vault: Callable[..., Awaitable[Vault]],
    direct: Callable[[], Awaitable[list[DirectSender]]],
) -> None:
    token = deployment.tokens[0].address
    registry = deployment.party_registry(devnet.chain)

    async def client(stack: AsyncExitStack, name: str, units: int) -> Client:
        wallet = await funded_wallet()
        opened: Vault = await vault(wallet, tmp_path / name)
        await opened.deposit(wallet, token, units)
        return await stack.enter_async_context(
            open_client_on(wallet, opened, registry, await direct(), tmp_path / name / "journal.db")
        )

    async with trio.open_nursery() as nursery, AsyncExitStack() as stack:
        solver = await client(stack, "solver", 6_000_000_000)
        trader = await client(stack, "trader", 3_000_000_000)
        maker = Maker(solver, terms_on(deployment), collateral=5_000)
        port = await nursery.start(maker.serve, "127.0.0.1", 0)
        assert isinstance(solver.wallet, KeyWallet)
        await solver.announce(f"ws://127.0.0.1:{port}", solver.wallet, Role.SOLVER)

        ranking = await best_solver(trader, await trader.solvers(), "BTC-USD", BUY, timeout_s=600)
        assert ranking.best.price == Decimal(50010)
        async with connect(trader, ranking.best, collateral=2_000) as session:
            quote = await session.request_quote("BTC-USD", "0.02", BUY)
            assert (await (await session.order(BUY, "BTC-USD", "0.02", quote=quote)).result()).fills
            await session.log_out("done for today")  # `spec.md` 63: it locks nothing
            (held,) = session.positions
            order = await session.close(held, price=50510)
            assert (await order.result()).status == "filled"
            settled = await session.settle()
            custody = session.custody
        # 0.02 · 500 less the opening fee of 0.0005 on 1000.2 of notional
        assert settled.gain == Decimal("9.4999")
        for one, left in ((trader, 1_000_000_000), (solver, 1_000_000_000)):
            with trio.fail_after(600):
                await one.vault.refresh()
                balance = await one.vault.balance(token)
            assert balance.available > left
        await export(trader.journal, custody, tmp_path / "t.psymm")
        report = verify_file(tmp_path / "t.psymm")
        assert report.account is not None
        assert report.account.ended
        nursery.cancel_scope.cancel()


@pytest.mark.chain
async def test_a_relayer_takes_no_more_for_funding_than_the_terms_allow(
    tmp_path: Path,
    deployment: Deployment,
    funded_wallet: Callable[..., Awaitable[KeyWallet]],
    vault: Callable[..., Awaitable[Vault]],
) -> None:
    class Greedy:
        async def terms(self, kind: str, token: str) -> SendTerms:
            return SendTerms(KeyWallet.generate().address, 50_001)

        async def send(self, kind: str, call: Call) -> Receipt:
            raise AssertionError("a call with that fee was signed")

    terms, wallet = terms_on(deployment), await funded_wallet()
    owner: Vault = await vault(wallet, tmp_path)
    token = terms.collateral.token
    await owner.deposit(wallet, token, 3_000_000_000)
    agreement = CustodyAgreement(
        deployment.chain_id,
        deployment.psymm,
        wallet.public_key,
        KeyWallet.generate().public_key,
        terms.document,
        b"\x02" * 32,
    )
    assert terms.tariff.relayer_cap == 50_000
    with pytest.raises(FeeTooHigh):
        await VaultCollateral(owner, [Greedy()]).fund(agreement, 0, token, 2_000_000_000)
