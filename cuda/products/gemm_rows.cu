/* gemm_rows.cu: Y = X W^T, or Y += X W^T. Each element is one chain of mma.m16n8k16
 * over k, from first to last: the canonical sum.
 *
 * The weights stream through a ring of shared memory, so with few rows the speed is
 * limited by device memory or by the chain, whichever is slower. Plans of cuBLASLt are
 * compared with it: see products/plans.h. */
#include "arithmetic.h"
#include "common.cuh"
#include "ops/kernels.h"
#include "shared_memory.h"

#define BLOCK_K 128
static constexpr int ROW_LENGTH = smem_row_length(BLOCK_K);
#define CHUNKS (BLOCK_K / 8) /* of 16 bytes in a row */

struct gemm_rows {
    const bf16 *x; /* (m, k) rows ldx apart */
    const bf16 *w; /* (n, k)                */
    void *y;       /* (m, n) rows ldy apart */
    size_t ldx, ldy;
    int m, n, k;
};

/* ---- kernels ---- */

/* ring (BLOCK_M + BLOCK_N, ROW_LENGTH) <- a block of k of rows of x, then of w; zeros
 * beyond their ends. */
template <int BLOCK_M, int BLOCK_N, int THREADS>
static __device__ __forceinline__ void
load_block(bf16 *ring_smem, const gemm_rows &g, int m0, int n0, int k0)
{
#pragma unroll 4
    for (int i = threadIdx.x; i < (BLOCK_M + BLOCK_N) * CHUNKS; i += THREADS) {
        int row = i / CHUNKS, k = k0 + i % CHUNKS * 8;
        bool is_x = row < BLOCK_M;
        int source = is_x ? m0 + row : n0 + row - BLOCK_M;
        bool valid = source < (is_x ? g.m : g.n) && k < g.k;
        const bf16 *from = is_x ? g.x + source * g.ldx : g.w + (size_t)source * g.k;
        cp_async_16(ring_smem + row * ROW_LENGTH + i % CHUNKS * 8,
                    valid ? from + k : g.w, valid);
    }
}

/* A warp's tile: TM x 16 rows of x, TN x 8 rows of w. */
template <int TM, int TN>
static __device__ __forceinline__ void
multiply_block(float (&acc)[TM][TN][4], const bf16 *x_smem, const bf16 *w_smem)
{
    const int lane = threadIdx.x % WARP_SIZE;

#pragma unroll
    for (int k = 0; k < BLOCK_K; k += 32) {
        uint32_t b[TN][4]; /* two steps of k */
#pragma unroll
        for (int j = 0; j < TN; j++) {
            ldmatrix_x4(b[j],
                        w_smem + (j * 8 + lane % 8) * ROW_LENGTH + k + lane / 8 * 8);
        }
#pragma unroll
        for (int step = 0; step < 2; step++) {
#pragma unroll
            for (int i = 0; i < TM; i++) {
                uint32_t a[4];
                ldmatrix_x4(a, x_smem + (i * 16 + lane % 16) * ROW_LENGTH + k +
                                   step * 16 + lane / 16 * 8);
#pragma unroll
                for (int j = 0; j < TN; j++) {
                    mma_16x8x16(acc[i][j], a, b[j][2 * step], b[j][2 * step + 1]);
                }
            }
        }
    }
}

static __device__ __forceinline__ void
store_pair(void *y, size_t at, float first, float second, bool add)
{
    if (add) {
        float2 *to = reinterpret_cast<float2 *>(static_cast<float *>(y) + at);
        float2 sum = *to;
        sum.x += first;
        sum.y += second;
        *to = sum;
    } else {
        *reinterpret_cast<uint32_t *>(static_cast<bf16 *>(y) + at) =
            narrow_pair(first, second);
    }
}

template <int TM, int TN, int WARPS_M, int WARPS_N, int STAGES, bool ADD>
static __global__ void
__launch_bounds__(WARP_SIZE *WARPS_M *WARPS_N) gemm_rows_kernel(const gemm_rows g)
{
    constexpr int BLOCK_M = 16 * TM * WARPS_M, BLOCK_N = 8 * TN * WARPS_N;
    constexpr int THREADS = WARP_SIZE * WARPS_M * WARPS_N;
    constexpr int STAGE = (BLOCK_M + BLOCK_N) * ROW_LENGTH;
    extern __shared__ __align__(16) unsigned char smem[];
    bf16 *ring = reinterpret_cast<bf16 *>(smem);
    const int warp_id = threadIdx.x / WARP_SIZE, lane_id = threadIdx.x % WARP_SIZE;
    const int warp_m = warp_id % WARPS_M * TM * 16, warp_n = warp_id / WARPS_M * TN * 8;
    const int m0 = blockIdx.y * BLOCK_M, n0 = blockIdx.x * BLOCK_N;
    const int n_blocks = (g.k + BLOCK_K - 1) / BLOCK_K;
    float acc[TM][TN][4] = {};

    release_next_grid();
    wait_for_grid();
    for (int b = 0; b < STAGES - 1; b++) {
        if (b < n_blocks) {
            load_block<BLOCK_M, BLOCK_N, THREADS>(ring + b * STAGE, g, m0, n0,
                                                  b * BLOCK_K);
        }
        cp_async_commit();
    }
    for (int b = 0; b < n_blocks; b++) {
        int next = b + STAGES - 1;
        cp_async_wait<STAGES - 2>();
        /* Block b has arrived for all threads, and all have finished block b - 1, whose
         * place is filled next. */
        __syncthreads();
        if (next < n_blocks) {
            load_block<BLOCK_M, BLOCK_N, THREADS>(ring + next % STAGES * STAGE, g, m0,
                                                  n0, next * BLOCK_K);
        }
        cp_async_commit();
        const bf16 *x_smem = ring + b % STAGES * STAGE;
        multiply_block<TM, TN>(acc, x_smem + warp_m * ROW_LENGTH,
                               x_smem + (BLOCK_M + warp_n) * ROW_LENGTH);
    }
#pragma unroll
    for (int i = 0; i < TM; i++) {
#pragma unroll
        for (int j = 0; j < TN; j++) {
            int row = m0 + warp_m + i * 16 + lane_id / 4;
            int column = n0 + warp_n + j * 8 + lane_id % 4 * 2;
            if (column >= g.n) {
                continue;
            }
            if (row < g.m) {
                store_pair(g.y, row * g.ldy + column, acc[i][j][0], acc[i][j][1], ADD);
            }
            if (row + 8 < g.m) {
                store_pair(g.y, (row + 8) * g.ldy + column, acc[i][j][2], acc[i][j][3],
                           ADD);
            }
        }
    }
}

/* ---- variants ---- */

struct variant {
    void (*store)(gemm_rows);
    void (*add)(gemm_rows);
    int block_m, block_n, n_threads, smem_bytes;
};

template <int TM, int TN, int WARPS_M, int WARPS_N, int STAGES>
static constexpr variant
make_variant(void)
{
    constexpr int BLOCK_M = 16 * TM * WARPS_M, BLOCK_N = 8 * TN * WARPS_N;
    return {gemm_rows_kernel<TM, TN, WARPS_M, WARPS_N, STAGES, false>,
            gemm_rows_kernel<TM, TN, WARPS_M, WARPS_N, STAGES, true>,
            BLOCK_M,
            BLOCK_N,
            WARP_SIZE * WARPS_M * WARPS_N,
            gemm_rows_smem_bytes(BLOCK_M, BLOCK_N, BLOCK_K, STAGES)};
}

/* Sorted from few rows to many. All fit into the 99 KB per block of sm_86, sm_89 and
 * sm_120. */
static const variant variants[] = {
    make_variant<1, 1, 1, 1, 8>(), /* 16 x  8 */
    make_variant<1, 1, 1, 2, 8>(), /* 16 x 16 */
    make_variant<1, 1, 1, 4, 6>(), /* 16 x 32 */
    make_variant<2, 1, 1, 2, 6>(), /* 32 x 16 */
    make_variant<2, 1, 1, 4, 5>(), /* 32 x 32 */
    make_variant<2, 2, 2, 2, 3>(), /* 64 x 32 */
    make_variant<2, 4, 2, 2, 2>(), /* 64 x 64 */
};
static_assert(sizeof variants / sizeof *variants == N_GEMM_ROWS_VARIANTS, "");

int
gemm_rows_block(int variant)
{
    return variants[variant].block_m;
}

cudaError_t
gemm_rows_init(void)
{
    cudaError_t status = cudaSuccess;

    for (const variant &v : variants) {
        for (const auto kernel : {v.store, v.add}) {
            if (status == cudaSuccess) {
                status = cudaFuncSetAttribute(
                    kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, v.smem_bytes);
            }
        }
    }
    return status;
}

cudaError_t
launch_gemm_rows(void *y, const bf16 *x, const bf16 *w, int m, int n, int k, size_t ldx,
                 size_t ldy, bool add, int variant_index, struct stream stream)
{
    const variant &v = variants[variant_index];
    const gemm_rows g = {x, w, y, ldx, ldy, m, n, k};
    const dim3 grid(ceil_div(n, v.block_n), ceil_div(m, v.block_m));

    return launch(add ? v.add : v.store, grid, v.n_threads, v.smem_bytes, stream, g);
}
