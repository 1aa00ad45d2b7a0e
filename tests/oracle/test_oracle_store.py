"""A signer's memory: votes that never change, rounds that are kept, proofs, and bad disks."""

from __future__ import annotations

import resource
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from psymm.oracle.agreement import SignerConvicted
from psymm.oracle.rounds import OracleRound, RoundLeaf, SignedRound, decode_round, encode_round
from psymm.oracle.store import CHUNK, OracleStore, OracleStoreError
from psymm.storage import DiskFull, StorageError

STEP = 10**9
AT = 1_790_604_800 * STEP
SIGNER = "0x" + "11" * 20
KEEP_S = 100


def opened(path: Path, signer: str = SIGNER) -> OracleStore:
    return OracleStore(path / "oracle.db", 31337, "0x" + "22" * 20, signer, KEEP_S)


def signed(step: int, value: int = 1) -> SignedRound:
    return SignedRound(OracleRound(AT + step * STEP, (RoundLeaf("A", value),)), (bytes(65),))


def test_rule_41_a_vote_is_never_changed_also_after_a_restart(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        assert store.last_vote() == 0
        assert store.vote(AT, b"a" * 32)
        assert not store.vote(AT, b"b" * 32)
        assert not store.vote(AT, b"a" * 32)
        assert not store.vote(AT - 1, b"a" * 32)
    with opened(tmp_path) as store:
        assert store.last_vote() == AT
        assert not store.vote(AT, b"b" * 32)
        assert store.vote(AT + STEP, b"b" * 32)


def test_a_vote_is_on_disk_when_the_call_returns(tmp_path: Path) -> None:
    """A process that ends without closing anything loses nothing."""
    program = (
        "import os, sys; from pathlib import Path; from test_oracle_store import *; "
        f"opened(Path(sys.argv[1])).vote({AT}, bytes(32)); os._exit(0)"
    )
    subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], check=True, cwd=Path(__file__).parent
    )
    with opened(tmp_path) as store:
        assert store.last_vote() == AT


def test_one_round_of_a_moment_is_given_out_and_a_second_is_a_proof(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        assert store.add(signed(0))
        assert not store.add(signed(0))
        assert store.conflicts() == []
        assert not store.add(signed(0, value=2))
        assert store.conflicts() == [encode_round(signed(0, value=2))]
        assert [decode_round(text) for _, text in store.rounds(0, AT)] == [signed(0)]
        assert store.newest() == AT


def test_rounds_come_in_order_a_few_at_a_time(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        for step in reversed(range(CHUNK + 5)):
            store.add(signed(step))
        rows = store.rounds(AT, AT + 1000 * STEP)
        assert [at for at, _ in rows] == [AT + step * STEP for step in range(1, CHUNK + 1)]
        rest = store.rounds(rows[-1][0], 2**64 - 1)
        assert len(rest) == 4
        assert store.rounds(AT + 2 * STEP, AT + 4 * STEP) == rows[2:4]
        assert store.rounds(2**64 - 1, 2**64 - 1) == []


def test_what_is_old_is_deleted(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        for step in (0, 1, KEEP_S + 1):
            store.add(signed(step))
            store.vote(AT + step * STEP, bytes(32))
        assert [at for at, _ in store.rounds(0, 2**63)] == [
            AT + STEP,
            AT + (KEEP_S + 1) * STEP,
        ]
        assert store.last_vote() == AT + (KEEP_S + 1) * STEP


def test_a_moment_beyond_the_files_numbers_is_not_kept(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        beyond = SignedRound(OracleRound(2**64 - 1, (RoundLeaf("A", 1),)), ())
        assert not store.add(beyond)


def test_convictions_are_kept(tmp_path: Path) -> None:
    proof = SignerConvicted(SIGNER, AT, (b"a" * 32, b"b" * 32), (b"c" * 65, b"d" * 65))
    with opened(tmp_path) as store:
        store.convict(proof)
        store.convict(proof)
    with opened(tmp_path) as store:
        assert store.convictions() == [proof]


def test_one_process_has_the_file(tmp_path: Path) -> None:
    with opened(tmp_path), pytest.raises(OracleStoreError, match="another process"):
        opened(tmp_path)


def test_another_signers_file_is_refused(tmp_path: Path) -> None:
    opened(tmp_path).close()
    with pytest.raises(OracleStoreError, match="another signer"):
        opened(tmp_path, "0x" + "33" * 20)


def test_a_file_of_another_version_is_refused(tmp_path: Path) -> None:
    opened(tmp_path).close()
    with closing(sqlite3.connect(tmp_path / "oracle.db")) as base:
        base.execute("PRAGMA user_version = 9")
    with pytest.raises(OracleStoreError, match="another version"):
        opened(tmp_path)


def test_a_damaged_file_is_refused_or_its_round_is(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        store.add(signed(0))
        store.add(signed(0, value=2))
    with closing(sqlite3.connect(tmp_path / "oracle.db", isolation_level=None)) as base:
        base.execute("UPDATE rounds SET packed = x'00'")
        base.execute("UPDATE conflicts SET packed = x'00'")
    with opened(tmp_path) as store:
        with pytest.raises(OracleStoreError, match="damaged"):
            store.rounds(0, AT)
        with pytest.raises(OracleStoreError, match="damaged"):
            store.conflicts()
    (tmp_path / "oracle.db").write_bytes(b"no database" * 1000)
    with pytest.raises(OracleStoreError):
        opened(tmp_path)


def test_a_full_disk_is_named_and_keeps_no_half_of_a_vote(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1, before[1]))
        try:
            with pytest.raises((DiskFull, StorageError)):
                store.vote(AT, bytes(32))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert store.last_vote() == 0
        assert store.vote(AT, b"b" * 32)
