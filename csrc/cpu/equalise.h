/* equalise.h: scales channels by powers of two, which reduces the error of int8.
 *
 * This is SmoothQuant (arXiv 2211.10438) with alpha 1/2: each channel of activations is
 * divided by s, and the columns of weights that read it are multiplied by s, where s is
 * the square root of the activations' magnitude over the columns' magnitude. The
 * division is folded into the weight that produces the channel: a norm's weight, a row
 * of v_proj for o_proj, a row of up_proj for down_proj. Scales are powers of two, so
 * fp32 results keep their bits. Channels whose scale is within a factor of two of the
 * median's are not scaled.
 *
 * Magnitudes are root mean squares. Those of activations are estimated from the weights
 * alone, without calibration texts: mean squares are propagated through the layers as
 * if channels were independent. */
#ifndef QE_EQUALISE_H
#define QE_EQUALISE_H

#include "../equaliser.h"
#include "threads.h"

/* Mean squares, propagated through the layers. */
struct qe_moments {
    double *stream;          /* (C) of the residual stream                          */
    double *input;           /* (C) of a norm's output                              */
    double *inner, *other;   /* (max(I, NH * HS)) of the inputs of o and down       */
    double *columns, *total; /* (max(C, I, NH * HS)) of weight columns              */
    double *sorted;          /* (max(C, I, NH * HS)) to find the median             */
};

/* The number of doubles that qe_moments needs, and qe_moments in such memory. */
size_t qe_moments_doubles(const struct qe_config *config);
struct qe_moments qe_moments_at(const struct qe_config *config, double *memory);

/* Sets stream to the mean squares of the first layer's input. embed_tokens (V, C) bf16.
 */
void qe_equalise_begin(const struct qe_config *config, const void *embed_tokens,
                       struct qe_moments *moments);

/* Fills the layer's equaliser and propagates the stream through the layer. Must be
 * called for the layers in order. */
void qe_equalise_layer(const struct qe_config *config, const struct qe_layer *layer,
                       struct qe_moments *moments, struct qe_equaliser *equaliser,
                       struct qe_threads *threads);

/* Allocates and fills the equalisers of all layers, n_layers times
 * qe_equaliser_floats(), for a device that rounds the weights itself. The caller frees
 * *floats. */
int qe_equalise_model(const struct qe_model *model, int n_threads, float **floats,
                      struct qe_error *err);

#endif
