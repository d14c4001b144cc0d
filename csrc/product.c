/* One product of floats by itself, with the bits that it has within a model (forward.c): for who learns what the engine runs.
 *
 * Packs the weights anew each time: a small part of the work for the many tokens that are learned from at once. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

enum { CHUNK = 256, MAX_THREADS = 1024 }; /* CHUNK: tokens that go through a tile together, a multiple of TOKEN_PAD */

/* What all threads know. */
typedef struct {
    const matrix *m;
    const bitrl_kernels *kernels;
    pool *threads;
    size_t columns, tokens; /* columns: padded */
    uint8_t *activations;   /* [tokens to TOKEN_PAD, activation_bytes] */
    int32_t *code_sum;      /* [CHUNK] zeros: there are no codes */
    size_t activation_bytes;
    float *sums; /* [tokens to TOKEN_PAD, stride] */
    size_t stride;
    uint8_t *unpacked; /* [threads, scratch_bytes] */
    size_t scratch_bytes;
} work;

static void multiply(void *context, size_t thread, size_t threads)
{
    const work *w = context;
    size_t tiles = w->stride / TILE_ROWS, pairs = (tiles + 1) / 2, chunks = (w->tokens + CHUNK - 1) / CHUNK;
    (void)threads;
    for (size_t item; pool_take(w->threads, pairs * chunks, &item);) {
        size_t tile = item % pairs * 2, first = item / pairs * CHUNK, left = w->tokens - first;
        w->kernels->product[w->m->format](w->sums + first * w->stride + tile * TILE_ROWS, w->stride,
                                          w->m->data + tile * tile_bytes(w->m->format, w->columns),
                                          tiles - tile < 2 ? tiles - tile : 2, w->columns,
                                          w->activations + first * w->activation_bytes, w->activation_bytes, w->code_sum,
                                          left < CHUNK ? left : CHUNK, w->unpacked + thread * w->scratch_bytes);
    }
}

/* A token's floats as the product takes them. */
static void take_floats(uint8_t *to, matrix_format format, const float *x, size_t n)
{
    if (format == FP32) memcpy(to, x, n * sizeof *x);
    for (size_t c = 0; c < n && format == BF16; c++) {
        uint16_t half = bf16_from(x[c]);
        memcpy(to + 2 * c, &half, sizeof half);
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
    matrix m = {.format = strcmp(format, "bf16") == 0 ? BF16 : FP32, .rows = rows, .columns = columns, .file_scale = 1};
    if (m.format == FP32 && strcmp(format, "fp32") != 0)
        return bitrl_fail(error, BITRL_BAD_ARGUMENT, "expected a format of floats, bf16 or fp32, got %.40s", format);
    if (rows < 1 || columns < 1)
        return bitrl_fail(error, BITRL_BAD_ARGUMENT, "expected a matrix, got one of %llu x %llu", (unsigned long long)rows,
                          (unsigned long long)columns);
    work w = {.m = &m, .kernels = bitrl_kernels_find("auto"), .threads = threads, .tokens = tokens};
    w.columns = round_up(columns, K_PAD);
    w.activation_bytes = activation_stride(m.format, w.columns);
    w.stride = round_up(rows, TILE_ROWS);
    w.scratch_bytes = round_up(unpacked_bytes(w.columns, CHUNK), 64);
    m.data = bitrl_allocate(bitrl_matrix_bytes(m.format, rows, columns), 1);
    w.activations = bitrl_allocate(round_up(tokens, TOKEN_PAD), w.activation_bytes);
    w.code_sum = bitrl_allocate(CHUNK, sizeof *w.code_sum);
    w.sums = bitrl_allocate(round_up(tokens, TOKEN_PAD), w.stride * sizeof *w.sums);
    w.unpacked = bitrl_allocate(pool_threads(threads), w.scratch_bytes);
    const weight_source source = {.values = weights};
    pack_result result = PACK_NO_MEMORY;
    if (m.data && w.activations && w.code_sum && w.sums && w.unpacked)
        result = bitrl_pack(&m, &source, w.kernels, w.threads);
    if (result == PACKED) {
        for (size_t t = 0; t < tokens; t++)
            take_floats(w.activations + t * w.activation_bytes, m.format, x + t * columns, columns);
        if (tokens) pool_run(w.threads, multiply, &w);
        for (size_t t = 0; t < tokens; t++) memcpy(out + t * rows, w.sums + t * w.stride, rows * sizeof *out);
    }
    free(m.data);
    free(w.activations);
    free(w.code_sum);
    free(w.sums);
    free(w.unpacked);
    if (result == PACK_NO_MEMORY) return bitrl_fail(error, BITRL_NO_MEMORY, "does not fit in memory");
    if (result != PACKED) /* as all sums with what is not finite */
        for (size_t i = 0; i < tokens * rows; i++) out[i] = NAN;
    return BITRL_OK;
}
