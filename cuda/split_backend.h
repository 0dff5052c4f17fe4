/* split_backend.h: the backend of one model whose layers are on several GPUs. */
#ifndef QE_SPLIT_BACKEND_H
#define QE_SPLIT_BACKEND_H

#include "seam.h"

/* See struct qe_cuda_table, for options with several devices. */
int split_backend_open(const struct qe_cuda_options *options,
                       const struct qe_model *model, struct qe_backend **backend,
                       struct qe_error *err);

#endif
