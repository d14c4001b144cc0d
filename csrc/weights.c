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

static inline uint32_t word_at(const uint8_t *from)
{
    uint32_t word;
    memcpy(&word, from, sizeof word);
    return word;
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

static void read_q5_0(float *restrict out, const uint8_t *restrict from, size_t n)
{
    for (size_t b = 0; b < n / 32; b++, from += 22, out += 32) {
        float scale = half_at(from);
        uint32_t high = word_at(from + 2);
        for (size_t i = 0; i < 32; i++) {
            int low = from[6 + i % 16] >> 4 * (i / 16) & 15;
            out[i] = scale * (float)((low | (int)(high >> i & 1) << 4) - 16);
        }
    }
}

static void read_q5_1(float *restrict out, const uint8_t *restrict from, size_t n)
{
    for (size_t b = 0; b < n / 32; b++, from += 24, out += 32) {
        float scale = half_at(from), least = half_at(from + 2);
        uint32_t high = word_at(from + 4);
        for (size_t i = 0; i < 32; i++) {
            int low = from[8 + i % 16] >> 4 * (i / 16) & 15;
            out[i] = scale * (float)(low | (int)(high >> i & 1) << 4) + least;
        }
    }
}

/* Four bits choose among values that lie closer together around zero. */
static void read_iq4_nl(float *restrict out, const uint8_t *restrict from, size_t n)
{
    static const int8_t values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
    for (size_t b = 0; b < n / 32; b++, from += 18, out += 32) {
        float scale = half_at(from);
        for (size_t i = 0; i < 32; i++) out[i] = scale * (float)values[from[2 + i % 16] >> 4 * (i / 16) & 15];
    }
}

/* Of the K types, 256 weights lie in two halves of 128, and a half in four parts of 32 that share 32 bytes of two bits. */

/* 16 bytes of a scale (low) and an offset (high) of 16 weights, 64 bytes of codes, the scale of scales and that of offsets. */
static void read_q2_k(float *restrict out, const uint8_t *restrict from, size_t n)
{
    for (size_t b = 0; b < n / 256; b++, from += 84, out += 256) {
        const uint8_t *codes = from + 16;
        float scale = half_at(from + 80), offset = half_at(from + 82);
        for (size_t i = 0; i < 256; i++) {
            float times = scale * (float)(from[i / 16] & 15), less = offset * (float)(from[i / 16] >> 4);
            int code = codes[32 * (i / 128) + i % 32] >> 2 * (i % 128 / 32) & 3;
            out[i] = times * (float)code - less;
        }
    }
}

/* 32 bytes of third bits (0: 4 less), 64 of the lower two, 16 scales of six bits in 12 bytes, and their scale. */
static void read_q3_k(float *restrict out, const uint8_t *restrict from, size_t n)
{
    for (size_t b = 0; b < n / 256; b++, from += 110, out += 256) {
        const uint8_t *codes = from + 32, *packed = from + 96;
        float scale = half_at(from + 108), times[16];
        for (size_t j = 0; j < 16; j++) {
            int low = packed[j % 8] >> 4 * (j / 8) & 15, high = packed[8 + j % 4] >> 2 * (j / 4) & 3;
            times[j] = scale * (float)((low | high << 4) - 32);
        }
        for (size_t i = 0; i < 256; i++) {
            int code = codes[32 * (i / 128) + i % 32] >> 2 * (i % 128 / 32) & 3, third = from[i % 32] >> i / 32 & 1;
            out[i] = times[i / 16] * (float)(code - (third ? 0 : 4));
        }
    }
}

/* Eight scales and eight offsets of six bits in 12 bytes, times those of the whole block. */
static void take_scales(float times[8], float less[8], const uint8_t *packed, float scale, float offset)
{
    for (size_t j = 0; j < 8; j++) {
        const uint8_t *low = packed + j % 4, *rest = packed + 8 + j % 4;
        int of_scale = j < 4 ? low[0] & 63 : (rest[0] & 15) | (low[0] >> 2 & 48);
        int of_offset = j < 4 ? low[4] & 63 : rest[0] >> 4 | (low[4] >> 2 & 48);
        times[j] = scale * (float)of_scale;
        less[j] = offset * (float)of_offset;
    }
}

/* Scale and offset, those of 32 weights, 128 bytes of which 32 have the codes of two parts of 32. */
static void read_q4_k(float *restrict out, const uint8_t *restrict from, size_t n)
{
    for (size_t b = 0; b < n / 256; b++, from += 144, out += 256) {
        float times[8], less[8];
        take_scales(times, less, from + 4, half_at(from), half_at(from + 2));
        for (size_t i = 0; i < 256; i++) {
            int code = from[16 + 32 * (i / 64) + i % 32] >> 4 * (i / 32 % 2) & 15;
            out[i] = times[i / 32] * (float)code - less[i / 32];
        }
    }
}

/* The same with 32 bytes of fifth bits, a part's in one place of all of them. */
static void read_q5_k(float *restrict out, const uint8_t *restrict from, size_t n)
{
    for (size_t b = 0; b < n / 256; b++, from += 176, out += 256) {
        float times[8], less[8];
        take_scales(times, less, from + 4, half_at(from), half_at(from + 2));
        for (size_t i = 0; i < 256; i++) {
            int code = from[48 + 32 * (i / 64) + i % 32] >> 4 * (i / 32 % 2) & 15, fifth = from[16 + i % 32] >> i / 32 & 1;
            out[i] = times[i / 32] * (float)(code | fifth << 4) - less[i / 32];
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

/* One bit a weight: its sign. */
static void read_q1_0(float *restrict out, const uint8_t *restrict from, size_t n)
{
    for (size_t b = 0; b < n / 128; b++, from += 18, out += 128) {
        float scale = half_at(from);
        for (size_t i = 0; i < 128; i++) out[i] = from[2 + i / 8] >> i % 8 & 1 ? scale : -scale;
    }
}

static inline void read_two_bits(float *restrict out, const uint8_t *restrict from, size_t n, size_t block)
{
    for (size_t b = 0; b < n / block; b++, from += 2 + block / 4, out += block) {
        float scale = half_at(from);
        for (size_t i = 0; i < block; i++) out[i] = scale * (float)((from[2 + i / 4] >> 2 * (i % 4) & 3) - 1);
    }
}

static void read_q2_0(float *restrict out, const uint8_t *restrict from, size_t n) { read_two_bits(out, from, n, 64); }

static void read_q2_0_long(float *restrict out, const uint8_t *restrict from, size_t n) { read_two_bits(out, from, n, 128); }

static const weight_type types[] = {
    {"F32", GGML_F32, 1, 4, read_f32},          {"F16", GGML_F16, 1, 2, read_f16},
    {"BF16", GGML_BF16, 1, 2, read_bf16},       {"Q8_0", GGML_Q8_0, 32, 34, read_q8_0},
    {"Q4_0", GGML_Q4_0, 32, 18, read_q4_0},     {"Q4_1", GGML_Q4_1, 32, 20, read_q4_1},
    {"Q5_0", GGML_Q5_0, 32, 22, read_q5_0},     {"Q5_1", GGML_Q5_1, 32, 24, read_q5_1},
    {"IQ4_NL", GGML_IQ4_NL, 32, 18, read_iq4_nl}, {"Q2_K", GGML_Q2_K, 256, 84, read_q2_k},
    {"Q3_K", GGML_Q3_K, 256, 110, read_q3_k},   {"Q4_K", GGML_Q4_K, 256, 144, read_q4_k},
    {"Q5_K", GGML_Q5_K, 256, 176, read_q5_k},   {"Q6_K", GGML_Q6_K, 256, 210, read_q6_k},
    {"TQ1_0", GGML_TQ1_0, 256, 54, read_tq1_0}, {"TQ2_0", GGML_TQ2_0, 256, 66, read_tq2_0},
    {"Q1_0", GGML_Q1_0, 128, 18, read_q1_0},    {"Q2_0", GGML_Q2_0, 64, 18, read_q2_0},
    {"Q2_0", Q2_0_LONG, 128, 34, read_q2_0_long}, {"I2_S", GGML_I2_S, 64, 16, NULL},
    {"HF_PACKED", HF_PACKED, 1, 0, NULL},
};

/* GGML's types that are not read, and those that are, by number; NULL: there is none. */
static const char *const all_types[] = {
    "F32", "F16", "Q4_0", "Q4_1", "Q4_2", "Q4_3", "Q5_0", "Q5_1", "Q8_0", "Q8_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K",
    "Q6_K", "Q8_K", "IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S", "IQ4_NL", "IQ3_S", "IQ2_S", "IQ4_XS", "I8", "I16", "I32",
    "I64", "F64", "IQ1_M", "BF16", "Q4_0_4_4", "Q4_0_4_8", "Q4_0_8_8", "TQ1_0", "TQ2_0", "I2_S", "IQ4_NL_4_8",
    "IQ4_NL_8_8", "MXFP4", "NVFP4", "Q1_0", "Q2_0"};

const char *bitrl_any_type_name(uint32_t type) { return type < sizeof all_types / sizeof *all_types ? all_types[type] : NULL; }

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
