/* backend.h: the interface between the scheduler and a device.
 *
 * A device is a struct of a few function pointers; an implementation puts this struct
 * first in its own. forward() has the same steps in the same order on every device:
 *
 *     embed, then for each layer (run_layer): input norm, q, k and v, their norms and
 *     RoPE, attention, o, post-attention norm, gate and up, SwiGLU, down; then pool
 *
 * In its last layer, which computes queries for last tokens only, the order differs:
 * the CPU keeps the normed rows of those tokens, while CUDA keeps their rows of h and
 * applies the input norm to these a second time. */
#ifndef QE_BACKEND_H
#define QE_BACKEND_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "error.h"

#define QE_BACKEND_ABI 6
#define QE_NOTE_BYTES 384

/* The types of the operands of matrix products: weights and activations. */
enum qe_compute_dtype {
    QE_BFLOAT16,
    QE_FLOAT8, /* e4m3, scaled by row and by channel                                 */
    QE_INT8,   /* weights scaled by row, activations by token in groups of 128       */
    QE_INT8_WEIGHTS, /* weights scaled by row; activations in bf16                   */
};

/* Where a GPU's engine keeps the table of token embeddings. */
enum qe_embedding {
    QE_EMBEDDING_AUTO,   /* on the device, unless only the rest fits there           */
    QE_EMBEDDING_DEVICE, /* in its memory                                            */
    QE_EMBEDDING_HOST,   /* in pinned host memory, read over PCIe                    */
};

enum qe_kind {
    QE_UNIT, /* the pooled row, cut to n_out and divided by its L2 norm */
    QE_RAW,  /* the pooled row, cut to n_out                            */
};

struct qe_seq {
    const int32_t *tokens; /* (n_tokens) without those of the prefix               */
    int32_t n_tokens;      /* at least 1                                           */
    int32_t prefix;        /* index of the earlier sequence of this batch that this
                              one continues, which has no prefix itself; or -1     */
    enum qe_kind kind;
    int32_t n_out; /* floats to write: the requested dim                   */
    float *out;    /* (n_out) host memory; NULL: a prefix without output   */
};

struct qe_weights; /* model.h */

/* One forward pass: sequences packed back to back, no padding. */
struct qe_batch {
    const struct qe_seq *seqs; /* (n_seqs)                                         */
    int n_seqs;
    int n_tokens;   /* sum of seqs[].n_tokens                           */
    int max_seqlen; /* longest sequence, its prefix included            */
    const struct qe_weights *weights; /* of the backend's model, or of an adapter   */
    const atomic_int *cancel; /* not 0 once every caller of the batch has left    */
};

/* Measured limits of a device. */
struct qe_peak {
    double flops;       /* FLOP/s of its fastest matrix product in bf16, or in int8
                           if the backend computes in that                         */
    double bytes_per_s; /* memory bandwidth: of reading on a CPU; of copying on a
                           GPU, counting bytes read and bytes written              */
};

struct qe_backend {
    uint32_t abi, size;       /* QE_BACKEND_ABI and sizeof, checked before any other  */
    const char *name;         /* "cpu", "cuda:0": static or owned by the backend      */
    const char *kernels;      /* instruction set or architecture in use               */
    int n_threads;            /* host threads that compute                            */
    int batch_tokens;         /* budget of one forward pass                           */
    int few_tokens;           /* batches up to this size are short enough to run on the
                                 calling thread, which cannot handle signals then    */
    char note[QE_NOTE_BYTES]; /* "", or why forward() is slower than it should be:
                                 sentences of open() and forward(); the latter adds
                                 at most one                                         */
    bool is_int8;             /* multiplies int8, not bf16                            */
    bool keeps_model;         /* reads the model's weights after opening, too         */
    size_t weight_bytes;      /* of weights in host memory of its own                 */

    /* One call at a time, from any thread. Allocates no host memory. Has written every
     * row when it returns 0; a row that is not finite is written as NaN. Returns
     * QE_ECANCELLED if it saw *batch->cancel set; rows are then undefined. */
    int (*forward)(struct qe_backend *, const struct qe_batch *, struct qe_error *);

    /* Copies the tensors this adapter replaces: those that are neither NULL in its
     * table nor the model's.
     * Must be called before the first batch that uses the table; a pass may be
     * running. NULL if the backend reads weights in place; otherwise a table only
     * identifies weights that the backend has already. */
    int (*add_adapter)(struct qe_backend *, const struct qe_weights *,
                       struct qe_error *);

    /* Called first in a forked child: starts new threads over the same weights, or
     * fails with QE_EDEVICE if the device does not survive fork(). */
    int (*after_fork)(struct qe_backend *, struct qe_error *);

    /* Measures with threads and memory of its own; a pass may be running. */
    int (*measure)(struct qe_backend *, struct qe_peak *, struct qe_error *);

    /* Accepts a half-opened backend. */
    void (*close)(struct qe_backend *);
};

#endif
