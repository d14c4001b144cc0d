/* Which tables of kernels this CPU can run. */
#define _DEFAULT_SOURCE
#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/auxv.h>
#include <sys/syscall.h>
#include <unistd.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#endif

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

/* The CPU has AMX, and the system lets this process use its tiles (Linux asks for that to be requested). */
static int with_amx(void)
{
    unsigned a, b, c, d;
    if (!with_bf16() || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 0;
    if (!(d >> 24 & 1) || !(d >> 25 & 1)) return 0; /* tile, int8 */
#if defined(__linux__) && defined(SYS_arch_prctl)
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
#else
    return 0;
#endif
}
#elif defined(__aarch64__)
static int with_dot_products(void)
{
#if defined(__ARM_FEATURE_DOTPROD)
    return 1; /* this build runs on no other CPU */
#elif defined(__linux__)
    enum { ASIMDDP = 20 }; /* bit of AT_HWCAP */
    return (int)(getauxval(AT_HWCAP) >> ASIMDDP & 1);
#elif defined(__APPLE__)
    int has = 0;
    size_t size = sizeof has;
    return sysctlbyname("hw.optional.arm.FEAT_DotProd", &has, &size, NULL, 0) == 0 && has;
#else
    return 0;
#endif
}
#endif

/* The tables of this build, best first. */
static const struct {
    const bitrl_kernels *kernels;
    int (*run)(void); /* on this CPU */
} built[] = {
#if defined(__x86_64__)
    {&bitrl_kernels_avx512amx, with_amx},   {&bitrl_kernels_avx512bf16, with_bf16},
    {&bitrl_kernels_avx512vnni, with_vnni}, {&bitrl_kernels_avx2, with_avx2},
#elif defined(__aarch64__)
    {&bitrl_kernels_neondot, with_dot_products}, {&bitrl_kernels_neon, on_all},
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
