/* queue.h: the waiting jobs, and the batch made from them.
 *
 * It has no lock of its own: the scheduler's mutex guards it. */
#ifndef QE_QUEUE_H
#define QE_QUEUE_H

#include <pthread.h>
#include <stdbool.h>
#include <sys/types.h>

#include "prefix.h"
#include "request.h"

struct qe_job {
    struct qe_scheduler *scheduler; /* outlives the job                              */
    struct qe_job *next_waiting;
    struct qe_request request; /* owned, with its tokens                             */
    int n_tokens;              /* of all sequences                                   */
    int n_seqs;       /* sequences to compute: once dropped, only those in batches   */
    int n_taken;      /* sequences put into batches so far                           */
    int n_finished;   /* of those, sequences whose forward pass has returned         */
    long last_served; /* n_batches when it last got into a batch, or arrived         */
    bool left_to_waiter; /* to be computed by the thread that waits for it           */
    bool cancelled;
    bool done;
    struct qe_error err; /* status 0 unless it failed                                */
    pthread_cond_t changed;
    pid_t pid; /* of the process that submitted it: a job does not survive fork      */
};

/* One sequence of a batch: sequence index of job. */
struct qe_taken {
    struct qe_job *job;
    int index;
};

struct qe_queue {
    struct qe_job *first; /* jobs with sequences not yet taken, in order of arrival  */
    struct qe_job *last;
    int n_waiting;

    int batch_tokens; /* budget of a batch                                           */
    int max_seqs;     /* per batch: batch_tokens, as each has at least one token     */
    struct qe_taken *taken;       /* (max_seqs) sequences of the last batch made     */
    struct qe_seq *texts;         /* (max_seqs) the same, before sharing prefixes    */
    struct qe_seq *seqs;          /* (max_seqs * 3 / 2) prefixes, then texts         */
    struct qe_prefix_item *items; /* (max_seqs) scratch                              */
    int n_taken;
    long n_batches; /* batches served: the clock of fairness                         */
};

int qe_queue_open(struct qe_queue *queue, int batch_tokens, struct qe_error *err);

/* Accepts a half-opened queue. Does not free jobs. */
void qe_queue_close(struct qe_queue *queue);

/* Appends the job and sets its last_served. */
void qe_queue_push(struct qe_queue *queue, struct qe_job *job);

/* Has no effect if the job is not waiting. */
void qe_queue_remove(struct qe_queue *queue, struct qe_job *job);

/* Returns whether the waiting tokens fill a batch. */
bool qe_queue_has_full_batch(const struct qe_queue *queue);

/* Makes a batch, which borrows from the queue, from at least one waiting job. All of a
 * batch has one table of weights: that of the job with the longest wait since it
 * arrived or was last served, so that jobs of several adapters take turns. Jobs whose
 * last sequence is taken leave the queue. */
void qe_queue_make_batch(struct qe_queue *queue, struct qe_batch *batch);

/* Advances n_batches and records it in each job of the last batch made. Returns the
 * number of those jobs. */
int qe_queue_mark_served(struct qe_queue *queue);

#endif
