/* cuda_error.h: converts a CUDA status to a struct qe_error. */
#ifndef QE_CUDA_ERROR_H
#define QE_CUDA_ERROR_H

#include <cuda_runtime_api.h>

#include "seam.h"

/* Fills err and returns its status: QE_EDEVICEMEM if memory ran out, else QE_EDEVICE.
 * what: the failed call. */
int cuda_fail(struct qe_error *err, cudaError_t status, const char *what);

/* Returns from a function with a status if the call fails; no other macro returns. */
#define CUDA_TRY(err, call)                             \
    if (cudaError_t try_ = (call); try_ != cudaSuccess) \
    return cuda_fail(err, try_, #call)

#endif
