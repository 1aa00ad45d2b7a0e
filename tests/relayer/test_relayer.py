"""A relayer sends each accepted call once, also after crashes and faults; each refusal has a
name."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
from trio_websocket import (
    ConnectionClosed,
    ConnectionRejected,
    open_websocket_url,
    wrap_client_stream,
)

from psymm.chain.calls import Call, CtaCall
from psymm.chain.contracts import Token
from psymm.chain.errors import ChainDown, ChainError, TransactionReplaced
from psymm.chain.raw import read_signed
from psymm.chain.signing import hash_of
from psymm.chain.transactions import Sent
from psymm.relayer.config import RelayerConfig, TokenPrice
from psymm.relayer.errors import (
    AlreadySpent,
    BadRequest,
    Busy,
    Conflict,
    DeadlineTooNear,
    FeeTooLow,
    OtherChain,
    OtherContract,
    OtherRelayer,
    RelayerConfigError,
    TokenRefused,
    TooManyRequests,
    WouldRevert,
)
from psymm.relayer.sender import RelayerSender
from psymm.relayer.service import RelayerService
from psymm.relayer.store import SendState, Store
from psymm.relayer.wire import (
    AskTerms,
    SendProgress,
    Submit,
    decode_progress,
    decode_terms,
    encode_request,
    identity,
)

from .conftest import CHAIN_ID, FEE, World, finished_withdrawal, rich_vault, running_relayer

pytestmark = [pytest.mark.chain]


def word(number: int) -> bytes:
    return number.to_bytes(32, "big")


def unproved(world: World, relayer: str, **changes: object) -> CtaCall:
    """A call that has every shape and no valid proof."""
    call = CtaCall(
        root=word(1),
        nullifiers=(word(2), word(3)),
        change=word(4),
        token=world.token,
        amount=10**6,
        recipient="0x" + "22" * 20,
        relayer=relayer,
        fee=FEE,
        deadline=int(time.time()) + 1_800,
        memo=bytes(256),
        proof=bytes(320),
    )
    return replace(call, **changes)  # type: ignore[arg-type]


async def asked(endpoint: str, message: str | bytes) -> str:
    async with open_websocket_url(endpoint) as socket:
        await socket.send_message(message)
        with trio.fail_after(600):
            answer = await socket.get_message()
    assert isinstance(answer, str)
    return answer


async def submitted(endpoint: str, world: World, call: Call, **changes: object) -> SendProgress:
    """The first answer to a call; raises the relayer's refusal."""
    request = replace(Submit("1", CHAIN_ID, world.pool.address, call), **changes)  # type: ignore[arg-type]
    return decode_progress(await asked(endpoint, encode_request(request)), "1")


async def test_it_quotes_its_fee_for_its_chain_and_contract(world: World, tmp_path: Path) -> None:
    async with running_relayer(world, tmp_path / "r.db") as relayer:
        terms = decode_terms(await asked(relayer.endpoint, encode_request(AskTerms("1"))), "1")
    assert (terms.chain_id, terms.contract) == (CHAIN_ID, world.pool.address)
    assert terms.relayer == relayer.wallet.address
    assert terms.fee(world.token, "ctc") == terms.fee(world.token, "cta") == FEE


async def test_each_call_that_it_will_not_send_is_refused_by_name(
    world: World, tmp_path: Path
) -> None:
    async with running_relayer(world, tmp_path / "r.db") as relayer:
        own = relayer.wallet.address
        other = "0x" + "33" * 20
        where = relayer.endpoint
        with pytest.raises(OtherChain):
            await submitted(where, world, unproved(world, own), chain_id=1)
        with pytest.raises(OtherContract):
            await submitted(where, world, unproved(world, own), contract=world.token)
        with pytest.raises(OtherRelayer):
            await submitted(where, world, unproved(world, other))
        with pytest.raises(TokenRefused):
            await submitted(where, world, unproved(world, own, token=world.pool.address))
        with pytest.raises(FeeTooLow) as low:
            await submitted(where, world, unproved(world, own, fee=FEE - 1))
        assert low.value.values == {"fee": str(FEE - 1), "quote": str(FEE)}
        with pytest.raises(DeadlineTooNear):
            await submitted(where, world, unproved(world, own, deadline=1_700_000_000))
        with pytest.raises(WouldRevert):
            await submitted(where, world, unproved(world, own))
        assert relayer.service.statistics().taken == 0
        assert relayer.service.statistics().refused == 7


@pytest.mark.parametrize(
    "message", [b"\x01", "", "{", "[]", '{"id":"1"}', '{"id":"1","method":"steal"}']
)
async def test_nonsense_is_a_bad_request_and_the_connection_lives_on(
    world: World, tmp_path: Path, message: str | bytes
) -> None:
    async with (
        running_relayer(world, tmp_path / "r.db") as relayer,
        open_websocket_url(relayer.endpoint) as socket,
    ):
        await socket.send_message(message)
        with pytest.raises(BadRequest):
            decode_progress(await socket.get_message(), "1")
        await socket.send_message(encode_request(AskTerms("1")))
        assert decode_terms(await socket.get_message(), "1").relayer == relayer.wallet.address


async def test_one_peer_cannot_ask_without_end(world: World, tmp_path: Path) -> None:
    async with (
        running_relayer(world, tmp_path / "r.db", requests_per_minute=3) as relayer,
        open_websocket_url(relayer.endpoint) as socket,
    ):
        for _ in range(3):
            await socket.send_message(encode_request(AskTerms("1")))
            decode_terms(await socket.get_message(), "1")
        await socket.send_message(encode_request(AskTerms("1")))
        with pytest.raises(TooManyRequests):
            decode_terms(await socket.get_message(), "1")


async def test_a_peer_that_does_not_read_stops_nobody_else(world: World, tmp_path: Path) -> None:
    async with (
        running_relayer(world, tmp_path / "r.db", requests_per_minute=10_000) as relayer,
        open_websocket_url(relayer.endpoint, message_queue_size=1) as deaf,
    ):
        for _ in range(200):
            await deaf.send_message(encode_request(AskTerms("1")))
        answer = await asked(relayer.endpoint, encode_request(AskTerms("1")))
        assert decode_terms(answer, "1").relayer == relayer.wallet.address


async def test_one_peer_cannot_hold_every_connection(world: World, tmp_path: Path) -> None:
    async with (
        running_relayer(world, tmp_path / "r.db", connections_per_peer=1) as relayer,
        open_websocket_url(relayer.endpoint),
    ):
        with pytest.raises(ConnectionRejected) as rejected:
            await asked(relayer.endpoint, encode_request(AskTerms("1")))
        assert rejected.value.status_code == 503


async def test_a_few_addresses_that_hold_every_connection_keep_nobody_out(
    world: World, tmp_path: Path
) -> None:
    async with (
        running_relayer(world, tmp_path / "r.db", connections=8, connections_per_peer=4) as relayer,
        trio.open_nursery() as nursery,
    ):
        port = int(relayer.endpoint.rsplit(":", 1)[1].rstrip("/"))
        for number in range(16):
            nursery.start_soon(_idle, port, f"127.0.0.{2 + number % 4}")
        while relayer.service.statistics().connections < 8:  # noqa: ASYNC110
            await trio.sleep(0.01)
        answer = await asked(relayer.endpoint, encode_request(AskTerms("1")))
        assert decode_terms(answer, "1").relayer == relayer.wallet.address
        nursery.cancel_scope.cancel()


async def _idle(port: int, address: str) -> None:
    """Hold a connection from this address until the server closes it."""
    try:
        async with trio.open_nursery() as nursery:
            stream = await trio.open_tcp_stream("127.0.0.1", port, local_address=address)
            await (await wrap_client_stream(nursery, stream, "127.0.0.1", "/")).get_message()
    except* (ConnectionRejected, ConnectionClosed):
        pass


async def test_addresses_of_one_ipv6_48_ask_no_more_than_four_do(
    world: World, tmp_path: Path
) -> None:
    config = RelayerConfig({world.token: TokenPrice(FEE)}, requests_per_minute=2)
    wallet = await world.wallet()
    with Store(tmp_path / "r.db", CHAIN_ID, world.pool.address, wallet.address) as store:
        service = RelayerService(world.chain, world.pool, wallet, store, config)
        # No machine that tests run on has so many addresses to dial from.
        crowd = [service._peers(f"2001:db8:1:{number:x}::1") for number in range(16)]
        assert sum(service._may_ask(peers, 10) for peers in crowd) == 8
        assert service._may_ask(service._peers("2001:db8:2::1"), 10)


@pytest.mark.parametrize(
    "settings", [{"queue": 0}, {"depth": 0}, {"prices": {}}, {"prices": {"0x": TokenPrice(0)}}]
)
def test_a_configuration_that_cannot_work_is_refused(settings: dict[str, object]) -> None:
    with pytest.raises(RelayerConfigError):
        RelayerConfig(**{"prices": {"0x": TokenPrice(1)}, **settings})  # type: ignore[arg-type]


def test_a_fee_that_follows_the_gas_is_rounded_up_to_two_digits() -> None:
    price = TokenPrice(flat=10_000, units_per_eth=3_000 * 10**6)
    assert price.fee(1_200_000, 10**9) == 3_700_000
    assert TokenPrice(12_345).fee(1_200_000, 10**9) == 12_345


@pytest.mark.proofs
async def test_a_call_is_sent_once_and_asked_again_gets_the_same_answer(
    world: World, tmp_path: Path
) -> None:
    recipient = "0x" + "41" * 20
    async with (
        running_relayer(world, tmp_path / "r.db", register=True) as relayer,
        rich_vault(world) as vault,
    ):
        sender = RelayerSender(world.pool, world.listed)
        moved = await vault.withdraw(world.token, 10**8, recipient, sender.senders())
        assert moved.receipt is not None
        assert moved.receipt.sender == relayer.wallet.address
        token = Token(world.chain, world.token)
        assert await token.balance(recipient) == 10**8 - FEE
        assert await token.balance(relayer.wallet.address) == FEE
        again = await sender.submit(moved.call, relayer.endpoint)
        assert again.tx_hash == moved.receipt.tx_hash
        assert relayer.service.statistics().taken == 1
        # The same notes in another call are spent, whatever else it says.
        with pytest.raises(AlreadySpent):
            await submitted(
                relayer.endpoint, world, replace(moved.call, recipient="0x" + "42" * 20)
            )


@pytest.mark.proofs
async def test_calls_under_way_survive_a_restart_and_are_sent_once(
    world: World, tmp_path: Path
) -> None:
    recipient = "0x" + "51" * 20
    async with rich_vault(world) as vault:
        wallet = await world.wallet()
        call = await finished_withdrawal(world, vault, wallet.address, recipient)
        await world.mining(False)
        path = tmp_path / "r.db"
        async with running_relayer(world, path, wallet=wallet, queue=1) as relayer:
            assert (await submitted(relayer.endpoint, world, call)).status == "queued"
            for _ in range(12_000):
                if (await submitted(relayer.endpoint, world, call)).status == "sent":
                    break
                await trio.sleep(0.05)
            # Room and notes are taken while it is under way.
            rival = unproved(world, wallet.address, nullifiers=call.nullifiers)
            with pytest.raises(Conflict):
                await submitted(relayer.endpoint, world, rival)
            with pytest.raises(Busy):
                await submitted(relayer.endpoint, world, unproved(world, wallet.address))
        # The node forgets the transaction while the relayer is down.
        await world.chain.rpc.call("anvil_dropAllTransactions")
        async with running_relayer(world, path, wallet=wallet) as relayer:
            sender = RelayerSender(world.pool, world.listed)
            async with trio.open_nursery() as nursery:

                async def mine() -> None:
                    while True:
                        await trio.sleep(0.2)
                        await world.chain.rpc.call("anvil_mine", "0x1")

                nursery.start_soon(mine)
                receipt = await sender.submit(call, relayer.endpoint)
                nursery.cancel_scope.cancel()
        with Store(path, CHAIN_ID, world.pool.address, wallet.address) as store:
            last = store.last(identity(call))
            assert last is not None
            assert last.state is SendState.MINED
            assert list(map(hash_of, last.transactions)) == [receipt.tx_hash]
    assert await Token(world.chain, world.token).balance(recipient) == 10**8 - FEE


@pytest.mark.proofs
async def test_a_transaction_that_is_not_mined_is_replaced_under_the_same_nonce(
    world: World, tmp_path: Path
) -> None:
    async with rich_vault(world) as vault:
        wallet = await world.wallet()
        call = await finished_withdrawal(world, vault, wallet.address, "0x" + "61" * 20)
        await world.mining(False)
        async with running_relayer(
            world, tmp_path / "r.db", wallet=wallet, replace_after_s=0.5
        ) as relayer:
            sent: list[str] = []
            replaced = trio.Event()

            def said(word: SendProgress) -> None:
                if word.tx is not None and word.tx not in sent:
                    sent.append(word.tx)
                if len(sent) == 2:
                    replaced.set()

            sender = RelayerSender(world.pool, world.listed, on_progress=said)
            async with trio.open_nursery() as nursery:

                async def mine_when_replaced() -> None:
                    await replaced.wait()
                    await world.mining(True)

                nursery.start_soon(mine_when_replaced)
                receipt = await sender.submit(call, relayer.endpoint)
        first, second, *_ = sent
        assert receipt.tx_hash != first
        assert await world.chain.receipt(first) is None
        with Store(tmp_path / "r.db", CHAIN_ID, world.pool.address, wallet.address) as store:
            last = store.last(identity(call))
        assert last is not None
        assert len({read_signed(one).nonce for one in last.transactions}) == 1
        assert list(map(hash_of, last.transactions))[:2] == [first, second]


@pytest.mark.proofs
async def test_a_replacement_that_fails_ends_neither_the_relayer_nor_the_call(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node goes away, or the first transaction is mined, just when its fee is to be raised."""
    failures: list[ChainError] = [
        ChainDown("node", "on purpose"),
        TransactionReplaced("0x" + "11" * 32, "0x" + "22" * 20, 0),
    ]
    async with rich_vault(world) as vault:
        wallet = await world.wallet()
        call = await finished_withdrawal(world, vault, wallet.address, "0x" + "62" * 20)
        await world.mining(False)
        honest = world.chain.send

        async def failing(*given: Any, nonce: int | None = None, **more: Any) -> Sent:
            if nonce is not None and failures:
                failed = failures.pop(0)
                if not failures:
                    await world.mining(True)
                raise failed
            return await honest(*given, nonce=nonce, **more)

        monkeypatch.setattr(world.chain, "send", failing)
        async with running_relayer(
            world, tmp_path / "r.db", wallet=wallet, replace_after_s=0.3
        ) as relayer:
            receipt = await RelayerSender(world.pool, world.listed).submit(call, relayer.endpoint)
    assert receipt.sender == wallet.address
    assert not failures
