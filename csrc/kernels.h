/* The arithmetic that depends on the CPU: one table of functions per instruction set, chosen when a model is loaded.
 *
 * Every set computes the same bits. Integer sums are exact; everything else is double precision with a fixed order of
 * additions, fused multiply-adds only where they are written (-ffp-contract=off), so an 8-bit activation never flips
 * between CPUs.
 *
 * Vectors are padded with zeros to a multiple of PAD elements, the columns of matrices to a multiple of K_PAD, so that
 * kernels have no remainder loops.
 *
 * A product takes four bytes of a token's activations at a step: four int8 codes, two bf16 or one float. A token's
 * activations lie in one row of activation_stride() bytes, zeros behind the last column.
 * Weights lie in tiles of 16 rows, a step of which is 64 bytes: [tiles][steps][16 rows][4 bytes]. Bytes are a code plus
 * an offset (1 for ternary, 128 for the others), because the products multiply unsigned by signed bytes. Four formats
 * are packed more closely and unpacked to that, or to bf16, a tile or two at a time:
 *
 *   ternary      64 bytes for four steps: step p in bits 2 p and 2 p + 1 of each byte
 *   ternary-1.6  64 bytes for five steps, see trits_pack()
 *   int4         64 bytes for two steps: the first in the low nibbles (code + 8), the second in the high ones; behind all
 *                of a tile's steps a signed multiplier for each 32 columns of each row, [columns / 32][16 rows].
 *                A weight is code * multiplier * the row's scale, so that sums stay integers; |code * multiplier| < 128.
 *   fp8          64 bytes for two steps of bf16, which hold its numbers exactly: E4M3 (a sign, four bits of exponent, three
 *                of mantissa; largest 448) of four rows after another, of each four the first step's and then the second's:
 *                [tiles][steps / 2][4][2 steps][4 rows][2 columns] */
#ifndef BITRL_KERNELS_H
#define BITRL_KERNELS_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { PAD = 16, KEYS_TOGETHER = 8, K_PAD = 64, TILE_ROWS = 16, STEP_BYTES = 64, INT4_BLOCK = 32, BF16_STEPS = 16, TOKEN_PAD = 16 };

/* TERNARY_BLOCKS, which nobody asks for by name, is what a ternary matrix with more than one scale is packed as: one for each
 * SCALE_BLOCK columns of a row. A tile is these blocks one after another, each as TERNARY has it, and behind it 16 floats, the
 * rows' scales. It has no kernel of its own (forward.c). */
typedef enum { TERNARY, TERNARY_DENSE, INT8, INT4, FP8, BF16, FP32, FORMATS, TERNARY_BLOCKS = FORMATS } matrix_format;
enum { SCALE_BLOCK = 128 };

/* Whether weights and activations are multiplied as bf16. */
static inline int multiplies_halves(matrix_format format) { return format == BF16 || format == FP8; }

/* Steps of a row of `columns` padded columns. */
static inline size_t steps_of(matrix_format format, size_t columns)
{
    return format == FP32 ? columns : multiplies_halves(format) ? columns / 2 : columns / 4;
}

/* Bytes of a tile of 16 packed rows, a multiple of 64. */
static inline size_t tile_bytes(matrix_format format, size_t columns)
{
    size_t steps = steps_of(format, columns);
    if (format == TERNARY) return steps / 4 * STEP_BYTES;
    if (format == TERNARY_DENSE) return (steps + 4) / 5 * STEP_BYTES;
    if (format == TERNARY_BLOCKS) return steps / 4 * STEP_BYTES + (columns + SCALE_BLOCK - 1) / SCALE_BLOCK * TILE_ROWS * sizeof(float);
    if (format == INT4) return steps / 2 * STEP_BYTES + (columns / INT4_BLOCK * TILE_ROWS + 63) / 64 * 64;
    return format == FP8 ? steps / 2 * STEP_BYTES : steps * STEP_BYTES;
}

/* Bytes from one token's activations to the next's: room for the last group of five steps, and an odd number of cache
 * lines, so that the rows of neighbouring tokens do not compete for the same places in the cache. */
static inline size_t activation_stride(matrix_format format, size_t columns)
{
    return ((4 * steps_of(format, columns) / 64 + 1) | 1) * 64;
}

/* Five trits (0, 1, 2) in a byte, so that two lookups by its low six bits find them: with r the first four as a number
 * below 81, a byte is r + 64 * the fifth when r < 64; the other 51 combinations, 192 + (r - 64) + 17 * the fifth, follow
 * from 192 on. Four bytes at once, none of which carries into the next. */
static inline uint32_t trits_pack(const uint32_t trits[5])
{
    uint32_t r = trits[0] + 3 * trits[1] + 9 * trits[2] + 27 * trits[3];
    uint32_t low = r & 0x3f3f3f3f, late = (r >> 6 & 0x01010101) * 255;
    return low + ((64 * trits[4]) & ~late) + ((0xc0c0c0c0 + 17 * trits[4]) & late);
}

/* To bf16, ties to even. Numbers below 2^-50 become zero: then all products and their sums are multiples of 2^-114, none is
 * ever subnormal, which instruction sets treat differently. */
static inline uint16_t bf16_from(float value)
{
    uint32_t bits, without_sign;
    memcpy(&bits, &value, sizeof bits);
    without_sign = bits & 0x7fffffff;
    bits = (bits + 0x7fff + (bits >> 16 & 1)) >> 16; /* no branches: rows of them are vectorised */
    bits = without_sign > 0x7f800000 ? 0x7fc0 : bits;
    return (uint16_t)(without_sign < 0x26800000 ? 0 : bits);
}

/* To one of the two neighbours in bf16: away from zero with the probability of what is cut off, by uniformly random bits. */
static inline uint16_t bf16_from_randomly(float value, uint32_t random)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return (uint16_t)((bits & 0x7fffffff) < 0x26800000 ? 0 : (bits + (random >> 16)) >> 16);
}

static inline float float_from(uint16_t bf16)
{
    uint32_t bits = (uint32_t)bf16 << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* To E4M3, ties to even; what is larger than 448 becomes that. */
static inline uint8_t fp8_from(float value)
{
    uint32_t bits, magnitude, small, code;
    float positive;
    memcpy(&bits, &value, sizeof bits);
    magnitude = bits & 0x7fffffff;
    memcpy(&positive, &magnitude, sizeof positive);
    positive += 0x1.8p14f; /* below 2^-6, where steps are of 2^-9, the addition rounds to these */
    memcpy(&small, &positive, sizeof small);
    code = ((magnitude + 0x7ffff + (magnitude >> 20 & 1)) >> 20) - (120 << 3);
    code = magnitude < 0x3c800000 ? small - 0x46c00000 : code;
    code = code > 0x7e ? 0x7e : code;
    return (uint8_t)(code | (bits >> 24 & 0x80));
}

/* To one of the two neighbours in E4M3: away from zero with the probability of what is cut off, by uniformly random bits. */
static inline uint8_t fp8_from_randomly(float value, uint32_t random)
{
    uint32_t bits, magnitude, small, code;
    float positive;
    memcpy(&bits, &value, sizeof bits);
    magnitude = bits & 0x7fffffff;
    memcpy(&positive, &magnitude, sizeof positive);
    positive += 0x1p-6f; /* from there to twice that, steps are those below it */
    memcpy(&small, &positive, sizeof small);
    code = ((magnitude + (random >> 12)) >> 20) - (120 << 3);
    code = magnitude < 0x3c800000 ? ((small + (random >> 12)) >> 20) - (121 << 3) : code;
    code = code > 0x7e ? 0x7e : code;
    return (uint8_t)(code | (bits >> 24 & 0x80));
}

static inline uint16_t bf16_from_fp8(uint8_t code)
{
    uint32_t magnitude = code & 0x7f, bits;
    float small = (float)(int32_t)magnitude * 0x1p-9f;
    memcpy(&bits, &small, sizeof bits);
    bits = magnitude < 8 ? bits >> 16 : (magnitude << 4) + (120 << 7);
    return (uint16_t)(bits | (uint32_t)(code & 0x80) << 8);
}

/* The smallest numbers of E4M3, 0 to 7 times 2^-9, as bf16; of each the part that is taken. Sixteen, as tables want them. */
#define FP8_SMALL(part)                                                                                                \
    (char)(0 part), (char)(0x3b00 part), (char)(0x3b80 part), (char)(0x3bc0 part), (char)(0x3c00 part),                \
        (char)(0x3c20 part), (char)(0x3c40 part), (char)(0x3c60 part), 0, 0, 0, 0, 0, 0, 0, 0

/* y[t, r] = sum_c activation[t, c] * weight[r, c] without scales: exact int32 for codes, float for fp8, bf16 and fp32. These are
 * added with fused multiply-adds, fp32 column by column. bf16, and fp8 as bf16, in the order of the instruction tdpbf16ps: the even and the
 * odd ones of each 32 columns (BF16_STEPS) have a sum of their own, from zero on; the two are added, then to all before.
 * y: [tokens, y_stride] of int32 or float, 16 * tiles columns written; weights: [tiles, tile_bytes]; q: [tokens, q_stride
 * bytes], of `columns` padded columns (at most 65536 of int8 and int4, whose codes are from -127); q_sum: [tokens] the sum
 * of each token's codes; unpacked: unpacked_bytes(columns, tokens) of scratch. weights, q and unpacked 64-byte aligned,
 * q_stride a multiple of 64. Rows of y and q up to the next multiple of TOKEN_PAD must exist: y's may be overwritten. */
typedef void matrix_product(void *restrict y, size_t y_stride, const uint8_t *restrict weights, size_t tiles,
                            size_t columns, const uint8_t *restrict q, size_t q_stride, const int32_t *restrict q_sum,
                            size_t tokens, uint8_t *restrict unpacked);

/* One text and the query heads of one key/value head. Positions are those of the text: `start` tokens lie in one cache, those
 * up to `past` in another, the others follow. head_dim columns of q, k, v are padded with zeros to PAD. Caches have rows of
 * padded columns; keys lie in groups of KEYS_TOGETHER, [groups, padded, KEYS_TOGETHER], of which finite ones may be missing in
 * the last. */
typedef struct {
    const double *q;           /* [own tokens, q_stride], rotated; the next head is head_stride on */
    const double *k, *v;       /* [own tokens, kv_stride], k rotated */
    const double *start_k, *start_v; /* [start] */
    const double *past_k, *past_v;   /* [past - start] */
    double *out;               /* [own tokens, out_stride], head_dim columns of each head written */
    size_t q_stride, kv_stride, out_stride, head_stride;
    size_t heads, head_dim;
    size_t start, past;        /* tokens before those in the second cache, and before the first own one */
    size_t first, count;       /* the queries: own tokens first .. first + count */
    size_t window;             /* position j is seen from i when i - j < window; 0: always */
    double scale;              /* of the scores */
    double cap;                /* a score s becomes cap * tanh(s / cap); 0: it stays */
} attention_task;

/* Of a step of Adam: see `adam`. */
typedef struct {
    float scale, rate, root, eps;
} adam_rates;

typedef struct {
    const char *name;
    matrix_product *product[FORMATS];

    /* One token: n = x / sqrt(mean(x^2) + eps) * weight, or x itself without a weight (NULL); s = 127 / max(max|n|, 1e-5);
     * q = round_half_even(n * s). x, weight, row: [padded]; mean over n elements; q: the token's codes, [padded]; row is
     * overwritten. Writes sum(q), returns s. */
    double (*norm_quantise)(uint8_t *restrict q, int32_t *restrict q_sum, double *restrict row,
                            const double *restrict x, const double *restrict weight, size_t n, size_t padded,
                            double eps);

    /* The same norm, rounded to float or bf16 (format). q: the token's activations, [padded] of these. */
    void (*norm_round)(uint8_t *restrict q, matrix_format format, double *restrict row, const double *restrict x,
                       const double *restrict weight, size_t n, size_t padded, double eps);

    /* The same norm, quantised to E4M3: s = 448 / max(max|n|, 1e-5), and q holds n * s, rounded to E4M3, as bf16: [padded] of
     * these. Returns s. */
    double (*norm_fp8)(uint8_t *restrict q, double *restrict row, const double *restrict x, const double *restrict weight,
                       size_t n, size_t padded, double eps);

    /* The same norm, not rounded: out: [padded]. */
    void (*normalise)(double *restrict out, const double *restrict x, const double *restrict weight, size_t n,
                      size_t padded, double eps);

    /* x[i] = y[i] * scale; both [n], any n. */
    void (*scaled)(double *restrict x, const int32_t *restrict y, double scale, size_t n);

    /* The same of floats; both [n], any n. */
    void (*scaled_floats)(double *restrict x, const float *restrict y, double scale, size_t n);

    /* x[i] = y[i] * scale * rows[i]; all [padded]. */
    void (*scaled_rows)(double *restrict x, const int32_t *restrict y, const double *restrict rows, double scale,
                        size_t padded);

    /* The same of floats; all [padded]. */
    void (*scaled_float_rows)(double *restrict x, const float *restrict y, const double *restrict rows, double scale,
                              size_t padded);

    /* h[i] = relu(gate[i])^2 * up[i]; all [padded]. */
    void (*gated)(double *restrict h, const double *restrict gate, const double *restrict up, size_t padded);

    /* h[i] = gate[i] / (1 + exp(-gate[i])) * up[i]; all [padded]. */
    void (*gated_silu)(double *restrict h, const double *restrict gate, const double *restrict up, size_t padded);

    /* h[i] = g / (1 + exp(-2 u)) * up[i] with g = gate[i], u = sqrt(2 / pi) * (g + 0.044715 g^3), which is the tanh
     * approximation of gelu(g) * up[i]; all [padded]. */
    void (*gated_gelu)(double *restrict h, const double *restrict gate, const double *restrict up, size_t padded);

    /* x[i] = cap * tanh(x[i] * scale / cap); [n to a multiple of 8]. */
    void (*capped)(double *restrict x, size_t n, double scale, double cap);

    /* The sum of exp((x[i] - most) * scale) over any n, which no x exceeds; scale > 0. */
    double (*exp_sum)(const float *restrict x, size_t n, double most, double scale);

    /* x[i] += y[i]; both [padded]. */
    void (*added)(double *restrict x, const double *restrict y, size_t padded);

    /* x = y, dimension i turned with dimension i + half (NeoX order); x, y: [2 half], any half;
     * rope: [2 half] cosines, then sines. */
    void (*rotated)(double *restrict x, const double *restrict y, const double *restrict rope, size_t half);

    /* scratch: attention_scratch() doubles. */
    void (*attend)(const attention_task *task, double *restrict scratch);

    /* Uniformly random bits, which depend on the key and the place alone; n a multiple of K_PAD. */
    void (*random_bits)(int32_t *restrict bits, size_t n, uint64_t key);

    /* Codes of a row of finite weights, n a multiple of K_PAD. Of all that follow, codes: [n]; row: [n]; random: [n] bits,
     * with which a weight becomes one of its two neighbours, the nearer the likelier, so that its expectation is the weight;
     * or NULL: to the nearest, ties to even.
     * row / scale, rounded to an integer between the two; zeros when the scale is 0. */
    void (*round_codes)(int8_t *restrict codes, const float *restrict row, size_t n, double scale, double least,
                        double most, const int32_t *restrict random);

    /* int4: a weight is nearly code * multiplier * scale, where |row| <= 17 * 7 * scale. multipliers: [n / 32]. */
    void (*round_int4)(int8_t *restrict codes, int8_t *restrict multipliers, const float *restrict row, size_t n,
                       double scale, const int32_t *restrict random);

    /* codes[i] = fp8_from((float)(row[i] / scale)); zeros when the scale is 0. */
    void (*round_fp8)(uint8_t *restrict codes, const float *restrict row, size_t n, double scale,
                      const int32_t *restrict random);

    /* Codes -1, 0, 1, the signs of the weights; 0 when these times the scale are not exactly the row. */
    int (*ternary_codes)(int8_t *restrict codes, const float *restrict row, size_t n, float scale);

    /* halves[i] = bf16_from(row[i]). */
    void (*round_bf16)(uint16_t *restrict halves, const float *restrict row, size_t n, const int32_t *restrict random);

    /* exp and log of each, to one unit in the last place; all [n], any n. out may be x. */
    void (*exps)(float *out, const float *x, size_t n);
    void (*logs)(float *out, const float *x, size_t n);

    /* x = tanh(x), to two units in the last place; [rows, columns], rows `stride` apart. */
    void (*tanhs)(float *x, size_t stride, size_t rows, size_t columns);

    /* g *= 1 - y^2, the slope of y = tanh; both likewise. */
    void (*slopes)(float *restrict g, const float *restrict y, size_t stride, size_t rows, size_t columns);

    /* The sum of x[i]^2 over any n. */
    double (*squares)(const float *restrict x, size_t n);

    /* With g' = scale g: m += (1 - 0.9) (g' - m), v = 0.999 v + (1 - 0.999) g'^2, w -= rate m / (root sqrt(v) + eps); all [n],
     * any n. */
    void (*adam)(float *restrict w, float *restrict m, float *restrict v, const float *restrict g, size_t n,
                 const adam_rates *by);

    /* c = start + a b in float32, for a panel of columns of b: the sum of each number begins with its start and adds fused
     * products, one after another. */
    size_t panel; /* columns of a panel */
    /* panel: [steps, panel] of b: [steps, columns], whose rows are b_step apart and its columns b_column; zeros beyond the last. */
    void (*pack_panel)(float *restrict panel, const float *restrict b, size_t b_step, size_t b_column, size_t steps,
                       size_t columns);
    /* c: [rows, c_stride], a panel of columns written; a: [rows, steps], its rows a_row apart and its columns a_step; start:
     * [rows, start_stride], which may be c, or NULL for zeros. */
    void (*multiply_panel)(float *c, size_t c_stride, size_t rows, const float *a, size_t a_row, size_t a_step,
                           const float *restrict panel, size_t steps, const float *start, size_t start_stride);
} bitrl_kernels;

/* Tokens whose codes are copied at a time, and the bytes of a copy and of what was taken out of it: one for each column
 * (kernels_avx2.c). */
enum { COPIED = 64 };
static inline size_t copy_bytes(size_t columns) { return activation_stride(INT8, columns) + columns; }

/* Bytes of scratch a product needs: two tiles, a byte a weight, or two blocks of these, and three lines for each token; or one
 * tile, and copies of some tokens. */
static inline size_t unpacked_bytes(size_t columns, size_t tokens)
{
    size_t tile = TILE_ROWS * (columns + K_PAD), blocks = 4 * 160 * STEP_BYTES;
    size_t copies = tile + (tokens < COPIED ? tokens : COPIED) * copy_bytes(columns);
    size_t sums = (2 * tile > blocks ? 2 * tile : blocks) + (tokens + TOKEN_PAD) * 3 * 64;
    return sums > copies ? sums : copies;
}

/* Row lengths of the copies that `attend` makes: an odd number of cache lines, see activation_stride. */
static inline size_t attention_keys(size_t length) { return (length + 15) / 16 * 16 + 8; }
static inline size_t attention_row(size_t head_dim) { return (head_dim + PAD - 1) / PAD * PAD + 8; }

/* Doubles of scratch `attend` needs for texts of up to `length` tokens. */
static inline size_t attention_scratch(size_t length, size_t head_dim)
{
    return attention_keys(length) * (head_dim + attention_row(head_dim) + 4);
}

extern const bitrl_kernels bitrl_kernels_scalar;
#if defined(__x86_64__)
extern const bitrl_kernels bitrl_kernels_avx2, bitrl_kernels_avx512vnni, bitrl_kernels_avx512bf16, bitrl_kernels_avx512amx;
#elif defined(__aarch64__)
extern const bitrl_kernels bitrl_kernels_neon, bitrl_kernels_neondot;
#endif

/* Of the CPU, and of the system that lends its registers (cpu.c). */
#if defined(__x86_64__)
int bitrl_cpu_has_amx(void); /* tiles of int8 and of bf16; Linux gives them to a process that asks, as this does */
#elif defined(__aarch64__)
int bitrl_cpu_has_dot_products(void);
#endif

/* The table of that name; the best one for "auto"; NULL when this CPU or build does not have it. */
const bitrl_kernels *bitrl_kernels_find(const char *isa);

#endif
