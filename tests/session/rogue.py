"""A party that signs what its own rulebook would refuse, with its true key."""

from __future__ import annotations

from psymm._core import Frame, sign_frame
from psymm.messages import Message, encode
from psymm.session.end import End
from psymm.session.turn import Turn
from psymm.transcript.record import Entry


def forge(
    end: End,
    payload: bytes,
    *,
    seq: int | None = None,
    covers: int | None = None,
    sending_time: int | None = None,
    previous: bytes | None = None,
    custody: bytes | None = None,
) -> Frame:
    """A frame of this end's lane under its own session key; by default its next."""
    record, lane = end.engine.record, end.lane
    number = record.head(lane).seq + 1 if seq is None else seq
    peer = record.head(1 - lane).seq if covers is None else covers
    return sign_frame(
        end.engine.keys.key,
        record.opening.domain,
        record.opening.custody if custody is None else custody,
        lane,
        number,
        record.digest(lane, number - 1) if previous is None else previous,
        peer,
        record.digest(1 - lane, peer),
        end.clock.now_ns() if sending_time is None else sending_time,
        payload,
    )


def sign_unchecked(end: End, said: Message | bytes, **given: int) -> Entry:
    """Sign, keep and send the lane's next frame without asking the rulebook."""
    payload = said if isinstance(said, bytes) else encode(said)
    entry = end.engine.record.append(forge(end, payload, **given))
    end.engine.lifecycle.note(entry)
    end.engine.ledger.arrived(entry)
    end._take(Turn(entries=[entry], sends=[entry]))
    return entry


def fall_silent(end: End) -> None:
    """From now on this end signs nothing by itself; texts go on, so nobody hangs up."""
    end.engine.may_sign = lambda _now: False  # type: ignore[method-assign]
