/* test_faults.c: every call to the system fails once, in turn; the error must be clean.
 *
 *     test_faults hidden intermediate layers heads kv_heads head_dim vocab files...
 *
 * For n = 1, 2, ... the n-th call of a run fails, until a run has fewer calls. Clean
 * means: a known status with a message that ends, nothing left behind (built with the
 * address sanitizer, each run is searched for leaks), and an engine that was open goes
 * on to give the right rows. A failure of a mere hint may leave no trace at all.
 *
 * To add a scenario: a function that returns 0 or the status of what failed. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/lsan_interface.h>
#endif

#include "engine.h"
#include "faults.h"
#include "model_args.h"

#define MAX_CALLS 100000
#define N_TEXTS 3
#define N_TOKENS 12 /* of all texts */
#define DIM 32

struct inputs {
    struct qe_config config;
    const char *const *paths; /* (n_paths) */
    int n_paths;
};

static void
require(int holds, const char *what)
{
    if (!holds) {
        faults_disarm();
        printf("broken: %s\n", what);
        exit(1);
    }
}

static int
open_and_close_file(const struct inputs *inputs, struct qe_error *err)
{
    struct qe_safetensors file;
    int status = qe_safetensors_open(inputs->paths[0], &file, err);

    if (status < 0) {
        require(file.path == NULL && file.map == NULL, "a refused file is zeroed");
        return status;
    }
    qe_safetensors_close(&file);
    return 0;
}

static int
open_and_close_model(const struct inputs *inputs, struct qe_error *err)
{
    struct qe_model model;
    int status =
        qe_model_open(&inputs->config, inputs->paths, inputs->n_paths, &model, err);

    if (status < 0) {
        require(model.files == NULL && model.layers == NULL,
                "a refused model is zeroed");
        return status;
    }
    qe_model_close(&model);
    return 0;
}

/* One call of three texts, their rows to out (N_TEXTS, DIM). */
static int
encode(struct qe_engine *engine, float *out, struct qe_error *err)
{
    static const int32_t tokens[N_TOKENS] = {1, 2, 3, 4, 5, 6, 1, 2, 3, 4, 5, 7};
    static const int32_t cu_seqlens[N_TEXTS + 1] = {0, 5, 6, 12};
    const struct qe_input input = {
        .tokens = tokens,
        .n_tokens = N_TOKENS,
        .cu_seqlens = cu_seqlens,
        .n_seqs = N_TEXTS,
        .kind = QE_UNIT,
        .n_out = DIM,
        .out = out,
    };
    struct qe_job *job;
    int status = qe_engine_submit(engine, &input, &job, err);

    if (status < 0) {
        return status;
    }
    do {
        status = qe_job_wait(job, 1000, err);
    } while (status == 1);
    qe_job_free(job);
    return status;
}

/* After a call that failed, the next one must give what it should have. */
static int
encode_with_engine(const struct inputs *inputs, struct qe_error *err)
{
    static const struct qe_engine_options options = {.device = "cpu", .n_threads = 2};
    static float expected[N_TEXTS * DIM]; /* of the first run, which has no faults */
    float again[N_TEXTS * DIM];
    struct qe_engine *engine;
    struct qe_rows rows = {0};
    struct qe_error second;

    int status = qe_engine_open(&inputs->config, inputs->paths, inputs->n_paths,
                                &options, &engine, err);
    if (status < 0) {
        require(engine == NULL, "a refused engine is NULL");
        return status;
    }
    status = qe_engine_alloc_rows(engine, N_TEXTS * DIM, &rows, err);
    if (status == 0) {
        status = encode(engine, rows.data, err);
    }
    faults_disarm();
    if (encode(engine, again, &second) < 0) {
        require(0, second.message);
    }
    if (expected[0] == 0 && expected[1] == 0) {
        memcpy(expected, again, sizeof expected);
    }
    require(memcmp(again, expected, sizeof expected) == 0, "rows after a failure");
    require(status < 0 || memcmp(rows.data, expected, sizeof expected) == 0, "rows");
    if (rows.data != NULL) {
        rows.release(rows.data, rows.n_bytes);
    }
    qe_engine_close(engine);
    return status;
}

static void
check_error(const struct qe_error *err, int status, const char *function)
{
    const void *end = memchr(err->message, '\0', sizeof err->message);

    require(end != NULL && err->message[0] != '\0', "a failure has a message");
    require(err->status == status, "the error has the status that was returned");
    if (strstr(function, "alloc") != NULL || strcmp(function, "strdup") == 0) {
        require(status == QE_ENOMEM, "no memory is QE_ENOMEM");
    } else if (strcmp(function, "open") == 0 || strcmp(function, "fstat") == 0) {
        require(status == QE_EIO && err->os_errno != 0, "a file's failure is QE_EIO");
    } else {
        require(status == QE_ENOMEM || status == QE_EIO || status == QE_EDEVICE,
                "a failure of the system has a status of the system");
    }
}

static void
run_scenario(const char *name, int (*run)(const struct inputs *, struct qe_error *),
             const struct inputs *inputs)
{
    int n_errors = 0, n_hints = 0;

    require(run(inputs, &(struct qe_error){0}) == 0, "it works without a fault");
    for (int n = 1;; n++) {
        struct qe_error err = {0};
        require(n < MAX_CALLS, "the calls have an end");
        memset(err.message, 'x', sizeof err.message);
        faults_arm(n);
        int status = run(inputs, &err);
        const char *function = faults_disarm();
        if (function == NULL) {
            require(status == 0, "a run without a fault works");
            break;
        }
        if (status < 0) {
            check_error(&err, status, function);
            n_errors++;
        } else {
            n_hints++;
        }
#if defined(__SANITIZE_ADDRESS__)
        if (__lsan_do_recoverable_leak_check() != 0) {
            printf("%s: call %d, %s: leak\n", name, n, function);
            exit(1);
        }
#endif
    }
    printf("%s: %d faults, %d clean errors, %d without effect\n", name,
           n_errors + n_hints, n_errors, n_hints);
}

int
main(int argc, char **argv)
{
    if (argc < 2 + N_MODEL_ARGS) {
        fprintf(stderr, "usage: test_faults 7 sizes, files\n");
        return 2;
    }
    struct inputs inputs = {
        .config = model_config(argv + 1),
        .paths = (const char *const *)argv + 1 + N_MODEL_ARGS,
        .n_paths = argc - 1 - N_MODEL_ARGS,
    };
    run_scenario("file", open_and_close_file, &inputs);
    run_scenario("model", open_and_close_model, &inputs);
    run_scenario("engine", encode_with_engine, &inputs);
    return 0;
}
