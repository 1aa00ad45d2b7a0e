"""`psymm transcript verify`: what is valid, what was not checked, and where the fault is."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from test_commands import Ran, psymm

sys.path.insert(0, str(Path(__file__).parents[2] / "benches"))

from long_transcript import write_frames

FRAMES = 300


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("transcripts") / "long.psymm"
    with path.open("wb") as out:
        write_frames(out, FRAMES)
    return path


def verify(file: Path, *options: str) -> Ran:
    return psymm("transcript", "verify", *options, str(file))


def bent(file: Path, place: Path, byte: int) -> Path:
    raw = bytearray(file.read_bytes())
    raw[byte] ^= 4
    place.write_bytes(raw)
    return place


def test_a_file_that_stands_is_verified_with_its_account(file: Path) -> None:
    ran = verify(file, "--json")
    assert ran.code == 0, ran.err
    assert (ran.last["ok"], ran.last["frames"]) == (True, FRAMES)
    assert isinstance(ran.last["account"], str)
    assert ran.last["violations"] == []
    assert ran.last["notChecked"] == []
    assert ran.err == ""


@pytest.mark.parametrize("threads", ["1", "2", "0"])
def test_without_the_rulebook_it_says_what_was_not_checked(file: Path, threads: str) -> None:
    ran = verify(file, "--json", "--signatures-only", "--threads", threads)
    assert ran.code == 0, ran.err
    assert (ran.last["ok"], ran.last["frames"], ran.last["account"]) == (True, FRAMES, None)
    assert ran.last["notChecked"] == ["rulebook", "chain facts"]
    said = verify(file, "--signatures-only", "--threads", threads)
    assert "not checked: the rulebook" in said.out
    assert f"all {FRAMES} frames valid" in said.out


def test_progress_is_shown_where_it_is_asked_for(file: Path) -> None:
    ran = verify(file, "--progress")
    assert ran.code == 0
    assert "signatures 100%" in ran.err
    assert "rulebook   100%" in ran.err
    assert "frames/s" in ran.err
    assert "signatures 100%" not in ran.out


def on_terminal(*arguments: str) -> str:
    """What the command line writes to standard error when that is a terminal."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "psymm", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                part = os.read(ours, 4096)
            except OSError:
                break
            if not part:
                break
            shown += part
        assert process.wait(60) == 0
    os.close(ours)
    return shown.decode()


def test_a_terminal_gets_a_bar_for_both_phases(file: Path) -> None:
    shown = on_terminal("transcript", "verify", str(file))
    assert "signatures" in shown
    assert "rulebook" in shown
    assert "100%" in shown
    assert "frames/s" in shown
    assert on_terminal("transcript", "verify", "--no-progress", str(file)) == ""


def test_a_flipped_bit_is_named_with_frame_and_bytes(file: Path, tmp_path: Path) -> None:
    size = file.stat().st_size
    for byte in (0, 9, 40, size // 3, size // 2, size - 1):
        ran = verify(bent(file, tmp_path / "bent.psymm", byte), "--json", "--signatures-only")
        assert ran.code == 7, (byte, ran.out)
        error = ran.last["error"]
        assert isinstance(error, dict)
        values = error["values"]
        assert values["from"] <= values["offset"] <= values["to"]
        assert values["from"] <= byte < values["to"] or byte < size // 4
        if byte > size // 4:
            assert f"frame {values['frame']} (" in error["message"]
        assert f"in bytes {values['from']} to {values['to'] - 1}" in error["message"]
    assert (values["field"], values["offset"]) == ("R.y", size - 32)


def test_a_file_that_ends_early_names_the_frame_that_is_cut(file: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.psymm"
    cut.write_bytes(file.read_bytes()[:-1])
    ran = verify(cut, "--json")
    assert ran.code == 7
    error = ran.last["error"]
    assert isinstance(error, dict)
    values = error["values"]
    assert (values["reason"], values["frame"]) == ("truncated", FRAMES - 1)
    assert "field" not in values


def test_a_pipe_is_verified_as_a_file_is(file: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["cp", str(file), str(pipe)]) as writing:
        ran = verify(pipe, "--json", "--signatures-only")
        assert writing.wait(60) == 0
    assert (ran.code, ran.last["frames"]) == (0, FRAMES)


def test_an_empty_file_is_no_transcript(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    ran = verify(tmp_path / "empty", "--json")
    assert ran.code == 7
    error = ran.last["error"]
    assert isinstance(error, dict)
    assert error["values"]["reason"] == "not-a-transcript"


def test_show_prints_each_frame(file: Path) -> None:
    ran = psymm("transcript", "show", "--json", str(file))
    assert ran.code == 0
    assert sum(line.startswith('{"event":"frame"') for line in ran.out.splitlines()) == FRAMES
    assert ran.last["frames"] == FRAMES
