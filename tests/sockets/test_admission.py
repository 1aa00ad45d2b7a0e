"""Who may connect: bounds for all, for one address, and for how often it comes."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from functools import partial

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from psymm.errors import FloodingPeer, TooManyConnections
from psymm.sockets.admission import PROVE_S, Admission, AdmissionLimits


def entered(admission: Admission, *addresses: str) -> ExitStack:
    stack = ExitStack()
    for address in addresses:
        stack.enter_context(admission.standing(address))
    return stack


async def test_one_address_holds_no_more_than_its_share_and_others_still_come() -> None:
    admission = Admission(AdmissionLimits(per_address=2))
    with entered(admission, "192.0.2.1", "192.0.2.1"):
        with pytest.raises(TooManyConnections, match="one address"):
            entered(admission, "192.0.2.1")
        with entered(admission, "192.0.2.2"):
            assert admission.statistics().standing == 3
    with entered(admission, "192.0.2.1"):
        assert admission.statistics().refused == 1


async def test_an_ipv6_peer_is_its_64_bits_and_no_more() -> None:
    admission = Admission(AdmissionLimits(per_address=1))
    with entered(admission, "2001:db8::1"):
        with pytest.raises(TooManyConnections):
            entered(admission, "2001:db8::2")
        with entered(admission, "2001:db8:0:1::1"):
            pass


async def test_who_comes_too_often_waits(autojump_clock: MockClock) -> None:
    admission = Admission(AdmissionLimits(per_second=1, burst=3))
    for _ in range(3):
        entered(admission, "192.0.2.1").close()
    with pytest.raises(TooManyConnections, match="too often"):
        entered(admission, "192.0.2.1")
    await trio.sleep(1)
    entered(admission, "192.0.2.1").close()


async def test_loopback_is_not_limited_by_address_unless_asked_for() -> None:
    with entered(Admission(AdmissionLimits(per_address=1)), "127.0.0.1", "::1", "127.0.0.2"):
        pass
    strict = Admission(AdmissionLimits(per_address=1, limit_loopback=True))
    with entered(strict, "127.0.0.1"), pytest.raises(TooManyConnections):
        entered(strict, "::ffff:127.0.0.1")


async def test_a_closed_door_says_why() -> None:
    admission = Admission()
    admission.close("the server is going away")
    with pytest.raises(TooManyConnections, match="going away"):
        entered(admission, "192.0.2.1")


async def test_addresses_that_came_and_went_are_forgotten() -> None:
    admission = Admission()
    for number in range(20_000):
        entered(admission, f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}").close()
    assert len(admission._peers) <= 4097


def opened(admission: Admission, *addresses: str) -> ExitStack:
    stack = ExitStack()
    for address in addresses:
        stack.enter_context(admission.opening(address))
    return stack


async def test_handshakes_are_counted_by_address_before_they_begin() -> None:
    admission = Admission(AdmissionLimits(opening=8, opening_per_address=3))
    with opened(admission, *["192.0.2.1"] * 3):
        with pytest.raises(TooManyConnections, match="one address"):
            opened(admission, "192.0.2.1")
        with opened(admission, "192.0.2.2", "2001:db8::1", "2001:db8::2", "2001:db8::3"):
            with pytest.raises(TooManyConnections, match="one address"):
                opened(admission, "2001:db8::4")
            opened(admission, "2001:db8:0:1::1").close()
    assert admission.statistics().opening == 0


async def test_loopback_addresses_are_told_apart_where_they_are_limited() -> None:
    admission = Admission(AdmissionLimits(opening_per_address=1, limit_loopback=True))
    with opened(admission, "127.0.0.9"):
        with pytest.raises(TooManyConnections):
            opened(admission, "::ffff:127.0.0.9")
        opened(admission, "127.0.0.2").close()


async def test_who_opens_too_often_is_not_even_shaken_hands_with(
    autojump_clock: MockClock,
) -> None:
    admission = Admission(AdmissionLimits(per_second=1, burst=3))
    for _ in range(3):
        opened(admission, "192.0.2.1").close()
    with pytest.raises(TooManyConnections, match="too often"):
        opened(admission, "192.0.2.1")
    await trio.sleep(1)
    opened(admission, "192.0.2.1").close()


async def test_the_greediest_address_loses_a_handshake_to_a_newcomer() -> None:
    admission = Admission(AdmissionLimits(opening=4, opening_per_address=3))
    ended: list[str] = []

    async def handshake(name: str, address: str) -> None:
        with admission.opening(address):
            await trio.sleep_forever()
        ended.append(name)

    async with trio.open_nursery() as nursery:
        for name, address in (("a1", "10.0.0.1"), ("a2", "10.0.0.1"), ("a3", "10.0.0.1")):
            nursery.start_soon(handshake, name, address)
            await wait_all_tasks_blocked()
        nursery.start_soon(handshake, "b1", "10.0.0.2")
        await wait_all_tasks_blocked()
        nursery.start_soon(handshake, "c1", "10.0.0.3")
        await wait_all_tasks_blocked()
        assert ended == ["a1"]
        assert admission.statistics().opening == 4
        nursery.start_soon(handshake, "d1", "10.0.0.4")
        await wait_all_tasks_blocked()
        assert ended == ["a1", "a2"]
        # One each: nobody is greedier than who comes now.
        with pytest.raises(TooManyConnections, match="handshakes"):
            opened(admission, "10.0.0.5")
        nursery.cancel_scope.cancel()


async def test_an_address_that_proved_itself_gets_a_handshake_from_any_that_did_not() -> None:
    admission = Admission(AdmissionLimits(opening=2))
    with admission.standing("10.0.0.9") as place:
        place.keep()
    ended: list[str] = []

    async def handshake(address: str) -> None:
        with admission.opening(address):
            await trio.sleep_forever()
        ended.append(address)

    async with trio.open_nursery() as nursery:
        for address in ("10.0.0.1", "10.0.0.2", "10.0.0.9"):
            nursery.start_soon(handshake, address)
            await wait_all_tasks_blocked()
        assert ended == ["10.0.0.1"]
        nursery.cancel_scope.cancel()


async def test_places_are_kept_for_those_who_prove_a_known_custody(
    autojump_clock: MockClock,
) -> None:
    admission = Admission(AdmissionLimits(connections=8))
    with entered(admission, *(f"10.0.0.{n}" for n in range(6))):
        for proves in (True, False):
            began = trio.current_time()
            with admission.standing("192.0.2.1") as place:
                assert place.provisional
                if proves:
                    place.keep()
                await trio.sleep(60)
            assert trio.current_time() - began == (60 if proves else PROVE_S)
        # Who proved itself frees a stranger's place, whatever place it came in by.
        with admission.standing("192.0.2.1") as known, admission.standing("192.0.2.2") as other:
            known.keep()
            with pytest.raises(TooManyConnections, match="all places"):
                entered(admission, "192.0.2.3")
            assert other.provisional
            assert admission.statistics().known == 1
    assert admission.statistics().known == 0


async def test_an_address_pays_for_its_noise_on_whatever_connection(
    autojump_clock: MockClock,
) -> None:
    admission = Admission(AdmissionLimits(noise=4, noise_per_second=1))
    for _ in range(2):
        with opened(admission, "192.0.2.1"), admission.standing("192.0.2.1") as place:
            place.noise()
            place.noise()
    with admission.standing("192.0.2.1") as place, pytest.raises(FloodingPeer):
        place.noise()
    with pytest.raises(TooManyConnections, match="noise"):
        opened(admission, "192.0.2.1")
    opened(admission, "192.0.2.2").close()
    await trio.sleep(2)
    opened(admission, "192.0.2.1").close()


async def test_an_address_pays_for_its_bytes_on_whatever_connection(
    autojump_clock: MockClock,
) -> None:
    admission = Admission(AdmissionLimits(bytes_at_once=1000, bytes_per_second=100))
    with admission.standing("192.0.2.1") as first, admission.standing("192.0.2.1") as second:
        first.read(600)
        with pytest.raises(FloodingPeer):
            second.read(600)
        await trio.sleep(10)
        second.read(600)


async def hold(admission: Admission, address: str, ended: list[str]) -> None:
    with admission.standing(address):
        await trio.sleep_forever()
    ended.append(address)


async def test_a_few_addresses_that_hold_every_place_keep_nobody_out() -> None:
    """Neither a new trader nor one that has a known custody to prove (`spec.md` 70)."""
    admission = Admission(AdmissionLimits(connections=32, per_address=16))
    ended: list[str] = []
    async with trio.open_nursery() as nursery:
        for address in ("10.0.0.1", "10.0.0.2", "10.0.0.3"):
            for _ in range(14):
                nursery.start_soon(partial(tolerated, admission, address, ended))
                await wait_all_tasks_blocked()
        assert admission.statistics().standing == 32
        for n in range(4):
            with admission.standing(f"192.0.2.{n}") as place:
                await wait_all_tasks_blocked()
                assert not place.scope.cancel_called
                place.keep()
        assert set(ended) <= {"10.0.0.1", "10.0.0.2", "10.0.0.3"}
        assert ended
        nursery.cancel_scope.cancel()


async def tolerated(admission: Admission, address: str, ended: list[str]) -> None:
    with suppress(TooManyConnections):
        await hold(admission, address, ended)


def of_one_network(count: int) -> list[str]:
    """Addresses in as many /64 of one /48."""
    return [f"2001:db8:1:{number:x}::1" for number in range(count)]


async def test_a_48_of_ipv6_has_the_share_of_four_addresses(autojump_clock: MockClock) -> None:
    limits = AdmissionLimits(per_address=2, opening_per_address=2, noise=2, checks=2, burst=1000)
    admission = Admission(limits)
    with entered(admission, *of_one_network(8)):
        with pytest.raises(TooManyConnections, match="one address"):
            entered(admission, "2001:db8:1:ffff::1")
        entered(admission, "2001:db8:2::1").close()
    with opened(admission, *of_one_network(8)):
        with pytest.raises(TooManyConnections, match="handshakes"):
            opened(admission, "2001:db8:1:ffff::1")
        opened(admission, "2001:db8:2::1").close()
    for spend in ("noise", "check"):
        refused = 0
        for address in of_one_network(16):
            with admission.standing(address) as place:
                try:
                    getattr(place, spend)()
                except FloodingPeer:
                    refused += 1
        assert refused == 8
    with admission.standing("2001:db8:1:ffff::1") as place, pytest.raises(FloodingPeer):
        place.read(4 * limits.bytes_at_once + 1)
    assert admission.statistics().standing == 0


@pytest.mark.parametrize("kind", ["places", "handshakes"])
async def test_a_48_of_ipv6_that_holds_every_place_keeps_nobody_out(kind: str) -> None:
    """From so many addresses that none of them holds two."""
    admission = Admission(AdmissionLimits(connections=8, opening=8, per_address=2))
    ended: list[str] = []

    async def held(address: str) -> None:
        with suppress(TooManyConnections):
            if kind == "places":
                await hold(admission, address, ended)
            with admission.opening(address):
                await trio.sleep_forever()
            ended.append(address)

    async with trio.open_nursery() as nursery:
        for address in of_one_network(16):
            nursery.start_soon(held, address)
            await wait_all_tasks_blocked()
        for n in range(3):
            nursery.start_soon(held, f"192.0.2.{n}")
            await wait_all_tasks_blocked()
        assert len(ended) >= 1
        assert all(address.startswith("2001:db8:1:") for address in ended)
        counts = admission.statistics()
        assert (counts.standing if kind == "places" else counts.opening) == 8
        nursery.cancel_scope.cancel()
