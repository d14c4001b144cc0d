/* Weights to codes, written once and compiled for each instruction set: the end of kernels_double.h, whose v8 it uses.
 *
 * Knows how weights are rounded, not where codes lie (pack.c). */

/* v / step, rounded to an integer between the two, ties to even; still doubles. */
TARGET static inline v8 v8_code(v8 v, v8 step, v8 least, v8 minus_most)
{
    const v8 zero = v8_set(0), rounder = v8_set(ROUNDER);
    v = v8_max(v8_div(v, step), least);
    v = v8_sub(zero, v8_max(v8_sub(zero, v), minus_most));
    return v8_sub(v8_add(v, rounder), rounder);
}

/* What weights are divided by: with steps of nothing all codes are 0. */
static inline double divisor(double step) { return step != 0 ? step : INFINITY; }

TARGET static void round_codes(int8_t *restrict codes, const float *restrict row, size_t n, double scale, double least,
                               double most)
{
    const v8 step = v8_set(divisor(scale)), low = v8_set(least), minus_high = v8_set(-most);
    for (size_t i = 0; i < n; i += 8) {
        uint64_t bytes = i8_bytes(i8_round(v8_code(v8_from_float(row + i), step, low, minus_high)));
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

/* Codes of a block: its largest weight becomes `end` steps of a multiple of scale, which is returned. squares: of what each
 * weight is off. */
TARGET static inline int8_t round_block(int8_t *restrict codes, double *restrict squares, const float *restrict block,
                                        double scale, double largest, int end)
{
    double times = (largest / divisor(end * scale) + ROUNDER) - ROUNDER;
    times = times < -17 ? -17 : times > 17 ? 17 : times;
    const v8 step = v8_set(times * scale), by = v8_set(divisor(times * scale));
    const v8 least = v8_set(end < 0 ? end : -end), minus_most = v8_set(-7);
    for (size_t i = 0; i < INT4_BLOCK; i += 8) {
        v8 weights = v8_from_float(block + i), code = v8_code(weights, by, least, minus_most);
        v8 off = v8_sub(weights, v8_mul(code, step));
        uint64_t bytes = i8_bytes(i8_round(code));
        memcpy(codes + i, &bytes, sizeof bytes);
        v8_store(squares + i, v8_mul(off, off));
    }
    return (int8_t)times;
}

/* Either the largest weight of a block is 7 steps, which leaves ternary weights as they are, or -8, which does so to Q4_0's
 * codes: whichever errs less. Each sum of squares is added up from the first weight on, because its last bits may decide;
 * those of several blocks side by side. */
TARGET static void round_int4(int8_t *restrict codes, int8_t *restrict multipliers, const float *restrict row, size_t n,
                              double scale)
{
    enum { BLOCKS = 4 };
    for (size_t blocks = n / INT4_BLOCK; blocks > 0;) {
        size_t count = blocks < BLOCKS ? blocks : BLOCKS;
        int8_t others[BLOCKS][INT4_BLOCK], times[BLOCKS];
        double squares[2 * BLOCKS][INT4_BLOCK], errors[2 * BLOCKS] = {0};
        if (count < BLOCKS) memset(squares, 0, sizeof squares);
        for (size_t b = 0; b < count; b++) {
            const float *block = row + b * INT4_BLOCK;
            double largest = first_largest(block);
            multipliers[b] = round_block(codes + b * INT4_BLOCK, squares[2 * b], block, scale, largest, 7);
            times[b] = round_block(others[b], squares[2 * b + 1], block, scale, largest, -8);
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

TARGET static void round_bf16(uint16_t *restrict halves, const float *restrict row, size_t n)
{
    for (size_t i = 0; i < n; i++) halves[i] = bf16_from(row[i]);
}
