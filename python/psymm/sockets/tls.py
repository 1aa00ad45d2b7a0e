"""TLS for daemons and clients: version 1.2 or later; chains and host names are always verified.

A server reads its certificate again when the files change. New connections get the renewed one,
existing connections continue. If the renewal is broken, we log it and keep the old one.
"""

from __future__ import annotations

import logging
import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from psymm.errors import CertificateInvalid

log = logging.getLogger(__name__)

LOOK_S: Final = 1.0
"""Seconds between two looks at the files, at least."""


@dataclass(frozen=True, slots=True)
class _Stamp:
    """The properties of a file that change when it is replaced."""

    inode: int
    size: int
    changed_ns: int

    @classmethod
    def of(cls, path: Path) -> _Stamp:
        found = path.stat()
        return cls(found.st_ino, found.st_size, found.st_mtime_ns)


class Certificate:
    """A server's certificate chain and key (PEM), as the files are now.

    Raises CertificateInvalid if the files cannot be used.

    Attributes:
        renewals: How often the files were read again.

    Args:
        password: Returns the key's passphrase, if it has one. Called at each reading; the
            passphrase is kept nowhere.
    """

    def __init__(
        self, chain: Path, key: Path, *, password: Callable[[], bytes] | None = None
    ) -> None:
        self.chain = chain
        self.key = key
        self.renewals = 0
        self._password = password
        self._stamps = self._stamped()
        self._context = self._read()
        self._looked = trio.current_time()

    def context(self) -> ssl.SSLContext:
        """The context for the next connection. Looks at the files. Blocks while they are read,
        which happens once for each renewal."""
        now = trio.current_time()
        if now - self._looked >= LOOK_S:
            self._looked = now
            self._renew()
        return self._context

    def _renew(self) -> None:
        try:
            # The stamps before the contents: a change in between is seen at the next look.
            stamps = self._stamped()
            if stamps == self._stamps:
                return
            context = self._read()
        except CertificateInvalid as bad:
            # In the middle of a renewal the two files do not match. They will at the next look.
            log.warning("certificate-not-renewed", extra={"code": bad.code})
            return
        self._stamps, self._context = stamps, context
        self.renewals += 1
        log.info("certificate-renewed")

    def _stamped(self) -> tuple[_Stamp, _Stamp]:
        try:
            return _Stamp.of(self.chain), _Stamp.of(self.key)
        except OSError as bad:
            raise CertificateInvalid(
                f"{bad.filename} cannot be read: {bad.strerror}", file=bad.filename
            ) from None

    def _read(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        # Renegotiation would let a peer repeat the costly handshake on a connection that admission
        # counts once. Compression shows by its lengths what is encrypted.
        context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
        try:
            _close_to_others(self.key)
            context.load_cert_chain(self.chain, self.key, password=self._password or _unknown)
        except ValueError:
            raise CertificateInvalid("the key's passphrase is longer than 1,024 bytes") from None
        except OSError as bad:  # ssl.SSLError is one
            raise CertificateInvalid(
                f"{self.chain} and {self.key} cannot be used: {_why(bad)}", file=str(self.chain)
            ) from None
        return context


def client_context(authority: Path | None = None) -> ssl.SSLContext:
    """A client's context: verifies servers with the system's authorities, or with those of one file
    only.

    Raises CertificateInvalid if the file holds no certificate.
    """
    try:
        context = ssl.create_default_context(cafile=authority)
    except OSError as bad:
        raise CertificateInvalid(
            f"{authority} cannot be used: {_why(bad)}", file=str(authority)
        ) from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if authority is not None and not context.get_ca_certs():
        raise CertificateInvalid(f"{authority} holds no authority", file=str(authority))
    return context


def password_file(path: Path) -> Callable[[], bytes]:
    """The key's passphrase, from a file's first line. Raises CertificateInvalid when it is read."""

    def read() -> bytes:
        try:
            return path.read_bytes().split(b"\n", 1)[0].rstrip(b"\r")
        except OSError as bad:
            raise CertificateInvalid(f"{path} cannot be read: {bad.strerror}") from None

    return read


def password_variable(name: str) -> Callable[[], bytes]:
    """The key's passphrase, from an environment variable."""
    return lambda: os.environb.get(name.encode(), b"")


def _unknown() -> bytes:
    """An encrypted key without a passphrase must fail. OpenSSL would ask at a terminal."""
    raise CertificateInvalid("the key is encrypted and no passphrase was given")


def _close_to_others(key: Path) -> None:
    """Take read access to a key away from others. The file may be a link, and belong to root or a
    group, as tools that renew certificates leave it. Raises CertificateInvalid if we may not do
    that, OSError."""
    found = key.stat()
    if os.name != "posix" or not found.st_mode & 0o007:
        return
    if found.st_uid != os.geteuid():
        # Only the owner can change the mode.
        raise CertificateInvalid(
            f"everybody on this machine may read the key; run: chmod o-rwx {key}", file=str(key)
        )
    key.chmod(found.st_mode & 0o770)


def _why(bad: OSError) -> str:
    if isinstance(bad, ssl.SSLError):
        return bad.reason or "not PEM, or key and certificate do not fit"
    return bad.strerror or type(bad).__name__
