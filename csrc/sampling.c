/* Choosing the next token from logits: temperature, top-k, top-p, and the log-probability of what was chosen.
 *
 * Knows nothing of models; the caller brings the random number, so that the same seed gives the same tokens. */
#include <float.h>
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "session.h"

typedef struct {
    float logit;
    int32_t token;
} candidate;

/* Higher logits first; of equal ones the lower token. */
static bool before(const candidate *a, const candidate *b)
{
    return a->logit != b->logit ? a->logit > b->logit : a->token < b->token;
}

static void sink(candidate *heap, size_t n, size_t i)
{
    for (size_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && before(&heap[child + 1], &heap[child])) child++;
        if (!before(&heap[child], &heap[i])) return;
        candidate other = heap[i];
        heap[i] = heap[child];
        heap[child] = other;
    }
}

/* Moves the likeliest candidates to the end of heap: [n], the likeliest last: at most top_k (0: all), and no more than
 * reach the share top_p of `total`, the sum of exp((logit - most) / temperature). Returns how many. */
static size_t likeliest(candidate *heap, size_t n, double most, double total, const bitrl_sampling *how)
{
    size_t kept = 0, limit = how->top_k && how->top_k < n ? how->top_k : n;
    double mass = 0;
    for (size_t i = n / 2; i-- > 0;) sink(heap, n, i);
    if (how->top_p < 1 && limit < n) { /* top_p is a share of what top_k leaves */
        bitrl_sampling k_only = *how;
        k_only.top_p = 1;
        kept = likeliest(heap, n, most, total, &k_only);
        total = 0;
        for (size_t i = n - kept; i < n; i++) total += exp((heap[i].logit - most) / how->temperature);
        for (size_t i = n; i-- > n - kept;) {
            mass += exp((heap[i].logit - most) / how->temperature);
            if (mass >= how->top_p * total) return n - i;
        }
        return kept;
    }
    while (kept < limit && (kept == 0 || how->top_p >= 1 || mass < how->top_p * total)) {
        candidate best = heap[0];
        size_t last = n - ++kept;
        heap[0] = heap[last];
        heap[last] = best;
        sink(heap, last, 0);
        mass += exp((best.logit - most) / how->temperature);
    }
    return kept;
}

/* What differences of logits are multiplied by; finite, so that those of 0 stay 0. */
static double scale_of(double temperature) { return fmin(1 / temperature, DBL_MAX); }

enum { BLOCK = 1024 };

/* The sum of exp((logit - most) * scale) over a row; blocks: of each BLOCK of it; or NULL. */
static double mass(const bitrl_kernels *kernels, const float *logits, size_t n, double most, double scale, double *blocks)
{
    double sum = 0;
    for (size_t i = 0; i < n; i += BLOCK) {
        double block = kernels->exp_sum(logits + i, min(BLOCK, n - i), most, scale);
        if (blocks) *blocks++ = block;
        sum += block;
    }
    return sum;
}

/* The token at which the running sum passes `left`, all being candidates. */
static size_t pick(const float *logits, size_t n, double most, double scale, double left, const double *blocks)
{
    size_t i = 0;
    for (; i + BLOCK < n && *blocks <= left; i += BLOCK) left -= *blocks++;
    for (size_t end = min(i + BLOCK, n) - 1; i < end; i++)
        if ((left -= exp((logits[i] - most) * scale)) < 0) break;
    return i;
}

/* The first of the largest logits; n when one is not finite. */
static size_t likeliest_of_all(const float *logits, size_t n)
{
    float most = logits[0], wrong = 0; /* no branches: vectorised */
    for (size_t i = 0; i < n; i++) {
        most = logits[i] > most ? logits[i] : most;
        wrong += logits[i] - logits[i]; /* NaN of what is not finite, else 0 */
    }
    for (size_t i = 0; i < n && wrong == 0; i++)
        if (logits[i] == most) return i;
    return n;
}

/* Appends all tokens from `last` up in the order of `before`, which are `count`, to a list; false when memory is short. */
static bool keep(token_list *kept, size_t count, const float *logits, size_t n, candidate last)
{
    if (kept->capacity - kept->count < count) {
        size_t capacity = max(2 * kept->capacity, kept->count + count);
        int32_t *tokens = realloc(kept->tokens, capacity * sizeof *tokens);
        if (!tokens) return false;
        kept->tokens = tokens;
        kept->capacity = capacity;
    }
    for (size_t i = 0; i < n; i++)
        if (logits[i] > last.logit || (logits[i] == last.logit && (int32_t)i <= last.token))
            kept->tokens[kept->count++] = (int32_t)i;
    return true;
}

int bitrl_choose(const bitrl_kernels *kernels, const float *logits, size_t n, const bitrl_sampling *how, void *scratch,
                 choice *c)
{
    size_t best = likeliest_of_all(logits, n);
    if (best == n) return BITRL_BAD_RESULT;
    double *blocks = how->temperature > 0 && !is_cut(how) ? scratch : NULL;
    double most = logits[best], total = mass(kernels, logits, n, most, 1, blocks);
    c->kept_count = 0;
    if (how->temperature == 0) {
        c->token = (int32_t)best;
        c->logprob = 0;
        c->model_logprob = -log(total);
        return BITRL_OK;
    }
    double scale = scale_of(how->temperature), heated = scale == 1 ? total : mass(kernels, logits, n, most, scale, blocks);
    if (is_cut(how)) {
        candidate *heap = scratch;
        for (size_t i = 0; i < n; i++) heap[i] = (candidate){logits[i], (int32_t)i};
        size_t i = n - likeliest(heap, n, most, heated, how);
        c->kept_count = n - i;
        if (c->kept && !keep(c->kept, n - i, logits, n, heap[i])) return BITRL_NO_MEMORY;
        heated = 0;
        for (size_t j = i; j < n; j++) heated += exp((heap[j].logit - most) * scale);
        for (double left = c->random * heated; i + 1 < n; i++)
            if ((left -= exp((heap[i].logit - most) * scale)) < 0) break;
        c->token = heap[i].token;
    } else
        c->token = (int32_t)pick(logits, n, most, scale, c->random * heated, blocks);
    c->logprob = (logits[c->token] - most) * scale - log(heated);
    c->model_logprob = logits[c->token] - most - log(total);
    return BITRL_OK;
}

double bitrl_logprob(const bitrl_kernels *kernels, const float *logits, size_t n, double temperature, int32_t token)
{
    size_t best = likeliest_of_all(logits, n);
    if (best == n) return NAN;
    double most = logits[best], scale = scale_of(temperature);
    return (logits[token] - most) * scale - log(mass(kernels, logits, n, most, scale, NULL));
}

int bitrl_check_sampling(const bitrl_sampling *how, char *error)
{
    if (!(how->temperature >= 0) || isinf(how->temperature))
        return bitrl_fail(error, BITRL_BAD_ARGUMENT, "the temperature must be 0 or more, not %g", how->temperature);
    if (!(how->top_p > 0 && how->top_p <= 1))
        return bitrl_fail(error, BITRL_BAD_ARGUMENT, "top_p must be above 0 and at most 1, not %g", how->top_p);
    return BITRL_OK;
}

/* What the threads share out: rows. */
typedef struct {
    bitrl_session *session;
    const float *logits;
    size_t rows, vocabulary;
    const bitrl_sampling *how;
    const double *random;
    uint64_t *scratch; /* [threads, vocabulary] */
    int32_t *tokens;
    double *logprobs, *model_logprobs;
    atomic_bool not_finite;
} sampling;

static void sample_rows(void *context, size_t thread, size_t threads)
{
    sampling *s = context;
    (void)threads;
    for (size_t r; pool_take(s->session->all.threads, s->rows, &r);) {
        choice c = {.random = s->random[r]};
        if (bitrl_choose(s->session->model->kernels, s->logits + r * s->vocabulary, s->vocabulary, s->how,
                         s->scratch + thread * s->vocabulary, &c))
            s->not_finite = true;
        s->tokens[r] = c.token;
        s->logprobs[r] = c.logprob;
        s->model_logprobs[r] = c.model_logprob;
    }
}

int bitrl_sample(bitrl_session *session, const float *logits, uint64_t rows, uint64_t vocabulary,
                 const bitrl_sampling *how, const double *random, int32_t *tokens, double *logprobs, double *model_logprobs,
                 char *error)
{
    int status = bitrl_check_sampling(how, error);
    if (status) return status;
    if (vocabulary < 1 || vocabulary > INT32_MAX)
        return bitrl_fail(error, BITRL_BAD_ARGUMENT, "there is nothing to choose from");
    sampling s = {.session = session, .logits = logits, .rows = rows, .vocabulary = vocabulary, .how = how, .random = random,
                  .tokens = tokens, .logprobs = logprobs, .model_logprobs = model_logprobs};
    s.scratch = bitrl_allocate(pool_threads(session->all.threads) * vocabulary, sizeof *s.scratch);
    if (!s.scratch) return bitrl_fail(error, BITRL_NO_MEMORY, "no memory to sample");
    if (rows) pool_run(session->all.threads, sample_rows, &s);
    free(s.scratch);
    return s.not_finite ? bitrl_fail(error, BITRL_BAD_RESULT, "gives logits that are not finite") : BITRL_OK;
}
