"""The addresses of nodes, which often hold a customer's key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

from psymm.chain.errors import NodeAddressInvalid

AGREE: Final = "agree"
"""This word in a list of addresses means that two nodes must give the same answers."""


class Node:
    """One node's address, and the part of it that may be shown: path, query and user name are often
    a customer's key."""

    def __init__(self, url: str) -> None:
        try:
            parts = urlsplit(url)
            host = parts.hostname or ""
            host.encode("idna")  # as the system's resolver does, whose error would be untyped
        except ValueError:
            raise NodeAddressInvalid("its host is not a name or an IP address") from None
        if parts.scheme not in ("http", "https") or not host:
            raise NodeAddressInvalid("it must start with http:// or https:// and name a host")
        try:
            port = f":{parts.port}" if parts.port is not None else ""
        except ValueError:
            raise NodeAddressInvalid("its port is not a number up to 65535") from None
        self.url: Final = url
        self.serves: int | None = None
        """The chain id that it answered with, once it has been checked."""
        self.endpoint: Final = f"{parts.scheme}://{f'[{host}]' if ':' in host else host}{port}"


def nodes_of(urls: str | Sequence[str], agree: bool = False) -> tuple[list[Node], bool]:
    """The nodes at these addresses, and whether two must agree; arguments as for `Rpc`.  Raises
    NodeAddressInvalid."""
    given = dict.fromkeys(urls.split() if isinstance(urls, str) else urls)
    agree = agree or AGREE in given
    nodes = [Node(url) for url in given if url != AGREE]
    if not nodes or (agree and len(nodes) < 2):
        raise NodeAddressInvalid(
            "two nodes are needed to compare answers" if agree else "there is none"
        )
    return nodes, agree
