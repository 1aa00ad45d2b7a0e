"""Checks of a token before it is used: each kind works, or is refused by name."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from odd_tokens import do, put_proxy, put_token

from psymm.chain.contracts import Token, fit_symbol
from psymm.chain.deployment import Deployment
from psymm.chain.devnet import Devnet
from psymm.chain.errors import ChainUnfit, PermitMissing, RpcError, TokenUnfit
from psymm.chain.rpc import Rpc
from psymm.chain.tokens import read_token, try_deposit, try_token
from psymm.wallet import KeyWallet

pytestmark = pytest.mark.chain


async def tried(devnet: Devnet, address: str) -> str:
    """The token's label, after all that a deployment asks of it; nobody holds any."""
    facts = await read_token(devnet.chain, address)
    await try_token(devnet.chain, facts, KeyWallet.generate().address)
    return facts.label


@pytest.mark.parametrize(
    "habits",
    [
        (),
        ("NOTHING_RETURNED", "APPROVES_VIA_ZERO"),
        ("PACKED_BALANCE",),
        ("OTHER_PERMIT",),
        ("PHANTOM",),
    ],
    ids=str,
)
async def test_tokens_with_the_habits_of_real_ones_work(
    devnet: Devnet, habits: tuple[str, ...]
) -> None:
    assert await tried(devnet, await put_token(devnet, *habits)) == "ODD"


@pytest.mark.parametrize(
    ("habit", "reason"),
    [
        ("TAKES_FEE", r"of 1000000007 units it moved 990000007"),
        ("FEE_ON_THE_WAY_OUT", r"withdrawal pays another amount"),
        ("HOLDER_PAYS_MORE", r"takes another amount from its owner"),
        ("MOVES_NOTHING", r"it moved 0"),
        ("RETURNS_FALSE", r"transferFrom is refused now: it returns false"),
        ("PAUSED", r"refused now with the words 'paused'"),
        ("CALLS_PAYEE", r"'the payee takes no calls'"),
        ("APPROVE_DOES_NOTHING", r"approving 1000000007 allows 0"),
        ("REBASES", r"it rebases"),
        ("GROWS_WITH_TIME", r"it rebases"),
        ("NO_DECIMALS", r"it is not an ERC-20 with decimals"),
        ("VIEWS_BURN_GAS", r"it is not an ERC-20 with decimals"),
    ],
)
async def test_tokens_that_cannot_be_held_are_refused_by_what_they_do(
    devnet: Devnet, habit: str, reason: str
) -> None:
    address = await put_token(devnet, habit)
    with pytest.raises(TokenUnfit, match=reason) as refused:
        await tried(devnet, address)
    assert refused.value.token == address


@pytest.mark.parametrize("decimals", [0, 1, 18])
async def test_from_none_to_18_decimals_work(devnet: Devnet, decimals: int) -> None:
    assert await tried(devnet, await put_token(devnet, decimals=decimals)) == "ODD"


@pytest.mark.parametrize(("decimals", "shown"), [(19, "19"), (24, "24"), (1 << 200, "over 255")])
async def test_more_decimals_are_refused(devnet: Devnet, decimals: int, shown: str) -> None:
    with pytest.raises(TokenUnfit, match=f"it has {shown} decimals, and at most 18"):
        await read_token(devnet.chain, await put_token(devnet, decimals=decimals))


async def test_what_is_no_token_is_refused(devnet: Devnet, deployment: Deployment) -> None:
    wallet = await devnet.new_account()
    with pytest.raises(TokenUnfit, match="no contract at this address"):
        await read_token(devnet.chain, wallet.address)
    with pytest.raises(TokenUnfit, match="not an ERC-20"):
        await read_token(devnet.chain, deployment.registry)
    # A wallet that delegates has code, and the token's answers to boot.
    code = "0xef0100" + deployment.tokens[0].address[2:]
    await devnet.rpc.call("anvil_setCode", wallet.address, code)
    with pytest.raises(TokenUnfit, match="EIP-7702"):
        await read_token(devnet.chain, wallet.address)


@pytest.mark.parametrize(
    ("symbol", "habit", "shown"),
    [
        (b"MKR", "SYMBOL_IS_BYTES32", "MKR"),
        (b"A" * 32, "SYMBOL_IS_BYTES32", "A" * 32),
        ("USD₮0".encode(), None, "USD₮0"),
        (b"Cake LP", None, "Cake LP"),
        # Shown in part they would be another token's, so none of them is shown.
        ("USD\u200bT".encode(), None, None),
        (b"\x1b[31m\xc3\xa9\xe2\x80\xae", None, None),
        ("ＵＳＤＴ".encode(), None, None),
        ("U\u0301SDT".encode(), None, None),
        (b"USDT\0\0X", "SYMBOL_IS_BYTES32", None),
        (b"USDT" + b" " * 40, None, None),
        (b"USDT ", None, None),
        (b"USDT\n", None, None),
        (b"0x1234567", None, None),
        (b"A" * 33, None, None),
        (b"A" * 5_000, None, None),
        (b"\xff\xfe", None, None),
        (b"", None, None),
        (b"X", "NO_SYMBOL", None),
        (b"X", "HUGE_SYMBOL", None),
    ],
    ids=lambda one: str(one)[:20],
)
async def test_a_symbol_is_shown_whole_or_not_at_all(
    devnet: Devnet, symbol: bytes, habit: str | None, shown: str | None
) -> None:
    address = await put_token(devnet, *([habit] if habit else []), symbol=symbol)
    facts = await read_token(devnet.chain, address)
    assert facts.label == (shown or address[:10])
    assert facts.symbol == (shown or "")
    assert shown is None or fit_symbol(shown)


async def test_a_token_behind_a_proxy_is_what_its_implementation_is(devnet: Devnet) -> None:
    plain = await put_proxy(devnet, await put_token(devnet))
    assert await tried(devnet, plain) == plain[:10]
    fee = await put_proxy(devnet, await put_token(devnet, "TAKES_FEE"))
    with pytest.raises(TokenUnfit, match="fee"):
        await tried(devnet, fee)
    rebasing = await put_proxy(devnet, await put_token(devnet, "REBASES"))
    await do(devnet, rebasing, "setRate", 10**18)
    with pytest.raises(TokenUnfit, match="rebases"):
        await tried(devnet, rebasing)


class Plain(Rpc):
    """A node without one of its methods."""

    def __init__(self, url: str, lacks: str) -> None:
        super().__init__(url)
        self._lacks = lacks

    async def call(self, method: str, *params: Any) -> Any:
        if method == self._lacks:
            raise RpcError(method, -32601, "the method does not exist")
        if self._lacks == "overrides" and method == "eth_call" and len(params) > 2:
            raise RpcError(method, -32602, "too many arguments")
        return await super().call(method, *params)


async def test_where_no_balance_can_be_assumed_the_deployers_own_is_tried_with(
    devnet: Devnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, fee = await put_token(devnet), await put_token(devnet, "TAKES_FEE")
    owner = KeyWallet.generate().address
    monkeypatch.setattr(devnet.chain, "rpc", Plain(devnet.url, "eth_createAccessList"))
    facts = await read_token(devnet.chain, plain)
    with pytest.raises(TokenUnfit, match=f"cannot be simulated.*Give {owner} some"):
        await try_token(devnet.chain, facts, owner)
    for token in (plain, fee):
        await do(devnet, token, "mint", owner, 1_000)
    await try_token(devnet.chain, facts, owner)
    with pytest.raises(TokenUnfit, match="of 1000 units it moved 990"):
        await try_token(devnet.chain, await read_token(devnet.chain, fee), owner)


async def test_a_node_that_can_try_nothing_is_named(
    devnet: Devnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    token, owner = await put_token(devnet), KeyWallet.generate().address
    await do(devnet, token, "mint", owner, 1_000)
    facts = await read_token(devnet.chain, token)
    monkeypatch.setattr(devnet.chain, "rpc", Plain(devnet.url, "overrides"))
    with pytest.raises(ChainUnfit, match="state overrides"):
        await try_token(devnet.chain, facts, owner)


async def test_a_deposit_is_tried_for_this_wallet_and_this_portal(
    devnet: Devnet, deployment: Deployment
) -> None:
    token = await put_token(devnet)
    good, barred = KeyWallet.generate().address, KeyWallet.generate().address
    for owner in (good, barred):
        await do(devnet, token, "mint", owner, 500)
    await do(devnet, token, "bar", barred, True)
    await try_deposit(devnet.chain, token, deployment.portal, good, 500)
    with pytest.raises(TokenUnfit, match="'barred'"):
        await try_deposit(devnet.chain, token, deployment.portal, barred, 500)
    await do(devnet, token, "bar", deployment.portal, True)
    with pytest.raises(TokenUnfit, match="'barred'"):
        await try_deposit(devnet.chain, token, deployment.portal, good, 500)


@pytest.mark.parametrize("habits", [(), ("PHANTOM",), ("OTHER_PERMIT",)], ids=str)
async def test_a_token_without_permits_is_named_before_anything_is_signed(
    devnet: Devnet, deployment: Deployment, habits: tuple[str, ...]
) -> None:
    class Silent:
        address = KeyWallet.generate().address

        def sign_digest(self, digest: bytes) -> bytes:
            raise AssertionError("nothing is signed")

    token = Token(devnet.chain, await put_token(devnet, *habits))
    with pytest.raises(PermitMissing, match="EIP-2612"):
        await token.permit(Silent(), deployment.portal, 5, 1 << 40)


async def test_a_permit_is_taken_in_the_form_in_which_a_device_signs(
    devnet: Devnet, deployment: Deployment, token: str
) -> None:
    wallet = KeyWallet.generate()

    class Device:
        address = wallet.address

        async def sign_digest(self, digest: bytes) -> bytes:
            await trio.lowlevel.checkpoint()
            signature = wallet.sign_digest(digest)
            return signature[:64] + bytes([signature[64] - 27])

    permit = await Token(devnet.chain, token).permit(Device(), deployment.portal, 5, 1 << 40)
    assert permit.v in (27, 28)
