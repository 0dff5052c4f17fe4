/* weight_table.h: the names and shapes of the tensors of a Qwen3 text model. */
#ifndef QE_WEIGHT_TABLE_H
#define QE_WEIGHT_TABLE_H

#include <stdbool.h>

#include "model.h"

#define QE_WEIGHT_NAME_BYTES 112 /* room for the longest name                       */
#define QE_PREFIX_BYTES 48       /* ... and for the longest prefix of names         */

/* The dimensions of shapes: one element, or as in struct qe_config; Q and KV are
 * numbers of heads times head_dim. */
enum qe_size { QE_NONE, QE_ONE, QE_C, QE_I, QE_Q, QE_KV, QE_HS, QE_V, QE_N_SIZES };

struct qe_weight {
    const char *name;
    enum qe_size shape[2]; /* a vector's second is QE_NONE                          */
    size_t member;         /* offset of its pointer in struct qe_layer or qe_weights */
    size_t scales;         /* offset of that to the scales of a layer's matrix, or 0 */
};

#define QE_N_LAYER_WEIGHTS 11
#define QE_N_LAYER_MATRICES 7
#define QE_N_HEADS 2

extern const struct qe_weight qe_layer_weights[QE_N_LAYER_WEIGHTS];
extern const struct qe_weight qe_embed_tokens, qe_norm;

/* Scales of matrices in int8: a layer has all of them or none. */
extern const struct qe_weight qe_layer_scales[QE_N_LAYER_MATRICES];

/* Output heads: they may be absent, have no prefix and are not bound, because no pass
 * computes logits. Python reads the part that a reranker needs. */
extern const struct qe_weight qe_heads[QE_N_HEADS];

void qe_weight_sizes(const struct qe_config *config, uint64_t sizes[QE_N_SIZES]);

bool qe_weight_is_vector(const struct qe_weight *weight);

bool qe_weight_is_scale(const struct qe_weight *weight);

bool qe_weight_is_head(const struct qe_weight *weight);

/* "model.layers.3.mlp.up_proj.weight"; layer counts for a layer's weight only. A head
 * lies beside the "model." of the others: with "module.model.",
 * "module.lm_head.weight". */
void qe_weight_name(const struct qe_weight *weight, int layer, const char *prefix,
                    char name[QE_WEIGHT_NAME_BYTES]);

/* Finds what stands before every name: that of a tensor which each model has tells it.
 * Without that tensor it is "model." if any name begins so. Prefixes that training and
 * compiling put there ("module.", "_orig_mod.", "base_model.") are accepted. */
int qe_weight_prefix(const struct qe_safetensors *files, int n_files,
                     char prefix[QE_PREFIX_BYTES], struct qe_error *err);

#endif
