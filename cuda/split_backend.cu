/* split_backend.cu: the seam on several GPUs, of which each has some of the layers.
 *
 * A batch is cut into micro-batches. Step by step the first GPU takes the next one and
 * every other the one that its neighbour has handed on, so that all work at once. One
 * host thread queues all work: GPUs wait for each other by events, and the host only
 * for a slot that it fills again. Of n equal micro-batches, g GPUs take the time of
 * n + g - 1 stages. */
#include "split_backend.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cuda_error.h"
#include "pass.h"
#include "peak.h"
#include "split_plan.h"
#include "stages.h"

/* As of one GPU. */
#define FEW_TOKENS 128

struct split_backend {
    struct qe_backend base;         /* first */
    struct stages stages;           /* owned */
    struct cut cut;                 /* owned arrays; of the running batch */
    int max_texts;                  /* in a batch */
    char name[QE_MAX_DEVICES * 10]; /* "cuda:0,cuda:1" */
};

/* A batch on its way through the stages. */
struct run {
    struct stages *stages;
    const struct cut *cut;
    const struct qe_batch *batch;
    const struct device_weights *weights[QE_MAX_DEVICES]; /* the batch's */
    int unread[N_SLOTS]; /* micro-batch whose results are in the last stage's ring */
};

/* ---- micro-batches ---- */

static struct qe_batch
micro_batch_of(const struct run *r, int k)
{
    const struct micro_batch *micro = &r->cut->micros[k];
    struct qe_batch batch = *r->batch;

    batch.seqs = r->cut->seqs + micro->first_seq;
    batch.n_seqs = micro->n_seqs;
    batch.n_tokens = micro->n_tokens;
    return batch;
}

/* Chooses plans before the first pass, since trials write to its buffers. */
static int
prepare(const struct run *r, struct qe_error *err)
{
    int status = 0;

    for (int k = 0; k < r->cut->n_micros; k++) {
        const struct qe_batch micro = micro_batch_of(r, k);
        struct layout *layout = &r->stages->stages[0].gpu.layouts[0];
        layout_fill(layout, &micro, SLOT_RING_FLOATS);
        for (int s = 0; s < r->stages->n && status == 0; s++) {
            struct device *gpu = &r->stages->stages[s].gpu;
            CUDA_TRY(err, cudaSetDevice(gpu->index));
            status = device_prepare(gpu, layout, err);
        }
    }
    return status;
}

/* ---- the pipeline ---- */

/* Copies the results of a slot of the last stage, which is done, to the callers. */
static void
read_slot(struct run *r, int slot)
{
    struct device *gpu = &r->stages->stages[r->stages->n - 1].gpu;
    const int k = r->unread[slot];

    if (k >= 0) {
        const struct qe_batch micro = micro_batch_of(r, k);
        const struct pass pass = pass_of(gpu, NULL, slot);
        pass_copy_vectors(&pass, &micro, 0, pass.layout->n_vectors);
        r->unread[slot] = -1;
    }
}

/* Queues the layers of stage s for micro-batch k, which the stage before has queued. */
static cudaError_t
queue_stage(struct run *r, int s, int k)
{
    struct stages *stages = r->stages;
    struct stage *stage = &stages->stages[s];
    const struct qe_batch micro = micro_batch_of(r, k);
    const int slot = r->cut->micros[k].slot;
    const bool last = s == stages->n - 1;
    cudaError_t status = stages_wait(stages, stage->done[slot]);

    if (status == cudaSuccess) {
        status = cudaSetDevice(stage->gpu.index);
    }
    if (status != cudaSuccess) {
        return status;
    }
    if (last) {
        read_slot(r, slot);
    }
    layout_fill(&stage->gpu.layouts[slot], &micro, SLOT_RING_FLOATS);
    struct pass pass = pass_of(&stage->gpu, r->weights[s], slot);
    if (s > 0) {
        pass_keep_error(&pass,
                        cudaStreamWaitEvent(stage->gpu.stream.handle,
                                            stages->stages[s - 1].done[slot], 0));
    }
    if (r->cut->n_micros == 1 && pass.layout->small) {
        pass_queue_small(&pass);
    } else {
        pass_queue_layers(&pass);
        if (last) {
            pass_pool(&pass, 0, pass.layout->n_vectors);
        }
    }
    if (last) {
        r->unread[slot] = k;
        pass_keep_error(&pass,
                        cudaEventRecord(stage->done[slot], stage->gpu.stream.handle));
    } else {
        pass_keep_error(&pass, stages_hand_on(stages, s, slot, pass.layout->n_rows));
    }
    return pass.status;
}

/* Later stages come first: what they wait for was queued one step ago, and a slot that
 * they free is waited for in the same step. */
static cudaError_t
run_pipeline(struct run *r)
{
    struct stages *stages = r->stages;
    const struct stage *last = &stages->stages[stages->n - 1];
    const int n_steps = r->cut->n_micros + stages->n - 1;
    cudaError_t status = cudaSuccess;

    for (int step = 0; step < n_steps && r->batch->cancel->load() == 0; step++) {
        for (int s = stages->n - 1; s >= 0 && status == cudaSuccess; s--) {
            const int k = step - s;
            if (k >= 0 && k < r->cut->n_micros) {
                status = queue_stage(r, s, k);
            }
        }
    }
    for (int slot = 0; slot < N_SLOTS && status == cudaSuccess; slot++) {
        status = stages_wait(stages, last->done[slot]);
        if (status == cudaSuccess) {
            read_slot(r, slot);
        }
    }
    /* After a failure too: what was queued uses the slots. */
    cudaError_t drained = stages_drain(stages);
    return status == cudaSuccess ? drained : status;
}

static int
run_batch(struct split_backend *split, struct run *r, struct qe_error *err)
{
    int status = prepare(r, err);

    if (status < 0) {
        return status;
    }
    cudaError_t done = run_pipeline(r);
    if (split->stages.broken) {
        return qe_fail(err, QE_EDEVICE,
                       "device %s: a GPU has failed: %s; start a new process",
                       split->name, cudaGetErrorString(done));
    }
    if (done != cudaSuccess) {
        return cuda_fail(err, done, "forward");
    }
    if (r->batch->cancel->load() != 0) {
        return qe_fail(err, QE_ECANCELLED, "cancelled");
    }
    return 0;
}

/* ---- the seam ---- */

static bool
has_first_gpu(const struct stages *stages)
{
    bool has = false;

    for (int s = 0; s < stages->n; s++) {
        has = has || stages->stages[s].gpu.index == 0;
    }
    return has;
}

/* Adds the first note that a stage's products have. */
static void
add_note(struct split_backend *split)
{
    const char *own = split->stages.note;

    for (int s = 0; s < split->stages.n; s++) {
        const char *products = gemm_note(split->stages.stages[s].gpu.gemm);
        if (products[0] != '\0' && strcmp(split->base.note, own) == 0) {
            snprintf(split->base.note, sizeof split->base.note, "%s%s%s", own,
                     own[0] == '\0' ? "" : "; ", products);
        }
    }
}

static int
forward(struct qe_backend *backend, const struct qe_batch *batch, struct qe_error *err)
{
    struct split_backend *split = reinterpret_cast<struct split_backend *>(backend);
    struct run r = {&split->stages, &split->cut, batch, {}, {-1, -1}};
    const struct device *first = &split->stages.stages[0].gpu;
    const struct cut_limits limits = {split->stages.micro_tokens, first->ws.max_rows,
                                      first->max_seqs, first->ws.second_rows,
                                      SLOT_RING_FLOATS};
    int before;

    if (batch->n_seqs > split->max_texts + split->max_texts / 2) {
        return qe_fail(err, QE_EVALUE, "batch: %d sequences, expected at most %d",
                       batch->n_seqs, split->max_texts + split->max_texts / 2);
    }
    if (split->stages.broken) {
        return qe_fail(err, QE_EDEVICE,
                       "device %s: a GPU has failed; start a new process", split->name);
    }
    for (int s = 0; s < split->stages.n; s++) {
        const struct device *gpu = &split->stages.stages[s].gpu;
        r.weights[s] = device_weights_of(gpu, batch->weights);
        if (r.weights[s] == NULL) {
            return qe_fail(err, QE_EVALUE,
                           "batch: its weights are not on %s; add the adapter first",
                           gpu->name);
        }
    }
    CUDA_TRY(err, cudaGetDevice(&before));
    cut_batch(batch, &limits, &split->cut);
    int status = run_batch(split, &r, err);
    add_note(split);
    if (has_first_gpu(&split->stages)) {
        cudaSetDevice(before); /* as in backend_cuda.cu */
    }
    return status;
}

static int
add_adapter(struct qe_backend *backend, const struct qe_weights *adapter,
            struct qe_error *err)
{
    struct split_backend *split = reinterpret_cast<struct split_backend *>(backend);
    int status = 0;

    for (int s = 0; s < split->stages.n && status == 0; s++) {
        status = device_add_adapter(&split->stages.stages[s].gpu, adapter, err);
    }
    return status;
}

static int
after_fork(struct qe_backend *backend, struct qe_error *err)
{
    return device_after_fork(backend->name, err);
}

/* The GPUs' sums. */
static int
measure(struct qe_backend *backend, struct qe_peak *peak, struct qe_error *err)
{
    struct split_backend *split = reinterpret_cast<struct split_backend *>(backend);
    int status = 0;

    *peak = {};
    for (int s = 0; s < split->stages.n && status == 0; s++) {
        struct qe_peak one = {};
        status = peak_measure(split->stages.stages[s].gpu.index, &one, err);
        peak->flops += one.flops;
        peak->bytes_per_s += one.bytes_per_s;
    }
    return status;
}

/* ---- open, close ---- */

static void
close_backend(struct qe_backend *backend)
{
    struct split_backend *split = reinterpret_cast<struct split_backend *>(backend);

    if (split != NULL) {
        stages_close(&split->stages);
        free(split->cut.seqs);
        free(split->cut.micros);
        free(split->cut.places);
        free(split);
    }
}

/* Names the devices; allocates what cuts a batch. */
static int
open_host_parts(struct split_backend *split, const struct qe_cuda_options *options,
                struct qe_error *err)
{
    const size_t n = split->stages.batch_tokens; /* each text has a token of its own */
    size_t used = 0;

    for (int s = 0; s < options->n_devices; s++) {
        used += snprintf(split->name + used, sizeof split->name - used, "%scuda:%d",
                         s == 0 ? "" : ",", options->devices[s]);
    }
    split->max_texts = split->stages.batch_tokens;
    split->cut.seqs =
        static_cast<struct qe_seq *>(malloc(2 * n * sizeof(struct qe_seq)));
    split->cut.micros =
        static_cast<struct micro_batch *>(malloc(n * sizeof(struct micro_batch)));
    split->cut.places = static_cast<int32_t *>(malloc((n + n / 2) * sizeof(int32_t)));
    if (split->cut.seqs == NULL || split->cut.micros == NULL ||
        split->cut.places == NULL) {
        return qe_fail(err, QE_ENOMEM, "backend: no memory for batches of %zu tokens",
                       n);
    }
    return 0;
}

int
split_backend_open(const struct qe_cuda_options *options, const struct qe_model *model,
                   struct qe_backend **backend, struct qe_error *err)
{
    struct split_backend *split =
        static_cast<struct split_backend *>(calloc(1, sizeof(struct split_backend)));

    *backend = NULL;
    if (split == NULL) {
        return qe_fail(err, QE_ENOMEM, "backend: no memory for %zu bytes",
                       sizeof *split);
    }
    int status = stages_open(&split->stages, options, model, err);
    if (status == 0) {
        status = open_host_parts(split, options, err);
    }
    if (status < 0) {
        close_backend(&split->base);
        return status;
    }
    const struct device *first = &split->stages.stages[0].gpu;
    split->base = {.abi = QE_BACKEND_ABI,
                   .size = sizeof split->base,
                   .name = split->name,
                   .kernels = first->kernels,
                   .n_threads = 1,
                   .batch_tokens = split->stages.batch_tokens,
                   .few_tokens = has_first_gpu(&split->stages) ? FEW_TOKENS : 0,
                   .weight_bytes = first->weights.host_bytes,
                   .forward = forward,
                   .add_adapter = add_adapter,
                   .after_fork = after_fork,
                   .measure = measure,
                   .close = close_backend};
    snprintf(split->base.note, sizeof split->base.note, "%s", split->stages.note);
    *backend = &split->base;
    return 0;
}
