/* gemm_stream.cu: the canonical sum of gemm_rows.cu for at most 64 rows, at the speed
 * of device memory.
 *
 * All rows of x meet a few rows of w in each block of threads, about one block per
 * multiprocessor. Some warps only copy, w ahead of x: weights depend on no kernel, so
 * they are on their way while the kernels before this one still run. The others only
 * multiply; each has eight rows of w, or eight and eight more, and nothing but the
 * chain of its sums to wait for. */
#include "barrier.cuh"
#include "ops/kernels.h"

#define BLOCK_K GEMM_STREAM_BLOCK_K
#define CHUNKS (BLOCK_K / 8) /* of 16 bytes in a row                    */
#define COPY_WARPS 2         /* for w, and as many for x                */
#define MAX_MULTIPLY_WARPS 12
#define MAX_THREADS ((MAX_MULTIPLY_WARPS + 2 * COPY_WARPS) * WARP_SIZE)
#define MAX_STAGES 32
#define HEAD_BYTES (2 * MAX_STAGES * (int)sizeof(uint64_t)) /* the barriers */
/* What a stage should hold, and a ring of them: as much as lets two blocks, of one
 * kernel or of two, share a multiprocessor, but never less than some stages. */
#define STAGE_BYTES (24 << 10)
#define MIN_STAGES 8
#define SHARED_SMEM_BYTES (112 << 10)

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

/* A place in the ring, and how often it was passed. */
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

/* A row of the ring is 128 bytes; its 16-byte units are permuted by its number, so that
 * ldmatrix meets no bank twice. */
static __device__ __forceinline__ int
ring_offset(int row, int chunk)
{
    return row * BLOCK_K + ((chunk ^ row) % CHUNKS) * 8;
}

/* ---- kernel ---- */

/* The ring and its barriers as all warps of a block see them. A stage holds some blocks
 * of BLOCK_K columns, the more the fewer the rows, since barriers take their time. */
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

/* A block's rows of w: some that follow each other and, for each, a second one further
 * on. In the ring all first ones come first. */
struct weight_rows {
    int begin;      /* row of w of the first                                     */
    int n_first;    /* multiple of 8                                             */
    int n_valid[2]; /* first and second ones that are not past the end: multiples of 8
                     */
};

/* Copies a warp's share of rows to the ring: with the other copy warp eight at a time,
 * each lane the same 16 bytes of each row. */
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

/* Rows past the last are the last again: what is made of them is not stored. */
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

/* The operands of half a block: TM x 16 rows of x, TN x 8 of w. */
template <int TM, int TN> struct operands {
    uint32_t a[TM][2][4];
    uint32_t b[TN][4];
};

/* Where a warp's rows lie in a block. */
struct warp_rows {
    int first, second; /* of w */
    int x;
};

template <int TM, int TN>
static __device__ __forceinline__ void
take_half(operands<TM, TN> &o, const bf16 *block_smem, int half, const warp_rows &rows)
{
    const int lane = threadIdx.x % WARP_SIZE;

#pragma unroll
    for (int j = 0; j < TN; j++) {
        int row = (j == 0 ? rows.first : rows.second) + lane % 8;
        ldmatrix_x4(o.b[j], block_smem + ring_offset(row, half * 4 + lane / 8));
    }
#pragma unroll
    for (int i = 0; i < TM; i++) {
        int row = rows.x + i * 16 + lane % 16;
#pragma unroll
        for (int k = 0; k < 2; k++) {
            ldmatrix_x4(o.a[i][k],
                        block_smem + ring_offset(row, half * 4 + k * 2 + lane / 16));
        }
    }
}

template <int TM, int TN>
static __device__ __forceinline__ void
multiply_half(float (&acc)[TM][TN][4], const operands<TM, TN> &o)
{
#pragma unroll
    for (int k = 0; k < 2; k++) {
#pragma unroll
        for (int i = 0; i < TM; i++) {
#pragma unroll
            for (int j = 0; j < TN; j++) {
                mma_16x8x16(acc[i][j], o.a[i][k], o.b[j][2 * k], o.b[j][2 * k + 1]);
            }
        }
    }
}

/* The next half's operands are fetched before this half is multiplied, so that the
 * chain does not wait for them. */
template <int TM, int TN>
static __device__ __forceinline__ void
multiply(float (&acc)[TM][TN][4], const ring &r, const warp_rows &rows)
{
    operands<TM, TN> front, back;
    const bf16 *block_smem = r.data_smem;
    int n_left = r.stage_blocks; /* blocks of this stage */
    turn t = {0, 0};

    barrier_wait(&r.full_smem[0], 0);
    take_half<TM, TN>(front, block_smem, 0, rows);
    for (int b = 0; b < r.n_blocks; b++) {
        const bool stage_ends = --n_left == 0 || b + 1 == r.n_blocks;

        take_half<TM, TN>(back, block_smem, 1, rows);
        block_smem += r.rows * BLOCK_K;
        if (stage_ends) {
            __syncwarp(); /* every lane is done with the stage */
            if (threadIdx.x % WARP_SIZE == 0) {
                barrier_arrive(&r.empty_smem[t.stage]);
            }
            next_turn(t, r.n_stages);
            n_left = r.stage_blocks;
            block_smem = stage_of(r, t.stage);
        }
        multiply_half<TM, TN>(acc, front);
        if (b + 1 < r.n_blocks) {
            if (stage_ends) {
                barrier_wait(&r.full_smem[t.stage], t.parity);
            }
            take_half<TM, TN>(front, block_smem, 0, rows);
        }
        multiply_half<TM, TN>(acc, back);
    }
}

static __device__ __forceinline__ uint32_t
swiglu_pair(float gate0, float gate1, float up0, float up1)
{
    const uint32_t gate = narrow_pair(gate0, gate1), up = narrow_pair(up0, up1);

    return narrow_pair(
        swiglu(__uint_as_float(gate << 16), __uint_as_float(up << 16)),
        swiglu(__uint_as_float(gate & 0xffff0000u), __uint_as_float(up & 0xffff0000u)));
}

/* One warp's share of y. before: what y holds, if it was loaded early, as it is for 16
 * rows, where waiting shows most. */
template <int TM, int TN, enum product_output OUTPUT>
static __device__ __forceinline__ void
store(const gemm_stream &g, const float (&acc)[TM][TN][4],
      const float2 (&before)[TM][TN][2], int first_column)
{
    const int lane = threadIdx.x % WARP_SIZE;

#pragma unroll
    for (int i = 0; i < TM; i++) {
#pragma unroll
        for (int j = 0; j < (OUTPUT == PRODUCT_SWIGLU ? 1 : TN); j++) {
#pragma unroll
            for (int h = 0; h < 2; h++) {
                int row = i * 16 + h * 8 + lane / 4;
                int column = first_column + j * g.n_second + lane % 4 * 2;
                size_t at = row * g.ldy + column;
                float first = acc[i][j][2 * h], second = acc[i][j][2 * h + 1];
                if (row >= g.m || column >= g.n_columns) {
                    continue;
                }
                if (OUTPUT == PRODUCT_ADD) {
                    float2 *to =
                        reinterpret_cast<float2 *>(static_cast<float *>(g.y) + at);
                    float2 sum = TM == 1 ? before[i][j][h] : *to;
                    *to = make_float2(sum.x + first, sum.y + second);
                } else {
                    *reinterpret_cast<uint32_t *>(static_cast<bf16 *>(g.y) + at) =
                        OUTPUT == PRODUCT_SWIGLU
                            ? swiglu_pair(first, second, acc[i][TN - 1][2 * h],
                                          acc[i][TN - 1][2 * h + 1])
                            : narrow_pair(first, second);
                }
            }
        }
    }
}

template <int TM, int TN>
static __device__ __forceinline__ void
load_before(float2 (&before)[TM][TN][2], const gemm_stream &g, int first_column)
{
    const int lane = threadIdx.x % WARP_SIZE;

#pragma unroll
    for (int i = 0; i < TM; i++) {
#pragma unroll
        for (int j = 0; j < TN; j++) {
#pragma unroll
            for (int h = 0; h < 2; h++) {
                int row = i * 16 + h * 8 + lane / 4;
                int column = first_column + j * g.n_second + lane % 4 * 2;
                before[i][j][h] = make_float2(0.0f, 0.0f);
                if (row < g.m && column < g.n_columns) {
                    before[i][j][h] = *reinterpret_cast<const float2 *>(
                        static_cast<const float *>(g.y) + row * g.ldy + column);
                }
            }
        }
    }
}

template <int TM, int TN, enum product_output OUTPUT>
static __global__ void
__launch_bounds__(MAX_THREADS) gemm_stream_kernel(const gemm_stream g)
{
    extern __shared__ __align__(128) unsigned char smem[];
    const int warp = threadIdx.x / WARP_SIZE;
    const int n_multiply = blockDim.x / WARP_SIZE - 2 * COPY_WARPS;
    const int n_first = n_multiply * 8, begin = blockIdx.x * g.n_step;
    const weight_rows rows = {
        begin,
        n_first,
        {min(n_first, g.n_columns - begin), min(n_first, g.n - begin - g.n_second)}};
    const ring r = {reinterpret_cast<bf16 *>(smem + HEAD_BYTES),
                    reinterpret_cast<uint64_t *>(smem),
                    reinterpret_cast<uint64_t *>(smem) + MAX_STAGES,
                    g.n_stages,
                    g.stage_blocks,
                    n_first * TN + TM * 16,
                    g.k / BLOCK_K};

    if (threadIdx.x < (unsigned)g.n_stages) {
        barrier_init(&r.full_smem[threadIdx.x], 2 * COPY_WARPS * WARP_SIZE);
        barrier_init(&r.empty_smem[threadIdx.x], n_multiply);
    }
    release_next_grid();
    __syncthreads(); /* the barriers are there */
    if (warp >= n_multiply + COPY_WARPS) {
        wait_for_grid();
        copy_inputs<TM>(g, r, n_first * TN, warp - n_multiply - COPY_WARPS);
    } else if (warp >= n_multiply) {
        copy_weights<TN>(g, r, rows, warp - n_multiply);
        wait_for_grid();
    } else {
        float acc[TM][TN][4] = {};
        float2 before[TM][TN][2] = {};
        wait_for_grid();
        if (OUTPUT == PRODUCT_ADD && TM == 1) {
            load_before<TM, TN>(before, g, begin + warp * 8);
        }
        multiply<TM, TN>(acc, r, {warp * 8, n_first + warp * 8, n_first * TN});
        store<TM, TN, OUTPUT>(g, acc, before, begin + warp * 8);
    }
}

/* ---- launcher ---- */

typedef void stream_kernel(gemm_stream);

/* By row tiles, 1, 2 or 4, and rows of w per warp, 8 or twice 8. */
template <enum product_output OUTPUT>
static stream_kernel *
find_kernel(int TM, int TN)
{
    switch (TM * 2 + TN - 1) {
    case 2:
        return gemm_stream_kernel<1, 1, OUTPUT>;
    case 3:
        return gemm_stream_kernel<1, 2, OUTPUT>;
    case 4:
        return gemm_stream_kernel<2, 1, OUTPUT>;
    case 5:
        return gemm_stream_kernel<2, 2, OUTPUT>;
    case 8:
        return gemm_stream_kernel<4, 1, OUTPUT>;
    default:
        return gemm_stream_kernel<4, 2, OUTPUT>;
    }
}

static stream_kernel *
kernel_of(enum product_output output, int TM, int TN)
{
    return output == PRODUCT_SWIGLU ? find_kernel<PRODUCT_SWIGLU>(TM, 2)
           : output == PRODUCT_ADD  ? find_kernel<PRODUCT_ADD>(TM, TN)
                                    : find_kernel<PRODUCT_STORE>(TM, TN);
}

static cudaError_t
device_attribute(int *value, enum cudaDeviceAttr attribute)
{
    int device;
    cudaError_t status = cudaGetDevice(&device);

    return status == cudaSuccess ? cudaDeviceGetAttribute(value, attribute, device)
                                 : status;
}

cudaError_t
gemm_stream_init(void)
{
    int n_bytes;
    cudaError_t status =
        device_attribute(&n_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin);

    for (int output = PRODUCT_STORE; output <= PRODUCT_SWIGLU; output++) {
        for (int i = 0; i < 6 && status == cudaSuccess; i++) {
            status = cudaFuncSetAttribute(
                kernel_of(static_cast<enum product_output>(output), 1 << i / 2,
                          i % 2 + 1),
                cudaFuncAttributeMaxDynamicSharedMemorySize, n_bytes);
        }
    }
    return status;
}

cudaError_t
launch_gemm_stream(void *y, const bf16 *x, const bf16 *w, int m, int n, int k,
                   size_t ldx, size_t ldy, enum product_output output,
                   cudaStream_t stream)
{
    const int n_columns = output == PRODUCT_SWIGLU ? n / 2 : n;
    const int TM = m <= 16 ? 1 : m <= 32 ? 2 : 4, n_units = (n_columns + 7) / 8;
    int n_multiprocessors, n_bytes;
    cudaError_t status =
        device_attribute(&n_multiprocessors, cudaDevAttrMultiProcessorCount);

    if (status == cudaSuccess) {
        status = device_attribute(&n_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin);
    }
    if (status != cudaSuccess) {
        return status;
    }
    const int n_each = (n_units + n_multiprocessors - 1) / n_multiprocessors;
    const int TN = output == PRODUCT_SWIGLU || n_each > MAX_MULTIPLY_WARPS ? 2 : 1;
    const int n_wanted = output == PRODUCT_SWIGLU ? n_each : (n_each + TN - 1) / TN;
    const int n_warps = n_wanted < MAX_MULTIPLY_WARPS ? n_wanted : MAX_MULTIPLY_WARPS;
    const int n_step = n_warps * 8 * (output == PRODUCT_SWIGLU ? 1 : TN);
    const int block_bytes = (n_warps * 8 * TN + TM * 16) * BLOCK_K * (int)sizeof(bf16);
    const int stage_blocks = block_bytes <= STAGE_BYTES / 4   ? 4
                             : block_bytes <= STAGE_BYTES / 2 ? 2
                                                              : 1;
    const int n_blocks = k / BLOCK_K, stage_bytes = block_bytes * stage_blocks;
    int ring_bytes = MIN_STAGES * stage_bytes;
    ring_bytes = ring_bytes > SHARED_SMEM_BYTES ? ring_bytes : SHARED_SMEM_BYTES;
    ring_bytes = ring_bytes < n_bytes ? ring_bytes : n_bytes;
    int n_stages = (ring_bytes - HEAD_BYTES) / stage_bytes;
    n_stages = n_stages < MAX_STAGES ? n_stages : MAX_STAGES;
    n_stages = n_stages * stage_blocks < n_blocks
                   ? n_stages
                   : (n_blocks + stage_blocks - 1) / stage_blocks;
    const gemm_stream g = {x,
                           w,
                           y,
                           ldx,
                           ldy,
                           m,
                           n,
                           k,
                           n_columns,
                           n_step,
                           output == PRODUCT_SWIGLU ? n_columns : n_warps * 8,
                           n_stages,
                           stage_blocks};

    return launch(kernel_of(output, TM, TN), dim3((n_columns + n_step - 1) / n_step),
                  (n_warps + 2 * COPY_WARPS) * WARP_SIZE,
                  HEAD_BYTES + n_stages * stage_bytes, stream, g);
}
