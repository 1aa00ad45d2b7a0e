"""The crash storm: a trader and a solver, each killed with SIGKILL again and again, under load.

    python tests/storms/crash_storm.py [--seed N] [--kills N] [--rounds N] [--short]

Every life is a forked process on real parts (see `storm_lives`). The supervisor kills it at a
random instant, or it kills itself at a numbered point (see `storm_points`). The seed decides which
point, which passing of it and which instant, life by life. What the two processes do between two
deaths also depends on the machine's scheduler.

The supervisor imports all that a life needs before it forks: otherwise most lives would end while
they import. Times stretch with the time that a life takes to start, so that a busy machine kills
lives that are as far as those of an idle one.

`storm_judge` holds all frames that were ever seen against the guarantees. After the kills of each
round both run in peace until heads and accounts agree. At the end everything is settled on chain,
and all tokens are counted. In a storm of ENOUGH kills, somebody must have been killed at each
point; in the last round a phase goes on for up to EXTRA kills until that is so. A shorter storm
opens too few custodies for that.

--short leaves settlement and withdrawal out, because they need proofs.

This file is long because the supervisor, its phases and its report are one program, which is read
from top to bottom when a storm has failed.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import gc
import json
import os
import selectors
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Final

import storm_points as points
import trio
from storm_judge import SIDES, Judge, StormFailed
from storm_lives import DEPOSIT, UNIT, Place, Task, import_all, live
from storm_stage import apart, balances, open_chain, prepare, relay, set_forward

from psymm.chain.deployment import Deployment

LET_PASS_S: Final = 100.0
"""So long a settlement is waited for before the clocks are put forward to its deadline."""
CALM_S: Final = 1_500.0
"""After so long in peace something hangs; a busy machine needs less."""
STUCK_S: Final = {"open": 20.0, "trade": 1.5, "settle": 12.0, "withdraw": 12.0}
"""How long a life may take to its numbered point before it is killed where it is."""
INSTANT_S: Final = {"open": 8.0, "trade": 0.8, "settle": 8.0, "withdraw": 8.0}
"""The latest random instant of a life."""
BORN_S: Final = 0.1
"""Within this, a life has its journal open, unless the machine is busy."""
MOST_SLOWED: Final = 10.0
ENOUGH: Final = 300
EXTRA: Final = 40
"""So many more kills of each side may a phase of the last round take to reach its points."""
SHARES: Final = {"open": 0.09, "trade": 0.8, "settle": 0.08, "withdraw": 0.03}
POINTS: Final = {
    "open": points.OPENING,
    "trade": dict.fromkeys(SIDES, points.TRADING),
    "settle": points.SETTLING,
    "withdraw": dict.fromkeys(SIDES, points.WITHDRAWING),
}


@dataclass
class Side:
    """One side's present life, and what became of all before it."""

    name: str
    life: int = 0
    pid: int = 0
    pipe: int = -1
    unread: bytes = b""
    task: Task | None = None
    forked: float = 0.0
    deadline: float = float("inf")
    standing: dict[str, Any] = field(default_factory=dict)
    closed: set[str] = field(default_factory=set)
    withdrawn: bool = False
    hit: str = ""
    hits: Counter[str] = field(default_factory=Counter)
    instants: int = 0
    done: Counter[str] = field(default_factory=Counter)
    last_done: dict[str, int] = field(default_factory=dict)
    decks: dict[str, list[str]] = field(default_factory=dict)

    @property
    def kills(self) -> int:
        return self.instants + sum(self.hits.values())


class Storm:
    """The supervisor. It has no thread and no trio run, so it can fork."""

    def __init__(self, place: Place, seed: int, kills: int, rounds: int, *, short: bool) -> None:
        self.place, self.seed, self.short = place, seed, short
        self.kills, self.rounds = kills, rounds
        self.judge = Judge(place.home)
        self.sides = {name: Side(name) for name in SIDES}
        self.random = {name: Random(f"{seed}/{name}") for name in SIDES}
        self.offset_s = 0
        self.round = 0
        self.slowed = 1.0
        self.settled: set[str] = set()

    def run(self) -> None:
        wanted = self.kills // self.rounds
        for number in range(1, self.rounds + 1):
            self.round = number
            if self.round == self.rounds:
                wanted = self.kills - wanted * (self.rounds - 1)
            phases = ["open", "trade"] + ([] if self.short else ["settle"])
            if self.round == self.rounds and not self.short:
                phases.append("withdraw")
            total = sum(SHARES[phase] for phase in phases)
            quotas = {phase: int(wanted * SHARES[phase] / total) for phase in phases}
            quotas["trade"] += wanted - sum(quotas.values())
            for phase in phases:
                frames = len(self.judge.digests)
                self.blow(phase, quotas[phase])
                if phase == "trade" and len(self.judge.digests) == frames:
                    raise StormFailed("nobody lived long enough to trade: this storm shows nothing")
                self.calm(phase)

    # --- lives ------------------------------------------------------------------------------

    def bear(self, side: Side, phase: str, *, calm: bool) -> None:
        side.life += 1
        point, occurrence, wait_s = "", 0, float("inf")
        if not calm:
            point, occurrence, wait_s = self.draw(side, phase)
        side.task = Task(
            side.name, side.life, phase, self.round, calm, point, occurrence, self.offset_s
        )
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(read)
            for other in self.sides.values():
                if other.pipe >= 0:
                    os.close(other.pipe)
            live(self.place, side.task, write)
        os.close(write)
        os.set_blocking(read, False)
        side.pid, side.pipe, side.unread, side.hit = pid, read, b"", ""
        side.forked = time.monotonic()
        side.deadline = side.forked + wait_s * self.slowed
        side.standing, side.last_done, side.withdrawn = {}, {}, False

    def draw(self, side: Side, phase: str) -> tuple[str, int, float]:
        """How the next life ends: at a point's k-th passing (or where it is when time is up), or
        at an instant.

        A phase with an order in it is gone through point by point first, as its points come;
        trading has every point all the time.
        """
        random = self.random[side.name]
        if phase == "trade":
            if random.random() < 0.5:
                return "", 0, random.uniform(0, INSTANT_S[phase])
            deck = side.decks.setdefault(phase, [])
            if not deck:
                deck.extend(POINTS[phase][side.name])
                random.shuffle(deck)
            occurrence = 1 + int(random.random() ** 2 * 12)
            point = deck.pop()
            return point, occurrence if point in points.OFTEN else 1, STUCK_S[phase]
        deck = side.decks.setdefault(f"{phase} {self.round}", self.ordered(side, phase))
        if deck:
            return deck.pop(), 1, STUCK_S[phase]
        return "", 0, random.uniform(0, INSTANT_S[phase])

    @staticmethod
    def ordered(side: Side, phase: str) -> list[str]:
        """The points of a phase, the last one first: they come as they are passed, and before them
        those at which nobody was killed in the rounds before."""
        order = sorted(POINTS[phase][side.name], key=lambda point: bool(side.hits[point]))
        return order[::-1]

    def put_back(self, side: Side, phase: str) -> None:
        """A point that this life did not come to is tried again behind the others, if nobody was
        ever killed there."""
        assert side.task is not None
        point = side.task.point
        if point and not side.task.calm and not side.hits[point]:
            deck = side.decks[phase if phase == "trade" else f"{phase} {self.round}"]
            deck.insert(0, point)

    def idle(self, side: Side, phase: str) -> bool:
        """There is nothing left in this phase that a kill could hinder."""
        if phase == "open":
            found = side.standing.values()
            return len(found) >= self.place.custodies and all(
                one["state"] == "trading" for one in found
            )
        if phase == "settle":
            return len(side.closed - self.settled) >= self.place.custodies
        return phase == "withdraw" and side.withdrawn

    def may_reach_more(self, side: Side, phase: str) -> bool:
        """A point of this phase was never reached in any round, and the phase is not over."""
        return bool(self.missed(side, phase)) and not self.idle(side, phase)

    def bury(self, side: Side) -> None:
        """Read the last words of a life that is over, and account for it."""
        _, status = os.waitpid(side.pid, 0)
        self.hear(side)
        os.close(side.pipe)
        side.pid, side.pipe = 0, -1
        side.done.update(side.last_done)
        if not os.WIFSIGNALED(status) or os.WTERMSIG(status) != signal.SIGKILL:
            raise StormFailed(f"the {side.name} ended by itself ({status})")

    def hear(self, side: Side) -> bool:
        """Take in what a life says; False at its end."""
        alive = True
        while True:
            try:
                said = os.read(side.pipe, 65_536)
            except BlockingIOError:
                break
            if not said:
                alive = False
                break
            side.unread += said
        *lines, side.unread = side.unread.split(b"\n")
        for line in lines:
            said = json.loads(line)
            if "fault" in said:
                raise StormFailed(f"{side.name}, life {side.life} ({side.task}): {said['fault']}")
            if "born" in said:
                slowed = (time.monotonic() - side.forked) / BORN_S
                self.slowed += (min(max(slowed, 1.0), MOST_SLOWED) - self.slowed) / 8
            side.hit = said.get("hit", side.hit)
            side.standing = said.get("health", side.standing)
            side.closed |= set(said.get("closed", ()))
            side.last_done = said.get("done", side.last_done)
            side.withdrawn |= said.get("withdrawn", False)
        return alive

    def kill(self, side: Side) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(side.pid, signal.SIGKILL)
        self.bury(side)

    def listen(self, until: float) -> list[Side]:
        """Hear all lives until a time or until one has ended; those that have."""
        with selectors.DefaultSelector() as selector:
            for side in self.sides.values():
                if side.pipe >= 0:
                    selector.register(side.pipe, selectors.EVENT_READ, side)
            ready = selector.select(max(0.0, until - time.monotonic()))
            return [key.data for key, _ in ready if not self.hear(key.data)]

    # --- storm and peace --------------------------------------------------------------------

    def blow(self, phase: str, kills: int) -> None:
        """Kill each side that many times."""
        goals = {side.name: side.kills + kills for side in self.sides.values()}
        aims = self.wants_all_points and self.round == self.rounds
        spare = dict.fromkeys(SIDES, EXTRA if aims else 0)
        while True:
            for side in self.sides.values():
                reached = not side.pid and side.kills >= goals[side.name]
                if reached and spare[side.name] and self.may_reach_more(side, phase):
                    goals[side.name] += 1
                    spare[side.name] -= 1
            if all(side.kills >= goals[side.name] for side in self.sides.values()):
                break
            for side in self.sides.values():
                if not side.pid:
                    self.bear(side, phase, calm=side.kills >= goals[side.name])
            ended = self.listen(
                min(time.monotonic() + 1, *(side.deadline for side in self.sides.values()))
            )
            for side in self.sides.values():
                if side in ended:
                    self.bury(side)
                    if not side.hit:
                        raise StormFailed(f"the {side.name} was killed by somebody else")
                    side.hits[side.hit] += 1
                elif side.deadline <= time.monotonic() or (
                    side.task and not side.task.calm and self.idle(side, phase)
                ):
                    self.kill(side)
                    if side.hit:
                        side.hits[side.hit] += 1
                    else:
                        side.instants += 1
                        self.put_back(side, phase)
                else:
                    continue
                self.judge.look()
        for side in self.sides.values():
            if side.pid:
                self.kill(side)
        self.judge.look()

    def calm(self, phase: str) -> None:
        """Both run in peace until they agree on everything; then both are put down."""
        for side in self.sides.values():
            self.bear(side, phase, calm=True)
        began, waiting = time.monotonic(), ""
        while True:
            if self.listen(time.monotonic() + 0.2):
                raise StormFailed("a life ended in peace")
            waiting = self.disagreement(phase)
            if not waiting:
                break
            waited_s = time.monotonic() - began
            if waited_s > LET_PASS_S and phase == "settle" and not self.offset_s:
                # A signature that never left keeps its notes until its deadline: let it pass.
                self.forward(2_700)
                self.calm(phase)
                return
            if waited_s > CALM_S:
                raise StormFailed(f"no agreement after {CALM_S:.0f} s of peace: {waiting}")
        for side in self.sides.values():
            self.kill(side)
        self.judge.look()
        self.judge.same(self.settled)
        print(
            f"  round {self.round}, {phase}: agreed after {time.monotonic() - began:.1f} s;"
            f" kills so far {[side.kills for side in self.sides.values()]},"
            f" frames {len(self.judge.digests)}",
            flush=True,
        )

    def forward(self, seconds: int) -> None:
        for side in self.sides.values():
            if side.pid:
                self.kill(side)
        self.offset_s += seconds
        apart(partial(trio.run, set_forward, self.place.rpc, seconds))

    def disagreement(self, phase: str) -> str:
        """What is still missing for peace; empty where nothing is."""
        near, far = (self.sides[name].standing for name in SIDES)
        both = [self.sides[name].closed - self.settled for name in SIDES]
        wanted = self.place.custodies
        if phase == "settle":
            if any(len(closed) < wanted for closed in both):
                return f"closed {[len(closed) for closed in both]} of {wanted}: {near} {far}"
            self.settled |= both[0] & both[1]
            return ""
        if phase == "withdraw":
            missing = [side.name for side in self.sides.values() if not side.withdrawn]
            return f"not withdrawn: {missing}" if missing else ""
        if len(near) < wanted or set(near) - set(far):
            return f"{len(near)} sessions there, {len(far)} here, of {wanted}"
        for custody, ours in near.items():
            if ours != far[custody]:
                return f"they differ: {ours} {far[custody]}"
            if ours["state"] != "trading" or not ours["synced"] or not ours["flat"]:
                return f"not at rest: {ours}"
        return ""

    # --- the end ----------------------------------------------------------------------------

    @property
    def wants_all_points(self) -> bool:
        return self.kills >= ENOUGH and not self.short

    def points_missed(self) -> dict[str, list[str]]:
        """The points of all phases at which nobody was killed, by side."""
        missed = {
            name: sorted(set().union(*(self.missed(side, phase) for phase in SHARES)))
            for name, side in self.sides.items()
        }
        return {name: points for name, points in missed.items() if points}

    @staticmethod
    def missed(side: Side, phase: str) -> set[str]:
        return set(POINTS[phase][side.name]) - set(side.hits)

    def count_tokens(self) -> None:
        """What came in is what is there: in the portal, or paid out, once each."""
        place, file = self.place, self.place.home / "balances"
        owners = [*SIDES, "relayer"]
        addresses = [
            place.deployment.portal,
            *(place.wallet(name).address for name in owners),
            *(place.recipient(name) for name in SIDES),
        ]
        apart(partial(trio.run, balances, place.rpc, place.deployment, addresses, file))
        portal, trader, solver, relayer, *paid = map(int, file.read_text().split())
        deposited = DEPOSIT * self.rounds
        funds = stage_units(self.rounds)
        if (trader, solver) != (funds - deposited, funds - deposited):
            raise StormFailed(f"a deposit was made twice or not at all: {trader}, {solver} left")
        if not self.short:
            for amount in paid:
                if not 122 * UNIT <= amount <= 123 * UNIT:
                    raise StormFailed(f"a withdrawal was paid {amount}, not once")
        if portal + relayer + sum(paid) != 2 * deposited:
            raise StormFailed(
                f"tokens are missing: {portal} + {relayer} + {paid}, deposited {2 * deposited}"
            )


def stage_units(rounds: int) -> int:
    return DEPOSIT * (rounds + 2)


HELD: Final[list[socket.socket]] = []


def free_port() -> int:
    """A port that stays bound, so that the system gives it to nobody between two lives."""
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    one.bind(("127.0.0.1", 0))
    HELD.append(one)
    return int(one.getsockname()[1])


def storm(seed: int, kills: int, rounds: int, custodies: int, *, short: bool, keep: bool) -> None:
    home = Path(tempfile.mkdtemp(prefix="storm-"))
    began = time.monotonic()
    print(f"crash storm, SEED={seed}, {kills} kills of each side in {rounds} rounds", flush=True)
    ended = False
    try:
        with open_chain() as url:
            (home / "trader").mkdir()
            (home / "solver").mkdir()
            file = home / "deployment.json"
            bare = Place(home, url, None, free_port(), custodies, seed)  # type: ignore[arg-type]
            wallets = [bare.wallet(name) for name in SIDES]
            apart(partial(trio.run, prepare, url, file, wallets, stage_units(rounds)))
            deployment = Deployment.load(file)
            place = Place(home, url, deployment, bare.port, custodies, seed)
            relayer = os.fork()
            if relayer == 0:
                try:
                    trio.run(
                        relay, url, home / "relayer", deployment, place.wallet("relayer"),
                        free_port(),
                    )  # fmt: skip
                finally:
                    os._exit(1)
            while not (home / "relayer" / "ready").exists():
                time.sleep(0.05)
            blowing = Storm(place, seed, kills, rounds, short=short)
            try:
                blowing.run()
                blowing.count_tokens()
                missed = blowing.points_missed() if blowing.wants_all_points else {}
                if missed:
                    raise StormFailed(f"points that nobody was killed at: {missed}")
                ended = True
            finally:
                for side in blowing.sides.values():
                    if side.pid:
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(side.pid, signal.SIGKILL)
                            os.waitpid(side.pid, 0)
                # It holds the chain's lifeline too, and must not outlive the block.
                os.kill(relayer, signal.SIGKILL)
                os.waitpid(relayer, 0)
                show(blowing, time.monotonic() - began)
    finally:
        if ended and not keep:
            shutil.rmtree(home, ignore_errors=True)
        else:
            print(f"what was left behind: {home}", flush=True)


def show(blowing: Storm, took_s: float) -> None:
    for name, side in blowing.sides.items():
        print(f"\n{name}: killed {side.kills} times, {side.instants} of them at random instants")
        for point in sorted(side.hits):
            print(f"  {side.hits[point]:5}  {point}")
        print(f"  did: {dict(sorted(side.done.items()))}")
    judge = blowing.judge
    print(
        f"\n{len(judge.digests)} frames, {judge.tapped} on the wire, in"
        f" {len({key[0] for key in judge.digests})} custodies; {took_s:.0f} s"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kills", type=int, default=1000, help="of each side")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--custodies", type=int, default=2, help="at a time")
    parser.add_argument("--short", action="store_true", help="no settlement, no withdrawal")
    parser.add_argument("--keep", action="store_true", help="keep journals and notes")
    given = parser.parse_args()
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1)
    import_all()
    gc.freeze()
    try:
        storm(
            given.seed,
            given.kills,
            given.rounds,
            given.custodies,
            short=given.short,
            keep=given.keep,
        )
    except StormFailed as failed:
        print(f"\nSEED={given.seed}: {failed}", flush=True)
        return 1
    print(f"SEED={given.seed}: nothing was lost, nothing was signed twice")
    return 0


if __name__ == "__main__":
    sys.exit(main())
