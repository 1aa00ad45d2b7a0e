"""JSON that is nested without end is refused; it never ends the process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from psymm.chain.nesting import MAX_NESTING, loads

DEEP = 99_000


@pytest.mark.parametrize("bracket", ["[", '{"a":', '[{"a":[', "]["])
def test_json_without_end_is_refused(bracket: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        loads((bracket * DEEP).encode())


def test_json_as_deep_as_allowed_is_read() -> None:
    text = b"[" * MAX_NESTING + b"]" * MAX_NESTING
    assert loads(text) is not None
    with pytest.raises(ValueError, match="deep"):
        loads(b"[" + text + b"]")
    many = b"[" + b",".join([b"{}"] * 1_000) + b"]"
    assert len(loads(many)) == 1_000


def test_opening_a_keystore_does_not_let_a_stranger_crash_us_with_brackets(tmp_path: Path) -> None:
    script = f"""
import json, trio
from pathlib import Path
from psymm._core import SecretKey
from psymm.relayer.wire import request_id
from psymm.terms.document import load
from psymm.wallet import load_keystore, save_keystore

async def main():
    path = Path({str(tmp_path)!r}) / "key.json"
    await save_keystore(path, SecretKey.generate(), "word", scrypt_cost=2)
    await load_keystore(path, "word")
    assert request_id("[" * {DEEP}) == ""
    try:
        load(b"[" * {DEEP})
    except Exception as refused:
        print(type(refused).__name__)

trio.run(main)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "TermsNotJson"), done.stderr[-500:]
