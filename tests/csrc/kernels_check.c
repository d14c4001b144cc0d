/* Compares every kernel of every instruction set that this CPU runs with its scalar twin, bit for bit, over odd shapes and
 * extreme numbers; for CPUs without Python, emulated ones among them. Prints what it compared, a line per instruction set;
 * ends with 1 at the first difference. That the scalar kernels are right is for test_kernels.py to say. */
#define _POSIX_C_SOURCE 200112L
#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include "bitrl.h"
#include "kernels.h"

typedef enum { ANY, MOST, LEAST, ZERO, OUTLIER, QUIET, KINDS } number_kind; /* QUIET: small, but for a few */
static const char *const kinds[KINDS] = {"any", "most", "least", "zero", "outlier", "quiet"};

static uint64_t state;

/* Numbers that are the same on every machine: xorshift64*. */
static uint64_t bits(void)
{
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return state * 2685821657736338717u;
}
static int between(int least, int most) { return least + (int)(bits() >> 33) % (most - least + 1); }
static double number(void) { return (double)(bits() >> 11) * 0x1p-52 - 1; }

static size_t up(size_t n, size_t to) { return (n + to - 1) / to * to; }

/* Filled with sevens, 64-byte aligned; exactly that long, for AddressSanitizer. */
static void *memory(size_t bytes)
{
    void *made;
    if (posix_memalign(&made, 64, bytes ? bytes : 1)) {
        puts("out of memory");
        exit(2);
    }
    memset(made, 7, bytes);
    return made;
}

static double *numbers(size_t n, size_t padded)
{
    double *out = memory(padded * sizeof *out);
    for (size_t i = 0; i < padded; i++) out[i] = i < n ? number() : 0;
    return out;
}

/* Ends the program unless both are the same bytes. */
static void same(const void *got, const void *want, size_t bytes, const char *isa, const char *format, ...)
{
    if (bytes == 0 || memcmp(got, want, bytes) == 0) return;
    size_t at = 0;
    while (((const uint8_t *)got)[at] == ((const uint8_t *)want)[at]) at++;
    va_list arguments;
    va_start(arguments, format);
    printf("\n%s differs from scalar: ", isa);
    vprintf(format, arguments);
    printf(", byte %zu of %zu\n", at, bytes);
    va_end(arguments);
    exit(1);
}

/* ---- products ---- */

static const char *const formats[FORMATS] = {"ternary", "ternary-1.6", "int8", "int4", "fp8", "bf16", "fp32"};

static int of_kind(number_kind kind, int least, int most, int zero)
{
    if (kind == QUIET) return between(0, 40) ? between(-18, 18) : between(least, most);
    return kind == MOST ? most : kind == LEAST ? least : kind == ANY ? between(least, most) : zero;
}

static float float_of_kind(number_kind kind)
{
    return kind == MOST ? 1e15f : kind == LEAST ? -1e15f : kind == ZERO ? 0 : (float)number();
}

/* Packed weights [tiles, tile_bytes] of one kind. */
static uint8_t *make_weights(matrix_format format, size_t tiles, size_t columns, number_kind kind)
{
    size_t bytes = tile_bytes(format, columns), codes = steps_of(format, columns) / 2 * STEP_BYTES;
    uint8_t *weights = memory(tiles * bytes);
    for (size_t i = 0; i < tiles * bytes; i += format == FP32 ? 4 : format == BF16 ? 2 : 1) {
        uint32_t trits[5];
        for (int j = 0; j < 5; j++) trits[j] = (uint32_t)of_kind(kind, 0, 2, 1);
        if (format == TERNARY) weights[i] = (uint8_t)(trits[0] | trits[1] << 2 | trits[2] << 4 | trits[3] << 6);
        if (format == TERNARY_DENSE) weights[i] = (uint8_t)trits_pack(trits);
        if (format == INT8) weights[i] = (uint8_t)of_kind(kind, 1, 255, 128);
        if (format == FP8) weights[i] = fp8_from(kind == ANY ? (float)(number() * number() * number() * 449) : float_of_kind(kind));
        if (format == INT4 && i % bytes < codes) /* -8 times -15, or 15; or 8 less than 8 */
            weights[i] = (uint8_t)(kind == ZERO ? 0x88 : kind == ANY ? between(0, 255) : 0);
        if (format == INT4 && i % bytes >= codes) weights[i] = (uint8_t)of_kind(kind, 15, -15, 15);
        if (format == INT4 && i % bytes >= codes && kind == ANY) weights[i] = (uint8_t)between(-15, 15);
        float value = format >= BF16 ? float_of_kind(kind) : 0;
        uint16_t half = bf16_from(value);
        if (format == BF16) memcpy(weights + i, &half, sizeof half);
        if (format == FP32) memcpy(weights + i, &value, sizeof value);
    }
    return weights;
}

/* Activations [tokens up to TOKEN_PAD, activation_stride] of one kind, zeros behind; and the sums of codes. */
static uint8_t *make_activations(matrix_format format, size_t columns, size_t tokens, number_kind kind, int32_t *sums)
{
    size_t stride = activation_stride(format, columns), size = format == FP32 ? 4 : multiplies_halves(format) ? 2 : 1;
    uint8_t *q = memory(up(tokens, TOKEN_PAD) * stride);
    const int least = format == INT8 || format == INT4 ? -127 : -128;
    for (size_t t = 0; t < up(tokens, TOKEN_PAD); t++) {
        uint8_t *row = q + t * stride;
        size_t outlier = bits() % columns;
        int32_t sum = 0;
        memset(row, 0, stride);
        for (size_t c = 0; c < columns && t < tokens; c++) {
            number_kind one = kind != OUTLIER ? kind : c == outlier ? MOST : ZERO;
            int8_t code = (int8_t)of_kind(one, least, 127, 0);
            float value = float_of_kind(one);
            uint16_t half = format == FP8 ? bf16_from_fp8(fp8_from(value)) : bf16_from(value);
            sum += code;
            memcpy(row + c * size, format == FP32 ? (void *)&value : size == 2 ? (void *)&half : &code, size);
        }
        if (t < tokens) sums[t] = sum;
    }
    return q;
}

static void check_product(const bitrl_kernels *kernels, const bitrl_kernels *scalar, matrix_format format, size_t tiles,
                          size_t columns, size_t tokens, number_kind weights_kind, number_kind kind)
{
    size_t rows = tiles * TILE_ROWS, y_stride = rows + 5, padded = up(tokens, TOKEN_PAD);
    int32_t *sums = memory(tokens * sizeof *sums);
    uint8_t *weights = make_weights(format, tiles, columns, weights_kind);
    uint8_t *q = make_activations(format, columns, tokens, kind, sums);
    size_t q_stride = activation_stride(format, columns);
    uint8_t *unpacked = memory(unpacked_bytes(columns, tokens));
    int32_t *got = memory(padded * y_stride * sizeof *got), *want = memory(padded * y_stride * sizeof *want);
    int32_t guard[5];
    memset(guard, 7, sizeof guard);
    kernels->product[format](got, y_stride, weights, tiles, columns, q, q_stride, sums, tokens, unpacked);
    scalar->product[format](want, y_stride, weights, tiles, columns, q, q_stride, sums, tokens, unpacked);
    for (size_t t = 0; t < padded; t++) {
        if (t < tokens)
            same(got + t * y_stride, want + t * y_stride, rows * sizeof *got, kernels->name,
                 "%s, %zu tiles, %zu columns of %s, token %zu of %zu of %s", formats[format], tiles, columns,
                 kinds[weights_kind], t, tokens, kinds[kind]);
        same(got + t * y_stride + rows, guard, sizeof guard, kernels->name, "%s writes beyond its rows", formats[format]);
    }
    free(sums), free(weights), free(q), free(unpacked), free(got), free(want);
}

static size_t check_products(const bitrl_kernels *kernels, const bitrl_kernels *scalar, matrix_format format)
{
    static const struct {
        size_t tiles, columns, tokens;
    } shapes[] = {{1, 64, 1},  {2, 64, 0},   {5, 64, 2},  {3, 128, 3},  {2, 192, 4},  {1, 320, 5},  {2, 384, 7},
                  {4, 640, 6}, {1, 704, 13}, {2, 64, 33}, {3, 128, 50}, {1, 1344, 9}, {2, 1344, 2}, {2, 960, 17}};
    enum { SHAPES = sizeof shapes / sizeof *shapes };
    static const number_kind extremes[][2] = {{MOST, MOST}, {MOST, LEAST}, {LEAST, MOST},  {LEAST, LEAST},
                                              {ZERO, ANY},  {ANY, ZERO},   {ANY, OUTLIER}, {ANY, MOST},
                                              {ANY, QUIET}, {MOST, QUIET}, {LEAST, QUIET}};
    enum { EXTREMES = sizeof extremes / sizeof *extremes };
    for (size_t i = 0; i < SHAPES; i++)
        check_product(kernels, scalar, format, shapes[i].tiles, shapes[i].columns, shapes[i].tokens, ANY, ANY);
    for (size_t i = 0; i < EXTREMES; i++) {
        const number_kind *kind = extremes[i];
        check_product(kernels, scalar, format, 2, 704, 9, kind[0], kind[1]);
        check_product(kernels, scalar, format, 1, 7168, 1 + i % 4, kind[0], kind[1]);
    }
    check_product(kernels, scalar, format, 1, 65536, 1, MOST, MOST);
    check_product(kernels, scalar, format, 1, 65536, 4, LEAST, MOST);
    return SHAPES + 2 * EXTREMES + 2;
}

/* ---- the kernels of doubles ---- */

static size_t check_norms(const bitrl_kernels *kernels, const bitrl_kernels *scalar)
{
    static const size_t lengths[] = {1, 7, 16, 37, 64, 399};
    static const double sizes[] = {1, 1e-30, 1e100, 0};
    size_t count = 0;
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++)
        for (size_t j = 0; j < 2 * sizeof sizes / sizeof *sizes; j++, count++) {
            size_t n = lengths[i], padded = up(n, PAD);
            double *x = numbers(n, padded), *norm = numbers(n, padded), *weight = count % 3 ? norm : NULL, s[2];
            for (size_t c = 0; c < n; c++) x[c] *= sizes[j / 2];
            if (j % 2) x[bits() % n] = 1e6;
            if (j == 0) /* with an outlier of 127 and no weight, codes are ties */
                for (size_t c = 0; c < n; c++) x[c] = c ? between(-253, 253) / 2.0 : 127;
            double *row = memory(padded * sizeof *row), *out[2];
            uint8_t *q[2];
            int32_t sum[2];
            for (int k = 0; k < 2; k++) {
                const bitrl_kernels *of = k ? scalar : kernels;
                q[k] = memory(9 * padded);
                out[k] = memory(padded * sizeof *row);
                s[k] = of->norm_quantise(q[k], sum + k, row, x, weight, n, padded, 1e-5);
                of->norm_round(q[k] + padded, BF16, row, x, weight, n, padded, 1e-5);
                of->norm_round(q[k] + 3 * padded, FP32, row, x, weight, n, padded, 1e-5);
                s[k] += of->norm_fp8(q[k] + 7 * padded, row, x, weight, n, padded, 1e-5);
                of->normalise(out[k], x, weight, n, padded, 1e-5);
            }
            same(q[0], q[1], 9 * padded, kernels->name, "norm of %zu numbers, case %zu", n, j);
            same(out[0], out[1], padded * sizeof *row, kernels->name, "normalise %zu numbers, case %zu", n, j);
            same(sum, sum + 1, sizeof *sum, kernels->name, "sum of %zu codes, case %zu", n, j);
            same(s, s + 1, sizeof *s, kernels->name, "scale of %zu codes, case %zu", n, j);
            free(x), free(norm), free(row), free(q[0]), free(q[1]), free(out[0]), free(out[1]);
        }
    return count;
}

static size_t check_elementwise(const bitrl_kernels *kernels, const bitrl_kernels *scalar)
{
    static const int largest[] = {1, 1000, 2147483647};
    size_t count = 0;
    for (size_t n = PAD; n <= 8 * PAD; n += PAD)
        for (size_t j = 0; j < sizeof largest / sizeof *largest; j++, count++) {
            int32_t *y = memory(n * sizeof *y);
            for (size_t i = 0; i < n; i++) y[i] = (int32_t)(largest[j] * number());
            double *a = numbers(n, n), *b = numbers(n, n), *rope = numbers(n, n), *gate = numbers(n, n), *out[2];
            for (size_t i = 0; i < n; i++) gate[i] *= largest[j];
            size_t half = 1 + bits() % (n / 2), some = n - bits() % 8;
            float logits[8 * PAD];
            double most = -INFINITY, exp_sum[2];
            for (size_t i = 0; i < some; i++) logits[i] = (float)(50 * a[i]);
            for (size_t i = 0; i < some; i++) most = logits[i] > most ? logits[i] : most;
            for (int k = 0; k < 2; k++) {
                const bitrl_kernels *of = k ? scalar : kernels;
                out[k] = memory(9 * n * sizeof **out);
                of->scaled(out[k], y, 0.37, some);
                of->scaled_rows(out[k] + n, y, a, 0.37, n);
                of->gated(out[k] + 2 * n, a, b, n);
                memcpy(out[k] + 3 * n, a, n * sizeof *a);
                of->added(out[k] + 3 * n, b, n);
                of->rotated(out[k] + 4 * n, a, rope, half);
                of->gated_silu(out[k] + 5 * n, gate, b, n);
                of->gated_gelu(out[k] + 6 * n, gate, b, n);
                of->scaled_floats(out[k] + 7 * n, logits, 0.37, some);
                of->scaled_float_rows(out[k] + 8 * n, (const float *)(const void *)a, b, 0.37, n);
                exp_sum[k] = of->exp_sum(logits, some, most, 0.7);
            }
            same(out[0], out[1], 9 * n * sizeof **out, kernels->name, "elementwise, %zu numbers, sums to %d", n,
                 largest[j]);
            same(exp_sum, exp_sum + 1, sizeof *exp_sum, kernels->name, "the sum of %zu exponentials", some);
            free(y), free(a), free(b), free(rope), free(gate), free(out[0]), free(out[1]);
        }
    return count;
}

/* Rows of k and v from the from-th on as a cache has them, what is missing of the last group sevens. */
static double *cached(const double *rows, size_t from, size_t count, size_t stride, size_t padded, int keys)
{
    double *out = memory(up(count, KEYS_TOGETHER) * padded * sizeof *out);
    for (size_t j = 0; j < up(count, KEYS_TOGETHER); j++)
        for (size_t d = 0; d < padded; d++) {
            size_t at = keys ? (j / KEYS_TOGETHER * padded + d) * KEYS_TOGETHER + j % KEYS_TOGETHER : j * padded + d;
            out[at] = j < count ? rows[(from + j) * stride + d] : 7;
        }
    return out;
}

static size_t check_attention(const bitrl_kernels *kernels, const bitrl_kernels *scalar)
{
    static const size_t windows[] = {0, 1, 3, 8, 9, 100};
    static const size_t dims[] = {2, 8, 26, 64, 80};
    static const double sizes[] = {0.1, 1, 30};
    enum { CASES = 120 };
    for (size_t i = 0; i < CASES; i++) {
        size_t length = (size_t)between(1, 40), past = bits() % length, first = bits() % (length - past);
        if (i % 2) past = length - 1, first = 0; /* one query reads its caches in place */
        size_t head_dim = dims[i / 2 % 5], padded = up(head_dim, PAD), heads = 1 + i / 2 % 6, own = length - past, start = bits() % (past + 1);
        size_t kv_stride = padded + 3, out_stride = heads * head_dim + 3;
        double *q = numbers(own * heads * padded, own * heads * padded);
        double *k = numbers(length * kv_stride, length * kv_stride), *v = numbers(length * kv_stride, length * kv_stride);
        double *scratch = memory(attention_scratch(length, head_dim) * sizeof *scratch), *out[2];
        for (size_t j = 0; j < own * heads * padded; j++) q[j] = j % padded < head_dim ? q[j] * sizes[i / 4 % 3] : 0;
        for (size_t j = 0; j < length * kv_stride; j++)
            if (j % kv_stride >= head_dim) k[j] = v[j] = 0;
        double *start_k = cached(k, 0, start, kv_stride, padded, 1), *start_v = cached(v, 0, start, kv_stride, padded, 0);
        double *past_k = cached(k, start, past - start, kv_stride, padded, 1);
        double *past_v = cached(v, start, past - start, kv_stride, padded, 0);
        for (int of = 0; of < 2; of++) {
            out[of] = memory(own * out_stride * sizeof **out);
            const attention_task task = {.q = q, .k = k + past * kv_stride, .v = v + past * kv_stride, .start_k = start_k,
                                         .start_v = start_v, .past_k = past_k, .past_v = past_v, .start = start, .out = out[of], .q_stride = heads * padded,
                                         .kv_stride = kv_stride, .out_stride = out_stride, .head_stride = padded,
                                         .heads = heads, .head_dim = head_dim, .past = past, .first = first,
                                         .count = own - first, .window = windows[i / 3 % 6],
                                         .scale = 1 / sqrt((double)head_dim)};
            (of ? scalar : kernels)->attend(&task, scratch);
        }
        same(out[0], out[1], own * out_stride * sizeof **out, kernels->name,
             "attention, %zu tokens after %zu, %zu heads of %zu, window %zu", own, past, heads, head_dim, windows[i / 3 % 6]);
        free(q), free(k), free(v), free(scratch), free(out[0]), free(out[1]);
        free(start_k), free(start_v), free(past_k), free(past_v);
    }
    return CASES;
}

/* Codes of weights, and the random bits that may choose them. */
static size_t check_rounding(const bitrl_kernels *kernels, const bitrl_kernels *scalar)
{
    static const double sizes[] = {1, 1e-42, 1e37, 0};
    enum { CASES = 24, MOST_WEIGHTS = 5 * K_PAD };
    for (size_t i = 0; i < CASES; i++) {
        size_t n = (1 + i % 5) * K_PAD;
        float row[MOST_WEIGHTS];
        double largest = 0, size = sizes[i % 4];
        for (size_t c = 0; c < n; c++) {
            row[c] = (float)((i % 3 ? number() * number() : between(-15, 15) / 2.0) * size);
            largest = fabs((double)row[c]) > largest ? fabs((double)row[c]) : largest;
        }
        int32_t random[2][MOST_WEIGHTS];
        int8_t *codes[2];
        for (int k = 0; k < 2; k++) {
            const bitrl_kernels *of = k ? scalar : kernels;
            int8_t *to = codes[k] = memory(11 * n);
            of->random_bits(random[k], n, 0x123456789abcdef0u + i);
            for (int j = 0; j < 2; j++, to += 5 * n) {
                of->round_codes(to, row, n, largest / 127, -127, 127, j ? random[k] : NULL);
                of->round_fp8((uint8_t *)to + n, row, n, largest / 448, j ? random[k] : NULL);
                of->round_bf16((uint16_t *)(void *)(to + 2 * n), row, n, j ? random[k] : NULL);
                of->round_int4(to + 4 * n, codes[k] + 10 * n + j * n / INT4_BLOCK, row, n, largest / 119, j ? random[k] : NULL);
            }
        }
        same(random[0], random[1], n * sizeof **random, kernels->name, "%zu random bits", n);
        same(codes[0], codes[1], 11 * n, kernels->name, "rounding %zu weights, case %zu", n, i);
        free(codes[0]), free(codes[1]);
    }
    return CASES;
}

/* ---- the kernels of learning ---- */

/* Floats of a kind: near one, of all sizes, or at the ends of what there is. */
static float *some_floats(size_t n, size_t kind)
{
    static const float ends[] = {0, -0.0f, 0x1p-149f, -0x1p-140f, 0x1p-126f, 88.72284f, 88.7229f, -103.97f, -104.1f, 0.625f,
                                 -0.625f, 9.01f, 3.4028235e38f, -3.4028235e38f, INFINITY, -INFINITY, 1, 0.70710678f};
    enum { ENDS = sizeof ends / sizeof *ends };
    float *out = memory(n * sizeof *out);
    for (size_t i = 0; i < n; i++) {
        uint32_t any = (uint32_t)bits();
        if ((any >> 23 & 255) == 255) any &= 0xff800000; /* infinite, not NaN, which may have other bits */
        out[i] = kind == 0 ? (float)(4 * number()) : ends[bits() % ENDS];
        if (kind == 1) memcpy(out + i, &any, sizeof any);
    }
    return out;
}

static size_t check_functions(const bitrl_kernels *kernels, const bitrl_kernels *scalar)
{
    enum { CASES = 24 };
    for (size_t i = 0; i < CASES; i++) {
        size_t n = (size_t)between(1, 70), stride = n + 3, rows = 1 + i % 3, size = rows * stride;
        float *x = some_floats(size, i % 3), *y = some_floats(size, 0), *out[2];
        double sum[2];
        for (int k = 0; k < 2; k++) {
            const bitrl_kernels *of = k ? scalar : kernels;
            out[k] = memory(6 * size * sizeof **out);
            memcpy(out[k] + 2 * size, x, size * sizeof *x);
            memcpy(out[k] + 3 * size, y, size * sizeof *x);
            memcpy(out[k] + 4 * size, y, size * sizeof *x);
            for (size_t j = 0; j < size; j++) out[k][5 * size + j] = y[j] * y[j];
            of->exps(out[k], x, size);
            of->logs(out[k] + size, x, size);
            of->tanhs(out[k] + 2 * size, stride, rows, n);
            of->slopes(out[k] + 3 * size, out[k] + 2 * size, stride, rows, n);
            const adam_rates rates = {.scale = 0.3f, .rate = 0.01f, .root = 1.5f, .eps = 1e-5f};
            for (size_t j = 0; j < size; j++) out[k][j] = out[k][j] < 1e20f ? out[k][j] : 1; /* inf - inf is NaN */
            of->adam(out[k], out[k] + 4 * size, out[k] + 5 * size, out[k] + 3 * size, n, &rates);
            sum[k] = of->squares(y, n);
        }
        same(out[0], out[1], 6 * size * sizeof **out, kernels->name, "functions of %zu x %zu floats, case %zu", rows, n, i);
        same(sum, sum + 1, sizeof *sum, kernels->name, "the sum of %zu squares", n);
        free(x), free(y), free(out[0]), free(out[1]);
    }
    return CASES;
}

/* c = start + a b, panel by panel. */
static float *multiplied(const bitrl_kernels *of, const float *a, const float *b, size_t rows, size_t steps, size_t columns,
                         size_t turned, const float *start)
{
    enum { WIDEST = 32 };
    size_t stride = up(columns, WIDEST);
    float *c = memory(rows * stride * sizeof *c), *packed = memory(steps * of->panel * sizeof *packed);
    for (size_t from = 0; from < columns; from += of->panel) {
        size_t left = columns - from < of->panel ? columns - from : of->panel;
        of->pack_panel(packed, b + from * (turned ? steps : 1), turned ? 1 : columns, turned ? steps : 1, steps, left);
        of->multiply_panel(c + from, stride, rows, a, turned ? 1 : steps, turned ? rows : 1, packed, steps,
                           start ? start + from : NULL, 0);
    }
    for (size_t r = 0; r < rows; r++) /* what lies beyond may be anything */
        for (size_t i = columns; i < stride; i++) c[r * stride + i] = 0;
    free(packed);
    return c;
}

static size_t check_multiplying(const bitrl_kernels *kernels, const bitrl_kernels *scalar)
{
    size_t count = 0;
    for (size_t rows = 1; rows < 28; rows += 1 + rows % 3)
        for (size_t columns = 1; columns < 70; columns += 15, count++) {
            size_t steps = (size_t)between(1, 40), turned = count % 2;
            float *a = some_floats(rows * steps, 0), *b = some_floats(steps * columns, 0), *start = some_floats(up(columns, 32), 0);
            float *got = multiplied(kernels, a, b, rows, steps, columns, turned, count % 3 ? start : NULL);
            float *want = multiplied(scalar, a, b, rows, steps, columns, turned, count % 3 ? start : NULL);
            same(got, want, rows * up(columns, 32) * sizeof *got, kernels->name, "%zu x %zu times %zu x %zu floats", rows, steps,
                 steps, columns);
            free(a), free(b), free(start), free(got), free(want);
        }
    return count;
}

int main(void)
{
    const bitrl_kernels *scalar = bitrl_kernels_find("scalar");
    for (uint64_t i = 0; bitrl_instruction_set(i); i++) {
        const bitrl_kernels *kernels = bitrl_kernels_find(bitrl_instruction_set(i));
        if (kernels == scalar) continue;
        state = 88172645463325252u;
        printf("%s:", kernels->name);
        for (matrix_format format = 0; format < FORMATS; format++)
            printf(" %s %zu,", formats[format], check_products(kernels, scalar, format));
        printf(" norms %zu,", check_norms(kernels, scalar));
        printf(" elementwise %zu,", check_elementwise(kernels, scalar));
        printf(" rounding %zu,", check_rounding(kernels, scalar));
        printf(" attention %zu,", check_attention(kernels, scalar));
        printf(" functions %zu,", check_functions(kernels, scalar));
        printf(" multiplying %zu\n", check_multiplying(kernels, scalar));
    }
    return 0;
}
