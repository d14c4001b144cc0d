/* Agents: what a file holds, put together; one observation after another. The public calls of bitrl_agent.h.
 *
 * Knows the order of things alone: observation.c reads states, reading.c makes features of them, actions.c chooses. */
#define _GNU_SOURCE
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#if defined(__APPLE__)
#include <xlocale.h>
#endif

#define BITRL_AGENT_SHARED
#include "bitrl_agent.h"

#include "actions.h"
#include "agent_file.h"
#include "characters.h"
#include "reading.h"
#include "observation.h"

enum { FORMAT = 1, MOST_NODES = 1 << 20 };

_Static_assert((int)BITRL_AGENT_BAD_FILE == (int)BITRL_BAD_FILE && (int)BITRL_AGENT_BAD_OBSERVATION == (int)BITRL_BAD_ARGUMENT &&
                   (int)BITRL_AGENT_NO_MEMORY == (int)BITRL_NO_MEMORY && (int)BITRL_AGENT_BAD_RESULT == (int)BITRL_BAD_RESULT &&
                   (int)BITRL_AGENT_ERROR_BYTES == (int)BITRL_ERROR_BYTES,
               "errors of the engine are the agent's");

struct bitrl_agent {
    locale_t locale; /* C's: numbers are read and written with a point */
    bitrl_file *file;
    observation *observed;
    features *features;
    actions *actions;
    char *facts, *example;
    json_node *nodes; /* [node_count] of an observation */
    size_t node_count;
    float *found;   /* [features] */
    double *action; /* [actions] */
};

const char *bitrl_agent_version(void) { return BITRL_AGENT_VERSION; }

/* The text of a key, terminated; NULL where there is none, or no memory. */
static char *text_of(const bitrl_file *file, const char *name)
{
    const bitrl_key *key = bitrl_file_find_key(file, name);
    if (!key || key->type != GGUF_STRING) return NULL;
    char *out = malloc(key->value_bytes - 7);
    if (!out) return NULL;
    memcpy(out, key->value + 8, key->value_bytes - 8);
    out[key->value_bytes - 8] = 0;
    return out;
}

static int read_plan(bitrl_agent *agent, const bitrl_agent_options *options, const char *text, char *error)
{
    json j = {.text = text, .bytes = strlen(text)};
    j.capacity = j.bytes / 2 + 2; /* a value takes a byte, and what ends it another */
    if (j.capacity > MOST_NODES) j.capacity = MOST_NODES;
    j.nodes = malloc(j.capacity * sizeof *j.nodes);
    if (!j.nodes) return bitrl_fail(error, BITRL_NO_MEMORY, "no memory for an agent");
    const plan p = {.json = &j, .error = error};
    int64_t format = 0;
    int status = json_read(&j, error) ? bitrl_fail(error, BITRL_BAD_FILE, "is damaged: its plan is no JSON") : BITRL_OK;
    if (!status) status = plan_integer(&p, j.nodes, "format", 0, INT32_MAX, -1, &format);
    if (!status && format != FORMAT)
        status = bitrl_fail(error, BITRL_BAD_FILE, "was written by another version of bitrl (expected format %d, got %lld): export it again",
                            FORMAT, (long long)format);
    if (!status) status = observation_open(&p, j.nodes, &agent->observed);
    if (!status) status = features_open(&p, j.nodes, agent->file, options, agent->observed, &agent->features);
    if (!status)
        status = actions_open(&p, j.nodes, agent->file, options->instruction_set ? options->instruction_set : "auto",
                              features_count(agent->features), observation_choices(agent->observed), &agent->actions);
    free(j.nodes);
    if (status) return status;
    agent->node_count = 256 + 2 * observation_values(agent->observed);
    agent->nodes = malloc(agent->node_count * sizeof *agent->nodes);
    agent->found = calloc(features_count(agent->features), sizeof *agent->found);
    agent->action = calloc(actions_count(agent->actions), sizeof *agent->action);
    return agent->nodes && agent->found && agent->action ? BITRL_OK : bitrl_fail(error, BITRL_NO_MEMORY, "no memory for an agent");
}

static int read_file(bitrl_agent *agent, const char *path, const bitrl_agent_options *options, char *error)
{
    int status = bitrl_file_open(path, &agent->file, error);
    if (status && strcmp(error, "is not a GGUF file") == 0)
        return bitrl_fail(error, status, "is not a GGUF file, as agents for C are: export one with bitrl export RUN --out FILE.gguf --c");
    if (status) return status;
    char *text = text_of(agent->file, "bitrl.agent");
    if (!text) return bitrl_fail(error, BITRL_BAD_FILE, "is a model, not an agent: export one with bitrl export RUN --out FILE --c");
    status = agent_file_verify(agent->file, error);
    agent->facts = text_of(agent->file, "bitrl.agent.facts");
    agent->example = text_of(agent->file, "bitrl.agent.example");
    if (!status && (!agent->facts || !agent->example)) status = bitrl_fail(error, BITRL_BAD_FILE, "is damaged: it lacks facts or an example");
    if (!status) status = read_plan(agent, options, text, error);
    free(text);
    return status;
}

/* The agent acts on its example: what can be wrong with it is found here, and memory is set aside. */
static int try_out(bitrl_agent *agent, char *error)
{
    char wrong[BITRL_ERROR_BYTES];
    const char *answer;
    int status = bitrl_agent_act_json(agent, agent->example, strlen(agent->example), &answer, wrong);
    if (status) return bitrl_fail(error, status == BITRL_BAD_ARGUMENT ? BITRL_BAD_FILE : status, "fails on its own example: %.180s", wrong);
    bitrl_agent_reset(agent);
    return features_warm(agent->features, error);
}

/* What is quoted in an error may have anything in it, and be cut anywhere: errors are one line of UTF-8. */
static int told(int status, char *error)
{
    size_t left = status ? strlen(error) : 0, bytes;
    for (char *c = error; left; c += bytes, left -= bytes) {
        const unsigned char *u = (const unsigned char *)c;
        const bool is_control = *u < ' ' || *u == 0x7f || (*u == 0xc2 && left > 1 && u[1] < 0xa0);
        bytes = valid_character(c, left);
        if (!bytes) bytes = 1, *c = '?';
        else if (is_control) memset(c, '?', bytes);
    }
    return status;
}

int bitrl_agent_open(const char *path, const bitrl_agent_options *options, bitrl_agent **out, char *error)
{
    static const bitrl_agent_options defaults = {0};
    *out = NULL;
    *error = 0;
    bitrl_agent *agent = calloc(1, sizeof *agent);
    if (!agent) return bitrl_fail(error, BITRL_NO_MEMORY, "no memory for an agent");
    agent->locale = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    locale_t before = agent->locale ? uselocale(agent->locale) : (locale_t)0;
    int status = agent->locale ? read_file(agent, path, options ? options : &defaults, error)
                               : bitrl_fail(error, BITRL_NO_MEMORY, "no memory for an agent");
    if (!status) status = try_out(agent, error);
    if (agent->locale) uselocale(before);
    if (status)
        bitrl_agent_close(agent);
    else
        *out = agent;
    return told(status, error);
}

void bitrl_agent_close(bitrl_agent *agent)
{
    if (!agent) return;
    features_close(agent->features);
    actions_close(agent->actions);
    observation_close(agent->observed);
    bitrl_file_close(agent->file);
    if (agent->locale) freelocale(agent->locale);
    free(agent->facts);
    free(agent->example);
    free(agent->nodes);
    free(agent->found);
    free(agent->action);
    free(agent);
}

size_t bitrl_agent_numbers(const bitrl_agent *agent) { return observation_numbers(agent->observed); }
size_t bitrl_agent_choices(const bitrl_agent *agent) { return observation_choices(agent->observed); }
size_t bitrl_agent_actions(const bitrl_agent *agent) { return actions_count(agent->actions); }
size_t bitrl_agent_json_bytes(const bitrl_agent *agent) { return observation_bytes(agent->observed); }
const char *bitrl_agent_facts(const bitrl_agent *agent) { return agent->facts; }
const char *bitrl_agent_example(const bitrl_agent *agent) { return agent->example; }
const char *bitrl_agent_text(const bitrl_agent *agent) { return features_text(agent->features); }

const char *bitrl_agent_instruction_set(const bitrl_agent *agent)
{
    const char *found = features_instruction_set(agent->features);
    return found ? found : bitrl_instruction_set(0);
}

void bitrl_agent_reset(bitrl_agent *agent) { features_reset(agent->features); }

/* The action for what was observed -> agent->action. */
static int choose(bitrl_agent *agent, char *error)
{
    int status = features_find(agent->features, agent->observed, agent->found, error);
    if (!status) status = actions_choose(agent->actions, agent->found, observed_mask(agent->observed), agent->action, error);
    if (!status) features_commit(agent->features);
    return status;
}

int bitrl_agent_act(bitrl_agent *agent, const double *numbers, const uint8_t *mask, double *action, char *error)
{
    locale_t before = uselocale(agent->locale);
    int status = observation_take(agent->observed, numbers, mask, error);
    if (!status) status = choose(agent, error);
    if (!status) memcpy(action, agent->action, actions_count(agent->actions) * sizeof *action);
    uselocale(before);
    return told(status, error);
}

int bitrl_agent_act_json(bitrl_agent *agent, const char *text, size_t bytes, const char **answer, char *error)
{
    *answer = NULL;
    if (bytes > bitrl_agent_json_bytes(agent))
        return bitrl_fail(error, BITRL_BAD_ARGUMENT, "expected at most %zu bytes, got %zu", bitrl_agent_json_bytes(agent), bytes);
    locale_t before = uselocale(agent->locale);
    json j = {.text = text, .bytes = bytes, .nodes = agent->nodes, .capacity = agent->node_count};
    int status = json_read(&j, error);
    if (!status && j.nodes->kind == JSON_NULL) {
        bitrl_agent_reset(agent);
        *answer = "null";
    } else if (!status) {
        status = observation_read(agent->observed, &j, j.nodes, error);
        if (!status) status = choose(agent, error);
        if (!status) *answer = actions_written(agent->actions, agent->action);
    }
    uselocale(before);
    return told(status, error);
}
