"""A custody with two signers and no session: what the journal and the file are tested with."""

from __future__ import annotations

import sys
from pathlib import Path

from psymm._core import SecretKey, keccak256
from psymm.messages import (
    Heartbeat,
    Logon,
    Message,
    NoteRef,
    QuoteRequest,
    SessionKeyChange,
)
from psymm.session.runtime.ledger import RulebookLedger
from psymm.transcript.agreement import SOLVER, TRADER, CustodyAgreement, salt_of
from psymm.transcript.checkpoint import Point
from psymm.transcript.delegation import Delegation
from psymm.transcript.record import Record, RecordedFrame

sys.path.insert(0, str(Path(__file__).parent.parent / "session"))

from session_scene import CHAIN_ID, PSYMM, START_NS, make_terms

ROOMS = [str(Path(__file__).parents[1] / room) for room in ("transcript", "session")]
"""Where a program of a test's own finds this module and `session_scene`."""


class Signers:
    """Both parties' keys, and the record that they write."""

    def __init__(self, seed: int = 1) -> None:
        self.wallets = [SecretKey.from_bytes(bytes([seed, lane + 1]) * 16) for lane in (0, 1)]
        self.keys = [SecretKey.from_bytes(bytes([seed, lane + 3]) * 16) for lane in (0, 1)]
        self.opening = CustodyAgreement(
            CHAIN_ID,
            PSYMM,
            self.wallets[TRADER].public_key,
            self.wallets[SOLVER].public_key,
            make_terms().document,
            salt_of(bytes(31) + b"\x01", bytes(31) + bytes([seed])),
        )
        self.record = Record(self.opening)
        self.now_ns = START_NS

    def logon(self, lane: int, *, notes: int = 1, by: int | None = None) -> Logon:
        delegation = Delegation(lane, self.keys[lane].public_key, 1, 1000, START_NS + 10**15)
        wallet = self.wallets[lane if by is None else by]
        return Logon(
            terms_hash=self.opening.terms_hash,
            session_public_key=delegation.public_key,
            from_seq=1,
            to_seq=1000,
            expiry=delegation.expiry,
            delegation_signature=wallet.sign(delegation.message(self.opening).digest()),
            heart_bt_int=5,
            notes=tuple(
                NoteRef(commitment=bytes([n + 1]) * 32, nullifier=bytes([n + 101]) * 32)
                for n in range(notes if lane == TRADER else 0)
            ),
        )

    def sign(self, lane: int, message: Message) -> RecordedFrame:
        self.now_ns += 1_000_000
        if self.record.head(lane).seq == 0 and not isinstance(message, Logon):
            self.sign(lane, self.logon(lane))
        return self.record.sign(self.keys[lane], lane, message, self.now_ns)

    def talk(self, frames: int) -> list[RecordedFrame]:
        """Logons and then requests and heartbeats by turns."""
        self.sign(TRADER, self.logon(TRADER))
        self.sign(SOLVER, self.logon(SOLVER))
        for n in range(frames - 2):
            lane = n % 2
            self.sign(
                lane,
                Heartbeat()
                if lane
                else QuoteRequest(quote_req_id=f"r{n}", symbol="BTC-USD", order_qty=10**16),
            )
        return list(self.record)

    def change_key(self, lane: int) -> RecordedFrame:
        """A UKY, signed by the new key, that puts it in force."""
        self.keys[lane] = SecretKey.from_bytes(keccak256(self.keys[lane].public_key))
        delegation = Delegation(lane, self.keys[lane].public_key, 1, 1000, START_NS + 10**15)
        return self.sign(
            lane,
            SessionKeyChange(
                session_public_key=delegation.public_key,
                from_seq=delegation.from_seq,
                to_seq=delegation.to_seq,
                expiry=delegation.expiry,
                delegation_signature=self.wallets[lane].sign(
                    delegation.message(self.opening).digest()
                ),
            ),
        )

    def agree(self) -> tuple[Point, bytes]:
        """A checkpoint of all that was said, put in force by both; with its account's document."""
        for lane in (SOLVER, TRADER, SOLVER):
            self.sign(lane, Heartbeat())
        ledger = RulebookLedger(self.opening, make_terms())
        for entry in self.record:
            ledger.arrived(entry)
        due = ledger.offer_due(SOLVER)
        assert due is not None
        for lane, said in ((SOLVER, due[0]), (TRADER, due[0]), (SOLVER, Heartbeat())):
            ledger.arrived(self.sign(lane, said))
        assert ledger.point is not None
        assert ledger.agreed is not None
        return ledger.point, ledger.agreed.document()
