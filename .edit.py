from pathlib import Path
import re
def edit(path):
    global p, s
    p = Path(path); s = p.read_text()
def sub(a, b, n=1):
    global s
    assert s.count(a) >= 1, a
    s = s.replace(a, b, n)

edit("tests/messages/test_messages.py")
sub('"0 1 2 AN AP BA UHI UOP URO URS UTM V W X d j x y"','"0 1 2 AN AP BA UHI UOP URO URS USA UTM V W X d j x y"')
p.write_text(s)

edit("python/psymm/session/engine.py")
sub('''            self._resent_at[lane] = now
            if self._resend(asked.begin_seq_no, asked.end_seq_no, now, lane):
                self._since = now
''', '''            self._resent_at[lane] = now
            sent = self._resend(asked.begin_seq_no, asked.end_seq_no, now, lane)
            if sent and asked.begin_seq_no > self._resent_from[lane]:
                # It gets further: it is given the time. One that asks for the same is not.
                self._resent_from[lane] = asked.begin_seq_no
                self._since = now
''')
sub('''        self._resent_at = [-SECOND, -SECOND]
''','''        self._resent_at = [-SECOND, -SECOND]
        self._resent_from = [0, 0]
''')
sub('''        self._asked = self._fetch = self._peer_behind = None
''','''        self._asked = self._fetch = self._peer_behind = None
        self._resent_from = [0, 0]
''')
sub('''        self._fetch: tuple[int, int, int] | None = None
''','''        self._fetch: tuple[int, int] | None = None
''')
sub("self._fetch = None if self._fetch is None else (self._fetch[0], now + 2 * SECOND, 0)", "self._fetch = None if self._fetch is None else (now + 2 * SECOND, 0)")
sub("now >= self._fetch[1]", "now >= self._fetch[0]")
sub("due.append(self._fetch[1])", "due.append(self._fetch[0])")
sub("tries = 0 if self._fetch is None else self._fetch[2]", "tries = 0 if self._fetch is None else self._fetch[1]")
sub("self._fetch = (0, now + (2 << tries) * SECOND, tries + 1)", "self._fetch = (now + (2 << tries) * SECOND, tries + 1)")
p.write_text(s)

edit("python/psymm/session/party.py")
sub('''        salvaged=[Frame.parse(raw) for raw in await journal.salvaged(opening.custody)],
''','''        salvaged=_frames_in(await journal.salvaged(opening.custody)),
''')
sub('''async def _session_key(''','''def _frames_in(salvaged: Iterable[bytes]) -> Iterator[Frame]:
    """What is no frame any more is fetched like the rest."""
    for raw in salvaged:
        with suppress(FrameError):
            yield Frame.parse(raw)


async def _session_key(''')
sub("from collections.abc import Callable\n","from collections.abc import Callable, Iterable, Iterator\nfrom contextlib import suppress\n")
sub("import Frame, SecretKey","import Frame, FrameError, SecretKey")
p.write_text(s)

edit("python/psymm/session/settling.py")
sub('''itself before it signs. What proving''','''itself before it signs. A side whose journal was restored signs no frame: it answers with the same
signature of its wallet as a text, since that is what the chain asks for, and where it wants to
settle it shows its output and the other side proposes. What it knows of the account it has from the
other side; but a peer that hides frames which it has covered or signed would have to sign one of
its numbers again to propose, and that is equivocation. What proving''')
sub('''        self._refused: str | None = None
        self._changed''','''        self._refused: str | None = None
        self._beside: SettlementAcceptance | None = None
        self._changed''')
sub('''                self._theirs = payee
                if not self._proposing:
                    self._nursery''','''                self._theirs = payee
                if self._proposing:
                    pass
                elif self._end.engine.peer_restored:
                    self._nursery.start_soon(self._guarded, self._propose_when_asked)
                else:
                    self._nursery''')
sub('''            case Said(BusinessMessageReject() as said) if''','''            case Said(SettlementAcceptance() as said):
                self._nursery.start_soon(self._guarded, self._take_beside, said)
            case Said(BusinessMessageReject() as said) if''')
sub('''    async def _guarded(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
''','''    async def _guarded(
        self, work: Callable[..., Awaitable[None]], *given: SettlementAcceptance
    ) -> None:
        try:
            await work(*given)
''')
sub('''        """Propose a settlement of the flat account, and see it mined.
''','''        """Propose a settlement of the flat account, and see it mined. With a restored journal: ask
        the other side to propose it, and sign what it proposes with the wallet.
''')
sub('''        self._proposing, self._refused = True, None
        try:''','''        self._refused = None
        if self._end.engine.standing == "restored":
            await self._ask_for_proposal()
            return await self._until_mined()
        self._proposing = True
        try:''')
sub('''    async def _propose(self) -> None:
        end,''','''    async def _ask_for_proposal(self) -> None:
        """Show our output; whoever knows that we cannot sign frames proposes then."""
        end = self._end
        payout = self._flat_payouts()[end.lane]
        payee = await end.collateral.payee(self._terms.collateral.token, payout)
        await end.say(SettlementOutput(inner=payee.inner, memo=payee.memo))
        await self._wait(lambda: end.engine.proposal, "propose a settlement")

    async def _propose_when_asked(self) -> None:
        """The peer shows its output and cannot propose: we do, at our own fee, if we will."""
        if self._willing is not None and not await self._willing():
            raise SettlementRefused("not now")
        if self._end.engine.state is State.TRADING:
            await self.settle()

    async def _take_beside(self, said: SettlementAcceptance) -> None:
        """The peer's signature beside the record: taken if it is its wallet's over our proposal,
        refused by name else; nothing of ours changes by it."""
        end, alive = self._end, self._end.engine.proposal
        if self._settlement is None:
            await self._recall()
        settlement = self._settlement
        fits = (
            alive is not None
            and settlement is not None
            and alive[0] == end.lane
            and alive[1].frame.seq == said.ref_seq_num
            and alive[2].commitment0 == settlement.call.commitments[0]
        )
        why = "it answers no proposal of ours that is alive"
        if fits and settlement is not None:
            opening = end.opening
            try:
                settlement.check_signature(
                    opening.chain_id, opening.contract, 1 - end.lane, said.signature
                )
            except CustodyError as bad:
                why = str(bad)
            else:
                self._beside = said
                self._changed.set()
                self._changed = trio.Event()
                return
        with suppress(NotNow):
            await end.say(
                BusinessMessageReject(
                    ref_msg_type="USA",
                    business_reject_reason=BusinessRejectReason.OTHER,
                    text=clip(why),
                )
            )

    async def _propose(self) -> None:
        end,''')
sub('''            return end.engine.acceptance

        accepted''','''            return end.engine.acceptance or self._beside

        accepted''')
sub('''        await end.send(SettlementAcceptance(ref_seq_num=entry.frame.seq, signature=own))
        await self._watch(settlement)
''','''        await self._accept(entry.frame.seq, own)
        await self._watch(settlement)

    async def _accept(self, seq: int, signature: bytes) -> None:
        """Our wallet's signature: in a frame, or beside the record where we must sign none."""
        answer = SettlementAcceptance(ref_seq_num=seq, signature=signature)
        if self._end.engine.standing == "restored":
            await self._end.say(answer)
        else:
            await self._end.send(answer)
''')
sub('''                await end.send(SettlementAcceptance(ref_seq_num=alive[1].frame.seq, signature=own))
''','''                await self._accept(alive[1].frame.seq, own)
''')
sub('''        for kept in await self._kept():
            if alive is not None and kept.call.commitments[0] == alive[2].commitment0:
                self._settlement = kept
''','''        for kept, signatures in await self._kept_signed():
            if alive is None or kept.call.commitments[0] != alive[2].commitment0:
                continue
            self._settlement = kept
            theirs = signatures.get(str(1 - self._end.lane))
            if alive[0] == self._end.lane and theirs is not None:
                self._beside = SettlementAcceptance(
                    ref_seq_num=alive[1].frame.seq, signature=bytes.fromhex(theirs)
                )
''')
sub('''        found = [
            _settlement_from(document, self._notes())
            for digest, _state, document in await self._end.journal.settlements(
                self._end.opening.custody
            )
            if digest != _PAYEES
        ]
        return [settlement for settlement in found if settlement is not None]
''','''        return [settlement for settlement, _ in await self._kept_signed()]

    async def _kept_signed(self) -> list[tuple[Settlement, dict[str, str]]]:
        """The same with the signatures that were kept, in hex by lane."""
        found = [
            (_settlement_from(document, self._notes()), json.loads(document)["signatures"])
            for digest, _state, document in await self._end.journal.settlements(
                self._end.opening.custody
            )
            if digest != _PAYEES
        ]
        return [(settlement, signed) for settlement, signed in found if settlement is not None]
''')
sub("from collections.abc import Awaitable, Callable\n","from collections.abc import Awaitable, Callable\nfrom contextlib import suppress\n")
p.write_text(s)
