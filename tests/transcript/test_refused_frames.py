"""A frame that a record refuses changes nothing, even if it brings a key."""

from __future__ import annotations

import pytest
from custody_scene import Signers

from psymm._core import Frame, TranscriptError, sign_frame
from psymm.messages import Heartbeat, Message, encode
from psymm.transcript.agreement import TRADER
from psymm.transcript.record import Record


def signed(signers: Signers, message: Message, seq: int, previous: bytes) -> Frame:
    """A signed frame of the trader, in any place."""
    custody = signers.opening.custody
    return sign_frame(
        signers.keys[TRADER],
        signers.opening.domain,
        custody,
        TRADER,
        seq,
        previous,
        0,
        custody,
        signers.now_ns + 1,
        encode(message),
    )


def refusal(record: Record, frame: Frame) -> str:
    with pytest.raises(TranscriptError) as refused:
        record.append(frame)
    return str(refused.value.code)


def test_a_refused_logon_brings_no_key() -> None:
    signers = Signers()
    record = Record(signers.opening)
    logon = signers.logon(TRADER)
    assert refusal(record, signed(signers, logon, 1, bytes(32))) == "bad-previous"
    other = signed(signers, Heartbeat(), 1, signers.opening.custody)
    assert refusal(record, other) == "no-key"
    record.append(signed(signers, logon, 1, signers.opening.custody))
    assert (record.head(TRADER).seq, len(record.keys())) == (1, 1)


def test_a_refused_key_change_leaves_the_old_key_in_force() -> None:
    signers = Signers()
    record = Record(signers.opening)
    record.append(signers.sign(TRADER, signers.logon(TRADER)).frame)
    old = signers.keys[TRADER]
    change = signers.change_key(TRADER).message
    assert change is not None
    assert refusal(record, signed(signers, change, 2, bytes(32))) == "bad-previous"
    record.sign(old, TRADER, Heartbeat(), signers.now_ns)
    assert record.head(TRADER).seq == 2
