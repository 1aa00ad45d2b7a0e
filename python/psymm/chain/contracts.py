"""The pool and ERC-20 tokens, as typed views of one address each."""

from __future__ import annotations

import inspect
import unicodedata
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Any, Final

from psymm._core import keccak256
from psymm.chain.abi import Abi, encode_values
from psymm.chain.artifacts import artifact
from psymm.chain.calls import MEMO_BYTES, Call
from psymm.chain.errors import (
    AllowanceTooLow,
    BadReply,
    CallInvalid,
    PermitMissing,
    Reverted,
    TokenBalanceTooLow,
)
from psymm.chain.transactions import Chain, Log, Receipt, Signer
from psymm.signatures import signature_by

MOST_DECIMALS: Final = 18
"""A token's most decimals: prices and amounts have 18 places everywhere."""
MOST_SYMBOL: Final = 32


# Bounds for one Poseidon2 hash, and for a slot that is written for the first time.
_HASH_GAS: Final = 18_000
_FIRST_WRITE_GAS: Final = 18_000


def insertion_gas(size: int) -> int:
    """The extra gas that inserting a leaf into a tree of `size` leaves can take.

    Inserting costs one hash for each 1 bit of the leaf's position, and earlier transactions decide
    the position. A deposit that was estimated at one hash would run out of gas one leaf later.
    """
    return size.bit_length() * _HASH_GAS + 2 * _FIRST_WRITE_GAS


class Contract:
    """A contract at an address."""

    def __init__(self, chain: Chain, address: str, abi: Abi) -> None:
        self.chain: Final = chain
        self.address: Final = address
        self.abi: Final = abi

    async def read(self, name: str, *values: object, block: int | bytes | str = "latest") -> Any:
        """What a view returns; see Chain.call."""
        return await self.chain.call(self.address, self.abi, name, *values, block=block)

    async def transact(
        self, signer: Signer, name: str, *values: object, doing: str, depth: int = 1
    ) -> Receipt:
        """Call a function in a transaction; see Chain.transact."""
        data = self.abi.function(name).encode(*values)
        return await self.chain.transact(signer, self.address, data, depth=depth, doing=doing)

    def logs(self, first: int, last: int, *names: str) -> AsyncIterator[Log]:
        """Every event of these names from block `first` to `last`; see Chain.logs."""
        topics = [self.abi.event(name).topic for name in names]
        return self.chain.logs(self.address, [topics], first, last)

    def values(self, name: str, log: Log) -> dict[str, Any]:
        """An event's values by name.  Raises BadReply if the log is of another kind."""
        try:
            return self.abi.event(name).decode(log.topics, log.data)
        except CallInvalid as bad:
            raise BadReply(self.chain.rpc.endpoint, "eth_getLogs", str(bad)) from None


class Pool(Contract):
    """The PSymm contract: the tree of commitments and the moves."""

    def __init__(self, chain: Chain, address: str) -> None:
        super().__init__(chain, address, artifact("PSymm").abi)

    # --- reading ------------------------------------------------------------------------------

    async def root(self, block: int | bytes | str = "latest") -> bytes:
        return _word(await self.read("root", block=block))

    async def size(self, block: int | bytes | str = "latest") -> int:
        """How many leaves the tree has."""
        return int(await self.read("size", block=block))

    async def is_known_root(self, root: bytes, block: int | bytes | str = "latest") -> bool:
        """Whether the tree ever had this root; only a reorganisation can undo that."""
        return bool(await self.read("isKnownRoot", int.from_bytes(root, "big"), block=block))

    async def is_spent(self, nullifier: bytes, block: int | bytes | str = "latest") -> bool:
        return bool(await self.read("isSpent", int.from_bytes(nullifier, "big"), block=block))

    async def domain_separator(self) -> bytes:
        return bytes(await self.read("domainSeparator"))

    async def portal(self) -> str:
        """The address that deposits must be approved for."""
        return str(await self.read("portal"))

    async def digest(self, call: Call) -> bytes:
        """The digest that both keys sign, as the contract computes it."""
        return bytes(await self.read(f"{call.kind}Digest", call.abi_value()))

    # --- moving -------------------------------------------------------------------------------

    def move_data(self, call: Call) -> bytes:
        """The calldata of a finished move."""
        if not call.proof:
            raise CallInvalid("proof", "is empty; prove the move first")
        return self.abi.function(call.function).encode(call.abi_value())

    async def simulate_move(
        self, call: Call, sender: str | None = None, block: int | str = "latest"
    ) -> None:
        """Raises Reverted with the contract's own error if it would refuse the move now.

        block: "pending" also counts transactions in the node's pool.
        """
        await self.chain.simulate(
            self.address, self.move_data(call), doing=call.doing, sender=sender, block=block
        )

    async def send_move(
        self, signer: Signer, call: Call, *, depth: int = 1, timeout_s: float | None = None
    ) -> Receipt:
        """Send a finished move and wait until it is mined; see Chain.transact."""
        return await self.chain.transact(
            signer,
            self.address,
            self.move_data(call),
            depth=depth,
            timeout_s=timeout_s,
            doing=call.doing,
        )

    def deposit_data(
        self, token: str, amount: int, inner: bytes, memo: bytes, permit: Permit | None = None
    ) -> bytes:
        """The calldata of a deposit.  inner = H2(custodyId, blinding)."""
        if len(memo) != MEMO_BYTES:
            raise CallInvalid("memo", f"must be {MEMO_BYTES} bytes, not {len(memo)}")
        values = (token, amount, int.from_bytes(inner, "big"), memo)
        if permit is None:
            return self.abi.function("addressToCustody").encode(*values)
        return self.abi.function("addressToCustodyWithPermit").encode(
            *values, permit.deadline, permit.v, permit.r, permit.s
        )

    # --- what happened ------------------------------------------------------------------------

    def events(self, first: int, last: int) -> AsyncIterator[Log]:
        """Every NoteInserted and NullifierSpent from block `first` to `last`; see Chain.logs."""
        return self.logs(first, last, "NoteInserted", "NullifierSpent")

    def is_spending(self, log: Log) -> bool:
        return log.topics[:1] == (self.abi.event("NullifierSpent").topic,)

    def effects(self, logs: Iterable[Log]) -> tuple[list[bytes], list[bytes]]:
        """The nullifiers that logs of this contract spend and the commitments that they insert."""
        spends: list[bytes] = []
        inserts: list[bytes] = []
        for log in logs:
            if self.is_spending(log):
                spends.append(self.spent(log))
            elif log.topics[:1] == (self.abi.event("NoteInserted").topic,):
                inserts.append(self.leaf(log)[1])
        return spends, inserts

    def leaf(self, log: Log) -> tuple[int, bytes, bytes]:
        """(index, commitment, memo) of a NoteInserted log."""
        values = self.values("NoteInserted", log)
        memo = values["memo"]
        if len(memo) != MEMO_BYTES:
            raise BadReply(self.chain.rpc.endpoint, "eth_getLogs", "a memo of the wrong length")
        return values["index"], _word(values["commitment"]), memo

    def spent(self, log: Log) -> bytes:
        """The nullifier of a NullifierSpent log."""
        return _word(self.values("NullifierSpent", log)["nullifier"])


@dataclass(frozen=True, slots=True)
class Permit:
    """An EIP-2612 allowance by signature.  deadline: seconds since the epoch."""

    deadline: int
    v: int
    r: bytes
    s: bytes


class Token(Contract):
    """An ERC-20, read at the newest block seen so far.

    A lagging node would show too small a balance or allowance. Then a deposit would be refused, or
    approved twice.
    """

    def __init__(self, chain: Chain, address: str) -> None:
        super().__init__(chain, address, ERC20)

    async def balance(self, owner: str) -> int:
        """Units of the token."""
        return int(await self.read("balanceOf", owner, block=await self.chain.head()))

    async def allowance(self, owner: str, spender: str) -> int:
        return int(await self.read("allowance", owner, spender, block=await self.chain.head()))

    async def expect(self, owner: str, spender: str | None, amount: int) -> None:
        """Raises TokenBalanceTooLow, or AllowanceTooLow where a spender is named."""
        held = await self.balance(owner)
        if held < amount:
            raise TokenBalanceTooLow(self.address, owner, held, amount)
        if spender is not None:
            allowed = await self.allowance(owner, spender)
            if allowed < amount:
                raise AllowanceTooLow(self.address, owner, spender, allowed, amount)

    async def approvals(self, owner: str, spender: str, amount: int) -> list[bytes]:
        """The calls after which `amount` is allowed; none if that much is allowed already.

        Some tokens refuse to change an allowance that is not zero, so it is set to zero first.
        """
        allowed = await self.allowance(owner, spender)
        steps = [] if allowed >= amount else [0, amount] if allowed else [amount]
        return [ERC20.function("approve").encode(spender, step) for step in steps]

    async def permit(self, signer: Signer, spender: str, amount: int, deadline: int) -> Permit:
        """Sign an EIP-2612 permit.

        Raises PermitMissing before anything is signed; SignatureMalformed or WrongSigner if the
        signer's answer is not its signature.
        """
        domain, nonce = (
            await self._view("DOMAIN_SEPARATOR"),
            await self._view("nonces", signer.address),
        )
        # Wrapped coins accept a call to any function and return nothing.
        for name, found in (("DOMAIN_SEPARATOR", domain), ("nonces", nonce)):
            if len(found) != 32:
                raise PermitMissing(self.address, f"it has no {name}")
        # DAI has the same two views, but its permits sign other fields.
        kind = await self._view("PERMIT_TYPEHASH")
        if len(kind) == 32 and kind != _PERMIT_TYPE_HASH:
            raise PermitMissing(self.address, "its permits are of another kind")
        # A hostile token could show another token's domain. What we sign would then be a permit of
        # that one.
        if domain not in await self._permit_domains():
            raise PermitMissing(self.address, "its domain (EIP-712) is not that of this token")
        struct = encode_values(
            "permit",
            ["bytes32", "address", "address", "uint256", "bytes32", "uint256"],
            [_PERMIT_TYPE_HASH, signer.address, spender, amount, nonce, deadline],
        )
        digest = keccak256(b"\x19\x01" + domain + keccak256(struct))
        answer = signer.sign_digest(digest)
        answer = await answer if inspect.isawaitable(answer) else answer
        signature = signature_by(signer.address, digest, answer)
        return Permit(deadline, signature[64], signature[:32], signature[32:64])

    async def _permit_domains(self) -> set[bytes]:
        """The EIP-712 domains that bind a permit to this token and chain."""
        name, version = await self._permit_text("name"), await self._permit_text("version")
        place = encode_values("domain", ["uint256", "address"], [self.chain.chain_id, self.address])
        return {keccak256(_DOMAIN_TYPE_HASH + name + place)} | {
            keccak256(_VERSIONED_DOMAIN_TYPE_HASH + name + one + place)
            for one in (version, keccak256(b"1"), keccak256(b"2"))
        }

    async def _permit_text(self, name: str) -> bytes:
        """The hash of the text that a view returns; of the empty text if it returns none."""
        try:
            (text,) = ERC20.function(name).decode(await self._view(name))
        except CallInvalid:
            text = ""
        return keccak256(str(text).encode("utf-8", "replace"))

    async def _view(self, name: str, *values: object) -> bytes:
        """What a view returns, undecoded; empty if the token has no such view."""
        call = ERC20.function(name).encode(*values)
        try:
            return await self.chain.simulate(
                self.address, call, doing=name, block=await self.chain.head()
            )
        except Reverted:
            return b""


def symbol_of(answer: bytes) -> str:
    """The symbol that `symbol()` returned: a string or, in older tokens, 32 bytes.

    Empty unless `fit_symbol` accepts it.  Bad characters are not removed, because the rest could be
    another token's symbol.
    """
    try:
        if len(answer) == 32:
            text = answer.rstrip(b"\0").decode()
        else:
            text = str(ERC20.function("symbol").decode(answer)[0])
    except (CallInvalid, UnicodeDecodeError):
        return ""
    return text if fit_symbol(text) else ""


def fit_symbol(text: str) -> bool:
    """Whether a symbol can be shown to people without being mistaken for another.

    It has 1 to 32 printable characters, no spaces at its ends, no combining marks, no characters
    that NFKC maps to others, and it does not start like an address.
    """
    return (
        0 < len(text) <= MOST_SYMBOL
        and text.isprintable()
        and text == text.strip()
        and text == unicodedata.normalize("NFKC", text)
        and not any(unicodedata.combining(one) for one in text)
        and not text.lower().startswith("0x")
    )


def _function(name: str, inputs: str, outputs: str) -> dict[str, object]:
    return {
        "type": "function",
        "name": name,
        "inputs": [{"name": "", "type": kind} for kind in inputs.split()],
        "outputs": [{"name": "", "type": kind} for kind in outputs.split()],
    }


ERC20: Final = Abi(
    [
        _function("balanceOf", "address", "uint256"),
        _function("allowance", "address address", "uint256"),
        _function("approve", "address uint256", ""),  # some tokens return nothing
        _function("transfer", "address uint256", ""),
        _function("symbol", "", "string"),
        _function("nonces", "address", "uint256"),
        _function("DOMAIN_SEPARATOR", "", "bytes32"),
        _function("PERMIT_TYPEHASH", "", "bytes32"),
        _function("name", "", "string"),
        _function("version", "", "string"),
    ],
    "ERC20",
)

_PERMIT_TYPE_HASH: Final = keccak256(
    b"Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)"
)

_DOMAIN_TYPE_HASH: Final = keccak256(
    b"EIP712Domain(string name,uint256 chainId,address verifyingContract)"
)
_VERSIONED_DOMAIN_TYPE_HASH: Final = keccak256(
    b"EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
)


def _word(number: int) -> bytes:
    return number.to_bytes(32, "big")
