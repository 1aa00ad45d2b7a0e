"""A damaged journal: seen, named, and repaired only as far as it is certain."""

import os
import shutil
import sqlite3
from hashlib import sha256
from pathlib import Path

import pytest
import trio
from custody_scene import Signers
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from lost_frames import lose, swap

from psymm._core import SecretKey
from psymm.errors import (
    JournalCorrupt,
    JournalError,
    JournalForeign,
    JournalOlder,
    JournalRestored,
    Missing,
)
from psymm.journal.export import export
from psymm.journal.inspection import inspect
from psymm.journal.reader import open_journal_reader
from psymm.journal.repair import RepairedCustody, repair_journal
from psymm.journal.replayed import read_record, verify_journal
from psymm.journal.writer import Journal, open_journal
from psymm.messages import Heartbeat
from psymm.transcript.agreement import SOLVER, TRADER, JournalledOpening

SEEDS = (1, 2)
FRAMES = 30


async def filled(path: Path, frames: int = FRAMES) -> list[Signers]:
    """Two custodies with their session keys."""
    every = [Signers(seed) for seed in SEEDS]
    async with open_journal(path) as journal:
        await journal.unlock("0xme", b"\x01" * 32)
        for signers in every:
            custody = signers.opening.custody
            await journal.open_custody(signers.opening, TRADER, 1)
            await journal.keep_session_key(custody, 1, SecretKey.generate())
            entries = signers.talk(frames)
            await journal.append([(entry.frame, entry.digest) for entry in entries])
            journal.mark_delivered(custody, 3)
    return every


def changed(path: Path, *statements: str) -> None:
    base = sqlite3.connect(path)
    for statement in statements:
        base.execute(statement)
    base.commit()
    base.close()


async def refused(path: Path) -> JournalCorrupt:
    with pytest.raises(JournalCorrupt) as caught:
        async with open_journal(path):
            pass
    return caught.value


def by_custody(outcome: tuple[RepairedCustody, ...], signers: Signers) -> RepairedCustody:
    return next(one for one in outcome if one.custody == signers.opening.custody)


def quoted(custody: bytes) -> str:
    return f"x'{custody.hex()}'"


# --- seen and named -----------------------------------------------------------------------------


@pytest.mark.parametrize("left", [0, 1, 11, 12, 27])
async def test_secrets_that_are_cut_off_are_named(tmp_path: Path, left: int) -> None:
    signers, wallet = Signers(), ("0xme", b"\x01" * 32)
    custody = signers.opening.custody
    note = JournalledOpening(b"\x05" * 32, TRADER, "0x" + "Ab" * 20, 12345, b"\x77" * 32)
    async with open_journal(tmp_path / "j.db") as journal:
        await journal.unlock(*wallet)
        await journal.open_custody(signers.opening, TRADER, 1)
        await journal.keep_session_key(custody, 1, SecretKey.generate())
        await journal.keep_openings(custody, [note])
        await journal.keep_settlement(custody, b"\x09" * 32, "proposed", b"what a proof needs")
    tables = ("session_keys", "openings", "settlements")
    changed(
        tmp_path / "j.db",
        *(f"UPDATE {table} SET sealed = substr(sealed, 1, {left})" for table in tables),  # noqa: S608
    )
    async with open_journal(tmp_path / "j.db") as journal:
        await journal.unlock(*wallet)
        for read in (journal.session_keys, journal.openings, journal.settlements):
            with pytest.raises(JournalCorrupt):
                await read(custody)
    changed(tmp_path / "j.db", f"UPDATE journal SET seal_check = substr(seal_check, 1, {left})")  # noqa: S608
    async with open_journal(tmp_path / "j.db") as journal:
        with pytest.raises(JournalForeign):
            await journal.unlock(*wallet)


async def test_missing_frames_are_named_by_custody_lane_and_number(tmp_path: Path) -> None:
    first, second = await filled(tmp_path / "j.db")
    where = f"custody = {quoted(first.opening.custody)} AND lane = 1 AND seq IN (4, 5, 6, 9)"
    lose(tmp_path / "j.db", f"{where}")
    bad = await refused(tmp_path / "j.db")
    custody = first.opening.custody
    assert bad.missing == (
        Missing(custody, "frames", SOLVER, 4, 6),
        Missing(custody, "frames", SOLVER, 9, 9),
    )
    assert "frames of the solver 4 to 6" in str(bad)
    with pytest.raises(JournalCorrupt) as caught:
        async with open_journal_reader(tmp_path / "j.db"):
            pass
    assert caught.value.missing == bad.missing
    assert second.opening.custody.hex() not in str(bad)


async def test_frames_missing_at_the_end_are_known_from_the_heads(tmp_path: Path) -> None:
    first, _ = await filled(tmp_path / "j.db")
    custody = quoted(first.opening.custody)
    lose(tmp_path / "j.db", f"custody = {custody} AND arrival > 28")
    assert (await refused(tmp_path / "j.db")).missing == (
        Missing(first.opening.custody, "frames", TRADER, 15, 15),
        Missing(first.opening.custody, "frames", SOLVER, 15, 15),
    )


async def test_frames_swapped_between_custodies_are_named(tmp_path: Path) -> None:
    one, other = await filled(tmp_path / "j.db")
    swap(tmp_path / "j.db", 7, one.opening.custody, other.opening.custody)
    async with open_journal(tmp_path / "j.db") as journal:
        for signers in (one, other):
            with pytest.raises(JournalCorrupt) as caught:
                await journal.frames(signers.opening.custody)
            assert caught.value.missing[0].custody == signers.opening.custody
    assert {lack.custody for lack in inspect(tmp_path / "j.db").missing} == {
        one.opening.custody,
        other.opening.custody,
    }


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        ("UPDATE heads SET trader_seq = 99", "heads"),
        ("UPDATE heads SET health = 'complete' || ' '", "heads"),
        ("DELETE FROM heads", "heads"),
        ("UPDATE custodies SET salt = zeroblob(32)", "opening"),
        ("DELETE FROM custodies", "opening"),
        ("UPDATE custodies SET lane = 1", "opening"),
        ("DELETE FROM session_keys", "session-keys"),
    ],
)
async def test_what_is_missing_other_than_frames_is_named(
    tmp_path: Path, damage: str, what: str
) -> None:
    await filled(tmp_path / "j.db")
    changed(tmp_path / "j.db", damage)
    if what == "session-keys":
        missing = inspect(tmp_path / "j.db").missing
    else:
        try:
            async with open_journal(tmp_path / "j.db") as journal:
                await journal.custodies()
        except JournalCorrupt as bad:
            missing = bad.missing
    assert what in {lack.what for lack in missing}


async def test_a_truncated_log_and_an_older_copy_are_seen(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    signers = Signers()
    async with open_journal(path) as journal:
        await journal.open_custody(signers.opening, TRADER, 1)
        for entry in signers.talk(10):
            await journal.append([(entry.frame, entry.digest)])
        copied(path, tmp_path / "crashed")
        shutil.copy(path, tmp_path / "older.db")
    crashed = tmp_path / "crashed" / "j.db"
    log = crashed.with_name("j.db-wal")
    os.truncate(log, log.stat().st_size - 5_000)
    with pytest.raises(JournalOlder):
        async with open_journal(crashed):
            pass
    async with open_journal(path) as journal:
        assert len(await journal.frames(signers.opening.custody)) == 10
    shutil.copy(crashed, path)
    with pytest.raises(JournalOlder):
        async with open_journal(path):
            pass


def copied(path: Path, directory: Path) -> None:
    """The files as they would be found if the machine's process died now."""
    directory.mkdir(exist_ok=True)
    for each in path.parent.glob(path.name + "*"):
        if not each.name.endswith("-shm"):
            shutil.copy(each, directory / each.name)


@pytest.mark.parametrize("gone", ["deleted", "emptied"])
async def test_no_journal_is_begun_where_one_with_frames_has_been(
    tmp_path: Path, gone: str
) -> None:
    path = tmp_path / "j.db"
    await filled(path)
    path.unlink()
    if gone == "emptied":
        path.touch()
    with pytest.raises(JournalOlder, match="gone or empty"):
        async with open_journal(path):
            pass


# --- repaired -----------------------------------------------------------------------------------


async def test_a_whole_journal_is_not_touched(tmp_path: Path) -> None:
    await filled(tmp_path / "j.db")
    before = (tmp_path / "j.db").read_bytes()
    assert repair_journal(tmp_path / "j.db", [], 5) is None
    assert (tmp_path / "j.db").read_bytes() == before
    assert not any("damaged" in name for name in os.listdir(tmp_path))


async def test_damage_that_took_no_frame_is_repaired_at_once(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    every = await filled(path)
    changed(path, "DELETE FROM heads")
    result = repair_journal(path, [], 5)
    assert result is not None
    assert {one.health for one in result.custodies} == {"complete"}
    async with open_journal(path) as journal:
        await journal.unlock("0xme", b"\x01" * 32)
        for signers in every:
            record = await read_record(journal, signers.opening)
            assert [entry.digest for entry in record] == [entry.digest for entry in signers.record]
            assert await journal.session_keys(signers.opening.custody)
            assert (await journal.custody(signers.opening.custody)).delivered == 3
    assert result.damaged_file.exists()


async def test_frames_that_are_missing_come_from_a_file_and_it_signs_again(
    tmp_path: Path,
) -> None:
    path = tmp_path / "j.db"
    first, second = await filled(path)
    async with open_journal_reader(path) as journal:
        await export(journal, first.opening.custody, tmp_path / "peer.psymm")
    for lane in (0, 1):
        lose(path, f"lane = {lane} AND seq BETWEEN 5 AND 9")
    result = repair_journal(path, [], 5)
    assert result is not None
    assert by_custody(result.custodies, first).health == "recovering"
    async with open_journal(path) as journal:
        entry = first.sign(TRADER, Heartbeat())
        with pytest.raises(JournalRestored):
            await journal.append([(entry.frame, entry.digest)])
        with pytest.raises(JournalCorrupt, match="still missing"):
            await journal.set_health(first.opening.custody, "complete")
    result = repair_journal(path, [tmp_path / "peer.psymm"], 6)
    assert result is not None
    assert by_custody(result.custodies, first).health == "complete"
    assert by_custody(result.custodies, first).missing == ()
    assert by_custody(result.custodies, second).health == "recovering"
    async with open_journal(path) as journal:
        assert len(await read_record(journal, first.opening)) == FRAMES
        assert (await journal.custody(first.opening.custody)).health == "complete"
        newest = await journal.recovering_to(second.opening.custody)
        assert newest is not None
        assert newest.trader[0] == FRAMES // 2


async def test_a_source_that_shows_later_frames_of_ours_ends_all_signing(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    first, _ = await filled(path)
    peer = tmp_path / "peer.db"
    first.sign(TRADER, Heartbeat())
    async with open_journal(peer) as journal:
        await journal.open_custody(first.opening, SOLVER, 1)
        entries = [(entry.frame, entry.digest) for entry in first.record]
        await journal.append(entries)
    lose(path, "seq = 7")
    result = repair_journal(path, [peer], 5)
    assert result is not None
    assert by_custody(result.custodies, first).health == "read-only"
    assert by_custody(result.custodies, first).frames == FRAMES + 1
    async with open_journal(path) as journal:
        await journal.unlock("0xme", b"\x01" * 32)
        with pytest.raises(JournalRestored):
            await journal.session_keys(first.opening.custody)
        with pytest.raises(JournalRestored):
            await journal.set_health(first.opening.custody, "complete")


@pytest.mark.parametrize("mark", ["gone", "of another boot", "of a commit under way", "higher"])
async def test_without_certainty_about_the_newest_heads_nothing_is_signed_again(
    tmp_path: Path, mark: str
) -> None:
    path = tmp_path / "j.db"
    every = await filled(path)
    lock = tmp_path / "j.db.lock"
    if mark == "gone":
        lock.unlink()
    else:
        raw = bytearray(lock.read_bytes())
        raw[56] = 0
        if mark == "of another boot":
            raw[40] ^= 1
        elif mark == "of a commit under way":
            raw[39] += 1
        else:
            raw[31] += 1
            raw[39] += 1
        raw[57:] = sha256(raw[:57]).digest()[:15]
        lock.write_bytes(bytes(raw))
    lose(path, "seq = 7")
    result = repair_journal(path, [], 5)
    assert result is not None
    assert {one.health for one in result.custodies} == {"read-only"}
    async with open_journal(path) as journal:
        entry = every[0].sign(TRADER, Heartbeat())
        with pytest.raises((JournalRestored, JournalError)):
            await journal.append([(entry.frame, entry.digest)])


async def test_a_frame_that_is_forged_in_a_source_repairs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    first, _ = await filled(path)
    async with open_journal_reader(path) as journal:
        await export(journal, first.opening.custody, tmp_path / "peer.psymm")
    raw = bytearray((tmp_path / "peer.psymm").read_bytes())
    frame = first.record.entry(SOLVER, 7)
    assert frame is not None
    at = raw.index(frame.frame.raw)
    raw[at + 119] ^= 1
    (tmp_path / "peer.psymm").write_bytes(bytes(raw))
    lose(path, "seq = 7")
    result = repair_journal(path, [tmp_path / "peer.psymm"], 5)
    assert result is not None
    repaired = by_custody(result.custodies, first)
    assert repaired.health == "recovering"
    assert Missing(first.opening.custody, "frames", SOLVER, 7, 15) in repaired.missing


# --- any damage ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Signers]]:
    """A journal closed in order (`closed/`), and one whose process died (`died/`)."""
    path = tmp_path_factory.mktemp("journals")

    async def make() -> list[Signers]:
        every = await filled(path / "made" / "j.db")
        copied(path / "made" / "j.db", path / "closed")
        async with open_journal(path / "made" / "j.db") as journal:
            for signers in every:
                entries = [signers.sign(lane, Heartbeat()) for lane in (0, 1)]
                for entry in entries:
                    await journal.append([(entry.frame, entry.digest)])
            copied(path / "made" / "j.db", path / "died")
        return every

    return path, trio.run(make)


DAMAGE = st.lists(
    st.tuples(
        st.sampled_from(["flip", "zero", "cut", "noise"]),
        st.sampled_from(["j.db", "j.db", "j.db-wal", "j.db.lock"]),
        st.floats(0, 1, exclude_max=True),
        st.integers(1, 255),
    ),
    min_size=1,
    max_size=4,
)


WITHOUT_MARK = [("j.db", 0.9375), ("j.db-wal", 0.0), ("j.db.lock", 0.0)]


def damaged(directory: Path, damage: list[tuple[str, str, float, int]]) -> None:
    for kind, name, place, value in damage:
        path = directory / name
        if not path.exists() or not path.stat().st_size:
            continue
        raw = bytearray(path.read_bytes())
        at = int(place * len(raw))
        if kind == "flip":
            raw[at] ^= value
        elif kind == "cut":
            del raw[at:]
        else:
            page = at - at % 4096
            length = len(raw[page : page + 4096])
            raw[page : page + 4096] = bytes([0 if kind == "zero" else value]) * length
        path.write_bytes(bytes(raw))


async def everything(path: Path, every: list[Signers]) -> None:
    """Open and read all; every frame that comes out is the one that went in."""
    originals = {signers.opening.custody: signers for signers in every}
    async with open_journal(path) as journal:
        for held in await journal.custodies():
            signers = originals[held.agreement.custody]
            right(await read_record_of(journal, signers), signers)
        await verify_journal(journal)


async def read_record_of(journal: Journal, signers: Signers) -> list[bytes]:
    record = await read_record(journal, signers.opening)
    frames = await journal.frames(signers.opening.custody)
    assert [entry.frame.raw for entry in record] == [frame.raw for frame in frames]
    return [frame.raw for frame in frames]


def right(raws: list[bytes], signers: Signers) -> None:
    known = {entry.frame.raw for entry in signers.record}
    assert all(raw in known for raw in raws)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(state=st.sampled_from(["closed", "died"]), damage=DAMAGE)
# An older journal that was opened without its high-water mark gives it no certainty that it had
# not.
@example(
    state="died",
    damage=[("flip", name, place, 1) for name, place in WITHOUT_MARK],
)
# SQLite's own words quote the damage, and are no text.
@example(state="closed", damage=[("flip", "j.db", 0.03125, 128)])
def test_damage_anywhere_is_an_intact_reading_or_a_typed_error_and_never_a_wrong_frame(
    tmp_path_factory: pytest.TempPathFactory,
    sample: tuple[Path, list[Signers]],
    state: str,
    damage: list[tuple[str, str, float, int]],
) -> None:
    path, every = sample
    directory = tmp_path_factory.mktemp("damaged")
    shutil.copytree(path / state, directory, dirs_exist_ok=True)
    damaged(directory, damage)
    journal = directory / "j.db"
    seen = inspect(journal)
    try:
        trio.run(everything, journal, every)
    except* JournalError:
        pass
    for one in seen.custodies:
        for (lane, seq), frame in one.frames.items():
            signers = next(each for each in every if each.opening.custody == one.custody)
            original = signers.record.entry(lane, seq)
            assert original is not None
            assert frame.raw == original.frame.raw
    whole = FRAMES + (2 if state == "died" else 0)
    try:
        result = repair_journal(journal, [], 5)
    except JournalError:
        return
    if result is None:
        return

    async def repaired() -> None:
        originals = {signers.opening.custody: signers for signers in every}
        async with open_journal(journal) as opened:
            for held in await opened.custodies():
                signers = originals[held.agreement.custody]
                right(await read_record_of(opened, signers), signers)
                if held.health == "complete":
                    assert held.frames == whole

    trio.run(repaired)
    shutil.rmtree(directory)
