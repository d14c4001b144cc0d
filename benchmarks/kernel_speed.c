/* Cycles of the products of matrices, each in windows so short that little else happens in them (benchmarks/speed_model.py).
 *
 * Prints a line for each instruction set that this CPU can run, format and number of tokens: multiply-adds, and the
 * nanoseconds that they took at best; and before them the nanoseconds of an addition that waits for the one before, which
 * is one cycle, and the gigabytes that one core reads from memory in a second. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "bitrl.h"
#include "kernels.h"

enum { COLUMNS = 2560, TILES = 16, MOST_TOKENS = 32, WINDOWS = 2000 };

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static double cycle(void)
{
    enum { PASSES = 10000 };
    double best = 1;
    for (int window = 0; window < WINDOWS; window++) {
        const double began = now();
        uint64_t sum = 0;
        for (int i = 0; i < PASSES; i++)
            for (int j = 0; j < 8; j++) {
                sum++;
                __asm__ volatile("" : "+r"(sum));
            }
        const double spent = (now() - began) / (8 * PASSES);
        best = spent < best ? spent : best;
    }
    return best;
}

/* Of much more than any cache holds, in huge pages where the system has them, as the engine's weights are. */
static double gigabytes(void)
{
    enum { BYTES = 256 << 20, HUGE = 2 << 20, PASSES = 8 };
    uint64_t *numbers = aligned_alloc(HUGE, BYTES);
    if (!numbers) exit(1);
#if defined(MADV_HUGEPAGE)
    madvise(numbers, BYTES, MADV_HUGEPAGE);
#endif
    memset(numbers, 1, BYTES);
    double best = 1;
    for (int pass = 0; pass < PASSES; pass++) {
        const double began = now();
        uint64_t sums[8] = {0};
        for (size_t i = 0; i < BYTES / sizeof *numbers; i += 8)
            for (size_t j = 0; j < 8; j++) sums[j] += numbers[i + j];
        for (size_t j = 0; j < 8; j++) __asm__ volatile("" : : "r"(sums[j]));
        const double spent = now() - began;
        best = spent < best ? spent : best;
    }
    free(numbers);
    return 1e-9 * BYTES / best;
}

static void *zeros(size_t bytes)
{
    void *found = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!found) exit(1);
    return memset(found, 0, bytes);
}

/* Codes of both signs up to `most`; floats of their size. */
static void fill(matrix_format format, uint8_t *q, size_t stride, int32_t *sums, size_t tokens, int most)
{
    for (size_t t = 0; t < tokens; t++)
        for (size_t c = 0; c < COLUMNS; c++) {
            const int code = (int)((t * 31 + c * 17) % (size_t)(2 * most + 1)) - most;
            const float value = (float)code;
            const uint16_t half = bf16_from(value);
            sums[t] += code;
            if (format == FP32) memcpy(q + t * stride + 4 * c, &value, 4);
            else if (multiplies_halves(format)) memcpy(q + t * stride + 2 * c, &half, 2);
            else q[t * stride + c] = (uint8_t)(int8_t)code;
        }
}

static void measure(const bitrl_kernels *kernels, matrix_format format, const char *name, size_t tokens, int most)
{
    const size_t bytes = TILES * tile_bytes(format, COLUMNS), stride = activation_stride(format, COLUMNS);
    uint8_t *weights = zeros(bytes), *q = zeros(stride * (MOST_TOKENS + TOKEN_PAD));
    uint8_t *unpacked = zeros(unpacked_bytes(COLUMNS, MOST_TOKENS));
    int32_t *sums = zeros(sizeof *sums * (MOST_TOKENS + TOKEN_PAD));
    int32_t *y = zeros(sizeof *y * TILES * TILE_ROWS * (MOST_TOKENS + TOKEN_PAD));
    const float one = 1;
    const uint16_t half = bf16_from(one);
    for (size_t i = 0; i < bytes; i++) weights[i] = (uint8_t)(i * 7 % 3 * 85); /* 0, 85 and 170: each ternary weight */
    for (size_t i = 0; format == FP32 && i < bytes; i += 4) memcpy(weights + i, &one, 4);
    for (size_t i = 0; format == BF16 && i < bytes; i += 2) memcpy(weights + i, &half, 2);
    fill(format, q, stride, sums, tokens, most);
    double best = 1;
    const double until = now() + 0.5;
    for (int window = 0; window < WINDOWS && now() < until; window++) {
        const double began = now();
        kernels->product[format](y, TILES * TILE_ROWS, weights, TILES, COLUMNS, q, stride, sums, tokens, unpacked);
        const double spent = now() - began;
        best = spent < best ? spent : best;
    }
    printf("%s %s %zu %zu %.1f\n", kernels->name, name, tokens, (size_t)TILES * TILE_ROWS * COLUMNS * tokens, 1e9 * best);
    free(weights), free(q), free(unpacked), free(sums), free(y);
}

int main(void)
{
    enum { USUAL = 19, LOUD = 126 }; /* as most activations of a language model are; as normally distributed ones may be */
    static const char *const names[FORMATS] = {"ternary", "ternary-1.6", "int8", "int4", "fp8", "bf16", "fp32"};
    const char *set;
    printf("cycle %.5f\n", 1e9 * cycle());
    printf("gigabytes %.2f\n", gigabytes());
    for (uint64_t i = 0; (set = bitrl_instruction_set(i)); i++) {
        for (int format = 0; format < FORMATS; format++)
            for (size_t tokens = 1; tokens <= MOST_TOKENS; tokens += MOST_TOKENS - 1)
                measure(bitrl_kernels_find(set), (matrix_format)format, names[format], tokens, USUAL);
        measure(bitrl_kernels_find(set), INT8, "loud-int8", MOST_TOKENS, LOUD);
    }
    return 0;
}
