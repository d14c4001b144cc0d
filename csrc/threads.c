/* A small pool of threads: everybody runs the same function once, then waits for the next.
 *
 * It does not divide work and does not know what the work is. The caller is thread 0. */
#define _DEFAULT_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include "internal.h"

typedef struct {
    pool *owner;
    size_t index;
} worker;

struct pool {
    size_t threads;  /* including the caller */
    size_t started;  /* workers that exist */
    pid_t process;   /* that made them: threads do not survive a fork */
    pthread_t *ids;  /* [threads - 1] */
    worker *workers; /* [threads - 1] */
    pthread_mutex_t lock;
    pthread_cond_t go, done;
    unsigned long round; /* counts pool_run calls */
    size_t running;
    bool closing;
    void (*work)(void *, size_t);
    void *context;
};

static void *worker_main(void *argument)
{
    worker *self = argument;
    pool *p = self->owner;
    unsigned long seen = 0;
    pthread_mutex_lock(&p->lock);
    for (;;) {
        while (p->round == seen && !p->closing) pthread_cond_wait(&p->go, &p->lock);
        if (p->closing) break;
        seen = p->round;
        pthread_mutex_unlock(&p->lock);
        p->work(p->context, self->index);
        pthread_mutex_lock(&p->lock);
        if (--p->running == 0) pthread_cond_signal(&p->done);
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

pool *pool_open(size_t threads)
{
    pool *p = calloc(1, sizeof *p);
    if (!p) return NULL;
    p->threads = threads;
    p->process = getpid();
    p->ids = calloc(threads, sizeof *p->ids);
    p->workers = calloc(threads, sizeof *p->workers);
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->go, NULL);
    pthread_cond_init(&p->done, NULL);
    bool ok = p->ids && p->workers;
    sigset_t all, before; /* signals are the caller's business: Ctrl-C must reach Python's thread */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (ok && p->started < threads - 1) {
        p->workers[p->started] = (worker){p, p->started + 1};
        ok = pthread_create(&p->ids[p->started], NULL, worker_main, &p->workers[p->started]) == 0;
        if (ok) p->started++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (ok) return p;
    pool_close(p);
    return NULL;
}

void pool_close(pool *p)
{
    if (!p) return;
    if (p->process == getpid()) {
        pthread_mutex_lock(&p->lock);
        p->closing = true;
        pthread_cond_broadcast(&p->go);
        pthread_mutex_unlock(&p->lock);
        for (size_t i = 0; i < p->started; i++) pthread_join(p->ids[i], NULL);
        pthread_cond_destroy(&p->done);
        pthread_cond_destroy(&p->go);
        pthread_mutex_destroy(&p->lock);
    }
    free(p->workers);
    free(p->ids);
    free(p);
}

void pool_run(pool *p, void (*work)(void *context, size_t i), void *context)
{
    if (p->threads == 1 || p->process != getpid()) { /* after a fork the workers are gone: do it all here */
        for (size_t i = 0; i < p->threads; i++) work(context, i);
        return;
    }
    pthread_mutex_lock(&p->lock);
    p->work = work;
    p->context = context;
    p->running = p->threads - 1;
    p->round++;
    pthread_cond_broadcast(&p->go);
    pthread_mutex_unlock(&p->lock);
    work(context, 0);
    pthread_mutex_lock(&p->lock);
    while (p->running > 0) pthread_cond_wait(&p->done, &p->lock);
    pthread_mutex_unlock(&p->lock);
}
