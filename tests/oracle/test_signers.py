"""Three signers as processes, and a client: agreement, a liar, a dead one, one that is killed."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import trio

sys.path.insert(0, str(Path(__file__).parent))

from oracle_scene import (
    DOMAIN,
    KEYS,
    PATIENCE_S,
    STEP,
    SignerHome,
    lines,
    make_signers,
    now_ns,
    oracle_endpoints,
    replay,
)

from psymm.cli.feed import load_series
from psymm.oracle.client import OracleClient, open_oracle
from psymm.oracle.rounds import RoundLeaf, SignedRound, round_digest, signers_of

PAGE = Path(__file__).parents[2] / "docs/oracle.md"
FreePort = Callable[[], int]


@contextmanager
def running(signers: list[SignerHome]) -> Iterator[None]:
    try:
        for one in signers:
            one.launch()
        for one in signers:
            one.wait_ready()
        yield
    finally:
        for one in signers:
            if one.process is not None:
                one.kill()


async def take(client: OracleClient, after: int, many: int) -> list[SignedRound]:
    """The next rounds after a moment."""
    found: list[SignedRound] = []
    with trio.fail_after(PATIENCE_S):
        while len(found) < many:
            found.append(await client.next_after(found[-1].timestamp if found else after))
    return found


def run_page(signers: list[SignerHome]) -> int:
    """Run the page's example, as printed, for three moments; how many rounds were whole."""
    marker = "<!-- the tests run this block as printed: prices.py -->\n```python\n"
    code = PAGE.read_text().partition(marker)[2].partition("\n```\n")[0]
    program = signers[0].path / "prices.py"
    program.write_text(code)
    named = [f"{one.key.address}={one.endpoint}" for one in signers]
    deployment = signers[0].home / "deployment.json"
    with subprocess.Popen(
        [sys.executable, str(program), str(deployment), "2", *named],
        stdout=subprocess.PIPE,
        text=True,
    ) as running_page:
        assert running_page.stdout is not None
        moments: dict[str, set[str]] = {}
        while len(moments) < 3:
            moment, feed, *_ = running_page.stdout.readline().split()
            moments.setdefault(moment, set()).add(feed)
        running_page.kill()
    return sum(feeds == {"sp500:Close", "OIL"} for feeds in moments.values())


def votes(one: SignerHome) -> dict[int, bytes]:
    """The root that a signer signed for each moment, from its file."""
    with closing(sqlite3.connect(one.home / "oracle.db")) as base:
        return dict(base.execute("SELECT timestamp, root FROM votes").fetchall())


def rounds_of(one: SignerHome) -> dict[int, bytes]:
    with closing(sqlite3.connect(one.home / "oracle.db")) as base:
        return dict(base.execute("SELECT timestamp, root FROM rounds").fetchall())


def who_signed(signed: SignedRound) -> set[str]:
    return signers_of(round_digest(DOMAIN, signed.root, signed.timestamp), signed.signatures)


async def test_rule_41_three_signers_agree_on_the_real_series(
    tmp_path: Path, free_port: FreePort
) -> None:
    signers = await trio.to_thread.run_sync(make_signers, tmp_path, free_port, [replay()] * 3, 2)
    with running(signers):
        async with open_oracle(oracle_endpoints(signers, 3, 2)) as client:
            found = await take(client, 0, 4)
        series = {value for _, value in load_series("sp500:Close").values}
        for signed in found:
            assert signed.timestamp % STEP == 0
            price = signed.round.find("sp500:Close")
            assert price is not None
            assert price.value in series
            epoch = signed.timestamp // (3600 * STEP) * 3600 * STEP
            assert signed.round.find("sp500:Close", epoch) == RoundLeaf(
                "sp500:Close", 10**14, epoch
            )
            assert signed.round.find("OIL") is not None
            # What a court would be shown.
            signed.round.prove("OIL").check(signed.root)
            signed.round.prove_absent("BTC/USD").check(signed.root, "BTC/USD")
            assert len(who_signed(signed)) >= 2
        assert run_page(signers) >= 2
        assert [
            one.stop(number)
            for one, number in zip(
                signers, (signal.SIGTERM, signal.SIGINT, signal.SIGTERM), strict=True
            )
        ] == [0, 0, 0]


async def test_rule_41_a_signer_that_lies_gets_no_signature_and_delays_nobody(
    tmp_path: Path, free_port: FreePort
) -> None:
    sources = [lines("BTC/USD")] * 3
    signers = await trio.to_thread.run_sync(make_signers, tmp_path, free_port, sources, 2)
    with running(signers):
        signers[0].write({"feed": "BTC/USD", "price": "64000"})
        signers[1].write({"feed": "BTC/USD", "price": "64100"})
        signers[2].write({"feed": "BTC/USD", "price": "99000"})
        async with open_oracle(oracle_endpoints(signers, 3, 2)) as client:
            # Six moments: the liar was the first proposer of at least one.
            found = await take(client, 0, 6)
        liar = KEYS[2].address
        for signed in found:
            (leaf,) = signed.round.leaves
            assert leaf.value in (64_000 * 10**18, 64_100 * 10**18)
            assert liar not in who_signed(signed)
        refused = [
            one["signer"]
            for signer in signers[:2]
            for one in signer.events()
            if one["event"] == "proposal-refused"
        ]
        assert set(refused) == {liar}


async def test_a_signer_that_is_killed_signs_no_second_root_and_gets_what_it_missed(
    tmp_path: Path, free_port: FreePort
) -> None:
    sources = [lines("BTC/USD")] * 3
    signers = await trio.to_thread.run_sync(make_signers, tmp_path, free_port, sources, 2)
    prices = ["64000", "64100", "63900"]
    with running(signers):
        for one, price in zip(signers, prices, strict=True):
            one.write({"feed": "BTC/USD", "price": price})
        seen: list[SignedRound] = []
        kept_votes: list[tuple[SignerHome, dict[int, bytes]]] = []
        async with open_oracle(oracle_endpoints(signers, 3, 2)) as client:
            for turn in range(3):
                victim = signers[turn]
                seen += await take(client, seen[-1].timestamp if seen else 0, 2)
                before = votes_after_kill(victim)
                # Two of three go on.
                seen += await take(client, now_ns(), 2)
                await trio.to_thread.run_sync(victim.start)
                # It comes back with another price: only the disk keeps it from another root.
                victim.write({"feed": "BTC/USD", "price": "64050"})
                seen += await take(client, now_ns(), 2)
                await has_all(victim, seen)
                kept_votes.append((victim, before))
            assert client.conflicts == []
        assert {one.stop() for one in signers} == {0}
    assert all(before.items() <= votes(one).items() for one, before in kept_votes)
    # One root of a moment for each signer, in all that anybody saw, and the same at all three.
    signed_roots: dict[tuple[int, str], bytes] = {}
    for signed in seen:
        for signer in who_signed(signed):
            assert signed_roots.setdefault((signed.timestamp, signer), signed.root) == signed.root
            number = [key.address for key in KEYS].index(signer)
            assert votes(signers[number])[signed.timestamp] == signed.root
    for signed in seen:
        assert {rounds_of(one)[signed.timestamp] for one in signers} == {signed.root}


async def has_all(one: SignerHome, seen: list[SignedRound]) -> None:
    """Wait until a signer by itself gives out all these rounds."""
    async with open_oracle(oracle_endpoints([one], 3, 2)) as alone:
        with trio.fail_after(PATIENCE_S):
            while True:
                found = await alone.history(seen[0].timestamp, seen[-1].timestamp)
                if {each.timestamp for each in seen} <= {each.timestamp for each in found}:
                    return
                await trio.sleep(0.3)


def votes_after_kill(one: SignerHome) -> dict[int, bytes]:
    one.kill()
    return votes(one)
