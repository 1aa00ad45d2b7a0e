"""`psymm wallet`: creates, imports and shows the keystore of a home."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click
import trio

from psymm.cli.data_dir import DataDir
from psymm.cli.exit_status import CommandError, Exit
from psymm.cli.options import Group, home_option, json_option, password_option
from psymm.cli.output import Screen
from psymm.cli.password import ask_password, ask_secret
from psymm.cli.remedies import home_words
from psymm.cli.typed import command

if TYPE_CHECKING:
    from psymm._core import SecretKey


@click.group(cls=Group)
def wallet() -> None:
    """The wallet's keystore (version 3, readable by other Ethereum wallets)."""


_LIGHT_COST = 1 << 12


@wallet.command()
@json_option
@home_option
@password_option
@click.option(
    "--light",
    is_flag=True,
    help="Encrypt it so that opening takes milliseconds, also for somebody who guesses passwords. "
    "Only for throwaway wallets, or with a long random password.",
)
def new(screen: Screen, home: DataDir, password_fd: int | None, light: bool) -> None:
    """Creates a new key and encrypts it with a password. Back it up: nobody else can."""
    from psymm._core import SecretKey

    _refuse_second(home)
    # Before the password is asked for: a directory that cannot be used is found first.
    home.prepare()
    password = ask_password(password_fd, confirm=True)
    _save(screen, home, SecretKey.generate(), password, light)


@wallet.command("import")
@json_option
@home_option
@password_option
@click.option(
    "--keystore",
    "file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    default=None,
    help="A version 3 keystore of another program; it is encrypted again with the same password.",
)
@click.option(
    "--key-fd",
    type=click.IntRange(min=0),
    default=None,
    metavar="N",
    help="Read a private key (64 hex digits) from descriptor N instead of the terminal.",
)
def import_key(
    screen: Screen, home: DataDir, password_fd: int | None, file: Path | None, key_fd: int | None
) -> None:
    """Imports an existing key: a keystore file, or a private key that is typed or piped in."""
    from psymm._core import CoreError, SecretKey
    from psymm.wallet import load_keystore

    _refuse_second(home)
    home.prepare()
    if file is not None:
        if key_fd is not None:
            raise CommandError("usage", "Give --keystore or --key-fd, not both.", Exit.USAGE)
        password = ask_password(password_fd)
        opened = trio.run(load_keystore, file, password)
        _save(screen, home, opened.key, password)
        return
    if key_fd is not None and key_fd == password_fd:
        raise CommandError(
            "usage", "--key-fd and --password-fd need different descriptors.", Exit.USAGE
        )
    text = ask_secret("Private key", "--key-fd", key_fd)
    try:
        key = SecretKey.from_bytes(_key_bytes(text))
    except (CoreError, ValueError):
        raise CommandError(
            "bad-key",
            "That is not a private key: 64 hex digits, above zero and below the curve's order.",
            Exit.KEYSTORE,
        ) from None
    _save(screen, home, key, ask_password(password_fd, confirm=True))


@wallet.command()
@json_option
@home_option
@password_option
def address(screen: Screen, home: DataDir, password_fd: int | None) -> None:
    """Shows the wallet's address, derived from its key.

    It needs the password: anybody who can write the keystore's file could change an address that it
    states, and money would be sent there.
    """
    from psymm.cli.chain_context import expect_wallet
    from psymm.wallet import load_keystore

    expect_wallet(home)
    opened = trio.run(load_keystore, home.keystore, ask_password(password_fd))
    screen.result(opened.address, address=opened.address)


@wallet.command("public-key")
@json_option
@home_option
@password_option
def public_key(screen: Screen, home: DataDir, password_fd: int | None) -> None:
    """Shows the address and the public key (x‖y), as the registry needs it."""
    from psymm.cli.chain_context import expect_wallet
    from psymm.wallet import load_keystore

    expect_wallet(home)
    opened = trio.run(load_keystore, home.keystore, ask_password(password_fd))
    _show(screen, home, opened.address, opened.public_key)


def _key_bytes(text: str) -> bytes:
    digits = text.strip().removeprefix("0x")
    if len(digits) != 64:
        raise ValueError
    return bytes.fromhex(digits)


def _refuse_second(home: DataDir) -> None:
    from psymm.errors import KeystoreExists

    if home.keystore.exists():
        exists = KeystoreExists(path=home.keystore)
        shown = command("wallet", "address", *home_words(home))
        exists.add_note(f"`{shown}` shows its address; --home chooses another directory.")
        raise exists


def _save(
    screen: Screen, home: DataDir, key: SecretKey, password: str, light: bool = False
) -> None:
    from psymm.wallet import SCRYPT_COST, save_keystore

    cost = _LIGHT_COST if light else SCRYPT_COST
    trio.run(partial(save_keystore, home.keystore, key, password, scrypt_cost=cost))
    _show(screen, home, key.address, key.public_key)


def _show(screen: Screen, home: DataDir, address: str, public_key: bytes) -> None:
    screen.result(
        f"address     {address}\npublic key  0x{public_key.hex()}\nkeystore    {home.keystore}",
        address=address,
        publicKey=public_key,
        keystore=str(home.keystore),
    )
