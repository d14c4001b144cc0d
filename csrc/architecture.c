/* What a file's keys say: its architecture, shape and constants, checked against each other.
 *
 * Knows the keys and tensor names of the bitnet-b1.58 family, llama (and Mistral), qwen2, qwen3, gemma2, gemma3, phi3 and smollm3,
 * as llama.cpp writes them, and the norms that BitNet's embedding models put before each projection. Whatever else could change the numbers is refused.
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
        {.name = "llama", .turned = true, .all_local = true, .says_activation = true, .activation = SILU},
        {.name = "qwen2", .biases = true, .says_activation = true, .activation = SILU},
        {.name = "qwen3", .head_norms = true, .says_activation = true, .activation = SILU},
        {.name = "gemma2", .gemma = true, .caps = true, .local_every = 2, .usual_window = 4096, .largest = 46, .says_activation = true, .activation = GELU},
        {.name = "gemma3", .head_norms = true, .gemma = true, .local_rope = true, .local_every = 6, .largest = 62,
         .says_activation = true, .activation = GELU},
        {.name = "phi3", .turns_less = true, .all_local = true, .says_activation = true, .activation = SILU},
        {.name = "smollm3", .turned = true, .unturned_every = 4, .says_activation = true, .activation = SILU}};
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
        "holds a model of architecture %.*s, which is not supported; supported are bitnet-b1.58, bitnet-25, bitnet, llama, qwen2, "
        "qwen3, gemma2, gemma3, phi3 and smollm3",
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
    static const char *const whole[] = {"token_embd", "output_norm", "output", "rope_freqs"},
                             *const of_phi[] = {"rope_factors_short", "rope_factors_long"}, *const biased[] = {"attn_q", "attn_k", "attn_v"},
                             *const norms[] = {"attn_norm", "ffn_norm"},
                             *const sub_norms[] = {"attn_sub_norm", "ffn_sub_norm"},
                             *const head_norms[] = {"attn_q_norm", "attn_k_norm"},
                             *const post_norms[] = {"post_attention_norm", "post_ffw_norm"},
                             *const matrices[] = {"attn_q",   "attn_k", "attn_v",  "attn_output",
                                                  "ffn_gate", "ffn_up", "ffn_down"};
    if (ONE_OF(whole, ".weight") || (a->turns_less && ONE_OF(of_phi, ".weight"))) return true;
    if (bytes < 4 || memcmp(name, "blk.", 4) != 0) return false;
    for (name += 4, bytes -= 4; bytes && *name >= '0' && *name <= '9'; bytes--) name++;
    if (bytes-- == 0 || *name++ != '.') return false;
    return ONE_OF(norms, ".weight") || ONE_OF(matrices, ".weight") || ONE_OF(matrices, ".scale") ||
           (a->sub_norms && ONE_OF(sub_norms, ".weight")) || (a->head_norms && ONE_OF(head_norms, ".weight")) ||
           (a->gemma && ONE_OF(post_norms, ".weight")) || (a->biases && ONE_OF(biased, ".bias")) || (!a->sub_norms && ONE_OF(matrices, "_norm_in.weight"));
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

/* Whether there is such a key, and it is not zero. */
static bool is_set(const bitrl_key *key)
{
    bool set = false;
    for (uint64_t j = 0; key && j < key->value_bytes; j++) set |= key->value[j] != 0;
    return set;
}

static int check_keys(const reader *r, const architecture *a)
{
    static const char *const none[] = {"expert_count",           "logit_scale",
                                       "residual_scale",         "embedding_scale",
                                       "attention.clamp_kqv",    "attention.output_scale",
                                       "attention.key_length_swa", "rope.scaling.yarn_log_multiplier",
                                       "rope.scaling.yarn_attn_factor", /* a factor in llama.cpp, the whole in its converter */
                                       "rope.scaling.alpha",     "attention.temperature_length",
                                       "attention.temperature_scale", "attention.max_alibi_bias",
                                       "attention.shared_kv_layers", "use_parallel_residual",
                                       "attn_logit_softcapping", "final_logit_softcapping"}; /* read_caps reads the last two */
    char full[128];
    for (size_t i = 0; i < sizeof none / sizeof *none - (a->caps ? 2 : 0); i++) {
        const bitrl_key *key = find_key(r, none[i], full);
        if (is_set(key)) return bitrl_fail(r->error, BITRL_BAD_FILE, "has %s, which is not supported", full);
    }
    const bitrl_key *causal = find_key(r, "attention.causal", full);
    if (causal && (causal->type != GGUF_BOOL || causal->value[0] == 0))
        return bitrl_fail(r->error, BITRL_BAD_FILE, "reads its texts in both directions (%s), which is not supported",
                          full);
    return BITRL_OK;
}

/* ---- shape ---- */

static int read_heads(const reader *r, bitrl_shape *shape, bool may_turn_less)
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
    shape->rope_dims = rope_dimensions;
    if (rope_dimensions != shape->head_dim && !(may_turn_less && rope_dimensions < shape->head_dim && rope_dimensions % 2 == 0))
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
        (status = read_count(r, "feed_forward_length", 0, MAX_FFN, &shape->ffn)) || 
        (status = read_heads(r, shape, model->architecture.turns_less)) ||
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

/* A key that is an array of a boolean for each block; NULL where there is none, or it is no array. */
static int read_pattern(const reader *r, const char *name, uint64_t blocks, const bitrl_key **out)
{
    char full[128];
    const bitrl_key *pattern = find_key(r, name, full);
    *out = pattern && pattern->type == GGUF_ARRAY ? pattern : NULL;
    if (*out && (pattern->count != blocks || pattern->element_type != GGUF_BOOL))
        return bitrl_fail(r->error, BITRL_BAD_FILE, "has %s other than a number or %llu booleans", full,
                          (unsigned long long)blocks);
    return BITRL_OK;
}

/* Which blocks see a window alone: those that the pattern's array says, or all but each n-th, or all, as the architecture has it.
 * As in llama.cpp none does in a file that names no window, but gemma2's, of which the first files did not name theirs. */
static int read_windows(const reader *r, bitrl_model *model)
{
    const architecture *a = &model->architecture;
    char full[128];
    uint64_t every = a->local_every, blocks = model->shape.blocks;
    const bitrl_key *pattern = find_key(r, "attention.sliding_window_pattern", full), *listed;
    const bitrl_key *window = find_key(r, "attention.sliding_window", full);
    if (!a->usual_window && (a->gemma ? !pattern && !window : !is_set(window))) return BITRL_OK;
    if (!pattern && !every && !a->all_local)
        return bitrl_fail(r->error, BITRL_BAD_FILE, "has %s but no attention.sliding_window_pattern, which is not supported", full);
    int status = read_count(r, "attention.sliding_window", a->usual_window, MAX_CONTEXT, &model->window);
    if (!status) status = read_pattern(r, "attention.sliding_window_pattern", blocks, &listed);
    if (!status && pattern && !listed)
        status = read_count(r, "attention.sliding_window_pattern", 0, MAX_BLOCKS, &every);
    for (uint64_t i = 0; i < blocks && !status; i++)
        model->blocks[i].local = listed ? listed->value[i] != 0 : !every || (i + 1) % every != 0;
    return status;
}

/* Which blocks do not rotate q and k: each n-th, unless an array says of each whether it does. */
static int read_unturned(const reader *r, bitrl_model *model)
{
    const bitrl_key *turned;
    uint64_t every = model->architecture.unturned_every, blocks = model->shape.blocks;
    if (!every) return BITRL_OK;
    int status = read_pattern(r, "rope.layers", blocks, &turned);
    for (uint64_t i = 0; i < blocks && !status; i++)
        model->blocks[i].unturned = turned ? turned->value[i] == 0 : (i + 1) % every == 0;
    return status;
}

/* ---- rotations ---- */

static int read_original(const reader *r, double *out)
{
    uint64_t positions = 0;
    int status = read_count(r, "rope.scaling.original_context_length", 0, MAX_CONTEXT, &positions);
    *out = (double)positions;
    return status;
}

static int read_scaling(const reader *r, rope_scaling *s)
{
    char full[128];
    const bitrl_key *type = find_key(r, "rope.scaling.type", full);
    double linear = 1;
    int status;
    *s = (rope_scaling){.kind = ROPE_LINEAR, .factor = 1};
    if ((status = read_positive(r, "rope.scaling.attn_factor", 1, &s->attention))) return status;
    if (is_text(type, "none")) {
        s->kind = ROPE_PLAIN;
        return BITRL_OK;
    }
    if (is_text(type, "longrope")) { /* its factors are tensors */
        s->kind = ROPE_PLAIN;
        return BITRL_OK;
    }
    if (type && !is_text(type, "linear") && !is_text(type, "yarn")) {
        uint64_t bytes = type->type == GGUF_STRING ? type->value_bytes - 8 : 0;
        return bitrl_fail(r->error, BITRL_BAD_FILE, "scales its positions by %.*s (%s), which is not supported; supported are linear, "
                          "yarn and longrope", bytes > 40 ? 40 : (int)bytes, (const char *)type->value + (bytes ? 8 : 0), full);
    }
    if ((status = read_positive(r, "rope.scale_linear", 1, &linear)) ||
        (status = read_positive(r, "rope.scaling.factor", linear, &s->factor)) || !is_text(type, "yarn"))
        return status;
    s->kind = ROPE_YARN;
    if ((status = read_original(r, &s->original)) ||
        (status = read_positive(r, "rope.scaling.yarn_beta_fast", 32, &s->fast)) ||
        (status = read_positive(r, "rope.scaling.yarn_beta_slow", 1, &s->slow)))
        return status;
    return BITRL_OK;
}

/* Beyond the first context longrope's factors would be others, so no more is read. llama.cpp's files of Phi have its factors
 * without naming the type. */
static int read_first_context(const reader *r, bitrl_shape *shape)
{
    static const char short_factors[] = "rope_factors_short.weight";
    char full[128];
    bool named = is_text(find_key(r, "rope.scaling.type", full), "longrope");
    bool factors = bitrl_file_find_tensor(r->file, short_factors);
    double first;
    if (!named && !factors) return BITRL_OK;
    if (!factors && !bitrl_file_find_tensor(r->file, "rope_freqs.weight"))
        return bitrl_fail(r->error, BITRL_BAD_FILE, "lacks the tensor %s", short_factors);
    int status = read_original(r, &first);
    if (!status && first < (double)shape->context) shape->context = (uint64_t)first;
    return status;
}

static int read_rope(const reader *r, bitrl_model *model)
{
    bitrl_shape *shape = &model->shape;
    const architecture *a = &model->architecture;
    size_t dims = shape->rope_dims;
    rope_scaling scaling;
    double local_theta = 10000;
    int status = read_scaling(r, &scaling);
    if (!status) status = read_first_context(r, shape);
    if (!status && a->local_rope && model->window) {
        status = read_positive(r, "rope.local_freq_base", 10000, &local_theta);
        if (!status) status = read_positive(r, "rope.freq_base_swa", local_theta, &local_theta);
        if (!status) model->local_frequencies = bitrl_allocate(dims / 2, sizeof *model->local_frequencies);
        if (!status && !model->local_frequencies) return bitrl_fail(r->error, BITRL_NO_MEMORY, "does not fit in memory");
    }
    if (status) return status;
    model->frequencies = bitrl_allocate(dims / 2, sizeof *model->frequencies);
    if (!model->frequencies) return bitrl_fail(r->error, BITRL_NO_MEMORY, "does not fit in memory");
    bitrl_frequencies(model->frequencies, dims, shape->rope_theta);
    model->rope_factor = bitrl_scale_frequencies(model->frequencies, dims, shape->rope_theta, &scaling);
    if (model->local_frequencies) bitrl_frequencies(model->local_frequencies, dims, local_theta);
    return BITRL_OK;
}

/* ---- factors ---- */

/* A cap; 0: there is none. The keys must be there in GGUF, where llama.cpp has values of its own for them. */
static int read_cap(const reader *r, const char *name, double *out)
{
    char full[128];
    const bitrl_key *key = find_key(r, name, full);
    *out = 0;
    if (key ? !is_set(key) : bitrl_file_is_hugging_face(r->file)) return BITRL_OK;
    return read_positive(r, name, 0, out);
}

/* What the architecture and its keys multiply with. */
static int read_factors(const reader *r, bitrl_model *model)
{
    const bitrl_shape *shape = &model->shape;
    const architecture *a = &model->architecture;
    bool largest = a->largest && shape->blocks == a->largest;
    double scaled = largest ? (double)(shape->width / shape->heads) : (double)shape->head_dim;
    int status = BITRL_OK;
    model->embedding_scale = a->gemma ? (float)sqrt((double)shape->width) : 1; /* transformers keeps it in float32 */
    if (a->caps) status = read_cap(r, "attn_logit_softcapping", &model->score_cap);
    if (a->caps && !status) status = read_cap(r, "final_logit_softcapping", &model->logit_cap);
    return status ? status : read_positive(r, "attention.scale", 1.0 / sqrt(scaled), &model->attention_scale);
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
    if ((status = read_windows(&r, model)) || (status = read_unturned(&r, model)) || (status = read_rope(&r, model))) return status;
    if (options->layers > shape->blocks)
        return bitrl_fail(error, BITRL_BAD_ARGUMENT, "has %llu blocks, fewer than the %llu layers asked for",
                          (unsigned long long)shape->blocks, (unsigned long long)options->layers);
    if (options->layers) shape->blocks = options->layers;
    return BITRL_OK;
}
