/* gemm_stream.cu: the canonical sum of gemm_rows.cu for at most 64 rows, at the speed
 * of device memory.
 *
 * Each block of threads, about one per multiprocessor, multiplies all rows of x by a
 * few rows of w. Some warps only copy, w before x: weights depend on no kernel, so
 * their copies start while the kernel before this one still runs. The other warps only
 * multiply; each has eight rows of w, or twice eight, and waits only for its chain of
 * sums. */
#include "products/stream_kernel.cuh"

/* ---- kernel ---- */

/* The operands of half a block: TM x 16 rows of x, TN x 8 of w. */
template <int TM, int TN> struct operands {
    uint32_t a[TM][2][4];
    uint32_t b[TN][4];
};

/* The first of a warp's rows within a block of the ring. */
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

/* Loads the next half's operands before it multiplies this half, so that the chain does
 * not wait for them. */
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

cudaError_t
gemm_stream_init(void)
{
    struct device_limits device;
    cudaError_t status = limits_of_device(&device);

    for (int output = PRODUCT_STORE; output <= PRODUCT_SWIGLU; output++) {
        for (int i = 0; i < 6 && status == cudaSuccess; i++) {
            status = cudaFuncSetAttribute(
                kernel_of(static_cast<enum product_output>(output), 1 << i / 2,
                          i % 2 + 1),
                cudaFuncAttributeMaxDynamicSharedMemorySize, device.smem_bytes);
        }
    }
    return status;
}

cudaError_t
launch_gemm_stream(void *y, const bf16 *x, const bf16 *w, int m, int n, int k,
                   size_t ldx, size_t ldy, enum product_output output,
                   struct stream stream)
{
    struct device_limits device;
    cudaError_t status = limits_of_device(&device);

    if (status != cudaSuccess) {
        return status;
    }
    const struct stream_plan p =
        plan_stream({m, n, k, output == PRODUCT_SWIGLU}, device);
    const gemm_stream g = {
        x,           w,        y,          ldx,        ldy,           m, n, k,
        p.n_columns, p.n_step, p.n_second, p.n_stages, p.stage_blocks};

    return launch(kernel_of(output, p.row_tiles, p.rows_per_warp), dim3(p.n_blocks),
                  p.n_threads, p.smem_bytes, stream, g);
}
