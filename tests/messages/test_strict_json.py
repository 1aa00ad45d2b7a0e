"""JSON from strangers is read strictly wherever it comes in, and never ends the process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "transcript"))

from custody_scene import Signers

from psymm._core import JsonError
from psymm.chain.deployment import Deployment
from psymm.chain.errors import DeploymentInvalid
from psymm.errors import KeystoreUnreadable, TranscriptFileError
from psymm.keystores import _read_keystore
from psymm.messages import decode, decode_text
from psymm.relayer.errors import BadRequest, RelayerLied
from psymm.relayer.wire import decode_progress, decode_request, decode_terms, request_id
from psymm.rulebook import AccountRefused, first_difference, restore
from psymm.session.protocol.chain_facts import Fact
from psymm.session.runtime.report import known_facts
from psymm.strict_json import MAX_NESTING, KeyTwice, loads
from psymm.terms import Terms, TermsError
from psymm.transcript.file import MAGIC, encode_file, parse_file

DEEP = 99_000
BAD = {
    "lists": b"[" * DEEP,
    "objects": b'{"a":' * DEEP,
    "both": b'[{"a":[' * DEEP,
    "closed": b'{"a":' + b"[" * DEEP + b"]" * DEEP + b"}",
    "backwards": b"][" * DEEP,
    "digits": b'{"a":' + b"1" * 5_000 + b"}",
    "nan": b'{"a":NaN}',
    "infinity": b'{"a":-Infinity}',
    "exponent": b'{"a":-1e999}',
    "twice": b'{"a":"1","a":"1"}',
    "twice-deep": b'{"a":[{"b":"1","\\u0062":"1"}]}',
    "half-pair": b'{"a":"\\ud83d"}',
    "half-pair-key": b'{"\\uDE00":"a"}',
    "not-utf8": b'{"a":"\xff"}',
    "surrogate-bytes": b'{"a":"\xed\xa0\xbd"}',
    "mark": b"\xef\xbb\xbf{}",
    "utf16": '{"a":"1"}'.encode("utf-16"),
    "cut": b'{"a":"',
    "more": b"{}{}",
    "nothing": b"",
}
each_bad = pytest.mark.parametrize("bad", BAD.values(), ids=BAD)


@each_bad
def test_what_is_not_strict_json_is_a_value_error(bad: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        loads(bad)
    with pytest.raises(ValueError, match=r".+"):
        loads(bad.decode("utf-8", "surrogateescape"))


def test_json_as_deep_as_allowed_is_read() -> None:
    text = b"[" * MAX_NESTING + b"]" * MAX_NESTING
    assert loads(text) is not None
    with pytest.raises(ValueError, match="deep"):
        loads(b"[" + text + b"]")
    many = b"[" + b",".join([b"{}"] * 1_000) + b"]"
    assert len(loads(many)) == 1_000


@pytest.mark.parametrize("quoted", ["[" * DEEP, '\\"[[' * DEEP, "\\\\", "{" * 100 + '\\\\\\"'])
def test_brackets_in_a_string_are_no_nesting(quoted: str) -> None:
    assert len(loads(f'{{"a":["{quoted}",{",".join(["[]"] * 100)}]}}')["a"]) == 101


@pytest.mark.parametrize("before", ['"', '"\\', '"\\"', '"' + '\\"' * DEEP, '"\\\\"'])
def test_a_string_that_is_not_closed_hides_no_nesting(before: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        loads(before + "[" * DEEP)


def test_a_pair_of_surrogates_is_one_character_and_a_backslash_before_u_is_a_backslash() -> None:
    assert loads(b'["\\ud83d\\ude00","\\\\ud83d"]') == ["\U0001f600", "\\ud83d"]


def test_the_key_that_appears_twice_is_named() -> None:
    with pytest.raises(KeyTwice) as twice:
        loads(b'[{"a":1,"b":2,"\\u0062":3}]')
    assert twice.value.key == "b"


# --- where it comes in --------------------------------------------------------------------------


def _keystore(raw: bytes, path: Path) -> None:
    path.write_bytes(raw)
    _read_keystore(path)


def _deployment(raw: bytes, path: Path) -> None:
    path.write_bytes(raw)
    Deployment.load(path)


def _account(raw: bytes, _: Path) -> None:
    restore(raw, Terms.parse(Signers().opening.terms), bytes(32))


def _fact_in_a_file(raw: bytes, _: Path) -> None:
    text = raw.decode("utf-8", "surrogateescape")
    known_facts(parse_file(encode_file(Signers().opening, [], facts=[text])))


def _fact_that_is_no_string(raw: bytes, _: Path) -> None:
    whole = encode_file(Signers().opening, [], facts=["@"])
    head = whole[len(MAGIC) + 4 :].replace(b'"@"', b'"@",' + raw)
    parse_file(MAGIC + len(head).to_bytes(4, "big") + head)


def _opening(raw: bytes, _: Path) -> None:
    parse_file(MAGIC + len(raw).to_bytes(4, "big") + raw)


def _text(read: Callable[[str], object]) -> Callable[[bytes, Path], object]:
    return lambda raw, _: read(raw.decode("utf-8", "surrogateescape"))


DOORS: dict[str, tuple[Callable[[bytes, Path], object], type[Exception]]] = {
    "payload": (lambda raw, _: decode(raw), JsonError),
    "session text": (lambda raw, _: decode_text(raw), JsonError),
    "terms": (lambda raw, _: Terms.parse(raw), TermsError),
    "opening": (_opening, TranscriptFileError),
    "fact in a file": (_fact_in_a_file, TranscriptFileError),
    "fact that is no string": (_fact_that_is_no_string, TranscriptFileError),
    "fact": (_text(Fact.from_json), ValueError),
    "account": (_account, AccountRefused),
    "peer's account": (lambda raw, _: first_difference(b"{}", raw), AccountRefused),
    "relayer's request": (_text(decode_request), BadRequest),
    "relayer's terms": (_text(lambda text: decode_terms(text, "1")), RelayerLied),
    "relayer's progress": (_text(lambda text: decode_progress(text, "1")), RelayerLied),
    "keystore": (_keystore, KeystoreUnreadable),
    "deployment": (_deployment, DeploymentInvalid),
}


@each_bad
@pytest.mark.parametrize("door", DOORS)
def test_bad_json_is_refused_by_the_door_s_own_error(door: str, bad: bytes, tmp_path: Path) -> None:
    read, refusal = DOORS[door]
    with pytest.raises(refusal):
        read(bad, tmp_path / "file.json")


@each_bad
def test_a_request_that_cannot_be_read_has_no_id(bad: bytes) -> None:
    assert request_id(bad.decode("utf-8", "surrogateescape")) == ""


def test_a_fact_has_one_form() -> None:
    fact = Fact(5, b"\x01" * 32, (b"\x02" * 32,), ())
    assert Fact.from_json(fact.to_json()) == fact
    for old, new in (('"5"', "5"), ('"5"', '"05"'), ('"5"', "5.5"), (",", ", "), ("01", "0A")):
        with pytest.raises(ValueError, match="fact"):
            Fact.from_json(fact.to_json().replace(old, new, 1))


def test_brackets_end_no_process_whatever_its_recursion_limit(tmp_path: Path) -> None:
    script = f"""
import sys, trio
from pathlib import Path
from psymm._core import SecretKey
from psymm.relayer.wire import request_id
from psymm.terms.document import load
from psymm.wallet import load_keystore, save_keystore

async def main():
    path = Path({str(tmp_path)!r}) / "key.json"
    await save_keystore(path, SecretKey.generate(), "word", scrypt_cost=2)
    await load_keystore(path, "word")
    print(sys.getrecursionlimit() < 10_000)
    sys.setrecursionlimit(100_000)
    assert request_id("[" * {DEEP}) == ""
    try:
        load(b"[" * {DEEP})
    except Exception as refused:
        print(type(refused).__name__)

trio.run(main)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()) == (0, ["True", "TermsNotJson"]), done.stderr
