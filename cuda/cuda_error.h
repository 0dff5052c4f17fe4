/* cuda_error.h: from a CUDA status to a struct qe_error. */
#ifndef QE_CUDA_ERROR_H
#define QE_CUDA_ERROR_H

#include <cuda_runtime_api.h>

#include "seam.h"

/* Fills err and returns its status: QE_EDEVICEMEM where memory ran out, else
 * QE_EDEVICE. what: the call, as written. */
int cuda_fail(struct qe_error *err, cudaError_t status, const char *what);

/* The one macro that returns: a checked call in a function that returns a status. */
#define CUDA_TRY(err, call)                             \
    if (cudaError_t try_ = (call); try_ != cudaSuccess) \
    return cuda_fail(err, try_, #call)

#endif
