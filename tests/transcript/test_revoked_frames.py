"""Frames that leave the record because their key was revoked: whole or not at all, and kept."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from custody_scene import Signers

from psymm._core import SecretKey
from psymm.errors import JournalConflict
from psymm.journal.reader import open_journal_reader
from psymm.journal.replayed import read_record, verify_journal
from psymm.journal.writer import Journal, open_journal
from psymm.messages import Heartbeat, QuoteRequest
from psymm.session.protocol import key_in_force
from psymm.transcript.agreement import SOLVER, TRADER
from psymm.transcript.delegation import JournalledRevocation
from psymm.transcript.record import RecordedFrame


@asynccontextmanager
async def robbed(path: Path) -> AsyncGenerator[tuple[Journal, Signers, list[RecordedFrame]], None]:
    """Two frames of the trader that nobody covers, frames of the solver before, between, after."""
    signers = Signers()
    entries = signers.talk(6)

    def both(lane: int, covers: int | None) -> RecordedFrame:
        message = (
            Heartbeat()
            if lane
            else QuoteRequest(quote_req_id=f"t{len(entries)}", symbol="BTC-USD", order_qty=10**16)
        )
        signers.now_ns += 1
        return signers.record.sign(signers.keys[lane], lane, message, signers.now_ns, covers=covers)

    covered = signers.record.head(TRADER).seq
    stolen = []
    for _ in range(2):
        stolen.append(both(TRADER, None))
        entries += [stolen[-1], both(SOLVER, covered)]
    async with open_journal(path) as journal:
        await journal.open_custody(signers.opening, SOLVER, signers.now_ns)
        await journal.append([(one.frame, one.digest) for one in entries])
        yield journal, signers, stolen


def pairs(entries: list[RecordedFrame]) -> list[tuple[object, bytes]]:
    return [(one.frame, one.digest) for one in entries]


async def test_what_is_revoked_is_off_the_record_and_still_there(tmp_path: Path) -> None:
    async with robbed(tmp_path / "j.db") as (journal, signers, stolen):
        custody = signers.opening.custody
        await journal.revoke_frames(custody, TRADER, pairs(stolen))  # type: ignore[arg-type]
    async with open_journal(tmp_path / "j.db") as journal:
        assert await journal.revoked_frames(custody) == [one.frame.raw for one in stolen]
        record = await read_record(journal, signers.opening)
        left = signers.record.without(TRADER, stolen[0].frame.seq)
        assert [one.digest for one in record] == [one.digest for one in left]
        assert await verify_journal(journal) == len(left)
        # Their numbers are free for the wallet's next key.
        other = left.sign(signers.keys[TRADER], TRADER, Heartbeat(), signers.now_ns)
        await journal.append([(other.frame, other.digest)])
    async with open_journal_reader(tmp_path / "j.db") as reader:
        assert len(await reader.revoked_frames(custody)) == 2
        assert len(await read_record(reader, signers.opening)) == len(left)


@pytest.mark.parametrize("which", [slice(0, 1), slice(1, None, -1)], ids=["not-last", "reversed"])
async def test_only_the_last_frames_of_a_lane_are_revoked(tmp_path: Path, which: slice) -> None:
    async with robbed(tmp_path / "j.db") as (journal, signers, stolen):
        with pytest.raises(JournalConflict):
            await journal.revoke_frames(
                signers.opening.custody,
                TRADER,
                pairs(stolen[which]),  # type: ignore[arg-type]
            )
        assert len(await read_record(journal, signers.opening)) == len(signers.record)
        assert await journal.revoked_frames(signers.opening.custody) == []


async def test_revocations_are_kept_whole_in_place_of_the_last(tmp_path: Path) -> None:
    async with robbed(tmp_path / "j.db") as (journal, signers, _):
        custody = signers.opening.custody
        first = [
            JournalledRevocation(TRADER, "0xA", 3, 5),
            JournalledRevocation(SOLVER, "0xB", 1, 1),
        ]
        await journal.write(journal.to_keep_revocations(custody, first))
        assert await journal.revocations(custody) == first
        await journal.write(journal.to_keep_revocations(custody, first[1:]))
    async with open_journal(tmp_path / "j.db") as journal:
        assert await journal.revocations(custody) == first[1:]


async def test_a_kept_key_is_never_replaced(tmp_path: Path) -> None:
    async with robbed(tmp_path / "j.db") as (journal, signers, _):
        custody = signers.opening.custody
        await journal.unlock("0xme", b"\x01" * 32)
        first = SecretKey.generate()
        await journal.keep_session_key(custody, 7, first)
        with pytest.raises(JournalConflict):
            await journal.keep_session_key(custody, 7, SecretKey.generate())
        ((place, kept),) = await journal.session_keys(custody)
        assert (place, kept.public_key) == (7, first.public_key)


async def test_the_frames_decide_which_kept_key_is_in_force() -> None:
    signers = Signers()
    signers.talk(6)
    spare, own = SecretKey.generate(), signers.keys[TRADER]
    for kept in ([(1, own), (9, spare)], [(1, spare), (9, own)]):
        found = key_in_force(signers.record, TRADER, kept)
        assert found is not None
        assert found.public_key == own.public_key
