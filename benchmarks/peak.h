/* peak.h: what the machine can do at most, measured on the engine's own threads. */
#ifndef QE_PEAK_H
#define QE_PEAK_H

#include "../csrc/cpu/threads.h"

#include <stddef.h>

/* FLOP/s of the instruction set's matrix instruction on registers alone, over all
 * threads; of a multiply and an add of 4 floats for "portable". */
double qe_peak_flops(struct qe_threads *threads, const char *isa);

/* Bytes/s of reading all of data (n_bytes) once, over all threads. */
double qe_read_bandwidth(struct qe_threads *threads, const unsigned char *data,
                         size_t n_bytes);

#endif
