/* rms_norm.cu: one block of threads a row, which it reads once and keeps in registers.
 */
#include "common.cuh"
#include "kernels.h"

#define THREADS 128

template <int CHUNKS>
static __global__ void
__launch_bounds__(THREADS) rms_norm_kernel(bf16 *x, const float *h, const float *weight,
                                           int C, int n_columns, float eps)
{
    __shared__ float partial_smem[THREADS / WARP_SIZE];
    const size_t row = blockIdx.x;
    float v[CHUNKS][8];
    float squares = 0.0f;

    release_next_grid();
    wait_for_grid();
#pragma unroll
    for (int i = 0; i < CHUNKS; i++) {
        int c = (i * THREADS + threadIdx.x) * 8;
        if (c < C) {
            load_float8(v[i], h + row * C + c);
        }
    }
#pragma unroll
    for (int i = 0; i < CHUNKS; i++) {
        int c = (i * THREADS + threadIdx.x) * 8;
        for (int j = 0; j < 8 && c < C; j++) {
            squares += v[i][j] * v[i][j];
        }
    }
    squares = block_sum(squares, partial_smem);
    const float scale = rsqrtf(squares / n_columns + eps);
#pragma unroll
    for (int i = 0; i < CHUNKS; i++) {
        int c = (i * THREADS + threadIdx.x) * 8;
        if (c < C) {
            float w[8];
            load_float8(w, weight + c);
#pragma unroll
            for (int j = 0; j < 8; j++) {
                v[i][j] *= scale * w[j];
            }
            store_16_bytes(x + row * C + c, narrow(v[i]));
        }
    }
}

cudaError_t
launch_rms_norm(bf16 *x, const float *h, const float *weight, int T, int C,
                int n_columns, float eps, cudaStream_t stream)
{
    void (*kernel)(bf16 *, const float *, const float *, int, int, float);

    switch ((C / 8 + THREADS - 1) / THREADS) {
    case 1:
        kernel = rms_norm_kernel<1>;
        break;
    case 2:
        kernel = rms_norm_kernel<2>;
        break;
    case 3:
        kernel = rms_norm_kernel<3>;
        break;
    case 4:
        kernel = rms_norm_kernel<4>;
        break;
    default:
        kernel = rms_norm_kernel<8>;
        break;
    }
    return launch(kernel, dim3(T), THREADS, 0, stream, x, h, weight, C, n_columns, eps);
}
