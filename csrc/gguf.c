/* A small reader of GGUF files (versions 2 and 3): the header is copied, the data stay in the file; or the same table from a
 * caller.
 *
 * Every length is checked against the bytes that are left before it is used, and memory grows with what was really
 * read, so a damaged or hostile file is an error message. It knows the container, not what a model is. */
#define _DEFAULT_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <float.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "internal.h"

enum { MAX_NAME = 65535, FIRST_BYTES = 1 << 20, MOST_HEADER = 1 << 28, MOST_COMPARED = 1 << 12 };

struct bitrl_file {
    int descriptor; /* above 2; else there is none */
    uint64_t size, data_offset;
    bitrl_key *keys; /* in the file's order */
    const bitrl_key **keys_by_name;
    uint64_t key_count;
    bitrl_tensor *tensors;
    const bitrl_tensor **tensors_by_name;
    uint64_t tensor_count;
    uint8_t *owned;     /* names and values: the header, or copies of a caller's */
    bool hugging_face; /* see bitrl_file_is_hugging_face; false for GGUF */
};

/* A place in the file, of which the first `held` bytes are in memory. `bad` is sticky: after a failed read every value is zero
 * and the caller checks once. */
typedef struct {
    const uint8_t *bytes;
    uint64_t size, held, at;
    bool bad, more; /* more: the file goes on, but not in memory */
} cursor;

static const uint8_t *take(cursor *c, uint64_t bytes)
{
    if (c->bad || bytes > c->size - c->at) {
        c->bad = true;
        return NULL;
    }
    if (bytes > c->held - c->at) {
        c->bad = c->more = true;
        return NULL;
    }
    const uint8_t *here = c->bytes + c->at;
    c->at += bytes;
    return here;
}

static uint32_t take_u32(cursor *c)
{
    uint32_t value = 0;
    const uint8_t *from = take(c, sizeof value);
    if (from) memcpy(&value, from, sizeof value);
    return value;
}

static uint64_t take_u64(cursor *c)
{
    uint64_t value = 0;
    const uint8_t *from = take(c, sizeof value);
    if (from) memcpy(&value, from, sizeof value);
    return value;
}

/* Bytes of a fixed-size GGUF value, 0 for strings, arrays and types that do not exist. */
static uint64_t value_bytes(uint32_t type)
{
    static const uint8_t bytes[13] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    return type < 13 ? bytes[type] : 0;
}

/* Moves past `count` values of one type. */
static bool skip_values(cursor *c, uint32_t type, uint64_t count)
{
    if (type == GGUF_STRING) {
        for (uint64_t i = 0; i < count && !c->bad; i++) take(c, take_u64(c));
    } else {
        uint64_t each = value_bytes(type);
        if (each == 0 || count > c->size / each) return false;
        take(c, count * each);
    }
    return !c->bad;
}

static bool read_key(cursor *c, bitrl_key *key)
{
    key->name_bytes = take_u64(c);
    if (key->name_bytes == 0 || key->name_bytes > MAX_NAME) return false;
    key->name = (const char *)take(c, key->name_bytes);
    key->type = key->element_type = take_u32(c);
    key->count = 1;
    if (key->type == GGUF_ARRAY) {
        key->element_type = take_u32(c);
        key->count = take_u64(c);
        if (key->element_type == GGUF_ARRAY) return false; /* nested arrays: nobody writes them */
    }
    if (c->bad) return false;
    key->value = c->bytes + c->at;
    uint64_t start = c->at;
    if (!skip_values(c, key->element_type, key->count)) return false;
    key->value_bytes = c->at - start;
    return true;
}

static int unknown_type(const bitrl_tensor *tensor, char *error)
{
    int name_bytes = tensor->name_bytes > 80 ? 80 : (int)tensor->name_bytes;
    return bitrl_fail(error, BITRL_BAD_FILE, "has tensor %.*s in a type that GGUF does not have (%u)", name_bytes, tensor->name,
                      (unsigned)tensor->type);
}

/* Shape and type; sets the tensor's bytes. */
static int check_tensor(bitrl_tensor *tensor, char *error)
{
    int name_bytes = tensor->name_bytes > 80 ? 80 : (int)tensor->name_bytes;
    uint64_t n = 1;
    for (uint32_t d = 0; d < 4; d++) {
        if (tensor->shape[d] == 0 || tensor->shape[d] > (UINT64_MAX >> 4) / n)
            return bitrl_fail(error, BITRL_BAD_FILE, "is damaged: tensor %.*s has an impossible shape", name_bytes,
                              tensor->name);
        n *= tensor->shape[d];
    }
    tensor->bytes = bitrl_tensor_bytes(tensor->type, n, tensor->shape[0]);
    if (tensor->bytes) return BITRL_OK;
    const weight_type *type = bitrl_weight_type(tensor->type);
    const char *name = bitrl_any_type_name(tensor->type);
    if (type && !type->read) /* which do not lie row by row */
        return bitrl_fail(error, BITRL_BAD_FILE, "is damaged: tensor %.*s has a shape that %s cannot have", name_bytes,
                          tensor->name, type->name);
    if (type)
        return bitrl_fail(error, BITRL_BAD_FILE, "is damaged: tensor %.*s has rows of %llu weights; in type %s they have a multiple of %u",
                          name_bytes, tensor->name, (unsigned long long)tensor->shape[0], type->name, (unsigned)type->block);
    if (!name) return unknown_type(tensor, error);
    return bitrl_fail(error, BITRL_BAD_FILE,
                      "has tensor %.*s in type %s, which is not supported; supported are F32, F16, BF16, Q4_0, Q4_1, Q5_0, "
                      "Q5_1, Q8_0, Q2_K to Q6_K, IQ4_NL, TQ1_0, TQ2_0, Q1_0, Q2_0, I2_S",
                      name_bytes, tensor->name, name);
}

static int bad_dimensions(const bitrl_tensor *tensor, char *error)
{
    int name_bytes = tensor->name_bytes > 80 ? 80 : (int)tensor->name_bytes;
    return bitrl_fail(error, BITRL_BAD_FILE, "is damaged: tensor %.*s has %u dimensions", name_bytes, tensor->name,
                      (unsigned)tensor->dims);
}

static int read_tensor(cursor *c, bitrl_tensor *tensor, uint64_t *offset, char *error)
{
    tensor->name_bytes = take_u64(c);
    if (tensor->name_bytes == 0 || tensor->name_bytes > MAX_NAME) c->bad = true;
    tensor->name = (const char *)take(c, tensor->name_bytes);
    tensor->dims = take_u32(c);
    if (!c->bad && (tensor->dims < 1 || tensor->dims > 4)) return bad_dimensions(tensor, error);
    for (uint32_t d = 0; d < 4; d++) tensor->shape[d] = d < tensor->dims ? take_u64(c) : 1;
    tensor->type = take_u32(c);
    *offset = take_u64(c);
    if (c->bad) return bitrl_fail(error, BITRL_BAD_FILE, "is damaged: its list of tensors cannot be read");
    if (tensor->type >= OWN_TYPES) return unknown_type(tensor, error);
    tensor->scale = 1;
    return check_tensor(tensor, error);
}

static int compare_names(const char *a, uint64_t a_bytes, const char *b, uint64_t b_bytes)
{
    int order = memcmp(a, b, a_bytes < b_bytes ? a_bytes : b_bytes);
    return order ? order : (a_bytes > b_bytes) - (a_bytes < b_bytes);
}

static int compare_keys(const void *a, const void *b)
{
    const bitrl_key *x = *(const bitrl_key *const *)a, *y = *(const bitrl_key *const *)b;
    return compare_names(x->name, x->name_bytes, y->name, y->name_bytes);
}

static int compare_tensors(const void *a, const void *b)
{
    const bitrl_tensor *x = *(const bitrl_tensor *const *)a, *y = *(const bitrl_tensor *const *)b;
    return compare_names(x->name, x->name_bytes, y->name, y->name_bytes);
}

static int sort_keys(bitrl_file *file, char *error)
{
    for (uint64_t i = 0; i < file->key_count; i++) file->keys_by_name[i] = &file->keys[i];
    qsort(file->keys_by_name, file->key_count, sizeof *file->keys_by_name, compare_keys);
    for (uint64_t i = 1; i < file->key_count; i++)
        if (compare_keys(&file->keys_by_name[i - 1], &file->keys_by_name[i]) == 0) {
            int bytes = file->keys_by_name[i]->name_bytes > 80 ? 80 : (int)file->keys_by_name[i]->name_bytes;
            return bitrl_fail(error, BITRL_BAD_FILE, "is damaged: it has the key %.*s twice", bytes,
                              file->keys_by_name[i]->name);
        }
    return BITRL_OK;
}

static int sort_tensors(bitrl_file *file, char *error)
{
    for (uint64_t i = 0; i < file->tensor_count; i++) file->tensors_by_name[i] = &file->tensors[i];
    qsort(file->tensors_by_name, file->tensor_count, sizeof *file->tensors_by_name, compare_tensors);
    for (uint64_t i = 1; i < file->tensor_count; i++)
        if (compare_tensors(&file->tensors_by_name[i - 1], &file->tensors_by_name[i]) == 0) {
            int bytes = file->tensors_by_name[i]->name_bytes > 80 ? 80 : (int)file->tensors_by_name[i]->name_bytes;
            return bitrl_fail(error, BITRL_BAD_FILE, "is damaged: it has the tensor %.*s twice", bytes,
                              file->tensors_by_name[i]->name);
        }
    return BITRL_OK;
}

/* Room for the file's counts of keys and tensors. */
static int allocate_keys(bitrl_file *file, char *error)
{
    file->keys = calloc(file->key_count + 1, sizeof *file->keys);
    file->keys_by_name = calloc(file->key_count + 1, sizeof *file->keys_by_name);
    if (file->keys && file->keys_by_name) return BITRL_OK;
    return bitrl_fail(error, BITRL_NO_MEMORY, "does not fit in memory");
}

static int allocate_tensors(bitrl_file *file, char *error)
{
    file->tensors = calloc(file->tensor_count + 1, sizeof *file->tensors);
    file->tensors_by_name = calloc(file->tensor_count + 1, sizeof *file->tensors_by_name);
    if (file->tensors && file->tensors_by_name) return BITRL_OK;
    return bitrl_fail(error, BITRL_NO_MEMORY, "does not fit in memory");
}

static int read_keys(bitrl_file *file, cursor *c, char *error)
{
    /* A key takes at least 14 bytes: the claimed count bounds what is allocated by the size of the file. */
    if (file->key_count > (c->size - c->at) / 14)
        return bitrl_fail(error, BITRL_BAD_FILE, "is damaged: it claims %llu metadata keys",
                          (unsigned long long)file->key_count);
    int status = allocate_keys(file, error);
    for (uint64_t i = 0; i < file->key_count && status == BITRL_OK; i++)
        if (!read_key(c, &file->keys[i]))
            status = bitrl_fail(error, BITRL_BAD_FILE, "is damaged or truncated: metadata key %llu of %llu cannot be read",
                                (unsigned long long)(i + 1), (unsigned long long)file->key_count);
    return status ? status : sort_keys(file, error);
}

/* Type 42 is Q2_0 in blocks of 64 weights, or of 128 in files of Bonsai's publisher, which take an eighteenth less. There, no
 * tensor has room for blocks of 64 before the next one, or the end; where padding could hide that, it says nothing. */
static void find_long_blocks(bitrl_file *file, const uint64_t *offsets, uint64_t alignment)
{
    bool longer = false, shorter = file->tensor_count > MOST_COMPARED;
    for (uint64_t i = 0; i < file->tensor_count && !shorter; i++) {
        const bitrl_tensor *t = &file->tensors[i];
        uint64_t end = file->size - file->data_offset;
        if (t->type != GGML_Q2_0 || t->bytes / 18 < alignment) continue;
        for (uint64_t j = 0; j < file->tensor_count; j++)
            if (offsets[j] > offsets[i] && offsets[j] < end) end = offsets[j];
        bool fits = offsets[i] <= end && t->bytes <= end - offsets[i];
        longer |= !fits;
        shorter |= fits;
    }
    for (uint64_t i = 0; i < file->tensor_count && longer && !shorter; i++) {
        bitrl_tensor *t = &file->tensors[i];
        uint64_t bytes = t->type == GGML_Q2_0 ? bitrl_tensor_bytes(Q2_0_LONG, t->bytes / 18 * 64, t->shape[0]) : 0;
        if (bytes) t->type = Q2_0_LONG, t->bytes = bytes;
    }
}

static int read_tensors(bitrl_file *file, cursor *c, char *error)
{
    if (file->tensor_count > (c->size - c->at) / 33) /* the least a tensor's entry takes */
        return bitrl_fail(error, BITRL_BAD_FILE, "is damaged: it claims %llu tensors",
                          (unsigned long long)file->tensor_count);
    uint64_t *offsets = calloc(file->tensor_count + 1, sizeof *offsets);
    int status = allocate_tensors(file, error);
    if (!offsets && status == BITRL_OK) status = bitrl_fail(error, BITRL_NO_MEMORY, "does not fit in memory");
    for (uint64_t i = 0; i < file->tensor_count && status == BITRL_OK; i++)
        status = read_tensor(c, &file->tensors[i], &offsets[i], error);

    uint64_t alignment = 32;
    const bitrl_key *key = status == BITRL_OK ? bitrl_file_find_key(file, "general.alignment") : NULL;
    if (key) {
        uint32_t value = 0;
        if (key->type == GGUF_UINT32) memcpy(&value, key->value, sizeof value);
        if (value < 1 || value > 65536 || (value & (value - 1)))
            status = bitrl_fail(error, BITRL_BAD_FILE, "is damaged: general.alignment is not a power of two up to 65536");
        alignment = value;
    }
    if (status == BITRL_OK) {
        file->data_offset = (c->at + alignment - 1) / alignment * alignment;
        if (file->data_offset > file->size) file->data_offset = file->size;
        find_long_blocks(file, offsets, alignment);
    }
    for (uint64_t i = 0; i < file->tensor_count && status == BITRL_OK; i++) {
        bitrl_tensor *tensor = &file->tensors[i];
        int bytes = tensor->name_bytes > 80 ? 80 : (int)tensor->name_bytes;
        uint64_t room = file->size - file->data_offset;
        if (offsets[i] % alignment)
            status = bitrl_fail(error, BITRL_BAD_FILE, "is damaged: tensor %.*s is not aligned", bytes, tensor->name);
        else if (offsets[i] > room || tensor->bytes > room - offsets[i])
            status = bitrl_fail(error, BITRL_BAD_FILE, "is truncated or damaged: tensor %.*s lies beyond its end", bytes,
                                tensor->name);
        else
            tensor->descriptor = file->descriptor, tensor->offset = file->data_offset + offsets[i];
    }
    free(offsets);
    return status ? status : sort_tensors(file, error);
}

/* Opens a regular file of some size. Its descriptor is above 2, whatever streams are closed. */
static int open_file(bitrl_file *file, const char *path, char *error)
{
    struct stat status;
    int first = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (first < 0) return bitrl_fail(error, BITRL_BAD_FILE, "cannot be opened: %s", strerror(errno));
    file->descriptor = fcntl(first, F_DUPFD_CLOEXEC, 3);
    close(first);
    if (file->descriptor < 0) return bitrl_fail(error, BITRL_BAD_FILE, "cannot be opened: %s", strerror(errno));
    if (fstat(file->descriptor, &status) != 0)
        return bitrl_fail(error, BITRL_BAD_FILE, "cannot be read: %s", strerror(errno));
    if (!S_ISREG(status.st_mode)) return bitrl_fail(error, BITRL_BAD_FILE, "is not a file");
    if (status.st_size < 24)
        return bitrl_fail(error, BITRL_BAD_FILE, "is not a GGUF file (%lld bytes)", (long long)status.st_size);
    file->size = (uint64_t)status.st_size;
    return BITRL_OK;
}

static int compare_places(const void *a, const void *b)
{
    const bitrl_tensor *x = *(const bitrl_tensor *const *)a, *y = *(const bitrl_tensor *const *)b;
    return (x->offset > y->offset) - (x->offset < y->offset);
}

/* No byte belongs to two tensors: what a model takes is bounded by the size of its file. */
static int check_overlaps(bitrl_file *file, char *error)
{
    const bitrl_tensor **sorted = file->tensors_by_name;
    qsort(sorted, file->tensor_count, sizeof *sorted, compare_places);
    for (uint64_t i = 1; i < file->tensor_count; i++)
        if (sorted[i]->offset < sorted[i - 1]->offset + sorted[i - 1]->bytes)
            return bitrl_fail(error, BITRL_BAD_FILE, "is damaged: tensor %.*s lies on top of another",
                              sorted[i]->name_bytes > 80 ? 80 : (int)sorted[i]->name_bytes, sorted[i]->name);
    qsort(sorted, file->tensor_count, sizeof *sorted, compare_tensors);
    return BITRL_OK;
}

static void forget_table(bitrl_file *file)
{
    free(file->keys);
    free(file->keys_by_name);
    free(file->tensors);
    free(file->tensors_by_name);
    file->keys = NULL, file->keys_by_name = NULL, file->tensors = NULL, file->tensors_by_name = NULL;
}

/* The table in the file's first `held` bytes; *more: they are too few to tell. */
static int read_header(bitrl_file *file, uint64_t held, bool *more, char *error)
{
    uint8_t *header = realloc(file->owned, held);
    if (!header) return bitrl_fail(error, BITRL_NO_MEMORY, "does not fit in memory");
    file->owned = header;
    if (!bitrl_read_file(file->descriptor, 0, header, held)) return bitrl_fail(error, BITRL_BAD_FILE, LOST);
    cursor c = {.bytes = header, .size = file->size, .held = held, .at = 4};
    uint32_t version = take_u32(&c);
    int status = BITRL_OK;
    if (memcmp(header, "GGUF", 4) != 0)
        status = bitrl_fail(error, BITRL_BAD_FILE, "is not a GGUF file");
    else if (version != 2 && version != 3)
        status = bitrl_fail(error, BITRL_BAD_FILE, "is GGUF version %u; versions 2 and 3 are supported", (unsigned)version);
    file->tensor_count = take_u64(&c);
    file->key_count = take_u64(&c);
    if (status == BITRL_OK) status = read_keys(file, &c, error);
    if (status == BITRL_OK) status = read_tensors(file, &c, error);
    if (status == BITRL_OK) status = check_overlaps(file, error);
    *more = c.more;
    return status;
}

int bitrl_file_open(const char *path, bitrl_file **out, char *error)
{
    *out = NULL;
    bitrl_file *file = calloc(1, sizeof *file);
    if (!file) return bitrl_fail(error, BITRL_NO_MEMORY, "does not fit in memory");
    int status = open_file(file, path, error);
    bool more = status == BITRL_OK;
    for (uint64_t held = FIRST_BYTES; more; held *= 4) {
        more = false;
        forget_table(file);
        status = read_header(file, held < file->size ? held : file->size, &more, error);
        if (more && held >= MOST_HEADER) {
            status = bitrl_fail(error, BITRL_BAD_FILE, "is damaged: its header takes more than %d MiB", MOST_HEADER >> 20);
            more = false;
        }
    }
    if (status == BITRL_OK)
        *out = file;
    else
        bitrl_file_close(file);
    return status;
}

/* Copies n bytes to *to, which moves on. */
static const uint8_t *copy(uint8_t **to, const void *from, uint64_t n)
{
    uint8_t *here = *to;
    memcpy(here, from, n);
    *to += n;
    return here;
}

static int copy_keys(bitrl_file *file, const bitrl_key *keys, uint8_t **to, char *error)
{
    int status = allocate_keys(file, error);
    for (uint64_t i = 0; i < file->key_count && status == BITRL_OK; i++) {
        bitrl_key *key = &file->keys[i];
        *key = keys[i];
        key->name = (const char *)copy(to, key->name, key->name_bytes);
        key->value = copy(to, key->value, key->value_bytes);
        cursor c = {.bytes = key->value, .size = key->value_bytes, .held = key->value_bytes};
        bool array = key->type == GGUF_ARRAY;
        if ((!array && (key->element_type != key->type || key->count != 1)) || key->element_type == GGUF_ARRAY ||
            !skip_values(&c, key->element_type, key->count) || c.at != c.size)
            status = bitrl_fail(error, BITRL_BAD_FILE, "has a wrong value for key %.*s",
                                key->name_bytes > 80 ? 80 : (int)key->name_bytes, key->name);
    }
    return status ? status : sort_keys(file, error);
}

static int copy_tensors(bitrl_file *file, const bitrl_tensor *tensors, uint8_t **to, char *error)
{
    int status = allocate_tensors(file, error);
    for (uint64_t i = 0; i < file->tensor_count && status == BITRL_OK; i++) {
        bitrl_tensor *tensor = &file->tensors[i];
        *tensor = tensors[i];
        tensor->name = (const char *)copy(to, tensor->name, tensor->name_bytes);
        int name_bytes = tensor->name_bytes > 80 ? 80 : (int)tensor->name_bytes;
        for (uint32_t d = tensor->dims; d < 4; d++) tensor->shape[d] = 1;
        status = tensor->dims < 1 || tensor->dims > 4 ? bad_dimensions(tensor, error) : check_tensor(tensor, error);
        if (!status && ((!tensor->data && tensor->descriptor <= 2) || tensor->bytes != tensors[i].bytes))
            status = bitrl_fail(error, BITRL_BAD_FILE, "is damaged: tensor %.*s has %llu bytes; its shape needs %llu",
                                name_bytes, tensor->name, (unsigned long long)tensors[i].bytes,
                                (unsigned long long)tensor->bytes);
        if (!status && !(tensor->scale > 0 && tensor->scale <= FLT_MAX))
            status = bitrl_fail(error, BITRL_BAD_FILE, "is damaged: %.*s has the scale %g", name_bytes, tensor->name,
                                (double)tensor->scale);
        if (!status) file->size += tensor->bytes;
    }
    return status ? status : sort_tensors(file, error);
}

int bitrl_file_assemble(const bitrl_key *keys, uint64_t key_count, const bitrl_tensor *tensors, uint64_t tensor_count,
                        int hugging_face, bitrl_file **out, char *error)
{
    *out = NULL;
    bitrl_file *file = calloc(1, sizeof *file);
    if (!file) return bitrl_fail(error, BITRL_NO_MEMORY, "does not fit in memory");
    file->key_count = key_count;
    file->tensor_count = tensor_count;
    file->hugging_face = hugging_face;
    uint64_t bytes = 1;
    bool named = true;
    for (uint64_t i = 0; i < key_count; i++) {
        bytes += keys[i].name_bytes + keys[i].value_bytes;
        named &= keys[i].name_bytes > 0 && keys[i].name_bytes <= MAX_NAME;
    }
    for (uint64_t i = 0; i < tensor_count; i++) {
        bytes += tensors[i].name_bytes;
        named &= tensors[i].name_bytes > 0 && tensors[i].name_bytes <= MAX_NAME;
    }
    uint8_t *to = file->owned = malloc(bytes);
    int status = BITRL_OK;
    if (!named) status = bitrl_fail(error, BITRL_BAD_FILE, "has a name of no or too many bytes");
    if (!to) status = bitrl_fail(error, BITRL_NO_MEMORY, "does not fit in memory");
    if (status == BITRL_OK) status = copy_keys(file, keys, &to, error);
    if (status == BITRL_OK) status = copy_tensors(file, tensors, &to, error);
    if (status == BITRL_OK)
        *out = file;
    else
        bitrl_file_close(file);
    return status;
}

int bitrl_file_join(bitrl_file *const *parts, uint64_t count, bitrl_file **out, char *error)
{
    *out = NULL;
    bitrl_file *file = calloc(1, sizeof *file);
    if (!file) return bitrl_fail(error, BITRL_NO_MEMORY, "does not fit in memory");
    file->key_count = parts[0]->key_count;
    file->data_offset = parts[0]->data_offset;
    for (uint64_t i = 0; i < count; i++) {
        file->size += parts[i]->size;
        file->tensor_count += parts[i]->tensor_count;
    }
    int status = allocate_keys(file, error);
    if (status == BITRL_OK) {
        memcpy(file->keys, parts[0]->keys, file->key_count * sizeof *file->keys);
        status = sort_keys(file, error);
    }
    if (status == BITRL_OK) status = allocate_tensors(file, error);
    bitrl_tensor *to = file->tensors;
    for (uint64_t i = 0; i < count && status == BITRL_OK; to += parts[i++]->tensor_count)
        memcpy(to, parts[i]->tensors, parts[i]->tensor_count * sizeof *to);
    if (status == BITRL_OK) status = sort_tensors(file, error);
    if (status == BITRL_OK)
        *out = file;
    else
        bitrl_file_close(file);
    return status;
}

void bitrl_file_close(bitrl_file *file)
{
    if (!file) return;
    if (file->descriptor > 2) close(file->descriptor);
    forget_table(file);
    free(file->owned);
    free(file);
}

bool bitrl_file_is_hugging_face(const bitrl_file *file) { return file->hugging_face; }
uint64_t bitrl_file_size(const bitrl_file *file) { return file->size; }
uint64_t bitrl_file_data_offset(const bitrl_file *file) { return file->data_offset; }
uint64_t bitrl_file_key_count(const bitrl_file *file) { return file->key_count; }
uint64_t bitrl_file_tensor_count(const bitrl_file *file) { return file->tensor_count; }

const bitrl_key *bitrl_file_key(const bitrl_file *file, uint64_t i)
{
    return i < file->key_count ? &file->keys[i] : NULL;
}

const bitrl_tensor *bitrl_file_tensor(const bitrl_file *file, uint64_t i)
{
    return i < file->tensor_count ? &file->tensors[i] : NULL;
}

const bitrl_key *bitrl_file_find_key(const bitrl_file *file, const char *name)
{
    bitrl_key wanted = {.name = name, .name_bytes = strlen(name)};
    const bitrl_key *pointer = &wanted;
    const bitrl_key **found =
        bsearch(&pointer, file->keys_by_name, file->key_count, sizeof *file->keys_by_name, compare_keys);
    return found ? *found : NULL;
}

const bitrl_tensor *bitrl_file_find_tensor(const bitrl_file *file, const char *name)
{
    bitrl_tensor wanted = {.name = name, .name_bytes = strlen(name)};
    const bitrl_tensor *pointer = &wanted;
    const bitrl_tensor **found =
        bsearch(&pointer, file->tensors_by_name, file->tensor_count, sizeof *file->tensors_by_name, compare_tensors);
    return found ? *found : NULL;
}
