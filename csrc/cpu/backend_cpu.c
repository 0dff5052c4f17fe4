/* backend_cpu.c: the forward pass of Qwen3 on the CPU.
 *
 * Activations between the matrix products are fp32 (the residual stream h) or rounded
 * once to bf16 (what a product reads). Formulas: transformers modeling_qwen3.py. */
#include "backend_cpu.h"

#include <stdlib.h>
#include <string.h>

#include "../arithmetic.h"
#include "../config.h"
#include "../linear.h"
#include "gemm.h"
#include "int8_weights.h"
#include "layout.h"
#include "ops.h"
#include "peak.h"
#include "q8_0.h"
#include "threads.h"
#include "workspace.h"

/* Large enough that each layer's weights are read rarely; small enough that activations
 * stay in the caches and the next batch does not wait long. */
#define DEFAULT_BATCH_TOKENS 2048
#define MAX_TASK_ROWS 16

/* 0.1 s of one core with the plain C kernels. */
#define FEW_FLOP 4e8

/* One product of a layer: x (T, k) times up to three weights (n[i], k) gives y. */
struct linear_shape {
    const qe_bf16 *x; /* rows ldx elements apart */
    size_t ldx;
    int k;
    enum qe_epilogue epilogue;
    void *y; /* rows ldy elements apart */
    size_t ldy;
    int n[3]; /* 0: no such weight */
};

struct cpu_backend {
    struct qe_backend base;       /* first */
    const struct qe_model *model; /* borrowed */
    const struct qe_isa *isa;
    struct qe_threads *threads;  /* owned */
    struct qe_workspace ws;      /* owned */
    struct qe_int8_weights int8; /* owned; empty in bf16 */
    struct linear_shape linears[N_LINEARS];
};

/* One forward pass in progress. */
struct pass {
    struct cpu_backend *cpu;
    struct qe_workspace *ws;
    const struct qe_config *config;
    const struct qe_batch *batch;
    const struct qe_cpu_layer *layer;
    const struct qe_int8_table *int8; /* NULL in bf16                            */
    struct qe_cpu_layer bf16_layer;
    const float *norm_weight; /* (C) of the norm being applied                   */
    int n_rows;      /* of h: all tokens, or last tokens only once the last layer's
                        keys are stored                                           */
    int task_rows;   /* rows per task of a step over rows                         */
    int n_blocks;    /* of queries                                                */
    bool has_copies; /* a sequence begins inside a key tile of its prefix         */
};

/* ---- steps over rows ---- */

static int
rows_end(const struct pass *p, int task)
{
    return smaller((task + 1) * p->task_rows, p->n_rows);
}

static void
embed_rows(void *context, int task, int worker)
{
    struct pass *p = context;
    const struct qe_config *c = p->config;
    const unsigned char *embed_tokens =
        p->int8 != NULL ? p->int8->embed_tokens : p->batch->weights->embed_tokens;
    (void)worker;

    for (int row = task * p->task_rows; row < rows_end(p, task); row++) {
        int s = p->ws->row_seq[row];
        int n_prefix = p->ws->spans[s].n_keys - p->batch->seqs[s].n_tokens;
        const struct qe_seq *seq = &p->batch->seqs[s];
        size_t token = (size_t)seq->tokens[p->ws->row_position[row] - n_prefix];
        float *h = p->ws->h + row * p->ws->ldh;
        if (p->int8 != NULL && p->int8->embed_in_blocks) {
            qe_q8_0_widen(h, embed_tokens + token * qe_q8_0_bytes(c->hidden_size),
                          c->hidden_size, p->ws->hidden_padded);
        } else {
            p->cpu->isa->widen(h, embed_tokens + 2 * token * c->hidden_size,
                               c->hidden_size, p->ws->hidden_padded);
        }
    }
}

static void
norm_rows(void *context, int task, int worker)
{
    struct pass *p = context;
    struct qe_workspace *ws = p->ws;
    (void)worker;

    for (int row = task * p->task_rows; row < rows_end(p, task); row++) {
        p->cpu->isa->rms_norm(ws->x + row * ws->ldx, ws->h + row * ws->ldh,
                              p->norm_weight, p->config->hidden_size, ws->hidden_padded,
                              p->config->rms_norm_eps);
    }
}

static int
key_parts(const struct pass *p)
{
    return p->n_rows > MAX_TASK_ROWS * qe_threads_count(p->cpu->threads)
               ? 1
               : p->config->n_kv_heads;
}

/* Stores a few rows of all heads or, if there are few rows, of one head: then workers
 * do not write to the same cache lines. */
static void
store_keys(void *context, int task, int worker)
{
    struct pass *p = context;
    struct qe_workspace *ws = p->ws;
    const struct qe_config *c = p->config;
    int n_parts = key_parts(p);
    int n_heads = c->n_kv_heads / n_parts;
    int first_head = task % n_parts * n_heads;
    int first = task / n_parts * MAX_TASK_ROWS;
    int end = smaller(first + MAX_TASK_ROWS, p->n_rows);
    qe_bf16 key[256], value[256];
    (void)worker;

    for (int row = first; row < end; row++) {
        const struct qe_kv_span *span = &ws->spans[ws->row_seq[row]];
        int position = ws->row_position[row];
        const float *k = ws->qkv + row * ws->ldqkv + (size_t)c->n_heads * c->head_dim;
        const float *v = k + (size_t)c->n_kv_heads * c->head_dim;

        for (int head = first_head; head < first_head + n_heads; head++) {
            size_t offset = span->offset + (size_t)head * span->n_stored * c->head_dim;
            p->cpu->isa->norm_rope(key, k + head * c->head_dim, p->layer->k_norm,
                                   ws->cos_sin + (size_t)position * c->head_dim,
                                   c->head_dim, c->rms_norm_eps);
            p->cpu->isa->narrow(value, v + head * c->head_dim, c->head_dim);
            qe_kv_store(ws->keys + offset, ws->values + offset, span, position, key,
                        value, c->head_dim);
            if (position == span->n_keys - 1) {
                qe_kv_pad(ws->keys + offset, ws->values + offset, span, c->head_dim);
            }
        }
    }
}

/* Copies the beginning of the key tile that a sequence shares with its prefix. */
static void
copy_keys(void *context, int task, int worker)
{
    struct pass *p = context;
    struct qe_workspace *ws = p->ws;
    const struct qe_seq *seq = &p->batch->seqs[task];
    const struct qe_kv_span *span = &ws->spans[task];
    int head_dim = p->config->head_dim;
    (void)worker;

    if (seq->prefix < 0 || span->n_copied == 0) {
        return;
    }
    const struct qe_kv_span *prefix = &ws->spans[seq->prefix];
    for (int head = 0; head < p->config->n_kv_heads; head++) {
        size_t to = span->offset + (size_t)head * span->n_stored * head_dim;
        size_t from = prefix->offset + (size_t)head * prefix->n_stored * head_dim;
        qe_kv_copy(ws->keys + to, ws->values + to, span, ws->keys + from,
                   ws->values + from, prefix, head_dim);
    }
}

static void
rotate_queries(void *context, int task, int worker)
{
    struct pass *p = context;
    struct qe_workspace *ws = p->ws;
    const struct qe_config *c = p->config;
    (void)worker;

    for (int row = task * p->task_rows; row < rows_end(p, task); row++) {
        const float *cos_sin =
            ws->cos_sin + (size_t)ws->row_position[row] * c->head_dim;
        for (int head = 0; head < c->n_heads; head++) {
            p->cpu->isa->norm_rope(ws->q + row * ws->ldq + head * c->head_dim,
                                   ws->qkv + row * ws->ldqkv + head * c->head_dim,
                                   p->layer->q_norm, cos_sin, c->head_dim,
                                   c->rms_norm_eps);
        }
    }
}

/* One block of queries of one group of heads. The output replaces the queries. */
static void
attend_block(void *context, int task, int worker)
{
    struct pass *p = context;
    struct qe_workspace *ws = p->ws;
    const struct qe_config *c = p->config;
    const struct qe_block *block = &ws->blocks[task / c->n_kv_heads];
    int kv_head = task % c->n_kv_heads;
    int group = c->n_heads / c->n_kv_heads;
    const struct qe_kv_span *span = &ws->spans[block->seq];
    size_t offset = span->offset + (size_t)kv_head * span->n_stored * c->head_dim;
    qe_bf16 *q = ws->q + block->row * ws->ldq + (size_t)kv_head * group * c->head_dim;
    struct qe_attend attend = {
        .q = q,
        .y = q,
        .ldq = ws->ldq,
        .n_heads = group,
        .n_rows = block->n_rows,
        .position = block->position,
        .head_dim = c->head_dim,
        .n_prefix = span->first,
        .keys = ws->keys + offset,
        .values = ws->values + offset,
        .n_keys = span->n_keys,
    };

    if (span->first > 0) {
        const struct qe_kv_span *prefix = &ws->spans[p->batch->seqs[block->seq].prefix];
        size_t at = prefix->offset + (size_t)kv_head * prefix->n_stored * c->head_dim;
        attend.prefix_keys = ws->keys + at;
        attend.prefix_values = ws->values + at;
    }
    p->cpu->isa->attend(&attend, ws->attend_scratch + worker * ws->attend_floats);
}

static void
pool_row(void *context, int row, int worker)
{
    struct pass *p = context;
    const struct qe_seq *seq = &p->batch->seqs[p->ws->row_seq[row]];
    (void)worker;

    p->cpu->isa->pool(seq->out, p->ws->h + row * p->ws->ldh, p->batch->weights->norm,
                      p->config->hidden_size, seq->n_out, p->config->rms_norm_eps,
                      seq->kind == QE_UNIT);
}

/* ---- the pass ---- */

static void
run(struct pass *p, int n_tasks, qe_task *task)
{
    qe_threads_run(p->cpu->threads, n_tasks, task, p, p->batch->cancel);
}

static void
run_rows(struct pass *p, qe_task *task)
{
    run(p, ceil_div(p->n_rows, p->task_rows), task);
}

static void
rms_norm(struct pass *p, const float *weight)
{
    p->norm_weight = weight;
    run_rows(p, norm_rows);
}

static void
linear(struct pass *p, enum qe_linear which)
{
    const struct qe_cpu_layer *layer = p->layer;
    const struct qe_matrix *const weights[N_LINEARS] = {
        [LINEAR_QKV] = layer->qkv,         [LINEAR_KV] = layer->qkv + 1,
        [LINEAR_Q] = layer->qkv,           [LINEAR_O] = layer->o,
        [LINEAR_GATE_UP] = layer->gate_up, [LINEAR_DOWN] = layer->down,
    };
    const struct linear_shape *s = &p->cpu->linears[which];
    struct qe_gemm gemm = {.x = s->x,
                           .ldx = s->ldx,
                           .m = p->n_rows,
                           .k = s->k,
                           .epilogue = s->epilogue,
                           .y = s->y,
                           .ldy = s->ldy};

    for (; gemm.n_w < 3 && s->n[gemm.n_w] > 0; gemm.n_w++) {
        gemm.w[gemm.n_w] = weights[which][gemm.n_w];
    }
    qe_gemm_run(&gemm, p->cpu->isa, p->cpu->threads, p->ws->gemm_scratch,
                p->batch->cancel);
}

static void
set_rows(struct pass *p, int n_rows)
{
    int share = ceil_div(n_rows, qe_threads_count(p->cpu->threads));

    p->n_rows = n_rows;
    p->n_blocks = qe_layout_cut_blocks(p->ws, n_rows);
    p->task_rows = smaller(share, MAX_TASK_ROWS);
}

static bool
has_copies(const struct pass *p)
{
    for (int s = 0; s < p->batch->n_seqs; s++) {
        if (p->ws->spans[s].n_copied > 0) {
            return true;
        }
    }
    return false;
}

static void
store_all_keys(struct pass *p)
{
    run(p, ceil_div(p->n_rows, MAX_TASK_ROWS) * key_parts(p), store_keys);
    if (p->has_copies) {
        run(p, p->batch->n_seqs, copy_keys);
    }
}

/* In the last layer, queries are computed for last tokens only. */
static void
run_layer(struct pass *p, int l)
{
    p->bf16_layer = qe_cpu_layer(p->config, &p->batch->weights->layers[l]);
    p->layer = p->int8 != NULL ? &p->int8->layers[l] : &p->bf16_layer;

    /* keys, values, queries */
    rms_norm(p, p->layer->input_layernorm);
    if (l == p->config->n_layers - 1) {
        linear(p, LINEAR_KV);
        store_all_keys(p);
        set_rows(p, qe_layout_keep_last(p->ws, p->batch, p->n_rows));
        linear(p, LINEAR_Q);
    } else {
        linear(p, LINEAR_QKV);
        store_all_keys(p);
    }

    /* attention */
    run_rows(p, rotate_queries);
    run(p, p->n_blocks * p->config->n_kv_heads, attend_block);
    linear(p, LINEAR_O);

    /* MLP */
    rms_norm(p, p->layer->post_attention_layernorm);
    linear(p, LINEAR_GATE_UP);
    linear(p, LINEAR_DOWN);
}

static int
forward(struct qe_backend *backend, const struct qe_batch *batch, struct qe_error *err)
{
    struct cpu_backend *cpu = (struct cpu_backend *)backend;
    const struct qe_config *c = &cpu->model->config;
    struct qe_workspace *ws = &cpu->ws;
    struct pass pass = {.cpu = cpu, .ws = ws, .config = c, .batch = batch};
    struct pass *p = &pass;

    if (batch->n_tokens > ws->max_tokens || batch->n_seqs > ws->max_seqs) {
        return qe_fail(err, QE_EVALUE,
                       "batch: %d tokens in %d sequences, expected at most %d in %d",
                       batch->n_tokens, batch->n_seqs, ws->max_tokens, ws->max_seqs);
    }
    set_rows(p, qe_layout_fill(ws, batch, (size_t)c->n_kv_heads * c->head_dim,
                               cpu->isa->panel_columns));
    p->has_copies = has_copies(p);
    p->int8 = qe_int8_weights_find(&cpu->int8, batch->weights);
    qe_workspace_rope(ws, c, batch->max_seqlen);

    run_rows(p, embed_rows);
    for (int l = 0; l < c->n_layers && atomic_load(batch->cancel) == 0; l++) {
        run_layer(p, l);
    }
    run(p, p->n_rows, pool_row);
    if (atomic_load(batch->cancel) != 0) {
        return qe_fail(err, QE_ECANCELLED, "cancelled");
    }
    return 0;
}

/* ---- open, close ---- */

static int
after_fork(struct qe_backend *backend, struct qe_error *err)
{
    struct cpu_backend *cpu = (struct cpu_backend *)backend;

    qe_threads_forget(cpu->threads);
    cpu->threads = NULL;
    return qe_threads_open(backend->n_threads, &cpu->threads, err);
}

static int
add_int8_adapter(struct qe_backend *backend, const struct qe_weights *weights,
                 struct qe_error *err)
{
    struct qe_int8_weights *int8 = &((struct cpu_backend *)backend)->int8;
    int status = qe_int8_weights_add(int8, weights, backend->n_threads, err);

    backend->weight_bytes = int8->n_bytes;
    return status;
}

static void
close_backend(struct qe_backend *backend)
{
    struct cpu_backend *cpu = (struct cpu_backend *)backend;

    if (cpu == NULL) {
        return;
    }
    qe_threads_close(cpu->threads);
    qe_workspace_close(&cpu->ws);
    qe_int8_weights_close(&cpu->int8);
    free(cpu);
}

/* The products of a layer on the buffers that they read and write. */
static void
describe_linears(struct cpu_backend *cpu)
{
    const struct qe_config *c = &cpu->model->config;
    const struct qe_workspace *ws = &cpu->ws;
    const int q = c->n_heads * c->head_dim, kv = c->n_kv_heads * c->head_dim;
    const int C = c->hidden_size, I = c->intermediate_size;

    const struct linear_shape linears[N_LINEARS] = {
        [LINEAR_QKV] = {ws->x, ws->ldx, C, QE_STORE, ws->qkv, ws->ldqkv, {q, kv, kv}},
        [LINEAR_KV] = {ws->x, ws->ldx, C, QE_STORE, ws->qkv + q, ws->ldqkv, {kv, kv}},
        [LINEAR_Q] = {ws->x, ws->ldx, C, QE_STORE, ws->qkv, ws->ldqkv, {q}},
        [LINEAR_O] = {ws->q, ws->ldq, q, QE_ADD, ws->h, ws->ldh, {C}},
        [LINEAR_GATE_UP] = {ws->x, ws->ldx, C, QE_SWIGLU, ws->act, ws->lda, {I, I}},
        [LINEAR_DOWN] = {ws->act, ws->lda, I, QE_ADD, ws->h, ws->ldh, {C}},
    };

    memcpy(cpu->linears, linears, sizeof linears);
}

int
qe_backend_cpu_open(const struct qe_model *model, const struct qe_cpu_options *options,
                    struct qe_backend **backend, struct qe_error *err)
{
    struct cpu_backend *cpu = calloc(1, sizeof *cpu);
    int status;

    *backend = NULL;
    if (cpu == NULL) {
        return qe_fail(err, QE_ENOMEM, "backend: no memory for %zu bytes", sizeof *cpu);
    }
    cpu->model = model;
    cpu->base = (struct qe_backend){
        .abi = QE_BACKEND_ABI,
        .size = sizeof cpu->base,
        .name = "cpu",
        .n_threads = options->n_threads > 0 ? options->n_threads : qe_usable_cores(),
        .batch_tokens =
            options->batch_tokens > 0 ? options->batch_tokens : DEFAULT_BATCH_TOKENS,
        .few_tokens = (int)(FEW_FLOP / qe_config_token_flop(&model->config)),
        .forward = forward,
        .after_fork = after_fork,
        .measure = qe_peak_measure,
        .close = close_backend,
        .is_int8 = options->dtype == QE_INT8,
        .keeps_model = true,
        .add_adapter = options->dtype == QE_INT8 ? add_int8_adapter : NULL,
    };
    cpu->isa = qe_isa_choose(options->isa, err);
    int batch_tokens = cpu->base.batch_tokens, max_length = model->config.max_length;
    int max_tokens = batch_tokens > max_length ? batch_tokens : max_length;
    status = cpu->isa == NULL
                 ? err->status
                 : qe_threads_open(cpu->base.n_threads, &cpu->threads, err);
    if (status == 0) {
        cpu->base.kernels = cpu->isa->name;
        status = qe_workspace_open(&model->config, max_tokens, batch_tokens,
                                   cpu->base.n_threads, &cpu->ws, err);
    }
    if (status == 0 && options->dtype == QE_INT8) {
        status = qe_int8_weights_open(model, cpu->isa->int8_zero, cpu->threads,
                                      &cpu->int8, err);
        cpu->base.weight_bytes = cpu->int8.n_bytes;
    }
    if (status < 0) {
        goto fail;
    }
    describe_linears(cpu);
    *backend = &cpu->base;
    return 0;
fail:
    close_backend(&cpu->base);
    return status;
}
