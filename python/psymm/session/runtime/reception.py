"""Reception: a connection before it is a session's.

Introductions, terms and indicative prices, all as text. They cost little to answer and leave
nothing in memory or journal. The first valid Logon opens a custody (`SolverSessions.open`). A
proven resume loads a custody that is in the journal (`SolverSessions.known`, `spec.md` 69). From
then on the connection belongs to a `SessionRunner`, which `Reception.run` attaches.
"""

from __future__ import annotations

from secrets import token_bytes
from typing import Final, Protocol

import trio

from psymm._core import Frame, FrameError, JsonError
from psymm.errors import (
    Disconnected,
    HandshakeRefused,
    KnownCustody,
    LogonRefused,
    MessageTooBig,
    PeerViolation,
    PSymmError,
    ResumeRefused,
    SolverUnable,
    clip,
)
from psymm.messages import (
    BusinessMessageReject,
    BusinessRejectReason,
    Heartbeat,
    Introduction,
    MarketDataRequest,
    MarketDataSnapshotFullRefresh,
    Message,
    Resume,
    SecurityList,
    SecurityListRequest,
    TestRequest,
    decode_text,
    encode_text,
)
from psymm.rate import TokenBucket
from psymm.session.runtime.handshake import Introduced
from psymm.session.runtime.runner import SessionRunner
from psymm.session.runtime.solver_sessions import SolverSessions
from psymm.session.runtime.transport import Socket, WebSocket
from psymm.sockets.admission import ConnectionSlot
from psymm.transcript.agreement import TRADER
from psymm.transcript.resumption import challenge_for, check_resume, nothing_yet

SILENT_S: Final = 60.0
"""Seconds that a connection without a session may be silent. A trader that funds sends
heartbeats."""
INTRODUCED_S: Final = 1_800.0
"""Seconds that a connection may live without a session. A trader funds in this time."""
TEXTS_PER_SECOND: Final = 50
NOISE_LIMIT: Final = 8
MESSAGE_BYTES: Final = 64 * 1024
"""The longest message that we read from a stranger."""
MOST_CHALLENGES: Final = 4
"""Custodies that one connection may ask about before it is a session's."""


class ReceptionServer(Protocol):
    """What a reception asks of its server."""

    @property
    def sessions(self) -> SolverSessions: ...

    @property
    def now_ns(self) -> int: ...

    @property
    def skew_ns(self) -> int: ...

    def refused(self, error: PSymmError) -> None: ...

    def engaged(self, scope: trio.CancelScope) -> None: ...

    async def make_room(self) -> None: ...

    async def handshake(self, greeting: Introduction) -> tuple[list[Message], Introduced]: ...

    async def prices(self, request: MarketDataRequest) -> list[MarketDataSnapshotFullRefresh]: ...

    def instruments(self, request: SecurityListRequest) -> SecurityList: ...


class Reception:
    """A connection before it is a session's."""

    def __init__(self, server: ReceptionServer, socket: Socket) -> None:
        self._server = server
        self._socket = socket
        self._place = socket.place if isinstance(socket, WebSocket) else ConnectionSlot()
        self._introduced: Introduced | None = None
        self._challenge: bytes | None = None
        # Texts with which the peer asked for our challenge, by custody. The session sees them too.
        self._theirs: dict[bytes, str] = {}
        self._noise = 0
        self._texts = TokenBucket(TEXTS_PER_SECOND, TEXTS_PER_SECOND, trio.current_time())

    async def run(self, scope: trio.CancelScope) -> None:
        """Answer texts until the connection becomes a session's, then serve that session.

        scope: Cancelled if the server leaves before that.
        """
        # Two limits: heartbeats prolong the silence, but not the time without a session.
        until = trio.current_time() + INTRODUCED_S
        with trio.move_on_after(SILENT_S) as idle:
            while True:
                message = await self._socket.receive()
                idle.deadline = min(until, trio.current_time() + SILENT_S)
                self._pace(len(message))
                runner = await self._receive(message)
                if runner is not None:
                    idle.deadline = float("inf")
                    self._server.engaged(scope)
                    # A frame is the Logon of a new custody; a text is a resume.
                    fresh = isinstance(message, bytes)
                    asked = self._theirs.get(runner.agreement.custody)
                    first = [message] if asked is None else [asked, message]
                    try:
                        with self._server.sessions.placed(runner, self._place):
                            await runner.attach(
                                self._socket, fresh=fresh, first=first, challenge=self._challenge
                            )
                    except Exception:
                        # A bug struck half way, so we cannot trust what is in memory. The next
                        # connection loads the custody from its journal.
                        self._server.sessions.drop(runner)
                        raise
                    finally:
                        self._server.sessions.gone(runner)
                    return

    def _pace(self, size: int) -> None:
        """Limit size and rate, before we parse anything. Raises PeerViolation."""
        if size > MESSAGE_BYTES:
            raise MessageTooBig(size=size, most=MESSAGE_BYTES)
        self._place.read(size)
        if not self._texts.spend(1, trio.current_time()):
            raise PeerViolation("too many messages", per_second=TEXTS_PER_SECOND)

    async def _receive(self, message: str | bytes) -> SessionRunner | None:
        try:
            if isinstance(message, bytes):
                return await self._frame(message)
            return await self._text(decode_text(message))
        except JsonError as bad:
            await self._noisy("text", f"{bad.code} at byte {bad.offset}")
        except FrameError as bad:
            await self._noisy("frame", f"{bad.code} at byte {bad.offset}")
        # These may be honest mistakes, so the connection may try again, up to NOISE_LIMIT.
        except (HandshakeRefused, LogonRefused, KnownCustody) as refused:
            self._server.refused(refused)
            await self._noisy("UHI", str(refused), reason_of(refused))
        return None

    async def _frame(self, data: bytes) -> SessionRunner:
        """Open a session for the first frame of a custody that was introduced on this connection.
        Raises LogonRefused, KnownCustody, FrameError, and what `SolverSessions.open` and
        `make_room` raise."""
        frame = Frame.parse(data)
        introduced = self._introduced
        if introduced is None:
            raise LogonRefused("introduce yourself (UHI) before the first frame")
        if frame.custody != introduced.agreement.custody:
            raise LogonRefused(
                "the Logon is of another custody than the one introduced here",
                custody=frame.custody,
                introduced=introduced.agreement.custody,
            )
        if await self._server.sessions.agreement_of(frame.custody) is not None:
            # Anyone who saw the Logon can send it again: it proves nothing on this connection.
            raise KnownCustody("this custody has begun; resume it", custody=frame.custody)
        # Both before `open`: a new custody costs a wallet's signature, disk and chain look-ups.
        self._place.check()
        await self._server.make_room()
        return await self._server.sessions.open(introduced, frame)

    async def _text(self, message: Message) -> SessionRunner | None:
        """Answer one text. Returns the runner if it resumed a session."""
        match message:
            case Introduction():
                if message.collateral:
                    self._place.check()  # We look at funds and sign the handshake.
                answers, introduced = await self._server.handshake(message)
                # Only a signed handshake can be followed by a Logon.
                self._introduced = introduced if message.collateral else None
                for each in answers:
                    await self._say(each)
            case Resume():
                return await self._resume(message)
            case MarketDataRequest():
                try:
                    snapshots = await self._server.prices(message)
                except PSymmError as refused:
                    await refuse(self._socket, "V", str(refused))
                    return None
                for snapshot in snapshots:
                    await self._say(snapshot)
            case SecurityListRequest():
                await self._say(self._server.instruments(message))
            case TestRequest():
                await self._say(Heartbeat(test_req_id=message.test_req_id))
            case Heartbeat():
                pass
            case _:
                await self._noisy(message.MSG_TYPE, "there is no session on this connection yet")
        return None

    async def _resume(self, said: Resume) -> SessionRunner | None:
        """Answer a challenge with ours, for any custody, known or not. Heads must be signed over
        our challenge before we read the custody's history, and before its current connection is
        replaced.
        """
        if said.challenge is not None:
            if len(self._theirs) < MOST_CHALLENGES:
                self._theirs.setdefault(said.custody, encode_text(said))
            # One challenge per connection: all custodies asked about here share it.
            if self._challenge is None:
                self._challenge = token_bytes(32)
            await self._say(challenge_for(said.custody, self._challenge))
            return None
        met, server = self._introduced, self._server
        agreement = await server.sessions.agreement_of(said.custody)
        held = agreement is not None
        # Not in the journal, but introduced on this connection: the agreement is enough to check
        # the signature.
        if agreement is None and met is not None and met.agreement.custody == said.custody:
            agreement = met.agreement
        if agreement is None:
            why = f"unknown-custody: 0x{said.custody.hex()}"
            await self._noisy("URS", why, BusinessRejectReason.UNKNOWN_ID)
            return None
        try:
            if self._challenge is None:
                raise ResumeRefused("ask for our challenge first")
            check_resume(agreement, TRADER, self._challenge, said, server.now_ns - server.skew_ns)
            if held and server.sessions.is_strangers(said.custody):
                # Loading costs wallet, journal and chain as much as a first Logon does.
                self._place.check()
            known = await server.sessions.known(said.custody) if held else None
            if known is not None:
                known.proves(said, self._challenge)
                if not known.protocol.is_stranger:
                    # A Logon alone costs a stranger nothing, so it does not secure a place.
                    self._place.keep()
                return known
        except ResumeRefused as refused:
            await self._noisy("URS", str(refused))
            return None
        # Its Logon never reached us, and we keep nothing for a text. The trader begins again.
        await self._say(nothing_yet(said.custody))
        return None

    async def _say(self, message: Message) -> None:
        await self._socket.send(encode_text(message))

    async def _noisy(
        self, kind: str, why: str, reason: BusinessRejectReason = BusinessRejectReason.OTHER
    ) -> None:
        self._noise += 1
        self._place.noise()
        await refuse(self._socket, kind, why, reason)
        if self._noise >= NOISE_LIMIT:
            raise PeerViolation("the peer keeps sending what is not valid", last=why)


def reason_of(refused: PSymmError) -> BusinessRejectReason:
    """Tells the peer whether to try again. Programs read the reason, not the words."""
    if isinstance(refused, SolverUnable):
        return BusinessRejectReason.NOT_AVAILABLE
    if isinstance(refused, HandshakeRefused):
        return BusinessRejectReason.NOT_AUTHORIZED
    if isinstance(refused, LogonRefused | KnownCustody | PeerViolation):
        return BusinessRejectReason.OTHER
    # Trouble of our own: disk, chain or wallet. It may pass.
    return BusinessRejectReason.NOT_AVAILABLE


async def refuse(
    socket: Socket, kind: str, why: str, reason: BusinessRejectReason = BusinessRejectReason.OTHER
) -> None:
    said = BusinessMessageReject(
        ref_msg_type=kind,
        business_reject_reason=reason,
        text=clip(why) or "refused",
    )
    try:
        with trio.move_on_after(5):
            await socket.send(encode_text(said))
    except (Disconnected, PeerViolation):
        return
