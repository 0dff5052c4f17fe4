/* gemm.h: the matrix products of a layer, each by the fastest plan that gives the
 * canonical bits.
 *
 * A plan is a cuBLASLt algorithm or one of our own kernels, chosen by measurement for a
 * product and a range of row counts, and kept in a file of the user's cache. */
#ifndef QE_GEMM_H
#define QE_GEMM_H

#include "ops/kernels.h"
#include "products/linear_shape.h"
#include "products/stream_plan.h"
#include "seam.h"

/* The operands of a trial: buffers that may be overwritten, and the weights of several
 * layers, used in turns so that they come from memory rather than from a cache. */
struct linear_trial {
    struct operand x;       /* (max_rows, ldx)     */
    void *y;                /* (max_rows, ldy)     */
    struct operand weights; /* of layer 0          */
    size_t layer_bytes;     /* to the next layer's */
    int n_layers, max_rows;
};

struct gemm;

/* cache_folder may be NULL, and need not exist. Runs a few products on the stream. */
int gemm_open(const struct linear_shape shapes[N_LINEARS], const char *cache_folder,
              struct stream stream, struct gemm **gemm, struct qe_error *err);

/* Chooses a plan for m rows of a product, unless it has one. */
int gemm_prepare(struct gemm *gemm, enum qe_linear linear, int m,
                 const struct linear_trial *trial, struct stream stream,
                 struct qe_error *err);

/* Writes new plans, if any, to the cache. Failures are ignored. */
void gemm_save(struct gemm *gemm);

/* Requires gemm_prepare() for m rows. */
cudaError_t gemm_run(struct gemm *gemm, enum qe_linear linear, void *y,
                     struct operand x, struct operand w, int m, struct stream stream);

/* "", or why some product is slower than it should be: see struct qe_backend. */
const char *gemm_note(const struct gemm *gemm);

/* Accepts NULL and a half-opened gemm. */
void gemm_close(struct gemm *gemm);

#endif
