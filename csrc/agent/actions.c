/* Policies: the greedy actions of policies.py in core/acting. A network's outputs have the bits of the learner that trained it.
 *
 * Does not know where features come from. */
#include "actions.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_LAYERS = 64, MOST_WIDTH = 1 << 20, MOST_PARAMETERS = 1 << 28, MOST_DIMS = 8, NUMBER = 40 };

static const double EXACT = 0x1p53; /* integers up to here are exact, as c_agents.py holds the bounds of actions to be */

typedef enum { DISCRETE, CONTINUOUS, CODEBOOK } action_kind;
typedef enum { FLOAT32, FLOAT64, INTEGER, BOOLEAN } action_type;

struct actions {
    bitrl_threads *threads;
    bitrl_learner *learner;
    bitrl_network *network;
    float *parameters, *mean, *std, limit;
    float *standard, *outputs; /* [inputs], [output_count] */
    size_t inputs, output_count, choices;
    action_kind kind;
    int64_t start; /* the number of the first one of DISCRETE */
    action_type type;
    size_t dims, shape[MOST_DIMS], count; /* of an action */
    double *low, *high;                   /* [count] */
    float *values;                        /* of CODEBOOK: [count, each] */
    size_t each;
    char *answer;
};

static int read_network(actions *a, const plan *p, const json_node *root, const bitrl_file *file, const char *isa)
{
    const json_node *network = plan_field(p, root, "network", JSON_OBJECT);
    const json_node *widths = network ? plan_field(p, network, "widths", JSON_ARRAY) : NULL;
    if (!widths) return BITRL_BAD_FILE;
    if (widths->count < 2 || widths->count > MOST_LAYERS) return plan_wrong(p, "widths");
    uint64_t own[MOST_LAYERS], parameters = 0;
    const json_node *node = json_first(widths);
    for (uint32_t i = 0; i < widths->count; i++, node = json_after(p->json, node)) {
        int64_t width;
        if (node->kind != JSON_INTEGER || !json_integer(p->json, node, &width) || width < 1 || width > MOST_WIDTH) return plan_wrong(p, "widths");
        own[i] = (uint64_t)width;
        if (i) parameters += (own[i - 1] + 1) * own[i];
        if (parameters > MOST_PARAMETERS) return plan_wrong(p, "widths");
    }
    if (own[0] != a->inputs)
        return bitrl_fail(p->error, BITRL_BAD_FILE, "is damaged: its network takes %llu features, but its states have %zu",
                          (unsigned long long)own[0], a->inputs);
    a->output_count = own[widths->count - 1];
    double limit;
    const json_node *given = json_find(p->json, network, "limit");
    int status = given && given->kind == JSON_NULL ? BITRL_OK : plan_number(p, network, "limit", &limit);
    a->limit = given && given->kind == JSON_NULL ? INFINITY : (float)limit;
    if (!status) status = agent_file_floats(file, "agent.network", parameters, &a->parameters, p->error);
    if (!status) status = agent_file_floats(file, "agent.mean", a->inputs, &a->mean, p->error);
    if (!status) status = agent_file_floats(file, "agent.std", a->inputs, &a->std, p->error);
    for (size_t i = 0; !status && i < a->inputs; i++)
        if (!(a->std[i] > 0)) status = bitrl_fail(p->error, BITRL_BAD_FILE, "is damaged: agent.std is not positive");
    if (!status) status = bitrl_threads_open(1, &a->threads, p->error);
    if (!status) status = bitrl_learner_open(a->threads, isa, &a->learner, p->error);
    if (!status) status = bitrl_network_open(a->learner, own, widths->count - 1, 1, &a->network, p->error);
    a->standard = calloc(a->inputs, sizeof *a->standard);
    a->outputs = calloc(a->output_count, sizeof *a->outputs);
    if (!status && (!a->standard || !a->outputs)) status = bitrl_fail(p->error, BITRL_NO_MEMORY, "no memory for a network");
    return status;
}

static int read_box(actions *a, const plan *p, const json_node *action)
{
    static const char *const types[] = {[FLOAT32] = "float32", [FLOAT64] = "float64", [INTEGER] = "integer", [BOOLEAN] = "bool"};
    for (a->type = FLOAT32; !plan_is(p, action, "type", types[a->type]); a->type++)
        if (a->type == BOOLEAN) return plan_wrong(p, "type");
    const json_node *shape = plan_field(p, action, "shape", JSON_ARRAY);
    if (!shape) return BITRL_BAD_FILE;
    if (shape->count > MOST_DIMS) return plan_wrong(p, "shape");
    const json_node *node = json_first(shape);
    for (a->count = 1; a->dims < shape->count; node = json_after(p->json, node)) {
        int64_t size;
        if (node->kind != JSON_INTEGER || !json_integer(p->json, node, &size) || size < 1 || (uint64_t)size > MOST_WIDTH / a->count)
            return plan_wrong(p, "shape");
        a->shape[a->dims++] = (size_t)size;
        a->count *= (size_t)size;
    }
    a->low = calloc(a->count, sizeof *a->low);
    a->high = calloc(a->count, sizeof *a->high);
    if (!a->low || !a->high) return bitrl_fail(p->error, BITRL_NO_MEMORY, "no memory for the bounds of an action");
    int status = plan_numbers(p, action, "low", a->count, -INFINITY, a->low);
    if (!status) status = plan_numbers(p, action, "high", a->count, INFINITY, a->high);
    for (size_t i = 0; !status && a->type == INTEGER && i < a->count; i++) { /* written with as many digits as there is room for */
        if (isfinite(a->low[i]) && fabs(a->low[i]) > EXACT) status = plan_wrong(p, "low");
        if (isfinite(a->high[i]) && fabs(a->high[i]) > EXACT) status = plan_wrong(p, "high");
    }
    return status;
}

static int read_action(actions *a, const plan *p, const json_node *root, const bitrl_file *file)
{
    const json_node *action = plan_field(p, root, "action", JSON_OBJECT);
    if (!action) return BITRL_BAD_FILE;
    size_t outputs;
    int status;
    if (plan_is(p, action, "kind", "discrete")) {
        a->count = 1;
        status = plan_integer(p, action, "start", INT32_MIN, INT32_MAX, 0, &a->start);
        outputs = a->output_count;
        if (!status && a->choices > outputs) status = plan_wrong(p, "action_mask");
    } else if (plan_is(p, action, "kind", "continuous")) {
        a->kind = CONTINUOUS;
        status = read_box(a, p, action);
        outputs = a->count;
    } else if (plan_is(p, action, "kind", "codebook")) {
        int64_t each = 0;
        a->kind = CODEBOOK;
        status = read_box(a, p, action);
        if (!status) status = plan_integer(p, action, "each", 1, MOST_WIDTH, 0, &each);
        a->each = (size_t)each;
        outputs = status ? 0 : a->count * a->each;
        if (!status) status = agent_file_floats(file, "agent.values", outputs, &a->values, p->error);
    } else
        return plan_wrong(p, "kind");
    if (!status && outputs != a->output_count) status = plan_wrong(p, "action");
    a->answer = status ? NULL : malloc(a->count * (NUMBER + 2 * MOST_DIMS) + 1);
    return status || a->answer ? status : bitrl_fail(p->error, BITRL_NO_MEMORY, "no memory for an action");
}

int actions_open(const plan *p, const json_node *root, const bitrl_file *file, const char *isa, size_t features, size_t choices, actions **out)
{
    *out = NULL;
    actions *a = calloc(1, sizeof *a);
    if (!a) return bitrl_fail(p->error, BITRL_NO_MEMORY, "no memory for a policy");
    a->inputs = features;
    a->choices = choices;
    int status = read_network(a, p, root, file, isa);
    if (!status) status = read_action(a, p, root, file);
    if (status)
        actions_close(a);
    else
        *out = a;
    return status;
}

void actions_close(actions *a)
{
    if (!a) return;
    bitrl_network_close(a->network);
    bitrl_learner_close(a->learner);
    bitrl_threads_close(a->threads);
    free(a->parameters);
    free(a->mean);
    free(a->std);
    free(a->standard);
    free(a->outputs);
    free(a->low);
    free(a->high);
    free(a->values);
    free(a->answer);
    free(a);
}

size_t actions_count(const actions *a) { return a->count; }

/* The first of the largest of outputs: [n], of those that a mask admits. */
static size_t largest(const float *outputs, size_t n, const uint8_t *mask)
{
    size_t best = 0;
    bool found = false;
    for (size_t i = 0; i < n; i++)
        if ((!mask || mask[i]) && (!found || outputs[i] > outputs[best])) {
            best = i;
            found = true;
        }
    return best;
}

/* An output within the bounds of one number of an action. */
static double within(const actions *a, size_t i, float output)
{
    const double x = a->type == INTEGER || a->type == BOOLEAN ? rint(output) : output;
    return x < a->low[i] ? a->low[i] : x > a->high[i] ? a->high[i] : x;
}

int actions_choose(actions *a, const float *features, const uint8_t *mask, double *out, char *error)
{
    for (size_t i = 0; i < a->inputs; i++) {
        const float x = (features[i] - a->mean[i]) / a->std[i];
        a->standard[i] = x < -a->limit ? -a->limit : x > a->limit ? a->limit : x;
    }
    const bitrl_pass pass = {.network = a->network, .parameters = a->parameters, .inputs = a->standard, .samples = 1, .outputs = a->outputs};
    int status = bitrl_networks_forward(a->learner, (const bitrl_pass *[]){&pass}, 1, error);
    if (status) return status;
    if (!bitrl_all_finite(a->outputs, a->output_count))
        return bitrl_fail(error, BITRL_BAD_RESULT, "the agent's network gives numbers that are not finite for this observation, which is "
                          "not like those that it was trained on");
    if (a->kind == DISCRETE)
        *out = (double)(a->start + (int64_t)largest(a->outputs, a->choices ? a->choices : a->output_count, mask));
    for (size_t i = 0; a->kind == CONTINUOUS && i < a->count; i++) out[i] = within(a, i, a->outputs[i]);
    for (size_t i = 0; a->kind == CODEBOOK && i < a->count; i++)
        out[i] = within(a, i, a->values[i * a->each + largest(a->outputs + i * a->each, a->each, NULL)]);
    return BITRL_OK;
}

/* ---- as JSON ---- */

/* Digits of "1.25e+00" as those of the next larger number of as many. */
static void count_up(char *text)
{
    for (char *c = strchr(text, 'e') - 1; c >= text; c--) {
        if (*c >= '0' && *c < '9') {
            ++*c;
            return;
        }
        if (*c == '9') *c = '0';
    }
}

size_t write_float(double x, char *out)
{
    char text[40], digits[24];
    int precision = fabs(x) < DBL_MIN ? 0 : 14; /* any number of up to 15 digits survives, but for the tiniest */
    for (; precision < 17; precision++) {
        snprintf(text, sizeof text, "%.*e", precision, x);
        if (strtod(text, NULL) == x) break;
        if (precision != 15) continue;
        count_up(text); /* of a power of two, which is nearer to the number below */
        if (strtod(text, NULL) == x) break;
    }
    const char *from = text + (*text == '-');
    const int exponent = atoi(strchr(from, 'e') + 1);
    size_t count = 0, at = 0;
    for (; *from != 'e'; from++)
        if (*from != '.') digits[count++] = *from;
    while (count > 1 && digits[count - 1] == '0') count--;
    if (*text == '-') out[at++] = '-';
    if (exponent < -4 || exponent >= 16) {
        at += (size_t)sprintf(out + at, "%c%s%.*s", digits[0], count > 1 ? "." : "", (int)count - 1, digits + 1);
        return at + (size_t)sprintf(out + at, "e%c%02d", exponent < 0 ? '-' : '+', abs(exponent));
    }
    if (exponent < 0) {
        at += (size_t)sprintf(out + at, "0.");
        for (int i = -1; i > exponent; i--) out[at++] = '0';
        memcpy(out + at, digits, count);
        return at + count;
    }
    for (int i = 0; i <= exponent; i++) out[at++] = (size_t)i < count ? digits[i] : '0';
    out[at++] = '.';
    if ((size_t)exponent + 1 >= count) out[at++] = '0';
    for (size_t i = (size_t)exponent + 1; i < count; i++) out[at++] = digits[i];
    return at;
}

static size_t write_number(const actions *a, double x, char *out)
{
    if (a->kind == DISCRETE || a->type == INTEGER) return (size_t)sprintf(out, "%.0f", x + 0.0);
    return a->type == BOOLEAN ? (size_t)sprintf(out, x != 0 ? "true" : "false") : write_float(x, out);
}

const char *actions_written(actions *a, const double *action)
{
    char *to = a->answer;
    for (size_t i = 0; i < a->count; i++) {
        if (i) *to++ = ',', *to++ = ' ';
        size_t inside = a->count;
        for (size_t d = 0; d < a->dims; inside /= a->shape[d++])
            if (i % inside == 0) *to++ = '[';
        to += write_number(a, action[i], to);
        inside = 1;
        for (size_t d = a->dims; d-- > 0;)
            if ((i + 1) % (inside *= a->shape[d]) == 0) *to++ = ']';
    }
    *to = 0;
    return a->answer;
}
