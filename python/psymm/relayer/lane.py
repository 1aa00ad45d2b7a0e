"""The nonce lane: signs and sends a relayer's calls, one after the other, and follows each.

Nonces have no gaps, because one task signs and sends. Each sent call has a task that waits for it
(`_track`). A transaction is on disk before it is broadcast. If it is not mined in time, it is
replaced with the same nonce at a higher fee; if the contract would refuse it by now, by an empty
transaction. So the lane never blocks. After a restart every call under way continues from its state
on disk.

A call that is mined and reverts is counted (`Statistics.lost_races`, `lost_wei`) and logged with
its cost, so that the owner can set the fee accordingly.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import trio

from psymm.chain.calls import Call, call_from_json
from psymm.chain.contracts import Pool
from psymm.chain.errors import (
    ChainDown,
    ChainError,
    OutOfGas,
    Reverted,
    TransactionPending,
    TransactionReplaced,
    WalletWithoutGas,
)
from psymm.chain.raw import read_signed
from psymm.chain.signing import hash_of
from psymm.chain.transactions import Chain, Fees, PendingTransaction, Receipt, Sent, Signer
from psymm.relayer.config import RelayerConfig
from psymm.relayer.errors import (
    AlreadySpent,
    ChainTrouble,
    DidRevert,
    RelayerOutOfGas,
    RelayerRefusal,
    Stale,
    WouldRevert,
)
from psymm.relayer.simulation import Simulation
from psymm.relayer.store import Send, SendState, Store
from psymm.relayer.wire import SendProgress, progress_json, refusal_json

log = logging.getLogger(__name__)

MAX_REPLACEMENT_MULTIPLE: Final = 8
"""A replacement pays at most this many times what the chain asks at the time."""


@dataclass(slots=True)
class Statistics:
    """Counts since the start.

    Attributes:
        taken: calls that were accepted.
        lost_races: calls that reverted because another move had spent their note.
        lost_wei: the gas cost of all calls that reverted.
    """

    connections: int = 0
    refused: int = 0
    taken: int = 0
    mined: int = 0
    failed: int = 0
    gas_spent_wei: int = 0
    lost_races: int = 0
    lost_wei: int = 0


class NonceLane:
    """Sends the calls of one store from one account.

    Args:
        changed: called with the number of a send whose state changed.
        ended: called with the number of a send that is mined or failed.
    """

    def __init__(
        self,
        chain: Chain,
        pool: Pool,
        wallet: Signer,
        store: Store,
        config: RelayerConfig,
        simulation: Simulation,
        statistics: Statistics,
        changed: Callable[[int], None],
        ended: Callable[[int], None],
    ) -> None:
        self._chain = chain
        self._pool = pool
        self._wallet = wallet
        self._store = store
        self._config = config
        self._simulation = simulation
        self._statistics = statistics
        self._changed = changed
        self._ended = ended
        self._put: trio.MemorySendChannel[int]
        self._queued: trio.MemoryReceiveChannel[int]
        # Unbounded here, because admission bounds what is under way (`RelayerConfig.queue`).
        self._put, self._queued = trio.open_memory_channel(math.inf)

    def put(self, number: int) -> None:
        """Queue a call that is on disk."""
        self._put.send_nowait(number)

    async def resume(self, nursery: trio.Nursery) -> None:
        for send in await trio.to_thread.run_sync(self._store.under_way):
            # With a transaction it has a nonce and must not get a second one.
            if send.transactions:
                nursery.start_soon(self._track, send.id)
            else:
                self.put(send.id)

    async def run(self, nursery: trio.Nursery) -> None:
        # One after the other: nonces are given in order, and a call is simulated after the one
        # before it is in the node's pool.
        async for number in self._queued:
            if await self._start(number):
                nursery.start_soon(self._track, number)

    async def _start(self, number: int) -> bool:
        """Sign and send one call. False if it ended without being sent."""
        send = await self._get(number)
        call = call_from_json(send.kind, send.call)
        pause_s = 0.5
        while True:
            try:
                prepared = await self._chain.prepare(
                    self._wallet.address,
                    self._pool.address,
                    self._pool.move_data(call),
                    doing="the call",
                )
                # As late as possible: the same note may have been offered to other relayers.
                await self._simulation.simulate(call)
                await self._chain.send(self._wallet, prepared, record=partial(self._record, number))
            except RelayerRefusal as refusal:
                await self._end(number, refusal)
                return False
            except WalletWithoutGas as poor:
                log.error("wallet-without-gas", extra={"balance_wei": poor.balance_wei})
                await self._end(number, RelayerOutOfGas())
                return False
            except Reverted as refused:
                await self._end(number, await self._refusal_of(call, refused))
                return False
            except ChainError as trouble:
                # The store knows whether it was signed. If not, try again while there is time.
                if (await self._get(number)).transactions:
                    return True
                if time.time() + self._config.min_deadline_s / 2 > call.deadline:
                    await self._end(number, ChainTrouble())
                    return False
                log.warning("chain-trouble", extra={"error": type(trouble).__name__})
                await trio.sleep(pause_s)
                pause_s = min(2 * pause_s, 10.0)
                continue
            self._changed(number)
            return True

    async def _record(self, number: int, sent: Sent) -> None:
        """Record a signed transaction before a node sees it."""
        await trio.to_thread.run_sync(self._store.signed, number, sent.raw)
        log.info("sent", extra={"send": number, "tx": sent.tx_hash, "nonce": sent.nonce})

    async def _track(self, number: int) -> None:
        """Wait until a sent call is mined; raise its fee or take a new nonce if needed."""
        pause_s = 0.5
        while True:
            try:
                if await self._check_send(number):
                    return
            except ChainError as trouble:
                # Also for errors while another error is handled: one call must not end the others.
                name = "chain-down" if isinstance(trouble, ChainDown) else "chain-trouble"
                log.warning(name, extra={"error": type(trouble).__name__})
                await trio.sleep(pause_s)
                pause_s = min(2 * pause_s, 10.0)

    async def _check_send(self, number: int) -> bool:
        """One round of `_track`; True if the call has ended. Raises ChainError: try again."""
        send = await self._get(number)
        call = call_from_json(send.kind, send.call)
        newest = read_signed(send.transactions[-1])
        try:
            # Any version can be the mined one: a node may have kept an older one with a lower fee.
            receipt = await self._first_mined(send)
            if receipt is None:
                receipt = await self._chain.wait(
                    newest,
                    depth=self._config.depth,
                    timeout_s=self._config.replace_after_s,
                    doing="the call",
                )
            return await self._ended_by(number, receipt)
        except TransactionPending:
            # While a lower nonce is missing, a higher fee does not help.
            if not await self._fill_gap(newest.nonce):
                await self._replace(number, call, newest)
            return False
        except TransactionReplaced:
            # The nonce is taken by an older version of ours, or by another program.
            receipt = await self._first_mined(await self._get(number))
            if receipt is not None:
                return await self._ended_by(number, receipt)
            # Another program used the nonce. Send the call again unless its note is spent.
            if await self._pool.is_spent(call.nullifiers[0]):
                await self._end(number, AlreadySpent(nullifier=call.nullifiers[0]))
            else:
                return not await self._start(number)
        except (Reverted, OutOfGas) as failed:
            reason = failed.error if isinstance(failed, Reverted) else "out of gas"
            refusal: RelayerRefusal = DidRevert(
                f"the call was mined and reverted: {reason}", tx=newest.tx_hash
            )
            spent = await self._spent_of(call)
            await self._count_loss(number, send, lost_race=spent is not None)
            if spent is not None:
                refusal = AlreadySpent(nullifier=spent)
            elif time.time() > call.deadline:
                refusal = Stale(deadline=call.deadline)
            await self._end(number, refusal)
        return True

    async def _ended_by(self, number: int, receipt: Receipt) -> bool:
        """Act on a mined transaction of a call; True if the call has ended. It has not if only the
        empty transaction was mined and the call could be sent again."""
        if receipt.to == self._wallet.address:
            # The empty transaction took the nonce, but the call may be possible again.
            return not await self._start(number)
        await self._mined(number, receipt)
        return True

    async def _refusal_of(self, call: Call, refused: Reverted) -> RelayerRefusal:
        spent = await self._spent_of(call)
        if spent is not None:
            return AlreadySpent(nullifier=spent)
        return WouldRevert(f"the contract refuses this call: {refused.error}")

    async def _spent_of(self, call: Call) -> bytes | None:
        """A nullifier of the call that is spent; None if none is."""
        for nullifier in call.nullifiers:
            if await self._pool.is_spent(nullifier):
                return nullifier
        return None

    async def _count_loss(self, number: int, send: Send, *, lost_race: bool) -> None:
        """Count and log gas that was paid for nothing."""
        lost_wei = 0
        for raw in send.transactions:
            if (receipt := await self._chain.mined(hash_of(raw))) is not None:
                lost_wei += receipt.cost_wei
        self._statistics.lost_wei += lost_wei
        self._statistics.lost_races += lost_race
        log.warning(
            "gas-lost",
            extra={
                "send": number,
                "lost_race": lost_race,
                "lost_wei": lost_wei,
                "lost_races_so_far": self._statistics.lost_races,
                "lost_wei_so_far": self._statistics.lost_wei,
            },
        )

    async def _first_mined(self, send: Send) -> Receipt | None:
        """The receipt of the mined one among a send's transactions. Raises Reverted."""
        for raw in send.transactions:
            if await self._chain.mined(hash_of(raw)) is not None:
                sent = read_signed(raw)
                return await self._chain.wait(sent, depth=self._config.depth, doing="the call")
        return None

    async def _fill_gap(self, nonce: int) -> bool:
        """Whether lower nonces of ours are not mined. Those of ended sends were taken back by a
        reorganisation: the same bytes are handed over again; if the contract would refuse them by
        now, an empty transaction takes their nonce."""
        mined = await self._chain.nonce(self._wallet.address)
        if mined >= nonce:
            return False
        held: dict[int, tuple[Send, Sent]] = {}
        for send in await trio.to_thread.run_sync(self._store.all):
            held |= {sent.nonce: (send, sent) for sent in map(read_signed, send.transactions)}
        for at in range(mined, nonce):
            if at in held:
                send, sent = held[at]
                if send.state not in (SendState.MINED, SendState.FAILED):
                    continue  # its own task tracks it
                # If the contract refuses it by now, it would cost gas for nothing; the empty
                # transaction below takes its nonce.
                # On the newest block, not the pending one: there our own transaction may have spent
                # the notes already.
                with suppress(RelayerRefusal):
                    await self._simulation.simulate_on(
                        call_from_json(send.kind, send.call), "latest"
                    )
                    await PendingTransaction(self._chain, [sent]).rebroadcast()
            log.info("filling-gap", extra={"nonce": at})
            await self._chain.fill_nonce(self._wallet, at)
        return True

    async def _replace(self, number: int, call: Call, newest: Sent) -> None:
        """Send the same call and nonce at a fee at least a quarter higher, but not for many times
        what the chain asks now, which the quoted fee does not cover.

        If the contract would refuse the call by now (a reorganisation removed its root, its note is
        spent, its deadline has passed), send an empty transaction with the nonce instead.
        """
        old = newest.prepared.fees
        now = await self._chain.fees()
        fees = Fees(
            max(now.max_wei, old.max_wei * 5 // 4 + 1), max(now.tip_wei, old.tip_wei * 5 // 4 + 1)
        )
        if fees.max_wei > now.max_wei * MAX_REPLACEMENT_MULTIPLE:
            # The chain does not ask for so much: a higher fee is not what the transaction lacks.
            log.warning("not-replaced", extra={"send": number, "nonce": newest.nonce})
            return
        plan, event = newest.prepared, "replacing"
        try:
            # Not on the pending block: there our own transaction may have spent the call's notes.
            await self._simulation.simulate_on(call, "latest")
        except RelayerRefusal as refusal:
            # Without data it is the empty transaction of an earlier round, which only needs a
            # higher fee.
            if plan.data:
                own = self._wallet.address
                plan = await self._chain.prepare(own, own, b"", doing="giving a nonce up")
            event = "giving-up"
            log.info("call-void", extra={"send": number, "code": refusal.code})
        log.info(event, extra={"send": number, "nonce": newest.nonce})
        await self._chain.send(
            self._wallet,
            replace(plan, fees=fees),
            nonce=newest.nonce,
            record=partial(self._record, number),
        )
        self._changed(number)

    async def _mined(self, number: int, receipt: Receipt) -> None:
        self._statistics.mined += 1
        self._statistics.gas_spent_wei += receipt.cost_wei
        word = SendProgress("mined", receipt.tx_hash, receipt.block, receipt.gas_used)
        # On disk before anybody is woken: clients that wait read the state from there.
        await trio.to_thread.run_sync(self._store.end, number, SendState.MINED, progress_json(word))
        log.info("mined", extra={"send": number, "tx": receipt.tx_hash, "gas": receipt.gas_used})
        self._ended(number)

    async def _end(self, number: int, refusal: RelayerRefusal) -> None:
        self._statistics.failed += 1
        await trio.to_thread.run_sync(
            self._store.end, number, SendState.FAILED, refusal_json(refusal)
        )
        log.warning("failed", extra={"send": number, "code": refusal.code})
        self._ended(number)

    async def _get(self, number: int) -> Send:
        send = await trio.to_thread.run_sync(self._store.get, number)
        if send is None:
            raise KeyError(number)
        return send
