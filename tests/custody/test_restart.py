"""A vault that is stopped at any moment continues later, and nothing happens twice on chain."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from psymm.chain.contracts import ERC20
from psymm.chain.deployment import Deployment
from psymm.chain.devnet import Devnet
from psymm.custody.errors import (
    FundsTooLow,
    NoteBusy,
    StoreCorrupt,
    StoreForeign,
    StoreLocked,
    UnknownMove,
    UnknownNote,
)
from psymm.custody.making import MoveOptions
from psymm.custody.moves import open_vault
from psymm.custody.notes import Custody
from psymm.custody.planning import deadline_after
from psymm.custody.prover import Prover
from psymm.custody.sending import SendTerms
from psymm.custody.settlement import propose_settlement
from psymm.custody.store import open_store
from psymm.custody.stored import BUSY, DONE, FAILED, SENT, UNSPENT
from psymm.custody.viewing import viewing_key
from psymm.wallet import KeyWallet

pytestmark = pytest.mark.chain

Minting = Callable[[Devnet, Deployment, str, int], Awaitable[None]]


def a_custody(one: KeyWallet, other: KeyWallet) -> Custody:
    return Custody(one.public_key, other.public_key, b"\x11" * 32, b"\x02" * 32)


class Stopped:
    """A sender during which the power fails: before the call is out, or after."""

    def __init__(self, inside, scope: trio.CancelScope, *, after: bool) -> None:
        self.inside, self.scope, self.after = inside, scope, after

    async def terms(self, kind: str, token: str) -> SendTerms:
        return SendTerms()

    async def send(self, kind: str, call):
        if self.after:
            await self.inside.send(kind, call)
        self.scope.cancel()
        await trio.sleep_forever()


@pytest.mark.proofs
@pytest.mark.parametrize("after", [False, True])
async def test_a_funding_that_was_cut_short_happens_once(
    devnet: Devnet,
    deployment: Deployment,
    token: str,
    prover: Prover,
    funded_wallet,
    direct,
    tmp_path: Path,
    after: bool,
) -> None:
    alice, bob = await funded_wallet(units=100), KeyWallet.generate()
    (sender,) = await direct()
    opened = lambda: open_vault(  # noqa: E731
        alice, deployment, devnet.chain, home=tmp_path, prover=prover
    )
    async with await opened() as vault:
        await vault.deposit(alice, token, 100, permit=True)
        with trio.CancelScope() as power:
            await vault.fund(
                a_custody(alice, bob), token, 60, [Stopped(sender, power, after=after)]
            )
        assert power.cancelled_caught
    async with await opened() as vault:
        (move,) = [move for move in await vault.store.moves() if move.purpose == "fund"]
        assert move.status == (DONE if after else SENT)
        if not after:
            (held,) = await vault.store.notes(status=BUSY)
            assert held.note.amount == 100
            with pytest.raises(FundsTooLow):
                await vault.making.merge_until(token, 101, MoveOptions([], None, 0, 0))
        funded = await vault.fund(a_custody(alice, bob), token, 60, [sender])
        assert funded.moved is None
        assert (await vault.balance(token)).available == 40
        assert await vault.store.moves(alive=True) == []
    async with await opened() as vault:
        assert await vault.resume([sender]) == []
        assert [move.status for move in await vault.store.moves()] == [DONE, DONE]


async def test_a_move_stopped_before_anybody_saw_it_frees_its_notes(
    devnet: Devnet, deployment: Deployment, token: str, funded_wallet, direct, tmp_path: Path
) -> None:
    alice = await funded_wallet(units=100)

    class Halting(Prover):
        async def prove(self, circuit, inputs, expected):
            scope.cancel()
            await trio.sleep_forever()

    async with await open_vault(
        alice, deployment, devnet.chain, home=tmp_path, prover=Halting()
    ) as vault:
        await vault.deposit(alice, token, 100, permit=True)
        with trio.CancelScope() as scope:
            await vault.withdraw(token, 60, KeyWallet.generate().address, await direct())
        assert [move.status for move in await vault.store.moves()] == [DONE, FAILED]
        assert (await vault.balance(token)).available == 100


@pytest.mark.proofs
async def test_a_settlement_nobody_sent_frees_its_notes_when_its_time_is_over(
    own_devnet: Devnet, minting: Minting, prover: Prover, tmp_path: Path
) -> None:
    from psymm.chain.deployment import TokenInfo, deploy
    from psymm.custody.sending import DirectSender

    alice, bob = await own_devnet.new_account(), KeyWallet.generate()
    put = await deploy(own_devnet.chain, alice, test_token=TokenInfo("", "T", 6))
    token = put.tokens[0].address
    await minting(own_devnet, put, alice.address, 50)
    senders = [DirectSender(put.pool(own_devnet.chain), alice)]
    async with await open_vault(alice, put, own_devnet.chain, prover=prover) as vault:
        await vault.deposit(alice, token, 50)
        note = (await vault.fund(a_custody(alice, bob), token, 50, senders)).note
        payees = (await vault.settlements.payee(token, 50), await vault.settlements.payee(token, 0))
        settlement = propose_settlement(
            [note], payees, (50, 0), proposer=0, deadline=deadline_after(await vault.chain.now_s())
        )
        await vault.settlements.sign(settlement)
        assert (await vault.store.note(note.commitment)).status == BUSY
        await own_devnet.mine(2, interval_s=3_600)
        await vault.refresh()
        assert (await vault.store.note(note.commitment)).status == UNSPENT
        assert (await vault.store.moves())[-1].reason == "its deadline has passed"


async def test_a_reorganisation_takes_notes_back_and_a_new_block_brings_them_again(
    own_devnet: Devnet, minting: Minting
) -> None:
    from psymm.chain.deployment import TokenInfo, deploy

    alice = await own_devnet.new_account()
    put = await deploy(own_devnet.chain, alice, test_token=TokenInfo("", "T", 6))
    token = put.tokens[0].address
    await minting(own_devnet, put, alice.address, 50)
    async with await open_vault(alice, put, own_devnet.chain) as vault:
        allow = ERC20.function("approve").encode(put.portal, 50)
        await own_devnet.chain.transact(alice, token, allow)
        before = await own_devnet.snapshot()
        await vault.deposit(alice, token, 50)
        assert (await vault.balance(token)).available == 50
        await own_devnet.revert(before)
        await own_devnet.mine(1)
        await vault.refresh()
        assert (await vault.balance(token)).available == 0
        assert [move.status for move in await vault.store.moves()] == [SENT]
        await vault.resume()
        assert (await vault.balance(token)).available == 50
        assert [move.status for move in await vault.store.moves()] == [DONE]


async def test_counters_are_never_given_out_twice(tmp_path: Path) -> None:
    owner = KeyWallet.generate()
    view = await viewing_key(owner, 31337, "0x" + "11" * 20)
    given: list[int] = []
    for _ in range(3):
        async with await open_store(view, tmp_path / "notes.sqlite") as store:
            given += await store.reserve(2)
            given += await store.reserve()
    async with await open_store(view) as other:
        given += await other.reserve(3)
    assert len(set(given)) == 12
    assert all(0 <= one < 1 << 63 for one in given)


async def test_a_copy_of_the_file_gives_out_counters_of_its_own(tmp_path: Path) -> None:
    """A restored backup lacks the counters that were given out since it was made."""
    owner = KeyWallet.generate()
    view = await viewing_key(owner, 31337, "0x" + "11" * 20)
    path, backup = tmp_path / "notes.sqlite", tmp_path / "backup.sqlite"
    async with await open_store(view, path) as store:
        given = await store.reserve(2)
    shutil.copy(path, backup)
    async with await open_store(view, path) as store, await open_store(view, backup) as copy:
        given += await store.reserve(3)
        given += await copy.reserve(3)
    assert len(set(given)) == 8


async def test_a_file_is_one_wallets_on_one_contract_and_one_process(tmp_path: Path) -> None:
    path = tmp_path / "notes.sqlite"
    owner, other = KeyWallet.generate(), KeyWallet.generate()
    view = await viewing_key(owner, 31337, "0x" + "11" * 20)
    async with await open_store(view, path):
        assert path.stat().st_mode & 0o077 == 0
        with pytest.raises(StoreLocked):
            await open_store(view, path)
    for stranger in (
        await viewing_key(other, 31337, "0x" + "11" * 20),
        await viewing_key(owner, 1, "0x" + "11" * 20),
        await viewing_key(owner, 31337, "0x" + "12" * 20),
    ):
        with pytest.raises(StoreForeign):
            await open_store(stranger, path)
    (tmp_path / "bad.sqlite").write_bytes(b"nonsense" * 1_000)
    with pytest.raises(StoreCorrupt):
        await open_store(view, tmp_path / "bad.sqlite")


async def test_a_vault_holds_its_lock_until_the_trees_file_is_closed(
    devnet: Devnet, deployment: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault = await open_vault(KeyWallet.generate(), deployment, devnet.chain, home=tmp_path)
    closed = vault.tree.aclose

    async def still_locked() -> None:
        with pytest.raises(StoreLocked):
            await open_store(vault.view, tmp_path / "notes.sqlite")
        await closed()

    monkeypatch.setattr(vault.tree, "aclose", still_locked)
    await vault.aclose()
    await (await open_store(vault.view, tmp_path / "notes.sqlite")).aclose()


async def test_a_note_that_was_changed_in_the_file_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "notes.sqlite"
    owner = KeyWallet.generate()
    view = await viewing_key(owner, 31337, "0x" + "11" * 20)
    note = view.note(view.sole, "0x" + "12" * 20, 5, 0)
    async with await open_store(view, path) as store:
        await store.keep(note, 0)
        await store.keep(note, 0)
        assert [held.note for held in await store.notes()] == [note]
        with pytest.raises(UnknownNote):
            await store.note(b"\x01" * 32)
        with pytest.raises(UnknownMove):
            await store.move(1)
    database = sqlite3.connect(path)
    database.execute("UPDATE notes SET amount = '6'")
    database.commit()
    database.close()
    async with await open_store(view, path) as store:
        with pytest.raises(StoreCorrupt):
            await store.notes()


@pytest.mark.parametrize("kept", ["", "[]", "{", "[" * 99_000, '{"a":"1","a":"1"}'])
async def test_a_move_that_was_changed_in_the_file_is_noticed(tmp_path: Path, kept: str) -> None:
    path = tmp_path / "notes.sqlite"
    owner = KeyWallet.generate()
    view = await viewing_key(owner, 31337, "0x" + "11" * 20)
    note = view.note(view.sole, "0x" + "12" * 20, 5, 0)
    async with await open_store(view, path) as store:
        await store.keep(note, 0)
        await store.begin("ctc", "fund", inputs=[note], deadline=1, details={})
    database = sqlite3.connect(path)
    database.execute("UPDATE moves SET details = ?", (kept,))
    database.commit()
    database.close()
    async with await open_store(view, path) as store:
        with pytest.raises(StoreCorrupt):
            await store.moves()


async def test_one_note_is_taken_by_one_move(tmp_path: Path) -> None:
    owner = KeyWallet.generate()
    view = await viewing_key(owner, 31337, "0x" + "11" * 20)
    note = view.note(view.sole, "0x" + "12" * 20, 5, 0)
    async with await open_store(view) as store:
        await store.keep(note, 0)
        common = {"inputs": [note], "deadline": 1, "details": {}}
        first = await store.begin("ctc", "fund", **common)
        with pytest.raises(NoteBusy):
            await store.begin("ctc", "fund", **common)
        second = await store.begin("ctc", "fund", instead_of=first, **common)
        third = await store.begin("ctc", "fund", instead_of=second, **common)
        with pytest.raises(NoteBusy):
            await store.begin("ctc", "fund", instead_of=second, **common)
        for move in (first, second, third):
            await store.update(move, FAILED)
        await store.begin("ctc", "fund", **common)
