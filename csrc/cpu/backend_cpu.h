/* backend_cpu.h: the CPU as a backend. */
#ifndef QE_BACKEND_CPU_H
#define QE_BACKEND_CPU_H

#include "../backend.h"
#include "../model.h"

struct qe_cpu_options {
    const char *isa; /* instruction set; NULL: the best that this machine has      */
    enum qe_compute_dtype dtype; /* QE_BFLOAT16 or QE_INT8                          */
    int n_threads;               /* 0: the cores this process may use               */
    int batch_tokens;            /* 0: chosen                                       */
};

/* model is borrowed and must outlive the backend. */
int qe_backend_cpu_open(const struct qe_model *model,
                        const struct qe_cpu_options *options,
                        struct qe_backend **backend, struct qe_error *err);

#endif
