/* Reading JSON without recursion and without memory of its own.
 *
 * Knows nothing of what a text is about. Hostile text costs time in proportion to its length: names of an object, which are
 * compared with each other, are bounded. */
#include "json.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "characters.h"
#include "internal.h"

typedef struct {
    json *j;
    size_t at;
    uint32_t open[JSON_DEPTH]; /* arrays and objects that have not ended: their nodes */
    size_t depth;
    char *error;
} reader;

static int wrong(const reader *r, const char *what)
{
    return bitrl_fail(r->error, BITRL_BAD_ARGUMENT, "expected JSON: %s at byte %zu", what, r->at + 1);
}

static int peek(const reader *r) { return r->at < r->j->bytes ? (unsigned char)r->j->text[r->at] : -1; }

static void skip_space(reader *r)
{
    for (int c; (c = peek(r)) == ' ' || c == '\t' || c == '\n' || c == '\r';) r->at++;
}

static size_t skip_digits(reader *r)
{
    size_t start = r->at;
    for (int c; (c = peek(r)) >= '0' && c <= '9';) r->at++;
    return r->at - start;
}

/* Four hexadecimal digits; -1 where they are not there. */
static int hexadecimal(const char *from, size_t left)
{
    int value = 0;
    if (left < 4) return -1;
    for (size_t i = 0; i < 4; i++) {
        char c = from[i];
        int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
        if (digit < 0) return -1;
        value = value * 16 + digit;
    }
    return value;
}

static bool is_high(int unit) { return unit >= 0xd800 && unit < 0xdc00; }
static bool is_low(int unit) { return unit >= 0xdc00 && unit < 0xe000; }

/* After the backslash. */
static int read_escape(reader *r)
{
    int c = peek(r);
    if (c < 0 || !strchr("\"\\/bfnrtu", c) || c == 0) return wrong(r, "an unknown escape");
    r->at++;
    if (c != 'u') return BITRL_OK;
    int unit = hexadecimal(r->j->text + r->at, r->j->bytes - r->at);
    if (unit < 0) return wrong(r, "an unknown escape");
    r->at += 4;
    if (is_low(unit)) return wrong(r, "half of a surrogate pair");
    if (!is_high(unit)) return BITRL_OK;
    const char *next = r->j->text + r->at;
    if (r->j->bytes - r->at < 6 || next[0] != '\\' || next[1] != 'u' || !is_low(hexadecimal(next + 2, 4)))
        return wrong(r, "half of a surrogate pair");
    r->at += 6;
    return BITRL_OK;
}

static int read_string(reader *r, json_node *node)
{
    node->kind = JSON_STRING;
    node->begin = (uint32_t)++r->at;
    for (;;) {
        int c = peek(r), status = BITRL_OK;
        if (c < 0) return wrong(r, "a string without an end");
        if (c == '"') break;
        if (c < ' ') return wrong(r, "a control character");
        if (c == '\\') {
            r->at++;
            status = read_escape(r);
        } else {
            size_t bytes = valid_character(r->j->text + r->at, r->j->bytes - r->at);
            if (!bytes) return bitrl_fail(r->error, BITRL_BAD_ARGUMENT, "expected UTF-8: byte %zu is not", r->at + 1);
            r->at += bytes;
        }
        if (status) return status;
    }
    node->end = (uint32_t)r->at++;
    return BITRL_OK;
}

static int read_number(reader *r, json_node *node)
{
    node->kind = JSON_INTEGER;
    node->begin = (uint32_t)r->at;
    if (peek(r) == '-') r->at++;
    if (peek(r) == '0')
        r->at++;
    else if (!skip_digits(r))
        return wrong(r, "no value");
    if (peek(r) == '.') {
        node->kind = JSON_FRACTION;
        r->at++;
        if (!skip_digits(r)) return wrong(r, "no digit");
    }
    if (peek(r) == 'e' || peek(r) == 'E') {
        node->kind = JSON_FRACTION;
        r->at++;
        if (peek(r) == '+' || peek(r) == '-') r->at++;
        if (!skip_digits(r)) return wrong(r, "no digit");
    }
    node->end = (uint32_t)r->at;
    return node->end - node->begin > JSON_DIGITS ? wrong(r, "a number of too many digits") : BITRL_OK;
}

static int read_word(reader *r, json_node *node)
{
    static const struct {
        const char *word;
        json_kind kind;
    } words[] = {{"null", JSON_NULL}, {"true", JSON_TRUE}, {"false", JSON_FALSE}};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        size_t bytes = strlen(words[i].word);
        if (r->j->bytes - r->at < bytes || memcmp(r->j->text + r->at, words[i].word, bytes) != 0) continue;
        node->kind = words[i].kind;
        node->begin = (uint32_t)r->at;
        r->at += bytes;
        node->end = (uint32_t)r->at;
        return BITRL_OK;
    }
    return wrong(r, "no value");
}

/* An object's names differ. */
static int check_names(const reader *r, const json_node *object)
{
    const json *j = r->j;
    if (object->count > JSON_NAMES) return wrong(r, "an object with too many names");
    char name[256], other[256];
    const json_node *node = object + 1;
    for (uint32_t i = 0; i < object->count; i++, node = json_after(j, node + 1)) {
        size_t bytes = json_string(j, node, name, sizeof name);
        const json_node *before = object + 1;
        for (uint32_t k = 0; k < i; k++, before = json_after(j, before + 1))
            if (json_string(j, before, other, sizeof other) == bytes &&
                (bytes > sizeof name ? before->end - before->begin == node->end - node->begin &&
                                           memcmp(j->text + before->begin, j->text + node->begin, node->end - node->begin) == 0
                                     : memcmp(name, other, bytes) == 0))
                return bitrl_fail(r->error, BITRL_BAD_ARGUMENT, "expected JSON: the key \"%.*s\" is there twice",
                                  bytes > 80 ? 80 : (int)bytes, name);
    }
    return BITRL_OK;
}

/* The next node; NULL when there are too many. */
static json_node *add(const reader *r)
{
    json *j = r->j;
    if (j->used == j->capacity) return NULL;
    json_node *node = &j->nodes[j->used++];
    *node = (json_node){.next = (uint32_t)j->used};
    return node;
}

static int too_many(const reader *r)
{
    return bitrl_fail(r->error, BITRL_BAD_ARGUMENT, "expected JSON of at most %zu values and names, got more", r->j->capacity);
}

/* A name of an object, up to its value. */
static int read_name(reader *r)
{
    skip_space(r);
    if (peek(r) != '"') return wrong(r, "no name");
    json_node *node = add(r);
    int status = node ? read_string(r, node) : too_many(r);
    if (status) return status;
    skip_space(r);
    if (peek(r) != ':') return wrong(r, "no colon");
    r->at++;
    return BITRL_OK;
}

/* A value; of an array or object that is not empty only its beginning, up to the first value inside. */
static int read_value(reader *r, bool *complete)
{
    skip_space(r);
    json_node *node = add(r);
    const int c = peek(r);
    *complete = true;
    if (!node) return too_many(r);
    if (c == '"') return read_string(r, node);
    if (c == '-' || (c >= '0' && c <= '9')) return read_number(r, node);
    if (c != '[' && c != '{') return read_word(r, node);
    if (r->depth == JSON_DEPTH) return bitrl_fail(r->error, BITRL_BAD_ARGUMENT, "expected JSON: nested too deeply");
    node->kind = c == '[' ? JSON_ARRAY : JSON_OBJECT;
    node->begin = (uint32_t)r->at++;
    skip_space(r);
    if (peek(r) == (c == '[' ? ']' : '}')) {
        node->end = (uint32_t)++r->at;
        return BITRL_OK;
    }
    *complete = false;
    r->open[r->depth++] = (uint32_t)(node - r->j->nodes);
    return c == '{' ? read_name(r) : BITRL_OK;
}

/* After a value: ends what ends here, up to where another value begins, or nothing is open any more. */
static int go_on(reader *r)
{
    while (r->depth) {
        json_node *outer = &r->j->nodes[r->open[r->depth - 1]];
        const bool is_array = outer->kind == JSON_ARRAY;
        outer->count++;
        skip_space(r);
        if (peek(r) == ',') {
            r->at++;
            return is_array ? BITRL_OK : read_name(r);
        }
        if (peek(r) != (is_array ? ']' : '}')) return wrong(r, is_array ? "neither a comma nor ]" : "neither a comma nor }");
        outer->end = (uint32_t)++r->at;
        outer->next = (uint32_t)r->j->used;
        r->depth--;
        int status = is_array ? BITRL_OK : check_names(r, outer);
        if (status) return status;
    }
    return BITRL_OK;
}

int json_read(json *j, char *error)
{
    reader r = {.j = j, .error = error};
    j->used = 0;
    if (j->bytes >= UINT32_MAX) return bitrl_fail(error, BITRL_BAD_ARGUMENT, "expected JSON: too long");
    if (j->bytes >= 3 && memcmp(j->text, "\xef\xbb\xbf", 3) == 0) r.at = 3;
    do {
        bool complete;
        int status = read_value(&r, &complete);
        if (!status && complete) status = go_on(&r);
        if (status) return status;
    } while (r.depth);
    skip_space(&r);
    return r.at == j->bytes ? BITRL_OK : wrong(&r, "more after the value");
}

const json_node *json_first(const json_node *array) { return array + 1; }
const json_node *json_after(const json *j, const json_node *node) { return j->nodes + node->next; }

const json_node *json_find(const json *j, const json_node *object, const char *name)
{
    const json_node *node = object + 1;
    for (uint32_t i = 0; object->kind == JSON_OBJECT && i < object->count; i++, node = json_after(j, node + 1))
        if (json_is(j, node, name)) return node + 1;
    return NULL;
}

/* The character at *at, which moves past it -> out: [4]; its bytes. */
static size_t unescape(const char **at, unsigned char out[4])
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    const char *c = *at;
    if (*c != '\\') {
        out[0] = (unsigned char)*c;
        *at = c + 1;
        return 1;
    }
    *at = c + 2;
    if (c[1] != 'u') {
        out[0] = (unsigned char)to[strchr(from, c[1]) - from];
        return 1;
    }
    uint32_t code = (uint32_t)hexadecimal(c + 2, 4);
    *at = c + 6;
    if (is_high((int)code)) {
        code = 0x10000 + ((code - 0xd800) << 10) + ((uint32_t)hexadecimal(c + 8, 4) - 0xdc00);
        *at = c + 12;
    }
    const size_t bytes = code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    static const unsigned char first[] = {0, 0, 0xc0, 0xe0, 0xf0};
    for (size_t i = bytes; i-- > 1; code >>= 6) out[i] = (unsigned char)(0x80 | (code & 0x3f));
    out[0] = (unsigned char)(first[bytes] | code);
    return bytes;
}

size_t json_string(const json *j, const json_node *string, char *out, size_t room)
{
    const char *at = j->text + string->begin, *end = j->text + string->end;
    size_t count = 0;
    while (at < end) {
        unsigned char bytes[4];
        size_t n = unescape(&at, bytes);
        for (size_t i = 0; i < n; i++, count++)
            if (count < room) out[count] = (char)bytes[i];
    }
    return count;
}

bool json_is(const json *j, const json_node *string, const char *text)
{
    const char *at = j->text + string->begin, *end = j->text + string->end;
    if (string->kind != JSON_STRING) return false;
    while (at < end) {
        unsigned char bytes[4];
        size_t n = unescape(&at, bytes);
        for (size_t i = 0; i < n; i++)
            if (*text == 0 || (unsigned char)*text++ != bytes[i]) return false;
    }
    return *text == 0;
}

/* The digits of a number -> out: terminated, as strtod and its like need them. */
static const char *digits_of(const json *j, const json_node *node, char out[JSON_DIGITS + 1])
{
    memcpy(out, j->text + node->begin, node->end - node->begin);
    out[node->end - node->begin] = 0;
    return out;
}

double json_number(const json *j, const json_node *node)
{
    char digits[JSON_DIGITS + 1];
    if (node->kind == JSON_TRUE || node->kind == JSON_FALSE) return node->kind == JSON_TRUE;
    return strtod(digits_of(j, node, digits), NULL);
}

bool json_integer(const json *j, const json_node *node, int64_t *out)
{
    char digits[JSON_DIGITS + 1];
    *out = node->kind == JSON_TRUE;
    if (node->kind == JSON_TRUE || node->kind == JSON_FALSE) return true;
    if (node->kind != JSON_INTEGER) return false;
    errno = 0;
    *out = strtoll(digits_of(j, node, digits), NULL, 10);
    return errno == 0;
}

bool json_natural(const json *j, const json_node *node, uint64_t *out)
{
    char digits[JSON_DIGITS + 1];
    int64_t small;
    const bool held = json_integer(j, node, &small);
    *out = (uint64_t)small;
    if (held || node->kind != JSON_INTEGER || j->text[node->begin] == '-') return held && small >= 0;
    errno = 0;
    *out = strtoull(digits_of(j, node, digits), NULL, 10);
    return errno == 0;
}
