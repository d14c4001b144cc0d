/* The most int8 multiply-adds a second that one core can do: independent vpdpbusd on 512-bit registers, nothing else. */
#include <immintrin.h>
#include <stdint.h>

/* Does `rounds` times 24 vpdpbusd of 64 multiply-adds each; the result keeps the compiler from leaving them out. */
__attribute__((target("avx512f,avx512vnni"))) int32_t dot_products(uint64_t rounds)
{
    __m512i sums[24], a = _mm512_set1_epi32(0x01020301), b = _mm512_set1_epi32(0x01010101);
    for (int i = 0; i < 24; i++) sums[i] = _mm512_set1_epi32(i);
    for (uint64_t r = 0; r < rounds; r++) {
#pragma GCC unroll 24
        for (int i = 0; i < 24; i++) {
            sums[i] = _mm512_dpbusd_epi32(sums[i], a, b);
            __asm__ volatile("" : "+v"(sums[i]));
        }
    }
    for (int i = 1; i < 24; i++) sums[0] = _mm512_add_epi32(sums[0], sums[i]);
    return _mm512_reduce_add_epi32(sums[0]);
}
