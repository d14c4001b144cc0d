/* From observations to features: the text of the last states and what the model makes of it, or their numbers. */
#ifndef BITRL_READING_H
#define BITRL_READING_H

#include "agent_file.h"
#include "bitrl_agent.h"
#include "observation.h"
#include "plan.h"

typedef struct features features;

int features_open(const plan *p, const json_node *root, const bitrl_file *file, const bitrl_agent_options *options,
                  const observation *observed, features **out);
void features_close(features *f);
size_t features_count(const features *f);

/* Features of the episode's states with the one just observed, which features_commit makes part of the episode. out:
 * [features_count]. The locale must be C's. */
int features_find(features *f, const observation *observed, float *out, char *error);
void features_commit(features *f);
void features_reset(features *f); /* another episode */
/* Makes room for texts twice as long as the last one. */
int features_warm(features *f, char *error);

const char *features_text(const features *f); /* the one read last; "" before and without a model */
const char *features_instruction_set(const features *f);

#endif
