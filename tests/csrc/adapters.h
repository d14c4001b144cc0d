/* Low-rank adapters for every projection of a model, of several ranks, for the programs that run the engine outside Python. */
#include <stdio.h>
#include <stdlib.h>

#include "bitrl.h"

static int adapt_all(bitrl_model *model, char *error)
{
    const bitrl_shape *shape = bitrl_model_shape(model);
    const uint64_t width = shape->width, ffn = shape->ffn, q = shape->heads * shape->head_dim;
    const uint64_t kv = shape->kv_heads * shape->head_dim;
    const struct {
        const char *name;
        uint64_t rows, columns, rank;
    } projections[] = {{"attn_q", q, width, 1},       {"attn_k", kv, width, 7},      {"attn_v", kv, width, 16},
                       {"attn_output", width, q, 17}, {"ffn_gate", ffn, width, 2},   {"ffn_up", ffn, width, 9},
                       {"ffn_down", width, ffn, 3}};
    int status = BITRL_OK;
    for (uint64_t block = 0; !status && block < shape->blocks; block++)
        for (size_t i = 0; !status && i < sizeof projections / sizeof *projections; i++) {
            uint64_t rows = projections[i].rows, columns = projections[i].columns, rank = projections[i].rank;
            rank = rank > rows ? rows : rank;
            rank = rank > columns ? columns : rank;
            float *down = malloc(rank * columns * sizeof *down), *up = malloc(rows * rank * sizeof *up);
            char name[64];
            snprintf(name, sizeof name, "blk.%llu.%s.weight", (unsigned long long)block, projections[i].name);
            for (size_t j = 0; down && j < rank * columns; j++) down[j] = (float)(j * 7919 % 1009) / 5045.0f - 0.1f;
            for (size_t j = 0; up && j < rows * rank; j++) up[j] = (float)(j * 104729 % 997) / 4985.0f - 0.1f;
            status = down && up ? bitrl_model_adapt(model, name, down, up, rank, rows, columns, error) : BITRL_NO_MEMORY;
            free(down);
            free(up);
        }
    return status;
}
