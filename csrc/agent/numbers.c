/* Numbers, names and quoted keys of a text, the alternatives of number_ends.py's pattern in their order. */
#include "numbers.h"

#include <stdbool.h>
#include <string.h>

#include "characters.h"

enum { KEY = 128, KEY_SPACE = 8 };

typedef struct {
    const char *text;
    size_t bytes;
} input;

static int byte_at(const input *in, size_t i) { return i < in->bytes ? (unsigned char)in->text[i] : -1; }
static bool is_digit(int c) { return c >= '0' && c <= '9'; }

/* The character at i, and where it ends; beyond the end there is none: 0, and i. */
static uint32_t character(const input *in, size_t i, size_t *end)
{
    uint32_t code = 0;
    *end = i < in->bytes ? i + character_at(in->text + i, in->bytes - i, &code) : i;
    return code;
}

static bool is_word(uint32_t code) { return code == '_' || (code && kind_of_character(code) != OTHER); }
static bool is_space(uint32_t code) { return is_white_space(code) || (code >= 0x1c && code <= 0x1f); } /* Python's */

/* "(?:[^"\\]|\\.){0,128}"\s{0,8}:  Where it ends; i where there is none. So do all of these. */
static size_t quoted_key(const input *in, size_t i)
{
    size_t at = i + 1, end;
    if (byte_at(in, i) != '"') return i;
    for (size_t n = 0; at < in->bytes && byte_at(in, at) != '"'; n++) {
        if (n == KEY) return i;
        if (byte_at(in, at) == '\\' && (byte_at(in, ++at) < 0 || byte_at(in, at) == '\n')) return i;
        character(in, at, &end);
        at = end;
    }
    if (byte_at(in, at++) != '"') return i;
    for (size_t n = 0; n < KEY_SPACE && is_space(character(in, at, &end)); n++) at = end;
    return byte_at(in, at) == ':' ? at + 1 : i;
}

static size_t digits(const input *in, size_t i)
{
    while (is_digit(byte_at(in, i))) i++;
    return i;
}

/* (?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)? */
static size_t decimal(const input *in, size_t i)
{
    size_t at = digits(in, i);
    if (byte_at(in, at) == '.' && is_digit(byte_at(in, at + 1))) at = digits(in, at + 1);
    if (at == i) return i;
    if (byte_at(in, at) == 'e' || byte_at(in, at) == 'E') {
        size_t exponent = at + 1 + (byte_at(in, at + 1) == '+' || byte_at(in, at + 1) == '-');
        if (is_digit(byte_at(in, exponent))) at = digits(in, exponent);
    }
    return at;
}

/* Whether a text goes on with a word in lower or upper case; *i moves past it. */
static bool skip_word(const input *in, size_t *i, const char *wanted)
{
    size_t at = *i, end;
    for (; *wanted; wanted++, at = end) {
        uint32_t code = character(in, at, &end);
        if (code >= 'A' && code <= 'Z') code += 'a' - 'A';
        if (code == 0x130 || code == 0x131) code = 'i'; /* of Turkish, which Python takes for it */
        if (code != (uint32_t)*wanted) return false;
    }
    *i = at;
    return true;
}

/* (?i:null|nan|inf(?:inity)?)(?![\w=]) */
static size_t not_finite(const input *in, size_t i)
{
    size_t at = i, end;
    if (!skip_word(in, &at, "null") && !skip_word(in, &at, "nan") && !skip_word(in, &at, "infinity") && !skip_word(in, &at, "inf")) return i;
    return byte_at(in, at) == '=' || is_word(character(in, at, &end)) ? i : at;
}

/* \w* */
static size_t word(const input *in, size_t i)
{
    size_t end;
    while (is_word(character(in, i, &end))) i = end;
    return i;
}

/* [^\W\d]\w*(?:[.-]\w+)* */
static size_t name(const input *in, size_t i)
{
    size_t end;
    const uint32_t first = character(in, i, &end);
    if (!is_word(first) || kind_of_character(first) == DIGIT) return i;
    size_t at = word(in, end);
    while (byte_at(in, at) == '.' || byte_at(in, at) == '-') {
        size_t after = word(in, at + 1);
        if (after == at + 1) break;
        at = after;
    }
    return at;
}

size_t number_ends(const char *text, size_t bytes, uint32_t *ends, size_t room)
{
    const input in = {text, bytes};
    size_t count = 0;
    for (size_t at = 0, end; at < bytes; at = end) {
        if ((end = quoted_key(&in, at)) > at) continue;
        if ((end = decimal(&in, at)) == at) end = not_finite(&in, at);
        if (end > at) {
            if (count < room) ends[count] = (uint32_t)end;
            count++;
            continue;
        }
        if ((end = name(&in, at)) == at) character(&in, at, &end);
    }
    return count;
}

size_t leading_space(const char *text, size_t bytes)
{
    const input in = {text, bytes};
    size_t at = 0, end;
    while (at < bytes && is_space(character(&in, at, &end))) at = end;
    return at;
}
