"""What the rulebook is given: verified frames, openings of notes, and facts of the chain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from psymm.messages import JsonError, Message, decode
from psymm.rulebook.account import Lane


def has_come(sending_time: int, at: int, skew: int) -> bool:
    """Whether a frame of that time can be known at ``at``, all in nanoseconds, by clocks that
    differ by no more than the skew. Whether a session takes a frame now and whether a frame covers
    another are both decided here, so live and in court alike (``spec.md`` 66)."""
    return sending_time <= at + skew


class VerifiedFrame(Protocol):
    """A frame whose place, links, time and signature hold; ``psymm._core.Frame`` is one."""

    @property
    def lane(self) -> int: ...
    @property
    def seq(self) -> int: ...
    @property
    def peer_seq(self) -> int: ...
    @property
    def sending_time(self) -> int: ...
    @property
    def payload(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class RuledFrame:
    """A frame as the rules read it. ``message`` is None where the payload is malformed, and
    ``malformed`` then says how. ``size`` is the payload's length in bytes. ``unseen`` is the
    peerSeq that it states where its signer cannot have seen that frame at its time, else 0."""

    lane: Lane
    seq: int
    peer_seq: int
    sending_time: int
    size: int
    message: Message | None
    malformed: str | None = None
    unseen: int = 0

    @staticmethod
    def read(frame: VerifiedFrame) -> RuledFrame:
        """Decode a frame once; a payload that is no message keeps its place."""
        message: Message | None = None
        malformed: str | None = None
        try:
            message = decode(frame.payload)
        except JsonError as error:
            malformed = error.code
        return RuledFrame(
            Lane(frame.lane),
            frame.seq,
            frame.peer_seq,
            frame.sending_time,
            len(frame.payload),
            message,
            malformed,
        )


@dataclass(frozen=True, slots=True)
class ReplayInputs:
    """A custody's opening: its id, and the public keys (64 bytes) of the trader's and the solver's
    wallets, which sign settlements."""

    custody: bytes
    wallets: tuple[bytes, bytes]


@dataclass(frozen=True, slots=True)
class ChainPlace:
    """Where on chain something happened."""

    block: int
    transaction: bytes


@dataclass(frozen=True, slots=True)
class ChainFacts:
    """What the chain says, complete up to ``block`` at the depth that the terms demand.

    ``noticed`` holds the block time in nanoseconds at which a frame's bytes were first on chain,
    by (lane, seq). ``denied``: frames, by (lane, seq), whose citation was found to be false when
    they came (``spec.md`` 65); one that came true later stays so.
    """

    block: int = 0
    spent: Mapping[bytes, ChainPlace] = field(default_factory=dict)
    inserted: Mapping[bytes, ChainPlace] = field(default_factory=dict)
    noticed: Mapping[tuple[int, int], int] = field(default_factory=dict)
    denied: frozenset[tuple[int, int]] = frozenset()
