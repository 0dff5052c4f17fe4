/* test_engine_faults.c: an engine when a call to the system fails: see fault_runs.h.
 *
 * An engine that was open goes on to give the right rows. */
#include <string.h>

#include "engine.h"
#include "fault_runs.h"
#include "faults.h"

#define N_TEXTS 3
#define N_TOKENS 12 /* of all texts */
#define DIM 16

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
    float rows[N_TEXTS * DIM];
    struct qe_error second;

    int status = qe_engine_open(&inputs->config, inputs->paths, inputs->n_paths,
                                &options, &engine, err);
    if (status < 0) {
        require(engine == NULL, "a refused engine is NULL");
        return status;
    }
    status = encode(engine, rows, err);
    faults_disarm();
    if (encode(engine, again, &second) < 0) {
        require(0, second.message);
    }
    if (expected[0] == 0 && expected[1] == 0) {
        memcpy(expected, again, sizeof expected);
    }
    require(memcmp(again, expected, sizeof expected) == 0, "rows after a failure");
    require(status < 0 || memcmp(rows, expected, sizeof expected) == 0, "rows");
    qe_engine_close(engine);
    return status;
}

int
main(int argc, char **argv)
{
    struct inputs inputs = read_inputs(argc, argv);

    run_scenario("engine", encode_with_engine, &inputs);
    return 0;
}
