"""What a transcript file proves: its cryptography, and the account that the rulebook gives.

Needs no chain and no trust in whoever gave the file. Amounts of notes come from the openings in
the file, each checked against its commitment; what happened on chain is taken from the file's
facts, or, where it has none, as the frames cite it (`chain_facts` says which).
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
    Entry,
    Lane,
    Place,
    Replay,
    Ruling,
    restore,
)
from psymm.rulebook import Opening as RuledOpening
from psymm.session.collateral import Fact, custody_of
from psymm.session.reading import chain_facts
from psymm.storage import translate_errors
from psymm.terms import Terms, TermsError
from psymm.transcript import flipped
from psymm.transcript.checkpoint import Beginning, Point
from psymm.transcript.file import (
    Progress,
    TranscriptFile,
    Verified,
    open_file,
    verify_frames,
)
from psymm.transcript.flipped import Flip
from psymm.transcript.opening import Opening
from psymm.transcript.sealing import JournalledOpening


@dataclass(frozen=True, slots=True)
class Line:
    """One frame and what became of it. ruling: None while it is pending or could not be ruled."""

    index: int
    offset: int
    frame: Frame = field(repr=False)
    ruling: Ruling | None


@dataclass(frozen=True, slots=True)
class Report:
    """chain_facts: `file`,
    `cited` or `none`. faults: (seq, rule) of the solver's frames that the trader rejected, and of
    frames of either that refuse a right checkpoint. begins: the checkpoint that the file begins at,
    None where it begins with the first frame."""

    opening: Opening
    verified: Verified
    account: Account
    lines: tuple[Line, ...] = field(repr=False)
    faults: tuple[tuple[int, str], ...]
    chain_facts: str
    begins: Point | None = None

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
    """As `verify_file`, for its bytes, or the file mapped."""
    file = open_file(raw)
    return replay(file, verify_signatures(file))


def verify_signatures(
    file: TranscriptFile, *, threads: int = 1, progress: Progress | None = None
) -> Verified:
    """All that needs no rulebook: delegations, hash chain, every signature, and that the notes'
    openings give their commitments; of a file that begins at a checkpoint, that its account is the
    one that both lanes signed. Blocks.

    threads, progress: as for `transcript.file.verify_frames`. Raises TranscriptFileError with the
    frame and the byte.
    """
    check_openings(file)
    if file.begins is not None:
        account_of(file, file.begins, _terms(file))
    return verify_frames(file, threads=threads, progress=progress)


def find_flip(raw: bytes | mmap, refused: TranscriptFileError) -> Flip | None:
    """The one bit that was flipped in a file that `verify_signatures` or `replay` refuses, if one
    was: as `transcript.flipped.find_flip`, the notes and facts included. Blocks, up to seconds.
    """

    def readable(file: TranscriptFile) -> None:
        check_openings(file)
        _facts_in(file)

    return flipped.find_flip(raw, refused, readable)


def replay(file: TranscriptFile, verified: Verified, *, progress: Progress | None = None) -> Report:
    """What the rulebook makes of a verified file, frame by frame, some 100 µs each. Blocks.

    progress: called after each frame with the frames and bytes that are through; what it raises
    ends the work. Raises TranscriptFileError where terms or facts cannot be read.
    """
    terms = _terms(file)
    check_openings(file)
    opening = RuledOpening(file.opening.custody, (file.opening.trader, file.opening.solver))
    facts, whence = known_facts(file)
    at = Replay.start(opening, terms, facts)
    if file.begins is not None:
        at = Replay.at_checkpoint(opening, terms, account_of(file, file.begins, terms), facts)
    frames = list(file.each())
    rulings: dict[tuple[int, int], Ruling] = {}
    for index, (offset, frame) in enumerate(frames):
        at, ruled = at.step(frame)
        rulings.update({(int(one.lane), one.seq): one for one in ruled})
        if progress is not None:
            progress(index + 1, offset + frame.length - file.start)
    return Report(
        opening=file.opening,
        verified=verified,
        account=at.account,
        lines=tuple(
            Line(index, offset, frame, rulings.get((frame.lane, frame.seq)))
            for index, (offset, frame) in enumerate(frames)
        ),
        faults=tuple((fault.seq, fault.violation.name) for fault in at.faults),
        chain_facts=whence,
        begins=None if file.begins is None else file.begins.point,
    )


def _terms(file: TranscriptFile) -> Terms:
    try:
        return Terms.parse(file.opening.terms)
    except TermsError as bad:
        raise TranscriptFileError("bad-terms", str(bad), offset=len(b"pSymmT1\n")) from None


def account_of(file: TranscriptFile, begins: Beginning, terms: Terms) -> Account:
    """The account that the file begins with; its keys are those of the frames shown for them.
    Raises TranscriptFileError `bad-checkpoint`."""
    try:
        account = restore(begins.account, terms, begins.point.account_hash)
        _, ruling = begins.check(file.opening)
    except (AccountRefused, CheckpointRefused) as bad:
        raise _bad_checkpoint(file, str(bad)) from None
    keys = [account.key_in_force(lane) for lane in Lane]
    if (
        account.custody != file.opening.custody
        or account.seqs != begins.point.seqs
        or [key and (key.public_key, key.from_seq) for key in keys]
        != [(known.public_key, since) for since, known in ruling]
    ):
        raise _bad_checkpoint(file, "the account is of another custody, place or key")
    return account


def _bad_checkpoint(file: TranscriptFile, detail: str) -> TranscriptFileError:
    span = (12, file.start)
    return TranscriptFileError("bad-checkpoint", detail, offset=12, span=span)


def check_openings(file: TranscriptFile) -> None:
    """Raises TranscriptFileError where a note's opening in the file does not give its
    commitment."""
    custody = custody_of(file.opening)
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
    """What the chain did, and whence that is known: as `Report.chain_facts`. Raises
    TranscriptFileError."""
    if file.facts:
        known = chain_facts(_facts_in(file))
        return replace(known, block=_beyond(file, known.block)), "file"
    spent: dict[bytes, Place] = {}
    inserted: dict[bytes, Place] = {}
    messages = _about_chain(file)
    cited = [one for one in messages if isinstance(one, ChainFact)]
    for said in cited:
        place = Place(said.block_number, said.transaction_hash)
        if said.nullifier is not None:
            spent[said.nullifier] = place
        if said.commitment is not None:
            inserted[said.commitment] = place
        for one in messages:
            # A settlement's outputs are inserted where its inputs are spent.
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
    messages = (Entry.read(frame).message for frame in file.carrying(b"UCF", b"UST"))
    return [one for one in messages if isinstance(one, ChainFact | Settlement)]


def _beyond(file: TranscriptFile, highest: int) -> int:
    """The facts are all there is: a citation that they do not hold is false, not early."""
    cited = [one.block_number for one in _about_chain(file) if isinstance(one, ChainFact)]
    return max([highest, *cited], default=0)
