/* stream.cu: opens streams, and asks the device which code it has loaded. */
#include "stream.h"

/* All kernels of the library are compiled for the same architectures, so this kernel's
 * code is of the same kind as that of all others. */
static __global__ void
probe_kernel(void)
{
}

cudaError_t
stream_open(struct stream *stream)
{
    cudaFuncAttributes code;
    cudaError_t status = cudaFuncGetAttributes(&code, probe_kernel);

    if (status == cudaSuccess) {
        stream->overlaps = code_waits(code.ptxVersion);
        status = cudaStreamCreateWithFlags(&stream->handle, cudaStreamNonBlocking);
    }
    return status;
}

void
stream_close(struct stream *stream)
{
    if (stream->handle != NULL) {
        cudaStreamDestroy(stream->handle);
    }
    *stream = {};
}
