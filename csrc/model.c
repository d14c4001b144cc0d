/* Loading: the file's keys and tensors are checked against each other, matrices are packed for the kernels.
 *
 * Knows the bitnet-b1.58 family and llama, and their tensor names. The embedding stays in the mapped file. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

enum { MAX_WIDTH = 1 << 16, MAX_FFN = 1 << 20, MAX_BLOCKS = 4096, MAX_CONTEXT = 1 << 20, MAX_SUMMED = 1 << 16 };

/* ---- keys ---- */

typedef struct {
    const bitrl_file *file;
    architecture architecture;
    bool i2s_arm;
    matrix_format format;
    float *row; /* [the most columns] */
    char *error;
} loader;

static const bitrl_key *find_key(const loader *l, const char *name, char full[128])
{
    snprintf(full, 128, "%s.%s", l->architecture.name, name);
    return bitrl_file_find_key(l->file, full);
}

/* Reads an integer key between 1 and `most`; 0 as `otherwise` means the key must be there. */
static int read_count(const loader *l, const char *name, uint64_t otherwise, uint64_t most, uint64_t *out)
{
    char full[128];
    const bitrl_key *key = find_key(l, name, full);
    *out = otherwise;
    if (!key && otherwise) return BITRL_OK;
    if (!key) return bitrl_fail(l->error, BITRL_BAD_FILE, "lacks the key %s", full);
    *out = 0;
    if (key->type == GGUF_UINT32 || key->type == GGUF_INT32) {
        uint32_t value;
        memcpy(&value, key->value, sizeof value);
        *out = value;
    } else if (key->type == GGUF_UINT64)
        memcpy(out, key->value, sizeof *out);
    if (*out < 1 || *out > most)
        return bitrl_fail(l->error, BITRL_BAD_FILE, "has %s = %llu; it must be an integer from 1 to %llu", full,
                          (unsigned long long)*out, (unsigned long long)most);
    return BITRL_OK;
}

static int read_positive(const loader *l, const char *name, double otherwise, double *out)
{
    char full[128];
    const bitrl_key *key = find_key(l, name, full);
    *out = otherwise;
    if (!key && otherwise > 0) return BITRL_OK;
    if (!key) return bitrl_fail(l->error, BITRL_BAD_FILE, "lacks the key %s", full);
    float value = NAN;
    if (key->type == GGUF_FLOAT32) memcpy(&value, key->value, sizeof value);
    *out = value;
    if (!(value > 0) || isinf(value))
        return bitrl_fail(l->error, BITRL_BAD_FILE, "has %s = %g; it must be a positive number", full, (double)value);
    return BITRL_OK;
}

static bool is_text(const bitrl_key *key, const char *text)
{
    return key && key->type == GGUF_STRING && key->value_bytes - 8 == strlen(text) &&
           memcmp(key->value + 8, text, strlen(text)) == 0;
}

static int read_architecture(loader *l)
{
    /* "bitnet" is what llama.cpp calls two models with two activations. */
    static const architecture known[] = {{"bitnet-b1.58", true, false, true, RELU2},
                                         {"bitnet-25", true, false, true, RELU2},
                                         {"bitnet", true, false, false, RELU2},
                                         {"llama", false, true, true, SILU}};
    const bitrl_key *key = bitrl_file_find_key(l->file, "general.architecture");
    if (!key || key->type != GGUF_STRING)
        return bitrl_fail(l->error, BITRL_BAD_FILE, "lacks the key general.architecture");
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (is_text(key, known[i].name)) {
            l->architecture = known[i];
            return BITRL_OK;
        }
    uint64_t bytes = key->value_bytes - 8;
    return bitrl_fail(l->error, BITRL_BAD_FILE,
                      "holds a model of architecture %.*s; supported are bitnet-b1.58, bitnet-25, bitnet and llama",
                      bytes > 40 ? 40 : (int)bytes, (const char *)key->value + 8);
}

/* Never guessed: the caller, the file or its architecture must name the activation. */
static int read_activation(loader *l, const char *wanted)
{
    char full[128];
    const bitrl_key *key = find_key(l, "hidden_activation", full);
    architecture *a = &l->architecture;
    if (wanted ? strcmp(wanted, "silu") == 0 : is_text(key, "silu") || is_text(key, "swish"))
        a->activation = SILU;
    else if (wanted ? strcmp(wanted, "relu2") == 0 : is_text(key, "relu2"))
        a->activation = RELU2;
    else if (wanted)
        return bitrl_fail(l->error, BITRL_BAD_ARGUMENT, "cannot be run with an activation called %.40s", wanted);
    else if (key)
        return bitrl_fail(l->error, BITRL_BAD_FILE, "has %s other than relu2 and silu, which is not supported", full);
    else if (!a->says_activation)
        return bitrl_fail(l->error, BITRL_BAD_FILE,
                          "lacks the key %s: name the activation (-o backbone.activation=relu2 or silu)", full);
    return BITRL_OK;
}

/* What would change the numbers and is not computed here must not be passed over. */
static int refuse_unknown(const loader *l)
{
    static const char *const tensors[] = {"rope_freqs.weight", "blk.0.attn_q.bias", "blk.0.attn_q.scale", "blk.0.ffn_up.bias",
                                          "blk.0.attn_output.bias", "blk.0.ffn_gate_inp.weight"};
    for (size_t i = 0; i < sizeof tensors / sizeof *tensors; i++)
        if (bitrl_file_find_tensor(l->file, tensors[i]))
            return bitrl_fail(l->error, BITRL_BAD_FILE, "has the tensor %s, which is not supported", tensors[i]);
    char full[128];
    const bitrl_key *key = find_key(l, "rope.scaling.type", full);
    if (key && !is_text(key, "none"))
        return bitrl_fail(l->error, BITRL_BAD_FILE, "scales its positions (%s), which is not supported", full);
    return BITRL_OK;
}

static int read_shape(const loader *l, bitrl_shape *shape)
{
    uint64_t rope_dimensions = 0, key_length = 0, vocabulary = 0;
    int status;
    if ((status = read_count(l, "block_count", 0, MAX_BLOCKS, &shape->blocks)) ||
        (status = read_count(l, "embedding_length", 0, MAX_WIDTH, &shape->width)) ||
        (status = read_count(l, "feed_forward_length", 0, MAX_FFN, &shape->ffn)) ||
        (status = read_count(l, "attention.head_count", 0, shape->width, &shape->heads)) ||
        (status = read_count(l, "attention.head_count_kv", shape->heads, shape->heads, &shape->kv_heads)) ||
        (status = read_count(l, "context_length", 0, MAX_CONTEXT, &shape->context)) ||
        (status = read_positive(l, "attention.layer_norm_rms_epsilon", 0, &shape->eps)) ||
        (status = read_positive(l, "rope.freq_base", 10000, &shape->rope_theta)))
        return status;
    if (shape->width % shape->heads || shape->width / shape->heads % 2 || shape->heads % shape->kv_heads)
        return bitrl_fail(l->error, BITRL_BAD_FILE,
                          "has a width of %llu with %llu heads and %llu key/value heads, which do not divide",
                          (unsigned long long)shape->width, (unsigned long long)shape->heads,
                          (unsigned long long)shape->kv_heads);
    shape->head_dim = shape->width / shape->heads;
    if ((status = read_count(l, "attention.key_length", shape->head_dim, MAX_WIDTH, &key_length))) return status;
    if (key_length != shape->head_dim)
        return bitrl_fail(l->error, BITRL_BAD_FILE, "has heads of %llu instead of width / heads, which is not supported",
                          (unsigned long long)key_length);
    if ((status = read_count(l, "rope.dimension_count", shape->head_dim, MAX_WIDTH, &rope_dimensions))) return status;
    if (rope_dimensions != shape->head_dim)
        return bitrl_fail(l->error, BITRL_BAD_FILE, "rotates %llu of %llu head dimensions, which is not supported",
                          (unsigned long long)rope_dimensions, (unsigned long long)shape->head_dim);

    const bitrl_tensor *embedding = bitrl_file_find_tensor(l->file, "token_embd.weight");
    if (!embedding || embedding->dims != 2 || embedding->shape[0] != shape->width || embedding->shape[1] > INT32_MAX)
        return bitrl_fail(l->error, BITRL_BAD_FILE, "lacks token_embd.weight in rows of %llu",
                          (unsigned long long)shape->width);
    if (!bitrl_packing_fits(embedding, l->i2s_arm))
        return bitrl_fail(l->error, BITRL_BAD_FILE, BAD_PACKING, 17, "token_embd.weight");
    shape->vocabulary = embedding->shape[1];
    if ((status = read_count(l, "vocab_size", shape->vocabulary, INT32_MAX, &vocabulary))) return status;
    if (vocabulary != shape->vocabulary)
        return bitrl_fail(l->error, BITRL_BAD_FILE, "has a vocabulary of %llu but an embedding of %llu rows",
                          (unsigned long long)vocabulary, (unsigned long long)shape->vocabulary);
    return BITRL_OK;
}

/* ---- tensors ---- */

/* Finds blk.<i>.<name>.weight with that shape; rows = 0 means a vector. */
static int find_weight(const loader *l, size_t i, const char *name, uint64_t columns, uint64_t rows,
                       const bitrl_tensor **out)
{
    char full[128];
    snprintf(full, sizeof full, "blk.%zu.%s.weight", i, name);
    const bitrl_tensor *tensor = *out = bitrl_file_find_tensor(l->file, full);
    if (!tensor) return bitrl_fail(l->error, BITRL_BAD_FILE, "lacks the tensor %s", full);
    if (tensor->dims != (rows ? 2 : 1) || tensor->shape[0] != columns || (rows && tensor->shape[1] != rows))
        return bitrl_fail(l->error, BITRL_BAD_FILE, "has %s in shape %llu x %llu; its keys say %llu x %llu", full,
                          (unsigned long long)tensor->shape[1], (unsigned long long)tensor->shape[0],
                          (unsigned long long)(rows ? rows : 1), (unsigned long long)columns);
    if (!bitrl_packing_fits(tensor, l->i2s_arm))
        return bitrl_fail(l->error, BITRL_BAD_FILE, BAD_PACKING, (int)strlen(full), full);
    return BITRL_OK;
}

static int load_norm(const loader *l, size_t i, const char *name, size_t n, double **out)
{
    const bitrl_tensor *tensor;
    int status = find_weight(l, i, name, n, 0, &tensor);
    if (status) return status;
    *out = bitrl_allocate(round_up(n, PAD), sizeof **out);
    if (!*out) return bitrl_fail(l->error, BITRL_NO_MEMORY, "does not fit in memory");
    if (!bitrl_read_row(l->row, tensor, l->i2s_arm, 0))
        return bitrl_fail(l->error, BITRL_BAD_FILE, "is damaged: blk.%zu.%s.weight is not finite", i, name);
    for (size_t c = 0; c < n; c++) (*out)[c] = l->row[c];
    return BITRL_OK;
}

/* turned: rows of a head of q or k whose rotation is interleaved in this file, see bitrl_pack. */
static int load_matrix(const loader *l, size_t i, const char *name, size_t columns, size_t rows, size_t turned,
                       matrix *out)
{
    const bitrl_tensor *tensor;
    int status = find_weight(l, i, name, columns, rows, &tensor);
    if (status) return status;
    if (columns > MAX_SUMMED && (l->format == INT8 || l->format == INT4))
        return bitrl_fail(l->error, BITRL_BAD_ARGUMENT, "has rows of %zu weights, too long to run in 8 or 4 bits",
                          columns);
    switch (bitrl_pack(out, l->format, tensor, l->i2s_arm, turned)) {
    case PACKED: bitrl_file_release(tensor); return BITRL_OK;
    case PACK_NO_MEMORY: return bitrl_fail(l->error, BITRL_NO_MEMORY, "does not fit in memory");
    case PACK_NOT_FINITE:
        return bitrl_fail(l->error, BITRL_BAD_FILE, "is damaged: blk.%zu.%s.weight is not finite", i, name);
    default:
        return bitrl_fail(l->error, BITRL_BAD_FILE,
                          "is damaged or not a ternary model: blk.%zu.%s.weight holds codes or scales other than "
                          "-1, 0, 1 times one finite scale",
                          i, name);
    }
}

static int load_block(const loader *l, const bitrl_shape *shape, size_t i, block *b)
{
    size_t width = shape->width, ffn = shape->ffn, kv = shape->kv_heads * shape->head_dim;
    size_t turned = l->architecture.turned ? shape->head_dim : 0;
    bool sub_norms = l->architecture.sub_norms;
    int status;
    if ((status = load_norm(l, i, "attn_norm", width, &b->attn_norm)) ||
                (status = load_norm(l, i, "ffn_norm", width, &b->ffn_norm)) ||
        (status = load_matrix(l, i, "attn_q", width, width, turned, &b->q)) ||
        (status = load_matrix(l, i, "attn_k", width, kv, turned, &b->k)) ||
        (status = load_matrix(l, i, "attn_v", width, kv, 0, &b->v)) ||
        (status = load_matrix(l, i, "attn_output", width, width, 0, &b->o)) ||
        (status = load_matrix(l, i, "ffn_gate", width, ffn, 0, &b->gate)) ||
        (status = load_matrix(l, i, "ffn_up", width, ffn, 0, &b->up)) ||
        (status = load_matrix(l, i, "ffn_down", ffn, width, 0, &b->down)) ||
        (sub_norms && (status = load_norm(l, i, "attn_sub_norm", width, &b->o.norm))) ||
        (sub_norms && (status = load_norm(l, i, "ffn_sub_norm", ffn, &b->down.norm))))
        return status;
    return BITRL_OK;
}

/* The format asked for, or that of the first matrix. */
static int choose_format(loader *l, const char *wanted)
{
    const bitrl_tensor *first = bitrl_file_find_tensor(l->file, "blk.0.attn_q.weight");
    if (!wanted) {
        l->format = first ? bitrl_format_of(first->type) : TERNARY;
        return BITRL_OK;
    }
    for (l->format = 0; l->format < FORMATS; l->format++)
        if (strcmp(wanted, bitrl_format(l->format)) == 0) return BITRL_OK;
    return bitrl_fail(l->error, BITRL_BAD_ARGUMENT, "cannot be run in a format called %.40s", wanted);
}

int bitrl_model_load(const bitrl_file *file, const bitrl_options *options, bitrl_model **out, char *error)
{
    *out = NULL;
    bitrl_model *model = calloc(1, sizeof *model);
    if (!model) return bitrl_fail(error, BITRL_NO_MEMORY, "does not fit in memory");
    loader l = {.file = file, .i2s_arm = options->i2s_arm, .error = error};
    uint64_t wanted = 0, layers = options->layers;
    int status = BITRL_OK;
    model->kernels = bitrl_kernels_find(options->isa);
    if (!model->kernels)
        status = bitrl_fail(error, BITRL_BAD_ARGUMENT, "this CPU has no instruction set %.40s", options->isa);
    if (!status) status = choose_format(&l, options->format);
    if (!status) status = read_architecture(&l);
    if (!status) status = read_activation(&l, options->activation);
    if (!status) status = refuse_unknown(&l);
    if (!status) status = read_shape(&l, &model->shape);
    model->architecture = l.architecture;
    if (!status && layers > model->shape.blocks)
        status = bitrl_fail(error, BITRL_BAD_ARGUMENT, "has %llu blocks, fewer than the %llu layers asked for",
                            (unsigned long long)model->shape.blocks, (unsigned long long)layers);
    if (!status) {
        model->embedding = bitrl_file_find_tensor(file, "token_embd.weight");
        model->i2s_arm = l.i2s_arm;
        model->format = l.format;
        model->embedding_scale = 1;
        model->attention_scale = 1 / sqrt((double)model->shape.head_dim);
        model->local_rope_theta = model->shape.rope_theta;
        l.row = bitrl_allocate(model->shape.width > model->shape.ffn ? model->shape.width : model->shape.ffn, sizeof *l.row);
        wanted = layers ? layers : model->shape.blocks;
        model->shape.blocks = 0; /* counts the blocks bitrl_model_free must look at */
        model->blocks = calloc(wanted, sizeof *model->blocks);
        if (!l.row || !model->blocks) status = bitrl_fail(error, BITRL_NO_MEMORY, "does not fit in memory");
    }
    while (!status && model->shape.blocks < wanted) {
        model->shape.blocks++;
        status = load_block(&l, &model->shape, model->shape.blocks - 1, &model->blocks[model->shape.blocks - 1]);
    }
    free(l.row);
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
        free(b->attn_norm);
        free(b->ffn_norm);
    }
    free(model->blocks);
    free(model);
}

const bitrl_shape *bitrl_model_shape(const bitrl_model *model) { return &model->shape; }
const char *bitrl_model_isa(const bitrl_model *model) { return model->kernels->name; }
const char *bitrl_model_format(const bitrl_model *model) { return bitrl_format(model->format); }
