/* adapters.cu: memory for the tensors that an adapter replaces. Each begins as a copy
 * of the model's, so that a part of a fused matrix can be replaced and padding stays
 * zero. */
#include "adapters.h"

#include <stdlib.h>
#include <string.h>

#include "arithmetic.h"
#include "cuda_error.h"

/* The address for the next replaced tensor. */
struct moving {
    unsigned char *memory; /* NULL: only counts */
    size_t used;
    cudaStream_t stream;
    cudaError_t status; /* of the first copy that failed */
};

template <typename T>
static void
move_tensor(struct moving *m, bool changed, T **tensor, size_t n_elements)
{
    const size_t n_bytes = n_elements * sizeof(T);

    if (!changed) {
        return;
    }
    if (m->memory != NULL) {
        T *own = reinterpret_cast<T *>(m->memory + m->used);
        cudaError_t status =
            cudaMemcpyAsync(own, *tensor, n_bytes, cudaMemcpyDeviceToDevice, m->stream);
        m->status = m->status == cudaSuccess ? status : m->status;
        *tensor = own;
    }
    m->used += round_up(n_bytes, ALIGN_BYTES);
}

static void
move_matrix(struct moving *m, bool changed, enum qe_compute_dtype dtype,
            struct operand *matrix, size_t n, size_t k)
{
    unsigned char *values = static_cast<unsigned char *>(matrix->values);

    move_tensor(m, changed, &values, n * k * weight_bytes(dtype));
    matrix->values = values;
    if (has_scales(dtype)) {
        move_tensor(m, changed, &matrix->scales, n);
    }
}

/* Moves the replaced tensors of one layer. */
static void
move_layer(struct moving *m, const struct device_shape *s,
           const struct qe_layer *changed, struct device_layer *layer)
{
    const size_t C = s->C, I = s->I;

    move_matrix(m,
                changed->q_proj != NULL || changed->k_proj != NULL ||
                    changed->v_proj != NULL,
                s->dtype, &layer->qkv_proj, s->qkv_width, C);
    move_matrix(m, changed->o_proj != NULL, s->dtype, &layer->o_proj, C, s->q_width);
    move_matrix(m, changed->gate_proj != NULL || changed->up_proj != NULL, s->dtype,
                &layer->gate_up_proj, 2 * I, C);
    move_matrix(m, changed->down_proj != NULL, s->dtype, &layer->down_proj, C, I);
    move_tensor(m, changed->input_layernorm != NULL, &layer->input_layernorm, C);
    move_tensor(m, changed->post_attention_layernorm != NULL,
                &layer->post_attention_layernorm, C);
    move_tensor(m, changed->q_norm != NULL, &layer->q_norm, s->HS);
    move_tensor(m, changed->k_norm != NULL, &layer->k_norm, s->HS);
}

/* Moves all replaced tensors. weights begins as a copy of the model's table. */
static void
move_changed(struct moving *m, const struct device_shape *s,
             const struct qe_weights *changed, struct device_weights *weights)
{
    move_tensor(m, changed->embed_tokens != NULL && s->embeds && !s->host_table,
                &weights->embed_tokens, (size_t)s->V * s->C);
    move_tensor(m, changed->norm != NULL, &weights->norm, s->C);
    for (int l = 0; l < s->L; l++) {
        struct device_layer layer = weights->layers[l];
        move_layer(m, s, &changed->layers[s->first_layer + l], &layer);
        if (m->memory != NULL) {
            weights->layers[l] = layer;
        }
    }
}

size_t
adapter_bytes(const struct qe_weights *changed, const struct device_weights *own,
              const struct device_shape *shape)
{
    struct device_weights weights = *own; /* its layers are not written to */
    struct moving moving = {};

    move_changed(&moving, shape, changed, &weights);
    return moving.used;
}

/* Allocates memory for the replaced tensors, filled with the model's values; a table of
 * embeddings in host memory is replaced as a whole. */
static int
open_table(const struct qe_weights *changed, const struct device_shape *shape,
           struct device_weights *weights, struct qe_error *err)
{
    struct moving moving = {};

    CUDA_TRY(err, cudaMalloc(&weights->memory, weights->n_bytes));
    CUDA_TRY(err, cudaStreamCreateWithFlags(&moving.stream, cudaStreamNonBlocking));
    moving.memory = weights->memory;
    move_changed(&moving, shape, changed, weights);
    cudaError_t drained = cudaStreamSynchronize(moving.stream);
    cudaStreamDestroy(moving.stream);
    CUDA_TRY(err, moving.status);
    CUDA_TRY(err, drained);
    return changed->embed_tokens != NULL && shape->host_table
               ? host_table_open(shape, weights, err)
               : 0;
}

int
adapters_add(struct adapters *adapters, const struct qe_weights *changed,
             const struct device_weights *own, const struct device_shape *shape,
             const struct qe_config *config, int device, struct qe_error *err)
{
    const size_t table_bytes = shape->L * sizeof *own->layers;
    struct qe_model model = {}; /* of no files */
    struct adapter *adapter =
        static_cast<struct adapter *>(calloc(1, sizeof(struct adapter)));
    struct device_layer *layers =
        static_cast<struct device_layer *>(malloc(table_bytes));
    int status;

    if (adapter == NULL || layers == NULL) {
        status =
            qe_fail(err, QE_ENOMEM, "adapter: no memory for %zu bytes", table_bytes);
        goto fail;
    }
    model.config = *config;
    model.weights = *changed;
    memcpy(layers, own->layers, table_bytes);
    adapter->name = changed;
    adapter->weights = *own;
    adapter->weights.memory = NULL;
    adapter->weights.host_memory = NULL;
    adapter->weights.layers = layers;
    adapter->weights.n_bytes = adapter_bytes(changed, own, shape);
    status = open_table(changed, shape, &adapter->weights, err);
    if (status == 0) {
        status = device_weights_upload(&model, shape, device, &adapter->weights, err);
    }
    if (status < 0) {
        goto fail;
    }
    adapter->next = adapters->first;
    adapters->first = adapter; /* complete before a pass can see it */
    return 0;
fail:
    if (adapter != NULL) {
        cudaFree(adapter->weights.memory);
        cudaFreeHost(adapter->weights.host_memory);
    }
    free(layers);
    free(adapter);
    return status;
}

const struct device_weights *
adapters_find(const struct adapters *adapters, const struct qe_weights *name)
{
    for (const struct adapter *a = adapters->first; a != NULL; a = a->next) {
        if (a->name == name) {
            return &a->weights;
        }
    }
    return NULL;
}

void
adapters_close(struct adapters *adapters)
{
    struct adapter *adapter = adapters->first;

    adapters->first = NULL;
    while (adapter != NULL) {
        struct adapter *next = adapter->next;
        device_weights_close(&adapter->weights);
        free(adapter);
        adapter = next;
    }
}
