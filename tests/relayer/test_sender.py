"""The client gets its move mined despite relayers that are dead, slow, lying or unwilling."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, WebSocketRequest, serve_websocket

from psymm.chain.abi import encode_values
from psymm.chain.contracts import Token
from psymm.chain.errors import Reverted, TransactionPending
from psymm.chain.nodes import Node
from psymm.chain.registry import RegistryEntry, Role
from psymm.chain.rpc import Rpc
from psymm.chain.transactions import Chain, Prepared
from psymm.custody.sending import DirectSender
from psymm.relayer.confirming import MoveConfirmation
from psymm.relayer.errors import (
    NoRelayer,
    RelayerDead,
    RelayerLied,
    SpentElsewhere,
    TokenRefused,
)
from psymm.relayer.sender import RelayerSender
from psymm.relayer.wire import (
    AskTerms,
    RelayerTerms,
    SendProgress,
    TokenFee,
    decode_request,
    encode_answer,
    encode_terms,
    progress_json,
)

from .conftest import (
    CHAIN_ID,
    FEE,
    World,
    finished_withdrawal,
    rich_vault,
    running_relayer,
)

pytestmark = [pytest.mark.chain]

Behaviour = Callable[[WebSocketConnection, str], Awaitable[None]]


async def silent(_socket: WebSocketConnection, _asked: str) -> None:
    await trio.sleep_forever()


async def hangs_up(socket: WebSocketConnection, _asked: str) -> None:
    await socket.aclose(1011)


async def babbles(socket: WebSocketConnection, _asked: str) -> None:
    await socket.send_message('{"id":"1","terms":"yes"}')


async def sends_bytes(socket: WebSocketConnection, _asked: str) -> None:
    await socket.send_message(b"\x00")


def offers(world: World, relayer: str, **changes: object) -> RelayerTerms:
    fields: dict[str, object] = {
        "chain_id": CHAIN_ID,
        "contract": world.pool.address,
        "relayer": relayer,
        "fees": (TokenFee(world.token, FEE, FEE),),
        "min_deadline_s": 60,
        "valid_until_s": 4_000_000_000,
        **changes,
    }
    return RelayerTerms(**fields)  # type: ignore[arg-type]


def says(terms: RelayerTerms, then: SendProgress | None = None) -> Behaviour:
    """Offers terms, and claims `then` of any call."""

    async def behave(socket: WebSocketConnection, asked: str) -> None:
        request = decode_request(asked)
        if isinstance(request, AskTerms):
            await socket.send_message(encode_terms(request.id, terms))
        elif then is not None:
            await socket.send_message(encode_answer(request.id, progress_json(then)))
        else:
            await silent(socket, asked)

    return behave


@asynccontextmanager
async def acting(behaviour: Behaviour) -> AsyncIterator[str]:
    """A WebSocket server that behaves like that; its endpoint."""

    async def meet(request: WebSocketRequest) -> None:
        try:
            async with await request.accept() as socket:
                while True:
                    asked = await socket.get_message()
                    assert isinstance(asked, str)
                    await behaviour(socket, asked)
        except ConnectionClosed:
            pass

    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(serve_websocket, meet, "127.0.0.1", 0, None))
        yield f"ws://127.0.0.1:{server.port}/"
        nursery.cancel_scope.cancel()


async def entry(world: World, endpoint: str) -> RegistryEntry:
    wallet = await world.wallet()
    return RegistryEntry(wallet.address, Role.RELAYER, endpoint, wallet.public_key, 0)


def only(*parties: RegistryEntry) -> Callable[[], Awaitable[list[RegistryEntry]]]:
    async def listed() -> list[RegistryEntry]:
        return list(parties)

    return listed


@pytest.mark.parametrize(
    ("behaviour", "code"),
    [
        (silent, "relayer-dead"),
        (hangs_up, "relayer-dead"),
        (babbles, "relayer-lied"),
        (sends_bytes, "relayer-lied"),
    ],
)
async def test_a_relayer_that_cannot_be_talked_to_gives_no_quote(
    world: World, behaviour: Behaviour, code: str
) -> None:
    async with acting(behaviour) as endpoint:
        party = await entry(world, endpoint)
        # Only silence is waited out; what answers may take as long as a busy machine needs.
        patience_s = 0.5 if behaviour is silent else 300
        sender = RelayerSender(world.pool, only(party), answer_timeout_s=patience_s)
        with pytest.raises(NoRelayer) as none:
            await sender.quotes("cta", world.token)
    assert str(none.value.values[party.account]).startswith(code)


async def test_a_relayer_that_nobody_answers_for_gives_no_quote(world: World) -> None:
    party = await entry(world, "ws://127.0.0.1:1/")
    with pytest.raises(NoRelayer):
        await RelayerSender(world.pool, only(party)).quotes("cta", world.token)


async def test_an_empty_registry_is_said_to_be_empty(world: World) -> None:
    with pytest.raises(NoRelayer, match="lists no relayer"):
        await RelayerSender(world.pool, only()).terms("cta", world.token)


async def test_terms_that_are_not_the_registrys_or_ours_are_not_taken(world: World) -> None:
    parties = [await entry(world, "ws://127.0.0.1:1/") for _ in range(5)]
    wrong = [
        offers(world, world.pool.address),
        offers(world, parties[1].account, chain_id=1),
        offers(world, parties[2].account, contract=world.token),
        offers(world, parties[3].account, fees=()),
        offers(world, parties[4].account, fees=(TokenFee(world.token, FEE, 0),)),
    ]
    for party, terms in zip(parties, wrong, strict=True):
        async with acting(says(terms)) as endpoint:
            moved = RegistryEntry(party.account, party.role, endpoint, party.public_key, 0)
            with pytest.raises(NoRelayer) as none:
                await RelayerSender(world.pool, only(moved)).quotes("cta", world.token)
        reason = str(none.value.values[party.account])
        expected = TokenRefused.code if terms.fees == () else RelayerLied.code
        assert reason.startswith(expected)


async def test_fees_above_the_limit_are_not_paid_and_the_cheapest_comes_first(
    world: World, tmp_path: Path
) -> None:
    async with (
        running_relayer(world, tmp_path / "a.db", fee=3 * FEE) as dear,
        running_relayer(world, tmp_path / "b.db", fee=FEE) as cheap,
        running_relayer(world, tmp_path / "c.db", fee=2 * FEE) as fair,
    ):
        parties = [
            RegistryEntry(one.wallet.address, Role.RELAYER, one.endpoint, one.wallet.public_key, 0)
            for one in (dear, cheap, fair)
        ]
        sender = RelayerSender(
            world.pool, only(*parties), order="cheapest", max_fee={world.token: 2 * FEE}
        )
        quotes = await sender.quotes("ctc", world.token)
    assert [quote.relayer for quote in quotes] == [cheap.wallet.address, fair.wallet.address]


async def another_move(world: World) -> str:
    """The hash of a real transaction that belongs to no move."""
    owner = await world.wallet()
    return (await world.chain.transact(owner, owner.address, b"")).tx_hash


async def one_that_failed(world: World) -> str:
    """The hash of a transaction that was mined and refused."""
    payer = await world.wallet()
    data = world.pool.deposit_data(world.token, 0, b"\x01" * 32, bytes(256))
    fees = await world.chain.fees()
    plan = Prepared(payer.address, world.pool.address, data, 0, 300_000, fees)
    sent = await world.chain.send(payer, plan)
    with pytest.raises(Reverted):
        await world.chain.wait(sent)
    return sent.tx_hash


@pytest.mark.proofs
@pytest.mark.parametrize("claimed", [another_move, one_that_failed])
async def test_a_lie_about_a_mined_call_is_found_out_and_another_relayer_does_it(
    world: World, tmp_path: Path, claimed: Callable[[World], Awaitable[str]]
) -> None:
    async with rich_vault(world) as vault:
        liar = await entry(world, "")
        claim = SendProgress("mined", await claimed(world), 1, 1)
        async with (
            acting(says(offers(world, liar.account), claim)) as endpoint,
            running_relayer(world, tmp_path / "r.db", fee=2 * FEE) as honest,
        ):
            parties = [
                RegistryEntry(liar.account, liar.role, endpoint, liar.public_key, 0),
                RegistryEntry(
                    honest.wallet.address,
                    Role.RELAYER,
                    honest.endpoint,
                    honest.wallet.public_key,
                    0,
                ),
            ]
            sender = RelayerSender(world.pool, only(*parties), order="cheapest")
            assert (await sender.terms("cta", world.token)).relayer == liar.account
            recipient = "0x" + "71" * 20
            paid = await Token(world.chain, world.token).balance(recipient)
            moved = await vault.withdraw(world.token, 10**8, recipient, sender.senders())
            assert moved.receipt is not None
            assert moved.receipt.sender == honest.wallet.address
            assert (await sender.terms("cta", world.token)).relayer == honest.wallet.address
    assert await Token(world.chain, world.token).balance(recipient) == paid + 10**8 - 2 * FEE


@pytest.mark.proofs
async def test_a_relayer_that_falls_silent_after_sending_did_its_work(world: World) -> None:
    async with rich_vault(world) as vault:
        mute = await world.wallet()
        call = await finished_withdrawal(world, vault, mute.address, "0x" + "81" * 20)

        async def sends_and_says_nothing(socket: WebSocketConnection, _asked: str) -> None:
            await world.pool.send_move(mute, call)
            await silent(socket, "")

        async with acting(sends_and_says_nothing) as endpoint:
            party = RegistryEntry(mute.address, Role.RELAYER, endpoint, mute.public_key, 0)
            sender = RelayerSender(world.pool, only(party), answer_timeout_s=15.0)
            receipt = await sender.send("cta", call)
    assert receipt.sender == mute.address


@pytest.mark.proofs
async def test_with_every_relayer_dead_a_party_sends_its_own_only_if_told_so(
    world: World,
) -> None:
    async with rich_vault(world) as vault:
        party = await entry(world, "ws://127.0.0.1:1/")
        sender = RelayerSender(world.pool, only(party), answer_timeout_s=0.5)
        recipient = "0x" + "91" * 20
        with pytest.raises(NoRelayer):
            await vault.withdraw(world.token, 10**8, recipient, sender.senders())
        own = await world.wallet()
        moved = await vault.withdraw(
            world.token, 10**8, recipient, sender.senders(DirectSender(world.pool, own))
        )
    assert moved.fee == 0
    assert moved.receipt is not None
    assert moved.receipt.sender == own.address


async def test_a_call_of_a_relayer_that_left_the_registry_is_not_shown_to_others(
    world: World,
) -> None:
    from .test_relayer import unproved

    heard: list[str] = []

    async def listens(_socket: WebSocketConnection, asked: str) -> None:
        heard.append(asked)

    async with acting(listens) as endpoint:
        sender = RelayerSender(world.pool, only(await entry(world, endpoint)))
        with pytest.raises(RelayerDead):
            await sender.send("cta", unproved(world, "0x" + "33" * 20))
    assert heard == []


@pytest.mark.proofs
async def test_a_relayer_that_waits_for_less_depth_than_the_caller_is_no_liar(
    world: World, tmp_path: Path
) -> None:
    async with rich_vault(world) as vault, running_relayer(world, tmp_path / "r.db") as honest:
        call = await finished_withdrawal(world, vault, honest.wallet.address, "0x" + "a1" * 20)
        party = RegistryEntry(
            honest.wallet.address, Role.RELAYER, honest.endpoint, honest.wallet.public_key, 0
        )
        sender = RelayerSender(world.pool, only(party), answer_timeout_s=8.0, depth=3)
        async with trio.open_nursery() as nursery:

            async def mine_slowly() -> None:
                for _ in range(3):
                    await trio.sleep(3)
                    await world.chain.rpc.call("anvil_mine", "0x1")

            nursery.start_soon(mine_slowly)
            receipt = await sender.send("cta", call)
            assert await world.chain.rpc.block_number() - receipt.block + 1 >= 3
            nursery.cancel_scope.cancel()
        assert (await sender.terms("cta", world.token)).relayer == honest.wallet.address


@pytest.mark.proofs
async def test_a_chain_that_stands_still_is_not_waited_for_without_end(world: World) -> None:
    class Still(Rpc):
        async def block_number(self) -> int:
            return 1

    async with rich_vault(world) as vault, Still(world.place.url) as rpc:
        fair = await world.wallet()
        call = await finished_withdrawal(world, vault, fair.address, "0x" + "b1" * 20)
        mined = await world.pool.send_move(fair, call)
        behaviour = says(offers(world, fair.address), SendProgress("mined", mined.tx_hash, 1, 1))
        async with acting(behaviour) as endpoint:
            party = RegistryEntry(fair.address, Role.RELAYER, endpoint, fair.public_key, 0)
            sender = RelayerSender(
                world.place.deployment.pool(Chain(rpc, CHAIN_ID, poll_s=0.05)),
                only(party),
                mined_timeout_s=1.0,
            )
            with trio.fail_after(300), pytest.raises(TransactionPending):
                await sender.send("cta", call)


async def test_a_node_that_hides_an_event_is_not_asked_for_its_whole_chain(world: World) -> None:
    from .test_relayer import unproved

    asked: list[object] = []

    class Hiding(Rpc):
        async def call(self, method: str, *params: object) -> object:
            asked.append(method)
            said = {"eth_call": "0x" + f"{1:064x}", "eth_blockNumber": hex(10**9)}
            return said.get(method, [])

    async with Hiding(world.place.url) as rpc:
        pool = world.place.deployment.pool(Chain(rpc, CHAIN_ID))
        with pytest.raises(SpentElsewhere):
            await MoveConfirmation(pool, 1, 10, 120).mined(unproved(world, "0x" + "33" * 20))
    assert asked.count("eth_getLogs") < 200


async def test_views_that_lag_do_not_make_a_move_somebody_elses(world: World) -> None:
    """One view knows that a note is spent, those after it neither the event nor the receipt."""
    from .test_relayer import unproved

    call = unproved(world, "0x" + "33" * 20)
    pool = world.place.deployment.pool(world.chain)
    mined = {
        "blockNumber": "0x5",
        "blockHash": "0x" + "55" * 32,
        "transactionHash": "0x" + "66" * 32,
    }

    def log(at: int, name: str, indexed: bytes, data: bytes = b"") -> dict[str, object]:
        topics = ["0x" + pool.abi.event(name).topic.hex(), "0x" + indexed.hex()]
        place = {"address": pool.address, "logIndex": hex(at), "data": "0x" + data.hex()}
        return {**mined, **place, "topics": topics}

    inserted = encode_values(
        "", ["uint256", "bytes"], [int.from_bytes(call.change, "big"), call.memo]
    )
    logs = [log(at, "NullifierSpent", one) for at, one in enumerate(call.nullifiers)]
    logs.append(log(2, "NoteInserted", bytes(32), inserted))
    receipt = {
        **mined, "from": "0x" + "33" * 20, "to": pool.address, "contractAddress": None,
        "gasUsed": "0x1", "status": "0x1", "logs": logs,
    }  # fmt: skip
    late = {"eth_getLogs": [[], logs[:1]], "eth_getTransactionReceipt": [None, receipt]}
    steady = {
        "eth_call": f"0x{1:064x}",
        "eth_blockNumber": "0x5",
        "eth_getBlockByNumber": {
            "number": "0x5", "hash": mined["blockHash"], "parentHash": "0x" + "44" * 32,
            "timestamp": "0x1",
        },
    }  # fmt: skip

    class Lagging(Rpc):
        async def raw_result(self, node: Node, method: str, params: Sequence[object]) -> object:
            if method in steady:
                return steady[method]
            return late[method].pop(0) if len(late[method]) > 1 else late[method][0]

    async with Lagging(world.place.url) as rpc:
        pool = world.place.deployment.pool(Chain(rpc, CHAIN_ID, poll_s=0.01))
        found = await MoveConfirmation(pool, 1, 10, 120).mined(call)
    assert found is not None
    assert found.tx_hash == mined["transactionHash"]
