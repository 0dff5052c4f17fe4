/* quantize_layer.h: one layer after another to int8, for a model that is written to
 * files: the same equalisation and rounding, to the bit, as int8_weights.h. */
#ifndef QE_QUANTIZE_LAYER_H
#define QE_QUANTIZE_LAYER_H

#include "int8_rounding.h"

/* All arrays are the caller's. */
struct qe_quantized_layer {
    int8_t *values[QE_N_MATRICES]; /* in the order of qe_int8_list() */
    float *scales[QE_N_MATRICES];
    float *input_layernorm, *post_attention_layernorm; /* (C) divided */
    struct qe_equaliser equaliser;
};

/* stream (C) <- that of the first layer's input; embed_tokens (V, C) bf16. */
int qe_quantize_begin(const struct qe_config *config, const void *embed_tokens,
                      double *stream, struct qe_error *err);

/* Fills out, and moves stream (C) past the layer. Layers come in order. */
int qe_quantize_layer(const struct qe_config *config, const struct qe_layer *layer,
                      double *stream, int n_threads,
                      const struct qe_quantized_layer *out, struct qe_error *err);

#endif
