"""ChainTasks: what a session asks of its own chain, in tasks of the session's nursery.

Each ends with an answer for the protocol: our notes are funded, the peer's are verified or refused,
what the peer cites is there or not. Trouble of our own closes the connection, and the custody can
be resumed when it has passed.
"""

from __future__ import annotations

from typing import Final

import trio

from psymm.errors import CollateralRefused, PSymmError
from psymm.session.protocol import Stopped
from psymm.session.runtime.collateral import Collateral, Note
from psymm.session.runtime.interpreter import EffectInterpreter

LOOK_UP_S: Final = 2.0
LOOK_UP_AGAIN_S: Final = 10.0
"""Seconds between two looks at our own chain for what the peer cites, and the longer wait if the
chain does not answer."""


class ChainTasks:
    """One session's. collateral: None for a repair, which needs no custody."""

    def __init__(self, session: EffectInterpreter, collateral: Collateral | None) -> None:
        self._session = session
        self._protocol = session.protocol
        self._clock = session.clock
        self._collateral = collateral
        self._asking = False

    @property
    def collateral(self) -> Collateral:
        """Our notes, proofs and chain. A repair has none and needs none."""
        assert self._collateral is not None  # noqa: S101
        return self._collateral

    def look_up_soon(self, nursery: trio.Nursery) -> None:
        """Ask our own chain about what the peer cites, if a frame waits for it."""
        if self._protocol.cited is not None and not self._asking:
            self._asking = True
            nursery.start_soon(self._look_up)

    async def _look_up(self) -> None:
        """Ask our own chain about what the peer cites, as long as a frame waits for the answer."""
        try:
            while (cited := self._protocol.cited) is not None:
                wait_s = LOOK_UP_S
                try:
                    view = await self.collateral.look_up(cited.said)
                except PSymmError:
                    wait_s = LOOK_UP_AGAIN_S
                else:
                    self._session.perform(
                        self._protocol.chain_says(cited, view, self._clock.now_ns())
                    )
                # The answer may have released a frame, and another citation may wait now. That one
                # is asked at once.
                if self._protocol.cited == cited:
                    await trio.sleep(wait_s)
        finally:
            self._asking = False

    async def verify(self, notes: tuple[Note, ...]) -> None:
        """Check the peer's notes on our own chain."""
        try:
            await self.collateral.verify(self._session.agreement, notes)
        except CollateralRefused as refused:
            self._session.perform(self._protocol.collateral_refused(refused, self._clock.now_ns()))
        except PSymmError as failed:
            self._give_up(failed)
        else:
            self._session.perform(self._protocol.collateral_verified(notes, self._clock.now_ns()))

    async def fund(self, amount: int) -> None:
        """Put up `amount` token units."""
        try:
            notes = await self.collateral.fund(
                self._session.agreement,
                self._session.lane,
                self._protocol.params.token,
                amount,
            )
        except PSymmError as failed:
            self._give_up(failed)
        else:
            self._session.perform(self._protocol.collateral_funded(notes, self._clock.now_ns()))

    def _give_up(self, failed: PSymmError) -> None:
        """Something of our own failed (chain, proof, funds). Close the connection. The custody can
        be resumed when it works again."""
        self._session.perform(self._protocol.collateral_failed())
        self._session.report(Stopped(failed))
        self._session.disconnect(failed)
