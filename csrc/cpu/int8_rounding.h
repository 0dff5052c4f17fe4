/* int8_rounding.h: one matrix from bf16 to int8 with a scale per row. */
#ifndef QE_INT8_ROUNDING_H
#define QE_INT8_ROUNDING_H

#include "../model.h"
#include "equalise.h"
#include "isa.h"
#include "threads.h"

#define QE_N_MATRICES 7 /* of a layer */

/* A matrix on its way to int8. */
struct qe_rounding {
    const void *from;     /* (n, k) bf16; NULL: values and scales are there        */
    const float *columns; /* (k) what columns are multiplied by, or NULL           */
    const float *rows;    /* (n) what rows are divided by, or NULL                 */
    int n, k;
    int int8_zero;
    int8_t *values;   /* (n, k)                                                    */
    float *scales;    /* (n)                                                       */
    int32_t *offsets; /* (n, groups) as in struct qe_int8_rows, or NULL            */
    bool in_blocks;   /* values are Q8_0, without scales and offsets               */
};

/* A layer's q, k, v, o, gate, up and down, with what they are scaled by: `from` is set,
 * or, of matrices in int8, values and scales, which are the layer's. */
void qe_int8_list(const struct qe_config *config, const struct qe_layer *layer,
                  const struct qe_equaliser *equaliser,
                  struct qe_rounding list[QE_N_MATRICES]);

/* Fills values, scales and offsets. */
void qe_int8_round(const struct qe_rounding *rounding, struct qe_threads *threads);

#endif
