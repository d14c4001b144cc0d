/* AVX2: eight rows in a register, four tokens of sums. */
#include "kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>
#include <stdbool.h>
#include <string.h>

#define TARGET __attribute__((target("avx2,fma")))

typedef struct {
    __m256d low, high;
} v8;
typedef __m256i i8;

TARGET static inline v8 v8_load(const double *from) { return (v8){_mm256_loadu_pd(from), _mm256_loadu_pd(from + 4)}; }
TARGET static inline v8 v8_from_int(const int32_t *from)
{
    return (v8){_mm256_cvtepi32_pd(_mm_loadu_si128((const __m128i *)from)),
                _mm256_cvtepi32_pd(_mm_loadu_si128((const __m128i *)(from + 4)))};
}
TARGET static inline v8 v8_from_float(const float *from)
{
    return (v8){_mm256_cvtps_pd(_mm_loadu_ps(from)), _mm256_cvtps_pd(_mm_loadu_ps(from + 4))};
}
TARGET static inline v8 v8_set(double value) { return (v8){_mm256_set1_pd(value), _mm256_set1_pd(value)}; }
TARGET static inline v8 v8_add(v8 a, v8 b)
{
    return (v8){_mm256_add_pd(a.low, b.low), _mm256_add_pd(a.high, b.high)};
}
TARGET static inline v8 v8_sub(v8 a, v8 b)
{
    return (v8){_mm256_sub_pd(a.low, b.low), _mm256_sub_pd(a.high, b.high)};
}
TARGET static inline v8 v8_mul(v8 a, v8 b)
{
    return (v8){_mm256_mul_pd(a.low, b.low), _mm256_mul_pd(a.high, b.high)};
}
TARGET static inline v8 v8_div(v8 a, v8 b)
{
    return (v8){_mm256_div_pd(a.low, b.low), _mm256_div_pd(a.high, b.high)};
}
TARGET static inline v8 v8_fma(v8 a, v8 b, v8 c)
{
    return (v8){_mm256_fmadd_pd(a.low, b.low, c.low), _mm256_fmadd_pd(a.high, b.high, c.high)};
}
TARGET static inline v8 v8_max(v8 a, v8 b)
{
    return (v8){_mm256_max_pd(a.low, b.low), _mm256_max_pd(a.high, b.high)};
}
TARGET static inline v8 v8_abs(v8 a)
{
    const __m256d sign = _mm256_set1_pd(-0.0);
    return (v8){_mm256_andnot_pd(sign, a.low), _mm256_andnot_pd(sign, a.high)};
}
TARGET static inline void v8_store(double *to, v8 v)
{
    _mm256_storeu_pd(to, v.low);
    _mm256_storeu_pd(to + 4, v.high);
}
TARGET static inline __m256d times_power(__m256d p, __m256d n)
{
    return _mm256_castsi256_pd(
        _mm256_add_epi64(_mm256_castpd_si256(p), _mm256_slli_epi64(_mm256_castpd_si256(n), 52)));
}
TARGET static inline v8 v8_times_power(v8 p, v8 n)
{
    return (v8){times_power(p.low, n.low), times_power(p.high, n.high)};
}
TARGET static inline i8 i8_round(v8 v)
{
    const __m256d rounder = _mm256_set1_pd(0x1.8p52); /* not vcvtpd2dq: it obeys the caller's rounding mode */
    const __m256i low_halves = _mm256_setr_epi32(0, 2, 4, 6, 0, 2, 4, 6);
    __m256i low = _mm256_castpd_si256(_mm256_add_pd(v.low, rounder));
    __m256i high = _mm256_castpd_si256(_mm256_add_pd(v.high, rounder));
    return _mm256_blend_epi32(_mm256_permutevar8x32_epi32(low, low_halves),
                              _mm256_permutevar8x32_epi32(high, low_halves), 0xf0);
}
TARGET static inline i8 i8_add(i8 a, i8 b) { return _mm256_add_epi32(a, b); }
TARGET static inline int32_t i8_sum(i8 v)
{
    __m128i four = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(four, _mm_shuffle_epi32(four, 0xb1)));
}
TARGET static inline uint64_t i8_bytes(i8 v)
{
    __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    return (uint64_t)_mm_cvtsi128_si64(_mm_packs_epi16(words, words));
}

#define ATTEND_VECTORS 1
#include "kernels_double.h"

typedef struct {
    __m256 low, high;
} v16;

TARGET static inline v16 v16_load(const float *from) { return (v16){_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)}; }
TARGET static inline v16 v16_set(float value) { return (v16){_mm256_set1_ps(value), _mm256_set1_ps(value)}; }
TARGET static inline void v16_store(float *to, v16 v)
{
    _mm256_storeu_ps(to, v.low);
    _mm256_storeu_ps(to + 8, v.high);
}
#define V16_OF_TWO(name)                                                                               \
    TARGET static inline v16 v16_##name(v16 a, v16 b)                                                  \
    {                                                                                                  \
        return (v16){_mm256_##name##_ps(a.low, b.low), _mm256_##name##_ps(a.high, b.high)};            \
    }
V16_OF_TWO(add) V16_OF_TWO(sub) V16_OF_TWO(mul) V16_OF_TWO(div) V16_OF_TWO(max) V16_OF_TWO(min)
TARGET static inline v16 v16_sqrt(v16 a) { return (v16){_mm256_sqrt_ps(a.low), _mm256_sqrt_ps(a.high)}; }
TARGET static inline v16 v16_fma(v16 a, v16 b, v16 c)
{
    return (v16){_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
TARGET static inline v16 v16_abs(v16 a)
{
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return (v16){_mm256_andnot_ps(sign, a.low), _mm256_andnot_ps(sign, a.high)};
}
TARGET static inline v16 v16_signed(v16 a, v16 b)
{
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return (v16){_mm256_or_ps(a.low, _mm256_and_ps(sign, b.low)), _mm256_or_ps(a.high, _mm256_and_ps(sign, b.high))};
}
TARGET static inline v16 v16_less(v16 a, v16 b, v16 yes, v16 no)
{
    return (v16){_mm256_blendv_ps(no.low, yes.low, _mm256_cmp_ps(a.low, b.low, _CMP_LT_OQ)),
                 _mm256_blendv_ps(no.high, yes.high, _mm256_cmp_ps(a.high, b.high, _CMP_LT_OQ))};
}
TARGET static inline __m256 power(__m256 n)
{
    const __m256i exponent = _mm256_slli_epi32(_mm256_castps_si256(n), 23);
    return _mm256_castsi256_ps(_mm256_add_epi32(exponent, _mm256_castps_si256(_mm256_set1_ps(1))));
}
TARGET static inline v16 v16_power(v16 n) { return (v16){power(n.low), power(n.high)}; }
TARGET static inline __m256 split(__m256 x, __m256 *e)
{
    const __m256i bits = _mm256_castps_si256(x), half = _mm256_castps_si256(_mm256_set1_ps(0x1.6a09e6p-1f));
    const __m256i exponent = _mm256_srai_epi32(_mm256_sub_epi32(bits, half), 23);
    *e = _mm256_cvtepi32_ps(exponent);
    return _mm256_castsi256_ps(_mm256_sub_epi32(bits, _mm256_slli_epi32(exponent, 23)));
}
TARGET static inline v16 v16_split(v16 x, v16 *e) { return (v16){split(x.low, &e->low), split(x.high, &e->high)}; }

#define PANEL_VECTORS 1
#define TILE_FLOATS 6
#define EACH_TILE(of) of(1) of(2) of(3) of(4) of(5) of(6)
#include "kernels_float.h"

/* The next tile's weights are fetched from memory while the one at hand is multiplied, some with every CHUNK steps: a core waits
 * for no more than some twenty lines of memory at a time. */
enum { CHUNK = 16 };
typedef struct {
    const uint8_t *from;
    size_t bytes; /* with each chunk */
} fetched;
TARGET static inline void fetch(fetched *ahead, size_t chunks)
{
    const uint8_t *end = ahead->from + chunks * ahead->bytes;
    for (const uint8_t *line = ahead->from; line < end; line += 64) _mm_prefetch((const char *)line, _MM_HINT_T0);
    ahead->from = end;
}

/* `bytes` from there on, in so many calls that go through so many steps each. Where weights are read as fast as they come, which is
 * with few calls, the CPU fetches them better by itself. */
static inline fetched fetch_evenly(const uint8_t *from, size_t bytes, size_t steps, size_t calls)
{
    enum { FEW = 3 };
    return (fetched){from, calls > FEW ? bytes * CHUNK / (steps * calls) + 1 : 0};
}
static inline fetched after_a_call(fetched ahead, size_t steps)
{
    return (fetched){ahead.from + steps / CHUNK * ahead.bytes, ahead.bytes};
}

/* The j-th of a group of four steps of ternary weights, 0 to 2 of a tile's rows: packed, or a byte each. */
typedef struct {
    __m256i low, high;
} tile_step;
enum { ternary_bytes = STEP_BYTES, trits_bytes = 4 * STEP_BYTES };

TARGET static inline __m256i load_weights(const uint8_t *from) { return _mm256_load_si256((const __m256i *)from); }
TARGET static inline tile_step ternary_step(const uint8_t *group, int j)
{
    const __m256i mask = _mm256_set1_epi8(3), low = load_weights(group), high = load_weights(group + STEP_BYTES / 2);
    return (tile_step){_mm256_and_si256(_mm256_srli_epi16(low, 2 * j), mask), _mm256_and_si256(_mm256_srli_epi16(high, 2 * j), mask)};
}
TARGET static inline tile_step trits_step(const uint8_t *group, int j)
{
    return (tile_step){load_weights(group + j * STEP_BYTES), load_weights(group + j * STEP_BYTES + STEP_BYTES / 2)};
}

/* y += sums of pairs of 16 bits. */
TARGET static inline void add_pairs(uint8_t *y, __m256i pairs)
{
    const __m256i sums = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
    _mm256_storeu_si256((__m256i *)y, _mm256_add_epi32(_mm256_loadu_si256((const __m256i *)y), sums));
}

/* In a register, and next: GCC would add the products of a group among themselves first, for which there are too few. */
#define HOLD(v) __asm__("" : "+x"(v))

/* A tile of rows for N tokens. `vpmaddubsw` adds two products of at most 2 * 127 in 16 bits, where there is room for as many of
 * these as WIDE steps have (32512): a row may be of any length. */
enum { WIDE = 64 };
#define TERNARY_PRODUCT(kind, N)                                                                                       \
    TARGET static void kind##_##N(uint8_t *restrict y, size_t y_stride, const uint8_t *restrict weights, size_t steps, \
                                  const uint8_t *restrict q, size_t q_stride, const int32_t *restrict q_sum,           \
                                  fetched ahead)                                                                       \
    {                                                                                                                  \
        for (size_t t = 0; t < N; t++) __builtin_prefetch(y + 4 * t * y_stride, 1); /* lines far apart, together */    \
        for (size_t t = 0; t < N; t++)                                                                                 \
            for (size_t half = 0; half < 2; half++)                                                                    \
                _mm256_storeu_si256((__m256i *)(y + 4 * t * y_stride) + half, _mm256_set1_epi32(-q_sum[t]));           \
        for (size_t i = 0, end; i < steps;) {                                                                          \
            fetch(&ahead, WIDE / CHUNK);                                                                               \
            __m256i low[N], high[N];                                                                                   \
            _Pragma("GCC unroll 4") for (size_t t = 0; t < N; t++) low[t] = high[t] = _mm256_setzero_si256();          \
            for (end = steps - i < WIDE ? steps : i + WIDE; i < end; i += 4, weights += kind##_bytes, q += 16)         \
                _Pragma("GCC unroll 4") for (int j = 0; j < 4; j++)                                                    \
                {                                                                                                      \
                    const tile_step rows = kind##_step(weights, j);                                                    \
                    _Pragma("GCC unroll 4") for (size_t t = 0; t < N; t++)                                             \
                    {                                                                                                  \
                        int32_t four;                                                                                  \
                        memcpy(&four, q + t * q_stride + 4 * j, sizeof four);                                          \
                        const __m256i x = _mm256_set1_epi32(four);                                                     \
                        low[t] = _mm256_add_epi16(low[t], _mm256_maddubs_epi16(rows.low, x));                          \
                        high[t] = _mm256_add_epi16(high[t], _mm256_maddubs_epi16(rows.high, x));                       \
                        HOLD(low[t]);                                                                                  \
                        HOLD(high[t]);                                                                                 \
                    }                                                                                                  \
                }                                                                                                      \
            _Pragma("GCC unroll 4") for (size_t t = 0; t < N; t++)                                                     \
            {                                                                                                          \
                add_pairs(y + 4 * t * y_stride, low[t]);                                                               \
                add_pairs(y + 4 * t * y_stride + 32, high[t]);                                                         \
            }                                                                                                          \
        }                                                                                                              \
    }

TERNARY_PRODUCT(ternary, 1) TERNARY_PRODUCT(ternary, 2) TERNARY_PRODUCT(ternary, 3) TERNARY_PRODUCT(ternary, 4)
TERNARY_PRODUCT(trits, 1) TERNARY_PRODUCT(trits, 2) TERNARY_PRODUCT(trits, 3) TERNARY_PRODUCT(trits, 4)

/* What differs between kinds of weights: what is made of a step of 32 bytes of them, the sum they start from, and what one
 * step adds to it. */
typedef __m256i floats_weights;
typedef struct {
    __m256i codes, sizes;
} bytes_weights;

/* Bytes of offset 128, whose sign moves to the activations: |127 * 127 * 2| never saturates. */
TARGET static inline bytes_weights bytes_take(const uint8_t *from)
{
    const __m256i codes = _mm256_xor_si256(load_weights(from), _mm256_set1_epi8((char)0x80));
    return (bytes_weights){codes, _mm256_abs_epi8(codes)};
}
TARGET static inline __m256i bytes_start(int32_t q_sum) { return (void)q_sum, _mm256_setzero_si256(); }
TARGET static inline __m256i bytes_add(__m256i sum, bytes_weights weights, __m256i x)
{
    const __m256i pairs = _mm256_maddubs_epi16(weights.sizes, _mm256_sign_epi8(x, weights.codes));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
TARGET static inline __m256i floats_take(const uint8_t *from) { return load_weights(from); }
TARGET static inline __m256i floats_start(int32_t q_sum) { return (void)q_sum, _mm256_setzero_si256(); }
TARGET static inline __m256i floats_add(__m256i sum, __m256i weights, __m256i x)
{
    return _mm256_castps_si256(
        _mm256_fmadd_ps(_mm256_castsi256_ps(weights), _mm256_castsi256_ps(x), _mm256_castsi256_ps(sum)));
}
/* A tile of rows for N tokens, of weights that need no unpacking. */
#define PRODUCT(kind, N)                                                                                               \
    TARGET static void kind##_##N(uint8_t *restrict y, size_t y_stride, const uint8_t *restrict weights, size_t steps, \
                                  const uint8_t *restrict q, size_t q_stride, const int32_t *restrict q_sum,           \
                                  fetched ahead)                                                                       \
    {                                                                                                                  \
        __m256i sums[N][2];                                                                                            \
        _Pragma("GCC unroll 6") for (size_t t = 0; t < N; t++) sums[t][0] = sums[t][1] = kind##_start(q_sum[t]);       \
        for (size_t i = 0; i < steps; i += CHUNK) {                                                                    \
            fetch(&ahead, 1);                                                                                          \
            for (size_t j = 0; j < CHUNK; j++, weights += STEP_BYTES, q += 4) {                                        \
                const kind##_weights low = kind##_take(weights), high = kind##_take(weights + STEP_BYTES / 2);         \
                _Pragma("GCC unroll 6") for (size_t t = 0; t < N; t++)                                                 \
                {                                                                                                      \
                    int32_t four;                                                                                      \
                    memcpy(&four, q + t * q_stride, sizeof four);                                                      \
                    const __m256i x = _mm256_set1_epi32(four);                                                         \
                    sums[t][0] = kind##_add(sums[t][0], low, x);                                                       \
                    sums[t][1] = kind##_add(sums[t][1], high, x);                                                      \
                }                                                                                                      \
            }                                                                                                          \
        }                                                                                                              \
        _Pragma("GCC unroll 6") for (size_t t = 0; t < N; t++)                                                         \
        {                                                                                                              \
            _mm256_storeu_si256((__m256i *)(y + 4 * t * y_stride), sums[t][0]);                                        \
            _mm256_storeu_si256((__m256i *)(y + 4 * t * y_stride) + 1, sums[t][1]);                                    \
        }                                                                                                              \
    }

/* Bytes with four steps added in 16 bits before they are widened, as of ternary weights. One of offset 128 is at most 255, so
 * there is room where the activations that share a lane, two of every four in a group, add up to at most QUIET: the positive ones,
 * and the negative ones. Of language models most groups are so. In a copy of the others, the largest activations become zeros,
 * and what these would have given is added afterwards. */
enum { QUIET = 32767 / 255, GROUP = 16 };

/* An activation, or one of each lane, at its place among four; the others are zeros. */
typedef struct {
    uint32_t step;
    int32_t four;
} loud_step;

/* A dword of two words of 16 bits for the two lanes of each of four groups, and for positive and negative bytes: zeros, unless
 * these are too many. */
TARGET static inline __m256i loudness(__m256i first, __m256i second)
{
    const __m256i zero = _mm256_setzero_si256(), ones = _mm256_set1_epi8(1);
    __m256 halves[2];
    for (int sign = 0; sign < 2; sign++) {
        const __m256i a = _mm256_maddubs_epi16(_mm256_max_epi8(first, zero), ones);
        const __m256i b = _mm256_maddubs_epi16(_mm256_max_epi8(second, zero), ones);
        halves[sign] = _mm256_castsi256_ps(_mm256_add_epi16(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b)));
        first = _mm256_sub_epi8(zero, first);
        second = _mm256_sub_epi8(zero, second);
    }
    const __m256i even = _mm256_castps_si256(_mm256_shuffle_ps(halves[0], halves[1], 0x88));
    const __m256i odd = _mm256_castps_si256(_mm256_shuffle_ps(halves[0], halves[1], 0xdd));
    return _mm256_subs_epu16(_mm256_add_epi16(even, odd), _mm256_set1_epi16(QUIET));
}

/* Moves the largest bytes of a group to a list until it is quiet; returns how many entries follow. */
static size_t move_loud(int8_t *restrict group, loud_step *restrict list, size_t step)
{
    int8_t moved[GROUP] = {0};
    size_t count = 0;
    for (size_t lane = 0; lane < 4; lane += 2)
        for (int sign = -1; sign < 2; sign += 2)
            for (int sum;;) {
                size_t largest = lane;
                sum = 0;
                for (size_t i = lane; i < GROUP; i += i % 2 ? 3 : 1) {
                    const int value = sign * group[i];
                    sum += value > 0 ? value : 0;
                    largest = value > sign * group[largest] ? i : largest;
                }
                if (sum <= QUIET) break;
                moved[largest] = group[largest];
                group[largest] = 0;
            }
    for (size_t i = 0; i < GROUP; i += 4)
        for (size_t odd = 0; odd < 2; odd++) { /* two of a lane might be too much */
            const int8_t alone[4] = {odd ? 0 : moved[i], odd ? moved[i + 1] : 0, odd ? 0 : moved[i + 2], odd ? moved[i + 3] : 0};
            int32_t four;
            memcpy(&four, alone, sizeof four);
            if (four) list[count++] = (loud_step){(uint32_t)(step + i / 4), four};
        }
    return count;
}

/* The loud groups that a token may have: more would cost more than they spare. Each has up to eight entries. */
static inline size_t most_loud(size_t columns) { return columns / GROUP / 6; }

/* quiet: [columns] a copy of a token's activations; list: what was taken out of it, *count entries. False when it has too many
 * loud groups, and there is no copy. */
TARGET static bool quieten(uint8_t *restrict quiet, loud_step *restrict list, size_t *count, const uint8_t *restrict q, size_t columns)
{
    enum { MOST_COLUMNS = 65536 };
    uint8_t loud[MOST_COLUMNS / (4 * GROUP)];
    size_t groups = 0;
    for (size_t c = 0; c < columns; c += 4 * GROUP) {
        const __m256i a = _mm256_loadu_si256((const __m256i *)(q + c)), b = _mm256_loadu_si256((const __m256i *)(q + c + 32));
        const __m256i silent = _mm256_cmpeq_epi32(loudness(a, b), _mm256_setzero_si256());
        const int bits = _mm256_movemask_ps(_mm256_castsi256_ps(silent)) ^ 255;
        _mm256_storeu_si256((__m256i *)(quiet + c), a);
        _mm256_storeu_si256((__m256i *)(quiet + c + 32), b);
        loud[c / (4 * GROUP)] = (uint8_t)((bits | bits >> 2) & 0x33); /* of groups 0 and 2, 1 and 3 */
        groups += (size_t)__builtin_popcount(loud[c / (4 * GROUP)]);
    }
    *count = 0;
    if (groups > most_loud(columns)) return false;
    for (size_t c = 0; c < columns && groups; c += 4 * GROUP)
        for (size_t g = 0; g < 4 && loud[c / (4 * GROUP)]; g++) {
            if (!(loud[c / (4 * GROUP)] >> (g % 2 * 4 + g / 2) & 1)) continue;
            *count += move_loud((int8_t *)quiet + c + g * GROUP, list + *count, c / 4 + g * 4);
        }
    return true;
}

/* Half a tile of rows for N tokens. */
#define QUIET_PRODUCT(N)                                                                                               \
    TARGET static void quiet_##N(uint8_t *restrict y, size_t y_stride, const uint8_t *restrict weights, size_t steps,  \
                                 const uint8_t *restrict q, size_t q_stride, const int32_t *restrict q_sum,            \
                                 fetched ahead)                                                                        \
    {                                                                                                                  \
        const __m256i ones = _mm256_set1_epi16(1);                                                                     \
        __m256i sums[N];                                                                                               \
        for (size_t t = 0; t < N; t++) sums[t] = _mm256_set1_epi32(-128 * q_sum[t]);                                   \
        for (size_t i = 0, end; i < steps;) {                                                                          \
            fetch(&ahead, WIDE / CHUNK);                                                                                          \
            for (end = steps - i < WIDE ? steps : i + WIDE; i < end; i += 4, weights += 4 * STEP_BYTES, q += GROUP) {  \
                __m256i rows[4];                                                                                       \
                _Pragma("GCC unroll 4") for (size_t j = 0; j < 4; j++)                                                 \
                    rows[j] = _mm256_load_si256((const __m256i *)(weights + j * STEP_BYTES));                          \
                _Pragma("GCC unroll 8") for (size_t t = 0; t < N; t++)                                                 \
                {                                                                                                      \
                    __m256i pairs[4];                                                                                  \
                    _Pragma("GCC unroll 4") for (size_t j = 0; j < 4; j++)                                             \
                    {                                                                                                  \
                        int32_t four;                                                                                  \
                        memcpy(&four, q + t * q_stride + 4 * j, sizeof four);                                          \
                        pairs[j] = _mm256_maddubs_epi16(rows[j], _mm256_set1_epi32(four));                             \
                    }                                                                                                  \
                    const __m256i low = _mm256_add_epi16(pairs[0], pairs[1]);                                          \
                    const __m256i high = _mm256_add_epi16(pairs[2], pairs[3]);                                         \
                    sums[t] = _mm256_add_epi32(sums[t], _mm256_madd_epi16(_mm256_add_epi16(low, high), ones));         \
                }                                                                                                      \
            }                                                                                                          \
        }                                                                                                              \
        for (size_t t = 0; t < N; t++) _mm256_storeu_si256((__m256i *)(y + 4 * t * y_stride), sums[t]);                \
    }

QUIET_PRODUCT(1) QUIET_PRODUCT(2) QUIET_PRODUCT(3) QUIET_PRODUCT(4)
QUIET_PRODUCT(5) QUIET_PRODUCT(6) QUIET_PRODUCT(7) QUIET_PRODUCT(8)

/* y: a token's sums with a tile. */
TARGET static void add_loud(uint8_t *restrict y, const uint8_t *restrict weights, const loud_step *restrict list, size_t count)
{
    const __m256i ones = _mm256_set1_epi16(1);
    __m256i sums[2] = {_mm256_loadu_si256((const __m256i *)y), _mm256_loadu_si256((const __m256i *)y + 1)};
    for (size_t i = 0; i < count; i++) {
        const __m256i *rows = (const __m256i *)(weights + list[i].step * STEP_BYTES), x = _mm256_set1_epi32(list[i].four);
        sums[0] = _mm256_add_epi32(sums[0], _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_load_si256(rows), x), ones));
        sums[1] = _mm256_add_epi32(sums[1], _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_load_si256(rows + 1), x), ones));
    }
    _mm256_storeu_si256((__m256i *)y, sums[0]);
    _mm256_storeu_si256((__m256i *)y + 1, sums[1]);
}

/* bf16: as many steps at a time as have sums of their own (kernels.h). totals are of all steps so far, and have no registers. */
TARGET static inline __m256 evens(__m256i pairs) { return _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16)); }
TARGET static inline __m256 odds(__m256i pairs)
{
    return _mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32((int)0xffff0000)));
}

#define BF16_PRODUCT(N)                                                                                                \
    TARGET static void bf16_##N(uint8_t *restrict y, size_t y_stride, const uint8_t *restrict weights, size_t steps,   \
                                const uint8_t *restrict q, size_t q_stride, const int32_t *restrict q_sum,             \
                                fetched ahead)                                                                         \
    {                                                                                                                  \
        _Alignas(32) float totals[N][2][8] = {0};                                                                      \
        (void)q_sum;                                                                                                   \
        for (size_t i = 0; i < steps; i += BF16_STEPS) {                                                               \
            fetch(&ahead, BF16_STEPS / CHUNK);                                                                         \
            __m256 even[N][2], odd[N][2];                                                                              \
            _Pragma("GCC unroll 4") for (size_t t = 0; t < N; t++)                                                     \
                even[t][0] = even[t][1] = odd[t][0] = odd[t][1] = _mm256_setzero_ps();                                 \
            for (size_t j = 0; j < BF16_STEPS; j++, weights += STEP_BYTES, q += 4) {                                   \
                const __m256i low = _mm256_load_si256((const __m256i *)weights);                                       \
                const __m256i high = _mm256_load_si256((const __m256i *)weights + 1);                                  \
                _Pragma("GCC unroll 4") for (size_t t = 0; t < N; t++)                                                 \
                {                                                                                                      \
                    int32_t two;                                                                                       \
                    memcpy(&two, q + t * q_stride, sizeof two);                                                        \
                    const __m256i x = _mm256_set1_epi32(two);                                                          \
                    even[t][0] = _mm256_fmadd_ps(evens(low), evens(x), even[t][0]);                                    \
                    even[t][1] = _mm256_fmadd_ps(evens(high), evens(x), even[t][1]);                                   \
                    odd[t][0] = _mm256_fmadd_ps(odds(low), odds(x), odd[t][0]);                                        \
                    odd[t][1] = _mm256_fmadd_ps(odds(high), odds(x), odd[t][1]);                                       \
                }                                                                                                      \
            }                                                                                                          \
            _Pragma("GCC unroll 4") for (size_t t = 0; t < N; t++)                                                     \
                _Pragma("GCC unroll 2") for (size_t half = 0; half < 2; half++)                                        \
                _mm256_store_ps(totals[t][half], _mm256_add_ps(_mm256_load_ps(totals[t][half]),                        \
                                                               _mm256_add_ps(even[t][half], odd[t][half])));           \
        }                                                                                                              \
        for (size_t t = 0; t < N; t++) memcpy(y + 4 * t * y_stride, totals[t], sizeof totals[t]);                      \
    }

/* A tile for 1 to `together` tokens, whose sums have registers. */
typedef void some_product(uint8_t *restrict, size_t, const uint8_t *restrict, size_t, const uint8_t *restrict,
                          size_t, const int32_t *restrict, fetched);

enum { ternary_together = 4, trits_together = 4, bytes_together = 4, floats_together = 6, bf16_together = 2 };

#define TABLE(kind) static some_product *const kind[] = {kind##_1, kind##_2, kind##_3, kind##_4};
TABLE(ternary)
TABLE(trits)
PRODUCT(bytes, 1) PRODUCT(bytes, 2) PRODUCT(bytes, 3) PRODUCT(bytes, 4) TABLE(bytes)
PRODUCT(floats, 1) PRODUCT(floats, 2) PRODUCT(floats, 3) PRODUCT(floats, 4) PRODUCT(floats, 5) PRODUCT(floats, 6)
static some_product *const floats[] = {floats_1, floats_2, floats_3, floats_4, floats_5, floats_6};
BF16_PRODUCT(1) BF16_PRODUCT(2)
static some_product *const bf16[] = {bf16_1, bf16_2};

/* One packed tile of fp8 -> bf16, [steps][16 rows][2]: the upper and the lower byte of each, 32 numbers at a time. A number's
 * exponent grows by 120; one below 2^-6 (0 to 7) has none of its own, and is looked up. */
TARGET static void unpack_fp8(uint8_t *restrict out, const uint8_t *restrict packed, size_t columns)
{
    const __m256i upper_small = _mm256_broadcastsi128_si256(_mm_setr_epi8(FP8_SMALL(>> 8)));
    const __m256i lower_small = _mm256_broadcastsi128_si256(_mm_setr_epi8(FP8_SMALL(& 255)));
    const __m256i sign = _mm256_set1_epi8((char)0x80), seven = _mm256_set1_epi8(7);
    for (size_t c = 0; c < columns; c += 4, out += STEP_BYTES)
        for (size_t half = 0; half < 2; half++, packed += STEP_BYTES / 2, out += STEP_BYTES / 2) {
            const __m256i codes = _mm256_load_si256((const __m256i *)packed), magnitude = _mm256_andnot_si256(sign, codes);
            const __m256i small = _mm256_cmpeq_epi8(_mm256_max_epu8(magnitude, seven), seven);
            __m256i upper = _mm256_and_si256(_mm256_srli_epi16(magnitude, 4), seven);
            __m256i lower = _mm256_and_si256(_mm256_slli_epi16(magnitude, 4), _mm256_set1_epi8((char)0xf0));
            upper = _mm256_add_epi8(upper, _mm256_set1_epi8(60));
            upper = _mm256_blendv_epi8(upper, _mm256_shuffle_epi8(upper_small, magnitude), small);
            lower = _mm256_blendv_epi8(lower, _mm256_shuffle_epi8(lower_small, magnitude), small);
            upper = _mm256_or_si256(upper, _mm256_and_si256(codes, sign));
            _mm256_store_si256((__m256i *)out, _mm256_unpacklo_epi8(lower, upper));
            _mm256_store_si256((__m256i *)(out + STEP_BYTES), _mm256_unpackhi_epi8(lower, upper));
        }
}

/* Codes 0 to 15 of eight rows times these rows' multipliers, those of even and of odd bytes, plus the bias; in bytes, which wrap. */
TARGET static inline __m256i times_rows(__m256i codes, __m256i evens, __m256i odds, __m256i bias)
{
    const __m256i even = _mm256_and_si256(_mm256_maddubs_epi16(codes, evens), _mm256_set1_epi16(255));
    const __m256i odd = _mm256_slli_epi16(_mm256_maddubs_epi16(codes, odds), 8);
    return _mm256_add_epi8(_mm256_or_si256(even, odd), bias);
}

/* As unpack_int4_plain. */
TARGET static void unpack_int4(uint8_t *restrict out, const uint8_t *restrict packed, size_t columns)
{
    const __m256i fifteen = _mm256_set1_epi8(15), even_bytes = _mm256_set1_epi16(255);
    const __m256i first = _mm256_setr_epi8(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 6, 6, 6, 6, 7, 7, 7, 7);
    const uint8_t *multipliers = packed + columns / 8 * STEP_BYTES;
    for (size_t c = 0; c < columns; c += INT4_BLOCK, multipliers += TILE_ROWS, packed += 4 * STEP_BYTES, out += 8 * STEP_BYTES) {
        const __m256i all = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)multipliers));
        for (size_t half = 0; half < STEP_BYTES; half += STEP_BYTES / 2) {
            const __m256i times = _mm256_shuffle_epi8(all, _mm256_add_epi8(first, _mm256_set1_epi8(half ? 8 : 0)));
            const __m256i evens = _mm256_and_si256(times, even_bytes), odds = _mm256_andnot_si256(even_bytes, times);
            const __m256i two = _mm256_add_epi8(times, times), four = _mm256_add_epi8(two, two);
            const __m256i bias = _mm256_sub_epi8(_mm256_set1_epi8((char)128), _mm256_add_epi8(four, four));
            for (size_t g = 0; g < 4; g++) {
                const __m256i codes = load_weights(packed + g * STEP_BYTES + half);
                const __m256i low = _mm256_and_si256(codes, fifteen), high = _mm256_and_si256(_mm256_srli_epi16(codes, 4), fifteen);
                uint8_t *to = out + 2 * g * STEP_BYTES + half;
                _mm256_store_si256((__m256i *)to, times_rows(low, evens, odds, bias));
                _mm256_store_si256((__m256i *)(to + STEP_BYTES), times_rows(high, evens, odds, bias));
            }
        }
    }
}

/* As unpack_dense_plain: n / 17 of n below 51, and the parts of r = 9 high + low, by comparisons; trits of these by lookup. */
TARGET static void unpack_dense(uint8_t *restrict out, const uint8_t *restrict packed, size_t columns)
{
    const __m256i third = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 0, 0, 1, 1, 1, 2, 2, 2, 0, 0, 0, 0, 0, 0, 0));
    const __m256i rest = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 0, 0, 0, 0, 0, 0));
    /* 16 n as 9 high + low */
    const __m256i high16 = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 3, 5, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0));
    const __m256i low16 = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 7, 5, 3, 1, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0));
    const __m256i nine = _mm256_set1_epi8(9), seventeen = _mm256_set1_epi8(17), fifteen = _mm256_set1_epi8(15);
    for (size_t c = 0; c < columns; c += 20, packed += STEP_BYTES, out += 5 * STEP_BYTES)
        for (size_t half = 0; half < STEP_BYTES; half += STEP_BYTES / 2) {
            const __m256i byte = load_weights(packed + half), low = _mm256_and_si256(byte, _mm256_set1_epi8(63));
            const __m256i early = _mm256_and_si256(_mm256_srli_epi16(byte, 6), _mm256_set1_epi8(3));
            const __m256i late = _mm256_cmpeq_epi8(early, _mm256_set1_epi8(3)); /* -1, as all comparisons that hold */
            const __m256i one = _mm256_cmpgt_epi8(low, _mm256_set1_epi8(16)), two = _mm256_cmpgt_epi8(low, _mm256_set1_epi8(33));
            const __m256i fewer = _mm256_add_epi8(_mm256_and_si256(one, seventeen), _mm256_and_si256(two, seventeen));
            const __m256i r = _mm256_add_epi8(low, _mm256_and_si256(late, _mm256_sub_epi8(_mm256_set1_epi8(64), fewer)));
            const __m256i n = _mm256_and_si256(_mm256_srli_epi16(r, 4), fifteen);
            const __m256i sum = _mm256_add_epi8(_mm256_and_si256(r, fifteen), _mm256_shuffle_epi8(low16, n));
            const __m256i over = _mm256_cmpgt_epi8(sum, _mm256_set1_epi8(8)), twice = _mm256_cmpgt_epi8(sum, _mm256_set1_epi8(17));
            const __m256i less = _mm256_add_epi8(_mm256_and_si256(over, nine), _mm256_and_si256(twice, nine));
            const __m256i lower = _mm256_sub_epi8(sum, less);
            const __m256i upper = _mm256_sub_epi8(_mm256_shuffle_epi8(high16, n), _mm256_add_epi8(over, twice));
            const __m256i trits[5] = {_mm256_shuffle_epi8(rest, lower), _mm256_shuffle_epi8(third, lower), _mm256_shuffle_epi8(rest, upper),
                                      _mm256_shuffle_epi8(third, upper),
                                      _mm256_blendv_epi8(early, _mm256_sub_epi8(_mm256_setzero_si256(), _mm256_add_epi8(one, two)), late)};
            _Pragma("GCC unroll 5") for (size_t i = 0; i < 5; i++)
                _mm256_store_si256((__m256i *)(out + i * STEP_BYTES + half), trits[i]);
        }
}

/* All tokens with a tile before the next, so that it is unpacked once. */
static void tiles_product(matrix_format format, some_product *const *products, size_t together,
                          void (*unpack)(uint8_t *restrict, const uint8_t *restrict, size_t), uint8_t *restrict y,
                          size_t y_stride, const uint8_t *weights, size_t tiles, size_t columns,
                          const uint8_t *restrict q, size_t q_stride, const int32_t *restrict q_sum, size_t tokens,
                          uint8_t *unpacked)
{
    size_t steps = steps_of(format, columns), bytes = tile_bytes(format, columns);
    for (size_t tile = 0; tile < tiles; tile++, weights += bytes) {
        fetched ahead = fetch_evenly(weights + bytes, bytes, steps, (tokens + together - 1) / together);
        if (unpack) unpack(unpacked, weights, columns);
        for (size_t t = 0; t < tokens; t += together, ahead = after_a_call(ahead, steps))
            products[(tokens - t < together ? tokens - t : together) - 1](
                y + 4 * (t * y_stride + tile * TILE_ROWS), y_stride, unpack ? unpacked : weights, steps, q + t * q_stride, q_stride,
                q_sum + t, ahead);
    }
}

/* Some tokens as a product takes them, those with few loud groups before the others. */
typedef struct {
    size_t count, quiet, stride, most;
    size_t places[COPIED], entries[COPIED]; /* of each: which token it is, and of its list */
    int32_t q_sum[COPIED];
    uint8_t *copies;  /* [count, stride] */
    loud_step *lists; /* [quiet, most] */
} copied_tokens;

static void copy_tokens(copied_tokens *of, const uint8_t *restrict q, size_t q_stride, const int32_t *restrict q_sum, size_t columns)
{
    size_t loud = of->count;
    of->quiet = 0;
    for (size_t t = 0; t < of->count; t++) {
        size_t i = of->quiet;
        uint8_t *copy = of->copies + i * of->stride;
        if (quieten(copy, of->lists + i * of->most, &of->entries[i], q + t * q_stride, columns))
            of->quiet++;
        else
            memmove(of->copies + (i = --loud) * of->stride, copy, columns);
        of->places[i] = t;
        of->q_sum[i] = q_sum[t];
    }
}

/* y: [tokens, y_stride] of a tile, steps of which are in `weights`; the next one's bytes are fetched. */
static void multiply_copied(const copied_tokens *of, int32_t *restrict y, size_t y_stride, const uint8_t *restrict weights, size_t steps,
                            const uint8_t *next, size_t next_bytes)
{
    enum { TOGETHER = 8 };
    static some_product *const quiet[TOGETHER] = {quiet_1, quiet_2, quiet_3, quiet_4, quiet_5, quiet_6, quiet_7, quiet_8};
    const size_t calls = 2 * ((of->quiet + TOGETHER - 1) / TOGETHER) + (of->count - of->quiet + bytes_together - 1) / bytes_together;
    fetched ahead = fetch_evenly(next, next_bytes, steps, calls);
    for (size_t i = 0, n; i < of->count; i += n) {
        _Alignas(32) uint8_t sums[TOGETHER][STEP_BYTES];
        const uint8_t *q = of->copies + i * of->stride;
        const int loud = i >= of->quiet;
        const size_t left = (loud ? of->count : of->quiet) - i, most = loud ? (size_t)bytes_together : (size_t)TOGETHER;
        n = left < most ? left : most;
        some_product *const product = loud ? bytes[n - 1] : quiet[n - 1];
        for (size_t at = 0; at < STEP_BYTES; at += loud ? STEP_BYTES : STEP_BYTES / 2, ahead = after_a_call(ahead, steps))
            product(sums[0] + at, TILE_ROWS, weights + at, steps, q, of->stride, of->q_sum + i, ahead);
        for (size_t j = 0; j < n; j++) {
            if (!loud && of->entries[i + j]) add_loud(sums[j], weights, of->lists + (i + j) * of->most, of->entries[i + j]);
            memcpy(y + of->places[i + j] * y_stride, sums[j], STEP_BYTES);
        }
    }
}

static void bytes_product(matrix_format format, void (*unpack)(uint8_t *restrict, const uint8_t *restrict, size_t),
                          int32_t *restrict y, size_t y_stride, const uint8_t *restrict weights, size_t tiles, size_t columns,
                          const uint8_t *restrict q, size_t q_stride, const int32_t *restrict q_sum, size_t tokens,
                          uint8_t *restrict unpacked)
{
    copied_tokens some = {.stride = activation_stride(INT8, columns), .most = 8 * most_loud(columns)};
    const size_t copied = tokens < COPIED ? tokens : COPIED, bytes = tile_bytes(format, columns);
    some.copies = unpacked + TILE_ROWS * (columns + K_PAD);
    some.lists = (loud_step *)(void *)(some.copies + copied * some.stride);
    for (size_t first = 0; first < tokens; first += some.count) {
        some.count = tokens - first < copied ? tokens - first : copied;
        copy_tokens(&some, q + first * q_stride, q_stride, q_sum + first, columns);
        for (size_t tile = 0; tile < tiles; tile++) {
            if (unpack) unpack(unpacked, weights + tile * bytes, columns);
            multiply_copied(&some, y + first * y_stride + tile * TILE_ROWS, y_stride, unpack ? unpacked : weights + tile * bytes,
                            columns / 4, weights + (tile + 1) * bytes, bytes);
        }
    }
}

#define MATRIX_PRODUCT(name, format, kind, unpack)                                                                     \
    static void name(void *restrict y, size_t y_stride, const uint8_t *restrict weights, size_t tiles, size_t columns, \
                     const uint8_t *restrict q, size_t q_stride, const int32_t *restrict q_sum, size_t tokens,         \
                     uint8_t *restrict unpacked)                                                                       \
    {                                                                                                                  \
        tiles_product(format, kind, kind##_together, unpack, y, y_stride, weights, tiles, columns, q, q_stride, q_sum, \
                      tokens, unpacked);                                                                               \
    }

#define BYTES_PRODUCT(name, format, unpack)                                                                            \
    static void name(void *restrict y, size_t y_stride, const uint8_t *restrict weights, size_t tiles, size_t columns, \
                     const uint8_t *restrict q, size_t q_stride, const int32_t *restrict q_sum, size_t tokens,         \
                     uint8_t *restrict unpacked)                                                                       \
    {                                                                                                                  \
        bytes_product(format, unpack, y, y_stride, weights, tiles, columns, q, q_stride, q_sum, tokens, unpacked);     \
    }

MATRIX_PRODUCT(ternary_product, TERNARY, ternary, NULL) /* unpacking costs little beside this set's products */
MATRIX_PRODUCT(dense_product, TERNARY_DENSE, trits, unpack_dense)
BYTES_PRODUCT(int8_product, INT8, NULL)
BYTES_PRODUCT(int4_product, INT4, unpack_int4)
MATRIX_PRODUCT(fp8_product, FP8, bf16, unpack_fp8)
MATRIX_PRODUCT(bf16_product, BF16, bf16, NULL)
MATRIX_PRODUCT(fp32_product, FP32, floats, NULL)

const bitrl_kernels bitrl_kernels_avx2 = {
    "avx2", {ternary_product, dense_product, int8_product, int4_product, fp8_product, bf16_product, fp32_product},
    DOUBLE_KERNELS, FLOAT_KERNELS};
#endif
