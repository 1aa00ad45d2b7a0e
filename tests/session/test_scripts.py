"""Every session script, against the trader and the solver; after every frame the account is the one
that the plain rulebook gives."""

from __future__ import annotations

from pathlib import Path

import pytest
from plain_rulebook import check_every_frame
from race_stage import play_race
from script import Script, read_all
from script_stage import play
from trio.testing import MockClock

SCRIPTS = read_all()
CASES = [
    pytest.param(script, end, id=f"{script.name}-{end}")
    for script in SCRIPTS
    for end in script.ends
]


@pytest.mark.parametrize(("script", "end"), CASES)
async def test_script(
    script: Script,
    end: str,
    tmp_path: Path,
    autojump_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check_every_frame(monkeypatch)
    await play(script, end, tmp_path)


RACES = [pytest.param(script, id=script.name) for script in SCRIPTS if script.is_race]


@pytest.mark.parametrize("script", RACES)
async def test_race(
    script: Script,
    tmp_path: Path,
    autojump_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checked = check_every_frame(monkeypatch)
    (tmp_path / "whole").mkdir()
    points = await play_race(script, tmp_path / "whole", cut=None)
    assert points, "nothing is ever in flight"
    for cut in range(len(points)):
        path = tmp_path / f"cut-{cut}"
        path.mkdir()
        await play_race(script, path, cut=cut)
    assert checked[0] > len(points)
