/* Unpacking with AVX-512, for its own products and those of AMX. */
#ifndef BITRL_KERNELS_AVX512_H
#define BITRL_KERNELS_AVX512_H

#include <immintrin.h>

#include "kernels.h"

#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")))
#define TARGET_BF16 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx512bf16")))

/* Weights are unpacked and multiplied a block of columns at a time, so that they stay in the first-level cache. */
enum { BLOCK_STEPS = 160, BLOCK_BYTES = BLOCK_STEPS * STEP_BYTES };

/* `count` columns from `from` on (both multiples of 64, from also of 20) of a packed tile of `columns` -> [steps][16 rows][4]
 * bytes. Of fp8, a column is one byte of bf16. */
typedef void unpacker(uint8_t *restrict out, const uint8_t *restrict tile, size_t columns, size_t from, size_t count);

/* kernels_amx.c */
matrix_product bitrl_amx_ternary, bitrl_amx_dense, bitrl_amx_int8, bitrl_amx_int4, bitrl_amx_fp8, bitrl_amx_bf16;

/* One tile -> bytes [steps][16 rows][4]. */
TARGET static inline void unpack_ternary(uint8_t *restrict out, const uint8_t *restrict tile, size_t columns, size_t from, size_t count)
{
    const uint8_t *packed = tile + from / 16 * STEP_BYTES;
    const __m512i mask = _mm512_set1_epi8(3);
    (void)columns;
    for (size_t c = 0; c < count; c += 16, packed += STEP_BYTES, out += 4 * STEP_BYTES) {
        __m512i codes = _mm512_load_si512(packed);
        _mm512_store_si512(out, _mm512_and_si512(codes, mask));
        _mm512_store_si512(out + STEP_BYTES, _mm512_and_si512(_mm512_srli_epi16(codes, 2), mask));
        _mm512_store_si512(out + 2 * STEP_BYTES, _mm512_and_si512(_mm512_srli_epi16(codes, 4), mask));
        _mm512_store_si512(out + 3 * STEP_BYTES, _mm512_and_si512(_mm512_srli_epi16(codes, 6), mask));
    }
}

/* The lookups of trits_pack(): by the low six bits of a byte, the first four trits in two bits each, for bytes below 192
 * and from it; and of the latter the fifth, in the upper two bits. */
typedef struct {
    __m512i early, late, fifth;
} trit_tables;

#define TRITS(r) (uint8_t)((r) % 3 | (r) / 3 % 3 << 2 | (r) / 9 % 3 << 4 | (r) / 27 % 3 << 6)
#define EARLY(low) TRITS(low)
#define LATE(low) TRITS(64 + (low) % 17)
#define FIFTH(low) (uint8_t)((low) / 17 << 6)
#define FOUR(of, low) of(low), of(low + 1), of(low + 2), of(low + 3)
#define SIXTEEN(of, low) FOUR(of, low), FOUR(of, low + 4), FOUR(of, low + 8), FOUR(of, low + 12)
#define SIXTY_FOUR(of) {SIXTEEN(of, 0), SIXTEEN(of, 16), SIXTEEN(of, 32), SIXTEEN(of, 48)}

TARGET_BF16 static inline trit_tables load_trit_tables(void)
{
    static const uint8_t early[64] = SIXTY_FOUR(EARLY), late[64] = SIXTY_FOUR(LATE), fifth[64] = SIXTY_FOUR(FIFTH);
    return (trit_tables){_mm512_loadu_si512(early), _mm512_loadu_si512(late), _mm512_loadu_si512(fifth)};
}

/* Five trits a byte -> four in two bits each; and the fifth in the upper two bits of *fifth, others undefined. */
TARGET_BF16 static inline __m512i look_up_trits(const trit_tables *tables, __m512i bytes, __m512i *fifth)
{
    const __mmask64 late = _mm512_cmpge_epu8_mask(bytes, _mm512_set1_epi8((char)192));
    *fifth = _mm512_mask_permutexvar_epi8(bytes, late, bytes, tables->fifth);
    return _mm512_mask_permutexvar_epi8(_mm512_permutexvar_epi8(bytes, tables->early), late, bytes, tables->late);
}

TARGET_BF16 static inline void unpack_dense(uint8_t *restrict out, const uint8_t *restrict tile, size_t columns, size_t from, size_t count)
{
    const uint8_t *packed = tile + from / 20 * STEP_BYTES;
    const __m512i mask = _mm512_set1_epi8(3);
    const trit_tables tables = load_trit_tables();
    (void)columns;
    for (size_t c = 0; c < count; c += 20, packed += STEP_BYTES, out += 5 * STEP_BYTES) {
        __m512i fifth, codes = look_up_trits(&tables, _mm512_load_si512(packed), &fifth);
        _mm512_store_si512(out, _mm512_and_si512(codes, mask));
        _mm512_store_si512(out + STEP_BYTES, _mm512_and_si512(_mm512_srli_epi16(codes, 2), mask));
        _mm512_store_si512(out + 2 * STEP_BYTES, _mm512_and_si512(_mm512_srli_epi16(codes, 4), mask));
        _mm512_store_si512(out + 3 * STEP_BYTES, _mm512_and_si512(_mm512_srli_epi16(codes, 6), mask));
        _mm512_store_si512(out + 4 * STEP_BYTES, _mm512_and_si512(_mm512_srli_epi16(fifth, 6), mask));
    }
}

/* One packed tile of int4 -> [steps][16 rows][4], code * multiplier + 128; a row's four bytes have one multiplier. Bytes
 * are multiplied as the two halves of 16-bit words. */
TARGET static inline void unpack_int4(uint8_t *restrict out, const uint8_t *restrict tile, size_t columns, size_t from, size_t count)
{
    const uint8_t *packed = tile + from / 8 * STEP_BYTES;
    const uint8_t *multipliers = tile + columns / 8 * STEP_BYTES + from / INT4_BLOCK * TILE_ROWS;
    const __m512i nibble = _mm512_set1_epi8(15), low = _mm512_set1_epi16(255);
    for (size_t c = 0; c < count; c += INT4_BLOCK, multipliers += TILE_ROWS) {
        __m512i times = _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)multipliers));
        times = _mm512_or_si512(_mm512_and_si512(times, _mm512_set1_epi32(0xffff)), _mm512_slli_epi32(times, 16));
        /* code + 8 times the multiplier, less 8 times it, plus 128: modulo 256 in each byte */
        __m512i bias = _mm512_and_si512(_mm512_sub_epi16(_mm512_set1_epi16(128), _mm512_slli_epi16(times, 3)), low);
        bias = _mm512_or_si512(bias, _mm512_slli_epi16(bias, 8));
        __m512i upper = _mm512_slli_epi16(times, 8);
        for (size_t g = 0; g < INT4_BLOCK; g += 8, packed += STEP_BYTES, out += 2 * STEP_BYTES) {
            __m512i two = _mm512_load_si512(packed);
            __m512i codes[2] = {_mm512_and_si512(two, nibble), _mm512_and_si512(_mm512_srli_epi16(two, 4), nibble)};
            for (int i = 0; i < 2; i++) {
                __m512i even = _mm512_mullo_epi16(_mm512_and_si512(codes[i], low), times);
                __m512i odd = _mm512_mullo_epi16(_mm512_srli_epi16(codes[i], 8), upper);
                /* even & low | odd & ~low */
                __m512i bytes = _mm512_ternarylogic_epi32(low, even, odd, 0xca);
                _mm512_store_si512(out + i * STEP_BYTES, _mm512_add_epi8(bytes, bias));
            }
        }
    }
}

/* -> bf16, [steps][16 rows][2]: the upper and the lower byte of each, 64 numbers at a time. A number's exponent grows by 120;
 * one below 2^-6 (0 to 7) has none of its own, and is looked up. */
TARGET static inline void unpack_fp8(uint8_t *restrict out, const uint8_t *restrict tile, size_t columns, size_t from, size_t count)
{
    const uint8_t *packed = tile + from / 8 * STEP_BYTES;
    const __m512i upper_small = _mm512_broadcast_i32x4(_mm_setr_epi8(FP8_SMALL(>> 8)));
    const __m512i lower_small = _mm512_broadcast_i32x4(_mm_setr_epi8(FP8_SMALL(& 255)));
    const __m512i sign = _mm512_set1_epi8((char)0x80), seven = _mm512_set1_epi8(7);
    (void)columns;
    for (size_t c = 0; c < count; c += 8, packed += STEP_BYTES, out += 2 * STEP_BYTES) {
        const __m512i codes = _mm512_load_si512(packed), magnitude = _mm512_andnot_si512(sign, codes);
        const __mmask64 small = _mm512_cmple_epu8_mask(magnitude, seven);
        __m512i upper = _mm512_and_si512(_mm512_srli_epi16(magnitude, 4), seven);
        __m512i lower = _mm512_and_si512(_mm512_slli_epi16(magnitude, 4), _mm512_set1_epi8((char)0xf0));
        upper = _mm512_add_epi8(upper, _mm512_set1_epi8(60));
        upper = _mm512_mask_shuffle_epi8(upper, small, upper_small, magnitude);
        lower = _mm512_mask_shuffle_epi8(lower, small, lower_small, magnitude);
        upper = _mm512_or_si512(upper, _mm512_and_si512(codes, sign));
        _mm512_store_si512(out, _mm512_unpacklo_epi8(lower, upper));
        _mm512_store_si512(out + STEP_BYTES, _mm512_unpackhi_epi8(lower, upper));
    }
}

#endif
