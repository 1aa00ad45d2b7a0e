"""A party that signs what its own rulebook would refuse, with its true key."""

from __future__ import annotations

from psymm._core import Frame, sign_frame
from psymm.messages import Message, encode
from psymm.session.effects import Effects
from psymm.session.runner import SessionRunner
from psymm.transcript.record import RecordedFrame


def forge(
    runner: SessionRunner,
    payload: bytes,
    *,
    seq: int | None = None,
    covers: int | None = None,
    sending_time: int | None = None,
    previous: bytes | None = None,
    custody: bytes | None = None,
) -> Frame:
    """A frame of this end's lane under its own session key; by default its next."""
    record, lane = runner.protocol.record, runner.lane
    number = record.head(lane).seq + 1 if seq is None else seq
    peer = record.head(1 - lane).seq if covers is None else covers
    return sign_frame(
        runner.protocol.keys.key,
        record.agreement.domain,
        record.agreement.custody if custody is None else custody,
        lane,
        number,
        record.digest(lane, number - 1) if previous is None else previous,
        peer,
        record.digest(1 - lane, peer),
        runner.clock.now_ns() if sending_time is None else sending_time,
        payload,
    )


def sign_unchecked(runner: SessionRunner, said: Message | bytes, **given: int) -> RecordedFrame:
    """Sign, keep and send the lane's next frame without asking the rulebook."""
    payload = said if isinstance(said, bytes) else encode(said)
    entry = runner.protocol.record.append(forge(runner, payload, **given))
    runner.protocol.lifecycle.apply(entry)
    runner.protocol.ledger.arrived(entry)
    runner._take(Effects(entries=[entry], sends=[entry]))
    return entry


def fall_silent(runner: SessionRunner) -> None:
    """From now on this end signs nothing by itself; texts go on, so nobody disconnects."""
    runner.protocol.may_sign = lambda _now: False  # type: ignore[method-assign]
