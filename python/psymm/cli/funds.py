"""A home's money, opened for one command: wallet, chain, prover, notes, and the senders of moves.

`open_funds` opens them in this order and closes them in reverse. Only one process may have the
notes open. If a daemon has them, a command that spends none opens the side vault instead: a store
of its own, which knows the notes from the chain alone.

`open_business` adds the journal, for commands that trade. Before, it continues the moves that an
earlier command left under way, so that their notes are not planned for anything else.

Durable when: the store has a move before it is sent (`psymm.custody.moves`). So an interrupt, or a
chain that stops answering, loses nothing. The error then names each move that is still under way.
"""

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
    from psymm.custody.stored import Move
    from psymm.relayer.sender import RelayerSender
    from psymm.wallet import KeyWallet

P = ParamSpec("P")
R = TypeVar("R")

PROOF_S = 5.0
"""The time of a proof on two cores, for estimates."""
_ORDER = "cheapest"
BLOCK_S = 12.0
"""The time until a transaction is mined on a public chain, for estimates."""


@dataclass(frozen=True)
class SendingOptions:
    """The command line's options about who sends moves.

    Attributes:
        order: "cheapest" or "random".
        max_fee: as typed; None if it was not given.
        direct: use the party's own account if no relayer sends the move.
        tls_ca: the authority for wss:// endpoints; None: the system's.
        plain: also use ws:// to other machines.
        private: allow endpoints on this machine or a local network; None: only on the development
            chain.
    """

    order: str
    max_fee: str | None
    direct: bool
    tls_ca: Path | None = None
    plain: bool = False
    private: bool | None = None

    def words(self) -> list[str | Path]:
        """The options as words of a command line, without defaults."""
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
    open_side_vault: OpenVault | None = None
    """Opens the side vault, which has the deposits made while a daemon held the notes; None if
    there is none, or if it is `vault`."""
    _relayers: dict[str, RelayerSender] = field(default_factory=dict)

    def token(self, name: str | None) -> TokenInfo:
        """The token with this symbol or address; None: the deployment's only token."""
        return token_of(self.context.deployment, name)

    def relayers(self, options: SendingOptions, token: TokenInfo) -> RelayerSender:
        """The client of the registry's relayers, under the options' limits."""
        from psymm.chain.registry import RegistryEntry, Role
        from psymm.relayer.sender import RelayerSender

        # One for the whole command, so that agreed fees and failed relayers are remembered.
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
        """The senders to try for a move, in order; the own account last, and only with --direct."""
        from psymm.custody.sending import DirectSender

        direct = DirectSender(self.context.pool, self.wallet) if options.direct else None
        return self.relayers(options, token).senders(direct)


OpenFunds: TypeAlias = Callable[[], AbstractAsyncContextManager[Funds]]
"""`open_funds` with its arguments from the command line."""


@asynccontextmanager
async def open_funds(
    home: DataDir,
    deployment_file: Path | None,
    rpc_url: str | None,
    password: str,
    *,
    in_memory: bool = False,
    proving: bool = True,
    on_daemon: Callable[[], None] | None = None,
) -> AsyncIterator[Funds]:
    """Open wallet, chain and vault; all are closed at the end, the prover's process too.

    Args:
        in_memory: read everything from the chain again and leave the home's files alone.
        proving: whether the vault gets a prover.
        on_daemon: for commands that spend no note. If a daemon holds the notes, this is called and
            the side vault is opened, which knows the notes from the chain alone. The daemon finds
            what is deposited there by its memo.

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
            left = partial(opened, home=home.side_vault)
            open_side_vault = (
                left if place and (home.side_vault / "notes.sqlite").exists() else None
            )
            try:
                vault = await opened(home=place)
            except StoreLocked:
                if on_daemon is None:
                    raise
                on_daemon()
                # Each store's counters start at a random number, so two stores do not collide.
                vault, open_side_vault = await left(), None
            async with vault:
                try:
                    yield Funds(wallet, context, vault, open_side_vault)
                except BaseException as stopped:
                    if _cut_short(stopped):
                        with trio.CancelScope(shield=True):
                            _say_under_way(stopped, await vault.store.moves(alive=True))
                    raise
    except BaseException as stopped:
        # The chain did not answer before the notes were open, so the home's file says what is under
        # way.
        if vault is None and not in_memory and _cut_short(stopped):
            deployment = load_deployment(home, deployment_file, rpc_url)
            with trio.CancelScope(shield=True):
                _say_under_way(stopped, await _kept_moves(home, wallet, deployment))
        raise


def _cut_short(stopped: BaseException) -> bool:
    """Whether a command ended for a reason that says nothing about its moves: an interrupt, or a
    chain that does not answer."""
    from psymm.chain.errors import BadReply, ChainDown

    return holds(stopped, KeyboardInterrupt, ChainDown, BadReply)


def _say_under_way(stopped: BaseException, moves: Sequence[Move]) -> None:
    """Add a note for each sent move that a command leaves under way."""
    for move in moves:
        if move.status == "sent":
            sent = f" as {move.tx_hash}" if move.tx_hash else ""
            stopped.add_note(
                f"The {move.purpose} was sent{sent}, not confirmed yet. The next command continues "
                "with it; `psymm notes` shows how it ended."
            )


async def _kept_moves(home: DataDir, wallet: KeyWallet, deployment: Deployment) -> list[Move]:
    """The moves under way according to the home's file, without a chain; none if it cannot be
    read, because the error that ended the command matters more."""
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
    """Start the prover, continue the moves under way, and open the journal.

    Raises what `finish_earlier` and `open_client_on` raise. Cancelled: closes the journal.
    """
    from psymm.api.client import open_client_on

    senders = funds.senders(options, token)
    async with open_block_nursery() as nursery:
        # The prover takes seconds to start, so it starts in the background.
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
    """A relayer's fee for such a move, for display; None if the move will be sent directly.

    No move of this command pays more than the maximum shown here. Raises NoRelayer unless --direct
    was given.
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
            f"No relayer: {none}. Your own account will send it, and everybody will see that.",
        )
        return None
    least = min(quote.fee for quote in quotes)
    most = relayers.fee_limit(kind, token.address)
    most = least if most is None else most
    # From here on a relayer that asks for more than is shown is refused.
    relayers.cap_fee(token.address, most)
    low, high = (format_amount(units, token.decimals) for units in (least, most))
    gas, price_wei = (
        GAS["ctc" if kind == "ctc" else "cta"],
        (await funds.context.chain.fees()).max_wei,
    )
    return (
        f"{low} {token.symbol} for each move, the cheapest of {len(quotes)}, at most {high} "
        f"(a move costs a relayer up to {gas * price_wei / 10**18:.6f} ETH of gas)"
    )


def sending_options(function: Callable[P, R]) -> Callable[P, R]:
    """Add --relayer-order, --max-fee, --direct, --tls-ca, --plain and --private-endpoints; the
    command gets `sending`."""

    @click.option(
        "--relayer-order",
        type=click.Choice(("random", "cheapest")),
        default=_ORDER,
        show_default=True,
        help="Which relayer to take: the cheapest, or any whose fee is within the limits.",
    )
    @click.option(
        "--max-fee", default=None, metavar="AMOUNT", help="The most to pay a relayer for one move."
    )
    @click.option(
        "--direct",
        is_flag=True,
        help="If no relayer sends it, send with this wallet, which then shows on chain.",
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
