/* scheduler.c: the queue, the worker, and who is told what.
 *
 * One mutex guards the queue and every job's state. The worker holds it except during
 * forward(). A job belongs to whoever submitted it; the queue only points at it, until it
 * is done. */
#define _GNU_SOURCE /* pthread_condattr_setclock */

#include "scheduler.h"

#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "prefix.h"

struct qe_job {
    struct qe_scheduler *scheduler; /* outlives the job                              */
    struct qe_job *next_waiting;
    int32_t *tokens;     /* owned, with cu_seqlens behind                            */
    int32_t *cu_seqlens; /* (n_seqs + 1)                                             */
    int n_seqs;
    enum qe_kind kind;
    int n_out;
    float *out;          /* (n_seqs, n_out) the caller's                             */
    int n_taken;         /* sequences given to a batch so far                        */
    int n_finished;      /* of those, how many have come back                        */
    bool cancelled;
    bool done;
    struct qe_error err; /* status 0 while all is well                               */
    pthread_cond_t changed;
    pid_t pid;           /* a job does not survive fork                              */
};

/* A sequence of the batch being made and whose it is. */
struct taken {
    struct qe_job *job;
    int index;
};

struct qe_scheduler {
    struct qe_backend *backend; /* borrowed                                          */
    pthread_mutex_t mutex;
    pthread_cond_t arrived;
    pthread_t worker;
    bool has_worker;
    bool stopping;
    struct qe_job *first_waiting; /* jobs with sequences not yet taken               */
    struct qe_job *last_waiting;
    int n_waiting;

    /* The worker's own. */
    struct taken *taken;          /* (max_seqs)                                      */
    struct qe_seq *texts;         /* (max_seqs)                                      */
    struct qe_seq *seqs;          /* (max_seqs * 3 / 2) prefixes, then texts         */
    struct qe_prefix_item *items; /* (max_seqs)                                      */
    int max_seqs;
    int n_taken;
    atomic_int batch_cancel;
    int n_jobs_last;              /* jobs in the last batch                          */
    double last_forward_s;
};

/* A text waits for company at most this part of the last forward's time. */
#define LINGER_PART 0.05
/* A batch is filled again when sharing left this part of the budget unused. */
#define REFILL_PART 0.25
#define MAX_REFILLS 8

static double
now_s(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}

static struct timespec
timespec_of(double s)
{
    struct timespec t = {.tv_sec = (time_t)s};

    t.tv_nsec = (long)((s - t.tv_sec) * 1e9);
    return t;
}

static int
job_tokens(const struct qe_job *job, int index)
{
    return job->cu_seqlens[index + 1] - job->cu_seqlens[index];
}

/* ---- jobs; the mutex is held ---- */

static void
finish_job(struct qe_job *job)
{
    job->done = true;
    pthread_cond_broadcast(&job->changed);
}

static void
unlink_job(struct qe_scheduler *s, struct qe_job *job)
{
    struct qe_job *previous = NULL;

    for (struct qe_job *j = s->first_waiting; j != NULL; previous = j, j = j->next_waiting) {
        if (j != job) {
            continue;
        }
        *(previous == NULL ? &s->first_waiting : &previous->next_waiting) = j->next_waiting;
        if (s->last_waiting == j) {
            s->last_waiting = previous;
        }
        j->next_waiting = NULL;
        s->n_waiting--;
        return;
    }
}

/* Takes what is left of a job out of the queue; it is done once its batch returns. */
static void
drop_job(struct qe_scheduler *s, struct qe_job *job, const struct qe_error *why)
{
    if (job->err.status == 0) {
        job->err = *why;
    }
    unlink_job(s, job);
    job->n_seqs = job->n_taken;
    if (job->n_finished == job->n_taken && !job->done) {
        finish_job(job);
    }
}

/* ---- batches; the mutex is held ---- */

/* Takes sequences of job while the batch stays within limit tokens and the job within
 * its share. A text longer than the limit goes alone. Returns the batch's tokens. */
static int
take_from(struct qe_scheduler *s, struct qe_job *job, int n_tokens, int limit, int share)
{
    int own = 0;

    while (job->n_taken < job->n_seqs && s->n_taken < s->max_seqs) {
        int n = job_tokens(job, job->n_taken);
        if (n_tokens > 0 && n > limit - n_tokens) {
            break;
        }
        if (own > 0 && own + n > share) {
            break;
        }
        s->taken[s->n_taken] = (struct taken){.job = job, .index = job->n_taken};
        s->texts[s->n_taken++] = (struct qe_seq){
            .tokens = job->tokens + job->cu_seqlens[job->n_taken],
            .n_tokens = n,
            .prefix = -1,
            .kind = job->kind,
            .n_out = job->n_out,
            .out = job->out + (size_t)job->n_taken * job->n_out,
        };
        job->n_taken++;
        own += n;
        n_tokens += n;
    }
    return n_tokens;
}

/* Fills the batch up to limit tokens: first a fair share of each job, then in order. */
static int
take_all(struct qe_scheduler *s, int n_tokens, int limit)
{
    int share = (limit - n_tokens) / (s->n_waiting > 0 ? s->n_waiting : 1);

    for (int pass = 0; pass < 2; pass++) {
        for (struct qe_job *job = s->first_waiting, *next; job != NULL; job = next) {
            next = job->next_waiting;
            n_tokens = take_from(s, job, n_tokens, limit, pass == 0 ? share : limit);
            if (job->n_taken == job->n_seqs) {
                unlink_job(s, job);
            }
        }
    }
    return n_tokens;
}

/* Lays out the batch in s->seqs with prefixes shared among the first n_sharing of the
 * texts taken. */
static void
lay_out_batch(struct qe_scheduler *s, int n_sharing, struct qe_batch *batch)
{
    int n_prefixes = qe_prefix_share(s->texts, n_sharing, s->seqs, s->items);

    batch->seqs = s->seqs;
    batch->n_seqs = n_prefixes + s->n_taken;
    memcpy(s->seqs + n_prefixes + n_sharing, s->texts + n_sharing,
           (s->n_taken - n_sharing) * sizeof *s->seqs);
    batch->n_tokens = 0;
    for (int i = 0; i < batch->n_seqs; i++) {
        batch->n_tokens += s->seqs[i].n_tokens;
    }
}

/* Makes a batch of what waits. Sharing prefixes leaves room, so more is taken until the
 * budget is used. */
static void
make_batch(struct qe_scheduler *s, struct qe_batch *batch)
{
    int budget = s->backend->batch_tokens;
    int limit = budget;
    int n_raw = 0; /* tokens taken, before sharing */

    s->n_taken = 0;
    for (int i = 0; i < MAX_REFILLS; i++) {
        int n_before = s->n_taken;
        n_raw = take_all(s, n_raw, limit);
        lay_out_batch(s, s->n_taken, batch);
        if (batch->n_tokens > budget && n_before > 0) {
            /* The new texts spoilt a group: leave them out of the sharing. */
            lay_out_batch(s, n_before, batch);
        }
        int room = budget - batch->n_tokens;
        if (s->n_waiting == 0 || room < budget * REFILL_PART || s->n_taken == s->max_seqs) {
            break;
        }
        limit = n_raw + room;
    }
    batch->max_seqlen = 0;
    for (int i = 0; i < s->n_taken; i++) {
        if (s->texts[i].n_tokens > batch->max_seqlen) {
            batch->max_seqlen = s->texts[i].n_tokens;
        }
    }
}

static int
count_jobs(const struct qe_scheduler *s)
{
    int n = 0;

    for (int i = 0; i < s->n_taken; i++) {
        n += i == 0 || s->taken[i].job != s->taken[i - 1].job;
    }
    return n;
}

/* Gives the results of a batch to its jobs. */
static void
deliver_batch(struct qe_scheduler *s, int status, const struct qe_error *err)
{
    for (int i = 0; i < s->n_taken; i++) {
        struct qe_job *job = s->taken[i].job;

        job->n_finished++;
        if (status < 0 && job->err.status == 0) {
            job->err = *err;
        }
        else if (job->err.status == 0 && isnan(s->texts[i].out[0])) {
            qe_fail(&job->err, QE_ENONFINITE,
                    "the vector has NaN or infinity: the model's weights do, or its "
                    "activations overflow");
            job->err.index = s->taken[i].index;
        }
        if (job->err.status != 0) {
            drop_job(s, job, &job->err);
        }
        else if (job->n_finished == job->n_seqs) {
            finish_job(job);
        }
    }
    s->n_taken = 0;
}

/* ---- the worker ---- */

static bool
has_full_batch(const struct qe_scheduler *s)
{
    int n_tokens = 0;

    for (const struct qe_job *job = s->first_waiting; job != NULL; job = job->next_waiting) {
        n_tokens += job->cu_seqlens[job->n_seqs] - job->cu_seqlens[job->n_taken];
        if (n_tokens >= s->backend->batch_tokens) {
            return true;
        }
    }
    return false;
}

/* Lets callers of the last batch, who have just been answered, come back with their next
 * texts: waiting a little for them beats running a batch without them. */
static void
linger(struct qe_scheduler *s)
{
    struct timespec until = timespec_of(now_s() + LINGER_PART * s->last_forward_s);

    while (s->n_waiting < s->n_jobs_last && !has_full_batch(s) && !s->stopping) {
        if (pthread_cond_timedwait(&s->arrived, &s->mutex, &until) == ETIMEDOUT) {
            return;
        }
    }
}

static void *
work(void *argument)
{
    struct qe_scheduler *s = argument;

    pthread_mutex_lock(&s->mutex);
    for (;;) {
        while (s->n_waiting == 0 && !s->stopping) {
            pthread_cond_wait(&s->arrived, &s->mutex);
        }
        if (s->stopping) {
            break;
        }
        linger(s);
        if (s->n_waiting == 0) {
            continue;
        }
        struct qe_batch batch = {.cancel = &s->batch_cancel};
        struct qe_error err = {0};
        make_batch(s, &batch);
        s->n_jobs_last = count_jobs(s);
        atomic_store(&s->batch_cancel, 0);

        pthread_mutex_unlock(&s->mutex);
        double start_s = now_s();
        int status = s->backend->forward(s->backend, &batch, &err);
        double forward_s = now_s() - start_s;
        pthread_mutex_lock(&s->mutex);

        s->last_forward_s = forward_s;
        deliver_batch(s, status, &err);
    }
    pthread_mutex_unlock(&s->mutex);
    return NULL;
}

static int
start_worker(struct qe_scheduler *s, struct qe_error *err)
{
    sigset_t all, before;

    /* Signals belong to the caller's threads. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = pthread_create(&s->worker, NULL, work, s);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failed) {
        return qe_fail(err, QE_ENOMEM, "worker thread: %s", strerror(failed));
    }
    s->has_worker = true;
    return 0;
}

/* ---- the interface ---- */

static void
init_cond(pthread_cond_t *cond)
{
    pthread_condattr_t attr;

    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(cond, &attr);
    pthread_condattr_destroy(&attr);
}

int
qe_scheduler_open(struct qe_backend *backend, struct qe_scheduler **scheduler,
                  struct qe_error *err)
{
    struct qe_scheduler *s = calloc(1, sizeof *s);

    *scheduler = NULL;
    if (s == NULL) {
        goto fail;
    }
    s->backend = backend;
    pthread_mutex_init(&s->mutex, NULL);
    init_cond(&s->arrived);
    /* Every sequence has a token of its own, so a batch within the budget has no more
     * sequences than tokens. */
    s->max_seqs = backend->batch_tokens;
    s->taken = malloc(s->max_seqs * sizeof *s->taken);
    s->texts = malloc(s->max_seqs * sizeof *s->texts);
    s->seqs = malloc((s->max_seqs + s->max_seqs / 2) * sizeof *s->seqs);
    s->items = malloc(s->max_seqs * sizeof *s->items);
    if (s->taken == NULL || s->texts == NULL || s->seqs == NULL || s->items == NULL) {
        goto fail;
    }
    *scheduler = s;
    return 0;
fail:
    qe_scheduler_close(s);
    return qe_fail(err, QE_ENOMEM, "scheduler: no memory for batches of %d tokens",
                   backend->batch_tokens);
}

static struct qe_job *
new_job(struct qe_scheduler *s, const struct qe_request *request)
{
    struct qe_job *job = calloc(1, sizeof *job);

    if (job == NULL) {
        free(request->tokens);
        return NULL;
    }
    job->scheduler = s;
    job->tokens = request->tokens;
    job->cu_seqlens = request->cu_seqlens;
    job->n_seqs = request->n_seqs;
    job->kind = request->kind;
    job->n_out = request->n_out;
    job->out = request->out;
    job->pid = getpid();
    init_cond(&job->changed);
    return job;
}

int
qe_scheduler_submit(struct qe_scheduler *s, const struct qe_request *request,
                    struct qe_job **job, struct qe_error *err)
{
    int status = 0;

    *job = new_job(s, request);
    if (*job == NULL) {
        return qe_fail(err, QE_ENOMEM, "request: no memory");
    }
    pthread_mutex_lock(&s->mutex);
    if (s->stopping) {
        status = qe_fail(err, QE_ECLOSED, "closed");
    }
    else if (!s->has_worker) {
        status = start_worker(s, err);
    }
    if (status == 0 && (*job)->n_seqs == 0) {
        (*job)->done = true;
    }
    else if (status == 0) {
        *(s->last_waiting == NULL ? &s->first_waiting : &s->last_waiting->next_waiting) =
            *job;
        s->last_waiting = *job;
        s->n_waiting++;
        pthread_cond_signal(&s->arrived);
    }
    pthread_mutex_unlock(&s->mutex);
    if (status < 0) {
        (*job)->done = true;
        qe_job_free(*job);
        *job = NULL;
    }
    return status;
}

int
qe_job_wait(struct qe_job *job, int timeout_ms, struct qe_error *err)
{
    struct qe_scheduler *s = job->scheduler;
    struct timespec until = timespec_of(now_s() + 1e-3 * timeout_ms);
    int status;

    if (job->pid != getpid()) {
        return qe_fail(err, QE_ECANCELLED,
                       "this call began before fork(); call again in the child");
    }
    pthread_mutex_lock(&s->mutex);
    while (!job->done &&
           pthread_cond_timedwait(&job->changed, &s->mutex, &until) != ETIMEDOUT) {
    }
    status = job->done ? job->err.status : 1;
    if (status < 0) {
        *err = job->err;
    }
    pthread_mutex_unlock(&s->mutex);
    return status;
}

bool
qe_job_done(struct qe_job *job)
{
    if (job->pid != getpid()) {
        return true;
    }
    pthread_mutex_lock(&job->scheduler->mutex);
    bool done = job->done;
    pthread_mutex_unlock(&job->scheduler->mutex);
    return done;
}

void
qe_job_cancel(struct qe_job *job)
{
    struct qe_scheduler *s = job->scheduler;
    struct qe_error why = {0};

    if (job->pid != getpid()) {
        return;
    }
    qe_fail(&why, QE_ECANCELLED, "cancelled");
    pthread_mutex_lock(&s->mutex);
    if (!job->done) {
        bool all = true;
        job->cancelled = true;
        drop_job(s, job, &why);
        for (int i = 0; i < s->n_taken; i++) {
            all = all && s->taken[i].job->cancelled;
        }
        if (all) {
            atomic_store(&s->batch_cancel, 1);
        }
    }
    pthread_mutex_unlock(&s->mutex);
}

void
qe_job_free(struct qe_job *job)
{
    if (job != NULL) {
        pthread_cond_destroy(&job->changed);
        free(job->tokens);
        free(job);
    }
}

void
qe_scheduler_stop(struct qe_scheduler *s)
{
    struct qe_error why = {0};
    bool join;

    qe_fail(&why, QE_ECLOSED, "closed");
    pthread_mutex_lock(&s->mutex);
    s->stopping = true;
    while (s->first_waiting != NULL) {
        drop_job(s, s->first_waiting, &why);
    }
    join = s->has_worker;
    s->has_worker = false;
    pthread_cond_broadcast(&s->arrived);
    pthread_mutex_unlock(&s->mutex);
    if (join) {
        pthread_join(s->worker, NULL);
    }
}

int
qe_scheduler_after_fork(struct qe_scheduler *s, struct qe_error *err)
{
    (void)err;
    pthread_mutex_init(&s->mutex, NULL);
    init_cond(&s->arrived);
    s->has_worker = false;
    s->first_waiting = s->last_waiting = NULL;
    s->n_waiting = s->n_taken = s->n_jobs_last = 0;
    return 0;
}

void
qe_scheduler_close(struct qe_scheduler *s)
{
    if (s == NULL) {
        return;
    }
    if (s->backend != NULL) {
        qe_scheduler_stop(s);
        pthread_mutex_destroy(&s->mutex);
        pthread_cond_destroy(&s->arrived);
    }
    free(s->taken);
    free(s->texts);
    free(s->seqs);
    free(s->items);
    free(s);
}
