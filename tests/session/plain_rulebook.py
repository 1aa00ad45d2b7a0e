"""Beside each session's ledger, the plain rulebook: every frame decoded and stepped by itself.

A ledger rules a frame once, when it is asked about, and keeps what came of it. The plain rulebook
knows no dry run and no projection. After every frame both must have the same accounts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import pytest

from psymm._core import Frame
from psymm.rulebook import Account, ChainFacts, Replay, Ruling
from psymm.rulebook.totals import totals_of
from psymm.session.runtime.ledger import RulebookLedger
from psymm.transcript.record import RecordedFrame


@dataclass
class Plain:
    """starts_at: the account of the checkpoint that it began at. replay: None where it has to be
    ruled from there again."""

    starts_at: Account | None
    frames: list[Frame] = field(default_factory=list)
    replay: Replay | None = None
    facts: ChainFacts | None = None

    def ruled(self, ledger: RulebookLedger) -> Replay:
        now = ledger._replay
        if self.replay is None or self.facts is not now.facts:
            if self.starts_at is None:
                at = Replay.start(now.inputs, now.terms, now.facts)
            else:
                at = Replay.at_checkpoint(now.inputs, now.terms, self.starts_at, now.facts)
            for frame in self.frames[:-1]:
                at.step(frame)
            self.replay, self.facts = at, now.facts
        self.replay.step(self.frames[-1])
        return self.replay


def check_every_frame(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Hold every ledger from now on against the plain rulebook. Returns where the frames are
    counted that were."""
    plains: WeakKeyDictionary[RulebookLedger, Plain] = WeakKeyDictionary()
    checked = [0]
    arrived, drop = RulebookLedger.arrived, RulebookLedger.drop

    def plain_of(ledger: RulebookLedger) -> Plain:
        return plains.setdefault(ledger, Plain(ledger._begins))

    def checked_arrived(ledger: RulebookLedger, entry: RecordedFrame) -> Sequence[Ruling]:
        plain = plain_of(ledger)
        plain.frames.append(entry.frame)
        rulings = arrived(ledger, entry)
        if ledger.waits:
            plain.replay = None
            return rulings
        at = plain.ruled(ledger)
        assert at.account.hash == ledger.account.hash
        assert at.projected().hash == ledger.projected.hash
        assert at.faults == ledger._replay.faults
        for name, total in totals_of(ledger.account).items():
            assert getattr(ledger.account, name) == total
        checked[0] += 1
        return rulings

    def checked_drop(ledger: RulebookLedger, lane: int, seq: int) -> Any:
        plain = plain_of(ledger)
        partly = drop(ledger, lane, seq)
        if partly:
            plain.frames = [one for one in plain.frames if one.lane != lane or one.seq < seq]
            plain.replay = None
        else:
            plains[ledger] = Plain(ledger._begins)
        return partly

    monkeypatch.setattr(RulebookLedger, "arrived", checked_arrived)
    monkeypatch.setattr(RulebookLedger, "drop", checked_drop)
    return checked
