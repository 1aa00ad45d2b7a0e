"""A rogue solver, and somebody between, over real sockets: a trader that means to fund does not."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import market  # noqa: F401  the scenes of sessions are found by it
import pytest
import trio
from session_scene import CHAIN_ID, PSYMM, Scene, make_terms, scene

from psymm._core import SecretKey, keccak256
from psymm.api import BUY, Offer, best_solver, connect
from psymm.chain.registry import RegistryEntry, Role
from psymm.errors import (
    BadIntroduction,
    ClocksDiffer,
    PeerRefused,
    PolicyRefused,
    PSymmError,
    TermsChanged,
    TermsRefused,
    WrongParty,
)
from psymm.messages import (
    BusinessMessageReject,
    BusinessRejectReason,
    Introduction,
    MarketDataRequest,
    MarketDataSnapshotFullRefresh,
    MDEntry,
    MDEntryType,
    Message,
    TermsDocument,
    decode_text,
    encode_text,
)
from psymm.session.runtime.handshake import DelegatedKey, Host
from psymm.session.runtime.transport import WebSocket, dial, listen
from psymm.terms import UNIT, Terms
from psymm.transcript.introduction import KEY_NS, key_message
from psymm.wallet import KeyWallet

Answer = Callable[["Rogue", Introduction], list[Message]]
COLLATERAL = 5_000_000_000


class Rogue:
    """A solver with a registered wallet that answers introductions as a test has it."""

    def __init__(self, stage: Scene, terms: Terms, answer: Answer | None = None) -> None:
        self.stage = stage
        self.wallet = KeyWallet.generate()
        self.terms = terms
        self.answer = answer or Rogue.honest
        self.met: list[Introduction] = []
        self.shown = [(MDEntryType.BID, 49_990), (MDEntryType.OFFER, 50_010)]
        self.port = 0

    @property
    def entry(self) -> RegistryEntry:
        wallet, endpoint = self.wallet, f"ws://127.0.0.1:{self.port}/"
        return RegistryEntry(wallet.address, Role.SOLVER, endpoint, wallet.public_key, 0)

    def now_ns(self) -> int:
        return self.stage.clock.now_ns()

    def host(self, wallet: KeyWallet | None = None, **place: Any) -> Host:
        given: dict[str, Any] = {"chain_id": CHAIN_ID, "contract": PSYMM} | place
        key = (wallet or self.wallet).public_key
        return Host(key, terms=self.terms.document, secret=bytes(32), **given)

    def key(self, signer: KeyWallet | None = None, life_ns: int = KEY_NS) -> DelegatedKey:
        key, expiry = SecretKey.generate(), self.now_ns() + life_ns
        owner = self.wallet.public_key
        message = key_message(CHAIN_ID, PSYMM, owner, key.public_key, expiry)
        return DelegatedKey(key, expiry, (signer or self.wallet).sign_digest(message.digest()))

    def honest(self, greeting: Introduction, **changes: Any) -> list[Message]:
        given: dict[str, Any] = {"key": self.key(), "now_ns": self.now_ns()} | changes
        said, terms, _ = self.host().answer(greeting, COLLATERAL, **given)
        return [said, terms]

    async def serve(self, socket: WebSocket) -> None:
        try:
            while True:
                said = decode_text(await socket.receive())
                if isinstance(said, Introduction):
                    self.met.append(said)
                    for each in self.answer(self, said):
                        await socket.send(encode_text(each))
                elif isinstance(said, MarketDataRequest):
                    for each in self.prices(said):
                        await socket.send(encode_text(each))
        except PSymmError:
            return

    def prices(self, asked: MarketDataRequest) -> list[Message]:
        entries = tuple(
            MDEntry(md_entry_type=kind, md_entry_px=price * UNIT) for kind, price in self.shown
        )
        return [
            MarketDataSnapshotFullRefresh(
                md_req_id=asked.md_req_id, symbol=one.symbol, no_md_entries=entries
            )
            for one in asked.no_related_sym
        ]


@asynccontextmanager
async def rogue(
    path: Path, answer: Answer | None = None, **terms: Any
) -> AsyncGenerator[Rogue, None]:
    async with scene(path) as stage:
        made = Rogue(stage, make_terms(**terms), answer)
        made.port = await stage.nursery.start(listen, "127.0.0.1", 0, made.serve)
        yield made
        stage.nursery.cancel_scope.cancel()


async def refusal(made: Rogue, solver: RegistryEntry | Offer | None = None) -> PSymmError:
    """Why the trader does not trade; nothing moved and nothing is kept."""
    stage = made.stage
    with pytest.raises(PSymmError) as refused, trio.fail_after(30):
        async with connect(stage.trader, solver or made.entry, collateral=2_000):
            pass
    assert stage.trader.collateral.moves == 0  # type: ignore[attr-defined]
    assert await stage.trader.journal.custodies() == []
    assert str(refused.value).isprintable()
    return refused.value


def without_signature(made: Rogue, greeting: Introduction) -> list[Message]:
    return made.honest(greeting, key=None)


def by_an_undelegated_key(made: Rogue, greeting: Introduction) -> list[Message]:
    return made.honest(greeting, key=made.key(signer=KeyWallet.generate()))


def by_a_key_that_has_expired(made: Rogue, greeting: Introduction) -> list[Message]:
    return made.honest(greeting, key=made.key(life_ns=-1))


def by_a_key_for_a_hundred_years(made: Rogue, greeting: Introduction) -> list[Message]:
    return made.honest(greeting, key=made.key(life_ns=100 * 365 * 86_400 * 10**9))


def signed_an_hour_ago(made: Rogue, greeting: Introduction) -> list[Message]:
    return made.honest(greeting, now_ns=made.now_ns() - 3_600 * 10**9)


def signed_for_another_trader(made: Rogue, greeting: Introduction) -> list[Message]:
    return made.honest(replace(greeting, public_key=KeyWallet.generate().public_key))


def signed_for_another_chain(made: Rogue, greeting: Introduction) -> list[Message]:
    host = made.host(chain_id=1)
    said, terms, _ = host.answer(greeting, COLLATERAL, made.key(), made.now_ns())
    return [said, terms]


def signed_before_and_shown_again(made: Rogue, greeting: Introduction) -> list[Message]:
    return made.honest(replace(greeting, nonce=bytes(32)))


def promising_more_than_it_signed(made: Rogue, greeting: Introduction) -> list[Message]:
    said, terms = made.honest(greeting)
    assert isinstance(said, Introduction)
    return [replace(said, collateral=10 * COLLATERAL), terms]


def of_another_wallet(made: Rogue, greeting: Introduction) -> list[Message]:
    host = made.host(KeyWallet.generate())
    said, terms, _ = host.answer(greeting, COLLATERAL, made.key(), made.now_ns())
    return [said, terms]


def refusing_in_colours(made: Rogue, greeting: Introduction) -> list[Message]:
    return [
        BusinessMessageReject(
            ref_msg_type="UHI",
            business_reject_reason=BusinessRejectReason.OTHER,
            text="\x1b[2Jno\nINFO settled",
        )
    ]


def terms_in_colours(made: Rogue, greeting: Introduction) -> list[Message]:
    document = made.terms.document.replace(b"BTC-USD", b"BTC\\u001b[2J")
    document = document.replace(b'"tick":"0.1"', b'"tick":"0"')
    host = Host(made.wallet.public_key, CHAIN_ID, PSYMM, document, bytes(32))
    said, terms, _ = host.answer(greeting, COLLATERAL, made.key(), made.now_ns())
    return [said, terms]


@pytest.mark.parametrize(
    ("answer", "kind"), [(refusing_in_colours, PeerRefused), (terms_in_colours, TermsRefused)]
)
async def test_a_solvers_words_steer_no_terminal(
    answer: Answer, kind: type[PSymmError], tmp_path: Path
) -> None:
    """`refusal` asserts that the error is printable."""
    async with rogue(tmp_path, answer) as made:
        refused = await refusal(made)
        assert isinstance(refused, kind)
        assert "\\x1b[2J" in str(refused)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (without_signature, BadIntroduction),
        (by_an_undelegated_key, BadIntroduction),
        (by_a_key_that_has_expired, BadIntroduction),
        (by_a_key_for_a_hundred_years, BadIntroduction),
        (signed_an_hour_ago, BadIntroduction | ClocksDiffer),
        (signed_for_another_trader, BadIntroduction),
        (signed_for_another_chain, BadIntroduction),
        (signed_before_and_shown_again, BadIntroduction),
        (promising_more_than_it_signed, BadIntroduction),
        (of_another_wallet, WrongParty),
    ],
)
async def test_an_introduction_that_binds_nobody_moves_nothing(
    answer: Answer, kind: type[PSymmError], tmp_path: Path
) -> None:
    async with rogue(tmp_path, answer) as made:
        assert isinstance(await refusal(made), kind)
        assert made.met


async def test_fees_of_nearly_everything_move_nothing(tmp_path: Path) -> None:
    first, _ = make_terms().instruments
    dear = replace(first, open_fee=UNIT * 60 // 100, close_fee=UNIT * 99 // 100)
    async with rogue(tmp_path, instruments=(dear,)) as made:
        refused = await refusal(made)
        assert isinstance(refused, PolicyRefused)
        assert (refused.value, refused.limit) == ("0.6", "at most 0.002")
        ranking = await best_solver(made.stage.trader, [made.entry], "BTC-USD", BUY)
        assert ranking.offers == ()
        assert [error.code for _, error in ranking.failures] == ["policy-refused"]


@pytest.mark.parametrize(
    ("shown", "code"),
    [
        # Ranked by the first, and every quote measured by the last.
        ([(MDEntryType.BID, 1), (MDEntryType.OFFER, 1), (MDEntryType.OFFER, 99_999)], "declined"),
        ([(MDEntryType.BID, 1_000), (MDEntryType.OFFER, 50_010)], "policy-refused"),
        ([(MDEntryType.OFFER, 1)], "policy-refused"),  # a tenth, the tick, is too coarse for 1
    ],
)
async def test_prices_that_are_shown_to_be_chosen_are_not_ranked(
    shown: list[tuple[MDEntryType, int]], code: str, tmp_path: Path
) -> None:
    async with rogue(tmp_path) as made:
        made.shown = shown
        ranking = await best_solver(made.stage.trader, [made.entry], "BTC-USD", BUY)
        assert ranking.offers == ()
        assert [error.code for _, error in ranking.failures] == [code]


async def test_terms_swapped_between_discovery_and_handshake_move_nothing(tmp_path: Path) -> None:
    async with rogue(tmp_path) as made:
        ranking = await best_solver(made.stage.trader, [made.entry], "BTC-USD", BUY)
        first, second = make_terms().instruments
        made.terms = make_terms(instruments=(replace(first, open_fee=UNIT // 1000), second))
        assert isinstance(await refusal(made, ranking.best), TermsChanged)


async def test_somebody_between_who_changes_one_byte_moves_nothing(tmp_path: Path) -> None:
    """Every field of both introductions, changed by a proxy that speaks for neither."""

    def other(said: Introduction, field: str) -> Introduction:
        value = getattr(said, field)
        if isinstance(value, int):
            return replace(said, **{field: value + 1})
        changed = value[:-1] + bytes([value[-1] ^ 1])
        if field == "public_key":
            changed = KeyWallet.generate().public_key
        return replace(said, **{field: changed})

    async def relay(
        near: WebSocket, far: WebSocket, bend: Callable[[str | bytes], str | bytes]
    ) -> None:
        while True:
            await far.send(bend(await near.receive()))

    async with rogue(tmp_path) as made:
        behind = made.entry
        bent: list[tuple[bool, str]] = []

        async def between(socket: WebSocket) -> None:
            by_trader, field = bent[0]

            def bend(ours: bool) -> Callable[[str | bytes], str | bytes]:
                def change(message: str | bytes) -> str | bytes:
                    said = decode_text(message)
                    if isinstance(said, Introduction) and ours is by_trader:
                        return encode_text(other(said, field))
                    if isinstance(said, TermsDocument) and not ours and field == "terms_hash":
                        return message
                    return message

                return change

            async def both(work: Callable[..., Awaitable[None]], *given: Any) -> None:
                try:
                    await work(*given)
                except PSymmError:
                    nursery.cancel_scope.cancel()

            async with dial(behind.endpoint) as far, trio.open_nursery() as nursery:
                nursery.start_soon(both, relay, socket, far, bend(True))
                nursery.start_soon(both, relay, far, socket, bend(False))

        port = await made.stage.nursery.start(listen, "127.0.0.1", 0, between)
        entry = replace(behind, endpoint=f"ws://127.0.0.1:{port}/")
        traders = ("public_key", "nonce", "collateral")
        solvers = (
            *traders,
            "terms_hash",
            "sending_time",
            "expiry",
            "introduction_key",
            "key_expiry",
            "key_signature",
            "signature",
        )
        cases = [(True, one) for one in traders] + [(False, one) for one in solvers]
        for case in cases:
            bent[:] = [case]
            await refusal(made, entry)
        assert len(made.met) == len(cases)


async def test_terms_changed_between_with_their_hash_move_nothing(tmp_path: Path) -> None:
    other = make_terms(force_close_gap=UNIT // 200).document

    def swapped(made: Rogue, greeting: Introduction) -> list[Message]:
        said, _ = made.honest(greeting)
        assert isinstance(said, Introduction)
        return [replace(said, terms_hash=keccak256(other)), TermsDocument(terms=other)]

    async with rogue(tmp_path, swapped) as made:
        assert isinstance(await refusal(made), BadIntroduction)
