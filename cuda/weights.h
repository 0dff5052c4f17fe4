/* weights.h: the model's weights in device memory, padded and fused.
 *
 * C and I are padded with zeros to multiples of QE_PAD, so that every row begins at a
 * multiple of 16 bytes and no kernel needs an edge. q, k and v are one matrix, and gate
 * and up another. */
#ifndef QE_WEIGHTS_H
#define QE_WEIGHTS_H

#include "kernels.h"
#include "seam.h"

#define QE_PAD 64

struct device_shape {
    int L, C, I, NH, NKV, HS, V;      /* C and I padded        */
    int n_columns;                    /* of C, before padding  */
    int q_width, kv_width, qkv_width; /* NH HS, NKV HS and q_width + 2 kv_width */
};

/* One block of device memory; layers follow each other in equal steps. */
struct device_weights {
    unsigned char *memory; /* owned                        */
    size_t n_bytes;
    bf16 *embed_tokens; /* (V, C)                       */
    float *norm;        /* (C)                          */
    float *inv_freq;    /* (HS / 2)                     */
    bf16 *qkv_proj;     /* of layer 0 (qkv_width, C)    */
    bf16 *o_proj;       /* (C, q_width)                 */
    bf16 *gate_up_proj; /* (2, I, C)                    */
    bf16 *down_proj;    /* (C, I)                       */
    float *input_layernorm, *post_attention_layernorm; /* (C)  */
    float *q_norm, *k_norm;                            /* (HS) */
    size_t layer_bytes; /* from one layer to the next   */
};

struct device_shape device_shape_of(const struct qe_config *config);

/* Lays the weights out from base, which may be NULL, to learn n_bytes. */
void device_weights_place(const struct device_shape *shape, unsigned char *base,
                          struct device_weights *weights);

/* Fills placed weights from the model's files. */
int
device_weights_upload(const struct qe_model *model, const struct device_shape *shape,
                      int device, struct device_weights *weights, struct qe_error *err);

/* A weight of layer 0 in another layer. */
template <typename T>
static inline const T *
in_layer(const T *first, const struct device_weights *weights, int layer)
{
    return reinterpret_cast<const T *>(reinterpret_cast<const unsigned char *>(first) +
                                       weights->layer_bytes * layer);
}

#endif
