"""Runs one program and kills it when the parent process is gone.

It is started as `python reaper.py WORD PROGRAM ARGUMENT…` with a pipe on standard input.  The pipe
closes when the parent ends, even by SIGKILL, and then the program is killed.  The program's output
is passed on up to the line that holds WORD, and dropped after it.  Exits with the program's exit
code.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading


def main() -> None:
    word = sys.argv[1].encode()
    program = subprocess.Popen(  # noqa: S603 - this is what it is for
        sys.argv[2:],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        # A process group of its own, which `killpg` ends as a whole.
        start_new_session=True,
    )

    def follow() -> None:
        assert program.stdout is not None  # noqa: S101 - asked for above
        for line in program.stdout:
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()
            if word in line:
                break
        while program.stdout.read(65_536):
            pass
        code = program.wait()
        # The main thread waits in `os.read`; only this ends the process from here.
        os._exit(code if code >= 0 else 128 - code)

    threading.Thread(target=follow, daemon=True).start()
    # SystemExit is raised in the main thread, so `finally` kills the program.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        while os.read(0, 4096):
            pass
    except (KeyboardInterrupt, OSError):
        pass
    finally:
        # Its whole process group, so that its own children do not survive it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(program.pid, signal.SIGKILL)
        program.wait()


if __name__ == "__main__":
    main()
