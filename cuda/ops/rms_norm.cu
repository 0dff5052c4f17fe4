/* rms_norm.cu: one block of threads per row, which reads it once, into registers. */
#include "arithmetic.h"
#include "ops/float8.cuh"
#include "ops/kernels.h"

#define THREADS 128

template <int CHUNKS, bool FLOAT8>
static __global__ void
__launch_bounds__(THREADS)
    rms_norm_kernel(const operand x, const float *h, const float *weight, int C,
                    int n_columns, float eps)
{
    __shared__ float partial_smem[THREADS / WARP_SIZE];
    const size_t row = blockIdx.x;
    float v[CHUNKS][8], w[CHUNKS][8];
    float squares = 0.0f, largest = 0.0f;

    release_next_grid();
#pragma unroll
    for (int i = 0; i < CHUNKS; i++) { /* weights depend on no kernel */
        int c = (i * THREADS + threadIdx.x) * 8;
        if (c < C) {
            load_8_floats(w[i], weight + c);
        }
    }
    wait_for_grid();
#pragma unroll
    for (int i = 0; i < CHUNKS; i++) {
        int c = (i * THREADS + threadIdx.x) * 8;
        if (c < C) {
            load_8_floats(v[i], h + row * C + c);
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
#pragma unroll
            for (int j = 0; j < 8; j++) {
                v[i][j] *= scale * w[i][j];
            }
            if (FLOAT8) {
                largest = largest_of(v[i], largest);
            } else {
                store_16_bytes(static_cast<bf16 *>(x.values) + row * C + c,
                               narrow(v[i]));
            }
        }
    }
    if (!FLOAT8) {
        return;
    }
    largest = block_max(largest, partial_smem);
#pragma unroll
    for (int i = 0; i < CHUNKS; i++) {
        int c = (i * THREADS + threadIdx.x) * 8;
        if (c < C) {
            *reinterpret_cast<uint2 *>(static_cast<unsigned char *>(x.values) +
                                       row * C + c) =
                narrow_float8(v[i], float8_scale(largest));
        }
    }
    if (threadIdx.x == 0) {
        x.scales[row] = float8_scale(largest);
    }
}

typedef void norm_kernel(operand, const float *, const float *, int, int, float);

template <bool FLOAT8>
static norm_kernel *
find_kernel(int C)
{
    switch (ceil_div(C / 8, THREADS)) {
    case 1:
        return rms_norm_kernel<1, FLOAT8>;
    case 2:
        return rms_norm_kernel<2, FLOAT8>;
    case 3:
        return rms_norm_kernel<3, FLOAT8>;
    case 4:
        return rms_norm_kernel<4, FLOAT8>;
    default:
        return rms_norm_kernel<8, FLOAT8>;
    }
}

cudaError_t
launch_rms_norm(struct operand x, const float *h, const float *weight, int T, int C,
                int n_columns, float eps, struct stream stream)
{
    norm_kernel *kernel =
        x.scales == NULL ? find_kernel<false>(C) : find_kernel<true>(C);

    return launch(kernel, dim3(T), THREADS, 0, stream, x, h, weight, C, n_columns, eps);
}
