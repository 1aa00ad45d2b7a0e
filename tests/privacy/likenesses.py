"""Strategies: each looks for one kind of likeness between the transactions of an observation.

Amounts, and when something happened, are left out: the parties choose them, and `psymm.custody.
warnings` says what they give away.  Everything else on the chain is fair game.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import combinations, product
from statistics import median
from typing import Final, TypeAlias

from observer import Observation, word

from psymm._core import FIELD_MODULUS, keccak256, poseidon2_hash
from psymm.chain.calls import CtaCall
from psymm.custody.notes import Custody, commitment, inner, key_hash, nullifier, sole_custody

Likeness: TypeAlias = "dict[tuple[int, int], float]"
"""How much two transactions (smaller place first) look like one hand's work: above 0, at most 1."""
GAS_STEP: Final = 200
"""Differences in gas below this are noise of how a position's bits lie."""
FIRST_WRITE_GAS: Final = 17_100
"""What a storage word costs more when it is written for the first time (EIP-2929)."""
Strategy: TypeAlias = Callable[[Observation], Likeness]


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
    """Blindings and salts that can be guessed: small numbers, addresses, keys, and other
    published values.

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
            left_out |= {call.root, word(call.deadline), word(call.fee), _address(call.relayer)}
            if isinstance(call, CtaCall):
                left_out |= {
                    word(call.amount), word(call.amount - call.fee), _address(call.recipient),
                    _address(call.token),
                }  # fmt: skip
            else:
                left_out.add(_address(call.fee_token))
    for deposit in observation.deposits:
        if deposit.tx == at:
            left_out |= {
                word(deposit.amount), _address(deposit.token), _address(deposit.who),
                word(deposit.permit_deadline or 0),
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
            slot = piece[start : start + 32]
            if slot in left_out or (len(slot) == 32 and not any(slot[:28])):
                # Offsets, lengths, positions and other small numbers.
                kept.append(run)
                run = b""
            else:
                run += slot
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
    found = {word(value): None for value in range(32)}
    found[word(observation.chain_id)] = None
    for account, key in observation.keys.items():
        found[_address(account)] = None
        found[key_hash(key)] = None
        found[sole_custody(key).id] = None
        found[poseidon2_hash([_reduced(keccak256(key))])] = None
    for _, element in _elements(observation):
        found[word(element)] = None
    for move in observation.moves:
        call = move.call
        for memo in call.memos:
            found[_reduced(memo[:32])] = None
            found[_reduced(keccak256(memo))] = None
    return [value for value in found if int.from_bytes(value, "big") < FIELD_MODULUS]


def _reduced(data: bytes) -> bytes:
    return word(int.from_bytes(data, "big") % FIELD_MODULUS)


def _address(address: str) -> bytes:
    return bytes(12) + bytes.fromhex(address[2:])


def _common_words(proofs_: Sequence[bytes]) -> set[bytes]:
    """Words that more than half of the proofs have, anywhere."""
    counts: Counter[bytes] = Counter()
    for proof in proofs_:
        counts.update({proof[at : at + 32] for at in range(0, len(proof), 32)})
    return {word for word, count in counts.items() if count > len(proofs_) / 2}
