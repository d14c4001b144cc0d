/* bitrl-act: observations in, actions out, one a line, as `bitrl act` does. */
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bitrl_agent.h"

enum { DONE = 0, FAILED = 1, WRONG_COMMAND = 2, MOST_THREADS = 1024 };

static const char usage[] =
    "Usage: bitrl-act [OPTIONS] FILE\n"
    "\n"
    "Run an agent: observations in, actions out. FILE was written by `bitrl export RUN --out FILE --c`.\n"
    "\n"
    "Each line of the input is an observation as JSON; each line of the output is the greedy action. A line `null` begins\n"
    "another episode, and is answered by `null`. A line that is no observation is answered by {\"error\": \"...\"}.\n"
    "\n"
    "  --example          Print an example of the observations that this agent takes, and exit.\n"
    "  --facts            Print facts about the agent, and exit.\n"
    "  --strict           Stop at the first line that is no observation, with exit code 1.\n"
    "  --threads N        Threads of the model (1).\n"
    "  --isa NAME         Instruction set: avx2, neon, scalar ... (the best that this CPU has).\n"
    "  --version          Print the version, and exit.\n"
    "  -h, --help         Print this, and exit.\n";

typedef struct {
    const char *file;
    bool example, facts, strict;
    bitrl_agent_options options;
} command;

/* Lines of a stream, in memory for the longest one. */
typedef struct {
    char *bytes; /* [room] */
    size_t room, used, at;
    bool ended;
} lines;

/* What was typed, in an error of one line. */
static void print_word(const char *word)
{
    for (; *word; word++) putc((unsigned char)*word < ' ' || *word == 0x7f ? '?' : *word, stderr);
}

static int wrong(const char *what, const char *which)
{
    fprintf(stderr, "Error: %s", what);
    print_word(which);
    fprintf(stderr, ": see bitrl-act --help\n");
    return WRONG_COMMAND;
}

/* The value of an option, as --threads 2 or --threads=2, where arguments[*i] is it; *i moves to its last argument. */
static const char *value_of(const char *option, int count, char **arguments, int *i)
{
    const size_t bytes = strlen(option);
    if (strncmp(arguments[*i], option, bytes) != 0) return NULL;
    if (arguments[*i][bytes] == '=') return arguments[*i] + bytes + 1;
    return arguments[*i][bytes] == 0 && *i + 1 < count ? arguments[++*i] : NULL;
}

/* Reads the arguments; DONE: there is nothing more to do; below it: go on. */
static int read_command(int count, char **arguments, command *c)
{
    bool files_only = false; /* after -- */
    for (int i = 1; i < count; i++) {
        const char *argument = arguments[i], *value;
        if (files_only || argument[0] != '-' || !argument[1]) {
            if (c->file) return wrong("expected one file, got another: ", argument);
            c->file = argument;
            continue;
        }
        if (strcmp(argument, "-h") == 0 || strcmp(argument, "--help") == 0) return fputs(usage, stdout) < 0 ? FAILED : DONE;
        if (strcmp(argument, "--version") == 0) return printf("bitrl-act %s\n", bitrl_agent_version()) < 0 ? FAILED : DONE;
        if (strcmp(argument, "--example") == 0)
            c->example = true;
        else if (strcmp(argument, "--facts") == 0)
            c->facts = true;
        else if (strcmp(argument, "--strict") == 0)
            c->strict = true;
        else if (strcmp(argument, "--") == 0)
            files_only = true;
        else if ((value = value_of("--isa", count, arguments, &i)))
            c->options.instruction_set = value;
        else if ((value = value_of("--threads", count, arguments, &i))) {
            char *end;
            const long threads = strtol(value, &end, 10);
            if (*end || end == value || threads < 1 || threads > MOST_THREADS) return wrong("expected 1 to 1024 threads, got ", value);
            c->options.threads = (unsigned)threads;
        } else if (strcmp(argument, "--isa") == 0 || strcmp(argument, "--threads") == 0)
            return wrong("a value is missing for ", argument);
        else
            return wrong("unknown option ", argument);
    }
    return c->file ? -1 : wrong("expected the file of an agent", "");
}

/* The next line without its end, or NULL; *too_long: it has more bytes than there is room for, and they are gone. */
static const char *next_line(lines *l, size_t *bytes, bool *too_long)
{
    *too_long = false;
    for (size_t looked = l->at;;) {
        char *end = memchr(l->bytes + looked, '\n', l->used - looked);
        if (end || (l->ended && l->used > l->at)) {
            const char *line = l->bytes + l->at;
            *bytes = end ? (size_t)(end - line) : l->used - l->at;
            l->at += *bytes + (end != NULL);
            return line;
        }
        if (l->ended) {
            *bytes = 0;
            return *too_long ? l->bytes : NULL;
        }
        if (l->used == l->room && l->at == 0) {
            *too_long = true;
            l->used = 0;
        }
        memmove(l->bytes, l->bytes + l->at, l->used - l->at);
        l->used -= l->at;
        looked = l->used;
        l->at = 0;
        const ssize_t got = read(STDIN_FILENO, l->bytes + l->used, l->room - l->used);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) {
            fprintf(stderr, "Error: standard input cannot be read: %s\n", strerror(errno));
            exit(FAILED);
        }
        l->ended = got == 0;
        l->used += (size_t)got;
    }
}

static bool is_blank(const char *line, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        if (!strchr(" \t\r\f\v", line[i]) || !line[i]) return false;
    return true;
}

static void print_error(unsigned long number, const char *error)
{
    printf("{\"error\": \"line %lu: ", number);
    for (const char *c = error; *c; c++) {
        if (*c == '"' || *c == '\\') putchar('\\');
        putchar(*c);
    }
    printf("\"}\n");
}

/* Answers every line of standard input. */
static int serve(bitrl_agent *agent, const command *c)
{
    char error[BITRL_AGENT_ERROR_BYTES];
    lines l = {.room = bitrl_agent_json_bytes(agent) + 1};
    if (!(l.bytes = malloc(l.room))) {
        fprintf(stderr, "Error: no memory for lines of %zu bytes\n", l.room);
        return FAILED;
    }
    size_t bytes;
    bool too_long;
    int ended = DONE;
    const char *line, *answer;
    for (unsigned long number = 1; ended == DONE && (line = next_line(&l, &bytes, &too_long)); number++) {
        if (is_blank(line, bytes) && !too_long) continue;
        int status = BITRL_AGENT_BAD_OBSERVATION;
        if (too_long)
            snprintf(error, sizeof error, "expected at most %zu bytes", bitrl_agent_json_bytes(agent));
        else
            status = bitrl_agent_act_json(agent, line, bytes, &answer, error);
        if (status == BITRL_AGENT_OK)
            printf("%s\n", answer);
        else if (c->strict) {
            fprintf(stderr, "Error: line %lu of the input: %s\n", number, error);
            ended = FAILED;
        } else
            print_error(number, error);
        /* What was asked is answered before more is waited for. */
        if (!memchr(l.bytes + l.at, '\n', l.used - l.at) && fflush(stdout) != 0) ended = FAILED;
    }
    free(l.bytes);
    return ended;
}

int main(int count, char **arguments)
{
    char error[BITRL_AGENT_ERROR_BYTES];
    command c = {0};
    int ended = read_command(count, arguments, &c);
    if (ended >= DONE) return fflush(stdout) != 0 ? FAILED : ended;
    bitrl_agent *agent;
    const int status = bitrl_agent_open(c.file, &c.options, &agent, error);
    if (status) {
        fprintf(stderr, "Error: ");
        print_word(c.file);
        fprintf(stderr, " %s\n", error);
        return status == BITRL_AGENT_NO_MEMORY ? FAILED : WRONG_COMMAND;
    }
    if (c.facts || c.example)
        ended = printf("%s\n", c.facts ? bitrl_agent_facts(agent) : bitrl_agent_example(agent)) < 0 ? FAILED : DONE;
    else
        ended = serve(agent, &c);
    bitrl_agent_close(agent);
    if (fflush(stdout) != 0 || ferror(stdout)) {
        fprintf(stderr, "Error: standard output cannot be written: %s\n", strerror(errno));
        ended = FAILED;
    }
    return ended;
}
