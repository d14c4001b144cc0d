/* Rows of the embedding, read from the file when their tokens are first met: it is too large to be kept in memory whole. */
#include <stdlib.h>
#include <string.h>

#include "internal.h"

enum { FEWEST = 64 }; /* rows there is room for */

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
    for (size_t i = 0; i < count; i++) {
        uint32_t *place = &kept->place[tokens[i]];
        if (*place) continue;
        if (!grow(kept)) return bitrl_fail(error, BITRL_NO_MEMORY, "no memory for rows of the embedding");
        uint8_t *to = kept->rows + kept->count * kept->bytes;
        if (!bitrl_copy_bytes(model->embedding, (uint64_t)tokens[i] * kept->bytes, to, kept->bytes))
            return bitrl_fail(error, BITRL_BAD_FILE, LOST);
        *place = (uint32_t)++kept->count;
    }
    return BITRL_OK;
}

bool bitrl_embed(const bitrl_model *model, const kept_rows *kept, int32_t token, float *restrict out)
{
    size_t width = model->shape.width;
    if (model->replaced_embedding) {
        memcpy(out, model->replaced_embedding + (size_t)token * width, width * sizeof *out);
        return true;
    }
    uint8_t bytes[SMALL_WINDOW];
    window w = {.bytes = bytes, .room = sizeof bytes};
    if (!kept->place) return bitrl_read_row(out, model->embedding, model->i2s_arm, (uint64_t)token, &w) == ROW_READ;
    bitrl_tensor row = *model->embedding;
    row.data = kept->rows + (kept->place[token] - 1) * kept->bytes;
    return bitrl_read_row(out, &row, model->i2s_arm, 0, &w) == ROW_READ;
}

void bitrl_forget_rows(kept_rows *kept)
{
    free(kept->place);
    free(kept->rows);
}
