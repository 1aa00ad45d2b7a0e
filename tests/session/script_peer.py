"""The peer of a script: it shakes hands with one real runner and signs what the script says.

It has real keys and keeps a record of its own, so that what it signs follows from what came before,
unless the script says otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from secrets import token_bytes
from typing import Any

from script import LANES, BadScript, assignments, evaluate
from script_end import SOLVERS_COLLATERAL, TRADERS_COLLATERAL, Pipe, ScriptedEnd
from script_words import Mismatch, bent, business, numbers_in, payload_of, split_fields
from session_scene import CHAIN_ID, PSYMM, START_NS, TOKEN
from trio.testing import wait_all_tasks_blocked

from psymm._core import FrameError, SecretKey, TranscriptError, keccak256, sign_frame
from psymm.custody.notes import Note, random_blinding
from psymm.messages import (
    Introduction,
    JournalStatus,
    Logon,
    Resume,
    SessionKeyChange,
    TermsDocument,
    decode_text,
    encode_text,
)
from psymm.session.protocol.chain_facts import custody_of
from psymm.session.runtime.handshake import (
    DelegatedKey,
    Host,
    conclude_handshake,
    fresh_nonce,
    introduce,
)
from psymm.transcript.agreement import SOLVER, TRADER, CustodyAgreement
from psymm.transcript.delegation import Delegation, DelegationRefused
from psymm.transcript.introduction import KEY_NS, key_message
from psymm.transcript.record import Record
from psymm.transcript.resumption import ResumeSigner, challenge_for

ALIVE_EVERY_S = 2.0


class ScriptedPeer(ScriptedEnd):
    """The end's peer, which sends what a script says."""

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
        raw = bent(frame.raw, header)
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
        for seq in numbers_in(words[0], self.known()):
            entry = record.entry(self.peer, seq)
            if entry is None:
                raise BadScript(f"{self.script.name}: the peer never signed {seq}")
            raw += entry.frame.raw
        return bent(raw, header)
