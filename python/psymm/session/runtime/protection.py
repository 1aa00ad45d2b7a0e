"""A solver's own brakes: the kill switch, cancel-on-disconnect, and caps on what it fills.

They check each message between the application and its signature (`SessionRunner.guard`), so no
callback gets past them. The trader has no claim beyond the terms: declining is free until an order
is filled, and cancels, settlements and forced closes continue while the brakes are on.

States: killed while the switch is on; frozen for an interval after a cap; after a break until what
was quoted before the lost connection is cancelled. Any of them refuses quotes, last looks and
fills. `stale`, `everything` and `quotes` give the messages that make the session safe again.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from psymm.errors import NotNow, TradingHalted, clip
from psymm.messages import (
    ExecType,
    ExecutionReport,
    Message,
    OrdRejReason,
    Quote,
    QuoteCancel,
    QuoteCancelType,
    QuoteRequestReject,
    QuoteRequestRejectReason,
)
from psymm.private_files import create_private, sync_path, write_private
from psymm.rulebook import Account, OrderStatus
from psymm.rulebook.account import LiveOrder
from psymm.session.protocol import SECOND
from psymm.storage import DiskFull, translate_errors

UNIT: Final = 10**18
_OPEN: Final = (OrderStatus.PENDING, OrderStatus.LOCKED, OrderStatus.CLOSE_PENDING)


class KillSwitch:
    """A switch that is on while its file exists. So it survives restarts, and another process can
    throw it.

    A file that cannot be read counts as on.

    Args:
        path: The file; its first line is the reason. None: for this process only.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        # Read in every round. A Path would build its string each time.
        self._path = "" if path is None else str(path)
        self._reason: str | None = None
        self._stamp: tuple[int, int] | None = None

    @property
    def reason(self) -> str | None:
        """Why it is on; None while it is off. One look at the file system."""
        if self.path is None:
            return self._reason
        try:
            found = os.stat(self._path)
            stamp = (found.st_ino, found.st_mtime_ns)
            # Read the reason again only if the file has changed.
            if self._reason is None or stamp != self._stamp:
                lines = self.path.read_text("utf-8", "replace").splitlines()
                self._reason, self._stamp = clip(lines[0] if lines else "killed", 200), stamp
        except FileNotFoundError:
            self._reason = self._stamp = None
        except OSError as bad:
            self._reason, self._stamp = f"the kill switch cannot be read: {bad.strerror}", None
        return self._reason

    def kill(self, reason: str) -> None:
        """Switch on, durably. Raises StorageError if the file cannot be written; the switch is
        then not on. Without a file it is on for this process only."""
        words = (clip(" ".join(reason.split()), 200) or "killed") + "\n"
        if self.path is None:
            self._reason = words.strip()
            return
        try:
            write_private(self.path, words.encode())
        except DiskFull:
            # The brake must work on a full disk too. The file need only exist, which takes no room.
            with suppress(FileExistsError):
                create_private(self.path)
            sync_path(self.path.parent)

    def revive(self) -> None:
        """Switch off, durably. Raises StorageError if the file cannot be removed."""
        self._reason = None
        if self.path is not None:
            with translate_errors(self.path):
                self.path.unlink(missing_ok=True)
            sync_path(self.path.parent)


def kill_switch_of(journal: Path | str) -> KillSwitch:
    """The switch of the solver with this journal: a file next to it."""
    return KillSwitch(Path(journal).with_suffix(".killed"))


@dataclass(frozen=True, slots=True)
class Caps:
    """Market-maker protection for one session; None: no cap. When a cap is reached, quotes are
    withdrawn, and nothing is filled until `interval_s` has passed.

    Attributes:
        fills: Fills in any `interval_s`.
        notional: Whole quote units (price × quantity) in any `interval_s`.
    """

    fills: int | None = None
    notional: int | None = None
    interval_s: float = 1.0


@dataclass(frozen=True, slots=True)
class ProtectionStatistics:
    """The state of the brakes.

    Attributes:
        killed: The reason; None while trading.
        frozen: A cap was reached and its time is not over.
        halts: Signatures refused so far.
    """

    killed: str | None
    frozen: bool
    halts: int


class Protection:
    """The brakes of one session; a `Guard` of its runner.

    Args:
        account: The session's account, with the trader's frames that are not covered yet.
        connections: How many connections there have been, the current one included.
        next_id: An id that no earlier frame of ours has, with the given prefix.
        fresh: The custody has no frames yet.
    """

    def __init__(
        self,
        switch: KillSwitch,
        caps: Caps,
        account: Callable[[], Account],
        connections: Callable[[], int],
        next_id: Callable[[str], str],
        now_ns: Callable[[], int],
        *,
        cancel_on_disconnect: bool,
        fresh: bool,
    ) -> None:
        self.cancel_on_disconnect = cancel_on_disconnect
        self._switch = switch
        self._caps = caps
        self._account = account
        self._connections = connections
        self._next_id = next_id
        self._now_ns = now_ns
        # Without frames there are no quotes that a break could have made stale.
        self._cleared = 1 if fresh else 0
        self._fills: deque[tuple[int, int]] = deque()
        self._frozen_until = 0
        self._halts = 0

    @property
    def killed(self) -> str | None:
        return self._switch.reason

    @property
    def after_break(self) -> bool:
        """Whether quotes from before a lost connection may still be open."""
        return self.cancel_on_disconnect and self._cleared < self._connections()

    def cleared(self) -> None:
        """Everything from before the break is cancelled or declined, or there was nothing."""
        self._cleared = self._connections()

    def frozen(self, now_ns: int) -> bool:
        return now_ns < self._frozen_until

    def statistics(self, now_ns: int) -> ProtectionStatistics:
        return ProtectionStatistics(self.killed, self.frozen(now_ns), self._halts)

    # --- psymm.session.runtime.runner.Guard -------------------------------------------------------

    def check(self, message: Message, now_ns: int) -> None:
        """Raises TradingHalted or NotNow for a quote, a last look or a fill that must not be."""
        fill = isinstance(message, ExecutionReport) and message.exec_type is ExecType.TRADE
        look = isinstance(message, ExecutionReport) and message.exec_type is ExecType.NEW
        # Everything else is always allowed: it withdraws, declines or settles.
        if not (fill or look or isinstance(message, Quote)):
            return
        try:
            killed = self._switch.reason
            if killed is not None:
                raise TradingHalted(f"the kill switch is on: {killed}")
            if self.after_break:
                raise NotNow("what was quoted before the connection was lost is cancelled first")
            if self.frozen(now_ns):
                raise TradingHalted("a cap on fills is reached", interval_s=self._caps.interval_s)
            if fill and isinstance(message, ExecutionReport):
                self._check_caps(_notional(message), now_ns)
        except (TradingHalted, NotNow):
            self._halts += 1
            raise

    def signed(self, message: Message, now_ns: int) -> None:
        """Count what was signed."""
        if isinstance(message, ExecutionReport) and message.exec_type is ExecType.TRADE:
            self._fills.append((now_ns, _notional(message)))

    def _check_caps(self, notional: int, now_ns: int) -> None:
        caps, interval = self._caps, int(self._caps.interval_s * SECOND)
        while self._fills and self._fills[0][0] <= now_ns - interval:
            self._fills.popleft()
        over: dict[str, int] = {}
        if caps.fills is not None and len(self._fills) >= caps.fills:
            over = {"fills": caps.fills}
        elif caps.notional is not None:
            filled = sum(each for _, each in self._fills)
            if filled + notional > caps.notional * UNIT:
                over = {"notional": caps.notional}
        if over:
            # Refuse for the whole interval from now on, not only this fill.
            self._frozen_until = now_ns + interval
            raise TradingHalted("a cap on fills is reached", interval_s=caps.interval_s, **over)

    # --- what to sign to be safe again ----------------------------------------------------------
    # Each message is made only when it is asked for, after the one before it was signed: ids follow
    # the lane's head.

    def stale(self) -> Iterator[Message]:
        """After a break: first cancel all quotes, then decline the orders that hit one."""
        account = self._account()
        hit = [order for order in _waiting(account) if order.quote_id is not None]
        yield from self._cancelled(account)
        yield from self._declined(hit, "the quote is of before a lost connection")

    def everything(self, why: str) -> Iterator[Message]:
        """Cancel all quotes, decline all waiting orders, reject all requests."""
        account = self._account()
        yield from self._cancelled(account)
        yield from self._declined(_waiting(account), why)
        for name in account.requests:
            yield QuoteRequestReject(
                quote_req_id=name,
                quote_request_reject_reason=QuoteRequestRejectReason.OTHER,
                text=why,
            )

    def quotes(self) -> Iterator[Message]:
        """Cancel all quotes."""
        yield from self._cancelled(self._account())

    def _cancelled(self, account: Account) -> Iterator[Message]:
        # The rulebook's clock does not advance while nobody sends. Beyond a quote's time plus T, no
        # order can have hit it in time.
        dead = self._now_ns() - account.terms.timeouts.acknowledgement
        if any(quote.valid_until > dead for quote in account.quotes.values()):
            yield QuoteCancel(quote_cancel_type=QuoteCancelType.ALL)

    def _declined(self, orders: list[LiveOrder], why: str) -> Iterator[Message]:
        for order in orders:
            yield ExecutionReport(
                exec_id=self._next_id("e"),
                cl_ord_id=order.cl_ord_id,
                exec_type=ExecType.REJECTED,
                ord_rej_reason=OrdRejReason.BROKER_OPTION,
                text=why,
            )


def _waiting(account: Account) -> list[LiveOrder]:
    return [order for order in account.orders.values() if order.status in _OPEN and order.leaves]


def _notional(message: ExecutionReport) -> int:
    return (message.last_px or 0) * (message.last_qty or 0) // UNIT
