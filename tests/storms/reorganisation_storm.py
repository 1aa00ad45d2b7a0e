"""The reorganisation storm: the chain goes back up to 64 blocks at any call of any move.

    python tests/storms/reorganisation_storm.py [--seed N] [--moves N]

Two parties and a relayer share a chain of their own. For each move, two deposits are under way at
the same time, one of the same account and one of the other party's. At a call that the seed draws
the chain throws its newest blocks away, with all transactions in them; at times once more when all
is done. Then commands are given until nothing is under way, and what is said to have failed is
asked for again. After each move every unit is accounted for, on the chain and in both files.

A verifier that accepts everything stands in for proofs. What the contract knows of roots, notes and
nullifiers it judges itself. `tests/custody/test_reorganisations.py` is the short form.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from random import Random
from typing import Any, Final

import trio

sys.path.insert(0, str(Path(__file__).parent.parent / "chain"))

from faulty_node import FaultyNode, open_faulty_node
from node_faults import GOES_BACK, LOGS, RECEIPTS, SENDING
from storm_prover import Agreeing

from psymm.chain.artifacts import artifact
from psymm.chain.calls import CtaCall
from psymm.chain.contracts import Token
from psymm.chain.deployment import Deployment, TokenInfo, deploy
from psymm.chain.devnet import CHAIN_ID, Devnet, open_devnet
from psymm.chain.registry import Role
from psymm.chain.rpc import Rpc
from psymm.chain.transactions import Chain
from psymm.custody.errors import DeadlinePassed
from psymm.custody.moves import Vault, open_vault
from psymm.custody.notes import Custody, Note
from psymm.custody.planning import Signatures, deadline_after
from psymm.custody.sending import DirectSender, Sender
from psymm.custody.settlement import PlannedSettlement, propose_settlement
from psymm.custody.stored import DONE, UNSPENT, Move
from psymm.errors import PSymmError
from psymm.relayer.config import RelayerConfig, TokenPrice
from psymm.relayer.sender import RelayerSender
from psymm.relayer.service import RelayerService
from psymm.relayer.store import Store
from psymm.wallet import KeyWallet

DEPTH: Final = 64
MOST_BLOCKS: Final = 400
"""A chain this long is replaced by a new one. At some 900 blocks, an anvil that goes back loses its
contracts."""
MINTED: Final = 10**9
FEE: Final = 1
ACCEPTS: Final = "0x60015f5260205ff3"
"""A contract that answers 1 to everything."""
PATIENCE_S: Final = 20.0

STEPS: Final = {
    "before the node has it": SENDING,
    "before its receipt": RECEIPTS,
    "before it is in the tree": LOGS,
}
"""Of a move: what the node is asked at that step."""


@dataclass
class Place:
    """One chain whose blocks since the set-up a reorganisation can take, and a node before it."""

    net: Devnet
    put: Deployment
    node: FaultyNode
    home: Path
    alice: KeyWallet
    bob: KeyWallet
    paid: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Of withdrawals: what its recipient is to get, units after the fee, and the fee."""
    units: count[int] = field(default_factory=lambda: count(101))

    @property
    def token(self) -> str:
        return self.put.tokens[0].address

    @asynccontextmanager
    async def vault(self, owner: KeyWallet) -> AsyncIterator[Vault]:
        """An owner's vault as a new process opens it, through the node."""
        home = self.home / ("alice" if owner is self.alice else "bob")
        async with (
            # A block that is gone is asked for until this patience is over.
            Rpc(self.node.url, patience_s=2) as rpc,
            await open_vault(
                owner, self.put, Chain(rpc, CHAIN_ID, poll_s=0.05), home=home, prover=Agreeing()
            ) as vault,
        ):
            yield vault

    def direct(self, vault: Vault) -> list[Sender]:
        return [DirectSender(self.put.pool(vault.chain), self.alice, timeout_s=PATIENCE_S)]

    def by_relayer(self, vault: Vault) -> list[Sender]:
        async def listed() -> Any:
            registry = self.put.party_registry(self.net.chain)
            return [one async for one in registry.list(Role.RELAYER)]

        pool = self.put.pool(vault.chain)
        return list(RelayerSender(pool, listed, at_most=1, max_fee={self.token: FEE}).senders())


@asynccontextmanager
async def open_place(net: Devnet, home: Path) -> AsyncIterator[Place]:
    """Contracts, two parties with tokens and a relayer, out of reach of a reorganisation of 64
    blocks. Alice has two notes, which are not."""
    alice, bob, owner = [await net.new_account() for _ in range(3)]
    put = await deploy(net.chain, owner, test_token=TokenInfo("", "T", 6))
    token = put.tokens[0].address
    for verifier in (put.ctc_verifier, put.cta_verifier):
        await net.rpc.call("anvil_setCode", verifier, ACCEPTS)
    for one in (alice, bob):
        mint = artifact("TestToken").abi.function("mint").encode(one.address, MINTED)
        await net.chain.transact(owner, token, mint)
    async with open_faulty_node(net.url) as node, trio.open_nursery() as nursery:
        with Store(home / "sends.sqlite", CHAIN_ID, put.psymm, owner.address) as store:
            config = RelayerConfig({token: TokenPrice(FEE)})
            service = RelayerService(net.chain, put.pool(net.chain), owner, store, config)
            port = await nursery.start(partial(service.serve, "127.0.0.1", 0))
            await put.party_registry(net.chain).register(
                owner, Role.RELAYER, f"ws://127.0.0.1:{port}/", owner.public_key
            )
            await net.mine(DEPTH + 1)
            place = Place(net, put, node, home, alice, bob)
            async with place.vault(alice) as vault:
                for _ in range(2):
                    await vault.deposit(alice, token, MINTED // 4, permit=True)
            yield place
            nursery.cancel_scope.cancel()


@dataclass(frozen=True)
class Asked:
    """A move that an owner asks for."""

    owner: KeyWallet
    purpose: str
    do: Callable[[Vault], Awaitable[object]]


Begin = Callable[[Place], Awaitable[Asked]]
"""Makes ready what a move needs."""


async def deposit(place: Place, *, permit: bool = True, owner: KeyWallet | None = None) -> Asked:
    units, owner = next(place.units), owner or place.alice

    def do(vault: Vault) -> Awaitable[object]:
        return vault.deposit(owner, place.token, units, permit=permit, timeout_s=PATIENCE_S)

    return Asked(owner, "deposit", do)


async def fund(place: Place) -> Asked:
    units = next(place.units)
    custody = a_custody(place, units)

    def do(vault: Vault) -> Awaitable[object]:
        senders = place.direct(vault)
        return vault.fund(custody, place.token, units, senders, timeout_s=PATIENCE_S)

    return Asked(place.alice, "fund", do)


async def merge(place: Place) -> Asked:
    async def do(vault: Vault) -> None:
        mine = await vault.store.notes(status=UNSPENT, custody=vault.view.sole.id)
        if sum(one.note.amount > 0 for one in mine) < 2:
            await vault.deposit(place.alice, place.token, next(place.units), permit=True)
        await vault.merge(place.token, place.direct(vault), timeout_s=PATIENCE_S)

    return Asked(place.alice, "merge", do)


async def withdraw(place: Place, *, relayed: bool) -> Asked:
    units, recipient = next(place.units), KeyWallet.generate().address
    place.paid[recipient] = (units - FEE * relayed, FEE * relayed)

    def do(vault: Vault) -> Awaitable[object]:
        senders = place.by_relayer(vault) if relayed else place.direct(vault)
        return vault.withdraw(
            place.token, units, recipient, senders, max_fee=FEE, timeout_s=PATIENCE_S
        )

    return Asked(place.alice, "withdraw", do)


async def settle(place: Place) -> Asked:
    units = next(place.units)
    custody = a_custody(place, units)

    async def agree(ours: Vault, theirs: Vault, note: Note) -> tuple[PlannedSettlement, Signatures]:
        settlement = propose_settlement(
            [note],
            (
                await ours.settlements.payee(place.token, units - 1),
                await theirs.settlements.payee(place.token, 1),
            ),
            (units - 1, 1),
            proposer=0,
            deadline=deadline_after(await ours.chain.now_s()),
        )
        signatures = Signatures(
            await ours.settlements.sign(settlement), await theirs.settlements.sign(settlement)
        )
        return settlement, signatures

    async with place.vault(place.alice) as ours, place.vault(place.bob) as theirs:
        funded = await ours.fund(custody, place.token, units, place.direct(ours))
        agreed = await agree(ours, theirs, funded.note)

    async def do(vault: Vault) -> None:
        nonlocal agreed
        try:
            await vault.settlements.settle(*agreed, place.direct(vault), timeout_s=PATIENCE_S)
        except DeadlinePassed:
            # Its transaction could not be mined any more, for the root that it was proved under
            # went back, too, perhaps with the custody's note. Both sign another.
            funded = await vault.fund(custody, place.token, units, place.direct(vault))
            async with place.vault(place.bob) as theirs:
                agreed = await agree(vault, theirs, funded.note)
            await vault.settlements.settle(*agreed, place.direct(vault), timeout_s=PATIENCE_S)

    return Asked(place.alice, "settle", do)


def a_custody(place: Place, number: int) -> Custody:
    salt = b"\0" + number.to_bytes(31, "big")
    return Custody(place.alice.public_key, place.bob.public_key, salt, salt)


MOVES: dict[str, Begin] = {
    "a deposit with a permit": deposit,
    "a deposit with an approval": partial(deposit, permit=False),
    "a funding": fund,
    "a merge": merge,
    "a withdrawal": partial(withdraw, relayed=False),
    "a withdrawal by a relayer": partial(withdraw, relayed=True),
    "a settlement": settle,
}


async def make(
    place: Place,
    kind: str,
    at: Collection[str] | None,
    *,
    after: int = 0,
    blocks: int = DEPTH,
    again: bool = False,
) -> None:
    """Make a move with two deposits under way, while the chain goes back; judge what came of it.

    at: before the answer to such a call, the first `after` of them left out; None: nowhere.
    again: also when all is done.
    """
    async with place.vault(place.alice) as vault:
        known = {one.id for one in await vault.store.moves()}
    asked = [
        await MOVES[kind](place),
        await deposit(place),
        await deposit(place, owner=place.bob),
    ]
    async with place.vault(place.alice) as ours, place.vault(place.bob) as theirs:
        if at is not None:
            place.node.put(GOES_BACK, on=at, times=1, after=after, blocks=blocks)
        async with trio.open_nursery() as nursery:
            for one in asked:
                nursery.start_soon(command, one, theirs if one.owner is place.bob else ours)
    place.node.heal()
    if again:
        await place.node.go_back(blocks)
    await end_all(place)
    for _ in range(4):
        async with place.vault(place.alice) as vault:
            moves = await vault.store.moves()
            begun = [one for one in moves if one.id not in known]
            if any(one.status == DONE for one in begun if one.purpose == asked[0].purpose):
                break
            # It was said to have failed, so its owner asks again.
            await command(asked[0], vault)
        await end_all(place)
    else:
        raise AssertionError(f"{kind} was not made in four more commands: {begun}")
    await judge(place)


async def command(asked: Asked, vault: Vault) -> None:
    """What a command says at its end is no proof; the next ones find out."""
    try:
        await asked.do(vault)
    except PSymmError as said:
        print(f"  the {asked.purpose}: {said}")


async def end_all(place: Place) -> None:
    """Commands of both owners until nothing is under way."""
    for attempt in range(8):
        alive: list[Move] = []
        for owner in (place.alice, place.bob):
            async with place.vault(owner) as vault:
                alive += await vault.resume(place.by_relayer(vault), patience_s=PATIENCE_S)
        if not alive:
            return
        if attempt > 4:
            # What a relayer has and cannot send any more ends with its deadline. That can be hours
            # ahead: the blocks that were mined here before may have gone back since.
            now_s = (await place.net.chain.block()).timestamp_s
            ends_s = max(one.deadline or now_s for one in alive)
            await place.net.mine(2, interval_s=max(60, ends_s - now_s + 1))
    raise AssertionError(f"still under way: {alive}")


async def judge(place: Place) -> None:
    """Every unit is accounted for, on the chain and in the files."""
    token, noted = Token(place.net.chain, place.token), 0
    deposited = 0
    for owner in (place.alice, place.bob):
        async with place.vault(owner) as vault:
            moves = await vault.store.moves()
            assert [one.purpose for one in moves if one.alive] == []
            made = [
                (await vault.store.note(one.outputs[0])).note.amount
                for one in moves
                if one.purpose == "deposit" and one.status == DONE
            ]
            assert await token.balance(owner.address) == MINTED - sum(made)
            deposited += sum(made)
            noted += sum(
                one.note.amount for one in await vault.store.notes(status=UNSPENT, mine=True)
            )
    async with place.vault(place.alice) as vault:
        # An earlier one, too, can have gone back since, and be said to have failed.
        done = {
            one.call.recipient
            for one in await vault.store.moves()
            if one.purpose == "withdraw" and one.status == DONE and isinstance(one.call, CtaCall)
        }
    paid = 0
    for recipient, (units, fee) in place.paid.items():
        got = await token.balance(recipient)
        assert got == (units if recipient in done else 0)
        paid += units + fee if recipient in done else 0
    assert await token.balance(place.put.portal) == noted == deposited - paid


async def blow(seed: int, moves: int) -> None:
    print(f"reorganisation storm, SEED={seed}, {moves} moves", flush=True)
    dice, left = Random(seed), moves
    while left:
        with tempfile.TemporaryDirectory(prefix="psymm-storm-") as scratch:
            async with open_devnet() as net, open_place(net, Path(scratch)) as place:
                while left and await net.rpc.block_number() < MOST_BLOCKS:
                    left -= 1
                    kind, step = dice.choice([*MOVES]), dice.choice([*STEPS])
                    after, blocks = dice.choice([0, 0, 1, 2, 3, 5, 8]), dice.randint(1, DEPTH)
                    again = dice.random() < 0.5
                    line = f"{kind}: {blocks} blocks {step}, call {after}, again: {again}"
                    print(line, flush=True)
                    await make(place, kind, STEPS[step], after=after, blocks=blocks, again=again)
    print("every unit is accounted for, no move was repeated")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--moves", type=int, default=14)
    given = parser.parse_args()
    try:
        trio.run(partial(blow, given.seed, given.moves), strict_exception_groups=True)
    except BaseException:
        traceback.print_exc()
        print(f"failed: SEED={given.seed}, {given.moves} moves")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
