/* weights.h: tables of weights in device memory, with padded and fused matrices in the
 * compute dtype, where memory_plan.h places them. */
#ifndef QE_WEIGHTS_H
#define QE_WEIGHTS_H

#include "memory_plan.h"
#include "ops/kernels.h"
#include "seam.h"

struct device_layer {
    struct operand qkv_proj;                           /* (qkv_width, C) */
    struct operand o_proj;                             /* (C, q_width)   */
    struct operand gate_up_proj;                       /* (2, I, C)      */
    struct operand down_proj;                          /* (C, I)         */
    float *input_layernorm, *post_attention_layernorm; /* (C)  */
    float *q_norm, *k_norm;                            /* (HS) */
};

/* The weights of a forward pass. */
struct device_weights {
    unsigned char *memory; /* owned; one block          */
    size_t n_bytes;
    unsigned char *host_memory; /* owned; pinned; NULL, or the table of embeddings */
    size_t host_bytes;
    struct device_layer *layers; /* (L) owned, in host memory; the first is the
                                    model's layer first_layer */
    bf16 *embed_tokens;          /* (V, C) in host_memory, if there is some; NULL
                                    unless the shape embeds */
    float *norm;                 /* (C)                       */
    float *inv_freq;             /* (HS / 2)                  */
    float
        *equalisers; /* (L, equaliser_floats) applied to weights as they are uploaded */
};

/* Allocates the weights' memory. The distance between layers is constant. */
int device_weights_open(const struct device_shape *shape,
                        struct device_weights *weights, struct qe_error *err);

/* Allocates pinned host memory for the table of embeddings, with zeros where it is
 * padded; the device reads it at the same address. */
int host_table_open(const struct device_shape *shape, struct device_weights *weights,
                    struct qe_error *err);

/* Fills the table from the model's files, of which it takes the shape's layers. Tensors
 * that are NULL in the model keep their content. */
int device_weights_upload(const struct qe_model *model,
                          const struct device_shape *shape, int device,
                          const struct device_weights *weights, struct qe_error *err);

/* Accepts a zeroed or half-opened table. */
void device_weights_close(struct device_weights *weights);

#endif
