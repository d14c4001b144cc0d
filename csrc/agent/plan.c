/* Fields of an agent's plan. */
#include "plan.h"

#include <math.h>

#include "internal.h"

int plan_wrong(const plan *p, const char *name)
{
    return bitrl_fail(p->error, BITRL_BAD_FILE, "is damaged, or of another version of bitrl: its \"%s\" cannot be", name);
}

const json_node *plan_field(const plan *p, const json_node *object, const char *name, json_kind kind)
{
    const json_node *found = json_find(p->json, object, name);
    if (found && (found->kind == kind || (kind == JSON_FRACTION && found->kind == JSON_INTEGER))) return found;
    plan_wrong(p, name);
    return NULL;
}

int plan_integer(const plan *p, const json_node *object, const char *name, int64_t low, int64_t high, int64_t otherwise, int64_t *out)
{
    const json_node *found = json_find(p->json, object, name);
    *out = otherwise;
    if (!found && otherwise >= low) return BITRL_OK;
    if (!found || found->kind != JSON_INTEGER || !json_integer(p->json, found, out) || *out < low || *out > high) return plan_wrong(p, name);
    return BITRL_OK;
}

int plan_number(const plan *p, const json_node *object, const char *name, double *out)
{
    const json_node *found = plan_field(p, object, name, JSON_FRACTION);
    if (!found) return BITRL_BAD_FILE;
    *out = json_number(p->json, found);
    return isfinite(*out) ? BITRL_OK : plan_wrong(p, name);
}

int plan_numbers(const plan *p, const json_node *object, const char *name, size_t count, double unset, double *out)
{
    const json_node *array = plan_field(p, object, name, JSON_ARRAY);
    if (!array) return BITRL_BAD_FILE;
    if (array->count != count) return plan_wrong(p, name);
    const json_node *node = json_first(array);
    for (size_t i = 0; i < count; i++, node = json_after(p->json, node)) {
        if (node->kind != JSON_NULL && node->kind != JSON_INTEGER && node->kind != JSON_FRACTION) return plan_wrong(p, name);
        out[i] = node->kind == JSON_NULL ? unset : json_number(p->json, node);
        if (node->kind != JSON_NULL && !isfinite(out[i])) return plan_wrong(p, name);
    }
    return BITRL_OK;
}

bool plan_is(const plan *p, const json_node *object, const char *name, const char *text)
{
    const json_node *found = json_find(p->json, object, name);
    return found && json_is(p->json, found, text);
}
