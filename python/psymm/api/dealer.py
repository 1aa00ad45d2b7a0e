"""A dealer: one party with everything that it needs open: wallet, chain, vault, prover, journal.

`VaultCollateral` is how a session reaches the vault; `open_dealer` opens all of it from a home.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeGuard

import trio

from psymm.chain.abi import ZERO_ADDRESS
from psymm.chain.deployment import Deployment, check
from psymm.chain.registry import Party as RegistryEntry
from psymm.chain.registry import Registry, Role
from psymm.chain.revocations import RevocationWatch
from psymm.chain.rpc import Rpc
from psymm.chain.transactions import Chain, Signer
from psymm.custody.errors import FeeTooHigh, MoveFailed
from psymm.custody.moves import DEFAULT_FEE_PART, Moved, Vault, open_vault
from psymm.custody.notes import Note
from psymm.custody.openings import verify_opening
from psymm.custody.planning import Signatures
from psymm.custody.prover import Prover
from psymm.custody.sending import DirectSender, Sender, SendTerms
from psymm.custody.settlement import Payee, Settlement
from psymm.errors import NotRegistered, PSymmError, SettlementRefused
from psymm.nursery import open_block_nursery
from psymm.relayer.sender import RelayerSender
from psymm.session.clock import Clock, SystemClock
from psymm.session.collateral import Mined, custody_of
from psymm.session.party import Party, journal_secret
from psymm.sockets.dialling import check_plain
from psymm.terms import Terms
from psymm.transcript.journal import Journal, open_journal
from psymm.transcript.opening import SOLVER, TRADER, Opening
from psymm.transcript.replayed import verify_journal
from psymm.wallet import KeyWallet, Wallet


class VaultCollateral:
    """A session's `Collateral` on a vault. senders: who takes moves to the chain, in turn."""

    def __init__(self, vault: Vault, senders: Sequence[Sender]) -> None:
        self._vault = vault
        self._senders = tuple(senders)
        self._relayers: dict[str, list[Sender]] = {}

    async def fund(self, opening: Opening, lane: int, token: str, amount: int) -> Sequence[Note]:
        """See `Collateral.fund`."""
        # The cap of the terms that both accepted, which may be far below the vault's own share.
        most = min(Terms.parse(opening.terms).tariff.relayer_cap, amount // DEFAULT_FEE_PART)
        funded = await self._vault.fund(
            custody_of(opening), token, amount, self._senders, max_fee=most
        )
        return [funded.note]

    async def verify(self, opening: Opening, notes: Sequence[Note]) -> None:
        """See `Collateral.verify`."""
        custody = custody_of(opening)
        for note in notes:
            await verify_opening(note.opening, custody, note.token, self._vault.tree)

    async def payee(self, token: str, amount: int) -> Payee:
        """See `Collateral.payee`."""
        return await self._vault.payee(token, amount)

    async def relayer(self, token: str, cap: int) -> SendTerms:
        """See `Collateral.relayer`. Raises the last sender's error where none will do."""
        failed: PSymmError | None = None
        for sender in dict.fromkeys(self._senders):
            try:
                terms = await sender.terms("ctc", token)
            except PSymmError as refused:
                failed = refused
                continue
            if terms.fee > cap:
                failed = FeeTooHigh(terms.fee, cap)
                continue
            return terms
        raise failed or SettlementRefused("nobody is named who sends moves to the chain")

    async def sign(self, settlement: Settlement) -> bytes:
        """See `Collateral.sign`."""
        return await self._vault.sign_settlement(settlement)

    async def settle(self, settlement: Settlement, signatures: Signatures) -> Mined:
        """See `Collateral.settle`."""
        direct = settlement.call.relayer == ZERO_ADDRESS
        senders = [one for one in self._senders if isinstance(one, DirectSender) == direct]
        if not senders:
            raise SettlementRefused(
                "the settlement names a relayer that we cannot reach, or none and we send none",
                relayer=settlement.call.relayer,
            )
        await self._vault.settle(settlement, signatures, senders)
        mined = await self._mined(settlement)
        if mined is None:
            raise MoveFailed("settle", "it was sent but is not on chain")
        return mined

    async def wait_spent(self, settlement: Settlement) -> Mined | None:
        """See `Collateral.wait_spent`."""
        try:
            await self._vault.await_settlement(settlement, timeout_s=float("inf"))
        except MoveFailed:
            return None
        return await self._mined(settlement)

    async def _mined(self, settlement: Settlement) -> Mined | None:
        await self._vault.refresh()
        found = await self._vault.mined_in(settlement.call)
        if found is None:
            return None
        block, transaction = found
        return Mined(block, bytes.fromhex(transaction.removeprefix("0x")))


@dataclass(frozen=True, slots=True)
class Dealer:
    """Everything of one party, open. `party` is what sessions take."""

    wallet: Wallet
    deployment: Deployment
    registry: Registry
    vault: Vault
    journal: Journal
    senders: tuple[Sender, ...]
    party: Party

    async def solvers(self) -> Sequence[RegistryEntry]:
        """Solvers of the registry to choose from, at most some hundred: those that we dealt with
        before, and of the others the first listed and some at random, see `Registry.candidates`.

        Raises ChainError, JournalError. Cancelled: raises Cancelled.
        """
        return await self.registry.candidates(Role.SOLVER, await known_solvers(self.journal))

    async def solver(self, account: str) -> RegistryEntry:
        """One solver by address. Raises NotRegistered, ChainError. Cancelled: raises Cancelled."""
        entry = await self.registry.get(Role.SOLVER, account)
        if entry is None:
            raise NotRegistered(account=account, role="solver")
        return entry

    async def announce(
        self, endpoint: str, signer: Signer, role: Role = Role.SOLVER, *, plain: bool = False
    ) -> None:
        """List ourselves in the registry, or update the entry. `signer` pays the gas and must be
        the wallet's own account. plain: list a ws:// endpoint of another machine than this, which
        nobody dials unless asked to (`spec.md` 61).

        Raises PlainRefused, ChainError. Cancelled: it may still be mined."""
        await check_plain(endpoint, plain)
        await self.registry.register(signer, role, endpoint, self.wallet.public_key)

    async def withdraw(
        self, token: str, amount: int, recipient: str, *, max_fee: int | None = None
    ) -> Moved:
        """Take `amount` token units out to any address, see `Vault.withdraw`."""
        return await self.vault.withdraw(token, amount, recipient, self.senders, max_fee=max_fee)


async def known_solvers(journal: Journal) -> frozenset[str]:
    """Accounts of the solvers that the journal holds a custody with. Raises JournalError."""
    return frozenset(
        one.opening.wallet_address(SOLVER)
        for one in await journal.custodies()
        if one.lane == TRADER
    )


@asynccontextmanager
async def dealing(
    wallet: Wallet,
    vault: Vault,
    registry: Registry,
    senders: Sequence[Sender],
    journal: Path,
    *,
    clock: Clock | None = None,
    private: bool | None = None,
) -> AsyncGenerator[Dealer, None]:
    """A dealer on a vault that is already open; opens, verifies and unlocks the journal, and
    follows the revocations of session keys. private: see `open_dealer`.

    Raises JournalLocked, JournalCorrupt, JournalForeign, UnsteadySigner, ChainError. Leaving closes
    the journal, nothing else. Cancelled: what was queued for the journal is still written.
    """
    deployment = vault.deployment
    place = (deployment.chain_id, deployment.psymm)
    kept = journal.with_name("revocations.json")
    watch = RevocationWatch(registry, deployment.first_block, file=kept)
    async with open_journal(journal) as opened, open_block_nursery() as nursery:
        await verify_journal(opened)
        await opened.unlock(wallet.address, await journal_secret(wallet, *place))
        await nursery.start(watch.run)
        yield Dealer(
            wallet,
            deployment,
            registry,
            vault,
            opened,
            tuple(senders),
            Party(
                wallet,
                opened,
                VaultCollateral(vault, senders),
                clock or SystemClock(),
                *place,
                deployment.registry,
                watch,
                private=private,
            ),
        )
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def open_dealer(
    wallet: Wallet,
    deployment: Deployment | Path | str,
    rpc: str,
    home: Path | str,
    *,
    relayers: Literal["random", "cheapest"] = "cheapest",
    direct: bool = False,
    depth: int = 1,
    tls: ssl.SSLContext | None = None,
    plain: bool = False,
    private: bool | None = None,
) -> AsyncGenerator[Dealer, None]:
    """Open everything of a party: chain, contracts checked, vault, prover, journal.

    home: its directory (journal, notes). relayers: which of the
    registry's to take, see `RelayerSender`. direct:
    where no relayer does it, send moves from the wallet's own account, which then shows on chain
    (needs a `KeyWallet`). depth: confirmations. tls: what wss:// relayers are verified with.
    plain: ask ws:// relayers on other machines, too.
    private: endpoints of the registry may lead to this machine or a local network; None: on the
    development chain only.
    Raises ChainError, DeploymentInvalid, StoreError, JournalError, WalletError. Cancelled: closes
    all of it.
    """
    home = Path(home)
    if not isinstance(deployment, Deployment):
        deployment = await trio.to_thread.run_sync(Deployment.load, Path(deployment))
    async with Rpc(rpc) as node, Prover() as prover:
        chain = Chain(node, deployment.chain_id)
        await check(chain, deployment)
        registry, pool = deployment.party_registry(chain), deployment.pool(chain)

        vault = await open_vault(wallet, deployment, chain, home=home, prover=prover, depth=depth)

        async def listed() -> Sequence[RegistryEntry]:
            return await registry.candidates(Role.RELAYER, await vault.relayers_used())

        own = DirectSender(pool, wallet, depth=depth) if _pays(wallet) and direct else None
        senders = RelayerSender(
            pool,
            listed,
            order=relayers,
            known=vault.relayers_used,
            depth=depth,
            tls=tls,
            plain=plain,
            private=private,
        ).senders(own)
        async with (
            vault,
            dealing(
                wallet, vault, registry, senders, home / "journal.db", private=private
            ) as dealer,
        ):
            yield dealer


def _pays(wallet: Wallet) -> TypeGuard[KeyWallet]:
    return isinstance(wallet, KeyWallet)
