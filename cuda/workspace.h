/* workspace.h: the buffers that a forward pass on the GPU writes, allocated once. */
#ifndef QE_WORKSPACE_H
#define QE_WORKSPACE_H

#include "memory_plan.h"
#include "products/gemm.h"
#include "weights.h"

struct workspace {
    int max_rows; /* T: the larger of batch_tokens and max_length                  */
    int mlp_rows; /* M: rows whose gate and up exist at a time                    */

    int second_rows; /* S */

    float *h;        /* (T, C) the residual stream                                 */
    float *second_h; /* (S, C) another batch's; NULL unless the model is split      */
    struct operand
        x;         /* (T, C) normed h; in e4m3 attention's output, (T, q_width), too */
    bf16 *qkv;     /* (T, NH + 2 NKV, HS) attention's output replaces q          */
    bf16 *gate_up; /* (M, 2, I) silu(gate) * up replaces gate; in e4m3 its first half */
    float *cos_sin; /* (max_length, 2, HS / 2)                                    */
    float *ring;    /* (RING_FLOATS) pinned; results on their way to callers       */

    unsigned char *memory; /* owned; holds all but the ring                       */
    size_t n_bytes;
};

#define RING_FLOATS ((size_t)4 << 20)
#define SLOT_RING_FLOATS (RING_FLOATS / 2) /* if two batches share it */

int workspace_open(const struct device_shape *shape, int batch_tokens, int max_length,
                   struct workspace *ws, struct qe_error *err);

/* Accepts a zeroed or half-opened workspace. */
void workspace_close(struct workspace *ws);

/* A trial on the product's own buffers, which hold nothing between passes. */
struct linear_trial workspace_trial(const struct workspace *ws,
                                    const struct device_shape *shape,
                                    const struct device_weights *weights,
                                    enum qe_linear which);

#endif
