/* Choosing the next token from logits: temperature, top-k, top-p, and the log-probability of what was chosen.
 *
 * Knows nothing of models; the caller brings the random number, so that the same seed gives the same tokens. */
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "internal.h"

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

enum { BLOCK = 1024 };

static size_t min(size_t a, size_t b) { return a < b ? a : b; }

/* The sum of exp((logit - most) * scale) over a row. */
static double mass(const bitrl_kernels *kernels, const float *logits, size_t n, double most, double scale)
{
    double sum = 0;
    for (size_t i = 0; i < n; i += BLOCK) sum += kernels->exp_sum(logits + i, min(BLOCK, n - i), most, scale);
    return sum;
}

/* The token at which the running sum passes `left`, all being candidates. */
static size_t pick(const bitrl_kernels *kernels, const float *logits, size_t n, double most, double scale, double left)
{
    size_t i = 0;
    for (double block; i + BLOCK < n; i += BLOCK, left -= block)
        if ((block = kernels->exp_sum(logits + i, BLOCK, most, scale)) > left) break;
    for (size_t end = min(i + BLOCK, n) - 1; i < end; i++)
        if ((left -= exp((logits[i] - most) * scale)) < 0) break;
    return i;
}

/* One row. heap: [n] scratch. */
static bool sample(const bitrl_kernels *kernels, const float *logits, size_t n, const bitrl_sampling *how, double random,
                   candidate *heap, int32_t *token, double *logprob, double *model_logprob)
{
    size_t best = 0;
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(logits[i])) return false;
        if (logits[i] > logits[best]) best = i;
    }
    double most = logits[best], total = mass(kernels, logits, n, most, 1);
    if (how->temperature == 0) {
        *token = (int32_t)best;
        *logprob = 0;
        *model_logprob = -log(total);
        return true;
    }
    double scale = 1 / how->temperature, heated = scale == 1 ? total : mass(kernels, logits, n, most, scale);
    if (how->top_k || how->top_p < 1) {
        for (size_t i = 0; i < n; i++) heap[i] = (candidate){logits[i], (int32_t)i};
        size_t i = n - likeliest(heap, n, most, heated, how);
        heated = 0;
        for (size_t j = i; j < n; j++) heated += exp((heap[j].logit - most) * scale);
        for (double left = random * heated; i + 1 < n; i++)
            if ((left -= exp((heap[i].logit - most) * scale)) < 0) break;
        *token = heap[i].token;
    } else
        *token = (int32_t)pick(kernels, logits, n, most, scale, random * heated);
    *logprob = (logits[*token] - most) * scale - log(heated);
    *model_logprob = logits[*token] - most - log(total);
    return true;
}

/* What the threads share out: rows. */
typedef struct {
    const bitrl_kernels *kernels;
    pool *threads;
    const float *logits;
    size_t rows, vocabulary;
    const bitrl_sampling *how;
    const double *random;
    candidate *heaps; /* [threads, vocabulary] */
    int32_t *tokens;
    double *logprobs, *model_logprobs;
    atomic_bool not_finite;
} sampling;

static void sample_rows(void *context, size_t thread, size_t threads)
{
    sampling *s = context;
    (void)threads;
    for (size_t r; pool_take(s->threads, s->rows, &r);)
        if (!sample(s->kernels, s->logits + r * s->vocabulary, s->vocabulary, s->how, s->random[r],
                    s->heaps + thread * s->vocabulary, s->tokens + r, s->logprobs + r, s->model_logprobs + r))
            s->not_finite = true;
}

int bitrl_sample(bitrl_session *session, const float *logits, uint64_t rows, uint64_t vocabulary,
                 const bitrl_sampling *how, const double *random, int32_t *tokens, double *logprobs, double *model_logprobs,
                 char *error)
{
    if (!(how->temperature >= 0) || isinf(how->temperature))
        return bitrl_fail(error, BITRL_BAD_ARGUMENT, "the temperature must be 0 or more, not %g", how->temperature);
    if (!(how->top_p > 0 && how->top_p <= 1))
        return bitrl_fail(error, BITRL_BAD_ARGUMENT, "top_p must be above 0 and at most 1, not %g", how->top_p);
    if (vocabulary < 1 || vocabulary > INT32_MAX)
        return bitrl_fail(error, BITRL_BAD_ARGUMENT, "there is nothing to choose from");
    sampling s = {.kernels = bitrl_session_kernels(session), .threads = bitrl_session_pool(session), .logits = logits,
                  .rows = rows, .vocabulary = vocabulary, .how = how, .random = random, .tokens = tokens,
                  .logprobs = logprobs, .model_logprobs = model_logprobs};
    s.heaps = bitrl_allocate(pool_threads(s.threads) * vocabulary, sizeof *s.heaps);
    if (!s.heaps) return bitrl_fail(error, BITRL_NO_MEMORY, "no memory to sample");
    if (rows) pool_run(s.threads, sample_rows, &s);
    free(s.heaps);
    return s.not_finite ? bitrl_fail(error, BITRL_BAD_RESULT, "gives logits that are not finite") : BITRL_OK;
}
