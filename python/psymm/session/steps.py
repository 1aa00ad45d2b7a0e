"""The steps that an end takes of itself, one frame at a time: its Logon, its collateral, the answer
to a Logout, the citation of a settlement that closes the custody.

A Logout stops none of them: it forbids opening and nothing else (`spec.md` 63). Its answer puts on
record that this side opens nothing more either.
"""

from __future__ import annotations

from typing import Protocol

from psymm.errors import LogonRefused
from psymm.messages import ChainFact, FactKind, Heartbeat, Logon, Logout, Settlement
from psymm.session.collateral import Mined
from psymm.session.parts import Ground
from psymm.session.pledges import Pledges, refusal_of
from psymm.session.turn import KeyDue
from psymm.transcript.opening import SOLVER, TRADER


class SteppingEngine(Ground, Protocol):
    """The engine, as its steps know it."""

    def may_sign(self, now: int) -> bool:
        """Whether anything may be signed now."""
        ...

    def uncovered(self) -> bool:
        """Is there a frame of the peer, more than a Heartbeat, that we have not covered?"""
        ...


class Steps:
    """logon: ours, yet to be signed unless the record has it. bad_logon: why the peer's is none."""

    def __init__(self, engine: SteppingEngine, pledges: Pledges, logon: Logon | None) -> None:
        self._engine = engine
        self._pledges = pledges
        self._logon = logon
        self.bad_logon: LogonRefused | None = None
        self._mined: Mined | None = None
        self._mined_at = 0

    def mined(self, mined: Mined, now: int) -> None:
        """The settlement is on chain: it is to be cited."""
        self._mined, self._mined_at = mined, now

    def step(self, now: int) -> bool:
        """One step towards trading, or out of it; False where nothing is due."""
        engine, life = self._engine, self._engine.lifecycle
        if not engine.may_sign(now):
            return False
        mine, theirs = life.logons[engine.lane], life.logons[engine.peer]
        if mine is None:
            if engine.lane == SOLVER:
                if theirs is None:
                    return False
                refusal = self._logon_refusal(theirs)
                if refusal is not None:
                    engine.say_reject(now, "A", str(refusal))
                    engine.stop(refusal)
                    return False
                if not self._pledges.judged:
                    # A stranger's Logon is not worth a signature before our chain has its notes.
                    self._pledges.step_verify()
                    return False
            if self._logon is None:
                return False
            engine.sign(self._logon, now)
            engine.turn.events.append(KeyDue())
            return True
        if theirs is None:
            return engine.lane == TRADER and self._pledges.step_openings(now)
        if engine.lane == TRADER:
            refusal = self._logon_refusal(theirs)
            if refusal is not None:
                engine.stop(refusal)
                return False
        turned_down = life.turned_down[engine.lane]
        if turned_down is not None and not life.accepted_at[engine.lane]:
            engine.stop(refusal_of(turned_down))
            return False
        if self._pledges.step_openings(now) or self._pledges.step(now):
            return True
        if engine.error is not None:
            return False  # the peer's collateral was refused just now
        if life.logouts[engine.peer] and not life.logouts[engine.lane]:
            engine.sign(Logout(), now)
            return True
        if self._mined is not None and life.settled is None and life.proposal is not None:
            return self._cite(self._mined, life.proposal[2], now)
        if life.settled is not None and engine.uncovered() and engine.covers(now):
            engine.sign(Heartbeat(), now)
            return True
        return False

    def _cite(self, mined: Mined, said: Settlement, now: int) -> bool:
        """One of the two cites the settlement: the solver at once, since its frames take effect
        where they stand; the trader only where the solver leaves it undone."""
        engine = self._engine
        if engine.lane == TRADER and now < self._mined_at + engine.rules.wait_ns // 2:
            return False
        engine.sign(
            ChainFact(
                fact_kind=FactKind.SPENT,
                block_number=mined.block,
                transaction_hash=mined.transaction,
                nullifier=said.nullifier0,
            ),
            now,
        )
        return True

    def _logon_refusal(self, logon: Logon) -> LogonRefused | None:
        """Why the peer's Logon will not do, or None."""
        rules = self._engine.rules
        if logon.terms_hash != rules.terms_hash:
            return LogonRefused(
                "the Logon names other terms", theirs=logon.terms_hash, ours=rules.terms_hash
            )
        if not 1 <= logon.heart_bt_int <= 3600:
            return LogonRefused("HeartBtInt is out of range", heart_bt_int=logon.heart_bt_int)
        if self._engine.peer == TRADER and not logon.notes:
            return LogonRefused("the trader's Logon lists no notes")
        return self.bad_logon


__all__ = ["Steps"]
