/* libbitrl: run an agent that `bitrl export RUN --out FILE --c` wrote, without Python.
 *
 * Open an agent, give it observations, take its actions:
 *
 *     char error[BITRL_AGENT_ERROR_BYTES];
 *     bitrl_agent *agent;
 *     if (bitrl_agent_open("agent.gguf", NULL, &agent, error)) { fprintf(stderr, "agent.gguf %s\n", error); return 1; }
 *     double state[4] = {0.031, -0.52, 0.012, 1.204}, action;
 *     if (bitrl_agent_act(agent, state, NULL, &action, error)) { fprintf(stderr, "%s\n", error); return 1; }
 *     bitrl_agent_close(agent);
 *
 * Actions are those of `bitrl act` in Python: greedy. Functions that can fail return BITRL_AGENT_OK or another code, and then
 * write one line, terminated, into `error` [BITRL_AGENT_ERROR_BYTES]; what has failed changes nothing. Nothing is printed, no
 * state is global, and the process's locale does not matter. An agent is one episode of one caller: for several at once, open
 * several. Link with -lm -lpthread.
 *
 * The version is semantic: within one major version, programs that compiled go on to compile, and to run with a newer
 * library; files say the version of their format, and another one is refused. */
#ifndef BITRL_AGENT_H
#define BITRL_AGENT_H

#include <stddef.h>
#include <stdint.h>

#define BITRL_AGENT_VERSION_MAJOR 1
#define BITRL_AGENT_VERSION_MINOR 0
#define BITRL_AGENT_VERSION_PATCH 0
#define BITRL_AGENT_VERSION "1.0.0"

#define BITRL_AGENT_ERROR_BYTES 256

#if defined(BITRL_AGENT_SHARED) && defined(__GNUC__)
#define BITRL_AGENT_API __attribute__((visibility("default")))
#else
#define BITRL_AGENT_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

enum {
    BITRL_AGENT_OK = 0,
    BITRL_AGENT_BAD_FILE = 1,        /* no agent, damaged, or one that this library cannot run */
    BITRL_AGENT_BAD_OBSERVATION = 2, /* not what the agent observes; or another argument that cannot be */
    BITRL_AGENT_NO_MEMORY = 3,
    BITRL_AGENT_BAD_RESULT = 4 /* the agent's model or network gives numbers that are not finite */
};

typedef struct bitrl_agent bitrl_agent;

/* How an agent is run; all zeros is how it is run without. */
typedef struct {
    unsigned threads;            /* 0: one; two act sooner where cores are free, and take more of both */
    const char *instruction_set; /* "avx2", "neon", "scalar" …; NULL: the best that this CPU has */
} bitrl_agent_options;

/* The version of the library, which may be newer than the header's. */
BITRL_AGENT_API const char *bitrl_agent_version(void);

/* Reads a file and checks it, with its digests (those of weights in files of at most 256 MiB). options: or NULL. The error has
 * no name of the file, and reads on from it. The file must stay as it is: rows of the model's vocabulary are read as they are
 * needed, unless they are few. */
BITRL_AGENT_API int bitrl_agent_open(const char *path, const bitrl_agent_options *options, bitrl_agent **agent, char *error);
BITRL_AGENT_API void bitrl_agent_close(bitrl_agent *agent); /* NULL does nothing */

/* Numbers of an observation, of its action mask (0: it has none) and of an action. */
BITRL_AGENT_API size_t bitrl_agent_numbers(const bitrl_agent *agent);
BITRL_AGENT_API size_t bitrl_agent_choices(const bitrl_agent *agent);
BITRL_AGENT_API size_t bitrl_agent_actions(const bitrl_agent *agent);

/* The greedy action [bitrl_agent_actions] for an observation's numbers [bitrl_agent_numbers], in the environment's order. They
 * are rounded to the environment's type; one that is not finite is refused. mask: [bitrl_agent_choices], not 0 where an action
 * is admissible; NULL where the agent has none. Agents that observe texts too need bitrl_agent_act_json. */
BITRL_AGENT_API int bitrl_agent_act(bitrl_agent *agent, const double *numbers, const uint8_t *mask, double *action, char *error);

/* The same, of an observation as JSON [bytes] -> the action as JSON, terminated, which stays until the next call. `null` begins
 * another episode, and is answered by "null". */
BITRL_AGENT_API int bitrl_agent_act_json(bitrl_agent *agent, const char *observation, size_t bytes, const char **answer, char *error);
BITRL_AGENT_API size_t bitrl_agent_json_bytes(const bitrl_agent *agent); /* of an observation, at most */

/* Begins another episode: an agent that reads several states forgets those before. */
BITRL_AGENT_API void bitrl_agent_reset(bitrl_agent *agent);

/* What the agent is, its environment, serializer and so on, as JSON; an observation as JSON; the text that the model read last,
 * "" for an agent without a model; the instruction set that it runs on. All are terminated and the agent's own. */
BITRL_AGENT_API const char *bitrl_agent_facts(const bitrl_agent *agent);
BITRL_AGENT_API const char *bitrl_agent_example(const bitrl_agent *agent);
BITRL_AGENT_API const char *bitrl_agent_text(const bitrl_agent *agent);
BITRL_AGENT_API const char *bitrl_agent_instruction_set(const bitrl_agent *agent);

#ifdef __cplusplus
}
#endif
#endif
