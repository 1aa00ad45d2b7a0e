"""What can go wrong with notes and moves, one type for each.

None carries a blinding, a viewing secret, a memo's content or a witness.
"""

from __future__ import annotations

from psymm.errors import PSymmError


class CustodyError(PSymmError):
    """Base of every error of ``psymm.custody``."""

    code = "custody"


class NoteInvalid(CustodyError):
    """A note, a custody or an opening has a field of the wrong shape."""

    code = "note-invalid"

    def __init__(self, field: str, reason: str) -> None:
        self.field = field
        self.reason = reason
        super().__init__(f"{field}: {reason}")


class MemoInvalid(CustodyError):
    """A memo of the wrong length, or one that our key opens but whose content is invalid."""

    code = "memo-invalid"

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class FundsTooLow(CustodyError):
    """The notes that can be spent now are worth less than the move needs."""

    code = "funds-too-low"
    what = "the notes that can be spent now are worth less than the move needs"
    remedy = "Deposit more, or wait until the moves under way are done"
    amounts = ("needed", "available", "under_way")

    def __init__(self, token: str, needed: int, available: int, under_way: int) -> None:
        self.token = token
        self.needed = needed
        self.available = available
        self.under_way = under_way
        super().__init__(token=token, needed=needed, available=available, under_way=under_way)


class FeeTooHigh(CustodyError):
    """The relayer asks for more than the amount, or than the owner allows."""

    code = "fee-too-high"
    what = "the relayer asks for more than is allowed"
    remedy = "Choose another relayer, allow more, or send the move yourself"
    amounts = ("fee", "allowed")

    def __init__(self, fee: int, allowed: int) -> None:
        self.fee = fee
        self.allowed = allowed
        super().__init__(fee=fee, allowed=allowed)


class NoteBusy(CustodyError):
    """A note is already spent, or a move under way spends it."""

    code = "note-busy"
    what = "the note is spent, or a move under way spends it"

    def __init__(self, commitment: bytes, status: str) -> None:
        self.commitment = commitment
        self.status = status
        super().__init__(commitment=commitment, status=status)


class UnknownNote(CustodyError):
    """The store holds no such note."""

    code = "unknown-note"
    what = "the store holds no note with this commitment"

    def __init__(self, commitment: bytes) -> None:
        self.commitment = commitment
        super().__init__(commitment=commitment)


class UnknownMove(CustodyError):
    """The store holds no such move."""

    code = "unknown-move"
    what = "the store holds no move of this number"

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(number=number)


class ConsentInvalid(CustodyError):
    """A signature that should authorise a move was made by another key."""

    code = "consent-invalid"
    what = "the signature over the move was not made by the required key"

    def __init__(self, role: str, expected: str, found: str) -> None:
        self.role = role
        self.expected = expected
        self.found = found
        super().__init__(role=role, expected=expected, found=found)


class ProposalRefused(CustodyError):
    """The other party's settlement proposal differs from what we compute."""

    code = "proposal-refused"
    remedy = "Nothing was signed"

    def __init__(self, field: str, expected: object, found: object) -> None:
        self.field = field
        self.expected = expected
        self.found = found
        super().__init__(f"{field} is not what we compute", expected=expected, found=found)


class DeadlinePassed(CustodyError):
    """The move's deadline has passed, or is too near for proving and sending."""

    code = "deadline-passed"
    what = "the move's deadline has passed or is too near"
    remedy = "Make the move again with a later deadline"

    def __init__(self, deadline_s: int, now_s: int) -> None:
        self.deadline_s = deadline_s
        self.now_s = now_s
        super().__init__(deadline_s=deadline_s, now_s=now_s)


class ProverError(CustodyError):
    """Proving failed."""

    code = "prover"


class ProverMissing(ProverError):
    """Node, its packages or the prover's files are not installed."""

    code = "prover-missing"
    what = "the prover is not installed"
    remedy = "Install Node 20 or later, then run `psymm tools install`"

    def __init__(self, missing: str) -> None:
        self.missing = missing
        super().__init__(missing=missing)


class ProverFailed(ProverError):
    """The prover died, or its answer is not the proof that was asked for."""

    code = "prover-failed"
    what = "the prover failed"
    remedy = "Try again; nothing was sent"

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason=reason)


class Unprovable(ProverError):
    """No proof exists: the witness breaks a constraint of the circuit.

    For a witness that this package built, an input was wrong, such as a path under another root.
    """

    code = "unprovable"
    what = "no proof exists for these values"

    def __init__(self, circuit: str, constraint: str) -> None:
        self.circuit = circuit
        self.constraint = constraint
        super().__init__(circuit=circuit, constraint=constraint)


class CrsInvalid(ProverError):
    """The reference string is missing or does not belong to the verifiers."""

    code = "crs-invalid"
    what = "the reference string is missing or does not belong to the verifiers"
    remedy = "Set CRS_PATH to its directory, or leave it unset to have one made or fetched"

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason=reason)


class NoteStoreError(CustodyError):
    """The file of notes and moves cannot be used."""

    code = "note-store"


class StoreForeign(NoteStoreError):
    """The file belongs to another wallet, viewing secret, chain or contract."""

    code = "note-store-foreign"
    what = "the file of notes belongs to another wallet, viewing secret, chain or contract"
    remedy = (
        "Name another file, or use the wallet (with its secrets key, if it has one) and the "
        "deployment that made this one"
    )


class StoreVersion(NoteStoreError):
    """The file is intact, but this version did not make it."""

    code = "note-store-version"
    what = "the file of notes was made by another version of psymm, or is another file"
    remedy = (
        "Use the version that made it, or name another file; `psymm notes --rebuild` finds the "
        "wallet's notes from the chain alone"
    )


class StoreCorrupt(NoteStoreError):
    """The file does not hold what was written to it."""

    code = "note-store-corrupt"
    what = "the file of notes is damaged"
    remedy = "Rebuild it from the wallet and the chain (recovery), or restore a copy"


class StoreLocked(NoteStoreError):
    """Another process has the file open."""

    code = "note-store-locked"
    what = "another process holds this file of notes"
    remedy = "Stop that process first; two would spend the same notes"


class MoveUnderWay(CustodyError):
    """An earlier move of the same kind was handed over, and nothing proves its fate yet."""

    code = "move-under-way"
    remedy = (
        "Nothing new was started. `psymm notes` shows how it ended; after its deadline it can no "
        "longer happen"
    )

    def __init__(self, purpose: str, deadline: int | None) -> None:
        self.purpose = purpose
        self.deadline = deadline
        values = {} if deadline is None else {"deadline": deadline}
        super().__init__(f"an earlier {purpose} was sent and is not confirmed yet", **values)


class MoveFailed(CustodyError):
    """A move can no longer happen; its inputs are free again."""

    code = "move-failed"

    def __init__(self, move: str, reason: str) -> None:
        self.move = move
        self.reason = reason
        super().__init__(f"move {move}: {reason}")
