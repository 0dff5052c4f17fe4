/* stream_ring.cuh: the ring of shared memory of products of few rows, and the warps
 * that copy rows of x and panels of w into it. */
#ifndef QE_STREAM_RING_CUH
#define QE_STREAM_RING_CUH

#include "barrier.cuh"
#include "common.cuh"
#include "int8_layout.h"
#include "products/stream_plan.h"

#define BLOCK_K GEMM_STREAM_BLOCK_K
#define CHUNKS (BLOCK_K / 8)                  /* of 16 bytes in a row of bf16        */
#define INT8_GROUPS (INT8_BLOCK / INT8_GROUP) /* in a row of int8 */
#define TILE_BYTES (16 * BLOCK_K * 2)         /* 16 rows of x in a block of the ring */
static_assert(INT8_BLOCK == BLOCK_K, "");

struct gemm_stream {
    const bf16 *x;       /* (m, k) rows ldx apart                            */
    const void *w;       /* (n, k) bf16 or int8                              */
    const float *scales; /* (n) if w is int8                                 */
    void *y;             /* (m, n) rows ldy apart                            */
    size_t ldx, ldy;
    int m, n, k;
    int n_each;   /* units of eight columns of y per block of threads,     */
    int n_larger; /* and one more in the first n_larger blocks             */
    int n_second; /* from a warp's first panel of w to its second, in rows */
    int n_stages;
};

/* Bytes of a panel of 8 rows of w in a block of BLOCK_K columns of the ring. */
static constexpr __host__ __device__ int
panel_bytes(bool int8)
{
    return 8 * BLOCK_K * (int8 ? 1 : 2);
}

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

/* The byte of 16-byte unit `chunk` of a row of 128 bytes. Units are permuted by the
 * row's number, so that ldmatrix has no bank conflicts. */
static __device__ __forceinline__ int
ring_offset(int row, int chunk)
{
    return row * BLOCK_K * 2 + (chunk ^ row) % CHUNKS * 16;
}

/* The ring, as addresses in shared memory. A stage has the rows of x, (blocks, row
 * tiles, TILE_BYTES), and then the panels of each warp, (warps, blocks, panels,
 * panel_bytes). */
struct ring {
    uint32_t stages;
    uint32_t full, empty; /* barriers: the stage may be read; it may be overwritten */
    int n_stages, stage_bytes;
    int n_rounds; /* stages that k takes */
};

/* Copies the first or the second panels of all warps. A panel has 8 rows, of which each
 * of the two copy warps takes four, 128 bytes at a time: a block of bf16 or two of
 * int8.
 */
template <bool INT8, int BLOCKS, int TN> struct panel_copy {
    static constexpr int SPAN_BLOCKS = INT8 ? 2 : 1, SPAN_BYTES = 128;
    const unsigned char *from;
    size_t panel_stride; /* bytes */
    uint32_t offset;
    int n_panels;

    __device__ __forceinline__
    panel_copy(const gemm_stream &g, int first_row, int n_panels, int warp)
        : n_panels(n_panels)
    {
        const int lane = threadIdx.x % WARP_SIZE, row = warp * 4 + lane / 8;
        const int unit = lane % 8; /* of 16 bytes */
        const size_t row_bytes = (size_t)g.k * (INT8 ? 1 : 2);

        panel_stride = 8 * row_bytes;
        from = static_cast<const unsigned char *>(g.w) + (first_row + row) * row_bytes +
               unit * 16;
        offset = INT8 ? unit / INT8_GROUPS * TN * panel_bytes(INT8) +
                            int8_ring_offset(row, unit % INT8_GROUPS)
                      : ring_offset(row, unit);
    }

    __device__ __forceinline__ void
    copy(uint32_t to, int round) const
    {
        const unsigned char *panel =
            from + (size_t)round * (BLOCKS / SPAN_BLOCKS) * SPAN_BYTES;

        to += offset;
#pragma unroll 4
        for (int p = 0; p < n_panels; p++) {
#pragma unroll
            for (int i = 0; i < BLOCKS / SPAN_BLOCKS; i++) {
                cp_async_16(to + i * SPAN_BLOCKS * TN * panel_bytes(INT8),
                            panel + i * SPAN_BYTES);
            }
            to += BLOCKS * TN * panel_bytes(INT8);
            panel += panel_stride;
        }
    }
};

/* The columns of y of a block of threads. */
struct columns {
    int begin, end;
};

static __device__ __forceinline__ columns
columns_of_block(const gemm_stream &g)
{
    const int block = blockIdx.x, unit = block * g.n_each + min(block, g.n_larger);

    return {unit * 8, (unit + g.n_each + (block < g.n_larger)) * 8};
}

/* n_first, n_second: first and second panels of the block of threads. */
template <bool INT8, int TM, int TN>
static __device__ __forceinline__ void
copy_weights(const gemm_stream &g, const ring &r, int first_row, int n_first,
             int n_second, int warp)
{
    constexpr int BLOCKS = stage_blocks(INT8, TM, TN);
    const panel_copy<INT8, BLOCKS, TN> first(g, first_row, n_first, warp);
    const panel_copy<INT8, BLOCKS, TN> second(g, first_row + g.n_second, n_second,
                                              warp);
    turn t = {0, 0};

    for (int round = 0; round < r.n_rounds; round++) {
        const uint32_t to =
            r.stages + t.stage * r.stage_bytes + BLOCKS * TM * TILE_BYTES;

        barrier_wait(r.empty + t.stage * 8, t.parity ^ 1);
        first.copy(to, round);
        if (TN == 2) {
            second.copy(to + panel_bytes(INT8), round);
        }
        barrier_arrive_with_copies(r.full + t.stage * 8);
        next_turn(t, r.n_stages);
    }
}

/* Rows past the last are copies of the last; their results are not stored. */
template <bool INT8, int TM, int TN>
static __device__ __forceinline__ void
copy_inputs(const gemm_stream &g, const ring &r, int warp)
{
    constexpr int BLOCKS = stage_blocks(INT8, TM, TN);
    constexpr int PARTS = TM * 16 / (COPY_WARPS * 4);
    const int row = warp * 4 + threadIdx.x % WARP_SIZE / CHUNKS;
    const int chunk = threadIdx.x % CHUNKS;
    const uint32_t offset = ring_offset(row, chunk);
    const bf16 *from[PARTS];
    turn t = {0, 0};

#pragma unroll
    for (int i = 0; i < PARTS; i++) {
        from[i] = g.x + min(row + i * COPY_WARPS * 4, g.m - 1) * g.ldx + chunk * 8;
    }
    for (int round = 0; round < r.n_rounds; round++) {
        const uint32_t to = r.stages + t.stage * r.stage_bytes + offset;

        barrier_wait(r.empty + t.stage * 8, t.parity ^ 1);
#pragma unroll
        for (int b = 0; b < BLOCKS; b++) {
#pragma unroll
            for (int i = 0; i < PARTS; i++) {
                cp_async_16(to + b * TM * TILE_BYTES + i * COPY_WARPS * 4 * BLOCK_K * 2,
                            from[i] + b * BLOCK_K);
            }
        }
#pragma unroll
        for (int i = 0; i < PARTS; i++) {
            from[i] += BLOCKS * BLOCK_K;
        }
        barrier_arrive_with_copies(r.full + t.stage * 8);
        next_turn(t, r.n_stages);
    }
}

#endif
