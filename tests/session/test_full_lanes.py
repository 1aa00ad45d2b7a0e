"""A lane that has used all that it may send before a checkpoint (`spec.md` 10, story 17)."""

from __future__ import annotations

from pathlib import Path

import trio
from rogue import sign_unchecked
from session_scene import scene
from trio.testing import MockClock

from psymm.messages import BusinessMessageReject, BusinessRejectReason
from psymm.terms import CLOSING_BYTES, Limits

LIMIT = 20_000


async def test_what_a_peer_sends_beyond_its_limits_is_neither_kept_nor_covered(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with scene(tmp_path, limits=Limits(bytes=LIMIT, frames_per_second=10_000)) as stage:
        await stage.open()
        # Nobody agrees to a checkpoint, which would begin the limits anew.
        for runner in (stage.near, stage.far):
            rulebook = runner.protocol.state.rulebook
            rulebook.offer_due = rulebook.answer_due = lambda lane: None  # type: ignore
        rubbish = BusinessMessageReject(
            ref_msg_type="R", business_reject_reason=BusinessRejectReason.OTHER, text="x" * 1000
        )
        sent = 0
        while sent < LIMIT + CLOSING_BYTES + 10_000:
            sent += len(sign_unchecked(stage.near, rubbish).frame.raw)
            await trio.sleep(0.02)
        await trio.sleep(5)
        far = stage.far.protocol.record
        kept = sum(len(entry.frame.raw) for entry in far if entry.frame.lane == 0)
        assert kept <= LIMIT + CLOSING_BYTES
        assert kept > LIMIT + CLOSING_BYTES - 3_000
        assert far.head(1).peer_seq <= far.head(0).seq
        ours = sum(len(entry.frame.raw) for entry in far if entry.frame.lane == 1)
        assert ours <= LIMIT + CLOSING_BYTES, "its Rejects do not fill our own lane"
