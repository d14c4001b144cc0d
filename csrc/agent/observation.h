/* Observations: JSON, or a row of numbers, as what an agent's file says that they are. */
#ifndef BITRL_OBSERVATION_H
#define BITRL_OBSERVATION_H

#include "plan.h"
#include "writer.h"

typedef struct observation observation; /* its form, and the one read last */

/* From the "observation" of a plan. */
int observation_open(const plan *p, const json_node *root, observation **out);
void observation_close(observation *o);

size_t observation_numbers(const observation *o);
size_t observation_choices(const observation *o); /* numbers of its action mask; 0: it has none */
size_t observation_texts(const observation *o);
size_t observation_values(const observation *o); /* numbers of all its parts */
size_t observation_bytes(const observation *o);  /* of its JSON, at most */

/* Reads one; BITRL_BAD_ARGUMENT says what is wrong with it. The locale must be C's. */
int observation_read(observation *o, const json *j, const json_node *node, char *error);
/* Takes numbers: [observation_numbers], and a mask: [observation_choices], or NULL where there is none. */
int observation_take(observation *o, const double *numbers, const uint8_t *mask, char *error);

/* What was read. */
const double *observed_numbers(const observation *o);
const text_part *observed_texts(const observation *o); /* also before anything was read, for `most` */
const uint8_t *observed_mask(const observation *o);    /* [observation_choices], not 0 where a choice is admissible; or NULL */

#endif
