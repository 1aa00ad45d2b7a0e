"""The status of a session."""

from __future__ import annotations

from enum import StrEnum


class SessionStatus(StrEnum):
    """LOGON → VERIFYING → TRADING → SETTLING → CLOSED; SETTLING may go back to TRADING.

    STOPPED can follow any status except CLOSED, and is final for this process.
    """

    LOGON = "logon"
    VERIFYING = "verifying"
    TRADING = "trading"
    SETTLING = "settling"
    CLOSED = "closed"
    STOPPED = "stopped"
