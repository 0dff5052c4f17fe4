/* float8.cuh: rounding of a row to e4m3. Its scale is its largest magnitude divided by
 * e4m3's largest. */
#ifndef QE_FLOAT8_CUH
#define QE_FLOAT8_CUH

#include <cuda_fp8.h>

#include "common.cuh"

#define FLOAT8_MAX 448.0f
/* The least largest magnitude: the scale of a smaller row would have no finite inverse.
 */
#define FLOAT8_SMALLEST 1e-30f

/* Every thread of the block gets the largest. largest_smem (blockDim.x / 32). */
static __device__ __forceinline__ float
block_max(float x, float *largest_smem)
{
    for (int step = WARP_SIZE / 2; step > 0; step /= 2) {
        x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, step));
    }
    __syncthreads(); /* a maximum before this one may still be read */
    if (threadIdx.x % WARP_SIZE == 0) {
        largest_smem[threadIdx.x / WARP_SIZE] = x;
    }
    __syncthreads(); /* all warps have theirs */
    x = largest_smem[0];
    for (int i = 1; i < (int)blockDim.x / WARP_SIZE; i++) {
        x = fmaxf(x, largest_smem[i]);
    }
    return x;
}

static __device__ __forceinline__ float
largest_of(const float (&x)[8], float largest)
{
#pragma unroll
    for (int i = 0; i < 8; i++) {
        largest = fmaxf(largest, fabsf(x[i]));
    }
    return largest;
}

/* The scale of a row. Zeros stay zeros, NaN stays NaN, and infinity becomes NaN. */
static __device__ __forceinline__ float
float8_scale(float largest)
{
    return fmaxf(largest, FLOAT8_SMALLEST) / FLOAT8_MAX;
}

static __device__ __forceinline__ uint2
narrow_float8(const float (&x)[8], float scale)
{
    const float factor = 1.0f / scale;
    uint32_t pairs[4];

#pragma unroll
    for (int i = 0; i < 4; i++) {
        pairs[i] = __nv_cvt_float2_to_fp8x2(
            make_float2(x[2 * i] * factor, x[2 * i + 1] * factor), __NV_SATFINITE,
            __NV_E4M3);
    }
    return make_uint2(pairs[0] | pairs[1] << 16, pairs[2] | pairs[3] << 16);
}

#endif
