/* pool.cu: final norm of rows of the residual stream, cut to the requested dim and
 * divided by their L2 norm. The rows are few, so sums are fp64, as on the CPU. */
#include "common.cuh"
#include "ops/kernels.h"

#define THREADS 256

static __global__ void
__launch_bounds__(THREADS)
    pool_kernel(float *out, const float *h, const pool_row *rows, const float *weight,
                int C, int n_columns, float eps)
{
    __shared__ double partial_smem[THREADS / WARP_SIZE];

    release_next_grid();
    wait_for_grid();
    const pool_row row = rows[blockIdx.x];
    const float *x = h + (size_t)row.row * C;
    float *y = out + row.first;
    double squares = 0.0, out_squares = 0.0;

    for (int c = threadIdx.x; c < n_columns; c += THREADS) {
        squares += (double)x[c] * x[c];
    }
    squares = block_sum(squares, partial_smem);
    const float scale = (float)(1.0 / sqrt(squares / n_columns + eps));
    for (int c = threadIdx.x; c < row.n_out; c += THREADS) {
        float v = x[c] * scale * weight[c];
        out_squares += (double)v * v;
    }
    out_squares = block_sum(out_squares, partial_smem);
    float inverse = 1.0f;
    if (!isfinite(squares) || !isfinite(out_squares)) {
        inverse = __int_as_float(0x7fffffff); /* NaN */
    } else if (row.unit) {
        /* The lower bound is that of torch.nn.functional.normalize. */
        inverse = (float)(1.0 / fmax(sqrt(out_squares), 1e-12));
    }
    for (int c = threadIdx.x; c < row.n_out; c += THREADS) {
        y[c] = x[c] * scale * weight[c] * inverse;
    }
}

cudaError_t
launch_pool(float *out, const float *h, const pool_row *rows, const float *weight,
            int n_rows, int C, int n_columns, float eps, struct stream stream)
{
    return launch(pool_kernel, dim3(n_rows), THREADS, 0, stream, out, h, rows, weight,
                  C, n_columns, eps);
}
