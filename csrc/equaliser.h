/* equaliser.h: the powers of two by which the channels of a layer are scaled before
 * weights are rounded to int8, on every device. cpu/equalise.h chooses them. */
#ifndef QE_EQUALISER_H
#define QE_EQUALISER_H

#include "model.h"

/* What a layer's columns are multiplied by; powers of two. */
struct qe_equaliser {
    float *attention_input; /* (C) columns of q, k and v; input_layernorm is divided */
    float *mlp_input;       /* (C) columns of gate and up; the norm before is divided */
    float *value;           /* (NKV * HS) rows of v are divided                      */
    float *output;     /* (NH * HS) columns of o: value, for each head of a group */
    float *activation; /* (I) columns of down; rows of up are divided           */
};

/* Floats of one layer's. */
static inline size_t
qe_equaliser_floats(const struct qe_config *c)
{
    return (size_t)2 * c->hidden_size +
           (size_t)(c->n_heads + c->n_kv_heads) * c->head_dim + c->intermediate_size;
}

/* Carves one out of that many floats. */
static inline struct qe_equaliser
qe_equaliser_at(const struct qe_config *c, float *memory)
{
    struct qe_equaliser e;

    e.attention_input = memory;
    e.mlp_input = e.attention_input + c->hidden_size;
    e.value = e.mlp_input + c->hidden_size;
    e.output = e.value + c->n_kv_heads * c->head_dim;
    e.activation = e.output + c->n_heads * c->head_dim;
    return e;
}

#endif
