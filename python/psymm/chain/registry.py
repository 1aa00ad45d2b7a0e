"""The registry on chain: the public list of parties with role, endpoint and key, and the session
keys that wallets revoked.

Anybody can write there, so everything read from it is checked: a public key must hash to its
account, an endpoint must be an address that we would connect to. A flood of entries must not hide
honest ones, so readers take a bounded sample (`candidates`, `asking_order`).
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

from psymm._core import address_of
from psymm.chain.addresses import ZERO_ADDRESS, checksummed
from psymm.chain.artifacts import artifact
from psymm.chain.contracts import Contract
from psymm.chain.errors import BadReply, CallInvalid, RegistrationInvalid, ReplyTooLong, Reverted
from psymm.chain.transactions import Chain, Receipt, Signer
from psymm.errors import BadEndpoint
from psymm.sockets.endpoints import parse_endpoint
from psymm.typed_message import TypedMessage

_PAGE: Final = 100
_PAGES: Final = 4
"""How many random pages are read in addition to the first."""
_MOST_LISTED: Final = 100_000
_MOST_ENTRIES: Final = 1 << 32
"""A bound on the count that a node reports; no chain has paid for so many entries."""
_LATEST_S: Final = 253_402_300_799
"""The last second of the year 9999, which calendars can show."""
_KNOWN: Final = 64
"""The most accounts that served us before and are looked up one by one."""


class Role(IntEnum):
    """The roles with the contract's numbers."""

    TRADER = 1
    SOLVER = 2
    RELAYER = 3
    VALIDATOR = 4
    ORACLE = 5
    WATCHER = 6


@dataclass(frozen=True, slots=True)
class RegistryEntry:
    """One entry.

    Attributes:
        public_key: 64 bytes, x ‖ y, of `account`.
        updated_at: seconds since the epoch.
    """

    account: str
    role: Role
    endpoint: str
    public_key: bytes
    updated_at: int


@dataclass(frozen=True, slots=True)
class RegistryChange:
    """One change in the registry.  endpoint, public_key: None if the entry was removed."""

    block: int
    role: Role
    account: str
    endpoint: str | None
    public_key: bytes | None

    @property
    def removed(self) -> bool:
        return self.endpoint is None


@dataclass(frozen=True, slots=True)
class Revocation:
    """A session key that its wallet revoked.

    Attributes:
        wallet: checksummed address.
        key: checksummed address.
        from_seq: the first frame that the key may no longer sign.
        block: the block of the revocation.
    """

    wallet: str
    key: str
    from_seq: int
    block: int


class Registry(Contract):
    """The PartyRegistry contract."""

    def __init__(self, chain: Chain, address: str) -> None:
        super().__init__(chain, address, artifact("PartyRegistry").abi)

    async def register(
        self, signer: Signer, role: Role, endpoint: str, public_key: bytes, *, depth: int = 1
    ) -> Receipt:
        """Write or overwrite the signer's own entry for a role.

        Raises RegistrationInvalid before anything is sent, and what Chain.transact raises.
        """
        checked_endpoint(endpoint)
        _checked_key(public_key, signer.address)
        values = int(role), endpoint, public_key
        return await self.transact(
            signer, "register", *values, doing="the registration", depth=depth
        )

    async def remove(self, signer: Signer, role: Role, *, depth: int = 1) -> Receipt:
        """Remove the signer's own entry for a role.  Raises Reverted if there is none."""
        doing = "the removal from the registry"
        return await self.transact(signer, "remove", int(role), doing=doing, depth=depth)

    async def get(self, role: Role, account: str) -> RegistryEntry | None:
        """The entry of an account, None if it has none.

        Raises RegistrationInvalid if it has one that cannot be used, BadReply for another's entry.
        """
        account = checksummed("account", account)
        try:
            raw = await self.read("get", int(role), account)
        # The contract's answer for an account that is not listed.
        except Reverted:
            return None
        if raw[0] == ZERO_ADDRESS:
            return None
        found = self._party(raw)
        # Every entry is consistent in itself, so a node could answer a question about one solver
        # with another, who would get the trader's collateral.
        if (found.account, found.role) != (account, role):
            raise BadReply(self.chain.rpc.endpoint, "eth_call", "another account's entry")
        return found

    async def count(self, role: Role) -> int:
        return int(await self.read("count", int(role)))

    async def list(self, role: Role, *, page: int = 100) -> AsyncIterator[RegistryEntry]:
        """Every usable entry of a role, in pages read at one block, so that no registration or
        removal meanwhile hides an entry.  Invalid entries are left out; `get` says what is wrong
        with one.

        Anybody can fill the registry, so take only as many as needed.  Raises ReplyTooLong after
        the first _MOST_LISTED, BadReply if the node contradicts its count.
        """
        block = (await self.chain.block()).hash
        count = int(await self.read("count", int(role), block=block))
        for offset in range(0, min(count, _MOST_LISTED), page):
            rows = await self.read("list", int(role), offset, page, block=block)
            if len(rows) != min(page, count - offset):
                raise BadReply(
                    self.chain.rpc.endpoint,
                    "eth_call",
                    f"{len(rows)} entries from {offset} on, of {count}",
                )
            for party in self._usable(rows, role):
                yield party
        if count > _MOST_LISTED:
            raise ReplyTooLong(
                self.chain.rpc.endpoint, "eth_call", f"{count} entries; {_MOST_LISTED} were read"
            )

    async def candidates(self, role: Role, known: Collection[str] = ()) -> Sequence[RegistryEntry]:
        """Up to a few hundred usable entries of a role, all at one block.

        They are the first page, whose entries registered before any flood; some random pages; and
        `known`, the accounts that served us before.  `asking_order` says whom to ask first.
        """
        block = (await self.chain.block()).hash
        count = min(int(await self.read("count", int(role), block=block)), _MOST_ENTRIES)
        pages = range(-(-count // _PAGE))
        # Not Python's own generator: an attacker who predicts the pages would place entries there.
        chosen = pages[:1], secrets.SystemRandom().sample(pages[1:], min(_PAGES, len(pages[1:])))
        found: list[RegistryEntry] = []
        for offset in (*chosen[0], *sorted(chosen[1])):
            rows = await self.read("list", int(role), offset * _PAGE, _PAGE, block=block)
            found.extend(self._usable(rows, role))
        there = {party.account for party in found}
        served = [account for account in dict.fromkeys(known) if account not in there][:_KNOWN]
        for account in served:
            try:
                party = await self.get(role, account)
            except RegistrationInvalid:
                continue
            if party is not None:
                found.append(party)
        return found

    def _usable(self, rows: Sequence[tuple[Any, ...]], role: Role) -> Iterator[RegistryEntry]:
        for raw in rows:
            try:
                party = self._party(raw)
            except RegistrationInvalid:
                continue
            if party.role is role:
                yield party

    async def changes(self, first: int, last: int) -> AsyncIterator[RegistryChange]:
        """All entries written or removed from block `first` to `last`, in order."""
        removed = self.abi.event("PartyRemoved").topic
        async for log in self.logs(first, last, "PartyUpdated", "PartyRemoved"):
            values = self.values(
                "PartyRemoved" if log.topics[0] == removed else "PartyUpdated", log
            )
            try:
                role = Role(values["role"])
            except ValueError:
                raise BadReply(self.chain.rpc.endpoint, "eth_getLogs", "an unknown role") from None
            yield RegistryChange(
                log.block, role, values["account"], values.get("endpoint"), values.get("publicKey")
            )

    # --- session keys -------------------------------------------------------------------------

    async def revoke_key(
        self, signer: Signer, key: str, from_seq: int, *, depth: int = 1
    ) -> Receipt:
        """Revoke a session key of the signer's own wallet from frame `from_seq` on, for good.

        An earlier revocation from the same or a lower frame stays in force.  Raises what
        Chain.transact raises.  Cancelled: it may still be mined.
        """
        values = key, from_seq
        return await self.transact(
            signer, "revokeKey", *values, doing="the revocation", depth=depth
        )

    async def revoke_key_for(
        self,
        signer: Signer,
        wallet: str,
        key: str,
        from_seq: int,
        signature: bytes,
        *,
        depth: int = 1,
    ) -> Receipt:
        """`revoke_key` for a wallet that signed `revocation_message`; `signer` only pays.

        Raises Reverted (NotSignedByWallet) and what Chain.transact raises.  Cancelled: it may
        still be mined.
        """
        if len(signature) != 65:
            raise CallInvalid("signature", "is 65 bytes, r then s then v")
        values = wallet, key, from_seq, signature[64], signature[:32], signature[32:64]
        return await self.transact(
            signer, "revokeKeyFor", *values, doing="the revocation", depth=depth
        )

    def revocation_message(self, wallet: str, key: str, from_seq: int) -> TypedMessage:
        """What a wallet signs so that anyone can submit its revocation."""
        return TypedMessage(
            chain_id=self.chain.chain_id,
            contract=self.address,
            primary_type="KeyRevocation",
            fields=(("wallet", "address"), ("key", "address"), ("fromSeq", "uint64")),
            values={"wallet": wallet, "key": key, "fromSeq": from_seq},
        )

    async def revocation(
        self, wallet: str, key: str, block: int | bytes | str = "latest"
    ) -> Revocation | None:
        """The revocation of a key at that block; None if the wallet had not revoked it."""
        from_seq, number = await self.read("revocation", wallet, key, block=block)
        # Frames count from 1, so 0 means that nothing was revoked.
        return Revocation(wallet, key, from_seq, number) if from_seq else None

    async def revocations(self, first: int, last: int) -> AsyncIterator[Revocation]:
        """Every revocation from block `first` to `last`, in order."""
        async for log in self.logs(first, last, "KeyRevoked"):
            values = self.values("KeyRevoked", log)
            yield Revocation(values["wallet"], values["key"], values["fromSeq"], log.block)

    def _party(self, raw: tuple[Any, ...]) -> RegistryEntry:
        account, role, endpoint, public_key, updated_at = raw
        try:
            known = Role(role)
        except ValueError:
            raise RegistrationInvalid("role", role, "is not a known role") from None
        checked_endpoint(endpoint)
        _checked_key(public_key, account)
        if updated_at > _LATEST_S:
            raise RegistrationInvalid("updatedAt", updated_at, "is no block's time")
        return RegistryEntry(account, known, endpoint, public_key, updated_at)


def asking_order(
    entries: Sequence[RegistryEntry], known: Collection[str] = ()
) -> list[RegistryEntry]:
    """The order in which to ask entries: those of `known` first, then alternately the next of the
    list and a random one."""
    first = [party for party in entries if party.account in known]
    old = [party for party in entries if party.account not in known]
    strangers = list(old)
    random = secrets.SystemRandom()
    random.shuffle(first)
    random.shuffle(strangers)
    # The old ones were there before any flood; the random ones give new parties a chance.
    mixed = (party for pair in zip(old, strangers, strict=True) for party in pair)
    return list({party.account: party for party in (*first, *mixed)}.values())


def checked_endpoint(endpoint: str) -> str:
    """A WebSocket address that we would connect to; see `parse_endpoint`.

    Raises RegistrationInvalid.
    """
    try:
        return parse_endpoint(endpoint).text
    except BadEndpoint as bad:
        shown, reason = bad.values["endpoint"], str(bad.values["reason"])
        raise RegistrationInvalid("endpoint", shown, reason) from None


def _checked_key(public_key: bytes, account: str) -> None:
    if len(public_key) != 64:
        raise RegistrationInvalid("public key", public_key, "must be 64 bytes, x then y")
    try:
        address = address_of(public_key)
    except ValueError:
        raise RegistrationInvalid("public key", public_key, "is not a point of the curve") from None
    # The account follows from the key. So nobody can list another's key as theirs.
    if address != account:
        raise RegistrationInvalid("public key", public_key, f"belongs to {address}, not {account}")
