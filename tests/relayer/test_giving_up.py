"""A relayer's transaction that waits while its call becomes void gives way to an empty one."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import pytest
import trio

sys.path.insert(0, str(Path(__file__).parent.parent / "storms"))
sys.path.insert(0, str(Path(__file__).parent.parent / "chain"))

from pools import KeepingPool
from reorganisation_storm import ACCEPTS, FEE, Agreeing

from psymm.chain.contracts import Token
from psymm.chain.deployment import TokenInfo, deploy
from psymm.chain.devnet import CHAIN_ID, Devnet
from psymm.chain.transactions import Chain
from psymm.custody.moves import open_vault
from psymm.custody.sending import DirectSender
from psymm.relayer.errors import AlreadySpent
from psymm.relayer.sender import RelayerSender
from psymm.relayer.service import RelayerConfig, RelayerService, TokenPrice
from psymm.relayer.store import Store
from psymm.wallet import KeyWallet

from .conftest import Keeping, _KeptError

pytestmark = pytest.mark.chain


async def test_a_call_that_became_void_while_it_waited_costs_no_failed_transaction(
    own_devnet: Devnet, minting: object, tmp_path: Path
) -> None:
    """Its note is spent by another move meanwhile: that is told, and the nonce is free again."""
    owner, relayer = await own_devnet.new_account(), await own_devnet.new_account()
    put = await deploy(own_devnet.chain, owner, test_token=TokenInfo("", "T", 6))
    token, pool = put.tokens[0].address, put.pool(own_devnet.chain)
    await own_devnet.rpc.call("anvil_setCode", put.cta_verifier, ACCEPTS)
    await minting(own_devnet, put, owner.address, 100)  # type: ignore[operator]
    recipient, rival = KeyWallet.generate().address, KeyWallet.generate().address
    async with await open_vault(owner, put, own_devnet.chain, prover=Agreeing()) as vault:
        await vault.deposit(owner, token, 100)
        keeping = Keeping(relayer.address, FEE)
        direct = DirectSender(pool, owner)

        async with (
            KeepingPool(own_devnet.url, leaves_out=lambda one: bool(one.does[2])) as rpc,
            trio.open_nursery() as nursery,
        ):
            chain = Chain(rpc, CHAIN_ID, poll_s=0.05)
            with Store(tmp_path / "r.db", CHAIN_ID, put.psymm, relayer.address) as store:
                config = RelayerConfig({token: TokenPrice(FEE)}, replace_after_s=0.5)
                service = RelayerService(chain, put.pool(chain), relayer, store, config)
                port = await nursery.start(partial(service.serve, "127.0.0.1", 0))

                with pytest.raises(_KeptError):
                    await vault.withdraw(token, 50, recipient, [keeping], max_fee=FEE)
                assert keeping.call is not None
                call = keeping.call

                async def nobody() -> list[object]:
                    return []

                client = RelayerSender(pool, nobody)  # type: ignore[arg-type]
                ended: list[Exception] = []

                async def submit() -> None:
                    try:
                        await client.submit(call, f"ws://127.0.0.1:{port}/")
                    except AlreadySpent as told:
                        ended.append(told)
                    nursery.cancel_scope.cancel()

                nursery.start_soon(submit)
                await rpc.taken.wait()
                # Another of its owner's programs, which knows nothing of that call.
                async with await open_vault(
                    owner, put, own_devnet.chain, prover=Agreeing()
                ) as other:
                    await other.withdraw(token, 30, rival, [direct])
                await trio.sleep_forever()
        assert len(ended) == 1
        statistics = service.statistics()
    assert (statistics.beaten, statistics.lost_wei) == (0, 0)
    erc20 = Token(own_devnet.chain, token)
    assert (await erc20.balance(rival), await erc20.balance(recipient)) == (30, 0)
    assert await own_devnet.chain.count(relayer.address, "latest") == 1
    assert {one.nonce for one in rpc.given} == {0}
