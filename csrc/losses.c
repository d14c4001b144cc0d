/* Distributions over actions, their gradients by a network's outputs, and the losses of PPO.
 *
 * All of them are small beside the networks (learning.c), so they are plain C for every CPU, sums in the order of the samples
 * and choices and in double precision; exponentials and logarithms are the kernels'. */
#include <math.h>
#include <string.h>

#include "learning.h"

#define HALF_LOG_TWO_PI 0.91893853320467274178
static const float HIDDEN = -1e9f; /* logarithm of a probability that is exactly zero, but finite */

int bitrl_categorical(bitrl_learner *learner, const float *logits, const uint8_t *mask, const int64_t *actions, uint64_t samples,
                      uint64_t choices, float *distribution, float *logarithms, float *log_probs, float *entropies, char *error)
{
    const bitrl_kernels *kernels = bitrl_learner_kernels(learner);
    for (size_t s = 0; s < samples; s++) {
        const float *row = logits + s * choices;
        float most = -INFINITY;
        bool any = !mask;
        if (actions[s] < 0 || (uint64_t)actions[s] >= choices)
            return bitrl_fail(error, BITRL_BAD_ARGUMENT, "expected actions from 0 to %llu, got %lld", (unsigned long long)choices - 1,
                              (long long)actions[s]);
        for (size_t i = 0; i < choices; i++) {
            if (mask && !mask[s * choices + i]) continue;
            if (row[i] > most) most = row[i];
            any = true;
        }
        if (!any) return bitrl_fail(error, BITRL_BAD_ARGUMENT, "the action mask of sample %zu admits no action", s);
        for (size_t i = 0; i < choices; i++)
            logarithms[s * choices + i] = mask && !mask[s * choices + i] ? -INFINITY : row[i] - most;
    }
    kernels->exps(distribution, logarithms, samples * choices);
    for (size_t s = 0; s < samples; s++) {
        double sum = 0;
        for (size_t i = 0; i < choices; i++) sum += (double)distribution[s * choices + i];
        log_probs[s] = (float)sum;
    }
    kernels->logs(entropies, log_probs, samples);
    for (size_t s = 0; s < samples; s++) {
        double entropy = 0;
        for (size_t i = s * choices; i < (s + 1) * choices; i++) {
            distribution[i] /= log_probs[s];
            logarithms[i] = mask && !mask[i] ? HIDDEN : logarithms[i] - entropies[s];
            entropy -= (double)distribution[i] * (double)logarithms[i];
        }
        log_probs[s] = logarithms[s * choices + (size_t)actions[s]];
        entropies[s] = (float)entropy;
    }
    return BITRL_OK;
}

/* d log p(a) / d logits = 1_a - p, d entropy / d logits = -p (log p + entropy). */
void bitrl_categorical_backward(const float *distribution, const float *logarithms, const float *entropies,
                                const int64_t *actions, uint64_t samples, uint64_t choices, const float *by_log_probs,
                                double by_entropies, float *by_logits)
{
    const float beta = (float)by_entropies;
    for (size_t s = 0; s < samples; s++) {
        for (size_t i = s * choices; i < (s + 1) * choices; i++)
            by_logits[i] = -distribution[i] * (by_log_probs[s] + beta * (logarithms[i] + entropies[s]));
        by_logits[s * choices + (size_t)actions[s]] += by_log_probs[s];
    }
}

void bitrl_gaussian(bitrl_learner *learner, const float *means, const float *log_deviations, const float *actions,
                    uint64_t samples, uint64_t dims, float *standard, float *deviations, float *log_probs, float *entropies)
{
    double entropy = 0, constant = 0;
    bitrl_learner_kernels(learner)->exps(deviations, log_deviations, dims);
    for (size_t d = 0; d < dims; d++) {
        entropy += (double)log_deviations[d] + (0.5 + HALF_LOG_TWO_PI);
        constant += (double)log_deviations[d] + HALF_LOG_TWO_PI;
    }
    for (size_t s = 0; s < samples; s++) {
        double sum = 0;
        for (size_t d = 0; d < dims; d++) {
            const float u = (actions[s * dims + d] - means[s * dims + d]) / deviations[d];
            standard[s * dims + d] = u;
            sum += (double)u * (double)u;
        }
        log_probs[s] = (float)(-(0.5 * sum + constant));
        entropies[s] = (float)entropy;
    }
}

/* With u = (a - mean) / deviation: d log p / d mean = u / deviation, d log p / d log deviation = u^2 - 1, d entropy / d log
 * deviation = 1. */
void bitrl_gaussian_backward(const float *standard, const float *deviations, uint64_t samples, uint64_t dims,
                             const float *by_log_probs, double by_entropies, float *by_means, float *by_log_deviations)
{
    for (size_t d = 0; d < dims; d++) {
        double sum = by_entropies * (double)samples;
        for (size_t s = 0; s < samples; s++) {
            const double u = (double)standard[s * dims + d];
            sum += (double)by_log_probs[s] * (u * u - 1);
            by_means[s * dims + d] = by_log_probs[s] * standard[s * dims + d] / deviations[d];
        }
        by_log_deviations[d] = (float)sum;
    }
}

int bitrl_choice_logits(bitrl_learner *learner, const float *queries, const float *keys, const int64_t *places, uint64_t samples,
                        uint64_t width, uint64_t commands, uint64_t choices, float *pairs, float *logits, char *error)
{
    const float scale = (float)(1 / sqrt((double)width));
    for (size_t i = 0; i < samples * choices; i++)
        if (places[i] < 0 || (uint64_t)places[i] >= commands)
            return bitrl_fail(error, BITRL_BAD_ARGUMENT, "expected places from 0 to %llu, got %lld", (unsigned long long)commands - 1,
                              (long long)places[i]);
    const multiplication m = {.c = pairs, .c_stride = commands, .rows = samples, .columns = commands, .steps = width,
                              .a = queries, .a_row = width, .a_step = 1, .b = keys, .b_step = 1, .b_column = width};
    bitrl_multiply(learner, &m, 1);
    for (size_t s = 0; s < samples; s++)
        for (size_t i = s * choices; i < (s + 1) * choices; i++) logits[i] = pairs[s * commands + (size_t)places[i]] * scale;
    return BITRL_OK;
}

void bitrl_choice_backward(bitrl_learner *learner, const float *queries, const float *keys, const int64_t *places,
                           uint64_t samples, uint64_t width, uint64_t commands, uint64_t choices, const float *by_logits,
                           float *pairs, float *by_queries, float *by_keys)
{
    const float scale = (float)(1 / sqrt((double)width));
    memset(pairs, 0, samples * commands * sizeof *pairs);
    for (size_t s = 0; s < samples; s++) /* a command may be among a sample's choices more than once */
        for (size_t i = s * choices; i < (s + 1) * choices; i++) pairs[s * commands + (size_t)places[i]] += by_logits[i] * scale;
    const multiplication list[] = {
        {.c = by_queries, .c_stride = width, .rows = samples, .columns = width, .steps = commands, .a = pairs, .a_row = commands,
         .a_step = 1, .b = keys, .b_step = width, .b_column = 1},
        {.c = by_keys, .c_stride = width, .rows = commands, .columns = width, .steps = samples, .a = pairs, .a_row = 1,
         .a_step = commands, .b = queries, .b_step = width, .b_column = 1},
    };
    bitrl_multiply(learner, list, 2);
}

/* Mean and what to divide by, of advantages whose standard deviation shall be 1. */
static void standardise(const float *x, size_t n, float *mean, float *by)
{
    double sum = 0, squares = 0;
    *mean = 0, *by = 1;
    if (n < 2) return;
    for (size_t i = 0; i < n; i++) sum += (double)x[i];
    const double middle = sum / (double)n;
    for (size_t i = 0; i < n; i++) squares += ((double)x[i] - middle) * ((double)x[i] - middle);
    *mean = (float)middle;
    *by = (float)(sqrt(squares / (double)(n - 1)) + 1e-8);
}

void bitrl_clipped_loss(bitrl_learner *learner, const float *log_probs, const float *old_log_probs, const float *advantages,
                        const float *weights, const float *range, const uint8_t *kept, uint64_t samples, double clip,
                        float *by_log_probs, bitrl_clipped *clipped)
{
    static const float limit = 20; /* of corrected log-ratios; at it there is no gradient */
    const bool corrected = weights || range || kept;
    const float least = (float)(1 - clip), most = (float)(1 + clip);
    double loss = 0, kl = 0, outside = 0;
    size_t counted = 0;
    float mean, by, *ratios = by_log_probs;
    standardise(advantages, samples, &mean, &by);
    for (size_t i = 0; i < samples; i++) {
        float log_ratio = kept && !kept[i] ? 0 : log_probs[i] - old_log_probs[i];
        if (corrected) log_ratio = log_ratio > limit ? limit : log_ratio < -limit ? -limit : log_ratio;
        ratios[i] = log_ratio;
        counted += !kept || kept[i];
        kl -= (double)log_ratio;
    }
    if (counted < 1) counted = 1;
    bitrl_learner_kernels(learner)->exps(ratios, ratios, samples);
    for (size_t i = 0; i < samples; i++) {
        const float ratio = ratios[i], upper = range ? most / range[i] : most;
        float advantage = (advantages[i] - mean) / by;
        if (weights) advantage *= weights[i];
        if (kept && !kept[i]) advantage = 0;
        if (corrected && !(fabsf(log_probs[i] - old_log_probs[i]) < limit)) advantage = 0;
        const float above = ratio < least ? least : ratio, bounded = above > upper ? upper : above; /* NaN stays */
        const float unclipped = ratio * advantage, clipped_one = bounded * advantage;
        kl += (double)ratio - 1;
        outside += bounded != ratio;
        loss -= (double)(clipped_one < unclipped ? clipped_one : unclipped);
        by_log_probs[i] = unclipped <= clipped_one ? unclipped / -(float)counted : 0;
    }
    *clipped = (bitrl_clipped){loss / (double)counted, kl / (double)counted, outside / (double)counted};
}

double bitrl_squared_loss(const float *values, const float *returns, uint64_t samples, double coefficient, float *by_values)
{
    const float by = (float)(2 * coefficient / (double)samples);
    double sum = 0;
    for (size_t i = 0; i < samples; i++) {
        const float error = values[i] - returns[i];
        sum += (double)error * (double)error;
        by_values[i] = by * error;
    }
    return sum / (double)samples;
}
