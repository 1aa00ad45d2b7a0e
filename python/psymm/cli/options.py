"""Options that commands share, and the classes of all commands and groups.

The --help of a `Command` ends with the exit codes. The decorators turn options into objects: --json
into a `Screen`, --home into a `DataDir`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar

import click

from psymm.cli.data_dir import DataDir, default_data_dir
from psymm.cli.exit_status import EPILOG, CommandError, Exit
from psymm.cli.output import Screen
from psymm.errors import JournalError

P = ParamSpec("P")
R = TypeVar("R")


class Command(click.Command):
    """A command whose help ends with the table of exit codes, and that accepts --password-fd."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _take_password_fd(self)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except CommandError as error:
            # If a usage error does not name a command to run, point to the help.
            if error.exit is Exit.USAGE and "`" not in error.message:
                error.add_note(f"Next: `{ctx.command_path} --help`.")
            raise

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        self.epilog = EPILOG
        super().format_epilog(ctx, formatter)


class Group(click.Group):
    """A group all of whose commands are `Command`s."""

    command_class = Command
    group_class = type

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.invoke_without_command:
            _take_password_fd(self)


def _take_password_fd(command: click.Command) -> None:
    """Let scripts give --password-fd to every command; one without a password ignores it."""
    if not any(one.name == "password_fd" for one in command.params):
        command.params.append(
            click.Option(
                ["--password-fd"],
                type=click.IntRange(min=0),
                metavar="N",
                expose_value=False,
                help="Ignored: this command needs no password.",
            )
        )


def json_option(function: Callable[P, R]) -> Callable[P, R]:
    """Add --json; the command gets `screen`."""

    @click.option("--json", "as_json", is_flag=True, help="JSON lines on standard output.")
    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        as_json = bool(kwargs.pop("as_json"))
        context = click.get_current_context()
        screen = Screen(as_json)
        context.find_root().obj = screen
        kwargs["screen"] = screen
        return function(*args, **kwargs)

    return wrapper


def home_option(function: Callable[P, R]) -> Callable[P, R]:
    """Add --home; the command gets `home`."""

    @click.option(
        "--home",
        "home_path",
        type=click.Path(file_okay=False, path_type=Path),
        default=None,
        help="The party's directory: keystore, journal, notes, deployment. "
        "[default: $PSYMM_HOME, else psymm/home under the user's data directory]",
    )
    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        chosen = kwargs.pop("home_path")
        home = DataDir(chosen if isinstance(chosen, Path) else default_data_dir())
        kwargs["home"] = home
        try:
            return function(*args, **kwargs)
        except JournalError as error:
            if error.values.get("path") == home.journal and not home.journal.exists():
                from psymm.cli.remedies import no_journal

                error.add_note(no_journal(home))
            raise

    return wrapper


def password_option(function: Callable[P, R]) -> Callable[P, R]:
    """Add --password-fd; the command gets `password_fd`."""
    return click.option(
        "--password-fd",
        type=click.IntRange(min=0),
        default=None,
        metavar="N",
        help="Read the keystore's password from descriptor N instead of the terminal.",
    )(function)


def yes_option(function: Callable[P, R]) -> Callable[P, R]:
    """Add --yes; the command gets `yes`."""
    return click.option(
        "--yes", is_flag=True, help="Do not ask before money moves (for daemons and scripts)."
    )(function)


def deployment_option(function: Callable[P, R]) -> Callable[P, R]:
    """Add --deployment; the command gets `deployment_file` (None: the home's)."""
    return click.option(
        "--deployment",
        "deployment_file",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        default=None,
        help="The file that `psymm deploy` wrote. [default: deployment.json in the home]",
    )(function)


def rpc_option(function: Callable[P, R]) -> Callable[P, R]:
    """Add --rpc and --agree; the command gets `rpc_url`, with all addresses in the form of `Rpc`
    (None: the home's)."""

    @click.option(
        "--rpc",
        "rpc_urls",
        multiple=True,
        metavar="URL",
        help="The chain's JSON-RPC endpoint. May be repeated: if one does not answer, the next is "
        "asked. The home remembers the first one, or one given with --deployment. "
        "[default: the home's, else $PSYMM_RPC]",
    )
    @click.option(
        "--agree",
        is_flag=True,
        help="With two or more --rpc: two nodes must agree on everything that money depends on.",
    )
    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        urls, agree = kwargs.pop("rpc_urls"), kwargs.pop("agree")
        given = list(urls) if isinstance(urls, tuple) else []
        if agree and len(given) < 2:
            raise click.UsageError("--agree needs two --rpc or more")
        kwargs["rpc_url"] = " ".join(["agree", *given] if agree else given) or None
        return function(*args, **kwargs)

    return wrapper


def private_option(function: Callable[P, R]) -> Callable[P, R]:
    """Add --private-endpoints; the command gets `private` (None: on the development chain)."""
    return click.option(
        "--private-endpoints",
        "private",
        is_flag=True,
        flag_value=True,
        default=None,
        help="Also connect to others' endpoints on this machine or a local network. "
        "[default: only on the development chain]",
    )(function)


def listen_option(port: int) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Add --listen and --endpoint; the command gets `listen` (host, port) and `endpoint`."""

    def add(function: Callable[P, R]) -> Callable[P, R]:
        function = click.option(
            "--endpoint",
            default=None,
            metavar="URL",
            help="The address at which others reach this service. [default: that of --listen]",
        )(function)
        return click.option(
            "--listen",
            default=f"127.0.0.1:{port}",
            show_default=True,
            metavar="HOST:PORT",
            callback=host_and_port,
            help="Where to listen; port 0 takes a free one.",
        )(function)

    return add


def metrics_option(function: Callable[P, R]) -> Callable[P, R]:
    """Add --metrics; the command gets `metrics` (host, port), or None."""
    return click.option(
        "--metrics",
        default=None,
        metavar="HOST:PORT",
        callback=host_and_port,
        help="Serve Prometheus metrics at http://HOST:PORT/metrics. Anybody who reaches it can "
        "read them, so give a loopback address. Port 0 takes a free one. [default: no metrics]",
    )(function)


_LONGEST_S: Final = 366 * 86_400.0


def finite_seconds(
    _context: click.Context, _option: click.Parameter, value: float | None
) -> float | None:
    """The callback of an option in seconds: refuses NaN and more than a year."""
    if value is not None and not value <= _LONGEST_S:
        raise click.BadParameter("give a number of seconds, at most a year")
    return value


def host_and_port(
    _context: click.Context, _option: click.Parameter, text: str | None
) -> tuple[str, int] | None:
    """The callback of an option HOST:PORT; None if it is not given."""
    if text is None:
        return None
    host, _, port = text.rpartition(":")
    if not host or not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65_535:
        raise click.BadParameter("write it like 127.0.0.1:9200")
    return host.strip("[]"), int(port)
