/* stream_plan.h: the launch of gemm_stream.cu and gemm_stream_int8.cu for a product on
 * a device, as a pure function in plain C++, so that a test without a GPU can check it
 * for every device. */
#ifndef QE_STREAM_PLAN_H
#define QE_STREAM_PLAN_H

#include "arithmetic.h"

#define GEMM_STREAM_MAX_ROWS 64
#define GEMM_STREAM_BLOCK_K 64
#define COPY_WARPS 2 /* for w, and as many for x */
#define MAX_MULTIPLY_WARPS 12
#define MAX_STAGES 32
#define HEAD_BYTES (2 * MAX_STAGES * 8) /* two barriers of 8 bytes per stage */

/* Target sizes of a stage and of the ring. A ring of SHARED_RING_BYTES lets two blocks
 * of threads, of one kernel or of two, share a multiprocessor; a ring of fewer than
 * MIN_STAGES stages is too short to hide latency, so it may be larger than that. */
#define STAGE_BYTES (24 << 10)
#define MIN_STAGES 8
#define SHARED_RING_BYTES (112 << 10)

struct device_limits {
    int n_multiprocessors;
    int smem_bytes; /* the most that one block of threads may have */
};

/* x (m, k) times w (n, k)^T; with SwiGLU, w is gate and up. */
struct stream_shape {
    int m, n, k;
    bool swiglu;
    bool int8; /* w, at one byte per value in the ring; else bf16 */
};

struct stream_plan {
    int row_tiles;     /* of 16 rows of x: 1, 2 or 4                             */
    int rows_per_warp; /* of w, in units of 8: 1, or 2, which lie n_second apart */
    int n_warps;       /* that multiply                                          */
    int n_columns;     /* of y                                                   */
    int n_step;        /* columns of y per block of threads                      */
    int n_second;      /* rows of w from a warp's first eight to its second      */
    int n_stages;      /* of the ring                                            */
    int stage_blocks;  /* of GEMM_STREAM_BLOCK_K columns, per stage              */
    int n_blocks;      /* of threads                                             */
    int n_threads;     /* per block                                              */
    int smem_bytes;    /* per block                                              */
};

/* Whether gemm_stream.cu computes products of m rows over k columns. */
static inline bool
gemm_stream_takes(int m, int k)
{
    return m <= GEMM_STREAM_MAX_ROWS && k % GEMM_STREAM_BLOCK_K == 0;
}

/* shape.m and shape.k as gemm_stream_takes(). About one block of threads per
 * multiprocessor: blocks divide the columns of y, each warp has eight of them. */
static inline struct stream_plan
plan_stream(struct stream_shape shape, struct device_limits device)
{
    struct stream_plan p = {};

    p.row_tiles = shape.m <= 16 ? 1 : shape.m <= 32 ? 2 : 4;
    p.n_columns = shape.swiglu ? shape.n / 2 : shape.n;
    const int n_units = ceil_div(p.n_columns, 8); /* of eight columns of y */
    const int n_each = ceil_div(n_units, device.n_multiprocessors);
    p.rows_per_warp = shape.swiglu || n_each > MAX_MULTIPLY_WARPS ? 2 : 1;
    p.n_warps = smaller(shape.swiglu ? n_each : ceil_div(n_each, p.rows_per_warp),
                        MAX_MULTIPLY_WARPS);
    p.n_step = p.n_warps * 8 * (shape.swiglu ? 1 : p.rows_per_warp);
    p.n_second = shape.swiglu ? p.n_columns : p.n_warps * 8;
    p.n_blocks = ceil_div(p.n_columns, p.n_step);
    p.n_threads = (p.n_warps + 2 * COPY_WARPS) * 32;

    const int column_bytes =
        p.n_warps * 8 * p.rows_per_warp * (shape.int8 ? 1 : 2) + p.row_tiles * 16 * 2;
    const int block_bytes = column_bytes * GEMM_STREAM_BLOCK_K;
    const int n_k_blocks = shape.k / GEMM_STREAM_BLOCK_K;
    p.stage_blocks = block_bytes <= STAGE_BYTES / 4   ? 4
                     : block_bytes <= STAGE_BYTES / 2 ? 2
                                                      : 1;
    const int stage_bytes = block_bytes * p.stage_blocks;
    int ring_bytes = MIN_STAGES * stage_bytes;
    ring_bytes = ring_bytes > SHARED_RING_BYTES ? ring_bytes : SHARED_RING_BYTES;
    ring_bytes = smaller(ring_bytes, device.smem_bytes);
    p.n_stages = smaller((ring_bytes - HEAD_BYTES) / stage_bytes, MAX_STAGES);
    p.n_stages = smaller(p.n_stages, ceil_div(n_k_blocks, p.stage_blocks));
    p.smem_bytes = HEAD_BYTES + p.n_stages * stage_bytes;
    return p;
}

#endif
