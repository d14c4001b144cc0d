/* The engine on many threads at once, for ThreadSanitizer: sessions of one model side by side, each with threads of its
 * own and more or fewer texts than threads, opened and closed over and over, used in a child process after a fork. Every
 * result has the bits that one thread gives. Prints "ok", or what differs. */
#define _DEFAULT_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bitrl.h"

enum { CALLERS = 3, ROUNDS = 2, MOST_TEXTS = 7, MOST_TOKENS = 128 };

static const uint64_t lengths[MOST_TEXTS] = {5, 0, 17, 1, 12, 2, 70};
static const uint64_t thread_counts[] = {1, 2, 3, 5};
enum { COUNTS = sizeof thread_counts / sizeof *thread_counts };

typedef struct {
    const bitrl_model *model;
    size_t index;
    int wrong;
} caller;

/* The first `texts` texts -> out, [texts, width]. */
static int encode(bitrl_session *session, const bitrl_model *model, uint64_t texts, float *out)
{
    int32_t tokens[MOST_TOKENS];
    char error[BITRL_ERROR_BYTES];
    for (size_t i = 0; i < MOST_TOKENS; i++) tokens[i] = (int32_t)(i * 7919 % bitrl_model_shape(model)->vocabulary);
    int status = bitrl_encode(session, tokens, lengths, texts, BITRL_POOL_MEAN, out, error);
    if (status) fprintf(stderr, "%s\n", error);
    return status;
}

/* Batches of all sizes by one session, which then closes; nonzero when a bit differs from `expected`. */
static int use(const bitrl_model *model, uint64_t threads, const float *expected)
{
    char error[BITRL_ERROR_BYTES];
    bitrl_session *session = NULL;
    uint64_t width = bitrl_model_shape(model)->width;
    float *out = malloc(MOST_TEXTS * width * sizeof *out);
    int wrong = !out || bitrl_session_open(model, threads, &session, error);
    for (uint64_t texts = 0; !wrong && texts <= MOST_TEXTS; texts++) /* none, fewer than threads, more */
        wrong = encode(session, model, texts, out) || memcmp(out, expected, texts * width * sizeof *out);
    bitrl_session_close(session);
    free(out);
    return wrong;
}

static float *alone(const bitrl_model *model)
{
    char error[BITRL_ERROR_BYTES];
    bitrl_session *session = NULL;
    float *out = malloc(MOST_TEXTS * bitrl_model_shape(model)->width * sizeof *out);
    if (!out || bitrl_session_open(model, 1, &session, error) || encode(session, model, MOST_TEXTS, out)) exit(1);
    bitrl_session_close(session);
    return out;
}

static void *call(void *argument)
{
    caller *self = argument;
    float *expected = alone(self->model); /* too, at the same time as the others */
    for (size_t round = 0; round < ROUNDS; round++)
        self->wrong |= use(self->model, thread_counts[(self->index + round) % COUNTS], expected);
    free(expected);
    return NULL;
}

/* A process that has used threads forks: the child closes the session it got and makes one, the parent goes on. */
static int use_after_fork(const bitrl_model *model, const float *expected)
{
    char error[BITRL_ERROR_BYTES];
    bitrl_session *session = NULL;
    uint64_t width = bitrl_model_shape(model)->width;
    float *out = malloc(MOST_TEXTS * width * sizeof *out);
    if (!out || bitrl_session_open(model, 3, &session, error) || encode(session, model, MOST_TEXTS, out)) return 1;
    pid_t child = fork();
    if (child == 0) {
        int wrong = encode(session, model, MOST_TEXTS, out) || memcmp(out, expected, MOST_TEXTS * width * sizeof *out);
        bitrl_session_close(session);
        _exit(wrong);
    }
    int status = 1, wrong = child < 0 || waitpid(child, &status, 0) != child || status != 0;
    wrong |= encode(session, model, MOST_TEXTS, out) || memcmp(out, expected, MOST_TEXTS * width * sizeof *out);
    bitrl_session_close(session);
    free(out);
    return wrong;
}

int main(int count, char **arguments)
{
    char error[BITRL_ERROR_BYTES];
    bitrl_file *file = NULL;
    bitrl_model *model = NULL;
    /* format, or "" for the file's own */
    const bitrl_options options = {.isa = "auto", .threads = 2, .format = count > 2 && *arguments[2] ? arguments[2] : NULL};
    if (count < 2 || bitrl_file_open(arguments[1], &file, error) || bitrl_model_load(file, &options, &model, error)) {
        printf("error %s\n", count < 2 ? "no file" : error);
        return 1;
    }
    pthread_t ids[CALLERS];
    caller callers[CALLERS];
    for (size_t i = 0; i < CALLERS; i++) {
        callers[i] = (caller){model, i, 0};
        if (pthread_create(&ids[i], NULL, call, &callers[i])) return 1;
    }
    int wrong = 0;
    for (size_t i = 0; i < CALLERS; i++) {
        pthread_join(ids[i], NULL);
        wrong |= callers[i].wrong;
    }
    if (wrong) printf("differs with the threads or beside other sessions\n");
    float *expected = alone(model);
    int lost = use_after_fork(model, expected);
    if (lost) printf("differs after a fork\n");
    if (!wrong && !lost) printf("ok\n");
    free(expected);
    bitrl_model_free(model);
    bitrl_file_close(file);
    return wrong || lost;
}
