/* Matrices made ready to multiply: rows of floats are quantised and laid out in tiles (kernels.h).
 *
 * Quantises, whatever type the file holds: ternary by one scale a matrix, int8 by one a row, int4 by one a row and a small
 * multiplier for each 32 columns. Knows nothing of models. */
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

static const char *const names[FORMATS] = {"ternary", "ternary-1.6", "int8", "int4", "bf16", "fp32"};

const char *bitrl_format(uint64_t i) { return i < FORMATS ? names[i] : NULL; }

matrix_format bitrl_format_of(uint32_t type)
{
    switch (type) {
    case GGML_TQ1_0:
    case GGML_TQ2_0:
    case GGML_I2_S:
    case HF_PACKED: return TERNARY;
    case GGML_Q8_0:
    case GGML_Q6_K: return INT8;
    case GGML_Q4_0:
    case GGML_Q4_1: return INT4;
    case GGML_F16:
    case GGML_BF16: return BF16;
    default: return FP32;
    }
}

static double largest(const float *row, size_t n)
{
    int32_t most = 0; /* floats without a sign are in the order of their bits */
    float value;
    for (size_t c = 0; c < n; c++) {
        int32_t bits;
        memcpy(&bits, row + c, sizeof bits);
        bits &= 0x7fffffff;
        most = bits > most ? bits : most;
    }
    memcpy(&value, &most, sizeof value);
    return value;
}

/* ---- a tile from rows of codes, `stride` bytes from one to the next: four of each row at a time ---- */

static inline uint32_t word_at(const uint8_t *from)
{
    uint32_t word;
    memcpy(&word, from, sizeof word);
    return word;
}

static inline void put_word(uint8_t *to, uint32_t word) { memcpy(to, &word, sizeof word); }

/* Whole bytes, or pairs of bf16, or floats; `flipped` bits are turned: 0x80 adds 128 to a code. */
static void put_words(uint8_t *tile, const uint8_t *rows, size_t stride, size_t steps, uint32_t flipped)
{
    for (size_t s = 0; s < steps; s++, tile += STEP_BYTES, rows += 4)
        for (size_t r = 0; r < TILE_ROWS; r++) put_word(tile + 4 * r, word_at(rows + r * stride) ^ flipped);
}

static void put_ternary(uint8_t *tile, const uint8_t *rows, size_t stride, size_t columns)
{
    const uint32_t code = 0x03030303, low = 0x55555555;
    for (size_t c = 0; c < columns; c += 16, tile += STEP_BYTES, rows += 16)
        for (size_t r = 0; r < TILE_ROWS; r++) {
            const uint8_t *row = rows + r * stride;
            uint32_t four = (word_at(row) & code) | (word_at(row + 4) & code) << 2 | (word_at(row + 8) & code) << 4 |
                            (word_at(row + 12) & code) << 6;
            put_word(tile + 4 * r, four ^ (four & low) << 1 ^ low); /* each of two bits plus 1 */
        }
}

/* Reads up to 16 columns beyond the last, which are zeros. */
static void put_dense(uint8_t *tile, const uint8_t *rows, size_t stride, size_t columns)
{
    const uint32_t code = 0x03030303, one = 0x01010101;
    for (size_t c = 0; c < columns; c += 20, tile += STEP_BYTES, rows += 20)
        for (size_t r = 0; r < TILE_ROWS; r++) {
            uint32_t trits[5];
            for (size_t step = 0; step < 5; step++)
                trits[step] = ((word_at(rows + r * stride + 4 * step) & code) + one) & code;
            put_word(tile + 4 * r, trits_pack(trits));
        }
}

static void put_int4(uint8_t *tile, const uint8_t *rows, size_t stride, size_t columns)
{
    const uint32_t code = 0x0f0f0f0f, eight = 0x88888888;
    for (size_t c = 0; c < columns; c += 8, tile += STEP_BYTES, rows += 8)
        for (size_t r = 0; r < TILE_ROWS; r++) {
            const uint8_t *row = rows + r * stride;
            put_word(tile + 4 * r, ((word_at(row) & code) | (word_at(row + 4) & code) << 4) ^ eight);
        }
}

/* ---- whole matrices ---- */

/* What all threads know while they pack one. */
typedef struct {
    matrix *m;
    const weight_source *source;
    const bitrl_kernels *kernels;
    pool *threads;
    size_t padded;  /* columns */
    float *rows;    /* [threads, TILE_ROWS, padded], of which some formats use the first only; zeros behind each row */
    uint8_t *codes; /* [threads, TILE_ROWS, stride bytes] codes or bf16, zeros behind */
    window *windows; /* [threads] */
    size_t stride;  /* an odd number of cache lines, see activation_stride */
    bool may_round; /* weights need not be ternary to become so */
    enum { EXACT, MEASURE, ROUND } ternary; /* weights are one scale's codes; how large are they; round them to codes */
    float scale;                            /* of EXACT */
    double *totals;                         /* [rows] of MEASURE: sum of a row's |weights| */
    atomic_bool not_finite, not_ternary, lost; /* lost: a row cannot be read */
} packing;

/* Row r as it is to lie in the matrix. */
static row_result read_row(const weight_source *source, size_t columns, size_t r, float *out, window *w)
{
    if (source->turned) { /* heads of `turned` rows have the two halves of their rotation interleaved */
        size_t within = r % source->turned, half = source->turned / 2;
        r = r - within + within % half * 2 + within / half;
    }
    if (source->tensor) return bitrl_read_row(out, source->tensor, source->arm, r, w);
    memcpy(out, source->values + r * columns, columns * sizeof *out);
    return bitrl_all_finite(out, columns) ? ROW_READ : ROW_NOT_FINITE;
}

/* Row r, or a note of why it is none. */
static bool take_row(packing *p, size_t r, float *row, window *w)
{
    row_result result = read_row(p->source, p->m->columns, r, row, w);
    if (result == ROW_LOST) p->lost = true;
    if (result == ROW_NOT_FINITE) p->not_finite = true;
    return result == ROW_READ;
}

/* The codes of row r, and what lies beside them. */
static void round_row(packing *p, size_t r, const float *row, uint8_t *codes, uint8_t *tile)
{
    matrix *m = p->m;
    size_t n = p->padded;
    switch (m->format) {
    case TERNARY:
    case TERNARY_DENSE:
        if (p->ternary == EXACT && !p->kernels->ternary_codes((int8_t *)codes, row, n, p->scale)) p->not_ternary = true;
        if (p->ternary == ROUND) p->kernels->round_codes((int8_t *)codes, row, n, m->scale, -1, 1);
        return;
    case INT8:
        m->row_scale[r] = largest(row, n) / 127;
        p->kernels->round_codes((int8_t *)codes, row, n, m->row_scale[r], -127, 127);
        return;
    case INT4: /* a block's step is a small multiple of the row's; 119 = 7 * 17, and 8 * 15 is nearest */
        m->row_scale[r] = largest(row, n) / 119;
        p->kernels->round_int4((int8_t *)codes, (int8_t *)codes + n, row, n, m->row_scale[r]);
        for (size_t b = 0; b < n / INT4_BLOCK; b++)
            tile[n / 8 * STEP_BYTES + b * TILE_ROWS + r % TILE_ROWS] = codes[n + b];
        return;
    case BF16: p->kernels->round_bf16((uint16_t *)(void *)codes, row, n); return;
    default: return;
    }
}

/* Sums of each row's |weights|, from the first on; of eight rows side by side. */
static void measure(double *totals, const float *rows, size_t n)
{
    enum { ROWS = 8 };
    for (size_t first = 0; first < TILE_ROWS; first += ROWS, rows += ROWS * n) {
        double sums[ROWS] = {0};
        for (size_t c = 0; c < n; c++)
            for (size_t r = 0; r < ROWS; r++) sums[r] += fabs((double)rows[r * n + c]);
        memcpy(totals + first, sums, sizeof sums);
    }
}

static void pack_tile(packing *p, size_t number, float *rows, uint8_t *codes, window *w)
{
    const matrix *m = p->m;
    size_t n = p->padded, first = number * TILE_ROWS;
    uint8_t *tile = m->data + number * tile_bytes(m->format, n);
    bool all = m->format == FP32 || p->ternary == MEASURE; /* rows are needed at once */
    for (size_t r = 0; r < TILE_ROWS; r++) {
        float *row = rows + (all ? r * n : 0);
        if (first + r >= m->rows)
            memset(row, 0, n * sizeof *row); /* rows of padding are zeros */
        else if (!take_row(p, first + r, row, w))
            return;
        round_row(p, first + r, row, codes + r * p->stride, tile);
    }
    switch (m->format) {
    case TERNARY:
    case TERNARY_DENSE:
        if (p->ternary == MEASURE)
            measure(p->totals + first, rows, n);
        else
            (m->format == TERNARY ? put_ternary : put_dense)(tile, codes, p->stride, n);
        return;
    case INT8: put_words(tile, codes, p->stride, n / 4, 0x80808080); return;
    case INT4: put_int4(tile, codes, p->stride, n); return;
    case BF16: put_words(tile, codes, p->stride, n / 2, 0); return;
    default: put_words(tile, (const uint8_t *)rows, n * sizeof *rows, n, 0);
    }
}

static void pack_tiles(void *context, size_t thread, size_t threads)
{
    packing *p = context;
    size_t tiles = round_up(p->m->rows, TILE_ROWS) / TILE_ROWS;
    (void)threads;
    for (size_t tile; pool_take(p->threads, tiles, &tile);) {
        if (p->lost || p->not_finite || (p->ternary == EXACT && p->not_ternary && p->may_round)) continue; /* in vain */
        pack_tile(p, tile, p->rows + thread * TILE_ROWS * p->padded, p->codes + thread * TILE_ROWS * p->stride, &p->windows[thread]);
    }
}

/* A ternary file's codes are kept; what is not one is rounded by the mean of its absolute weights (SCIENCE.md section 4). */
static pack_result pack_ternary(packing *p)
{
    matrix *m = p->m;
    for (size_t r = 0; r < m->rows && p->scale == 0; r++) { /* the first weight that is not zero */
        if (!take_row(p, r, p->rows, &p->windows[0])) return PACKED; /* in vain: bitrl_pack says why */
        for (size_t c = 0; c < m->columns && p->scale == 0; c++) p->scale = fabsf(p->rows[c]);
    }
    m->scale = p->scale;
    pool_run(p->threads, pack_tiles, p);
    if (p->lost || p->not_finite || !p->not_ternary) return PACKED;
    if (!p->may_round) return PACK_NOT_TERNARY;
    p->ternary = MEASURE;
    pool_run(p->threads, pack_tiles, p);
    double total = 0;
    for (size_t r = 0; r < m->rows; r++) total += p->totals[r];
    double mean = total / ((double)m->rows * (double)m->columns);
    m->scale = mean > 1e-5 ? mean : 1e-5;
    p->ternary = ROUND;
    pool_run(p->threads, pack_tiles, p);
    return PACKED;
}

size_t bitrl_matrix_bytes(matrix_format format, size_t rows, size_t columns)
{
    return round_up(rows, TILE_ROWS) / TILE_ROWS * tile_bytes(format, round_up(columns, K_PAD));
}

pack_result bitrl_pack(matrix *m, const weight_source *source, const bitrl_kernels *kernels, pool *threads)
{
    size_t count = pool_threads(threads), padded = round_up(m->columns, K_PAD), rows = round_up(m->rows, TILE_ROWS);
    bool rows_scaled = m->format == INT8 || m->format == INT4, ternary = m->format == TERNARY || m->format == TERNARY_DENSE;
    packing p = {.m = m, .source = source, .kernels = kernels, .threads = threads, .padded = padded};
    p.may_round = !source->tensor || bitrl_format_of(source->tensor->type) != TERNARY;
    p.stride = (2 * padded / 64 + 1) * 64;
    p.rows = bitrl_allocate(count * TILE_ROWS * padded, sizeof *p.rows);
    p.codes = bitrl_allocate(count * TILE_ROWS, p.stride);
    p.totals = bitrl_allocate(rows, sizeof *p.totals);
    p.windows = bitrl_allocate(count, sizeof *p.windows);
    uint8_t *read = bitrl_allocate(count, WINDOW);
    for (size_t i = 0; p.windows && i < count; i++) p.windows[i] = (window){.bytes = read + i * WINDOW, .room = WINDOW};
    if (rows_scaled && !m->row_scale) m->row_scale = bitrl_allocate(rows, sizeof *m->row_scale);
    pack_result result = PACK_NO_MEMORY;
    if (p.rows && p.codes && p.totals && p.windows && read && (m->row_scale || !rows_scaled)) {
        result = PACKED;
        if (ternary)
            result = pack_ternary(&p);
        else
            pool_run(threads, pack_tiles, &p);
        if (p.not_finite) result = PACK_NOT_FINITE;
        if (p.lost) result = PACK_LOST;
    }
    free(p.rows);
    free(p.codes);
    free(p.totals);
    free(p.windows);
    free(read);
    return result;
}
