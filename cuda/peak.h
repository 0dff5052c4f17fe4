/* peak.h: what a GPU can do at most, measured. */
#ifndef QE_CUDA_PEAK_H
#define QE_CUDA_PEAK_H

#include "seam.h"

/* On a stream and 1 GiB of its own, beside whatever runs. */
int peak_measure(int device, struct qe_peak *peak, struct qe_error *err);

#endif
