/* attention_raw.cu: attention of small batches, which applies q-norm, k-norm and RoPE
 * itself.
 *
 * In small batches a launch costs more than repeated work. So a block of threads takes
 * the queries of one head, and every head that shares the keys normalises and rotates
 * them again. Whatever no kernel writes (weights, cosines and sines) is loaded while
 * the previous kernel still runs. Keys are one tile; its bits are those of
 * attention.cu. */
#include "attention/attention_tile.cuh"
#include "ops/rope.cuh"

/* Rows that a group of lanes processes at a time, so that their sums overlap. */
#define ROWS_AT_ONCE 4

/* Rows of queries come first, then those of keys. */
struct item {
    attention_block block;
    int head, kv_head;
    int n_loaded; /* keys, in whole steps of a product */
};

/* A lane's part of ROWS_AT_ONCE rows. */
struct lane_rows {
    half_pair turn[ROWS_AT_ONCE];
    int row[ROWS_AT_ONCE]; /* row of the item; -1: beyond the text's end */
};

/* From row first on. */
template <int HS>
static __device__ __forceinline__ void
load_turns(lane_rows &rows, const float *cos_sin, const item &it, int first)
{
    constexpr int LANES = HEAD_LANES<HS>, GROUPS = TILE_THREADS / LANES, HALF = HS / 2;
    const int column = threadIdx.x % LANES * 4, n_queries = it.block.n_queries;

#pragma unroll
    for (int i = 0; i < ROWS_AT_ONCE; i++) {
        const int row = first + i * GROUPS + threadIdx.x / LANES, key = row - n_queries;
        const int position = key < 0 ? it.block.position + row : key;
        const bool valid = key < min(it.n_loaded, it.block.n_keys) && column < HALF;

        rows.row[i] = valid ? row : -1;
        rows.turn[i] = {};
        if (valid) {
            rows.turn[i] =
                load_half_pair(cos_sin + (size_t)position * HS + column, HALF);
        }
    }
}

/* Row i of the item in qkv. */
template <int HS>
static __device__ __forceinline__ const bf16 *
find_row(const attention_work &a, const item &it, int i)
{
    const attention_block &b = it.block;
    const int NH = a.NKV * a.group, key = i - b.n_queries;
    const size_t ld = (size_t)(NH + 2 * a.NKV) * HS;

    if (key < 0) {
        return a.qkv + (b.row + i) * ld + it.head * HS;
    }
    const int row =
        key < b.n_prefix ? b.prefix_row + key : b.own_row + key - b.n_prefix;
    return a.qkv + row * ld + (NH + it.kv_head) * HS;
}

/* Selects values rather than addresses, which would put both arrays in local memory. */
static __device__ __forceinline__ half_pair
choose(bool first, const half_pair &a, const half_pair &b)
{
    half_pair chosen;

#pragma unroll
    for (int i = 0; i < 4; i++) {
        chosen.left[i] = first ? a.left[i] : b.left[i];
        chosen.right[i] = first ? a.right[i] : b.right[i];
    }
    return chosen;
}

/* q_smem, k_smem <- the item's rows, normalised and rotated; zeros for keys beyond the
 * text's end. rows: those loaded first. */
template <int HS>
static __device__ __forceinline__ void
make_heads(bf16 *q_smem, bf16 *k_smem, lane_rows &rows, const half_pair &q_weight,
           const half_pair &k_weight, const attention_work &a, const item &it)
{
    constexpr int LANES = HEAD_LANES<HS>, GROUPS = TILE_THREADS / LANES, HALF = HS / 2;
    const int column = threadIdx.x % LANES * 4, n_queries = it.block.n_queries;
    const int n_rows = n_queries + it.n_loaded;

    /* All lanes of a warp run the same number of rounds: the sums need every lane. */
    for (int first = 0; first < n_rows; first += ROWS_AT_ONCE * GROUPS) {
        half_pair x[ROWS_AT_ONCE] = {};

        if (first > 0) {
            load_turns<HS>(rows, a.norm.cos_sin, it, first);
        }
#pragma unroll
        for (int i = 0; i < ROWS_AT_ONCE; i++) {
            if (rows.row[i] >= 0) {
                x[i] = load_half_pair(find_row<HS>(a, it, rows.row[i]) + column, HALF);
            }
        }
#pragma unroll
        for (int i = 0; i < ROWS_AT_ONCE; i++) {
            const int row = first + i * GROUPS + threadIdx.x / LANES;
            const bool query = row < n_queries;

            norm_and_turn<HS>(x[i], choose(query, q_weight, k_weight), rows.turn[i],
                              a.norm.eps);
            if (row < n_rows && column < HALF) {
                bf16 *to_smem = query ? q_smem + row * ROW_LENGTH<HS>
                                      : k_smem + (row - n_queries) * ROW_LENGTH<HS>;
                store_half_pair(to_smem + column, HALF, x[i]);
            }
        }
    }
}

template <int HS>
static __global__ void
__launch_bounds__(TILE_THREADS) attention_raw_kernel(const attention_work a)
{
    extern __shared__ __align__(16) unsigned char smem[];
    bf16 *q_smem = reinterpret_cast<bf16 *>(smem);
    bf16 *k_smem = q_smem + BLOCK_KV * ROW_LENGTH<HS>;
    bf16 *v_smem = k_smem + BLOCK_KV * ROW_LENGTH<HS>;
    const int NH = a.NKV * a.group, column = threadIdx.x % HEAD_LANES<HS> * 4;
    const size_t ld = (size_t)(NH + 2 * a.NKV) * HS;
    half_pair q_weight = {}, k_weight = {};
    lane_rows rows;
    item it;

    release_next_grid();
    it.block = a.blocks[blockIdx.x / NH];
    it.head = blockIdx.x % NH;
    it.kv_head = it.head / a.group;
    it.n_loaded = count_loaded(0, it.block.position + it.block.n_queries);
    if (column < HS / 2) {
        q_weight = load_half_pair(a.norm.q_weight + column, HS / 2);
        k_weight = load_half_pair(a.norm.k_weight + column, HS / 2);
    }
    load_turns<HS>(rows, a.norm.cos_sin, it, 0);
    wait_for_grid();
    load_keys<HS>(v_smem, a.qkv + (size_t)(NH + a.NKV + it.kv_head) * HS, it.block, 0,
                  it.n_loaded, ld);
    cp_async_commit();
    make_heads<HS>(q_smem, k_smem, rows, q_weight, k_weight, a, it);
    cp_async_wait<0>();
    __syncthreads(); /* queries, keys and values are there */
    const int first_row = threadIdx.x / WARP_SIZE * 16; /* of the warp */
    if (first_row < it.block.n_queries) {
        float s[1][BLOCK_KV / 8][4], o[1][HS / 8][4] = {};
        uint32_t p[1][BLOCK_KV / 16][4];
        softmax_rows sums[1];
        multiply_keys<HS, 1>(s, q_smem + first_row * ROW_LENGTH<HS>, k_smem,
                             it.n_loaded);
        mask(s[0], first_row, -it.block.position, 1);
        softmax_step<HS>(p[0], s[0], o[0], sums[0], a.scale_log2);
        multiply_values<HS, 1>(o, p, v_smem, it.n_loaded);
        store_output<HS, 1>(a.qkv + it.block.row * ld + it.head * HS,
                            q_smem + first_row * ROW_LENGTH<HS>, o, sums, 1, first_row,
                            it.block.n_queries, ld);
    }
}

/* ---- launcher ---- */

typedef void raw_kernel(attention_work);

static raw_kernel *
find_kernel(int HS)
{
    return HS == 64    ? attention_raw_kernel<64>
           : HS == 96  ? attention_raw_kernel<96>
           : HS == 128 ? attention_raw_kernel<128>
                       : attention_raw_kernel<256>;
}

cudaError_t
attention_raw_init(int HS)
{
    return cudaFuncSetAttribute(find_kernel(HS),
                                cudaFuncAttributeMaxDynamicSharedMemorySize,
                                attention_smem_bytes(HS, BLOCK_KV, BLOCK_KV));
}

cudaError_t
launch_attention_raw(int HS, const attention_work &work, struct stream stream)
{
    return launch(find_kernel(HS), dim3(work.n_items), TILE_THREADS,
                  attention_smem_bytes(HS, BLOCK_KV, BLOCK_KV), stream, work);
}
