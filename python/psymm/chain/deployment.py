"""Deploying the contracts, and the file with their addresses.

Every other command reads `deployment.json`.  It is not trusted: see `psymm.chain.checking`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from psymm._core import domain_separator, keccak256
from psymm.chain.addresses import ZERO_ADDRESS, checksummed
from psymm.chain.artifacts import CRS_KINDS, artifact, built_for
from psymm.chain.checking import CONTRACTS, camel, check
from psymm.chain.contracts import MOST_DECIMALS, MOST_SYMBOL, Pool, fit_symbol
from psymm.chain.deploying import (
    Creations,
    creation,
    creation_gas,
    expect_affordable,
    expect_chain_fits,
)
from psymm.chain.devnet import CHAIN_ID as DEVNET_CHAIN_ID
from psymm.chain.errors import (
    CallInvalid,
    DeploymentInvalid,
    TokenChanged,
    TokenUnlisted,
)
from psymm.chain.registry import Registry
from psymm.chain.tokens import expect_unchanged, read_token, token_change, try_token
from psymm.chain.transactions import Chain, Signer
from psymm.nursery import all_of
from psymm.private_files import write_private
from psymm.storage import FileUnavailable, translate_errors
from psymm.strict_json import loads

VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class TokenInfo:
    address: str
    symbol: str
    decimals: int


@dataclass(frozen=True, slots=True)
class Deployment:
    """The addresses of one set of contracts.

    Attributes:
        crs: the reference string that the verifiers are for, "dev" or "ignition".
        first_block: no event of these contracts is in an earlier block.
        code_hashes: by contract, keccak256 of its code on chain, 0x hex.
    """

    chain_id: int
    crs: str
    first_block: int
    psymm: str
    portal: str
    registry: str
    poseidon2: str
    ctc_verifier: str
    cta_verifier: str
    tokens: tuple[TokenInfo, ...] = ()
    code_hashes: Mapping[str, str] = field(default_factory=dict)

    def pool(self, chain: Chain) -> Pool:
        return Pool(chain, self.psymm)

    def party_registry(self, chain: Chain) -> Registry:
        return Registry(chain, self.registry)

    def token(self, name: str) -> TokenInfo:
        """A token by symbol or address.  Raises TokenUnlisted with the list."""
        for one in self.tokens:
            if name == one.symbol or name.lower() == one.address.lower():
                return one
        known = ", ".join(f"{one.symbol} {one.address}" for one in self.tokens) or "none"
        raise TokenUnlisted(name, known)

    async def expect_token(self, chain: Chain, address: str) -> None:
        """Raises TokenChanged if a listed token is no longer as listed, and what reading the chain
        raises.  A token that is not listed passes.  Cancelled: raises Cancelled."""
        for one in self.tokens:
            if one.address == address:
                await expect_unchanged(chain, one.address, one.symbol, one.decimals)

    @property
    def domain(self) -> bytes:
        """The EIP-712 domain separator of this deployment."""
        return domain_separator(self.chain_id, bytes.fromhex(self.psymm[2:]))

    def to_json(self) -> dict[str, Any]:
        raw = asdict(self)
        raw["tokens"] = [asdict(one) for one in self.tokens]
        raw["code_hashes"] = dict(self.code_hashes)
        return {"version": VERSION, **{camel(name): value for name, value in raw.items()}}

    @classmethod
    def from_json(cls, given: object) -> Deployment:
        """Raises DeploymentInvalid naming the field."""
        if not isinstance(given, dict):
            raise DeploymentInvalid("file", "must hold one object")
        names = {camel(name): name for name in cls.__dataclass_fields__}
        if given.get("version") != VERSION:
            raise DeploymentInvalid(
                "version", f"must be {VERSION}, not {str(given.get('version'))[:20]}"
            )
        for name in given:
            if name != "version" and name not in names:
                raise DeploymentInvalid(str(name)[:40], "is not a field of a deployment")
        raw: dict[str, Any] = {}
        for name, attribute in names.items():
            if name not in given:
                raise DeploymentInvalid(name, "is missing")
            raw[attribute] = given[name]
        for name in ("chain_id", "first_block"):
            raw[name] = _whole(camel(name), raw[name])
        if raw["crs"] not in CRS_KINDS:
            raise DeploymentInvalid("crs", f"must be one of {', '.join(CRS_KINDS)}")
        for name in _ADDRESSES:
            raw[name] = _address(camel(name), raw[name])
        if len({raw[name] for name in _ADDRESSES}) != len(_ADDRESSES):
            raise DeploymentInvalid("addresses", "two contracts share one")
        if not isinstance(raw["tokens"], list):
            raise DeploymentInvalid("tokens", "must be a list")
        raw["tokens"] = tuple(_token(one) for one in raw["tokens"])
        _expect_distinct(raw["tokens"])
        hashes = raw["code_hashes"]
        if not isinstance(hashes, dict) or not all(
            isinstance(value, str) and len(value) == 66 for value in hashes.values()
        ):
            raise DeploymentInvalid("codeHashes", "must hold 32 bytes in hexadecimal by contract")
        deployment = cls(**raw)
        deployment.expect_crs_fits()
        return deployment

    def expect_crs_fits(self) -> None:
        """Raises DeploymentInvalid for the development string on any other chain: its secret is
        published, so anybody could forge proofs there."""
        if self.crs == "dev" and self.chain_id != DEVNET_CHAIN_ID:
            raise DeploymentInvalid(
                "crs",
                f"the development reference string is for chain {DEVNET_CHAIN_ID} only; "
                "anybody can forge its proofs",
            )

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all.  Blocks for one small file.

        Raises DeploymentInvalid if `load` would refuse it; StorageError.
        """
        self.from_json(self.to_json())
        write_private(path, (json.dumps(self.to_json(), indent=2) + "\n").encode())

    @classmethod
    def load(cls, path: Path) -> Deployment:
        """Read the file.  Raises DeploymentInvalid, StorageError.  Blocks for one small file."""
        try:
            with translate_errors(path):
                raw = loads(path.read_bytes())
        except FileUnavailable as missing:
            raise DeploymentInvalid(str(path), missing.reason) from None
        except ValueError:
            raise DeploymentInvalid(str(path), "is not JSON") from None
        return cls.from_json(raw)


async def deploy(
    chain: Chain,
    signer: Signer,
    *,
    crs: str | None = None,
    tokens: tuple[str, ...] = (),
    test_token: TokenInfo | None = None,
    file: Path | None = None,
    agree: Callable[[int], None] | None = None,
    progress: Callable[[str, str, int], None] | None = None,
) -> Deployment:
    """Deploy everything and check it, or finish what an earlier call started.

    Everything that can be known is checked before the first transaction: the chain, the node, each
    token's transfers, the deployer's coins for the whole deployment.

    Args:
        crs: the reference string that the verifiers must be for; None: the one they are built for.
        tokens: addresses of ERC-20s to list.
        test_token: deploy one with this symbol and these decimals; its address is ignored.
            Development chain only.
        file: where the deployment is saved as soon as its contracts are on chain. If it holds one
            on this chain already, that one is used, and tokens are added to it.
        agree: called after all checks with the gas still to be paid; what it raises ends the call.
        progress: called with (contract, address, gas) after each contract.

    Raises DeploymentInvalid, TokenUnfit, ChainUnfit and WalletWithoutGas before the first
    transaction; then TransactionPending and what sending raises.  Cancelled or failed after that:
    with `file`, what was sent is recorded, and the same call continues from there.
    """
    await chain.check()
    # Beyond this, `load` would refuse the file after everything was paid.
    _whole("chainId", chain.chain_id)
    crs = crs or built_for()
    if crs != built_for():
        raise DeploymentInvalid("crs", f"the verifiers in this package are built for {built_for()}")
    if crs == "dev" and chain.chain_id != DEVNET_CHAIN_ID:
        raise DeploymentInvalid(
            "crs",
            f"the verifiers in this package are for development (chain {DEVNET_CHAIN_ID}) and "
            f"this is chain {chain.chain_id}; build with the ignition reference string",
        )
    if test_token is not None and chain.chain_id != DEVNET_CHAIN_ID:
        raise DeploymentInvalid("tokens", "test tokens are for the development chain only")
    creations = Creations(chain, signer, file, progress)
    standing = await _standing(chain, file, under_way=creations.under_way)
    listed = {one.address: one for one in standing.tokens} if standing is not None else {}
    for address in dict.fromkeys(checksummed("token", one) for one in tokens):
        facts = await read_token(chain, address)
        info = TokenInfo(facts.address, facts.label, facts.decimals)
        if listed.get(address) != info:
            await try_token(chain, facts, signer.address)
            listed[address] = info
    named = None
    # A repeated call finds the one that it made before.
    if test_token is not None and not any(
        (one.symbol, one.decimals) == (test_token.symbol, test_token.decimals)
        for one in listed.values()
    ):
        named = test_token
    _expect_distinct([*listed.values(), *([named] if named is not None else [])])
    # What an earlier call sent is settled before the costs are added up. So a repeated call asks
    # only for what is missing.
    await creations.resume()
    test_data = b"" if named is None else creation("TestToken", _TEST_NAME, *_named(named))
    await _expect_possible(chain, signer.address, creations, standing, test_data, agree)
    if standing is None:
        standing = await _put_all(chain, creations, crs, list(listed.values()))
    if named is not None:
        address = await creations.put("TestToken", test_data)
        listed[address] = TokenInfo(address, named.symbol, named.decimals)
    deployment = replace(standing, tokens=tuple(listed.values()))
    # Saved before it is checked: the contracts are paid for, and their addresses must survive a
    # check that fails because a node lags. The record goes last. Until then the same call continues
    # here.
    if file is not None:
        deployment.save(file)
    await check(chain, deployment)
    creations.finish()
    return deployment


_TEST_NAME: Final = "pSymm test dollar"


async def _standing(chain: Chain, file: Path | None, *, under_way: bool) -> Deployment | None:
    """The deployment in a file, if its contracts are on this chain; None: deploy.

    Raises DeploymentInvalid if the file must not be replaced.
    """
    known = _saved(file)
    if known is None:
        return None
    away = f"To deploy again, use another home or move {file} away"
    if known.chain_id != chain.chain_id:
        raise DeploymentInvalid(
            "chainId", f"{file} is for chain {known.chain_id}, this is {chain.chain_id}. {away}"
        )
    missing = [name for name in _ADDRESSES if not await chain.code(getattr(known, name))]
    if not missing:
        return known
    # A development chain that was restarted has none of the earlier one's contracts.
    if under_way or chain.chain_id == DEVNET_CHAIN_ID:
        return None
    raise DeploymentInvalid(
        camel(missing[0]),
        f"{file} names a contract that this node does not show; the node may lag. {away}",
    )


def _saved(file: Path | None) -> Deployment | None:
    return Deployment.load(file) if file is not None and file.exists() else None


async def _expect_possible(
    chain: Chain,
    sender: str,
    creations: Creations,
    standing: Deployment | None,
    test_data: bytes,
    agree: Callable[[int], None] | None,
) -> None:
    """Raises what `deploy` raises before its first transaction, if one is still to be sent."""
    missing: dict[str, bytes | int] = {}
    if standing is None:
        at = {name: creations.mined(name, creation(name)) for name in _ALONE}
        missing = {name: creation(name) for name, address in at.items() if address is None}
        # The pool's constructor calls its verifiers, so it cannot be simulated before they exist.
        pool: bytes | int = len(artifact("PSymm").bytecode) // 2
        if not missing:
            pool = _pool(at["CtcVerifier"], at["CtaVerifier"], at["Poseidon2"])
        if isinstance(pool, int) or creations.mined("PSymm", pool) is None:
            missing["PSymm"] = pool
    if test_data and not creations.mined("TestToken", test_data):
        missing["TestToken"] = test_data
    if not missing:
        return
    await expect_chain_fits(chain)
    gas = await creation_gas(chain, sender, missing)
    await expect_affordable(chain, sender, gas)
    if agree is not None:
        agree(gas)


async def _put_all(
    chain: Chain, creations: Creations, crs: str, listed: list[TokenInfo]
) -> Deployment:
    # The pool names its verifiers and its library, so these come first. It creates its portal.
    ctc_verifier = await creations.put("CtcVerifier", creation("CtcVerifier"))
    cta_verifier = await creations.put("CtaVerifier", creation("CtaVerifier"))
    poseidon2 = await creations.put("Poseidon2", creation("Poseidon2"))
    psymm = await creations.put("PSymm", _pool(ctc_verifier, cta_verifier, poseidon2))
    registry = await creations.put("PartyRegistry", creation("PartyRegistry"))
    addresses = {
        "psymm": psymm,
        "portal": await Pool(chain, psymm).portal(),
        "registry": registry,
        "poseidon2": poseidon2,
        "ctc_verifier": ctc_verifier,
        "cta_verifier": cta_verifier,
    }
    hashes = {
        name: "0x" + keccak256(await chain.code(address)).hex()
        for name, address in addresses.items()
    }
    return Deployment(
        chain_id=chain.chain_id,
        crs=crs,
        first_block=creations.first_block,
        tokens=tuple(listed),
        code_hashes=hashes,
        **addresses,
    )


def _pool(ctc_verifier: str | None, cta_verifier: str | None, poseidon2: str | None) -> bytes:
    return creation("PSymm", ctc_verifier, cta_verifier, poseidon2=poseidon2)


async def changed_tokens(chain: Chain, deployment: Deployment) -> list[TokenChanged]:
    """One finding for each listed token that has changed.

    Raises what reading the chain raises.  Cancelled: raises Cancelled.
    """
    found = await all_of(
        *(
            partial(token_change, chain, one.address, one.symbol, one.decimals)
            for one in deployment.tokens
        )
    )
    return [one for one in found if one is not None]


_ADDRESSES: Final = tuple(CONTRACTS)
_ALONE: Final = ("CtcVerifier", "CtaVerifier", "Poseidon2", "PartyRegistry")
"""The contracts whose creation names no other contract."""


def _whole(name: str, given: object) -> int:
    if not isinstance(given, int) or isinstance(given, bool) or not 0 <= given < 1 << 63:
        raise DeploymentInvalid(name, "must be a whole number that is not negative")
    return given


def _address(name: str, given: object) -> str:
    try:
        address = checksummed(name, given)
    except CallInvalid as bad:
        raise DeploymentInvalid(name, bad.reason) from None
    if address == ZERO_ADDRESS:
        raise DeploymentInvalid(name, "is the zero address")
    return address


def _token(given: object) -> TokenInfo:
    if not isinstance(given, dict) or set(given) != {"address", "symbol", "decimals"}:
        raise DeploymentInvalid("tokens", "each must hold address, symbol and decimals")
    info = TokenInfo(
        _address("tokens", given["address"]),
        given["symbol"],
        _whole("tokens", given["decimals"]),
    )
    _named(info)
    return info


def _named(info: TokenInfo) -> tuple[str, int]:
    """Symbol and decimals of a token, listed or to be made.  Raises DeploymentInvalid."""
    # A token without a symbol is listed by the start of its address; no symbol may look like one.
    unnamed = info.symbol == info.address[:10]
    if not isinstance(info.symbol, str) or not (unnamed or fit_symbol(info.symbol)):
        raise DeploymentInvalid("tokens", f"a symbol has 1 to {MOST_SYMBOL} printable characters")
    if not 0 <= info.decimals <= MOST_DECIMALS:
        raise DeploymentInvalid("tokens", f"{info.symbol} has over {MOST_DECIMALS} decimals")
    return info.symbol, info.decimals


def _expect_distinct(tokens: Sequence[TokenInfo]) -> None:
    """Raises DeploymentInvalid where one name or address would mean two tokens."""
    for at, one in enumerate(tokens):
        for other in tokens[:at]:
            # A person would not tell USDT from usdt, and would pay with the wrong one.
            if one.symbol.casefold() == other.symbol.casefold():
                raise DeploymentInvalid(
                    "tokens",
                    f"two are called {one.symbol}, {other.address} and {one.address}; list one",
                )
            if one.address == other.address:
                raise DeploymentInvalid("tokens", f"{one.address} is listed twice")
