"""The transcript file: the same bytes for the same record, and every fault found where it is."""

from pathlib import Path

import pytest
from custody_scene import Signers
from hypothesis import given, settings
from hypothesis import strategies as st

from psymm.errors import TranscriptFileError
from psymm.journal.export import export
from psymm.journal.writer import open_journal
from psymm.session.runtime.report import verify_bytes
from psymm.transcript.agreement import TRADER, JournalledOpening
from psymm.transcript.delegation import DelegationRefused
from psymm.transcript.file import encode_file, parse_file, verify_frames

SIGNERS = Signers()
ENTRIES = SIGNERS.talk(8)
RAW = encode_file(SIGNERS.opening, [entry.frame.raw for entry in ENTRIES])


def test_a_whole_file_verifies() -> None:
    verified = verify_frames(parse_file(RAW))
    assert verified.frames == 8
    assert verified.heads[TRADER] == SIGNERS.record.head(TRADER)


def test_a_parsed_opening_is_the_one_that_was_written() -> None:
    assert parse_file(RAW).agreement == SIGNERS.opening


def test_the_custody_is_recomputed_from_the_opening() -> None:
    assert parse_file(RAW).agreement.custody == SIGNERS.opening.custody


async def test_a_journal_is_exported_as_the_same_bytes(tmp_path: Path) -> None:
    async with open_journal(tmp_path / "j.db") as journal:
        await journal.open_custody(SIGNERS.opening, TRADER, 1)
        await journal.append([(entry.frame, entry.digest) for entry in ENTRIES])
        assert await export(journal, SIGNERS.opening.custody, tmp_path / "t.psymm") == 8
    assert (tmp_path / "t.psymm").read_bytes() == RAW


@settings(max_examples=150, deadline=None)
@given(st.integers(0, len(RAW) * 8 - 1))
def test_no_flipped_bit_passes(bit: int) -> None:
    bent = bytearray(RAW)
    bent[bit // 8] ^= 1 << bit % 8
    with pytest.raises(TranscriptFileError) as caught:
        verify_frames(parse_file(bytes(bent)))
    assert 0 <= caught.value.offset <= len(RAW)


@pytest.mark.parametrize("digits", [b" ", b"A"])
def test_a_value_of_the_opening_has_one_form(digits: bytes) -> None:
    start = 12 + int.from_bytes(RAW[8:12])
    salt = SIGNERS.opening.salt.hex().encode()
    other = salt[:2] + digits + salt[2:] if digits == b" " else salt.upper()
    assert other != salt
    opening = RAW[12:start].replace(salt, other)
    with pytest.raises(TranscriptFileError, match="salt"):
        parse_file(RAW[:8] + len(opening).to_bytes(4) + opening + RAW[start:])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, len(RAW) - 1))
def test_a_file_cut_inside_a_frame_names_the_byte(length: int) -> None:
    whole = parse_file(RAW)
    if length in whole.offsets:
        return
    with pytest.raises(TranscriptFileError) as caught:
        parse_file(RAW[:length])
    assert caught.value.offset <= length


def test_a_frame_left_out_is_named_with_its_place() -> None:
    frames = [entry.frame.raw for entry in ENTRIES]
    raw = encode_file(SIGNERS.opening, frames[:3] + frames[4:])
    with pytest.raises(TranscriptFileError) as caught:
        verify_frames(parse_file(raw))
    assert caught.value.frame == 3


def test_a_delegation_by_another_wallet_is_named() -> None:
    signers = Signers()
    with pytest.raises(DelegationRefused) as caught:
        signers.record.sign(signers.keys[0], 0, signers.logon(0, by=1), signers.now_ns)
    assert caught.value.reason == "wrong-wallet"


def test_an_opening_that_does_not_give_its_commitment_is_refused() -> None:
    """What a note holds decides the account, so a file cannot simply claim it."""
    signers = Signers()
    frames = [entry.frame.raw for entry in signers.talk(4)]
    token = "0x" + "00" * 19 + "01"
    lie = JournalledOpening(b"\x01" * 32, TRADER, token, 10**9, b"\x02" * 32)
    with pytest.raises(TranscriptFileError) as caught:
        verify_bytes(encode_file(signers.opening, frames, [lie]))
    assert "commitment" in str(caught.value)
