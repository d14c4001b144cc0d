/* Loading: tensors are checked against the shape that the file's keys say, matrices are packed for the kernels.
 *
 * Knows the tensors' names; what the keys mean is architecture.c's. The embedding and the head stay in the mapped file. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

enum { MAX_SUMMED = 1 << 16, NAME = 64 };

typedef struct {
    const bitrl_file *file;
    const bitrl_model *model;
    double norm_offset; /* of norms that the file holds without the 1 they are meant to have */
    float *row;         /* [the most columns] */
    char *error;
} loader;

static const char *name_of(char full[NAME], size_t i, const char *name, const char *suffix)
{
    snprintf(full, NAME, "blk.%zu.%s%s", i, name, suffix);
    return full;
}

/* Finds a tensor with that shape; rows = 0 means a vector. */
static int find_weight(const loader *l, const char *name, uint64_t columns, uint64_t rows, const bitrl_tensor **out)
{
    const bitrl_tensor *tensor = *out = bitrl_file_find_tensor(l->file, name);
    if (!tensor) return bitrl_fail(l->error, BITRL_BAD_FILE, "lacks the tensor %s", name);
    if (tensor->dims != (rows ? 2 : 1) || tensor->shape[0] != columns || (rows && tensor->shape[1] != rows))
        return bitrl_fail(l->error, BITRL_BAD_FILE, "has %s in shape %llu x %llu; its keys say %llu x %llu", name,
                          (unsigned long long)tensor->shape[1], (unsigned long long)tensor->shape[0],
                          (unsigned long long)(rows ? rows : 1), (unsigned long long)columns);
    if (!bitrl_packing_fits(tensor, l->model->i2s_arm))
        return bitrl_fail(l->error, BITRL_BAD_FILE, BAD_PACKING, (int)strlen(name), name);
    return BITRL_OK;
}

static int load_norm(const loader *l, const char *name, size_t n, double offset, double **out)
{
    const bitrl_tensor *tensor;
    int status = find_weight(l, name, n, 0, &tensor);
    if (status) return status;
    *out = bitrl_allocate(round_up(n, PAD), sizeof **out);
    if (!*out) return bitrl_fail(l->error, BITRL_NO_MEMORY, "does not fit in memory");
    if (!bitrl_read_row(l->row, tensor, l->model->i2s_arm, 0))
        return bitrl_fail(l->error, BITRL_BAD_FILE, "is damaged: %s is not finite", name);
    for (size_t c = 0; c < n; c++) (*out)[c] = l->row[c] + offset;
    return BITRL_OK;
}

/* A factor of the whole matrix in a tensor of its own, which llama.cpp's bitnet files may have. */
static int load_scale(const loader *l, const char *name, matrix *m)
{
    const bitrl_tensor *tensor;
    if (!bitrl_file_find_tensor(l->file, name)) return BITRL_OK;
    int status = find_weight(l, name, 1, 0, &tensor);
    if (status) return status;
    if (!bitrl_read_row(l->row, tensor, l->model->i2s_arm, 0))
        return bitrl_fail(l->error, BITRL_BAD_FILE, "is damaged: %s is not finite", name);
    m->scale *= l->row[0];
    return BITRL_OK;
}

/* turned: rows of a head of q or k whose rotation is interleaved in this file, see bitrl_pack. norm: the name of the norm
 * on what enters the matrix, or NULL. */
static int load_matrix(const loader *l, size_t i, const char *name, const char *norm, size_t columns, size_t rows,
                       size_t turned, matrix *out)
{
    char full[NAME], other[NAME];
    const bitrl_tensor *tensor;
    matrix_format format = l->model->format;
    int status = find_weight(l, name_of(full, i, name, ".weight"), columns, rows, &tensor);
    if (status) return status;
    if (columns > MAX_SUMMED && (format == INT8 || format == INT4))
        return bitrl_fail(l->error, BITRL_BAD_ARGUMENT, "has rows of %zu weights, too long to run in 8 or 4 bits",
                          columns);
    switch (bitrl_pack(out, format, tensor, l->model->i2s_arm, turned)) {
    case PACKED: bitrl_file_release(tensor); break;
    case PACK_NO_MEMORY: return bitrl_fail(l->error, BITRL_NO_MEMORY, "does not fit in memory");
    case PACK_NOT_FINITE: return bitrl_fail(l->error, BITRL_BAD_FILE, "is damaged: %s is not finite", full);
    default:
        return bitrl_fail(l->error, BITRL_BAD_FILE,
                          "is damaged or not a ternary model: %s holds codes or scales other than "
                          "-1, 0, 1 times one finite scale",
                          full);
    }
    status = load_scale(l, name_of(other, i, name, ".scale"), out);
    if (!status && norm) status = load_norm(l, name_of(other, i, norm, ".weight"), columns, 0, &out->norm);
    return status;
}

static int load_block(const loader *l, size_t i, block *b)
{
    const bitrl_shape *shape = &l->model->shape;
    const architecture *a = &l->model->architecture;
    size_t width = shape->width, ffn = shape->ffn, q = shape->heads * shape->head_dim;
    size_t kv = shape->kv_heads * shape->head_dim, turned = a->turned ? shape->head_dim : 0;
    const struct {
        const char *name;
        bool wanted;
        size_t n;
        double **out;
    } norms[] = {{"attn_norm", true, width, &b->attn_norm},
                 {"ffn_norm", true, width, &b->ffn_norm},
                 {"attn_q_norm", a->head_norms, shape->head_dim, &b->q_norm},
                 {"attn_k_norm", a->head_norms, shape->head_dim, &b->k_norm},
                 {"post_attention_norm", a->gemma, width, &b->post_attn_norm},
                 {"post_ffw_norm", a->gemma, width, &b->post_ffn_norm}};
    const struct {
        const char *name, *sub_norm, *input_norm;
        size_t columns, rows, turned;
        matrix *out;
    } matrices[] = {{"attn_q", NULL, "attn_q_norm_in", width, q, turned, &b->q},
                    {"attn_k", NULL, "attn_k_norm_in", width, kv, turned, &b->k},
                    {"attn_v", NULL, "attn_v_norm_in", width, kv, 0, &b->v},
                    {"attn_output", "attn_sub_norm", "attn_output_norm_in", q, width, 0, &b->o},
                    {"ffn_gate", NULL, "ffn_gate_norm_in", width, ffn, 0, &b->gate},
                    {"ffn_up", NULL, "ffn_up_norm_in", width, ffn, 0, &b->up},
                    {"ffn_down", "ffn_sub_norm", "ffn_down_norm_in", ffn, width, 0, &b->down}};
    char full[NAME];
    int status = BITRL_OK;
    for (size_t j = 0; !status && j < sizeof norms / sizeof *norms; j++)
        if (norms[j].wanted)
            status = load_norm(l, name_of(full, i, norms[j].name, ".weight"), norms[j].n, l->norm_offset, norms[j].out);
    for (size_t j = 0; !status && j < sizeof matrices / sizeof *matrices; j++)
        status = load_matrix(l, i, matrices[j].name,
                             a->input_norms ? matrices[j].input_norm : a->sub_norms ? matrices[j].sub_norm : NULL,
                             matrices[j].columns, matrices[j].rows, matrices[j].turned, matrices[j].out);
    return status;
}

/* What makes logits of the last state. A file without the norm can still encode. */
static int load_head(const loader *l, bitrl_model *model)
{
    int status = BITRL_OK;
    model->head = model->embedding;
    if (bitrl_file_find_tensor(l->file, "output.weight"))
        status = find_weight(l, "output.weight", model->shape.width, model->shape.vocabulary, &model->head);
    if (!status && bitrl_file_find_tensor(l->file, "output_norm.weight"))
        status = load_norm(l, "output_norm.weight", model->shape.width, l->norm_offset, &model->output_norm);
    return status;
}

/* The format asked for, or that of the first matrix. */
static int choose_format(const bitrl_file *file, const char *wanted, matrix_format *out, char *error)
{
    const bitrl_tensor *first = bitrl_file_find_tensor(file, "blk.0.attn_q.weight");
    if (!wanted) {
        *out = first ? bitrl_format_of(first->type) : TERNARY;
        return BITRL_OK;
    }
    for (*out = 0; *out < FORMATS; ++*out)
        if (strcmp(wanted, bitrl_format(*out)) == 0) return BITRL_OK;
    return bitrl_fail(error, BITRL_BAD_ARGUMENT, "cannot be run in a format called %.40s", wanted);
}

static int load_weights(const bitrl_file *file, bitrl_model *model, char *error)
{
    const bitrl_shape *shape = &model->shape;
    size_t heads = shape->heads * shape->head_dim, most = shape->width > shape->ffn ? shape->width : shape->ffn;
    bool offset = model->architecture.gemma && bitrl_file_is_hugging_face(file);
    loader l = {file, model, offset ? 1 : 0, bitrl_allocate(most > heads ? most : heads, sizeof *l.row), error};
    int status = l.row ? BITRL_OK : bitrl_fail(error, BITRL_NO_MEMORY, "does not fit in memory");
    for (size_t i = 0; !status && i < shape->blocks; i++) status = load_block(&l, i, &model->blocks[i]);
    if (!status) status = load_head(&l, model);
    free(l.row);
    return status;
}

int bitrl_model_load(const bitrl_file *file, const bitrl_options *options, bitrl_model **out, char *error)
{
    *out = NULL;
    bitrl_model *model = calloc(1, sizeof *model);
    if (!model) return bitrl_fail(error, BITRL_NO_MEMORY, "does not fit in memory");
    int status = BITRL_OK;
    model->i2s_arm = options->i2s_arm;
    model->kernels = bitrl_kernels_find(options->isa);
    if (!model->kernels)
        status = bitrl_fail(error, BITRL_BAD_ARGUMENT, "this CPU has no instruction set %.40s", options->isa);
    if (!status) status = choose_format(file, options->format, &model->format, error);
    if (!status) status = bitrl_read_architecture(file, options, model, error);
    if (!status) status = load_weights(file, model, error);
    if (status)
        bitrl_model_free(model);
    else
        *out = model;
    return status;
}

void bitrl_model_free(bitrl_model *model)
{
    if (!model) return;
    for (size_t i = 0; model->blocks && i < model->shape.blocks; i++) {
        block *b = &model->blocks[i];
        matrix *matrices[] = {&b->q, &b->k, &b->v, &b->o, &b->gate, &b->up, &b->down};
        for (size_t j = 0; j < sizeof matrices / sizeof *matrices; j++) {
            free(matrices[j]->data);
            free(matrices[j]->row_scale);
            free(matrices[j]->norm);
        }
        double *norms[] = {b->attn_norm, b->ffn_norm, b->q_norm, b->k_norm, b->post_attn_norm, b->post_ffn_norm};
        for (size_t j = 0; j < sizeof norms / sizeof *norms; j++) free(norms[j]);
    }
    free(model->output_norm);
    free(model->blocks);
    free(model);
}

const bitrl_shape *bitrl_model_shape(const bitrl_model *model) { return &model->shape; }
const char *bitrl_model_isa(const bitrl_model *model) { return model->kernels->name; }
const char *bitrl_model_format(const bitrl_model *model) { return bitrl_format(model->format); }
