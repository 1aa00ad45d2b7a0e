"""TLS options: a daemon's certificate, and the authority that a client trusts.

A key's passphrase comes from a file or the environment, never from the command line, which
everybody on the machine can read.
"""

from __future__ import annotations

import functools
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import click

from psymm.cli.exit_status import CommandError, Exit

if TYPE_CHECKING:
    from psymm.sockets.tls import Certificate

P = ParamSpec("P")
R = TypeVar("R")

PASSWORD_VARIABLE = "PSYMM_TLS_PASSWORD"  # noqa: S105  (its name, not a password)


class ServerTls:
    """The TLS options of a daemon; `certificate` reads the files."""

    def __init__(self, chain: Path, key: Path, password: Path | None) -> None:
        self._chain = chain
        self._key = key
        self._password = password

    def certificate(self) -> Certificate:
        """The certificate, which is read again when its files change. Raises CertificateInvalid."""
        from psymm.sockets.tls import Certificate, password_file, password_variable

        given = self._password
        return Certificate(
            self._chain,
            self._key,
            password=password_variable(PASSWORD_VARIABLE)
            if given is None
            else password_file(given),
        )


def server_tls_options(function: Callable[P, R]) -> Callable[P, R]:
    """Add --tls-cert, --tls-key, --tls-password-file; the command gets `tls` (None: plain ws)."""

    @click.option(
        "--tls-cert",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        default=None,
        metavar="FILE",
        help="Serve wss:// with this certificate chain (PEM). It is read again when it changes.",
    )
    @click.option(
        "--tls-key",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        default=None,
        metavar="FILE",
        help="The certificate's key (PEM).",
    )
    @click.option(
        "--tls-password-file",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        default=None,
        metavar="FILE",
        help=f"The key's passphrase, if it has one. [default: ${PASSWORD_VARIABLE}]",
    )
    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        chain, key = kwargs.pop("tls_cert"), kwargs.pop("tls_key")
        password = kwargs.pop("tls_password_file")
        if (chain is None) != (key is None):
            raise CommandError("usage", "Give --tls-cert and --tls-key together.", Exit.USAGE)
        kwargs["tls"] = (
            ServerTls(chain, key, password if isinstance(password, Path) else None)
            if isinstance(chain, Path) and isinstance(key, Path)
            else None
        )
        return function(*args, **kwargs)

    return wrapper


def plain_option(function: Callable[P, R]) -> Callable[P, R]:
    """Add --plain; the command gets `plain`."""
    return click.option(
        "--plain",
        is_flag=True,
        help="Allow ws:// to other machines. Everybody on the way can read and change messages.",
    )(function)


def client_tls_option(function: Callable[P, R]) -> Callable[P, R]:
    """Add --tls-ca and --plain; the command gets `tls_ca` and `plain`."""
    function = plain_option(function)
    return click.option(
        "--tls-ca",
        "tls_ca",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        default=None,
        metavar="FILE",
        help="Trust this authority (PEM) for wss:// endpoints instead of the system's.",
    )(function)


def trusted(tls_ca: Path | None) -> ssl.SSLContext | None:
    """The TLS context for `tls_ca`; None: the system's authorities. Raises CertificateInvalid."""
    from psymm.sockets.tls import client_context

    return None if tls_ca is None else client_context(tls_ca)


def endpoint_of(listen: tuple[str, int], port: int, tls: ServerTls | None) -> str:
    """The endpoint that others dial, unless the operator gives another."""
    host = f"[{listen[0]}]" if ":" in listen[0] else listen[0]
    return f"{'ws' if tls is None else 'wss'}://{host}:{port}/"
