/* stages.cu: opens the stages, and what passes between them. */
#include "stages.h"

#include <stdio.h>
#include <string.h>

#include "cuda_error.h"
#include "split_plan.h"

/* A micro-batch is a quarter of a single GPU's batch: still whole waves of its
 * multiprocessors, and four times as many. */
#define MICRO_PART 4
/* Micro-batches of a batch, per GPU: of their 16 two GPUs lose a seventeenth. */
#define MICRO_PER_STAGE 8

struct split {
    struct device_shape shape; /* the whole model's */
    struct layer_range layers[QE_MAX_DEVICES];
    struct qe_cuda_memory needs[QE_MAX_DEVICES];
    int batch_tokens, micro_tokens;
    bool fits;
};

/* ---- the split ---- */

/* Free memory counts for each stage of a GPU alike. */
static int
look_at_devices(const struct qe_cuda_options *options, struct device_facts *facts,
                struct qe_error *err)
{
    for (int s = 0; s < options->n_devices; s++) {
        int n_same = 0;
        int status = device_look(options->devices[s], &facts[s], err);
        if (status < 0) {
            return status;
        }
        for (int i = 0; i < options->n_devices; i++) {
            n_same += options->devices[i] == options->devices[s];
        }
        facts[s].free_bytes /= n_same;
    }
    return 0;
}

static void
choose_tokens(const struct qe_cuda_options *options, const struct device_facts *facts,
              struct split *split)
{
    int micro = device_batch_tokens(&facts[0], 0) / MICRO_PART;

    split->batch_tokens = options->batch_tokens > 0
                              ? options->batch_tokens
                              : MICRO_PER_STAGE * options->n_devices * micro;
    split->micro_tokens = smaller(micro, split->batch_tokens);
}

/* The memory of a stage with those layers of the model. */
static struct qe_cuda_memory
need_of(const struct split *split, int max_length, struct layer_range layers)
{
    const struct device_shape shape = shape_of_layers(split->shape, layers);

    return device_memory_of(&shape, split->micro_tokens, max_length);
}

/* Chooses layers for the embeddings' place in split->shape. */
static void
split_by_memory(const struct device_facts *facts, int n_stages, int max_length,
                struct split *split)
{
    const int n_layers = split->shape.L;
    const size_t layer_bytes = need_of(split, max_length, {1, 2}).weights -
                               need_of(split, max_length, {1, 1}).weights;
    struct stage_room rooms[QE_MAX_DEVICES];
    int counts[QE_MAX_DEVICES], first = 0;

    for (int s = 0; s < n_stages; s++) {
        const struct layer_range none = {s == 0 ? 0 : 1, 0};
        const struct qe_cuda_memory need = need_of(split, max_length, none);
        rooms[s] = {facts[s].free_bytes, device_bytes(&need)};
    }
    split_layers(rooms, n_stages, n_layers, layer_bytes, counts);
    split->fits = true;
    for (int s = 0; s < n_stages; s++) {
        split->layers[s] = {first, counts[s]};
        split->needs[s] = need_of(split, max_length, split->layers[s]);
        split->needs[s].batch_tokens = split->batch_tokens;
        split->needs[s].free = facts[s].free_bytes;
        split->needs[s].total = facts[s].total_bytes;
        split->fits =
            split->fits && device_bytes(&split->needs[s]) <= facts[s].free_bytes;
        first += counts[s];
    }
}

static int
find_split(const struct qe_cuda_options *options, const struct qe_config *config,
           bool host_table, struct split *split, struct qe_error *err)
{
    struct device_facts facts[QE_MAX_DEVICES];

    if (config->n_layers < options->n_devices) {
        return qe_fail(err, QE_EVALUE,
                       "split: %d layers, expected one for each of %d "
                       "devices at least",
                       config->n_layers, options->n_devices);
    }
    int status = look_at_devices(options, facts, err);
    if (status == 0) {
        split->shape = device_shape_of(config, options->dtype, host_table);
        choose_tokens(options, facts, split);
        split_by_memory(facts, options->n_devices, config->max_length, split);
    }
    return status;
}

static int
count_single(const struct qe_cuda_options *options, const struct qe_config *config,
             struct qe_cuda_memory *memory, struct qe_error *err)
{
    const struct device_shape shape = device_shape_of(
        config, options->dtype, options->embedding == QE_EMBEDDING_HOST);
    struct device_facts facts;
    int status = device_look(options->devices[0], &facts, err);

    if (status == 0) {
        *memory =
            device_memory_of(&shape, device_batch_tokens(&facts, options->batch_tokens),
                             config->max_length);
        memory->free = facts.free_bytes;
        memory->total = facts.total_bytes;
    }
    return status;
}

int
stages_memory(const struct qe_cuda_options *options, const struct qe_config *config,
              struct qe_cuda_memory *memory, struct qe_error *err)
{
    struct split split = {};

    if (options->n_devices == 1) {
        return count_single(options, config, memory, err);
    }
    int status = find_split(options, config, options->embedding == QE_EMBEDDING_HOST,
                            &split, err);
    if (status == 0) {
        memcpy(memory, split.needs, options->n_devices * sizeof *memory);
    }
    return status;
}

/* ---- open ---- */

/* Streams and events belong to the stage's GPU, which must be current. */
static int
open_order(struct stage *stage, struct qe_error *err)
{
    CUDA_TRY(err, cudaStreamCreateWithFlags(&stage->copies, cudaStreamNonBlocking));
    for (int slot = 0; slot < N_SLOTS; slot++) {
        CUDA_TRY(err, cudaEventCreateWithFlags(&stage->computed[slot],
                                               cudaEventDisableTiming));
        CUDA_TRY(err,
                 cudaEventCreateWithFlags(&stage->done[slot], cudaEventDisableTiming));
    }
    return 0;
}

/* Lets the current GPU write to the next stage's memory. Without that the driver takes
 * copies through pinned host memory. */
static int
open_way(const struct stage *from, const struct stage *to, struct qe_error *err)
{
    int possible = 0;

    if (from->gpu.index == to->gpu.index) {
        return 0;
    }
    CUDA_TRY(err, cudaDeviceCanAccessPeer(&possible, from->gpu.index, to->gpu.index));
    if (possible) {
        cudaError_t status = cudaDeviceEnablePeerAccess(to->gpu.index, 0);
        cudaGetLastError(); /* another engine may have done it */
        if (status != cudaErrorPeerAccessAlreadyEnabled) {
            CUDA_TRY(err, status);
        }
    }
    return 0;
}

static int
open_stage(struct stages *stages, int s, struct layer_range layers,
           const struct qe_cuda_options *options, const struct qe_model *model,
           struct qe_error *err)
{
    struct stage *stage = &stages->stages[s];
    int status =
        device_open(&stage->gpu, options->devices[s], layers, options, model, err);

    stages->n_opened = s + 1;
    if (status < 0) {
        return status;
    }
    const char *kernels = stages->stages[0].gpu.kernels;
    if (strcmp(stage->gpu.kernels, kernels) != 0) {
        return qe_fail(err, QE_EDEVICE,
                       "device %s: %s, expected %s as of the first device: other GPUs "
                       "compute other bits",
                       stage->gpu.name, stage->gpu.kernels, kernels);
    }
    CUDA_TRY(err, cudaSetDevice(stage->gpu.index));
    return open_order(stage, err);
}

static int
open_ways(struct stages *stages, struct qe_error *err)
{
    for (int s = 0; s + 1 < stages->n; s++) {
        CUDA_TRY(err, cudaSetDevice(stages->stages[s].gpu.index));
        int status = open_way(&stages->stages[s], &stages->stages[s + 1], err);
        if (status < 0) {
            return status;
        }
    }
    return 0;
}

int
stages_open(struct stages *stages, const struct qe_cuda_options *options,
            const struct qe_model *model, struct qe_error *err)
{
    const bool automatic = options->embedding == QE_EMBEDDING_AUTO;
    struct qe_cuda_options own = *options;
    struct split split = {};
    int before = 0;

    cudaGetDevice(&before);
    int status = find_split(options, &model->config,
                            options->embedding == QE_EMBEDDING_HOST, &split, err);
    if (status == 0 && automatic && !split.fits) {
        status = find_split(options, &model->config, true, &split, err);
        snprintf(stages->note, sizeof stages->note,
                 "the table of embeddings is in host memory, %.2f GB, because the "
                 "devices have no room for it",
                 split.needs[0].host * 1e-9);
    }
    own.batch_tokens = split.micro_tokens;
    own.embedding = split.shape.host_table ? QE_EMBEDDING_HOST : QE_EMBEDDING_DEVICE;
    stages->n = options->n_devices;
    stages->batch_tokens = split.batch_tokens;
    stages->micro_tokens = split.micro_tokens;
    for (int s = 0; s < stages->n && status == 0; s++) {
        status = open_stage(stages, s, split.layers[s], &own, model, err);
    }
    if (status == 0) {
        status = open_ways(stages, err);
    }
    cudaSetDevice(before); /* the calling thread's */
    return status;
}

/* ---- order ---- */

/* The first error of any stage's streams, and whether any of them is at work. */
static cudaError_t
look_at_stages(struct stages *stages, bool *busy)
{
    cudaError_t status = cudaSuccess;

    *busy = false;
    for (int s = 0; s < stages->n; s++) {
        struct stage *stage = &stages->stages[s];
        const cudaStream_t streams[] = {stage->gpu.stream.handle, stage->copies};
        cudaSetDevice(stage->gpu.index);
        for (cudaStream_t stream : streams) {
            status = cudaStreamQuery(stream);
            if (status == cudaErrorNotReady) {
                cudaGetLastError(); /* or the next launch would report it */
                *busy = true;
            } else if (status != cudaSuccess) {
                stages->broken = true;
                return status;
            }
        }
    }
    return cudaSuccess;
}

cudaError_t
stages_wait(struct stages *stages, cudaEvent_t event)
{
    cudaError_t status, failed = cudaSuccess;
    bool busy;

    while ((status = cudaEventQuery(event)) == cudaErrorNotReady &&
           failed == cudaSuccess) {
        cudaGetLastError();
        failed = look_at_stages(stages, &busy);
    }
    return failed == cudaSuccess ? status : failed;
}

cudaError_t
stages_drain(struct stages *stages)
{
    cudaError_t status = cudaSuccess;
    bool busy = !stages->broken;

    while (busy && status == cudaSuccess) {
        status = look_at_stages(stages, &busy);
    }
    return status;
}

static float *
slot_h(const struct stage *stage, int slot)
{
    return slot == 0 ? stage->gpu.ws.h : stage->gpu.ws.second_h;
}

/* Peers that can't reach each other's memory copy through pinned host memory, which is
 * the driver's. */
static cudaError_t
copy_h(const struct stage *from, const struct stage *to, int slot, size_t n_bytes)
{
    if (from->gpu.index == to->gpu.index) {
        return cudaMemcpyAsync(slot_h(to, slot), slot_h(from, slot), n_bytes,
                               cudaMemcpyDeviceToDevice, from->copies);
    }
    return cudaMemcpyPeerAsync(slot_h(to, slot), to->gpu.index, slot_h(from, slot),
                               from->gpu.index, n_bytes, from->copies);
}

cudaError_t
stages_hand_on(struct stages *stages, int s, int slot, int n_rows)
{
    struct stage *from = &stages->stages[s], *to = &stages->stages[s + 1];
    const size_t n_bytes = (size_t)n_rows * from->gpu.shape.C * sizeof(float);
    cudaError_t status = cudaEventRecord(from->computed[slot], from->gpu.stream.handle);

    if (status == cudaSuccess) {
        status = cudaStreamWaitEvent(from->copies, from->computed[slot], 0);
    }
    if (status == cudaSuccess) {
        status = cudaStreamWaitEvent(from->copies, to->done[slot], 0);
    }
    if (status == cudaSuccess) {
        status = copy_h(from, to, slot, n_bytes);
    }
    return status == cudaSuccess ? cudaEventRecord(from->done[slot], from->copies)
                                 : status;
}

/* ---- close ---- */

static void
close_order(struct stage *stage)
{
    for (int slot = 0; slot < N_SLOTS; slot++) {
        for (cudaEvent_t event : {stage->computed[slot], stage->done[slot]}) {
            if (event != NULL) {
                cudaEventDestroy(event);
            }
        }
    }
    if (stage->copies != NULL) {
        cudaStreamDestroy(stage->copies);
    }
}

void
stages_close(struct stages *stages)
{
    int before = 0;

    if (stages->broken || cudaGetDevice(&before) != cudaSuccess) {
        return;
    }
    for (int s = 0; s < stages->n_opened; s++) {
        struct stage *stage = &stages->stages[s];
        if (cudaSetDevice(stage->gpu.index) == cudaSuccess) {
            close_order(stage);
            device_close(&stage->gpu);
        }
    }
    cudaSetDevice(before);
}
