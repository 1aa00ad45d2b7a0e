"""A party's home: the directory of one wallet.

    keystore.json     the wallet's key, encrypted (keystore v3)
    deployment.json   which chain and contracts this party uses, written by `psymm deploy`
    rpc.url           the node's address, which may be a customer's key
    policy.toml       this party's trading limits, if it sets any
    journal.db        frames, heads and session keys: must never be lost
    notes.sqlite      the notes that the wallet owns, and its moves under way
    revocations.json  session keys revoked on chain (a cache)
    outbox.sqlite     registry entries and revocations that a reorganisation could still take back
    tree.sqlite       all commitments on chain (a cache)
    side-vault/       notes.sqlite and tree.sqlite of deposits made while a daemon holds the notes
    relayer.db        a relayer's sends under way
    oracle.db         an oracle signer's votes and rounds: must never be lost
    transcripts/      finished custodies, one *.psymm file each

Directories get mode 0700, files 0600.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from psymm.cli.exit_status import CommandError, Exit
from psymm.private_files import private_directory, write_private
from psymm.storage import translate_errors, user_directory


@dataclass(frozen=True)
class DataDir:
    """The paths of one party. Nothing is created until `prepare`."""

    path: Path

    @property
    def keystore(self) -> Path:
        return self.path / "keystore.json"

    @property
    def deployment(self) -> Path:
        return self.path / "deployment.json"

    @property
    def rpc(self) -> Path:
        return self.path / "rpc.url"

    @property
    def policy(self) -> Path:
        return self.path / "policy.toml"

    @property
    def journal(self) -> Path:
        return self.path / "journal.db"

    @property
    def side_vault(self) -> Path:
        return self.path / "side-vault"

    @property
    def relayer(self) -> Path:
        return self.path / "relayer.db"

    @property
    def oracle(self) -> Path:
        return self.path / "oracle.db"

    @property
    def outbox(self) -> Path:
        return self.path / "outbox.sqlite"

    @property
    def transcripts(self) -> Path:
        return self.path / "transcripts"

    def prepare(self) -> None:
        """Make the directory, for its owner alone.

        Raises StorageError if it cannot be made, CommandError `home` (exit 2) if others can enter
        it.
        """
        private_directory(self.path)
        with translate_errors(self.path):
            mode = stat.S_IMODE(self.path.stat().st_mode)
        if mode & 0o077:
            raise CommandError(
                "home",
                f"Others can enter {self.path} (mode {mode:o}); run: chmod 700 {self.path}",
                Exit.USAGE,
            )

    def adopt_deployment(self, file: Path) -> None:
        """Copy a deployment file into this home, so that later commands need not name it."""
        self.prepare()
        with translate_errors(file):
            if not self.deployment.exists() or not self.deployment.samefile(file):
                write_private(self.deployment, file.read_bytes())


def default_data_dir() -> Path:
    """$PSYMM_HOME, else psymm/home under the user's data directory (XDG). Raises NoHome."""
    chosen = os.environ.get("PSYMM_HOME")
    return Path(chosen) if chosen else data_directory() / "home"


def data_directory() -> Path:
    """$XDG_DATA_HOME/psymm, else ~/.local/share/psymm. Raises NoHome."""
    return user_directory("XDG_DATA_HOME", ".local", "share") / "psymm"
