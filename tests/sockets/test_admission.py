"""Who may connect: bounds for all, for one address, and for how often it comes."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
import trio
from trio.testing import MockClock

from psymm.errors import TooManyConnections
from psymm.sockets.admission import Admission, AdmissionLimits


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
