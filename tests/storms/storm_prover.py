"""A prover for storms whose verifier accepts everything: they are about nodes, not about proofs."""

from __future__ import annotations

from typing import Any

import trio

from psymm.custody.prover import Proof, Prover


class Agreeing(Prover):
    async def prove(self, circuit: str, inputs: dict[str, Any], expected: list[bytes]) -> Proof:
        await trio.lowlevel.checkpoint()
        return Proof(bytes(32), tuple(expected), 0, 0)
