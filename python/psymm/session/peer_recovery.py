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
    PSymmError,
    ResumeRefused,
    UnknownCustody,
)
from psymm.messages import (
    BusinessMessageReject,
    BusinessRejectReason,
    Heartbeat,
    Message,
    Resume,
    TestRequest,
    decode_text,
    encode_text,
)
from psymm.session.clock import Clock
from psymm.session.collateral import Fact
from psymm.session.compacted import keep_evidence, repeated
from psymm.session.effects import Effects, FrameViolation
from psymm.session.keys import proving_key
from psymm.session.party import frames_in, params_of
from psymm.session.protocol import SECOND, SessionProtocol
from psymm.session.transport import Socket
from psymm.storage import StorageError
from psymm.terms import Terms
from psymm.transcript.agreement import TRADER
from psymm.transcript.codec import JournalledCustody
from psymm.transcript.heads import Health
from psymm.transcript.journal import Journal
from psymm.transcript.record import RecordedFrame
from psymm.transcript.replayed import read_record
from psymm.transcript.resumption import challenge_for, check_resume
from psymm.wallet import Wallet

NOISE_LIMIT: Final = 8
GREETING_S: Final = 60.0


class _Unruled:
    """A ledger that judges nothing: what was on the record before is no question here."""

    point = agreed = disputed = None

    @property
    def waits(self) -> bool:
        return False

    @property
    def cited(self) -> None:
        return None

    @property
    def trader_covers(self) -> int:
        return 0

    @property
    def decided(self) -> int:
        return 0

    def awaits(self, entry: RecordedFrame) -> bool:
        return False

    def arrived(self, entry: RecordedFrame) -> Sequence[FrameViolation]:
        return ()

    def refuses(
        self,
        lane: int,
        message: Message,
        now_ns: int,
        size: int | None = None,
        *,
        covers: int | None = None,
    ) -> FrameViolation | None:
        return None

    def drop(self, lane: int, seq: int) -> bool:
        return True

    def begin(self) -> None:
        pass

    def ids(self) -> int:
        return 0

    def occupied(self, commitment: bytes) -> bool:
        return False

    def learn_fact(self, fact: Fact) -> Sequence[FrameViolation]:
        return ()

    def near_limit(self) -> bool:
        return False

    def answer_due(self, lane: int) -> None:
        return None

    def offer_due(self, lane: int) -> None:
        return None

    def offer_stands(self) -> bool:
        return False

    def account_at(self, solver_seq: int, trader_seq: int) -> None:
        return None


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
    record = await read_record(journal, custody.agreement)
    protocol = SessionProtocol(
        record,
        _Unruled(),
        custody.lane,
        None,
        params_of(Terms.parse(custody.agreement.terms), custody.lane),
        health=custody.health,
        newest=await journal.recovering_to(custody.agreement.custody),
        rescued=frames_in(await journal.rescued(custody.agreement.custody)),
        logon=None,
        now=clock.now_ns(),
    )
    now = clock.now_ns()
    protocol.keys.proving = await proving_key(wallet, custody.agreement, custody.lane, now)
    effects = protocol.connected(clock.now_ns(), fresh=False, challenge=challenge)
    await _carry_out(journal, custody, socket, effects)
    waiting = list(first)
    while protocol.health == "recovering":
        message: str | bytes | None = waiting.pop(0) if waiting else None
        if message is None:
            due = protocol.next_tick(clock.now_ns()) - clock.now_ns()
            with trio.move_on_after(max(due, 0) / SECOND):
                message = await socket.receive()
        now = clock.now_ns()
        if message is None:
            effects = protocol.tick(now)
        elif isinstance(message, str):
            effects = protocol.receive_text(message, now)
        else:
            effects = protocol.receive_binary(message, now)
        await _carry_out(journal, custody, socket, effects)
    return protocol.health


async def _carry_out(
    journal: Journal, custody: JournalledCustody, socket: Socket, effects: Effects
) -> None:
    key = custody.agreement.custody
    await journal.restore([(entry.frame, entry.digest) for entry in effects.fetched])
    if effects.health is not None:
        await journal.set_health(key, effects.health)
    await journal.append(
        [(entry.frame, entry.digest) for entry in effects.entries], ours=custody.lane
    )
    await keep_evidence(journal, key, 1 - custody.lane, effects.evidence)
    for repeat in effects.repeats:
        for raw in await repeated(journal, key, repeat):
            await socket.send(raw)
    for each in effects.sends:
        await socket.send(each if isinstance(each, str) else each.frame.raw)
    if effects.disconnect is not None:
        raise effects.disconnect


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
