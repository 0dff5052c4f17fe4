/* q8_0.h: rows of weights as GGUF's type Q8_0 stores them: blocks of 32 integers, each
 * after its scale in F16.
 *
 * They multiply activations in groups of 128, as int8 rows do, since X is then packed
 * the same way and an adapter's matrices may be int8 rows beside them. */
#ifndef QE_Q8_0_H
#define QE_Q8_0_H

#include <string.h>

#include "isa.h"
#include "threads.h"

#define QE_Q8_0_BLOCK 32        /* weights that share a scale       */
#define QE_Q8_0_BYTES 34        /* of a block                       */
#define QE_Q8_0_GROUP_BYTES 136 /* of QE_GROUP weights             */
#define QE_Q8_0_BLOCKS 4        /* in QE_GROUP weights              */

/* Of a row of k weights. */
static inline size_t
qe_q8_0_bytes(int k)
{
    return (size_t)k / QE_Q8_0_BLOCK * QE_Q8_0_BYTES;
}

/* The bits of a block's scale. */
static inline uint16_t
qe_q8_0_scale(const unsigned char *block)
{
    uint16_t bits;

    memcpy(&bits, block, sizeof bits);
    return bits;
}

static inline const int8_t *
qe_q8_0_values(const unsigned char *block)
{
    return (const int8_t *)block + sizeof(uint16_t);
}

/* h (n_padded) fp32 <- row (n), exactly, then zeros; n a multiple of QE_Q8_0_BLOCK. */
void qe_q8_0_widen(float *h, const unsigned char *row, int n, int n_padded);

/* sums (n, groups of k, QE_Q8_0_BLOCKS): of each block of rows (n, k); zeros past k. */
void qe_q8_0_sum(int16_t *sums, const unsigned char *rows, int n, int k,
                 struct qe_threads *threads);

#endif
