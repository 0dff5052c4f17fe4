/* fake_cuda.c: a libqe_cuda.so without a GPU, for tests of what lies above the device:
 * forward() writes ones, and leaves a note from its second call on. */
#include <stdio.h>
#include <stdlib.h>

#include "cuda_library.h"

struct fake_backend {
    struct qe_backend base; /* first */
    int n_passes;
};

static int
forward(struct qe_backend *backend, const struct qe_batch *batch, struct qe_error *err)
{
    struct fake_backend *fake = (struct fake_backend *)backend;
    (void)err;

    for (int s = 0; s < batch->n_seqs; s++) {
        for (int i = 0; batch->seqs[s].out != NULL && i < batch->seqs[s].n_out; i++) {
            batch->seqs[s].out[i] = 1.0f;
        }
    }
    if (++fake->n_passes == 2) {
        snprintf(backend->note, sizeof backend->note, "slow, for a test");
    }
    return 0;
}

static int
add_adapter(struct qe_backend *backend, const struct qe_weights *weights,
            struct qe_error *err)
{
    (void)backend;
    (void)weights;
    (void)err;
    return 0;
}

static int
after_fork(struct qe_backend *backend, struct qe_error *err)
{
    return qe_fail(err, QE_EDEVICE, "device %s does not survive fork()", backend->name);
}

static int
measure(struct qe_backend *backend, struct qe_peak *peak, struct qe_error *err)
{
    (void)backend;
    (void)err;
    *peak = (struct qe_peak){1e12, 1e11};
    return 0;
}

static void
close_backend(struct qe_backend *backend)
{
    free(backend);
}

static int
open_fake(const struct qe_cuda_options *options, const struct qe_model *model,
          struct qe_backend **backend, struct qe_error *err)
{
    struct fake_backend *fake = calloc(1, sizeof *fake);
    (void)model;

    *backend = NULL;
    if (fake == NULL) {
        return qe_fail(err, QE_ENOMEM, "no memory");
    }
    fake->base = (struct qe_backend){
        .abi = QE_BACKEND_ABI,
        .size = sizeof fake->base,
        .name = options->n_devices == 1 ? "cuda:0" : "cuda:0,cuda:1",
        .kernels = "fake",
        .n_threads = 1,
        .batch_tokens = options->batch_tokens > 0 ? options->batch_tokens : 64,
        .few_tokens = 16,
        .forward = forward,
        .add_adapter = add_adapter,
        .after_fork = after_fork,
        .measure = measure,
        .close = close_backend,
    };
    *backend = &fake->base;
    return 0;
}

static int
count_memory(const struct qe_cuda_options *options, const struct qe_config *config,
             struct qe_cuda_memory *memory, struct qe_error *err)
{
    const bool host = options->embedding == QE_EMBEDDING_HOST;
    const size_t table_bytes = (size_t)config->vocab_size * config->hidden_size * 2;
    const int n_rows = options->batch_tokens > config->max_length
                           ? options->batch_tokens
                           : config->max_length;
    (void)err;

    for (int i = 0; i < options->n_devices; i++) {
        memory[i] = (struct qe_cuda_memory){
            .weights = (options->dtype == QE_BFLOAT16 ? 1600000000u : 800000000u) /
                           (unsigned)options->n_devices +
                       (host || i > 0 ? 0 : table_bytes),
            .activations = (size_t)n_rows * 100000,
            .spare = 250000000,
            .host = host && i == 0 ? table_bytes : 0,
            .free = 2000000000,
            .total = 4000000000,
            .batch_tokens = options->batch_tokens > 0 ? options->batch_tokens : 64,
            .n_layers = config->n_layers / options->n_devices,
        };
    }
    return 0;
}

static int
list_devices(struct qe_cuda_device *devices, int max_devices, struct qe_error *err)
{
    (void)err;
    if (max_devices > 0) {
        devices[0] = (struct qe_cuda_device){"fake", 9, 0, 1u << 30};
    }
    return 1;
}

extern __attribute__((visibility("default"))) const struct qe_cuda_table qe_cuda_table;
const struct qe_cuda_table qe_cuda_table = {
    .abi = QE_CUDA_ABI,
    .size = sizeof qe_cuda_table,
    .open = open_fake,
    .memory = count_memory,
    .list_devices = list_devices,
};
