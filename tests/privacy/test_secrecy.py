"""No custody id, position, price or PnL is anywhere in what the chain keeps, in any spelling.

The haystack is every byte of every transaction and log, and the node's whole state: storage, code,
balances, blocks.  Secrets are looked for by every eight bytes of them at every offset, numbers by
every usual encoding.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from observer import Observation
from trading_floor import FEE, LOTS, Run

from psymm.chain.calls import CtaCall
from psymm.custody.notes import sole_custody

pytestmark = [pytest.mark.chain, pytest.mark.proofs, pytest.mark.slow]


@pytest.fixture(scope="module")
def haystack(run: Run) -> list[bytes]:
    """Everything published, as bytes; pieces that stood apart are not joined."""
    found = {data for _, data in run.observation.published}
    found |= set(_strings(json.loads(run.state)))
    return sorted((data for data in found if len(data) >= 4), key=len)


def _strings(value: object) -> Iterator[bytes]:
    """Each string of a JSON value: what is hexadecimal as the bytes that it stands for."""
    if isinstance(value, dict):
        for key, each in value.items():
            yield from _strings(key)
            yield from _strings(each)
    elif isinstance(value, list):
        if value and all(isinstance(each, int) and 0 <= each < 256 for each in value):
            yield bytes(value)
        for each in value:
            yield from _strings(each)
    elif isinstance(value, int) and not isinstance(value, bool):
        yield value.to_bytes(32, "big", signed=value < 0)
    elif isinstance(value, str):
        digits = value.removeprefix("0x")
        try:
            raw = bytes.fromhex(digits if len(digits) % 2 == 0 else "0" + digits)
        except ValueError:
            yield value.encode()
            return
        # A storage word is written without its leading zeros.
        yield raw.rjust(32, b"\0") if len(raw) < 32 else raw


def spellings(value: int) -> set[bytes]:
    """A number as it could be written: words of 32, 16 and 8 bytes at either end first, two's
    complement, and the bare digits where they are too many to come about by themselves."""
    size = max(1, (value.bit_length() + 8) // 8)
    found = {
        value.to_bytes(width, order, signed=value < 0)
        for width in (8, 16, 32)
        if width >= size
        for order in ("big", "little")
    }
    if size > 8:
        found |= {abs(value).to_bytes(size, order).strip(b"\0") for order in ("big", "little")}
    text = str(abs(value))
    if len(text) >= 8:
        found |= {text.encode(), f"{abs(value):x}".encode()}
    return found


def windows(secrets: dict[str, bytes], length: int = 8) -> dict[bytes, str]:
    """Every so many bytes of every secret, of its mirror image and of its hexadecimal digits."""
    found: dict[bytes, str] = {}
    for name, secret in secrets.items():
        for form in (secret, secret[::-1], secret.hex().encode()):
            for at in range(len(form) - length + 1):
                window = form[at : at + length]
                if len(set(window)) >= 4:
                    found[window] = name
    return found


def all_secrets(run: Run) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for at, pair in enumerate(run.pairs):
        found |= {f"pair {at}: {name}": value for name, value in pair.secrets.items()}
        for side, one in (("trader", pair.trader), ("solver", pair.solver)):
            found |= {f"pair {at}, {side}: {name}": secret for name, secret in one.secrets.items()}
        # The registry shows solvers' keys; traders registered nothing.
        found[f"pair {at}: the trader's public key"] = pair.trader.public_key
    return found


def search(haystack: list[bytes], needles: dict[bytes, str]) -> set[str]:
    """Names of needles, all of one length, that stand at any offset."""
    length = len(next(iter(needles)))
    found = set()
    for data in haystack:
        for at in range(len(data) - length + 1):
            name = needles.get(data[at : at + length])
            if name is not None:
                found.add(name)
    return found


def test_no_eight_bytes_of_any_secret_are_anywhere(run: Run, haystack: list[bytes]) -> None:
    """Custody ids, salts, blindings, inner hashes, viewing secrets, private keys, session keys,
    terms and their hashes, traders' public keys, frames' digests and signatures, wallets'
    signatures over moves."""
    secrets = all_secrets(run)
    for name in ("custody id", "salt", "terms hash", "position id", "viewing secret"):
        assert sum(name in one for one in secrets) >= len(run.pairs)
    needles = windows(secrets)
    looked = sum(len(data) for data in haystack)
    print(f"  {len(needles)} windows of {len(secrets)} secrets in {looked} bytes")
    assert looked > 100_000 * len(run.pairs)
    assert search(haystack, needles) == set()


def test_no_line_of_any_terms_is_anywhere(run: Run, haystack: list[bytes]) -> None:
    """Words of theirs are everybody's ("collateral"), and so are the contracts' addresses, so
    twenty-four bytes at a time."""
    seen = run.observation
    public = {
        text.encode()
        for address in (run.deployment.psymm, run.deployment.registry, *seen.tokens)
        for text in (address, address.lower())
    }
    needles = {
        window: name
        for at, pair in enumerate(run.pairs)
        for window, name in windows({f"pair {at}": pair.terms}, 24).items()
        if not any(window in text for text in public)
    }
    assert len(needles) > 1_000
    assert search(haystack, needles) == set()


def test_no_price_quantity_payout_or_pnl_is_anywhere(run: Run, haystack: list[bytes]) -> None:
    needles: dict[bytes, str] = {}
    for at, pair in enumerate(run.pairs):
        for name, value in pair.numbers.items():
            for scale in (1, 10**12, -1):
                for form in spellings(value * scale):
                    needles[form] = f"pair {at}: {name}"
        for text in pair.texts:
            if len(text) >= 6:
                needles[text.encode()] = f"pair {at}: {text}"
    whole = b"|".join(haystack)
    print(f"  {len(needles)} spellings of {sum(len(one.numbers) for one in run.pairs)} numbers")
    assert len(needles) > 100 * len(run.pairs)
    assert {name for form, name in needles.items() if form in whole} == set()


def test_the_search_finds_what_is_there(run: Run, haystack: list[bytes]) -> None:
    """Public things, by the same means: a deposit's amount, a lot, an inner hash, a nullifier."""
    whole = b"|".join(haystack)
    deposit = run.observation.deposits[0]
    assert any(form in whole for form in spellings(deposit.amount))
    assert any(form in whole for form in spellings(LOTS[0]))
    assert any(form in whole for form in spellings(FEE))
    assert not any(form in whole for form in spellings(LOTS[0] + 4_711))
    public = {"inner": deposit.inner, "nullifier": run.observation.moves[0].call.nullifiers[0]}
    assert search(haystack, windows(public)) == {"inner", "nullifier"}
    # Storage, not only calldata: the tree's size and the tokens that the portal holds.
    state = b"|".join(_strings(json.loads(run.state)))
    out = sum(LOTS) * 2 * len(run.pairs) + 3 * FEE * len(run.pairs)
    held = deposit.amount * 2 * len(run.pairs) - out
    assert held.to_bytes(32, "big") in state


def test_solvers_show_in_the_registry_and_in_their_deposits_alone(run: Run) -> None:
    for pair in run.pairs:
        named = naming(run, pair.solver.address, pair.solver.public_key)
        own = run.observation.of_account[pair.solver.address]
        assert len(own) == 2
        assert {run.observation.transactions[at].to for at in own} == {
            run.deployment.psymm,
            run.deployment.registry,
        }
        assert named - set(own) == {minting(run, pair.solver.address)}


def test_traders_show_in_their_deposits_alone(run: Run) -> None:
    for pair in run.pairs:
        named = naming(run, pair.trader.address, pair.trader.public_key)
        (own,) = run.observation.of_account[pair.trader.address]
        assert own in {deposit.tx for deposit in run.observation.deposits}
        assert named - {own} == {minting(run, pair.trader.address)}


def test_a_withdrawal_goes_where_nobody_was_before_and_is_named_once(run: Run) -> None:
    for one in run.parties:
        for place in one.recipients:
            (tx,) = naming(run, place, b"")
            (move,) = [move for move in run.observation.withdrawals if move.tx == tx]
            assert isinstance(move.call, CtaCall)
            assert move.call.recipient == place


def test_moves_are_sent_by_relayers_alone(run: Run) -> None:
    assert {move.sender for move in run.observation.moves} <= set(run.relayers)
    assert all(move.call.relayer == move.sender for move in run.observation.moves)


def test_what_is_published_says_who_deposited_and_no_more(run: Run) -> None:
    """The report for people names every deposit and withdrawal, and no amount of a move."""
    report = "\n".join(run.observation.lines())
    for pair in run.pairs:
        assert pair.trader.address in report
        assert not any(str(value) in report for value in pair.numbers.values() if value > 10**6)
    assert report.count("? to ?, amounts ?") == 3 * len(run.pairs)


def naming(run: Run, address: str, public_key: bytes) -> set[int]:
    """Places of transactions that name an account in any of its forms."""
    raw = bytes.fromhex(address[2:])
    forms = {raw, raw[::-1], address[2:].lower().encode(), address[2:].encode()}
    if public_key:
        forms |= {public_key[:32], public_key[32:], sole_custody(public_key).id}
    return {
        at
        for at, one in enumerate(run.observation.transactions)
        if any(form in data for _, data in one.published for form in forms)
    }


def minting(run: Run, address: str) -> int:
    """Where the run gave an account its tokens."""
    return next(iter(_mints(run.observation, address)))


def _mints(seen: Observation, address: str) -> Iterator[int]:
    for at, one in enumerate(seen.transactions):
        if one.to == seen.tokens[0] and bytes.fromhex(address[2:]) in one.data:
            yield at
