/* prefix.h: finds common beginnings of the texts of a batch. */
#ifndef QE_PREFIX_H
#define QE_PREFIX_H

#include "backend.h"

/* The least number of tokens that a shared prefix must save. */
#define QE_PREFIX_MIN_SAVED_TOKENS 256

/* A sequence and its place in the batch, for sorting. */
struct qe_prefix_item {
    const struct qe_seq *seq;
    int index;
};

/* Rewrites the sequences of a batch so that shared beginnings become sequences.
 *
 * seqs (n_seqs) have no prefix. out (n_seqs + n_seqs / 2) receives the prefixes, then
 * the texts in their order, each shortened to its own tokens, at least one. items
 * (n_seqs) is scratch. Returns the number of prefixes. */
int qe_prefix_share(const struct qe_seq *seqs, int n_seqs, struct qe_seq *out,
                    struct qe_prefix_item *items);

#endif
