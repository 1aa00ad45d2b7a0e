"""The package's errors: each has a name (`code`), the values that caused it, and a remedy.

Every error that leaves a package is a `PSymmError`. `code` is stable and for programs (logs,
`--json`, Reject texts); `str()` is for people. No error contains a key, a password or a blinding.

This file is long because packages that do not import each other share these errors: a socket raises
what the session and the relayer catch, and custody raises what the session protocol answers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import ClassVar, Final


class PSymmError(Exception):
    """The base of all errors of the package.

    Attributes:
        code: the stable name, in kebab-case.
        what: the message, unless `detail` is given.
        remedy: what the user can do.
        values: what caused it, safe to print. Those whose names end in `_wei` are shown as coins.
        amounts: the names of values that are token units; after `in_tokens` people see them as
            whole tokens.
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
        # Texts and values may come from a peer, and errors are printed and logged unchanged.
        return printable(said, lines=False)

    def in_tokens(self, decimals: int, symbol: str) -> None:
        """Show amounts to people in whole tokens. `values` do not change."""
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
    """An exact amount of the chain's coin for people; small ones, such as gas prices, in gwei."""
    if abs(wei) < 10**15:
        return f"{format_amount(wei, 9)} gwei"
    return f"{format_amount(wei, 18)} ETH"


def printable(text: str, *, lines: bool = True) -> str:
    """`text` with everything that controls a terminal (control characters, escapes, direction
    marks, lone surrogates) written as \\xNN, \\uNNNN or \\UNNNNNNNN. lines: keep line ends."""
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
    """A text cut to so many bytes of UTF-8, to fit a message's text field."""
    return text.encode("utf-8", "replace")[:limit_bytes].decode("utf-8", "ignore")


class FileNotPrivate(PSymmError):
    """A file for secrets is a link or belongs to somebody else."""

    code = "file-not-private"
    what = "a file with secrets must be a regular file that belongs to its user"
    remedy = "Nothing was read or written. Find out who put it there"


# --- wallet ---------------------------------------------------------------------------------


class WalletError(PSymmError):
    code = "wallet"


class KeystoreUnreadable(WalletError):
    code = "keystore-unreadable"
    what = "the file is damaged, or is not a JSON keystore"
    remedy = "Use a backup of it, or a file made by `psymm wallet new`, geth or another wallet"


class KeystoreUnsupported(WalletError):
    code = "keystore-unsupported"
    what = "the keystore has a form that is not supported"
    remedy = (
        "Supported are version 3 keystores with aes-128-ctr and scrypt or pbkdf2 (hmac-sha256). "
        "Export the key again from the program that made the file"
    )


class KeystoreMissing(KeystoreUnreadable):
    code = "keystore-missing"
    what = "there is no keystore at this path"
    remedy = "Give the right --home, or make a wallet: psymm wallet new"


class KeystoreExists(WalletError):
    code = "keystore-exists"
    what = "there is already a file at the keystore's path"
    remedy = "Choose another path; a keystore is never overwritten"


class WrongPassword(WalletError):
    code = "wrong-password"
    what = "the password does not open this keystore"
    remedy = "Try again; nothing was changed. Only the first line of a password file is read"


class WrongSigner(WalletError):
    code = "wrong-signer"
    what = "the returned signature was not made by this wallet"
    remedy = "Check which account is selected on the signing device"


class SignatureMalformed(WalletError):
    code = "signature-malformed"
    what = "the returned signature has an unknown form"
    remedy = (
        "Give bytes or hex text: r, s and v (0, 1, 27, 28 or EIP-155's); r and s, with or without "
        "EIP-2098's bit; or DER"
    )


class UnsteadySigner(WalletError):
    code = "unsteady-signer"
    what = "the wallet gives a different signature each time for the same message"
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
    what = "another process has this journal open"
    remedy = "Stop that process first; two writers could sign two frames with one number"


_LANES: Final = ("trader", "solver")
_MISSING_SHOWN: Final = 4


@dataclass(frozen=True, slots=True)
class Missing:
    """Something that a damaged journal lacks.

    Attributes:
        custody: 32 bytes.
        what: `frames`, `heads`, `opening` (of the custody), `session-keys`, `note` (the opening of
            one of its notes) or `custody` (nothing of it can be read).
        lane: of the missing frames.
        first: number of the first missing frame.
        last: number of the last missing frame.
    """

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
    """A damaged journal.  missing: everything that is known to be missing."""

    code = "journal-corrupt"
    what = "the journal does not hold what was written to it"
    remedy = "Do not sign with it; `psymm journal repair` keeps what is left and fetches the rest"

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
        "Put the newest file back, together with its -wal. If it is lost, `psymm journal repair` "
        "turns this one into a journal that never signs where frames may be missing"
    )


class JournalReplaced(JournalError):
    code = "journal-replaced"
    what = "the journal's file was moved, deleted or replaced while it was in use"
    remedy = "Nothing of this write was sent; put the file back and start again"


class JournalRestored(JournalError):
    code = "journal-restored"
    what = "this custody comes from a backup or a repaired journal, so it never signs a frame again"
    remedy = (
        "Numbers of frames signed since could be signed twice. Settle by wallet signature, show it "
        "to the court, or put the newest journal back; new custodies can be opened"
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
    what = "the journal's secrets are encrypted"
    remedy = "Unlock it with the wallet first"


class JournalClosed(JournalError):
    code = "journal-closed"
    what = "the journal is closed; nothing of this write was kept"


class JournalConflict(JournalError):
    code = "journal-conflict"
    what = "the journal already has a different frame with this number"
    remedy = "Nothing was sent; reopen the journal before signing again"


class UnknownCustody(JournalError):
    code = "unknown-custody"
    what = "the journal knows no such custody"


class KnownCustody(JournalError):
    code = "known-custody"
    what = "this custody id was used before"
    remedy = "Repeat the handshake with a fresh nonce"


class CheckpointRefused(PSymmError):
    code = "checkpoint-refused"
    what = "a record cannot start at this checkpoint"
    remedy = "Get the file again from its source; nothing was taken from it"


class NoCheckpoint(JournalError):
    code = "no-checkpoint"
    what = "no checkpoint is in force in this custody"
    remedy = "Make one with the other side first (`session.checkpoint()`); nothing was removed"


class TranscriptFileError(PSymmError):
    """A `*.psymm` file that is refused.

    Attributes:
        reason: the stable name.
        words: the same for people.
        offset: the byte at which the check failed.
        frame: the frame's index from 0; None outside the frames.
        span: the first byte of the fault and the byte after it.
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
    remedy = "Nothing can be verified or funded under it; ask the peer for the right one"


# --- session --------------------------------------------------------------------------------


class SessionError(PSymmError):
    code = "session"


class HandshakeRefused(SessionError):
    code = "handshake-refused"
    remedy = "Nothing was funded"
    amounts: Collection[str] = ("ours", "minimum", "promised", "offered")


class WrongParty(HandshakeRefused):
    code = "wrong-party"
    what = "the peer is not the party that the registry lists at this endpoint"
    remedy = "Nothing was funded. Read the registry again, or choose another solver"


class NotRegistered(HandshakeRefused):
    code = "not-registered"
    what = "this party is not in the registry with this role"
    remedy = "Nothing was funded. Choose a solver from the registry"


class TermsRefused(HandshakeRefused):
    code = "terms-refused"


class PolicyRefused(TermsRefused):
    """Terms that break a limit of our own policy (`spec.md` 62).

    Attributes:
        field: the field's path in the terms' document.
        value: the field's value.
        limit: the policy's limit.
    """

    code = "policy-refused"
    what = "the terms break your policy"
    remedy = "Nothing was funded. Choose another solver, or change your limit"

    def __init__(self, field: str, value: object, limit: object) -> None:
        self.field = field
        self.value = value
        self.limit = limit
        super().__init__(f"the terms break your policy: {field}", value=value, limit=limit)


class TermsChanged(TermsRefused):
    """The terms at the handshake differ from those shown at discovery (`spec.md` 62)."""

    code = "terms-changed"
    what = "the solver's terms differ from those that it showed with its prices"
    remedy = "Nothing was funded. Ask again, and check its terms"


class TokenUnnamed(HandshakeRefused):
    code = "which-token"
    what = "the collateral's token, or its number of decimals, is not given"
    remedy = "Nothing was funded. Give TraderPolicy(token=…, decimals=…), or --token"


class BadIntroduction(HandshakeRefused):
    """The solver's introduction does not bind it to what we are about to fund (`spec.md` 61)."""

    code = "bad-introduction"
    what = "the solver's introduction is not signed by it, or has expired"
    remedy = (
        "Nothing was funded. Try again over wss://. If it happens again, somebody is changing the "
        "messages, or the solver's clock or yours is wrong"
    )


class TokenDiffers(TermsRefused):
    """The terms' token is not the named one, or differs from the contract on chain."""

    code = "token-differs"
    what = "the terms use another token than the one that you named"


class ClocksDiffer(HandshakeRefused):
    """Two clocks differ by more than the terms' skew.  by_s: seconds; above 0 if the other clock is
    ahead of ours."""

    code = "clocks-differ"
    what = "our clock and the peer's differ too much to trade"
    remedy = "Nothing was funded. Correct the wrong clock, then try again"


class OrderUnfit(HandshakeRefused):
    """An order that the terms or the collateral do not allow.  rule: its name in the rulebook."""

    code = "order-unfit"
    what = "the order does not fit the solver's terms"
    remedy = (
        "Nothing was funded. Change the order or the collateral, or choose another solver. Sizes "
        "are in units of the instrument, prices and amounts in whole collateral tokens"
    )


class SolverUnable(HandshakeRefused):
    """A solver that cannot accept a new trader now, but may later."""

    code = "solver-unable"
    what = "this solver accepts no new trader now"
    remedy = "Nothing was funded. Choose another solver, or try again later"


class SolverFundsTooLow(SolverUnable):
    """Our notes do not cover the collateral that we would put up. The peer does not learn how much
    there is."""

    code = "solver-funds-too-low"
    what = "the solver cannot put up its collateral now"


class LogonRefused(SessionError):
    code = "logon-refused"


class ResumeRefused(SessionError):
    """The peer of a connection did not prove that it is the custody's party."""

    code = "resume-refused"
    what = "the peer did not prove that it is this custody's party"
    remedy = "Nothing was shown to it; resuming needs a session key or the wallet"


class PeerRefused(SessionError):
    """The other party refused, in a text or a signed message; `detail` has its words.

    Attributes:
        final: it says that asking again is useless.
        passing: it says that asking later may help. If neither is set, it does not say.
    """

    code = "peer-refused"

    def __init__(
        self, detail: str = "", *, final: bool = False, passing: bool = False, **values: object
    ) -> None:
        self.final = final
        self.passing = passing
        super().__init__(detail, **values)


class AttemptEnded(HandshakeRefused):
    """A final refusal ended the attempt, and the custody stays open.  The journal keeps everything
    that was signed.

    Attributes:
        reason: the refusal.
        custody: 32 bytes.
    """

    code = "attempt-ended"
    remedy = (
        "It is not tried again; the custody stays unchanged in the journal. Once the reason is "
        "gone, go on with its --resume"
    )

    def __init__(self, reason: PSymmError, custody: bytes) -> None:
        self.reason = reason
        self.custody = custody
        # The refusal's remedy may say that nothing was funded, which is wrong here.
        said = reason.detail or reason.what
        super().__init__(f"{reason.code}: {said}", **{**reason.values, "custody": custody})
        self.amounts = reason.amounts


class Forked(SessionError):
    code = "forked"
    what = "the two parties have different frames with the same number"
    remedy = "Nothing more is signed; the evidence is in the journal"


class Equivocation(Forked):
    code = "equivocation"
    what = "the peer signed two frames with the same number"
    remedy = "Nothing more is signed; both frames are kept in the journal as proof of guilt"


class JournalBehind(Forked):
    code = "journal-behind"
    what = "the peer has frames of ours that our journal lacks"
    remedy = (
        "This journal is not the newest, so nothing more is signed with it. Restore the newest; or "
        "settle by wallet signature with a backup of this one (`psymm journal backup`)"
    )


class ForkUnproved(Forked):
    """Like `Forked`, but only an unsigned text of the peer says so, which stops nothing."""

    what = "the peer's heads differ from ours"
    remedy = "Nothing was signed on this connection. It is tried again, and signed frames decide"


class BehindUnproved(JournalBehind):
    """Like `JournalBehind`, but only an unsigned text of the peer says so, which stops nothing."""

    what = "the peer says that it has frames of ours that our journal lacks"
    remedy = ForkUnproved.remedy


class PeerBehind(SessionError):
    code = "peer-behind"
    what = "the peer claims to have frames that it does not send"


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
    what = "the endpoint is not a ws:// or wss:// address"
    remedy = "Nothing was sent. Read the registry again"


class PlainRefused(Disconnected):
    """A ws:// endpoint on another machine (`spec.md` 61). Nothing was sent to it."""

    code = "plain-refused"
    what = "unencrypted connections (ws://) to other machines must be allowed explicitly"
    remedy = (
        "Nothing was sent. Use a wss:// endpoint. To accept that everybody on the way can read and "
        "change the messages, give plain=True, or --plain on the command line"
    )


class PrivateAddress(Disconnected):
    """An endpoint in the registry leads to this machine, a local network, or nowhere."""

    code = "private-address"
    what = "the endpoint's address is not on the public internet"
    remedy = "Nothing was sent. To allow it, give --private-endpoints (private=True in Python)"


class Unreachable(Disconnected):
    code = "unreachable"
    what = "no connection to the peer"
    remedy = "Check the network and the endpoint; every frame is in the journal"


class TlsRefused(Disconnected):
    """The server could not prove its identity, or does not use TLS. Nothing was sent to it."""

    code = "tls-refused"
    what = "the connection to the server is not safe"
    remedy = "Nothing was sent. Check the endpoint's name, its certificate and your clock"


class HandshakeFailed(Disconnected):
    code = "handshake-failed"
    what = "the server ended the connection during the WebSocket handshake"
    remedy = "Check that the endpoint is a solver's, and whether it is ws:// or wss://"


class ServerBusy(Disconnected):
    """HTTP 503 or 429.  values: retry_after_s, 0 if the server gives no time."""

    code = "server-busy"
    what = "the server accepts no connections now"
    remedy = "Try again later"


class PeerLeft(Disconnected):
    """The peer closed the connection on purpose (WebSocket code 1001): its process ends, not the
    session."""

    code = "peer-left"
    what = "the peer is shutting down and will be back; the session is not over"
    remedy = "Reconnect to resume; every frame is in the journal"


class Leaving(Disconnected):
    """We close on purpose and will be back; WebSocket code 1001 says so to the peer."""

    code = "leaving"
    what = "we are leaving; the session can be resumed"
    remedy = ""


class TooManyConnections(SessionError):
    code = "too-many-connections"
    what = "no more connections are accepted now"
    remedy = "Close others, or try again later"


class CertificateInvalid(PSymmError):
    code = "certificate-invalid"
    what = "the certificate cannot be used"


class SessionClosed(SessionError):
    code = "session-closed"
    what = "the session has ended"


class NotNow(SessionError):
    code = "not-now"
    what = "the session's present state does not allow this"


class ClockBehind(NotNow):
    """Our clock went back, or was ahead when we last signed."""

    code = "clock-behind"
    what = "our lane's last frame is dated further ahead of our clock than the skew"
    remedy = (
        "Nothing was signed, because the frame's date would be false. Correct the clock (NTP);"
        " signing continues once it reaches that date minus the skew"
    )


class DatedAhead(SessionError):
    """A frame of the peer that is held back until its date, with all frames after it."""

    code = "dated-ahead"
    what = "the peer's frame is dated further ahead of our clock than the skew; it is held back"
    remedy = (
        "Compare both clocks (NTP). Before its date, this frame and all after it change nothing and"
        " are not covered. If the date is far away, the lane cannot be used until then: let open"
        " orders expire, and leave the custody by a court case"
    )


class SessionKeyEnded(NotNow):
    code = "session-key-ended"
    what = "our session key can sign no more: it has expired or used its last number"
    remedy = "Nothing was signed. Let the wallet delegate the next key; then the session continues"


class KeyRevoked(NotNow):
    """A session key that its wallet revoked on chain, ours or the peer's."""

    code = "key-revoked"
    what = "the session key was revoked by its wallet"
    remedy = "Its signatures no longer bind the party; the session continues with the next key"


class Refused(SessionError):
    """Our own rulebook refuses what the application wants to sign; nothing was signed."""

    code = "refused"
    remedy = "Nothing was signed"


class LaneAtLimit(Refused):
    """The lane has sent what the terms allow since the last checkpoint."""

    code = "lane-at-limit"
    what = "no more business can be signed before a checkpoint is in force"
    remedy = (
        "Nothing was signed. Make a checkpoint, settle, or show the record to the court: a peer"
        " that does not answer a correct checkpoint is at fault"
    )


class AccountsDiffer(SessionError):
    """Both parties have the same frames but different accounts. Trading continues."""

    code = "accounts-differ"
    what = "the two parties' accounts after the same frames differ"
    remedy = (
        "One party's rulebook has a bug. Check that both run the same version. Settle, or show the"
        " record to the court"
    )


class PeerViolation(SessionError):
    code = "peer-violation"
    what = "the peer broke the protocol"


class FloodingPeer(PeerViolation):
    code = "flooding-peer"
    what = "the peer sends more than the session allows"


class MessageTooBig(PeerViolation):
    code = "message-too-big"
    what = "the peer sends a message longer than any valid one"


class OverBudget(PeerViolation):
    """A session would hold more memory for its peer than its budget allows."""

    code = "over-budget"
    what = "the peer makes this session hold more than its memory budget"


class TradingHalted(SessionError):
    """The solver's kill switch is on, or one of its caps is reached."""

    code = "trading-halted"
    what = "this solver signs no quote and no fill now"
    remedy = "Nothing was signed. Revive it, or wait until the cap's interval has passed"


class CustodyStopped(SessionError):
    code = "custody-stopped"
    what = "this custody was stopped because of a fault; nothing more is signed in it"
    remedy = "Settle by wallet signature, or show the journal's evidence to the court"


class Declined(SessionError):
    code = "declined"
    what = "the other party declined; nothing is owed until an order is filled"


class NoSolver(SessionError):
    code = "no-solver"
    what = "no solver answered with terms and a price in time"
    remedy = "See each solver's reason; use a longer timeout or ask other solvers"


# --- collateral -----------------------------------------------------------------------------


class CollateralRefused(SessionError):
    """Collateral that a party does not accept."""

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
    what = "the notes are worth less than was announced or than the terms require"


class CollateralForeign(CollateralRefused):
    code = "collateral-foreign"
    what = "the opening does not give this commitment in this custody"


class CollateralWrongToken(CollateralRefused):
    code = "collateral-wrong-token"
    what = "the note is in another token than that of the terms"


class CollateralNotListed(CollateralRefused):
    code = "collateral-not-listed"
    what = "the openings do not match the notes that the signed frame lists"


class SettlementRefused(SessionError):
    code = "settlement-refused"
