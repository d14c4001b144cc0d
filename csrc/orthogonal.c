/* Random orthogonal matrices for a network's start: the same bits on every machine, which no library of linear algebra gives. */
#include <math.h>
#include <stdlib.h>

#include "internal.h"

/* Uniform in (-1, 1): SplitMix64 (Steele et al. 2014). */
static double uniform(uint64_t *state)
{
    uint64_t bits = *state += 0x9e3779b97f4a7c15u;
    bits = (bits ^ bits >> 30) * 0xbf58476d1ce4e5b9u;
    bits = (bits ^ bits >> 27) * 0x94d049bb133111ebu;
    return (double)((bits ^ bits >> 31) >> 11) * 0x1p-52 - 1 + 0x1p-53;
}

/* Standard normal numbers by Marsaglia's polar method. */
static void normals(double *out, size_t n, uint64_t seed)
{
    for (size_t i = 0; i < n;) {
        double x = uniform(&seed), y = uniform(&seed), square = x * x + y * y;
        if (square >= 1 || square == 0) continue;
        double scale = sqrt(-2 * bitrl_logarithm(square) / square);
        out[i++] = x * scale;
        if (i < n) out[i++] = y * scale;
    }
}

/* rows of m -= beta v (v^T m), m: [rows, columns] from `first` on; sums: [columns]. */
static void reflect(double *restrict m, const double *restrict v, double beta, size_t rows, size_t columns, size_t first,
                    double *restrict sums)
{
    for (size_t c = first; c < columns; c++) sums[c] = 0;
    for (size_t r = 0; r < rows; r++)
        for (size_t c = first; c < columns; c++) sums[c] += v[r] * m[r * columns + c];
    for (size_t r = 0; r < rows; r++)
        for (size_t c = first; c < columns; c++) m[r * columns + c] -= beta * v[r] * sums[c];
}

/* Q of a random matrix's QR decomposition by Householder's reflections, signs such that R's diagonal is positive: uniform among
 * matrices with orthonormal columns (Mezzadri 2007). tall >= wide; m, q: [tall, wide]; v: [wide, tall]; rest: [2 wide]. */
static void decompose(double *m, double *q, double *v, double *rest, size_t tall, size_t wide)
{
    double *sums = rest, *beta = rest + wide;
    for (size_t j = 0; j < wide; j++) {
        double *own = v + j * tall, square = 0;
        for (size_t r = j; r < tall; r++) {
            own[r] = m[r * wide + j];
            square += own[r] * own[r];
        }
        double norm = sqrt(square), head = own[j];
        own[j] += head < 0 ? -norm : norm;
        beta[j] = norm > 0 ? 1 / (norm * (norm + fabs(head))) : 0;
        reflect(m + j * wide, own + j, beta[j], tall - j, wide, j, sums);
    }
    for (size_t i = 0; i < tall * wide; i++) q[i] = 0;
    for (size_t j = 0; j < wide; j++) q[j * wide + j] = m[j * wide + j] < 0 ? -1 : 1;
    for (size_t j = wide; j-- > 0;) reflect(q + j * wide, v + j * tall + j, beta[j], tall - j, wide, j, sums);
}

int bitrl_orthogonal(float *weights, uint64_t inputs, uint64_t outputs, double gain, uint64_t seed, char *error)
{
    enum { MOST = 1 << 24 };
    if (inputs < 1 || outputs < 1 || inputs > MOST || outputs > MOST)
        return bitrl_fail(error, BITRL_BAD_ARGUMENT, "expected weights of widths 1 to %d, got %llu x %llu", MOST,
                          (unsigned long long)inputs, (unsigned long long)outputs);
    size_t tall = inputs > outputs ? inputs : outputs, wide = inputs > outputs ? outputs : inputs, size = tall * wide;
    double *memory = bitrl_allocate(3 * size + 2 * wide, sizeof *memory);
    if (!memory) return bitrl_fail(error, BITRL_NO_MEMORY, "no memory for weights of %zu x %zu", tall, wide);
    double *m = memory, *q = m + size, *v = q + size, *rest = v + size;
    normals(m, size, seed);
    decompose(m, q, v, rest, tall, wide);
    for (size_t i = 0; i < inputs; i++)
        for (size_t o = 0; o < outputs; o++)
            weights[i * outputs + o] = (float)(gain * (inputs > outputs ? q[i * wide + o] : q[o * wide + i]));
    free(memory);
    return BITRL_OK;
}
