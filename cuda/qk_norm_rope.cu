/* qk_norm_rope.cu: RMS norm of every head of q and k, then RoPE, in place.
 *
 * A head is the work of LANES neighbouring lanes. Lane i holds columns 4i .. 4i+3 of
 * the left half and the same of the right half: the pairs that RoPE turns. */
#include "common.cuh"
#include "kernels.h"

#define THREADS 128
#define FEW_ROWS 512

/* ---- kernels ---- */

static __global__ void
rope_table_kernel(float *cos_sin, const float *inv_freq, int HS, float scale)
{
    const int half = HS / 2;
    float *row = cos_sin + (size_t)blockIdx.x * HS;

    for (int i = threadIdx.x; i < half; i += blockDim.x) {
        float angle = (float)blockIdx.x * inv_freq[i]; /* fp32, as transformers */
        row[i] = (float)cos((double)angle) * scale;
        row[half + i] = (float)sin((double)angle) * scale;
    }
}

struct heads {
    bf16 *qkv;                    /* (T, NH + 2 NKV, HS) */
    const int32_t *positions;     /* (T)                 */
    const float *cos_sin;         /* (., 2, HS / 2)      */
    const float *q_norm, *k_norm; /* (HS)              */
    int NH, n_in_row;             /* NH + 2 NKV          */
    int first_head, n_heads;
    float eps;
};

static __device__ __forceinline__ void
load_4(float (&y)[4], const bf16 *p)
{
    uint2 v = *reinterpret_cast<const uint2 *>(p);
    y[0] = __uint_as_float(v.x << 16);
    y[1] = __uint_as_float(v.x & 0xffff0000u);
    y[2] = __uint_as_float(v.y << 16);
    y[3] = __uint_as_float(v.y & 0xffff0000u);
}

static __device__ __forceinline__ void
store_4(bf16 *p, const float (&x)[4])
{
    *reinterpret_cast<uint2 *>(p) =
        make_uint2(narrow_pair(x[0], x[1]), narrow_pair(x[2], x[3]));
}

template <int HS, int LANES>
static __global__ void
__launch_bounds__(THREADS) qk_norm_rope_kernel(const heads a)
{
    constexpr int HALF = HS / 2;
    const int lane = threadIdx.x % LANES;
    const bool active = lane * 4 < HALF;
    const size_t row = blockIdx.x;

    release_next_grid();
    wait_for_grid();
    const float *turn = a.cos_sin + (size_t)a.positions[row] * HS + lane * 4;
    float4 cosine = {}, sine = {};

    if (active) {
        cosine = *reinterpret_cast<const float4 *>(turn);
        sine = *reinterpret_cast<const float4 *>(turn + HALF);
    }
    const float c[4] = {cosine.x, cosine.y, cosine.z, cosine.w};
    const float s[4] = {sine.x, sine.y, sine.z, sine.w};

    /* Every lane of a warp makes the same number of rounds, as the sums need. */
    for (int i = blockIdx.y * (THREADS / LANES); i < a.n_heads;
         i += gridDim.y * (THREADS / LANES)) {
        int head = a.first_head + i + threadIdx.x / LANES;
        bool valid = active && head < a.first_head + a.n_heads;
        bf16 *x = a.qkv + (row * a.n_in_row + head) * HS + lane * 4;
        const float *weight = (head < a.NH ? a.q_norm : a.k_norm) + lane * 4;
        float left[4] = {}, right[4] = {}, squares = 0.0f;

        if (valid) {
            load_4(left, x);
            load_4(right, x + HALF);
        }
#pragma unroll
        for (int j = 0; j < 4; j++) {
            squares += left[j] * left[j] + right[j] * right[j];
        }
        float scale = rsqrtf(lane_sum(squares, LANES) / HS + a.eps);
        if (valid) {
            float4 wl = *reinterpret_cast<const float4 *>(weight);
            float4 wr = *reinterpret_cast<const float4 *>(weight + HALF);
            const float l[4] = {wl.x, wl.y, wl.z, wl.w};
            const float r[4] = {wr.x, wr.y, wr.z, wr.w};
#pragma unroll
            for (int j = 0; j < 4; j++) {
                float p = left[j] * scale * l[j], q = right[j] * scale * r[j];
                left[j] = p * c[j] - q * s[j];
                right[j] = q * c[j] + p * s[j];
            }
            store_4(x, left);
            store_4(x + HALF, right);
        }
    }
}

/* ---- launchers ---- */

cudaError_t
launch_rope_table(float *cos_sin, const float *inv_freq, int n_positions, int HS,
                  float scale, cudaStream_t stream)
{
    rope_table_kernel<<<n_positions, 64, 0, stream>>>(cos_sin, inv_freq, HS, scale);
    return cudaGetLastError();
}

cudaError_t
launch_qk_norm_rope(bf16 *qkv, const int32_t *positions, const float *cos_sin,
                    const float *q_norm, const float *k_norm, int T, int NH, int NKV,
                    int HS, int first_head, int n_heads, float eps, cudaStream_t stream)
{
    const heads a = {qkv, positions,    cos_sin,    q_norm,  k_norm,
                     NH,  NH + 2 * NKV, first_head, n_heads, eps};

    void (*kernel)(heads);
    int n_lanes;

    switch (HS) {
    case 64:
        kernel = qk_norm_rope_kernel<64, 8>, n_lanes = 8;
        break;
    case 96:
        kernel = qk_norm_rope_kernel<96, 16>, n_lanes = 16;
        break;
    case 128:
        kernel = qk_norm_rope_kernel<128, 16>, n_lanes = 16;
        break;
    case 256:
        kernel = qk_norm_rope_kernel<256, 32>, n_lanes = 32;
        break;
    default:
        return cudaErrorInvalidValue;
    }
    /* Of few rows, each round of heads is a block's, since rounds take turns. */
    const int n_rounds = (n_heads * n_lanes + THREADS - 1) / THREADS;
    return launch(kernel, dim3(T, T < FEW_ROWS ? n_rounds : 1), THREADS, 0, stream, a);
}
