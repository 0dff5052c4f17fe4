/* backend_cuda.cu: the forward pass of Qwen3 on an NVIDIA GPU.
 *
 * It has the steps of csrc/cpu/backend_cpu.c: see backend.h. The residual stream h is
 * fp32 and matrix products add to it; other activations are bf16. Formulas:
 * transformers modeling_qwen3.py. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend_cuda.h"
#include "arithmetic.h"
#include "cuda_error.h"
#include "device.h"
#include "peak.h"

/* Attempts to record the graph of a shape. */
#define MAX_RECORDINGS 3

/* About 10 ms with the 8B model on the oldest GPUs. */
#define FEW_TOKENS 128

struct cuda_backend {
    struct qe_backend base; /* first */
    struct device gpu;      /* owned */
};

/* One forward pass in progress. */
struct pass {
    struct device *gpu;
    const struct device_weights *weights; /* the batch's */
    const struct layout_arrays *at;       /* on the device */
    cudaError_t status;                   /* of the first launch that failed */
    int n_rows;               /* rows of h: tokens, and in a pruned last layer, once
                                 its keys are made, last tokens only */
    const atomic_int *cancel; /* NULL: not cancelled */
};

/* ---- steps ---- */

static bool
cancelled(const struct pass *p)
{
    return p->cancel != NULL && p->cancel->load() != 0;
}

/* After a failure the pass runs to its end without effect. */
static void
keep_first_error(struct pass *p, cudaError_t status)
{
    if (p->status == cudaSuccess) {
        p->status = status;
    }
}

static void
rms_norm(struct pass *p, const float *weight)
{
    const struct device *gpu = p->gpu;

    keep_first_error(p, launch_rms_norm(gpu->ws.x, gpu->ws.h, weight, p->n_rows,
                                        gpu->shape.C, gpu->shape.n_columns,
                                        gpu->config.rms_norm_eps, gpu->stream));
}

static void
linear(struct pass *p, enum qe_linear which, void *y, struct operand x,
       struct operand weight, int n_rows)
{
    keep_first_error(
        p, gemm_run(p->gpu->gemm, which, y, x, weight, n_rows, p->gpu->stream));
}

static struct head_norm
head_norm_of(const struct pass *p, const struct device_layer *layer)
{
    return {p->gpu->ws.cos_sin, layer->q_norm, layer->k_norm,
            p->gpu->config.rms_norm_eps};
}

static void
qk_norm_rope(struct pass *p, const int32_t *positions, const struct device_layer *layer,
             int first_head, int n_heads)
{
    const struct device *gpu = p->gpu;
    const struct device_shape *s = &gpu->shape;
    const struct head_norm norm = head_norm_of(p, layer);

    if (!gpu->layout.raw) {
        keep_first_error(p, launch_qk_norm_rope(gpu->ws.qkv, positions, &norm,
                                                p->n_rows, s->NH, s->NKV, s->HS,
                                                first_head, n_heads, gpu->stream));
    }
}

static void
attention(struct pass *p, const struct attention_block *blocks, int n_blocks, bool tall,
          const struct device_layer *layer)
{
    const struct device *gpu = p->gpu;
    const struct head_norm norm = head_norm_of(p, layer);

    if (n_blocks > 0) {
        keep_first_error(p, attention_run(&gpu->attention, blocks, n_blocks, tall,
                                          gpu->layout.raw ? &norm : NULL, gpu->stream));
    }
}

/* Once the last layer's keys are made, only the last token of each text with an output
 * is needed. Its rows of h move to the front, through gate_up, which is free. No part
 * reads what an earlier one wrote, because the rows lie in order. */
static void
keep_last_rows(struct pass *p)
{
    const struct device *gpu = p->gpu;
    const size_t row_bytes = gpu->shape.C * sizeof *gpu->ws.h;
    const size_t free_bytes =
        (size_t)gpu->ws.mlp_rows * 2 * gpu->shape.I * sizeof *gpu->ws.gate_up;
    const int n_kept = gpu->layout.n_last, n_at_once = (int)(free_bytes / row_bytes);

    for (int row = 0; row < n_kept; row += n_at_once) {
        int n = smaller(n_kept - row, n_at_once);
        keep_first_error(p, launch_gather_rows(gpu->ws.gate_up, gpu->ws.h,
                                               p->at->last_rows + row, n, row_bytes,
                                               gpu->stream));
        keep_first_error(p,
                         cudaMemcpyAsync(gpu->ws.h + (size_t)row * gpu->shape.C,
                                         gpu->ws.gate_up, n * row_bytes,
                                         cudaMemcpyDeviceToDevice, gpu->stream.handle));
    }
    p->n_rows = n_kept;
}

/* Attention's output lies where the queries were. */
static void
project_output(struct pass *p, struct operand o_proj)
{
    const struct device *gpu = p->gpu;
    const struct device_shape *s = &gpu->shape;
    struct operand x = {gpu->ws.qkv, NULL};

    if (s->dtype == QE_FLOAT8) {
        x = gpu->ws.x;
        keep_first_error(p, launch_quantize(x, gpu->ws.qkv, p->n_rows, s->q_width,
                                            s->qkv_width, gpu->stream));
    }
    linear(p, LINEAR_O, gpu->ws.h, x, o_proj, p->n_rows);
}

/* In parts, since gate and up are wide. */
static void
mlp(struct pass *p, const struct device_layer *layer)
{
    const struct device *gpu = p->gpu;
    const struct device_shape *s = &gpu->shape;

    for (int row = 0; row < p->n_rows; row += gpu->ws.mlp_rows) {
        int n = smaller(p->n_rows - row, gpu->ws.mlp_rows);
        struct operand x = rows_from(gpu->ws.x, row, s->C);

        linear(p, LINEAR_GATE_UP, gpu->ws.gate_up, x, layer->gate_up_proj, n);
        if (s->dtype == QE_FLOAT8) {
            keep_first_error(p, launch_swiglu_float8(gpu->ws.gate_up, x.scales, n, s->I,
                                                     gpu->stream));
        }
        linear(p, LINEAR_DOWN, gpu->ws.h + (size_t)row * s->C,
               {gpu->ws.gate_up, x.scales}, layer->down_proj, n);
    }
}

/* The end of the piece of results, from first on, that the ring holds at once. */
static int
piece_end(const struct layout *layout, int first)
{
    int end = first + 1;

    while (end < layout->n_vectors && layout->host.pool_rows[end].first > 0) {
        end++;
    }
    return end;
}

static void
pool(struct pass *p, int first, int end)
{
    const struct device *gpu = p->gpu;

    keep_first_error(p, launch_pool(gpu->ws.ring, gpu->ws.h, p->at->pool_rows + first,
                                    p->weights->norm, end - first, gpu->shape.C,
                                    gpu->shape.n_columns, gpu->config.rms_norm_eps,
                                    gpu->stream));
}

/* Waits for the GPU and copies results from the ring to the callers. */
static void
copy_vectors(struct pass *p, const struct qe_batch *batch, int first, int end)
{
    const struct device *gpu = p->gpu;
    const struct layout *layout = &gpu->layout;

    keep_first_error(p, cudaStreamSynchronize(gpu->stream.handle));
    for (int i = first; i < end && p->status == cudaSuccess; i++) {
        const struct qe_seq *seq = &batch->seqs[layout->last_seqs[i]];
        memcpy(seq->out, gpu->ws.ring + layout->host.pool_rows[i].first,
               seq->n_out * sizeof(float));
    }
}

/* ---- the pass ---- */

/* Limits how far ahead of the GPU the layers of a large batch are queued, so that it
 * can be cancelled. */
static void
wait_for_layers(struct pass *p, int l)
{
    cudaEvent_t event = p->gpu->layer_done[l % LAYERS_AHEAD];

    if (p->cancel != NULL) {
        keep_first_error(p, cudaEventSynchronize(event));
        keep_first_error(p, cudaEventRecord(event, p->gpu->stream.handle));
    }
}

static void
run_layer(struct pass *p, int l)
{
    const struct device *gpu = p->gpu;
    const struct device_layer *layer = &p->weights->layers[l];
    const struct device_shape *s = &gpu->shape;
    const bool pruned = gpu->layout.pruned && l == s->L - 1;

    /* keys, values, queries */
    rms_norm(p, layer->input_layernorm);
    if (pruned) {
        linear(p, LINEAR_KV, gpu->ws.qkv + s->q_width, gpu->ws.x,
               rows_from(layer->qkv_proj, s->q_width, s->C), p->n_rows);
        qk_norm_rope(p, p->at->positions, layer, s->NH, s->NKV);
        keep_last_rows(p);
        if (p->n_rows == 0) {
            return;
        }
        rms_norm(p, layer->input_layernorm);
        linear(p, LINEAR_Q, gpu->ws.qkv, gpu->ws.x, layer->qkv_proj, p->n_rows);
        qk_norm_rope(p, p->at->last_positions, layer, 0, s->NH);
        const int n_tall = gpu->layout.n_last_tall;
        attention(p, p->at->last_blocks, n_tall, true, layer);
        attention(p, p->at->last_blocks + n_tall, gpu->layout.n_last_short, false,
                  layer);
    } else {
        linear(p, LINEAR_QKV, gpu->ws.qkv, gpu->ws.x, layer->qkv_proj, p->n_rows);
        qk_norm_rope(p, p->at->positions, layer, 0, s->NH + s->NKV);
        attention(p, p->at->tall_blocks, gpu->layout.n_tall, true, layer);
        attention(p, p->at->blocks, gpu->layout.n_short, false, layer);
    }
    project_output(p, layer->o_proj);
    rms_norm(p, layer->post_attention_layernorm);
    mlp(p, layer);
}

static void
run_layers(struct pass *p)
{
    const struct device *gpu = p->gpu;

    keep_first_error(p, layout_copy(&p->gpu->layout, gpu->stream.handle));
    keep_first_error(p, launch_embed(gpu->ws.h, p->at->tokens, p->weights->embed_tokens,
                                     p->n_rows, gpu->shape.C, gpu->stream));
    for (int l = 0; l < gpu->shape.L && !cancelled(p); l++) {
        wait_for_layers(p, l);
        run_layer(p, l);
    }
}

static void
queue_small(struct pass *p)
{
    run_layers(p);
    if (p->gpu->layout.n_last > 0) {
        pool(p, 0, p->gpu->layout.n_last);
    }
}

/* Records the pass as a graph. Recording fails if another thread synchronises the whole
 * device meanwhile, and then the graph stays empty. */
static void
record(struct pass *p, struct graph *graph)
{
    const cudaStream_t stream = p->gpu->stream.handle;
    struct pass recorded = *p; /* what is recorded does not run */

    if (graph_begin(stream) == cudaSuccess) {
        queue_small(&recorded);
        graph_end(graph, recorded.status == cudaSuccess, stream);
    }
    cudaGetLastError(); /* the pass has not failed */
}

/* The second of equal small batches is recorded as a graph, or a later one if that
 * fails: the first loads the kernels, which a recording cannot. */
static void
run_small(struct pass *p, const struct qe_batch *batch)
{
    struct device *gpu = p->gpu;
    const struct layout *layout = &gpu->layout;
    const struct graph_key key = {
        p->weights,      layout->n_rows,      layout->n_last,       layout->n_tall,
        layout->n_short, layout->n_last_tall, layout->n_last_short, layout->raw};
    struct graph *graph = graphs_use(&gpu->graphs, &key);

    if (graph->exec == NULL && graph->n_uses > 1 &&
        graph->n_uses <= 1 + MAX_RECORDINGS) {
        record(p, graph);
    }
    if (graph->exec != NULL) {
        keep_first_error(p, cudaGraphLaunch(graph->exec, gpu->stream.handle));
    } else {
        queue_small(p);
    }
    copy_vectors(p, batch, 0, layout->n_vectors);
}

static void
run_large(struct pass *p, const struct qe_batch *batch)
{
    const struct layout *layout = &p->gpu->layout;

    p->cancel = batch->cancel;
    run_layers(p);
    for (int first = 0, end; first < layout->n_vectors && !cancelled(p); first = end) {
        end = piece_end(layout, first);
        pool(p, first, end);
        copy_vectors(p, batch, first, end);
    }
}

static int
run_batch(struct device *gpu, const struct device_weights *weights,
          const struct qe_batch *batch, struct qe_error *err)
{
    CUDA_TRY(err, cudaSetDevice(gpu->index));
    layout_fill(&gpu->layout, batch, RING_FLOATS);
    int status = device_prepare(gpu, err);
    if (status < 0) {
        return status;
    }
    struct pass pass = {
        gpu, weights, &gpu->layout.device, cudaSuccess, gpu->layout.n_rows, NULL};
    if (gpu->layout.small) {
        run_small(&pass, batch);
    } else {
        run_large(&pass, batch);
    }
    cudaError_t drained = cudaStreamSynchronize(gpu->stream.handle);
    keep_first_error(&pass, drained);
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
    return qe_fail(
        err, QE_EDEVICE,
        "device %s was opened before fork(), which CUDA does not survive; open "
        "the model in the child, or start it by 'spawn' or 'forkserver'",
        backend->name);
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
    int status = device_open(&cuda->gpu, options, model, err);
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
