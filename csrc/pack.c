/* Matrices made ready to multiply: rows of floats are quantised and laid out in tiles (kernels.h).
 *
 * Quantises, whatever type the file holds: ternary by one scale a matrix, int8 by one a row, int4 by one a row and a small
 * multiplier for each 32 columns. Knows nothing of models. */
#include <math.h>
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
    case GGML_I2_S: return TERNARY;
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

/* Codes of a row that is -1, 0, 1 times one scale; false when it is not. *scale is 0 until a weight is met that is not. */
static bool ternary_row(int8_t *restrict codes, const float *restrict row, size_t n, float *scale)
{
    for (size_t c = 0; c < n && *scale == 0; c++) *scale = fabsf(row[c]);
    const float s = *scale;
    int wrong = 0;
    for (size_t c = 0; c < n; c++) {
        codes[c] = (int8_t)((row[c] > 0) - (row[c] < 0));
        wrong |= row[c] != (float)codes[c] * s;
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

/* Where row r lies when heads of `turned` rows have the two halves of their rotation interleaved; 0: they have not. */
static size_t source_row(size_t r, size_t turned)
{
    if (turned == 0) return r;
    size_t within = r % turned, half = turned / 2;
    return r - within + within % half * 2 + within / half;
}

/* The rows of a ternary matrix; scale 0: if it is one, else what its mean absolute value would be. */
static pack_result pack_ternary(matrix *m, const bitrl_tensor *tensor, bool arm, size_t turned, float *row,
                                int8_t *codes, double scale)
{
    size_t padded = round_up(m->columns, K_PAD), bytes = tile_bytes(m->format, padded);
    float found = 0;
    bool exact = true, must_be = bitrl_format_of(tensor->type) == TERNARY;
    double total = 0;
    for (size_t r = 0; r < round_up(m->rows, TILE_ROWS); r++) {
        memset(codes, 0, padded); /* rows of padding are zeros */
        if (r < m->rows && !bitrl_read_row(row, tensor, arm, source_row(r, turned))) return PACK_NOT_FINITE;
        if (r < m->rows && scale == 0) {
            exact &= ternary_row(codes, row, m->columns, &found);
            if (!exact && must_be) return PACK_NOT_TERNARY;
            for (size_t c = 0; c < m->columns && !must_be; c++) total += fabs((double)row[c]);
        } else if (r < m->rows)
            for (size_t c = 0; c < m->columns; c++) codes[c] = quantised(row[c], scale, -1, 1);
        (m->format == TERNARY ? put_ternary : put_dense)(m->data + r / TILE_ROWS * bytes, r % TILE_ROWS, codes, padded);
    }
    m->scale = scale ? scale : found;
    if (exact) return PACKED;
    double mean = total / ((double)m->rows * (double)m->columns);
    return pack_ternary(m, tensor, arm, turned, row, codes, mean > 1e-5 ? mean : 1e-5);
}

static pack_result pack_rows(matrix *m, const bitrl_tensor *tensor, bool arm, size_t turned, float *row, int8_t *codes,
                             int8_t *multipliers)
{
    size_t padded = round_up(m->columns, K_PAD), bytes = tile_bytes(m->format, padded);
    for (size_t r = 0; r < round_up(m->rows, TILE_ROWS); r++) {
        uint8_t *tile = m->data + r / TILE_ROWS * bytes;
        memset(row, 0, padded * sizeof *row); /* rows of padding are zeros */
        if (r < m->rows && !bitrl_read_row(row, tensor, arm, source_row(r, turned))) return PACK_NOT_FINITE;
        if (m->format == INT8) {
            m->row_scale[r] = quantise_int8(codes, row, padded);
            put_int8(tile, r % TILE_ROWS, codes, padded);
        } else if (m->format == INT4) {
            m->row_scale[r] = quantise_int4(codes, multipliers, row, padded);
            put_int4(tile, r % TILE_ROWS, codes, multipliers, padded);
        } else if (m->format == BF16)
            put_bf16(tile, r % TILE_ROWS, row, padded);
        else
            put_fp32(tile, r % TILE_ROWS, row, padded);
    }
    return PACKED;
}

pack_result bitrl_pack(matrix *m, matrix_format format, const bitrl_tensor *tensor, bool arm, size_t turned)
{
    size_t columns = tensor->shape[0], rows = tensor->shape[1], padded = round_up(columns, K_PAD);
    size_t padded_rows = round_up(rows, TILE_ROWS);
    float *row = bitrl_allocate(padded, sizeof *row);
    int8_t *codes = bitrl_allocate(2 * padded, sizeof *codes); /* and behind them the multipliers */
    *m = (matrix){.format = format, .rows = rows, .columns = columns};
    m->data = bitrl_allocate(padded_rows / TILE_ROWS, tile_bytes(format, padded));
    if (format == INT8 || format == INT4) m->row_scale = bitrl_allocate(padded_rows, sizeof *m->row_scale);
    pack_result result = PACK_NO_MEMORY;
    if (row && codes && m->data && (m->row_scale || (format != INT8 && format != INT4)))
        result = format == TERNARY || format == TERNARY_DENSE ? pack_ternary(m, tensor, arm, turned, row, codes, 0)
                                   : pack_rows(m, tensor, arm, turned, row, codes, codes + padded);
    free(row);
    free(codes);
    return result;
}
