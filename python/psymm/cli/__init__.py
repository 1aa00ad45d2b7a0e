"""The command line: `psymm …`. Each command group is a module here, loaded when it is used.

`main` is the entry point. Every way that a command can end is turned into one exit code and one
error line here (`exit_status` has the codes, `exit_report` decides which error has which), so no
traceback reaches a user and no exception's text is shown that is not meant to be.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from importlib import import_module

import click

from psymm.cli.exit_report import exit_report_of
from psymm.cli.exit_status import Exit
from psymm.cli.options import Group
from psymm.cli.output import Screen
from psymm.cli.streams import output_failure, prepare_streams
from psymm.cli.typed import TYPED
from psymm.private_files import forbid_core_dumps

AGAIN_S = 0.1
"""An interrupt that Python dropped is raised again after this time."""

_COMMANDS: dict[str, tuple[str, str]] = {
    "devnet": ("psymm.cli.devnet", "A development chain on this machine."),
    "deploy": ("psymm.cli.deploy", "Deploy pSymm to a chain, or check a deployment."),
    "wallet": ("psymm.cli.wallet", "The wallet's keystore."),
    "registry": ("psymm.cli.registry", "Parties, their roles and endpoints."),
    "deposit": ("psymm.cli.deposit", "Put tokens into one's own sole custody."),
    "solver": ("psymm.cli.solver", "Run a market maker."),
    "trade": ("psymm.cli.trade", "Find a solver, fund, trade and settle."),
    "relayer": ("psymm.cli.relayer", "Run a relayer."),
    "notes": ("psymm.cli.notes", "The notes that the wallet owns."),
    "withdraw": ("psymm.cli.withdraw", "Take tokens out, in parts, to any addresses."),
    "key": ("psymm.cli.key", "Session keys: list them, revoke them on chain."),
    "journal": ("psymm.cli.journal", "Check, back up, repair and thin out the journal."),
    "transcript": ("psymm.cli.transcript", "Show and verify transcripts."),
    "docs": ("psymm.cli.docs", "The pages that came with this psymm, and examples."),
    "tools": ("psymm.cli.tools", "Node tools for proving and the devnet."),
}


class _Root(Group):
    """Names every command, and imports a command's module only when it is run."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[TYPED] = tuple(args)
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, _ = _COMMANDS[cmd_name]
        command = getattr(import_module(module), cmd_name)
        if not isinstance(command, click.Command):
            raise TypeError(f"{module}.{cmd_name} is no command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


@click.group(cls=_Root, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="psymm")
def psymm() -> None:
    """Private, symmetric OTC derivatives between two parties, with nobody between them.

    Everything of one wallet lives in its --home. With --json, commands print JSON lines.
    """


def main() -> None:
    """Runs the command line of this process and ends it."""
    prepare_streams()
    forbid_core_dumps()
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # else nohup, or a parent, wants it ignored
            signal.signal(number, _interrupt)
    signal.signal(signal.SIGALRM, _interrupt)
    sys.unraisablehook = _dropped
    try:
        code = run(sys.argv[1:])
    except KeyboardInterrupt:
        code = int(Exit.INTERRUPTED)  # a second one, while the first was being told
    # The command is through; an interrupt now would only add a traceback.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
        signal.signal(number, signal.SIG_IGN)
    # An interrupt that passed through code made from a string (a dataclass is, while its module is
    # imported) is remembered: `python -m psymm` would kill itself at exit although it was caught.
    # The next such code makes Python forget.
    exec("")  # noqa: S102
    sys.exit(code)


def _interrupt(_number: int, _frame: object) -> None:
    """SIGTERM and SIGHUP end a command as SIGINT does: in order, and what is under way is kept."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        raise KeyboardInterrupt
    # Trio delivers a SIGINT where it does no harm.
    signal.raise_signal(signal.SIGINT)


def _dropped(what: sys.UnraisableHookArgs) -> None:
    """An interrupt that came inside a finalizer or an import's lock is dropped by Python. It is
    raised again in a moment, when that is over; else the command would wait on."""
    if issubclass(what.exc_type, KeyboardInterrupt):
        signal.setitimer(signal.ITIMER_REAL, AGAIN_S)
    else:
        sys.__unraisablehook__(what)


def run(arguments: Sequence[str]) -> int:
    """Runs one command and gives its exit code. Raises nothing."""
    screen = Screen("--json" in arguments)
    try:
        psymm.main(args=list(arguments), prog_name="psymm", standalone_mode=False)
    except BaseException as error:
        ending = exit_report_of(error)
        if ending.exit is not Exit.OK:
            screen.error(ending.code, ending.message, ending.exit, ending.values)
            if ending.trace:
                click.echo(ending.trace, err=True)
            return int(ending.exit)
    failed = output_failure()
    if failed is None:
        return int(Exit.OK)
    reason = "nobody reads it" if isinstance(failed, BrokenPipeError) else failed.strerror
    screen.error(
        "output",
        f"The command is through, but its output could not be written: {reason}.",
        Exit.OUTPUT,
        {},
    )
    return int(Exit.OUTPUT)
