/* rope.cuh: RMS norm of one head of q or k, then RoPE, with the same bits in every
 * kernel.
 *
 * Some neighbouring lanes share a head. Lane i holds columns 4i to 4i + 3 of the left
 * half and of the right half: the pairs that RoPE rotates. Fused multiply-adds are
 * written out, so that the compiler does not choose between them and separate ones. */
#ifndef QE_ROPE_CUH
#define QE_ROPE_CUH

#include "common.cuh"
#include "ops/kernels.h"

/* Lanes of a head, those of 96 columns in part idle. */
template <int HS> static constexpr int HEAD_LANES = HS <= 64 ? 8 : HS <= 128 ? 16 : 32;

/* A lane's part of a head, of its weights, or of the cosines and sines. */
struct half_pair {
    float left[4], right[4];
};

static __device__ __forceinline__ half_pair
load_half_pair(const float *left, int half)
{
    const float4 l = *reinterpret_cast<const float4 *>(left);
    const float4 r = *reinterpret_cast<const float4 *>(left + half);

    return {{l.x, l.y, l.z, l.w}, {r.x, r.y, r.z, r.w}};
}

static __device__ __forceinline__ half_pair
widen_half_pair(uint2 l, uint2 r)
{
    return {{__uint_as_float(l.x << 16), __uint_as_float(l.x & 0xffff0000u),
             __uint_as_float(l.y << 16), __uint_as_float(l.y & 0xffff0000u)},
            {__uint_as_float(r.x << 16), __uint_as_float(r.x & 0xffff0000u),
             __uint_as_float(r.y << 16), __uint_as_float(r.y & 0xffff0000u)}};
}

static __device__ __forceinline__ half_pair
load_half_pair(const bf16 *left, int half)
{
    return widen_half_pair(*reinterpret_cast<const uint2 *>(left),
                           *reinterpret_cast<const uint2 *>(left + half));
}

static __device__ __forceinline__ void
store_half_pair(bf16 *left, int half, const half_pair &x)
{
    *reinterpret_cast<uint2 *>(left) = make_uint2(narrow_pair(x.left[0], x.left[1]),
                                                  narrow_pair(x.left[2], x.left[3]));
    *reinterpret_cast<uint2 *>(left + half) = make_uint2(
        narrow_pair(x.right[0], x.right[1]), narrow_pair(x.right[2], x.right[3]));
}

/* x <- rope(x / rms(x) * weight), for all lanes of a warp at once. turn: cosines left,
 * sines right. */
template <int HS>
static __device__ __forceinline__ void
norm_and_turn(half_pair &x, const half_pair &weight, const half_pair &turn, float eps)
{
    float squares = 0.0f;

#pragma unroll
    for (int i = 0; i < 4; i++) {
        squares = __fmaf_rn(x.left[i], x.left[i], squares);
        squares = __fmaf_rn(x.right[i], x.right[i], squares);
    }
    const float scale =
        rsqrtf(__fmaf_rn(lane_sum(squares, HEAD_LANES<HS>), 1.0f / HS, eps));
#pragma unroll
    for (int i = 0; i < 4; i++) {
        float p = __fmul_rn(__fmul_rn(x.left[i], scale), weight.left[i]);
        float q = __fmul_rn(__fmul_rn(x.right[i], scale), weight.right[i]);
        x.left[i] = __fmaf_rn(p, turn.left[i], -__fmul_rn(q, turn.right[i]));
        x.right[i] = __fmaf_rn(q, turn.left[i], __fmul_rn(p, turn.right[i]));
    }
}

#endif
