"""Attacks on a relayer and its clients by strangers, rivals and a hostile registry."""

from __future__ import annotations

import json
import logging
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
from trio_websocket import (
    ConnectionClosed,
    WebSocketRequest,
    open_websocket_url,
    serve_websocket,
)

from psymm.chain.calls import Call
from psymm.chain.contracts import Token
from psymm.chain.registry import RegistryEntry, Role
from psymm.custody.moves import Vault
from psymm.errors import PSymmError
from psymm.relayer.errors import DeadlineTooFar, DeadlineTooNear, NoRelayer, TooManyRequests
from psymm.relayer.sender import MAX_FEE_MULTIPLE, RelayerSender
from psymm.relayer.service import MAX_DEADLINE_S
from psymm.relayer.store import KEPT, SendState, Store
from psymm.relayer.wire import (
    AskTerms,
    Submit,
    decode_terms,
    encode_request,
)
from psymm.sockets.dialling import IN_ALL
from psymm.wallet import KeyWallet

from .conftest import (
    CHAIN_ID,
    FEE,
    Keeping,
    Running,
    World,
    _KeptError,
    finished_withdrawal,
    rich_vault,
    running_relayer,
)
from .test_relayer import asked, submitted, unproved

pytestmark = [pytest.mark.chain]


async def still_serves(relayer: Running) -> bool:
    answer = await asked(relayer.endpoint, encode_request(AskTerms("1")))
    return decode_terms(answer, "1").relayer == relayer.wallet.address


# --- deadlines and other numbers ----------------------------------------------------------------


@pytest.mark.parametrize("deadline", [1 << 63, 1 << 64, (1 << 256) - 1])
async def test_a_deadline_that_no_clock_reaches_is_refused_by_name(
    world: World, tmp_path: Path, deadline: int
) -> None:
    async with running_relayer(world, tmp_path / "r.db") as relayer:
        call = unproved(world, relayer.wallet.address, deadline=deadline)
        with pytest.raises(DeadlineTooFar):
            await submitted(relayer.endpoint, world, call)
        assert await still_serves(relayer)
        assert relayer.service.statistics().taken == 0


async def test_a_deadline_lies_between_a_minute_and_sixty_five(
    world: World, tmp_path: Path
) -> None:
    """spec.md 21: a signed move is mined or expired long before a case could seize its notes."""
    now = (await world.chain.block()).timestamp_s
    async with running_relayer(world, tmp_path / "r.db") as relayer:
        for deadline, refusal in (
            (1, DeadlineTooNear),
            (now, DeadlineTooNear),
            (now + MAX_DEADLINE_S + 3600, DeadlineTooFar),
        ):
            call = unproved(world, relayer.wallet.address, deadline=deadline)
            with pytest.raises(refusal):
                await submitted(relayer.endpoint, world, call)
    assert MAX_DEADLINE_S == 65 * 60


@pytest.mark.proofs
async def test_a_proved_and_paid_call_with_an_endless_deadline_ends_no_relayer(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("psymm.custody.making.deadline_after", lambda now, life=1800: 1 << 64)
    async with running_relayer(world, tmp_path / "r.db") as relayer, rich_vault(world) as vault:
        call = await finished_withdrawal(world, vault, relayer.wallet.address, "0x" + "c1" * 20)
        assert call.deadline == 1 << 64
        with pytest.raises(DeadlineTooFar):
            await submitted(relayer.endpoint, world, call)
        assert await still_serves(relayer)


async def test_a_fault_at_one_request_is_answered_and_ends_no_other(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_relayer(world, tmp_path / "r.db") as relayer:

        async def broken(*_: object) -> None:
            raise ZeroDivisionError("on purpose")

        monkeypatch.setattr(relayer.service, "_check_capacity", broken)
        with pytest.raises(PSymmError, match="relayer-fault"):
            await submitted(relayer.endpoint, world, unproved(world, relayer.wallet.address))
        assert await still_serves(relayer)


async def test_malformed_requests_are_answered_by_name_and_the_relayer_serves_on(
    world: World, tmp_path: Path
) -> None:
    dice = random.Random(7)
    answers: Counter[str] = Counter()
    async with running_relayer(
        world, tmp_path / "r.db", requests_per_minute=10**6, requests_at_once=64
    ) as relayer:
        good = encode_request(
            Submit("1", CHAIN_ID, world.pool.address, unproved(world, relayer.wallet.address))
        )
        texts = [
            "[" * 100_000,
            '{"id":"1","method":"submit","call":' + '{"a":' * 70 + "1" + "}" * 70 + "}",
            '{"id":"1","id":"2"}',
            '{"id":1e999}',
            '{"id":"\\ud800","method":"terms"}',
            "\x00",
            "9" * 100_000,
            '{"id":"1","method":"terms","x":NaN}',
            good.replace('"fee":"50000"', '"fee":"-1"'),
            good.replace('"fee":"50000"', '"fee":"٣"'),
            good.replace('"kind":"cta"', '"kind":["cta"]'),
            good.replace('"kind":"cta"', '"kind":{"__class__":1}'),
        ]
        for _ in range(200):
            raw = bytearray(good.encode())
            for _ in range(dice.randrange(1, 4)):
                raw[dice.randrange(len(raw))] = dice.choice(b'{}[]":,0a\\')
            texts.append(raw.decode("utf-8", "replace"))
        async with open_websocket_url(relayer.endpoint) as socket:
            for text in texts:
                await socket.send_message(text)
                answer = json.loads(await socket.get_message())
                answers[answer["error"]["code"]] += 1
        assert await still_serves(relayer)
    assert sum(answers.values()) == len(texts)
    assert "relayer-fault" not in answers


# --- one client ---------------------------------------------------------------------------------


async def test_bytes_are_bounded_by_address_and_what_is_over_is_not_even_parsed(
    world: World, tmp_path: Path
) -> None:
    async with running_relayer(world, tmp_path / "r.db", bytes_per_minute=100_000) as relayer:
        async with open_websocket_url(relayer.endpoint) as socket:
            await socket.send_message("[" * 90_000)
            assert json.loads(await socket.get_message())["error"]["code"] == "bad-request"
            await socket.send_message('{"id":"mine","pad":"' + "x" * 50_000 + '"}')
            answer = json.loads(await socket.get_message())
        assert answer["error"]["code"] == TooManyRequests.code
        assert answer["id"] == "", "it was not read"


async def test_binary_messages_count_as_requests_and_refusals_do_not_fill_the_log(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with running_relayer(world, tmp_path / "r.db", requests_per_minute=30) as relayer:
        codes = []
        async with open_websocket_url(relayer.endpoint) as socket:
            for _ in range(30):
                await socket.send_message(b"\x00")
                codes.append(json.loads(await socket.get_message())["error"]["code"])
            for _ in range(3):
                await socket.send_message(b"\x00")
                codes.append(json.loads(await socket.get_message())["error"]["code"])
    assert codes[:30] == ["bad-request"] * 30
    assert TooManyRequests.code in codes
    said = [one for one in caplog.records if one.message == "refused"]
    assert 0 < len(said) < 30, "they are counted each, and logged now and then"


@pytest.mark.proofs
async def test_one_address_does_not_fill_the_queue(world: World, tmp_path: Path) -> None:
    async with (
        running_relayer(world, tmp_path / "r.db", calls_per_peer=1) as relayer,
        rich_vault(world) as vault,
    ):
        call = await finished_withdrawal(world, vault, relayer.wallet.address, "0x" + "c2" * 20)
        await world.mining(False)
        assert (await submitted(relayer.endpoint, world, call)).status in ("queued", "sent")
        with pytest.raises(PSymmError, match="busy: this address"):
            await submitted(relayer.endpoint, world, unproved(world, relayer.wallet.address))
        await world.mining(True)
        await RelayerSender(world.pool, world.listed).submit(call, relayer.endpoint)
        # Once it is over, there is room again: what it says now is another refusal.
        with pytest.raises(PSymmError, match="would-revert"):
            await submitted(relayer.endpoint, world, unproved(world, relayer.wallet.address))


async def test_ended_calls_leave_the_store_so_that_no_stream_of_them_fills_the_disk(
    world: World, tmp_path: Path
) -> None:
    owner = KeyWallet.generate()
    with Store(tmp_path / "r.db", CHAIN_ID, world.pool.address, owner.address) as store:
        first = last = None
        for at in range(KEPT + 5):
            digest = at.to_bytes(32, "big")
            last = store.add(digest, "cta", {}, 1, [digest])
            first = first or last
            if at:
                store.end(last.id, SendState.FAILED, {})
        assert first is not None
        assert last is not None
        assert store.get(first.id) is not None, "one under way stays, however old"
        assert store.get(first.id + 1) is None
        assert store.get(last.id) is not None
        assert store.conflicting([(1).to_bytes(32, "big")], b"") is None


# --- one note for several relayers --------------------------------------------------------------


@asynccontextmanager
async def four_calls_on_one_note(
    world: World, tmp_path: Path
) -> AsyncIterator[list[tuple[Running, Call]]]:
    """Four relayers, and for each a proved and paid call that spends the same note."""
    async with AsyncExitStack() as stack:
        relayers = [
            await stack.enter_async_context(running_relayer(world, tmp_path / f"r{at}.db"))
            for at in range(4)
        ]
        vault: Vault = await stack.enter_async_context(rich_vault(world))
        offered: list[tuple[Running, Call]] = []
        for relayer in relayers:
            # Without the moves before, the vault offers the same note again.
            for move in await vault.store.moves():
                await vault.store.update(move.id, "failed", reason="adversary")
            keeping = Keeping(relayer.wallet.address)
            with pytest.raises(_KeptError):
                await vault.withdraw(world.token, 10**8, "0x" + "c3" * 20, [keeping])
            assert keeping.call is not None
            offered.append((relayer, keeping.call))
        assert len({call.nullifiers[0] for _, call in offered}) == 1
        yield offered


async def gone_through(relayers: Sequence[Running]) -> None:
    """Until no relayer has anything under way."""
    with trio.fail_after(60):
        while True:
            counts = [one.service.statistics() for one in relayers]
            if all(one.mined + one.failed == one.taken for one in counts):
                return
            await trio.sleep(0.05)


@pytest.mark.proofs
async def test_a_note_that_the_node_has_seen_offered_to_others_costs_a_relayer_nothing(
    world: World, tmp_path: Path
) -> None:
    async with four_calls_on_one_note(world, tmp_path) as offered:
        relayers = [relayer for relayer, _ in offered]
        before = [await world.chain.balance(one.wallet.address) for one in relayers]
        await world.mining(False)
        first, call = offered[0]
        await submitted(first.endpoint, world, call)
        await broadcast(world, first)
        for relayer, other in offered[1:]:
            with pytest.raises(PSymmError, match="already-spent"):
                await submitted(relayer.endpoint, world, other)
        await world.mining(True)
        await gone_through(relayers)
        spent = [
            was - await world.chain.balance(one.wallet.address)
            for was, one in zip(before, relayers, strict=True)
        ]
        assert spent[0] > 0
        assert spent[1:] == [0, 0, 0]
        assert await Token(world.chain, world.token).balance(first.wallet.address) == FEE


async def broadcast(world: World, relayer: Running) -> None:
    """Until the node has a transaction of this relayer."""
    sender = relayer.wallet.address.lower()
    senders: set[str] = set()
    with trio.fail_after(60):
        while sender not in senders:
            pool = await world.chain.rpc.call("eth_getBlockByNumber", "pending", True)
            senders = {one["from"].lower() for one in pool["transactions"]}


@pytest.mark.proofs
async def test_gas_that_is_lost_to_a_rival_is_counted_and_logged(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What no relayer can know before: both are in one block, and no node had seen the other."""
    caplog.set_level(logging.INFO)
    async with four_calls_on_one_note(world, tmp_path) as offered:
        (winner, first), (loser, second), *_ = offered
        for relayer in (winner, loser):

            async def blind(call: Call, block: str, of: Running = relayer) -> None:
                """A node that shows no other's pool."""

            monkeypatch.setattr(relayer.service._simulation, "simulate_on", blind)
        # Nor does the node, asked for the gas, know of the other.
        monkeypatch.setattr(
            world.chain, "prepare", partial(world.chain.prepare, gas_limit=2 * 10**6)
        )
        await world.mining(False)
        for relayer, call in ((winner, first), (loser, second)):
            await submitted(relayer.endpoint, world, call)
            await broadcast(world, relayer)
        before = await world.chain.balance(loser.wallet.address)
        await world.mining(True)
        await gone_through([winner, loser])
        won, lost = winner.service.statistics(), loser.service.statistics()
        assert (won.mined, won.lost_races, won.lost_wei) == (1, 0, 0)
        assert (lost.mined, lost.failed, lost.lost_races) == (0, 1, 1)
        assert lost.lost_wei == before - await world.chain.balance(loser.wallet.address) > 0
    (said,) = [one for one in caplog.records if one.getMessage() == "gas-lost"]
    assert said.levelno == logging.WARNING
    assert said.__dict__["lost_wei"] == lost.lost_wei


# --- the registry -------------------------------------------------------------------------------


async def test_a_dear_relayer_is_not_taken_where_a_cheaper_one_answers(
    world: World, tmp_path: Path
) -> None:
    async with (
        running_relayer(world, tmp_path / "a.db", register=True) as cheap,
        running_relayer(world, tmp_path / "b.db", register=True, fee=200 * FEE) as dear,
    ):
        for order in ("cheapest", "random"):
            sender = RelayerSender(world.pool, world.listed, order=order)  # type: ignore[arg-type]
            assert sender.fee_limit("cta", world.token) is None, "nobody was asked"
            took = [(await sender.terms("cta", world.token)).relayer for _ in range(5)]
            assert took == [cheap.wallet.address] * 5
            assert sender.fee_limit("cta", world.token) == MAX_FEE_MULTIPLE * FEE
        # Nor once the cheap one is gone: what was usual a moment ago is remembered.
        cheap.kill()
        with pytest.raises(NoRelayer) as none:
            await sender.terms("cta", world.token)
        assert "more than is paid" in str(none.value.values[dear.wallet.address])


async def test_a_limit_that_was_shown_is_held(world: World, tmp_path: Path) -> None:
    async with running_relayer(world, tmp_path / "a.db", register=True) as only:
        sender = RelayerSender(world.pool, world.listed)
        assert (await sender.terms("cta", world.token)).fee == FEE
        sender.cap_fee(world.token, FEE - 1)
        with pytest.raises(NoRelayer) as none:
            await sender.terms("cta", world.token)
        assert "more than is paid" in str(none.value.values[only.wallet.address])
        sender.cap_fee(world.token, 10 * FEE)
        assert sender.fee_limit("cta", world.token) == FEE - 1, "a limit is never raised"


async def test_those_that_served_us_are_the_measure_and_cheap_strangers_lower_nothing(
    world: World, tmp_path: Path
) -> None:
    async with (
        running_relayer(world, tmp_path / "a.db", register=True, fee=4 * FEE) as served,
        running_relayer(world, tmp_path / "b.db", register=True, fee=1),
        running_relayer(world, tmp_path / "c.db", register=True, fee=1),
    ):
        found = await RelayerSender(world.pool, world.listed).quotes("cta", world.token)
        assert [quote.fee for quote in found] == [1, 1], "without a history the middle rules"

        async def known() -> list[str]:
            return [served.wallet.address]

        sender = RelayerSender(world.pool, world.listed, known=known)
        found = await sender.quotes("cta", world.token)
        assert [quote.fee for quote in found] == [1, 1, 4 * FEE]
        assert sender.fee_limit("cta", world.token) == MAX_FEE_MULTIPLE * 4 * FEE


async def test_a_relayer_that_cannot_pay_the_gas_is_left_out(world: World, tmp_path: Path) -> None:
    poor = await world.wallet()
    async with running_relayer(world, tmp_path / "a.db", wallet=poor) as relayer:
        await world.chain.rpc.call("anvil_setBalance", poor.address, "0x1")
        party = RegistryEntry(poor.address, Role.RELAYER, relayer.endpoint, poor.public_key, 0)
        with pytest.raises(NoRelayer) as none:
            await RelayerSender(world.pool, listing([party])).quotes("cta", world.token)
        assert "cannot pay the gas" in str(none.value.values[poor.address])


def listing(parties: Sequence[RegistryEntry]) -> Callable[[], Awaitable[list[RegistryEntry]]]:
    async def listed() -> list[RegistryEntry]:
        return list(parties)

    return listed


@asynccontextmanager
async def silent_crowd(many: int) -> AsyncIterator[tuple[list[RegistryEntry], list[str]]]:
    """Entries whose relayers accept connections and never answer, and a list of those dialled."""
    dialled: list[str] = []

    async def silent(request: WebSocketRequest) -> None:
        dialled.append(request.path)
        try:
            async with await request.accept():
                await trio.sleep_forever()
        except ConnectionClosed:
            pass

    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(serve_websocket, silent, "127.0.0.1", 0, None))
        endpoint = f"ws://127.0.0.1:{server.port}/"
        wallets = [KeyWallet.generate() for _ in range(many)]
        yield (
            [
                RegistryEntry(one.address, Role.RELAYER, endpoint, one.public_key, 0)
                for one in wallets
            ],
            dialled,
        )
        nursery.cancel_scope.cancel()


async def test_sixty_three_silent_entries_do_not_hide_the_one_that_answers(
    world: World, tmp_path: Path
) -> None:
    async with (
        running_relayer(world, tmp_path / "a.db") as honest,
        silent_crowd(IN_ALL - 1) as (crowd, dialled),
    ):
        wallet = honest.wallet
        party = RegistryEntry(wallet.address, Role.RELAYER, honest.endpoint, wallet.public_key, 0)
        sender = RelayerSender(world.pool, listing([*crowd, party]), answer_timeout_s=5)
        assert (await sender.terms("cta", world.token)).relayer == wallet.address
        assert len(dialled) < IN_ALL
        # The next time those that were silent come last.
        dialled.clear()
        assert (await sender.terms("cta", world.token)).relayer == wallet.address


async def test_a_thousand_silent_entries_bury_no_relayer_that_served_before(
    world: World, tmp_path: Path
) -> None:
    async with (
        running_relayer(world, tmp_path / "a.db") as honest,
        silent_crowd(1_000) as (crowd, dialled),
    ):
        wallet = honest.wallet
        party = RegistryEntry(wallet.address, Role.RELAYER, honest.endpoint, wallet.public_key, 0)

        async def known() -> list[str]:
            return [wallet.address]

        listed = listing([*crowd, party])
        sender = RelayerSender(world.pool, listed, known=known, answer_timeout_s=5)
        assert (await sender.terms("cta", world.token)).relayer == wallet.address
        assert len(dialled) < IN_ALL
        # Without one that answers, no more are dialled than may be, and few reasons are shown.
        dialled.clear()
        with pytest.raises(NoRelayer) as none:
            await RelayerSender(world.pool, listing(crowd), answer_timeout_s=0.3).quotes(
                "cta", world.token
            )
        assert len(dialled) <= IN_ALL
        assert len(none.value.values) < 12
        assert "not asked" in str(none.value.values["others"])
