/* scheduler.h: turns waiting callers' texts into forward passes.
 *
 * One worker thread, started by the first job. It never touches Python. A short job of
 * a caller who waits at once is computed by that caller, if nothing else is under way:
 * waking the worker, and being woken, would take a good part of its time. Jobs wait in
 * order of arrival; when several wait, each gets its share of the next batch, so that a
 * query does not stand behind a corpus. Texts that begin alike are computed over one
 * shared prefix. A text's result never depends on its company. */
#ifndef QE_SCHEDULER_H
#define QE_SCHEDULER_H

#include <stdbool.h>

#include "backend.h"

struct qe_scheduler;
struct qe_job;

/* What one caller wants: sequences back to back, one row of out each. Already checked.
 */
struct qe_request {
    int32_t *tokens;     /* (cu_seqlens[n_seqs]), owned; cu_seqlens lies behind    */
    int32_t *cu_seqlens; /* (n_seqs + 1) from 0, strictly increasing               */
    int n_seqs;
    enum qe_kind kind;
    const struct qe_weights *weights; /* borrowed until the scheduler is closed   */
    bool waits; /* the caller's next step is qe_job_wait()          */
    int n_out;  /* floats in a row                                  */
    float *out; /* (n_seqs, n_out) written until the job is done    */
};

/* What a scheduler has done since it was opened. */
struct qe_counts {
    long n_batches;
    long n_texts;  /* in those batches                                          */
    long n_tokens; /* computed for them: a prefix that texts share counts once  */
    double forward_s;
    long pending_tokens; /* of the jobs that are not done                       */
};

/* backend is borrowed and must outlive the scheduler. */
int qe_scheduler_open(struct qe_backend *backend, struct qe_scheduler **scheduler,
                      struct qe_error *err);

/* Takes ownership of request->tokens, one malloc'ed block, on failure too. The caller
 * owns *job, and must keep request->out alive until the job is done. */
int qe_scheduler_submit(struct qe_scheduler *scheduler,
                        const struct qe_request *request, struct qe_job **job,
                        struct qe_error *err);

/* Finishes the running batch, fails waiting jobs with QE_ECLOSED, joins the worker.
 * Idempotent; submit then fails. The memory stays, for jobs that are still held. */
void qe_scheduler_stop(struct qe_scheduler *scheduler);

struct qe_counts qe_scheduler_counts(struct qe_scheduler *scheduler);

/* A descriptor that becomes readable when jobs are done, for event loops: an eventfd,
 * borrowed, made at the first call. Its reader then asks qe_job_done() of each job. */
int qe_scheduler_done_fd(struct qe_scheduler *scheduler, struct qe_error *err);

/* In a forked child, where the worker did not survive: begins anew, empty. */
int qe_scheduler_after_fork(struct qe_scheduler *scheduler, struct qe_error *err);

/* Stops and frees. Accepts NULL. No job may be held any more. */
void qe_scheduler_close(struct qe_scheduler *scheduler);

/* Waits up to timeout_ms. Returns 1 if the job is not done, 0 if every row is written,
 * or the job's failure, the same at every call. err->index counts the request's
 * sequences. */
int qe_job_wait(struct qe_job *job, int timeout_ms, struct qe_error *err);

bool qe_job_done(struct qe_job *job);

/* Asks the worker to drop the job. It is done soon after, not at once. */
void qe_job_cancel(struct qe_job *job);

/* Only of a job that is done. Accepts NULL. */
void qe_job_free(struct qe_job *job);

#endif
