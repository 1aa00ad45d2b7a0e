"""The Rust core: bytes, hashes, signatures, frames, transcripts and strict JSON.

``Buffer`` is anything with the buffer protocol. A ``bytes`` object is read in place; any other
buffer is copied first, but for those that a function says it borrows. Work on whole buffers lets
go of the interpreter's lock. Field elements,
digests, custody ids, roots and blindings are 32 bytes, big-endian; a buffer of another length
raises ``ValueError`` that names what it was for, and something that is no buffer ``TypeError``.
Nothing here waits, and nothing leaves an object half changed when it raises.

A borrowed buffer (``bytes``, ``memoryview``, ``mmap``, ``bytearray``, a numpy array of uint8) is
read where it is and held until the call returns: resizing or closing it meanwhile raises
``BufferError``. Nobody may write to it meanwhile: the verdict would be on bytes that never were
there together, or an exception. Only one that is not contiguous is copied.

``threads`` is how many may work, the calling one included; 0 means one for each core.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, Literal, Self, final

from typing_extensions import Buffer

__all__ = [
    "FIELD_MODULUS",
    "CoreError",
    "FieldError",
    "Frame",
    "FrameError",
    "Head",
    "JsonError",
    "LeanIMT",
    "MerkleProof",
    "Schema",
    "SecretKey",
    "SignatureError",
    "Transcript",
    "TranscriptError",
    "TranscriptStart",
    "TranscriptSummary",
    "address_of",
    "dev_crs",
    "domain_separator",
    "format_decimal",
    "keccak256",
    "locate_frame",
    "parse_decimal",
    "poseidon2_hash",
    "poseidon2_hash_many",
    "poseidon2_permutation",
    "recover",
    "recover_batch",
    "sign_frame",
    "split_frames",
    "survey_frames",
    "verify",
    "verify_batch",
    "verify_frames",
    "verify_transcript",
]

FIELD_MODULUS: Final[int]
"""The modulus of BN254's scalar field."""

class CoreError(ValueError):
    """Input that the core refuses.

    From the tree: ``zero-leaf``, ``known-leaf``, ``tree-full``.
    """

    code: str
    """The name by which programs tell errors apart, such as ``bad-version``."""

class FrameError(CoreError):
    """Bytes that are not a frame, or a frame that is not its signer's.

    Codes: ``truncated``, ``bad-version``, ``bad-lane``, ``bad-seq``, ``payload-too-long``,
    ``bad-r``, ``bad-s``, ``high-s``, ``bad-v``, ``no-key`` (r is no point's x; only when
    signing), ``bad-r-y``, ``bad-signature``.
    """

    offset: int
    """The byte at which it goes wrong, from the start of what was given."""

class JsonError(CoreError):
    """A payload that the schema refuses, a message that it cannot encode, or a bad schema.

    Codes: ``not-utf8``, ``not-json``, ``not-object``, ``msgtype-not-first``,
    ``unknown-message``, ``duplicate-key``, ``unknown-field``, ``missing-field``,
    ``not-a-string``, ``not-a-list``, ``empty-value``, ``too-long``, ``bad-decimal``,
    ``bad-integer``, ``bad-enum``, ``bad-hex``, ``bad-bool``, ``bad-count``,
    ``lone-surrogate``, ``trailing-bytes``; encoding only: ``wrong-type``; schemas only:
    ``bad-schema``, ``too-deep``. Messages name fields and limits, never values.
    """

    offset: int
    """The byte of the payload or definition; when encoding, the byte that would have come
    next, or 0 if nothing was written yet."""
    field: str
    """The field or message that it is about, as the input wrote it; empty if none."""

class TranscriptError(CoreError):
    """A frame that does not follow from the transcript, or a key that cannot rule.

    Codes, in the order of the checks: ``wrong-custody``, ``duplicate`` (the frame is here
    already), ``bad-seq`` (not the next in its lane), ``no-key``, ``bad-signature``,
    ``equivocation`` (another frame, as validly signed, is at its place), ``bad-previous``,
    ``time-backwards``, ``bad-peer-seq`` (it went back), ``ahead`` (it covers a frame that is
    not here yet), ``bad-peer-digest``. From ``equivocation`` on the signature was right, so
    the fault is the signer's, proven; only ``ahead`` may heal when the missing frame comes.
    Of keys and lanes: ``bad-lane``, ``key-too-late``, ``key-repeated``.
    """

    index: int
    """How many frames came before."""
    offset: int
    """How many bytes of frames came before."""
    lane: int
    """The frame's lane."""
    seq: int
    """The frame's seq."""

class SignatureError(CoreError):
    """A key or signature out of form, or one that no key can have made.

    Codes: ``bad-r``, ``bad-s``, ``high-s``, ``bad-v``, ``no-key``, ``bad-public-key``,
    ``bad-secret-key``, ``no-randomness``.
    """

class FieldError(CoreError):
    """A number at or above ``FIELD_MODULUS``. Code: ``not-in-field``."""

    index: int
    """Which of the elements it is, from 0, where several were given."""

def keccak256(data: Buffer) -> bytes:
    """The Keccak-256 digest, 32 bytes, with Ethereum's padding."""

def domain_separator(chain_id: int, contract: Buffer) -> bytes:
    """The EIP-712 domain separator of name "pSymm", version "1".

    ``chain_id`` is below 2^64, else ``OverflowError``; ``contract`` is the 20 bytes of the
    PSymm contract's address.
    """

def poseidon2_permutation(state: Sequence[Buffer]) -> list[bytes]:
    """The Poseidon2 permutation of four field elements.

    Raises ``FieldError``; ``ValueError`` if there are not four.
    """

def poseidon2_hash(inputs: Sequence[Buffer]) -> bytes:
    """``H_n`` of the design, n being how many inputs there are; n = 0 has a hash too.

    Equals Barretenberg's ``poseidon2Hash``. Raises ``FieldError``.
    """

def poseidon2_hash_many(arity: int, data: Buffer) -> bytes:
    """Many ``H_arity`` at once: ``arity`` inputs of 32 bytes for each hash, back to back in
    ``data``; the hashes, 32 bytes each, back to back in their order.

    About eight times as fast as one by one where the processor has AVX-512 IFMA. Raises
    ``FieldError`` for the first input that is none; ``ValueError`` if ``arity`` is 0 or
    ``data`` is no whole number of hashes.
    """

def dev_crs(points: int) -> tuple[bytes, bytes]:
    """The development reference string, as (``bn254_g1.dat``, ``bn254_g2.dat``).

    INSECURE by design: its secret is published, so anyone can forge proofs under it. The
    first file has 64 bytes a point, the generator first; the second is [τ]₂, 128 bytes.
    About 9 µs a point on one core. Raises ``ValueError`` for more than 2^28 points.
    """

@final
class MerkleProof:
    """The way from a leaf to the root of a LeanIMT. Immutable."""

    def __new__(
        cls,
        leaf: Buffer,
        index: int,
        siblings: Sequence[Buffer],
        root: Buffer,
        leaf_index: int,
    ) -> Self:
        """A proof from its parts, unchecked. Raises ``FieldError``."""
    @property
    def leaf(self) -> bytes: ...
    @property
    def leaf_index(self) -> int:
        """Where the leaf is among the leaves. ``verify`` does not look at it."""
    @property
    def index(self) -> int:
        """Bit i says whether, at the i-th sibling, our node is the right child."""
    @property
    def siblings(self) -> list[bytes]:
        """The siblings that exist, from the leaf up; at most ``depth`` of them, since a node
        without a right sibling passes up unchanged."""
    @property
    def root(self) -> bytes: ...
    def verify(self) -> bool:
        """Whether the way leads from the leaf to the root."""
    def __eq__(self, other: object, /) -> bool: ...

@final
class LeanIMT:
    """The tree of commitments, every node kept in memory: 64 bytes a leaf for the nodes and 47
    to 94 to find leaves; 2^20 leaves take 150 MB.

    A leaf is never zero (``CoreError`` ``zero-leaf``) and never there twice (``known-leaf``).
    """

    def __new__(cls, leaves: Iterable[Buffer] | Buffer | None = None, *, threads: int = 1) -> Self:
        """A tree of these leaves; takes and raises as ``insert_many``."""
    def insert(self, leaf: Buffer) -> int:
        """Appends a leaf and gives its index. Raises ``CoreError`` or ``FieldError`` and
        leaves the tree unchanged."""
    def insert_many(self, leaves: Iterable[Buffer] | Buffer, *, threads: int = 1) -> None:
        """Appends leaves, all or, if it raises, none; each new node is hashed once.

        ``leaves``: buffers of 32 bytes each, or one buffer that has them back to back, which
        is quicker. ``threads``: among how many a level of 4096 new nodes or more is shared.
        Raises ``CoreError`` or ``FieldError``; ``ValueError`` for a wrong length."""
    def truncate(self, size: int) -> None:
        """Drops every leaf from index ``size`` on, as a reorganised chain does."""
    @property
    def root(self) -> bytes:
        """The root; 32 zero bytes for an empty tree."""
    @property
    def depth(self) -> int:
        """How many levels are above the leaves."""
    def __len__(self) -> int: ...
    def leaf(self, index: int) -> bytes:
        """Raises ``IndexError``."""
    def index_of(self, leaf: Buffer) -> int | None: ...
    def proof(self, index: int) -> MerkleProof:
        """The way from leaf ``index`` to the present root. Raises ``IndexError``."""

@final
class SecretKey:
    """A secp256k1 secret key. Shows only its address, is wiped when freed, and can be neither
    pickled nor copied."""

    @staticmethod
    def generate() -> SecretKey:
        """A key from the operating system's randomness. ``SignatureError`` if there is none."""
    @staticmethod
    def from_bytes(secret: Buffer) -> SecretKey:
        """The key of a 32-byte big-endian number. ``SignatureError`` ``bad-secret-key`` unless
        it is between 1 and the group's order less 1. The caller's bytes are the caller's to
        forget."""
    @property
    def public_key(self) -> bytes:
        """x ‖ y, 64 bytes."""
    @property
    def address(self) -> str:
        """The Ethereum address, checksummed (EIP-55)."""
    def sign(self, digest: Buffer) -> bytes:
        """r ‖ s ‖ v, 65 bytes; deterministic (RFC 6979), low s, v 27 or 28."""
    def expose_secret_bytes(self) -> bytes:
        """The secret, for a keystore. Python cannot wipe what this returns."""

def recover(digest: Buffer, signature: Buffer) -> bytes:
    """The public key (64 bytes) that made a signature (65 bytes) of a digest.

    Ethereum's rules with low s only. Raises ``SignatureError``.
    """

def verify(digest: Buffer, signature: Buffer, public_key: Buffer) -> bool:
    """Whether ``recover`` gives exactly this key. Out of form is False; a wrong length raises."""

def verify_batch(
    keys: Buffer,
    digests: Buffer,
    signatures: Buffer,
    key_indices: Buffer | Sequence[int] | None = None,
    r_ys: Buffer | None = None,
    *,
    threads: int = 1,
) -> list[tuple[int, str]]:
    """Which of many signatures do not hold: (index, code) in rising order, empty if all hold.

    All buffers are borrowed, records one after the other: ``keys`` of 64 bytes, ``digests`` of
    32, ``signatures`` of 65, ``r_ys`` (the y of each signature's point R, as frames carry it;
    without it each costs a square root more) of 32. ``key_indices`` says which key each is of:
    a sequence, or a buffer of native integers of 32 or 64 bits. Without it one key is that of
    all, and as many keys as digests are each its own's. Decides exactly as ``verify`` one by
    one. Codes: ``no-such-key``, ``bad-public-key``, ``bad-r``, ``bad-s``, ``high-s``, ``bad-v``,
    ``no-key``, ``bad-r-y``, ``bad-signature``. Raises ``ValueError`` where lengths do not fit.
    """

def recover_batch(digests: Buffer, signatures: Buffer, *, threads: int = 1) -> list[bytes | str]:
    """What ``recover`` gives for each: the public key (64 bytes), or as ``str`` the code of the
    error that it would raise. Both buffers are borrowed, records of 32 and of 65 bytes one
    after the other. Raises ``ValueError`` where lengths do not fit."""

def address_of(public_key: Buffer) -> str:
    """The checksummed address of a public key (64 bytes). ``SignatureError``
    ``bad-public-key`` if it is not a point of the curve."""

@final
class Frame:
    """One well-formed signed message. Immutable; equal and hashed by its bytes.

    That an object exists means: version 1, a lane, a seq from 1, a payload in bounds, r, s, v
    in form with low s, and R.y exactly what r and v give. Whether the signature is somebody's
    is for ``verify`` and ``Transcript``. Where ``verify``, ``verify_frames`` or ``sign_frame``
    found or made it somebody's, the object remembers the domain and the key, and a ``Transcript``
    of that domain in which that very key is in force need not verify it again.
    """

    @staticmethod
    def parse(data: Buffer, offset: int = 0) -> Frame:
        """The one frame that starts at ``offset``; the next, if any, starts ``length`` bytes
        on. Borrows ``data``. Raises ``FrameError``."""
    @property
    def custody(self) -> bytes: ...
    @property
    def lane(self) -> int:
        """0 trader, 1 solver."""
    @property
    def seq(self) -> int: ...
    @property
    def previous(self) -> bytes: ...
    @property
    def peer_seq(self) -> int: ...
    @property
    def peer_digest(self) -> bytes: ...
    @property
    def sending_time(self) -> int:
        """Nanoseconds since the epoch."""
    @property
    def payload(self) -> bytes: ...
    @property
    def signature(self) -> bytes:
        """r ‖ s ‖ v, 65 bytes."""
    @property
    def r_y(self) -> bytes: ...
    @property
    def raw(self) -> bytes:
        """The whole frame, as it is on the wire."""
    @property
    def length(self) -> int:
        """The bytes of ``raw``."""
    def digest(self, domain: Buffer) -> bytes:
        """The EIP-712 digest that the signature is over."""
    def verify(self, domain: Buffer, public_key: Buffer) -> None:
        """Raises ``FrameError`` ``bad-signature`` unless the key signed it; ``SignatureError``
        ``bad-public-key`` if the key is none."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    def __bytes__(self) -> bytes: ...

def split_frames(data: Buffer) -> list[Frame]:
    """The frames that ``data`` holds back to back; none if it is empty. Borrows ``data``. Raises
    ``FrameError`` with the offset from the start of ``data``."""

def sign_frame(
    key: SecretKey,
    domain: Buffer,
    custody: Buffer,
    lane: int,
    seq: int,
    previous: Buffer,
    peer_seq: int,
    peer_digest: Buffer,
    sending_time: int,
    payload: Buffer,
) -> Frame:
    """A signed frame. Deterministic: the same arguments give the same bytes.

    Raises ``FrameError`` (``bad-lane``, ``bad-seq``, ``payload-too-long``), and
    ``OverflowError`` for a number that its field cannot hold.
    """

@final
class Head:
    """The last frame of a lane. Of an empty lane: seq 0, the custody id, time 0, peer_seq 0."""

    @property
    def seq(self) -> int: ...
    @property
    def digest(self) -> bytes: ...
    @property
    def sending_time(self) -> int:
        """Nanoseconds since the epoch."""
    @property
    def peer_seq(self) -> int: ...
    def __eq__(self, other: object, /) -> bool: ...

@final
class TranscriptStart:
    """Where a transcript starts that does not start with the first frame: at a checkpoint.

    ``trader`` and ``solver`` are frames of each lane in a row, the last one its head, as far back
    as the other lane's head does not cover. Their links and signatures are the caller's to check.
    ``keys`` are those in force at the heads, (lane, from seq, public key). Raises
    ``TranscriptError`` ``bad-start`` where heads and frames do not fit each other, ValueError for
    a lane without a frame, ``SignatureError`` ``bad-public-key``.
    """

    def __new__(
        cls,
        domain: Buffer,
        trader: Sequence[Frame],
        solver: Sequence[Frame],
        keys: Sequence[tuple[int, int, Buffer]],
    ) -> Self: ...
    @property
    def heads(self) -> tuple[Head, Head]:
        """The trader's and the solver's."""

@final
class Transcript:
    """The heads, digests and keys of a custody: what is needed to judge the next frame.

    It keeps 32 bytes a frame, not the frames themselves; those are the journal's.
    """

    def __new__(cls, domain: Buffer, custody: Buffer, start: TranscriptStart | None = None) -> Self:
        """Before the first frame, or at ``start``: then no frame before that one's is known."""
    def set_key(self, lane: int, from_seq: int, public_key: Buffer) -> None:
        """Lets a session key rule ``lane`` from ``from_seq`` on. A key set before for this or
        a later seq is forgotten. Raises ``TranscriptError`` ``key-too-late`` if ``from_seq``
        is not beyond the lane's head, ``bad-lane``; ``SignatureError`` ``bad-public-key``."""
    def forget_keys(self, lane: int, from_seq: int) -> None:
        """Takes back keys that were set for this or a later frame, which was then refused. Raises
        like ``set_key``."""
    def check(self, frame: Frame) -> bytes:
        """The frame's digest, if ``append`` would take it. Raises ``TranscriptError``."""
    def append(self, frame: Frame) -> bytes:
        """Appends a frame and gives its digest. Raises ``TranscriptError`` and is unchanged."""
    def head(self, lane: int) -> Head:
        """Raises ``TranscriptError`` ``bad-lane``."""
    def digest(self, lane: int, seq: int) -> bytes:
        """The digest of a frame that is here; of seq 0, the custody id. Raises ``IndexError``
        beyond the head and before the start, ``TranscriptError`` ``bad-lane``."""
    def __len__(self) -> int:
        """How many frames there are, of both lanes."""

@final
class TranscriptSummary:
    """The result of verifying a whole transcript."""

    @property
    def frames(self) -> int:
        """How many frames there are, of both lanes."""
    @property
    def heads(self) -> tuple[Head, Head]:
        """The trader's and the solver's."""

def verify_transcript(
    data: Buffer,
    domain: Buffer,
    custody: Buffer,
    keys: Sequence[tuple[int, int, Buffer]],
    *,
    start: TranscriptStart | None = None,
    threads: int = 1,
    progress: Callable[[int, int], object] | None = None,
) -> TranscriptSummary:
    """Verifies frames back to back in order of arrival, that is, any order in which each comes
    after the one before it in its lane and the one that it covers.

    ``keys`` are (lane, from seq, public key), in any order; those in force at ``start`` are the
    start's own. Raises ``FrameError`` or
    ``TranscriptError`` for the first frame that is wrong; all before it were right. The verdict
    is that of ``Frame.parse`` and ``Transcript.append`` one by one. Borrows ``data``; beside it
    the work needs 32 bytes a frame and some tens of megabytes.

    ``progress`` is called in the calling thread with the frames and bytes that are through, at
    most a few times a second and at the end. What it raises stops the work and is raised; so
    does a signal's handler, such as ``KeyboardInterrupt`` in the main thread.
    """

def verify_frames(
    frames: Sequence[tuple[Buffer, Buffer, Frame | Buffer]], *, threads: int = 1
) -> list[bytes | FrameError]:
    """Verifies frames of any custodies in one batch, each as ``Frame.parse`` and ``Frame.verify``
    alone would: its digest, or the error that they would raise.

    Each is (domain, public key, frame). A frame may be bytes that begin with one; bytes after
    it are not looked at. Borrows the frames. Raises ``SignatureError`` ``bad-public-key``.
    """

def survey_frames(
    data: Buffer,
    offset: int,
    msg_types: Sequence[Buffer],
    reach: tuple[tuple[int, int, int] | None, tuple[int, int, int] | None],
) -> tuple[int, int, Literal["message", "beyond", "end"], list[int]]:
    """Passes over frames from ``offset`` on until one must be looked at: how many it passed, its
    offset, why it stopped, and the seq of the last frame of each lane that it passed, 0 for none.

    ``message``: the payload of the frame at that place may be of one of ``msg_types``; only a
    parser can tell where a payload is not compact JSON. ``beyond``: the frame is not within its
    lane's ``reach``, (fromSeq, toSeq, expiry). ``end``: no bytes are left. Verifies nothing but
    the frames' form, and of that not R.y. Borrows ``data``. Raises ``FrameError``.
    """

def locate_frame(data: Buffer, offset: int, byte: int) -> tuple[int, int]:
    """The frame that holds a byte: how many frames are before it from ``offset`` on, and where it
    starts. Where bytes before are no frame, the place of the first of these. Borrows ``data``."""

@final
class Schema:
    """A vocabulary of messages, given as data.

    The definition is JSON: ``{"messages": {"D": {"name": "NewOrderSingle", "fields": […]}}}``,
    a field being ``{"name", "type", "required"?}`` and what its type takes:

    ========  =============================  ==========================================
    type      takes (default)                value in Python
    ========  =============================  ==========================================
    str       max bytes (256)                str, not empty
    enum      values                         str
    int                                      int, 0 ≤ i < 2^64
    uint                                     int, 0 ≤ i < 2^128
    decimal                                  int scaled by 10^18, |i| < 10^38
    udecimal                                 the same, i ≥ 0
    hex       length in bytes                bytes of exactly that length
    hexdata   max bytes (65536)              bytes, may be empty
    bool                                     bool, on the wire "Y" or "N"
    group     fields, min (1), max (64)      list of dicts
    ========  =============================  ==========================================

    Groups nest at most 8 deep, the message being 1. A key that a type does not take is
    refused. Immutable; may be used from several threads at once.
    """

    def __new__(cls, definition: Buffer) -> Self:
        """Raises ``JsonError``."""
    def parse(self, payload: Buffer) -> dict[str, object]:
        """What a payload means: ``MsgType`` first, then typed values in the schema's order;
        absent fields are absent. Raises ``JsonError``."""
    def encode(self, message: Mapping[str, object]) -> bytes:
        """The canonical payload: ``MsgType``, then the schema's order, no white space, the
        shortest form of everything. Raises ``JsonError`` where ``parse`` would refuse the
        result; a value of None is refused, leave the key out."""

def parse_decimal(text: str) -> int:
    """A decimal in its shortest form, scaled by 10^18: at most 20 digits before the point and
    18 after it. Raises ``JsonError`` ``bad-decimal``."""

def format_decimal(value: int) -> str:
    """The shortest form of a decimal scaled by 10^18. Raises ``JsonError`` ``bad-decimal`` if
    it has more than 20 digits before the point."""
