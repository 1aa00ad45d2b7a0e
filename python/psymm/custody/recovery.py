"""Finding everything a wallet owns from its key and the chain alone.

Each note's memo was sealed by its owner under a key that follows from one wallet signature.  So
every memo in the tree is tried, and what opens is believed only if the commitment comes out the
same.  The same search with the viewing secret alone is what an auditor sees; it can spend nothing.

Not found this way: a note that a counterparty made in a common custody (its opening is in the
journal), and a payout place that was given away and never paid.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from psymm.chain.deployment import Deployment
from psymm.chain.sync import TreeSync, open_tree
from psymm.chain.transactions import Chain
from psymm.custody.moves import Vault, open_vault
from psymm.custody.notes import Note
from psymm.custody.prover import Prover
from psymm.custody.store import SPENT, UNSPENT
from psymm.custody.viewing import ViewingKey
from psymm.wallet import Wallet


@dataclass(frozen=True, slots=True)
class FoundNote:
    """One note of a wallet.  status: "unspent" or "spent"; spent_block: None while unspent."""

    note: Note
    counter: int
    position: int
    block: int
    spent_block: int | None

    @property
    def status(self) -> str:
        return UNSPENT if self.spent_block is None else SPENT


@dataclass(frozen=True, slots=True)
class Findings:
    """All notes of a wallet in the tree, oldest first, as of a block."""

    block: int
    notes: tuple[FoundNote, ...]

    def sole(self, token: str | None = None) -> list[FoundNote]:
        """Unspent notes of value in the wallet's own custody."""
        return [one for one in self._unspent(token) if one.note.custody.is_sole]

    def bilateral(self, token: str | None = None) -> list[FoundNote]:
        """Unspent notes of value in custodies with others; spending these takes both keys."""
        return [one for one in self._unspent(token) if not one.note.custody.is_sole]

    def balance(self, token: str) -> int:
        """Token units that the wallet can spend alone."""
        return sum(one.note.amount for one in self.sole(token))

    @property
    def next_counter(self) -> int:
        """A counter above every one that is in the tree; 0 for an empty wallet."""
        return max((one.counter for one in self.notes), default=-1) + 1

    def _unspent(self, token: str | None) -> list[FoundNote]:
        return [
            one
            for one in self.notes
            if one.spent_block is None
            and one.note.amount
            and (token is None or one.note.token == token)
        ]


def search(view: ViewingKey, tree: TreeSync) -> Findings:
    """Everything in the tree that a viewing secret opens.  Computes only; about 10 µs a leaf."""
    found: list[FoundNote] = []
    for leaf in tree.leaves:
        own = view.find(leaf.commitment, leaf.memo)
        if own is not None:
            note, counter = own
            spent = tree.spent_block(note.nullifier)
            found.append(FoundNote(note, counter, leaf.position, leaf.block, spent))
    return Findings(tree.block, tuple(found))


async def audit(view: ViewingKey, deployment: Deployment, chain: Chain) -> Findings:
    """What a holder of the viewing secret sees, read from the chain.

    Raises what reading the chain raises.
    """
    tree = await open_tree(deployment.pool(chain), deployment.first_block)
    try:
        await tree.advance()
        return search(view, tree)
    finally:
        await tree.aclose()


async def recover(
    wallet: Wallet,
    deployment: Deployment,
    chain: Chain,
    *,
    home: Path | None = None,
    prover: Prover | None = None,
    depth: int = 1,
) -> tuple[Vault, Findings]:
    """Rebuild a wallet from its key and the chain into new files.

    home: where no notes are kept yet; files that stand there are read, not overwritten.  The new
    store draws new counters, so even moves that were under way when the old one was lost collide
    with nothing.  Raises what `open_vault` raises.
    """
    vault = await open_vault(wallet, deployment, chain, home=home, prover=prover, depth=depth)
    return vault, search(vault.view, vault.tree)
