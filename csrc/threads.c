/* A small pool of threads that run one function together, meet at barriers inside it and share out its work.
 *
 * Does not know what the work is. The caller is thread 0. Waiting threads spin for a while, since a barrier inside a
 * forward pass is a matter of microseconds, then sleep: the one that they wait for may need their CPU, or another process
 * does. Where spinning was for nothing last time, they spin for less; and for longer again where a run began soon after all. To
 * wake one that sleeps takes as long as a few tokens take a small model: see pool_ready. */
#define _DEFAULT_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "internal.h"

enum { SPINS = 4000, FEWEST_SPINS = 60, NUDGED_SPINS = 16 * SPINS }; /* the last: while the caller does a short run alone */

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

    pthread_mutex_t lock; /* of both conditions */

    /* Between runs: workers sleep until `round` changes. */
    pthread_cond_t go;
    atomic_ulong round; /* counts pool_run calls */
    atomic_ulong nudges; /* and calls to be awake for one */
    atomic_size_t asleep; /* workers */
    struct timespec ended; /* the last run */
    atomic_bool closing;
    void (*work)(void *, size_t, size_t);
    void *context;

    /* Within a run. Each counter on a cache line of its own. */
    size_t running; /* threads that take part */
    _Alignas(64) atomic_size_t arrived;
    _Alignas(64) atomic_ulong barriers; /* passed so far */
    _Alignas(64) atomic_size_t next;    /* item of work, see pool_take */
    atomic_size_t sleeping;             /* threads that sleep at a barrier, until `passed` is signalled */
    pthread_cond_t passed;
};

static inline void relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Spins until *value is no longer `seen`; false when that takes too long. *patience, of this thread and kind of wait, is
 * halved each time it does and grows back when it does not. */
static bool spin(atomic_ulong *value, unsigned long seen, unsigned *patience)
{
    for (unsigned spins = 0; spins < *patience; spins++) {
        if (atomic_load_explicit(value, memory_order_acquire) != seen) {
            *patience = *patience * 2 < SPINS ? *patience * 2 : SPINS;
            return true;
        }
        relax();
    }
    *patience = *patience / 2 > FEWEST_SPINS ? *patience / 2 : FEWEST_SPINS;
    return atomic_load_explicit(value, memory_order_acquire) != seen;
}

/* Whether little more than the time of SPINS has passed since then. */
static bool was_soon(const struct timespec *since)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (now.tv_sec - since->tv_sec) * 1000000000 + (now.tv_nsec - since->tv_nsec) < 200000;
}

static void *worker_main(void *argument)
{
    worker *self = argument;
    pool *p = self->owner;
    unsigned long seen = 0;
    unsigned patience = SPINS;
    for (;;) {
        struct timespec since;
        bool slept = !spin(&p->round, seen, &patience);
        if (slept) clock_gettime(CLOCK_MONOTONIC, &since);
        pthread_mutex_lock(&p->lock);
        const unsigned long nudges = p->nudges;
        atomic_fetch_add(&p->asleep, 1);
        while (p->round == seen && p->nudges == nudges && !p->closing) pthread_cond_wait(&p->go, &p->lock);
        atomic_fetch_sub(&p->asleep, 1);
        const bool nudged = p->round == seen;
        seen = p->round;
        pthread_mutex_unlock(&p->lock);
        if (slept && was_soon(&since)) patience = patience * 4 < SPINS ? patience * 4 : SPINS; /* short calls, one after another */
        if (p->closing) return NULL;
        if (nudged) {
            patience = NUDGED_SPINS;
            continue;
        }
        p->work(p->context, self->index, p->running);
        pool_barrier(p);
    }
}

pool *pool_open(size_t threads)
{
    pool *p = bitrl_allocate(1, sizeof *p);
    if (!p) return NULL;
    p->threads = threads;
    p->process = getpid();
    p->ids = calloc(threads, sizeof *p->ids);
    p->workers = calloc(threads, sizeof *p->workers);
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->go, NULL);
    pthread_cond_init(&p->passed, NULL);
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
        pthread_cond_destroy(&p->go);
        pthread_cond_destroy(&p->passed);
        pthread_mutex_destroy(&p->lock);
    }
    free(p->workers);
    free(p->ids);
    free(p);
}

void pool_run_alone(pool *p, void (*work)(void *context, size_t i, size_t count), void *context)
{
    p->running = 1;
    p->next = 0;
    work(context, 0, 1);
    clock_gettime(CLOCK_MONOTONIC, &p->ended);
}

void pool_run(pool *p, void (*work)(void *context, size_t i, size_t count), void *context)
{
    if (pool_running(p) == 1) {
        pool_run_alone(p, work, context);
        return;
    }
    p->running = p->threads;
    p->next = 0;
    p->work = work;
    p->context = context;
    pthread_mutex_lock(&p->lock);
    p->round++;
    pthread_cond_broadcast(&p->go);
    pthread_mutex_unlock(&p->lock);
    work(context, 0, p->running);
    pool_barrier(p);
    clock_gettime(CLOCK_MONOTONIC, &p->ended);
}

bool pool_ready(pool *p)
{
    if (pool_running(p) == 1) return false;
    if (atomic_load(&p->asleep) == 0) return true;
    if (was_soon(&p->ended)) {
        pthread_mutex_lock(&p->lock);
        p->nudges++;
        pthread_cond_broadcast(&p->go);
        pthread_mutex_unlock(&p->lock);
    }
    return false;
}

void pool_barrier(pool *p)
{
    const size_t running = p->running; /* read before arriving: after it the next run may already write it */
    if (running == 1) {
        atomic_store_explicit(&p->next, 0, memory_order_relaxed);
        return;
    }
    unsigned long passed = atomic_load_explicit(&p->barriers, memory_order_acquire);
    if (atomic_fetch_add_explicit(&p->arrived, 1, memory_order_acq_rel) + 1 == running) {
        atomic_store_explicit(&p->arrived, 0, memory_order_relaxed);
        atomic_store_explicit(&p->next, 0, memory_order_relaxed);
        /* In one order with `sleeping`: either it is seen here, or who goes to sleep sees the barrier passed. Exchanged, not
         * stored: emulators of ARM on x86 let a load overtake a store, and whoever slept then would sleep for ever. */
        atomic_exchange(&p->barriers, passed + 1);
        if (atomic_load(&p->sleeping) == 0) return;
        pthread_mutex_lock(&p->lock);
        pthread_cond_broadcast(&p->passed);
        pthread_mutex_unlock(&p->lock);
        return;
    }
    static _Thread_local unsigned patience = SPINS;
    if (spin(&p->barriers, passed, &patience)) return;
    pthread_mutex_lock(&p->lock);
    atomic_fetch_add(&p->sleeping, 1);
    while (atomic_load(&p->barriers) == passed) pthread_cond_wait(&p->passed, &p->lock);
    atomic_fetch_sub(&p->sleeping, 1);
    pthread_mutex_unlock(&p->lock);
}

bool pool_take(pool *p, size_t items, size_t *item)
{
    if (p->running == 1) { /* no lock prefix */
        *item = atomic_load_explicit(&p->next, memory_order_relaxed);
        atomic_store_explicit(&p->next, *item + 1, memory_order_relaxed);
    } else
        *item = atomic_fetch_add_explicit(&p->next, 1, memory_order_relaxed);
    return *item < items;
}

size_t pool_threads(const pool *p) { return p->threads; }

size_t pool_running(const pool *p) { return p->process == getpid() ? p->threads : 1; } /* after a fork the workers are gone */
