"""What `psymm trade` reports about a session that it leaves: the transcript, and the result."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from psymm.cli.data_dir import DataDir
from psymm.cli.output import Screen, format_amount

if TYPE_CHECKING:
    from psymm.api.trader import Session, Settled
    from psymm.cli.trade import TradeRequest
    from psymm.journal.writer import Journal


@dataclass
class TradeReport:
    """What to report about a session once it is left."""

    session: Session | None = None
    settled: Settled | None = None


@asynccontextmanager
async def report_at_end(
    screen: Screen, home: DataDir, journal: Journal, request: TradeRequest
) -> AsyncGenerator[TradeReport, None]:
    """Write the transcript after the session is left, even after an error, and print the result if
    there was none. Not earlier, because leaving signs a last cover, which belongs in the file."""
    from psymm.journal.export import export

    report = TradeReport()
    try:
        yield report
    finally:
        session = report.session
        if session is not None:
            path = request.transcript or home.transcripts / f"{session.custody.hex()}.psymm"
            with trio.CancelScope(shield=True):
                frames = await export(journal, session.custody, path)
    if session is not None:
        _print_result(screen, request, session, report.settled, frames, path)


def _print_result(
    screen: Screen,
    request: TradeRequest,
    session: Session,
    settled: Settled | None,
    frames: int,
    path: Path,
) -> None:
    from psymm.rulebook import Lane

    if settled is None:
        resume = request.resume_command(session.custody)
        screen.result(
            f"Left open. Go on with: `{resume}`\nTranscript: {path}",
            custody=session.custody,
            settled=False,
            resumeWith=resume,
            frames=frames,
            transcript=str(path),
        )
        return
    info, account = request.token, session.account
    collateral = account.collateral(Lane.TRADER)
    payout = account.payouts[Lane.TRADER]
    screen.result(
        f"Settled in block {settled.mined.block}: put up "
        f"{format_amount(collateral, info.decimals)}, "
        f"paid {settled.payout} {info.symbol}, gain {settled.gain}.\n"
        f"Transcript: {path} ({frames} frames); verify it with: psymm transcript verify {path}",
        custody=session.custody,
        settled=True,
        solver=session.solver,
        collateral=str(collateral),
        payout=str(payout),
        gain=str(payout - collateral),
        block=settled.mined.block,
        tx=settled.mined.transaction,
        frames=frames,
        transcript=str(path),
    )
