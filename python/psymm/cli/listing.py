"""Registering from a daemon, only if the entry is missing or differs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psymm.cli.output import Cost, Screen, confirm_cost

if TYPE_CHECKING:
    from psymm.chain.registry import Registry
    from psymm.wallet import KeyWallet

REGISTRATION_GAS = 250_000


async def enter_registry(
    screen: Screen,
    registry: Registry,
    wallet: KeyWallet,
    role: str,
    endpoint: str,
    yes: bool,
    *,
    plain: bool,
) -> None:
    """Register the wallet with this role and endpoint, unless it is registered so already.

    plain: also allow ws:// on another machine.
    Raises PlainRefused, RegistrationInvalid, Reverted, WalletWithoutGas, and CommandError if the
    user declines.
    """
    from psymm.chain.errors import RegistrationInvalid
    from psymm.chain.registry import Role, checked_endpoint
    from psymm.cli.chain_context import expect_coins
    from psymm.sockets.dialling import check_plain

    checked_endpoint(endpoint)
    await check_plain(endpoint, plain)
    kind = Role[role.upper()]
    try:
        known = await registry.get(kind, wallet.address)
    except RegistrationInvalid:
        known = None
    if known is not None and (known.endpoint, known.public_key) == (endpoint, wallet.public_key):
        screen.event("registered", f"Already registered as {role} at {endpoint}", role=role)
        return
    price = (await registry.chain.fees()).max_wei
    action = f"Registering {wallet.address} as {role} at {endpoint}"
    cost = Cost(REGISTRATION_GAS, price, 15.0)
    await expect_coins(registry.chain, wallet.address, cost)
    confirm_cost(screen, action, cost, yes)
    receipt = await registry.register(wallet, kind, endpoint, wallet.public_key)
    screen.event(
        "registered",
        f"Registered as {role} at {endpoint}, {receipt.gas_used:,} gas",
        role=role,
        endpoint=endpoint,
        tx=receipt.tx_hash,
        gasUsed=receipt.gas_used,
    )
