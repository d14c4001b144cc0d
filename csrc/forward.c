/* One forward pass of a decoder (BitNet b1.58, Llama, Qwen3, Gemma 3), top to bottom, over whole texts lying one after another.
 *
 * Between the products everything is double precision: an activation that rounded to a neighbouring
 * 8-bit code because of a float32 error would change a token by about 1e-3. */
#include <string.h>

#include "internal.h"

typedef struct {
    const bitrl_kernels *kernels;
    matrix_format format;
    double eps;
    scratch *s;
    size_t tokens;
} run;

/* Token t's activations for m, and their scale (the i-th) and sum, from its vector x: [P(columns)], normalised with
 * `weight` and then by the matrix's own norm, where there are such. */
static void prepare_token(const run *r, const matrix *m, size_t i, size_t t, const double *x, const double *weight)
{
    scratch *s = r->s;
    size_t n = m->columns, padded = round_up(n, PAD);
    uint8_t *to = activation(s->activations, steps_of(r->format, padded), t);
    if (weight && m->norm) {
        r->kernels->normalise(s->hidden, x, weight, n, padded, r->eps);
        x = s->hidden;
    }
    if (m->norm) weight = m->norm;
    if (r->format == BF16 || r->format == FP32)
        r->kernels->norm_round(to, r->format, s->row, x, weight, n, padded, r->eps);
    else
        s->scale[i][t] = r->kernels->norm_quantise(to, s->code_sum + t, s->row, x, weight, n, padded, r->eps);
}

/* The same for every token of x: [tokens, P(columns)]. */
static void prepare(const run *r, const matrix *m, size_t i, const double *x, const double *weight)
{
    for (size_t t = 0; t < r->tokens; t++) prepare_token(r, m, i, t, x + t * round_up(m->columns, PAD), weight);
}

/* sums[t, column...] = activations[t] . matrix, without scales; sums: [tokens, stride]. */
static void product(const run *r, const matrix *m, size_t column, size_t stride)
{
    r->kernels->product[m->format](r->s->sums + column, stride, m->data, round_up(m->rows, TILE_ROWS) / TILE_ROWS,
                                   round_up(m->columns, PAD), r->s->activations, r->s->code_sum, r->tokens,
                                   r->s->unpacked);
}

/* Products of the same vectors, their sums side by side: [tokens, stride]. Activations are prepared once, or anew for each
 * matrix that has a norm of its own. */
static void products(const run *r, const matrix *const *matrices, size_t count, size_t stride, const double *x,
                     const double *weight)
{
    for (size_t i = 0, column = 0; i < count; column += round_up(matrices[i++]->rows, PAD)) {
        if (i == 0 || matrices[i]->norm) prepare(r, matrices[i], i, x, weight);
        product(r, matrices[i], column, stride);
    }
}

/* values: [P(rows)] what the i-th of some products left in token t's sums, with its scales. */
static void scale_sums(const run *r, const matrix *m, size_t i, size_t t, const int32_t *sums, double *values)
{
    size_t n = round_up(m->rows, PAD);
    const double *scale = r->s->scale[m->norm ? i : 0]; /* of the activations that it was prepared with */
    if (m->format == TERNARY)
        r->kernels->scaled(values, sums, m->scale / scale[t], n);
    else if (m->row_scale)
        r->kernels->scaled_rows(values, sums, m->row_scale, m->scale / scale[t], n);
    else
        for (size_t c = 0; c < n; c++) {
            float value;
            memcpy(&value, sums + c, sizeof value);
            values[c] = value * m->scale;
        }
}

/* x[t] += matrix . activations[t], normalised with `weight` if given, for every token of x: [tokens, P(rows)]. */
static void add_product(const run *r, const matrix *m, double *x, const double *weight)
{
    size_t width = round_up(m->rows, PAD);
    product(r, m, 0, width);
    for (size_t t = 0; t < r->tokens; t++) {
        double *values = r->s->values;
        scale_sums(r, m, 0, t, r->s->sums + t * width, values);
        if (weight) {
            r->kernels->normalise(r->s->row, values, weight, m->rows, width, r->eps);
            values = r->s->row;
        }
        r->kernels->added(x + t * width, values, width);
    }
}

/* One token's heads, each padded with zeros, normalised when a weight is given and turned by its position when rope is.
 * from: [heads * head_dim]; to: [heads, P(head_dim)], zero behind head_dim; weight: [P(head_dim)];
 * rope: [head_dim] cosines, then sines. */
static void spread_heads(const run *r, double *to, const double *from, size_t heads, size_t head_dim,
                         const double *weight, const double *rope)
{
    for (size_t h = 0, padded = round_up(head_dim, PAD); h < heads; h++, to += padded, from += head_dim) {
        const double *head = from;
        if (weight) {
            memcpy(to, from, head_dim * sizeof *to);
            r->kernels->normalise(r->s->row, to, weight, head_dim, padded, r->eps);
            head = r->s->row;
        }
        if (rope)
            r->kernels->rotated(to, head, rope, head_dim / 2);
        else
            memcpy(to, head, head_dim * sizeof *to);
    }
}

static void attention(const run *r, const bitrl_model *model, const block *b, const double *rope,
                      const uint64_t *lengths, size_t texts)
{
    scratch *s = r->s;
    const bitrl_shape *shape = &model->shape;
    const matrix *const matrices[] = {&b->q, &b->k, &b->v};
    size_t head_dim = shape->head_dim, padded = round_up(head_dim, PAD), width = round_up(shape->heads * head_dim, PAD);
    size_t q_stride = shape->heads * padded, kv_stride = shape->kv_heads * padded;
    size_t kv_sums = round_up(shape->kv_heads * head_dim, PAD), stride = width + 2 * kv_sums;

    products(r, matrices, 3, stride, s->x, b->attn_norm);
    for (size_t text = 0, t = 0; text < texts; text++) {
        size_t length = lengths[text];
        for (size_t i = 0; i < length; i++) {
            const int32_t *sums = s->sums + (t + i) * stride;
            const double *angle = rope + i * head_dim;
            double *q = s->values, *k = q + width, *v = k + kv_sums;
            scale_sums(r, &b->q, 0, t + i, sums, q);
            scale_sums(r, &b->k, 1, t + i, sums + width, k);
            scale_sums(r, &b->v, 2, t + i, sums + width + kv_sums, v);
            spread_heads(r, s->q + (t + i) * q_stride, q, shape->heads, head_dim, b->q_norm, angle);
            spread_heads(r, s->k + (t + i) * kv_stride, k, shape->kv_heads, head_dim, b->k_norm, angle);
            spread_heads(r, s->v + (t + i) * kv_stride, v, shape->kv_heads, head_dim, NULL, NULL);
        }
        for (size_t h = 0; h < shape->heads && length; h++) {
            size_t kv = t * kv_stride + h / (shape->heads / shape->kv_heads) * padded;
            r->kernels->attend(s->attended + t * width + h * head_dim, width, s->q + t * q_stride + h * padded, q_stride,
                               s->k + kv, s->v + kv, kv_stride, length, head_dim, model->attention_scale,
                               b->local ? model->window : 0, s->attention);
        }
        t += length;
    }

    prepare(r, &b->o, 0, s->attended, NULL);
    add_product(r, &b->o, s->x, b->post_attn_norm);
}

static void feed_forward(const run *r, const bitrl_model *model, const block *b)
{
    scratch *s = r->s;
    const matrix *const matrices[] = {&b->gate, &b->up};
    const activation_function function = model->architecture.activation;
    size_t ffn = round_up(model->shape.ffn, PAD);

    products(r, matrices, 2, 2 * ffn, s->x, b->ffn_norm);
    for (size_t t = 0; t < r->tokens; t++) {
        double *gate = s->values, *up = s->values + ffn;
        scale_sums(r, &b->gate, 0, t, s->sums + t * 2 * ffn, gate);
        scale_sums(r, &b->up, 1, t, s->sums + t * 2 * ffn + ffn, up);
        if (function == RELU2) r->kernels->gated(s->hidden, gate, up, ffn);
        if (function == SILU) r->kernels->gated_silu(s->hidden, gate, up, ffn);
        if (function == GELU) r->kernels->gated_gelu(s->hidden, gate, up, ffn);
        prepare_token(r, &b->down, 0, t, s->hidden, NULL);
    }
    add_product(r, &b->down, s->x, b->post_ffn_norm);
}

void bitrl_forward(const bitrl_model *model, scratch *s, const double *rope, const double *local_rope,
                   const int32_t *tokens, const uint64_t *lengths, size_t texts)
{
    const bitrl_shape *shape = &model->shape;
    run r = {model->kernels, model->format, shape->eps, s, 0};
    for (size_t i = 0; i < texts; i++) r.tokens += lengths[i];
    for (size_t t = 0; t < r.tokens; t++) {
        double *x = s->x + t * round_up(shape->width, PAD);
        bitrl_read_row(s->embedded, model->embedding, model->i2s_arm, (uint64_t)tokens[t]); /* not finite: see encode */
        for (size_t c = 0; c < shape->width; c++) x[c] = s->embedded[c] * model->embedding_scale;
    }
    for (size_t i = 0; i < shape->blocks; i++) {
        const block *b = &model->blocks[i];
        attention(&r, model, b, b->local ? local_rope : rope, lengths, texts);
        feed_forward(&r, model, b);
    }
}
