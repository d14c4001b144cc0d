/* What an agent's file says in JSON, read with every field checked. */
#ifndef BITRL_PLAN_H
#define BITRL_PLAN_H

#include "json.h"

typedef struct {
    const json *json;
    char *error;
} plan;

/* The field of that name and kind, which must be there; NULL where it is not, and the error says so. Of JSON_FRACTION, an
 * integer will do. */
const json_node *plan_field(const plan *p, const json_node *object, const char *name, json_kind kind);
/* An integer field from low to high; `otherwise` where there is none, unless that is below low. BITRL_BAD_FILE: it is none. */
int plan_integer(const plan *p, const json_node *object, const char *name, int64_t low, int64_t high, int64_t otherwise, int64_t *out);
/* A finite number. */
int plan_number(const plan *p, const json_node *object, const char *name, double *out);
/* An array of `count` numbers -> out: [count]; null is `unset`. */
int plan_numbers(const plan *p, const json_node *object, const char *name, size_t count, double unset, double *out);
bool plan_is(const plan *p, const json_node *object, const char *name, const char *text);
int plan_wrong(const plan *p, const char *name);

#endif
