"""`psymm key`: lists the session keys that the wallet delegated, and revokes them on chain.

There is no command to rotate a key, because sessions do it: a new key takes effect with a frame,
and frames are signed only in a session whose heads agree.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click
import trio

from psymm.cli.custodies import LANES, chosen
from psymm.cli.data_dir import DataDir
from psymm.cli.exit_status import CommandError, Exit
from psymm.cli.options import (
    Group,
    deployment_option,
    home_option,
    json_option,
    password_option,
    rpc_option,
    yes_option,
)
from psymm.cli.output import Cost, Screen, confirm_cost
from psymm.cli.password import ask_password

if TYPE_CHECKING:
    from psymm.chain.transactions import Receipt
    from psymm.cli.chain_context import ChainContext
    from psymm.journal.codec import JournalledCustody
    from psymm.transcript.record import Record

REVOCATION_GAS = 60_000


@click.group(cls=Group)
def key() -> None:
    """Session keys: list them, revoke them on chain."""


@key.command("list")
@json_option
@home_option
def list_keys(screen: Screen, home: DataDir) -> None:
    """Lists the session keys in force in the journal's custodies. A daemon may run."""
    trio.run(partial(_list, screen, home))


async def _list(screen: Screen, home: DataDir) -> None:
    from psymm._core import address_of

    found = [
        (custody, record, known, revoked)
        for custody, record, revoked in await _records(home)
        if (known := record.delegation(custody.lane)) is not None
    ]
    screen.table(
        ("custody", "lane", "key", "frames", "expires", "revoked"),
        [
            (
                "0x" + custody.agreement.custody.hex()[:16] + "…",
                LANES[custody.lane],
                address_of(known.public_key),
                f"{record.ruled_since(custody.lane)}…{known.to_seq}, "
                f"next {record.head(custody.lane).seq + 1}",
                datetime.fromtimestamp(known.expiry // 10**9, UTC).isoformat(" ", "seconds"),
                "yes" if address_of(known.public_key) in revoked else "no",
            )
            for custody, record, known, revoked in found
        ],
    )
    screen.result(
        "" if found else "No custody of the journal has a session key in force.",
        keys=[
            {
                "custody": custody.agreement.custody,
                "lane": LANES[custody.lane],
                "key": address_of(known.public_key),
                "since": record.ruled_since(custody.lane),
                "next": record.head(custody.lane).seq + 1,
                "toSeq": known.to_seq,
                "expiry": known.expiry,
                "revoked": address_of(known.public_key) in revoked,
            }
            for custody, record, known, revoked in found
        ],
    )


@key.command()
@json_option
@home_option
@password_option
@deployment_option
@rpc_option
@yes_option
@click.option("--custody", default=None, metavar="HEX", help="The custody's id, or its start.")
@click.option(
    "--key",
    "address",
    default=None,
    metavar="ADDRESS",
    help="The session key itself, if the journal that knows it is lost.",
)
@click.option(
    "--from-seq",
    type=click.IntRange(min=1),
    default=None,
    help="The first frame that it may no longer sign. [default: the journal's next; 1 with --key]",
)
@click.option(
    "--sign",
    "sign_only",
    is_flag=True,
    help="Send nothing: print the command by which anybody can submit it and pay the gas.",
)
def revoke(
    screen: Screen,
    home: DataDir,
    password_fd: int | None,
    deployment_file: Path | None,
    rpc_url: str | None,
    yes: bool,
    custody: str | None,
    address: str | None,
    from_seq: int | None,
    sign_only: bool,
) -> None:
    """Revokes a custody's session key on chain, permanently.

    Frames that the other party covered before it could know of the revocation stay valid. A running
    session changes its key as soon as the revocation is as deep as the terms require.
    """
    if (custody is None) == (address is None):
        raise CommandError("which-key", "Give either --custody or --key.", Exit.USAGE)

    async def run() -> None:
        from psymm.chain.addresses import checksummed
        from psymm.cli.chain_context import expect_ready, open_chain_context, open_wallet

        expect_ready(home, deployment_file, rpc_url)
        revoked, seq = address or "", 1
        # The journal is asked before the password, so a wrong --custody costs nothing.
        if custody is not None:
            revoked, seq = await _in_force(home, custody)
        revoked, seq = checksummed("key", revoked), from_seq or seq
        wallet = await open_wallet(home, ask_password(password_fd))
        if revoked == wallet.address:
            raise CommandError(
                "wallets-own-key", "That is the wallet's own address, not a session key's."
            )
        async with open_chain_context(home, deployment_file, rpc_url) as context:
            if sign_only:
                message = context.registry.revocation_message(wallet.address, revoked, seq)
                signature = await wallet.sign_typed(message)
                screen.result(
                    f"psymm key submit --wallet {wallet.address} --key {revoked} "
                    f"--from-seq {seq} --signature 0x{signature.hex()}",
                    wallet=wallet.address,
                    key=revoked,
                    fromSeq=seq,
                    signature=signature,
                )
                return
            action = f"Revoking {revoked} from frame {seq} on, permanently"
            await _confirm(screen, context, action, yes)
            receipt = await context.registry.revoke_key(wallet, revoked, seq)
        _say(screen, wallet.address, revoked, seq, receipt)

    trio.run(run)


@key.command()
@json_option
@home_option
@password_option
@deployment_option
@rpc_option
@yes_option
@click.option("--wallet", "owner", required=True, metavar="ADDRESS", help="The key's wallet.")
@click.option("--key", "address", required=True, metavar="ADDRESS", help="The session key.")
@click.option("--from-seq", type=click.IntRange(min=1), required=True)
@click.option("--signature", required=True, metavar="HEX", help="What that wallet signed.")
def submit(
    screen: Screen,
    home: DataDir,
    password_fd: int | None,
    deployment_file: Path | None,
    rpc_url: str | None,
    yes: bool,
    owner: str,
    address: str,
    from_seq: int,
    signature: str,
) -> None:
    """Submits a revocation that another wallet signed; this wallet pays the gas."""

    async def run() -> None:
        from psymm.chain.addresses import checksummed
        from psymm.cli.chain_context import expect_ready, open_chain_context, open_wallet
        from psymm.errors import WalletError
        from psymm.signatures import signature_by

        expect_ready(home, deployment_file, rpc_url)
        whose, revoked = checksummed("wallet", owner), checksummed("key", address)
        wallet = await open_wallet(home, ask_password(password_fd))
        async with open_chain_context(home, deployment_file, rpc_url) as context:
            digest = context.registry.revocation_message(whose, revoked, from_seq).digest()
            try:
                # Checked here, so that nobody pays gas for a signature that the contract would
                # refuse.
                signed = signature_by(whose, digest, signature)
            except WalletError as bad:
                raise CommandError(
                    "signature",
                    f"--signature is not {whose}'s for this key and frame ({bad.code}). Run the "
                    "command that `psymm key revoke --sign` printed, unchanged.",
                    Exit.USAGE,
                ) from None
            action = f"Submitting {whose}'s revocation of {revoked} from frame {from_seq} on"
            await _confirm(screen, context, action, yes)
            receipt = await context.registry.revoke_key_for(
                wallet, whose, revoked, from_seq, signed
            )
        _say(screen, whose, revoked, from_seq, receipt)

    trio.run(run)


async def _confirm(screen: Screen, context: ChainContext, action: str, yes: bool) -> None:
    price = (await context.chain.fees()).max_wei
    confirm_cost(screen, action, Cost(REVOCATION_GAS, price, 15.0), yes)


def _say(screen: Screen, wallet: str, revoked: str, from_seq: int, receipt: Receipt) -> None:
    screen.result(
        f"Revoked in transaction {receipt.tx_hash}, {receipt.gas_used:,} gas.",
        wallet=wallet,
        key=revoked,
        fromSeq=from_seq,
        tx=receipt.tx_hash,
        gasUsed=receipt.gas_used,
    )


async def _records(home: DataDir) -> list[tuple[JournalledCustody, Record, set[str]]]:
    """The journal's custodies, with their records and our revoked keys."""
    from psymm.journal.reader import open_journal_reader
    from psymm.journal.replayed import read_record

    async with open_journal_reader(home.journal) as journal:
        return [
            (
                custody,
                await read_record(journal, custody.agreement),
                {
                    one.key
                    for one in await journal.revocations(custody.agreement.custody)
                    if one.lane == custody.lane
                },
            )
            for custody in await journal.custodies()
        ]


async def _in_force(home: DataDir, start: str) -> tuple[str, int]:
    """The address of our session key in force in a custody, and the number of our next frame."""
    from psymm._core import address_of
    from psymm.journal.reader import open_journal_reader
    from psymm.journal.replayed import read_record

    async with open_journal_reader(home.journal) as journal:
        custody = await chosen(journal, start)
        record = await read_record(journal, custody.agreement)
    known = record.delegation(custody.lane)
    if known is None:
        raise CommandError("no-key", "This custody has no session key in force yet.")
    return address_of(known.public_key), record.head(custody.lane).seq + 1
