/* int8_rounding.h: rounds one matrix from bf16 to int8 with a scale per row. */
#ifndef QE_INT8_ROUNDING_H
#define QE_INT8_ROUNDING_H

#include "../model.h"
#include "equalise.h"
#include "isa.h"
#include "threads.h"

#define QE_N_MATRICES 7 /* of a layer */

/* One matrix to round. */
struct qe_rounding {
    const void *from;     /* (n, k) bf16; NULL: values and scales are input        */
    const float *columns; /* (k) columns are multiplied by it first; may be NULL   */
    const float *rows;    /* (n) rows are divided by it; may be NULL               */
    int n, k;
    int int8_zero;
    int8_t *values;   /* (n, k)                                                    */
    float *scales;    /* (n)                                                       */
    int32_t *offsets; /* (n, groups) as in struct qe_int8_rows, or NULL            */
    bool in_blocks;   /* values is Q8_0; scales and offsets are not used           */
};

/* Lists a layer's q, k, v, o, gate, up and down with their equaliser. Sets `from`, or,
 * for matrices that are int8 already, values and scales, which point to the layer's. */
void qe_int8_list(const struct qe_config *config, const struct qe_layer *layer,
                  const struct qe_equaliser *equaliser,
                  struct qe_rounding list[QE_N_MATRICES]);

/* Fills values and scales, unless they are input, and offsets, unless NULL. */
void qe_int8_round(const struct qe_rounding *rounding, struct qe_threads *threads);

#endif
