"""Plays a script with both real ends: what they send is held on the wire and released as it says.

A race ends the same for both: equal accounts, equal heads, journals that verify. Each race is
also played with the connection cut at every point where something is in flight (`cuts`): what was
on the wire is lost, both sides resume, and the rest of the script goes on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import trio
from rogue import sign_unchecked
from script import LANES, BadScript, Line, Script, ScriptFailed, duration_ns
from script_words import Mismatch, compare_account, outcome, payload_of, split_fields, terms_of
from session_scene import LedgerChain, Scene, SceneClock, party, verified
from trio.testing import wait_all_tasks_blocked

from psymm.errors import Disconnected, PSymmError
from psymm.messages import decode
from psymm.nursery import open_block_nursery
from psymm.session.runtime.ledger import RulebookLedger
from psymm.session.runtime.runner import SessionRunner
from psymm.session.runtime.trader import Backoff
from psymm.session.runtime.transport import Socket
from psymm.wallet import KeyWallet


class Way:
    """One direction of a connection. What is held keeps its order, texts included."""

    def __init__(self) -> None:
        self.give, self.take = trio.open_memory_channel[str | bytes](1000)
        self.held: deque[str | bytes] = deque()
        self.holding = False

    def put(self, message: str | bytes) -> None:
        if self.holding:
            self.held.append(message)
        else:
            self.give.send_nowait(message)

    def release(self) -> None:
        """Everything up to and with the next message of frames arrives."""
        while self.held:
            message = self.held.popleft()
            self.give.send_nowait(message)
            if isinstance(message, bytes):
                return

    @property
    def in_flight(self) -> int:
        return sum(isinstance(each, bytes) for each in self.held)


class Wire:
    """One end of a connection in memory."""

    def __init__(self, out: Way, back: Way) -> None:
        self._out = out
        self._back = back

    async def send(self, message: str | bytes) -> None:
        await trio.lowlevel.checkpoint()
        try:
            self._out.put(message)
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            raise Disconnected from None

    async def receive(self) -> str | bytes:
        try:
            return await self._back.take.receive()
        except (trio.EndOfChannel, trio.ClosedResourceError):
            raise Disconnected from None

    @property
    def unread_bytes(self) -> int:
        return 0

    def allow(self, small_frames: int) -> None:
        """What is cut off below the messages is tested with a real stream elsewhere."""

    async def aclose(self, code: int = 1000, reason: str = "") -> None:
        await trio.lowlevel.checkpoint()
        self._out.give.close()
        self._back.take.close()


class Race(Scene):
    """Both ends, and the wire between them in the script's hands. cut: at which cut point the
    connection is cut, counted from 0; None to leave it whole."""

    ways: tuple[Way, Way]

    def begin(self, script: Script, cut: int | None) -> None:
        self.script = script
        self.cut = cut
        self.points: list[str] = []
        self.sent: dict[str, str] = {}
        self.client._backoff = Backoff(0.0, 0.0)

    @asynccontextmanager
    async def dial(self) -> AsyncGenerator[Socket, None]:
        self.ways = (Way(), Way())
        near, far = Wire(*self.ways), Wire(*self.ways[::-1])
        async with open_block_nursery() as nursery:
            nursery.start_soon(self.server.connection, far)
            try:
                yield near
            finally:
                await near.aclose()
                nursery.cancel_scope.cancel()

    async def play(self, begun: Callable[[], None]) -> None:
        """Raises ScriptFailed, BadScript."""
        number = 0
        try:
            await self.open()
            await trio.sleep(3)
            begun()
            self._hold()
            for line in self.script.lines:
                number = line.number
                if line.counts(self._facts()):
                    await self._directive(line)
            number = len(self.script.source) + 1
            await self._sound()
        except Mismatch as why:
            raise ScriptFailed(self.script, number, f"{why}{self._where()}") from None
        except BadScript as bad:
            raise BadScript(f"{self.script.name}:{number}: {bad}") from bad

    def _where(self) -> str:
        return "" if self.cut is None else f" (cut at {self.points[self.cut :][:1]})"

    def _facts(self) -> frozenset[str]:
        if self.cut is None or self.cut >= len(self.points):
            return frozenset()
        return frozenset({"cut", f"cut:{self.points[self.cut]}"})

    def _hold(self) -> None:
        for way in self.ways:
            way.holding = True

    def end_of(self, lane: str) -> SessionRunner:
        return self.near if lane == "trader" else self.far

    async def _directive(self, line: Line) -> None:
        words = line.arguments
        match line.word:
            case "W":
                await self._wish(words)
            case "release":
                await self._release(words)
            case "settle":
                await self._settle()
            case "T":
                await trio.sleep(duration_ns(words[0]) / 1e9)
                await wait_all_tasks_blocked()
            case "S":
                await self._state(words)
            case _:
                raise BadScript(f"unknown directive {line.word} where both ends are real")

    async def _point(self, name: str) -> None:
        """Something is in flight: here the connection may be cut."""
        if not any(way.in_flight for way in self.ways):
            return
        self.points.append(name)
        if self.cut == len(self.points) - 1:
            for way in self.ways:
                way.held.clear()
                way.give.close()
                way.take.close()
            await wait_all_tasks_blocked()
            await trio.sleep(0.1)
            await wait_all_tasks_blocked()
            self._hold()

    async def _wish(self, words: Sequence[str]) -> None:
        words, wanted = outcome(words)
        lane, act, kind, *rest = words
        runner = self.end_of(lane)
        fields, own = split_fields(rest)
        name = own.pop("as", kind)
        if own:
            raise BadScript(f"a wish has no {sorted(own)}")
        for field, value in fields.items():
            if value == "$position":
                (position,) = self.account(self.near).positions.values()
                fields[field] = "0x" + position.position_id.hex()
        payload = payload_of(kind, fields, {"now": self.clock.now_ns()})
        try:
            if act == "forge":
                sign_unchecked(runner, payload)
            elif act == "send":
                await runner.send(decode(payload))
            else:
                raise BadScript(f"nobody can wish to {act}")
        except PSymmError as refused:
            if wanted is None or wanted not in str(refused):
                raise Mismatch(f"the {lane} was refused: {refused}") from None
        else:
            if wanted is not None:
                raise Mismatch(f"the {lane} was not refused with {wanted}")
        await wait_all_tasks_blocked()
        await self._point(name)

    async def _release(self, words: Sequence[str]) -> None:
        if words[0] == "all":
            for _ in range(20):
                for way in self.ways:
                    while way.held:
                        way.release()
                await wait_all_tasks_blocked()
            return
        way = self.ways[LANES.index(words[0])]
        if self.cut is None and not way.in_flight:
            raise Mismatch(f"nothing of the {words[0]} is in flight")
        way.release()
        await wait_all_tasks_blocked()
        await self._point(f"{words[0]}-released")

    async def _state(self, words: Sequence[str]) -> None:
        what, *rest = words
        await wait_all_tasks_blocked()
        match what:
            case "account":
                for lane in LANES:
                    self._compare(lane, rest)
            case "trader" | "solver":
                self._compare(what, rest)
            case "flight":
                came = [str(way.in_flight) for way in self.ways]
                if came != rest:
                    raise Mismatch(f"in flight are {came}, not {rest}")
            case _:
                raise BadScript(f"{what} is no part of a race's state")

    def _compare(self, lane: str, words: Sequence[str]) -> None:
        ledger = self.end_of(lane).protocol.state.rulebook
        assert isinstance(ledger, RulebookLedger)
        try:
            compare_account(ledger.account, words)
        except Mismatch as why:
            raise Mismatch(f"the {lane}'s account: {why}") from None

    async def _settle(self) -> None:
        """Everything in flight arrives, and each side covers what it has."""
        for _ in range(3):
            await self._release(("all",))
            await trio.sleep(1.5)
            await wait_all_tasks_blocked()
        await self._release(("all",))

    async def _sound(self) -> None:
        """Heads, accounts and journals are equal once everything has arrived."""
        await self._settle()
        near, far = self.near.protocol.record, self.far.protocol.record
        for lane in (0, 1):
            if near.head(lane) != far.head(lane):
                raise Mismatch(f"the two have different heads of lane {LANES[lane]}")
        if self.account(self.near).hash != self.account(self.far).hash:
            raise Mismatch("the two have different accounts")
        custody = self.near.agreement.custody
        for one in (self.trader, self.solver):
            if await verified(one.journal, custody) != len(near):
                raise Mismatch("a journal is not what its session has")


async def play_race(
    script: Script, path: Path, *, cut: int | None, begun: Callable[[], None] = lambda: None
) -> list[str]:
    """Play a race; returns its cut points. Raises ScriptFailed, BadScript.

    begun: called once both ends trade.
    """
    clock, chain = SceneClock(), LedgerChain()
    async with (
        party(KeyWallet.generate(), chain, clock, path / "trader.db") as trader,
        party(KeyWallet.generate(), chain, clock, path / "solver.db") as solver,
        open_block_nursery() as nursery,
    ):
        race = Race(nursery, chain, clock, trader, solver, terms_of(script))
        race.begin(script, cut)
        await race.play(begun)
        nursery.cancel_scope.cancel()
    return race.points


__all__ = ["Race", "play_race"]
