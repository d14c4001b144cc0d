/* The interface of limits.c, which benchmarks see as an extension of their own: agents ship without it.
 *
 * Functions that can fail return and report as those of bitrl.h. The part between the two marks is also read by build.py. */
#ifndef BITRL_MACHINE_LIMITS_H
#define BITRL_MACHINE_LIMITS_H

#include <stdint.h>

/* cdef begin */
typedef struct bitrl_limits bitrl_limits; /* a buffer to measure the machine with; one call at a time */

/* The machine's limits: "int8", "bf16", "fp32", "amx_int8" and "amx_bf16" in multiply-adds a second, "memory" in bytes read.
 * With which instructions one is measured; NULL when it does not exist or this CPU has none. */
const char *bitrl_limit_instructions(const char *what);
/* threads: at most that many are measured; bytes: the buffer that is read, to be far larger than the caches. */
int bitrl_limits_open(uint64_t threads, uint64_t bytes, bitrl_limits **limits, char *error);
/* Runs `threads` threads for that long and adds up what they did in a second. */
int bitrl_limits_measure(bitrl_limits *limits, const char *what, uint64_t threads, double seconds, double *per_second,
                         char *error);
void bitrl_limits_close(bitrl_limits *limits);
/* cdef end */

#endif
