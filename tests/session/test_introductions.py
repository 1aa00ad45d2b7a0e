"""Nothing is funded on unsigned words (spec.md 61): what the solver signs, and until when."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
from session_scene import CHAIN_ID, PSYMM, SECOND, Scene, Wire, scene
from trio.testing import MockClock

from psymm._core import SecretKey, keccak256
from psymm.errors import BadIntroduction, HandshakeRefused, PSymmError, WalletError
from psymm.messages import Introduction, TermsDocument, decode_text, encode_text
from psymm.session.protocol import SessionStatus
from psymm.session.runtime.conversation import shake_hands
from psymm.session.runtime.handshake import (
    DelegatedKey,
    Host,
    Introduced,
    IntroductionKeys,
    conclude_handshake,
    fresh_nonce,
    introduce,
)
from psymm.transcript.agreement import CustodyAgreement
from psymm.transcript.introduction import (
    INTRODUCTION_NS,
    KEY_NS,
    SignedIntroduction,
    introduction_message,
    key_message,
)
from psymm.typed_message import TypedMessage
from psymm.wallet import KeyWallet

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "introduction.json").read_text())
OTHER = "0x9fE46736679d2D9a65F0992F2272dE9f3c7fa6e0"
COLLATERAL = 2_000_000_000


# --- the values that are signed -----------------------------------------------------------------


@pytest.mark.parametrize("vector", VECTORS["introductions"])
def test_digests_and_signatures_are_those_of_another_implementation(vector: Any) -> None:
    secrets = {name: SecretKey.from_bytes(_bytes(one["secret"])) for name, one in _keys().items()}
    said = vector["introductionKey"]
    message = key_message(
        vector["chainId"],
        VECTORS["verifyingContract"],
        secrets["wallet"].public_key,
        secrets["key"].public_key,
        int(said["expiry"]),
    )
    assert message.digest() == _bytes(said["digest"])
    assert secrets["wallet"].sign(message.digest()) == _bytes(said["signature"])

    said = vector["introduction"]
    agreement = CustodyAgreement(
        vector["chainId"],
        VECTORS["verifyingContract"],
        secrets["trader"].public_key,
        secrets["wallet"].public_key,
        b"{}",
        bytes(32),
    )
    message = introduction_message(
        agreement,
        (_bytes(said["traderNonce"]), _bytes(said["solverNonce"])),
        (int(said["traderCollateral"]), int(said["solverCollateral"])),
        int(said["sendingTime"]),
        int(said["expiry"]),
    )
    # The vector's custody and terms are any words: only their place among the fields counts.
    values = dict(message.values) | {
        "custody": _bytes(said["custody"]),
        "termsHash": _bytes(said["termsHash"]),
    }
    digest = replace(message, values=values).digest()
    assert digest == _bytes(said["digest"])
    assert secrets["key"].sign(digest) == _bytes(said["signature"])


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text.removeprefix("0x"))


def _keys() -> dict[str, Any]:
    return dict(VECTORS["keys"])


# --- replayed -----------------------------------------------------------------------------------


class Handshake:
    """A solver's signed answer to a trader, with what it was signed for."""

    def __init__(self, *, now_ns: int = SECOND, wallet: KeyWallet | None = None) -> None:
        self.trader, self.solver = KeyWallet.generate(), KeyWallet.generate()
        self.greeting = introduce(self.trader.public_key, fresh_nonce(), COLLATERAL)
        key, expiry = SecretKey.generate(), now_ns + KEY_NS
        message = key_message(CHAIN_ID, PSYMM, self.solver.public_key, key.public_key, expiry)
        signed = (wallet or self.solver).sign_digest(message.digest())
        host = Host(self.solver.public_key, CHAIN_ID, PSYMM, b"{}", bytes(32))
        self.said, self.terms, self.introduced = host.answer(
            self.greeting, 5_000, DelegatedKey(key, expiry, signed), now_ns
        )

    def conclude(self, **changes: Any) -> Introduced:
        given: dict[str, Any] = {
            "ours": self.greeting,
            "theirs": self.said,
            "document": self.terms,
            "chain_id": CHAIN_ID,
            "contract": PSYMM,
            "expected": self.solver.public_key,
        } | changes
        return conclude_handshake(
            given.pop("ours"), given.pop("theirs"), given.pop("document"), **given
        )


def test_what_both_sides_conclude_is_the_same_and_is_kept_byte_for_byte() -> None:
    handshake = Handshake()
    introduced = handshake.conclude()
    assert introduced == handshake.introduced
    assert introduced.signed is not None
    again = SignedIntroduction.from_bytes(introduced.signed.to_bytes())
    assert again == introduced.signed
    again.verify(introduced.agreement, handshake.greeting.nonce, COLLATERAL)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param(lambda m: {"chain_id": 1}, id="of another chain"),
        pytest.param(lambda m: {"contract": OTHER}, id="of another contract"),
        pytest.param(
            lambda m: {"ours": replace(m.greeting, nonce=fresh_nonce())}, id="of another time"
        ),
        pytest.param(
            lambda m: {"ours": replace(m.greeting, public_key=KeyWallet.generate().public_key)},
            id="of another trader",
        ),
        pytest.param(
            lambda m: {"ours": replace(m.greeting, collateral=COLLATERAL + 1)},
            id="for another collateral of ours",
        ),
        pytest.param(
            lambda m: {"theirs": replace(m.said, collateral=4_999)},
            id="for another collateral of theirs",
        ),
        pytest.param(
            lambda m: {
                "theirs": replace(m.said, terms_hash=keccak256(b"{ }")),
                "document": TermsDocument(terms=b"{ }"),
            },
            id="for other terms",
        ),
        pytest.param(
            lambda m: {"theirs": replace(m.said, key_expiry=(m.said.key_expiry or 0) + 1)},
            id="with a key of another life",
        ),
    ],
)
def test_an_introduction_is_good_for_one_handshake_only(
    changes: Callable[[Handshake], dict[str, Any]],
) -> None:
    handshake = Handshake()
    with pytest.raises(BadIntroduction):
        handshake.conclude(**changes(handshake))


def test_a_key_that_another_wallet_delegates_introduces_nobody() -> None:
    with pytest.raises(BadIntroduction, match="not delegated by the solver's wallet"):
        Handshake(wallet=KeyWallet.generate()).conclude()


def test_a_wallets_own_key_is_no_introduction_key() -> None:
    handshake = Handshake()
    solver, expiry = handshake.solver, KEY_NS
    delegation = key_message(CHAIN_ID, PSYMM, solver.public_key, solver.public_key, expiry)
    host = Host(solver.public_key, CHAIN_ID, PSYMM, b"{}", bytes(32))
    key = DelegatedKey(solver.key, expiry, solver.sign_digest(delegation.digest()))
    said, _, _ = host.answer(handshake.greeting, 5_000, key, SECOND)
    with pytest.raises(BadIntroduction, match="own key"):
        handshake.conclude(theirs=said)


def test_a_key_that_is_no_point_is_refused_by_name() -> None:
    handshake = Handshake()
    with pytest.raises(BadIntroduction):
        handshake.conclude(theirs=replace(handshake.said, introduction_key=bytes(64)))


@pytest.mark.parametrize(
    ("now_ns", "words"),
    [
        (SECOND + INTRODUCTION_NS - 2 * SECOND - 1, None),
        (SECOND + INTRODUCTION_NS - 2 * SECOND, "has expired"),
        (SECOND + KEY_NS, "has expired"),
        (SECOND - 50 * 60 * SECOND - 2 * SECOND, None),
        (SECOND - 50 * 60 * SECOND - 2 * SECOND - 1, "too far ahead"),
    ],
)
def test_an_introduction_is_in_force_for_an_hour_at_most(now_ns: int, words: str | None) -> None:
    signed = Handshake().conclude().signed
    assert signed is not None
    if words is None:
        signed.check_time(now_ns, 2 * SECOND)
    else:
        with pytest.raises(BadIntroduction, match=words):
            signed.check_time(now_ns, 2 * SECOND)


def test_a_key_delegated_for_years_is_refused() -> None:
    signed = Handshake().conclude().signed
    assert signed is not None
    for_years = replace(signed, key_expiry=365 * 86_400 * SECOND)
    with pytest.raises(BadIntroduction, match="too far ahead"):
        for_years.check_time(SECOND, 2 * SECOND)


# --- on the wire --------------------------------------------------------------------------------


def flipped(text: str, at: int) -> str:
    return text[:at] + chr(ord(text[at]) ^ 1) + text[at + 1 :]


async def funded_after(stage: Scene, bend: Callable[[str | bytes, bool], str | bytes]) -> int:
    """How often the trader moved collateral where what is said at the handshake is bent; the flag
    says whether it is the trader's word."""

    class Bent(Wire):
        async def send(self, message: str | bytes) -> None:
            await self.inner.send(bend(message, True))

        async def receive(self) -> str | bytes:
            return bend(await self.inner.receive(), False)

    client = stage.new_client()
    inner = client._dial

    class Dial:
        async def __aenter__(self) -> Wire:
            self.context = inner()
            return Bent(await self.context.__aenter__())

        async def __aexit__(self, *raised: Any) -> Any:
            return await self.context.__aexit__(*raised)

    client._dial = Dial  # type: ignore[assignment]
    with trio.move_on_after(30):
        with suppress(PSymmError):
            await client.run()
    moves: int = stage.trader.collateral.moves  # type: ignore[attr-defined]
    return moves


@pytest.mark.parametrize("by_trader", [True, False], ids=["trader's word", "solver's word"])
async def test_a_sign_changed_on_the_wire_never_moves_collateral(
    by_trader: bool, tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with scene(tmp_path) as stage:
        await stage.nursery.start(stage.server.run)
        lengths: list[int] = []

        def measure(message: str | bytes, ours: bool) -> str | bytes:
            if isinstance(message, str) and '"UHI"' in message and ours is by_trader:
                lengths.append(len(message))
                return message.replace('"UHI"', '"UHX"')
            return message

        assert await funded_after(stage, measure) == 0
        for at in range(0, lengths[0], 7):

            def bend(message: str | bytes, ours: bool, at: int = at) -> str | bytes:
                if isinstance(message, str) and '"UHI"' in message and ours is by_trader:
                    return flipped(message, at % len(message))
                return message

            assert await funded_after(stage, bend) == 0, at


async def test_terms_changed_on_the_wire_with_their_hash_never_move_collateral(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with scene(tmp_path) as stage:
        await stage.nursery.start(stage.server.run)
        other = stage.terms.document.replace(b'"openFee":"0.0005"', b'"openFee":"0.9"')
        assert other != stage.terms.document

        def bend(message: str | bytes, ours: bool) -> str | bytes:
            if ours or not isinstance(message, str):
                return message
            said = decode_text(message)
            if isinstance(said, Introduction):
                return encode_text(replace(said, terms_hash=keccak256(other)))
            if isinstance(said, TermsDocument):
                return encode_text(TermsDocument(terms=other))
            return message

        assert await funded_after(stage, bend) == 0


async def test_who_looks_around_costs_the_solver_no_signature(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with scene(tmp_path) as stage:
        await stage.nursery.start(stage.server.run)
        async with stage.dial() as socket:
            found = await shake_hands(
                stage.trader, socket, stage.solver.wallet.public_key, 0, fresh_nonce()
            )
        assert found.introduced.signed is None


async def test_nothing_is_funded_where_nobody_says_whose_key_is_to_answer(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with scene(tmp_path) as stage:
        await stage.nursery.start(stage.server.run)
        client = stage.new_client()
        client._expected = None
        with pytest.raises(HandshakeRefused, match="public key"):
            await client.run()
        assert stage.trader.collateral.moves == 0  # type: ignore[attr-defined]


# --- what the trader keeps ----------------------------------------------------------------------


async def test_the_trader_keeps_what_the_solver_signed(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with scene(tmp_path) as stage:
        await stage.open()
        (held,) = await stage.trader.journal.custodies()
        assert held.introduction is not None
        assert held.introduction.collateral == held.announced_collateral == stage.desk.amount
        held.introduction.verify(held.agreement, held.nonce, held.ours)
        (theirs,) = await stage.solver.journal.custodies()
        assert theirs.introduction is None


@pytest.mark.parametrize(("now", "opens"), [(1_000_000_000, False), (6_000_000_000, True)])
async def test_a_solver_that_is_met_again_is_held_to_what_it_signed(
    now: int, opens: bool, tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with scene(tmp_path) as stage:
        await stage.nursery.start(stage.server.run)
        # It dies after it has met and before it has funded.
        funded = stage.trader.collateral.fund  # type: ignore[attr-defined]
        stage.trader.collateral.fund = never  # type: ignore[method-assign]
        with trio.move_on_after(1):
            await stage.client.run()
        stage.trader.collateral.fund = funded  # type: ignore[method-assign]
        (held,) = await stage.trader.journal.custodies()
        stage.desk.amount = now
        stage.client = stage.new_client(resume=held)
        if opens:
            await stage.nursery.start(stage.client.run)
            await stage.heard.state(SessionStatus.TRADING)
            (held,) = await stage.trader.journal.custodies()
            assert held.introduction is not None
            assert held.introduction.collateral == now
        else:
            with pytest.raises(HandshakeRefused, match="less than it has signed"):
                await stage.client.run()
            assert stage.trader.collateral.moves == 0  # type: ignore[attr-defined]


async def never(*given: Any) -> Sequence[Any]:
    await trio.sleep_forever()
    raise AssertionError


async def test_an_introduction_that_expires_before_the_funding_begins_is_not_funded(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with scene(tmp_path) as stage:
        await stage.nursery.start(stage.server.run)
        keep = stage.trader.journal.open_custody

        async def slowly(*given: Any, **named: Any) -> None:
            await keep(*given, **named)
            stage.clock.offset_ns += INTRODUCTION_NS

        stage.trader.journal.open_custody = slowly  # type: ignore[method-assign]
        with pytest.raises(BadIntroduction, match="has expired"):
            await stage.client.run()
        assert stage.trader.collateral.moves == 0  # type: ignore[attr-defined]


# --- the solver's key ---------------------------------------------------------------------------


class Device:
    """A wallet that counts what it is asked for, and may refuse or take its time."""

    def __init__(self) -> None:
        self.inner = KeyWallet.generate()
        self.asked: list[str] = []
        self.refuses = False
        self.takes_s = 0.0

    @property
    def address(self) -> str:
        return self.inner.address

    @property
    def public_key(self) -> bytes:
        return self.inner.public_key

    async def sign_typed(self, message: TypedMessage) -> bytes:
        self.asked.append(message.primary_type)
        await trio.sleep(self.takes_s)
        if self.refuses:
            raise WalletError("the device is locked")
        return await self.inner.sign_typed(message)


class Hand:
    now = SECOND

    def now_ns(self) -> int:
        return self.now


async def test_the_wallet_is_asked_once_and_again_at_half_the_keys_life(
    autojump_clock: MockClock,
) -> None:
    device, clock = Device(), Hand()
    keys = IntroductionKeys(device, clock, CHAIN_ID, PSYMM)
    async with trio.open_nursery() as nursery:
        await nursery.start(keys.run)
        first = await keys.get()
        for _ in range(100):
            assert await keys.get() is first
        assert device.asked == ["IntroductionKey"]
        clock.now += KEY_NS // 2 + 1
        device.takes_s = 60
        # The device takes its time: strangers are answered under the key in force meanwhile.
        assert await keys.get() is first
        await trio.sleep(61)
        second = await keys.get()
        assert second is not first
        assert device.asked == ["IntroductionKey"] * 2
        nursery.cancel_scope.cancel()


async def test_a_wallet_that_refuses_is_not_asked_by_every_stranger(
    autojump_clock: MockClock,
) -> None:
    device, clock = Device(), Hand()
    device.refuses = True
    keys = IntroductionKeys(device, clock, CHAIN_ID, PSYMM)
    async with trio.open_nursery() as nursery:
        await nursery.start(keys.run)
        for _ in range(20):
            with pytest.raises(HandshakeRefused, match="cannot sign"):
                await keys.get()
        assert len(device.asked) == 1
        clock.now += 31 * SECOND
        device.refuses = False
        assert (await keys.get()).expiry == clock.now + KEY_NS
        nursery.cancel_scope.cancel()
