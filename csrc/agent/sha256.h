/* SHA-256 (FIPS 180-4), a part at a time. */
#ifndef BITRL_SHA256_H
#define BITRL_SHA256_H

#include <stddef.h>
#include <stdint.h>

typedef struct {
    uint32_t state[8];
    uint64_t bytes;
    uint8_t block[64];
} sha256;

void sha256_begin(sha256 *s);
void sha256_add(sha256 *s, const uint8_t *bytes, size_t n);
/* Ends it -> 64 lower-case hexadecimal digits, not terminated. */
void sha256_end(sha256 *s, char digits[64]);

#endif
