/* workspace.cu: the buffers in one allocation, where memory_plan.h places them. */
#include "workspace.h"

#include "cuda_error.h"

int
workspace_open(const struct device_shape *shape, int batch_tokens, int max_length,
               struct workspace *ws, struct qe_error *err)
{
    const struct workspace_places p = place_workspace(shape, batch_tokens, max_length);

    ws->max_rows = p.max_rows;
    ws->mlp_rows = p.mlp_rows;
    ws->second_rows = p.second_rows;
    ws->n_bytes = p.n_bytes;
    CUDA_TRY(err, cudaMalloc(&ws->memory, ws->n_bytes));
    ws->h = reinterpret_cast<float *>(ws->memory + p.h);
    if (p.second_rows > 0) {
        ws->second_h = reinterpret_cast<float *>(ws->memory + p.second_h);
    }
    ws->x = {ws->memory + p.x, NULL};
    if (shape->dtype == QE_FLOAT8) {
        ws->x.scales = reinterpret_cast<float *>(ws->memory + p.x_scales);
    }
    ws->qkv = reinterpret_cast<bf16 *>(ws->memory + p.qkv);
    ws->gate_up = reinterpret_cast<bf16 *>(ws->memory + p.gate_up);
    ws->cos_sin = reinterpret_cast<float *>(ws->memory + p.cos_sin);
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
