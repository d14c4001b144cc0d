/* The double-precision kernels, written once and compiled for each instruction set.
 *
 * The file that includes this defines TARGET (the function attribute naming its instruction set) and v8: eight doubles,
 * in one register, in two, or in an array. Lanes, their order of addition and every rounding are the same in all of
 * them, so the bits are too.
 *
 * and ATTEND_VECTORS: 2 when 13 of them fit into registers, else 1.
 *
 *   v8 v8_load(const double *), v8_from_int(const int32_t *), v8_from_float(const float *), v8_set(double)
 *   void v8_store(double *, v8)
 *   v8 v8_add(a, b), v8_sub(a, b), v8_mul(a, b), v8_div(a, b), v8_fma(a, b, c) = a * b + c rounded once
 *   v8 v8_max(a, b) = a > b ? a : b, v8_abs(a)
 *   v8 v8_times_power(p, n) = p * 2^k, where k is the integer in the low bits of n (see ROUNDER)
 *   i8 i8_round(v8) to int32, ties to even; i8 i8_add(a, b); int32_t i8_sum(i8); uint64_t i8_bytes(i8), low bytes */
#include <math.h>
#include <string.h>

/* Adding 1.5 * 2^52 to a double of magnitude below 2^51 rounds it to an integer, ties to even, kept in the low bits. */
#define ROUNDER 0x1.8p52

/* A fixed tree over the lanes. */
TARGET static inline double v8_sum(v8 v)
{
    double lane[8];
    v8_store(lane, v);
    return ((lane[0] + lane[4]) + (lane[2] + lane[6])) + ((lane[1] + lane[5]) + (lane[3] + lane[7]));
}

/* The largest lane; exact, so in any order. */
TARGET static inline double v8_largest(v8 v)
{
    double lane[8];
    v8_store(lane, v);
    for (int half = 4; half > 0; half /= 2)
        for (int i = 0; i < half; i++) lane[i] = lane[i] > lane[i + half] ? lane[i] : lane[i + half];
    return lane[0];
}

/* exp(v) for v <= 0, to about one unit in the last place; exp(-700) below that (not 0: see softmax). Cody and Waite's reduction by ln 2,
 * then Taylor's series to degree 13 on |r| <= ln(2) / 2. */
TARGET static inline v8 v8_exp(v8 v)
{
    static const double series[] = {1.0 / 479001600.0, 1.0 / 39916800.0, 1.0 / 3628800.0, 1.0 / 362880.0,
                                    1.0 / 40320.0,     1.0 / 5040.0,     1.0 / 720.0,     1.0 / 120.0,
                                    1.0 / 24.0,        1.0 / 6.0,        0.5,             1.0,
                                    1.0};
    v = v8_max(v, v8_set(-700.0));
    v8 shifted = v8_add(v8_mul(v, v8_set(0x1.71547652b82fep0)), v8_set(ROUNDER));
    v8 n = v8_sub(shifted, v8_set(ROUNDER));
    v8 r = v8_sub(v8_sub(v, v8_mul(n, v8_set(0x1.62e42fefa0000p-1))), v8_mul(n, v8_set(0x1.cf79abc9e3b3ap-40)));
    v8 p = v8_set(1.0 / 6227020800.0);
    for (size_t i = 0; i < sizeof series / sizeof *series; i++) p = v8_fma(p, r, v8_set(series[i]));
    return v8_times_power(p, shifted);
}

/* row = x * weight; returns 1 / sqrt(mean(x^2) + eps). Without a weight row = x, and 1 is returned. *most: the largest |row[i]|. */
TARGET static inline double norm(double *restrict row, double *most, const double *restrict x,
                                 const double *restrict weight, size_t n, size_t padded, double eps)
{
    v8 squares0 = v8_set(0), squares1 = squares0, largest0 = squares0, largest1 = squares0;
    for (size_t i = 0; i < padded; i += PAD) {
        v8 a = v8_load(x + i), b = v8_load(x + i + 8);
        squares0 = v8_fma(a, a, squares0);
        squares1 = v8_fma(b, b, squares1);
        if (weight) {
            a = v8_mul(a, v8_load(weight + i));
            b = v8_mul(b, v8_load(weight + i + 8));
        }
        v8_store(row + i, a);
        v8_store(row + i + 8, b);
        largest0 = v8_max(v8_abs(a), largest0);
        largest1 = v8_max(v8_abs(b), largest1);
    }
    *most = v8_largest(v8_max(largest0, largest1));
    return weight ? 1.0 / sqrt(v8_sum(v8_add(squares0, squares1)) / (double)n + eps) : 1.0;
}

TARGET static double norm_quantise(uint8_t *restrict q, int32_t *restrict q_sum, double *restrict row,
                                   const double *restrict x, const double *restrict weight, size_t n, size_t padded,
                                   double eps)
{
    /* n = x * inverse * weight and n * s = (x * weight) * step: the norm need not be known to find the largest. */
    double largest, inverse = norm(row, &largest, x, weight, n, padded, eps), least = 1e-5 / inverse;
    double step = 127.0 / (largest > least ? largest : least);

    v8 scale = v8_set(step);
    i8 sum = i8_round(v8_set(0));
    for (size_t i = 0; i < padded; i += 8) { /* |row * step| <= 127: nothing to clip */
        i8 code = i8_round(v8_mul(v8_load(row + i), scale));
        uint64_t bytes = i8_bytes(code);
        memcpy(q + i, &bytes, sizeof bytes);
        sum = i8_add(sum, code);
    }
    *q_sum = i8_sum(sum);
    return step / inverse;
}

TARGET static void norm_round(uint8_t *restrict q, matrix_format format, double *restrict row, const double *restrict x,
                              const double *restrict weight, size_t n, size_t padded, double eps)
{
    double largest, inverse = norm(row, &largest, x, weight, n, padded, eps);
    for (size_t i = 0; i < padded && format == FP32; i++) {
        float value = (float)(row[i] * inverse);
        memcpy(q + 4 * i, &value, sizeof value);
    }
    for (size_t i = 0; i < padded && format == BF16; i++) {
        uint16_t value = bf16_from((float)(row[i] * inverse));
        memcpy(q + 2 * i, &value, sizeof value);
    }
}

TARGET static double norm_fp8(uint8_t *restrict q, double *restrict row, const double *restrict x,
                              const double *restrict weight, size_t n, size_t padded, double eps)
{
    double largest, inverse = norm(row, &largest, x, weight, n, padded, eps), least = 1e-5 / inverse; /* as norm_quantise */
    double step = 448.0 / (largest > least ? largest : least);
    for (size_t i = 0; i < padded; i++) {
        uint16_t value = bf16_from_fp8(fp8_from((float)(row[i] * step)));
        memcpy(q + 2 * i, &value, sizeof value);
    }
    return step / inverse;
}

TARGET static void normalise(double *restrict out, const double *restrict x, const double *restrict weight, size_t n,
                             size_t padded, double eps)
{
    double largest;
    v8 inverse = v8_set(norm(out, &largest, x, weight, n, padded, eps));
    for (size_t i = 0; i < padded; i += 8) v8_store(out + i, v8_mul(v8_load(out + i), inverse));
}

TARGET static void scaled(double *restrict x, const int32_t *restrict y, double scale, size_t n)
{
    size_t i = 0;
    for (; i + 8 <= n; i += 8) v8_store(x + i, v8_mul(v8_from_int(y + i), v8_set(scale)));
    for (; i < n; i++) x[i] = (double)y[i] * scale;
}

TARGET static void scaled_floats(double *restrict x, const float *restrict y, double scale, size_t n)
{
    size_t i = 0;
    for (; i + 8 <= n; i += 8) v8_store(x + i, v8_mul(v8_from_float(y + i), v8_set(scale)));
    for (; i < n; i++) x[i] = (double)y[i] * scale;
}

TARGET static void scaled_rows(double *restrict x, const int32_t *restrict y, const double *restrict rows, double scale,
                               size_t padded)
{
    for (size_t i = 0; i < padded; i += 8)
        v8_store(x + i, v8_mul(v8_mul(v8_from_int(y + i), v8_set(scale)), v8_load(rows + i)));
}

TARGET static void scaled_float_rows(double *restrict x, const float *restrict y, const double *restrict rows,
                                     double scale, size_t padded)
{
    for (size_t i = 0; i < padded; i += 8)
        v8_store(x + i, v8_mul(v8_mul(v8_from_float(y + i), v8_set(scale)), v8_load(rows + i)));
}

TARGET static void gated(double *restrict h, const double *restrict gate, const double *restrict up, size_t padded)
{
    for (size_t i = 0; i < padded; i += 8) {
        v8 g = v8_max(v8_load(gate + i), v8_set(0));
        v8_store(h + i, v8_mul(v8_mul(g, g), v8_load(up + i)));
    }
}

/* g / (1 + exp(-z)), where z has the sign of g. With e = exp(-|z|): g / (1 + e) from zero on, g * e / (1 + e) below;
 * nothing overflows. */
TARGET static inline v8 v8_times_sigmoid(v8 g, v8 z)
{
    v8 zero = v8_set(0), e = v8_exp(v8_sub(zero, v8_abs(z)));
    v8 above = v8_max(g, zero), below = v8_max(v8_sub(zero, g), zero);
    return v8_div(v8_sub(above, v8_mul(below, e)), v8_add(v8_set(1), e));
}

TARGET static void gated_silu(double *restrict h, const double *restrict gate, const double *restrict up, size_t padded)
{
    for (size_t i = 0; i < padded; i += 8) {
        v8 g = v8_load(gate + i);
        v8_store(h + i, v8_mul(v8_times_sigmoid(g, g), v8_load(up + i)));
    }
}

TARGET static void gated_gelu(double *restrict h, const double *restrict gate, const double *restrict up, size_t padded)
{
    const double twice = 1.5957691216057308; /* 2 sqrt(2 / pi) */
    for (size_t i = 0; i < padded; i += 8) {
        v8 g = v8_load(gate + i), cubed = v8_mul(v8_mul(g, g), v8_mul(g, v8_set(0.044715)));
        v8 z = v8_mul(v8_add(g, cubed), v8_set(twice));
        v8_store(h + i, v8_mul(v8_times_sigmoid(g, z), v8_load(up + i)));
    }
}

/* tanh of x >= 0, and 0 below. */
TARGET static inline v8 v8_tanh_above(v8 x)
{
    v8 e = v8_exp(v8_mul(v8_max(x, v8_set(0)), v8_set(-2)));
    return v8_div(v8_sub(v8_set(1), e), v8_add(v8_set(1), e));
}

TARGET static void capped(double *restrict x, size_t n, double scale, double cap)
{
    const v8 times = v8_set(scale / cap), most = v8_set(cap);
    for (size_t i = 0; i < n; i += 8) {
        v8 y = v8_mul(v8_load(x + i), times);
        v8_store(x + i, v8_mul(v8_sub(v8_tanh_above(y), v8_tanh_above(v8_sub(v8_set(0), y))), most));
    }
}

TARGET static double exp_sum(const float *restrict x, size_t n, double most, double scale)
{
    const v8 largest = v8_set(most), times = v8_set(scale);
    v8 sum = v8_set(0);
    size_t i = 0;
    for (; i + 8 <= n; i += 8) sum = v8_add(sum, v8_exp(v8_mul(v8_sub(v8_from_float(x + i), largest), times)));
    if (i < n) {
        double lane[8];
        for (size_t j = 0; j < 8; j++) lane[j] = i + j < n ? (double)x[i + j] - most : -INFINITY;
        v8_store(lane, v8_exp(v8_mul(v8_load(lane), times)));
        for (size_t j = n - i; j < 8; j++) lane[j] = 0; /* what is not there weighs nothing, not even next to it */
        sum = v8_add(sum, v8_load(lane));
    }
    return v8_sum(sum);
}

TARGET static void added(double *restrict x, const double *restrict y, size_t padded)
{
    for (size_t i = 0; i < padded; i += 8) v8_store(x + i, v8_add(v8_load(x + i), v8_load(y + i)));
}

TARGET static void rotated(double *restrict x, const double *restrict y, const double *restrict rope, size_t half)
{
    size_t i = 0;
    for (; i + 8 <= half; i += 8) {
        v8 a = v8_load(y + i), b = v8_load(y + half + i), cosine = v8_load(rope + i), sine = v8_load(rope + half + i);
        v8_store(x + i, v8_sub(v8_mul(a, cosine), v8_mul(b, sine)));
        v8_store(x + half + i, v8_add(v8_mul(b, cosine), v8_mul(a, sine)));
    }
    for (; i < half; i++) {
        double a = y[i], b = y[half + i];
        x[i] = a * rope[i] - b * rope[half + i];
        x[half + i] = b * rope[i] + a * rope[half + i];
    }
}

/* One packed tile of int4 -> [steps][16 rows][4], code * multiplier + 128; in bytes, which wrap to the right result. */
TARGET static inline void unpack_int4_plain(uint8_t *restrict out, const uint8_t *restrict packed, size_t columns)
{
    const uint8_t *multipliers = packed + columns / 8 * STEP_BYTES;
    for (size_t c = 0; c < columns; c += INT4_BLOCK, multipliers += TILE_ROWS) {
        uint8_t times[STEP_BYTES], bias[STEP_BYTES];
        for (size_t i = 0; i < STEP_BYTES; i++) {
            times[i] = multipliers[i / 4];
            bias[i] = (uint8_t)(128 - 8 * times[i]);
        }
        for (size_t g = c; g < c + INT4_BLOCK && g < columns; g += 8, packed += STEP_BYTES, out += 2 * STEP_BYTES)
            for (size_t i = 0; i < STEP_BYTES; i++) {
                out[i] = (uint8_t)((packed[i] & 15) * times[i] + bias[i]);
                out[STEP_BYTES + i] = (uint8_t)((packed[i] >> 4) * times[i] + bias[i]);
            }
    }
}

/* One packed tile of five trits a byte -> [steps][16 rows][4] of 0, 1, 2, up to four steps beyond the last. */
TARGET static inline void unpack_dense_plain(uint8_t *restrict out, const uint8_t *restrict packed, size_t columns)
{
    for (size_t c = 0; c < columns; c += 20, packed += STEP_BYTES, out += 5 * STEP_BYTES)
        for (size_t i = 0; i < STEP_BYTES; i++) {
            /* See trits_pack(). n / 17 and n / 3 by multiplication, so that this is vectorised. */
            uint16_t byte = packed[i], low = byte & 63, late = byte >= 192, fifth = (uint16_t)(low * 241) >> 12;
            uint16_t r = late ? (uint16_t)(64 + low - 17 * fifth) : low;
            out[4 * STEP_BYTES + i] = (uint8_t)(late ? fifth : byte >> 6);
            for (size_t trit = 0; trit < 4; trit++) {
                uint16_t third = (uint16_t)(r * 171) >> 9;
                out[trit * STEP_BYTES + i] = (uint8_t)(r - 3 * third);
                r = third;
            }
        }
}

/* The first position that is seen from `position`, see attention_task. */
static inline size_t first_seen(size_t position, size_t window)
{
    return window && position + 1 > window ? position + 1 - window : 0;
}

/* p[j] = exp((p[j] - max) * scale), of capped scores if there is a cap, for the keys seen from position `last`, and next to nothing (1e-304) for the others
 * between `start` (a multiple of 8) and `final`'s block of eight, which changes no bit of any sum. Returns 1 / sum. */
TARGET static inline double softmax(double *restrict p, size_t start, size_t last, size_t final, size_t window,
                                    double scale, double cap)
{
    if (cap > 0) {
        capped(p + start, final - start + 1, scale, cap);
        scale = 1;
    }
    size_t from = first_seen(last, window);
    static const double hide[24] = {-INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY,
                                    0,         0,         0,         0,         0,         0,         0,         0,
                                    -INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY};
    v8 most = v8_set(-INFINITY), sums = v8_set(0), scales = v8_set(scale);
    for (size_t j = start; j <= final; j += 8) {
        size_t early = from <= j ? 0 : from - j < 8 ? from - j : 8;
        size_t late = last + 1 < j ? 0 : last + 1 - j < 8 ? last + 1 - j : 8;
        v8 score = v8_add(v8_add(v8_load(p + j), v8_load(hide + 8 - early)), v8_load(hide + 16 - late));
        v8_store(p + j, score);
        most = v8_max(score, most);
    }
    most = v8_set(v8_largest(most));
    for (size_t j = start; j <= final; j += 8) {
        v8 weight = v8_exp(v8_mul(v8_sub(v8_load(p + j), most), scales));
        v8_store(p + j, weight);
        sums = v8_add(sums, weight);
    }
    return 1.0 / v8_sum(sums);
}

TARGET static inline void store_some(double *to, v8 v, size_t n)
{
    double lane[8];
    if (n == 8) {
        v8_store(to, v);
        return;
    }
    v8_store(lane, v);
    for (size_t i = 0; i < n; i++) to[i] = lane[i];
}

static inline size_t padded_to(size_t n, size_t to) { return (n + to - 1) / to * to; }

/* The value of position j, which lies in a cache or among the text's own: [head_dim]. */
static inline const double *value_at(const attention_task *a, size_t j)
{
    size_t row = padded_to(a->head_dim, PAD);
    if (j < a->start) return a->start_v + j * row;
    return j < a->past ? a->past_v + (j - a->start) * row : a->v + (j - a->past) * a->kv_stride;
}

/* The key of position j, and from one of its columns to the next. */
static inline const double *key_at(const attention_task *a, size_t j, size_t *step)
{
    size_t row = padded_to(a->head_dim, PAD), at = j < a->start ? j : j - a->start;
    const double *keys = j < a->start ? a->start_k : a->past_k;
    *step = j < a->past ? KEYS_TOGETHER : 1;
    if (j >= a->past) return a->k + (j - a->past) * a->kv_stride;
    return keys + at / KEYS_TOGETHER * KEYS_TOGETHER * row + at % KEYS_TOGETHER;
}

/* ---- one query of several heads, by keys and values where they lie: generation's, which small programs lack ---- */

#if !defined(BITRL_SMALL)

/* Scores of `count` cached keys from the group of `from` on; p: of the first key, [heads, p_stride], eight at a time. values:
 * theirs, which are needed next. */
TARGET static inline __attribute__((always_inline)) void score_cached(double *restrict p, size_t p_stride, const double *keys,
                                                                      const double *values, size_t from, size_t count, const double *q,
                                                                      size_t q_stride, size_t head_dim, const size_t heads)
{
    size_t row = padded_to(head_dim, PAD);
    for (size_t j = from / KEYS_TOGETHER * KEYS_TOGETHER; j < count; j += KEYS_TOGETHER) {
        const double *group = keys + j * row;
        v8 sums[4];
        for (size_t h = 0; h < heads; h++) sums[h] = v8_set(0);
        for (size_t d = 0; d < head_dim; d++) {
            v8 key = v8_load(group + d * KEYS_TOGETHER);
            __builtin_prefetch(values + j * row + d * KEYS_TOGETHER);
            for (size_t h = 0; h < heads; h++) sums[h] = v8_fma(key, v8_set(q[h * q_stride + d]), sums[h]);
        }
        for (size_t h = 0; h < heads; h++) v8_store(p + h * p_stride + j, sums[h]);
    }
}

/* sums: [heads, row] += the values of `count` rows, each times its p: [heads, p_stride]. */
TARGET static inline __attribute__((always_inline)) void weigh(double *restrict sums, size_t row, const double *values,
                                                               size_t count, const double *restrict p, size_t p_stride,
                                                               size_t head_dim, const size_t heads)
{
    enum { TOGETHER = 32 }; /* rows that stay in the first-level cache */
    for (size_t from = 0, n; from < count; from += n, values += n * row, p += n) {
        n = count - from < TOGETHER ? count - from : TOGETHER;
        for (size_t d = 0; d < head_dim; d += 8) {
            v8 s[4];
            for (size_t h = 0; h < heads; h++) s[h] = v8_load(sums + h * row + d);
            for (size_t j = 0; j < n; j++) {
                v8 value = v8_load(values + j * row + d);
                for (size_t h = 0; h < heads; h++) s[h] = v8_fma(value, v8_set(p[h * p_stride + j]), s[h]);
            }
            for (size_t h = 0; h < heads; h++) v8_store(sums + h * row + d, s[h]);
        }
    }
}

/* The first own token's query of `heads` heads (at most 4) from the first of these on: the bits that `attend` has for it. */
TARGET static inline __attribute__((always_inline)) void attend_heads(const attention_task *a, size_t first, const size_t heads,
                                                                      double *restrict scratch)
{
    const double *q = a->q + first * a->head_stride;
    size_t row = padded_to(a->head_dim, PAD), stride = attention_keys(a->past + 1);
    size_t start = first_seen(a->past, a->window) / 8 * 8, cached = a->past - a->start;
    double *restrict p = scratch, *restrict sums = scratch + heads * stride; /* [heads, stride], [heads, row] */
    double lane[8], inverse[4];

    if (start < a->start) score_cached(p, stride, a->start_k, a->start_v, start, a->start, q, a->head_stride, a->head_dim, heads);
    size_t skipped = start < a->start ? 0 : start - a->start;
    if (skipped < cached)
        score_cached(p + a->start, stride, a->past_k, a->past_v, skipped, cached, q, a->head_stride, a->head_dim, heads);
    for (size_t h = 0; h < heads; h++) {
        v8 own = v8_set(0);
        for (size_t d = 0; d < a->head_dim; d++) own = v8_fma(v8_set(a->k[d]), v8_set(q[h * a->head_stride + d]), own);
        v8_store(lane, own);
        p[h * stride + a->past] = lane[0];
        for (size_t j = a->past + 1; j % 8; j++) p[h * stride + j] = 0; /* hidden, but finite */
        inverse[h] = softmax(p + h * stride, start, a->past, a->past, a->window, a->scale, a->cap);
    }
    for (size_t i = 0; i < heads * row; i++) sums[i] = 0;
    if (start < a->start) weigh(sums, row, a->start_v + start * row, a->start - start, p + start, stride, a->head_dim, heads);
    if (skipped < cached)
        weigh(sums, row, a->past_v + skipped * row, cached - skipped, p + a->start + skipped, stride, a->head_dim, heads);
    for (size_t h = 0; h < heads; h++)
        for (size_t d = 0; d < a->head_dim; d += 8) {
            v8 sum = v8_fma(v8_load(a->v + d), v8_set(p[h * stride + a->past]), v8_load(sums + h * row + d));
            store_some(a->out + (first + h) * a->head_dim + d, v8_mul(sum, v8_set(inverse[h])),
                       a->head_dim - d < 8 ? a->head_dim - d : 8);
        }
}

TARGET static void attend_once(const attention_task *a, double *restrict scratch)
{
    for (size_t h = 0; h < a->heads; h += 4)
        switch (a->heads - h) { /* each with as many sums in registers as it has heads */
        case 1: attend_heads(a, h, 1, scratch); break;
        case 2: attend_heads(a, h, 2, scratch); break;
        case 3: attend_heads(a, h, 3, scratch); break;
        default: attend_heads(a, h, 4, scratch);
        }
}
#endif

/* ---- many queries ---- */

TARGET static void attend(const attention_task *task, double *restrict scratch)
{
    enum { QUERIES = 4, VECTORS = ATTEND_VECTORS }; /* sums in registers: queries share every load of a key or a value */
    const attention_task a = *task;
#if !defined(BITRL_SMALL)
    if (a.first == 0 && a.count == 1) {
        attend_once(task, scratch);
        return;
    }
#endif
    size_t begin = a.past + a.first, end = begin + a.count; /* positions */
    size_t keys = attention_keys(end), row = attention_row(a.head_dim);
    double *restrict kt = scratch;                    /* [head_dim, keys] transposed: eight scores at a time */
    double *restrict values = kt + keys * a.head_dim; /* [keys, row] */
    double *restrict p = values + keys * row;         /* [QUERIES, keys] */
    double *p0 = p, *p1 = p + keys, *p2 = p + 2 * keys, *p3 = p + 3 * keys;

    for (size_t j = first_seen(begin, a.window) / 8 * 8; j < end; j++) {
        size_t step;
        const double *key = key_at(&a, j, &step);
        for (size_t d = 0; d < a.head_dim; d++) kt[d * keys + j] = key[d * step];
        memcpy(values + j * row, value_at(&a, j), a.head_dim * sizeof *values);
    }
    for (size_t d = 0; d < a.head_dim; d++)
        for (size_t j = end; j < keys; j++) kt[d * keys + j] = 0;

    for (size_t h = 0; h < a.heads; h++)
        for (size_t first = 0; first < a.count; first += QUERIES) {
            /* Beyond the last query, it again: computed, not stored. */
            size_t left = a.count - first - 1, i1 = left < 1 ? left : 1, i2 = left < 2 ? left : 2, i3 = left < 3 ? left : 3;
            const double *q0 = a.q + (a.first + first) * a.q_stride + h * a.head_stride;
            const double *q1 = q0 + i1 * a.q_stride, *q2 = q0 + i2 * a.q_stride, *q3 = q0 + i3 * a.q_stride;
            size_t position = begin + first, final = position + i3;
            size_t start = first_seen(position, a.window) / 8 * 8;

            for (size_t j = start; j <= final; j += 8 * VECTORS) {
                v8 s0[VECTORS], s1[VECTORS], s2[VECTORS], s3[VECTORS];
                for (size_t i = 0; i < VECTORS; i++) s0[i] = s1[i] = s2[i] = s3[i] = v8_set(0);
                for (size_t d = 0; d < a.head_dim; d++) {
                    v8 x0 = v8_set(q0[d]), x1 = v8_set(q1[d]), x2 = v8_set(q2[d]), x3 = v8_set(q3[d]);
                    for (size_t i = 0; i < VECTORS; i++) {
                        v8 key = v8_load(kt + d * keys + j + 8 * i);
                        s0[i] = v8_fma(key, x0, s0[i]);
                        s1[i] = v8_fma(key, x1, s1[i]);
                        s2[i] = v8_fma(key, x2, s2[i]);
                        s3[i] = v8_fma(key, x3, s3[i]);
                    }
                }
                for (size_t i = 0; i < VECTORS; i++) {
                    v8_store(p0 + j + 8 * i, s0[i]);
                    v8_store(p1 + j + 8 * i, s1[i]);
                    v8_store(p2 + j + 8 * i, s2[i]);
                    v8_store(p3 + j + 8 * i, s3[i]);
                }
            }
            v8 inverse0 = v8_set(softmax(p0, start, position, final, a.window, a.scale, a.cap));
            v8 inverse1 = v8_set(softmax(p1, start, position + i1, final, a.window, a.scale, a.cap));
            v8 inverse2 = v8_set(softmax(p2, start, position + i2, final, a.window, a.scale, a.cap));
            v8 inverse3 = v8_set(softmax(p3, start, final, final, a.window, a.scale, a.cap));

            for (size_t d = 0; d < a.head_dim; d += 8 * VECTORS) {
                v8 s0[VECTORS], s1[VECTORS], s2[VECTORS], s3[VECTORS];
                for (size_t i = 0; i < VECTORS; i++) s0[i] = s1[i] = s2[i] = s3[i] = v8_set(0);
                for (size_t j = start; j <= final; j++) {
                    v8 x0 = v8_set(p0[j]), x1 = v8_set(p1[j]), x2 = v8_set(p2[j]), x3 = v8_set(p3[j]);
                    for (size_t i = 0; i < VECTORS; i++) {
                        v8 value = v8_load(values + j * row + d + 8 * i);
                        s0[i] = v8_fma(value, x0, s0[i]);
                        s1[i] = v8_fma(value, x1, s1[i]);
                        s2[i] = v8_fma(value, x2, s2[i]);
                        s3[i] = v8_fma(value, x3, s3[i]);
                    }
                }
                for (size_t i = 0, at = d; i < VECTORS && at < a.head_dim; i++, at += 8) {
                    size_t width = a.head_dim - at < 8 ? a.head_dim - at : 8;
                    double *to = a.out + (a.first + first) * a.out_stride + h * a.head_dim + at;
                    store_some(to, v8_mul(s0[i], inverse0), width);
                    if (i1 > 0) store_some(to + a.out_stride, v8_mul(s1[i], inverse1), width);
                    if (i2 > i1) store_some(to + 2 * a.out_stride, v8_mul(s2[i], inverse2), width);
                    if (i3 > i2) store_some(to + 3 * a.out_stride, v8_mul(s3[i], inverse3), width);
                }
            }
        }
}

#include "kernels_weights.h"

/* The rest of a table of kernels, in its order. */
#define DOUBLE_KERNELS                                                                                                \
    norm_quantise, norm_round, norm_fp8, normalise, scaled, scaled_floats, scaled_rows, scaled_float_rows, gated, gated_silu, \
    gated_gelu, capped, exp_sum, added, rotated, attend, random_bits, round_codes, round_int4, round_fp8, ternary_codes, round_bf16
