/* places.h: where the rows of one forward pass belong: their tokens and positions, the
 * blocks of attention, and what is pooled into which vector.
 *
 * Built in pinned memory and brought to the device in one copy. */
#ifndef QE_PLACES_H
#define QE_PLACES_H

#include "attention.h"
#include "weights.h"

/* The same arrays in host or in device memory. */
struct place_arrays {
    int32_t *tokens;         /* (T)                                                   */
    int32_t *positions;      /* (T) in the text, prefix included                      */
    int32_t *last_rows;      /* (n_last) of the last token of each text with a vector */
    int32_t *last_positions; /* (n_last)                                              */
    struct pool_row *pool_rows;          /* (n_last) rows of h once only last rows are
                                            left                                      */
    struct attention_block *tall_blocks; /* (n_tall) longest first                    */
    struct attention_block *blocks;      /* (n_short) longest first                   */
    struct attention_block *last_blocks; /* (n_last) queries in rows 0, 1, ...        */
};

struct places {
    struct place_arrays host, device;
    int n_rows, n_last, n_tall, n_short;

    unsigned char *host_memory, *device_memory; /* (max_bytes) owned                  */
    int32_t *first_rows;  /* (max_seqs) of each sequence                              */
    int32_t *last_seqs;   /* (max_seqs) which sequence a vector is of                 */
    int32_t *n_by_length; /* (2, max_tiles + 1) blocks, by height and key tiles       */
    int max_rows, max_seqs, max_tiles;
    size_t max_bytes;
    const struct attention *attention; /* not owned; says how texts are cut           */
};

/* Device memory that places_open takes. */
size_t places_device_bytes(int max_rows, int max_seqs);

int places_open(const struct attention *attention, int max_rows, int max_seqs,
                int max_length, struct places *places, struct qe_error *err);

/* Fills the arrays for a batch and starts their copy. Vectors are cut into pieces of at
 * most ring_floats: pool_rows[].first begins again at 0 with each piece. */
cudaError_t places_fill(struct places *places, const struct qe_batch *batch,
                        size_t ring_floats, cudaStream_t stream);

/* Accepts zeroed and half-opened places. */
void places_close(struct places *places);

#endif
