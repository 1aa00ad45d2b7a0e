"""The exit codes of `psymm`. Scripts rely on them, so a code never changes its meaning.

Every command prints the table below in its --help; `exit_report` maps errors to codes.
"""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes, one for each kind of failure that a script would handle differently."""

    OK = 0
    REFUSED = 1
    USAGE = 2
    CHAIN = 3
    PROOF = 4
    PEER = 5
    KEYSTORE = 6
    JOURNAL = 7
    FUNDS = 8
    TOOLS = 9
    MACHINE = 10
    OUTPUT = 11
    INTERNAL = 70
    INTERRUPTED = 130


MEANINGS: dict[Exit, str] = {
    Exit.OK: "done",
    Exit.REFUSED: "refused: by you, by the other party, or by a rule",
    Exit.USAGE: "the command line or a file given on it is wrong",
    Exit.CHAIN: "the chain is down, is another one, or reverted",
    Exit.PROOF: "a proof could not be made or does not verify",
    Exit.PEER: "no party answers, or one broke the protocol",
    Exit.KEYSTORE: "keystore missing or damaged, or password wrong",
    Exit.JOURNAL: "journal, store or transcript missing, locked or damaged",
    Exit.FUNDS: "not enough tokens, notes, allowance or gas",
    Exit.TOOLS: "Node or the npm tools are missing (psymm tools install)",
    Exit.MACHINE: "the system refuses: disk full or read-only, file not allowed, no memory",
    Exit.OUTPUT: "the command finished, but its output could not be written",
    Exit.INTERNAL: "a bug in psymm; please report it",
    Exit.INTERRUPTED: "interrupted (SIGINT, SIGTERM or SIGHUP); work under way is kept",
}

EPILOG = "\b\nExit codes:\n" + "\n".join(
    f"  {int(code):>3}  {meaning}" for code, meaning in MEANINGS.items()
)


class CommandError(Exception):
    """A command failed; carries its exit code and a stable name.

    Args:
        code: lower-case words joined by hyphens, stable, for programs.
        message: one or two sentences for a person: what happened, and what to do about it.
        exit: the code with which the process ends.
        values: what caused it, JSON-able, never a secret.
    """

    def __init__(
        self,
        code: str,
        message: str,
        exit: Exit = Exit.REFUSED,
        **values: str | int | float | bool | None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.exit = exit
        self.values = values


def leaves(error: BaseException) -> list[BaseException]:
    """The errors inside an exception group, in order; the error itself if it is none."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in leaves(inner)]
    return [error]


def holds(error: BaseException, *kinds: type[BaseException]) -> bool:
    """Whether an error, or one inside an exception group, is of one of these types."""
    return any(isinstance(leaf, kinds) for leaf in leaves(error))
