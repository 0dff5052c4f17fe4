/* pass.cu: the layers of Qwen3 on an NVIDIA GPU.
 *
 * They have the steps of csrc/cpu/backend_cpu.c: see backend.h. The residual stream h
 * is fp32 and matrix products add to it; other activations are bf16. Formulas:
 * transformers modeling_qwen3.py. */
#include "pass.h"

#include <string.h>

#include "arithmetic.h"

/* Attempts to record the graph of a shape. */
#define MAX_RECORDINGS 3

/* ---- steps ---- */

bool
pass_cancelled(const struct pass *p)
{
    return p->cancel != NULL && p->cancel->load() != 0;
}

/* After a failure the pass runs to its end without effect. */
void
pass_keep_error(struct pass *p, cudaError_t status)
{
    if (p->status == cudaSuccess) {
        p->status = status;
    }
}

static void
rms_norm(struct pass *p, const float *weight)
{
    const struct device *gpu = p->gpu;

    pass_keep_error(p, launch_rms_norm(gpu->ws.x, p->h, weight, p->n_rows, gpu->shape.C,
                                       gpu->shape.n_columns, gpu->config.rms_norm_eps,
                                       gpu->stream));
}

static void
linear(struct pass *p, enum qe_linear which, void *y, struct operand x,
       struct operand weight, int n_rows)
{
    pass_keep_error(
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

    if (!p->layout->raw) {
        pass_keep_error(p, launch_qk_norm_rope(gpu->ws.qkv, positions, &norm, p->n_rows,
                                               s->NH, s->NKV, s->HS, first_head,
                                               n_heads, gpu->stream));
    }
}

static void
attention(struct pass *p, const struct attention_block *blocks, int n_blocks, bool tall,
          const struct device_layer *layer)
{
    const struct device *gpu = p->gpu;
    const struct head_norm norm = head_norm_of(p, layer);

    if (n_blocks > 0) {
        pass_keep_error(p, attention_run(&gpu->attention, blocks, n_blocks, tall,
                                         p->layout->raw ? &norm : NULL, gpu->stream));
    }
}

/* Once the last layer's keys are made, only the last token of each text with an output
 * is needed. Its rows of h move to the front, through gate_up, which is free. No part
 * reads what an earlier one wrote, because the rows lie in order. */
static void
keep_last_rows(struct pass *p)
{
    const struct device *gpu = p->gpu;
    const size_t row_bytes = gpu->shape.C * sizeof *p->h;
    const size_t free_bytes =
        (size_t)gpu->ws.mlp_rows * 2 * gpu->shape.I * sizeof *gpu->ws.gate_up;
    const int n_kept = p->layout->n_last, n_at_once = (int)(free_bytes / row_bytes);

    for (int row = 0; row < n_kept; row += n_at_once) {
        int n = smaller(n_kept - row, n_at_once);
        pass_keep_error(p, launch_gather_rows(gpu->ws.gate_up, p->h,
                                              p->layout->device.last_rows + row, n,
                                              row_bytes, gpu->stream));
        pass_keep_error(p,
                        cudaMemcpyAsync(p->h + (size_t)row * gpu->shape.C,
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
        pass_keep_error(p, launch_quantize(x, gpu->ws.qkv, p->n_rows, s->q_width,
                                           s->qkv_width, gpu->stream));
    }
    linear(p, LINEAR_O, p->h, x, o_proj, p->n_rows);
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
            pass_keep_error(p, launch_swiglu_float8(gpu->ws.gate_up, x.scales, n, s->I,
                                                    gpu->stream));
        }
        linear(p, LINEAR_DOWN, p->h + (size_t)row * s->C, {gpu->ws.gate_up, x.scales},
               layer->down_proj, n);
    }
}

int
pass_piece_end(const struct layout *layout, int first)
{
    int end = first + 1;

    while (end < layout->n_vectors && layout->host.pool_rows[end].first > 0) {
        end++;
    }
    return end;
}

void
pass_pool(struct pass *p, int first, int end)
{
    const struct device *gpu = p->gpu;

    pass_keep_error(p, launch_pool(p->ring, p->h, p->layout->device.pool_rows + first,
                                   p->weights->norm, end - first, gpu->shape.C,
                                   gpu->shape.n_columns, gpu->config.rms_norm_eps,
                                   gpu->stream));
}

void
pass_copy_vectors(const struct pass *p, const struct qe_batch *batch, int first,
                  int end)
{
    const struct layout *layout = p->layout;

    for (int i = first; i < end; i++) {
        const struct qe_seq *seq = &batch->seqs[layout->last_seqs[i]];
        memcpy(seq->out, p->ring + layout->host.pool_rows[i].first,
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
        pass_keep_error(p, cudaEventSynchronize(event));
        pass_keep_error(p, cudaEventRecord(event, p->gpu->stream.handle));
    }
}

static void
run_layer(struct pass *p, int l)
{
    const struct device *gpu = p->gpu;
    const struct device_layer *layer = &p->weights->layers[l];
    const struct device_shape *s = &gpu->shape;
    const bool pruned = p->layout->pruned && s->pools && l == s->L - 1;

    /* keys, values, queries */
    rms_norm(p, layer->input_layernorm);
    if (pruned) {
        linear(p, LINEAR_KV, gpu->ws.qkv + s->q_width, gpu->ws.x,
               rows_from(layer->qkv_proj, s->q_width, s->C), p->n_rows);
        qk_norm_rope(p, p->layout->device.positions, layer, s->NH, s->NKV);
        keep_last_rows(p);
        if (p->n_rows == 0) {
            return;
        }
        rms_norm(p, layer->input_layernorm);
        linear(p, LINEAR_Q, gpu->ws.qkv, gpu->ws.x, layer->qkv_proj, p->n_rows);
        qk_norm_rope(p, p->layout->device.last_positions, layer, 0, s->NH);
        const int n_tall = p->layout->n_last_tall;
        attention(p, p->layout->device.last_blocks, n_tall, true, layer);
        attention(p, p->layout->device.last_blocks + n_tall, p->layout->n_last_short,
                  false, layer);
    } else {
        linear(p, LINEAR_QKV, gpu->ws.qkv, gpu->ws.x, layer->qkv_proj, p->n_rows);
        qk_norm_rope(p, p->layout->device.positions, layer, 0, s->NH + s->NKV);
        attention(p, p->layout->device.tall_blocks, p->layout->n_tall, true, layer);
        attention(p, p->layout->device.blocks, p->layout->n_short, false, layer);
    }
    project_output(p, layer->o_proj);
    rms_norm(p, layer->post_attention_layernorm);
    mlp(p, layer);
}

void
pass_queue_layers(struct pass *p)
{
    const struct device *gpu = p->gpu;

    pass_keep_error(p, layout_copy(p->layout, gpu->stream.handle));
    if (gpu->shape.embeds) {
        pass_keep_error(p, launch_embed(p->h, p->layout->device.tokens,
                                        p->weights->embed_tokens, p->n_rows,
                                        gpu->shape.C, gpu->stream));
    }
    for (int l = 0; l < gpu->shape.L && !pass_cancelled(p); l++) {
        wait_for_layers(p, l);
        run_layer(p, l);
    }
}

static void
queue_small(struct pass *p)
{
    pass_queue_layers(p);
    if (p->gpu->shape.pools && p->layout->n_last > 0) {
        pass_pool(p, 0, p->layout->n_last);
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

void
pass_queue_small(struct pass *p)
{
    struct device *gpu = p->gpu;
    const struct layout *layout = p->layout;
    const struct graph_key key = {
        p->weights,      layout->n_rows,      layout->n_last,       layout->n_tall,
        layout->n_short, layout->n_last_tall, layout->n_last_short, layout->raw};
    struct graph *graph = graphs_use(&gpu->graphs, &key);

    if (graph->exec == NULL && graph->n_uses > 1 &&
        graph->n_uses <= 1 + MAX_RECORDINGS) {
        record(p, graph);
    }
    if (graph->exec != NULL) {
        pass_keep_error(p, cudaGraphLaunch(graph->exec, gpu->stream.handle));
    } else {
        queue_small(p);
    }
}

struct pass
pass_of(struct device *gpu, const struct device_weights *weights, int slot)
{
    struct workspace *ws = &gpu->ws;

    return {gpu,
            weights,
            &gpu->layouts[slot],
            slot == 0 ? ws->h : ws->second_h,
            ws->ring + slot * SLOT_RING_FLOATS,
            cudaSuccess,
            gpu->layouts[slot].n_rows,
            NULL};
}
