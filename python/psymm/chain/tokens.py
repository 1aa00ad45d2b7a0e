"""Checking a token before we depend on it: what it says about itself, and what its transfers do.

`read_token` reads its metadata; `expect_unchanged` compares that with the listing. `try_token` and
`try_deposit` simulate a whole deposit and withdrawal with the real portal in one `eth_call`, which
changes nothing. For that call a holder's address gets the code of `TokenTrial`
(contracts/src/TokenTrial.sol), and the portal's address that of a `TokenPortal` which obeys it. So
the simulation refuses what the portal would refuse on chain: tokens that take a fee, return false,
are paused, block the wallet or move other amounts than asked.

For a token that we do not own, the node is told to assume a balance. Tokens keep balances in
different storage slots. The node says which slots `balanceOf` reads (`eth_createAccessList`), and
these are overridden one after another until the balance follows. A slot that is read for every
holder shows a rebasing token: its balances follow that slot, too.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from psymm.chain.abi import decode_values
from psymm.chain.addresses import checksummed
from psymm.chain.artifacts import artifact
from psymm.chain.contracts import ERC20, MOST_DECIMALS, symbol_of
from psymm.chain.errors import (
    BadReply,
    CallInvalid,
    ChainUnfit,
    OutOfGas,
    Reverted,
    RpcError,
    TokenChanged,
    TokenUnfit,
)
from psymm.chain.transactions import Chain
from psymm.errors import clip

_DELEGATED: Final = b"\xef\x01\x00"
"""The prefix of the code of a wallet that delegates to a contract (EIP-7702)."""
_TRIED_TOKENS: Final = 1_000
_MOST_PLACES: Final = 16
"""The most storage slots that are tried; an ERC-20 with a proxy reads about four."""
_YEAR_S: Final = 365 * 86_400

Place: TypeAlias = tuple[str, str]
"""(address, storage slot) as JSON-RPC writes them."""
Overrides: TypeAlias = dict[str, dict[str, object]]


@dataclass(frozen=True, slots=True)
class TokenFacts:
    """A token's metadata.  symbol: empty if it has none that can be shown."""

    address: str
    decimals: int
    symbol: str

    @property
    def label(self) -> str:
        """The symbol; without one, the start of the address."""
        return self.symbol or self.address[:10]


async def read_token(chain: Chain, address: str) -> TokenFacts:
    """A token's metadata.

    Raises TokenUnfit: no contract, a wallet, no decimals or more than 18; CallInvalid if the text
    is not an address; and what reading the chain raises.  Cancelled: raises Cancelled.
    """
    address = checksummed("token", address)
    made = artifact("TokenFacts")
    # At the newest known block, because a lagging node may not know the token yet.
    data = await chain.simulate(
        None,
        made.linked({}) + made.abi.encode_constructor(address),
        doing="reading the token",
        block=await chain.head(),
    )
    try:
        size, head, decimals, symbol = decode_values(
            "TokenFacts", ["uint256", "bytes", "bytes", "bytes"], data
        )
    except CallInvalid as bad:
        raise BadReply(chain.rpc.endpoint, "eth_call", str(bad)) from None
    if size == 0:
        raise TokenUnfit(address, "there is no contract at this address")
    if head == _DELEGATED:
        raise TokenUnfit(address, "it is a wallet that delegates to a contract (EIP-7702)")
    if len(decimals) < 32:
        raise TokenUnfit(address, "it is not an ERC-20 with decimals")
    count = int.from_bytes(decimals[:32], "big")
    if count > MOST_DECIMALS:
        shown = str(count) if count < 256 else "over 255"
        raise TokenUnfit(address, f"it has {shown} decimals, and at most {MOST_DECIMALS} work")
    return TokenFacts(address, count, symbol_of(symbol))


async def expect_unchanged(chain: Chain, address: str, label: str, decimals: int) -> TokenFacts:
    """A token's metadata, if it equals what was listed.

    label: the symbol as listed; see `TokenFacts.label`.  Raises TokenChanged, and what reading the
    chain raises.  Cancelled: raises Cancelled.
    """
    try:
        found = await read_token(chain, address)
    except TokenUnfit as unfit:
        was, now = f"an ERC-20 with {decimals} decimals", f"something else ({unfit.reason})"
        raise TokenChanged(address, label, "code", was, now) from None
    if found.decimals != decimals:
        raise TokenChanged(address, label, "decimals", str(decimals), str(found.decimals))
    if found.label != label:
        raise TokenChanged(address, label, "symbol", label, found.label)
    return found


async def token_change(
    chain: Chain, address: str, label: str, decimals: int
) -> TokenChanged | None:
    """What changed since a token was listed, its transfers included; None if nothing did.

    Transfers are skipped if the node cannot simulate them.  Raises what reading the chain raises.
    Cancelled: raises Cancelled.
    """
    try:
        await try_token(chain, await expect_unchanged(chain, address, label, decimals), None)
    except TokenChanged as changed:
        return changed
    except TokenUnfit as unfit:
        return TokenChanged(address, label, "transfers", "exact", f"unfit ({unfit.reason})")
    except ChainUnfit:
        pass
    return None


async def try_token(chain: Chain, token: TokenFacts, owner: str | None) -> None:
    """Simulate a token's transfers before it is listed, without owning any of it.

    owner: whose real balance is used if the node cannot assume one; None: then nothing is tried.
    Raises TokenUnfit; ChainUnfit if the node cannot simulate it; and what reading the chain raises.
    Cancelled: raises Cancelled.
    """
    holder, portal = _nobody(), _nobody()
    amount = _TRIED_TOKENS * 10**token.decimals + 7
    places, shared = await _balance_places(chain, token.address, holder)
    state = await _assumed(chain, token.address, holder, amount, places)
    if state is None:
        if owner is None:
            return
        holder, state = owner, {}
        amount = min(amount, await _balance(chain, token.address, owner, {}) or 0)
        if amount == 0:
            raise TokenUnfit(
                token.address,
                "its transfers cannot be simulated: this node does not show where it stores "
                f"balances. Give {owner} some of it, or use another node",
            )
    else:
        await _expect_still(chain, token.address, holder, state, shared)
    if not await _trial(chain, token.address, portal, holder, amount, state):
        raise ChainUnfit(chain.rpc.endpoint, "eth_call with state overrides, to test tokens")


async def try_deposit(chain: Chain, token: str, portal: str, holder: str, amount: int) -> None:
    """Simulate the deposit and withdrawal of an amount that its holder has, with the real portal.

    Raises TokenUnfit, and what reading the chain raises.  If the node cannot simulate it, this
    passes, and the contract refuses later.  Cancelled: raises Cancelled.
    """
    await _trial(chain, token, portal, holder, amount, {})


async def try_payment(chain: Chain, token: str, portal: str, payee: str, amount: int) -> None:
    """Simulate a payment out of the real portal.

    The node learns who will be paid how much. So call this only for payments that we send through
    this node anyway; for others, the relayer tries them. Raises TokenUnfit, and what reading the
    chain raises.  Cancelled: raises Cancelled.
    """
    call = ERC20.function("transfer").encode(payee, amount)
    try:
        said = await chain.simulate(token, call, doing="trying the payment", sender=portal)
    except Reverted as refused:
        raise TokenUnfit(token, f"it refuses to pay {payee}{_words(refused.data)}") from None
    if said and (len(said) < 32 or int.from_bytes(said[:32], "big") != 1):
        raise TokenUnfit(token, f"it refuses to pay {payee}{_words(said)}")


async def _trial(
    chain: Chain, token: str, portal: str, holder: str, amount: int, state: Overrides
) -> bool:
    """Whether the node simulated it; raises TokenUnfit if the token fails."""
    made = artifact("TokenTrial")
    trial = await chain.simulate(None, made.linked({}), doing="preparing the trial")
    # Bound to its creator, which is the holder here.
    gate = await chain.simulate(
        None, artifact("TokenPortal").linked({}), doing="preparing the trial", sender=holder
    )
    overrides = {place: dict(what) for place, what in state.items()}
    overrides.setdefault(holder, {})["code"] = "0x" + trial.hex()
    overrides.setdefault(portal, {})["code"] = "0x" + gate.hex()
    call = made.abi.function("depositAndWithdraw").encode(token, portal, amount)
    try:
        answer = await chain.simulate(
            holder, call, doing="trying the token", sender=holder, overrides=overrides
        )
    except Reverted as refused:
        raise TokenUnfit(token, _reason(refused)) from None
    except OutOfGas:
        raise TokenUnfit(token, "its transfers use up all gas") from None
    except RpcError:
        return False
    return int.from_bytes(answer, "big") == 1


def _reason(refused: Reverted) -> str:
    """Why a trial failed, for an error text."""
    values = refused.values
    if refused.error == "TokenMovedOtherAmount":
        return _moved("it moves another amount than asked (it takes a fee or rebases)", values)
    if refused.error == "HolderPaidOtherAmount":
        return _moved("a deposit takes another amount from its owner than asked", values, "before")
    if refused.error == "PayeeGotOtherAmount":
        return _moved(
            "a withdrawal pays another amount than asked (it takes a fee)", values, "before"
        )
    if refused.error == "TokenRefused":
        # From the raw data, because an error's values are shortened for display.
        _, selector, said = decode_values("", ["address", "bytes4", "bytes"], refused.data[4:])
        return f"{_SELECTORS.get(selector, 'a call')} is refused now{_words(said)}"
    if refused.error == "ApprovalRefused":
        _, said = decode_values("", ["address", "bytes"], refused.data[4:])
        return f"approve is refused now{_words(said)}"
    if refused.error == "ApprovalIgnored":
        return f"approving {values['amount']} allows {values['allowance']}"
    return "its balances or allowances cannot be read"


def _moved(what: str, values: Mapping[str, Any], first: str = "balanceBefore") -> str:
    then = "then" if first == "before" else "balanceAfter"
    moved = abs(values[then] - values[first])
    return f"{what}: of {values['amount']} units it moved {moved}"


_SELECTORS: Final = {
    bytes.fromhex("23b872dd"): "transferFrom",
    bytes.fromhex("a9059cbb"): "transfer",
    bytes.fromhex("70a08231"): "balanceOf",
    bytes.fromhex("dd62ed3e"): "allowance",
}


def _words(said: bytes) -> str:
    """A token's revert data or answer, for the end of a sentence; it may hold any text."""
    if not said:
        return ", without a reason (it may be paused, or block this wallet or the portal)"
    if said[:4] == bytes.fromhex("08c379a0"):
        try:
            (text,) = decode_values("Error", ["string"], said[4:])
        except CallInvalid:
            pass
        else:
            return f" with the words {clip(text, 100)!r}"
    if len(said) == 32 and not any(said):
        return ": it returns false"
    return f" with 0x{said[:36].hex()}"


# --- assumed balances ---------------------------------------------------------------------------


async def _balance_places(chain: Chain, token: str, holder: str) -> tuple[list[Place], list[Place]]:
    """The slots that balanceOf reads for a holder, its own first; and those that it reads for every
    holder.  Both are empty if the node does not say."""
    mine = await _places(chain, token, holder)
    # A set: a node may name a hundred thousand places.
    other = set(await _places(chain, token, _nobody()))
    shared = [place for place in mine if place in other]
    own = [place for place in mine if place not in other]
    return (own + shared)[:_MOST_PLACES], shared[:_MOST_PLACES]


async def _places(chain: Chain, token: str, holder: str) -> list[Place]:
    call = ERC20.function("balanceOf").encode(holder)
    request: Any = {"from": holder, "to": token, "data": call}
    try:
        found = await chain.rpc.eth.create_access_list(request)
    except RpcError:
        return []
    return [(one["address"], slot) for one in found["accessList"] for slot in one["storageKeys"]]


async def _assumed(
    chain: Chain, token: str, holder: str, amount: int, places: list[Place]
) -> Overrides | None:
    """Overrides under which a holder has at least an amount; None if no slot has that effect."""
    for place in places:
        # A slot may hold shares, which can be worth far less than a unit each.
        for shift in (0, 64, 128):
            state = _with(place, (2 * amount) << shift)
            if (await _balance(chain, token, holder, state) or 0) >= amount:
                return state
    return None


async def _balance(
    chain: Chain, token: str, holder: str, overrides: Overrides, time_s: int | None = None
) -> int | None:
    """What balanceOf returns under overrides; None if it fails or the node supports none."""
    call = ERC20.function("balanceOf").encode(holder)
    try:
        data = await chain.simulate(
            token, call, doing="balanceOf", overrides=overrides or None, time_s=time_s
        )
    except (Reverted, OutOfGas, RpcError):
        return None
    return int.from_bytes(data[:32], "big") if len(data) >= 32 else None


async def _expect_still(
    chain: Chain, token: str, holder: str, state: Overrides, shared: list[Place]
) -> None:
    """Raises TokenUnfit for a token whose balances change without transfers: over time, or with a
    number that all holders share (an index, a rate, a total)."""
    before = await _balance(chain, token, holder, state)
    now_s = await chain.time_s()
    later = await _balance(chain, token, holder, state, now_s + _YEAR_S)
    changed = later is not None and later != before
    for place in shared:
        if changed:
            break
        word = int(await chain.rpc.call("eth_getStorageAt", *place, "latest"), 16)
        if not word or place[1] in state.get(place[0], {}):
            continue
        other = word * 2 if word < 1 << 255 else word // 2
        after = await _balance(chain, token, holder, _merged(state, _with(place, other)))
        # If the slot held an address, the doubled one leads nowhere: balance 0, or a failed call.
        changed = bool(after) and after != before
    if changed:
        raise TokenUnfit(
            token, "its balances change without transfers (it rebases); its wrapped form may do"
        )


def _with(place: Place, word: int) -> Overrides:
    return {place[0]: {"stateDiff": {place[1]: f"0x{word % (1 << 256):064x}"}}}


def _merged(one: Overrides, other: Overrides) -> Overrides:
    merged: Overrides = {place: dict(what) for place, what in one.items()}
    for place, what in other.items():
        into = merged.setdefault(place, {})
        for name, value in what.items():
            before = into.get(name, {})
            assert isinstance(value, dict)  # noqa: S101 - `_with` makes no other
            assert isinstance(before, dict)  # noqa: S101 - likewise
            into[name] = {**before, **value}
    return merged


def _nobody() -> str:
    """A random address, which nobody has used."""
    return checksummed("address", "0x" + secrets.token_hex(20))
