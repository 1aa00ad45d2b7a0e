"""A withdrawal that could reveal its owner is reported with the reason, before it is sent."""

from __future__ import annotations

import pytest

from psymm.chain.deployment import Deployment
from psymm.chain.devnet import Devnet
from psymm.custody.warnings import PublicMoves, public_moves, withdrawal_warnings
from psymm.wallet import KeyWallet

pytestmark = pytest.mark.chain

OWN, FRESH, PAID, RICH = ("0x" + digit * 40 for digit in "1234")
OTHERS = tuple((KeyWallet.generate().address, 10**9 + n, n) for n in range(20))
SEEN = PublicMoves(((OWN, 5_000_000, 1), (RICH, 7_000_000, 2), *OTHERS), ((PAID, 1_000_000, 3),))


class Quiet:
    """A tree without anything of ours."""

    def leaf(self, commitment: bytes) -> None:
        return None

    def __len__(self) -> int:
        return 100


def codes(parts: list[tuple[str, int]], seen: PublicMoves = SEEN, notes=()) -> set[str]:
    return {
        warned.code
        for warned in withdrawal_warnings(
            parts, own=[OWN], notes=notes, seen=seen, tree=Quiet(), decimals=6
        )
    }


def test_a_round_amount_to_a_fresh_address_among_many_raises_nothing() -> None:
    assert codes([(FRESH, 2_000_000)]) == set()


@pytest.mark.parametrize(
    ("parts", "code"),
    [
        ([(OWN, 2_000_000)], "own-address"),
        ([(OWN.upper().replace("X", "x"), 2_000_000)], "own-address"),
        ([(RICH, 2_000_000)], "depositor"),
        ([(PAID, 2_000_000)], "used-address"),
        ([(FRESH, 5_000_000)], "amount-of-deposit"),
        ([(FRESH, 2_000_001)], "odd-amount"),
        ([(FRESH, 12_345_000_000)], "odd-amount"),
        ([(FRESH, 2_000_000), (PAID, 3_000_000)], "sum-of-deposit"),
        ([(FRESH, 2_000_000), (FRESH, 1_000_000)], "same-address"),
        ([(FRESH, 2_000_000), (PAID, 1_000_000)], "in-a-row"),
    ],
)
def test_each_way_of_giving_oneself_away_has_a_name(
    parts: list[tuple[str, int]], code: str
) -> None:
    assert code in codes(parts)


def test_few_others_to_hide_among_is_said() -> None:
    alone = PublicMoves(((OWN, 5_000_000, 1),), ())
    assert "few-owners" in codes([(FRESH, 2_000_000)], seen=alone)


async def test_public_moves_are_read_from_the_chain_and_a_new_deposit_is_too_soon(
    devnet: Devnet, deployment: Deployment, token: str, funded_wallet, vault
) -> None:
    alice = await funded_wallet(units=777)
    owner = await vault(alice)
    first = await devnet.rpc.block_number() + 1
    note = await owner.deposit(alice, token, 777)
    last = await devnet.rpc.block_number()
    seen = await public_moves(owner.pool, token, first, last)
    assert [(account, amount) for account, amount, _ in seen.deposits] == [(alice.address, 777)]
    assert seen.withdrawals == ()
    warned = withdrawal_warnings(
        [(alice.address, 777)], own=[alice.address], notes=[note], seen=seen, tree=owner.tree,
        decimals=6,
    )  # fmt: skip
    assert {one.code for one in warned} >= {
        "own-address", "amount-of-deposit", "everything", "too-soon", "few-owners",
    }  # fmt: skip
