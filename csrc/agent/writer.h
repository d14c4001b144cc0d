/* States as texts: pieces that an agent's file lists. */
#ifndef BITRL_WRITER_H
#define BITRL_WRITER_H

#include "plan.h"

typedef struct writer writer;

typedef struct {
    const char *bytes;
    size_t count, most; /* most: that there may be */
} text_part;

/* From the "text" of a plan, of states with so many numbers and text parts; codes: [code_count] of its "codebook". */
int writer_open(const plan *p, const json_node *root, size_t numbers, const text_part *texts, size_t text_count, const uint8_t *codes,
                uint64_t code_count, writer **out);
void writer_close(writer *w);
size_t writer_most(const writer *w); /* bytes of the longest text */
/* Numbers, all finite, and text parts -> out: [writer_most]; how many bytes there are. The locale must be C's. */
size_t write_state(const writer *w, const double *numbers, const text_part *texts, char *out);

#endif
