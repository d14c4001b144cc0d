/* Matrices made ready to multiply: rows of floats are quantised and laid out in tiles (kernels.h).
 *
 * Quantises, whatever type the file holds: ternary by one scale a matrix or, where the file has more, one a block; int8 and fp8 by one a row, int4 by one a row and a
 * small multiplier for each 32 columns. Knows nothing of models. */
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

static const char *const names[FORMATS] = {"ternary", "ternary-1.6", "int8", "int4", "fp8", "bf16", "fp32"};

const char *bitrl_format(uint64_t i) { return i < FORMATS ? names[i] : NULL; }

matrix_format bitrl_format_of(uint32_t type)
{
    switch (type) {
    case GGML_TQ1_0:
    case GGML_TQ2_0:
    case GGML_I2_S:
    case GGML_Q1_0:
    case GGML_Q2_0:
    case Q2_0_LONG:
    case HF_PACKED: return TERNARY;
    case GGML_Q4_0: return INT4;
    case GGML_Q4_1: /* and the others whose blocks int4 would round once more */
    case GGML_Q5_0:
    case GGML_Q5_1:
    case GGML_Q8_0:
    case GGML_Q2_K:
    case GGML_Q3_K:
    case GGML_Q4_K:
    case GGML_Q5_K:
    case GGML_Q6_K:
    case GGML_IQ4_NL: return INT8;
    case GGML_F16:
    case GGML_BF16: return BF16;
    default: return FP32;
    }
}

static double largest(const float *row, size_t n)
{
    int32_t most = 0; /* floats without a sign are in the order of their bits */
    float value;
    for (size_t c = 0; c < n; c++) {
        int32_t bits;
        memcpy(&bits, row + c, sizeof bits);
        bits &= 0x7fffffff;
        most = bits > most ? bits : most;
    }
    memcpy(&value, &most, sizeof value);
    return value;
}

/* ---- a tile from rows of codes, `stride` bytes from one to the next: four of each row at a time ---- */

static inline uint32_t word_at(const uint8_t *from)
{
    uint32_t word;
    memcpy(&word, from, sizeof word);
    return word;
}

static inline void put_word(uint8_t *to, uint32_t word) { memcpy(to, &word, sizeof word); }

static void put_fp8(uint8_t *tile, const uint8_t *rows, size_t stride, size_t columns)
{
    for (size_t c = 0; c < columns; c += 4, tile += STEP_BYTES, rows += 4)
        for (size_t r = 0; r < TILE_ROWS; r++)
            for (size_t step = 0; step < 2; step++)
                memcpy(tile + r / 4 * 16 + step * 8 + r % 4 * 2, rows + r * stride + 2 * step, 2);
}

/* Whole bytes, or pairs of bf16, or floats; `flipped` bits are turned: 0x80 adds 128 to a code. */
static void put_words(uint8_t *tile, const uint8_t *rows, size_t stride, size_t steps, uint32_t flipped)
{
    for (size_t s = 0; s < steps; s++, tile += STEP_BYTES, rows += 4)
        for (size_t r = 0; r < TILE_ROWS; r++) put_word(tile + 4 * r, word_at(rows + r * stride) ^ flipped);
}

static void put_ternary(uint8_t *tile, const uint8_t *rows, size_t stride, size_t columns)
{
    const uint32_t code = 0x03030303, low = 0x55555555;
    for (size_t c = 0; c < columns; c += 16, tile += STEP_BYTES, rows += 16)
        for (size_t r = 0; r < TILE_ROWS; r++) {
            const uint8_t *row = rows + r * stride;
            uint32_t four = (word_at(row) & code) | (word_at(row + 4) & code) << 2 | (word_at(row + 8) & code) << 4 |
                            (word_at(row + 12) & code) << 6;
            put_word(tile + 4 * r, four ^ (four & low) << 1 ^ low); /* each of two bits plus 1 */
        }
}

/* Reads up to 16 columns beyond the last, which are zeros. */
static void put_dense(uint8_t *tile, const uint8_t *rows, size_t stride, size_t columns)
{
    const uint32_t code = 0x03030303, one = 0x01010101;
    for (size_t c = 0; c < columns; c += 20, tile += STEP_BYTES, rows += 20)
        for (size_t r = 0; r < TILE_ROWS; r++) {
            uint32_t trits[5];
            for (size_t step = 0; step < 5; step++)
                trits[step] = ((word_at(rows + r * stride + 4 * step) & code) + one) & code;
            put_word(tile + 4 * r, trits_pack(trits));
        }
}

/* With the scales behind each block: [columns / SCALE_BLOCK, TILE_ROWS]. */
static void put_blocks(uint8_t *tile, const uint8_t *rows, size_t stride, size_t columns, const float *scales)
{
    for (size_t c = 0, n; c < columns; c += n, rows += n, scales += TILE_ROWS) {
        n = columns - c < SCALE_BLOCK ? columns - c : SCALE_BLOCK;
        put_ternary(tile, rows, stride, n);
        tile += tile_bytes(TERNARY, n);
        memcpy(tile, scales, TILE_ROWS * sizeof *scales);
        tile += TILE_ROWS * sizeof *scales;
    }
}

static void put_int4(uint8_t *tile, const uint8_t *rows, size_t stride, size_t columns)
{
    const uint32_t code = 0x0f0f0f0f, eight = 0x88888888;
    for (size_t c = 0; c < columns; c += 8, tile += STEP_BYTES, rows += 8)
        for (size_t r = 0; r < TILE_ROWS; r++) {
            const uint8_t *row = rows + r * stride;
            put_word(tile + 4 * r, ((word_at(row) & code) | (word_at(row + 4) & code) << 4) ^ eight);
        }
}

/* ---- how many codes of a tile are others than before ---- */

static uint64_t other_bytes(const uint8_t *restrict a, const uint8_t *restrict b, size_t n) /* n: a multiple of 64 */
{
    uint64_t count = 0;
    for (size_t i = 0; i < n; i += 64) {
        uint8_t some = 0;
        for (size_t j = 0; j < 64; j++) some = (uint8_t)(some + (a[i + j] != b[i + j]));
        count += some;
    }
    return count;
}

static uint64_t other_halves(const uint8_t *restrict a, const uint8_t *restrict b, size_t n)
{
    uint64_t count = 0;
    for (size_t i = 0; i < n; i += 64) {
        uint16_t x[32], y[32], some = 0;
        memcpy(x, a + i, sizeof x);
        memcpy(y, b + i, sizeof y);
        for (size_t j = 0; j < 32; j++) some = (uint16_t)(some + (x[j] != y[j]));
        count += some;
    }
    return count;
}

static uint64_t other_words(const uint8_t *restrict a, const uint8_t *restrict b, size_t n)
{
    uint64_t count = 0;
    for (size_t i = 0; i < n; i += 64) {
        uint32_t x[16], y[16], some = 0;
        memcpy(x, a + i, sizeof x);
        memcpy(y, b + i, sizeof y);
        for (size_t j = 0; j < 16; j++) some += x[j] != y[j];
        count += some;
    }
    return count;
}

static uint64_t other_pairs_of_bits(const uint8_t *a, const uint8_t *b, size_t n)
{
    uint64_t count = 0;
    for (size_t i = 0; i < n; i++) {
        unsigned other = a[i] ^ b[i];
        count += (uint64_t)__builtin_popcount((other | other >> 1) & 0x55);
    }
    return count;
}

/* The first four of trits_pack()'s five as a number below 81, plus 81 times the fifth. */
static unsigned trits_of(unsigned byte)
{
    unsigned low = byte & 63;
    return byte < 192 ? low + 81 * (byte >> 6) : 64 + low % 17 + 81 * (low / 17);
}

static uint64_t other_trits(const uint8_t *a, const uint8_t *b, size_t n)
{
    uint64_t count = 0;
    for (size_t i = 0; i < n; i++)
        if (a[i] != b[i])
            for (unsigned x = trits_of(a[i]), y = trits_of(b[i]), j = 0; j < 5; j++, x /= 3, y /= 3) count += x % 3 != y % 3;
    return count;
}

/* Of int4, whose codes are multiplied: the products that are others. */
static uint64_t other_int4(const uint8_t *a, const uint8_t *b, size_t columns)
{
    const uint8_t *times = a + columns / 8 * STEP_BYTES, *others = b + columns / 8 * STEP_BYTES;
    uint64_t count = 0;
    for (size_t block = 0; block < columns / INT4_BLOCK; block++, times += TILE_ROWS, others += TILE_ROWS)
        for (size_t i = 0; i < INT4_BLOCK / 8 * STEP_BYTES; i++, a++, b++) {
            size_t r = i % STEP_BYTES / 4;
            int x = (int8_t)times[r], y = (int8_t)others[r];
            count += ((*a & 15) - 8) * x != ((*b & 15) - 8) * y;
            count += ((*a >> 4) - 8) * x != ((*b >> 4) - 8) * y;
        }
    return count;
}

/* Of TERNARY_BLOCKS: of codes, not of scales. */
static uint64_t other_in_blocks(const uint8_t *a, const uint8_t *b, size_t columns)
{
    uint64_t count = 0;
    for (size_t c = 0, n; c < columns; c += n) {
        n = columns - c < SCALE_BLOCK ? columns - c : SCALE_BLOCK;
        count += other_pairs_of_bits(a, b, tile_bytes(TERNARY, n));
        a += tile_bytes(TERNARY, n) + TILE_ROWS * sizeof(float);
        b += tile_bytes(TERNARY, n) + TILE_ROWS * sizeof(float);
    }
    return count;
}

static uint64_t other_codes(matrix_format format, const uint8_t *a, const uint8_t *b, size_t columns)
{
    size_t n = tile_bytes(format, columns);
    if (memcmp(a, b, n) == 0) return 0;
    switch (format) {
    case TERNARY: return other_pairs_of_bits(a, b, n);
    case TERNARY_DENSE: return other_trits(a, b, n);
    case TERNARY_BLOCKS: return other_in_blocks(a, b, columns);
    case INT4: return other_int4(a, b, columns);
    case BF16: return other_halves(a, b, n);
    case FP32: return other_words(a, b, n);
    default: return other_bytes(a, b, n);
    }
}

/* ---- whole matrices ---- */

/* What all threads know while they pack some. */
typedef struct {
    packing *list;
    size_t count;
    const bitrl_kernels *kernels;
    pool *threads;
    size_t tiles;         /* of all */
    bool replaces;        /* what is there: nothing of it when anything is refused */
    bool random;          /* rounds by random bits */
    bool looks;           /* at all weights first */
    size_t widest;        /* padded columns */
    float *rows;          /* [threads, TILE_ROWS, widest], of which some formats use the first only */
    float *scales;        /* [threads, widest / SCALE_BLOCK up, TILE_ROWS] */
    uint8_t *codes;       /* [threads, TILE_ROWS, stride bytes] codes or bf16, zeros behind */
    size_t stride;        /* an odd number of cache lines, see activation_stride */
    int32_t *bits;        /* [threads, widest] random ones */
    uint8_t *read;        /* [threads, WINDOW] bytes of a file */
    uint8_t *next;        /* [threads, 4 * TILE_ROWS * widest] a tile, when others are replaced */
    uint64_t *changed;    /* [threads] codes, when others are replaced */
    atomic_bool refused;
} packings;

/* A thread's own. */
typedef struct {
    packings *all;
    float *rows, *scales;
    uint8_t *codes, *next;
    int32_t *bits;
    uint64_t *changed;
    window *window; /* on the file */
} packer;

/* With one scale. */
static bool is_ternary(const packing *p)
{
    return p->m && (p->m->format == TERNARY || p->m->format == TERNARY_DENSE);
}

static bool rows_scaled(matrix_format format) { return format == INT8 || format == INT4 || format == FP8; }

/* There is a row of it that cannot be had: the rest would be in vain. */
static bool unreadable(const packing *p) { return p->lost || p->not_finite; }

static bool refused(const packing *p) { return unreadable(p) || (p->not_ternary && !p->may_round); }

/* Where row r of the matrix lies in its source. */
static size_t source_row(const weight_source *source, size_t r)
{
    if (!source->turned) return r;
    size_t within = r % source->turned, half = source->turned / 2; /* the two halves of a rotation are interleaved */
    return r - within + within % half * 2 + within / half;
}

static row_result read_row(const weight_source *source, size_t columns, size_t r, float *out, window *w)
{
    if (source->tensor) return bitrl_read_row(out, source->tensor, source->arm, r, w);
    memcpy(out, source->values + r * columns, columns * sizeof *out);
    return bitrl_all_finite(out, columns) ? ROW_READ : ROW_NOT_FINITE;
}

/* Row r as it is to lie in the matrix, zeros up to `padded`; false, and a note of why, when there is none. */
static bool take_row(packing *p, size_t padded, size_t r, float *out, window *w)
{
    memset(out + p->columns, 0, (padded - p->columns) * sizeof *out);
    switch (read_row(&p->source, p->columns, source_row(&p->source, r), out, w)) {
    case ROW_READ: return true;
    case ROW_LOST: p->lost = true; return false;
    default: p->not_finite = true; return false;
    }
}

/* Spreads a number over all bits (the finaliser of splitmix64). */
static uint64_t spread(uint64_t x)
{
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
    x = (x ^ x >> 27) * 0x94d049bb133111eb;
    return x ^ x >> 31;
}

uint64_t bitrl_random_key(uint64_t seed, const char *name)
{
    uint64_t hash = 0xcbf29ce484222325; /* FNV-1a */
    for (; *name; name++) hash = (hash ^ (uint8_t)*name) * 0x100000001b3;
    return spread(spread(seed + 0x9e3779b97f4a7c15) ^ hash);
}

/* The codes of row r, and what lies beside them. */
static void round_row(const packer *own, const packing *p, size_t r, const float *row, uint8_t *codes, uint8_t *tile)
{
    matrix *m = p->m;
    const bitrl_kernels *kernels = own->all->kernels;
    size_t n = round_up(m->columns, K_PAD);
    const int32_t *bits = own->all->random ? own->bits : NULL;
    if (bits) kernels->random_bits(own->bits, n, spread(p->key + (source_row(&p->source, r) + 1) * 0x9e3779b97f4a7c15));
    switch (m->format) {
    case TERNARY:
    case TERNARY_DENSE: kernels->round_codes((int8_t *)codes, row, n, p->step, -1, 1, bits); return;
    case INT8:
        m->row_scale[r] = largest(row, n) / 127;
        kernels->round_codes((int8_t *)codes, row, n, m->row_scale[r], -127, 127, bits);
        return;
    case INT4: /* a block's step is a small multiple of the row's; 119 = 7 * 17, and 8 * 15 is nearest */
        m->row_scale[r] = largest(row, n) / 119;
        kernels->round_int4((int8_t *)codes, (int8_t *)codes + n, row, n, m->row_scale[r], bits);
        for (size_t b = 0; b < n / INT4_BLOCK; b++)
            tile[n / 8 * STEP_BYTES + b * TILE_ROWS + r % TILE_ROWS] = codes[n + b];
        return;
    case FP8:
        m->row_scale[r] = largest(row, n) / 448;
        kernels->round_fp8(codes, row, n, m->row_scale[r], bits);
        return;
    case BF16: kernels->round_bf16((uint16_t *)(void *)codes, row, n, bits); return;
    default: return;
    }
}

/* The codes of row r of TERNARY_BLOCKS and its scales, or those of a row of padding (NULL): each block's as they are, else by the
 * mean of its absolute weights. */
static void round_blocks(const packer *own, packing *p, size_t r, const float *row, uint8_t *codes)
{
    const bitrl_kernels *kernels = own->all->kernels;
    size_t columns = round_up(p->m->columns, K_PAD);
    const int32_t *bits = own->all->random && row ? own->bits : NULL;
    if (bits) kernels->random_bits(own->bits, columns, spread(p->key + (source_row(&p->source, r) + 1) * 0x9e3779b97f4a7c15));
    for (size_t c = 0, n, b = 0; c < columns; c += n, b++) {
        n = columns - c < SCALE_BLOCK ? columns - c : SCALE_BLOCK;
        float *scale = &own->scales[b * TILE_ROWS + r % TILE_ROWS];
        *scale = row ? (float)largest(row + c, n) : 0;
        if (!row) {
            memset(codes + c, 0, n);
        } else if (!kernels->ternary_codes((int8_t *)codes + c, row + c, n, *scale)) {
            double total = 0;
            for (size_t i = c; i < c + n; i++) total += fabs((double)row[i]);
            double mean = total / (double)(c + n < p->m->columns ? n : p->m->columns - c);
            *scale = (float)(mean > 1e-5 ? mean : 1e-5);
            kernels->round_codes((int8_t *)codes + c, row + c, n, *scale, -1, 1, bits ? bits + c : NULL);
            p->not_ternary = true; /* of a file that says they are: refused */
        }
    }
}

static void put_tile(const packer *own, matrix_format format, uint8_t *tile, const uint8_t *codes, size_t stride, const float *rows,
                     size_t n)
{
    switch (format) {
    case TERNARY_BLOCKS: put_blocks(tile, codes, stride, n, own->scales); return;
    case TERNARY: put_ternary(tile, codes, stride, n); return;
    case TERNARY_DENSE: put_dense(tile, codes, stride, n); return;
    case INT8: put_words(tile, codes, stride, n / 4, 0x80808080); return;
    case INT4: put_int4(tile, codes, stride, n); return;
    case FP8: put_fp8(tile, codes, stride, n); return;
    case BF16: put_words(tile, codes, stride, n / 2, 0); return;
    default: put_words(tile, (const uint8_t *)rows, n * sizeof *rows, n, 0);
    }
}

/* Packs a tile of rows; of weights that are ternary already, their codes. */
static void pack_tile(const packer *own, packing *p, size_t number)
{
    const packings *all = own->all;
    matrix *m = p->m;
    size_t n = round_up(m->columns, K_PAD), first = number * TILE_ROWS, bytes = tile_bytes(m->format, n);
    uint8_t *there = m->data + number * bytes, *tile = all->replaces ? own->next : there;
    if (m->format == INT4) memset(tile + n / 8 * STEP_BYTES, 0, bytes - n / 8 * STEP_BYTES); /* what lies behind multipliers */
    for (size_t r = 0; r < TILE_ROWS; r++) {
        float *row = own->rows + (m->format == FP32 ? r * n : 0);
        uint8_t *codes = own->codes + r * all->stride;
        if (first + r >= m->rows)
            memset(row, 0, n * sizeof *row); /* rows of padding are zeros */
        else if (!take_row(p, n, first + r, row, own->window))
            return;
        if (m->format == TERNARY_DENSE) memset(codes + n, 0, PAD); /* which are read beyond the last */
        if (m->format == TERNARY_BLOCKS)
            round_blocks(own, p, first + r, first + r < m->rows ? row : NULL, codes);
        else if (!is_ternary(p) || p->not_ternary)
            round_row(own, p, first + r, row, codes, tile);
        else if (!all->kernels->ternary_codes((int8_t *)codes, row, n, p->scale))
            p->not_ternary = true; /* of a file that says they are: refused */
    }
    put_tile(own, m->format, tile, own->codes, all->stride, own->rows, n);
    if (!all->replaces) return;
    *own->changed += other_codes(m->format, there, tile, n);
    memcpy(there, tile, bytes);
}

/* Sums of each row's |weights|, from the first on; of eight rows side by side. */
static void measure(double *totals, const float *rows, size_t n)
{
    enum { ROWS = 8 };
    for (size_t first = 0; first < TILE_ROWS; first += ROWS, rows += ROWS * n) {
        double sums[ROWS] = {0};
        for (size_t c = 0; c < n; c++)
            for (size_t r = 0; r < ROWS; r++) sums[r] += fabs((double)rows[r * n + c]);
        memcpy(totals + first, sums, sizeof sums);
    }
}

/* Whether a tile of rows can be packed, and what must be known of all before one is: are they ternary, how large are they. */
static void look_at_tile(const packer *own, packing *p, size_t number)
{
    size_t columns = p->columns, n = round_up(columns, K_PAD), first = number * TILE_ROWS;
    size_t count = p->rows - first < TILE_ROWS ? p->rows - first : TILE_ROWS;
    if (!is_ternary(p)) {
        if (!bitrl_all_finite(p->source.values + first * columns, count * columns)) p->not_finite = true;
        return;
    }
    if (unreadable(p)) return;
    memset(own->rows + count * n, 0, (TILE_ROWS - count) * n * sizeof *own->rows);
    for (size_t r = 0; r < count; r++) {
        float *row = own->rows + r * n;
        if (!take_row(p, n, first + r, row, own->window)) return;
        if (!p->not_ternary && !own->all->kernels->ternary_codes((int8_t *)own->codes, row, n, p->scale)) p->not_ternary = true;
    }
    measure(p->totals + first, own->rows, n);
}

static size_t tiles_of(const packing *p) { return (p->rows + TILE_ROWS - 1) / TILE_ROWS; }

/* Calls work with every tile that no thread has taken. */
static void for_tiles(const packer *own, void (*work)(const packer *own, packing *p, size_t number))
{
    packing *p = own->all->list;
    for (size_t item, before = 0; pool_take(own->all->threads, own->all->tiles, &item);) {
        while (item >= before + tiles_of(p)) before += tiles_of(p++);
        work(own, p, item - before);
    }
}

static void look(const packer *own, packing *p, size_t number)
{
    if (own->all->replaces || p->totals) look_at_tile(own, p, number);
}

static void pack(const packer *own, packing *p, size_t number)
{
    if (unreadable(p)) return;
    if (p->m) pack_tile(own, p, number);
    if (p->copy) {
        size_t first = number * TILE_ROWS, count = p->rows - first < TILE_ROWS ? p->rows - first : TILE_ROWS;
        memcpy(p->copy + first * p->columns, p->source.values + first * p->columns, count * p->columns * sizeof(float));
    }
}

/* What is not ternary is rounded by the mean of its absolute weights (SCIENCE.md section 4). */
static void find_step(packing *p)
{
    double total = 0;
    for (size_t r = 0; r < p->rows; r++) total += p->totals[r];
    double mean = total / ((double)p->rows * (double)p->columns);
    p->step = mean > 1e-5 ? mean : 1e-5;
}

static void pack_together(void *context, size_t thread, size_t threads)
{
    packings *all = context;
    window w = {.bytes = all->read + thread * WINDOW, .room = WINDOW};
    const packer own = {all, all->rows + thread * TILE_ROWS * all->widest,
                        all->scales + thread * TILE_ROWS * (all->widest / SCALE_BLOCK + 1), all->codes + thread * TILE_ROWS * all->stride,
                        all->next + thread * 4 * TILE_ROWS * all->widest, all->bits + thread * all->widest, &all->changed[thread],
                        &w};
    if (all->looks) {
        for_tiles(&own, look);
        pool_barrier(all->threads);
        for (size_t i = thread; i < all->count; i += threads) {
            packing *p = &all->list[i];
            if (refused(p)) all->refused = true;
            if (p->totals && p->not_ternary) find_step(p);
        }
        pool_barrier(all->threads);
        if (all->refused && all->replaces) return;
    }
    for_tiles(&own, pack);
}

size_t bitrl_matrix_bytes(matrix_format format, size_t rows, size_t columns)
{
    return round_up(rows, TILE_ROWS) / TILE_ROWS * tile_bytes(format, round_up(columns, K_PAD));
}

/* What is found out before anything is packed; false when memory is short. */
static bool begin(packing *p, bool replaces)
{
    matrix *m = p->m;
    p->may_round = !p->source.tensor || bitrl_format_of(p->source.tensor->type) != TERNARY;
    if (!m) return true;
    p->rows = m->rows;
    p->columns = m->columns;
    if (rows_scaled(m->format) && !m->row_scale) m->row_scale = bitrl_allocate(round_up(m->rows, TILE_ROWS), sizeof *m->row_scale);
    if (rows_scaled(m->format) && !m->row_scale) return false;
    if (!is_ternary(p)) return true;
    if (p->may_round || replaces) p->totals = bitrl_allocate(round_up(m->rows, TILE_ROWS), sizeof *p->totals);
    return p->totals || !(p->may_round || replaces);
}

/* The first weight of a ternary matrix that is not zero: all have its magnitude, if they are ternary. */
static void find_scale(packing *p, float *row, window *w)
{
    for (size_t r = 0; r < p->rows && p->scale == 0; r++) {
        if (!take_row(p, p->columns, r, row, w)) return;
        for (size_t c = 0; c < p->columns && p->scale == 0; c++) p->scale = fabsf(row[c]);
    }
}

static void pack_all(packings *all, pool *threads)
{
    window w = {.bytes = all->read, .room = WINDOW};
    for (size_t i = 0; i < all->count; i++) {
        packing *p = &all->list[i];
        if (is_ternary(p)) find_scale(p, all->rows, &w);
        all->looks |= p->totals != NULL;
        all->tiles += tiles_of(p);
    }
    all->looks |= all->replaces;
    pool_run(threads, pack_together, all);
    for (size_t i = 0; i < all->count && !all->refused; i++) {
        packing *p = &all->list[i];
        if (p->m) p->m->scale = (is_ternary(p) ? p->not_ternary ? p->step : p->scale : 1) * p->m->file_scale;
    }
}

static pack_result why_refused(const packing *p)
{
    return p->lost ? PACK_LOST : p->not_finite ? PACK_NOT_FINITE : PACK_NOT_TERNARY;
}

pack_result bitrl_pack_all(packing *list, size_t count, const bitrl_kernels *kernels, pool *threads, bool random,
                           bitrl_replaced *replaced, size_t *failed)
{
    packings all = {.list = list, .count = count, .kernels = kernels, .threads = threads, .replaces = replaced != NULL,
                    .random = random};
    size_t each = pool_threads(threads);
    bool ready = true;
    for (size_t i = 0; i < count; i++) {
        ready = begin(&list[i], all.replaces) && ready;
        if (round_up(list[i].columns, K_PAD) > all.widest) all.widest = round_up(list[i].columns, K_PAD);
    }
    all.stride = (2 * all.widest / 64 + 1) * 64;
    all.rows = bitrl_allocate(each * TILE_ROWS * all.widest, sizeof *all.rows);
    all.scales = bitrl_allocate(each * TILE_ROWS * (all.widest / SCALE_BLOCK + 1), sizeof *all.scales);
    all.codes = bitrl_allocate(each * TILE_ROWS, all.stride);
    all.bits = bitrl_allocate(each * all.widest, sizeof *all.bits);
    all.next = bitrl_allocate(each * 4 * TILE_ROWS, all.widest);
    all.changed = bitrl_allocate(each, sizeof *all.changed);
    all.read = bitrl_allocate(each, WINDOW);
    pack_result result = PACK_NO_MEMORY;
    if (ready && all.rows && all.scales && all.codes && all.bits && all.next && all.changed && all.read) {
        result = PACKED;
        pack_all(&all, threads);
        for (*failed = 0; *failed < count && !refused(&list[*failed]);) ++*failed;
        if (*failed < count) result = why_refused(&list[*failed]);
    }
    for (size_t i = 0; i < count && result == PACKED && replaced; i++)
        if (list[i].m) replaced->codes += list[i].rows * list[i].columns;
    for (size_t i = 0; i < each && result == PACKED && replaced; i++) replaced->changed += all.changed[i];
    for (size_t i = 0; i < count; i++) free(list[i].totals);
    free(all.rows);
    free(all.scales);
    free(all.codes);
    free(all.bits);
    free(all.next);
    free(all.changed);
    free(all.read);
    return result;
}

pack_result bitrl_pack(matrix *m, const weight_source *source, const bitrl_kernels *kernels, pool *threads)
{
    packing p = {.m = m, .source = *source};
    size_t failed;
    return bitrl_pack_all(&p, 1, kernels, threads, false, NULL, &failed);
}

bool bitrl_has_block_scales(const weight_source *source, size_t rows, size_t columns, const bitrl_kernels *kernels)
{
    size_t padded = round_up(columns, K_PAD);
    float *row = bitrl_allocate(padded, sizeof *row), first = 0;
    int8_t *codes = bitrl_allocate(padded, 1);
    uint8_t *bytes = bitrl_allocate(WINDOW, 1);
    window w = {.bytes = bytes, .room = WINDOW};
    bool ternary = row && codes && bytes, several = false;
    for (size_t r = 0; r < rows && ternary; r++) {
        ternary = read_row(source, columns, r, row, &w) == ROW_READ;
        for (size_t c = 0, n; c < padded && ternary; c += n) {
            n = padded - c < SCALE_BLOCK ? padded - c : SCALE_BLOCK;
            float scale = (float)largest(row + c, n);
            ternary = kernels->ternary_codes(codes, row + c, n, scale);
            several |= scale > 0 && first > 0 && scale != first; /* a block of zeros has any scale */
            if (first == 0) first = scale;
        }
    }
    free(row);
    free(codes);
    free(bytes);
    return ternary && several;
}
