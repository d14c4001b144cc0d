/* What networks (learning.c) and losses (losses.c) share: products by all threads of a learner. */
#ifndef BITRL_LEARNING_H
#define BITRL_LEARNING_H

#include "internal.h"

/* c = start + a b in float32, each number's products added one after another (kernels.h); then tanh, or what follows of it. */
typedef struct {
    float *c; /* [rows, columns], rows c_stride apart */
    size_t c_stride, rows, columns, steps;
    const float *a; /* [rows, steps], rows a_row apart and columns a_step */
    size_t a_row, a_step;
    const float *b; /* [steps, columns], rows b_step apart and columns b_column */
    size_t b_step, b_column;
    const float *start;       /* [columns], of every row; or NULL for zeros */
    float *sums;              /* [columns] takes the sums of b's rows; or NULL */
    bool is_tanh;             /* of each number */
    const float *tanh_before; /* as c: each number is multiplied with the slope of that tanh; or NULL */
} multiplication;

/* Several that do not wait for each other. */
void bitrl_multiply(bitrl_learner *learner, const multiplication *list, size_t count);
const bitrl_kernels *bitrl_learner_kernels(const bitrl_learner *learner);

#endif
