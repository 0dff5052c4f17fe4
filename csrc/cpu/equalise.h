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

#include "../equaliser.h"
#include "threads.h"

/* Mean squares on their way through the layers. */
struct qe_moments {
    double *stream;          /* (C) of the residual stream                          */
    double *input;           /* (C) of a norm's output                              */
    double *inner, *other;   /* (max(I, NH * HS)) of what o and down read           */
    double *columns, *total; /* (max(C, I, NH * HS)) of columns                     */
    double *sorted;          /* (the same)                                          */
};

/* Doubles that qe_moments needs for config, and itself, carved out of as many. */
size_t qe_moments_doubles(const struct qe_config *config);
struct qe_moments qe_moments_at(const struct qe_config *config, double *memory);

/* Sets stream to that of the first layer's input. embed_tokens (V, C) bf16. */
void qe_equalise_begin(const struct qe_config *config, const void *embed_tokens,
                       struct qe_moments *moments);

/* Fills the layer's equaliser and moves the stream past it. Layers come in order. */
void qe_equalise_layer(const struct qe_config *config, const struct qe_layer *layer,
                       struct qe_moments *moments, struct qe_equaliser *equaliser,
                       struct qe_threads *threads);

/* Allocates the equalisers of all layers, n_layers times qe_equaliser_floats(), which
 * the caller frees, for a device that rounds the weights itself. */
int qe_equalise_model(const struct qe_model *model, int n_threads, float **floats,
                      struct qe_error *err);

#endif
