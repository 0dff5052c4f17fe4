/* gemm.h: the matrix products of a layer, each by the fastest plan that gives the
 * canonical bits.
 *
 * A plan is a cuBLASLt algorithm or a variant of gemm_rows.cu, chosen by measurement
 * for a product and a range of row counts, and kept in a file of the user's cache. */
#ifndef QE_GEMM_H
#define QE_GEMM_H

#include "linear.h"
#include "ops/kernels.h"
#include "products/stream_plan.h"
#include "seam.h"

/* X (m, k) times W (n, k)^T, for any m. */
struct linear_shape {
    enum qe_compute_dtype dtype; /* of X and W */
    int n, k;                    /* k a multiple of 8, n of 16 */
    size_t ldx, ldy;             /* elements                   */
    enum product_output output;
};

/* What a product may be tried on: buffers whose content is free, and weights to go
 * through, so that no cache holds them. */
struct linear_trial {
    struct operand x;       /* (max_rows, ldx)     */
    void *y;                /* (max_rows, ldy)     */
    struct operand weights; /* of layer 0          */
    size_t layer_bytes;     /* to the next layer's */
    int n_layers, max_rows;
};

struct gemm;

/* Device memory that gemm_open takes. */
size_t gemm_device_bytes(const struct linear_shape shapes[N_LINEARS]);

/* cache_folder may be NULL, and need not exist. */
int gemm_open(const struct linear_shape shapes[N_LINEARS], const char *cache_folder,
              struct gemm **gemm, struct qe_error *err);

/* Sees to it that there is a plan for m rows of a product. */
int gemm_prepare(struct gemm *gemm, enum qe_linear linear, int m,
                 const struct linear_trial *trial, cudaStream_t stream,
                 struct qe_error *err);

/* Writes new plans, if any, to the cache. A failure is no one's concern. */
void gemm_save(struct gemm *gemm);

/* Needs a plan. */
cudaError_t gemm_run(struct gemm *gemm, enum qe_linear linear, void *y,
                     struct operand x, struct operand w, int m, cudaStream_t stream);

/* Accepts NULL and a half-opened one. */
void gemm_close(struct gemm *gemm);

#endif
