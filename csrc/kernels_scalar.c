/* The reference: plain C for any CPU. Every other kernel must give its bits. */
#include <math.h>
#include <string.h>

#include "kernels.h"

#define TARGET

typedef struct {
    double lane[8];
} v8;
typedef struct {
    int32_t lane[8];
} i8;

#define LANES(type, expression)                                        \
    do {                                                               \
        type out;                                                      \
        for (int i = 0; i < 8; i++) out.lane[i] = (expression);        \
        return out;                                                    \
    } while (0)

static inline v8 v8_load(const double *from) { LANES(v8, from[i]); }
static inline v8 v8_from_int(const int32_t *from) { LANES(v8, from[i]); }
static inline v8 v8_from_float(const float *from) { LANES(v8, from[i]); }
static inline v8 v8_set(double value) { LANES(v8, value); }
static inline v8 v8_add(v8 a, v8 b) { LANES(v8, a.lane[i] + b.lane[i]); }
static inline v8 v8_sub(v8 a, v8 b) { LANES(v8, a.lane[i] - b.lane[i]); }
static inline v8 v8_mul(v8 a, v8 b) { LANES(v8, a.lane[i] * b.lane[i]); }
static inline v8 v8_div(v8 a, v8 b) { LANES(v8, a.lane[i] / b.lane[i]); }
static inline v8 v8_fma(v8 a, v8 b, v8 c) { LANES(v8, fma(a.lane[i], b.lane[i], c.lane[i])); }
static inline v8 v8_max(v8 a, v8 b) { LANES(v8, a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]); }
static inline v8 v8_abs(v8 a) { LANES(v8, a.lane[i] < 0 ? -a.lane[i] : a.lane[i]); }
static inline void v8_store(double *to, v8 v) { memcpy(to, v.lane, sizeof v.lane); }

static inline v8 v8_times_power(v8 p, v8 n)
{
    uint64_t bits[8], powers[8];
    memcpy(bits, p.lane, sizeof bits);
    memcpy(powers, n.lane, sizeof powers);
    for (int i = 0; i < 8; i++) bits[i] += powers[i] << 52;
    memcpy(p.lane, bits, sizeof bits);
    return p;
}

static inline i8 i8_round(v8 v)
{
    i8 out;
    for (int i = 0; i < 8; i++) {
        double rounded = v.lane[i] + 0x1.8p52;
        memcpy(&out.lane[i], &rounded, sizeof out.lane[i]);
    }
    return out;
}
static inline i8 i8_add(i8 a, i8 b) { LANES(i8, (int32_t)((uint32_t)a.lane[i] + (uint32_t)b.lane[i])); }
static inline int32_t i8_sum(i8 v)
{
    uint32_t sum = 0;
    for (int i = 0; i < 8; i++) sum += (uint32_t)v.lane[i];
    return (int32_t)sum;
}
static inline uint64_t i8_bytes(i8 v)
{
    uint64_t bytes = 0;
    for (int i = 0; i < 8; i++) bytes |= (uint64_t)(uint8_t)v.lane[i] << 8 * i;
    return bytes;
}

#define ATTEND_VECTORS 1
#include "kernels_double.h"

typedef struct {
    float lane[16];
} v16;

#define FLOATS(expression)                                          \
    do {                                                            \
        v16 out;                                                    \
        for (int i = 0; i < 16; i++) out.lane[i] = (expression);    \
        return out;                                                 \
    } while (0)

static inline v16 v16_load(const float *from) { FLOATS(from[i]); }
static inline v16 v16_set(float value) { FLOATS(value); }
static inline void v16_store(float *to, v16 v) { memcpy(to, v.lane, sizeof v.lane); }
static inline v16 v16_add(v16 a, v16 b) { FLOATS(a.lane[i] + b.lane[i]); }
static inline v16 v16_sub(v16 a, v16 b) { FLOATS(a.lane[i] - b.lane[i]); }
static inline v16 v16_mul(v16 a, v16 b) { FLOATS(a.lane[i] * b.lane[i]); }
static inline v16 v16_div(v16 a, v16 b) { FLOATS(a.lane[i] / b.lane[i]); }
static inline v16 v16_sqrt(v16 a) { FLOATS(sqrtf(a.lane[i])); }
static inline v16 v16_fma(v16 a, v16 b, v16 c) { FLOATS(fmaf(a.lane[i], b.lane[i], c.lane[i])); }
static inline v16 v16_max(v16 a, v16 b) { FLOATS(a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]); }
static inline v16 v16_min(v16 a, v16 b) { FLOATS(a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i]); }
static inline v16 v16_abs(v16 a) { FLOATS(fabsf(a.lane[i])); }
static inline v16 v16_signed(v16 a, v16 b) { FLOATS(copysignf(a.lane[i], b.lane[i])); }
static inline v16 v16_less(v16 a, v16 b, v16 yes, v16 no) { FLOATS(a.lane[i] < b.lane[i] ? yes.lane[i] : no.lane[i]); }

static inline uint32_t bits_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}
static inline float of_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}
static inline v16 v16_power(v16 n) { FLOATS(of_bits((bits_of(n.lane[i]) << 23) + bits_of(1))); }
static inline v16 v16_split(v16 x, v16 *e)
{
    for (int i = 0; i < 16; i++) {
        uint32_t bits = bits_of(x.lane[i]), beyond = bits - bits_of(0x1.6a09e6p-1f);
        uint32_t exponent = beyond >> 23 | (beyond >> 31 ? 0xfffffe00 : 0);
        e->lane[i] = (float)(int32_t)exponent;
        x.lane[i] = of_bits(bits - (exponent << 23));
    }
    return x;
}

#define PANEL_VECTORS 1
#define TILE_FLOATS 6
#define EACH_TILE(of) of(1) of(2) of(3) of(4) of(5) of(6)
#include "kernels_float.h"

/* One tile of bytes in steps -> rows [16, columns]. */
static void gather_rows(uint8_t *restrict rows, const uint8_t *restrict steps, size_t columns)
{
    for (size_t c = 0; c < columns; c += 4)
        for (size_t r = 0; r < TILE_ROWS; r++, steps += 4) memcpy(rows + r * columns + c, steps, 4);
}

static void unpack_ternary(uint8_t *restrict out, const uint8_t *restrict packed, size_t columns)
{
    for (size_t c = 0; c < columns; c += PAD, packed += STEP_BYTES)
        for (int part = 0; part < 4; part++)
            for (size_t i = 0; i < STEP_BYTES; i++) *out++ = packed[i] >> 2 * part & 3;
}

/* Scratch: a tile of bytes in steps; then its rows. */
static void codes_product(matrix_format format, int32_t *restrict y, size_t y_stride, const uint8_t *restrict weights,
                          size_t tiles, size_t columns, const uint8_t *restrict q, size_t q_stride,
                          const int32_t *restrict q_sum, size_t tokens, uint8_t *restrict unpacked)
{
    uint8_t *rows = unpacked + TILE_ROWS * (columns + K_PAD);
    const int32_t offset = format == TERNARY || format == TERNARY_DENSE ? 1 : 128;
    for (size_t tile = 0; tile < tiles; tile++, weights += tile_bytes(format, columns)) {
        if (format == TERNARY) unpack_ternary(unpacked, weights, columns);
        if (format == TERNARY_DENSE) unpack_dense_plain(unpacked, weights, columns);
        if (format == INT4) unpack_int4_plain(unpacked, weights, columns);
        gather_rows(rows, format == INT8 ? weights : unpacked, columns);
        for (size_t t = 0; t < tokens; t++) {
            const int8_t *token = (const int8_t *)q + t * q_stride;
            for (size_t r = 0; r < TILE_ROWS; r++) {
                const uint8_t *row = rows + r * columns;
                int32_t sum = 0;
                for (size_t c = 0; c < columns; c++) sum += (int16_t)row[c] * (int16_t)token[c];
                y[t * y_stride + tile * TILE_ROWS + r] = sum - offset * q_sum[t];
            }
        }
    }
}

#define CODES(name, format)                                                                                            \
    static void name(void *restrict y, size_t y_stride, const uint8_t *restrict weights, size_t tiles, size_t columns, \
                     const uint8_t *restrict q, size_t q_stride, const int32_t *restrict q_sum, size_t tokens,         \
                     uint8_t *restrict unpacked)                                                                       \
    {                                                                                                                  \
        codes_product(format, y, y_stride, weights, tiles, columns, q, q_stride, q_sum, tokens, unpacked);             \
    }

CODES(ternary_product, TERNARY) CODES(dense_product, TERNARY_DENSE) CODES(int8_product, INT8) CODES(int4_product, INT4)

/* Of a weight's row r, the place within two packed steps of fp8 (kernels.h). */
static inline size_t fp8_place(size_t step, size_t r) { return r / 4 * 16 + step % 2 * 8 + r % 4 * 2; }

static void bf16_product(void *restrict y, size_t y_stride, const uint8_t *restrict weights, size_t tiles,
                         size_t columns, const uint8_t *restrict q, size_t q_stride, const int32_t *restrict q_sum,
                         size_t tokens, uint8_t *restrict unpacked)
{
    (void)q_sum, (void)unpacked;
    for (size_t tile = 0; tile < tiles; tile++, weights += tile_bytes(BF16, columns))
        for (size_t t = 0; t < tokens; t++) {
            float sums[TILE_ROWS] = {0};
            for (size_t from = 0; from < columns / 2; from += BF16_STEPS) {
                float even[TILE_ROWS] = {0}, odd[TILE_ROWS] = {0};
                for (size_t step = from; step < from + BF16_STEPS; step++)
                    for (size_t r = 0; r < TILE_ROWS; r++) {
                        uint16_t w[2], x[2];
                        memcpy(w, weights + step * STEP_BYTES + 4 * r, sizeof w);
                        memcpy(x, q + t * q_stride + 4 * step, sizeof x);
                        even[r] = fmaf(float_from(w[0]), float_from(x[0]), even[r]);
                        odd[r] = fmaf(float_from(w[1]), float_from(x[1]), odd[r]);
                    }
                for (size_t r = 0; r < TILE_ROWS; r++) sums[r] += even[r] + odd[r];
            }
            memcpy((float *)y + t * y_stride + tile * TILE_ROWS, sums, sizeof sums);
        }
}

static void fp8_product(void *restrict y, size_t y_stride, const uint8_t *restrict weights, size_t tiles,
                        size_t columns, const uint8_t *restrict q, size_t q_stride, const int32_t *restrict q_sum,
                        size_t tokens, uint8_t *restrict unpacked)
{
    for (size_t tile = 0; tile < tiles; tile++, weights += tile_bytes(FP8, columns)) {
        for (size_t step = 0; step < columns / 2; step++)
            for (size_t i = 0; i < 2 * TILE_ROWS; i++) {
                uint16_t half = bf16_from_fp8(weights[step / 2 * STEP_BYTES + fp8_place(step, i / 2) + i % 2]);
                memcpy(unpacked + step * STEP_BYTES + 2 * i, &half, sizeof half);
            }
        bf16_product((float *)y + tile * TILE_ROWS, y_stride, unpacked, 1, columns, q, q_stride, q_sum, tokens, NULL);
    }
}

static void fp32_product(void *restrict y, size_t y_stride, const uint8_t *restrict weights, size_t tiles,
                         size_t columns, const uint8_t *restrict q, size_t q_stride, const int32_t *restrict q_sum,
                         size_t tokens, uint8_t *restrict unpacked)
{
    (void)q_sum, (void)unpacked;
    for (size_t tile = 0; tile < tiles; tile++, weights += tile_bytes(FP32, columns))
        for (size_t t = 0; t < tokens; t++) {
            float sums[TILE_ROWS] = {0};
            const uint8_t *from = q + t * q_stride;
            for (size_t c = 0; c < columns; c++, from += 4) {
                float x, w[TILE_ROWS];
                memcpy(&x, from, sizeof x);
                memcpy(w, weights + c * STEP_BYTES, sizeof w);
                for (size_t r = 0; r < TILE_ROWS; r++) sums[r] = fmaf(w[r], x, sums[r]);
            }
            memcpy((float *)y + t * y_stride + tile * TILE_ROWS, sums, sizeof sums);
        }
}

const bitrl_kernels bitrl_kernels_scalar = {
    "scalar", {ternary_product, dense_product, int8_product, int4_product, fp8_product, bf16_product, fp32_product},
    DOUBLE_KERNELS, FLOAT_KERNELS};
