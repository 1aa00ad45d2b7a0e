"""What can go wrong, each with a name (`code`), the values that caused it and what to do about it.

Every error that crosses a room's boundary is a `PSymmError`. `code` is stable and meant for
programs (logs, `--json`, Reject texts); `str()` is meant for people. No error ever holds a key,
a password or a blinding.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import ClassVar, Final


class PSymmError(Exception):
    """Base of all errors of the package.

    code: the stable name, kebab-case. values: what caused it, safe to print. amounts: which of them
    are units of a token; `in_tokens` has people shown whole tokens instead. Those whose names end
    in `_wei` are shown as coins.
    """

    code: ClassVar[str] = "error"
    what: ClassVar[str] = "something went wrong"
    remedy: ClassVar[str] = ""
    amounts: Collection[str] = ()
    _token: tuple[int, str] | None = None

    def __init__(self, detail: str = "", **values: object) -> None:
        self.detail = detail
        self.values = values
        super().__init__(detail)

    def __str__(self) -> str:
        said = f"{self.code}: {self.detail or self.what}"
        if self.values:
            shown = ", ".join(self._said(name, value) for name, value in self.values.items())
            said += f" ({shown})"
        if self.remedy:
            said += f". {self.remedy}"
        # Words and values may be a peer's, and errors go to terminals and logs as they are.
        return printable(said, lines=False)

    def in_tokens(self, decimals: int, symbol: str) -> None:
        """Have people shown amounts in whole tokens of that name. `values` stay as they are."""
        self._token = decimals, symbol
        for value in self.values.values():
            if isinstance(value, PSymmError):
                value.in_tokens(decimals, symbol)

    def _said(self, name: str, value: object) -> str:
        if name in self.amounts and isinstance(value, str) and value.isdecimal():
            value = int(value)  # it came over a wire
        if isinstance(value, int) and not isinstance(value, bool):
            if name in self.amounts:
                if self._token is None:
                    return f"{name}={value} units"
                decimals, symbol = self._token
                return f"{name}={format_amount(value, decimals)} {symbol}"
            if name.endswith("_wei"):
                return f"{name.removesuffix('_wei')}={format_coins(value)}"
        return f"{name}={_shown(value)}"


def _shown(value: object) -> str:
    if isinstance(value, bytes | bytearray | memoryview):
        return "0x" + bytes(value).hex()
    return str(value)


def format_amount(units: int, decimals: int) -> str:
    """The shortest exact decimal of `units`, signed, `1000.5` for 1000500000 at 6 decimals."""
    sign = "-" if units < 0 else ""
    whole, fraction = divmod(abs(units), 10**decimals)
    if not fraction:
        return f"{sign}{whole}"
    return f"{sign}{whole}.{str(fraction).rjust(decimals, '0').rstrip('0')}"


def format_coins(wei: int) -> str:
    """An amount of the chain's coin for people, exact; little, as of what gas costs, in gwei."""
    if abs(wei) < 10**15:
        return f"{format_amount(wei, 9)} gwei"
    return f"{format_amount(wei, 18)} ETH"


def printable(text: str, *, lines: bool = True) -> str:
    """`text` with what a terminal would obey (controls, escapes, marks of direction, lone
    surrogates) written out as \\xNN, \\uNNNN or \\UNNNNNNNN. lines: line ends stay."""
    if text.isprintable():
        return text
    return "".join(
        one if one.isprintable() or (lines and one == "\n") else _escape(one) for one in text
    )


def _escape(one: str) -> str:
    number = ord(one)
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def clip(text: str, limit_bytes: int = 1000) -> str:
    """Words that fit a message's text field, whatever they quote: cut by bytes of UTF-8."""
    return text.encode("utf-8", "replace")[:limit_bytes].decode("utf-8", "ignore")


class FileNotPrivate(PSymmError):
    """A file that holds or will hold secrets is somebody else's, or a link."""

    code = "file-not-private"
    what = "a file with secrets must be a plain file of its user's own"
    remedy = "Nothing was read or written. Look who put it there"


# --- wallet ---------------------------------------------------------------------------------


class WalletError(PSymmError):
    code = "wallet"


class KeystoreUnreadable(WalletError):
    code = "keystore-unreadable"
    what = "the file is damaged, or is not a JSON keystore"
    remedy = "Take a backup of it, or a file made by `psymm wallet new`, geth or another wallet"


class KeystoreUnsupported(WalletError):
    code = "keystore-unsupported"
    what = "the keystore has a form that is not supported"
    remedy = (
        "Supported are version 3 keystores with aes-128-ctr and scrypt or pbkdf2 (hmac-sha256). "
        "Export the key again in the program that made the file"
    )


class KeystoreMissing(KeystoreUnreadable):
    code = "keystore-missing"
    what = "there is no keystore at this path"
    remedy = "Give the right --home, or make a wallet: psymm wallet new"


class KeystoreExists(WalletError):
    code = "keystore-exists"
    what = "a file stands where the keystore should go"
    remedy = "Choose another path; a keystore is never overwritten"


class WrongPassword(WalletError):
    code = "wrong-password"
    what = "the password does not open this keystore"
    remedy = "Try again; nothing was changed. Of a password file the first line counts"


class WrongSigner(WalletError):
    code = "wrong-signer"
    what = "the signature that came back was not made by this wallet"
    remedy = "Check which account the signing device has selected"


class SignatureMalformed(WalletError):
    code = "signature-malformed"
    what = "the signature that came back has no form that is known here"
    remedy = (
        "Give bytes or hex text: r, s and v (0, 1, 27, 28 or EIP-155's); r and s, with or without "
        "EIP-2098's bit; or DER"
    )


class UnsteadySigner(WalletError):
    code = "unsteady-signer"
    what = "the wallet signed one message twice and gave two signatures"
    remedy = (
        "Its secrets cannot be derived from a signature. Make a keystore for them with "
        "`save_keystore`, back it up, and give CallbackWallet(..., secrets_key=await "
        "load_keystore(...))"
    )


# --- journal --------------------------------------------------------------------------------


class JournalError(PSymmError):
    code = "journal"


class JournalLocked(JournalError):
    code = "journal-locked"
    what = "another process holds this journal"
    remedy = "Stop that process first; two writers could sign two frames with one number"


_LANES: Final = ("trader", "solver")
_MISSING_SHOWN: Final = 4


@dataclass(frozen=True, slots=True)
class Missing:
    """What a damaged journal lacks. custody: 32 bytes. what: `frames` (then lane, and first to last
    are their numbers), `heads`, `opening` (of the custody), `session-keys`, `note` (an opening of
    one of its notes), `custody` (its number; nothing of it can be read)."""

    custody: bytes
    what: str
    lane: int | None = None
    first: int | None = None
    last: int | None = None

    def __str__(self) -> str:
        said = f"custody 0x{self.custody.hex()}: {self.what}"
        if self.lane in (0, 1):
            said += f" of the {_LANES[self.lane]}"
        if self.first is not None:
            said += f" {self.first}" if self.first == self.last else f" {self.first} to {self.last}"
        return said


class JournalCorrupt(JournalError):
    """missing: all that is known to be lacking."""

    code = "journal-corrupt"
    what = "the journal does not hold what was written to it"
    remedy = "Do not sign with it; `psymm journal repair` saves what is left and asks for the rest"

    def __init__(
        self, detail: str = "", *, missing: Iterable[Missing] = (), **values: object
    ) -> None:
        self.missing = tuple(missing)
        if self.missing:
            shown = "; ".join(str(one) for one in self.missing[:_MISSING_SHOWN])
            more = len(self.missing) - _MISSING_SHOWN
            values["missing"] = shown + (f"; and {more} more" if more > 0 else "")
        super().__init__(detail, **values)


class JournalOlder(JournalCorrupt):
    code = "journal-older"
    what = "the journal holds fewer frames than it held before: it is an older copy, or cut off"
    remedy = (
        "Put the newest file back, its -wal beside it; without it, `psymm journal repair` makes of "
        "this one a journal that never signs where frames may be missing"
    )


class JournalReplaced(JournalError):
    code = "journal-replaced"
    what = "the journal's file was moved, deleted or replaced while it was in use"
    remedy = "Nothing of this write was sent; put the file back and start again"


class JournalRestored(JournalError):
    code = "journal-restored"
    what = "this custody comes from a backup or a repaired journal, and never signs a frame again"
    remedy = (
        "Frames signed since would get a second signature. Settle by wallet signature, show it to "
        "the court, or put the newest journal back; new custodies may be opened"
    )


class JournalVersion(JournalError):
    code = "journal-version"
    what = "the journal was written by another version of this program"


class JournalForeign(JournalError):
    code = "journal-foreign"
    what = "the journal belongs to another wallet"
    remedy = "Open it with the wallet that made it"


class JournalSealed(JournalError):
    code = "journal-sealed"
    what = "the journal's secrets are sealed"
    remedy = "Unlock it with the wallet first"


class JournalClosed(JournalError):
    code = "journal-closed"
    what = "the journal is closed; nothing of this write was kept"


class JournalConflict(JournalError):
    code = "journal-conflict"
    what = "a different frame is already journalled with this number"
    remedy = "Nothing was sent; reopen the journal before signing again"


class UnknownCustody(JournalError):
    code = "unknown-custody"
    what = "the journal knows no such custody"


class KnownCustody(JournalError):
    code = "known-custody"
    what = "this custody id was seen before"
    remedy = "Meet again with a fresh nonce"


class CheckpointRefused(PSymmError):
    code = "checkpoint-refused"
    what = "a record cannot begin at this checkpoint"
    remedy = "Get it again from where it was written; nothing was taken from it"


class NoCheckpoint(JournalError):
    code = "no-checkpoint"
    what = "no checkpoint is in force in this custody"
    remedy = "Make one with the other side first (`session.checkpoint()`); nothing was removed"


class TranscriptFileError(PSymmError):
    """A `*.psymm` file that is refused.

    reason: the stable name; words: the same for people; offset: the byte at which it goes wrong;
    frame: the index from 0, None outside of the frames; span: from which byte on and before which
    one the fault lies.
    """

    code = "transcript-file"

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        offset: int,
        frame: int | None = None,
        span: tuple[int, int] | None = None,
        **values: object,
    ) -> None:
        self.reason = code
        self.words = detail
        self.offset = offset
        self.frame = frame
        self.span = span or (offset, offset + 1)
        where = f"byte {offset}" if frame is None else f"frame {frame}, byte {offset}"
        super().__init__(f"{code} at {where}: {detail}", **values)


class BadOpening(PSymmError):
    code = "bad-opening"
    remedy = "Nothing can be verified or funded under it; ask the peer for the true one"


# --- session --------------------------------------------------------------------------------


class SessionError(PSymmError):
    code = "session"


class HandshakeRefused(SessionError):
    code = "handshake-refused"
    remedy = "Nothing was funded"
    amounts: Collection[str] = ("ours", "minimum", "promised", "offered")


class WrongParty(HandshakeRefused):
    code = "wrong-party"
    what = "the peer is not who the registry says answers at this endpoint"
    remedy = "Nothing was funded. Read the registry again, or choose another solver"


class NotRegistered(HandshakeRefused):
    code = "not-registered"
    what = "this party is not in the registry with that role"
    remedy = "Nothing was funded. Choose a solver from the registry"


class TermsRefused(HandshakeRefused):
    code = "terms-refused"


class PolicyRefused(TermsRefused):
    """Terms that break a limit of our own policy (`spec.md` 62).

    field: where in the terms, as their document spells it. value: what stands there. limit: ours.
    """

    code = "policy-refused"
    what = "the terms break your policy"
    remedy = "Nothing was funded. Choose another solver, or change the limit if you mean to"

    def __init__(self, field: str, value: object, limit: object) -> None:
        self.field = field
        self.value = value
        self.limit = limit
        super().__init__(f"the terms break your policy: {field}", value=value, limit=limit)


class TermsChanged(TermsRefused):
    """The terms at the handshake are not those that were shown at discovery (`spec.md` 62)."""

    code = "terms-changed"
    what = "the solver shows other terms than when it was asked for prices"
    remedy = "Nothing was funded. Ask again, and look at its terms"


class TokenUnnamed(HandshakeRefused):
    code = "which-token"
    what = "nobody says which token is put up, or how many decimals it has"
    remedy = "Nothing was funded. Say so: TraderPolicy(token=…, decimals=…), or --token"


class BadIntroduction(HandshakeRefused):
    """The solver's introduction does not bind it to what we are about to fund (`spec.md` 61)."""

    code = "bad-introduction"
    what = "the solver's introduction is not signed by it, or no longer in force"
    remedy = (
        "Nothing was funded. Meet again, over wss://; if it happens again, somebody changes what "
        "is sent, or the solver's clock or yours is wrong"
    )


class TokenDiffers(TermsRefused):
    """The token of the terms is not the one that was named, or not what the chain has there."""

    code = "token-differs"
    what = "the terms are in another token than the one that was named"


class ClocksDiffer(HandshakeRefused):
    """Two clocks that are farther apart than the terms' skew. by_s: seconds, above 0 where the
    other one is ahead of ours."""

    code = "clocks-differ"
    what = "our clock and the other one are too far apart to trade"
    remedy = "Nothing was funded. Set the clock that is wrong, then try again"


class OrderUnfit(HandshakeRefused):
    """An order that the terms, or the collateral, would not allow. `rule`: the rulebook's name."""

    code = "order-unfit"
    what = "the order does not fit the solver's terms"
    remedy = (
        "Nothing was funded. Change the order or the collateral, or choose another solver. Sizes "
        "are in units of the instrument, prices and amounts in whole tokens of the collateral"
    )


class SolverUnable(HandshakeRefused):
    """A solver that cannot take a new trader now, and may later."""

    code = "solver-unable"
    what = "this solver takes no new trader now"
    remedy = "Nothing was funded. Choose another solver, or come back later"


class SolverFundsTooLow(SolverUnable):
    """Our own notes do not cover what we would have to put up. How much there is, is not told."""

    code = "solver-funds-too-low"
    what = "the solver cannot put up its collateral now"


class LogonRefused(SessionError):
    code = "logon-refused"


class ResumeRefused(SessionError):
    """What came on a connection does not prove that its sender is the custody's party."""

    code = "resume-refused"
    what = "nothing proves that the peer is this custody's party"
    remedy = "Nothing was shown to it; whoever holds a session key or the wallet can resume"


class PeerRefused(SessionError):
    """The other side said no, in a text or a signed message; `detail` carries its words.

    final: it says that asking again changes nothing; passing: that it may pass. Neither: it does
    not say.
    """

    code = "peer-refused"

    def __init__(
        self, detail: str = "", *, final: bool = False, passing: bool = False, **values: object
    ) -> None:
        self.final = final
        self.passing = passing
        super().__init__(detail, **values)


class AttemptEnded(HandshakeRefused):
    """A refusal that trying again does not change ended the attempt, and a custody stays open.

    reason: the refusal. custody: 32 bytes. The journal keeps all that was signed.
    """

    code = "attempt-ended"
    remedy = (
        "Nothing more is tried now; the custody stays as it is in the journal. Once the reason is "
        "gone, go on with its --resume"
    )

    def __init__(self, reason: PSymmError, custody: bytes) -> None:
        self.reason = reason
        self.custody = custody
        # Its remedy may say that nothing was funded, which holds for a first attempt alone.
        said = reason.detail or reason.what
        super().__init__(f"{reason.code}: {said}", **{**reason.values, "custody": custody})
        self.amounts = reason.amounts


class Forked(SessionError):
    code = "forked"
    what = "the two sides hold different frames with one number"
    remedy = "Nothing more is signed; the evidence is in the journal"


class Equivocation(Forked):
    code = "equivocation"
    what = "the peer signed two frames with one number"
    remedy = "Nothing more is signed; both frames are kept in the journal as proof of guilt"


class JournalBehind(Forked):
    code = "journal-behind"
    what = "the peer holds frames of ours that our journal lacks"
    remedy = (
        "This journal is not the newest; nothing more is signed with it. Restore the newest; or "
        "settle by wallet signature with a backup made of this one (`psymm journal backup`)"
    )


class ForkUnproved(Forked):
    """As `Forked`, by the peer's unsigned word alone, which stops nothing."""

    what = "the heads that the peer shows are not ours"
    remedy = "Nothing was signed on this connection; it is tried again, and signed frames decide"


class BehindUnproved(JournalBehind):
    """As `JournalBehind`, by the peer's unsigned word alone, which stops nothing."""

    what = "the peer says that it holds frames of ours that our journal lacks"
    remedy = ForkUnproved.remedy


class PeerBehind(SessionError):
    code = "peer-behind"
    what = "the peer claims frames of its own that it does not show"


class PeerSilent(SessionError):
    code = "peer-silent"
    what = "the peer did not answer in time"
    remedy = "Reconnect to resume; every frame is in the journal"


class Disconnected(SessionError):
    code = "disconnected"
    what = "the connection is gone"
    remedy = "Reconnect to resume; every frame is in the journal"


class BadEndpoint(Disconnected):
    code = "bad-endpoint"
    what = "an endpoint is a ws:// or wss:// address"
    remedy = "Read the registry again; nothing was sent"


class PlainRefused(Disconnected):
    """A ws:// endpoint on another machine (`spec.md` 61). Nothing was said to it."""

    code = "plain-refused"
    what = "an unencrypted connection (ws://) to another machine is not used unless asked for"
    remedy = (
        "Nothing was sent. Use a wss:// endpoint; to accept that everyone on the way reads and "
        "changes what is sent, say plain=True, or --plain on the command line"
    )


class PrivateAddress(Disconnected):
    """An endpoint of the registry leads to this machine, a local network, or no machine at all."""

    code = "private-address"
    what = "the endpoint leads to an address that is not on the public internet"
    remedy = "Nothing was sent. If it is meant, say --private-endpoints (private=True in Python)"


class Unreachable(Disconnected):
    code = "unreachable"
    what = "no connection to the peer"
    remedy = "Check the network and the endpoint; every frame is in the journal"


class TlsRefused(Disconnected):
    """The server could not prove who it is, or speaks no TLS. Nothing was said to it."""

    code = "tls-refused"
    what = "the connection to the server is not safe"
    remedy = "Nothing was sent. Check the endpoint's name, its certificate and the time of day"


class HandshakeFailed(Disconnected):
    code = "handshake-failed"
    what = "the server ended the connection before a WebSocket stood"
    remedy = "Check that the endpoint is a solver's, and whether it is ws:// or wss://"


class ServerBusy(Disconnected):
    """HTTP 503 or 429. values: retry_after_s, 0 where the server names no time."""

    code = "server-busy"
    what = "the server takes no connection now"
    remedy = "Try again later"


class PeerLeft(Disconnected):
    """The peer closed on purpose (WebSocket code 1001): it ends its process, not the session."""

    code = "peer-left"
    what = "the peer left and means to come back; the session is not over"
    remedy = "Reconnect to resume; every frame is in the journal"


class Leaving(Disconnected):
    """We close on purpose and mean to come back; the peer is told so by WebSocket code 1001."""

    code = "leaving"
    what = "we leave; the session can be resumed"
    remedy = ""


class TooManyConnections(SessionError):
    code = "too-many-connections"
    what = "no further connection is taken now"
    remedy = "Close others, or come back later"


class CertificateInvalid(PSymmError):
    code = "certificate-invalid"
    what = "the certificate cannot be used"


class SessionClosed(SessionError):
    code = "session-closed"
    what = "the session has ended"


class NotNow(SessionError):
    code = "not-now"
    what = "this cannot be sent in the session's present state"


class ClockBehind(NotNow):
    """Our own clock, seen from our own lane: it went back, or was ahead when we last signed."""

    code = "clock-behind"
    what = "our lane's last frame is dated further ahead of our clock than the skew"
    remedy = (
        "Nothing was signed: a date that stands still would be untrue. Set the clock right (NTP);"
        " signing goes on once it has reached that date less the skew"
    )


class DatedAhead(SessionError):
    """A frame of the peer that is held back until its time, and all after it."""

    code = "dated-ahead"
    what = "the peer's frame is dated further ahead of our clock than the skew; it is held back"
    remedy = (
        "Compare both clocks (NTP). It and all after it change nothing and are not covered before"
        " their time. A lane dated far ahead is dead until then: close what is open by its orders'"
        " lives, and leave the custody by a case"
    )


class SessionKeyEnded(NotNow):
    code = "session-key-ended"
    what = "our session key signs nothing more: its time or its numbers have run out"
    remedy = "Nothing was signed. Let the wallet delegate the next key; the session then goes on"


class KeyRevoked(NotNow):
    """A session key that its wallet revoked on chain, ours or the peer's."""

    code = "key-revoked"
    what = "the session key was revoked by its wallet"
    remedy = "What it signs is not its party's word; the session goes on with the wallet's next key"


class Refused(SessionError):
    """Our own rulebook refuses what the application wanted to sign; nothing was signed."""

    code = "refused"
    remedy = "Nothing was signed"


class LaneAtLimit(Refused):
    """The lane has sent what the terms allow since the last checkpoint."""

    code = "lane-at-limit"
    what = "no more business can be signed before a checkpoint is in force"
    remedy = (
        "Nothing was signed. Checkpoint, settle, or show the record to the court: a peer that does"
        " not answer a right checkpoint is at fault"
    )


class AccountsDiffer(SessionError):
    """Both sides hold the same frames, but not the same account. Trading goes on."""

    code = "accounts-differ"
    what = "the two sides' accounts after the same frames differ"
    remedy = (
        "One side's rulebook has a fault; both run one version? Settle, or show the record to the"
        " court"
    )


class PeerViolation(SessionError):
    code = "peer-violation"
    what = "the peer broke the protocol"


class FloodingPeer(PeerViolation):
    code = "flooding-peer"
    what = "the peer sends more than the session allows"


class MessageTooBig(PeerViolation):
    code = "message-too-big"
    what = "the peer sends a message longer than any there is"


class OverBudget(PeerViolation):
    """One session would hold more memory for its peer than it may."""

    code = "over-budget"
    what = "the peer makes this session hold more than its budget"


class TradingHalted(SessionError):
    """The solver's kill switch is on, or one of its own caps is reached."""

    code = "trading-halted"
    what = "this solver signs no quote and no fill now"
    remedy = "Nothing was signed. Revive it, or wait until the cap's time has passed"


class CustodyStopped(SessionError):
    code = "custody-stopped"
    what = "this custody was stopped for cause; nothing more is signed in it"
    remedy = "Settle by wallet signature, or show the journal's evidence to the court"


class Declined(SessionError):
    code = "declined"
    what = "the other side declined; declining is free until an order is filled"


class NoSolver(SessionError):
    code = "no-solver"
    what = "no solver answered with terms and a price in time"
    remedy = "See each solver's reason; widen the timeout or ask others"


# --- collateral -----------------------------------------------------------------------------


class CollateralRefused(SessionError):
    """Collateral that a side will not trade against."""

    code = "collateral-refused"
    remedy = "Nothing of ours was put up against it"


class CollateralMissing(CollateralRefused):
    code = "collateral-missing"
    what = "no note with this commitment is on chain"


class CollateralSpent(CollateralRefused):
    code = "collateral-spent"
    what = "the note's nullifier is already on chain"


class CollateralTooSmall(CollateralRefused):
    code = "collateral-too-small"
    what = "the notes are worth less than was promised or than the terms ask"


class CollateralForeign(CollateralRefused):
    code = "collateral-foreign"
    what = "the opening does not give this commitment in this custody"


class CollateralWrongToken(CollateralRefused):
    code = "collateral-wrong-token"
    what = "the note is in another token than the terms'"


class CollateralNotListed(CollateralRefused):
    code = "collateral-not-listed"
    what = "the openings shown are not those of the notes that the signed frame lists"


class SettlementRefused(SessionError):
    code = "settlement-refused"
