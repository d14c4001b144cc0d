/* AVX-512 with VNNI, and with or without BF16 and VBMI: sixteen rows in a register, two of these for twelve tokens at a
 * time. Shares its double kernels, and the products of few tokens, with AMX (kernels_amx.c). */
#include "kernels.h"

#if defined(__x86_64__)
#include <string.h>

#include "kernels_avx512.h"

typedef __m512d v8;
typedef __m256i i8;

TARGET static inline v8 v8_load(const double *from) { return _mm512_loadu_pd(from); }
TARGET static inline v8 v8_from_int(const int32_t *from)
{
    return _mm512_cvtepi32_pd(_mm256_loadu_si256((const __m256i *)from));
}
TARGET static inline v8 v8_from_float(const float *from) { return _mm512_cvtps_pd(_mm256_loadu_ps(from)); }
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

#define ATTEND_VECTORS 2
#include "kernels_double.h"

typedef __m512 v16;

TARGET static inline v16 v16_load(const float *from) { return _mm512_loadu_ps(from); }
TARGET static inline v16 v16_set(float value) { return _mm512_set1_ps(value); }
TARGET static inline void v16_store(float *to, v16 v) { _mm512_storeu_ps(to, v); }
TARGET static inline v16 v16_add(v16 a, v16 b) { return _mm512_add_ps(a, b); }
TARGET static inline v16 v16_sub(v16 a, v16 b) { return _mm512_sub_ps(a, b); }
TARGET static inline v16 v16_mul(v16 a, v16 b) { return _mm512_mul_ps(a, b); }
TARGET static inline v16 v16_div(v16 a, v16 b) { return _mm512_div_ps(a, b); }
TARGET static inline v16 v16_sqrt(v16 a) { return _mm512_sqrt_ps(a); }
TARGET static inline v16 v16_fma(v16 a, v16 b, v16 c) { return _mm512_fmadd_ps(a, b, c); }
TARGET static inline v16 v16_max(v16 a, v16 b) { return _mm512_max_ps(a, b); }
TARGET static inline v16 v16_min(v16 a, v16 b) { return _mm512_min_ps(a, b); }
TARGET static inline v16 v16_abs(v16 a) { return _mm512_abs_ps(a); }
TARGET static inline v16 v16_signed(v16 a, v16 b) { return _mm512_or_ps(a, _mm512_and_ps(b, _mm512_set1_ps(-0.0f))); }
TARGET static inline v16 v16_less(v16 a, v16 b, v16 yes, v16 no)
{
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), no, yes);
}
TARGET static inline v16 v16_power(v16 n)
{
    const __m512i exponent = _mm512_slli_epi32(_mm512_castps_si512(n), 23);
    return _mm512_castsi512_ps(_mm512_add_epi32(exponent, _mm512_castps_si512(_mm512_set1_ps(1))));
}
TARGET static inline v16 v16_split(v16 x, v16 *e)
{
    const __m512i bits = _mm512_castps_si512(x), half = _mm512_castps_si512(_mm512_set1_ps(0x1.6a09e6p-1f));
    const __m512i exponent = _mm512_srai_epi32(_mm512_sub_epi32(bits, half), 23);
    *e = _mm512_cvtepi32_ps(exponent);
    return _mm512_castsi512_ps(_mm512_sub_epi32(bits, _mm512_slli_epi32(exponent, 23)));
}

#define PANEL_VECTORS 2
#define TILE_FLOATS 12
#define EACH_TILE(of) of(1) of(2) of(3) of(4) of(5) of(6) of(7) of(8) of(9) of(10) of(11) of(12)
#include "kernels_float.h"

/* ---- few tokens: the weights are multiplied as they are unpacked ---- */

/* Four weights in a byte are not shifted but masked, which leaves 1, 4, 16 or 64 times their value; each of the four has
 * sums of its own, divided at the end. (64 * 2) * 128 in pairs of four: at most 2^31 / 2^16 * 16 = 2^19 columns. */
enum { FEW = 3 };

#define FEW_PRODUCT(name, N, attribute, parts, columns_each, prepare, load)                                            \
    attribute static void name##_##N(uint8_t *restrict y, size_t y_stride, const uint8_t *a, const uint8_t *b,         \
                                     size_t columns, const uint8_t *restrict q, size_t q_stride,                       \
                                     const int32_t *restrict q_sum)                                                    \
    {                                                                                                                  \
        const __m512i masks[5] = {_mm512_set1_epi8(3), _mm512_set1_epi8(12), _mm512_set1_epi8(48),                     \
                                  _mm512_set1_epi8((char)192), _mm512_set1_epi8((char)192)};                           \
        __m512i sums[2][N][parts];                                                                                     \
        prepare;                                                                                                       \
        _Pragma("GCC unroll 12") for (size_t i = 0; i < 2 * N * parts; i++)                                            \
            sums[i / (N * parts)][i / parts % N][i % parts] = _mm512_setzero_si512();                                  \
        for (size_t c = 0; c < columns; c += columns_each, a += STEP_BYTES, b += STEP_BYTES, q += columns_each) {      \
            _mm_prefetch((const char *)a + 2048, _MM_HINT_T0);                                                         \
            _mm_prefetch((const char *)b + 2048, _MM_HINT_T0);                                                         \
            __m512i codes[2], more[2];                                                                                 \
            load;                                                                                                      \
            _Pragma("GCC unroll 5") for (size_t p = 0; p < columns_each / 4; p++)                                      \
                _Pragma("GCC unroll 3") for (size_t t = 0; t < N; t++)                                                 \
            {                                                                                                          \
                int32_t four;                                                                                          \
                memcpy(&four, q + t * q_stride + 4 * p, sizeof four);                                                  \
                _Pragma("GCC unroll 2") for (size_t i = 0; i < 2; i++)                                                 \
                {                                                                                                      \
                    __m512i *sum = &sums[i][t][p < parts ? p : parts - 1];                                             \
                    *sum = _mm512_dpbusd_epi32(*sum, _mm512_and_si512(p < 4 ? codes[i] : more[i], masks[p]),           \
                                               _mm512_set1_epi32(four));                                               \
                }                                                                                                      \
            }                                                                                                          \
        }                                                                                                              \
        _Pragma("GCC unroll 3") for (size_t t = 0; t < N; t++, y += 4 * y_stride)                                      \
            _Pragma("GCC unroll 2") for (size_t i = 0; i < 2; i++)                                                     \
        {                                                                                                              \
            __m512i sum = _mm512_sub_epi32(sums[i][t][0], _mm512_set1_epi32(q_sum[t]));                                \
            sum = _mm512_add_epi32(sum, _mm512_srai_epi32(sums[i][t][1], 2));                                          \
            sum = _mm512_add_epi32(sum, _mm512_srai_epi32(sums[i][t][2], 4));                                          \
            sum = _mm512_add_epi32(sum, _mm512_srai_epi32(sums[i][t][3], 6));                                          \
            if (i == 0 || a != b) _mm512_storeu_si512(y + 64 * i, sum);                                                \
        }                                                                                                              \
    }

#define LOAD_TERNARY                                                                                                   \
    codes[0] = more[0] = _mm512_load_si512(a);                                                                         \
    codes[1] = more[1] = _mm512_load_si512(b)
#define LOAD_DENSE                                                                                                     \
    codes[0] = look_up_trits(&tables, _mm512_load_si512(a), &more[0]);                                                 \
    codes[1] = look_up_trits(&tables, _mm512_load_si512(b), &more[1])
#define DENSE_TABLES const trit_tables tables = load_trit_tables()

FEW_PRODUCT(few_ternary, 1, TARGET, 4, 16, (void)0, LOAD_TERNARY)
FEW_PRODUCT(few_ternary, 2, TARGET, 4, 16, (void)0, LOAD_TERNARY)
FEW_PRODUCT(few_ternary, 3, TARGET, 4, 16, (void)0, LOAD_TERNARY)
FEW_PRODUCT(few_dense, 1, TARGET_BF16, 4, 20, DENSE_TABLES, LOAD_DENSE)
FEW_PRODUCT(few_dense, 2, TARGET_BF16, 4, 20, DENSE_TABLES, LOAD_DENSE)
FEW_PRODUCT(few_dense, 3, TARGET_BF16, 4, 20, DENSE_TABLES, LOAD_DENSE)

typedef void product_of_few(uint8_t *restrict, size_t, const uint8_t *, const uint8_t *, size_t, const uint8_t *restrict,
                            size_t, const int32_t *restrict);
static product_of_few *const few_ternary[FEW] = {few_ternary_1, few_ternary_2, few_ternary_3};
static product_of_few *const few_dense[FEW] = {few_dense_1, few_dense_2, few_dense_3};

/* ---- more tokens: the weights are unpacked first, or are bytes already ---- */

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
/* Two tiles of rows for N tokens, some steps of them, added to sums: [N, 32], or begun when q_sum is given. Four activations
 * of one token are broadcast from memory once for both tiles. ahead: weights to fetch meanwhile, ahead_bytes of them with
 * each step. */
#define PRODUCT(kind, N, sum_type, attribute)                                                                          \
    attribute static void kind##_##N(uint8_t *y, size_t y_stride, const uint8_t *sums, const uint8_t *a,               \
                                     const uint8_t *b, size_t steps, const uint8_t *restrict q, size_t q_stride,       \
                                     const int32_t *restrict q_sum, const uint8_t *const ahead[2], size_t ahead_bytes) \
    {                                                                                                                  \
        const size_t second_tile = a != b ? 4 * TILE_ROWS : 0;                                                         \
        const uint8_t *x[4] = {q, q + 3 * q_stride, q + 6 * q_stride, q + 9 * q_stride};                               \
        const uint8_t *fetch = ahead[0], *fetch_more = ahead[1];                                                       \
        sum_type first[N], second[N];                                                                                  \
        _Pragma("GCC unroll 12") for (size_t t = 0; t < N; t++)                                                        \
        {                                                                                                              \
            if (q_sum)                                                                                                 \
                first[t] = second[t] = kind##_start(q_sum[t]);                                                         \
            else {                                                                                                     \
                memcpy(&first[t], sums + 128 * t, sizeof first[t]);                                                    \
                memcpy(&second[t], sums + 128 * t + second_tile, sizeof second[t]);                                    \
            }                                                                                                          \
        }                                                                                                              \
        for (size_t i = 0; i < steps; i++, a += STEP_BYTES, b += STEP_BYTES) {                                         \
            const __m512i rows = _mm512_load_si512(a), more = _mm512_load_si512(b);                                    \
            _mm_prefetch((const char *)fetch, _MM_HINT_T0);                                                            \
            _mm_prefetch((const char *)fetch_more, _MM_HINT_T0);                                                       \
            fetch += ahead_bytes;                                                                                      \
            fetch_more += ahead_bytes;                                                                                 \
            _Pragma("GCC unroll 12") for (size_t t = 0; t < N; t++)                                                    \
            {                                                                                                          \
                int32_t four;                                                                                          \
                memcpy(&four, x[t / 3] + t % 3 * q_stride, sizeof four);                                               \
                first[t] = kind##_add(first[t], rows, four);                                                           \
                second[t] = kind##_add(second[t], more, four);                                                         \
            }                                                                                                          \
            _Pragma("GCC unroll 4") for (size_t g = 0; g < (N + 2) / 3; g++) x[g] += 4;                                \
        }                                                                                                              \
        _Pragma("GCC unroll 12") for (size_t t = 0; t < N; t++, y += 4 * y_stride)                                     \
        {                                                                                                              \
            if (second_tile) memcpy(y + second_tile, &second[t], sizeof second[t]);                                    \
            memcpy(y, &first[t], sizeof first[t]);                                                                     \
        }                                                                                                              \
    }

enum { TILE_TOKENS = 12 };
typedef void product_of_two(uint8_t *, size_t, const uint8_t *, const uint8_t *, const uint8_t *, size_t,
                            const uint8_t *restrict, size_t, const int32_t *restrict, const uint8_t *const[2], size_t);

#define PRODUCTS(kind, type, at)                                                                                       \
    PRODUCT(kind, 1, type, at) PRODUCT(kind, 2, type, at) PRODUCT(kind, 3, type, at) PRODUCT(kind, 4, type, at)        \
    PRODUCT(kind, 5, type, at) PRODUCT(kind, 6, type, at) PRODUCT(kind, 7, type, at) PRODUCT(kind, 8, type, at)        \
    PRODUCT(kind, 9, type, at) PRODUCT(kind, 10, type, at) PRODUCT(kind, 11, type, at) PRODUCT(kind, 12, type, at)     \
    static product_of_two *const kind[TILE_TOKENS] = {kind##_1, kind##_2, kind##_3, kind##_4,  kind##_5,  kind##_6,    \
                                                      kind##_7, kind##_8, kind##_9, kind##_10, kind##_11, kind##_12};

PRODUCTS(codes, __m512i, TARGET)
PRODUCTS(bytes, __m512i, TARGET)
PRODUCTS(floats, __m512, TARGET)

/* ---- bf16: as many steps at a time as have sums of their own (kernels.h) ---- */

/* What differs between sets: how many steps are one addition; what those of the even and odd columns read of the weights,
 * and of a token's sixteen pairs (each [16 / steps]); and the addition. `floats` take one step, as its floats; `halves` two,
 * for an instruction that adds the products of two bf16, the upper first. */
enum { floats_each = 1, halves_each = 2 };

TARGET static inline __m512i evens(__m512i pairs) { return _mm512_slli_epi32(pairs, 16); }
TARGET static inline __m512i odds(__m512i pairs) { return _mm512_and_si512(pairs, _mm512_set1_epi32((int)0xffff0000)); }

TARGET static inline void floats_pairs(int32_t *even, int32_t *odd, __m512i pairs)
{
    _mm512_storeu_si512(even, evens(pairs));
    _mm512_storeu_si512(odd, odds(pairs));
}
TARGET static inline void floats_rows(__m512i *even, __m512i *odd, const uint8_t *at)
{
    const __m512i pairs = _mm512_load_si512(at);
    *even = evens(pairs);
    *odd = odds(pairs);
}

TARGET_BF16 static inline void halves_pairs(int32_t *even, int32_t *odd, __m512i pairs)
{
    const __m512i order = _mm512_set_epi16(29, 31, 25, 27, 21, 23, 17, 19, 13, 15, 9, 11, 5, 7, 1, 3, /* odd */
                                           28, 30, 24, 26, 20, 22, 16, 18, 12, 14, 8, 10, 4, 6, 0, 2);
    const __m512i both = _mm512_permutexvar_epi16(order, pairs);
    _mm256_storeu_si256((__m256i *)(void *)even, _mm512_castsi512_si256(both));
    _mm256_storeu_si256((__m256i *)(void *)odd, _mm512_extracti64x4_epi64(both, 1));
}
TARGET_BF16 static inline void halves_rows(__m512i *even, __m512i *odd, const uint8_t *at)
{
    const __m512i first = _mm512_load_si512(at), second = _mm512_load_si512(at + STEP_BYTES);
    *even = _mm512_mask_blend_epi16(0x55555555, _mm512_slli_epi32(first, 16), second);
    *odd = _mm512_mask_blend_epi16(0x55555555, first, _mm512_srli_epi32(second, 16));
}
TARGET_BF16 static inline __m512 halves_add(__m512 sum, __m512i weights, int32_t two)
{
    return _mm512_dpbf16_ps(sum, (__m512bh)weights, (__m512bh)_mm512_set1_epi32(two));
}

/* As PRODUCT. totals are of all steps so far, and have no registers. */
#define BF16_PRODUCT(kind, N, attribute)                                                                               \
    attribute static void kind##_bf16_##N(uint8_t *y, size_t y_stride, const uint8_t *sums, const uint8_t *a,          \
                                          const uint8_t *b, size_t steps, const uint8_t *restrict q, size_t q_stride,  \
                                          const int32_t *restrict q_sum, const uint8_t *const ahead[2],                \
                                          size_t ahead_bytes)                                                          \
    {                                                                                                                  \
        enum { EACH = kind##_each, ADDITIONS = BF16_STEPS / EACH };                                                    \
        const uint8_t *fetch = ahead[0], *fetch_more = ahead[1];                                                       \
        _Alignas(64) float totals[N][2][TILE_ROWS] = {0};                                                              \
        for (size_t t = 0; t < N && !q_sum; t++) memcpy(totals[t], sums + 128 * t, sizeof totals[t]);                  \
        for (size_t i = 0; i < steps; i += BF16_STEPS, q += 4 * BF16_STEPS) {                                          \
            _Alignas(64) int32_t x[N][2][ADDITIONS];                                                                   \
            __m512 even[2][N], odd[2][N];                                                                              \
            _Pragma("GCC unroll 6") for (size_t t = 0; t < N; t++)                                                     \
            {                                                                                                          \
                kind##_pairs(x[t][0], x[t][1], _mm512_loadu_si512(q + t * q_stride));                                  \
                even[0][t] = even[1][t] = odd[0][t] = odd[1][t] = _mm512_setzero_ps();                                 \
            }                                                                                                          \
            for (size_t j = 0; j < ADDITIONS; j++, a += EACH * STEP_BYTES, b += EACH * STEP_BYTES) {                   \
                __m512i rows[2], more[2];                                                                              \
                kind##_rows(&rows[0], &rows[1], a);                                                                    \
                kind##_rows(&more[0], &more[1], b);                                                                    \
                for (size_t k = 0; k < EACH; k++, fetch += ahead_bytes, fetch_more += ahead_bytes) {                   \
                    _mm_prefetch((const char *)fetch, _MM_HINT_T0);                                                    \
                    _mm_prefetch((const char *)fetch_more, _MM_HINT_T0);                                               \
                }                                                                                                      \
                _Pragma("GCC unroll 6") for (size_t t = 0; t < N; t++)                                                 \
                {                                                                                                      \
                    even[0][t] = kind##_add(even[0][t], rows[0], x[t][0][j]);                                          \
                    even[1][t] = kind##_add(even[1][t], more[0], x[t][0][j]);                                          \
                    odd[0][t] = kind##_add(odd[0][t], rows[1], x[t][1][j]);                                            \
                    odd[1][t] = kind##_add(odd[1][t], more[1], x[t][1][j]);                                            \
                }                                                                                                      \
            }                                                                                                          \
            _Pragma("GCC unroll 6") for (size_t t = 0; t < N; t++)                                                     \
                _Pragma("GCC unroll 2") for (size_t tile = 0; tile < 2; tile++)                                        \
            {                                                                                                          \
                float *total = totals[t][tile];                                                                        \
                __m512 own = _mm512_add_ps(even[tile][t], odd[tile][t]);                                               \
                _mm512_store_ps(total, _mm512_add_ps(_mm512_load_ps(total), own));                                     \
            }                                                                                                          \
        }                                                                                                              \
        for (size_t t = 0; t < N; t++, y += 4 * y_stride) memcpy(y, totals[t], sizeof totals[t] / (1 + (a == b)));     \
    }

enum { BF16_TOKENS = 6 };
#define BF16_PRODUCTS(kind, at)                                                                                        \
    BF16_PRODUCT(kind, 1, at) BF16_PRODUCT(kind, 2, at) BF16_PRODUCT(kind, 3, at) BF16_PRODUCT(kind, 4, at)            \
    BF16_PRODUCT(kind, 5, at) BF16_PRODUCT(kind, 6, at)                                                                \
    static product_of_two *const kind##_bf16[BF16_TOKENS] = {kind##_bf16_1, kind##_bf16_2, kind##_bf16_3,              \
                                                             kind##_bf16_4, kind##_bf16_5, kind##_bf16_6};

BF16_PRODUCTS(floats, TARGET)
BF16_PRODUCTS(halves, TARGET_BF16)

/* Two tiles at a time; unpacked once for all tokens: a shift or mask takes the place of a product in the same ports. */
static void tiles_product(matrix_format format, product_of_two *const *products, product_of_few *const *few,
                          unpacker *unpack, uint8_t *restrict y, size_t y_stride, const uint8_t *weights, size_t tiles,
                          size_t columns, const uint8_t *restrict q, size_t q_stride, const int32_t *restrict q_sum,
                          size_t tokens, uint8_t *unpacked)
{
    size_t steps = steps_of(format, columns), bytes = tile_bytes(format, columns);
    const size_t most = multiplies_halves(format) ? BF16_TOKENS : TILE_TOKENS; /* at a time */
    /* What comes next is fetched evenly: a core waits for no more than some twenty lines of memory at a time. */
    const size_t groups = (tokens + most - 1) / most, share = groups ? (bytes - 1) / (steps * groups) + 1 : 0;
    uint8_t *sums = unpacked + 4 * BLOCK_BYTES; /* [tokens, 32] of all blocks but the last: y's rows lie far apart */
    for (size_t tile = 0; tile < tiles; tile += 2, weights += 2 * bytes, y += 4 * 2 * TILE_ROWS) {
        const uint8_t *a = weights, *b = tile + 1 < tiles ? weights + bytes : weights;
        if (few && tokens && tokens <= FEW) {
            few[tokens - 1](y, y_stride, a, b, columns, q, q_stride, q_sum);
            continue;
        }
        for (size_t from = 0, count; from < steps; from += count) {
            const uint8_t *rows = a + from * STEP_BYTES, *more = b + from * STEP_BYTES;
            count = steps - from < BLOCK_STEPS ? steps - from : BLOCK_STEPS;
            if (unpack) {
                unpack(unpacked, a, columns, 4 * from, 4 * count);
                if (b != a) unpack(unpacked + 2 * BLOCK_BYTES, b, columns, 4 * from, 4 * count);
                rows = unpacked;
                more = b != a ? unpacked + 2 * BLOCK_BYTES : unpacked;
            }
            const int last = from + count == steps;
            const uint8_t *next = last ? a + 2 * bytes : a + bytes * (from + count) / steps;
            for (size_t t = 0; t < tokens; t += most, next += count * share) {
                const uint8_t *const ahead[2] = {next, next + (b - a)};
                products[(tokens - t < most ? tokens - t : most) - 1](
                    last ? y + 4 * t * y_stride : sums + 128 * t, last ? y_stride : 32, sums + 128 * t, rows, more, count,
                    q + t * q_stride + 4 * from, q_stride, from ? NULL : q_sum + t, ahead, share);
            }
        }
    }
}

#define MATRIX_PRODUCT(name, format, kind, few, unpack)                                                                \
    static void name(void *restrict y, size_t y_stride, const uint8_t *restrict weights, size_t tiles, size_t columns, \
                     const uint8_t *restrict q, size_t q_stride, const int32_t *restrict q_sum, size_t tokens,         \
                     uint8_t *restrict unpacked)                                                                       \
    {                                                                                                                  \
        tiles_product(format, kind, few, unpack, y, y_stride, weights, tiles, columns, q, q_stride, q_sum, tokens,     \
                      unpacked);                                                                                       \
    }

TARGET static void unpack_dense_without(uint8_t *restrict out, const uint8_t *restrict tile, size_t columns, size_t from,
                                        size_t count)
{
    (void)columns;
    unpack_dense_plain(out, tile + from / 20 * STEP_BYTES, count);
}

MATRIX_PRODUCT(ternary_product, TERNARY, codes, few_ternary, unpack_ternary)
MATRIX_PRODUCT(dense_product, TERNARY_DENSE, codes, few_dense, unpack_dense)
MATRIX_PRODUCT(dense_product_without, TERNARY_DENSE, codes, NULL, unpack_dense_without)
MATRIX_PRODUCT(int8_product, INT8, bytes, NULL, NULL)
MATRIX_PRODUCT(int4_product, INT4, bytes, NULL, unpack_int4)
MATRIX_PRODUCT(fp32_product, FP32, floats, NULL, NULL)
MATRIX_PRODUCT(fp8_product, FP8, halves_bf16, NULL, unpack_fp8)
MATRIX_PRODUCT(fp8_product_without, FP8, floats_bf16, NULL, unpack_fp8)
MATRIX_PRODUCT(bf16_product, BF16, halves_bf16, NULL, NULL)
MATRIX_PRODUCT(bf16_product_without, BF16, floats_bf16, NULL, NULL)

const bitrl_kernels bitrl_kernels_avx512vnni = {
    "avx512vnni",
    {ternary_product, dense_product_without, int8_product, int4_product, fp8_product_without, bf16_product_without,
     fp32_product},
    DOUBLE_KERNELS, FLOAT_KERNELS};
const bitrl_kernels bitrl_kernels_avx512bf16 = {
    "avx512bf16",
    {ternary_product, dense_product, int8_product, int4_product, fp8_product, bf16_product, fp32_product},
    DOUBLE_KERNELS, FLOAT_KERNELS};
const bitrl_kernels bitrl_kernels_avx512amx = {
    "avx512amx",
    {bitrl_amx_ternary, bitrl_amx_dense, bitrl_amx_int8, bitrl_amx_int4, bitrl_amx_fp8, bitrl_amx_bf16, fp32_product},
    DOUBLE_KERNELS, FLOAT_KERNELS};
#endif
