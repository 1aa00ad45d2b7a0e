"""The chain and contracts that a home uses, opened and checked for one command.

A home remembers the deployment file and the node's address that it was last given, so that they
need to be named once. The node's address is kept apart from the deployment, readable by its owner
alone: it often is a customer's key, and a deployment is made to be shared.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from psymm.chain.contracts import Pool
from psymm.chain.deployment import Deployment, check
from psymm.chain.registry import Registry
from psymm.chain.rpc import Rpc
from psymm.chain.transactions import Chain
from psymm.cli.exits import CommandError, Exit
from psymm.cli.home import Home
from psymm.private_files import keep_private, write_private

if TYPE_CHECKING:
    from psymm.wallet import KeyWallet


@dataclass(frozen=True)
class Site:
    """A checked deployment on an open connection."""

    deployment: Deployment
    chain: Chain
    pool: Pool
    registry: Registry


@asynccontextmanager
async def open_site(
    home: Home, deployment_file: Path | None, rpc_url: str | None
) -> AsyncIterator[Site]:
    """The home's deployment, or the one given, which the home then remembers.

    Raises CommandError `no-deployment`, `no-rpc`; DeploymentInvalid where file and chain differ;
    ChainDown, WrongChain. Cancelled: the connection is closed.
    """
    deployment = load_deployment(home, deployment_file)
    url = node_url(home, rpc_url)
    async with Rpc(url) as rpc:
        chain = Chain(rpc, deployment.chain_id)
        await check(chain, deployment)
        if deployment_file is not None:
            home.adopt_deployment(deployment_file)
        remember_node(home, rpc_url)
        yield Site(deployment, chain, deployment.pool(chain), deployment.party_registry(chain))


def load_deployment(home: Home, deployment_file: Path | None) -> Deployment:
    """The deployment file alone, unchecked against the chain."""
    path = deployment_file or home.deployment
    if not path.exists():
        raise CommandError(
            "no-deployment",
            f"{path} does not exist. Give --deployment FILE (psymm deploy writes it).",
            Exit.USAGE,
        )
    return Deployment.load(path)


def node_url(home: Home, given: str | None) -> str:
    """The node: given, else the home's, else $PSYMM_RPC. Raises CommandError `no-rpc`."""
    if given is not None:
        return given
    if home.rpc.exists():
        keep_private(home.rpc)
        return home.rpc.read_text().strip()
    named = os.environ.get("PSYMM_RPC")
    if named:
        return named
    raise CommandError(
        "no-rpc",
        "No chain is named. Give --rpc URL once (the home remembers it), or set $PSYMM_RPC.",
        Exit.USAGE,
    )


def remember_node(home: Home, rpc_url: str | None) -> None:
    """Keeps a node's address that was given and has answered."""
    if rpc_url is not None:
        home.prepare()
        write_private(home.rpc, (rpc_url + "\n").encode())


async def open_wallet(home: Home, password: str) -> KeyWallet:
    """The home's wallet. Raises KeystoreUnreadable, WrongPassword."""
    from psymm.wallet import load_keystore

    return await load_keystore(home.keystore, password)
