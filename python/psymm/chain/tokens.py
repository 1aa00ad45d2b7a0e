"""What a token is and does, asked of the chain before anything rests on it.

`read_token` asks what it says about itself, `expect_unchanged` whether that is what it said when it
was listed. `try_token` and `try_deposit` let the node run a whole
deposit and withdrawal with the real portal, in one `eth_call` that changes nothing: a holder's
address is lent the code of `TokenTrial` (contracts/src/TokenTrial.sol), the portal's that of a
`TokenPortal` which obeys it. What the portal would refuse on chain is refused there: tokens that
take a fee, return false, are paused, bar the wallet or move other amounts than they are asked to.

A token nobody has given us yet is tried with a balance that the node is told to assume. The place
where a token keeps a balance differs; the node says which places `balanceOf` reads
(`eth_createAccessList`), and one after another is overridden until the balance follows. The places
that it reads for every holder alike show a token that rebases: the balance follows them, too.
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
"""How the code of a wallet begins that delegates to a contract (EIP-7702)."""
_TRIED_TOKENS: Final = 1_000
_MOST_PLACES: Final = 16
"""So many places are looked at for a balance; an ERC-20 behind a proxy reads about four."""
_YEAR_S: Final = 365 * 86_400

Place: TypeAlias = tuple[str, str]
"""(address, storage slot) as JSON-RPC writes them."""
Overrides: TypeAlias = dict[str, dict[str, object]]


@dataclass(frozen=True, slots=True)
class TokenFacts:
    """What a token says about itself.  symbol: empty where it has none that can be shown."""

    address: str
    decimals: int
    symbol: str

    @property
    def label(self) -> str:
        """The symbol; without one, the address's beginning."""
        return self.symbol or self.address[:10]


async def read_token(chain: Chain, address: str) -> TokenFacts:
    """What a token says about itself.

    Raises TokenUnfit: no contract, a wallet, no decimals or more than 18; CallInvalid for what is
    no address; and what reading the chain raises.  Cancelled: raises Cancelled.
    """
    address = checksummed("token", address)
    made = artifact("TokenFacts")
    # At the newest block that is known: a view that lags may not know the token yet.
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
        raise TokenUnfit(address, "it is no ERC-20: it does not say its decimals")
    count = int.from_bytes(decimals[:32], "big")
    if count > MOST_DECIMALS:
        shown = str(count) if count < 256 else "over 255"
        raise TokenUnfit(address, f"it has {shown} decimals, and at most {MOST_DECIMALS} work")
    return TokenFacts(address, count, symbol_of(symbol))


async def expect_unchanged(chain: Chain, address: str, label: str, decimals: int) -> TokenFacts:
    """What a token says about itself, if it is what it was when it was listed.

    label: its symbol as listed, see `TokenFacts.label`.  Raises TokenChanged, and what reading the
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
    """What changed since a token was listed, its transfers tried, too; None where nothing did.

    Where this node cannot try transfers, nothing is said of them.  Raises what reading the chain
    raises.  Cancelled: raises Cancelled.
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
    """Try a token before it is listed, without owning any of it.

    owner: whose own balance is tried with where the node cannot assume one; None: then nothing is
    tried.  Raises TokenUnfit; ChainUnfit where this node cannot try it; and what reading the chain
    raises.  Nothing is changed.  Cancelled: raises Cancelled.
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
                "its transfers cannot be tried: this node finds no place where it keeps balances. "
                f"Give {owner} some of it, or use another node",
            )
    else:
        await _expect_still(chain, token.address, holder, state, shared)
    if not await _trial(chain, token.address, portal, holder, amount, state):
        raise ChainUnfit(chain.rpc.endpoint, "eth_call with state overrides, to try tokens with")


async def try_deposit(chain: Chain, token: str, portal: str, holder: str, amount: int) -> None:
    """Try the deposit of an amount that its holder has, and its way back, with the portal as it
    stands.

    Raises TokenUnfit, and what reading the chain raises.  Where the node cannot try it, nothing
    is said here, and the contract refuses later.  Cancelled: raises Cancelled.
    """
    await _trial(chain, token, portal, holder, amount, {})


async def try_payment(chain: Chain, token: str, portal: str, payee: str, amount: int) -> None:
    """Try a payment out of the portal, as it stands.

    It tells the node who will be paid how much. Only for payments that this node will be handed
    anyway: others are private, and are tried by who sends them. Raises TokenUnfit, and what reading
    the chain raises.  Cancelled: raises Cancelled.
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
    """Whether the node tried it; raises TokenUnfit where the token fails."""
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
    """Why a trial failed, in words."""
    values = refused.values
    if refused.error == "TokenMovedOtherAmount":
        return _moved("it moves another amount than asked (a fee, or it rebases)", values)
    if refused.error == "HolderPaidOtherAmount":
        return _moved("a deposit takes another amount from its owner than asked", values, "before")
    if refused.error == "PayeeGotOtherAmount":
        return _moved("a withdrawal pays another amount than asked (a fee)", values, "before")
    if refused.error == "TokenRefused":
        # From the bytes: an error's values are cut for showing.
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
    """What a token answered, for the end of a sentence; it may be any text."""
    if not said:
        return ", without a reason (it may be paused, or bar this wallet or the portal)"
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


# --- balances that are not there ----------------------------------------------------------------


async def _balance_places(chain: Chain, token: str, holder: str) -> tuple[list[Place], list[Place]]:
    """The places that balanceOf reads for a holder, its own first; and those that it reads for
    every holder.  None where the node does not say."""
    mine = await _places(chain, token, holder)
    other = await _places(chain, token, _nobody())
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
    """Overrides under which a holder has an amount or more; None where no place does that."""
    for place in places:
        # Shares may count less than units, by far.
        for shift in (0, 64, 128):
            state = _with(place, (2 * amount) << shift)
            if (await _balance(chain, token, holder, state) or 0) >= amount:
                return state
    return None


async def _balance(
    chain: Chain, token: str, holder: str, overrides: Overrides, time_s: int | None = None
) -> int | None:
    """What balanceOf gives under overrides; None where it gives nothing, or the node knows none."""
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
    """Raises TokenUnfit for a token whose balances change without transfers: with time, or with a
    number that is one for all holders (an index, a rate, a total)."""
    before = await _balance(chain, token, holder, state)
    now_s = (await chain.block()).timestamp_s
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
        # An address that is doubled leads nowhere, and gives no balance or none at all.
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
    """An address that nobody has used."""
    return checksummed("address", "0x" + secrets.token_hex(20))
