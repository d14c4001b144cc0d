/* Which tables of kernels this CPU can run. */
#define _DEFAULT_SOURCE
#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "bitrl.h"
#include "kernels.h"

#if defined(__x86_64__)
/* The CPU has AMX, and the system lets this process use its tiles (Linux asks for that to be requested). */
static int amx_allowed(void)
{
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d >> 24 & 1) || !(d >> 25 & 1)) return 0; /* tile, int8 */
#if defined(__linux__) && defined(SYS_arch_prctl)
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
#else
    return 0;
#endif
}
#endif

/* The i-th table of this build, best first, whether or not the CPU runs it. */
static const bitrl_kernels *built(size_t i, int *runs)
{
    switch (i) {
#if defined(__x86_64__)
    case 0:
        built(1, runs);
        *runs = *runs && amx_allowed();
        return &bitrl_kernels_avx512amx;
    case 1:
        built(2, runs);
        *runs = *runs && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vbmi");
        return &bitrl_kernels_avx512bf16;
    case 2:
        *runs = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                __builtin_cpu_supports("avx512vnni");
        return &bitrl_kernels_avx512vnni;
    case 3:
        *runs = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
        return &bitrl_kernels_avx2;
    case 4:
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
