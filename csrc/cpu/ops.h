/* ops.h: the operations on single rows between the matrix products.
 *
 * Norms, RoPE, softmax and L2 are computed in fp32 and rounded once, to bf16, where a
 * matrix product reads the result. Rows of h and vectors of weights are padded with
 * zeros to a multiple of QE_K_STEP. */
#ifndef QE_OPS_H
#define QE_OPS_H

#include "isa.h"

/* Positions in one key tile. Tiles are cut by position in the text, so that a text's
 * bits do not depend on where it lies in a batch or what prefix it shares. */
#define QE_KEY_TILE 64
/* Queries that are multiplied by a tile together. */
#define QE_QUERY_BLOCK 48

/* The attention of one block of queries, of the heads of one group, to the keys of one
 * text. */
struct qe_attend {
    const qe_bf16 *q; /* (n_rows, n_heads, HS), rows ldq elements apart      */
    qe_bf16 *y;       /* (n_rows, n_heads, HS), rows ldq apart; may be q     */
    size_t ldq;
    int n_heads;
    int n_rows;   /* at most QE_QUERY_BLOCK                              */
    int position; /* of row 0 in the text                                */
    int head_dim;
    const qe_bf16 *prefix_keys; /* tiles before n_prefix, of another sequence   */
    const qe_bf16 *prefix_values;
    int n_prefix;        /* positions there; a multiple of QE_KEY_TILE          */
    const qe_bf16 *keys; /* tiles from n_prefix on, see kv.h                    */
    const qe_bf16 *values;
    int n_keys; /* positions of the text                               */
};

struct qe_softmax_row {
    float max;         /* of the scores so far, times log2(e) / sqrt(HS) */
    float denominator; /* of the probabilities so far                    */
};

/* Floats of scratch per head, and for qe_attend in total. */
#define QE_HEAD_FLOATS(head_dim) (QE_QUERY_BLOCK * ((head_dim) + 2))
#define QE_ATTEND_FLOATS(head_dim, n_heads) \
    ((n_heads)*QE_HEAD_FLOATS(head_dim) +   \
     QE_QUERY_BLOCK * (QE_KEY_TILE + QE_KEY_TILE / 2))

#endif
