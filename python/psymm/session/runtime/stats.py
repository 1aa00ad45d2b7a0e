"""What an operator sees of a session: counters, and one log line for each event that matters.

Events have stable names; `EVENTS` lists them with their fields. `custody`, `lane`, `seq` and
`code` mean the same in each. We never log what a peer wrote, only our name for it: a code from a
closed set. No line holds a key, a blinding, an opening, a price or a quantity.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Final, Protocol

from psymm.errors import Disconnected, PSymmError, SessionClosed
from psymm.messages import (
    ChainFact,
    Checkpoint,
    Logout,
    Reject,
    SessionKeyChange,
    Settlement,
    SettlementAcceptance,
    SettlementOutput,
)
from psymm.rulebook.violation import CATALOGUE
from psymm.session.protocol import (
    CitationWaits,
    Disagreed,
    Event,
    FrameReceived,
    FrameSent,
    HeadsDiffer,
    HeldBack,
    OwnClockBehind,
    PeerRejected,
    Resumed,
    SessionStatus,
    StatusChanged,
    Stopped,
)
from psymm.session.protocol.budget import Load
from psymm.transcript.record import RecordedFrame

log = logging.getLogger(__name__)

EVENTS: Final[Mapping[str, str]] = {
    "connected": "custody, lane, connection: a peer's connection serves this custody",
    "disconnected": "custody, lane, code: it is gone; warning unless it simply closed",
    "resumed": "custody, lane, repeated, received: heads agree again; frames sent again, and got",
    "heads-differ": "custody, lane, code: a text contradicts our record, which proves nothing",
    "state": "custody, lane, state: the session moved to another state than stopped",
    "malformed": "custody, lane, count: texts or frames that could not be read or had no place",
    "resend-asked": "custody, lane, count: a gap; the peer was asked to send frames again",
    "resent": "custody, lane, count: frames of ours were sent again",
    "violation": "custody, lane, seq, code: a frame of the peer's breaks a rule, changes nothing",
    "rejected": "custody, lane, seq, code: the peer says that of a frame of ours",
    "checkpoint": "custody, lane, seq: signed by this lane",
    "key-changed": "custody, lane, seq: this lane goes on with another session key",
    "logout": "custody, lane, seq: this lane ends its business",
    "settlement-proposed": "custody, lane, seq: by this lane",
    "settlement-accepted": "custody, lane, seq: by this lane",
    "held-back": "custody, lane, seq: the peer's frame is dated ahead; it waits for its time",
    "citation-waits": "custody, lane, seq: the peer cites what our chain does not have yet",
    "clock-behind": "custody, lane, code: our clock is behind our own lane; nothing is signed",
    "settlement-cited": "custody, lane, seq: this lane says that it is on chain",
    "accounts-differ": "custody, lane, code: after the same frames; the application is told where",
    "stopped": "custody, lane, code: nothing more is signed in this custody",
}
"""Stable names of a session's log events, with their fields. lane: the frame's if there is a seq,
else ours; 0 trader, 1 solver."""

_FORM: Final = frozenset(
    (
        "not-utf8",
        "not-json",
        "not-object",
        "msgtype-not-first",
        "unknown-message",
        "duplicate-key",
        "unknown-field",
        "missing-field",
        "not-a-string",
        "not-a-list",
        "wrong-type",
        "empty-value",
        "too-long",
        "bad-decimal",
        "bad-integer",
        "bad-enum",
        "bad-hex",
        "bad-bool",
        "bad-count",
        "lone-surrogate",
        "not-canonical",
        "trailing-bytes",
        "too-deep",
    )
)
REASONS: Final = frozenset(CATALOGUE) | _FORM
"""The names that a rule or a fault of form may have. A peer may write any other; that counts as
`other`."""

_SAID: Final[Mapping[type, str]] = {
    Checkpoint: "checkpoint",
    SessionKeyChange: "key-changed",
    Logout: "logout",
    SettlementOutput: "payee-named",
    Settlement: "settlement-proposed",
    SettlementAcceptance: "settlement-accepted",
    ChainFact: "settlement-cited",
}


@dataclass(frozen=True, slots=True)
class Traffic:
    """What went over the connections of one session or several, since they began here.

    Attributes:
        frames_in: The peer's frames on the record.
        frames_out: Our frames on the record.
        texts_in: Text messages received.
        texts_out: Text messages sent.
        bytes_in: Bytes of WebSocket messages received: texts and frames, repeated ones too.
        bytes_out: The same, sent.
        malformed: Texts or frames without effect: unreadable or out of place.
        resends_asked: By us, for a gap.
        frames_resent: Ours, for the peer's gaps and on resuming.
        rejects_sent: Of the peer's frames, by reason: a key of REASONS or `other`.
        rejects_received: Of our frames, by reason.
        disconnects: By the error code of what ended the connection; `disconnected` if it simply
            closed.
    """

    connections: int = 0
    frames_in: int = 0
    frames_out: int = 0
    texts_in: int = 0
    texts_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    malformed: int = 0
    resends_asked: int = 0
    frames_resent: int = 0
    rejects_sent: Mapping[str, int] = field(default_factory=dict)
    rejects_received: Mapping[str, int] = field(default_factory=dict)
    disconnects: Mapping[str, int] = field(default_factory=dict)

    @property
    def reconnects(self) -> int:
        """Connections after the first. For one session only."""
        return max(0, self.connections - 1)

    @staticmethod
    def sum(many: Iterable[Traffic]) -> Traffic:
        """The traffic of several sessions together."""
        numbers: Counter[str] = Counter()
        named: dict[str, Counter[str]] = {name: Counter() for name in _NAMED}
        for one in many:
            numbers.update({name: getattr(one, name) for name in _NUMBERS})
            for name, counts in named.items():
                counts.update(getattr(one, name))
        return Traffic(
            **{name: numbers[name] for name in _NUMBERS},
            rejects_sent=dict(named["rejects_sent"]),
            rejects_received=dict(named["rejects_received"]),
            disconnects=dict(named["disconnects"]),
        )


@dataclass(frozen=True, slots=True)
class RunnerStatistics:
    """What a runner has done so far and what it holds now.

    Attributes:
        connections: Connections so far.
        frames: Frames on the record.
        waiting: Lists of effects that are not yet durable.
        load: What we hold for the peer now.
        last_in_ns: Our clock when the peer's last frame was durable, as of the last input; None
            before the first.
        last_out_ns: The same for our last frame; None before the first.
        covered_ns: How long the peer took to cover the last frame of ours that we measured, both
            journals included.
    """

    connections: int
    frames: int
    waiting: int
    state: SessionStatus
    connected: bool
    load: Load
    last_in_ns: int | None
    last_out_ns: int | None
    covered_ns: int | None
    traffic: Traffic


_NAMED: Final = ("rejects_sent", "rejects_received", "disconnects")
_NUMBERS: Final = tuple(one.name for one in fields(Traffic) if one.name not in _NAMED)


class NoiseCounts(Protocol):
    """What a protocol counts of a peer's noise and gaps, since it was made, and its clock."""

    now: int
    malformed: int
    resends_asked: int
    frames_resent: int


class SessionStats:
    """Counters and log lines of one session.

    Args:
        custody: Its id.
        lane: Ours.
        noises: What the protocol counts.
    """

    def __init__(self, custody: bytes, lane: int, noises: NoiseCounts) -> None:
        self._custody = "0x" + custody.hex()
        self._lane = lane
        self._noises = noises
        self._told = (0, 0, 0)
        self._counts: Counter[str] = Counter()
        self._named: dict[str, Counter[str]] = {name: Counter() for name in _NAMED}
        self._uncovered: tuple[int, int] | None = None
        self.last_in_ns: int | None = None
        self.last_out_ns: int | None = None
        self.covered_ns: int | None = None

    def connected(self) -> None:
        self._counts["connections"] += 1
        self._log(logging.INFO, "connected", connection=self._counts["connections"])

    def disconnected(self, reason: PSymmError) -> None:
        self._notice()
        self._named["disconnects"][reason.code] += 1
        quiet = isinstance(reason, Disconnected | SessionClosed)
        level = logging.INFO if quiet else logging.WARNING
        self._log(level, "disconnected", code=reason.code)

    def read(self, message: str | bytes) -> None:
        """A message came in. The protocol has not seen it yet."""
        if isinstance(message, str):
            self._counts["texts_in"] += 1
            message = message.encode("utf-8", "surrogatepass")
            self._notice()
        self._counts["bytes_in"] += len(message)

    def wrote(self, message: str | bytes) -> None:
        """We handed a message to the network."""
        if isinstance(message, str):
            self._counts["texts_out"] += 1
            message = message.encode("utf-8", "surrogatepass")
            self._notice()
        elif self._noises.frames_resent != self._told[2]:
            self._notice()
        self._counts["bytes_out"] += len(message)

    def traffic(self) -> Traffic:
        """The counters so far."""
        given = {name: self._counts[name] for name in _NUMBERS}
        given |= {
            "malformed": self._noises.malformed,
            "resends_asked": self._noises.resends_asked,
            "frames_resent": self._noises.frames_resent,
        }
        return Traffic(
            **given,
            rejects_sent=dict(self._named["rejects_sent"]),
            rejects_received=dict(self._named["rejects_received"]),
            disconnects=dict(self._named["disconnects"]),
        )

    def _notice(self) -> None:
        """Log the noise and the gaps that the protocol has counted since the last call."""
        # The protocol only counts. Noise and gaps make texts, so we look with each text, and log
        # what was added since the last look.
        noises = self._noises
        now = (noises.malformed, noises.resends_asked, noises.frames_resent)
        if now == self._told:
            return
        before, self._told = self._told, now
        for name, level, old, new in zip(
            ("malformed", "resend-asked", "resent"),
            (logging.WARNING, logging.INFO, logging.INFO),
            before,
            now,
            strict=True,
        ):
            if new > old:
                self._log(level, name, count=new - old)

    def on_event(self, event: Event) -> None:
        """Count and log an event."""
        if isinstance(event, FrameReceived):
            entry = event.entry
            self._counts["frames_in"] += 1
            self.last_in_ns = now = self._noises.now
            # We measure one frame of ours at a time, which keeps the cost per frame constant.
            if self._uncovered is not None and entry.frame.peer_seq >= self._uncovered[0]:
                self.covered_ns = now - self._uncovered[1]
                self._uncovered = None
        elif isinstance(event, FrameSent):
            entry = event.entry
            self._counts["frames_out"] += 1
            self.last_out_ns = now = self._noises.now
            if self._uncovered is None:
                self._uncovered = (entry.frame.seq, now)
            if isinstance(entry.message, Reject):
                self._rejected(entry.message)
        else:
            self._log_event(event)
            return
        if type(entry.message) in _SAID:
            self._said(entry)

    def _log_event(self, event: Event) -> None:
        """Log an event that is no frame."""
        match event:
            case PeerRejected(reject):
                code = reason_named(reject.violation)
                self._named["rejects_received"][code] += 1
                self._log(logging.WARNING, "rejected", seq=reject.ref_seq_num, code=code)
            case StatusChanged(state) if state is not SessionStatus.STOPPED:
                self._log(logging.INFO, "state", state=state.value)
            case Resumed(repeated, received):
                self._log(logging.INFO, "resumed", repeated=repeated, received=received)
            case HeldBack(entry):
                self._waits("held-back", entry)
            case CitationWaits(entry):
                self._waits("citation-waits", entry)
            case OwnClockBehind(error):
                self._log(logging.ERROR, "clock-behind", code=error.code)
            case Disagreed(error=error):
                self._log(logging.ERROR, "accounts-differ", code=error.code)
            case HeadsDiffer(error):
                self._log(logging.WARNING, "heads-differ", code=error.code)
            case Stopped(error):
                self._log(logging.ERROR, "stopped", code=error.code)
            case _:
                pass

    def _rejected(self, reject: Reject) -> None:
        """We rejected a frame of the peer's."""
        code = reason_named(reject.violation)
        self._named["rejects_sent"][code] += 1
        seq, lane = reject.ref_seq_num, 1 - self._lane
        extra = {"custody": self._custody, "lane": lane, "seq": seq, "code": code}
        log.warning("violation", extra=extra)

    def _said(self, entry: RecordedFrame) -> None:
        name, frame = _SAID[type(entry.message)], entry.frame
        log.info(name, extra={"custody": self._custody, "lane": frame.lane, "seq": frame.seq})

    def _waits(self, name: str, entry: RecordedFrame) -> None:
        frame = entry.frame
        extra = {"custody": self._custody, "lane": frame.lane, "seq": frame.seq}
        log.warning(name, extra=extra)

    def _log(self, level: int, event: str, **more: object) -> None:
        log.log(level, event, extra={"custody": self._custody, "lane": self._lane, **more})


def reason_named(rule: str) -> str:
    """A rule's name for counting and logging: `other` if no rule has that name."""
    return rule if rule in REASONS else "other"
