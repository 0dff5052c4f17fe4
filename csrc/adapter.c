/* adapter.c: a copy of the model's table with some pointers replaced. */
#include "adapter.h"

#include <stdlib.h>
#include <string.h>

#include "weight_table.h"

#define ALIGNMENT 64     /* bytes; of every vector                                    */
#define PADDED_FLOATS 32 /* a vector's length is rounded up to this, with zeros */

/* Which weight a tensor is, and of which layer. */
struct place {
    const struct qe_weight *weight; /* NULL: of none */
    int layer;
};

static struct place
find_place(const struct qe_config *config, const char *tensor_name)
{
    char name[QE_WEIGHT_NAME_BYTES];
    const struct qe_weight *others[] = {&qe_embed_tokens, &qe_norm};

    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        if (strcmp(others[i]->name, tensor_name) == 0) {
            return (struct place){others[i], 0};
        }
    }
    for (int layer = 0; layer < config->n_layers; layer++) {
        for (int i = 0; i < QE_N_LAYER_WEIGHTS; i++) {
            qe_weight_name(&qe_layer_weights[i], layer, "", name);
            if (strcmp(name, tensor_name) == 0) {
                return (struct place){&qe_layer_weights[i], layer};
            }
        }
    }
    return (struct place){NULL, 0};
}

static int
check_tensor(const struct qe_config *config, const struct qe_tensor *tensor,
             const struct place *place, struct qe_error *err)
{
    uint64_t sizes[QE_N_SIZES];

    if (place->weight == NULL) {
        return qe_fail(err, QE_EVALUE, "adapter: %.120s is no weight of this model",
                       tensor->name);
    }
    qe_weight_sizes(config, sizes);
    bool vector = qe_weight_is_vector(place->weight);
    uint64_t n_rows = sizes[place->weight->shape[0]];
    uint64_t n_columns = sizes[place->weight->shape[1]];
    if (tensor->dtype != (vector ? QE_F32 : QE_BF16) ||
        tensor->n_dims != (vector ? 1 : 2) || tensor->shape[0] != n_rows ||
        (!vector && tensor->shape[1] != n_columns)) {
        return qe_fail(err, QE_EVALUE, "adapter: %.120s, expected %s of %s",
                       tensor->name, vector ? "a vector" : "a matrix",
                       vector ? "float32" : "bf16, with the shape of the model's own");
    }
    return 0;
}

static size_t
vector_bytes(const struct qe_tensor *tensor)
{
    size_t n = ((size_t)tensor->shape[0] + PADDED_FLOATS - 1) / PADDED_FLOATS;

    return n * PADDED_FLOATS * sizeof(float);
}

static int
copy_table(const struct qe_model *model, struct qe_adapter *adapter,
           struct qe_error *err)
{
    size_t n_bytes = (size_t)model->config.n_layers * sizeof(struct qe_layer);

    adapter->weights = model->weights;
    adapter->weights.layers = malloc(n_bytes);
    if (adapter->weights.layers == NULL) {
        return qe_fail(err, QE_ENOMEM, "adapter: no memory for %zu bytes", n_bytes);
    }
    memcpy(adapter->weights.layers, model->weights.layers, n_bytes);
    return 0;
}

static int
alloc_vectors(const struct qe_tensor *tensors, int n_tensors,
              struct qe_adapter *adapter, struct qe_error *err)
{
    size_t n_bytes = 0;

    for (int i = 0; i < n_tensors; i++) {
        n_bytes += tensors[i].dtype == QE_F32 ? vector_bytes(&tensors[i]) : 0;
        adapter->owned_bytes += tensors[i].n_bytes;
    }
    if (n_bytes == 0) {
        return 0;
    }
    adapter->vectors = aligned_alloc(ALIGNMENT, n_bytes);
    if (adapter->vectors == NULL) {
        return qe_fail(err, QE_ENOMEM, "adapter: no memory for %zu bytes", n_bytes);
    }
    memset(adapter->vectors, 0, n_bytes);
    return 0;
}

int
qe_adapter_open(const struct qe_model *model, const struct qe_tensor *tensors,
                int n_tensors, struct qe_adapter *adapter, struct qe_error *err)
{
    *adapter = (struct qe_adapter){0};
    for (int i = 0; i < n_tensors; i++) {
        struct place place = find_place(&model->config, tensors[i].name);
        if (check_tensor(&model->config, &tensors[i], &place, err) < 0) {
            return err->status;
        }
    }
    if (copy_table(model, adapter, err) < 0 ||
        alloc_vectors(tensors, n_tensors, adapter, err) < 0) {
        qe_adapter_close(adapter);
        return err->status;
    }
    float *vector = adapter->vectors;
    for (int i = 0; i < n_tensors; i++) {
        struct place place = find_place(&model->config, tensors[i].name);
        bool in_layer = place.weight != &qe_embed_tokens && place.weight != &qe_norm;
        unsigned char *owner =
            in_layer ? (unsigned char *)&adapter->weights.layers[place.layer]
                     : (unsigned char *)&adapter->weights;
        const void *values = tensors[i].data;
        if (qe_weight_is_vector(place.weight)) {
            memcpy(vector, tensors[i].data, tensors[i].n_bytes);
            values = vector;
            vector += vector_bytes(&tensors[i]) / sizeof *vector;
        }
        memcpy(owner + place.weight->member, &values, sizeof values);
        if (place.weight == &qe_embed_tokens) {
            adapter->weights.embed_in_blocks = false;
        } else if (place.weight->scales !=
                   0) { /* the model's may be int8, this is bf16 */
            const float *none = NULL;
            memcpy(owner + place.weight->scales, &none, sizeof none);
        }
    }
    return 0;
}

void
qe_adapter_close(struct qe_adapter *adapter)
{
    free(adapter->weights.layers);
    free(adapter->vectors);
    *adapter = (struct qe_adapter){0};
}
