"""A reorganisation takes the root under which a relayed move was proved: the same move is proved
anew, and is made and paid for once.

The verifier accepts every proof, as in `reorganisation_storm.py`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "storms"))

from reorganisation_storm import DEPTH, FEE, Place, open_place

from psymm.chain.calls import Call
from psymm.chain.contracts import Token
from psymm.chain.devnet import Devnet
from psymm.chain.transactions import Receipt
from psymm.custody.sending import Sender, SendTerms
from psymm.custody.stored import DONE
from psymm.wallet import KeyWallet

pytestmark = pytest.mark.chain


async def relayed_withdrawal(place: Place, recipient: str) -> bytes:
    """Made under a root that counts a deposit of Bob's; that root."""
    async with place.vault(place.bob) as theirs:
        await theirs.deposit(place.bob, place.token, 5, permit=True)
    async with place.vault(place.alice) as ours:
        moved = await ours.withdraw(
            place.token, 100, recipient, place.by_relayer(ours), max_fee=FEE
        )
        return moved.call.root


async def test_a_relayed_move_whose_root_is_gone_is_proved_anew_and_made_once(
    own_devnet: Devnet, tmp_path: Path
) -> None:
    recipient = KeyWallet.generate().address
    async with open_place(own_devnet, tmp_path) as place:
        root = await relayed_withdrawal(place, recipient)
        await place.node.go_back(DEPTH)  # Bob is away, so his deposit does not come again
        token = Token(own_devnet.chain, place.token)
        assert await token.balance(recipient) == 0
        async with place.vault(place.alice) as ours:
            assert await ours.resume(place.by_relayer(ours), patience_s=300) == []
            move = (await ours.store.moves())[-1]
            assert (move.purpose, move.status) == ("withdraw", DONE)
            assert move.call.root != root
            assert await ours.chain.time_s() < move.call.deadline
            left = (await ours.balance(place.token)).available
        assert await token.balance(recipient) == 100 - FEE
        assert await token.balance(move.call.relayer) == FEE
        assert await token.balance(place.put.portal) == left


async def test_a_root_that_comes_back_needs_no_new_proof(
    own_devnet: Devnet, tmp_path: Path
) -> None:
    recipient = KeyWallet.generate().address
    async with open_place(own_devnet, tmp_path) as place:
        root = await relayed_withdrawal(place, recipient)
        await place.node.go_back(DEPTH)
        for owner in (place.alice, place.bob):
            async with place.vault(owner) as vault:
                # Without a relayer, so that the deposits alone come again, in their order.
                await vault.resume(patience_s=3)
        async with place.vault(place.alice) as ours:
            assert await ours.resume(place.by_relayer(ours), patience_s=300) == []
            move = (await ours.store.moves())[-1]
            assert (move.status, move.call.root) == (DONE, root)
        token = Token(own_devnet.chain, place.token)
        assert await token.balance(recipient) == 100 - FEE
        assert await token.balance(move.call.relayer) == FEE


class Rewound:
    """A relayer; after its first answer the chain is reorganised."""

    def __init__(self, place: Place, sender: Sender) -> None:
        self.place, self.sender, self.calls = place, sender, list[Call]()

    async def terms(self, kind: str, token: str) -> SendTerms:
        return await self.sender.terms(kind, token)

    async def send(self, kind: str, call: Call) -> Receipt:
        self.calls.append(call)
        receipt = await self.sender.send(kind, call)
        if len(self.calls) == 1:
            await self.place.node.go_back(DEPTH)
        return receipt


async def test_a_command_that_still_runs_makes_the_move_itself(
    own_devnet: Devnet, tmp_path: Path
) -> None:
    recipient = KeyWallet.generate().address
    async with open_place(own_devnet, tmp_path) as place:
        async with place.vault(place.bob) as theirs:
            await theirs.deposit(place.bob, place.token, 5, permit=True)
        async with place.vault(place.alice) as ours:
            relayer = Rewound(place, place.by_relayer(ours)[0])
            await ours.withdraw(place.token, 100, recipient, [relayer], max_fee=FEE)
            assert [one.status for one in await ours.store.moves()] == [DONE] * 3
        first, *_, last = relayer.calls
        assert first.root != last.root
        place_of = (place.put.chain_id, place.put.psymm)
        assert first.digest(*place_of) == last.digest(*place_of)
        token = Token(own_devnet.chain, place.token)
        assert await token.balance(recipient) == 100 - FEE
        assert await token.balance(first.relayer) == FEE
