/*
 * The C face as a C program sees it: every function of psymm.h on the shared vectors, right
 * and wrong. Written in what C11 and C++ have in common; compiled as both.
 *
 * vectors.h is made of tests/vectors/frame.json by the test that compiles this.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "psymm.h"
#include "vectors.h"

static int failures = 0;

#define CHECK(condition)                                                                    \
    do {                                                                                    \
        if (!(condition)) {                                                                 \
            fprintf(stderr, "line %d: %s\n", __LINE__, #condition);                         \
            failures++;                                                                     \
        }                                                                                   \
    } while (0)

#define SIZED(type, bytes) typedef char size_of_##type[sizeof(type) == (bytes) ? 1 : -1]
#define PLACED(type, field, at)                                                             \
    typedef char place_of_##type##_##field[offsetof(type, field) == (at) ? 1 : -1]

SIZED(psymm_refusal, 16);
SIZED(psymm_frame, 240);
SIZED(psymm_fault, 40);
SIZED(psymm_lane_key, 80);
SIZED(psymm_head, 56);
SIZED(psymm_summary, 120);
PLACED(psymm_refusal, code, 8);
PLACED(psymm_frame, lane, 32);
PLACED(psymm_frame, custody, 40);
PLACED(psymm_frame, signature, 168);
PLACED(psymm_fault, index, 8);
PLACED(psymm_fault, seq, 32);
PLACED(psymm_lane_key, public_key, 16);
PLACED(psymm_head, digest, 24);
PLACED(psymm_summary, heads, 8);

/* A copy on the heap of exactly its length, so that memcheck sees a read beyond it. */
static uint8_t *copied(const void *bytes, size_t length) {
    uint8_t *copy = (uint8_t *)malloc(length > 0 ? length : 1);
    if (copy == NULL) {
        abort();
    }
    if (length > 0) {
        memcpy(copy, bytes, length);
    }
    return copy;
}

/* The keys of both lanes, back to back as verify_batch takes them. */
static void lane_keys(psymm_lane_key keys[2]) {
    uint32_t lane;
    memset(keys, 0, 2 * sizeof(psymm_lane_key));
    for (lane = 0; lane < 2; lane++) {
        keys[lane].lane = lane;
        keys[lane].from_seq = 1;
        memcpy(keys[lane].public_key, KEYS + 64 * lane, 64);
    }
}

static void the_library_says_what_it_is(void) {
    const char *backend = psymm_backend();
    CHECK(psymm_abi_version() == PSYMM_ABI_VERSION);
    CHECK(strcmp(backend, "portable") == 0 || strcmp(backend, "avx2") == 0 ||
          strcmp(backend, "avx512") == 0);
}

static void codes_have_names_and_texts(void) {
    char text[512];
    char small[8];
    size_t length = psymm_error_message(PSYMM_HIGH_S, text, sizeof text);
    CHECK(strcmp(psymm_error_name(PSYMM_OK), "ok") == 0);
    CHECK(strcmp(psymm_error_name(PSYMM_HIGH_S), "high-s") == 0);
    CHECK(strcmp(psymm_error_name(-5), "unknown") == 0);
    CHECK(length == strlen(text) && length > 0);
    memset(small, 'x', sizeof small);
    CHECK(psymm_error_message(PSYMM_HIGH_S, small, sizeof small) == length);
    CHECK(memcmp(small, text, 7) == 0 && small[7] == 0);
    memset(small, 'x', sizeof small);
    CHECK(psymm_error_message(PSYMM_HIGH_S, small, 1) == length);
    CHECK(small[0] == 0 && small[1] == 'x');
    CHECK(psymm_error_message(PSYMM_HIGH_S, small, 0) == length);
    CHECK(small[0] == 0);
    CHECK(psymm_error_message(PSYMM_HIGH_S, NULL, 0) == length);
    CHECK(psymm_error_message(PSYMM_HIGH_S, NULL, 100) == length);
    CHECK(psymm_error_message(123456, text, sizeof text) == strlen(text));
}

static void messages_are_hashed(void) {
    const uint8_t *messages[FRAMES];
    size_t lengths[FRAMES];
    uint8_t hashes[FRAMES * 32];
    const uint8_t *nothing = NULL;
    size_t none = 0;
    size_t i, offset = 0;
    for (i = 0; i < FRAMES; i++) {
        messages[i] = BYTES + offset + PSYMM_FRAME_HEADER;
        lengths[i] = LENGTHS[i] - PSYMM_FRAME_OVERHEAD;
        offset += LENGTHS[i];
    }
    CHECK(psymm_keccak256_many(messages, lengths, FRAMES, hashes) == PSYMM_OK);
    CHECK(memcmp(hashes, PAYLOAD_HASHES, sizeof hashes) == 0);
    CHECK(psymm_keccak256_many(&nothing, &none, 1, hashes) == PSYMM_OK);
    CHECK(memcmp(hashes, HASH_OF_NOTHING, 32) == 0);
    CHECK(psymm_keccak256_many(NULL, NULL, 0, NULL) == PSYMM_OK);
    CHECK(psymm_keccak256_many(NULL, lengths, 1, hashes) == PSYMM_ERROR_POINTER);
    CHECK(psymm_keccak256_many(messages, NULL, 1, hashes) == PSYMM_ERROR_POINTER);
    CHECK(psymm_keccak256_many(messages, lengths, 1, NULL) == PSYMM_ERROR_POINTER);
    CHECK(psymm_keccak256_many(&nothing, lengths, 1, hashes) == PSYMM_ERROR_POINTER);
    CHECK(psymm_keccak256_many(messages, lengths, SIZE_MAX, hashes) == PSYMM_ERROR_OVERFLOW);
    none = SIZE_MAX;
    CHECK(psymm_keccak256_many(messages, &none, 1, hashes) == PSYMM_ERROR_OVERFLOW);
}

static void a_frame_is_taken_apart(void) {
    uint8_t *bytes = copied(BYTES, LENGTHS[0]);
    psymm_frame frame;
    psymm_fault fault;
    size_t cut;
    CHECK(psymm_frame_parse(BYTES, sizeof BYTES, &frame, NULL) == PSYMM_OK);
    CHECK(frame.length == LENGTHS[0]);
    CHECK(psymm_frame_parse(bytes, LENGTHS[0], &frame, &fault) == PSYMM_OK);
    CHECK(fault.code == PSYMM_OK && fault.offset == 0);
    CHECK(frame.length == LENGTHS[0] && frame.lane == 0 && frame.seq == 1);
    CHECK(frame.peer_seq == 0);
    CHECK(frame.payload_length == LENGTHS[0] - PSYMM_FRAME_OVERHEAD);
    CHECK(memcmp(frame.custody, CUSTODY, 32) == 0);
    CHECK(memcmp(frame.signature, SIGNATURES, 65) == 0);
    CHECK(memcmp(frame.r_y, R_YS, 32) == 0);
    for (cut = 0; cut < LENGTHS[0]; cut++) {
        uint8_t *shorter = copied(bytes, cut);
        CHECK(psymm_frame_parse(shorter, cut, &frame, &fault) == PSYMM_FRAME_TRUNCATED);
        CHECK(fault.code == PSYMM_FRAME_TRUNCATED && fault.offset == cut);
        free(shorter);
    }
    bytes[33] = 7;
    CHECK(psymm_frame_parse(bytes, LENGTHS[0], &frame, &fault) == PSYMM_FRAME_BAD_LANE);
    CHECK(fault.offset == 33 && fault.lane == 7 && fault.seq == 1 && fault.index == 0);
    bytes[33] = 0;
    bytes[LENGTHS[0] - 33] = 29;
    CHECK(psymm_frame_parse(bytes, LENGTHS[0], &frame, &fault) == PSYMM_BAD_V);
    CHECK(fault.offset == LENGTHS[0] - 33);
    CHECK(psymm_frame_parse(NULL, 1, &frame, &fault) == PSYMM_ERROR_POINTER);
    CHECK(fault.code == PSYMM_ERROR_POINTER);
    CHECK(psymm_frame_parse(NULL, 0, &frame, &fault) == PSYMM_FRAME_TRUNCATED);
    CHECK(psymm_frame_parse(bytes, LENGTHS[0], NULL, &fault) == PSYMM_ERROR_POINTER);
    CHECK(psymm_frame_parse(bytes, SIZE_MAX, &frame, &fault) == PSYMM_ERROR_OVERFLOW);
    free(bytes);
}

static void frames_are_digested(void) {
    uint8_t *bytes = copied(BYTES, sizeof BYTES);
    uint8_t digests[FRAMES * 32];
    psymm_fault fault;
    size_t count = 99;
    CHECK(psymm_frame_digest_many(bytes, sizeof BYTES, DOMAIN, digests, FRAMES, &count,
                                  &fault) == PSYMM_OK);
    CHECK(count == FRAMES && memcmp(digests, DIGESTS, sizeof digests) == 0);
    memset(digests, 0, sizeof digests);
    CHECK(psymm_frame_digest_many(bytes, sizeof BYTES, DOMAIN, digests, FRAMES - 1, &count,
                                  NULL) == PSYMM_ERROR_CAPACITY);
    CHECK(count == FRAMES && digests[0] == 0);
    CHECK(psymm_frame_digest_many(NULL, 0, DOMAIN, NULL, 0, &count, NULL) == PSYMM_OK);
    CHECK(count == 0);
    CHECK(psymm_frame_digest_many(bytes, sizeof BYTES - 1, DOMAIN, digests, FRAMES, &count,
                                  &fault) == PSYMM_FRAME_TRUNCATED);
    CHECK(count == 0 && fault.index == FRAMES - 1 && fault.offset == sizeof BYTES - 1);
    CHECK(fault.frame_offset == sizeof BYTES - LENGTHS[FRAMES - 1]);
    CHECK(psymm_frame_digest_many(bytes, sizeof BYTES, NULL, digests, FRAMES, &count,
                                  NULL) == PSYMM_ERROR_POINTER);
    CHECK(psymm_frame_digest_many(bytes, sizeof BYTES, DOMAIN, NULL, FRAMES, &count, NULL) ==
          PSYMM_ERROR_POINTER);
    CHECK(psymm_frame_digest_many(bytes, sizeof BYTES, DOMAIN, digests, FRAMES, NULL, NULL) ==
          PSYMM_ERROR_POINTER);
    CHECK(psymm_frame_digest_many(bytes, sizeof BYTES, DOMAIN, digests, SIZE_MAX, &count,
                                  NULL) == PSYMM_ERROR_OVERFLOW);
    free(bytes);
}

static void a_batch_of_signatures_is_verified(void) {
    uint8_t *signatures = copied(SIGNATURES, sizeof SIGNATURES);
    uint8_t *r_ys = copied(R_YS, sizeof R_YS);
    uint8_t keys[128];
    uint32_t lanes[FRAMES];
    psymm_refusal refusals[FRAMES];
    size_t refused = 99;
    memcpy(keys, KEYS, sizeof keys);
    memcpy(lanes, LANES, sizeof lanes);
    CHECK(psymm_verify_batch(keys, 2, DIGESTS, signatures, lanes, r_ys, FRAMES, 1, refusals,
                             FRAMES, &refused) == PSYMM_OK);
    CHECK(refused == 0);
    CHECK(psymm_verify_batch(keys, 2, DIGESTS, signatures, lanes, NULL, FRAMES, 0, NULL, 0,
                             &refused) == PSYMM_OK);
    CHECK(psymm_verify_batch(NULL, 0, NULL, NULL, NULL, NULL, 0, 2, NULL, 0, &refused) ==
          PSYMM_OK);
    CHECK(psymm_verify_batch(KEYS, 1, DIGESTS, signatures, NULL, r_ys, 1, 2, NULL, 0,
                             &refused) == PSYMM_OK);

    signatures[64] = 29;
    r_ys[32 + 31] ^= 2;
    lanes[2] = 2;
    lanes[3] ^= 1;
    CHECK(psymm_verify_batch(keys, 2, DIGESTS, signatures, lanes, r_ys, FRAMES, 2, refusals,
                             FRAMES, &refused) == PSYMM_REFUSED);
    CHECK(refused == 4);
    CHECK(refusals[0].index == 0 && refusals[0].code == PSYMM_BAD_V);
    CHECK(refusals[1].index == 1 && refusals[1].code == PSYMM_BAD_R_Y);
    CHECK(refusals[2].index == 2 && refusals[2].code == PSYMM_NO_SUCH_KEY);
    CHECK(refusals[3].index == 3 && refusals[3].code == PSYMM_BAD_SIGNATURE);
    CHECK(refusals[3].reserved == 0);
    memset(refusals, 0x55, sizeof refusals);
    CHECK(psymm_verify_batch(keys, 2, DIGESTS, signatures, lanes, r_ys, FRAMES, 1, refusals,
                             1, &refused) == PSYMM_REFUSED);
    CHECK(refused == 4 && refusals[0].index == 0 && refusals[1].reserved == 0x55555555);
    CHECK(psymm_verify_batch(keys, 2, DIGESTS, signatures, lanes, r_ys, FRAMES, 1, NULL, 0,
                             &refused) == PSYMM_REFUSED);
    CHECK(refused == 4);

    CHECK(psymm_verify_batch(NULL, 2, DIGESTS, signatures, lanes, r_ys, FRAMES, 1, refusals,
                             FRAMES, &refused) == PSYMM_ERROR_POINTER);
    CHECK(refused == 0);
    CHECK(psymm_verify_batch(keys, 2, NULL, signatures, lanes, r_ys, FRAMES, 1, refusals,
                             FRAMES, &refused) == PSYMM_ERROR_POINTER);
    CHECK(psymm_verify_batch(keys, 2, DIGESTS, NULL, lanes, r_ys, FRAMES, 1, refusals, FRAMES,
                             &refused) == PSYMM_ERROR_POINTER);
    CHECK(psymm_verify_batch(keys, 2, DIGESTS, signatures, lanes, r_ys, FRAMES, 1, NULL, 1,
                             &refused) == PSYMM_ERROR_POINTER);
    CHECK(psymm_verify_batch(keys, 2, DIGESTS, signatures, lanes, r_ys, FRAMES, 1, refusals,
                             FRAMES, NULL) == PSYMM_ERROR_POINTER);
    CHECK(psymm_verify_batch(keys, 2, DIGESTS, signatures,
                             (const uint32_t *)(const void *)(DIGESTS + 1), r_ys, 1, 1,
                             refusals, 1, &refused) == PSYMM_ERROR_POINTER);
    CHECK(psymm_verify_batch(keys, 2, DIGESTS, signatures, lanes, r_ys, SIZE_MAX / 65 + 1, 1,
                             refusals, FRAMES, &refused) == PSYMM_ERROR_OVERFLOW);
    CHECK(psymm_verify_batch(keys, SIZE_MAX, DIGESTS, signatures, lanes, r_ys, FRAMES, 1,
                             refusals, FRAMES, &refused) == PSYMM_ERROR_OVERFLOW);
    keys[64] ^= 1;
    CHECK(psymm_verify_batch(keys, 2, DIGESTS, signatures, lanes, r_ys, FRAMES, 1, refusals,
                             FRAMES, &refused) == PSYMM_BAD_PUBLIC_KEY);
    CHECK(refused == 0);
    free(r_ys);
    free(signatures);
}

static void keys_and_addresses_are_recovered(void) {
    uint8_t *signatures = copied(SIGNATURES, sizeof SIGNATURES);
    uint8_t keys[FRAMES * 64];
    uint8_t addresses[FRAMES * 20];
    uint8_t zeros[64] = {0};
    int32_t codes[FRAMES];
    size_t i;
    CHECK(psymm_recover_batch(DIGESTS, signatures, FRAMES, 1, keys, addresses, codes) ==
          PSYMM_OK);
    for (i = 0; i < FRAMES; i++) {
        CHECK(codes[i] == PSYMM_OK);
        CHECK(memcmp(keys + 64 * i, KEYS + 64 * LANES[i], 64) == 0);
        CHECK(memcmp(addresses + 20 * i, ADDRESSES + 20 * LANES[i], 20) == 0);
    }
    memset(signatures + 65, 0, 32);
    CHECK(psymm_recover_batch(DIGESTS, signatures, FRAMES, 2, keys, addresses, codes) ==
          PSYMM_REFUSED);
    CHECK(codes[0] == PSYMM_OK && codes[1] == PSYMM_BAD_R && codes[2] == PSYMM_OK);
    CHECK(memcmp(keys + 64, zeros, 64) == 0 && memcmp(addresses + 20, zeros, 20) == 0);
    CHECK(psymm_recover_batch(DIGESTS, signatures, 1, 1, NULL, NULL, NULL) == PSYMM_OK);
    CHECK(psymm_recover_batch(DIGESTS, signatures, 2, 1, NULL, NULL, NULL) == PSYMM_REFUSED);
    CHECK(psymm_recover_batch(NULL, NULL, 0, 1, NULL, NULL, NULL) == PSYMM_OK);
    CHECK(psymm_recover_batch(NULL, signatures, 1, 1, keys, NULL, NULL) ==
          PSYMM_ERROR_POINTER);
    CHECK(psymm_recover_batch(DIGESTS, NULL, 1, 1, keys, NULL, NULL) == PSYMM_ERROR_POINTER);
    CHECK(psymm_recover_batch(DIGESTS, signatures, SIZE_MAX, 1, keys, NULL, NULL) ==
          PSYMM_ERROR_OVERFLOW);
    free(signatures);
}

static void frames_of_many_custodies_are_verified(void) {
    const uint8_t *buffers[FRAMES + 1];
    size_t lengths[FRAMES + 1];
    uint8_t domains[(FRAMES + 1) * 32];
    uint8_t keys[(FRAMES + 1) * 64];
    uint8_t digests[FRAMES * 32];
    psymm_fault verdicts[FRAMES + 1];
    uint8_t *bytes = copied(BYTES, sizeof BYTES);
    size_t i, offset = 0, second;
    for (i = 0; i <= FRAMES; i++) {
        buffers[i] = i < FRAMES ? bytes + offset : NULL;
        lengths[i] = i < FRAMES ? LENGTHS[i] : 0;
        offset += lengths[i];
        memcpy(domains + 32 * i, DOMAIN, 32);
        memcpy(keys + 64 * i, KEYS + 64 * (i < FRAMES ? LANES[i] : 0), 64);
    }
    CHECK(psymm_verify_frames(buffers, lengths, domains, keys, FRAMES + 1, 1, digests, FRAMES,
                              verdicts) == PSYMM_OK);
    CHECK(memcmp(digests, DIGESTS, sizeof digests) == 0);
    CHECK(verdicts[0].code == PSYMM_OK && verdicts[0].index == 1);
    CHECK(verdicts[FRAMES].code == PSYMM_OK && verdicts[FRAMES].index == 0);
    CHECK(psymm_verify_frames(buffers, lengths, domains, keys, FRAMES + 1, 1, digests,
                              FRAMES - 1, verdicts) == PSYMM_ERROR_CAPACITY);
    CHECK(psymm_verify_frames(buffers, lengths, domains, keys, FRAMES, 2, NULL, 0, verdicts) ==
          PSYMM_OK);

    domains[32] ^= 1;
    bytes[LENGTHS[0] + LENGTHS[1]] = 2;
    keys[3 * 64] ^= 1;
    CHECK(psymm_verify_frames(buffers, lengths, domains, keys, FRAMES, 2, digests, FRAMES,
                              verdicts) == PSYMM_REFUSED);
    CHECK(verdicts[0].code == PSYMM_OK);
    CHECK(verdicts[1].code == PSYMM_BAD_SIGNATURE && verdicts[1].index == 0);
    CHECK(verdicts[2].code == PSYMM_FRAME_BAD_VERSION && verdicts[2].offset == 0);
    CHECK(verdicts[3].code == PSYMM_BAD_PUBLIC_KEY);
    CHECK(verdicts[4].code == PSYMM_OK);
    CHECK(memcmp(digests + 32, DIGESTS + 4 * 32, 32) == 0);

    /* Both of the first two frames in one buffer: the key of the first does not fit the other. */
    second = LENGTHS[0] + LENGTHS[1];
    CHECK(psymm_verify_frames(buffers, &second, domains, keys, 1, 1, digests, FRAMES,
                              verdicts) == PSYMM_REFUSED);
    CHECK(verdicts[0].code == PSYMM_BAD_SIGNATURE && verdicts[0].index == 1);
    CHECK(verdicts[0].frame_offset == LENGTHS[0] && verdicts[0].lane == LANES[1]);

    CHECK(psymm_verify_frames(NULL, NULL, NULL, NULL, 0, 1, NULL, 0, NULL) == PSYMM_OK);
    CHECK(psymm_verify_frames(NULL, lengths, domains, keys, 1, 1, NULL, 0, verdicts) ==
          PSYMM_ERROR_POINTER);
    CHECK(psymm_verify_frames(buffers, NULL, domains, keys, 1, 1, NULL, 0, verdicts) ==
          PSYMM_ERROR_POINTER);
    CHECK(psymm_verify_frames(buffers, lengths, NULL, keys, 1, 1, NULL, 0, verdicts) ==
          PSYMM_ERROR_POINTER);
    CHECK(psymm_verify_frames(buffers, lengths, domains, NULL, 1, 1, NULL, 0, verdicts) ==
          PSYMM_ERROR_POINTER);
    CHECK(psymm_verify_frames(buffers, lengths, domains, keys, 1, 1, NULL, 0, NULL) ==
          PSYMM_ERROR_POINTER);
    CHECK(psymm_verify_frames(buffers, lengths, domains, keys, SIZE_MAX, 1, NULL, 0,
                              verdicts) == PSYMM_ERROR_OVERFLOW);
    free(bytes);
}

static void a_transcript_is_verified(void) {
    psymm_lane_key keys[2];
    psymm_summary summary;
    psymm_fault fault;
    uint8_t *bytes = copied(BYTES, sizeof BYTES);
    size_t last = sizeof BYTES - LENGTHS[FRAMES - 1];
    uint32_t threads;
    lane_keys(keys);
    for (threads = 0; threads < 3; threads++) {
        memset(&summary, 0x55, sizeof summary);
        CHECK(psymm_verify_transcript(bytes, sizeof BYTES, DOMAIN, CUSTODY, keys, 2, threads,
                                      &summary, &fault) == PSYMM_OK);
        CHECK(fault.code == PSYMM_OK && summary.frames == FRAMES);
        CHECK(summary.heads[0].seq + summary.heads[1].seq == FRAMES);
        CHECK(memcmp(summary.heads[LANES[FRAMES - 1]].digest, DIGESTS + 32 * (FRAMES - 1),
                     32) == 0);
    }
    CHECK(psymm_verify_transcript(NULL, 0, DOMAIN, CUSTODY, NULL, 0, 1, &summary, NULL) ==
          PSYMM_OK);
    CHECK(summary.frames == 0 && memcmp(summary.heads[1].digest, CUSTODY, 32) == 0);

    bytes[last + PSYMM_FRAME_HEADER] ^= 1;
    CHECK(psymm_verify_transcript(bytes, sizeof BYTES, DOMAIN, CUSTODY, keys, 2, 2, &summary,
                                  &fault) == PSYMM_BAD_SIGNATURE);
    CHECK(fault.code == PSYMM_BAD_SIGNATURE && fault.index == FRAMES - 1);
    CHECK(fault.frame_offset == last && fault.lane == LANES[FRAMES - 1]);
    bytes[last + PSYMM_FRAME_HEADER] ^= 1;
    bytes[LENGTHS[0] + 33] = 9;
    CHECK(psymm_verify_transcript(bytes, sizeof BYTES, DOMAIN, CUSTODY, keys, 2, 1, &summary,
                                  &fault) == PSYMM_FRAME_BAD_LANE);
    CHECK(fault.index == 1 && fault.frame_offset == LENGTHS[0]);
    CHECK(fault.offset == LENGTHS[0] + 33 && fault.lane == 9);

    CHECK(psymm_verify_transcript(BYTES, sizeof BYTES, DOMAIN, DOMAIN, keys, 2, 1, &summary,
                                  &fault) == PSYMM_WRONG_CUSTODY);
    CHECK(psymm_verify_transcript(BYTES, sizeof BYTES, DOMAIN, CUSTODY, keys, 0, 1, &summary,
                                  &fault) == PSYMM_NO_KEY_IN_FORCE);
    keys[1].lane = 2;
    CHECK(psymm_verify_transcript(BYTES, sizeof BYTES, DOMAIN, CUSTODY, keys, 2, 1, &summary,
                                  &fault) == PSYMM_KEY_BAD_LANE);
    CHECK(fault.index == 1 && fault.lane == 2 && fault.seq == 1);
    keys[1].lane = 0;
    CHECK(psymm_verify_transcript(BYTES, sizeof BYTES, DOMAIN, CUSTODY, keys, 2, 1, &summary,
                                  NULL) == PSYMM_KEY_REPEATED);
    keys[1].reserved = 1;
    CHECK(psymm_verify_transcript(BYTES, sizeof BYTES, DOMAIN, CUSTODY, keys, 2, 1, &summary,
                                  NULL) == PSYMM_ERROR_RESERVED);
    lane_keys(keys);
    keys[0].public_key[9] ^= 1;
    CHECK(psymm_verify_transcript(BYTES, sizeof BYTES, DOMAIN, CUSTODY, keys, 2, 1, &summary,
                                  NULL) == PSYMM_BAD_PUBLIC_KEY);

    CHECK(psymm_verify_transcript(NULL, 1, DOMAIN, CUSTODY, keys, 2, 1, &summary, &fault) ==
          PSYMM_ERROR_POINTER);
    CHECK(psymm_verify_transcript(BYTES, sizeof BYTES, NULL, CUSTODY, keys, 2, 1, &summary,
                                  &fault) == PSYMM_ERROR_POINTER);
    CHECK(psymm_verify_transcript(BYTES, sizeof BYTES, DOMAIN, NULL, keys, 2, 1, &summary,
                                  &fault) == PSYMM_ERROR_POINTER);
    CHECK(psymm_verify_transcript(BYTES, sizeof BYTES, DOMAIN, CUSTODY, NULL, 2, 1, &summary,
                                  &fault) == PSYMM_ERROR_POINTER);
    CHECK(psymm_verify_transcript(BYTES, sizeof BYTES, DOMAIN, CUSTODY, keys, 2, 1, NULL,
                                  &fault) == PSYMM_ERROR_POINTER);
    CHECK(psymm_verify_transcript(BYTES, SIZE_MAX, DOMAIN, CUSTODY, keys, 2, 1, &summary,
                                  &fault) == PSYMM_ERROR_OVERFLOW);
    CHECK(psymm_verify_transcript(BYTES, sizeof BYTES, DOMAIN, CUSTODY, keys, SIZE_MAX, 1,
                                  &summary, &fault) == PSYMM_ERROR_OVERFLOW);
    CHECK(fault.code == PSYMM_ERROR_OVERFLOW);
    free(bytes);
}

static void *everything(void *unused) {
    (void)unused;
    the_library_says_what_it_is();
    codes_have_names_and_texts();
    messages_are_hashed();
    a_frame_is_taken_apart();
    frames_are_digested();
    a_batch_of_signatures_is_verified();
    keys_and_addresses_are_recovered();
    frames_of_many_custodies_are_verified();
    a_transcript_is_verified();
    return NULL;
}

/*
 * All runs in a thread that ends before the process does: what the library keeps for a thread
 * is freed then, so that every block that is left over at the end is a leak.
 */
int main(void) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, everything, NULL) != 0 || pthread_join(thread, NULL) != 0) {
        return 2;
    }
    if (failures == 0) {
        puts("all held");
    }
    return failures == 0 ? 0 : 1;
}
