/* One forward pass of a BitNet b1.58 decoder, top to bottom, over whole texts lying one after another.
 *
 * Between the exact integer products everything is double precision: an activation that rounded to a neighbouring
 * 8-bit code because of a float32 error would change a token by about 1e-3. */
#include "internal.h"

typedef struct {
    const bitrl_kernels *kernels;
    scratch *s;
    size_t tokens;
} run;

/* codes, scale and code_sum of token t from its vector x: [padded n]. */
static void quantise_token(const run *r, size_t t, const double *x, const double *weight, size_t n, double eps)
{
    size_t padded = round_up(n, PAD);
    int8_t *codes = r->s->codes + (activation(r->s->codes, padded / GROUP_COLUMNS, t) - r->s->codes);
    r->s->scale[t] =
        r->kernels->norm_quantise(codes, r->s->code_sum + t, r->s->row, x, weight, n, padded, eps);
}

/* The same for every token of x: [tokens, padded n]. */
static void quantise(const run *r, const double *x, const double *weight, size_t n, double eps)
{
    for (size_t t = 0; t < r->tokens; t++) quantise_token(r, t, x + t * round_up(n, PAD), weight, n, eps);
}

/* sums[t, column...] = codes[t] . matrix; sums: [tokens, stride]. */
static void product(const run *r, const ternary *m, size_t column, size_t stride)
{
    r->kernels->ternary_product(r->s->sums + column, stride, m->codes, round_up(m->rows, TILE_ROWS) / TILE_ROWS,
                                round_up(m->columns, PAD) / GROUP_COLUMNS, r->s->codes, r->s->code_sum, r->tokens,
                                r->s->unpacked);
}

/* One token's heads, each padded with zeros: scaled, and turned by its position when rope is given.
 * from: [heads * head_dim]; to: [heads, P(head_dim)]; rope: [head_dim] cosines, then sines. */
static void spread_heads(const run *r, double *to, const int32_t *from, size_t heads, size_t head_dim, double scale,
                         const double *rope)
{
    for (size_t h = 0; h < heads; h++, to += round_up(head_dim, PAD), from += head_dim)
        if (rope)
            r->kernels->rotated(to, from, scale, rope, head_dim / 2);
        else
            r->kernels->scaled(to, from, scale, head_dim);
}

static void attention(const run *r, const bitrl_shape *shape, const block *b, const double *rope,
                      const uint64_t *lengths, size_t texts)
{
    scratch *s = r->s;
    size_t head_dim = shape->head_dim, padded = round_up(head_dim, PAD), width = round_up(shape->width, PAD);
    size_t q_stride = shape->heads * padded, kv_stride = shape->kv_heads * padded;
    size_t kv_sums = round_up(shape->kv_heads * head_dim, PAD), stride = width + 2 * kv_sums;

    quantise(r, s->x, b->attn_norm, shape->width, shape->eps);
    product(r, &b->q, 0, stride);
    product(r, &b->k, width, stride);
    product(r, &b->v, width + kv_sums, stride);

    for (size_t text = 0, t = 0; text < texts; text++) {
        size_t length = lengths[text];
        for (size_t i = 0; i < length; i++) {
            const int32_t *sums = s->sums + (t + i) * stride;
            const double *angle = rope + i * head_dim;
            double scale = s->scale[t + i];
            spread_heads(r, s->q + (t + i) * q_stride, sums, shape->heads, head_dim, b->q.scale / scale, angle);
            spread_heads(r, s->k + (t + i) * kv_stride, sums + width, shape->kv_heads, head_dim, b->k.scale / scale,
                         angle);
            spread_heads(r, s->v + (t + i) * kv_stride, sums + width + kv_sums, shape->kv_heads, head_dim,
                         b->v.scale / scale, NULL);
        }
        for (size_t h = 0; h < shape->heads && length; h++) {
            size_t kv = t * kv_stride + h / (shape->heads / shape->kv_heads) * padded;
            r->kernels->attend(s->attended + t * width + h * head_dim, width, s->q + t * q_stride + h * padded, q_stride,
                               s->k + kv, s->v + kv, kv_stride, length, head_dim, s->attention);
        }
        t += length;
    }

    quantise(r, s->attended, b->attn_sub_norm, shape->width, shape->eps);
    product(r, &b->o, 0, width);
    for (size_t t = 0; t < r->tokens; t++)
        r->kernels->add_scaled(s->x + t * width, s->sums + t * width, b->o.scale / s->scale[t], width);
}

static void feed_forward(const run *r, const bitrl_shape *shape, const block *b)
{
    scratch *s = r->s;
    size_t width = round_up(shape->width, PAD), ffn = round_up(shape->ffn, PAD);

    quantise(r, s->x, b->ffn_norm, shape->width, shape->eps);
    product(r, &b->gate, 0, 2 * ffn);
    product(r, &b->up, ffn, 2 * ffn);

    for (size_t t = 0; t < r->tokens; t++) {
        const int32_t *gate = s->sums + t * 2 * ffn;
        double scale = s->scale[t];
        r->kernels->gated(s->hidden, gate, gate + ffn, b->gate.scale / scale, b->up.scale / scale, ffn);
        quantise_token(r, t, s->hidden, b->ffn_sub_norm, shape->ffn, shape->eps);
    }
    product(r, &b->down, 0, width);
    for (size_t t = 0; t < r->tokens; t++)
        r->kernels->add_scaled(s->x + t * width, s->sums + t * width, b->down.scale / s->scale[t], width);
}

void bitrl_forward(const bitrl_model *model, scratch *s, const double *rope, const int32_t *tokens,
                   const uint64_t *lengths, size_t texts)
{
    const bitrl_shape *shape = &model->shape;
    run r = {model->kernels, s, 0};
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
