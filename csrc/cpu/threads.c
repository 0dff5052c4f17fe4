/* threads.c: a small pool of threads, owned by the CPU backend.
 *
 * One counter, n_left, holds the tasks of the current job that nobody has begun; a
 * worker claims one by lowering it, and only then reads the job. So a worker never
 * has to know whether the job it looked at is the job it works for, and a job never
 * waits for a worker that slept through it. */
#define _POSIX_C_SOURCE 200809L
#include "threads.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <time.h>

/* A forward pass is some 200 jobs in a row: a thread looks for the next one this long
 * before it sleeps, since waking it takes about as long. */
#define SPIN_NS 50000

struct worker {
    struct qe_threads *pool;
    pthread_t thread;
    int index;
};

struct qe_threads {
    int n_threads;
    int n_started; /* workers to join: n_threads - 1 unless half-opened */

    /* The job; written by the caller while no task is claimed or left. */
    int n_tasks;
    qe_task *task;
    void *context;
    const atomic_int *cancel;

    atomic_int n_left;    /* tasks not yet claimed  */
    atomic_int n_pending; /* tasks not yet finished */

    pthread_mutex_t mutex;   /* taken only to sleep and to wake            */
    pthread_cond_t work;     /* n_left > 0 or closing                      */
    pthread_cond_t finished; /* n_pending == 0                             */
    atomic_int n_sleeping;   /* workers that wait, or are about to, on work */
    atomic_int caller_sleeps;
    atomic_int closing;
    struct worker workers[]; /* (n_threads - 1) */
};

static void
pause_briefly(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static long long
now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static bool
has_work(struct qe_threads *pool)
{
    return atomic_load(&pool->n_left) > 0 || atomic_load(&pool->closing);
}

static bool
has_finished(struct qe_threads *pool)
{
    return atomic_load(&pool->n_pending) == 0;
}

/* True once done(pool), false when it took longer than SPIN_NS. */
static bool
spin(struct qe_threads *pool, bool (*done)(struct qe_threads *))
{
    long long end_ns = now_ns() + SPIN_NS;

    do {
        for (int i = 0; i < 32; i++) {
            if (done(pool)) {
                return true;
            }
            pause_briefly();
        }
    } while (now_ns() < end_ns);
    return false;
}

/* The index of a task that is now this worker's, or -1. */
static int
claim_task(struct qe_threads *pool)
{
    int n_left = atomic_load(&pool->n_left);

    while (n_left > 0) {
        if (atomic_compare_exchange_weak(&pool->n_left, &n_left, n_left - 1)) {
            return pool->n_tasks - n_left;
        }
    }
    return -1;
}

static void
run_tasks(struct qe_threads *pool, int worker)
{
    int index;

    while ((index = claim_task(pool)) >= 0) {
        if (!pool->cancel ||
            !atomic_load_explicit(pool->cancel, memory_order_relaxed)) {
            pool->task(pool->context, index, worker);
        }
        /* The caller stores caller_sleeps before it last reads n_pending, so either it
         * sees this task finished or it is seen here. */
        if (atomic_fetch_sub(&pool->n_pending, 1) == 1 &&
            atomic_load(&pool->caller_sleeps)) {
            pthread_mutex_lock(&pool->mutex);
            pthread_cond_signal(&pool->finished);
            pthread_mutex_unlock(&pool->mutex);
        }
    }
}

static void *
work_until_closed(void *argument)
{
    struct worker *worker = argument;
    struct qe_threads *pool = worker->pool;

    while (!atomic_load(&pool->closing)) {
        run_tasks(pool, worker->index);
        if (spin(pool, has_work)) {
            continue;
        }
        pthread_mutex_lock(&pool->mutex);
        atomic_fetch_add(&pool->n_sleeping, 1);
        while (!has_work(pool)) {
            pthread_cond_wait(&pool->work, &pool->mutex);
        }
        atomic_fetch_sub(&pool->n_sleeping, 1);
        pthread_mutex_unlock(&pool->mutex);
    }
    return NULL;
}

int
qe_threads_open(int n_threads, struct qe_threads **threads, struct qe_error *err)
{
    *threads = NULL;
    if (n_threads < 1) {
        return qe_fail(err, QE_EVALUE, "threads is %d, expected at least 1", n_threads);
    }
    size_t n_workers = (size_t)n_threads - 1;
    struct qe_threads *pool =
        calloc(1, sizeof *pool + n_workers * sizeof(struct worker));
    if (!pool) {
        return qe_fail(err, QE_ENOMEM, "no memory for %d threads", n_threads);
    }
    pool->n_threads = n_threads;
    pthread_mutex_init(&pool->mutex, NULL);
    pthread_cond_init(&pool->work, NULL);
    pthread_cond_init(&pool->finished, NULL);
    for (int i = 0; i < n_threads - 1; i++) {
        struct worker *worker = &pool->workers[i];
        worker->pool = pool;
        worker->index = i + 1;
        if (pthread_create(&worker->thread, NULL, work_until_closed, worker) != 0) {
            qe_fail(err, QE_ENOMEM,
                    "could start %d of %d threads: use fewer threads or raise the "
                    "limit of processes (ulimit -u)",
                    i + 1, n_threads);
            goto fail;
        }
        pool->n_started++;
    }
    *threads = pool;
    return 0;

fail:
    qe_threads_close(pool);
    return err->status;
}

int
qe_threads_count(const struct qe_threads *threads)
{
    return threads->n_threads;
}

void
qe_threads_run(struct qe_threads *threads, int n_tasks, qe_task *task, void *context,
               const atomic_int *cancel)
{
    if (n_tasks <= 0) {
        return;
    }
    threads->n_tasks = n_tasks;
    threads->task = task;
    threads->context = context;
    threads->cancel = cancel;
    atomic_store(&threads->n_pending, n_tasks);
    atomic_store(&threads->n_left, n_tasks);
    if (n_tasks > 1 && atomic_load(&threads->n_sleeping) > 0) {
        pthread_mutex_lock(&threads->mutex);
        pthread_cond_broadcast(&threads->work);
        pthread_mutex_unlock(&threads->mutex);
    }
    run_tasks(threads, 0);
    if (has_finished(threads) || spin(threads, has_finished)) {
        return;
    }
    pthread_mutex_lock(&threads->mutex);
    atomic_store(&threads->caller_sleeps, 1);
    while (!has_finished(threads)) {
        pthread_cond_wait(&threads->finished, &threads->mutex);
    }
    atomic_store(&threads->caller_sleeps, 0);
    pthread_mutex_unlock(&threads->mutex);
}

void
qe_threads_close(struct qe_threads *threads)
{
    if (!threads) {
        return;
    }
    atomic_store(&threads->closing, 1);
    pthread_mutex_lock(&threads->mutex);
    pthread_cond_broadcast(&threads->work);
    pthread_mutex_unlock(&threads->mutex);
    for (int i = 0; i < threads->n_started; i++) {
        pthread_join(threads->workers[i].thread, NULL);
    }
    pthread_cond_destroy(&threads->finished);
    pthread_cond_destroy(&threads->work);
    pthread_mutex_destroy(&threads->mutex);
    free(threads);
}

void
qe_threads_forget(struct qe_threads *threads)
{
    /* The mutex may be held by a thread that no longer exists: it is not destroyed. */
    free(threads);
}
