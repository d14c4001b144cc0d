/* Learns with every instruction set of this CPU (or those given) and one, two and three threads: networks of several shapes
 * under every head, with a few steps of Adam. Prints "ok <checksum>" of what was learned, which must be the same bits for all; or
 * what differs. The last network is large enough for threads to share. For the sanitizers, and for other CPUs. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bitrl.h"

enum { LAYERS = 3, SAMPLES = 21, CHOICES = 5, COMMANDS = 9, KEY = 12, STEPS = 2 };

typedef enum { CATEGORICAL, MASKED, GAUSSIAN, CHOICE, HEADS } head;
static const uint64_t shapes[HEADS][LAYERS + 1] = {{70, 41, 33, CHOICES}, {1, 2, 1, CHOICES}, {17, 40, 64, CHOICES}, {500, 256, 70, KEY}};

static uint64_t state;
static char error[BITRL_ERROR_BYTES];

static float number(void)
{
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return (float)(int32_t)((state * 2685821657736338717u) >> 32) * 0x1p-31f;
}

static float *numbers(size_t n)
{
    float *out = malloc(n * sizeof *out);
    if (!out) exit(2);
    for (size_t i = 0; i < n; i++) out[i] = number();
    return out;
}

static void check(int status)
{
    if (!status) return;
    printf("error %s\n", error);
    exit(1);
}

/* The first layer's first weights, in which instruction set and threads have no part: made once. */
static const float *first_weights(const uint64_t *widths)
{
    static struct {
        const uint64_t *widths;
        float *weights;
    } made[HEADS + 1];
    size_t i = 0;
    while (made[i].widths && made[i].widths != widths) i++;
    if (!made[i].widths) {
        made[i].widths = widths;
        made[i].weights = calloc(widths[0] * widths[1], sizeof *made[i].weights);
        if (!made[i].weights) exit(2);
        check(bitrl_orthogonal(made[i].weights, widths[0], widths[1], 1.4142, widths[0], error));
    }
    return made[i].weights;
}

/* A network with its gradients and moments, initialised. */
typedef struct {
    bitrl_network *network;
    uint64_t size;
    float *parameters, *gradients, *means, *squares;
} learned;

static learned make(bitrl_learner *learner, const uint64_t *widths, uint64_t batch, uint64_t more)
{
    learned l = {0};
    check(bitrl_network_open(learner, widths, LAYERS, batch, &l.network, error));
    l.size = bitrl_network_parameters(l.network) + more;
    l.parameters = numbers(l.size), l.gradients = numbers(l.size);
    l.means = calloc(l.size, sizeof *l.means), l.squares = calloc(l.size, sizeof *l.squares);
    memcpy(l.parameters, first_weights(widths), widths[0] * widths[1] * sizeof *l.parameters);
    return l;
}

/* Steps of some networks, together. */
static void step(bitrl_learner *learner, learned *const *all, uint64_t count, uint64_t step)
{
    bitrl_adam_step steps[2], *list[2];
    for (uint64_t i = 0; i < count; i++) {
        learned *l = all[i];
        steps[i] = (bitrl_adam_step){l->parameters, l->gradients, l->means, l->squares, l->size, step, 0.01, 1e-5, 0.5, 0};
        list[i] = steps + i;
    }
    check(bitrl_adam(learner, list, count, error));
}

static uint64_t finish(learned *l, uint64_t checksum)
{
    for (size_t i = 0; i < l->size; i++) {
        uint32_t bits;
        memcpy(&bits, l->parameters + i, sizeof bits);
        checksum = (checksum ^ bits) * 1099511628211u;
    }
    bitrl_network_close(l->network);
    free(l->parameters), free(l->gradients), free(l->means), free(l->squares);
    return checksum;
}

/* Some steps under one head, on samples that a correction weighs. */
static uint64_t learn(bitrl_learner *learner, head which, uint64_t checksum)
{
    const uint64_t *widths = shapes[which], outputs = widths[LAYERS];
    static const uint64_t key_widths[LAYERS + 1] = {7, 20, 20, KEY};
    state = 88172645463325252u + which;
    learned policy = make(learner, widths, SAMPLES, which == GAUSSIAN ? outputs : 0), keys = make(learner, key_widths, COMMANDS, 0);
    float *inputs = numbers(SAMPLES * widths[0]), *commands = numbers(COMMANDS * key_widths[0]);
    float *taken = numbers(SAMPLES * CHOICES), *old = numbers(SAMPLES), *advantages = numbers(SAMPLES);
    float *weights = numbers(SAMPLES), *range = numbers(SAMPLES), *by_inputs = numbers(SAMPLES * widths[0]);
    float *out = numbers(SAMPLES * outputs), *by_out = numbers(SAMPLES * outputs), *key = numbers(COMMANDS * KEY), *by_key = numbers(COMMANDS * KEY);
    float *pairs = numbers(SAMPLES * COMMANDS), *logits = numbers(SAMPLES * CHOICES), *by_logits = numbers(SAMPLES * CHOICES);
    float *distribution = numbers(SAMPLES * CHOICES), *logarithms = numbers(SAMPLES * CHOICES), *deviations = numbers(CHOICES);
    float *log_probs = numbers(SAMPLES), *entropies = numbers(SAMPLES), *by_log_probs = numbers(SAMPLES);
    int64_t actions[SAMPLES], places[SAMPLES * CHOICES];
    uint8_t mask[SAMPLES * CHOICES], kept[SAMPLES];
    for (size_t i = 0; i < SAMPLES; i++) {
        actions[i] = (int64_t)(i % CHOICES), old[i] -= 2, range[i] = 0.6f + 0.4f * range[i] * range[i], kept[i] = i % 4 != 2;
        for (size_t c = 0; c < CHOICES; c++) {
            mask[i * CHOICES + c] = c == i % CHOICES || number() > 0;
            places[i * CHOICES + c] = (int64_t)(i + c * c) % COMMANDS;
        }
    }
    for (uint64_t t = 1; t <= STEPS; t++) {
        bitrl_clipped clipped;
        const float *scores = which == CHOICE ? logits : out;
        const bitrl_pass of_policy = {policy.network, policy.parameters, inputs, SAMPLES, out, by_out, policy.gradients, by_inputs};
        const bitrl_pass of_keys = {keys.network, keys.parameters, commands, COMMANDS, key, by_key, keys.gradients, NULL};
        const bitrl_pass *const passes[] = {&of_policy, &of_keys};
        learned *const both[] = {&policy, &keys};
        const uint64_t count = which == CHOICE ? 2 : 1;
        check(bitrl_networks_forward(learner, passes, count, error));
        if (which == CHOICE) {
            check(bitrl_choice_logits(learner, out, key, places, SAMPLES, KEY, COMMANDS, CHOICES, pairs, logits, error));
        }
        float *log_deviations = policy.parameters + policy.size - CHOICES;
        if (which == GAUSSIAN)
            bitrl_gaussian(learner, out, log_deviations, taken, SAMPLES, CHOICES, distribution, deviations, log_probs, entropies);
        else
            check(bitrl_categorical(learner, scores, which == CATEGORICAL ? NULL : mask, actions, SAMPLES, CHOICES, distribution,
                                    logarithms, log_probs, entropies, error));
        bitrl_clipped_loss(learner, log_probs, old, advantages, t > 1 ? weights : NULL, t > 1 ? range : NULL, t > 1 ? kept : NULL,
                           SAMPLES, 0.2, by_log_probs, &clipped);
        if (which == GAUSSIAN)
            bitrl_gaussian_backward(distribution, deviations, SAMPLES, CHOICES, by_log_probs, -0.001, by_out,
                                    policy.gradients + policy.size - CHOICES);
        else
            bitrl_categorical_backward(distribution, logarithms, entropies, actions, SAMPLES, CHOICES, by_log_probs, -0.001,
                                       which == CHOICE ? by_logits : by_out);
        if (which == CHOICE) {
            bitrl_choice_backward(learner, out, key, places, SAMPLES, KEY, COMMANDS, CHOICES, by_logits, pairs, by_out, by_key);
        }
        check(bitrl_networks_backward(learner, passes, count, error));
        step(learner, both, count, t);
        for (size_t i = 0; i < SAMPLES * widths[0]; i++) inputs[i] -= by_inputs[i];
        float by_values[SAMPLES];
        old[0] += (float)bitrl_squared_loss(old, advantages, SAMPLES, 0.5, by_values);
    }
    checksum = finish(&keys, finish(&policy, checksum));
    float *all[] = {inputs, commands, taken, old, advantages, weights, range, by_inputs, out, by_out, key, by_key, pairs, logits,
                    by_logits, distribution, logarithms, deviations, log_probs, entropies, by_log_probs};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
    return checksum;
}

static uint64_t learn_all(const char *isa, uint64_t count)
{
    bitrl_threads *threads = NULL;
    bitrl_learner *learner = NULL;
    uint64_t checksum = 14695981039346656037u;
    check(bitrl_threads_open(count, &threads, error));
    check(bitrl_learner_open(threads, isa, &learner, error));
    for (head which = 0; which < HEADS; which++) checksum = learn(learner, which, checksum);
    bitrl_learner_close(learner);
    bitrl_threads_close(threads);
    return checksum;
}

int main(int count, char **arguments)
{
    uint64_t first = 0;
    for (uint64_t i = 0; count > 1 ? i + 1 < (uint64_t)count : bitrl_instruction_set(i) != NULL; i++) {
        const char *isa = count > 1 ? arguments[i + 1] : bitrl_instruction_set(i);
        for (uint64_t threads = 1; threads <= 3; threads++) {
            uint64_t checksum = learn_all(isa, threads);
            if (!first) first = checksum;
            if (checksum != first) {
                printf("differs: %s with %d threads\n", isa, (int)threads);
                return 1;
            }
        }
    }
    printf("ok %016llx\n", (unsigned long long)first);
    return 0;
}
