/* swiglu.cu: silu(gate) * up, in place. */
#include "common.cuh"
#include "kernels.h"

#define THREADS 128
#define COLUMNS (8 * THREADS) /* of a row in one block of threads */

static __global__ void
__launch_bounds__(THREADS) swiglu_kernel(bf16 *gate_up, int I)
{
    const int c = blockIdx.x * COLUMNS + threadIdx.x * 8;
    bf16 *gate = gate_up + (size_t)blockIdx.y * 2 * I + c;
    float g[8], u[8];

    release_next_grid();
    wait_for_grid();
    if (c >= I) {
        return;
    }
    widen(g, load_16_bytes(gate));
    widen(u, load_16_bytes(gate + I));
#pragma unroll
    for (int i = 0; i < 8; i++) {
        g[i] = swiglu(g[i], u[i]);
    }
    store_16_bytes(gate, narrow(g));
}

cudaError_t
launch_swiglu(bf16 *gate_up, int T, int I, cudaStream_t stream)
{
    const dim3 grid((I + COLUMNS - 1) / COLUMNS, T);

    return launch(swiglu_kernel, grid, THREADS, 0, stream, gate_up, I);
}
