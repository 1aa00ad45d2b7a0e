"""How far a custody has come, as the frames of its record say: the Logons, the notes listed and
accepted, the settlement that may be mined, the Logouts.

Read from frames alone, so it is the same after a restart. What only the chain or a clock can know
is told by whoever reads those.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from psymm.messages import (
    BusinessMessageReject,
    ChainFact,
    Checkpoint,
    CollAsgnRespType,
    CollateralAssignment,
    CollateralResponse,
    FactKind,
    Heartbeat,
    Logon,
    Logout,
    NoteRef,
    QuoteCancel,
    Reject,
    SessionKeyChange,
    Settlement,
    SettlementAcceptance,
    SettlementOutput,
)
from psymm.session.budget import SECOND
from psymm.session.effects import SessionStatus
from psymm.transcript.agreement import SOLVER, TRADER
from psymm.transcript.record import Record, RecordedFrame

READ: Final = (
    ChainFact,
    CollateralAssignment,
    CollateralResponse,
    Logon,
    Logout,
    Settlement,
    SettlementAcceptance,
)
"""What is read here of the peer's: a violation among these has no effect."""

NO_BUSINESS: Final = (
    BusinessMessageReject,
    Checkpoint,
    Heartbeat,
    QuoteCancel,
    Reject,
    SessionKeyChange,
    Settlement,
    SettlementAcceptance,
    SettlementOutput,
)
"""What neither asks, offers nor changes anything between the two sides."""


class Lifecycle:
    """lane: ours. skew_ns: by how much the two clocks may differ. Pairs are by lane.

    listed: the notes that a lane put up, by commitment; listed_at: its frame that listed the last
    of them. accepted_at: the other lane's frame that accepted the last of them, 0 before.
    turned_down: the other lane's refusal of them. rejected: the peer's frames that ours reject.
    proposal: the one alive, with its lane and entry. settled: the frame that cites the settlement,
    or what else spent the last of the accepted notes.
    """

    def __init__(self, lane: int, skew_ns: int) -> None:
        self._lane = lane
        self._skew_ns = skew_ns
        self.logons: list[Logon | None] = [None, None]
        self.logouts: list[bool] = [False, False]
        self.listed: tuple[dict[bytes, NoteRef], dict[bytes, NoteRef]] = ({}, {})
        self.listed_at: list[int] = [0, 0]
        self.accepted_at: list[int] = [0, 0]
        self.turned_down: list[CollateralResponse | None] = [None, None]
        self.rejected: set[int] = set()
        self.proposal: tuple[int, RecordedFrame, Settlement] | None = None
        self.acceptance: SettlementAcceptance | None = None
        self.settled: ChainFact | None = None
        self._offered: list[Settlement] = []
        self._accepted: tuple[set[bytes], set[bytes]] = (set(), set())
        self._spent: set[bytes] = set()
        # Both, in the linear order: once so, it stays.
        self._accepted_by_both = False

    def apply(self, entry: RecordedFrame) -> None:
        """Read a frame, ours or theirs, old or new."""
        lane, seq = entry.frame.lane, entry.frame.seq
        match entry.message:
            case Logon() as logon:
                if self.logons[lane] is None:
                    self.logons[lane] = logon
                    self._list(lane, seq, logon.notes)
            case CollateralAssignment() as assigned:
                self._list(lane, seq, assigned.notes)
            case CollateralResponse() as answer:
                if answer.coll_asgn_resp_type is CollAsgnRespType.ACCEPTED:
                    listed = self.listed[1 - lane]
                    self._accepted[1 - lane].update(
                        ref.commitment for ref in answer.commitments if ref.commitment in listed
                    )
                    if self._all_accepted(1 - lane) and not self.accepted_at[1 - lane]:
                        self.accepted_at[1 - lane] = seq
                else:
                    self.turned_down[1 - lane] = answer
            case Logout():
                self.logouts[lane] = True
            case Reject() as reject:
                if lane == self._lane:
                    self.rejected.add(reject.ref_seq_num)
            case Settlement() as proposal:
                if lane == self._lane:
                    self._offered.append(proposal)
                if self._comes_first(entry):
                    self.proposal = (lane, entry, proposal)
                    self.acceptance = None
            case SettlementAcceptance() as accepted:
                if self.proposal is not None and (
                    self.proposal[0] != lane and self.proposal[1].frame.seq == accepted.ref_seq_num
                ):
                    self.acceptance = accepted
            case ChainFact(fact_kind=FactKind.SPENT, nullifier=bytes(spent)) as fact:
                self._spent.add(spent)
                if self._ends(spent):
                    self.settled = fact

    @property
    def over(self) -> bool:
        """The custody has ended: no note that was accepted is unspent (`spec.md` 63).

        A Logout ends nothing. What was put up can still be accepted after it, and is paid out by a
        settlement alone.
        """
        return self.settled is not None

    def state(self, record: Record) -> SessionStatus:
        """Of a session that nothing has stopped. record: of which every frame was noted."""
        if self.over:
            return SessionStatus.CLOSED
        if self._offered or self.proposal is not None:
            return SessionStatus.SETTLING
        if self._accepted_by_both or self._trading(record):
            return SessionStatus.TRADING
        return SessionStatus.LOGON if None in self.logons else SessionStatus.VERIFYING

    @property
    def options(self) -> list[Settlement]:
        """What may still be mined: the proposal that is alive, and whatever our wallet offered,
        even where the record refused it, since the peer holds the signature all the same."""
        return [*self._offered, *([] if self.proposal is None else [self.proposal[2]])]

    def forget_output(self, commitment: bytes) -> None:
        """The tree has this commitment from elsewhere: what would make it is mined no more."""
        if self.proposal is not None and _makes(self.proposal[2], commitment):
            self.proposal = self.acceptance = None
        self._offered = [one for one in self._offered if not _makes(one, commitment)]

    def forget_unsigned(self, said: Settlement) -> None:
        """A proposal of the peer's is void, and nobody signed it but its proposer."""
        alive = self.proposal
        if alive is not None and alive[2] is said and self.acceptance is None:
            self.proposal = None

    def expire(self, now: int) -> None:
        """What is past its deadline by now, nanoseconds, did not happen on chain."""
        if self.proposal is not None and now >= self.proposal[2].deadline * SECOND:
            self.proposal = self.acceptance = None
        self._offered = [one for one in self._offered if now < one.deadline * SECOND]

    def keep_expired(self, before: Lifecycle) -> None:
        """Frames were taken off the record and the rest was noted anew: what had expired before
        stays so."""
        self._offered = [one for one in self._offered if one in before._offered]
        if before.proposal is None:
            self.proposal = self.acceptance = None

    def _comes_first(self, entry: RecordedFrame) -> bool:
        """Of two proposals that cross, the one that is first in the linear order stands: the
        solver's, unless it covers the trader's."""
        if self.proposal is None:
            return True
        lane, alive, said = self.proposal
        if entry.frame.sending_time > said.deadline * SECOND + self._skew_ns:
            return True
        return (
            entry.frame.lane == SOLVER and lane == TRADER and entry.frame.peer_seq < alive.frame.seq
        )

    def _list(self, lane: int, seq: int, notes: Iterable[NoteRef]) -> None:
        for note in notes:
            self.listed[lane].setdefault(note.commitment, note)
            self.listed_at[lane] = seq

    def _all_accepted(self, lane: int) -> bool:
        return bool(self.listed[lane]) and self._accepted[lane] >= set(self.listed[lane])

    def _ends(self, spent: bytes) -> bool:
        """Whether nothing accepted is unspent once this nullifier is."""
        alive = None if self.proposal is None else self.proposal[2]
        if alive is not None and spent in (alive.nullifier0, alive.nullifier1):
            return True
        notes = {
            listed[commitment].nullifier
            for listed, accepted in zip(self.listed, self._accepted, strict=True)
            for commitment in accepted
        }
        return bool(notes) and self._spent >= notes

    def _trading(self, record: Record) -> bool:
        """Both AZ are in the linear order: the trader's once a solver frame covers it."""
        solvers_accepted_at = self.accepted_at[SOLVER]  # the trader's frame
        self._accepted_by_both = (
            bool(self.accepted_at[TRADER])
            and bool(solvers_accepted_at)
            and record.head(SOLVER).peer_seq >= solvers_accepted_at
        )
        return self._accepted_by_both


def _makes(proposal: Settlement, commitment: bytes) -> bool:
    return commitment in (proposal.commitment0, proposal.commitment1)


__all__ = ["NO_BUSINESS", "READ", "Lifecycle"]
