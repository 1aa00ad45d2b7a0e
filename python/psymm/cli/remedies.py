"""The next command, if an error has one clear remedy.

Each is a whole command line that works when pasted into the same shell. Commands that mint test
tokens or start daemons are suggested on the development chain only: elsewhere nobody can mint
coins, and running a solver or relayer is the user's decision.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from psymm.cli.data_dir import DataDir, default_data_dir
from psymm.cli.exit_status import CommandError, leaves
from psymm.cli.output import format_amount
from psymm.cli.typed import again, command, later, local, typed_or
from psymm.errors import PSymmError
from psymm.storage import NoHome

if TYPE_CHECKING:
    from psymm.chain.deployment import Deployment

DEVNET: Final = 31337
DEVNET_URL: Final = "http://127.0.0.1:8545"
_WEI: Final = 10**18


def home_words(home: DataDir) -> list[str]:
    """--home, unless it is the default home."""
    try:
        usual = home.path == default_data_dir()
    # Without a default home every command needs --home.
    except NoHome:
        usual = False
    return [] if usual else ["--home", str(home.path)]


def node_words(url: str | None) -> list[str]:
    """--rpc for nodes on this machine, and --agree. Other addresses are not shown, because they may
    contain a key. url: all given addresses in the form of `Rpc`."""
    given = (url or "").split()
    agree = given[:1] == ["agree"]
    nodes = given[agree:]
    if not all(map(local, nodes)):
        return []
    return [*(word for one in nodes for word in ("--rpc", one)), *["--agree"] * agree]


def other_node_words(home: DataDir, rpc_url: str | None) -> list[str]:
    """--rpc for a node that was given for this command only."""
    kept = home.rpc.read_text().strip() if home.rpc.exists() else rpc_url
    return [] if rpc_url == kept else node_words(rpc_url)


def no_wallet(home: DataDir) -> str:
    return command("wallet", "new", *home_words(home))


def no_deployment(home: DataDir, rpc_url: str | None) -> str:
    words = ["deploy", "--test-token", "pUSD:6", *home_words(home)]
    return command(*words, *node_words(rpc_url))


@contextmanager
def next_commands(
    home: DataDir,
    url: str | None,
    rpc_url: str | None,
    chain_id: int | None,
    deployment: Deployment | None,
) -> Iterator[None]:
    """Add the next command, if there is one, as a note to an error that ends the block, and show
    its amounts in the deployment's tokens.

    Args:
        url: the node's address.
        rpc_url: the address from the command line; None if the home's is used.
    """
    try:
        yield
    except BaseException as error:
        for leaf in leaves(error):
            if isinstance(leaf, PSymmError) and deployment is not None:
                _show_tokens(leaf, deployment)
            found = _next(leaf, home, url, rpc_url, chain_id, deployment)
            if found is not None:
                leaf.add_note(found)
        raise


def _show_tokens(error: PSymmError, deployment: Deployment) -> None:
    named = error.values.get("token")
    found = [one for one in deployment.tokens if named in (None, one.address)]
    if len(found) == 1:
        error.in_tokens(found[0].decimals, found[0].symbol)


def no_journal(home: DataDir) -> str:
    if not home.keystore.exists():
        return f"The home is empty. Next: `{no_wallet(home)}`."
    return "The first trade makes it. Next: `psymm docs readme`."


def example_config(path: Path) -> str:
    """The command that writes the example of a market maker's configuration."""
    return f"psymm docs maker.toml > {shlex.quote(str(path))}"


def no_node() -> str:
    return f"export PSYMM_RPC={DEVNET_URL}"


def _next(  # noqa: C901 - one line for each kind of error
    error: BaseException,
    home: DataDir,
    url: str | None,
    rpc_url: str | None,
    chain_id: int | None,
    deployment: Deployment | None,
) -> str | None:
    from psymm.chain import errors as chain
    from psymm.custody.errors import FundsTooLow
    from psymm.relayer.errors import NoRelayer

    here = [*home_words(home), *node_words(rpc_url)]
    made = chain_id == DEVNET
    match error:
        # By its type a ChainDown, but there is no node to wait for.
        case chain.NodeAddressInvalid():
            return None
        case chain.WrongChain() if rpc_url is not None and home.rpc.exists():
            return "Without --rpc, the home's own node is used."
        case chain.WrongChain() if deployment is not None:
            other = ["--rpc", "URL", "--deployment", str(home.deployment)]
            return f"To change the home's node: `{command('deploy', '--check', *other)}`."
        case chain.NodesDisagree():
            return f"They may agree in a while; then go on with {typed_or('the same command')}."
        case chain.ChainDown() if url is not None and local(url) and deployment is not None:
            return (
                "If it was `psymm devnet`, start it again with the same `--state FILE`; without"
                f" it, the contracts and everything in them are lost. {later()}"
            )
        case chain.ChainDown() if url is not None and local(url):
            port = urlsplit(url).port
            words = ["devnet"] if port in (None, 8545) else ["devnet", "--port", str(port)]
            return f"Next, in another terminal: `{command(*words)}`."
        case chain.ChainDown():
            return later()
        case chain.WalletWithoutGas() if made:
            ether = str(max(10, 2 * -(-error.needed_wei // _WEI)))
            words = ["devnet", "fund", error.address, "--ether", ether]
            return f"Next: `{command(*words, *here)}`."
        case chain.TokenBalanceTooLow() if made and deployment is not None:
            amount = _tokens(deployment, error.token, error.needed - error.balance)
            if amount is None:
                return None
            token = ["--token", error.token, "--amount", amount]
            return f"Next: `{command('devnet', 'fund', error.owner, *token, *here)}`."
        case chain.TokenChanged() if error.field in ("decimals", "symbol"):
            return f"Next: `{command('deploy', '--token', error.token, *here)}`."
        case FundsTooLow() if deployment is not None and error.needed > error.available:
            amount = _tokens(deployment, error.token, error.needed - error.available)
            if amount is None:
                return None
            token = [] if len(deployment.tokens) == 1 else ["--token", error.token]
            return f"Next: `{command('deposit', amount, *token, *here)}`."
        case chain.DeploymentInvalid() if made and "there is no contract" in error.reason:
            return (
                "A restarted development chain has no contracts, unless"
                f" `psymm devnet --state FILE` kept them. Next: `{no_deployment(home, rpc_url)}`."
            )
        case CommandError(code="no-solver") if made:
            words = ["solver", "--config", "maker.toml", "--register", "--direct", "--home"]
            there = ["--deployment", str(home.deployment), *node_words(url)]
            return f"Next, in another terminal: `{command(*words, 'maker', *there)}`."
        case NoRelayer() if made:
            return f"Next: {again('--direct')}."
    return None


def _tokens(deployment: Deployment, address: str, units: int) -> str | None:
    """Units as whole tokens; None for a token that the deployment does not list."""
    for one in deployment.tokens:
        if one.address.lower() == address.lower():
            return format_amount(units, one.decimals)
    return None
