/* Runs agents for the sanitizers: every file given is opened and acts on every line of the first argument's file, which may be
 * anything, also in pieces. Prints a line per file: "ok <actions> <refused>" or "error <message>". */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bitrl_agent.h"

int main(int count, char **arguments)
{
    char error[BITRL_AGENT_ERROR_BYTES];
    FILE *file = fopen(arguments[1], "rb");
    char *lines = malloc(1 << 20);
    const size_t bytes = file ? fread(lines, 1, 1 << 20, file) : 0;
    if (file) fclose(file);
    for (int i = 2; i < count; i++) {
        bitrl_agent *agent;
        if (bitrl_agent_open(arguments[i], NULL, &agent, error)) {
            printf("error %s\n", error);
            continue;
        }
        unsigned long actions = 0, refused = 0;
        for (size_t from = 0, to; from < bytes; from = to + 1) {
            const char *end = memchr(lines + from, '\n', bytes - from), *answer;
            to = end ? (size_t)(end - lines) : bytes;
            char *line = malloc(to - from + 1); /* of its own size, so that one byte beyond it is found */
            memcpy(line, lines + from, to - from);
            for (int part = 0; part < 2; part++) {
                const int status = bitrl_agent_act_json(agent, line, (to - from) >> part, &answer, error);
                if (status == BITRL_AGENT_OK && strlen(answer))
                    actions++;
                else if (status == BITRL_AGENT_BAD_OBSERVATION && strlen(error))
                    refused++;
                else
                    return 1;
            }
            free(line);
        }
        printf("ok %lu %lu\n", actions, refused);
        bitrl_agent_close(agent);
    }
    free(lines);
    return 0;
}
