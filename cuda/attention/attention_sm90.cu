/* attention_sm90.cu: causal softmax attention over packed texts on Hopper, for a head
 * size of 128.
 *
 * A block of threads has one producer and two consumer warpgroups. It processes items
 * of work, 128 rows of one text and kv head each, until none is left. The producer
 * loads queries, keys and values into rings of shared memory. Each consumer owns 64
 * rows: while it computes exponentials, the tensor cores (wgmma) multiply the next tile
 * of keys and the last tile of values. The two consumers take turns. Rows, tiles and
 * roundings are those of attention.cu, with tiles of 128 keys. */
#include "arithmetic.h"
#include "attention/attention_producer.cuh"

/* Registers per thread; the launch assigns 3 x 168. */
#define PRODUCER_REGISTERS 56
#define CONSUMER_REGISTERS 224

/* Named barriers: the turns of the consumers, and one for each consumer's own threads.
 */
#define TURN_BARRIER 1
#define OWN_BARRIER 3

/* ---- consumers ---- */

/* Two of a warp's 16 rows belong to each thread: lane / 4 and the one 8 further on. */
struct softmax_rows {
    float max[2];         /* of the scores so far                     */
    float denominator[2]; /* this thread's share of the probabilities */
    int position[2];      /* in the text                              */
};

/* What a thread of a consumer holds. */
struct consumer {
    int index, first_row;        /* of its warp                                  */
    int query[2];                /* of its two rows, from the item's first       */
    int store_query, store_head; /* of the first row that it stores              */
    int two_queries, two_heads;  /* what two rows further on adds to those       */
    ring_place k, v;
    softmax_rows rows;
    float scores[64], o[64];      /* (64, BLOCK_KV), (64, HS)                     */
    uint32_t p[BLOCK_KV / 16][4]; /* probabilities, as wgmma's operand A          */
};

/* Issues s (64, BLOCK_KV) = q (64, HS) k^T. */
static __device__ __forceinline__ void
multiply_keys(float (&s)[64], uint64_t q, uint64_t k)
{
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < HS / 16; i++) {
        int step = (i / 4 * HALF_BYTES + i % 4 * 32) >> 4;
        wgmma_64x128x16(s, q + step, k + step, i > 0);
    }
    wgmma_commit();
}

/* Issues o (64, HS) += p (64, BLOCK_KV) v. */
static __device__ __forceinline__ void
multiply_values(float (&o)[64], const uint32_t (&p)[BLOCK_KV / 16][4], uint64_t v)
{
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < BLOCK_KV / 16; i++) {
        wgmma_64x128x16(o, p[i], v + (i * 16 * 128 >> 4));
    }
    wgmma_commit();
}

/* Sets the scores of keys after a row's own position to -inf. start: position of the
 * first key. */
static __device__ __forceinline__ void
mask(float (&s)[64], const softmax_rows &rows, int start)
{
#pragma unroll
    for (int r = 0; r < 2; r++) {
        int n_seen = rows.position[r] - start + 1 - threadIdx.x % 4 * 2;
#pragma unroll
        for (int j = 0; j < BLOCK_KV / 8; j++) {
#pragma unroll
            for (int i = 0; i < 2; i++) {
                if (j * 8 + i >= n_seen) {
                    s[j * 4 + 2 * r + i] = -CUDART_INF_F;
                }
            }
        }
    }
}

/* s <- 2^(scale (s - max)), rounded to bf16. rescale: by which o must be multiplied. */
static __device__ __forceinline__ void
softmax_step(float (&s)[64], float (&rescale)[2], softmax_rows &rows, float scale)
{
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float top = rows.max[r], other = s[2 * r];
#pragma unroll
        for (int j = 0; j < BLOCK_KV / 8; j++) {
            top = fmaxf(top, s[j * 4 + 2 * r + 1]);
            other = fmaxf(other, s[j * 4 + 2 * r]);
        }
        top = fmaxf(top, other);
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
        rescale[r] = power_of_2((rows.max[r] - top) * scale);
        rows.max[r] = top;
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float scaled_top = rows.max[r] * scale, sum = 0.0f, other = 0.0f;
#pragma unroll
        for (int j = 0; j < BLOCK_KV / 8; j++) {
            float first = power_of_2(__fmaf_rn(s[j * 4 + 2 * r], scale, -scaled_top));
            float second =
                power_of_2(__fmaf_rn(s[j * 4 + 2 * r + 1], scale, -scaled_top));
            uint32_t pair = narrow_pair(first, second);
            s[j * 4 + 2 * r] = __uint_as_float(pair << 16);
            s[j * 4 + 2 * r + 1] = __uint_as_float(pair & 0xffff0000u);
            sum += s[j * 4 + 2 * r];
            other += s[j * 4 + 2 * r + 1];
        }
        rows.denominator[r] =
            __fmaf_rn(rows.denominator[r], rescale[r], __fadd_rn(sum, other));
    }
}

/* p <- s (64, BLOCK_KV), which is bf16 already, as wgmma's operand A. */
static __device__ __forceinline__ void
pack_probabilities(uint32_t (&p)[BLOCK_KV / 16][4], const float (&s)[64])
{
#pragma unroll
    for (int i = 0; i < BLOCK_KV / 4; i++) {
        p[i / 4][i % 4] = __byte_perm(__float_as_uint(s[2 * i]),
                                      __float_as_uint(s[2 * i + 1]), 0x7632);
    }
}

static __device__ __forceinline__ void
rescale_output(float (&o)[64], const float (&rescale)[2])
{
#pragma unroll
    for (int i = 0; i < 64; i++) {
        o[i] *= rescale[i / 2 % 2];
    }
}

static __device__ __forceinline__ void
zero_output(float (&o)[64])
{
#pragma unroll
    for (int i = 0; i < 64; i++) {
        o[i] = 0.0f;
    }
}

/* Waits until the operands of the next products are written. */
static __device__ __forceinline__ void
pin_operands(uint32_t (&p)[BLOCK_KV / 16][4], float (&o)[64])
{
#pragma unroll
    for (int i = 0; i < BLOCK_KV / 16 * 4; i++) {
        asm volatile("" : "+r"(p[i / 4][i % 4])::"memory");
    }
    pin_registers(o);
}

/* One arrival per warp, after the warp's last read. */
static __device__ __forceinline__ void
release(uint64_t *empty)
{
    __syncwarp();
    if (threadIdx.x % WARP_SIZE == 0) {
        barrier_arrive(empty);
    }
}

/* The two consumers issue products in turns, so that the exponentials of one overlap
 * the products of the other. */
static __device__ __forceinline__ void
begin_turn(int consumer)
{
    named_barrier_sync(TURN_BARRIER + consumer, 2 * WARPGROUP_SIZE);
}

static __device__ __forceinline__ void
end_turn(int consumer)
{
    named_barrier_arrive(TURN_BARRIER + 1 - consumer, 2 * WARPGROUP_SIZE);
}

/* Waits for the ring's next keys. This also keeps the compiler from waiting for
 * products before the exponentials that should overlap them. */
static __device__ __forceinline__ void
wait_for_next(shared_memory &s, const ring_place &k, bool is_next)
{
    if (is_next) {
        barrier_wait(&s.k_full[k.stage], k.parity);
    }
}

/* Writes o (64, HS) / denominator to the consumer's rows of q_smem, and from there in
 * 16-byte pieces to the place of the queries. */
static __device__ __forceinline__ void
store_output(const consumer &c, const attention_work &a, unsigned char *q_smem,
             uint64_t *empty, const item &done, const float (&denominator)[2])
{
    const int lane = threadIdx.x % WARP_SIZE;
    const size_t ld = (size_t)(a.NKV * a.group + 2 * a.NKV) * HS;
    bf16 *to =
        a.qkv + done.row * ld + (size_t)done.kv_head * a.group * HS + lane % 16 * 8;
    int query = c.store_query, head = c.store_head;

    asm volatile("" : "+r"(query), "+r"(head)); /* or all offsets are kept for good */
    named_barrier_sync(OWN_BARRIER + c.index, WARPGROUP_SIZE); /* q was read */
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float inverse = 1.0f / lane_sum(denominator[r], 4);
        int row = c.first_row + r * 8 + lane / 4;
#pragma unroll
        for (int j = 0; j < HS / 8; j++) {
            *reinterpret_cast<uint32_t *>(q_smem + piece_offset(row, j) +
                                          lane % 4 * 4) =
                narrow_pair(c.o[j * 4 + 2 * r] * inverse,
                            c.o[j * 4 + 2 * r + 1] * inverse);
        }
    }
    __syncwarp(); /* the warp's rows are complete; no other warp reads them */
    uint4 pieces[8];
#pragma unroll
    for (int i = 0; i < 8; i++) {
        int row = c.first_row + i * 2 + lane / 16;
        pieces[i] = load_16_bytes(q_smem + piece_offset(row, lane % 16));
    }
    fence_async_proxy(); /* the tensor copy engine writes the next queries there */
    release(empty);
#pragma unroll
    for (int i = 0; i < 8; i++) {
        if (c.first_row + i * 2 + lane / 16 < done.n_rows) {
            store_16_bytes(to + query * ld + head * HS, pieces[i]);
        }
        query += c.two_queries;
        head += c.two_heads;
        if (head >= a.group) {
            head -= a.group;
            query++;
        }
    }
}

static __device__ __forceinline__ void
begin_consumer(consumer &c, int index, int group)
{
    const int lane = threadIdx.x % WARP_SIZE;

    c.index = index;
    c.first_row = index * 64 + threadIdx.x % WARPGROUP_SIZE / WARP_SIZE * 16;
    c.query[0] = (c.first_row + lane / 4) / group;
    c.query[1] = (c.first_row + 8 + lane / 4) / group;
    c.store_query = (c.first_row + lane / 16) / group;
    c.store_head = (c.first_row + lane / 16) % group;
    c.two_queries = 2 / group;
    c.two_heads = 2 % group;
    c.k = c.v = {};
}

/* Waits for an item and its first keys. Returns its queries as wgmma reads them. */
static __device__ __forceinline__ uint64_t
begin_item(consumer &c, shared_memory &s, const item &now, int stage)
{
#pragma unroll
    for (int r = 0; r < 2; r++) {
        c.rows.max[r] = -CUDART_INF_F;
        c.rows.denominator[r] = 0.0f;
        c.rows.position[r] = now.position + c.query[r];
    }
    barrier_wait(&s.k_full[c.k.stage], c.k.parity);
    return describe_tile(s.q[stage] + c.index * 64 * 128, 16);
}

/* Softmax of a tile whose products are complete; n_seen: keys that all rows see. */
static __device__ __forceinline__ void
take_scores(consumer &c, shared_memory &s, float (&rescale)[2], int start, int n_seen,
            float scale)
{
    pin_registers(c.scores);
    release(&s.k_empty[c.k.stage]);
    advance<STAGES>(c.k);
    if (start + BLOCK_KV > n_seen) {
        mask(c.scores, c.rows, start);
    }
    softmax_step(c.scores, rescale, c.rows, scale);
}

/* Multiplies a tile of keys, and the values of the previous tile, which may be the last
 * of the previous item. Leaves probabilities in scores. */
static __device__ __forceinline__ void
step(consumer &c, shared_memory &s, float (&rescale)[2], uint64_t queries, int start,
     int n_seen, bool is_next, float scale)
{
    begin_turn(c.index);
    multiply_keys(c.scores, queries, describe_tile(s.k[c.k.stage], 16));
    barrier_wait(&s.v_full[c.v.stage], c.v.parity);
    multiply_values(c.o, c.p, describe_tile(s.v[c.v.stage], HALF_BYTES));
    end_turn(c.index);
    wgmma_wait<1>();
    take_scores(c, s, rescale, start, n_seen, scale);
    pin_registers(c.scores);
    wait_for_next(s, c.k, is_next);
    wgmma_wait<0>();
    pin_operands(c.p, c.o);
    release(&s.v_empty[c.v.stage]);
    advance<STAGES>(c.v);
}

[[maybe_unused]] static __device__ __forceinline__ void
consume(shared_memory &s, const attention_work &a, int index)
{
    const int first_query = index * 64 / a.group;
    consumer c;
    ring_place q = {};
    float rescale[2];
    int stage = 0; /* of the item in q */

    begin_consumer(c, index, a.group);
    zero_output(c.o);
    barrier_wait(&s.q_full[0], 0);
    item now = s.items[0];
    uint64_t queries = begin_item(c, s, now, 0);
    int n_seen = now.position + first_query + 1;
    multiply_keys(c.scores, queries, describe_tile(s.k[0], 16));
    wgmma_wait<0>();
    take_scores(c, s, rescale, 0, n_seen, a.scale_log2);
    pack_probabilities(c.p, c.scores);
    pin_operands(c.p, c.o);
    wait_for_next(s, c.k, 1 < now.n_tiles);
    if (index == 1) {
        end_turn(index); /* the other begins */
    }
    for (;;) {
        for (int i = 1; i < now.n_tiles; i++) {
            step(c, s, rescale, queries, i * BLOCK_KV, n_seen, i + 1 < now.n_tiles,
                 a.scale_log2);
            rescale_output(c.o, rescale);
            pack_probabilities(c.p, c.scores);
            pin_operands(c.p, c.o);
        }
        const item done = now;
        const float denominator[2] = {c.rows.denominator[0], c.rows.denominator[1]};
        unsigned char *done_smem = s.q[stage];
        uint64_t *done_empty = &s.q_empty[stage];

        advance<Q_STAGES>(q);
        barrier_wait(&s.q_full[q.stage], q.parity);
        if (s.items[q.stage].n_tiles == 0) {
            break;
        }
        now = s.items[q.stage];
        stage = q.stage;
        queries = begin_item(c, s, now, stage);
        n_seen = now.position + first_query + 1;
        step(c, s, rescale, queries, 0, n_seen, 1 < now.n_tiles, a.scale_log2);
        store_output(c, a, done_smem, done_empty, done, denominator);
        zero_output(c.o);
        pack_probabilities(c.p, c.scores);
        pin_operands(c.p, c.o);
    }
    barrier_wait(&s.v_full[c.v.stage], c.v.parity);
    multiply_values(c.o, c.p, describe_tile(s.v[c.v.stage], HALF_BYTES));
    wgmma_wait<0>();
    pin_registers(c.o);
    store_output(c, a, s.q[stage], &s.q_empty[stage], now, c.rows.denominator);
    if (index == 0) {
        begin_turn(index); /* takes the other's last end */
    }
}

/* The body is compiled for sm_90a only. The host recognises it by its launch bound. */
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define MAX_THREADS THREADS
#else
#define MAX_THREADS WARP_SIZE
#endif

static __global__ void
__launch_bounds__(MAX_THREADS, 1)
    attention_sm90_kernel(const attention_work a,
                          const __grid_constant__ attention_maps maps)
{
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    extern __shared__ __align__(1024) unsigned char smem[];
    shared_memory &s = *reinterpret_cast<shared_memory *>(smem);
    const int warpgroup = __shfl_sync(0xffffffffu, threadIdx.x / WARPGROUP_SIZE, 0);

    if (threadIdx.x == 0) {
        for (int i = 0; i < Q_STAGES; i++) {
            barrier_init(&s.q_full[i], 1);
            barrier_init(&s.q_empty[i], N_CONSUMERS * 4);
        }
        for (int i = 0; i < STAGES; i++) {
            barrier_init(&s.k_full[i], WARPGROUP_SIZE);
            barrier_init(&s.k_empty[i], N_CONSUMERS * 4);
            barrier_init(&s.v_full[i], WARPGROUP_SIZE);
            barrier_init(&s.v_empty[i], N_CONSUMERS * 4);
        }
        fence_barrier_init();
    }
    __syncthreads(); /* the barriers are there */
    if (warpgroup == 0) {
        fewer_registers<PRODUCER_REGISTERS>();
        produce(s, a, maps);
    } else {
        more_registers<CONSUMER_REGISTERS>();
        consume(s, a, warpgroup - 1);
    }
#endif
}

/* ---- host ---- */

/* The driver's function that describes a matrix to the tensor copy engine. */
typedef CUresult (*encode_function)(CUtensorMap *, CUtensorMapDataType, cuuint32_t,
                                    void *, const cuuint64_t *, const cuuint64_t *,
                                    const cuuint32_t *, const cuuint32_t *,
                                    CUtensorMapInterleave, CUtensorMapSwizzle,
                                    CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

static CUresult
describe_maps(attention_maps *maps, const struct attention *a, int T,
              encode_function encode)
{
    const cuuint32_t group = a->NH / a->NKV, step[3] = {1, 1, 1};
    const cuuint64_t n_heads = a->NH + 2 * a->NKV, columns = n_heads * HS;
    const cuuint64_t heads_shape[3] = {HS, n_heads, (cuuint64_t)T};
    const cuuint64_t heads_bytes[2] = {HS * sizeof(bf16), columns * sizeof(bf16)};
    const cuuint32_t heads_box[3] = {64, group, SM90_BLOCK_ROWS / group};
    const cuuint64_t rows_shape[2] = {columns, (cuuint64_t)T};
    const cuuint32_t rows_box[2] = {64, BLOCK_KV};
    CUresult result =
        encode(&maps->queries, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3, a->qkv, heads_shape,
               heads_bytes, heads_box, step, CU_TENSOR_MAP_INTERLEAVE_NONE,
               CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
               CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);

    if (result != CUDA_SUCCESS) {
        return result;
    }
    return encode(&maps->keys, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, a->qkv, rows_shape,
                  heads_bytes + 1, rows_box, step, CU_TENSOR_MAP_INTERLEAVE_NONE,
                  CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                  CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
}

cudaError_t
attention_sm90_open(struct attention *a, int T)
{
    cudaFuncAttributes code;
    cudaDriverEntryPointQueryResult found;
    void *encode = nullptr;
    cudaError_t status = cudaFuncGetAttributes(&code, attention_sm90_kernel);

    if (status != cudaSuccess || code.maxThreadsPerBlock < THREADS ||
        a->NH / a->NKV > SM90_BLOCK_ROWS) {
        return status;
    }
    status = cudaFuncSetAttribute(attention_sm90_kernel,
                                  cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  sizeof(shared_memory));
    if (status == cudaSuccess) {
        status = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &encode,
                                                  12000, cudaEnableDefault, &found);
    }
    if (status == cudaSuccess) {
        a->sm90 =
            encode != nullptr &&
            describe_maps(&a->maps, a, T, reinterpret_cast<encode_function>(encode)) ==
                CUDA_SUCCESS;
        status = a->sm90 ? cudaSuccess : cudaErrorInvalidValue;
    }
    return status;
}

cudaError_t
launch_attention_sm90(const struct attention *a, const attention_work &work,
                      struct stream stream)
{
    int n = smaller(work.n_items, a->n_multiprocessors);

    attention_sm90_kernel<<<n, THREADS, sizeof(shared_memory), stream.handle>>>(
        work, a->maps);
    return cudaGetLastError();
}
