/* gemm.h: Y = X W^T over weights in bf16, int8 or Q8_0, as they lie in the file.
 *
 * X, the smaller operand, is packed into panels once, and with int8 weights quantised;
 * the rows of W are read in place, each value broadcast against 16 rows of X. The work
 * is cut into tasks of (some rows of W) x (some rows of X): a task sums into its
 * worker's tile, which holds a part of the transpose of Y, and the epilogue turns it
 * into Y. */
#ifndef QE_GEMM_H
#define QE_GEMM_H

#include <stdatomic.h>

#include "isa.h"
#include "threads.h"

enum qe_epilogue {
    QE_STORE,  /* y (m, n) fp32  = x W^T                                           */
    QE_ADD,    /* y (m, n) fp32 += x W^T: the residual, added to the finished sum  */
    QE_SWIGLU, /* y (m, n) bf16  = silu(x W[0]^T) * (x W[1]^T): gate and up        */
};

struct qe_matrix {
    const void *rows; /* (n, k) bf16, int8 or Q8_0, row-major, any alignment */
    int n;
    /* Of int8: as in struct qe_int8_rows, offset_stride being the number of groups. */
    const float *scales; /* (n); NULL: rows are not int8 */
    const int32_t *offsets;
    const int16_t *sums; /* of Q8_0: as in struct qe_q8_0_rows; NULL: rows are not */
};

struct qe_gemm {
    const qe_bf16 *x; /* (m, k), rows ldx elements apart                      */
    size_t ldx;
    int m, k;
    struct qe_matrix w[3]; /* stacked along n; for QE_SWIGLU: gate, up, of equal n;
                              all in bf16, or all in int8 or Q8_0 */
    int n_w;
    enum qe_epilogue epilogue;
    void *y; /* fp32, or bf16 for QE_SWIGLU; rows ldy elements apart   */
    size_t ldy;
};

/* Bytes of scratch for products of m <= max_m rows with k <= max_k on n_threads. */
size_t qe_gemm_scratch_bytes(int max_m, int max_k, int n_threads);

/* scratch: (qe_gemm_scratch_bytes()), 64-byte aligned. Skips tasks once *cancel is not
 * 0; cancel may be NULL. */
void qe_gemm_run(const struct qe_gemm *gemm, const struct qe_isa *isa,
                 struct qe_threads *threads, unsigned char *scratch,
                 const atomic_int *cancel);

#endif
