"""The chain and contracts that a home uses, opened and checked for one command.

A home remembers the deployment file that it was last given and the first node, so that they need
to be named once. Another node is for one command only, unless a deployment is given with it. The
node's address is kept apart from the deployment, readable by its owner alone: it often is a
customer's key, and a deployment is made to be shared.
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
from psymm.chain.errors import NoAddress, WalletWithoutGas
from psymm.chain.outbox import Outbox
from psymm.chain.registry import Registry
from psymm.chain.rpc import Rpc, nodes_of
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
    """The home's deployment, or the one given, which the home then remembers.

    Raises CommandError `no-deployment`, `no-rpc`; DeploymentInvalid where file and chain differ;
    ChainDown, WrongChain. What ends the block is told the next command, where there is one.
    Cancelled: the connection is closed.
    """
    deployment = load_deployment(home, deployment_file, rpc_url)
    url = node_url(home, rpc_url)
    with next_commands(home, url, rpc_url, deployment.chain_id, deployment):
        async with Rpc(url) as rpc:
            outbox = Outbox(home.outbox)
            chain = Chain(rpc, deployment.chain_id, outbox=outbox)
            await check(chain, deployment)
            if deployment_file is not None:
                home.adopt_deployment(deployment_file)
            remember_node(home, rpc_url, anew=deployment_file is not None)
            try:
                await outbox.again(chain)
            except PSymmError as trouble:  # old work never stops new work
                log.warning("outbox-not-looked-at", extra={"code": trouble.code})
            yield ChainContext(
                deployment, chain, deployment.pool(chain), deployment.party_registry(chain)
            )


def look_before_asking(
    home: DataDir, deployment_file: Path | None, rpc_url: str | None
) -> Deployment:
    """The deployment, once all is there that is needed besides a password: a keystore and a node's
    address, too. For before a password is asked for.

    Raises CommandError `no-wallet`, `no-deployment`, `no-rpc`; DeploymentInvalid.
    """
    expect_wallet(home)
    deployment = load_deployment(home, deployment_file, rpc_url)
    node_url(home, rpc_url)
    return deployment


def expect_wallet(home: DataDir) -> None:
    """Raises CommandError `no-wallet` (exit 6) where the home has no keystore."""
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
    """The token of that symbol or address; with None, the deployment's only one. Raises
    CommandError `which-token` (exit 2), TokenUnlisted."""
    if name is not None:
        return deployment.token(name)
    if len(deployment.tokens) != 1:
        raise CommandError(
            "which-token",
            f"The deployment lists {len(deployment.tokens)} tokens; name one with --token: "
            + (", ".join(one.symbol for one in deployment.tokens) or "none is listed yet")
            + ".",
            Exit.USAGE,
        )
    return deployment.tokens[0]


async def expect_coins(chain: Chain, address: str, cost: Cost) -> None:
    """Raises WalletWithoutGas where this wallet must pay gas and has no coin at all: known before
    anything is asked. Whether a little is enough, the transaction's own check says."""
    if cost.gas and not await chain.balance(address, at_least=1):
        raise WalletWithoutGas(address, 0, cost.gas * cost.gas_price_wei)


def node_url(home: DataDir, given: str | None) -> str:
    """The node: given, else the home's, else $PSYMM_RPC. Raises CommandError `no-rpc`, NoAddress
    naming where the address stands that is none."""
    url, where = given, "--rpc"
    if url is None and home.rpc.exists():
        keep_private(home.rpc)
        url, where = home.rpc.read_text().strip(), str(home.rpc)
    if url is None:
        url, where = os.environ.get("PSYMM_RPC") or None, "$PSYMM_RPC"
    if url is not None:
        try:
            nodes_of(url)
        except NoAddress as none:
            none.add_note(f"It is what {where} says.")
            raise
        return url
    raise CommandError(
        "no-rpc",
        "No chain is named. Give --rpc URL once (the home remembers the first). For the "
        f"development chain of this machine, next: `{no_node()}`.",
        Exit.USAGE,
    )


def remember_node(home: DataDir, rpc_url: str | None, *, anew: bool) -> None:
    """Keeps a node's address that was given and has answered: the home's first, or, `anew`, instead
    of the one that it has."""
    if rpc_url is not None and (anew or not home.rpc.exists()):
        home.prepare()
        write_private(home.rpc, (rpc_url + "\n").encode())


async def open_wallet(home: DataDir, password: str) -> KeyWallet:
    """The home's wallet. Raises KeystoreUnreadable, WrongPassword."""
    from psymm.wallet import load_keystore

    return await load_keystore(home.keystore, password)
