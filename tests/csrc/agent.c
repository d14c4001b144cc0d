/* Runs agents for the sanitizers: every file given is opened and acts on every line of the first argument's file, which may be
 * anything, also on half of it, and on all of them once more. Prints a line per file: "ok <actions> <refused> <allocations while
 * acting on what it has acted on before>" or "error <message>". */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bitrl_agent.h"

/* AddressSanitizer's. */
int __sanitizer_install_malloc_and_free_hooks(void (*allocated)(const volatile void *, size_t), void (*freed)(const volatile void *));

static unsigned long allocations;

static void count(const volatile void *memory, size_t bytes)
{
    (void)memory;
    (void)bytes;
    allocations++;
}

static void ignore(const volatile void *memory) { (void)memory; }

int main(int argument_count, char **arguments)
{
    char error[BITRL_AGENT_ERROR_BYTES];
    FILE *file = fopen(arguments[1], "rb");
    char *lines = malloc(1 << 20);
    const size_t bytes = file ? fread(lines, 1, 1 << 20, file) : 0;
    if (file) fclose(file);
    __sanitizer_install_malloc_and_free_hooks(count, ignore);
    for (int i = 2; i < argument_count; i++) {
        bitrl_agent *agent;
        if (bitrl_agent_open(arguments[i], NULL, &agent, error)) {
            printf("error %s\n", error);
            continue;
        }
        unsigned long actions = 0, refused = 0, again = 0;
        for (size_t from = 0, to, round = 0; round < 2; from = to + 1 < bytes ? to + 1 : 0, round += from == 0) {
            const char *end = memchr(lines + from, '\n', bytes - from), *answer;
            to = end ? (size_t)(end - lines) : bytes;
            char *line = malloc(to - from + 1); /* of its own size, so that one byte beyond it is found */
            memcpy(line, lines + from, to - from);
            for (int part = 0; part < 2; part++) {
                allocations = 0;
                const int status = bitrl_agent_act_json(agent, line, (to - from) >> part, &answer, error);
                again += round ? allocations : 0;
                if (status == BITRL_AGENT_OK && strlen(answer))
                    actions++;
                else if (status == BITRL_AGENT_BAD_OBSERVATION && strlen(error))
                    refused++;
                else
                    return 1;
            }
            free(line);
        }
        printf("ok %lu %lu %lu\n", actions, refused, again);
        bitrl_agent_close(agent);
    }
    free(lines);
    return 0;
}
