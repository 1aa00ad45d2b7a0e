"""The prover: a resident Node process that makes proofs from witnesses, over a pipe.

Witnesses are secret.  They go to the process's standard input and nowhere else: not into a file, an
argument, the environment, a log or an error.
"""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import trio

from psymm.chain.artifacts import ARTIFACTS, node_program, tools_directory
from psymm.chain.errors import ToolsMissing
from psymm.custody.crs import crs_path
from psymm.custody.errors import (
    CrsInvalid,
    ProverFailed,
    ProverMissing,
    Unprovable,
)
from psymm.storage import FileUnavailable, storage_error
from psymm.strict_json import loads

log = logging.getLogger(__name__)

SLOW_S: Final = 60.0
"""After this time without output from the process, a warning is logged."""
MAX_LINE_BYTES: Final = 4 * 1024 * 1024
_NODE_AT_LEAST: Final = (20, 11)


@dataclass(frozen=True, slots=True)
class Proof:
    """A proof and the time that it took.

    Attributes:
        public_inputs: 32 bytes each, in the circuit's order.
    """

    proof: bytes
    public_inputs: tuple[bytes, ...]
    witness_ms: int
    prove_ms: int


class Prover:
    """Makes proofs one at a time; tasks that share it queue up.  Use in `async with`.

    The process starts with the first proof, or with `start`, and again after it died.  A proof has
    no time limit, because its time depends on the machine and a dead process is noticed.  To stop
    waiting, cancel.
    """

    def __init__(self) -> None:
        self._process: trio.Process | None = None
        self._heard = bytearray()
        self._next_id = 0
        self._lock = trio.Lock()

    def __repr__(self) -> str:
        return f"Prover({'running' if self._running else 'stopped'})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    @property
    def _running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None and self._running else None

    async def start(self) -> None:
        """Start the process now rather than with the first proof.

        Raises ProverMissing, CrsInvalid, ProverFailed.
        """
        async with self._lock:
            await self._start()

    async def prove(self, circuit: str, inputs: dict[str, Any], expected: list[bytes]) -> Proof:
        """A proof for a circuit, "ctc" or "cta".

        Args:
            inputs: each parameter of the circuit by name, in the JSON form of its ABI.
            expected: the public inputs that the proof must have.

        Raises Unprovable, ProverFailed, ProverMissing, CrsInvalid.  Cancelled: raises Cancelled and
        ends the process; the next proof starts a new one.
        """
        async with self._lock:
            for attempt in (1, 2):
                await self._start()
                try:
                    answer = await self._ask(circuit, inputs)
                    break
                except _Died:
                    # It may have been killed between two proofs. A proof that kills it twice is
                    # bad.
                    if attempt == 2:
                        raise ProverFailed("its process died") from None
        error = answer.get("error")
        if isinstance(error, dict):
            raise self._refusal(circuit, error)
        try:
            proof = bytes.fromhex(answer["proof"].removeprefix("0x"))
            shown = tuple(_word(one) for one in answer["publicInputs"])
            made = Proof(proof, shown, int(answer["witness_ms"]), int(answer["prove_ms"]))
        except (KeyError, ValueError, TypeError, AttributeError):
            raise ProverFailed("its answer is not a proof") from None
        # The contract computes the public inputs itself, so a proof of others would only fail
        # there.
        if list(shown) != list(expected):
            raise ProverFailed("it proved other public values than those asked for")
        if not proof or len(proof) % 32:
            raise ProverFailed("its proof has an impossible length")
        return made

    async def aclose(self) -> None:
        """End the process.  Not cut short by cancellation; takes at most a few seconds."""
        with trio.CancelScope(shield=True):
            await self._stop()

    # --- parts --------------------------------------------------------------------------------

    async def _end(self) -> None:
        """End the process and its unfinished proof.  Not cut short by cancellation."""
        if self._process is not None and self._running:
            # At the end of its input the process would first finish the proof that nobody waits
            # for.
            self._process.terminate()
        await self.aclose()

    async def _start(self) -> None:
        if self._running:
            return
        await self._stop()
        node, script = await _installed()
        circuits = ARTIFACTS / "circuits"
        if not (circuits / "ctc.json").exists():
            raise ProverMissing(str(circuits))
        environment = {**os.environ, "PSYMM_CIRCUITS": str(circuits)}
        crs = await crs_path()
        if crs is not None:
            environment["CRS_PATH"] = str(crs)
        self._heard.clear()
        try:
            self._process = await trio.lowlevel.open_process(
                [node, str(script)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                # Its error output could quote the witness.
                stderr=subprocess.DEVNULL,
                # A Ctrl-C goes to every process of the terminal's foreground group. This one ends
                # when its input does, after the command has decided what to do about its move.
                start_new_session=True,
                env=environment,
            )
        except OSError as failed:
            refused = storage_error(Path(node), failed)
            if refused is not None and not isinstance(refused, FileUnavailable):
                raise refused from None
            raise ProverMissing(failed.strerror or "Node does not start") from None
        try:
            first = await self._line()
        except _Died:
            await self.aclose()
            raise ProverFailed("it ended before it was ready") from None
        except BaseException:
            await self._end()
            raise
        if first.get("ready") is not True:
            await self.aclose()
            error = first.get("error")
            raise self._refusal("start", error if isinstance(error, dict) else {})

    async def _stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        try:
            if process.stdin is not None:
                await process.stdin.aclose()
            with trio.move_on_after(2):
                await process.wait()
            if process.returncode is None:
                process.kill()
                await process.wait()
        finally:
            if process.stdout is not None:
                await process.stdout.aclose()

    async def _ask(self, circuit: str, inputs: dict[str, Any]) -> dict[str, Any]:
        assert self._process is not None  # noqa: S101 - just started
        assert self._process.stdin is not None  # noqa: S101 - asked for when it was started
        self._next_id += 1
        number = self._next_id
        line = json.dumps({"id": number, "circuit": circuit, "inputs": inputs}).encode() + b"\n"
        try:
            await self._process.stdin.send_all(line)
            answer = await self._line()
            if answer.get("id") != number:
                raise ProverFailed("its answer belongs to another request")
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise _Died from None
        except BaseException:
            # A half-written line or an unread answer would corrupt the next proof.
            await self._end()
            raise
        return answer

    async def _line(self) -> dict[str, Any]:
        assert self._process is not None  # noqa: S101 - running
        assert self._process.stdout is not None  # noqa: S101 - asked for when it was started
        while True:
            end = self._heard.find(b"\n")
            if end >= 0:
                line = bytes(self._heard[:end])
                del self._heard[: end + 1]
                try:
                    answer = loads(line)
                except ValueError:
                    raise ProverFailed("its output is not JSON") from None
                if not isinstance(answer, dict):
                    raise ProverFailed("its output is not a JSON object")
                return answer
            piece: bytes | bytearray = b""
            with trio.move_on_after(SLOW_S) as slow:
                piece = await self._process.stdout.receive_some()
            if slow.cancelled_caught:
                log.warning("prover-slow", extra={"waited_s": SLOW_S})
                continue
            if not piece:
                await self.aclose()
                raise _Died
            self._heard += piece
            if len(self._heard) > MAX_LINE_BYTES:
                await self.aclose()
                raise ProverFailed("its answer is too long")

    @staticmethod
    def _refusal(circuit: str, error: dict[str, Any]) -> Exception:
        code, message = str(error.get("code", "")), str(error.get("message", ""))[:300]
        match code:
            case "unsatisfied":
                return Unprovable(circuit, message)
            case "no-crs":
                return CrsInvalid(message)
            case "tool-missing":
                return ProverMissing(message)
            case _:
                return ProverFailed(f"{code or 'unknown'}: {message}")


class _Died(Exception):
    """The process ended while we waited for its answer."""


_node_checked: set[str] = set()


async def _installed() -> tuple[str, Path]:
    """Node's path and the prover script's.  Raises ProverMissing naming what is missing."""
    try:
        node = node_program()
        place = tools_directory("@aztec/bb.js")
        tools_directory("@noir-lang/noir_js")
    except ToolsMissing as missing:
        raise ProverMissing(str(missing.detail)) from None
    script = place / "prover.mjs"
    if not script.exists():
        raise ProverMissing(str(script))
    if node not in _node_checked:
        said = await trio.run_process([node, "--version"], capture_stdout=True, check=False)
        found = re.match(rb"v(\d+)\.(\d+)", said.stdout or b"")
        if not found or (int(found[1]), int(found[2])) < _NODE_AT_LEAST:
            raise ProverMissing(
                f"Node {'.'.join(map(str, _NODE_AT_LEAST))} or later; "
                f"found {said.stdout.decode(errors='replace').strip()[:40]}"
            )
        _node_checked.add(node)
    return node, script


def _word(text: str) -> bytes:
    raw = bytes.fromhex(text.removeprefix("0x"))
    if len(raw) != 32:
        raise ValueError("not 32 bytes")
    return raw
