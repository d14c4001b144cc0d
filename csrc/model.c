/* Loading: the file's keys and tensors are checked against each other, ternary matrices are repacked for the kernels.
 *
 * Knows the bitnet-b1.58 family and its tensor names. The embedding stays in the mapped file. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

enum { MAX_WIDTH = 1 << 16, MAX_FFN = 1 << 20, MAX_BLOCKS = 4096, MAX_CONTEXT = 1 << 20 };

/* Without branches, so that a row of them is vectorised: 2^112 moves the exponent's bias and makes subnormals whole. */
static inline float half_to_float(uint16_t half)
{
    uint32_t bits = (uint32_t)(half & 0x7fff) << 13, sign = (uint32_t)(half & 0x8000) << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    value *= 0x1p112f;
    memcpy(&bits, &value, sizeof bits);
    bits |= sign | ((half & 0x7c00) == 0x7c00 ? 0x7f800000 : 0); /* infinity and NaN */
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* ---- keys ---- */

typedef struct {
    const bitrl_file *file;
    char architecture[32];
    char *error;
} loader;

static const bitrl_key *find_key(const loader *l, const char *name, char full[128])
{
    snprintf(full, 128, "%s.%s", l->architecture, name);
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

static int read_architecture(loader *l)
{
    const bitrl_key *key = bitrl_file_find_key(l->file, "general.architecture");
    if (!key || key->type != GGUF_STRING)
        return bitrl_fail(l->error, BITRL_BAD_FILE, "lacks the key general.architecture");
    const char *known[] = {"bitnet-b1.58", "bitnet-25", "bitnet"};
    uint64_t bytes = key->value_bytes - 8;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (bytes == strlen(known[i]) && memcmp(key->value + 8, known[i], bytes) == 0) {
            strcpy(l->architecture, known[i]);
            return BITRL_OK;
        }
    return bitrl_fail(l->error, BITRL_BAD_FILE,
                      "holds a model of architecture %.*s; supported are bitnet-b1.58, bitnet-25 and bitnet",
                      bytes > 40 ? 40 : (int)bytes, (const char *)key->value + 8);
}

static int read_shape(const loader *l, bitrl_shape *shape)
{
    uint64_t rope_dimensions = 0, vocabulary = 0;
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
    if ((status = read_count(l, "rope.dimension_count", shape->head_dim, MAX_WIDTH, &rope_dimensions))) return status;
    if (rope_dimensions != shape->head_dim)
        return bitrl_fail(l->error, BITRL_BAD_FILE, "rotates %llu of %llu head dimensions, which is not supported",
                          (unsigned long long)rope_dimensions, (unsigned long long)shape->head_dim);

    const bitrl_tensor *embedding = bitrl_file_find_tensor(l->file, "token_embd.weight");
    if (!embedding || embedding->dims != 2 || embedding->shape[0] != shape->width || embedding->type == GGML_TQ2_0 ||
        embedding->type == GGML_I2_S || embedding->shape[1] > INT32_MAX)
        return bitrl_fail(l->error, BITRL_BAD_FILE, "lacks token_embd.weight as F32, F16 or BF16 rows of %llu",
                          (unsigned long long)shape->width);
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
    bool packed = tensor->type == GGML_TQ2_0 || tensor->type == GGML_I2_S;
    if (packed != (rows > 0))
        return bitrl_fail(l->error, BITRL_BAD_FILE, "has %s in type %u; %s", full, (unsigned)tensor->type,
                          rows ? "matrices must be TQ2_0 or I2_S" : "vectors must be F32, F16 or BF16");
    return BITRL_OK;
}

static int load_norm(const loader *l, size_t i, const char *name, size_t n, double **out)
{
    const bitrl_tensor *tensor;
    int status = find_weight(l, i, name, n, 0, &tensor);
    if (status) return status;
    *out = bitrl_allocate(round_up(n, PAD), sizeof **out);
    if (!*out) return bitrl_fail(l->error, BITRL_NO_MEMORY, "does not fit in memory");
    bitrl_read_row(*out, tensor->data, tensor->type, 0, n);
    for (size_t c = 0; c < n; c++)
        if (!isfinite((*out)[c]))
            return bitrl_fail(l->error, BITRL_BAD_FILE, "is damaged: blk.%zu.%s.weight is not finite", i, name);
    return BITRL_OK;
}

void bitrl_read_row(double *restrict out, const uint8_t *restrict data, uint32_t type, size_t row, size_t n)
{
    data += row * n * (type == GGML_F32 ? 4 : 2);
    for (size_t c = 0; c < n && type == GGML_F32; c++) {
        float value;
        memcpy(&value, data + 4 * c, sizeof value);
        out[c] = value;
    }
    for (size_t c = 0; c < n && type == GGML_F16; c++) {
        uint16_t half;
        memcpy(&half, data + 2 * c, sizeof half);
        out[c] = half_to_float(half);
    }
    for (size_t c = 0; c < n && type == GGML_BF16; c++) { /* the upper half of a float */
        uint16_t upper;
        memcpy(&upper, data + 2 * c, sizeof upper);
        uint32_t bits = (uint32_t)upper << 16;
        float value;
        memcpy(&value, &bits, sizeof value);
        out[c] = value;
    }
}

/* codes[c] = t + 1 of one row; false when the file holds the fourth code or an unusable scale. *scale is the first
 * block's that is not zero; the rest must agree, because a BitNet matrix has one scale. A block of scale zero is
 * all zeros. */
static bool unpack_tq2_0(uint8_t *codes, const uint8_t *blocks, size_t columns, float *scale)
{
    for (size_t b = 0; b < columns / 256; b++, blocks += 66, codes += 256) {
        uint16_t half;
        memcpy(&half, blocks + 64, sizeof half);
        float s = half_to_float(half);
        if (!(s >= 0) || isinf(s)) return false;
        if (s > 0 && *scale == 0) *scale = s;
        if (s > 0 && s != *scale) return false;
        for (size_t i = 0; i < 64; i++) {
            if (blocks[i] & blocks[i] >> 1 & 0x55) return false;
            for (size_t part = 0; part < 4; part++)
                codes[i / 32 * 128 + part * 32 + i % 32] = s > 0 ? blocks[i] >> 2 * part & 3 : 1;
        }
    }
    return true;
}

/* Columns of the row that starts at weight `first` of the tensor; blocks of 128 may straddle rows. */
static bool unpack_i2_s(uint8_t *codes, const uint8_t *data, size_t first, size_t columns)
{
    for (size_t c = 0; c < columns; c++) {
        size_t within = (first + c) % 128;
        uint8_t code = data[(first + c) / 128 * 32 + within % 32] >> (6 - 2 * (within / 32)) & 3;
        if (code == 3) return false;
        codes[c] = code;
    }
    return true;
}

/* rows: [TILE_ROWS, padded columns] codes -> one tile of the layout in kernels.h. */
static void pack_tile(uint8_t *out, const uint8_t *rows, size_t padded)
{
    for (size_t g = 0; g < padded / GROUP_COLUMNS; g++)
        for (size_t r = 0; r < TILE_ROWS; r++) {
            const uint8_t *from = rows + r * padded + g * GROUP_COLUMNS;
            for (size_t j = 0; j < 4; j++)
                *out++ = (uint8_t)(from[j] | from[j + 4] << 2 | from[j + 8] << 4 | from[j + 12] << 6);
        }
}

static int load_ternary(const loader *l, size_t i, const char *name, size_t columns, size_t rows, ternary *out)
{
    const bitrl_tensor *tensor;
    int status = find_weight(l, i, name, columns, rows, &tensor);
    if (status) return status;
    size_t padded = round_up(columns, PAD), tiles = round_up(rows, TILE_ROWS) / TILE_ROWS;
    float scale = 0;
    if (tensor->type == GGML_I2_S) memcpy(&scale, tensor->data + (uint64_t)rows * columns / 4, sizeof scale);
    *out = (ternary){bitrl_allocate(tiles * padded, TILE_ROWS / 4), rows, columns, 0};
    uint8_t *tile = bitrl_allocate(TILE_ROWS, padded);
    if (!out->codes || !tile) status = bitrl_fail(l->error, BITRL_NO_MEMORY, "does not fit in memory");

    bool ok = scale >= 0 && !isinf(scale);
    for (size_t t = 0; t < tiles && ok && !status; t++) {
        memset(tile, 1, TILE_ROWS * padded);
        for (size_t r = 0; r < TILE_ROWS && t * TILE_ROWS + r < rows && ok; r++) {
            size_t row = t * TILE_ROWS + r;
            if (tensor->type == GGML_I2_S)
                ok = unpack_i2_s(tile + r * padded, tensor->data, row * columns, columns);
            else
                ok = unpack_tq2_0(tile + r * padded, tensor->data + row * columns / 256 * 66, columns, &scale);
        }
        pack_tile(out->codes + t * padded * TILE_ROWS / 4, tile, padded);
    }
    free(tile);
    if (!ok && !status)
        status = bitrl_fail(l->error, BITRL_BAD_FILE,
                            "is damaged or not a ternary model: blk.%zu.%s.weight holds codes or scales other than "
                            "-1, 0, 1 times one finite scale",
                            i, name);
    out->scale = scale;
    bitrl_file_release(tensor);
    return status;
}

static int load_block(const loader *l, const bitrl_shape *shape, size_t i, block *b)
{
    size_t width = shape->width, ffn = shape->ffn, kv = shape->kv_heads * shape->head_dim;
    int status;
    if ((status = load_norm(l, i, "attn_norm", width, &b->attn_norm)) ||
        (status = load_norm(l, i, "attn_sub_norm", width, &b->attn_sub_norm)) ||
        (status = load_norm(l, i, "ffn_norm", width, &b->ffn_norm)) ||
        (status = load_norm(l, i, "ffn_sub_norm", ffn, &b->ffn_sub_norm)) ||
        (status = load_ternary(l, i, "attn_q", width, width, &b->q)) ||
        (status = load_ternary(l, i, "attn_k", width, kv, &b->k)) ||
        (status = load_ternary(l, i, "attn_v", width, kv, &b->v)) ||
        (status = load_ternary(l, i, "attn_output", width, width, &b->o)) ||
        (status = load_ternary(l, i, "ffn_gate", width, ffn, &b->gate)) ||
        (status = load_ternary(l, i, "ffn_up", width, ffn, &b->up)) ||
        (status = load_ternary(l, i, "ffn_down", ffn, width, &b->down)))
        return status;
    return BITRL_OK;
}

int bitrl_model_load(const bitrl_file *file, uint64_t layers, const char *isa, bitrl_model **out, char *error)
{
    *out = NULL;
    bitrl_model *model = calloc(1, sizeof *model);
    if (!model) return bitrl_fail(error, BITRL_NO_MEMORY, "does not fit in memory");
    loader l = {.file = file, .error = error};
    uint64_t wanted = 0;
    int status = BITRL_OK;
    model->kernels = bitrl_kernels_find(isa);
    if (!model->kernels) status = bitrl_fail(error, BITRL_BAD_ARGUMENT, "this CPU has no instruction set %.40s", isa);
    if (!status) status = read_architecture(&l);
    if (!status) status = read_shape(&l, &model->shape);
    if (!status && layers > model->shape.blocks)
        status = bitrl_fail(error, BITRL_BAD_ARGUMENT, "has %llu blocks, fewer than the %llu layers asked for",
                            (unsigned long long)model->shape.blocks, (unsigned long long)layers);
    if (!status) {
        const bitrl_tensor *embedding = bitrl_file_find_tensor(file, "token_embd.weight");
        model->embedding = embedding->data;
        model->embedding_type = embedding->type;
        wanted = layers ? layers : model->shape.blocks;
        model->shape.blocks = 0; /* counts the blocks bitrl_model_free must look at */
        model->blocks = calloc(wanted, sizeof *model->blocks);
        if (!model->blocks) status = bitrl_fail(error, BITRL_NO_MEMORY, "does not fit in memory");
    }
    while (!status && model->shape.blocks < wanted) {
        model->shape.blocks++;
        status = load_block(&l, &model->shape, model->shape.blocks - 1, &model->blocks[model->shape.blocks - 1]);
    }
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
        void *owned[] = {b->attn_norm, b->attn_sub_norm, b->ffn_norm,   b->ffn_sub_norm, b->q.codes,   b->k.codes,
                         b->v.codes,   b->o.codes,       b->gate.codes, b->up.codes,     b->down.codes};
        for (size_t j = 0; j < sizeof owned / sizeof *owned; j++) free(owned[j]);
    }
    free(model->blocks);
    free(model);
}

const bitrl_shape *bitrl_model_shape(const bitrl_model *model) { return &model->shape; }
const char *bitrl_model_isa(const bitrl_model *model) { return model->kernels->name; }
