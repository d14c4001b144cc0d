/* The arithmetic that depends on the CPU: one table of functions per instruction set, chosen when a model is loaded.
 *
 * Every set computes the same bits. Integer sums are exact; everything else is double precision with a fixed order of
 * additions, fused multiply-adds only where they are written (-ffp-contract=off), so an 8-bit activation never flips
 * between CPUs.
 *
 * Vectors are padded with zeros to a multiple of PAD elements, so kernels have no remainder loops.
 * A ternary matrix is packed for them as codes t + 1 (0, 1, 2): tiles of 16 rows, groups of 16 columns, 64 bytes per
 * tile and group; byte 4 r + j holds row r's columns j, j + 4, j + 8, j + 12 of the group in bits 0-1, 2-3, 4-5, 6-7.
 * Padding rows hold code 1 (zero).
 *
 * Quantised activations lie so that the four bytes a kernel broadcasts for each of 12 tokens are neighbours:
 * [tiles of 12 tokens][columns / 4][12 tokens][4 columns]. */
#ifndef BITRL_KERNELS_H
#define BITRL_KERNELS_H

#include <stddef.h>
#include <stdint.h>

enum { PAD = 16, TILE_ROWS = 16, GROUP_COLUMNS = 16, GROUP_BYTES = 64, TILE_TOKENS = 12, ACTIVATION_STEP = 4 * TILE_TOKENS };

/* Where token t's first four codes lie; its next four are ACTIVATION_STEP bytes on. */
static inline const int8_t *activation(const int8_t *q, size_t groups, size_t t)
{
    return q + t / TILE_TOKENS * TILE_TOKENS * groups * GROUP_COLUMNS + t % TILE_TOKENS * 4;
}

typedef struct {
    const char *name;

    /* y[t, r] = sum_c q[t, c] * (code[r, c] - 1), exact.
     * y: [tokens, y_stride], 16 * tiles columns written; codes: [tiles, groups, 64]; q: as above, of 16 * groups columns;
     * q_sum: [tokens] the sum of each token's codes; unpacked: unpacked_bytes(groups) of scratch, 64-byte aligned. */
    void (*ternary_product)(int32_t *restrict y, size_t y_stride, const uint8_t *restrict codes, size_t tiles,
                            size_t groups, const int8_t *restrict q, const int32_t *restrict q_sum, size_t tokens,
                            uint8_t *restrict unpacked);

    /* One token: n = x / sqrt(mean(x^2) + eps) * weight; s = 127 / max(max|n|, 1e-5); q = round_half_even(n * s).
     * x, weight, row: [padded]; mean over n elements; q: the token's first code, steps as above; row is overwritten.
     * Writes sum(q), returns s. */
    double (*norm_quantise)(int8_t *restrict q, int32_t *restrict q_sum, double *restrict row,
                            const double *restrict x, const double *restrict weight, size_t n, size_t padded,
                            double eps);

    /* h[i] = relu(gate[i] * gate_scale)^2 * (up[i] * up_scale); all [padded]. */
    void (*gated)(double *restrict h, const int32_t *restrict gate, const int32_t *restrict up, double gate_scale,
                  double up_scale, size_t padded);

    /* x[i] = y[i] * scale; both [n], any n. */
    void (*scaled)(double *restrict x, const int32_t *restrict y, double scale, size_t n);

    /* x[i] += y[i] * scale; both [padded]. */
    void (*add_scaled)(double *restrict x, const int32_t *restrict y, double scale, size_t padded);

    /* x = y * scale, dimension i turned with dimension i + half (NeoX order); x, y: [2 half], any half;
     * rope: [2 half] cosines, then sines. */
    void (*rotated)(double *restrict x, const int32_t *restrict y, double scale, const double *restrict rope,
                    size_t half);

    /* One text, one query head. q, k: [length, stride] rotated; v: [length, stride]; out: [length, out_stride], head_dim
     * columns written. head_dim columns padded with zeros to PAD in q, k, v. scratch: attention_scratch() doubles. */
    void (*attend)(double *restrict out, size_t out_stride, const double *restrict q, size_t q_stride,
                   const double *restrict k, const double *restrict v, size_t kv_stride, size_t length,
                   size_t head_dim, double *restrict scratch);
} bitrl_kernels;

/* Bytes of scratch `ternary_product` needs: two tiles of codes, a byte each. */
static inline size_t unpacked_bytes(size_t groups) { return 2 * TILE_ROWS * groups * GROUP_COLUMNS; }

/* Doubles of scratch `attend` needs for texts of up to `length` tokens. */
static inline size_t attention_scratch(size_t length, size_t head_dim)
{
    size_t keys = (length + 7) / 8 * 8;
    return keys * (head_dim + 4);
}

extern const bitrl_kernels bitrl_kernels_scalar;
#if defined(__x86_64__)
extern const bitrl_kernels bitrl_kernels_avx2, bitrl_kernels_avx512vnni;
#endif

/* The table of that name; the best one for "auto"; NULL when this CPU or build does not have it. */
const bitrl_kernels *bitrl_kernels_find(const char *isa);

#endif
