/* equalise.h: channels scaled by powers of two, so that rounding to int8 loses less.
 *
 * SmoothQuant (arXiv 2211.10438) with alpha 1/2: a channel of activations is divided,
 * and the columns of weights that read it are multiplied, by the root of the
 * activations' size over the columns' size. Between products there is always a weight
 * that takes the division: a norm's, a row of v_proj for o_proj, a row of up_proj for
 * down_proj. Powers of two change no bit of the fp32 result. Channels within a factor
 * of two of the median are left alone.
 *
 * Sizes are root mean squares. Those of activations follow from the weights alone: mean
 * squares are propagated through the layers as if channels were independent. */
#ifndef QE_EQUALISE_H
#define QE_EQUALISE_H

#include "../model.h"
#include "threads.h"

/* What a layer's columns are multiplied by; powers of two. */
struct qe_equaliser {
    float *attention_input; /* (C) columns of q, k and v; input_layernorm is divided */
    float *value;           /* (NKV * HS) rows of v are divided                      */
    float *output;     /* (NH * HS) columns of o: value, for each head of a group */
    float *mlp_input;  /* (C) columns of gate and up; the norm before is divided */
    float *activation; /* (I) columns of down; rows of up are divided           */
};

/* Mean squares on their way through the layers. */
struct qe_moments {
    double *stream;          /* (C) of the residual stream                          */
    double *input;           /* (C) of a norm's output                              */
    double *inner, *other;   /* (max(I, NH * HS)) of what o and down read           */
    double *columns, *total; /* (max(C, I, NH * HS)) of columns                     */
    double *sorted;          /* (the same)                                          */
};

/* Floats and doubles that qe_equaliser and qe_moments need for config. */
size_t qe_equaliser_floats(const struct qe_config *config);
size_t qe_moments_doubles(const struct qe_config *config);

/* Carve both out of memory of those sizes. */
struct qe_equaliser qe_equaliser_at(const struct qe_config *config, float *memory);
struct qe_moments qe_moments_at(const struct qe_config *config, double *memory);

/* Sets stream to that of the first layer's input. embed_tokens (V, C) bf16. */
void qe_equalise_begin(const struct qe_config *config, const void *embed_tokens,
                       struct qe_moments *moments);

/* Fills the layer's equaliser and moves the stream past it. Layers come in order. */
void qe_equalise_layer(const struct qe_config *config, const struct qe_layer *layer,
                       struct qe_moments *moments, struct qe_equaliser *equaliser,
                       struct qe_threads *threads);

#endif
