"""A session script that cannot be read is an error of the script, named with its line."""

from __future__ import annotations

from pathlib import Path

import pytest
from race_stage import play_race
from script import BadScript, ScriptFailed, read
from script_stage import play
from trio.testing import MockClock


def written(path: Path, body: str, *, name: str = "one", rule: str = "Rule: A rule.") -> Path:
    script = path / "one.script"
    script.write_text(f"Name: {name}\n{rule}\n{body}\n")
    return script


@pytest.mark.parametrize(
    ("body", "given"),
    [
        ("E nothing", {"name": "two"}),
        ("E nothing", {"rule": "# no rule"}),
        ("", {}),
        ("Colour: red\nE nothing", {}),
        ("Name: one\nE nothing", {}),
        ("Ends: trader broker\nE nothing", {}),
        ("E text 'open", {}),
        ("@trader", {}),
    ],
)
def test_what_has_not_the_form_of_a_script_is_refused(
    tmp_path: Path, body: str, given: dict[str, str]
) -> None:
    with pytest.raises(BadScript, match=r"one\.script"):
        read(written(tmp_path, body, **given))


@pytest.mark.parametrize(
    "line",
    [
        "X nothing",
        "G halfway",
        "I sideways",
        "I frame 0 colour=red",
        "I frame 0 seq=$nobody",
        "I frame 0 seq",
        "I text 0 seq=5",
        "I again 999",
        "W fly",
        "T 5s sideways",
        "T soon",
        "S weather",
        "S account weather=fine",
    ],
)
async def test_an_unknown_directive_is_an_error_with_its_line(
    tmp_path: Path, autojump_clock: MockClock, line: str
) -> None:
    body = f"\nG trading\n{line}"
    with pytest.raises(BadScript, match=r"one:5: "):
        await play(read(written(tmp_path, body)), "solver", tmp_path)


@pytest.mark.parametrize("line", ["E smoke", "E text 0 colour=red", "E close a b"])
async def test_an_unknown_expectation_is_an_error_with_its_line(
    tmp_path: Path, autojump_clock: MockClock, line: str
) -> None:
    script = read(written(tmp_path, f"\nG trading\nI text 1 TestReqID=a\n{line}"))
    with pytest.raises(BadScript, match=r"one:6: "):
        await play(script, "solver", tmp_path)


@pytest.mark.parametrize("line", ["I frame 0", "W trader fly D", "S weather", "E nothing"])
async def test_an_unknown_directive_of_a_race_is_an_error_with_its_line(
    tmp_path: Path, autojump_clock: MockClock, line: str
) -> None:
    script = read(written(tmp_path, f"Ends: together\n{line}"))
    with pytest.raises(BadScript, match=r"one:4: "):
        await play_race(script, tmp_path, cut=None)


async def test_a_failure_names_script_line_and_what_came(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    script = read(written(tmp_path, "\nG trading\nI text 1 TestReqID=a\nE text 0 TestReqID=b"))
    with pytest.raises(
        ScriptFailed, match=r"(?s)one:6: .*TestReqID is \'a\', not \'b\'.*came text"
    ):
        await play(script, "trader", tmp_path)


async def test_a_message_sent_that_the_script_does_not_expect_is_a_failure(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    script = read(written(tmp_path, "\nG trading\nI text 1 TestReqID=a"))
    with pytest.raises(ScriptFailed, match="more went out"):
        await play(script, "solver", tmp_path)
