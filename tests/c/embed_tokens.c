/* embed_tokens.c: an engine without Python, for tests that compile it for another
 * processor or from changed sources.
 *
 *     embed_tokens sets
 *     embed_tokens bfloat16|int8 unit|raw THREADS BATCH_TOKENS paths... < input
 *
 * The first writes the names of this machine's instruction sets, best first.
 * input: 8 sizes int32: hidden intermediate layers heads kv_heads head_dim vocab
 * max_length; eps, rope_scale, inv_freq (head_dim / 2) fp32; n_out, n_seqs,
 * cu_seqlens (n_seqs + 1), tokens int32.
 * output: the name of the kernels (32 bytes), then rows (n_seqs, n_out) fp32. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/isa.h"
#include "engine.h"

#define N_SIZES 8

static void
require(bool ok, const char *what)
{
    if (!ok) {
        fprintf(stderr, "%s\n", what);
        exit(2);
    }
}

/* (n) of 4 bytes each */
static void *
read_words(size_t n)
{
    void *words = malloc(4 * n + 1);

    require(words != NULL && fread(words, 4, n, stdin) == n, "input is too short");
    return words;
}

static int
print_sets(void)
{
    const char *names[QE_MAX_SETS];
    int n = qe_isa_list(names);

    for (int i = 0; i < n; i++) {
        puts(names[i]);
    }
    return 0;
}

static struct qe_engine *
open_engine(char **argv, int argc)
{
    struct qe_engine *engine;
    struct qe_error err;
    int32_t *sizes = read_words(N_SIZES);
    float *floats = read_words(2 + (size_t)sizes[5] / 2);
    struct qe_config config = {
        .hidden_size = sizes[0],
        .intermediate_size = sizes[1],
        .n_layers = sizes[2],
        .n_heads = sizes[3],
        .n_kv_heads = sizes[4],
        .head_dim = sizes[5],
        .vocab_size = sizes[6],
        .max_length = sizes[7],
        .rms_norm_eps = floats[0],
        .rope_scale = floats[1],
        .rope_inv_freq = floats + 2,
    };
    struct qe_engine_options options = {
        .device = "cpu",
        .dtype = strcmp(argv[1], "int8") == 0 ? QE_INT8 : QE_BFLOAT16,
        .n_threads = atoi(argv[3]),
        .batch_tokens = atoi(argv[4]),
    };

    require(qe_engine_open(&config, (const char *const *)argv + 5, argc - 5, &options,
                           &engine, &err) == 0,
            err.message);
    free(floats);
    free(sizes);
    return engine;
}

static void
embed(struct qe_engine *engine, enum qe_kind kind)
{
    struct qe_error err;
    struct qe_job *job;
    int32_t *counts = read_words(2);
    const int n_out = counts[0], n_seqs = counts[1];
    int32_t *cu_seqlens = read_words((size_t)n_seqs + 1);
    int32_t *tokens = read_words((size_t)cu_seqlens[n_seqs]);
    float *rows = malloc((size_t)n_seqs * n_out * sizeof *rows);
    struct qe_input input = {.tokens = tokens,
                             .n_tokens = (size_t)cu_seqlens[n_seqs],
                             .cu_seqlens = cu_seqlens,
                             .n_seqs = n_seqs,
                             .kind = kind,
                             .waits = true,
                             .n_out = n_out,
                             .out = rows};
    int status = 1;

    require(rows != NULL, "out of memory");
    require(qe_engine_submit(engine, &input, &job, &err) == 0, err.message);
    while (status == 1) {
        status = qe_job_wait(job, 50, &err);
    }
    require(status == 0, err.message);
    qe_job_free(job);
    fwrite(qe_engine_info(engine)->kernels, 1, 32, stdout);
    fwrite(rows, sizeof *rows, (size_t)n_seqs * n_out, stdout);
    free(rows);
    free(tokens);
    free(cu_seqlens);
    free(counts);
}

int
main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "sets") == 0) {
        return print_sets();
    }
    require(argc > 5, "usage: see the head of embed_tokens.c");
    struct qe_engine *engine = open_engine(argv, argc);
    embed(engine, strcmp(argv[2], "unit") == 0 ? QE_UNIT : QE_RAW);
    qe_engine_close(engine);
    return 0;
}
