/* Runs the engine outside Python, for the sanitizers: every file given is opened, loaded and encodes a batch on every
 * instruction set, with one and three threads; after "--thorough" with all poolings, all formats and with low-rank
 * adapters. Prints a line per file: "ok <checksum>" or "error <message>". */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "adapters.h"
#include "bitrl.h"

enum { TEXTS = 9, TOKENS = 1 + 2 + 17 + 0 + 7 + 12 + 13 + 66 + 5, SOME = 5, SOME_TOKENS = 1 + 2 + 17 + 0 + 7 };

/* The states at one token of each text, a sketch of some of them, and what they are in a direction are made of those of all tokens. */
static int check_fields(bitrl_session *session, const int32_t *tokens, const uint64_t *lengths, size_t width, const float *states,
                        char *error)
{
    enum { COLUMNS = 5 };
    uint64_t places[TEXTS];
    float *side = malloc(TEXTS * width * sizeof *side), sketched[SOME * COLUMNS], along[SOME * 2], *directions = malloc(2 * width * sizeof *side);
    int32_t *sketch = malloc(width * sizeof *sketch);
    for (size_t i = 0; i < TEXTS; i++) places[i] = lengths[i] / 2;
    for (size_t c = 0; c < width; c++) sketch[c] = c % 3 ? (int32_t)(c % COLUMNS) : -1 - (int32_t)(c % COLUMNS);
    for (size_t c = 0; c < 2 * width; c++) directions[c] = (float)(c % 7) - 3;
    const bitrl_readout to_columns = {.sketch = sketch, .columns = COLUMNS}, to_directions = {.directions = directions, .columns = 2};
    int status = bitrl_encode_fields(session, tokens, lengths, TEXTS, places, 1, NULL, side, error);
    if (!status) status = bitrl_encode_fields(session, tokens, lengths, SOME, places, 1, &to_columns, sketched, error);
    if (!status) status = bitrl_encode_fields(session, tokens, lengths, SOME, places, 1, &to_directions, along, error);
    for (size_t i = 0, at = 0; !status && i < TEXTS; at += lengths[i++]) {
        float sums[COLUMNS] = {0};
        const float *state = states + (at + places[i]) * width;
        for (size_t c = 0; lengths[i] && c < width; c++) sums[c % COLUMNS] += c % 3 ? state[c] : -state[c];
        double sums_of[2][8] = {{0}};
        for (size_t d = 0; lengths[i] && d < 2; d++)
            for (size_t c = 0; c < width; c++) sums_of[d][c % 8] += (double)state[c] * directions[d * width + c];
        for (size_t d = 0; i < SOME && d < 2; d++) {
            const double *s = sums_of[d];
            float expected = (float)(((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7])));
            if (memcmp(along + 2 * i + d, &expected, sizeof expected) != 0) {
                printf("differs in directions\n");
                exit(1);
            }
        }
        if ((lengths[i] && memcmp(side + i * width, state, width * sizeof *side) != 0) ||
            (i < SOME && memcmp(sketched + i * COLUMNS, sums, sizeof sums) != 0)) {
            printf("differs in fields\n");
            exit(1);
        }
    }
    free(side);
    free(sketch);
    free(directions);
    return status;
}

/* Texts one after another, of which the engine goes on from what two have in common, have the states of the batch; and so has a
 * text's beginning, since no token sees the following ones. */
static int check_alone(bitrl_session *session, const int32_t *tokens, const uint64_t *lengths, size_t width, const float *states, char *error)
{
    int status = BITRL_OK;
    for (size_t i = 0, at = 0; !status && i < TEXTS; at += lengths[i++])
        for (uint64_t cut = 0; !status && cut < 3 && cut <= lengths[i]; cut++) {
            const uint64_t length = lengths[i] - cut % 2;
            float *out = malloc(length * width * sizeof *out + 1);
            status = bitrl_encode(session, tokens + at, &length, 1, BITRL_POOL_NONE, out, error);
            if (!status && memcmp(out, states + at * width, length * width * sizeof *out) != 0) {
                printf("differs alone\n");
                exit(1);
            }
            free(out);
        }
    return status;
}

/* Encodes a fixed batch; the checksum is over the bits of the result. */
static int encode(const bitrl_model *model, uint64_t threads, int pooling, uint64_t *checksum, char *error)
{
    static const uint64_t lengths[TEXTS] = {1, 2, 17, 0, 7, 12, 13, 66, 5};
    const bitrl_shape *shape = bitrl_model_shape(model);
    int32_t *tokens = malloc(TOKENS * sizeof *tokens);
    size_t values = (pooling == BITRL_POOL_NONE ? TOKENS : TEXTS) * shape->width;
    float *out = malloc(values * sizeof *out);
    bitrl_session *session = NULL;
    for (size_t i = 0; i < TOKENS; i++) tokens[i] = (int32_t)(i * 7919 % shape->vocabulary);
    int status = bitrl_session_open(model, threads, &session, error);
    for (uint64_t texts = 2; !status && texts <= TEXTS; texts += TEXTS - 2) /* scratch grows between the two */
        status = bitrl_encode(session, tokens, lengths, texts, pooling, out, error);
    if (!status && pooling == BITRL_POOL_NONE) { /* the last of the states after every block are these; of some texts */
        size_t some = SOME_TOKENS * shape->width;
        float *all = malloc(shape->blocks * some * sizeof *all);
        status = bitrl_encode_blocks(session, tokens, lengths, SOME, all, error);
        if (!status && memcmp(all + (shape->blocks - 1) * some, out, some * sizeof *out) != 0) {
            printf("differs after the last block\n");
            exit(1);
        }
        free(all);
        if (!status) status = check_fields(session, tokens, lengths, shape->width, out, error);
        if (!status) status = check_alone(session, tokens, lengths, shape->width, out, error);
    }
    for (size_t i = 0; !status && i < values; i++) {
        uint32_t bits;
        memcpy(&bits, out + i, sizeof bits);
        *checksum = (*checksum ^ bits) * 1099511628211u;
    }
    bitrl_session_close(session);
    free(out);
    free(tokens);
    return status;
}

/* Every instruction set must give the bits of the first, whose checksum is left in *expected. */
static int check_format(const bitrl_file *file, const char *format, bool thorough, bool adapted, uint64_t *expected,
                        char *error)
{
    int status = BITRL_OK;
    for (uint64_t j = 0; !status && bitrl_instruction_set(j); j++) {
        const bitrl_options options = {.isa = bitrl_instruction_set(j), .format = format, .threads = 2};
        bitrl_model *model = NULL;
        uint64_t single = 14695981039346656037u, several = single;
        bitrl_shape shape;
        uint64_t bytes = 0;
        const int checked = bitrl_model_check(file, &options, &shape, &bytes, error);
        status = bitrl_model_load(file, &options, &model, error);
        if (!status && (checked || bytes > bitrl_model_bytes_per_token(model))) { /* scales of blocks are found at load */
            printf("differs from what was checked\n");
            exit(1);
        }
        if (!status && adapted) status = adapt_all(model, error);
        for (int pooling = thorough ? 0 : 2; !status && pooling < 3; pooling++) {
            status = encode(model, 1, pooling, &single, error);
            if (!status) status = encode(model, 3, pooling, &several, error);
        }
        bitrl_model_free(model);
        if (!status && (single != several || (j > 0 && single != *expected))) {
            printf("differs %s %s\n", bitrl_instruction_set(j), format ? format : "");
            exit(1);
        }
        *expected = single;
    }
    return status;
}

int main(int count, char **paths)
{
    char error[BITRL_ERROR_BYTES];
    bool thorough = count > 1 && strcmp(paths[1], "--thorough") == 0;
    for (int i = thorough ? 2 : 1; i < count; i++) {
        bitrl_file *file = NULL;
        int status = bitrl_file_open(paths[i], &file, error);
        uint64_t checksum = 0;
        if (!status) status = check_format(file, NULL, thorough, false, &checksum, error);
        for (uint64_t j = 0; !status && thorough && bitrl_format(j / 2); j++) { /* without adapters and with */
            uint64_t other = 0;
            status = check_format(file, bitrl_format(j / 2), false, j % 2, &other, error);
            checksum = (checksum ^ other) * 1099511628211u;
        }
        if (status)
            printf("error %s\n", error);
        else
            printf("ok %016llx\n", (unsigned long long)checksum);
        bitrl_file_close(file);
    }
    return 0;
}
