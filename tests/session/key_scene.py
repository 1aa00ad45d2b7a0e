"""A scene whose session keys end soon, whose wallets may refuse, whose chain has revocations."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import trio
from session_scene import (
    SECOND,
    UNIT,
    ChainCollateral,
    LedgerChain,
    Listener,
    Scene,
    SceneClock,
    make_terms,
    party,
    verified,
)

from psymm._core import Frame, SecretKey, sign_frame
from psymm.errors import WalletError
from psymm.messages import QuoteRequest, SessionKeyChange, encode
from psymm.nursery import open_block_nursery
from psymm.session.protocol import Event
from psymm.session.runtime.key_rotator import Revocations
from psymm.session.runtime.party import LocalParty
from psymm.session.runtime.runner import SessionRunner
from psymm.session.runtime.trader import ConnectionLost
from psymm.transcript.delegation import Delegation
from psymm.typed_message import TypedMessage
from psymm.wallet import KeyWallet

LIFE_S = 3600


class Revoked:
    """Revocations as a registry has them, seen at once by whoever watches."""

    def __init__(self) -> None:
        self.version = 0
        self._known: dict[str, dict[str, int]] = {}
        self._listeners: list[Callable[[], None]] = []

    def of(self, wallet: str, depth: int) -> Mapping[str, int]:
        return dict(self._known.get(wallet, {}))

    def listen(self, heard: Callable[[], None]) -> Callable[[], None]:
        self._listeners.append(heard)
        return lambda: self._listeners.remove(heard)

    def revoke(self, wallet: str, key: str, from_seq: int) -> None:
        self._known.setdefault(wallet, {})[key] = from_seq
        self._tell()

    def take_back(self) -> None:
        """The chain went back to before all of them."""
        self._known.clear()
        self._tell()

    def _tell(self) -> None:
        self.version += 1
        for heard in tuple(self._listeners):
            heard()


class Device:
    """A wallet behind a person: signs delegations when it is willing, after it has thought."""

    def __init__(self, wallet: KeyWallet) -> None:
        self._wallet = wallet
        self.willing = True
        self.thinks_s = 0.0
        self.asked = 0

    @property
    def address(self) -> str:
        return self._wallet.address

    @property
    def public_key(self) -> bytes:
        return self._wallet.public_key

    async def sign_typed(self, message: TypedMessage) -> bytes:
        if message.primary_type == "SessionKey":
            self.asked += 1
            await trio.sleep(self.thinks_s)
            if not self.willing:
                raise WalletError("the person said no")
        return await self._wallet.sign_typed(message)


class KeyedLives:
    """The same two parties over several lives of their processes."""

    def __init__(
        self, path: Path, *, expires_in_s: int = LIFE_S, key_frames: int = 10**6, **terms: Any
    ) -> None:
        self.path = path
        self.expires_in_s = expires_in_s
        self.key_frames = key_frames
        self.wallets = (KeyWallet.generate(), KeyWallet.generate())
        self.devices = tuple(map(Device, self.wallets))
        self.chain = LedgerChain()
        self.clock = SceneClock()
        self.revoked = Revoked()
        self.watched: tuple[Revocations, Revocations] = (self.revoked, self.revoked)
        self.terms = make_terms(**terms)
        self._funds: dict[int, ChainCollateral] = {}

    @asynccontextmanager
    async def live(
        self, *, resume: bool = False, trader_journal: str = "trader.db"
    ) -> AsyncGenerator[Scene, None]:
        """Both processes, until the block ends."""
        async with (
            party(self.wallets[0], self.chain, self.clock, self.path / trader_journal) as trader,
            party(self.wallets[1], self.chain, self.clock, self.path / "solver.db") as solver,
            open_block_nursery() as nursery,
        ):
            parties = [self._party(lane, made) for lane, made in enumerate((trader, solver))]
            stage = Scene(nursery, self.chain, self.clock, parties[0], parties[1], self.terms)
            if resume:
                (custody,) = await trader.journal.custodies()
                stage.client = stage.new_client(resume=custody)
                await nursery.start(stage.server.run)
                await nursery.start(stage.client.run)
            else:
                await stage.open()
            yield stage
            nursery.cancel_scope.cancel()

    def _party(self, lane: int, made: LocalParty) -> LocalParty:
        assert isinstance(made.collateral, ChainCollateral)
        return replace(
            made,
            wallet=self.devices[lane],
            collateral=self._funds.setdefault(lane, made.collateral),
            revocations=self.watched[lane],
            key_life_ns=self.expires_in_s * SECOND,
            key_frames=self.key_frames,
        )


def request(name: str) -> QuoteRequest:
    return QuoteRequest(quote_req_id=name, symbol="BTC-USD", order_qty=UNIT // 100)


def key_of(runner: SessionRunner, lane: int | None = None) -> bytes:
    known = runner.protocol.record.delegation(runner.lane if lane is None else lane)
    assert known is not None
    return known.public_key


def changes(runner: SessionRunner, lane: int) -> list[int]:
    """The numbers of a lane's UKYs."""
    return [
        entry.frame.seq
        for entry in (*runner.protocol.record.before, *runner.protocol.record)
        if entry.frame.lane == lane and isinstance(entry.message, SessionKeyChange)
    ]


def losses(stage: Scene) -> int:
    return sum(isinstance(event, ConnectionLost) for event in stage.heard.events)


async def of(listener: Listener, kind: type, after: int = 0) -> Event:
    return await listener.until(  # type: ignore[return-value]
        lambda event: event if isinstance(event, kind) else None, after=after
    )


async def expect_sound(stage: Scene) -> None:
    """Both accounts agree and both journals verify, frame by frame."""
    await stage.agreed()
    custody = stage.near.agreement.custody
    for each in (stage.trader, stage.solver):
        assert await verified(each.journal, custody) == len(stage.near.protocol.record)


async def trade(stage: Scene, name: str) -> None:
    """An order and its fill, once heads agree."""
    while not (stage.near.protocol.synced and stage.far.protocol.synced):  # noqa: ASYNC110
        await trio.sleep(0.05)
    await stage.report(f"e{name}", await stage.order(f"o{name}"))


def digests_by_number(stages: list[Scene]) -> dict[int, set[bytes]]:
    """Every digest that the trader ever sent for one number."""
    found: dict[int, set[bytes]] = {}
    for stage in stages:
        for wire in stage.wires:
            for message in wire.sent:
                offset = 0
                while isinstance(message, bytes) and offset < len(message):
                    frame = Frame.parse(message, offset)
                    offset += len(frame.raw)
                    if frame.lane == 0:
                        digest = frame.digest(stage.near.agreement.domain)
                        found.setdefault(frame.seq, set()).add(digest)
    return found


async def uky(stage: Scene, key: SecretKey, seq: int, **delegated: int) -> Frame:
    """A UKY of the trader's wallet, signed by the key that it brings."""
    record = stage.far.protocol.record
    given = {
        "from_seq": seq,
        "to_seq": seq + 100,
        "expiry": stage.clock.now_ns() + LIFE_S * SECOND,
    } | delegated
    delegation = Delegation(lane=0, public_key=key.public_key, **given)
    wallet = stage.trader.wallet
    signature = await wallet.sign_typed(delegation.message(record.agreement))
    change = SessionKeyChange(
        session_public_key=key.public_key, delegation_signature=signature, **given
    )
    peer = record.head(1)
    return sign_frame(
        key,
        record.agreement.domain,
        record.agreement.custody,
        0,
        seq,
        record.digest(0, seq - 1),
        record.head(0).peer_seq,
        record.digest(1, record.head(0).peer_seq),
        max(stage.clock.now_ns(), record.head(0).sending_time, peer.sending_time),
        encode(change),
    )
