/* prefetch.h: a thread that maps the pages of weights before the first forward pass
 * reads them.
 *
 * It is only a hint: if a thread or the kernel's help is not available, pages are
 * mapped when they are first read. */
#ifndef QE_PREFETCH_H
#define QE_PREFETCH_H

#include <stddef.h>

struct qe_range {
    const unsigned char *start; /* (n_bytes) in a mapping that outlives the prefetch  */
    size_t n_bytes;
};

struct qe_prefetch;

/* Goes through ranges (n_ranges) in order. Takes ranges, from malloc or NULL, and frees
 * it. Returns NULL where it can't. */
struct qe_prefetch *qe_prefetch_open(struct qe_range *ranges, size_t n_ranges);

/* Stops the thread, after the piece it is at. Accepts NULL, and works in a forked
 * child, where the thread is not. */
void qe_prefetch_close(struct qe_prefetch *prefetch);

#endif
