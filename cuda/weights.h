/* weights.h: tables of weights in device memory, with padded and fused matrices in the
 * compute dtype.
 *
 * C and I are padded with zeros to multiples of QE_PAD, so that every row is 16-byte
 * aligned and kernels need no code for edges. q, k and v are one matrix, and gate and
 * up are another. */
#ifndef QE_WEIGHTS_H
#define QE_WEIGHTS_H

#include "ops/kernels.h"
#include "seam.h"

#define QE_PAD 64

struct device_shape {
    enum qe_compute_dtype dtype;      /* of both operands of products */
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

/* The weights of a forward pass. */
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

/* Bytes of device memory for a model's weights. */
size_t device_weights_bytes(const struct device_shape *shape);

/* Allocates that memory. The distance between layers is constant. */
int device_weights_open(const struct device_shape *shape,
                        struct device_weights *weights, struct qe_error *err);

/* Fills the table from the model's files. Tensors that are NULL in the model keep their
 * content. */
int device_weights_upload(const struct qe_model *model,
                          const struct device_shape *shape, int device,
                          const struct device_weights *weights, struct qe_error *err);

/* Accepts a zeroed or half-opened table. */
void device_weights_close(struct device_weights *weights);

#endif
