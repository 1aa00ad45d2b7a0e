"""Batch verification: verify several frames together before sessions append them.

A batch is several times faster for each frame than single calls. `psymm.session.runtime.rounds`
collects the frames that arrive together and has them verified here. Each frame remembers the key
that verified it, so the transcript does not verify it again. Only the transcript decides whether a
frame is accepted. So the result cannot depend on whether or how a frame was verified here.

One verifier serves all sessions of a process. A bad signature makes its whole batch slower. So
after one bad signature under a key, frames of this key are left to the transcript: one party cannot
slow down the others. The key counts, not the custody that the frame names, because its sender
chooses that.
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
"""Up to this size a batch takes less time than handing it to a thread and back."""
# Only these slow a batch. Malformed frames are found before it.
_SPOILING: Final = {"bad-signature", "bad-r-y"}

Verdict = bytes | Exception
Claim = tuple[bytes, bytes, Frame]
"""Signing domain (32 bytes), public key (64), and the frame that the key supposedly signed."""


@dataclass(frozen=True, slots=True)
class VerifierStatistics:
    """Statistics since the verifier was created.

    Attributes:
        frames: how many got a verdict.
        refused: how many of these got a FrameError.
        batches: how many there were.
        sizes: how many batches had at most this many frames (1, 2, 4, 8 …).
        spoilers: keys whose frames are left to the transcript.
        waiting: frames that are being verified now.
        left: frames left to the transcript, because they were alone or because of their key. They
            are not counted in `frames`.
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

    Args:
        max_batch: the most frames in a batch.
        threads: how many threads a batch may use; 0 means one for each core.
        short: up to this size a batch runs in place, not in a thread.
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
        """Verify frames that sessions are about to append, in batches.

        Returns no verdicts: a valid frame remembers its verification, and any other is judged when
        it is appended. A single frame is left to that, too, and so are invalid arguments.
        Cancelled: returns after the current batch.
        """
        worth = [claim for claim in claims if claim[1] not in self._spoilers]
        # Alone, a frame is verified as fast where it is appended.
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
            # Shielded: many sessions wait for this batch, not only this task.
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
                # A peer can make any number of keys. Forgetting the oldest costs one more slow
                # batch.
                del self._spoilers[next(iter(self._spoilers))]


def _verdicts(batch: Sequence[Claim], threads: int) -> Sequence[Verdict]:
    try:
        return verify_frames(batch, threads=threads)
    except (ValueError, TypeError) as bad:
        # The core refuses invalid arguments before it looks at any frame. Verify one by one, so
        # that only the invalid one fails.
        if len(batch) == 1:
            return [bad]
        return [verdict for one in batch for verdict in _verdicts([one], 1)]
