/* device.cu: checks the GPU and its memory, allocates every buffer and loads the model.
 */
#include "device.h"

#include <stdio.h>
#include <string.h>

#include "cuda_error.h"

/* One row tile of 128 per multiprocessor: products of any width then fill whole waves.
 */
#define ROWS_PER_MULTIPROCESSOR 128
#define MAX_HIDDEN_SIZE 8192
/* Memory of contexts, modules and cuBLAS, beyond our own allocations. */
#define SPARE_BYTES ((size_t)256 << 20)
#define ADAPTER_SPARE_BYTES ((size_t)64 << 20) /* staging, and later graphs */

int
count_devices(struct qe_error *err)
{
    int n_devices = 0;
    cudaError_t status = cudaGetDeviceCount(&n_devices);

    if (status == cudaSuccess && n_devices > 0) {
        return n_devices;
    }
    cudaGetLastError();
    if (status == cudaErrorInsufficientDriver) {
        int version = 0;
        cudaDriverGetVersion(&version);
        return qe_fail(
            err, QE_EDEVICE,
            "device cuda: the NVIDIA driver is for CUDA %d.%d, expected %d.0 "
            "or later; update the driver",
            version / 1000, version % 1000 / 10, CUDART_VERSION / 1000);
    }
    status = status == cudaSuccess ? cudaErrorNoDevice : status;
    return qe_fail(err, QE_EDEVICE, "device cuda: no usable NVIDIA GPU: %s (%s)",
                   cudaGetErrorString(status), cudaGetErrorName(status));
}

/* Makes the device current for this thread and describes it. */
static int
find_device(int index, cudaDeviceProp *properties, struct qe_error *err)
{
    const int n_devices = count_devices(err);

    if (n_devices < 0) {
        return n_devices;
    }
    if (index < 0 || index >= n_devices) {
        return qe_fail(err, QE_EDEVICE, "device cuda:%d: not found, expected 0 to %d",
                       index, n_devices - 1);
    }
    CUDA_TRY(err, cudaSetDevice(index));
    CUDA_TRY(err, cudaGetDeviceProperties(properties, index));
    return 0;
}

int
device_batch_tokens(const struct device_facts *facts, int asked)
{
    return asked > 0 ? asked : facts->n_multiprocessors * ROWS_PER_MULTIPROCESSOR;
}

/* Checks that the device exists and supports the model. */
static int
choose_device(struct device *gpu, struct qe_error *err)
{
    const struct device_shape *s = &gpu->shape;
    cudaDeviceProp properties;
    const int found = find_device(gpu->index, &properties, err);

    if (found < 0) {
        return found;
    }
    if (properties.major < 8) {
        return qe_fail(
            err, QE_EDEVICE,
            "device cuda:%d: %s has compute capability %d.%d, expected 8.0 or "
            "later",
            gpu->index, properties.name, properties.major, properties.minor);
    }
    if (!attention_fits(s->NH, s->NKV, s->HS) || s->C > MAX_HIDDEN_SIZE) {
        return qe_fail(
            err, QE_EDEVICE,
            "device cuda: head_dim %d, %d query heads per key head, hidden_size "
            "%d; expected head_dim 64, 96, 128 or 256, at most 64 heads and %d",
            s->HS, s->NH / s->NKV, s->n_columns, MAX_HIDDEN_SIZE);
    }
    if (s->dtype == QE_FLOAT8 && (properties.major != 9 || s->I > SWIGLU_FLOAT8_MAX)) {
        return qe_fail(
            err, QE_EDEVICE,
            "device cuda:%d: dtype float8 needs compute capability 9.x and an "
            "intermediate_size of at most %d, found %d.%d and %d; use "
            "'bfloat16'",
            gpu->index, SWIGLU_FLOAT8_MAX, properties.major, properties.minor, s->I);
    }
    snprintf(gpu->name, sizeof gpu->name, "cuda:%d", gpu->index);
    snprintf(gpu->kernels, sizeof gpu->kernels, "sm_%d%d", properties.major,
             properties.minor);
    const struct device_facts facts = {properties.multiProcessorCount, 0, 0};
    gpu->batch_tokens = device_batch_tokens(&facts, gpu->batch_tokens);
    gpu->max_seqs = gpu->batch_tokens; /* each has a token of its own */
    return 0;
}

/* ---- memory ---- */

struct qe_cuda_memory
device_memory_of(const struct device_shape *shape, int batch_tokens, int max_length)
{
    const int max_rows = batch_tokens > max_length ? batch_tokens : max_length;

    return plan_memory(shape, batch_tokens, max_length,
                       layout_device_bytes(max_rows, batch_tokens), SPARE_BYTES);
}

static int
memory_fail(const struct device *gpu, const struct qe_cuda_memory *need,
            enum qe_embedding embedding, struct qe_error *err)
{
    return qe_fail(
        err, QE_EDEVICEMEM,
        "device %s: %.2f GB needed (weights %.2f%s, batches of %d tokens %.2f), %.2f "
        "of "
        "%.2f GB free; lower batch_tokens or max_length, %s%sor free some (qwen3-embed "
        "info --model lists what fits)",
        gpu->name, device_bytes(need) * 1e-9, need->weights * 1e-9,
        need->host > 0 ? " without the embeddings" : "", need->batch_tokens,
        need->activations * 1e-9, need->free * 1e-9, need->total * 1e-9,
        embedding == QE_EMBEDDING_DEVICE ? "use embedding='host', " : "",
        gpu->shape.dtype == QE_INT8_WEIGHTS ? "" : "use dtype='int8-weights', ");
}

/* Chooses where the table of embeddings lies. Fails, before anything is allocated, if
 * the model does not fit. */
static int
fit_memory(struct device *gpu, enum qe_embedding embedding, struct qe_error *err)
{
    const int max_length = gpu->config.max_length;
    struct qe_cuda_memory need;
    size_t free_bytes, total_bytes;

    CUDA_TRY(err, cudaMemGetInfo(&free_bytes, &total_bytes));
    gpu->shape.host_table = embedding == QE_EMBEDDING_HOST && gpu->shape.embeds;
    need = device_memory_of(&gpu->shape, gpu->batch_tokens, max_length);
    if (device_bytes(&need) > free_bytes && embedding == QE_EMBEDDING_AUTO) {
        gpu->shape.host_table = true;
        need = device_memory_of(&gpu->shape, gpu->batch_tokens, max_length);
        snprintf(gpu->note, sizeof gpu->note,
                 "the table of embeddings is in host memory, %.2f GB, because the "
                 "device has no room for it",
                 need.host * 1e-9);
    }
    need.free = free_bytes;
    need.total = total_bytes;
    return device_bytes(&need) <= free_bytes ? 0
                                             : memory_fail(gpu, &need, embedding, err);
}

static int
allocate(struct device *gpu, const struct qe_cuda_options *options,
         struct qe_error *err)
{
    struct linear_shape linears[N_LINEARS];
    const struct device_shape *s = &gpu->shape;
    const int max_length = gpu->config.max_length;

    int status = fit_memory(gpu, options->embedding, err);
    if (status < 0) {
        return status;
    }
    layer_products(s, linears);
    cudaError_t opened = stream_open(&gpu->stream);
    if (opened == cudaErrorNoKernelImageForDevice ||
        opened == cudaErrorInvalidDeviceFunction) {
        return qe_fail(err, QE_EDEVICE,
                       "device %s: this build has no code for %s; build it with "
                       "QWEN3_EMBED_CUDA_ARCHS=%s",
                       gpu->name, gpu->kernels, gpu->kernels + strlen("sm_"));
    }
    CUDA_TRY(err, opened);
    for (cudaEvent_t &event : gpu->layer_done) {
        CUDA_TRY(err, cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    }
    status = device_weights_open(s, &gpu->weights, err);
    if (status == 0) {
        status = workspace_open(s, gpu->batch_tokens, max_length, &gpu->ws, err);
    }
    if (status < 0) {
        return status;
    }
    CUDA_TRY(err, attention_open(&gpu->attention, gpu->ws.qkv, gpu->ws.max_rows + 1,
                                 s->NH, s->NKV, s->HS));
    for (int slot = 0; slot < (is_stage(s) ? 2 : 1); slot++) {
        status = layout_open(&gpu->attention, gpu->ws.max_rows, gpu->max_seqs,
                             max_length, &gpu->layouts[slot], err);
        if (status < 0) {
            return status;
        }
    }
    return gemm_open(linears, options->cache_folder, gpu->stream, &gpu->gemm, err);
}

static int
load(struct device *gpu, const struct qe_cuda_options *options,
     const struct qe_model *model, struct qe_error *err)
{
    const struct device_shape *s = &gpu->shape;

    if (s->C != s->n_columns || s->I != model->config.intermediate_size) {
        CUDA_TRY(err, cudaMemset(gpu->weights.memory, 0, gpu->weights.n_bytes));
    }
    if (s->equaliser_floats > 0) {
        CUDA_TRY(err,
                 cudaMemcpy(gpu->weights.equalisers,
                            options->equalisers + s->first_layer * s->equaliser_floats,
                            s->L * s->equaliser_floats * sizeof(float),
                            cudaMemcpyHostToDevice));
    }
    CUDA_TRY(err, cudaDeviceSynchronize()); /* uploads run on other streams */
    int status = device_weights_upload(model, s, gpu->index, &gpu->weights, err);
    if (status < 0) {
        return status;
    }
    CUDA_TRY(err, launch_rope_table(gpu->ws.cos_sin, gpu->weights.inv_freq,
                                    gpu->config.max_length, s->HS,
                                    gpu->config.rope_scale, gpu->stream));
    CUDA_TRY(err, cudaStreamSynchronize(gpu->stream.handle));
    return 0;
}

static int
open_parts(struct device *gpu, const struct qe_cuda_options *options,
           const struct qe_model *model, struct qe_error *err)
{
    int status = choose_device(gpu, err);

    if (status == 0) {
        status = allocate(gpu, options, err);
    }
    return status < 0 ? status : load(gpu, options, model, err);
}

/* Restores the device of the calling thread, which is not ours. */
static void
restore_device(const struct device *gpu, int before)
{
    if (before >= 0 && before != gpu->index) {
        cudaSetDevice(before);
    }
}

static int
current_device(void)
{
    int index;

    return cudaGetDevice(&index) == cudaSuccess ? index : -1;
}

int
device_open(struct device *gpu, int index, struct layer_range layers,
            const struct qe_cuda_options *options, const struct qe_model *model,
            struct qe_error *err)
{
    const int before = current_device();

    gpu->index = index;
    gpu->batch_tokens = options->batch_tokens;
    gpu->own = &model->weights;
    gpu->config = model->config;
    gpu->config.rope_inv_freq = NULL; /* the model's */
    gpu->shape =
        shape_of_layers(device_shape_of(&model->config, options->dtype, false), layers);
    int status = open_parts(gpu, options, model, err);
    restore_device(gpu, before);
    return status;
}

static int
look(int index, struct device_facts *facts, struct qe_error *err)
{
    cudaDeviceProp properties;
    const int found = find_device(index, &properties, err);

    if (found < 0) {
        return found;
    }
    facts->n_multiprocessors = properties.multiProcessorCount;
    CUDA_TRY(err, cudaMemGetInfo(&facts->free_bytes, &facts->total_bytes));
    return 0;
}

int
device_look(int index, struct device_facts *facts, struct qe_error *err)
{
    const int before = current_device();
    int status = look(index, facts, err);

    if (before >= 0 && before != index) {
        cudaSetDevice(before);
    }
    return status;
}

/* The engine's other memory is allocated already. */
static int
check_adapter_memory(const struct device *gpu, const struct qe_weights *adapter,
                     struct qe_error *err)
{
    const size_t need =
        adapter_bytes(adapter, &gpu->weights, &gpu->shape) + ADAPTER_SPARE_BYTES;
    size_t free_bytes, total_bytes;

    CUDA_TRY(err, cudaMemGetInfo(&free_bytes, &total_bytes));
    if (need <= free_bytes) {
        return 0;
    }
    return qe_fail(err, QE_EDEVICEMEM,
                   "device %s: %.2f GB needed for the adapter, %.2f of %.2f GB free; "
                   "free some, or merge the adapter into the model (qwen3-embed merge)",
                   gpu->name, need * 1e-9, free_bytes * 1e-9, total_bytes * 1e-9);
}

static int
add_adapter(struct device *gpu, const struct qe_weights *adapter, struct qe_error *err)
{
    CUDA_TRY(err, cudaSetDevice(gpu->index));
    int status = check_adapter_memory(gpu, adapter, err);
    if (status < 0) {
        return status;
    }
    return adapters_add(&gpu->adapters, adapter, &gpu->weights, &gpu->shape,
                        &gpu->config, gpu->index, err);
}

int
device_add_adapter(struct device *gpu, const struct qe_weights *adapter,
                   struct qe_error *err)
{
    const int before = current_device();
    int status = add_adapter(gpu, adapter, err);

    restore_device(gpu, before);
    return status;
}

const struct device_weights *
device_weights_of(const struct device *gpu, const struct qe_weights *table)
{
    return table == gpu->own ? &gpu->weights : adapters_find(&gpu->adapters, table);
}

/* ---- plans ---- */

/* The buffers of a pass are free between batches, so trials use them. */
static int
prepare_linear(struct device *gpu, enum qe_linear which, int n_rows,
               struct qe_error *err)
{
    struct linear_trial trial =
        workspace_trial(&gpu->ws, &gpu->shape, &gpu->weights, which);

    return gemm_prepare(gpu->gemm, which, n_rows, &trial, gpu->stream, err);
}

/* Products of n_rows rows; the MLP takes at most mlp_rows at a time. */
static int
prepare_layer(struct device *gpu, enum qe_linear first, int n_rows,
              struct qe_error *err)
{
    const int rest = n_rows % gpu->ws.mlp_rows;
    int status = prepare_linear(gpu, first, n_rows, err);

    if (status == 0) {
        status = prepare_linear(gpu, LINEAR_O, n_rows, err);
    }
    for (int which = LINEAR_GATE_UP; which <= LINEAR_DOWN; which++) {
        if (status == 0 && n_rows >= gpu->ws.mlp_rows) {
            status = prepare_linear(gpu, (enum qe_linear)which, gpu->ws.mlp_rows, err);
        }
        if (status == 0 && rest > 0) {
            status = prepare_linear(gpu, (enum qe_linear)which, rest, err);
        }
    }
    return status;
}

int
device_prepare(struct device *gpu, const struct layout *layout, struct qe_error *err)
{
    const bool pruned = layout->pruned && gpu->shape.pools;
    int status = 0;

    if (gpu->shape.L > 1 || !pruned) {
        status = prepare_layer(gpu, LINEAR_QKV, layout->n_rows, err);
    }
    if (pruned && status == 0) {
        status = prepare_linear(gpu, LINEAR_KV, layout->n_rows, err);
    }
    if (pruned && layout->n_last > 0 && status == 0) {
        status = prepare_layer(gpu, LINEAR_Q, layout->n_last, err);
    }
    gemm_save(gpu->gemm);
    return status;
}

/* ---- fork, close ---- */

int
device_after_fork(const char *name, struct qe_error *err)
{
    return qe_fail(
        err, QE_EDEVICE,
        "device %s was opened before fork(), which CUDA does not survive; open "
        "the model in the child, or start it by 'spawn' or 'forkserver'",
        name);
}

void
device_close(struct device *gpu)
{
    const int before = current_device();

    if (before < 0 || cudaSetDevice(gpu->index) != cudaSuccess) {
        return; /* nothing was opened, or the driver is gone */
    }
    graphs_close(&gpu->graphs);
    gemm_close(gpu->gemm);
    for (struct layout &layout : gpu->layouts) {
        layout_close(&layout);
    }
    workspace_close(&gpu->ws);
    adapters_close(&gpu->adapters);
    device_weights_close(&gpu->weights);
    for (cudaEvent_t event : gpu->layer_done) {
        if (event != NULL) {
            cudaEventDestroy(event);
        }
    }
    stream_close(&gpu->stream);
    restore_device(gpu, before);
}
