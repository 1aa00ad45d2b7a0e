"""The checks before a deployment's first transaction, and the record that lets it be resumed.

Before the first transaction: `expect_chain_fits` checks that chain and node have what the contracts
and this program use. `creation_gas` and `expect_affordable` check that the deployer can pay for all
of it.

Between transactions: `Creations` writes each signed transaction to a file before a node gets it.
After a failure the command is simply repeated: it finds what was mined, waits for what is under way
with the same bytes, and sends only what is missing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Final

import trio

from psymm._core import keccak256
from psymm.chain.artifacts import artifact
from psymm.chain.errors import (
    ChainUnfit,
    DeploymentInvalid,
    OutOfGas,
    Reverted,
    RpcError,
    TransactionReplaced,
    WalletWithoutGas,
)
from psymm.chain.raw import read_signed
from psymm.chain.transactions import Chain, PendingTransaction, Receipt, Sent, Signer
from psymm.private_files import write_private
from psymm.storage import translate_errors
from psymm.strict_json import loads

# Creation code that returns the byte 1, if the chain knows the instructions before it.
_GIVE_ONE: Final = bytes.fromhex("600160005360016000f3")
_OPCODES: Final = {
    "PUSH0 (Shanghai)": bytes.fromhex("5f50"),
    "MCOPY (Cancun)": bytes.fromhex("6000600060005e"),
    "TSTORE and TLOAD (Cancun)": bytes.fromhex("600160005d60005c50"),
}
_PRECOMPILES: Final = {
    # modexp: the lengths of base, exponent and modulus, then 2, 2 and 5.
    "the precompile modexp": (5, (bytes(31) + b"\1") * 3 + b"\2\2\5", b"\4"),
    "the precompile ecAdd": (6, b"", bytes(64)),
    "the precompile ecMul": (7, b"", bytes(64)),
    "the precompile ecPairing": (8, b"", bytes(31) + b"\1"),
}
# The precompile that returns its input. It is on every chain, so a failed call shows what the node
# cannot do.
_IDENTITY: Final = "0x" + "00" * 19 + "04"
_GAS_A_BYTE: Final = 216
"""200 for a byte of code on chain, and 16 for a byte of calldata."""
_GAS_A_CREATION: Final = 100_000


async def expect_chain_fits(chain: Chain) -> None:
    """Raises ChainUnfit if the chain lacks an instruction or precompile that we use, or if the node
    serves no logs, takes no calls at a block's hash, or is still synchronising.

    Also raises what reading the chain raises.  Cancelled: raises Cancelled.
    """
    endpoint = chain.rpc.endpoint
    for name, code in _OPCODES.items():
        await _expect(chain, name, None, code + _GIVE_ONE, b"\1")
    for name, (number, data, expected) in _PRECOMPILES.items():
        await _expect(chain, name, f"0x{number:040x}", data, expected)
    block = await chain.block()
    await _expect(
        chain, "eth_call at a block's hash (EIP-1898)", _IDENTITY, b"\1", b"\1", block.hash
    )
    where = hex(block.number)
    try:
        await chain.rpc.call(
            "eth_getLogs", {"address": _IDENTITY, "fromBlock": where, "toBlock": where}
        )
    except RpcError as refused:
        raise ChainUnfit(endpoint, "eth_getLogs", refused.message) from None
    try:
        synchronising = await chain.rpc.call("eth_syncing")
    except RpcError:
        synchronising = False  # some nodes do not offer it
    if synchronising:
        raise ChainUnfit(endpoint, "the newest blocks; it is still synchronising")


async def _expect(
    chain: Chain, name: str, to: str | None, data: bytes, expected: bytes, at: bytes | None = None
) -> None:
    try:
        found = await chain.simulate(to, data, doing=name, block="latest" if at is None else at)
    except (RpcError, Reverted, OutOfGas) as refused:
        said = refused.message if isinstance(refused, RpcError) else ""
        raise ChainUnfit(chain.rpc.endpoint, name, said) from None
    if found != expected:
        raise ChainUnfit(chain.rpc.endpoint, name)


def creation(name: str, *values: object, poseidon2: str | None = None) -> bytes:
    """The data that creates a contract of this package.  Raises CallInvalid, DeploymentInvalid,
    ArtifactMissing."""
    made = artifact(name)
    linked = made.linked({} if poseidon2 is None else {"Poseidon2": poseidon2})
    return linked + made.abi.encode_constructor(*values)


async def creation_gas(chain: Chain, sender: str, creations: Mapping[str, bytes | int]) -> int:
    """The gas that several creations may take together, by the node's estimates.

    creations: by name, the data of each. For one that cannot be simulated yet, because it needs
    another contract first, its length in bytes.  Raises Reverted if a constructor would revert, and
    what reading the chain raises.
    """
    gas, scale = 0, 1.0
    for data in creations.values():
        if isinstance(data, bytes):
            estimate = await chain.estimate(sender, None, data, doing="creating a contract")
            gas += estimate
            # Some chains add costs of their own, so the others are scaled in the same way.
            scale = max(scale, estimate / _rule(len(data)))
    gas += sum(int(_rule(one) * scale) for one in creations.values() if isinstance(one, int))
    return gas


def _rule(length: int) -> int:
    return _GAS_A_BYTE * length + _GAS_A_CREATION


async def expect_affordable(chain: Chain, sender: str, gas: int) -> None:
    """Raises WalletWithoutGas unless the sender can pay for this gas, with the margin that each
    transaction gets, at the highest fee that we would sign."""
    needed = chain.with_margin(gas) * (await chain.fees()).max_wei
    balance = await chain.balance(sender, at_least=needed)
    if balance < needed:
        raise WalletWithoutGas(sender, balance, needed)


class Creations:
    """The contracts that a deployment creates, and the record of what it has sent for them.

    Args:
        file: where the deployment will be saved; the record is `FILE.under-way` in the same
            directory. None: nothing is recorded.
        progress: called with (contract, address, gas) after each contract.
    """

    def __init__(
        self,
        chain: Chain,
        signer: Signer,
        file: Path | None,
        progress: Callable[[str, str, int], None] | None,
    ) -> None:
        self._chain = chain
        self._signer = signer
        self._path = None if file is None else file.with_name(f"{file.name}.under-way")
        self._progress = progress
        self._sent: dict[str, list[Sent]] = {}
        self._mined: dict[str, Receipt] = {}
        self.first_block = 0

    @property
    def under_way(self) -> bool:
        """Whether a deployment to this file was started and has not ended."""
        return self._path is not None and self._path.exists()

    async def resume(self) -> None:
        """Find out how an earlier attempt ended, and wait for its transactions under way.

        Raises TransactionPending if one is not mined in time, DeploymentInvalid if the record
        cannot be read, and what reading the chain raises.  Cancelled: raises Cancelled; the record
        stays.
        """
        newest = await self._chain.rpc.block_number()
        # Taken before the first creation is sent, so no event can be earlier.
        self.first_block = newest + 1
        if self._path is None or not self._path.exists():
            return
        first_block, self._sent = _read(self._path, self._chain.chain_id)
        self.first_block = min(first_block, self.first_block)
        for key in list(self._sent):
            receipt = await self._outcome(key)
            if receipt is None:
                # It can no longer be mined, so `put` may send it anew.
                del self._sent[key]
            else:
                self._mined[key] = receipt

    def mined(self, name: str, data: bytes) -> str | None:
        """The address of this very creation, if an earlier attempt's was mined."""
        receipt = self._mined.get(_key(name, data))
        return None if receipt is None else receipt.contract

    async def put(self, name: str, data: bytes) -> str:
        """The address of a contract: created now, or by an earlier attempt.

        Raises DeploymentInvalid if there is no code afterwards, and what sending a transaction
        raises.  Cancelled: raises Cancelled; `resume` finds what was sent.
        """
        key, doing = _key(name, data), f"deploying {name}"
        receipt = self._mined.get(key)
        if receipt is None:
            receipt = await self._chain.transact(
                self._signer, None, data, doing=doing, record=partial(self._record, key)
            )
        if receipt.contract is None or not await self._chain.code(receipt.contract):
            raise DeploymentInvalid(name, "has no code after it was deployed")
        if self._progress is not None:
            self._progress(name, receipt.contract, receipt.gas_used)
        return receipt.contract

    def finish(self) -> None:
        """Delete the record, once the deployment is saved and checked.  Blocks for a moment."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    async def _record(self, key: str, sent: Sent) -> None:
        """Record a version; earlier ones at lower fees stay, because any of them can be mined."""
        older = [one for one in self._sent.get(key, ()) if one.nonce == sent.nonce]
        self._sent[key] = [*older, sent]
        if self._path is not None:
            kept = {
                "version": _VERSION,
                "chainId": self._chain.chain_id,
                "firstBlock": self.first_block,
                "sent": {
                    key: ["0x" + one.raw.hex() for one in versions]
                    for key, versions in self._sent.items()
                },
            }
            write_private(self._path, json.dumps(kept).encode())

    async def _outcome(self, key: str) -> Receipt | None:
        """An earlier transaction's receipt; None if it failed or can never be mined."""
        versions = self._sent[key]
        ours = versions[-1].sender == self._signer.address
        pending = PendingTransaction(
            self._chain,
            versions,
            signer=self._signer if ours else None,
            record=partial(self._record, key),
        )
        try:
            # A development chain that began anew never mines it: the wait would last to its end.
            if not await pending.is_known() and await self._another_chain(versions[-1]):
                return None
            return await pending.wait(doing="the deployment")
        except (Reverted, OutOfGas, TransactionReplaced):
            return None

    async def _another_chain(self, sent: Sent) -> bool:
        """Whether this is another chain than the one it was signed for: not even the account's
        earlier transactions are mined. Asked several times, because a lagging node looks the same.
        """
        for _ in range(_LOOKS):
            mined = await self._chain.count(sent.sender, "latest")
            if mined >= sent.nonce:
                return False
            await trio.sleep(self._chain.poll_s)
        return True


_VERSION: Final = 2
_LOOKS: Final = 5


def _key(name: str, data: bytes) -> str:
    """The name of one creation; other code or other constructor values give another name."""
    return f"{name} {keccak256(data).hex()}"


def _read(path: Path, chain_id: int) -> tuple[int, dict[str, list[Sent]]]:
    """First block and what was sent.  Raises DeploymentInvalid, StorageError."""
    with translate_errors(path):
        content = path.read_bytes()
    try:
        kept = loads(content)
        if kept["version"] != _VERSION or kept["chainId"] != chain_id:
            raise DeploymentInvalid(
                str(path),
                f"a deployment to chain {kept['chainId']} is under way; end that one first",
            )
        sent = {
            key: [read_signed(bytes.fromhex(raw[2:])) for raw in versions]
            for key, versions in kept["sent"].items()
        }
        if not all(sent.values()):
            raise ValueError("an entry without a transaction")
        return int(kept["firstBlock"]), sent
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DeploymentInvalid(
            str(path), "is not the record of a deployment; move it away"
        ) from None
