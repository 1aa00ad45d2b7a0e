"""Two wallets whose signatures differ each time trade, die, come back and settle."""

from __future__ import annotations

from pathlib import Path

import pytest
from kms_signer import kms_wallet
from session_scene import CHAIN_ID, PSYMM, Lives, Scene
from test_resume import resumed
from trio.testing import MockClock

from psymm.errors import JournalForeign
from psymm.journal.writer import open_journal
from psymm.session.protocol import SessionStatus
from psymm.session.runtime.party import journal_secret
from psymm.wallet import KeyWallet


async def test_a_session_of_two_key_services_outlives_its_processes_and_settles(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    lives = Lives(tmp_path)
    secrets_keys = (KeyWallet.generate(), KeyWallet.generate())
    lives.wallets = (kms_wallet(secrets_keys[0]), kms_wallet(secrets_keys[1]))

    async def first(stage: Scene) -> None:
        await stage.heard.state(SessionStatus.TRADING)
        order = await stage.order("o1")
        await stage.report("e1", order)
        await stage.agreed()

    async def second(stage: Scene) -> None:
        await resumed(stage, 0)
        assert len((await stage.agreed()).positions) == 1

    await lives.live(open_first=True, work=first)
    await lives.live(open_first=False, work=second)


async def test_a_settlement_of_two_key_services_is_signed_and_mined(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    lives = Lives(tmp_path)
    lives.wallets = (kms_wallet(KeyWallet.generate()), kms_wallet(KeyWallet.generate()))

    async def settle(stage: Scene) -> None:
        await stage.heard.state(SessionStatus.TRADING)
        near, far = stage.both_settle()
        assert await near.settle() == await far.settle()
        await stage.heard.state(SessionStatus.CLOSED)
        assert stage.account(stage.near).ended

    await lives.live(open_first=True, work=settle)


async def test_a_journal_opens_with_its_own_secrets_key_alone(tmp_path: Path) -> None:
    secrets_key, path = KeyWallet.generate(), tmp_path / "journal.db"

    async def unlock(with_key: KeyWallet) -> None:
        wallet = kms_wallet(with_key, 7)
        async with open_journal(path) as journal:
            await journal.unlock(wallet.address, await journal_secret(wallet, CHAIN_ID, PSYMM))

    await unlock(secrets_key)
    await unlock(secrets_key)
    with pytest.raises(JournalForeign):
        await unlock(KeyWallet.generate())
