"""What a trade costs each side in Python calls, from the application down to the socket and the
disk: a measure that no busy machine changes much. What is native counts nothing."""

from __future__ import annotations

import sys
from collections import Counter
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Final

import pytest
import trio

sys.path.insert(0, str(Path(__file__).parents[2] / "benches"))

import session_processes as bench

from psymm.api import connect
from psymm.journal import committer

MOST_CALLS: Final = 820
"""For a trade and side, of one session. Lower it when a trade becomes cheaper; raise it for no less
than a reason that is written here. A trade's own are some 760: a busy machine adds turns."""
MOST_AROUND: Final = 450
"""Of these, all that is no protocol, rulebook, message, record or journal."""
TRADES: Final = 30
_INSIDE: Final = (
    "session/protocol/",
    "rulebook/",
    "messages/",
    "terms/",
    "transcript/",
    "journal/",
)


class Calls:
    """Counts calls by file."""

    def __init__(self) -> None:
        self.by_file: Counter[str] = Counter()

    def __enter__(self) -> Calls:
        sys.setprofile(self._on)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _on(self, frame: FrameType, event: str, _arg: object) -> None:
        if event == "call":
            # What is generated, or the standard library's, counts for who calls it.
            while (back := frame.f_back) and not _named(frame):
                frame = back
            self.by_file[frame.f_code.co_filename] += 1


def _named(frame: FrameType) -> bool:
    name = frame.f_code.co_filename
    return "/psymm/" in name or "site-packages" in name or "/benches/" in name


async def test_a_trade_costs_each_side_few_python_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Which commits go through a thread would follow the disk's pace.
    monkeypatch.setattr(committer, "QUICK_COMMIT_S", float("inf"))
    wallet = bench.KeyWallet.generate()
    async with (
        bench.party_of(tmp_path / "solver.db", wallet) as solver,
        bench.party_of(tmp_path / "trader.db", bench.KeyWallet.generate()) as trader,
        trio.open_nursery() as nursery,
    ):
        maker = bench.Maker(solver, bench.make_terms(), collateral=5_000)
        port = await nursery.start(partial(maker.serve, "127.0.0.1", 0))
        async with connect(
            trader,
            f"ws://127.0.0.1:{port}/",
            expected=wallet.public_key,
            collateral=2_000,
            decimals=6,
        ) as session:
            await bench.trade(session, 4, [])
            with Calls() as calls:
                await bench.trade(session, TRADES, [])
        nursery.cancel_scope.cancel()
    each = {file: many / TRADES / 2 for file, many in calls.by_file.items()}
    around = sum(n for file, n in each.items() if not any(room in file for room in _INSIDE))
    shown = "\n".join(f"{n:8.1f} {file}" for file, n in Counter(each).most_common(30))
    assert sum(each.values()) <= MOST_CALLS, shown
    assert around <= MOST_AROUND, shown
