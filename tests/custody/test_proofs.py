"""Real proofs against the real verifier: nothing about a proved move can be changed."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from psymm._core import FIELD_MODULUS
from psymm.chain.calls import CtaCall, CtcCall
from psymm.chain.devnet import Devnet
from psymm.chain.errors import CallInvalid, Reverted
from psymm.custody.errors import (
    CrsInvalid,
    DeadlinePassed,
    NoteInvalid,
    ProverFailed,
    ProverMissing,
    Unprovable,
)
from psymm.custody.moves import Vault
from psymm.custody.notes import Custody
from psymm.custody.planning import CtaPlan, CtcPlan, Output, Signatures, deadline_after, paired
from psymm.custody.prover import Prover
from psymm.wallet import KeyWallet

pytestmark = [pytest.mark.chain, pytest.mark.proofs]

RELAYER = "0x" + "22" * 20


async def planned(owner: Vault, token: str, kind: str):
    """A plan that moves the owner's one note of 100, with a fee, and its signature."""
    (held,) = await owner.store.notes(token=token, custody=owner.view.sole.id)
    inputs, empty = paired([held.note])
    deadline = deadline_after(await owner.chain.now_s())
    change = owner.view.note(owner.view.sole, token, 60, 900)
    memo = owner.view.seal(change, 900)
    if kind == "cta":
        recipient = KeyWallet.generate().address
        plan = CtaPlan(inputs, empty, change, memo, 40, recipient, RELAYER, 3, deadline)
    else:
        other = owner.view.note(owner.view.sole, token, 37, 901)
        outputs = (
            Output(change.inner, 60, memo),
            Output(other.inner, 37, owner.view.seal(other, 901)),
        )
        plan = CtcPlan(inputs, empty, outputs, RELAYER, 3, deadline)
    place = (owner.deployment.chain_id, owner.deployment.psymm)
    signature = await owner.wallet.sign_typed(plan.call.message(*place))
    return plan, Signatures(signature, signature)


@pytest.fixture
async def owner(token: str, funded_wallet, vault) -> Vault:
    alice = await funded_wallet(units=100)
    opened = await vault(alice)
    await opened.deposit(alice, token, 100)
    return opened


async def refused(owner: Vault, call: CtcCall | CtaCall) -> str:
    with pytest.raises(Reverted) as no:
        await owner.pool.simulate_move(call)
    return no.value.error


@pytest.mark.parametrize("kind", ["ctc", "cta"])
async def test_every_byte_of_a_proof_and_every_public_value_counts(
    owner: Vault, token: str, kind: str
) -> None:
    plan, signatures = await planned(owner, token, kind)
    call, _ = await owner.proving.prove(plan, signatures)
    await owner.pool.simulate_move(call)

    draw = random.Random(2)
    size = len(call.proof)
    # One byte out of each of the proof's words, so that no part of it is left out.
    places = [word + draw.randrange(32) for word in range(0, size, 32)]
    wrong = []

    async def try_byte(at: int) -> None:
        proof = bytearray(call.proof)
        proof[at] ^= 1 << draw.randrange(8)
        try:
            await owner.pool.simulate_move(call.proved(bytes(proof)))
        except Reverted:
            return
        wrong.append(at)

    for at in places:
        await try_byte(at)
    assert wrong == []
    assert await refused(owner, call.proved(call.proof[:-32]))
    assert await refused(owner, call.proved(call.proof + bytes(32)))
    assert await refused(owner, call.proved(bytes(size)))

    other = (int.from_bytes(call.nullifiers[1], "big") + 1).to_bytes(32, "big")
    changes = {
        "nullifiers": (call.nullifiers[0], other),
        "relayer": "0x" + "23" * 20,
        "fee": call.fee + 1,
        "deadline": call.deadline + 1,
    }
    if isinstance(call, CtcCall):
        changes |= {
            "commitments": (call.commitments[1], call.commitments[0]),
            "fee_token": "0x" + "24" * 20,
            "memos": (call.memos[1], call.memos[0]),
        }
    else:
        changes |= {
            "change": other,
            "token": "0x" + "24" * 20,
            "amount": call.amount + 1,
            "recipient": "0x" + "25" * 20,
            "memo": bytes(256),
        }
    for name, value in changes.items():
        # The verifier names what fails inside it, or the contract says ProofInvalid.
        assert await refused(owner, replace(call, **{name: value})), name
    assert await refused(owner, replace(call, root=b"\x01" * 32)) == "RootUnknown"
    assert await refused(owner, replace(call, deadline=1)) == "DeadlinePassed"
    swapped = replace(call, nullifiers=call.nullifiers[::-1])
    assert await refused(owner, swapped)


async def test_public_values_at_or_above_the_modulus_are_refused_by_the_contract(
    owner: Vault, token: str
) -> None:
    plan, signatures = await planned(owner, token, "ctc")
    call, _ = await owner.proving.prove(plan, signatures)
    encode = owner.pool.abi.function("custodyToCustody").encode
    good = call.abi_value()
    for at, index in ((0, None), (1, 0), (1, 1), (2, 0), (2, 1)):
        for shift in (FIELD_MODULUS, (1 << 256) - 1 - FIELD_MODULUS):
            values = list(good)
            if index is None:
                values[at] = (good[at] + shift) % (1 << 256)
            else:
                values[at] = [
                    (one + shift) % (1 << 256) if here == index else one
                    for here, one in enumerate(good[at])
                ]
            number = values[at] if index is None else values[at][index]
            if number < FIELD_MODULUS:
                continue
            with pytest.raises(Reverted) as no:
                await owner.chain.simulate(owner.pool.address, encode(tuple(values)))
            assert no.value.error == "NotInField"
    with pytest.raises(CallInvalid):
        replace(call, root=FIELD_MODULUS.to_bytes(32, "big"))


async def test_the_contracts_digest_is_ours(owner: Vault, token: str) -> None:
    for kind in ("ctc", "cta"):
        plan, _ = await planned(owner, token, kind)
        call = plan.call
        place = (owner.deployment.chain_id, owner.deployment.psymm)
        assert await owner.pool.digest(call) == call.digest(*place)


async def test_no_proof_exists_without_both_signatures_the_sum_or_the_path(
    owner: Vault, prover: Prover, token: str
) -> None:
    plan, signatures = await planned(owner, token, "cta")
    place = (owner.deployment.chain_id, owner.deployment.psymm)
    call = replace(plan.call, root=owner.tree.root)
    digest = call.digest(*place)
    paths = [owner.tree.proof(plan.inputs[0].commitment)]
    expected = call.public_inputs(*place)
    good = plan.witness(call, digest, signatures, paths)

    stranger = list(KeyWallet.generate().sign_digest(digest)[:64])
    for name, value in (
        ("trader_signature", stranger),
        ("solver_signature", stranger),
        ("change_amount", hex(61)),
        ("path_index", [good["path_index"][0] ^ 1, 0]),
        ("salt", "0x1"),
        ("empty1", False),
    ):
        if name == "path_index" and good["path_length"][0] == 0:
            continue
        with pytest.raises(Unprovable) as no:
            await prover.prove("cta", {**good, name: value}, expected)
        assert no.value.circuit == "cta"
        for secret in (plan.inputs[0].blinding.hex(), signatures.trader.hex()[:64]):
            assert secret not in str(no.value)
    with pytest.raises(ProverFailed):
        await prover.prove("cta", {**good, "salt": 7}, expected)
    with pytest.raises(ProverFailed):
        await prover.prove("cta", {key: good[key] for key in good if key != "salt"}, expected)
    with pytest.raises(ProverFailed):
        await prover.prove("cts", good, expected)
    with pytest.raises(ProverFailed, match="other public values"):
        await prover.prove("cta", good, [bytes(32), *expected[1:]])


async def test_a_prover_that_was_killed_starts_again_and_a_cancelled_proof_spoils_nothing(
    devnet: Devnet, owner: Vault, prover: Prover, token: str
) -> None:
    await prover.start()
    first = prover.pid
    assert first is not None
    import os
    import signal

    os.kill(first, signal.SIGKILL)
    plan, signatures = await planned(owner, token, "cta")
    call, _ = await owner.proving.prove(plan, signatures)
    assert prover.pid not in (None, first)
    with trio.move_on_after(0.3):
        await owner.proving.prove(plan, signatures)
    again, _ = await owner.proving.prove(plan, signatures)
    await owner.pool.simulate_move(again)
    assert again.proof != call.proof


async def test_a_prover_that_is_not_installed_says_what_to_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with Prover() as prover:
        with monkeypatch.context() as changed:
            changed.setenv("PSYMM_NODE", str(tmp_path))
            with pytest.raises(ProverMissing, match="psymm tools install"):
                await prover.start()
        with monkeypatch.context() as changed:
            changed.setenv("PATH", str(tmp_path))
            with pytest.raises(ProverMissing, match="Node"):
                await prover.start()
        with monkeypatch.context() as changed:
            changed.setenv("CRS_PATH", str(tmp_path))
            with pytest.raises(CrsInvalid):
                await prover.start()
        await prover.start()
        assert prover.pid is not None
    assert prover.pid is None


async def test_plans_that_cannot_be_are_refused_before_anything_is_signed(
    owner: Vault, token: str
) -> None:
    plan, signatures = await planned(owner, token, "cta")
    note = plan.inputs[0]
    bilateral = Custody(
        owner.wallet.public_key, KeyWallet.generate().public_key, b"\x01" * 32, b"\x02" * 32
    )
    for changes in (
        {"amount": 41},
        {"change": owner.view.note(owner.view.sole, token, 61, 1)},
        {"change": owner.view.note(bilateral, token, 60, 1)},
        {"inputs": (note, note)},
        {"inputs": (note, owner.view.note(bilateral, token, 0, 1))},
        {"inputs": (note, owner.view.note(owner.view.sole, RELAYER, 0, 1))},
        {"inputs": (note, owner.view.note(owner.view.sole, token, 1, 1)), "amount": 41},
    ):
        with pytest.raises(NoteInvalid):
            replace(plan, **changes)
    with pytest.raises(DeadlinePassed):
        await owner.proving.prove(replace(plan, deadline=1), signatures)
