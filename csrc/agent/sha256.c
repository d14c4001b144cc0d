/* SHA-256, for the seal of an agent's file. */
#include "sha256.h"

#include <string.h>

static const uint32_t constants[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be,
    0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa,
    0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85,
    0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3,
    0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f,
    0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

#define TURNED(x, n) ((x) >> (n) | (x) << (32 - (n)))
/* A round: what was in d and h changes, and all move on by one, which is done by their names. */
#define ROUND(a, b, c, d, e, f, g, h, i)                                                                                      \
    h += (TURNED(e, 6) ^ TURNED(e, 11) ^ TURNED(e, 25)) + (g ^ (e & (f ^ g))) + constants[i] + w[i];                          \
    d += h;                                                                                                                   \
    h += (TURNED(a, 2) ^ TURNED(a, 13) ^ TURNED(a, 22)) + ((a & b) | (c & (a | b)))

static void add_block(uint32_t state[8], const uint8_t block[64])
{
    uint32_t w[64];
    for (int i = 0; i < 16; i++)
        w[i] = (uint32_t)block[4 * i] << 24 | (uint32_t)block[4 * i + 1] << 16 | (uint32_t)block[4 * i + 2] << 8 | block[4 * i + 3];
    for (int i = 16; i < 64; i++) {
        const uint32_t x = w[i - 15], y = w[i - 2];
        w[i] = w[i - 16] + w[i - 7] + (TURNED(x, 7) ^ TURNED(x, 18) ^ x >> 3) + (TURNED(y, 17) ^ TURNED(y, 19) ^ y >> 10);
    }
    uint32_t a = state[0], b = state[1], c = state[2], d = state[3], e = state[4], f = state[5], g = state[6], h = state[7];
    for (int i = 0; i < 64; i += 8) {
        ROUND(a, b, c, d, e, f, g, h, i);
        ROUND(h, a, b, c, d, e, f, g, i + 1);
        ROUND(g, h, a, b, c, d, e, f, i + 2);
        ROUND(f, g, h, a, b, c, d, e, i + 3);
        ROUND(e, f, g, h, a, b, c, d, i + 4);
        ROUND(d, e, f, g, h, a, b, c, i + 5);
        ROUND(c, d, e, f, g, h, a, b, i + 6);
        ROUND(b, c, d, e, f, g, h, a, i + 7);
    }
    const uint32_t added[8] = {a, b, c, d, e, f, g, h};
    for (int i = 0; i < 8; i++) state[i] += added[i];
}

void sha256_begin(sha256 *s)
{
    static const uint32_t start[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    memcpy(s->state, start, sizeof start);
    s->bytes = 0;
}

void sha256_add(sha256 *s, const uint8_t *bytes, size_t n)
{
    size_t held = s->bytes % 64;
    s->bytes += n;
    if (held + n < 64) {
        memcpy(s->block + held, bytes, n);
        return;
    }
    memcpy(s->block + held, bytes, 64 - held);
    add_block(s->state, s->block);
    for (bytes += 64 - held, n -= 64 - held; n >= 64; bytes += 64, n -= 64) add_block(s->state, bytes);
    memcpy(s->block, bytes, n);
}

void sha256_end(sha256 *s, char digits[64])
{
    uint8_t padding[72] = {0x80};
    const uint64_t bits = s->bytes * 8;
    const size_t n = 1 + (119 - s->bytes % 64) % 64;
    for (int i = 0; i < 8; i++) padding[n + i] = (uint8_t)(bits >> (56 - 8 * i));
    sha256_add(s, padding, n + 8);
    for (int i = 0; i < 64; i++) digits[i] = "0123456789abcdef"[s->state[i / 8] >> (28 - 4 * (i % 8)) & 15];
}
