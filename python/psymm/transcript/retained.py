"""Which frames a session must know for its whole life.

They are logons, logouts, keys, notes, settlements, chain facts, and Rejects of these. A journal
keeps them when it prunes the frames around them.
"""

from __future__ import annotations

from typing import Final

from psymm._core import Frame
from psymm.messages import (
    ChainFact,
    CollateralAssignment,
    CollateralResponse,
    JsonError,
    Logon,
    Logout,
    Message,
    Reject,
    SessionKeyChange,
    Settlement,
    SettlementAcceptance,
    decode,
)
from psymm.transcript.checkpoint import may_be

RETAINED: Final[tuple[type[Message], ...]] = (
    Logon,
    Logout,
    SessionKeyChange,
    CollateralAssignment,
    CollateralResponse,
    Settlement,
    SettlementAcceptance,
    ChainFact,
)
_TYPES: Final = frozenset(kind.MSG_TYPE for kind in RETAINED)
_WRITTEN: Final = frozenset(kind.encode() for kind in (*_TYPES, Reject.MSG_TYPE))


def retains(message: Message | None) -> bool:
    """Whether a session must know a frame with this message for its whole life.

    A Reject of such a frame counts, too, because the rejected frame has no effect.
    """
    if isinstance(message, Reject):
        # A Reject names the type that it rejects, so this needs no look at that frame, which may be
        # gone.
        return message.ref_msg_type in _TYPES
    return isinstance(message, RETAINED)


def is_retained(raw: bytes) -> bool:
    """`retains` for a raw frame."""
    payload = Frame.parse(raw).payload
    if not may_be(payload, _WRITTEN):
        return False
    try:
        return retains(decode(payload))
    except JsonError:
        return False
