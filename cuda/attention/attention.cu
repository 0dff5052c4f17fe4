/* attention.cu: causal softmax attention over packed texts, on tensor cores from sm_80
 * on, and the choice of the kernel.
 *
 * A block of threads takes some consecutive queries of one text and one kv head; the
 * query heads that share the kv head are rows of the same tile. Keys come in tiles of
 * BLOCK_KV, cut by position in the text, with the online softmax across tiles (Milakov
 * and Gimelshein, arXiv 1805.02867). A row's result does not depend on other rows, so a
 * text's bits do not depend on its batch or on how it is cut. As on the CPU, the
 * denominator sums the probabilities rounded to bf16. In a small batch, where launches
 * take much of the time, this kernel also applies q-norm, k-norm and RoPE. */
#include "attention/attention.cuh"
#include "ops/rope.cuh"
#include "shared_memory.h"

#define BLOCK_KV ATTENTION_BLOCK_KV
#define NUM_WARPS 4
#define THREADS (NUM_WARPS * WARP_SIZE)

template <int HS> static constexpr int ROW_LENGTH = smem_row_length(HS);

/* ---- kernel ---- */

/* q_smem (ROWS, ROW_LENGTH) <- row r holds head r % group of query r / group; zeros
 * past the last query. */
template <int HS, int ROWS>
static __device__ __forceinline__ void
load_queries(bf16 *q_smem, const bf16 *q, const attention_work &a, int n_rows,
             size_t ld)
{
    constexpr int CHUNKS = HS / 8;

#pragma unroll 1
    for (int i = threadIdx.x; i < ROWS * CHUNKS; i += THREADS) {
        int row = i / CHUNKS, column = i % CHUNKS * 8;
        bool valid = row < n_rows;
        const bf16 *from = q + (row / a.group) * ld + (row % a.group) * HS + column;
        cp_async_16(q_smem + row * ROW_LENGTH<HS> + column, valid ? from : q, valid);
    }
}

/* kv_smem (n_rows, ROW_LENGTH) <- positions from start on; zeros past the text's end,
 * where another text's rows lie: 0 x NaN would let its NaN in. */
template <int HS>
static __device__ __forceinline__ void
load_keys(bf16 *kv_smem, const bf16 *kv, const attention_block &block, int start,
          int n_rows, size_t ld)
{
    constexpr int CHUNKS = HS / 8;

#pragma unroll 1
    for (int i = threadIdx.x; i < n_rows * CHUNKS; i += THREADS) {
        int position = start + i / CHUNKS, column = i % CHUNKS * 8;
        bool valid = position < block.n_keys;
        int row = position < block.n_prefix ? block.prefix_row + position
                                            : block.own_row + position - block.n_prefix;
        cp_async_16(kv_smem + i / CHUNKS * ROW_LENGTH<HS> + column,
                    valid ? kv + row * ld + column : kv, valid);
    }
}

/* s (16 rows, BLOCK_KV) = q (16, HS) k^T; zeros from column n_keys on, a multiple of
 * 16. */
template <int HS, int ROW_TILES>
static __device__ __forceinline__ void
multiply_keys(float (&s)[ROW_TILES][BLOCK_KV / 8][4], const bf16 *q_smem,
              const bf16 *k_smem, int n_keys)
{
    const int lane = threadIdx.x % WARP_SIZE;

#pragma unroll
    for (int i = 0; i < ROW_TILES; i++) {
#pragma unroll
        for (int j = 0; j < BLOCK_KV / 8; j++) {
            s[i][j][0] = s[i][j][1] = s[i][j][2] = s[i][j][3] = 0.0f;
        }
    }
#pragma unroll
    for (int k = 0; k < HS; k += 16) {
        uint32_t q[ROW_TILES][4];
#pragma unroll
        for (int i = 0; i < ROW_TILES; i++) {
            ldmatrix_x4(q[i], q_smem + (i * 16 + lane % 16) * ROW_LENGTH<HS> + k +
                                  lane / 16 * 8);
        }
#pragma unroll
        for (int j = 0; j < BLOCK_KV / 8; j += 2) {
            uint32_t b[4]; /* 16 keys */
            if (j * 8 >= n_keys) {
                break;
            }
            ldmatrix_x4(b, k_smem +
                               (j * 8 + lane / 16 * 8 + lane % 8) * ROW_LENGTH<HS> + k +
                               lane / 8 % 2 * 8);
#pragma unroll
            for (int i = 0; i < ROW_TILES; i++) {
                mma_16x8x16(s[i][j], q[i], b[0], b[1]);
                mma_16x8x16(s[i][j + 1], q[i], b[2], b[3]);
            }
        }
    }
}

/* A thread's two rows of 16: lane / 4 and 8 further on. */
struct softmax_rows {
    float max[2] = {-INFINITY, -INFINITY}; /* of the scores so far                 */
    float denominator[2] = {}; /* this thread's share of the probabilities         */
};

/* Scores of keys past a row's own position become -inf. start: position of the first
 * key, relative to the first query. */
static __device__ __forceinline__ void
mask(float (&s)[BLOCK_KV / 8][4], int first_row, int start, int group)
{
    const int lane = threadIdx.x % WARP_SIZE;

#pragma unroll
    for (int r = 0; r < 2; r++) {
        int n_seen = (first_row + r * 8 + lane / 4) / group - start + 1 - lane % 4 * 2;
#pragma unroll
        for (int j = 0; j < BLOCK_KV / 8; j++) {
#pragma unroll
            for (int i = 0; i < 2; i++) {
                if (j * 8 + i >= n_seen) {
                    s[j][2 * r + i] = -CUDART_INF_F;
                }
            }
        }
    }
}

/* p (16, BLOCK_KV) as mma's operand A <- 2^(scale (s - max)). Rescales o (16, HS).
 * Where the compiler could choose between a product and a fused one, the code does, so
 * that short and tall tiles give the same bits. */
template <int HS>
static __device__ __forceinline__ void
softmax_step(uint32_t (&p)[BLOCK_KV / 16][4], float (&s)[BLOCK_KV / 8][4],
             float (&o)[HS / 8][4], softmax_rows &rows, float scale)
{
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float top = rows.max[r];
#pragma unroll
        for (int j = 0; j < BLOCK_KV / 8; j++) {
            top = fmaxf(top, fmaxf(s[j][2 * r], s[j][2 * r + 1]));
        }
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
        float rescale = power_of_2((rows.max[r] - top) * scale);
        float scaled_top = top * scale, sum = 0.0f, other = 0.0f;
        rows.max[r] = top;
#pragma unroll
        for (int j = 0; j < BLOCK_KV / 8; j++) {
            float first = power_of_2(__fmaf_rn(s[j][2 * r], scale, -scaled_top));
            float second = power_of_2(__fmaf_rn(s[j][2 * r + 1], scale, -scaled_top));
            uint32_t pair = narrow_pair(first, second);
            sum += __uint_as_float(pair << 16);
            other += __uint_as_float(pair & 0xffff0000u);
            p[j / 2][j % 2 * 2 + r] = pair;
        }
        rows.denominator[r] =
            __fmaf_rn(rows.denominator[r], rescale, __fadd_rn(sum, other));
#pragma unroll
        for (int j = 0; j < HS / 8; j++) {
            o[j][2 * r] *= rescale;
            o[j][2 * r + 1] *= rescale;
        }
    }
}

/* o (16, HS) += p (16, n_keys) v; n_keys a multiple of 16. */
template <int HS, int ROW_TILES>
static __device__ __forceinline__ void
multiply_values(float (&o)[ROW_TILES][HS / 8][4],
                const uint32_t (&p)[ROW_TILES][BLOCK_KV / 16][4], const bf16 *v_smem,
                int n_keys)
{
    const int lane = threadIdx.x % WARP_SIZE;

#pragma unroll
    for (int k = 0; k < BLOCK_KV / 16; k++) {
        if (k * 16 >= n_keys) {
            break;
        }
#pragma unroll
        for (int j = 0; j < HS / 8; j += 2) {
            uint32_t b[4]; /* 16 columns */
            ldmatrix_x4_trans(b, v_smem + (k * 16 + lane % 16) * ROW_LENGTH<HS> +
                                     j * 8 + lane / 16 * 8);
#pragma unroll
            for (int i = 0; i < ROW_TILES; i++) {
                mma_16x8x16(o[i][j], p[i][k], b[0], b[1]);
                mma_16x8x16(o[i][j + 1], p[i][k], b[2], b[3]);
            }
        }
    }
}

/* o (16, HS) / denominator goes to the warp's rows of q_smem, then in 16-byte pieces to
 * where the queries were. */
template <int HS, int ROW_TILES>
static __device__ __forceinline__ void
store_output(bf16 *q, bf16 *q_smem, const float (&o)[ROW_TILES][HS / 8][4],
             const softmax_rows (&rows)[ROW_TILES], const attention_work &a,
             int first_row, int n_rows, size_t ld)
{
    constexpr int CHUNKS = HS / 8;
    const int lane = threadIdx.x % WARP_SIZE;

#pragma unroll
    for (int i = 0; i < ROW_TILES; i++) {
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float inverse = 1.0f / lane_sum(rows[i].denominator[r], 4);
            bf16 *to =
                q_smem + (i * 16 + r * 8 + lane / 4) * ROW_LENGTH<HS> + lane % 4 * 2;
#pragma unroll
            for (int j = 0; j < HS / 8; j++) {
                *reinterpret_cast<uint32_t *>(to + j * 8) =
                    narrow_pair(o[i][j][2 * r] * inverse, o[i][j][2 * r + 1] * inverse);
            }
        }
    }
    __syncwarp(); /* the warp's rows are complete; no other warp reads them */
#pragma unroll 1
    for (int i = lane; i < ROW_TILES * 16 * CHUNKS; i += WARP_SIZE) {
        int row = first_row + i / CHUNKS, column = i % CHUNKS * 8;
        if (row < n_rows) {
            store_16_bytes(
                q + (row / a.group) * ld + (row % a.group) * HS + column,
                load_16_bytes(q_smem + i / CHUNKS * ROW_LENGTH<HS> + column));
        }
    }
}

/* Blocks that a multiprocessor is to hold at once: of short ones, which wait for memory
 * most of the time, as many as shared memory lets in. Of raw ones there are few. */
template <int HS, int ROW_TILES, bool RAW>
static constexpr int MIN_BLOCKS = ROW_TILES == 1 && HS <= 128 && !RAW ? 4 : 1;

/* Keys of the tile at start that a block which sees end positions has to have. What it
 * has not would be multiplied by zero. */
static __device__ __forceinline__ int
count_loaded(int start, int end)
{
    return min(BLOCK_KV, (end - start + 15) / 16 * 16);
}

/* Norms and turns the keys of the tile at start, and before the first the queries. */
template <int HS>
static __device__ __forceinline__ void
norm_tile(bf16 *q_smem, bf16 *k_smem, const attention_work &a,
          const attention_block &block, int start, int n_loaded)
{
    if (start == 0) {
        norm_rows<HS, ROW_LENGTH<HS>, THREADS>(q_smem, block.n_queries * a.group,
                                               block.position, a.group, a.norm.q_weight,
                                               a.norm);
    }
    norm_rows<HS, ROW_LENGTH<HS>, THREADS>(k_smem, min(n_loaded, block.n_keys - start),
                                           start, 1, a.norm.k_weight, a.norm);
}

/* RAW: queries and keys are yet to be normed and turned. */
template <int HS, int ROW_TILES, bool RAW>
static __global__ void
__launch_bounds__(THREADS, MIN_BLOCKS<HS, ROW_TILES, RAW>)
    attention_kernel(const attention_work a)
{
    constexpr int ROWS = NUM_WARPS * ROW_TILES * 16;
    extern __shared__ __align__(16) unsigned char smem[];
    bf16 *q_smem = reinterpret_cast<bf16 *>(smem);
    bf16 *k_smem = q_smem + ROWS * ROW_LENGTH<HS>;
    bf16 *v_smem = k_smem + BLOCK_KV * ROW_LENGTH<HS>;

    release_next_grid();
    if (RAW) {
        prefetch_norm<HS, THREADS>(a.norm,
                                   min(BLOCK_KV, a.blocks[blockIdx.x / a.NKV].n_keys));
    }
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
        /* A warp past its last row's position, or past the queries, only loads. */
        bool busy = first_row < n_rows && start <= block.position + last_row / a.group;
        bool masked = start + BLOCK_KV - 1 > block.position;
        float s[ROW_TILES][BLOCK_KV / 8][4];
        uint32_t p[ROW_TILES][BLOCK_KV / 16][4];

        const int n_loaded = count_loaded(start, end);
        if (start == 0) {
            cp_async_wait<1>(); /* the first values may still be under way */
        } else {
            cp_async_wait<0>();
        }
        __syncthreads(); /* keys have arrived; all are done with the last values */
        if (RAW) {
            norm_tile<HS>(q_smem, k_smem, a, block, start, n_loaded);
            __syncthreads(); /* queries and keys are made */
        }
        if (start > 0) {
            load_keys<HS>(v_smem, values, block, start, n_loaded, ld);
            cp_async_commit();
        }
        if (busy) {
            multiply_keys<HS, ROW_TILES>(s, q_smem + first_row * ROW_LENGTH<HS>, k_smem,
                                         n_loaded);
        }
        cp_async_wait<0>();
        __syncthreads(); /* values have arrived; all are done with these keys */
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
    store_output<HS, ROW_TILES>(q, q_smem + first_row * ROW_LENGTH<HS>, o, rows, a,
                                first_row, n_rows, ld);
}

/* ---- launchers ---- */

/* A tile's rows are 64, or 128 where the accumulators leave registers for it. */
struct variant {
    void (*kernel)(attention_work);
    int HS, rows, smem_bytes;
    bool tall, raw;
};

template <int HS, int ROW_TILES, bool RAW>
static constexpr variant
make_variant(bool tall)
{
    constexpr int ROWS = NUM_WARPS * ROW_TILES * 16;
    return {attention_kernel<HS, ROW_TILES, RAW>,     HS,   ROWS,
            attention_smem_bytes(HS, ROWS, BLOCK_KV), tall, RAW};
}

static const variant variants[] = {
    make_variant<64, 1, false>(false),  make_variant<64, 2, false>(true),
    make_variant<96, 1, false>(false),  make_variant<96, 2, false>(true),
    make_variant<128, 1, false>(false), make_variant<128, 2, false>(true),
    make_variant<256, 1, false>(false), make_variant<256, 1, false>(true),
    make_variant<64, 1, true>(false),   make_variant<96, 1, true>(false),
    make_variant<128, 1, true>(false),  make_variant<256, 1, true>(false),
};

static const variant *
find_variant(int HS, bool tall, bool raw)
{
    for (const variant &v : variants) {
        if (v.HS == HS && v.tall == tall && v.raw == raw) {
            return &v;
        }
    }
    return nullptr;
}

/* Tokens that a block may hold. 0 if the model's heads don't fit. */
static int
count_block_tokens(int NH, int NKV, int HS, bool tall)
{
    const variant *v = find_variant(HS, tall, false);

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

/* A text that is one tile of keys to the short kernel has the same bits from both. */
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
    const variant *v = find_variant(a->HS, tall, norm != NULL);
    attention_work work = {
        a->qkv, blocks,         a->NKV * n_blocks,
        a->NKV, a->NH / a->NKV, 1.44269504088896f / sqrtf((float)a->HS),
        {}};

    if (v == nullptr) {
        return cudaErrorInvalidValue;
    }
    if (norm != NULL) {
        work.norm = *norm;
    }
    if (tall && a->sm90) {
        return launch_attention_sm90(a, work, stream);
    }
    return launch(v->kernel, dim3(work.n_items), THREADS, v->smem_bytes, stream, work);
}
