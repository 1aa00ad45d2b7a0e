"""Verifying frames as they come: one alone when little comes, many in a batch when much does.

A batch verifies a frame several times faster than one call each, but only what has gathered can
go into it, and nothing should wait for company. So a frame that comes while nothing is being
verified goes at once; whatever comes while a batch runs in its thread waits together and is the
next batch. Under load the batches grow by themselves.

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
# Faults of form are seen before the batch and cost it nothing.
_SPOILING: Final = {"bad-signature", "bad-r-y"}

Verdict = bytes | Exception


@dataclass(frozen=True, slots=True)
class VerifierStatistics:
    """What a verifier has done since it was made.

    frames: how many got a verdict; refused: of these, how many a FrameError; alone: of these, how
    many were verified by themselves, as the only ones there or for their key's sake. sizes: how
    many batches had at most so many frames (2, 4, 8 …). spoilers: keys that are verified alone.
    waiting: frames that wait for a batch now.
    """

    frames: int
    refused: int
    alone: int
    batches: int
    sizes: dict[int, int]
    spoilers: int
    waiting: int


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
    may use, 0 for one on each core.
    """

    def __init__(
        self, *, max_batch: int = MAX_BATCH, max_waiting: int = MAX_WAITING, threads: int = 1
    ) -> None:
        if max_batch < 1 or max_waiting < 1 or threads < 0:
            raise ValueError("a batch and the queue must have room for one frame at least")
        self._max_batch = max_batch
        self._threads = threads
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
        async with self._room:
            if public_key in self._spoilers:
                return self._verify_alone(waiting)
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
            if waiting.verdict is None:
                self._led = True
                await self._lead(waiting)
        return _told(waiting.verdict)

    def statistics(self) -> VerifierStatistics:
        return VerifierStatistics(
            frames=self._frames,
            refused=self._refused,
            alone=self._alone,
            batches=sum(self._sizes.values()),
            sizes=dict(sorted(self._sizes.items())),
            spoilers=len(self._spoilers),
            waiting=len(self._queue),
        )

    async def _lead(self, first: _Waiting) -> None:
        """Verify what waits, from `first` on; then let the next one lead."""
        self._queue.remove(first)
        batch = [first]
        while self._queue and len(batch) < self._max_batch:
            batch.append(self._queue.popleft())
        verdicts: Sequence[Verdict] = [RuntimeError("the batch was not verified") for _ in batch]
        try:
            if len(batch) == 1:
                # Going to a thread and back takes longer than one frame.
                self._alone += 1
                verdicts = _verdicts(batch, 1)
            else:
                bound = 1 << (len(batch) - 1).bit_length()
                self._sizes[bound] = self._sizes.get(bound, 0) + 1
                # The others' verdicts hang on it, not only this task's.
                with trio.CancelScope(shield=True):
                    verdicts = await trio.to_thread.run_sync(
                        _verdicts, batch, self._threads, limiter=self._thread
                    )
        finally:
            for waiting, verdict in zip(batch, verdicts, strict=True):
                waiting.verdict = verdict
                waiting.woken.set()
                self._count(waiting, verdict, shared=len(batch) > 1)
            self._hand_over()

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
