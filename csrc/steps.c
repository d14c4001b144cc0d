/* Steps of a forward pass between products by themselves, with the bits that they have within a model (forward.c): for who
 * learns what the engine runs. */
#include <stdlib.h>
#include <string.h>

#include "internal.h"

int bitrl_angles(double theta, uint64_t positions, uint64_t dims, double *out, char *error)
{
    double *frequencies = bitrl_allocate(dims / 2, sizeof *frequencies);
    if (!frequencies) return bitrl_fail(error, BITRL_NO_MEMORY, "does not fit in memory");
    bitrl_frequencies(frequencies, dims, theta);
    bitrl_rope(out, positions, dims, frequencies, 1);
    free(frequencies);
    return BITRL_OK;
}

/* What all threads know; which of it there is depends on the step. */
typedef struct {
    const bitrl_kernels *kernels;
    pool *threads;
    size_t rows, columns;
    const double *x, *weight;
    double eps;
    float *normed;
    double *gated;
    const bitrl_attention *attention;
    double *scratch; /* [threads, scratch_doubles] */
    size_t scratch_doubles;
} work;

enum { TOGETHER = 8 }; /* rows that a thread takes */

static void norm_rows(void *context, size_t thread, size_t threads)
{
    const work *w = context;
    (void)threads;
    for (size_t item; pool_take(w->threads, (w->rows + TOGETHER - 1) / TOGETHER, &item);)
        for (size_t r = item * TOGETHER; r < w->rows && r < (item + 1) * TOGETHER; r++)
            w->kernels->norm_round((uint8_t *)(w->normed + r * w->columns), FP32, w->scratch + thread * w->scratch_doubles,
                                   w->x + r * w->columns, w->weight, w->columns, w->columns, w->eps);
}

static void gate_rows(void *context, size_t thread, size_t threads)
{
    const work *w = context;
    size_t n = w->columns;
    (void)thread, (void)threads;
    for (size_t item; pool_take(w->threads, (w->rows + TOGETHER - 1) / TOGETHER, &item);)
        for (size_t r = item * TOGETHER; r < w->rows && r < (item + 1) * TOGETHER; r++)
            w->kernels->gated_silu(w->gated + r * n, w->x + 2 * r * n, w->x + (2 * r + 1) * n, n);
}

/* The keys or values of one head and text, which lie in two places, one after another. */
static void gather(const bitrl_attention *a, double *to, const double *from, size_t begin, size_t count)
{
    memcpy(to, from, begin * a->head_dim * sizeof *to);
    memcpy(to + begin * a->head_dim, from + a->before * a->head_dim, count * a->head_dim * sizeof *to);
}

static void attend_texts(void *context, size_t thread, size_t threads)
{
    const work *w = context;
    const bitrl_attention *a = w->attention;
    size_t dim = a->head_dim, longest = a->keys, group = a->heads / a->kv_heads;
    double *k = w->scratch + thread * w->scratch_doubles, *v = k + longest * dim, *q = v + longest * dim; /* [longest, dim] */
    double *out = q + group * longest * dim, *own = out + group * longest * dim; /* q: [group, longest, dim]; out: [longest, group, dim] */
    (void)threads;
    for (size_t item; pool_take(w->threads, a->texts * a->kv_heads, &item);) {
        size_t text = item / a->kv_heads, head = item % a->kv_heads, begin = a->begins[text], count = a->lengths[text];
        if (count == 0) continue;
        gather(a, k, a->k + item * a->keys * dim, begin, count);
        gather(a, v, a->v + item * a->keys * dim, begin, count);
        for (size_t h = 0; h < group; h++)
            memcpy(q + (h * longest + begin) * dim, a->q + (text * a->heads + head * group + h) * a->queries * dim,
                   count * dim * sizeof *q);
        const attention_task task = {.q = q, .k = k, .v = v, .out = out, .q_stride = dim, .kv_stride = dim,
                                     .out_stride = group * dim, .head_stride = longest * dim, .heads = group,
                                     .head_dim = dim, .first = begin, .count = count, .window = a->window, .scale = a->scale};
        w->kernels->attend(&task, own);
        for (size_t t = 0; t < count; t++)
            memcpy(a->out + ((text * a->queries + t) * a->kv_heads + head) * group * dim, out + (begin + t) * group * dim,
                   group * dim * sizeof *out);
    }
}

static int run(work *w, void (*step)(void *, size_t, size_t), size_t scratch_doubles, bitrl_threads *threads, char *error)
{
    w->kernels = bitrl_kernels_find("auto");
    w->threads = threads;
    w->scratch_doubles = round_up(scratch_doubles, PAD);
    w->scratch = bitrl_allocate(pool_threads(threads) * w->scratch_doubles, sizeof *w->scratch);
    if (!w->scratch) return bitrl_fail(error, BITRL_NO_MEMORY, "does not fit in memory");
    pool_run(threads, step, w);
    free(w->scratch);
    return BITRL_OK;
}

static int check_columns(uint64_t columns, char *error)
{
    return columns && columns % PAD == 0 ? BITRL_OK
                                         : bitrl_fail(error, BITRL_BAD_ARGUMENT, "expected a multiple of %d columns, got %llu", PAD,
                                                      (unsigned long long)columns);
}

int bitrl_normed(const double *x, const double *weight, uint64_t rows, uint64_t columns, double eps, bitrl_threads *threads,
                 float *out, char *error)
{
    work w = {.rows = rows, .columns = columns, .x = x, .weight = weight, .eps = eps, .normed = out};
    int status = check_columns(columns, error);
    return status ? status : run(&w, norm_rows, columns, threads, error);
}

int bitrl_gated(const double *gate_up, uint64_t rows, uint64_t columns, bitrl_threads *threads, double *out, char *error)
{
    work w = {.rows = rows, .columns = columns, .x = gate_up, .gated = out};
    int status = check_columns(columns, error);
    return status ? status : run(&w, gate_rows, 1, threads, error);
}

int bitrl_attend(const bitrl_attention *attention, bitrl_threads *threads, char *error)
{
    const bitrl_attention *a = attention;
    work w = {.attention = a};
    int status = check_columns(a->head_dim, error);
    if (!status && (!a->kv_heads || a->heads % a->kv_heads))
        status = bitrl_fail(error, BITRL_BAD_ARGUMENT, "heads must be a multiple of the heads of keys");
    for (uint64_t i = 0; i < a->texts && !status; i++)
        if (a->begins[i] > a->before || a->lengths[i] > a->queries || a->before + a->queries > a->keys)
            status = bitrl_fail(error, BITRL_BAD_ARGUMENT, "text %llu does not fit", (unsigned long long)i);
    if (status) return status;
    size_t rows = 2 + 2 * a->heads / a->kv_heads;
    return run(&w, attend_texts, rows * a->keys * a->head_dim + attention_scratch(a->keys, a->head_dim), threads, error);
}
