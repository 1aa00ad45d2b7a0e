"""Test tokens with the habits of real ones (contracts/src/test-support/OddTokens.sol).

A habit is named as in `Odd` there; several are added up.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

from psymm.chain.abi import Abi
from psymm.chain.devnet import Devnet
from psymm.wallet import KeyWallet

CONTRACTS: Final = Path(__file__).parents[2] / "contracts"
SOURCE: Final = CONTRACTS / "src" / "test-support" / "OddTokens.sol"
ODD: Final = {
    name: 1 << int(bit)
    for name, bit in re.findall(r"constant (\w+) = 1 << (\d+);", SOURCE.read_text())
}


def compiled(name: str) -> tuple[Abi, bytes]:
    """ABI and creation code; forge makes them with the package's own contracts."""
    raw: Any = json.loads((CONTRACTS / "out" / "OddTokens.sol" / f"{name}.json").read_text())
    return Abi(raw["abi"], name), bytes.fromhex(raw["bytecode"]["object"].removeprefix("0x"))


async def put_token(devnet: Devnet, *habits: str, symbol: bytes = b"ODD", decimals: int = 6) -> str:
    """Deploy one; its address."""
    abi, code = compiled("OddToken")
    odd = sum(ODD[one] for one in habits)
    data = code + abi.encode_constructor(symbol, decimals, odd)
    return await _create(devnet, data)


async def put_proxy(devnet: Devnet, implementation: str) -> str:
    """Deploy a proxy of a token; its address."""
    abi, code = compiled("TokenProxy")
    return await _create(devnet, code + abi.encode_constructor(implementation))


async def do(devnet: Devnet, token: str, function: str, *values: object) -> None:
    """What anyone may do with such a token: mint, bar, setRate."""
    abi, _ = compiled("OddToken")
    await devnet.chain.transact(
        await devnet.new_account(), token, abi.function(function).encode(*values)
    )


async def become(devnet: Devnet, token: str, other: str | None) -> None:
    """Replace a token's code by another token's, as an upgrade by its issuer does; None: no
    code."""
    code = "0x" if other is None else "0x" + (await devnet.chain.code(other)).hex()
    await devnet.rpc.call("anvil_setCode", token, code)


async def _create(devnet: Devnet, data: bytes) -> str:
    deployer: KeyWallet = await devnet.new_account()
    receipt = await devnet.chain.transact(deployer, None, data)
    assert receipt.contract is not None
    return receipt.contract
