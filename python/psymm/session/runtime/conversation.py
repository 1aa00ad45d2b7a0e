"""What a trader says on a connection that has no session yet. All of it is text.

Introductions and terms (`shake_hands`), indicative prices (`ask_price`), and the heartbeats of a
trader that funds (`keep_alive`). `converse` sends one text and waits for its answers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import trio

from psymm._core import JsonError
from psymm.errors import (
    Disconnected,
    HandshakeRefused,
    PeerRefused,
    PeerSilent,
    PeerViolation,
)
from psymm.messages import (
    BusinessMessageReject,
    BusinessRejectReason,
    Heartbeat,
    Introduction,
    MarketDataRequest,
    MarketDataSnapshotFullRefresh,
    MDEntryType,
    MDEntryTypeRef,
    Message,
    SubscriptionRequestType,
    SymbolRef,
    TermsDocument,
    TestRequest,
    decode_text,
    encode_text,
)
from psymm.session.runtime.handshake import Introduced, conclude_handshake, introduce
from psymm.session.runtime.party import LocalParty, accept_terms
from psymm.session.runtime.preflight import check_clocks
from psymm.session.runtime.transport import Socket
from psymm.terms import Terms
from psymm.transcript.agreement import TRADER

ANSWER_S: Final = 20.0
_FINAL: Final = (BusinessRejectReason.UNKNOWN_ID, BusinessRejectReason.NOT_AUTHORIZED)
"""Refusals that will not change if we ask again."""
_PASSING: Final = (BusinessRejectReason.NOT_AVAILABLE, BusinessRejectReason.THROTTLED)
"""Refusals that say that they will pass. We ask again for as long as our own side wants."""


@dataclass(frozen=True, slots=True)
class HandshakeResult:
    """The handshake is over: terms and custody are known, nothing is funded yet.

    Attributes:
        clock_off_ns: By how much the peer's clock lies outside the time that its answer took by
            our clock; above 0 if it is ahead. A round trip can hide at most its own length.
    """

    introduced: Introduced
    terms: Terms
    clock_off_ns: int = 0

    def check_time(self, now_ns: int) -> None:
        """Check that we may still fund against what the solver signed. Raises BadIntroduction."""
        if self.introduced.signed is not None:
            self.introduced.signed.check_time(now_ns, self.terms.timeouts.skew)


async def converse(
    socket: Socket,
    said: Message,
    *wanted: type[Message],
    keep: Callable[[Message], None] | None = None,
) -> list[Message]:
    """Send a text on a connection without a session and wait for one text of each wanted kind.

    Raises PeerRefused with the peer's words, PeerSilent after ANSWER_S, Disconnected.
    Cancelled: raises Cancelled; the answers may still come.

    Args:
        keep: Receives other texts that arrive meanwhile.
    """
    found: dict[type[Message], Message] = {}
    await socket.send(encode_text(said))
    with trio.move_on_after(ANSWER_S):
        while len(found) < len(wanted):
            raw = await socket.receive()
            try:
                message = decode_text(raw)
            except JsonError as bad:
                raise PeerRefused(f"the peer's answer is not the vocabulary's: {bad}") from None
            if isinstance(message, TestRequest):
                await socket.send(encode_text(Heartbeat(test_req_id=message.test_req_id)))
            elif isinstance(message, BusinessMessageReject):
                raise refusal(message)
            elif type(message) in wanted:
                found[type(message)] = message
            elif keep is not None:
                keep(message)
        return [found[kind] for kind in wanted]
    raise PeerSilent("the peer did not answer", waited_s=ANSWER_S)


def refusal(said: BusinessMessageReject) -> PeerRefused:
    """A peer's refusal. Its reason, not its words, says whether it may pass. A peer that lies here
    can make us stop, but it could do that by being silent, too."""
    reason = said.business_reject_reason
    words = said.text or "the peer gave no reason"
    return PeerRefused(words, final=reason in _FINAL, passing=reason in _PASSING)


async def shake_hands(
    party: LocalParty, socket: Socket, expected: bytes | None, collateral: int, nonce: bytes
) -> HandshakeResult:
    """Introduce ourselves and learn the terms.

    Raises WrongParty, TermsRefused, BadIntroduction, HandshakeRefused, PeerRefused, PeerSilent,
    Disconnected; nothing was funded.
    Cancelled: raises Cancelled; neither side keeps anything.

    Args:
        expected: The solver's public key by the registry.
        collateral: Token units. With 0 we look around, and the answer binds nobody. With
            collateral the solver signs the whole handshake (`spec.md` 61).
        nonce: A fresh one, or the journal's to find the same custody again.
    """
    ours = introduce(party.wallet.public_key, nonce, collateral)
    asked_ns = party.clock.now_ns()
    theirs, document = await converse(socket, ours, Introduction, TermsDocument)
    answered_ns = party.clock.now_ns()
    assert isinstance(theirs, Introduction)  # noqa: S101
    assert isinstance(document, TermsDocument)  # noqa: S101
    introduced = conclude_handshake(
        ours,
        theirs,
        document,
        chain_id=party.chain_id,
        contract=party.contract,
        expected=expected,
    )
    terms = accept_terms(party, document.terms)
    if collateral and collateral < terms.minimum(TRADER):
        raise HandshakeRefused(
            "the terms ask for more collateral",
            ours=collateral,
            minimum=terms.minimum(TRADER),
        )
    if theirs.sending_time is None:
        raise HandshakeRefused("the peer does not say what time it has")
    # Positive only if the peer's time lies after our answer, negative only if before our question.
    off_ns = max(0, theirs.sending_time - answered_ns) - max(0, asked_ns - theirs.sending_time)
    handshake = HandshakeResult(introduced, terms, off_ns)
    handshake.check_time(answered_ns)
    # To look around, a wrong clock does no harm.
    if collateral:
        check_clocks(off_ns, terms)
    return handshake


async def ask_price(socket: Socket, symbol: str) -> MarketDataSnapshotFullRefresh:
    """The solver's indicative prices on a connection without a session. Raises as `converse`."""
    (said,) = await converse(socket, market_data("1", [symbol]), MarketDataSnapshotFullRefresh)
    assert isinstance(said, MarketDataSnapshotFullRefresh)  # noqa: S101
    return said


def market_data(request: str, symbols: Sequence[str]) -> MarketDataRequest:
    """A request for bid and offer of some symbols. request: its id, which the answers name."""
    return MarketDataRequest(
        md_req_id=request,
        subscription_request_type=SubscriptionRequestType.SNAPSHOT,
        market_depth=1,
        no_md_entry_types=(
            MDEntryTypeRef(md_entry_type=MDEntryType.BID),
            MDEntryTypeRef(md_entry_type=MDEntryType.OFFER),
        ),
        no_related_sym=tuple(SymbolRef(symbol=symbol) for symbol in symbols),
    )


async def keep_alive(socket: Socket, beat_s: float) -> None:
    """Tell the peer that we are there while we fund. If the connection is lost, the next reader
    finds out."""
    while True:
        try:
            await socket.send(encode_text(Heartbeat()))
        except (Disconnected, PeerViolation):
            return
        await trio.sleep(beat_s)
