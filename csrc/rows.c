/* Rows of the embedding, copied out of the mapped file when their tokens are first read.
 *
 * The embedding is all of a file that is read after loading, and too large to be copied whole. Another process may shorten the
 * file at any time, and a disk may fail: then touching the mapping would kill this process (SIGBUS). The system touches it
 * here, in a write() to a pipe, which only fails. */
#define _DEFAULT_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "internal.h"

enum { AT_ONCE = 4096, FEWEST = 64 }; /* bytes that an empty pipe takes without waiting; rows there is room for */

/* Copies n bytes of a mapped file; false when they cannot be read. */
static bool copy(const int ends[2], uint8_t *to, const uint8_t *from, size_t n)
{
    for (size_t at = 0, some; at < n; at += some) {
        some = n - at < AT_ONCE ? n - at : AT_ONCE;
        if (write(ends[1], from + at, some) != (ssize_t)some || read(ends[0], to + at, some) != (ssize_t)some) return false;
    }
    return true;
}

static bool open_pipe(int ends[2])
{
    if (pipe(ends) != 0) return false;
    fcntl(ends[0], F_SETFD, FD_CLOEXEC);
    fcntl(ends[1], F_SETFD, FD_CLOEXEC);
    return true;
}

/* Room for one more row. */
static bool grow(kept_rows *kept)
{
    if (kept->count < kept->capacity) return true;
    size_t capacity = kept->capacity ? 2 * kept->capacity : FEWEST;
    uint8_t *rows = realloc(kept->rows, capacity * kept->bytes);
    if (!rows) return false;
    kept->rows = rows;
    kept->capacity = capacity;
    return true;
}

int bitrl_keep_rows(kept_rows *kept, const bitrl_model *model, const int32_t *tokens, size_t count, char *error)
{
    const weight_type *type = bitrl_weight_type(model->embedding->type);
    if (model->replaced_embedding || !type->read) return BITRL_OK;
    if (!kept->place) {
        kept->bytes = model->shape.width / type->block * type->bytes;
        kept->place = calloc(model->shape.vocabulary, sizeof *kept->place);
        if (!kept->place) return bitrl_fail(error, BITRL_NO_MEMORY, "no memory for rows of the embedding");
    }
    int ends[2] = {-1, -1}, status = BITRL_OK;
    for (size_t i = 0; i < count && !status; i++) {
        uint32_t *place = &kept->place[tokens[i]];
        const uint8_t *row = model->embedding->data + (size_t)tokens[i] * kept->bytes;
        if (*place) continue;
        if (!grow(kept))
            status = bitrl_fail(error, BITRL_NO_MEMORY, "no memory for rows of the embedding");
        else if (ends[0] < 0 && !open_pipe(ends))
            status = bitrl_fail(error, BITRL_NO_MEMORY, "no pipe can be opened: too many files are open");
        else if (!copy(ends, kept->rows + kept->count * kept->bytes, row, kept->bytes))
            status = bitrl_fail(error, BITRL_BAD_FILE,
                                "cannot be read any more: it lost its end, or its disk fails; start again");
        else
            *place = (uint32_t)++kept->count;
    }
    if (ends[0] >= 0) {
        close(ends[0]);
        close(ends[1]);
    }
    return status;
}

bool bitrl_embed(const bitrl_model *model, const kept_rows *kept, int32_t token, float *restrict out)
{
    size_t width = model->shape.width;
    if (model->replaced_embedding) {
        memcpy(out, model->replaced_embedding + (size_t)token * width, width * sizeof *out);
        return true;
    }
    if (!kept->place) return bitrl_read_row(out, model->embedding, model->i2s_arm, (uint64_t)token);
    bitrl_tensor row = *model->embedding;
    row.data = kept->rows + (kept->place[token] - 1) * kept->bytes;
    return bitrl_read_row(out, &row, model->i2s_arm, 0);
}

void bitrl_forget_rows(kept_rows *kept)
{
    free(kept->place);
    free(kept->rows);
}
