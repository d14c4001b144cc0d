/* Choosing the next token from logits: temperature, top-k, top-p, and the log-probability of what was chosen.
 *
 * Knows nothing of models; the caller brings the random number, so that the same seed gives the same tokens. */
#include <math.h>
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

/* One row. heap: [n] scratch. */
static int sample(const float *logits, size_t n, const bitrl_sampling *how, double random, candidate *heap, int32_t *token,
                  double *logprob, double *model_logprob)
{
    size_t best = 0;
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(logits[i])) return BITRL_BAD_ARGUMENT;
        if (logits[i] > logits[best]) best = i;
    }
    double most = logits[best], total = 0, heated = 0;
    for (size_t i = 0; i < n; i++) total += exp(logits[i] - most);
    if (how->temperature == 0) {
        *token = (int32_t)best;
        *logprob = 0;
        *model_logprob = -log(total);
        return BITRL_OK;
    }
    for (size_t i = 0; i < n; i++) {
        heap[i] = (candidate){logits[i], (int32_t)i};
        heated += how->temperature == 1 ? 0 : exp((logits[i] - most) / how->temperature);
    }
    if (how->temperature == 1) heated = total;
    size_t from = 0;
    if (how->top_k || how->top_p < 1) {
        from = n - likeliest(heap, n, most, heated, how);
        heated = 0;
        for (size_t i = from; i < n; i++) heated += exp((heap[i].logit - most) / how->temperature);
    }
    double left = random * heated;
    size_t i = from;
    for (; i + 1 < n; i++) {
        left -= exp((heap[i].logit - most) / how->temperature);
        if (left < 0) break;
    }
    *token = heap[i].token;
    *logprob = (heap[i].logit - most) / how->temperature - log(heated);
    *model_logprob = heap[i].logit - most - log(total);
    return BITRL_OK;
}

int bitrl_sample(const float *logits, uint64_t rows, uint64_t vocabulary, const bitrl_sampling *how, const double *random,
                 int32_t *tokens, double *logprobs, double *model_logprobs, char *error)
{
    if (!(how->temperature >= 0) || isinf(how->temperature))
        return bitrl_fail(error, BITRL_BAD_ARGUMENT, "the temperature must be 0 or more, not %g", how->temperature);
    if (!(how->top_p > 0 && how->top_p <= 1))
        return bitrl_fail(error, BITRL_BAD_ARGUMENT, "top_p must be above 0 and at most 1, not %g", how->top_p);
    if (vocabulary < 1 || vocabulary > INT32_MAX)
        return bitrl_fail(error, BITRL_BAD_ARGUMENT, "there is nothing to choose from");
    candidate *heap = bitrl_allocate(vocabulary, sizeof *heap);
    if (!heap) return bitrl_fail(error, BITRL_NO_MEMORY, "no memory to sample");
    int status = BITRL_OK;
    for (uint64_t r = 0; r < rows && !status; r++)
        status = sample(logits + r * vocabulary, vocabulary, how, random[r], heap, tokens + r, logprobs + r, model_logprobs + r);
    free(heap);
    return status ? bitrl_fail(error, status, "logits are not finite") : BITRL_OK;
}
