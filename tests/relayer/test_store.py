"""A relayer's store: what was accepted or signed is there after a crash."""

import sqlite3
from pathlib import Path

import pytest

from psymm.relayer.errors import RelayerStoreError
from psymm.relayer.store import SendState, Store

CONTRACT = "0x9fE46736679d2D9a65F0992F2272dE9f3c7fa6e0"
RELAYER = "0xe7f1725E7734CE288F8367e1Bb143E90bb3F0512"


def opened(path: Path, relayer: str = RELAYER) -> Store:
    return Store(path, 31337, CONTRACT, relayer)


def test_a_call_taken_on_is_there_after_a_restart(tmp_path: Path) -> None:
    with opened(tmp_path / "r.db") as store:
        taken = store.add(b"d" * 32, "ctc", {"fee": "1"}, 99, [b"n" * 32])
    with opened(tmp_path / "r.db") as store:
        assert store.under_way() == [taken]
        assert taken.state is SendState.QUEUED
        assert taken.call == {"fee": "1"}


@pytest.mark.parametrize(
    ("change", "to"),
    [
        ("UPDATE sends SET call = ?", "["),
        ("UPDATE sends SET call = ?", "[" * 99_000),
        ("UPDATE sends SET answer = ?", ""),
        ("UPDATE sends SET state = ?", "prayed"),
    ],
)
def test_a_send_that_was_changed_in_the_file_is_named(tmp_path: Path, change: str, to: str) -> None:
    with opened(tmp_path / "r.db") as store:
        taken = store.add(b"d" * 32, "ctc", {}, 99, [])
    base = sqlite3.connect(tmp_path / "r.db")
    base.execute(change, (to,))
    base.commit()
    base.close()
    with (
        opened(tmp_path / "r.db") as store,
        pytest.raises(RelayerStoreError, match=f"send {taken.id}"),
    ):
        store.get(taken.id)


def test_a_signed_transaction_is_there_byte_for_byte_after_a_restart(tmp_path: Path) -> None:
    with opened(tmp_path / "r.db") as store:
        taken = store.add(b"d" * 32, "ctc", {}, 99, [])
        store.signed(taken.id, b"first")
        store.signed(taken.id, b"second")
        store.signed(taken.id, b"first")
    with opened(tmp_path / "r.db") as store:
        (send,) = store.under_way()
        assert send.state is SendState.SENT
        assert send.transactions == (b"first", b"second")


def test_a_call_that_ended_is_no_longer_under_way_and_keeps_its_answer(tmp_path: Path) -> None:
    with opened(tmp_path / "r.db") as store:
        taken = store.add(b"d" * 32, "ctc", {}, 99, [b"n" * 32])
        store.end(taken.id, SendState.MINED, {"status": "mined"})
        assert store.under_way() == []
        last = store.last(b"d" * 32)
        assert last is not None
        assert last.answer == {"status": "mined"}
        assert store.conflicting([b"n" * 32], b"e" * 32) is None


def test_another_call_with_a_nullifier_that_is_under_way_is_a_conflict(tmp_path: Path) -> None:
    with opened(tmp_path / "r.db") as store:
        taken = store.add(b"d" * 32, "ctc", {}, 99, [b"n" * 32, b"m" * 32])
        assert store.conflicting([b"x" * 32, b"m" * 32], b"e" * 32) == taken
        assert store.conflicting([b"m" * 32], b"d" * 32) is None
        assert store.conflicting([b"x" * 32], b"e" * 32) is None


def test_two_processes_cannot_hold_one_store(tmp_path: Path) -> None:
    with (
        opened(tmp_path / "r.db"),
        pytest.raises(RelayerStoreError, match="another process"),
    ):
        opened(tmp_path / "r.db")


def test_a_store_serves_one_relayer_only(tmp_path: Path) -> None:
    opened(tmp_path / "r.db").close()
    with pytest.raises(RelayerStoreError, match="belongs to another relayer"):
        opened(tmp_path / "r.db", relayer=CONTRACT)


def test_a_damaged_store_is_a_named_error(tmp_path: Path) -> None:
    (tmp_path / "r.db").write_bytes(b"not a database at all" * 100)
    with pytest.raises(RelayerStoreError):
        opened(tmp_path / "r.db")
