"""Strangers cost little (`spec.md` 68): what one without a cent leaves behind."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, cast

import pytest
import trio
from session_scene import CHAIN_ID, PSYMM, Scene, scene
from trio.testing import MockClock

from psymm._core import Frame, SecretKey, sign_frame
from psymm.custody.notes import random_blinding
from psymm.errors import AttemptEnded, FloodingPeer, PSymmError, SolverUnable
from psymm.messages import (
    Introduction,
    Logon,
    Message,
    NoteRef,
    TermsDocument,
    decode_text,
    encode,
)
from psymm.session.protocol import SessionStatus
from psymm.session.protocol.budget import BYTES_AT_ONCE, EARLY_BYTES, FRAME_BYTES, PeerRate
from psymm.session.runtime.conversation import converse
from psymm.session.runtime.handshake import conclude_handshake, fresh_nonce, introduce
from psymm.session.runtime.reception import MESSAGE_BYTES, NOISE_LIMIT, Reception
from psymm.session.runtime.solver import PENALTY_S
from psymm.session.runtime.solver_sessions import FORGET_S
from psymm.session.runtime.transport import Socket
from psymm.sockets.admission import Admission, AdmissionLimits, ConnectionSlot
from psymm.transcript.delegation import Delegation
from psymm.transcript.resumption import ResumeSigner, challenge_for, nothing_yet
from psymm.wallet import KeyWallet

SECOND = 1_000_000_000


class Stranger:
    """A trader with keys and without a cent: its Logon lists a note that is nowhere."""

    def __init__(self, stage: Scene, socket: Socket) -> None:
        self.stage, self.socket = stage, socket
        self.key, self.wallet = SecretKey.generate(), KeyWallet.generate()
        self.last: Frame | None = None

    async def log_on(self) -> None:
        ours = introduce(self.wallet.public_key, fresh_nonce(), 2_000_000_000)
        theirs, document = await converse(self.socket, ours, Introduction, TermsDocument)
        assert isinstance(theirs, Introduction)
        assert isinstance(document, TermsDocument)
        agreement = conclude_handshake(
            ours, theirs, document, chain_id=CHAIN_ID, contract=PSYMM, expected=None
        ).agreement
        self.opening, self.introduced = agreement, ours
        expiry = self.stage.clock.now_ns() + 86_400 * SECOND
        delegation = Delegation(0, self.key.public_key, 1, 1_000_000, expiry)
        said = Logon(
            terms_hash=agreement.terms_hash,
            session_public_key=self.key.public_key,
            from_seq=1,
            to_seq=1_000_000,
            expiry=expiry,
            delegation_signature=await self.wallet.sign_typed(delegation.message(agreement)),
            heart_bt_int=5,
            notes=(NoteRef(commitment=random_blinding(), nullifier=random_blinding()),),
        )
        self.logon = said
        await self.send(encode(said))

    async def send(self, payload: bytes) -> None:
        agreement, last = self.opening, self.last
        self.last = sign_frame(
            self.key,
            agreement.domain,
            agreement.custody,
            0,
            1 if last is None else last.seq + 1,
            agreement.custody if last is None else last.digest(agreement.domain),
            0,
            agreement.custody,
            self.stage.clock.now_ns(),
            payload,
        )
        await self.socket.send(self.last.raw)


async def custodies(stage: Scene) -> int:
    return len(await stage.solver.journal.custodies())


async def test_who_logs_on_without_collateral_and_leaves_leaves_memory_at_once_and_disk_in_minutes(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with scene(tmp_path) as stage:
        await stage.open()
        await stage.agreed()
        frames = stage.solver.journal._frames
        for _ in range(5):
            async with stage.dial() as socket:
                stranger = Stranger(stage, socket)
                await stranger.log_on()
                await stranger.send(b"nonsense")
                await trio.sleep(1)
                assert stage.server.statistics().sessions == 2
        await trio.sleep(1)
        assert stage.server.statistics().sessions == 1
        assert await custodies(stage) == 6
        await trio.sleep(FORGET_S * 1.5)
        assert await custodies(stage) == 1
        assert stage.solver.journal._frames == frames
        # What trades stays, connected or not.
        stage.reachable = False
        await stage.wires[0].inner.aclose()
        await trio.sleep(FORGET_S * 2)
        assert await custodies(stage) == 1


async def test_a_stranger_s_frames_are_bounded_by_their_bytes_too(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with scene(tmp_path) as stage:
        await stage.nursery.start(stage.server.run)
        async with stage.dial() as socket:
            stranger = Stranger(stage, socket)
            await stranger.log_on()
            with suppress(PSymmError):
                for _ in range(40):
                    await stranger.send(b"x" * 8_000)
                    await trio.sleep(0.1)
            (held,) = await stage.solver.journal.custodies()
            kept = await stage.solver.journal.frames(held.agreement.custody)
            assert sum(len(one.raw) for one in kept) <= EARLY_BYTES
            assert all(one.lane == 0 for one in kept), "nothing was signed for it"


async def test_a_stranger_s_message_is_measured_before_it_is_parsed(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with scene(tmp_path) as stage:
        await stage.nursery.start(stage.server.run)
        async with stage.dial() as socket:
            await socket.send("[" * (MESSAGE_BYTES + 1))
            await socket.receive()
            with pytest.raises(PSymmError):
                await socket.receive()
        await trio.sleep(1)
        assert stage.server.statistics().refused["message-too-big"] == 1


async def test_rates_count_bytes_as_well_as_frames() -> None:
    rate = PeerRate(200)
    passed = 0
    while rate.frame(0, repeated=False, size=8_000):
        passed += 8_000
    assert passed <= max(2 * 200 * FRAME_BYTES, BYTES_AT_ONCE)
    assert rate.frame(SECOND, repeated=False, size=8_000)


async def test_below_a_floor_of_free_disk_no_custody_is_taken_and_what_trades_goes_on(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with scene(tmp_path) as stage:
        await stage.open()
        stage.server._disk_floor = 1 << 62
        async with stage.dial() as socket:
            stranger = Stranger(stage, socket)
            with pytest.raises(PSymmError, match=SolverUnable.code):
                await stranger.log_on()
        await stage.report("e1", await stage.order("o1"))
        await stage.agreed()
        assert await custodies(stage) == 1


async def test_a_trader_that_was_forgotten_before_its_notes_were_seen_begins_anew_and_trades(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with scene(tmp_path) as stage:
        lose = [True]

        async def unseen(*_: object) -> None:
            """The solver's chain does not answer."""
            if lose:
                await trio.sleep_forever()
            await seen(*_)  # type: ignore[arg-type]

        seen = stage.solver.collateral.verify
        stage.solver.collateral.verify = unseen  # type: ignore[method-assign]
        await stage.nursery.start(stage.server.run)
        stage.nursery.start_soon(tolerant, stage)
        await trio.sleep(5)
        assert await custodies(stage) == 1
        stage.reachable = False
        await stage.wires[-1].inner.aclose()
        await trio.sleep(FORGET_S * 1.5)
        assert await custodies(stage) == 0
        lose.clear()
        stage.reachable = True
        await stage.heard.state(SessionStatus.TRADING)
        assert await custodies(stage) == 1


async def tolerant(stage: Scene) -> None:
    with suppress(AttemptEnded):
        await stage.client.run()


async def test_a_stranger_s_nonsense_is_parsed_a_few_messages_at_a_time(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often it comes back: each connection is worth NOISE_LIMIT messages, and PENALTY_S."""
    parsed = 0

    def counted(text: str) -> Message:
        nonlocal parsed
        parsed += 1
        return decode_text(text)

    monkeypatch.setattr("psymm.session.runtime.reception.decode_text", counted)
    async with scene(tmp_path) as stage:
        await stage.nursery.start(stage.server.run)
        with trio.move_on_after(60):
            while True:
                with suppress(PSymmError):
                    async with stage.dial() as socket:
                        while True:
                            await socket.send("{")
                            await socket.receive()
        assert 0 < parsed <= (60 / PENALTY_S + 1) * NOISE_LIMIT


async def test_a_logon_without_collateral_earns_no_place_that_is_kept_however_it_is_resumed(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with scene(tmp_path) as stage:
        await stage.nursery.start(stage.server.run)
        async with stage.dial() as socket:
            stranger = Stranger(stage, socket)
            await stranger.log_on()
            await trio.sleep(1)
        stage.server.admission = Admission(AdmissionLimits(checks=2, checks_per_second=0.01))
        with stage.server.admission.standing("192.0.2.1") as place:
            for _ in range(2):
                await resumed_by(stage, stranger, place)
                assert not place.known
                assert stage.server.admission.statistics().known == 0
            # Nor does it have our wallet, journal and chain asked without end.
            with pytest.raises(FloodingPeer):
                await resumed_by(stage, stranger, place)


async def resumed_by(stage: Scene, stranger: Stranger, place: ConnectionSlot) -> None:
    """Heads that the stranger's own key signs, on a connection with that place."""

    class Said:
        sent: ClassVar[list[str | bytes]] = []

        async def send(self, message: str | bytes) -> None:
            self.sent.append(message)

    reception = Reception(stage.server, cast("Socket", Said()))
    reception._place = place
    agreement, last = stranger.opening, stranger.last
    assert last is not None
    await reception._resume(challenge_for(agreement.custody, bytes(32)))
    assert reception._challenge is not None
    heads = replace(
        nothing_yet(agreement.custody), trader_seq=1, trader_digest=last.digest(agreement.domain)
    )
    prover = ResumeSigner.of(stranger.key, 0, stranger.logon)
    runner = await reception._resume(prover.sign(agreement, reception._challenge, heads))
    assert runner is not None
    stage.server.sessions.gone(runner)
    await trio.sleep(1)


async def test_introductions_with_collateral_are_signed_so_many_a_second_for_one_address(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with scene(tmp_path) as stage:
        await stage.nursery.start(stage.server.run)
        admission = Admission(AdmissionLimits(checks=4, checks_per_second=1))
        answered = 0
        for _ in range(3):
            async with stage.dial() as socket:
                with admission.standing("192.0.2.1") as place:
                    reception = Reception(stage.server, socket)
                    reception._place = place
                    with suppress(FloodingPeer):
                        for _ in range(4):
                            wallet = KeyWallet.generate()
                            await reception._text(
                                introduce(wallet.public_key, fresh_nonce(), 2_000_000_000)
                            )
                            answered += 1
        assert answered == 4


async def test_what_strangers_cause_is_counted_each_time_and_logged_now_and_then(
    tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with scene(tmp_path) as stage:
        await stage.nursery.start(stage.server.run)
        stage.server._disk_floor = 1 << 62
        async with stage.dial() as socket:
            for _ in range(NOISE_LIMIT - 1):
                wallet = KeyWallet.generate()
                said = introduce(wallet.public_key, fresh_nonce(), 2_000_000_000)
                with pytest.raises(PSymmError):
                    await converse(socket, said, Introduction, TermsDocument)
        assert stage.server.statistics().refused[SolverUnable.code] == NOISE_LIMIT - 1
        said_of = [one.message for one in caplog.records]
        assert said_of.count("refused") == 1
        assert said_of.count("disk-nearly-full") == 1


async def test_a_logon_that_somebody_saw_begins_no_custody_with_another_amount(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Whoever repeats a trader's introduction, which is not signed, with more collateral than it
    brings, meets another custody: the trader's notes are never measured by a stranger's word."""
    async with scene(tmp_path) as stage:
        await stage.nursery.start(stage.server.run)
        async with stage.dial() as socket:
            stranger = Stranger(stage, socket)
            await stranger.log_on()
            await trio.sleep(1)
            (held,) = await stage.solver.journal.custodies()
            greeting = replace(stranger.introduced, collateral=200_000_000_000)
        async with stage.dial() as socket:
            theirs, document = await converse(socket, greeting, Introduction, TermsDocument)
            assert isinstance(theirs, Introduction)
            assert isinstance(document, TermsDocument)
            other = conclude_handshake(
                greeting, theirs, document, chain_id=CHAIN_ID, contract=PSYMM, expected=None
            )
            assert other.agreement.custody != held.agreement.custody


async def test_a_wallet_that_hangs_over_a_stranger_keeps_no_trader_from_coming_back(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with scene(tmp_path) as stage:
        await stage.open()
        await stage.agreed()

        async def hang(_wallet: KeyWallet, _message: object) -> bytes:
            await trio.sleep_forever()
            raise AssertionError

        async with stage.dial() as socket:
            stranger = Stranger(stage, socket)
            signs = KeyWallet.sign_typed
            with monkeypatch.context() as patched:
                patched.setattr(
                    KeyWallet,
                    "sign_typed",
                    lambda wallet, message: (
                        hang if wallet.public_key == stage.solver.wallet.public_key else signs
                    )(wallet, message),
                )
                await stranger.log_on()
                await trio.sleep(1)
                before = stage.near.statistics().load
                stage.server.sessions.drop(stage.far)
                await stage.wires[0].inner.aclose()
                await trio.sleep(20)
                assert stage.near.protocol.synced, before
