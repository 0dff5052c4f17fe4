/* backend_cuda.h: the backend of one GPU. */
#ifndef QE_BACKEND_CUDA_H
#define QE_BACKEND_CUDA_H

#include "seam.h"

/* See struct qe_cuda_table, for options with one device. */
int backend_cuda_open(const struct qe_cuda_options *options,
                      const struct qe_model *model, struct qe_backend **backend,
                      struct qe_error *err);

#endif
