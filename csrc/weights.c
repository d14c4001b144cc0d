/* Weight types: how many bytes a tensor takes, and its rows as float32, from memory or from a file.
 *
 * One table, one function per type; the arithmetic is that of the format's definition, in float32, to the bit.
 * Knows nothing of models and kernels. */
#define _DEFAULT_SOURCE
#include <errno.h>
#include <math.h>
#include <string.h>
#include <unistd.h>

#include "internal.h"

/* Without branches, so that a row of them is vectorised: 2^112 moves the exponent's bias and makes subnormals whole. */
static inline float half_to_float(uint16_t half)
{
    uint32_t bits = (uint32_t)(half & 0x7fff) << 13, sign = (uint32_t)(half & 0x8000) << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    value *= 0x1p112f;
    memcpy(&bits, &value, sizeof bits);
    bits |= sign | ((half & 0x7c00) == 0x7c00 ? 0x7f800000 : 0); /* infinity and NaN */
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline float half_at(const uint8_t *from)
{
    uint16_t half;
    memcpy(&half, from, sizeof half);
    return half_to_float(half);
}

/* ---- out: [n], the n weights from the first of `from`, which begins a block ---- */

static void read_f32(float *restrict out, const uint8_t *restrict from, size_t n) { memcpy(out, from, n * sizeof *out); }

static void read_f16(float *restrict out, const uint8_t *restrict from, size_t n)
{
    for (size_t i = 0; i < n; i++) out[i] = half_at(from + 2 * i);
}

static void read_bf16(float *restrict out, const uint8_t *restrict from, size_t n) /* the upper half of a float */
{
    for (size_t i = 0; i < n; i++) {
        uint16_t upper;
        memcpy(&upper, from + 2 * i, sizeof upper);
        uint32_t bits = (uint32_t)upper << 16;
        memcpy(out + i, &bits, sizeof bits);
    }
}

static void read_q8_0(float *restrict out, const uint8_t *restrict from, size_t n)
{
    for (size_t b = 0; b < n / 32; b++, from += 34, out += 32) {
        float scale = half_at(from);
        for (size_t i = 0; i < 32; i++) out[i] = (float)(int8_t)from[2 + i] * scale;
    }
}

static void read_q4_0(float *restrict out, const uint8_t *restrict from, size_t n)
{
    for (size_t b = 0; b < n / 32; b++, from += 18, out += 32) {
        float scale = half_at(from);
        for (size_t i = 0; i < 16; i++) {
            out[i] = scale * (float)((from[2 + i] & 15) - 8);
            out[16 + i] = scale * (float)((from[2 + i] >> 4) - 8);
        }
    }
}

static void read_q4_1(float *restrict out, const uint8_t *restrict from, size_t n)
{
    for (size_t b = 0; b < n / 32; b++, from += 20, out += 32) {
        float scale = half_at(from), least = half_at(from + 2);
        for (size_t i = 0; i < 16; i++) {
            out[i] = scale * (float)(from[4 + i] & 15) + least;
            out[16 + i] = scale * (float)(from[4 + i] >> 4) + least;
        }
    }
}

/* Per 256: 128 bytes of low nibbles, 64 of the two upper bits, 16 scales of 16 weights, one scale of these. */
static void read_q6_k(float *restrict out, const uint8_t *restrict from, size_t n)
{
    for (size_t b = 0; b < n / 256; b++, from += 210, out += 256) {
        const uint8_t *low = from, *high = from + 128, *scales = from + 192;
        float scale = half_at(from + 208);
        for (size_t i = 0; i < 256; i++) {
            size_t half = i / 128, part = i % 128 / 32, lane = i % 32; /* four parts of 32 share 32 bytes of `high` */
            int nibble = low[64 * half + 32 * (part % 2) + lane] >> 4 * (part / 2) & 15;
            int upper = high[32 * half + lane] >> 2 * part & 3;
            out[i] = scale * (float)(int8_t)scales[i / 16] * (float)((nibble | upper << 4) - 32);
        }
    }
}

/* Five base-3 digits in a byte as a fraction of 256: multiplying by 3 carries the next one out. Per 256: 32 bytes with
 * five digits, 16 with five, 4 with four. */
static void read_tq1_0(float *restrict out, const uint8_t *restrict from, size_t n)
{
    static const uint8_t powers[5] = {1, 3, 9, 27, 81};
    static const struct {
        size_t bytes, digits;
    } parts[3] = {{32, 5}, {16, 5}, {4, 4}};
    for (size_t b = 0; b < n / 256; b++, from += 54) {
        const uint8_t *bytes = from;
        float scale = half_at(from + 52);
        for (size_t p = 0; p < 3; bytes += parts[p].bytes, p++)
            for (size_t digit = 0; digit < parts[p].digits; digit++)
                for (size_t i = 0; i < parts[p].bytes; i++)
                    *out++ = scale * (float)(((uint8_t)(bytes[i] * powers[digit]) * 3 >> 8) - 1);
    }
}

static void read_tq2_0(float *restrict out, const uint8_t *restrict from, size_t n)
{
    for (size_t b = 0; b < n / 256; b++, from += 66, out += 256) {
        float scale = half_at(from + 64);
        for (size_t half = 0; half < 2; half++)
            for (size_t part = 0; part < 4; part++)
                for (size_t i = 0; i < 32; i++)
                    out[128 * half + 32 * part + i] = scale * (float)((from[32 * half + i] >> 2 * part & 3) - 1);
    }
}

static const weight_type types[] = {
    {"F32", GGML_F32, 1, 4, read_f32},        {"F16", GGML_F16, 1, 2, read_f16},
    {"BF16", GGML_BF16, 1, 2, read_bf16},     {"Q8_0", GGML_Q8_0, 32, 34, read_q8_0},
    {"Q4_0", GGML_Q4_0, 32, 18, read_q4_0},   {"Q4_1", GGML_Q4_1, 32, 20, read_q4_1},
    {"Q6_K", GGML_Q6_K, 256, 210, read_q6_k}, {"TQ1_0", GGML_TQ1_0, 256, 54, read_tq1_0},
    {"TQ2_0", GGML_TQ2_0, 256, 66, read_tq2_0}, {"I2_S", GGML_I2_S, 64, 16, NULL},
    {"HF_PACKED", HF_PACKED, 1, 0, NULL},
};

const weight_type *bitrl_weight_type(uint32_t type)
{
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (types[i].type == type) return &types[i];
    return NULL;
}

const char *bitrl_type_name(uint32_t type)
{
    const weight_type *found = bitrl_weight_type(type);
    return found ? found->name : NULL;
}

uint64_t bitrl_tensor_bytes(uint32_t type, uint64_t n, uint64_t columns)
{
    const weight_type *found = bitrl_weight_type(type);
    if (!found) return 0;
    if (type == GGML_I2_S) return n % found->block ? 0 : n / 4 + sizeof(float);
    if (type == HF_PACKED) return n / columns % 4 ? 0 : n / 4; /* four rows in one */
    return columns % found->block ? 0 : n / found->block * found->bytes;
}

static uint64_t weights_of(const bitrl_tensor *t) { return t->shape[0] * t->shape[1] * t->shape[2] * t->shape[3]; }

bool bitrl_packing_fits(const bitrl_tensor *t, bool arm)
{
    return t->type != GGML_I2_S || weights_of(t) % (arm ? 64 : 128) == 0;
}

/* ---- bytes of a file ---- */

bool bitrl_read_file(int descriptor, uint64_t at, uint8_t *to, size_t n)
{
    while (n) {
        ssize_t some = pread(descriptor, to, n, (off_t)at);
        if (some < 0 && errno == EINTR) continue;
        if (some <= 0) return false;
        to += some, at += (uint64_t)some, n -= (size_t)some;
    }
    return true;
}

bool bitrl_copy_bytes(const bitrl_tensor *t, uint64_t at, uint8_t *to, size_t n)
{
    if (!t->data) return bitrl_read_file(t->descriptor, t->offset + at, to, n);
    memcpy(to, t->data + at, n);
    return true;
}

int bitrl_read_bytes(const bitrl_tensor *t, uint8_t *out, char *error)
{
    return bitrl_copy_bytes(t, 0, out, t->bytes) ? BITRL_OK : bitrl_fail(error, BITRL_BAD_FILE, LOST);
}

/* n <= w->room bytes of a tensor from its byte `at` on; NULL when they cannot be read. */
static const uint8_t *bytes_of(const bitrl_tensor *t, uint64_t at, size_t n, window *w)
{
    if (t->data) return t->data + at;
    if (at > t->bytes || n > t->bytes - at) return NULL; /* a neighbour's */
    if (w->of != t || at < w->first || at + n > w->first + w->held) {
        size_t some = t->bytes - at < w->room ? t->bytes - at : w->room;
        w->of = t, w->first = at, w->held = 0;
        if (!bitrl_read_file(t->descriptor, t->offset + at, w->bytes, some)) return NULL;
        w->held = some;
    }
    return w->bytes + (at - w->first);
}

/* ---- rows: false when their bytes cannot be read ---- */

static bool read_blocks(float *restrict out, const bitrl_tensor *t, const weight_type *type, uint64_t row, window *w)
{
    size_t n = t->shape[0], most = w->room / type->bytes * type->block;
    uint64_t at = row * (n / type->block) * type->bytes;
    for (size_t i = 0; i < n; i += most) {
        size_t some = n - i < most ? n - i : most, bytes = some / type->block * type->bytes;
        const uint8_t *from = bytes_of(t, at, bytes, w);
        if (!from) return false;
        type->read(out + i, from, some);
        at += bytes;
    }
    return true;
}

/* One scale behind all codes; blocks go on from row to row. In a block of `stride` bytes the first lies highest. */
static bool read_i2_s(float *restrict out, const bitrl_tensor *t, uint64_t row, bool arm, window *w)
{
    size_t stride = arm ? 16 : 32, n = t->shape[0], weights = 4 * stride; /* of a block */
    if (w->of != t) {
        if (!bitrl_copy_bytes(t, weights_of(t) / 4, (uint8_t *)&w->i2s_scale, sizeof w->i2s_scale)) return false;
        w->of = t, w->held = 0;
    }
    float scale = w->i2s_scale < 0 ? NAN : w->i2s_scale; /* it is a mean of absolute values: the file is damaged */
    uint64_t at = row * n, end = at + n;
    while (at < end) {
        uint64_t block = at / weights, blocks = (end - 1) / weights - block + 1;
        if (blocks > w->room / stride) blocks = w->room / stride;
        uint64_t until = (block + blocks) * weights < end ? (block + blocks) * weights : end;
        const uint8_t *from = bytes_of(t, block * stride, blocks * stride, w);
        if (!from) return false;
        for (; at < until; at++) {
            size_t within = at % weights;
            int code = from[(at / weights - block) * stride + within % stride] >> (6 - 2 * (within / stride)) & 3;
            *out++ = scale * (float)(code - 1);
        }
    }
    return true;
}

/* Row `row` of [rows, n]. Each quarter of the rows has a pair of bits of all bytes; 3 is no code. */
static bool read_packed(float *restrict out, const bitrl_tensor *t, uint64_t row, window *w)
{
    size_t n = t->shape[0];
    uint64_t quarter = weights_of(t) / n / 4, at = row % quarter * n;
    unsigned shift = (unsigned)(2 * (row / quarter));
    for (size_t first = 0; first < n; first += w->room) {
        size_t some = n - first < w->room ? n - first : w->room;
        const uint8_t *from = bytes_of(t, at + first, some, w);
        if (!from) return false;
        for (size_t i = 0; i < some; i++) {
            int code = from[i] >> shift & 3;
            out[first + i] = code == 3 ? NAN : (float)(code - 1);
        }
    }
    return true;
}

bool bitrl_all_finite(const float *values, size_t n)
{
    uint32_t worst = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, values + i, sizeof bits);
        worst |= (bits & 0x7f800000) + 0x00800000; /* carries from the exponent of infinity and NaN, from no other */
    }
    return worst >> 31 == 0;
}

row_result bitrl_read_row(float *restrict out, const bitrl_tensor *t, bool arm, uint64_t row, window *w)
{
    const weight_type *type = bitrl_weight_type(t->type);
    size_t n = t->shape[0];
    bool read = type->read           ? read_blocks(out, t, type, row, w)
                : t->type == HF_PACKED ? read_packed(out, t, row, w)
                                       : read_i2_s(out, t, row, arm, w);
    if (!read) return ROW_LOST;
    if (t->scale != 1)
        for (size_t i = 0; i < n; i++) out[i] *= t->scale;
    return bitrl_all_finite(out, n) ? ROW_READ : ROW_NOT_FINITE;
}

int bitrl_read_tensor(const bitrl_tensor *t, int i2s_arm, float *out, char *error)
{
    int name_bytes = t->name_bytes > 80 ? 80 : (int)t->name_bytes;
    if (!bitrl_packing_fits(t, i2s_arm))
        return bitrl_fail(error, BITRL_BAD_FILE, BAD_PACKING, name_bytes, t->name);
    uint8_t bytes[SMALL_WINDOW];
    window w = {.bytes = bytes, .room = sizeof bytes};
    bool finite = true;
    for (uint64_t row = 0, rows = weights_of(t) / t->shape[0]; row < rows; row++) {
        row_result result = bitrl_read_row(out + row * t->shape[0], t, i2s_arm, row, &w);
        if (result == ROW_LOST) return bitrl_fail(error, BITRL_BAD_FILE, LOST);
        finite &= result == ROW_READ;
    }
    return finite ? BITRL_OK : bitrl_fail(error, BITRL_BAD_FILE, "is damaged: %.*s is not finite", name_bytes, t->name);
}
