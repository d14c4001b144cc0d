/* Checking observations, as plain_observations.py of core/acting does: type, shape, range, nothing that is not finite. */
#include "observation.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

enum { MOST_LEAVES = 4096, MOST_PATH = 128, MOST_DIMS = 8, MOST_VALUES = 1 << 24, MOST_TEXT = 1 << 24, SHOWN = 60, LEAST_BYTES = 1 << 16 };

typedef enum { FLOAT32, FLOAT64, BOOLEAN, INTEGER, STRING } leaf_type;
typedef enum { IGNORED, NUMBERS, TEXT_PART, MASK } leaf_use;

/* Into a mapping by name, or into a list of so many parts. */
typedef struct {
    char *name;
    uint32_t index, count;
} step;

typedef struct {
    step *path;
    size_t steps;
    char *called; /* what errors call it */
    leaf_type type;
    double low, end; /* of INTEGER: the least, and the first above the largest */
    size_t dims, shape[MOST_DIMS], values;
    size_t longest; /* characters of STRING */
    leaf_use use;
    size_t at; /* where its numbers begin, or which text it is */
} leaf;

struct observation {
    leaf *leaves;
    size_t count, number_count, text_count, choices, values, bytes;
    double *numbers, *read; /* [number_count], [the most values of a leaf] */
    text_part *texts;       /* [text_count], into memory of their own */
    uint8_t *mask;          /* [choices] */
    char **memory;          /* [text_count] */
};

/* ---- its form ---- */

static char *copy_string(const plan *p, const json_node *node)
{
    const size_t bytes = json_string(p->json, node, NULL, 0);
    char *out = malloc(bytes + 1);
    if (!out) return NULL;
    json_string(p->json, node, out, bytes);
    out[bytes] = 0;
    return out;
}

static int read_path(const plan *p, const json_node *object, leaf *l)
{
    const json_node *path = plan_field(p, object, "path", JSON_ARRAY), *called = plan_field(p, object, "called", JSON_STRING);
    if (!path || !called) return BITRL_BAD_FILE;
    if (path->count > MOST_PATH) return plan_wrong(p, "path");
    l->called = copy_string(p, called);
    l->path = calloc(path->count + 1, sizeof *l->path);
    if (!l->path || !l->called) return bitrl_fail(p->error, BITRL_NO_MEMORY, "no memory for the form of an observation");
    const json_node *node = json_first(path);
    for (size_t i = 0; i < path->count; i++, node = json_after(p->json, node)) {
        step *s = &l->path[l->steps++];
        int64_t index, count;
        if (node->kind == JSON_STRING) {
            if (!(s->name = copy_string(p, node))) return bitrl_fail(p->error, BITRL_NO_MEMORY, "no memory for the form of an observation");
            continue;
        }
        if (node->kind != JSON_ARRAY || node->count != 2 || !json_integer(p->json, json_first(node), &index) ||
            !json_integer(p->json, json_first(node) + 1, &count) || index < 0 || index >= count || count > MOST_LEAVES)
            return plan_wrong(p, "path");
        s->index = (uint32_t)index;
        s->count = (uint32_t)count;
    }
    return BITRL_OK;
}

static int read_type(const plan *p, const json_node *object, leaf *l)
{
    static const struct {
        const char *name;
        leaf_type type;
        double low, end;
    } types[] = {{"float32", FLOAT32, 0, 0},          {"float64", FLOAT64, 0, 0},   {"bool", BOOLEAN, 0, 2},
                 {"int8", INTEGER, -0x1p7, 0x1p7},    {"uint8", INTEGER, 0, 0x1p8},   {"int16", INTEGER, -0x1p15, 0x1p15},
                 {"uint16", INTEGER, 0, 0x1p16},      {"int32", INTEGER, -0x1p31, 0x1p31}, {"uint32", INTEGER, 0, 0x1p32},
                 {"int64", INTEGER, -0x1p63, 0x1p63}, {"uint64", INTEGER, 0, 0x1p64}, {"string", STRING, 0, 0}};
    const json_node *type = plan_field(p, object, "type", JSON_STRING);
    for (size_t i = 0; type && i < sizeof types / sizeof *types; i++)
        if (json_is(p->json, type, types[i].name)) {
            l->type = types[i].type;
            l->low = types[i].low;
            l->end = types[i].end;
            return BITRL_OK;
        }
    return plan_wrong(p, "type");
}

static int read_size(const plan *p, const json_node *object, leaf *l)
{
    int64_t longest;
    if (l->type == STRING) {
        int status = plan_integer(p, object, "longest", 0, MOST_TEXT, -1, &longest);
        l->longest = (size_t)longest;
        return status;
    }
    const json_node *shape = plan_field(p, object, "shape", JSON_ARRAY);
    if (!shape) return BITRL_BAD_FILE;
    if (shape->count > MOST_DIMS) return plan_wrong(p, "shape");
    const json_node *node = json_first(shape);
    l->values = 1;
    for (l->dims = 0; l->dims < shape->count; node = json_after(p->json, node)) {
        int64_t size;
        if (node->kind != JSON_INTEGER || !json_integer(p->json, node, &size) || size < 0 || size > MOST_VALUES) return plan_wrong(p, "shape");
        l->shape[l->dims++] = (size_t)size;
        l->values *= (size_t)size;
        if (l->values > MOST_VALUES) return plan_wrong(p, "shape");
    }
    return BITRL_OK;
}

static int read_leaf(const plan *p, const json_node *object, observation *o, leaf *l)
{
    int status = read_path(p, object, l);
    if (!status) status = read_type(p, object, l);
    if (!status) status = read_size(p, object, l);
    if (status) return status;
    if (plan_is(p, object, "use", "mask")) {
        if (l->type == STRING || o->choices || !l->values) return plan_wrong(p, "use");
        l->use = MASK;
        o->choices = l->values;
    } else if (plan_is(p, object, "use", "state")) {
        l->use = l->type == STRING ? TEXT_PART : NUMBERS;
        l->at = l->type == STRING ? o->text_count++ : o->number_count;
        o->number_count += l->values;
    }
    o->values += l->values;
    o->bytes += 64 * l->values + 12 * l->longest + 256;
    return o->values > MOST_VALUES || o->bytes > (1u << 31) ? plan_wrong(p, "observation") : BITRL_OK;
}

int observation_open(const plan *p, const json_node *root, observation **out)
{
    *out = NULL;
    const json_node *array = plan_field(p, root, "observation", JSON_ARRAY);
    if (!array) return BITRL_BAD_FILE;
    if (array->count < 1 || array->count > MOST_LEAVES) return plan_wrong(p, "observation");
    observation *o = calloc(1, sizeof *o);
    if (!o) return bitrl_fail(p->error, BITRL_NO_MEMORY, "no memory for the form of an observation");
    o->bytes = LEAST_BYTES;
    o->leaves = calloc(array->count, sizeof *o->leaves);
    int status = o->leaves ? BITRL_OK : bitrl_fail(p->error, BITRL_NO_MEMORY, "no memory for the form of an observation");
    const json_node *node = json_first(array);
    for (size_t i = 0; !status && i < array->count; i++, node = json_after(p->json, node)) status = read_leaf(p, node, o, &o->leaves[o->count++]);
    if (!status) {
        o->numbers = calloc(o->number_count + 1, sizeof *o->numbers);
        o->read = calloc(o->values + 1, sizeof *o->read);
        o->texts = calloc(o->text_count + 1, sizeof *o->texts);
        o->memory = calloc(o->text_count + 1, sizeof *o->memory);
        o->mask = calloc(o->choices + 1, sizeof *o->mask);
        bool held = o->numbers && o->read && o->texts && o->memory && o->mask;
        for (size_t i = 0; held && i < o->count; i++) {
            const leaf *l = &o->leaves[i];
            if (l->use != TEXT_PART) continue;
            o->texts[l->at].most = 4 * l->longest;
            o->texts[l->at].bytes = o->memory[l->at] = malloc(4 * l->longest + 1);
            held = o->memory[l->at] != NULL;
        }
        if (!held) status = bitrl_fail(p->error, BITRL_NO_MEMORY, "no memory for an observation of %zu numbers", o->values);
    }
    if (status)
        observation_close(o);
    else
        *out = o;
    return status;
}

void observation_close(observation *o)
{
    if (!o) return;
    for (size_t i = 0; i < o->count; i++) {
        for (size_t s = 0; s < o->leaves[i].steps; s++) free(o->leaves[i].path[s].name);
        free(o->leaves[i].path);
        free(o->leaves[i].called);
    }
    for (size_t i = 0; o->memory && i < o->text_count; i++) free(o->memory[i]);
    free(o->leaves);
    free(o->numbers);
    free(o->read);
    free(o->texts);
    free(o->memory);
    free(o->mask);
    free(o);
}

size_t observation_numbers(const observation *o) { return o->number_count; }
size_t observation_choices(const observation *o) { return o->choices; }
size_t observation_texts(const observation *o) { return o->text_count; }
size_t observation_values(const observation *o) { return o->values; }
size_t observation_bytes(const observation *o) { return o->bytes; }
const double *observed_numbers(const observation *o) { return o->numbers; }
const text_part *observed_texts(const observation *o) { return o->texts; }
const uint8_t *observed_mask(const observation *o) { return o->choices ? o->mask : NULL; }

/* ---- one of them ---- */

static const char *shape_of(const leaf *l, char out[128])
{
    size_t at = 0;
    if (!l->dims) return "a number";
    for (size_t d = 0; d < l->dims; d++) at += (size_t)snprintf(out + at, 128 - at, "%s%zu", d ? " by " : "", l->shape[d]);
    snprintf(out + at, 128 - at, " numbers");
    return out;
}

static int wrong_shape(const json *j, const json_node *node, const leaf *l, char *error)
{
    char shape[128];
    const bool quoted = node->kind == JSON_STRING;
    const uint32_t begin = node->begin - quoted, end = node->end + quoted;
    const int bytes = end - begin > SHOWN ? SHOWN : (int)(end - begin);
    return bitrl_fail(error, BITRL_BAD_ARGUMENT, "%.80s: expected %s, got %.*s%s", l->called, shape_of(l, shape), bytes,
                      j->text + begin, bytes == SHOWN ? "..." : "");
}

/* Whether a value has the shape of a leaf from a dimension on; *fractions: not all of it are integers. */
static bool has_shape(const json *j, const json_node *node, const leaf *l, size_t dim, bool *fractions)
{
    if (dim == l->dims) {
        *fractions |= node->kind == JSON_FRACTION;
        return node->kind == JSON_INTEGER || node->kind == JSON_FRACTION || node->kind == JSON_TRUE || node->kind == JSON_FALSE;
    }
    if (node->kind != JSON_ARRAY || node->count != l->shape[dim]) return false;
    const json_node *inside = json_first(node);
    for (uint32_t i = 0; i < node->count; i++, inside = json_after(j, inside))
        if (!has_shape(j, inside, l, dim + 1, fractions)) return false;
    return true;
}

/* A number as the leaf's type holds it; false, and what is wrong with it. */
static bool convert(const leaf *l, double given, double *out, const char **wrong)
{
    *wrong = "expected finite numbers, no NaN or infinity";
    if (!isfinite(given)) return false;
    *out = l->type == FLOAT32 ? (double)(float)given : given;
    if (!isfinite(*out)) return false;
    if (l->type == FLOAT32 || l->type == FLOAT64) return true;
    *wrong = "expected integers in the range of the environment's type";
    return given == rint(given) && given >= l->low && given < l->end;
}

/* The same of an integer, true or false of a text: exact where the leaf holds integers, whose largest have no double. */
static bool convert_integer(const leaf *l, const json *j, const json_node *node, double *out, const char **wrong)
{
    int64_t small;
    uint64_t large;
    if (l->type != INTEGER) return convert(l, json_number(j, node), out, wrong);
    *wrong = "expected integers in the range of the environment's type";
    *out = json_number(j, node);
    if (json_integer(j, node, &small)) return *out >= l->low && (*out < l->end || l->end >= 0x1p63);
    return l->end == 0x1p64 && json_natural(j, node, &large);
}

static int wrong_number(const leaf *l, const char *wrong, char *error)
{
    return bitrl_fail(error, BITRL_BAD_ARGUMENT, "%.80s: %s", l->called, wrong);
}

static int read_numbers(observation *o, const json *j, const json_node *node, const leaf *l, char *error)
{
    bool fractions = false;
    if (!has_shape(j, node, l, 0, &fractions)) return wrong_shape(j, node, l, error);
    double *to = o->read;
    for (const json_node *each = node; each < j->nodes + node->next; each++) {
        const char *wrong;
        int64_t integer;
        if (each->kind == JSON_ARRAY) continue;
        if (!(each->kind == JSON_FRACTION ? convert(l, json_number(j, each), to, &wrong) : convert_integer(l, j, each, to, &wrong)))
            return wrong_number(l, wrong, error);
        if (l->type == FLOAT32 && !fractions && json_integer(j, each, &integer)) *to = (double)(float)integer; /* rounded once */
        to++;
    }
    return BITRL_OK;
}

static int read_text(observation *o, const json *j, const json_node *node, const leaf *l, char *error)
{
    char *to = l->use == TEXT_PART ? o->memory[l->at] : NULL;
    const size_t most = 4 * l->longest;
    if (node->kind != JSON_STRING) return bitrl_fail(error, BITRL_BAD_ARGUMENT, "%.80s: expected a string", l->called);
    size_t bytes = json_string(j, node, to, to ? most : 0), characters = 0;
    if (to && bytes <= most) {
        while (bytes && !to[bytes - 1]) bytes--; /* as NumPy's strings end */
        for (size_t i = 0; i < bytes; i++) characters += ((unsigned char)to[i] & 0xc0) != 0x80;
        o->texts[l->at].count = bytes;
    }
    if (bytes > most || characters > l->longest)
        return bitrl_fail(error, BITRL_BAD_ARGUMENT, "%.80s: expected at most %zu characters", l->called, l->longest);
    return BITRL_OK;
}

/* The value at a leaf's path. */
static int find(const json *j, const json_node *node, const leaf *l, const json_node **out, char *error)
{
    for (const step *s = l->path; s < l->path + l->steps; s++) {
        if (s->name) {
            if (!(node = json_find(j, node, s->name)))
                return bitrl_fail(error, BITRL_BAD_ARGUMENT, "observation: the key \"%.80s\" is missing", s->name);
            continue;
        }
        if (node->kind != JSON_ARRAY || node->count != s->count)
            return bitrl_fail(error, BITRL_BAD_ARGUMENT, "observation: expected a list of its %u parts", (unsigned)s->count);
        const json_node *inside = json_first(node);
        for (uint32_t i = 0; i < s->index; i++) inside = json_after(j, inside);
        node = inside;
    }
    *out = node;
    return BITRL_OK;
}

static int take(observation *o, const leaf *l, char *error)
{
    bool any = false;
    if (l->use == NUMBERS) memcpy(o->numbers + l->at, o->read, l->values * sizeof *o->read);
    for (size_t i = 0; l->use == MASK && i < l->values; i++) any |= o->mask[i] = o->read[i] != 0;
    if (l->use != MASK || any) return BITRL_OK;
    return bitrl_fail(error, BITRL_BAD_ARGUMENT, "%.80s: forbids every action: set at least one entry to 1", l->called);
}

int observation_read(observation *o, const json *j, const json_node *node, char *error)
{
    int status = BITRL_OK;
    for (size_t i = 0; !status && i < o->count; i++) {
        const leaf *l = &o->leaves[i];
        const json_node *value = NULL;
        status = find(j, node, l, &value, error);
        if (!status) status = l->type == STRING ? read_text(o, j, value, l, error) : read_numbers(o, j, value, l, error);
        if (!status) status = take(o, l, error);
    }
    return status;
}

int observation_take(observation *o, const double *numbers, const uint8_t *mask, char *error)
{
    int status = BITRL_OK;
    for (size_t i = 0; !status && i < o->count; i++) {
        const leaf *l = &o->leaves[i];
        const char *wrong;
        if (l->use == TEXT_PART) return bitrl_fail(error, BITRL_BAD_ARGUMENT, "%.80s: a text, which numbers do not say", l->called);
        if (l->use == MASK && !mask) return bitrl_fail(error, BITRL_BAD_ARGUMENT, "%.80s: expected a mask, got none", l->called);
        for (size_t n = 0; !status && l->use != IGNORED && n < l->values; n++)
            if (!convert(l, l->use == MASK ? mask[n] : numbers[l->at + n], &o->read[n], &wrong)) status = wrong_number(l, wrong, error);
        if (!status) status = take(o, l, error);
    }
    return status;
}
