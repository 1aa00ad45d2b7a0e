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
from psymm.errors import TranscriptFileError
from psymm.messages import ChainFact, Settlement
from psymm.rulebook import (
    Account,
    ChainFacts,
    Entry,
    Holding,
    OpeningUnknown,
    Place,
    Replay,
    Ruling,
)
from psymm.rulebook import Opening as RuledOpening
from psymm.session.collateral import Fact, custody_of
from psymm.session.reading import chain_facts
from psymm.terms import Terms, TermsError
from psymm.transcript import flipped
from psymm.transcript.file import (
    Progress,
    TranscriptFile,
    Verified,
    open_file,
    verify_frames,
)
from psymm.transcript.flipped import Flip
from psymm.transcript.journal import JournalledOpening
from psymm.transcript.opening import Opening


@dataclass(frozen=True, slots=True)
class Line:
    """One frame and what became of it. ruling: None while it is pending or could not be ruled."""

    index: int
    offset: int
    frame: Frame = field(repr=False)
    ruling: Ruling | None


@dataclass(frozen=True, slots=True)
class Report:
    """account: None where the file lacks an opening that the rulebook needs. chain_facts: `file`,
    `cited` or `none`. faults: (seq, rule) of the solver's frames that the trader rejected."""

    opening: Opening
    verified: Verified
    account: Account | None
    lines: tuple[Line, ...] = field(repr=False)
    faults: tuple[tuple[int, str], ...]
    chain_facts: str

    @property
    def violations(self) -> tuple[Line, ...]:
        """Frames that changed nothing because they break a rule."""
        return tuple(
            line for line in self.lines if line.ruling is not None and line.ruling.violation
        )


def verify_file(path: Path) -> Report:
    """Read, verify and replay a file. Blocks.

    Raises TranscriptFileError with the frame and the byte, OSError.
    """
    return verify_bytes(path.read_bytes())


def verify_bytes(raw: bytes | mmap) -> Report:
    """As `verify_file`, for its bytes, or the file mapped."""
    file = open_file(raw)
    return replay(file, verify_signatures(file))


def verify_signatures(
    file: TranscriptFile, *, threads: int = 1, progress: Progress | None = None
) -> Verified:
    """All that needs no rulebook: delegations, hash chain, every signature, and that the notes'
    openings give their commitments. Blocks.

    threads, progress: as for `transcript.file.verify_frames`. Raises TranscriptFileError with the
    frame and the byte.
    """
    holdings(file)
    return verify_frames(file, threads=threads, progress=progress)


def find_flip(raw: bytes | mmap, refused: TranscriptFileError) -> Flip | None:
    """The one bit that was flipped in a file that `verify_signatures` or `replay` refuses, if one
    was: as `transcript.flipped.find_flip`, the notes and facts included. Blocks, up to seconds.
    """

    def readable(file: TranscriptFile) -> None:
        holdings(file)
        _facts_in(file)

    return flipped.find_flip(raw, refused, readable)


def replay(file: TranscriptFile, verified: Verified, *, progress: Progress | None = None) -> Report:
    """What the rulebook makes of a verified file, frame by frame, some 100 µs each. Blocks.

    progress: called after each frame with the frames and bytes that are through; what it raises
    ends the work. Raises TranscriptFileError where terms or facts cannot be read.
    """
    try:
        terms = Terms.parse(file.opening.terms)
    except TermsError as bad:
        raise TranscriptFileError("bad-terms", str(bad), offset=len(b"pSymmT1\n")) from None
    notes = holdings(file)
    facts, whence = known_facts(file)
    at = Replay.start(RuledOpening(file.opening.custody, notes), terms, facts)
    frames = list(file.each())
    rulings: dict[tuple[int, int], Ruling] = {}
    account: Account | None = None
    try:
        for index, (offset, frame) in enumerate(frames):
            at, ruled = at.step(frame)
            rulings.update({(int(one.lane), one.seq): one for one in ruled})
            if progress is not None:
                progress(index + 1, offset + frame.length - file.start)
        account = at.account
    except OpeningUnknown:
        pass
    return Report(
        opening=file.opening,
        verified=verified,
        account=account,
        lines=tuple(
            Line(index, offset, frame, rulings.get((frame.lane, frame.seq)))
            for index, (offset, frame) in enumerate(frames)
        ),
        faults=tuple((fault.seq, fault.violation.name) for fault in at.faults),
        chain_facts=whence,
    )


def holdings(file: TranscriptFile) -> dict[bytes, Holding]:
    """What the notes hold whose openings are in the file. Raises TranscriptFileError where one
    does not give its commitment."""
    custody = custody_of(file.opening)
    found: dict[bytes, Holding] = {}
    for shown in file.notes:
        try:
            note = Note(custody, shown.token, shown.amount, shown.blinding)
        except NoteInvalid as bad:
            raise _bad_note(file, shown, str(bad)) from None
        if note.commitment != shown.commitment:
            raise _bad_note(file, shown, "an opening does not give its commitment in this custody")
        found[note.commitment] = Holding(note.token, note.amount)
    return found


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
