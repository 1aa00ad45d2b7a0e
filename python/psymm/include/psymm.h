/*
 * The C face of pSymm's core: hashes, signatures, frames and transcripts, many at a time.
 *
 * This header is the specification; what it does not say is not promised.
 *
 * The library. The same functions are exported by the Python package's extension module
 * (which needs a Python process around it) and by a plain shared library, libpsymm, which
 * needs nothing but the C library.
 *
 * Memory. Nothing is handed out that the caller would have to free: every result goes into
 * memory of the caller's. Nothing is kept either: when a function has returned, no pointer
 * that it was given is used again. Inputs are only read. While a call runs, its inputs must
 * not be written to by anybody, and a file that is mapped as an input must not be cut short.
 * An output may not overlap any other argument. For itself the library keeps some constants,
 * until the process ends, and a small handle of each thread that called it, until that thread
 * ends (of the main thread: the process).
 *
 * Pointers. A pointer may be NULL where its count or length is zero, or where its description
 * says so; else NULL is PSYMM_ERROR_POINTER, and so is a pointer to a structure, or to
 * numbers, that is not aligned for them. A count whose bytes no object can have is
 * PSYMM_ERROR_OVERFLOW. In both cases nothing was judged. That a pointer points to as much
 * memory as its count says is the caller's promise; no library can check it.
 *
 * Threads. Every function may be called from any number of threads at once. Where a function
 * takes `threads`, it is how many it may work with, the calling one included; 0 means one for
 * each core; the result never depends on it. Threads that it starts end before it returns.
 *
 * Secrets. There are none here: everything is about public data and takes variable time.
 *
 * Faults of the library itself. A panic inside becomes PSYMM_ERROR_INTERNAL and crosses no
 * boundary. When memory runs out, the process is aborted.
 *
 * Formats. Digests, domains and custody ids are 32 bytes. A public key is x || y, 64 bytes,
 * big-endian. A signature is r || s || v, 65 bytes, with 0 < r < n, 0 < s <= n/2 and v 27 or
 * 28. It holds for a digest and a key exactly if Ethereum's ecrecover(digest, v, r, s) gives
 * that key. Verdicts are the same on every processor, for any batch and any `threads`.
 *
 * Arrays named `... n*32` are n items of 32 bytes back to back.
 */
#ifndef PSYMM_H
#define PSYMM_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * The version of this header: 65536 * major + minor. Within a major version nothing that is
 * here changes its meaning, its number or its layout; what is new raises the minor version.
 * Codes may be new in a minor version, so treat an unknown one as a refusal.
 */
#define PSYMM_ABI_VERSION 65536

/* The bytes of a frame before its payload, beside it in all, and the most that it may have. */
#define PSYMM_FRAME_HEADER 126
#define PSYMM_FRAME_OVERHEAD 223
#define PSYMM_FRAME_MAX_PAYLOAD 65536

/*
 * What functions return, and why something is refused. Only PSYMM_OK says that all is right.
 * psymm_error_name and psymm_error_message say each in words.
 */
enum psymm_code {
    PSYMM_OK = 0,
    PSYMM_REFUSED = 1, /* All was judged, and something is refused: see the output. */

    /* Of the call: nothing was judged. */
    PSYMM_ERROR_POINTER = 10,  /* A pointer is NULL or misaligned that may not be. */
    PSYMM_ERROR_OVERFLOW = 11, /* A count is more than memory can hold. */
    PSYMM_ERROR_CAPACITY = 12, /* The room for the output is too small. */
    PSYMM_ERROR_RESERVED = 13, /* A reserved field is not zero. */
    PSYMM_ERROR_INTERNAL = 14, /* A fault of the library: please report it. */

    /* Of a signature or a public key. */
    PSYMM_BAD_R = 100,          /* r is zero or not below the group's order. */
    PSYMM_BAD_S = 101,          /* s is zero or not below the group's order. */
    PSYMM_HIGH_S = 102,         /* s is in the upper half. */
    PSYMM_BAD_V = 103,          /* v is neither 27 nor 28. */
    PSYMM_NO_KEY = 104,         /* No key can have made it. */
    PSYMM_BAD_PUBLIC_KEY = 105, /* A public key is not a point of the curve. */
    PSYMM_BAD_R_Y = 106,        /* The stated R.y is not the one that r and v give. */
    PSYMM_BAD_SIGNATURE = 107,  /* In form, and not this key's. */
    PSYMM_NO_SUCH_KEY = 108,    /* It names a key that the batch does not have. */

    /* Of the form of a frame, beside the signature's. */
    PSYMM_FRAME_TRUNCATED = 200,        /* The bytes end before the frame does. */
    PSYMM_FRAME_BAD_VERSION = 201,      /* The version is not 1. */
    PSYMM_FRAME_BAD_LANE = 202,         /* The lane is neither 0 nor 1. */
    PSYMM_FRAME_BAD_SEQ = 203,          /* The seq is zero. */
    PSYMM_FRAME_PAYLOAD_TOO_LONG = 204, /* More than PSYMM_FRAME_MAX_PAYLOAD. */

    /* Of a frame's place in its transcript. From EQUIVOCATION on the signature was right, so
       the fault is its signer's, proven; only AHEAD may heal when the missing frame comes. */
    PSYMM_WRONG_CUSTODY = 300,   /* The frame is of another custody. */
    PSYMM_DUPLICATE = 301,       /* The very frame came before. */
    PSYMM_SEQ_NOT_NEXT = 302,    /* Its place is not the next in its lane. */
    PSYMM_NO_KEY_IN_FORCE = 303, /* No key was given for its place. */
    PSYMM_EQUIVOCATION = 304,    /* Another frame, as validly signed, is at its place. */
    PSYMM_BAD_PREVIOUS = 305,    /* previous is not the lane's last digest. */
    PSYMM_TIME_BACKWARDS = 306,  /* sendingTime is earlier than the lane's last. */
    PSYMM_BAD_PEER_SEQ = 307,    /* peerSeq went back. */
    PSYMM_AHEAD = 308,           /* It covers a frame that did not come before it. */
    PSYMM_BAD_PEER_DIGEST = 309, /* peerDigest is not that of the frame it covers. */

    /* Of the keys given for a transcript: nothing was judged. */
    PSYMM_KEY_BAD_LANE = 400, /* The lane is neither 0 nor 1. */
    PSYMM_KEY_REPEATED = 401, /* Two keys are given for one place. */
    PSYMM_KEY_TOO_LATE = 402  /* The key would rule from seq 0; a lane begins with 1. */
};

/* A refused item of a batch. 16 bytes. */
typedef struct psymm_refusal {
    uint64_t index;    /* Its place in the batch. */
    int32_t code;      /* Why: an enum psymm_code. */
    uint32_t reserved; /* 0. */
} psymm_refusal;

/* A frame's fields; its payload stays where it is. 240 bytes. */
typedef struct psymm_frame {
    uint64_t length;         /* The bytes of the whole frame. */
    uint64_t seq;            /* Its place in its lane, from 1. */
    uint64_t peer_seq;       /* The last frame of the other lane that it covers, or 0. */
    uint64_t sending_time;   /* Nanoseconds since the epoch. */
    uint32_t lane;           /* 0 trader, 1 solver. */
    uint32_t payload_length; /* The payload's bytes, from byte PSYMM_FRAME_HEADER on. */
    uint8_t custody[32];
    uint8_t previous[32];
    uint8_t peer_digest[32];
    uint8_t r_y[32];
    uint8_t signature[65];
    uint8_t reserved[7]; /* 0. */
} psymm_frame;

/* What is wrong with a frame or a key, and where. 40 bytes. */
typedef struct psymm_fault {
    int32_t code;          /* An enum psymm_code. */
    uint32_t lane;         /* As the frame or key says; 0 if the frame ends before it. */
    uint64_t index;        /* How many frames came before it; of a key, its place. */
    uint64_t frame_offset; /* How many bytes these frames take: where it begins. */
    uint64_t offset;       /* The byte at which it goes wrong, counted as frame_offset is: of
                              a malformed frame the very field, else where the frame begins. */
    uint64_t seq;          /* As the frame says, of a key from_seq; 0 as for lane. */
} psymm_fault;

/* A key, and where it rules: from from_seq on, until the lane's next key. 80 bytes. */
typedef struct psymm_lane_key {
    uint64_t from_seq; /* From 1. */
    uint32_t lane;     /* 0 trader, 1 solver. */
    uint32_t reserved; /* 0. */
    uint8_t public_key[64];
} psymm_lane_key;

/* The last frame of a lane. Of an empty lane: the custody's id, and zeros. 56 bytes. */
typedef struct psymm_head {
    uint64_t seq;
    uint64_t sending_time; /* Nanoseconds since the epoch. */
    uint64_t peer_seq;
    uint8_t digest[32];
} psymm_head;

/* What a whole transcript came to. 120 bytes. */
typedef struct psymm_summary {
    uint64_t frames;     /* How many there are, of both lanes. */
    psymm_head heads[2]; /* Of the trader's lane and the solver's. */
} psymm_summary;

/*
 * The PSYMM_ABI_VERSION of the library. A program that was compiled against this header works
 * with it if the major version is the same and the minor version at least as high.
 *
 * Returns: 65536 * major + minor.
 */
uint32_t psymm_abi_version(void);

/*
 * The instructions that the library computes with: "portable", "avx2" or "avx512". It takes
 * the best that the processor has; the environment variable PSYMM_BACKEND, read once, may
 * tell it to do with less.
 *
 * Returns: a string that lives as long as the library is loaded. Never NULL.
 */
const char *psymm_backend(void);

/*
 * The name of a code, such as "bad-version": stable, for programs and logs. A few codes share
 * one, as the errors of the Python package do.
 *
 * Returns: a string that lives as long as the library is loaded; "unknown" for a number that
 *          is no code. Never NULL.
 * Args:    code: an enum psymm_code.
 */
const char *psymm_error_name(int32_t code);

/*
 * What a code means and what to do about it, for people: one sentence of ASCII.
 *
 * Returns: the length of the whole text, without the NUL at its end; if it is not below
 *          capacity, the text was cut.
 * Args:    code:     an enum psymm_code; other numbers have a text too.
 *          capacity: the bytes that text has room for.
 * Out:     text:     as much as fits, ended by a NUL; nothing if it is NULL or capacity is 0.
 */
size_t psymm_error_message(int32_t code, char *text, size_t capacity);

/*
 * The Keccak-256 digests (Ethereum's padding) of many messages.
 *
 * Returns: PSYMM_OK, or an error of the call.
 * Args:    count:    how many messages there are; may be 0.
 * In:      messages: count pointers, each to a message; NULL for an empty one is allowed.
 *          lengths:  count lengths, in bytes.
 * Out:     digests:  count*32, in the messages' order. Written only if PSYMM_OK.
 */
int32_t psymm_keccak256_many(const uint8_t *const *messages, const size_t *lengths,
                             size_t count, uint8_t *digests);

/*
 * Takes apart the one frame that begins at `bytes`; more bytes may follow it. Checked is
 * everything that needs neither domain nor key: lengths, version, lane, seq, the form of r, s
 * and v, and that R.y is exactly what r and v give. The signature is not verified.
 *
 * Returns: PSYMM_OK; or why it is no frame (100 to 299); or an error of the call.
 * Args:    length: how many bytes there are.
 * In:      bytes:  length bytes.
 * Out:     frame:  its fields. Written only if PSYMM_OK.
 *          fault:  may be NULL. What was returned, and the place of the fault.
 */
int32_t psymm_frame_parse(const uint8_t *bytes, size_t length, psymm_frame *frame,
                          psymm_fault *fault);

/*
 * The EIP-712 digests of frames back to back: what their signatures are over. The frames are
 * parsed as psymm_frame_parse does; no signature is verified.
 *
 * Returns: PSYMM_OK; or why something is no frame (100 to 299); PSYMM_ERROR_CAPACITY if there
 *          are more than capacity frames; or another error of the call.
 * Args:    length:   how many bytes the frames take; may be 0.
 *          capacity: how many digests there is room for. length / PSYMM_FRAME_OVERHEAD is
 *                    always enough.
 * In:      bytes:    length bytes.
 *          domain:   32 bytes, the EIP-712 domain separator.
 * Out:     digests:  32 bytes a frame, in their order. Written only if PSYMM_OK.
 *          count:    how many frames there are, if PSYMM_OK or PSYMM_ERROR_CAPACITY is
 *                    returned; else 0.
 *          fault:    may be NULL. What was returned, and the place of the fault.
 */
int32_t psymm_frame_digest_many(const uint8_t *bytes, size_t length, const uint8_t *domain,
                                uint8_t *digests, size_t capacity, size_t *count,
                                psymm_fault *fault);

/*
 * Which of many signatures do not hold.
 *
 * Returns: PSYMM_OK only if every signature holds (so, too, for none); PSYMM_REFUSED if all
 *          were judged and some do not; PSYMM_BAD_PUBLIC_KEY if a key is no point of the
 *          curve, nothing judged; or an error of the call.
 * Args:    key_count:   how many keys there are.
 *          count:       how many signatures there are; may be 0.
 *          capacity:    how many refusals there is room for; may be 0.
 *          threads:     as above.
 * In:      keys:        key_count*64.
 *          digests:     count*32, what each signature is over.
 *          signatures:  count*65.
 *          key_indices: count numbers, each the place of the signature's key among the keys;
 *                       NULL if all are of key 0. A place that is none refuses that signature
 *                       (PSYMM_NO_SUCH_KEY).
 *          r_ys:        count*32, the y of each signature's point R where it is known, which
 *                       saves a square root each; NULL if not. A y that is not exactly what r
 *                       and v give refuses that signature (PSYMM_BAD_R_Y).
 * Out:     refusals:    the first capacity refusals, in the signatures' order: PSYMM_BAD_R,
 *                       _BAD_S, _HIGH_S, _BAD_V, _NO_KEY, _BAD_R_Y, _BAD_SIGNATURE or
 *                       _NO_SUCH_KEY. May be NULL if capacity is 0.
 *          refused:     how many there are in all, which may be more than capacity; 0 unless
 *                       PSYMM_REFUSED is returned.
 */
int32_t psymm_verify_batch(const uint8_t *keys, size_t key_count, const uint8_t *digests,
                           const uint8_t *signatures, const uint32_t *key_indices,
                           const uint8_t *r_ys, size_t count, uint32_t threads,
                           psymm_refusal *refusals, size_t capacity, size_t *refused);

/*
 * The keys and addresses that made many signatures: ecrecover for each, with low s only.
 *
 * Returns: PSYMM_OK if each gave a key; PSYMM_REFUSED if some did not; or an error of the
 *          call.
 * Args:    count:      how many signatures there are; may be 0.
 *          threads:    as above.
 * In:      digests:    count*32.
 *          signatures: count*65.
 * Out:     keys:       may be NULL. count*64; zeros where a signature gave none.
 *          addresses:  may be NULL. count*20, Ethereum addresses; zeros likewise.
 *          codes:      may be NULL. count codes: PSYMM_OK, or why there is no key (_BAD_R,
 *                      _BAD_S, _HIGH_S, _BAD_V, _NO_KEY).
 *          All written only if PSYMM_OK or PSYMM_REFUSED is returned.
 */
int32_t psymm_recover_batch(const uint8_t *digests, const uint8_t *signatures, size_t count,
                            uint32_t threads, uint8_t *keys, uint8_t *addresses,
                            int32_t *codes);

/*
 * Verifies frames of many custodies as they came, in one batch: several buffers, each with
 * frames back to back of one domain and one key. Checked are form and signature of each frame;
 * what a frame follows from is not (see psymm_verify_transcript). The buffers do not
 * influence each other's verdicts.
 *
 * Returns: PSYMM_OK only if every frame of every buffer holds; PSYMM_REFUSED if all were
 *          judged and some do not; PSYMM_ERROR_CAPACITY if digests is too small, nothing
 *          judged; or another error of the call.
 * Args:    count:    how many buffers there are; may be 0.
 *          capacity: how many digests there is room for. The buffers' lengths, each divided by
 *                    PSYMM_FRAME_OVERHEAD, summed, are always enough.
 *          threads:  as above.
 * In:      buffers:  count pointers.
 *          lengths:  count lengths, in bytes; an empty buffer holds no frames and is right.
 *          domains:  count*32, one domain separator a buffer.
 *          keys:     count*64, one key a buffer; one that is no point refuses its buffer
 *                    (PSYMM_BAD_PUBLIC_KEY).
 * Out:     digests:  may be NULL, capacity is then not looked at. The digests, 32 bytes each,
 *                    of the frames that hold up to each buffer's first fault, buffer after
 *                    buffer with no gaps.
 *          verdicts: count, one a buffer. code: PSYMM_OK if all its frames hold, else that of
 *                    the first that does not (100 to 299). index: how many frames hold before
 *                    that fault, or in all. The rest as for any fault, offsets counted from
 *                    the buffer's start; zero if all hold.
 *          Both written only if PSYMM_OK or PSYMM_REFUSED is returned.
 */
int32_t psymm_verify_frames(const uint8_t *const *buffers, const size_t *lengths,
                            const uint8_t *domains, const uint8_t *keys, size_t count,
                            uint32_t threads, uint8_t *digests, size_t capacity,
                            psymm_fault *verdicts);

/*
 * Verifies a whole transcript: the frames of one custody back to back, in any order in which
 * each comes after the one before it in its lane and the one that it covers. Each must be well
 * formed, of this custody, next in its lane, signed by the key in force there, chained to its
 * lane's last frame and to the frame of the other lane that it covers, and no earlier than its
 * lane's last.
 *
 * Returns: PSYMM_OK only if every frame is right (so, too, for none); else why the first that
 *          is not is refused (100 to 399), all before it being right; or what is wrong with
 *          the keys (400 to 499, PSYMM_BAD_PUBLIC_KEY); or an error of the call.
 * Args:    length:    how many bytes the frames take; may be 0.
 *          key_count: how many keys there are.
 *          threads:   as above.
 * In:      bytes:     length bytes.
 *          domain:    32 bytes, the EIP-712 domain separator.
 *          custody:   32 bytes, the custody's id.
 *          keys:      key_count keys, in any order.
 * Out:     summary:   how many frames there are, and both lanes' heads. Written only if
 *                     PSYMM_OK.
 *          fault:     may be NULL. What was returned, and the place of the fault.
 */
int32_t psymm_verify_transcript(const uint8_t *bytes, size_t length, const uint8_t *domain,
                                const uint8_t *custody, const psymm_lane_key *keys,
                                size_t key_count, uint32_t threads, psymm_summary *summary,
                                psymm_fault *fault);

#ifdef __cplusplus
}
#endif

#endif /* PSYMM_H */
