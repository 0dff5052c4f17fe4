/* threads.c: a small pool of threads, owned by the CPU backend.
 *
 * The tasks of a run (one call of qe_threads_run()) are divided into one share per
 * worker, of consecutive tasks, which use neighbouring memory. A share's counter holds
 * the number of tasks that are not claimed yet. A worker claims one by decrementing a
 * counter, that of its own share first, and only then reads the task's function. So a
 * worker need not know which run it works for, and a run never waits for a sleeping
 * worker. */
#define _GNU_SOURCE /* sched_getaffinity, pthread_setname_np */
#include "threads.h"

#include <pthread.h>
#include <sched.h>
#include <stdalign.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../thread.h"

/* A forward pass is about 200 runs. Waking a thread costs a good part of a run, so a
 * thread spins for longer than most runs take before it sleeps. */
#define SPIN_NS 200000

#define CACHE_LINE 64

struct worker {
    alignas(CACHE_LINE) atomic_int n_left; /* tasks of its share not yet claimed */
    int end;                               /* the task after the share's last    */
    int index;
    struct qe_threads *pool;
    pthread_t thread; /* not set for worker 0, which is the caller */
};

struct qe_threads {
    int n_threads;
    int n_started; /* threads to join: n_threads - 1 unless half-opened */

    /* The current run; written by the caller while no task is claimed or left. */
    qe_task *task;
    void *context;
    const atomic_int *cancel;

    alignas(CACHE_LINE) atomic_int n_begun;    /* runs; also raised by closing */
    alignas(CACHE_LINE) atomic_int n_pending;  /* tasks not yet finished       */
    alignas(CACHE_LINE) atomic_int n_finished; /* runs                         */

    alignas(CACHE_LINE) pthread_mutex_t mutex; /* taken only to sleep and to wake */
    pthread_cond_t begun;
    pthread_cond_t finished;
    atomic_int n_sleeping; /* workers that wait on begun, or are about to */
    atomic_int caller_sleeps;
    atomic_int closing;
    struct worker workers[]; /* (n_threads) */
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

/* Spins while *value is old. Returns false after SPIN_NS. */
static bool
spin_while(const atomic_int *value, int old)
{
    long long end_ns = 0;

    for (int i = 1; atomic_load(value) == old; i++) {
        pause_briefly();
        if (i % 64 == 0) {
            long long ns = now_ns();
            end_ns = end_ns ? end_ns : ns + SPIN_NS;
            if (ns > end_ns) {
                return false;
            }
        }
    }
    return true;
}

/* Claims a task of the share for the caller. Returns -1 if none is left. */
static int
claim_task(struct worker *share)
{
    int n_left = atomic_load(&share->n_left);

    while (n_left > 0) {
        if (atomic_compare_exchange_weak(&share->n_left, &n_left, n_left - 1)) {
            return share->end - n_left;
        }
    }
    return -1;
}

static void
run_task(struct qe_threads *pool, int index, int worker)
{
    if (!pool->cancel || !atomic_load_explicit(pool->cancel, memory_order_relaxed)) {
        pool->task(pool->context, index, worker);
    }
    if (atomic_fetch_sub(&pool->n_pending, 1) != 1) {
        return;
    }
    /* The caller sets caller_sleeps before its last read of n_finished: either it sees
     * that the run is finished, or this thread sees caller_sleeps. */
    atomic_fetch_add(&pool->n_finished, 1);
    if (atomic_load(&pool->caller_sleeps)) {
        pthread_mutex_lock(&pool->mutex);
        pthread_cond_signal(&pool->finished);
        pthread_mutex_unlock(&pool->mutex);
    }
}

static void
run_tasks(struct qe_threads *pool, int worker)
{
    for (int i = 0; i < pool->n_threads; i++) {
        struct worker *share = &pool->workers[(worker + i) % pool->n_threads];
        int index;
        while ((index = claim_task(share)) >= 0) {
            run_task(pool, index, worker);
        }
    }
}

static void *
work_until_closed(void *argument)
{
    struct worker *worker = argument;
    struct qe_threads *pool = worker->pool;
    int seen = 0;

    pthread_setname_np(pthread_self(), "qe cpu");
    while (!atomic_load(&pool->closing)) {
        if (!spin_while(&pool->n_begun, seen)) {
            pthread_mutex_lock(&pool->mutex);
            atomic_fetch_add(&pool->n_sleeping, 1);
            while (atomic_load(&pool->n_begun) == seen) {
                pthread_cond_wait(&pool->begun, &pool->mutex);
            }
            atomic_fetch_sub(&pool->n_sleeping, 1);
            pthread_mutex_unlock(&pool->mutex);
        }
        seen = atomic_load(&pool->n_begun);
        run_tasks(pool, worker->index);
    }
    return NULL;
}

/* Announces tasks, or closing, to the workers; with wake, also to those that sleep. */
static void
begin(struct qe_threads *pool, bool wake)
{
    atomic_fetch_add(&pool->n_begun, 1);
    if (wake && atomic_load(&pool->n_sleeping) > 0) {
        pthread_mutex_lock(&pool->mutex);
        pthread_cond_broadcast(&pool->begun);
        pthread_mutex_unlock(&pool->mutex);
    }
}

/* Starts the threads, or as many as the system allows. */
static void
start_workers(struct qe_threads *pool)
{
    while (pool->n_started < pool->n_threads - 1) {
        struct worker *worker = &pool->workers[pool->n_started + 1];
        worker->pool = pool;
        worker->index = pool->n_started + 1;
        if (qe_thread_start(&worker->thread, work_until_closed, worker) != 0) {
            break;
        }
        pool->n_started++;
    }
}

int
qe_threads_open(int n_threads, struct qe_threads **threads, struct qe_error *err)
{
    *threads = NULL;
    if (n_threads < 1 || n_threads > QE_MAX_THREADS) {
        return qe_fail(err, QE_EVALUE, "num_threads=%d, expected 1 to %d", n_threads,
                       QE_MAX_THREADS);
    }
    size_t n_bytes =
        sizeof(struct qe_threads) + (size_t)n_threads * sizeof(struct worker);
    struct qe_threads *pool = aligned_alloc(CACHE_LINE, n_bytes);
    if (!pool) {
        return qe_fail(err, QE_ENOMEM, "no memory for %d threads", n_threads);
    }
    memset(pool, 0, n_bytes);
    pool->n_threads = n_threads;
    pthread_mutex_init(&pool->mutex, NULL);
    pthread_cond_init(&pool->begun, NULL);
    pthread_cond_init(&pool->finished, NULL);
    start_workers(pool);
    if (pool->n_started < n_threads - 1) {
        qe_fail(err, QE_ENOMEM,
                "could start %d of %d threads: use fewer threads or raise the "
                "limit of processes (ulimit -u)",
                pool->n_started + 1, n_threads);
        qe_threads_close(pool);
        return err->status;
    }
    *threads = pool;
    return 0;
}

int
qe_usable_cores(void)
{
    cpu_set_t set;

    if (sched_getaffinity(0, sizeof set, &set) != 0) {
        return 1;
    }
    return CPU_COUNT(&set);
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
    const int n_threads = threads->n_threads;
    const int unfinished = atomic_load(&threads->n_finished); /* until this run is */

    if (n_tasks <= 0) {
        return;
    }
    threads->task = task;
    threads->context = context;
    threads->cancel = cancel;
    atomic_store(&threads->n_pending, n_tasks);
    int next = 0;
    for (int i = 0; i < n_threads; i++) {
        struct worker *share = &threads->workers[i];
        int n = n_tasks / n_threads + (i < n_tasks % n_threads);
        next += n;
        share->end = next;
        atomic_store(&share->n_left, n);
    }
    begin(threads, n_tasks > 1);
    run_tasks(threads, 0);

    if (spin_while(&threads->n_finished, unfinished)) {
        return;
    }
    pthread_mutex_lock(&threads->mutex);
    atomic_store(&threads->caller_sleeps, 1);
    while (atomic_load(&threads->n_finished) == unfinished) {
        pthread_cond_wait(&threads->finished, &threads->mutex);
    }
    atomic_store(&threads->caller_sleeps, 0);
    pthread_mutex_unlock(&threads->mutex);
}

void
qe_threads_wait(const atomic_int *value, int target)
{
    for (int i = 1; atomic_load(value) < target; i++) {
        pause_briefly();
        if (i % 1024 == 0) { /* the thread that it waits for may need this core */
            sched_yield();
        }
    }
}

void
qe_threads_close(struct qe_threads *threads)
{
    if (!threads) {
        return;
    }
    atomic_store(&threads->closing, 1);
    begin(threads, true);
    for (int i = 1; i <= threads->n_started; i++) {
        pthread_join(threads->workers[i].thread, NULL);
    }
    pthread_cond_destroy(&threads->finished);
    pthread_cond_destroy(&threads->begun);
    pthread_mutex_destroy(&threads->mutex);
    free(threads);
}

void
qe_threads_forget(struct qe_threads *threads)
{
    /* The mutex is not destroyed: a thread that does not exist in the child may hold
     * it. */
    free(threads);
}
