/* peak.h: what the machine can do at most, measured. */
#ifndef QE_PEAK_H
#define QE_PEAK_H

#include "../backend.h"

/* For n_threads threads of their own: FLOP/s of the instruction set's matrix
 * instruction on registers alone, or of a multiply and an add of 4 floats for
 * "portable"; and bytes/s of reading 1 GiB. Takes two seconds. */
int qe_peak_measure(const char *isa, int n_threads, struct qe_peak *peak,
                    struct qe_error *err);

#endif
