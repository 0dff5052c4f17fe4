/* places.h: where the rows of one forward pass belong: their tokens and positions, the
 * blocks of attention, and what is pooled into which vector.
 *
 * Built in pinned memory and brought to the device in one copy. */
#ifndef QE_PLACES_H
#define QE_PLACES_H

#include "attention/attention.h"
#include "weights.h"

/* The same arrays in host or in device memory. */
struct place_arrays {
    int32_t *tokens;         /* (T)                                                   */
    int32_t *positions;      /* (T) in the text, prefix included                      */
    int32_t *last_rows;      /* (n_last) of the last token of each text with a vector */
    int32_t *last_positions; /* (n_last)                                              */
    struct pool_row *pool_rows;          /* (n_last) rows of h at the end             */
    struct attention_block *tall_blocks; /* (n_tall) longest first                    */
    struct attention_block *blocks;      /* (n_short) longest first                   */
    struct attention_block *last_blocks; /* (n_last) queries in rows 0, 1, ...; tall
                                            ones first                                */
};

struct places {
    struct place_arrays host, device;
    int n_rows, n_last, n_tall, n_short;
    int n_last_tall; /* of last_blocks */
    bool pruned;     /* only last rows are left at the end */
    size_t n_bytes;

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

/* Rows up to which a batch is small: it is padded to full row tiles, so that batches
 * alike can share a graph. The last layer of SMALLEST is not pruned: few rows cost no
 * more than one. */
#define SMALL_ROWS 512
#define SMALLEST_ROWS 64

static inline bool
places_small(const struct places *places)
{
    return places->n_rows <= SMALL_ROWS;
}

/* Whether attention takes queries and keys as the products left them, to save a launch
 * where launches tell: its short blocks can. */
static inline bool
places_raw(const struct places *places)
{
    return places_small(places) && places->n_tall == 0;
}

/* Fills the arrays for a batch. Vectors are cut into pieces of at most ring_floats:
 * pool_rows[].first begins again at 0 with each piece. */
void places_fill(struct places *places, const struct qe_batch *batch,
                 size_t ring_floats);

/* Starts their copy to the device. */
cudaError_t places_copy(struct places *places, cudaStream_t stream);

/* Accepts zeroed and half-opened places. */
void places_close(struct places *places);

#endif
