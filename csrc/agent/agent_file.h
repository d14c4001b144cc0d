/* What an agent's file holds beside its model. */
#ifndef BITRL_AGENT_FILE_H
#define BITRL_AGENT_FILE_H

#include "internal.h"

/* Its digests are those of its bytes; weights of files beyond 256 MiB are not read. */
int agent_file_verify(const bitrl_file *file, char *error);
/* The file's keys and tensors that are its model's. `file` must outlive it. */
int agent_file_model(const bitrl_file *file, bitrl_file **model, char *error);
/* An array of numbers, of that GGUF type; its count is 0, where `wanted` is not set, for a file without. */
int agent_file_array(const bitrl_file *file, const char *name, uint32_t type, bool wanted, const bitrl_key **key, char *error);
/* A row of float32 weights, all finite: [count] -> *out, to be freed. */
int agent_file_floats(const bitrl_file *file, const char *name, uint64_t count, float **out, char *error);

#endif
