/* One forward pass of a decoder (BitNet b1.58, Llama, Qwen, Gemma, Phi and their kin), top to bottom, over passages of several sequences lying one after another.
 *
 * All threads of the pool walk through it together: each step's tokens, tiles of rows or heads are shared out among them,
 * and they meet before the next. No number depends on who computed it.
 * Between the products everything is double precision: an activation that rounded to a neighbouring 8-bit code because
 * of a float32 error would change a token by about 1e-3. */
#include <string.h>

#include "internal.h"

enum { QUERIES = 64 }; /* of an item of attention */

typedef struct {
    const bitrl_model *model;
    pool *threads;
    scratch *s;
    const kept_rows *rows;
    const double *rope, *local_rope;
    const passage *passages;
    size_t count, tokens; /* tokens: rows that go through products */
    bool apart;           /* each thread has a passage, see walk_mode */
    const size_t *head_rows; /* [tokens] and the following, of logits: see bitrl_logits */
    int32_t *head_sums;
    float *logits;
    take_logits *take;
    void *context;
} forward;

/* A thread on its way through it. */
typedef struct {
    const forward *f;
    const bitrl_model *model;
    const bitrl_shape *shape;
    const bitrl_kernels *kernels;
    scratch *s;
    thread_scratch *own;
    size_t thread, threads;
    bool apart;           /* the tokens are its own, and so is their every step */
    size_t first, tokens; /* rows that go through products: tokens from the first on */
    const size_t *wanted; /* [tokens] their rows of the residual stream; NULL: the same */
    /* Of the first one, in scratch: rows of each product are as long as that needs. */
    int32_t *sums;
    uint8_t *activations, *inputs, *hidden;
    float *adapted;
} walker;

static size_t min(size_t a, size_t b) { return a < b ? a : b; }

/* Token t's row of the residual stream, and what lies there. */
static size_t row_of(const walker *w, size_t t) { return w->wanted ? w->wanted[t - w->first] : t; }
static double *residual(const walker *w, size_t t) { return w->s->x + row_of(w, t) * round_up(w->shape->width, PAD); }

static void meet_all(const walker *w) { pool_barrier(w->f->threads); }

/* Before what others' tokens are needed for, or others' shares of these. */
static void meet(const walker *w)
{
    if (!w->apart) meet_all(w);
}

/* The next of n things to work on: from <= i < to; false when there are none left. Each thread finds about `shares` times
 * some, so that a slower one takes fewer and none waits long for the last; or, at its first turn, all. */
static bool take(const walker *w, size_t turn, size_t n, size_t shares, size_t *from, size_t *to)
{
    *from = 0;
    *to = n;
    if (w->apart) return turn == 0 && n > 0;
    size_t grain = w->threads == 1 ? n + 1 : n / (shares * w->threads) + 1, item;
    if (!pool_take(w->f->threads, (n + grain - 1) / grain, &item)) return false;
    *from = item * grain;
    *to = min(*from + grain, n);
    return true;
}

#define FOR_MY_TOKENS(w, t)                                                                                            \
    for (size_t t, end_, turn_ = 0; take(w, turn_++, (w)->tokens, 6, &t, &end_);)                                      \
        for (t += (w)->first, end_ += (w)->first; t < end_; t++)

static size_t q_width(const bitrl_shape *shape) { return shape->heads * shape->head_dim; }

/* ---- products ---- */

/* Token t's input of adapters as floats, and zeros for what their downs leave free. Arguments as prepare's, x after the norm
 * that it shares with other matrices, if m has one of its own. */
static void prepare_adapters(const walker *w, size_t t, const double *x, const double *norm, const matrix *m)
{
    size_t padded = round_up(m->columns, PAD), stride = activation_stride(FP32, round_up(m->columns, K_PAD));
    size_t bytes = padded * sizeof(float), hidden = SHARING * hidden_bytes(w->s->rank);
    uint8_t *to = w->inputs + (t - w->first) * stride;
    w->kernels->norm_round(to, FP32, w->own->row, x, norm, m->columns, padded, w->shape->eps);
    memset(to + bytes, 0, stride - bytes);
    memset(w->hidden + (t - w->first) * hidden, 0, hidden);
}

/* Token t's activations for a product with m, and their scale (the i-th) and sum, from its vector x: [P(columns)], after
 * the norm (NULL: none) and m's own. */
static void prepare(const walker *w, size_t i, size_t t, const double *x, const double *norm, const matrix *m)
{
    scratch *s = w->s;
    size_t padded = round_up(m->columns, PAD), stride = activation_stride(m->format, round_up(m->columns, K_PAD));
    size_t bytes = 4 * steps_of(m->format, padded);
    uint8_t *to = w->activations + (t - w->first) * stride;
    if (norm && m->norm) {
        w->kernels->normalise(w->own->hidden, x, norm, m->columns, padded, w->shape->eps);
        x = w->own->hidden;
    }
    if (m->norm) norm = m->norm;
    if (m->format == BF16 || m->format == FP32)
        w->kernels->norm_round(to, m->format, w->own->row, x, norm, m->columns, padded, w->shape->eps);
    else if (m->format == FP8)
        s->scale[i][t] = w->kernels->norm_fp8(to, w->own->row, x, norm, m->columns, padded, w->shape->eps);
    else
        s->scale[i][t] =
            w->kernels->norm_quantise(to, s->code_sum + t, w->own->row, x, norm, m->columns, padded, w->shape->eps);
    memset(to + bytes, 0, stride - bytes);
    if (m->float_input) prepare_adapters(w, t, x, norm, m);
}

/* A matrix's products with all tokens, without scales: sums[t] = activations[t] . m. */
typedef struct {
    const matrix *m;
    const uint8_t *activations; /* [tokens, activation_bytes] */
    size_t activation_bytes;
    void *sums; /* [tokens, stride] of int32 or float */
    size_t stride;
} product;

/* Tiles of TERNARY_BLOCKS: each block's sums, which are exact, times its scales, added up in float from the first one on. */
static void block_products(const walker *w, const product *p, size_t tile, size_t tiles, size_t columns)
{
    size_t tokens = w->tokens, bytes = tile_bytes(TERNARY_BLOCKS, columns), code_bytes;
    int32_t *sums = w->own->block_sums, *code_sums = sums + TILE_ROWS * round_up(tokens, TOKEN_PAD);
    const uint8_t *codes = p->m->data + tile * bytes;
    for (size_t from = 0, n; from < columns; from += n, codes += code_bytes + TILE_ROWS * sizeof(float)) {
        n = min(columns - from, SCALE_BLOCK);
        code_bytes = tile_bytes(TERNARY, n);
        for (size_t t = 0; t < tokens; t++) {
            const int8_t *q = (const int8_t *)p->activations + t * p->activation_bytes + from;
            int32_t sum = 0;
            for (size_t c = 0; c < n; c++) sum += q[c];
            code_sums[t] = sum;
        }
        for (size_t i = 0; i < tiles; i++) {
            float scales[TILE_ROWS];
            w->kernels->product[TERNARY](sums, TILE_ROWS, codes + i * bytes, 1, n, p->activations + from, p->activation_bytes,
                                         code_sums, tokens, w->own->unpacked);
            memcpy(scales, codes + i * bytes + code_bytes, sizeof scales);
            for (size_t t = 0; t < tokens; t++) {
                float *y = (float *)p->sums + t * p->stride + (tile + i) * TILE_ROWS;
                for (size_t r = 0; r < TILE_ROWS; r++) y[r] = (from ? y[r] : 0) + scales[r] * (float)sums[t * TILE_ROWS + r];
            }
        }
    }
}

static void products(const walker *w, const product *list, size_t count)
{
    size_t pairs = 0, done = 0;
    for (size_t i = 0; i < count; i++) pairs += (list[i].m->rows + 2 * TILE_ROWS - 1) / (2 * TILE_ROWS);
    size_t shares = w->tokens < 8 ? 1 : 6; /* few tokens wait for memory, which likes to be read in long runs */
    for (size_t from, to, turn = 0; take(w, turn++, w->tokens ? pairs : 0, shares, &from, &to);)
        while (from < to) { /* an item may reach from one matrix into the next */
            size_t mine;
            while (from >= done + (mine = (list->m->rows + 2 * TILE_ROWS - 1) / (2 * TILE_ROWS))) {
                done += mine;
                list++;
            }
            const matrix *m = list->m;
            size_t columns = round_up(m->columns, K_PAD), tile = 2 * (from - done), upto = 2 * (min(to, done + mine) - done);
            size_t tiles = min(upto, round_up(m->rows, TILE_ROWS) / TILE_ROWS) - tile;
            if (m->format == TERNARY_BLOCKS)
                block_products(w, list, tile, tiles, columns);
            else
                w->kernels->product[m->format]((int32_t *)list->sums + tile * TILE_ROWS, list->stride,
                                               m->data + tile * tile_bytes(m->format, columns), tiles, columns,
                                               list->activations, list->activation_bytes, w->s->code_sum + w->first, w->tokens,
                                               w->own->unpacked);
            from = done + upto / 2;
        }
    meet(w);
}

/* The products of matrices with one input, which is prepared, and of their adapters. sums: [tokens, stride], in w->sums; each
 * matrix's follow the previous one's. */
static void multiply(const walker *w, const matrix *const *matrices, size_t count, int32_t *sums, size_t stride)
{
    product first[2 * SHARING], second[SHARING];
    size_t firsts = 0, seconds = 0, each = hidden_bytes(w->s->rank);
    for (size_t j = 0; j < count; j++) {
        const matrix *m = matrices[j];
        size_t columns = round_up(m->columns, K_PAD);
        first[firsts++] = (product){m, w->activations, activation_stride(m->format, columns), sums, stride};
        if (m->adapter) {
            uint8_t *hidden = w->hidden + j * each;
            first[firsts++] = (product){&m->adapter->down, w->inputs, activation_stride(FP32, columns), hidden, SHARING * each / sizeof(float)};
            second[seconds++] = (product){&m->adapter->up, hidden, SHARING * each, w->adapted + (sums - w->sums), stride};
        }
        sums += round_up(m->rows, PAD);
    }
    products(w, first, firsts);
    if (seconds) products(w, second, seconds);
}

/* The products of the residual stream with several matrices; the activations for the first one are prepared. */
static void project(const walker *w, const double *norm, const matrix *const *matrices, size_t count, size_t stride)
{
    for (size_t i = 0, column = 0, alike; i < count; i += alike) {
        if (i > 0) {
            FOR_MY_TOKENS(w, t) prepare(w, i, t, residual(w, t), norm, matrices[i]);
            meet(w);
        }
        for (alike = 1; i + alike < count && !matrices[i]->norm && !matrices[i + alike]->norm;) alike++;
        multiply(w, matrices + i, alike, w->sums + column, stride);
        for (size_t j = i; j < i + alike; j++) column += round_up(matrices[j]->rows, PAD);
    }
}

/* values: [P(n)] what the i-th of some products left in token t's sums of n rows from `first` on, with its scales, and what
 * its adapter adds. sums: those of the matrix's first row on. */
static void scale_part(const walker *w, const matrix *m, size_t i, size_t t, const int32_t *sums, size_t first, size_t n,
                       double *values)
{
    double scale = m->scale / w->s->scale[m->norm ? i : 0][t]; /* of the activations it was prepared with */
    sums += first;
    n = round_up(n, PAD);
    if (m->format == TERNARY || m->format == TERNARY_DENSE)
        w->kernels->scaled(values, sums, scale, n);
    else if (m->format == TERNARY_BLOCKS)
        w->kernels->scaled_floats(values, (const float *)(const void *)sums, scale, n);
    else if (m->format == FP8)
        w->kernels->scaled_float_rows(values, (const float *)(const void *)sums, m->row_scale + first, scale, n);
    else if (m->row_scale)
        w->kernels->scaled_rows(values, sums, m->row_scale + first, scale, n);
    else
        w->kernels->scaled_floats(values, (const float *)(const void *)sums, m->scale, n);
    if (m->adapter) {
        const float *adapted = w->adapted + (sums - w->sums);
        for (size_t c = 0; c < n; c++) values[c] += adapted[c];
        if (!bitrl_all_finite(adapted, n)) w->own->overflowed = true;
    }
}

static void scale_sums(const walker *w, const matrix *m, size_t i, size_t t, const int32_t *sums, double *values)
{
    scale_part(w, m, i, t, sums, 0, m->rows, values);
}

/* x[t] += what a product with m left in sums, after the norm (NULL: none). */
static void add_residual(const walker *w, size_t t, const matrix *m, const double *norm)
{
    size_t width = round_up(m->rows, PAD);
    const double *values = w->own->values;
    scale_sums(w, m, 0, t, w->sums + (t - w->first) * width, w->own->values);
    if (norm) {
        w->kernels->normalise(w->own->row, values, norm, m->rows, width, w->shape->eps);
        values = w->own->row;
    }
    w->kernels->added(residual(w, t), values, width);
}

/* ---- attention ---- */

/* One token's heads: [heads * head_dim] -> to: [heads, P(head_dim)], padded with zeros, normed when there is a norm, and
 * turned by its position when there are angles. */
static void spread_heads(const walker *w, double *to, const double *from, size_t heads, const double *norm,
                         const double *angles)
{
    size_t head_dim = w->shape->head_dim, padded = round_up(head_dim, PAD), turned = angles ? w->shape->rope_dims : 0;
    double *head = w->own->row, *normed = w->own->hidden;
    for (size_t h = 0; h < heads; h++, to += padded, from += head_dim) {
        const double *x = from;
        if (norm) {
            memset(head + head_dim, 0, (padded - head_dim) * sizeof *head);
            memcpy(head, from, head_dim * sizeof *head);
            w->kernels->normalise(normed, head, norm, head_dim, padded, w->shape->eps);
            x = normed;
        }
        if (turned) w->kernels->rotated(to, x, angles, turned / 2);
        memcpy(to + turned, x + turned, (head_dim - turned) * sizeof *to);
    }
}

static size_t kv_stride(const bitrl_shape *shape) { return shape->kv_heads * round_up(shape->head_dim, PAD); }

/* Keys (0) or values (1) of a block's head in a cache: [rows, row]. */
static double *cached(const bitrl_cache *cache, size_t block, size_t which, size_t kv_heads, size_t head)
{
    return cache->values + ((2 * block + which) * kv_heads + head) * cache->rows * cache->row;
}

/* A token's k and v: [kv_heads, row] -> the i-th place of a cache. */
static void keep_token(const bitrl_shape *shape, bitrl_cache *cache, size_t block, size_t i, const double *k, const double *v)
{
    size_t row = cache->row;
    for (size_t h = 0; h < shape->kv_heads; h++, k += row, v += row) {
        double *keys = cached(cache, block, 0, shape->kv_heads, h) + i / KEYS_TOGETHER * KEYS_TOGETHER * row + i % KEYS_TOGETHER;
        for (size_t d = 0; d < row; d++) keys[d * KEYS_TOGETHER] = k[d];
        memcpy(cached(cache, block, 1, shape->kv_heads, h) + i * row, v, row * sizeof *v);
    }
}

/* Token t's q, k and v from the sums of their products. */
static void spread_token(const walker *w, size_t i, const block *b, size_t t)
{
    scratch *s = w->s;
    const bitrl_shape *shape = w->shape;
    const passage *p = &w->f->passages[s->passage_of[t]];
    size_t position = p->past + t - p->first, stride = kv_stride(shape), q_stride = shape->heads * round_up(shape->head_dim, PAD);
    const double *rope = b->local && w->f->local_rope ? w->f->local_rope : w->f->rope;
    const double *angles = b->unturned ? NULL : rope + position * shape->rope_dims;
    size_t q_sums = round_up(q_width(shape), PAD), kv_sums = round_up(shape->kv_heads * shape->head_dim, PAD);
    const int32_t *sums = w->sums + (t - w->first) * (q_sums + 2 * kv_sums);
    double *q = w->own->values, *k = q + q_sums, *v = k + kv_sums;
    scale_sums(w, &b->q, 0, t, sums, q);
    scale_sums(w, &b->k, 1, t, sums + q_sums, k);
    scale_sums(w, &b->v, 2, t, sums + q_sums + kv_sums, v);
    if (b->q_bias) {
        w->kernels->added(q, b->q_bias, q_sums);
        w->kernels->added(k, b->k_bias, kv_sums);
        w->kernels->added(v, b->v_bias, kv_sums);
    }
    spread_heads(w, s->q + t * q_stride, q, shape->heads, b->q_norm, angles);
    spread_heads(w, s->k + t * stride, k, shape->kv_heads, b->k_norm, angles);
    spread_heads(w, s->v + t * stride, v, shape->kv_heads, NULL, NULL);
    if (p->keep) keep_token(shape, p->keep, i, position - p->start_length, s->k + t * stride, s->v + t * stride);
}

/* One key/value head's queries, `count` of them from `first` on. */
static void attend(const walker *w, size_t i, const block *b, const passage *p, size_t kv_head, size_t first, size_t count)
{
    scratch *s = w->s;
    const bitrl_shape *shape = w->shape;
    size_t padded = round_up(shape->head_dim, PAD), group = shape->heads / shape->kv_heads, stride = kv_stride(shape);
    attention_task task = {.q_stride = shape->heads * padded, .kv_stride = stride, .head_stride = padded, .heads = group,
                           .out_stride = round_up(q_width(shape), PAD), .head_dim = shape->head_dim, .past = p->past,
                           .start = p->start_length,
                           .first = first, .count = count,
                           .window = b->local ? w->model->window : 0, .scale = w->model->attention_scale,
                           .cap = w->model->score_cap};
    task.q = s->q + p->first * task.q_stride + kv_head * group * padded;
    task.k = s->k + p->first * stride + kv_head * padded;
    task.v = s->v + p->first * stride + kv_head * padded;
    task.out = s->attended + p->first * task.out_stride + kv_head * group * shape->head_dim;
    if (p->start) {
        task.start_k = cached(p->start, i, 0, shape->kv_heads, kv_head);
        task.start_v = cached(p->start, i, 1, shape->kv_heads, kv_head);
    }
    if (p->past > p->start_length) {
        task.past_k = cached(p->before, i, 0, shape->kv_heads, kv_head);
        task.past_v = cached(p->before, i, 1, shape->kv_heads, kv_head);
    }
    w->kernels->attend(&task, w->own->attention);
}

/* The next item of attention. */
static bool take_attention(const walker *w, size_t turn, size_t *item)
{
    const size_t *items = w->s->attention_items;
    if (!w->apart) return pool_take(w->f->threads, items[w->f->count], item);
    *item = items[min(w->thread, w->f->count)] + turn;
    return w->thread < w->f->count && *item < items[w->thread + 1];
}

static void attention(walker *w, size_t i, const block *b)
{
    scratch *s = w->s;
    bool last = i == w->shape->blocks - 1;
    const matrix *const matrices[] = {&b->q, &b->k, &b->v}, *const output[] = {&b->o};
    size_t out_width = round_up(q_width(w->shape), PAD);
    project(w, b->attn_norm, matrices, 3, out_width + 2 * round_up(w->shape->kv_heads * w->shape->head_dim, PAD));
    FOR_MY_TOKENS(w, t) spread_token(w, i, b, t);
    meet_all(w);

    size_t text = 0, item;
    for (size_t turn = 0; take_attention(w, turn, &item); turn++) {
        while (item >= s->attention_items[text + 1]) text++;
        size_t within = item - s->attention_items[text];
        const passage *p = &w->f->passages[text];
        size_t head = within % w->shape->kv_heads, first = within / w->shape->kv_heads * QUERIES, end = min(first + QUERIES, p->length);
        if (last && s->wanted_count)
            for (size_t j = 0; j < p->wanted_count; j++) {
                size_t place = p->wanted[j] - p->past; /* of a token before these, larger than any */
                if (first <= place && place < end) attend(w, i, b, p, head, place, 1);
            }
        else
            attend(w, i, b, p, head, first, end - first);
    }
    meet(w);

    if (last && s->wanted_count) { /* only they go on: what is left to do has no use for the others */
        w->tokens = s->wanted_count;
        w->wanted = s->wanted;
        for (size_t j = 0; w->apart && j <= w->thread; j++) {
            w->wanted += j ? w->tokens : 0;
            w->tokens = j < w->f->count ? w->f->passages[j].wanted_count : 0;
        }
    }
    FOR_MY_TOKENS(w, t) prepare(w, 0, t, s->attended + row_of(w, t) * out_width, NULL, &b->o);
    meet(w);
    multiply(w, output, 1, w->sums, round_up(w->shape->width, PAD));
}

/* ---- the feed-forward network ---- */

/* Token t's hidden vector from the sums of gate and up, prepared for down. */
static void gate_token(const walker *w, const block *b, size_t t)
{
    size_t ffn = round_up(w->shape->ffn, PAD);
    const int32_t *sums = w->sums + (t - w->first) * 2 * ffn;
    double *gate = w->own->values, *up = gate + PART, *hidden = w->own->hidden;
    for (size_t c = 0, n; c < ffn; c += n) { /* a part at a time, which stays in the first-level cache */
        n = min(PART, ffn - c);
        scale_part(w, &b->gate, 0, t, sums, c, n, gate);
        scale_part(w, &b->up, 1, t, sums + ffn, c, n, up);
        switch (w->model->architecture.activation) {
        case RELU2: w->kernels->gated(hidden + c, gate, up, n); break;
        case SILU: w->kernels->gated_silu(hidden + c, gate, up, n); break;
        case GELU: w->kernels->gated_gelu(hidden + c, gate, up, n); break;
        }
    }
    prepare(w, 0, t, w->own->hidden, NULL, &b->down);
}

static void feed_forward(const walker *w, const block *b)
{
    const matrix *const matrices[] = {&b->gate, &b->up}, *const down[] = {&b->down};
    project(w, b->ffn_norm, matrices, 2, 2 * round_up(w->shape->ffn, PAD));
    FOR_MY_TOKENS(w, t) gate_token(w, b, t);
    meet(w);
    multiply(w, down, 1, w->sums, round_up(w->shape->width, PAD));
}

/* ---- the whole ---- */

static void embed(const walker *w, size_t t)
{
    const passage *p = &w->f->passages[w->s->passage_of[t]];
    double *x = w->s->x + t * round_up(w->shape->width, PAD);
    /* A row that is not finite makes features that are not, which the caller finds. */
    bitrl_embed(w->model, w->f->rows, p->tokens[t - p->first], w->own->embedded);
    for (size_t c = 0; c < w->shape->width; c++) x[c] = w->own->embedded[c] * w->model->embedding_scale;
}

static walker start(const forward *f, size_t thread, size_t threads)
{
    const bool own = f->apart && thread < f->count;
    const size_t first = own ? f->passages[thread].first : 0;
    scratch *s = f->s;
    return (walker){.f = f, .model = f->model, .shape = &f->model->shape, .kernels = f->model->kernels, .s = s, .own = &s->own[thread],
                    .thread = thread, .threads = threads, .apart = f->apart, .first = first,
                    .tokens = own ? f->passages[thread].length : f->apart ? 0 : f->tokens,
                    .sums = s->sums + first * s->sums_row, .activations = s->activations + first * s->activation_bytes,
                    .inputs = s->rank ? s->inputs + first * s->input_bytes : NULL,
                    .hidden = s->rank ? s->hidden + first * SHARING * hidden_bytes(s->rank) : NULL,
                    .adapted = s->rank ? s->adapted + first * s->sums_row : NULL};
}

/* Keeps token t's state after block i, if it is asked for. */
static void keep_state(const walker *w, size_t i, size_t t)
{
    size_t width = w->shape->width;
    if (!w->s->states) return;
    float *to = w->s->states + (i * w->s->states_rows + t) * width;
    const double *x = w->s->x + t * round_up(width, PAD);
    for (size_t c = 0; c < width; c++) to[c] = (float)x[c];
}

static void walk(void *context, size_t thread, size_t threads)
{
    walker w = start(context, thread, threads);
    for (size_t i = 0; i < w.shape->blocks; i++) {
        const block *b = &w.model->blocks[i];
        FOR_MY_TOKENS(&w, t)
        {
            if (i == 0)
                embed(&w, t);
            else {
                add_residual(&w, t, &b[-1].down, b[-1].post_ffn_norm);
                keep_state(&w, i - 1, t);
            }
            prepare(&w, 0, t, residual(&w, t), b->attn_norm, &b->q);
        }
        meet(&w);
        attention(&w, i, b);
        FOR_MY_TOKENS(&w, t)
        {
            add_residual(&w, t, &b->o, b->post_attn_norm);
            prepare(&w, 0, t, residual(&w, t), b->ffn_norm, &b->gate);
        }
        meet(&w);
        feed_forward(&w, b);
    }
    const block *last = &w.model->blocks[w.shape->blocks - 1];
    FOR_MY_TOKENS(&w, t)
    {
        add_residual(&w, t, &last->down, last->post_ffn_norm);
        keep_state(&w, w.shape->blocks - 1, t);
    }
}

walk_mode bitrl_walk_mode(const bitrl_model *model, pool *threads, size_t tokens)
{
    enum { FEW = 7, SOME = 24 };
    if (tokens > SOME || bitrl_model_bytes_per_token(model) > SMALL) return WALK_TOGETHER;
    return tokens <= FEW || !pool_ready(threads) ? WALK_ALONE : WALK_TOGETHER; /* asked last: it wakes who sleeps */
}

void bitrl_forward(const bitrl_model *model, pool *threads, scratch *s, const kept_rows *rows, const double *rope,
                   const double *local_rope, const passage *passages, size_t count, walk_mode mode)
{
    forward f = {.model = model, .threads = threads, .s = s, .rows = rows, .rope = rope, .local_rope = local_rope,
                 .passages = passages, .count = count, .apart = mode == WALK_APART};
    s->attention_items[0] = s->wanted_count = 0;
    for (size_t i = 0; i < count; i++) {
        for (size_t j = 0; j < passages[i].wanted_count; j++)
            if (passages[i].wanted[j] >= passages[i].past)
                s->wanted[s->wanted_count++] = passages[i].first + passages[i].wanted[j] - passages[i].past;
        for (size_t j = 0; j < passages[i].length; j++) s->passage_of[passages[i].first + j] = i;
        f.tokens += passages[i].length;
        s->attention_items[i + 1] = s->attention_items[i] + (passages[i].length + QUERIES - 1) / QUERIES * model->shape.kv_heads;
    }
    if (!f.tokens) return;
    if (mode == WALK_ALONE)
        pool_run_alone(threads, walk, &f);
    else
        pool_run(threads, walk, &f);
}

static void walk_head(void *context, size_t thread, size_t threads)
{
    const walker w = start(context, thread, threads);
    const forward *f = w.f;
    const matrix *m = &w.model->output;
    size_t width = round_up(w.shape->width, PAD), vocabulary = w.shape->vocabulary, stride = round_up(vocabulary, PAD);
    float *logits = f->logits + thread * stride;
    FOR_MY_TOKENS(&w, t) prepare(&w, 0, t, w.s->x + f->head_rows[t] * width, w.model->output_norm, m);
    meet(&w);
    const product head = {m, w.activations, activation_stride(m->format, round_up(m->columns, K_PAD)), f->head_sums, stride};
    products(&w, &head, 1);
    FOR_MY_TOKENS(&w, t)
    {
        for (size_t r = 0, n; r < vocabulary; r += n) {
            n = min(vocabulary - r, PART);
            scale_part(&w, m, 0, t, f->head_sums + t * stride, r, n, w.own->values);
            if (w.model->logit_cap > 0) w.kernels->capped(w.own->values, n, 1, w.model->logit_cap);
            for (size_t i = 0; i < n; i++) logits[r + i] = (float)w.own->values[i];
        }
        f->take(f->context, t, thread, logits);
    }
}

void bitrl_logits(const bitrl_model *model, pool *threads, scratch *s, const size_t *rows, size_t count, int32_t *sums,
                  float *logits, take_logits *take, void *context)
{
    forward f = {.model = model, .threads = threads, .s = s, .tokens = count, .head_rows = rows, .head_sums = sums,
                 .logits = logits, .take = take, .context = context};
    if (count) pool_run(threads, walk_head, &f);
}
