"""The inputs of the rulebook: verified frames, openings of notes, and facts of the chain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

from psymm.messages import JsonError, Message, decode
from psymm.rulebook.account import LANES, Lane


def has_come(sending_time: int, at: int, skew: int) -> bool:
    """Whether a frame of that time can be known at ``at``, if clocks differ by at most the skew.

    Both "may a session take this frame now" and "can this frame cover that one" are decided here,
    so that a live session and a court agree (``spec.md`` 66). All in nanoseconds.
    """
    return sending_time <= at + skew


FRAME_BYTES: Final = 223
"""The bytes of a frame around its payload."""


class VerifiedFrame(Protocol):
    """A frame whose place, links, time and signature were verified, like ``psymm._core.Frame``."""

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


class RuledFrame(NamedTuple):
    """A frame as the rules read it.

    Attributes:
        peer_seq: the last frame of the other lane that it covers.
        sending_time: nanoseconds.
        size: the payload's length in bytes.
        message: None if the payload is malformed.
        malformed: the code of what is wrong with the payload.
        unseen: the peerSeq that it states, if its signer cannot have seen that frame; else 0.
    """

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
        """Decode a frame. A malformed payload keeps its seq."""
        message: Message | None = None
        malformed: str | None = None
        try:
            message = decode(frame.payload)
        except JsonError as error:
            malformed = error.code
        return RuledFrame(
            LANES[frame.lane],
            frame.seq,
            frame.peer_seq,
            frame.sending_time,
            len(frame.payload),
            message,
            malformed,
        )


@dataclass(frozen=True, slots=True)
class ReplayInputs:
    """The parties of a custody."""

    custody: bytes
    """Its id."""
    wallets: tuple[bytes, bytes]
    """The 64-byte public keys of the trader's and the solver's wallets, which sign settlements."""


@dataclass(frozen=True, slots=True)
class ChainPlace:
    """The place of an event on chain."""

    block: int
    transaction: bytes


@dataclass(frozen=True, slots=True)
class ChainFacts:
    """Facts of the chain, complete up to ``block`` with the confirmations of the terms.

    Attributes:
        block: the newest block with enough confirmations.
        spent: where each nullifier was spent.
        inserted: where each commitment was inserted.
        noticed: by (lane, seq), the block time in nanoseconds of a frame's first notice.
        denied: (lane, seq) of frames whose citation was false on arrival (``spec.md`` 65). It stays
            false, even if it came true later.
    """

    block: int = 0
    spent: Mapping[bytes, ChainPlace] = field(default_factory=dict)
    inserted: Mapping[bytes, ChainPlace] = field(default_factory=dict)
    noticed: Mapping[tuple[int, int], int] = field(default_factory=dict)
    denied: frozenset[tuple[int, int]] = frozenset()
