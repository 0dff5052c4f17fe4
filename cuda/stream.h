/* stream.h: a CUDA stream, and how kernels on it begin. */
#ifndef QE_STREAM_H
#define QE_STREAM_H

#include <cuda_runtime_api.h>

struct stream {
    cudaStream_t handle; /* owned */
    /* Blocks of a kernel may start while the kernel before it ends (programmatic
     * dependent launch): the kernels of this library, as the device has loaded them,
     * wait for their predecessors themselves. */
    bool overlaps;
};

/* Kernels wait (griddepcontrol.wait) if their PTX was made for compute capability 9.0
 * or later; code that the driver makes from older PTX does not, on any device. */
static inline bool
code_waits(int ptx_version)
{
    return ptx_version >= 90;
}

/* Creates a non-blocking stream on the current device. */
cudaError_t stream_open(struct stream *stream);

/* Accepts a zeroed stream. */
void stream_close(struct stream *stream);

#endif
