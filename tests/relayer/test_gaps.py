"""A reorganisation takes what a relayer had mined: what it sends later does not wait for ever."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import pytest
import trio

sys.path.insert(0, str(Path(__file__).parent.parent / "storms"))

from reorganisation_storm import ACCEPTS, FEE, Agreeing

from psymm.chain.calls import Call
from psymm.chain.contracts import Token
from psymm.chain.deployment import TokenInfo, deploy
from psymm.chain.devnet import CHAIN_ID, Devnet
from psymm.custody.moves import open_vault
from psymm.relayer.sender import RelayerSender
from psymm.relayer.service import RelayerConfig, RelayerService, TokenPrice
from psymm.relayer.store import Store
from psymm.wallet import KeyWallet

from .conftest import Keeping, _KeptError

pytestmark = pytest.mark.chain


async def test_a_nonce_that_a_reorganisation_freed_holds_up_no_later_call(
    own_devnet: Devnet, minting: object, tmp_path: Path
) -> None:
    owner, relayer = await own_devnet.new_account(), await own_devnet.new_account()
    put = await deploy(own_devnet.chain, owner, test_token=TokenInfo("", "T", 6))
    token, pool = put.tokens[0].address, put.pool(own_devnet.chain)
    await own_devnet.rpc.call("anvil_setCode", put.cta_verifier, ACCEPTS)
    await minting(own_devnet, put, owner.address, 100)  # type: ignore[operator]
    recipient = KeyWallet.generate().address
    calls: list[Call] = []
    async with await open_vault(owner, put, own_devnet.chain, prover=Agreeing()) as vault:
        for _ in range(2):
            await vault.deposit(owner, token, 50)
        for _ in range(2):
            keeping = Keeping(relayer.address, FEE)
            with pytest.raises(_KeptError):
                await vault.withdraw(token, 50, recipient, [keeping], max_fee=FEE)
            assert keeping.call is not None
            calls.append(keeping.call)

    async def nobody() -> list[object]:
        return []

    client = RelayerSender(pool, nobody)  # type: ignore[arg-type]
    with Store(tmp_path / "r.db", CHAIN_ID, put.psymm, relayer.address) as store:
        config = RelayerConfig({token: TokenPrice(FEE)}, replace_after_s=0.5)
        service = RelayerService(own_devnet.chain, pool, relayer, store, config)
        with trio.fail_after(180):
            async with trio.open_nursery() as nursery:
                port = await nursery.start(partial(service.serve, "127.0.0.1", 0))
                submit = partial(client.submit, endpoint=f"ws://127.0.0.1:{port}/")
                await submit(calls[0])
                await own_devnet.rpc.call("evm_setAutomine", False)
                async with trio.open_nursery() as waiting:
                    waiting.start_soon(submit, calls[1])
                    while await own_devnet.chain.count(relayer.address, "pending") < 2:  # noqa: ASYNC110
                        await trio.sleep(0.05)
                    await own_devnet.rpc.call("anvil_reorg", 1, [])
                    await own_devnet.rpc.call("evm_setAutomine", True)
                nursery.cancel_scope.cancel()
    assert await Token(own_devnet.chain, token).balance(recipient) == 2 * (50 - FEE)
    assert await own_devnet.chain.count(relayer.address, "latest") == 2
