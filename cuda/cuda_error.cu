/* cuda_error.cu: converts a CUDA status to a struct qe_error. */
#include "cuda_error.h"

int
cuda_fail(struct qe_error *err, cudaError_t status, const char *what)
{
    cudaGetLastError(); /* clears it; else the next launch would report this error */
    if (status == cudaErrorMemoryAllocation) {
        return qe_fail(err, QE_EDEVICEMEM,
                       "device memory ran out in %s: free some, or lower batch_tokens",
                       what);
    }
    return qe_fail(err, QE_EDEVICE, "CUDA: %s (%s) in %s", cudaGetErrorString(status),
                   cudaGetErrorName(status), what);
}
