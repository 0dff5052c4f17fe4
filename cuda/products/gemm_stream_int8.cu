/* gemm_stream_int8.cu: the products of gemm_stream.cu over int8 weights, at half its
 * bytes.
 *
 * The ring holds weights in int8 and rows of x in bf16. Warps that multiply widen the
 * weights of the next step while they wait for the chain of sums of this one. What they
 * multiply by is what expand_int8_kernel writes, so the sums have the bits of every
 * other plan. */
#include "int8.cuh"
#include "products/stream_kernel.cuh"

#define INT8_GROUPS (INT8_BLOCK / INT8_GROUP) /* in a row of a block */
static_assert(INT8_BLOCK == BLOCK_K, "");

/* A product and its weights; stream.w is not used. */
struct gemm_stream_int8 {
    gemm_stream stream;
    const unsigned char *w; /* (n, k) */
    const float *scales;    /* (n)    */
};

/* ---- ring ---- */

/* Copies a warp's share of rows to the ring: the two copy warps take eight rows each,
 * in turns; a lane copies the same 16 bytes of each of its rows. */
static __device__ __forceinline__ void
copy_int8_rows(unsigned char *to_smem, const unsigned char *from, size_t k, int n_rows,
               int warp)
{
#pragma unroll 4
    for (int row = warp * 8; row < n_rows; row += COPY_WARPS * 8) {
        cp_async_16(to_smem, from, true);
        to_smem += COPY_WARPS * 8 * BLOCK_K;
        from += COPY_WARPS * 8 * k;
    }
}

template <int TN>
static __device__ __forceinline__ void
copy_int8_weights(const gemm_stream_int8 &g, const ring &r, const weight_rows &rows,
                  int warp)
{
    const int row = warp * 8 + threadIdx.x % WARP_SIZE / INT8_GROUPS;
    const int group = threadIdx.x % INT8_GROUPS, offset = int8_ring_offset(row, group);
    const size_t k = g.stream.k;
    const unsigned char *first = g.w + (rows.begin + row) * k + group * INT8_GROUP;
    const unsigned char *second = first + g.stream.n_second * k;
    turn t = {0, 0};

    for (int begin = 0; begin < r.n_blocks; begin += r.stage_blocks) {
        const int end = min(begin + r.stage_blocks, r.n_blocks);
        unsigned char *to_smem =
            reinterpret_cast<unsigned char *>(stage_of(r, t.stage)) + offset;

        barrier_wait(&r.empty_smem[t.stage], t.parity ^ 1);
        for (int b = begin; b < end; b++) {
            copy_int8_rows(to_smem, first + b * BLOCK_K, k, rows.n_valid[0], warp);
            if (TN == 2) {
                copy_int8_rows(to_smem + rows.n_first * BLOCK_K, second + b * BLOCK_K,
                               k, rows.n_valid[1], warp);
            }
            to_smem += r.rows * BLOCK_K * sizeof(bf16);
        }
        barrier_arrive_with_copies(&r.full_smem[t.stage]);
        next_turn(t, r.n_stages);
    }
}

/* ---- products ---- */

/* The first of a warp's rows of w within a block of the ring, and where those of x
 * begin, in rows of BLOCK_K bf16. */
struct int8_warp_rows {
    int w[2];
    int x;
};

/* words: of each of a lane's rows of w, those of the block's four steps of 16. */
template <int TN>
static __device__ __forceinline__ void
take_words(uint32_t (&words)[TN][4], const bf16 *block_smem, const int8_warp_rows &rows)
{
    const unsigned char *w_smem = reinterpret_cast<const unsigned char *>(block_smem);
    const int lane = threadIdx.x % WARP_SIZE;

#pragma unroll
    for (int j = 0; j < TN; j++) {
        ldmatrix_x4(words[j],
                    w_smem + int8_ring_offset(rows.w[j] + lane % 8, lane / 8));
    }
}

/* Two steps' rows of x. */
template <int TM>
static __device__ __forceinline__ void
take_inputs(uint32_t (&a)[TM][2][4], const bf16 *block_smem, int half,
            const int8_warp_rows &rows)
{
    const bf16 *x_smem = block_smem + rows.x * BLOCK_K;
    const int lane = threadIdx.x % WARP_SIZE;

#pragma unroll
    for (int i = 0; i < TM; i++) {
#pragma unroll
        for (int k = 0; k < 2; k++) {
            ldmatrix_x4(a[i][k], x_smem + ring_offset(i * 16 + lane % 16,
                                                      half * 4 + k * 2 + lane / 16));
        }
    }
}

/* Multiplies a step, then widens the weights of the next one. */
template <int TM, int TN>
static __device__ __forceinline__ void
multiply_step(float (&acc)[TM][TN][4], const uint32_t (&a)[TM][2][4], int k,
              uint32_t (&b)[TN][2], const uint32_t (&next_words)[TN][4], int next_step,
              const uint32_t (&scales)[TN])
{
#pragma unroll
    for (int i = 0; i < TM; i++) {
#pragma unroll
        for (int j = 0; j < TN; j++) {
            mma_16x8x16(acc[i][j], a[i][k], b[j][0], b[j][1]);
        }
    }
#pragma unroll
    for (int j = 0; j < TN; j++) {
        widen_int8(b[j], next_words[j][next_step], scales[j]);
    }
}

/* Loads what comes next before it multiplies, so that the chain does not wait. */
template <int TM, int TN>
static __device__ __forceinline__ void
multiply_int8(float (&acc)[TM][TN][4], const ring &r, const int8_warp_rows &rows,
              const uint32_t (&scales)[TN])
{
    uint32_t front[TM][2][4], back[TM][2][4]; /* rows of x: two steps, then two more */
    uint32_t words[TN][4], next_words[TN][4] = {}, b[TN][2];
    const bf16 *block_smem = r.data_smem;
    int n_left = r.stage_blocks; /* blocks of this stage */
    turn t = {0, 0};

    barrier_wait(&r.full_smem[0], 0);
    take_words<TN>(words, block_smem, rows);
    take_inputs<TM>(front, block_smem, 0, rows);
#pragma unroll
    for (int j = 0; j < TN; j++) {
        widen_int8(b[j], words[j][0], scales[j]);
    }
    for (int block = 0; block < r.n_blocks; block++) {
        const bool ends = block + 1 == r.n_blocks, stage_ends = --n_left == 0 || ends;

        take_inputs<TM>(back, block_smem, 1, rows);
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
        multiply_step<TM, TN>(acc, front, 0, b, words, 1, scales);
        multiply_step<TM, TN>(acc, front, 1, b, words, 2, scales);
        if (!ends) {
            if (stage_ends) {
                barrier_wait(&r.full_smem[t.stage], t.parity);
            }
            take_words<TN>(next_words, block_smem, rows);
            take_inputs<TM>(front, block_smem, 0, rows);
        }
        multiply_step<TM, TN>(acc, back, 0, b, words, 3, scales);
        multiply_step<TM, TN>(acc, back, 1, b, next_words, 0, scales);
#pragma unroll
        for (int j = 0; j < TN; j++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                words[j][i] = next_words[j][i];
            }
        }
    }
}

/* The scales of a lane's rows of w, twice each. Rows past the end have the last one's;
 * their results are not stored. */
template <int TN>
static __device__ __forceinline__ void
load_scales(uint32_t (&scales)[TN], const gemm_stream_int8 &g, int first_row)
{
    const int row = first_row + threadIdx.x % WARP_SIZE / 4;

#pragma unroll
    for (int j = 0; j < TN; j++) {
        const float scale = g.scales[min(row + j * g.stream.n_second, g.stream.n - 1)];
        scales[j] = narrow_pair(scale, scale);
    }
}

template <int TM, int TN, enum product_output OUTPUT>
static __global__ void
__launch_bounds__(MAX_THREADS) gemm_stream_int8_kernel(const gemm_stream_int8 g)
{
    extern __shared__ __align__(128) unsigned char smem[];
    const gemm_stream &s = g.stream;
    const int warp = threadIdx.x / WARP_SIZE;
    const int n_multiply = blockDim.x / WARP_SIZE - 2 * COPY_WARPS;
    const int n_first = n_multiply * 8, begin = blockIdx.x * s.n_step;
    const int x_row = n_first * TN / 2; /* two rows of int8 are as long as one of x */
    const weight_rows rows = {
        begin,
        n_first,
        {min(n_first, s.n_columns - begin), min(n_first, s.n - begin - s.n_second)}};
    const ring r = {reinterpret_cast<bf16 *>(smem + HEAD_BYTES),
                    reinterpret_cast<uint64_t *>(smem),
                    reinterpret_cast<uint64_t *>(smem) + MAX_STAGES,
                    s.n_stages,
                    s.stage_blocks,
                    x_row + TM * 16,
                    s.k / BLOCK_K};

    if (threadIdx.x < (unsigned)s.n_stages) {
        barrier_init(&r.full_smem[threadIdx.x], 2 * COPY_WARPS * WARP_SIZE);
        barrier_init(&r.empty_smem[threadIdx.x], n_multiply);
    }
    release_next_grid();
    __syncthreads(); /* the barriers are there */
    if (warp >= n_multiply + COPY_WARPS) {
        wait_for_grid();
        copy_inputs<TM>(s, r, x_row, warp - n_multiply - COPY_WARPS);
    } else if (warp >= n_multiply) {
        copy_int8_weights<TN>(g, r, rows, warp - n_multiply);
        wait_for_grid();
    } else {
        float acc[TM][TN][4] = {};
        float2 before[TM][TN][2] = {};
        uint32_t scales[TN];
        load_scales<TN>(scales, g, begin + warp * 8);
        wait_for_grid();
        if (OUTPUT == PRODUCT_ADD && TM == 1) {
            load_before<TM, TN>(before, s, begin + warp * 8);
        }
        multiply_int8<TM, TN>(acc, r, {{warp * 8, n_first + warp * 8}, x_row}, scales);
        store<TM, TN, OUTPUT>(s, acc, before, begin + warp * 8);
    }
}

/* ---- launcher ---- */

typedef void int8_kernel(gemm_stream_int8);

/* By row tiles, 1, 2 or 4, and rows of w per warp, 8 or twice 8. */
template <enum product_output OUTPUT>
static int8_kernel *
find_kernel(int TM, int TN)
{
    switch (TM * 2 + TN - 1) {
    case 2:
        return gemm_stream_int8_kernel<1, 1, OUTPUT>;
    case 3:
        return gemm_stream_int8_kernel<1, 2, OUTPUT>;
    case 4:
        return gemm_stream_int8_kernel<2, 1, OUTPUT>;
    case 5:
        return gemm_stream_int8_kernel<2, 2, OUTPUT>;
    case 8:
        return gemm_stream_int8_kernel<4, 1, OUTPUT>;
    default:
        return gemm_stream_int8_kernel<4, 2, OUTPUT>;
    }
}

static int8_kernel *
kernel_of(enum product_output output, int TM, int TN)
{
    return output == PRODUCT_SWIGLU ? find_kernel<PRODUCT_SWIGLU>(TM, 2)
           : output == PRODUCT_ADD  ? find_kernel<PRODUCT_ADD>(TM, TN)
                                    : find_kernel<PRODUCT_STORE>(TM, TN);
}

cudaError_t
gemm_stream_int8_init(void)
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

/* Rows of x are independent, so more of them than a kernel takes are several launches,
 * each of which reads all the weights. */
cudaError_t
launch_gemm_stream_int8(void *y, const bf16 *x, struct operand w, int m, int n, int k,
                        size_t ldx, size_t ldy, enum product_output output,
                        struct stream stream)
{
    const size_t y_bytes = output == PRODUCT_ADD ? sizeof(float) : sizeof(bf16);
    struct device_limits device;
    cudaError_t status = limits_of_device(&device);

    for (int row = 0; row < m && status == cudaSuccess; row += GEMM_STREAM_MAX_ROWS) {
        const int n_rows = smaller(m - row, GEMM_STREAM_MAX_ROWS);
        const struct stream_plan p =
            plan_stream({n_rows, n, k, output == PRODUCT_SWIGLU, true}, device);
        const gemm_stream_int8 g = {
            {x + row * ldx, NULL, static_cast<unsigned char *>(y) + row * ldy * y_bytes,
             ldx, ldy, n_rows, n, k, p.n_columns, p.n_step, p.n_second, p.n_stages,
             p.stage_blocks},
            static_cast<const unsigned char *>(w.values),
            w.scales};
        status = launch(kernel_of(output, p.row_tiles, p.rows_per_warp),
                        dim3(p.n_blocks), p.n_threads, p.smem_bytes, stream, g);
    }
    return status;
}
