/* What the engine and the limits share beyond threads: messages and memory. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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
    void *memory = aligned_alloc(64, bytes);
    if (memory) memset(memory, 0, bytes);
    return memory;
}
