"""Makes a transcript file of any length, as two parties would have written it, for tests and for
measuring verification where a session would take days to write as much.

    python benches/long_transcript.py FILE [--frames N] [--payload BYTES] [--seed N]

Both lanes speak by turns, each frame covering the last of the other. Logons and, half-way, a change
of the trader's session key carry real delegations. All other frames are BusinessMessageReject, of
payloads that are all distinct and of the length asked for: legal at any time, so that the file
stands before the rulebook too. Signing takes some 60 µs a frame.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from psymm._core import SecretKey, sign_frame
from psymm.messages import Logon, Message, SessionKeyChange, encode
from psymm.terms import ChainRef, CollateralTerms, Instrument, Limits, Rates, Tariff, Terms
from psymm.transcript.agreement import SOLVER, TRADER, CustodyAgreement, salt_of
from psymm.transcript.delegation import Delegation
from psymm.transcript.file import encode_file

UNIT = 10**18
CHAIN_ID = 31337
START_NS = 1_790_000_000_000_000_000
ADDRESSES = [f"0x{n:040x}" for n in (0x11, 0x12, 0x13)]
ENDLESS = 2**62


def terms() -> Terms:
    """Terms of the custody. The transcript has more frames than they allow without a checkpoint; it
    is made to be verified, not ruled."""
    rates = Rates(cva=UNIT // 200, lf=UNIT // 200, mm=UNIT // 50)
    instrument = Instrument(
        symbol="BTC-USD",
        feed="BTC-USD",
        tick=UNIT // 10,
        lot=UNIT // 1000,
        min_notional=UNIT,
        max_notional=1_000_000 * UNIT,
        max_leverage=20 * UNIT,
        trader=rates,
        solver=rates,
    )
    psymm, registry, token = ADDRESSES
    return Terms(
        chain=ChainRef(id=CHAIN_ID, psymm=psymm, registry=registry),
        collateral=CollateralTerms(
            token=token, decimals=6, trader_minimum=10**6, solver_minimum=10**6
        ),
        instruments=(instrument,),
        end_date=4_102_444_800 * 10**9,
        tariff=Tariff(relayer_cap=0),
        limits=Limits(frames_per_second=1_000_000),
    )


class Writer:
    """Both parties of a custody, their keys drawn from `seed`."""

    def __init__(self, seed: int) -> None:
        def key(role: int) -> SecretKey:
            return SecretKey.from_bytes(bytes([1 + role]) + seed.to_bytes(31))

        self.wallets = [key(lane) for lane in (TRADER, SOLVER)]
        self.keys = [key(2 + lane) for lane in (TRADER, SOLVER)]
        self.next_key = key(4)
        self.opening = CustodyAgreement(
            CHAIN_ID,
            ADDRESSES[0],
            self.wallets[TRADER].public_key,
            self.wallets[SOLVER].public_key,
            terms().document,
            salt_of(bytes(32), seed.to_bytes(32)),
        )
        self.seqs = [0, 0]
        self.digests = [self.opening.custody] * 2
        self.now_ns = START_NS

    def frame(self, lane: int, payload: bytes) -> bytes:
        """The lane's next frame, covering all of the other's."""
        self.now_ns += 1_000
        self.seqs[lane] += 1
        frame = sign_frame(
            self.keys[lane],
            self.opening.domain,
            self.opening.custody,
            lane,
            self.seqs[lane],
            self.digests[lane],
            self.seqs[1 - lane],
            self.digests[1 - lane],
            self.now_ns,
            payload,
        )
        self.digests[lane] = frame.digest(self.opening.domain)
        return frame.raw

    def logon(self, lane: int) -> bytes:
        delegation = self._delegation(lane, self.keys[lane])
        message = Logon(
            terms_hash=self.opening.terms_hash,
            session_public_key=delegation.public_key,
            from_seq=delegation.from_seq,
            to_seq=delegation.to_seq,
            expiry=delegation.expiry,
            delegation_signature=self._signed(delegation),
            heart_bt_int=5,
        )
        return self._say(lane, message)

    def key_change(self) -> bytes:
        """The trader goes on with another session key."""
        self.keys[TRADER] = self.next_key
        delegation = self._delegation(TRADER, self.next_key)
        message = SessionKeyChange(
            session_public_key=delegation.public_key,
            from_seq=delegation.from_seq,
            to_seq=delegation.to_seq,
            expiry=delegation.expiry,
            delegation_signature=self._signed(delegation),
        )
        return self._say(TRADER, message)

    def _say(self, lane: int, message: Message) -> bytes:
        return self.frame(lane, encode(message))

    def _delegation(self, lane: int, key: SecretKey) -> Delegation:
        return Delegation(lane, key.public_key, self.seqs[lane] + 1, ENDLESS, ENDLESS)

    def _signed(self, delegation: Delegation) -> bytes:
        message = delegation.message(self.opening)
        return self.wallets[delegation.lane].sign(message.digest())


def business(n: int, payload_bytes: int) -> bytes:
    """A payload of its own for each n, as long as asked for where that is at least 150 bytes."""
    fixed = b'{"MsgType":"j","RefMsgType":"R","BusinessRejectReason":"4","BusinessRejectRefID":'
    body = fixed + b'"r%012d"' % n
    filling = payload_bytes - len(body) - len(b',"Text":""}')
    if filling < 1:
        return body + b"}"
    return body + b',"Text":"' + b"x" * min(filling, 1024) + b'"}'


def write_frames(
    out: BinaryIO,
    frames: int,
    payload_bytes: int = 300,
    seed: int = 1,
    progress: Callable[[int], None] | None = None,
) -> CustodyAgreement:
    """Write a transcript of `frames` frames, at least 4; gives its opening."""
    writer = Writer(seed)
    out.write(encode_file(writer.opening, []))
    for n in range(frames):
        lane = n % 2
        if n < 2:
            raw = writer.logon(lane)
        elif n == frames // 4 * 2:
            raw = writer.key_change()
        else:
            raw = writer.frame(lane, business(n, payload_bytes))
        out.write(raw)
        if progress is not None and n % 10_000 == 0:
            progress(n)
    return writer.opening


def main() -> None:
    parser = argparse.ArgumentParser(description="Make a long transcript file.")
    parser.add_argument("file", type=Path)
    parser.add_argument("--frames", type=int, default=1_000_000)
    parser.add_argument("--payload", type=int, default=300, metavar="BYTES")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()

    def progress(n: int) -> None:
        print(f"\r{n:,} of {given.frames:,}", end="", file=sys.stderr)

    with given.file.open("wb") as out:
        write_frames(out, given.frames, given.payload, given.seed, progress)
    print(f"\r{given.frames:,} frames in {given.file}", file=sys.stderr)


if __name__ == "__main__":
    main()
