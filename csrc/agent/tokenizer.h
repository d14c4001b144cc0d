/* Texts as tokens: the byte-level BPE of bitrl's own models. */
#ifndef BITRL_TOKENIZER_H
#define BITRL_TOKENIZER_H

#include <stddef.h>
#include <stdint.h>

#include "bitrl.h"

typedef struct tokenizer tokenizer;

/* lengths: [count] of each token's bytes, which lie one after another in bytes: [byte_count]; of a token that no plain text
 * gives, 0. merges: [merge_count, 3] a left token, a right one, and what they become; the best first. phrases: [phrase_count]
 * tokens that are found in a text before anything else, the longest first. Both are uint32, unaligned. longest: bytes of the
 * longest text that will be read. Everything is copied. */
int tokenizer_open(const uint8_t *lengths, uint64_t count, const uint8_t *bytes, uint64_t byte_count, const uint8_t *merges,
                   uint64_t merge_count, const uint8_t *phrases, uint64_t phrase_count, size_t longest, tokenizer **out, char *error);
void tokenizer_close(tokenizer *t);

typedef struct {
    int32_t *ids;   /* [room] or NULL */
    uint32_t *ends; /* [room] where each token ends in the text; or NULL */
    size_t room, count; /* count may come to be more than room: then those beyond are left out */
} token_row;

/* Adds the tokens of a text: UTF-8 [bytes], at most `longest`. */
void tokenize(tokenizer *t, const char *text, size_t bytes, token_row *out);

#endif
