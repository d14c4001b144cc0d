/* Products of bytes and of bf16 with AMX: tiles of 16 tokens by 64 bytes of columns times those by 16 rows, two of each at
 * a time.
 *
 * A tile of weights in steps (kernels.h) is what the unit wants as it lies, pairs of bf16 too: to what follows, a column of
 * these is two columns of bytes, and a sum a word. */
#include "kernels.h"

#if defined(__x86_64__)
#include <string.h>

#include "kernels_avx512.h"

#define TARGET_AMX \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx512bf16,amx-tile,amx-int8," \
                          "amx-bf16")))

/* A block is of 320 columns: half of what AVX-512 takes, since the activations of 32 tokens go through the cache beside it;
 * of bf16, which takes no time to unpack, more, so that sums go to memory less often. */
enum { TOKENS = 16, K = 64, TILE_BYTES = 1024, BLOCK = 320, BF16_BLOCK = 512 };

/* What LDTILECFG reads: eight tiles of 16 rows of 64 bytes. */
typedef struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} tile_configuration;

/* One or two tiles of tokens by one or two of rows: their sums are in tiles 0 to 3, [tokens][rows]. */
typedef struct {
    const int two_tokens, two_rows;
} extent;

#define INLINED TARGET_AMX static inline __attribute__((always_inline))

/* Sums in tile `to` += tokens * rows. A macro, since numbers of tiles are part of an instruction. */
#define MULTIPLY(halves, to, tokens, rows)                                                                             \
    do {                                                                                                               \
        if (halves)                                                                                                    \
            _tile_dpbf16ps(to, tokens, rows);                                                                          \
        else                                                                                                           \
            _tile_dpbsud(to, tokens, rows);                                                                            \
    } while (0)

INLINED void load_sums(const int32_t *from, size_t stride, size_t second_rows, const extent e)
{
    _tile_loadd(0, from, 4 * stride);
    if (e.two_rows) _tile_loadd(1, from + second_rows, 4 * stride);
    if (e.two_tokens) _tile_loadd(2, from + TOKENS * stride, 4 * stride);
    if (e.two_tokens && e.two_rows) _tile_loadd(3, from + TOKENS * stride + second_rows, 4 * stride);
}

INLINED void store_sums(int32_t *y, size_t stride, const extent e)
{
    _tile_stored(0, y, 4 * stride);
    if (e.two_rows) _tile_stored(1, y + TILE_ROWS, 4 * stride);
    if (e.two_tokens) _tile_stored(2, y + TOKENS * stride, 4 * stride);
    if (e.two_tokens && e.two_rows) _tile_stored(3, y + TOKENS * stride + TILE_ROWS, 4 * stride);
}

/* A block of `count` columns from `from` on, of two packed tiles of `columns`, and where it is unpacked to. */
typedef struct {
    const uint8_t *tiles[2];
    uint8_t *to[2];
    size_t columns, from, count;
} packed_block;

/* Unpacks about as many columns as one step of tiles takes; returns how many are unpacked then. */
INLINED size_t unpack_some(unpacker *unpack, const packed_block *p, size_t done, size_t step, const extent e)
{
    if (done >= p->count) return done;
    size_t n = p->count - done < step ? p->count - done : step;
    unpack(p->to[0] + done * TILE_ROWS, p->tiles[0], p->columns, p->from + done, n);
    if (e.two_rows) unpack(p->to[1] + done * TILE_ROWS, p->tiles[1], p->columns, p->from + done, n);
    return done + n;
}

/* Adds a block of columns. a, b: its tiles of weights in steps, which are unpacked just ahead of their use when `fresh`: the
 * units of vectors and of tiles work side by side. ahead: weights to fetch meanwhile. */
INLINED void add_block(const int halves, unpacker *unpack, const packed_block *p, const int fresh, size_t step,
                       const uint8_t *a, const uint8_t *b, const uint8_t *q, size_t q_stride,
                       const uint8_t *const ahead[2], size_t ahead_lines, const extent e)
{
    const uint8_t *second = q + TOKENS * q_stride;
    size_t done = fresh ? unpack_some(unpack, p, 0, step, e) : 0;
    for (size_t c = 0, line = 0; c < p->count; c += K, a += TILE_BYTES, b += TILE_BYTES, q += K, second += K) {
        for (size_t upto = line + ahead_lines; line < upto; line++) {
            _mm_prefetch((const char *)ahead[0] + 64 * line, _MM_HINT_T0);
            _mm_prefetch((const char *)ahead[1] + 64 * line, _MM_HINT_T0);
        }
        if (fresh) done = unpack_some(unpack, p, done, step, e);
        _tile_loadd(6, a, 64);
        _tile_loadd(4, q, q_stride);
        MULTIPLY(halves, 0, 4, 6);
        if (e.two_rows) {
            _tile_loadd(7, b, 64);
            MULTIPLY(halves, 1, 4, 7);
        }
        if (e.two_tokens) {
            _tile_loadd(5, second, q_stride);
            MULTIPLY(halves, 2, 5, 6);
            if (e.two_rows) MULTIPLY(halves, 3, 5, 7);
        }
    }
}

/* Two tiles of rows, or one, for all tokens. start: [tokens, 16] what sums start from; sums: [tokens, 32] those of all blocks
 * but the last: y's rows lie far apart. */
INLINED void rows_product(matrix_format format, unpacker *unpack, int32_t *restrict y, size_t y_stride, const uint8_t *a,
                          const uint8_t *b, size_t columns, const uint8_t *restrict q, size_t q_stride,
                          const int32_t *start, int32_t *sums, size_t tokens, uint8_t *restrict unpacked,
                          const int two_rows, const int few, const int two_tokens)
{
    const extent whole = {two_tokens, two_rows}; /* of a few tokens, whose sums stay in their tiles */
    const int halves = multiplies_halves(format); /* whose columns are bytes here */
    const size_t most = unpack ? BLOCK : halves ? BF16_BLOCK : BLOCK;
    size_t packed = tile_bytes(format, halves ? columns / 2 : columns) / (columns / 4), step = format == TERNARY_DENSE ? 80 : K;
    size_t lines = unpack ? (packed * K / 4 + 63) / 64 : 0; /* those of bytes are read in a row, which the CPU foresees */
    packed_block p = {.tiles = {a, b}, .to = {unpacked, unpacked + 2 * BLOCK_BYTES}, .columns = columns};
    if (few) load_sums(start, 16, 0, whole);
    for (; p.from < columns; p.from += p.count) {
        p.count = columns - p.from < most ? columns - p.from : most;
        const uint8_t *rows = unpack ? p.to[0] : a + p.from * TILE_ROWS, *more = unpack ? p.to[1] : b + p.from * TILE_ROWS;
        const uint8_t *const ahead[2] = {a + (p.from + p.count) / 4 * packed, b + (p.from + p.count) / 4 * packed};
        if (few) {
            add_block(halves, unpack, &p, unpack != NULL, step, rows, more, q + p.from, q_stride, ahead, lines, whole);
            continue;
        }
        const int last = p.from + p.count == columns;
        size_t to_stride = last ? y_stride : 32, from_stride = p.from ? 32 : 16, second_rows = p.from ? TILE_ROWS : 0;
        for (size_t t = 0; t < tokens; t += 2 * TOKENS) {
            int32_t *to = last ? y + t * y_stride : sums + 32 * t;
            const int32_t *begun = p.from ? sums + 32 * t : start + 16 * t;
#define TOKENS_PRODUCT(two, fresh, fetched)                                                                              \
    do {                                                                                                                 \
        const extent e = {two, two_rows};                                                                                \
        load_sums(begun, from_stride, second_rows, e);                                                                   \
        add_block(halves, unpack, &p, fresh, step, rows, more, q + t * q_stride + p.from, q_stride, ahead, fetched, e);  \
        store_sums(to, to_stride, e);                                                                                    \
    } while (0)
            if (t == 0 && tokens > TOKENS)
                TOKENS_PRODUCT(1, unpack != NULL, 0);
            else if (t == 0)
                TOKENS_PRODUCT(0, unpack != NULL, lines);
            else if (t + TOKENS < tokens)
                TOKENS_PRODUCT(1, 0, t + 2 * TOKENS < tokens ? 0 : lines);
            else
                TOKENS_PRODUCT(0, 0, lines);
        }
    }
    if (few) store_sums(y, y_stride, whole);
}

INLINED void product(matrix_format format, unpacker *unpack, int32_t offset, size_t least, int32_t *restrict y,
                     size_t y_stride, const uint8_t *weights, size_t tiles, size_t columns, const uint8_t *restrict q,
                     size_t q_stride, const int32_t *restrict q_sum, size_t tokens, uint8_t *restrict unpacked)
{
    if (tokens < least) {
        bitrl_kernels_avx512bf16.product[format](y, y_stride, weights, tiles, columns, q, q_stride, q_sum, tokens, unpacked);
        return;
    }
    tile_configuration configuration = {.palette = 1};
    for (int i = 0; i < 8; i++) configuration.row_bytes[i] = 64, configuration.rows[i] = 16;
    _tile_loadconfig(&configuration);

    size_t bytes = tile_bytes(format, columns);
    if (multiplies_halves(format)) columns *= 2; /* of bytes */
    int32_t *start = (int32_t *)(void *)(unpacked + 4 * BLOCK_BYTES), *sums = start + 16 * ((tokens + TOKENS - 1) / TOKENS * TOKENS);
    for (size_t t = 0; t < (tokens + TOKENS - 1) / TOKENS * TOKENS; t++)
        _mm512_store_si512(start + 16 * t, _mm512_set1_epi32(t < tokens ? -offset * q_sum[t] : 0));
    for (size_t tile = 0; tile < tiles; tile += 2, weights += 2 * bytes, y += 2 * TILE_ROWS) {
#define ROWS(two_rows, few, two_tokens)                                                                             \
    rows_product(format, unpack, y, y_stride, weights, weights + (two_rows) * bytes, columns, q, q_stride, start, \
                 sums, tokens, unpacked, two_rows, few, two_tokens)
        if (tile + 1 == tiles)
            ROWS(0, 0, 0);
        else if (tokens > 2 * TOKENS)
            ROWS(1, 0, 0);
        else if (tokens > TOKENS)
            ROWS(1, 1, 1);
        else
            ROWS(1, 1, 0);
    }
    _tile_release();
}

#define PRODUCT(name, format, unpack, offset, least)                                                                  \
    TARGET_AMX void name(void *restrict y, size_t y_stride, const uint8_t *restrict weights, size_t tiles,            \
                         size_t columns, const uint8_t *restrict q, size_t q_stride, const int32_t *restrict q_sum,   \
                         size_t tokens, uint8_t *restrict unpacked)                                                   \
    {                                                                                                                 \
        product(format, unpack, offset, least, y, y_stride, weights, tiles, columns, q, q_stride, q_sum, tokens,      \
                unpacked);                                                                                            \
    }

/* The last: fewer tokens than that are better off with AVX-512. */
PRODUCT(bitrl_amx_ternary, TERNARY, unpack_ternary, 1, 7)
PRODUCT(bitrl_amx_dense, TERNARY_DENSE, unpack_dense, 1, 7)
PRODUCT(bitrl_amx_int8, INT8, NULL, 128, 7)
PRODUCT(bitrl_amx_int4, INT4, unpack_int4, 128, 7)
PRODUCT(bitrl_amx_fp8, FP8, unpack_fp8, 0, 7)
PRODUCT(bitrl_amx_bf16, BF16, NULL, 0, 1)
#endif
