"""Runs the demo: `python -m psymm.demo`."""

from __future__ import annotations

import os
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import trio

from psymm.cli.exit_status import leaves
from psymm.demo.play import play
from psymm.demo.stage import DemoError, Stage


def main() -> int:
    """Run the demo and return its exit code."""
    text = os.environ.get("SEED", "1")
    if not text.isdigit():
        print("SEED must be a whole number", file=sys.stderr)
        return 2
    runs = Path(os.environ.get("PSYMM_RUNS", "runs")).resolve()
    runs.mkdir(parents=True, exist_ok=True)
    # Two demos may start in the same second. The directory gets mode 0700.
    home = Path(tempfile.mkdtemp(prefix=f"{datetime.now(UTC):%Y%m%d-%H%M%S}-", dir=runs))
    stage = Stage(home)
    print(f"pSymm: a private trade, from discovery to withdrawal. SEED={text}, files in {home}")
    code = 0
    try:
        trio.run(play, stage, int(text))
    except* DemoError as failed:
        code = 1
        for error in leaves(failed):
            print(f"\n  FAILED: {error}\n  Logs: {home}/*.log", file=sys.stderr)
    except* KeyboardInterrupt:
        code = 130
        print("\n  Interrupted; every process was ended.", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
