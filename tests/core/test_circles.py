"""The check that modules of the Rust core depend one way finds a circle where there is one."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(source: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tools/rust_circles.py"), str(source)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_core_has_no_circle() -> None:
    ran = run(ROOT / "core/src")
    assert (ran.returncode, ran.stdout) == (0, "")


@pytest.mark.parametrize(
    ("in_a", "in_b", "circle"),
    [
        ("use super::b::B;", "use crate::a::A;", "crate::a -> crate::b -> crate::a"),
        (
            "use crate::{\n    b::{self, B},\n    c,\n};",
            "fn f() { crate::a::g() }",
            "crate::a -> crate::b -> crate::a",
        ),
        ("mod deep; use deep::D;", "", "crate::a -> crate::a::deep -> crate::a"),
        ("use super::b::B;", "#[cfg(test)]\nmod tests {\n    use crate::a::A;\n}\n", None),
        ("use super::b::B;", '// use crate::a::A;\nconst TEXT: &str = "crate::a::A";', None),
        ("use super::b::B;", "const QUOTE: char = '\"'; use core::fmt;", None),
    ],
)
def test_a_circle_is_named(in_a: str, in_b: str, circle: str | None, tmp_path: Path) -> None:
    (tmp_path / "lib.rs").write_text("mod a;\nmod b;\nmod c;\n")
    (tmp_path / "a").mkdir()
    (tmp_path / "a/mod.rs").write_text(in_a)
    (tmp_path / "a/deep.rs").write_text("use super::A;")
    (tmp_path / "b.rs").write_text(in_b)
    (tmp_path / "c.rs").write_text("")
    ran = run(tmp_path)
    assert ran.returncode == (0 if circle is None else 1)
    assert circle is None or f"modules in a circle: {circle}\n" == ran.stdout
