/* peak.h: measured limits of a GPU. */
#ifndef QE_CUDA_PEAK_H
#define QE_CUDA_PEAK_H

#include "seam.h"

/* Uses a stream and 1 GiB of its own; a pass may be running. */
int peak_measure(int device, struct qe_peak *peak, struct qe_error *err);

#endif
