"""The pool and ERC-20 tokens, as typed views of one address each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from psymm._core import keccak256
from psymm.chain.abi import Abi
from psymm.chain.artifacts import artifact
from psymm.chain.calls import MEMO_BYTES, Call, CtaCall, CtcCall
from psymm.chain.errors import (
    AllowanceTooLow,
    BadReply,
    CallInvalid,
    Reverted,
    TokenBalanceTooLow,
)
from psymm.chain.transactions import Chain, Log, Receipt, Signer


class Pool:
    """The PSymm contract: the tree of commitments and the moves."""

    def __init__(self, chain: Chain, address: str) -> None:
        self.chain: Final = chain
        self.address: Final = address
        self.abi: Final = artifact("PSymm").abi

    # --- reading ------------------------------------------------------------------------------

    async def root(self, block: int | bytes | str = "latest") -> bytes:
        return _word(await self._read("root", block=block))

    async def size(self, block: int | bytes | str = "latest") -> int:
        """How many leaves the tree has."""
        return int(await self._read("size", block=block))

    async def is_known_root(self, root: bytes) -> bool:
        return bool(await self._read("isKnownRoot", int.from_bytes(root, "big")))

    async def is_spent(self, nullifier: bytes, block: int | bytes | str = "latest") -> bool:
        return bool(await self._read("isSpent", int.from_bytes(nullifier, "big"), block=block))

    async def is_known_commitment(
        self, commitment: bytes, block: int | bytes | str = "latest"
    ) -> bool:
        number = int.from_bytes(commitment, "big")
        return bool(await self._read("isKnownCommitment", number, block=block))

    async def domain_separator(self) -> bytes:
        found = await self._read("domainSeparator")
        if not isinstance(found, bytes):
            raise BadReply(self.chain.rpc.endpoint, "eth_call", "a domain separator was expected")
        return found

    async def portal(self) -> str:
        """The address that deposits must be approved for."""
        return str(await self._read("portal"))

    async def digest(self, call: Call) -> bytes:
        """The digest that both keys sign, as the contract computes it."""
        name = "ctcDigest" if isinstance(call, CtcCall) else "ctaDigest"
        found = await self._read(name, call.abi_value())
        return found if isinstance(found, bytes) else _word(found)

    # --- moving -------------------------------------------------------------------------------

    def move_data(self, call: Call) -> bytes:
        """The calldata of a finished move."""
        if not call.proof:
            raise CallInvalid("proof", "is empty; prove the move first")
        name = "custodyToCustody" if isinstance(call, CtcCall) else "custodyToAddress"
        return self.abi.function(name).encode(call.abi_value())

    async def simulate_move(
        self, call: Call, sender: str | None = None, block: int | str = "latest"
    ) -> None:
        """Raises Reverted with the contract's own error if it would refuse the move now.

        block: "pending" counts what the node has heard of, too.
        """
        await self.chain.simulate(
            self.address, self.move_data(call), doing=_doing(call), sender=sender, block=block
        )

    async def send_move(
        self, signer: Signer, call: Call, *, depth: int = 1, timeout_s: float = 180.0
    ) -> Receipt:
        """Send a finished move and wait for it; see Chain.transact."""
        return await self.chain.transact(
            signer,
            self.address,
            self.move_data(call),
            depth=depth,
            timeout_s=timeout_s,
            doing=_doing(call),
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

    def values(self, name: str, log: Log) -> dict[str, Any]:
        """An event's values by name.  Raises BadReply if the log is none of that kind."""
        try:
            return self.abi.event(name).decode(log.topics, log.data)
        except CallInvalid as bad:
            raise BadReply(self.chain.rpc.endpoint, "eth_getLogs", str(bad)) from None

    async def _read(self, name: str, *values: object, block: int | bytes | str = "latest") -> Any:
        return await self.chain.call(self.address, self.abi, name, *values, block=block)


@dataclass(frozen=True, slots=True)
class Permit:
    """An EIP-2612 allowance by signature.  deadline: seconds since the epoch."""

    deadline: int
    v: int
    r: bytes
    s: bytes


class Token:
    """An ERC-20."""

    def __init__(self, chain: Chain, address: str) -> None:
        self.chain: Final = chain
        self.address: Final = address

    async def balance(self, owner: str) -> int:
        """Units of the token."""
        return int(await self._read("balanceOf", owner))

    async def allowance(self, owner: str, spender: str) -> int:
        return int(await self._read("allowance", owner, spender))

    async def decimals(self) -> int:
        return int(await self._read("decimals"))

    async def symbol(self) -> str:
        """The token's name for people, at most 32 printable characters of it; empty where it has
        none. Older tokens give it as 32 bytes. Raises what reading the chain raises."""
        kind = ERC20.function("symbol")
        try:
            data = await self.chain.simulate(self.address, kind.encode(), doing="symbol")
        except Reverted:
            return ""
        try:
            text = data.rstrip(b"\0").decode() if len(data) == 32 else str(kind.decode(data)[0])
        except (CallInvalid, UnicodeDecodeError, IndexError):
            return ""
        return "".join(sign for sign in text if sign.isprintable())[:32]

    async def expect(self, owner: str, spender: str | None, amount: int) -> None:
        """Raises TokenBalanceTooLow, or AllowanceTooLow where a spender is named."""
        held = await self.balance(owner)
        if held < amount:
            raise TokenBalanceTooLow(self.address, owner, held, amount)
        if spender is not None:
            allowed = await self.allowance(owner, spender)
            if allowed < amount:
                raise AllowanceTooLow(self.address, owner, spender, allowed, amount)

    async def approve(self, signer: Signer, spender: str, amount: int) -> list[Receipt]:
        """Allow exactly `amount`.  Some tokens refuse to change an allowance that is not zero,
        so a different one is set to zero first."""
        receipts = []
        steps = [amount]
        if await self.allowance(signer.address, spender) not in (0, amount):
            steps = [0, amount]
        for step in steps:
            receipts.append(
                await self.chain.transact(
                    signer,
                    self.address,
                    ERC20.function("approve").encode(spender, step),
                    doing="approving the portal",
                )
            )
        return receipts

    async def transfer(self, signer: Signer, to: str, amount: int) -> Receipt:
        await self.expect(signer.address, None, amount)
        return await self.chain.transact(
            signer,
            self.address,
            ERC20.function("transfer").encode(to, amount),
            doing="the token transfer",
        )

    async def permit(self, signer: Signer, spender: str, amount: int, deadline: int) -> Permit:
        """Sign an EIP-2612 permit.  Raises Reverted or BadReply if the token has none."""
        domain = await self._read("DOMAIN_SEPARATOR")
        nonce = int(await self._read("nonces", signer.address))
        struct = b"".join(
            (
                _PERMIT_TYPE_HASH,
                bytes(12) + bytes.fromhex(signer.address[2:]),
                bytes(12) + bytes.fromhex(spender[2:]),
                amount.to_bytes(32, "big"),
                nonce.to_bytes(32, "big"),
                deadline.to_bytes(32, "big"),
            )
        )
        digest = keccak256(b"\x19\x01" + domain + keccak256(struct))
        answer = signer.sign_digest(digest)
        signature = answer if isinstance(answer, bytes) else await answer
        return Permit(deadline, signature[64], signature[:32], signature[32:64])

    async def has_permit(self) -> bool:
        """Whether the token takes EIP-2612 permits."""
        try:
            await self._read("DOMAIN_SEPARATOR")
            await self._read("nonces", self.address)
        except (Reverted, BadReply):
            return False
        return True

    async def _read(self, name: str, *values: object) -> Any:
        return await self.chain.call(self.address, ERC20, name, *values)


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
        _function("approve", "address uint256", ""),  # some return nothing
        _function("transfer", "address uint256", ""),
        _function("decimals", "", "uint8"),
        _function("symbol", "", "string"),
        _function("nonces", "address", "uint256"),
        _function("DOMAIN_SEPARATOR", "", "bytes32"),
    ],
    "ERC20",
)

_PERMIT_TYPE_HASH: Final = keccak256(
    b"Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)"
)


def _doing(call: Call) -> str:
    return "the withdrawal" if isinstance(call, CtaCall) else "the move between custodies"


def _word(value: object) -> bytes:
    if isinstance(value, int):
        return value.to_bytes(32, "big")
    if isinstance(value, bytes) and len(value) == 32:
        return value
    raise CallInvalid("word", "32 bytes were expected")
