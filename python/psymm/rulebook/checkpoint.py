"""Checkpoints: an offer and an answer by UCP frames. Also: restore an account from its bytes.

A UCP of one lane offers a checkpoint. A UCP of the other lane that names the same puts it in force.

A UCP names the account after the last solver frame that the trader covers, at the place where the
UCP takes effect. It states that solver frame, what the frame covers, the account's hash, and what
the account would pay then, so that a contract can pay by it without a vote (``spec.md`` 22). At
most one offer is open at a time, and it stays open until it is answered, at any time. If offers
cross, the solver's counts and the trader's is ignored: the solver's lane sequences, so its offer
came first.

Refusing a valid offer is a fault (``spec.md`` 28). A lane refuses by a Reject that names the offer,
or by any frame more than T after it covered the offer, on the rulebook's clock, without an answer.
"""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cache
from types import UnionType
from typing import Any, Final

from psymm.messages import Checkpoint, Reject
from psymm.rulebook.account import AgreedCheckpoint, CheckpointOffer, CheckpointRefusal, Lane
from psymm.rulebook.books import DERIVED, KEYS, Account, Books
from psymm.rulebook.inputs import RuledFrame
from psymm.rulebook.live_account import LiveAccount
from psymm.rulebook.totals import first_expiry, totals_of
from psymm.rulebook.value import replace
from psymm.rulebook.violation import AccountRefused, refuse
from psymm.strict_json import KeyTwice, loads
from psymm.terms import Terms


@dataclass(slots=True)
class Named:
    """The account that an offer may name here."""

    mark: int
    """Its place in the live account's undo log."""
    firm: bool
    """Whether a replay from this account gives the same rulings. It does if no frame after it was
    judged before it was final, or by the date of a frame before it."""
    account: Account | None = None
    """It, once a UCP was judged or asked for. None as well if it lies before the checkpoint at
    which the replay began: no UCP that names it can matter."""


NO_MARK: Final = -1
UNKNOWN: Final = Named(NO_MARK, False)


# --- the rules ----------------------------------------------------------------------------------


def agree(account: LiveAccount, entry: RuledFrame, said: Checkpoint, named: Named) -> None:
    """UCP: the answer to the other lane's offer, or an offer."""
    offer = account.offer
    if offer is not None and offer.lane is not entry.lane:
        if (said.solver_seq, said.trader_seq) == (offer.solver_seq, offer.trader_seq):
            _check_said(said, answer(account, entry.lane))
            _in_force(account, entry, offer)
            return
        # Two offers crossed: ignore the trader's. It is no violation, since it could not know.
        if entry.lane is Lane.TRADER and entry.peer_seq < offer.seq:
            return
    if offer is not None:
        refuse("checkpoint-pending", lane=offer.lane.name.lower(), seq=offer.seq)
    at = named.account
    if at is None:
        return
    if (said.solver_seq, said.trader_seq) != (at.solver_seq, at.trader_seq):
        refuse("checkpoint-misplaced", solver_seq=at.solver_seq, trader_seq=at.trader_seq)
    _check_said(said, naming(at))
    # A replay from there would lack an offer or checkpoint made between the two frames.
    if at.offer is not None or at.checkpoint != account.checkpoint:
        refuse("checkpoint-misplaced", last=account.checkpoint and account.checkpoint.solver_seq)
    if at.ended or at.alive is not None or not all(at.logged_on):
        refuse("checkpoint-misplaced", ended=at.ended, logged_on=all(at.logged_on))
    # Valid, so no fault; but a replay from there would rule differently, so it cannot be in force.
    if not named.firm:
        return
    account.offer = CheckpointOffer(
        lane=entry.lane,
        seq=entry.seq,
        account_hash=at.hash,
        solver_seq=at.solver_seq,
        trader_seq=at.trader_seq,
        bytes_sent=at.bytes_sent,
        payouts=at.payouts_now,
        flat=at.flat,
    )


def _check_said(said: Checkpoint, known: Checkpoint | None) -> None:
    """Check that a UCP says of the account what we know of it."""
    if said != known and known is not None:
        refuse(
            "wrong-checkpoint",
            solver_seq=said.solver_seq,
            named=said.account_hash,
            known=known.account_hash,
            trader_payout=known.trader_payout,
            solver_payout=known.solver_payout,
        )


def _in_force(account: LiveAccount, entry: RuledFrame, offer: CheckpointOffer) -> None:
    said = (entry.seq, offer.seq) if entry.lane is Lane.TRADER else (offer.seq, entry.seq)
    account.checkpoint = AgreedCheckpoint(
        account_hash=offer.account_hash,
        solver_seq=offer.solver_seq,
        trader_seq=offer.trader_seq,
        bytes_sent=offer.bytes_sent,
        said=said,
    )
    account.offer = None
    # The checkpoint settles the faults that it counts (``spec.md`` 28).
    seqs = (offer.trader_seq, offer.solver_seq)
    account.refusals = tuple(one for one in account.refusals if one.seq > seqs[one.lane])


def rejected(account: LiveAccount, entry: RuledFrame, said: Reject) -> None:
    """3: a Reject changes nothing, except that a Reject of a valid offer refuses it."""
    offer = account.offer
    if offer is None or offer.lane is entry.lane or said.ref_seq_num != offer.seq:
        return
    _refuse(account, entry, offer)


def overdue(account: LiveAccount, entry: RuledFrame) -> None:
    """After each frame: note that its lane covered the offer, or that its answer is overdue."""
    offer = account.offer
    if offer is None or offer.lane is entry.lane or entry.peer_seq < offer.seq:
        return
    if offer.covered_at is None:
        account.offer = replace(offer, covered_at=account.clock)
    elif account.clock > offer.covered_at + account.terms.timeouts.acknowledgement:
        _refuse(account, entry, offer)


def _refuse(account: LiveAccount, entry: RuledFrame, offer: CheckpointOffer) -> None:
    """Record the refusal of an offer, once for each offer."""
    # Every later frame of the lane is overdue, too, and one fault is enough.
    if any(one.lane is entry.lane and one.ref_seq == offer.seq for one in account.refusals):
        return
    refusal = CheckpointRefusal(lane=entry.lane, seq=entry.seq, ref_seq=offer.seq)
    account.refusals = (*account.refusals, refusal)


# --- what a lane can send -----------------------------------------------------------------------


def answer(account: Books, lane: Lane) -> Checkpoint | None:
    """The UCP with which this lane answers the other's offer, or None."""
    offer = account.offer
    if offer is None or offer.lane is lane:
        return None
    return Checkpoint(
        account_hash=offer.account_hash,
        solver_seq=offer.solver_seq,
        trader_seq=offer.trader_seq,
        trader_payout=offer.payouts[0],
        solver_payout=offer.payouts[1],
        flat=offer.flat,
    )


def naming(at: Account) -> Checkpoint:
    """The UCP that names this account."""
    trader, solver = at.payouts_now
    return Checkpoint(
        account_hash=at.hash,
        solver_seq=at.solver_seq,
        trader_seq=at.trader_seq,
        trader_payout=trader,
        solver_payout=solver,
        flat=at.flat,
    )


def offer(account: Books, named: Named) -> Checkpoint | None:
    """The UCP that would be a valid offer after this account, or None."""
    at = named.account
    if at is None or not named.firm or account.offer is not None or at.offer is not None:
        return None
    if at.checkpoint != account.checkpoint or at.ended or at.alive is not None:
        return None
    if not all(at.logged_on):
        return None
    return naming(at)


# --- an account from its bytes ------------------------------------------------------------------

MOST_BYTES: Final = 2**30


def restore(document: bytes, terms: Terms, account_hash: bytes) -> Account:
    """The account that ``Account.document`` wrote, whose hash is ``account_hash``.

    The bytes are not trusted. Raises AccountRefused unless they are that account in its canonical
    form.
    """
    if len(document) > MOST_BYTES:
        raise AccountRefused("too long", bytes=len(document))
    found = _load(document)
    if found.get("terms") != "0x" + terms.hash.hex():
        raise AccountRefused("it is of other terms", terms=terms.hash)
    try:
        account: Account = _read(Account, found | {"terms": terms}, "account")
        whole = account.document()
    except (ValueError, TypeError, OverflowError) as bad:
        raise AccountRefused(f"a value is out of form: {str(bad)[:200]}") from None
    # An account has one form only; otherwise one hash could belong to two documents.
    if whole != document:
        raise AccountRefused("the bytes are not in their one form")
    if account.hash != account_hash:
        raise AccountRefused(agreed=account_hash, computed=account.hash)
    return dataclasses.replace(account, next_expiry=first_expiry(account), **totals_of(account))


_DEEPEST: Final = 16


def _load(raw: bytes) -> dict[str, Any]:
    try:
        found = loads(raw, _DEEPEST)
    except KeyTwice:
        raise AccountRefused("a field stands twice") from None
    except ValueError as bad:
        raise AccountRefused(f"it is not strict JSON: {bad}") from None
    if not isinstance(found, dict):
        raise AccountRefused("it is not a JSON object")
    return found


@cache
def _hints(cls: type) -> Mapping[str, Any]:
    return typing.get_type_hints(cls)


def _read(kind: Any, found: Any, path: str) -> Any:
    """A value of a hinted type from its JSON. `restore` checks the form by writing it again."""
    if kind is Terms:
        return found
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (UnionType, typing.Union):
        (kind,) = (arm for arm in args if arm is not type(None))
        return _read(kind, found, path)
    if origin is Mapping:
        return dict(_entries(args, found, path))
    if origin is tuple:
        entries = _a(list, found, path)
        kinds = [args[0]] * len(entries) if args[-1] is Ellipsis else args
        if len(kinds) != len(entries):
            raise AccountRefused("a list is too short or too long", field=path)
        return tuple(
            _read(each, entry, f"{path}[{i}]")
            for i, (each, entry) in enumerate(zip(kinds, entries, strict=True))
        )
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind, found, path)
    return _scalar(kind, _a(str, found, path), path)


def _scalar(kind: Any, text: str, path: str) -> object:
    if kind is bool:
        return text == "Y"
    if kind is str:
        return text
    read: Callable[[str], object] = kind
    if kind is bytes:
        read = _hex
    elif issubclass(kind, Enum) and issubclass(kind, int):
        read = _numbered(kind)
    try:
        return read(text)
    except ValueError:
        raise AccountRefused("a value is out of form", field=path) from None


def _hex(text: str) -> bytes:
    return bytes.fromhex(text.removeprefix("0x"))


def _numbered(kind: Callable[[int], object]) -> Callable[[str], object]:
    return lambda text: kind(int(text))


def _dataclass(kind: Any, found: Any, path: str) -> object:
    given = _a(dict, found, path)
    fields = {f.name: f for f in dataclasses.fields(kind) if f.name not in DERIVED}
    for name in given:
        if name not in fields:
            raise AccountRefused("an unknown field", field=f"{path}.{ascii(name)[1:-1][:80]}")
    for name in fields:
        # A field that may be None has the default None, and is left out then.
        if name not in given and type(None) not in typing.get_args(_hints(kind)[name]):
            raise AccountRefused("a field is missing", field=f"{path}.{name}")
    hints = _hints(kind)
    return kind(
        **{name: _read(hints[name], each, f"{path}.{name}") for name, each in given.items()}
    )


def _entries(args: tuple[Any, ...], found: Any, path: str) -> Iterator[tuple[Any, Any]]:
    keys, values = args
    itself = KEYS.get(path.rpartition(".")[2])
    for key, value in _a(dict, found, path).items():
        place = f"{path}.{ascii(key)[1:-1]}"
        if itself is not None:
            value = _a(dict, value, place) | {itself: key}
        yield _scalar(keys, key, path), _read(values, value, place)


def _a(kind: type, found: Any, path: str) -> Any:
    if not isinstance(found, kind):
        raise AccountRefused("a value is of another kind", field=path, wanted=kind.__name__)
    return found


# --- where two accounts differ ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Difference:
    """The first field, in canonical order, in which two accounts differ."""

    field: str
    """Its path."""
    ours: str
    """Its value as JSON, or "absent"."""
    theirs: str
    """Its value as JSON, or "absent"."""


def first_difference(ours: bytes, theirs: bytes) -> Difference | None:
    """The first difference of two canonical accounts; None if they are the same.

    ``theirs`` is not trusted. Raises AccountRefused if it is not a JSON object.
    """
    return _differs(_load(ours), _load(theirs), "")


_ABSENT: Final = object()


def _differs(ours: Any, theirs: Any, path: str) -> Difference | None:
    if isinstance(ours, list) and isinstance(theirs, list):
        ours, theirs = dict(enumerate(ours)), dict(enumerate(theirs))
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in sorted({*ours, *theirs}):
            step = f"[{key}]" if isinstance(key, int) else f".{ascii(key)[1:-1][:80]}"
            found = _differs(ours.get(key, _ABSENT), theirs.get(key, _ABSENT), path + step)
            if found is not None:
                return found
        return None
    if type(ours) is type(theirs) and ours == theirs:
        return None
    return Difference(path.removeprefix("."), _said(ours), _said(theirs))


def _said(value: Any) -> str:
    if value is _ABSENT:
        return "absent"
    return json.dumps(value, sort_keys=True, separators=(",", ":"))[:400]
