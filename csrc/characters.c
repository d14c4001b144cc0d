/* Kinds of characters, by a search in a table of runs (characters.py writes it). */
#include "characters.h"

#include "characters_table.h"

enum { RUNS = sizeof runs / sizeof *runs, CODE = 0x1fffff };

size_t character_at(const char *text, size_t bytes, uint32_t *code)
{
    const unsigned char *c = (const unsigned char *)text;
    const size_t n = c[0] < 0xc2 ? 1 : c[0] < 0xe0 ? 2 : c[0] < 0xf0 ? 3 : c[0] < 0xf5 ? 4 : 1;
    *code = n == 1 ? c[0] : c[0] & (0xffu >> (n + 1));
    if (n > bytes) {
        *code = c[0];
        return 1;
    }
    for (size_t i = 1; i < n; i++) *code = *code << 6 | (c[i] & 0x3f);
    return n;
}

size_t valid_character(const char *text, size_t bytes)
{
    const unsigned char *c = (const unsigned char *)text;
    if (c[0] < 0x80) return 1;
    const size_t n = c[0] >= 0xc2 && c[0] < 0xe0 ? 2 : c[0] >= 0xe0 && c[0] < 0xf0 ? 3 : c[0] >= 0xf0 && c[0] < 0xf5 ? 4 : 0;
    if (!n || n > bytes) return 0;
    for (size_t i = 1; i < n; i++)
        if ((c[i] & 0xc0) != 0x80) return 0;
    const bool is_long = (c[0] == 0xe0 && c[1] < 0xa0) || (c[0] == 0xf0 && c[1] < 0x90);
    const bool is_none = (c[0] == 0xed && c[1] > 0x9f) || (c[0] == 0xf4 && c[1] > 0x8f);
    return is_long || is_none ? 0 : n;
}

character_kind kind_of_character(uint32_t code)
{
    if (code < 0x80) return (code >= 'a' && code <= 'z') || (code >= 'A' && code <= 'Z') ? LETTER : code >= '0' && code <= '9' ? DIGIT : OTHER;
    size_t low = 0, high = RUNS;
    while (high - low > 1) {
        const size_t middle = (low + high) / 2;
        if ((runs[middle] & CODE) <= code)
            low = middle;
        else
            high = middle;
    }
    return (character_kind)(runs[low] >> 21);
}

bool is_white_space(uint32_t code)
{
    return code == ' ' || (code >= 9 && code <= 13) || code == 0x85 || code == 0xa0 || code == 0x1680 || (code >= 0x2000 && code <= 0x200a) ||
           code == 0x2028 || code == 0x2029 || code == 0x202f || code == 0x205f || code == 0x3000;
}
