"""A party that signs what its own rulebook would refuse, with its true key."""

from __future__ import annotations

from collections.abc import Callable
from weakref import WeakSet

from everywhere import replace_everywhere

from psymm._core import Frame, sign_frame
from psymm.messages import Message, encode
from psymm.session.protocol import SendFrame, SessionState, StoreFrame, signing
from psymm.session.protocol.lifecycle import apply
from psymm.session.runtime.runner import SessionRunner
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
        runner.protocol.state.keys.key,
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
    apply(runner.protocol.state, entry)
    runner.protocol.state.rulebook.arrived(entry)
    runner.perform([StoreFrame(entry), SendFrame(entry)])
    return entry


_silent: WeakSet[SessionState] = WeakSet()


def _unless_silent(may_sign: Callable[[SessionState, int], bool]) -> Callable[..., bool]:
    return lambda s, now: s not in _silent and may_sign(s, now)


replace_everywhere(signing.may_sign, _unless_silent(signing.may_sign), setattr)


def fall_silent(runner: SessionRunner) -> None:
    """From now on this end signs nothing by itself; texts go on, so nobody disconnects."""
    _silent.add(runner.protocol.state)


def speak_again(runner: SessionRunner) -> None:
    """It signs again."""
    _silent.discard(runner.protocol.state)
