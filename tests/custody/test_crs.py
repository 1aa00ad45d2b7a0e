"""The reference string is the one that the verifiers are for, made once where it is missing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from psymm.custody import crs
from psymm.custody.crs import POINTS, crs_path, reference


async def test_the_development_string_is_made_once_into_the_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if reference().kind != "dev":
        pytest.skip("this package is built with the ceremony's string")
    monkeypatch.delenv("CRS_PATH", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(crs, "ARTIFACTS", tmp_path / "a" / "b" / "c")
    made = await crs_path()
    assert made == tmp_path / "cache" / "psymm" / "crs" / "dev"
    assert made is not None
    assert (made / "bn254_g1.dat").stat().st_size == POINTS * 64
    assert (made / "bn254_g2.dat").read_bytes() == reference().g2
    assert sorted(os.listdir(made)) == ["bn254_g1.dat", "bn254_g2.dat"]
    first = (made / "bn254_g1.dat").stat().st_mtime_ns
    assert await crs_path() == made
    assert (made / "bn254_g1.dat").stat().st_mtime_ns == first
    # A file cut short, or of another secret, is made again.
    (made / "bn254_g1.dat").write_bytes(b"short")
    assert await crs_path() == made
    assert (made / "bn254_g1.dat").stat().st_size == POINTS * 64


async def test_a_directory_that_the_user_names_is_taken_as_it_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CRS_PATH", str(tmp_path))
    assert await crs_path() == tmp_path
