"""Which exit code, name and message an error gives a command.

Every error of this package belongs to a family with an exit code. Any other error is a bug and is
reported as one: with its type and traceback, but not its text, which could contain a secret.
"""

from __future__ import annotations

import os
import re
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import click

from psymm.cli.exit_status import CommandError, Exit, leaves
from psymm.cli.output import Value
from psymm.errors import PSymmError
from psymm.storage import storage_error


@dataclass(frozen=True)
class ExitReport:
    """How a command ended.  trace: empty unless it was a bug."""

    exit: Exit
    code: str
    message: str
    values: Mapping[str, Value] = field(default_factory=dict)
    trace: str = ""


def exit_report_of(error: BaseException) -> ExitReport:
    """The report of an error: of a group, its gravest member's. The error's notes follow its
    message."""
    reports = [_of_one(leaf) for leaf in leaves(error)]
    # A bug must not hide behind another error, and an interrupt says nothing about what else went
    # wrong.
    bugs = [one for one in reports if one.exit is Exit.INTERNAL]
    found = (bugs or [one for one in reports if one.exit is not Exit.INTERRUPTED] or reports)[0]
    notes = notes_of(error)
    if not notes:
        return found
    message = found.message if found.message.endswith((".", "`")) else found.message + "."
    return replace(found, message=" ".join((message, *notes)))


def notes_of(error: BaseException) -> list[str]:
    """The notes of an error and of all errors inside it, each once."""
    found = list(getattr(error, "__notes__", ()))
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            found += notes_of(inner)
    if isinstance(error, click.Abort) and error.__cause__ is not None:
        found += notes_of(error.__cause__)  # click raises Abort from a KeyboardInterrupt
    return list(dict.fromkeys(found))


def _of_one(error: BaseException) -> ExitReport:
    if isinstance(error, CommandError):
        return ExitReport(error.exit, error.code, error.message, error.values)
    if isinstance(error, click.exceptions.Exit):
        return ExitReport(Exit(error.exit_code) if error.exit_code else Exit.OK, "exit", "")
    if isinstance(error, SystemExit):
        return ExitReport(
            Exit.OK if not error.code else Exit.INTERNAL, "exit", "the process was ended"
        )
    if isinstance(error, click.Abort | KeyboardInterrupt):
        return ExitReport(Exit.INTERRUPTED, "interrupted", "Interrupted.")
    if isinstance(error, click.ClickException):
        return ExitReport(Exit.USAGE, "usage", _usage(error))
    # No bug: the machine refused something that no module expected it to refuse.
    error = storage_error(None, error) or error
    if isinstance(error, PSymmError):
        code = _code(error)
        return ExitReport(family_of(type(error)), code, _words(error), _values(error))
    try:
        from psymm._core import CoreError
    except ImportError:
        pass
    else:
        if isinstance(error, CoreError):
            return ExitReport(Exit.JOURNAL, error.code, str(error))
    where = "".join(traceback.format_tb(error.__traceback__))
    words = f"A bug in psymm ({type(error).__name__}). Please report it with the lines below."
    # The text may contain a secret, so it is shown only on request.
    if os.environ.get("PSYMM_DEBUG"):
        where += f"{type(error).__name__}: {error}"
    return ExitReport(Exit.INTERNAL, "internal", words, {"type": type(error).__name__}, where)


def _usage(error: click.ClickException) -> str:
    """A usage error on one line, with the --help command."""
    said = " ".join(error.format_message().split()).rstrip(".")
    context = error.ctx if isinstance(error, click.UsageError) else None
    if context is None:
        return f"{said}."
    return f"{said}. Next: `{context.command_path} --help`."


def family_of(kind: type[BaseException]) -> Exit:
    """The exit code of an error type of this package."""
    from psymm import errors as base
    from psymm import storage
    from psymm.chain import errors as chain
    from psymm.chain.sync import TreeCorrupt
    from psymm.custody import errors as custody
    from psymm.relayer import errors as relayer

    # The first family that fits decides, so a subclass comes before its base.
    table: tuple[tuple[type[BaseException], Exit], ...] = (
        (TreeCorrupt, Exit.JOURNAL),
        (chain.ToolsMissing, Exit.TOOLS),
        (chain.ArtifactMissing, Exit.TOOLS),
        (chain.WalletWithoutGas, Exit.FUNDS),
        (chain.AllowanceTooLow, Exit.FUNDS),
        (chain.TokenBalanceTooLow, Exit.FUNDS),
        (chain.CallInvalid, Exit.REFUSED),
        (chain.TokenUnfit, Exit.REFUSED),
        (chain.PermitMissing, Exit.REFUSED),
        (chain.NodeAddressInvalid, Exit.USAGE),
        (chain.TokenUnlisted, Exit.USAGE),
        (chain.ChainError, Exit.CHAIN),
        (custody.FundsTooLow, Exit.FUNDS),
        (custody.ProverMissing, Exit.TOOLS),
        (custody.ProverError, Exit.PROOF),
        (custody.NoteStoreError, Exit.JOURNAL),
        (custody.CustodyError, Exit.REFUSED),
        (storage.StorageError, Exit.MACHINE),
        (storage.NoHome, Exit.USAGE),
        (base.WalletError, Exit.KEYSTORE),
        (base.JournalError, Exit.JOURNAL),
        (base.TranscriptFileError, Exit.JOURNAL),
        (base.NoSolver, Exit.PEER),
        (base.WrongParty, Exit.PEER),
        (base.NotRegistered, Exit.PEER),
        (base.PeerSilent, Exit.PEER),
        (base.Disconnected, Exit.PEER),
        (base.CertificateInvalid, Exit.USAGE),
        (base.PeerViolation, Exit.PEER),
        (base.PeerBehind, Exit.PEER),
        (base.Forked, Exit.PEER),
        (base.SessionError, Exit.REFUSED),
        (relayer.RelayerStoreError, Exit.JOURNAL),
        (relayer.RelayerConfigError, Exit.USAGE),
        (relayer.RelayerRefusal, Exit.REFUSED),
        (relayer.RelayerError, Exit.PEER),
    )
    return next((exit for family, exit in table if issubclass(kind, family)), Exit.REFUSED)


def _code(error: PSymmError) -> str:
    """The error's own code, or its type's name if it has none."""
    if error.code != PSymmError.code:
        return str(error.code)
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", type(error).__name__).lower()


def _words(error: PSymmError) -> str:
    text = str(error)
    return text.removeprefix(f"{error.code}: ")


def _values(error: PSymmError) -> dict[str, Value]:
    return {
        # Numbers above 2^53 are not exact for every JSON reader.
        name: str(value)
        if name in error.amounts or name.endswith("_wei")
        else value
        if isinstance(value, str | int | float | bool | bytes) or value is None
        else str(value)
        for name, value in error.values.items()
    }
