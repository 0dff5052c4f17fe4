/* gemm_sm90.cu: gate, up and SwiGLU in one kernel on Hopper, so that gate and up never
 * reach memory.
 *
 * A block of threads is a producer and two consumer warpgroups; each consumer holds 64
 * rows of a tile, 128 columns of gate and the 128 of up that belong to them. Two blocks
 * with the same columns make a cluster: each copies half of the weights' tile to both.
 * The second consumer runs a little behind the first, so that the products of one meet
 * the SwiGLU of the other. The sum is one chain over k, rounded as swiglu.cu has it. */
#include "gemm_sm90.h"
#include "sm90.cuh"

#define BLOCK_ROWS 128
#define BLOCK_COLUMNS 128 /* of gate, and of up */
#define BLOCK_K 64
#define STAGES 4
#define N_CONSUMERS 2
#define CLUSTER 2
#define THREADS ((1 + N_CONSUMERS) * WARPGROUP_SIZE)
#define X_BYTES (BLOCK_ROWS * BLOCK_K * 2)
#define W_BYTES (2 * BLOCK_COLUMNS * BLOCK_K * 2)
/* Clusters at work at a time read few rows and few columns, which stay in the L2. */
#define GROUP_ROWS 8
/* Steps over k that the second consumer is behind. */
#define LAG 2
#define LAG_BARRIER 1

#define PRODUCER_REGISTERS 40
#define CONSUMER_REGISTERS 232

struct gemm_maps {
    CUtensorMap x, w;
};

/* Of one product. */
struct gemm_work {
    bf16 *y;
    int m, n_steps;         /* rows; k / BLOCK_K                           */
    int n_columns;          /* of y                                        */
    int n_row_pairs, n_col; /* tiles: pairs down, columns across           */
    size_t ldy;
};

struct gemm_memory {
    unsigned char x[STAGES][X_BYTES], w[STAGES][W_BYTES];
    uint64_t full[STAGES], empty[STAGES];
};

struct stage_place {
    int stage;
    uint32_t parity;
};

static __device__ __forceinline__ void
advance(stage_place &place)
{
    if (++place.stage == STAGES) {
        place.stage = 0;
        place.parity ^= 1;
    }
}

/* ---- clusters ---- */

static __device__ __forceinline__ uint32_t
cluster_rank(void)
{
    uint32_t rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;\n" : "=r"(rank));
    return rank;
}

static __device__ __forceinline__ void
cluster_sync(void)
{
    asm volatile("barrier.cluster.arrive.release.aligned;\n"
                 "barrier.cluster.wait.acquire.aligned;\n" ::
                     : "memory");
}

/* At the barrier in the same place of a block of the cluster. */
static __device__ __forceinline__ void
barrier_arrive_at(uint64_t *barrier_smem, uint32_t rank)
{
    asm volatile("{\n"
                 ".reg .b32 remote;\n"
                 "mapa.shared::cluster.u32 remote, %0, %1;\n"
                 "mbarrier.arrive.shared::cluster.b64 _, [remote];\n"
                 "}\n" ::"r"(shared_address(barrier_smem)),
                 "r"(rank)
                 : "memory");
}

/* One box to the same place of every block of the cluster, and to its barrier. */
static __device__ __forceinline__ void
copy_box_to_cluster(void *to_smem, const CUtensorMap *map, int column, int row,
                    uint64_t *barrier_smem)
{
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx:"
                 ":bytes.multicast::cluster [%0], [%1, {%3, %4}], [%2], %5;\n" ::"r"(
                     shared_address(to_smem)),
                 "l"(map), "r"(shared_address(barrier_smem)), "r"(column), "r"(row),
                 "h"((uint16_t)((1 << CLUSTER) - 1))
                 : "memory");
}

/* ---- tiles ---- */

/* The first row and column of a cluster's tile. */
struct tile {
    int row, column;
};

static __device__ __forceinline__ tile
tile_of(const gemm_work &a, int index, uint32_t rank)
{
    const int group = index / (GROUP_ROWS * a.n_col);
    const int in_group = index % (GROUP_ROWS * a.n_col);
    const int left = a.n_row_pairs - group * GROUP_ROWS;
    const int height = left < GROUP_ROWS ? left : GROUP_ROWS;
    const int pair = group * GROUP_ROWS + in_group % height;

    return {(pair * CLUSTER + (int)rank) * BLOCK_ROWS,
            in_group / height * BLOCK_COLUMNS};
}

/* ---- producer ---- */

[[maybe_unused]] static __device__ __forceinline__ void
produce(gemm_memory &s, const gemm_work &a, const gemm_maps &maps)
{
    const uint32_t rank = cluster_rank();
    stage_place place = {0, 1};

    for (int i = blockIdx.x / CLUSTER; i < a.n_row_pairs * a.n_col;
         i += gridDim.x / CLUSTER) {
        const tile t = tile_of(a, i, rank);
        const int w_row = t.column + (int)rank * a.n_columns; /* gate's, or up's */
        for (int step = 0; step < a.n_steps; step++) {
            unsigned char *w_smem = s.w[place.stage] + rank * (W_BYTES / CLUSTER);
            uint64_t *full = &s.full[place.stage];
            barrier_wait(&s.empty[place.stage], place.parity);
            barrier_arrive_expect(full, X_BYTES + W_BYTES);
            copy_box(s.x[place.stage], &maps.x, step * BLOCK_K, t.row, full);
            copy_box_to_cluster(w_smem, &maps.w, step * BLOCK_K, w_row, full);
            advance(place);
        }
    }
}

/* ---- consumers ---- */

/* This warp has read a stage; both blocks that fill it are told. */
static __device__ __forceinline__ void
release(uint64_t *empty)
{
    const int lane = threadIdx.x % WARP_SIZE;

    if (lane < CLUSTER) {
        barrier_arrive_at(empty, lane);
    }
}

/* Issues acc (64, 256) = or += x (64, BLOCK_K) w (256, BLOCK_K)^T. */
static __device__ __forceinline__ void
multiply_step(float (&acc)[128], const unsigned char *x_smem,
              const unsigned char *w_smem, bool add)
{
    const uint64_t x = describe_tile(x_smem, 0), w = describe_tile(w_smem, 0);

    wgmma_fence();
#pragma unroll
    for (int i = 0; i < BLOCK_K / 16; i++) {
        wgmma_64x256x16(acc, x + (i * 32 >> 4), w + (i * 32 >> 4), add || i > 0);
    }
    wgmma_commit();
}

/* Two columns of gate and of up, rounded to bf16 first. */
static __device__ __forceinline__ uint32_t
swiglu_pair(float gate0, float gate1, float up0, float up1)
{
    const uint32_t gate = narrow_pair(gate0, gate1), up = narrow_pair(up0, up1);

    return narrow_pair(
        swiglu(__uint_as_float(gate << 16), __uint_as_float(up << 16)),
        swiglu(__uint_as_float(gate & 0xffff0000u), __uint_as_float(up & 0xffff0000u)));
}

/* Neighbouring lanes exchange pairs of columns, so that each stores four and a row's
 * four lanes 32 bytes in one piece. */
static __device__ __forceinline__ void
store_rows(const float (&acc)[128], const gemm_work &a, int row, int column)
{
    const int lane = threadIdx.x % 4;
    const bool odd = lane % 2 == 1;
    const int first = column + (odd ? 8 : 0) + lane / 2 * 4;

#pragma unroll
    for (int r = 0; r < 2; r++) {
        bf16 *y = a.y + (size_t)(row + 8 * r) * a.ldy + first;
#pragma unroll
        for (int j = 0; j < BLOCK_COLUMNS / 8; j += 2) {
            const float *g = acc + 4 * j + 2 * r, *u = g + 64;
            uint32_t left = swiglu_pair(g[0], g[1], u[0], u[1]);
            uint32_t right = swiglu_pair(g[4], g[5], u[4], u[5]);
            uint32_t other = __shfl_xor_sync(0xffffffffu, odd ? left : right, 1);
            if (row + 8 * r < a.m) {
                *reinterpret_cast<uint2 *>(y + 8 * j) =
                    odd ? make_uint2(other, right) : make_uint2(left, other);
            }
        }
    }
}

[[maybe_unused]] static __device__ __forceinline__ void
consume(gemm_memory &s, const gemm_work &a, int consumer)
{
    const uint32_t rank = cluster_rank();
    const int warp = threadIdx.x / WARP_SIZE % 4, lane = threadIdx.x % WARP_SIZE;
    const int first_row = consumer * 64 + warp * 16 + lane / 4;
    stage_place place = {0, 0};
    float acc[128];
    bool ahead = consumer == 0;

    if (consumer > 0) {
        named_barrier_sync(LAG_BARRIER, 2 * WARPGROUP_SIZE);
    }
    for (int i = blockIdx.x / CLUSTER; i < a.n_row_pairs * a.n_col;
         i += gridDim.x / CLUSTER) {
        const tile t = tile_of(a, i, rank);
        int last_stage = 0;
        for (int step = 0; step < a.n_steps; step++) {
            barrier_wait(&s.full[place.stage], place.parity);
            multiply_step(acc, s.x[place.stage] + consumer * (X_BYTES / N_CONSUMERS),
                          s.w[place.stage], step > 0);
            if (step > 0) {
                wgmma_wait<1>();
                release(&s.empty[last_stage]);
            }
            if (ahead && (step == LAG || step == a.n_steps - 1)) {
                named_barrier_arrive(LAG_BARRIER, 2 * WARPGROUP_SIZE);
                ahead = false;
            }
            last_stage = place.stage;
            advance(place);
        }
        wgmma_wait<0>();
        pin_registers(acc);
        release(&s.empty[last_stage]);
        store_rows(acc, a, t.row + first_row, t.column);
    }
}

static __global__ void
__launch_bounds__(THREADS, 1)
    gemm_sm90_kernel(const gemm_work a, const __grid_constant__ gemm_maps maps)
{
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    extern __shared__ __align__(1024) unsigned char smem[];
    gemm_memory &s = *reinterpret_cast<gemm_memory *>(smem);
    const int warpgroup = __shfl_sync(0xffffffffu, threadIdx.x / WARPGROUP_SIZE, 0);

    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) {
            barrier_init(&s.full[i], 1);
            barrier_init(&s.empty[i], CLUSTER * N_CONSUMERS * 4);
        }
        fence_barrier_init();
    }
    cluster_sync(); /* the barriers of both blocks are there */
    if (warpgroup == 0) {
        fewer_registers<PRODUCER_REGISTERS>();
        if (threadIdx.x == 0) {
            produce(s, a, maps);
        }
        __syncwarp();
    } else {
        more_registers<CONSUMER_REGISTERS>();
        consume(s, a, warpgroup - 1);
    }
    cluster_sync(); /* no block ends while the other may still write to it */
#endif
}

/* ---- host ---- */

typedef CUresult (*encode_function)(CUtensorMap *, CUtensorMapDataType, cuuint32_t,
                                    void *, const cuuint64_t *, const cuuint64_t *,
                                    const cuuint32_t *, const cuuint32_t *,
                                    CUtensorMapInterleave, CUtensorMapSwizzle,
                                    CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

/* Boxes of 128 rows and BLOCK_K columns of a matrix. */
static CUresult
describe_matrix(CUtensorMap *map, const bf16 *matrix, int n_rows, int n_columns,
                size_t ld, encode_function encode)
{
    const cuuint64_t shape[2] = {(cuuint64_t)n_columns, (cuuint64_t)n_rows};
    const cuuint64_t row_bytes = ld * sizeof(bf16);
    const cuuint32_t box[2] = {BLOCK_K, BLOCK_ROWS}, step[2] = {1, 1};

    return encode(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, const_cast<bf16 *>(matrix),
                  shape, &row_bytes, box, step, CU_TENSOR_MAP_INTERLEAVE_NONE,
                  CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                  CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
}

cudaError_t
gemm_sm90_open(struct gemm_sm90 *gemm)
{
    cudaFuncAttributes code;
    cudaDriverEntryPointQueryResult found;
    int device, n_multiprocessors;
    cudaError_t status = cudaFuncGetAttributes(&code, gemm_sm90_kernel);

    *gemm = {};
    /* Other architectures have an empty kernel, which needs no registers to speak of.
     */
    if (status != cudaSuccess || code.numRegs < 100) {
        return status;
    }
    status = cudaFuncSetAttribute(gemm_sm90_kernel,
                                  cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  sizeof(struct gemm_memory));
    if (status == cudaSuccess) {
        status = cudaGetDriverEntryPointByVersion(
            "cuTensorMapEncodeTiled", &gemm->encode, 12000, cudaEnableDefault, &found);
    }
    if (status == cudaSuccess) {
        status = cudaGetDevice(&device);
    }
    if (status == cudaSuccess) {
        status = cudaDeviceGetAttribute(&n_multiprocessors,
                                        cudaDevAttrMultiProcessorCount, device);
        gemm->n_blocks = n_multiprocessors / CLUSTER * CLUSTER;
    }
    gemm->usable = status == cudaSuccess && gemm->encode != NULL;
    return status;
}

cudaError_t
launch_gemm_sm90(const struct gemm_sm90 *gemm, bf16 *y, const bf16 *x, const bf16 *w,
                 int m, int n, int k, size_t ldx, size_t ldy, cudaStream_t stream)
{
    const int rows = CLUSTER * BLOCK_ROWS;
    const struct gemm_work work = {
        y, m, k / BLOCK_K, n / 2, (m + rows - 1) / rows, n / 2 / BLOCK_COLUMNS, ldy};
    const int n_tiles = work.n_row_pairs * work.n_col * CLUSTER;
    const int n_blocks = n_tiles < gemm->n_blocks ? n_tiles : gemm->n_blocks;
    encode_function encode = reinterpret_cast<encode_function>(gemm->encode);
    struct gemm_maps maps;
    cudaLaunchAttribute cluster = {};
    cudaLaunchConfig_t config = {};

    if (!gemm->usable || k % BLOCK_K != 0 || n % (2 * BLOCK_COLUMNS) != 0 ||
        describe_matrix(&maps.x, x, m, k, ldx, encode) != CUDA_SUCCESS ||
        describe_matrix(&maps.w, w, n, k, (size_t)k, encode) != CUDA_SUCCESS) {
        return cudaErrorNotSupported;
    }
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim = {CLUSTER, 1, 1};
    config.gridDim = dim3(n_blocks);
    config.blockDim = dim3(THREADS);
    config.dynamicSmemBytes = sizeof(struct gemm_memory);
    config.stream = stream;
    config.attrs = &cluster;
    config.numAttrs = 1;
    return cudaLaunchKernelEx(&config, gemm_sm90_kernel, work, maps);
}
