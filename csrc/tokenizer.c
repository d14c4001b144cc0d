/* Byte-level BPE: phrases are taken out of a text and the rest is cut into pieces, whose bytes are joined to tokens, the best
 * merge first.
 *
 * What the tokenizers library gives for the same vocabulary is what this gives (tests/csrc/test_engine_tokenizer.py), down to
 * merges that have gone stale in its queue. Where a text is cut is BITRL_PATTERN of plugins/backbones/files/tokenizer.py,
 * alternative by alternative; no other way of cutting is known here. */
#include "tokenizer.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "characters.h"
#include "internal.h"

enum { MOST_TOKENS = 1 << 24, MOST_MERGES = 1 << 24, MOST_PHRASES = 1 << 12 };

typedef struct {
    uint64_t pair; /* left << 32 | right */
    uint32_t rank, joined;
} merge;

typedef struct {
    int32_t id, before, after; /* neighbours; -1: none */
    uint32_t bytes;            /* 0: it was joined to the one before */
} symbol;

typedef struct {
    uint32_t rank, joined, at; /* at: of the left symbol */
} candidate;

struct bitrl_tokenizer {
    uint8_t *bytes;
    uint32_t *starts; /* [count + 1] of each token in bytes */
    uint64_t count;
    int32_t single[256]; /* the token of one byte; -1: none */
    int32_t *places;     /* [places_mask + 1] tokens by their bytes; -1: free */
    merge *merges;       /* [merges_mask + 1] by their pairs; joined == UINT32_MAX: free */
    uint64_t places_mask, merges_mask;
    int32_t *phrases; /* [phrase_count] tokens by their bytes, in order */
    uint64_t phrase_count;
    bool begins_phrase[256];
    symbol *symbols;  /* [longest] of one piece */
    candidate *queue; /* [3 longest] a heap, the best first */
    size_t queued;
};

static uint64_t hash_bytes(const uint8_t *bytes, size_t n)
{
    uint64_t h = 14695981039346656037u;
    for (size_t i = 0; i < n; i++) h = (h ^ bytes[i]) * 1099511628211u;
    return h ^ h >> 32;
}

static uint64_t hash_pair(uint64_t pair)
{
    pair *= 0x9e3779b97f4a7c15u;
    return pair ^ pair >> 32;
}

static uint64_t table_size(uint64_t count)
{
    uint64_t size = 16;
    while (size < 2 * count) size *= 2;
    return size;
}

static int32_t find_token(const bitrl_tokenizer *t, const uint8_t *bytes, size_t n)
{
    for (uint64_t at = hash_bytes(bytes, n);; at++) {
        int32_t id = t->places[at & t->places_mask];
        if (id < 0) return -1;
        if (t->starts[id + 1] - t->starts[id] == n && memcmp(t->bytes + t->starts[id], bytes, n) == 0) return id;
    }
}

static const merge *find_merge(const bitrl_tokenizer *t, int32_t left, int32_t right)
{
    const uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    for (uint64_t at = hash_pair(pair);; at++) {
        const merge *m = &t->merges[at & t->merges_mask];
        if (m->joined == UINT32_MAX) return NULL;
        if (m->pair == pair) return m;
    }
}

static int damaged(char *error, const char *what)
{
    return bitrl_fail(error, BITRL_BAD_FILE, "is damaged: its vocabulary %s", what);
}

/* A byte of a token; -1 beyond its end. */
static int token_byte(const bitrl_tokenizer *t, int32_t id, size_t i)
{
    return i < t->starts[id + 1] - t->starts[id] ? t->bytes[t->starts[id] + i] : -1;
}

static int32_t token_length(const bitrl_tokenizer *t, int32_t id) { return (int32_t)(t->starts[id + 1] - t->starts[id]); }

static bool is_sooner(const bitrl_tokenizer *t, int32_t a, int32_t b)
{
    size_t i = 0;
    while (token_byte(t, a, i) == token_byte(t, b, i) && token_byte(t, a, i) >= 0) i++;
    return token_byte(t, a, i) < token_byte(t, b, i);
}

/* They are few: sorted by insertion. */
static int add_phrases(bitrl_tokenizer *t, const uint8_t *phrases, char *error)
{
    for (uint64_t i = 0; i < t->phrase_count; i++) {
        uint32_t id;
        uint64_t at = i;
        memcpy(&id, phrases + i * sizeof id, sizeof id);
        if (id >= t->count || !token_length(t, (int32_t)id)) return damaged(error, "has phrases that are no tokens");
        for (; at && is_sooner(t, (int32_t)id, t->phrases[at - 1]); at--) t->phrases[at] = t->phrases[at - 1];
        if (at && !is_sooner(t, t->phrases[at - 1], (int32_t)id)) return damaged(error, "has a phrase twice");
        t->phrases[at] = (int32_t)id;
        t->begins_phrase[token_byte(t, (int32_t)id, 0)] = true;
    }
    return BITRL_OK;
}

static bool is_phrase(const bitrl_tokenizer *t, int32_t id)
{
    for (uint64_t i = 0; i < t->phrase_count; i++)
        if (t->phrases[i] == id) return true;
    return false;
}

static int add_tokens(bitrl_tokenizer *t, const uint8_t *lengths, const uint8_t *bytes, uint64_t byte_count, const uint8_t *phrases, char *error)
{
    uint64_t at = 0;
    if (byte_count) memcpy(t->bytes, bytes, byte_count);
    for (uint64_t i = 0; i < t->count; i++) {
        if (lengths[i] > byte_count - at) return damaged(error, "has fewer bytes than its tokens");
        t->starts[i] = (uint32_t)at;
        at += lengths[i];
    }
    t->starts[t->count] = (uint32_t)at;
    int status = add_phrases(t, phrases, error);
    if (status) return status;
    for (uint64_t i = 0; i < t->count; i++) {
        const uint8_t *token = t->bytes + t->starts[i];
        if (!lengths[i] || is_phrase(t, (int32_t)i)) continue; /* which no piece is: it has been taken out before */
        if (find_token(t, token, lengths[i]) >= 0) return damaged(error, "has a token twice");
        uint64_t place = hash_bytes(token, lengths[i]);
        while (t->places[place & t->places_mask] >= 0) place++;
        t->places[place & t->places_mask] = (int32_t)i;
        if (lengths[i] == 1) t->single[*token] = (int32_t)i;
    }
    return BITRL_OK;
}

static int add_merges(bitrl_tokenizer *t, const uint8_t *merges, uint64_t merge_count, char *error)
{
    for (uint64_t i = 0; i < merge_count; i++) {
        uint32_t row[3];
        memcpy(row, merges + i * sizeof row, sizeof row);
        if (row[0] >= t->count || row[1] >= t->count || row[2] >= t->count) return damaged(error, "joins tokens that it does not have");
        const uint64_t pair = (uint64_t)row[0] << 32 | row[1];
        uint64_t place = hash_pair(pair);
        while (t->merges[place & t->merges_mask].joined != UINT32_MAX)
            if (t->merges[place++ & t->merges_mask].pair == pair) return damaged(error, "joins two tokens twice");
        t->merges[place & t->merges_mask] = (merge){pair, (uint32_t)i, row[2]};
    }
    return BITRL_OK;
}

int bitrl_tokenizer_open(const uint8_t *lengths, uint64_t count, const uint8_t *bytes, uint64_t byte_count, const uint8_t *merges,
                         uint64_t merge_count, const uint8_t *phrases, uint64_t phrase_count, uint64_t longest,
                         bitrl_tokenizer **out, char *error)
{
    *out = NULL;
    if (count < 1 || count > MOST_TOKENS || merge_count > MOST_MERGES || byte_count > 255 * count || phrase_count > MOST_PHRASES)
        return damaged(error, "has an impossible size");
    bitrl_tokenizer *t = calloc(1, sizeof *t);
    if (!t) return bitrl_fail(error, BITRL_NO_MEMORY, "no memory for a vocabulary");
    const uint64_t places = table_size(count), pairs = table_size(merge_count);
    t->count = count;
    t->places_mask = places - 1;
    t->merges_mask = pairs - 1;
    t->bytes = malloc(byte_count + 1);
    t->starts = calloc(count + 1, sizeof *t->starts);
    t->places = malloc(places * sizeof *t->places);
    t->merges = malloc(pairs * sizeof *t->merges);
    t->phrases = calloc(phrase_count + 1, sizeof *t->phrases);
    t->phrase_count = phrase_count;
    t->symbols = calloc(longest + 1, sizeof *t->symbols);
    t->queue = calloc(3 * (longest + 1), sizeof *t->queue);
    int status = BITRL_OK;
    if (!t->bytes || !t->starts || !t->places || !t->merges || !t->phrases || !t->symbols || !t->queue)
        status = bitrl_fail(error, BITRL_NO_MEMORY, "no memory for a vocabulary of %llu tokens", (unsigned long long)count);
    for (size_t i = 0; i < 256; i++) t->single[i] = -1;
    for (uint64_t i = 0; !status && i < places; i++) t->places[i] = -1;
    for (uint64_t i = 0; !status && i < pairs; i++) t->merges[i].joined = UINT32_MAX;
    if (!status) status = add_tokens(t, lengths, bytes, byte_count, phrases, error);
    if (!status) status = add_merges(t, merges, merge_count, error);
    if (status)
        bitrl_tokenizer_close(t);
    else
        *out = t;
    return status;
}

void bitrl_tokenizer_close(bitrl_tokenizer *t)
{
    if (!t) return;
    free(t->bytes);
    free(t->starts);
    free(t->places);
    free(t->merges);
    free(t->phrases);
    free(t->symbols);
    free(t->queue);
    free(t);
}

/* ---- a piece's tokens ---- */

/* The lower rank first, of equal ones the one further to the left. */
static bool before(const candidate *a, const candidate *b) { return a->rank != b->rank ? a->rank < b->rank : a->at < b->at; }

static void push(bitrl_tokenizer *t, candidate c)
{
    size_t i = t->queued++;
    for (; i && before(&c, &t->queue[(i - 1) / 2]); i = (i - 1) / 2) t->queue[i] = t->queue[(i - 1) / 2];
    t->queue[i] = c;
}

static candidate pop(bitrl_tokenizer *t)
{
    const candidate best = t->queue[0], last = t->queue[--t->queued];
    size_t i = 0;
    for (size_t child; (child = 2 * i + 1) < t->queued; i = child) {
        if (child + 1 < t->queued && before(&t->queue[child + 1], &t->queue[child])) child++;
        if (!before(&t->queue[child], &last)) break;
        t->queue[i] = t->queue[child];
    }
    t->queue[i] = last;
    return best;
}

/* The symbol at i and the one after it may become one. */
static void consider(bitrl_tokenizer *t, int32_t i)
{
    const symbol *s = &t->symbols[i];
    const merge *m = s->after < 0 ? NULL : find_merge(t, s->id, t->symbols[s->after].id);
    if (m) push(t, (candidate){m->rank, m->joined, (uint32_t)i});
}

static void join(bitrl_tokenizer *t, size_t symbols)
{
    t->queued = 0;
    for (size_t i = 0; i + 1 < symbols; i++) consider(t, (int32_t)i);
    while (t->queued) {
        const candidate best = pop(t);
        symbol *left = &t->symbols[best.at];
        if (!left->bytes || left->after < 0) continue;
        symbol *right = &t->symbols[left->after];
        const merge *m = find_merge(t, left->id, right->id);
        if (!m || m->joined != best.joined) continue;
        left->id = (int32_t)best.joined;
        left->bytes += right->bytes;
        right->bytes = 0;
        left->after = right->after;
        if (left->after >= 0) t->symbols[left->after].before = (int32_t)best.at;
        if (left->before >= 0) consider(t, left->before);
        consider(t, (int32_t)best.at);
    }
}

static void add(token_row *out, int32_t id, size_t end)
{
    if (out->count < out->room && out->ids) out->ids[out->count] = id;
    if (out->count < out->room && out->ends) out->ends[out->count] = (uint32_t)end;
    out->count++;
}

/* A byte that is no token gives none; those around it are neighbours. */
static void tokenize_piece(bitrl_tokenizer *t, const char *text, size_t from, size_t to, token_row *out)
{
    const uint8_t *bytes = (const uint8_t *)text + from;
    const int32_t whole = find_token(t, bytes, to - from);
    if (whole >= 0) {
        add(out, whole, to);
        return;
    }
    int32_t symbols = 0;
    for (size_t i = 0; i < to - from; i++) {
        if (t->single[bytes[i]] < 0) continue;
        t->symbols[symbols] = (symbol){t->single[bytes[i]], symbols - 1, symbols + 1, 1};
        symbols++;
    }
    if (!symbols) return;
    t->symbols[symbols - 1].after = -1;
    join(t, (size_t)symbols);
    size_t end = from, i = 0;
    for (int32_t s = 0; s >= 0; s = t->symbols[s].after) { /* bytes that are no tokens lie between those that are */
        for (uint32_t n = t->symbols[s].bytes; n; i++)
            if (t->single[bytes[i]] >= 0) n--;
        end = from + i;
        add(out, t->symbols[s].id, end);
    }
}

/* ---- cutting ---- */

static bool is_digit(int c) { return c >= '0' && c <= '9'; }
static bool is_name(int c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }

/* A text and where each alternative of the pattern is tried; the byte at i, -1 beyond its end. */
typedef struct {
    const char *text;
    size_t bytes;
} input;

static int byte_at(const input *in, size_t i) { return i < in->bytes ? (unsigned char)in->text[i] : -1; }

static size_t digits_at(const input *in, size_t i)
{
    size_t n = 0;
    while (is_digit(byte_at(in, i + n))) n++;
    return n;
}

/* -?[0-9] */
static bool number_begins(const input *in, size_t i) { return is_digit(byte_at(in, i + (byte_at(in, i) == '-'))); }

/* [{\[, ]{0,4}"[A-Za-z_][A-Za-z0-9_ ]{0,63}": ?  Each function returns where what it matches at i ends, or i. */
static size_t quoted_key(const input *in, size_t i)
{
    size_t at = i, n = 0;
    for (int c; n < 4 && ((c = byte_at(in, at)) == '{' || c == '[' || c == ',' || c == ' '); n++) at++;
    if (byte_at(in, at) != '"' || !is_name(byte_at(in, at + 1))) return i;
    at += 2, n = 0;
    for (int c; n < 64 && (is_name(c = byte_at(in, at)) || is_digit(c) || c == ' '); n++) at++;
    if (n > 63 || byte_at(in, at) != '"' || byte_at(in, at + 1) != ':') return i;
    return at + 2 + (byte_at(in, at + 2) == ' ');
}

/*  ?[A-Za-z_][A-Za-z0-9_]{0,63}= */
static size_t compact_key(const input *in, size_t i)
{
    size_t at = i + (byte_at(in, i) == ' '), n = 0;
    if (!is_name(byte_at(in, at++))) return i;
    for (int c; n < 64 && (is_name(c = byte_at(in, at)) || is_digit(c)); n++) at++;
    return n > 63 || byte_at(in, at) != '=' ? i : at + 1;
}

/* (?<![0-9.])-?[0-9]{1,2}\.[0-9] | (?<![0-9.])-?[0-9]{1,3}(?![0-9]) | (?<![0-9.])-?[0-9]{1,2}(?=(?:[0-9]{2}){1,32}(?![0-9]))
 * | [0-9]{1,2} | (?<=[0-9])\.[0-9] */
static size_t number(const input *in, size_t i)
{
    const int last = i ? byte_at(in, i - 1) : -1;
    const bool begins = !is_digit(last) && last != '.';
    const size_t at = i + (byte_at(in, i) == '-'), digits = digits_at(in, at);
    if (begins && digits >= 1 && digits <= 2 && byte_at(in, at + digits) == '.' && is_digit(byte_at(in, at + digits + 1)))
        return at + digits + 2;
    if (begins && digits >= 1 && digits <= 3) return at + digits;
    if (begins && digits >= 4 && digits <= 66) return at + (digits % 2 ? 1 : 2);
    if (at == i && digits) return i + (digits > 1 ? 2 : 1);
    if (byte_at(in, i) == '.' && is_digit(last) && is_digit(byte_at(in, i + 1))) return i + 2;
    return i;
}

/* (?: (?=-?[0-9]))? */
static size_t space_before_number(const input *in, size_t i) { return byte_at(in, i) == ' ' && number_begins(in, i + 1) ? i + 1 : i; }

/*  ?\p{L}+(?: (?=-?[0-9]))? */
static size_t word(const input *in, size_t i)
{
    size_t at = i + (byte_at(in, i) == ' '), start = at;
    uint32_t code;
    for (size_t n; at < in->bytes; at += n) {
        n = character_at(in->text + at, in->bytes - at, &code);
        if (kind_of_character(code) != LETTER) break;
    }
    return at == start ? i : space_before_number(in, at);
}

/*  ?(?:(?!-[0-9])[^\s\p{L}0-9])+(?: (?=-?[0-9]))? */
static size_t punctuation(const input *in, size_t i)
{
    size_t at = i + (byte_at(in, i) == ' '), start = at;
    uint32_t code;
    for (size_t n; at < in->bytes; at += n) {
        n = character_at(in->text + at, in->bytes - at, &code);
        if (code == '-' && is_digit(byte_at(in, at + 1))) break;
        if (is_white_space(code) || is_digit((int)code) || kind_of_character(code) == LETTER) break;
    }
    return at == start ? i : space_before_number(in, at);
}

/* \s+(?!\S) | \s+ */
static size_t space(const input *in, size_t i)
{
    size_t at = i, last = i;
    uint32_t code;
    for (size_t n; at < in->bytes; at += n) {
        n = character_at(in->text + at, in->bytes - at, &code);
        if (!is_white_space(code)) return last > i ? last : at;
        last = at;
    }
    return at;
}

/* Where the piece that begins at i ends. */
static size_t piece_end(const input *in, size_t i)
{
    static size_t (*const alternatives[])(const input *, size_t) = {quoted_key, compact_key, number, word, punctuation};
    for (size_t a = 0; a < sizeof alternatives / sizeof *alternatives; a++) {
        const size_t end = alternatives[a](in, i);
        if (end > i) return end;
    }
    if (byte_at(in, i) == '-') return i + 1;
    const size_t end = space(in, i);
    return end > i ? end : i + 1;
}

/* A stretch of text without phrases, which sees nothing of what stands around it. */
static void tokenize_plain(bitrl_tokenizer *t, const char *text, size_t from, size_t to, token_row *out)
{
    const input in = {text + from, to - from};
    for (size_t at = 0, end; at < in.bytes; at = end) {
        end = piece_end(&in, at);
        tokenize_piece(t, text, from + at, from + end, out);
    }
}

/* The first phrase in order, from `low` on, whose byte i is `byte` or comes after it. */
static uint64_t first_with(const bitrl_tokenizer *t, uint64_t low, uint64_t high, size_t i, int byte)
{
    while (low < high) {
        const uint64_t middle = (low + high) / 2;
        if (token_byte(t, t->phrases[middle], i) < byte)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* The longest phrase that the text goes on with; -1: none. */
static int32_t find_phrase(const bitrl_tokenizer *t, const char *text, size_t bytes)
{
    int32_t found = -1;
    uint64_t low = 0, high = t->phrase_count;
    for (size_t i = 0; i < bytes && low < high; i++) {
        const int byte = (unsigned char)text[i];
        low = first_with(t, low, high, i, byte);
        high = first_with(t, low, high, i, byte + 1);
        if (low < high && token_length(t, t->phrases[low]) == (int32_t)i + 1) found = t->phrases[low];
    }
    return found;
}

void tokenize(bitrl_tokenizer *t, const char *text, size_t bytes, token_row *out)
{
    size_t from = 0;
    for (size_t at = 0; at < bytes;) {
        const int32_t phrase = t->begins_phrase[(unsigned char)text[at]] ? find_phrase(t, text + at, bytes - at) : -1;
        if (phrase < 0) {
            at++;
            continue;
        }
        tokenize_plain(t, text, from, at, out);
        at += (size_t)token_length(t, phrase);
        add(out, phrase, at);
        from = at;
    }
    tokenize_plain(t, text, from, bytes, out);
}

uint64_t bitrl_tokenize(bitrl_tokenizer *t, const char *texts, const uint64_t *bytes, uint64_t count, int32_t *ids, uint32_t *ends,
                        uint64_t *counts)
{
    uint64_t found = 0;
    for (uint64_t i = 0; i < count; texts += bytes[i++]) {
        token_row row = {.ids = ids + found, .ends = ends + found, .room = bytes[i]};
        tokenize(t, texts, bytes[i], &row);
        found += counts[i] = row.count;
    }
    return found;
}
