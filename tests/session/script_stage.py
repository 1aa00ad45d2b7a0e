"""Plays a script against one real runner: protocol, journal, rulebook, socket, on trio's mock
clock.

The runner is the peer. It has real keys and keeps a record of its own, so that what it signs
follows from what came before, unless the script says otherwise; and every frame that the end
signs is checked against that record: chained, signed, and never two with one number.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from secrets import token_bytes
from typing import Any

import trio
from script import (
    LANES,
    BadScript,
    Line,
    Script,
    ScriptFailed,
    assignments,
    duration_ns,
    evaluate,
)
from session_scene import (
    CHAIN_ID,
    PSYMM,
    REGISTRY,
    START_NS,
    TOKEN,
    Desk,
    LedgerChain,
    Listener,
    SceneClock,
    make_terms,
    party,
)
from trio.testing import wait_all_tasks_blocked

from psymm._core import (
    Frame,
    FrameError,
    JsonError,
    SecretKey,
    TranscriptError,
    keccak256,
    sign_frame,
)
from psymm.custody.notes import Note, random_blinding
from psymm.errors import Disconnected, PSymmError
from psymm.messages import (
    Introduction,
    JournalStatus,
    Logon,
    Message,
    Resume,
    SessionKeyChange,
    TermsDocument,
    decode,
    decode_text,
    encode_text,
)
from psymm.nursery import open_block_nursery
from psymm.session.protocol import SessionStatus, TextReceived
from psymm.session.protocol.chain_facts import custody_of
from psymm.session.runtime.handshake import (
    DelegatedKey,
    Host,
    conclude_handshake,
    fresh_nonce,
    introduce,
)
from psymm.session.runtime.ledger import RulebookLedger
from psymm.session.runtime.party import LocalParty, read_record
from psymm.session.runtime.runner import SessionRunner
from psymm.session.runtime.solver import SolverServer
from psymm.session.runtime.trader import Backoff, TraderSession
from psymm.terms import Limits, Terms, Timeouts
from psymm.transcript.agreement import SOLVER, TRADER, CustodyAgreement
from psymm.transcript.delegation import Delegation, DelegationRefused
from psymm.transcript.introduction import KEY_NS, key_message
from psymm.transcript.record import Record
from psymm.transcript.resumption import ResumeSigner, challenge_for
from psymm.wallet import KeyWallet

TRADERS_COLLATERAL = 2_000_000_000
SOLVERS_COLLATERAL = 5_000_000_000
ALIVE_EVERY_S = 2.0


# --- the wire -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Closed:
    """The end closed the connection, with this reason."""

    reason: str


Item = str | Frame | Closed


class Pipe:
    """The end's socket; the peer's side is `feed`, `drop` and what is in `out`."""

    def __init__(self, out: deque[Item]) -> None:
        self._out = out
        self.challenge: bytes | None = None
        """The end's for this connection; it goes out before anything else, and no line tells it."""
        self._feed, self._read = trio.open_memory_channel[str | bytes](1000)
        self._closed = False

    async def send(self, message: str | bytes) -> None:
        await trio.lowlevel.checkpoint()
        if self._closed:
            raise Disconnected
        if isinstance(message, str):
            said = _resume_in(message)
            if said is not None and said.challenge is not None:
                self.challenge = said.challenge
            else:
                self._out.append(message)
            return
        offset = 0
        while offset < len(message):
            frame = Frame.parse(message, offset)
            offset += len(frame.raw)
            self._out.append(frame)

    async def receive(self) -> str | bytes:
        try:
            return await self._read.receive()
        except (trio.EndOfChannel, trio.ClosedResourceError):
            raise Disconnected from None

    async def aclose(self, code: int = 1000, reason: str = "") -> None:
        await trio.lowlevel.checkpoint()
        if not self._closed:
            self._closed = True
            self._out.append(Closed(reason))
            self._feed.close()

    @property
    def unread_bytes(self) -> int:
        return 0

    def allow(self, small_frames: int) -> None:
        """What is cut off below the messages is tested with a real stream elsewhere."""

    def feed(self, message: str | bytes) -> None:
        if not self._closed:
            self._feed.send_nowait(message)

    def drop(self) -> None:
        self._closed = True
        self._feed.close()

    @property
    def open(self) -> bool:
        return not self._closed


def _resume_in(text: str) -> Resume | None:
    try:
        said = decode_text(text)
    except JsonError:
        return None
    return said if isinstance(said, Resume) else None


# --- messages as scripts write them -------------------------------------------------------------


def business(lane: int) -> tuple[str, str]:
    """What stands for a message of the application: the trader asks for a quote, the solver
    gives one. MsgType and the field that names it."""
    return ("R", "QuoteReqID") if lane == TRADER else ("S", "QuoteID")


DEFAULTS: dict[str, dict[str, str]] = {
    "R": {"Symbol": "BTC-USD", "OrderQty": "0.01"},
    "S": {
        "Symbol": "BTC-USD",
        "ValidUntilTime": "$now+30s",
        "BidPx": "49999",
        "OfferPx": "50001",
    },
    "D": {
        "Symbol": "BTC-USD",
        "Side": "1",
        "OrderQty": "0.01",
        "OrdType": "2",
        "PositionEffect": "O",
        "ExpireTime": "$now+30s",
        "Price": "50000",
    },
    "G": {"OrderQty": "0.02", "Price": "50000", "ExpireTime": "$now+30s"},
    "8": {"ExecType": "F"},
    "Z": {"QuoteCancelType": "5"},
    "9": {"CxlRejResponseTo": "1", "CxlRejReason": "0"},
    "AJ": {"QuoteRespType": "6"},
}
"""What a field is where a script does not say; `Field=-` leaves one out."""


def payload_of(kind: str, given: dict[str, str], known: dict[str, int]) -> bytes:
    """A payload by MsgType and fields, not checked against any schema."""
    fields = DEFAULTS.get(kind, {}) | given
    if kind == "8" and fields["ExecType"] == "F":
        fields = {"LastPx": "50000", "LastQty": "0.01"} | fields
    made: dict[str, object] = {"MsgType": kind}
    for name, value in fields.items():
        if value != "-":
            reckoned = evaluate(value, known)
            made[name] = json.loads(reckoned) if reckoned.startswith("[{") else reckoned
    return json.dumps(made, separators=(",", ":"), ensure_ascii=False).encode()


def split_fields(words: Sequence[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Fields of the message (FIX names) and of the frame's header (lower case first)."""
    given = assignments(tuple(words))
    fields = {name: value for name, value in given.items() if name[0].isupper()}
    header = {name: value for name, value in given.items() if not name[0].isupper()}
    return fields, header


def shown(item: Item) -> str:
    """What went out, for a failure."""
    if isinstance(item, str):
        return f"text {item[:300]}"
    if isinstance(item, Closed):
        return f"close {item.reason}"
    return (
        f"frame seq={item.seq} peerSeq={item.peer_seq} "
        f"{item.payload[:300].decode('utf-8', 'replace')}"
    )


class Mismatch(Exception):
    """Why a line of a script does not hold."""


def match_fields(held: dict[str, Any], wanted: dict[str, str], known: dict[str, int]) -> None:
    """Raises Mismatch."""
    for name, value in wanted.items():
        reckoned = evaluate(value, known)
        if name.endswith("~"):
            if reckoned not in str(held.get(name[:-1], "")):
                raise Mismatch(f"{name[:-1]} does not hold {reckoned!r}")
        elif value == "-":
            if name in held:
                raise Mismatch(f"{name} is {held[name]!r}, not left out")
        elif held.get(name) != reckoned:
            raise Mismatch(f"{name} is {held.get(name)!r}, not {reckoned!r}")


def terms_of(script: Script) -> Terms:
    """The scene's terms, with the script's spans and limits. Raises BadScript."""
    spans = {
        name: duration_ns(value)
        for name, value in script.terms.items()
        if name in Timeouts.__dataclass_fields__
    }
    limits = {
        name: int(value)
        for name, value in script.terms.items()
        if name in Limits.__dataclass_fields__
    }
    if unknown := set(script.terms) - set(spans) - set(limits):
        raise BadScript(f"{script.name}: the terms have no {sorted(unknown)}")
    return make_terms(timeouts=Timeouts(**spans), limits=Limits(**limits))


class CountedClock(SceneClock):
    """Counts how often the end asks for the time: what it does for nothing shows there."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def now_ns(self) -> int:
        self.asked += 1
        return super().now_ns()


# --- the stage ----------------------------------------------------------------------------------


class Stage:
    """One end under test and its peer. lane: the end's."""

    def __init__(
        self,
        nursery: trio.Nursery,
        script: Script,
        lane: int,
        path: Path,
        begun: Callable[[], None],
    ) -> None:
        self.script = script
        self.begun = begun
        self.lane = lane
        self.peer = 1 - lane
        self.path = path
        self.terms = terms_of(script)
        self.clock = CountedClock()
        self.true_clock = SceneClock()
        self.chain = LedgerChain()
        self.wallets = (KeyWallet.generate(), KeyWallet.generate())
        self.stranger = KeyWallet.generate()
        self.key = SecretKey.generate()
        self.old_key = self.key
        self.other_key = SecretKey.generate()
        self.out: deque[Item] = deque()
        self.pipe = Pipe(self.out)
        self.pipe.drop()
        self.record: Record | None = None
        self.notes: tuple[Note, ...] = ()
        self.heard = Listener()
        self.desk = Desk(SOLVERS_COLLATERAL)
        self.ended: PSymmError | None = None
        self.returned = False
        self.party: LocalParty | None = None
        self._nonce = fresh_nonce()
        self._nursery = nursery
        self._client: TraderSession | None = None
        self._server: SolverServer | None = None
        self._life = trio.CancelScope()
        self._gone = trio.Event()
        self._dialled: deque[Pipe] = deque()
        self._may_dial = trio.Event()
        self.challenge = bytes(32)
        self.old_challenge = bytes(32)
        self._once: dict[int, bytes] = {}
        self._end_texts: list[str] = []
        self._taken = 0
        self.bent: dict[str, str] = {}

    # --- the end's process --------------------------------------------------------------------

    async def start(self) -> None:
        self._life, self._gone = trio.CancelScope(), trio.Event()
        self.returned = False
        await self._nursery.start(self._live)

    async def restart(self) -> None:
        """The end's process dies where it stands and comes again with its journal."""
        self.pipe.drop()
        self._life.cancel()
        await self._gone.wait()
        self._discard()
        await self.start()

    async def _live(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        try:
            with self._life:
                async with (
                    party(
                        self.wallets[self.lane], self.chain, self.clock, self.path / "end.db"
                    ) as ours,
                    open_block_nursery() as nursery,
                ):
                    self.party = ours
                    if self.lane == SOLVER:
                        self._server = SolverServer(ours, self.terms, b"\x07" * 32, self.desk)
                        await nursery.start(self._server.run)
                    else:
                        held = await ours.journal.custodies()
                        self._client = TraderSession(
                            ours,
                            self._dial,
                            self.heard,
                            expected=self.wallets[SOLVER].public_key,
                            collateral=TRADERS_COLLATERAL,
                            backoff=Backoff(0.0, 0.0),
                            resume=held[0] if held else None,
                        )
                        nursery.start_soon(self._run_client, self._client)
                    self._process = nursery
                    task_status.started()
                    await trio.sleep_forever()
        finally:
            self._gone.set()

    async def _run_client(self, client: TraderSession) -> None:
        try:
            await client.run()
        except PSymmError as ended:
            self.ended = ended
        else:
            self.returned = True

    @asynccontextmanager
    async def _dial(self) -> AsyncGenerator[Pipe, None]:
        await self._may_dial.wait()
        self._may_dial = trio.Event()
        pipe = Pipe(self.out)
        self._dialled.append(pipe)
        try:
            yield pipe
        finally:
            with trio.CancelScope(shield=True):
                await pipe.aclose()

    @property
    def end(self) -> SessionRunner:
        held = self.desk.ends[-1] if self.lane == SOLVER and self.desk.ends else None
        if self._client is not None and self._client.runner is not None:
            held = self._client.runner
        if held is None:
            raise Mismatch("the end has no session yet")
        return held

    @property
    def listener(self) -> Listener:
        return self.heard if self.lane == TRADER else self.desk.listeners[-1]

    def _discard(self) -> None:
        self.out.clear()

    # --- the peer -----------------------------------------------------------------------------

    def known(self) -> dict[str, int]:
        """What `$name` stands for: the peer's last frame, the end's last frame that the peer
        has, and the time now."""
        record = self.record
        return {
            "peer": 0 if record is None else record.head(self.peer).seq,
            "end": 0 if record is None else record.head(self.lane).seq,
            "now": self.true_clock.now_ns(),
            "start": START_NS,
            "endtime": 0 if record is None else record.head(self.lane).sending_time,
            "block": self.chain.block,
            "peertime": 0 if record is None else record.head(self.peer).sending_time,
        }

    def _book(self) -> Record:
        if self.record is None:
            raise BadScript(f"{self.script.name}: nobody has met yet")
        return self.record

    @property
    def opening(self) -> CustodyAgreement:
        return self._book().agreement

    async def connect(self) -> None:
        """A connection stands, and where a handshake is due on it, it was held."""
        self.old_challenge = self.pipe.challenge or self.old_challenge
        if self.lane == TRADER:
            self._may_dial.set()
            await wait_all_tasks_blocked()
            if not self._dialled:
                raise Mismatch("the trader did not dial")
            self.pipe = self._dialled.popleft()
            if self.out and isinstance(self.out[-1], str) and '"UHI"' in self.out[-1]:
                greeting = decode_text(self.out.pop())
                assert isinstance(greeting, Introduction)
                await self._answer(greeting)
        else:
            self.pipe = Pipe(self.out)
            assert self._server is not None
            self._process.start_soon(self._server.connection, self.pipe)
            if self.record is None or not self.record.head(self.lane).seq:
                await self._introduce()
        await wait_all_tasks_blocked()
        if self.record is not None and self.pipe.open:
            self.challenge = token_bytes(32)
            asks = challenge_for(self.opening.custody, self.challenge)
            self.pipe.feed(encode_text(asks))
            await wait_all_tasks_blocked()

    async def _answer(self, greeting: Introduction) -> None:
        host = Host(
            self.wallets[SOLVER].public_key, CHAIN_ID, PSYMM, self.terms.document, b"\x07" * 32
        )
        now = self.true_clock.now_ns()
        said, document, introduced = host.answer(
            greeting, SOLVERS_COLLATERAL, self._introduction_key(now), now
        )
        said, document = self._bend(said, document)
        if self.record is None:
            self._met(introduced.agreement)
        self.pipe.feed(encode_text(said))
        self.pipe.feed(encode_text(document))
        await wait_all_tasks_blocked()

    def _introduction_key(self, now: int) -> DelegatedKey:
        """delegated=other: by a stranger's wallet; expired: in the past."""
        wallet = self.stranger if self.bent.get("delegated") == "other" else self.wallets[SOLVER]
        expiry = now - 1 if self.bent.get("delegated") == "expired" else now + KEY_NS
        owner = self.wallets[SOLVER].public_key
        message = key_message(CHAIN_ID, PSYMM, owner, self.key.public_key, expiry)
        return DelegatedKey(self.key, expiry, wallet.sign_digest(message.digest()))

    def _bend(
        self, said: Introduction, document: TermsDocument
    ) -> tuple[Introduction, TermsDocument]:
        """What arrives of the solver's introduction: `bent` says what is wrong with it."""
        for name, value in self.bent.items():
            match name, value:
                case "signature", "none":
                    said = replace(
                        said,
                        expiry=None,
                        introduction_key=None,
                        key_expiry=None,
                        key_signature=None,
                        signature=None,
                    )
                case "collateral", _:
                    said = replace(said, collateral=int(value))
                case "nonce", "other":
                    said = replace(said, nonce=fresh_nonce())
                case "terms", "other":
                    other = self.terms.document.replace(b"ETH-USD", b"ETH-EUR")
                    document = TermsDocument(terms=other)
                    said = replace(said, terms_hash=keccak256(other))
                case "expiry", _:
                    said = replace(said, expiry=int(evaluate(value, self.known())))
                case "delegated", "other" | "expired":
                    pass
                case _:
                    raise BadScript(f"{name}={value} bends no introduction")
        return said, document

    async def _introduce(self) -> None:
        ours = introduce(self.wallets[TRADER].public_key, self._nonce, TRADERS_COLLATERAL)
        self.pipe.feed(encode_text(ours))
        await wait_all_tasks_blocked()
        theirs, document = (decode_text(str(self.out.popleft())) for _ in range(2))
        assert isinstance(theirs, Introduction)
        assert isinstance(document, TermsDocument)
        introduced = conclude_handshake(
            ours, theirs, document, chain_id=CHAIN_ID, contract=PSYMM, expected=theirs.public_key
        )
        if self.record is None:
            self._met(introduced.agreement)

    def _met(self, agreement: CustodyAgreement) -> None:
        self.record = Record(agreement)
        worth = SOLVERS_COLLATERAL if self.peer == SOLVER else TRADERS_COLLATERAL
        note = Note(custody_of(agreement), TOKEN, worth, random_blinding())
        self.chain.insert(note.commitment)
        self.notes = (note,)

    async def delegated(self, fields: dict[str, str], given: dict[str, str], seq: int) -> bytes:
        """The payload of a Logon or key change; given: what is wrong with its delegation."""
        kind = fields["MsgType"]
        key = self.key
        delegation = Delegation(
            lane=self.peer,
            public_key=key.public_key,
            from_seq=int(given.pop("fromSeq", str(seq))),
            to_seq=int(given.pop("toSeq", "1000000")),
            expiry=int(evaluate(given.pop("expiry", "$now+86400s"), self.known())),
        )
        signer = {
            "own": self.wallets[self.peer],
            "other": self.stranger,
            "end": self.wallets[self.lane],
        }[given.pop("wallet", "own")]
        signature = await signer.sign_typed(delegation.message(self.opening))
        if given.pop("delegation", "kept") == "moved":
            # Signed for one key, shown for another.
            delegation = Delegation(
                self.peer,
                self.other_key.public_key,
                delegation.from_seq,
                delegation.to_seq,
                delegation.expiry,
            )
        made: dict[str, object] = {"MsgType": kind}
        if kind == "A":
            made["TermsHash"] = "0x" + self.terms.hash.hex()
        made |= {
            "SessionPublicKey": "0x" + delegation.public_key.hex(),
            "FromSeq": str(delegation.from_seq),
            "ToSeq": str(delegation.to_seq),
            "Expiry": str(delegation.expiry),
            "DelegationSignature": "0x" + signature.hex(),
        }
        if kind == "A":
            made["HeartBtInt"] = "5"
            if self.peer == TRADER and given.pop("notes", "own") != "none":
                made["Notes"] = self._note_refs()
        for name, value in fields.items():
            if value == "-":
                made.pop(name, None)
            else:
                made[name] = evaluate(value, self.known())
        return json.dumps(made, separators=(",", ":")).encode()

    def _note_refs(self) -> list[dict[str, str]]:
        return [
            {"Commitment": "0x" + n.commitment.hex(), "Nullifier": "0x" + n.nullifier.hex()}
            for n in self.notes
        ]

    async def payload(self, words: Sequence[str], header: dict[str, str], seq: int) -> bytes:
        """The payload that the words name; what they say of the header goes into `header`."""
        kind, *rest = words
        if kind.startswith("hex="):
            header.update(split_fields(rest)[1])
            return bytes.fromhex(kind[4:])
        if kind == "raw":
            header.update(split_fields(rest[1:])[1])
            return rest[0].encode()
        fields, given = split_fields(rest)
        header.update(given)
        if kind == "business":
            kind, name = business(self.peer)
            fields[name] = header.pop("id")
        if kind in ("A", "UKY"):
            if kind == "UKY":
                self.old_key, self.key = self.key, SecretKey.generate()
            return await self.delegated({"MsgType": kind} | fields, header, seq)
        if kind == "AY":
            fields = {"CollAsgnID": "1", "CollAsgnReason": "0"} | fields
            fields.setdefault("Notes", json.dumps(self._note_refs()))
        if kind == "AZ":
            fields = {"CollRespID": "1", "CollAsgnRespType": "1"} | fields
            listed = [
                {
                    "Commitment": "0x" + note.commitment.hex(),
                    "Token": note.token.lower(),
                    "Amount": str(note.amount),
                }
                for note in self.end.protocol.notes.values()
            ]
            fields.setdefault("Commitments", json.dumps(listed))
        return payload_of(kind, fields, self.known())

    async def frame(self, words: Sequence[str]) -> bytes:
        """A frame of the peer's as its bytes; on the peer's record if it may follow there."""
        record, header = self._book(), dict[str, str]()
        seq = record.head(self.peer).seq + 1
        payload = await self.payload(words, header, seq)
        known = self.known()

        def number(name: str, default: int) -> int:
            return int(evaluate(header.pop(name), known)) if name in header else default

        seq = number("seq", seq)
        covers = number("peerSeq", known["end"])
        time = number("sendingTime", max(known["now"], record.head(self.peer).sending_time))
        previous = self._digest(header.pop("previous", f"peer:{seq - 1}"))
        peer_digest = self._digest(header.pop("peerDigest", f"end:{covers}"))
        custody = record.agreement.custody
        if header.pop("custody", "own") == "other":
            custody = bytes([custody[0] ^ 1]) + custody[1:]
        lane = self.lane if header.pop("lane", "own") == "end" else self.peer
        keys = {"own": self.key, "old": self.old_key, "other": self.other_key}
        named = header.pop("key", "own")
        key = self.end.protocol.state.keys.key if named == "end" else keys[named]
        keep = header.pop("forged", "no") == "no"
        in_transit = header.pop("transit", "whole") == "damaged"
        if not keep and words[0] == "UKY":
            self.key = self.old_key
        try:
            frame = sign_frame(
                key,
                record.agreement.domain,
                custody,
                lane,
                seq,
                previous,
                covers,
                peer_digest,
                time,
                payload,
            )
        except FrameError as bad:
            raise BadScript(f"{self.script.name}: no such frame can be signed: {bad}") from None
        raw = _bent(frame.raw, header)
        if header:
            raise BadScript(f"{self.script.name}: a frame has no {sorted(header)}")
        if keep and (in_transit or raw == frame.raw):
            # One that the script bends out of the lane is sent, but the peer keeps no such frame.
            with suppress(TranscriptError, FrameError, DelegationRefused):
                record.append(frame)
        return raw

    def _digest(self, name: str) -> bytes:
        if name in ("ones", "zeros"):
            return bytes([name == "ones"]) * 32
        whose, _, number = name.partition(":")
        lane = self.peer if whose == "peer" else self.lane
        try:
            return self._book().digest(lane, int(evaluate(number, self.known())))
        except IndexError:
            return b"\x01" * 32

    def text(self, words: Sequence[str]) -> str:
        """A text of the peer's."""
        kind, *rest = words
        if kind == "raw":
            return rest[0]
        fields, own = split_fields(rest)
        if kind == "URS":
            return self._resume(fields, own)
        if kind == "UOP":
            note = self.notes[0]
            fields = {
                "Openings": json.dumps(
                    [
                        {
                            "Commitment": "0x" + note.commitment.hex(),
                            "Blinding": "0x" + note.blinding.hex(),
                            "Token": "0x" + bytes.fromhex(note.token[2:]).hex(),
                            "Amount": str(note.amount),
                        }
                    ]
                )
            } | fields
        if own:
            raise BadScript(f"{self.script.name}: a text has no header: {sorted(own)}")
        return payload_of(kind, fields, self.known()).decode()

    def _resume(self, fields: dict[str, str], own: dict[str, str]) -> str:
        """The heads as the peer has them, unless the script lies; signed over the end's challenge,
        unless it says otherwise."""
        record, known = self._book(), self.known()
        made: dict[str, Any] = {}
        for lane in (TRADER, SOLVER):
            whose = "peer" if lane == self.peer else "end"
            seq = int(evaluate(own.pop(f"{whose}Seq", f"${whose}"), known))
            made[f"{LANES[lane]}_seq"] = seq
            made[f"{LANES[lane]}_digest"] = self._digest(
                own.pop(f"{whose}Digest", f"{whose}:{seq}")
            )
        custody = fields.pop("Custody", None)
        status = fields.pop("JournalStatus", None)
        heads = Resume(
            custody=record.agreement.custody if custody is None else bytes.fromhex(custody[2:]),
            journal_status=None if status is None else JournalStatus(status),
            **made,
        )
        signed, over = own.pop("signed", "own"), own.pop("over", "own")
        challenge = {"own": self.pipe.challenge, "old": self.old_challenge, "ours": self.challenge}
        if own or fields:
            raise BadScript(f"{self.script.name}: a resume has no {sorted(own | fields)}")
        if signed != "no" and (named := challenge[over]) is not None:
            heads = self._prover(signed).sign(record.agreement, named, heads)
        return encode_text(heads)

    def _prover(self, name: str) -> ResumeSigner:
        """own: the key in force. old: the one before it. proof: one that the wallet delegates for
        no frame. expired: likewise, but its time is over. other: a stranger's. runner: one of the
        end's wallet."""
        record = self._book()
        if name in ("own", "old") and record.delegation(self.peer) is not None:
            key = self.key if name == "own" else self.old_key
            for entry in record:
                said = entry.message
                if isinstance(said, Logon | SessionKeyChange) and (
                    said.session_public_key == key.public_key
                ):
                    return ResumeSigner.of(key, self.peer, said)
        wallet = {"other": self.stranger, "end": self.wallets[self.lane]}.get(
            name, self.wallets[self.peer]
        )
        now, lives = self.true_clock.now_ns(), -3_600 if name == "expired" else 3_600
        key = SecretKey.generate()
        delegation = Delegation(self.peer, key.public_key, 0, 0, now + lives * 10**9)
        return ResumeSigner(
            key, delegation, wallet.key.sign(delegation.message(self.opening).digest())
        )

    def again(self, words: Sequence[str]) -> bytes:
        """Frames of the peer's, byte for byte as they were signed."""
        record, header = self._book(), assignments(words[1:])
        raw = b""
        for seq in _numbers(words[0], self.known()):
            entry = record.entry(self.peer, seq)
            if entry is None:
                raise BadScript(f"{self.script.name}: the peer never signed {seq}")
            raw += entry.frame.raw
        return _bent(raw, header)

    # --- the script's lines -------------------------------------------------------------------

    async def play(self) -> None:
        """Raises ScriptFailed, BadScript."""
        facts = frozenset({LANES[self.lane]})
        number = 0
        try:
            await self.start()
            for line in self.script.lines:
                number = line.number
                if line.counts(facts):
                    await self._directive(line)
            number = len(self.script.source) + 1
            await wait_all_tasks_blocked()
            self._quiet()
            await self._sound()
        except Mismatch as why:
            raise ScriptFailed(self.script, number, str(why)) from None
        except BadScript as bad:
            raise BadScript(f"{self.script.name}:{number}: {bad}") from bad

    async def _directive(self, line: Line) -> None:
        words = line.arguments
        match line.word:
            case "G":
                await self._given(words)
                self.begun()
            case "I":
                await self._incoming(words)
            case "E":
                await wait_all_tasks_blocked()
                self._expect(words)
            case "T":
                self._quiet()
                await self._pass_time(words)
            case "C":
                self.clock.offset_ns += duration_ns(words[0])
            case "B":
                self.chain.block += int(words[0])
            case "W":
                self._quiet()
                await self._wish(words)
            case "S":
                await wait_all_tasks_blocked()
                await self._state(words)
            case _:
                raise BadScript(f"unknown directive {line.word}")

    def _quiet(self) -> None:
        """Nothing went out that the script does not tell of."""
        if self.out:
            raise Mismatch("more went out: " + "; ".join(shown(item) for item in self.out))

    async def _incoming(self, words: Sequence[str]) -> None:
        await wait_all_tasks_blocked()
        self._quiet()
        count = 1
        if words[0][0] == "x" and words[0][1:].isdigit():
            count, words = int(words[0][1:]), words[1:]
        for _ in range(count):
            await self._come(words)
        await wait_all_tasks_blocked()

    async def _come(self, words: Sequence[str]) -> None:
        match words[0]:
            case "disconnect":
                self.pipe.drop()
            case "connect":
                self.bent = assignments(tuple(words[1:]))
                await self.connect()
                self.bent = {}
            case "restart":
                await self.restart()
            case "resume":
                await self.connect()
                self.pipe.feed(self.text(("URS", *words[1:])))
            case "text":
                self.pipe.feed(self.text(words[1:]))
            case "raw":
                self.pipe.feed(bytes.fromhex(words[1]))
            case "zeros":
                self.pipe.feed(bytes(int(words[1])))
            case "lost":
                await self.frame(words[1:])
            case "echo":
                for seq in _numbers(words[1], self.known()):
                    self.pipe.feed(self._once[seq])
            case "frame" | "again":
                data = b""
                for part in _parts(words):
                    kind, *rest = part
                    data += self.again(rest) if kind == "again" else await self.frame(rest)
                self.pipe.feed(data)
            case _:
                raise BadScript(f"nothing called {words[0]} comes in")

    def _expect(self, words: Sequence[str]) -> None:
        if words[0] == "nothing":
            self._quiet()
            return
        if words[0] == "any":
            while self.out:
                try:
                    self._match(self.out[0], words[1:])
                except Mismatch:
                    return
                self._take()
            return
        if words[0] == "lost":
            if not self.out:
                raise Mismatch("nothing came")
            self._match(self.out[0], words[1:])
            item = self.out.popleft()
            if isinstance(item, Frame):
                self._once.setdefault(item.seq, item.raw)
            return
        count = 1
        if words[0][0] == "x" and words[0][1:].isdigit():
            count, words = int(words[0][1:]), words[1:]
        if words[0] == "again":
            for seq in _numbers(words[1], self.known()):
                self._expect(("frame", f"seq={seq}"))
            return
        for _ in range(count):
            if not self.out:
                raise Mismatch("nothing came")
            self._match(self.out[0], words)
            self._take()

    def _take(self) -> Item:
        """The next item that went out; a frame is checked and put on the peer's record."""
        item = self.out.popleft()
        if isinstance(item, Frame) and item.lane == self.lane:
            record = self._book()
            if self._once.setdefault(item.seq, item.raw) != item.raw:
                raise Mismatch(f"the end signed two frames with number {item.seq}")
            if item.seq > record.head(self.lane).seq:
                try:
                    record.append(item)
                except (TranscriptError, FrameError, DelegationRefused) as bad:
                    raise Mismatch(f"the end's frame {item.seq} does not follow: {bad}") from None
        elif isinstance(item, str):
            try:
                decode_text(item)
            except JsonError as bad:
                raise Mismatch(f"the end's text is not the vocabulary's: {bad}") from None
        return item

    def _match(self, item: Item, words: Sequence[str]) -> None:
        kind, *rest = words
        known = self.known()
        came = f"came {shown(item)}"
        try:
            if kind == "close":
                if len(rest) > 1:
                    raise BadScript("a close has one reason")
                if not isinstance(item, Closed):
                    raise Mismatch("the connection was not closed next")
                if rest and item.reason != rest[0]:
                    raise Mismatch("the reason is another")
                return
            if kind == "text":
                if not isinstance(item, str):
                    raise Mismatch("no text was next")
                fields, own = split_fields(rest[1:])
                held = json.loads(item)
                for name, value in own.items():
                    whose, part = name.removesuffix("Seq"), "Seq"
                    if rest[0] != "URS" or name not in ("peerSeq", "endSeq"):
                        raise BadScript(f"a text has no {name}")
                    lane = self.peer if whose == "peer" else self.lane
                    fields[LANES[lane].capitalize() + part] = value
            elif kind == "theirs":
                entry = self._book().entry(self.peer, int(evaluate(rest[0], known)))
                if not isinstance(item, Frame) or entry is None or item.raw != entry.frame.raw:
                    raise Mismatch(f"the peer's own frame {rest[0]} was not next")
                return
            elif kind == "frame":
                if not isinstance(item, Frame) or item.lane != self.lane:
                    raise Mismatch("no frame of the end's was next")
                if rest and "=" in rest[0]:
                    rest = ["", *rest]
                fields, own = split_fields(rest[1:])
                held = json.loads(item.payload)
                if rest[0] == "business":
                    rest[0], name = business(self.lane)
                    fields[name] = own.pop("id")
                self._match_header(item, own, known)
            else:
                raise BadScript(f"nothing called {kind} goes out")
            if rest and rest[0] and held.get("MsgType") != rest[0]:
                raise Mismatch(f"MsgType is not {rest[0]}")
            match_fields(held, fields, known)
        except Mismatch as why:
            raise Mismatch(f"{why}; {came}") from None

    def _match_header(self, frame: Frame, own: dict[str, str], known: dict[str, int]) -> None:
        held = {
            "seq": frame.seq,
            "peerSeq": frame.peer_seq,
            "sendingTime": frame.sending_time,
            "lane": frame.lane,
        }
        for name, value in own.items():
            if name not in held:
                raise BadScript(f"a frame has no {name}")
            if str(held[name]) != evaluate(value, known):
                raise Mismatch(f"{name} is {held[name]}, not {evaluate(value, known)}")

    async def _pass_time(self, words: Sequence[str]) -> None:
        left = duration_ns(words[0]) / 1e9
        alive = words[1:] == ("alive",)
        if words[1:] and not alive:
            raise BadScript(f"time passes, or passes alive; not {words[1:]}")
        while left > 0:
            step = min(left, ALIVE_EVERY_S) if alive else left
            await trio.sleep(step)
            left -= step
            if alive:
                self.pipe.feed('{"MsgType":"0"}')
        await wait_all_tasks_blocked()

    async def _wish(self, words: Sequence[str]) -> None:
        """What the end's application wants; `-> code` where it is to be refused."""
        words, wanted = outcome(words)
        came = "done"
        try:
            match words[0]:
                case "send":
                    await self.end.send(self._own(words[1:]))
                case "say":
                    await self.end.send_text(decode_text(self.text(words[1:])))
                case "logout":
                    await self.end.log_out(words[1] if len(words) > 1 else "")
                case "leave":
                    await self.end.leave(words[1])
                case _:
                    raise BadScript(f"nobody can wish for {words[0]}")
        except PSymmError as refused:
            came = str(refused)
            if wanted is None or wanted not in came:
                raise Mismatch(f"refused: {came}") from None
        except TranscriptError as unfit:
            raise Mismatch(f"the end cannot sign it: {unfit}") from None
        else:
            if wanted is not None:
                raise Mismatch(f"it was done, not refused with {wanted}")

    def _own(self, words: Sequence[str]) -> Message:
        kind, *rest = words
        fields, own = split_fields(rest)
        if kind == "business":
            kind, name = business(self.lane)
            fields[name] = own.pop("id")
        known = self.known() | {"now": self.clock.now_ns()}
        return decode(payload_of(kind, fields, known))

    async def _given(self, words: Sequence[str]) -> None:
        match words[0]:
            case "alone":
                pass
            case "met":
                await self.connect()
            case "logons":
                await self._log_on(SessionStatus.VERIFYING)
            case "trading":
                await self._log_on(SessionStatus.TRADING, words[1:])
            case _:
                raise BadScript(f"{words[0]} is not where a script can begin")

    async def _log_on(self, state: SessionStatus, logon: Sequence[str] = ()) -> None:
        """An honest peer's part, until the end has come as far as `state`; then all is quiet."""
        await self.connect()
        said: set[str] = set()
        opened = False
        for _ in range(60):
            await wait_all_tasks_blocked()
            while self.out:
                item = self._take()
                opened = opened or (isinstance(item, str) and '"UOP"' in item)
            step = self._next_step(said, opened, state)
            if step is None and self._come_to(state):
                break
            if step is None:
                await trio.sleep(0.05)  # The journal or the chain has its turn.
                continue
            said.add(step)
            if step == "UOP":
                self.pipe.feed(self.text(("UOP",)))
            else:
                given = logon if step == "A" else ()
                self.pipe.feed(await self.frame((step.rstrip("+"), *given)))
        if self.end.protocol.status is not state:
            raise Mismatch(f"the end did not come to {state}")
        if state is SessionStatus.TRADING:
            await trio.sleep(2)
            await wait_all_tasks_blocked()
            while self.out:
                self._take()
            self.pipe.feed('{"MsgType":"1","TestReqID":"given"}')
            await wait_all_tasks_blocked()
            self._expect(("text", "0", "TestReqID=given"))

    def _come_to(self, state: SessionStatus) -> bool:
        """The end is there; a solver lists and accepts as soon as it has verified."""
        try:
            protocol = self.end.protocol
        except Mismatch:
            return False
        waits = self.lane == SOLVER and not protocol.state.lifecycle.accepted_at[TRADER]
        return protocol.status is state and not (state is SessionStatus.VERIFYING and waits)

    def _next_step(self, said: set[str], opened: bool, state: SessionStatus) -> str | None:
        record, protocol = self._book(), None
        if self.peer == TRADER and "A" in said and "UOP" not in said:
            return "UOP"
        try:
            protocol = self.end.protocol
        except Mismatch:
            return None if "A" in said else "A"
        end_listed = protocol.state.lifecycle.listed_at[self.lane]
        covered = record.head(self.peer).peer_seq
        if "A" not in said and (self.peer == TRADER or record.head(self.lane).seq):
            return "A"
        if state is SessionStatus.VERIFYING:
            return None
        if self.peer == TRADER:
            if end_listed > covered:
                return "0"
            return "AZ" if opened and "AZ" not in said else None
        if opened and "AY" not in said:
            return "AY"
        if "AY" in said and "UOP" not in said and record.head(self.lane).peer_seq > 1:
            return "UOP"
        if "AY" in said and "AZ" not in said:
            return "AZ"
        if record.head(self.lane).seq > covered and "0+" not in said and "UOP" in said:
            return "0+"
        return None

    # --- what is so afterwards ----------------------------------------------------------------

    async def _state(self, words: Sequence[str]) -> None:
        what, *rest = words
        known = self.known()
        match what:
            case "state":
                came: object = self.end.protocol.status.value
                wanted: object = rest[0]
            case "error":
                came = None if self.end.protocol.error is None else self.end.protocol.error.code
                wanted = rest[0]
            case "heads":
                given = assignments(tuple(rest))
                record = self.end.protocol.record
                came = {"peer": record.head(self.peer).seq, "end": record.head(self.lane).seq}
                wanted = {n: int(evaluate(v, known)) for n, v in given.items()}
            case "covers":
                came = str(self.end.protocol.record.head(self.lane).peer_seq)
                wanted = evaluate(rest[0], known)
            case "evidence":
                assert self.party is not None
                kept = await self.party.journal.equivocations(self.opening.custody)
                came, wanted = str(len(kept)), rest[0]
            case "journal":
                assert self.party is not None
                came = (await self.party.journal.custody(self.opening.custody)).state
                wanted = rest[0]
            case "custodies":
                assert self.party is not None
                came = str(len(await self.party.journal.custodies()))
                wanted = rest[0]
            case "connected":
                came, wanted = "yes" if self.pipe.open else "no", rest[0]
            case "steps":
                came, wanted = self.clock.asked <= int(rest[0]), True
                self.clock.asked = 0
            case "ended":
                came = "yes" if self.returned else "no" if self.ended is None else self.ended.code
                wanted = rest[0]
            case "heard":
                self._heard(rest)
                return
            case "account":
                self.account_is(rest)
                return
            case _:
                raise BadScript(f"{what} is no part of the state")
        if came != wanted:
            raise Mismatch(f"{what} is {came}, not {wanted}")

    def _heard(self, words: Sequence[str]) -> None:
        """The application was told since it was last asked: an event's name, with values."""
        name, wanted = words[0], assignments(tuple(words[1:]))
        events = self.listener.events[self._taken :]
        for event in events:
            held = (
                event.message
                if isinstance(event, TextReceived) and name == "TextReceived"
                else event
            )
            if type(event).__name__ == name and all(
                str(getattr(held, _attribute(key), None)) == value for key, value in wanted.items()
            ):
                self._taken = len(self.listener.events)
                return
        raise Mismatch(f"the application heard {[type(event).__name__ for event in events]}")

    def account_is(self, words: Sequence[str]) -> None:
        ledger = self.end.protocol.state.rulebook
        assert isinstance(ledger, RulebookLedger)
        compare_account(ledger.account, words)

    async def _sound(self) -> None:
        """The journal holds what the protocol has, every frame of it verified; and what the peer
        keeps is a part of it."""
        if self.party is None or self.record is None:
            return
        held = {each.agreement.custody for each in await self.party.journal.custodies()}
        if self.opening.custody not in held:
            return
        record = await read_record(self.party.journal, self.opening)
        live = self.end.protocol.record
        for lane in (TRADER, SOLVER):
            if record.head(lane) != live.head(lane):
                raise Mismatch(f"the journal's lane {lane} is not what the session has")
        if live.head(self.lane).seq < self._book().head(self.lane).seq:
            raise Mismatch("a frame of the end's went out that its journal lacks")


def compare_account(account: Any, words: Sequence[str]) -> None:
    """Raises Mismatch, BadScript."""
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise BadScript(f"{word} is not name=value")
        part, _, key = name.partition(".")
        came: object
        match part:
            case "order":
                came = str(account.status_of(key) or "absent")
            case "filled":
                order = account.orders.get(key)
                came = "absent" if order is None else _decimal(order.filled)
            case "positions" | "orders" | "quotes" | "requests":
                came = str(len(getattr(account, part)))
            case "request":
                came = "live" if key in account.requests else "absent"
            case "quote":
                came = "live" if key in account.quotes else "absent"
            case "long":
                came = _decimal(sum(p.quantity for p in account.positions.values()))
            case "entry":
                came = ",".join(sorted(_decimal(p.entry_price) for p in account.positions.values()))
            case "realised":
                came = _decimal(account.realised)
            case "collateral":
                came = str(account.collateral(LANES.index(key)))
            case _:
                raise BadScript(f"an account has no {part}")
        if came != value:
            raise Mismatch(f"{name} is {came}, not {value}")


def _decimal(scaled: int) -> str:
    from psymm._core import format_decimal

    return format_decimal(scaled)


def _attribute(name: str) -> str:
    return "".join("_" + c.lower() if c.isupper() else c for c in name).lstrip("_")


def outcome(words: Sequence[str]) -> tuple[Sequence[str], str | None]:
    if "->" not in words:
        return words, None
    at = list(words).index("->")
    return words[:at], " ".join(words[at + 1 :])


def _numbers(text: str, known: dict[str, int]) -> range:
    first, _, last = text.partition("..")
    begin = int(evaluate(first, known))
    return range(begin, int(evaluate(last, known)) + 1 if last else begin + 1)


def _parts(words: Sequence[str]) -> list[list[str]]:
    parts: list[list[str]] = [[]]
    for word in words:
        if word == "&":
            parts.append([])
        else:
            parts[-1].append(word)
    return parts


def _bent(raw: bytes, header: dict[str, str]) -> bytes:
    """The bytes as they arrive: cut, grown, or with one bit another."""
    if "flip" in header:
        byte, _, bit = header.pop("flip").partition(".")
        damaged = bytearray(raw)
        damaged[int(byte)] ^= 1 << int(bit or "0")
        raw = bytes(damaged)
    if "cut" in header:
        raw = raw[: int(header.pop("cut"))]
    if "tail" in header:
        raw += bytes.fromhex(header.pop("tail"))
    if "version" in header:
        raw = bytes([int(header.pop("version"))]) + raw[1:]
    if "rawSeq" in header:
        raw = raw[:34] + int(header.pop("rawSeq")).to_bytes(8, "big") + raw[42:]
    if "length" in header:
        raw = raw[:122] + int(header.pop("length")).to_bytes(4, "big") + raw[126:]
    return raw


async def play(
    script: Script, end: str, path: Path, *, begun: Callable[[], None] = lambda: None
) -> None:
    """Play a script against one end. Raises ScriptFailed, BadScript.

    begun: called once what the script takes as given (`G`) stands.
    """
    async with open_block_nursery() as nursery:
        await Stage(nursery, script, LANES.index(end), path, begun).play()
        nursery.cancel_scope.cancel()


__all__ = ["REGISTRY", "Stage", "play"]
