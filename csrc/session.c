/* Sessions: working memory and threads of one caller; what is kept of sequences; encoding a batch of texts.
 *
 * Texts are taken a chunk at a time, without padding. What the texts of a batch begin with in common is computed once and
 * kept for the next batch. Neither changes a bit of any text's features. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "session.h"

/* A pointer to set, and what it shall point to. */
typedef struct {
    void **pointer;
    size_t count, size;
} part;

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

bool bitrl_grow_scratch(const bitrl_model *model, crew *c, size_t tokens, size_t texts, size_t longest)
{
    scratch *s = &c->scratch;
    if (tokens <= s->tokens && texts <= s->texts && longest <= s->longest && model->rank <= s->rank) return true;
    tokens = round_up(max(tokens, s->tokens), TOKEN_PAD);
    texts = max(texts, s->texts);
    longest = max(longest, s->longest);
    size_t rank = max(model->rank, s->rank), adapted = rank ? tokens : 0;
    const bitrl_shape *shape = &model->shape;
    size_t threads = pool_threads(c->threads);
    size_t width = round_up(shape->width, PAD), ffn = round_up(shape->ffn, PAD), head = round_up(shape->head_dim, PAD);
    size_t q = round_up(shape->heads * shape->head_dim, PAD), kv = round_up(shape->kv_heads * shape->head_dim, PAD);
    size_t widest = max(max(width, q), ffn), sums = max(max(q + 2 * kv, 2 * ffn), width), columns = round_up(widest, K_PAD);
    scratch next = {.tokens = tokens, .texts = texts, .longest = longest, .rank = rank, .sums_row = sums,
                    .activation_bytes = activation_stride(model->format, columns), .input_bytes = activation_stride(FP32, columns)};
    thread_scratch *own = calloc(threads, sizeof *own);
    part *parts = calloc(18 + 7 * threads, sizeof *parts);
    size_t count = 0;
    if (own && parts) {
        const part shared[] = {
            {(void **)&next.x, tokens * width, sizeof *next.x},
            {(void **)&next.q, tokens * shape->heads * head, sizeof *next.q},
            {(void **)&next.k, tokens * shape->kv_heads * head, sizeof *next.k},
            {(void **)&next.v, tokens * shape->kv_heads * head, sizeof *next.v},
            {(void **)&next.attended, tokens * q, sizeof *next.attended},
            {(void **)&next.sums, tokens * sums, sizeof *next.sums},
            {(void **)&next.activations, tokens, next.activation_bytes},
            {(void **)&next.inputs, adapted, next.input_bytes},
            {(void **)&next.hidden, adapted, SHARING * hidden_bytes(rank)},
            {(void **)&next.adapted, adapted * sums, sizeof *next.adapted},
            {(void **)&next.scale[0], tokens, sizeof *next.scale[0]},
            {(void **)&next.scale[1], tokens, sizeof *next.scale[1]},
            {(void **)&next.scale[2], tokens, sizeof *next.scale[2]},
            {(void **)&next.code_sum, tokens, sizeof *next.code_sum},
            {(void **)&next.passage_of, tokens, sizeof *next.passage_of},
            {(void **)&next.wanted, tokens, sizeof *next.wanted},
            {(void **)&next.attention_items, texts + 1, sizeof *next.attention_items},
            {(void **)&next.passages, texts, sizeof *next.passages},
        };
        memcpy(parts, shared, sizeof shared);
        count = sizeof shared / sizeof *shared;
        for (size_t i = 0; i < threads; i++) {
            const part mine[] = {
                {(void **)&own[i].values, max(max(q + 2 * kv, width), 2 * PART), sizeof *own->values},
                {(void **)&own[i].row, widest, sizeof *own->row},
                {(void **)&own[i].hidden, widest, sizeof *own->hidden},
                {(void **)&own[i].embedded, width, sizeof *own->embedded},
                {(void **)&own[i].unpacked, unpacked_bytes(columns, tokens), sizeof *own->unpacked},
                {(void **)&own[i].attention, attention_scratch(longest, shape->head_dim), sizeof *own->attention},
                {(void **)&own[i].block_sums, model->has_blocks ? (TILE_ROWS + 1) * tokens : 0, sizeof *own->block_sums},
            };
            memcpy(parts + count, mine, sizeof mine);
            count += sizeof mine / sizeof *mine;
        }
        next.memory = carve(parts, count);
    }
    free(parts);
    if (!next.memory) {
        free(own);
        return false;
    }
    free(s->memory);
    free(s->own);
    *s = next;
    s->own = own;
    return true;
}

/* [positions, dims] cosines, then sines; NULL when memory is short. */
static double *make_rope(size_t positions, size_t dims, const double *frequencies, double factor)
{
    double *rope = bitrl_allocate(positions * dims, sizeof *rope);
    if (rope) bitrl_rope(rope, positions, dims, frequencies, factor);
    return rope;
}

bool bitrl_grow_rope(bitrl_session *session, size_t positions)
{
    if (positions <= session->positions) return true;
    const bitrl_model *model = session->model;
    positions = round_up(positions, 64);
    size_t dims = model->shape.rope_dims;
    double *rope = make_rope(positions, dims, model->frequencies, model->rope_factor);
    double *local = model->local_frequencies ? make_rope(positions, dims, model->local_frequencies, 1) : NULL;
    if (!rope || (model->local_frequencies && !local)) {
        free(rope);
        free(local);
        return false;
    }
    free(session->rope);
    free(session->local_rope);
    session->rope = rope;
    session->local_rope = local;
    session->positions = positions;
    return true;
}

int bitrl_session_open(const bitrl_model *model, uint64_t threads, bitrl_session **out, char *error)
{
    *out = NULL;
    if (threads < 1 || threads > MAX_THREADS)
        return bitrl_fail(error, BITRL_BAD_ARGUMENT, "threads must be from 1 to %d", MAX_THREADS);
    bitrl_session *session = calloc(1, sizeof *session);
    if (!session) return bitrl_fail(error, BITRL_NO_MEMORY, "no memory for a session");
    session->model = model;
    session->all.threads = pool_open(threads);
    session->alone = calloc(threads, sizeof *session->alone);
    if (!session->all.threads || !session->alone) {
        bitrl_session_close(session);
        return bitrl_fail(error, BITRL_NO_MEMORY, "%llu threads could not be started", (unsigned long long)threads);
    }
    *out = session;
    return BITRL_OK;
}

static void close_crew(crew *c)
{
    pool_close(c->threads);
    free(c->scratch.memory);
    free(c->scratch.own);
}

void bitrl_session_close(bitrl_session *session)
{
    if (!session) return;
    for (size_t i = 0; session->alone && session->all.threads && i < pool_threads(session->all.threads); i++) close_crew(&session->alone[i]);
    close_crew(&session->all);
    free(session->alone);
    free(session->portions);
    free(session->rope);
    free(session->local_rope);
    free(session->prefix.tokens);
    free(session->prefix.x);
    free(session->prefix.ended);
    free(session->prefix.cache.values);
    bitrl_forget_rows(&session->rows);
    free(session->head_sums);
    free(session->head_logits);
    free(session);
}

/* ---- sequences ---- */

/* The first `length` tokens of one cache into another. */
static void copy_tokens(bitrl_cache *to, const bitrl_cache *from, size_t length)
{
    size_t bytes = round_up(length, KEYS_TOGETHER) * to->row * sizeof *to->values;
    for (size_t i = 0; i < to->parts; i++)
        memcpy(to->values + i * to->rows * to->row, from->values + i * from->rows * from->row, bytes);
}

bool bitrl_grow_cache(bitrl_cache *cache, const bitrl_model *model, size_t capacity)
{
    if (capacity <= cache->capacity) return true;
    bitrl_cache next = {.capacity = capacity, .length = cache->length, .rows = round_up(capacity, KEYS_TOGETHER),
                        .row = round_up(model->shape.head_dim, PAD), .parts = 2 * model->shape.blocks * model->shape.kv_heads,
                        .version = cache->version};
    next.values = bitrl_allocate(next.parts * next.rows, next.row * sizeof *next.values);
    if (!next.values) return false;
    if (cache->length) copy_tokens(&next, cache, cache->length);
    free(cache->values);
    *cache = next;
    return true;
}

int bitrl_cache_open(const bitrl_model *model, uint64_t capacity, bitrl_cache **out, char *error)
{
    *out = NULL;
    if (capacity < 1 || capacity > model->shape.context)
        return bitrl_fail(error, BITRL_BAD_ARGUMENT, "this model reads sequences of 1 to %llu tokens, not %llu",
                          (unsigned long long)model->shape.context, (unsigned long long)capacity);
    bitrl_cache *cache = calloc(1, sizeof *cache);
    if (!cache || !bitrl_grow_cache(cache, model, capacity)) {
        free(cache);
        return bitrl_fail(error, BITRL_NO_MEMORY, "no memory to keep %llu tokens", (unsigned long long)capacity);
    }
    *out = cache;
    return BITRL_OK;
}

void bitrl_cache_close(bitrl_cache *cache)
{
    if (!cache) return;
    free(cache->values);
    free(cache);
}

uint64_t bitrl_cache_bytes(const bitrl_cache *cache)
{
    return cache->parts * cache->rows * cache->row * sizeof *cache->values;
}

uint64_t bitrl_cache_length(const bitrl_cache *cache) { return cache->length; }

int bitrl_cache_cut(bitrl_cache *cache, uint64_t length, char *error)
{
    if (length > cache->length)
        return bitrl_fail(error, BITRL_BAD_ARGUMENT, "a sequence of %llu tokens cannot be cut to %llu",
                          (unsigned long long)cache->length, (unsigned long long)length);
    cache->length = length;
    return BITRL_OK;
}

int bitrl_cache_copy(bitrl_cache *to, const bitrl_cache *from, uint64_t length, char *error)
{
    if (length > from->length || length > to->capacity || to->row != from->row || to->parts != from->parts)
        return bitrl_fail(error, BITRL_BAD_ARGUMENT, "%llu tokens of a sequence of %llu do not fit there",
                          (unsigned long long)length, (unsigned long long)from->length);
    copy_tokens(to, from, length);
    to->length = length;
    to->version = from->version;
    return BITRL_OK;
}

int bitrl_take_batch(bitrl_session *session, const int32_t *tokens, const uint64_t *lengths, uint64_t texts,
                      size_t *total, size_t *longest, char *error)
{
    const bitrl_shape *shape = &session->model->shape;
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
    return bitrl_keep_rows(&session->rows, session->model, tokens, *total, error);
}

/* What all threads know while they encode a batch. */
typedef struct {
    bitrl_session *session;
    const int32_t *tokens;
    const uint64_t *lengths;
    int pooling;            /* or these: */
    const uint64_t *places; /* [texts, fields], or NULL */
    size_t fields;
    bitrl_readout readout; /* of their states */
    size_t columns;        /* features of a text */
    float *out;
    size_t shared, count; /* tokens of the kept prefix, portions */
    bool kept;            /* the only text is kept, as the prefix of the next ones */
} encoding;

/* ---- what texts begin with in common ---- */

static size_t common(const int32_t *a, size_t a_length, const int32_t *b, size_t b_length)
{
    size_t n = 0, most = min(a_length, b_length);
    while (n < most && a[n] == b[n]) n++;
    return n;
}

/* Makes room in the kept prefix; what it holds is kept; false when memory is short. */
static bool grow_prefix(bitrl_session *session, size_t capacity)
{
    prefix *kept = &session->prefix;
    size_t before = kept->cache.capacity, width = round_up(session->model->shape.width, PAD);
    if (capacity <= before) return true;
    capacity = min(round_up(capacity, 16), session->model->shape.context);
    int32_t *tokens = realloc(kept->tokens, capacity * sizeof *tokens);
    if (tokens) kept->tokens = tokens;
    bool *ended = realloc(kept->ended, capacity * sizeof *ended);
    if (ended) kept->ended = ended;
    double *x = bitrl_allocate(capacity, width * sizeof *x);
    if (!tokens || !ended || !x || !bitrl_grow_cache(&kept->cache, session->model, capacity)) {
        free(x);
        return false;
    }
    if (kept->x) memcpy(x, kept->x, before * width * sizeof *x);
    free(kept->x);
    kept->x = x;
    return true;
}

/* Keeps what became of `count` tokens behind the first `past` kept ones: x: [count, P(width)]. places: [fields] of those that went
 * through the last block, or NULL: all did. */
static void keep_rows(bitrl_session *session, size_t past, const int32_t *tokens, size_t count, const double *x,
                      const uint64_t *places, size_t fields)
{
    prefix *kept = &session->prefix;
    size_t width = round_up(session->model->shape.width, PAD);
    memcpy(kept->tokens + past, tokens, count * sizeof *tokens);
    memcpy(kept->x + past * width, x, count * width * sizeof *x);
    for (size_t i = past; i < past + count; i++) kept->ended[i] = !places;
    for (size_t f = 0; places && f < fields; f++)
        if (places[f] >= past) kept->ended[places[f]] = true;
    kept->cache.length = past + count;
}

/* Whether a single text is kept, so that the next one need not be read where it begins likewise, as a state does that follows a
 * state: not where that takes much memory, of a long text or a large model. */
static bool keeps_text(const bitrl_model *model, size_t length)
{
    enum { MOST = 2 << 20 };
    const bitrl_shape *shape = &model->shape;
    size_t row = 2 * shape->blocks * shape->kv_heads * round_up(shape->head_dim, PAD) + round_up(shape->width, PAD);
    return length * row * sizeof(double) <= MOST;
}

/* Tokens of the kept prefix that every text begins with, after keeping more of them if that will save work. */
static int share_prefix(bitrl_session *session, const encoding *e, uint64_t texts, size_t *shared, char *error)
{
    prefix *kept = &session->prefix;
    const int32_t *tokens = e->tokens;
    const uint64_t *lengths = e->lengths;
    size_t all = lengths[0];
    for (uint64_t i = 1, at = lengths[0]; i < texts; at += lengths[i++]) all = common(tokens, all, tokens + at, lengths[i]);
    if (kept->cache.version != session->model->version) kept->cache.length = 0;
    kept->cache.version = session->model->version;
    *shared = common(tokens, all, kept->tokens, kept->cache.length);
    for (size_t i = 0; !e->places && i < *shared; i++)
        if (!kept->ended[i]) *shared = i;
    for (size_t i = 0; e->places && i < texts * e->fields; i++)
        if (e->places[i] < *shared && !kept->ended[e->places[i]]) *shared = e->places[i];
    if ((texts - 1) * (all - *shared) >= LEAST_SHARED) {
        if (!grow_prefix(session, all)) return bitrl_fail(error, BITRL_NO_MEMORY, "no memory to keep %zu tokens", all);
        const passage p = {.tokens = tokens + *shared, .length = all - *shared, .past = *shared, .before = &kept->cache,
                           .keep = &kept->cache};
        bitrl_forward(session->model, session->all.threads, &session->all.scratch, &session->rows, session->rope,
                      session->local_rope, &p, 1, bitrl_walk_mode(session->model, session->all.threads, p.length));
        keep_rows(session, *shared, p.tokens, p.length, session->all.scratch.x, NULL, 0);
        *shared = all;
    }
    return BITRL_OK;
}

/* ---- encoding ---- */

/* Adds the rows of x: [rows, padded] to what is pooled: sum: [width]; or writes them, without pooling. */
static void pool_rows(const double *x, size_t rows, size_t width, size_t padded, int pooling, float *out, double *sum)
{
    for (size_t i = 0; i < rows; i++, x += padded)
        if (pooling == BITRL_POOL_NONE)
            for (size_t c = 0; c < width; c++) out[i * width + c] = (float)x[c];
        else if (pooling == BITRL_POOL_MEAN)
            for (size_t c = 0; c < width; c++) sum[c] += x[c];
        else
            memcpy(sum, x, width * sizeof *sum);
}

/* One text's features from the rows of the kept prefix and its own; zeros for an empty text. sum: [width] scratch. */
static void pool_text(const bitrl_session *session, size_t shared, const double *x, size_t length, int pooling, float *out,
                      double *sum)
{
    size_t width = session->model->shape.width, padded = round_up(width, PAD), total = shared + length;
    memset(sum, 0, width * sizeof *sum);
    pool_rows(session->prefix.x, shared, width, padded, pooling, out, sum);
    pool_rows(x, length, width, padded, pooling, out + shared * width, sum);
    double count = pooling == BITRL_POOL_MEAN && total ? (double)total : 1;
    for (size_t c = 0; c < width && pooling != BITRL_POOL_NONE; c++) out[c] = (float)(sum[c] / count);
}

/* How far a state [width] goes in a direction [width]: products of floats, which double holds exactly, in eight sums, which a compiler
 * can keep in a vector, added in one order. */
static float along(const double *row, const float *direction, size_t width)
{
    double sums[8] = {0};
    for (size_t c = 0; c + 8 <= width; c += 8)
        for (size_t i = 0; i < 8; i++) sums[i] += (double)(float)row[c + i] * direction[c + i];
    for (size_t c = width - width % 8; c < width; c++) sums[c % 8] += (double)(float)row[c] * direction[c];
    return (float)(((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7])));
}

/* The states at some of a text's tokens: side by side, each number added to the feature that a sketch names, or each state in some
 * directions. */
static void pool_fields(const bitrl_session *session, size_t shared, const double *x, const uint64_t *places, size_t fields,
                        const bitrl_readout *readout, size_t columns, float *out)
{
    size_t width = session->model->shape.width, padded = round_up(width, PAD);
    memset(out, 0, columns * sizeof *out);
    for (size_t f = 0; f < fields; f++) {
        const double *row = places[f] < shared ? session->prefix.x + places[f] * padded : x + (places[f] - shared) * padded;
        const int32_t *to = readout->sketch ? readout->sketch + f * width : NULL;
        if (readout->directions) {
            for (size_t d = 0; d < readout->columns; d++)
                out[f * readout->columns + d] = along(row, readout->directions + d * width, width);
            continue;
        }
        for (size_t c = 0; c < width; c++) {
            float value = (float)row[c];
            if (!to)
                out[f * width + c] = value;
            else if (to[c] < 0)
                out[-1 - to[c]] -= value;
            else
                out[to[c]] += value;
        }
    }
}

/* Whether an adapter gave what is not finite since this was last asked. */
static bool overflowed(crew *c)
{
    bool found = false;
    for (size_t i = 0; c->scratch.own && i < pool_threads(c->threads); i++) {
        found |= c->scratch.own[i].overflowed;
        c->scratch.own[i].overflowed = false;
    }
    return found;
}

int bitrl_check_finite(bitrl_session *session, const float *out, size_t values, const int32_t *tokens, size_t total,
                        char *error)
{
    bool finite = !overflowed(&session->all);
    for (size_t i = 0; i < pool_threads(session->all.threads); i++) finite &= !overflowed(&session->alone[i]);
    for (size_t i = 0; i < values; i++) finite &= isfinite(out[i]) != 0;
    if (finite) return BITRL_OK;
    session->prefix.cache.length = 0;
    for (size_t i = 0; i < total; i++)
        if (!bitrl_embed(session->model, &session->rows, tokens[i], session->all.scratch.own->embedded))
            return bitrl_fail(error, BITRL_BAD_RESULT, "is damaged: token_embd.weight is not finite in row %d",
                              (int)tokens[i]);
    return bitrl_fail(error, BITRL_BAD_RESULT, "gives features that are not finite");
}

/* Divides a batch into portions of about `most` tokens beyond the shared ones, at least a text each; how many there are, or 0
 * when memory is short. */
static size_t divide(bitrl_session *session, const uint64_t *lengths, uint64_t texts, size_t shared, size_t most)
{
    if (session->portions_capacity < texts + 1) {
        free(session->portions);
        session->portions = calloc(texts + 1, sizeof *session->portions);
        session->portions_capacity = session->portions ? texts + 1 : 0;
        if (!session->portions) return 0;
    }
    size_t count = 0, rows = 0, at = 0;
    for (uint64_t i = 0; i < texts; at += lengths[i++], rows += lengths[i - 1] - shared)
        if (i == 0 || rows + lengths[i] - shared > most || i - session->portions[count - 1].text == CHUNK) {
            session->portions[count++] = (portion){i, at};
            rows = 0;
        }
    session->portions[count] = (portion){texts, at};
    return count;
}

static void encode_portion(const encoding *e, const portion *p, crew *c)
{
    const bitrl_session *session = e->session;
    size_t width = session->model->shape.width, rows = 0, count = 0, at = p->token;
    passage *passages = c->scratch.passages;
    for (size_t i = p->text; i < p[1].text; at += e->lengths[i++]) {
        size_t length = e->lengths[i] - e->shared;
        passages[count] = (passage){.tokens = e->tokens + at + e->shared, .length = length, .first = rows, .past = e->shared,
                                    .before = &session->prefix.cache};
        if (e->places) {
            passages[count].wanted = e->places + i * e->fields;
            passages[count].wanted_count = e->lengths[i] ? e->fields : 0;
        }
        count++;
        rows += length;
    }
    bitrl_forward(session->model, c->threads, &c->scratch, &session->rows, session->rope, session->local_rope, passages, count,
                  bitrl_walk_mode(session->model, c->threads, rows));
    at = p->token;
    for (size_t j = 0; j < count; at += e->lengths[p->text + j++]) {
        const double *x = c->scratch.x + passages[j].first * round_up(width, PAD);
        size_t text = p->text + j;
        if (!e->places)
            pool_text(session, e->shared, x, passages[j].length, e->pooling,
                      e->out + width * (e->pooling == BITRL_POOL_NONE ? at : text), c->scratch.own->row);
        else
            pool_fields(session, e->shared, x, e->places + text * e->fields, e->lengths[text] ? e->fields : 0, &e->readout, e->columns,
                        e->out + text * e->columns);
    }
}

/* Threads that take tokens of a text apart: of a model which is in every core's cache, so that none reads weights for others. */
static size_t parts_of(const bitrl_session *session, size_t tokens)
{
    enum { LEAST_PART = 4 }; /* tokens */
    if (bitrl_model_bytes_per_token(session->model) > SMALL) return 1;
    return max(1, min(pool_running(session->all.threads), tokens / LEAST_PART));
}

/* The only text of a batch, which is kept. */
static void encode_kept(const encoding *e)
{
    bitrl_session *session = e->session;
    scratch *s = &session->all.scratch;
    size_t length = e->lengths[0], padded = round_up(session->model->shape.width, PAD);
    walk_mode mode = bitrl_walk_mode(session->model, session->all.threads, length - e->shared);
    size_t parts = mode == WALK_ALONE ? 1 : parts_of(session, length - e->shared), each = (length - e->shared + parts - 1) / parts;
    bitrl_cache *cache = &session->prefix.cache;
    for (size_t i = 0, at = e->shared, field = 0; i < parts; at += s->passages[i++].length) {
        passage *p = &s->passages[i];
        *p = (passage){.tokens = e->tokens + at, .length = min(each, length - at), .first = i * round_up(each, TOKEN_PAD), .past = at,
                       .before = cache, .keep = cache};
        while (e->places && field < e->fields && e->places[field] < at) field++;
        p->wanted = e->places ? e->places + field : NULL;
        while (e->places && field < e->fields && e->places[field] < at + p->length) field++;
        p->wanted_count = e->places ? (size_t)(e->places + field - p->wanted) : 0;
    }
    bitrl_forward(session->model, session->all.threads, s, &session->rows, session->rope, session->local_rope, s->passages, parts,
                  parts > 1 ? WALK_APART : mode);
    for (const passage *p = s->passages; p < s->passages + parts; p++)
        keep_rows(session, p->past, p->tokens, p->length, s->x + p->first * padded, e->places, e->fields);
    if (e->places)
        pool_fields(session, length, NULL, e->places, e->fields, &e->readout, e->columns, e->out);
    else
        pool_text(session, length, NULL, 0, e->pooling, e->out, s->own->row);
}

static void encode_alone(void *context, size_t thread, size_t threads)
{
    const encoding *e = context;
    (void)threads;
    for (size_t i; pool_take(e->session->all.threads, e->count, &i);)
        encode_portion(e, &e->session->portions[i], &e->session->alone[thread]);
}

/* Tokens of texts that go through a model together: fewer than CHUNK where working memory would be more than WORKING. */
static size_t chunk_of(const bitrl_model *model)
{
    enum { WORKING = 8 << 20, LEAST = 64 };
    const bitrl_shape *shape = &model->shape;
    size_t q = shape->heads * shape->head_dim, kv = shape->kv_heads * shape->head_dim;
    size_t sums = max(max(q + 2 * kv, 2 * shape->ffn), shape->width);
    size_t bytes = (shape->width + 2 * (q + kv)) * sizeof(double) + sums * sizeof(int32_t);
    return max(LEAST, min(CHUNK, WORKING / bytes / TOKEN_PAD * TOKEN_PAD));
}

/* The texts of `e`, whose `tokens` in all and `longest` bitrl_take_batch found. */
static int encode_batch(encoding *e, uint64_t texts, size_t total, size_t longest, char *error)
{
    bitrl_session *session = e->session;
    const bitrl_model *model = session->model;
    const int32_t *tokens = e->tokens;
    const uint64_t *lengths = e->lengths;
    size_t threads = pool_threads(session->all.threads), chunk = chunk_of(model);
    int status = BITRL_OK;
    size_t most = min(CHUNK, max(LEAST_ALONE, total / (2 * threads))), at_once = min(texts, CHUNK) + 1;
    bool alone = threads > 1 && texts > 1 && bitrl_model_bytes_per_token(model) <= SMALL;
    bool ok = bitrl_grow_rope(session, longest) &&
              bitrl_grow_scratch(model, &session->all, max(min(total, chunk), longest), at_once, longest);
    for (size_t i = 0; ok && alone && i < threads; i++) {
        if (!session->alone[i].threads) session->alone[i].threads = pool_open(1);
        ok = session->alone[i].threads && bitrl_grow_scratch(model, &session->alone[i], max(most, longest), at_once, longest);
    }
    if (ok) status = share_prefix(session, e, texts, &e->shared, error);
    e->kept = ok && !status && texts == 1 && total && keeps_text(model, total);
    if (e->kept) {
        size_t parts = parts_of(session, total), each = (total + parts - 1) / parts;
        ok = grow_prefix(session, total) && bitrl_grow_scratch(model, &session->all, parts * round_up(each, TOKEN_PAD), parts, longest);
    }
    if (ok && !status) ok = (e->count = divide(session, lengths, texts, e->shared, alone ? most : chunk)) > 0;
    if (!ok) return bitrl_fail(error, BITRL_NO_MEMORY, "no memory to encode texts of %zu tokens", longest);
    if (status) return status;

    if (e->kept)
        encode_kept(e);
    else if (alone && e->count > 1)
        pool_run(session->all.threads, encode_alone, e);
    else
        for (size_t i = 0; i < e->count; i++) encode_portion(e, &session->portions[i], &session->all);
    return bitrl_check_finite(session, e->out, (e->pooling == BITRL_POOL_NONE ? total : texts) * e->columns, tokens, total, error);
}

int bitrl_encode(bitrl_session *session, const int32_t *tokens, const uint64_t *lengths, uint64_t texts, int pooling,
                 float *out, char *error)
{
    if (pooling < BITRL_POOL_MEAN || pooling > BITRL_POOL_NONE)
        return bitrl_fail(error, BITRL_BAD_ARGUMENT, "there is no pooling %d", pooling);
    encoding e = {.session = session, .tokens = tokens, .lengths = lengths, .pooling = pooling, .out = out};
    e.columns = session->model->shape.width;
    size_t total, longest;
    int status = bitrl_take_batch(session, tokens, lengths, texts, &total, &longest, error);
    return status || texts == 0 ? status : encode_batch(&e, texts, total, longest, error);
}

int bitrl_encode_fields(bitrl_session *session, const int32_t *tokens, const uint64_t *lengths, uint64_t texts,
                        const uint64_t *places, uint64_t fields, const bitrl_readout *readout, float *out, char *error)
{
    size_t width = session->model->shape.width, total, longest;
    bitrl_readout how = readout ? *readout : (bitrl_readout){0};
    if (!how.sketch && !how.directions) how.columns = width;
    if (fields < 1 || fields > session->model->shape.context)
        return bitrl_fail(error, BITRL_BAD_ARGUMENT, "there cannot be %llu fields", (unsigned long long)fields);
    for (size_t i = 0; how.sketch && i < fields * width; i++) {
        int64_t feature = how.sketch[i] < 0 ? -1 - (int64_t)how.sketch[i] : how.sketch[i];
        if (feature >= (int64_t)how.columns)
            return bitrl_fail(error, BITRL_BAD_ARGUMENT, "the sketch names feature %d of %llu", (int)how.sketch[i],
                              (unsigned long long)how.columns);
    }
    encoding e = {.session = session, .tokens = tokens, .lengths = lengths, .out = out, .pooling = BITRL_POOL_LAST,
                  .places = places, .fields = fields, .readout = how, .columns = how.sketch ? how.columns : fields * how.columns};
    int status = bitrl_take_batch(session, tokens, lengths, texts, &total, &longest, error);
    for (uint64_t i = 0; !status && i < texts * fields; i++)
        if (lengths[i / fields] && (places[i] >= lengths[i / fields] || (i % fields && places[i] <= places[i - 1])))
            status = bitrl_fail(error, BITRL_BAD_ARGUMENT, "the places of text %llu do not ascend within its %llu tokens",
                                (unsigned long long)(i / fields), (unsigned long long)lengths[i / fields]);
    return status || texts == 0 ? status : encode_batch(&e, texts, total, longest, error);
}

int bitrl_encode_blocks(bitrl_session *session, const int32_t *tokens, const uint64_t *lengths, uint64_t texts, float *out,
                        char *error)
{
    const bitrl_model *model = session->model;
    scratch *s = &session->all.scratch;
    size_t total, longest, count = 0;
    int status = bitrl_take_batch(session, tokens, lengths, texts, &total, &longest, error);
    if (status || texts == 0) return status;
    bool ok = bitrl_grow_rope(session, longest) &&
              bitrl_grow_scratch(model, &session->all, max(min(total, CHUNK), longest), min(texts, CHUNK) + 1, longest) &&
              (count = divide(session, lengths, texts, 0, CHUNK)) > 0;
    if (!ok) return bitrl_fail(error, BITRL_NO_MEMORY, "no memory to encode texts of %zu tokens", longest);
    s->states_rows = total;
    for (const portion *p = session->portions; p < session->portions + count; p++) {
        size_t rows = 0, passages = 0;
        for (size_t i = p->text; i < p[1].text; rows += lengths[i++])
            s->passages[passages++] = (passage){.tokens = tokens + p->token + rows, .length = lengths[i], .first = rows};
        s->states = out + p->token * model->shape.width;
        bitrl_forward(model, session->all.threads, s, &session->rows, session->rope, session->local_rope, s->passages, passages,
                      bitrl_walk_mode(model, session->all.threads, rows));
    }
    s->states = NULL;
    return bitrl_check_finite(session, out, model->shape.blocks * total * model->shape.width, tokens, total, error);
}
