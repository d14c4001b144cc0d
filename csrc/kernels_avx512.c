/* AVX-512 with VNNI: sixteen rows in a register, two of these for twelve tokens at a time. */
#include "kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>
#include <string.h>

#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")))

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

enum { PAIR = 2 * GROUP_BYTES }; /* bytes of two tiles side by side */

/* One or two tiles of codes -> bytes [groups, 4][2 tiles][64]. */
TARGET static void unpack(uint8_t *restrict out, const uint8_t *restrict codes, size_t tiles, size_t groups)
{
    const __m512i mask = _mm512_set1_epi8(3);
    for (size_t i = 0; i < tiles; i++)
        for (size_t g = 0; g < groups; g++) {
            __m512i packed = _mm512_load_si512(codes + (i * groups + g) * GROUP_BYTES);
            uint8_t *to = out + 4 * g * PAIR + i * GROUP_BYTES;
            _mm512_store_si512(to, _mm512_and_si512(packed, mask));
            _mm512_store_si512(to + PAIR, _mm512_and_si512(_mm512_srli_epi16(packed, 2), mask));
            _mm512_store_si512(to + 2 * PAIR, _mm512_and_si512(_mm512_srli_epi16(packed, 4), mask));
            _mm512_store_si512(to + 3 * PAIR, _mm512_and_si512(_mm512_srli_epi16(packed, 6), mask));
        }
}

/* Two tiles of unpacked rows for N tokens. `vpdpbusd` multiplies the unsigned codes of sixteen rows with four
 * activations of one token, broadcast from memory once for both tiles. */
#define PRODUCT(N)                                                                                                     \
    TARGET static void product_##N(int32_t *restrict y, size_t y_stride, const uint8_t *restrict codes, size_t steps,  \
                                   const int8_t *restrict q, const int32_t *restrict q_sum, int both)                  \
    {                                                                                                                  \
        __m512i first[N], second[N];                                                                                   \
        _Pragma("GCC unroll 12") for (size_t t = 0; t < N; t++)                                                        \
            first[t] = second[t] = _mm512_set1_epi32(-q_sum[t]);                                                       \
        for (size_t i = 0; i < steps; i++, codes += PAIR, q += ACTIVATION_STEP) {                                      \
            const __m512i a = _mm512_load_si512(codes), b = _mm512_load_si512(codes + GROUP_BYTES);                    \
            _Pragma("GCC unroll 12") for (size_t t = 0; t < N; t++)                                                    \
            {                                                                                                          \
                int32_t four;                                                                                          \
                memcpy(&four, q + 4 * t, sizeof four);                                                                 \
                const __m512i activations = _mm512_set1_epi32(four);                                                   \
                first[t] = _mm512_dpbusd_epi32(first[t], a, activations);                                              \
                second[t] = _mm512_dpbusd_epi32(second[t], b, activations);                                            \
            }                                                                                                          \
        }                                                                                                              \
        _Pragma("GCC unroll 12") for (size_t t = 0; t < N; t++)                                                        \
        {                                                                                                              \
            _mm512_storeu_si512(y + t * y_stride, first[t]);                                                           \
            if (both) _mm512_storeu_si512(y + t * y_stride + TILE_ROWS, second[t]);                                    \
        }                                                                                                              \
    }

PRODUCT(1) PRODUCT(2) PRODUCT(3) PRODUCT(4) PRODUCT(5) PRODUCT(6)
PRODUCT(7) PRODUCT(8) PRODUCT(9) PRODUCT(10) PRODUCT(11) PRODUCT(12)

TARGET static void ternary_product(int32_t *restrict y, size_t y_stride, const uint8_t *restrict codes, size_t tiles,
                                   size_t groups, const int8_t *restrict q, const int32_t *restrict q_sum,
                                   size_t tokens, uint8_t *restrict unpacked)
{
    static void (*const products[TILE_TOKENS])(int32_t *restrict, size_t, const uint8_t *restrict, size_t,
                                               const int8_t *restrict, const int32_t *restrict, int) = {
        product_1, product_2, product_3, product_4,  product_5,  product_6,
        product_7, product_8, product_9, product_10, product_11, product_12};
    for (size_t tile = 0; tile < tiles; tile += 2) {
        int both = tile + 1 < tiles;
        /* Once for all tokens: a shift or mask takes the place of a product in the same two execution ports. */
        unpack(unpacked, codes + tile * groups * GROUP_BYTES, both ? 2 : 1, groups);
        for (size_t t = 0; t < tokens; t += TILE_TOKENS)
            products[(tokens - t < TILE_TOKENS ? tokens - t : TILE_TOKENS) - 1](
                y + t * y_stride + tile * TILE_ROWS, y_stride, unpacked, 4 * groups, activation(q, groups, t), q_sum + t,
                both);
    }
}

const bitrl_kernels bitrl_kernels_avx512vnni = {"avx512vnni", ternary_product, norm_quantise, gated,
                                                scaled,       add_scaled,      rotated,       attend};
#endif
