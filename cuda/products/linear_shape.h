/* linear_shape.h: the shape of a matrix product and the device memory that its plans
 * need, in plain C++. */
#ifndef QE_LINEAR_SHAPE_H
#define QE_LINEAR_SHAPE_H

#include "linear.h"
#include "seam.h"

/* The output of a product x (m, k) w (n, k)^T. */
enum product_output {
    PRODUCT_STORE,  /* y (m, n) bf16 = product                                     */
    PRODUCT_ADD,    /* y (m, n) fp32 += product                                    */
    PRODUCT_SWIGLU, /* y (m, 2, n / 2) bf16: silu(gate) * up replaces gate; up is
                       undefined                                                   */
};

/* X (m, k) times W (n, k)^T, for any m. */
struct linear_shape {
    enum qe_compute_dtype dtype; /* of X and W */
    int n, k;                    /* k a multiple of 8, in int8 of 32; n of 16 */
    size_t ldx, ldy;             /* elements                                  */
    enum product_output output;
};

/* Memory for cuBLASLt. */
#define WORKSPACE_BYTES ((size_t)32 << 20)
/* Rows that are compared with the canonical plan at a time. */
#define CHECKED_ROWS 128
/* The product on which choose_canonical() tries cuBLASLt. */
#define PROBE_ROWS 2048
#define PROBE_WIDTH 1024
#define BF16_BYTES 2

static inline size_t
output_bytes(const struct linear_shape *shape)
{
    return shape->output == PRODUCT_ADD ? sizeof(float) : BF16_BYTES;
}

/* For rows of the canonical plan. */
static inline size_t
canonical_bytes(const struct linear_shape shapes[N_LINEARS])
{
    size_t row_bytes = PROBE_WIDTH * BF16_BYTES;

    for (int i = 0; i < N_LINEARS; i++) {
        const size_t n_bytes = shapes[i].ldy * output_bytes(&shapes[i]);
        row_bytes = n_bytes > row_bytes ? n_bytes : row_bytes;
    }
    return row_bytes * 2 * CHECKED_ROWS;
}

/* For one matrix of int8 in bf16. */
static inline size_t
expanded_bytes(const struct linear_shape shapes[N_LINEARS])
{
    size_t largest = 0;

    for (int i = 0; i < N_LINEARS; i++) {
        const size_t n_bytes = (size_t)shapes[i].n * shapes[i].k * BF16_BYTES;
        largest =
            shapes[i].dtype == QE_INT8_WEIGHTS && n_bytes > largest ? n_bytes : largest;
    }
    return largest;
}

/* Device memory that gemm_open takes. */
static inline size_t
gemm_device_bytes(const struct linear_shape shapes[N_LINEARS])
{
    return WORKSPACE_BYTES + canonical_bytes(shapes) + expanded_bytes(shapes);
}

#endif
