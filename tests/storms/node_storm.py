"""The node storm: every move there is, through nodes that fail in every way of `node_faults`.

    python tests/storms/node_storm.py [--seed N] [--moves N] [--proofs]

Two parties and a relayer read and send through faulty nodes of their own, before one real anvil.
The contracts are deployed through a faulty node, too. Then moves are drawn from the seed: deposits
with and without a permit, fundings, merges, settlements, withdrawals sent directly and by the
relayer, entries in the registry. Before each, faults are drawn and put on the party's node. Every
second storm mines by the clock and not at once, so that transactions wait in the pool. Both parties
move at the same time; what one does is drawn for it alone, so a seed is one storm up to the
machine's own timing.

A move is made as the command line makes it: everything is opened anew, from files, and closed. What
then says "not confirmed yet" is left to the next command, which takes it up; what fails in another
way is asked for again, as a user would. So an error that hides a transaction which went out makes
a second one, and the storm sees it.

At the end everything is counted on the real chain, by nobody's word:
- tokens minted = in accounts + in the portal, and the portal's = in the parties' notes;
- each move is one transaction, and none reverted;
- what each party has is what its moves say.

Proofs are stood in for by a verifier that accepts everything, so that a move costs milliseconds;
--proofs makes real ones.

This file is long because each kind of move has its asking, its repeating and its share of the final
count.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Final

import trio

sys.path.insert(0, str(Path(__file__).parent.parent / "chain"))

from faulty_node import FaultyNode, open_faulty_node
from node_faults import FAULTS, LOGS, SENDING
from storm_judge import StormFailed
from storm_prover import Agreeing

from psymm.chain.artifacts import artifact
from psymm.chain.contracts import Token
from psymm.chain.deployment import Deployment, TokenInfo, deploy
from psymm.chain.devnet import CHAIN_ID, Devnet, open_devnet
from psymm.chain.errors import TransactionPending, TransactionReplaced
from psymm.chain.registry import Role
from psymm.chain.rpc import Rpc, own_deadline
from psymm.chain.transactions import Chain
from psymm.custody.moves import Vault, open_vault
from psymm.custody.notes import Custody
from psymm.custody.planning import Signatures, deadline_after
from psymm.custody.prover import Prover
from psymm.custody.sending import DirectSender, Sender
from psymm.custody.settlement import propose_settlement
from psymm.custody.stored import UNSPENT
from psymm.errors import PSymmError
from psymm.relayer.config import RelayerConfig, TokenPrice
from psymm.relayer.sender import RelayerSender
from psymm.relayer.service import RelayerService
from psymm.relayer.store import Store
from psymm.wallet import KeyWallet

MINTED: Final = 10**9
FEE: Final = 500
PATIENCE_S: Final = 10.0
ANSWER_S: Final = 0.6
"""Longer than anvil takes for an answer; where the machine is busier, it is asked again."""
MOST_COMMANDS: Final = 40
"""After so many commands for one move something never ends."""
ACCEPTS: Final = "0x60015f5260205ff3"
"""A contract that answers 1 to everything."""

UNFIT: Final = frozenset({"batch-refused"})
LASTING: Final = frozenset({"lagging", "span-refused", "slow", "leading-zero", "result-too-large"})
"""Faults that a node can have for ever and be of use."""


@dataclass
class Party:
    name: str
    wallet: KeyWallet
    home: Path
    node: FaultyNode
    dice: Random
    amounts: list[int]
    """Units for its moves, each of them once, so that what became of one can be told."""
    deposited: int = 0
    funded: list[tuple[Custody, int]] = field(default_factory=list)
    """Custodies that are not settled yet, with their units."""
    busy: trio.Lock = field(default_factory=trio.Lock)
    """Its files are one process's."""


@dataclass
class Storm:
    devnet: Devnet
    parties: list[Party]
    relayers: FaultyNode
    prover: Prover
    calm: bool
    deployment: Deployment = field(init=False)
    done: Counter[str] = field(default_factory=Counter)
    endings: Counter[str] = field(default_factory=Counter)
    payees: list[tuple[str, int, int]] = field(default_factory=list)
    """Of withdrawals: recipient, units that left the custody, the fee."""

    @property
    def token(self) -> str:
        return self.deployment.tokens[0].address

    @property
    def deposits(self) -> set[str]:
        """The selectors of both kinds of deposit."""
        abi = artifact("PSymm").abi
        names = ("addressToCustody", "addressToCustodyWithPermit")
        return {"0x" + abi.function(name).selector.hex() for name in names}

    # --- one command --------------------------------------------------------------------------

    @asynccontextmanager
    async def opened(self, party: Party) -> AsyncIterator[Vault]:
        """A party's vault as a new process opens it, through its faulty node."""
        async with (
            self.chain_of(party.node) as chain,
            await open_vault(
                party.wallet, self.deployment, chain, home=party.home, prover=self.prover
            ) as vault,
        ):
            yield vault

    @asynccontextmanager
    async def chain_of(self, node: FaultyNode) -> AsyncIterator[Chain]:
        """The chain through a faulty node, as a new process opens it."""
        async with Rpc(node.url, timeout_s=ANSWER_S, backoff_s=0.02) as rpc:
            yield Chain(rpc, CHAIN_ID, poll_s=0.05)

    async def commands_until(
        self,
        party: Party,
        what: str,
        do: Callable[[Vault], Awaitable[Any]],
        senders: Callable[[Vault], list[Sender]] | None = None,
    ) -> Any:
        """Give commands until a move is made, as a user would who reads what they say.

        A move that is under way is never asked for again: the next commands take it up.
        """
        before = {one.id for one in await self._moves(party)}
        for attempt in range(MOST_COMMANDS):
            self.put_faults(party.node, party.dice, calmer=attempt)
            try:
                with own_deadline(), trio.fail_after(20 * PATIENCE_S):
                    async with party.busy, self.opened(party) as vault:
                        if attempt:
                            handed = [] if senders is None else senders(vault)
                            await vault.resume(handed)
                            # A settlement that is signed meanwhile is the other command's.
                            mine = [
                                one
                                for one in await vault.store.moves()
                                if one.id not in before and one.purpose != "settle"
                            ]
                            if any(one.alive for one in mine):
                                continue
                            if any(one.status == "done" and one.purpose == what for one in mine):
                                return None
                        found = await do(vault)
                        self.endings["done"] += 1
                        return found
            except (PSymmError, trio.TooSlowError) as failed:
                await self._weigh(f"{party.name}'s {what}", failed)
            finally:
                party.node.heal()
        raise StormFailed(f"{what} of {party.name} did not end in {MOST_COMMANDS} commands")

    async def _weigh(self, what: str, failed: PSymmError | trio.TooSlowError) -> None:
        """Count how a command ended.  Raises StormFailed for an end that no node's fault is."""
        code = getattr(failed, "code", type(failed).__name__)
        self.endings[code] += 1
        print(f"  {what}: {str(failed)[:300]}", flush=True)
        if code in WRONG or isinstance(failed, trio.TooSlowError):
            raise StormFailed(f"{what}: a faulty node was called {code}: {failed}")
        if isinstance(failed, TransactionReplaced):
            # An account that was counted late, and a hand-over that was lost: true, if it is so.
            other = await self.devnet.rpc.call("eth_getTransactionReceipt", failed.by)
            ours = await self.devnet.rpc.call("eth_getTransactionReceipt", failed.tx_hash)
            if other is None or ours is not None:
                raise StormFailed(f"{what} was not replaced: {failed}")

    async def _moves(self, party: Party) -> list[Any]:
        async with party.busy, self.calmly(party) as vault:
            return await vault.store.moves()

    @asynccontextmanager
    async def calmly(self, party: Party) -> AsyncIterator[Vault]:
        """A party's vault through the real node."""
        async with await open_vault(
            party.wallet, self.deployment, self.devnet.chain, home=party.home, prover=self.prover
        ) as vault:
            yield vault

    def put_faults(self, node: FaultyNode, dice: Random, *, calmer: int) -> None:
        """Draw faults for one command; later ones of the same move have fewer."""
        node.heal()
        if self.calm:
            return
        for _ in range(max(0, dice.randint(2, 7) - calmer)):
            name = dice.choice(sorted(FAULTS.keys() - UNFIT))
            lasts = name in LASTING or (dice.random() < 0.1 and not calmer)
            node.put(
                name,
                on=FAULTS[name].methods or dice.choice(PLACES),
                times=None if lasts else dice.randint(1, 3),
                after=dice.choice([0, 0, 0, 1, 2, 5]),
                every=2 if name == "lagging" else dice.choice([1, 1, 2]),
                chance=dice.choice([1.0, 0.5]),
                **({"blocks": dice.randint(1, 3)} if name == "lagging" else {}),
                **({"seconds": 0.2} if name == "slow" else {}),
            )

    # --- moves --------------------------------------------------------------------------------

    async def deposit(self, party: Party, *, permit: bool) -> None:
        units = 10 * party.amounts.pop()

        async def do(vault: Vault) -> None:
            await vault.deposit(
                party.wallet, self.token, units, permit=permit, timeout_s=PATIENCE_S
            )

        await self.commands_until(party, "deposit", do)
        party.deposited += units

    async def fund(self, party: Party) -> None:
        other = next(one for one in self.parties if one is not party)
        units, draw = party.amounts.pop(), party.dice.randbytes
        custody = Custody(
            party.wallet.public_key, other.wallet.public_key, b"\0" + draw(31), b"\0" + draw(31)
        )

        async def do(vault: Vault) -> None:
            await vault.fund(
                custody, self.token, units, self.direct(vault, party), timeout_s=PATIENCE_S
            )

        await self.commands_until(party, "fund", do, partial(self.direct, party=party))
        party.funded.append((custody, units))

    async def settle(self, party: Party) -> None:
        """Both sign the settlement of a custody that the party funded; either sends it."""
        if not party.funded:
            await self.fund(party)
        custody, units = party.funded.pop()
        other = next(one for one in self.parties if one is not party)
        payouts = (part := party.dice.randint(0, units), units - part)
        async with AsyncExitStack() as both:
            for one in self.parties:
                await both.enter_async_context(one.busy)
            ours, theirs = [
                await both.enter_async_context(self.calmly(one)) for one in (party, other)
            ]
            # A funding that failed leaves a note in the file that is not on chain.
            (held,) = await ours.store.notes(custody=custody.id, status=UNSPENT)
            settlement = propose_settlement(
                [held.note],
                (
                    await ours.settlements.payee(self.token, payouts[0]),
                    await theirs.settlements.payee(self.token, payouts[1]),
                ),
                payouts,
                proposer=0,
                deadline=deadline_after(await ours.chain.now_s()),
            )
            signatures = Signatures(
                await ours.settlements.sign(settlement), await theirs.settlements.sign(settlement)
            )

        async def do(vault: Vault) -> None:
            await vault.settlements.settle(
                settlement, signatures, self.direct(vault, sender), timeout_s=PATIENCE_S
            )

        sender = party.dice.choice([party, other])
        await self.commands_until(sender, "settle", do, partial(self.direct, party=sender))

    async def merge(self, party: Party) -> None:
        async with party.busy, self.calmly(party) as vault:
            mine = await vault.store.notes(status="unspent", custody=vault.view.sole.id)
        if sum(1 for one in mine if one.note.amount) < 2:
            await self.deposit(party, permit=True)

        async def do(vault: Vault) -> None:
            await vault.merge(self.token, self.direct(vault, party), timeout_s=PATIENCE_S)

        await self.commands_until(party, "merge", do, partial(self.direct, party=party))

    async def withdraw(self, party: Party, *, relayed: bool) -> None:
        units, recipient = party.amounts.pop(), KeyWallet.generate().address
        senders = self.by_relayer if relayed else partial(self.direct, party=party)

        async def do(vault: Vault) -> None:
            await vault.withdraw(self.token, units, recipient, senders(vault), timeout_s=PATIENCE_S)

        if relayed:
            self.put_faults(self.relayers, party.dice, calmer=1)
        await self.commands_until(party, "withdraw", do, senders)
        self.payees.append((recipient, units, FEE if relayed else 0))

    async def register(self, party: Party) -> None:
        endpoint = f"wss://{party.amounts.pop()}.example/"
        for attempt in range(MOST_COMMANDS):
            self.put_faults(party.node, party.dice, calmer=attempt)
            try:
                async with self.chain_of(party.node) as chain:
                    registry = self.deployment.party_registry(chain)
                    await registry.register(
                        party.wallet, Role.SOLVER, endpoint, party.wallet.public_key
                    )
                self.endings["done"] += 1
                break
            except PSymmError as failed:
                await self._weigh(f"{party.name}'s registration", failed)
                if isinstance(failed, TransactionPending) and await self.devnet.rpc.call(
                    "eth_getTransactionByHash", failed.tx_hash
                ):
                    break
                # What no node ever got, nobody hands over any more: its owner registers again.
            finally:
                party.node.heal()
        with own_deadline(), trio.fail_after(20 * PATIENCE_S):
            registry = self.deployment.party_registry(self.devnet.chain)
            while True:
                entry = await registry.get(Role.SOLVER, party.wallet.address)
                if entry is not None and entry.endpoint == endpoint:
                    return
                await trio.sleep(0.1)

    def direct(self, vault: Vault, party: Party) -> list[Sender]:
        return [DirectSender(self.deployment.pool(vault.chain), party.wallet, timeout_s=PATIENCE_S)]

    def by_relayer(self, vault: Vault) -> list[Sender]:
        async def listed() -> Any:
            found = self.deployment.party_registry(self.devnet.chain)
            return [one async for one in found.list(Role.RELAYER)]

        sender = RelayerSender(
            self.deployment.pool(vault.chain),
            listed,
            at_most=1,
            answer_timeout_s=PATIENCE_S,
            mined_timeout_s=PATIENCE_S,
        )
        return list(sender.senders())

    async def live(self, party: Party, moves: int) -> None:
        """One party's moves: money first, then each kind in turn from a random one on."""
        begin = party.dice.randrange(len(TURNS))
        for at in range(moves):
            name, effects = TURNS[0] if at == 0 else TURNS[(begin + at) % len(TURNS)]
            print(f"{party.name}: {name}", flush=True)
            await effects(self, party)
            self.done[name] += 1

    async def deploy(self, node: FaultyNode, deployer: KeyWallet, file: Path, dice: Random) -> None:
        """The contracts, through a faulty node; what is cut off is taken up from its record."""
        for attempt in range(MOST_COMMANDS):
            self.put_faults(node, dice, calmer=attempt)
            try:
                async with self.chain_of(node) as chain:
                    test_token = TokenInfo("", "USDT", 6)
                    self.deployment = await deploy(
                        chain, deployer, test_token=test_token, file=file
                    )
                    return
            except PSymmError as failed:
                await self._weigh("deploy", failed)
            finally:
                node.heal()
        raise StormFailed(f"the contracts did not stand after {MOST_COMMANDS} commands")

    # --- counting -----------------------------------------------------------------------------

    async def count(self, accounts: list[str]) -> int:
        """Raise StormFailed unless every unit is accounted for and nothing was done twice; how
        many transactions there are."""
        truth = self.devnet.chain
        token = Token(truth, self.token)
        in_notes = 0
        for party in self.parties:
            async with self.calmly(party) as vault:
                if alive := await vault.store.moves(alive=True):
                    raise StormFailed(f"{party.name} has moves under way at the end: {alive}")
                in_notes += (await vault.balance(self.token)).available
            in_notes += sum(units for _, units in party.funded)
            held = await token.balance(party.wallet.address)
            if held != MINTED - party.deposited:
                raise StormFailed(f"{party.name} holds {held}, and deposited {party.deposited}")
        paid = 0
        for recipient, units, fee in self.payees:
            got = await token.balance(recipient)
            if got != units - fee:
                raise StormFailed(f"{recipient} got {got}, not {units} less {fee}")
            paid += units
        portal = await token.balance(self.deployment.portal)
        deposited = sum(party.deposited for party in self.parties)
        if not portal == in_notes == deposited - paid:
            raise StormFailed(
                f"the portal holds {portal}, the notes {in_notes}, the moves say {deposited - paid}"
            )
        return await self._count_transactions(accounts)

    async def _count_transactions(self, accounts: list[str]) -> int:
        rpc = self.devnet.rpc
        ours = {one.lower() for one in accounts}
        seen: Counter[tuple[str, str]] = Counter()
        deposits: Counter[int] = Counter()
        for number in range(await rpc.block_number() + 1):
            block = await rpc.call("eth_getBlockByNumber", hex(number), True)
            for one in block["transactions"]:
                if one["from"].lower() not in ours:
                    continue
                seen[one["from"], one["input"]] += 1
                receipt = await rpc.call("eth_getTransactionReceipt", one["hash"])
                if receipt["status"] != "0x1":
                    raise StormFailed(f"{one['hash']} of {one['from']} reverted")
                if one["input"][:10] in self.deposits:
                    deposits[int(one["input"][10 + 64 : 10 + 128], 16)] += 1
        if twice := [one for one, times in (seen + deposits).items() if times > 1]:
            raise StormFailed(f"made more than once: {str(twice)[:600]}")
        return seen.total()


WRONG: Final = frozenset(
    {
        "internal", "reverted", "out-of-gas", "store-corrupt", "tree-corrupt", "deployment-invalid",
        "token-unfit", "permit-missing", "wallet-without-gas", "token-balance-too-low",
        "allowance-too-low", "funds-too-low", "lying-node", "would-revert",
    }
)  # fmt: skip
"""Codes that no fault of a node may be given for: each says something of money that is not so."""
PLACES: Final = (None, SENDING, SENDING, LOGS, {"eth_call"}, {"eth_getTransactionReceipt"})
"""What a fault that can be on every call is put on; None is all."""

TURNS: Final = (
    ("deposit", partial(Storm.deposit, permit=False)),
    ("deposit with a permit", partial(Storm.deposit, permit=True)),
    ("fund", Storm.fund),
    ("settle", Storm.settle),
    ("withdraw", partial(Storm.withdraw, relayed=False)),
    ("withdraw by a relayer", partial(Storm.withdraw, relayed=True)),
    ("merge", Storm.merge),
    ("register", Storm.register),
)


async def blow(seed: int, moves: int, *, proofs: bool, calm: bool) -> None:
    print(f"node storm, SEED={seed}, {moves} moves", flush=True)
    with tempfile.TemporaryDirectory(prefix="psymm-storm-") as scratch:
        async with (
            open_devnet() as devnet,
            Prover() if proofs else Agreeing() as prover,
            open_faulty_node(devnet.url, seed=seed) as first,
            open_faulty_node(devnet.url, seed=seed + 1) as second,
            open_faulty_node(devnet.url, seed=seed + 2) as third,
            trio.open_nursery() as nursery,
        ):
            storm = Storm(devnet, [], third, prover, calm)
            deployer = await devnet.new_account()
            file = Path(scratch, "deployment.json")
            await storm.deploy(first, deployer, file, Random(f"{seed} deploy"))
            if not proofs:
                for verifier in (storm.deployment.ctc_verifier, storm.deployment.cta_verifier):
                    await devnet.rpc.call("anvil_setCode", verifier, ACCEPTS)
            for at, (name, node) in enumerate((("alice", first), ("bob", second))):
                wallet = await devnet.new_account()
                mint = artifact("TestToken").abi.function("mint").encode(wallet.address, MINTED)
                await devnet.chain.transact(deployer, storm.token, mint)
                dice = Random(f"{seed} {name}")
                amounts = dice.sample(range(20_000 + at, 80_000, 2), 10_000)
                storm.parties.append(Party(name, wallet, Path(scratch, name), node, dice, amounts))
            owner = await nursery.start(relay, storm, Path(scratch))
            if seed % 2 == 0:
                await devnet.rpc.call("evm_setAutomine", False)
                nursery.start_soon(mining, devnet)
            async with trio.open_nursery() as both:
                for party in storm.parties:
                    both.start_soon(storm.live, party, moves // 2)
            accounts = [deployer.address, owner, *(one.wallet.address for one in storm.parties)]
            sent = await storm.count(accounts)
            met = first.met + second.met + third.met
            print(f"moves: {dict(storm.done)}")
            print(f"{storm.endings.total()} commands ended: {dict(storm.endings)}")
            print(f"{met.total()} faults of {len(met)} kinds: {dict(met.most_common())}")
            print(f"{sent} transactions; every unit is accounted for, no move was repeated")
            nursery.cancel_scope.cancel()


async def mining(devnet: Devnet) -> None:
    while True:
        await devnet.mine()
        await trio.sleep(0.3)


async def relay(
    storm: Storm, scratch: Path, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED
) -> None:
    """The relayer, through a faulty node of its own; its account."""
    owner = await storm.devnet.new_account()
    async with storm.chain_of(storm.relayers) as chain, trio.open_nursery() as nursery:
        config = RelayerConfig({storm.token: TokenPrice(FEE)})
        pool = storm.deployment.pool(chain)
        with Store(scratch / "sends.sqlite", CHAIN_ID, pool.address, owner.address) as store:
            service = RelayerService(chain, pool, owner, store, config)
            port = await nursery.start(partial(service.serve, "127.0.0.1", 0))
            await storm.deployment.party_registry(storm.devnet.chain).register(
                owner, Role.RELAYER, f"ws://127.0.0.1:{port}/", owner.public_key
            )
            task_status.started(owner.address)
            await trio.sleep_forever()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--moves", type=int, default=16)
    parser.add_argument("--proofs", action="store_true")
    parser.add_argument("--calm", action="store_true", help="without a fault")
    given = parser.parse_args()
    try:
        trio.run(
            partial(blow, given.seed, given.moves, proofs=given.proofs, calm=given.calm),
            strict_exception_groups=True,
        )
    except BaseException:
        traceback.print_exc()
        print(f"failed: SEED={given.seed}, {given.moves} moves")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
