/* layer.h: a layer's weights as a forward pass on the CPU reads them, in bf16 or int8.
 */
#ifndef QE_CPU_LAYER_H
#define QE_CPU_LAYER_H

#include "../model.h"
#include "gemm.h"

struct qe_cpu_layer {
    const float *input_layernorm, *post_attention_layernorm; /* (C)  */
    const float *q_norm, *k_norm;                            /* (HS) */
    struct qe_matrix qkv[3];     /* (NH * HS, C), (NKV * HS, C), (NKV * HS, C) */
    struct qe_matrix o[1];       /* (C, NH * HS)                               */
    struct qe_matrix gate_up[2]; /* (I, C), (I, C)                             */
    struct qe_matrix down[1];    /* (C, I)                                     */
};

/* All in bf16, where the layer has it. */
static inline struct qe_cpu_layer
qe_cpu_layer(const struct qe_config *c, const struct qe_layer *layer)
{
    const int q_width = c->n_heads * c->head_dim;
    const int kv_width = c->n_kv_heads * c->head_dim;

    return (struct qe_cpu_layer){
        .input_layernorm = layer->input_layernorm,
        .post_attention_layernorm = layer->post_attention_layernorm,
        .q_norm = layer->q_norm,
        .k_norm = layer->k_norm,
        .qkv = {{.rows = layer->q_proj, .n = q_width},
                {.rows = layer->k_proj, .n = kv_width},
                {.rows = layer->v_proj, .n = kv_width}},
        .o = {{.rows = layer->o_proj, .n = c->hidden_size}},
        .gate_up = {{.rows = layer->gate_proj, .n = c->intermediate_size},
                    {.rows = layer->up_proj, .n = c->intermediate_size}},
        .down = {{.rows = layer->down_proj, .n = c->hidden_size}},
    };
}

#endif
