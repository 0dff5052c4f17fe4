/* stream_ring.cuh: the ring of shared memory of gemm_stream.cu, and the warps that copy
 * rows of w and of x into it. */
#ifndef QE_STREAM_RING_CUH
#define QE_STREAM_RING_CUH

#include "barrier.cuh"
#include "common.cuh"
#include "products/stream_plan.h"

#define BLOCK_K GEMM_STREAM_BLOCK_K
#define CHUNKS (BLOCK_K / 8) /* of 16 bytes in a row */

struct gemm_stream {
    const bf16 *x; /* (m, k) rows ldx apart */
    const bf16 *w; /* (n, k)                */
    void *y;       /* (m, n) rows ldy apart */
    size_t ldx, ldy;
    int m, n, k;
    int n_columns; /* of y: n, or half of it if gate meets up          */
    int n_step;    /* from one block's first row of w to the next's    */
    int n_second;  /* from a warp's first eight rows of w to its second */
    int n_stages;
    int stage_blocks; /* of BLOCK_K columns in a stage               */
};

/* A stage of the ring, and the parity of the rounds before. */
struct turn {
    int stage;
    uint32_t parity;
};

static __device__ __forceinline__ void
next_turn(turn &t, int n_stages)
{
    if (++t.stage == n_stages) {
        t.stage = 0;
        t.parity ^= 1;
    }
}

/* A row of the ring is 128 bytes. Its 16-byte units are permuted by the row's number,
 * so that ldmatrix has no bank conflicts. */
static __device__ __forceinline__ int
ring_offset(int row, int chunk)
{
    return row * BLOCK_K + ((chunk ^ row) % CHUNKS) * 8;
}

/* The ring and its barriers. A stage holds some blocks of BLOCK_K columns: more of them
 * if rows are few, so that waits at barriers are rare. */
struct ring {
    bf16 *data_smem; /* (n_stages, stage_blocks, rows, BLOCK_K) rows of w, then of x */
    uint64_t *full_smem, *empty_smem; /* (n_stages)                                  */
    int n_stages, stage_blocks, rows, n_blocks;
};

static __device__ __forceinline__ bf16 *
stage_of(const ring &r, int stage)
{
    return r.data_smem + (size_t)stage * r.stage_blocks * r.rows * BLOCK_K;
}

/* The rows of w of a block of threads: some consecutive rows and, for each, a second
 * row n_second further. In the ring all first rows precede the second ones. */
struct weight_rows {
    int begin;      /* row of w of the first                                     */
    int n_first;    /* multiple of 8                                             */
    int n_valid[2]; /* first and second ones that are not past the end: multiples of 8
                     */
};

/* Copies a warp's share of rows to the ring. The two copy warps take eight rows at a
 * time; a lane copies the same 16 bytes of each of its rows. */
static __device__ __forceinline__ void
copy_rows(bf16 *to_smem, const bf16 *from, size_t stride, int n_rows)
{
#pragma unroll 4
    for (int row = 0; row < n_rows; row += COPY_WARPS * 4) {
        cp_async_16(to_smem, from, true);
        to_smem += COPY_WARPS * 4 * BLOCK_K;
        from += stride;
    }
}

template <int TN>
static __device__ __forceinline__ void
copy_weights(const gemm_stream &g, const ring &r, const weight_rows &rows, int warp)
{
    const int row = warp * 4 + threadIdx.x % WARP_SIZE / CHUNKS;
    const int chunk = threadIdx.x % CHUNKS, offset = ring_offset(row, chunk);
    const bf16 *first = g.w + (size_t)(rows.begin + row) * g.k + chunk * 8;
    const bf16 *second = first + (size_t)g.n_second * g.k;
    const size_t stride = (size_t)COPY_WARPS * 4 * g.k;
    turn t = {0, 0};

    for (int begin = 0; begin < r.n_blocks; begin += r.stage_blocks) {
        const int end = min(begin + r.stage_blocks, r.n_blocks);
        bf16 *to_smem = stage_of(r, t.stage) + offset;

        barrier_wait(&r.empty_smem[t.stage], t.parity ^ 1);
        for (int b = begin; b < end; b++) {
            copy_rows(to_smem, first + b * BLOCK_K, stride, rows.n_valid[0]);
            if (TN == 2) {
                copy_rows(to_smem + rows.n_first * BLOCK_K, second + b * BLOCK_K,
                          stride, rows.n_valid[1]);
            }
            to_smem += r.rows * BLOCK_K;
        }
        barrier_arrive_with_copies(&r.full_smem[t.stage]);
        next_turn(t, r.n_stages);
    }
}

/* Rows past the last are copies of the last; their results are not stored. */
template <int TM>
static __device__ __forceinline__ void
copy_inputs(const gemm_stream &g, const ring &r, int first_row, int warp)
{
    constexpr int ROUNDS = TM * 16 / (COPY_WARPS * 4);
    const int row = warp * 4 + threadIdx.x % WARP_SIZE / CHUNKS;
    const int chunk = threadIdx.x % CHUNKS;
    const int offset = first_row * BLOCK_K + ring_offset(row, chunk);
    const bf16 *from[ROUNDS];
    turn t = {0, 0};

#pragma unroll
    for (int i = 0; i < ROUNDS; i++) {
        from[i] = g.x + min(row + i * COPY_WARPS * 4, g.m - 1) * g.ldx + chunk * 8;
    }
    for (int begin = 0; begin < r.n_blocks; begin += r.stage_blocks) {
        const int end = min(begin + r.stage_blocks, r.n_blocks);
        bf16 *to_smem = stage_of(r, t.stage) + offset;

        barrier_wait(&r.empty_smem[t.stage], t.parity ^ 1);
        for (int b = begin; b < end; b++) {
#pragma unroll
            for (int i = 0; i < ROUNDS; i++) {
                cp_async_16(to_smem + i * COPY_WARPS * 4 * BLOCK_K,
                            from[i] + b * BLOCK_K, true);
            }
            to_smem += r.rows * BLOCK_K;
        }
        barrier_arrive_with_copies(&r.full_smem[t.stage]);
        next_turn(t, r.n_stages);
    }
}

#endif
