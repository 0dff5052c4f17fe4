/* stream_output.cuh: the output of the kernels for products of few rows. */
#ifndef QE_STREAM_OUTPUT_CUH
#define QE_STREAM_OUTPUT_CUH

#include "ops/kernels.h"
#include "products/stream_ring.cuh"

static __device__ __forceinline__ uint32_t
swiglu_pair(float gate0, float gate1, float up0, float up1)
{
    const uint32_t gate = narrow_pair(gate0, gate1), up = narrow_pair(up0, up1);

    return narrow_pair(
        swiglu(__uint_as_float(gate << 16), __uint_as_float(up << 16)),
        swiglu(__uint_as_float(gate & 0xffff0000u), __uint_as_float(up & 0xffff0000u)));
}

/* Stores one warp's share of y, whose columns end at `end`. before: the previous
 * content of y, which is loaded early for up to 16 rows, where its latency shows most.
 */
template <int TM, int TN, enum product_output OUTPUT>
static __device__ __forceinline__ void
store(const gemm_stream &g, const float (&acc)[TM][TN][4],
      const float2 (&before)[TM][TN][2], int first_column, int end)
{
    const int lane = threadIdx.x % WARP_SIZE;

#pragma unroll
    for (int i = 0; i < TM; i++) {
#pragma unroll
        for (int j = 0; j < (OUTPUT == PRODUCT_SWIGLU ? 1 : TN); j++) {
#pragma unroll
            for (int h = 0; h < 2; h++) {
                int row = i * 16 + h * 8 + lane / 4;
                int column = first_column + j * g.n_second + lane % 4 * 2;
                size_t at = row * g.ldy + column;
                float first = acc[i][j][2 * h], second = acc[i][j][2 * h + 1];
                if (row >= g.m || column >= end) {
                    continue;
                }
                if (OUTPUT == PRODUCT_ADD) {
                    float2 *to =
                        reinterpret_cast<float2 *>(static_cast<float *>(g.y) + at);
                    float2 sum = TM == 1 ? before[i][j][h] : *to;
                    *to = make_float2(sum.x + first, sum.y + second);
                } else {
                    *reinterpret_cast<uint32_t *>(static_cast<bf16 *>(g.y) + at) =
                        OUTPUT == PRODUCT_SWIGLU
                            ? swiglu_pair(first, second, acc[i][TN - 1][2 * h],
                                          acc[i][TN - 1][2 * h + 1])
                            : narrow_pair(first, second);
                }
            }
        }
    }
}

template <int TM, int TN>
static __device__ __forceinline__ void
load_before(float2 (&before)[TM][TN][2], const gemm_stream &g, int first_column,
            int end)
{
    const int lane = threadIdx.x % WARP_SIZE;

#pragma unroll
    for (int i = 0; i < TM; i++) {
#pragma unroll
        for (int j = 0; j < TN; j++) {
#pragma unroll
            for (int h = 0; h < 2; h++) {
                int row = i * 16 + h * 8 + lane / 4;
                int column = first_column + j * g.n_second + lane % 4 * 2;
                before[i][j][h] = make_float2(0.0f, 0.0f);
                if (row < g.m && column < end) {
                    before[i][j][h] = *reinterpret_cast<const float2 *>(
                        static_cast<const float *>(g.y) + row * g.ldy + column);
                }
            }
        }
    }
}

#endif
