/* AVX-512 with VNNI, and with or without BF16: sixteen rows in a register, two of these for twelve tokens at a time. */
#include "kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>
#include <string.h>

#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")))
#define TARGET_BF16 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")))

typedef __m512d v8;
typedef __m256i i8;

TARGET static inline v8 v8_load(const double *from) { return _mm512_loadu_pd(from); }
TARGET static inline v8 v8_from_int(const int32_t *from)
{
    return _mm512_cvtepi32_pd(_mm256_loadu_si256((const __m256i *)from));
}
TARGET static inline v8 v8_set(double value) { return _mm512_set1_pd(value); }
TARGET static inline v8 v8_add(v8 a, v8 b) { return _mm512_add_pd(a, b); }
TARGET static inline v8 v8_sub(v8 a, v8 b) { return _mm512_sub_pd(a, b); }
TARGET static inline v8 v8_mul(v8 a, v8 b) { return _mm512_mul_pd(a, b); }
TARGET static inline v8 v8_div(v8 a, v8 b) { return _mm512_div_pd(a, b); }
TARGET static inline v8 v8_fma(v8 a, v8 b, v8 c) { return _mm512_fmadd_pd(a, b, c); }
TARGET static inline v8 v8_max(v8 a, v8 b) { return _mm512_max_pd(a, b); }
TARGET static inline v8 v8_abs(v8 a) { return _mm512_abs_pd(a); }
TARGET static inline void v8_store(double *to, v8 v) { _mm512_storeu_pd(to, v); }
TARGET static inline v8 v8_times_power(v8 p, v8 n)
{
    return _mm512_castsi512_pd(
        _mm512_add_epi64(_mm512_castpd_si512(p), _mm512_slli_epi64(_mm512_castpd_si512(n), 52)));
}
TARGET static inline i8 i8_round(v8 v)
{
    return _mm512_cvt_roundpd_epi32(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
TARGET static inline i8 i8_add(i8 a, i8 b) { return _mm256_add_epi32(a, b); }
TARGET static inline int32_t i8_sum(i8 v)
{
    __m128i four = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(four, _mm_shuffle_epi32(four, 0xb1)));
}
TARGET static inline uint64_t i8_bytes(i8 v) { return (uint64_t)_mm_cvtsi128_si64(_mm256_cvtepi32_epi8(v)); }

#include "kernels_double.h"

/* One tile -> bytes [steps][16 rows][4]. */
TARGET static void unpack_ternary(uint8_t *restrict out, const uint8_t *restrict packed, size_t columns)
{
    const __m512i mask = _mm512_set1_epi8(3);
    for (size_t c = 0; c < columns; c += PAD, packed += STEP_BYTES, out += 4 * STEP_BYTES) {
        __m512i codes = _mm512_load_si512(packed);
        _mm512_store_si512(out, _mm512_and_si512(codes, mask));
        _mm512_store_si512(out + STEP_BYTES, _mm512_and_si512(_mm512_srli_epi16(codes, 2), mask));
        _mm512_store_si512(out + 2 * STEP_BYTES, _mm512_and_si512(_mm512_srli_epi16(codes, 4), mask));
        _mm512_store_si512(out + 3 * STEP_BYTES, _mm512_and_si512(_mm512_srli_epi16(codes, 6), mask));
    }
}

/* What differs between kinds of weights: the sum they start from, and what one step of 64 bytes adds to it. */
TARGET static inline __m512i codes_start(int32_t q_sum) { return _mm512_set1_epi32(-q_sum); }
TARGET static inline __m512i codes_add(__m512i sum, __m512i weights, int32_t four)
{
    return _mm512_dpbusd_epi32(sum, weights, _mm512_set1_epi32(four));
}
TARGET static inline __m512i bytes_start(int32_t q_sum) { return _mm512_set1_epi32(-128 * q_sum); }
TARGET static inline __m512i bytes_add(__m512i sum, __m512i weights, int32_t four)
{
    return _mm512_dpbusd_epi32(sum, weights, _mm512_set1_epi32(four));
}
TARGET static inline __m512 floats_start(int32_t q_sum) { return (void)q_sum, _mm512_setzero_ps(); }
TARGET static inline __m512 floats_add(__m512 sum, __m512i weights, int32_t four)
{
    return _mm512_fmadd_ps(_mm512_castsi512_ps(weights), _mm512_castsi512_ps(_mm512_set1_epi32(four)), sum);
}
TARGET static inline __m512 pairs_start(int32_t q_sum) { return (void)q_sum, _mm512_setzero_ps(); }
TARGET static inline __m512 pairs_add(__m512 sum, __m512i weights, int32_t four)
{
    const __m512i upper = _mm512_set1_epi32((int)0xffff0000), x = _mm512_set1_epi32(four);
    sum = _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_and_si512(weights, upper)),
                          _mm512_castsi512_ps(_mm512_and_si512(x, upper)), sum);
    return _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_slli_epi32(weights, 16)),
                           _mm512_castsi512_ps(_mm512_slli_epi32(x, 16)), sum);
}
TARGET_BF16 static inline __m512 halves_start(int32_t q_sum) { return (void)q_sum, _mm512_setzero_ps(); }
TARGET_BF16 static inline __m512 halves_add(__m512 sum, __m512i weights, int32_t four)
{
    return _mm512_dpbf16_ps(sum, (__m512bh)weights, (__m512bh)_mm512_set1_epi32(four));
}

/* Two tiles of rows for N tokens. Four activations of one token are broadcast from memory once for both tiles. */
#define PRODUCT(kind, N, sum_type, attribute)                                                                          \
    attribute static void kind##_##N(uint8_t *restrict y, size_t y_stride, const uint8_t *a,                           \
                                     const uint8_t *b, size_t steps, const uint8_t *restrict q,               \
                                     const int32_t *restrict q_sum)                                                    \
    {                                                                                                                  \
        const int both = a != b;                                                                                       \
        sum_type first[N], second[N];                                                                                  \
        _Pragma("GCC unroll 12") for (size_t t = 0; t < N; t++) first[t] = second[t] = kind##_start(q_sum[t]);         \
        for (size_t i = 0; i < steps; i++, a += STEP_BYTES, b += STEP_BYTES, q += ACTIVATION_STEP) {                   \
            const __m512i rows = _mm512_load_si512(a), more = _mm512_load_si512(b);                                    \
            _Pragma("GCC unroll 12") for (size_t t = 0; t < N; t++)                                                    \
            {                                                                                                          \
                int32_t four;                                                                                          \
                memcpy(&four, q + 4 * t, sizeof four);                                                                 \
                first[t] = kind##_add(first[t], rows, four);                                                           \
                second[t] = kind##_add(second[t], more, four);                                                         \
            }                                                                                                          \
        }                                                                                                              \
        _Pragma("GCC unroll 12") for (size_t t = 0; t < N; t++, y += 4 * y_stride)                                     \
        {                                                                                                              \
            memcpy(y, &first[t], sizeof first[t]);                                                                     \
            if (both) memcpy(y + 4 * TILE_ROWS, &second[t], sizeof second[t]);                                         \
        }                                                                                                              \
    }

typedef void product_of_two(uint8_t *restrict, size_t, const uint8_t *, const uint8_t *, size_t, const uint8_t *restrict,
                            const int32_t *restrict);

#define PRODUCTS(kind, type, at)                                                                                       \
    PRODUCT(kind, 1, type, at) PRODUCT(kind, 2, type, at) PRODUCT(kind, 3, type, at) PRODUCT(kind, 4, type, at)        \
    PRODUCT(kind, 5, type, at) PRODUCT(kind, 6, type, at) PRODUCT(kind, 7, type, at) PRODUCT(kind, 8, type, at)        \
    PRODUCT(kind, 9, type, at) PRODUCT(kind, 10, type, at) PRODUCT(kind, 11, type, at) PRODUCT(kind, 12, type, at)     \
    static product_of_two *const kind[TILE_TOKENS] = {kind##_1, kind##_2, kind##_3, kind##_4,  kind##_5,  kind##_6,    \
                                                      kind##_7, kind##_8, kind##_9, kind##_10, kind##_11, kind##_12};

PRODUCTS(codes, __m512i, TARGET)
PRODUCTS(bytes, __m512i, TARGET)
PRODUCTS(floats, __m512, TARGET)
PRODUCTS(pairs, __m512, TARGET)
PRODUCTS(halves, __m512, TARGET_BF16)

#define MATRIX_PRODUCT(name, format, kind, unpack)                                                                     \
    static void name(void *restrict y, size_t y_stride, const uint8_t *restrict weights, size_t tiles, size_t columns, \
                     const uint8_t *restrict q, const int32_t *restrict q_sum, size_t tokens,                          \
                     uint8_t *restrict unpacked)                                                                       \
    {                                                                                                                  \
        tiles_product(format, kind, unpack, y, y_stride, weights, tiles, columns, q, q_sum, tokens, unpacked);         \
    }

/* Two tiles at a time; unpacked once for all tokens: a shift or mask takes the place of a product in the same ports. */
static void tiles_product(matrix_format format, product_of_two *const *products,
                          void (*unpack)(uint8_t *restrict, const uint8_t *restrict, size_t), uint8_t *restrict y,
                          size_t y_stride, const uint8_t *weights, size_t tiles, size_t columns,
                          const uint8_t *restrict q, const int32_t *restrict q_sum, size_t tokens, uint8_t *unpacked)
{
    size_t steps = steps_of(format, columns), bytes = tile_bytes(format, columns);
    for (size_t tile = 0; tile < tiles; tile += 2, weights += 2 * bytes) {
        const uint8_t *a = weights, *b = tile + 1 < tiles ? weights + bytes : weights;
        if (unpack) {
            unpack(unpacked, a, columns);
            if (b != a) unpack(unpacked + steps * STEP_BYTES, b, columns);
            b = b != a ? unpacked + steps * STEP_BYTES : unpacked;
            a = unpacked;
        }
        for (size_t t = 0; t < tokens; t += TILE_TOKENS)
            products[(tokens - t < TILE_TOKENS ? tokens - t : TILE_TOKENS) - 1](
                y + 4 * (t * y_stride + tile * TILE_ROWS), y_stride, a, b, steps, activation(q, steps, t), q_sum + t);
    }
}

MATRIX_PRODUCT(ternary_product, TERNARY, codes, unpack_ternary)
MATRIX_PRODUCT(int8_product, INT8, bytes, NULL)
MATRIX_PRODUCT(int4_product, INT4, bytes, unpack_int4)
MATRIX_PRODUCT(fp32_product, FP32, floats, NULL)
MATRIX_PRODUCT(bf16_product, BF16, halves, NULL)
MATRIX_PRODUCT(bf16_product_without, BF16, pairs, NULL)

const bitrl_kernels bitrl_kernels_avx512vnni = {
    "avx512vnni", {ternary_product, int8_product, int4_product, bf16_product_without, fp32_product},
    norm_quantise, norm_round, normalise, scaled, scaled_rows, gated, gated_silu, gated_gelu, added, rotated, attend};
const bitrl_kernels bitrl_kernels_avx512bf16 = {
    "avx512bf16", {ternary_product, int8_product, int4_product, bf16_product, fp32_product},
    norm_quantise, norm_round, normalise, scaled, scaled_rows, gated, gated_silu, gated_gelu, added, rotated, attend};
#endif
