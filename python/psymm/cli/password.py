"""Reading passwords and keys: from the terminal or a file descriptor, and nowhere else.

Command lines are visible in `ps`, environments in `/proc` and crash reports; a descriptor that the
parent opened is in neither. A secret is read once, up to its first line feed, and the descriptor is
closed.
"""

from __future__ import annotations

import os

import click

from psymm.cli.exit_status import CommandError, Exit
from psymm.cli.streams import is_interactive


def ask_password(fd: int | None, confirm: bool = False) -> str:
    """The password of a keystore.

    Args:
        fd: an open descriptor to read it from, or None to ask at the terminal.
        confirm: ask twice, for a keystore that is being made.

    Raises CommandError `no-terminal` or `password-fd` (exit 6; an output stream); WalletError if
    the descriptor is closed, empty or not UTF-8. No error contains the password.
    """
    return ask_secret("Password", "--password-fd", fd, confirm)


def ask_secret(name: str, option: str, fd: int | None, confirm: bool = False) -> str:
    """A secret called `name`, from descriptor `fd` of `option`, or typed without echo."""
    from psymm.wallet import read_password

    if fd is None:
        if not is_interactive():
            raise CommandError(
                "no-terminal",
                f"There is no terminal to ask for the {name.lower()}; give it with {option} N.",
                Exit.KEYSTORE,
            )
        return str(click.prompt(name, hide_input=True, confirmation_prompt=confirm, err=True))
    if fd in (1, 2):
        raise CommandError(
            "password-fd",
            f"Descriptor {fd} is for output; open another one, e.g. {option} 3 3<file.",
            Exit.KEYSTORE,
            fd=fd,
        )
    # A daemon may use the end of standard input as its signal to end, so only a copy is closed.
    return read_password(os.dup(0) if fd == 0 else fd)
