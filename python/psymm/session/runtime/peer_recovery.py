"""Fetching from the peer what a repaired journal still lacks, over the session's own protocol.

No session key is used: the wallet delegates a key that signs no frame, and that proves to the peer
who is asking (`spec.md` 69). Frames of both lanes are asked for, each is verified as any frame is,
and the custody is whole when the heads are reached that the journal knew to be its newest. Where
the peer shows a frame of ours beyond them it is `restored` instead, for good.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from secrets import token_bytes
from typing import Final

import trio

from psymm._core import JsonError
from psymm.errors import (
    Disconnected,
    JournalError,
    Leaving,
    PSymmError,
    ResumeRefused,
    UnknownCustody,
)
from psymm.journal.codec import JournalledCustody
from psymm.journal.replayed import read_record
from psymm.journal.writer import Journal
from psymm.messages import (
    BusinessMessageReject,
    BusinessRejectReason,
    Heartbeat,
    Resume,
    TestRequest,
    decode_text,
    encode_text,
)
from psymm.nursery import open_block_nursery
from psymm.session.protocol import Event, HealthChanged, begin_session
from psymm.session.runtime.clock import Clock
from psymm.session.runtime.key_rotator import proving_key
from psymm.session.runtime.party import frames_in, params_of
from psymm.session.runtime.runner import SessionRunner
from psymm.session.runtime.transport import Socket
from psymm.storage import StorageError
from psymm.terms import Terms
from psymm.transcript.agreement import TRADER
from psymm.transcript.heads import Health
from psymm.transcript.resumption import challenge_for, check_resume
from psymm.wallet import Wallet

NOISE_LIMIT: Final = 8
GREETING_S: Final = 60.0


async def fetch_missing(
    journal: Journal,
    custody: JournalledCustody,
    socket: Socket,
    clock: Clock,
    wallet: Wallet,
    *,
    first: Sequence[str | bytes] = (),
    challenge: bytes | None = None,
) -> Health:
    """Fetch a custody's missing frames over a connection to its peer; returns what it is then.

    wallet: proves whose custody it is. first: messages already read from it. challenge: ours, where
    the peer was told one. Raises WalletError, and what ended it before it was whole: PeerSilent
    where the peer shows no more, Forked, Disconnected, JournalError. What came is kept, and the
    next call goes on from there. Cancelled: likewise.
    """
    agreement, lane = custody.agreement, custody.lane
    protocol = begin_session(
        await read_record(journal, agreement),
        None,  # What was on the record before needs no ruling here.
        lane,
        params_of(Terms.parse(agreement.terms), lane),
        now=clock.now_ns(),
        health=custody.health,
        newest=await journal.recovering_to(agreement.custody),
        spare=frames_in(await journal.rescued(agreement.custody)),
    )
    protocol.set_proving_key(await proving_key(wallet, agreement, lane, clock.now_ns()))

    def on_event(event: Event) -> None:
        if isinstance(event, HealthChanged):
            runner.disconnect(Leaving("repaired"))

    runner = SessionRunner(protocol, journal, clock, None, on_event)
    async with open_block_nursery() as nursery:
        await nursery.start(runner.run)
        reason = await runner.attach(socket, fresh=False, first=first, challenge=challenge)
        await runner.drain()
        nursery.cancel_scope.cancel()
    if protocol.health == "recovering":
        raise reason
    return protocol.health


class RecoveryServer:
    """The solver's side: traders come back by themselves, and are asked for what is missing once
    they have proved themselves.

    wallet: proves us to them. ended: hears each custody that is repaired, and each attempt that
    failed.
    """

    def __init__(
        self,
        journal: Journal,
        clock: Clock,
        wallet: Wallet,
        ended: Callable[[bytes, Health | PSymmError], None],
    ) -> None:
        self._journal = journal
        self._wallet = wallet
        self._clock = clock
        self._ended = ended
        self._busy: set[bytes] = set()

    async def connection(self, socket: Socket) -> None:
        """Serve one connection to its end. Never raises but Cancelled and JournalError."""
        try:
            challenge = token_bytes(32)
            found: tuple[JournalledCustody, list[str | bytes]] | None = None
            with trio.move_on_after(GREETING_S):
                found = await self._greeted(socket, challenge)
            if found is not None:
                await self._recover(*found, socket, challenge)
        except Disconnected:
            pass
        finally:
            with trio.CancelScope(shield=True):
                await socket.aclose()

    async def _greeted(
        self, socket: Socket, challenge: bytes
    ) -> tuple[JournalledCustody, list[str | bytes]] | None:
        """The custody whose trader the peer proved to be, and the texts with which it did."""
        asked: dict[bytes, str | bytes] = {}
        for _ in range(NOISE_LIMIT):
            raw = await socket.receive()
            try:
                said = decode_text(raw) if isinstance(raw, str) else None
            except JsonError:
                said = None
            if isinstance(said, Resume) and said.challenge is not None:
                asked.setdefault(said.custody, raw)
                await socket.send(encode_text(challenge_for(said.custody, challenge)))
                continue
            if isinstance(said, Resume):
                held = await self._lacking(said.custody)
                if held is not None and self._proves(held, challenge, said):
                    first = asked.get(said.custody)
                    return held, [raw] if first is None else [first, raw]
            if isinstance(said, TestRequest):
                await socket.send(encode_text(Heartbeat(test_req_id=said.test_req_id)))
            elif not isinstance(said, Heartbeat):
                await socket.send(
                    encode_text(
                        BusinessMessageReject(
                            ref_msg_type="frame" if said is None else said.MSG_TYPE,
                            business_reject_reason=BusinessRejectReason.OTHER,
                            text="this solver is repairing its journal; come back later",
                        )
                    )
                )
        return None

    def _proves(self, held: JournalledCustody, challenge: bytes, said: Resume) -> bool:
        try:
            check_resume(held.agreement, TRADER, challenge, said, self._clock.now_ns())
        except ResumeRefused:
            return False
        return True

    async def _lacking(self, custody: bytes) -> JournalledCustody | None:
        try:
            held = await self._journal.custody(custody)
        except UnknownCustody:
            return None
        return held if held.health == "recovering" and custody not in self._busy else None

    async def _recover(
        self, held: JournalledCustody, first: list[str | bytes], socket: Socket, challenge: bytes
    ) -> None:
        custody = held.agreement.custody
        self._busy.add(custody)
        try:
            outcome: Health | PSymmError = await fetch_missing(
                self._journal,
                held,
                socket,
                self._clock,
                self._wallet,
                first=first,
                challenge=challenge,
            )
        except (JournalError, StorageError):
            raise
        except PSymmError as failed:
            outcome = failed
        finally:
            self._busy.discard(custody)
        self._ended(custody, outcome)
