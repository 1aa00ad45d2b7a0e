"""A session script fails, by its name, where the rule that it tells of is turned off."""

from __future__ import annotations

from pathlib import Path

import pytest
from disabled_rules import DISABLED, FROM_THE_START
from race_stage import play_race
from script import Script, ScriptFailed, read_all
from script_stage import play
from trio.testing import MockClock

SCRIPTS = read_all()
CASES = [
    pytest.param(script, end, id=f"{script.name}-{end}")
    for script in SCRIPTS
    for end in script.ends or ("together",)
]


def test_every_script_has_a_way_to_fail() -> None:
    assert set(DISABLED) == {script.name for script in SCRIPTS}


@pytest.mark.parametrize(("script", "end"), CASES)
async def test_a_script_fails_without_its_rule(
    script: Script,
    end: str,
    tmp_path: Path,
    autojump_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    off = DISABLED[script.name]
    begun: list[str] = []

    def turn_off() -> None:
        if not begun:
            begun.append(script.name)
            if script.name not in FROM_THE_START:
                off(monkeypatch)

    if script.name in FROM_THE_START:
        off(monkeypatch)
    failed: ScriptFailed | None = None
    try:
        if script.is_race:
            await play_race(script, tmp_path, cut=None, begun=turn_off)
        else:
            await play(script, end, tmp_path, begun=turn_off)
    except ScriptFailed as broken:
        failed = broken
    assert begun, "the script failed before its rule was turned off"
    assert failed is not None, f"{script.name} passes though its rule is off"
    assert failed.script == script.name
