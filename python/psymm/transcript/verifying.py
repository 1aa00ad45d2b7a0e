"""Verifying frames as they come: one alone when little comes, many in a batch when much does.

A batch verifies a frame several times faster than one call each, but only what has gathered can
go into it, and nothing should wait for company. So a frame that comes while nothing is being
verified goes at once; whatever comes while a batch runs in its thread waits together and is the
next batch. Under load the batches grow by themselves.

Sessions `prefetch` frames before they append them: a frame remembers what verified it, and the
transcript does not do it again. Whether a frame is taken is the transcript's alone to say, so it
cannot depend on whether, with whom or how its frame was verified here.

One verifier serves all sessions of a process. A signature that fails makes its whole batch
slower, so a key under which one came is verified alone from then on: what one party sends cannot
slow the others. The key counts, not the custody that the frame names, since that is its sender's
to write.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import trio

from psymm._core import Frame, FrameError, verify_frames

MAX_BATCH: Final = 1024
MAX_WAITING: Final = 8192
MAX_SPOILERS: Final = 65_536
SHORT_BATCH: Final = 48
"""A batch up to this takes less time than a thread to be given it and to give it back."""
# Faults of form are seen before the batch and cost it nothing.
_SPOILING: Final = {"bad-signature", "bad-r-y"}

Verdict = bytes | Exception


@dataclass(frozen=True, slots=True)
class VerifierStatistics:
    """What a verifier has done since it was made.

    frames: how many got a verdict; refused: of these, how many a FrameError; alone: of these, how
    many were verified by themselves, as the only ones there or for their key's sake. sizes: how
    many batches had at most so many frames (2, 4, 8 …). spoilers: keys that are verified alone.
    waiting: frames that wait for a batch now. left: frames that were shared but left to whoever
    appends them, as the only ones there or for their key's sake; not among `frames`.
    """

    frames: int
    refused: int
    alone: int
    batches: int
    sizes: dict[int, int]
    spoilers: int
    waiting: int
    left: int


@dataclass(eq=False, slots=True)
class _Waiting:
    domain: bytes
    public_key: bytes
    frame: Frame | bytes
    verdict: Verdict | None = None
    # It is this one's task that runs the next batch.
    leads: bool = False
    # Set once there is a verdict, or once it leads.
    woken: trio.Event = field(default_factory=trio.Event)


class FrameVerifier:
    """Verifies frames of many custodies for any number of tasks of one event loop.

    It has no task of its own: a batch runs in the task of the first frame in it.

    max_batch: the most frames in a batch. max_waiting: the most frames that wait or are in a
    batch; who comes then waits in line before its frame is looked at. threads: how many a batch
    may use, 0 for one on each core. short: the most frames of a batch that runs in place, not
    in a thread.
    """

    def __init__(
        self,
        *,
        max_batch: int = MAX_BATCH,
        max_waiting: int = MAX_WAITING,
        threads: int = 1,
        short: int = SHORT_BATCH,
    ) -> None:
        if max_batch < 1 or max_waiting < 1 or threads < 0:
            raise ValueError("a batch and the queue must have room for one frame at least")
        self._max_batch = max_batch
        self._threads = threads
        self._short = short
        self._left_alone = 0
        self._room = trio.Semaphore(max_waiting, max_value=max_waiting)
        self._queue: deque[_Waiting] = deque()
        # Somebody leads: runs a batch, or was woken to run the next.
        self._led = False
        self._thread = trio.CapacityLimiter(1)
        self._spoilers: dict[bytes, None] = {}
        self._frames = 0
        self._refused = 0
        self._alone = 0
        self._sizes: dict[int, int] = {}

    async def verify(self, domain: bytes, public_key: bytes, frame: Frame | bytes) -> bytes:
        """The digest of a frame that `public_key` (64 bytes) signed under `domain` (32 bytes).

        frame: parsed, or bytes that begin with one. Raises FrameError as `Frame.parse` and
        `Frame.verify` would; SignatureError `bad-public-key` and ValueError for arguments that
        are none. Cancelled: raises Cancelled and the frame's verdict is lost, nobody else's; or,
        where this task runs the batch, returns the verdict once the batch is through, some ten
        milliseconds for a thousand frames.
        """
        waiting = _Waiting(domain, public_key, frame)
        await self._take_room()
        try:
            if public_key in self._spoilers:
                await trio.lowlevel.checkpoint()
                return self._verify_alone(waiting)
            await self._wait_for_batch(waiting)
            if waiting.verdict is None:
                self._led = True
                await self._lead(waiting)
        finally:
            self._room.release()
        return _told(waiting.verdict)

    async def prefetch(self, domain: bytes, public_key: bytes, frames: Sequence[Frame]) -> None:
        """Verify frames that a session is about to append, with whatever else has come.

        Tells no verdict: a frame that is right remembers it, any other is judged when it is
        appended. A frame that is the only one there is left to that, too. Raises
        SignatureError `bad-public-key` and ValueError for arguments that are none.
        Cancelled: raises Cancelled, nothing changed.
        """
        if not frames or public_key in self._spoilers:
            self._left_alone += len(frames)
            await trio.lowlevel.checkpoint()
            return
        batch = [_Waiting(domain, public_key, frame) for frame in frames]
        await self._take_room()
        try:
            if len(batch) > 1:
                # Of one message: a batch by itself.
                await trio.lowlevel.checkpoint()
                for at in range(0, len(batch), self._max_batch):
                    part = batch[at : at + self._max_batch]
                    self._settle(part, await self._verdicts(part))
                return
            (waiting,) = batch
            await self._wait_for_batch(waiting)
            if waiting.verdict is None:
                if not self._led and len(self._queue) == 1:
                    self._queue.clear()
                    self._left_alone += 1
                    return
                self._led = True
                await self._lead(waiting)
        finally:
            self._room.release()
        if isinstance(waiting.verdict, Exception) and not isinstance(waiting.verdict, FrameError):
            raise waiting.verdict

    async def _take_room(self) -> None:
        try:
            self._room.acquire_nowait()
        except trio.WouldBlock:
            await self._room.acquire()

    async def _wait_for_batch(self, waiting: _Waiting) -> None:
        """Returns with a verdict, or where this task has to lead."""
        self._queue.append(waiting)
        try:
            # One round of the scheduler: what has come together is verified together.
            await trio.lowlevel.checkpoint()
            if self._led and not waiting.leads:
                await waiting.woken.wait()
        except trio.Cancelled:
            if waiting in self._queue:
                self._queue.remove(waiting)
            if waiting.leads:
                self._hand_over()
            raise

    def statistics(self) -> VerifierStatistics:
        return VerifierStatistics(
            frames=self._frames,
            refused=self._refused,
            alone=self._alone,
            batches=sum(self._sizes.values()),
            sizes=dict(sorted(self._sizes.items())),
            spoilers=len(self._spoilers),
            waiting=len(self._queue),
            left=self._left_alone,
        )

    async def _lead(self, first: _Waiting) -> None:
        """Verify what waits, from `first` on; then let the next one lead."""
        self._queue.remove(first)
        batch = [first]
        while self._queue and len(batch) < self._max_batch:
            batch.append(self._queue.popleft())
        verdicts: Sequence[Verdict] = [RuntimeError("the batch was not verified") for _ in batch]
        try:
            verdicts = await self._verdicts(batch)
        finally:
            self._settle(batch, verdicts)
            self._hand_over()

    async def _verdicts(self, batch: Sequence[_Waiting]) -> Sequence[Verdict]:
        if len(batch) == 1:
            self._alone += 1
        else:
            bound = 1 << (len(batch) - 1).bit_length()
            self._sizes[bound] = self._sizes.get(bound, 0) + 1
        if len(batch) <= self._short:
            return _verdicts(batch, 1)
        # The others' verdicts hang on it, not only this task's.
        with trio.CancelScope(shield=True):
            verdicts: Sequence[Verdict] = await trio.to_thread.run_sync(
                _verdicts, batch, self._threads, limiter=self._thread
            )
        return verdicts

    def _settle(self, batch: Sequence[_Waiting], verdicts: Sequence[Verdict]) -> None:
        for waiting, verdict in zip(batch, verdicts, strict=True):
            waiting.verdict = verdict
            waiting.woken.set()
            self._count(waiting, verdict, shared=len(batch) > 1)

    def _hand_over(self) -> None:
        self._led = bool(self._queue)
        if self._queue:
            self._queue[0].leads = True
            self._queue[0].woken.set()

    def _verify_alone(self, waiting: _Waiting) -> bytes:
        [verdict] = _verdicts([waiting], 1)
        self._alone += 1
        self._count(waiting, verdict, shared=False)
        return _told(verdict)

    def _count(self, waiting: _Waiting, verdict: Verdict, *, shared: bool) -> None:
        self._frames += 1
        if not isinstance(verdict, FrameError):
            return
        self._refused += 1
        if shared and verdict.code in _SPOILING:
            self._spoilers[waiting.public_key] = None
            if len(self._spoilers) > MAX_SPOILERS:
                del self._spoilers[next(iter(self._spoilers))]


def _told(verdict: Verdict | None) -> bytes:
    if isinstance(verdict, bytes):
        return verdict
    raise verdict or RuntimeError("woken without a verdict")


def _verdicts(batch: Sequence[_Waiting], threads: int) -> Sequence[Verdict]:
    claims = [(one.domain, one.public_key, one.frame) for one in batch]
    try:
        return verify_frames(claims, threads=threads)
    except (ValueError, TypeError) as bad:
        # Some caller's arguments, which the core refuses before it looks at any frame.
        if len(batch) == 1:
            return [bad]
        return [verdict for one in batch for verdict in _verdicts([one], 1)]
