"""A pytest plugin: the tests of one collection against many mutants, for `tools/mutants.py`.

    MUTANTS=names.json python -m pytest -p mutant_runner -n 0 tests/…

mutmut starts pytest anew for each mutant. Importing and collecting take longer than the tests that
find most mutants. So this collects once, and forks for each mutant:

1. Every test runs once without a mutant, to learn its CPU time and which functions it calls.
2. For each mutant a child runs the tests that call its function, until one fails. Tests that failed
   for other mutants of that function come first, then the quicker ones.

A child's limit is CPU time, so that a busy machine makes no mutant look killed. A line of JSON for
each mutant goes to `<names>.results` at once: its name, how it ended ("killed", "timeout",
"survived", "no tests"), and the test that killed it. Where a test cannot be set up, nothing is
known about its mutant, and the whole run fails.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
from collections import Counter, defaultdict
from pathlib import Path
from typing import Final

import pytest
from mutmut.mutation import trampoline

BROKEN: Final = "not set up: "
SPARE_S: Final = 10.0
"""CPU time that a child may take above three times what its tests took without a mutant."""
WALL: Final = 40
"""So many times its CPU limit a child may wait: for a sleep that never ends, or a busy machine."""


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


class Runner:
    def __init__(self, names: list[str], results: Path) -> None:
        self.names, self.results = names, results
        self.took: dict[str, float] = {}
        self.calls: dict[str, set[str]] = defaultdict(set)
        self.killers: dict[str, Counter[str]] = defaultdict(Counter)
        self.failed = ""
        self.pipe = -1

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        self._learn(session)
        if self.failed:
            raise session.Failed(f"without a mutant: {self.failed}")
        items = {item.nodeid: item for item in session.items}
        with self.results.open("a") as results:
            for name in self.names:
                how, killer = self._try(name, items)
                if killer.startswith(BROKEN):
                    raise session.Failed(killer)
                results.write(json.dumps([name, how, killer]) + "\n")
                results.flush()
        return True

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            if self.pipe >= 0:
                said = report.nodeid if report.when == "call" else f"{BROKEN}{report.longreprtext}"
                os.write(self.pipe, said.encode()[:4096])
                os._exit(0)
            self.failed = f"{report.nodeid}:\n{report.longreprtext}"

    def _learn(self, session: pytest.Session) -> None:
        hits: set[str] = set()
        trampoline.record_trampoline_hit = lambda name, **_: hits.add(name)
        trampoline.set_mutant_under_test("stats")
        for item in session.items:
            hits.clear()
            before = _cpu_s()
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
            if self.failed:
                return
            self.took[item.nodeid] = _cpu_s() - before
            for name in hits:
                self.calls[name].add(item.nodeid)

    def _try(self, name: str, items: dict[str, pytest.Item]) -> tuple[str, str]:
        function = name.rpartition("__mutmut_")[0]
        killers = self.killers[function]
        chosen = sorted(self.calls[function], key=lambda one: (-killers[one], self.took[one]))
        if not chosen:
            return "no tests", ""
        limit_s = SPARE_S + 3 * sum(self.took[one] for one in chosen)
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(read)
            self._child(name, [items[one] for one in chosen], write, limit_s)
        os.close(write)
        ready, _, _ = select.select([read], [], [], limit_s * WALL)
        said = os.read(read, 4096).decode() if ready else ""
        os.close(read)
        if not ready:
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        if said == "survived":
            return said, ""
        if said:
            killers[said] += 1
            return "killed", said
        return ("timeout", "") if os.WIFSIGNALED(status) else ("killed", "")

    def _child(self, name: str, items: list[pytest.Item], pipe: int, limit_s: float) -> None:
        self.pipe = pipe
        try:
            silence = os.open(os.devnull, os.O_WRONLY)
            os.dup2(silence, 1)
            os.dup2(silence, 2)
            resource.setrlimit(resource.RLIMIT_CPU, (int(limit_s) + 1, resource.RLIM_INFINITY))
            trampoline.set_mutant_under_test(name)
            for item in items:
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
            os.write(pipe, b"survived")
        finally:
            os._exit(0)


def pytest_configure(config: pytest.Config) -> None:
    names = Path(os.environ["MUTANTS"])
    runner = Runner(json.loads(names.read_text()), names.with_suffix(".results"))
    config.pluginmanager.register(runner, "mutants")
