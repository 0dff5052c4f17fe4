/* queue.h: jobs that wait, and the batch made of them.
 *
 * Holds no lock: the scheduler's mutex guards it. */
#ifndef QE_QUEUE_H
#define QE_QUEUE_H

#include <pthread.h>
#include <stdbool.h>
#include <sys/types.h>

#include "prefix.h"

struct qe_job {
    struct qe_scheduler *scheduler; /* outlives the job                              */
    struct qe_job *next_waiting;
    int32_t *tokens;     /* owned, with cu_seqlens behind                            */
    int32_t *cu_seqlens; /* (n_seqs + 1)                                             */
    int n_seqs;
    int n_tokens; /* of all sequences                                                */
    enum qe_kind kind;
    const struct qe_weights *weights; /* jobs with other weights share no batch      */
    int n_out;
    float *out;      /* (n_seqs, n_out) the caller's                                  */
    int n_taken;     /* sequences given to a batch so far                             */
    int n_finished;  /* of those, how many have come back                             */
    long last_count; /* n_counts when it was last in a batch, or came                */
    bool left_to_waiter; /* its thread comes back at once, and computes it then      */
    bool cancelled;
    bool done;
    struct qe_error err; /* status 0 while all is well                               */
    pthread_cond_t changed;
    pid_t pid; /* a job does not survive fork                                        */
};

/* A sequence of the batch and whose it is. */
struct qe_taken {
    struct qe_job *job;
    int index;
};

struct qe_queue {
    struct qe_job *first; /* jobs with sequences not yet taken, in order of arrival  */
    struct qe_job *last;
    int n_waiting;

    int batch_tokens;             /* budget of a batch                               */
    int max_seqs;                 /* every sequence has a token of its own, so a batch
                                     has no more sequences than tokens               */
    struct qe_taken *taken;       /* (max_seqs) of the batch last made               */
    struct qe_seq *texts;         /* (max_seqs) the same, before sharing             */
    struct qe_seq *seqs;          /* (max_seqs * 3 / 2) prefixes, then texts         */
    struct qe_prefix_item *items; /* (max_seqs)                                      */
    int n_taken;
    long n_counts; /* batches counted                                                */
};

int qe_queue_open(struct qe_queue *queue, int batch_tokens, struct qe_error *err);

/* Accepts a half-opened queue. Jobs are not its own. */
void qe_queue_close(struct qe_queue *queue);

/* Sets job->last_count. */
void qe_queue_push(struct qe_queue *queue, struct qe_job *job);

/* Nothing happens if job does not wait. */
void qe_queue_remove(struct qe_queue *queue, struct qe_job *job);

/* Whether the tokens that wait fill a batch. */
bool qe_queue_has_full_batch(const struct qe_queue *queue);

/* Makes a batch of what waits, which is at least one job: queue->taken, and batch,
 * which borrows from the queue. Its weights are those of the job that has waited
 * longest since it came or was last served, so that jobs of several adapters take
 * turns. Jobs taken to their last sequence leave the queue. */
void qe_queue_make_batch(struct qe_queue *queue, struct qe_batch *batch);

/* Jobs in the batch last made. */
int qe_queue_count_jobs(struct qe_queue *queue);

#endif
