"""A session whose key is revoked on a real chain: both ends read the registry themselves."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import trio
from key_scene import KeyedLives, changes, expect_sound, key_of, losses, of, request, trade
from session_scene import CHAIN_ID, PSYMM, REGISTRY

from psymm._core import address_of
from psymm.chain.deployment import Deployment
from psymm.chain.devnet import Devnet
from psymm.chain.revocations import RevocationWatch
from psymm.session.protocol import KeyFailing
from psymm.terms import ChainRef
from psymm.wallet import save_keystore

pytestmark = pytest.mark.chain


async def test_a_revocation_in_the_registry_changes_the_key_of_a_live_session(
    devnet: Devnet, deployment: Deployment, tmp_path: Path
) -> None:
    registry = deployment.party_registry(devnet.chain)
    depth = 3
    chain = ChainRef(id=CHAIN_ID, psymm=PSYMM, registry=REGISTRY, confirmations=depth)
    lives = KeyedLives(tmp_path, chain=chain)
    watches = [RevocationWatch(registry, deployment.first_block, poll_s=0.05) for _ in range(2)]
    lives.watched = (watches[0], watches[1])
    async with trio.open_nursery() as nursery:
        for watch in watches:
            await nursery.start(watch.run)
        async with lives.live() as stage:
            await trade(stage, "1")
            await stage.agreed()
            lives.devices[0].willing = False
            old, seq = key_of(stage.near), stage.near.protocol.record.head(0).seq
            await devnet.fund(lives.wallets[0].address)
            await registry.revoke_key(lives.wallets[0], address_of(old), seq + 10)
            await trio.sleep(0.5)
            await stage.near.send(request("r1"))
            await stage.agreed()
            assert not any(isinstance(event, KeyFailing) for event in stage.heard.events), (
                "it is not deep enough to be believed"
            )
            await devnet.mine(depth - 1)
            await of(stage.heard, KeyFailing)
            lives.devices[0].willing = True
            await stage.near.rotate_key()
            await stage.agreed()
            assert key_of(stage.far, 0) != old
            assert len(changes(stage.far, 0)) == 1
            await trade(stage, "2")
            assert losses(stage) == 0
            await expect_sound(stage)
        nursery.cancel_scope.cancel()


async def test_the_command_line_finds_the_key_and_its_next_number_in_the_journal(
    devnet: Devnet, deployment: Deployment, tmp_path: Path
) -> None:
    lives = KeyedLives(tmp_path)
    async with lives.live() as stage:
        await trade(stage, "1")
        await stage.near.rotate_key()
        await stage.agreed()
        key, uky = address_of(key_of(stage.near)), changes(stage.near, 0)[0]
        custody = stage.near.agreement.custody.hex()
        head = stage.near.protocol.record.head(0).seq
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    shutil.copy(tmp_path / "trader.db", home / "journal.db")
    wallet = lives.wallets[0]
    await save_keystore(home / "keystore.json", wallet.key, "secret", scrypt_cost=2)
    deployment.save(tmp_path / "deployment.json")

    async def psymm(*arguments: str) -> dict[str, object]:
        read, write = os.pipe()
        os.write(write, b"secret\n")
        os.close(write)
        ran = await trio.run_process(
            [sys.executable, "-m", "psymm", "key", *arguments, "--json", "--home", str(home)]
            + (["--password-fd", str(read)] if arguments[0] == "revoke" else []),
            capture_stdout=True,
            pass_fds=[read],
        )
        os.close(read)
        found = json.loads(ran.stdout.splitlines()[-1])
        assert isinstance(found, dict)
        return found

    (listed,) = (await psymm("list"))["keys"]  # type: ignore[misc, attr-defined]
    assert (listed["key"], listed["since"], listed["next"]) == (key, uky, head + 1)
    assert listed["revoked"] is False
    chain = ("--deployment", str(tmp_path / "deployment.json"), "--rpc", devnet.url)
    signed = await psymm("revoke", "--custody", custody[:8], "--sign", *chain)
    assert (signed["key"], signed["fromSeq"]) == (key, head + 1)
    registry = deployment.party_registry(devnet.chain)
    anyone = await devnet.new_account()
    signature = bytes.fromhex(str(signed["signature"])[2:])
    await registry.revoke_key_for(anyone, wallet.address, key, head + 1, signature)
    assert await registry.revocation(wallet.address, key) is not None
