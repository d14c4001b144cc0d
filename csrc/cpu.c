/* What this CPU and its system offer beyond what the compiler's own checks tell. */
#define _DEFAULT_SOURCE
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

#include "kernels.h"

#if defined(__x86_64__)
int bitrl_cpu_has_amx(void)
{
#if defined(__linux__) && defined(SYS_arch_prctl)
    enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18, BF16_TILES_INT8 = 1 << 22 | 1 << 24 | 1 << 25 };
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & BF16_TILES_INT8) == BF16_TILES_INT8 &&
           syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
#else
    return 0;
#endif
}
#elif defined(__aarch64__)
int bitrl_cpu_has_dot_products(void)
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
