/* backend_cuda.cu: the seam on one NVIDIA GPU. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend_cuda.h"
#include "cuda_error.h"
#include "pass.h"
#include "peak.h"

/* About 10 ms with the 8B model on the oldest GPUs. */
#define FEW_TOKENS 128

struct cuda_backend {
    struct qe_backend base; /* first */
    struct device gpu;      /* owned */
};

/* Waits for the GPU and copies results to the callers. */
static void
deliver(struct pass *p, const struct qe_batch *batch, int first, int end)
{
    pass_keep_error(p, cudaStreamSynchronize(p->gpu->stream.handle));
    if (p->status == cudaSuccess) {
        pass_copy_vectors(p, batch, first, end);
    }
}

static void
run_large(struct pass *p, const struct qe_batch *batch)
{
    const struct layout *layout = p->layout;

    p->cancel = batch->cancel;
    pass_queue_layers(p);
    for (int first = 0, end; first < layout->n_vectors && !pass_cancelled(p);
         first = end) {
        end = pass_piece_end(layout, first);
        pass_pool(p, first, end);
        deliver(p, batch, first, end);
    }
}

static int
run_batch(struct device *gpu, const struct device_weights *weights,
          const struct qe_batch *batch, struct qe_error *err)
{
    struct layout *layout = &gpu->layouts[0];

    CUDA_TRY(err, cudaSetDevice(gpu->index));
    layout_fill(layout, batch, RING_FLOATS);
    int status = device_prepare(gpu, layout, err);
    if (status < 0) {
        return status;
    }
    struct pass pass = pass_of(gpu, weights, 0);
    if (layout->small) {
        pass_queue_small(&pass);
        deliver(&pass, batch, 0, layout->n_vectors);
    } else {
        run_large(&pass, batch);
    }
    cudaError_t drained = cudaStreamSynchronize(gpu->stream.handle);
    pass_keep_error(&pass, drained);
    if (pass.status != cudaSuccess) {
        return cuda_fail(err, pass.status, "forward");
    }
    if (batch->cancel->load() != 0) {
        return qe_fail(err, QE_ECANCELLED, "cancelled");
    }
    return 0;
}

/* Adds the products' note, once there is one, to the device's. */
static void
add_note(struct qe_backend *backend, const struct device *gpu)
{
    const char *products = gemm_note(gpu->gemm);

    if (products[0] != '\0' && strcmp(backend->note, gpu->note) == 0) {
        snprintf(backend->note, sizeof backend->note, "%s%s%s", gpu->note,
                 gpu->note[0] == '\0' ? "" : "; ", products);
    }
}

static int
forward(struct qe_backend *backend, const struct qe_batch *batch, struct qe_error *err)
{
    struct device *gpu = &reinterpret_cast<struct cuda_backend *>(backend)->gpu;
    int before;

    if (batch->n_tokens > gpu->ws.max_rows || batch->n_seqs > gpu->max_seqs) {
        return qe_fail(err, QE_EVALUE,
                       "batch: %d tokens in %d sequences, expected at most %d in %d",
                       batch->n_tokens, batch->n_seqs, gpu->ws.max_rows, gpu->max_seqs);
    }
    const struct device_weights *weights = device_weights_of(gpu, batch->weights);
    if (weights == NULL) {
        return qe_fail(err, QE_EVALUE,
                       "batch: its weights are not on %s; add the adapter first",
                       gpu->name);
    }
    CUDA_TRY(err, cudaGetDevice(&before));
    int status = run_batch(gpu, weights, batch, err);
    add_note(backend, gpu);
    if (before != gpu->index && gpu->index == 0) {
        cudaSetDevice(
            before); /* it may be a caller's thread, which uses another device */
    }
    return status;
}

/* ---- adapters, fork, peak ---- */

static int
add_adapter(struct qe_backend *backend, const struct qe_weights *adapter,
            struct qe_error *err)
{
    return device_add_adapter(&reinterpret_cast<struct cuda_backend *>(backend)->gpu,
                              adapter, err);
}

static int
after_fork(struct qe_backend *backend, struct qe_error *err)
{
    return device_after_fork(backend->name, err);
}

static int
measure(struct qe_backend *backend, struct qe_peak *peak, struct qe_error *err)
{
    return peak_measure(reinterpret_cast<struct cuda_backend *>(backend)->gpu.index,
                        peak, err);
}

/* ---- open, close ---- */

static void
close_backend(struct qe_backend *backend)
{
    struct cuda_backend *cuda = reinterpret_cast<struct cuda_backend *>(backend);

    if (cuda != NULL) {
        device_close(&cuda->gpu);
        free(cuda);
    }
}

int
backend_cuda_open(const struct qe_cuda_options *options, const struct qe_model *model,
                  struct qe_backend **backend, struct qe_error *err)
{
    *backend = NULL;
    struct cuda_backend *cuda =
        static_cast<struct cuda_backend *>(calloc(1, sizeof(struct cuda_backend)));
    if (cuda == NULL) {
        return qe_fail(err, QE_ENOMEM, "backend: no memory for %zu bytes",
                       sizeof *cuda);
    }
    int status = device_open(&cuda->gpu, options->devices[0],
                             {0, model->config.n_layers}, options, model, err);
    cuda->base = {.abi = QE_BACKEND_ABI,
                  .size = sizeof cuda->base,
                  .name = cuda->gpu.name,
                  .kernels = cuda->gpu.kernels,
                  .n_threads = 1,
                  .batch_tokens = cuda->gpu.batch_tokens,
                  /* Only where a thread that never chose a device has this one: putting
                     another back would make a context there. */
                  .few_tokens = cuda->gpu.index == 0 ? FEW_TOKENS : 0,
                  .weight_bytes = cuda->gpu.weights.host_bytes,
                  .forward = forward,
                  .add_adapter = add_adapter,
                  .after_fork = after_fork,
                  .measure = measure,
                  .close = close_backend};
    if (status < 0) {
        close_backend(&cuda->base);
        return status;
    }
    snprintf(cuda->base.note, sizeof cuda->base.note, "%s", cuda->gpu.note);
    *backend = &cuda->base;
    return 0;
}
