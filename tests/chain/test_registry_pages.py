"""Reading a registry that anybody can fill, and that changes while it is read."""

from __future__ import annotations

from psymm.chain.registry import Registry, RegistryEntry, Role, asking_order
from psymm.sockets.dialling import IN_ALL


def test_whom_to_ask_first() -> None:
    parties = [
        RegistryEntry(f"0x{at:040x}", Role.RELAYER, "ws://a/", bytes(64), 0) for at in range(10_000)
    ]
    served = parties[7_777].account
    order = asking_order(parties, [served])
    assert order[0].account == served
    assert len(order) == len(parties)
    first = {party.account for party in order[:IN_ALL]}
    assert {party.account for party in parties[:20]} <= first, "the first listed"
    assert any(int(account, 16) > 1_000 for account in first - {served}), "and others at random"


class Paged(Registry):
    """A registry of ten thousand, of which somebody leaves whenever it is read."""

    def __init__(self, parties: list[RegistryEntry]) -> None:
        self._parties = parties
        self._states: dict[bytes, list[RegistryEntry]] = {}
        self.reads = 0
        self.chain = self  # type: ignore[assignment]  # it gives blocks, too
        self._block = 0

    @property
    def hash(self) -> bytes:
        return self._block.to_bytes(32, "big")

    async def block(self) -> Paged:
        self._block += 1
        self._states[self.hash] = list(self._parties)
        return self

    def _party(self, raw: tuple[object, ...]) -> RegistryEntry:
        party = raw[1]
        assert isinstance(party, RegistryEntry)
        return party

    async def read(self, name: str, *values: object, block: bytes | str = "latest") -> object:
        self.reads += 1
        # The attacker's transaction, between any two questions: the last takes the leaver's place.
        self._parties[self.reads % 50] = self._parties.pop()
        state = self._states[block] if isinstance(block, bytes) else self._parties
        if name == "count":
            return len(state)
        _, offset, limit = values
        assert isinstance(offset, int)
        assert isinstance(limit, int)
        return [(one.account, one) for one in state[offset : offset + limit]]


async def test_who_leaves_between_two_pages_hides_nobody() -> None:
    parties = [
        RegistryEntry(f"0x{at:040x}", Role.RELAYER, "ws://a/", bytes(64), 0) for at in range(950)
    ]
    registry = Paged(list(parties))
    found = [one.account async for one in registry.list(Role.RELAYER)]
    assert found == [party.account for party in parties]


async def test_a_registry_of_ten_thousand_is_not_read_to_its_end() -> None:
    parties = [
        RegistryEntry(f"0x{at:040x}", Role.RELAYER, "ws://a/", bytes(64), 0) for at in range(10_000)
    ]
    registry = Paged(list(parties))
    found = await registry.candidates(Role.RELAYER)
    assert registry.reads <= 6
    assert 100 <= len(found) <= 500
    assert {party.account for party in parties[:100]} <= {one.account for one in found}


async def test_a_registry_of_impossible_length_is_read_all_the_same() -> None:
    class Endless(Paged):
        async def read(self, name: str, *values: object, block: bytes | str = "latest") -> object:
            return 1 << 255 if name == "count" else await super().read(name, *values, block=block)

    parties = [
        RegistryEntry(f"0x{at:040x}", Role.RELAYER, "ws://a/", bytes(64), 0) for at in range(950)
    ]
    found = await Endless(parties).candidates(Role.RELAYER)
    assert len(found) == 100
