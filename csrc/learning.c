/* Networks that learn: forward and backward passes of chains of linear and tanh layers, and Adam.
 *
 * All three products of a linear layer (outputs; gradients by weights; gradients by inputs) are one kernel's, a panel of columns
 * at a time. Does not know losses (losses.c). Work that is too small to share is done by the caller alone. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "learning.h"

/* STEPS: of a panel that lies packed in the first-level cache; EDGE_ROWS: of a panel that is not full, in scratch; PARTS: of a
 * gradient, whose squares are added up apart; ALONE: multiply-adds, or numbers of Adam, that one thread does sooner. */
enum { STEPS = 256, EDGE_ROWS = 60, PARTS = 64, MOST_STEPS = 8, ALONE = 1 << 16, ALONE_NUMBERS = 1 << 13, MOST_PANEL = 32 };

struct bitrl_learner {
    const bitrl_kernels *kernels;
    pool *threads;
    float *scratch; /* [threads, scratch_floats] */
    size_t scratch_floats;
    double parts[MOST_STEPS][PARTS];
};

struct bitrl_network {
    bitrl_learner *learner;
    size_t layers, batch, samples; /* samples: of the last forward pass */
    size_t *widths;                /* [layers + 1] */
    size_t *offsets;               /* [layers + 1] of each layer's parameters; the last: how many there are */
    const float *inputs;           /* of the last forward pass */
    float **hidden;                /* [layers - 1] each layer's outputs but the last's, [batch, stride_of(width)] */
    float **by_hidden;             /* likewise, gradients by what enters each tanh */
    float *memory;
};

/* Row lengths of hidden layers: an odd number of cache lines, so that rows do not compete for the same places in the cache. */
static size_t stride_of(size_t width) { return 16 * ((width + 15) / 16 | 1); }

int bitrl_learner_open(bitrl_threads *threads, const char *isa, bitrl_learner **out, char *error)
{
    *out = NULL;
    const bitrl_kernels *kernels = bitrl_kernels_find(isa);
    if (!kernels) return bitrl_fail(error, BITRL_BAD_ARGUMENT, "this CPU has no instruction set %.40s", isa);
    bitrl_learner *learner = calloc(1, sizeof *learner);
    if (!learner) return bitrl_fail(error, BITRL_NO_MEMORY, "no memory for a learner");
    learner->kernels = kernels;
    learner->threads = threads;
    learner->scratch_floats = round_up((STEPS + EDGE_ROWS) * kernels->panel, 16);
    learner->scratch = bitrl_allocate(pool_threads(threads), learner->scratch_floats * sizeof *learner->scratch);
    if (!learner->scratch) {
        free(learner);
        return bitrl_fail(error, BITRL_NO_MEMORY, "no memory for a learner");
    }
    *out = learner;
    return BITRL_OK;
}

void bitrl_learner_close(bitrl_learner *learner)
{
    if (!learner) return;
    free(learner->scratch);
    free(learner);
}

const bitrl_kernels *bitrl_learner_kernels(const bitrl_learner *learner) { return learner->kernels; }

/* Calls work on all threads, or on this one alone. */
static void run(bitrl_learner *learner, bool alone, void (*work)(void *, size_t, size_t), void *context)
{
    if (alone)
        work(context, 0, 1);
    else
        pool_run(learner->threads, work, context);
}

static void meet(bitrl_learner *learner, size_t threads)
{
    if (threads > 1) pool_barrier(learner->threads);
}

/* ---- products ---- */

static size_t panels_of(const bitrl_learner *learner, const multiplication *m)
{
    return (m->columns + learner->kernels->panel - 1) / learner->kernels->panel;
}

/* Rows that one thread takes of a panel at a time: all, unless there are too few panels for every thread. */
static size_t rows_each(const multiplication *m, size_t panels, size_t threads)
{
    if (threads == 1 || panels >= 2 * threads) return m->rows;
    size_t pieces = (2 * threads + panels - 1) / panels;
    return round_up((m->rows + pieces - 1) / pieces, 12);
}

/* Some rows of a panel that is not full. */
static void multiply_edge(const bitrl_kernels *kernels, float *c, size_t c_stride, size_t rows, size_t columns, const float *a,
                          size_t a_row, size_t a_step, const float *packed, size_t steps, const float *start, size_t start_stride,
                          float *edge)
{
    size_t panel = kernels->panel;
    for (size_t from = 0; from < rows; from += EDGE_ROWS, c += EDGE_ROWS * c_stride, a += EDGE_ROWS * a_row) {
        size_t n = rows - from < EDGE_ROWS ? rows - from : EDGE_ROWS;
        memset(edge, 0, n * panel * sizeof *edge);
        for (size_t r = 0; start && r < n; r++) memcpy(edge + r * panel, start + (from + r) * start_stride, columns * sizeof *edge);
        kernels->multiply_panel(edge, panel, n, a, a_row, a_step, packed, steps, edge, panel);
        for (size_t r = 0; r < n; r++) memcpy(c + r * c_stride, edge + r * panel, columns * sizeof *edge);
    }
}

static void multiply_item(const bitrl_kernels *kernels, const multiplication *m, size_t column, size_t first, size_t rows,
                          float *packed)
{
    const float one = 1;
    size_t panel = kernels->panel, columns = m->columns - column < panel ? m->columns - column : panel;
    float *edge = packed + STEPS * panel, *c = m->c + first * m->c_stride + column;
    float sums[MOST_PANEL];
    for (size_t from = 0; from < m->steps; from += STEPS) {
        size_t steps = m->steps - from < STEPS ? m->steps - from : STEPS;
        const float *a = m->a + first * m->a_row + from * m->a_step;
        const float *start = from ? c : m->start ? m->start + column : NULL;
        size_t start_stride = from ? m->c_stride : 0;
        kernels->pack_panel(packed, m->b + from * m->b_step + column * m->b_column, m->b_step, m->b_column, steps, columns);
        if (columns == panel)
            kernels->multiply_panel(c, m->c_stride, rows, a, m->a_row, m->a_step, packed, steps, start, start_stride);
        else
            multiply_edge(kernels, c, m->c_stride, rows, columns, a, m->a_row, m->a_step, packed, steps, start, start_stride, edge);
        if (m->sums)
            kernels->multiply_panel(sums, panel, 1, &one, 0, 0, packed, steps, from ? sums : NULL, 0);
    }
    if (m->is_tanh) kernels->tanhs(c, m->c_stride, rows, columns);
    if (m->tanh_before) kernels->slopes(c, m->tanh_before + first * m->c_stride + column, m->c_stride, rows, columns);
    if (m->sums) memcpy(m->sums + column, sums, columns * sizeof *sums);
}

/* The share of the thread-th of `threads`. */
static void multiply(bitrl_learner *learner, const multiplication *m, size_t worker, size_t thread, size_t threads)
{
    size_t panels = panels_of(learner, m), each = rows_each(m, panels, threads);
    for (size_t item = thread; item < panels * ((m->rows + each - 1) / each); item += threads) {
        size_t first = item / panels * each;
        multiply_item(learner->kernels, m, item % panels * learner->kernels->panel, first,
                      m->rows - first < each ? m->rows - first : each, learner->scratch + worker * learner->scratch_floats);
    }
}

typedef struct {
    bitrl_learner *learner;
    const multiplication *list;
    size_t count;
} multiplications;

static void multiply_list(void *context, size_t thread, size_t threads)
{
    const multiplications *all = context;
    for (size_t i = 0; i < all->count; i++) multiply(all->learner, all->list + i, thread, thread, threads);
}

void bitrl_multiply(bitrl_learner *learner, const multiplication *list, size_t count)
{
    multiplications all = {learner, list, count};
    size_t work = 0;
    for (size_t i = 0; i < count; i++) work += list[i].rows * list[i].columns * list[i].steps;
    run(learner, work < ALONE, multiply_list, &all);
}

/* ---- shares of parameters ---- */

/* Where part i of [size] begins. */
static size_t part_of(size_t size, size_t i)
{
    size_t from = i * round_up((size + PARTS - 1) / PARTS, 16);
    return from < size ? from : size;
}

/* Where a thread's share of them begins, some parts in a row. */
static size_t first_part(size_t thread, size_t threads) { return PARTS * thread / threads; }
static size_t share_of(size_t size, size_t thread, size_t threads) { return part_of(size, first_part(thread, threads)); }

/* ---- networks ---- */

int bitrl_network_open(bitrl_learner *learner, const uint64_t *widths, uint64_t layers, uint64_t batch, bitrl_network **out,
                       char *error)
{
    enum { MOST = 1 << 24, MOST_LAYERS = 1 << 10 };
    *out = NULL;
    if (layers < 1 || layers > MOST_LAYERS)
        return bitrl_fail(error, BITRL_BAD_ARGUMENT, "expected 1 to %d layers, got %llu", MOST_LAYERS, (unsigned long long)layers);
    if (batch < 1 || batch > MOST)
        return bitrl_fail(error, BITRL_BAD_ARGUMENT, "expected a batch of 1 to %d samples, got %llu", MOST, (unsigned long long)batch);
    size_t floats = 0;
    for (uint64_t i = 0; i <= layers; i++) {
        if (widths[i] < 1 || widths[i] > MOST)
            return bitrl_fail(error, BITRL_BAD_ARGUMENT, "expected layers of widths 1 to %d, got %llu", MOST,
                              (unsigned long long)widths[i]);
        if (i > 0 && i < layers) floats += batch * stride_of(widths[i]);
    }
    bitrl_network *network = calloc(1, sizeof *network);
    if (network) {
        network->widths = calloc(layers + 1, sizeof *network->widths);
        network->offsets = calloc(layers + 1, sizeof *network->offsets);
        network->hidden = calloc(layers, sizeof *network->hidden);
        network->by_hidden = calloc(layers, sizeof *network->by_hidden);
        network->memory = bitrl_allocate(2 * floats, sizeof *network->memory);
    }
    if (!network || !network->widths || !network->offsets || !network->hidden || !network->by_hidden || !network->memory) {
        bitrl_network_close(network);
        return bitrl_fail(error, BITRL_NO_MEMORY, "no memory for a network and %llu samples", (unsigned long long)batch);
    }
    network->learner = learner;
    network->layers = layers;
    network->batch = batch;
    float *at = network->memory;
    network->widths[0] = widths[0];
    for (size_t l = 0; l < layers; l++) {
        network->widths[l + 1] = widths[l + 1];
        network->offsets[l + 1] = network->offsets[l] + (widths[l] + 1) * widths[l + 1];
        network->hidden[l] = at;
        network->by_hidden[l] = at + floats;
        if (l + 1 < layers) at += batch * stride_of(widths[l + 1]);
    }
    *out = network;
    return BITRL_OK;
}

void bitrl_network_close(bitrl_network *network)
{
    if (!network) return;
    free(network->widths);
    free(network->offsets);
    free(network->hidden);
    free(network->by_hidden);
    free(network->memory);
    free(network);
}

uint64_t bitrl_network_parameters(const bitrl_network *network) { return network->offsets[network->layers]; }

/* What enters a layer: [samples, width], rows *stride apart. */
static const float *inputs_of(const bitrl_network *network, size_t layer, size_t *stride)
{
    *stride = layer ? stride_of(network->widths[layer]) : network->widths[layer];
    return layer ? network->hidden[layer - 1] : network->inputs;
}

/* The loss's gradient by a layer's outputs, before their tanh: [samples, width], rows *stride apart. */
static const float *by_outputs_of(const bitrl_pass *p, size_t layer, size_t *stride)
{
    bool last = layer + 1 == p->network->layers;
    size_t width = p->network->widths[layer + 1];
    *stride = last ? width : stride_of(width);
    return last ? p->by_outputs : p->network->by_hidden[layer];
}

/* The first row of a layer's weights, with the biases as one more, that begins from a parameter on. */
static size_t row_at(const bitrl_network *network, size_t layer, size_t parameter)
{
    size_t in = network->widths[layer], out = network->widths[layer + 1], offset = network->offsets[layer];
    if (parameter <= offset) return 0;
    size_t row = (parameter - offset + out - 1) / out;
    return row < in + 1 ? row : in + 1;
}

/* Of scratch, the worker-th thread's; it is the thread-th of those that make this pass. */
static void forward(const bitrl_pass *p, size_t worker, size_t thread, size_t threads)
{
    bitrl_network *network = p->network;
    for (size_t l = 0; l < network->layers; l++) {
        size_t in = network->widths[l], out = network->widths[l + 1], stride;
        const float *weights = p->parameters + network->offsets[l], *inputs = inputs_of(network, l, &stride);
        bool last = l + 1 == network->layers;
        const multiplication m = {.c = last ? p->outputs : network->hidden[l], .c_stride = last ? out : stride_of(out),
                                  .rows = network->samples, .columns = out, .steps = in, .a = inputs, .a_row = stride, .a_step = 1,
                                  .b = weights, .b_step = out, .b_column = 1, .start = weights + in * out, .is_tanh = !last};
        if (l) meet(network->learner, threads);
        multiply(network->learner, &m, worker, thread, threads);
    }
}

/* First the gradients by what enters each layer, which all threads find together; then those by the parameters, of which each
 * thread finds those that it takes Adam's step of: other caches than its own are slow. */
static void backward(const bitrl_pass *p, size_t worker, size_t thread, size_t threads)
{
    bitrl_network *network = p->network;
    size_t layers = network->layers, stride, by_stride;
    for (size_t l = layers; l-- > 0;) {
        size_t in = network->widths[l], out = network->widths[l + 1];
        const float *inputs = inputs_of(network, l, &stride), *by_outputs = by_outputs_of(p, l, &by_stride);
        const multiplication m = {.c = l ? network->by_hidden[l - 1] : p->by_inputs, .c_stride = stride, .rows = network->samples,
                                  .columns = in, .steps = out, .a = by_outputs, .a_row = by_stride, .a_step = 1,
                                  .b = p->parameters + network->offsets[l], .b_step = 1, .b_column = out,
                                  .tanh_before = l ? inputs : NULL};
        if (m.c) multiply(network->learner, &m, worker, thread, threads);
        if (l) meet(network->learner, threads);
    }
    size_t size = network->offsets[layers], begin = share_of(size, thread, threads), end = share_of(size, thread + 1, threads);
    for (size_t l = 0; l < layers; l++) {
        size_t in = network->widths[l], out = network->widths[l + 1], from = row_at(network, l, begin), to = row_at(network, l, end);
        const float *inputs = inputs_of(network, l, &stride), *by_outputs = by_outputs_of(p, l, &by_stride);
        float *gradients = p->gradients + network->offsets[l];
        const multiplication m = {.c = gradients, .c_stride = out, .rows = in, .columns = out, .steps = network->samples,
                                  .a = inputs, .a_row = 1, .a_step = stride, .b = by_outputs, .b_step = by_stride, .b_column = 1,
                                  .sums = from <= in && in < to ? gradients + in * out : NULL};
        for (size_t column = 0; from < to && column < out; column += network->learner->kernels->panel)
            multiply_item(network->learner->kernels, &m, column, from, (to < in ? to : in) - from,
                          network->learner->scratch + worker * network->learner->scratch_floats);
    }
}

/* Several passes, and how one is made. */
typedef struct {
    const bitrl_pass *const *list;
    size_t count;
    void (*make)(const bitrl_pass *p, size_t worker, size_t thread, size_t threads);
} passes;

static void make_passes(void *context, size_t thread, size_t threads)
{
    const passes *all = context;
    bool each_alone = all->count >= threads; /* what they read and write is then in one core's cache */
    for (size_t i = each_alone ? thread : 0; i < all->count; i += each_alone ? threads : 1)
        all->make(all->list[i], thread, each_alone ? 0 : thread, each_alone ? 1 : threads);
}

static void run_passes(bitrl_learner *learner, passes *all)
{
    size_t work = 0;
    for (size_t i = 0; i < all->count; i++) work += all->list[i]->network->samples * bitrl_network_parameters(all->list[i]->network);
    run(learner, work < ALONE, make_passes, all);
}

int bitrl_networks_forward(bitrl_learner *learner, const bitrl_pass *const *list, uint64_t count, char *error)
{
    for (uint64_t i = 0; i < count; i++)
        if (list[i]->samples < 1 || list[i]->samples > list[i]->network->batch)
            return bitrl_fail(error, BITRL_BAD_ARGUMENT, "expected 1 to %llu samples, got %llu",
                              (unsigned long long)list[i]->network->batch, (unsigned long long)list[i]->samples);
    for (uint64_t i = 0; i < count; i++) {
        list[i]->network->samples = list[i]->samples;
        list[i]->network->inputs = list[i]->inputs;
    }
    run_passes(learner, &(passes){list, count, forward});
    return BITRL_OK;
}

int bitrl_networks_backward(bitrl_learner *learner, const bitrl_pass *const *list, uint64_t count, char *error)
{
    for (uint64_t i = 0; i < count; i++)
        if (!list[i]->network->samples) return bitrl_fail(error, BITRL_BAD_ARGUMENT, "there is no forward pass to go back");
    run_passes(learner, &(passes){list, count, backward});
    return BITRL_OK;
}

/* ---- Adam ---- */

typedef struct {
    bitrl_learner *learner;
    bitrl_adam_step *const *list;
    size_t count;
    bool finite;
} optimisation;

/* The norm is the same sum in every thread. */
static double norm_of(const bitrl_learner *learner, size_t step)
{
    double sum = 0;
    for (size_t i = 0; i < PARTS; i++) sum += learner->parts[step][i];
    return sqrt(sum);
}

/* beta^step, by squaring: pow of C libraries differs in the last bit. */
static double power(double beta, uint64_t step)
{
    double result = 1;
    for (; step; step /= 2, beta *= beta)
        if (step % 2) result *= beta;
    return result;
}

static void optimise(void *context, size_t worker, size_t workers)
{
    optimisation *o = context;
    const bitrl_kernels *kernels = o->learner->kernels;
    const bool each_alone = o->count >= workers, is_first = worker == 0; /* shares as those of the passes */
    const size_t thread = each_alone ? 0 : worker, threads = each_alone ? 1 : workers;
    for (size_t j = each_alone ? worker : 0; j < o->count; j += each_alone ? workers : 1)
        for (size_t i = first_part(thread, threads); i < first_part(thread + 1, threads); i++) {
            size_t size = o->list[j]->size, from = part_of(size, i);
            o->learner->parts[j][i] = kernels->squares(o->list[j]->gradients + from, part_of(size, i + 1) - from);
        }
    meet(o->learner, workers);
    bool finite = true;
    for (size_t j = 0; j < o->count; j++) {
        const double norm = norm_of(o->learner, j);
        if (is_first) o->list[j]->norm = norm;
        finite = finite && isfinite(norm);
    }
    if (is_first) o->finite = finite;
    for (size_t j = each_alone ? worker : 0; finite && j < o->count; j += each_alone ? workers : 1) {
        const bitrl_adam_step *s = o->list[j];
        const double norm = norm_of(o->learner, j);
        const adam_rates rates = {.scale = norm > s->max_norm ? (float)(s->max_norm / norm) : 1,
                                  .rate = (float)(s->rate / (1 - power(0.9, s->step))),
                                  .root = (float)(1 / sqrt(1 - power(0.999, s->step))), .eps = (float)s->eps};
        const size_t from = share_of(s->size, thread, threads), count = share_of(s->size, thread + 1, threads) - from;
        kernels->adam(s->parameters + from, s->means + from, s->squares + from, s->gradients + from, count, &rates);
    }
}

int bitrl_adam(bitrl_learner *learner, bitrl_adam_step *const *list, uint64_t count, char *error)
{
    optimisation o = {.learner = learner, .list = list, .count = count};
    size_t size = 0;
    if (count < 1 || count > MOST_STEPS)
        return bitrl_fail(error, BITRL_BAD_ARGUMENT, "expected 1 to %d arrays of parameters, got %llu", MOST_STEPS,
                          (unsigned long long)count);
    for (uint64_t i = 0; i < count; i++) {
        if (list[i]->step < 1) return bitrl_fail(error, BITRL_BAD_ARGUMENT, "steps are counted from 1");
        size += list[i]->size;
    }
    run(learner, size < ALONE_NUMBERS, optimise, &o);
    return o.finite ? BITRL_OK : bitrl_fail(error, BITRL_BAD_RESULT, "a gradient is not finite");
}
