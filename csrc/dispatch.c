/* Which tables of kernels this CPU can run. */
#include <string.h>

#include "bitrl.h"
#include "kernels.h"

/* The i-th table of this build, best first, whether or not the CPU runs it. */
static const bitrl_kernels *built(size_t i, int *runs)
{
    switch (i) {
#if defined(__x86_64__)
    case 0:
        built(1, runs);
        *runs = *runs && __builtin_cpu_supports("avx512bf16");
        return &bitrl_kernels_avx512bf16;
    case 1:
        *runs = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                __builtin_cpu_supports("avx512vnni");
        return &bitrl_kernels_avx512vnni;
    case 2:
        *runs = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
        return &bitrl_kernels_avx2;
    case 3:
#else
    case 0:
#endif
        *runs = 1;
        return &bitrl_kernels_scalar;
    default: return NULL;
    }
}

const bitrl_kernels *bitrl_kernels_find(const char *isa)
{
    const bitrl_kernels *kernels;
    int runs = 0;
    for (size_t i = 0; (kernels = built(i, &runs)); i++)
        if (runs && (strcmp(isa, "auto") == 0 || strcmp(isa, kernels->name) == 0)) return kernels;
    return NULL;
}

const char *bitrl_instruction_set(uint64_t wanted)
{
    const bitrl_kernels *kernels;
    int runs = 0;
    for (size_t i = 0; (kernels = built(i, &runs)); i++)
        if (runs && wanted-- == 0) return kernels->name;
    return NULL;
}

const char *bitrl_instruction_set_known(uint64_t i)
{
    int runs = 0;
    const bitrl_kernels *kernels = built(i, &runs);
    return kernels ? kernels->name : NULL;
}
