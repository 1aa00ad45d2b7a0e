"""Collateral with real parts: deposit, fund, settle, withdraw, and the notes that are left."""

from __future__ import annotations

import pytest
import trio

from psymm.chain.contracts import Token
from psymm.chain.deployment import Deployment
from psymm.chain.devnet import Devnet
from psymm.chain.errors import (
    AllowanceTooLow,
    Reverted,
    TokenBalanceTooLow,
    WalletWithoutGas,
    WrongChain,
)
from psymm.custody.errors import (
    FeeTooHigh,
    FundsTooLow,
    NoteBusy,
    NoteInvalid,
    ProposalRefused,
)
from psymm.custody.moves import Vault
from psymm.custody.notes import Custody
from psymm.custody.planning import Signatures, deadline_after
from psymm.custody.recovery import audit, recover, search
from psymm.custody.sending import SendTerms
from psymm.custody.settlement import Payee, PlannedSettlement, accept_settlement, propose_settlement
from psymm.custody.stored import BUSY, DONE, UNSPENT
from psymm.wallet import KeyWallet

pytestmark = [pytest.mark.chain, pytest.mark.proofs]


def fresh_address() -> str:
    return KeyWallet.generate().address


def a_custody(trader: KeyWallet, solver: KeyWallet) -> Custody:
    return Custody(trader.public_key, solver.public_key, b"\x11" * 32, b"\x02" * 32)


async def settled(
    trader: Vault, solver: Vault, custody: Custody, token: str, senders
) -> PlannedSettlement:
    """Both fund, the trader wins 100 of the solver's, the solver proposes, the trader sends."""
    of_trader = (await trader.fund(custody, token, 600, senders)).note
    of_solver = (await solver.fund(custody, token, 2_000, senders)).note
    payouts = (700, 1_900)
    payees = (
        await trader.settlements.payee(token, 700),
        await solver.settlements.payee(token, 1_900),
    )
    proposed = propose_settlement(
        [of_trader, of_solver], payees, payouts, proposer=1,
        deadline=deadline_after(await solver.chain.now_s()),
    )  # fmt: skip
    by_solver = await solver.settlements.sign(proposed)
    accepted = accept_settlement(
        proposed.proposal, [of_trader, of_solver], payees, payouts,
        proposer=1, max_fee=0, now_s=await trader.chain.now_s(),
    )  # fmt: skip
    place = (trader.deployment.chain_id, trader.deployment.psymm)
    accepted.check_signature(*place, 1, by_solver)
    by_trader = await trader.settlements.sign(accepted)
    await trader.settlements.settle(accepted, Signatures(by_trader, by_solver), senders)
    await solver.settlements.await_mined(proposed)
    return accepted


async def test_money_goes_in_across_and_out_to_the_last_unit(
    devnet: Devnet, deployment: Deployment, token: str, funded_wallet, vault, direct
) -> None:
    alice, bob = await funded_wallet(units=1_000), await funded_wallet(units=5_000)
    trader, solver, senders = await vault(alice), await vault(bob), await direct()
    erc20 = Token(devnet.chain, token)
    before = await erc20.balance(deployment.portal)

    await trader.deposit(alice, token, 1_000)
    await solver.deposit(bob, token, 5_000, permit=True)
    assert await erc20.balance(alice.address) == 0
    assert await erc20.balance(deployment.portal) == before + 6_000

    settlement = await settled(trader, solver, a_custody(alice, bob), token, senders)
    assert (await trader.balance(token)).available == 400 + 700
    assert (await solver.balance(token)).available == 3_000 + 1_900
    assert await trader.settlements.mined_in(settlement) is not None

    places = [fresh_address(), fresh_address()]
    done = await trader.withdraw_parts(token, [(places[0], 500), (places[1], 600)], senders)
    assert [await erc20.balance(place) for place in places] == [500, 600]
    assert [one.fee for one in done] == [0, 0]
    assert (await trader.balance(token)).available == 0
    assert await erc20.balance(deployment.portal) == before + 6_000 - 1_100

    # The wallet's key and the chain give back the same notes as the files held.
    rebuilt, findings = await recover(bob, deployment, devnet.chain)
    async with rebuilt:
        theirs = await solver.store.notes(token=token, status=UNSPENT, mine=True)
        assert {one.note.commitment for one in theirs if one.note.amount} == {
            one.note.commitment for one in findings.sole(token)
        }
        assert findings.balance(token) == (await rebuilt.balance(token)).available == 4_900
        assert [one.note.amount for one in findings.notes if not one.note.custody.is_sole] == [
            2_000
        ]
        assert findings.next_counter > max(one.counter for one in theirs)

    # An auditor with the viewing secret sees the same and holds no key.
    seen = await audit(solver.view, deployment, devnet.chain)
    assert seen.notes == findings.notes
    # A stranger's key opens nothing.
    stranger = await vault(await funded_wallet(units=0))
    assert search(stranger.view, stranger.tree).notes == ()


async def test_a_settlement_waits_as_an_option_and_its_notes_are_busy(
    token: str, funded_wallet, vault, direct
) -> None:
    alice, bob = await funded_wallet(units=100), await funded_wallet(units=0)
    trader, senders = await vault(alice), await direct()
    await trader.deposit(alice, token, 100)
    custody = a_custody(alice, bob)
    note = (await trader.fund(custody, token, 100, senders)).note
    solver = await vault(bob)
    payees = (await trader.settlements.payee(token, 60), await solver.settlements.payee(token, 40))

    first = propose_settlement(
        [note], payees, (60, 40), proposer=0, deadline=deadline_after(await trader.chain.now_s())
    )
    at_once: list[bytes] = []

    async def sign() -> None:
        at_once.append(await trader.settlements.sign(first))

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(sign)
    signature = at_once[0]
    assert at_once == [signature] * 3
    assert (await trader.store.note(note.commitment)).status == BUSY
    assert await trader.settlements.sign(first) == signature
    second = propose_settlement(
        [note], payees, (60, 40), proposer=0, deadline=deadline_after(await trader.chain.now_s())
    )
    with pytest.raises(NoteBusy):
        await trader.settlements.sign(second)

    # The other side alone can take it to the chain, with the one note and an empty second input.
    accepted = accept_settlement(
        first.proposal, [note], payees, (60, 40),
        proposer=0, max_fee=0, now_s=await solver.chain.now_s(),
    )  # fmt: skip
    answer = await solver.settlements.sign(accepted)
    await solver.settlements.settle(accepted, Signatures(signature, answer), senders)
    await trader.settlements.await_mined(first)
    # Sending it once more finds it done.
    again = await trader.settlements.settle(first, Signatures(signature, answer), senders)
    assert again.receipt is None
    assert (await trader.balance(token)).available == 60
    assert (await solver.balance(token)).available == 40


async def test_a_settlement_that_pays_somebody_else_is_not_signed(
    token: str, funded_wallet, vault
) -> None:
    alice, bob = await funded_wallet(units=0), await funded_wallet(units=0)
    trader, solver = await vault(alice), await vault(bob)
    custody = a_custody(alice, bob)
    notes = [trader.view.note(custody, token, 100, 1)]
    deadline = deadline_after(await trader.chain.now_s())
    ours, less = (
        await trader.settlements.payee(token, 60),
        await trader.settlements.payee(token, 59),
    )
    theirs = [await solver.settlements.payee(token, 40), await solver.settlements.payee(token, 60)]
    right = propose_settlement(notes, (ours, theirs[0]), (60, 40), proposer=1, deadline=deadline)
    assert len(await trader.settlements.sign(right)) == 65
    other = [trader.view.note(custody, token, 100, 2)]
    for payee in (theirs[1], less):
        wrong = propose_settlement(
            other, (payee, theirs[0]), (60, 40), proposer=1, deadline=deadline
        )
        with pytest.raises(ProposalRefused) as refused:
            await trader.settlements.sign(wrong)
        assert refused.value.field == "our own output"
    stranger = await vault(await funded_wallet(units=0))
    with pytest.raises(NoteInvalid):
        await stranger.settlements.sign(right)


async def test_a_settlement_that_could_never_be_mined_is_not_signed(
    token: str, funded_wallet, vault
) -> None:
    alice, bob = await funded_wallet(units=0), await funded_wallet(units=40)
    trader, solver = await vault(alice), await vault(bob)
    there = await solver.deposit(bob, token, 40)
    leaf = solver.tree.leaf(there.commitment)
    assert leaf is not None
    old = Payee(there.inner, leaf.memo)
    notes = [trader.view.note(a_custody(alice, bob), token, 100, 1)]
    deadline = deadline_after(await trader.chain.now_s())
    ours = await trader.settlements.payee(token, 60)
    never = propose_settlement(notes, (ours, old), (60, 40), proposer=1, deadline=deadline)
    with pytest.raises(ProposalRefused) as refused:
        await trader.settlements.sign(never)
    assert refused.value.field == "output"


async def test_many_small_notes_are_merged_before_a_move_needs_them(
    token: str, funded_wallet, vault, direct
) -> None:
    alice = await funded_wallet(units=60)
    owner, senders = await vault(alice), await direct()
    for amount in (10, 20, 30):
        await owner.deposit(alice, token, amount)
    place = fresh_address()
    await owner.withdraw(token, 55, place, senders)
    assert await Token(owner.chain, token).balance(place) == 55
    assert (await owner.balance(token)).available == 5
    assert [move.purpose for move in await owner.store.moves()][-2:] == ["merge", "withdraw"]


async def test_the_relayer_is_paid_out_of_the_proof_and_only_as_much_as_allowed(
    devnet: Devnet, token: str, funded_wallet, vault, direct
) -> None:
    alice, bob = await funded_wallet(units=1_000), await funded_wallet(units=0)
    owner = await vault(alice)
    await owner.deposit(alice, token, 1_000)
    (sender,) = await direct()
    erc20 = Token(devnet.chain, token)

    class Paid:
        async def terms(self, kind: str, token: str) -> SendTerms:
            return SendTerms(sender.signer.address, 7)

        async def send(self, kind: str, call):
            return await sender.send(kind, call)

    with pytest.raises(FeeTooHigh):
        await owner.fund(a_custody(alice, bob), token, 500, [Paid()], max_fee=6)
    funded = await owner.fund(a_custody(alice, bob), token, 500, [Paid()], max_fee=7)
    assert funded.moved is not None
    assert funded.moved.fee == 7
    assert await erc20.balance(sender.signer.address) == 7
    assert (await owner.balance(token)).available == 1_000 - 500 - 7
    place = fresh_address()
    await owner.withdraw(token, 93, place, [Paid()])  # a tenth is allowed unless said otherwise
    assert await erc20.balance(place) == 93 - 7
    assert await erc20.balance(sender.signer.address) == 14
    with pytest.raises(FeeTooHigh):
        await owner.withdraw(token, 69, place, [Paid()])
    with pytest.raises(FeeTooHigh):
        await owner.withdraw(token, 6, place, [Paid()], max_fee=100)


async def test_a_dead_relayer_is_passed_over_and_the_funding_stays_one(
    token: str, funded_wallet, vault, direct
) -> None:
    alice, bob = await funded_wallet(units=50), await funded_wallet(units=0)
    owner, senders = await vault(alice), await direct()
    await owner.deposit(alice, token, 50)
    taken = []

    class Silent:
        async def terms(self, kind: str, token: str) -> SendTerms:
            return SendTerms(bob.address, 2)

        async def send(self, kind: str, call):
            taken.append(call)
            raise NoteInvalid("relayer", "says nothing")

    funded = await owner.fund(a_custody(alice, bob), token, 20, [Silent(), *senders])
    assert funded.moved is not None
    assert funded.moved.fee == 0
    # What the silent one still holds can never be mined, for its notes are spent.
    with pytest.raises(Reverted) as refused:
        await owner.pool.simulate_move(taken[0])
    assert refused.value.error == "NullifierAlreadySpent"
    # Asked again, funding the same custody moves nothing.
    again = await owner.fund(a_custody(alice, bob), token, 20, senders)
    assert again.note == funded.note
    assert again.moved is None
    with pytest.raises(NoteInvalid):
        await owner.fund(a_custody(alice, bob), token, 21, senders)
    moves = {move.purpose: move.status for move in await owner.store.moves()}
    assert moves == {"approve": DONE, "deposit": DONE, "fund": DONE}


async def test_what_cannot_be_paid_for_is_refused_by_name_before_anything_moves(
    token: str, funded_wallet, vault, direct
) -> None:
    alice = await funded_wallet(units=10)
    owner, senders = await vault(alice), await direct()
    with pytest.raises(TokenBalanceTooLow):
        await owner.deposit(alice, token, 11)
    with pytest.raises(AllowanceTooLow):
        await owner.deposit(alice, token, 10, approve=False)
    poor = await funded_wallet(units=10, wei=1)
    with pytest.raises(WalletWithoutGas):
        await (await vault(poor)).deposit(poor, token, 10)
    with pytest.raises(FundsTooLow):
        await owner.withdraw(token, 1, fresh_address(), senders)
    assert await owner.store.moves(alive=True) == []


async def test_one_large_note_serves_several_fundings_at_once(
    token: str, funded_wallet, vault, direct
) -> None:
    alice = await funded_wallet(units=100)
    owner, senders = await vault(alice), await direct()
    await owner.deposit(alice, token, 100)
    peers = [KeyWallet.generate() for _ in range(3)]
    funded = {}

    async def fund(peer: KeyWallet) -> None:
        funded[peer.address] = await owner.fund(a_custody(alice, peer), token, 30, senders)

    async with trio.open_nursery() as nursery:
        for peer in peers:
            nursery.start_soon(fund, peer)
        # Asked twice at once for one custody, it is still funded once.
        nursery.start_soon(fund, peers[0])
    assert {one.note.amount for one in funded.values()} == {30}
    assert (await owner.balance(token)).available == 10
    moves = [move for move in await owner.store.moves() if move.purpose == "fund"]
    assert [move.status for move in moves] == [DONE] * 3


async def test_a_relayer_that_sends_late_after_all_has_made_the_withdrawal(
    token: str, funded_wallet, vault, direct, devnet: Devnet
) -> None:
    """It refuses, and sends while the next one is asked: if a failure were reported, its owner
    would pay a second time, from other notes."""
    alice = await funded_wallet(units=100)
    owner = await vault(alice)
    await owner.deposit(alice, token, 100)
    (sender,) = await direct()
    kept = []

    class Late:
        async def terms(self, kind: str, token: str) -> SendTerms:
            return SendTerms(sender.signer.address, 2)

        async def send(self, kind: str, call):
            kept.append(call)
            raise NoteInvalid("relayer", "says no")

    class Beaten:
        async def terms(self, kind: str, token: str) -> SendTerms:
            return SendTerms()

        async def send(self, kind: str, call):
            await sender.send(kind, kept[0])
            return await sender.send(kind, call)

    place = fresh_address()
    moved = await owner.withdraw(token, 40, place, [Late(), Beaten()])
    assert moved.call.nullifiers == kept[0].nullifiers, "not what was asked for last"
    assert moved.fee == 2
    assert await Token(devnet.chain, token).balance(place) == 38
    statuses = {move.id: move.status for move in await owner.store.moves()}
    assert statuses[moved.move] == DONE


async def test_nothing_is_deposited_where_the_chain_is_another_by_now(
    devnet: Devnet, token: str, funded_wallet, vault
) -> None:
    alice = await funded_wallet(units=10)
    owner = await vault(alice)
    await devnet.chain.rpc.call("anvil_setChainId", 1)
    try:
        with pytest.raises(WrongChain):
            await owner.deposit(alice, token, 10)
    finally:
        await devnet.chain.rpc.call("anvil_setChainId", 31_337)
    assert await owner.store.moves() == []
    assert await Token(devnet.chain, token).balance(alice.address) == 10
