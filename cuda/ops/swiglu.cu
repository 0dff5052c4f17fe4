/* swiglu.cu: silu(gate) * up, in place. */
#include "arithmetic.h"
#include "ops/float8.cuh"
#include "ops/kernels.h"

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
launch_swiglu(bf16 *gate_up, int T, int I, struct stream stream)
{
    const dim3 grid(ceil_div(I, COLUMNS), T);

    return launch(swiglu_kernel, grid, THREADS, 0, stream, gate_up, I);
}

/* ---- e4m3 ---- */

#define ROW_THREADS 256
#define ROW_COLUMNS (8 * ROW_THREADS) /* of a row that all threads take at once */

/* A block holds a row in registers, so it may overwrite it. */
template <int CHUNKS>
static __global__ void
__launch_bounds__(ROW_THREADS) swiglu_float8_kernel(bf16 *gate_up, float *scales, int I)
{
    __shared__ float largest_smem[ROW_THREADS / WARP_SIZE];
    bf16 *row = gate_up + (size_t)blockIdx.x * 2 * I;
    uint4 gate[CHUNKS], up[CHUNKS];
    float g[CHUNKS][8], largest = 0.0f;

    release_next_grid();
    wait_for_grid();
#pragma unroll
    for (int i = 0; i < CHUNKS; i++) {
        int c = i * ROW_COLUMNS + threadIdx.x * 8;
        if (c < I) {
            gate[i] = load_16_bytes(row + c);
            up[i] = load_16_bytes(row + I + c);
        }
    }
#pragma unroll
    for (int i = 0; i < CHUNKS; i++) {
        if (i * ROW_COLUMNS + threadIdx.x * 8 < I) {
            float u[8];
            widen(g[i], gate[i]);
            widen(u, up[i]);
#pragma unroll
            for (int j = 0; j < 8; j++) {
                g[i][j] = swiglu(g[i][j], u[j]);
            }
            largest = largest_of(g[i], largest);
        }
    }
    largest = block_max(largest, largest_smem);
#pragma unroll
    for (int i = 0; i < CHUNKS; i++) {
        int c = i * ROW_COLUMNS + threadIdx.x * 8;
        if (c < I) {
            *reinterpret_cast<uint2 *>(reinterpret_cast<unsigned char *>(row) + c) =
                narrow_float8(g[i], float8_scale(largest));
        }
    }
    if (threadIdx.x == 0) {
        scales[blockIdx.x] = float8_scale(largest);
    }
}

cudaError_t
launch_swiglu_float8(bf16 *gate_up, float *scales, int T, int I, struct stream stream)
{
    void (*kernel)(bf16 *, float *, int);

    switch (ceil_div(I, ROW_COLUMNS)) {
    case 1:
    case 2:
        kernel = swiglu_float8_kernel<2>;
        break;
    case 3:
    case 4:
    case 5:
        kernel = swiglu_float8_kernel<5>;
        break;
    case 6:
        kernel = swiglu_float8_kernel<6>;
        break;
    default:
        kernel = swiglu_float8_kernel<16>;
        break;
    }
    return launch(kernel, dim3(T), ROW_THREADS, 0, stream, gate_up, scales, I);
}
