/* model.c: finds every weight of a Qwen3 text model in its files, and checks it.
 *
 * The config determines which tensors there must be, and their shapes: a list of slots,
 * which is filled from the files. A slot that stays empty is a missing tensor, a tensor
 * that fills none is unknown, and both are errors. */
#define _DEFAULT_SOURCE
#include "model.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "arithmetic.h"
#include "config.h"
#include "floats.h"
#include "prefetch.h"
#include "weight_table.h"

#define ALIGNMENT 64    /* bytes; of every vector and rounded matrix               */
#define SHAPE_BYTES 144 /* room for the longest shape in a message                 */

const float qe_in_blocks[1] = {0.0f};

/* A place in the model for one tensor. */
struct slot {
    const struct qe_weight *weight;
    struct qe_layer *layer;         /* NULL: the weight is the model's                */
    const struct qe_tensor *tensor; /* NULL until found                               */
    const char *path;               /* borrowed: of the file it was found in          */
};

struct binding {
    struct qe_model *model;
    char prefix[QE_PREFIX_BYTES]; /* of names: "", "model.", "module.model." ...     */
    uint64_t sizes[QE_N_SIZES];
    struct slot *slots; /* (n_slots) owned                                       */
    size_t n_slots;
    struct qe_error *err;
};

/* It becomes fp32. */
static bool
is_widened(const struct slot *slot)
{
    return qe_weight_is_vector(slot->weight) || qe_weight_is_scale(slot->weight);
}

/* Of a matrix: it can't be used as it lies in the file. */
static bool
is_rounded(const struct slot *slot)
{
    return !qe_weight_is_head(slot->weight) && slot->tensor->dtype != QE_BF16 &&
           slot->tensor->dtype != QE_I8 && slot->tensor->dtype != QE_Q8_0;
}

/* The last part of a path. */
static const char *
base_name(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash == NULL ? path : slash + 1;
}

/* The slots of config, all empty. */
static int
make_slots(struct binding *binding)
{
    struct qe_model *model = binding->model;
    const struct qe_config *config = &model->config;
    size_t n_layers = (size_t)config->n_layers;

    if (qe_weight_prefix(model->files, model->n_files, binding->prefix, binding->err) <
        0) {
        return binding->err->status;
    }
    qe_weight_sizes(config, binding->sizes);
    model->weights.layers = calloc(n_layers, sizeof *model->weights.layers);
    binding->slots =
        calloc(n_layers * (QE_N_LAYER_WEIGHTS + QE_N_LAYER_MATRICES) + 2 + QE_N_HEADS,
               sizeof *binding->slots);
    if (model->weights.layers == NULL || binding->slots == NULL) {
        return qe_fail(binding->err, QE_ENOMEM, "no memory for %zu layers", n_layers);
    }
    struct slot *slot = binding->slots;
    *slot++ = (struct slot){.weight = &qe_embed_tokens};
    for (size_t i = 0; i < n_layers; i++) {
        for (size_t j = 0; j < QE_N_LAYER_WEIGHTS; j++) {
            *slot++ = (struct slot){&qe_layer_weights[j], &model->weights.layers[i],
                                    NULL, NULL};
        }
        for (size_t j = 0; j < QE_N_LAYER_MATRICES; j++) {
            *slot++ = (struct slot){&qe_layer_scales[j], &model->weights.layers[i],
                                    NULL, NULL};
        }
    }
    *slot++ = (struct slot){.weight = &qe_norm};
    for (size_t i = 0; i < QE_N_HEADS; i++) {
        *slot++ = (struct slot){.weight = &qe_heads[i]};
    }
    binding->n_slots = (size_t)(slot - binding->slots);
    return 0;
}

static void
slot_name(const struct binding *binding, const struct slot *slot,
          char name[QE_WEIGHT_NAME_BYTES])
{
    int layer =
        slot->layer == NULL ? 0 : (int)(slot->layer - binding->model->weights.layers);

    qe_weight_name(slot->weight, layer, binding->prefix, name);
}

/* "(3072, 896)" */
static void
print_shape(char text[SHAPE_BYTES], const uint64_t *shape, int n_dims)
{
    int used = snprintf(text, SHAPE_BYTES, "(");

    for (int i = 0; i < n_dims; i++) {
        used += snprintf(text + used, SHAPE_BYTES - (size_t)used, "%s%llu",
                         i == 0 ? "" : ", ", (unsigned long long)shape[i]);
    }
    snprintf(text + used, SHAPE_BYTES - (size_t)used, ")");
}

static int
check_tensor(const struct binding *binding, const struct slot *slot)
{
    const struct qe_tensor *tensor = slot->tensor;
    int n_dims = qe_weight_is_vector(slot->weight) ? 1 : 2;
    uint64_t shape[2] = {binding->sizes[slot->weight->shape[0]],
                         binding->sizes[slot->weight->shape[1]]};
    char found[SHAPE_BYTES], expected[SHAPE_BYTES];

    if (tensor->dtype == QE_OTHER ||
        (tensor->dtype == QE_I8 && slot->weight->scales == 0) ||
        (tensor->dtype == QE_Q8_0 && (n_dims == 1 || is_widened(slot)))) {
        return qe_fail(binding->err, QE_EFORMAT,
                       "%s: dtype %s, expected BF16, F16 or F32 (in %.120s); use an "
                       "unquantised copy of the model",
                       tensor->name, tensor->dtype_name, base_name(slot->path));
    }
    if (tensor->n_dims != n_dims ||
        memcmp(tensor->shape, shape, (size_t)n_dims * sizeof *shape) != 0) {
        print_shape(found, tensor->shape, tensor->n_dims);
        print_shape(expected, shape, n_dims);
        return qe_fail(binding->err, QE_EFORMAT,
                       "%s: shape %s, expected %s (in %.120s); config.json and the "
                       "weights must be of one model",
                       tensor->name, found, expected, base_name(slot->path));
    }
    return 0;
}

/* Looks for the slot's tensor in every file. */
static int
fill_slot(struct binding *binding, struct slot *slot)
{
    const struct qe_model *model = binding->model;
    char name[QE_WEIGHT_NAME_BYTES];

    slot_name(binding, slot, name);
    for (int i = 0; i < model->n_files; i++) {
        const struct qe_tensor *tensor = qe_safetensors_find(&model->files[i], name);
        if (tensor == NULL) {
            continue;
        }
        if (slot->tensor != NULL) {
            return qe_fail(
                binding->err, QE_EFORMAT,
                "%s: found in both %.120s and %.120s, expected once; download "
                "the model again into an empty folder",
                name, base_name(slot->path), base_name(model->files[i].path));
        }
        slot->tensor = tensor;
        slot->path = model->files[i].path;
        if (check_tensor(binding, slot) < 0) {
            return binding->err->status;
        }
    }
    return 0;
}

static bool
is_needed(const struct binding *binding, const struct slot *slot)
{
    return !qe_weight_is_head(slot->weight) &&
           (!qe_weight_is_scale(slot->weight) ||
            (binding->model->is_int8 && !binding->model->has_blocks));
}

/* Finds how the layers' matrices are stored: all in one way. */
static int
check_int8(struct binding *binding)
{
    const struct slot *floats = NULL, *int8 = NULL, *blocks = NULL, *scales = NULL;

    for (size_t i = 0; i < binding->n_slots; i++) {
        const struct slot *slot = &binding->slots[i];
        if (slot->tensor == NULL) {
            continue;
        }
        if (qe_weight_is_scale(slot->weight)) {
            scales = slot;
        } else if (slot->weight->scales != 0) {
            *(slot->tensor->dtype == QE_I8     ? &int8
              : slot->tensor->dtype == QE_Q8_0 ? &blocks
                                               : &floats) = slot;
        }
    }
    const struct slot *first = floats != NULL ? floats : blocks;
    const struct slot *second = int8 != NULL ? int8 : scales;
    second = second == NULL && floats != NULL ? blocks : second;
    if (first != NULL && second != NULL) {
        return qe_fail(binding->err, QE_EFORMAT,
                       "%.120s: dtype %s beside %.120s of dtype %s, expected the "
                       "layers' matrices all in I8 with their weight_scale, all in "
                       "Q8_0, or none",
                       first->tensor->name, first->tensor->dtype_name,
                       second->tensor->name, second->tensor->dtype_name);
    }
    binding->model->has_blocks = blocks != NULL;
    binding->model->is_int8 = int8 != NULL || blocks != NULL;
    return 0;
}

static size_t
count_needed(const struct binding *binding)
{
    size_t n_needed = 0;

    for (size_t i = 0; i < binding->n_slots; i++) {
        n_needed += is_needed(binding, &binding->slots[i]);
    }
    return n_needed;
}

static int
fill_slots(struct binding *binding)
{
    char first_missing[QE_WEIGHT_NAME_BYTES];
    size_t n_missing = 0;

    for (size_t i = 0; i < binding->n_slots; i++) {
        if (fill_slot(binding, &binding->slots[i]) < 0) {
            return binding->err->status;
        }
    }
    /* Of two tied tensors safetensors may store the second alone, so the table may lie
     * under the head's name; that they are tied is checked by who reads config.json. */
    struct slot *table = &binding->slots[0];
    const struct slot *lm_head = &binding->slots[binding->n_slots - QE_N_HEADS];
    if (table->tensor == NULL) {
        table->tensor = lm_head->tensor;
        table->path = lm_head->path;
    }
    if (check_int8(binding) < 0) {
        return binding->err->status;
    }
    for (size_t i = 0; i < binding->n_slots; i++) {
        const struct slot *slot = &binding->slots[i];
        if (slot->tensor == NULL && is_needed(binding, slot) && n_missing++ == 0) {
            slot_name(binding, slot, first_missing);
        }
    }
    if (n_missing > 0) {
        return qe_fail(
            binding->err, QE_EFORMAT,
            "%s: missing (%zu of %zu tensors are), in %d file(s) from %.120s; "
            "download the model again, or give its base model",
            first_missing, n_missing, count_needed(binding), binding->model->n_files,
            base_name(binding->model->files[0].path));
    }
    return 0;
}

/* Every tensor of every file must be in a slot: a weight that we would leave out, such
 * as a bias, changes what the model computes. */
static int
check_unknown(const struct binding *binding)
{
    const struct qe_model *model = binding->model;

    for (int i = 0; i < model->n_files; i++) {
        for (int j = 0; j < model->files[i].n_tensors; j++) {
            const struct qe_tensor *tensor = &model->files[i].tensors[j];
            size_t k = 0;
            while (k < binding->n_slots && binding->slots[k].tensor != tensor) {
                k++;
            }
            if (k == binding->n_slots) {
                return qe_fail(
                    binding->err, QE_EFORMAT,
                    "%.120s: unknown tensor in %.120s, expected only those of "
                    "a Qwen3 text model with %d layers",
                    tensor->name, base_name(model->files[i].path),
                    model->config.n_layers);
            }
        }
    }
    return 0;
}

/* Points the slot's member at its values, taken from the free storage or the file. */
static void
bind_slot(const struct binding *binding, const struct slot *slot, float **vectors,
          unsigned char **rounded)
{
    unsigned char *owner = slot->layer != NULL
                               ? (unsigned char *)slot->layer
                               : (unsigned char *)&binding->model->weights;
    const struct qe_tensor *tensor = slot->tensor;
    size_t n_rows = binding->sizes[slot->weight->shape[0]];
    size_t n_columns = binding->sizes[slot->weight->shape[1]];
    const void *values = tensor->data;

    if (is_widened(slot)) {
        qe_floats_to_fp32(tensor, *vectors);
        values = *vectors;
        *vectors += round_up(n_rows, ALIGNMENT / sizeof **vectors);
    } else if (is_rounded(slot)) {
        qe_floats_to_bf16(tensor, (uint16_t *)(void *)*rounded);
        values = *rounded;
        *rounded += round_up(n_rows * n_columns * sizeof(uint16_t), ALIGNMENT);
    }
    memcpy(owner + slot->weight->member, &values, sizeof values);
    if (tensor->dtype == QE_Q8_0 && slot->weight->scales != 0) {
        const float *scales = qe_in_blocks;
        memcpy(owner + slot->weight->scales, &scales, sizeof scales);
    } else if (slot->weight == &qe_embed_tokens) {
        binding->model->weights.embed_in_blocks = tensor->dtype == QE_Q8_0;
    }
}

/* Allocates what the model owns, and binds every slot. */
static int
bind_slots(struct binding *binding)
{
    struct qe_model *model = binding->model;
    size_t n_frequencies = (size_t)model->config.head_dim / 2;
    size_t vector_bytes = round_up(n_frequencies * sizeof(float), ALIGNMENT);
    size_t rounded_bytes = 0;

    for (size_t i = 0; i < binding->n_slots; i++) {
        const struct slot *slot = &binding->slots[i];
        size_t n_rows = binding->sizes[slot->weight->shape[0]];
        size_t n_columns = binding->sizes[slot->weight->shape[1]];
        if (slot->tensor != NULL && is_widened(slot)) {
            vector_bytes += round_up(n_rows * sizeof(float), ALIGNMENT);
        } else if (slot->tensor != NULL && is_rounded(slot)) {
            rounded_bytes += round_up(n_rows * n_columns * sizeof(uint16_t), ALIGNMENT);
        }
    }
    model->vectors = aligned_alloc(ALIGNMENT, vector_bytes);
    if (rounded_bytes > 0) {
        model->rounded = aligned_alloc(ALIGNMENT, rounded_bytes);
    }
    if (model->vectors == NULL || (rounded_bytes > 0 && model->rounded == NULL)) {
        return qe_fail(binding->err, QE_ENOMEM,
                       "no memory for %zu bytes of weights; a model saved as BF16 is "
                       "used where it lies in its file",
                       vector_bytes + rounded_bytes);
    }
    memset(model->vectors, 0, vector_bytes); /* kernels read past a vector's end */
    model->owned_bytes = vector_bytes + rounded_bytes;

    float *vectors = model->vectors;
    unsigned char *rounded = model->rounded;
    memcpy(vectors, model->config.rope_inv_freq, n_frequencies * sizeof *vectors);
    model->config.rope_inv_freq = vectors;
    vectors += round_up(n_frequencies, ALIGNMENT / sizeof *vectors);
    for (size_t i = 0; i < binding->n_slots; i++) {
        if (is_needed(binding, &binding->slots[i])) {
            bind_slot(binding, &binding->slots[i], &vectors, &rounded);
        }
    }
    return 0;
}

static int
open_files(struct qe_model *model, const char *const *paths, int n_paths,
           struct qe_error *err)
{
    model->files = calloc((size_t)n_paths, sizeof *model->files);
    if (model->files == NULL) {
        return qe_fail(err, QE_ENOMEM, "no memory for %d files", n_paths);
    }
    for (int i = 0; i < n_paths; i++) {
        if (qe_safetensors_open(paths[i], &model->files[i], err) < 0) {
            return err->status;
        }
        model->n_files++;
        model->mapped_bytes += model->files[i].map_bytes;
    }
    return 0;
}

/* Binds the weights in model's open files. On failure everything is closed. */
static int
bind_model(struct qe_model *model, struct qe_error *err)
{
    struct binding binding = {.model = model, .err = err};
    bool ok = make_slots(&binding) == 0 && fill_slots(&binding) == 0 &&
              check_unknown(&binding) == 0 && bind_slots(&binding) == 0;

    free(binding.slots);
    if (!ok) {
        qe_model_close(model);
        return err->status;
    }
    return 0;
}

int
qe_model_open(const struct qe_config *config, const char *const *paths, int n_paths,
              struct qe_model *model, struct qe_error *err)
{
    *model = (struct qe_model){.config = *config};
    if (n_paths < 1) {
        qe_fail(err, QE_EVALUE, "%d weight files, expected at least 1", n_paths);
        goto fail;
    }
    if (qe_config_check(config, err) < 0 ||
        open_files(model, paths, n_paths, err) < 0) {
        goto fail;
    }
    return bind_model(model, err);

fail:
    qe_model_close(model);
    return err->status;
}

int
qe_model_open_places(const struct qe_config *config, const char *path,
                     const struct qe_place *places, int n_places,
                     struct qe_model *model, struct qe_error *err)
{
    *model = (struct qe_model){.config = *config};
    model->files = calloc(1, sizeof *model->files);
    if (model->files == NULL) {
        return qe_fail(err, QE_ENOMEM, "no memory for a file");
    }
    if (qe_config_check(config, err) < 0 ||
        qe_safetensors_open_places(path, places, n_places, model->files, err) < 0) {
        qe_model_close(model);
        return err->status;
    }
    model->n_files = 1;
    model->mapped_bytes = model->files->map_bytes;
    return bind_model(model, err);
}

void
qe_model_unload(struct qe_model *model)
{
    const struct qe_model shape = {.config = model->config,
                                   .weights.layers = model->weights.layers};

    qe_prefetch_close(model->prefetch);
    for (int i = 0; i < model->n_files; i++) {
        qe_safetensors_close(&model->files[i]);
    }
    free(model->files);
    free(model->vectors);
    free(model->rounded);
    *model = shape;
    model->config.rope_inv_freq = NULL;
    if (model->weights.layers != NULL) {
        memset(model->weights.layers, 0,
               (size_t)model->config.n_layers * sizeof *model->weights.layers);
    }
}

void
qe_model_close(struct qe_model *model)
{
    qe_model_unload(model);
    free(model->weights.layers);
    *model = (struct qe_model){0};
}
