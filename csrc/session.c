/* Encoding a batch: texts are shared out among threads, each runs the whole forward pass on its own.
 *
 * Threads never wait for each other inside the forward pass, and no token's arithmetic depends on its neighbours in
 * the batch, so results do not depend on the number of threads. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

/* Tokens a thread takes at a time: enough to share each unpacked weight, few enough to stay in cache. */
enum { CHUNK = 128, MAX_THREADS = 1024 };

/* One text of a batch. */
typedef struct {
    uint64_t index, length;
    const int32_t *tokens; /* [length] */
    float *out;            /* [width], or [length, width] without pooling */
} text;

/* A batch, its texts grouped by thread: thread i has texts[first[i] .. first[i + 1]). Carved out of one allocation. */
typedef struct {
    void *memory;
    size_t capacity;   /* texts */
    size_t chunk;      /* tokens that a thread takes at a time, at least the longest text */
    text *texts;       /* [texts] */
    text *sorted;      /* [texts] longest first */
    size_t *owner;     /* [texts] the thread of each sorted text */
    uint64_t *lengths; /* [texts] in the grouped order */
    size_t *first;     /* [threads + 1] */
    uint64_t *load;    /* [threads] tokens of each thread */
    int32_t *tokens;   /* [threads, chunk] a chunk's tokens, gathered */
    int pooling;
} batch;

struct bitrl_session {
    const bitrl_model *model;
    pool *threads;
    size_t thread_count;
    scratch *scratch; /* [thread_count] */
    batch batch;
    double *rope, *local_rope; /* [positions, head_dim] cosines, then sines; the second of local blocks, or NULL */
    size_t positions;
};

/* A pointer to set, and what it shall point to. */
typedef struct {
    void **pointer;
    size_t count, size;
} part;

static size_t max(size_t a, size_t b) { return a > b ? a : b; }

/* Allocates all parts at once, 64-byte aligned, and points them into it; NULL when memory is short. */
static void *carve(const part *parts, size_t count)
{
    size_t bytes = 0, at = 0;
    for (size_t i = 0; i < count; i++) bytes += round_up(parts[i].count * parts[i].size, 64);
    char *memory = bitrl_allocate(bytes, 1);
    for (size_t i = 0; memory && i < count; i++) {
        *parts[i].pointer = memory + at;
        at += round_up(parts[i].count * parts[i].size, 64);
    }
    return memory;
}

/* Makes room for `tokens` tokens in texts of up to `longest`; false when memory is short. */
static bool grow_scratch(scratch *s, const bitrl_model *model, size_t tokens, size_t longest)
{
    if (tokens <= s->tokens && longest <= s->longest) return true;
    tokens = max(tokens, s->tokens);
    longest = max(longest, s->longest);
    const bitrl_shape *shape = &model->shape;
    size_t width = round_up(shape->width, PAD), ffn = round_up(shape->ffn, PAD);
    size_t head = round_up(shape->head_dim, PAD), heads = round_up(shape->heads * shape->head_dim, PAD);
    size_t kv_sums = round_up(shape->kv_heads * shape->head_dim, PAD), widest = max(max(width, ffn), heads);
    size_t sums = max(max(heads + 2 * kv_sums, 2 * ffn), width);
    const part parts[] = {
        {(void **)&s->x, tokens * width, sizeof *s->x},
        {(void **)&s->q, tokens * shape->heads * head, sizeof *s->q},
        {(void **)&s->k, tokens * shape->kv_heads * head, sizeof *s->k},
        {(void **)&s->v, tokens * shape->kv_heads * head, sizeof *s->v},
        {(void **)&s->attended, tokens * heads, sizeof *s->attended},
        {(void **)&s->sums, tokens * sums, sizeof *s->sums},
        {(void **)&s->values, sums, sizeof *s->values},
        {(void **)&s->activations, round_up(tokens, TILE_TOKENS) * steps_of(model->format, widest), 4},
        {(void **)&s->scale[0], tokens, sizeof *s->scale[0]},
        {(void **)&s->scale[1], tokens, sizeof *s->scale[1]},
        {(void **)&s->scale[2], tokens, sizeof *s->scale[2]},
        {(void **)&s->code_sum, tokens, sizeof *s->code_sum},
        {(void **)&s->embedded, width, sizeof *s->embedded},
        {(void **)&s->row, widest, sizeof *s->row},
        {(void **)&s->hidden, widest, sizeof *s->hidden},
        {(void **)&s->unpacked, unpacked_bytes(widest), sizeof *s->unpacked},
        {(void **)&s->attention, attention_scratch(longest, shape->head_dim), sizeof *s->attention},
    };
    free(s->memory);
    *s = (scratch){0};
    s->memory = carve(parts, sizeof parts / sizeof *parts);
    if (!s->memory) return false;
    s->tokens = tokens;
    s->longest = longest;
    return true;
}

/* Makes room for a batch of `texts`, taken in chunks of `chunk` tokens; false when memory is short. */
static bool grow_batch(batch *b, size_t threads, size_t texts, size_t chunk)
{
    if (texts <= b->capacity && chunk <= b->chunk) return true;
    texts = max(texts, b->capacity);
    chunk = max(chunk, b->chunk);
    const part parts[] = {
        {(void **)&b->texts, texts, sizeof *b->texts},       {(void **)&b->sorted, texts, sizeof *b->sorted},
        {(void **)&b->owner, texts, sizeof *b->owner},       {(void **)&b->lengths, texts, sizeof *b->lengths},
        {(void **)&b->first, threads + 1, sizeof *b->first}, {(void **)&b->load, threads, sizeof *b->load},
        {(void **)&b->tokens, threads * chunk, sizeof *b->tokens},
    };
    free(b->memory);
    *b = (batch){0};
    b->memory = carve(parts, sizeof parts / sizeof *parts);
    if (!b->memory) return false;
    b->capacity = texts;
    b->chunk = chunk;
    return true;
}

/* Rotary angles: [positions, head_dim] cosines, then sines; NULL when memory is short. */
static double *make_rope(double theta, size_t positions, size_t head_dim)
{
    size_t half = head_dim / 2;
    double *rope = bitrl_allocate(positions * head_dim, sizeof *rope);
    for (size_t i = 0; rope && i < half; i++) {
        double frequency = pow(theta, -2.0 * (double)i / (double)head_dim);
        for (size_t p = 0; p < positions; p++) {
            rope[p * head_dim + i] = cos((double)p * frequency);
            rope[p * head_dim + half + i] = sin((double)p * frequency);
        }
    }
    return rope;
}

/* Makes rotary angles for positions up to `positions`; false when memory is short. */
static bool grow_rope(bitrl_session *session, size_t positions)
{
    const bitrl_model *model = session->model;
    if (positions <= session->positions) return true;
    positions = round_up(positions, 64);
    free(session->rope);
    free(session->local_rope);
    session->rope = make_rope(model->shape.rope_theta, positions, model->shape.head_dim);
    session->local_rope = model->window ? make_rope(model->local_rope_theta, positions, model->shape.head_dim) : NULL;
    bool ok = session->rope && (session->local_rope || !model->window);
    session->positions = ok ? positions : 0;
    return ok;
}

int bitrl_session_open(const bitrl_model *model, uint64_t threads, bitrl_session **out, char *error)
{
    *out = NULL;
    if (threads < 1 || threads > MAX_THREADS)
        return bitrl_fail(error, BITRL_BAD_ARGUMENT, "threads must be from 1 to %d", MAX_THREADS);
    bitrl_session *session = calloc(1, sizeof *session);
    if (!session) return bitrl_fail(error, BITRL_NO_MEMORY, "no memory for a session");
    session->model = model;
    session->thread_count = threads;
    session->scratch = calloc(threads, sizeof *session->scratch);
    session->threads = pool_open(threads);
    if (!session->scratch || !session->threads) {
        bitrl_session_close(session);
        return bitrl_fail(error, BITRL_NO_MEMORY, "%llu threads could not be started", (unsigned long long)threads);
    }
    *out = session;
    return BITRL_OK;
}

void bitrl_session_close(bitrl_session *session)
{
    if (!session) return;
    pool_close(session->threads);
    for (size_t i = 0; session->scratch && i < session->thread_count; i++) free(session->scratch[i].memory);
    free(session->scratch);
    free(session->batch.memory);
    free(session->rope);
    free(session->local_rope);
    free(session);
}

/* x: [length, padded] -> out, see bitrl_encode. An empty text is zeros. sum: [width] scratch. */
static void pool_text(const text *t, const double *x, size_t width, size_t padded, int pooling, double *sum)
{
    size_t length = t->length;
    if (pooling == BITRL_POOL_NONE) {
        for (size_t i = 0; i < length; i++)
            for (size_t c = 0; c < width; c++) t->out[i * width + c] = (float)x[i * padded + c];
        return;
    }
    memset(sum, 0, width * sizeof *sum);
    for (size_t i = pooling == BITRL_POOL_LAST && length ? length - 1 : 0; i < length; i++)
        for (size_t c = 0; c < width; c++) sum[c] += x[i * padded + c];
    double count = pooling == BITRL_POOL_MEAN && length ? (double)length : 1;
    for (size_t c = 0; c < width; c++) t->out[c] = (float)(sum[c] / count);
}

static void encode_share(void *context, size_t thread)
{
    const bitrl_session *session = context;
    const batch *b = &session->batch;
    const bitrl_model *model = session->model;
    scratch *s = &session->scratch[thread];
    int32_t *tokens = b->tokens + thread * b->chunk;
    size_t width = model->shape.width, padded = round_up(width, PAD);
    for (size_t i = b->first[thread], end; i < b->first[thread + 1]; i = end) {
        size_t n = 0;
        for (end = i; end < b->first[thread + 1] && (end == i || n + b->texts[end].length <= CHUNK); end++) {
            if (b->texts[end].length)
                memcpy(tokens + n, b->texts[end].tokens, b->texts[end].length * sizeof *tokens);
            n += b->texts[end].length;
        }
        bitrl_forward(model, s, session->rope, session->local_rope, tokens, b->lengths + i, end - i);
        size_t at = 0;
        for (size_t j = i; j < end; j++) {
            pool_text(&b->texts[j], s->x + at * padded, width, padded, b->pooling, s->row);
            at += b->texts[j].length;
        }
    }
}

static int longest_first(const void *a, const void *b)
{
    const text *x = a, *y = b;
    if (x->length != y->length) return x->length < y->length ? 1 : -1;
    return x->index < y->index ? -1 : 1;
}

/* Longest processing time first: each text goes to the thread with the fewest tokens so far. */
static void share_out(batch *b, size_t texts, size_t threads)
{
    qsort(b->sorted, texts, sizeof *b->sorted, longest_first);
    memset(b->load, 0, threads * sizeof *b->load);
    for (size_t i = 0; i < texts; i++) {
        size_t least = 0;
        for (size_t t = 1; t < threads; t++)
            if (b->load[t] < b->load[least]) least = t;
        b->owner[i] = least;
        b->load[least] += b->sorted[i].length + 1; /* + 1: empty texts are spread too */
    }
    size_t at = 0;
    for (size_t t = 0; t < threads; t++) {
        b->first[t] = at;
        for (size_t i = 0; i < texts; i++)
            if (b->owner[i] == t) {
                b->lengths[at] = b->sorted[i].length;
                b->texts[at++] = b->sorted[i];
            }
    }
    b->first[threads] = at;
}

/* Sums lengths and checks every token, before anything is allocated for them. */
static int check_batch(const bitrl_shape *shape, const int32_t *tokens, const uint64_t *lengths, uint64_t texts,
                       size_t *total, size_t *longest, char *error)
{
    *total = *longest = 0;
    for (uint64_t i = 0; i < texts; i++) {
        if (lengths[i] > shape->context)
            return bitrl_fail(error, BITRL_BAD_ARGUMENT, "text %llu has %llu tokens; this model reads at most %llu",
                              (unsigned long long)i, (unsigned long long)lengths[i],
                              (unsigned long long)shape->context);
        for (uint64_t j = 0; j < lengths[i]; j++)
            if (tokens[*total + j] < 0 || (uint64_t)tokens[*total + j] >= shape->vocabulary)
                return bitrl_fail(error, BITRL_BAD_ARGUMENT, "text %llu has the token %d; the vocabulary ends at %llu",
                                  (unsigned long long)i, (int)tokens[*total + j],
                                  (unsigned long long)shape->vocabulary - 1);
        *total += lengths[i];
        *longest = max(*longest, lengths[i]);
    }
    return BITRL_OK;
}

int bitrl_encode(bitrl_session *session, const int32_t *tokens, const uint64_t *lengths, uint64_t texts, int pooling,
                 float *out, char *error)
{
    const bitrl_shape *shape = &session->model->shape;
    if (pooling < BITRL_POOL_MEAN || pooling > BITRL_POOL_NONE)
        return bitrl_fail(error, BITRL_BAD_ARGUMENT, "there is no pooling %d", pooling);
    size_t total, longest, threads = session->thread_count;
    int status = check_batch(shape, tokens, lengths, texts, &total, &longest, error);
    if (status || texts == 0) return status;

    batch *b = &session->batch;
    bool ok = grow_rope(session, longest) && grow_batch(b, threads, texts, max(CHUNK, longest));
    for (size_t t = 0; ok && t < threads; t++)
        ok = grow_scratch(&session->scratch[t], session->model, total < b->chunk ? total : b->chunk, longest);
    if (!ok) return bitrl_fail(error, BITRL_NO_MEMORY, "no memory to encode texts of %zu tokens", longest);

    b->pooling = pooling;
    for (uint64_t i = 0, at = 0; i < texts; at += lengths[i++])
        b->sorted[i] =
            (text){i, lengths[i], tokens + at, out + shape->width * (pooling == BITRL_POOL_NONE ? at : i)};
    share_out(b, texts, threads);
    pool_run(session->threads, encode_share, session);
    size_t values = (pooling == BITRL_POOL_NONE ? total : texts) * shape->width;
    bool finite = true;
    for (size_t i = 0; i < values; i++) finite &= isfinite(out[i]) != 0;
    if (finite) return BITRL_OK;
    for (size_t i = 0; i < total; i++) /* the embedding is read as it is needed, so damage shows only now */
        if (!bitrl_read_row(session->scratch->embedded, session->model->embedding, session->model->i2s_arm,
                            (uint64_t)tokens[i]))
            return bitrl_fail(error, BITRL_BAD_RESULT, "is damaged: token_embd.weight is not finite in row %d",
                              (int)tokens[i]);
    return bitrl_fail(error, BITRL_BAD_RESULT, "gives features that are not finite");
}
