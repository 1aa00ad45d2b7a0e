"""Verifying frames before sessions append them: together, where several have come.

A batch verifies a frame several times faster than one call each. `psymm.session.runtime.rounds`
gathers what came at one moment and has it verified here. Each frame remembers what verified it, so
the transcript does not do it again. Only the transcript decides whether a frame is taken, so that
cannot depend on whether, with which others or how the frame was verified here.

One verifier serves all sessions of a process. A signature that fails makes its whole batch
slower, so a key under which one came is left to the transcript from then on: what one party sends
cannot slow the others. The key counts, not the custody that the frame names, since that is its
sender's to write.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import trio

from psymm._core import Frame, FrameError, verify_frames

MAX_BATCH: Final = 1024
MAX_SPOILERS: Final = 65_536
SHORT_BATCH: Final = 48
"""A batch up to this takes less time than a thread to be given it and to give it back."""
# Faults of form are seen before the batch and cost it nothing.
_SPOILING: Final = {"bad-signature", "bad-r-y"}

Verdict = bytes | Exception
Claim = tuple[bytes, bytes, Frame]
"""Signing domain (32 bytes), public key (64), and the frame that it is said to have signed."""


@dataclass(frozen=True, slots=True)
class VerifierStatistics:
    """What a verifier has done since it was made.

    frames: how many got a verdict; refused: of these, how many a FrameError. batches: how many
    there were; sizes: how many of them had at most so many frames (1, 2, 4, 8 …). spoilers: keys
    whose frames are left to the transcript. waiting: frames that are being verified now. left:
    frames left to whoever appends them, as the only ones there or for their key's sake; not among
    `frames`.
    """

    frames: int
    refused: int
    batches: int
    sizes: dict[int, int]
    spoilers: int
    waiting: int
    left: int


class FrameVerifier:
    """Verifies frames of many custodies. It has no task of its own.

    max_batch: the most frames in a batch. threads: how many a batch may use, 0 for one on each
    core. short: the most frames of a batch that runs in place, not in a thread.
    """

    def __init__(
        self, *, max_batch: int = MAX_BATCH, threads: int = 1, short: int = SHORT_BATCH
    ) -> None:
        if max_batch < 1 or threads < 0:
            raise ValueError("a batch must have room for one frame at least")
        self._max_batch = max_batch
        self._threads = threads
        self._short = short
        self._thread = trio.CapacityLimiter(1)
        self._spoilers: dict[bytes, None] = {}
        self._frames = self._refused = self._left = self._waiting = 0
        self._sizes: dict[int, int] = {}

    async def prefetch(self, claims: Sequence[Claim]) -> None:
        """Verify frames that sessions are about to append, all in one batch.

        Tells no verdict: a frame that is right remembers it, any other is judged when it is
        appended. A frame that is the only one there is left to that, too. So are arguments that
        are none. Cancelled: returns once the batch under way is through.
        """
        worth = [claim for claim in claims if claim[1] not in self._spoilers]
        if len(worth) < 2:
            self._left += len(claims)
            return
        self._left += len(claims) - len(worth)
        for at in range(0, len(worth), self._max_batch):
            await self._verify(worth[at : at + self._max_batch])

    def statistics(self) -> VerifierStatistics:
        return VerifierStatistics(
            frames=self._frames,
            refused=self._refused,
            batches=sum(self._sizes.values()),
            sizes=dict(sorted(self._sizes.items())),
            spoilers=len(self._spoilers),
            waiting=self._waiting,
            left=self._left,
        )

    async def _verify(self, batch: Sequence[Claim]) -> None:
        bound = 1 << (len(batch) - 1).bit_length()
        self._sizes[bound] = self._sizes.get(bound, 0) + 1
        if len(batch) <= self._short:
            verdicts = _verdicts(batch, 1)
        else:
            self._waiting += len(batch)
            # Many sessions hang on it, not only this task.
            with trio.CancelScope(shield=True):
                verdicts = await trio.to_thread.run_sync(
                    _verdicts, batch, self._threads, limiter=self._thread
                )
            self._waiting -= len(batch)
        self._frames += len(batch)
        for (_, key, _frame), verdict in zip(batch, verdicts, strict=True):
            if isinstance(verdict, FrameError):
                self._refuse(key, verdict)

    def _refuse(self, key: bytes, verdict: FrameError) -> None:
        self._refused += 1
        if verdict.code in _SPOILING:
            self._spoilers[key] = None
            if len(self._spoilers) > MAX_SPOILERS:
                del self._spoilers[next(iter(self._spoilers))]


def _verdicts(batch: Sequence[Claim], threads: int) -> Sequence[Verdict]:
    try:
        return verify_frames(batch, threads=threads)
    except (ValueError, TypeError) as bad:
        # Some caller's arguments, which the core refuses before it looks at any frame.
        if len(batch) == 1:
            return [bad]
        return [verdict for one in batch for verdict in _verdicts([one], 1)]
