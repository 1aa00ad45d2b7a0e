"""The demo's three results: who gained what, what the chain shows, and how to verify it."""

from __future__ import annotations

import os
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from psymm.chain.contracts import Token
from psymm.chain.deployment import Deployment
from psymm.chain.rpc import Rpc
from psymm.chain.transactions import Chain
from psymm.demo.documents import DECIMALS, RELAYER_FEE, SYMBOL, Amounts, tokens
from psymm.demo.stage import Actor, DemoError, Stage


async def show_results(
    stage: Stage,
    url: str,
    deployment: dict[str, Any],
    actors: tuple[Actor, Actor, Actor, Actor],
    amounts: Amounts,
    result: dict[str, Any],
    ends: dict[str, dict[str, Any]],
) -> None:
    """Print the three results. Raises DemoError if chain and rulebook differ."""
    relayer, trader, solver, _rival = actors
    contracts = Deployment.from_json(deployment)
    async with Rpc(url) as rpc:
        chain = Chain(rpc, contracts.chain_id)
        token = Token(chain, contracts.tokens[0].address)
        sides = result["verified"]["sides"]
        fee = round(float(RELAYER_FEE) * 10**DECIMALS)
        stage.title(f"What each gained and lost, in {SYMBOL}")
        print(
            f"  {'':<8} {'deposited':>14} {'withdrawn':>14} {'in custody':>14} "
            f"{'relayer fees':>13} {'gain':>14} {'by the rulebook':>16}"
        )
        all_fees = 0
        for actor, deposited, moves in (
            (trader, amounts.trader_deposit, 2),
            (solver, amounts.solver_deposit, 1),
        ):
            end = ends[actor.name]
            got = sum([await token.balance(part["recipient"]) for part in end["parts"]])
            fees = fee * (moves + len(end["parts"]))
            start = deposited * 10**DECIMALS
            kept = int(end["available"])
            gain, ruled = got + kept + fees - start, int(sides[actor.name]["gain"])
            all_fees += fees
            print(
                f"  {actor.name:<8} {tokens(start):>14} {tokens(got):>14} {tokens(kept):>14} "
                f"{tokens(fees):>13} {tokens(gain):>14} {tokens(ruled):>16}"
            )
            if gain != ruled:
                raise DemoError(f"{actor.name} gained {gain} units, the rulebook says {ruled}")
        earned = await token.balance(relayer.address)
        print(f"  {'relayer':<8} {'':>14} {tokens(earned):>14}")
        if earned != all_fees:
            raise DemoError(f"the relayer earned {earned} units of {all_fees} that were paid")
        winner = max(sides, key=lambda name: int(sides[name]["gain"]))
        print(
            f"  The {winner} was paid {tokens(sides[winner]['payout'])}, more than the "
            f"{tokens(sides[winner]['collateral'])} that it put up."
        )
        stage.title("What an observer of the chain saw")
        await _observe(chain, contracts, {one.address: one.name for one in actors}, result)
    stage.title("The transcript, for the two parties")
    for line in _how_to_verify(result["transcript"], stage.home / "commands.log"):
        print(f"  {line}")
    spent = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in stage.timings)
    print(f"\n  {time.monotonic() - stage.began:.1f} s in all: {spent}")


def _how_to_verify(transcript: str, commands: Path) -> list[str]:
    """The transcript's path, and commands that can be pasted."""
    file = shlex.quote(os.path.relpath(transcript))
    # `psymm` may not be on the PATH of the shell that ran `make demo`, but this interpreter exists.
    psymm = f"{shlex.quote(os.path.relpath(sys.executable))} -m psymm"
    return [
        file,
        f"verify it:  {psymm} transcript verify {file}",
        f"show it:    {psymm} transcript show {file}",
        f"every command of this run: {os.path.relpath(commands)}",
    ]


async def _observe(
    chain: Chain, contracts: Deployment, names: dict[str, str], result: dict[str, Any]
) -> None:
    """Print everything in the pool's events, and check that they contain no secret."""
    pool = contracts.pool(chain)
    events = {event.topic: event for event in pool.abi.events.values()}
    head = await chain.rpc.block_number()
    rows: dict[str, list[str]] = {}
    blob = bytearray()
    async for log in chain.logs(pool.address, [], contracts.first_block, head):
        event = events[log.topics[0]]
        values = event.decode(log.topics, log.data)
        blob += b"".join(log.topics) + log.data
        words = rows.setdefault(log.tx_hash, [])
        if event.name == "Deposited":
            words.append(f"{_name(values['from'], names)} deposits {tokens(values['amount'])}")
        elif event.name == "NoteInserted":
            words.append(f"note {values['index']}")
        elif event.name == "NullifierSpent":
            words.append("a nullifier")
        elif event.name == "FeePaid":
            words.append(f"fee {tokens(values['fee'])}")
        elif event.name == "Withdrawn":
            words.append(
                f"{tokens(values['amount'])} leaves for {_name(values['recipient'], names)}"
            )
    transactions: list[dict[str, Any]] = []
    for number in range(contracts.first_block, head + 1):
        block = await chain.rpc.call("eth_getBlockByNumber", hex(number), True)
        transactions += block["transactions"]
    for sent in transactions:
        blob += bytes.fromhex(sent["input"][2:])
        if sent["hash"] in rows:
            sender = _name(sent["from"], names)
            print(
                f"  block {int(sent['blockNumber'], 16):>3}, sent by {sender}: "
                + ", ".join(rows[sent["hash"]])
            )
    secrets_of_both = {
        "custody id": bytes.fromhex(result["custody"][2:]),
        "terms hash": bytes.fromhex(result["verified"]["termsHash"][2:]),
        "account": bytes.fromhex(result["verified"]["account"][2:]),
    }
    found = [name for name, secret in secrets_of_both.items() if secret in blob]
    if found:
        raise DemoError(f"the chain shows the {', '.join(found)}")
    print(
        f"  In all {len(blob):,} bytes of calldata and events: no {', no '.join(secrets_of_both)}."
    )
    print("  Who traded with whom, what, at which price, and who won: not there.")


def _name(address: str, names: dict[str, str]) -> str:
    known = next((name for one, name in names.items() if one.lower() == address.lower()), None)
    return f"the {known}" if known else f"{address[:8]}…{address[-4:]}"
