/* stream_plan.h: the launch of gemm_stream.cu and gemm_stream_int8.cu for a product on
 * a device, as a pure function in plain C++, so that a test without a GPU can check it
 * for every device. */
#ifndef QE_STREAM_PLAN_H
#define QE_STREAM_PLAN_H

#include "arithmetic.h"
#include "int8_layout.h"

#define GEMM_STREAM_MAX_ROWS 64
#define GEMM_STREAM_BLOCK_K 64
#define GEMM_STREAM_K 256 /* columns of x and w come in multiples of these */
#define COPY_WARPS 2      /* for w, and as many for x */
#define MAX_MULTIPLY_WARPS 12
#define MAX_STAGES 32
#define HEAD_BYTES (2 * MAX_STAGES * 8) /* two barriers of 8 bytes per stage */

/* A warp that multiplies has one panel of 8 rows of w, or two if a block of threads has
 * more than these. */
#define MAX_SINGLE_PANELS 6

/* A ring of SHARED_RING_BYTES leaves room on a multiprocessor for a block of threads of
 * the next kernel, whose copies start meanwhile. But the device may then give two of
 * its blocks to one multiprocessor, which are its last to end. So only products whose
 * blocks read at most SHARED_READ_BYTES, which end before that matters, leave it. */
#define MIN_STAGES 2
#define SHARED_RING_BYTES (112 << 10)
#define SHARED_READ_BYTES (160 << 10)

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
    int row_tiles;  /* of 16 rows of x: 1, 2 or 4                                   */
    int n_panels;   /* of a warp, of 8 rows of w: 1, or 2, which lie n_second apart */
    int n_warps;    /* that multiply                                                */
    int n_columns;  /* of y                                                         */
    int n_each;     /* units of eight columns of y per block of threads,            */
    int n_larger;   /* and one more in the first n_larger blocks                    */
    int n_second;   /* rows of w from a warp's first panel to its second            */
    int n_stages;   /* of the ring                                                  */
    int n_blocks;   /* of threads                                                   */
    int n_threads;  /* per block                                                    */
    int smem_bytes; /* per block                                                    */
};

/* Whether gemm_stream.cu computes products of m rows over k columns. */
static inline bool
gemm_stream_takes(int m, int k)
{
    return m <= GEMM_STREAM_MAX_ROWS && k % GEMM_STREAM_K == 0;
}

/* Blocks of GEMM_STREAM_BLOCK_K columns in a stage. The sums of a stage have no branch
 * between them, so more blocks are faster, until stages are too few. */
static constexpr EVERYWHERE int
stage_blocks(bool int8, int row_tiles, int n_panels)
{
    return n_panels == 1 ? (row_tiles < 4 ? 4 : 2) : (int8 ? 2 : 1);
}

static inline int
stage_bytes_of(const struct stream_plan *p, bool int8)
{
    const int panel_bytes = 8 * GEMM_STREAM_BLOCK_K * (int8 ? 1 : 2);
    const int x_bytes = p->row_tiles * 16 * GEMM_STREAM_BLOCK_K * 2;

    return stage_blocks(int8, p->row_tiles, p->n_panels) *
           (p->n_warps * p->n_panels * panel_bytes + x_bytes);
}

/* shape.m and shape.k as gemm_stream_takes(). Each multiprocessor gets one block of
 * threads, and as many columns of y as the others to eight columns. */
static inline struct stream_plan
plan_stream(struct stream_shape shape, struct device_limits device)
{
    const int most_bytes = device.smem_bytes - HEAD_BYTES;
    struct stream_plan p = {};

    p.row_tiles = shape.m <= 16 ? 1 : shape.m <= 32 ? 2 : 4;
    p.n_columns = shape.swiglu ? shape.n / 2 : shape.n;
    const int n_units = p.n_columns / 8;
    const int n_most = ceil_div(n_units, device.n_multiprocessors);
    p.n_panels = shape.swiglu || n_most > MAX_SINGLE_PANELS ? 2 : 1;
    const int warp_units = shape.swiglu ? 1 : p.n_panels;
    p.n_warps = smaller(ceil_div(n_most, warp_units), MAX_MULTIPLY_WARPS);
    while (MIN_STAGES * stage_bytes_of(&p, shape.int8) > most_bytes) {
        p.n_warps--;
    }
    const int n_waves =
        ceil_div(n_units, p.n_warps * warp_units * device.n_multiprocessors);
    p.n_blocks = smaller(n_waves * device.n_multiprocessors, n_units);
    p.n_each = n_units / p.n_blocks;
    p.n_larger = n_units % p.n_blocks;
    p.n_warps = ceil_div(p.n_each + (p.n_larger > 0), warp_units);
    p.n_second = shape.swiglu ? p.n_columns : p.n_warps * 8;
    p.n_threads = (p.n_warps + 2 * COPY_WARPS) * 32;

    const int stage_bytes = stage_bytes_of(&p, shape.int8);
    const int n_k_stages =
        shape.k /
        (GEMM_STREAM_BLOCK_K * stage_blocks(shape.int8, p.row_tiles, p.n_panels));
    const bool shared = n_k_stages * stage_bytes <= SHARED_READ_BYTES;
    const int ring_bytes = shared ? smaller(SHARED_RING_BYTES, most_bytes) : most_bytes;
    p.n_stages = ring_bytes / stage_bytes;
    p.n_stages = p.n_stages < MIN_STAGES ? MIN_STAGES : p.n_stages;
    p.n_stages = smaller(smaller(p.n_stages, MAX_STAGES), n_k_stages);
    p.smem_bytes = HEAD_BYTES + p.n_stages * stage_bytes;
    return p;
}

#endif
