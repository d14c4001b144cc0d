/* From features to actions: a policy network, and what its outputs mean. */
#ifndef BITRL_ACTIONS_H
#define BITRL_ACTIONS_H

#include "agent_file.h"
#include "plan.h"

typedef struct actions actions;

/* From the "network" and the "action" of a plan, for states of so many features and a mask of `choices` (0: none). */
int actions_open(const plan *p, const json_node *root, const bitrl_file *file, const char *isa, size_t features, size_t choices, actions **out);
void actions_close(actions *a);
size_t actions_count(const actions *a);

/* The greedy action for features: [features] and a mask, or NULL -> out: [actions_count]. */
int actions_choose(actions *a, const float *features, const uint8_t *mask, double *out, char *error);
/* An action as JSON; it stays until the next call. The locale must be C's. */
const char *actions_written(actions *a, const double *action);
/* The shortest digits that are this finite number, as Python writes them -> out: [40], not terminated; how many. */
size_t write_float(double x, char *out);

#endif
