/* kv.h: keys and values of one layer, laid out as panels for attention.
 *
 * A text's storage, for one kv head, begins at the key tile in which its own tokens
 * begin and is padded with zeros to a multiple of QE_K_STEP positions:
 *
 *   keys    (n / 16, HS / P, 16, P)           position | P dims
 *   values  per tile of up to 64 positions:
 *           (HS / 16, positions / P, 16, P)   dim | P positions
 *
 * where P is the instruction set's panel_columns.
 *
 * Where a text continues a prefix in the middle of a tile, the prefix's positions of
 * that tile are copied to the front of its own storage. */
#ifndef QE_KV_H
#define QE_KV_H

#include "isa.h"

/* The place of one sequence's keys and values. */
struct qe_kv_span {
    size_t offset; /* of head 0, in elements; head i lies i * n_stored * HS further */
    int first; /* text position of the first stored key, a multiple of QE_KEY_TILE  */
    int n_copied; /* positions copied from the prefix, before the own ones */
    int n_keys; /* positions of the text                                             */
    int n_stored;      /* positions stored, padding included */
    int panel_columns; /* as in struct qe_isa */
};

/* The span of a sequence of n_tokens own tokens after n_prefix. The caller sets
 * offset. */
struct qe_kv_span qe_kv_span(int n_prefix, int n_tokens, int panel_columns);

/* keys, values: one head's storage of the span. key, value (HS) go to text position. */
void qe_kv_store(qe_bf16 *keys, qe_bf16 *values, const struct qe_kv_span *span,
                 int position, const qe_bf16 *key, const qe_bf16 *value, int head_dim);

/* Zeroes the padding after the last position. */
void qe_kv_pad(qe_bf16 *keys, qe_bf16 *values, const struct qe_kv_span *span,
               int head_dim);

/* Copies the positions [span->first, span->first + n_copied) from the prefix's storage.
 */
void qe_kv_copy(qe_bf16 *keys, qe_bf16 *values, const struct qe_kv_span *span,
                const qe_bf16 *prefix_keys, const qe_bf16 *prefix_values,
                const struct qe_kv_span *prefix, int head_dim);

#endif
