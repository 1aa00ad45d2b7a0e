"""What somebody who reads the whole chain sees of a deployment.

`observe` collects every transaction, event, sender, signature and gas figure, with nothing but a
node, and sorts them into deposits, moves between custodies, withdrawals and registry entries.
`joining.join` then plays the adversary with it.

    observation = await observe(chain, deployment)
    print("\\n".join(observation.lines()))
    for found in join(observation):
        print(found)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

from psymm._core import LeanIMT, SignatureError, address_of, recover
from psymm.chain.abi import Abi
from psymm.chain.artifacts import artifact
from psymm.chain.calls import Call, CtaCall, CtcCall
from psymm.chain.deployment import Deployment
from psymm.chain.devnet import CHAIN_ID as DEVNET_CHAIN_ID
from psymm.chain.errors import BadReply, CallInvalid
from psymm.chain.reading import Log, log_of
from psymm.chain.registry import RegistryChange, Role
from psymm.chain.transactions import Chain
from psymm.imports import recursion_limit_kept


@dataclass(frozen=True, slots=True)
class ObservedTransaction:
    """One mined transaction, all that a node shows of it.  signature: r ‖ s ‖ v (27 or 28).

    public_key: the sender's, 64 bytes, which the signature gives away; None where it cannot be
    recovered (a transaction type that is not known here).
    """

    tx_hash: str
    block: int
    sender: str
    to: str | None
    data: bytes = field(repr=False)
    value_wei: int
    nonce: int
    gas_limit: int
    gas_used: int
    max_fee_wei: int
    tip_wei: int
    succeeded: bool
    logs: tuple[Log, ...] = field(repr=False)
    signature: bytes = field(repr=False)
    public_key: bytes | None = field(repr=False)

    @property
    def published(self) -> Iterator[tuple[str, bytes]]:
        """Every byte string of it, named."""
        yield "calldata", self.data
        yield "signature", self.signature
        yield "sender", bytes.fromhex(self.sender[2:])
        if self.to is not None:
            yield "to", bytes.fromhex(self.to[2:])
        for log in self.logs:
            yield "log address", bytes.fromhex(log.address[2:])
            yield "log topics", b"".join(log.topics)
            yield "log data", log.data


@dataclass(frozen=True, slots=True)
class Deposit:
    """ATC.  amount: token units.  tx: its place in `Observation.transactions`.  inner: zero where
    another contract made the deposit, so that the calldata is not the pool's."""

    tx: int
    who: str
    token: str
    amount: int
    inner: bytes
    commitment: bytes
    memo: bytes = field(repr=False)
    permit_deadline: int | None = None


@dataclass(frozen=True, slots=True)
class ObservedMove:
    """CTC or CTA.  gas: used by the transaction.  root_age: how many leaves had been inserted
    since the root that its proof is about; None where that root was never the tree's.
    life_s: from the block that holds it to its deadline."""

    tx: int
    sender: str
    call: Call
    gas: int
    root_age: int | None
    root_maker: int | None
    life_s: int


@dataclass(frozen=True)
class Observation:
    """All that the chain shows of one deployment.  Lists are in the chain's order."""

    chain_id: int
    contract: str
    tokens: tuple[str, ...]
    transactions: tuple[ObservedTransaction, ...] = field(repr=False)
    deposits: tuple[Deposit, ...]
    moves: tuple[ObservedMove, ...]
    registry: tuple[RegistryChange, ...]
    """The newest word on each entry, without those that were removed."""
    terms: tuple[bytes, ...] = ()
    """Hashes of terms: not on chain, but solvers show theirs to anybody who asks."""

    @property
    def custody_moves(self) -> tuple[ObservedMove, ...]:
        return tuple(one for one in self.moves if isinstance(one.call, CtcCall))

    @property
    def withdrawals(self) -> tuple[ObservedMove, ...]:
        return tuple(one for one in self.moves if isinstance(one.call, CtaCall))

    @cached_property
    def solvers(self) -> tuple[str, ...]:
        """Accounts that the registry lists as solvers."""
        return tuple(sorted({one.account for one in self.registry if one.role is Role.SOLVER}))

    @cached_property
    def traders(self) -> tuple[str, ...]:
        """Accounts that deposited and play no other role in the registry."""
        others = {one.account for one in self.registry if one.role is not Role.TRADER}
        return tuple(sorted({one.who for one in self.deposits} - others))

    @cached_property
    def of_account(self) -> Mapping[str, tuple[int, ...]]:
        """For each trader and solver the transactions that it sent itself."""
        parties = {*self.traders, *self.solvers}
        found: dict[str, list[int]] = {one: [] for one in parties}
        for at, one in enumerate(self.transactions):
            if one.sender in parties:
                found[one.sender].append(at)
        return {account: tuple(txs) for account, txs in found.items()}

    @cached_property
    def keys(self) -> Mapping[str, bytes]:
        """Public keys by account: the registry's, and those that signatures give away."""
        found = {
            one.sender: one.public_key for one in self.transactions if one.public_key is not None
        }
        found.update({one.account: one.public_key for one in self.registry if one.public_key})
        return found

    @cached_property
    def leaves(self) -> tuple[int, ...]:
        """For each leaf of the tree the transaction that inserted it."""
        inserted = artifact("PSymm").abi.event("NoteInserted").topic
        return tuple(
            at
            for at, one in enumerate(self.transactions)
            for log in one.logs
            if log.address == self.contract and log.topics[:1] == (inserted,)
        )

    @cached_property
    def kinds(self) -> tuple[str, ...]:
        """For each transaction the contract and the function that it calls."""
        return tuple(f"{one.to} {one.data[:4].hex()}" for one in self.transactions)

    @cached_property
    def of_kind(self) -> Counter[str]:
        """How many transactions there are of each kind."""
        return Counter(self.kinds)

    @property
    def published(self) -> Iterator[tuple[str, bytes]]:
        """Every byte on the chain, each string with a name that says where it stands."""
        for one in self.transactions:
            for name, data in one.published:
                yield f"{name} of {one.tx_hash}", data

    def lines(self) -> list[str]:
        """The report for people: what an observer of the chain saw, a line for each thing."""
        said = [f"what anybody sees on chain {self.chain_id}, contract {self.contract}:"]
        for entry in self.registry:
            said.append(f"  registry    {entry.role.name.lower()} {entry.account} {entry.endpoint}")
        for deposit in self.deposits:
            said.append(f"  deposit     {deposit.who} {deposit.amount} of {deposit.token}")
        for move in self.moves:
            call = move.call
            paid = f"fee {call.fee} to {call.relayer}" if call.fee else f"sent by {move.sender}"
            common = f"{paid}, gas {move.gas}, root {_age(move.root_age)}, {move.life_s} s to live"
            if isinstance(call, CtcCall):
                sizes = "+".join(str(len(memo)) for memo in call.memos)
                said.append(f"  move        ? to ?, amounts ?, {common}, memos {sizes} bytes")
            else:
                said.append(
                    f"  withdrawal  ? to {call.recipient} {call.amount} of {call.token}, {common}, "
                    f"memo {len(call.memo)} bytes"
                )
        said.append(
            f"  in all: {len(self.deposits)} deposits, {len(self.custody_moves)} moves between "
            f"custodies, {len(self.withdrawals)} withdrawals, {len(self.registry)} entries"
        )
        return said


# --- collecting ---------------------------------------------------------------------------------


async def observe(
    chain: Chain,
    deployment: Deployment,
    *,
    last_block: int | None = None,
    every_block: bool | None = None,
    terms: Sequence[bytes] = (),
) -> Observation:
    """Collect everything from the deployment's first block to `last_block` (the newest).

    every_block: read blocks in which none of the contracts took part too, for what else the
    parties sent; None does so on a development chain only.  terms: hashes that are known from
    asking solvers.
    Raises BadReply and what `Rpc.call` raises.  Cancelled: raises Cancelled.
    """
    await chain.check()
    first = deployment.first_block
    last = await chain.rpc.block_number() if last_block is None else last_block
    if every_block is None:
        every_block = deployment.chain_id == DEVNET_CHAIN_ID
    if every_block:
        numbers = list(range(first, last + 1))
    else:
        found: set[int] = set()
        for address in (deployment.psymm, deployment.registry):
            async for log in chain.logs(address, [], first, last):
                found.add(log.block)
        numbers = sorted(found)
    transactions: list[ObservedTransaction] = []
    times: list[int] = []
    eth = chain.rpc.eth
    for one in numbers:
        block: Any = await eth.get_block(one, full_transactions=True)
        for sent in block.get("transactions", ()):
            receipt = await chain.rpc.found(eth.get_transaction_receipt(sent["hash"]))
            if receipt is None:
                raise BadReply(
                    chain.rpc.endpoint,
                    "eth_getTransactionReceipt",
                    "no receipt of a mined transaction",
                )
            transactions.append(_transaction(sent, receipt))
            times.append(block["timestamp"])
    return sorted_out(deployment, transactions, times, terms)


def sorted_out(
    deployment: Deployment,
    transactions: Sequence[ObservedTransaction],
    times_s: Sequence[int],
    terms: Sequence[bytes] = (),
) -> Observation:
    """What transactions are about; those of no contract of ours are only kept, and so are moves
    that another contract made, which no client of ours does.

    times_s: of their blocks, seconds.
    """
    pool, registry = artifact("PSymm").abi, artifact("PartyRegistry").abi
    tree, made_by = LeanIMT(), dict[bytes, tuple[int, int]]()
    deposits: list[Deposit] = []
    moves: list[ObservedMove] = []
    entries: dict[tuple[str, Role], RegistryChange] = {}
    for at, one in enumerate(transactions):
        if not one.succeeded:
            continue
        leaves: list[tuple[bytes, bytes]] = []
        deposited: list[dict[str, Any]] = []
        for log in one.logs:
            if log.address == deployment.psymm:
                name, values = _event(pool, log)
                if name == "NoteInserted":
                    leaves.append((word(values["commitment"]), values["memo"]))
                elif name == "Deposited":
                    deposited.append(values)
            elif log.address == deployment.registry:
                name, values = _event(registry, log)
                change = _change(one.block, values)
                if change is not None:
                    entries[change.account, change.role] = change
        read = _read(pool, one.data) if one.to == deployment.psymm else None
        if isinstance(read, CtcCall | CtaCall):
            maker, size = made_by.get(read.root, (None, None))
            age = None if size is None else len(tree) - size
            moves.append(
                ObservedMove(
                    at, one.sender, read, one.gas_used, age, maker, read.deadline - times_s[at]
                )
            )
        else:
            given = read if isinstance(read, dict) and len(deposited) == 1 else {}
            of_leaf = dict(leaves)
            for values in deposited:
                made = word(values["commitment"])
                deposits.append(
                    Deposit(
                        at, values["from"], values["token"], values["amount"],
                        word(given.get("inner", 0)), made, of_leaf.get(made, b""),
                        given.get("permitDeadline"),
                    )
                )  # fmt: skip
        for leaf, _ in leaves:
            tree.insert(leaf)
        if leaves:
            made_by[tree.root] = (at, len(tree))
    return Observation(
        deployment.chain_id,
        deployment.psymm,
        tuple(one.address for one in deployment.tokens),
        tuple(transactions),
        tuple(deposits),
        tuple(moves),
        tuple(one for one in entries.values() if not one.removed),
        tuple(terms),
    )


def _transaction(sent: Any, receipt: Any) -> ObservedTransaction:
    price = sent.get("gasPrice", 0)
    parity = sent["yParity"] if "yParity" in sent else sent.get("v", 0) & 1
    r, s = (int.from_bytes(sent.get(name, b""), "big") for name in ("r", "s"))
    signature = r.to_bytes(32, "big") + s.to_bytes(32, "big") + bytes([27 + parity])
    return ObservedTransaction(
        tx_hash="0x" + sent["hash"].hex(),
        block=receipt["blockNumber"],
        sender=sent["from"],
        to=sent.get("to"),
        data=bytes(sent["input"]),
        value_wei=sent["value"],
        nonce=sent["nonce"],
        gas_limit=sent["gas"],
        gas_used=receipt["gasUsed"],
        max_fee_wei=sent.get("maxFeePerGas", price),
        tip_wei=sent.get("maxPriorityFeePerGas", price),
        succeeded=receipt["status"] == 1,
        logs=tuple(log_of(one) for one in receipt["logs"]),
        signature=signature,
        public_key=_recovered(sent, signature) if sent.get("type") == 2 else None,
    )


_SIGNED: Final = (
    "type", "chainId", "nonce", "maxPriorityFeePerGas", "maxFeePerGas", "gas", "value"
)  # fmt: skip


def _recovered(sent: Any, signature: bytes) -> bytes | None:
    """The sender's public key, out of its signature over an EIP-1559 transaction."""
    with recursion_limit_kept():
        from eth_account.typed_transactions.typed_transaction import TypedTransaction

    fields = {name: sent.get(name, 0) for name in _SIGNED}
    fields |= {"to": sent.get("to", b""), "data": bytes(sent["input"])}
    try:
        key = recover(TypedTransaction.from_dict(fields).hash(), signature)
    except (SignatureError, TypeError, ValueError):
        return None
    return key if address_of(key) == sent["from"] else None


def _event(abi: Abi, log: Log) -> tuple[str, dict[str, Any]]:
    """A log by its event's name; no name where the contract has no such event."""
    for name, event in abi.events.items():
        if log.topics and event.topic == log.topics[0]:
            return name, event.decode(log.topics, log.data)
    return "", {}


def _change(block: int, values: Mapping[str, Any]) -> RegistryChange | None:
    try:
        role = Role(values["role"])
    except (KeyError, ValueError):
        return None
    return RegistryChange(
        block, role, values["account"], values.get("endpoint"), values.get("publicKey")
    )  # fmt: skip


def _read(abi: Abi, data: bytes) -> Call | dict[str, Any] | None:
    """Calldata of the pool: a move, or a deposit's arguments by name; None if it is neither."""
    for function in abi.functions.values():
        if function.selector != data[:4]:
            continue
        try:
            values = function.arguments(data)
            match function.name:
                case "custodyToCustody":
                    return _ctc(*values.values())
                case "custodyToAddress":
                    return _cta(*values.values())
                case _:
                    return values
        except CallInvalid:
            return None
    return None


def _ctc(value: tuple[Any, ...]) -> CtcCall:
    root, nullifiers, commitments, relayer, fee_token, fee, deadline, memo0, memo1, proof = value
    return CtcCall(
        word(root), _pair(nullifiers), _pair(commitments), relayer, fee_token, fee, deadline,
        (memo0, memo1), proof,
    )  # fmt: skip


def _cta(value: tuple[Any, ...]) -> CtaCall:
    (
        root, nullifiers, change, token, amount, recipient, relayer, fee, deadline, memo, proof,
    ) = value  # fmt: skip
    return CtaCall(
        word(root), _pair(nullifiers), word(change), token, amount, recipient, relayer, fee,
        deadline, memo, proof,
    )  # fmt: skip


def _pair(values: Sequence[int]) -> tuple[bytes, bytes]:
    first, second = values
    return word(first), word(second)


def word(value: int) -> bytes:
    return value.to_bytes(32, "big")


def _age(leaves: int | None) -> str:
    return "unknown" if leaves is None else "newest" if not leaves else f"{leaves} leaves old"
