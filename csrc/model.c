/* Loading: tensors are checked against the shape that the file's keys say, matrices are packed for the kernels.
 *
 * Knows the tensors' names; what the keys mean is architecture.c's. The embedding and the head stay in the file. */
#define _DEFAULT_SOURCE
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "internal.h"

enum { MAX_SUMMED = 1 << 16, MAX_THREADS = 1024, NAME = 64, HUGE_PAGE = 2 << 20, MATRICES = 7, VECTORS = 9 };

typedef struct {
    const bitrl_file *file;
    bitrl_model *model;
    pool *threads;
    float *row;         /* [the most columns] */
    uint8_t *memory;    /* where the next matrix goes */
    char *error;
} loader;

/* A matrix of a block, and the name of the norm on what enters it, or NULL. */
typedef struct {
    const char *name, *norm;
    size_t columns, rows, turned; /* turned: see weight_source */
    matrix *matrix;
} named_matrix;

/* A norm or a bias of a block. */
typedef struct {
    const char *name; /* NULL: this architecture does not have it */
    size_t n;
    double **values;
    const char *suffix;
    double offset; /* that the file's lack */
} named_vector;

static void list_block(const bitrl_model *model, block *b, named_matrix matrices[MATRICES], named_vector vectors[VECTORS])
{
    const bitrl_shape *shape = &model->shape;
    const architecture *a = &model->architecture;
    size_t width = shape->width, ffn = shape->ffn, q = shape->heads * shape->head_dim;
    size_t kv = shape->kv_heads * shape->head_dim, turned = a->turned ? shape->head_dim : 0;
#define INPUT(name) (a->input_norms ? name : NULL)
#define SUB(input, name) (a->input_norms ? input : a->sub_norms ? name : NULL)
    const named_matrix all_matrices[MATRICES] = {
        {"attn_q", INPUT("attn_q_norm_in"), width, q, turned, &b->q},
        {"attn_k", INPUT("attn_k_norm_in"), width, kv, turned, &b->k},
        {"attn_v", INPUT("attn_v_norm_in"), width, kv, 0, &b->v},
        {"attn_output", SUB("attn_output_norm_in", "attn_sub_norm"), q, width, 0, &b->o},
        {"ffn_gate", INPUT("ffn_gate_norm_in"), width, ffn, 0, &b->gate},
        {"ffn_up", INPUT("ffn_up_norm_in"), width, ffn, 0, &b->up},
        {"ffn_down", SUB("ffn_down_norm_in", "ffn_sub_norm"), ffn, width, 0, &b->down}};
    const double one = model->norm_offset;
    const named_vector all_vectors[VECTORS] = {
        {"attn_norm", width, &b->attn_norm, ".weight", one},
        {"ffn_norm", width, &b->ffn_norm, ".weight", one},
        {a->head_norms ? "attn_q_norm" : NULL, shape->head_dim, &b->q_norm, ".weight", one},
        {a->head_norms ? "attn_k_norm" : NULL, shape->head_dim, &b->k_norm, ".weight", one},
        {a->gemma ? "post_attention_norm" : NULL, width, &b->post_attn_norm, ".weight", one},
        {a->gemma ? "post_ffw_norm" : NULL, width, &b->post_ffn_norm, ".weight", one},
        {a->biases ? "attn_q" : NULL, q, &b->q_bias, ".bias", 0},
        {a->biases ? "attn_k" : NULL, kv, &b->k_bias, ".bias", 0},
        {a->biases ? "attn_v" : NULL, kv, &b->v_bias, ".bias", 0}};
    memcpy(matrices, all_matrices, sizeof all_matrices);
    memcpy(vectors, all_vectors, sizeof all_vectors);
}

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

/* A vector's weights as a file holds them -> as they are used. */
static void take_vector(double *vector, const float *values, size_t n, double offset)
{
    for (size_t c = 0; c < n; c++) vector[c] = values[c] + offset;
}

/* A vector -> l->row. */
static int read_only_row(const loader *l, const bitrl_tensor *tensor, const char *name)
{
    uint8_t bytes[SMALL_WINDOW];
    window w = {.bytes = bytes, .room = sizeof bytes};
    switch (bitrl_read_row(l->row, tensor, l->model->i2s_arm, 0, &w)) {
    case ROW_READ: return BITRL_OK;
    case ROW_LOST: return bitrl_fail(l->error, BITRL_BAD_FILE, LOST);
    default: return bitrl_fail(l->error, BITRL_BAD_FILE, "is damaged: %s is not finite", name);
    }
}

static int load_vector(const loader *l, const char *name, size_t n, double offset, double **out)
{
    const bitrl_tensor *tensor;
    int status = find_weight(l, name, n, 0, &tensor);
    if (status) return status;
    *out = bitrl_allocate(round_up(n, PAD), sizeof **out);
    if (!*out) return bitrl_fail(l->error, BITRL_NO_MEMORY, "does not fit in memory");
    status = read_only_row(l, tensor, name);
    if (status) return status;
    take_vector(*out, l->row, n, offset);
    return BITRL_OK;
}

/* A factor of the whole matrix in a tensor of its own, which llama.cpp's bitnet files may have. */
static int load_scale(const loader *l, const char *name, matrix *m)
{
    const bitrl_tensor *tensor;
    if (!bitrl_file_find_tensor(l->file, name)) return BITRL_OK;
    int status = find_weight(l, name, 1, 0, &tensor);
    if (status) return status;
    status = read_only_row(l, tensor, name);
    if (status) return status;
    m->file_scale = l->row[0];
    return BITRL_OK;
}

static int pack_failed(const loader *l, pack_result result, const char *name)
{
    switch (result) {
    case PACK_NO_MEMORY: return bitrl_fail(l->error, BITRL_NO_MEMORY, "does not fit in memory");
    case PACK_LOST: return bitrl_fail(l->error, BITRL_BAD_FILE, LOST);
    case PACK_NOT_FINITE: return bitrl_fail(l->error, BITRL_BAD_FILE, "is damaged: %s is not finite", name);
    default:
        return bitrl_fail(l->error, BITRL_BAD_FILE,
                          "is damaged or not a ternary model: %s holds codes or scales other than "
                          "-1, 0, 1 times one finite scale",
                          name);
    }
}

/* A matrix's weights as a file holds them -> as they are multiplied. */
static int take_matrix(const loader *l, matrix *m, const weight_source *source, pool *threads, const char *name)
{
    pack_result result = threads ? bitrl_pack(m, source, l->model->kernels, threads) : PACK_NO_MEMORY;
    return result == PACKED ? BITRL_OK : pack_failed(l, result, name);
}

/* A ternary matrix that has more scales than one, in memory of its own instead of what was reserved for it. */
static int load_blocks(loader *l, matrix *m, const weight_source *source, const char *name)
{
    l->memory -= bitrl_matrix_bytes(m->format, m->rows, m->columns);
    *m = (matrix){.format = TERNARY_BLOCKS, .rows = m->rows, .columns = m->columns, .file_scale = m->file_scale, .own_data = true};
    m->data = bitrl_allocate(bitrl_matrix_bytes(m->format, m->rows, m->columns), 1);
    l->model->has_blocks = true;
    return m->data ? take_matrix(l, m, source, l->threads, name) : pack_failed(l, PACK_NO_MEMORY, name);
}

static int load_matrix(loader *l, size_t i, const named_matrix *named)
{
    char full[NAME], other[NAME];
    const bitrl_tensor *tensor;
    matrix_format format = l->model->format;
    matrix *m = named->matrix;
    int status = find_weight(l, name_of(full, i, named->name, ".weight"), named->columns, named->rows, &tensor);
    if (status) return status;
    if (named->columns > MAX_SUMMED && (format == INT8 || format == INT4))
        return bitrl_fail(l->error, BITRL_BAD_ARGUMENT, "has rows of %zu weights, too long to run in 8 or 4 bits",
                          named->columns);
    *m = (matrix){.format = format, .rows = named->rows, .columns = named->columns, .data = l->memory,
                  .file_scale = 1};
    l->memory += bitrl_matrix_bytes(format, m->rows, m->columns);
    status = load_scale(l, name_of(other, i, named->name, ".scale"), m);
    if (status) return status;
    const weight_source source = {.tensor = tensor, .arm = l->model->i2s_arm, .turned = named->turned};
    bool ternary = format == TERNARY || format == TERNARY_DENSE, floats = bitrl_format_of(tensor->type) != TERNARY;
    if (ternary && floats && bitrl_has_block_scales(&source, m->rows, m->columns, l->model->kernels))
        status = load_blocks(l, m, &source, full);
    else
        status = take_matrix(l, m, &source, l->threads, full);
    if (status && ternary && !floats && bitrl_has_block_scales(&source, m->rows, m->columns, l->model->kernels))
        status = load_blocks(l, m, &source, full);
    if (!status && named->norm) status = load_vector(l, name_of(other, i, named->norm, ".weight"), m->columns, 0, &m->norm);
    return status;
}

static int load_block(loader *l, size_t i, block *b)
{
    named_matrix matrices[MATRICES];
    named_vector vectors[VECTORS];
    char full[NAME];
    int status = BITRL_OK;
    list_block(l->model, b, matrices, vectors);
    for (size_t j = 0; !status && j < VECTORS; j++)
        if (vectors[j].name)
            status = load_vector(l, name_of(full, i, vectors[j].name, vectors[j].suffix), vectors[j].n, vectors[j].offset,
                                 vectors[j].values);
    for (size_t j = 0; !status && j < MATRICES; j++) status = load_matrix(l, i, &matrices[j]);
    return status;
}

/* What the file divides the frequencies by, as Llama 3 and Phi do, in a tensor of its own. */
static int load_rope_factors(const loader *l, bitrl_model *model)
{
    const char *name = "rope_freqs.weight";
    const bitrl_tensor *tensor;
    if (!bitrl_file_find_tensor(l->file, name)) name = "rope_factors_short.weight";
    if (!bitrl_file_find_tensor(l->file, name)) return BITRL_OK;
    int status = find_weight(l, name, model->shape.rope_dims / 2, 0, &tensor);
    if (!status && l->row) status = read_only_row(l, tensor, name);
    for (size_t i = 0; !status && l->row && i < model->shape.rope_dims / 2; i++) {
        if (!(l->row[i] > 0)) return bitrl_fail(l->error, BITRL_BAD_FILE, "is damaged: %s has a factor of %g", name, (double)l->row[i]);
        model->frequencies[i] /= l->row[i];
    }
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
        status = load_vector(l, "output_norm.weight", model->shape.width, model->norm_offset, &model->output_norm);
    return status;
}

/* That of the first matrix. Where it is ternary and others are not, which ternary weights would ruin, 8 bits, which keep ternary
 * ones as they are. */
static matrix_format own_format(const bitrl_file *file)
{
    const bitrl_tensor *first = bitrl_file_find_tensor(file, "blk.0.attn_q.weight");
    matrix_format own = first ? bitrl_format_of(first->type) : TERNARY;
    for (uint64_t i = 0; own == TERNARY && i < bitrl_file_tensor_count(file); i++) {
        const bitrl_tensor *t = bitrl_file_tensor(file, i);
        bool matrix = t->dims == 2 && t->name_bytes > 4 && memcmp(t->name, "blk.", 4) == 0;
        if (matrix && bitrl_format_of(t->type) != TERNARY) own = INT8;
    }
    return own;
}

/* The format asked for, or the file's own. */
static int choose_format(const bitrl_file *file, const char *wanted, matrix_format *out, char *error)
{
    if (!wanted) {
        *out = own_format(file);
        return BITRL_OK;
    }
    for (*out = 0; *out < FORMATS; ++*out)
        if (strcmp(wanted, bitrl_format(*out)) == 0) return BITRL_OK;
    return bitrl_fail(error, BITRL_BAD_ARGUMENT, "cannot be run in a format called %.40s", wanted);
}

/* Bytes of all matrices of all blocks; 0 when they are too many to count. */
static size_t matrices_bytes(const bitrl_model *model)
{
    named_matrix matrices[MATRICES];
    named_vector vectors[VECTORS];
    size_t bytes = 0;
    list_block(model, model->blocks, matrices, vectors);
    for (size_t j = 0; j < MATRICES; j++)
        bytes += bitrl_matrix_bytes(model->format, matrices[j].rows, matrices[j].columns);
    return bytes > (SIZE_MAX - HUGE_PAGE) / model->shape.blocks ? 0 : bytes * model->shape.blocks;
}

/* Memory for all matrices of all blocks at once, in huge pages where the system has them: a product walks through much of
 * it. NULL when there is not enough. */
static uint8_t *reserve_matrices(bitrl_model *model)
{
    size_t bytes = matrices_bytes(model);
    if (!bytes) return NULL;
    bytes += HUGE_PAGE;
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return NULL;
    model->memory = memory;
    model->memory_bytes = bytes;
    uint8_t *aligned = (uint8_t *)memory + (HUGE_PAGE - (uintptr_t)memory % HUGE_PAGE) % HUGE_PAGE;
#ifdef MADV_HUGEPAGE
    madvise(aligned, bytes - HUGE_PAGE, MADV_HUGEPAGE);
#endif
    return aligned;
}

/* Every matrix and norm of the blocks is there in the shape that the keys give it, so that a file is given no more memory
 * than it has use for. */
static int check_tensors(const loader *l)
{
    named_matrix matrices[MATRICES];
    named_vector vectors[VECTORS];
    const bitrl_tensor *tensor;
    char full[NAME];
    int status = BITRL_OK;
    for (size_t i = 0; !status && i < l->model->shape.blocks; i++) {
        list_block(l->model, &l->model->blocks[i], matrices, vectors);
        for (size_t j = 0; !status && j < MATRICES; j++) {
            status = find_weight(l, name_of(full, i, matrices[j].name, ".weight"), matrices[j].columns, matrices[j].rows,
                                 &tensor);
            if (!status && matrices[j].norm)
                status = find_weight(l, name_of(full, i, matrices[j].norm, ".weight"), matrices[j].columns, 0, &tensor);
        }
        for (size_t j = 0; !status && j < VECTORS; j++)
            if (vectors[j].name)
                status = find_weight(l, name_of(full, i, vectors[j].name, vectors[j].suffix), vectors[j].n, 0, &tensor);
    }
    return status;
}

static int load_weights(const bitrl_file *file, bitrl_model *model, uint64_t threads, char *error)
{
    const bitrl_shape *shape = &model->shape;
    size_t heads = shape->heads * shape->head_dim, most = shape->width > shape->ffn ? shape->width : shape->ffn;
    loader l = {.file = file, .model = model, .error = error};
    model->norm_offset = model->architecture.gemma && bitrl_file_is_hugging_face(file) ? 1 : 0;
    int status = check_tensors(&l);
    if (status) return status;
    l.row = bitrl_allocate(most > heads ? most : heads, sizeof *l.row);
    l.memory = reserve_matrices(model);
    l.threads = pool_open(threads);
    if (!l.row || !l.memory || !l.threads) status = bitrl_fail(error, BITRL_NO_MEMORY, "does not fit in memory");
    for (size_t i = 0; !status && i < shape->blocks; i++) status = load_block(&l, i, &model->blocks[i]);
    if (!status) status = load_head(&l, model);
    if (!status) status = load_rope_factors(&l, model);
    pool_close(l.threads);
    free(l.row);
    return status;
}

/* What keys and options say, before any weight is read. */
static int read_model(const bitrl_file *file, const bitrl_options *options, bitrl_model *model, char *error)
{
    int status = BITRL_OK;
    model->i2s_arm = options->i2s_arm;
    model->kernels = bitrl_kernels_find(options->isa);
    if (!model->kernels)
        status = bitrl_fail(error, BITRL_BAD_ARGUMENT, "this CPU has no instruction set %.40s", options->isa);
    if (!status) status = choose_format(file, options->format, &model->format, error);
    if (!status) status = bitrl_read_architecture(file, options, model, error);
    if (!status && (options->threads < 1 || options->threads > MAX_THREADS))
        status = bitrl_fail(error, BITRL_BAD_ARGUMENT, "threads must be from 1 to %d", MAX_THREADS);
    return status;
}

int bitrl_model_load(const bitrl_file *file, const bitrl_options *options, bitrl_model **out, char *error)
{
    *out = NULL;
    bitrl_model *model = calloc(1, sizeof *model);
    if (!model) return bitrl_fail(error, BITRL_NO_MEMORY, "does not fit in memory");
    int status = read_model(file, options, model, error);
    if (!status) status = load_weights(file, model, options->threads, error);
    if (status)
        bitrl_model_free(model);
    else
        *out = model;
    return status;
}

int bitrl_model_check(const bitrl_file *file, const bitrl_options *options, bitrl_shape *shape, uint64_t *bytes, char *error)
{
    bitrl_model *model = calloc(1, sizeof *model);
    if (!model) return bitrl_fail(error, BITRL_NO_MEMORY, "does not fit in memory");
    const loader l = {.file = file, .model = model, .error = error};
    int status = read_model(file, options, model, error);
    if (!status) status = check_tensors(&l);
    if (!status) status = load_rope_factors(&l, model); /* which looks at their shape, without a row to read them into */
    if (!status) {
        *shape = model->shape;
        *bytes = matrices_bytes(model);
    }
    bitrl_model_free(model);
    return status;
}

/* Memory for the head's matrix; false when there is not enough. */
static bool reserve_head(bitrl_model *model)
{
    matrix *m = &model->output;
    /* Products of codes would round the logits of a float model. */
    matrix_format format = model->format == FP32 || model->format == BF16 ? model->format : INT8;
    *m = (matrix){.format = format, .rows = model->shape.vocabulary, .columns = model->shape.width, .file_scale = 1};
    m->data = bitrl_allocate(bitrl_matrix_bytes(format, m->rows, m->columns), 1);
    return m->data != NULL;
}

static void release_head(bitrl_model *model)
{
    free(model->output.data);
    free(model->output.row_scale);
    model->output = (matrix){0};
}

int bitrl_model_add_head(bitrl_model *model, uint64_t threads, char *error)
{
    const loader l = {.model = model, .error = error};
    bool tied = model->head == model->embedding;
    if (model->output.data) return BITRL_OK;
    if (!model->output_norm)
        return bitrl_fail(error, BITRL_BAD_FILE, "lacks the tensor output_norm.weight, so it cannot generate");
    const float *values = tied ? model->replaced_embedding : NULL;
    const weight_source source = {.tensor = values ? NULL : model->head, .arm = model->i2s_arm, .values = values};
    pool *pool = pool_open(threads);
    int status = pool && reserve_head(model)
                     ? take_matrix(&l, &model->output, &source, pool, tied ? "token_embd.weight" : "output.weight")
                     : pack_failed(&l, PACK_NO_MEMORY, "");
    pool_close(pool);
    if (status) release_head(model);
    return status;
}

static size_t adapter_bytes(const adapter *a)
{
    return a ? bitrl_matrix_bytes(FP32, a->down.rows, a->down.columns) + bitrl_matrix_bytes(FP32, a->up.rows, a->up.columns) : 0;
}

uint64_t bitrl_model_bytes_per_token(const bitrl_model *model)
{
    uint64_t bytes = 0;
    if (model->output.data) bytes += bitrl_matrix_bytes(model->output.format, model->output.rows, model->output.columns);
    for (size_t i = 0; i < model->shape.blocks; i++) {
        named_matrix matrices[MATRICES];
        named_vector vectors[VECTORS];
        list_block(model, &model->blocks[i], matrices, vectors);
        for (size_t j = 0; j < MATRICES; j++) {
            const matrix *m = matrices[j].matrix;
            bytes += bitrl_matrix_bytes(m->format, m->rows, m->columns) + adapter_bytes(m->adapter);
        }
    }
    return bytes;
}

/* ---- replacing ---- */

/* Where the weights of a name lie: a matrix, or a norm or bias; the embedding may be a matrix too. */
typedef struct {
    matrix *matrix;
    size_t rows, columns, turned; /* turned: see weight_source */
    double *vector;               /* [columns] */
    double offset;                /* of the vector */
    bool embedding;
} place;

static bool find_in_block(const bitrl_model *model, size_t i, const char *name, place *out)
{
    named_matrix matrices[MATRICES];
    named_vector vectors[VECTORS];
    char full[NAME];
    list_block(model, &model->blocks[i], matrices, vectors);
    for (size_t j = 0; j < VECTORS; j++)
        if (vectors[j].name && strcmp(name, name_of(full, i, vectors[j].name, vectors[j].suffix)) == 0) {
            *out = (place){.vector = *vectors[j].values, .rows = 1, .columns = vectors[j].n, .offset = vectors[j].offset};
            return true;
        }
    for (size_t j = 0; j < MATRICES; j++) {
        matrix *m = matrices[j].matrix;
        if (strcmp(name, name_of(full, i, matrices[j].name, ".weight")) == 0) {
            *out = (place){.matrix = m, .rows = m->rows, .columns = m->columns, .turned = matrices[j].turned};
            return true;
        }
        if (matrices[j].norm && strcmp(name, name_of(full, i, matrices[j].norm, ".weight")) == 0) {
            *out = (place){.vector = m->norm, .rows = 1, .columns = m->columns};
            return true;
        }
    }
    return false;
}

static bool find_place(bitrl_model *model, const char *name, place *out)
{
    const bitrl_shape *shape = &model->shape;
    bool embedding = strcmp(name, "token_embd.weight") == 0, tied = model->head == model->embedding;
    if (embedding || (strcmp(name, "output.weight") == 0 && !tied)) {
        bool head = !embedding || (tied && model->output.data);
        *out = (place){.matrix = head ? &model->output : NULL, .rows = shape->vocabulary, .columns = shape->width,
                       .embedding = embedding};
        return true;
    }
    if (strcmp(name, "output_norm.weight") == 0 && model->output_norm) {
        *out = (place){.vector = model->output_norm, .rows = 1, .columns = shape->width, .offset = model->norm_offset};
        return true;
    }
    unsigned long long i;
    return sscanf(name, "blk.%20llu.", &i) == 1 && i < shape->blocks && find_in_block(model, i, name, out);
}

/* Finds where weights are to go: a vector, or a matrix to pack; their shapes fit, and vectors are finite. */
static int plan(bitrl_model *model, const bitrl_weights *weights, place *where, packing *p, char *error)
{
    size_t n = weights->rows * weights->columns;
    if (!find_place(model, weights->name, where))
        return bitrl_fail(error, BITRL_BAD_ARGUMENT, "has no weights called %.60s that can be replaced", weights->name);
    if (where->vector && n != where->columns)
        return bitrl_fail(error, BITRL_BAD_ARGUMENT, "has %zu weights there, not %zu (%.60s)", where->columns, n, weights->name);
    if (!where->vector && (weights->rows != where->rows || weights->columns != where->columns))
        return bitrl_fail(error, BITRL_BAD_ARGUMENT, "has %zu x %zu weights there, not %llu x %llu (%.60s)", where->rows,
                          where->columns, (unsigned long long)weights->rows, (unsigned long long)weights->columns,
                          weights->name);
    if (where->vector && !bitrl_all_finite(weights->values, n))
        return bitrl_fail(error, BITRL_BAD_ARGUMENT, "cannot hold weights that are not finite (%.60s)", weights->name);
    *p = (packing){.m = where->matrix, .source = {.values = weights->values, .turned = where->turned}, .rows = where->rows,
                   .columns = where->columns};
    return BITRL_OK;
}

/* Finds where all are to go, and the memory for those that have none there yet. packings: those that are no vectors, *packed. */
static int plan_all(bitrl_model *model, const bitrl_weights *weights, uint64_t count, const uint64_t *seed, place *places,
                    packing *packings, size_t *packed, float **embedding, char *error)
{
    int status = BITRL_OK;
    for (uint64_t i = 0; i < count && !status; i++) {
        packing *p = &packings[*packed];
        status = plan(model, &weights[i], &places[i], p, error);
        if (status || places[i].vector) continue;
        if (places[i].embedding && !model->replaced_embedding && !*embedding)
            *embedding = bitrl_allocate(model->shape.vocabulary * model->shape.width, sizeof **embedding);
        if (places[i].embedding) p->copy = *embedding ? *embedding : model->replaced_embedding;
        bool held = !places[i].embedding || p->copy;
        if (p->m && !p->m->data) held = reserve_head(model) && held; /* of an output.weight before the head was wanted */
        if (!held) status = bitrl_fail(error, BITRL_NO_MEMORY, "does not fit in memory");
        if (seed) p->key = bitrl_random_key(*seed, weights[i].name);
        ++*packed;
    }
    return status;
}

static int refuse(pack_result result, const bitrl_weights *weights, const place *places, size_t failed, char *error)
{
    if (result == PACK_NO_MEMORY) return bitrl_fail(error, BITRL_NO_MEMORY, "does not fit in memory");
    while (places->vector || failed) failed -= !places++->vector, weights++; /* the failed one of those that are no vectors */
    return bitrl_fail(error, BITRL_BAD_ARGUMENT, "cannot hold weights that are not finite (%.60s)", weights->name);
}

int bitrl_model_replace_all(bitrl_model *model, const bitrl_weights *weights, uint64_t count, const uint64_t *seed,
                            uint64_t threads, bitrl_replaced *replaced, char *error)
{
    if (threads < 1 || threads > MAX_THREADS)
        return bitrl_fail(error, BITRL_BAD_ARGUMENT, "threads must be from 1 to %d", MAX_THREADS);
    *replaced = (bitrl_replaced){0};
    place *places = calloc(count + 1, sizeof *places);
    packing *packings = calloc(count + 1, sizeof *packings);
    pool *pool = pool_open(threads);
    float *embedding = NULL; /* room for the first other one */
    bool headless = !model->output.data;
    size_t packed = 0, failed;
    int status = places && packings && pool ? BITRL_OK : bitrl_fail(error, BITRL_NO_MEMORY, "does not fit in memory");
    if (!status) status = plan_all(model, weights, count, seed, places, packings, &packed, &embedding, error);
    if (!status) {
        pack_result result = bitrl_pack_all(packings, packed, model->kernels, pool, seed != NULL, replaced, &failed);
        if (result != PACKED) status = refuse(result, weights, places, failed, error);
    }
    if (!status) {
        for (uint64_t i = 0; i < count; i++)
            if (places[i].vector) take_vector(places[i].vector, weights[i].values, places[i].columns, places[i].offset);
        if (embedding) model->replaced_embedding = embedding;
        model->version++;
    } else {
        free(embedding);
        if (headless) release_head(model);
    }
    pool_close(pool);
    free(packings);
    free(places);
    return status;
}

/* ---- adapters ---- */

static void free_adapter(adapter *a)
{
    if (a) free(a->memory);
    free(a);
}

/* NULL when memory is short. turned: see weight_source. */
static adapter *make_adapter(const bitrl_model *model, const float *down, const float *up, size_t rank, size_t rows,
                             size_t columns, size_t turned)
{
    adapter *a = calloc(1, sizeof *a);
    pool *pool = pool_open(1);
    bool packed = false;
    if (a && pool) {
        a->down = (matrix){.format = FP32, .rows = rank, .columns = columns, .file_scale = 1};
        a->up = (matrix){.format = FP32, .rows = rows, .columns = rank, .file_scale = 1};
        a->down.data = a->memory = bitrl_allocate(adapter_bytes(a), 1);
        if (a->memory) a->up.data = a->memory + bitrl_matrix_bytes(FP32, rank, columns);
        const weight_source downs = {.values = down}, ups = {.values = up, .turned = turned};
        packed = a->memory && bitrl_pack(&a->down, &downs, model->kernels, pool) == PACKED &&
                 bitrl_pack(&a->up, &ups, model->kernels, pool) == PACKED;
    }
    pool_close(pool);
    if (packed) return a;
    free_adapter(a);
    return NULL;
}

/* Says which matrices' inputs adapters read: q, k and v have one input, gate and up have one. */
static void mark_inputs(block *b)
{
    b->q.float_input = b->k.float_input = b->v.float_input = b->q.adapter || b->k.adapter || b->v.adapter;
    b->o.float_input = b->o.adapter != NULL;
    b->gate.float_input = b->up.float_input = b->gate.adapter || b->up.adapter;
    b->down.float_input = b->down.adapter != NULL;
}

int bitrl_model_adapt(bitrl_model *model, const char *name, const float *down, const float *up, uint64_t rank,
                      uint64_t rows, uint64_t columns, char *error)
{
    for (size_t i = 0; i < model->shape.blocks; i++) {
        named_matrix matrices[MATRICES];
        named_vector vectors[VECTORS];
        char full[NAME];
        list_block(model, &model->blocks[i], matrices, vectors);
        for (size_t j = 0; j < MATRICES; j++) {
            matrix *m = matrices[j].matrix;
            if (strcmp(name, name_of(full, i, matrices[j].name, ".weight")) != 0) continue;
            size_t most = m->rows < m->columns ? m->rows : m->columns;
            if (rows != m->rows || columns != m->columns)
                return bitrl_fail(error, BITRL_BAD_ARGUMENT,
                                  "expected down [rank, %zu] and up [%zu, rank], got down [%llu, %llu] and up [%llu, %llu]",
                                  m->columns, m->rows, (unsigned long long)rank, (unsigned long long)columns,
                                  (unsigned long long)rows, (unsigned long long)rank);
            if (rank < 1 || rank > most)
                return bitrl_fail(error, BITRL_BAD_ARGUMENT, "expected a rank from 1 to %zu, got %llu", most,
                                  (unsigned long long)rank);
            if (!bitrl_all_finite(down, rank * columns) || !bitrl_all_finite(up, rows * rank))
                return bitrl_fail(error, BITRL_BAD_ARGUMENT, "expected finite values, got some that are not");
            adapter *a = make_adapter(model, down, up, rank, rows, columns, matrices[j].turned);
            if (!a) return bitrl_fail(error, BITRL_NO_MEMORY, "does not fit in memory");
            free_adapter(m->adapter);
            m->adapter = a;
            mark_inputs(&model->blocks[i]);
            if (rank > model->rank) model->rank = rank;
            model->version++;
            return BITRL_OK;
        }
    }
    return bitrl_fail(error, BITRL_BAD_ARGUMENT, "expected a projection of one of the %llu blocks, such as blk.0.attn_q.weight",
                      (unsigned long long)model->shape.blocks);
}

void bitrl_model_unadapt(bitrl_model *model)
{
    for (size_t i = 0; i < model->shape.blocks; i++) {
        named_matrix matrices[MATRICES];
        named_vector vectors[VECTORS];
        list_block(model, &model->blocks[i], matrices, vectors);
        for (size_t j = 0; j < MATRICES; j++) {
            free_adapter(matrices[j].matrix->adapter);
            matrices[j].matrix->adapter = NULL;
        }
        mark_inputs(&model->blocks[i]);
    }
    model->rank = 0;
    model->version++;
}

void bitrl_model_free(bitrl_model *model)
{
    if (!model) return;
    for (size_t i = 0; model->blocks && i < model->shape.blocks; i++) {
        named_matrix matrices[MATRICES];
        named_vector vectors[VECTORS];
        list_block(model, &model->blocks[i], matrices, vectors);
        for (size_t j = 0; j < MATRICES; j++) {
            free(matrices[j].matrix->row_scale);
            free(matrices[j].matrix->norm);
            if (matrices[j].matrix->own_data) free(matrices[j].matrix->data);
            free_adapter(matrices[j].matrix->adapter);
        }
        for (size_t j = 0; j < VECTORS; j++) free(*vectors[j].values);
    }
    if (model->memory) munmap(model->memory, model->memory_bytes);
    free(model->output.data);
    free(model->output.row_scale);
    free(model->replaced_embedding);
    free(model->output_norm);
    free(model->frequencies);
    free(model->local_frequencies);
    free(model->blocks);
    free(model);
}

const bitrl_shape *bitrl_model_shape(const bitrl_model *model) { return &model->shape; }
const char *bitrl_model_isa(const bitrl_model *model) { return model->kernels->name; }
const char *bitrl_model_format(const bitrl_model *model) { return bitrl_format(model->format); }
