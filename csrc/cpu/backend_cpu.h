/* backend_cpu.h: the CPU as a backend. */
#ifndef QE_BACKEND_CPU_H
#define QE_BACKEND_CPU_H

#include "../backend.h"
#include "../model.h"

/* model is borrowed and must outlive the backend. isa_name NULL: the best that this
 * machine has. n_threads 0: the cores this process may use. batch_tokens 0: chosen. */
int qe_backend_cpu_open(const struct qe_model *model, const char *isa_name,
                        int n_threads, int batch_tokens, struct qe_backend **backend,
                        struct qe_error *err);

#endif
