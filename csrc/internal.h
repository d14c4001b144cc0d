/* What the engine's own files share: the structs behind the public names, and a few helpers. */
#ifndef BITRL_INTERNAL_H
#define BITRL_INTERNAL_H

#include <stdbool.h>

#include "bitrl.h"
#include "kernels.h"

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "bitrl's engine reads GGUF in place and needs a little-endian CPU"
#endif

enum {
    GGML_F32 = 0,
    GGML_F16 = 1,
    GGML_Q4_0 = 2,
    GGML_Q4_1 = 3,
    GGML_Q8_0 = 8,
    GGML_Q6_K = 14,
    GGML_BF16 = 30,
    GGML_TQ1_0 = 34,
    GGML_TQ2_0 = 35,
    GGML_I2_S = 36,
    HF_PACKED = 1000 /* not GGML's: ternary weights as transformers packs them; see read_packed in weights.c */
};
enum { GGUF_UINT32 = 4, GGUF_INT32 = 5, GGUF_FLOAT32 = 6, GGUF_STRING = 8, GGUF_ARRAY = 9, GGUF_UINT64 = 10 };

/* Writes a message and returns `code`, so that a check is one line. */
int bitrl_fail(char *error, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));

const bitrl_key *bitrl_file_find_key(const bitrl_file *file, const char *name);
const bitrl_tensor *bitrl_file_find_tensor(const bitrl_file *file, const char *name);
/* Whether rows of q and k, and norms, are as Hugging Face has them, not as llama.cpp's converter changes them. */
bool bitrl_file_is_hugging_face(const bitrl_file *file);
void bitrl_file_release(const bitrl_tensor *tensor); /* gives its pages back to the system */

/* One type of weights (weights.c): `block` weights lie in `bytes` bytes. */
typedef struct {
    const char *name;
    uint32_t type, block, bytes;
    void (*read)(float *restrict out, const uint8_t *restrict from, size_t n); /* NULL: not row by row */
} weight_type;

const weight_type *bitrl_weight_type(uint32_t type); /* NULL for types that cannot be read */
/* Bytes of n weights in rows of `columns`; 0 when the type is unknown or does not fit them. */
uint64_t bitrl_tensor_bytes(uint32_t type, uint64_t n, uint64_t columns);
bool bitrl_packing_fits(const bitrl_tensor *tensor, bool arm); /* I2_S packings have blocks of their own sizes */
#define BAD_PACKING                                                                                       \
    "has %.*s in I2_S of a size that x86 packing (128 n weights) cannot have: it may have been written on ARM " \
    "(-o backbone.i2s_packing=arm)"
/* Row `row` of [rows, n] -> out: [n]; false when a weight is not finite. */
bool bitrl_read_row(float *restrict out, const bitrl_tensor *tensor, bool arm, uint64_t row);
void *bitrl_allocate(size_t count, size_t size); /* zeroed, 64-byte aligned, NULL on overflow; free() it */

static inline size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

/* A matrix as the kernels read it (kernels.h). Rows and columns are padded to PAD. */
typedef struct {
    matrix_format format;
    size_t rows, columns;
    uint8_t *data;     /* [row tiles, tile_bytes] */
    double scale;      /* of a ternary matrix */
    double *row_scale; /* [P(rows)] of int8 and int4; NULL for the others */
} matrix;

typedef enum { PACKED, PACK_NO_MEMORY, PACK_NOT_FINITE, PACK_NOT_TERNARY } pack_result;

/* Quantises and lays out a tensor [rows, columns] (pack.c); what *m owns must be freed in any case. turned: see there. */
pack_result bitrl_pack(matrix *m, matrix_format format, const bitrl_tensor *tensor, bool arm, size_t turned);
matrix_format bitrl_format_of(uint32_t type); /* the one that a file's type is run in, unless asked otherwise */

typedef struct {
    matrix q, k, v, o, gate, up, down;
    double *attn_norm, *attn_sub_norm, *ffn_norm, *ffn_sub_norm; /* [columns of what follows], zero padded; or NULL */
} block;

typedef enum { RELU2, SILU } activation_function;

/* What a file's architecture says beyond its shape. */
typedef struct {
    const char *name;
    bool sub_norms;       /* a norm before attn_output and ffn_down */
    bool turned;          /* rows of q and k: the two halves of each head's rotation are interleaved */
    bool says_activation; /* else the file must, or the caller */
    activation_function activation;
} architecture;

struct bitrl_model {
    bitrl_shape shape;
    architecture architecture;
    const bitrl_kernels *kernels;
    const bitrl_tensor *embedding; /* [vocabulary, width], in the mapped file */
    bool i2s_arm;
    matrix_format format;
    block *blocks; /* [shape.blocks] */
};

/* One thread's working memory for `tokens` tokens, carved out of one allocation. P(n) is n rounded up to PAD. */
typedef struct {
    void *memory;
    size_t tokens, longest; /* capacity: tokens in a chunk, tokens in its longest text */
    double *x;              /* [tokens, P(width)] residual stream */
    double *q, *k, *v;      /* [tokens, heads * P(head_dim)], k and v with kv_heads */
    double *attended;       /* [tokens, P(width)] */
    int32_t *sums;          /* [tokens, max(P(width) + 2 P(kv width), 2 P(ffn))] results of a product, or floats */
    double *values;         /* [max(P(width) + 2 P(kv width), 2 P(ffn))] one token's, scaled */
    uint8_t *activations;   /* of up to P(max(width, ffn)) columns, see kernels.h */
    double *scale;          /* [tokens] the s of q = round(x * s) */
    int32_t *code_sum;      /* [tokens] sum of a token's codes */
    float *embedded;        /* [P(width)] a row of the embedding */
    double *row, *hidden;   /* [P(max(width, ffn))] one token: normalised, and inside the feed-forward network */
    uint8_t *unpacked;      /* scratch of the products */
    double *attention;      /* scratch of the attention kernel */
} scratch;

/* Runs the model on whole texts. tokens: [sum(lengths)]; rope: [>= longest, head_dim] cosines, then sines.
 * The residual stream after the last block is left in s->x. */
void bitrl_forward(const bitrl_model *model, scratch *s, const double *rope, const int32_t *tokens,
                   const uint64_t *lengths, size_t texts);

/* A pool of threads that run one function together (threads.c). */
typedef struct pool pool;
pool *pool_open(size_t threads); /* NULL when threads cannot be made */
void pool_close(pool *p);
/* Calls work(context, i) for every i below the number of threads, each on its own thread; returns when all are done. */
void pool_run(pool *p, void (*work)(void *context, size_t i), void *context);

#endif
