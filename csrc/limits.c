/* What this machine can do at most, for benchmarks: multiply-adds a second of each kind, and bytes read from memory.
 *
 * A limit is one tight loop of the best instructions there are for it, with nothing to load and nothing to store, run
 * by some threads at once for a given time. Reading goes through a buffer that should be far larger than the caches.
 * Machines drift: whoever compares with a limit measures it again beside every result. Knows nothing of models. */
#define _GNU_SOURCE
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "internal.h"
#include "machine_limits.h"

enum { REPEATS = 2000, SUMS = 12, READ_BYTES = 1 << 20 };

/* Does a short piece of work (microseconds) and returns how much it was: multiply-adds, or bytes. Results that nobody
 * needs go to *sink, so that the work is done. */
typedef uint64_t piece(const uint8_t *from, volatile uint64_t *sink);

typedef struct {
    uint64_t at; /* where reading goes on, from the start of the thread's share of the buffer */
    double rate; /* of the last measurement */
    volatile uint64_t sink;
    char apart[40]; /* from the next thread's cache line */
} lane;

struct bitrl_limits {
    uint64_t threads, bytes;
    uint8_t *buffer; /* [bytes] */
    lane *lanes;     /* [threads] */
    piece *work;     /* of the measurement that is running */
    double seconds;
};

/* The compiler must not know a value: else it does the same multiplication once instead of REPEATS times. */
#define HIDE(constraint, value) __asm__ volatile("" : "+" constraint(value))
#define EACH_SUM _Pragma("GCC unroll 12") for (size_t t = 0; t < SUMS; t++)

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* ---- reading ---- */

/* Four places at once: more lines are on their way than when one place is read. */
static uint64_t read_memory(const uint8_t *from, volatile uint64_t *sink)
{
    enum { QUARTER = READ_BYTES / 4 };
    uint64_t sums[4] = {0};
    for (size_t i = 0; i < QUARTER; i += 64)
        for (size_t place = 0; place < 4; place++)
            for (size_t j = 0; j < 64; j += sizeof sums) {
                uint64_t part[4];
                memcpy(part, from + place * QUARTER + i + j, sizeof part);
                for (size_t k = 0; k < 4; k++) sums[k] ^= part[k];
            }
    for (size_t k = 0; k < 4; k++) *sink ^= sums[k];
    return READ_BYTES;
}

/* ---- multiply-adds in plain C, which the compiler may vectorise for the least CPU of its kind ---- */

static uint64_t int8_plain(const uint8_t *from, volatile uint64_t *sink)
{
    int8_t a[256], b[256];
    int32_t sum = 0;
    (void)from;
    memset(a, 3, sizeof a);
    memset(b, 1, sizeof b);
    for (size_t r = 0; r < REPEATS; r++) {
        int8_t *hidden = a;
        HIDE("r", hidden);
        __asm__ volatile("" ::: "memory");
        for (size_t i = 0; i < sizeof a; i++) sum += hidden[i] * b[i];
    }
    *sink += (uint64_t)sum;
    return (uint64_t)REPEATS * sizeof a;
}

static uint64_t fp32_plain(const uint8_t *from, volatile uint64_t *sink)
{
    float sums[64] = {0}, a[64];
    (void)from;
    for (size_t i = 0; i < 64; i++) a[i] = 1;
    for (size_t r = 0; r < REPEATS; r++) {
        __asm__ volatile("" ::"r"(a) : "memory");
        for (size_t i = 0; i < 64; i++) sums[i] += a[i] * 0.5f;
    }
    *sink += (uint64_t)sums[0];
    return (uint64_t)REPEATS * 64;
}

#if defined(__x86_64__)
#include <immintrin.h>

__attribute__((target("avx512f,avx512vnni"))) static uint64_t int8_avx512(const uint8_t *from, volatile uint64_t *sink)
{
    __m512i a = _mm512_set1_epi32(0x01020301), b = _mm512_set1_epi32(0x01010101), sums[SUMS];
    (void)from;
    EACH_SUM sums[t] = _mm512_set1_epi32((int)t);
    for (size_t r = 0; r < REPEATS; r++) {
        HIDE("v", a);
        EACH_SUM sums[t] = _mm512_dpbusd_epi32(sums[t], a, b);
    }
    EACH_SUM *sink += (uint64_t)_mm512_reduce_add_epi32(sums[t]);
    return (uint64_t)REPEATS * SUMS * 64;
}

/* Sums in 16 bits, as ternary weights allow: the least that a product without VNNI can do. */
__attribute__((target("avx2"))) static uint64_t int8_avx2(const uint8_t *from, volatile uint64_t *sink)
{
    __m256i a = _mm256_set1_epi32(0x01020301), b = _mm256_set1_epi32(0x01010101), sums[SUMS];
    (void)from;
    EACH_SUM sums[t] = _mm256_set1_epi16((short)t);
    for (size_t r = 0; r < REPEATS; r++) {
        EACH_SUM
        {
            HIDE("x", a);
            sums[t] = _mm256_add_epi16(sums[t], _mm256_maddubs_epi16(a, b));
        }
    }
    EACH_SUM *sink += (uint64_t)_mm256_extract_epi16(sums[t], 0);
    return (uint64_t)REPEATS * SUMS * 32;
}

__attribute__((target("avx512f,avx512bf16"))) static uint64_t bf16_avx512(const uint8_t *from, volatile uint64_t *sink)
{
    __m512i a = _mm512_set1_epi32(0x3f803f80), b = _mm512_set1_epi32(0x3f003f00); /* ones and halves */
    __m512 sums[SUMS];
    (void)from;
    EACH_SUM sums[t] = _mm512_set1_ps((float)t);
    for (size_t r = 0; r < REPEATS; r++) {
        HIDE("v", a);
        EACH_SUM sums[t] = _mm512_dpbf16_ps(sums[t], (__m512bh)a, (__m512bh)b);
    }
    EACH_SUM *sink += (uint64_t)_mm512_reduce_add_ps(sums[t]);
    return (uint64_t)REPEATS * SUMS * 32;
}

__attribute__((target("avx512f"))) static uint64_t fp32_avx512(const uint8_t *from, volatile uint64_t *sink)
{
    __m512 a = _mm512_set1_ps(1), b = _mm512_set1_ps(0.5f), sums[SUMS];
    (void)from;
    EACH_SUM sums[t] = _mm512_set1_ps((float)t);
    for (size_t r = 0; r < REPEATS; r++) {
        HIDE("v", a);
        EACH_SUM sums[t] = _mm512_fmadd_ps(a, b, sums[t]);
    }
    EACH_SUM *sink += (uint64_t)_mm512_reduce_add_ps(sums[t]);
    return (uint64_t)REPEATS * SUMS * 16;
}

__attribute__((target("avx2,fma"))) static uint64_t fp32_avx2(const uint8_t *from, volatile uint64_t *sink)
{
    __m256 a = _mm256_set1_ps(1), b = _mm256_set1_ps(0.5f), sums[SUMS];
    (void)from;
    EACH_SUM sums[t] = _mm256_set1_ps((float)t);
    for (size_t r = 0; r < REPEATS; r++) {
        HIDE("x", a);
        EACH_SUM sums[t] = _mm256_fmadd_ps(a, b, sums[t]);
    }
    EACH_SUM *sink += (uint64_t)_mm256_cvtss_f32(sums[t]);
    return (uint64_t)REPEATS * SUMS * 8;
}

/* Whether vdpbf16ps does more than bf16 as floats: on AMD's processors twice as much, on Intel's with AMX half. */
static bool pairs_are_faster(void)
{
    volatile uint64_t sink = 0;
    double least[2] = {INFINITY, INFINITY}; /* seconds a multiply-add, undisturbed */
    for (int i = 0; i < 10; i++) {
        const double began = now();
        const uint64_t done = (i % 2 ? bf16_avx512 : fp32_avx512)(NULL, &sink);
        const double each = (now() - began) / (double)done;
        if (each < least[i % 2]) least[i % 2] = each;
    }
    return least[1] < least[0];
}

/* Four tiles of 16 x 16 sums, each fed by 16 x 64 bytes of one side and 64 x 16 of the other. */
#define AMX_LOOP(name, instruction, value, bytes_each)                                                                 \
    __attribute__((target("amx-tile,amx-int8,amx-bf16"))) static uint64_t name(const uint8_t *from,                    \
                                                                               volatile uint64_t *sink)                \
    {                                                                                                                  \
        struct {                                                                                                       \
            uint8_t palette, start_row, reserved[14];                                                                  \
            uint16_t row_bytes[16];                                                                                    \
            uint8_t rows[16];                                                                                          \
        } shape = {.palette = 1};                                                                                      \
        uint8_t side[16 * 64];                                                                                         \
        int32_t sums[16 * 16];                                                                                         \
        (void)from;                                                                                                    \
        for (size_t i = 0; i < 8; i++) {                                                                               \
            shape.row_bytes[i] = 64;                                                                                   \
            shape.rows[i] = 16;                                                                                        \
        }                                                                                                              \
        memset(side, value, sizeof side);                                                                              \
        _tile_loadconfig(&shape);                                                                                      \
        _tile_zero(0);                                                                                                 \
        _tile_zero(1);                                                                                                 \
        _tile_zero(2);                                                                                                 \
        _tile_zero(3);                                                                                                 \
        _tile_loadd(4, side, 64);                                                                                      \
        _tile_loadd(5, side, 64);                                                                                      \
        _tile_loadd(6, side, 64);                                                                                      \
        _tile_loadd(7, side, 64);                                                                                      \
        for (size_t r = 0; r < REPEATS; r++) {                                                                         \
            instruction(0, 4, 6);                                                                                      \
            instruction(1, 4, 7);                                                                                      \
            instruction(2, 5, 6);                                                                                      \
            instruction(3, 5, 7);                                                                                      \
        }                                                                                                              \
        _tile_stored(0, sums, 64);                                                                                     \
        _tile_release();                                                                                               \
        *sink += (uint64_t)sums[0];                                                                                    \
        return (uint64_t)REPEATS * 4 * 16 * 16 * (64 / bytes_each);                                                    \
    }

AMX_LOOP(int8_amx, _tile_dpbsud, 1, 1)
AMX_LOOP(bf16_amx, _tile_dpbf16ps, 0x3f, 2) /* 0x3f3f is 0.746 */

#elif defined(__aarch64__)
#include <arm_neon.h>

/* Clang's older releases cannot build one function for a newer CPU. */
#if !defined(__clang__) || defined(__ARM_FEATURE_DOTPROD)
#define HAVE_DOT
#if !defined(__clang__)
__attribute__((target("arch=armv8.2-a+dotprod")))
#endif
static uint64_t int8_dot(const uint8_t *from, volatile uint64_t *sink)
{
    int8x16_t a = vdupq_n_s8(3), b = vdupq_n_s8(1);
    int32x4_t sums[SUMS];
    (void)from;
    EACH_SUM sums[t] = vdupq_n_s32((int)t);
    for (size_t r = 0; r < REPEATS; r++) {
        HIDE("w", a);
        EACH_SUM sums[t] = vdotq_s32(sums[t], a, b);
    }
    EACH_SUM *sink += (uint64_t)vaddvq_s32(sums[t]);
    return (uint64_t)REPEATS * SUMS * 16;
}
#endif

/* Sums in 16 bits, as ternary weights allow. */
static uint64_t int8_neon(const uint8_t *from, volatile uint64_t *sink)
{
    int8x8_t a = vdup_n_s8(3), b = vdup_n_s8(1);
    int16x8_t sums[SUMS];
    (void)from;
    EACH_SUM sums[t] = vdupq_n_s16((short)t);
    for (size_t r = 0; r < REPEATS; r++) {
        HIDE("w", a);
        EACH_SUM sums[t] = vmlal_s8(sums[t], a, b);
    }
    EACH_SUM *sink += (uint64_t)vaddvq_s16(sums[t]);
    return (uint64_t)REPEATS * SUMS * 8;
}

static uint64_t fp32_neon(const uint8_t *from, volatile uint64_t *sink)
{
    float32x4_t a = vdupq_n_f32(1), b = vdupq_n_f32(0.5f), sums[SUMS];
    (void)from;
    EACH_SUM sums[t] = vdupq_n_f32((float)t);
    for (size_t r = 0; r < REPEATS; r++) {
        HIDE("w", a);
        EACH_SUM sums[t] = vfmaq_f32(sums[t], a, b);
    }
    EACH_SUM *sink += (uint64_t)vaddvq_f32(sums[t]);
    return (uint64_t)REPEATS * SUMS * 4;
}

#endif

/* ---- which loop measures what ---- */

/* The best loop for a limit, and the instructions in it; NULL when this CPU has none. */
static piece *find(const char *what, const char **how)
{
#define IS(name) (strcmp(what, name) == 0)
#define USE(instructions, work) return *how = instructions, work
    *how = NULL;
    if (IS("memory")) USE("sequential reads", read_memory);
#if defined(__x86_64__)
    if (IS("amx_int8") && bitrl_cpu_has_amx()) USE("tdpbsud", int8_amx);
    if (IS("amx_bf16") && bitrl_cpu_has_amx()) USE("tdpbf16ps", bf16_amx);
    if (IS("int8") && __builtin_cpu_supports("avx512vnni")) USE("vpdpbusd, 512 bits", int8_avx512);
    if (IS("int8") && __builtin_cpu_supports("avx2")) USE("vpmaddubsw and vpaddw, 256 bits", int8_avx2);
    if (IS("bf16") && __builtin_cpu_supports("avx512bf16") && pairs_are_faster()) USE("vdpbf16ps, 512 bits", bf16_avx512);
    if ((IS("fp32") || IS("bf16")) && __builtin_cpu_supports("avx512f"))
        USE("vfmadd231ps, 512 bits", fp32_avx512);
    if ((IS("fp32") || IS("bf16")) && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        USE("vfmadd231ps, 256 bits", fp32_avx2);
#elif defined(__aarch64__)
#if defined(HAVE_DOT)
    if (IS("int8") && bitrl_cpu_has_dot_products()) USE("sdot", int8_dot);
#endif
    if (IS("int8")) USE("smlal", int8_neon);
    if (IS("fp32") || IS("bf16")) USE("fmla", fp32_neon);
#endif
    if (IS("int8")) USE("plain C", int8_plain);
    if (IS("fp32") || IS("bf16")) USE("plain C", fp32_plain);
    return NULL;
}

const char *bitrl_limit_instructions(const char *what)
{
    const char *how;
    find(what, &how);
    return how;
}

/* ---- measuring ---- */

static void run_lane(void *context, size_t i, size_t count)
{
    bitrl_limits *limits = context;
    lane *own = &limits->lanes[i];
    uint64_t share = limits->bytes / count / READ_BYTES * READ_BYTES, done = 0;
    const double began = now();
    double elapsed;
    do {
        if (own->at >= share) own->at = 0;
        done += limits->work(limits->buffer + i * share + own->at, &own->sink);
        own->at += READ_BYTES;
    } while ((elapsed = now() - began) < limits->seconds);
    own->rate = (double)done / elapsed;
}

/* Writes a share of the buffer: pages that were never written are all one page of zeros. */
static void touch(void *context, size_t i, size_t count)
{
    const bitrl_limits *limits = context;
    const uint64_t share = limits->bytes / count;
    memset(limits->buffer + i * share, 1, i + 1 < count ? share : limits->bytes - i * share);
}

/* With a pool of its own: waiting threads of a larger one would spin beside the work. */
static int run(bitrl_limits *limits, void (*work)(void *, size_t, size_t), uint64_t threads, char *error)
{
    pool *p = pool_open(threads);
    if (!p) return bitrl_fail(error, BITRL_NO_MEMORY, "no threads to measure limits with");
    pool_run(p, work, limits);
    pool_close(p);
    return BITRL_OK;
}

int bitrl_limits_measure(bitrl_limits *limits, const char *what, uint64_t threads, double seconds, double *per_second,
                         char *error)
{
    const char *how;
    limits->work = find(what, &how);
    limits->seconds = seconds;
    *per_second = 0;
    if (!limits->work) return bitrl_fail(error, BITRL_BAD_ARGUMENT, "this CPU has no limit called %.40s", what);
    if (threads < 1 || threads > limits->threads || !(seconds > 0 && seconds < 3600))
        return bitrl_fail(error, BITRL_BAD_ARGUMENT, "limits are measured with 1 to %llu threads for a time",
                          (unsigned long long)limits->threads);
    int status = run(limits, run_lane, threads, error);
    for (uint64_t i = 0; !status && i < threads; i++) *per_second += limits->lanes[i].rate;
    return status;
}

int bitrl_limits_open(uint64_t threads, uint64_t bytes, bitrl_limits **out, char *error)
{
    *out = NULL;
    if (threads < 1 || threads > 1024 || bytes / READ_BYTES < threads || bytes > UINT64_MAX >> 8)
        return bitrl_fail(error, BITRL_BAD_ARGUMENT, "limits need 1 to 1024 threads and a megabyte for each");
    bitrl_limits *limits = calloc(1, sizeof *limits);
    if (!limits) return bitrl_fail(error, BITRL_NO_MEMORY, "no memory to measure limits with");
    limits->threads = threads;
    limits->lanes = calloc(threads, sizeof *limits->lanes);
    void *buffer = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (buffer != MAP_FAILED) {
        limits->buffer = buffer;
        limits->bytes = bytes;
    }
    int status = BITRL_OK;
    if (!limits->lanes || !limits->buffer)
        status = bitrl_fail(error, BITRL_NO_MEMORY, "no memory to measure limits with");
#if defined(MADV_HUGEPAGE)
    if (!status) madvise(buffer, bytes, MADV_HUGEPAGE);
#endif
    if (!status) status = run(limits, touch, threads, error);
    if (status)
        bitrl_limits_close(limits);
    else
        *out = limits;
    return status;
}

void bitrl_limits_close(bitrl_limits *limits)
{
    if (!limits) return;
    if (limits->buffer) munmap(limits->buffer, limits->bytes);
    free(limits->lanes);
    free(limits);
}
