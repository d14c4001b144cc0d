/* Which tables of kernels this CPU can run. */
#include <string.h>

#include "bitrl.h"
#include "kernels.h"

static int on_all(void) { return 1; }

#if defined(__x86_64__)
static int with_avx2(void) { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

static int with_vnni(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512vnni");
}

static int with_bf16(void)
{
    return with_vnni() && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vbmi");
}

#if !defined(BITRL_SMALL) /* in small programs: it pays where many texts are read together */
static int with_amx(void) { return with_bf16() && bitrl_cpu_has_amx(); }
#endif
#endif

/* The tables of this build, best first. */
static const struct {
    const bitrl_kernels *kernels;
    int (*run)(void); /* on this CPU */
} built[] = {
#if defined(__x86_64__)
#if !defined(BITRL_SMALL)
    {&bitrl_kernels_avx512amx, with_amx},
#endif
    {&bitrl_kernels_avx512bf16, with_bf16}, {&bitrl_kernels_avx512vnni, with_vnni}, {&bitrl_kernels_avx2, with_avx2},
#elif defined(__aarch64__)
    {&bitrl_kernels_neondot, bitrl_cpu_has_dot_products}, {&bitrl_kernels_neon, on_all},
#endif
    {&bitrl_kernels_scalar, on_all},
};
enum { BUILT = sizeof built / sizeof *built };

const bitrl_kernels *bitrl_kernels_find(const char *isa)
{
    for (size_t i = 0; i < BUILT; i++)
        if ((strcmp(isa, "auto") == 0 || strcmp(isa, built[i].kernels->name) == 0) && built[i].run())
            return built[i].kernels;
    return NULL;
}

const char *bitrl_instruction_set(uint64_t wanted)
{
    for (size_t i = 0; i < BUILT; i++)
        if (built[i].run() && wanted-- == 0) return built[i].kernels->name;
    return NULL;
}

const char *bitrl_instruction_set_known(uint64_t i) { return i < BUILT ? built[i].kernels->name : NULL; }
