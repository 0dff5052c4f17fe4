/* layout.cu: turns a batch into the work lists of attention and pooling. */
#include "layout.h"

#include <stdlib.h>
#include <string.h>

#include "arithmetic.h"
#include "cuda_error.h"

#define ROW_TILE 16

/* The place of one sequence's queries and keys. */
struct span {
    struct attention_block whole; /* all its queries as one block */
    int block_tokens;
    bool tall;
};

/* ---- arrays ---- */

template <typename T>
static void
place(T **pointer, unsigned char *base, size_t *used, size_t n_elements)
{
    *pointer = reinterpret_cast<T *>(base + *used);
    *used += round_up(n_elements * sizeof(T), 32);
}

/* Returns the bytes used. */
static size_t
lay_out(struct layout_arrays *a, unsigned char *base, const struct layout *p)
{
    size_t used = 0;

    place(&a->tokens, base, &used, p->n_rows);
    place(&a->positions, base, &used, p->n_rows);
    place(&a->last_rows, base, &used, p->n_last);
    place(&a->last_positions, base, &used, p->n_last);
    place(&a->pool_rows, base, &used, p->n_last);
    place(&a->tall_blocks, base, &used, p->n_tall);
    place(&a->blocks, base, &used, p->n_short);
    place(&a->last_blocks, base, &used, p->n_last_tall + p->n_last_short);
    return used;
}

size_t
layout_device_bytes(int max_rows, int max_seqs)
{
    /* Every block has at least one query; padding makes up to SMALL_ROWS of each kind.
     */
    const int n_last = max_seqs > SMALL_ROWS ? max_seqs : SMALL_ROWS;
    struct layout most = {};

    most.n_rows = max_rows;
    most.n_last = most.n_last_short = n_last;
    most.n_short = max_rows > SMALL_ROWS ? max_rows : SMALL_ROWS;
    most.n_tall = most.n_last_tall = SMALL_ROWS;
    struct layout_arrays unused;

    return lay_out(&unused, NULL, &most);
}

/* ---- filling ---- */

static struct span
span_of(const struct layout *p, const struct qe_batch *batch, int s)
{
    const struct qe_seq *seq = &batch->seqs[s];
    struct span span = {};

    span.whole.row = span.whole.own_row = p->first_rows[s];
    span.whole.n_queries = seq->n_tokens;
    if (seq->prefix >= 0) {
        span.whole.n_prefix = batch->seqs[seq->prefix].n_tokens;
        span.whole.prefix_row = p->first_rows[seq->prefix];
    }
    span.whole.position = span.whole.n_prefix;
    span.whole.n_keys = span.whole.n_prefix + seq->n_tokens;
    span.tall = attention_is_tall(p->attention, seq->n_tokens, span.whole.n_keys,
                                  batch->n_tokens <= RAW_ROWS);
    span.block_tokens = p->attention->block_tokens[span.tall];
    return span;
}

/* The rest of a span, from its query `first` on. */
static struct attention_block
cut_block(const struct span *span, int first)
{
    struct attention_block block = span->whole;
    block.row += first;
    block.position += first;
    block.n_queries = smaller(block.n_queries - first, span->block_tokens);
    return block;
}

static int
key_tiles(const struct attention_block *block)
{
    return ceil_div(block->position + block->n_queries, ATTENTION_BLOCK_KV);
}

/* Counts blocks by height and length. */
static void
count_blocks(struct layout *p, const struct qe_batch *batch)
{
    const int n_lengths = p->max_tiles + 1;

    memset(p->n_by_length, 0, 2 * n_lengths * sizeof *p->n_by_length);
    for (int s = 0; s < batch->n_seqs; s++) {
        struct span span = span_of(p, batch, s);
        for (int q = 0; q < span.whole.n_queries; q += span.block_tokens) {
            struct attention_block block = cut_block(&span, q);
            p->n_by_length[span.tall * n_lengths + key_tiles(&block)]++;
        }
    }
}

/* Whether all blocks are short and see one tile of keys, by the counts. */
static bool
sees_one_tile(const struct layout *p)
{
    const int n_lengths = p->max_tiles + 1;
    bool one = true;

    for (int i = 0; i < 2 * n_lengths; i++) {
        one = one && (i <= 1 || p->n_by_length[i] == 0);
    }
    return one;
}

/* Turns counts into each length's first place, longest first. Returns the total. */
static int
rank_lengths(int32_t *n_by_length, int n_lengths)
{
    int total = 0;

    for (int i = n_lengths - 1; i >= 0; i--) {
        int n = n_by_length[i];
        n_by_length[i] = total;
        total += n;
    }
    return total;
}

static void
fill_blocks(struct layout *p, const struct qe_batch *batch)
{
    const int n_lengths = p->max_tiles + 1;

    for (int s = 0; s < batch->n_seqs; s++) {
        struct span span = span_of(p, batch, s);
        for (int q = 0; q < span.whole.n_queries; q += span.block_tokens) {
            struct attention_block block = cut_block(&span, q);
            int at = p->n_by_length[span.tall * n_lengths + key_tiles(&block)]++;
            (span.tall ? p->host.tall_blocks : p->host.blocks)[at] = block;
        }
    }
}

static void
fill_rows(struct layout *p, const struct qe_batch *batch)
{
    int32_t *positions = p->host.positions;

    for (int s = 0; s < batch->n_seqs; s++) {
        const struct qe_seq *seq = &batch->seqs[s];
        int n_prefix = seq->prefix < 0 ? 0 : batch->seqs[seq->prefix].n_tokens;
        memcpy(p->host.tokens + p->first_rows[s], seq->tokens,
               seq->n_tokens * sizeof *seq->tokens);
        for (int i = 0; i < seq->n_tokens; i++) {
            *positions++ = n_prefix + i;
        }
    }
    for (int row = batch->n_tokens; row < p->n_rows; row++) {
        p->host.tokens[row] = 0;
        *positions++ = 0;
    }
}

/* A block whose result nobody reads. */
static struct attention_block
spare_block(const struct layout *p)
{
    struct attention_block block = {};

    block.row = block.own_row = p->max_rows;
    block.n_queries = block.n_keys = 1;
    return block;
}

/* The rows that are needed after the last layer's keys are computed. */
static void
fill_last(struct layout *p, const struct qe_batch *batch, size_t ring_floats)
{
    struct attention_block *const tall = p->host.last_blocks;
    struct attention_block *const short_ones = tall + p->n_last_tall;
    int n_tall = 0, n_short = 0;
    size_t first = 0;

    for (int i = 0; i < p->n_vectors; i++) {
        const struct qe_seq *seq = &batch->seqs[p->last_seqs[i]];
        struct span span = span_of(p, batch, p->last_seqs[i]);
        struct attention_block block = span.whole;

        p->host.last_rows[i] = block.row + block.n_queries - 1;
        p->host.last_positions[i] = block.n_keys - 1;
        block.row = i;
        block.position = block.n_keys - 1;
        block.n_queries = 1;
        if (attention_is_tall(p->attention, 1, block.n_keys, false)) {
            tall[n_tall++] = block;
        } else {
            short_ones[n_short++] = block;
        }
        if (first + seq->n_out > ring_floats) {
            first = 0;
        }
        p->host.pool_rows[i] =
            (struct pool_row){p->pruned ? i : p->host.last_rows[i], seq->n_out,
                              seq->kind == QE_UNIT, (int32_t)first};
        first += seq->n_out;
    }
    for (int i = p->n_vectors; i < p->n_last; i++) {
        p->host.last_rows[i] = p->host.last_positions[i] = 0;
        p->host.pool_rows[i] = {};
    }
    while (n_tall < p->n_last_tall) {
        tall[n_tall++] = spare_block(p);
    }
    while (n_short < p->n_last_short) {
        short_ones[n_short++] = spare_block(p);
    }
}

/* ---- lengths ---- */

/* Padded lengths: steps that add little to a pass and leave few different lengths. */
static int
padded_rows(int n_rows)
{
    return (int)round_up(n_rows, n_rows <= 64     ? ROW_TILE
                                 : n_rows <= 128  ? 2 * ROW_TILE
                                 : n_rows <= 1024 ? 4 * ROW_TILE
                                                  : 8 * ROW_TILE);
}

static int
power_of_two(int n)
{
    int power = 1;

    while (power < n) {
        power *= 2;
    }
    return power;
}

/* The numbers of blocks are derived from that of last rows where possible, so that few
 * combinations occur. */
static void
pad_lengths(struct layout *p)
{
    const int n_blocks = p->n_tall > p->n_short ? p->n_tall : p->n_short;
    const int n_padded =
        power_of_two(n_blocks > p->n_vectors ? n_blocks : p->n_vectors);

    p->n_rows = padded_rows(p->n_rows);
    /* Buffers hold n_rows rows, which is never less than the number of vectors. */
    p->n_last = p->n_vectors == 0 ? 0 : smaller(power_of_two(p->n_vectors), p->n_rows);
    p->n_tall = p->n_tall == 0 ? 0 : n_padded;
    p->n_short = p->n_short == 0 ? 0 : n_padded;
    p->n_last_tall = p->n_last_tall == 0 ? 0 : p->n_last;
    p->n_last_short = p->n_last_short == 0 ? 0 : p->n_last;
}

/* Counts rows, blocks and results of the batch, before padding. Returns the number of
 * floats in its results. */
static size_t
count_lengths(struct layout *p, const struct qe_batch *batch)
{
    size_t n_floats = 0;

    p->n_rows = p->n_vectors = p->n_last_tall = 0;
    for (int s = 0; s < batch->n_seqs; s++) {
        p->first_rows[s] = p->n_rows;
        p->n_rows += batch->seqs[s].n_tokens;
        if (batch->seqs[s].out != NULL) {
            p->last_seqs[p->n_vectors++] = s;
            n_floats += batch->seqs[s].n_out;
            p->n_last_tall += attention_is_tall(
                p->attention, 1, span_of(p, batch, s).whole.n_keys, false);
        }
    }
    p->n_last = p->n_vectors;
    p->n_last_short = p->n_last - p->n_last_tall;
    return n_floats;
}

void
layout_fill(struct layout *p, const struct qe_batch *batch, size_t ring_floats)
{
    const int n_lengths = p->max_tiles + 1;

    const size_t n_floats = count_lengths(p, batch);
    count_blocks(p, batch);
    p->raw = p->n_rows <= RAW_ROWS && sees_one_tile(p);
    p->n_short = rank_lengths(p->n_by_length, n_lengths);
    p->n_tall = rank_lengths(p->n_by_length + n_lengths, n_lengths);
    const int n_short = p->n_short, n_tall = p->n_tall;
    const int padded = padded_rows(p->n_rows);
    p->small = padded <= smaller(SMALL_ROWS, p->max_rows) && n_floats <= ring_floats;
    if (p->small) {
        pad_lengths(p);
    }
    p->pruned = p->n_rows > SMALLEST_ROWS;
    p->n_bytes = lay_out(&p->host, p->host_memory, p);
    lay_out(&p->device, p->device_memory, p);
    fill_rows(p, batch);
    fill_blocks(p, batch);
    for (int i = n_short; i < p->n_short; i++) {
        p->host.blocks[i] = spare_block(p);
    }
    for (int i = n_tall; i < p->n_tall; i++) {
        p->host.tall_blocks[i] = spare_block(p);
    }
    fill_last(p, batch, ring_floats);
}

cudaError_t
layout_copy(struct layout *p, cudaStream_t stream)
{
    return cudaMemcpyAsync(p->device_memory, p->host_memory, p->n_bytes,
                           cudaMemcpyHostToDevice, stream);
}

/* ---- open, close ---- */

int
layout_open(const struct attention *attention, int max_rows, int max_seqs,
            int max_length, struct layout *p, struct qe_error *err)
{
    p->max_rows = max_rows;
    p->max_seqs = max_seqs;
    p->max_tiles = ceil_div(max_length, ATTENTION_BLOCK_KV);
    p->max_bytes = layout_device_bytes(max_rows, max_seqs);
    p->attention = attention;
    p->first_rows = static_cast<int32_t *>(malloc(max_seqs * sizeof(int32_t)));
    p->last_seqs = static_cast<int32_t *>(malloc(max_seqs * sizeof(int32_t)));
    p->n_by_length =
        static_cast<int32_t *>(malloc(2 * (p->max_tiles + 1) * sizeof(int32_t)));
    if (p->first_rows == NULL || p->last_seqs == NULL || p->n_by_length == NULL) {
        return qe_fail(err, QE_ENOMEM, "batch: no memory for %d sequences", max_seqs);
    }
    CUDA_TRY(err, cudaMalloc(&p->device_memory, p->max_bytes));
    CUDA_TRY(err, cudaHostAlloc(&p->host_memory, p->max_bytes, cudaHostAllocDefault));
    return 0;
}

void
layout_close(struct layout *p)
{
    cudaFree(p->device_memory);
    cudaFreeHost(p->host_memory);
    free(p->first_rows);
    free(p->last_seqs);
    free(p->n_by_length);
    *p = {};
}
