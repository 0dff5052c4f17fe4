/* workspace.cu: sizes the buffers and places them in one allocation. */
#include "workspace.h"

#include "arithmetic.h"
#include "cuda_error.h"

/* MLP activations are the widest. A text longer than a batch may be has them made in
 * parts, so that a smaller batch_tokens takes less memory; the parts are not so small
 * that products read the weights for a few rows at a time. */
#define MAX_MLP_ROWS 16896
#define MIN_MLP_ROWS 128
#define ALIGN_BYTES 256

template <typename T>
static void
place(T **pointer, unsigned char *base, size_t *used, size_t n_elements)
{
    *pointer = base == NULL ? NULL : reinterpret_cast<T *>(base + *used);
    *used += round_up(n_elements * sizeof(T), ALIGN_BYTES);
}

/* If base is NULL it only counts bytes. */
static void
lay_out(const struct device_shape *s, int max_length, unsigned char *base,
        struct workspace *ws)
{
    const size_t T = ws->max_rows, M = ws->mlp_rows;
    size_t used = 0;

    place(&ws->h, base, &used, T * s->C);
    const size_t C = s->C, widest = C > (size_t)s->q_width ? C : s->q_width;
    unsigned char *x;
    place(&x, base, &used, s->dtype == QE_FLOAT8 ? T * widest : T * C * sizeof(bf16));
    ws->x = {x, NULL};
    if (s->dtype == QE_FLOAT8) {
        place(&ws->x.scales, base, &used, T);
    }
    place(&ws->qkv, base, &used, (T + 1) * s->qkv_width); /* and the spare row */
    place(&ws->gate_up, base, &used, M * 2 * s->I);
    place(&ws->cos_sin, base, &used, (size_t)max_length * s->HS);
    ws->n_bytes = used;
}

static int
mlp_rows(int batch_tokens, int max_rows)
{
    const int wanted = (int)round_up(batch_tokens, MIN_MLP_ROWS);

    return smaller(smaller(wanted, MAX_MLP_ROWS), max_rows);
}

void
workspace_plan(const struct device_shape *shape, int batch_tokens, int max_length,
               struct workspace *ws)
{
    ws->max_rows = batch_tokens > max_length ? batch_tokens : max_length;
    ws->mlp_rows = mlp_rows(batch_tokens, ws->max_rows);
    lay_out(shape, max_length, NULL, ws);
}

int
workspace_open(const struct device_shape *shape, int max_length, struct workspace *ws,
               struct qe_error *err)
{
    CUDA_TRY(err, cudaMalloc(&ws->memory, ws->n_bytes));
    lay_out(shape, max_length, ws->memory, ws);
    CUDA_TRY(err, cudaMemset(ws->qkv + (size_t)ws->max_rows * shape->qkv_width, 0,
                             shape->qkv_width * sizeof *ws->qkv));
    CUDA_TRY(err, cudaHostAlloc(&ws->ring, RING_FLOATS * sizeof(float),
                                cudaHostAllocMapped));
    return 0;
}

void
workspace_close(struct workspace *ws)
{
    cudaFree(ws->memory);
    cudaFreeHost(ws->ring);
    *ws = {};
}

void
workspace_linears(const struct device_shape *s, struct linear_shape linears[N_LINEARS])
{
    const size_t C = s->C, I = s->I, qkv = s->qkv_width;

    linears[LINEAR_QKV] = {s->dtype, s->qkv_width, s->C, C, qkv, PRODUCT_STORE};
    linears[LINEAR_KV] = {s->dtype, 2 * s->kv_width, s->C, C, qkv, PRODUCT_STORE};
    linears[LINEAR_Q] = {s->dtype, s->q_width, s->C, C, qkv, PRODUCT_STORE};
    linears[LINEAR_O] = {s->dtype, s->C, s->q_width, qkv, C, PRODUCT_ADD};
    linears[LINEAR_GATE_UP] = {s->dtype, 2 * s->I, s->C, C, 2 * I, PRODUCT_SWIGLU};
    linears[LINEAR_DOWN] = {s->dtype, s->C, s->I, 2 * I, C, PRODUCT_ADD};
    if (s->dtype == QE_FLOAT8) { /* between products, rows are rounded */
        linears[LINEAR_O].ldx = s->q_width;
        linears[LINEAR_GATE_UP].output = PRODUCT_STORE;
        linears[LINEAR_DOWN].ldx = 4 * I;
    }
}

struct linear_trial
workspace_trial(const struct workspace *ws, const struct device_shape *s,
                const struct device_weights *w, enum qe_linear which)
{
    const bool float8 = s->dtype == QE_FLOAT8;
    const struct device_layer *first = &w->layers[0], *second = &w->layers[s->L > 1];
    const size_t layer_bytes = static_cast<unsigned char *>(second->qkv_proj.values) -
                               static_cast<unsigned char *>(first->qkv_proj.values);
    struct linear_trial trial = {.x = ws->x,
                                 .y = ws->qkv,
                                 .weights = first->qkv_proj,
                                 .layer_bytes = layer_bytes,
                                 .n_layers = s->L,
                                 .max_rows = ws->max_rows};

    switch (which) {
    case LINEAR_KV:
        trial.y = ws->qkv + s->q_width;
        trial.weights = rows_from(first->qkv_proj, s->q_width, s->C);
        break;
    case LINEAR_O:
        trial.x.values = float8 ? ws->x.values : ws->qkv;
        trial.y = ws->h;
        trial.weights = first->o_proj;
        break;
    case LINEAR_GATE_UP:
        trial.y = ws->gate_up;
        trial.weights = first->gate_up_proj;
        trial.max_rows = ws->mlp_rows;
        break;
    case LINEAR_DOWN:
        trial.x.values = ws->gate_up;
        trial.y = ws->h;
        trial.weights = first->down_proj;
        trial.max_rows = ws->mlp_rows;
        break;
    default:
        break;
    }
    return trial;
}
