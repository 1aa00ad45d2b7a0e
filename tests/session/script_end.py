"""The end under test: one real runner with protocol, journal, rulebook and a socket in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import trio
from script import Script
from script_words import Closed, Item, Mismatch, resume_in, terms_of
from session_scene import Desk, LedgerChain, Listener, SceneClock, party

from psymm._core import Frame, SecretKey
from psymm.custody.notes import Note
from psymm.errors import Disconnected, PSymmError
from psymm.nursery import open_block_nursery
from psymm.session.runtime.handshake import fresh_nonce
from psymm.session.runtime.party import LocalParty
from psymm.session.runtime.runner import SessionRunner
from psymm.session.runtime.solver import SolverServer
from psymm.session.runtime.trader import Backoff, TraderSession
from psymm.transcript.agreement import SOLVER, TRADER
from psymm.transcript.record import Record
from psymm.wallet import KeyWallet

TRADERS_COLLATERAL = 2_000_000_000
SOLVERS_COLLATERAL = 5_000_000_000


class Pipe:
    """The end's socket; the peer's side is `feed`, `drop` and what is in `out`."""

    def __init__(self, out: deque[Item]) -> None:
        self._out = out
        self.challenge: bytes | None = None
        """The end's for this connection; it goes out before anything else, and no line tells it."""
        self._feed, self._read = trio.open_memory_channel[str | bytes](1000)
        self._closed = False

    async def send(self, message: str | bytes) -> None:
        await trio.lowlevel.checkpoint()
        if self._closed:
            raise Disconnected
        if isinstance(message, str):
            said = resume_in(message)
            if said is not None and said.challenge is not None:
                self.challenge = said.challenge
            else:
                self._out.append(message)
            return
        offset = 0
        while offset < len(message):
            frame = Frame.parse(message, offset)
            offset += len(frame.raw)
            self._out.append(frame)

    async def receive(self) -> str | bytes:
        try:
            return await self._read.receive()
        except (trio.EndOfChannel, trio.ClosedResourceError):
            raise Disconnected from None

    async def aclose(self, code: int = 1000, reason: str = "") -> None:
        await trio.lowlevel.checkpoint()
        if not self._closed:
            self._closed = True
            self._out.append(Closed(reason))
            self._feed.close()

    @property
    def unread_bytes(self) -> int:
        return 0

    def allow(self, small_frames: int) -> None:
        """What is cut off below the messages is tested with a real stream elsewhere."""

    def feed(self, message: str | bytes) -> None:
        if not self._closed:
            self._feed.send_nowait(message)

    def drop(self) -> None:
        self._closed = True
        self._feed.close()

    @property
    def open(self) -> bool:
        return not self._closed


class CountedClock(SceneClock):
    """Counts how often the end asks for the time: what it does for nothing shows there."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def now_ns(self) -> int:
        self.asked += 1
        return super().now_ns()


class ScriptedEnd:
    """One end under test and its peer. lane: the end's."""

    def __init__(
        self,
        nursery: trio.Nursery,
        script: Script,
        lane: int,
        path: Path,
        begun: Callable[[], None],
    ) -> None:
        self.script = script
        self.begun = begun
        self.lane = lane
        self.peer = 1 - lane
        self.path = path
        self.terms = terms_of(script)
        self.clock = CountedClock()
        self.true_clock = SceneClock()
        self.chain = LedgerChain()
        self.wallets = (KeyWallet.generate(), KeyWallet.generate())
        self.stranger = KeyWallet.generate()
        self.key = SecretKey.generate()
        self.old_key = self.key
        self.other_key = SecretKey.generate()
        self.out: deque[Item] = deque()
        self.pipe = Pipe(self.out)
        self.pipe.drop()
        self.record: Record | None = None
        self.notes: tuple[Note, ...] = ()
        self.heard = Listener()
        self.desk = Desk(SOLVERS_COLLATERAL)
        self.ended: PSymmError | None = None
        self.returned = False
        self.party: LocalParty | None = None
        self._nonce = fresh_nonce()
        self._nursery = nursery
        self._client: TraderSession | None = None
        self._server: SolverServer | None = None
        self._life = trio.CancelScope()
        self._gone = trio.Event()
        self._dialled: deque[Pipe] = deque()
        self._may_dial = trio.Event()
        self.challenge = bytes(32)
        self.old_challenge = bytes(32)
        self._once: dict[int, bytes] = {}
        self._end_texts: list[str] = []
        self._taken = 0
        self.bent: dict[str, str] = {}

    async def start(self) -> None:
        self._life, self._gone = trio.CancelScope(), trio.Event()
        self.returned = False
        await self._nursery.start(self._live)

    async def restart(self) -> None:
        """The end's process dies where it stands and comes again with its journal."""
        self.pipe.drop()
        self._life.cancel()
        await self._gone.wait()
        self._discard()
        await self.start()

    async def _live(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        try:
            with self._life:
                async with (
                    party(
                        self.wallets[self.lane], self.chain, self.clock, self.path / "end.db"
                    ) as ours,
                    open_block_nursery() as nursery,
                ):
                    self.party = ours
                    if self.lane == SOLVER:
                        self._server = SolverServer(ours, self.terms, b"\x07" * 32, self.desk)
                        await nursery.start(self._server.run)
                    else:
                        held = await ours.journal.custodies()
                        self._client = TraderSession(
                            ours,
                            self._dial,
                            self.heard,
                            expected=self.wallets[SOLVER].public_key,
                            collateral=TRADERS_COLLATERAL,
                            backoff=Backoff(0.0, 0.0),
                            resume=held[0] if held else None,
                        )
                        nursery.start_soon(self._run_client, self._client)
                    self._process = nursery
                    task_status.started()
                    await trio.sleep_forever()
        finally:
            self._gone.set()

    async def _run_client(self, client: TraderSession) -> None:
        try:
            await client.run()
        except PSymmError as ended:
            self.ended = ended
        else:
            self.returned = True

    @asynccontextmanager
    async def _dial(self) -> AsyncGenerator[Pipe, None]:
        await self._may_dial.wait()
        self._may_dial = trio.Event()
        pipe = Pipe(self.out)
        self._dialled.append(pipe)
        try:
            yield pipe
        finally:
            with trio.CancelScope(shield=True):
                await pipe.aclose()

    @property
    def end(self) -> SessionRunner:
        held = self.desk.ends[-1] if self.lane == SOLVER and self.desk.ends else None
        if self._client is not None and self._client.runner is not None:
            held = self._client.runner
        if held is None:
            raise Mismatch("the end has no session yet")
        return held

    @property
    def listener(self) -> Listener:
        return self.heard if self.lane == TRADER else self.desk.listeners[-1]

    def _discard(self) -> None:
        self.out.clear()
