/* stream_kernel.cuh: the canonical sum of gemm_rows.cu for at most 64 rows, at the
 * speed of device memory, over weights in bf16 (gemm_stream.cu) or int8
 * (gemm_stream_int8.cu).
 *
 * Each block of threads, about one per multiprocessor, multiplies all rows of x by a
 * few panels of w. Some warps only copy, w before x: weights depend on no kernel, so
 * their copies start while the kernel before this one still runs. The other warps only
 * multiply; each has one panel, or two, and waits only for its chain of sums. A warp
 * issues in order, so whatever its next instruction waits for delays the chain:
 * operands are loaded half a block ahead, a stage has no branches, and every address is
 * a register plus a constant. */
#ifndef QE_STREAM_KERNEL_CUH
#define QE_STREAM_KERNEL_CUH

#include "int8.cuh"
#include "products/stream_output.cuh"

#define MAX_THREADS ((MAX_MULTIPLY_WARPS + 2 * COPY_WARPS) * WARP_SIZE)

/* ---- operands ---- */

/* The operands of half a block, two steps of 16 columns: TM tiles of x, TN panels of w.
 */
template <int TM, int TN> struct operands {
    uint32_t a[TM][2][4];
    uint32_t b[TN][4];
};

/* Where a lane's rows begin in a stage: of x, for each of the four steps of a block; of
 * w, for each half in bf16, for both in int8. */
struct places {
    uint32_t x[4], w[2];
};

template <bool INT8, int TM, int TN>
static __device__ __forceinline__ places
places_of(uint32_t stage, int warp)
{
    constexpr int BLOCKS = stage_blocks(INT8, TM, TN), WIDTH = panel_bytes(INT8);
    const int lane = threadIdx.x % WARP_SIZE;
    const uint32_t w = stage + BLOCKS * (TM * TILE_BYTES + warp * TN * WIDTH);
    places p;

#pragma unroll
    for (int i = 0; i < 4; i++) {
        p.x[i] = stage + ring_offset(lane % 16, i * 2 + lane / 16);
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
        p.w[i] = w + (INT8 ? int8_ring_offset(lane % 8, lane / 8)
                           : ring_offset(lane % 8, i * 4 + lane / 8));
    }
    return p;
}

/* Loads half h of a stage. In int8 words are those of the whole block, each row's of
 * its four steps, and become o.b in widen_step(). */
template <bool INT8, int TM, int TN>
static __device__ __forceinline__ void
take_half(operands<TM, TN> &o, uint32_t (&words)[TN][4], const places &p,
          uint32_t distance, int h)
{
    const int block = h / 2, half = h % 2;

#pragma unroll
    for (int j = 0; j < TN; j++) {
        const uint32_t at = distance + (block * TN + j) * panel_bytes(INT8);
        if (!INT8) {
            ldmatrix_x4(o.b[j], p.w[half] + at);
        } else if (half == 0) {
            ldmatrix_x4(words[j], p.w[0] + at);
        }
    }
#pragma unroll
    for (int k = 0; k < 2; k++) {
#pragma unroll
        for (int i = 0; i < TM; i++) {
            ldmatrix_x4(o.a[i][k],
                        p.x[half * 2 + k] + distance + (block * TM + i) * TILE_BYTES);
        }
    }
}

template <int TM, int TN>
static __device__ __forceinline__ void
widen_step(operands<TM, TN> &o, const uint32_t (&words)[TN][4],
           const uint32_t (&scales)[TN], int h, int k)
{
#pragma unroll
    for (int j = 0; j < TN; j++) {
        uint32_t pairs[2];
        widen_int8(pairs, words[j][h % 2 * 2 + k], scales[j]);
        o.b[j][2 * k] = pairs[0];
        o.b[j][2 * k + 1] = pairs[1];
    }
}

template <int TM, int TN>
static __device__ __forceinline__ void
multiply_step(float (&acc)[TM][TN][4], const operands<TM, TN> &o, int k)
{
#pragma unroll
    for (int i = 0; i < TM; i++) {
#pragma unroll
        for (int j = 0; j < TN; j++) {
            mma_16x8x16(acc[i][j], o.a[i][k], o.b[j][2 * k], o.b[j][2 * k + 1]);
        }
    }
}

/* ---- kernel ---- */

/* Multiplies half h while the one after it arrives. */
template <bool INT8, int TM, int TN>
static __device__ __forceinline__ void
multiply_half(float (&acc)[TM][TN][4], const operands<TM, TN> &now,
              operands<TM, TN> &next, const uint32_t (&words)[TN][4],
              const uint32_t (&scales)[TN], int h)
{
    const bool late = h % 2 == 1; /* the next half's words are being loaded */

    multiply_step<TM, TN>(acc, now, 0);
    if (INT8 && !late) {
        widen_step<TM, TN>(next, words, scales, h + 1, 0);
    }
    multiply_step<TM, TN>(acc, now, 1);
    if (INT8 && late) {
        widen_step<TM, TN>(next, words, scales, h + 1, 0);
    }
    if (INT8) {
        widen_step<TM, TN>(next, words, scales, h + 1, 1);
    }
}

template <bool INT8, int TM, int TN>
static __device__ __forceinline__ void
multiply(float (&acc)[TM][TN][4], const ring &r, int warp, const uint32_t (&scales)[TN])
{
    constexpr int HALVES = 2 * stage_blocks(INT8, TM, TN);
    const places p = places_of<INT8, TM, TN>(r.stages, warp);
    const bool first_lane = threadIdx.x % WARP_SIZE == 0;
    operands<TM, TN> o[2];
    uint32_t words[TN][4] = {};
    uint32_t distance = 0; /* of the stage from the first, in bytes */
    turn t = {0, 0};

    barrier_wait(r.full, 0);
    take_half<INT8, TM, TN>(o[0], words, p, 0, 0);
    if (INT8) {
        widen_step<TM, TN>(o[0], words, scales, 0, 0);
        widen_step<TM, TN>(o[0], words, scales, 0, 1);
    }
    for (int n_left = r.n_rounds; n_left > 0; n_left--) {
#pragma unroll
        for (int h = 0; h < HALVES; h++) {
            if (h + 1 < HALVES) {
                take_half<INT8, TM, TN>(o[(h + 1) % 2], words, p, distance, h + 1);
            } else if (n_left > 1) {
                barrier_wait(r.full + t.stage * 8, t.parity);
                take_half<INT8, TM, TN>(o[0], words, p, distance, 0);
            }
            if (h + 2 == HALVES) {
                __syncwarp(); /* every lane is done with the stage */
                if (first_lane) {
                    barrier_arrive(r.empty + t.stage * 8);
                }
                next_turn(t, r.n_stages);
                distance = t.stage * r.stage_bytes;
            }
            multiply_half<INT8, TM, TN>(acc, o[h % 2], o[(h + 1) % 2], words, scales,
                                        h);
        }
    }
}

/* The scales of a lane's rows of w, twice each. Rows past the end have the last one's;
 * their results are not stored. */
template <int TN>
static __device__ __forceinline__ void
load_scales(uint32_t (&scales)[TN], const gemm_stream &g, int first_row)
{
    const int row = first_row + threadIdx.x % WARP_SIZE / 4;

#pragma unroll
    for (int j = 0; j < TN; j++) {
        const float scale = g.scales[min(row + j * g.n_second, g.n - 1)];
        scales[j] = narrow_pair(scale, scale);
    }
}

template <bool INT8, int TM, int TN, enum product_output OUTPUT>
static __global__ void
__launch_bounds__(MAX_THREADS, 1) gemm_stream_kernel(const gemm_stream g)
{
    extern __shared__ __align__(128) unsigned char smem[];
    const int warp = threadIdx.x / WARP_SIZE;
    const int n_multiply = blockDim.x / WARP_SIZE - 2 * COPY_WARPS;
    const columns block = columns_of_block(g);
    const int first_column = block.begin + warp * 8;
    const int n_units = (block.end - block.begin) / 8,
              n_first = min(n_units, n_multiply);
    const uint32_t head = shared_address(smem);
    const ring r = {head + HEAD_BYTES,
                    head,
                    head + MAX_STAGES * 8,
                    g.n_stages,
                    stage_blocks(INT8, TM, TN) *
                        (TM * TILE_BYTES + n_multiply * TN * panel_bytes(INT8)),
                    g.k / (stage_blocks(INT8, TM, TN) * BLOCK_K)};

    if (threadIdx.x < (unsigned)g.n_stages) {
        uint64_t *barriers_smem = reinterpret_cast<uint64_t *>(smem);
        barrier_init(&barriers_smem[threadIdx.x], 2 * COPY_WARPS * WARP_SIZE);
        barrier_init(&barriers_smem[MAX_STAGES + threadIdx.x], n_multiply);
    }
    release_next_grid();
    __syncthreads(); /* the barriers are there */
    if (warp >= n_multiply + COPY_WARPS) {
        wait_for_grid();
        copy_inputs<INT8, TM, TN>(g, r, warp - n_multiply - COPY_WARPS);
    } else if (warp >= n_multiply) {
        copy_weights<INT8, TM, TN>(
            g, r, block.begin, n_first,
            OUTPUT == PRODUCT_SWIGLU ? n_first : n_units - n_first, warp - n_multiply);
        wait_for_grid();
    } else {
        float acc[TM][TN][4] = {};
        float2 before[TM][TN][2] = {};
        uint32_t scales[TN] = {};
        if (INT8) {
            load_scales<TN>(scales, g, first_column);
        }
        wait_for_grid();
        if (OUTPUT == PRODUCT_ADD && TM == 1) {
            load_before<TM, TN>(before, g, first_column, block.end);
        }
        multiply<INT8, TM, TN>(acc, r, warp, scales);
        store<TM, TN, OUTPUT>(g, acc, before, first_column, block.end);
    }
}

/* ---- launcher ---- */

typedef void stream_kernel(gemm_stream);

/* By row tiles, 1, 2 or 4, and panels of w per warp, 1 or 2. */
template <bool INT8, enum product_output OUTPUT>
static stream_kernel *
find_kernel(int TM, int TN)
{
    switch (TM * 2 + TN - 1) {
    case 2:
        return gemm_stream_kernel<INT8, 1, 1, OUTPUT>;
    case 3:
        return gemm_stream_kernel<INT8, 1, 2, OUTPUT>;
    case 4:
        return gemm_stream_kernel<INT8, 2, 1, OUTPUT>;
    case 5:
        return gemm_stream_kernel<INT8, 2, 2, OUTPUT>;
    case 8:
        return gemm_stream_kernel<INT8, 4, 1, OUTPUT>;
    default:
        return gemm_stream_kernel<INT8, 4, 2, OUTPUT>;
    }
}

template <bool INT8>
static stream_kernel *
kernel_of(enum product_output output, int TM, int TN)
{
    return output == PRODUCT_SWIGLU ? find_kernel<INT8, PRODUCT_SWIGLU>(TM, 2)
           : output == PRODUCT_ADD  ? find_kernel<INT8, PRODUCT_ADD>(TM, TN)
                                    : find_kernel<INT8, PRODUCT_STORE>(TM, TN);
}

static inline cudaError_t
device_attribute(int *value, enum cudaDeviceAttr attribute)
{
    int device;
    cudaError_t status = cudaGetDevice(&device);

    return status == cudaSuccess ? cudaDeviceGetAttribute(value, attribute, device)
                                 : status;
}

static inline cudaError_t
limits_of_device(struct device_limits *limits)
{
    cudaError_t status =
        device_attribute(&limits->n_multiprocessors, cudaDevAttrMultiProcessorCount);

    return status == cudaSuccess
               ? device_attribute(&limits->smem_bytes,
                                  cudaDevAttrMaxSharedMemoryPerBlockOptin)
               : status;
}

/* Allows each kernel as much shared memory as the device has. */
template <bool INT8>
static cudaError_t
init_kernels(void)
{
    struct device_limits device;
    cudaError_t status = limits_of_device(&device);

    for (int output = PRODUCT_STORE; output <= PRODUCT_SWIGLU; output++) {
        for (int i = 0; i < 6 && status == cudaSuccess; i++) {
            status = cudaFuncSetAttribute(
                kernel_of<INT8>(static_cast<enum product_output>(output), 1 << i / 2,
                                i % 2 + 1),
                cudaFuncAttributeMaxDynamicSharedMemorySize, device.smem_bytes);
        }
    }
    return status;
}

/* m, ldx, ldy: at most GEMM_STREAM_MAX_ROWS rows. */
template <bool INT8>
static cudaError_t
launch_stream(void *y, const bf16 *x, struct operand w, int m, int n, int k, size_t ldx,
              size_t ldy, enum product_output output, struct stream stream)
{
    struct device_limits device;
    cudaError_t status = limits_of_device(&device);

    if (status != cudaSuccess) {
        return status;
    }
    const struct stream_plan p =
        plan_stream({m, n, k, output == PRODUCT_SWIGLU, INT8}, device);
    const gemm_stream g = {x, w.values, w.scales, y,          ldx,        ldy,       m,
                           n, k,        p.n_each, p.n_larger, p.n_second, p.n_stages};

    return launch(kernel_of<INT8>(output, p.row_tiles, p.n_panels), dim3(p.n_blocks),
                  p.n_threads, p.smem_bytes, stream, g);
}

#endif
