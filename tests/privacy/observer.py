"""What somebody who reads the whole chain can learn, and what cannot be learned from it.

`observe` collects every transaction, event, sender, signature and gas figure of a deployment, with
nothing but a node, and sorts them into deposits, moves between custodies, withdrawals and registry
entries.  `join` then plays the adversary: each strategy looks for one kind of likeness between
transactions, and whatever it finds is followed from a trader's own transactions to a solver's,
over any number of transactions in between.

    observation = await observe(chain, deployment)
    print("\\n".join(observation.lines()))
    for found in join(observation):
        print(found)

Amounts, and when something happened, are left out: the parties choose them, and `psymm.custody.
warnings` says what they give away.  Everything else on the chain is fair game.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations, product
from statistics import median
from typing import Any, Final, TypeAlias

from psymm._core import (
    FIELD_MODULUS,
    LeanIMT,
    SignatureError,
    address_of,
    keccak256,
    poseidon2_hash,
    recover,
)
from psymm.chain.abi import Abi
from psymm.chain.artifacts import artifact
from psymm.chain.calls import Call, CtaCall, CtcCall
from psymm.chain.deployment import Deployment
from psymm.chain.devnet import CHAIN_ID as DEVNET_CHAIN_ID
from psymm.chain.errors import BadReply, CallInvalid
from psymm.chain.reading import Log, log_of
from psymm.chain.registry import RegistryChange, Role
from psymm.chain.transactions import Chain
from psymm.custody.notes import Custody, commitment, inner, key_hash, nullifier, sole_custody
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
                    leaves.append((_word(values["commitment"]), values["memo"]))
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
                made = _word(values["commitment"])
                deposits.append(
                    Deposit(
                        at, values["from"], values["token"], values["amount"],
                        _word(given.get("inner", 0)), made, of_leaf.get(made, b""),
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
        _word(root), _pair(nullifiers), _pair(commitments), relayer, fee_token, fee, deadline,
        (memo0, memo1), proof,
    )  # fmt: skip


def _cta(value: tuple[Any, ...]) -> CtaCall:
    (
        root, nullifiers, change, token, amount, recipient, relayer, fee, deadline, memo, proof,
    ) = value  # fmt: skip
    return CtaCall(
        _word(root), _pair(nullifiers), _word(change), token, amount, recipient, relayer, fee,
        deadline, memo, proof,
    )  # fmt: skip


def _pair(values: Sequence[int]) -> tuple[bytes, bytes]:
    first, second = values
    return _word(first), _word(second)


def _word(value: int) -> bytes:
    return value.to_bytes(32, "big")


def _age(leaves: int | None) -> str:
    return "unknown" if leaves is None else "newest" if not leaves else f"{leaves} leaves old"


# --- joining ------------------------------------------------------------------------------------

Likeness: TypeAlias = "dict[tuple[int, int], float]"
"""How much two transactions (smaller place first) look like one hand's work: above 0, at most 1."""

GAS_STEP: Final = 200
"""Differences in gas below this are noise of how a position's bits lie."""

FIRST_WRITE_GAS: Final = 17_100
"""What a storage word costs more when it is written for the first time (EIP-2929)."""

Strategy: TypeAlias = Callable[[Observation], Likeness]


@dataclass(frozen=True)
class Joined:
    """What one strategy makes of an observation.

    scores: for each trader and solver, 0 (nothing joins them) to 1.  guess: each trader's solver
    in the assignment, one to one, of the highest total score; ties fall by a hash, so that no
    order of the chain's decides them.
    """

    strategy: str
    scores: Mapping[tuple[str, str], float] = field(repr=False)
    guess: Mapping[str, str]

    @property
    def says_nothing(self) -> bool:
        """All scores are the same, so the guess is the hash's."""
        return len(set(self.scores.values())) <= 1

    def hits(self, truth: Mapping[str, str]) -> int:
        return sum(self.guess.get(trader) == solver for trader, solver in truth.items())

    def __str__(self) -> str:
        if self.says_nothing:
            return f"{self.strategy}: nothing"
        shown = ", ".join(
            f"{trader[:8]} → {solver[:8]} ({self.scores[trader, solver]:.3g})"
            for trader, solver in self.guess.items()
        )
        return f"{self.strategy}: {shown}"


def join(
    observation: Observation, strategies: Mapping[str, Strategy] | None = None
) -> list[Joined]:
    """Every strategy's guess, and last the one of their scores' sum."""
    found = []
    for name, strategy in (STRATEGIES if strategies is None else strategies).items():
        found.append(_joined(observation, name, _scores(observation, strategy(observation))))
    total: dict[tuple[str, str], float] = defaultdict(float)
    for one in found:
        for pair, score in _levelled(one.scores).items():
            total[pair] += score
    found.append(_joined(observation, "all together", total))
    return found


def chance_of_hits(traders: int, solvers: int, hits: int) -> float:
    """How likely a guess by lot, one solver for each trader and none twice, hits at least so
    many.  For eight and eight: 4 hits 1.9 %, 5 hits 0.35 %, 6 hits 0.07 %."""
    fewer, more = sorted((traders, solvers))
    ways = 0
    for exact in range(hits, fewer + 1):
        rest = fewer - exact
        ways += math.comb(fewer, exact) * sum(
            (-1) ** wrong * math.comb(rest, wrong) * math.perm(more - exact - wrong, rest - wrong)
            for wrong in range(rest + 1)
        )
    return ways / math.perm(more, fewer)


def _joined(observation: Observation, name: str, scores: Mapping[tuple[str, str], float]) -> Joined:
    def lot(account: str) -> bytes:
        return keccak256(f"{name} {account}".encode())

    traders = sorted(observation.traders, key=lot)
    solvers = sorted(observation.solvers, key=lot)
    table = [[scores.get((trader, solver), 0.0) for solver in solvers] for trader in traders]
    full = {(t, s): table[i][j] for i, t in enumerate(traders) for j, s in enumerate(solvers)}
    pairs = _assignment(table)
    return Joined(name, full, {traders[i]: solvers[j] for i, j in pairs})


def _scores(observation: Observation, likeness: Likeness) -> dict[tuple[str, str], float]:
    """The strongest way from each trader's transactions to each solver's: the product of the
    likenesses along it.  It never leads through a third party's own transactions."""
    near: dict[int, dict[int, float]] = defaultdict(dict)
    for (first, second), value in likeness.items():
        if value > 0:
            near[first][second] = near[second][first] = min(1.0, value)
    owner = {tx: account for account, txs in observation.of_account.items() for tx in txs}
    scores = {}
    for trader in observation.traders:
        best = dict.fromkeys(observation.of_account[trader], 1.0)
        done: set[int] = set()
        while open_ := {tx: value for tx, value in best.items() if tx not in done}:
            at = max(open_, key=lambda tx: open_[tx])
            done.add(at)
            if owner.get(at, trader) != trader:
                continue
            for other, value in near[at].items():
                if best[at] * value > best.get(other, 0.0):
                    best[other] = best[at] * value
        for solver in observation.solvers:
            reached = [best.get(tx, 0.0) for tx in observation.of_account[solver]]
            scores[trader, solver] = max(reached, default=0.0)
    return scores


def _levelled(scores: Mapping[tuple[str, str], float]) -> dict[tuple[str, str], float]:
    """Scores on one scale for every strategy: ranks from 0 to 1, equal ones alike."""
    ranked = sorted(set(scores.values()))
    if len(ranked) <= 1:
        return dict.fromkeys(scores, 0.0)
    place = {value: at / (len(ranked) - 1) for at, value in enumerate(ranked)}
    return {pair: place[value] for pair, value in scores.items()}


def _assignment(table: Sequence[Sequence[float]]) -> list[tuple[int, int]]:
    """Rows to columns one to one with the highest sum (Kuhn and Munkres, by shortest paths)."""
    if not table or not table[0]:
        return []
    if len(table) > len(table[0]):
        turned = [list(column) for column in zip(*table, strict=True)]
        return sorted((row, column) for column, row in _assignment(turned))
    rows, columns = len(table), len(table[0])
    of_row, of_column = [0.0] * (rows + 1), [0.0] * (columns + 1)
    taken, way = [0] * (columns + 1), [0] * (columns + 1)
    for row in range(1, rows + 1):
        taken[0], column = row, 0
        least, seen = [math.inf] * (columns + 1), [False] * (columns + 1)
        while True:
            seen[column] = True
            at, following = taken[column], 0
            step: float = math.inf
            for one in range(1, columns + 1):
                if seen[one]:
                    continue
                cost = -table[at - 1][one - 1] - of_row[at] - of_column[one]
                if cost < least[one]:
                    least[one], way[one] = cost, column
                if least[one] < step:
                    step, following = least[one], one
            for one in range(columns + 1):
                if seen[one]:
                    of_row[taken[one]] += step
                    of_column[one] -= step
                else:
                    least[one] -= step
            column = following
            if not taken[column]:
                break
        while column:
            taken[column], column = taken[way[column]], way[column]
    return sorted((taken[one] - 1, one - 1) for one in range(1, columns + 1) if taken[one])


# --- strategies ---------------------------------------------------------------------------------


def shared_words(observation: Observation) -> Likeness:  # noqa: C901
    """Bytes that few transactions share.

    Every window of 8 bytes at every offset of calldata, logs and signatures, and every aligned
    word; a run is the stronger the longer it is (8, 16, 20, 32 bytes) and the fewer have it.  What
    more than half of a kind of transaction has says nothing.  Roots, deadlines, fees, relayers and
    positions have strategies of their own, and amounts are left out; addresses too, which
    `identities` follows.
    """
    # Complex since three nested walks over all bytes share what they found.
    texts = [_private(observation, at) for at in range(len(observation.transactions))]
    shared: dict[bytes, set[int]] = defaultdict(set)
    seen: dict[int, int] = {}
    for at, parts in enumerate(texts):
        for part in parts:
            for start in range(len(part) - 7):
                window = part[start : start + 8]
                known = seen.setdefault(int.from_bytes(window, "big"), at)
                if known != at and len(set(window)) >= 4:
                    shared[window] |= {known, at}
    longer: dict[bytes, set[int]] = defaultdict(set)
    for length in (16, 20, 32):
        for at, parts in enumerate(texts):
            for part in parts:
                for start in range(len(part) - length + 1):
                    if part[start : start + 8] in shared:
                        longer[part[start : start + length]].add(at)
    words: dict[bytes, set[int]] = defaultdict(set)
    for at, parts in enumerate(texts):
        for part in parts:
            for start in range(0, len(part) - 31, 32):
                if any(word := part[start : start + 32]):
                    words[word].add(at)
    found: Likeness = {}
    for group in (shared, longer, words):
        for run, txs in group.items():
            weight = _rarity(observation, txs) * min(1.0, len(run) / 32)
            _raise(found, txs, weight)
    return found


def identities(observation: Observation) -> Likeness:
    """Names of parties where they have no business to be.

    Every account's address, public key, both halves of it, its hashes, its sole custody's id, and
    the ids of custodies that a pair would have with weak salts, are looked for in all bytes that
    others sent.  A transaction that names a party is that party's work.
    """
    names: dict[bytes, str] = {}
    for account in {*observation.traders, *observation.solvers}:
        raw = bytes.fromhex(account[2:])
        forms = {raw, raw[::-1], keccak256(raw), account.lower()[2:].encode()}
        key = observation.keys.get(account)
        if key is not None:
            forms |= {key[:32], key[32:], keccak256(key), key_hash(key), sole_custody(key).id}
            forms |= {key[at : at + 16] for at in (0, 16, 32, 48)}
        names.update(dict.fromkeys(forms, account))
    found: Likeness = {}
    for at, one in enumerate(observation.transactions):
        blob = b"\0".join(data for _, data in one.published)
        for form, account in names.items():
            if form in blob and one.sender != account:
                for own in observation.of_account[account]:
                    _raise(found, {own, at}, 1.0)
    return found


def senders(observation: Observation) -> Likeness:
    """Who sends and is paid: sender, relayer, fee, recipient, fee token, tip, margin of gas.

    Two moves are alike by every such choice that few make."""
    features: dict[object, set[int]] = defaultdict(set)
    for at, one in enumerate(observation.transactions):
        features["sender", one.sender].add(at)
        features["tip", one.tip_wei].add(at)
        features["margin", round(one.gas_limit / max(1, one.gas_used), 1)].add(at)
        features["value", one.value_wei].add(at)
    for move in observation.moves:
        features["relayer", move.call.relayer].add(move.tx)
        features["fee", move.call.fee].add(move.tx)
        if isinstance(move.call, CtaCall):
            features["sender", move.call.recipient].add(move.tx)
        else:
            features["fee token", move.call.fee_token].add(move.tx)
    found: Likeness = {}
    for txs in features.values():
        _raise(found, txs, _rarity(observation, txs))
    return found


def gas_used(observation: Observation) -> Likeness:
    """Gas that neither the calldata's price nor the place in the tree explains.

    Inserting a leaf costs by the ones in its position and by the storage words that it writes for
    the first time, and positions are order, which is timing: both are taken off first.  A circuit,
    a path or an account that costs oddly beyond that makes its moves oddly alike.
    """
    rest: dict[int, float] = {}
    kinds: dict[str, list[int]] = defaultdict(list)
    last_leaf = {tx: position for position, tx in enumerate(observation.leaves)}
    for at, one in enumerate(observation.transactions):
        zeros = one.data.count(0)
        rest[at] = one.gas_used - 4 * zeros - 16 * (len(one.data) - zeros)
        if at in last_leaf:
            # The first leaf writes the tree's size and root too, a full tree grows by a level.
            size = last_leaf[at] + 1
            rest[at] -= FIRST_WRITE_GAS * (3 if size == 1 else size.bit_count() == 1)
        kinds[observation.kinds[at]].append(at)
    slopes = sorted(
        (rest[one] - rest[other]) / apart
        for txs in kinds.values()
        for one, other in combinations([at for at in txs if at in last_leaf], 2)
        if (apart := last_leaf[one].bit_count() - last_leaf[other].bit_count())
    )
    slope = _densest(slopes, GAS_STEP / 10)
    odd: dict[int, float] = {}
    for txs in kinds.values():
        level = {at: rest[at] - slope * last_leaf.get(at, 0).bit_count() for at in txs}
        middle = median(level.values())
        odd |= {at: (value - middle) / GAS_STEP for at, value in level.items()}
    odd = {at: value for at, value in odd.items() if abs(value) > 1}
    return {
        (first, second): math.exp(-abs(odd[first] - odd[second]))
        for first, second in combinations(sorted(odd), 2)
        if abs(odd[first] - odd[second]) < 12
    }


def _densest(ascending: Sequence[float], width: float) -> float:
    """The middle of the most values that lie within `width`; 0 of none.  Odd values, however many
    and large, do not shift it as they would a mean or a median."""
    best: Sequence[float] = (0.0,)
    end = 0
    for start, low in enumerate(ascending):
        while end < len(ascending) and ascending[end] - low <= width:
            end += 1
        if end - start > len(best):
            best = ascending[start:end]
    return median(best)


def deadlines(observation: Observation) -> Likeness:
    """Deadlines that few share, and deadlines off the full five minutes that all clients keep."""
    same: dict[object, set[int]] = defaultdict(set)
    for tx, deadline in (
        *((one.tx, one.call.deadline) for one in observation.moves),
        *((one.tx, one.permit_deadline) for one in observation.deposits),
    ):
        if deadline is not None:
            same["deadline", deadline].add(tx)
            if deadline % 300:
                same["rest", deadline % 300].add(tx)
    for move in observation.moves:
        # Time to live in steps of the rounding: how a client is set, not when it acted.
        same["life", move.life_s // 600].add(move.tx)
    found: Likeness = {}
    for txs in same.values():
        _raise(found, txs, _rarity(observation, txs))
    return found


def memos(observation: Observation) -> Likeness:
    """Memos under one nonce, or with equal bytes at equal places.

    Two ciphertexts under one key and nonce differ only where their contents do; random ones agree
    in one place of 256."""
    texts = [(one.tx, one.memo) for one in observation.deposits]
    for move in observation.moves:
        call = move.call
        held = call.memos
        texts += [(move.tx, memo) for memo in held]
    found: Likeness = {}
    for (first, one), (second, other) in combinations(texts, 2):
        if first == second:
            continue
        mixed = bytes(a ^ b for a, b in zip(one, other, strict=False))
        likeness = mixed.count(0) / max(1, len(mixed))
        if one[:12] == other[:12] or one[-16:] == other[-16:]:
            likeness = 1.0
        _raise(found, {first, second}, likeness)
    return found


def proofs(observation: Observation) -> Likeness:
    """Words that two proofs share and not all do, and equal bytes at equal places."""
    texts = [(one.tx, one.call.proof) for one in observation.moves]
    common = _common_words([proof for _, proof in texts])
    found: Likeness = {}
    for (first, one), (second, other) in combinations(texts, 2):
        if len(one) != len(other):
            continue
        mixed = int.from_bytes(one, "big") ^ int.from_bytes(other, "big")
        words = mixed.to_bytes(len(one), "big")
        free = equal = same = 0
        for at in range(0, len(one), 32):
            if one[at : at + 32] in common and other[at : at + 32] in common:
                continue
            free += 1
            equal += words[at : at + 32] == bytes(32)
            same += words.count(0, at, at + 32)
        # One whole word in common is beyond chance; a byte here and there is not.
        _raise(found, {first, second}, min(1.0, equal / 2 + same / max(1, 32 * free)))
    return found


def near_elements(observation: Observation) -> Likeness:
    """Commitments, nullifiers and inner hashes in a plain relation to one another: equal, equal
    but for the sign, apart by little, one a small multiple of the other."""
    elements = list(_elements(observation))
    small = 1 << 64
    inverse = {value: pow(value, -1, FIELD_MODULUS) for _, value in elements if value}
    found: Likeness = {}
    for (first, one), (second, other) in combinations(elements, 2):
        if first == second:
            continue
        for between in (one - other, one + other, one * inverse.get(other, 0)):
            rest = between % FIELD_MODULUS
            if min(rest, FIELD_MODULUS - rest) < small and (rest or one == other):
                _raise(found, {first, second}, 1.0)
        if one + other == FIELD_MODULUS:
            _raise(found, {first, second}, 1.0)
    return found


def weak_secrets(observation: Observation) -> Likeness:
    """Blindings and salts that can be guessed: small numbers, addresses, keys, and whatever else
    is published.

    With a note's blinding its nullifier can be computed, so the move that spends it is known; with
    a custody's salt and a blinding, its commitments can be, so both its parties are.
    """
    guesses = _guesses(observation)
    made: dict[bytes, int] = {one.commitment: one.tx for one in observation.deposits}
    spent: dict[bytes, int] = {}
    for move in observation.moves:
        call = move.call
        outputs = call.outputs
        made.update(dict.fromkeys(outputs, move.tx))
        spent.update(dict.fromkeys(call.nullifiers, move.tx))
    found: Likeness = {}
    for leaf, tx in made.items():
        for blinding in guesses:
            spender = spent.get(nullifier(leaf, blinding))
            if spender is not None and spender != tx:
                _raise(found, {tx, spender}, 1.0)
    amounts = {0} | {one.amount for one in observation.deposits}
    amounts |= {
        one.call.amount for one in observation.moves if isinstance(one.call, CtaCall)
    }  # fmt: skip
    few = guesses[:4]
    for trader in observation.traders:
        for solver in observation.solvers:
            pair = observation.keys.get(trader), observation.keys.get(solver)
            if pair[0] is None or pair[1] is None:
                continue
            for terms, salt, blinding in product(observation.terms, few, few):
                hidden = inner(Custody(pair[0], pair[1], terms, salt).id, blinding)
                for token, amount in product(observation.tokens, sorted(amounts)[:6]):
                    tx = made.get(commitment(hidden, token, amount), -1)
                    if tx >= 0:
                        for account in (trader, solver):
                            for own in observation.of_account[account]:
                                _raise(found, {own, tx}, 1.0)
    return found


def root_ages(observation: Observation) -> Likeness:
    """The root that a proof is about, and what made it.

    A client that proves under the root of its own deposit, and not under the newest, says whose
    move it is; one that lags by so many leaves says so each time.  (What is left in an honest run
    is the order of things, which is timing.)
    """
    users: dict[int, set[int]] = defaultdict(set)
    ages: dict[int, set[int]] = defaultdict(set)
    for move in observation.moves:
        if move.root_maker is not None and move.root_age is not None:
            users[move.root_maker].add(move.tx)
            ages[move.root_age].add(move.tx)
    found: Likeness = {}
    for maker, txs in users.items():
        for tx in txs:
            _raise(found, {maker, tx}, 1 / len(txs))
        _raise(found, txs, 1 / len(txs))
    for age, txs in ages.items():
        if age:
            _raise(found, txs, _rarity(observation, txs) / 2)
    return found


def shapes(observation: Observation) -> Likeness:
    """Lengths: of calldata, proof, memos and what follows them; numbers of events and topics."""
    same: dict[object, set[int]] = defaultdict(set)
    for at, one in enumerate(observation.transactions):
        kind = observation.kinds[at]
        same[kind, "calldata", len(one.data)].add(at)
        same[kind, "logs", tuple((len(log.topics), len(log.data)) for log in one.logs)].add(at)
    for move in observation.moves:
        same["proof", type(move.call), len(move.call.proof)].add(move.tx)
    found: Likeness = {}
    for txs in same.values():
        _raise(found, txs, _rarity(observation, txs))
    return found


STRATEGIES: Final[Mapping[str, Strategy]] = {
    "shared words": shared_words,
    "identities": identities,
    "senders and relayers": senders,
    "gas used": gas_used,
    "deadlines": deadlines,
    "memos": memos,
    "proofs": proofs,
    "near elements": near_elements,
    "weak secrets": weak_secrets,
    "root ages": root_ages,
    "shapes": shapes,
}


# --- parts --------------------------------------------------------------------------------------


def _raise(likeness: Likeness, txs: Iterable[int], value: float) -> None:
    """Make every two of these transactions at least so much alike."""
    if value <= 0:
        return
    for pair in combinations(sorted(txs), 2):
        if value > likeness.get(pair, 0.0):
            likeness[pair] = value


def _rarity(observation: Observation, txs: set[int]) -> float:
    """1 for what only two have, falling to 0 for what half of them, or half of a kind, has."""
    if len(txs) < 2:
        return 0.0
    sizes = observation.of_kind
    mine = Counter(observation.kinds[at] for at in txs)
    if any(sizes[kind] > 3 and count > sizes[kind] / 2 for kind, count in mine.items()):
        return 0.0
    return 1 / (len(txs) - 1)


def _private(observation: Observation, at: int) -> list[bytes]:
    """A transaction's bytes in pieces, without the values that other strategies look at."""
    one = observation.transactions[at]
    left_out: set[bytes] = set()
    for move in observation.moves:
        if move.tx == at:
            call = move.call
            left_out |= {call.root, _word(call.deadline), _word(call.fee), _address(call.relayer)}
            if isinstance(call, CtaCall):
                left_out |= {
                    _word(call.amount), _word(call.amount - call.fee), _address(call.recipient),
                    _address(call.token),
                }  # fmt: skip
            else:
                left_out.add(_address(call.fee_token))
    for deposit in observation.deposits:
        if deposit.tx == at:
            left_out |= {
                _word(deposit.amount), _address(deposit.token), _address(deposit.who),
                _word(deposit.permit_deadline or 0),
            }  # fmt: skip
    for address in {one.sender, *(log.address for log in one.logs)}:
        left_out.add(_address(address))
    for account in {*observation.traders, *observation.solvers}:
        left_out.add(_address(account))
    pieces = [one.data[4:], one.signature[:64]]
    for log in one.logs:
        # The first topic names the event, and an index is a position in the tree.
        pieces += [*log.topics[1:], log.data] if len(log.topics) > 1 else [log.data]
    kept: list[bytes] = []
    for piece in pieces:
        run = b""
        for start in range(0, len(piece), 32):
            word = piece[start : start + 32]
            if word in left_out or (len(word) == 32 and not any(word[:28])):
                # Offsets, lengths, positions and other small numbers.
                kept.append(run)
                run = b""
            else:
                run += word
        kept.append(run)
    return [run for run in kept if len(run) >= 8]


def _elements(observation: Observation) -> Iterator[tuple[int, int]]:
    """Every field element that a party made, with its transaction."""
    for deposit in observation.deposits:
        if any(deposit.inner):
            yield deposit.tx, int.from_bytes(deposit.inner, "big")
        yield deposit.tx, int.from_bytes(deposit.commitment, "big")
    for move in observation.moves:
        call = move.call
        outputs = call.outputs
        for element in (*call.nullifiers, *outputs):
            yield move.tx, int.from_bytes(element, "big")


def _guesses(observation: Observation) -> list[bytes]:
    """Values that somebody careless could take for a blinding or a salt, smallest first."""
    found = {_word(value): None for value in range(32)}
    found[_word(observation.chain_id)] = None
    for account, key in observation.keys.items():
        found[_address(account)] = None
        found[key_hash(key)] = None
        found[sole_custody(key).id] = None
        found[poseidon2_hash([_reduced(keccak256(key))])] = None
    for _, element in _elements(observation):
        found[_word(element)] = None
    for move in observation.moves:
        call = move.call
        for memo in call.memos:
            found[_reduced(memo[:32])] = None
            found[_reduced(keccak256(memo))] = None
    return [value for value in found if int.from_bytes(value, "big") < FIELD_MODULUS]


def _reduced(data: bytes) -> bytes:
    return _word(int.from_bytes(data, "big") % FIELD_MODULUS)


def _address(address: str) -> bytes:
    return bytes(12) + bytes.fromhex(address[2:])


def _common_words(proofs_: Sequence[bytes]) -> set[bytes]:
    """Words that more than half of the proofs have, anywhere."""
    counts: Counter[bytes] = Counter()
    for proof in proofs_:
        counts.update({proof[at : at + 32] for at in range(0, len(proof), 32)})
    return {word for word, count in counts.items() if count > len(proofs_) / 2}


__all__ = [
    "STRATEGIES",
    "Deposit",
    "Joined",
    "Likeness",
    "Observation",
    "ObservedMove",
    "ObservedTransaction",
    "Strategy",
    "chance_of_hits",
    "join",
    "observe",
    "sorted_out",
]
