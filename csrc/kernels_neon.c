/* NEON, and NEON with dot products: sixteen rows in four registers, four tokens of sums. */
#include "kernels.h"

#if defined(__aarch64__)
#include <arm_neon.h>
#include <string.h>

#define TARGET
#if defined(__ARM_FEATURE_DOTPROD) /* all CPUs this is built for have it */
#define TARGET_DOT
#else
#define TARGET_DOT __attribute__((target("arch=armv8.2-a+dotprod")))
#endif

typedef struct {
    float64x2_t part[4];
} v8;
typedef struct {
    int32x4_t low, high;
} i8;

#define PARTS(expression)                                          \
    do {                                                           \
        v8 out;                                                    \
        for (int i = 0; i < 4; i++) out.part[i] = (expression);    \
        return out;                                                \
    } while (0)

static inline v8 v8_load(const double *from) { PARTS(vld1q_f64(from + 2 * i)); }
static inline v8 v8_from_int(const int32_t *from) { PARTS(vcvtq_f64_s64(vmovl_s32(vld1_s32(from + 2 * i)))); }
static inline v8 v8_from_float(const float *from) { PARTS(vcvt_f64_f32(vld1_f32(from + 2 * i))); }
static inline v8 v8_set(double value) { PARTS(vdupq_n_f64(value)); }
static inline v8 v8_add(v8 a, v8 b) { PARTS(vaddq_f64(a.part[i], b.part[i])); }
static inline v8 v8_sub(v8 a, v8 b) { PARTS(vsubq_f64(a.part[i], b.part[i])); }
static inline v8 v8_mul(v8 a, v8 b) { PARTS(vmulq_f64(a.part[i], b.part[i])); }
static inline v8 v8_div(v8 a, v8 b) { PARTS(vdivq_f64(a.part[i], b.part[i])); }
static inline v8 v8_fma(v8 a, v8 b, v8 c) { PARTS(vfmaq_f64(c.part[i], a.part[i], b.part[i])); }
static inline v8 v8_max(v8 a, v8 b) /* not fmax: it would choose NaN */
{
    PARTS(vbslq_f64(vcgtq_f64(a.part[i], b.part[i]), a.part[i], b.part[i]));
}
static inline v8 v8_abs(v8 a) { PARTS(vabsq_f64(a.part[i])); }
static inline void v8_store(double *to, v8 v)
{
    for (int i = 0; i < 4; i++) vst1q_f64(to + 2 * i, v.part[i]);
}
static inline v8 v8_times_power(v8 p, v8 n)
{
    PARTS(vreinterpretq_f64_s64(vaddq_s64(vreinterpretq_s64_f64(p.part[i]),
                                          vshlq_n_s64(vreinterpretq_s64_f64(n.part[i]), 52))));
}
static inline i8 i8_round(v8 v)
{
    int32x4_t words[4]; /* the low ones of each double hold the integer */
    for (int i = 0; i < 4; i++) words[i] = vreinterpretq_s32_f64(vaddq_f64(v.part[i], vdupq_n_f64(0x1.8p52)));
    return (i8){vuzp1q_s32(words[0], words[1]), vuzp1q_s32(words[2], words[3])};
}
static inline i8 i8_add(i8 a, i8 b) { return (i8){vaddq_s32(a.low, b.low), vaddq_s32(a.high, b.high)}; }
static inline int32_t i8_sum(i8 v) { return vaddvq_s32(vaddq_s32(v.low, v.high)); }
static inline uint64_t i8_bytes(i8 v)
{
    int8x8_t bytes = vmovn_s16(vcombine_s16(vmovn_s32(v.low), vmovn_s32(v.high)));
    return vget_lane_u64(vreinterpret_u64_s8(bytes), 0);
}

#define ATTEND_VECTORS 1
#include "kernels_double.h"

typedef struct {
    float32x4_t part[4];
} v16;

#define QUARTERS(expression)                                       \
    do {                                                           \
        v16 out;                                                   \
        for (int i = 0; i < 4; i++) out.part[i] = (expression);    \
        return out;                                                \
    } while (0)

static inline v16 v16_load(const float *from) { QUARTERS(vld1q_f32(from + 4 * i)); }
static inline v16 v16_set(float value) { QUARTERS(vdupq_n_f32(value)); }
static inline void v16_store(float *to, v16 v)
{
    for (int i = 0; i < 4; i++) vst1q_f32(to + 4 * i, v.part[i]);
}
static inline v16 v16_add(v16 a, v16 b) { QUARTERS(vaddq_f32(a.part[i], b.part[i])); }
static inline v16 v16_sub(v16 a, v16 b) { QUARTERS(vsubq_f32(a.part[i], b.part[i])); }
static inline v16 v16_mul(v16 a, v16 b) { QUARTERS(vmulq_f32(a.part[i], b.part[i])); }
static inline v16 v16_div(v16 a, v16 b) { QUARTERS(vdivq_f32(a.part[i], b.part[i])); }
static inline v16 v16_sqrt(v16 a) { QUARTERS(vsqrtq_f32(a.part[i])); }
static inline v16 v16_fma(v16 a, v16 b, v16 c) { QUARTERS(vfmaq_f32(c.part[i], a.part[i], b.part[i])); }
static inline v16 v16_less(v16 a, v16 b, v16 yes, v16 no)
{
    QUARTERS(vbslq_f32(vcltq_f32(a.part[i], b.part[i]), yes.part[i], no.part[i]));
}
static inline v16 v16_max(v16 a, v16 b) { return v16_less(b, a, a, b); } /* not fmax, as in v8_max */
static inline v16 v16_min(v16 a, v16 b) { return v16_less(a, b, a, b); }
static inline v16 v16_abs(v16 a) { QUARTERS(vabsq_f32(a.part[i])); }
static inline v16 v16_signed(v16 a, v16 b) { QUARTERS(vbslq_f32(vdupq_n_u32(0x80000000), b.part[i], a.part[i])); }
static inline v16 v16_power(v16 n)
{
    QUARTERS(vreinterpretq_f32_s32(vaddq_s32(vshlq_n_s32(vreinterpretq_s32_f32(n.part[i]), 23),
                                             vreinterpretq_s32_f32(vdupq_n_f32(1)))));
}
static inline v16 v16_split(v16 x, v16 *e)
{
    const int32x4_t half = vreinterpretq_s32_f32(vdupq_n_f32(0x1.6a09e6p-1f));
    for (int i = 0; i < 4; i++) {
        const int32x4_t bits = vreinterpretq_s32_f32(x.part[i]), exponent = vshrq_n_s32(vsubq_s32(bits, half), 23);
        e->part[i] = vcvtq_f32_s32(exponent);
        x.part[i] = vreinterpretq_f32_s32(vsubq_s32(bits, vshlq_n_s32(exponent, 23)));
    }
    return x;
}

#define PANEL_VECTORS 1
#define TILE_FLOATS 5
#define EACH_TILE(of) of(1) of(2) of(3) of(4) of(5)
#include "kernels_float.h"

/* A step of 16 rows is four vectors: a quad of rows in each. */
enum { QUADS = 4, QUAD_BYTES = 16 };

/* ---- unpacking, a block of columns at a time, so that it stays in the first-level cache ---- */

/* A multiple of 5 and of 16 steps, and few enough for sums of trits in 16 bits. */
enum { BLOCK_STEPS = 80 };

/* `count` steps from step `from` on (both multiples of 16, from also of 5) of a packed tile of `columns` -> [steps][16
 * rows] of what the products read. */
typedef void unpacker(uint8_t *restrict out, const uint8_t *restrict tile, size_t columns, size_t from, size_t count);

/* -> bytes 0, 1, 2 */
static void unpack_ternary(uint8_t *restrict out, const uint8_t *restrict tile, size_t columns, size_t from,
                           size_t count)
{
    const uint8_t *packed = tile + from / 4 * STEP_BYTES;
    const uint8x16_t mask = vdupq_n_u8(3);
    (void)columns;
    for (size_t i = 0; i < count; i += 4, out += 3 * STEP_BYTES)
        for (size_t quad = 0; quad < QUADS; quad++, packed += QUAD_BYTES, out += QUAD_BYTES) {
            const uint8x16_t codes = vld1q_u8(packed);
            vst1q_u8(out, vandq_u8(codes, mask));
            vst1q_u8(out + STEP_BYTES, vandq_u8(vshrq_n_u8(codes, 2), mask));
            vst1q_u8(out + 2 * STEP_BYTES, vandq_u8(vshrq_n_u8(codes, 4), mask));
            vst1q_u8(out + 3 * STEP_BYTES, vshrq_n_u8(codes, 6));
        }
}

/* The lookups of trits_pack(): by the low six bits of a byte, the first four trits in two bits each; for bytes from 192
 * on these by what is beyond 192, and the fifth. */
typedef struct {
    uint8x16x4_t early, late, fifth;
} trit_tables;

#define TRITS(r) (uint8_t)((r) % 3 | (r) / 3 % 3 << 2 | (r) / 9 % 3 << 4 | (r) / 27 % 3 << 6)
#define EARLY(low) TRITS(low)
#define LATE(low) TRITS(64 + (low) % 17)
#define FIFTH(low) (uint8_t)((low) / 17)
#define FOUR(of, low) of(low), of(low + 1), of(low + 2), of(low + 3)
#define SIXTEEN(of, low) FOUR(of, low), FOUR(of, low + 4), FOUR(of, low + 8), FOUR(of, low + 12)
#define SIXTY_FOUR(of) {SIXTEEN(of, 0), SIXTEEN(of, 16), SIXTEEN(of, 32), SIXTEEN(of, 48)}

static inline uint8x16x4_t load_table(const uint8_t *from)
{
    __asm__("" : "+r"(from)); /* hides what it points to: GCC would load each constant where it is used */
    return (uint8x16x4_t){{vld1q_u8(from), vld1q_u8(from + 16), vld1q_u8(from + 32), vld1q_u8(from + 48)}};
}

static inline trit_tables load_trit_tables(void)
{
    static const uint8_t early[64] = SIXTY_FOUR(EARLY), late[64] = SIXTY_FOUR(LATE), fifth[64] = SIXTY_FOUR(FIFTH);
    return (trit_tables){load_table(early), load_table(late), load_table(fifth)};
}

/* Five trits a byte -> four in two bits each, and the fifth. `tbx` leaves alone what lies outside its table. */
static inline uint8x16_t look_up_trits(const trit_tables *tables, uint8x16_t bytes, uint8x16_t *fifth)
{
    const uint8x16_t beyond = vsubq_u8(bytes, vdupq_n_u8(192));
    *fifth = vqtbx4q_u8(vshrq_n_u8(bytes, 6), tables->fifth, beyond);
    return vqtbx4q_u8(vqtbl4q_u8(tables->early, vandq_u8(bytes, vdupq_n_u8(63))), tables->late, beyond);
}

/* -> bytes 0, 1, 2, up to four steps more */
static void unpack_dense(uint8_t *restrict out, const uint8_t *restrict tile, size_t columns, size_t from, size_t count)
{
    const uint8_t *packed = tile + from / 5 * STEP_BYTES;
    const uint8x16_t mask = vdupq_n_u8(3);
    const trit_tables tables = load_trit_tables();
    (void)columns;
    for (size_t i = 0; i < count; i += 5, out += 4 * STEP_BYTES)
        for (size_t quad = 0; quad < QUADS; quad++, packed += QUAD_BYTES, out += QUAD_BYTES) {
            uint8x16_t fifth, codes = look_up_trits(&tables, vld1q_u8(packed), &fifth);
            vst1q_u8(out, vandq_u8(codes, mask));
            vst1q_u8(out + STEP_BYTES, vandq_u8(vshrq_n_u8(codes, 2), mask));
            vst1q_u8(out + 2 * STEP_BYTES, vandq_u8(vshrq_n_u8(codes, 4), mask));
            vst1q_u8(out + 3 * STEP_BYTES, vshrq_n_u8(codes, 6));
            vst1q_u8(out + 4 * STEP_BYTES, fifth);
        }
}

/* -> signed bytes */
static void unpack_int8(uint8_t *restrict out, const uint8_t *restrict tile, size_t columns, size_t from, size_t count)
{
    (void)columns;
    for (size_t i = 0; i < count * STEP_BYTES; i += QUAD_BYTES)
        vst1q_u8(out + i, veorq_u8(vld1q_u8(tile + from * STEP_BYTES + i), vdupq_n_u8(128)));
}

/* -> signed bytes: code + 8 times the multiplier, less 8 times it, modulo 256 */
static void unpack_int4(uint8_t *restrict out, const uint8_t *restrict tile, size_t columns, size_t from, size_t count)
{
    enum { BLOCK = INT4_BLOCK / 4 }; /* steps that share multipliers */
    const uint8_t *packed = tile + from / 2 * STEP_BYTES;
    const uint8_t *multipliers = tile + columns / 8 * STEP_BYTES + from / BLOCK * TILE_ROWS;
    for (size_t i = 0; i < count; i += BLOCK, multipliers += TILE_ROWS) {
        const uint8x16_t rows = vld1q_u8(multipliers); /* one for the four bytes of each row */
        const uint16x8_t first = vreinterpretq_u16_u8(vzip1q_u8(rows, rows));
        const uint16x8_t last = vreinterpretq_u16_u8(vzip2q_u8(rows, rows));
        const uint16x8_t times[QUADS] = {vzip1q_u16(first, first), vzip2q_u16(first, first), vzip1q_u16(last, last),
                                         vzip2q_u16(last, last)};
        for (size_t pair = 0; pair < BLOCK / 2; pair++, out += STEP_BYTES)
            for (size_t quad = 0; quad < QUADS; quad++, packed += QUAD_BYTES, out += QUAD_BYTES) {
                const uint8x16_t two = vld1q_u8(packed), by = vreinterpretq_u8_u16(times[quad]);
                const uint8x16_t bias = vmulq_u8(by, vdupq_n_u8((uint8_t)-8));
                vst1q_u8(out, vmlaq_u8(bias, vandq_u8(two, vdupq_n_u8(15)), by));
                vst1q_u8(out + STEP_BYTES, vmlaq_u8(bias, vshrq_n_u8(two, 4), by));
            }
    }
}

/* A quad's pairs of bf16 as floats: the first of each, and a step further the second. */
static inline void store_pairs(uint8_t *out, uint8x16_t halves)
{
    const uint32x4_t pairs = vreinterpretq_u32_u8(halves);
    vst1q_u8(out, vreinterpretq_u8_u32(vshlq_n_u32(pairs, 16)));
    vst1q_u8(out + STEP_BYTES, vreinterpretq_u8_u32(vandq_u32(pairs, vdupq_n_u32(0xffff0000))));
}

/* -> floats, of each pair the first and then the second: [steps][2][16 rows] */
static void unpack_bf16(uint8_t *restrict out, const uint8_t *restrict tile, size_t columns, size_t from, size_t count)
{
    const uint8_t *packed = tile + from * STEP_BYTES;
    (void)columns;
    for (size_t i = 0; i < count; i++, out += STEP_BYTES)
        for (size_t quad = 0; quad < QUADS; quad++, packed += QUAD_BYTES, out += QUAD_BYTES)
            store_pairs(out, vld1q_u8(packed));
}

/* -> as unpack_bf16, by way of bf16: its upper and its lower bytes. A number's exponent grows by 120; one below 2^-6 (0 to 7)
 * has none of its own, and is looked up. */
static void unpack_fp8(uint8_t *restrict out, const uint8_t *restrict tile, size_t columns, size_t from, size_t count)
{
    static const char uppers[16] = {FP8_SMALL(>> 8)}, lowers[16] = {FP8_SMALL(& 255)};
    const uint8_t *packed = tile + from / 2 * STEP_BYTES;
    const uint8x16_t upper_small = vld1q_u8((const uint8_t *)uppers), lower_small = vld1q_u8((const uint8_t *)lowers);
    const uint8x16_t sign = vdupq_n_u8(0x80);
    (void)columns;
    for (size_t i = 0; i < count; i += 2, out += 3 * STEP_BYTES)
        for (size_t quad = 0; quad < QUADS; quad++, packed += QUAD_BYTES, out += QUAD_BYTES) {
            const uint8x16_t codes = vld1q_u8(packed), magnitude = vbicq_u8(codes, sign);
            const uint8x16_t small = vcltq_u8(magnitude, vdupq_n_u8(8));
            uint8x16_t upper = vaddq_u8(vshrq_n_u8(magnitude, 4), vdupq_n_u8(60)), lower = vshlq_n_u8(magnitude, 4);
            upper = vbslq_u8(small, vqtbl1q_u8(upper_small, magnitude), upper);
            lower = vbslq_u8(small, vqtbl1q_u8(lower_small, magnitude), lower);
            upper = vorrq_u8(upper, vandq_u8(codes, sign));
            store_pairs(out, vzip1q_u8(lower, upper));
            store_pairs(out + 2 * STEP_BYTES, vzip2q_u8(lower, upper));
        }
}

/* ---- products of unpacked weights ---- */

/* What differs between kinds of weights: how many quads of rows go with four tokens of sums in the registers, the bytes of
 * an unpacked step, four steps of a token's activations (`input`), the sums of a quad, what they start from and end as,
 * given those of the columns before; and what a step (`lane`) adds to them, with the quad's weights at `at`. */
#define DEFINE_INPUT(kind, type, expression)                                                                           \
    typedef type kind##_input;                                                                                         \
    static inline kind##_input kind##_load(const uint8_t *q) { return expression; }

static inline int8x16_t load_bytes(const uint8_t *from) { return vreinterpretq_s8_u8(vld1q_u8(from)); }

/* Signed bytes, with dot products. */
enum { dots_quads = 4, dots_step = STEP_BYTES };
typedef int32x4_t dots_sums;
DEFINE_INPUT(dots, int8x16_t, load_bytes(q))
static inline dots_sums dots_start(int32x4_t before) { return before; }
static inline int32x4_t dots_end(dots_sums sums, int32x4_t before) { return (void)before, sums; }
#define dots_add(sums, at, x, lane) sums = vdotq_laneq_s32(sums, load_bytes(at), x, lane)

/* 0, 1, 2 without: each of a row's four bytes has a sum in 16 bits, to which a step adds 2 * -128 at most. */
typedef struct {
    int16x8_t low, high;
} trits_sums;
enum { trits_quads = 2, trits_step = STEP_BYTES };
_Static_assert(BLOCK_STEPS * 2 * 128 <= 32768, "a block of trits would overflow 16 bits");
DEFINE_INPUT(trits, int32x4_t, vreinterpretq_s32_u8(vld1q_u8(q)))
static inline trits_sums trits_start(int32x4_t before)
{
    return (void)before, (trits_sums){vdupq_n_s16(0), vdupq_n_s16(0)};
}
static inline int32x4_t trits_end(trits_sums sums, int32x4_t before)
{
    return vaddq_s32(before, vpaddq_s32(vpaddlq_s16(sums.low), vpaddlq_s16(sums.high)));
}
static inline trits_sums add_trits(trits_sums sums, int8x16_t weights, int32x4_t four)
{
    const int8x16_t x = vreinterpretq_s8_s32(four);
    return (trits_sums){vmlal_s8(sums.low, vget_low_s8(weights), vget_low_s8(x)), vmlal_high_s8(sums.high, weights, x)};
}
#define trits_add(sums, at, x, lane) sums = add_trits(sums, load_bytes(at), vdupq_laneq_s32(x, lane))

/* Signed bytes without: 2 * 127 * 127 fits 16 bits, so two steps are added before they are widened. */
typedef struct {
    int32x4_t low, high;
} bytes_sums;
enum { bytes_quads = 2, bytes_step = STEP_BYTES };
DEFINE_INPUT(bytes, int32x4_t, vreinterpretq_s32_u8(vld1q_u8(q)))
static inline bytes_sums bytes_start(int32x4_t before)
{
    return (void)before, (bytes_sums){vdupq_n_s32(0), vdupq_n_s32(0)};
}
static inline int32x4_t bytes_end(bytes_sums sums, int32x4_t before)
{
    return vaddq_s32(before, vpaddq_s32(sums.low, sums.high));
}
static inline bytes_sums add_bytes(bytes_sums sums, const uint8_t *at, int32x4_t four, int32x4_t next)
{
    const int8x16_t w = load_bytes(at), more = load_bytes(at + STEP_BYTES);
    const int8x16_t x = vreinterpretq_s8_s32(four), x_more = vreinterpretq_s8_s32(next);
    int16x8_t low = vmull_s8(vget_low_s8(w), vget_low_s8(x)), high = vmull_high_s8(w, x);
    low = vmlal_s8(low, vget_low_s8(more), vget_low_s8(x_more));
    high = vmlal_high_s8(high, more, x_more);
    return (bytes_sums){vpadalq_s16(sums.low, low), vpadalq_s16(sums.high, high)};
}
#define bytes_add(sums, at, x, lane)                                                                                   \
    if ((lane) % 2 == 0) sums = add_bytes(sums, at, vdupq_laneq_s32(x, lane), vdupq_laneq_s32(x, (lane) | 1))

static inline float32x4_t load_floats(const uint8_t *from) { return vreinterpretq_f32_u8(vld1q_u8(from)); }

enum { floats_quads = 4, floats_step = STEP_BYTES };
typedef float32x4_t floats_sums;
DEFINE_INPUT(floats, float32x4_t, load_floats(q))
static inline floats_sums floats_start(int32x4_t before) { return vreinterpretq_f32_s32(before); }
static inline int32x4_t floats_end(floats_sums sums, int32x4_t before)
{
    return (void)before, vreinterpretq_s32_f32(sums);
}
#define floats_add(sums, at, x, lane) sums = vfmaq_laneq_f32(sums, load_floats(at), x, lane)

/* Pairs of bf16, the weights unpacked to floats: sums of the even and of the odd columns of one block (kernels.h). */
typedef struct {
    float32x4_t even, odd;
} pairs_of_floats;
enum { pairs_quads = 2, pairs_step = 2 * STEP_BYTES };
typedef pairs_of_floats pairs_sums;
static inline pairs_of_floats split_pairs(uint32x4_t pairs)
{
    return (pairs_of_floats){vreinterpretq_f32_u32(vshlq_n_u32(pairs, 16)),
                             vreinterpretq_f32_u32(vandq_u32(pairs, vdupq_n_u32(0xffff0000)))};
}
DEFINE_INPUT(pairs, pairs_of_floats, split_pairs(vreinterpretq_u32_u8(vld1q_u8(q))))
static inline pairs_sums pairs_start(int32x4_t before)
{
    return (void)before, (pairs_sums){vdupq_n_f32(0), vdupq_n_f32(0)};
}
static inline int32x4_t pairs_end(pairs_sums sums, int32x4_t before)
{
    return vreinterpretq_s32_f32(vaddq_f32(vreinterpretq_f32_s32(before), vaddq_f32(sums.even, sums.odd)));
}
#define pairs_add(sums, at, x, lane)                                                                                   \
    sums = (pairs_sums){vfmaq_laneq_f32(sums.even, load_floats(at), (x).even, lane),                                   \
                        vfmaq_laneq_f32(sums.odd, load_floats((at) + STEP_BYTES), (x).odd, lane)}

/* A tile of rows for N tokens, some steps of them (a multiple of four), added to sums: [N, 16], or begun from `start` when
 * that is given. */
#define PRODUCT(kind, N, attribute)                                                                                    \
    attribute static void kind##_##N(uint8_t *y, size_t y_stride, const uint8_t *before,                               \
                                     const uint8_t *restrict weights, size_t steps, const uint8_t *restrict q,         \
                                     size_t q_stride, const int32_t *restrict start)                                   \
    {                                                                                                                  \
        enum { WIDTH = kind##_quads, NEXT = WIDTH * QUAD_BYTES };                                                      \
        for (size_t first = 0; first < QUADS; first += WIDTH, weights += NEXT, y += NEXT, before += NEXT) {            \
            const uint8_t *at = weights, *x_at = q;                                                                    \
            kind##_sums sums[N][WIDTH];                                                                                \
            EACH(t, N) EACH(r, WIDTH) sums[t][r] = kind##_start(BEFORE(t, r));                                         \
            for (size_t i = 0; i < steps; i += 4, x_at += 16) {                                                        \
                kind##_input x[N];                                                                                     \
                EACH(t, N) x[t] = kind##_load(x_at + t * q_stride);                                                    \
                EACH(r, WIDTH) EACH(t, N) { kind##_add(sums[t][r], at + r * QUAD_BYTES, x[t], 0); }                    \
                at += kind##_step;                                                                                     \
                EACH(r, WIDTH) EACH(t, N) { kind##_add(sums[t][r], at + r * QUAD_BYTES, x[t], 1); }                    \
                at += kind##_step;                                                                                     \
                EACH(r, WIDTH) EACH(t, N) { kind##_add(sums[t][r], at + r * QUAD_BYTES, x[t], 2); }                    \
                at += kind##_step;                                                                                     \
                EACH(r, WIDTH) EACH(t, N) { kind##_add(sums[t][r], at + r * QUAD_BYTES, x[t], 3); }                    \
                at += kind##_step;                                                                                     \
            }                                                                                                          \
            EACH(t, N) EACH(r, WIDTH) vst1q_s32(Y(t, r), kind##_end(sums[t][r], BEFORE(t, r)));                        \
        }                                                                                                              \
    }
#define EACH(i, n) _Pragma("GCC unroll 4") for (size_t i = 0; i < (n); i++)
#define Y(t, r) (int32_t *)(void *)(y + 4 * (t) * y_stride + QUAD_BYTES * (r))
#define BEFORE(t, r)                                                                                                   \
    (start ? vdupq_n_s32(start[t]) : vreinterpretq_s32_u8(vld1q_u8(before + STEP_BYTES * (t) + QUAD_BYTES * (r))))

enum { TILE_TOKENS = 4 };
typedef void product_of_tile(uint8_t *, size_t, const uint8_t *, const uint8_t *restrict, size_t,
                             const uint8_t *restrict, size_t, const int32_t *restrict);

#define PRODUCTS(kind, at)                                                                                             \
    PRODUCT(kind, 1, at) PRODUCT(kind, 2, at) PRODUCT(kind, 3, at) PRODUCT(kind, 4, at)                                \
    static product_of_tile *const kind[TILE_TOKENS] = {kind##_1, kind##_2, kind##_3, kind##_4};

PRODUCTS(dots, TARGET_DOT)
PRODUCTS(trits, TARGET)
PRODUCTS(bytes, TARGET)
PRODUCTS(floats, TARGET)
PRODUCTS(pairs, TARGET)

/* ---- few tokens: ternary weights are multiplied as they are unpacked ---- */

/* Of the four weights in a byte, the first is masked and the last shifted down; the other two are masked where they are,
 * which leaves 4 or 16 times their value: each of these has sums of its own, divided at the end. */
enum { FEW = 3 };

/* WIDTH: quads of rows at a time, as many as the registers hold sums of. steps: in STEP_BYTES, 4 or 5. */
#define FEW_PRODUCT(name, N, WIDTH, steps, prepare, load)                                                              \
    TARGET_DOT static void name##_##N(uint8_t *restrict y, size_t y_stride, const uint8_t *restrict weights,           \
                                      size_t columns, const uint8_t *restrict q, size_t q_stride,                      \
                                      const int32_t *restrict q_sum)                                                   \
    {                                                                                                                  \
        const uint8x16_t mask = vdupq_n_u8(3), mask4 = vdupq_n_u8(12), mask16 = vdupq_n_u8(48);                        \
        prepare;                                                                                                       \
        for (size_t first = 0; first < QUADS; first += WIDTH, weights += WIDTH * QUAD_BYTES, y += WIDTH * QUAD_BYTES) { \
            const uint8_t *at = weights, *x_at = q;                                                                    \
            int32x4_t once[N][WIDTH], times4[N][WIDTH], times16[N][WIDTH];                                             \
            EACH(t, N) EACH(r, WIDTH) once[t][r] = times4[t][r] = times16[t][r] = vdupq_n_s32(0);                      \
            for (size_t c = 0; c < columns; c += 4 * (steps), at += STEP_BYTES, x_at += 4 * (steps)) {                 \
                int8x16_t x[N], x_fifth[N];                                                                            \
                EACH(t, N) x[t] = load_bytes(x_at + t * q_stride);                                                     \
                EACH(t, N) x_fifth[t] = (steps) == 5 ? load_four(x_at + t * q_stride + 16) : vdupq_n_s8(0);            \
                EACH(r, WIDTH)                                                                                         \
                {                                                                                                      \
                    uint8x16_t fifth = mask, codes = vld1q_u8(at + r * QUAD_BYTES);                                    \
                    load;                                                                                              \
                    EACH(t, N) once[t][r] = ADD_LANE(once[t][r], vandq_u8(codes, mask), 0);                            \
                    EACH(t, N) times4[t][r] = ADD_LANE(times4[t][r], vandq_u8(codes, mask4), 1);                       \
                    EACH(t, N) times16[t][r] = ADD_LANE(times16[t][r], vandq_u8(codes, mask16), 2);                    \
                    EACH(t, N) once[t][r] = ADD_LANE(once[t][r], vshrq_n_u8(codes, 6), 3);                             \
                    if ((steps) == 5)                                                                                  \
                        EACH(t, N) once[t][r] = vdotq_s32(once[t][r], vreinterpretq_s8_u8(fifth), x_fifth[t]);         \
                }                                                                                                      \
            }                                                                                                          \
            EACH(t, N) EACH(r, WIDTH)                                                                                  \
            {                                                                                                          \
                int32x4_t sum = vsubq_s32(once[t][r], vdupq_n_s32(q_sum[t]));                                          \
                vst1q_s32(Y(t, r), vsraq_n_s32(vsraq_n_s32(sum, times4[t][r], 2), times16[t][r], 4));                  \
            }                                                                                                          \
        }                                                                                                              \
    }
#define ADD_LANE(sum, codes, lane) vdotq_laneq_s32(sum, vreinterpretq_s8_u8(codes), x[t], lane)

static inline int8x16_t load_four(const uint8_t *from)
{
    int32_t four;
    memcpy(&four, from, sizeof four);
    return vreinterpretq_s8_s32(vdupq_n_s32(four));
}

#define DENSE_TABLES const trit_tables tables = load_trit_tables()
#define LOOK_UP codes = look_up_trits(&tables, codes, &fifth)

FEW_PRODUCT(few_ternary, 1, 4, 4, (void)0, (void)fifth)
FEW_PRODUCT(few_ternary, 2, 2, 4, (void)0, (void)fifth)
FEW_PRODUCT(few_ternary, 3, 2, 4, (void)0, (void)fifth)
FEW_PRODUCT(few_dense, 1, 2, 5, DENSE_TABLES, LOOK_UP)
FEW_PRODUCT(few_dense, 2, 2, 5, DENSE_TABLES, LOOK_UP)
FEW_PRODUCT(few_dense, 3, 2, 5, DENSE_TABLES, LOOK_UP)

typedef void product_of_few(uint8_t *restrict, size_t, const uint8_t *restrict, size_t, const uint8_t *restrict, size_t,
                            const int32_t *restrict);
static product_of_few *const few_ternary[FEW] = {few_ternary_1, few_ternary_2, few_ternary_3};
static product_of_few *const few_dense[FEW] = {few_dense_1, few_dense_2, few_dense_3};

/* ---- whole products ---- */

/* offset: what was added to the codes that the products read. */
static void tiles_product(matrix_format format, product_of_tile *const *products, product_of_few *const *few,
                          unpacker *unpack, int32_t offset, uint8_t *restrict y, size_t y_stride, const uint8_t *weights,
                          size_t tiles, size_t columns, const uint8_t *restrict q, size_t q_stride,
                          const int32_t *restrict q_sum, size_t tokens, uint8_t *unpacked)
{
    size_t steps = steps_of(format, columns), bytes = tile_bytes(format, columns);
    const size_t most = multiplies_halves(format) ? BF16_STEPS : BLOCK_STEPS; /* at a time */
    uint8_t *sums = unpacked + 4 * BLOCK_STEPS * STEP_BYTES; /* [tokens, 16] of all blocks but the last */
    for (size_t tile = 0; tile < tiles; tile++, weights += bytes, y += 4 * TILE_ROWS) {
        if (few && tokens && tokens <= FEW) {
            few[tokens - 1](y, y_stride, weights, columns, q, q_stride, q_sum);
            continue;
        }
        for (size_t from = 0, count; from < steps; from += count) {
            count = steps - from < most ? steps - from : most;
            if (unpack) unpack(unpacked, weights, columns, from, count);
            for (size_t t = 0, n; t < tokens; t += n) {
                int32_t start[TILE_TOKENS];
                n = tokens - t < TILE_TOKENS ? tokens - t : TILE_TOKENS;
                for (size_t i = 0; i < n; i++) start[i] = offset ? -offset * q_sum[t + i] : 0;
                const int last = from + count == steps; /* y's rows lie far apart */
                products[n - 1](last ? y + 4 * t * y_stride : sums + STEP_BYTES * t, last ? y_stride : TILE_ROWS,
                                sums + STEP_BYTES * t, unpack ? unpacked : weights + from * STEP_BYTES, count,
                                q + t * q_stride + 4 * from, q_stride, from ? NULL : start);
            }
        }
    }
}

#define MATRIX_PRODUCT(name, format, kind, few, unpack, offset)                                                        \
    static void name(void *restrict y, size_t y_stride, const uint8_t *restrict weights, size_t tiles, size_t columns, \
                     const uint8_t *restrict q, size_t q_stride, const int32_t *restrict q_sum, size_t tokens,         \
                     uint8_t *restrict unpacked)                                                                       \
    {                                                                                                                  \
        tiles_product(format, kind, few, unpack, offset, y, y_stride, weights, tiles, columns, q, q_stride, q_sum,     \
                      tokens, unpacked);                                                                               \
    }

MATRIX_PRODUCT(ternary_product, TERNARY, trits, NULL, unpack_ternary, 1)
MATRIX_PRODUCT(dense_product, TERNARY_DENSE, trits, NULL, unpack_dense, 1)
MATRIX_PRODUCT(int8_product, INT8, bytes, NULL, unpack_int8, 0)
MATRIX_PRODUCT(int4_product, INT4, bytes, NULL, unpack_int4, 0)
MATRIX_PRODUCT(fp8_product, FP8, pairs, NULL, unpack_fp8, 0)
MATRIX_PRODUCT(bf16_product, BF16, pairs, NULL, unpack_bf16, 0)
MATRIX_PRODUCT(fp32_product, FP32, floats, NULL, NULL, 0)
MATRIX_PRODUCT(ternary_dots, TERNARY, dots, few_ternary, unpack_ternary, 1)
MATRIX_PRODUCT(dense_dots, TERNARY_DENSE, dots, few_dense, unpack_dense, 1)
MATRIX_PRODUCT(int8_dots, INT8, dots, NULL, unpack_int8, 0)
MATRIX_PRODUCT(int4_dots, INT4, dots, NULL, unpack_int4, 0)

const bitrl_kernels bitrl_kernels_neon = {
    "neon",
    {ternary_product, dense_product, int8_product, int4_product, fp8_product, bf16_product, fp32_product},
    DOUBLE_KERNELS, FLOAT_KERNELS};
const bitrl_kernels bitrl_kernels_neondot = {
    "neondot",
    {ternary_dots, dense_dots, int8_dots, int4_dots, fp8_product, bf16_product, fp32_product},
    DOUBLE_KERNELS, FLOAT_KERNELS};
#endif
