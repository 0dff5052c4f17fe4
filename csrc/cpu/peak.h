/* peak.h: measured limits of the machine. */
#ifndef QE_PEAK_H
#define QE_PEAK_H

#include "../backend.h"

/* The CPU backend's measure(), of which it needs only kernels, n_threads and is_int8:
 * FLOP/s of the instruction set's matrix instruction for bf16, or for int8, on
 * registers alone, or of a multiply and an add of 4 floats for "portable"; and bytes/s
 * of reading 1 GiB. Takes two seconds. */
int qe_peak_measure(struct qe_backend *backend, struct qe_peak *peak,
                    struct qe_error *err);

#endif
