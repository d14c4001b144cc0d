/* Fuzzes the GGUF loader: any bytes are opened as a file, its keys and tensors read, the model loaded in some formats
 * and a short batch encoded. Whatever the bytes are, the result is features or an error message.
 *
 * The long run, with libFuzzer (clang) and the corpus beside this file, which it adds to in build/fuzz:
 *
 *     make fuzz FUZZ_SECONDS=600
 *
 * Without clang, -DREPLAY gives a program that needs no libFuzzer: it runs the files named, then a number of mutations
 * of them that are the same every time (test_fuzz.py):
 *
 *     replay MUTATIONS FILE... */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

#include "bitrl.h"

enum { TEXTS = 4, TOKENS = 9, MOST_WEIGHTS = 1 << 16 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Puts the bytes into a nameless file and returns a path to it. */
static const char *file_of(const uint8_t *data, size_t size)
{
    static int descriptor = -1;
    static char path[64];
    if (descriptor < 0) {
        snprintf(path, sizeof path, "/tmp/fuzz_gguf.XXXXXX");
        descriptor = mkstemp(path);
        if (descriptor < 0) abort();
        unlink(path);
        snprintf(path, sizeof path, "/dev/fd/%d", descriptor);
    }
    if (ftruncate(descriptor, 0) || pwrite(descriptor, data, size, 0) != (ssize_t)size) abort();
    return path;
}

/* ---- what is done with it ---- */

static void check_message(int status, const char *error)
{
    size_t length = strnlen(error, BITRL_ERROR_BYTES);
    if (status && (length == 0 || length == BITRL_ERROR_BYTES)) abort();
    for (size_t i = 0; status && i < length; i++) /* one line, nothing that a terminal obeys */
        if ((unsigned char)error[i] < ' ' || error[i] == 127) abort();
}

static void read_everything(const bitrl_file *file)
{
    volatile uint8_t touched = 0;
    const bitrl_key *key;
    for (uint64_t i = 0; (key = bitrl_file_key(file, i)); i++) {
        for (uint64_t j = 0; j < key->name_bytes; j++) touched ^= (uint8_t)key->name[j];
        for (uint64_t j = 0; j < key->value_bytes; j++) touched ^= key->value[j];
    }
    const bitrl_tensor *tensor;
    for (uint64_t i = 0; (tensor = bitrl_file_tensor(file, i)); i++) {
        if (!bitrl_type_name(tensor->type)) abort();
        char error[BITRL_ERROR_BYTES] = "";
        uint8_t *bytes = malloc(tensor->bytes); /* they lie in the file, or it would not have opened */
        check_message(bitrl_read_bytes(tensor, bytes, error), error);
        free(bytes);
        uint64_t weights = 1; /* the shape's product fits, too */
        for (int d = 0; d < 4; d++) weights *= tensor->shape[d];
        if (weights > MOST_WEIGHTS) continue;
        float *out = malloc(weights * sizeof *out);
        for (int arm = 0; arm < 2; arm++) check_message(bitrl_read_tensor(tensor, arm, out, error), error);
        free(out);
    }
}

static void encode(const bitrl_model *model, int pooling)
{
    const bitrl_shape *shape = bitrl_model_shape(model);
    uint64_t lengths[TEXTS] = {3, 0, 1, 5}, total = 0;
    int32_t tokens[TOKENS];
    char error[BITRL_ERROR_BYTES] = "";
    for (size_t i = 0; i < TEXTS; i++) {
        if (lengths[i] > shape->context) lengths[i] = shape->context;
        total += lengths[i];
    }
    for (size_t i = 0; i < TOKENS; i++) tokens[i] = (int32_t)(i * 7919 % shape->vocabulary);
    float *out = malloc(TOKENS * shape->width * sizeof *out);
    bitrl_session *session = NULL;
    int status = bitrl_session_open(model, 1, &session, error);
    if (!status) status = bitrl_encode(session, tokens, lengths, TEXTS, pooling, out, error);
    check_message(status, error);
    bitrl_session_close(session);
    free(out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char error[BITRL_ERROR_BYTES] = "";
    bitrl_file *file = NULL;
    int status = bitrl_file_open(file_of(data, size), &file, error);
    check_message(status, error);
    if (status) return 0;
    read_everything(file);
    uint64_t formats = 0;
    while (bitrl_format(formats)) formats++;
    for (uint64_t i = 0; i <= formats; i += size % formats + 1) { /* the file's own, then some others: it must be quick */
        /* The scalar kernels are plain C, in which the sanitizers see most. */
        const bitrl_options options = {.threads = 1 + i % 2,
                                       .format = i ? bitrl_format(i - 1) : NULL,
                                       .isa = i == 0 ? "auto" : "scalar",
                                       .activation = i == 1 ? "silu" : NULL,
                                       .i2s_arm = i == 2,
                                       .layers = i == 3};
        bitrl_model *model = NULL;
        status = bitrl_model_load(file, &options, &model, error);
        check_message(status, error);
        if (!status) encode(model, (int)(i % 3));
        bitrl_model_free(model);
    }
    bitrl_file_close(file);
    return 0;
}

#ifdef REPLAY
/* ---- without libFuzzer: the corpus, and mutations of it ---- */

enum { MOST_BYTES = 1 << 20 };

typedef struct {
    uint8_t *bytes;
    size_t size;
} input;

static uint64_t next(uint64_t *state) /* xorshift64* */
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * 2685821657736338717u;
}

/* Changes `from` into at most MOST_BYTES bytes of `to`, with a piece of `other` now and then. */
static size_t mutate(uint8_t *to, const input *from, const input *other, uint64_t *state)
{
    static const uint64_t values[] = {0,          1,          2,         3,         8,         9,
                                      31,         64,         127,       255,       65535,     65536,
                                      1ull << 20, 1ull << 30, INT32_MAX, 1ull << 31, UINT32_MAX, 1ull << 32,
                                      1ull << 42, 1ull << 61, 1ull << 62, INT64_MAX, 1ull << 63, UINT64_MAX};
    size_t size = from->size;
    memcpy(to, from->bytes, size);
    for (uint64_t changes = 1 + next(state) % 4; changes && size > 8; changes--) {
        /* Lengths, counts and types stand in the header, which is the first half or so. */
        size_t at = next(state) % (next(state) % 4 ? size / 2 : size), room = size - at;
        uint64_t value = values[next(state) % (sizeof values / sizeof *values)] + next(state) % 3 - 1;
        size_t length = 1 + next(state) % 16;
        switch (next(state) % 7) {
        case 0: to[at] ^= (uint8_t)(1u << next(state) % 8); break;
        case 1: to[at] = (uint8_t)next(state); break;
        case 2: memcpy(to + at, &value, room < 8 ? room : 8); break;
        case 3: memcpy(to + at, &value, room < 4 ? room : 4); break;
        case 4: /* takes bytes out */
            length = length < room ? length : room;
            memmove(to + at, to + at + length, room - length);
            size -= length;
            break;
        case 5: /* puts bytes in */
            if (size + length > MOST_BYTES) break;
            memmove(to + at + length, to + at, room);
            size += length;
            break;
        default: /* the same place of another file, or the end */
            if (next(state) % 4 == 0)
                size = at;
            else if (at + length <= other->size && length <= room)
                memcpy(to + at, other->bytes + at, length);
        }
    }
    return size;
}

int main(int count, char **arguments)
{
    if (count < 3) return 2;
    size_t files = (size_t)count - 2;
    input *inputs = calloc(files, sizeof *inputs);
    uint8_t *changed = malloc(MOST_BYTES);
    if (!inputs || !changed) return 2;
    for (size_t i = 0; i < files; i++) {
        FILE *file = fopen(arguments[i + 2], "rb");
        inputs[i].bytes = malloc(MOST_BYTES);
        if (!file || !inputs[i].bytes) return 2;
        inputs[i].size = fread(inputs[i].bytes, 1, MOST_BYTES, file);
        fclose(file);
        LLVMFuzzerTestOneInput(inputs[i].bytes, inputs[i].size);
    }
    uint64_t state = 1;
    unsigned long mutations = strtoul(arguments[1], NULL, 10);
    for (unsigned long i = 0; i < mutations; i++) {
        const input *from = &inputs[next(&state) % files], *other = &inputs[next(&state) % files];
        size_t size = mutate(changed, from, other, &state);
        uint8_t *exact = malloc(size ? size : 1); /* so that nobody reads what lies behind */
        if (!exact) return 2;
        memcpy(exact, changed, size);
        LLVMFuzzerTestOneInput(exact, size);
        free(exact);
    }
    for (size_t i = 0; i < files; i++) free(inputs[i].bytes);
    free(inputs);
    free(changed);
    printf("%zu files, %lu mutations\n", files, mutations);
    return 0;
}
#endif
