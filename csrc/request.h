/* request.h: the work that one caller asks of the scheduler. */
#ifndef QE_REQUEST_H
#define QE_REQUEST_H

#include <stdbool.h>

#include "backend.h"

/* Sequences back to back, each with one row of out. Already checked. */
struct qe_request {
    int32_t *tokens;     /* (cu_seqlens[n_seqs]) owned, one block with cu_seqlens  */
    int32_t *cu_seqlens; /* (n_seqs + 1) from 0, strictly increasing               */
    int n_seqs;
    enum qe_kind kind;
    const struct qe_weights *weights; /* borrowed until the scheduler is closed   */
    bool waits; /* the caller's next step is qe_job_wait()          */
    int n_out;  /* floats per row                                   */
    float *out; /* (n_seqs, n_out) written until the job is done    */
};

#endif
