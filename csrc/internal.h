/* What the engine's own files share: the structs behind the public names, and a few helpers. */
#ifndef BITRL_INTERNAL_H
#define BITRL_INTERNAL_H

#include <stdatomic.h>
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
    GGML_Q5_0 = 6,
    GGML_Q5_1 = 7,
    GGML_Q8_0 = 8,
    GGML_Q2_K = 10,
    GGML_Q3_K = 11,
    GGML_Q4_K = 12,
    GGML_Q5_K = 13,
    GGML_Q6_K = 14,
    GGML_IQ4_NL = 20,
    GGML_BF16 = 30,
    GGML_TQ1_0 = 34,
    GGML_TQ2_0 = 35,
    GGML_I2_S = 36,
    GGML_Q1_0 = 41,
    GGML_Q2_0 = 42,
    OWN_TYPES = 1000, /* which no file can have */
    Q2_0_LONG = 1042, /* Q2_0 in blocks of 128, as the fork wrote it that published Bonsai; see find_long_blocks in gguf.c */
    HF_PACKED = 1000 /* not GGML's: ternary weights as transformers packs them; see read_packed in weights.c */
};
enum { GGUF_UINT32 = 4, GGUF_INT32 = 5, GGUF_FLOAT32 = 6, GGUF_BOOL = 7, GGUF_STRING = 8, GGUF_ARRAY = 9, GGUF_UINT64 = 10 };

/* Writes a message and returns `code`, so that a check is one line. */
int bitrl_fail(char *error, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));

const bitrl_key *bitrl_file_find_key(const bitrl_file *file, const char *name);
const bitrl_tensor *bitrl_file_find_tensor(const bitrl_file *file, const char *name);
/* Put together from Hugging Face's files: heads of q and k are not interleaved, gemma's norms lack their 1. */
bool bitrl_file_is_hugging_face(const bitrl_file *file);

/* One type of weights (weights.c): `block` weights lie in `bytes` bytes. */
typedef struct {
    const char *name;
    uint32_t type, block, bytes;
    void (*read)(float *restrict out, const uint8_t *restrict from, size_t n); /* NULL: not row by row */
} weight_type;

const weight_type *bitrl_weight_type(uint32_t type); /* NULL for types that cannot be read */
const char *bitrl_any_type_name(uint32_t type);      /* NULL for types that GGML does not have */
/* Bytes of n weights in rows of `columns`; 0 when the type is unknown or does not fit them. */
uint64_t bitrl_tensor_bytes(uint32_t type, uint64_t n, uint64_t columns);
bool bitrl_packing_fits(const bitrl_tensor *tensor, bool arm); /* I2_S packings have blocks of their own sizes */
#define BAD_PACKING                                                                                       \
    "has %.*s in I2_S of a size that x86 packing (128 n weights) cannot have: it may have been written on ARM " \
    "(-o backbone.i2s_packing=arm)"
bool bitrl_all_finite(const float *values, size_t n);
/* A file is read by pread(), never mapped: another process may truncate it at any time, and a disk may fail. Touching a
 * mapping would then kill this process (SIGBUS); here it is a result. */
typedef enum { ROW_READ, ROW_NOT_FINITE, ROW_LOST } row_result;
#define LOST "cannot be read any more: it lost its end, or its disk fails; start again"
/* n bytes of a file from byte `at` on; false when they cannot be read. */
bool bitrl_read_file(int descriptor, uint64_t at, uint8_t *to, size_t n);
/* The same of a tensor's bytes, which may be in memory. */
bool bitrl_copy_bytes(const bitrl_tensor *tensor, uint64_t at, uint8_t *to, size_t n);
enum { WINDOW = 1 << 17, SMALL_WINDOW = 1 << 14 };
/* What of a tensor's bytes was read last, so that rows one after another are one call of the system. */
typedef struct {
    uint8_t *bytes; /* [room], the caller's */
    size_t room;    /* WINDOW, or less */
    const bitrl_tensor *of;
    uint64_t first, held; /* of which bytes */
    float i2s_scale;      /* of I2_S weights, which lies behind them all */
} window;
/* Row `row` of [rows, n] -> out: [n], which may be anything unless it is ROW_READ. */
row_result bitrl_read_row(float *restrict out, const bitrl_tensor *tensor, bool arm, uint64_t row, window *w);
void *bitrl_allocate(size_t count, size_t size); /* zeroed, 64-byte aligned, NULL on overflow; free() it */

static inline size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

typedef struct adapter adapter;

/* A matrix as the kernels read it (kernels.h). Rows are padded to PAD, columns to K_PAD. */
typedef struct {
    matrix_format format;
    size_t rows, columns;
    uint8_t *data;     /* [row tiles, tile_bytes], 64-byte aligned, not its own */
    double scale;      /* of the whole matrix, file_scale included */
    double file_scale; /* of a block's matrix: what a tensor of its own in the file multiplies its weights by; else 1 */
    double *row_scale; /* [P(rows)] of int8, int4 and fp8; NULL for the others */
    double *norm;      /* [P(columns)] weight of the RMSNorm on what enters; NULL: none of its own */
    adapter *adapter;  /* or NULL */
    bool float_input;  /* an adapter, its own or of a matrix with the same input, wants that input as floats too */
    bool own_data;     /* of TERNARY_BLOCKS: data are its own */
} matrix;

/* What is added to a matrix's product: up (down x) in float32, of the input x before it is quantised. */
struct adapter {
    matrix down, up; /* FP32: [rank, columns], [rows, rank] */
    uint8_t *memory; /* of both */
};

typedef enum { PACKED, PACK_NO_MEMORY, PACK_NOT_FINITE, PACK_NOT_TERNARY, PACK_LOST } pack_result;

/* Where a matrix comes from: a tensor of a file, or floats [rows, columns]. */
typedef struct {
    const bitrl_tensor *tensor; /* or NULL */
    bool arm;                   /* of I2_S, see bitrl_options */
    const float *values;
    size_t turned; /* rows of a head whose rotation is interleaved; 0: it is not */
} weight_source;

typedef struct pool pool;

/* A matrix to pack whose format, rows, columns, file_scale and data are set, and what it is packed from. What is not said to be
 * set is zero at first. */
typedef struct {
    matrix *m;             /* set; NULL: there is nothing but a copy */
    weight_source source;  /* set */
    float *copy;           /* [rows, columns] that takes the values as they are; or NULL */
    size_t rows, columns;  /* set if there is no matrix */
    uint64_t key;          /* of its random bits */
    bool may_round;        /* weights need not be ternary to become so */
    float scale;           /* the one of weights that are ternary already */
    double step;           /* and of those that are not */
    double *totals;        /* [P(rows)] sum of a row's |weights|, if that is wanted */
    atomic_bool not_finite, not_ternary, lost; /* lost: a row cannot be read */
} packing;

size_t bitrl_matrix_bytes(matrix_format format, size_t rows, size_t columns);
/* Quantises and lays out matrices (pack.c), each once; all threads of the pool share the work. What matrices own must be freed
 * in any case. random: rounds by random bits. replaced: NULL, or there are weights already: then their codes and those that are
 * others now are added to it, and nothing changes unless the result is PACKED. *failed: where it is not, which of the list. */
pack_result bitrl_pack_all(packing *list, size_t count, const bitrl_kernels *kernels, pool *threads, bool random,
                           bitrl_replaced *replaced, size_t *failed);
/* One matrix. */
pack_result bitrl_pack(matrix *m, const weight_source *source, const bitrl_kernels *kernels, pool *threads);
uint64_t bitrl_random_key(uint64_t seed, const char *name); /* of a tensor's random bits */
matrix_format bitrl_format_of(uint32_t type); /* the one that a file's type is run in, unless asked otherwise */
/* Whether weights are ternary with a scale for each SCALE_BLOCK columns of a row, and not all of these are one. */
bool bitrl_has_block_scales(const weight_source *source, size_t rows, size_t columns, const bitrl_kernels *kernels);

typedef struct {
    matrix q, k, v, o, gate, up, down;
    double *attn_norm, *ffn_norm;           /* [P(width)] */
    double *q_norm, *k_norm;                /* [P(head_dim)] of each head, before the rotation; or NULL */
    double *post_attn_norm, *post_ffn_norm; /* [P(width)] of what is added to the residual stream; or NULL */
    double *q_bias, *k_bias, *v_bias;       /* [P(rows)] what is added to q, k and v; or NULL */
    bool local;                             /* sees a window, and may have a rotation of its own */
    bool unturned;                          /* does not rotate q and k */
} block;

typedef enum { RELU2, SILU, GELU } activation_function; /* GELU by its tanh approximation */

/* What a file's architecture says beyond its shape. */
typedef struct {
    const char *name;
    bool sub_norms;       /* a norm before attn_output and ffn_down */
    bool input_norms;     /* a norm before each projection */
    bool head_norms;      /* a norm of each head of q and k */
    bool gemma;           /* norms after attention and feed-forward too, a scaled embedding, local blocks */
    bool local_rope;      /* local blocks have a rotation of their own */
    bool caps;            /* scores and logits are capped */
    bool biases;          /* on q, k and v */
    bool turned;          /* rows of q and k: the two halves of each head's rotation are interleaved */
    bool turns_less;      /* may rotate only the first dimensions of a head */
    bool all_local;       /* with a window and no pattern, all blocks are local */
    bool says_activation; /* else the file must, or the caller */
    activation_function activation;
    uint64_t local_every;    /* with a window and no pattern, all blocks are local but each n-th; 0: there must be a pattern */
    uint64_t unturned_every; /* each n-th block does not rotate; 0: all do */
    uint64_t usual_window;   /* of a file that names none; 0: then no block is local */
    uint64_t largest;        /* blocks of the one model whose queries are scaled by another width than their own; 0: there is none */
} architecture;

struct bitrl_model {
    bitrl_shape shape;
    architecture architecture;
    const bitrl_kernels *kernels;
    const bitrl_tensor *embedding; /* [vocabulary, width], in the file */
    const bitrl_tensor *head;      /* [vocabulary, width] likewise, what makes logits; often the embedding */
    double *output_norm;           /* [P(width)] before the head; or NULL */
    double embedding_scale;        /* of what the embedding gives */
    double attention_scale;        /* of the scores */
    double norm_offset;            /* the 1 that the file's norms lack; input and sub-norms have it */
    double *frequencies;           /* [shape.rope_dims / 2] radians a position, of each rotated pair of dimensions */
    double *local_frequencies;     /* likewise of local blocks, if these have their own; or NULL */
    double rope_factor;            /* of cosines and sines, but not of those of local blocks */
    double score_cap, logit_cap;   /* 0: there is none */
    uint64_t window;               /* tokens that local blocks see, the token itself included; 0: there are no local blocks */
    bool i2s_arm;
    matrix_format format;
    block *blocks;  /* [shape.blocks] */
    matrix output;  /* the head, ready to multiply; without data until bitrl_model_add_head */
    float *replaced_embedding; /* [vocabulary, width] instead of the file's; or NULL */
    void *memory;              /* of the blocks' matrices */
    size_t memory_bytes;
    size_t rank;      /* the highest of all adapters; 0: there are none */
    bool has_blocks;  /* some matrices are TERNARY_BLOCKS */
    uint64_t version; /* counts the changes of weights and adapters */
};

/* Rows of a model's embedding as they lie in its file (rows.c): of the tokens that a session has read. All zeros: none yet. */
typedef struct {
    size_t bytes, count, capacity; /* bytes of a row; rows */
    uint32_t *place;               /* [vocabulary] 1 + where a token's row is; 0: nowhere. Or NULL */
    uint8_t *rows;                 /* [capacity, bytes] */
} kept_rows;

/* Keeps the rows of these tokens, which are in the vocabulary, unless the model has another embedding than the file's, or its
 * rows do not lie one after another. */
int bitrl_keep_rows(kept_rows *kept, const bitrl_model *model, const int32_t *tokens, size_t count, char *error);
void bitrl_forget_rows(kept_rows *kept);
/* A token's row of the embedding, of those kept -> out: [width], unscaled; false when it is not finite. */
bool bitrl_embed(const bitrl_model *model, const kept_rows *kept, int32_t token, float *restrict out);

/* Fills in all of *model that keys say, and blocks that are empty but for `local` (architecture.c). Wants model->i2s_arm.
 * What *model owns must be freed in any case. */
int bitrl_read_architecture(const bitrl_file *file, const bitrl_options *options, bitrl_model *model, char *error);

/* Keys (rotated) and values of a sequence's first tokens, for every block, as `attend` takes them. */
struct bitrl_cache {
    size_t capacity, length; /* tokens */
    size_t rows, row, parts; /* capacity to KEYS_TOGETHER; P(head_dim); keys and values of each block's kv_heads */
    double *values;          /* [blocks, 2, kv_heads, rows, row] */
    uint64_t version;        /* of the model that they were computed with */
};

/* Some tokens of one sequence on their way through the model. */
typedef struct {
    const int32_t *tokens; /* [length] */
    size_t length, first;  /* first: row of scratch of the first token */
    size_t past;           /* tokens of the sequence before these, in caches */
    const bitrl_cache *before;
    bitrl_cache *keep;        /* takes the keys and values of these tokens too; or NULL */
    const bitrl_cache *start; /* the sequence's first start_length tokens, which `before` and `keep` then lack; or NULL */
    size_t start_length;
    const uint64_t *wanted; /* [wanted_count] ascending places in the sequence of tokens whose states are; or NULL: of all */
    size_t wanted_count;
} passage;

enum { PART = 512 }; /* of a long vector, that stays in the first-level cache */
enum { SHARING = 3 }; /* matrices of a block that share an input, at most */

/* Bytes of an adapter's down x, the activations of its up. */
static inline size_t hidden_bytes(size_t rank) { return activation_stride(FP32, round_up(rank, K_PAD)); }

/* One thread's own working memory. P(n) is n rounded up to PAD. */
typedef struct {
    double *values;      /* [max(P(q width) + 2 P(kv width), P(width), 2 PART)] one token's, scaled */
    double *row, *hidden; /* [P(max(width, q width, ffn))] one token: normalised, and inside the feed-forward network */
    float *embedded;     /* [P(width)] a row of the embedding */
    uint8_t *unpacked;   /* of the products */
    double *attention;   /* of the attention kernel */
    int32_t *block_sums; /* [TILE_ROWS + 1, tokens] of TERNARY_BLOCKS; or NULL */
    bool overflowed;     /* an adapter gave what is not finite, which attention or codes would hide */
} thread_scratch;

/* Working memory for `tokens` tokens, carved out of one allocation. Rows are padded to TOKEN_PAD. */
typedef struct {
    void *memory;
    size_t tokens, longest, texts; /* capacity: tokens in a chunk, positions of its longest text, texts */
    size_t rank;                   /* and of adapters, for which what they need is there; 0: it is not */
    double *x;                     /* [tokens, P(width)] residual stream */
    float *states;                 /* [blocks, states_rows, width] that takes x after every block, from its row on; or NULL */
    size_t states_rows;
    double *q, *k, *v;             /* [tokens, heads * P(head_dim)], k and v with kv_heads */
    double *attended;              /* [tokens, P(heads * head_dim)] */
    size_t sums_row, activation_bytes, input_bytes; /* the longest rows of the following; those of a product may be shorter */
    int32_t *sums;                 /* [tokens, max(P(q width) + 2 P(kv width), P(width), 2 P(ffn))] of products, or floats */
    uint8_t *activations;          /* [tokens, activation_stride] */
    uint8_t *inputs;               /* [tokens, activation_stride] as floats, which adapters take; or NULL */
    uint8_t *hidden;               /* [tokens, SHARING, hidden_bytes(rank)] down x of adapters that share an input; or NULL */
    float *adapted;                /* up (down x), as they lie in sums; or NULL */
    double *scale[3];              /* [tokens] the s of q = round(x * s), for up to three products whose sums lie together */
    int32_t *code_sum;             /* [tokens] sum of a token's codes */
    size_t *passage_of;            /* [tokens] */
    size_t *wanted, wanted_count;  /* [tokens] rows whose states after the last block are wanted; 0: all */
    size_t *attention_items;       /* [texts + 1] items of work before each text's */
    passage *passages;             /* [texts] of a chunk */
    thread_scratch *own;           /* [threads] */
} scratch;

/* A pool of threads that run one function together (threads.c). */
pool *pool_open(size_t threads); /* NULL when threads cannot be made */
void pool_close(pool *p);
size_t pool_threads(const pool *p);
size_t pool_running(const pool *p); /* of these, those that run: the caller alone in a child process */
/* Calls work(context, i, count) for every i < count, each on its own thread; returns when all are done. count is the
 * number of threads, or 1 when they did not survive a fork. */
void pool_run(pool *p, void (*work)(void *context, size_t i, size_t count), void *context);
/* Calls work(context, 0, 1), in which there is no other thread. */
void pool_run_alone(pool *p, void (*work)(void *context, size_t i, size_t count), void *context);
/* Whether the others are awake, so that short work is worth sharing with them. Where they are not, but the last run ended a moment ago,
 * they are woken for the next one. */
bool pool_ready(pool *p);
/* Inside work: waits until every thread has come here. What they wrote before is seen by all of them after. */
void pool_barrier(pool *p);
/* Inside work, between two barriers: the next item that no thread has taken; false when all are. */
bool pool_take(pool *p, size_t items, size_t *item);

/* How the positions that a model was trained with at first are stretched. */
typedef struct {
    enum { ROPE_PLAIN, ROPE_LINEAR, ROPE_YARN } kind;
    double factor, original, fast, slow; /* original: positions; fast, slow: turns over these, of YaRN */
    double attention;                    /* of cosines and sines, beside what YaRN has */
} rope_scaling;

/* out: [dims / 2] theta^(-2 i / dims) (rope.c). */
void bitrl_frequencies(double *out, size_t dims, double theta);
/* Stretches them; returns the factor of cosines and sines. */
double bitrl_scale_frequencies(double *frequencies, size_t dims, double theta, const rope_scaling *scaling);
/* rope: [positions, dims], for each position p the cosines of p * frequencies[i], then the sines, all times the factor. */
void bitrl_rope(double *rope, size_t positions, size_t dims, const double *frequencies, double factor);
double bitrl_logarithm(double x); /* of x > 0, with the same bits on every CPU */

/* How threads go through a forward pass: together, sharing every step out and meeting after it; apart, each with a passage of its own,
 * waiting for the others once a block; or the caller alone. Apart, passages are parts of one sequence, kept in one cache, at most as
 * many as threads, whose first rows are multiples of TOKEN_PAD. */
typedef enum { WALK_TOGETHER, WALK_APART, WALK_ALONE } walk_mode;

/* A model of at most SMALL bytes is in every core's cache: then threads do better apart, and the caller does better alone with a few
 * tokens, and with some more than a few where the others would have to be woken. */
enum { SMALL = 4 << 20 };
walk_mode bitrl_walk_mode(const bitrl_model *model, pool *threads, size_t tokens); /* WALK_TOGETHER or WALK_ALONE */

/* Runs the model on passages that lie one after another in s. rows: of all their tokens. rope, local_rope: [positions,
 * rope_dims] cosines, then sines; the second of blocks that have their own, or NULL.
 * The residual stream after the last block is left in s->x; where passages say which states are wanted, as all of them then
 * must, in the rows of these alone. */
void bitrl_forward(const bitrl_model *model, pool *threads, scratch *s, const kept_rows *rows, const double *rope,
                   const double *local_rope, const passage *passages, size_t count, walk_mode mode);

/* What becomes of the i-th row of logits: [vocabulary], which are gone afterwards; in the thread-th thread. */
typedef void take_logits(void *context, size_t i, size_t thread, const float *logits);

/* Logits of some rows of s->x: [count], after bitrl_forward. sums: [count to TOKEN_PAD, P(vocabulary)]; logits: [threads,
 * P(vocabulary)]. */
void bitrl_logits(const bitrl_model *model, pool *threads, scratch *s, const size_t *rows, size_t count, int32_t *sums,
                  float *logits, take_logits *take, void *context);

/* Tokens in a row that grows. */
typedef struct {
    int32_t *tokens; /* [capacity] */
    size_t count, capacity;
} token_list;

/* A token that is chosen from a row of logits. */
typedef struct {
    double random;                  /* in [0, 1) */
    token_list *kept;               /* takes what the distribution was cut to, ascending; or NULL */
    int32_t token;
    double logprob, model_logprob;  /* see bitrl_sample */
    uint64_t kept_count;            /* 0: nothing was cut off */
} choice;

/* Wrong settings of sampling are an error. */
int bitrl_check_sampling(const bitrl_sampling *how, char *error);
/* Chooses from logits: [n]; scratch: [n] of eight bytes. An error when the logits are not finite, or memory is short. */
int bitrl_choose(const bitrl_kernels *kernels, const float *logits, size_t n, const bitrl_sampling *how, void *scratch,
                 choice *c);
/* The log-probability of a token under logits: [n] at a temperature above 0; NaN when they are not finite. */
double bitrl_logprob(const bitrl_kernels *kernels, const float *logits, size_t n, double temperature, int32_t token);
/* Whether the distribution is cut off. */
static inline bool is_cut(const bitrl_sampling *how) { return how->temperature > 0 && (how->top_k || how->top_p < 1); }

#endif
