/* scheduler.c: locking, the worker thread, and the delivery of results.
 *
 * One mutex guards the queue and the state of every job. The thread that computes, the
 * worker or a caller, holds it except during forward(). A job belongs to the caller
 * that submitted it; the queue only borrows it until it is done. */
#define _GNU_SOURCE /* pthread_condattr_setclock, pthread_setname_np */

#include "scheduler.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "queue.h"
#include "thread.h"

struct qe_scheduler {
    struct qe_backend *backend; /* borrowed                                          */
    pthread_mutex_t mutex;
    pthread_cond_t arrived;
    pthread_t worker;
    bool has_worker;
    bool running; /* a batch is in forward()                        */
    bool stopping;
    struct qe_queue queue;
    atomic_int batch_cancel;
    int n_jobs_last; /* jobs of the last batch                          */
    double last_forward_s;
    struct qe_counts counts;
    char note[QE_NOTE_BYTES]; /* the backend's, as of the last batch           */
    int done_fd;              /* -1 until qe_scheduler_done_fd()                  */
};

/* The longest wait for further callers, as a part of the last forward's time. */
#define LINGER_PART 0.05

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

/* ---- jobs; the mutex is held ---- */

static void
finish_job(struct qe_job *job)
{
    job->done = true;
    job->scheduler->counts.pending_tokens -= job->n_tokens;
    pthread_cond_broadcast(&job->changed);
    if (job->scheduler->done_fd >= 0) {
        /* Fails only if 2^64 jobs were done since the last read. */
        (void)eventfd_write(job->scheduler->done_fd, 1);
    }
}

/* Removes the job's remaining sequences; it is done once its batch returns. */
static void
drop_job(struct qe_scheduler *s, struct qe_job *job, const struct qe_error *why)
{
    if (job->err.status == 0) {
        job->err = *why;
    }
    qe_queue_remove(&s->queue, job);
    job->n_seqs = job->n_taken;
    if (job->n_finished == job->n_taken && !job->done) {
        finish_job(job);
    }
}

/* Records the outcome of a batch in its jobs. */
static void
deliver_batch(struct qe_scheduler *s, int status, const struct qe_error *err)
{
    for (int i = 0; i < s->queue.n_taken; i++) {
        struct qe_job *job = s->queue.taken[i].job;

        job->n_finished++;
        if (status < 0 && job->err.status == 0) {
            job->err = *err;
        } else if (job->err.status == 0 && isnan(s->queue.texts[i].out[0])) {
            qe_fail(&job->err, QE_ENONFINITE,
                    "the vector has NaN or infinity: the model's weights do, or its "
                    "activations overflow");
            job->err.index = s->queue.taken[i].index;
        }
        if (job->err.status != 0) {
            drop_job(s, job, &job->err);
        } else if (job->n_finished == job->n_seqs) {
            finish_job(job);
        }
    }
    s->queue.n_taken = 0;
}

/* ---- the worker ---- */

/* Waits a little for the callers of the last batch, who have just been answered and may
 * submit their next texts: that beats running a batch without them. */
static void
linger(struct qe_scheduler *s)
{
    struct timespec until = timespec_of(now_s() + LINGER_PART * s->last_forward_s);

    while (s->queue.n_waiting < s->n_jobs_last && !qe_queue_has_full_batch(&s->queue) &&
           !s->stopping) {
        if (pthread_cond_timedwait(&s->arrived, &s->mutex, &until) == ETIMEDOUT) {
            return;
        }
    }
}

/* Computes one batch of the waiting jobs. Called with the mutex held and nothing
 * running; releases the mutex during forward(). */
static void
run_batch(struct qe_scheduler *s)
{
    struct qe_batch batch = {.cancel = &s->batch_cancel};
    struct qe_error err = {0};

    qe_queue_make_batch(&s->queue, &batch);
    s->n_jobs_last = qe_queue_mark_served(&s->queue);
    atomic_store(&s->batch_cancel, 0);

    s->running = true;
    pthread_mutex_unlock(&s->mutex);
    double start_s = now_s();
    int status = s->backend->forward(s->backend, &batch, &err);
    double forward_s = now_s() - start_s;
    pthread_mutex_lock(&s->mutex);
    s->running = false;

    s->last_forward_s = forward_s;
    s->counts.n_batches++;
    s->counts.n_texts += s->queue.n_taken;
    s->counts.n_tokens += batch.n_tokens;
    s->counts.forward_s += forward_s;
    memcpy(s->note, s->backend->note, sizeof s->note);
    deliver_batch(s, status, &err);
}

static void *
work(void *argument)
{
    struct qe_scheduler *s = argument;

    pthread_setname_np(pthread_self(), "qe forward"); /* as top -H shows it */
    pthread_mutex_lock(&s->mutex);
    for (;;) {
        while ((s->queue.n_waiting == 0 || s->running) && !s->stopping) {
            pthread_cond_wait(&s->arrived, &s->mutex);
        }
        if (s->stopping) {
            break;
        }
        linger(s);
        if (s->queue.n_waiting > 0 && !s->running) {
            run_batch(s);
        }
    }
    pthread_mutex_unlock(&s->mutex);
    return NULL;
}

/* Computes a job that was left to its waiting thread. */
static void
run_left(struct qe_scheduler *s, struct qe_job *job)
{
    job->left_to_waiter = false;
    if (job->done || s->running || s->stopping || s->queue.n_waiting != 1) {
        return; /* the worker computes it */
    }
    run_batch(s);
    if (s->queue.n_waiting > 0 || s->stopping) {
        pthread_cond_broadcast(&s->arrived);
    }
}

static int
start_worker(struct qe_scheduler *s, struct qe_error *err)
{
    int failed = qe_thread_start(&s->worker, work, s);

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
        return qe_fail(err, QE_ENOMEM, "scheduler: no memory");
    }
    s->backend = backend;
    memcpy(s->note, backend->note, sizeof s->note);
    s->done_fd = -1;
    pthread_mutex_init(&s->mutex, NULL);
    init_cond(&s->arrived);
    if (qe_queue_open(&s->queue, backend->batch_tokens, err) < 0) {
        qe_scheduler_close(s);
        return err->status;
    }
    *scheduler = s;
    return 0;
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
    job->request = *request;
    job->n_seqs = request->n_seqs;
    job->n_tokens = request->cu_seqlens[request->n_seqs];
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
    } else if (!s->has_worker) {
        status = start_worker(s, err);
    }
    if (status == 0 && (*job)->n_seqs == 0) {
        (*job)->done = true;
    } else if (status == 0) {
        (*job)->left_to_waiter = request->waits && !s->running && s->n_jobs_last == 1 &&
                                 s->queue.n_waiting == 0 &&
                                 (*job)->n_tokens <= s->backend->few_tokens;
        qe_queue_push(&s->queue, *job);
        s->counts.pending_tokens += (*job)->n_tokens;
        if (!(*job)->left_to_waiter) {
            pthread_cond_signal(&s->arrived);
        }
    }
    pthread_mutex_unlock(&s->mutex);
    if (status < 0) {
        (*job)->done = true;
        qe_job_free(*job);
        *job = NULL;
    }
    return status;
}

struct qe_counts
qe_scheduler_counts(struct qe_scheduler *s)
{
    pthread_mutex_lock(&s->mutex);
    struct qe_counts counts = s->counts;
    pthread_mutex_unlock(&s->mutex);
    return counts;
}

void
qe_scheduler_note(struct qe_scheduler *s, char note[QE_NOTE_BYTES])
{
    pthread_mutex_lock(&s->mutex);
    memcpy(note, s->note, sizeof s->note);
    pthread_mutex_unlock(&s->mutex);
}

int
qe_scheduler_done_fd(struct qe_scheduler *s, struct qe_error *err)
{
    pthread_mutex_lock(&s->mutex);
    if (s->done_fd < 0) {
        s->done_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    }
    int fd = s->done_fd;
    pthread_mutex_unlock(&s->mutex);
    if (fd < 0) {
        return qe_fail(err, QE_ENOMEM, "eventfd: %s", strerror(errno));
    }
    return fd;
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
    if (job->left_to_waiter) {
        run_left(s, job);
    }
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
        for (int i = 0; i < s->queue.n_taken; i++) {
            all = all && s->queue.taken[i].job->cancelled;
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
        free(job->request.tokens);
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
    while (s->queue.first != NULL) {
        drop_job(s, s->queue.first, &why);
    }
    join = s->has_worker;
    s->has_worker = false;
    pthread_cond_broadcast(&s->arrived);
    pthread_mutex_unlock(&s->mutex);
    if (join) {
        pthread_join(s->worker, NULL);
    }
    pthread_mutex_lock(&s->mutex);
    while (s->running) { /* on a caller's thread */
        pthread_cond_wait(&s->arrived, &s->mutex);
    }
    pthread_mutex_unlock(&s->mutex);
}

void
qe_scheduler_after_fork(struct qe_scheduler *s)
{
    pthread_mutex_init(&s->mutex, NULL);
    init_cond(&s->arrived);
    s->has_worker = s->running = false;
    s->queue.first = s->queue.last = NULL;
    s->queue.n_waiting = s->queue.n_taken = s->n_jobs_last = 0;
    s->counts = (struct qe_counts){0};
    if (s->done_fd >= 0) { /* shared with the parent */
        close(s->done_fd);
        s->done_fd = -1;
    }
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
    if (s->done_fd >= 0) {
        close(s->done_fd);
    }
    qe_queue_close(&s->queue);
    free(s);
}
