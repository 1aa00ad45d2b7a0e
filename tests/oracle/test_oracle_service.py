"""One signer and all kinds of peers and followers, on real sockets.

This file is long because each kind of peer and follower meets the same running signer.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing
from trio_websocket import (
    ConnectionClosed,
    WebSocketConnection,
    WebSocketRequest,
    open_websocket_url,
    serve_websocket,
)

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "sockets"))

from certificates import Authority
from oracle_scene import CHAIN_ID, CONTRACTS, DOMAIN, KEYS, STEP

import psymm.oracle.broadcast
import psymm.sockets.admission
from psymm._core import SecretKey
from psymm.oracle.agreement import Ballot, Countersignature, Proposal, Tolerance
from psymm.oracle.broadcast import RING, RoundBroadcast
from psymm.oracle.client import OracleEndpoints, open_oracle
from psymm.oracle.rounds import (
    OracleRound,
    RoundLeaf,
    SignedRound,
    SignerSet,
    decode_round,
    encode_round,
    round_digest,
)
from psymm.oracle.service import OracleConfig, OracleService
from psymm.oracle.store import CHUNK, OracleStore
from psymm.oracle.wire import (
    AskHistory,
    FollowBallots,
    FollowRounds,
    Greeting,
    HistoryEnd,
    Request,
    decode_answer,
    decode_ballot,
    decode_greeting,
    encode_ballot,
    encode_greeting,
    encode_request,
    peer_digest,
)
from psymm.sockets.tls import Certificate, client_context
from psymm.storage import StorageError

PATIENCE_S = 120
ONE = 10**18


class Fixed:
    """A source whose prices a test sets."""

    def __init__(self, price: int = 100 * ONE) -> None:
        self.price = price

    def read(self, at_ns: int) -> Sequence[RoundLeaf]:
        return [RoundLeaf("A", self.price)] if self.price else []


def store_of(path: Path, number: int = 0) -> OracleStore:
    return OracleStore(path / f"{number}.db", CHAIN_ID, CONTRACTS[0], KEYS[number].address, 86_400)


@asynccontextmanager
async def running(
    path: Path,
    peers: dict[str, str],
    *,
    number: int = 0,
    port: int = 0,
    threshold: int = 2,
    store: OracleStore | None = None,
    source: Fixed | None = None,
    now: Callable[[], int] = time.time_ns,
    connections: int = 1024,
    authority: Authority | None = None,
) -> AsyncIterator[tuple[OracleService, str]]:
    """A signer of three, or alone with a threshold of one; its service and endpoint."""
    many = 1 if threshold == 1 else 3
    config = OracleConfig(
        DOMAIN,
        SignerSet(tuple(key.address for key in KEYS[:many]), threshold),
        Tolerance(ONE // 100, 10**14),
        peers,
        connections=connections,
        tls=None if authority is None else client_context(authority.file),
    )
    with trio.fail_after(PATIENCE_S), store or store_of(path, number) as opened:
        service = OracleService(KEYS[number], config, opened, source or Fixed(), now)
        async with trio.open_nursery() as nursery:
            certificate = None
            if authority is not None:
                files = authority.issue("signer")
                certificate = Certificate(files.chain, files.key)
            bound = await nursery.start(partial(service.serve, "127.0.0.1", port, tls=certificate))
            yield service, f"{'ws' if certificate is None else 'wss'}://127.0.0.1:{bound}"
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def asking(
    endpoint: str, request: Request | str | Callable[[Greeting], Request]
) -> AsyncIterator[WebSocketConnection]:
    """A connection that has asked for something."""
    async with open_websocket_url(endpoint) as socket:
        greeting = decode_greeting(await socket.get_message())
        if callable(request):
            request = request(greeting)
        await socket.send_message(request if isinstance(request, str) else encode_request(request))
        yield socket


def proof(key: SecretKey) -> Callable[[Greeting], Request]:
    return lambda greeting: FollowBallots(
        key.sign(peer_digest(DOMAIN, greeting.challenge, greeting.signer))
    )


def oracle(*endpoints: str, threshold: int = 1) -> OracleEndpoints:
    many = 1 if threshold == 1 else 3
    return OracleEndpoints(
        endpoints,
        DOMAIN,
        SignerSet(tuple(key.address for key in KEYS[:many]), threshold),
        stall_s=60,
    )


def ballot(key: SecretKey, made: OracleRound, *, whole: bool) -> Ballot:
    signature = key.sign(round_digest(DOMAIN, made.root, made.timestamp))
    if whole:
        return Proposal(SignedRound(made, (signature,)))
    return Countersignature(made.timestamp, made.root, signature)


@asynccontextmanager
async def false_peer(
    number: int, talk: Callable[[WebSocketConnection], object]
) -> AsyncIterator[str]:
    """A peer whose ballots a test writes: `talk` gets each connection of a signer that asks for
    ballots."""

    async def handle(request: WebSocketRequest) -> None:
        socket = await request.accept()
        try:
            greeting = Greeting(DOMAIN, KEYS[number].address, bytes(32))
            await socket.send_message(encode_greeting(greeting))
            if "ballots" in await socket.get_message():
                await talk(socket)  # type: ignore[misc]
            await trio.sleep_forever()
        except ConnectionClosed:
            pass

    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(serve_websocket, handle, "127.0.0.1", 0, None))
        yield f"ws://127.0.0.1:{server.port}"
        nursery.cancel_scope.cancel()


async def until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110 - what it waits for has no event
        await trio.sleep(0.05)


# --- followers --------------------------------------------------------------------------------


async def test_rule_42_whole_rounds_reach_everybody_and_history_ends(tmp_path: Path) -> None:
    async with running(tmp_path, {}, threshold=1) as (_, endpoint):
        async with asking(endpoint, FollowRounds(0)) as socket:
            first, second = [decode_round(await socket.get_message()) for _ in range(2)]
        assert second.timestamp > first.timestamp
        asked = AskHistory(first.timestamp, second.timestamp)
        async with asking(endpoint, asked) as socket:
            assert decode_answer(await socket.get_message()) == first
            while not isinstance(found := decode_answer(await socket.get_message()), HistoryEnd):
                assert found.timestamp <= second.timestamp
            assert found == HistoryEnd(second.timestamp)
            with pytest.raises(ConnectionClosed):
                await socket.get_message()


@pytest.mark.parametrize(
    "request_text",
    ['{"feed":{"name":"A"}}', "", "x" * 900, '{"ballots":{"signature":"0x' + "00" * 65 + '"}}'],
)
async def test_a_malformed_request_ends_its_own_connection_alone(
    tmp_path: Path, request_text: str
) -> None:
    async with (
        running(tmp_path, {}, threshold=1) as (_, endpoint),
        asking(endpoint, FollowRounds(0)) as good,
    ):
        async with asking(endpoint, request_text) as bad:
            with pytest.raises(ConnectionClosed):
                await bad.get_message()
        decode_round(await good.get_message())


async def test_a_huge_request_ends_its_own_connection_alone(tmp_path: Path) -> None:
    async with (
        running(tmp_path, {}, threshold=1) as (_, endpoint),
        asking(endpoint, FollowRounds(0)) as good,
    ):
        with pytest.raises(ConnectionClosed):
            async with asking(endpoint, "x" * 1_000_000) as bad:
                await bad.get_message()
        decode_round(await good.get_message())


async def test_ballots_are_for_signers_alone(tmp_path: Path) -> None:
    async with running(tmp_path, {}, threshold=2) as (_, endpoint):
        async with asking(endpoint, proof(KEYS[3])) as stranger:
            with pytest.raises(ConnectionClosed):
                await stranger.get_message()
        async with asking(endpoint, proof(KEYS[1])) as peer:
            found = decode_ballot(await peer.get_message())
            assert isinstance(found, Proposal)
            assert found.signed.round.leaves == (RoundLeaf("A", 100 * ONE),)


async def test_strangers_do_not_take_the_place_of_a_peer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rule 70. Who has a kept place and does not prove itself loses it; a signer has."""
    monkeypatch.setattr(psymm.sockets.admission, "PROVE_S", 2.0)
    async with (
        running(tmp_path, {}, connections=8) as (_, endpoint),
        AsyncExitStack() as stack,
    ):
        for _ in range(6):
            await stack.enter_async_context(asking(endpoint, FollowRounds(0)))
        peer = await stack.enter_async_context(asking(endpoint, proof(KEYS[1])))
        stranger = await stack.enter_async_context(asking(endpoint, FollowRounds(0)))
        with pytest.raises(ConnectionClosed):
            await stranger.get_message()
        # The peer came before the stranger and is still heard.
        now = time.time_ns()
        while decode_ballot(await peer.get_message()).timestamp < now:
            pass


async def test_a_follower_that_does_not_read_delays_no_other(tmp_path: Path) -> None:
    """Twenty followers never read; a client gets every round."""
    async with running(tmp_path, {}, threshold=1) as (_, endpoint), AsyncExitStack() as stack:
        for _ in range(20):
            await stack.enter_async_context(asking(endpoint, FollowRounds(0)))
        async with open_oracle(oracle(endpoint), since=0) as client:
            at = 0
            for _ in range(3):
                at = (await client.next_after(at)).timestamp


async def test_whoever_falls_behind_the_ring_reads_on_from_the_store(tmp_path: Path) -> None:
    at = 1_790_604_800 * STEP
    with store_of(tmp_path) as store:
        rounds = [
            SignedRound(OracleRound(at + step * STEP, (RoundLeaf("A", 1 + step),)), ())
            for step in range(3 * RING)
        ]
        for one in rounds[:10]:
            store.add(one)
        sent = RoundBroadcast(store, store.newest())
        slow = sent.after(0)
        got = [await anext(slow) for _ in range(5)]
        for one in rounds[10:]:
            store.add(one)
            sent.publish(one.timestamp, encode_round(one))
        late = SignedRound(OracleRound(at - STEP, (RoundLeaf("A", 1),)), ())
        store.add(late)
        sent.publish(late.timestamp, encode_round(late))
        fast = sent.after(rounds[-2].timestamp)
        assert decode_round(await anext(fast)) == rounds[-1]
        got += [await anext(slow) for _ in range(3 * RING - 5)]
        assert [decode_round(text) for text in got] == rounds
        with trio.move_on_after(0.05) as waits:
            await anext(slow)
        assert waits.cancelled_caught
        assert len(sent._ring) == RING > CHUNK
        await slow.aclose()
        await fast.aclose()


async def test_many_followers_read_old_rounds_a_few_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = 1_790_604_800 * STEP
    with store_of(tmp_path) as store:
        for step in range(100):
            store.add(SignedRound(OracleRound(at + step * STEP, (RoundLeaf("A", 1),)), ()))
        reading, most = 0, 0
        rounds = store.rounds

        def counted(after: int, last: int) -> list[tuple[int, str]]:
            nonlocal reading, most
            reading += 1
            most = max(most, reading)
            try:
                return rounds(after, last)
            finally:
                reading -= 1

        monkeypatch.setattr(store, "rounds", counted)
        sent = RoundBroadcast(store, store.newest())

        async def follow() -> None:
            texts = sent.after(0)
            for _ in range(100):
                await anext(texts)
            await texts.aclose()

        async with trio.open_nursery() as nursery:
            for _ in range(30):
                nursery.start_soon(follow)
        assert most <= psymm.oracle.broadcast._READS_AT_ONCE


async def test_signers_and_clients_speak_tls(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    async with (
        running(tmp_path, {}, number=0, authority=authority) as (_, zero),
        running(tmp_path, {KEYS[0].address: zero}, number=1, authority=authority) as (_, one),
    ):
        oracle_of = replace(oracle(one, threshold=2), tls=client_context(authority.file))
        async with open_oracle(oracle_of, since=0) as client:
            assert len((await client.next_after(0)).signatures) == 2


# --- peers ------------------------------------------------------------------------------------


async def test_rule_41_a_peer_that_signs_two_roots_is_convicted_for_ever(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)

    async def equivocate(socket: WebSocketConnection) -> None:
        at = time.time_ns() // STEP * STEP
        for price in (100 * ONE, 100 * ONE + 1):
            made = OracleRound(at, (RoundLeaf("A", price),))
            await socket.send_message(encode_ballot(ballot(KEYS[1], made, whole=True)))

    async with false_peer(1, equivocate) as endpoint:
        peers = {KEYS[1].address: endpoint}
        async with running(tmp_path, peers) as (_, own):
            await until(lambda: "signer-equivocated" in caplog.text)
            async with asking(own, proof(KEYS[2])) as peer:
                assert isinstance(decode_ballot(await peer.get_message()), Proposal)
    with store_of(tmp_path) as store:
        (proven,) = store.convictions()
        assert proven.signer == KEYS[1].address
        signers = SignerSet((KEYS[1].address,), 1)
        for root, signature in zip(proven.roots, proven.signatures, strict=True):
            signers.check(round_digest(DOMAIN, root, proven.timestamp), [signature])


async def test_a_peer_that_floods_is_left_and_the_others_heard(tmp_path: Path) -> None:
    connections = 0

    async def flood(socket: WebSocketConnection) -> None:
        nonlocal connections
        connections += 1
        at = time.time_ns() // STEP * STEP
        # Large ones, which no limit on the number of small messages counts.
        leaves = tuple(RoundLeaf(f"A{n:0>30}", ONE) for n in range(400))
        text = encode_ballot(ballot(KEYS[1], OracleRound(at, leaves), whole=True))
        while True:
            await socket.send_message(text)

    async with (
        false_peer(1, flood) as flooding,
        running(tmp_path, {KEYS[1].address: flooding}, number=0) as (_, zero),
    ):
        # The third signer completes rounds with the first.
        async with (
            running(tmp_path, {KEYS[0].address: zero}, number=2) as (_, two),
            open_oracle(oracle(two, threshold=2), since=0) as client,
        ):
            at = 0
            for _ in range(2):
                at = (await client.next_after(at)).timestamp
        await until(lambda: connections >= 2)


@pytest.mark.parametrize("words", ["hello", "[" * 5000, '{"proposal":{}}', "x" * 100_000])
async def test_a_peer_that_talks_nonsense_is_dialled_again(tmp_path: Path, words: str) -> None:
    connections = 0

    async def talk(socket: WebSocketConnection) -> None:
        nonlocal connections
        connections += 1
        await socket.send_message(words)

    async with (
        false_peer(1, talk) as endpoint,
        running(tmp_path, {KEYS[1].address: endpoint}) as (service, _),
    ):
        await until(lambda: connections >= 2)
        assert service.statistics().agreed == 0


async def test_rule_41_after_a_restart_the_same_moment_is_not_signed_again(tmp_path: Path) -> None:
    """The clock stands still at one moment, so that the restarted signer meets it again."""
    clock = [time.time_ns() // STEP * STEP + 1]
    source = Fixed()

    async def first_ballot(jump: int, wait_s: float) -> Ballot | None:
        """What it signs within its next moments, after all its slots have come."""
        async with running(tmp_path, {}, source=source, now=lambda: clock[0]) as (_, endpoint):
            await trio.testing.wait_all_tasks_blocked()
            clock[0] += jump
            async with asking(endpoint, proof(KEYS[1])) as peer:
                with trio.move_on_after(wait_s):
                    return decode_ballot(await peer.get_message())
        return None

    almost = STEP * 19 // 10
    before = await first_ballot(almost, PATIENCE_S)
    assert before is not None
    source.price += 1
    # Its clock is set back to before that moment, as after a bad correction.
    clock[0] = before.timestamp - STEP + 1
    assert await first_ballot(almost, 2) is None
    clock[0] = before.timestamp + 1
    after = await first_ballot(almost, PATIENCE_S)
    assert after is not None
    assert after.timestamp > before.timestamp


async def test_a_signer_whose_disk_is_full_signs_nothing_and_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_of(tmp_path)

    def full(_timestamp: int, _root: bytes) -> bool:
        raise StorageError(tmp_path / "0.db", "no space left")

    monkeypatch.setattr(store, "vote", full)
    with pytest.RaisesGroup(pytest.RaisesExc(StorageError), flatten_subgroups=True):
        async with running(tmp_path, {}, threshold=1, store=store) as (service, _):
            try:
                await trio.sleep_forever()
            finally:
                assert service.statistics().signed == 0


async def test_without_prices_nothing_is_signed_and_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    async with running(tmp_path, {}, threshold=1, source=Fixed(0)) as (service, _):
        await until(lambda: "no-prices" in caplog.text)
        assert service.statistics().signed == 0


async def test_a_second_valid_round_of_a_moment_is_kept_as_a_proof(tmp_path: Path) -> None:
    """Rule 41: two of three can make two, if one of them signs both. The first one stays."""
    at = time.time_ns() // STEP * STEP
    values = (100 * ONE, 100 * ONE + 1)
    two = [OracleRound(at, (RoundLeaf("A", value),)) for value in values]

    def signed(made: OracleRound, *keys: SecretKey) -> str:
        digest = round_digest(DOMAIN, made.root, at)
        return encode_round(SignedRound(made, tuple(key.sign(digest) for key in keys)))

    async def peer(number: int, text: str) -> None:
        async def handle(request: WebSocketRequest) -> None:
            socket = await request.accept()
            try:
                greeting = Greeting(DOMAIN, KEYS[number].address, bytes(32))
                await socket.send_message(encode_greeting(greeting))
                if "follow" in await socket.get_message():
                    await socket.send_message(text)
                await trio.sleep_forever()
            except ConnectionClosed:
                pass

        server = await nursery.start(partial(serve_websocket, handle, "127.0.0.1", 0, None))
        peers[KEYS[number].address] = f"ws://127.0.0.1:{server.port}"

    peers: dict[str, str] = {}
    store = store_of(tmp_path)
    async with trio.open_nursery() as nursery:
        await peer(1, signed(two[0], KEYS[1], KEYS[2]))
        await peer(2, signed(two[1], KEYS[1], KEYS[2]))
        async with running(tmp_path, peers, store=store, now=lambda: at + 1):
            await until(store.conflicts)
            ((_, kept),) = store.rounds(0, at)
            (proof_text,) = store.conflicts()
            assert {decode_round(kept).root, decode_round(proof_text).root} == {
                one.root for one in two
            }
        nursery.cancel_scope.cancel()


async def test_a_clock_that_went_back_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = [time.time_ns()]
    async with running(tmp_path, {}, threshold=1, now=lambda: clock[0]):
        await trio.testing.wait_all_tasks_blocked()
        clock[0] -= 3600 * STEP
        await until(lambda: "clock-went-back" in caplog.text)
