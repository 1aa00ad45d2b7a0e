"""Somebody between the two changes, drops or repeats texts, which bind nobody: whatever it does,
no funded custody ends by it, and both sides trade once it lets them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from session_scene import Scene, Wire, scene
from trio.testing import MockClock

from psymm.errors import AttemptEnded
from psymm.session.protocol import SessionStatus
from psymm.session.runtime.transport import Socket

Bend = Callable[[str], list[str]]
Hand = Callable[[str | bytes, str], list[str | bytes]]
"""What comes of a message, and whom it goes to: 'trader' or 'solver'."""


def flipped(text: str, place: int) -> str:
    """The text with one character changed."""
    at = place % len(text)
    return text[:at] + ("0" if text[at] != "0" else "1") + text[at + 1 :]


class Between:
    """Bends the n-th text of each kind that comes by, in one direction, once."""

    def __init__(self, kind: str, towards: str, bend: Bend) -> None:
        self.kind, self.towards, self.bend, self.met = kind, towards, bend, 0

    def __call__(self, message: str | bytes, towards: str) -> list[str | bytes]:
        if (
            self.met
            or not isinstance(message, str)
            or towards != self.towards
            or f'"MsgType":"{self.kind}"' not in message
        ):
            return [message]
        self.met += 1
        return [*self.bend(message)]


class BentWire(Wire):
    def __init__(self, inner: Socket, between: Hand) -> None:
        super().__init__(inner)
        self.between = between
        self.bend = lambda message: between(message, "solver")
        self.more: list[str | bytes] = []

    async def receive(self) -> str | bytes:
        while not self.more:
            self.more = self.between(await super().receive(), "trader")
        return self.more.pop(0)


def put_between(stage: Scene, between: Hand) -> None:
    dial = stage.dial

    @asynccontextmanager
    async def bent() -> AsyncGenerator[Socket, None]:
        async with dial() as socket:
            yield BentWire(socket, between)

    stage.client._dial = bent


async def run_again(stage: Scene) -> None:
    """As a user does whose attempt ended: what is funded is taken up from the journal."""
    while True:
        try:
            await stage.client.run()
        except AttemptEnded:
            (held,) = await stage.trader.journal.custodies()
            dial = stage.client._dial
            stage.client = stage.new_client(resume=held)
            stage.client._dial = dial
            continue
        return


PLACES = (3, 20, 40, 60, 100, 150, 200, 300, -3, -10, -40)


@pytest.mark.parametrize("towards", ["trader", "solver"])
@pytest.mark.parametrize("place", PLACES)
async def test_one_changed_character_of_what_opens_a_note_ends_no_custody(
    tmp_path: Path, autojump_clock: MockClock, towards: str, place: int
) -> None:
    async with scene(tmp_path) as stage:
        between = Between("UOP", towards, lambda text: [flipped(text, place)])
        put_between(stage, between)
        await stage.nursery.start(stage.server.run)
        stage.nursery.start_soon(run_again, stage)
        with trio.fail_after(600):
            await stage.heard.state(SessionStatus.TRADING)
        assert between.met == 1
        await stage.desk.listeners[-1].state(SessionStatus.TRADING)


@pytest.mark.parametrize("towards", ["trader", "solver"])
@pytest.mark.parametrize("kind", ["UHI", "UTM", "URS"])
@pytest.mark.parametrize("place", [3, 30, 90, 200, -3, -40])
async def test_one_changed_character_of_a_handshake_that_is_repeated_or_a_resume_ends_no_custody(
    tmp_path: Path, autojump_clock: MockClock, kind: str, towards: str, place: int
) -> None:
    """After funding: the first connection is cut before the solver has the Logon, and another
    while both trade."""
    async with scene(tmp_path) as stage:
        between = Between(kind, towards, lambda text: [flipped(text, place)])
        between.met = 1
        cuts: list[bool] = []

        def bent(message: str | bytes, direction: str) -> list[str | bytes]:
            if isinstance(message, bytes) and not cuts:
                cuts.append(True)
                between.met = 0
                stage.nursery.start_soon(stage.wires[-1].inner.aclose)
                return []
            return between(message, direction)

        put_between(stage, bent)
        await stage.nursery.start(stage.server.run)
        stage.nursery.start_soon(run_again, stage)
        with trio.fail_after(900):
            await stage.heard.state(SessionStatus.TRADING)
            between.met = 0
            await stage.wires[-1].inner.aclose()
            await trio.sleep(60)
            while not stage.near.protocol.synced:  # noqa: ASYNC110
                await trio.sleep(1)
        assert stage.near.protocol.status is SessionStatus.TRADING
        assert stage.desk.ends[-1].protocol.status is SessionStatus.TRADING


INJECTED = (
    '{"MsgType":"j","RefMsgType":"session","BusinessRejectReason":"6","Text":"go away"}',
    '{"MsgType":"j","RefMsgType":"A","BusinessRejectReason":"2","Text":"unknown"}',
    '{"MsgType":"j","RefMsgType":"URS","BusinessRejectReason":"1","Text":"unknown"}',
    '{"MsgType":"UOP","Openings":[{"Commitment":"0x'
    + "00" * 31
    + '01","Blinding":"0x'
    + "00" * 31
    + '02","Token":"0x9fe46736679d2d9a65f0992f2272de9f3c7fa6e0","Amount":"1"}]}',
    '{"MsgType":"2","BeginSeqNo":"1","EndSeqNo":"0"}',
    '{"MsgType":"1","TestReqID":"x"}',
    '{"MsgType":"5"}',
    "{",
)


@pytest.mark.parametrize("towards", ["trader", "solver"])
async def test_texts_that_somebody_injects_end_no_session_that_trades(
    tmp_path: Path, autojump_clock: MockClock, towards: str
) -> None:
    async with scene(tmp_path) as stage:
        waiting: list[str] = []

        def injected(message: str | bytes, direction: str) -> list[str | bytes]:
            if direction != towards:
                return [message]
            said, waiting[:] = list(waiting), []
            return [*said, message]

        put_between(stage, injected)
        await stage.nursery.start(stage.server.run)
        stage.nursery.start_soon(run_again, stage)
        with trio.fail_after(3600):
            await stage.heard.state(SessionStatus.TRADING)
            for text in INJECTED:
                for _ in range(3):
                    waiting.append(text)
                    await trio.sleep(20)
                    assert not waiting
                while not stage.near.protocol.synced:  # noqa: ASYNC110
                    await trio.sleep(1)
                assert stage.near.protocol.status is SessionStatus.TRADING
                assert stage.desk.ends[-1].protocol.status is SessionStatus.TRADING
