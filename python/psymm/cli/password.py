"""Where secrets that a person types come from: a terminal, or a file descriptor. Nowhere else.

A command line shows in `ps`, an environment in `/proc` and in crash reports; a descriptor that the
parent opened shows in neither. A secret is read once, up to its first line feed, and the
descriptor is closed.
"""

from __future__ import annotations

import os

import click

from psymm.cli.exit_status import CommandError, Exit
from psymm.cli.streams import somebody_can_answer


def ask_password(fd: int | None, confirm: bool = False) -> str:
    """The password of a keystore.

    Args:
        fd: an open descriptor to read it from, or None to ask at the terminal.
        confirm: ask twice, for a keystore that is being made.

    Raises CommandError, exit 6: `no-terminal`, `password-fd` (an output stream); WalletError if the
    descriptor is closed, empty or not UTF-8. The password is in none of them.
    """
    return ask_secret("Password", "--password-fd", fd, confirm)


def ask_secret(name: str, option: str, fd: int | None, confirm: bool = False) -> str:
    """A secret called `name`, from descriptor `fd` of `option`, or typed without echo."""
    from psymm.wallet import read_password

    if fd is None:
        if not somebody_can_answer():
            raise CommandError(
                "no-terminal",
                f"There is no terminal to ask for the {name.lower()}; give it with {option} N.",
                Exit.KEYSTORE,
            )
        return str(click.prompt(name, hide_input=True, confirmation_prompt=confirm, err=True))
    if fd in (1, 2):
        raise CommandError(
            "password-fd",
            f"Descriptor {fd} is an output; open another one, e.g. {option} 3 3<file.",
            Exit.KEYSTORE,
            fd=fd,
        )
    # Standard input may still be the leash of a daemon, so only a copy of it is closed.
    return read_password(os.dup(0) if fd == 0 else fd)
