"""A relayer's settings: its prices and its limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from psymm.relayer.errors import RelayerConfigError


@dataclass(frozen=True, slots=True)
class TokenPrice:
    """How a relayer prices a move in one token.

    Attributes:
        flat: units for any move.
        units_per_eth: units for one ETH of gas. If above 0, the expected gas at the present price
            is added, and the sum is rounded up to two digits, so that fees of one hour look alike.
    """

    flat: int
    units_per_eth: int = 0

    def fee(self, gas: int, gas_price_wei: int) -> int:
        gas_part = -(-gas * gas_price_wei * self.units_per_eth // 10**18)
        total = self.flat + gas_part
        step = 10 ** max(0, len(str(total)) - 2)
        return -(-total // step) * step if gas_part else total


@dataclass(frozen=True, slots=True)
class RelayerConfig:
    """A relayer's settings.

    Attributes:
        prices: by token address (checksummed); also the list of accepted fee tokens.
        quote_life_s: how long a quoted fee is honoured.
        min_deadline_s: how far ahead a call's deadline must be.
        queue: calls under way at once.
        connections: at once. A quarter is reserved for clients whose call was accepted. If the
            others are full, the address with the most connections loses its oldest one to an
            address with fewer.
        connections_per_peer: for one address.
        requests_per_minute: for one address.
        bytes_per_minute: for one address.
        calls_per_peer: calls under way at once for one address.
        addresses_per_network: an IPv6 /48 has this many times the share of one address.
        requests_at_once: for one connection.
        idle_s: a connection without requests is closed after this time.
        replace_after_s: after this time an unmined transaction gets a higher fee.
        depth: how many blocks deep a call must be to count as mined.
    """

    prices: Mapping[str, TokenPrice]
    quote_life_s: int = 300
    min_deadline_s: int = 60
    queue: int = 64
    connections: int = 256
    connections_per_peer: int = 16
    requests_per_minute: int = 120
    bytes_per_minute: int = 8 * 1024 * 1024
    calls_per_peer: int = 32
    addresses_per_network: int = 4
    requests_at_once: int = 8
    idle_s: float = 120.0
    replace_after_s: float = 60.0
    depth: int = 1

    def __post_init__(self) -> None:
        if not self.prices:
            raise RelayerConfigError("no fee token is named")
        for token, price in self.prices.items():
            if price.flat < 0 or price.units_per_eth < 0:
                raise RelayerConfigError("a fee is negative", token=token)
            if price.flat + price.units_per_eth == 0:
                raise RelayerConfigError(
                    "the fee is zero; a call without a fee names no relayer", token=token
                )
        for one in fields(self):
            if one.name != "prices" and getattr(self, one.name) <= 0:
                raise RelayerConfigError("it must be above zero", setting=one.name)
