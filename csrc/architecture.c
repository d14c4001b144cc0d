/* What a file's keys say: its architecture, shape and constants, checked against each other.
 *
 * Knows the keys and tensor names of the bitnet-b1.58 family, llama, qwen3 and gemma3, as llama.cpp writes them, and the
 * norms that BitNet's embedding models put before each projection. Whatever else could change the numbers is refused.
 * It reads no weights. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

enum { MAX_WIDTH = 1 << 16, MAX_FFN = 1 << 20, MAX_BLOCKS = 4096, MAX_CONTEXT = 1 << 20 };

typedef struct {
    const bitrl_file *file;
    const char *prefix; /* of the architecture's own keys */
    char *error;
} reader;

static const bitrl_key *find_key(const reader *r, const char *name, char full[128])
{
    snprintf(full, 128, "%s.%s", r->prefix, name);
    return bitrl_file_find_key(r->file, full);
}

/* Reads an integer key between 1 and `most`; 0 as `otherwise` means the key must be there. */
static int read_count(const reader *r, const char *name, uint64_t otherwise, uint64_t most, uint64_t *out)
{
    char full[128];
    const bitrl_key *key = find_key(r, name, full);
    *out = otherwise;
    if (!key && otherwise) return BITRL_OK;
    if (!key) return bitrl_fail(r->error, BITRL_BAD_FILE, "lacks the key %s", full);
    *out = 0;
    if (key->type == GGUF_UINT32 || key->type == GGUF_INT32) {
        uint32_t value;
        memcpy(&value, key->value, sizeof value);
        *out = value;
    } else if (key->type == GGUF_UINT64)
        memcpy(out, key->value, sizeof *out);
    if (*out < 1 || *out > most)
        return bitrl_fail(r->error, BITRL_BAD_FILE, "has %s = %llu; it must be an integer from 1 to %llu", full,
                          (unsigned long long)*out, (unsigned long long)most);
    return BITRL_OK;
}

static int read_positive(const reader *r, const char *name, double otherwise, double *out)
{
    char full[128];
    const bitrl_key *key = find_key(r, name, full);
    *out = otherwise;
    if (!key && otherwise > 0) return BITRL_OK;
    if (!key) return bitrl_fail(r->error, BITRL_BAD_FILE, "lacks the key %s", full);
    float value = NAN;
    if (key->type == GGUF_FLOAT32) memcpy(&value, key->value, sizeof value);
    *out = value;
    if (!(value > 0) || isinf(value))
        return bitrl_fail(r->error, BITRL_BAD_FILE, "has %s = %g; it must be a positive number", full, (double)value);
    return BITRL_OK;
}

static bool is_text(const bitrl_key *key, const char *text)
{
    return key && key->type == GGUF_STRING && key->value_bytes - 8 == strlen(text) &&
           memcmp(key->value + 8, text, strlen(text)) == 0;
}

static int read_name(reader *r, architecture *out)
{
    /* "bitnet" is what llama.cpp calls two models with two activations. */
    static const architecture known[] = {
        {.name = "bitnet-b1.58", .sub_norms = true, .says_activation = true, .activation = RELU2},
        {.name = "bitnet-25", .sub_norms = true, .says_activation = true, .activation = RELU2},
        {.name = "bitnet", .sub_norms = true},
        {.name = "llama", .turned = true, .says_activation = true, .activation = SILU},
        {.name = "qwen3", .head_norms = true, .says_activation = true, .activation = SILU},
        {.name = "gemma3", .head_norms = true, .gemma = true, .says_activation = true, .activation = GELU}};
    const bitrl_key *key = bitrl_file_find_key(r->file, "general.architecture");
    if (!key || key->type != GGUF_STRING)
        return bitrl_fail(r->error, BITRL_BAD_FILE, "lacks the key general.architecture");
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (is_text(key, known[i].name)) {
            *out = known[i];
            out->turned = out->turned && !bitrl_file_is_hugging_face(r->file);
            r->prefix = known[i].name;
            return BITRL_OK;
        }
    uint64_t bytes = key->value_bytes - 8;
    return bitrl_fail(
        r->error, BITRL_BAD_FILE,
        "holds a model of architecture %.*s; supported are bitnet-b1.58, bitnet-25, bitnet, llama, qwen3 and gemma3",
        bytes > 40 ? 40 : (int)bytes, (const char *)key->value + 8);
}

/* Never guessed: the caller, the file or its architecture must name the activation. Hugging Face's "gelu" is another one
 * than gelu_pytorch_tanh, so a file's "gelu" is not taken for it. */
static int read_activation(const reader *r, const char *wanted, architecture *a)
{
    static const struct {
        const char *name, *in_files, *or;
    } known[] = {[RELU2] = {"relu2", "relu2", "relu2"},
                 [SILU] = {"silu", "silu", "swish"},
                 [GELU] = {"gelu", "gelu_pytorch_tanh", "gelu_pytorch_tanh"}};
    char full[128];
    const bitrl_key *key = find_key(r, "hidden_activation", full);
    for (activation_function i = 0; i <= GELU; i++)
        if (wanted ? strcmp(wanted, known[i].name) == 0 : is_text(key, known[i].in_files) || is_text(key, known[i].or)) {
            a->activation = i;
            return BITRL_OK;
        }
    if (wanted)
        return bitrl_fail(r->error, BITRL_BAD_ARGUMENT, "cannot be run with an activation called %.40s", wanted);
    if (key)
        return bitrl_fail(r->error, BITRL_BAD_FILE,
                          "has %s other than relu2, silu and gelu_pytorch_tanh, which is not supported", full);
    if (!a->says_activation)
        return bitrl_fail(r->error, BITRL_BAD_FILE,
                          "lacks the key %s: name the activation (-o backbone.activation=relu2 or silu)", full);
    return BITRL_OK;
}

/* ---- what is not computed is not passed over ---- */

static bool is_one_of(const char *name, size_t bytes, const char *const *names, size_t count, const char *suffix)
{
    for (size_t i = 0; i < count; i++)
        if (bytes == strlen(names[i]) + strlen(suffix) && memcmp(name, names[i], strlen(names[i])) == 0 &&
            memcmp(name + strlen(names[i]), suffix, strlen(suffix)) == 0)
            return true;
    return false;
}

#define ONE_OF(names, suffix) is_one_of(name, bytes, names, sizeof(names) / sizeof *(names), suffix)

static bool is_known(const architecture *a, const char *name, size_t bytes)
{
    static const char *const whole[] = {"token_embd", "output_norm", "output"}, *const norms[] = {"attn_norm", "ffn_norm"},
                             *const sub_norms[] = {"attn_sub_norm", "ffn_sub_norm"},
                             *const head_norms[] = {"attn_q_norm", "attn_k_norm"},
                             *const post_norms[] = {"post_attention_norm", "post_ffw_norm"},
                             *const matrices[] = {"attn_q",   "attn_k", "attn_v",  "attn_output",
                                                  "ffn_gate", "ffn_up", "ffn_down"};
    if (ONE_OF(whole, ".weight")) return true;
    if (bytes < 4 || memcmp(name, "blk.", 4) != 0) return false;
    for (name += 4, bytes -= 4; bytes && *name >= '0' && *name <= '9'; bytes--) name++;
    if (bytes-- == 0 || *name++ != '.') return false;
    return ONE_OF(norms, ".weight") || ONE_OF(matrices, ".weight") || ONE_OF(matrices, ".scale") ||
           (a->sub_norms && ONE_OF(sub_norms, ".weight")) || (a->head_norms && ONE_OF(head_norms, ".weight")) ||
           (a->gemma && ONE_OF(post_norms, ".weight")) || (!a->sub_norms && ONE_OF(matrices, "_norm_in.weight"));
}

/* Also finds out whether projections have norms of their own, which no key says. */
static int check_tensors(const reader *r, architecture *a)
{
    static const char in[] = "_norm_in.weight";
    for (uint64_t i = 0; i < bitrl_file_tensor_count(r->file); i++) {
        const bitrl_tensor *t = bitrl_file_tensor(r->file, i);
        if (!is_known(a, t->name, t->name_bytes))
            return bitrl_fail(r->error, BITRL_BAD_FILE, "has the tensor %.*s, which is not supported",
                              t->name_bytes > 80 ? 80 : (int)t->name_bytes, t->name);
        size_t bytes = sizeof in - 1;
        a->input_norms |= t->name_bytes > bytes && memcmp(t->name + t->name_bytes - bytes, in, bytes) == 0;
    }
    return BITRL_OK;
}

static int check_keys(const reader *r, const architecture *a)
{
    static const char *const none[] = {"attn_logit_softcapping", "final_logit_softcapping", "expert_count",
                                       "logit_scale",            "residual_scale",          "embedding_scale",
                                       "attention.clamp_kqv",    "attention.output_scale",  "attention.key_length_swa",
                                       "attention.sliding_window"}; /* gemma3 reads the last one */
    char full[128];
    for (size_t i = 0; i < sizeof none / sizeof *none - (a->gemma ? 1 : 0); i++) {
        const bitrl_key *key = find_key(r, none[i], full);
        bool set = false;
        for (uint64_t j = 0; key && j < key->value_bytes; j++) set |= key->value[j] != 0;
        if (set) return bitrl_fail(r->error, BITRL_BAD_FILE, "has %s, which is not supported", full);
    }
    const bitrl_key *causal = find_key(r, "attention.causal", full);
    if (causal && (causal->type != GGUF_BOOL || causal->value[0] == 0))
        return bitrl_fail(r->error, BITRL_BAD_FILE, "reads its texts in both directions (%s), which is not supported",
                          full);
    const bitrl_key *scaling = find_key(r, "rope.scaling.type", full);
    if (is_text(scaling, "none")) return BITRL_OK;
    const bitrl_key *factor = scaling ? scaling : find_key(r, "rope.scaling.factor", full);
    if (!factor) factor = find_key(r, "rope.scale_linear", full);
    float value = 0;
    if (factor && factor->type == GGUF_FLOAT32) memcpy(&value, factor->value, sizeof value);
    if (factor && value != 1)
        return bitrl_fail(r->error, BITRL_BAD_FILE, "scales its positions (%s), which is not supported", full);
    return BITRL_OK;
}

/* ---- shape ---- */

static int read_heads(const reader *r, bitrl_shape *shape)
{
    uint64_t value_length = 0, rope_dimensions = 0;
    int status;
    if ((status = read_count(r, "attention.head_count", 0, MAX_WIDTH, &shape->heads)) ||
        (status = read_count(r, "attention.head_count_kv", shape->heads, shape->heads, &shape->kv_heads)))
        return status;
    /* Without the key, heads divide the width; 0 if they do not: then the key must be there. */
    uint64_t usual = shape->width % shape->heads ? 0 : shape->width / shape->heads;
    if ((status = read_count(r, "attention.key_length", usual, MAX_WIDTH, &shape->head_dim)) ||
        (status = read_count(r, "attention.value_length", shape->head_dim, MAX_WIDTH, &value_length)) ||
        (status = read_count(r, "rope.dimension_count", shape->head_dim, MAX_WIDTH, &rope_dimensions)))
        return status;
    if (shape->heads % shape->kv_heads || shape->head_dim % 2 || shape->heads * shape->head_dim > MAX_WIDTH)
        return bitrl_fail(r->error, BITRL_BAD_FILE,
                          "has %llu heads of %llu and %llu key/value heads: heads must be a multiple of the latter, and "
                          "even, and all together at most %d wide",
                          (unsigned long long)shape->heads, (unsigned long long)shape->head_dim,
                          (unsigned long long)shape->kv_heads, MAX_WIDTH);
    if (value_length != shape->head_dim)
        return bitrl_fail(r->error, BITRL_BAD_FILE, "has values of %llu but keys of %llu, which is not supported",
                          (unsigned long long)value_length, (unsigned long long)shape->head_dim);
    if (rope_dimensions != shape->head_dim)
        return bitrl_fail(r->error, BITRL_BAD_FILE, "rotates %llu of %llu head dimensions, which is not supported",
                          (unsigned long long)rope_dimensions, (unsigned long long)shape->head_dim);
    return BITRL_OK;
}

static int read_shape(const reader *r, bitrl_model *model)
{
    bitrl_shape *shape = &model->shape;
    uint64_t vocabulary = 0;
    int status;
    if ((status = read_count(r, "block_count", 0, MAX_BLOCKS, &shape->blocks)) ||
        (status = read_count(r, "embedding_length", 0, MAX_WIDTH, &shape->width)) ||
        (status = read_count(r, "feed_forward_length", 0, MAX_FFN, &shape->ffn)) || (status = read_heads(r, shape)) ||
        (status = read_count(r, "context_length", 0, MAX_CONTEXT, &shape->context)) ||
        (status = read_positive(r, "attention.layer_norm_rms_epsilon", 0, &shape->eps)) ||
        (status = read_positive(r, "rope.freq_base", 10000, &shape->rope_theta)))
        return status;

    const bitrl_tensor *embedding = model->embedding = bitrl_file_find_tensor(r->file, "token_embd.weight");
    if (!embedding || embedding->dims != 2 || embedding->shape[0] != shape->width || embedding->shape[1] > INT32_MAX)
        return bitrl_fail(r->error, BITRL_BAD_FILE, "lacks token_embd.weight in rows of %llu",
                          (unsigned long long)shape->width);
    if (!bitrl_packing_fits(embedding, model->i2s_arm))
        return bitrl_fail(r->error, BITRL_BAD_FILE, BAD_PACKING, 17, "token_embd.weight");
    shape->vocabulary = embedding->shape[1];
    if ((status = read_count(r, "vocab_size", shape->vocabulary, INT32_MAX, &vocabulary))) return status;
    if (vocabulary != shape->vocabulary)
        return bitrl_fail(r->error, BITRL_BAD_FILE, "has a vocabulary of %llu but an embedding of %llu rows",
                          (unsigned long long)vocabulary, (unsigned long long)shape->vocabulary);
    return BITRL_OK;
}

/* Which of gemma's blocks are local: those the pattern's array says, or all but each n-th. As in llama.cpp none is in a
 * file that names no window. */
static int read_windows(const reader *r, bitrl_model *model)
{
    char full[128];
    uint64_t every = 6, blocks = model->shape.blocks;
    const bitrl_key *pattern = find_key(r, "attention.sliding_window_pattern", full);
    if (!pattern && !find_key(r, "attention.sliding_window", full)) return BITRL_OK;
    int status = read_count(r, "attention.sliding_window", 0, MAX_CONTEXT, &model->window);
    if (!status) status = read_positive(r, "rope.local_freq_base", 10000, &model->local_rope_theta);
    if (!status) status = read_positive(r, "rope.freq_base_swa", model->local_rope_theta, &model->local_rope_theta);
    if (status) return status;
    pattern = find_key(r, "attention.sliding_window_pattern", full);
    bool listed = pattern && pattern->type == GGUF_ARRAY;
    if (listed && (pattern->count != blocks || pattern->element_type != GGUF_BOOL))
        return bitrl_fail(r->error, BITRL_BAD_FILE, "has %s other than a number or %llu booleans", full,
                          (unsigned long long)blocks);
    if (!listed && (status = read_count(r, "attention.sliding_window_pattern", every, MAX_BLOCKS, &every))) return status;
    for (uint64_t i = 0; i < blocks; i++)
        model->blocks[i].local = listed ? pattern->value[i] != 0 : (i + 1) % every != 0;
    return BITRL_OK;
}

/* What the architecture and its keys multiply with. */
static int read_factors(const reader *r, bitrl_model *model)
{
    enum { GEMMA_27B = 62 }; /* blocks; the one gemma3 whose queries are scaled by another width than their own */
    const bitrl_shape *shape = &model->shape;
    bool gemma = model->architecture.gemma;
    double scaled = gemma && shape->blocks == GEMMA_27B ? (double)(shape->width / shape->heads) : (double)shape->head_dim;
    model->embedding_scale = gemma ? (float)sqrt((double)shape->width) : 1; /* transformers keeps it in float32 */
    return read_positive(r, "attention.scale", 1.0 / sqrt(scaled), &model->attention_scale);
}

int bitrl_read_architecture(const bitrl_file *file, const bitrl_options *options, bitrl_model *model, char *error)
{
    reader r = {.file = file, .error = error};
    architecture *a = &model->architecture;
    bitrl_shape *shape = &model->shape;
    int status;
    if ((status = read_name(&r, a)) || (status = read_activation(&r, options->activation, a)) ||
        (status = check_tensors(&r, a)) || (status = check_keys(&r, a)) || (status = read_shape(&r, model)) ||
        (status = read_factors(&r, model)))
        return status;
    model->blocks = calloc(shape->blocks, sizeof *model->blocks);
    if (!model->blocks) return bitrl_fail(error, BITRL_NO_MEMORY, "does not fit in memory");
    if (a->gemma && (status = read_windows(&r, model))) return status;
    if (options->layers > shape->blocks)
        return bitrl_fail(error, BITRL_BAD_ARGUMENT, "has %llu blocks, fewer than the %llu layers asked for",
                          (unsigned long long)shape->blocks, (unsigned long long)options->layers);
    if (options->layers) shape->blocks = options->layers;
    return BITRL_OK;
}
