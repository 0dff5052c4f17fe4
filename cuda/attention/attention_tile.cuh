/* attention_tile.cuh: a block of queries against one tile of keys, by 128 threads;
 * shared by attention.cu and attention_raw.cu. */
#ifndef QE_ATTENTION_TILE_CUH
#define QE_ATTENTION_TILE_CUH

#include "attention/attention.cuh"
#include "shared_memory.h"

#define BLOCK_KV ATTENTION_BLOCK_KV
#define TILE_WARPS 4
#define TILE_THREADS (TILE_WARPS * WARP_SIZE)

template <int HS> static constexpr int ROW_LENGTH = smem_row_length(HS);

/* q_smem (ROWS, ROW_LENGTH) <- row r holds head r % group of query r / group; zeros
 * past the last query. */
template <int HS, int ROWS>
static __device__ __forceinline__ void
load_queries(bf16 *q_smem, const bf16 *q, const attention_work &a, int n_rows,
             size_t ld)
{
    constexpr int CHUNKS = HS / 8;

#pragma unroll 1
    for (int i = threadIdx.x; i < ROWS * CHUNKS; i += TILE_THREADS) {
        int row = i / CHUNKS, column = i % CHUNKS * 8;
        bool valid = row < n_rows;
        const bf16 *from = q + (row / a.group) * ld + (row % a.group) * HS + column;
        cp_async_16(q_smem + row * ROW_LENGTH<HS> + column, valid ? from : q, valid);
    }
}

/* kv_smem (n_rows, ROW_LENGTH) <- positions from start on; zeros past the text's end,
 * where another text's rows lie: 0 x NaN would let its NaN in. */
template <int HS>
static __device__ __forceinline__ void
load_keys(bf16 *kv_smem, const bf16 *kv, const attention_block &block, int start,
          int n_rows, size_t ld)
{
    constexpr int CHUNKS = HS / 8;

#pragma unroll 1
    for (int i = threadIdx.x; i < n_rows * CHUNKS; i += TILE_THREADS) {
        int position = start + i / CHUNKS, column = i % CHUNKS * 8;
        bool valid = position < block.n_keys;
        int row = position < block.n_prefix ? block.prefix_row + position
                                            : block.own_row + position - block.n_prefix;
        cp_async_16(kv_smem + i / CHUNKS * ROW_LENGTH<HS> + column,
                    valid ? kv + row * ld + column : kv, valid);
    }
}

/* s (16 rows, BLOCK_KV) = q (16, HS) k^T; zeros from column n_keys on, a multiple of
 * 16. */
template <int HS, int ROW_TILES>
static __device__ __forceinline__ void
multiply_keys(float (&s)[ROW_TILES][BLOCK_KV / 8][4], const bf16 *q_smem,
              const bf16 *k_smem, int n_keys)
{
    const int lane = threadIdx.x % WARP_SIZE;

#pragma unroll
    for (int i = 0; i < ROW_TILES; i++) {
#pragma unroll
        for (int j = 0; j < BLOCK_KV / 8; j++) {
            s[i][j][0] = s[i][j][1] = s[i][j][2] = s[i][j][3] = 0.0f;
        }
    }
#pragma unroll
    for (int k = 0; k < HS; k += 16) {
        uint32_t q[ROW_TILES][4];
#pragma unroll
        for (int i = 0; i < ROW_TILES; i++) {
            ldmatrix_x4(q[i], q_smem + (i * 16 + lane % 16) * ROW_LENGTH<HS> + k +
                                  lane / 16 * 8);
        }
#pragma unroll
        for (int j = 0; j < BLOCK_KV / 8; j += 2) {
            uint32_t b[4]; /* 16 keys */
            if (j * 8 >= n_keys) {
                break;
            }
            ldmatrix_x4(b, k_smem +
                               (j * 8 + lane / 16 * 8 + lane % 8) * ROW_LENGTH<HS> + k +
                               lane / 8 % 2 * 8);
#pragma unroll
            for (int i = 0; i < ROW_TILES; i++) {
                mma_16x8x16(s[i][j], q[i], b[0], b[1]);
                mma_16x8x16(s[i][j + 1], q[i], b[2], b[3]);
            }
        }
    }
}

/* A thread's two rows of 16: lane / 4 and 8 further on. */
struct softmax_rows {
    float max[2] = {-INFINITY, -INFINITY}; /* of the scores so far                 */
    float denominator[2] = {}; /* this thread's share of the probabilities         */
};

/* Scores of keys past a row's own position become -inf. start: position of the first
 * key, relative to the first query. */
static __device__ __forceinline__ void
mask(float (&s)[BLOCK_KV / 8][4], int first_row, int start, int group)
{
    const int lane = threadIdx.x % WARP_SIZE;

#pragma unroll
    for (int r = 0; r < 2; r++) {
        int n_seen = (first_row + r * 8 + lane / 4) / group - start + 1 - lane % 4 * 2;
#pragma unroll
        for (int j = 0; j < BLOCK_KV / 8; j++) {
#pragma unroll
            for (int i = 0; i < 2; i++) {
                if (j * 8 + i >= n_seen) {
                    s[j][2 * r + i] = -CUDART_INF_F;
                }
            }
        }
    }
}

/* p (16, BLOCK_KV) as mma's operand A <- 2^(scale (s - max)). Rescales o (16, HS).
 * Where the compiler could choose between a product and a fused one, the code does, so
 * that short and tall tiles give the same bits. */
template <int HS>
static __device__ __forceinline__ void
softmax_step(uint32_t (&p)[BLOCK_KV / 16][4], float (&s)[BLOCK_KV / 8][4],
             float (&o)[HS / 8][4], softmax_rows &rows, float scale)
{
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float top = rows.max[r];
#pragma unroll
        for (int j = 0; j < BLOCK_KV / 8; j++) {
            top = fmaxf(top, fmaxf(s[j][2 * r], s[j][2 * r + 1]));
        }
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
        float rescale = power_of_2((rows.max[r] - top) * scale);
        float scaled_top = top * scale, sum = 0.0f, other = 0.0f;
        rows.max[r] = top;
#pragma unroll
        for (int j = 0; j < BLOCK_KV / 8; j++) {
            float first = power_of_2(__fmaf_rn(s[j][2 * r], scale, -scaled_top));
            float second = power_of_2(__fmaf_rn(s[j][2 * r + 1], scale, -scaled_top));
            uint32_t pair = narrow_pair(first, second);
            sum += __uint_as_float(pair << 16);
            other += __uint_as_float(pair & 0xffff0000u);
            p[j / 2][j % 2 * 2 + r] = pair;
        }
        rows.denominator[r] =
            __fmaf_rn(rows.denominator[r], rescale, __fadd_rn(sum, other));
#pragma unroll
        for (int j = 0; j < HS / 8; j++) {
            o[j][2 * r] *= rescale;
            o[j][2 * r + 1] *= rescale;
        }
    }
}

/* o (16, HS) += p (16, n_keys) v; n_keys a multiple of 16. */
template <int HS, int ROW_TILES>
static __device__ __forceinline__ void
multiply_values(float (&o)[ROW_TILES][HS / 8][4],
                const uint32_t (&p)[ROW_TILES][BLOCK_KV / 16][4], const bf16 *v_smem,
                int n_keys)
{
    const int lane = threadIdx.x % WARP_SIZE;

#pragma unroll
    for (int k = 0; k < BLOCK_KV / 16; k++) {
        if (k * 16 >= n_keys) {
            break;
        }
#pragma unroll
        for (int j = 0; j < HS / 8; j += 2) {
            uint32_t b[4]; /* 16 columns */
            ldmatrix_x4_trans(b, v_smem + (k * 16 + lane % 16) * ROW_LENGTH<HS> +
                                     j * 8 + lane / 16 * 8);
#pragma unroll
            for (int i = 0; i < ROW_TILES; i++) {
                mma_16x8x16(o[i][j], p[i][k], b[0], b[1]);
                mma_16x8x16(o[i][j + 1], p[i][k], b[2], b[3]);
            }
        }
    }
}

/* o (16, HS) / denominator goes to the warp's rows of q_smem, then in 16-byte pieces to
 * where the queries were. */
template <int HS, int ROW_TILES>
static __device__ __forceinline__ void
store_output(bf16 *q, bf16 *q_smem, const float (&o)[ROW_TILES][HS / 8][4],
             const softmax_rows (&rows)[ROW_TILES], int group, int first_row,
             int n_rows, size_t ld)
{
    constexpr int CHUNKS = HS / 8;
    const int lane = threadIdx.x % WARP_SIZE;

#pragma unroll
    for (int i = 0; i < ROW_TILES; i++) {
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float inverse = 1.0f / lane_sum(rows[i].denominator[r], 4);
            bf16 *to =
                q_smem + (i * 16 + r * 8 + lane / 4) * ROW_LENGTH<HS> + lane % 4 * 2;
#pragma unroll
            for (int j = 0; j < HS / 8; j++) {
                *reinterpret_cast<uint32_t *>(to + j * 8) =
                    narrow_pair(o[i][j][2 * r] * inverse, o[i][j][2 * r + 1] * inverse);
            }
        }
    }
    __syncwarp(); /* the warp's rows are complete; no other warp reads them */
#pragma unroll 1
    for (int i = lane; i < ROW_TILES * 16 * CHUNKS; i += WARP_SIZE) {
        int row = first_row + i / CHUNKS, column = i % CHUNKS * 8;
        if (row < n_rows) {
            store_16_bytes(
                q + (row / group) * ld + (row % group) * HS + column,
                load_16_bytes(q_smem + i / CHUNKS * ROW_LENGTH<HS> + column));
        }
    }
}

/* Keys of the tile at start that a block which sees end positions has to have. What it
 * has not would be multiplied by zero. */
static __device__ __forceinline__ int
count_loaded(int start, int end)
{
    return min(BLOCK_KV, (end - start + 15) / 16 * 16);
}

#endif
