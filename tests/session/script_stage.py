"""Plays a script against one real runner, on trio's mock clock.

`script_end` runs the end under test, `script_peer` is its peer, `script_words` has the words of the
messages. Every frame that the end signs is checked against the peer's record: chained, signed, and
never two with one number.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import trio
from script import LANES, BadScript, Line, Script, ScriptFailed, assignments, duration_ns, evaluate
from script_peer import ALIVE_EVERY_S, ScriptedPeer
from script_words import (
    Closed,
    Item,
    Mismatch,
    attribute_of,
    business,
    compare_account,
    match_fields,
    numbers_in,
    outcome,
    parts_of,
    payload_of,
    shown,
    split_fields,
)
from trio.testing import wait_all_tasks_blocked

from psymm._core import Frame, FrameError, JsonError, TranscriptError
from psymm.errors import PSymmError
from psymm.messages import Message, decode, decode_text
from psymm.nursery import open_block_nursery
from psymm.session.protocol import SessionStatus, TextReceived
from psymm.session.runtime.ledger import RulebookLedger
from psymm.session.runtime.party import read_record
from psymm.transcript.agreement import SOLVER, TRADER
from psymm.transcript.delegation import DelegationRefused


class Stage(ScriptedPeer):
    """Plays a script's lines: what the peer does, and what the end must do."""

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
                for seq in numbers_in(words[1], self.known()):
                    self.pipe.feed(self._once[seq])
            case "frame" | "again":
                data = b""
                for part in parts_of(words):
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
            for seq in numbers_in(words[1], self.known()):
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

    def _match(  # noqa: C901 - a case for each kind of line
        self, item: Item, words: Sequence[str]
    ) -> None:
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
                str(getattr(held, attribute_of(key), None)) == value
                for key, value in wanted.items()
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
        # What the peer offered last may still wait for an answer to share its commit.
        await self.party.journal.write()
        record = await read_record(self.party.journal, self.opening)
        live = self.end.protocol.record
        for lane in (TRADER, SOLVER):
            if record.head(lane) != live.head(lane):
                raise Mismatch(f"the journal's lane {lane} is not what the session has")
        if live.head(self.lane).seq < self._book().head(self.lane).seq:
            raise Mismatch("a frame of the end's went out that its journal lacks")


async def play(
    script: Script, end: str, path: Path, *, begun: Callable[[], None] = lambda: None
) -> None:
    """Play a script against one end. Raises ScriptFailed, BadScript.

    begun: called once what the script takes as given (`G`) stands.
    """
    async with open_block_nursery() as nursery:
        await Stage(nursery, script, LANES.index(end), path, begun).play()
        nursery.cancel_scope.cancel()
