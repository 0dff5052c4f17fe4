/* int8_weights.cu: equalises weights and rounds them to int8 with one scale per row,
 * while they are loaded, and expands a matrix to bf16 for products of many rows. */
#include "arithmetic.h"
#include "int8.cuh"
#include "ops/kernels.h"

#define THREADS 128

/* ---- to int8 ---- */

/* Returns the block's largest value to each of its threads. largest_smem (THREADS /
 * WARP_SIZE). */
static __device__ __forceinline__ uint32_t
block_largest(uint32_t x, uint32_t *largest_smem)
{
    x = __reduce_max_sync(0xffffffffu, x);
    if (threadIdx.x % WARP_SIZE == 0) {
        largest_smem[threadIdx.x / WARP_SIZE] = x;
    }
    __syncthreads(); /* all warps have theirs */
    for (int i = 0; i < THREADS / WARP_SIZE; i++) {
        x = max(x, largest_smem[i]);
    }
    return x;
}

/* The scale of a row, a bf16, from the bits of its largest magnitude. NaN and infinity,
 * whose bits are the largest, stay what they are, and make the row's products NaN. The
 * least scale is bf16's least number, so that a row of zeros has one. */
static __device__ __forceinline__ float
int8_scale(uint32_t largest)
{
    const float scale = __bfloat162float(
        __float2bfloat16_rn(__fdiv_rn(__uint_as_float(largest), INT8_LARGEST)));

    return scale < 0x1p-133f ? 0x1p-133f : scale;
}

/* Eight values of a row from column i on, equalised. */
static __device__ __forceinline__ void
load_equalised(float (&v)[8], const bf16 *row, const equalising &e, int i,
               float row_factor)
{
    widen(v, load_16_bytes(row + i));
#pragma unroll
    for (int j = 0; j < 8; j++) {
        const bool scaled = e.columns != NULL && i + j < e.n_columns;
        v[j] *= scaled ? e.columns[i + j] * row_factor : row_factor;
    }
}

/* One block of threads per row. */
static __global__ void
__launch_bounds__(THREADS)
    quantize_int8_kernel(const operand y, const bf16 *x, const equalising e, int n)
{
    __shared__ uint32_t largest_smem[THREADS / WARP_SIZE];
    const bf16 *row = x + (size_t)blockIdx.x * n;
    unsigned char *to = static_cast<unsigned char *>(y.values) + (size_t)blockIdx.x * n;
    uint32_t largest = 0;
    float v[8];

    release_next_grid();
    wait_for_grid();
    const float row_factor = e.rows == NULL ? 1.0f : 1.0f / e.rows[blockIdx.x];
    for (int i = threadIdx.x * 8; i < n; i += THREADS * 8) {
        load_equalised(v, row, e, i, row_factor);
#pragma unroll
        for (int j = 0; j < 8; j++) {
            largest = max(largest, __float_as_uint(fabsf(v[j])));
        }
    }
    const float scale = int8_scale(block_largest(largest, largest_smem));
    for (int i = threadIdx.x * INT8_GROUP; i < n; i += THREADS * INT8_GROUP) {
        uint32_t words[4] = {};
#pragma unroll
        for (int k = 0; k < INT8_GROUP; k++) {
            if (k % 8 == 0) {
                load_equalised(v, row, e, i + k, row_factor);
            }
            const float nearest = rintf(__fdiv_rn(v[k % 8], scale));
            const int value = (int)fminf(fmaxf(nearest, -INT8_LARGEST), INT8_LARGEST);
            words[int8_place(k) / 4] |= (value & 0xffu) << int8_place(k) % 4 * 8;
        }
        store_16_bytes(to + i, make_uint4(words[0], words[1], words[2], words[3]));
    }
    if (threadIdx.x == 0) {
        y.scales[blockIdx.x] = scale;
    }
}

cudaError_t
launch_quantize_int8(struct operand y, const bf16 *x, struct equalising equalising,
                     int T, int n, struct stream stream)
{
    return launch(quantize_int8_kernel, dim3(T), THREADS, 0, stream, y, x, equalising,
                  n);
}

static __global__ void
__launch_bounds__(THREADS) divide_kernel(float *x, const float *divisors, int n)
{
    const int i = blockIdx.x * THREADS + threadIdx.x;

    release_next_grid();
    wait_for_grid();
    if (i < n) {
        x[i] /= divisors[i];
    }
}

cudaError_t
launch_divide(float *x, const float *divisors, int n, struct stream stream)
{
    const dim3 grid((n + THREADS - 1) / THREADS);

    return launch(divide_kernel, grid, THREADS, 0, stream, x, divisors, n);
}

/* ---- to bf16 ---- */

static __device__ __forceinline__ uint4
exchange(uint4 v)
{
    return make_uint4(
        __shfl_xor_sync(0xffffffffu, v.x, 1), __shfl_xor_sync(0xffffffffu, v.y, 1),
        __shfl_xor_sync(0xffffffffu, v.z, 1), __shfl_xor_sync(0xffffffffu, v.w, 1));
}

/* A thread takes a group of 16 weights, whose bf16 values take 32 bytes. Two neighbours
 * exchange halves, so that together they store all 32 bytes of one group and then those
 * of the other. No kernel writes weights, so they are read before the previous kernel
 * has ended. */
static __global__ void
__launch_bounds__(THREADS)
    expand_int8_kernel(bf16 *y, const unsigned char *w, const float *scales,
                       unsigned n_groups, unsigned row_groups)
{
    const unsigned group = blockIdx.x * THREADS + threadIdx.x;
    const bool odd = threadIdx.x % 2 == 1, valid = group < n_groups;
    uint4 words = make_uint4(0, 0, 0, 0);
    float scale = 0.0f;
    uint32_t pairs[4][2];

    release_next_grid();
    if (valid) {
        words = load_16_bytes(w + (size_t)group * INT8_GROUP);
        scale = scales[group / row_groups];
    }
    const uint32_t scale_pair = narrow_pair(scale, scale);
    widen_int8(pairs[0], words.x, scale_pair);
    widen_int8(pairs[1], words.y, scale_pair);
    widen_int8(pairs[2], words.z, scale_pair);
    widen_int8(pairs[3], words.w, scale_pair);
    const uint4 low = make_uint4(pairs[0][0], pairs[1][0], pairs[2][0], pairs[3][0]);
    const uint4 high = make_uint4(pairs[0][1], pairs[1][1], pairs[2][1], pairs[3][1]);
    const uint4 other = exchange(odd ? low : high);
    bf16 *to = y + (size_t)(group - odd) * INT8_GROUP + odd * 8;
    wait_for_grid();
    if (valid) {
        store_16_bytes(to, odd ? other : low);
        store_16_bytes(to + INT8_GROUP, odd ? high : other);
    }
}

cudaError_t
launch_expand_int8(bf16 *y, struct operand w, int n, int k, struct stream stream)
{
    const unsigned row_groups = k / INT8_GROUP, n_groups = n * row_groups;
    const dim3 grid((n_groups + THREADS - 1) / THREADS);

    return launch(expand_int8_kernel, grid, THREADS, 0, stream, y,
                  static_cast<const unsigned char *>(w.values), w.scales, n_groups,
                  row_groups);
}
