/* The single-precision kernels of learning, written once and compiled for each instruction set, after kernels_double.h.
 *
 * The file that includes this defines v16: sixteen floats, in one register or several, or in an array; and how many of these
 * a panel is wide (PANEL_VECTORS), of how many rows sums stay in registers (TILE_FLOATS, and EACH_TILE(of) which names all
 * numbers up to it). Each number is the result of the same roundings in all of them; a NaN may have other bits.
 *
 *   v16 v16_load(const float *), v16_set(float); void v16_store(float *, v16)
 *   v16 v16_add(a, b), v16_sub(a, b), v16_mul(a, b), v16_div(a, b), v16_sqrt(a), v16_fma(a, b, c) = a * b + c rounded once
 *   v16 v16_max(a, b) = a > b ? a : b, v16_min(a, b) = a < b ? a : b, v16_abs(a), v16_signed(a, b) = a with the sign of b, of a from 0 on
 *   v16 v16_less(a, b, yes, no) = a < b ? yes : no
 *   v16 v16_power(n) = 2^k, where k is the integer in the low bits of n (see FLOAT_ROUNDER)
 *   v16 v16_split(x, &e): x = m * 2^e with m from sqrt(1/2) up to sqrt(2), of x above 0 and not subnormal; returns m */

/* Adding 1.5 * 2^23 to a float of magnitude below 2^22 rounds it to an integer, ties to even, kept in the low bits. */
#define FLOAT_ROUNDER 0x1.8p23f

/* exp(r) - 1 for |r| <= ln(2) / 2, as r + r^2 q(r), q by least squares towards the smallest largest error. */
TARGET static inline v16 v16_exp_less_one(v16 r)
{
    static const float series[] = {0x1.123fc6p-7f, 0x1.555916p-5f, 0x1.55548ap-3f, 0x1.fffffcp-2f};
    v16 q = v16_set(0x1.6a1a6ep-10f);
    for (size_t i = 0; i < sizeof series / sizeof *series; i++) q = v16_fma(q, r, v16_set(series[i]));
    return v16_fma(v16_mul(r, r), q, r);
}

/* x = n ln(2) + r with the integer n nearest to it, which is also in the low bits of *shifted; returns r. */
TARGET static inline v16 v16_reduce(v16 x, v16 *n, v16 *shifted)
{
    *shifted = v16_fma(x, v16_set(0x1.715476p0f), v16_set(FLOAT_ROUNDER));
    *n = v16_sub(*shifted, v16_set(FLOAT_ROUNDER));
    return v16_fma(*n, v16_set(0x1.05c610p-29f), v16_fma(*n, v16_set(-0x1.62e430p-1f), x));
}

/* exp(x) to one unit in the last place: 2^n exp(r), the power in two factors, as one may be no float. */
TARGET static inline v16 v16_exp(v16 x)
{
    v16 n, shifted;
    x = v16_min(v16_set(89), v16_max(v16_set(-104), x)); /* beyond: infinity, zero. NaN stays */
    v16 p = v16_add(v16_exp_less_one(v16_reduce(x, &n, &shifted)), v16_set(1));
    v16 half = v16_fma(n, v16_set(0.5f), v16_set(FLOAT_ROUNDER));
    v16 other = v16_add(v16_sub(n, v16_sub(half, v16_set(FLOAT_ROUNDER))), v16_set(FLOAT_ROUNDER));
    return v16_mul(v16_mul(p, v16_power(half)), v16_power(other));
}

/* log(x) to one unit in the last place; of 0 -inf, below it NaN. x = m 2^e and, with f = m - 1, log(m) = f - f^2 / 2 +
 * f^3 p(f), p as q there. */
TARGET static inline v16 v16_log(v16 x)
{
    static const float series[] = {-0x1.deffe2p-4f, 0x1.e728a6p-4f, -0x1.fc07cap-4f, 0x1.23322ap-3f,
                                   -0x1.555cccp-3f, 0x1.99a4f6p-3f, -0x1.000006p-2f, 0x1.555546p-2f};
    const v16 zero = v16_set(0), infinity = v16_set(INFINITY);
    v16 small = v16_set(0x1p-126f), e;
    v16 m = v16_split(v16_less(x, small, v16_mul(x, v16_set(0x1p23f)), x), &e);
    e = v16_add(e, v16_less(x, small, v16_set(-23), zero));
    v16 f = v16_sub(m, v16_set(1)), square = v16_mul(f, f), p = v16_set(0x1.14c9d8p-4f);
    for (size_t i = 0; i < sizeof series / sizeof *series; i++) p = v16_fma(p, f, v16_set(series[i]));
    v16 low = v16_fma(e, v16_set(-0x1.05c610p-29f), v16_mul(v16_mul(p, f), square));
    v16 log = v16_fma(e, v16_set(0x1.62e430p-1f), v16_add(f, v16_fma(v16_set(-0.5f), square, low)));
    log = v16_less(zero, x, log, v16_less(x, zero, v16_set(NAN), v16_sub(x, infinity))); /* 0: -inf; NaN stays */
    return v16_less(x, infinity, log, x);
}

/* tanh(x) to two units in the last place: near zero x + x^3 p(x^2), p as q there; else t / (t + 2), where t = exp(2 |x|) - 1 =
 * 2^n (exp(r) - 1) + (2^n - 1), with x's sign. */
TARGET static inline v16 v16_tanh(v16 x)
{
    static const float series[] = {0x1.51d0c4p-6f, -0x1.b82fbap-5f, 0x1.1106cap-3f, -0x1.555532p-2f};
    v16 square = v16_mul(x, x), near = v16_set(-0x1.74540cp-8f);
    for (size_t i = 0; i < sizeof series / sizeof *series; i++) near = v16_fma(near, square, v16_set(series[i]));
    v16 n, shifted, size = v16_min(v16_set(10), v16_abs(x)); /* beyond: 1. NaN stays */
    v16 p = v16_exp_less_one(v16_reduce(v16_add(size, size), &n, &shifted)), power = v16_power(shifted);
    v16 t = v16_fma(power, p, v16_sub(power, v16_set(1)));
    v16 far = v16_signed(v16_div(t, v16_add(t, v16_set(2))), x);
    return v16_less(size, v16_set(0.625f), v16_fma(v16_mul(x, square), near, x), far);
}

/* The rest of a row that does not fill a vector, with zeros behind. */
TARGET static inline v16 v16_load_some(const float *from, size_t n)
{
    float lane[16] = {0};
    memcpy(lane, from, n * sizeof *lane);
    return v16_load(lane);
}

TARGET static inline void v16_store_some(float *to, v16 v, size_t n)
{
    float lane[16];
    v16_store(lane, v);
    memcpy(to, lane, n * sizeof *lane);
}

#define OF_EACH(name, function)                                                                                         \
    TARGET static void name(float *out, const float *x, size_t n)                                                       \
    {                                                                                                                   \
        size_t i = 0;                                                                                                   \
        for (; i + 16 <= n; i += 16) v16_store(out + i, function(v16_load(x + i)));                                     \
        if (i < n) v16_store_some(out + i, function(v16_load_some(x + i, n - i)), n - i);                               \
    }

OF_EACH(exps, v16_exp)
OF_EACH(logs, v16_log)

TARGET static void tanhs(float *x, size_t stride, size_t rows, size_t columns)
{
    for (; rows--; x += stride) {
        size_t i = 0;
        for (; i + 16 <= columns; i += 16) v16_store(x + i, v16_tanh(v16_load(x + i)));
        if (i < columns) v16_store_some(x + i, v16_tanh(v16_load_some(x + i, columns - i)), columns - i);
    }
}

TARGET static inline v16 v16_slope(v16 g, v16 y) { return v16_mul(g, v16_fma(v16_sub(v16_set(0), y), y, v16_set(1))); }

TARGET static void slopes(float *restrict g, const float *restrict y, size_t stride, size_t rows, size_t columns)
{
    for (; rows--; g += stride, y += stride) {
        size_t i = 0;
        for (; i + 16 <= columns; i += 16) v16_store(g + i, v16_slope(v16_load(g + i), v16_load(y + i)));
        if (i == columns) continue;
        v16 slope = v16_slope(v16_load_some(g + i, columns - i), v16_load_some(y + i, columns - i));
        v16_store_some(g + i, slope, columns - i);
    }
}

/* Two sums, each of eight lanes; the squares of floats are exact. */
TARGET static double squares(const float *x, size_t n)
{
    v8 sum0 = v8_set(0), sum1 = sum0;
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        v8 a = v8_from_float(x + i), b = v8_from_float(x + i + 8);
        sum0 = v8_fma(a, a, sum0);
        sum1 = v8_fma(b, b, sum1);
    }
    if (i < n) {
        float lane[16] = {0};
        memcpy(lane, x + i, (n - i) * sizeof *lane);
        v8 a = v8_from_float(lane), b = v8_from_float(lane + 8);
        sum0 = v8_fma(a, a, sum0);
        sum1 = v8_fma(b, b, sum1);
    }
    return v8_sum(v8_add(sum0, sum1));
}

/* One step of Adam for sixteen weights: the new weight. */
TARGET static inline v16 adam_step(v16 w, v16 g, v16 *m, v16 *v, const adam_rates *by)
{
    g = v16_mul(g, v16_set(by->scale));
    *m = v16_fma(v16_set(0.1f), v16_sub(g, *m), *m);
    *v = v16_fma(v16_mul(v16_set(0.001f), g), g, v16_mul(v16_set(0.999f), *v));
    v16 size = v16_fma(v16_sqrt(*v), v16_set(by->root), v16_set(by->eps));
    return v16_fma(v16_set(-by->rate), v16_div(*m, size), w);
}

TARGET static void adam(float *restrict w, float *restrict m, float *restrict v, const float *restrict g, size_t n,
                        const adam_rates *by)
{
    const adam_rates rates = *by;
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        v16 mean = v16_load(m + i), square = v16_load(v + i);
        __builtin_prefetch(w + i + 256, 1); /* other cores read it too, and must be told */
        v16_store(w + i, adam_step(v16_load(w + i), v16_load(g + i), &mean, &square, &rates));
        v16_store(m + i, mean);
        v16_store(v + i, square);
    }
    if (i == n) return;
    v16 mean = v16_load_some(m + i, n - i), square = v16_load_some(v + i, n - i);
    v16_store_some(w + i, adam_step(v16_load_some(w + i, n - i), v16_load_some(g + i, n - i), &mean, &square, &rates), n - i);
    v16_store_some(m + i, mean, n - i);
    v16_store_some(v + i, square, n - i);
}

/* ---- products ---- */

enum { PANEL = 16 * PANEL_VECTORS };

typedef float four_floats __attribute__((vector_size(16)));
typedef int32_t four_places __attribute__((vector_size(16)));

/* Lanes of a (0 to 3) and b (4 to 7): as clang says it, and as GCC does, which knows clang's way from version 12 on. */
#if defined(__clang__)
#define MIXED(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define MIXED(a, b, ...) __builtin_shuffle(a, b, (four_places){__VA_ARGS__})
#endif

/* to: [4, PANEL] = from: [4, from_stride], transposed. */
TARGET static inline void transpose_four(float *restrict to, const float *restrict from, size_t from_stride)
{
    four_floats x[4], y[4];
    for (size_t i = 0; i < 4; i++) memcpy(&x[i], from + i * from_stride, sizeof x[i]);
    for (size_t i = 0; i < 2; i++) { /* of each two neighbouring lanes, those of two rows */
        y[2 * i] = MIXED(x[i], x[i + 2], 0, 4, 1, 5);
        y[2 * i + 1] = MIXED(x[i], x[i + 2], 2, 6, 3, 7);
    }
    for (size_t i = 0; i < 2; i++) {
        x[2 * i] = MIXED(y[i], y[i + 2], 0, 4, 1, 5);
        x[2 * i + 1] = MIXED(y[i], y[i + 2], 2, 6, 3, 7);
    }
    for (size_t i = 0; i < 4; i++) memcpy(to + i * PANEL, &x[i], sizeof x[i]);
}

/* Rows of a panel's columns next to each other, zeros beyond the last column. */
TARGET static void pack_panel(float *restrict panel, const float *restrict b, size_t b_step, size_t b_column, size_t steps,
                              size_t columns)
{
    if (b_column == 1 && columns == PANEL) {
        for (size_t k = 0; k < steps; k++, panel += PANEL, b += b_step)
            for (size_t i = 0; i < PANEL_VECTORS; i++) v16_store(panel + 16 * i, v16_load(b + 16 * i));
        return;
    }
    if (columns < PANEL) memset(panel, 0, steps * PANEL * sizeof *panel);
    if (b_column == 1) {
        for (size_t k = 0; k < steps; k++)
            for (size_t i = 0; i < columns; i++) panel[k * PANEL + i] = b[k * b_step + i];
        return;
    }
    size_t fours = b_step == 1 ? columns / 4 * 4 : 0, whole = steps / 4 * 4;
    for (size_t i = 0; i < fours; i += 4)
        for (size_t k = 0; k < whole; k += 4) transpose_four(panel + k * PANEL + i, b + k + i * b_column, b_column);
    for (size_t i = 0; i < columns; i++)
        for (size_t k = i < fours ? whole : 0; k < steps; k++) panel[k * PANEL + i] = b[k * b_step + i * b_column];
}

/* Sums of `rows` rows and a panel of columns, in registers; rows is a constant where this is called. */
TARGET static inline __attribute__((always_inline)) void multiply_tile(const size_t rows, float *c, size_t c_stride, const float *a,
                                                                       size_t a_row, size_t a_step, const float *restrict panel,
                                                                       size_t steps, const float *start, size_t start_stride)
{
    v16 sums[TILE_FLOATS][PANEL_VECTORS];
    _Pragma("GCC unroll 16") for (size_t r = 0; r < rows; r++)
        _Pragma("GCC unroll 2") for (size_t i = 0; i < PANEL_VECTORS; i++)
        {
            sums[r][i] = start ? v16_load(start + r * start_stride + 16 * i) : v16_set(0);
            __builtin_prefetch(c + r * c_stride + 16 * i, 1); /* may be in another core's cache: it comes meanwhile */
        }
    for (size_t k = 0; k < steps; k++, a += a_step, panel += PANEL) {
        v16 b[PANEL_VECTORS];
        _Pragma("GCC unroll 2") for (size_t i = 0; i < PANEL_VECTORS; i++) b[i] = v16_load(panel + 16 * i);
        _Pragma("GCC unroll 16") for (size_t r = 0; r < rows; r++)
        {
            const v16 x = v16_set(a[r * a_row]);
            _Pragma("GCC unroll 2") for (size_t i = 0; i < PANEL_VECTORS; i++) sums[r][i] = v16_fma(x, b[i], sums[r][i]);
        }
    }
    _Pragma("GCC unroll 16") for (size_t r = 0; r < rows; r++)
        _Pragma("GCC unroll 2") for (size_t i = 0; i < PANEL_VECTORS; i++) v16_store(c + r * c_stride + 16 * i, sums[r][i]);
}

#define TILE_FUNCTION(N)                                                                                                \
    TARGET static void multiply_##N(float *c, size_t c_stride, const float *a, size_t a_row, size_t a_step,            \
                                    const float *restrict panel, size_t steps, const float *start, size_t start_stride) \
    {                                                                                                                   \
        multiply_tile(N, c, c_stride, a, a_row, a_step, panel, steps, start, start_stride);                             \
    }
#define TILE_NAME(N) multiply_##N,

EACH_TILE(TILE_FUNCTION)

typedef void some_rows(float *, size_t, const float *, size_t, size_t, const float *restrict, size_t, const float *, size_t);
static some_rows *const of_rows[] = {EACH_TILE(TILE_NAME)};

static void multiply_panel(float *c, size_t c_stride, size_t rows, const float *a, size_t a_row, size_t a_step,
                           const float *restrict panel, size_t steps, const float *start, size_t start_stride)
{
    for (size_t r = 0; r < rows; r += TILE_FLOATS)
        of_rows[(rows - r < TILE_FLOATS ? rows - r : TILE_FLOATS) - 1](c + r * c_stride, c_stride, a + r * a_row, a_row, a_step,
                                                                       panel, steps, start ? start + r * start_stride : NULL,
                                                                       start_stride);
}

/* What follows DOUBLE_KERNELS in a table. */
#define FLOAT_KERNELS exps, logs, tanhs, slopes, squares, adam, PANEL, pack_panel, multiply_panel
