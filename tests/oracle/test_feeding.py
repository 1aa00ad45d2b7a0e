"""Prices that a program writes line by line: to standard input, or to a socket in the home."""

from __future__ import annotations

import logging
import stat
from functools import partial
from pathlib import Path

import pytest
import trio

from psymm.oracle.feeding import read_lines, serve_lines
from psymm.oracle.rounds import RoundLeaf
from psymm.oracle.sources import PriceBoard
from psymm.storage import StorageError

ONE = 10**18
GOOD = b'{"feed":"A","price":"1"}\n'


def board() -> PriceBoard:
    return PriceBoard(["A", "B"], stale_ns=10**9)


class Pieces(trio.abc.ReceiveStream):
    """A stream that comes in exactly these pieces."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = [*pieces, b""]

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        return self._pieces.pop(0)

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


async def fed(*pieces: bytes) -> PriceBoard:
    """A board after a program wrote these pieces and ended."""
    made = board()
    await read_lines(Pieces(*pieces), made, lambda: 0)
    return made


async def test_lines_may_come_in_any_pieces() -> None:
    made = await fed(b'{"feed":"A",', b'"price":"1"}\n{"feed":"B","price":"2"}\r\n\n')
    assert made.read(0) == [RoundLeaf("A", ONE), RoundLeaf("B", 2 * ONE)]


async def test_a_line_that_is_malformed_is_logged_and_the_next_one_taken(
    caplog: pytest.LogCaptureFixture,
) -> None:
    made = await fed(b"hello\n" + GOOD + b'{"feed":"C","price":"1"}\n' + b"\xff\xfe\n")
    assert made.read(0) == [RoundLeaf("A", ONE)]
    assert caplog.text.count("price-line-invalid") == 3


async def test_a_huge_line_is_skipped_to_its_end(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    made = await fed(b"x" * 5000, b"y" * 5000, b'{"feed":"B","price":"9"}\n' + GOOD)
    assert made.read(0) == [RoundLeaf("A", ONE)]
    assert caplog.text.count("price-line-too-long") == 1


async def test_what_is_cut_off_in_a_line_counts_for_nothing() -> None:
    assert (await fed(GOOD[:-1])).read(0) == []


async def test_programs_write_to_a_socket_of_the_owner_alone(tmp_path: Path) -> None:
    path, made = tmp_path / "prices.sock", board()
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve_lines, path, made))
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        for line in (GOOD, b'{"feed":"B","price":"2"}\n'):
            async with await trio.open_unix_socket(str(path)) as stream:
                await stream.send_all(line)
        with trio.fail_after(60):
            while len(made.read(0)) < 2:  # noqa: ASYNC110 - the board has no event
                await trio.sleep(0.02)
        nursery.cancel_scope.cancel()
    assert not path.exists()


async def test_a_socket_left_by_a_killed_process_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "prices.sock"
    left = trio.socket.socket(trio.socket.AF_UNIX)
    await left.bind(str(path))
    left.close()
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve_lines, path, board()))
        # One that is served, and a file, are not.
        with pytest.raises(StorageError):
            await serve_lines(path, board())
        nursery.cancel_scope.cancel()
    path.write_text("mine")
    with pytest.raises(StorageError):
        await serve_lines(path, board())
    assert path.read_text() == "mine"
