"""Client: one party with all that it needs open: wallet, chain, vault, prover and journal.

`VaultCollateral` connects sessions to the vault. `open_client` opens everything from a home
directory, and closes it in the reverse order.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import trio

from psymm.chain.addresses import ZERO_ADDRESS
from psymm.chain.checking import check
from psymm.chain.deployment import Deployment
from psymm.chain.errors import TokenUnfit
from psymm.chain.outbox import Outbox
from psymm.chain.registry import Registry, RegistryEntry, Role
from psymm.chain.revocations import RevocationWatch
from psymm.chain.rpc import Rpc
from psymm.chain.tokens import read_token
from psymm.chain.transactions import Chain, Signer
from psymm.custody.errors import FeeTooHigh, FundsTooLow, MoveFailed
from psymm.custody.making import DEFAULT_FEE_PART, CompletedMove
from psymm.custody.moves import Vault, open_vault
from psymm.custody.notes import Custody, Note
from psymm.custody.openings import verify_opening
from psymm.custody.planning import Signatures
from psymm.custody.prover import Prover
from psymm.custody.sending import DirectSender, Sender, SendTerms
from psymm.custody.settlement import Payee, PlannedSettlement
from psymm.errors import ClocksDiffer, NotRegistered, PSymmError, SettlementRefused, TokenDiffers
from psymm.journal.replayed import verify_journal
from psymm.journal.writer import Journal, open_journal
from psymm.messages import ChainFact, FactKind
from psymm.nursery import open_block_nursery
from psymm.session.protocol.chain_facts import ChainView, Fact, Mined, custody_of
from psymm.session.runtime.chain_tasks import LOOK_UP_S
from psymm.session.runtime.clock import Clock, SystemClock
from psymm.session.runtime.party import LocalParty, journal_secret
from psymm.session.runtime.preflight import which_clock
from psymm.sockets.dialling import check_plain
from psymm.terms import Terms
from psymm.transcript.agreement import SOLVER, TRADER, CustodyAgreement
from psymm.typed_message import TypedMessage
from psymm.wallet import CallbackWallet, KeyWallet, Wallet

LOOK_S: Final = 2.0
"""Seconds for which we reuse what we know of our funds when a trader asks us to put them up."""
MOST_CHECKS: Final = 8
"""Notes of traders that we look up on our chain at once, for all traders together."""
CHAIN_SKEW_S: Final = 600.0
"""Seconds by which the newest block may differ from our clock. Beyond that we fund nothing."""
MADE_ON_DEMAND: Final = (31337,)
"""Chains that make blocks on demand, so the newest block may have any age."""


class VaultCollateral:
    """A session's `Collateral` on a vault. senders: send moves to the chain, tried in
    order."""

    def __init__(self, vault: Vault, senders: Sequence[Sender]) -> None:
        self._vault = vault
        self._senders = tuple(senders)
        # What we are putting up, by custody. It counts even before its move has taken notes.
        self._putting_up: dict[bytes, tuple[Custody, str, int]] = {}
        self._looking = trio.Lock()
        self._checking = trio.Semaphore(MOST_CHECKS)
        # When we last read our funds, and what they were, by token.
        self._looked: dict[str, tuple[float, int]] = {}

    async def check(
        self, agreement: CustodyAgreement, amount: int, symbol: str | None, now_ns: int
    ) -> None:
        """As `Collateral.check`."""
        terms, vault = Terms.parse(agreement.terms), self._vault
        token = terms.collateral.token
        await check_token(vault.chain, terms, symbol)
        await self._check_time(now_ns)
        # Collateral that is in the custody or on its way needs no free funds.
        await vault.refresh()
        if await vault.is_funding(custody_of(agreement)):
            return
        offer = await self.relayer(token, most_fee(terms, amount))
        balance = await vault.balance(token)
        available = balance.available + await vault.pending_change(token)
        if available < amount + offer.fee:
            raise FundsTooLow(token, amount + offer.fee, balance.available, balance.under_way)

    async def _check_time(self, now_ns: int) -> None:
        """Check that the chain's newest block is about as old as it should be by our clock."""
        block_s = await self._vault.chain.time_s()
        ahead_s = block_s - now_ns / 1e9
        # Development chains make blocks on demand.
        behind_s = 0.0 if self._vault.chain.chain_id in MADE_ON_DEMAND else -ahead_s
        if max(ahead_s, behind_s) > CHAIN_SKEW_S:
            raise ClocksDiffer(
                "the chain's newest block and our clock are too far apart: our clock is wrong, or"
                " the node has stopped",
                by_s=ahead_s,
                most_s=CHAIN_SKEW_S,
            )

    async def check_funds(self, terms: Terms, amount: int) -> None:
        """As `Collateral.check_funds`."""
        token = terms.collateral.token
        direct = all(isinstance(one, DirectSender) for one in self._senders)
        needed = amount + (0 if direct else most_fee(terms, amount))
        async with self._looking:
            # A task that waited for the lock uses what the task before it has read.
            looked, available = self._looked.get(token, (float("-inf"), 0))
            if trio.current_time() - looked > LOOK_S:
                # Anybody may ask, so we do not read chain and file for each request.
                listed = [one for one in self._vault.deployment.tokens if one.address == token]
                await check_token(self._vault.chain, terms, listed[0].symbol if listed else None)
                await self._vault.refresh()
                balance = await self._vault.balance(token)
                available = balance.available + await self._vault.pending_change(token)
                self._looked[token] = (trio.current_time(), available)
            # Promises to other traders whose moves have not taken notes yet.
            for custody, other, promised in list(self._putting_up.values()):
                if other == token and not await self._vault.is_funding(custody):
                    available -= promised
        if available < needed:
            raise FundsTooLow(token, needed, available, 0)

    async def fund(
        self, agreement: CustodyAgreement, lane: int, token: str, amount: int
    ) -> Sequence[Note]:
        """As `Collateral.fund`."""
        most, custody = most_fee(Terms.parse(agreement.terms), amount), custody_of(agreement)
        # From now on `check_funds` counts this amount as taken. Afterwards the notes show it.
        self._putting_up[custody.id] = (custody, token, amount)
        try:
            funded = await self._vault.fund(custody, token, amount, self._senders, max_fee=most)
        finally:
            # The move has taken its notes, or has failed: the next question reads the store again.
            self._putting_up.pop(custody.id, None)
            self._looked.pop(token, None)
        return [funded.note]

    async def verify(self, agreement: CustodyAgreement, notes: Sequence[Note]) -> None:
        """As `Collateral.verify`."""
        custody = custody_of(agreement)
        for note in notes:
            async with self._checking:
                await verify_opening(note.opening, custody, note.token, self._vault.tree)

    async def payee(self, token: str, amount: int) -> Payee:
        """As `Collateral.payee`."""
        return await self._vault.settlements.payee(token, amount)

    async def relayer(self, token: str, cap: int) -> SendTerms:
        """As `Collateral.relayer`. Raises the last sender's error if none will do."""
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

    async def sign(self, settlement: PlannedSettlement) -> bytes:
        """As `Collateral.sign`."""
        return await self._vault.settlements.sign(settlement)

    async def sign_payee(self, message: TypedMessage) -> bytes:
        """As `Collateral.sign_payee`."""
        return await self._vault.wallet.sign_typed(message)

    async def settle(self, settlement: PlannedSettlement, signatures: Signatures) -> Mined:
        """As `Collateral.settle`."""
        # The settlement names who is paid for sending it, so only senders of that kind fit.
        direct = settlement.call.relayer == ZERO_ADDRESS
        senders = [one for one in self._senders if isinstance(one, DirectSender) == direct]
        if not senders:
            raise SettlementRefused(
                "the settlement names a relayer that we cannot reach, or none and we send none",
                relayer=settlement.call.relayer,
            )
        await self._vault.settlements.settle(settlement, signatures, senders)
        mined = await self._mined(settlement)
        if mined is None:
            raise MoveFailed("settle", "it was sent but is not on chain")
        return mined

    async def look_up(self, cited: ChainFact) -> ChainView:
        """As `Collateral.look_up`. All sessions of the vault share one look."""
        tree = self._vault.tree
        await tree.advance_if_older(LOOK_UP_S / 2)
        thing = cited.nullifier if cited.fact_kind is FactKind.SPENT else cited.commitment
        found = None
        if thing is not None:
            found = await tree.transaction_with(thing, spent=cited.fact_kind is FactKind.SPENT)
        fact: Fact | None = None
        if found is not None:
            block, tx_hash, spent, inserted = found
            transaction = bytes.fromhex(tx_hash.removeprefix("0x"))
            fact = Fact(block, transaction, spent, inserted)
        return ChainView(tree.head, tree.block, fact)

    async def wait_spent(self, settlement: PlannedSettlement) -> Mined | None:
        """As `Collateral.wait_spent`."""
        try:
            await self._vault.settlements.await_mined(settlement, timeout_s=float("inf"))
        except MoveFailed:
            # Its deadline has passed on chain.
            return None
        return await self._mined(settlement)

    async def _mined(self, settlement: PlannedSettlement) -> Mined | None:
        await self._vault.refresh()
        found = await self._vault.settlements.mined_in(settlement)
        if found is None:
            return None
        block, transaction = found
        return Mined(block, bytes.fromhex(transaction.removeprefix("0x")))


def most_fee(terms: Terms, amount: int) -> int:
    """The most that one move may cost: the relayer cap of the terms that both accepted, which may
    be far below the vault's own share."""
    return min(terms.tariff.relayer_cap, amount // DEFAULT_FEE_PART)


async def check_token(chain: Chain, terms: Terms, symbol: str | None) -> None:
    """Check on chain that the terms' token has the decimals and the symbol that they say. A token
    without a symbol has no name but its address. Raises TokenDiffers, ChainError.
    Cancelled: raises Cancelled."""
    said = terms.collateral
    try:
        found = await read_token(chain, said.token)
    except TokenUnfit as unfit:
        raise TokenDiffers(f"the terms' token: {unfit.reason}", token=said.token) from None
    if found.decimals != said.decimals:
        raise TokenDiffers(
            "the token has other decimals than the terms say",
            token=said.token,
            chain=found.decimals,
            terms=said.decimals,
        )
    if symbol is not None and found.symbol and found.symbol != symbol:
        raise TokenDiffers(
            "the token's symbol is not the one that was named",
            token=said.token,
            chain=found.symbol,
            named=symbol,
        )


@dataclass(frozen=True, slots=True)
class Client:
    """Everything of one party, open. Sessions take `party`."""

    wallet: Wallet
    deployment: Deployment
    registry: Registry
    vault: Vault
    journal: Journal
    senders: tuple[Sender, ...]
    party: LocalParty

    async def solvers(self) -> Sequence[RegistryEntry]:
        """Solvers of the registry to choose from, about a hundred at most: those that we dealt with
        before, then the first ones listed and some at random; see `Registry.candidates`.

        Raises ChainError, JournalError. Cancelled: raises Cancelled.
        """
        return await self.registry.candidates(Role.SOLVER, await known_solvers(self.journal))

    async def solver(self, account: str) -> RegistryEntry:
        """One solver by address. Raises NotRegistered, ChainError. Cancelled: raises Cancelled."""
        entry = await self.registry.get(Role.SOLVER, account)
        if entry is None:
            raise NotRegistered(account=account, role="solver")
        return entry

    async def which_clock(self, differ: ClocksDiffer) -> str:
        """Say which of the two clocks is wrong, as far as the chain can tell.

        Raises ChainError. Cancelled: raises Cancelled.
        """
        block = await self.vault.chain.block()
        on_demand = self.vault.chain.chain_id in MADE_ON_DEMAND
        return which_clock(
            float(str(differ.values["by_s"])),
            block.timestamp_s - self.party.clock.now_ns() / 1e9,
            None if on_demand else CHAIN_SKEW_S,
        )

    async def announce(
        self, endpoint: str, signer: Signer, role: Role = Role.SOLVER, *, plain: bool = False
    ) -> None:
        """List ourselves in the registry, or update our entry.

        Raises PlainRefused, ChainError. Cancelled: it may still be mined.

        Args:
            signer: Pays the gas; must be the wallet's own account.
            plain: Also list a ws:// endpoint of another machine. Nobody dials it unless asked to
                (`spec.md` 61).
        """
        await check_plain(endpoint, plain)
        await self.registry.register(signer, role, endpoint, self.wallet.public_key)

    async def withdraw(
        self, token: str, amount: int, recipient: str, *, max_fee: int | None = None
    ) -> CompletedMove:
        """Pay `amount` token units out to any address; see `Vault.withdraw`."""
        moved = await self.vault.withdraw(token, amount, recipient, self.senders, max_fee=max_fee)
        await self.vault.store.report([moved.move])  # The caller hears of it right here.
        return moved


async def known_solvers(journal: Journal) -> frozenset[str]:
    """Accounts of the solvers with which the journal holds a custody. Raises JournalError."""
    return frozenset(
        one.agreement.wallet_address(SOLVER)
        for one in await journal.custodies()
        if one.lane == TRADER
    )


@asynccontextmanager
async def open_client_on(
    wallet: Wallet,
    vault: Vault,
    registry: Registry,
    senders: Sequence[Sender],
    journal: Path,
    *,
    clock: Clock | None = None,
    private: bool | None = None,
) -> AsyncGenerator[Client, None]:
    """A client on a vault that is already open. Opens, verifies and unlocks the journal, and
    follows the revocations of session keys. private: as for `open_client`.

    Raises JournalLocked, JournalCorrupt, JournalForeign, UnsteadySigner, ChainError. Leaving the
    block closes the journal and nothing else. Cancelled: queued writes still reach the journal.
    """
    deployment = vault.deployment
    place = (deployment.chain_id, deployment.psymm)
    kept = journal.with_name("revocations.json")
    watch = RevocationWatch(registry, deployment.first_block, file=kept)
    async with open_journal(journal) as opened, open_block_nursery() as nursery:
        # Verify before unlocking: a damaged journal must not be signed with.
        await verify_journal(opened)
        await opened.unlock(wallet.address, await journal_secret(wallet, *place))
        await nursery.start(watch.run)
        # Transactions of an earlier run may still be waiting to be mined.
        if vault.chain.outbox is not None:
            own = wallet if isinstance(wallet, KeyWallet | CallbackWallet) else None
            nursery.start_soon(vault.chain.outbox.follow, vault.chain, own)
        yield Client(
            wallet,
            deployment,
            registry,
            vault,
            opened,
            tuple(senders),
            LocalParty(
                wallet,
                opened,
                VaultCollateral(vault, senders),
                clock or SystemClock(),
                *place,
                deployment.registry,
                watch,
                private=private,
                tokens=deployment.tokens,
            ),
        )
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def open_client(
    wallet: Wallet,
    deployment: Deployment | Path | str,
    rpc: str | Sequence[str],
    home: Path | str,
    *,
    relayers: Literal["random", "cheapest"] = "cheapest",
    direct: bool = False,
    depth: int = 1,
    tls: ssl.SSLContext | None = None,
    plain: bool = False,
    private: bool | None = None,
) -> AsyncGenerator[Client, None]:
    """Open everything of a party: chain, checked contracts, vault, prover and journal.

    Raises ChainError, DeploymentInvalid, StoreError, JournalError, WalletError.
    Cancelled: closes all of it.

    Args:
        rpc: The node's address, or several; see `Rpc`.
        home: The directory of journal and notes.
        relayers: Which of the registry's relayers to use; see `RelayerSender`.
        direct: If no relayer sends a move, send it from the wallet's own account, which then shows
            on chain. Needs a `KeyWallet`, or a `CallbackWallet` whose function signs digests.
        depth: Confirmations.
        tls: Verifies wss:// relayers.
        plain: Also ask ws:// relayers on other machines.
        private: Endpoints of the registry may lead to this machine or a local network. None: on
            the development chain only.
    """
    from psymm.relayer.sender import RelayerSender  # Here, because it loads pydantic.

    home = Path(home)
    if not isinstance(deployment, Deployment):
        deployment = await trio.to_thread.run_sync(Deployment.load, Path(deployment))
    async with Rpc(rpc) as node, Prover() as prover:
        chain = Chain(node, deployment.chain_id, outbox=Outbox(home / "outbox.sqlite"))
        await check(chain, deployment)
        registry, pool = deployment.party_registry(chain), deployment.pool(chain)

        vault = await open_vault(wallet, deployment, chain, home=home, prover=prover, depth=depth)

        async def listed() -> Sequence[RegistryEntry]:
            return await registry.candidates(Role.RELAYER, await vault.relayers_used())

        own: DirectSender | None = None
        if direct and isinstance(wallet, KeyWallet | CallbackWallet):
            own = DirectSender(pool, wallet, depth=depth)
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
            open_client_on(
                wallet, vault, registry, senders, home / "journal.db", private=private
            ) as client,
        ):
            yield client
