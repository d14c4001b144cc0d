/* What encoding (session.c) and generating (generation.c) share: a session's working memory. */
#ifndef BITRL_SESSION_H
#define BITRL_SESSION_H

#include "internal.h"

/* CHUNK: tokens that go through the model together: enough to share each unpacked weight, few enough to stay in cache. LEAST_ALONE:
 * tokens of a thread's own texts. LEAST_SHARED: tokens of a batch that need not be read, for which reading what its texts begin
 * with by itself pays. */
enum { CHUNK = 256, LEAST_ALONE = 24, MAX_THREADS = 1024, LEAST_SHARED = 8, HEAD_ROWS = 64 };

/* Threads that walk through a forward pass together, and their working memory. */
typedef struct {
    pool *threads;
    scratch scratch;
} crew;

/* Some texts of a batch: from this text and token on, up to where the next portion begins. */
typedef struct {
    size_t text, token;
} portion;

/* What texts had in common, or the last one that came alone, and what became of it. */
typedef struct {
    int32_t *tokens; /* [cache.capacity] */
    double *x;       /* [cache.capacity, P(width)] residual stream after the last block */
    bool *ended;     /* [cache.capacity] whether it went through the last block: not where it was not wanted */
    bitrl_cache cache;
} prefix;

struct bitrl_session {
    const bitrl_model *model;
    crew all;
    crew *alone;       /* [threads] each of one; without pools until they are needed */
    portion *portions; /* [portions_capacity] of the batch, and where it ends */
    size_t portions_capacity;
    double *rope, *local_rope; /* [positions, rope_dims] cosines, then sines; the second of local blocks with their own, or NULL */
    size_t positions;
    prefix prefix;
    kept_rows rows;     /* of all tokens read so far */
    int32_t *head_sums; /* [head_rows, P(vocabulary)] */
    float *head_logits; /* [threads, P(vocabulary)] */
    size_t head_rows;
};

static inline size_t max(size_t a, size_t b) { return a > b ? a : b; }
static inline size_t min(size_t a, size_t b) { return a < b ? a : b; }

/* Makes room for `tokens` tokens of `texts` texts, with positions up to `longest`, and for the model's adapters; false when
 * memory is short. */
bool bitrl_grow_scratch(const bitrl_model *model, crew *c, size_t tokens, size_t texts, size_t longest);
/* Rotary angles for positions up to `positions`; false when memory is short. */
bool bitrl_grow_rope(bitrl_session *session, size_t positions);
/* Room for `capacity` tokens; what it holds is kept; false when memory is short. */
bool bitrl_grow_cache(bitrl_cache *cache, const bitrl_model *model, size_t capacity);
/* Sums lengths, checks every token before anything is allocated for them, and keeps their rows of the embedding. */
int bitrl_take_batch(bitrl_session *session, const int32_t *tokens, const uint64_t *lengths, uint64_t texts, size_t *total,
                     size_t *longest, char *error);
/* Features that are not finite come from the embedding, which is read as it is needed, or from the model. */
int bitrl_check_finite(bitrl_session *session, const float *out, size_t values, const int32_t *tokens, size_t total,
                       char *error);

#endif
