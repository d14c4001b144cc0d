/* The most int8 multiply-adds a second that one core can do: independent vpdpbusd on 512-bit registers, nothing else. */
#include <immintrin.h>
#include <stdint.h>

#define TWELVE(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) DO(11)

/* Does `rounds` times 12 vpdpbusd of 64 multiply-adds each. */
__attribute__((target("avx512f,avx512vnni"))) int32_t dot_products(uint64_t rounds)
{
    __m512i a = _mm512_set1_epi32(0x01020301), b = _mm512_set1_epi32(0x01010101), sum = _mm512_setzero_si512();
#define DECLARE(i) __m512i s##i = _mm512_set1_epi32(i);
#define MULTIPLY(i) __asm__ volatile("vpdpbusd %2, %1, %0" : "+v"(s##i) : "v"(a), "v"(b));
#define ADD(i) sum = _mm512_add_epi32(sum, s##i);
    TWELVE(DECLARE)
    for (uint64_t r = 0; r < rounds; r++) {
        TWELVE(MULTIPLY)
    }
    TWELVE(ADD)
    return _mm512_reduce_add_epi32(sum);
}
