/* int8_weights.h: a model's matrices rounded to int8, in memory of the backend's own,
 * or used where they lie if the files have them in int8.
 *
 * A table of weights, the model's or an adapter's, has its int8 layers here; matrices
 * that an adapter leaves alone are the model's. Weights are equalised before they are
 * rounded, an adapter's by the model's own scales, since its layers share the norms. A
 * model in int8 was equalised by who made it, and Python merges its adapters so. */
#ifndef QE_INT8_WEIGHTS_H
#define QE_INT8_WEIGHTS_H

#include "equalise.h"
#include "layer.h"

/* Of one struct qe_weights. */
struct qe_int8_table {
    const struct qe_weights *weights; /* borrowed: the name by which it is found    */
    const void *embed_tokens;         /* (V, C) bf16, or Q8_0 if embed_in_blocks     */
    bool embed_in_blocks;
    struct qe_cpu_layer *layers; /* (L) owned                                   */
    void *memory;                /* owned: what layers lead to, and is its own  */
    size_t memory_bytes;
    struct qe_int8_table *_Atomic next; /* a pass may look while one is added */
};

struct qe_int8_weights {
    int int8_zero;                   /* as in struct qe_isa                       */
    const struct qe_model *model;    /* borrowed                                   */
    struct qe_equaliser *equalisers; /* (L) owned; all NULL if the model is int8   */
    float *equaliser_floats;         /* owned                                      */
    struct qe_int8_table *tables;    /* owned; the model's is the first            */
    size_t n_bytes;                  /* of all tables                              */
};

/* Rounds the model's matrices unless they are int8, and lets the system take back the
 * pages of those in bf16, which nobody reads any more. On failure *weights can be
 * closed. */
int qe_int8_weights_open(const struct qe_model *model, int int8_zero,
                         struct qe_threads *threads, struct qe_int8_weights *weights,
                         struct qe_error *err);

/* Adds an adapter's table: rounds what is not the model's, on threads of its own, since
 * a pass may be running. The table's matrices are not read afterwards; its vectors are.
 */
int qe_int8_weights_add(struct qe_int8_weights *weights, const struct qe_weights *table,
                        int n_threads, struct qe_error *err);

/* Of a table that was opened or added; NULL if weights is empty. */
const struct qe_int8_table *qe_int8_weights_find(const struct qe_int8_weights *weights,
                                                 const struct qe_weights *table);

/* Accepts a zeroed or half-opened one. */
void qe_int8_weights_close(struct qe_int8_weights *weights);

#endif
