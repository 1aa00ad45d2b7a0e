"""Oracle prices: what a signer signs, and when a price comes into effect.

An oracle signer signs EIP-712 ``OraclePrice(string feed,uint256 price,uint64 timestamp)`` under
pSymm's domain; price at 18 decimals, timestamp in nanoseconds. A price belongs to a feed and not to
a custody, so one signature serves every custody of that contract.
"""

from __future__ import annotations

from collections.abc import Iterable

from psymm._core import SignatureError, address_of, domain_separator, keccak256, recover
from psymm.messages import OraclePrice
from psymm.rulebook.account import Price
from psymm.rulebook.live_account import LiveAccount
from psymm.rulebook.totals import put_price
from psymm.rulebook.violation import decimal, refuse
from psymm.terms import Terms

_TYPE = keccak256(b"OraclePrice(string feed,uint256 price,uint64 timestamp)")


def price_digest(terms: Terms, feed: str, price: int, timestamp_ns: int) -> bytes:
    """The digest that an oracle signer signs for a price."""
    struct = keccak256(
        _TYPE
        + keccak256(feed.encode())
        + price.to_bytes(32, "big")
        + timestamp_ns.to_bytes(32, "big")
    )
    domain = domain_separator(terms.chain.id, bytes.fromhex(terms.chain.psymm[2:]))
    return keccak256(b"\x19\x01" + domain + struct)


def signers_of(digest: bytes, signatures: Iterable[bytes]) -> set[str]:
    """The distinct addresses that signed ``digest``."""
    found: set[str] = set()
    for signature in signatures:
        try:
            found.add(address_of(recover(digest, signature)))
        except SignatureError:
            continue
    return found


def take_price(account: LiveAccount, said: OraclePrice) -> None:
    """UPX: a price comes into effect for all later frames."""
    instrument = account.terms.instrument(said.symbol)
    if instrument is None:
        refuse("unknown-symbol", symbol=said.symbol)
    if said.price <= 0:
        refuse("off-tick", price=decimal(said.price))
    oracle = account.terms.oracle
    known = account.prices.get(said.symbol)
    if known is not None and said.timestamp <= known.timestamp:
        refuse("price-not-newer", timestamp=said.timestamp, in_effect=known.timestamp)
    if said.timestamp > account.clock + account.terms.timeouts.skew:
        refuse("price-from-ahead", timestamp=said.timestamp, clock=account.clock)
    if said.timestamp + oracle.validity < account.clock:
        refuse("price-stale", timestamp=said.timestamp, clock=account.clock)
    digest = price_digest(account.terms, instrument.feed, said.price, said.timestamp)
    # Count distinct signers: a second signature of one signer adds nothing.
    signed = signers_of(digest, (each.signature for each in said.signatures))
    agreed = len(signed & set(oracle.signers))
    if not oracle.signers or agreed < oracle.threshold:
        refuse("unknown-signer", agreed=agreed, threshold=oracle.threshold)
    put_price(account, said.symbol, Price(price=said.price, timestamp=said.timestamp))
