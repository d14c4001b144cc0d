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
static inline v8 v8_set(double value) { LANES(v8, value); }
static inline v8 v8_add(v8 a, v8 b) { LANES(v8, a.lane[i] + b.lane[i]); }
static inline v8 v8_sub(v8 a, v8 b) { LANES(v8, a.lane[i] - b.lane[i]); }
static inline v8 v8_mul(v8 a, v8 b) { LANES(v8, a.lane[i] * b.lane[i]); }
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

#include "kernels_double.h"

/* One tile of codes -> rows [16, columns], a byte each. */
static void unpack(uint8_t *restrict rows, const uint8_t *restrict codes, size_t columns)
{
    for (size_t g = 0; g < columns / GROUP_COLUMNS; g++)
        for (size_t r = 0; r < TILE_ROWS; r++, codes += 4)
            for (size_t part = 0; part < 4; part++)
                for (size_t j = 0; j < 4; j++)
                    rows[r * columns + g * GROUP_COLUMNS + 4 * part + j] = codes[j] >> 2 * part & 3;
}

static void ternary_product(int32_t *restrict y, size_t y_stride, const uint8_t *restrict codes, size_t tiles,
                            size_t groups, const int8_t *restrict q, const int32_t *restrict q_sum, size_t tokens,
                            uint8_t *restrict unpacked)
{
    size_t columns = groups * GROUP_COLUMNS;
    int8_t *token = (int8_t *)unpacked + TILE_ROWS * columns; /* [columns] one token's codes, gathered */
    for (size_t tile = 0; tile < tiles; tile++) {
        unpack(unpacked, codes + tile * groups * GROUP_BYTES, columns);
        for (size_t t = 0; t < tokens; t++) {
            const int8_t *four = activation(q, groups, t);
            for (size_t c = 0; c < columns; c += 4, four += ACTIVATION_STEP) memcpy(token + c, four, 4);
            for (size_t r = 0; r < TILE_ROWS; r++) {
                const uint8_t *row = unpacked + r * columns;
                int32_t sum = 0;
                for (size_t c = 0; c < columns; c++) sum += (int16_t)row[c] * (int16_t)token[c];
                y[t * y_stride + tile * TILE_ROWS + r] = sum - q_sum[t];
            }
        }
    }
}

const bitrl_kernels bitrl_kernels_scalar = {"scalar", ternary_product, norm_quantise, gated,
                                            scaled,   add_scaled,      rotated,       attend};
