/* Weights to codes, written once and compiled for each instruction set: the end of kernels_double.h, whose v8 it uses.
 *
 * Knows how weights are rounded, not where codes lie (pack.c). */

/* v / step + noise, rounded to an integer between the two, ties to even; still doubles. */
TARGET static inline v8 v8_code(v8 v, v8 step, v8 noise, v8 least, v8 minus_most)
{
    const v8 zero = v8_set(0), rounder = v8_set(ROUNDER);
    v = v8_max(v8_add(v8_div(v, step), noise), least);
    v = v8_sub(zero, v8_max(v8_sub(zero, v), minus_most));
    return v8_sub(v8_add(v, rounder), rounder);
}

/* What weights are divided by: with steps of nothing all codes are 0. */
static inline double divisor(double step) { return step != 0 ? step : INFINITY; }

/* A counter-based generator: two rounds of a multiplicative hash of the place, with half of the key in each. */
TARGET static void random_bits(int32_t *restrict bits, size_t n, uint64_t key)
{
    const uint32_t first = (uint32_t)key, second = (uint32_t)(key >> 32);
    for (size_t i = 0; i < n; i++) {
        uint32_t x = (uint32_t)i * 0x9e3779b9 + first;
        x = (x ^ x >> 16) * 0x7feb352d;
        x = ((x ^ x >> 15) + second) * 0x846ca68b;
        x = (x ^ x >> 13) * 0x9e3779b1;
        bits[i] = (int32_t)(x ^ x >> 16);
    }
}

/* From random bits numbers between -1/2 and 1/2, neither included: what is an integer already stays. */
TARGET static inline v8 v8_noise(const int32_t *random)
{
    return v8_mul(v8_add(v8_from_int(random), v8_set(0.5)), v8_set(0x1p-32));
}

TARGET static void round_codes(int8_t *restrict codes, const float *restrict row, size_t n, double scale, double least,
                               double most, const int32_t *restrict random)
{
    const v8 step = v8_set(divisor(scale)), low = v8_set(least), minus_high = v8_set(-most);
    for (size_t i = 0; i < n; i += 8) {
        v8 noise = random ? v8_noise(random + i) : v8_set(0);
        uint64_t bytes = i8_bytes(i8_round(v8_code(v8_from_float(row + i), step, noise, low, minus_high)));
        memcpy(codes + i, &bytes, sizeof bytes);
    }
}

/* The first of the weights that are the largest in magnitude. */
TARGET static inline float first_largest(const float *restrict block)
{
    int32_t bits[INT4_BLOCK], most = 0, first = INT4_BLOCK;
    memcpy(bits, block, sizeof bits);
    for (int32_t i = 0; i < INT4_BLOCK; i++) {
        bits[i] &= 0x7fffffff; /* floats without a sign are in the order of their bits */
        most = bits[i] > most ? bits[i] : most;
    }
    for (int32_t i = 0; i < INT4_BLOCK; i++) {
        int32_t at = bits[i] == most ? i : INT4_BLOCK;
        first = at < first ? at : first;
    }
    return block[first];
}

/* Codes of a block: its largest weight becomes `end` steps of a multiple of scale, which is returned; with random bits at most
 * so many, since what is cut off there would be missing in the expectation. squares: of what each weight is off. */
TARGET static inline int8_t round_block(int8_t *restrict codes, double *restrict squares, const float *restrict block,
                                        double scale, double largest, int end, const int32_t *restrict random)
{
    const double exact = largest / divisor(end * scale);
    double times = (exact + ROUNDER) - ROUNDER;
    if (random && fabs(times) < fabs(exact) * (1 - 0x1p-22)) times += exact < 0 ? -1 : 1; /* but for the last bits of floats */
    times = times < -17 ? -17 : times > 17 ? 17 : times;
    const v8 step = v8_set(times * scale), by = v8_set(divisor(times * scale));
    const v8 least = v8_set(end < 0 ? end : -end), minus_most = v8_set(-7);
    for (size_t i = 0; i < INT4_BLOCK; i += 8) {
        v8 noise = random ? v8_noise(random + i) : v8_set(0);
        v8 weights = v8_from_float(block + i), code = v8_code(weights, by, noise, least, minus_most);
        v8 off = v8_sub(weights, v8_mul(code, step));
        uint64_t bytes = i8_bytes(i8_round(code));
        memcpy(codes + i, &bytes, sizeof bytes);
        v8_store(squares + i, v8_mul(off, off));
    }
    return (int8_t)times;
}

/* Either the largest weight of a block is 7 steps, which leaves ternary weights as they are, or -8, which does so to Q4_0's
 * codes: whichever errs less; with random bits the first, since the second may cut off the others. Each sum of squares is added up from the first weight on, because its last bits may decide;
 * those of several blocks side by side. */
TARGET static void round_int4(int8_t *restrict codes, int8_t *restrict multipliers, const float *restrict row, size_t n,
                              double scale, const int32_t *restrict random)
{
    enum { BLOCKS = 4 };
    for (size_t i = 0; i < n && random; i += INT4_BLOCK) {
        double squares[INT4_BLOCK];
        *multipliers++ = round_block(codes + i, squares, row + i, scale, first_largest(row + i), 7, random + i);
    }
    if (random) return;
    for (size_t blocks = n / INT4_BLOCK; blocks > 0;) {
        size_t count = blocks < BLOCKS ? blocks : BLOCKS;
        int8_t others[BLOCKS][INT4_BLOCK], times[BLOCKS];
        double squares[2 * BLOCKS][INT4_BLOCK], errors[2 * BLOCKS] = {0};
        if (count < BLOCKS) memset(squares, 0, sizeof squares);
        for (size_t b = 0; b < count; b++) {
            const float *block = row + b * INT4_BLOCK;
            double largest = first_largest(block);
            multipliers[b] = round_block(codes + b * INT4_BLOCK, squares[2 * b], block, scale, largest, 7, NULL);
            times[b] = round_block(others[b], squares[2 * b + 1], block, scale, largest, -8, NULL);
        }
        for (size_t i = 0; i < INT4_BLOCK; i++)
            for (size_t s = 0; s < 2 * BLOCKS; s++) errors[s] += squares[s][i];
        for (size_t b = 0; b < count; b++)
            if (errors[2 * b + 1] < errors[2 * b]) {
                memcpy(codes + b * INT4_BLOCK, others[b], INT4_BLOCK);
                multipliers[b] = times[b];
            }
        blocks -= count;
        row += count * INT4_BLOCK;
        codes += count * INT4_BLOCK;
        multipliers += count;
    }
}

TARGET static int ternary_codes(int8_t *restrict codes, const float *restrict row, size_t n, float scale)
{
    int32_t wrong = 0;
    for (size_t i = 0; i < n; i++) {
        int32_t code = (row[i] > 0) - (row[i] < 0);
        codes[i] = (int8_t)code;
        wrong |= row[i] != (float)code * scale;
    }
    return !wrong;
}

TARGET static void round_fp8(uint8_t *restrict codes, const float *restrict row, size_t n, double scale,
                             const int32_t *restrict random)
{
    const double step = divisor(scale);
    for (size_t i = 0; i < n && !random; i++) codes[i] = fp8_from((float)(row[i] / step));
    for (size_t i = 0; i < n && random; i++) codes[i] = fp8_from_randomly((float)(row[i] / step), (uint32_t)random[i]);
}

TARGET static void round_bf16(uint16_t *restrict halves, const float *restrict row, size_t n, const int32_t *restrict random)
{
    for (size_t i = 0; i < n && !random; i++) halves[i] = bf16_from(row[i]);
    for (size_t i = 0; i < n && random; i++) halves[i] = bf16_from_randomly(row[i], (uint32_t)random[i]);
}
