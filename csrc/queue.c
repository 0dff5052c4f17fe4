/* queue.c: fills batches, first with a fair share of each waiting job, then in order of
 * arrival. */
#include "queue.h"

#include <stdlib.h>
#include <string.h>

/* A batch is filled again when sharing left this part of the budget unused. */
#define REFILL_PART 0.25
#define MAX_REFILLS 8

int
qe_queue_open(struct qe_queue *q, int batch_tokens, struct qe_error *err)
{
    *q = (struct qe_queue){.batch_tokens = batch_tokens, .max_seqs = batch_tokens};
    size_t max_seqs = (size_t)q->max_seqs; /* half as many more pass an int's range */
    q->taken = malloc(max_seqs * sizeof *q->taken);
    q->texts = malloc(max_seqs * sizeof *q->texts);
    q->seqs = malloc((max_seqs + max_seqs / 2) * sizeof *q->seqs);
    q->items = malloc(max_seqs * sizeof *q->items);
    if (q->taken == NULL || q->texts == NULL || q->seqs == NULL || q->items == NULL) {
        qe_queue_close(q);
        return qe_fail(err, QE_ENOMEM, "queue: no memory for batches of %d tokens",
                       batch_tokens);
    }
    return 0;
}

void
qe_queue_close(struct qe_queue *q)
{
    free(q->taken);
    free(q->texts);
    free(q->seqs);
    free(q->items);
    *q = (struct qe_queue){0};
}

void
qe_queue_push(struct qe_queue *q, struct qe_job *job)
{
    job->last_served = q->n_batches;
    *(q->last == NULL ? &q->first : &q->last->next_waiting) = job;
    q->last = job;
    q->n_waiting++;
}

void
qe_queue_remove(struct qe_queue *q, struct qe_job *job)
{
    struct qe_job *previous = NULL;

    for (struct qe_job *j = q->first; j != NULL; previous = j, j = j->next_waiting) {
        if (j != job) {
            continue;
        }
        *(previous == NULL ? &q->first : &previous->next_waiting) = j->next_waiting;
        if (q->last == j) {
            q->last = previous;
        }
        j->next_waiting = NULL;
        q->n_waiting--;
        return;
    }
}

bool
qe_queue_has_full_batch(const struct qe_queue *q)
{
    int n_tokens = 0;

    for (const struct qe_job *job = q->first; job != NULL; job = job->next_waiting) {
        const int32_t *cu_seqlens = job->request.cu_seqlens;
        n_tokens += cu_seqlens[job->n_seqs] - cu_seqlens[job->n_taken];
        if (n_tokens >= q->batch_tokens) {
            return true;
        }
    }
    return false;
}

/* Takes sequences of job while the batch stays within limit tokens and the job within
 * its share. A text longer than the limit goes alone. Returns the batch's tokens. */
static int
take_from(struct qe_queue *q, struct qe_job *job, int n_tokens, int limit, int share)
{
    const struct qe_request *r = &job->request;
    int own = 0;

    while (job->n_taken < job->n_seqs && q->n_taken < q->max_seqs) {
        int first = r->cu_seqlens[job->n_taken];
        int n = r->cu_seqlens[job->n_taken + 1] - first;
        if (n_tokens > 0 && n > limit - n_tokens) {
            break;
        }
        if (own > 0 && own + n > share) {
            break;
        }
        q->taken[q->n_taken] = (struct qe_taken){.job = job, .index = job->n_taken};
        q->texts[q->n_taken++] = (struct qe_seq){
            .tokens = r->tokens + first,
            .n_tokens = n,
            .prefix = -1,
            .kind = r->kind,
            .n_out = r->n_out,
            .out = r->out + (size_t)job->n_taken * r->n_out,
        };
        job->n_taken++;
        own += n;
        n_tokens += n;
    }
    return n_tokens;
}

static const struct qe_weights *
next_weights(const struct qe_queue *q)
{
    const struct qe_job *next = q->first;

    for (const struct qe_job *job = next; job != NULL; job = job->next_waiting) {
        if (job->last_served < next->last_served) {
            next = job;
        }
    }
    return next->request.weights;
}

static int
count_waiting(const struct qe_queue *q, const struct qe_weights *weights)
{
    int n = 0;

    for (const struct qe_job *job = q->first; job != NULL; job = job->next_waiting) {
        n += job->request.weights == weights;
    }
    return n;
}

/* Fills the batch up to limit tokens from the n_jobs jobs that have its weights: first
 * a fair share of each, then in order. */
static int
take_all(struct qe_queue *q, const struct qe_weights *weights, int n_jobs, int n_tokens,
         int limit)
{
    int share = (limit - n_tokens) / n_jobs;

    for (int pass = 0; pass < 2; pass++) {
        for (struct qe_job *job = q->first, *next; job != NULL; job = next) {
            next = job->next_waiting;
            if (job->request.weights != weights) {
                continue;
            }
            n_tokens = take_from(q, job, n_tokens, limit, pass == 0 ? share : limit);
            if (job->n_taken == job->n_seqs) {
                qe_queue_remove(q, job);
            }
        }
    }
    return n_tokens;
}

/* Lays out the batch in q->seqs with prefixes shared among the first n_sharing of the
 * texts taken. */
static void
lay_out_batch(struct qe_queue *q, int n_sharing, struct qe_batch *batch)
{
    int n_prefixes = qe_prefix_share(q->texts, n_sharing, q->seqs, q->items);

    batch->seqs = q->seqs;
    batch->n_seqs = n_prefixes + q->n_taken;
    memcpy(q->seqs + n_prefixes + n_sharing, q->texts + n_sharing,
           (q->n_taken - n_sharing) * sizeof *q->seqs);
    batch->n_tokens = 0;
    for (int i = 0; i < batch->n_seqs; i++) {
        batch->n_tokens += q->seqs[i].n_tokens;
    }
}

/* Sharing prefixes leaves room, so more is taken until the budget is used. */
void
qe_queue_make_batch(struct qe_queue *q, struct qe_batch *batch)
{
    int budget = q->batch_tokens;
    int limit = budget;
    int n_raw = 0; /* tokens taken, before sharing */

    q->n_taken = 0;
    batch->weights = next_weights(q);
    for (int i = 0; i < MAX_REFILLS; i++) {
        int n_jobs = count_waiting(q, batch->weights);
        int n_before = q->n_taken;
        if (n_jobs == 0) {
            break;
        }
        n_raw = take_all(q, batch->weights, n_jobs, n_raw, limit);
        lay_out_batch(q, q->n_taken, batch);
        if (batch->n_tokens > budget && n_before > 0) {
            /* The new texts spoilt a group: leave them out of the sharing. */
            lay_out_batch(q, n_before, batch);
        }
        int room = budget - batch->n_tokens;
        if (room < budget * REFILL_PART || q->n_taken == q->max_seqs) {
            break;
        }
        limit = n_raw + room;
    }
    batch->max_seqlen = 0;
    for (int i = 0; i < q->n_taken; i++) {
        if (q->texts[i].n_tokens > batch->max_seqlen) {
            batch->max_seqlen = q->texts[i].n_tokens;
        }
    }
}

int
qe_queue_mark_served(struct qe_queue *q)
{
    int n = 0;

    q->n_batches++;
    for (int i = 0; i < q->n_taken; i++) {
        struct qe_job *job = q->taken[i].job;
        n += job->last_served != q->n_batches;
        job->last_served = q->n_batches;
    }
    return n;
}
