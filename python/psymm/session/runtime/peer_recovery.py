"""Peer recovery: fetch what a repaired journal still lacks from the peer.

It speaks the session's own protocol, with a runner that signs no frame. The wallet delegates a key
that signs no frame either; it only proves to the peer who is asking (`spec.md` 69).

States of a custody: `recovering` until the heads are reached that the journal knew to be its
newest; then `complete`. If the peer shows a frame of ours beyond those heads, the custody becomes
`read-only` for good: our journal is a restored backup.

Who calls whom: a trader dials and calls `fetch_missing`. A solver listens with `RecoveryServer`:
traders reconnect anyway, and each that proves itself is asked for the missing frames.

What is durable when: each frame is verified like any other and kept when it comes. An interrupted
recovery continues from there.
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
    """Fetch a custody's missing frames from its peer; returns the custody's health after it.

    Raises WalletError, and what ended the recovery before it was complete: PeerSilent if the peer
    shows no more, Forked, Disconnected, JournalError. What came is kept, and the next call
    continues from there.
    Cancelled: raises Cancelled; what came is kept.

    Args:
        wallet: Proves whose custody it is.
        first: Messages already read from the socket.
        challenge: Ours, if the peer has it already.
    """
    agreement, lane = custody.agreement, custody.lane
    protocol = begin_session(
        await read_record(journal, agreement),
        None,  # No rulebook: frames already on the record need no ruling here.
        lane,
        params_of(Terms.parse(agreement.terms), lane),
        now=clock.now_ns(),
        health=custody.health,
        newest=await journal.recovering_to(agreement.custody),
        spare=frames_in(await journal.rescued(agreement.custody)),
    )
    # Without session keys we can still prove who we are, which the peer demands first.
    protocol.set_proving_key(await proving_key(wallet, agreement, lane, clock.now_ns()))

    def on_event(event: Event) -> None:
        # The heads are reached, or we turned out to be behind them. Either way we are done here.
        if isinstance(event, HealthChanged):
            runner.disconnect(Leaving("repaired"))

    # No collateral and no rotator: this runner must never sign or fund.
    runner = SessionRunner(protocol, journal, clock, None, on_event)
    async with open_block_nursery() as nursery:
        await nursery.start(runner.run)
        reason = await runner.attach(socket, fresh=False, first=first, challenge=challenge)
        # Frames that came last may still wait for the disk.
        await runner.drain()
        nursery.cancel_scope.cancel()
    # Look at the health, not at the reason: the peer may close just when we are complete.
    if protocol.health == "recovering":
        raise reason
    return protocol.health


class RecoveryServer:
    """The solver's side. Traders reconnect on their own; each that proves itself is asked for what
    is missing.

    Args:
        wallet: Proves us to the traders.
        ended: Receives each custody that is repaired, and each attempt that failed.
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
        # Custodies in recovery. Two connections must not recover one custody at once.
        self._busy: set[bytes] = set()

    async def connection(self, socket: Socket) -> None:
        """Serve one connection to its end. Raises only Cancelled, JournalError and StorageError."""
        try:
            # One challenge for each connection, so that no proof can be used twice.
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
        """The custody whose trader the peer proved to be, and the texts that proved it. None if the
        peer sent too much else."""
        asked: dict[bytes, str | bytes] = {}
        for _ in range(NOISE_LIMIT):
            raw = await socket.receive()
            try:
                said = decode_text(raw) if isinstance(raw, str) else None
            except JsonError:
                # Noise, counted like any other text that does not help.
                said = None
            # The peer proves itself in two texts: it asks for our challenge, then signs it.
            if isinstance(said, Resume) and said.challenge is not None:
                asked.setdefault(said.custody, raw)
                await socket.send(encode_text(challenge_for(said.custody, challenge)))
                continue
            if isinstance(said, Resume):
                held = await self._lacking(said.custody)
                if held is not None and self._proves(held, challenge, said):
                    # The protocol has to see both texts again, in their order.
                    first = asked.get(said.custody)
                    return held, [raw] if first is None else [first, raw]
            # Any other traffic is put off politely, so that a trader's client keeps trying.
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
        """Recover one custody and report the outcome. Raises only for our own disk."""
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
        # Our own disk failed, so no other custody can recover either: end the server.
        except (JournalError, StorageError):
            raise
        except PSymmError as failed:
            outcome = failed
        finally:
            self._busy.discard(custody)
        self._ended(custody, outcome)
