/* Agents' files: GGUF, with the keys "bitrl.agent…" and the tensors "agent.…" beside those of a model, and sealed as
 * plugins/backbones/files/model_file.py says. */
#include "agent_file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sha256.h"

enum { AT_ONCE = 1 << 16, DIGITS = 64 };
#define TENSOR_KEY "bitrl.tensor_sha256"
#define HEADER_KEY "bitrl.header_sha256"
static const uint64_t most_read = 256 << 20;

/* Where the digits of a digest stand in a header: [bytes]; NULL unless they do once. */
static uint8_t *digits_of(uint8_t *header, size_t bytes, const char *name)
{
    uint8_t before[64], *found = NULL;
    const uint64_t length = strlen(name), digits = DIGITS;
    const uint32_t type = GGUF_STRING;
    memcpy(before, &length, 8);
    memcpy(before + 8, name, length);
    memcpy(before + 8 + length, &type, 4);
    memcpy(before + 12 + length, &digits, 8);
    const size_t n = 20 + length;
    for (size_t i = 0; i + n + DIGITS <= bytes; i++) {
        if (header[i] != before[0] || memcmp(header + i, before, n) != 0) continue;
        if (found) return NULL;
        found = header + i + n;
    }
    return found;
}

int agent_file_verify(const bitrl_file *file, char *error)
{
    const bitrl_tensor *first = bitrl_file_tensor(file, 0);
    if (!first) return bitrl_fail(error, BITRL_BAD_FILE, "has no tensors");
    const uint64_t header_bytes = bitrl_file_data_offset(file), size = bitrl_file_size(file);
    uint8_t *header = malloc(header_bytes + AT_ONCE);
    if (!header) return bitrl_fail(error, BITRL_NO_MEMORY, "does not fit in memory");
    int status = bitrl_read_file(first->descriptor, 0, header, header_bytes) ? BITRL_OK : bitrl_fail(error, BITRL_BAD_FILE, LOST);
    char of_header[DIGITS], of_tensors[DIGITS], found[DIGITS];
    uint8_t *place = status ? NULL : digits_of(header, header_bytes, HEADER_KEY);
    uint8_t *tensor_place = status ? NULL : digits_of(header, header_bytes, TENSOR_KEY);
    if (!status && (!place || !tensor_place)) status = bitrl_fail(error, BITRL_BAD_FILE, "is damaged: it has no checksum of itself");
    if (!status) {
        sha256 s;
        memcpy(of_header, place, DIGITS);
        memcpy(of_tensors, tensor_place, DIGITS);
        memset(place, '0', DIGITS);
        sha256_begin(&s);
        sha256_add(&s, header, header_bytes);
        sha256_end(&s, found);
        if (memcmp(found, of_header, DIGITS) != 0)
            status = bitrl_fail(error, BITRL_BAD_FILE, "is damaged: its header does not match its checksum; copy or export it again");
    }
    sha256 s;
    sha256_begin(&s);
    for (uint64_t at = header_bytes; !status && size <= most_read && at < size;) {
        const size_t n = size - at < AT_ONCE ? (size_t)(size - at) : AT_ONCE;
        if (!bitrl_read_file(first->descriptor, at, header + header_bytes, n)) status = bitrl_fail(error, BITRL_BAD_FILE, LOST);
        sha256_add(&s, header + header_bytes, n);
        at += n;
    }
    sha256_end(&s, found);
    if (!status && size <= most_read && memcmp(found, of_tensors, DIGITS) != 0)
        status = bitrl_fail(error, BITRL_BAD_FILE, "is damaged: its weights do not match their checksum; copy or export it again");
    free(header);
    return status;
}

static bool begins(const char *name, uint64_t bytes, const char *with)
{
    return bytes >= strlen(with) && memcmp(name, with, strlen(with)) == 0;
}

int agent_file_model(const bitrl_file *file, bitrl_file **model, char *error)
{
    *model = NULL;
    const uint64_t key_count = bitrl_file_key_count(file), tensor_count = bitrl_file_tensor_count(file);
    bitrl_key *keys = calloc(key_count + 1, sizeof *keys);
    bitrl_tensor *tensors = calloc(tensor_count + 1, sizeof *tensors);
    uint64_t own_keys = 0, own_tensors = 0;
    for (uint64_t i = 0; keys && i < key_count; i++) {
        const bitrl_key *key = bitrl_file_key(file, i);
        if (!begins(key->name, key->name_bytes, "bitrl.")) keys[own_keys++] = *key;
    }
    for (uint64_t i = 0; tensors && i < tensor_count; i++) {
        const bitrl_tensor *tensor = bitrl_file_tensor(file, i);
        if (!begins(tensor->name, tensor->name_bytes, "agent.")) tensors[own_tensors++] = *tensor;
    }
    int status = keys && tensors ? bitrl_file_assemble(keys, own_keys, tensors, own_tensors, 0, model, error)
                                 : bitrl_fail(error, BITRL_NO_MEMORY, "does not fit in memory");
    free(keys);
    free(tensors);
    return status;
}

int agent_file_array(const bitrl_file *file, const char *name, uint32_t type, bool wanted, const bitrl_key **out, char *error)
{
    static const bitrl_key none = {0};
    const bitrl_key *key = bitrl_file_find_key(file, name);
    *out = key ? key : &none;
    if (!key && !wanted) return BITRL_OK;
    if (key && key->type == GGUF_ARRAY && key->element_type == type) return BITRL_OK;
    return bitrl_fail(error, BITRL_BAD_FILE, "is damaged, or of another version of bitrl: its %s cannot be", name);
}

int agent_file_floats(const bitrl_file *file, const char *name, uint64_t count, float **out, char *error)
{
    const bitrl_tensor *tensor = bitrl_file_find_tensor(file, name);
    *out = NULL;
    if (!tensor || tensor->type != GGML_F32 || tensor->dims != 1 || tensor->shape[0] != count)
        return bitrl_fail(error, BITRL_BAD_FILE, "is damaged: expected %llu numbers as %s, got %llu", (unsigned long long)count, name,
                          tensor ? (unsigned long long)tensor->shape[0] : 0ull);
    float *values = malloc(count * sizeof *values + 1);
    if (!values) return bitrl_fail(error, BITRL_NO_MEMORY, "does not fit in memory");
    int status = bitrl_copy_bytes(tensor, 0, (uint8_t *)values, count * sizeof *values) ? BITRL_OK : bitrl_fail(error, BITRL_BAD_FILE, LOST);
    if (!status && !bitrl_all_finite(values, count)) status = bitrl_fail(error, BITRL_BAD_FILE, "is damaged: %s is not finite", name);
    if (status)
        free(values);
    else
        *out = values;
    return status;
}
