/* threads.h: a small pool of threads, owned by the CPU backend.
 *
 * One operation: run n_tasks independent tasks over the workers and wait. Each worker
 * has its own run of consecutive tasks, then helps others with theirs, so who computes
 * what is not fixed; results never depend on it because tasks write disjoint memory. */
#ifndef QE_THREADS_H
#define QE_THREADS_H

#include <stdatomic.h>

#include "../error.h"

struct qe_threads;

/* A task: index in [0, n_tasks), worker in [0, n_threads). */
typedef void qe_task(void *context, int index, int worker);

/* The cores that this process may use: an affinity mask counts, a quota does not. */
int qe_usable_cores(void);

/* n_threads counts the thread that calls qe_threads_run(). */
int qe_threads_open(int n_threads, struct qe_threads **threads, struct qe_error *err);

int qe_threads_count(const struct qe_threads *threads);

/* Returns when every task has run; once *cancel is not 0, tasks not begun are skipped.
 * cancel may be NULL. One caller at a time. */
void qe_threads_run(struct qe_threads *threads, int n_tasks, qe_task *task,
                    void *context, const atomic_int *cancel);

/* For a task that needs what tasks of its job, running on other threads, are at:
 * returns once *value has reached target. */
void qe_threads_wait(const atomic_int *value, int target);

/* Accepts NULL. */
void qe_threads_close(struct qe_threads *threads);

/* In a forked child: frees the memory of a pool whose threads did not survive. */
void qe_threads_forget(struct qe_threads *threads);

#endif
