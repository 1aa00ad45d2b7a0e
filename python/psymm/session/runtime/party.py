"""LocalParty: wallet, journal, custody and clock of this process, and how it loads a custody.

`load_session` is the only way to a `SessionProtocol`. New custodies and old ones take the same
steps in the same order:

1. Read the record and the notes' openings from the journal.
2. Find our session keys. A custody without frames gets its first key and its Logon.
3. Replay the frames through the rulebook and build the protocol, in a thread.
4. Finish what a crash may have interrupted: the newest checkpoint and the custody's state.
5. Build the key rotator and the runner. The caller starts the runner.

What is durable when: a new session key is in the journal before the wallet delegates it. So no
frame can ever be signed with a key that a restart would not find.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from psymm._core import Frame, FrameError, SecretKey, address_of
from psymm.custody.notes import Note
from psymm.errors import CustodyStopped, JournalBehind, JournalCorrupt, Missing, TermsRefused
from psymm.journal.codec import JournalledCustody
from psymm.journal.replayed import read_record
from psymm.journal.writer import Journal
from psymm.messages import Logon, NoteRef
from psymm.session.protocol import (
    SECOND,
    Event,
    SessionParams,
    SessionStatus,
    begin_session,
    checkpoints,
    key_in_force,
)
from psymm.session.protocol.chain_facts import custody_of
from psymm.session.runtime.base_account import account_at
from psymm.session.runtime.clock import Clock
from psymm.session.runtime.collateral import Collateral, kept_facts
from psymm.session.runtime.key_rotator import KEY_LIFE_NS, KeyRotator, NoChain, Revocations
from psymm.session.runtime.ledger import RulebookLedger
from psymm.session.runtime.rounds import Rounds
from psymm.session.runtime.runner import SessionRunner
from psymm.sockets.endpoints import private_allowed
from psymm.terms import Terms, TermsError
from psymm.transcript.agreement import SOLVER, TRADER, CustodyAgreement
from psymm.transcript.delegation import Delegation
from psymm.transcript.record import Record
from psymm.transcript.verifying import FrameVerifier
from psymm.typed_message import TypedMessage
from psymm.wallet import Wallet, derive_secret

if TYPE_CHECKING:
    from psymm.chain.deployment import TokenInfo


@dataclass(frozen=True, slots=True)
class LocalParty:
    """What all sessions of one wallet on one deployment share.

    Attributes:
        chain_id: The only chain that it deals on.
        contract: The PSymm contract there, checksummed.
        registry: The registry there, checksummed.
        revocations: Read from that registry.
        key_life_ns: How long its session keys are delegated for.
        key_frames: For how many frames of our lane.
        verifier: Verifies the frames of all its sessions.
        private: Whether endpoints that others wrote may lead to this machine or a local network.
            None: on the development chain only.
        tokens: The deployment's.
        rounds: Receives for all its sessions together.
    """

    wallet: Wallet
    journal: Journal
    collateral: Collateral
    clock: Clock
    chain_id: int
    contract: str
    registry: str
    revocations: Revocations = field(default_factory=NoChain)
    key_life_ns: int = KEY_LIFE_NS
    key_frames: int = 1_000_000
    verifier: FrameVerifier = field(default_factory=FrameVerifier)
    private: bool | None = None
    tokens: tuple[TokenInfo, ...] = ()
    rounds: Rounds = field(init=False, repr=False)

    def __post_init__(self) -> None:
        # All sessions share one `Rounds`, made from the fields above.
        rounds = Rounds(self.journal, self.clock, self.verifier)
        object.__setattr__(self, "rounds", rounds)

    @property
    def dials_private(self) -> bool:
        """Whether an endpoint of the registry may lead to this machine or a local network."""
        return private_allowed(self.chain_id, self.private)


async def journal_secret(wallet: Wallet, chain_id: int, contract: str) -> bytes:
    """The secret that encrypts this wallet's journals. Raises UnsteadySigner, WalletError.
    Cancelled: raises Cancelled; nothing is kept."""
    message = TypedMessage(
        chain_id,
        contract,
        "JournalSecret",
        (("purpose", "string"),),
        {"purpose": "Opens the session keys in this wallet's pSymm journals."},
    )
    return await derive_secret(wallet, message, "journal secret 1")


def accept_terms(party: LocalParty, document: bytes) -> Terms:
    """Check that the terms are valid and for our deployment. Raises TermsRefused."""
    try:
        terms = Terms.parse(document)
    except TermsError as bad:
        raise TermsRefused(str(bad)) from None
    chain = terms.chain
    for name, theirs, ours in (
        ("chain", chain.id, party.chain_id),
        ("PSymm contract", chain.psymm, party.contract),
        ("registry", chain.registry, party.registry),
    ):
        if theirs != ours:
            raise TermsRefused(f"the terms are of another {name}", theirs=theirs, ours=ours)
    return terms


def params_of(terms: Terms, lane: int) -> SessionParams:
    """What a session at `lane` needs of the terms."""
    return SessionParams(
        token=terms.collateral.token,
        terms_hash=terms.hash,
        heartbeat_s=max(1, terms.timeouts.heartbeat // SECOND),
        acknowledge_ns=terms.timeouts.acknowledgement,
        skew_ns=terms.timeouts.skew,
        minimum_collateral=terms.minimum(1 - lane),
        frames_per_second=terms.limits.frames_per_second,
        checkpoint_frames=min(checkpoints.MOST_HELD, terms.limits.frames // 2),
    )


async def load_session(
    party: LocalParty,
    custody: JournalledCustody,
    on_event: Callable[[Event], None],
    *,
    notes: tuple[Note, ...] = (),
) -> SessionRunner:
    """The runner of a custody that the journal knows, with its frames replayed. It is not running
    yet.

    If the journal has lost frames, the session fetches them from the peer and signs nothing until
    it has them. A restored custody never signs frames (its `send` raises JournalRestored), and
    settles with the wallet's signature.

    Raises JournalCorrupt if the frames do not follow from one another, JournalSealed,
    TermsRefused, WalletError.
    Cancelled: raises Cancelled; loading again is safe.

    Args:
        notes: Ours, funded just now and not in the journal yet (the trader's before its Logon).
    """
    agreement, lane, journal = custody.agreement, custody.lane, party.journal
    terms = accept_terms(party, agreement.terms)
    record = await read_record(journal, agreement)
    ours: dict[bytes, Note] = {note.commitment: note for note in notes}
    theirs: dict[bytes, Note] = {}
    for kept in await journal.openings(agreement.custody):
        note = Note(custody_of(agreement), kept.token, kept.amount, kept.blinding)
        (ours if kept.lane == lane else theirs)[note.commitment] = note
    # A journal that lost frames may know of newer ones. Count those too: a lane that has signed
    # must not get a new first key, or it would sign a second Logon.
    newest = await journal.recovering_to(agreement.custody)
    signed = max(record.head(lane).seq, 0 if newest is None else newest.of(lane)[0])
    keys: list[tuple[int, SecretKey]] = []
    # Read-only custodies sign nothing, so they need no key.
    if custody.health != "read-only":
        keys = await _session_keys(journal, agreement.custody, signed)
    key = key_in_force(record, lane, keys) if keys else None
    # Only a lane that has never signed needs a Logon. This asks the wallet.
    logon: Logon | None = None
    if key is not None and signed == 0:
        logon = await _logon(party, agreement, lane, key, terms, tuple(ours.values()))
    # A pruned journal begins at a checkpoint: the rulebook starts from its account.
    starts_at, account = record.starts_at, None
    if starts_at is not None:
        account = account_at(journal, agreement.custody, terms, starts_at.point, starts_at.account)
    ledger = RulebookLedger(agreement, terms, starts_at=account)
    # Facts before frames: a frame that cites the chain can be ruled only if the fact is known.
    for fact in await kept_facts(journal, agreement.custody):
        ledger.learn_fact(fact)
    build = partial(
        begin_session,
        record,
        ledger,
        lane,
        params_of(terms, lane),
        key=key,
        health=custody.health,
        newest=newest,
        spare=frames_in(await journal.rescued(agreement.custody)),
        announced=custody.announced_collateral,
        notes=ours.values(),
        peer_notes=theirs.values(),
        logon=logon,
        kept=[one for _, one in keys],
        stopped=_stopped(party, custody, record, terms),
        revocations=await journal.revocations(agreement.custody),
        acknowledged=custody.delivered,
        now=party.clock.now_ns(),
    )
    # In a thread, as reading was: a long history must not delay other sessions.
    protocol = await journal.in_thread(build)
    point, agreed = ledger.point, ledger.agreed
    if point is not None and agreed is not None:
        # The process may have died after the second UCP and before this write.
        await journal.keep_checkpoint(agreement.custody, point, agreed.document)
        protocol.begin_at(point)
    rotator = KeyRotator(
        protocol,
        party.wallet,
        journal,
        party.clock,
        party.revocations,
        depth=terms.chain.confirmations,
        span=party.key_frames,
        life_ns=party.key_life_ns,
    )
    runner = SessionRunner(
        protocol,
        journal,
        party.clock,
        party.collateral,
        on_event,
        collateral_amount=custody.ours,
        rotator=rotator,
        rounds=party.rounds,
    )
    if protocol.ended and custody.state not in ("closed", "stopped"):
        # The process may have died after the frame that ended it and before this write.
        await runner.keep_status(SessionStatus.CLOSED)
    elif custody.state == "closed" and not protocol.ended:
        # An earlier version took two Logouts for the end.
        await runner.keep_status(protocol.status)
    return runner


def _stopped(
    party: LocalParty, custody: JournalledCustody, record: Record, terms: Terms
) -> CustodyStopped | None:
    """Why this custody signs nothing more; None if it does.

    A custody that stopped because the peer showed frames of ours that we do not have continues
    when our wallet has revoked the key in force. Those frames were then a thief's, and are imported
    or void. If it was restored from a backup, it signs nothing but may settle.
    """
    if custody.state != "stopped":
        return None
    if custody.health == "read-only" and custody.reason.startswith(JournalBehind.code):
        # A backup that was found to be behind is still a backup like any other.
        return None
    agreement, known = custody.agreement, record.delegation(custody.lane)
    if custody.reason.startswith(JournalBehind.code) and known is not None:
        wallet = agreement.wallet_address(custody.lane)
        # As deep as the terms demand: a shallow revocation could be undone by a reorganisation.
        revoked = party.revocations.of(wallet, terms.chain.confirmations)
        if address_of(known.public_key) in revoked:
            return None
    return CustodyStopped(custody.reason)


def frames_in(rescued: Iterable[bytes]) -> Iterator[Frame]:
    """Parse rescued frames. Those that no longer parse are fetched from the peer like the rest."""
    for raw in rescued:
        with suppress(FrameError):
            yield Frame.parse(raw)


async def _session_keys(
    journal: Journal, custody: bytes, signed: int
) -> list[tuple[int, SecretKey]]:
    """Our session keys. A new one is made only if none has signed yet."""
    keys = await journal.session_keys(custody)
    if not keys and signed:
        # The peer has frames that the lost keys signed. A new first key and a second Logon would
        # contradict them.
        raise JournalCorrupt(
            "the session keys that signed here are gone",
            journal=journal.path,
            missing=[Missing(custody, "session-keys")],
        )
    if not keys:
        # Kept before it is used, so that a restart signs with the same key.
        keys = [(1, SecretKey.generate())]
        await journal.keep_session_key(custody, *keys[0])
    return keys


async def _logon(
    party: LocalParty,
    agreement: CustodyAgreement,
    lane: int,
    key: SecretKey,
    terms: Terms,
    notes: tuple[Note, ...],
) -> Logon:
    """Our Logon, with the wallet's delegation of the first session key. Raises WalletError."""
    delegation = Delegation(
        lane=lane,
        public_key=key.public_key,
        from_seq=1,
        to_seq=party.key_frames,
        expiry=party.clock.now_ns() + party.key_life_ns,
    )
    signature = await party.wallet.sign_typed(delegation.message(agreement))
    return Logon(
        terms_hash=terms.hash,
        session_public_key=key.public_key,
        from_seq=delegation.from_seq,
        to_seq=delegation.to_seq,
        expiry=delegation.expiry,
        delegation_signature=signature,
        heart_bt_int=max(1, terms.timeouts.heartbeat // SECOND),
        # The solver lists its notes later, when it has seen the trader's on chain.
        notes=tuple(NoteRef(commitment=note.commitment, nullifier=note.nullifier) for note in notes)
        if lane == TRADER
        else (),
    )


__all__ = [
    "SOLVER",
    "TRADER",
    "LocalParty",
    "accept_terms",
    "journal_secret",
    "load_session",
    "read_record",
]
