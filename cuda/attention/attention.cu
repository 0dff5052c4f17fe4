/* attention.cu: causal softmax attention over packed texts, on tensor cores from sm_80
 * on, and the choice of the kernel.
 *
 * A block of threads takes some consecutive queries of one text and one kv head; the
 * query heads that share the kv head are rows of the same tile. Keys come in tiles of
 * BLOCK_KV, cut by position in the text, with the online softmax across tiles (Milakov
 * and Gimelshein, arXiv 1805.02867). A row's result does not depend on other rows, so a
 * text's bits do not depend on its batch or on how it is cut. As on the CPU, the
 * denominator sums the probabilities rounded to bf16. */
#include "attention/attention_tile.cuh"
#include "shared_memory.h"

/* ---- kernel ---- */

/* Least number of blocks resident on a multiprocessor. Short blocks wait for memory
 * most of the time, so it is as many as shared memory admits. */
template <int HS, int ROW_TILES>
static constexpr int MIN_BLOCKS = ROW_TILES == 1 && HS <= 128 ? 4 : 1;

template <int HS, int ROW_TILES>
static __global__ void
__launch_bounds__(TILE_THREADS, MIN_BLOCKS<HS, ROW_TILES>)
    attention_kernel(const attention_work a)
{
    constexpr int ROWS = TILE_WARPS * ROW_TILES * 16;
    extern __shared__ __align__(16) unsigned char smem[];
    bf16 *q_smem = reinterpret_cast<bf16 *>(smem);
    bf16 *k_smem = q_smem + ROWS * ROW_LENGTH<HS>;
    bf16 *v_smem = k_smem + BLOCK_KV * ROW_LENGTH<HS>;

    release_next_grid();
    wait_for_grid();
    const attention_block block = a.blocks[blockIdx.x / a.NKV];
    const int kv_head = blockIdx.x % a.NKV, NH = a.NKV * a.group;
    const size_t ld = (size_t)(NH + 2 * a.NKV) * HS;
    bf16 *q = a.qkv + block.row * ld + (size_t)kv_head * a.group * HS;
    const bf16 *keys = a.qkv + (size_t)(NH + kv_head) * HS;
    const bf16 *values = keys + (size_t)a.NKV * HS;
    const int n_rows = block.n_queries * a.group;
    const int first_row = threadIdx.x / WARP_SIZE * ROW_TILES * 16; /* of the warp */
    const int last_row = min(first_row + ROW_TILES * 16, n_rows) - 1;
    const int end = block.position + block.n_queries; /* of the positions seen */
    float o[ROW_TILES][HS / 8][4] = {};
    softmax_rows rows[ROW_TILES];

    load_queries<HS, ROWS>(q_smem, q, a, n_rows, ld);
    load_keys<HS>(k_smem, keys, block, 0, count_loaded(0, end), ld);
    cp_async_commit();
    load_keys<HS>(v_smem, values, block, 0, count_loaded(0, end), ld);
    cp_async_commit();
    for (int start = 0; start < end; start += BLOCK_KV) {
        /* A warp beyond its last row's position, or beyond the queries, only loads
         * data. */
        bool busy = first_row < n_rows && start <= block.position + last_row / a.group;
        bool masked = start + BLOCK_KV - 1 > block.position;
        float s[ROW_TILES][BLOCK_KV / 8][4];
        uint32_t p[ROW_TILES][BLOCK_KV / 16][4];

        const int n_loaded = count_loaded(start, end);
        if (start == 0) {
            cp_async_wait<1>(); /* the first values may still be in flight */
        } else {
            cp_async_wait<0>();
        }
        __syncthreads(); /* keys have arrived; all warps have read the last values */
        if (start > 0) {
            load_keys<HS>(v_smem, values, block, start, n_loaded, ld);
            cp_async_commit();
        }
        if (busy) {
            multiply_keys<HS, ROW_TILES>(s, q_smem + first_row * ROW_LENGTH<HS>, k_smem,
                                         n_loaded);
        }
        cp_async_wait<0>();
        __syncthreads(); /* values have arrived; all warps have read these keys */
        if (start + BLOCK_KV < end) {
            load_keys<HS>(k_smem, keys, block, start + BLOCK_KV,
                          count_loaded(start + BLOCK_KV, end), ld);
            cp_async_commit();
        }
        if (busy) {
#pragma unroll
            for (int i = 0; i < ROW_TILES; i++) {
                if (masked) {
                    mask(s[i], first_row + i * 16, start - block.position, a.group);
                }
                softmax_step<HS>(p[i], s[i], o[i], rows[i], a.scale_log2);
            }
            multiply_values<HS, ROW_TILES>(o, p, v_smem, n_loaded);
        }
    }
    store_output<HS, ROW_TILES>(q, q_smem + first_row * ROW_LENGTH<HS>, o, rows,
                                a.group, first_row, n_rows, ld);
}

/* ---- launchers ---- */

/* A tile has 64 rows, or 128 where the accumulators leave enough registers. */
struct variant {
    void (*kernel)(attention_work);
    int HS, rows, smem_bytes;
    bool tall;
};

template <int HS, int ROW_TILES>
static constexpr variant
make_variant(bool tall)
{
    constexpr int ROWS = TILE_WARPS * ROW_TILES * 16;
    return {attention_kernel<HS, ROW_TILES>, HS, ROWS,
            attention_smem_bytes(HS, ROWS, BLOCK_KV), tall};
}

static const variant variants[] = {
    make_variant<64, 1>(false),  make_variant<64, 2>(true),
    make_variant<96, 1>(false),  make_variant<96, 2>(true),
    make_variant<128, 1>(false), make_variant<128, 2>(true),
    make_variant<256, 1>(false), make_variant<256, 1>(true),
};

static const variant *
find_variant(int HS, bool tall)
{
    for (const variant &v : variants) {
        if (v.HS == HS && v.tall == tall) {
            return &v;
        }
    }
    return nullptr;
}

/* The number of tokens per block; 0 if the model's heads do not fit. */
static int
count_block_tokens(int NH, int NKV, int HS, bool tall)
{
    const variant *v = find_variant(HS, tall);

    return v == nullptr ? 0 : v->rows / (NH / NKV);
}

bool
attention_fits(int NH, int NKV, int HS)
{
    return count_block_tokens(NH, NKV, HS, false) > 0;
}

/* ---- attention.h ---- */

cudaError_t
attention_open(struct attention *a, bf16 *qkv, int T, int NH, int NKV, int HS)
{
    int device;
    cudaError_t status = cudaGetDevice(&device);

    *a = {};
    a->qkv = qkv;
    a->NH = NH;
    a->NKV = NKV;
    a->HS = HS;
    if (status == cudaSuccess) {
        status = cudaDeviceGetAttribute(&a->n_multiprocessors,
                                        cudaDevAttrMultiProcessorCount, device);
    }
    for (const variant &v : variants) {
        if (status == cudaSuccess) {
            status = cudaFuncSetAttribute(
                v.kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, v.smem_bytes);
        }
    }
    if (status == cudaSuccess) {
        status = attention_raw_init(HS);
    }
    for (int tall = 0; tall < 2; tall++) {
        a->block_tokens[tall] = count_block_tokens(NH, NKV, HS, tall != 0);
    }
    if (status == cudaSuccess && HS == 128) {
        status = attention_sm90_open(a, T);
    }
    if (a->sm90) {
        a->block_tokens[1] = SM90_BLOCK_ROWS / (NH / NKV);
    }
    return status;
}

/* A text that fills one tile of keys of the short kernel gets the same bits from both
 * kernels. */
bool
attention_is_tall(const struct attention *a, int n_tokens, int n_keys, bool few)
{
    if (n_keys <= BLOCK_KV) {
        return !few && n_tokens > a->block_tokens[0];
    }
    return n_tokens > a->block_tokens[0] || a->sm90;
}

cudaError_t
attention_run(const struct attention *a, const struct attention_block *blocks,
              int n_blocks, bool tall, const struct head_norm *norm,
              struct stream stream)
{
    const variant *v = find_variant(a->HS, tall);
    attention_work work = {
        a->qkv, blocks,         a->NKV * n_blocks,
        a->NKV, a->NH / a->NKV, 1.44269504088896f / sqrtf((float)a->HS),
        {}};

    if (v == nullptr) {
        return cudaErrorInvalidValue;
    }
    if (norm != NULL) {
        work.n_items = a->NH * n_blocks;
        work.norm = *norm;
        return launch_attention_raw(a->HS, work, stream);
    }
    if (tall && a->sm90) {
        return launch_attention_sm90(a, work, stream);
    }
    return launch(v->kernel, dim3(work.n_items), TILE_THREADS, v->smem_bytes, stream,
                  work);
}
