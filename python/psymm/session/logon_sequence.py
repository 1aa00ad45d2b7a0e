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
from psymm.session.collateral_exchange import CollateralExchange, refusal_of
from psymm.session.context import ProtocolContext
from psymm.session.effects import KeyDue
from psymm.transcript.agreement import SOLVER, TRADER


class LogonContext(ProtocolContext, Protocol):
    """The protocol, as its steps know it."""

    def may_sign(self, now: int) -> bool:
        """Whether anything may be signed now."""
        ...

    def uncovered(self) -> bool:
        """Is there a frame of the peer, more than a Heartbeat, that we have not covered?"""
        ...


class LogonSequence:
    """logon: ours, yet to be signed unless the record has it. bad_logon: why the peer's is none."""

    def __init__(
        self, protocol: LogonContext, collateral_exchange: CollateralExchange, logon: Logon | None
    ) -> None:
        self._protocol = protocol
        self._collateral_exchange = collateral_exchange
        self._logon = logon
        self.bad_logon: LogonRefused | None = None
        self._mined: Mined | None = None
        self._mined_at = 0

    def mined(self, mined: Mined, now: int) -> None:
        """The settlement is on chain: it is to be cited."""
        self._mined, self._mined_at = mined, now

    def step(self, now: int) -> bool:
        """One step towards trading, or out of it; False where nothing is due."""
        protocol, life = self._protocol, self._protocol.lifecycle
        if not protocol.may_sign(now):
            return False
        mine, theirs = life.logons[protocol.lane], life.logons[protocol.peer]
        if mine is None:
            if protocol.lane == SOLVER:
                if theirs is None:
                    return False
                refusal = self._logon_refusal(theirs)
                if refusal is not None:
                    protocol.queue_business_reject(now, "A", str(refusal))
                    protocol.stop(refusal)
                    return False
                if not self._collateral_exchange.judged:
                    # A stranger's Logon is not worth a signature before our chain has its notes.
                    self._collateral_exchange.step_verify()
                    return False
            if self._logon is None:
                return False
            protocol.sign(self._logon, now)
            protocol.effects.events.append(KeyDue())
            return True
        if theirs is None:
            return protocol.lane == TRADER and self._collateral_exchange.step_openings(now)
        if protocol.lane == TRADER:
            refusal = self._logon_refusal(theirs)
            if refusal is not None:
                protocol.stop(refusal)
                return False
        turned_down = life.turned_down[protocol.lane]
        if turned_down is not None and not life.accepted_at[protocol.lane]:
            protocol.stop(refusal_of(turned_down))
            return False
        if self._collateral_exchange.step_openings(now) or self._collateral_exchange.step(now):
            return True
        if protocol.error is not None:
            return False  # the peer's collateral was refused just now
        if life.logouts[protocol.peer] and not life.logouts[protocol.lane]:
            protocol.sign(Logout(), now)
            return True
        if self._mined is not None and life.settled is None and life.proposal is not None:
            return self._cite(self._mined, life.proposal[2], now)
        if life.settled is not None and protocol.uncovered() and protocol.covers(now):
            protocol.sign(Heartbeat(), now)
            return True
        return False

    def _cite(self, mined: Mined, said: Settlement, now: int) -> bool:
        """One of the two cites the settlement: the solver at once, since its frames take effect
        where they stand; the trader only where the solver leaves it undone."""
        protocol = self._protocol
        if (
            protocol.lane == TRADER
            and now < self._mined_at + protocol.params.response_timeout_ns // 2
        ):
            return False
        protocol.sign(
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
        params = self._protocol.params
        if logon.terms_hash != params.terms_hash:
            return LogonRefused(
                "the Logon names other terms", theirs=logon.terms_hash, ours=params.terms_hash
            )
        if not 1 <= logon.heart_bt_int <= 3600:
            return LogonRefused("HeartBtInt is out of range", heart_bt_int=logon.heart_bt_int)
        if self._protocol.peer == TRADER and not logon.notes:
            return LogonRefused("the trader's Logon lists no notes")
        return self.bad_logon


__all__ = ["LogonSequence"]
