/* prefix.h: finds the beginnings that texts of one batch share. */
#ifndef QE_PREFIX_H
#define QE_PREFIX_H

#include "backend.h"

/* A group of texts is worth a shared prefix when it saves this many tokens. */
#define QE_PREFIX_MIN_SAVED_TOKENS 256

/* A sequence and its place in the batch, for sorting. */
struct qe_prefix_item {
    const struct qe_seq *seq;
    int index;
};

/* Rewrites a batch's sequences so that shared beginnings are sequences of their own.
 *
 * seqs (n_seqs) have no prefix. out (n_seqs + n_seqs / 2) receives the prefixes, then
 * the texts in their order, each shortened to its own tokens, at least one. items
 * (n_seqs) is scratch. Returns how many prefixes there are. */
int qe_prefix_share(const struct qe_seq *seqs, int n_seqs, struct qe_seq *out,
                    struct qe_prefix_item *items);

#endif
