"""Eight traders and eight solvers at once: a real chain, real proofs, relayers, real sessions.

Everybody deposits the same sum and withdraws the same lots, in an order drawn at random, so that
amounts and timing say nothing; who trades with whom is drawn from the seed.  What is hidden
(collateral, prices, quantities, PnL) differs from pair to pair, and is written down here so that
it can be looked for.
"""

from __future__ import annotations

import gzip
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from pathlib import Path

import trio
from observer import Observation, observe

from psymm._core import keccak256
from psymm.api import (
    BUY,
    Client,
    IncomingOrder,
    IncomingQuoteRequest,
    Session,
    Solver,
    connect,
    open_client_on,
)
from psymm.chain.artifacts import artifact
from psymm.chain.deployment import Deployment, TokenInfo, deploy
from psymm.chain.devnet import CHAIN_ID, ETHER, Devnet, open_devnet
from psymm.chain.registry import Role
from psymm.chain.transactions import Chain
from psymm.custody.moves import Vault, open_vault
from psymm.custody.notes import Note, key_hash, sole_custody
from psymm.custody.prover import Prover
from psymm.relayer.config import RelayerConfig, TokenPrice
from psymm.relayer.sender import RelayerSender
from psymm.relayer.service import RelayerService
from psymm.relayer.store import Store
from psymm.terms import (
    NANOSECONDS,
    UNIT,
    CollateralTerms,
    Instrument,
    Rates,
    Tariff,
    Terms,
)
from psymm.terms import ChainRef as Place
from psymm.transcript.agreement import halves
from psymm.wallet import KeyWallet

DEPOSIT = 1_000_000_000
LOTS = (100_000_000, 200_000_000)
FEE = 50_000
FAR = (int(time.time()) + 365 * 86_400) * NANOSECONDS


@dataclass
class Party:
    """One end of a pair.  notes: all that it knows the opening of; txs: (purpose, place in the
    observation) of what it did, a settlement at both its ends."""

    address: str
    public_key: bytes
    recipients: list[str] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    txs: list[tuple[str, int]] = field(default_factory=list)
    secrets: dict[str, bytes] = field(default_factory=dict)


@dataclass
class Pair:
    """A trader, its solver, and what only the two know.  numbers: in whatever scale they have."""

    trader: Party
    solver: Party
    terms: bytes
    secrets: dict[str, bytes] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)
    texts: set[str] = field(default_factory=set)


@dataclass
class Run:
    """What happened, as its makers know it (pairs) and as the chain shows it (observation)."""

    deployment: Deployment
    seed: int
    pairs: list[Pair]
    relayers: list[str]
    observation: Observation
    state: bytes
    seconds: float

    @property
    def truth(self) -> dict[str, str]:
        return {one.trader.address: one.solver.address for one in self.pairs}

    @property
    def parties(self) -> list[Party]:
        return [one for pair in self.pairs for one in (pair.trader, pair.solver)]


@dataclass
class Desk:
    """A party while it trades."""

    wallet: KeyWallet
    vault: Vault
    client: Client
    party: Party


@dataclass
class Table:
    """A pair while it trades."""

    trader: Desk
    solver: Desk
    terms: Terms

    def __post_init__(self) -> None:
        self.pair = Pair(self.trader.party, self.solver.party, self.terms.document)


class Maker(Solver):
    """Quotes and fills at prices of its own."""

    ask: Decimal = Decimal(0)

    async def on_quote_request(self, request: IncomingQuoteRequest) -> None:
        await request.quote(bid=self.ask - 20, ask=self.ask, valid_s=60)

    async def on_order(self, order: IncomingOrder) -> None:
        await order.fill()


async def run_pairs(count: int, seed: int, home: Path) -> Run:
    began = trio.current_time()
    lot = random.Random(seed)
    async with open_devnet() as devnet, Prover() as prover, AsyncExitStack() as opened:
        chain = Chain(devnet.rpc, CHAIN_ID, poll_s=0.4)
        deployment = await deploy(
            chain, await devnet.new_account(), test_token=TokenInfo("", "USDT", 6)
        )
        registry = deployment.party_registry(chain)
        relayers = [
            await opened.enter_async_context(relayer(devnet, chain, deployment, home / name))
            for name in ("relayer1", "relayer2")
        ]

        async def desk(name: str) -> Desk:
            wallet = await devnet.new_account()
            await mint(devnet, chain, deployment, wallet.address)
            vault = await open_vault(wallet, deployment, chain, home=home / name, prover=prover)
            await opened.enter_async_context(vault)

            async def listed() -> list[object]:
                return [one async for one in registry.list(Role.RELAYER)]

            sender = RelayerSender(vault.pool, listed, order="random", mined_timeout_s=300)  # type: ignore[arg-type]
            client = await opened.enter_async_context(
                open_client_on(
                    wallet, vault, registry, sender.senders(), home / name / "journal.db"
                )
            )
            return Desk(wallet, vault, client, Party(wallet.address, wallet.public_key))

        traders = [await desk(f"trader{at}") for at in range(count)]
        solvers = [await desk(f"solver{at}") for at in range(count)]
        async with trio.open_nursery() as nursery:
            pairing = lot.sample(range(count), count)
            tables = [
                Table(trader, solvers[of], terms_of(deployment, of))
                for trader, of in zip(traders, pairing, strict=True)
            ]
            deposits = [*traders, *solvers]
            lot.shuffle(deposits)
            for one in deposits:
                await one.vault.deposit(
                    one.wallet, deployment.tokens[0].address, DEPOSIT, permit=True
                )
            solver_order = list(range(count))
            lot.shuffle(solver_order)
            makers: dict[int, Maker] = {}
            for at in solver_order:
                table = tables[at]
                hidden = 300_000_000 + lot.randrange(10_000_000, 90_000_000)
                maker = Maker(table.solver.client, table.terms, collateral=Decimal(hidden) / 10**6)
                maker.ask = Decimal(lot.randrange(490_001, 509_999)) / 10
                makers[at] = maker
                table.pair.numbers["solver's collateral"] = hidden
                port = await nursery.start(maker.serve, "127.0.0.1", 0)
                await table.solver.client.announce(f"ws://127.0.0.1:{port}/", table.solver.wallet)
            await all_at_once(
                lot, [partial(trade, table, makers[at], lot) for at, table in enumerate(tables)]
            )
            await all_at_once(
                lot, [partial(withdraw, one, part) for one in deposits for part in LOTS]
            )
            observation = await observe(
                chain, deployment, terms=[table.terms.hash for table in tables]
            )
            state = bytes.fromhex((await devnet.rpc.call("anvil_dumpState"))[2:])
            for table in tables:
                await write_down(table, observation)
            nursery.cancel_scope.cancel()
    return Run(
        deployment,
        seed,
        [table.pair for table in tables],
        relayers,
        observation,
        gzip.decompress(state) if state[:2] == b"\x1f\x8b" else state,
        trio.current_time() - began,
    )


async def all_at_once(lot: random.Random, work: Iterable[Callable[[], Awaitable[None]]]) -> None:
    """Everything at once, begun in an order drawn by lot."""
    tasks = list(work)
    lot.shuffle(tasks)
    async with trio.open_nursery() as nursery:
        for one in tasks:
            nursery.start_soon(one)
            await trio.sleep(0.02)


async def trade(table: Table, maker: Maker, lot: random.Random) -> None:
    """One session: a quote that is hit, a close in two parts, settlement."""
    hidden = 400_000_000 + lot.randrange(10_000_000, 90_000_000)
    quantity = Decimal(lot.randrange(81, 120)) / 10_000
    part = Decimal(lot.randrange(21, 60)) / 10_000
    prices = [maker.ask + Decimal(lot.randrange(-9999, 9999)) / 10 for _ in range(2)]
    pair = table.pair
    entry = await table.trader.client.solver(pair.solver.address)
    async with connect(
        table.trader.client, entry, collateral=Decimal(hidden) / 10**6, timeout_s=1_500
    ) as session:
        quote = await session.request_quote("BTC-USD", quantity, BUY, timeout_s=60)
        order = await session.order(BUY, "BTC-USD", quantity, quote=quote, expires_in_s=600)
        assert (await order.result()).status == "filled"
        (held,) = session.positions
        pair.secrets["position id"] = bytes.fromhex(held.position_id[2:])
        for amount, price in ((part, prices[0]), (quantity - part, prices[1])):
            (held,) = session.positions
            closed = await session.close(held, price=price, quantity=amount, expires_in_s=600)
            assert (await closed.result()).status == "filled"
        keep(pair, session, hidden, [maker.ask, *prices], [quantity, part, quantity - part])
        settled = await session.settle()
        gain = int(settled.gain * 10**6)
        assert settled.payout * 10**6 == hidden + gain
        pair.numbers["trader's gain"] = gain
        pair.numbers["trader's loss"] = -gain


def keep(
    pair: Pair, session: Session, hidden: int, prices: list[Decimal], quantities: list[Decimal]
) -> None:
    account, agreement = session.account, session.runner.agreement
    pair.secrets["custody id"] = agreement.custody
    pair.secrets["salt"] = agreement.salt
    pair.secrets["terms hash"] = agreement.terms_hash
    pair.secrets["terms' halves, high"] = halves(agreement.terms_hash)[0]
    pair.secrets["account hash"] = account.hash
    pair.numbers["trader's collateral"] = hidden
    for lane, payout in enumerate(account.payouts):
        pair.numbers[f"payout of lane {lane}"] = payout
        pair.numbers[f"payout of lane {lane} after the fee"] = payout - FEE
    for at, price in enumerate(prices):
        pair.numbers[f"price {at}"] = int(price * UNIT)
        pair.texts.add(str(price))
    for at, quantity in enumerate(quantities):
        pair.numbers[f"quantity {at}"] = int(quantity * UNIT)
        pair.texts.add(str(quantity))
        pair.numbers[f"notional {at}"] = int(quantity * prices[at] * UNIT)


async def withdraw(one: Desk, amount: int) -> None:
    place = KeyWallet.generate().address
    one.party.recipients.append(place)
    token = one.vault.deployment.tokens[0].address
    await one.client.withdraw(token, amount, place)


async def write_down(table: Table, observation: Observation) -> None:
    """Everything that must not be on the chain, and which transactions are whose."""
    opening = table.pair.secrets["custody id"]
    spending = {one: move.tx for move in observation.moves for one in move.call.nullifiers}
    deposited = {deposit.commitment: deposit.tx for deposit in observation.deposits}
    for one in (table.trader, table.solver):
        vault, party = one.vault, one.party
        place = (vault.deployment.chain_id, vault.deployment.psymm)
        await vault.refresh()
        party.notes = [held.note for held in await vault.store.notes()]
        for note in party.notes:
            name = f"note {note.commitment.hex()[:8]}"
            party.secrets[f"blinding of {name}"] = note.blinding
            if note.commitment in deposited:
                party.txs.append(("deposit", deposited[note.commitment]))
            else:
                # A deposit shows the inner hash of its own note; no other move does.
                party.secrets[f"inner hash of {name}"] = note.inner
        for move in await vault.store.moves():
            if move.kind not in ("approve", "deposit"):
                party.txs.append((move.purpose, spending[move.call.nullifiers[0]]))
                signature = one.wallet.sign_digest(move.call.digest(*place))
                party.secrets[f"signature of {move.purpose} {move.id}"] = signature[:64]
        party.secrets |= {
            "viewing secret": vault.view.secret,
            "private key": one.wallet.key.expose_secret_bytes(),
            "key hash": key_hash(party.public_key),
            "sole custody": sole_custody(party.public_key).id,
            "hash of the address": keccak256(bytes.fromhex(party.address[2:])),
        }
        journal = one.client.journal
        for seq, key in await journal.session_keys(opening):
            party.secrets[f"session key {seq}"] = key.expose_secret_bytes()
            party.secrets[f"public session key {seq}"] = key.public_key
        for frame in await journal.frames(opening):
            party.secrets[f"digest of frame {frame.lane}/{frame.seq}"] = frame.digest
            party.secrets[f"signature of frame {frame.lane}/{frame.seq}"] = frame.raw[-97:-33]


def terms_of(deployment: Deployment, at: int) -> Terms:
    """Every solver has terms of its own."""
    rates = Rates(cva=UNIT // 200, lf=UNIT // 200, mm=UNIT // 50)
    return Terms(
        chain=Place(id=deployment.chain_id, psymm=deployment.psymm, registry=deployment.registry),
        collateral=CollateralTerms(
            token=deployment.tokens[0].address,
            decimals=6,
            trader_minimum=100_000_000,
            solver_minimum=100_000_000,
            trader_reserve=100_000,
            solver_reserve=100_000,
        ),
        instruments=(
            Instrument(
                symbol="BTC-USD",
                tick=UNIT // 10,
                lot=UNIT // 10_000,
                min_notional=UNIT,
                max_notional=1_000_000 * UNIT,
                max_leverage=20 * UNIT,
                trader=rates,
                solver=rates,
                open_fee=UNIT // 2000 + at * UNIT // 1_000_000,
                feed="BTC-USD",
            ),
        ),
        end_date=FAR + at * NANOSECONDS,
        tariff=Tariff(relayer_cap=2 * FEE),
    )


@asynccontextmanager
async def relayer(
    devnet: Devnet, chain: Chain, deployment: Deployment, path: Path
) -> AsyncIterator[str]:
    """A relayer of the registry; its address."""
    owner = await devnet.new_account()
    config = RelayerConfig(
        {deployment.tokens[0].address: TokenPrice(FEE)},
        connections_per_peer=256,
        requests_per_minute=100_000,
        requests_at_once=1_000,
    )
    with Store(path, CHAIN_ID, deployment.psymm, owner.address) as store:
        service = RelayerService(chain, deployment.pool(chain), owner, store, config)
        async with trio.open_nursery() as nursery:
            port = await nursery.start(partial(service.serve, "127.0.0.1", 0))
            await deployment.party_registry(chain).register(
                owner, Role.RELAYER, f"ws://127.0.0.1:{port}/", owner.public_key
            )
            yield owner.address
            nursery.cancel_scope.cancel()


async def mint(devnet: Devnet, chain: Chain, deployment: Deployment, to: str) -> None:
    """From an account made for that, so that no common source joins anybody."""
    minter = await devnet.new_account(ETHER)
    data = artifact("TestToken").abi.function("mint").encode(to, DEPOSIT)
    await chain.transact(minter, deployment.tokens[0].address, data, doing="minting")
