/* One product of floats by itself, with the bits that it has within a model (forward.c): for who learns what the engine runs.
 *
 * Two tiles of weights are packed at a time, for all tokens: they stay in the second-level cache, and there is no copy of a matrix. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

enum { CHUNK = 256, MAX_THREADS = 1024 }; /* CHUNK: tokens that go through tiles together, a multiple of TOKEN_PAD */

/* What all threads know. */
typedef struct {
    matrix_format format;
    const bitrl_kernels *kernels;
    pool *threads;
    const float *weights;               /* [rows, columns] */
    size_t rows, columns, padded, tokens; /* padded: columns */
    size_t together;                    /* tokens of an item of work */
    uint8_t *activations;               /* [tokens to TOKEN_PAD, activation_bytes] */
    int32_t *code_sum;                  /* [CHUNK] zeros: there are no codes */
    size_t activation_bytes;
    float *sums; /* [tokens to TOKEN_PAD, stride] */
    size_t stride;
    uint8_t *tiles; /* [threads, 2 tiles] */
    uint8_t *unpacked; /* [threads, scratch_bytes] */
    size_t scratch_bytes;
    atomic_bool not_finite;
} work;

/* Floats as the product takes them. */
static void take_floats(uint8_t *to, matrix_format format, const float *x, size_t n)
{
    if (format == FP32) memcpy(to, x, n * sizeof *x);
    for (size_t c = 0; c < n && format == BF16; c++) {
        uint16_t half = bf16_from(x[c]);
        memcpy(to + 2 * c, &half, sizeof half);
    }
}

/* Packs a tile, as bitrl_pack does: [steps][16 rows][4 bytes], zeros beyond the last row and column. */
static void pack_tile(work *w, uint8_t *tile, size_t first)
{
    enum { TOGETHER = 64 }; /* columns, as floats or in steps of two */
    size_t each = w->format == FP32 ? 1 : 2, rows = w->rows - first < TILE_ROWS ? w->rows - first : TILE_ROWS;
    for (size_t from = 0; from < w->padded; from += TOGETHER) {
        uint32_t words[TILE_ROWS][TOGETHER] = {0};
        size_t n = w->columns < from ? 0 : w->columns - from < TOGETHER ? w->columns - from : TOGETHER;
        for (size_t r = 0; r < rows && n; r++) {
            const float *row = w->weights + (first + r) * w->columns + from;
            if (!bitrl_all_finite(row, n)) w->not_finite = true;
            take_floats((uint8_t *)words[r], w->format, row, n);
        }
        for (size_t s = 0; s < TOGETHER / each; s++, tile += STEP_BYTES)
            for (size_t r = 0; r < TILE_ROWS; r++) memcpy(tile + 4 * r, &words[r][s], 4);
    }
}

static void multiply(void *context, size_t thread, size_t threads)
{
    work *w = context;
    size_t tiles = w->stride / TILE_ROWS, pairs = (tiles + 1) / 2, parts = (w->tokens + w->together - 1) / w->together;
    size_t bytes = tile_bytes(w->format, w->padded);
    uint8_t *own = w->tiles + thread * 2 * bytes;
    (void)threads;
    for (size_t item; pool_take(w->threads, pairs * parts, &item);) {
        size_t tile = item % pairs * 2, count = tiles - tile < 2 ? tiles - tile : 2;
        size_t first = item / pairs * w->together, end = w->tokens - first < w->together ? w->tokens : first + w->together;
        for (size_t i = 0; i < count; i++) pack_tile(w, own + i * bytes, (tile + i) * TILE_ROWS);
        for (size_t t = first; t < end; t += CHUNK)
            w->kernels->product[w->format](w->sums + t * w->stride + tile * TILE_ROWS, w->stride, own, count, w->padded,
                                           w->activations + t * w->activation_bytes, w->activation_bytes, w->code_sum,
                                           end - t < CHUNK ? end - t : CHUNK, w->unpacked + thread * w->scratch_bytes);
    }
}

int bitrl_threads_open(uint64_t threads, bitrl_threads **opened, char *error)
{
    if (threads < 1 || threads > MAX_THREADS)
        return bitrl_fail(error, BITRL_BAD_ARGUMENT, "threads must be from 1 to %d", MAX_THREADS);
    *opened = pool_open(threads);
    return *opened ? BITRL_OK : bitrl_fail(error, BITRL_NO_MEMORY, "%llu threads cannot be started", (unsigned long long)threads);
}

void bitrl_threads_close(bitrl_threads *threads) { pool_close(threads); }

int bitrl_product(const char *format, const float *x, uint64_t tokens, const float *weights, uint64_t rows, uint64_t columns,
                  bitrl_threads *threads, float *out, char *error)
{
    work w = {.format = strcmp(format, "bf16") == 0 ? BF16 : FP32, .weights = weights, .rows = rows, .columns = columns,
              .kernels = bitrl_kernels_find("auto"), .threads = threads, .tokens = tokens};
    if (w.format == FP32 && strcmp(format, "fp32") != 0)
        return bitrl_fail(error, BITRL_BAD_ARGUMENT, "expected a format of floats, bf16 or fp32, got %.40s", format);
    if (rows < 1 || columns < 1)
        return bitrl_fail(error, BITRL_BAD_ARGUMENT, "expected a matrix, got one of %llu x %llu", (unsigned long long)rows,
                          (unsigned long long)columns);
    size_t each = pool_threads(threads);
    w.padded = round_up(columns, K_PAD);
    w.activation_bytes = activation_stride(w.format, w.padded);
    w.stride = round_up(rows, TILE_ROWS);
    w.together = w.stride / TILE_ROWS < 8 * each ? CHUNK : tokens + 1; /* few rows: tokens are shared out, too */
    w.scratch_bytes = round_up(unpacked_bytes(w.padded, CHUNK), 64);
    w.activations = bitrl_allocate(round_up(tokens, TOKEN_PAD), w.activation_bytes);
    w.code_sum = bitrl_allocate(CHUNK, sizeof *w.code_sum);
    w.sums = bitrl_allocate(round_up(tokens, TOKEN_PAD), w.stride * sizeof *w.sums);
    w.tiles = bitrl_allocate(each, 2 * tile_bytes(w.format, w.padded));
    w.unpacked = bitrl_allocate(each, w.scratch_bytes);
    bool ready = w.activations && w.code_sum && w.sums && w.tiles && w.unpacked;
    if (ready) {
        for (size_t t = 0; t < tokens; t++)
            take_floats(w.activations + t * w.activation_bytes, w.format, x + t * columns, columns);
        pool_run(w.threads, multiply, &w);
        for (size_t t = 0; t < tokens; t++) memcpy(out + t * rows, w.sums + t * w.stride, rows * sizeof *out);
    }
    free(w.activations);
    free(w.code_sum);
    free(w.sums);
    free(w.tiles);
    free(w.unpacked);
    if (!ready) return bitrl_fail(error, BITRL_NO_MEMORY, "does not fit in memory");
    for (size_t i = 0; i < tokens * rows && w.not_finite; i++) out[i] = NAN; /* as all sums with what is not finite */
    return BITRL_OK;
}
