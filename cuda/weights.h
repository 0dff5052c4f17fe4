/* weights.h: tables of weights in device memory, padded and fused, their matrices in
 * the compute dtype.
 *
 * C and I are padded with zeros to multiples of QE_PAD, so that every row begins at a
 * multiple of 16 bytes and no kernel needs an edge. q, k and v are one matrix, and gate
 * and up another. */
#ifndef QE_WEIGHTS_H
#define QE_WEIGHTS_H

#include "ops/kernels.h"
#include "seam.h"

#define QE_PAD 64

struct device_shape {
    enum qe_compute_dtype dtype;      /* of what products read */
    int L, C, I, NH, NKV, HS, V;      /* C and I padded        */
    int n_columns;                    /* of C, before padding  */
    int q_width, kv_width, qkv_width; /* NH HS, NKV HS and q_width + 2 kv_width */
};

struct device_layer {
    struct operand qkv_proj;                           /* (qkv_width, C) */
    struct operand o_proj;                             /* (C, q_width)   */
    struct operand gate_up_proj;                       /* (2, I, C)      */
    struct operand down_proj;                          /* (C, I)         */
    float *input_layernorm, *post_attention_layernorm; /* (C)  */
    float *q_norm, *k_norm;                            /* (HS) */
};

/* What a forward pass multiplies by. */
struct device_weights {
    unsigned char *memory; /* owned; one block          */
    size_t n_bytes;
    struct device_layer *layers; /* (L) owned, in host memory */
    bf16 *embed_tokens;          /* (V, C)                    */
    float *norm;                 /* (C)                       */
    float *inv_freq;             /* (HS / 2)                  */
};

struct device_shape device_shape_of(const struct qe_config *config,
                                    enum qe_compute_dtype dtype);

static inline size_t
element_bytes(enum qe_compute_dtype dtype)
{
    return dtype == QE_FLOAT8 ? 1 : sizeof(bf16);
}

/* Device memory that a model's weights take. */
size_t device_weights_bytes(const struct device_shape *shape);

/* Takes that memory, in which layers follow each other in equal steps. */
int device_weights_open(const struct device_shape *shape,
                        struct device_weights *weights, struct qe_error *err);

/* Fills the table from the model's files; what the model has NULL for stays as it is.
 */
int device_weights_upload(const struct qe_model *model,
                          const struct device_shape *shape, int device,
                          const struct device_weights *weights, struct qe_error *err);

/* Accepts a zeroed or half-opened table. */
void device_weights_close(struct device_weights *weights);

#endif
