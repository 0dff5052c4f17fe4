/* cuda_library.h: libqe_cuda.so, the CUDA backend in a library of its own.
 *
 * Nothing here needs CUDA to compile, to link or to load: the library is opened when a
 * caller first asks for a CUDA device. It exports one table, QE_CUDA_TABLE. */
#ifndef QE_CUDA_LIBRARY_H
#define QE_CUDA_LIBRARY_H

#include "backend.h"
#include "model.h"

#define QE_CUDA_ABI 2
#define QE_CUDA_TABLE "qe_cuda_table"

struct qe_cuda_options {
    int device;       /* index as the driver counts                                */
    int batch_tokens; /* 0: chosen                                                 */
    enum qe_compute_dtype dtype;
    const char *cache_folder; /* where GEMM plans are kept; NULL: nowhere          */
};

struct qe_cuda_device {
    char name[128];   /* "NVIDIA H200"             */
    int major, minor; /* compute capability      */
    size_t memory_bytes;
};

struct qe_cuda_table {
    uint32_t abi, size; /* QE_CUDA_ABI, sizeof; checked before all else            */

    /* Copies the weights to the device: the model may be closed afterwards. On failure
     * *backend is NULL. */
    int (*open)(const struct qe_cuda_options *options, const struct qe_model *model,
                struct qe_backend **backend, struct qe_error *err);

    /* Describes the first max_devices; returns how many there are, at least one, or
     * fails with QE_EDEVICE. */
    int (*list_devices)(struct qe_cuda_device *devices, int max_devices,
                        struct qe_error *err);
};

/* Where the two libraries may lie. */
struct qe_cuda_paths {
    const char *library;       /* libqe_cuda.so; NULL: this build has none         */
    const char *cublas_folder; /* of libcublasLt.so; NULL: the system's            */
};

/* Loads the libraries, if this process has not yet. Fails with QE_EDEVICE and one
 * sentence that says what is missing. */
int qe_cuda_library_load(const struct qe_cuda_paths *paths,
                         const struct qe_cuda_table **table, struct qe_error *err);

#endif
