/* int8_weights.h: a model's matrices in int8. They are rounded into memory that this
 * module owns, or used in place if the files contain int8.
 *
 * There is one table for the model and one per adapter; an adapter's table points to
 * the model's matrices where the adapter does not change them. Weights are equalised
 * before rounding. Adapters use the model's equaliser, because their layers share its
 * norms. A model whose files contain int8 was equalised when they were made, and its
 * adapters are merged into weights that are equalised likewise. */
#ifndef QE_INT8_WEIGHTS_H
#define QE_INT8_WEIGHTS_H

#include "equalise.h"
#include "layer.h"

/* The int8 layers of one struct qe_weights. */
struct qe_int8_table {
    const struct qe_weights *weights; /* borrowed: the key to find the table        */
    const void *embed_tokens;         /* (V, C) bf16, or Q8_0 if embed_in_blocks     */
    bool embed_in_blocks;
    struct qe_cpu_layer *layers; /* (L) owned                                   */
    void *memory;                /* owned: matrices and norms of this table     */
    size_t memory_bytes;
    struct qe_int8_table *_Atomic next; /* read by passes while one is added */
};

struct qe_int8_weights {
    int int8_zero;                   /* as in struct qe_isa                       */
    const struct qe_model *model;    /* borrowed                                   */
    struct qe_equaliser *equalisers; /* (L) owned; all NULL if the model is int8   */
    float *equaliser_floats;         /* owned                                      */
    struct qe_int8_table *tables;    /* owned; the model's is first                */
    size_t n_bytes;                  /* of all tables                              */
};

/* Rounds the model's matrices unless they are int8, and releases the pages of the bf16
 * ones, which are not needed any more. After a failure *weights can still be closed. */
int qe_int8_weights_open(const struct qe_model *model, int int8_zero,
                         struct qe_threads *threads, struct qe_int8_weights *weights,
                         struct qe_error *err);

/* Adds an adapter's table and rounds the matrices that differ from the model's. Uses
 * its own threads, because a pass may be running. Afterwards the matrices of *table are
 * not read, but its vectors are. */
int qe_int8_weights_add(struct qe_int8_weights *weights, const struct qe_weights *table,
                        int n_threads, struct qe_error *err);

/* Finds the table for the model's or an added adapter's weights; NULL if there is none.
 */
const struct qe_int8_table *qe_int8_weights_find(const struct qe_int8_weights *weights,
                                                 const struct qe_weights *table);

/* Accepts zeroed or partly opened weights. */
void qe_int8_weights_close(struct qe_int8_weights *weights);

#endif
