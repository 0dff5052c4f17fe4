/* quantize.cu: rounds rows of bf16 to e4m3, with one scale per row. */
#include "ops/float8.cuh"
#include "ops/kernels.h"

#define THREADS 128

static __global__ void
__launch_bounds__(THREADS)
    quantize_kernel(const operand y, const bf16 *x, int n, size_t ldx)
{
    __shared__ float largest_smem[THREADS / WARP_SIZE];
    const bf16 *row = x + blockIdx.x * ldx;
    unsigned char *to = static_cast<unsigned char *>(y.values) + (size_t)blockIdx.x * n;
    float largest = 0.0f, v[8];

    release_next_grid();
    wait_for_grid();
    for (int i = threadIdx.x * 8; i < n; i += THREADS * 8) {
        widen(v, load_16_bytes(row + i));
        largest = largest_of(v, largest);
    }
    largest = block_max(largest, largest_smem);
    for (int i = threadIdx.x * 8; i < n; i += THREADS * 8) {
        widen(v, load_16_bytes(row + i));
        *reinterpret_cast<uint2 *>(to + i) = narrow_float8(v, float8_scale(largest));
    }
    if (threadIdx.x == 0) {
        y.scales[blockIdx.x] = float8_scale(largest);
    }
}

cudaError_t
launch_quantize(struct operand y, const bf16 *x, int T, int n, size_t ldx,
                struct stream stream)
{
    return launch(quantize_kernel, dim3(T), THREADS, 0, stream, y, x, n, ldx);
}
