/* Where the numbers of a text end: what number_ends.py of plugins/backbones finds, of UTF-8 and in bytes. */
#ifndef BITRL_NUMBERS_H
#define BITRL_NUMBERS_H

#include <stddef.h>
#include <stdint.h>

/* ends: [room]; how many there are, which may be more. */
size_t number_ends(const char *text, size_t bytes, uint32_t *ends, size_t room);
/* Bytes of white space, as Python strips it, that a text begins with. */
size_t leading_space(const char *text, size_t bytes);

#endif
