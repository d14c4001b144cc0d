/* Reading states, as StateReader does in core/acting: a serializer's texts, tokens and the model's states, pooled; or vectors.
 *
 * Nothing is allocated for a text that is not longer than those before, but for rows of the embedding of a large vocabulary. */
#include "reading.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "numbers.h"
#include "session.h"
#include "tokenizer.h"

enum { MOST_HISTORY = 1000, MOST_FEATURES = 1 << 20, MOST_FIELDS = 1 << 16, WHOLE_VOCABULARY = 8 << 20 };

/* One state as it was written. */
typedef struct {
    char *text;
    size_t bytes, tokens;
    float *vector;
} state;

struct features {
    size_t count, history, read, next; /* read: states of the episode, at most `history`; next: place of the next one */
    state *states;                     /* [history] a ring */
    /* Of texts: */
    writer *writer;
    bitrl_tokenizer *tokenizer;
    bitrl_file *file;
    bitrl_model *model;
    bitrl_session *session;
    char *text; /* of all states that are read together, terminated */
    size_t bytes, budget;
    int32_t first, last; /* tokens around a text; -1: none */
    int32_t *ids;        /* [context + 2] */
    uint32_t *token_ends;
    enum { MEAN, LAST, FIELD } pooling;
    size_t fields, chunk;
    uint32_t *ends;   /* [fields + 1] of numbers in a text */
    uint64_t *places; /* [fields + 1] */
    bitrl_readout readout; /* of the fields' states, which is in one of these: */
    int32_t *sketch;
    float *directions;
    float *found;     /* [count] features of a chunk */
    /* Of vectors: */
    size_t width; /* of one state */
    double *middle, *half;
    int64_t start; /* the lowest of a Discrete observation, which is one-hot; INT64_MIN: it is none */
};

/* ---- opening ---- */

static int no_memory(char *error) { return bitrl_fail(error, BITRL_NO_MEMORY, "no memory for an agent"); }

static int open_tokenizer(features *f, const bitrl_file *file, size_t longest, char *error)
{
    enum { UINT8 = 0, UINT32 = 4 };
    const bitrl_key *lengths, *bytes, *merges, *phrases;
    int status = agent_file_array(file, "bitrl.agent.token_lengths", UINT8, true, &lengths, error);
    if (!status) status = agent_file_array(file, "bitrl.agent.token_bytes", UINT8, true, &bytes, error);
    if (!status) status = agent_file_array(file, "bitrl.agent.merges", UINT32, true, &merges, error);
    if (!status) status = agent_file_array(file, "bitrl.agent.phrases", UINT32, true, &phrases, error);
    if (!status)
        status = bitrl_tokenizer_open(lengths->value, lengths->count, bytes->value, bytes->count, merges->value, merges->count / 3,
                                      phrases->value, phrases->count, longest, &f->tokenizer, error);
    if (!status && lengths->count > bitrl_model_shape(f->model)->vocabulary)
        status = bitrl_fail(error, BITRL_BAD_FILE, "has %llu tokens but embeds only %llu of them", (unsigned long long)lengths->count,
                            (unsigned long long)bitrl_model_shape(f->model)->vocabulary);
    return status;
}

/* A model's name in the plan: [32]; or NULL. */
static const char *word_of(const plan *p, const json_node *object, const char *name, char out[32])
{
    const json_node *node = json_find(p->json, object, name);
    if (!node || node->kind != JSON_STRING) return NULL;
    const size_t bytes = json_string(p->json, node, out, 31);
    out[bytes < 31 ? bytes : 31] = 0;
    return out;
}

static int open_model(features *f, const plan *p, const json_node *model, const bitrl_file *file, const bitrl_agent_options *options)
{
    char format[32], activation[32];
    int64_t layers;
    int status = plan_integer(p, model, "layers", 1, 1 << 20, 0, &layers);
    const json_node *arm = json_find(p->json, model, "i2s_arm");
    const bitrl_options how = {.layers = (uint64_t)layers, .format = word_of(p, model, "format", format), .threads = 1,
                               .isa = options->instruction_set ? options->instruction_set : "auto",
                               .activation = word_of(p, model, "activation", activation), .i2s_arm = arm && arm->kind == JSON_TRUE};
    if (!status) status = agent_file_model(file, &f->file, p->error);
    if (!status) status = bitrl_model_load(f->file, &how, &f->model, p->error);
    if (!status) status = bitrl_session_open(f->model, options->threads ? options->threads : 1, &f->session, p->error);
    return status;
}

/* "adapters": [{"name": "blk.0.attn_q", "rank": 8, "rows": 256, "columns": 256}]; their weights are tensors. */
static int adapt(features *f, const plan *p, const json_node *model, const bitrl_file *file)
{
    const json_node *array = json_find(p->json, model, "adapters");
    if (!array || array->kind != JSON_ARRAY) return BITRL_OK;
    const json_node *node = json_first(array);
    int status = BITRL_OK;
    for (uint32_t i = 0; !status && i < array->count; i++, node = json_after(p->json, node)) {
        char name[32] = {0}, tensor[64];
        int64_t rank, rows, columns;
        float *down = NULL, *up = NULL;
        if (!word_of(p, node, "name", name)) return plan_wrong(p, "adapters");
        status = plan_integer(p, node, "rank", 1, 1 << 16, 0, &rank);
        if (!status) status = plan_integer(p, node, "rows", 1, 1 << 20, 0, &rows);
        if (!status) status = plan_integer(p, node, "columns", 1, 1 << 20, 0, &columns);
        snprintf(tensor, sizeof tensor, "agent.%s.down", name);
        if (!status) status = agent_file_floats(file, tensor, (uint64_t)(rank * columns), &down, p->error);
        snprintf(tensor, sizeof tensor, "agent.%s.up", name);
        if (!status) status = agent_file_floats(file, tensor, (uint64_t)(rows * rank), &up, p->error);
        snprintf(tensor, sizeof tensor, "%s.weight", name);
        if (!status) status = bitrl_model_adapt(f->model, tensor, down, up, (uint64_t)rank, (uint64_t)rows, (uint64_t)columns, p->error);
        free(down);
        free(up);
    }
    return status;
}

static int open_pooling(features *f, const plan *p, const json_node *model, const bitrl_file *file)
{
    enum { INT32 = 5, FLOAT32 = 6 };
    const size_t width = bitrl_model_shape(f->model)->width;
    const bitrl_key *sketch, *directions;
    int64_t fields = 1, chunk = 0, columns = 0, each = 0;
    f->pooling = plan_is(p, model, "pooling", "mean") ? MEAN : plan_is(p, model, "pooling", "last") ? LAST : FIELD;
    if (f->pooling == FIELD && !plan_is(p, model, "pooling", "field")) return plan_wrong(p, "pooling");
    int status = f->pooling == FIELD ? plan_integer(p, model, "numbers", 1, MOST_FIELDS, 0, &fields) : BITRL_OK;
    if (!status) status = plan_integer(p, model, "chunk", 0, MOST_FIELDS, 0, &chunk);
    if (!status) status = plan_integer(p, model, "columns", 0, MOST_FEATURES, 0, &columns);
    if (!status) status = plan_integer(p, model, "directions", 0, MOST_FEATURES, 0, &each);
    if (!status) status = agent_file_array(file, "bitrl.agent.sketch", INT32, columns > 0, &sketch, p->error);
    if (!status) status = agent_file_array(file, "bitrl.agent.directions", FLOAT32, each > 0, &directions, p->error);
    if (status) return status;
    f->fields = (size_t)fields;
    f->chunk = chunk && chunk < fields ? (size_t)chunk : f->fields;
    f->count = columns ? (size_t)columns : f->fields * (each ? (size_t)each : width);
    if (f->count > MOST_FEATURES || (columns && sketch->count != f->fields * width)) return plan_wrong(p, "columns");
    if (each && (columns || directions->count != (size_t)each * width)) return plan_wrong(p, "directions");
    f->ends = calloc(f->fields + 1, sizeof *f->ends);
    f->places = calloc(f->fields + 1, sizeof *f->places);
    f->found = calloc(f->count, sizeof *f->found);
    f->sketch = columns ? malloc(sketch->value_bytes) : NULL;
    f->directions = each ? malloc(directions->value_bytes) : NULL;
    if (!f->ends || !f->places || !f->found || (columns && !f->sketch) || (each && !f->directions)) return no_memory(p->error);
    if (columns) memcpy(f->sketch, sketch->value, sketch->value_bytes);
    if (each) memcpy(f->directions, directions->value, directions->value_bytes);
    f->readout = (bitrl_readout){.sketch = f->sketch, .directions = f->directions,
                                 .columns = columns ? (size_t)columns : each ? (size_t)each : width};
    return BITRL_OK;
}

/* Rows of a small vocabulary's embedding, so that none is read while the agent acts. */
static int keep_rows(const features *f, char *error)
{
    const uint64_t vocabulary = bitrl_model_shape(f->model)->vocabulary;
    const bitrl_tensor *embedding = bitrl_file_find_tensor(f->file, "token_embd.weight");
    if (!embedding || embedding->bytes > WHOLE_VOCABULARY) return BITRL_OK;
    int32_t *ids = malloc(vocabulary * sizeof *ids);
    for (uint64_t i = 0; ids && i < vocabulary; i++) ids[i] = (int32_t)i;
    int status = ids ? bitrl_keep_rows(&f->session->rows, f->model, ids, vocabulary, error) : no_memory(error);
    free(ids);
    return status;
}

static int open_texts(features *f, const plan *p, const json_node *root, const json_node *model, const bitrl_file *file,
                      const bitrl_agent_options *options, const observation *observed)
{
    enum { FLOAT64 = 12 };
    int64_t first, last, budget;
    const bitrl_key *codes;
    int status = agent_file_array(file, "bitrl.agent.codes", FLOAT64, false, &codes, p->error);
    if (!status)
        status = writer_open(p, root, observation_numbers(observed), observed_texts(observed), observation_texts(observed), codes->value,
                             codes->count, &f->writer);
    if (!status) status = open_model(f, p, model, file, options);
    if (!status) status = adapt(f, p, model, file);
    if (!status) status = open_pooling(f, p, model, file);
    if (status) return status;
    const bitrl_shape *shape = bitrl_model_shape(f->model);
    status = plan_integer(p, model, "first", -1, (int64_t)shape->vocabulary - 1, -1, &first);
    if (!status) status = plan_integer(p, model, "last", -1, (int64_t)shape->vocabulary - 1, -1, &last);
    if (!status) status = plan_integer(p, model, "history_tokens", 1, INT32_MAX, INT32_MAX, &budget);
    if (status) return status;
    f->first = (int32_t)first;
    f->last = (int32_t)last;
    f->budget = (size_t)budget;
    const size_t most = writer_most(f->writer);
    if (most > (1u << 30) / f->history) return plan_wrong(p, "text");
    for (size_t i = 0; i < f->history; i++)
        if (!(f->states[i].text = malloc(most + 1))) return no_memory(p->error);
    f->text = calloc(f->history, most + 1);
    f->ids = malloc((shape->context + 2) * sizeof *f->ids);
    f->token_ends = malloc((shape->context + 2) * sizeof *f->token_ends);
    if (!f->text || !f->ids || !f->token_ends) return no_memory(p->error);
    status = open_tokenizer(f, file, f->history * (most + 1), p->error);
    return status ? status : keep_rows(f, p->error);
}

static int open_vectors(features *f, const plan *p, const json_node *vector, const observation *observed)
{
    const size_t numbers = observation_numbers(observed);
    int64_t states = 0;
    int status = BITRL_OK;
    f->width = numbers;
    f->start = INT64_MIN;
    if (json_find(p->json, vector, "states")) {
        status = plan_integer(p, vector, "states", 1, MOST_FEATURES, 0, &states);
        if (!status) status = plan_integer(p, vector, "start", INT32_MIN, INT32_MAX, 0, &f->start);
        if (!status && numbers != 1) status = plan_wrong(p, "states");
        f->width = (size_t)states;
    } else {
        f->middle = calloc(numbers + 1, sizeof *f->middle);
        f->half = calloc(numbers + 1, sizeof *f->half);
        if (!f->middle || !f->half) return no_memory(p->error);
        status = plan_numbers(p, vector, "middle", numbers, 0, f->middle);
        if (!status) status = plan_numbers(p, vector, "half", numbers, 0, f->half);
        for (size_t i = 0; !status && i < numbers; i++)
            if (!(f->half[i] > 0)) status = plan_wrong(p, "half");
    }
    if (status) return status;
    f->count = f->history * f->width;
    if (f->count < 1 || f->count > MOST_FEATURES) return plan_wrong(p, "vector");
    for (size_t i = 0; i < f->history; i++)
        if (!(f->states[i].vector = calloc(f->width, sizeof(float)))) return no_memory(p->error);
    return BITRL_OK;
}

int features_open(const plan *p, const json_node *root, const bitrl_file *file, const bitrl_agent_options *options,
                  const observation *observed, features **out)
{
    *out = NULL;
    features *f = calloc(1, sizeof *f);
    if (!f) return no_memory(p->error);
    int64_t history;
    const json_node *model = json_find(p->json, root, "model"), *vector = json_find(p->json, root, "vector");
    int status = plan_integer(p, root, "history", 1, MOST_HISTORY, 1, &history);
    f->history = status ? 1 : (size_t)history;
    f->states = calloc(f->history, sizeof *f->states);
    if (!status && !f->states) status = no_memory(p->error);
    if (!status) {
        if (model && model->kind == JSON_OBJECT)
            status = open_texts(f, p, root, model, file, options, observed);
        else if (vector && vector->kind == JSON_OBJECT)
            status = open_vectors(f, p, vector, observed);
        else
            status = plan_wrong(p, "model");
    }
    if (status)
        features_close(f);
    else
        *out = f;
    return status;
}

void features_close(features *f)
{
    if (!f) return;
    for (size_t i = 0; f->states && i < f->history; i++) {
        free(f->states[i].text);
        free(f->states[i].vector);
    }
    bitrl_session_close(f->session);
    bitrl_model_free(f->model);
    bitrl_file_close(f->file);
    bitrl_tokenizer_close(f->tokenizer);
    writer_close(f->writer);
    free(f->states);
    free(f->text);
    free(f->ids);
    free(f->token_ends);
    free(f->ends);
    free(f->places);
    free(f->sketch);
    free(f->directions);
    free(f->found);
    free(f->middle);
    free(f->half);
    free(f);
}

size_t features_count(const features *f) { return f->count; }
const char *features_text(const features *f) { return f->text ? f->text : ""; }
const char *features_instruction_set(const features *f) { return f->model ? bitrl_model_isa(f->model) : NULL; }

/* ---- the episode ---- */

/* The state that was read i states before the newest; 0 is the one that is being read. */
static state *state_at(const features *f, size_t i) { return &f->states[(f->next + f->history - i) % f->history]; }

void features_commit(features *f)
{
    f->next = (f->next + 1) % f->history;
    if (f->read < f->history) f->read++;
}

void features_reset(features *f) { f->read = 0; }

/* States before the one being read that are read with it: those kept, but for the one whose place it takes. */
static size_t earlier(const features *f) { return f->read < f->history ? f->read : f->history - 1; }

/* The last states, a line each, the oldest left out until their tokens are within the budget. */
static void join_texts(features *f)
{
    size_t kept = 0, tokens = state_at(f, 0)->tokens, at = 0;
    while (kept < earlier(f) && (tokens += state_at(f, kept + 1)->tokens + 1) <= f->budget) kept++;
    for (size_t i = kept + 1; i-- > 0;) {
        const state *s = state_at(f, i);
        memcpy(f->text + at, s->text, s->bytes);
        at += s->bytes;
        if (i) f->text[at++] = '\n';
    }
    f->text[at] = 0;
    f->bytes = at;
}

/* ---- the model ---- */

static int too_long(const features *f, size_t tokens, char *error)
{
    return bitrl_fail(error, BITRL_BAD_ARGUMENT, "a text has %zu tokens, but the model reads at most %llu", tokens,
                      (unsigned long long)bitrl_model_shape(f->model)->context);
}

/* A text's tokens between the first and the last -> f->ids; how many. */
static int read_tokens(features *f, const char *text, size_t bytes, bool with_last, size_t *count, char *error)
{
    const size_t context = bitrl_model_shape(f->model)->context, before = f->first >= 0;
    token_row row = {.ids = f->ids + before, .ends = f->token_ends, .room = context};
    if (before) f->ids[0] = f->first;
    tokenize(f->tokenizer, text, bytes, &row);
    *count = before + row.count;
    if (*count + (with_last && f->last >= 0) > context) return too_long(f, *count + (with_last && f->last >= 0), error);
    if (with_last && f->last >= 0) f->ids[(*count)++] = f->last;
    return BITRL_OK;
}

/* Some numbers' states, from number `start` on, of a text that has just these. */
static int encode_fields(features *f, const char *text, size_t bytes, size_t start, size_t fields, float *out, char *error)
{
    bitrl_readout readout = f->readout;
    const size_t found = number_ends(text, bytes, f->ends, fields);
    size_t tokens, token = 0, before = f->first >= 0;
    if (found != fields)
        return bitrl_fail(error, BITRL_BAD_ARGUMENT, "pooling \"field\": expected %zu numbers in a text, got %zu: %.60s", fields, found, text);
    int status = read_tokens(f, text, bytes, false, &tokens, error);
    if (status) return status;
    for (size_t i = 0; i < fields; i++) {
        while (token + 1 < tokens - before && f->token_ends[token] < f->ends[i]) token++;
        f->places[i] = before + token;
    }
    const uint64_t length = tokens;
    if (readout.sketch) readout.sketch += start * bitrl_model_shape(f->model)->width;
    return bitrl_encode_fields(f->session, f->ids, &length, 1, f->places, fields, &readout, out, error);
}

/* The text is cut after every `chunk` of its numbers; each chunk is a text of its own. A sketch's features are added, others side by side. */
static int encode_chunks(features *f, float *out, char *error)
{
    size_t found = number_ends(f->text, f->bytes, f->ends, f->fields), from = 0;
    if (found != f->fields)
        return bitrl_fail(error, BITRL_BAD_ARGUMENT, "pooling \"field\": expected %zu numbers in a text, got %zu: %.60s", f->fields, found,
                          f->text);
    memset(out, 0, f->count * sizeof *out);
    for (size_t start = 0; start < f->fields; start += f->chunk) {
        const size_t fields = min(f->chunk, f->fields - start), count = f->sketch ? f->count : fields * f->readout.columns;
        found = number_ends(f->text, f->bytes, f->ends, f->fields); /* which reading a chunk has overwritten */
        const size_t to = start + fields < f->fields ? f->ends[start + fields - 1] : f->bytes;
        const size_t space = leading_space(f->text + from, to - from);
        int status = encode_fields(f, f->text + from + space, to - from - space, start, fields, f->found, error);
        if (status) return status;
        float *into = f->sketch ? out : out + start * f->readout.columns;
        for (size_t i = 0; i < count; i++) into[i] += f->found[i];
        from = to;
    }
    return BITRL_OK;
}

static int encode(features *f, float *out, char *error)
{
    if (f->pooling == FIELD && f->chunk < f->fields) return encode_chunks(f, out, error);
    if (f->pooling == FIELD) return encode_fields(f, f->text, f->bytes, 0, f->fields, out, error);
    size_t tokens;
    int status = read_tokens(f, f->text, f->bytes, true, &tokens, error);
    const uint64_t length = tokens, place = tokens ? tokens - 1 : 0;
    if (status) return status;
    if (f->pooling == MEAN) return bitrl_encode(f->session, f->ids, &length, 1, BITRL_POOL_MEAN, out, error);
    return bitrl_encode_fields(f->session, f->ids, &length, 1, &place, 1, NULL, out, error);
}

int features_warm(features *f, char *error)
{
    if (!f->model) return BITRL_OK;
    size_t tokens;
    int status = read_tokens(f, f->text, f->bytes, true, &tokens, error);
    if (status) return status;
    const size_t longer = min(2 * tokens + 1, bitrl_model_shape(f->model)->context);
    bool ok = bitrl_grow_rope(f->session, longer) && bitrl_grow_scratch(f->model, &f->session->all, longer, 2, longer);
    return ok ? BITRL_OK : no_memory(error);
}

/* ---- one observation ---- */

static int write_vector(const features *f, const observation *observed, float *out, char *error)
{
    const double *numbers = observed_numbers(observed);
    if (f->start == INT64_MIN) {
        for (size_t i = 0; i < f->width; i++) {
            out[i] = (float)((numbers[i] - f->middle[i]) / f->half[i]);
            if (!isfinite(out[i])) return bitrl_fail(error, BITRL_BAD_ARGUMENT, "observation: number %zu is beyond float32", i);
        }
        return BITRL_OK;
    }
    const double place = numbers[0] - (double)f->start;
    if (!(place >= 0 && place < (double)f->width))
        return bitrl_fail(error, BITRL_BAD_ARGUMENT, "observation: expected %lld to %lld, got %.0f", (long long)f->start,
                          (long long)(f->start + (int64_t)f->width - 1), numbers[0]);
    memset(out, 0, f->width * sizeof *out);
    out[(size_t)place] = 1;
    return BITRL_OK;
}

int features_find(features *f, const observation *observed, float *out, char *error)
{
    state *newest = state_at(f, 0);
    if (f->model) {
        newest->bytes = write_state(f->writer, observed_numbers(observed), observed_texts(observed), newest->text);
        if (f->history > 1) {
            token_row row = {0};
            tokenize(f->tokenizer, newest->text, newest->bytes, &row);
            newest->tokens = row.count;
        }
        join_texts(f);
        return encode(f, out, error);
    }
    int status = write_vector(f, observed, newest->vector, error);
    if (status) return status;
    const size_t states = earlier(f) + 1;
    memset(out, 0, (f->history - states) * f->width * sizeof *out);
    for (size_t i = 0; i < states; i++)
        memcpy(out + (f->history - 1 - i) * f->width, state_at(f, i)->vector, f->width * sizeof *out);
    return BITRL_OK;
}
