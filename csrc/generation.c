/* Going on with sequences: with those that a caller keeps, with prompts until they end, and what a model makes of given texts.
 *
 * A prompt is read once. Its keys and values are shared by all sequences that begin with it, which have caches of their own for
 * what follows. Nothing is allocated at a step: sequences go on in slots, which are opened once. */
#define _POSIX_C_SOURCE 199309L
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "session.h"

/* Room to go on with texts of `tokens` tokens in all, none of more than `longest` new ones, up to `positions`, and for the logits
 * of `rows` rows at a time; false when memory is short. */
static bool reserve(bitrl_session *session, size_t tokens, size_t longest, size_t positions, size_t rows)
{
    size_t vocabulary = round_up(session->model->shape.vocabulary, PAD);
    rows = round_up(rows, TOKEN_PAD);
    if (!bitrl_grow_rope(session, positions) ||
        !bitrl_grow_scratch(session->model, &session->all, max(max(min(tokens, CHUNK), longest), rows), CHUNK, positions))
        return false;
    if (rows <= session->head_rows) return true;
    free(session->head_sums);
    free(session->head_logits);
    session->head_rows = rows;
    session->head_sums = bitrl_allocate(rows * vocabulary, sizeof *session->head_sums);
    session->head_logits = bitrl_allocate(pool_threads(session->all.threads) * vocabulary, sizeof *session->head_logits);
    if (session->head_sums && session->head_logits) return true;
    session->head_rows = 0;
    return false;
}

static void run(bitrl_session *session, const passage *passages, size_t count)
{
    size_t tokens = 0;
    for (size_t i = 0; i < count; i++) tokens += passages[i].length;
    bitrl_forward(session->model, session->all.threads, &session->all.scratch, &session->rows, session->rope,
                  session->local_rope, passages, count, bitrl_walk_mode(session->model, session->all.threads, tokens));
}

static void find_logits(bitrl_session *session, const size_t *rows, size_t count, take_logits *take, void *context)
{
    bitrl_logits(session->model, session->all.threads, &session->all.scratch, rows, count, session->head_sums,
                 session->head_logits, take, context);
}

static size_t last_row(const passage *p) { return p->first + p->length - 1; }

static int lacks_head(const bitrl_session *session, char *error)
{
    return session->model->output.data ? BITRL_OK
                                       : bitrl_fail(error, BITRL_BAD_ARGUMENT, "the model's head has not been made ready");
}

/* Where the logits of passages go. */
typedef struct {
    float **to; /* [passages] of [vocabulary] */
    size_t vocabulary;
} destination;

static void copy_logits(void *context, size_t i, size_t thread, const float *logits)
{
    const destination *d = context;
    (void)thread;
    memcpy(d->to[i], logits, d->vocabulary * sizeof *logits);
}

/* ---- with sequences that the caller keeps ---- */

int bitrl_extend(bitrl_session *session, bitrl_cache *const *caches, const int32_t *tokens, const uint64_t *lengths,
                 uint64_t sequences, float *logits, char *error)
{
    const bitrl_model *model = session->model;
    size_t total, longest, vocabulary = model->shape.vocabulary;
    int status = bitrl_take_batch(session, tokens, lengths, sequences, &total, &longest, error);
    size_t positions = 0;
    for (uint64_t i = 0; i < sequences && !status; i++) {
        positions = max(positions, caches[i]->length + lengths[i]);
        if (caches[i]->length && caches[i]->version != model->version)
            status = bitrl_fail(error, BITRL_BAD_ARGUMENT,
                                "sequence %llu was read with weights that have been changed since; read it again from the start",
                                (unsigned long long)i);
        else if (lengths[i] == 0 || lengths[i] > caches[i]->capacity - caches[i]->length)
            status = bitrl_fail(error, BITRL_BAD_ARGUMENT, "sequence %llu has room for 1 to %zu more tokens, not %llu",
                                (unsigned long long)i, caches[i]->capacity - caches[i]->length,
                                (unsigned long long)lengths[i]);
    }
    if (!status && logits) status = lacks_head(session, error);
    if (status || sequences == 0) return status;

    size_t most = min(sequences, CHUNK);
    if (!reserve(session, total, longest, positions, logits ? most : 0))
        return bitrl_fail(error, BITRL_NO_MEMORY, "no memory for %zu sequences of up to %zu tokens", most, positions);
    passage *passages = session->all.scratch.passages;
    size_t rows[CHUNK];
    float *to[CHUNK];
    for (uint64_t i = 0, end, at = 0; i < sequences; i = end) {
        size_t row = 0, count = 0;
        for (end = i; end < sequences && count < CHUNK; end++, count++) {
            if (count && row + lengths[end] > CHUNK) break;
            passages[count] = (passage){.tokens = tokens + at, .length = lengths[end], .first = row,
                                        .past = caches[end]->length, .before = caches[end], .keep = caches[end]};
            row += lengths[end];
            at += lengths[end];
        }
        run(session, passages, count);
        for (size_t j = 0; logits && j < count; j++) {
            rows[j] = last_row(&passages[j]);
            to[j] = logits + (i + j) * vocabulary;
        }
        if (logits) find_logits(session, rows, count, copy_logits, &(destination){to, vocabulary});
        for (size_t j = 0; j < count; j++) {
            caches[i + j]->length += lengths[i + j];
            caches[i + j]->version = model->version;
        }
    }
    status = bitrl_check_finite(session, logits, logits ? sequences * vocabulary : 0, tokens, total, error);
    for (uint64_t i = 0; i < sequences && status; i++) caches[i]->length -= lengths[i];
    return status;
}

/* ---- prompts ---- */

/* A prompt of a batch, while there are sequences that need it. */
typedef struct {
    const int32_t *tokens; /* [length] */
    size_t length;
    uint64_t users;    /* sequences that are still to end */
    float *logits;     /* [vocabulary] of what may follow; NULL: it has not been read */
    bitrl_cache cache; /* its keys and values */
} prompt;

static void forget(prompt *p)
{
    free(p->cache.values);
    free(p->logits);
    p->cache = (bitrl_cache){0};
    p->logits = NULL;
}

static void leave(prompt *p)
{
    if (--p->users == 0) forget(p);
}

static void forget_all(prompt *prompts, uint64_t count)
{
    for (uint64_t i = 0; prompts && i < count; i++) forget(&prompts[i]);
    free(prompts);
}

/* Checks a batch and lists its prompts: [batch->prompts], to be freed. none of more than `more` tokens may follow one; *tokens
 * and *longest: of all and of the longest. */
static int list_prompts(bitrl_session *session, const bitrl_prompts *batch, size_t more, prompt **out, size_t *tokens,
                        size_t *longest, char *error)
{
    int status = bitrl_take_batch(session, batch->tokens, batch->lengths, batch->prompts, tokens, longest, error);
    if (!status) status = lacks_head(session, error);
    if (status) return status;
    for (uint64_t i = 0; i < batch->prompts; i++)
        if (batch->lengths[i] < 1 || batch->lengths[i] + more > session->model->shape.context)
            return bitrl_fail(error, BITRL_BAD_ARGUMENT, "a prompt of %llu tokens and %zu more do not fit the context of %llu",
                              (unsigned long long)batch->lengths[i], more, (unsigned long long)session->model->shape.context);
    prompt *prompts = calloc(batch->prompts + 1, sizeof *prompts);
    if (!prompts) return bitrl_fail(error, BITRL_NO_MEMORY, "no memory for %llu prompts", (unsigned long long)batch->prompts);
    for (uint64_t i = 0, at = 0; i < batch->prompts; at += batch->lengths[i++])
        prompts[i] = (prompt){.tokens = batch->tokens + at, .length = batch->lengths[i]};
    *out = prompts;
    for (uint64_t i = 0; i < batch->sequences; i++) {
        if (batch->prompt_of[i] >= batch->prompts)
            return bitrl_fail(error, BITRL_BAD_ARGUMENT, "sequence %llu begins with a prompt that is not there",
                              (unsigned long long)i);
        prompts[batch->prompt_of[i]].users++;
    }
    return BITRL_OK;
}

/* Reads those of some prompts that have not been read: [count] numbers, one of which may be there several times. */
static int read_prompts(bitrl_session *session, prompt *prompts, const uint64_t *numbers, size_t count, char *error)
{
    const bitrl_model *model = session->model;
    passage *passages = session->all.scratch.passages;
    size_t rows[CHUNK];
    float *to[CHUNK];
    for (size_t i = 0; i < count;) {
        size_t row = 0, taken = 0;
        for (; i < count && taken < CHUNK; i++) {
            prompt *p = &prompts[numbers[i]];
            if (p->logits) continue;
            if (taken && row + p->length > CHUNK) break;
            p->logits = bitrl_allocate(model->shape.vocabulary, sizeof *p->logits);
            if (!p->logits || !bitrl_grow_cache(&p->cache, model, p->length))
                return bitrl_fail(error, BITRL_NO_MEMORY, "no memory to keep a prompt of %zu tokens", p->length);
            passages[taken] = (passage){.tokens = p->tokens, .length = p->length, .first = row, .keep = &p->cache};
            rows[taken] = last_row(&passages[taken]);
            to[taken++] = p->logits;
            row += p->length;
        }
        if (taken == 0) continue;
        run(session, passages, taken);
        find_logits(session, rows, taken, copy_logits, &(destination){to, model->shape.vocabulary});
        for (size_t j = 0; j < taken; j++) {
            const passage *p = &passages[j];
            int status = bitrl_check_finite(session, to[j], model->shape.vocabulary, p->tokens, p->length, error);
            if (status) return status;
        }
    }
    return BITRL_OK;
}

/* ---- generating ---- */

struct bitrl_kept {
    uint64_t sequences;
    token_list *lists; /* [sequences] */
};

/* Where a sequence goes on. */
typedef struct {
    uint64_t sequence;
    prompt *prompt;   /* NULL: the slot is free */
    int32_t token;    /* the newest */
    uint64_t length;  /* tokens so far, the prompt's left out */
    bitrl_cache own;  /* keys and values of all of these but the newest */
    choice choice;
} slot;

typedef struct {
    bitrl_session *session;
    const bitrl_prompts *batch;
    const bitrl_generation *how;
    const bitrl_generated *out;
    prompt *prompts;      /* [batch->prompts] */
    slot *slots;          /* [slot_count] */
    slot **going;         /* [slot_count] those that choose a token next */
    uint64_t *numbers;    /* [slot_count] prompts that are to be read */
    size_t slot_count;
    uint64_t waiting;     /* the first sequence that has not begun */
    uint64_t *scratch;    /* [threads, vocabulary] */
    size_t first;         /* of the chunk of `going` whose logits are found */
    size_t count;         /* of `going` that choose from their prompts' logits */
    atomic_int wrong;     /* what a choice ended with, if not well */
} generation;

static void choose(generation *g, slot *s, size_t thread, const float *logits)
{
    size_t vocabulary = g->session->model->shape.vocabulary;
    s->choice.random = g->how->random[s->sequence * g->how->max_tokens + s->length];
    s->choice.kept = g->out->kept ? &g->out->kept->lists[s->sequence] : NULL;
    int status = bitrl_choose(g->session->model->kernels, logits, vocabulary, &g->how->sampling,
                              g->scratch + thread * vocabulary, &s->choice);
    if (status) g->wrong = status;
}

static void choose_next(void *context, size_t i, size_t thread, const float *logits)
{
    generation *g = context;
    choose(g, g->going[g->first + i], thread, logits);
}

static void choose_first(void *context, size_t thread, size_t threads)
{
    generation *g = context;
    (void)threads;
    for (size_t i; pool_take(g->session->all.threads, g->count, &i);)
        choose(g, g->going[i], thread, g->going[i]->prompt->logits);
}

/* Whether it is the last token of its sequence. */
static bool ends(const generation *g, const slot *s)
{
    for (uint64_t i = 0; i < g->how->stops; i++)
        if (s->token == g->how->stop[i]) return true;
    return s->length == g->how->max_tokens;
}

/* Writes down what `count` of `going` chose; sequences that have ended leave their slots. */
static void take_choices(generation *g, size_t count)
{
    const bitrl_generated *out = g->out;
    for (size_t i = 0; i < count; i++) {
        slot *s = g->going[i];
        size_t at = s->sequence * g->how->max_tokens + s->length++;
        out->tokens[at] = s->token = s->choice.token;
        out->logprobs[at] = s->choice.logprob;
        out->model_logprobs[at] = s->choice.model_logprob;
        if (out->kept_counts) out->kept_counts[at] = (int32_t)s->choice.kept_count;
        out->lengths[s->sequence] = s->length;
        if (!ends(g, s)) continue;
        leave(s->prompt);
        s->prompt = NULL;
    }
}

static int check_choices(generation *g, char *error)
{
    const float wrong = NAN;
    if (!g->wrong) return bitrl_check_finite(g->session, NULL, 0, NULL, 0, error);
    if (g->wrong == BITRL_NO_MEMORY) return bitrl_fail(error, BITRL_NO_MEMORY, "no memory for what can be chosen");
    for (size_t i = 0; i < g->slot_count; i++)
        if (g->slots[i].prompt) {
            int status = bitrl_check_finite(g->session, &wrong, 1, &g->slots[i].token, 1, error);
            if (status) return status;
        }
    return bitrl_fail(error, BITRL_BAD_RESULT, "gives logits that are not finite");
}

/* Waiting sequences take the free slots and choose their first token. */
static int begin(generation *g, char *error)
{
    while (g->waiting < g->batch->sequences) {
        g->count = 0;
        for (size_t i = 0; i < g->slot_count && g->waiting < g->batch->sequences; i++) {
            slot *s = &g->slots[i];
            if (s->prompt) continue;
            uint64_t number = g->batch->prompt_of[g->waiting];
            s->sequence = g->waiting++;
            s->prompt = &g->prompts[number];
            s->length = s->own.length = 0;
            s->token = s->prompt->tokens[s->prompt->length - 1];
            g->numbers[g->count] = number;
            g->going[g->count++] = s;
        }
        if (g->count == 0) return BITRL_OK;
        int status = read_prompts(g->session, g->prompts, g->numbers, g->count, error);
        if (status) return status;
        pool_run(g->session->all.threads, choose_first, g);
        status = check_choices(g, error);
        if (status) return status;
        take_choices(g, g->count);
    }
    return BITRL_OK;
}

/* The running sequences: [going]; how many. */
static size_t running(const generation *g)
{
    size_t count = 0;
    for (size_t i = 0; i < g->slot_count; i++)
        if (g->slots[i].prompt) g->going[count++] = &g->slots[i];
    return count;
}

/* All running sequences go on by one token. */
static int step(generation *g, size_t count, char *error)
{
    bitrl_session *session = g->session;
    passage *passages = session->all.scratch.passages;
    size_t rows[CHUNK];
    for (g->first = 0; g->first < count; g->first += CHUNK) {
        size_t some = min(count - g->first, CHUNK);
        for (size_t i = 0; i < some; i++) {
            slot *s = g->going[g->first + i];
            int status = bitrl_keep_rows(&session->rows, session->model, &s->token, 1, error);
            if (status) return status;
            passages[i] = (passage){.tokens = &s->token, .length = 1, .first = i, .past = s->prompt->length + s->own.length,
                                    .before = &s->own, .keep = &s->own, .start = &s->prompt->cache,
                                    .start_length = s->prompt->length};
            rows[i] = i;
        }
        run(session, passages, some);
        find_logits(session, rows, some, choose_next, g);
        for (size_t i = 0; i < some; i++) g->going[g->first + i]->own.length++;
    }
    int status = check_choices(g, error);
    if (!status) take_choices(g, count);
    return status;
}

static double seconds(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static int generate(generation *g, char *error)
{
    const double pause = 0.1; /* asking may take a while: the caller may have to wait for its turn */
    const bitrl_generation *how = g->how;
    double asked = seconds();
    for (;;) {
        int status = begin(g, error);
        size_t count = running(g);
        if (!status && count) status = step(g, count, error);
        if (status || count == 0) return status;
        if (how->go_on && seconds() - asked > pause) {
            if (!how->go_on(how->asked)) return bitrl_fail(error, BITRL_STOPPED, "stopped");
            asked = seconds();
        }
    }
}

/* Everything that is needed until the end; false when memory is short. */
static bool open_slots(generation *g, size_t tokens, size_t longest)
{
    const bitrl_model *model = g->session->model;
    size_t threads = pool_threads(g->session->all.threads), count = min(g->how->slots, g->batch->sequences);
    if (!reserve(g->session, max(tokens, count), longest, longest + g->how->max_tokens, min(count, CHUNK))) return false;
    g->slots = calloc(count, sizeof *g->slots);
    g->going = calloc(count, sizeof *g->going);
    g->numbers = calloc(count, sizeof *g->numbers);
    g->scratch = bitrl_allocate(threads * model->shape.vocabulary, sizeof *g->scratch);
    if (!g->slots || !g->going || !g->numbers || !g->scratch) return false;
    g->slot_count = count;
    for (size_t i = 0; i < count && g->how->max_tokens > 1; i++)
        if (!bitrl_grow_cache(&g->slots[i].own, model, g->how->max_tokens - 1)) return false;
    return true;
}

int bitrl_generate(bitrl_session *session, const bitrl_prompts *prompts, const bitrl_generation *how,
                   const bitrl_generated *out, char *error)
{
    generation g = {.session = session, .batch = prompts, .how = how, .out = out};
    size_t tokens, longest;
    int status = bitrl_check_sampling(&how->sampling, error);
    if (!status && (how->max_tokens < 1 || how->slots < 1))
        status = bitrl_fail(error, BITRL_BAD_ARGUMENT, "there must be room for a token and a sequence");
    if (!status) status = list_prompts(session, prompts, how->max_tokens, &g.prompts, &tokens, &longest, error);
    if (!status && prompts->sequences) {
        if (open_slots(&g, tokens, longest))
            status = generate(&g, error);
        else
            status = bitrl_fail(error, BITRL_NO_MEMORY, "no memory to go on with %llu sequences of up to %llu tokens at once",
                                (unsigned long long)min(how->slots, prompts->sequences),
                                (unsigned long long)(longest + how->max_tokens));
    }
    for (size_t i = 0; i < g.slot_count; i++) free(g.slots[i].own.values);
    forget_all(g.prompts, prompts->prompts);
    free(g.slots);
    free(g.going);
    free(g.numbers);
    free(g.scratch);
    return status;
}

int bitrl_kept_open(uint64_t sequences, bitrl_kept **out, char *error)
{
    bitrl_kept *kept = calloc(1, sizeof *kept);
    *out = NULL;
    if (kept) kept->lists = calloc(sequences + 1, sizeof *kept->lists);
    if (!kept || !kept->lists) {
        free(kept);
        return bitrl_fail(error, BITRL_NO_MEMORY, "no memory for %llu sequences", (unsigned long long)sequences);
    }
    kept->sequences = sequences;
    *out = kept;
    return BITRL_OK;
}

void bitrl_kept_close(bitrl_kept *kept)
{
    if (!kept) return;
    for (uint64_t i = 0; i < kept->sequences; i++) free(kept->lists[i].tokens);
    free(kept->lists);
    free(kept);
}

const int32_t *bitrl_kept_tokens(const bitrl_kept *kept, uint64_t sequence, uint64_t *count)
{
    *count = kept->lists[sequence].count;
    return kept->lists[sequence].tokens;
}

/* ---- given texts ---- */

/* Some rows whose logits are found, the token that follows each, and where its log-probability goes. */
typedef struct {
    bitrl_session *session;
    double temperature;
    size_t rows[CHUNK];
    int32_t tokens[CHUNK];
    double *to[CHUNK];
    size_t count;
} scoring;

static void score(void *context, size_t i, size_t thread, const float *logits)
{
    scoring *s = context;
    const bitrl_model *model = s->session->model;
    (void)thread;
    *s->to[i] = bitrl_logprob(model->kernels, logits, model->shape.vocabulary, s->temperature, s->tokens[i]);
}

static void score_rows(scoring *s)
{
    find_logits(s->session, s->rows, s->count, score, s);
    s->count = 0;
}

/* The completions of sequences `from` to `to`, whose prompts have been read and who have `row` tokens but their last ones. at: of
 * the first one's tokens. */
static void score_completions(scoring *s, const bitrl_prompts *batch, const prompt *prompts, const int32_t *completions,
                              const uint64_t *lengths, uint64_t from, uint64_t to, size_t at, double *out)
{
    const bitrl_model *model = s->session->model;
    passage *passages = s->session->all.scratch.passages;
    size_t count = 0, row = 0;
    for (uint64_t i = from, first = at; i < to; first += lengths[i++]) {
        const prompt *p = &prompts[batch->prompt_of[i]];
        if (lengths[i])
            out[first] = bitrl_logprob(model->kernels, p->logits, model->shape.vocabulary, s->temperature, completions[first]);
        if (lengths[i] < 2) continue;
        passages[count++] = (passage){.tokens = completions + first, .length = lengths[i] - 1, .first = row, .past = p->length,
                                      .start = &p->cache, .start_length = p->length};
        row += lengths[i] - 1;
    }
    if (count) run(s->session, passages, count);
    row = 0;
    for (uint64_t i = from; i < to; at += lengths[i++])
        for (uint64_t j = 1; j < lengths[i]; j++) {
            s->rows[s->count] = row++;
            s->tokens[s->count] = completions[at + j];
            s->to[s->count++] = out + at + j;
            if (s->count == HEAD_ROWS) score_rows(s);
        }
    if (s->count) score_rows(s);
}

static int score_all(bitrl_session *session, const bitrl_prompts *batch, prompt *prompts, const int32_t *completions,
                     const uint64_t *lengths, double temperature, double *out, char *error)
{
    scoring s = {.session = session, .temperature = temperature};
    for (uint64_t from = 0, to, at = 0; from < batch->sequences; from = to) {
        size_t rows = 0, tokens = 0;
        for (to = from; to < batch->sequences && to - from < CHUNK; to++) {
            size_t mine = lengths[to] ? lengths[to] - 1 : 0;
            if (to > from && rows + mine > CHUNK) break;
            rows += mine;
            tokens += lengths[to];
        }
        int status = read_prompts(session, prompts, batch->prompt_of + from, to - from, error);
        if (status) return status;
        score_completions(&s, batch, prompts, completions, lengths, from, to, at, out);
        bool finite = true;
        for (size_t i = at; i < at + tokens; i++) finite &= isfinite(out[i]) != 0;
        const float sign = finite ? 0 : NAN;
        status = bitrl_check_finite(session, &sign, 1, completions + at, tokens, error);
        if (status) return status;
        for (uint64_t i = from; i < to; i++) leave(&prompts[batch->prompt_of[i]]);
        at += tokens;
    }
    return BITRL_OK;
}

int bitrl_logprobs(bitrl_session *session, const bitrl_prompts *batch, const int32_t *completions, const uint64_t *lengths,
                   double temperature, double *out, char *error)
{
    prompt *prompts = NULL;
    size_t total, longest, prompt_total, prompt_longest;
    if (!(temperature > 0) || isinf(temperature))
        return bitrl_fail(error, BITRL_BAD_ARGUMENT, "the temperature must be above 0, not %g", temperature);
    int status = bitrl_take_batch(session, completions, lengths, batch->sequences, &total, &longest, error);
    if (!status) status = list_prompts(session, batch, 0, &prompts, &prompt_total, &prompt_longest, error);
    for (uint64_t i = 0; i < batch->sequences && !status; i++)
        if (prompts[batch->prompt_of[i]].length + lengths[i] > session->model->shape.context)
            status = bitrl_fail(error, BITRL_BAD_ARGUMENT, "sequence %llu does not fit the context of %llu",
                                (unsigned long long)i, (unsigned long long)session->model->shape.context);
    if (!status && total) {
        if (reserve(session, max(total, prompt_total), max(longest, prompt_longest), prompt_longest + longest, HEAD_ROWS))
            status = score_all(session, batch, prompts, completions, lengths, temperature, out, error);
        else
            status = bitrl_fail(error, BITRL_NO_MEMORY, "no memory for texts of up to %zu tokens", prompt_longest + longest);
    }
    forget_all(prompts, batch->prompts);
    return status;
}
