/* A strict JSON reader: a text becomes a row of nodes, in the caller's memory. */
#ifndef BITRL_JSON_H
#define BITRL_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum { JSON_NULL, JSON_FALSE, JSON_TRUE, JSON_INTEGER, JSON_FRACTION, JSON_STRING, JSON_ARRAY, JSON_OBJECT } json_kind;

/* A value; those inside it follow it in the row, each name of an object before its value. */
typedef struct {
    json_kind kind;
    uint32_t begin, end; /* its bytes in the text; of a string without the quotes */
    uint32_t count;      /* of values directly inside */
    uint32_t next;       /* the node after it and all that is inside it */
} json_node;

typedef struct {
    const char *text; /* [bytes] */
    size_t bytes;
    json_node *nodes; /* [capacity] */
    size_t capacity, used;
} json;

enum { JSON_DEPTH = 128, JSON_NAMES = 512, JSON_DIGITS = 1000 };

/* Reads one value, and nothing after it: UTF-8 with no byte order mark but at the beginning, no name twice in an object, at
 * most JSON_NAMES of them, JSON_DEPTH values inside each other and JSON_DIGITS bytes of a number. BITRL_BAD_ARGUMENT says
 * what is wrong, and at which byte. */
int json_read(json *j, char *error);

/* The value of that name in an object; NULL where there is none. */
const json_node *json_find(const json *j, const json_node *object, const char *name);
/* The first value inside an array; the next one is json_after. */
const json_node *json_first(const json_node *array);
const json_node *json_after(const json *j, const json_node *node);
bool json_is(const json *j, const json_node *string, const char *text);
/* A string's bytes, escapes resolved -> out: [room]; how many there are, which may be more than room. */
size_t json_string(const json *j, const json_node *string, char *out, size_t room);
/* A number, true or false. The locale must have a point in its numbers. */
double json_number(const json *j, const json_node *node);
/* An integer, true or false; false where 64 bits do not hold it. */
bool json_integer(const json *j, const json_node *node, int64_t *out);
/* The same of those from 0. */
bool json_natural(const json *j, const json_node *node, uint64_t *out);

#endif
