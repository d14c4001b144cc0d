/* The arithmetic that depends on the CPU: one table of functions per instruction set, chosen when a model is loaded.
 *
 * Every set computes the same bits. Integer sums are exact; everything else is double precision with a fixed order of
 * additions, fused multiply-adds only where they are written (-ffp-contract=off), so an 8-bit activation never flips
 * between CPUs.
 *
 * Vectors are padded with zeros to a multiple of PAD elements, so kernels have no remainder loops.
 *
 * A product takes four bytes of a token's activations at a step: four int8 codes, two bf16 or one float. Activations lie
 * so that the four bytes of 12 tokens are neighbours: [tiles of 12 tokens][steps][12 tokens][4 bytes].
 * Weights lie in tiles of 16 rows, a step of which is 64 bytes: [tiles][steps][16 rows][4 bytes]. Bytes are a code plus
 * an offset (1 for ternary, 128 for the others), because the products multiply unsigned by signed bytes. Two formats are
 * packed more closely and unpacked to that, a tile or two at a time:
 *
 *   ternary  64 bytes for four steps: step p in bits 2 p and 2 p + 1 of each byte
 *   int4     64 bytes for two steps: the first in the low nibbles (code + 8), the second in the high ones; behind all of
 *            a tile's steps a signed multiplier for each 32 columns of each row, [columns / 32][16 rows].
 *            A weight is code * multiplier * the row's scale, so that sums stay integers; |code * multiplier| < 128. */
#ifndef BITRL_KERNELS_H
#define BITRL_KERNELS_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { PAD = 16, TILE_ROWS = 16, STEP_BYTES = 64, TILE_TOKENS = 12, ACTIVATION_STEP = 4 * TILE_TOKENS, INT4_BLOCK = 32 };

typedef enum { TERNARY, INT8, INT4, BF16, FP32, FORMATS } matrix_format;

/* Steps of a row of `columns` padded columns. */
static inline size_t steps_of(matrix_format format, size_t columns)
{
    return format == FP32 ? columns : format == BF16 ? columns / 2 : columns / 4;
}

/* Bytes of a tile of 16 packed rows, a multiple of 64. */
static inline size_t tile_bytes(matrix_format format, size_t columns)
{
    size_t steps = steps_of(format, columns) * STEP_BYTES;
    if (format == TERNARY) return steps / 4;
    if (format == INT4) return (steps / 2 + (columns + INT4_BLOCK - 1) / INT4_BLOCK * TILE_ROWS + 63) / 64 * 64;
    return steps;
}

/* Where token t's first four bytes lie; its next four are ACTIVATION_STEP bytes on. */
static inline uint8_t *activation(const uint8_t *q, size_t steps, size_t t)
{
    return (uint8_t *)(uintptr_t)q + (t / TILE_TOKENS * steps * TILE_TOKENS + t % TILE_TOKENS) * 4;
}

/* To bf16, ties to even. Numbers below 2^-50 become zero: then no sum of products is ever subnormal, which instruction
 * sets treat differently. */
static inline uint16_t bf16_from(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if ((bits & 0x7fffffff) < 0x26800000) return 0;
    if ((bits & 0x7fffffff) > 0x7f800000) return 0x7fc0;
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static inline float float_from(uint16_t bf16)
{
    uint32_t bits = (uint32_t)bf16 << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* y[t, r] = sum_c activation[t, c] * weight[r, c] without scales: exact int32 for codes, float for bf16 and fp32 (fused
 * multiply-adds column by column, of a pair of bf16 the second first).
 * y: [tokens, y_stride] of int32 or float, 16 * tiles columns written; weights: [tiles, tile_bytes]; q: as above, of
 * `columns` padded columns (at most 65536 but for ternary), codes of int8 and int4 from -127; q_sum: [tokens] the sum of
 * each token's codes; unpacked: unpacked_bytes(columns) of scratch. weights and unpacked 64-byte aligned. */
typedef void matrix_product(void *restrict y, size_t y_stride, const uint8_t *restrict weights, size_t tiles,
                            size_t columns, const uint8_t *restrict q, const int32_t *restrict q_sum, size_t tokens,
                            uint8_t *restrict unpacked);

typedef struct {
    const char *name;
    matrix_product *product[FORMATS];

    /* One token: n = x / sqrt(mean(x^2) + eps) * weight, or x itself without a weight (NULL); s = 127 / max(max|n|, 1e-5); q = round_half_even(n * s).
     * x, weight, row: [padded]; mean over n elements; q: the token's first code, steps as above; row is overwritten.
     * Writes sum(q), returns s. */
    double (*norm_quantise)(uint8_t *restrict q, int32_t *restrict q_sum, double *restrict row,
                            const double *restrict x, const double *restrict weight, size_t n, size_t padded,
                            double eps);

    /* The same norm, rounded to float or bf16 (format). q: the token's first four bytes, as above. */
    void (*norm_round)(uint8_t *restrict q, matrix_format format, double *restrict row, const double *restrict x,
                       const double *restrict weight, size_t n, size_t padded, double eps);

    /* The same norm: out = n. out, x, weight: [padded]. */
    void (*normalise)(double *restrict out, const double *restrict x, const double *restrict weight, size_t n,
                      size_t padded, double eps);

    /* x[i] = y[i] * scale; both [n], any n. */
    void (*scaled)(double *restrict x, const int32_t *restrict y, double scale, size_t n);

    /* x[i] = y[i] * scale * rows[i]; all [padded]. */
    void (*scaled_rows)(double *restrict x, const int32_t *restrict y, const double *restrict rows, double scale,
                        size_t padded);

    /* h[i] = relu(gate[i])^2 * up[i]; all [padded]. */
    void (*gated)(double *restrict h, const double *restrict gate, const double *restrict up, size_t padded);

    /* h[i] = gate[i] / (1 + exp(-gate[i])) * up[i]; all [padded]. */
    void (*gated_silu)(double *restrict h, const double *restrict gate, const double *restrict up, size_t padded);

    /* h[i] = g / (1 + exp(-2 u)) * up[i] with g = gate[i], u = sqrt(2 / pi) * (g + 0.044715 g^3), which is the tanh
     * approximation of gelu(g) * up[i]; all [padded]. */
    void (*gated_gelu)(double *restrict h, const double *restrict gate, const double *restrict up, size_t padded);

    /* x[i] += y[i]; both [padded]. */
    void (*added)(double *restrict x, const double *restrict y, size_t padded);

    /* x = y, dimension i turned with dimension i + half (NeoX order); x, y: [2 half], any half;
     * rope: [2 half] cosines, then sines. */
    void (*rotated)(double *restrict x, const double *restrict y, const double *restrict rope, size_t half);

    /* One text, one query head: softmax(q k scale) v. q, k: [length, stride] rotated; v: [length, stride];
     * out: [length, out_stride], head_dim columns written. head_dim columns padded with zeros to PAD in q, k, v.
     * Query i sees the keys j <= i with i - j < window; all of them with window 0.
     * scratch: attention_scratch() doubles. */
    void (*attend)(double *restrict out, size_t out_stride, const double *restrict q, size_t q_stride,
                   const double *restrict k, const double *restrict v, size_t kv_stride, size_t length,
                   size_t head_dim, double scale, size_t window, double *restrict scratch);
} bitrl_kernels;

/* Bytes of scratch a product needs: two tiles, a byte a weight. */
static inline size_t unpacked_bytes(size_t columns) { return 2 * TILE_ROWS * columns; }

/* Doubles of scratch `attend` needs for texts of up to `length` tokens. */
static inline size_t attention_scratch(size_t length, size_t head_dim)
{
    size_t keys = (length + 7) / 8 * 8;
    return keys * (head_dim + 4);
}

extern const bitrl_kernels bitrl_kernels_scalar;
#if defined(__x86_64__)
extern const bitrl_kernels bitrl_kernels_avx2, bitrl_kernels_avx512vnni, bitrl_kernels_avx512bf16;
#endif

/* The table of that name; the best one for "auto"; NULL when this CPU or build does not have it. */
const bitrl_kernels *bitrl_kernels_find(const char *isa);

#endif
