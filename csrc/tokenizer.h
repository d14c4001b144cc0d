/* One text as tokens: what tokenizer.c has beyond the engine's interface. */
#ifndef BITRL_TOKENIZER_H
#define BITRL_TOKENIZER_H

#include <stddef.h>
#include <stdint.h>

#include "bitrl.h"

typedef struct {
    int32_t *ids;   /* [room] or NULL */
    uint32_t *ends; /* [room] where each token ends in the text; or NULL */
    size_t room, count; /* count may come to be more than room: then those beyond are left out */
} token_row;

/* Adds the tokens of a text: UTF-8 [bytes], at most `longest`. */
void tokenize(bitrl_tokenizer *t, const char *text, size_t bytes, token_row *out);

#endif
