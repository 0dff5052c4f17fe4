/* quantize_layer.c: the stream of mean squares is all that goes from layer to layer. */
#include "quantize_layer.h"

#include <stdlib.h>
#include <string.h>

/* Moments of which stream is a copy; *memory is the caller's to free. NULL stream: not
 * copied. */
static int
open_moments(const struct qe_config *c, const double *stream,
             struct qe_moments *moments, double **memory, struct qe_error *err)
{
    *memory = malloc(qe_moments_doubles(c) * sizeof **memory);
    if (*memory == NULL) {
        return qe_fail(err, QE_ENOMEM, "int8: no memory to equalise channels");
    }
    *moments = qe_moments_at(c, *memory);
    if (stream != NULL) {
        memcpy(moments->stream, stream, (size_t)c->hidden_size * sizeof *stream);
    }
    return 0;
}

int
qe_quantize_begin(const struct qe_config *c, const void *embed_tokens, double *stream,
                  struct qe_error *err)
{
    struct qe_moments moments;
    double *memory;

    if (open_moments(c, NULL, &moments, &memory, err) < 0) {
        return err->status;
    }
    qe_equalise_begin(c, embed_tokens, &moments);
    memcpy(stream, moments.stream, (size_t)c->hidden_size * sizeof *stream);
    free(memory);
    return 0;
}

static void
divide(float *to, const float *from, const float *scales, int n)
{
    for (int i = 0; i < n; i++) {
        to[i] = from[i] / scales[i];
    }
}

int
qe_quantize_layer(const struct qe_config *c, const struct qe_layer *layer,
                  double *stream, int n_threads, const struct qe_quantized_layer *out,
                  struct qe_error *err)
{
    struct qe_equaliser e = out->equaliser;
    struct qe_rounding list[QE_N_MATRICES];
    struct qe_threads *threads;
    struct qe_moments moments;
    double *memory;

    if (open_moments(c, stream, &moments, &memory, err) < 0) {
        return err->status;
    }
    if (qe_threads_open(n_threads, &threads, err) < 0) {
        free(memory);
        return err->status;
    }
    qe_equalise_layer(c, layer, &moments, &e, threads);
    qe_int8_list(c, layer, &e, list);
    for (int i = 0; i < QE_N_MATRICES; i++) {
        list[i].values = out->values[i];
        list[i].scales = out->scales[i];
        qe_int8_round(&list[i], threads);
    }
    divide(out->input_layernorm, layer->input_layernorm, e.attention_input,
           c->hidden_size);
    divide(out->post_attention_layernorm, layer->post_attention_layernorm, e.mlp_input,
           c->hidden_size);
    memcpy(stream, moments.stream, (size_t)c->hidden_size * sizeof *stream);
    qe_threads_close(threads);
    free(memory);
    return 0;
}
