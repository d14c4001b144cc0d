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
    float most = 0;
    for (size_t c = 0; c < n; c++) most = fabsf(row[c]) > most ? fabsf(row[c]) : most;
    return most;
}

/* row / scale, rounded to an integer between the two. */
static inline int8_t quantised(float weight, double scale, double least, double most)
{
    double code = scale != 0 ? rint((double)weight / scale) : 0;
    return (int8_t)(code < least ? least : code > most ? most : code);
}

/* Codes of one row [padded], and the scale they are to be multiplied with. */
static double quantise_int8(int8_t *restrict codes, const float *restrict row, size_t n)
{
    double scale = largest(row, n) / 127;
    for (size_t c = 0; c < n; c++) codes[c] = quantised(row[c], scale, -127, 127);
    return scale;
}

/* Codes of a block: its largest weight becomes `end` steps of `times` * scale. Returns the squared error. */
static double quantise_block(int8_t *restrict codes, int8_t *times, const float *restrict block, size_t n, double scale,
                             float most, int end)
{
    double error = 0;
    *times = quantised(most, end * scale, -17, 17);
    for (size_t c = 0; c < n; c++) {
        codes[c] = quantised(block[c], *times * scale, end < 0 ? end : -end, 7);
        double off = (double)block[c] - codes[c] * (*times * scale);
        error += off * off;
    }
    return error;
}

/* The step of each block is a small multiple of the row's. Either the largest weight is 7 steps, which leaves ternary
 * weights as they are, or -8, which does so to Q4_0's codes: whichever errs less. 119 = 7 * 17, and 8 * 15 is nearest. */
static double quantise_int4(int8_t *restrict codes, int8_t *restrict multipliers, const float *restrict row, size_t n)
{
    double scale = largest(row, n) / 119;
    for (size_t first = 0; first < n; first += INT4_BLOCK, row += INT4_BLOCK, codes += INT4_BLOCK) {
        size_t size = n - first < INT4_BLOCK ? n - first : INT4_BLOCK;
        int8_t other[INT4_BLOCK], times;
        float most = 0;
        for (size_t c = 0; c < size; c++) most = fabsf(row[c]) > fabsf(most) ? row[c] : most;
        double error = quantise_block(codes, multipliers, row, size, scale, most, 7);
        if (quantise_block(other, &times, row, size, scale, most, -8) < error) {
            memcpy(codes, other, size);
            *multipliers = times;
        }
        multipliers++;
    }
    return scale;
}

/* Codes of a row that is -1, 0, 1 times the scale; false when it is not. */
static bool ternary_row(int8_t *restrict codes, const float *restrict row, size_t n, float scale)
{
    int wrong = 0;
    for (size_t c = 0; c < n; c++) {
        codes[c] = (int8_t)((row[c] > 0) - (row[c] < 0));
        wrong |= row[c] != (float)codes[c] * scale;
    }
    return !wrong;
}

/* ---- one row of a tile, at its place in the tile ---- */

static void put_ternary(uint8_t *tile, size_t r, const int8_t *codes, size_t padded)
{
    for (size_t c = 0; c < padded; c += 16, tile += STEP_BYTES, codes += 16)
        for (size_t j = 0; j < 4; j++)
            tile[4 * r + j] =
                (uint8_t)((codes[j] + 1) | (codes[4 + j] + 1) << 2 | (codes[8 + j] + 1) << 4 | (codes[12 + j] + 1) << 6);
}

static void put_dense(uint8_t *tile, size_t r, const int8_t *codes, size_t padded)
{
    for (size_t c = 0; c < padded; c += 20, tile += STEP_BYTES)
        for (size_t j = 0; j < 4; j++) {
            uint8_t trits[5];
            for (size_t step = 0; step < 5; step++) {
                size_t column = c + 4 * step + j;
                trits[step] = (uint8_t)(column < padded ? codes[column] + 1 : 1);
            }
            tile[4 * r + j] = trits_pack(trits);
        }
}

static void put_int8(uint8_t *tile, size_t r, const int8_t *codes, size_t padded)
{
    for (size_t c = 0; c < padded; c++) tile[c / 4 * STEP_BYTES + 4 * r + c % 4] = (uint8_t)(codes[c] + 128);
}

static void put_int4(uint8_t *tile, size_t r, const int8_t *codes, const int8_t *multipliers, size_t padded)
{
    for (size_t c = 0; c < padded; c += 8, tile += STEP_BYTES, codes += 8)
        for (size_t j = 0; j < 4; j++) tile[4 * r + j] = (uint8_t)((codes[j] + 8) | (codes[4 + j] + 8) << 4);
    for (size_t b = 0; b < padded / INT4_BLOCK; b++)
        tile[b * TILE_ROWS + r] = (uint8_t)multipliers[b];
}

static void put_bf16(uint8_t *tile, size_t r, const float *row, size_t padded)
{
    for (size_t c = 0; c < padded; c++) {
        uint16_t half = bf16_from(row[c]);
        memcpy(tile + c / 2 * STEP_BYTES + 4 * r + 2 * (c % 2), &half, sizeof half);
    }
}

static void put_fp32(uint8_t *tile, size_t r, const float *row, size_t padded)
{
    for (size_t c = 0; c < padded; c++) memcpy(tile + c * STEP_BYTES + 4 * r, row + c, sizeof *row);
}

/* ---- whole matrices ---- */

/* What all threads know while they pack one. */
typedef struct {
    matrix *m;
    const weight_source *source;
    pool *threads;
    float *rows;   /* [threads, columns padded] */
    int8_t *codes; /* [threads, 2, columns padded] codes, and behind them multipliers */
    enum { EXACT, MEASURE, ROUND } ternary; /* weights are one scale's codes; how large are they; round them to codes */
    float scale;                            /* of EXACT */
    double *totals;                         /* [rows] of MEASURE: sum of a row's |weights| */
    atomic_bool not_finite, not_ternary;
} packing;

/* Row r as it is to lie in the matrix. */
static bool read_row(const weight_source *source, size_t columns, size_t r, float *out)
{
    if (source->turned) { /* heads of `turned` rows have the two halves of their rotation interleaved */
        size_t within = r % source->turned, half = source->turned / 2;
        r = r - within + within % half * 2 + within / half;
    }
    if (source->tensor) return bitrl_read_row(out, source->tensor, source->arm, r);
    bool finite = true;
    for (size_t c = 0; c < columns; c++) finite &= isfinite(out[c] = source->values[r * columns + c]) != 0;
    return finite;
}

static void pack_row(packing *p, size_t r, float *row, int8_t *codes)
{
    matrix *m = p->m;
    size_t columns = m->columns, padded = round_up(columns, K_PAD);
    uint8_t *tile = m->data + r / TILE_ROWS * tile_bytes(m->format, padded);
    memset(row, 0, padded * sizeof *row); /* rows of padding are zeros */
    if (r < m->rows && !read_row(p->source, columns, r, row)) p->not_finite = true;
    switch (m->format) {
    case TERNARY:
    case TERNARY_DENSE:
        memset(codes, 0, padded);
        if (p->ternary == MEASURE) {
            double total = 0;
            for (size_t c = 0; c < columns; c++) total += fabs((double)row[c]);
            if (r < m->rows) p->totals[r] = total;
            return;
        }
        if (p->ternary == EXACT && !ternary_row(codes, row, columns, p->scale)) p->not_ternary = true;
        for (size_t c = 0; c < columns && p->ternary == ROUND; c++) codes[c] = quantised(row[c], m->scale, -1, 1);
        (m->format == TERNARY ? put_ternary : put_dense)(tile, r % TILE_ROWS, codes, padded);
        return;
    case INT8:
        m->row_scale[r] = quantise_int8(codes, row, padded);
        put_int8(tile, r % TILE_ROWS, codes, padded);
        return;
    case INT4:
        m->row_scale[r] = quantise_int4(codes, codes + padded, row, padded);
        put_int4(tile, r % TILE_ROWS, codes, codes + padded, padded);
        return;
    case BF16: put_bf16(tile, r % TILE_ROWS, row, padded); return;
    default: put_fp32(tile, r % TILE_ROWS, row, padded);
    }
}

static void pack_tiles(void *context, size_t thread, size_t threads)
{
    packing *p = context;
    size_t padded = round_up(p->m->columns, K_PAD), tiles = round_up(p->m->rows, TILE_ROWS) / TILE_ROWS;
    (void)threads;
    for (size_t tile; pool_take(p->threads, tiles, &tile);)
        for (size_t r = 0; r < TILE_ROWS; r++)
            pack_row(p, tile * TILE_ROWS + r, p->rows + thread * padded, p->codes + thread * 2 * padded);
}

/* A ternary file's codes are kept; what is not one is rounded by the mean of its absolute weights (SCIENCE.md section 4). */
static pack_result pack_ternary(packing *p)
{
    matrix *m = p->m;
    for (size_t r = 0; r < m->rows && p->scale == 0; r++) { /* the first weight that is not zero */
        if (!read_row(p->source, m->columns, r, p->rows)) return PACK_NOT_FINITE;
        for (size_t c = 0; c < m->columns && p->scale == 0; c++) p->scale = fabsf(p->rows[c]);
    }
    m->scale = p->scale;
    pool_run(p->threads, pack_tiles, p);
    if (p->not_finite || !p->not_ternary) return PACKED;
    if (p->source->tensor && bitrl_format_of(p->source->tensor->type) == TERNARY) return PACK_NOT_TERNARY;
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

pack_result bitrl_pack(matrix *m, const weight_source *source, pool *threads)
{
    size_t padded = round_up(m->columns, K_PAD), count = pool_threads(threads);
    bool rows_scaled = m->format == INT8 || m->format == INT4, ternary = m->format == TERNARY || m->format == TERNARY_DENSE;
    packing p = {.m = m, .source = source, .threads = threads};
    p.rows = bitrl_allocate(count * padded, sizeof *p.rows);
    p.codes = bitrl_allocate(count * 2 * padded, sizeof *p.codes);
    p.totals = bitrl_allocate(m->rows, sizeof *p.totals);
    if (rows_scaled && !m->row_scale) m->row_scale = bitrl_allocate(round_up(m->rows, TILE_ROWS), sizeof *m->row_scale);
    pack_result result = PACK_NO_MEMORY;
    if (p.rows && p.codes && p.totals && (m->row_scale || !rows_scaled)) {
        result = PACKED;
        if (ternary)
            result = pack_ternary(&p);
        else
            pool_run(threads, pack_tiles, &p);
        if (p.not_finite) result = PACK_NOT_FINITE;
    }
    free(p.rows);
    free(p.codes);
    free(p.totals);
    return result;
}
