"""A home's money opened for one command: wallet, chain, prover, notes, and who sends its moves."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeAlias, TypeVar

import click
import trio

from psymm.cli.chain_context import (
    ChainContext,
    load_deployment,
    open_chain_context,
    open_wallet,
    token_of,
)
from psymm.cli.data_dir import DataDir
from psymm.cli.earlier import finish_earlier
from psymm.cli.exit_status import holds
from psymm.cli.options import private_option
from psymm.cli.output import Screen, format_amount, parse_amount
from psymm.cli.tls import client_tls_option, trusted
from psymm.nursery import open_block_nursery
from psymm.storage import StorageError

if TYPE_CHECKING:
    from psymm.api.client import Client
    from psymm.chain.deployment import Deployment, TokenInfo
    from psymm.custody.moves import Vault
    from psymm.custody.sending import Sender
    from psymm.custody.store import Move
    from psymm.relayer.sender import RelayerSender
    from psymm.wallet import KeyWallet

P = ParamSpec("P")
R = TypeVar("R")

PROOF_S = 5.0
"""About what a proof takes on two cores, for estimates."""
_ORDER = "cheapest"
BLOCK_S = 12.0
"""About what a transaction waits on a public chain, for estimates."""


@dataclass(frozen=True)
class SendingOptions:
    """What the command line says about who sends moves. max_fee: as typed, or None. tls_ca: the
    authority of wss:// endpoints, None for the system's. plain: ws:// to other machines, too.
    private: endpoints may lead to this machine or a local network; None: on the development
    chain."""

    order: str
    max_fee: str | None
    direct: bool
    tls_ca: Path | None = None
    plain: bool = False
    private: bool | None = None

    def words(self) -> list[str | Path]:
        """The same on a command line, without what is the default."""
        found: list[str | Path] = []
        if self.order != _ORDER:
            found += ["--relayer-order", self.order]
        if self.max_fee is not None:
            found += ["--max-fee", self.max_fee]
        if self.tls_ca is not None:
            found += ["--tls-ca", self.tls_ca]
        flags = {"direct": self.direct, "plain": self.plain, "private-endpoints": self.private}
        return [*found, *(f"--{name}" for name, on in flags.items() if on)]


OpenVault: TypeAlias = "Callable[[], Awaitable[Vault]]"


@dataclass(frozen=True)
class Funds:
    """An open vault and what belongs to it."""

    wallet: KeyWallet
    context: ChainContext
    vault: Vault
    left_beside: OpenVault | None = None
    """Opens the vault of deposits that were made beside a daemon; None where there were none, or
    where that vault is this one."""
    _relayers: dict[str, RelayerSender] = field(default_factory=dict)

    def token(self, name: str | None) -> TokenInfo:
        """The token of that symbol or address; with None, the deployment's only one."""
        return token_of(self.context.deployment, name)

    def relayers(self, options: SendingOptions, token: TokenInfo) -> RelayerSender:
        """The client of the registry's relayers, under the options' limits."""
        from psymm.chain.registry import RegistryEntry, Role
        from psymm.relayer.sender import RelayerSender

        # One for the whole command: what it was shown, and who failed it, holds to its end.
        made = self._relayers.get(token.address)
        if made is not None:
            return made

        async def listed() -> Sequence[RegistryEntry]:
            known = await self.vault.relayers_used()
            return await self.context.registry.candidates(Role.RELAYER, known)

        limits = {}
        if options.max_fee is not None:
            limits[token.address] = parse_amount(options.max_fee, token.decimals)
        made = self._relayers[token.address] = RelayerSender(
            self.context.pool,
            listed,
            order="random" if options.order == "random" else "cheapest",
            max_fee=limits,
            known=self.vault.relayers_used,
            tls=trusted(options.tls_ca),
            plain=options.plain,
            private=options.private,
        )
        return made

    def senders(self, options: SendingOptions, token: TokenInfo) -> tuple[Sender, ...]:
        """Who is tried for a move, in order; one's own account last, and only with --direct."""
        from psymm.custody.sending import DirectSender

        direct = DirectSender(self.context.pool, self.wallet) if options.direct else None
        return self.relayers(options, token).senders(direct)


OpenFunds: TypeAlias = Callable[[], AbstractAsyncContextManager[Funds]]
"""`open_funds` with all that the command line says about what to open."""


@asynccontextmanager
async def open_funds(
    home: DataDir,
    deployment_file: Path | None,
    rpc_url: str | None,
    password: str,
    *,
    in_memory: bool = False,
    proving: bool = True,
    beside: Callable[[], None] | None = None,
) -> AsyncIterator[Funds]:
    """Opens wallet, chain and vault; all closed at the end, the prover's process too.

    in_memory: read everything from the chain again and leave the home's files alone. beside: for
    commands that spend no note. Where a daemon holds the notes, it is called, and the vault is one
    that knows of them by the chain alone; what comes into it, the daemon finds by its memo.
    Raises what opening them raises. Cancelled: closes them.
    """
    from psymm.custody.errors import StoreLocked
    from psymm.custody.moves import open_vault
    from psymm.custody.prover import Prover

    wallet = await open_wallet(home, password)
    vault: Vault | None = None
    try:
        async with (
            open_chain_context(home, deployment_file, rpc_url) as context,
            Prover() as prover,
        ):
            proves = prover if proving else None
            place = None if in_memory else home.path
            opened = partial(open_vault, wallet, context.deployment, context.chain, prover=proves)
            left = partial(opened, home=home.beside)
            left_beside = left if place and (home.beside / "notes.sqlite").exists() else None
            try:
                vault = await opened(home=place)
            except StoreLocked:
                if beside is None:
                    raise
                beside()
                # Counters begin at a random number in each store, so those of two do not meet.
                vault, left_beside = await left(), None
            async with vault:
                try:
                    yield Funds(wallet, context, vault, left_beside)
                except BaseException as stopped:
                    if _cut_short(stopped):
                        with trio.CancelScope(shield=True):
                            _say_under_way(stopped, await vault.store.moves(alive=True))
                    raise
    except BaseException as stopped:
        if vault is None and not in_memory and _cut_short(stopped):
            deployment = load_deployment(home, deployment_file, rpc_url)
            with trio.CancelScope(shield=True):
                _say_under_way(stopped, await _kept_moves(home, wallet, deployment))
        raise


def _cut_short(stopped: BaseException) -> bool:
    """Whether a command ends for what says nothing about its moves: an interrupt, or a chain that
    does not answer."""
    from psymm.chain.errors import BadReply, ChainDown

    return holds(stopped, KeyboardInterrupt, ChainDown, BadReply)


def _say_under_way(stopped: BaseException, moves: Sequence[Move]) -> None:
    """What a command that was cut short leaves on its way, in words."""
    for move in moves:
        if move.status == "sent":
            sent = f" as {move.tx_hash}" if move.tx_hash else ""
            stopped.add_note(
                f"The {move.purpose} was sent{sent}, not confirmed yet. The next command takes it "
                "up; `psymm notes` shows what became of it."
            )


async def _kept_moves(home: DataDir, wallet: KeyWallet, deployment: Deployment) -> list[Move]:
    """The moves under way by the home's file alone, without a chain; none where it cannot be read
    now, which what ended the command is graver than."""
    from psymm.custody.errors import CustodyError
    from psymm.custody.store import open_store
    from psymm.custody.viewing import viewing_key

    file = home.path / "notes.sqlite"
    if not file.exists():
        return []
    try:
        view = await viewing_key(wallet, deployment.chain_id, deployment.psymm)
        store = await open_store(view, file)
    except (CustodyError, StorageError):
        return []
    try:
        return await store.moves(alive=True)
    finally:
        await store.aclose()


@asynccontextmanager
async def open_business(
    screen: Screen, funds: Funds, options: SendingOptions, token: TokenInfo, journal: Path
) -> AsyncIterator[Client]:
    """Starts the prover, takes up the moves that were under way, and opens the journal.

    Raises what `finish_earlier` and `open_client_on` raise. Cancelled: closes the journal.
    """
    from psymm.api.client import open_client_on

    senders = funds.senders(options, token)
    async with open_block_nursery() as nursery:
        # The prover needs seconds to start; nobody should have to wait for it.
        if funds.vault.prover is not None:
            nursery.start_soon(funds.vault.prover.start)
        await finish_earlier(screen, funds, senders)
        async with open_client_on(
            funds.wallet,
            funds.vault,
            funds.context.registry,
            senders,
            journal,
            private=options.private,
        ) as client:
            yield client
        nursery.cancel_scope.cancel()


async def fee_line(
    screen: Screen, funds: Funds, options: SendingOptions, kind: str, token: TokenInfo
) -> str | None:
    """What a relayer will take for such a move, for showing; None if it will be sent directly.

    No move of this command pays more than what is shown here at the most. Raises NoRelayer
    unless --direct was given.
    """
    from psymm.relayer.errors import NoRelayer
    from psymm.relayer.wire import GAS

    try:
        relayers = funds.relayers(options, token)
        quotes = await relayers.quotes(kind, token.address)
    except NoRelayer as none:
        if not options.direct:
            raise
        screen.event(
            "no-relayer",
            f"No relayer: {none}. Your own account will send, and everybody will see that.",
        )
        return None
    least = min(quote.fee for quote in quotes)
    most = relayers.most(kind, token.address)
    most = least if most is None else most
    relayers.limit(token.address, most)
    low, high = (format_amount(units, token.decimals) for units in (least, most))
    gas, price_wei = (
        GAS["ctc" if kind == "ctc" else "cta"],
        (await funds.context.chain.fees()).max_wei,
    )
    return (
        f"{low} {token.symbol} for each move, the cheapest of {len(quotes)}, never above {high} "
        f"(a move costs a relayer up to {gas * price_wei / 10**18:.6f} ETH of gas)"
    )


def sending_options(function: Callable[P, R]) -> Callable[P, R]:
    """Adds --relayer-order, --max-fee, --direct, --tls-ca, --plain and --private-endpoints; the
    command gets `sending`."""

    @click.option(
        "--relayer-order",
        type=click.Choice(("random", "cheapest")),
        default=_ORDER,
        show_default=True,
        help="Which of the registry's relayers to take: the cheapest, or any that is not dear.",
    )
    @click.option(
        "--max-fee", default=None, metavar="AMOUNT", help="The most that a relayer may take a move."
    )
    @click.option(
        "--direct",
        is_flag=True,
        help="If no relayer does it, send with this wallet; it then shows on chain.",
    )
    @client_tls_option
    @private_option
    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        tls_ca = kwargs.pop("tls_ca")
        max_fee = kwargs.pop("max_fee")
        private = kwargs.pop("private")
        kwargs["sending"] = SendingOptions(
            order=str(kwargs.pop("relayer_order")),
            max_fee=None if max_fee is None else str(max_fee),
            direct=bool(kwargs.pop("direct")),
            tls_ca=tls_ca if isinstance(tls_ca, Path) else None,
            plain=bool(kwargs.pop("plain")),
            private=None if private is None else bool(private),
        )
        return function(*args, **kwargs)

    return wrapper
