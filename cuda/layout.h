/* layout.h: the layout of a batch: the token and position of each row, the blocks of
 * attention, and the rows to pool.
 *
 * It is built in pinned memory and reaches the device in one copy. */
#ifndef QE_LAYOUT_H
#define QE_LAYOUT_H

#include "attention/attention.h"
#include "weights.h"

/* Arrays in host memory, or their copies in device memory. */
struct layout_arrays {
    int32_t *tokens;         /* (T)                                                   */
    int32_t *positions;      /* (T) in the text, prefix included                      */
    int32_t *last_rows;      /* (n_last) of the last token of each text with a vector */
    int32_t *last_positions; /* (n_last)                                              */
    struct pool_row *pool_rows;          /* (n_last) rows of h at the end             */
    struct attention_block *tall_blocks; /* (n_tall) longest first                    */
    struct attention_block *blocks;      /* (n_short) longest first                   */
    struct attention_block *last_blocks; /* (n_last_tall + n_last_short) of one query
                                            each, in rows 0, 1, ...; tall ones first  */
};

struct layout {
    struct layout_arrays host, device;
    int n_vectors; /* texts with a vector */
    /* Lengths of the arrays. In a small batch they are padded (see SMALL_ROWS). */
    int n_rows, n_last, n_tall, n_short, n_last_tall, n_last_short;
    bool pruned; /* only last rows are left at the end */
    bool raw;    /* attention applies q-norm, k-norm and RoPE itself */
    bool small;  /* padded, and the ring has room for all results at once */
    size_t n_bytes;

    unsigned char *host_memory, *device_memory; /* (max_bytes) owned                  */
    int32_t *first_rows;  /* (max_seqs) of each sequence                              */
    int32_t *last_seqs;   /* (max_seqs) which sequence a vector is of                 */
    int32_t *n_by_length; /* (2, max_tiles + 1) blocks, by height and key tiles       */
    int max_rows, max_seqs, max_tiles;
    size_t max_bytes;
    const struct attention *attention; /* not owned; says how texts are cut           */
};

/* Device memory that layout_open takes. */
size_t layout_device_bytes(int max_rows, int max_seqs);

int layout_open(const struct attention *attention, int max_rows, int max_seqs,
                int max_length, struct layout *layout, struct qe_error *err);

/* The arrays of a batch of up to SMALL_ROWS rows are padded to a few lengths, so that
 * most batches find a graph of their lengths: rows by tokens 0, last rows by row 0
 * without an output, and blocks by ones whose query, key and output are the spare row
 * after the batch's. Of up to SMALLEST_ROWS rows the last layer is not pruned to last
 * tokens, because a few rows cost no more than one. Of up to RAW_ROWS,
 * whose blocks are short and see one tile of keys, attention applies q-norm, k-norm and
 * RoPE itself: a small batch spends much of its time on launches, and this saves one.
 */
#define SMALL_ROWS 2048
#define RAW_ROWS 512
#define SMALLEST_ROWS 64

/* Fills the arrays for a batch. Results are written in pieces of at most ring_floats:
 * pool_rows[].first restarts from 0 in each piece. */
void layout_fill(struct layout *layout, const struct qe_batch *batch,
                 size_t ring_floats);

/* Queues the copy to the device. */
cudaError_t layout_copy(struct layout *layout, cudaStream_t stream);

/* Accepts a zeroed or half-opened layout. */
void layout_close(struct layout *layout);

#endif
