/* Generates outside Python, for the sanitizers: for every format on every instruction set, with one to three threads,
 * sequences are begun, copied, cut, gone on with together and sampled from, and generated in one go; and all again with weights replaced, with
 * adapters, and without them.
 * Prints "ok <checksum>", or what is wrong. Usage: generate FILE [ISA] */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "adapters.h"
#include "bitrl.h"

enum { SEQUENCES = 3, CAPACITY = 32, PROMPT = 17, STEPS = 4 };

static const uint64_t prompts[SEQUENCES] = {PROMPT, 1, 7};

static void mix(uint64_t *checksum, const void *data, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) *checksum = (*checksum ^ ((const unsigned char *)data)[i]) * 1099511628211u;
}

/* Reads prompts and goes on with them token by token; the last sequence begins as a copy of the first. */
static int generate(const bitrl_model *model, bitrl_session *session, uint64_t *checksum, char *error)
{
    const uint64_t vocabulary = bitrl_model_shape(model)->vocabulary, ones[SEQUENCES] = {1, 1, 1};
    bitrl_cache *caches[SEQUENCES] = {NULL};
    int32_t tokens[SEQUENCES * PROMPT], next[SEQUENCES];
    double random[SEQUENCES], logprobs[SEQUENCES], model_logprobs[SEQUENCES];
    float *logits = malloc(SEQUENCES * vocabulary * sizeof *logits);
    int status = logits ? BITRL_OK : BITRL_NO_MEMORY;
    for (size_t i = 0; i < SEQUENCES * PROMPT; i++) tokens[i] = (int32_t)(i * 7919 % vocabulary);
    for (size_t i = 0; !status && i < SEQUENCES; i++) status = bitrl_cache_open(model, CAPACITY, &caches[i], error);
    if (!status) status = bitrl_extend(session, caches, tokens, prompts, SEQUENCES, logits, error);
    if (!status) status = bitrl_cache_copy(caches[2], caches[0], PROMPT - 2, error);
    if (!status) status = bitrl_cache_cut(caches[2], PROMPT / 2, error);
    for (size_t step = 0; !status && step < STEPS; step++) {
        const bitrl_sampling how = {.temperature = step ? 0.9 : 0, .top_k = step == 2 ? 20 : 0, .top_p = step > 2 ? 0.8 : 1};
        for (size_t i = 0; i < SEQUENCES; i++) random[i] = (double)((step * SEQUENCES + i) * 37 % 100) / 100;
        status = bitrl_sample(session, logits, SEQUENCES, vocabulary, &how, random, next, logprobs, model_logprobs, error);
        mix(checksum, next, sizeof next);
        mix(checksum, logprobs, sizeof logprobs);
        if (!status) status = bitrl_extend(session, caches, next, ones, SEQUENCES, logits, error);
        if (!status) mix(checksum, logits, SEQUENCES * vocabulary * sizeof *logits);
    }
    if (!status && bitrl_cache_length(caches[0]) != PROMPT + STEPS) status = BITRL_BAD_RESULT;
    for (size_t i = 0; i < SEQUENCES; i++) bitrl_cache_close(caches[i]);
    free(logits);
    return status;
}

static int go_on(void *asked) { return ++*(int *)asked < 100; }

/* More sequences than slots, some with one prompt; what is chosen, and what it could have been, has the log-probabilities of the
 * texts read at once. */
static int generate_batch(const bitrl_model *model, bitrl_session *session, uint64_t *checksum, char *error)
{
    enum { ALL = 5, NEW = 4 };
    static const uint64_t prompt_of[ALL] = {0, 1, 0, 2, 0};
    const uint64_t vocabulary = bitrl_model_shape(model)->vocabulary;
    int32_t given[PROMPT + 1 + 7], tokens[ALL * NEW], counts[ALL * NEW], flat[ALL * NEW];
    double random[ALL * NEW], logprobs[ALL * NEW], model_logprobs[ALL * NEW], again[ALL * NEW];
    uint64_t lengths[ALL];
    int asked = 0, status = BITRL_OK;
    for (size_t i = 0; i < PROMPT + 1 + 7; i++) given[i] = (int32_t)(i * 7919 % vocabulary);
    for (size_t i = 0; i < ALL * NEW; i++) random[i] = (double)(i * 37 % 100) / 100;
    const bitrl_prompts begins = {given, prompts, SEQUENCES, prompt_of, ALL};
    for (int cut = 0; !status && cut < 2; cut++) {
        bitrl_kept *kept = NULL;
        const bitrl_generation how = {{1, cut ? 9 : 0, cut ? 0.9 : 1}, NEW, tokens, (uint64_t)cut, 2, random, go_on, &asked};
        const bitrl_generated out = {tokens, logprobs, model_logprobs, lengths, counts, NULL};
        bitrl_generated wanted = out;
        if (cut) status = bitrl_kept_open(ALL, &kept, error);
        wanted.kept = kept;
        if (!status) status = bitrl_generate(session, &begins, &how, &wanted, error);
        uint64_t total = 0;
        for (size_t i = 0; !status && i < ALL; i++) {
            uint64_t count = 0;
            const int32_t *ids = cut ? bitrl_kept_tokens(kept, i, &count) : NULL;
            mix(checksum, ids, count * sizeof *ids);
            for (size_t j = 0; j < lengths[i]; j++) flat[total++] = tokens[i * NEW + j];
            mix(checksum, model_logprobs + i * NEW, lengths[i] * sizeof *model_logprobs);
        }
        if (!status) status = bitrl_logprobs(session, &begins, flat, lengths, 1, again, error);
        total = 0;
        for (size_t i = 0; !status && i < ALL; total += lengths[i++])
            if (memcmp(again + total, model_logprobs + i * NEW, lengths[i] * sizeof *again)) status = BITRL_BAD_RESULT;
        bitrl_kept_close(kept);
    }
    return status;
}

/* Another matrix, norm and embedding; values: room for the largest of them. */
static int replace(bitrl_model *model, float *values, uint64_t threads, char *error)
{
    const bitrl_shape *shape = bitrl_model_shape(model);
    for (size_t i = 0; i < shape->width * (shape->vocabulary + shape->ffn); i++)
        values[i] = (float)(i * 7919 % 1009) / 504.5f - 0.99f;
    const bitrl_weights weights[] = {{"blk.0.ffn_up.weight", values, shape->ffn, shape->width},
                                     {"output_norm.weight", values, 1, shape->width},
                                     {"token_embd.weight", values, shape->vocabulary, shape->width}};
    const uint64_t seed = 5;
    bitrl_replaced replaced;
    int status = bitrl_model_replace_all(model, weights, 3, &seed, threads, &replaced, error); /* by random bits */
    if (!status) status = bitrl_model_replace_all(model, weights, 3, NULL, threads, &replaced, error);
    return status;
}

/* The session outlives every change, and what it kept of a beginning in common is of the old weights. */
static int check(const bitrl_file *file, const bitrl_options *options, uint64_t threads, uint64_t *checksum, char *error)
{
    static const uint64_t lengths[2] = {9, 12};
    bitrl_model *model = NULL;
    bitrl_session *session = NULL;
    float *out = NULL;
    int32_t tokens[9 + 12];
    int status = bitrl_model_load(file, options, &model, error);
    if (!status) status = bitrl_model_add_head(model, threads, error);
    if (!status) status = bitrl_session_open(model, threads, &session, error);
    if (!status) {
        const bitrl_shape *shape = bitrl_model_shape(model);
        out = malloc(shape->width * (shape->vocabulary + shape->ffn) * sizeof *out);
        if (!out) status = BITRL_NO_MEMORY;
        for (size_t i = 0; i < 9 + 12; i++) tokens[i] = (int32_t)(i % 9 % shape->vocabulary); /* nine in common */
    }
    for (int round = 0; !status && round < 4; round++) {
        if (round == 1) status = replace(model, out, threads, error);
        if (round == 2) status = adapt_all(model, error);
        if (round == 3) bitrl_model_unadapt(model);
        if (!status) status = bitrl_encode(session, tokens, lengths, 2, BITRL_POOL_MEAN, out, error);
        if (!status) mix(checksum, out, 2 * bitrl_model_shape(model)->width * sizeof *out);
        if (!status) status = generate(model, session, checksum, error);
        if (!status) status = generate_batch(model, session, checksum, error);
    }
    free(out);
    bitrl_session_close(session);
    bitrl_model_free(model);
    return status;
}

int main(int count, char **arguments)
{
    char error[BITRL_ERROR_BYTES] = "no file";
    bitrl_file *file = NULL;
    int status = count > 1 ? bitrl_file_open(arguments[1], &file, error) : BITRL_BAD_ARGUMENT;
    uint64_t all = 0;
    for (uint64_t f = 0; !status && bitrl_format(f); f++) {
        uint64_t expected = 0;
        for (uint64_t i = 0; !status && bitrl_instruction_set(i); i++) {
            const char *isa = bitrl_instruction_set(i);
            if (count > 2 && strcmp(isa, arguments[2]) != 0) continue;
            for (uint64_t threads = i ? 2 : 1; !status && threads <= 3; threads += 2) {
                const bitrl_options options = {.isa = isa, .format = bitrl_format(f), .threads = threads};
                uint64_t checksum = 14695981039346656037u;
                status = check(file, &options, threads, &checksum, error);
                if (!status && expected && checksum != expected) {
                    printf("differs %s %s %d\n", isa, bitrl_format(f), (int)threads);
                    return 1;
                }
                expected = checksum;
            }
        }
        all = (all ^ expected) * 1099511628211u;
    }
    bitrl_file_close(file);
    if (status) return printf("error %d %s\n", status, error), 1;
    printf("ok %016llx\n", (unsigned long long)all);
    return 0;
}
