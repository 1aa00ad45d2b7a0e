#include <psymm.h>
#include <stdio.h>

/* Whether one key made all of these signatures; says which it did not make. */
int all_signed_by(const uint8_t key[64], const uint8_t *digests, const uint8_t *signatures,
                  size_t count) {
    psymm_refusal refusals[8];
    size_t refused, i;
    int32_t code = psymm_verify_batch(key, 1, digests, signatures, NULL, NULL, count, 0,
                                      refusals, 8, &refused);
    for (i = 0; i < refused && i < 8; i++)
        printf("signature %d: %s\n", (int)refusals[i].index, psymm_error_name(refusals[i].code));
    return code == PSYMM_OK;
}
