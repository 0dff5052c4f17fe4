/* q8_0.h: rows of weights in GGUF's format Q8_0: blocks of an F16 scale and 32 signed
 * bytes.
 *
 * Activations are quantised in groups of 128, as for int8 weights. So one panel of X
 * serves both, and an adapter's int8 matrices can be used beside Q8_0 ones. */
#ifndef QE_Q8_0_H
#define QE_Q8_0_H

#include <string.h>

#include "isa.h"
#include "threads.h"

#define QE_Q8_0_BLOCK 32        /* weights per block             */
#define QE_Q8_0_BYTES 34        /* bytes per block               */
#define QE_Q8_0_GROUP_BYTES 136 /* bytes per QE_GROUP weights    */
#define QE_Q8_0_BLOCKS 4        /* blocks per QE_GROUP weights   */

/* The bytes of a row of k weights. */
static inline size_t
qe_q8_0_bytes(int k)
{
    return (size_t)k / QE_Q8_0_BLOCK * QE_Q8_0_BYTES;
}

/* A block's scale, as the bits of an F16. */
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

/* h (n_padded) fp32 <- row (n), without rounding, then zeros. n is a multiple of
 * QE_Q8_0_BLOCK. */
void qe_q8_0_widen(float *h, const unsigned char *row, int n, int n_padded);

/* sums (n, groups, QE_Q8_0_BLOCKS) <- the sum of the integers in each block of rows
 * (n, k); zeros for blocks past k. */
void qe_q8_0_sum(int16_t *sums, const unsigned char *rows, int n, int k,
                 struct qe_threads *threads);

#endif
