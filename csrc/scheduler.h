/* scheduler.h: batches the texts of waiting callers into forward passes.
 *
 * There is one worker thread, started by the first job; it never touches Python. A
 * short job whose caller waits for it at once runs on the calling thread if the device
 * is idle: two thread switches would take a good part of its time. Jobs wait in order
 * of arrival. When several wait, each gets a share of the next batch, so that a query
 * does not wait for a corpus. Texts with a common beginning are computed over one
 * shared prefix. A text's result does not depend on the rest of its batch. */
#ifndef QE_SCHEDULER_H
#define QE_SCHEDULER_H

#include <stdbool.h>

#include "request.h"

struct qe_scheduler;
struct qe_job;

/* Totals since the scheduler was opened. */
struct qe_counts {
    long n_batches;
    long n_texts;        /* in those batches                                     */
    long n_tokens;       /* computed; the tokens of a shared prefix count once   */
    double forward_s;    /* time spent in forward()                              */
    long pending_tokens; /* of jobs that are not done                         */
};

/* backend is borrowed and must outlive the scheduler. */
int qe_scheduler_open(struct qe_backend *backend, struct qe_scheduler **scheduler,
                      struct qe_error *err);

/* Queues a job. Takes ownership of request->tokens, which malloc() returned, even on
 * failure. The caller owns *job and keeps request->out alive until the job is done. */
int qe_scheduler_submit(struct qe_scheduler *scheduler,
                        const struct qe_request *request, struct qe_job **job,
                        struct qe_error *err);

/* Finishes the running batch, fails waiting jobs with QE_ECLOSED and joins the worker.
 * Idempotent. qe_scheduler_submit() fails afterwards; jobs stay valid. */
void qe_scheduler_stop(struct qe_scheduler *scheduler);

struct qe_counts qe_scheduler_counts(struct qe_scheduler *scheduler);

/* Copies the note of the backend: see struct qe_backend. */
void qe_scheduler_note(struct qe_scheduler *scheduler, char note[QE_NOTE_BYTES]);

/* Returns an eventfd that becomes readable when jobs are done, for event loops. It is
 * created by the first call and belongs to the scheduler. The reader then calls
 * qe_job_done() for each of its jobs. */
int qe_scheduler_done_fd(struct qe_scheduler *scheduler, struct qe_error *err);

/* Empties the scheduler in a forked child, which has no copy of the worker thread. */
void qe_scheduler_after_fork(struct qe_scheduler *scheduler);

/* Stops and frees. Accepts NULL. Every job must have been freed. */
void qe_scheduler_close(struct qe_scheduler *scheduler);

/* Waits up to timeout_ms. Returns 1 if the job is not done yet, 0 if every row is
 * written, or the job's failure, which stays the same. err->index counts the request's
 * sequences. */
int qe_job_wait(struct qe_job *job, int timeout_ms, struct qe_error *err);

bool qe_job_done(struct qe_job *job);

/* Asks for the job to be dropped. Returns at once; the job is done soon after. */
void qe_job_cancel(struct qe_job *job);

/* The job must be done. Accepts NULL. */
void qe_job_free(struct qe_job *job);

#endif
