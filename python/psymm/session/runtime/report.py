"""What a transcript file proves: its cryptography, and the account that the rulebook computes.

It needs no chain, and no trust in the source of the file. Amounts of notes come from the openings
in the file; each is checked against its commitment. Chain facts come from the file, or, if it has
none, from the frames' citations (`Report.chain_facts` says which).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from mmap import mmap
from pathlib import Path

from psymm._core import Frame
from psymm.custody.errors import NoteInvalid
from psymm.custody.notes import Note
from psymm.errors import CheckpointRefused, TranscriptFileError
from psymm.messages import ChainFact, Settlement
from psymm.rulebook import (
    Account,
    AccountRefused,
    ChainFacts,
    ChainPlace,
    Lane,
    Replay,
    ReplayInputs,
    RuledFrame,
    Ruling,
    restore,
)
from psymm.session.protocol.chain_facts import Fact, custody_of
from psymm.session.runtime.reading import chain_facts
from psymm.storage import translate_errors
from psymm.terms import Terms, TermsError
from psymm.transcript.agreement import CustodyAgreement, JournalledOpening
from psymm.transcript.checkpoint import BaseSnapshot, Point
from psymm.transcript.file import (
    Progress,
    TranscriptFile,
    Verified,
    bad_checkpoint,
    open_file,
    verify_frames,
)


@dataclass(frozen=True, slots=True)
class Line:
    """One frame and what became of it. ruling: None while pending, or if it cannot be ruled."""

    index: int
    offset: int
    frame: Frame = field(repr=False)
    ruling: Ruling | None


@dataclass(frozen=True, slots=True)
class Report:
    """What a verified file says.

    Attributes:
        faults: (seq, rule) of the solver's frames that the trader rejected, and of frames of either
            side that refuse a right checkpoint.
        chain_facts: Where chain facts come from: `file`, `cited` or `none`.
        starts_at: The checkpoint at which the file begins; None if with the first frame.
    """

    agreement: CustodyAgreement
    verified: Verified
    account: Account
    lines: tuple[Line, ...] = field(repr=False)
    faults: tuple[tuple[int, str], ...]
    chain_facts: str
    starts_at: Point | None = None

    @property
    def violations(self) -> tuple[Line, ...]:
        """Frames that changed nothing because they break a rule."""
        return tuple(
            line for line in self.lines if line.ruling is not None and line.ruling.violation
        )


def verify_file(path: Path) -> Report:
    """Read, verify and replay a file. Blocks.

    Raises TranscriptFileError with the frame and the byte, StorageError.
    """
    with translate_errors(path):
        raw = path.read_bytes()
    return verify_bytes(raw)


def verify_bytes(raw: bytes | mmap) -> Report:
    """As `verify_file`, for the file's bytes, or the file mapped."""
    file = open_file(raw)
    return replay(file, verify_signatures(file))


def verify_signatures(
    file: TranscriptFile, *, threads: int = 1, progress: Progress | None = None
) -> Verified:
    """Verify all that needs no rulebook: delegations, hash chain, every signature, and that the
    notes' openings give their commitments. If the file begins at a checkpoint, also that its
    account is the one that both lanes signed. Blocks.

    threads, progress: as for `transcript.file.verify_frames`. Raises TranscriptFileError with the
    frame and the byte.
    """
    check_openings(file)
    if file.starts_at is not None:
        account_of(file, file.starts_at, _terms(file))
    return verify_frames(file, threads=threads, progress=progress)


def replay(file: TranscriptFile, verified: Verified, *, progress: Progress | None = None) -> Report:
    """Rule a verified file frame by frame, about 100 µs each. Blocks.

    Raises TranscriptFileError if terms or facts cannot be read.

    Args:
        progress: Called after each frame with the frames and bytes done so far. If it raises, the
            work ends with that error.
    """
    terms = _terms(file)
    check_openings(file)
    inputs = ReplayInputs(file.agreement.custody, (file.agreement.trader, file.agreement.solver))
    facts, whence = known_facts(file)
    at = Replay.start(inputs, terms, facts)
    if file.starts_at is not None:
        at = Replay.at_checkpoint(inputs, terms, account_of(file, file.starts_at, terms), facts)
    frames = list(file.each())
    rulings: dict[tuple[int, int], Ruling] = {}
    for index, (offset, frame) in enumerate(frames):
        ruled = at.step(frame)
        rulings.update({(int(one.lane), one.seq): one for one in ruled})
        if progress is not None:
            progress(index + 1, offset + frame.length - file.start)
    return Report(
        agreement=file.agreement,
        verified=verified,
        account=at.account,
        lines=tuple(
            Line(index, offset, frame, rulings.get((frame.lane, frame.seq)))
            for index, (offset, frame) in enumerate(frames)
        ),
        faults=tuple((fault.seq, fault.violation.name) for fault in at.faults),
        chain_facts=whence,
        starts_at=None if file.starts_at is None else file.starts_at.point,
    )


def _terms(file: TranscriptFile) -> Terms:
    try:
        return Terms.parse(file.agreement.terms)
    except TermsError as bad:
        raise TranscriptFileError("bad-terms", str(bad), offset=len(b"pSymmT1\n")) from None


def account_of(file: TranscriptFile, starts_at: BaseSnapshot, terms: Terms) -> Account:
    """The account with which the file begins. Its keys must be those of the frames shown for them.
    Raises TranscriptFileError `bad-checkpoint`."""
    try:
        account = restore(starts_at.account, terms, starts_at.point.account_hash)
        _, ruling = starts_at.check(file.agreement)
    except (AccountRefused, CheckpointRefused) as bad:
        raise bad_checkpoint(file, str(bad)) from None
    keys = [account.key_in_force(lane) for lane in Lane]
    if (
        account.custody != file.agreement.custody
        or account.seqs != starts_at.point.seqs
        or [key and (key.public_key, key.from_seq) for key in keys]
        != [(known.public_key, since) for since, known in ruling]
    ):
        raise bad_checkpoint(file, "the account is of another custody, place or key")
    return account


def check_openings(file: TranscriptFile) -> None:
    """Raises TranscriptFileError if a note's opening in the file does not give its commitment."""
    custody = custody_of(file.agreement)
    for shown in file.notes:
        try:
            note = Note(custody, shown.token, shown.amount, shown.blinding)
        except NoteInvalid as bad:
            raise _bad_note(file, shown, str(bad)) from None
        if note.commitment != shown.commitment:
            raise _bad_note(file, shown, "an opening does not give its commitment in this custody")


def _bad_note(file: TranscriptFile, shown: JournalledOpening, detail: str) -> TranscriptFileError:
    head = bytes(file.raw[: file.start])
    at = max(head.find(shown.commitment.hex().encode()), 0)
    span = (head.rfind(b"{", 0, at), head.find(b"}", at) + 1)
    return TranscriptFileError(
        "bad-note", detail, offset=span[0], span=span, commitment=shown.commitment
    )


def known_facts(file: TranscriptFile) -> tuple[ChainFacts, str]:
    """What the chain did, and where we know it from: as `Report.chain_facts`. Raises
    TranscriptFileError."""
    if file.facts:
        known = chain_facts(_facts_in(file))
        return replace(known, block=_beyond(file, known.block)), "file"
    spent: dict[bytes, ChainPlace] = {}
    inserted: dict[bytes, ChainPlace] = {}
    messages = _about_chain(file)
    cited = [one for one in messages if isinstance(one, ChainFact)]
    for said in cited:
        place = ChainPlace(said.block_number, said.transaction_hash)
        if said.nullifier is not None:
            spent[said.nullifier] = place
        if said.commitment is not None:
            inserted[said.commitment] = place
        for one in messages:
            # A settlement inserts its outputs in the transaction that spends its inputs.
            if isinstance(one, Settlement) and said.nullifier in (one.nullifier0, one.nullifier1):
                inserted.update({one.commitment0: place, one.commitment1: place})
    return ChainFacts(_beyond(file, 0), spent, inserted), "cited" if cited else "none"


def _facts_in(file: TranscriptFile) -> list[Fact]:
    try:
        return [Fact.from_json(text) for text in file.facts]
    except ValueError as bad:
        span = (12, file.start)
        raise TranscriptFileError("bad-fact", str(bad), offset=12, span=span) from None


def _about_chain(file: TranscriptFile) -> list[ChainFact | Settlement]:
    messages = (RuledFrame.read(frame).message for frame in file.carrying(b"UCF", b"UST"))
    return [one for one in messages if isinstance(one, ChainFact | Settlement)]


def _beyond(file: TranscriptFile, highest: int) -> int:
    """The file's facts are complete: a citation that they do not contain is false, not early."""
    cited = [one.block_number for one in _about_chain(file) if isinstance(one, ChainFact)]
    return max([highest, *cited], default=0)
