/* attention_producer.cuh: the loading half of attention_sm90.cu: the order of the
 * items, the rings of shared memory, and the warpgroup that fills them.
 *
 * The tensor copy loads tiles that are contiguous and within one text. Tiles at the end
 * of a text, or across the end of a prefix, are loaded row by row. */
#ifndef QE_ATTENTION_PRODUCER_CUH
#define QE_ATTENTION_PRODUCER_CUH

#include "attention/attention.cuh"
#include "sm90.cuh"

#define BLOCK_KV 128
#define STAGES 2
#define N_CONSUMERS 2
#define THREADS ((1 + N_CONSUMERS) * WARPGROUP_SIZE)

static constexpr int HS = 128;

#define HALF_BYTES (128 * 128) /* 128 rows of 64 columns */
#define TILE_BYTES (2 * HALF_BYTES)

#define Q_STAGES 3

/* What the consumers have to know of an item. */
struct item {
    int n_tiles;  /* of keys; 0: there are no more items     */
    int position; /* of the first query in its text          */
    int n_rows;   /* each a head of a query                  */
    int kv_head;
    int row; /* of the first query in qkv               */
};

struct shared_memory {
    unsigned char q[Q_STAGES][TILE_BYTES]; /* output takes its place */
    unsigned char k[STAGES][TILE_BYTES], v[STAGES][TILE_BYTES];
    uint64_t q_full[Q_STAGES], q_empty[Q_STAGES];
    uint64_t k_full[STAGES], k_empty[STAGES], v_full[STAGES], v_empty[STAGES];
    item items[Q_STAGES];
};

/* A place in a ring and the parity of its phase. */
struct ring_place {
    int stage;
    uint32_t parity;
};

template <int N>
static __device__ __forceinline__ void
advance(ring_place &place)
{
    if (++place.stage == N) {
        place.stage = 0;
        place.parity ^= 1;
    }
}

/* ---- items ---- */

/* Items are sorted, longest first; every second round goes backwards, so that sums over
 * rounds come out even. Returns n_items where this block has none in the round. */
static __device__ __forceinline__ int
item_of_round(int round, int n_items)
{
    int n = gridDim.x, b = blockIdx.x;
    int item = round * n + (round % 2 == 0 ? b : n - 1 - b);

    return item < n_items ? item : n_items;
}

static __device__ __forceinline__ int
count_tiles(const attention_block &block)
{
    return (block.position + block.n_queries + BLOCK_KV - 1) / BLOCK_KV;
}

/* ---- producer ---- */

/* Byte offset in a tile of a row's 16-byte piece, of 16. */
static __device__ __forceinline__ int
piece_offset(int row, int piece)
{
    return piece / 8 * HALF_BYTES + row * 128 + ((piece % 8 ^ row % 8) << 4);
}

/* kv_smem <- positions from start on; zeros past the text's end, where another text's
 * rows lie: 0 x NaN would let its NaN in. */
static __device__ __forceinline__ void
load_rows(unsigned char *kv_smem, const bf16 *kv, const attention_block &block,
          int start, size_t ld)
{
    const int thread = threadIdx.x % WARPGROUP_SIZE;

#pragma unroll 4
    for (int i = thread / 16; i < BLOCK_KV; i += WARPGROUP_SIZE / 16) {
        int position = start + i;
        bool valid = position < block.n_keys;
        int row = position < block.n_prefix ? block.prefix_row + position
                                            : block.own_row + position - block.n_prefix;
        cp_async_16(kv_smem + piece_offset(i, thread % 16),
                    valid ? kv + row * ld + thread % 16 * 8 : kv, valid);
    }
}

/* What of a producer's loads by cp.async has not been announced yet. */
struct announcer {
    uint64_t *pending;
};

/* Ends a group of loads; the one before it has then arrived and is announced. */
static __device__ __forceinline__ void
announce(announcer &loads, uint64_t *full)
{
    cp_async_commit();
    if (loads.pending != nullptr) {
        cp_async_wait<1>();
        fence_async_proxy();
        barrier_arrive(loads.pending);
    }
    loads.pending = full;
}

/* An item and its queries into the ring's next place: row r holds head r % group of
 * query r / group. Rows past the last are of no use and may hold anything. */
static __device__ __forceinline__ void
load_queries(shared_memory &s, ring_place &place, const attention_work &a,
             const attention_maps &maps, const item &next)
{
    uint64_t *barrier = &s.q_full[place.stage];

    barrier_wait(&s.q_empty[place.stage], place.parity ^ 1);
    if (threadIdx.x % WARPGROUP_SIZE == 0) {
        s.items[place.stage] = next;
        if (next.n_tiles > 0) {
            unsigned char *tile = s.q[place.stage];
            int head = next.kv_head * a.group;
            barrier_arrive_expect(barrier, SM90_BLOCK_ROWS / a.group * a.group * HS *
                                               sizeof(bf16));
            copy_box(tile, &maps.queries, 0, head, next.row, barrier);
            copy_box(tile + HALF_BYTES, &maps.queries, 64, head, next.row, barrier);
        } else {
            barrier_arrive(barrier);
        }
    }
    advance<Q_STAGES>(place);
}

/* A tile of keys or of values into the ring's next place. column: its first in qkv.
 * Keys past the text's end may be anything, as their scores are masked. */
static __device__ __forceinline__ void
load_tile(unsigned char (*tiles)[TILE_BYTES], uint64_t *full, uint64_t *empty,
          ring_place &place, announcer &loads, const attention_work &a,
          const attention_maps &maps, const attention_block &block, int column,
          int start, bool is_key)
{
    unsigned char *tile = tiles[place.stage];
    uint64_t *barrier = &full[place.stage];
    bool in_prefix = start < block.n_prefix;
    bool whole = start + BLOCK_KV <= (in_prefix ? block.n_prefix : block.n_keys);

    barrier_wait(&empty[place.stage], place.parity ^ 1);
    if (whole || (is_key && !in_prefix)) {
        int row = in_prefix ? block.prefix_row + start
                            : block.own_row + start - block.n_prefix;
        if (threadIdx.x % WARPGROUP_SIZE == 0) {
            barrier_arrive_expect(barrier, TILE_BYTES);
            copy_box(tile, &maps.keys, column, row, barrier);
            copy_box(tile + HALF_BYTES, &maps.keys, column + 64, row, barrier);
        } else {
            barrier_arrive(barrier);
        }
        announce(loads, nullptr);
    } else {
        size_t ld = (size_t)(a.NKV * a.group + 2 * a.NKV) * HS;
        load_rows(tile, a.qkv + column, block, start, ld);
        announce(loads, barrier);
    }
    advance<STAGES>(place);
}

[[maybe_unused]] static __device__ __forceinline__ void
produce(shared_memory &s, const attention_work &a, const attention_maps &maps)
{
    ring_place q = {}, k = {}, v = {};
    announcer loads = {};
    int index = item_of_round(0, a.n_items);
    attention_block block = a.blocks[index / a.NKV];

    for (int round = 1; index < a.n_items; round++) {
        const int kv_head = index % a.NKV, n_tiles = count_tiles(block);
        const int k_column = (a.NKV * a.group + kv_head) * HS;
        const int v_column = k_column + a.NKV * HS;
        const int next_index = item_of_round(round, a.n_items);
        /* read early: what is not there yet would be waited for */
        const attention_block next = a.blocks[min(next_index, a.n_items - 1) / a.NKV];

        load_queries(
            s, q, a, maps,
            {n_tiles, block.position, block.n_queries * a.group, kv_head, block.row});
        for (int i = 0; i <= n_tiles; i++) {
            if (i < n_tiles) {
                load_tile(s.k, s.k_full, s.k_empty, k, loads, a, maps, block, k_column,
                          i * BLOCK_KV, true);
            }
            if (i > 0) {
                load_tile(s.v, s.v_full, s.v_empty, v, loads, a, maps, block, v_column,
                          (i - 1) * BLOCK_KV, false);
            }
        }
        index = next_index;
        block = next;
    }
    announce(loads, nullptr);
    load_queries(s, q, a, maps, {});
}

#endif
