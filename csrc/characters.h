/* Kinds of Unicode characters, as the tables of characters.c have them. */
#ifndef BITRL_CHARACTERS_H
#define BITRL_CHARACTERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum { OTHER, LETTER, DIGIT, NUMERIC } character_kind; /* \p{L}, \p{Nd}, \p{Nl} and \p{No} */

/* The character at text: [bytes], UTF-8 and at least one -> how many bytes it has. A byte that begins none is one by itself. */
size_t character_at(const char *text, size_t bytes, uint32_t *code);
/* Bytes of the UTF-8 character that text: [bytes], at least one, begins with; 0 where there is none. */
size_t valid_character(const char *text, size_t bytes);
character_kind kind_of_character(uint32_t code);
bool is_white_space(uint32_t code); /* Unicode's White_Space */

#endif
