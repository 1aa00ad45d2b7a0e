"""A proof is fresh randomness all through: two of one witness share nothing that not all share.

A part of a proof that the witness alone decided would be a fingerprint of it: equal where the same
note is proved again for another relayer, and open to whoever can guess a witness.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from psymm._core import LeanIMT, SecretKey
from psymm.chain.addresses import ZERO_ADDRESS
from psymm.chain.calls import CtaCall, CtcCall
from psymm.custody.notes import Custody, Note, empty_note, random_blinding, sole_custody
from psymm.custody.planning import CtaPlan, CtcPlan, Output, Plan, Signatures
from psymm.custody.prover import Prover

pytestmark = [pytest.mark.proofs]

CHAIN_ID = 31337
CONTRACT = "0x5FbDB2315678afecb367f032d93F642f64180aa3"
TOKEN = "0x9fE46736679d2D9a65F0992F2272dE9f3c7fa6e0"
DEADLINE = 4_000_000_200


def note_of(custody: Custody, amount: int) -> Note:
    return Note(custody, TOKEN, amount, random_blinding())


def a_plan(kind: str, custody: Custody) -> Plan:
    real = note_of(custody, 1_000)
    inputs = (real, empty_note(real))
    if kind == "cta":
        return CtaPlan(
            inputs,
            True,
            note_of(custody, 600),
            bytes(256),
            400,
            CONTRACT,
            ZERO_ADDRESS,
            0,
            DEADLINE,
        )
    outputs = tuple(
        Output(one.inner, one.amount, bytes(256))
        for one in (note_of(custody, 600), note_of(custody, 400))
    )
    return CtcPlan(inputs, True, (outputs[0], outputs[1]), ZERO_ADDRESS, 0, DEADLINE)


async def proved(prover: Prover, key: SecretKey, plan: Plan, tree: LeanIMT) -> list[bytes]:
    """The words of a proof of this plan."""
    path = tree.proof(tree.index_of(plan.inputs[0].commitment) or 0)
    call: CtcCall | CtaCall = replace(plan.call, root=tree.root)
    digest = call.digest(CHAIN_ID, CONTRACT)
    signature = key.sign(digest)
    inputs = plan.witness(call, digest, Signatures(signature, signature), [path])  # type: ignore[arg-type]
    made = await prover.prove(call.kind, inputs, call.public_inputs(CHAIN_ID, CONTRACT))
    return [made.proof[at : at + 32] for at in range(0, len(made.proof), 32)]


@pytest.mark.parametrize("kind", ["ctc", "cta"])
async def test_two_proofs_of_one_witness_share_only_what_all_proofs_share(
    kind: str, prover: Prover
) -> None:
    key = SecretKey.generate()
    plans = [a_plan(kind, sole_custody(key.public_key)) for _ in range(2)]
    tree = LeanIMT([plan.inputs[0].commitment for plan in plans])
    once, again = [await proved(prover, key, plans[0], tree) for _ in range(2)]
    other = await proved(prover, key, plans[1], tree)
    same = {at for at, word in enumerate(once) if again[at] == word}
    everywhere = {at for at, word in enumerate(once) if other[at] == word}
    print(f"  {kind}: {len(once)} words, {len(everywhere)} the same in every proof")
    assert same == everywhere
    assert len(everywhere) < len(once) / 4
