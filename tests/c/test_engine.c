/* test_engine.c: many threads on one engine, in C alone, for the sanitizers.
 *
 * usage: test_engine N_THREADS N_CALLS CONFIG... FILE
 * CONFIG: hidden intermediate layers heads kv_heads head_dim vocab max_length.
 * Every thread embeds texts of its own in calls of one to three, now and then cancels a
 * call, and compares each row, bit for bit, with the row that the text gave alone. */
#define _GNU_SOURCE
#include "engine.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define N_TEXTS 24
#define MAX_TOKENS 40 /* of a text; three texts fill a batch */
#define DIM 32

static struct {
    struct qe_engine *engine;
    pthread_mutex_t submit; /* qe_engine_submit: one caller at a time */
    int32_t tokens[N_TEXTS][MAX_TOKENS];
    int n_tokens[N_TEXTS];
    float alone[N_TEXTS][DIM];
    int n_calls;
} shared = {.submit = PTHREAD_MUTEX_INITIALIZER};

static void
die(const char *what, const struct qe_error *err)
{
    fprintf(stderr, "%s: %d %s\n", what, err->status, err->message);
    exit(1);
}

/* Queues texts (n) and returns their job. out (n, DIM) */
static struct qe_job *
submit(const int *texts, int n, float *out)
{
    int32_t tokens[3 * MAX_TOKENS], offsets[4] = {0};
    struct qe_error err;
    struct qe_job *job;

    for (int i = 0; i < n; i++) {
        int length = shared.n_tokens[texts[i]];
        memcpy(tokens + offsets[i], shared.tokens[texts[i]], length * sizeof *tokens);
        offsets[i + 1] = offsets[i] + length;
    }
    struct qe_input input = {.tokens = tokens,
                             .n_tokens = (size_t)offsets[n],
                             .cu_seqlens = offsets,
                             .n_seqs = n,
                             .kind = QE_UNIT,
                             .waits = n == 1,
                             .n_out = DIM,
                             .out = out};
    pthread_mutex_lock(&shared.submit);
    int status = qe_engine_submit(shared.engine, &input, &job, &err);
    pthread_mutex_unlock(&shared.submit);
    if (status < 0) {
        die("submit", &err);
    }
    return job;
}

static int
wait_for(struct qe_job *job, struct qe_error *err)
{
    int status;

    do {
        status = qe_job_wait(job, 50, err);
    } while (status == 1);
    return status;
}

static void *
call_often(void *argument)
{
    unsigned seed = (unsigned)(size_t)argument;
    struct qe_error err;

    for (int call = 0; call < shared.n_calls; call++) {
        int texts[3], n = 1 + rand_r(&seed) % 3;
        float out[3][DIM];
        for (int i = 0; i < n; i++) {
            texts[i] = rand_r(&seed) % N_TEXTS;
        }
        struct qe_job *job = submit(texts, n, out[0]);
        bool cancel = rand_r(&seed) % 8 == 0;
        if (cancel) {
            qe_job_cancel(job);
        }
        int status = wait_for(job, &err);
        if (status < 0 && !(cancel && status == QE_ECANCELLED)) {
            die("wait", &err);
        }
        for (int i = 0; i < n && status == 0; i++) {
            if (memcmp(out[i], shared.alone[texts[i]], sizeof out[i]) != 0) {
                fprintf(stderr, "text %d: bits differ in company\n", texts[i]);
                exit(1);
            }
        }
        qe_job_free(job);
    }
    return NULL;
}

static void
embed_alone(void)
{
    struct qe_error err;

    for (int i = 0; i < N_TEXTS; i++) {
        struct qe_job *job = submit(&i, 1, shared.alone[i]);
        if (wait_for(job, &err) < 0) {
            die("alone", &err);
        }
        qe_job_free(job);
    }
}

int
main(int argc, char **argv)
{
    float inv_freq[128];
    struct qe_error err;
    pthread_t threads[64];

    if (argc != 12) {
        fprintf(stderr, "usage: see the head of test_engine.c\n");
        return 2;
    }
    int n_threads = atoi(argv[1]);
    shared.n_calls = atoi(argv[2]);
    struct qe_config config = {
        .hidden_size = atoi(argv[3]),
        .intermediate_size = atoi(argv[4]),
        .n_layers = atoi(argv[5]),
        .n_heads = atoi(argv[6]),
        .n_kv_heads = atoi(argv[7]),
        .head_dim = atoi(argv[8]),
        .vocab_size = atoi(argv[9]),
        .max_length = atoi(argv[10]),
        .rms_norm_eps = 1e-6f,
        .rope_scale = 1.0f,
        .rope_inv_freq = inv_freq,
    };
    for (int i = 0; i < config.head_dim / 2; i++) {
        inv_freq[i] = powf(1e6f, -2.0f * i / config.head_dim);
    }
    const char *paths[1] = {argv[11]};
    struct qe_engine_options options = {
        .device = "cpu", .n_threads = 2, .batch_tokens = 100};
    if (qe_engine_open(&config, paths, 1, &options, &shared.engine, &err) < 0) {
        die("open", &err);
    }
    srand(7);
    for (int i = 0; i < N_TEXTS; i++) {
        shared.n_tokens[i] = 1 + rand() % MAX_TOKENS;
        for (int t = 0; t < shared.n_tokens[i]; t++) {
            shared.tokens[i][t] = rand() % config.vocab_size;
        }
    }
    embed_alone();
    for (int i = 0; i < n_threads; i++) {
        pthread_create(&threads[i], NULL, call_often, (void *)(size_t)(i + 1));
    }
    for (int i = 0; i < n_threads; i++) {
        pthread_join(threads[i], NULL);
    }
    qe_engine_close(shared.engine);
    printf("ok: %d threads, %d calls each\n", n_threads, shared.n_calls);
    return 0;
}
