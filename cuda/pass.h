/* pass.h: one batch through the layers of one GPU, queued on its stream. */
#ifndef QE_PASS_H
#define QE_PASS_H

#include "device.h"

struct pass {
    struct device *gpu;
    const struct device_weights *weights; /* the batch's */
    struct layout *layout;                /* the batch's, filled */
    float *h;                             /* (T, C) the residual stream */
    float *ring;                          /* pinned; receives results */
    cudaError_t status;                   /* of the first launch that failed */
    int n_rows;               /* rows of h: tokens, and in a pruned last layer, once
                                 its keys are made, last tokens only */
    const atomic_int *cancel; /* NULL: not cancelled */
};

/* A pass of the batch in the slot's layout. A model that is split over GPUs has two
 * slots, so that one batch can arrive or leave while another is computed; the ring is
 * divided between them. */
struct pass pass_of(struct device *gpu, const struct device_weights *weights, int slot);

bool pass_cancelled(const struct pass *pass);

/* After a failure the pass runs to its end without effect. */
void pass_keep_error(struct pass *pass, cudaError_t status);

/* Queues the copy of the layout and the GPU's layers, after the embedding if the GPU
 * has the first ones. Otherwise h holds what the layers before have made. */
void pass_queue_layers(struct pass *pass);

/* Queues the same for a small layout in slot 0, and pooling if the GPU has the last
 * layers. The second of equal batches is recorded as a graph, or a later one if that
 * fails: the first loads the kernels, which a recording cannot. */
void pass_queue_small(struct pass *pass);

/* The end of the piece of results, from first on, that the ring holds at once. */
int pass_piece_end(const struct layout *layout, int first);

/* Queues the pooling of results [first, end) into the ring. */
void pass_pool(struct pass *pass, int first, int end);

/* Copies results [first, end), which the GPU has written, from the ring to callers. */
void pass_copy_vectors(const struct pass *pass, const struct qe_batch *batch, int first,
                       int end);

#endif
