/* What the engine and the limits share beyond threads: messages and memory. */
#define _GNU_SOURCE
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "internal.h"

int bitrl_fail(char *error, int code, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(error, BITRL_ERROR_BYTES, format, arguments);
    va_end(arguments);
    for (unsigned char *c = (unsigned char *)error; *c; c++) /* names out of a file may hold what a terminal obeys */
        if (*c < ' ' || *c == 127 || (*c == 0xc2 && c[1] < 0xa0)) *c = '?';
    return code;
}

void *bitrl_allocate(size_t count, size_t size)
{
    if (count == 0 || size == 0) count = size = 1;
    if (count > (SIZE_MAX - 64) / size) return NULL;
    size_t bytes = round_up(count * size, 64);
    enum { HUGE = 2 << 20 }; /* a page of that size spares 512 look-ups of addresses */
    void *memory = aligned_alloc(bytes < 2 * HUGE ? 64 : HUGE, bytes < 2 * HUGE ? bytes : round_up(bytes, HUGE));
#if defined(MADV_HUGEPAGE)
    if (memory && bytes >= 2 * HUGE) madvise(memory, bytes / HUGE * HUGE, MADV_HUGEPAGE); /* else: smaller pages */
#endif
    if (memory) memset(memory, 0, bytes);
    return memory;
}
