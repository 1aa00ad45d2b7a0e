"""The command line: `psymm …`. Each command group is a module here, loaded when it is used.

Theory of operation. `main` prepares the process (`streams`, core dumps, signals), `run` runs one
command. Every end of a command becomes one exit code and at most one error line: `exit_report`
maps an error to a code of `exit_status` and to words. So no traceback reaches a user, and no text
of a foreign exception, which could contain a secret.

A command has three phases:
    1. everything that was typed is checked, then that wallet, deployment and node are known
       (`chain_context.expect_ready`); only then is the password asked for
    2. earlier moves that are under way are continued and reported (`earlier.finish_earlier`)
    3. the cost is shown and confirmed (`output.confirm_cost`), and the command's own work starts

Who calls whom: the commands (`deposit`, `trade`, `solver`, …) use `options` for shared options,
`output.Screen` for everything that they print, `chain_context` and `funds` to open chain and vault,
`daemon` to run until a signal. `remedies` and `left` add the next command to an error.

Durable when: the command line itself keeps nothing but the files of `data_dir`. Vault, journal and
outbox record each step before it has an effect, so a command can be killed at any time and
repeated. SIGINT, SIGTERM and SIGHUP end a command in order; a second signal ends it at once.
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
"""The delay until an interrupt that Python dropped is raised again."""

_COMMANDS: dict[str, tuple[str, str]] = {
    "devnet": ("psymm.cli.devnet", "A development chain on this machine."),
    "deploy": ("psymm.cli.deploy", "Deploy pSymm to a chain, or check a deployment."),
    "wallet": ("psymm.cli.wallet", "The wallet's keystore."),
    "registry": ("psymm.cli.registry", "Parties, their roles and endpoints."),
    "deposit": ("psymm.cli.deposit", "Put tokens into the wallet's own private custody."),
    "solver": ("psymm.cli.solver", "Run a market maker."),
    "trade": ("psymm.cli.trade", "Find a solver, fund, trade and settle."),
    "relayer": ("psymm.cli.relayer", "Run a relayer."),
    "oracle": ("psymm.cli.oracle", "Run one signer of a price oracle."),
    "notes": ("psymm.cli.notes", "The notes that the wallet owns."),
    "withdraw": ("psymm.cli.withdraw", "Pay tokens out, in parts, to any addresses."),
    "key": ("psymm.cli.key", "Session keys: list them, revoke them on chain."),
    "journal": ("psymm.cli.journal", "Check, back up, repair, archive and prune the journal."),
    "transcript": ("psymm.cli.transcript", "Show and verify transcripts."),
    "docs": ("psymm.cli.docs", "The pages that came with this psymm, and examples."),
    "tools": ("psymm.cli.tools", "Node tools for proving and the devnet."),
}


class _Root(Group):
    """Lists every command, but imports a command's module only when it runs."""

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

    Each wallet has a directory of its own, --home. With --json, commands print JSON lines.
    """


def main() -> None:
    """Run the command line and end the process."""
    # Before anything else. A file opened earlier could get the number of a closed stream, and a key
    # must not be in memory while a core dump is allowed.
    prepare_streams()
    forbid_core_dumps()
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # else nohup, or a parent, wants it ignored
            signal.signal(number, _interrupt)
    # The timer that `_dropped` sets.
    signal.signal(signal.SIGALRM, _interrupt)
    sys.unraisablehook = _dropped
    try:
        code = run(sys.argv[1:])
    except KeyboardInterrupt:
        code = int(Exit.INTERRUPTED)  # a second interrupt, while the first was being reported
    # The command has finished; an interrupt now would only add a traceback.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
        signal.signal(number, signal.SIG_IGN)
    # Python remembers an interrupt that passed through code compiled from a string, as importing a
    # dataclass is. Then `python -m psymm` would kill itself at exit, although the interrupt was
    # caught. Compiling and running any other string makes Python forget it.
    exec("")  # noqa: S102
    sys.exit(code)


def _interrupt(_number: int, _frame: object) -> None:
    """SIGTERM and SIGHUP end a command like SIGINT: in order, and everything under way is kept."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        raise KeyboardInterrupt
    # Trio turns SIGINT into a KeyboardInterrupt at a safe point.
    signal.raise_signal(signal.SIGINT)


def _dropped(what: sys.UnraisableHookArgs) -> None:
    """Raise an interrupt again that Python dropped because it came inside a finalizer or an import
    lock. Otherwise the command would keep waiting."""
    if issubclass(what.exc_type, KeyboardInterrupt):
        signal.setitimer(signal.ITIMER_REAL, AGAIN_S)
    else:
        sys.__unraisablehook__(what)


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code. Raises nothing."""
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
        f"The command finished, but its output could not be written: {reason}.",
        Exit.OUTPUT,
        {},
    )
    return int(Exit.OUTPUT)
