/* threads.h: a small pool of threads, owned by the CPU backend.
 *
 * It has one operation: run n_tasks independent tasks and wait. Each worker starts with
 * a share of consecutive tasks, then takes tasks from the shares of others. Results do
 * not depend on which worker runs a task, because tasks write disjoint memory. */
#ifndef QE_THREADS_H
#define QE_THREADS_H

#include <stdatomic.h>

#include "../error.h"

/* More than any machine has cores; a mistyped number would start too many threads. */
#define QE_MAX_THREADS 4096

struct qe_threads;

/* A task: index in [0, n_tasks), worker in [0, n_threads). */
typedef void qe_task(void *context, int index, int worker);

/* The cores of the affinity mask. A cgroup's CPU quota is not counted here: Python does
 * that (loading/cores.py), and passes the number of threads. */
int qe_usable_cores(void);

/* n_threads, 1 to QE_MAX_THREADS, counts the thread that calls qe_threads_run(). */
int qe_threads_open(int n_threads, struct qe_threads **threads, struct qe_error *err);

int qe_threads_count(const struct qe_threads *threads);

/* Returns when every task has run. Once *cancel is not 0, tasks that have not started
 * are skipped. cancel may be NULL. One caller at a time. */
void qe_threads_run(struct qe_threads *threads, int n_tasks, qe_task *task,
                    void *context, const atomic_int *cancel);

/* Waits until *value reaches target. For a task that depends on others of the same run,
 * which must already be running on other threads. */
void qe_threads_wait(const atomic_int *value, int target);

/* Accepts NULL. */
void qe_threads_close(struct qe_threads *threads);

/* Frees the memory of a pool in a forked child, where its threads do not exist. */
void qe_threads_forget(struct qe_threads *threads);

#endif
