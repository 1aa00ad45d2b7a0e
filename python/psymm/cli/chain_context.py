"""The chain and contracts that a home uses, opened and checked for one command.

A home remembers the last deployment file and the first node, so they are named only once. Another
node is used for one command only, unless a deployment is given with it. The node's address is in a
file of its own that only its owner can read: it often contains a customer's key, while a deployment
is made to be shared.
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from psymm.chain.checking import check
from psymm.chain.contracts import Pool
from psymm.chain.deployment import Deployment, TokenInfo
from psymm.chain.errors import NodeAddressInvalid, WalletWithoutGas
from psymm.chain.nodes import nodes_of
from psymm.chain.outbox import Outbox
from psymm.chain.registry import Registry
from psymm.chain.rpc import Rpc
from psymm.chain.transactions import Chain
from psymm.cli.data_dir import DataDir
from psymm.cli.exit_status import CommandError, Exit
from psymm.cli.output import Cost
from psymm.cli.remedies import next_commands, no_deployment, no_node, no_wallet
from psymm.errors import PSymmError
from psymm.private_files import keep_private, write_private

if TYPE_CHECKING:
    from psymm.wallet import KeyWallet

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ChainContext:
    """A checked deployment on an open connection."""

    deployment: Deployment
    chain: Chain
    pool: Pool
    registry: Registry


@asynccontextmanager
async def open_chain_context(
    home: DataDir, deployment_file: Path | None, rpc_url: str | None
) -> AsyncIterator[ChainContext]:
    """The home's deployment, or the given one, which the home then remembers.

    Raises CommandError `no-deployment`, `no-rpc`; DeploymentInvalid if file and chain differ;
    ChainDown, WrongChain. An error that ends the block gets the next command as a note, if there is
    one. Cancelled: the connection is closed.
    """
    deployment = load_deployment(home, deployment_file, rpc_url)
    url = node_url(home, rpc_url)
    with next_commands(home, url, rpc_url, deployment.chain_id, deployment):
        async with Rpc(url) as rpc:
            outbox = Outbox(home.outbox)
            chain = Chain(rpc, deployment.chain_id, outbox=outbox)
            await check(chain, deployment)
            # Remembered only now, after file and node have proved to belong together.
            if deployment_file is not None:
                home.adopt_deployment(deployment_file)
            remember_node(home, rpc_url, replace=deployment_file is not None)
            try:
                await outbox.rebroadcast(chain)
            except PSymmError as trouble:  # an old transaction must not stop a new command
                log.warning("outbox-check-failed", extra={"code": trouble.code})
            yield ChainContext(
                deployment, chain, deployment.pool(chain), deployment.party_registry(chain)
            )


def expect_ready(home: DataDir, deployment_file: Path | None, rpc_url: str | None) -> Deployment:
    """The deployment, after checking that keystore and node address exist, too. Call it before the
    password is asked for.

    Raises CommandError `no-wallet`, `no-deployment`, `no-rpc`; DeploymentInvalid.
    """
    expect_wallet(home)
    deployment = load_deployment(home, deployment_file, rpc_url)
    node_url(home, rpc_url)
    return deployment


def expect_wallet(home: DataDir) -> None:
    """Raises CommandError `no-wallet` (exit 6) if the home has no keystore."""
    if not home.keystore.exists():
        raise CommandError(
            "no-wallet",
            f"There is no wallet in {home.path}. Next: `{no_wallet(home)}`.",
            Exit.KEYSTORE,
        )


def load_deployment(
    home: DataDir, deployment_file: Path | None, rpc_url: str | None = None
) -> Deployment:
    """The deployment file alone, unchecked against the chain."""
    path = deployment_file or home.deployment
    if not path.exists():
        raise CommandError(
            "no-deployment",
            f"{path} does not exist. If pSymm is deployed already, give its file with "
            "--deployment FILE once. On a development chain, next: "
            f"`{no_deployment(home, rpc_url)}`.",
            Exit.USAGE,
        )
    return Deployment.load(path)


def token_of(deployment: Deployment, name: str | None) -> TokenInfo:
    """The token with this symbol or address; None: the deployment's only token.

    Raises CommandError `which-token` (exit 2), TokenUnlisted.
    """
    if name is not None:
        return deployment.token(name)
    if len(deployment.tokens) != 1:
        raise CommandError(
            "which-token",
            f"The deployment lists {len(deployment.tokens)} tokens; name one with --token: "
            + (", ".join(one.symbol for one in deployment.tokens) or "none is listed")
            + ".",
            Exit.USAGE,
        )
    return deployment.tokens[0]


async def expect_coins(chain: Chain, address: str, cost: Cost) -> None:
    """Raises WalletWithoutGas if this wallet must pay gas but has no coins, before the user is
    asked to confirm. Whether a small balance is enough is checked with the transaction."""
    if cost.gas and not await chain.balance(address, at_least=1):
        raise WalletWithoutGas(address, 0, cost.gas * cost.gas_price_wei)


def node_url(home: DataDir, given: str | None) -> str:
    """The node: the given one, else the home's, else $PSYMM_RPC.

    Raises CommandError `no-rpc`, and NodeAddressInvalid with the source of the bad address.
    """
    url, where = given, "--rpc"
    if url is None and home.rpc.exists():
        keep_private(home.rpc)
        url, where = home.rpc.read_text().strip(), str(home.rpc)
    if url is None:
        url, where = os.environ.get("PSYMM_RPC") or None, "$PSYMM_RPC"
    if url is not None:
        try:
            nodes_of(url)
        except NodeAddressInvalid as none:
            none.add_note(f"It comes from {where}.")
            raise
        return url
    raise CommandError(
        "no-rpc",
        "No chain is named. Give --rpc URL once (the home remembers the first). For a "
        f"development chain on this machine, next: `{no_node()}`.",
        Exit.USAGE,
    )


def remember_node(home: DataDir, rpc_url: str | None, *, replace: bool) -> None:
    """Store the address of a node that was given and has answered, if the home has none, or if
    `replace`."""
    if rpc_url is not None and (replace or not home.rpc.exists()):
        home.prepare()
        write_private(home.rpc, (rpc_url + "\n").encode())


async def open_wallet(home: DataDir, password: str) -> KeyWallet:
    """The home's wallet. Raises KeystoreUnreadable, WrongPassword."""
    from psymm.wallet import load_keystore

    return await load_keystore(home.keystore, password)
