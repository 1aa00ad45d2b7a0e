"""Oracle prices: signed by the terms' signers, in effect at once, and only for so long."""

from __future__ import annotations

from eth_account import Account as EthAccount
from eth_account.messages import encode_typed_data
from rulebook_scene import START, Scene, dec, limit, make_terms, trade

from psymm._core import SecretKey
from psymm.messages import Heartbeat, OraclePrice, OracleSignature, Side
from psymm.rulebook import Lane, price_digest
from psymm.terms import NANOSECONDS, Oracle, Terms

SECOND = NANOSECONDS
KEYS = [SecretKey.from_bytes(bytes(31) + bytes([n])) for n in (1, 2, 3)]
STRANGER = SecretKey.from_bytes(bytes(31) + b"\x09")


def overseen(threshold: int = 2) -> Scene:
    """A custody whose terms name three signers."""
    signers = tuple(key.address for key in KEYS)
    return Scene(make_terms(oracle=Oracle(signers=signers, threshold=threshold))).open_for_trading()


def says(
    terms: Terms, price: str, at: int, *keys: SecretKey, symbol: str = "BTC", feed: str = "BTC/USD"
) -> OraclePrice:
    digest = price_digest(terms, feed, dec(price), at)
    signatures = tuple(OracleSignature(signature=key.sign(digest)) for key in keys)
    return OraclePrice(symbol=symbol, price=dec(price), timestamp=at, signatures=signatures)


def test_the_digest_is_what_eth_account_signs() -> None:
    terms = make_terms()
    document = {
        "domain": {
            "name": "pSymm",
            "version": "1",
            "chainId": terms.chain.id,
            "verifyingContract": terms.chain.psymm,
        },
        "primaryType": "OraclePrice",
        "types": {
            "EIP712Domain": [
                {"name": "name", "type": "string"},
                {"name": "version", "type": "string"},
                {"name": "chainId", "type": "uint256"},
                {"name": "verifyingContract", "type": "address"},
            ],
            "OraclePrice": [
                {"name": "feed", "type": "string"},
                {"name": "price", "type": "uint256"},
                {"name": "timestamp", "type": "uint64"},
            ],
        },
        "message": {"feed": "BTC/USD", "price": dec("1000.5"), "timestamp": START},
    }
    signed = EthAccount.sign_message(
        encode_typed_data(full_message=document), KEYS[0].expose_secret_bytes()
    )
    assert signed.signature == KEYS[0].sign(price_digest(terms, "BTC/USD", dec("1000.5"), START))


def test_a_price_that_enough_signers_signed_comes_into_effect() -> None:
    scene = overseen()
    scene.opened("2", "1000")
    assert scene.trade(says(scene.terms, "1010", scene.now, *KEYS[:2])) is None
    assert scene.account.upnl(Lane.TRADER) == dec("20")


def test_too_few_signers_are_refused() -> None:
    scene = overseen()
    now = scene.now
    scene.violation_of_solver(says(scene.terms, "1010", now, KEYS[0]), "unknown-signer")
    scene.violation_of_solver(says(scene.terms, "1010", now, KEYS[0], KEYS[0]), "unknown-signer")
    scene.violation_of_solver(says(scene.terms, "1010", now, KEYS[0], STRANGER), "unknown-signer")


def test_a_price_for_another_feed_or_value_is_not_what_was_signed() -> None:
    scene = overseen()
    now = scene.now
    other = says(scene.terms, "1010", now, *KEYS, feed="ETH")
    scene.violation_of_solver(other, "unknown-signer")
    good = says(scene.terms, "1010", now, *KEYS)
    bent = OraclePrice(symbol="BTC", price=dec("1011"), timestamp=now, signatures=good.signatures)
    scene.violation_of_solver(bent, "unknown-signer")


def test_a_signature_that_is_no_signature_counts_for_nothing() -> None:
    scene = overseen()
    junk = OraclePrice(
        symbol="BTC",
        price=dec("1010"),
        timestamp=scene.now,
        signatures=(OracleSignature(signature=bytes(65)),) * 2,
    )
    scene.violation_of_solver(junk, "unknown-signer")


def test_without_signers_in_the_terms_no_price_is_ever_in_effect() -> None:
    scene = Scene().open_for_trading()
    scene.violation_of_solver(says(scene.terms, "1010", scene.now, *KEYS), "unknown-signer")


def test_a_price_replaces_only_an_older_one() -> None:
    scene = overseen()
    now = scene.now
    assert scene.solver(says(scene.terms, "1010", now, *KEYS)) is None
    scene.violation_of_solver(says(scene.terms, "1020", now, *KEYS), "price-not-newer")
    assert scene.solver(says(scene.terms, "1020", now + 1, *KEYS)) is None


def test_a_price_from_ahead_or_past_its_validity_is_refused() -> None:
    scene = overseen()
    ahead = scene.now + scene.terms.timeouts.skew + 10 * SECOND
    scene.violation_of_solver(says(scene.terms, "1010", ahead, *KEYS), "price-from-ahead")
    old = scene.now - scene.terms.oracle.validity - SECOND
    scene.violation_of_solver(says(scene.terms, "1010", old, *KEYS), "price-stale")


def test_past_a_price_s_validity_only_cancels_and_closes_are_valid() -> None:
    scene = overseen()
    held = scene.opened("1", "1000")
    scene.solver(says(scene.terms, "1000", scene.now, *KEYS))
    late = scene.now + scene.terms.oracle.validity + SECOND
    scene.trade(limit("waiting", "1", "1000"))
    scene.trader(Heartbeat())
    scene.cover(late)
    scene.violation_of_trader(limit("o"), "price-stale")
    scene.violation_of_solver(trade("e", "waiting"), "price-stale")
    assert scene.trade(limit("c", "1", "1000", Side.SELL, closes=held)) is None
    assert scene.solver(trade("e2", "c")) is None


def test_a_price_is_valid_to_the_last_nanosecond_of_its_validity() -> None:
    scene = overseen()
    at = scene.now
    scene.solver(says(scene.terms, "1000", at, *KEYS))
    end = at + scene.terms.oracle.validity
    scene.trader(Heartbeat())
    scene.cover()
    scene.trader(limit("o1"), at=end)
    ruling = scene.write(Lane.SOLVER, Heartbeat(), at=end)[-2]
    assert ruling.violation is None
    scene.trader(limit("o2"), at=end + 1)
    ruling = scene.write(Lane.SOLVER, Heartbeat(), at=end + 1)[-2]
    assert ruling.violation is not None
    assert ruling.violation.name == "price-stale"


def test_a_stale_price_of_another_position_s_instrument_bars_openings_too() -> None:
    scene = overseen()
    scene.opened("1", "1000", symbol="ETH")
    scene.solver(says(scene.terms, "1000", scene.now, *KEYS, symbol="ETH", feed="ETH"))
    scene.trader(Heartbeat())
    scene.cover(scene.now + scene.terms.oracle.validity + SECOND)
    found = scene.violation_of_trader(limit("o"), "price-stale")
    assert ("symbol", "ETH") in found.values


def test_an_opening_price_stays_within_the_band_around_the_oracle_s() -> None:
    scene = overseen()
    scene.solver(says(scene.terms, "1000", scene.now, *KEYS))
    scene.violation_of_trader(limit("o1", "1", "1100.5"), "price-out-of-band")
    scene.violation_of_trader(limit("o2", "1", "899.5", Side.SELL), "price-out-of-band")
    assert scene.trade(limit("o3", "1", "1100")) is None
    scene.violation_of_solver(trade("e", "o3", "1", "899.5"), "price-out-of-band")


def test_margin_is_checked_at_the_price_in_effect() -> None:
    scene = overseen()
    scene.opened("9", "1000")
    assert scene.replay.preview(Lane.TRADER, limit("o", "80"), scene.now) is None
    scene.solver(says(scene.terms, "100", scene.now, *KEYS))
    found = scene.violation_of_trader(limit("o2", "140", "100"), "margin")
    assert ("lane", "trader") in found.values
