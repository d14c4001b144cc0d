/* The engine's public interface: what Python (cffi) and the C tests see.
 *
 * Every function that can fail returns BITRL_OK or an error code and writes one line into the caller's
 * `error` buffer of BITRL_ERROR_BYTES bytes. Nothing here prints, exits, or keeps global state.
 * The part between the two marks is also read by build.py as the cffi definitions, so it is plain C without macros. */
#ifndef BITRL_H
#define BITRL_H

#include <stddef.h>
#include <stdint.h>

#define BITRL_ERROR_BYTES 256

/* cdef begin */
enum {
    BITRL_OK = 0,
    BITRL_BAD_FILE = 1,     /* the model file is unreadable, damaged or not supported */
    BITRL_BAD_ARGUMENT = 2, /* the caller asked for something that does not exist */
    BITRL_NO_MEMORY = 3,
    BITRL_BAD_RESULT = 4, /* the model gave numbers that are not finite */
    BITRL_STOPPED = 5     /* the caller wanted no more */
};

enum { BITRL_POOL_MEAN = 0, BITRL_POOL_LAST = 1, BITRL_POOL_NONE = 2 };

typedef struct bitrl_file bitrl_file;       /* keys and tensors, checked: a GGUF file, or a caller's table */
typedef struct bitrl_model bitrl_model;     /* weights ready to multiply; read-only, shared by sessions */
typedef struct pool bitrl_threads;          /* threads that work together */
typedef struct bitrl_session bitrl_session; /* threads and scratch; one call at a time */
typedef struct bitrl_cache bitrl_cache;     /* what a session keeps of a sequence to go on with it */
typedef struct bitrl_tokenizer bitrl_tokenizer; /* a byte-level BPE that cuts texts as bitrl's own models do; one call at a time */

typedef struct {
    const char *name; /* [name_bytes], not terminated */
    uint64_t name_bytes;
    uint32_t type;         /* GGUF value type; 9 is an array */
    uint32_t element_type; /* of an array, else equal to type */
    uint64_t count;        /* elements of an array, else 1 */
    const uint8_t *value;  /* [value_bytes], little-endian, unaligned; strings are u64 length + bytes */
    uint64_t value_bytes;
} bitrl_key;

typedef struct {
    const char *name; /* [name_bytes], not terminated */
    uint64_t name_bytes;
    uint32_t type; /* GGML type, see bitrl_type_name */
    uint32_t dims;
    uint64_t shape[4]; /* fastest dimension first, as in the file; 1 beyond dims */
    const uint8_t *data; /* in memory; NULL: in a file, from byte `offset` on */
    uint64_t bytes;
    float scale; /* every weight is multiplied with it, for types that carry none themselves; 1 in GGUF */
    int32_t descriptor; /* of that file, above 2 */
    uint64_t offset;
} bitrl_tensor;

/* How a file is to be run. */
typedef struct {
    uint64_t layers; /* stop after that many blocks; 0: run all */
    const char *format; /* one of bitrl_format; NULL: the one that the file's matrices are in */
    uint64_t threads;   /* that quantise and lay out weights */
    const char *isa; /* "auto" takes the best of bitrl_instruction_set */
    const char *activation; /* "relu2", "silu" or "gelu", for files that do not say; NULL: the file must */
    int i2s_arm;     /* I2_S weights lie as on ARM (blocks of 64), not as on x86 (blocks of 128) */
} bitrl_options;

typedef struct {
    uint64_t vocabulary, width, ffn, heads, kv_heads, head_dim, context;
    uint64_t rope_dims; /* of each head, the first ones, that are rotated */
    uint64_t blocks; /* blocks that are run, at most the file's */
    double eps, rope_theta;
} bitrl_shape;

int bitrl_file_open(const char *path, bitrl_file **file, char *error);
/* A file made of a caller's table, checked as a GGUF header is: a Hugging Face checkpoint under GGUF's names. Names and
 * values are copied; tensor data, and descriptors, must outlive the file. Type 1000 are the ternary weights that transformers packs,
 * [rows / 4, columns] bytes. hugging_face: rows of heads and norms lie as that has them, else as GGUF. */
int bitrl_file_assemble(const bitrl_key *keys, uint64_t key_count, const bitrl_tensor *tensors, uint64_t tensor_count,
                        int hugging_face, bitrl_file **file, char *error);
/* The parts of a split GGUF file as one: the keys of the first, the tensors of all. They must outlive it. */
int bitrl_file_join(bitrl_file *const *parts, uint64_t count, bitrl_file **file, char *error);
void bitrl_file_close(bitrl_file *file);
uint64_t bitrl_file_size(const bitrl_file *file);
uint64_t bitrl_file_data_offset(const bitrl_file *file); /* where the tensor data begin */
uint64_t bitrl_file_key_count(const bitrl_file *file);
uint64_t bitrl_file_tensor_count(const bitrl_file *file);
const bitrl_key *bitrl_file_key(const bitrl_file *file, uint64_t i);
const bitrl_tensor *bitrl_file_tensor(const bitrl_file *file, uint64_t i);

/* "F32", "Q8_0"...; NULL for types that cannot be read. */
const char *bitrl_type_name(uint32_t type);
/* A tensor's bytes as they lie in the file: out [bytes]. */
int bitrl_read_bytes(const bitrl_tensor *tensor, uint8_t *out, char *error);
/* All weights of a tensor as float32: out [shape[3], shape[2], shape[1], shape[0]]. */
int bitrl_read_tensor(const bitrl_tensor *tensor, int i2s_arm, float *out, char *error);

/* The i-th format in which matrices can be multiplied; NULL when there are no more. */
const char *bitrl_format(uint64_t i);
/* The i-th instruction set this CPU runs, best first; NULL when there are no more. */
const char *bitrl_instruction_set(uint64_t i);
/* The i-th instruction set that this build has code for, best first; NULL when there are no more. */
const char *bitrl_instruction_set_known(uint64_t i);

/* The file must outlive the model, which reads embedding rows from it. */
int bitrl_model_load(const bitrl_file *file, const bitrl_options *options, bitrl_model **model, char *error);
void bitrl_model_free(bitrl_model *model);
/* What loading would find: whether the file can be run so, its shape, and the bytes of the blocks' matrices in memory; ternary ones
 * that turn out to have a scale for each block take an eighth more. It reads no weights. */
int bitrl_model_check(const bitrl_file *file, const bitrl_options *options, bitrl_shape *shape, uint64_t *bytes, char *error);
const bitrl_shape *bitrl_model_shape(const bitrl_model *model);
const char *bitrl_model_isa(const bitrl_model *model);
const char *bitrl_model_format(const bitrl_model *model);

/* Makes the head ready, which generating needs and encoding does not: in 8 bits, or as floats for a model of floats. No
 * session of the model may be running. */
int bitrl_model_add_head(bitrl_model *model, uint64_t threads, char *error);
/* Bytes of weights that one token's pass reads. */
uint64_t bitrl_model_bytes_per_token(const bitrl_model *model);
typedef struct {
    const char *name;    /* as in a GGUF file */
    const float *values; /* [rows, columns], of a norm [1, columns], as they lie in the model's own file */
    uint64_t rows, columns;
} bitrl_weights;

typedef struct {
    uint64_t codes;   /* weights of matrices that are multiplied, as their format stores them */
    uint64_t changed; /* of these, such as are others than before */
} bitrl_replaced;

/* Replaces weights in place, quantised to the model's format by that many threads, all together: what loading does to them is
 * done here too (a matrix's scale in a tensor of its own stays). seed: NULL rounds to the nearest; else each weight of a
 * matrix becomes one of its two neighbours, the nearer the likelier, so that its expectation is the weight (where a ternary
 * one is not cut off), by random bits that depend on seed, name, row and column alone. A call that fails changes nothing.
 * No session of the model may be running. */
int bitrl_model_replace_all(bitrl_model *model, const bitrl_weights *weights, uint64_t count, const uint64_t *seed,
                            uint64_t threads, bitrl_replaced *replaced, char *error);
/* Adds a low-rank adapter to a projection of a block, in the place of one that is there: its product becomes
 * W x + up (down x), the second part in float32, of the input x before it is quantised. name: of W as in a GGUF file;
 * down: [rank, columns]; up: [rows, rank], in the order of W's rows there, with any factor multiplied in; both are copied.
 * rows, columns: W's; rank: from 1 to the smaller of them. No session of the model may be running. */
int bitrl_model_adapt(bitrl_model *model, const char *name, const float *down, const float *up, uint64_t rank,
                      uint64_t rows, uint64_t columns, char *error);
/* Takes all adapters away. No session of the model may be running. */
void bitrl_model_unadapt(bitrl_model *model);

/* Threads for products by themselves: threads - 1 of its own, and the calling one. One call at a time. */
int bitrl_threads_open(uint64_t threads, bitrl_threads **opened, char *error);
void bitrl_threads_close(bitrl_threads *threads);
/* out: [tokens, rows] = x: [tokens, columns] times weights: [rows, columns], in a format of floats ("bf16", which rounds both,
 * or "fp32"): the bits that a model's product or adapter has, on any instruction set, by any number of threads.
 * NaN, all of it, where a weight is not finite. */
int bitrl_product(const char *format, const float *x, uint64_t tokens, const float *weights, uint64_t rows, uint64_t columns,
                  bitrl_threads *threads, float *out, char *error);

/* Steps of a forward pass between its products, with a model's bits likewise. */

/* Cosines of position * theta^(-2 i / dims), then sines: [positions, dims]. */
int bitrl_angles(double theta, uint64_t positions, uint64_t dims, double *out, char *error);
/* RMSNorm, rounded as products take it; all [rows, columns], a multiple of 16 of these; weight: [columns]. */
int bitrl_normed(const double *x, const double *weight, uint64_t rows, uint64_t columns, double eps, bitrl_threads *threads,
                 float *out, char *error);
/* silu(gate) * up: [rows, columns], a multiple of 16 of these, of rows of a gate and an up. */
int bitrl_gated(const double *gate_up, uint64_t rows, uint64_t columns, bitrl_threads *threads, double *out, char *error);

/* Causal attention of some texts, all positions turned. A text's keys are the first begins of `before`, and as many as it has
 * queries from there on. */
typedef struct {
    const double *q;                 /* [texts, heads, queries, head_dim], a multiple of 16 of these */
    const double *k, *v;             /* [texts, kv_heads, keys, head_dim] */
    const uint64_t *begins, *lengths; /* [texts]; the second of its queries */
    uint64_t texts, heads, kv_heads, queries, before, keys, head_dim, window; /* keys: before + queries; window: 0 for all */
    double scale;
    double *out; /* [texts, queries, heads, head_dim], of the first `lengths` written */
} bitrl_attention;
int bitrl_attend(const bitrl_attention *attention, bitrl_threads *threads, char *error);

/* A session owns threads - 1 worker threads; the calling thread is the last one. The model must outlive it. */
int bitrl_session_open(const bitrl_model *model, uint64_t threads, bitrl_session **session, char *error);
void bitrl_session_close(bitrl_session *session);

/* tokens: the texts one after another, [sum(lengths)]. out: [texts, width], for BITRL_POOL_NONE [sum(lengths), width].
 * The same text gives the same bits whatever the batch, the number of threads and the instruction set. */
int bitrl_encode(bitrl_session *session, const int32_t *tokens, const uint64_t *lengths, uint64_t texts, int pooling,
                 float *out, char *error);

/* What becomes of the states [fields, width] of a text: features side by side, or projected by one of these. */
typedef struct {
    const int32_t *sketch;   /* [fields * width]: for each of their numbers the feature from 0 to columns - 1 to which it is added, or
                              * -1 - feature where it is subtracted (a count sketch); or NULL */
    const float *directions; /* [columns, width], in which each state is read, so that there are fields * columns features; or NULL */
    uint64_t columns;
} bitrl_readout;

/* The states at `fields` tokens of each text. places: [texts, fields] ascending positions in the text (of a text without tokens: not
 * read). readout: NULL: side by side. out: [texts, fields * width], or as many features as the readout makes. Bits as bitrl_encode's. */
int bitrl_encode_fields(bitrl_session *session, const int32_t *tokens, const uint64_t *lengths, uint64_t texts,
                        const uint64_t *places, uint64_t fields, const bitrl_readout *readout, float *out, char *error);

/* The states after every block, for study. out: [blocks, sum(lengths), width], the same bits as bitrl_encode's of a model
 * that stops after that block. */
int bitrl_encode_blocks(bitrl_session *session, const int32_t *tokens, const uint64_t *lengths, uint64_t texts, float *out,
                        char *error);

/* Keeps up to `capacity` tokens of a sequence. */
int bitrl_cache_open(const bitrl_model *model, uint64_t capacity, bitrl_cache **cache, char *error);
void bitrl_cache_close(bitrl_cache *cache);
uint64_t bitrl_cache_length(const bitrl_cache *cache);
uint64_t bitrl_cache_bytes(const bitrl_cache *cache);
/* Forgets all tokens but the first `length`. */
int bitrl_cache_cut(bitrl_cache *cache, uint64_t length, char *error);
/* Makes `to` begin as `from` does: its first `length` tokens, of the same model. */
int bitrl_cache_copy(bitrl_cache *to, const bitrl_cache *from, uint64_t length, char *error);
/* Goes on with sequences, each in a cache of its own: tokens: the new ones, one sequence's after another,
 * [sum(lengths)], at least one each. logits: [sequences, vocabulary] of what may come next; or NULL. A sequence that was
 * begun before weights or adapters changed is refused. A call that fails leaves the sequences as long as they were. */
int bitrl_extend(bitrl_session *session, bitrl_cache *const *caches, const int32_t *tokens, const uint64_t *lengths,
                 uint64_t sequences, float *logits, char *error);

typedef struct {
    double temperature; /* 0: always the likeliest */
    uint64_t top_k;     /* choose among so many of the likeliest; 0: all */
    double top_p;       /* and among the likeliest that together reach this share; 1: all */
} bitrl_sampling;

/* Chooses a token from each row of logits: [rows, vocabulary]. random: [rows] in [0, 1).
 * logprobs: [rows] of what was chosen under the distribution it was chosen from; model_logprobs: under the model's own. */
int bitrl_sample(bitrl_session *session, const float *logits, uint64_t rows, uint64_t vocabulary,
                 const bitrl_sampling *how, const double *random, int32_t *tokens, double *logprobs, double *model_logprobs,
                 char *error);

/* Sequences by what they begin with. */
typedef struct {
    const int32_t *tokens;     /* the prompts, one after another: [sum(lengths)] */
    const uint64_t *lengths;   /* [prompts] at least a token each */
    uint64_t prompts;          /* each is read once, and its keys and values are shared */
    const uint64_t *prompt_of; /* [sequences] */
    uint64_t sequences;
} bitrl_prompts;

typedef struct {
    bitrl_sampling sampling;
    uint64_t max_tokens;
    const int32_t *stop; /* [stops] tokens that end a sequence, which has them then */
    uint64_t stops;
    uint64_t slots;           /* sequences that go on together, at most: when one ends, the next one begins */
    const double *random;     /* [sequences, max_tokens] in [0, 1) */
    int (*go_on)(void *asked); /* asked now and then; 0: stop. Or NULL */
    void *asked;
} bitrl_generation;

typedef struct bitrl_kept bitrl_kept; /* what the distributions of sequences were cut to */

typedef struct {
    int32_t *tokens;                   /* [sequences, max_tokens], of each the first `lengths` */
    double *logprobs, *model_logprobs; /* likewise; see bitrl_sample */
    uint64_t *lengths;                 /* [sequences] */
    int32_t *kept_counts;              /* likewise, of the tokens that could have been chosen; 0: all. Or NULL */
    bitrl_kept *kept;                  /* takes these tokens; or NULL */
} bitrl_generated;

/* Goes on with sequences, each to max_tokens or the first stop token. A sequence depends on the model, its prompt and its
 * random numbers: not on the others, on slots or on threads. What is found when it is stopped is of no use. */
int bitrl_generate(bitrl_session *session, const bitrl_prompts *prompts, const bitrl_generation *how,
                   const bitrl_generated *out, char *error);

int bitrl_kept_open(uint64_t sequences, bitrl_kept **kept, char *error);
void bitrl_kept_close(bitrl_kept *kept);
/* All of a sequence's, one step after another, ascending within a step. */
const int32_t *bitrl_kept_tokens(const bitrl_kept *kept, uint64_t sequence, uint64_t *count);

/* The log-probability of every token of what follows prompts, at a temperature above 0: the bits that bitrl_generate finds for
 * them where nothing is cut off. completions: of the sequences, one after another, [sum(lengths)]; out: likewise. */
int bitrl_logprobs(bitrl_session *session, const bitrl_prompts *prompts, const int32_t *completions, const uint64_t *lengths,
                   double temperature, double *out, char *error);

/* ---- learning ----
 *
 * Chains of linear layers with tanh between them, in float32. Parameters lie layer by layer, of each weights [inputs, outputs]
 * and then biases [outputs]; gradients likewise. Every sum is added in one order, so that the same numbers give the same bits
 * on any instruction set and number of threads; a NaN may have other bits. Nothing is allocated after opening. */
typedef struct bitrl_learner bitrl_learner; /* threads and scratch for learning; one call at a time */
typedef struct bitrl_network bitrl_network; /* a chain's shape and what its backward pass needs of a forward pass */

/* Learns with these threads, which must outlive it; isa: "auto", or one of bitrl_instruction_set. */
int bitrl_learner_open(bitrl_threads *threads, const char *isa, bitrl_learner **learner, char *error);
void bitrl_learner_close(bitrl_learner *learner);

/* widths: [layers + 1], of the inputs, of each layer's outputs; batch: the most samples of a pass. The learner must outlive
 * it. */
int bitrl_network_open(bitrl_learner *learner, const uint64_t *widths, uint64_t layers, uint64_t batch, bitrl_network **network,
                       char *error);
void bitrl_network_close(bitrl_network *network);
uint64_t bitrl_network_parameters(const bitrl_network *network); /* how many there are */
/* A pass of a network. Forward: inputs [samples, widths[0]], which must stay as they are until the backward pass, -> outputs
 * [samples, widths[layers]]. Backward, of the last forward pass, with the same parameters: by_outputs, a loss's gradient by the
 * outputs, -> gradients, that by the parameters, and by_inputs, that by the inputs; or NULL. */
typedef struct {
    bitrl_network *network;
    const float *parameters;
    const float *inputs;
    uint64_t samples;
    float *outputs;
    const float *by_outputs;
    float *gradients, *by_inputs;
} bitrl_pass;

/* Passes of different networks, together: with no more threads than passes, each is one thread's. A call that fails changes
 * nothing. */
int bitrl_networks_forward(bitrl_learner *learner, const bitrl_pass *const *passes, uint64_t count, char *error);
int bitrl_networks_backward(bitrl_learner *learner, const bitrl_pass *const *passes, uint64_t count, char *error);

/* A step of Adam (betas 0.9 and 0.999) against a gradient, which is scaled down to a norm of max_norm where its own is larger,
 * and stays as it is. All [size]: parameters, gradients and the moments. step: counted from 1. norm: takes the gradient's. */
typedef struct {
    float *parameters;
    const float *gradients;
    float *means, *squares;
    uint64_t size, step;
    double rate, eps, max_norm, norm;
} bitrl_adam_step;

/* Up to 8 of them, together. Where a gradient is not finite, none is made: BITRL_BAD_RESULT. */
int bitrl_adam(bitrl_learner *learner, bitrl_adam_step *const *steps, uint64_t count, char *error);

/* Weights [inputs, outputs] for a start: a random matrix with orthonormal columns, or rows where these are fewer, times gain. */
int bitrl_orthogonal(float *weights, uint64_t inputs, uint64_t outputs, double gain, uint64_t seed, char *error);

/* Heads. The first function of each finds the log-probabilities of actions under a network's outputs, and the distributions'
 * entropies, all [samples]; the second, of the same, the loss's gradient by the outputs from that by each log-probability,
 * [samples], and by the sum of the entropies.
 * Categorical: logits, the distributions and their logarithms are [samples, choices]. mask: likewise, 0 where a choice has
 * probability zero and a logarithm of -1e9; or NULL. */
int bitrl_categorical(bitrl_learner *learner, const float *logits, const uint8_t *mask, const int64_t *actions, uint64_t samples,
                      uint64_t choices, float *distribution, float *logarithms, float *log_probs, float *entropies, char *error);
void bitrl_categorical_backward(const float *distribution, const float *logarithms, const float *entropies,
                                const int64_t *actions, uint64_t samples, uint64_t choices, const float *by_log_probs,
                                double by_entropies, float *by_logits);
/* Gaussian, diagonal: means, actions and standard = (action - mean) / deviation are [samples, dims]; log_deviations and
 * deviations [dims]. */
void bitrl_gaussian(bitrl_learner *learner, const float *means, const float *log_deviations, const float *actions,
                    uint64_t samples, uint64_t dims, float *standard, float *deviations, float *log_probs, float *entropies);
void bitrl_gaussian_backward(const float *standard, const float *deviations, uint64_t samples, uint64_t dims,
                             const float *by_log_probs, double by_entropies, float *by_means, float *by_log_deviations);
/* Logits of a choice among commands: query: [samples, width] times keys: [commands, width], divided by the root of the width.
 * places: [samples, choices] which of the commands each choice is; pairs: [samples, commands] of scratch. */
int bitrl_choice_logits(bitrl_learner *learner, const float *queries, const float *keys, const int64_t *places, uint64_t samples,
                        uint64_t width, uint64_t commands, uint64_t choices, float *pairs, float *logits, char *error);
void bitrl_choice_backward(bitrl_learner *learner, const float *queries, const float *keys, const int64_t *places,
                           uint64_t samples, uint64_t width, uint64_t commands, uint64_t choices, const float *by_logits,
                           float *pairs, float *by_queries, float *by_keys);

/* Means over the samples that are kept. */
typedef struct {
    double loss, approx_kl, clip_fraction;
} bitrl_clipped;

/* PPO's clipped objective, its ratios from 1 - clip to 1 + clip. by_log_probs: takes the gradient of the loss, the negative
 * objective. All [samples]; advantages are standardised here, unless there is but one. The last three inputs correct the loss for
 * samples of another policy than that of old_log_probs, each NULL where there is nothing to correct: weights multiply the
 * standardised advantages, range divides the upper end of the ratios' range, and what is not kept counts for nothing. */
void bitrl_clipped_loss(bitrl_learner *learner, const float *log_probs, const float *old_log_probs, const float *advantages,
                        const float *weights, const float *range, const uint8_t *kept, uint64_t samples, double clip,
                        float *by_log_probs, bitrl_clipped *clipped);
/* Returns the mean of (values - returns)^2, both [samples]; by_values takes the gradient of `coefficient` times that. */
double bitrl_squared_loss(const float *values, const float *returns, uint64_t samples, double coefficient, float *by_values);

/* lengths: [count] of each token's bytes, which lie one after another in bytes: [byte_count]; of a token that no plain text
 * gives, 0. merges: [merge_count, 3] a left token, a right one, and what they become; the best first. phrases: [phrase_count]
 * tokens that are found in a text before anything else, the longest first. Both are uint32, unaligned. longest: bytes of the
 * longest text that will be read. Everything is copied. */
int bitrl_tokenizer_open(const uint8_t *lengths, uint64_t count, const uint8_t *bytes, uint64_t byte_count, const uint8_t *merges,
                         uint64_t merge_count, const uint8_t *phrases, uint64_t phrase_count, uint64_t longest,
                         bitrl_tokenizer **out, char *error);
void bitrl_tokenizer_close(bitrl_tokenizer *t);
/* Tokens of texts that lie one after another: UTF-8, each of bytes: [count]. ids and ends, where each token ends in its text,
 * have room for as many as there are bytes; counts: [count] takes how many tokens each text is. Returns how many all are. */
uint64_t bitrl_tokenize(bitrl_tokenizer *t, const char *texts, const uint64_t *bytes, uint64_t count, int32_t *ids,
                        uint32_t *ends, uint64_t *counts);
/* cdef end */

#endif
