/* backend.h: the seam between the scheduler and a device.
 *
 * A device is a struct of a few functions; an implementation puts this struct
 * first in its own. The CPU's and CUDA's forward() have the same steps in the
 * same order. */
#ifndef QE_BACKEND_H
#define QE_BACKEND_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "error.h"

#define QE_BACKEND_ABI 3

/* What matrix products read: weights and activations alike. */
enum qe_compute_dtype {
    QE_BFLOAT16,
    QE_FLOAT8, /* e4m3, scaled by row and by channel */
};

enum qe_kind {
    QE_UNIT, /* the row, cut to n_out and divided by its L2 norm */
    QE_RAW,  /* the row as pooled, cut to n_out                  */
};

struct qe_seq {
    const int32_t *tokens; /* (n_tokens) its own, without the prefix's             */
    int32_t n_tokens;      /* at least 1                                           */
    int32_t prefix;        /* index of an earlier sequence of the same batch that
                              this one continues, itself without prefix; or -1     */
    enum qe_kind kind;
    int32_t n_out; /* floats to write: the dim asked for                   */
    float *out;    /* (n_out) host memory; NULL: only a prefix for others  */
};

struct qe_weights; /* model.h */

/* One forward pass: sequences packed back to back, no padding. */
struct qe_batch {
    const struct qe_seq *seqs; /* (n_seqs)                                         */
    int n_seqs;
    int n_tokens;   /* sum of seqs[].n_tokens                           */
    int max_seqlen; /* longest sequence, its prefix included            */
    /* What it multiplies by: the table of the model that the backend was opened on, or
     * an adapter's. All of a batch share it. */
    const struct qe_weights *weights;
    const atomic_int *cancel; /* not 0 once every caller in the batch has gone    */
};

/* Floats that outlive the engine: their owner calls release(rows->data, bytes). */
struct qe_rows {
    float *data; /* 64-byte aligned                                                */
    size_t n_bytes;
    void (*release)(float *data, size_t n_bytes);
};

/* What a device can do at most. */
struct qe_peak {
    double flops;       /* FLOP/s of its best matrix product of bf16               */
    double bytes_per_s; /* of its memory: read by a CPU, copied by a GPU, where a
                           byte counts when read and when written                  */
};

struct qe_backend {
    uint32_t abi, size;  /* QE_BACKEND_ABI, sizeof; checked before all else      */
    const char *name;    /* "cpu", "cuda:0": static or owned by the backend      */
    const char *kernels; /* instruction set or architecture in use               */
    int n_threads;       /* host threads that compute                            */
    int batch_tokens;    /* budget of one forward pass                           */
    int few_tokens;      /* a batch of no more takes so short that the thread that
                            wants it may compute it, deaf to signals meanwhile   */

    /* One call at a time, from any thread. Allocates nothing; has written every row
     * when it returns 0. A row that is not finite is written as NaN. Returns
     * QE_ECANCELLED when *batch->cancel was seen; rows are then undefined. */
    int (*forward)(struct qe_backend *, const struct qe_batch *, struct qe_error *);

    /* Copies an adapter's tensors, those that its table does not leave NULL, before the
     * first batch with that table; a pass may be under way. NULL in a backend that
     * multiplies by weights where they lie; another has copies of all once this, or
     * its opening, is done, and a table is no more than a name to it. */
    int (*add_adapter)(struct qe_backend *, const struct qe_weights *,
                       struct qe_error *);

    int (*alloc_rows)(struct qe_backend *, size_t n_floats, struct qe_rows *,
                      struct qe_error *);

    /* In a forked child, before anything else: makes threads anew over the same
     * weights, or fails with QE_EDEVICE where a device does not survive fork. */
    int (*after_fork)(struct qe_backend *, struct qe_error *);

    /* Measures, on threads and memory of its own, beside whatever runs. */
    int (*measure)(struct qe_backend *, struct qe_peak *, struct qe_error *);

    /* Accepts a half-opened backend. */
    void (*close)(struct qe_backend *);
};

#endif
