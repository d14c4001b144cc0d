/* One forward pass of a decoder (BitNet b1.58, Llama), top to bottom, over whole texts lying one after another.
 *
 * Between the products everything is double precision: an activation that rounded to a neighbouring
 * 8-bit code because of a float32 error would change a token by about 1e-3. */
#include <string.h>

#include "internal.h"

typedef struct {
    const bitrl_kernels *kernels;
    matrix_format format;
    bool silu;
    scratch *s;
    size_t tokens;
} run;

/* Token t's activations for the next product, and their scale and sum, from its vector x: [padded n]. */
static void prepare_token(const run *r, size_t t, const double *x, const double *weight, size_t n, double eps)
{
    scratch *s = r->s;
    size_t padded = round_up(n, PAD);
    uint8_t *to = activation(s->activations, steps_of(r->format, padded), t);
    if (r->format == BF16 || r->format == FP32)
        r->kernels->norm_round(to, r->format, s->row, x, weight, n, padded, eps);
    else
        s->scale[t] = r->kernels->norm_quantise(to, s->code_sum + t, s->row, x, weight, n, padded, eps);
}

/* The same for every token of x: [tokens, padded n]. */
static void prepare(const run *r, const double *x, const double *weight, size_t n, double eps)
{
    for (size_t t = 0; t < r->tokens; t++) prepare_token(r, t, x + t * round_up(n, PAD), weight, n, eps);
}

/* sums[t, column...] = activations[t] . matrix, without scales; sums: [tokens, stride]. */
static void product(const run *r, const matrix *m, size_t column, size_t stride)
{
    r->kernels->product[m->format](r->s->sums + column, stride, m->data, round_up(m->rows, TILE_ROWS) / TILE_ROWS,
                                   round_up(m->columns, PAD), r->s->activations, r->s->code_sum, r->tokens,
                                   r->s->unpacked);
}

/* values: [P(rows)] what a product left in token t's sums, with its scales. */
static void scale_sums(const run *r, const matrix *m, size_t t, const int32_t *sums, double *values)
{
    size_t n = round_up(m->rows, PAD);
    if (m->format == TERNARY)
        r->kernels->scaled(values, sums, m->scale / r->s->scale[t], n);
    else if (m->row_scale)
        r->kernels->scaled_rows(values, sums, m->row_scale, 1 / r->s->scale[t], n);
    else
        for (size_t i = 0; i < n; i++) {
            float value;
            memcpy(&value, sums + i, sizeof value);
            values[i] = value;
        }
}

/* x[t] += matrix . activations[t], for every token of x: [tokens, P(rows)]. */
static void add_product(const run *r, const matrix *m, double *x)
{
    size_t width = round_up(m->rows, PAD);
    product(r, m, 0, width);
    for (size_t t = 0; t < r->tokens; t++) {
        scale_sums(r, m, t, r->s->sums + t * width, r->s->values);
        r->kernels->added(x + t * width, r->s->values, width);
    }
}

/* One token's heads, each padded with zeros, and turned by its position when rope is given.
 * from: [heads * head_dim]; to: [heads, P(head_dim)]; rope: [head_dim] cosines, then sines. */
static void spread_heads(const run *r, double *to, const double *from, size_t heads, size_t head_dim, const double *rope)
{
    for (size_t h = 0; h < heads; h++, to += round_up(head_dim, PAD), from += head_dim)
        if (rope)
            r->kernels->rotated(to, from, rope, head_dim / 2);
        else
            memcpy(to, from, head_dim * sizeof *to);
}

static void attention(const run *r, const bitrl_shape *shape, const block *b, const double *rope,
                      const uint64_t *lengths, size_t texts)
{
    scratch *s = r->s;
    size_t head_dim = shape->head_dim, padded = round_up(head_dim, PAD), width = round_up(shape->width, PAD);
    size_t q_stride = shape->heads * padded, kv_stride = shape->kv_heads * padded;
    size_t kv_sums = round_up(shape->kv_heads * head_dim, PAD), stride = width + 2 * kv_sums;

    prepare(r, s->x, b->attn_norm, shape->width, shape->eps);
    product(r, &b->q, 0, stride);
    product(r, &b->k, width, stride);
    product(r, &b->v, width + kv_sums, stride);

    for (size_t text = 0, t = 0; text < texts; text++) {
        size_t length = lengths[text];
        for (size_t i = 0; i < length; i++) {
            const int32_t *sums = s->sums + (t + i) * stride;
            const double *angle = rope + i * head_dim;
            double *q = s->values, *k = q + width, *v = k + kv_sums;
            scale_sums(r, &b->q, t + i, sums, q);
            scale_sums(r, &b->k, t + i, sums + width, k);
            scale_sums(r, &b->v, t + i, sums + width + kv_sums, v);
            spread_heads(r, s->q + (t + i) * q_stride, q, shape->heads, head_dim, angle);
            spread_heads(r, s->k + (t + i) * kv_stride, k, shape->kv_heads, head_dim, angle);
            spread_heads(r, s->v + (t + i) * kv_stride, v, shape->kv_heads, head_dim, NULL);
        }
        for (size_t h = 0; h < shape->heads && length; h++) {
            size_t kv = t * kv_stride + h / (shape->heads / shape->kv_heads) * padded;
            r->kernels->attend(s->attended + t * width + h * head_dim, width, s->q + t * q_stride + h * padded, q_stride,
                               s->k + kv, s->v + kv, kv_stride, length, head_dim, s->attention);
        }
        t += length;
    }

    prepare(r, s->attended, b->attn_sub_norm, shape->width, shape->eps);
    add_product(r, &b->o, s->x);
}

static void feed_forward(const run *r, const bitrl_shape *shape, const block *b)
{
    scratch *s = r->s;
    size_t ffn = round_up(shape->ffn, PAD);

    prepare(r, s->x, b->ffn_norm, shape->width, shape->eps);
    product(r, &b->gate, 0, 2 * ffn);
    product(r, &b->up, ffn, 2 * ffn);

    for (size_t t = 0; t < r->tokens; t++) {
        scale_sums(r, &b->gate, t, s->sums + t * 2 * ffn, s->values);
        scale_sums(r, &b->up, t, s->sums + t * 2 * ffn + ffn, s->values + ffn);
        (r->silu ? r->kernels->gated_silu : r->kernels->gated)(s->hidden, s->values, s->values + ffn, ffn);
        prepare_token(r, t, s->hidden, b->ffn_sub_norm, shape->ffn, shape->eps);
    }
    add_product(r, &b->down, s->x);
}

void bitrl_forward(const bitrl_model *model, scratch *s, const double *rope, const int32_t *tokens,
                   const uint64_t *lengths, size_t texts)
{
    const bitrl_shape *shape = &model->shape;
    run r = {model->kernels, model->format, model->architecture.activation == SILU, s, 0};
    for (size_t i = 0; i < texts; i++) r.tokens += lengths[i];
    for (size_t t = 0; t < r.tokens; t++) {
        double *x = s->x + t * round_up(shape->width, PAD);
        bitrl_read_row(s->embedded, model->embedding, model->i2s_arm, (uint64_t)tokens[t]); /* not finite: see encode */
        for (size_t c = 0; c < shape->width; c++) x[c] = s->embedded[c];
    }
    for (size_t i = 0; i < shape->blocks; i++) {
        attention(&r, shape, &model->blocks[i], rope, lengths, texts);
        feed_forward(&r, shape, &model->blocks[i]);
    }
}
