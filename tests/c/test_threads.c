/* test_threads.c: every task runs once, on a worker of the pool, whatever the threads
 * do in between; cancelling skips; a forked child can forget the pool. Meant to run
 * under ThreadSanitizer too. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../../csrc/cpu/threads.h"

#define MAX_TASKS 300
#define MAX_THREADS 8

/* ThreadSanitizer does not follow a child that starts threads of its own. */
#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define __SANITIZE_THREAD__ 1
#endif
#endif

struct job {
    int n_runs[MAX_TASKS]; /* plain ints: the pool must order them */
    int n_by_worker[MAX_THREADS];
    int value; /* set before the job, read by every task */
    atomic_int *cancel;
    int cancel_at;
};

static void
fail(const char *what, int a, int b)
{
    printf("FAIL %s: %d, expected %d\n", what, a, b);
    exit(1);
}

static void
count_task(void *context, int index, int worker)
{
    struct job *job = context;

    job->n_runs[index] += job->value;
    job->n_by_worker[worker]++;
    if (job->cancel && index == job->cancel_at) {
        atomic_store(job->cancel, 1);
    }
}

/* Jobs of all sizes back to back, some after a pause in which the workers fall asleep.
 */
static void
check_jobs(int n_threads)
{
    struct qe_error err;
    struct qe_threads *threads;
    struct job job;

    if (qe_threads_open(n_threads, &threads, &err) != 0) {
        fail(err.message, n_threads, 0);
    }
    if (qe_threads_count(threads) != n_threads) {
        fail("qe_threads_count", qe_threads_count(threads), n_threads);
    }
    for (int round = 0; round < 3000; round++) {
        int n_tasks = round % MAX_TASKS;
        int total = 0;
        memset(&job, 0, sizeof job);
        job.value = round + 1;
        if (round % 300 == 299) {
            usleep(1000);
        }
        qe_threads_run(threads, n_tasks, count_task, &job, NULL);
        for (int i = 0; i < MAX_TASKS; i++) {
            int expected = i < n_tasks ? job.value : 0;
            if (job.n_runs[i] != expected) {
                fail("times value that a task ran", job.n_runs[i], expected);
            }
        }
        for (int w = 0; w < MAX_THREADS; w++) {
            total += job.n_by_worker[w];
            if (w >= n_threads && job.n_by_worker[w] != 0) {
                fail("worker past the last", w, n_threads - 1);
            }
        }
        if (total != n_tasks) {
            fail("tasks run by workers", total, n_tasks);
        }
    }
    qe_threads_close(threads);
}

static void
check_cancel(int n_threads)
{
    struct qe_error err;
    struct qe_threads *threads;
    atomic_int cancel = 0;
    struct job job = {.value = 1, .cancel = &cancel, .cancel_at = 5};
    int n_run = 0;

    if (qe_threads_open(n_threads, &threads, &err) != 0) {
        fail(err.message, n_threads, 0);
    }
    qe_threads_run(threads, MAX_TASKS, count_task, &job, &cancel);
    for (int i = 0; i < MAX_TASKS; i++) {
        n_run += job.n_runs[i];
    }
    if (job.n_runs[5] != 1 || n_run < 6 || (n_threads == 1 && n_run != 6)) {
        fail("tasks run before the sixth cancelled", n_run, 6);
    }
    memset(job.n_runs, 0, sizeof job.n_runs);
    qe_threads_run(threads, MAX_TASKS, count_task, &job, &cancel);
    for (int i = 0; i < MAX_TASKS; i++) {
        if (job.n_runs[i] != 0) {
            fail("runs of a task of a cancelled job", job.n_runs[i], 0);
        }
    }
    qe_threads_close(threads);
}

#if !defined(__SANITIZE_THREAD__)

static void
check_fork(void)
{
    struct qe_error err;
    struct qe_threads *threads;
    int status;

    if (qe_threads_open(3, &threads, &err) != 0) {
        fail(err.message, 3, 0);
    }
    pid_t child = fork();
    if (child == 0) {
        struct qe_threads *own;
        struct job job = {.value = 1};
        qe_threads_forget(threads);
        if (qe_threads_open(2, &own, &err) != 0) {
            _exit(1);
        }
        qe_threads_run(own, MAX_TASKS, count_task, &job, NULL);
        qe_threads_close(own);
        _exit(job.n_runs[MAX_TASKS - 1] == 1 ? 0 : 2);
    }
    waitpid(child, &status, 0);
    if (status != 0) {
        fail("status of the forked child", status, 0);
    }
    qe_threads_close(threads);
}

#endif

int
main(void)
{
    struct qe_error err;
    struct qe_threads *threads;

    if (qe_threads_open(0, &threads, &err) != QE_EVALUE || threads != NULL) {
        fail("status of opening with 0 threads", err.status, QE_EVALUE);
    }
    qe_threads_close(NULL);
    for (int n_threads = 1; n_threads <= MAX_THREADS; n_threads++) {
        check_jobs(n_threads);
        check_cancel(n_threads);
    }
#if !defined(__SANITIZE_THREAD__)
    check_fork();
#endif
    printf("threads ok\n");
    return 0;
}
