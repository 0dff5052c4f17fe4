/* qk_norm_rope.cu: RMS norm of every head of q and k, then RoPE, in place. */
#include "arithmetic.h"
#include "ops/rope.cuh"

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
    bf16 *qkv;                /* (T, NH + 2 NKV, HS) */
    const int32_t *positions; /* (T)                 */
    struct head_norm norm;
    int NH, n_in_row; /* NH + 2 NKV          */
    int first_head, n_heads;
};

template <int HS>
static __global__ void
__launch_bounds__(THREADS) qk_norm_rope_kernel(const heads a)
{
    constexpr int HALF = HS / 2, LANES = HEAD_LANES<HS>;
    const int column = threadIdx.x % LANES * 4;
    const bool active = column < HALF;
    const size_t row = blockIdx.x;
    half_pair turn = {};

    release_next_grid();
    wait_for_grid();
    if (active) {
        turn = load_half_pair(a.norm.cos_sin + (size_t)a.positions[row] * HS + column,
                              HALF);
    }
    /* All lanes of a warp run the same number of rounds: the sums need every lane. */
    for (int i = blockIdx.y * (THREADS / LANES); i < a.n_heads;
         i += gridDim.y * (THREADS / LANES)) {
        int head = a.first_head + i + threadIdx.x / LANES;
        bool valid = active && head < a.first_head + a.n_heads;
        bf16 *at = a.qkv + (row * a.n_in_row + head) * HS + column;
        half_pair x = {}, weight = {};

        if (valid) {
            x = load_half_pair(at, HALF);
            weight = load_half_pair(
                (head < a.NH ? a.norm.q_weight : a.norm.k_weight) + column, HALF);
        }
        norm_and_turn<HS>(x, weight, turn, a.norm.eps);
        if (valid) {
            store_half_pair(at, HALF, x);
        }
    }
}

/* ---- launchers ---- */

cudaError_t
launch_rope_table(float *cos_sin, const float *inv_freq, int n_positions, int HS,
                  float scale, struct stream stream)
{
    rope_table_kernel<<<n_positions, 64, 0, stream.handle>>>(cos_sin, inv_freq, HS,
                                                             scale);
    return cudaGetLastError();
}

cudaError_t
launch_qk_norm_rope(bf16 *qkv, const int32_t *positions, const struct head_norm *norm,
                    int T, int NH, int NKV, int HS, int first_head, int n_heads,
                    struct stream stream)
{
    const heads a = {qkv, positions, *norm, NH, NH + 2 * NKV, first_head, n_heads};
    void (*kernel)(heads);
    int n_lanes;

    switch (HS) {
    case 64:
        kernel = qk_norm_rope_kernel<64>, n_lanes = HEAD_LANES<64>;
        break;
    case 96:
        kernel = qk_norm_rope_kernel<96>, n_lanes = HEAD_LANES<96>;
        break;
    case 128:
        kernel = qk_norm_rope_kernel<128>, n_lanes = HEAD_LANES<128>;
        break;
    case 256:
        kernel = qk_norm_rope_kernel<256>, n_lanes = HEAD_LANES<256>;
        break;
    default:
        return cudaErrorInvalidValue;
    }
    /* With few rows each round of heads has a block of its own, because rounds run one
     * after another. */
    const int n_rounds = ceil_div(n_heads * n_lanes, THREADS);
    return launch(kernel, dim3(T, T < FEW_ROWS ? n_rounds : 1), THREADS, 0, stream, a);
}
